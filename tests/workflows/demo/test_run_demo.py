"""``landuse demo`` as a user runs it. Oracles: the truth and the clouds of its simulation, pixel by pixel."""

import json
import re
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.windows import from_bounds
from scipy.ndimage import distance_transform_edt

import landuse
from landuse.classes import LAND_COVER_NAMES, LAND_USE_NAMES
from landuse.workflows.demo.agreement import MAJORITY_PERCENT
from tests.commands import spawn

UNUSABLE_SCL = (0, 1, 3, 8, 9, 10, 11)
"""Nodata, defective, shadow, three kinds of cloud, snow: Sentinel-2's L2A product definition."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo's folder and what it printed, in a process of its own."""
    out = tmp_path_factory.mktemp("demo") / "out"
    # Whoever asks the network gets a refusal.
    nobody = "http://127.0.0.1:1"
    done = spawn("demo", "--out", out, cold=True, http_proxy=nobody, https_proxy=nobody)
    assert done.code == 0, done.err
    return out, done.out


@pytest.fixture(scope="module")
def shown_by_patches(tmp_path_factory):
    """The same with a model that classifies patches."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = spawn("demo", "--out", out, "--model", "balanced-fast-rgb", "--stride-px", "32")
    assert done.code == 0, done.err
    return out, done.out


def cells_of(path, truth_path):
    """A map's cells ``(row, col)``, and the truth in each, ``(row, col, pixel)``; -1 beyond its edge."""
    with rasterio.open(path) as mapped, rasterio.open(truth_path) as truth:
        assert mapped.crs == truth.crs
        side = round(mapped.transform.a / truth.transform.a)
        left, top = ~truth.transform @ (mapped.transform.c, mapped.transform.f)
        rows, cols = (
            np.arange(n * side) + round(start) for n, start in zip(mapped.shape, (top, left), strict=True)
        )
        ids = truth.read(1).astype(int)
        known = ((rows >= 0) & (rows < truth.height))[:, None] & ((cols >= 0) & (cols < truth.width))
        inside = np.ix_(rows.clip(0, truth.height - 1), cols.clip(0, truth.width - 1))
        fine = np.where(known, ids[inside], -1)
        cells = fine.reshape(mapped.height, side, mapped.width, side).swapaxes(1, 2)
        return mapped.read(1), cells.reshape(*mapped.shape, -1)


def counted(path, truth_path, classes):
    """Of each class the cells that count and those that agree, and how many mapped cells do not count."""
    mapped, pixels = cells_of(path, truth_path)
    of_class = np.stack([(pixels == k).sum(-1) for k in range(classes)])
    counts = (of_class.max(0) * 100 >= MAJORITY_PERCENT * (pixels >= 0).sum(-1)) & (mapped != 255)
    major = of_class.argmax(0)
    cells = [int((counts & (major == k)).sum()) for k in range(classes)]
    agree = [int((counts & (major == k) & (mapped == k)).sum()) for k in range(classes)]
    return cells, agree, int(((mapped != 255) & ~counts).sum())


def stated(printed, what):
    """What the demo says of land use or of land cover: cells and recall by class, and the closing figures."""
    table = re.search(rf"^true {what} .*\n((?:\w+ +\d+ +[\d.]+%\n)+){what} agrees with (.*)$", printed, re.M)
    rows = {name: (int(n), float(p)) for name, n, p in re.findall(r"(\w+) +(\d+) +([\d.]+)%", table[1])}
    figures = re.fullmatch(
        r"the truth in (\d+) of (\d+) cells \(([\d.]+) %\), mean of the classes ([\d.]+) %; "
        r"(\d+) cells do not count: no known class fills 60 %",
        table[2],
    )
    return rows, [float(value) for value in figures.groups()]


@pytest.mark.parametrize(
    ("what", "raster", "truth", "names"),
    [
        ("land use", "landuse.tif", "truth.tif", LAND_USE_NAMES),
        ("land cover", "cover.tif", "truth-cover.tif", LAND_COVER_NAMES),
    ],
)
def test_the_agreement_of_pixels_is_that_counted_again(shown, what, raster, truth, names):
    out, printed = shown
    cells, agree, uncounted = counted(out / "map" / raster, out / truth, len(names))
    rows, figures = stated(printed, what)
    recalls = {name: 100 * a / n for name, n, a in zip(names, cells, agree, strict=True) if n}
    assert {name: n for name, n in zip(names, cells, strict=True) if n} == {k: v[0] for k, v in rows.items()}
    assert {k: v[1] for k, v in rows.items()} == pytest.approx(recalls, abs=0.051)
    percent, mean = 100 * sum(agree) / sum(cells), np.mean(list(recalls.values()))
    assert figures == pytest.approx([sum(agree), sum(cells), percent, mean, uncounted], abs=0.051)
    assert sum(cells) > 200_000
    assert "The landscape is simulated" in printed
    assert percent >= 60


def test_the_agreement_of_patches_is_that_counted_again(shown_by_patches):
    out, printed = shown_by_patches
    cells, agree, uncounted = counted(out / "map" / "landuse.tif", out / "truth.tif", len(LAND_USE_NAMES))
    _, figures = stated(printed, "land use")
    # Not to the cell: GDAL's average of a cell that the truth's edge cuts is off by a few pixels.
    assert figures[0] == pytest.approx(sum(agree), rel=0.01)
    assert figures[1] == pytest.approx(sum(cells), rel=0.01)
    assert figures[1] + figures[4] == sum(cells) + uncounted
    assert sum(cells) > 150
    assert figures[2] >= 40
    assert "land cover" not in printed


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
    with rasterio.open(out / "map" / "landuse.tif") as mapped, rasterio.open(out / "truth.tif") as truth:
        window = from_bounds(*mapped.bounds, truth.transform).round_offsets().round_lengths()
        has_class = mapped.read(1) != 255
    area = window.toslices()
    assert not has_class[(first & second)[area]].any()
    assert has_class[~(near_first & near_second)[area]].all()
    assert all(mask.any() for mask in (first & second, first & ~near_second, second & ~near_first))
    run = json.loads((out / "map" / "run.json").read_text())
    assert {scene["id"] for scene in run["scenes"]} == {item.id for item in items}


def test_the_files_that_it_names_are_there(shown):
    out, printed = shown
    named = [Path(path) for path in re.findall(r"^(?:wrote|truth) +(\S+)", printed, re.M)]
    expected = {"landuse.tif", "cover.tif", "confidence.tif", "landuse.gpkg", "truth.tif", "truth-cover.tif"}
    assert {path.name for path in named} >= expected
    assert all(path.is_file() for path in named)
    truths = {f"{name}.tif{suffix}" for name in ("truth", "truth-cover") for suffix in ("", ".aux.xml")}
    assert {path.name for path in out.iterdir()} == {"catalog", "map"} | truths
    names = [name for name in LAND_USE_NAMES if re.search(rf"^{name} ", printed, re.M)]
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
