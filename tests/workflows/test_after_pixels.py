"""What follows on a map of pixels: change, a sample and its areas, and the nightly run.

Oracle: a rule of each pixel alone, computed on the rasters' own values; scipy's labels.
"""

import json
from datetime import UTC, datetime

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml
from scipy import ndimage

from landuse.pipeline.maps.sampling import SampleDesign
from landuse.workflows.accuracy import assess_map, draw_sample
from landuse.workflows.change import ChangeRequest, compare_maps
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.nightly.config import load_config
from landuse.workflows.nightly.run import Night, run_nightly
from tests.workflows.pixel_models import RedPixels, red_pixels
from tests.workflows.small_maps import catalog_of, read, red_raster, request

DAYS = ("2024-06-01", "2024-06-04")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two days of dark land: on the second a square of 9 x 9 px is glaring, and single pixels are."""
    folder = tmp_path_factory.mktemp("scenes")
    before = np.full((80, 96), 1000, np.uint16)
    after = before.copy()
    after[20:29, 30:39] = 9900
    after[50:70:5, 10:90:7] = 9900
    sources = []
    for day, values in zip(DAYS, (before, after), strict=True):
        raster = red_raster(folder / f"{day}.tif", values)
        sources.append(catalog_of(folder, raster, acquired=f"{day}T10:00:00+00:00", name=day))
    return folder, sources, (before, after)


@pytest.fixture(scope="module")
def maps(scenes):
    folder, sources, _ = scenes
    made = [
        map_area(request(folder, source, out=folder / f"map-{day}", probabilities=True), RedPixels())
        for day, source in zip(DAYS, sources, strict=True)
    ]
    return [report.out for report in made]


def test_single_pixels_that_differ_are_no_change(maps, tmp_path):
    report = compare_maps(ChangeRequest(before=maps[0], after=maps[1], threshold=0.3, out=tmp_path / "half"))
    differs = read(maps[0] / "landuse.tif") != read(maps[1] / "landuse.tif")
    parts, count = ndimage.label(differs)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    change = read(tmp_path / "half" / "change.tif")
    assert np.array_equal(change != 0, (sizes >= 50)[parts])
    assert (change != 0).sum() == 81
    assert report.cover.too_small == sizes[(sizes > 0) & (sizes < 50)].sum()
    assert report.to_dict()["min_patch_ha"] == 0.5
    every = compare_maps(
        ChangeRequest(before=maps[0], after=maps[1], threshold=0.3, min_patch_ha=0, out=tmp_path / "all")
    )
    assert np.array_equal(read(tmp_path / "all" / "change.tif") != 0, differs)
    assert every.cover.too_small == 0


def test_a_sample_of_a_map_of_pixels_gives_its_areas(maps, tmp_path):
    points = tmp_path / "points.gpkg"
    draw_sample(maps[1], SampleDesign(per_class=20), points, seed=1, overwrite=False)
    frame = gpd.read_file(points, layer="samples")
    with rasterio.open(maps[1] / "landuse.tif") as file:
        names = json.loads(file.tags()["classes"])
        ids = [value[0] for value in file.sample([(p.x, p.y) for p in frame.to_crs(file.crs).geometry])]
        cells = np.bincount(file.read(1).ravel(), minlength=256)[:3]
    frame["reference"] = [names[i] for i in ids]
    labelled = tmp_path / "labelled.gpkg"
    frame.to_file(labelled, layer="samples")
    report = assess_map(maps[1], labelled, layer=None, column="reference")
    assert report.accuracy.overall.value == 1
    for index in report.present:
        assert report.area_ha(index).value == pytest.approx(cells[index] * 0.01)


def nightly(tmp_path, source, **settings):
    values = {
        "out": "out", "source": source, "model": "red", "change": {"threshold": 0.3},
        "areas": [{"name": "fields", "bbox": settings.pop("bbox")}], **settings,
    }  # fmt: skip
    config = tmp_path / "nightly.yaml"
    config.write_text(yaml.safe_dump(values))
    night = Night(now_utc=datetime(2024, 6, 10, tzinfo=UTC), load=red_pixels)
    return run_nightly(load_config(config), night)


def bbox_of(folder):
    item = json.loads((folder / "item.json").read_text())
    west, south, east, north = item["bbox"]
    inset = 1e-4
    return [west + inset, south + inset, east - inset, north - inset]


def test_nightly_maps_pixels_and_what_changed(scenes, maps, tmp_path):
    folder, _, (before, after) = scenes
    both = folder / "both"
    for day, values in zip(DAYS, (before, after), strict=True):
        raster = red_raster(folder / f"again-{day}.tif", values)
        source = catalog_of(folder, raster, acquired=f"{day}T10:00:00+00:00", name=both.name)
    report = nightly(tmp_path, source, bbox=bbox_of(maps[0]))
    (area,) = report.areas
    assert area.error == ""
    assert [period.state for period in area.periods] == ["mapped", "mapped"]
    # Nobody looked for clouds, so that what moved is not published as change.
    assert len(list((tmp_path / "out" / "fields" / "changes").glob("*/not-compared.json"))) == 1
    assert not list((tmp_path / "out" / "fields" / "changes").glob("*/change.tif"))
    assert (area.changes, len(area.not_compared)) == ((), 1)
    items = list((tmp_path / "out" / "fields").glob("*/item.json"))
    assert all("cover" in json.loads(path.read_text())["assets"] for path in items)
    again = nightly(tmp_path, source, bbox=bbox_of(maps[0]), cell_m=20.0)
    assert [period.state for period in again.areas[0].periods] == ["mapped", "mapped"]  # another recipe


def test_nightly_refuses_what_the_model_has_no_use_for(scenes, maps, tmp_path):
    _, sources, _ = scenes
    report = nightly(tmp_path, sources[0], bbox=bbox_of(maps[0]), stride_px=16)
    assert "--cell-m" in report.areas[0].error
