"""Reading: the oracle is rasterio itself, on another path."""

from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject
from rasterio.windows import from_bounds

from landuse.errors import AssetError, ReadError
from landuse.pipeline.read.cloud_mask import MASK_MARGIN_PX
from landuse.pipeline.read.read_scene import _to_dn, _with_context, read_scene
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.scene import BandAsset, Scene
from tests.servers import free_port

CRS = "EPSG:32633"


def read(scene, bands, grid):
    with Remote() as remote:
        return read_scene(scene, bands, grid, remote)


def scene_of(*assets: BandAsset) -> Scene:
    return Scene(
        id="a scene",
        provider="local",
        acquired_utc=datetime(2024, 6, 1, tzinfo=UTC),
        level="L2A",
        baseline="05.11",
        cloud_percent=None,
        footprint=(((13, 48), (14, 48), (14, 49), (13, 48)),),
        crs=CRS,
        bounds_m=None,
        assets=assets,
    )


def write(path, values, transform, crs=CRS, nodata=0):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
    ) as file:
        file.write(values, 1)
    return str(path)


@pytest.fixture
def raster(tmp_path):
    rng = np.random.default_rng(5)
    values = rng.integers(1, 9000, (70, 110)).astype(np.uint16)
    values[30:33, 40:50] = 0
    transform = Affine(10, 0, 500_030, 0, -10, 5_300_070)
    return write(tmp_path / "B04.tif", values, transform), values, transform


def geobox(left, top, rows, cols, crs=CRS):
    return GeoBox((rows, cols), Affine(10, 0, left, 0, -10, top), crs)


def test_an_aligned_raster_is_read_pixel_for_pixel(raster):
    href, _, _ = raster
    grid = geobox(500_130, 5_299_990, 40, 55)
    block = read(scene_of(BandAsset(band="B04", href=href, offset=-0.1)), ("B04",), grid)
    with rasterio.open(href) as file:
        expected = file.read(1, window=from_bounds(*grid.boundingbox.bbox, file.transform))
    np.testing.assert_array_equal(block.observed.values, expected != 0)
    shifted = np.where(expected != 0, np.clip(expected.astype(int) - 1000, 1, None), 0)
    np.testing.assert_array_equal(block.dn.values[0], shifted)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1e-4, -0.1), (3.7e-5, 0.02)])
def test_many_values_become_the_dn_that_each_becomes_alone(dtype, scale, offset):
    asset = BandAsset(band="B04", href="B04.tif", scale=scale, offset=offset)
    many = np.random.default_rng(2).integers(0, 250, (300, 300)).astype(dtype)
    every = np.arange(65_536).reshape(256, 256)
    many[:256, :256] = every if np.dtype(dtype) == np.uint16 else every.astype(dtype) // 2
    strips = np.concatenate([_to_dn(many[row : row + 100], asset) for row in range(0, 300, 100)])
    assert np.array_equal(_to_dn(many, asset), strips)
    alone = np.rint((many.astype(np.float64) * scale + offset) * 10_000).clip(1, 65_535)
    assert np.array_equal(strips, alone)


def test_what_lies_beyond_the_raster_is_not_observed(raster):
    href, values, transform = raster
    grid = geobox(transform.c - 200, transform.f + 300, 120, 150)
    block = read(scene_of(BandAsset(band="B04", href=href)), ("B04",), grid)
    expected = np.zeros((120, 150), np.uint16)
    expected[30:100, 20:130] = values
    np.testing.assert_array_equal(block.dn.values[0], expected)
    np.testing.assert_array_equal(block.observed.values, expected > 0)
    far = read(scene_of(BandAsset(band="B04", href=href)), ("B04",), geobox(100_000, 100_000, 5, 5))
    assert not far.observed.values.any()


def test_a_20_m_band_lands_on_its_own_ground(tmp_path, raster):
    href, _, _ = raster
    scl = np.full((40, 60), 4, np.uint8)
    scl[7, 11] = 9  # cloud: 20 m cell at rows 14..15, cols 22..23 of the 10 m grid
    scl_href = write(tmp_path / "SCL.tif", scl, Affine(20, 0, 500_030, 0, -20, 5_300_070))
    grid = geobox(500_030, 5_300_070, 70, 110)
    block = read(
        scene_of(BandAsset(band="B04", href=href), BandAsset(band="SCL", href=scl_href, scale=1)),
        ("B04",),
        grid,
    )
    clouded = block.observed.values & ~block.usable.values
    assert {(int(r), int(c)) for r, c in zip(*np.nonzero(clouded), strict=True)} == {
        (14, 22), (14, 23), (15, 22), (15, 23),
    }  # fmt: skip


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:27700"])
def test_another_crs_is_warped_like_gdals_own_reprojection(tmp_path, crs):
    rows, cols = np.mgrid[:200, :200]
    values = (1000 + 10 * rows + 5 * cols).astype(np.uint16)
    left, top, size = {
        "EPSG:32632": (700_000, 5_300_000, 10),
        "EPSG:4326": (11.7, 47.8, 0.0001),
        "EPSG:27700": (1_600_000, 50_000, 10),
    }[crs]
    transform = Affine(size, 0, left, 0, -size, top)
    href = write(tmp_path / "B04.tif", values, transform, crs)
    with rasterio.open(href) as file, WarpedVRT(file, crs=CRS) as warped:
        west, north = warped.bounds.left, warped.bounds.top
    grid = geobox(round(west, -1) + 200, round(north, -1) - 200, 90, 80)
    block = read(scene_of(BandAsset(band="B04", href=href)), ("B04",), grid)
    expected = np.zeros((90, 80), np.float64)
    reproject(
        values.astype(np.float64),
        expected,
        src_transform=transform,
        src_crs=crs,
        dst_transform=grid.affine,
        dst_crs=CRS,
        src_nodata=0,
        dst_nodata=0,
        resampling=Resampling.bilinear,
    )
    both = block.observed.values & (expected > 0)
    assert both.mean() > 0.5
    # A plane: cubic and bilinear agree on it to rounding; half a pixel off would differ by 7.
    assert np.abs(block.dn.values[0][both] - expected[both]).max() <= 2


def test_floats_without_nodata_and_nan(tmp_path):
    values = np.full((20, 20), 0.25, np.float32)
    values[3, 4] = np.nan
    values[5, 6] = -0.02
    href = write(tmp_path / "B04.tif", values, Affine(10, 0, 500_000, 0, -10, 5_300_000), nodata=None)
    asset = BandAsset(band="B04", href=href, scale=1, nodata=None)
    block = read(scene_of(asset), ("B04",), geobox(500_000, 5_300_000, 20, 20))
    assert not block.observed.values[3, 4]
    assert block.dn.values[0, 5, 6] == 1  # real, if below zero: not nodata
    assert block.dn.values[0, 0, 0] == 2500


def test_zero_is_never_data_in_16_bit_reflectance(tmp_path):
    values = np.full((8, 8), 1500, np.uint16)
    values[2, 3], values[4, 5] = 0, 65_535
    href = write(tmp_path / "B04.tif", values, Affine(10, 0, 500_000, 0, -10, 5_300_000), nodata=65_535)
    asset = BandAsset(band="B04", href=href, offset=-0.1, nodata=65_535)
    block = read(scene_of(asset), ("B04",), geobox(500_000, 5_300_000, 8, 8))
    assert sorted(zip(*np.nonzero(~block.observed.values), strict=True)) == [(2, 3), (4, 5)]


@pytest.mark.parametrize("off_lattice_m", [0, 5])
@pytest.mark.parametrize(
    ("dtype", "fill", "tagged", "stated"),
    [
        ("uint16", 0, None, None),
        ("uint16", 0, None, -9999),  # which no unsigned number can be
        ("uint16", 0, None, np.nan),
        ("int32", 0, None, None),
        ("int16", -9999, -9999, None),
        ("float32", np.nan, None, None),
        ("float32", -9999, -9999, None),
        ("float32", -1, None, -1),
    ],
)
def test_fill_is_no_data_on_the_lattice_and_off_it(tmp_path, dtype, fill, tagged, stated, off_lattice_m):
    ground, unit = (0.25, 1) if dtype == "float32" else (2500, 1e-4)
    values = np.full((30, 30), ground, dtype)
    values[:, :12] = fill
    left = 500_000 + off_lattice_m
    href = write(tmp_path / "B04.tif", values, Affine(10, 0, left, 0, -10, 5_300_000), nodata=tagged)
    asset = BandAsset(band="B04", href=href, scale=unit, nodata=stated)
    block = read(scene_of(asset), ("B04",), geobox(500_000, 5_300_000, 30, 30))
    seen = block.observed.values
    edge = 1 if off_lattice_m else 0  # the pixel that lies half on the fill may be either
    assert not seen[:, :12].any()
    assert seen[:, 12 + edge : 30].all()
    np.testing.assert_array_equal(block.dn.values[0][seen], 2500)  # nothing of the fill is mixed in


@pytest.mark.parametrize("off_lattice_m", [0, 5])
@pytest.mark.parametrize(("dtype", "tagged", "stated"), [("int16", -9999, 0), ("uint16", 65_535, 0)])
def test_of_two_kinds_of_fill_neither_is_mixed_in(tmp_path, dtype, tagged, stated, off_lattice_m):
    values = np.full((30, 30), 2500, dtype)
    values[:, :8], values[:, 22:] = 0, tagged
    transform = Affine(10, 0, 500_000 + off_lattice_m, 0, -10, 5_300_000)
    href = write(tmp_path / "B04.tif", values, transform, nodata=tagged)
    asset = BandAsset(band="B04", href=href, nodata=stated)
    block = read(scene_of(asset), ("B04",), geobox(500_000, 5_300_000, 30, 30))
    assert block.observed.values[:, 11:20].all()
    np.testing.assert_array_equal(block.dn.values[0][block.observed.values], 2500)


@pytest.mark.parametrize("how", ["mask", "alpha"])
def test_masks_and_alpha_bands_are_refused(tmp_path, how):
    path = tmp_path / "B04.tif"
    profile = {
        "driver": "GTiff", "height": 8, "width": 8, "dtype": "uint16", "crs": CRS,
        "transform": Affine(10, 0, 500_000, 0, -10, 5_300_000),
    }  # fmt: skip
    seen = np.full((8, 8), 255, np.uint8)
    seen[:, :4] = 0
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", count=1 if how == "mask" else 2, **profile) as file,
    ):
        file.write(np.full((8, 8), 1500, np.uint16), 1)
        if how == "mask":
            file.write_mask(seen)
        else:
            file.write(seen.astype(np.uint16), 2)
            file.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
    asset = BandAsset(band="B04", href=str(path), nodata=None)
    with pytest.raises(AssetError, match="mask or an alpha band, which is not read"):
        read(scene_of(asset), ("B04",), geobox(500_000, 5_300_000, 8, 8))


@pytest.mark.parametrize("size_m", [10, 20, 4])
def test_a_warped_pixel_does_not_depend_on_the_block_it_is_read_in(tmp_path, size_m):
    rng = np.random.default_rng(7)
    values = rng.integers(500, 4000, (400, 400)).astype(np.uint16)
    transform = Affine(size_m, 0, 700_000, 0, -size_m, 5_300_000)
    href = write(tmp_path / "B04.tif", values, transform, "EPSG:32632")
    with rasterio.open(href) as file, WarpedVRT(file, crs=CRS) as warped:
        west, north = round(warped.bounds.left, -1), round(warped.bounds.top, -1)
    asset = scene_of(BandAsset(band="B04", href=href))
    side = min(400 * size_m // 10, 320) // 64 * 64
    whole = read(asset, ("B04",), geobox(west, north, side, side))
    for row in range(0, side, 64):
        for col in range(0, side, 64):
            part = read(asset, ("B04",), geobox(west + col * 10, north - row * 10, 64, 64))
            place = np.s_[row : row + 64, col : col + 64]
            np.testing.assert_array_equal(part.observed.values, whole.observed.values[place])
            difference = part.dn.values[0].astype(int) - whole.dn.values[0][place]
            assert np.abs(difference).max() <= 1
            assert (difference != 0).mean() < 1e-2


def test_a_pixel_counts_as_observed_only_in_every_band(tmp_path):
    transform = Affine(10, 0, 500_000, 0, -10, 5_300_000)
    red, blue = np.full((8, 8), 500, np.uint16), np.full((8, 8), 300, np.uint16)
    red[0, 0], blue[1, 1] = 0, 0
    assets = [
        BandAsset(band=band, href=write(tmp_path / f"{band}.tif", values, transform))
        for band, values in (("B04", red), ("B02", blue))
    ]
    block = read(scene_of(*assets), ("B02", "B04"), geobox(500_000, 5_300_000, 8, 8))
    assert not block.observed.values[0, 0]
    assert not block.observed.values[1, 1]
    assert block.dn.values[:, 0, 0].tolist() == [0, 0]
    assert block.dn.values[:, 2, 2].tolist() == [300, 500]


def test_failures_name_asset_scene_and_mend_but_no_token(tmp_path):
    grid = geobox(500_000, 5_300_000, 8, 8)
    missing = BandAsset(band="B04", href=str(tmp_path / "gone.tif"))
    with pytest.raises(ReadError, match=r"Asset B04 of scene 'a scene' cannot be read.*gone.tif"):
        read(scene_of(missing), ("B04",), grid)
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0" + b"x" * 100)
    with pytest.raises(ReadError, match="cannot be read"):
        read(scene_of(BandAsset(band="B04", href=str(broken))), ("B04",), grid)

    asset = BandAsset(band="B04", href=f"http://127.0.0.1:{free_port()}/B04.tif?sig=SECRET")
    hasty = RetryPolicy(attempts=1, connect_timeout_s=2)
    with pytest.raises(AssetError) as caught, Remote(hasty) as remote:
        read_scene(scene_of(asset), ("B04",), grid, remote)
    assert "SECRET" not in str(caught.value)
    assert (caught.value.band, caught.value.href) == ("B04", asset.href.partition("?")[0])


def test_a_file_that_names_other_files_is_not_imagery(tmp_path, raster):
    href, _, _ = raster
    with rasterio.open(href) as file:
        rasterio.shutil.copy(file, tmp_path / "B04.vrt", driver="VRT")
    (tmp_path / "B04.vrt").rename(tmp_path / "disguised.tif")
    assert rasterio.open(tmp_path / "disguised.tif").driver == "VRT"
    asset = BandAsset(band="B04", href=str(tmp_path / "disguised.tif"))
    with pytest.raises(ReadError, match="cannot be read"):
        read(scene_of(asset), ("B04",), geobox(500_030, 5_300_070, 8, 8))


def write_jp2(path, values, transform):
    """Lossless, in tiles of 256."""
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", height=values.shape[0], width=values.shape[1], count=1,
        dtype="uint16", crs=CRS, transform=transform, QUALITY="100", REVERSIBLE="YES", BLOCKXSIZE=256,
        BLOCKYSIZE=256,
    ) as file:  # fmt: skip
        file.write(values, 1)
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["none", "cut", "zeroed"])
def test_a_damaged_jpeg_2000_is_an_error_and_no_blank(tmp_path, damage):
    values = np.random.default_rng(2).integers(1, 9000, (700, 700)).astype(np.uint16)
    path = tmp_path / "B04.jp2"
    content = write_jp2(path, values, Affine(10, 0, 500_000, 0, -10, 5_300_000))
    tile = content.rindex(b"\xff\x90\x00\x0a")  # where the last tile begins (ISO 15444-1, A.4.2)
    damaged = {
        "none": content,
        "cut": content[: int(len(content) * 0.95)],
        "zeroed": content[:tile] + bytes(5000) + content[tile + 5000 :],
    }
    path.write_bytes(damaged[damage])
    scene, grid = scene_of(BandAsset(band="B04", href=str(path))), geobox(500_000, 5_300_000, 700, 700)
    if damage == "none":
        np.testing.assert_array_equal(read(scene, ("B04",), grid).dn[0], values)
    else:
        with pytest.raises(AssetError, match=r"B04\.jp2"):
            read(scene, ("B04",), grid)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0])
def test_a_raster_that_lies_nowhere_is_refused(tmp_path, scale):
    href = write(
        tmp_path / "B04.tif", np.full((300, 300), 1000, np.uint16), Affine(10, 0, 5e5, 0, -10, 5.3e6)
    )
    with rasterio.open(href, "r+") as file:
        file.transform = Affine(scale, 0, 500_000, 0, -10, 5_300_000)
    with pytest.raises(ReadError):
        read(scene_of(BandAsset(band="B04", href=href)), ("B04",), geobox(500_000, 5_300_000, 64, 64))


@pytest.mark.parametrize(("crs", "origin_m"), [("EPSG:32633", 0), ("EPSG:32720", 10_000_000)])
def test_the_masks_cells_are_the_60_m_pixels_of_sentinel_2(crs, origin_m):
    """Tiles begin on multiples of 60 m from the zone's false origin: 9,500,020 is a real one's top."""
    for row in range(7):
        grid = geobox(300_000 + 10 * row, (5_300_040 if not origin_m else 9_500_020) - 10 * row, 40, 50, crs)
        wider, inside = _with_context(grid)
        assert (wider.affine.c % 60, (wider.affine.f - origin_m) % 60) == (0, 0)
        assert (wider.shape[0] % 6, wider.shape[1] % 6) == (0, 0)
        rows, cols = inside
        corner = wider.affine.c + 10 * cols.start, wider.affine.f - 10 * rows.start
        assert corner == (grid.affine.c, grid.affine.f)
        assert (rows.stop - rows.start, cols.stop - cols.start) == grid.shape
        assert min(rows.start, cols.start) >= MASK_MARGIN_PX
        assert min(wider.shape[0] - rows.stop, wider.shape[1] - cols.stop) >= MASK_MARGIN_PX
