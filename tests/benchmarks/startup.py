"""How long ``landuse --help`` takes, beside a Python that does nothing. Run by ``make bench``."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15
LIMIT_RATIO = 12.0


def seconds(command: list[str]) -> float:
    """Seconds of the clock that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    commands = ([str(Path(sys.executable).with_name("landuse")), "--help"], [sys.executable, "-c", ""])
    rounds = [[seconds(command) for command in commands] for _ in range(RUNS + 1)][1:]  # the first warms up
    landuse_s, python_s = (statistics.median(took) for took in zip(*rounds, strict=True))
    ratio = statistics.median(ours / bare for ours, bare in rounds)
    print(f"landuse --help {landuse_s:.3f} s, python -c '' {python_s:.3f} s, ratio {ratio:.1f}")
    sys.exit(
        f"landuse --help takes {ratio:.1f} x python -c '', above {LIMIT_RATIO:g}"
        if ratio > LIMIT_RATIO
        else 0
    )
