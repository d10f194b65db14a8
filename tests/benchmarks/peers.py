"""``landuse map`` beside other ways to have a network classify each pixel of a scene.

``python -m tests.benchmarks.peers --install /tmp/peers`` makes an environment of its own with torchgeo,
odc-stac and geoai, and times them there; ``--python`` names one that is there. On the same pixels (mirror
images of the simulated landscape, four bands), with the same weights and the same margin around windows, it
runs by turns:

* torchgeo's ``GridGeoSampler`` with a ``DataLoader``,
* ``odc.stac.load`` and a loop over windows,
* geoai's ``predict_geotiff``, where it installs,
* a loop over windows that rasterio reads,
* ``landuse map``, which also writes confidence, cover, doubt, polygons and the page.

Each is a process of its own that has imported everything; what is timed begins with opening the scene and
ends with the raster on disk. Windows are as large as ``--window-px`` says: larger than users of these
libraries take as a rule, since that is faster. Printed are medians with the least and the greatest, of the
clock and of the processor, megapixels a second, and the share of cells that are as ``landuse map`` has them.
``--plot`` draws them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from tests.benchmarks.full_tile import write_tile
from tests.benchmarks.peers_worker import WAYS

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "torchgeo": ("torchgeo", "odc-stac", "safetensors"),
    "odc-stac": ("odc-stac", "safetensors"),
    "geoai": ("geoai-py",),
}
INSTALL_S = 600
"""Seconds that a package may take to install."""
CORNER_M = 480_000, 5_400_000
"""Of the scene: multiples of the network's step of 80 m, on which all ways then lay their windows."""


class Asked:
    """A way in a process of its own."""

    def __init__(self, python: Path, name: str, folder: Path, window: int) -> None:
        command = [python, ROOT / "tests" / "benchmarks" / "peers_worker.py", name, folder, str(window)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.reason = "" if self.process.stdout.readline().strip() == "ready" else self._failure()

    def run(self, path: Path) -> dict[str, float]:
        """Seconds of one run, which writes the class raster to a path."""
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{path.stem} failed: {self._failure()}")
        return json.loads(answer)

    def _failure(self) -> str:
        self.process.kill()
        self.process.wait()
        lines = self.log.read_text().strip().splitlines() or ["it said nothing"]
        return lines[-1][:120]

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def install(folder: Path) -> Path:
    """The Python of a new environment with all peers that install in time."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    for name, packages in PACKAGES.items():
        try:
            subprocess.run([*pip, "torch", *packages], check=True, timeout=INSTALL_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{name} was not installed: {type(error).__name__}", flush=True)
    return python


def scene(folder: Path, side_px: int) -> None:
    """The scene as a GeoTIFF of all bands, and as a catalogue of one COG a band."""
    tile = write_tile(folder, side_px)
    with rasterio.open(tile, "r+") as file:
        file.transform = Affine(10, 0, CORNER_M[0], 0, -10, CORNER_M[1])
    tile.rename(folder / "scene.tif")
    shutil.rmtree(folder / "demo")
    stated = ["--level", "L2A", "--datetime", "2024-06-01T10:00:00Z", "--baseline", "05.10"]
    command = [sys.executable, "-m", "landuse", "catalog", folder / "scene.tif", *stated]
    subprocess.run([*command, "--out", folder / "catalog", "--json"], check=True, stdout=subprocess.DEVNULL)


def classes_of(path: Path) -> np.ndarray:
    """A class raster (y, x)."""
    with rasterio.open(path) as file:
        return file.read(1)


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):6.1f} ({min(values):.1f} to {max(values):.1f})"


def plot(path: Path, told: dict[str, dict], megapixels: float) -> None:
    """Processor seconds a megapixel of each way, a dot a round and a line at the median."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.5 * len(told) + 1), layout="constrained")
    axes = figure.add_subplot()
    for place, values in enumerate(reversed(told.values())):
        seconds = [value / megapixels for value in values["processor_seconds"]]
        axes.plot(seconds, [place] * len(seconds), "o", color="#1f6f8b", alpha=0.6)
        axes.vlines(statistics.median(seconds), place - 0.3, place + 0.3, color="#c0392b")
    axes.set_yticks(range(len(told)), list(reversed(told)))
    axes.set_xlim(left=0)
    axes.set_xlabel("processor seconds a megapixel (line: median of the rounds)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print a table, and draw it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, help="of an environment that has the peers")
    parser.add_argument("--install", type=Path, help="folder in which to make such an environment")
    parser.add_argument("--side-px", type=int, default=2048)
    parser.add_argument("--window-px", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--plot", type=Path, help="also draw the figures to this PNG")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    began = time.monotonic()
    python = install(given.install) if given.install else given.python
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        scene(folder, given.side_px)
        asked = {}
        for way in given.ways.split(","):
            own = way in ("landuse", "rasterio")
            if not own and python is None:
                print(f"{way:10} was left out: give --python or --install")
                continue
            one = Asked(Path(sys.executable) if own else python, way, folder, given.window_px)
            if one.reason:
                print(f"{way:10} was left out: {one.reason}")
            else:
                asked[way] = stack.enter_context(one)
        told = {way: {"seconds": [], "processor_seconds": []} for way in asked}
        for number in range(given.rounds + 1):  # the first warms up
            for way, one in asked.items():
                seconds = one.run(folder / f"{way}.tif")
                for kind, value in seconds.items():
                    if number:
                        told[way][kind].append(value)
        reference = classes_of(folder / "landuse.tif") if "landuse" in asked else None
        megapixels = given.side_px**2 / 1e6
        for way, values in told.items():
            found = classes_of(folder / f"{way}.tif")
            values["equal"] = None if reference is None else float((found == reference).mean())
            speed = megapixels / statistics.median(values["processor_seconds"])
            equal = "" if reference is None else f"  {values['equal']:.4f} of the cells equal"
            print(
                f"{way:10} {spread(values['seconds'])} s of the clock  "
                f"{spread(values['processor_seconds'])} s of the processor  {speed:.3f} MP/s{equal}"
            )
    load, threads = os.getloadavg()[0], len(os.sched_getaffinity(0))
    print(
        f"{given.side_px} px a side, windows of {given.window_px} px, {given.rounds} rounds by turns, "
        f"{threads} threads, load of the machine {load:.1f}; {time.monotonic() - began:.0f} s in all"
    )
    if given.plot:
        plot(given.plot, told, megapixels)
    if given.json:
        given.json.write_text(json.dumps({"load": load, "ways": told}, indent=1))


if __name__ == "__main__":
    main()
