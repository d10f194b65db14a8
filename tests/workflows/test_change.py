"""``landuse change`` on small maps written by rasterio, its files read again by independent readers.

Oracles: xarray's alignment by coordinates and a loop over cells; counts on the rasters; rasterio burning
the polygons back; scipy's labels.
"""

import json
from datetime import UTC, datetime
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import rasterio
import xarray as xr
from affine import Affine
from rasterio.features import rasterize
from scipy import ndimage

import landuse
from landuse.classes import EUROSAT
from landuse.errors import LanduseError, ReadError, UsageError
from landuse.pipeline.maps import open as map_files
from landuse.workflows.change import OUTPUTS, ChangeRequest, compare_maps

CELL_M = 160
LEFT, TOP = 2250 * CELL_M, 33450 * CELL_M
NAMES = ("AnnualCrop", "Forest", "Industrial", "SeaLake")
DAYS = ("2021-06-18", "2022-06-20", "2023-06-21", "2024-06-22")


def some_shares(seed, rows, cols, *, classes=4, sharpness=0.4, unseen=0.1):
    """(class, row, col) probabilities; NaN where nothing was seen."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(classes, sharpness), (rows, cols)).transpose(2, 0, 1)
    shares[:, rng.random((rows, cols)) < unseen] = np.nan
    return shares


def write_map(folder, shares, *, row=0, col=0, day=DAYS[0], names=NAMES, as_float=False, **changes):
    """A map as ``landuse map --probabilities`` writes it, but with rasterio alone."""
    told = {
        "cell_m": CELL_M, "crs": "EPSG:32633", "shift_m": 0.0, "weights_sha256": "0" * 64,
        "acquired_utc": f"{day}T10:10:31+00:00", "classes": json.dumps(names), "plan_sha256": f"{day}-plan",
        "model": "balanced", "cloud_mask": "yes", "classes_of": None,
    } | changes  # fmt: skip
    folder.mkdir(parents=True)
    seen = np.isfinite(shares[0])
    steps = np.where(seen, np.rint(shares * 250), 255).astype(np.uint8)
    classes = np.where(seen, np.nan_to_num(shares).argmax(0), 255).astype(np.uint8)
    profile = {
        "driver": "GTiff", "height": classes.shape[0], "width": classes.shape[1], "crs": told["crs"],
        "transform": Affine(
            told["cell_m"], 0, LEFT + col * told["cell_m"] + told["shift_m"],
            0, -told["cell_m"], TOP - row * told["cell_m"],
        ),
    }  # fmt: skip
    named = ("classes", "plan_sha256", "model", "acquired_utc", "weights_sha256", "cloud_mask", "classes_of")
    named += ("bands", "level", "composite", "fuse", "smooth", "smooth_px")
    tags = {name: told[name] for name in named if told.get(name) is not None}
    with rasterio.open(folder / "landuse.tif", "w", dtype="uint8", count=1, nodata=255, **profile) as file:
        file.write(classes, 1)
        file.update_tags(**tags)
    stored, kind, nodata = (shares, "float32", np.nan) if as_float else (steps, "uint8", 255)
    with rasterio.open(
        folder / "probabilities.tif", "w", dtype=kind, count=len(shares), nodata=nodata, **profile
    ) as file:
        file.write(stored.astype(kind))
        if not as_float:
            file.scales = (1 / 250,) * len(shares)
        file.descriptions = names
        file.update_tags(**tags)
    return folder


def compare(tmp_path, *maps, **options):
    before, after, *later = maps
    values = {"out": tmp_path / "change", "overwrite": True} | options
    return compare_maps(ChangeRequest(before=before, after=after, later=tuple(later), **values))


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def labelled(folder):
    """Class ids, and probabilities in steps, by the coordinates of their cells."""
    with rasterio.open(folder / "landuse.tif") as file, rasterio.open(folder / "probabilities.tif") as shares:
        x = file.transform.c + (np.arange(file.width) + 0.5) * file.transform.a
        y = file.transform.f + (np.arange(file.height) + 0.5) * file.transform.e
        values = np.concatenate([file.read(), shares.read()]).astype(int)
    return xr.DataArray(values, dims=("band", "y", "x"), coords={"y": y, "x": x})


def expected_change(maps, threshold):
    """Codes and differences of the change raster, cell by cell, and where they lie."""
    one, two = xr.align(labelled(maps[0]), labelled(maps[1]), join="inner")
    later = [labelled(folder).reindex_like(one, fill_value=255) for folder in maps[2:]]
    codes, shares = np.full(one.shape[1:], 255), np.full(one.shape[1:], 255)
    for row, col in np.ndindex(codes.shape):
        a, b, *rest = ([int(v) for v in cells.values[:, row, col]] for cells in (one, two, *later))
        if a[0] == 255 or b[0] == 255:
            continue

        def moved(cells, a=a):
            return (sum(abs(p - q) for p, q in zip(a[1:], cells[1:], strict=True)) + 1) // 2

        shares[row, col] = min(moved(b), 250)
        codes[row, col] = 0
        if a[0] != b[0] and moved(b) >= threshold * 250:
            agree = [c[0] != a[0] and moved(c) >= threshold * 250 for c in rest if c[0] != 255]
            if all(agree):
                codes[row, col] = 1 + a[0] * 4 + b[0] if agree or not rest else 254
    return codes, shares, (float(one.x[0]) - CELL_M / 2, float(one.y[0]) + CELL_M / 2)


@pytest.mark.parametrize(
    ("place", "shape"),
    [((0, 0), (13, 21)), ((5, -4), (13, 21)), ((-3, 2), (30, 8)), ((2, 3), (4, 5))],
    ids=["same", "down and left", "taller", "inside"],
)
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_every_cell_is_what_a_loop_over_aligned_maps_says(tmp_path, place, shape, threshold):
    maps = [
        write_map(tmp_path / "a", some_shares(1, 13, 21)),
        write_map(tmp_path / "b", some_shares(2, *shape), row=place[0], col=place[1], day=DAYS[1]),
        write_map(tmp_path / "c", some_shares(3, 9, 9), row=3, col=1, day=DAYS[2]),
        write_map(tmp_path / "d", some_shares(4, 13, 21, unseen=0.5), day=DAYS[3]),
    ]
    for count in (2, 4):
        report = compare(tmp_path, *maps[:count], threshold=threshold)
        codes, shares, corner = expected_change(maps[:count], threshold)
        np.testing.assert_array_equal(read(tmp_path / "change" / "change.tif"), codes)
        np.testing.assert_array_equal(read(tmp_path / "change" / "difference.tif"), shares)
        with rasterio.open(tmp_path / "change" / "change.tif") as file:
            assert (file.transform.c, file.transform.f) == corner
            assert (file.crs, file.res) == ("EPSG:32633", (CELL_M, CELL_M))
        cover = report.cover
        assert cover.nodata == np.count_nonzero(codes == 255)
        assert cover.unconfirmed == np.count_nonzero(codes == 254)
        assert cover.changed == np.count_nonzero((codes > 0) & (codes < 254))
        assert cover.unchanged == np.count_nonzero(codes == 0)
        assert cover.naive == cover.changed + cover.unconfirmed + cover.flicker + cover.contradicted
        if threshold == 0 and count == 2:
            assert cover.naive == cover.changed


def assert_files_agree(out, report):
    """Raster, polygons, both matrices and the report, each counted from its own file."""
    codes, cell_ha = read(out / "change.tif"), CELL_M**2 / 10_000
    told = json.loads((out / "change.json").read_text("utf-8"))
    polygons = pyogrio.read_dataframe(out / "change.gpkg", layer="change")
    matrix = pyogrio.read_dataframe(out / "change.gpkg", layer="matrix")
    assert matrix.to_dict("records") == told["matrix"]
    assert matrix["cells"].sum() == told["cells"]["changed"] + told["cells"]["unchanged"]
    assert sum(told["cells"][name] for name in ("changed", "unchanged", "unconfirmed")) == np.count_nonzero(
        codes != 255
    )
    changes = matrix[matrix["from_id"] != matrix["to_id"]]
    for row in changes.itertuples():
        code = 1 + row.from_id * len(report.names) + row.to_id
        of_kind = polygons[polygons["code"] == code]
        assert row.cells == np.count_nonzero(codes == code) == of_kind["cells"].sum()
        assert row.area_ha == pytest.approx(of_kind["area_ha"].sum())
        assert row.area_ha == pytest.approx(of_kind.area.sum() / 10_000)
        assert set(of_kind["from_class"]) == {report.names[row.from_id]}
        assert set(of_kind["to_class"]) == {report.names[row.to_id]}
    assert changes["cells"].sum() == polygons["cells"].sum() == told["cells"]["changed"]
    assert np.allclose(polygons["cells"] * cell_ha, polygons["area_ha"])
    assert polygons.is_valid.all()
    with rasterio.open(out / "change.tif") as file:
        pairs = zip(polygons.geometry, polygons["code"], strict=True)
        burnt = rasterize(pairs, file.shape, transform=file.transform) if len(polygons) else codes * 0
        assert polygons.crs == file.crs
    np.testing.assert_array_equal(burnt, np.where((codes == 254) | (codes == 255), 0, codes))
    return polygons


def test_raster_polygons_matrix_and_report_agree(tmp_path):
    maps = [write_map(tmp_path / day, some_shares(i, 17, 23), day=day) for i, day in enumerate(DAYS[:3])]
    report = compare(tmp_path, *maps, threshold=0.5)
    polygons = assert_files_agree(tmp_path / "change", report)
    shares = read(tmp_path / "change" / "difference.tif") / 250
    with rasterio.open(tmp_path / "change" / "change.tif") as file:
        for row in polygons.itertuples():
            inside = rasterize([row.geometry], file.shape, transform=file.transform) == 1
            assert row.difference == pytest.approx(shares[inside].mean())


def test_strips_change_nothing(tmp_path, monkeypatch):
    maps = [write_map(tmp_path / day, some_shares(i, 40, 11), day=day) for i, day in enumerate(DAYS[:2])]
    found = []
    for values in (2**21, 3 * 11 * len(NAMES)):
        monkeypatch.setattr(map_files, "_STRIP_VALUES", values)
        report = compare(tmp_path, *maps, threshold=0.4, min_patch_ha=4)
        assert_files_agree(tmp_path / "change", report)
        polygons = pyogrio.read_dataframe(tmp_path / "change" / "change.gpkg", layer="change")
        shapes = sorted(polygons.normalize().to_wkb(hex=True))
        found.append((read(tmp_path / "change" / "change.tif").tolist(), shapes, report.cover, report.matrix))
    assert found[0] == found[1]
    assert len(found[0][1]) > 5


def test_small_patches_count_as_unchanged(tmp_path):
    maps = [write_map(tmp_path / day, some_shares(i, 30, 20), day=day) for i, day in enumerate(DAYS[:2])]
    compare(tmp_path, *maps, threshold=0.4)
    expected = read(tmp_path / "change" / "change.tif")
    small = 0
    label, count = ndimage.label((expected != 0) & (expected != 255))  # of any kind of change
    for patch in range(1, count + 1):
        if np.count_nonzero(label == patch) < 3:
            small += np.count_nonzero(label == patch)
            expected[label == patch] = 0
    assert small > 5
    report = compare(tmp_path, *maps, threshold=0.4, min_patch_ha=3 * CELL_M**2 / 10_000)
    np.testing.assert_array_equal(read(tmp_path / "change" / "change.tif"), expected)
    assert report.cover.too_small == small
    stays = read(maps[0] / "landuse.tif")[expected != 255]  # a cell that is left out is what it was
    for class_id in range(len(NAMES)):
        of_class = sum(row.cells for row in report.matrix if row.from_id == class_id)
        assert of_class == np.count_nonzero(stays == class_id)
        kept = sum(row.cells for row in report.matrix if row.from_id == row.to_id == class_id)
        assert kept == np.count_nonzero(stays[expected[expected != 255] == 0] == class_id)
    assert len(assert_files_agree(tmp_path / "change", report))


def test_nothing_changed_is_a_result(tmp_path):
    shares = some_shares(1, 6, 5)
    maps = [write_map(tmp_path / day, shares, day=day) for day in DAYS[:2]]
    report = compare(tmp_path, *maps)
    assert report.cover.changed == report.cover.naive == 0
    assert len(assert_files_agree(tmp_path / "change", report)) == 0


def test_maps_of_an_earlier_version_hold_floats(tmp_path):
    stacks = [some_shares(seed, 9, 14) for seed in (1, 2)]
    maps = [write_map(tmp_path / day, shares, day=day) for day, shares in zip(DAYS, stacks, strict=False)]
    old = write_map(tmp_path / "old", stacks[0], as_float=True)
    compare(tmp_path, *maps, threshold=0.6)
    expected = [read(tmp_path / "change" / name) for name in ("change.tif", "difference.tif")]
    compare(tmp_path, old, maps[1], threshold=0.6)
    for name, values in zip(("change.tif", "difference.tif"), expected, strict=True):
        np.testing.assert_array_equal(read(tmp_path / "change" / name), values)


def test_flicker_is_not_reported_and_change_is(tmp_path):
    """Three draws of noise around one truth, but for a block of which the last two show another."""
    rng = np.random.default_rng(0)
    rows, cols, block = 60, 50, np.s_[10:25, 20:40]
    before = ndimage.zoom(rng.integers(0, 4, (6, 5)), 10, order=0)
    after = before.copy()
    after[block] = (before[block] + 1) % 4
    maps = []
    for day, truth in zip(DAYS, (before, after, after), strict=False):
        # In a third of the cells the network wavers between the truth and some other class.
        weights = np.full((rows, cols, 4), 0.15)
        np.put_along_axis(weights, truth[..., None], 8.0, axis=2)
        wavers = rng.random((rows, cols)) < 0.33
        other = (truth + rng.integers(1, 4, truth.shape)) % 4
        weights[wavers, other[wavers]] = 5.0
        shares = rng.gamma(weights)
        maps.append(
            write_map(tmp_path / day, (shares / shares.sum(2, keepdims=True)).transpose(2, 0, 1), day=day)
        )
    stayed = np.ones((rows, cols), bool)
    stayed[block] = False
    false, kept = [], []
    for options, given in (({"threshold": 0.0}, 2), ({}, 2), ({}, 3)):
        compare(tmp_path, *maps[:given], **options)
        codes = read(tmp_path / "change" / "change.tif")
        changed = (codes > 0) & (codes < 254)
        false.append(np.count_nonzero(changed & stayed))
        kept.append(np.count_nonzero(changed & ~stayed) / np.count_nonzero(~stayed))
    assert false[0] > 300
    assert false[1] < false[0] / 4
    assert false[2] <= false[1] / 2
    assert min(kept) > 0.7


def test_gis_reads_names_colours_and_units(tmp_path):
    maps = [write_map(tmp_path / day, some_shares(i, 12, 9), day=day) for i, day in enumerate(DAYS[:2])]
    compare(tmp_path, *maps, threshold=0.3)
    out = tmp_path / "change"
    colors = {entry.name: entry.color for entry in EUROSAT}
    with rasterio.open(out / "change.tif") as file:
        assert (file.dtypes, file.nodata, file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]) == (
            ("uint8",),
            255,
            "COG",
        )
        code = 1 + NAMES.index("Forest") * len(NAMES) + NAMES.index("Industrial")
        assert file.colormap(1)[code][:3] == colors["Industrial"]
        assert file.tags()["before_plan_sha256"] == f"{DAYS[0]}-plan"
    names = [node.text for node in ElementTree.parse(out / "change.tif.aux.xml").iter("Category")]
    assert (names[0], names[code], names[254]) == ("no change", "Forest to Industrial", "unconfirmed")
    with rasterio.open(out / "difference.tif") as file:
        assert (file.scales, file.offsets, file.nodata) == ((1 / 250,), (0.0,), 255)
    assert [name for name, _ in pyogrio.list_layers(out / "change.gpkg")] == [
        "change",
        "matrix",
        "layer_styles",
    ]
    style = pyogrio.read_dataframe(out / "change.gpkg", layer="layer_styles").iloc[0]
    assert style["f_table_name"] == "change"
    drawn = {int(node.get("value")) for node in ElementTree.fromstring(style["styleQML"]).iter("category")}
    assert drawn == set(pyogrio.read_dataframe(out / "change.gpkg", layer="change")["code"])


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"bands": "B04, B03"}, {"bands": "B04"}, ("bands B04, B03 (2021-06-18) and B04 (2022-06-20)",)),
        (
            {"composite": "best"},
            {"composite": "median"},
            ("composite best (2021-06-18) and median (2022-06-20)",),
        ),
        ({"level": "L2A"}, {"level": "L1C"}, ("level L2A (2021-06-18) and L1C (2022-06-20)",)),
        ({}, {"fuse": "dates"}, ("fuse pixels (2021-06-18) and dates (2022-06-20)",)),
        (
            {"smooth": "[0.5, 1.0]", "smooth_px": "5"},
            {},
            ("smooth [0.5, 1.0] (2021-06-18) and none (2022-06-20)", "smooth_px 5 (2021-06-18) and 0"),
        ),
        ({"bands": "B04", "fuse": "pixels"}, {"bands": "B04"}, ()),
        ({"bands": "B04", "level": "L2A"}, {}, ()),
    ],
    ids=["bands", "composite", "level", "fuse", "smooth", "alike", "an older map"],
)
def test_maps_made_with_other_settings_are_told(tmp_path, run, first, second, told):
    shares = some_shares(1, 6, 5)
    maps = [
        write_map(tmp_path / day, shares, day=day, **tags)
        for day, tags in zip(DAYS, (first, second), strict=False)
    ]
    ran = run("change", *maps, "--out", tmp_path / "change")
    warnings = json.loads((tmp_path / "change" / "change.json").read_text("utf-8"))["warnings"]
    assert len(warnings) == bool(told)
    for text in told:
        assert text in warnings[0]
        assert text in ran.out


def test_a_legend_that_leaves_the_classes_as_they_are_is_none(tmp_path):
    """It may be for the colours. Parts may be in any order."""
    shares = some_shares(1, 6, 5)
    alone = json.dumps([[name] for name in NAMES])
    merged = [["Pasture", "AnnualCrop"], *([name] for name in NAMES[1:])]
    other = [sorted(merged[0]), *merged[1:]]
    for pair, tags in {"a": (None, alone), "b": (json.dumps(merged), json.dumps(other))}.items():
        maps = [
            write_map(tmp_path / f"{pair}{day}", shares, day=day, classes_of=tag)
            for day, tag in zip(DAYS, tags, strict=False)
        ]
        assert compare(tmp_path, *maps).cover.naive == 0


def test_many_classes_get_codes_for_what_occurs(tmp_path):
    names = [f"class {i}" for i in range(40)]
    first, second = (np.full((40, 3, 4), 0.0) for _ in range(2))
    first[39], second[39] = 1, 1
    second[:, 1, 2], second[7, 1, 2] = 0, 1
    second[:, 2, 2], second[3, 2, 2] = 0, 1
    maps = [
        write_map(tmp_path / day, shares, day=day, names=names)
        for day, shares in zip(DAYS, (first, second), strict=False)
    ]
    compare(tmp_path, *maps)
    assert read(tmp_path / "change" / "change.tif").tolist() == [[0] * 4, [0, 0, 2, 0], [0, 0, 1, 0]]
    polygons = pyogrio.read_dataframe(tmp_path / "change" / "change.gpkg", layer="change")
    assert sorted(zip(polygons["code"], polygons["to_class"], strict=True)) == [
        (1, "class 3"),
        (2, "class 7"),
    ]


def test_hostile_names_stay_names(tmp_path, run):
    names = ["a\"'<script>", "b\n../../c", "d\x1b[2J&", "日本"]
    maps = [
        write_map(tmp_path / day, some_shares(i, 8, 9), day=day, names=names, model='x\\u001b[2J"')
        for i, day in enumerate(DAYS[:2])
    ]
    ran = run("change", *maps, "--threshold", "0", "--out", tmp_path / "change")
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out + ran.err
    assert sorted(path.name for path in (tmp_path / "change").iterdir()) == sorted(OUTPUTS)
    ElementTree.parse(tmp_path / "change" / "change.tif.aux.xml")
    polygons = pyogrio.read_dataframe(tmp_path / "change" / "change.gpkg", layer="change")
    assert names[0] in set(polygons["from_class"])
    assert json.loads((tmp_path / "change" / "change.json").read_text("utf-8"))["classes"][3] == "日本"


def test_command_prints_the_matrix_and_as_json(tmp_path, run):
    maps = [write_map(tmp_path / day, some_shares(i, 20, 25), day=day) for i, day in enumerate(DAYS[:3])]
    out = tmp_path / "change"
    ran = run("change", *maps[:2], "--confirm", maps[2], "--out", out)
    assert ran.code == 0, ran.err
    told = json.loads((out / "change.json").read_text("utf-8"))
    assert told["threshold"] == 0.7
    assert [entry["role"] for entry in told["inputs"]] == ["before", "after", "later"]
    assert [entry["acquired_utc"] for entry in told["inputs"]] == [
        [f"{day}T10:10:31+00:00"] for day in DAYS[:3]
    ]
    lines = ran.out.splitlines()
    heads = lines[0].removeprefix("ha, from row to column").split()
    shown = {
        (line.split()[0], head): float(value)
        for line in lines[1 : 1 + len(heads)]
        for head, value in zip(heads, line.split()[1:], strict=True)
        if value != "."
    }
    cut = {row["to_class"]: row["to_class"] for row in told["matrix"]}
    cut |= {name: f"{name[:8]}." for name in cut if len(name) > 9}
    expected = {
        (row["from_class"], cut[row["to_class"]]): pytest.approx(row["area_ha"], abs=0.051)
        for row in told["matrix"]
    }
    assert shown == expected
    assert f"{told['shares']['changed']:.1%} changed" in ran.out
    assert f"wrote   {out}/change.gpkg" in lines
    again = run("change", *maps[:2], "--confirm", maps[2], "--out", out, "--overwrite", "--json")
    assert json.loads(again.out) | {"created_utc": None} == told | {"created_utc": None}
    refused = run("change", *maps[:2], "--out", out)
    assert refused.code == 2
    assert "--overwrite" in refused.err


def without_probabilities(tmp_path):
    (write_map(tmp_path / "b", some_shares(2, 5, 6), day=DAYS[1]) / "probabilities.tif").unlink()


def of_another_run(tmp_path):
    other = write_map(tmp_path / "other", some_shares(2, 5, 6), day=DAYS[2])
    folder = write_map(tmp_path / "b", some_shares(2, 5, 6), day=DAYS[1])
    (other / "probabilities.tif").replace(folder / "probabilities.tif")


def written(**options):
    def write(tmp_path):
        values = {"day": DAYS[1]} | options
        classes = len(values.get("names", NAMES))
        write_map(tmp_path / "b", some_shares(2, 5, 6, classes=classes), **values)

    return write


@pytest.mark.parametrize(
    ("write_second", "message"),
    [
        pytest.param(lambda tmp_path: None, "does not exist. Give the folder", id="missing"),
        pytest.param(without_probabilities, "Map it again with --probabilities", id="no probabilities"),
        pytest.param(of_another_run, "not of one run", id="of another run"),
        pytest.param(written(crs="EPSG:32632"), "Map both in one UTM zone", id="zone"),
        pytest.param(written(cell_m=80), "cells of 80 m.*same --cell-m or --stride-px", id="cell size"),
        pytest.param(written(shift_m=40.0), "lie 0.750 columns and 0.000 rows beside", id="lattice"),
        pytest.param(written(row=5), "do not overlap", id="beside"),
        pytest.param(written(col=-6), "do not overlap", id="left"),
        pytest.param(written(names=("A", "B", "C", "D")), "has the classes A, B, C, D", id="classes"),
        pytest.param(
            written(
                classes_of=json.dumps([["AnnualCrop"], ["Forest", "Shrubland"], ["Industrial"], ["SeaLake"]])
            ),
            "Forest is the sum of Forest, Shrubland in the one, of Forest in the other.*--legend",
            id="legend",
        ),
        pytest.param(
            written(classes_of='[["AnnualCrop"]]'), "tag `classes_of`.*4 lists of names", id="no parts"
        ),
        pytest.param(written(names=NAMES[:3]), "Map both with one model", id="fewer classes"),
        pytest.param(written(day="2020-01-01"), "Give the earlier map first", id="reversed"),
        pytest.param(written(day=DAYS[0]), "does not begin after", id="same day"),
        pytest.param(written(acquired_utc="soon"), "is no list of times", id="time"),
        pytest.param(written(acquired_utc="2022-01-01"), "no time zone", id="no zone"),
        pytest.param(written(acquired_utc=None), "has no tag acquired_utc", id="no time"),
        pytest.param(written(classes=None), "tag `classes`", id="no classes"),
        pytest.param(written(classes="{}"), "tag `classes`", id="no list"),
        pytest.param(written(plan_sha256=None), "has no tag plan_sha256", id="no plan"),
        pytest.param(written(crs="EPSG:4326"), "not in metres", id="degrees"),
    ],
)
def test_maps_that_do_not_suit_are_refused(tmp_path, write_second, message):
    first = write_map(tmp_path / "a", some_shares(1, 5, 6))
    write_second(tmp_path)
    with pytest.raises(UsageError, match=message):
        compare(tmp_path, first, tmp_path / "b")
    assert not (tmp_path / "change").exists()


def test_maps_that_see_nothing_in_common_are_refused(tmp_path):
    first, second = some_shares(1, 4, 6, unseen=0), some_shares(2, 4, 6, unseen=0)
    first[:, :, :3], second[:, :, 3:] = np.nan, np.nan
    maps = [write_map(tmp_path / day, s, day=day) for day, s in zip(DAYS, (first, second), strict=False)]
    with pytest.raises(UsageError, match="No cell has a class in both"):
        compare(tmp_path, *maps)
    assert list((tmp_path / "change").iterdir()) == []


def test_a_map_that_cannot_confirm_is_refused(tmp_path):
    maps = [write_map(tmp_path / day, some_shares(1, 5, 6), day=day) for day in DAYS[:2]]
    beyond = write_map(tmp_path / "c", some_shares(1, 5, 6), day=DAYS[2], row=5)
    with pytest.raises(UsageError, match="cannot confirm anything"):
        compare(tmp_path, *maps, beyond)
    early = write_map(tmp_path / "d", some_shares(1, 5, 6), day="2021-12-01")
    with pytest.raises(UsageError, match="what is later still"):
        compare(tmp_path, *maps, early)
    for one in (str(early), early, [early]):  # a path is a map, and not a row of letters
        with pytest.raises(UsageError, match="what is later still"):
            landuse.change(*maps, out=tmp_path / "change", confirm=one)


@pytest.mark.parametrize(
    "option",
    [{"threshold": 1.1}, {"threshold": float("nan")}, {"min_patch_ha": -1.0}, {"min_patch_ha": np.inf}],
)
def test_options_are_checked(tmp_path, option):
    with pytest.raises(UsageError, match="Give 0"):
        ChangeRequest(before=tmp_path, after=tmp_path, out=tmp_path, **option)


def test_models_that_differ_are_told(tmp_path):
    maps = [
        write_map(tmp_path / day, some_shares(1, 5, 6), day=day, weights_sha256=day, model=f"net {day}")
        for day in DAYS[:2]
    ]
    (warning,) = compare(tmp_path, *maps).warnings
    assert f"net {DAYS[0]}, net {DAYS[1]}" in warning


@pytest.mark.parametrize(
    ("mask", "told"),
    [("no", "without a cloud mask"), ("no, yes", "some of which have no cloud mask"), (None, "does not say")],
)
def test_a_map_whose_clouds_were_not_checked_is_warned_of(tmp_path, mask, told):
    before = write_map(tmp_path / "a", some_shares(1, 5, 6), day=DAYS[0])
    after = write_map(tmp_path / "b", some_shares(2, 5, 6), day=DAYS[1], cloud_mask=mask)
    (warning,) = compare(tmp_path, before, after).warnings
    assert warning.startswith(str(after / "landuse.tif"))
    assert told in warning
    assert "may be cloud" in warning


def break_file(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def spoil_values(path):
    with rasterio.open(path, "r+") as file:
        file.scales = (1.0,) * file.count


@pytest.mark.parametrize("spoil", [break_file, spoil_values])
def test_what_cannot_be_read_leaves_earlier_results(tmp_path, spoil):
    maps = [write_map(tmp_path / day, some_shares(i, 70, 60), day=day) for i, day in enumerate(DAYS[:2])]
    compare(tmp_path, *maps)
    before = {path.name: path.read_bytes() for path in (tmp_path / "change").iterdir()}
    spoil(maps[1] / "probabilities.tif")
    with pytest.raises(LanduseError) as caught:
        compare(tmp_path, *maps)
    assert isinstance(caught.value, ReadError | UsageError)
    assert {path.name: path.read_bytes() for path in (tmp_path / "change").iterdir()} == before


def test_composites_are_in_order_of_their_scenes(tmp_path):
    """A composite of all June is not followed by a map of its middle."""
    spring = ", ".join(f"2024-06-{day:02}T10:00:00+00:00" for day in (3, 28))
    maps = [
        write_map(tmp_path / "a", some_shares(1, 5, 6), acquired_utc=spring),
        write_map(tmp_path / "b", some_shares(1, 5, 6), acquired_utc="2024-06-15T10:00:00+00:00"),
        write_map(tmp_path / "c", some_shares(1, 5, 6), acquired_utc="2024-06-29T10:00:00+00:00"),
    ]
    with pytest.raises(UsageError, match=r"2024-06-15.*2024-06-03 to 2024-06-28"):
        compare(tmp_path, maps[0], maps[1])
    report = compare(tmp_path, maps[0] / "landuse.tif", maps[2])
    assert report.inputs[0].acquired_utc[-1] == datetime(2024, 6, 28, 10, tzinfo=UTC)
