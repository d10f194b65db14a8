"""Areas of a map whose cells reach beyond the area or the imagery. Oracle: shapely, cell by cell."""

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely

from landuse.pipeline.maps.open import counted_map
from landuse.pipeline.maps.sampling import SampleDesign
from landuse.pipeline.search.area import area_of_shapes, parse_bbox
from landuse.pipeline.write.vector_layers import VectorOptions
from landuse.workflows.accuracy import assess_map, draw_sample
from landuse.workflows.mapping.map_area import map_area
from tests.workflows.pixel_models import RedPixels
from tests.workflows.small_maps import BrightnessClassifier, catalog_of, red_raster, request

LEFT, TOP, SIDE_PX = 512_340, 5_310_070, 178
IMAGERY = shapely.box(LEFT, TOP - SIDE_PX * 10, LEFT + SIDE_PX * 10, TOP)  # 316.84 ha
MODELS = {
    "patches": (BrightnessClassifier(64), {"stride_px": 64}),
    "pixels": (RedPixels(), {}),
    "pixels of 40 m": (RedPixels(), {"cell_m": 40}),
}
FIELDS = shapely.Polygon(
    [
        (LEFT + 203, TOP - 1_411),
        (LEFT + 917, TOP - 57),
        (LEFT + 2_390, TOP - 701),
        (LEFT + 1_303, TOP - 1_693),
    ]
).difference(shapely.Point(LEFT + 1_000, TOP - 1_000).buffer(170))
"""With a hole, and reaching beyond the imagery."""
PLOT = shapely.box(LEFT + 703, TOP - 741, LEFT + 737, TOP - 709)  # 0.11 ha


def in_degrees(shape):
    """As a fine outline, since straight lines bend."""
    return gpd.GeoSeries([shapely.segmentize(shape, 20)], crs=32633).to_crs(4326)


def asked_area(place):
    """An area as a user names it."""
    if place is None:
        return None
    if place == "box":
        return parse_bbox(",".join(f"{edge:.9f}" for edge in in_degrees(FIELDS).total_bounds))
    return area_of_shapes(in_degrees(place), "area", "area")


def in_map(area):
    """The area in the map's CRS; None: all of the imagery."""
    if area is None:
        return IMAGERY
    outline = gpd.GeoSeries([shapely.segmentize(area.geometry, 1e-4)], crs=4326).to_crs(32633).iloc[0]
    return outline.intersection(IMAGERY)


def hectares(land, raster):
    """Area of each class on some land."""
    with rasterio.open(raster) as file:
        ids, size = file.read(1), file.transform.a
        rows, cols = np.indices(ids.shape)
        left, top = file.transform @ (cols, rows)
    parts = shapely.area(shapely.intersection(shapely.box(left, top - size, left + size, top), land)) / 1e4
    found = {int(i): parts[ids == i].sum() for i in np.unique(ids) if i != 255}
    return {i: area for i, area in found.items() if area > 1e-4}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    values = np.random.default_rng(1).integers(500, 9_500, (6, 6)).repeat(30, 0).repeat(30, 1)
    return catalog_of(folder, red_raster(folder / "red.tif", values[:SIDE_PX, :SIDE_PX].astype(np.uint16)))


@pytest.mark.parametrize("place", [None, "box", FIELDS, PLOT], ids=["all", "box", "fields", "plot"])
@pytest.mark.parametrize("model", MODELS)
def test_a_cell_counts_as_far_as_it_lies_inside_the_area_and_the_imagery(tmp_path, source, model, place):
    classifier, options = MODELS[model]
    area = asked_area(place)
    vectors = VectorOptions(min_area_ha=0)
    report = map_area(request(tmp_path, source, area=area, vectors=vectors, **options), classifier)
    land = in_map(area)
    expected = hectares(land, report.out / "landuse.tif")
    assert sum(expected.values()) == pytest.approx(land.area / 1e4, rel=1e-4)  # no hole at the edge
    assert {entry.id: entry.area_ha for entry in report.classes} == pytest.approx(expected, rel=2e-4)
    assert report.cover.valid == pytest.approx(
        1 if area is None else land.area / shapely.from_wkt(report.plan.area_wkt).area, rel=1e-3
    )
    polygons = gpd.read_file(report.out / "landuse.gpkg", layer="landuse")
    assert polygons.geometry.is_valid.all()
    assert polygons.groupby("class_id").area_ha.sum().to_dict() == pytest.approx(expected, rel=2e-4)
    assert polygons.area_ha.to_numpy() == pytest.approx(polygons.area.to_numpy() / 1e4)
    assert polygons.union_all().difference(land.buffer(0.05)).area == 0
    # So does what is estimated from labels.
    counted = counted_map(report.out)
    assert {i: area for i, area in enumerate(counted.area_ha) if area} == pytest.approx(expected, rel=2e-4)


def test_beyond_a_box_no_cell_has_a_class_and_no_point_is_drawn(tmp_path):
    """A box in degrees leaves corners of its grid free, above all far from the middle of a zone."""
    land = red_raster(tmp_path / "far.tif", np.full((300, 300), 800, np.uint16), left=780_000)
    far = catalog_of(tmp_path, land)
    inner = in_degrees(shapely.box(780_500, TOP - 2_500, 782_500, TOP - 500))
    area = parse_bbox(",".join(f"{edge:.9f}" for edge in inner.total_bounds))
    map_area(request(tmp_path, far, area=area), RedPixels())
    outline = gpd.GeoSeries([shapely.segmentize(area.geometry, 1e-4)], crs=4326).to_crs(32633).iloc[0]
    with rasterio.open(tmp_path / "map/landuse.tif") as file:
        rows, cols = np.indices(file.shape)
        lefts, tops = file.transform.c + 10 * cols, file.transform.f - 10 * rows
        classes = file.read(1)
    cells = shapely.box(lefts, tops - 10, lefts + 10, tops)
    beyond = shapely.distance(cells, outline) > 1
    assert beyond.sum() > 1_000
    assert (classes[beyond] == 255).all()
    assert (classes[shapely.area(shapely.intersection(cells, outline)) > 1] != 255).all()
    draw_sample(tmp_path / "map", SampleDesign(total=300), tmp_path / "points.gpkg", seed=1, overwrite=False)
    points = gpd.read_file(tmp_path / "points.gpkg", layer="samples").to_crs(32633)
    assert outline.buffer(8).covers(points.geometry).all()


def test_whole_cells_are_left_whole_where_that_is_asked_for(tmp_path, source):
    classifier, options = MODELS["patches"]
    vectors = VectorOptions(whole_cells=True)
    asked = request(tmp_path, source, area=asked_area(PLOT), vectors=vectors, **options)
    report = map_area(asked, classifier)
    polygons = gpd.read_file(report.out / "landuse.gpkg", layer="landuse")
    assert polygons.area_ha.sum() == pytest.approx(report.cover.cells * 640**2 / 1e4)
    assert sum(entry.area_ha for entry in report.classes) == pytest.approx(PLOT.area / 1e4, rel=1e-3)


def test_blocks_of_two_sizes_count_the_same_land(tmp_path, source):
    classifier = RedPixels()
    one, many = (
        map_area(
            request(tmp_path, source, area=asked_area(FIELDS), out=tmp_path / str(px), block_px=px),
            classifier,
        )
        for px in (512, 64)
    )
    assert len(many.plan.blocks) > len(one.plan.blocks)
    assert one.classes == many.classes
    assert one.cover == many.cover


def test_labels_weigh_the_classes_by_the_land_that_the_map_counts(tmp_path, source):
    classifier, options = MODELS["pixels of 40 m"]
    report = map_area(request(tmp_path, source, area=asked_area(FIELDS), **options), classifier)

    points = tmp_path / "points.gpkg"
    draw_sample(report.out, SampleDesign(per_class=5), points, seed=0, overwrite=False)
    frame = gpd.read_file(points, layer="samples").assign(reference="Dark")
    frame.to_file(tmp_path / "labelled.gpkg")
    assessed = assess_map(report.out, tmp_path / "labelled.gpkg")
    land_ha = in_map(asked_area(FIELDS)).area / 1e4
    assert assessed.total_ha == pytest.approx(land_ha, rel=1e-4)
    assert assessed.area_ha(0).value == pytest.approx(land_ha, rel=1e-4)  # all are labelled Dark
    assert assessed.accuracy.overall.value == pytest.approx(report.classes[0].share, rel=1e-6)
    assert not any("run.json" in warning for warning in assessed.warnings)
    (report.out / "run.json").unlink()
    whole = assess_map(report.out, tmp_path / "labelled.gpkg")
    assert whole.total_ha == pytest.approx(sum(entry.cells for entry in report.classes) * 0.16)
    assert any("counted whole" in warning for warning in whole.warnings)
