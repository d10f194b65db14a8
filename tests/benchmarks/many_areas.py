"""Whether a night over many areas keeps its memory.

``python -m tests.benchmarks.many_areas`` has ``landuse nightly`` map 500 small areas of a simulated catalogue
in one process, by a model that costs nothing, and prints the memory that the process held after every 50
areas (what the kernel counts as resident, once the allocator has given back what is free), and the peak.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.servers import write_items
from tests.workflows.nightly import world


def resident_mb() -> float:
    """Megabytes that this process holds."""
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("This system does not tell the memory of a process as Linux does.")


def prepare(folder: Path, count: int) -> Path:
    """The config of a night with so many areas, of 2 x 2 cells each, over a scene."""
    world.write_scene(folder / "scene", world.land(1))
    source = write_items(folder / "items.json", [world.scene_item(1, str(folder / "scene"))])
    side = world.CELLS - 1
    areas = {
        f"area-{number:04d}": (world.Block(number // side % side, number % side, 2, 2), {})
        for number in range(count)
    }
    return world.write_config(folder / "config.json", areas=areas, source=str(source), look_back_days=3)


def night(config: Path, every: int) -> list[float]:
    """Run it, and tell the megabytes that this process held after each so many maps."""
    held: list[float] = []
    maps = 0

    def tell(area: str, line: str) -> None:
        nonlocal maps
        if " mapped of " in line:
            maps += 1
            if maps % every == 0:
                held.append(resident_mb())

    report = world.run_here(config, world.night(1), tell=tell)
    if report.exit_code:
        raise SystemExit(f"The night failed: {json.dumps(report.to_dict())[:2000]}")
    return held


def main() -> None:
    """Print the memory after every so many areas."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--areas", type=int, default=500)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.config is not None:
        held = night(given.config, given.every)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"held_mb": held, "peak_mb": peak}))
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        config = prepare(Path(name), given.areas)
        told = measured(config, given.every)
    for number, held in enumerate(told["held_mb"], 1):
        print(f"{number * given.every:5} areas  {held:6.0f} MB held")
    seconds = time.monotonic() - began
    print(f"{given.areas} areas in {seconds:.0f} s; {told['peak_mb']:.0f} MB at the peak")


def measured(config: Path, every: int) -> dict:
    """What ``night`` tells of a process of its own, and that process' peak in megabytes."""
    command = [sys.executable, "-m", "tests.benchmarks.many_areas", "--config", config, "--every", str(every)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=world.ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"The night failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
