"""``landuse demo`` as a user runs it. Oracles: the truth and the clouds of its simulation, cell by cell."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.windows import Window, from_bounds
from scipy.ndimage import distance_transform_edt

import landuse
from landuse.classes import EUROSAT_NAMES
from landuse.workflows.demo.run_demo import MAJORITY_PERCENT
from tests.commands import spawn

UNUSABLE_SCL = (0, 1, 3, 8, 9, 10, 11)
"""Nodata, defective, shadow, three kinds of cloud, snow: Sentinel-2's L2A product definition."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo's folder and what it printed, in a process of its own."""
    out = tmp_path_factory.mktemp("demo") / "out"
    # Whoever asks the network gets a refusal.
    done = spawn("demo", "--out", out, http_proxy="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1")
    assert done.code == 0, done.err
    return out, done.out


def cells_of(out):
    """Each cell of the map: its class, and its window in the truth's pixels, cut at the truth's edge."""
    with rasterio.open(out / "map" / "landuse.tif") as mapped, rasterio.open(out / "truth.tif") as truth:
        classes = mapped.read(1)
        whole = Window(0, 0, truth.width, truth.height)
        assert mapped.crs == truth.crs
        for row in range(mapped.height):
            for col in range(mapped.width):
                left, top = mapped.transform @ (col, row)
                right, bottom = mapped.transform @ (col + 1, row + 1)
                window = from_bounds(left, bottom, right, top, truth.transform).intersection(whole)
                yield int(classes[row, col]), window.round_offsets().round_lengths()


def test_the_map_agrees_with_the_truth(shown):
    """The printed agreement, counted again pixel by pixel."""
    out, printed = shown
    with rasterio.open(out / "truth.tif") as file:
        truth = file.read(1)
    counts = Counter()
    for mapped, window in cells_of(out):
        if mapped == 255:
            continue
        found = Counter(truth[window.toslices()].ravel().tolist())
        major, pixels = found.most_common(1)[0]
        if pixels * 100 < MAJORITY_PERCENT * found.total():
            counts["mixed"] += 1
        else:
            counts["cells"] += 1
            counts["agreeing"] += mapped == major
    stated = re.search(
        r"agrees with the truth in (\d+) of (\d+) cells \(([\d.]+) %\).* (\d+) mixed cells do not count",
        printed,
    )
    # Not to the cell: GDAL's average of a cell that the truth's edge cuts is off by a few pixels.
    assert int(stated[1]) == pytest.approx(counts["agreeing"], rel=0.005)
    assert int(stated[2]) == pytest.approx(counts["cells"], rel=0.005)
    assert int(stated[2]) + int(stated[4]) == counts["cells"] + counts["mixed"]
    percent = 100 * counts["agreeing"] / counts["cells"]
    assert float(stated[3]) == pytest.approx(percent, abs=0.5)
    assert counts["cells"] > 300
    assert percent >= 75


def test_clouds_of_both_dates_are_no_class_and_one_date_fills_the_other(shown):
    out, _ = shown
    items = sorted(
        pystac.Catalog.from_file(str(out / "catalog" / "catalog.json")).get_items(),
        key=lambda item: item.datetime,
    )
    assert len({item.datetime.date() for item in items}) == 2
    unusable = []
    for item in items:
        with rasterio.open(item.assets["SCL"].get_absolute_href()) as file:
            scl = file.read(1)
        unusable.append(np.isin(scl, UNUSABLE_SCL).repeat(2, 0).repeat(2, 1))  # 20 m to 10 m
    first, second = unusable
    # Clouds grow by 100 m: what is further away than that is clear for certain.
    near_first, near_second = (distance_transform_edt(~mask, sampling=10) < 110 for mask in unusable)
    seen = Counter()
    for mapped, window in cells_of(out):
        area = window.toslices()
        if (first & second)[area].all():
            assert mapped == 255
            seen["both"] += 1
        elif not (near_first & near_second)[area].any():
            assert mapped != 255
            seen["first alone"] += bool(second[area].any())
            seen["second alone"] += bool(first[area].any())
    assert min(seen["first alone"], seen["second alone"]) > 0
    assert (first & second).any()
    run = json.loads((out / "map" / "run.json").read_text())
    assert {scene["id"] for scene in run["scenes"]} == {item.id for item in items}


def test_the_files_that_it_names_are_there(shown):
    out, printed = shown
    named = [Path(path) for path in re.findall(r"^(?:wrote|truth) +(\S+)", printed, re.M)]
    assert {path.name for path in named} >= {"landuse.tif", "confidence.tif", "landuse.gpkg", "truth.tif"}
    assert all(path.is_file() for path in named)
    assert {path.name for path in out.iterdir()} == {"catalog", "truth.tif", "map"}
    names = [name for name in EUROSAT_NAMES if re.search(rf"^{name} ", printed, re.M)]
    assert len(names) >= 5


def test_a_second_demo_asks_first_and_comes_out_the_same(run, shown):
    out, printed = shown
    before = {path: path.read_bytes() for path in (out / "map").iterdir()}
    again = run("demo", "--out", out)
    assert again.code == 2
    assert "--overwrite" in again.error
    assert {path: path.read_bytes() for path in (out / "map").iterdir()} == before

    again = run("demo", "--out", out, "--overwrite")
    assert again.code == 0, again.err
    sizes = re.compile(r"  \(.*\)$", re.M)  # run.json holds times
    assert sizes.sub("", again.out) == sizes.sub("", printed)
    for name in ("landuse.tif", "confidence.tif"):
        path = out / "map" / name
        assert path.read_bytes() == before[path]


def test_the_map_opens_as_a_dataset_that_equals_rasterios_reading(shown):
    folder = shown[0] / "map"
    with landuse.open_map(folder) as ds:
        for name, file in (("class", "landuse.tif"), ("status", "status.tif")):
            with rasterio.open(folder / file) as opened:
                np.testing.assert_array_equal(ds[name], opened.read(1))
                assert ds[name].odc.geobox.affine == opened.transform
        with rasterio.open(folder / "confidence.tif") as opened:
            confidence = opened.read(1, masked=True) * np.float32(opened.scales[0])
        np.testing.assert_allclose(ds["confidence"], confidence.filled(np.nan), rtol=1e-6)
        report = json.loads((folder / "run.json").read_text())
        areas = dict(
            zip(ds["class"].attrs["flag_meanings"].split(), ds["class"].attrs["area_ha"], strict=True)
        )
        assert {entry["name"]: entry["area_ha"] for entry in report["classes"]} == {
            name: area for name, area in areas.items() if area
        }
