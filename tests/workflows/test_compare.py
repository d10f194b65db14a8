"""Maps compared with others. Oracles: pyproj and numpy cell by cell, scikit-learn, shapely's point in "
"polygon."""

import json
import re
from html import unescape
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.warp import Resampling, reproject, transform_bounds
from sklearn.metrics import confusion_matrix, f1_score

from landuse.errors import NothingFoundError, ProviderError, ReadError, UsageError
from landuse.legends.legend import load_legend
from landuse.workflows.compare import compare_map as module
from landuse.workflows.compare.compare_map import OUTPUTS, compare_map
from landuse.workflows.compare.request import CompareRequest
from tests.servers import file_server, stac_api, write_items

NAMES = ("AnnualCrop", "Forest", "SeaLake", "Residential")
LEFT, TOP, CELL_M = 512_320, 5_310_080, 20
CRS = "EPSG:32633"
IN_WORLDCOVER = (40, 10, 80, 50)


def write_raster(path, values, *, crs=CRS, transform=None, nodata=None, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values)
    bands = values if values.ndim == 3 else values[None]
    transform = transform or Affine(CELL_M, 0, LEFT, 0, -CELL_M, TOP)
    profile = {"driver": "GTiff", "dtype": values.dtype, "count": len(bands), "nodata": nodata}
    profile |= {"height": bands.shape[1], "width": bands.shape[2], "crs": crs, "transform": transform}
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)
        file.update_tags(**tags)
    return path


def write_map(folder, ids, *, names=NAMES, **options):
    tags = {"classes": json.dumps(names), "acquired_utc": "2021-06-18T10:10:31+00:00"}
    write_raster(folder / "landuse.tif", ids, nodata=255, **options, **tags)
    return folder


@pytest.fixture(scope="module")
def ids():
    """(70, 90) class ids in fields of 5 x 5 cells; a corner has no class."""
    grid = np.random.default_rng(8).integers(0, 4, (14, 18)).astype(np.uint8).repeat(5, 0).repeat(5, 1)
    grid[:10, :10] = 255
    return grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ids):
    return write_map(tmp_path_factory.mktemp("map"), ids)


def compare(folder, reference, out, **options):
    return compare_map(CompareRequest(map=folder, reference=reference, out=out, **options))


def centres(shape, size, left=LEFT, top=TOP):
    """x and y of the cells' centres, (row, col)."""
    rows, cols = shape
    return np.meshgrid(left + (np.arange(cols) + 0.5) * size, top - (np.arange(rows) + 0.5) * size)


def sampled(raster, x, y, crs=CRS):
    """Values of the pixels that hold places, by pyproj; -1 beyond the raster. Also how near its edge each "
    "is."""
    with rasterio.open(raster) as file:
        values, transform, to = file.read(1).astype(int), file.transform, file.crs.to_wkt()
    px, py = pyproj.Transformer.from_crs(crs, to, always_xy=True).transform(x, y)
    back = ~transform
    col, row = back.a * px + back.b * py + back.c, back.d * px + back.e * py + back.f
    edge = np.minimum(np.abs(col - np.round(col)), np.abs(row - np.round(row)))
    row, col = np.floor(row).astype(int), np.floor(col).astype(int)
    inside = (row >= 0) & (row < values.shape[0]) & (col >= 0) & (col < values.shape[1])
    found = np.full(x.shape, -1)
    found[inside] = values[row[inside], col[inside]]
    return found, edge


def in_degrees(tmp_path, codes, name="degrees.tif", **options):
    """A raster of codes of 7 m about the map in degrees, as WorldCover is."""
    to_degrees = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    west, north = to_degrees.transform(LEFT - 30, TOP + 30)
    return write_raster(
        tmp_path / name, codes, crs="EPSG:4326", transform=Affine(1e-4, 0, west, 0, -7e-5, north), **options
    )


def test_a_finer_reference_in_degrees_is_compared_in_parts_of_cells(tmp_path, folder, ids):
    codes = np.random.default_rng(2).choice([10, 20, 40, 50, 80], (31, 41), p=[0.3, 0.1, 0.3, 0.2, 0.1])
    codes = codes.astype(np.uint8).repeat(6, 0).repeat(6, 1)
    codes[30:50, 40:80] = 0
    raster = in_degrees(tmp_path, codes, nodata=0)
    report = compare(folder, raster, tmp_path / "out", crosswalk="worldcover", min_patch_ha=0)
    step = report.geobox.shape[0] // ids.shape[0]
    assert step == round(20 / 7.6)
    assert "finer than the map's cells of 20 m" in report.told
    fine = ids.repeat(step, 0).repeat(step, 1)
    x, y = centres(fine.shape, CELL_M / step)
    expected, edge = sampled(raster, x, y)
    names = [entry.name for entry in load_legend("worldcover").classes]
    code_of = {str(code): names.index(name) for code, name in
               load_legend("worldcover").class_of_code.items() if name}  # fmt: skip
    ours = np.array([code_of[str(code)] for code in IN_WORLDCOVER])
    there = (fine != 255) & (expected > 0)
    mapped = ours[fine[there]]
    theirs = np.array([code_of[str(code)] for code in expected[there]])
    cell_ha = (CELL_M / step) ** 2 / 10_000
    hectares = confusion_matrix(mapped, theirs, labels=range(len(names))) * cell_ha
    # Within a hundredth of a pixel of an edge either side may be taken.
    allowed = (edge[there] < 0.011).sum() * cell_ha
    assert np.abs(report.agreement.hectares - hectares).sum() <= 2 * allowed < 0.1 * hectares.sum()
    assert report.agreement.overall == pytest.approx((mapped == theirs).mean(), abs=0.02)
    assert report.nothing_ha == pytest.approx(((fine != 255) & (expected <= 0)).sum() * cell_ha, rel=0.01)
    told = {entry.name: entry.f1 for entry in report.agreement.classes}
    scores = f1_score(theirs, mapped, average=None, labels=[names.index(n) for n in told], zero_division=0)
    assert list(told.values()) == pytest.approx(scores.tolist(), abs=0.02)
    assert any("shows no Shrubland" in warning for warning in report.warnings)


def test_a_coarser_reference_and_one_of_the_same_pixels(tmp_path, folder, ids):
    codes = np.array(IN_WORLDCOVER, np.int16)[np.random.default_rng(3).integers(0, 4, (9, 10))]
    grid = Affine(230, 0, LEFT - 105, 0, -230, TOP + 95)
    coarse = write_raster(tmp_path / "coarse.tif", codes, transform=grid, nodata=-9999)
    report = compare(folder, coarse, tmp_path / "coarse", crosswalk="worldcover")
    x, y = centres(ids.shape, CELL_M)
    expected, edge = sampled(coarse, x, y)
    assert edge.min() > 0.001
    there = (ids != 255) & (expected > 0)
    both = np.array(IN_WORLDCOVER)[ids[there]] == expected[there]
    assert report.agreement.total_ha == pytest.approx(there.sum() * 0.04)
    assert report.agreement.overall == pytest.approx(both.mean(), abs=1e-12)
    assert "brought to the map's cells of 20 m by nearest" in report.told

    own = np.array([*IN_WORLDCOVER, *[0] * 252], np.uint8)[ids]
    same = compare(folder, write_raster(tmp_path / "s.tif", own, nodata=0), tmp_path / "same",
                   crosswalk="worldcover")  # fmt: skip
    assert same.agreement.overall == 1
    assert same.agreement.total_ha == pytest.approx((ids != 255).sum() * 0.04)
    assert gpd.read_file(tmp_path / "same" / "disagreement.gpkg", layer="disagreement").empty


def test_real_pixels_against_themselves_in_another_projection(tmp_path, data_dir):
    """Dynamic World's cover of Orihuela as the map, and warped to degrees by GDAL as the reference."""
    source = data_dir / "cover" / "orihuela_dw.tif"
    with rasterio.open(source) as file:
        covers, crs = file.read(1), file.crs
        west, south, east, north = transform_bounds(crs, "EPSG:4326", *file.bounds)
        transform = Affine(1.1e-4, 0, west, 0, -9e-5, north)
        height, width = round((north - south) / 9e-5), round((east - west) / 1.1e-4)
        warped = np.full((height, width), 255, np.uint8)
        reproject(covers, warped, src_transform=file.transform, src_crs=crs, dst_transform=transform,
                  dst_crs="EPSG:4326", resampling=Resampling.nearest, src_nodata=255,
                  dst_nodata=255)  # fmt: skip
        grid = file.transform
    names = [entry.name for entry in load_legend("cover").classes]
    folder = write_map(tmp_path / "map", covers, names=names, crs=crs, transform=grid)
    itself = compare(folder, source, tmp_path / "itself", crosswalk="cover")
    assert itself.agreement.overall == 1
    assert itself.agreement.total_ha == pytest.approx((covers != 255).sum() / 100)
    degrees = write_raster(tmp_path / "w.tif", warped, crs="EPSG:4326", transform=transform, nodata=255)
    report = compare(folder, degrees, tmp_path / "warped", crosswalk="cover")
    x, y = centres(covers.shape, 10, grid.c, grid.f)
    expected, edge = sampled(degrees, x, y, crs.to_wkt())
    there = (expected >= 0) & (expected != 255)
    hectares = confusion_matrix(covers[there], expected[there], labels=range(9)) / 100
    assert np.abs(report.agreement.hectares - hectares).sum() <= 2 * (edge < 0.011).sum() / 100
    assert 0.8 < report.agreement.overall < 1


def test_strips_of_any_height_say_the_same(tmp_path, folder, monkeypatch):
    raster = in_degrees(tmp_path, np.random.default_rng(2).choice([10, 40, 80], (190, 250)).astype(np.uint8))
    whole = compare(folder, raster, tmp_path / "whole", crosswalk="worldcover", min_patch_ha=0.05)
    monkeypatch.setattr(module, "_STRIP_VALUES", 12_000)
    monkeypatch.setattr(module, "_VIEW_CELLS", 50)
    strips = compare(folder, raster, tmp_path / "strips", crosswalk="worldcover", min_patch_ha=0.05)
    assert np.array_equal(strips.agreement.hectares, whole.agreement.hectares)
    assert strips.small_ha == whole.small_ha > 0
    for out in ("whole", "strips"):
        with rasterio.open(tmp_path / out / "disagreement.tif") as file:
            values = file.read(1)
        frame = gpd.read_file(tmp_path / out / "disagreement.gpkg", layer="disagreement")
        if out == "whole":
            first, area = values, frame.area_ha.sum()
    assert np.array_equal(values, first)
    assert frame.area_ha.sum() == pytest.approx(area)


def test_the_raster_the_polygons_and_the_table_say_what_the_figures_do(tmp_path, folder, ids):
    other = ids.copy()
    other[20:40, 20:50] = 2
    other[60, 60] = (other[60, 60] + 1) % 4
    reference = write_map(tmp_path / "other", other)
    report = compare(folder, reference, tmp_path / "out", min_patch_ha=0.1)
    assert report.files == OUTPUTS
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(OUTPUTS)
    differ = (ids != other) & (ids != 255)
    with rasterio.open(tmp_path / "out" / "disagreement.tif") as file:
        codes, colors = file.read(1), file.colormap(1)
        assert file.tags()["map_sha256"] == report.source.sha256
    labels = [entry.text or "" for entry in
              ElementTree.parse(tmp_path / "out" / "disagreement.tif.aux.xml").iter("Category")]  # fmt: skip
    assert np.array_equal(codes == 255, ids == 255)
    assert np.array_equal((codes > 0) & (codes < 255), differ)
    for row, col in np.argwhere(differ)[::50]:
        ours, theirs = NAMES[ids[row, col]], NAMES[other[row, col]]
        assert labels[codes[row, col]] == f"{ours} on the map, {theirs} on the reference"
        assert colors[codes[row, col]][:3] == report.crosswalk.colors[other[row, col]]
    frame = gpd.read_file(tmp_path / "out" / "disagreement.gpkg", layer="disagreement")
    assert frame.crs == CRS
    assert (report.small_ha, frame.area_ha.sum()) == pytest.approx((0.04, differ.sum() * 0.04 - 0.04))
    for _, polygon in frame.iterrows():
        x, y = polygon.geometry.representative_point().coords[0]
        row, col = int((TOP - y) // CELL_M), int((x - LEFT) // CELL_M)
        assert (polygon.map_class, polygon.reference_class) == (NAMES[ids[row, col]], NAMES[other[row, col]])
    table = gpd.read_file(tmp_path / "out" / "disagreement.gpkg", layer="matrix")
    assert table.area_ha.sum() == pytest.approx(report.agreement.total_ha)
    told = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert told["confusion_ha"]["hectares"] == report.agreement.hectares.tolist()
    assert told["overall_agreement"] == pytest.approx(1 - differ.sum() / (ids != 255).sum())
    assert "kappa" in told["method"]
    assert told["classes"][0]["iou"] == report.agreement.classes[0].iou


def test_the_page_is_whole_in_itself_and_nothing_in_it_runs(tmp_path, folder, ids):
    names = ("A <b>&", "Forest", "SeaLake", "Residential")
    own = write_map(tmp_path / "map<i>", ids, names=names)
    compare(own, write_map(tmp_path / "other", ids[:, ::-1], names=names), tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script" not in page
    assert "<b>&" not in page
    assert "A &lt;b&gt;&amp;" in page
    assert "default-src 'none'" in unescape(page)
    assert not re.search(r'(src|href)="(?!data:image/png;base64,)', page)
    assert page.count("data:image/png;base64,") == 3
    assert "beside other/landuse.tif" in page


def test_the_page_tells_disagreement_as_shares_of_the_area(tmp_path, folder, ids):
    found = compare(folder, write_map(tmp_path / "moved", ids[:, ::-1]), tmp_path / "a").agreement
    page = (tmp_path / "a" / "index.html").read_text()
    assert f"On {found.quantity:.1%} of the area they differ by how much" in page
    assert f"on\n{found.allocation:.1%} by where it lies" in page
    assert found.quantity + found.allocation == pytest.approx(1 - found.overall)


def test_cells_that_reach_beyond_the_area_are_told(tmp_path, ids, run):
    """The map's report has less land than its cells cover: by 20 percent, then by half a percent."""
    folder = write_map(tmp_path / "map", ids, plan_sha256="a")
    cells = np.bincount(ids[ids != 255], minlength=4)
    whole = cells.sum() * CELL_M**2 / 10_000

    def reported(share):
        classes = [
            {"id": i, "cells": int(count), "area_ha": share * count * CELL_M**2 / 10_000}
            for i, count in enumerate(cells)
        ]
        (folder / "run.json").write_text(json.dumps({"plan_sha256": "a", "classes": classes}))
        return compare(folder, folder, tmp_path / f"at-{share}")

    (warning,) = reported(0.8).to_dict()["warnings"]
    assert f"the map has {whole:,.1f} ha here and {0.8 * whole:,.1f} ha in its run.json" in warning
    assert "in its run.json" in (tmp_path / "at-0.8" / "index.html").read_text()
    assert "in its run.json" in run("compare", folder, folder, "--out", tmp_path / "told").out
    assert reported(0.995).warnings == ()


def test_names_alone_are_enough_for_maps_of_the_same_classes(tmp_path, folder, ids):
    """Another landuse map, its classes in another order; and a raster whose sidecar names its values."""
    order = (2, 0, 3, 1)
    back = np.array([*(order.index(i) for i in range(4)), *[255] * 252], np.uint8)
    other = write_map(tmp_path / "other", back[ids], names=[NAMES[i].upper() for i in order])
    assert compare(folder, other, tmp_path / "a").agreement.overall == 1
    named = write_raster(tmp_path / "named.tif", back[ids], nodata=255)
    with pytest.raises(UsageError, match=r"does not say what its values mean\. Name a --crosswalk"):
        compare(folder, named, tmp_path / "b")
    rows = "".join(f"<Category>{NAMES[i]}</Category>" for i in order)
    names = f"<CategoryNames>{rows}</CategoryNames>"
    names = f"<PAMDataset><PAMRasterBand band='1'>{names}</PAMRasterBand></PAMDataset>"
    (tmp_path / "named.tif.aux.xml").write_text(names)
    assert compare(folder, named, tmp_path / "b").agreement.overall == 1
    # Ids of a landuse map are no codes of a legend: 10 is Shrubland in one and Tree cover in the other.
    legend = compare(folder, other, tmp_path / "c", crosswalk="ipcc")
    assert legend.agreement.overall == 1
    (tmp_path / "named.tif.aux.xml").write_text("<!DOCTYPE x [<!ENTITY a 'b'>]>" + names)
    with pytest.raises(UsageError, match="does not say what its values mean"):
        compare(folder, named, tmp_path / "d")


def test_a_map_told_in_a_legend_and_a_crosswalk_of_codes_alone(tmp_path, folder, ids):
    legend = load_legend("worldcover")
    classes = [entry.name for entry in legend.classes]
    merged = np.array([*(classes.index(legend.class_of[name]) for name in NAMES), *[255] * 252], np.uint8)[
        ids
    ]
    told = write_map(tmp_path / "told", merged, names=classes)
    codes = write_raster(
        tmp_path / "codes.tif", np.array([*IN_WORLDCOVER, *[0] * 252], np.uint8)[ids], nodata=0
    )
    assert compare(told, codes, tmp_path / "a", crosswalk="worldcover").agreement.overall == 1
    own = tmp_path / "codes.csv"
    own.write_text("code,new\n40,AnnualCrop\n10,Forest\n80,SeaLake\n50,Residential\n")
    assert compare(folder, codes, tmp_path / "b", crosswalk=str(own)).agreement.overall == 1
    own.write_text("code,new\n40,AnnualCrop\n10,Forest\n80,\n50,Residential\n")
    report = compare(folder, codes, tmp_path / "c", crosswalk=str(own))
    assert report.ignored_ha == pytest.approx((ids == 2).sum() * 0.04)
    assert report.agreement.overall == 1


def test_names_that_two_legends_use_otherwise_are_told(tmp_path, folder, ids, run):
    """The same ids by the same names; Woods of the one has shrubs in it, and of the other has none."""
    names = ("Fields", "Woods", "Water", "Town")
    parts = [["AnnualCrop"], ["Forest", "Shrubland"], ["River", "SeaLake"], ["Residential"]]
    ours = write_map(tmp_path / "ours", ids, names=names, classes_of=json.dumps(parts))
    parts[0:2] = ["Shrubland", "AnnualCrop"], ["Forest"]
    theirs = write_map(tmp_path / "theirs", ids, names=names, classes_of=json.dumps(parts))
    report = compare(ours, theirs, tmp_path / "a")
    (warning,) = report.to_dict()["warnings"]
    assert f"Woods is Forest + Shrubland on {ours}/landuse.tif, Forest on {theirs}/landuse.tif" in warning
    assert "Water is" not in warning
    assert "Forest + Shrubland" in (tmp_path / "a" / "index.html").read_text()
    assert "Forest + Shrubland" in run("compare", ours, theirs, "--out", tmp_path / "b").out
    assert compare(ours, ours, tmp_path / "c").warnings == ()
    # A crosswalk that brings both to one class takes the difference away.
    own = tmp_path / "own.csv"
    own.write_text("class,new\nFields,Land\nWoods,Land\nWater,Water\nTown,Town\n")
    assert compare(ours, theirs, tmp_path / "d", crosswalk=str(own)).warnings == ()


def polygons(ids, every=5):
    rows, cols = (side // every for side in ids.shape)
    shapes, values = [], []
    for row in range(rows):
        for col in range(cols):
            value = ids[row * every, col * every]
            if value != 255:
                left, top = LEFT + col * every * CELL_M, TOP - row * every * CELL_M
                shapes.append(shapely.box(left, top - every * CELL_M, left + every * CELL_M, top))
                values.append(int(value))
    columns = {"kind": [NAMES[v] for v in values], "clc": [(211, 311, 512, 112)[v] for v in values]}
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=CRS)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp"])
def test_polygons_have_the_cells_whose_centres_lie_in_them(tmp_path, folder, ids, suffix):
    drawn = polygons(ids[:, ::-1])
    path = tmp_path / f"fields{suffix}"
    drawn.to_crs(4326).to_file(path)
    report = compare(folder, path, tmp_path / "out", column="kind")
    step = report.geobox.shape[0] // ids.shape[0]
    assert step == 2
    flipped = ids[:, ::-1]
    there = (ids != 255) & (flipped != 255)
    expected = confusion_matrix(ids[there], flipped[there], labels=range(4)) * 0.04
    np.testing.assert_allclose(report.agreement.hectares, expected, atol=1e-9)
    corine = compare(folder, path, tmp_path / "clc", column="clc", crosswalk="corine-1")
    assert corine.agreement.overall >= report.agreement.overall


def test_overlapping_polygons_of_different_classes_are_left_out_and_told(tmp_path, folder, ids):
    drawn = polygons(ids)
    twice = gpd.GeoDataFrame({"kind": ["Forest"], "clc": [311]}, geometry=[shapely.box(
        LEFT + 400, TOP - 900, LEFT + 800, TOP - 500)], crs=CRS)  # fmt: skip
    path = tmp_path / "twice.gpkg"
    # And drawn once more on top, so that neither the first nor the last polygon tells of the conflict.
    gpd.pd.concat([drawn, twice, drawn]).to_file(path)
    report = compare(folder, path, tmp_path / "out", column="kind")
    inside = np.zeros(ids.shape, bool)
    inside[25:45, 20:40] = True
    assert report.conflict_ha == pytest.approx((inside & (ids != 255) & (ids != 1)).sum() * 0.04)
    assert any("lie in polygons of different classes" in warning for warning in report.warnings)
    assert report.agreement.overall == 1


def two_bands(path, ids):
    return write_raster(path / "r.tif", np.stack([ids, ids]))


def without_crs(path, ids):
    return write_raster(path / "r.tif", ids, crs=None)


def rotated(path, ids):
    return write_raster(path / "r.tif", ids, transform=Affine(20, 3, LEFT, 3, -20, TOP))


def measured(path, ids):
    return write_raster(path / "r.tif", ids.astype(np.float32))


def elsewhere(path, ids):
    return write_raster(path / "r.tif", ids + np.uint8(10), transform=Affine(20, 0, LEFT + 1e5, 0, -20, TOP))


def on_the_other_side(path, ids):
    return write_raster(path / "r.tif", ids, crs="EPSG:32760", transform=Affine(20, 0, 5e5, 0, -20, 1e6))


def empty(path, ids):
    return write_raster(path / "r.tif", np.zeros_like(ids), nodata=0)


def unknown(path, ids):
    return write_raster(path / "r.tif", np.where(ids == 255, 10, ids + 70).astype(np.uint8))


def virtual(path, ids):
    (path / "r.tif").write_text('<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    return path / "r.tif"


def cut_short(path, ids):
    whole = write_raster(path / "r.tif", np.full((400, 400), 10, np.uint8))
    whole.write_bytes(whole.read_bytes()[:3000])
    return whole


def directory(path, ids):
    (path / "empty").mkdir()
    return path / "empty"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (two_bands, "has 2 bands"),
        (without_crs, "states no coordinate reference system"),
        (rotated, "is rotated. Warp it first"),
        (measured, "float32, which are measurements"),
        (elsewhere, "they do not overlap, or it is empty there"),
        (on_the_other_side, "they do not overlap, or it is empty there"),
        (empty, "they do not overlap, or it is empty there"),
        (unknown, r"hold.* values that mean none of the classes .*'7[123]' \(\d+\)"),
        (virtual, "cannot be read as a vector file"),
        (cut_short, "cannot be read"),
        (directory, "does not exist"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_references_that_do_not_suit_get_one_message_and_leave_nothing(tmp_path, folder, ids, make, says):
    reference = make(tmp_path, ids)
    with pytest.raises((UsageError, ReadError), match=says) as refused:
        compare(folder, reference, tmp_path / "out", crosswalk="worldcover")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("frame", "options", "says"),
    [
        (lambda f: f, {}, r"--column is needed\. It has: kind, clc"),
        (lambda f: f, {"column": "x"}, "'x' is none of its columns"),
        (
            lambda f: f.set_geometry(f.centroid),
            {"column": "kind"},
            r"0 layers of polygons .*Give a file with one\. Labelled points are given with --samples",
        ),
        (lambda f: f.set_crs(None, allow_override=True), {"column": "kind"}, "map's CRS|states no"),
        (lambda f: f.assign(kind="Dune\x1b"), {"column": "kind"}, r"mean none of the classes .*'Dune\?' \("),
        (lambda f: f.set_geometry(f.translate(1e6)), {"column": "kind"}, "do not overlap"),
    ],
)
@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_polygons_that_do_not_suit_get_one_message(tmp_path, folder, ids, frame, options, says):
    path = tmp_path / "fields.gpkg"
    frame(polygons(ids)).to_file(path)
    with pytest.raises(UsageError, match=says):
        compare(folder, path, tmp_path / "out", **options)


def test_points_of_a_geojson_are_pointed_to_samples(tmp_path, folder, ids):
    drawn = polygons(ids).to_crs(4326)
    drawn.set_geometry(shapely.centroid(drawn.geometry.to_numpy()), crs=4326).to_file(tmp_path / "p.geojson")
    with pytest.raises(UsageError, match=r"holds Point\. Give polygons alone\. Labelled points .*--samples"):
        compare(folder, tmp_path / "p.geojson", tmp_path / "out", column="kind")


def test_what_a_message_leaves_out_is_counted(tmp_path):
    names = [f"Kind{i}" for i in range(15)]
    ids = np.arange(40, dtype=np.uint8).repeat(40).reshape(40, 40) % 15
    folder = write_map(tmp_path / "map", ids, names=names)
    other = write_map(tmp_path / "other", ids, names=[f"Sort{i}" for i in range(15)])
    with pytest.raises(
        UsageError, match=r"Kind10, Kind11 and 3 more: '0' .* \(\d+\) and 10 more, with how often"
    ):
        compare(folder, other, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("code,new\n10,Forest\n10,SeaLake\n", "names code '10' twice"),
        ("class,new\nForest,Woods\nSeaLake,Water\n", "does not say what becomes of AnnualCrop, Residential"),
        ("class,new\nForrest,Woods\nForest,Woods\n", "names Forrest, which model"),
    ],
)
def test_crosswalks_that_do_not_suit_get_one_message(tmp_path, folder, ids, text, says):
    (tmp_path / "walk.csv").write_text(text)
    reference = write_raster(tmp_path / "r.tif", np.full_like(ids, 10))
    with pytest.raises(UsageError, match=says):
        compare(folder, reference, tmp_path / "out", crosswalk=str(tmp_path / "walk.csv"))


def test_results_are_replaced_when_that_is_asked_for(tmp_path, folder, run):
    args = ("compare", folder, folder, "--out", tmp_path / "out")
    shown = run(*args)
    assert shown.code == 0, shown.err
    assert "agree   on 100.0% of" in shown.out
    assert "not the truth" in shown.out
    again = run(*args)
    assert (again.code, "already holds disagreement.tif" in again.err) == (2, True)
    told = json.loads(run(*args, "--overwrite", "--json").out)
    assert told["overall_agreement"] == 1
    assert run("compare", folder, "--out", tmp_path / "x").code == 2
    assert run("compare", folder, folder, "--reference", "esa-worldcover").code == 2
    assert "is no size" in run("compare", folder, folder, "--min-patch-ha", "nan").err


def saved_item(collection, name, key, href, bounds, year, **properties):
    """As Planetary Computer's items of land cover are: the asset's key, the times, and what else is read."""
    west, south, east, north = bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": collection,
        "bbox": list(bounds),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": None,
            "start_datetime": f"{year}-01-01T00:00:00Z",
            "end_datetime": f"{year}-12-31T23:59:59Z",
            **properties,
        },
        "links": [],
        "assets": {
            key: {
                "href": href,
                "roles": ["data"],
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            }
        },
    }


def tiles(tmp_path):
    """WorldCover of 2020 and 2021 in two tiles in degrees that part the map, and IO's of 2021 in UTM."""
    rng = np.random.default_rng(6)
    items, made = [], {}
    for year in (2020, 2021):
        codes = rng.choice([10, 40, 50, 80], (200, 270)).astype(np.uint8)
        whole = in_degrees(tmp_path, codes, f"wc{year}.tif", nodata=0)
        made[year] = whole
        with rasterio.open(whole) as file:
            west, north = file.transform.c, file.transform.f
            for part, cols in (("W", slice(0, 120)), ("E", slice(120, 270))):
                place = file.transform @ Affine.translation(cols.start, 0)
                name = f"ESA_WorldCover_10m_{year}_{part}"
                write_raster(tmp_path / f"{name}.tif", codes[:, cols], crs="EPSG:4326", transform=place,
                             nodata=0)  # fmt: skip
                bounds = (west + cols.start * 1e-4, north - 200 * 7e-5, west + cols.stop * 1e-4, north)
                items.append(saved_item("esa-worldcover", name, "map", f"{{url}}/{name}.tif", bounds, year,
                                        **{"proj:epsg": 4326}))  # fmt: skip
    classes = rng.choice([1, 2, 5, 7, 10, 11], (150, 190)).astype(np.uint8)
    io = write_raster(tmp_path / "33U_2021.tif", classes, nodata=0,
                      transform=Affine(10, 0, LEFT - 20, 0, -10, TOP + 20))  # fmt: skip
    made["io"] = io
    items.append(saved_item("io-lulc-annual-v02", "33U-2021", "data", "{url}/33U_2021.tif",
                            (15.0, 47.8, 15.4, 48.2), 2021))  # fmt: skip
    return items, made


def test_a_reference_is_fetched_through_stac_with_the_year_nearest_to_the_map(tmp_path, folder):
    items, made = tiles(tmp_path)
    with file_server(tmp_path) as server:
        served = json.loads(json.dumps(items).replace("{url}", server.url))
        with stac_api(write_items(tmp_path / "items.json", served)) as api:
            options = {"source": api, "collection": "esa-worldcover"}
            report = compare_map(CompareRequest(map=folder, out=tmp_path / "out", **options))
            first = compare_map(CompareRequest(map=folder, out=tmp_path / "2020", year=2020, **options))
            io = compare_map(CompareRequest(map=folder, out=tmp_path / "io", source=api,
                                            collection="io-lulc-annual-v02"))  # fmt: skip
            with pytest.raises(NothingFoundError, match=r"of 2020, 2021, not of 1999.*--year"):
                compare_map(CompareRequest(map=folder, out=tmp_path / "x", year=1999, **options))
        assert {entry.status for entry in server.log} == {206}
    for found, year in ((report, 2021), (first, 2020)):
        expected = compare(folder, made[year], tmp_path / f"local-{year}", crosswalk="worldcover")
        np.testing.assert_allclose(found.agreement.hectares, expected.agreement.hectares)
        assert found.reference["year"] == year
        assert found.reference["items"] == [f"ESA_WorldCover_10m_{year}_{part}" for part in "EW"]
    expected = compare(folder, made["io"], tmp_path / "local-io", crosswalk="io-lulc")
    np.testing.assert_allclose(io.agreement.hectares, expected.agreement.hectares)
    assert io.ignored_ha == expected.ignored_ha > 0  # clouds
    assert "io-lulc" in (tmp_path / "io" / "compare.json").read_text()


def test_saved_items_and_what_is_wrong_with_a_source(tmp_path, folder, run):
    items, made = tiles(tmp_path)
    local = json.loads(json.dumps(items).replace("{url}", str(tmp_path)))
    path = write_items(tmp_path / "items.json", local)

    def fetched(out, **options):
        values = {"source": str(path), "collection": "esa-worldcover"} | options
        return compare_map(CompareRequest(map=folder, out=tmp_path / out, **values))

    report = fetched("a")
    expected = compare(folder, made[2021], tmp_path / "b", crosswalk="worldcover")
    np.testing.assert_allclose(report.agreement.hectares, expected.agreement.hectares)
    with pytest.raises(UsageError, match=r"'modis' is unknown. Give esa-worldcover or io-lulc-annual-v02"):
        fetched("c", collection="modis")
    with pytest.raises(UsageError, match="--column 'a' is for polygons"):
        fetched("c", column="a")
    far = write_map(tmp_path / "far", np.zeros((9, 9), np.uint8), crs="EPSG:32601")
    with pytest.raises(NothingFoundError, match="no item of the collection esa-worldcover over the map"):
        compare_map(
            CompareRequest(map=far, out=tmp_path / "c", source=str(path), collection="esa-worldcover")
        )
    for spoil, error, says in (
        ({"href": "/vsicurl/http://x/y.tif"}, ProviderError, "refused"),
        ({"href": str(tmp_path / "gone.tif")}, ReadError, "cannot be read"),
        ({}, ProviderError, "has no asset 'map'"),
    ):
        bad = json.loads(json.dumps(local))
        for item in bad:
            item["assets"] = {"map": spoil}
        path = write_items(tmp_path / "bad.json", bad)
        with pytest.raises(error, match=says):
            fetched("c")
    assert not (tmp_path / "c").exists()
