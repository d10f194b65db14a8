"""A map's memory does not grow with its area. Oracle: the kernel's record of the process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.workflows.patch_models import save_patch_model
from tests.workflows.pixel_models import save_pixel_model
from tests.workflows.small_maps import catalog_of

MAP = """
import json, re, sys
from pathlib import Path
from landuse.model import memory
from landuse.workflows.mapping.map_area import load_classifier, map_area
from landuse.workflows.mapping.request import MapRequest
source, out, model, stride_px, freed = sys.argv[1:]
if freed == "given back":
    memory._glibc = lambda: None
report = map_area(
    MapRequest(source=source, area=None, dates=None, out=Path(out), stride_px=int(stride_px) or None,
               block_px=192, probabilities=True),
    load_classifier(model, "cpu"),
)
# Of this program alone: ``ru_maxrss`` also knows what the process held that started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"peak_mb": peak / 1024, "cells": report.cover.cells, "blocks": len(report.plan.blocks)}))
"""


def tile(tmp_path, rows, cols):
    """A landscape of blobs, as intricate everywhere."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(300, 3000, (3, rows // 32, cols // 32))
    values = coarse.repeat(32, 1).repeat(32, 2) + rng.integers(0, 200, (3, rows, cols))
    path = tmp_path / f"tile{rows}x{cols}.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=rows,
        width=cols,
        count=3,
        dtype="uint16",
        crs="EPSG:32633",
        transform=Affine(10, 0, 512_000, 0, -10, 5_312_000),
        nodata=0,
        tiled=True,
    ) as file:
        file.write(values.astype(np.uint16))
        file.descriptions = ("B04", "B03", "B02")
    return catalog_of(tmp_path, path, name=f"catalog{rows}x{cols}")


STEADY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "1"}
"""Where the run does not keep freed memory for its next use, it goes back to the system at once: else the
peaks of two equal runs differ by up to 70 MB."""


@pytest.mark.slow
@pytest.mark.parametrize(("save", "stride_px"), [(save_pixel_model, 0), (save_patch_model, 64)])
def test_twice_the_area_takes_no_more_memory(tmp_path, save, stride_px):
    """By small models: what a block's pixels take in the network does not depend on the area.

    What a run keeps for its next use is measured apart: it differs by up to 45 MB between equal runs.
    """
    peaks = []
    model = save(tmp_path / "model.safetensors")
    # The smaller one has a block in its midst, with surroundings on all sides, as most blocks of the larger.
    rows, sources = 576, {cols: tile(tmp_path, 576, cols) for cols in (576, 1152)}
    runs = [(576, "given back"), (1152, "given back")]
    if save is save_pixel_model:
        runs.append((1152, "kept"))
    for cols, freed in runs:
        source, out = sources[cols], tmp_path / f"map{len(peaks)}"
        done = subprocess.run(
            [sys.executable, "-c", MAP, source, str(out), str(model), str(stride_px), freed],
            capture_output=True,
            encoding="utf-8",
            timeout=600,
            check=False,
            env=os.environ | STEADY,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["blocks"] >= (rows // 192) * (cols // 192)
        peaks.append(told["peak_mb"])
    assert max(peaks) < 3000
    assert peaks[1] - peaks[0] < 60, peaks
    # Each of the blocks makes some 140 MB that the next uses again: were it not, gigabytes would be kept.
    assert peaks[-1] - peaks[0] < 150, peaks
