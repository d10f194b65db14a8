"""Images as files. Oracles: Pillow's and rasterio's own reads, and what was written."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from landuse.pipeline.read import images
from landuse.pipeline.read.images import BrokenImageError, read_picture, resized
from tests.patches import EUROSAT, write_tiff

RNG = np.random.default_rng(4)
RGB = RNG.integers(0, 256, (3, 20, 30), np.uint8)
DN = RNG.integers(1, 9000, (13, 6, 5)).astype(np.uint16)


def saved(path, values=RGB, **options):
    Image.fromarray(values.transpose(1, 2, 0)).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png"])
def test_pictures_are_as_pillow_reads_them(tmp_path, name):
    path = saved(tmp_path / name)
    picture = read_picture(path)
    assert not picture.is_reflectance
    assert picture.values.dtype == np.uint8
    with Image.open(path) as image:
        assert (picture.values == np.asarray(image).transpose(2, 0, 1)).all()


def test_a_tiff_of_bytes_is_a_picture(tmp_path):
    picture = read_picture(write_tiff(tmp_path / "a.tif", RGB))
    assert not picture.is_reflectance
    assert (picture.values == RGB).all()


def test_reflectance_is_read_by_band(tmp_path):
    named = read_picture(write_tiff(tmp_path / "a.tif", DN, EUROSAT), bands=("B04", "B8A"))
    assert named.bands == ("B04", "B8A")
    assert named.values.dtype == np.int16
    assert (named.values == DN[[3, 12]]).all()
    nameless = read_picture(write_tiff(tmp_path / "b.tif", DN), bands=("B8A",))  # EuroSAT's order
    assert (nameless.values == DN[12:]).all()
    stated = read_picture(write_tiff(tmp_path / "c.tif", DN[:2]), band_order=("B08", "B02"), bands=("B02",))
    assert (stated.values == DN[1:2]).all()
    bright = read_picture(write_tiff(tmp_path / "d.tif", np.full((1, 2, 2), 65535, np.uint16), ("B02",)))
    assert (bright.values == 32767).all()


def write_vrt(path, source):
    path.write_text(
        '<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


def broken(tmp_path, kind):
    path = tmp_path / f"{kind}.jpg"
    if kind == "cut":
        path.write_bytes(saved(tmp_path / "whole.jpg").read_bytes()[:400])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "grey":
        Image.fromarray(RGB[0]).save(path)
    elif kind == "gif":
        saved(path, format="GIF")
    elif kind == "text":
        path = tmp_path / "notes.txt"
        path.write_text("no image")
    elif kind == "vrt":
        path = write_vrt(tmp_path / "vrt.tif", saved(tmp_path / "whole.png"))
    elif kind == "float":
        path = write_tiff(tmp_path / "float.tif", DN.astype(np.float32))
    elif kind == "four":
        path = write_tiff(tmp_path / "four.tif", DN[:4])
    elif kind == "cut tiff":
        path = write_tiff(tmp_path / "cut.tif", DN)
        path.write_bytes(path.read_bytes()[:300])
    return path


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("missing", "cannot be read"),
        ("cut", "cannot be read"),
        ("empty", "cannot be read"),
        ("gif", "cannot be read"),
        ("vrt", "cannot be read"),
        ("cut tiff", "cannot be read"),
        ("grey", "is of mode L, not 8-bit RGB"),
        ("text", "ends in .txt"),
        ("float", "13 bands of float32"),
        ("four", "4 bands without names"),
    ],
)
def test_a_broken_image_has_one_clear_error(tmp_path, kind, told):
    path = broken(tmp_path, kind)
    with pytest.raises(BrokenImageError) as error:
        read_picture(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_bands_that_are_not_there_or_not_stated_right_are_told(tmp_path):
    path = write_tiff(tmp_path / "a.tif", DN[:3], ("B02", "B03", "B04"))
    with pytest.raises(BrokenImageError, match="B08 is wanted too"):
        read_picture(path, bands=("B02", "B08"))
    with pytest.raises(BrokenImageError, match="says its bands are B02,B03,B04; --band-order says"):
        read_picture(path, band_order=("B04", "B03", "B02"))
    with pytest.raises(BrokenImageError, match="3 bands; B02,B03 is stated"):
        read_picture(path, band_order=("B02", "B03"))


def test_an_image_that_states_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    for path in (saved(tmp_path / "a.png"), write_tiff(tmp_path / "a.tif", RGB)):
        with pytest.raises(BrokenImageError, match="has 30 x 20 px; at most 599 pixels"):
            read_picture(path)
    huge = tmp_path / "huge.tif"
    with rasterio.open(
        huge, "w", driver="GTiff", dtype="uint8", count=3, width=300_000, height=300_000, sparse_ok=True,
        compress="deflate", tiled=True, bigtiff="yes", transform=Affine(10, 0, 500_000, 0, -10, 5_300_000),
    ):  # fmt: skip
        pass
    monkeypatch.undo()
    with pytest.raises(BrokenImageError, match="has 300000 x 300000 px"):
        read_picture(huge)


def test_images_are_resized_as_pillow_does():
    got = resized(RGB, 16)
    expected = Image.fromarray(RGB.transpose(1, 2, 0)).resize((16, 16), Image.Resampling.BILINEAR)
    assert (got == np.asarray(expected).transpose(2, 0, 1)).all()
    assert resized(got, 16) is got
