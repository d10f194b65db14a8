"""Folders of pixel labels. Oracle: the arrays that were written."""

import json

import numpy as np
import pytest
import torch

from landuse.classes import EUROSAT_NAMES, LAND_COVER_NAMES
from landuse.errors import UsageError
from landuse.model.training.pixels.sources import PixelPatches, read_pixel_patches
from tests.patches import write_tiff

BANDS = ("B04", "B03", "B02", "B08", "B11")
SIDE = 16


def about(folder, **changed):
    values = {"level": "L2A", "covers": list(LAND_COVER_NAMES), "uses": {"b": "River"}} | changed
    (folder / "folder.json").write_text(json.dumps(values))


def arrays(seed):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(1, 9000, (len(BANDS), SIDE, SIDE)).astype(np.uint16),
        rng.integers(0, 9, (1, SIDE, SIDE)).astype(np.uint8),
        rng.random((1, SIDE, SIDE)).astype(np.float32),
    )


@pytest.fixture
def folder(tmp_path):
    about(tmp_path)
    for seed, name in enumerate("abc"):
        dn, label, weight = arrays(seed)
        dn[0, 0, 0] = 65_535
        label[0, 1] = 255
        write_tiff(tmp_path / f"{name}.tif", dn, BANDS)
        write_tiff(tmp_path / f"{name}.label.tif", label)
        if name != "c":
            write_tiff(tmp_path / f"{name}.weight.tif", weight)
    return tmp_path


def read(folder, **options):
    return read_pixel_patches(folder, EUROSAT_NAMES, **options)


def test_what_was_written_is_read(folder):
    found = read(folder)
    assert (found.names, found.bands, found.level) == (("a", "b", "c"), BANDS, "L2A")
    assert found.covers == LAND_COVER_NAMES
    assert found.use.tolist() == [-1, EUROSAT_NAMES.index("River"), -1]
    for seed in range(3):
        dn, label, weight = arrays(seed)
        dn[0, 0, 0] = 32_767
        label[0, 1] = 255
        assert np.array_equal(found.dn[seed].numpy(), dn)
        assert np.array_equal(found.label[seed].numpy(), label[0])
        expected = np.rint(weight[0] * 255) if seed < 2 else np.full((SIDE, SIDE), 255)
        assert np.array_equal(found.weight[seed].numpy(), expected)
    weights = found.weight.numpy() > 0
    assert found.labelled_pixels == (weights & (found.label.numpy() != 255)).sum()


def test_bands_that_are_not_wanted_are_left_out(folder):
    found, whole = read(folder, bands=("B11", "B04", "B12")), read(folder)
    assert found.bands == ("B04", "B11")  # in the files' order
    assert torch.equal(found.dn, whole.dn[:, [0, 4]])


def test_a_subset_keeps_what_belongs_together(folder):
    whole = read(folder)
    part = whole.subset([2, 1])
    assert part.names == ("c", "b")
    for name in ("dn", "label", "weight", "use"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[[2, 1]])
    assert len(part) == 2


def spoilt(name, values, names=None):
    return lambda folder: write_tiff(folder / name, values, names)


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def gone(*names):
    def spoil(folder):
        for name in names:
            (folder / name).unlink()

    return spoil


DN, LABEL, WEIGHT = arrays(5)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (gone("folder.json"), "folder.json cannot be read"),
        (written("folder.json", b"{"), 'holds {"level": "L2A", "covers"'),
        (written("folder.json", b"[" * 100_000), "cannot be read"),
        (written("folder.json", b"[]"), "cannot be read"),
        (lambda f: about(f, level="L3"), "the level 'L3'"),
        (lambda f: about(f, covers=["Water"]), "names the covers"),
        (lambda f: about(f, covers=[1, 2]), "names the covers"),
        (lambda f: about(f, uses={"a": "Sea"}), "names the use 'Sea'. Known: AnnualCrop"),
        (lambda f: about(f, uses={"d": "River"}), "the use of d, and there is no d.label.tif"),
        (gone("a.label.tif", "b.label.tif", "c.label.tif"), "holds no *.label.tif"),
        (gone("b.tif"), "b.tif cannot be read"),
        (written("b.label.tif", b"no tiff"), "b.label.tif cannot be read"),
        (spoilt("a.tif", DN), "unknown: (none)"),
        (spoilt("a.tif", DN, ("red", *BANDS[1:])), "unknown: red"),
        (spoilt("a.tif", DN, (*BANDS[:4], "B04")), "each once"),
        (spoilt("b.tif", DN, BANDS[::-1]), "The first patch has the bands".lower()),
        (spoilt("b.tif", DN.astype(np.float32), BANDS), "b.tif is float32"),
        (spoilt("b.label.tif", LABEL.astype(np.int16)), "labels are 1 bands of int16"),
        (spoilt("b.label.tif", np.concatenate([LABEL, LABEL])), "labels are 2 bands"),
        (spoilt("b.label.tif", LABEL[:, :8]), "All must agree"),
        (spoilt("b.label.tif", np.full_like(LABEL, 9)), "holds the id 9, and folder.json names 9 covers"),
        (spoilt("b.weight.tif", WEIGHT + 1), "outside 0..1"),
        (spoilt("b.weight.tif", WEIGHT * np.float32("nan")), "outside 0..1"),
        (spoilt("b.weight.tif", WEIGHT[:, 1:]), "All must agree"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_error(folder, spoil, says):
    spoil(folder)
    with pytest.raises(UsageError) as caught:
        read(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("shape", [(24, 16), (12, 12)])
def test_other_shapes_than_small_squares_are_refused(folder, shape):
    for name in "abc":
        write_tiff(folder / f"{name}.tif", np.ones((len(BANDS), *shape), np.uint16), BANDS)
        write_tiff(folder / f"{name}.label.tif", np.ones((1, *shape), np.uint8))
        (folder / f"{name}.weight.tif").unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"Patches are square|multiple of 8"):
        read(folder)


def test_labels_that_all_weigh_nothing_are_refused(folder):
    for name in "abc":
        write_tiff(folder / f"{name}.weight.tif", np.zeros((1, SIDE, SIDE), np.float32))
    with pytest.raises(UsageError, match="labels no pixel with a weight above 0"):
        read(folder)
    with pytest.raises(UsageError, match="is not a folder"):
        read(folder / "missing")


def test_tensors_that_do_not_belong_together_are_refused(folder):
    whole = read(folder)
    values = {name: getattr(whole, name) for name in PixelPatches.__slots__}
    for changed in (
        {"label": whole.label[:2]},
        {"weight": whole.weight[:, :8]},
        {"bands": BANDS[:2]},
        {"names": ("a",)},
        {
            "dn": whole.dn[:, :, :12, :12],
            "label": whole.label[:, :12, :12],
            "weight": whole.weight[:, :12, :12],
        },
    ):
        with pytest.raises(ValueError, match=r"belong together|named|multiples of 8"):
            PixelPatches(**values | changed)
