"""Oracles: arrays in memory, rasterio's own reading, and the truth where every cell is labelled."""

import json
import sqlite3
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling

from landuse.errors import UsageError
from landuse.pipeline.maps.open import counted_map
from landuse.pipeline.maps.sampling import SampleDesign
from landuse.workflows.accuracy import assess_map, draw_sample, write_report
from landuse.workflows.compare.by_samples import compare_by_samples
from tests.servers import file_server

NAMES = ("AnnualCrop", "Forest", "SeaLake", "River")
CELL_M = 160
CELL_HA = 2.56
LEFT, TOP = 512_320, 5_310_080


def write_map(folder, ids, *, names=NAMES, crs="EPSG:32633", **options):
    folder.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "crs": crs}
    profile |= {"height": ids.shape[0], "width": ids.shape[1]}
    profile |= {"transform": Affine(CELL_M, 0, LEFT, 0, -CELL_M, TOP), **options}
    with rasterio.open(folder / "landuse.tif", "w", **profile) as file:
        file.write(ids, 1)
        if names is not None:
            file.update_tags(classes=json.dumps(names))
    return folder


@pytest.fixture
def ids():
    """(37, 61) class ids; SeaLake is rare, River is nowhere, a corner has no class."""
    grid = np.random.default_rng(5).choice(3, size=(37, 61), p=[0.6, 0.38, 0.02]).astype(np.uint8)
    grid[:5, :9] = 255
    return grid


@pytest.fixture
def truth(ids):
    """What is on the ground: a tenth of the cells are something else, River among it."""
    rng = np.random.default_rng(6)
    return np.where(rng.random(ids.shape) < 0.1, rng.integers(0, 4, ids.shape), ids).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, ids):
    return write_map(tmp_path / "map", ids)


def drawn(folder, out, **design):
    return draw_sample(folder, SampleDesign(**design or {"total": 300}), out, seed=0, overwrite=False)


def labelled(folder, out, truth, **design):
    """A sample with what is on the ground, as the frame that its file holds."""
    drawn(folder, out, **design)
    frame = gpd.read_file(out, layer="samples")
    frame["reference"] = [NAMES[truth[row, col]] for row, col in zip(frame["row"], frame["col"], strict=True)]
    return frame


def save(frame, path):
    path.unlink(missing_ok=True)
    frame.to_file(path)
    return path


def test_a_map_is_counted_at_full_resolution(folder, ids):
    with rasterio.open(folder / "landuse.tif", "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    source = counted_map(folder)
    assert source.cells.tolist() == [(ids == i).sum() for i in range(4)]
    assert (source.names, source.shape, source.of_whole_cells) == (NAMES, (37, 61), True)
    assert source.area_ha == pytest.approx([(ids == i).sum() * CELL_HA for i in range(4)])
    assert counted_map(folder / "landuse.tif").sha256 == source.sha256


def test_sample_is_a_stratified_random_one_and_hides_the_map(tmp_path, folder, ids):
    out = tmp_path / "points.gpkg"
    report = drawn(folder, out, total=300, min_per_class=40)
    frame = gpd.read_file(out, layer="samples")
    with rasterio.open(folder / "landuse.tif") as file:
        rows, cols = rasterio.transform.rowcol(file.transform, frame.geometry.x, frame.geometry.y)
        mapped = np.array(
            [value[0] for value in file.sample(zip(frame.geometry.x, frame.geometry.y, strict=True))]
        )
        centres = rasterio.transform.xy(file.transform, rows, cols)
    assert frame.crs.to_epsg() == 32633
    np.testing.assert_array_equal(frame[["row", "col"]], np.stack([rows, cols], 1))
    np.testing.assert_allclose(frame.geometry.get_coordinates(), np.stack(centres, 1))
    assert len(set(zip(rows, cols, strict=True))) == 300
    in_map = [int((ids == i).sum()) for i in range(3)]
    in_sample = [int((mapped == i).sum()) for i in range(3)]
    assert report.classes == tuple(zip(NAMES[:3], in_map, in_sample, strict=True))
    assert in_sample[2] == 40
    assert in_sample[0] / in_sample[1] == pytest.approx(in_map[0] / in_map[1], rel=0.02)
    # Nothing that whoever labels a point sees depends on its class.
    assert list(frame.columns) == ["sample_id", "row", "col", "reference", "note", "map_sha256", "geometry"]
    assert frame["sample_id"].tolist() == list(range(1, 301))
    assert frame[["reference", "note"]].isna().all(axis=None)
    assert (frame["map_sha256"] == counted_map(folder).sha256).all()
    assert len(set(mapped[:20])) > 1
    assert not (np.diff(rows) >= 0).all()
    squares = gpd.read_file(out, layer="cells")
    np.testing.assert_allclose(squares.area, CELL_M**2)
    np.testing.assert_allclose(squares.centroid.get_coordinates(), frame.geometry.get_coordinates())
    assert squares["sample_id"].tolist() == frame["sample_id"].tolist()


def test_qgis_is_given_a_form_that_offers_the_classes(tmp_path, ids):
    """Names that would break markup or a terminal are stored and found again."""
    hostile = ("AnnualCrop", "<script>\"&'", "two\nlines", "été / ..")
    out = tmp_path / "points.gpkg"
    folder = write_map(tmp_path / "map", ids, names=hostile)
    drawn(folder, out)
    styles = pyogrio.read_dataframe(out, layer="layer_styles").set_index("f_table_name")
    assert styles["useAsDefault"].astype(bool).all()
    assert set(styles.index) == {"samples", "cells"}
    assert (styles["f_geometry_column"] == pyogrio.read_info(out, layer="samples")["geometry_name"]).all()
    form = ElementTree.fromstring(styles.loc["samples", "styleQML"])
    widgets = {field.get("name"): field.find("editWidget") for field in form.find("fieldConfiguration")}
    assert widgets["reference"].get("type") == "ValueMap"
    options = widgets["reference"].findall("config/Option/Option[@name='map']/Option/Option")
    offered = {option.get("name"): option.get("value") for option in options}
    names = [hostile[0], hostile[1], "two?lines", hostile[3]]
    assert list(offered.items())[1:] == list(zip(["Annual crop", *names[1:]], names, strict=True))
    frame = gpd.read_file(out, layer="samples")
    frame["reference"] = [names[ids[row, col]] for row, col in zip(frame["row"], frame["col"], strict=True)]
    report = assess_map(folder, save(frame, tmp_path / "labelled.gpkg"))
    assert report.accuracy.overall.value == 1


def test_the_same_seed_draws_the_same_points(tmp_path, folder):
    frames = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_sample(folder, SampleDesign(total=150), tmp_path / f"{name}.gpkg", seed=seed, overwrite=False)
        frames.append(gpd.read_file(tmp_path / f"{name}.gpkg", layer="samples"))
    assert frames[0].equals(frames[1])
    assert not frames[0].geometry.equals(frames[2].geometry)


def test_labels_are_not_overwritten_unasked(tmp_path, folder, truth):
    out = tmp_path / "points.gpkg"
    frame = labelled(folder, out, truth)
    with pytest.raises(UsageError, match=r"points\.gpkg exists\. Choose"):
        drawn(folder, out)
    frame.loc[7:, "reference"] = None
    out.unlink()
    frame.to_file(out, layer="samples")
    before = out.read_bytes()
    with pytest.raises(UsageError, match="exists and holds 7 labels"):
        drawn(folder, out)
    assert out.read_bytes() == before
    draw_sample(folder, SampleDesign(total=150), out, seed=0, overwrite=True)
    assert gpd.read_file(out, layer="samples")["reference"].isna().all()


def test_every_cell_labelled_gives_the_truth_itself(tmp_path, folder, ids, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth, total=ids.size)
    report = assess_map(folder, save(frame, tmp_path / "labelled.gpkg"))
    there = ids != 255
    assert report.points.used == there.sum()
    assert report.present == [0, 1, 2, 3]
    for i in range(4):
        area = report.area_ha(i)
        assert area.value == pytest.approx((truth[there] == i).sum() * CELL_HA)
        assert area.standard_error == 0
        assert report.mapped_ha(i) == pytest.approx((ids == i).sum() * CELL_HA)
        both = ((ids == i) & (truth == i)).sum()
        producer = report.accuracy.producers[i].value
        assert producer == pytest.approx(both / (truth[there] == i).sum())
        if i < 3:
            assert report.accuracy.users[i].value == pytest.approx(both / (ids == i).sum())
        found = report.accuracy.producers[i]
        assert (found.low, found.high) == pytest.approx((found.value, found.value))
    assert report.accuracy.users[3] is None
    assert report.accuracy.overall.value == pytest.approx((ids == truth)[there].mean())
    (warning,) = report.warnings
    assert "cells are counted whole" in warning  # no report lies beside the raster


def test_of_a_map_that_is_right_everywhere_all_labelled_cells_leave_no_doubt(tmp_path, folder, ids):
    frame = labelled(folder, tmp_path / "points.gpkg", ids, total=ids.size)
    report = assess_map(folder, save(frame, tmp_path / "labelled.gpkg"))
    for i in range(3):
        found = report.accuracy.producers[i]
        assert (found.low, found.value, found.high) == (1, 1, 1)


def test_a_sample_comes_close_to_the_truth(tmp_path, folder, ids, truth):
    """In degrees and as GeoJSON; counted by a loop over the arrays."""
    frame = labelled(folder, tmp_path / "points.gpkg", truth, total=400)
    report = assess_map(folder, save(frame.to_crs(4326), tmp_path / "points.geojson"))
    counts = np.zeros((4, 4), int)
    for row, col in zip(frame["row"], frame["col"], strict=True):
        counts[ids[row, col], truth[row, col]] += 1
    assert report.matrix.counts.tolist() == counts.tolist()
    for i in range(4):
        area = report.area_ha(i)
        assert abs(area.value - (truth[ids != 255] == i).sum() * CELL_HA) < 1.5 * area.margin_95
    assert sum(report.area_ha(i).value for i in range(4)) == pytest.approx((ids != 255).sum() * CELL_HA)


def test_points_that_do_not_count_are_counted(tmp_path, folder, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth).drop(columns=["row", "col"])
    frame.loc[:9, "reference"] = None
    frame.loc[10:11, "reference"] = "  "
    frame.loc[12, "reference"] = f" {frame.loc[12, 'reference']} "
    shift = frame.geometry.copy()
    shift.loc[13] = gpd.points_from_xy([LEFT - 1], [TOP - 1])[0]  # just outside
    shift.loc[14] = gpd.points_from_xy([LEFT + 1], [TOP - 1])[0]  # on nodata
    shift.loc[15] = gpd.points_from_xy([1e12], [1e12])[0]
    shift.loc[17] = shift.loc[16]
    frame.loc[17, "reference"] = frame.loc[16, "reference"]
    report = assess_map(folder, save(frame.set_geometry(shift), tmp_path / "labelled.gpkg"))
    counts = report.points
    assert (counts.given, counts.unlabelled, counts.outside, counts.nodata, counts.repeated) == (
        300,
        12,
        2,
        1,
        1,
    )
    assert counts.used == report.matrix.counts.sum() == 300 - 16
    told = " ".join(report.warnings)
    assert "12 of 300 points have no label" in told
    assert "2 labelled points lie outside the map and 1 where it has no class" in told
    assert "1 labelled points share their cell" in told


def test_a_point_beyond_the_projection_is_outside(tmp_path, folder, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth).drop(columns=["row", "col"]).to_crs(4326)
    frame.loc[0, "geometry"] = gpd.points_from_xy([-75.0], [0.0])[0]  # 90 degrees off the zone
    frame.loc[1, "geometry"] = gpd.points_from_xy([15.0], [-95.0])[0]
    assert assess_map(folder, save(frame, tmp_path / "labelled.gpkg")).points.outside == 2


def test_two_labels_for_one_cell_are_refused(tmp_path, folder, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth).drop(columns=["row", "col"])
    frame.loc[1, "geometry"] = frame.loc[0, "geometry"]
    frame.loc[[0, 1], "reference"] = ["Forest", "River"]
    with pytest.raises(UsageError, match="different labels in one cell"):
        assess_map(folder, save(frame, tmp_path / "labelled.gpkg"))


def test_a_point_that_was_moved_is_refused(tmp_path, folder, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth)
    frame.loc[3, "geometry"] = frame.geometry.translate(CELL_M)[3]
    with pytest.raises(UsageError, match=r"1 points of .* lie outside the cells"):
        assess_map(folder, save(frame, tmp_path / "labelled.gpkg"))


def test_points_of_another_map_are_told(tmp_path, folder, ids, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth)
    path = save(frame, tmp_path / "labelled.gpkg")
    other = ids.copy()
    other[20, 20] = 1 - other[20, 20]
    warnings = assess_map(write_map(tmp_path / "other", other), path).warnings
    assert any("another map" in warning for warning in warnings)
    # The same map, stored otherwise, is the same.
    again = write_map(tmp_path / "again", ids, compress="deflate", tiled=True, blockxsize=16, blockysize=16)
    assert assess_map(again, path).warnings == assess_map(folder, path).warnings
    few = frame[frame["reference"] == frame["reference"].iloc[0]].head(1)
    with pytest.raises(
        UsageError, match=r"few\.gpkg was drawn from another map than .*other.*Give the map that"
    ):
        assess_map(tmp_path / "other", save(few, tmp_path / "few.gpkg"))
    own = save(frame.drop(columns="map_sha256"), tmp_path / "own.gpkg")
    assert any("does not say from which map" in warning for warning in assess_map(folder, own).warnings)


def test_a_map_taller_than_a_strip(tmp_path):
    grid = np.random.default_rng(1).integers(0, 2, (1100, 5)).astype(np.uint8)
    folder = write_map(tmp_path / "map", grid)
    frame = labelled(folder, tmp_path / "points.gpkg", grid, total=200)
    report = assess_map(folder, save(frame, tmp_path / "labelled.gpkg"))
    assert report.accuracy.overall.value == 1
    assert any("too few points" in warning for warning in report.warnings)
    assert frame["row"].max() > 1024


def test_unknown_names_are_told_with_the_known(tmp_path, folder, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth)
    frame.loc[5, "reference"] = "Forrest\x07"
    with pytest.raises(UsageError, match=r"'Forrest\?'.*0 AnnualCrop, 1 Forest, 2 SeaLake, 3 River"):
        assess_map(folder, save(frame, tmp_path / "labelled.geojson"))


def test_classes_are_known_by_name_in_any_case_and_by_id(tmp_path, folder, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth)
    expected = assess_map(folder, save(frame, tmp_path / "named.gpkg")).matrix.counts
    spelt = [
        (name.lower(), name.upper(), str(NAMES.index(name)))[n % 3]
        for n, name in enumerate(frame["reference"])
    ]
    report = assess_map(folder, save(frame.assign(reference=spelt), tmp_path / "spelt.gpkg"))
    np.testing.assert_array_equal(report.matrix.counts, expected)
    ids = [
        float(NAMES.index(name)) for name in frame["reference"]
    ]  # as a table with gaps holds whole numbers
    report = assess_map(folder, save(frame.assign(reference=ids), tmp_path / "ids.gpkg"))
    np.testing.assert_array_equal(report.matrix.counts, expected)
    frame.loc[0, "reference"] = "4"
    with pytest.raises(UsageError, match=r"'4'. The map's are 0 AnnualCrop, 1 Forest.*name or id"):
        assess_map(folder, save(frame, tmp_path / "beyond.gpkg"))


@pytest.mark.parametrize(
    ("names", "an_id"),
    [(("1", "2", "3", "4"), 0.0), (("1.0", "2.0", "3.0", "4.0"), 0.0), (("-1", "0", "1", "2"), 3.0)],
)
def test_numbers_are_names_where_classes_are_called_so(tmp_path, ids, truth, names, an_id):
    """Also as a table with gaps holds them: the ids of the map are beside its names."""
    folder = write_map(tmp_path / "numbered", ids, names=names)
    frame = labelled(folder, tmp_path / "points.gpkg", truth, total=240, min_per_class=20)
    on_the_ground = truth[frame["row"], frame["col"]]
    frame["code"] = np.array([float(name) for name in names])[on_the_ground]
    frame.loc[len(frame) - 1, "code"] = np.nan
    found = assess_map(folder, save(frame, tmp_path / "codes.gpkg"), column="code")
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (ids[frame["row"], frame["col"]][:-1], on_the_ground[:-1]), 1)
    np.testing.assert_array_equal(found.matrix.counts, expected)
    frame.loc[0, "code"] = an_id
    with pytest.raises(UsageError, match="they are numbers, so that ids are not taken"):
        assess_map(folder, save(frame, tmp_path / "ids.gpkg"), column="code")


def test_the_report_of_a_joined_map_has_its_areas(tmp_path, ids):
    """Its cells are those of the zones: the raster has some more or less, and may show none of a class."""
    folder = write_map(tmp_path / "joined", ids)
    classes = [{"id": i, "cells": 700 + i, "area_ha": 40.0 - i} for i in range(4)]

    def counted(classes, **tags):
        (folder / "run.json").write_text(json.dumps({"plan_sha256": "a", "classes": classes}))
        with rasterio.open(folder / "landuse.tif", "r+") as file:
            file.update_tags(**tags)
        return counted_map(folder)

    assert counted(classes, plan_sha256="a").of_whole_cells
    found = counted(classes, zones="32N, 33N")
    assert not found.of_whole_cells
    assert found.area_ha.tolist() == [40.0, 39.0, 38.0, 0.0]  # River is nowhere
    assert counted(classes[:1]).of_whole_cells  # of another map: it does not know what the raster shows
    assert counted(classes, plan_sha256="b").of_whole_cells


def test_two_classes_that_differ_in_case_alone_keep_their_labels(tmp_path, ids, truth):
    folder = write_map(tmp_path / "cased", ids, names=("Crop", "crop", "SeaLake", "River"))
    drawn(folder, tmp_path / "points.gpkg")
    frame = gpd.read_file(tmp_path / "points.gpkg", layer="samples").assign(reference="crop")
    report = assess_map(folder, save(frame, tmp_path / "labelled.gpkg"))
    assert report.matrix.counts[:, 1].sum() == len(frame)
    with pytest.raises(UsageError, match="'CROP'"):
        assess_map(folder, save(frame.assign(reference="CROP"), tmp_path / "which.gpkg"))


def test_a_sample_that_nobody_labelled_yet_is_one_clear_sentence(tmp_path, folder):
    drawn(folder, tmp_path / "points.gpkg")
    with pytest.raises(UsageError) as refused:
        assess_map(folder, tmp_path / "points.gpkg")
    assert str(refused.value) == (
        f"No point of {tmp_path / 'points.gpkg'} is labelled yet: write what is on the ground at each of its "
        "300 points into the column reference, by the name of a class of the map, such as AnnualCrop."
    )
    frame = gpd.read_file(tmp_path / "points.gpkg", layer="samples").assign(mine=["", None, " "] * 100)
    with pytest.raises(UsageError, match=r"is labelled yet: .* into the column mine, by the name of a class"):
        assess_map(folder, save(frame, tmp_path / "mine.gpkg"), column="mine")
    with pytest.raises(UsageError, match="is labelled yet"):
        compare_by_samples(folder, folder, tmp_path / "points.gpkg")


def test_too_few_points_say_how_many_are_lacking(tmp_path, folder):
    with pytest.raises(
        UsageError, match=r"--n 60 .* lacking. Give --n \d+ or more, or --min-per-class 20 or"
    ):
        drawn(folder, tmp_path / "points.gpkg", total=60)
    assert drawn(folder, tmp_path / "points.gpkg", total=60, min_per_class=20).points == 60
    with pytest.raises(UsageError, match=r"Give --n \d+ or more\.$"):
        drawn(folder, tmp_path / "none.gpkg", total=5)


def test_a_class_that_nobody_labelled_is_told(tmp_path, folder, truth, ids):
    frame = labelled(folder, tmp_path / "points.gpkg", truth)
    rare = ids[frame["row"], frame["col"]] == 2
    frame.loc[rare, "reference"] = None
    with pytest.raises(UsageError, match=r"SeaLake \(0 of \d+ cells"):
        assess_map(folder, save(frame, tmp_path / "labelled.gpkg"))


def test_rasters_that_are_no_map_of_classes(tmp_path, ids):
    with pytest.raises(UsageError, match="does not exist"):
        counted_map(tmp_path)
    with pytest.raises(UsageError, match="tag `classes`"):
        counted_map(write_map(tmp_path / "untold", ids, names=None))
    with pytest.raises(UsageError, match="tag `classes`"):
        counted_map(write_map(tmp_path / "odd", ids, names={"0": "Forest"}))
    with pytest.raises(UsageError, match="different names"):
        counted_map(write_map(tmp_path / "twice", ids, names=["a", "b", "a "]))
    with pytest.raises(UsageError, match=r"class ids such as \[2\] beyond its 2"):
        counted_map(write_map(tmp_path / "beyond", ids, names=["a", "b"]))
    with pytest.raises(UsageError, match="projected CRS"):
        counted_map(write_map(tmp_path / "degrees", ids, crs="EPSG:4326"))
    with pytest.raises(UsageError, match="uint8 with nodata 255"):
        counted_map(write_map(tmp_path / "zero", ids, nodata=0))
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(UsageError, match="cannot be read as a raster"):
        counted_map(tmp_path / "text.tif")


def test_files_that_are_no_points(tmp_path, folder, truth):
    frame = labelled(folder, tmp_path / "points.gpkg", truth)
    with pytest.raises(UsageError, match="does not exist"):
        assess_map(folder, tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("no points")
    with pytest.raises(UsageError, match="cannot be read as a vector file"):
        assess_map(folder, tmp_path / "text.gpkg")
    path = save(frame, tmp_path / "labelled.gpkg")
    with pytest.raises(UsageError, match=r"no column 'label'.*reference"):
        assess_map(folder, path, column="label")
    with pytest.raises(UsageError, match=r"no table 'x'.*labelled"):
        assess_map(folder, path, layer="x")
    areas = frame.set_geometry(frame.buffer(10))
    with pytest.raises(UsageError, match=r"0 layers of points \(tables: areas: Polygon"):
        assess_map(folder, save(areas, tmp_path / "areas.gpkg"))
    with pytest.raises(UsageError, match="not one point each"):
        assess_map(folder, save(areas, tmp_path / "areas.fgb"))
    path.unlink()
    pyogrio.write_dataframe(frame.drop(columns="geometry"), tmp_path / "table.csv")
    with pytest.raises(UsageError, match="its format is not known"):
        assess_map(folder, tmp_path / "table.csv")


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet", ".shp"])
def test_points_of_every_format_say_the_same(tmp_path, folder, truth, suffix):
    frame = labelled(folder, tmp_path / "points.gpkg", truth, total=300)[["reference", "geometry"]]
    path = tmp_path / f"labelled{suffix}"
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_file(path)
    report = assess_map(folder, path)
    expected = assess_map(folder, save(frame, tmp_path / "expected.gpkg"))
    np.testing.assert_array_equal(report.matrix.counts, expected.matrix.counts)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.vrt", '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{url}/b</SrcDataSource>'
         "</OGRVRTLayer></OGRVRTDataSource>"),
        ("x.gpkg", "<WFS_Capabilities/>"),
        ("x.csv", "reference,geometry\nForest,POINT (1 2)\n"),
        ("x.sql", "SELECT 1"),
    ],
)  # fmt: skip
def test_points_in_a_driver_that_asks_others_are_refused_unopened(tmp_path, folder, name, content):
    with file_server(tmp_path) as server:
        (tmp_path / name).write_text(content.format(url=server.url))
        with pytest.raises(UsageError, match=r"--samples .* cannot be read as a vector file"):
            assess_map(folder, tmp_path / name)
        assert server.log == []


def test_a_view_of_points_is_not_read(tmp_path, folder, truth):
    path = save(labelled(folder, tmp_path / "points.gpkg", truth), tmp_path / "viewed.gpkg")
    with sqlite3.connect(path) as database:
        database.execute("CREATE VIEW seen AS SELECT * FROM viewed")
        database.execute("UPDATE gpkg_contents SET table_name = 'seen'")
        database.execute("UPDATE gpkg_geometry_columns SET table_name = 'seen'")
    database.close()
    with pytest.raises(UsageError, match="views are not read"):
        assess_map(folder, path)


def test_a_report_replaces_nothing_unasked(tmp_path, folder, truth):
    path = save(labelled(folder, tmp_path / "points.gpkg", truth), tmp_path / "labelled.geojson")
    report = assess_map(folder, path)
    write_report(report, tmp_path / "new" / "accuracy.json", overwrite=False)
    with pytest.raises(UsageError, match="exists"):
        write_report(report, tmp_path / "new" / "accuracy.json", overwrite=False)
    write_report(report, tmp_path / "new" / "accuracy.json", overwrite=True)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        write_report(report, path, overwrite=True)
    assert path.read_bytes() == before


def test_commands(tmp_path, folder, truth, run):
    points = tmp_path / "points.gpkg"
    shown = run("sample", folder, "--n", 300, "--out", points, "--json")
    told = json.loads(shown.out)
    assert (shown.code, told["points"], [row["class"] for row in told["classes"]]) == (
        0,
        300,
        list(NAMES[:3]),
    )
    assert run("sample", folder, "--out", points).code == 2
    assert run("sample", folder, "--n", 300, "--per-class", 5, "--out", points).code == 2
    frame = gpd.read_file(points, layer="samples")
    frame["reference"] = [NAMES[truth[row, col]] for row, col in zip(frame["row"], frame["col"], strict=True)]
    path = save(frame, tmp_path / "labelled.gpkg")
    out = tmp_path / "accuracy.json"
    shown = run("area", folder, "--samples", path, "--json", "--out", out)
    told = json.loads(shown.out)
    assert told == json.loads(out.read_text("utf-8"))
    assert "Olofsson" in told["citation"]
    assert np.sum(told["error_matrix"]["area_proportions"]) == pytest.approx(1)
    assert np.sum(told["error_matrix"]["counts"]) == told["points"]["used"] == 300
    assert told["error_matrix"]["classes"] == list(NAMES)
    river = told["classes"][3]
    assert (river["users_accuracy"], river["mapped_ha"]) == (None, 0)
    forest = told["classes"][1]["estimated_ha"]
    assert forest["margin_95"] == pytest.approx(1.96 * forest["standard_error"])
    lines = run("area", folder, "--samples", path).out.splitlines()
    row = next(line.split() for line in lines if line.startswith("Forest"))
    assert row[1:4] == [
        f"{told['classes'][1]['mapped_ha']:,.1f}",
        f"{forest['value']:,.1f}",
        f"{forest['low_95']:,.1f}",
    ]
    assert row[4:6] == ["to", f"{forest['high_95']:,.1f}"]
    assert any(line.startswith("overall accuracy 0.") for line in lines)
