"""Oracles: Pillow's own reading, the folder as it was made, and EuroSAT's published counts."""

import numpy as np
import pytest
import torch
from PIL import Image

from landuse.errors import UsageError
from landuse.model.classes import EUROSAT_NAMES
from landuse.model.datasets import class_names, list_patches, load_patches, read_split, to_dn


def save_jpeg(path, side=8, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, 0, 0)).save(path)
    return path


def test_patches_are_what_pillow_reads_labelled_by_their_folder(patch_folder):
    names = ["Water/Water_3.jpg", "Brick/Brick_0.jpg", "Grass/Grass_7.jpg"]
    patches = load_patches(patch_folder, names)
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
    assert to_dn(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 550, 2750])


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
        ("B/small.jpg", r"is \(16, 16\) px; the first is .*32"),
        ("C/good.jpg", r"class 'C' is not a folder"),
    ):
        with pytest.raises(UsageError, match=message):
            load_patches(tmp_path, ["A/good.jpg", name])
    with pytest.raises(UsageError, match="No patch"):
        load_patches(tmp_path, [])


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
    patches = load_patches(root, list_patches(root)[::50])
    assert patches.images.shape[1:] == (3, 64, 64)
    values = patches.images.double() / 255
    # Red, green, blue of EuroSAT RGB; every 50th patch is a sample of it.
    np.testing.assert_allclose(values.mean((0, 2, 3)), [0.3645, 0.3930, 0.4168], atol=0.015)
    np.testing.assert_allclose(values.std((0, 2, 3)), [0.2071, 0.1347, 0.1161], atol=0.02)
