"""``landuse.map`` and its report. Oracles: the command's map of the same request; rasterio; shapely."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import geopandas as gpd
import matplotlib as mpl
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from matplotlib import pyplot

import landuse
from landuse.pipeline.providers import PROVIDERS
from landuse.pipeline.remote.retry import Patience
from landuse.workflows.mapping import from_python
from landuse.workflows.mapping.from_python import area_of, dates_of, source_of
from landuse.workflows.mapping.map_area import map_area
from tests.workflows.small_maps import BrightnessClassifier, catalog_of, read, red_raster, request

STRIDE = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A catalogue of one scene of 1.5 x 1.7 km, with a hole."""
    folder = tmp_path_factory.mktemp("source")
    values = np.random.default_rng(5).integers(1, 10_000, (150, 170), dtype=np.uint16)
    values[:70, :60] = 0
    return catalog_of(folder, red_raster(folder / "red.tif", values))


@pytest.fixture(autouse=True)
def brightness(monkeypatch):
    monkeypatch.setattr(from_python, "load_classifier", lambda model, device: BrightnessClassifier(16))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made: empty when a test begins."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def items_of(source):
    return list(pystac.Catalog.from_file(source).get_items(recursive=True))


def test_without_a_folder_the_map_is_in_memory_and_nothing_is_left(source, tmp_path, temporary):
    map_area(request(tmp_path, source, stride_px=STRIDE, probabilities=True), BrightnessClassifier(16))
    with landuse.open_map(tmp_path / "map") as expected:
        found = landuse.map(source=source, stride_px=STRIDE, probabilities=True)
        assert all(variable.chunks is None for variable in found.data_vars.values())
        assert list(temporary.iterdir()) == []
        assert found.drop_attrs(deep=False).identical(expected.drop_attrs(deep=False))
        assert found.attrs["plan_sha256"] == expected.attrs["plan_sha256"]
        assert found.odc.geobox == expected.odc.geobox
    assert not [folder for folder in Path.cwd().iterdir() if folder.name == "landuse-map"]


def test_in_memory_nothing_is_drawn_that_would_be_thrown_away(source, monkeypatch):
    for place in ("assemble.write_vectors", "publish.write_page", "publish.write_preview"):
        monkeypatch.delattr(f"landuse.workflows.mapping.{place}")
    assert landuse.map(source=source, stride_px=STRIDE)["class"].size


def test_rasters_alone_go_to_a_folder_on_request(source, tmp_path):
    report = landuse.map(source=source, out=tmp_path / "out", stride_px=STRIDE, rasters_only=True)
    assert not [name for name in report.files if name.endswith((".gpkg", ".html", ".png"))]
    with pytest.raises(landuse.UsageError, match="holds rasters alone"):
        report.to_geodataframe()
    with pytest.raises(landuse.UsageError, match="rasters_only 1 is int"):
        landuse.map(source=source, out=tmp_path / "other", rasters_only=1)


def test_with_a_folder_its_report_opens_it(source, tmp_path, temporary):
    report = landuse.map(source=Path(source), out=tmp_path / "out", stride_px=STRIDE, title="A map")
    assert isinstance(report, landuse.MapReport)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["title"] == "A map"
    with report.to_xarray() as ds:
        np.testing.assert_array_equal(ds["class"], read(tmp_path / "out" / "landuse.tif"))
    grid = f"{report.plan.rows} x {report.plan.cols} cells of 80 m in EPSG:32633"
    assert repr(report) == f"<MapReport 'A map': {grid}, in {tmp_path / 'out'}>"
    polygons = report.to_geodataframe()
    assert polygons.crs.to_epsg() == 32633
    classified_m2 = sum(entry.area_m2 for entry in report.classes)
    cells = (read(tmp_path / "out" / "landuse.tif") != 255).sum()
    assert classified_m2 < polygons.geometry.area.sum() < cells * 80**2  # cut to the scene, not to its hole
    assert list(temporary.iterdir()) == []
    with pytest.raises(landuse.UsageError, match="already holds"):
        landuse.map(source=source, out=tmp_path / "out", stride_px=STRIDE)
    landuse.map(source=source, out=tmp_path / "out", stride_px=STRIDE, overwrite=True)


@pytest.mark.parametrize("hold", [
    lambda items: items[0],
    lambda items: items,
    lambda items: pystac.ItemCollection(items),
    lambda items: pystac.ItemCollection.from_dict(pystac.ItemCollection(items).to_dict()),
])  # fmt: skip
def test_items_in_memory_make_the_map_of_their_files(source, hold, temporary):
    items = items_of(source)
    for item in items:
        item.make_asset_hrefs_absolute()
    found = landuse.map(source=hold(items), stride_px=STRIDE)
    expected = landuse.map(source=source, stride_px=STRIDE)
    assert found.attrs["plan_sha256"] == expected.attrs["plan_sha256"]
    np.testing.assert_array_equal(found["class"], expected["class"])


def test_relative_hrefs_of_an_item_are_resolved_by_its_own_address(source):
    item = items_of(source)[0]
    assert not Path(item.assets["B04"].href).is_absolute()
    (held,) = source_of(item).items
    assert Path(held.item["assets"]["B04"]["href"]).is_file()
    assert held.item_href == item.get_self_href()


def test_an_item_of_the_web_does_not_lead_to_files_here(source, monkeypatch):
    monkeypatch.setattr(Patience, "_pause_s", lambda *_: 0.0)
    item = items_of(source)[0]
    item.make_asset_hrefs_absolute()
    item.set_self_href("https://nowhere.invalid/item.json")
    item.assets["B04"].href = "/etc/passwd"
    with pytest.raises(landuse.LanduseError, match=r"passwd|B04"):
        landuse.map(source=item, stride_px=STRIDE)


def test_a_map_that_does_not_fit_into_memory_is_refused_before_a_pixel_is_read(
    source, monkeypatch, temporary
):
    monkeypatch.setattr(from_python, "MAX_BYTES", 100)
    monkeypatch.setattr(from_python, "map_area", None)
    with pytest.raises(landuse.UsageError, match=r"GiB of memory. Give out="):
        landuse.map(source=source, stride_px=STRIDE)
    assert list(temporary.iterdir()) == []


def test_too_little_of_a_map_is_an_error_that_says_what_became_of_it(source, tmp_path, temporary):
    with pytest.raises(landuse.IncompleteError, match="nothing was kept") as incomplete:
        landuse.map(source=source, stride_px=STRIDE, min_valid_percent=99.9)
    assert incomplete.value.report["cover"]["valid"] < 0.999
    assert list(temporary.iterdir()) == []
    with pytest.raises(landuse.IncompleteError, match=r"run.json are in"):
        landuse.map(source=source, stride_px=STRIDE, min_valid_percent=99.9, out=tmp_path / "kept")
    west, south, east, north = items_of(source)[0].bbox
    with pytest.raises(landuse.IncompleteError, match=r"lies outside the scenes: move it .*, or lower"):
        landuse.map(source=source, area=(west, south, east + 9 * (east - west), north), min_valid_percent=50)


POLYGON = shapely.Polygon([(15.17, 47.93), (15.18, 47.93), (15.18, 47.94)])


def test_areas_that_mean_the_same_are_the_same(tmp_path):
    box = area_of((15.17, 47.93, 15.18, 47.94))
    assert box == area_of([15.17, np.float64(47.93), 15.18, 47.94])
    assert box == area_of(gpd.GeoSeries([POLYGON], crs=4326).total_bounds)
    assert box.clip
    assert box.geometry.equals(shapely.box(15.17, 47.93, 15.18, 47.94))
    frame = gpd.GeoDataFrame(geometry=[POLYGON], crs=4326)
    frame.to_file(tmp_path / "area.gpkg")
    for same in (POLYGON, frame, frame.geometry, tmp_path / "area.gpkg", str(tmp_path / "area.gpkg")):
        found = area_of(same)
        assert found.clip
        assert found.geometry.equals(POLYGON)
    # Edges that are straight in UTM are bowed in degrees.
    utm = area_of(frame.to_crs(32633)).geometry
    assert utm.symmetric_difference(POLYGON).area < 1e-3 * POLYGON.area
    assert area_of((179, 10, -179, 11)).bbox == (179, 10, -179, 11)


DAY = "2024-06-01T00:00:00Z/2024-06-01T23:59:59.999999Z"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("2024-06-01", DAY),
        (date(2024, 6, 1), DAY),
        (datetime(2024, 6, 1), DAY),
        (datetime(2024, 6, 1, 10, 30, tzinfo=UTC), DAY),
        (datetime(2024, 6, 1, 23, tzinfo=timezone(-timedelta(hours=3))), DAY.replace("06-01", "06-02")),
        ("2024-06-01/2024-06-01", DAY),
        (("2024-06-01", date(2024, 6, 1)), DAY),
        ((None, date(2024, 6, 1)), "../2024-06-01T23:59:59.999999Z"),
        ([date(2024, 6, 1), None], "2024-06-01T00:00:00Z/.."),
        (
            (datetime(2024, 6, 1, 10, tzinfo=UTC), datetime(2024, 6, 2, 11)),
            "2024-06-01T10:00:00Z/2024-06-02T11:00:00Z",
        ),
    ],
)
def test_dates(given, meant):
    assert str(dates_of(given)) == meant


def test_sources(tmp_path):
    assert source_of("cdse") == "cdse"
    assert source_of(tmp_path / "a,b.json") == (f"{tmp_path}/a,b.json",)
    provider = PROVIDERS["cdse"]
    assert source_of(["cdse", provider, tmp_path]) == ("cdse", provider, str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": 5}, "source 5 of int is no source"),
        ({"source": None}, "of NoneType is no source"),
        ({"source": []}, "is no source"),
        ({"source": ["cdse", 5]}, "is no source"),
        ({"source": ""}, "--source is empty"),
        ({"source": "nowhere"}, "'nowhere' is neither a provider"),
        ({"area": 5}, "area 5 of int is no area"),
        ({"area": (1, 2, 3)}, "has 3 values, not 4"),
        ({"area": (1, 2, 3, "4")}, "is no area"),
        ({"area": (True, 2, 3, 4)}, "is no area"),
        ({"area": (5, 2, 3, 4)}, "west 5 beyond east 3"),
        ({"area": (1, 2, 3, float("nan"))}, "not finite"),
        ({"area": shapely.Point(1, 2)}, "area holds Point features"),
        ({"area": shapely.Polygon()}, "area holds no features"),
        ({"area": shapely.box(500_000, 5e6, 510_000, 5.1e6)}, "longitudes run from"),
        ({"area": gpd.GeoDataFrame(geometry=[POLYGON])}, "no coordinate reference system"),
        ({"area": "nowhere.gpkg"}, "nowhere.gpkg does not exist"),
        ({"date": 20240601}, "date 20240601 of int is no date"),
        ({"date": "yesterday"}, "'yesterday' is not understood"),
        ({"date": ("2024-06-01", 5)}, "is no date"),
        ({"date": (date(2024, 6, 2), date(2024, 6, 1))}, "run backwards"),
        ({"date": np.datetime64("2024-06-01")}, "datetime64 is no date"),
        ({"stride_px": 16.0}, "stride_px 16.0 is float"),
        ({"stride_px": True}, "stride_px True is bool"),
        ({"stride_px": 7}, "does not divide"),
        ({"max_cloud_percent": "40"}, "max_cloud_percent '40' is str"),
        ({"max_cloud_percent": 140}, "no percentage"),
        ({"min_valid_percent": 140}, "no percentage"),
        ({"composite": "mean"}, "'mean' is unknown"),
        ({"fuse": None}, "fuse None is NoneType"),
        ({"season": 6}, "season 6 is int"),
        ({"season": "fall"}, "--season 'fall' is unknown"),
        ({"smooth": True}, "smooth True is bool"),
        ({"smooth": 0.5}, "--smooth is for models of pixels"),
        ({"smooth_px": 7.0}, "smooth_px 7.0 is float"),
        ({"bands": None}, "bands None is NoneType"),
        ({"model": 5}, "model 5 is int"),
        ({"out": 5}, "out 5 is int"),
        ({"out": ""}, "--out is empty"),
        ({"probabilities": "yes"}, "probabilities 'yes' is str"),
        ({"overwrite": 1, "out": "x"}, "overwrite 1 is int"),
        ({"title": 5, "out": "x"}, "title 5 is int"),
    ],
)
def test_what_is_wrong_is_told_as_the_command_tells_it(source, arguments, message, temporary):
    with pytest.raises(landuse.UsageError, match=message):
        landuse.map(**({"source": source, "stride_px": STRIDE} | arguments))


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.names, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)

    def handle_data(self, data):
        self.text += data


def test_a_notebook_is_shown_the_map_and_nothing_that_runs(source, tmp_path):
    hostile = "<script>alert(1)</script> \"'&"
    report = landuse.map(source=source, out=tmp_path / "<b>out", stride_px=STRIDE, title=hostile)
    shown = Elements(report._repr_html_())
    assert set(shown.names) == {"b", "table", "tr", "td", "p", "code"}
    assert shown.names.count("b") == 1
    assert hostile in shown.text
    assert str(tmp_path / "<b>out") in shown.text
    assert shown.names.count("tr") == len(report.classes) == 2


def test_a_plot_shows_each_cell_in_the_colour_of_its_class(source, tmp_path):
    report = landuse.map(source=source, out=tmp_path / "out", stride_px=STRIDE, title="50 $x$")
    with mpl.rc_context({"backend": "agg"}):
        ax = report.plot()
        (image,) = ax.get_images()
        with rasterio.open(tmp_path / "out" / "landuse.tif") as file:
            colors = {k: v[:3] for k, v in file.colormap(1).items()}
            ids, bounds = file.read(1), file.bounds
        shown = np.asarray(image.get_array())
        for value in (0, 1):
            assert (shown[ids == value] == (*colors[value], 255)).all()
        assert (shown[ids == 255] == 0).all()
        assert image.get_extent() == [bounds.left, bounds.right, bounds.bottom, bounds.top]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Dark", "Bright"]
        ax.figure.savefig(tmp_path / "map.png")
        given = pyplot.figure().add_subplot()
        assert report.plot(given) is given
        pyplot.close("all")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_could_not_be_read_is_an_error_unless_it_is_allowed(tmp_path, temporary):
    values = np.full((60, 60), 800, np.uint16)
    catalog_of(tmp_path, red_raster(tmp_path / "west.tif", values))
    source = catalog_of(tmp_path, red_raster(tmp_path / "east.tif", values, left=512_940))
    (tmp_path / "catalog" / "east" / "B04.tif").write_bytes(b"nothing")
    with pytest.raises(landuse.IncompleteError, match=r"% of the map could not be read.*allow_failed=True"):
        landuse.map(source=source, stride_px=STRIDE)
    assert landuse.map(source=source, stride_px=STRIDE, allow_failed=True).attrs["failed"] > 0
