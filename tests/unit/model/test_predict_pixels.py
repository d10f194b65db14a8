"""Blocks of pixels to probabilities. Oracle: the checkpoint's own network and ``combine``, with its norms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from landuse.errors import ModelError, UsageError
from landuse.model import precision
from landuse.model.checkpoint import load_pixel_checkpoint, save_checkpoint
from landuse.model.cover_and_use import combine
from landuse.model.normalize import bring_to_input, standardize
from landuse.model.predict import file_sha256
from landuse.model.predict_pixels import PixelPredictor
from tests.workflows.pixel_models import INFRARED, VISIBLE, save_pixel_model

ALL = (*VISIBLE, *INFRARED)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_pixel_model(tmp_path_factory.mktemp("model") / "pixel.safetensors")


@pytest.fixture(scope="module")
def predictor(weights):
    return PixelPredictor.load(str(weights), "cpu", "fp32")


def scene(bands=ALL, shape=(48, 64), seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(200, 4000, (len(bands), shape[0] // 8, shape[1] // 8))
    return (coarse.repeat(8, 1).repeat(8, 2) * rng.uniform(0.9, 1.1, (len(bands), *shape))).astype(np.uint16)


@pytest.mark.parametrize("bands", [ALL, (*VISIBLE, "B08"), VISIBLE, (*VISIBLE, "B06", "B12")])
@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_scores_are_those_of_the_network_itself(weights, predictor, bands, level):
    dn = scene(bands)
    scores = predictor.pixel_scores(dn, bands, level)
    network, contract = load_pixel_checkpoint(weights)
    whole = torch.zeros(1, 10, *dn.shape[1:])
    for row, band in enumerate(ALL):
        whole[0, row] = torch.from_numpy(dn[bands.index(band)].astype(np.float32)) if band in bands else 777
    x = standardize(bring_to_input(whole, contract, level), contract)
    present = torch.tensor([[float(band in bands) for band in INFRARED]])
    with torch.inference_mode():
        landuse, cover = combine(*network.dense_features(network.features(x, present))[1:], contract)
    np.testing.assert_allclose(scores.landuse, landuse[0].numpy(), atol=2e-4)
    np.testing.assert_allclose(scores.cover, cover[0].numpy(), atol=2e-4)
    assert (scores.landuse.shape, scores.landuse.dtype) == ((14, 48, 64), np.float32)
    assert (scores.cover.shape, scores.cover.dtype) == ((9, 48, 64), np.float32)
    for values in (scores.landuse, scores.cover):
        np.testing.assert_allclose(values.sum(0), 1, atol=1e-5)
        assert values.min() >= 0


@pytest.mark.parametrize("bands", [VISIBLE, (*VISIBLE, "B12")])
def test_the_bias_of_the_visible_bands_is_added_where_they_are_alone(weights, predictor, tmp_path, bands):
    network, contract = load_pixel_checkpoint(weights)
    bias = (-20.0, *[0.0] * 8)
    outputs = replace(contract.pixels, visible_cover_bias=bias)
    save_checkpoint(tmp_path / "biased.safetensors", network, replace(contract, pixels=outputs))
    biased = PixelPredictor.load(str(tmp_path / "biased.safetensors"), "cpu", "fp32")
    assert biased.contract.pixels.visible_cover_bias == bias
    before, after = (p.pixel_scores(scene(bands), bands, "L1C").cover[0] for p in (predictor, biased))
    assert before.max() > 1e-3
    assert (after.max() < 1e-6) == (bands == VISIBLE)


def test_one_block_has_one_answer(weights, predictor):
    dn = scene()
    first = predictor.pixel_scores(dn, ALL, "L2A")
    again = PixelPredictor.load(str(weights), "cpu", "fp32").pixel_scores(dn, ALL, "L2A")
    assert np.array_equal(first.landuse, again.landuse)
    assert np.array_equal(first.cover, again.cover)
    assert not np.array_equal(first.cover, predictor.pixel_scores(dn, ALL, "L1C").cover)


def test_bfloat16_answers_nearly_the_same(weights, predictor):
    dn = scene()
    half = PixelPredictor.load(str(weights), "cpu", "bf16").pixel_scores(dn, ALL, "L2A")
    assert np.abs(half.cover - predictor.pixel_scores(dn, ALL, "L2A").cover).mean() < 0.02
    np.testing.assert_allclose(half.landuse.sum(0), 1, atol=1e-5)


def test_a_predictor_says_what_it_is(weights, predictor):
    assert predictor.weights_sha256 == file_sha256(weights)
    assert predictor.weights_path == weights
    assert (predictor.position_px, predictor.precision) == (8, "fp32")
    assert str(predictor.device) == "cpu"
    assert PixelPredictor.load(str(weights), "cpu").precision == "fp32"  # the same on every machine


@pytest.mark.parametrize(
    ("dn", "bands", "says"),
    [
        (scene(ALL[:4]), ("B04", "B03", "B08", "B02"), "in this order"),
        (scene(ALL[:3]), ("B04", "B03", "B08"), "B04, B03, B02 are required"),
        (scene(ALL[:1]), (), "it was given none"),
        (scene(ALL[:4]), (*VISIBLE, "B01"), "takes the bands"),
        (scene(ALL[:4]), VISIBLE, r"shape \(3, height, width\)"),
        (scene(VISIBLE).astype(np.float32), VISIBLE, "it was given float32"),
        (scene(VISIBLE)[:, :47], VISIBLE, "47 x 64 px. Pad the block"),
        (scene(VISIBLE)[:, :0], VISIBLE, "0 x 64 px"),
        (scene(VISIBLE)[0], VISIBLE, "uint16"),
    ],
)
def test_other_blocks_are_refused(predictor, dn, bands, says):
    with pytest.raises(ModelError, match=says):
        predictor.pixel_scores(dn, bands, "L2A")


def test_what_cannot_be_loaded_is_refused(weights, checkpoint, tmp_path):
    with pytest.raises(ModelError, match="classifies patches"):
        PixelPredictor.load(str(checkpoint), "cpu")
    with pytest.raises(ModelError, match="No model 'nowhere'"):
        PixelPredictor.load("nowhere", "cpu")
    with pytest.raises(UsageError, match="--precision 'fp16'"):
        PixelPredictor.load(str(weights), "cpu", "fp16")
    with pytest.raises(UsageError, match="--device"):
        PixelPredictor.load(str(weights), "tpu")
    broken = tmp_path / "broken.safetensors"
    network, contract = load_pixel_checkpoint(weights)
    network.covers.weight.data[0, 0, 0, 0] = torch.nan
    save_checkpoint(broken, network, contract)
    with pytest.raises(ModelError, match="not finite"):
        PixelPredictor.load(str(broken), "cpu")


def test_a_precision_is_chosen_by_a_measurement(predictor, monkeypatch):
    monkeypatch.setattr(precision, "SIDE_PX", 64)
    for has_it, names in ((False, ["fp32"]), (True, ["fp32", "bf16"])):
        monkeypatch.setattr(precision, "computes_bfloat16", lambda device, has_it=has_it: has_it)
        chosen = predictor.in_precision("auto")
        assert [timing.precision for timing in chosen.timings] == names
        assert chosen.precision == precision.fastest(chosen.timings)
        for timing in chosen.timings:
            assert timing.seconds > 0
            assert 0.8 < timing.equal <= 1
    assert chosen.timings[0].equal == 1
    assert (predictor.precision, predictor.timings) == ("fp32", ())  # the others are copies
    assert predictor.in_precision("bf16").timings == ()
    with pytest.raises(UsageError, match="--precision 'fp16'"):
        predictor.in_precision("fp16")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.5, "bf16"), (0.86, "bf16"), (0.88, "fp32"), (9, "fp32")]
)
def test_bfloat16_has_to_pay(seconds, expected):
    own = precision.PrecisionTiming(precision="fp32", seconds=1.0, equal=1.0)
    half = precision.PrecisionTiming(precision="bf16", seconds=seconds, equal=0.99)
    assert precision.fastest((own, half)) == expected
    assert precision.fastest((own,)) == "fp32"
    assert str(half).startswith(f"bf16 takes {seconds:.2f} s a megapixel with 99.00% of the pixels")
