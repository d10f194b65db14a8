"""One area in two UTM zones, and over the 180th meridian: one map, read from both, without a gap.

Oracle: the map of the same ground from one raster of one zone.
"""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds

from landuse.pipeline.search.area import parse_bbox
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest
from tests.servers import stac_item
from tests.workflows.patch_models import patch_predictor
from tests.workflows.world import BANDS, item_collection

INN = "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return patch_predictor(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def inn(data_dir):
    with rasterio.open(data_dir / INN) as image:
        pixels = np.stack([image.read(image.descriptions.index(band) + 1) for band in BANDS])
    return pixels  # (band, y, x)


def tile(folder, name, pixels, crs, transform, **properties):
    """One item with a GeoTIFF a band, whose outline is its raster's."""
    folder.mkdir(exist_ok=True)
    for band, values in zip(BANDS, pixels, strict=True):
        with rasterio.open(
            folder / f"{name}-{band}.tif", "w", driver="GTiff", dtype="uint16", count=1, nodata=0, crs=crs,
            height=values.shape[0], width=values.shape[1], transform=transform, tiled=True,
            blockxsize=128, blockysize=128,
        ) as target:  # fmt: skip
            target.write(values, 1)
    height, width = pixels.shape[1:]
    left, top = transform @ (0, 0)
    right, bottom = transform @ (width, height)
    bbox = transform_bounds(crs, "EPSG:4326", left, bottom, right, top)
    item = stac_item(
        name, bbox=bbox, datetime="2021-06-18T10:10:31Z", bands=BANDS, href=f"{folder}/{name}-{{band}}.tif",
        s2__processing_baseline="03.00", proj__code=crs, platform="sentinel-2a", **properties,
    )  # fmt: skip
    for asset in item["assets"].values():
        asset |= {"proj:shape": [height, width], "proj:transform": list(transform)[:6]}
    return item


def into(pixels, crs, transform, target_crs):
    """The same ground in another zone, by rasterio's own reprojection; 0 beyond it."""
    height, width = pixels.shape[1:]
    left, top = transform @ (0, 0)
    right, bottom = transform @ (width, height)
    west, south, east, north = transform_bounds(crs, target_crs, left, bottom, right, top)
    there = Affine(10, 0, np.floor(west / 10) * 10, 0, -10, np.ceil(north / 10) * 10)
    rows, columns = (int(np.ceil(size / 10)) + 1 for size in (north - south, east - west))
    warped = np.zeros((len(pixels), rows, columns), np.uint16)
    reproject(
        pixels, warped, src_transform=transform, src_crs=crs, dst_transform=there, dst_crs=target_crs,
        src_nodata=0, dst_nodata=0, resampling=Resampling.cubic,
    )  # fmt: skip
    return warped, there


def classes_of(out):
    with rasterio.open(out / "landuse.tif") as file:
        return file.crs, file.transform, file.read(1)


def run(source, out, area, predictor):
    return map_area(MapRequest(source=str(source), area=area, dates=None, out=out, block_px=192), predictor)


def test_an_area_over_two_zones_is_read_from_both(inn, predictor, tmp_path):
    transform = Affine(10, 0, 359_130, 0, -10, 5_352_340)
    whole = tile(tmp_path / "one", "whole", inn, "EPSG:32633", transform)
    # The eastern 360 columns stay in zone 33; the western 218, and some that overlap, lie in zone 32.
    east = tile(
        tmp_path / "two", "east", inn[:, :, 218:], "EPSG:32633", transform @ Affine.translation(218, 0)
    )
    west_pixels, west_grid = into(inn[:, :, :230], "EPSG:32633", transform, "EPSG:32632")
    west = tile(tmp_path / "two", "west", west_pixels, "EPSG:32632", west_grid)
    left, bottom, right, top = 359_130 + 600, 5_352_340 - 3300, 359_130 + 5200, 5_352_340 - 400
    edges = transform_bounds("EPSG:32633", "EPSG:4326", left, bottom, right, top)
    area = parse_bbox(",".join(f"{edge:.7f}" for edge in edges))
    reference = run(item_collection(tmp_path / "one.json", [whole]), tmp_path / "map1", area, predictor)
    report = run(item_collection(tmp_path / "two.json", [west, east]), tmp_path / "map2", area, predictor)
    assert (reference.cover.valid, report.cover.valid) == (1, 1)
    assert {scene.crs for scene in report.plan.scenes} == {"EPSG:32632", "EPSG:32633"}
    crs, grid, mapped = classes_of(tmp_path / "map2")
    crs_too, grid_too, expected = classes_of(tmp_path / "map1")
    # The zone that holds most of the area, and it is said.
    assert crs == crs_too == CRS.from_epsg(32633)
    assert report.to_dict()["grid"]["crs"] == "EPSG:32633"
    assert grid == grid_too
    assert (mapped == expected).mean() > 0.9
    # A shift by a cell would agree less.
    assert (mapped == expected).mean() > (mapped[:, 1:] == expected[:, :-1]).mean() + 0.1


def test_an_area_over_the_180th_meridian_is_one_map(inn, predictor, tmp_path):
    """The real pixels laid over the meridian: more of them in zone 60, the rest in zone 1."""
    # At 52 degrees north zone 60 reaches about 205 km east of its axis; the meridian crosses the raster.
    x, _ = (edge[0] for edge in rasterio.warp.transform("EPSG:4326", "EPSG:32660", [180.0], [52.0]))
    left = round((x - 2890) / 10) * 10
    top = 5_766_000
    transform = Affine(10, 0, left, 0, -10, top)
    whole = tile(tmp_path / "one", "whole", inn, "EPSG:32660", transform)
    west = tile(tmp_path / "two", "west", inn[:, :, :400], "EPSG:32660", transform)
    shifted = transform @ Affine.translation(280, 0)
    east_pixels, east_grid = into(inn[:, :, 280:], "EPSG:32660", shifted, "EPSG:32601")
    east = tile(tmp_path / "two", "east", east_pixels, "EPSG:32601", east_grid)
    lons, lats = rasterio.warp.transform(
        "EPSG:32660", "EPSG:4326", [left + 700, left + 5000], [top - 3200, top - 500]
    )
    assert lons[0] > 179.9
    assert lons[1] < -179.9
    area = parse_bbox(f"{lons[0]},{lats[0]},{lons[1]},{lats[1]}")
    reference = run(item_collection(tmp_path / "one.json", [whole]), tmp_path / "map1", area, predictor)
    report = run(item_collection(tmp_path / "two.json", [west, east]), tmp_path / "map2", area, predictor)
    assert min(reference.cover.valid, report.cover.valid) > 0.97
    crs, grid, mapped = classes_of(tmp_path / "map2")
    crs_too, grid_too, expected = classes_of(tmp_path / "map1")
    assert (crs, grid, mapped.shape) == (crs_too, grid_too, expected.shape)
    assert mapped.shape[1] < 40  # 4.3 km of cells, not once around the earth
    both = (mapped != 255) & (expected != 255)
    assert (mapped == expected)[both].mean() > 0.9
