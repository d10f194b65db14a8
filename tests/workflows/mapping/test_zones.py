"""An area over UTM zones, a map a zone, joined.

Oracles: the rule that the land is painted by, asked at the place of each cell; geodesic areas by pyproj; the
map that ``map_area`` makes of one zone's part alone; shapely's union of the joined polygons.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from distributed import LocalCluster
from rasterio.warp import transform_bounds

import landuse
from landuse.errors import BusyError, IncompleteError, NothingFoundError, ReadError, UsageError
from landuse.pipeline.maps.open import counted_map
from landuse.pipeline.maps.viewable import folders_of, viewable
from landuse.pipeline.search.area import Area, parse_bbox
from landuse.pipeline.write.folder import Store
from landuse.pipeline.write.geopackage import convert_layers
from landuse.pipeline.write.vector_layers import VectorOptions
from landuse.pipeline.zones import joined_crs, parts_by_zone
from landuse.workflows.mapping.dry_run import estimate_any
from landuse.workflows.mapping.in_process import Cluster, Stage
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest
from landuse.workflows.mapping.zones.join_zones import join
from landuse.workflows.mapping.zones.map_zones import map_zones
from tests.servers import stac_item
from tests.stac_schemas import stac_errors
from tests.workflows.pixel_models import RedPixels, red_pixels
from tests.workflows.small_maps import assert_same_files, read, red_raster
from tests.workflows.world import item_collection

PLACES = {
    "inland": (12.0, 48.0, "EPSG:32632", "EPSG:32633"),
    "over the 180th meridian": (180.0, -17.0, "EPSG:32760", "EPSG:32701"),
}
"""Longitude and latitude of a point of a zone's border, and the zones to its west and east."""

EXACT = VectorOptions(min_area_ha=0.0)


def red_at(lon, lat):
    """What the land is painted by: bright and dark fields of some 150 m; (any) to DN."""
    fields = np.floor((lon % 360) * 500) + np.floor(lat * 700)
    return np.where(fields % 2 == 0, 2000, 7000)


def class_at(lon, lat):
    """Dark is 0; of 7000 DN Bright has .7 - .49 and Glaring .49."""
    return np.where(red_at(lon, lat) == 2000, 0, 2)


def centres(transform, shape, crs):
    """Longitude and latitude of cells' centres, (row, col) each."""
    rows, cols = np.mgrid[: shape[0], : shape[1]] + 0.5
    x, y = transform.a * cols + transform.c, transform.e * rows + transform.f
    return pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """A catalogue of two scenes of each place, one in each zone, that show the same land."""
    found = {}
    for place, (lon, lat, *zones) in PLACES.items():
        folder = tmp_path_factory.mktemp("world")
        items = []
        for number, crs in enumerate(zones):
            x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
            left, top = round(x / 10) * 10 - 1600, round(y / 10) * 10 + 1500
            lons, lats = centres(Affine(10, 0, left, 0, -10, top), (300, 320), crs)
            red = red_at(lons, lats)
            bands = np.stack([red, np.full_like(red, 2500)]).astype(np.uint16)
            for band, values in zip(("B04", "B08"), bands, strict=True):
                path = folder / f"zone{number}-{band}.tif"
                red_raster(path, values, bands=(band,), left=left, top=top, crs=crs)
            edges = transform_bounds(crs, "EPSG:4326", left, top - 3000, left + 3200, top)
            item = stac_item(
                f"zone{number}", bbox=edges, datetime="2024-06-01T10:00:00Z", bands=("B04", "B08"),
                href=f"{folder}/zone{number}-{{band}}.tif", s2__processing_baseline="03.00", proj__code=crs,
                platform="sentinel-2a",
            )  # fmt: skip
            for asset in item["assets"].values():
                asset |= {"proj:shape": [300, 320], "proj:transform": [10, 0, left, 0, -10, top]}
            items.append(item)
        source = item_collection(folder / "items.json", items)
        west, east = lon - 0.012, lon + 0.011
        box = f"{west},{lat - 0.009},{east - 360 * (east > 180)},{lat + 0.008}"
        found[place] = source, parse_bbox(box)
    return found


def asked(worlds, place, out, **options):
    source, area = worlds[place]
    values = {"source": source, "area": area, "dates": None, "out": out, "zones": "each", "vectors": EXACT}
    return MapRequest(**(values | {"block_px": 96} | options))


@pytest.fixture(scope="module")
def mapped(worlds, tmp_path_factory):
    """Of both places the report, and how often the network was asked for the first and the second zone."""
    made = {}
    for place in PLACES:
        out = tmp_path_factory.mktemp("zones") / "map"
        classifier, begun = RedPixels(), []

        def on_progress(progress, classifier=classifier, begun=begun):
            if progress.stage is Stage.SEARCH:
                begun.append(len(classifier.asked))

        request = asked(worlds, place, out, probabilities=True)
        report = map_zones(request, classifier, on_progress)
        made[place] = report, (begun[1], len(classifier.asked) - begun[1])
    return made


@pytest.fixture(scope="module")
def joined(mapped):
    """The reports of both places. Tests must not change their folders."""
    return {place: report for place, (report, _) in mapped.items()}


@pytest.mark.parametrize("place", PLACES)
def test_each_cell_of_each_zone_and_of_the_joined_raster_shows_its_place(joined, place):
    report = joined[place]
    _, _, *zones = PLACES[place]
    assert [zone.plan.crs for zone in report.zones] == zones
    for name in ("landuse.vrt", *(f"{zone.folder}/landuse.tif" for zone in report.zones)):
        with rasterio.open(report.out / name) as file:
            ids, transform, crs = file.read(1), file.transform, file.crs
            assert file.colormap(1)[0] != file.colormap(1)[2]
        right = class_at(*centres(transform, ids.shape, crs)) == ids
        mapped = ids != 255
        assert mapped.mean() > (0.8 if name == "landuse.vrt" else 0.4)
        # A warped cell holds the nearest one's class, which at a field's edge is that of half a cell aside.
        assert right[mapped].mean() > (0.93 if name == "landuse.vrt" else 0.999)
    with rasterio.open(report.out / "landuse.vrt") as whole:
        assert whole.crs.to_string() == report.crs in zones
        main = next(zone for zone in report.zones if zone.plan.crs == report.crs)
        with rasterio.open(report.out / main.folder / "landuse.tif") as own:
            window = whole.window(*own.bounds)
            ids = own.read(1)
            shown = whole.read(1, window=window)
    # The cells of the CRS's own zone are shown as they are.
    np.testing.assert_array_equal(shown[ids != 255], ids[ids != 255])
    for name in ("cover", "confidence", "second", "status", "image", "probabilities"):
        with rasterio.open(report.out / f"{name}.vrt") as file:
            assert file.read().shape[0] == file.count
            with rasterio.open(report.out / main.folder / f"{name}.tif") as own:
                assert (file.dtypes, file.nodatavals, file.scales, file.units, file.descriptions) == (
                    own.dtypes, own.nodatavals, own.scales, own.units, own.descriptions
                )  # fmt: skip
                window = file.window(*own.bounds)
                seen = own.dataset_mask() > 0
                np.testing.assert_array_equal(file.read(window=window)[:, seen], own.read()[:, seen])


@pytest.mark.parametrize("place", PLACES)
def test_areas_add_up_and_no_land_counts_twice(worlds, joined, place):
    report, (_, area) = joined[place], worlds[place]
    geod = pyproj.Geod(ellps="WGS84")
    true_m2 = sum(abs(geod.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(area.geometry))
    assert report.land_m2 == pytest.approx(true_m2, rel=2e-3)  # UTM's own scale at a zone's border
    assert report.cover.valid == pytest.approx(1)
    assert sum(entry.area_m2 for entry in report.classes) == pytest.approx(report.land_m2, rel=1e-6)
    assert sum(entry.share for entry in report.classes) == pytest.approx(1)
    polygons = report.to_geodataframe()
    assert set(polygons.zone) == {zone.part.name for zone in report.zones}
    assert polygons.area_ha.sum() * 10_000 == pytest.approx(report.land_m2, rel=1e-6)
    summary = geopandas.read_file(report.out / "landuse.gpkg", layer="summary")
    by_class = polygons.groupby("class_name").area_ha.sum()
    assert summary.set_index("class_name").area_ha.to_dict() == pytest.approx(by_class.to_dict(), rel=1e-6)
    # Laid on one another they cover the area once, but for what two straight lines leave between them.
    union = shapely.union_all(shapely.make_valid(polygons.geometry.to_numpy()))
    assert polygons.geometry.area.sum() - union.area < 1
    outline = geopandas.read_file(report.out / "landuse.gpkg", layer="zones")
    assert shapely.union_all(outline.geometry.to_numpy()).symmetric_difference(area.geometry).area < 1e-12
    inner = union.buffer(0.5).buffer(-0.5)
    assert shapely.get_num_interior_rings(inner) == 0 if inner.geom_type == "Polygon" else False


@pytest.mark.parametrize("place", PLACES)
def test_the_documents_say_what_is_there(joined, place):
    report = joined[place]
    run = json.loads((report.out / "run.json").read_text("utf-8"))
    assert all((report.out / name).is_file() for name in run["files"])
    assert run["plan_sha256"] == report.plan_sha256
    collection = json.loads((report.out / "collection.json").read_text("utf-8"))
    assert stac_errors(collection) == []
    opened = pystac.Collection.from_file(report.out / "collection.json")
    items = list(opened.get_items())
    assert [item.properties["proj:code"] for item in items] == [zone.plan.crs for zone in report.zones]
    assert {item.get_collection().id for item in items} == {opened.id}
    assert opened.assets["landuse"].href == "./landuse.vrt"
    west, _, east, _ = opened.extent.spatial.bboxes[0]
    assert (west > east) == (PLACES[place][0] == 180)
    for zone in report.zones:
        item = json.loads((report.out / zone.folder / "item.json").read_text("utf-8"))
        assert stac_errors(item) == []
    assert sorted(path.name for path in report.out.iterdir() if path.name.startswith(".")) == []


def test_a_zones_map_is_that_of_its_part_alone(worlds, joined, tmp_path):
    """Byte for byte, but for the collection that it belongs to."""
    report = joined["inland"]
    _, area = worlds["inland"]
    for part in parts_by_zone(area.geometry):
        alone = asked(
            worlds, "inland", tmp_path / part.name, probabilities=True, zones="one", crs=part.crs,
            area=Area(geometry=part.geometry, clip=True, name="part"),
        )  # fmt: skip
        map_area(alone, RedPixels())
        theirs = tmp_path / part.name / "item.json"
        item = json.loads(theirs.read_text("utf-8"))
        theirs.write_text(json.dumps({**item, "collection": f"landuse-zones-{report.plan_sha256[:8]}"}))
        assert_same_files(report.out / f"zone-{part.name}", tmp_path / part.name)


def test_one_zone_alone_is_joined_too(worlds, tmp_path):
    _, area = worlds["inland"]
    west, south, _, north = area.bbox
    corner = parse_bbox(f"{west},{south},11.9995,{north}")
    report = map_zones(asked(worlds, "inland", tmp_path / "map", area=corner), RedPixels())
    assert [zone.part.name for zone in report.zones] == ["32N"]
    with (
        rasterio.open(tmp_path / "map/landuse.vrt") as whole,
        rasterio.open(tmp_path / "map/zone-32N/landuse.tif") as own,
    ):
        np.testing.assert_array_equal(whole.read(1, window=whole.window(*own.bounds)), own.read(1))
    assert not (tmp_path / "map" / "warped").exists()


@pytest.mark.parametrize("kind", ["parquet", "fgb"])
def test_polygons_of_other_formats_are_joined_as_well(joined, tmp_path, kind):
    shutil.copytree(joined["inland"].out, tmp_path / "map")
    for zone in joined["inland"].zones:
        convert_layers(tmp_path / "map" / zone.folder / "landuse.gpkg", f".{kind}")
    report = replace(joined["inland"], vectors=replace(EXACT, format=kind), out=tmp_path / "map")
    report = join(report, Store.at(tmp_path / "map"))
    assert not (tmp_path / "map" / "landuse.gpkg").exists()
    made, expected = report.to_geodataframe(), joined["inland"].to_geodataframe()
    assert made.crs == expected.crs
    for frame in (made, expected):  # FlatGeobuf has an order of its own
        frame["wkb"] = shapely.to_wkb(shapely.normalize(frame.geometry.to_numpy()), hex=True)
    columns = ["wkb", "zone", "class_id", "class_name", "confidence", "area_ha"]
    made, expected = (frame[columns].sort_values("wkb", ignore_index=True) for frame in (made, expected))
    assert made.equals(expected)


@pytest.mark.parametrize("place", PLACES)
def test_the_maps_of_all_zones_open_as_one_dataset(joined, place):
    """Oracles: the virtual rasters as rasterio reads them, and the map of one zone as xarray."""
    report = joined[place]
    with landuse.open_map(report.out) as whole, report.to_xarray() as same:
        assert whole.equals(same)
        assert whole.attrs["zones"] == ", ".join(zone.part.name for zone in report.zones)
        assert whole.attrs["valid"] == pytest.approx(report.cover.valid)
        by_id = {entry.id: entry.area_ha for entry in report.classes}
        assert whole["class"].attrs["area_ha"] == [by_id.get(i, 0.0) for i in range(3)]
        with rasterio.open(report.out / "landuse.vrt") as file:
            np.testing.assert_array_equal(whole["class"].values, file.read(1))
            assert whole.odc.geobox.crs.to_epsg() == file.crs.to_epsg()
            assert whole.odc.geobox.affine == file.transform
        with rasterio.open(report.out / "probabilities.vrt") as file:
            shares = np.where(file.read() == 255, np.nan, file.read() * np.float32(file.scales[0]))
            np.testing.assert_allclose(whole["probabilities"].values, shares, atol=1e-6)
        main = next(zone for zone in report.zones if zone.plan.crs == report.crs)
        with landuse.open_map(report.out / main.folder) as own:
            for name in ("class", "cover", "confidence", "status"):
                shown = whole[name].sel(x=own.x, y=own.y, method="nearest").where(own["class"] != 255)
                np.testing.assert_array_equal(shown, own[name].where(own["class"] != 255))


def test_a_page_of_joined_maps_shows_those_of_the_zones(joined):
    report = joined["inland"]
    found = [viewable(folder) for folder in folders_of(report.out)]
    assert [entry.path.name for entry in found] == [zone.folder for zone in report.zones]
    assert {(entry.zone, entry.is_north) for entry in found} == {(32, True), (33, True)}


def test_joined_maps_that_lead_elsewhere_or_lie_elsewhere_are_refused(joined, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(joined["inland"].out, out)
    whole = (out / "landuse.vrt").read_text("utf-8")
    stranger = tmp_path / "stranger.tif"
    main = next(zone.folder for zone in joined["inland"].zones if zone.plan.crs == joined["inland"].crs)
    shutil.copyfile(out / main / "landuse.tif", stranger)
    for other, shown in ((str(stranger), "stranger.tif"), ("../stranger.tif", "stranger.tif")):
        (out / "landuse.vrt").write_text(whole.replace(f"{main}/landuse.tif", other), "utf-8")
        with pytest.raises(UsageError, match=rf"landuse\.vrt leads to '.*{shown}'"):
            landuse.open_map(out)
    (out / "landuse.vrt").write_text(whole, "utf-8")
    # A virtual raster under the name of a GeoTIFF could lead anywhere, too.
    (out / "zone-33N/landuse.tif").write_text(whole, "utf-8")
    with pytest.raises(ReadError, match=r"zone-33N/landuse\.tif cannot be read as a raster"):
        landuse.open_map(out)
    import fsspec

    there = fsspec.filesystem("memory")
    there.put(f"{joined['inland'].out}/", "/landuse-joined/", recursive=True)
    try:
        with pytest.raises(
            UsageError,
            match=r"one zone: landuse\.open_map\('memory://landuse-joined/zone-32N'\), or zone-33N",
        ):
            landuse.open_map("memory://landuse-joined")
    finally:
        there.rm("/landuse-joined", recursive=True)


def test_a_catalogue_lists_the_zones_maps_by_their_collection(worlds, tmp_path):
    """Oracle: pystac, which follows the links."""
    folder = tmp_path / "catalog"
    request = asked(worlds, "inland", None, catalog=folder)
    report = map_zones(request, RedPixels())
    assert report.out.parent == folder
    assert report.out.name.endswith("-zones")
    assert report.out != asked(worlds, "inland", None, catalog=folder, zones="one").folder("")
    again = map_zones(replace(request, overwrite=True), RedPixels())  # made again, in its place
    catalog = pystac.Catalog.from_file(folder / "catalog.json")
    assert len(catalog.get_child_links()) == 1
    items = list(catalog.get_items(recursive=True))
    assert [item.properties["proj:code"] for item in items] == ["EPSG:32632", "EPSG:32633"]
    assert {item.get_collection().id for item in items} == {f"landuse-zones-{again.plan_sha256[:8]}"}
    for document in (
        report.out / "collection.json",
        *(report.out / zone.folder / "item.json" for zone in report.zones),
    ):
        told = json.loads(document.read_text("utf-8"))
        assert stac_errors(told) == []
        root = next(link["href"] for link in told["links"] if link["rel"] == "root")
        assert (document.parent / root).resolve() == (folder / "catalog.json").resolve()
    assert stac_errors(json.loads((folder / "catalog.json").read_text("utf-8"))) == []
    (folder / "catalog.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a STAC catalogue"):
        map_zones(replace(request, overwrite=True), RedPixels())


def test_what_reads_maps_takes_the_joined_ones(joined, run, tmp_path):
    out = joined["inland"].out
    counted = counted_map(out)
    assert counted.path == out / "landuse.vrt"
    # The areas are those of the zones' own reports, added up: the joined raster's cells are warped and whole.
    parts = [json.loads(path.read_text("utf-8"))["classes"] for path in sorted(out.glob("zone-*/run.json"))]
    assert len(parts) == 2
    for i, area_ha in enumerate(counted.area_ha):
        of_class = [row["area_ha"] for rows in parts for row in rows if row["id"] == i]
        assert area_ha == pytest.approx(sum(of_class))
    assert not counted.of_whole_cells
    points = tmp_path / "points.gpkg"
    assert run("sample", out, "--n", "60", "--min-per-class", "10", "--out", points).code == 0
    labelled = geopandas.read_file(points, layer="samples")
    lonlat = labelled.geometry.to_crs(4326)
    labelled["reference"] = np.array(RedPixels().contract.classes, object)[class_at(lonlat.x, lonlat.y)]
    labelled.to_file(points, layer="samples", driver="GPKG")
    told = run("area", out, "--samples", points, "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["overall_accuracy"]["value"] > 0.9
    assert not [text for text in json.loads(told.out)["warnings"] if "run.json" in text]
    told = run("suggest", out, "--n", "5", "--by", "doubt", "--out", tmp_path / "suggested.gpkg")
    assert told.code == 0, told.err
    changed = run("change", out, out, "--out", tmp_path / "change")
    assert changed.code == 2  # the same dates
    assert "does not begin after" in changed.error


def test_what_zones_cannot_be_asked_with_is_refused(worlds, joined, tmp_path, run):
    source, area = worlds["inland"]
    with pytest.raises(UsageError, match=r"--zones 'two' is unknown. Use one or each"):
        asked(worlds, "inland", tmp_path, zones="two")
    with pytest.raises(UsageError, match='zones="each" makes several maps'):
        landuse.map(source=source, area=area.geometry, zones="each", model="balanced-fast-rgb")
    out = joined["inland"].out
    with pytest.raises(UsageError, match=r"already holds landuse\.vrt"):
        map_zones(asked(worlds, "inland", out, probabilities=True), RedPixels())
    with pytest.raises(UsageError, match="one map does not replace"):
        map_area(asked(worlds, "inland", out, zones="one", overwrite=True), RedPixels())
    (tmp_path / "map" / "zone-01S").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds zone-01S of another request"):
        map_zones(asked(worlds, "inland", tmp_path / "map"), RedPixels())
    with pytest.raises(UsageError, match="zone-01S, and the area reaches into no such zone"):
        map_zones(asked(worlds, "inland", tmp_path / "map", overwrite=True), RedPixels())


class Interrupted(RedPixels):
    """Is interrupted when it is asked for the block of that number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def pixel_scores(self, dn, bands, level):
        if len(self.asked) == self.number:
            raise KeyboardInterrupt
        return super().pixel_scores(dn, bands, level)


def test_an_interrupted_run_goes_on_with_the_zones_that_are_left(worlds, mapped, joined, tmp_path):
    whole = joined["inland"]
    request = asked(worlds, "inland", tmp_path / "map", probabilities=True)
    _, (first, second) = mapped["inland"]
    with pytest.raises(KeyboardInterrupt, match=r"1 of \d blocks are finished"):
        map_zones(request, Interrupted(first + 1))
    assert (tmp_path / "map/zone-32N/run.json").is_file()
    assert not (tmp_path / "map/run.json").exists()
    with pytest.raises(UsageError, match="zone-32N, zone-33N of another request"):
        map_zones(replace(request, title="Other"), RedPixels())
    rest = RedPixels()
    report = map_zones(request, rest)
    assert len(rest.asked) == second - 1
    for zone in report.zones:
        assert_same_files(report.out / zone.folder, whole.out / zone.folder)
    for name in ("landuse.vrt", "collection.json"):
        assert (report.out / name).read_bytes() == (whole.out / name).read_bytes()
    told, expected = report.to_dict(), whole.to_dict()
    for name in ("plan_sha256", "cover", "classes", "covers", "area_m2", "files"):
        assert told[name] == expected[name]


def cut_scene(item, folder, cols):
    """Have an item show some columns of its rasters, in a folder of its own."""
    folder.mkdir()
    crs = item["properties"]["proj:code"]
    for band, asset in item["assets"].items():
        with rasterio.open(asset["href"]) as file:
            part, left, top = file.read(1)[:, cols], file.transform.c + 10 * cols.start, file.transform.f
        red_raster(folder / f"{band}.tif", part, bands=(band,), left=left, top=top, crs=crs)
        asset |= {"href": f"{folder}/{band}.tif", "proj:shape": list(part.shape)}
        asset["proj:transform"] = [10, 0, left, 0, -10, top]
    edges = transform_bounds(crs, "EPSG:4326", left, top - 3000, left + 10 * part.shape[1], top)
    item |= {"bbox": list(edges), "geometry": shapely.geometry.mapping(shapely.box(*edges))}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("change", ["pixels", "item", "scenes"])
def test_a_finished_zone_is_made_again_of_what_is_there_now(worlds, mapped, tmp_path, change, overwrite):
    """Oracle: a run from nothing."""
    source, _ = worlds["inland"]
    items = json.loads(Path(source).read_text("utf-8"))["features"]
    cut_scene(items[0], tmp_path / "west", slice(0, 320))
    listed = tmp_path / "items.json"
    request = asked(worlds, "inland", tmp_path / "map", source=item_collection(listed, items))
    with pytest.raises(KeyboardInterrupt):
        map_zones(request, Interrupted(mapped["inland"][1][0] + 1))
    before = read(tmp_path / "map/zone-32N/landuse.tif")
    if change == "pixels":
        href = items[0]["assets"]["B04"]["href"]
        with rasterio.open(href) as file:
            red, transform = file.read(1), file.transform
        red_raster(href, 9000 - red, bands=("B04",), left=transform.c, top=transform.f, crs="EPSG:32632")
    elif change == "item":
        for asset in items[0]["assets"].values():
            asset["raster:bands"] = [{"scale": 0.0001, "offset": -0.12, "nodata": 0}]
    else:
        items = items[1:]
    item_collection(listed, items)
    report = map_zones(replace(request, overwrite=overwrite), RedPixels())
    fresh = map_zones(replace(request, out=tmp_path / "fresh"), RedPixels())
    assert (read(fresh.out / "zone-32N/landuse.tif") != before).any()
    for zone in fresh.zones:
        assert_same_files(report.out / zone.folder, fresh.out / zone.folder)


def test_a_zone_that_could_not_be_read_is_read_again_and_the_others_stay(worlds, mapped, tmp_path):
    """The scene in zone 32 shows 200 m beyond the border; that in zone 33, none of zone 32, is cut off, and
    mended."""
    source, _ = worlds["inland"]
    items = json.loads(Path(source).read_text("utf-8"))["features"]
    cut_scene(items[0], tmp_path / "west", slice(0, 180))
    cut_scene(items[1], tmp_path / "east", slice(168, 320))
    lost = Path(items[1]["assets"]["B04"]["href"])
    whole = lost.read_bytes()
    lost.write_bytes(whole[: len(whole) // 3])
    request = asked(
        worlds, "inland", tmp_path / "map", source=item_collection(tmp_path / "items.json", items)
    )
    with pytest.raises(IncompleteError, match=r"of the area is empty, since some of zone 33N could not be"):
        map_zones(request, RedPixels())
    lost.write_bytes(whole)
    classifier = RedPixels()
    report = map_zones(replace(request, overwrite=True), classifier)
    assert report.cover.valid == 1
    assert 0 < len(classifier.asked) <= mapped["inland"][1][1]
    assert not [path.name for path in (tmp_path / "map").iterdir() if path.name.startswith(".")]


def test_the_folder_is_one_runs_alone(worlds, tmp_path):
    request = asked(worlds, "inland", tmp_path / "map")
    (tmp_path / "map").mkdir()
    with Store.at(tmp_path / "map").locked(), pytest.raises(BusyError, match="Another run is at work"):
        map_zones(request, RedPixels())


def test_a_zone_without_scenes_counts_as_nodata(worlds, tmp_path, caplog):
    far = shapely.box(18.001, 48, 18.004, 48.002)
    near = shapely.box(11.997, 48, 11.9999, 48.002)
    area = Area(geometry=shapely.union_all([near, far]), clip=True, name="two")
    report = map_zones(asked(worlds, "inland", tmp_path / "map", area=area), RedPixels())
    assert [zone.part.name for zone in report.unmapped] == ["34N"]
    assert "Zone 34N has no map" in caplog.text
    assert report.cover.valid == pytest.approx(near.area / area.geometry.area, rel=0.01)
    assert report.cover.valid + report.cover.nodata == pytest.approx(1)
    classified_m2 = sum(entry.area_m2 for entry in report.classes)
    assert classified_m2 == pytest.approx(report.land_m2 * report.cover.valid, rel=1e-6)
    with pytest.raises(NothingFoundError, match=r"Nothing was found in any of 1 UTM zones\. In zone 34N"):
        map_zones(asked(worlds, "inland", tmp_path / "none", area=replace(area, geometry=far)), RedPixels())


def test_an_area_too_wide_for_any_zone_is_shown_in_an_equal_area_projection(joined, tmp_path):
    report = joined["inland"]
    shutil.copytree(report.out, tmp_path / "map")
    wide = joined_crs(parts_by_zone(shapely.box(-20, 40, 40, 56)))
    assert "Lambert Azimuthal Equal Area" in wide
    assert pyproj.CRS(joined_crs(parts_by_zone(shapely.box(11, 47, 13, 48)))).to_epsg() in (32632, 32633)
    again = join(replace(report, crs=wide, out=tmp_path / "map"), Store.at(tmp_path / "map"))
    with rasterio.open(tmp_path / "map" / "landuse.vrt") as file:
        ids, transform, crs = file.read(1), file.transform, file.crs
    mapped = ids != 255
    assert (class_at(*centres(transform, ids.shape, crs)) == ids)[mapped].mean() > 0.93
    # Of an equal-area grid cells can be counted.
    assert mapped.sum() * 100 == pytest.approx(report.land_m2, rel=0.02)
    assert again.to_geodataframe().geometry.area.sum() == pytest.approx(report.land_m2, rel=2e-3)


def test_maps_go_to_a_folder_elsewhere(worlds, joined, tmp_path):
    import fsspec

    there = fsspec.filesystem("memory")
    there.mkdir("/landuse-zones")
    request = asked(worlds, "inland", "memory://landuse-zones/map", probabilities=True)
    report = map_zones(request, RedPixels())
    there.get("/landuse-zones/map", str(tmp_path / "map"), recursive=True)
    expected = joined["inland"].out
    for name in report.files:
        if name.endswith((".vrt", "landuse.tif")):
            assert (tmp_path / "map" / name).read_bytes() == (expected / name).read_bytes()
    polygons = geopandas.read_file(tmp_path / "map/landuse.gpkg", layer="landuse")
    assert polygons.equals(joined["inland"].to_geodataframe())
    there.rm("/landuse-zones", recursive=True)


def test_a_cluster_maps_each_zone_as_one_process_does(worlds, joined, tmp_path):
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False}, protocol="tcp",
    ) as threads:  # fmt: skip
        cluster = Cluster(scheduler=threads.scheduler_address, model="red", device="cpu", load=red_pixels)
        request = asked(worlds, "inland", tmp_path / "map", probabilities=True)
        report = map_zones(request, RedPixels(), cluster=cluster)
    for zone in report.zones:
        assert_same_files(report.out / zone.folder, joined["inland"].out / zone.folder)


def test_rasters_alone_are_joined_too(worlds, joined, tmp_path):
    report = map_zones(asked(worlds, "inland", tmp_path / "map", vectors=None), RedPixels())
    files = {path.relative_to(report.out).as_posix() for path in report.out.rglob("*") if path.is_file()}
    assert files == set(report.files)
    assert not [name for name in files if name.endswith((".gpkg", ".html", ".png"))]
    whole = joined["inland"].out
    np.testing.assert_array_equal(read(report.out / "landuse.vrt"), read(whole / "landuse.vrt"))
    assert report.classes == joined["inland"].classes
    with pytest.raises(UsageError, match="holds rasters alone"):
        report.to_geodataframe()


def test_a_dry_run_tells_each_zone_and_all(worlds, tmp_path):
    estimate = estimate_any(asked(worlds, "inland", tmp_path / "map"), RedPixels())
    assert [name for name, _ in estimate.zones] == ["32N", "33N"]
    assert estimate.total.pixels == sum(zone.cost.pixels for _, zone in estimate.zones) > 0
    assert estimate.to_dict()["total"]["pixels"] == estimate.total.pixels
    assert not (tmp_path / "map").exists()
