"""What ``landuse map --dry-run`` foresees beside what the run then takes: time, memory, disk, traffic.

``python -m tests.benchmarks.foreseen`` lays mirror images of the simulated landscape out to scenes of several
sizes, has a dry run calibrate the machine once, and for each size has a dry run foresee the map and then
makes it, each in a process of its own. ``--remote`` serves the scenes by HTTP from loopback, which adds
traffic. ``--processor-seconds`` has processor seconds stand for those of the clock in all these processes: on
a machine where others work, and one core (``taskset -c 0``), they are what the clock would show on a quiet
one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from tests.benchmarks.full_tile import write_tile
from tests.servers import file_server

CLOCK = "from landuse.cli import app; app()"
PROCESSOR = "import time; time.monotonic = time.perf_counter = time.process_time; " + CLOCK


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder that changes meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512 if path.is_file() else 0
        except OSError:
            continue
    return total


def run(code: str, cache: Path, *arguments: str, watched: Path | None = None) -> tuple[dict, float, int]:
    """What a command says as JSON, the peak of its memory in bytes, and the most that a folder held."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    held, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal held
        while watched is not None and not ended.wait(0.1):
            held = max(held, size_of(watched))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, encoding="utf-8", env=environment
    )
    stdout = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    ended.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"landuse {' '.join(arguments[:6])} ended with {process.returncode}.")
    return json.loads(stdout), used.ru_maxrss * 1024, held


def main() -> None:
    """Print a table of foreseen and true figures, and the ratio of each pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="balanced-pixel")
    parser.add_argument("--sides-px", default="1024,2048,4096", help="sides of the scenes")
    parser.add_argument("--block-px", type=int, help="side of blocks; default: that of the model")
    parser.add_argument("--remote", action="store_true")
    parser.add_argument("--processor-seconds", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    code = PROCESSOR if given.processor_seconds else CLOCK
    told = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache"
        for side in map(int, given.sides_px.split(",")):
            place = folder / str(side)
            place.mkdir()
            tile = write_tile(place, side)
            stated = ["--level", "L2A", "--datetime", "2024-06-01T10:00:00Z", "--baseline", "05.10"]
            run(code, cache, "catalog", str(tile), *stated, "--out", str(place / "catalog"), "--json")
            shutil.rmtree(place / "demo")
            tile.unlink()
            with file_server(place / "catalog") if given.remote else nullcontext() as served:
                source = str(place / "catalog" / "catalog.json")
                options = ["--model", given.model, "--json", "--quiet"]
                if served is not None:
                    source = f"{served.url}/catalog.json"
                    options.append("--allow-private-hosts")
                if given.block_px is not None:
                    options += ["--block-px", str(given.block_px)]
                mapped = ["map", "--source", source, "--out", str(place / "map"), *options]
                if not told:
                    began = time.monotonic()
                    run(code, cache, *mapped, "--dry-run", "--calibrate")
                    print(f"calibrated in {time.monotonic() - began:.0f} s of the clock")
                foreseen, _, _ = run(code, cache, *mapped, "--dry-run")
                took, peak, disk = run(code, cache, *mapped, watched=place / "map")
            soon, late = foreseen["seconds"]
            pairs = {
                "time s": ((soon + late) / 2, sum(took["seconds"].values())),
                "memory GB": (foreseen["memory_bytes"] / 1e9, peak / 1e9),
                "disk MB": (foreseen["disk_about_bytes"][0] / 1e6, disk / 1e6),
            }
            if given.remote:
                pairs["traffic MB"] = (
                    foreseen["read_bytes"][0] / 1e6,
                    took["traffic"]["fetched_bytes"] / 1e6,
                )
            for what, (expected, true) in pairs.items():
                ratio = expected / true
                print(f"{side:6} px  {what:10} foreseen {expected:8.2f}  took {true:8.2f}  {ratio:5.2f}")
            print(f"{side:6} px  {took['seconds']}", flush=True)
            told.append({"side_px": side, **{what: list(pair) for what, pair in pairs.items()}})
            shutil.rmtree(place)
    if given.json:
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
