"""Oracles: verbatim items by an independent rule of a few lines, real products' reference reflectance,
and the STAC specification."""

import json
import math
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from landuse.errors import ProviderError, UsageError
from landuse.pipeline.geometry import footprint_of
from landuse.pipeline.providers import (
    CDSE,
    EARTH_SEARCH,
    EARTH_SEARCH_C1,
    EARTH_SEARCH_L1C,
    PLANETARY_COMPUTER,
    Provider,
    S3Access,
)
from landuse.pipeline.read.read_scene import _to_dn
from landuse.pipeline.search.find_scenes import SceneQuery, search
from landuse.pipeline.search.item import footprint, scene_from_item
from landuse.sentinel2 import BANDS
from tests.servers import file_server, stac_item, write_items

WEB = Provider(name="somewhere", endpoint="https://stac.example.org")
WEB_LOCATION = "https://stac.example.org/a/item.json"
LOCAL = Provider(name="local", endpoint="")


def _verbatim():
    """(label, item, what the manifest has of its baseline) of each Sentinel-2 item that the services sent.

    Empty without the data: then the one test that there is asks for them, and is skipped or fails.
    """
    root = Path(__file__).parents[4] / os.environ.get("LANDUSE_TEST_DATA", "nowhere") / "stac_items"
    if not root.is_dir():
        return []
    found, contents = [], set()

    def add(label, item, baseline=""):
        content = json.dumps(item, sort_keys=True)
        of_sentinel_2 = str(item.get("collection")).startswith(("sentinel-2-", "sentinel-s2-"))
        if of_sentinel_2 and content not in contents:
            contents.add(content)
            found.append(pytest.param(item, baseline, id=label))

    for entry in json.loads((root / "MANIFEST.json").read_text(encoding="utf-8")):
        if (root / entry["file"]).exists():
            add(entry["file"], json.loads((root / entry["file"]).read_text("utf-8")), entry["baseline"])
    for path in sorted((root / "raw").iterdir()):
        document = json.loads(path.read_text(encoding="utf-8"))
        for answer in document if isinstance(document, list) else [document]:
            answer = answer.get("response", answer)
            for item in answer.get("features", [answer] if answer.get("type") == "Feature" else []):
                add(f"raw/{path.name}#{item['id']}", item)
    return found


VERBATIM = _verbatim()

APPLIED = {
    # Of one baseline, 04.00: the flag decides, raster:bands says -0.1 of both.
    "S2B_33TWN_20220130_0_L2A": True,
    "S2B_33TWN_20220226_0_L2A": False,
    # Version 0 of Earth Search: 05.11 with the flag of that version, and 02.12 and 02.14 by the name alone.
    "S2B_20EPT_20250731_0_L2A": True,
    "S2A_31NBJ_20190524_0_L2A": False,
    "S2A_28QCH_20200714_0_L2A": False,
}


def _provider(item):
    by_collection = {
        "sentinel-2-c1-l2a": EARTH_SEARCH_C1,
        "sentinel-2-l1c": EARTH_SEARCH_L1C,
        "sentinel-s2-l2a-cogs": Provider(name="v0", endpoint="https://earth-search.example.org/v0"),
    }
    links = str(item["links"])
    if "planetarycomputer" in links:
        return PLANETARY_COMPUTER
    return CDSE if "dataspace.copernicus" in links else by_collection.get(item["collection"], EARTH_SEARCH)


def test_there_are_verbatim_items_of_every_provider_and_baseline(data_dir):
    assert len(VERBATIM) >= 110
    baselines = {param.values[1] for param in VERBATIM}
    assert baselines >= {"00.01", "02.07", "02.12", "02.14", "03.00", "03.01", "04.00", "05.00", "05.11"}
    assert {_provider(param.values[0]).name for param in VERBATIM} >= {
        "planetary-computer", "earth-search", "earth-search-c1", "earth-search-l1c", "cdse", "v0"
    }  # fmt: skip
    assert set(APPLIED) <= {param.values[0]["id"] for param in VERBATIM}


@pytest.mark.parametrize(("item", "baseline"), VERBATIM)
def test_what_is_applied_to_a_verbatim_item(item, baseline):
    scene = scene_from_item(item, _provider(item), "https://stac.example.org/item.json")
    properties = item["properties"]
    # The rule, independently: baseline as the manifest or the product's name has it, less than 04.00 or
    # a flag means no offset.
    names = [properties.get("s2:product_uri"), properties.get("sentinel:product_id"), item["id"]]
    in_name = re.search(r"_N(\d\d)(\d\d)_", " ".join(filter(None, names)))
    assert scene.baseline == (baseline or f"{in_name[1]}.{in_name[2]}")
    flags = {key: value for key, value in properties.items() if key.endswith(":boa_offset_applied")}
    assert APPLIED.get(item["id"], True in flags.values()) == (True in flags.values())
    offset = -0.1 if float(scene.baseline) >= 4 and True not in flags.values() else 0.0
    reflectances = [asset for asset in scene.assets if asset.band != "SCL"]
    assert {(asset.scale, asset.offset, asset.nodata) for asset in reflectances} == {(1e-4, offset, 0.0)}

    level = "L1C" if item["collection"] == "sentinel-2-l1c" else "L2A"
    assert scene.level == level
    assert scene.bands == (BANDS if level == "L1C" else (*(b for b in BANDS if b != "B10"), "SCL"))
    # The file behind each asset is named after its band, whatever the asset's key: red is B04, ...
    named = {
        asset.band: re.split(r"[_/]", re.sub(r"(_\d+m)?\.\w+$", "", asset.href))[-1] for asset in scene.assets
    }
    assert named == {band: band for band in scene.bands}
    assert scene.level == "L1C" or scene.asset("SCL").offset == 0

    # Tile and satellite as the id spells them; zone, hemisphere and the square of 109.8 km as the tile does.
    tile = re.search(r"_T?(\d\d[A-Z]{3})_", item["id"])[1]
    assert (scene.tile, scene.platform) == (tile, f"sentinel-{item['id'][1:3].lower()}")
    assert scene.crs == f"EPSG:{326 if tile[2] >= 'N' else 327}{tile[:2]}"
    left, bottom, right, top = scene.bounds_m
    assert (right - left, top - bottom) == (109_800, 109_800)
    transforms = [asset["proj:transform"] for asset in item["assets"].values() if "proj:transform" in asset]
    assert (left, top) in {(transform[2], transform[5]) for transform in transforms}
    assert scene.acquired_utc == datetime.fromisoformat(properties["datetime"])
    assert (
        footprint_of(scene).equals_exact(shapely.geometry.shape(item["geometry"]), 1e-9)
        or footprint_of(scene).symmetric_difference(shapely.geometry.shape(item["geometry"]).buffer(0)).area
        < 1e-9
    )
    assert scene.cloud_percent == properties["eo:cloud_cover"]
    assert scene.provider == _provider(item).name


def test_a_stale_signature_is_dropped_so_that_signing_can_renew_it(data_dir):
    item = json.loads(next(data_dir.glob("stac_items/PC/*/S2B_MSIL2A_2024*.json")).read_text("utf-8"))
    for asset in item["assets"].values():
        asset["href"] += "?st=2024-01-01&se=2024-01-02&sp=r&sig=secret"
    scene = scene_from_item(item, PLANETARY_COMPUTER, PLANETARY_COMPUTER.endpoint)
    assert not any("sig" in asset.href or "?" in asset.href for asset in scene.assets)


def test_copernicus_items_give_each_band_at_its_finest(data_dir):
    item = json.loads(next(data_dir.glob("stac_items/CDSE/*/*.json")).read_text("utf-8"))
    scene = scene_from_item(item, CDSE, WEB_LOCATION)
    assert scene.level == "L2A"
    assert scene.baseline == "05.00"
    assert scene.asset("B04").href.endswith("_B04_10m.jp2")
    assert scene.asset("B01").href.endswith("_B01_20m.jp2")
    assert scene.asset("SCL").href.endswith("_SCL_20m.jp2")
    assert scene.asset("B04").offset == -0.1
    assert scene.crs == "EPSG:32636"


def _own_item(**asset_fields):
    item = stac_item("mine", s2__processing_baseline=None, bands=("B04",))
    item["assets"]["B04"].update(asset_fields)
    return item


def test_stated_scale_offset_and_nodata_are_believed(tmp_path):
    here = str(tmp_path / "item.json")
    stac_1_1 = _own_item(**{"raster:scale": 0.001, "raster:offset": -0.5, "nodata": 7})
    per_band = _own_item(bands=[{"name": "B04", "raster:scale": 0.001, "raster:offset": -0.5, "nodata": 7}])
    stac_1_0 = _own_item(**{"raster:bands": [{"scale": 0.001, "offset": -0.5, "nodata": 7}]})
    for item in (stac_1_1, per_band, stac_1_0):
        asset = scene_from_item(item, LOCAL, here).asset("B04")
        assert (asset.scale, asset.offset, asset.nodata) == (0.001, -0.5, 7.0)
        assert asset.href == str(tmp_path / "B04.tif")
    assert (
        scene_from_item(_own_item(**{"raster:scale": 1, "raster:offset": 0}), LOCAL, here).assets[0].nodata
        is None
    )
    nan = _own_item(**{"raster:scale": 1, "raster:offset": 0, "nodata": "nan"})
    assert math.isnan(scene_from_item(nan, LOCAL, here).assets[0].nodata)


@pytest.mark.parametrize(
    ("fields", "lacking"),
    [
        ({}, "no scale and offset"),
        ({"raster:scale": 0.0001}, "no offset"),
        ({"raster:offset": -0.1}, "no scale"),
        ({"raster:scale": "0.0001", "raster:offset": 0}, "no scale"),
        ({"raster:scale": -1, "raster:offset": 0}, "above 0"),
        ({"raster:scale": 0.0001, "raster:offset": -1000}, r"offset -1000.*within -1\.\.1"),
        ({"raster:scale": 10, "raster:offset": 0}, "at most 1"),
        ({"raster:scale": 1, "raster:offset": -0.1}, "with scale 1 and offset -0.1 whole numbers"),
    ],
)
def test_scale_and_offset_are_never_assumed(fields, lacking):
    with pytest.raises(UsageError, match=lacking):
        scene_from_item(_own_item(**fields), LOCAL, "/data/item.json")


@pytest.mark.parametrize("scale", [1, 0.001, 0.0001])
def test_a_scale_without_an_offset_is_not_half_completed_by_the_rule_of_esa(scale):
    """-0.1 belongs to values as ESA stores them; one's own may not have it any more."""
    item = _own_item(**{"raster:scale": scale})
    item["properties"]["s2:processing_baseline"] = "05.11"
    with pytest.raises(
        UsageError, match=r'no offset, and by the processing baseline 05.11 .*"raster:offset"'
    ):
        scene_from_item(item, LOCAL, "/data/item.json")
    item["properties"]["s2:processing_baseline"] = "03.01"
    assert scene_from_item(item, LOCAL, "/data/item.json").asset("B04").offset == 0


@pytest.mark.parametrize(
    ("baseline", "offset"), [("02.14", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.11", -0.1)]
)
def test_a_baseline_alone_means_the_rule_of_esa(baseline, offset):
    item = stac_item("esa", s2__processing_baseline=baseline, datetime="2016-01-01T00:00:00Z")
    assert {asset.offset for asset in scene_from_item(item, WEB, WEB_LOCATION).assets} == {offset}


def test_bands_of_one_file_are_found_by_name_and_a_picture_is_never_a_band():
    item = stac_item("stack", bands=())
    names = ["nir", "B8A", "rededge", "red"]
    item["assets"] = {
        "visual": {"href": "https://x.org/tci.tif", "eo:bands": [{"name": "B04"}, {"name": "B03"}]},
        "preview": {"href": "https://x.org/p.tif", "roles": ["overview"], "bands": [{"name": "B02"}]},
        "stack": {"href": "https://x.org/stack.tif", "bands": [{"name": name} for name in names]},
    }
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert {asset.band: asset.index for asset in scene.assets} == {"B04": 4, "B08": 1, "B8A": 2}
    assert {asset.href for asset in scene.assets} == {"https://x.org/stack.tif"}


@pytest.mark.parametrize(
    ("properties", "collection", "level"),
    [
        ({"s2:product_type": "S2MSI1C"}, "anything", "L1C"),
        ({"processing:level": "L1C"}, "anything", "L1C"),
        ({"processing:level": "Level-2A"}, "anything", "L2A"),
        ({"processing:level": "L2", "product:type": "S2MSI2A"}, "anything", "L2A"),
        ({}, "sentinel-2-c1-l2a", "L2A"),
        ({}, "sentinel-2-l1c", "L1C"),
        ({"processing:level": "L3"}, "own", None),
        ({}, "l2archive", None),
    ],
)
def test_the_level_is_stated_or_refused(properties, collection, level):
    item = stac_item("x", collection=collection, s2__product_type=None, **properties)
    if level is None:
        with pytest.raises(UsageError, match="processing:level"):
            scene_from_item(item, WEB, WEB_LOCATION)
    else:
        assert scene_from_item(item, WEB, WEB_LOCATION).level == level


def test_another_satellite_is_refused():
    with pytest.raises(UsageError, match="not of Sentinel-2"):
        scene_from_item(stac_item("x", constellation="enmap"), WEB, WEB_LOCATION)


def test_an_outline_over_the_antimeridian_does_not_span_the_globe():
    item = stac_item("fiji")
    ring = [[179, -18], [-179, -18], [-179, -17], [179, -17], [179, -18]]
    item["geometry"]["coordinates"] = [ring]
    outline = footprint(item)
    assert outline.area == pytest.approx(2.0)
    assert outline.contains(shapely.Point(179.5, -17.5))
    assert outline.contains(shapely.Point(-179.5, -17.5))
    assert not outline.intersects(shapely.Point(0, -17.5))


@pytest.mark.parametrize(
    "damage",
    [
        {"id": 5},
        {"geometry": None, "bbox": None},
        {"geometry": {"type": "Polygon", "coordinates": "x"}},
        {"geometry": {"type": "Point", "coordinates": [1, 2]}},
        {"geometry": {"type": "Polygon", "coordinates": [[[1e9, 0], [1e9, 1], [2e9, 1], [1e9, 0]]]}},
        {"properties": None},
        {"properties": {"datetime": "soon"}},
        {"assets": []},
        {"assets": {"B04": None}},
    ],
)
def test_a_damaged_item_is_an_error_of_ours(damage):
    with pytest.raises((UsageError, ProviderError)):
        scene_from_item({**stac_item("x"), **damage}, WEB, WEB_LOCATION)


def test_the_projection_comes_from_the_item_or_its_bands():
    item = stac_item("x", proj__code="EPSG:32633", bbox=(14.9, 45.1, 15.1, 45.2))
    item["assets"]["B03"].update(
        {"proj:shape": [50, 30], "proj:transform": [10, 0, 500_000, 0, -10, 5_000_000]}
    )
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert (scene.crs, scene.bounds_m) == ("EPSG:32633", (500_000, 4_999_500, 500_300, 5_000_000))


def test_without_bounds_of_the_item_those_of_all_its_reflectance_bands_count():
    # The origin of the zone's coordinates, on the equator.
    item = stac_item(
        "x", proj__code="EPSG:32633", bands=("B02", "B03", "B04", "SCL"), bbox=(10.4, -0.1, 10.6, 0.1)
    )
    item["assets"]["B02"]["proj:bbox"] = [0, 0, 100, 100]
    item["assets"]["B03"]["proj:bbox"] = [50, -20, 180, 90]
    item["assets"]["SCL"]["proj:bbox"] = [-900, -900, 900, 900]
    # In another zone: its numbers mean other places.
    item["assets"]["B04"].update({"proj:code": "EPSG:32634", "proj:bbox": [0, 0, 9000, 9000]})
    assert scene_from_item(item, WEB, WEB_LOCATION).bounds_m == (0, -20, 180, 100)
    item["properties"]["proj:bbox"] = [1, 2, 3, 4]
    assert scene_from_item(item, WEB, WEB_LOCATION).bounds_m == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("stated", "fault"),
    [
        ({"proj__code": "EPSG:999999"}, "no such CRS"),
        ({"proj__epsg": 1e300}, "AUTHORITY:CODE|no such CRS"),
        ({"proj__epsg": 32633.5}, "AUTHORITY:CODE"),
        ({"proj__code": "+proj=longlat +nadgrids=/etc/passwd"}, "AUTHORITY:CODE"),
        ({"proj__code": "IAU_2015:30110"}, "not of the earth"),
        ({"proj__code": "EPSG:5703"}, "easting"),
    ],
)
def test_a_crs_that_is_none_of_the_earth_is_refused(stated, fault):
    with pytest.raises(UsageError, match=rf"STAC item 'x' states the CRS .*({fault})"):
        scene_from_item(stac_item("x", **stated), WEB, WEB_LOCATION)


def test_a_strangers_item_with_a_bad_crs_does_not_stop_the_search(tmp_path, caplog):
    items = [stac_item("bad", proj__code="EPSG:999999"), stac_item("good", proj__code="EPSG:32632")]
    write_items(tmp_path / "items.json", items)
    with file_server(tmp_path) as server:
        scenes = search(f"{server.url}/items.json", SceneQuery(area=None))
    assert [scene.id for scene in scenes] == ["good"]
    assert "EPSG:999999" in caplog.text


L1C_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
STATED_BY = {
    # Planetary Computer: the baseline alone. It serves no L1C, so its fixed asset keys lack B10.
    "planetary-computer": (replace(PLANETARY_COMPUTER, asset_keys=()), lambda offset: {}),
    "earth-search": (
        replace(EARTH_SEARCH_L1C, s3=None),
        lambda offset: {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": offset}]},
    ),
    "cdse": (
        CDSE,
        lambda offset: {"nodata": 0, "raster:scale": 0.0001, "raster:offset": offset},
    ),
    "earth-search-v0": (WEB, lambda offset: {}),
}


@pytest.mark.parametrize("stated_by", STATED_BY)
@pytest.mark.parametrize(
    ("stem", "baseline"),
    [
        ("S2B_MSIL1C_20200406T101559_N0209_R065_T32UPC_20200406T130159", "02.09"),
        ("S2B_MSIL1C_20220615T101559_N0400_R065_T32UPC_20220615T122549", "04.00"),
    ],
)
def test_real_products_decode_to_their_reference_reflectance(data_dir, stem, baseline, stated_by):
    provider, decoding = STATED_BY[stated_by]
    folder = data_dir / "offset_pair"
    metadata = ET.parse(folder / f"{stem}_MTD.xml").getroot()
    added = {float(element.text) for element in metadata.iter("RADIO_ADD_OFFSET")} or {0.0}
    divisor = float(next(metadata.iter("QUANTIFICATION_VALUE")).text)
    (offset,) = (value / divisor for value in added)
    # Without a baseline in version 0: there the product's name tells it.
    states = None if stated_by == "earth-search-v0" else baseline
    item = stac_item(
        "pair",
        bands=L1C_BANDS,
        s2__product_type="S2MSI1C",
        s2__processing_baseline=states,
        s2__product_uri=stem,
    )
    for asset in item["assets"].values():
        asset.update(decoding(offset))
    scene = scene_from_item(item, provider, WEB_LOCATION)
    assert scene.baseline == baseline
    with rasterio.open(folder / f"{stem}.tif") as file, rasterio.open(folder / f"{stem}_toa.tif") as toa:
        stored, reference = file.read(), toa.read()
    for asset, pixels, expected in zip(scene.assets, stored, reference, strict=True):
        seen = pixels != asset.nodata
        assert seen.any()
        np.testing.assert_allclose((asset.scale * pixels + asset.offset)[seen], expected[seen], atol=1e-6)
        np.testing.assert_array_equal(
            _to_dn(pixels, asset)[seen], np.maximum(np.rint(expected * 1e4), 1)[seen]
        )


@pytest.mark.parametrize(
    ("baseline", "offset", "flags", "applied"),
    [
        ("05.11", -0.1, {}, -0.1),
        ("02.14", 0, {}, 0),
        ("05.11", -0.1, {"earthsearch:boa_offset_applied": True}, 0),
        ("05.11", 0, {"earthsearch:boa_offset_applied": True}, 0),
        ("05.11", -0.1, {"sentinel:boa_offset_applied": True}, 0),
        ("05.11", -0.1, {"earthsearch:boa_offset_applied": False}, -0.1),
        ("05.11", None, {}, -0.1),
        ("02.14", -0.1, {}, "means 0.0001 and 0"),
        ("05.11", 0, {}, "means 0.0001 and -0.1"),
        ("05.11", 0, {"earthsearch:boa_offset_applied": False}, "means 0.0001 and -0.1"),
        ("05.11", -0.1, {"earthsearch:boa_offset_applied": "true"}, 0),
        ("05.11", -0.1, {"earthsearch:boa_offset_applied": "False"}, -0.1),
        ("05.11", -0.1, {"earthsearch:boa_offset_applied": "yes"}, "neither true nor false"),
        ("05.11", -0.1, {"earthsearch:boa_offset_applied": 1}, "neither true nor false"),
    ],
)
def test_a_known_provider_is_not_believed_against_the_baseline(baseline, offset, flags, applied):
    item = stac_item(
        "x",
        s2__processing_baseline=baseline,
        bands=("B04",),
        **{k.replace(":", "__"): v for k, v in flags.items()},
    )
    item["assets"]["B04"]["raster:bands"] = [
        {"scale": 0.0001} | ({} if offset is None else {"offset": offset})
    ]
    for provider in (EARTH_SEARCH, CDSE):
        if isinstance(applied, str):
            with pytest.raises(UsageError, match=applied):
                scene_from_item(item, provider, WEB_LOCATION)
        else:
            assert scene_from_item(item, provider, WEB_LOCATION).assets[0].offset == applied
    # One's own catalogue may have taken the offset off, or put it on, and says so.
    if not flags and offset is not None:
        assert scene_from_item(item, LOCAL, "/data/item.json").assets[0].offset == offset


def _earth_search_item(*kept, **properties):
    """A band and the scene classification as Earth Search lists them: its own GeoTIFF and ESA's JPEG 2000."""
    item = stac_item("x", bands=(), earthsearch__boa_offset_applied=True, **properties)
    red = {
        "eo:bands": [{"name": "red", "common_name": "red"}],
        "raster:bands": [{"nodata": 0, "offset": -0.1}],
    }
    item["assets"] = {
        "red": {"href": "B04.tif", "type": "image/tiff; application=geotiff", **red},
        "scl": {"href": "SCL.tif", "type": "image/tiff; application=geotiff"},
        "red-jp2": {"href": "s3://sentinel-s2-l2a/B04.jp2", "type": "image/jp2", **red},
        "scl-jp2": {"href": "s3://sentinel-s2-l2a/SCL.jp2", "type": "image/jp2"},
    }
    item["assets"] = {key: asset for key, asset in item["assets"].items() if key in kept}
    return item


def test_the_offset_of_esas_own_files_is_not_taken_off():
    both = _earth_search_item("red", "red-jp2", "scl", "scl-jp2")
    scene = scene_from_item(both, EARTH_SEARCH, WEB_LOCATION)
    assert [(asset.href[-7:], asset.offset) for asset in scene.assets] == [("B04.tif", 0), ("SCL.tif", 0)]
    originals = scene_from_item(_earth_search_item("red-jp2", "scl-jp2"), EARTH_SEARCH, WEB_LOCATION)
    assert [(asset.band, asset.href[-7:], asset.offset, asset.nodata) for asset in originals.assets] == [
        ("B04", "B04.jp2", -0.1, 0),
        ("SCL", "SCL.jp2", 0, 0),
    ]


def test_an_l1c_item_has_its_offset_whatever_a_flag_of_l2a_says():
    item = _earth_search_item("red", s2__product_type="S2MSI1C")
    assert scene_from_item(item, EARTH_SEARCH_L1C, WEB_LOCATION).asset("B04").offset == -0.1


def test_the_size_of_pixels_is_read_in_degrees_too():
    item = stac_item("x", bands=("B04",))
    for transform, expected in (
        ([60, 0, 499_980, 0, -60, 5_200_020], 60),
        ([0.0008, 0, 13, 0, -0.0005, 48], 55.66),
        ([0, 0, 0, 0, 0, 0], None),
        ([60, 0], None),
    ):
        item["assets"]["B04"]["proj:transform"] = transform
        assert scene_from_item(item, WEB, WEB_LOCATION).asset("B04").pixel_m == pytest.approx(expected)


@pytest.mark.parametrize("asset", [{"nodata": None}, {"raster:bands": [{"nodata": None}]}])
def test_a_nodata_of_null_leaves_esas_zero(asset):
    item = stac_item("x", bands=("B04",))
    item["assets"]["B04"].update(asset)
    assert scene_from_item(item, WEB, WEB_LOCATION).asset("B04").nodata == 0


@pytest.mark.parametrize("field", ["s2:product_uri", "sentinel:product_id", "id"])
def test_the_products_name_tells_what_nothing_else_does(field):
    name = "S2B_MSIL2A_20250731T131909_N0511_R095_T20EPT_20250731T143919"
    item = stac_item("x", s2__processing_baseline=None)
    (item if field == "id" else item["properties"])[field] = name + (".SAFE" if "uri" in field else "")
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert (scene.baseline, scene.tile, scene.platform) == ("05.11", "20EPT", "sentinel-2b")
    assert {asset.offset for asset in scene.assets} == {-0.1}
    item["properties"]["processing:version"] = "02.14"
    with pytest.raises(UsageError, match=r"baseline 02\.14, but .* means 05\.11"):
        scene_from_item(item, WEB, WEB_LOCATION)


@pytest.mark.parametrize(
    ("properties", "tile"),
    [
        ({"s2__mgrs_tile": "33UUP"}, "33UUP"),
        ({"s2__mgrs_tile": "T33uup"}, "33UUP"),
        ({"grid__code": "MGRS-33UUP"}, "33UUP"),
        ({"grid__code": "MGRS-1WCQ"}, "01WCQ"),
        ({"mgrs__utm_zone": 6, "mgrs__latitude_band": "V", "mgrs__grid_square": "VN"}, "06VVN"),
        ({"sentinel__utm_zone": 20, "sentinel__latitude_band": "E", "sentinel__grid_square": "PT"}, "20EPT"),
        ({"s2__mgrs_tile": "../../x", "grid__code": "WRS-033032"}, ""),
        ({"s2__mgrs_tile": "61UUP"}, ""),
        ({"mgrs__utm_zone": "33", "mgrs__latitude_band": "U", "mgrs__grid_square": "UP"}, ""),
        ({}, ""),
    ],
)
def test_a_tile_has_one_spelling(properties, tile):
    assert scene_from_item(stac_item("x", **properties), WEB, WEB_LOCATION).tile == tile


@pytest.mark.parametrize(
    ("stated", "platform"),
    [
        ("Sentinel-2B", "sentinel-2b"),
        ("sentinel-2b", "sentinel-2b"),
        ("SENTINEL 2B", "sentinel-2b"),
        ("sentinel_2c", "sentinel-2c"),
        ("My Drone <b>", "my-drone-b"),
        (None, ""),
    ],
)
def test_a_satellite_has_one_spelling(stated, platform):
    assert scene_from_item(stac_item("x", platform=stated), LOCAL, "/data/item.json").platform == platform


def test_the_size_of_a_pixel_on_disk_is_stated_by_size_and_shape():
    item = stac_item("x", bands=("B02", "B03", "B04", "SCL"))
    item["assets"]["B02"].update({"file:size": 600, "proj:shape": [10, 20]})
    item["assets"]["B03"].update({"file:size": 600})
    item["assets"]["B04"].update({"file:size": 600, "proj:shape": [0, 20]})
    item["assets"]["SCL"].update({"file:size": 100, "proj:shape": [10, 20]})
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert [asset.bytes_per_px for asset in scene.assets] == [3.0, None, None, 0.5]


@pytest.mark.parametrize(
    ("fields", "per_px"),
    [
        ({"file:size": 3200, "proj:shape": [10, 20]}, 16.0),
        ({"file:size": 3201, "proj:shape": [10, 20]}, None),
        ({"file:size": 1e308, "proj:shape": [1, 1]}, None),
        ({"file:size": 10**400, "proj:shape": [1, 1]}, None),
        ({"file:size": 10, "proj:shape": [1e200, 1e200]}, None),
        ({"file:size": -10, "proj:shape": [1, 1]}, None),
        ({"file:size": 10, "proj:shape": [10**400, 1]}, None),
    ],
)
def test_a_size_that_no_file_of_such_a_shape_has_is_not_believed(fields, per_px):
    item = stac_item("x", bands=("B02",))
    item["assets"]["B02"].update(fields)
    assert scene_from_item(item, WEB, WEB_LOCATION).assets[0].bytes_per_px == per_px


@pytest.mark.parametrize(("stated", "pixel_m"), [(10, 10.0), (10_000, 10_000.0), (1e308, None), (0, None)])
def test_a_pixel_larger_than_any_is_not_believed(stated, pixel_m):
    for fields in ({"raster:spatial_resolution": stated}, {"proj:transform": [stated, 0, 0, 0, -stated, 0]}):
        item = stac_item("x", bands=("B02",))
        item["assets"]["B02"].update(fields)
        assert scene_from_item(item, WEB, WEB_LOCATION).assets[0].pixel_m == pixel_m


# 33UUP: 300000..409800, 5290200..5400000 of zone 33; Fiji's 60KXF and 01KAB lie on either side of 180.
TILE = (300_000, 5_290_200, 409_800, 5_400_000)
OUTLINE = (12.27, 47.7, 13.8, 48.75)


@pytest.mark.parametrize(
    ("code", "bounds", "outline_lonlat", "sound"),
    [
        ("EPSG:32633", TILE, OUTLINE, True),
        ("EPSG:32633", TILE, (13.5, 48, 14.5, 49), True),
        ("EPSG:32633", TILE, (14.06, 48.18, 14.12, 48.21), False),
        # The zone beside it, the other hemisphere, rows for columns.
        ("EPSG:32632", TILE, OUTLINE, False),
        ("EPSG:32733", TILE, OUTLINE, False),
        ("EPSG:32633", (5_290_200, 300_000, 5_400_000, 409_800), OUTLINE, False),
        # Off the earth.
        ("EPSG:32633", (1e9, 1e9, 2e9, 2e9), OUTLINE, False),
        ("EPSG:32633", (-1e30, -1e30, 1e30, 1e30), OUTLINE, False),
        ("EPSG:4326", (12, 47, 14, 49), OUTLINE, True),
        ("EPSG:4326", (47, 12, 49, 14), OUTLINE, False),
        ("EPSG:4326", (1e6, 0, 2e6, 1), OUTLINE, False),
        ("EPSG:3035", (4_490_000, 2_740_000, 4_600_000, 2_850_000), OUTLINE, True),
        # Around the 180th meridian, from either side.
        ("EPSG:32760", (799_980, 8_000_020, 909_780, 8_109_820), (179.5, -18.1, 180.8, -17), True),
        ("EPSG:32701", (199_980, 8_000_020, 309_780, 8_109_820), (179.5, -18.1, 180.8, -17), True),
        ("EPSG:32701", (499_980, 8_000_020, 609_780, 8_109_820), (179.5, -18.1, 180.8, -17), False),
    ],
)
def test_pixels_that_lie_away_from_the_outline_are_refused(code, bounds, outline_lonlat, sound):
    item = stac_item("x", proj__code=code, proj__bbox=list(bounds), bbox=outline_lonlat)
    if sound:
        assert scene_from_item(item, WEB, WEB_LOCATION).bounds_m == bounds
    else:
        with pytest.raises(UsageError, match=rf"item 'x' states pixels at .* of {code} .*footprint at .*"):
            scene_from_item(item, WEB, WEB_LOCATION)


def test_every_part_of_an_outline_is_kept_the_largest_first():
    item = stac_item("x")

    def ring(west, east):
        return [[[west, 0], [east, 0], [east, 1], [west, 1], [west, 0]]]

    item["geometry"] = {"type": "MultiPolygon", "coordinates": [ring(1, 2), ring(4, 7)]}
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert [shapely.Polygon(part).bounds for part in scene.footprint] == [(4, 0, 7, 1), (1, 0, 2, 1)]


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon", "coordinates": [[[179, 0], [181, 0], [181, 1], [179, 1], [179, 0]]]},
        {"type": "Polygon", "coordinates": [[[-179, 0], [-181, 0], [-181, 1], [-179, 1], [-179, 0]]]},
        {"type": "Polygon", "coordinates": [[[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]]]},
        {
            "type": "MultiPolygon",
            "coordinates": [
                [[[179, 0], [180, 0], [180, 1], [179, 1], [179, 0]]],
                [[[-180, 0], [-179, 0], [-179, 1], [-180, 1], [-180, 0]]],
            ],
        },
        None,
    ],
)
def test_every_way_to_write_an_outline_over_the_antimeridian_means_the_same(geometry):
    item = {**stac_item("fiji"), "geometry": geometry, "bbox": [179, 0, -179, 1]}
    expected = shapely.union(shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1))
    assert footprint(item).equals(expected)
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert footprint_of(scene).equals(expected)


def test_no_money_is_spent_on_a_bucket_that_a_forged_item_names():
    item = stac_item("x", href="s3://my-expensive-bucket/{band}.jp2", s2__product_type="S2MSI1C")
    with pytest.raises(
        ProviderError, match="'my-expensive-bucket' is refused: earth-search-l1c has sentinel-s2-l1c"
    ):
        scene_from_item(item, EARTH_SEARCH_L1C, WEB_LOCATION)
    item = stac_item("x", href="s3://sentinel-s2-l1c/{band}.jp2", s2__product_type="S2MSI1C")
    scene = scene_from_item(item, EARTH_SEARCH_L1C, WEB_LOCATION)
    assert scene.asset("B02").href == "s3://sentinel-s2-l1c/B02.jp2"
    anywhere = replace(EARTH_SEARCH_L1C, s3=S3Access(endpoint_url="http://127.0.0.1:9"))
    assert (
        scene_from_item({**item, "id": "../../etc/passwd"}, anywhere, WEB_LOCATION).id == "../../etc/passwd"
    )
