"""Labels as people have them, and as people who mean ill have them: one message each.

Oracles: the fields that the scene was made of; what each file says.
"""

import json
import sqlite3
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely

import landuse
from landuse.errors import LanduseError, NothingFoundError, UsageError
from landuse.workflows.learn.labels import bounds_lonlat, labels_of, place_raster, place_shapes, read_labels
from tests.workflows.learn.small_labels import FIELD_PX, LEFT, TOP, run
from tests.workflows.small_maps import SCENES, catalog_of

ZONE = "EPSG:32633"


def placed(labels, **options):
    return place_shapes(labels, ZONE, **({"per_shape": 40, "per_class": 2000, "seed": 0} | options))


def learn(world, labels, out, **options):
    values = {"column": "class", "source": world.source, "model": world.model, "max_dates": 1}
    return landuse.learn(labels=labels, out=out / "m.safetensors", **(values | options))


@pytest.mark.parametrize("suffix", ["gpkg", "shp", "fgb", "parquet", "geojson"])
def test_labels_of_every_format_and_crs_mean_the_same_pixels(world, tmp_path, suffix):
    fields = world.fields(12)
    expected = placed(labels_of(fields, "class", "labels"), per_shape=1000)
    path = tmp_path / f"a.{suffix}"
    moved = fields.to_crs(4326 if suffix in ("geojson", "parquet") else 3035)
    moved.to_parquet(path) if suffix == "parquet" else moved.to_file(path)
    found = placed(read_labels(path, None, "class"), per_shape=1000)
    assert found.names == expected.names
    place = [
        set(zip(p.rows.tolist(), p.cols.tolist(), p.labels.tolist(), strict=True)) for p in (found, expected)
    ]
    assert len(place[0] & place[1]) > 0.95 * len(place[1])  # edges move by millimetres


def test_pixels_lie_inside_their_fields_and_no_more_are_drawn_than_asked_for(world):
    fields = world.fields(20)
    pixels = placed(labels_of(fields, "class", "labels"), per_shape=7, per_class=30)
    for name, count in zip(pixels.names, np.bincount(pixels.labels), strict=True):
        assert count <= 30, name
    assert np.bincount(pixels.shapes).max() <= 7
    row, col = pixels.rows + TOP // 10, pixels.cols - LEFT // 10
    assert [pixels.names[i] for i in pixels.labels] == [
        ("dark", "green", "bright")[k] for k in world.truth[row, col]
    ]


def test_a_polygon_smaller_than_a_pixel_is_a_pixel_and_points_are_too(world):
    tiny = shapely.box(LEFT + 11, TOP - 14, LEFT + 12, TOP - 13)
    frame = gpd.GeoDataFrame(
        {"class": ["a", "b"]}, geometry=[tiny, shapely.Point(LEFT + 25, TOP - 35)], crs=ZONE
    )
    pixels = placed(labels_of(frame, "class", "labels"))
    at = sorted(zip(pixels.rows + TOP // 10, pixels.cols - LEFT // 10, strict=True))
    assert at == [(1, 1), (3, 2)]


def test_pixels_in_shapes_of_different_classes_are_left_out_and_told(world, caplog):
    boxes = [shapely.box(0, 0, 100, 100), shapely.box(50, 0, 150, 100), shapely.box(0, 200, 100, 300)]
    boxes = [shapely.affinity.translate(box, LEFT, TOP - 400) for box in boxes]
    frame = gpd.GeoDataFrame({"class": ["wheat", "maize", "wheat"]}, geometry=boxes, crs=ZONE)
    pixels = placed(labels_of(frame, "class", "labels"), per_shape=1000)
    assert pixels.conflicting > 30
    cols = pixels.cols - LEFT // 10
    assert not ((cols >= 5) & (cols < 10) & (pixels.shapes < 2)).any()
    (told,) = [record.getMessage() for record in caplog.records if "different classes" in record.getMessage()]
    assert "maize and wheat" in told or "wheat and maize" in told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class": None}, "has no label: column 'class' is empty or NaN in all of its 6 features"),
        ({"class": float("nan")}, "has no label: column 'class' is empty or NaN"),
        ({"class": "  "}, "has no label"),
        ({"class": "wheat"}, "has the class 'wheat' alone, and a model tells classes apart"),
        ({"class": ["<script>", "c"] * 3}, "has labels that no class can have: class '<script>' is no name"),
        (
            {"class": ["a\x1bb", "../c", "d;e", "f", "Wald/Forst", "Acker: Mais"]},
            "no class can have: classes '../c', 'a?b', 'd;e' are no names: 1 to 80 letters",
        ),
        (
            {"class": ["<1", "<2", "<3", "<4", "<5", "<6"]},
            "'<1', '<2', '<3', '<4', '<5' and 1 more are no names",
        ),
        (
            {"class": ["Forest", "forest", "1", "1.0", "1.1", "10"]},
            "spells one class in several ways: '1' and '1.0'; 'Forest' and 'forest'. Choose one spelling",
        ),
    ],
)
def test_labels_that_teach_nothing_are_refused_in_one_message(world, tmp_path, change, said):
    fields = world.fields(6).assign(**change)
    path = tmp_path / "fields.geojson"
    fields.to_file(path)
    done = run(
        "learn", world.source, "--labels", path, "--column", "class", "--out", tmp_path / "m.safetensors"
    )
    assert done.code == 2
    assert done.err.count("Error: ") == 1
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("m.*"))


def test_features_without_a_class_are_left_out_and_counted(world):
    fields = world.fields(9)
    fields.loc[[1, 4], "class"] = [None, "nan"]
    labels = labels_of(fields, "class", "labels")
    assert labels.unlabelled == 2
    assert list(labels.frame.index) == [0, 2, 3, 5, 6, 7, 8]
    whole = fields.assign(**{"class": [1.0, 2.0, np.nan, 1, 2, 1, 2, 10, 2]})
    assert labels_of(whole, "class", "labels").names == ("1", "2", "10")


def test_scenes_whose_pixels_contradict_their_items_teach_nothing(world, data_dir, tmp_path):
    """As of a map: on reflectance in the wrong unit a model would be learned that is silently wrong."""
    raster = data_dir / SCENES["inn"][0]
    source = Path(catalog_of(tmp_path, raster))
    (document,) = (path for path in source.parent.rglob("*.json") if path != source)
    item = json.loads(document.read_text())
    for asset in item["assets"].values():
        asset["raster:scale"] = 1e-5
    document.write_text(json.dumps(item))
    with rasterio.open(raster) as file:
        left, bottom, right, top = file.bounds
    squares = [shapely.box(x, bottom + 200, x + 500, top - 200) for x in (left + 200, right - 800)]
    labels = gpd.GeoDataFrame({"class": ["a", "b"]}, geometry=squares, crs=ZONE)
    with pytest.raises(UsageError, match=r"Scene .*too dark.*Mend its metadata"):
        learn(world, labels, tmp_path, source=str(source))
    assert not list(tmp_path.glob("m.*"))


def test_labels_outside_the_imagery_are_refused_with_both_places(world, tmp_path):
    far = world.fields(6)
    far = far.set_geometry(far.translate(xoff=40_000))
    with pytest.raises(NothingFoundError, match=r"There is no imagery where --labels are, 15\.7"):
        learn(world, far, tmp_path)
    spread = world.fields(6)
    shapes = [
        shapely.affinity.translate(shape, 60_000 * (-1) ** i) for i, shape in enumerate(spread.geometry)
    ]
    with pytest.raises(UsageError, match=r"No label of --labels lies on the imagery, which covers 512320"):
        learn(world, spread.set_geometry(shapes), tmp_path)
    swapped = world.fields(6).to_crs(4326).set_crs(ZONE, allow_override=True)
    with pytest.raises(LanduseError, match=r"imagery|not on earth"):
        learn(world, swapped, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_no_table_of_labels_is_refused(world, tmp_path):
    fields = world.fields(6)
    fields.to_file(tmp_path / "f.gpkg", layer="fields")
    with pytest.raises(UsageError, match=r"has no column 'crop'. It has: class"):
        read_labels(tmp_path / "f.gpkg", None, "crop")
    with pytest.raises(UsageError, match="Name the column of its classes with --column"):
        read_labels(tmp_path / "f.gpkg", None, None)
    with pytest.raises(UsageError, match=r"has no table 'x' of geometries. It has: fields"):
        read_labels(tmp_path / "f.gpkg", "x", "class")
    with pytest.raises(UsageError, match=r"--labels .*none.gpkg does not exist"):
        read_labels(tmp_path / "none.gpkg", None, "class")
    with pytest.raises(UsageError, match="states no coordinate reference system"):
        labels_of(fields.set_crs(None, allow_override=True), "class", "labels")
    lines = fields.set_geometry(fields.boundary)
    with pytest.raises(UsageError, match=r"holds LineString features. Give polygons or points"):
        labels_of(lines, "class", "labels")
    with pytest.raises(UsageError, match="300 different labels"):
        labels_of(world.fields(30).loc[[0] * 300].assign(id=range(300)), "id", "labels")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gpkg", '<OGRVRTDataSource><OGRVRTLayer name="x"/></OGRVRTDataSource>'),
        ("a.geojson", "<VRTDataset/>"),
        ("a.shp", "WFS:http://127.0.0.1/wfs"),
        ("a.tif", '<VRTDataset rasterXSize="1" rasterYSize="1"/>'),
    ],
)
def test_a_hostile_driver_under_a_known_name_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=r"cannot be read as a vector file"):
        read_labels(tmp_path / name, None, "class")


def test_measurements_are_no_classes(data_dir):
    """Of real points: a band has a value of its own at nearly each."""
    points = gpd.read_file(data_dir / "reference/leipzig_de_landcover_points.gpkg")
    for column in ("b02", "ndvi"):
        with pytest.raises(
            UsageError, match=r"column '.*', has \d\d different labels in 97 .*a column of classes"
        ):
            labels_of(points, column, "labels")
    areas = points.set_geometry(points.buffer(50))
    with pytest.raises(UsageError, match="Is it a column of classes"):
        labels_of(areas, "ndvi", "labels")
    assert len(labels_of(points, "land_cover", "labels").names) == 4
    codes = areas.assign(code=range(111, 111 + len(areas)))
    assert len(labels_of(codes, "code", "labels").names) == 97  # an area of each of many codes
    assert len(labels_of(points[:20], "b08", "labels").names) == 20


def test_a_view_of_a_geopackage_is_not_read(world, tmp_path):
    path = tmp_path / "view.gpkg"
    world.fields(4).to_file(path, layer="fields")
    with sqlite3.connect(path) as database:
        database.execute("DROP TRIGGER IF EXISTS trigger_insert_feature_count_fields")
        database.execute("CREATE VIEW hostile AS SELECT * FROM fields")
        database.execute("UPDATE gpkg_geometry_columns SET table_name = 'hostile'")
    with pytest.raises(UsageError, match=r"0 layers of geometries \(tables: none; views are not read\)"):
        read_labels(path, None, "class")


def test_a_raster_of_labels_is_sampled_and_its_faults_are_told(world, tmp_path):
    ids = world.truth.astype(np.uint8)
    ids[:FIELD_PX] = 255
    labels = read_labels(world.write_raster(tmp_path / "ids.tif", ids), None, None)
    extent = (-TOP // 10, -TOP // 10 + 400, LEFT // 10, LEFT // 10 + 400)
    pixels = place_raster(labels, ZONE, extent, per_class=50, seed=0)
    row, col = pixels.rows + TOP // 10, pixels.cols - LEFT // 10
    assert [pixels.names[i] for i in pixels.labels] == [
        ("dark", "green", "bright")[k] for k in world.truth[row, col]
    ]
    assert row.min() >= FIELD_PX
    assert (np.bincount(pixels.labels) == 50).all()
    plain = read_labels(world.write_raster(tmp_path / "plain.tif", ids, tags=False), None, None)
    assert place_raster(plain, ZONE, extent, per_class=50, seed=0).names == ("0", "1", "2")
    with pytest.raises(UsageError, match="has no column and no layer"):
        read_labels(tmp_path / "ids.tif", None, "class")
    nothing = read_labels(world.write_raster(tmp_path / "no.tif", np.full_like(ids, 255)), None, None)
    with pytest.raises(UsageError, match="has no label on the imagery"):
        place_raster(nothing, ZONE, extent, per_class=50, seed=0)
    one = read_labels(world.write_raster(tmp_path / "one.tif", np.zeros_like(ids)), None, None)
    with pytest.raises(UsageError, match="has the class 'dark' alone"):
        place_raster(one, ZONE, extent, per_class=50, seed=0)
    many = (np.arange(ids.size).reshape(ids.shape) % 3000).astype(np.uint16)
    many = read_labels(world.write_raster(tmp_path / "many.tif", many, nodata=None), None, None)
    with pytest.raises(UsageError, match="more than 255 different values"):
        place_raster(many, ZONE, extent, per_class=50, seed=0)
    with pytest.raises(UsageError, match="1 bands of float32; a raster of labels has one of whole numbers"):
        read_labels(world.write_raster(tmp_path / "f.tif", ids.astype(np.float32)), None, None)


def test_what_a_raster_masks_has_no_label(world, tmp_path):
    """Oracle: the same labels with nodata."""
    ids = world.truth.astype(np.uint8)
    known = np.indices(ids.shape).sum(0) % 3 == 0
    extent = (-TOP // 10, -TOP // 10 + 400, LEFT // 10, LEFT // 10 + 400)

    def masked(name, internal):
        path = world.write_raster(tmp_path / name, np.where(known, ids, 0).astype(np.uint8), nodata=None)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
            file.write_mask(known)
        return path

    stated = world.write_raster(tmp_path / "nodata.tif", np.where(known, ids, 255).astype(np.uint8))
    pixels, expected = (
        place_raster(read_labels(path, None, None), ZONE, extent, per_class=50, seed=0)
        for path in (masked("mask.tif", True), stated)
    )
    for name in ("names", "rows", "cols", "labels"):
        np.testing.assert_array_equal(getattr(pixels, name), getattr(expected, name))
    with pytest.raises(UsageError, match=r"by the file beside\.tif\.msk beside it, which is not read"):
        read_labels(masked("beside.tif", False), None, None)
    with rasterio.open(stated) as file:
        profile = file.profile | {"count": 2, "nodata": None}
    with rasterio.open(tmp_path / "alpha.tif", "w", **profile, ALPHA="YES") as file:
        file.write(np.stack([ids, known * 255]).astype(np.uint8))
    with pytest.raises(UsageError, match="by an alpha band, which is not read"):
        read_labels(tmp_path / "alpha.tif", None, None)


def test_names_that_no_class_can_have_are_told_before_the_imagery_is_looked_at(world, tmp_path):
    path = world.write_raster(tmp_path / "ids.tif", world.truth.astype(np.uint8) + 1)
    for names in (["", "<b>", "c", "d"], ["", "Wald/Forst", "Acker: Mais", "c"]):
        with rasterio.open(path, "r+") as file:
            file.update_tags(classes=json.dumps(names))
        if "<b>" in names:
            with pytest.raises(UsageError, match=r"tag classes, has labels .*: class '<b>' is no name"):
                learn(world, path, tmp_path, column=None, source=tmp_path / "none.json")
        else:
            assert learn(world, path, tmp_path, column=None).classes == ("Acker: Mais", "Wald/Forst", "c")


def test_a_raster_in_another_crs_says_the_same_of_a_place(world, tmp_path):
    ids = world.truth.astype(np.uint8)
    path = world.write_raster(tmp_path / "ids.tif", ids)
    from rasterio.vrt import WarpedVRT

    with rasterio.open(path) as source, WarpedVRT(source, crs="EPSG:3035") as warped:
        profile = warped.profile | {"driver": "GTiff"}
        with rasterio.open(tmp_path / "etrs.tif", "w", **profile) as file:
            file.write(warped.read())
            file.update_tags(classes=json.dumps(["dark", "green", "bright"]))
    labels = read_labels(tmp_path / "etrs.tif", None, None)
    extent = (-TOP // 10, -TOP // 10 + 400, LEFT // 10, LEFT // 10 + 400)
    pixels = place_raster(labels, ZONE, extent, per_class=500, seed=0)
    row, col = pixels.rows + TOP // 10, pixels.cols - LEFT // 10
    inside = (row % FIELD_PX > 1) & (row % FIELD_PX < 14) & (col % FIELD_PX > 1) & (col % FIELD_PX < 14)
    told = np.array([("dark", "green", "bright").index(name) for name in pixels.names])[pixels.labels]
    right = told[inside] == world.truth[row[inside], col[inside]]
    assert right.all()
    west, south, east, north = bounds_lonlat(labels)
    assert west < 15.18 < east
    assert south < 47.93 < north


def test_results_are_not_replaced_unasked_and_options_are_checked(world, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"m\.safetensors exists"):
        learn(world, world.fields(6), tmp_path)
    for options, said in (
        ({"out": tmp_path / "m.pt"}, r"ends in \.safetensors"),
        ({"max_dates": 0}, "--max-dates 0 is not in 1 to 24"),
        ({"per_class": 10**9}, "--per-class"),
        ({"name": "../x"}, "is no name"),
        ({"seed": -1}, "--seed -1 is negative"),
        ({"labels": 3}, "labels 3 is int"),
        ({"column": None}, "column is not given"),
    ):
        values = {"labels": world.fields(6), "column": "class", "out": tmp_path / "n.safetensors"}
        with pytest.raises(UsageError, match=said):
            landuse.learn(**(values | {"source": world.source, "model": world.model} | options))
    with pytest.raises(LanduseError, match="classifies patches"):
        learn(world, world.fields(6), tmp_path, model="balanced-fast-rgb", overwrite=True)
    done = run("learn", "a.tif", "catalog.json", "--labels", "x.gpkg", "--column", "class")
    assert done.code == 2
    assert "give one source" in done.err
