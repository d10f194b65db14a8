"""A map as it is opened by others. Oracles: rasterio and rio-cogeo, pyogrio, pystac, Pillow, Chromium."""

import json
from datetime import datetime

import geopandas as gpd
import numpy as np
import pyogrio
import pystac
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from landuse.contract import LevelInput, ModelContract
from landuse.errors import LanduseError, OutputError, UsageError
from landuse.pipeline.cells import NO_CLASS, CellStatus
from landuse.pipeline.search.area import read_aoi
from landuse.pipeline.write.folder import Store
from landuse.pipeline.write.vector_layers import VectorOptions
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.assemble import OUTPUTS
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest
from tests import warm
from tests.browser import chromium
from tests.stac_schemas import stac_errors
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

HOSTILE = "a\"b'c</script><script>document.title=1</script>../../x\\y\u2028é漢"


def titles_of(names):
    from landuse.classes import legend

    return {" ".join(entry.title.split()): entry.id for entry in legend(names)}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser, which each test has open what it looks at."""
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def areas_on_the_page(page, file, names):
    """Hectares of each class as the page's table shows them, and what the browser complained of."""
    page.get("about:blank")
    page.get_log("browser")
    page.get(file.as_uri())
    page.set_script_timeout(20)
    page.execute_async_script(
        "const done = arguments[0]; const wait = () =>"
        "document.documentElement.dataset.ready ? done() : setTimeout(wait, 20); wait();"
    )
    rows = [
        [cell.text for cell in row.find_elements("css selector", "th, td")]
        for row in page.find_elements("css selector", "#areas tbody tr")
    ]
    complaints = [entry for entry in page.get_log("browser") if entry["level"] != "DEBUG"]
    scripts = len(page.find_elements("css selector", "script"))
    title = page.title
    ids = titles_of(names)
    areas = {ids[" ".join(row[0].split())]: float(row[1].replace(",", "")) for row in rows}
    return areas, complaints, scripts, title


@pytest.mark.usefixtures("drawn_previews")
@pytest.mark.parametrize("scene", SCENES)
def test_every_reader_finds_the_same_areas(scene, data_dir, tmp_path, page):
    name, level, acquired = SCENES[scene]
    source = catalog_of(tmp_path, data_dir / name, level=level, acquired=acquired)
    report = map_area(
        request(tmp_path, source, probabilities=True, vectors=VectorOptions(cells=True)),
        patch_predictor(tmp_path),
    )
    out = tmp_path / "map"
    assert {path.name for path in out.iterdir()} == set(report.files) <= set(OUTPUTS)
    rasters = ("landuse.tif", "confidence.tif", "probabilities.tif", "status.tif", "image.tif")
    for file in rasters:
        assert cog_validate(out / file, strict=True)[:2] == (True, [])
    with rasterio.open(out / "landuse.tif") as file:
        values, counts = np.unique(file.read(1), return_counts=True)
        cell_ha = file.res[0] * file.res[1] / 10_000
        names = json.loads(file.tags()["classes"])
    raster = {int(v): n * cell_ha for v, n in zip(values, counts.tolist(), strict=True) if v != 255}
    assert len(raster) >= 5

    polygons = gpd.read_file(out / "landuse.gpkg", layer="landuse")
    cells = gpd.read_file(out / "landuse.gpkg", layer="cells")
    summary = pyogrio.read_dataframe(out / "landuse.gpkg", layer="summary")
    item = pystac.Item.from_file(str(out / "item.json"))
    run = json.loads((out / "run.json").read_text())
    shown, complaints, _, _ = areas_on_the_page(page, out / "index.html", names)
    assert (cells.area / 10_000).groupby(cells.class_id).sum().to_dict() == pytest.approx(raster)
    land = {entry["id"]: entry["area_ha"] for entry in run["classes"]}
    assert all(0 < area_ha <= raster[i] for i, area_ha in land.items())  # cells reach beyond the imagery
    for found in (
        polygons.groupby("class_id").area_ha.sum().to_dict(),
        (polygons.area / 10_000).groupby(polygons.class_id).sum().to_dict(),
        dict(zip(summary.class_id, summary.area_ha, strict=True)),
        {entry["id"]: entry["area_ha"] for entry in item.properties["landuse:areas"]},
    ):
        assert found == pytest.approx(land, rel=1e-4)
    assert shown == pytest.approx(land, abs=0.051)  # shown to a tenth
    assert complaints == []

    with rasterio.open(out / "probabilities.tif") as file:
        assert file.descriptions == tuple(names)
        shares = file.read() * file.scales[0]
        np.testing.assert_allclose(shares.sum(0), 1, atol=0.5 / 250 * len(names))
        # Two classes may share a step of the coding; the map knows which was ahead.
        mine = np.take_along_axis(shares, read(out / "landuse.tif")[None].astype(int), axis=0)[0]
        np.testing.assert_array_equal(mine, shares.max(0))
    np.testing.assert_allclose(read_share(out / "confidence.tif"), shares.max(0))
    with Image.open(out / "preview.png") as picture:
        assert picture.size == (1920, 1080)
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 1000
    assert stac_errors(json.loads((out / "item.json").read_text())) == []


def test_the_image_shows_the_ground_beneath_the_cells(tmp_path):
    """Oracle: the raster that was mapped, by rasterio's own coordinates."""
    values = np.full((330, 410), 900, np.uint16)
    values[:40] = 0
    values[200:216, 100:132] = 3600
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    map_area(request(tmp_path, source), BrightnessClassifier(64))
    with rasterio.open(tmp_path / "map/image.tif") as image, rasterio.open(tmp_path / "red.tif") as red:
        assert image.bounds == rasterio.open(tmp_path / "map/landuse.tif").bounds
        assert image.res == red.res
        picture = image.read()
        rows, cols = np.indices(image.shape)
        xs = image.transform.c + (cols + 0.5) * image.transform.a
        ys = image.transform.f + (rows + 0.5) * image.transform.e
        for row, col in np.random.default_rng(0).integers((0, 0), image.shape, (500, 2)):
            (dn,) = next(red.sample([(xs[row, col], ys[row, col])]))
            expected = round(1 + 254 * np.sqrt(dn / 10_000 / 0.4)) if dn else 0
            assert picture[:, row, col].tolist() == [expected] * 3  # one band: grey
        assert (picture == 242).any()


def test_the_status_says_where_and_why_there_is_no_class(tmp_path):
    values = np.full((320, 480), 900, np.uint16)
    values[:160] = 0
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values, left=512_000, top=5_310_080))
    aoi = tmp_path / "aoi.gpkg"
    box = gpd.GeoSeries.from_wkt(["POLYGON((512000 5306880,515200 5306880,515200 5310080,512000 5306880))"])
    gpd.GeoDataFrame(geometry=box, crs="EPSG:32633").to_file(aoi)
    report = map_area(request(tmp_path, source, area=read_aoi(aoi)), BrightnessClassifier(64))
    status, classes = read(tmp_path / "map/status.tif"), read(tmp_path / "map/landuse.tif")
    with rasterio.open(tmp_path / "map/status.tif") as file:
        colors = file.colormap(1)
    assert [colors[kind.status][:3] for kind in NO_CLASS] == [kind.color for kind in NO_CLASS]
    assert ((status == CellStatus.CLASSIFIED) == (classes != 255)).all()
    assert set(np.unique(status)) == {CellStatus.OUTSIDE, CellStatus.CLASSIFIED, CellStatus.UNSEEN}
    inside = status != CellStatus.OUTSIDE
    assert report.cover.cells == inside.sum()
    assert report.cover.nodata == pytest.approx(1 / 4)  # of the triangle's area, above half its height
    assert 0.4 < inside.mean() < 0.65


class HostileClassifier(BrightnessClassifier):
    """Its classes and its own name try to break whatever they are written into."""

    def __init__(self):
        super().__init__(64)
        self.contract = ModelContract(
            name=HOSTILE,
            bands=("B04",),
            levels=(LevelInput(level="L2A", gain=(1.0,), offset_dn=(0.0,)),),
            saturation_dn=(10_000.0,),
            mean=(0.0,),
            std=(1.0,),
            classes=(f"{HOSTILE} dark", "'; DROP TABLE landuse; --\n<!-- $x$ ${y} %s {0}"),
            patch_size_px=64,
            resolution_m=10.0,
        )


def test_hostile_names_break_no_file_no_page_and_no_path(tmp_path, page):
    values = np.tile(np.repeat(np.uint16([900, 9000]), 200), (400, 1))
    with rasterio.open(
        tmp_path / "B04.tif",
        "w",
        driver="GTiff",
        height=400,
        width=400,
        count=1,
        dtype="uint16",
        crs="EPSG:32633",
        transform=Affine(10, 0, 512_000, 0, -10, 5_310_080),
        nodata=0,
    ) as file:
        file.write(values, 1)
        file.set_band_description(1, HOSTILE)
        file.update_tags(note=HOSTILE)
        bounds = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    west, south, east, north = bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"../../{HOSTILE}\n\r\x1b[31m",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": list(bounds),
        "properties": {
            "datetime": "2024-06-01T10:00:00Z",
            "processing:level": "L2A",
            "s2:processing_baseline": "03.00",
            "s2:mgrs_tile": HOSTILE,
            "platform": HOSTILE,
            "title": HOSTILE,
        },
        "links": [],
        "assets": {"B04": {"href": "./B04.tif", "title": HOSTILE, "eo:bands": [{"name": "B04"}]}},
    }
    (tmp_path / "item.json").write_text(json.dumps(item))
    maps = tmp_path / "maps"
    before = {path.name for path in tmp_path.iterdir()}
    title = HOSTILE.replace("\u2028", " ")
    asked = MapRequest(
        source=str(tmp_path / "item.json"),
        area=None,
        dates=None,
        catalog=maps,
        title=title,
        probabilities=True,
    )
    report = map_area(asked, HostileClassifier())
    assert {path.name for path in tmp_path.iterdir()} - before == {"maps"}
    out = report.out
    assert out.parent == maps
    assert {path.name for path in out.iterdir()} == set(report.files)

    names = list(HostileClassifier().contract.classes)
    with rasterio.open(out / "landuse.tif") as file:
        assert json.loads(file.tags()["classes"]) == names
        assert json.loads(file.tags()["scenes"]) == [item["id"]]
    with rasterio.open(out / "probabilities.tif") as file:
        assert len(file.descriptions) == 2
    polygons = gpd.read_file(out / "landuse.gpkg", layer="landuse")
    assert set(polygons.class_name) == set(names)
    (scene,) = gpd.read_file(out / "landuse.gpkg", layer="scenes").itertuples()
    assert scene.scene_id == item["id"]
    for file in ("item.json", "model.json", "run.json"):
        json.loads((out / file).read_text())
    for file in ("item.json", "model.json"):
        assert stac_errors(json.loads((out / file).read_text())) == []
    (listed,) = pystac.Catalog.from_file(str(maps / "catalog.json")).get_items()
    assert listed.properties["title"] == title
    areas, complaints, scripts, shown = areas_on_the_page(page, out / "index.html", names)
    assert sum(areas.values()) == pytest.approx(1600, abs=80)
    assert complaints == []
    assert scripts == areas_scripts(page, tmp_path)
    assert "<script>" in shown
    told = warm.run(["-m", "landuse", "map", "--source", tmp_path / "item.json", "--dry-run"])
    assert "\x1b" not in told.stdout + told.stderr


def areas_scripts(page, tmp_path):
    """Scripts of a page whose names are harmless."""
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((200, 200), 900, np.uint16)))
    out = map_area(request(tmp_path, source, out=tmp_path / "plain"), BrightnessClassifier(64)).out
    page.get((out / "index.html").as_uri())
    return len(page.find_elements("css selector", "script"))


def test_an_address_elsewhere_gets_every_file_too(tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((200, 200), 900, np.uint16)))
    report = map_area(request(tmp_path, source, out="memory://published"), BrightnessClassifier(64))
    store = Store.at("memory://published")
    assert set(report.files) == set(store.names())
    item = json.loads(store.read("item.json"))
    assert stac_errors(item) == []
    store.remove()


def test_a_scene_that_was_not_read_is_no_part_of_the_map(tmp_path):
    """Two clear dates of one place: of the second no pixel is needed, so the map is not of its day."""
    raster = red_raster(tmp_path / "red.tif", np.full((200, 200), 900, np.uint16))
    mask = red_raster(tmp_path / "scl.tif", np.full((200, 200), 4, np.uint16))  # vegetation
    with rasterio.open(mask, "r+") as file:
        file.set_band_description(1, "SCL")
    for day in ("2024-06-01", "2024-06-11"):
        catalog = catalog_rasters(
            CatalogRequest(
                rasters=(raster, mask),
                level="L2A",
                acquired_utc=datetime.fromisoformat(f"{day}T10:00:00+00:00"),
                out=tmp_path / "catalog",
                baseline="03.00",
                item_id=f"S{day}",
            )
        )
    out = map_area(request(tmp_path, str(catalog.catalog)), BrightnessClassifier(64)).out
    run = json.loads((out / "run.json").read_text())
    (used,) = [scene["acquired_utc"] for scene in run["scenes"] if scene["used"]]
    assert [scene["used"] for scene in run["scenes"]] == [True, False]
    assert run["title"] == f"Land use, {used[:10]}"
    item = pystac.Item.from_file(str(out / "item.json"))
    assert item.datetime.isoformat() == used
    assert item.id.startswith(f"landuse-{used[:10].replace('-', '')}-")
    assert sum(link.rel == "derived_from" for link in item.links) == 2  # the model, and one scene
    assert "snow (SCL) left out" in item.properties["processing:lineage"]
    with rasterio.open(out / "landuse.tif") as file:
        assert file.tags()["acquired_utc"] == used
        assert json.loads(file.tags()["scenes"]) == [run["scenes"][0]["id"]]
    assert len(gpd.read_file(out / "landuse.gpkg", layer="scenes")) == 2


@pytest.mark.parametrize(
    ("catalog", "out", "message"),
    [
        ("foreign", "map", r"foreign/catalog\.json is not a STAC catalogue. Choose another --catalog"),
        ("file", "map", r"file cannot be written. Choose another --catalog"),
        ("maps", "map #1", r"map #1 has a # or \? in its path"),
    ],
)
def test_a_catalogue_that_cannot_list_the_map_is_refused_before_it_is_made(tmp_path, catalog, out, message):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((100, 100), 900, np.uint16)))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "catalog.json").write_text('{"type": "Feature"}')
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LanduseError, match=message):
        map_area(
            request(tmp_path, source, out=tmp_path / out, catalog=tmp_path / catalog),
            BrightnessClassifier(64),
        )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_in_the_place_of_a_file_leaves_all_as_it_was(tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((100, 100), 900, np.uint16)))
    (tmp_path / "map" / "index.html").mkdir(parents=True)
    (tmp_path / "map" / "landuse.tif").write_text("before")
    with pytest.raises(OutputError, match=r"index\.html is a folder there"):
        map_area(request(tmp_path, source, overwrite=True), BrightnessClassifier(64))
    assert (tmp_path / "map" / "landuse.tif").read_text() == "before"


def test_an_empty_out_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--out is empty"):
        request(tmp_path, "catalog", out="")
