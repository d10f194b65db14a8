"""The network of pixels. Oracles: the same network with its norms, image by image, and in its other mode."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from landuse.model.networks import fold_norms
from landuse.model.pixel_network import PixelNet, PixelNetConfig, balanced_pixel

from .conftest import randomise

CONFIG = PixelNetConfig(
    visible=3, infrared=4, covers=5, uses=6, branch=8, widths=(12, 16, 24), depths=(1, 2, 1), decoder=(12, 8)
)


@pytest.fixture
def net() -> PixelNet:
    torch.manual_seed(0)
    net = PixelNet(CONFIG)
    randomise(net)
    return net.eval()


def answers(net, x, present):
    with torch.no_grad():
        return [net(x, present), *net.dense(net.features(x, present))]


def test_shapes_of_what_it_says(net):
    x, present = torch.randn(2, 7, 32, 48), torch.ones(2, 4)
    patch, covers, uses = answers(net, x, present)
    assert (patch.shape, covers.shape, uses.shape) == ((2, 6), (2, 5, 32, 48), (2, 6, 32, 48))
    pyramid = net.features(x, present)
    assert [tuple(level.shape[1:]) for level in pyramid] == [
        (16, 16, 24),
        (12, 16, 24),
        (16, 8, 12),
        (24, 4, 6),
    ]
    # The patch's evidence is that of its positions, averaged.
    torch.testing.assert_close(net.patch_evidence(pyramid).mean((2, 3)), patch)


@pytest.mark.parametrize("training", [False, True])
def test_what_stands_in_a_missing_band_changes_nothing(net, training):
    net.train(training)
    x, other = torch.randn(3, 7, 32, 32), torch.randn(3, 7, 32, 32)
    present = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    held = torch.cat([torch.ones(3, 3), present], 1)[:, :, None, None] > 0
    state = {key: value.clone() for key, value in net.state_dict().items()}
    first = answers(net, x, present)
    net.load_state_dict(state)
    for got, expected in zip(answers(net, torch.where(held, x, 100 * other), present), first, strict=True):
        assert torch.equal(got, expected)
    net.load_state_dict(state)
    changed = answers(net, torch.where(held, x + 1, x), present)
    assert all(not torch.allclose(a, b) for a, b in zip(changed, first, strict=True))


def test_each_pattern_of_missing_bands_has_its_own_answer(net):
    x = torch.randn(1, 7, 32, 32)
    seen = [answers(net, x, torch.tensor([row]))[1] for row in ([1.0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0])]
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[1], seen[2])


def test_a_batch_without_infrared_answers_as_among_others(net):
    """The shortcut for it equals what the convolution makes of zeros."""
    x = torch.randn(2, 7, 32, 32)
    none, mixed = torch.zeros(2, 4), torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, 1]])
    for alone, among in zip(answers(net, x, none), answers(net, x, mixed), strict=True):
        torch.testing.assert_close(alone[:1], among[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row", [[1.0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
def test_folded_norms_answer_the_same(net, row):
    x, present = torch.randn(2, 7, 32, 32), torch.tensor([row]).expand(2, -1)
    expected = answers(net, x, present)
    fold_norms(net)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    for got, wanted in zip(answers(net, x, present), expected, strict=True):
        scale = float(wanted.abs().max())
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("row", [[1.0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
def test_in_use_it_answers_as_in_training(net, row):
    """Where no gradient is asked for, layers share convolutions and arrays; the oracle is the other way."""
    fold_norms(net)
    x, present = torch.randn(2, 7, 64, 48), torch.tensor([row]).expand(2, -1)
    expected = net.dense_features(net.features(x.requires_grad_(), present))
    with torch.inference_mode():
        got = net.dense_features(net.features(x, present))
    for name, one, other in zip(got._fields, got, expected, strict=True):
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("row", [[1.0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
def test_bands_that_no_image_has_may_be_left_out(net, row):
    x, present = torch.randn(2, 7, 32, 32), torch.tensor([row]).expand(2, -1)
    held = [0, 1, 2, *(3 + index for index, there in enumerate(row) if there)]
    for got, wanted in zip(answers(net, x[:, held], present), answers(net, x, present), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_shipped_layers_fit_their_budget():
    with torch.device("meta"):
        net = PixelNet(balanced_pixel(3, 7, 9, 10))
    assert sum(parameter.numel() for parameter in net.parameters()) <= 4_000_000
    assert 4 * sum(value.numel() for value in net.state_dict().values()) <= 12_000_000


def test_it_starts_undecided():
    torch.manual_seed(0)
    net = PixelNet(balanced_pixel(3, 7, 9, 10)).eval()
    _, covers, uses = answers(net, torch.randn(1, 10, 32, 32), torch.ones(1, 7))
    for logits in (covers, uses):
        assert float(F.softmax(logits, 1).max()) < 0.9


@pytest.mark.parametrize(
    "values",
    [
        {"name": "other"},
        {"visible": 0},
        {"infrared": "7"},
        {"covers": 256},
        {"uses": 2.0},
        {"branch": 10**6},
        {"widths": (1, 2)},
        {"widths": "abc"},
        {"depths": (1, 1, 10**9)},
        {"decoder": (1, -1)},
        {"window_px": 24},
        {"window_px": 64.0},
        {"window_px": "64"},
        {"window_px": 10**9},
    ],
)
def test_a_config_is_checked_where_it_is_born(values):
    with pytest.raises((TypeError, ValueError)):
        replace(CONFIG, **values)


def test_a_config_survives_json():
    assert (
        PixelNetConfig.from_dict(
            {k: list(v) if isinstance(v, tuple) else v for k, v in CONFIG.to_dict().items()}
        )
        == CONFIG
    )
    for wrong in ([], {"surprise": 1}, {}):
        with pytest.raises(TypeError):
            PixelNetConfig.from_dict(wrong)
