"""Contracts of models of images and of labels: what is refused, and what comes back from JSON as it was.

Oracle: the rules, each written out here.
"""

import json
from dataclasses import asdict, replace

import pytest
import torch

from landuse.contract import IMAGE_BANDS, LabelOutputs, LevelInput, ModelContract, PixelOutputs
from landuse.model.checkpoint import contract_from_dict
from landuse.model.normalize import preprocessed, standardize

IMAGES = ModelContract(
    name="photos", bands=IMAGE_BANDS, levels=(), saturation_dn=(255.0,) * 3, mean=(0.1, 0.2, 0.3),
    std=(0.1, 0.2, 0.4), classes=("cars", "sea"), patch_size_px=96, resolution_m=0.0, input_kind="rgb8",
    preprocess="sharpen", labels=LabelOutputs(thresholds=(0.2, 0.9)),
)  # fmt: skip
REFLECTANCE = ModelContract(
    name="scenes", bands=("B04", "B03"),
    levels=(LevelInput(level="L1C", gain=(1.0,) * 2, offset_dn=(0.0,) * 2),),
    saturation_dn=(2750.0,) * 2, mean=(0.1,) * 2, std=(0.2,) * 2, classes=("a",), patch_size_px=64,
    resolution_m=10.0, labels=LabelOutputs(thresholds=(0.5,)),
)  # fmt: skip


@pytest.mark.parametrize("contract", [IMAGES, REFLECTANCE])
def test_a_contract_comes_back_from_json(contract):
    assert contract_from_dict(json.loads(json.dumps(asdict(contract)))) == contract


def test_a_contract_of_before_is_one_of_reflectance_and_classes():
    values = asdict(replace(REFLECTANCE, labels=None, classes=("a", "b")))
    for key in ("input_kind", "preprocess", "labels"):
        del values[key]
    contract = contract_from_dict(values)
    assert (contract.input_kind, contract.preprocess, contract.labels) == ("reflectance", "raw", None)


@pytest.mark.parametrize(
    ("contract", "changes", "told"),
    [
        (IMAGES, {"bands": ("B04", "B03", "B02")}, "a network of 8-bit RGB images has the bands"),
        (IMAGES, {"resolution_m": 10.0}, "no level and no pixel size"),
        (IMAGES, {"levels": REFLECTANCE.levels}, "entries"),
        (IMAGES, {"saturation_dn": (2750.0,) * 3}, "up to 255"),
        (IMAGES, {"input_kind": "thermal"}, "input_kind 'thermal'"),
        (IMAGES, {"preprocess": "blur"}, "preprocess 'blur' is unknown"),
        (IMAGES, {"labels": LabelOutputs(thresholds=(0.5,))}, "1 thresholds for 2 labels"),
        (IMAGES, {"labels": None, "classes": ("a",)}, "1 classes"),
        (REFLECTANCE, {"levels": ()}, "at least one processing level"),
        (REFLECTANCE, {"preprocess": "grey"}, "grey is made of three bands, not of 2"),
        (REFLECTANCE, {"classes": ()}, "0 classes"),
        (
            REFLECTANCE,
            {"pixels": PixelOutputs(covers=("x", "y"), uses_of_covers=(("a",), ("b",)), uses=("a", "b"))},
            "its classes exclude each other",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(contract, changes, told):
    with pytest.raises(ValueError, match=told):
        replace(contract, **changes)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(value):
    with pytest.raises(ValueError, match="threshold of a label"):
        LabelOutputs(thresholds=(0.5, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", {"thresholds": [0.5, "x"]}),
        ("labels", {"thresholds": [0.5, True]}),
        ("labels", [0.5, 0.5]),
        ("labels", {"thresholds": [0.5, 0.5], "more": 1}),
        ("input_kind", 8),
        ("preprocess", None),
    ],
)  # fmt: skip
def test_hostile_json_is_no_contract(key, value):
    with pytest.raises((TypeError, ValueError)):
        contract_from_dict({**asdict(IMAGES), key: value})


def test_grey_is_the_same_in_each_band_and_raw_is_left_alone():
    unit = torch.rand((2, 3, 5, 4), generator=torch.Generator().manual_seed(0))
    grey = preprocessed(unit, "grey")
    expected = 0.299 * unit[:, 0] + 0.587 * unit[:, 1] + 0.114 * unit[:, 2]
    assert all(torch.allclose(grey[:, band], expected) for band in range(3))
    assert preprocessed(unit, "raw") is unit
    raw = standardize(unit * 255, replace(IMAGES, preprocess="raw"))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGES.mean, IMAGES.std))
    assert torch.allclose(raw, (unit - mean) / std, atol=1e-5)


def test_sharpening_is_the_kernel():
    """Oracle: a loop over pixels with the kernel written out."""
    kernel = ((0, -1, 0), (-1, 5, -1), (0, -1, 0))
    unit = torch.rand((1, 1, 6, 5), generator=torch.Generator().manual_seed(1)).double()
    got = preprocessed(unit, "sharpen")[0, 0]
    rows, cols = 6, 5

    def mirrored(place, size):
        return abs(place) if place < size else 2 * size - 2 - place

    for row in range(rows):
        for col in range(cols):
            total = sum(
                kernel[i][j] * float(unit[0, 0, mirrored(row + i - 1, rows), mirrored(col + j - 1, cols)])
                for i in range(3)
                for j in range(3)
            )
            assert float(got[row, col]) == pytest.approx(min(max(total, 0), 1))
