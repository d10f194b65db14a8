"""``landuse catalog``. Oracles: rasterio's own reads, rio-cogeo's validator, pystac, ESA's offset rule."""

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.shutil
import rasterio.warp
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from landuse.errors import LanduseError, OutputError, ReadError, UsageError
from landuse.sentinel2 import BANDS
from landuse.workflows.imagery.bands import CatalogRequest, band_of_filename, parse_band_name, shows_no_offset
from landuse.workflows.imagery.catalog import catalog_rasters, parse_acquired_utc
from landuse.workflows.imagery.next_step import next_step

MOMENT = datetime(2019, 9, 18, 10, 50, 31, tzinfo=UTC)
ORIHUELA = "scenes/orihuela_es_L1C_20190918_13b_utm30n.tif"
ORIHUELA_LONLAT = "scenes/orihuela_es_L1C_20190918_13b_epsg4326.tif"
INN = "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif"
EXETER_NO_CODE = "scenes/exeter_gb_2024_cloudy/exe_2024-08-01_12-21-19.tif"


def request(out, *rasters, **changes):
    values = {"level": "L2A", "acquired_utc": MOMENT, "out": out} | changes
    return CatalogRequest(rasters=tuple(rasters), **values)


def write(
    path, names=("B04",), *, dtype="uint16", tags=None, crs="EPSG:32633", left=600_000, darkest=0, **profile
):
    """A small raster: 7 rows, 11 columns, every pixel different."""
    pixels = darkest + (np.arange(len(names) * 77) * 37 % 251).astype(dtype).reshape(len(names), 7, 11)
    profile = {"transform": Affine(10, 0, left, 0, -10, 5_300_000)} | profile
    with rasterio.open(
        path, "w", driver="GTiff", width=11, height=7, count=len(names), dtype=dtype, crs=crs, **profile
    ) as target:
        target.write(pixels)
        target.descriptions = names
        if tags is not None:
            target.scales = (tags[0],) * len(names)
            target.offsets = (tags[1],) * len(names)
    return path


def assert_same_pixels(result, band, source, index):
    cog = Path(result.item).parent / f"{band}.tif"
    with rasterio.open(cog) as copy, rasterio.open(source) as original:
        np.testing.assert_array_equal(copy.read(1), original.read(index))
        assert copy.transform == original.transform
        assert copy.crs == original.crs
        assert copy.descriptions == (band,)
    valid, errors, warnings = cog_validate(cog)
    assert valid, errors
    assert not warnings


@pytest.mark.parametrize(
    ("name", "level", "stated", "code"),
    [
        (ORIHUELA, "L1C", {"baseline": "02.08"}, "EPSG:32630"),
        (ORIHUELA_LONLAT, "L1C", {"baseline": "02.08"}, "EPSG:4326"),
        (INN, "L2A", {"offset": 0.0}, "EPSG:32633"),
        (EXETER_NO_CODE, "L2A", {"offset": 0.0}, None),
    ],
)
def test_real_multiband_raster_becomes_cogs_with_the_same_pixels(
    data_dir, tmp_path, name, level, stated, code
):
    source = data_dir / name
    result = catalog_rasters(request(tmp_path, source, level=level, **stated))
    with rasterio.open(source) as dataset:
        names = dataset.descriptions
    assert result.bands == names
    for index, band in enumerate(names, 1):
        assert_same_pixels(result, band, source, index)

    (item,) = pystac.Catalog.from_file(str(result.catalog)).get_items()
    assert item.properties["processing:level"] == level
    assert item.properties["proj:code"] == code
    assert ("proj:wkt2" in item.properties) == (code is None)
    assert item.datetime == MOMENT
    asset = item.assets["B02"]
    assert Path(asset.get_absolute_href()) == tmp_path / item.id / "B02.tif"
    assert (asset.extra_fields["raster:scale"], asset.extra_fields["raster:offset"]) == (1 / 10_000, 0)
    assert asset.extra_fields["nodata"] == 0
    with rasterio.open(source) as dataset:
        assert asset.extra_fields["proj:shape"] == list(dataset.shape)
        assert asset.extra_fields["proj:transform"] == list(dataset.transform)[:6]
        west, south, east, north = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    assert item.bbox == pytest.approx((west, south, east, north), abs=1e-6)


def test_what_a_killed_run_left_is_cleared_away(data_dir, tmp_path):
    half = tmp_path / "catalog" / ".scene.part"
    half.mkdir(parents=True)
    (half / "B02.tif").write_bytes(b"half a file")
    result = catalog_rasters(request(tmp_path / "catalog", data_dir / INN, offset=0.0, item_id="scene"))
    assert sorted(path.name for path in (tmp_path / "catalog").iterdir()) == ["catalog.json", "scene"]
    assert result.item == tmp_path / "catalog" / "scene" / "scene.json"


def test_a_file_per_band_gives_the_same_item_as_one_file(data_dir, tmp_path):
    source = data_dir / INN
    files = []
    with rasterio.open(source) as dataset:
        for index, band in enumerate(dataset.descriptions, 1):
            files.append(tmp_path / f"T33UUP_20210715_{band}_10m.tif")
            with rasterio.open(files[-1], "w", **(dataset.profile | {"count": 1})) as target:
                target.write(dataset.read(index), 1)
    apart = catalog_rasters(request(tmp_path / "apart", *files, offset=0.0))
    together = catalog_rasters(request(tmp_path / "together", source, offset=0.0, item_id="T33UUP_20210715"))
    assert apart.item_id == "T33UUP_20210715"
    assert json.loads(apart.item.read_text()) == json.loads(together.item.read_text())
    for file, band in zip(files, apart.bands, strict=True):
        assert_same_pixels(apart, band, file, 1)


@pytest.mark.parametrize(
    ("stem", "baseline"),
    [
        ("S2B_MSIL1C_20200406T101559_N0209_R065_T32UPC_20200406T130159", "02.09"),
        ("S2B_MSIL1C_20220615T101559_N0400_R065_T32UPC_20220615T122549", "04.00"),
    ],
)
def test_decoding_gives_the_reference_reflectance_of_real_products(data_dir, tmp_path, stem, baseline):
    source = data_dir / "offset_pair" / f"{stem}.tif"
    bands = (*(f"B{n:02}" for n in range(1, 9)), "B8A", "B09", "B10", "B11", "B12")
    result = catalog_rasters(request(tmp_path, source, level="L1C", baseline=baseline, bands=bands))
    with rasterio.open(source.with_name(f"{stem}_toa.tif")) as dataset:
        expected = dataset.read()
    for asset, reference in zip(result.assets, expected, strict=True):
        with rasterio.open(asset.href) as dataset:
            stored = dataset.read(1)
        seen = stored != asset.nodata
        decoded = asset.scale * stored + asset.offset
        np.testing.assert_allclose(decoded[seen], reference[seen], atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tags", "stated", "expected"),
    [
        ("uint16", None, {"baseline": "05.11"}, (1e-4, -0.1)),
        ("uint16", None, {"baseline": "04.00"}, (1e-4, -0.1)),
        ("uint16", None, {"baseline": "03.01"}, (1e-4, 0)),
        ("int16", None, {"offset": 0.0}, (1e-4, 0)),
        ("uint16", None, {"offset": 0.0, "baseline": "05.11"}, (1e-4, 0)),
        ("uint16", (1e-4, -0.1), {}, (1e-4, -0.1)),
        ("uint16", (1e-4, -0.1), {"offset": 0.0}, (1e-4, 0)),
        ("uint16", (1e-4, 0), {"baseline": "02.09"}, (1e-4, 0)),
        ("uint8", (4e-3, 0.002), {}, (4e-3, 0.002)),
        ("float32", None, {"scale": 1.0, "offset": 0.0}, (1, 0)),
        ("uint16", None, {}, "--baseline"),
        ("uint16", (1e-4, 0), {"baseline": "05.11"}, "--offset"),
        ("uint16", (1e-4, 0), {}, "--baseline"),
        ("uint16", (1.0, -1000), {}, "--scale"),
        ("uint8", None, {"offset": 0.0}, "--scale"),
        ("uint8", None, {"scale": 0.004, "baseline": "02.09"}, "--offset"),
        ("float32", None, {"baseline": "02.09"}, "--scale"),
        ("float32", None, {"scale": 1.0, "baseline": "02.09"}, "--offset"),
    ],
)
def test_scale_and_offset_are_stated_tagged_or_refused(tmp_path, dtype, tags, stated, expected):
    darkest = 1000 if "int16" in dtype else 0  # so that the pixels prove nothing
    source = write(tmp_path / "B04.tif", dtype=dtype, tags=tags, darkest=darkest)
    out = tmp_path / "out"
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            catalog_rasters(request(out, source, **stated))
        assert not out.exists()
        return
    (asset,) = catalog_rasters(request(out, source, **stated)).assets
    assert (asset.scale, asset.offset) == pytest.approx(expected)
    with rasterio.open(asset.href) as cog:
        assert (cog.scales[0], cog.offsets[0]) == pytest.approx(expected)


def test_dark_pixels_prove_that_there_is_no_offset(tmp_path, data_dir, caplog):
    """The real product without the offset is taken as it is; the one with it is not taken for such."""
    without, with_offset = sorted((data_dir / "offset_pair").glob("*[0-9].tif"))
    bands = (*(f"B{n:02}" for n in range(1, 9)), "B8A", "B09", "B10", "B11", "B12")
    result = catalog_rasters(request(tmp_path, without, level="L1C", bands=bands))
    assert {asset.offset for asset in result.assets} == {0.0}
    assert "no --baseline or --offset is given" in caplog.text
    evidence = pystac.Item.from_file(str(result.item)).properties["landuse:offset_evidence"]
    assert evidence.startswith("dark pixels")
    stated = catalog_rasters(request(tmp_path / "b", without, level="L1C", bands=bands, offset=0.0))
    assert "landuse:offset_evidence" not in pystac.Item.from_file(str(stated.item)).properties
    with pytest.raises(UsageError, match=r"neither baseline nor offset.*Give --baseline"):
        catalog_rasters(request(tmp_path, with_offset, level="L1C", bands=bands))


@pytest.mark.parametrize(
    ("dtype", "tag", "stated", "expected"),
    [
        ("uint16", None, None, 0),
        ("uint16", 65535, None, 65535),
        ("uint16", 65535, 7, 7),
        ("float32", None, None, "nan"),
        ("float32", -9999, None, -9999),
    ],
)
def test_nodata_is_stated_tagged_or_sentinel2s(tmp_path, dtype, tag, stated, expected):
    source = write(tmp_path / "B04.tif", dtype=dtype, nodata=tag)
    result = catalog_rasters(request(tmp_path / "out", source, scale=1e-4, offset=0.0, nodata=stated))
    item = pystac.Item.from_file(str(result.item))
    assert item.assets["B04"].extra_fields["nodata"] == expected
    with rasterio.open(result.assets[0].href) as cog:
        assert cog.nodata == expected or (expected == "nan" and math.isnan(cog.nodata))


def test_the_tagged_baseline_counts_and_the_stated_one_wins(tmp_path):
    source = write(tmp_path / "B04.tif")
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(PROCESSING_BASELINE="05.10")
    tagged = catalog_rasters(request(tmp_path / "a", source))
    stated = catalog_rasters(request(tmp_path / "b", source, baseline="03.00"))
    assert [r.assets[0].offset for r in (tagged, stated)] == [-0.1, 0]
    item = pystac.Item.from_file(str(tagged.item))
    assert item.properties["s2:processing_baseline"] == "05.10"


def test_scl_has_no_scale_and_bands_may_have_their_own_grids(tmp_path):
    fine = write(tmp_path / "fine.tif", ("red", "B3_10m"))
    coarse = write(
        tmp_path / "x_SCL_20m.tif",
        (None,),
        dtype="uint8",
        transform=Affine(20, 0, 600_000, 0, -20, 5_300_000),
    )
    result = catalog_rasters(request(tmp_path / "out", fine, coarse, baseline="05.11"))
    assert result.bands == ("B04", "B03", "SCL")
    item = pystac.Item.from_file(str(result.item))
    scl = item.assets["SCL"].extra_fields
    assert "raster:scale" not in scl
    assert (scl["raster:spatial_resolution"], scl["nodata"], scl["data_type"]) == (20, 0, "uint8")
    with rasterio.open(coarse) as dataset:
        bounds = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    assert item.bbox == pytest.approx(bounds, abs=1e-6)  # the coarse raster is the larger


def test_a_second_item_is_added_and_an_existing_one_kept_unless_overwritten(tmp_path):
    out = tmp_path / "out"
    first, second = write(tmp_path / "one.tif"), write(tmp_path / "two.tif", ("B02",))
    catalog_rasters(request(out, first, offset=0.0))
    catalog_rasters(request(out, second, offset=0.0))
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(UsageError, match="--overwrite"):
        catalog_rasters(request(out, second, offset=0.0, item_id="one"))
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before

    catalog_rasters(request(out, second, offset=0.0, item_id="one", overwrite=True))
    items = {i.id: i for i in pystac.Catalog.from_file(str(out / "catalog.json")).get_items()}
    assert {key: list(item.assets) for key, item in items.items()} == {"one": ["B02"], "two": ["B02"]}
    assert sorted(p.name for p in out.iterdir()) == ["catalog.json", "one", "two"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_item_is_never_replaced(tmp_path, overwrite):
    """A user's folder of the item's name, rasters and a JSON of its own in it, stays as it was."""
    mine = tmp_path / "scene"
    mine.mkdir()
    source = write(mine / "B04.tif")
    (mine / "scene.json").write_text('{"type": "FeatureCollection", "id": "scene"}')
    outside = write(tmp_path / "B03.tif", ("B03",))
    before = {path: path.read_bytes() for path in mine.iterdir()}
    for raster in (source, outside):
        with pytest.raises(UsageError, match="is no item of the catalogue") as caught:
            catalog_rasters(request(tmp_path, raster, offset=0.0, item_id="scene", overwrite=overwrite))
        assert "--overwrite" not in str(caught.value)
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(UsageError, match="is no item of the catalogue"):
        catalog_rasters(request(tmp_path, outside, offset=0.0, item_id="link", overwrite=overwrite))
    assert {path: path.read_bytes() for path in mine.iterdir()} == before


def test_an_item_is_not_replaced_by_rasters_out_of_itself(tmp_path):
    out = tmp_path / "out"
    first = catalog_rasters(request(out, write(tmp_path / "one.tif"), offset=0.0))
    cog = Path(first.assets[0].href)
    vrt = tmp_path / "one.vrt"
    rasterio.shutil.copy(cog, vrt, driver="VRT")
    link = tmp_path / "B04.tif"
    link.symlink_to(cog)
    for raster in (cog, vrt, link):
        with pytest.raises(UsageError, match="--overwrite would replace"):
            catalog_rasters(request(out, raster, offset=0.0, item_id="one", overwrite=True))
    assert cog.is_file()


def test_an_item_that_lost_its_link_is_still_an_item(tmp_path):
    source = write(tmp_path / "one.tif")
    catalog_rasters(request(tmp_path / "out", source, offset=0.0))
    (tmp_path / "out/catalog.json").unlink()
    catalog_rasters(request(tmp_path / "out", source, offset=0.0, overwrite=True))
    assert len(list(pystac.Catalog.from_file(str(tmp_path / "out/catalog.json")).get_items())) == 1


def test_fill_proves_nothing_about_the_offset(tmp_path):
    """Half a scene of zeros beside nodata 65535 is fill; DN with +1000 start at 1000."""
    source = write(tmp_path / "B04.tif", darkest=1000, nodata=65535)
    with rasterio.open(source, "r+") as dataset:
        pixels = dataset.read(1)
        pixels[:3], pixels[3] = 0, 65535
        dataset.write(pixels, 1)
    with pytest.raises(UsageError, match="neither baseline nor offset"):
        catalog_rasters(request(tmp_path / "out", source))
    assert not shows_no_offset(np.array([0, -32768, 7, 1500] * 50, np.int16), 7)
    assert shows_no_offset(np.array([0, 300, 1500], np.uint16), 65535)


def test_a_catalogue_can_be_moved(tmp_path):
    result = catalog_rasters(request(tmp_path / "out", write(tmp_path / "B04.tif"), offset=0.0))
    (tmp_path / "out").rename(tmp_path / "moved")
    (item,) = pystac.Catalog.from_file(str(tmp_path / "moved/catalog.json")).get_items()
    assert Path(item.assets["B04"].get_absolute_href()).is_file()
    assert not result.catalog.exists()


def test_ids_from_hostile_names_are_harmless(tmp_path):
    (tmp_path / "in").mkdir()
    source = write(tmp_path / "in" / "<b>&amp; ..%2f\u00fc.tif")
    result = catalog_rasters(request(tmp_path / "out", source, offset=0.0))
    assert result.item_id == "b-amp-2f"
    for bad in ("../up", "a/b", "", "-x", "x" * 101, "<script>"):
        with pytest.raises(UsageError, match="Item id"):
            request(tmp_path, source, item_id=bad)


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("B02", "B02"),
        ("b2", "B02"),
        ("B8a_20m", "B8A"),
        ("B12_60m", "B12"),
        ("NIR", "B08"),
        ("swir16", "B11"),
        ("B4, central wavelength 665 nm", "B04"),
        ("scl", "SCL"),
        ("B13", None),
        ("B002", None),
        ("rededge", None),
        ("gray", None),
        ("", None),
    ],
)
def test_band_names(text, band):
    assert parse_band_name(text) == band


@pytest.mark.parametrize(
    ("stem", "band"),
    [
        ("T33UUP_20220130T100211_B04_10m", "B04"),
        ("B8A", "B8A"),
        ("blue", "B02"),
        ("scene.B3", "B03"),
        ("red_lake", None),
        ("B03_minus_B04", None),
        ("ABB04", None),
    ],
)
def test_band_of_filename(stem, band):
    assert band_of_filename(stem) == band


@pytest.mark.parametrize(
    ("names", "stated", "message"),
    [
        (("QA", "B03"), None, r"'QA', 'B03'.*--bands"),
        ((None, None), None, r"no description.*--bands"),
        (("B03", "green"), None, "more than once"),
        (("B03", "B04"), ("B03",), "holds|hold 2"),
        (("B03", "B04"), ("B03", "B99"), "B99"),
        (("B03", "B10"), None, "no B10"),
    ],
)
def test_bands_that_are_not_understood_are_refused(tmp_path, names, stated, message):
    source = write(tmp_path / "scene.tif", names)
    with pytest.raises(UsageError, match=message):
        catalog_rasters(request(tmp_path / "out", source, offset=0.0, bands=stated))


def test_inputs_that_do_not_belong_together_are_refused(tmp_path):
    here = write(tmp_path / "B02.tif", ("B02",))
    other_crs = write(tmp_path / "B03.tif", ("B03",), crs="EPSG:32632")
    far = write(tmp_path / "B04.tif", ("B04",), left=700_000)
    with pytest.raises(UsageError, match="gdalwarp"):
        catalog_rasters(request(tmp_path / "out", here, other_crs, offset=0.0))
    south_up = write(tmp_path / "up.tif", transform=Affine(10, 0, 600_000, 0, 10, 5_300_000))
    with pytest.raises(UsageError, match=r"not stored north-up.*gdalwarp"):
        catalog_rasters(request(tmp_path / "out", south_up, offset=0.0))
    with pytest.raises(UsageError, match="share no ground"):
        catalog_rasters(request(tmp_path / "out", here, far, offset=0.0))


def test_unusable_inputs_are_refused(tmp_path):
    text = tmp_path / "notes.tif"
    text.write_text("not a raster")
    no_crs = write(tmp_path / "B02.tif", ("B02",), crs=None)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        no_grid = write(tmp_path / "B03.tif", ("B03",), transform=Affine.identity())
    masked = write(tmp_path / "B04.tif", ("B04",))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as dataset:
        dataset.write_mask(np.eye(7, 11, dtype=bool))
    for path, message in [
        (tmp_path / "none.tif", "does not exist"),
        (text, "not a raster"),
        (no_crs, "no coordinate reference system"),
        (no_grid, "no geotransform"),
        (masked, "mask"),
    ]:
        with pytest.raises(UsageError, match=message):
            catalog_rasters(request(tmp_path / "out", path, offset=0.0))
    assert not (tmp_path / "out").exists()


def test_a_truncated_raster_leaves_nothing_half_written(tmp_path):
    good = write(tmp_path / "B03.tif", ("B03",))
    rng = np.random.default_rng(0)
    cut = tmp_path / "B04.tif"
    with rasterio.open(good) as like:
        profile = like.profile | {
            "width": 300,
            "height": 300,
            "tiled": True,
            "blockxsize": 64,
            "blockysize": 64,
        }
    with rasterio.open(cut, "w", **profile) as target:
        target.write(rng.integers(0, 9000, (1, 300, 300), np.uint16))
    cut.write_bytes(cut.read_bytes()[:90_000])
    with pytest.raises(ReadError, match="B04"):
        catalog_rasters(request(tmp_path / "out", good, cut, offset=0.0, item_id="x"))
    assert list((tmp_path / "out").iterdir()) == []
    # The same while the pixels are searched for the offset.
    with pytest.raises(ReadError, match="B04"):
        catalog_rasters(request(tmp_path / "other", cut))
    assert not (tmp_path / "other").exists()


def test_an_output_that_is_no_folder_or_no_catalogue_is_refused(tmp_path):
    source = write(tmp_path / "B04.tif")
    with pytest.raises(OutputError, match="--out"):
        catalog_rasters(request(source, source, offset=0.0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/catalog.json").write_text('{"type": "FeatureCollection"}')
    with pytest.raises(UsageError, match="not a STAC catalogue"):
        catalog_rasters(request(tmp_path / "out", source, offset=0.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"level": "L3"},
        {"baseline": "5.11"},
        {"baseline": "0511"},
        {"scale": 0.0},
        {"scale": math.nan},
        {"offset": -1000.0},
        {"acquired_utc": datetime(2020, 1, 1)},
        {"cloud_percent": 101.0},
    ],
)
def test_requests_out_of_range_are_refused(tmp_path, changes):
    with pytest.raises(LanduseError):
        request(tmp_path, tmp_path / "x.tif", **changes)


def test_nodata_must_fit_the_pixels(tmp_path):
    with pytest.raises(UsageError, match="cannot hold nodata"):
        catalog_rasters(request(tmp_path / "out", write(tmp_path / "B04.tif"), offset=0.0, nodata=-9999.0))


def test_times_without_a_zone_are_utc():
    assert parse_acquired_utc("2019-09-18") == datetime(2019, 9, 18, tzinfo=UTC)
    assert parse_acquired_utc("2019-09-18T10:50:31") == MOMENT
    assert parse_acquired_utc("2019-09-18T12:50:31+02:00") == MOMENT
    with pytest.raises(UsageError, match="ISO 8601"):
        parse_acquired_utc("18.9.2019")
    with pytest.raises(UsageError, match="ISO 8601"):
        parse_acquired_utc("0001-01-01T00:00:00+05:00")


def falsified(source, path, change, names=None):
    """The raster with other stored values, and other names of its bands."""
    with rasterio.open(source) as original:
        values, profile = change(original.read().astype(float)), original.profile
        described = names or original.descriptions
    stored = values.round().astype(profile["dtype"])
    with rasterio.open(path, "w", **(profile | {"count": len(stored)})) as target:
        target.write(stored)
        target.descriptions = described
    return path


def test_units_that_the_pixels_contradict_are_refused(data_dir, tmp_path):
    thousandths = falsified(data_dir / INN, tmp_path / "thousandths.tif", lambda dn: dn / 10)
    with pytest.raises(UsageError, match=r"too dark.*With --scale 0\.001 --offset 0 they are plausible"):
        catalog_rasters(request(tmp_path / "out", thousandths, baseline="03.00"))
    with pytest.raises(UsageError, match=r"below zero.*With --scale 0\.0001 --offset 0"):
        catalog_rasters(request(tmp_path / "out", data_dir / INN, baseline="05.11"))
    assert not (tmp_path / "out").exists()


def test_a_stated_scale_is_enough_where_dark_pixels_show_no_offset(data_dir, tmp_path):
    thousandths = falsified(data_dir / INN, tmp_path / "thousandths.tif", lambda dn: dn / 10)
    result = catalog_rasters(request(tmp_path / "out", thousandths, scale=0.001))
    assert {(asset.scale, asset.offset) for asset in result.assets} == {(0.001, 0.0)}


def test_a_baseline_that_twelve_bands_contradict_is_not_taken_at_its_word(data_dir, tmp_path):
    bands = tuple(band for band in BANDS if band != "B10")
    source = data_dir / "cover/terramesh/S2L2A/433D_629L_3_1.tif"  # stored with +1000
    with pytest.raises(UsageError, match=r"baseline 03\.00.*carry ESA's \+1000.*--offset -0\.1"):
        catalog_rasters(request(tmp_path / "out", source, baseline="03.00", bands=bands))


def test_a_band_order_that_the_pixels_contradict_is_refused(data_dir, tmp_path):
    """The file holds B04, B03, B02, B08, and an index that is left out."""
    source = falsified(
        data_dir / INN, tmp_path / "five.tif", lambda dn: np.concatenate([dn, dn[:1]]), (None,) * 5
    )
    wrong = ("B02", "B03", "B04", "B08", "-")
    with pytest.raises(UsageError, match=r"B02, B03, B04, B08, but.*With --bands B04,B03,B02,B08,- they are"):
        catalog_rasters(request(tmp_path / "out", source, offset=0.0, bands=wrong))
    assert not (tmp_path / "out").exists()


def test_a_band_is_left_out_where_its_name_is_a_hyphen(tmp_path):
    source = write(tmp_path / "scene.tif", ("B02", "B03", "ndvi", "B08"))
    with pytest.raises(UsageError, match=r"'ndvi'.*--bands B02,B03,-,B08"):
        catalog_rasters(request(tmp_path / "out", source, offset=0.0))
    result = catalog_rasters(request(tmp_path / "out", source, offset=0.0, bands=("B02", "B03", "-", "B08")))
    assert result.bands == ("B02", "B03", "B08")
    assert_same_pixels(result, "B08", source, 4)
    with pytest.raises(UsageError, match="leaves every band out"):
        catalog_rasters(request(tmp_path / "none", source, offset=0.0, bands=("-",) * 4))


def test_an_acquisition_in_the_future_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--datetime 2999-01-01T00:00:00Z is in the future"):
        request(tmp_path, tmp_path / "B04.tif", acquired_utc=datetime(2999, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ("B04", "B03", "B02", "B08"),
            r"landuse map --source .*catalog\.json --out MAP  \(balanced-pixel reads B04",
        ),
        (("B04", "B08"), "no model that comes with landuse reads B04, B08 alone"),
    ],
)
def test_a_model_that_reads_the_bands_is_suggested(tmp_path, names, told):
    result = catalog_rasters(request(tmp_path / "out", write(tmp_path / "scene.tif", names), offset=0.0))
    assert re.match(told, next_step(result))
