"""Every example runs as a user would run it: in its own process, from another folder, offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL_PX = 96


def run(example, *options, cwd):
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, *map(str, options)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        timeout=300,
        # Whoever asks the network gets a refusal.
        env=os.environ | {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here():
    source = Path(__file__).read_text("utf-8")
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert names
    assert [name for name in names if f'"{name}"' not in source] == []


@pytest.mark.slow
def test_map_own_imagery(tmp_path):
    """The catalogue that it makes of the demo's bands, cut to a corner and given back as own files."""
    from landuse.workflows.demo import make_demo_catalog

    demo = make_demo_catalog(tmp_path / "demo")
    rasters = []
    for band in ("B02", "B03", "B04"):
        rasters.append(tmp_path / f"{band}.tif")
        with rasterio.open(demo.catalog.parent / demo.item_ids[0] / f"{band}.tif") as cog:
            profile = cog.profile | {"driver": "GTiff", "height": SMALL_PX, "width": SMALL_PX}
            with rasterio.open(rasters[-1], "w", **profile) as target:
                target.write(cog.read(window=((0, SMALL_PX), (0, SMALL_PX))))
    shown = run("map_own_imagery.py", *rasters, "--out", "own", cwd=tmp_path)
    with rasterio.open(tmp_path / "own" / "map" / "landuse.tif") as file:
        classes = file.read(1)
    report = json.loads((tmp_path / "own" / "map" / "run.json").read_text())
    assert report["cover"]["valid"] > 0.9
    assert f"{report['cover']['valid']:.1%} of {classes.size} cells classified" in shown
    for entry in report["classes"]:
        assert entry["cells"] == np.count_nonzero(classes == entry["id"])
        assert f"{entry['name']:22} {entry['area_m2'] / 1e6:8.2f} km2" in shown


@pytest.mark.slow
def test_map_own_imagery_without_own_imagery(tmp_path):
    shown = run("map_own_imagery.py", "--out", "own", "--bbox", small_bbox(), cwd=tmp_path)
    assert "cells classified" in shown
    assert (tmp_path / "own" / "map" / "landuse.gpkg").is_file()
    run("preview.py", Path("own") / "map", "picture.png", cwd=tmp_path)
    with rasterio.open(tmp_path / "own" / "map" / "landuse.tif") as file:
        palette = file.colormap(1)
        expected = {palette[value][:3] for value in np.unique(file.read(1)).tolist()}
    with Image.open(tmp_path / "picture.png") as picture:
        pixels = np.asarray(picture)
    half = (pixels.shape[1] - 12) // 2
    image, land = pixels[:-56, :half], pixels[:-56, -half:]  # above the legend
    assert {tuple(color) for color in np.unique(land.reshape(-1, 3), axis=0).tolist()} == expected
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50  # not a blank


def small_bbox():
    """A corner of the demo's landscape of about 1 x 1 km."""
    from rasterio.warp import transform_bounds

    from landuse.workflows.demo import DEMO_CRS, DEMO_LEFT_M, DEMO_TOP_M

    edges = (DEMO_LEFT_M + 500, DEMO_TOP_M - 1500, DEMO_LEFT_M + 1500, DEMO_TOP_M - 500)
    return ",".join(f"{edge:.6f}" for edge in transform_bounds(DEMO_CRS, "EPSG:4326", *edges))
