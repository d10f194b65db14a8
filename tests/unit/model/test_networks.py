"""Oracles: the papers' formulas as slow loops over numpy arrays, and the published counts."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from landuse.model.networks import (
    BalancedAttention,
    BalancedNet,
    CoordinateAttention,
    DropBlock,
    NetworkConfig,
    SqueezeExcite,
    balanced,
    balanced_fast,
    fusion_weights,
    set_dropblock_progress,
)

from .conftest import randomise


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def matrix(conv: nn.Conv2d) -> np.ndarray:
    return conv.weight.detach().double().numpy()[:, :, 0, 0]


def vector(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def slow_squeeze_excite(module: SqueezeExcite, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for b in range(x.shape[0]):
        pooled = np.array([x[b, c].sum() / x[b, c].size for c in range(x.shape[1])])
        hidden = np.maximum(matrix(module.reduce) @ pooled + vector(module.reduce.bias), 0)
        gate = sigmoid(matrix(module.expand) @ hidden + vector(module.expand.bias))
        for c in range(x.shape[1]):
            out[b, c] = x[b, c] * gate[c]
    return out


def slow_coordinate_attention(module: CoordinateAttention, x: np.ndarray) -> np.ndarray:
    def encode(pooled):
        norm = module.norm
        z = matrix(module.reduce) @ pooled
        z = (z - vector(norm.running_mean)) / np.sqrt(vector(norm.running_var) + norm.eps)
        z = z * vector(norm.weight) + vector(norm.bias)
        return z * np.clip(z + 3, 0, 6) / 6  # h-swish

    def gate(expand, pooled):
        return sigmoid(matrix(expand) @ encode(pooled) + vector(expand.bias))

    out = np.empty_like(x)
    batch, _, height, width = x.shape
    for b in range(batch):
        for row in range(height):
            row_gate = gate(module.expand_row, x[b, :, row, :].mean(1))
            for col in range(width):
                col_gate = gate(module.expand_col, x[b, :, :, col].mean(1))
                out[b, :, row, col] = x[b, :, row, col] * row_gate * col_gate
    return out


def test_squeeze_excite_is_the_paper_s_formula():
    module = SqueezeExcite(64).eval()
    randomise(module)
    x = torch.randn(2, 64, 5, 3)
    assert module.reduce.out_channels == 64 // 16
    expected = slow_squeeze_excite(module, x.double().numpy())
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_coordinate_attention_is_the_paper_s_formula_on_a_non_square_map():
    module = CoordinateAttention(80).eval()
    randomise(module)
    x = torch.randn(2, 80, 5, 7)
    assert module.reduce.out_channels == 80 // 8
    expected = slow_coordinate_attention(module, x.double().numpy())
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_balanced_attention_blends_by_the_sigmoid_of_its_scalar():
    module = BalancedAttention(32).eval()
    randomise(module)
    with torch.no_grad():
        module.balance.fill_(0.7)
    x = torch.randn(2, 32, 4, 6)
    a = sigmoid(0.7)
    array = x.double().numpy()
    expected = a * slow_coordinate_attention(module.coordinate, array) + (1 - a) * slow_squeeze_excite(
        module.channel, array
    )
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert fusion_weights(module) == pytest.approx([a])


@pytest.mark.parametrize(("size", "height", "width"), [(3, 9, 6), (4, 9, 6), (7, 8, 8), (7, 4, 5), (1, 3, 3)])
def test_dropblock_zeroes_whole_squares_and_keeps_the_sum(size, height, width):
    module = DropBlock(0.3, size).train()
    module.probability = 0.3
    x = torch.rand(3, 2, height, width) + 1
    torch.manual_seed(5)
    out = module(x)
    # Ghiasi et al. 2018, algorithm 1 and equation 1, square by square from the same draws.
    side = min(size, height, width)
    rows, cols = height - side + 1, width - side + 1
    gamma = 0.3 / side**2 * height * width / (rows * cols)
    torch.manual_seed(5)
    drawn = torch.rand(3, 2, rows, cols) < gamma
    keep = np.ones(x.shape)
    for b, c, row, col in drawn.nonzero().tolist():
        keep[b, c, row : row + side, col : col + side] = 0
    assert 0 < keep.sum() < keep.size
    expected = x.numpy() * keep * keep.size / keep.sum()
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5)


def test_dropblock_drops_as_often_as_its_gamma_says():
    module = DropBlock(0.1, 5).train()
    module.probability = 0.1
    side, size = 24, 5
    dropped = float((module(torch.ones(64, 16, side, side)) == 0).float().mean())
    gamma = 0.1 / size**2 * side**2 / (side - size + 1) ** 2
    # A position is kept when none of the squares that cover it is drawn.
    covering = np.convolve(np.ones(side - size + 1), np.ones(size))
    expected = 1 - np.mean((1 - gamma) ** np.outer(covering, covering))
    assert dropped == pytest.approx(expected, rel=0.03)
    assert dropped == pytest.approx(0.1, rel=0.1)  # what the user asked for, less the overlaps


def test_dropblock_passes_through_outside_training_and_before_its_ramp():
    x = torch.randn(2, 3, 8, 8)
    module = DropBlock(0.5, 3)
    assert module.train()(x) is x
    module.probability = 0.5
    assert module.eval()(x) is x


def test_dropblock_ramps_linearly_and_by_stage():
    network = BalancedNet(balanced(3, 10))
    blocks = [m for m in network.modules() if isinstance(m, DropBlock)]
    set_dropblock_progress(network, 0.5)
    # The paper's 5, 10, 15, 20 % in stages of 3, 3, 3 and 2 blocks, half-way.
    expected = [0.025] * 3 + [0.05] * 3 + [0.075] * 3 + [0.1] * 2
    assert [m.probability for m in blocks] == pytest.approx(expected)
    set_dropblock_progress(network, 2.0)
    assert blocks[-1].probability == 0.20
    set_dropblock_progress(network, 0.0)
    assert {m.probability for m in blocks} == {0.0}


def parameters_of(config: NetworkConfig) -> int:
    return sum(p.numel() for p in BalancedNet(config).parameters())


def test_parameter_counts_are_the_published_ones():
    assert parameters_of(balanced(3, 10)) / 1e6 == pytest.approx(13.1, abs=0.05)
    assert parameters_of(balanced_fast(3, 10)) / 1e6 == pytest.approx(2.83, abs=0.005)


def test_bands_and_classes_change_only_the_stem_and_the_head():
    few, many = parameters_of(balanced_fast(3, 10)), parameters_of(balanced_fast(13, 60))
    assert many - few == (13 - 3) * 4 * 64 * 9 + (60 - 10) * (256 + 1)


def test_balanced_costs_the_published_arithmetic():
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    network = BalancedNet(balanced(3, 10)).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, 64, 64))
    assert macs / 1e9 == pytest.approx(3.13, abs=0.01)


def test_attention_sits_in_every_block_or_the_last_of_each_stage():
    every = BalancedNet(balanced(3, 10))
    last = BalancedNet(balanced_fast(3, 10))
    assert [isinstance(b.attention, BalancedAttention) for b in every.blocks] == [True] * 11
    assert [isinstance(b.attention, BalancedAttention) for b in last.blocks] == [False, True] * 3
    assert fusion_weights(last) == [0.5] * 3  # it starts in balance


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 24)])
def test_evidence_averaged_over_positions_is_the_forward_pass(network, height, width):
    x = torch.randn(3, 3, height, width)
    with torch.inference_mode():
        features = network.features(x)
        evidence = network.evidence(features)
        logits = network(x)
    assert evidence.shape == (3, 3, height // 4, width // 4)  # unshuffle 2, one stride of 2
    torch.testing.assert_close(evidence.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)


def test_each_patch_is_scored_on_its_own(network):
    x = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        together = network(x)
        alone = torch.cat([network(x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [balanced, balanced_fast])
def test_config_survives_json(make):
    config = make(13, 10)
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("depths", (2, 2), "same number of stages"),
        ("attention", "first", "'every' or 'last'"),
        ("bands", 0, "bands=0"),
        ("classes", 1, "classes=1"),
        ("widths", (64, 0, 256), "must be >= 1"),
        ("unshuffle", 0, "must be >= 1"),
        ("depths", (2, 2, 10**9), "at most"),
    ],
)
def test_config_refuses_what_makes_no_network(key, value, message):
    values = {**balanced_fast(3, 10).to_dict(), key: value}
    with pytest.raises(ValueError, match=message):
        NetworkConfig.from_dict(values)


def test_initial_features_keep_the_scale_of_their_input():
    # He et al. 2015, fan out: the variance of a stride-1 convolution's weights is 2 / (k * k * out).
    torch.manual_seed(0)
    network = BalancedNet(balanced(3, 10))
    weight = network.blocks[-1].conv2.weight
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)
