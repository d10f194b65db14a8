"""A map from a STAC API and a plain file server on loopback.

Oracles: the map of the same pixels on disk, bit for bit; the servers' own logs.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

from landuse.pipeline.search.area import parse_dates
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest
from tests.servers import file_server, stac_api, stac_item, write_items
from tests.workflows.patch_models import patch_predictor
from tests.workflows.world import area_of, assert_same_map, layers

INN = "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif"
ACQUIRED = datetime(2021, 6, 18, 10, 10, 31, tzinfo=UTC)
RGB = ("B02", "B03", "B04")


AREA = area_of(360_000, 5_349_600, 361_000, 5_350_100)


def map_of(out, source, predictor, area=AREA):
    return map_area(
        MapRequest(source=source, area=area, dates=parse_dates("2015-06-23/.."), out=out), predictor
    )


def catalogue(raster, out, baseline):
    return catalog_rasters(
        CatalogRequest(rasters=(raster,), level="L2A", acquired_utc=ACQUIRED, out=out, baseline=baseline)
    )


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return patch_predictor(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def inn(data_dir, tmp_path_factory):
    """The real scene catalogued twice: as it is, and as ESA stores it from baseline 04.00 on."""
    folder = tmp_path_factory.mktemp("inn")
    twin = folder / "plus1000.tif"
    with rasterio.open(data_dir / INN) as image, rasterio.open(twin, "w", **image.profile) as target:
        target.write(image.read() + np.uint16(1000))
        target.descriptions = image.descriptions
    results = {
        "03.00": catalogue(data_dir / INN, folder / "old", "03.00"),
        "05.11": catalogue(twin, folder / "new", "05.11"),
    }
    return folder, results


@pytest.fixture(scope="module")
def local(inn, predictor, tmp_path_factory):
    """The map of the scene on disk."""
    out = tmp_path_factory.mktemp("local") / "map"
    map_of(out, str(inn[1]["03.00"].catalog), predictor)
    assert len(np.unique(layers(out)[1][2])) > 5
    return out


def test_a_catalogue_served_over_http_gives_the_local_map(inn, local, predictor, tmp_path):
    folder, results = inn
    with file_server(folder) as files:
        (item,) = pystac.Catalog.from_file(str(results["03.00"].catalog)).get_items()
        for asset in item.assets.values():
            path = Path(asset.get_absolute_href()).relative_to(folder)
            asset.href = f"{files.url}/{path}"
        document = item.to_dict(include_self_link=False) | {"collection": "sentinel-2-l2a", "links": []}
        with stac_api(write_items(tmp_path / "items.json", [document])) as url:
            report = map_of(tmp_path / "api", url, predictor)
        map_of(tmp_path / "static", f"{files.url}/old/catalog.json", predictor)
        gets = {entry.path for entry in files.log if entry.method == "GET" and entry.status == 206}
    assert_same_map(tmp_path / "api", local)
    assert_same_map(tmp_path / "static", local)
    stem = f"/old/{results['03.00'].item_id}"
    assert gets == {f"{stem}/{band}.tif" for band in RGB}  # B08 is there, and nobody needs it
    (scene,) = report.to_dict()["scenes"]
    assert {asset["href"] for asset in scene["assets"].values()} == {files.url + path for path in gets}


@pytest.mark.slow
def test_a_small_area_of_a_large_scene_is_read_by_range(predictor, tmp_path):
    """Noise does not compress, so the bytes that travelled tell how many pixels did."""
    size_px, left, top = 3000, 400_000, 5_400_000
    rng = np.random.default_rng(1)
    folder = tmp_path / "served"
    folder.mkdir()
    for band in RGB:
        with rasterio.open(
            folder / f"{band}.tif", "w", driver="COG", dtype="uint16", count=1, height=size_px,
            width=size_px, crs="EPSG:32633", transform=Affine(10, 0, left, 0, -10, top), nodata=0,
            blocksize=512, compress="none",
        ) as target:  # fmt: skip
            target.write(rng.integers(1, 2000, (1, size_px, size_px), np.uint16))
    edges = transform_bounds("EPSG:32633", "EPSG:4326", left, top - 10 * size_px, left + 10 * size_px, top)
    with file_server(folder) as files:
        item = stac_item(
            "large", bbox=edges, bands=RGB, href=files.url + "/{band}.tif", proj__code="EPSG:32633",
            proj__bbox=[left, top - 10 * size_px, left + 10 * size_px, top],
        )  # fmt: skip
        small = area_of(left + 17_000, top - 14_500, left + 17_600, top - 14_000)
        with stac_api(write_items(tmp_path / "items.json", [item])) as url:
            report = map_of(tmp_path / "map", url, predictor, area=small)
        requests = [entry for entry in files.log if entry.method == "GET"]
    assert report.cover.valid == 1
    assert {entry.path for entry in requests} == {f"/{band}.tif" for band in RGB}
    assert {entry.status for entry in requests} == {206}
    spans = [re.fullmatch(r"bytes=(\d+)-(\d+)", entry.byte_range) for entry in requests]
    travelled = sum(int(span[2]) - int(span[1]) + 1 for span in spans)
    held = sum((folder / f"{band}.tif").stat().st_size for band in RGB)
    assert held > 3 * 2 * size_px**2
    # The window and its context touch four of 36 tiles at the most.
    assert 2 * 3 * 100**2 < travelled < held / 6
