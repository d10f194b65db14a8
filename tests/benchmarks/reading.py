"""Reading a remote scene block by block: ours against the obvious loop over GDAL's network layer.

Both read the same windows of three bands from a server on loopback that takes 20, 50 or 200 ms to answer, as
one in the same region, across a country and across an ocean does: COGs as most services have them, or with
``--jpeg2000`` files as ESA delivers them. Each way runs in a process of its own, since GDAL keeps what it
has read, by turns. Ours reads as a map run does, the next blocks on their way while one is taken. Not in the
times is what a process imports first. Quoted are the medians of the seconds and of the ratios in a round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from landuse.pipeline.pixels import pixel_block
from landuse.pipeline.read.read_scene import read_scene
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.scene import BandAsset, Scene
from landuse.workflows.mapping.in_process import READERS, read_ahead
from tests.faults import Storage, serving

BANDS = ("B02", "B03", "B04")
SIDE_PX, BLOCK_PX, CONTEXT_PX = 4096, 1024, 56
LEFT, TOP = 400_000, 5_400_000
LATENCIES_S = (0.02, 0.05, 0.2)
VSICURL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32000",
    "VSI_CACHE": "TRUE",
}
"""What the field recommends for COGs."""
JPEG2000 = {
    "driver": "JP2OpenJPEG",
    "QUALITY": "100",
    "REVERSIBLE": "YES",
    "BLOCKXSIZE": 1024,
    "BLOCKYSIZE": 1024,
}
COG = {"driver": "COG", "blocksize": 512, "compress": "deflate"}


def windows(side_px: int) -> list[tuple[int, int, int, int]]:
    """(row, col, row stop, col stop) of each block with the context that a patch needs."""
    starts = range(0, side_px, BLOCK_PX)
    return [
        (max(r - CONTEXT_PX, 0), max(c - CONTEXT_PX, 0), min(r + BLOCK_PX + CONTEXT_PX, side_px),
         min(c + BLOCK_PX + CONTEXT_PX, side_px))
        for r in starts for c in starts
    ]  # fmt: skip


def obvious(url: str, suffix: str, side_px: int) -> int:
    """rasterio, band after band, window after window."""
    total = 0
    with rasterio.Env(**VSICURL):
        for row, col, row_stop, col_stop in windows(side_px):
            for band in BANDS:
                with rasterio.open(f"{url}/{band}{suffix}") as source:
                    total += int(source.read(1, window=((row, row_stop), (col, col_stop))).sum())
    return total


def ours(url: str, suffix: str, side_px: int) -> int:
    """``read_scene`` as a map run calls it."""
    corners = ((9.0, 48.0), (10.0, 48.0), (10.0, 49.0), (9.0, 48.0))
    scene = Scene(
        id="bench", provider="bench", acquired_utc=datetime(2024, 6, 1, tzinfo=UTC), level="L2A",
        baseline="03.00", cloud_percent=None, footprint=(corners,), crs="EPSG:32633", bounds_m=None,
        assets=tuple(BandAsset(band=band, href=f"{url}/{band}{suffix}") for band in BANDS),
    )  # fmt: skip
    total = 0
    with Remote() as remote, remote.readers(READERS) as pool:

        def read(window: tuple[int, int, int, int]) -> int:
            row, col, row_stop, col_stop = window
            affine = Affine(10, 0, LEFT + col * 10, 0, -10, TOP - row * 10)
            grid = GeoBox((row_stop - row, col_stop - col), affine, "EPSG:32633")
            return int(read_scene(scene, BANDS, grid, remote).dn.values.sum(dtype=np.int64))

        for _, of_block in read_ahead(windows(side_px), read, pool):
            total += of_block
    return total


def import_all() -> None:
    """Have a process import what both ways import at the first pixel."""
    grid = GeoBox((1, 1), Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32633")
    one = np.ones((1, 1), np.bool_)
    pixel_block(np.ones((1, 1, 1), np.uint16), one, one, bands=("B02",), geobox=grid)


def write_bands(folder: Path, suffix: str, side_px: int) -> None:
    """Three bands of fields and noise."""
    rng = np.random.default_rng(0)
    kind = COG if suffix == ".tif" else JPEG2000
    for band in BANDS:
        smooth = rng.normal(1500, 200, (side_px // 16, side_px // 16)).repeat(16, 0).repeat(16, 1)
        values = (smooth + rng.normal(0, 30, smooth.shape)).clip(1, 9000).astype(np.uint16)
        with rasterio.open(
            folder / f"{band}{suffix}", "w", dtype="uint16", count=1, height=side_px, width=side_px,
            crs="EPSG:32633", transform=Affine(10, 0, LEFT, 0, -10, TOP), nodata=0, **kind,
        ) as target:  # fmt: skip
            target.write(values, 1)


def one_round(
    folder: Path, suffix: str, side_px: int, latency_s: float, *, turned: bool
) -> dict[str, dict[str, float]]:
    """What each way took: seconds, requests and bytes."""
    took: dict[str, dict[str, float]] = {}
    sums = set()
    for way in ("ours", "obvious") if turned else ("obvious", "ours"):
        with serving(Storage(root=folder, latency_s=latency_s)) as storage:
            command = [sys.executable, "-m", "tests.benchmarks.reading", "--side-px", str(side_px)]
            done = subprocess.run(
                [*command, "--way", way, storage.url, suffix], capture_output=True, text=True, check=True
            )
            answer = json.loads(done.stdout)
            sums.add(answer["sum"])
            took[way] = {
                "seconds": answer["seconds"],
                "requests": len(storage.asked),
                "bytes": sum(one.sent for one in storage.asked),
                "twice": sum(storage.refetched().values()),
            }
    if len(sums) != 1:
        raise SystemExit(f"the two read different pixels: {sums}")
    return took


def main() -> None:
    """Print both times and their ratio, requests and bytes, for each latency."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jpeg2000", action="store_true")
    parser.add_argument("--latencies", type=float, nargs="+", default=LATENCIES_S, help="in seconds")
    parser.add_argument("--side-px", type=int, default=SIDE_PX)
    parser.add_argument("--way", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        way, *where = given.way
        import_all()
        began = time.perf_counter()
        total = {"ours": ours, "obvious": obvious}[way](*where, given.side_px)
        print(json.dumps({"sum": total, "seconds": time.perf_counter() - began}))
        return
    suffix = ".jp2" if given.jpeg2000 else ".tif"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bands(folder, suffix, given.side_px)
        held = sum(path.stat().st_size for path in folder.glob(f"*{suffix}"))
        for latency_s in given.latencies:
            rounds = [
                one_round(folder, suffix, given.side_px, latency_s, turned=index % 2 == 1)
                for index in range(given.rounds)
            ]
            print(f"{suffix[1:]} files, {latency_s * 1000:.0f} ms a request, {given.rounds} rounds")
            for way in rounds[0]:
                seconds, requests, sent, twice = (
                    median(one[way][key] for one in rounds)
                    for key in ("seconds", "requests", "bytes", "twice")
                )
                print(
                    f"  {way:8} {seconds:6.2f} s  {requests:4.0f} requests  {sent / 1e6:6.1f} MB "
                    f"({sent / held:.2f} x the files, {twice / 1e6:.1f} MB twice)"
                )
            ratios = [one["obvious"]["seconds"] / one["ours"]["seconds"] for one in rounds]
            print(f"  ours is {median(ratios):.1f} x as fast ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
