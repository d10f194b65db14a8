"""How long ``landuse --help`` takes, beside a Python that does nothing. Run by ``make bench``."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 9
LIMIT_RATIO = 12.0


def median_s(command: list[str]) -> float:
    """Median wall time of a command after one warm-up."""
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


if __name__ == "__main__":
    landuse_s = median_s([str(Path(sys.executable).with_name("landuse")), "--help"])
    python_s = median_s([sys.executable, "-c", ""])
    ratio = landuse_s / python_s
    print(f"landuse --help {landuse_s:.3f} s, python -c '' {python_s:.3f} s, ratio {ratio:.1f}")
    sys.exit(
        f"landuse --help takes {ratio:.1f} x python -c '', above {LIMIT_RATIO:g}"
        if ratio > LIMIT_RATIO
        else 0
    )
