"""Vector layers of a map that is made up here. Oracles: pyogrio, geopandas' Parquet reader, GDAL's sieve,
scipy's components, shapely's test of coverages, the rasters themselves.
"""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from scipy import ndimage

from landuse.contract import LevelInput, ModelContract
from landuse.errors import UsageError
from landuse.pipeline.blocks.plan import make_plan
from landuse.pipeline.cells import NODATA_ID, ClassArea
from landuse.pipeline.scene import AreaView, BandAsset, Scene
from landuse.pipeline.write import vector_layers
from landuse.pipeline.write.vector_layers import VectorOptions, write_vectors

LEFT, TOP, CELL = 480_160, 5_400_320, 160
NAMES = ("Meadow", "<b>\"Wood\" & 'heath'\n</b>", "Sée/../lake")
"""The second and third try to break out of XML, SQL and paths."""


@pytest.fixture(scope="module")
def classes():
    """Patches of a few cells of three classes, with holes of nodata; neither square nor tidy."""
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.normal(size=(57, 83)), 1.2)
    values = np.digitize(smooth, np.quantile(smooth, (0.4, 0.75))).astype(np.uint8)
    values[rng.random(values.shape) < 0.02] = NODATA_ID
    values[20:24, 60:66] = NODATA_ID
    return values


@pytest.fixture
def plan(classes):
    rows, cols = classes.shape
    corners = gpd.GeoSeries(
        [shapely.box(LEFT, TOP - rows * CELL, LEFT + cols * CELL, TOP)], crs="EPSG:32633"
    ).to_crs(4326)
    scene = Scene(
        id="S2A/../../etc'); DROP TABLE landuse; --",
        provider="local",
        acquired_utc=datetime(2024, 6, 1, 10, tzinfo=UTC),
        level="L2A",
        baseline=None,
        cloud_percent=None,
        footprint=(tuple(corners[0].exterior.coords),),
        crs="EPSG:32633",
        bounds_m=(LEFT, TOP - rows * CELL, LEFT + cols * CELL, TOP),
        assets=(BandAsset(band="B04", href="B04.tif"),),
        view=AreaView(seen=1.0, clear=0.75),
    )
    contract = ModelContract(
        name="test",
        bands=("B04",),
        levels=(LevelInput(level="L2A", gain=(1.0,), offset_dn=(0.0,)),),
        saturation_dn=(2750.0,),
        mean=(0.5,),
        std=(0.2,),
        classes=NAMES,
        patch_size_px=64,
        resolution_m=10.0,
    )
    planned = make_plan(
        corners[0].buffer(-1e-4),
        [scene],
        contract,
        weights_sha256="0",
        stride_px=16,
        composite="best",
        clip=False,
        crs="EPSG:32633",
    )
    assert (planned.rows, planned.cols, planned.left_m, planned.top_m) == (rows, cols, LEFT, TOP)
    return planned


@pytest.fixture
def folder(tmp_path, classes):
    confidence = np.random.default_rng(4).integers(90, 251, classes.shape).astype(np.uint8)
    confidence[classes == NODATA_ID] = NODATA_ID
    for name, values in (("landuse", classes), ("confidence", confidence)):
        with rasterio.open(
            tmp_path / f"{name}.tif",
            "w",
            driver="GTiff",
            height=classes.shape[0],
            width=classes.shape[1],
            count=1,
            dtype="uint8",
            nodata=NODATA_ID,
            crs="EPSG:32633",
            transform=Affine(CELL, 0, LEFT, 0, -CELL, TOP),
        ) as file:
            file.write(values, 1)
    return tmp_path


def areas_of(classes):
    mapped = int((classes != NODATA_ID).sum())
    counts = [int((classes == i).sum()) for i in range(len(NAMES))]
    return [
        ClassArea(id=i, name=NAMES[i], cells=n, area_m2=n * CELL**2, share=n / mapped)
        for i, n in enumerate(counts)
    ]


def test_a_geopackage_has_every_layer_and_its_style(plan, folder, classes, monkeypatch):
    monkeypatch.setattr(vector_layers, "STRIP_CELLS", 83 * 10)  # six strips
    assert write_vectors(plan, folder, areas_of(classes), VectorOptions(cells=True)) == ("landuse.gpkg",)
    file = folder / "landuse.gpkg"
    kinds = dict(pyogrio.list_layers(file))
    assert set(kinds) == {"landuse", "cells", "scenes", "summary", "layer_styles"}
    polygons = gpd.read_file(file, layer="landuse")
    assert polygons.geometry.is_valid.all()
    for i, name in enumerate(NAMES):
        mine = polygons[polygons.class_id == i]
        assert set(mine.class_name) == {name}
        assert len(mine) == ndimage.label(classes == i)[1]
        assert mine.area_ha.sum() == pytest.approx((classes == i).sum() * CELL**2 / 1e4)

    cells = gpd.read_file(file, layer="cells")
    assert len(cells) == (classes != NODATA_ID).sum()
    with rasterio.open(folder / "landuse.tif") as raster, rasterio.open(folder / "confidence.tif") as shades:
        at = list(zip(cells.centroid.x, cells.centroid.y, strict=True))
        assert [value[0] for value in raster.sample(at)] == cells.class_id.tolist()
        shares = np.array([value[0] for value in shades.sample(at)]) / 250
        np.testing.assert_allclose(shares, cells.confidence, atol=1e-6)
    assert (cells.area == CELL**2).all()

    summary = pyogrio.read_dataframe(file, layer="summary")
    assert summary.class_name.tolist() == list(NAMES)
    assert summary.area_ha.sum() == pytest.approx(polygons.area_ha.sum())
    assert summary.share_percent.sum() == pytest.approx(100)
    (scene,) = gpd.read_file(file, layer="scenes").itertuples()
    assert scene.scene_id == plan.scenes[0].id
    assert scene.area_cloud_percent == 25
    assert scene.geometry.area == pytest.approx(shapely.Polygon(plan.scenes[0].footprint[0]).area)


def test_the_styles_are_those_that_qgis_looks_for(plan, folder, classes):
    write_vectors(plan, folder, areas_of(classes), VectorOptions())
    with closing(sqlite3.connect(folder / "landuse.gpkg")) as database:
        database.row_factory = sqlite3.Row
        # QGIS asks with these columns (QgsOgrProviderUtils, loadStyle).
        (style,) = database.execute(
            "SELECT id, styleQML FROM layer_styles WHERE f_table_schema = '' AND f_table_name = 'landuse' "
            "AND f_geometry_column = 'geom' AND useAsDefault = 1 ORDER BY update_time DESC"
        ).fetchall()
        (column,) = database.execute(
            "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = 'landuse'"
        ).fetchone()
    assert column == "geom"
    root = ElementTree.fromstring(style["styleQML"])
    renderer = root.find("renderer-v2")
    assert renderer.get("type") == "categorizedSymbol"
    assert renderer.get("attr") == "class_id"
    categories = renderer.findall("categories/category")
    assert [category.get("value") for category in categories] == ["0", "1", "2"]
    assert [category.get("label") for category in categories] == [
        NAMES[0],
        NAMES[1].replace("\n", "?"),
        NAMES[2],
    ]
    fills = {
        symbol.get("name"): symbol.find("layer/Option/Option[@name='color']").get("value")
        for symbol in renderer.findall("symbols/symbol")
    }
    assert len(set(fills.values())) == 3
    assert set(fills) == {category.get("symbol") for category in categories}


def test_small_patches_go_to_their_neighbours_and_the_rasters_stay(plan, folder, classes):
    before = (folder / "landuse.tif").read_bytes()
    write_vectors(plan, folder, areas_of(classes), VectorOptions(min_area_ha=12))  # 4.7 cells: 5
    polygons = gpd.read_file(folder / "landuse.gpkg", layer="landuse")
    assert (folder / "landuse.tif").read_bytes() == before
    assert polygons.area_ha.sum() == pytest.approx((classes != NODATA_ID).sum() * 2.56)
    assert polygons.area_ha.min() >= 5 * 2.56
    assert len(polygons) < sum(ndimage.label(classes == i)[1] for i in range(3)) / 2
    summary = pyogrio.read_dataframe(folder / "landuse.gpkg", layer="summary")
    assert summary.cells.tolist() == [int((classes == i).sum()) for i in range(3)]


def test_simple_outlines_leave_no_gap_between_neighbours(plan, folder, classes):
    write_vectors(plan, folder, areas_of(classes), VectorOptions())
    exact = gpd.read_file(folder / "landuse.gpkg", layer="landuse")
    write_vectors(plan, folder, areas_of(classes), VectorOptions(simplify_m=200))
    simple = gpd.read_file(folder / "landuse.gpkg", layer="landuse")
    assert len(simple) == len(exact)
    assert shapely.coverage_is_valid(simple.explode().geometry.to_numpy())
    vertices = [shapely.get_num_coordinates(frame.geometry.to_numpy()).sum() for frame in (simple, exact)]
    assert vertices[0] < 0.7 * vertices[1]
    assert simple.area_ha.to_numpy() == pytest.approx(simple.area.to_numpy() / 1e4)
    assert simple.area.sum() == pytest.approx(exact.area.sum(), rel=0.02)


@pytest.mark.parametrize("suffix", ["parquet", "fgb"])
def test_other_formats_hold_the_same_in_a_file_for_each_layer(plan, folder, classes, suffix):
    write_vectors(plan, folder, areas_of(classes), VectorOptions())
    exact = gpd.read_file(folder / "landuse.gpkg", layer="landuse")
    names = write_vectors(plan, folder, areas_of(classes), VectorOptions(format=suffix))
    assert names == tuple(f"{layer}.{suffix}" for layer in ("landuse", "scenes", "summary"))
    assert {path.name for path in folder.iterdir()} == {"landuse.tif", "confidence.tif", *names}
    read = gpd.read_parquet if suffix == "parquet" else gpd.read_file
    held = read(folder / f"landuse.{suffix}")
    assert held.crs == exact.crs
    columns = ["class_id", "class_name", "area_ha", "confidence"]

    def in_order(frame):
        key = [(row.geometry.bounds, row.class_id) for row in frame.itertuples()]
        return frame.iloc[sorted(range(len(frame)), key=key.__getitem__)].reset_index(drop=True)

    a, b = in_order(held), in_order(exact)
    pd.testing.assert_frame_equal(pd.DataFrame(a[columns]), pd.DataFrame(b[columns]), check_dtype=False)
    assert shapely.equals(a.geometry.to_numpy(), b.geometry.to_numpy()).all()
    table = folder / f"summary.{suffix}"
    cells = pd.read_parquet(table) if suffix == "parquet" else pyogrio.read_dataframe(table)
    assert cells.cells.tolist() == [area.cells for area in areas_of(classes)]


def test_geoparquet_states_what_version_1_1_asks_and_skips_by_bounds(plan, folder, classes):
    write_vectors(plan, folder, areas_of(classes), VectorOptions(format="parquet"))
    geo = json.loads(pyarrow.parquet.read_metadata(folder / "landuse.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    whole = gpd.read_parquet(folder / "landuse.parquet")
    assert column["bbox"] == list(whole.total_bounds)
    window = (LEFT + 5 * CELL, TOP - 9 * CELL, LEFT + 6 * CELL, TOP - 8 * CELL)
    part = gpd.read_parquet(folder / "landuse.parquet", bbox=window)
    assert 0 < len(part) < len(whole)
    box = shapely.box(*window)
    assert set(whole.index[whole.intersects(box)]) <= set(
        whole.index[whole.geometry.to_wkb().isin(part.geometry.to_wkb())]
    )


def test_a_map_without_a_class_still_has_its_layers(plan, folder, classes):
    with rasterio.open(folder / "landuse.tif", "r+") as file:
        file.write(np.full(classes.shape, NODATA_ID, np.uint8), 1)
    for suffix in ("parquet", "fgb", "gpkg"):
        write_vectors(plan, folder, [], VectorOptions(format=suffix, cells=True, simplify_m=10))
    assert len(gpd.read_file(folder / "landuse.gpkg", layer="landuse")) == 0
    assert len(gpd.read_parquet(folder / "landuse.parquet")) == 0
    assert len(gpd.read_file(folder / "landuse.fgb")) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "shp"}, r"--vector-format 'shp' is unknown. Use gpkg, parquet, fgb"),
        ({"min_area_ha": -1.0}, r"--min-area-ha -1 is no size. Give 0 or more"),
        ({"simplify_m": float("nan")}, r"--simplify-m nan is no size"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        VectorOptions(**options)
