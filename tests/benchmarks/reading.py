"""Reading a remote scene block by block: ours against the obvious loop over GDAL's network layer.

Both read the same windows of three COGs from a server on loopback that takes 50 ms to answer, as one
across a country does. Each way runs in a process of its own, since GDAL keeps what it has read; times
differ from machine to machine, their ratio hardly.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from landuse.pipeline.read.read_scene import read_scene
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.scene import BandAsset, Scene

# Run as a script, its folder is on the path and the project's root is not.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.faults import Storage, serving  # found by the line above

BANDS = ("B02", "B03", "B04")
SIZE_PX, BLOCK_PX, CONTEXT_PX = 4096, 1024, 56
LEFT, TOP = 400_000, 5_400_000
LATENCY_S = 0.05
VSICURL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32000",
    "VSI_CACHE": "TRUE",
}
"""What the field recommends for COGs."""


def windows() -> list[tuple[int, int, int, int]]:
    """(row, col, row stop, col stop) of each block with the context that a patch needs."""
    starts = range(0, SIZE_PX, BLOCK_PX)
    return [
        (max(r - CONTEXT_PX, 0), max(c - CONTEXT_PX, 0), min(r + BLOCK_PX + CONTEXT_PX, SIZE_PX),
         min(c + BLOCK_PX + CONTEXT_PX, SIZE_PX))
        for r in starts for c in starts
    ]  # fmt: skip


def obvious(url: str) -> int:
    """rasterio, band after band, window after window."""
    total = 0
    with rasterio.Env(**VSICURL):
        for row, col, row_stop, col_stop in windows():
            for band in BANDS:
                with rasterio.open(f"{url}/{band}.tif") as source:
                    total += int(source.read(1, window=((row, row_stop), (col, col_stop))).sum())
    return total


def ours(url: str) -> int:
    """``read_scene`` as a map run calls it."""
    corners = ((9.0, 48.0), (10.0, 48.0), (10.0, 49.0), (9.0, 48.0))
    scene = Scene(
        id="bench", provider="bench", acquired_utc=datetime(2024, 6, 1, tzinfo=UTC), level="L2A",
        baseline="03.00", cloud_percent=None, footprint=(corners,), crs="EPSG:32633", bounds_m=None,
        assets=tuple(BandAsset(band=band, href=f"{url}/{band}.tif") for band in BANDS),
    )  # fmt: skip
    total = 0
    with Remote() as remote:
        for row, col, row_stop, col_stop in windows():
            affine = Affine(10, 0, LEFT + col * 10, 0, -10, TOP - row * 10)
            grid = GeoBox((row_stop - row, col_stop - col), affine, "EPSG:32633")
            total += int(read_scene(scene, BANDS, grid, remote).dn.values.sum(dtype=np.int64))
    return total


def main() -> None:
    """Print both times and their ratio, requests and bytes."""
    if len(sys.argv) == 3:
        began = time.perf_counter()
        total = {"ours": ours, "obvious": obvious}[sys.argv[1]](sys.argv[2])
        print(json.dumps({"sum": total, "seconds": time.perf_counter() - began}))
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for band in BANDS:
            smooth = rng.normal(1500, 200, (SIZE_PX // 16, SIZE_PX // 16)).repeat(16, 0).repeat(16, 1)
            values = (smooth + rng.normal(0, 30, smooth.shape)).clip(1, 9000).astype(np.uint16)
            with rasterio.open(
                Path(folder) / f"{band}.tif", "w", driver="COG", dtype="uint16", count=1, height=SIZE_PX,
                width=SIZE_PX, crs="EPSG:32633", transform=Affine(10, 0, LEFT, 0, -10, TOP), nodata=0,
                blocksize=512, compress="deflate",
            ) as target:  # fmt: skip
                target.write(values, 1)
        held = sum(path.stat().st_size for path in Path(folder).iterdir())
        results, sums = {}, set()
        for way in ("obvious", "ours"):
            with serving(Storage(root=Path(folder), latency_s=LATENCY_S)) as storage:
                done = subprocess.run(
                    [sys.executable, __file__, way, storage.url], capture_output=True, text=True, check=True
                )
            answer = json.loads(done.stdout)
            sums.add(answer["sum"])
            sent = sum(one.sent for one in storage.asked)
            results[way] = seconds = answer["seconds"]
            print(
                f"{way:8} {seconds:6.1f} s  {len(storage.asked):4} requests  {sent / 1e6:6.1f} MB "
                f"({sent / held:.2f} x the files, {sum(storage.refetched().values()) / 1e6:.1f} MB twice)"
            )
    if len(sums) != 1:
        raise SystemExit(f"the two read different pixels: {sums}")
    print(f"ratio    {results['obvious'] / results['ours']:.1f}")


if __name__ == "__main__":
    main()
