"""The whole path on real files. Oracles: rasterio's windows on the source, arithmetic, other block sizes."""

import json
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
from matplotlib.text import Text
from rasterio.transform import xy
from rasterio.warp import transform_bounds
from rasterio.windows import from_bounds
from rio_cogeo.cogeo import cog_validate

from landuse.commands.terminal import print_report
from landuse.errors import IncompleteError, OutputError, ReadError, UsageError
from landuse.pipeline.pages.preview import draw_preview
from landuse.pipeline.search.area import parse_bbox, read_aoi
from landuse.pipeline.write.vector_layers import VectorOptions
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.dry_run import estimate_run
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.publish import map_view
from tests.workflows.patch_models import patch_predictor
from tests.workflows.small_maps import (
    SCENES,
    BrightnessClassifier,
    catalog_of,
    read,
    read_share,
    red_raster,
    request,
)

INN_PART = "13.125,48.285,13.15,48.30"
"""A part of the scene ``inn``, in degrees."""


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return patch_predictor(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_a_real_scene_end_to_end(scene, real_map):
    made = real_map(scene)
    out, report = made.out, made.report
    assert cog_validate(out / "landuse.tif", strict=True)[:2] == (True, [])
    assert cog_validate(out / "confidence.tif", strict=True)[:2] == (True, [])
    with rasterio.open(made.raster) as image, rasterio.open(out / "landuse.tif") as written:
        classes = written.read(1)
        assert written.crs == image.crs  # the scene's own UTM zone
        assert written.res == (160.0, 160.0)
        assert written.nodata == 255
        assert written.dtypes == ("uint8",)
        for row, col in [(0, 0), (classes.shape[0] - 1, classes.shape[1] - 1), (7, 11)]:
            left, top = xy(written.transform, row, col, offset="ul")
            window = from_bounds(left, top - 160, left + 160, top, image.transform)
            for value in (window.row_off, window.col_off):
                assert value == pytest.approx(round(value), abs=1e-9)
            assert (window.height, window.width) == pytest.approx((16, 16))
        # Every pixel of the scene, to the last row and column, lies in a cell with a class.
        corner_row, corner_col = ((np.array(image.bounds) - np.array(written.bounds)) / 160)[[3, 0]]
        assert -1 < corner_row <= 0
        assert 0 <= corner_col < 1
        cells = np.floor(np.arange(image.height) / 16 - corner_row).astype(int)
        assert cells[-1] == classes.shape[0] - 1
        cells = np.floor(np.arange(image.width) / 16 + corner_col).astype(int)
        assert cells[-1] == classes.shape[1] - 1
        assert (classes != 255).all()
        assert set(written.colormap(1)) >= set(range(10))
    assert len(np.unique(classes)) >= 5
    confidence = read_share(out / "confidence.tif")
    assert confidence.min() >= 0.1
    assert confidence.max() <= 1

    polygons = gpd.read_file(out / "landuse.gpkg", layer="landuse")
    assert polygons.geometry.is_valid.all()
    assert polygons.crs == written.crs
    with rasterio.open(made.raster) as image:
        assert polygons.area.sum() == pytest.approx(image.height * image.width * 100, rel=1e-3)
    assert polygons.area_ha.to_numpy() == pytest.approx(polygons.area.to_numpy() / 10_000, rel=1e-9)
    for value, group in polygons.groupby("class_id"):
        area_m2 = next(entry.area_m2 for entry in report.classes if entry.id == value)
        assert group.area.sum() == pytest.approx(area_m2, rel=1e-3)
        assert area_m2 <= (classes == value).sum() * 160**2
        assert set(group.class_name) == {report.plan.classes[value]}

    run = json.loads((out / "run.json").read_text())
    assert run["cover"]["valid"] == 1.0
    assert run["grid"]["cell_m"] == 160
    assert run["scenes"][0]["level"] == SCENES[scene][1]
    assert sum(entry["cells"] for entry in run["classes"]) == classes.size
    assert run["model"]["name"] == "balanced-fast-rgb"
    assert {path.name for path in out.iterdir()} == set(run["files"])


@pytest.mark.slow
def test_blocks_of_two_sizes_give_the_same_map(data_dir, tmp_path, predictor):
    """On a part of the scene, in one block and in several."""
    source = catalog_of(tmp_path, data_dir / SCENES["inn"][0])
    options = {"stride_px": 16, "area": parse_bbox(INN_PART)}
    one = map_area(request(tmp_path, source, out=tmp_path / "a", block_px=1024, **options), predictor)
    many = map_area(request(tmp_path, source, out=tmp_path / "b", block_px=96, **options), predictor)
    assert len(one.plan.blocks) == 1
    assert len(many.plan.blocks) >= 4
    for name in ("landuse.tif", "confidence.tif"):
        np.testing.assert_array_equal(read(tmp_path / "a" / name), read(tmp_path / "b" / name))


def test_one_pixel_is_found_where_it_lies(tmp_path):
    values = np.full((90, 150), 100, np.uint16)
    values[61, 23] = 9000
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    map_area(request(tmp_path, source, stride_px=1), BrightnessClassifier(1))
    with rasterio.open(tmp_path / "map" / "landuse.tif") as file:
        (row,), (col,) = np.nonzero(file.read(1) == 1)
        assert file.xy(row, col) == (512_340 + 23 * 10 + 5, 5_310_070 - 61 * 10 - 5)
        assert file.shape == (90, 150)


def test_overlapping_windows_peak_where_the_bright_ground_is(tmp_path):
    values = np.full((300, 410), 100, np.uint16)
    left, top = 512_320, 5_310_080  # cell (8, 17) of the 160 m lattice from here
    values[128:144, 272:288] = 9000
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values, left=left, top=top))
    map_area(request(tmp_path, source, probabilities=True), BrightnessClassifier(64))
    with rasterio.open(tmp_path / "map" / "probabilities.tif") as file:
        row, col = np.unravel_index(np.nanargmax(file.read(2)), file.shape)
        x, y = file.xy(row, col)
    assert (x, y) == (left + 272 * 10 + 80, top - 128 * 10 - 80)


@pytest.mark.slow
def test_the_neighbouring_area_gets_the_same_cells(real_map, tmp_path, predictor):
    made = real_map("inn")
    map_area(request(tmp_path, made.source, out=tmp_path / "part", area=parse_bbox(INN_PART)), predictor)
    with (
        rasterio.open(made.out / "landuse.tif") as whole,
        rasterio.open(tmp_path / "part/landuse.tif") as cut,
    ):
        window = from_bounds(*cut.bounds, whole.transform)
        assert (window.height, window.width) == cut.shape
        np.testing.assert_array_equal(whole.read(1, window=window), cut.read(1))


def test_nodata_and_the_ground_outside_the_polygon_get_no_class(tmp_path):
    values = np.full((320, 320), 800, np.uint16)
    values[100:260, 96:230] = 0
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values, left=512_320, top=5_310_080))
    map_area(request(tmp_path, source, stride_px=8, out=tmp_path / "all"), BrightnessClassifier(64))
    classes = read(tmp_path / "all" / "landuse.tif")
    seen = (values != 0).reshape(40, 8, 40, 8).any((1, 3))
    assert (classes[~seen] == 255).all()
    assert (classes[seen] != 255).mean() > 0.9
    polygons = gpd.read_file(tmp_path / "all" / "landuse.gpkg", layer="landuse")
    assert polygons.area.sum() == pytest.approx((classes != 255).sum() * 80**2, rel=1e-4)

    outline = gpd.GeoDataFrame(
        geometry=gpd.points_from_xy([512_320 + 2400], [5_310_080 - 500]).buffer(400), crs=32633
    )
    outline.to_crs(3857).to_file(tmp_path / "aoi.gpkg")
    area = read_aoi(tmp_path / "aoi.gpkg")
    report = map_area(
        request(tmp_path, source, stride_px=8, out=tmp_path / "cut", area=area), BrightnessClassifier(64)
    )
    with rasterio.open(tmp_path / "cut" / "landuse.tif") as file:
        rows, cols = np.nonzero(file.read(1) != 255)
        x, y = xy(file.transform, rows, cols)
    distance = np.hypot(x - (512_320 + 2400), y - (5_310_080 - 500))
    assert distance.max() < 400 + 80
    assert len(rows) == report.cover.cells  # the cover counts the polygon's cells alone
    assert report.cover.valid == 1


def test_an_area_smaller_than_a_patch(tmp_path):
    values = np.full((300, 300), 800, np.uint16)
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    to_degrees = pyproj.Transformer.from_crs(32633, 4326, always_xy=True).transform
    lon, lat = to_degrees(512_340 + 1500, 5_310_070 - 1500)
    tiny = parse_bbox(f"{lon},{lat},{lon + 0.0005},{lat + 0.0003}")
    map_area(request(tmp_path, source, area=tiny), BrightnessClassifier(64))
    classes = read(tmp_path / "map" / "landuse.tif")
    assert 1 <= classes.size <= 4
    assert (classes != 255).all()


def test_an_interrupted_run_is_taken_up_and_ends_the_same(tmp_path):
    rng = np.random.default_rng(3)
    values = rng.integers(1, 9000, (400, 500)).astype(np.uint16)
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    map_area(request(tmp_path, source, out=tmp_path / "a", block_px=128), BrightnessClassifier(64))

    class Interrupt(Exception):
        pass

    def stop(progress):
        if progress.blocks_done == 5:
            raise Interrupt

    counted = []
    with pytest.raises(Interrupt):
        map_area(request(tmp_path, source, out=tmp_path / "b", block_px=128), BrightnessClassifier(64), stop)
    assert not (tmp_path / "b" / "landuse.tif").exists()
    classifier = BrightnessClassifier(64)
    original = classifier.cell_probabilities
    classifier.cell_probabilities = lambda dn, *rest: counted.append(len(dn)) or original(dn, *rest)
    report = map_area(request(tmp_path, source, out=tmp_path / "b", block_px=128), classifier)
    assert 0 < sum(counted) < report.patches
    np.testing.assert_array_equal(read(tmp_path / "a/landuse.tif"), read(tmp_path / "b/landuse.tif"))
    assert not list((tmp_path / "b").glob(".*"))


def test_results_are_not_overwritten_unasked(tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((100, 100), 800, np.uint16)))
    map_area(request(tmp_path, source, probabilities=True), BrightnessClassifier(64))
    before = (tmp_path / "map/run.json").read_bytes()
    with pytest.raises(UsageError, match=r"already holds landuse.tif.*--overwrite"):
        map_area(request(tmp_path, source), BrightnessClassifier(64))
    assert (tmp_path / "map/run.json").read_bytes() == before
    map_area(request(tmp_path, source, overwrite=True), BrightnessClassifier(64))
    assert not (tmp_path / "map/probabilities.tif").exists()  # a stale file beside the new map would lie


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_that_cannot_be_read_is_reported_and_never_a_class(tmp_path):
    values = np.full((160, 320), 800, np.uint16)
    east = red_raster(tmp_path / "east.tif", values, left=515_520, top=5_310_080)
    west = red_raster(tmp_path / "west.tif", values, left=512_320, top=5_310_080)
    catalog_of(tmp_path, west)
    source = catalog_of(tmp_path, east)
    broken = next((tmp_path / "catalog" / "east").glob("B04.tif"))
    broken.write_bytes(broken.read_bytes()[:600])
    with pytest.raises(
        IncompleteError, match=r"50.0 % of the map is empty, since B04 of 'east'.*--allow-failed"
    ):
        map_area(request(tmp_path, source), BrightnessClassifier(64))
    report = map_area(request(tmp_path, source, overwrite=True, allow_failed=True), BrightnessClassifier(64))
    classes = read(tmp_path / "map/landuse.tif")
    assert (classes[:, :20] != 255).all()
    assert (classes[:, 20:] == 255).all()
    run = json.loads((tmp_path / "map/run.json").read_text())
    assert run["cover"]["failed"] == pytest.approx(0.5)
    assert report.cover.cloudy is None  # nobody could look
    assert report.cover.valid + report.cover.failed + report.cover.nodata == pytest.approx(1)
    assert {failure["scene_id"] for failure in run["failures"]} == {"east"}
    with pytest.raises(IncompleteError, match=r"Only 50.0% of 400 cells.*run.json"):
        map_area(request(tmp_path, source, overwrite=True, min_valid_percent=60), BrightnessClassifier(64))
    assert (tmp_path / "map/run.json").exists()

    for other in (tmp_path / "catalog" / "west").glob("B04.tif"):
        other.unlink()
    with pytest.raises(ReadError, match=r"No scene could be read"):
        map_area(request(tmp_path, source, out=tmp_path / "none"), BrightnessClassifier(64))
    assert not (tmp_path / "none/landuse.tif").exists()


def test_an_area_that_lies_outside_the_scenes_is_told_so(tmp_path):
    raster = red_raster(tmp_path / "red.tif", np.full((100, 100), 800, np.uint16))
    with rasterio.open(raster) as file:
        left, bottom, right, top = transform_bounds(file.crs, 4326, *file.bounds)
    wide = parse_bbox(f"{left},{bottom},{left + 10 * (right - left)},{top}")
    source = catalog_of(tmp_path, raster)
    with pytest.raises(
        IncompleteError, match=r"; (8\d|9\d)\.\d % of the area lies outside the scenes: move it"
    ):
        map_area(request(tmp_path, source, area=wide, min_valid_percent=50), BrightnessClassifier(64))


def test_a_file_in_the_way_of_the_output_folder(tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((100, 100), 800, np.uint16)))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written.*another --out"):
        map_area(request(tmp_path, source, out=tmp_path / "file" / "map"), BrightnessClassifier(64))


@pytest.mark.slow
def test_blocks_of_two_sizes_give_the_same_map_of_warped_imagery(data_dir, tmp_path, predictor):
    raster = data_dir / "scenes" / "orihuela_es_L1C_20190918_13b_epsg4326.tif"
    source = catalog_of(tmp_path, raster, level="L1C", acquired=SCENES["orihuela"][2])
    with rasterio.open(raster) as image:
        left, bottom, right, top = image.bounds  # degrees
        part = ((left + right) / 2, bottom, right, (bottom + top) / 2)
    area = parse_bbox(",".join(f"{edge:.6f}" for edge in part))
    one = map_area(request(tmp_path, source, out=tmp_path / "a", block_px=1024, area=area), predictor)
    many = map_area(request(tmp_path, source, out=tmp_path / "b", block_px=96, area=area), predictor)
    assert len(one.plan.blocks) == 1
    assert len(many.plan.blocks) >= 4
    np.testing.assert_array_equal(read(tmp_path / "a" / "landuse.tif"), read(tmp_path / "b" / "landuse.tif"))
    a, b = read_share(tmp_path / "a" / "confidence.tif"), read_share(tmp_path / "b" / "confidence.tif")
    np.testing.assert_allclose(a, b, atol=0.005)  # a step of the coding


def test_blocks_of_a_file_that_was_rewritten_are_not_taken_over(tmp_path):
    dark, bright = (np.full((400, 400), value, np.uint16) for value in (900, 9000))
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", dark))

    class Interrupt(Exception):
        pass

    def stop(progress):
        if progress.blocks_done:
            raise Interrupt

    with pytest.raises(Interrupt):
        map_area(request(tmp_path, source, block_px=128), BrightnessClassifier(64), stop)
    red_raster(tmp_path / "red.tif", bright)
    catalog_rasters(
        CatalogRequest(
            rasters=(tmp_path / "red.tif",),
            level="L2A",
            acquired_utc=datetime(2024, 6, 1, 10, tzinfo=UTC),
            out=tmp_path / "catalog",
            baseline="03.00",
            overwrite=True,
        )
    )
    with pytest.raises(UsageError, match=r"another plan \(its imagery has changed\).*--overwrite"):
        map_area(request(tmp_path, source, block_px=128), BrightnessClassifier(64))
    map_area(request(tmp_path, source, block_px=128, overwrite=True), BrightnessClassifier(64))
    assert (read(tmp_path / "map/landuse.tif") == 1).all()
    assert not list((tmp_path / "map").glob(".*"))  # the other plan's blocks are gone too


def test_imagery_smaller_than_a_patch_is_mapped_and_not_called_cloudy(tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((40, 40), 800, np.uint16)))
    report = map_area(request(tmp_path, source), BrightnessClassifier(64))
    assert report.cover.valid == 1
    assert report.cover.cloudy is None


def test_without_a_mask_cloud_is_not_checked_wherever_it_is_told(tmp_path, capsys):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((100, 100), 800, np.uint16)))
    report = map_area(request(tmp_path, source, min_valid_percent=0), BrightnessClassifier(64))
    print_report(report)
    assert "100.0% classified, cloud not checked, 0.0% failed" in capsys.readouterr().out
    run = json.loads((tmp_path / "map/run.json").read_text())
    assert (run["cover"]["cloudy"], run["cover"]["unmasked_scenes"]) == (None, 1)
    assert any("cloud is not checked" in warning for warning in run["warnings"])
    page = (tmp_path / "map/index.html").read_text()
    assert '"cloudy":null' in page
    drawn = draw_preview(map_view(report, tmp_path / "map")).findobj(Text)
    assert "Cloud, shadow or snow  not checked" in [text.get_text() for text in drawn]
    with report.to_xarray() as opened:
        assert np.isnan(opened.attrs["cloudy"])
    with rasterio.open(tmp_path / "map/landuse.tif") as file:
        assert file.tags()["cloud_mask"] == "no"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "of each pixel the first that is clear"),
        ({"composite": "median"}, "of each pixel the median of those that are clear"),
        ({"fuse": "dates"}, "each is classified"),
    ],
)
def test_the_summary_names_the_days_and_what_of_them_is_shown(tmp_path, capsys, options, shown):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((40, 40), 800, np.uint16)))
    (item_path,) = Path(source).parent.glob("*/*.json")
    item = json.loads(item_path.read_text())
    items = []
    for day in range(1, 9):
        again = json.loads(json.dumps(item))
        again["id"], again["properties"]["datetime"] = f"day-{day}", f"2024-06-{day:02}T10:00:00Z"
        again["properties"]["eo:cloud_cover"] = 10 * abs(day - 3)  # the third is the best
        for asset in again["assets"].values():
            asset["href"] = str(item_path.parent / asset["href"])
        items.append(again)
    several = tmp_path / "items.json"
    several.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    made = map_area(
        request(tmp_path, str(several), max_cloud_percent=100, **options), BrightnessClassifier(64)
    )
    print_report(made)
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("dates"))
    assert told.startswith("dates   2024-06-03, ")
    assert told.endswith(f" and 2 more: {shown}")


def test_every_part_of_a_footprint_is_read(tmp_path):
    values = np.full((300, 300), 800, np.uint16)
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    item_path = next((tmp_path / "catalog").glob("*/*.json"))
    item = json.loads(item_path.read_text())
    west, south, east, north = item["bbox"]
    third = (east - west) / 3

    def ring(left, right):
        return [[[left, south], [right, south], [right, north], [left, north], [left, south]]]

    parts = [ring(west, west + third), ring(east - 0.9 * third, east)]  # the second is the smaller
    item["geometry"] = {"type": "MultiPolygon", "coordinates": parts}
    item_path.write_text(json.dumps(item))
    area = parse_bbox(f"{east - 0.5 * third},{south + 0.005},{east - 0.1 * third},{north - 0.005}")
    report = map_area(request(tmp_path, source, area=area), BrightnessClassifier(64))
    assert report.cover.valid == 1


def test_blocks_outside_the_polygon_cost_nothing(tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((700, 700), 800, np.uint16)))
    corners = gpd.points_from_xy([512_340 + 500, 512_340 + 6500], [5_310_070 - 500, 5_310_070 - 6500])
    gpd.GeoDataFrame(geometry=corners.buffer(60), crs=32633).to_file(tmp_path / "aoi.gpkg")
    area = read_aoi(tmp_path / "aoi.gpkg")
    report = map_area(request(tmp_path, source, area=area, block_px=64), BrightnessClassifier(64))
    assert report.cover.valid == 1
    assert report.patches < 1000  # the whole grid has about 45 x 45 cells


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_later_run_mends_what_failed(tmp_path):
    values = np.full((160, 320), 800, np.uint16)
    catalog_of(tmp_path, red_raster(tmp_path / "west.tif", values, left=512_320, top=5_310_080))
    source = catalog_of(tmp_path, red_raster(tmp_path / "east.tif", values, left=515_520, top=5_310_080))
    whole = tmp_path / "catalog" / "east" / "B04.tif"
    away = whole.rename(tmp_path / "away.tif")
    asked = {"block_px": 160, "allow_failed": True}
    first = map_area(request(tmp_path, source, **asked), BrightnessClassifier(64))
    assert first.failures
    away.rename(whole)
    second = map_area(request(tmp_path, source, block_px=160, overwrite=True), BrightnessClassifier(64))
    assert not second.failures
    assert second.cover.valid == 1
    assert not list((tmp_path / "map").glob(".*"))


@pytest.mark.usefixtures("drawn_previews")
@pytest.mark.parametrize("vectors", [VectorOptions(), VectorOptions(cells=True)])
def test_a_dry_run_foresees_the_disk_that_blocks_and_files_take(data_dir, tmp_path, predictor, vectors):
    name, level, acquired = SCENES["orihuela"]
    source = catalog_of(tmp_path, data_dir / name, level=level, acquired=acquired)
    asked = request(tmp_path, source, probabilities=True, vectors=vectors)
    foreseen = estimate_run(asked, predictor).cost.disk_bytes[1]
    blocks = []

    def watch(progress):
        blocks.append(sum(path.stat().st_size for path in (tmp_path / "map").glob(".blocks-*/*")))

    map_area(asked, predictor, watch)
    files = sum(path.stat().st_size for path in (tmp_path / "map").iterdir())
    assert max(blocks) > 400_000  # their picture has every pixel of the scene
    assert max(blocks) + files < foreseen < 4 * (max(blocks) + files)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda assets: [asset.update({"raster:scale": 1e-5}) for asset in assets.values()], "too dark"),
        (
            lambda assets: assets["B02"].update(href="./B04.tif") or assets["B04"].update(href="./B02.tif"),
            "stated to be B02, B03, B04, B08.*exchanged",
        ),
    ],
)
def test_a_scene_whose_pixels_contradict_its_item_is_not_mapped(data_dir, tmp_path, change, told):
    source = Path(catalog_of(tmp_path, data_dir / SCENES["inn"][0]))
    (document,) = (path for path in source.parent.rglob("*.json") if path != source)
    item = json.loads(document.read_text())
    change(item["assets"])
    document.write_text(json.dumps(item))
    with pytest.raises(UsageError, match=rf"Scene .*{told}.*Mend its metadata"):
        map_area(request(tmp_path, str(source)), BrightnessClassifier(64))
    assert not (tmp_path / "map").exists()
