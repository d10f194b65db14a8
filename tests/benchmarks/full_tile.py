"""What a whole Sentinel-2 tile costs, end to end, beside the network alone.

``python -m tests.benchmarks.full_tile`` lays mirror images of the simulated landscape out to a tile of
10,980 px a side, in a GeoTIFF of red, green, blue and near infrared, and has ``landuse map`` make the map of
it in a process of its own: once all of it, with polygons and the page, and once ``--rasters-only``. Then
another process has the network alone run over blocks of the same sizes, their surroundings included, as
often as the map needed it. Processor seconds of each are quoted beside those of the clock, since others' work
on the machine disturbs them less, and the peak of the memory that the process held, as the kernel records it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from landuse.pipeline.blocks.plan import BLOCK_PX
from landuse.workflows.demo.run_demo import DEMO_CRS, make_demo_catalog

BANDS = ("B04", "B03", "B02", "B08")
TILE_PX = 10_980
LANDUSE = (sys.executable, "-m", "landuse")
LEFT_M, TOP_M = 499_980, 5_400_000
"""A corner of tiles."""
STRIP_PX = 512

NETWORK = """
import json, sys, time
import numpy as np
import torch
from landuse.model.memory import reused_memory
from landuse.model.predict import full_float32
from landuse.model.predict_pixels import PixelPredictor
model, sizes, bands, precision = sys.argv[1:]
sizes, bands = json.loads(sizes), tuple(bands.split(","))
predictor = PixelPredictor.load(model, "cpu", precision)
rng = np.random.default_rng(0)
with torch.inference_mode(), full_float32(), reused_memory():
    for rows, cols, times in sizes:
        dn = rng.integers(300, 3000, (len(bands), rows, cols)).astype(np.uint16)
        x, present = predictor._input(dn, bands, "L2A")
        for _ in range(times):
            predictor.dense_features(x, present)
"""


def write_tile(folder: Path, side_px: int) -> Path:
    """A tile of the simulated landscape's mirror images; stored as ESA does, with 1000 added."""
    catalog = make_demo_catalog(folder / "demo")
    bands = []
    for name in BANDS:
        found = sorted((folder / "demo" / "catalog").rglob(f"*{name}*.tif"))
        if not found:
            raise SystemExit(f"{catalog.catalog} has no raster of {name}.")
        with rasterio.open(found[0]) as file:
            bands.append(file.read(1))
    square = np.stack(bands)
    mirrored = np.concatenate([square, square[:, :, ::-1]], axis=2)
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], axis=1)
    repeats = -(-side_px // mirrored.shape[2])
    path = folder / "tile.tif"
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint16", count=len(BANDS), height=side_px, width=side_px,
        crs=DEMO_CRS, transform=Affine(10, 0, LEFT_M, 0, -10, TOP_M), nodata=0, tiled=True,
        blockxsize=512, blockysize=512, compress="deflate", zlevel=1,
    ) as file:  # fmt: skip
        for top in range(0, side_px, STRIP_PX):
            rows = np.arange(top, min(top + STRIP_PX, side_px)) % mirrored.shape[1]
            strip = np.tile(mirrored[:, rows], (1, 1, repeats))[:, :, :side_px]
            file.write(strip, window=Window(0, top, side_px, len(rows)))
        file.descriptions = BANDS
    return path


def run(command: list[str]) -> tuple[dict[str, float], str]:
    """Seconds of the clock, of the processor, and the peak of the memory of a command, and its stdout."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, encoding="utf-8")
    stdout = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:6])} ... ended with {process.returncode}.")
    spent = used.ru_utime + used.ru_stime
    took = {"wall_s": time.perf_counter() - began, "cpu_s": spent, "peak_gb": used.ru_maxrss / 2**20}
    return took, stdout


def block_sizes(side_px: int, block_px: int) -> list[tuple[int, int, int]]:
    """Rows and columns of the blocks with their surroundings, and how many there are of each size."""
    from landuse.pipeline.blocks.context import axis_context

    counts: dict[tuple[int, int], int] = {}
    spans = []
    for start in range(0, side_px, block_px):
        own = (start, min(start + block_px, side_px))
        span = axis_context(own, data_px=(0, side_px), step_px=8, origin_px=0)
        if span is not None:
            spans.append(-(-(span[1] - span[0]) // 8) * 8)
    for rows in spans:
        for cols in spans:
            counts[rows, cols] = counts.get((rows, cols), 0) + 1
    return [(rows, cols, times) for (rows, cols), times in counts.items()]


def catalogued(tile: Path, folder: Path) -> Path:
    """The catalogue of a tile, made in ``folder``: its ``catalog.json``."""
    stated = ["--level", "L2A", "--datetime", "2024-06-01T10:00:00Z", "--baseline", "05.10"]
    run([*LANDUSE, "catalog", str(tile), *stated, "--out", str(folder)])
    return folder / "catalog.json"


def main() -> None:
    """Print all three and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="balanced-pixel")
    parser.add_argument("--side-px", type=int, default=TILE_PX, help="side of the tile, a multiple of 8")
    parser.add_argument("--block-px", type=int, default=BLOCK_PX)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tile = write_tile(folder, given.side_px)
        catalog = catalogued(tile, folder / "catalog")
        out = folder / "map"
        command = [*LANDUSE, "map", "--source", str(catalog), "--model", given.model, "--quiet"]
        command += ["--block-px", str(given.block_px), "--out"]
        whole, _ = run([*command, str(out)])
        rasters, _ = run([*command, str(folder / "rasters"), "--rasters-only"])
        disk_mb = {path.name: path.stat().st_size / 1e6 for path in sorted(out.iterdir()) if path.is_file()}
        sizes = block_sizes(given.side_px, given.block_px)
        network, _ = run(
            [sys.executable, "-c", NETWORK, given.model, json.dumps(sizes), ",".join(BANDS), "fp32"]
        )
    read_px = sum(rows * cols * times for rows, cols, times in sizes)
    print(f"tile of {given.side_px} px, blocks of {given.block_px} px, bands {', '.join(BANDS)}")
    print(f"{'':18} clock s  processor s  peak GB")
    for title, took in (("all files", whole), ("rasters only", rasters), ("the network alone", network)):
        print(f"{title:18} {took['wall_s']:7.0f} {took['cpu_s']:12.0f} {took['peak_gb']:8.2f}")
    for title, took in (("all to network", whole), ("rasters to network", rasters)):
        ratios = {key: took[key] / network[key] for key in ("wall_s", "cpu_s")}
        print(f"{title:18} {ratios['wall_s']:7.2f} {ratios['cpu_s']:12.2f}")
    print(f"with their surroundings blocks have {read_px / given.side_px**2:.3f} of the tile's pixels")
    print("MB:", ", ".join(f"{name} {size:.1f}" for name, size in disk_mb.items() if size > 0.1))
    if given.json:
        told = {
            "map": whole,
            "rasters": rasters,
            "network": network,
            "read": read_px / given.side_px**2,
            "mb": disk_mb,
        }
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
