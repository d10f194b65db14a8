"""Oracles: Pillow's own reading, the folder as it was made, and EuroSAT's published counts."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from landuse.classes import EUROSAT_NAMES
from landuse.errors import UsageError
from landuse.model.training.datasets import (
    LabelledPatches,
    PatchSource,
    class_names,
    list_patches,
    load_patches,
    read_split,
)


def save_jpeg(path, side=8, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, 0, 0)).save(path)
    return path


def test_patches_are_what_pillow_reads_labelled_by_their_folder(patch_folder):
    names = ["Water/Water_3.jpg", "Brick/Brick_0.jpg", "Grass/Grass_7.jpg"]
    patches = load_patches(PatchSource(root=patch_folder), names)
    assert patches.classes == ("Brick", "Grass", "Water")
    assert patches.labels.tolist() == [2, 0, 1]
    assert patches.names == tuple(names)
    assert len(patches) == 3
    assert patches.images.dtype == torch.uint8
    for name, image in zip(names, patches.images, strict=True):
        with Image.open(patch_folder / name) as source:
            for row, col in ((0, 0), (3, 11), (15, 2)):
                assert tuple(image[:, row, col].tolist()) == source.getpixel((col, row))


def test_dn_of_the_darkest_and_brightest_jpeg_values():
    images = torch.tensor([[0, 51, 255]] * 3, dtype=torch.uint8).view(1, 3, 1, 3)
    patches = LabelledPatches(
        images=images,
        dn_per_count=2750 / 255,
        bands=("B04", "B03", "B02"),
        level="L1C",
        labels=torch.tensor([0]),
        names=("A/1.jpg",),
        classes=("A", "B"),
    )
    assert patches.dn(slice(None))[0, 1, 0].tolist() == pytest.approx([0, 550, 2750])


def test_listing_takes_images_of_class_folders_only(tmp_path):
    for name in ("B/2.jpg", "B/10.JPEG", "A/1.jpg", ".hidden/9.jpg"):
        save_jpeg(tmp_path / name)
    (tmp_path / "A" / "notes.txt").write_text("no image")
    (tmp_path / "README.md").write_text("no folder")
    assert class_names(tmp_path) == ("A", "B")
    assert list_patches(tmp_path) == ["A/1.jpg", "B/10.JPEG", "B/2.jpg"]


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        class_names(tmp_path / "missing")
    (tmp_path / "only").mkdir()
    with pytest.raises(UsageError, match="holds 1 class folders; at least 2"):
        class_names(tmp_path)


def test_a_split_is_one_name_a_line(tmp_path):
    split = tmp_path / "split.txt"
    split.write_text("A/1.jpg\r\n\n  B/2.jpg\n")
    assert read_split(split) == ["A/1.jpg", "B/2.jpg"]


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "A/../../x.jpg", "/etc/passwd", "A/..", "a.jpg", "A/b/c.jpg", "A\\..\\b/c.jpg"]
)
def test_a_split_never_leaves_its_folder(tmp_path, name):
    split = tmp_path / "split.txt"
    split.write_text(f"A/1.jpg\n{name}\n")
    with pytest.raises(UsageError, match=r"expected Class/file\.jpg"):
        read_split(split)


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"\xff\xfe\x00A", "cannot be read")])
def test_an_unreadable_split_is_refused(tmp_path, content, message):
    split = tmp_path / "split.txt"
    split.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_split(split)
    with pytest.raises(UsageError, match="cannot be read"):
        read_split(tmp_path / "missing.txt")


def test_damaged_and_foreign_patches_are_refused(tmp_path):
    good = save_jpeg(tmp_path / "A" / "good.jpg", side=32)
    (tmp_path / "B").mkdir()
    (tmp_path / "B" / "text.jpg").write_text("no image")
    (tmp_path / "B" / "cut.jpg").write_bytes(good.read_bytes()[:-200])
    save_jpeg(tmp_path / "B" / "small.jpg", side=16)
    for name, message in (
        ("B/text.jpg", "cannot be read"),
        ("B/cut.jpg", "cannot be read"),
        ("B/missing.jpg", "cannot be read"),
        ("B/small.jpg", r"is \(16, 16\) px of uint8; the first is \(32, 32\) px of uint8"),
        ("C/good.jpg", r"class 'C' is not a folder"),
    ):
        with pytest.raises(UsageError, match=message):
            load_patches(PatchSource(root=tmp_path), ["A/good.jpg", name])
    with pytest.raises(UsageError, match="No patch"):
        load_patches(PatchSource(root=tmp_path), [])


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks (name, content), by the format's specification."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        parts += [
            struct.pack(">I", len(content)),
            name,
            content,
            struct.pack(">I", zlib.crc32(name + content)),
        ]
    return b"".join(parts)


def header(side: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # 8-bit RGB


@pytest.mark.parametrize(
    "content",
    [
        png((b"IHDR", b"\0\0\0\x08")),
        png(header(8), (b"IDAT", b"no zlib stream"), (b"IEND", b"")),
        png(header(8))[:-4] + b"\xb8T\xe9L" * 8,
        png(header(60_000), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")),  # would take 10 GB
    ],
    ids=["cut header", "no stream", "broken chunk", "enormous"],
)
def test_hostile_images_are_one_clear_error(tmp_path, content):
    save_jpeg(tmp_path / "A" / "good.jpg")
    (tmp_path / "B").mkdir()
    (tmp_path / "B" / "odd.png").write_bytes(content)
    with pytest.raises(UsageError, match=r"odd\.png cannot be read: "):
        load_patches(PatchSource(root=tmp_path), ["A/good.jpg", "B/odd.png"])


def test_images_of_unequal_sides_are_refused(tmp_path):
    save_jpeg(tmp_path / "A" / "1.jpg")
    (tmp_path / "B").mkdir()
    Image.new("RGB", (20, 12)).save(tmp_path / "B" / "2.png")
    with pytest.raises(UsageError, match=r"B/2\.png is 12 x 20 px; patches are square"):
        load_patches(PatchSource(root=tmp_path), ["B/2.png", "A/1.jpg"])


def test_eurosat_as_it_is_laid_out(data_dir):
    root = data_dir / "eurosat" / "EuroSAT_RGB"
    assert class_names(root) == EUROSAT_NAMES
    names = set(list_patches(root))
    assert len(names) == 22_950
    train, val = (read_split(data_dir / "eurosat" / "splits" / f"paper-{s}.txt") for s in ("train", "val"))
    assert (len(train), len(val)) == (18_900, 4_050)
    assert not set(train) & set(val)
    assert names.issuperset(train)
    assert names.issuperset(val)


def test_eurosat_patches_have_the_published_statistics(data_dir):
    root = data_dir / "eurosat" / "EuroSAT_RGB"
    patches = load_patches(PatchSource(root=root), list_patches(root)[::50])
    assert patches.images.shape[1:] == (3, 64, 64)
    values = patches.images.double() / 255
    # Red, green, blue of EuroSAT RGB; every 50th patch is a sample of it.
    np.testing.assert_allclose(values.mean((0, 2, 3)), [0.3645, 0.3930, 0.4168], atol=0.015)
    np.testing.assert_allclose(values.std((0, 2, 3)), [0.2071, 0.1347, 0.1161], atol=0.02)
