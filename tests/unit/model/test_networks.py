"""Oracles: the papers' formulas as slow loops over numpy arrays, and the published counts."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landuse.errors import ModelError
from landuse.model.networks import (
    NETWORKS,
    BalancedAttention,
    BalancedNet,
    Baseline,
    Cbam,
    CbamNet,
    CoordinateAttention,
    DropBlock,
    FixedConfig,
    NetworkConfig,
    ResNet50,
    SqueezeExcite,
    balanced,
    balanced_fast,
    baseline,
    build_network,
    cbam,
    config_from_dict,
    fold_norms,
    fusion_weights,
    moving_mean,
    resnet50,
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


def slow_cbam(module: Cbam, x: np.ndarray) -> np.ndarray:
    reduce, expand = matrix(module.reduce), matrix(module.expand)
    kernel = module.spatial.weight.detach().double().numpy()[0]  # (2: mean and maximum, 7, 7)
    batch, channels, height, width = x.shape
    out = np.empty_like(x)
    for b in range(batch):
        logits = np.zeros(channels)
        for pool in (np.mean, np.max):  # one perceptron for both
            pooled = np.array([pool(x[b, c]) for c in range(channels)])
            logits += expand @ np.maximum(reduce @ pooled, 0)
        gated = x[b] * sigmoid(logits)[:, None, None]
        maps = gated.mean(0), gated.max(0)
        for row in range(height):
            for col in range(width):
                total = 0.0
                for plane in range(2):
                    for i in range(7):
                        for j in range(7):
                            r, c = row + i - 3, col + j - 3
                            if 0 <= r < height and 0 <= c < width:
                                total += kernel[plane, i, j] * maps[plane][r, c]
                out[b, :, row, col] = gated[:, row, col] * sigmoid(total)
    return out


def test_cbam_is_the_paper_s_formula_on_a_non_square_map():
    module = Cbam(80).eval()
    randomise(module)
    x = torch.randn(2, 80, 5, 9)
    assert module.reduce.out_channels == 80 // 16
    assert module.spatial.kernel_size == (7, 7)
    expected = slow_cbam(module, x.double().numpy())
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


def parameters_of(config: NetworkConfig | FixedConfig) -> int:
    with torch.device("meta"):  # counted, never filled
        return sum(p.numel() for p in build_network(config).parameters())


def conv(bands: int, channels: int, side: int) -> int:
    return bands * channels * side * side


def test_parameter_counts_are_the_published_ones():
    assert parameters_of(balanced(3, 10)) / 1e6 == pytest.approx(13.1, abs=0.05)
    assert parameters_of(balanced_fast(3, 10)) / 1e6 == pytest.approx(2.83, abs=0.005)
    # torchvision's ResNet-50: 25,557,032 with ImageNet's 1000 classes.
    assert parameters_of(resnet50(3, 10)) + (1000 - 10) * (2048 + 1) == 25_557_032


def test_parameters_of_the_baseline_by_hand():
    convolutions = conv(3, 32, 3) + conv(32, 64, 3) + conv(64, 128, 3) + 2 * (32 + 64 + 128)  # and norms
    assert parameters_of(baseline(3, 10)) == convolutions + (8192 + 1) * 512 + (512 + 1) * 10


def test_parameters_of_the_cbam_network_by_hand():
    total, bands = 0, 3
    for width in (32, 64, 128, 256, 512):
        total += conv(bands, width, 3) + conv(width, width, 3) + 2 * 2 * width
        if width > 32:  # from block 2 on: reduce, expand, 7x7
            total += 2 * width * (width // 16) + 2 * 7 * 7
        bands = width
    total += conv(512, 512, 1) + 2 * 512 + (512 + 1) * 256 + (256 + 1) * 10
    assert parameters_of(cbam(3, 10)) == total
    assert total / 1e6 == pytest.approx(5.2, abs=0.05)


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


@pytest.mark.parametrize(("make", "reach"), [(balanced, 8), (balanced_fast, 8), (resnet50, 32)])
def test_evidence_of_the_pooling_networks_averages_to_their_logits(make, reach):
    network = build_network(make(3, 10)).eval()
    x = torch.randn(1, 3, 32, 64)
    with torch.inference_mode():
        evidence = network.evidence(network.features(x))
        logits = network(x)
    assert evidence.shape == (1, 10, 32 // reach, 64 // reach)
    assert float(evidence.std((2, 3), correction=0).min()) > 1e-4  # places do differ
    torch.testing.assert_close(evidence.mean((2, 3)), logits, rtol=1e-4, atol=1e-4)


def test_evidence_of_the_baseline_is_the_patch_s_at_every_position():
    network = build_network(baseline(3, 10)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = network.features(x)
        evidence, logits = network.evidence(features), network(x)
    assert features.shape == (2, 128, 8, 8)
    for row in range(8):
        for col in range(8):
            torch.testing.assert_close(evidence[:, :, row, col], logits)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (128, 128)])
def test_the_baseline_refuses_other_sizes(height, width):
    with torch.device("meta"):
        network = build_network(baseline(3, 10))
        x = torch.empty(1, 3, height, width)
    with pytest.raises(ModelError, match=rf"64 x 64 px; it was given {height} x {width} px\. Use such"):
        network(x)


@pytest.mark.parametrize(
    ("make", "height", "width", "message"),
    [
        (balanced_fast, 33, 32, r"multiples of 2 px; it was given 33 x 32 px\. Use such, or another"),
        (balanced_fast, 32, 63, r"multiples of 2 px; it was given 32 x 63 px"),
        (cbam, 15, 64, r"at least 16 px a side; given: 15 x 64 px\. Use such, or another"),
        (cbam, 64, 8, r"at least 16 px a side; given: 64 x 8 px"),
    ],
)
def test_sides_that_a_network_cannot_divide_are_refused(make, height, width, message):
    with torch.device("meta"):
        network = build_network(make(3, 10))
        x = torch.empty(2, 3, height, width)
    with pytest.raises(ModelError, match=message):
        network(x)


def test_evidence_of_the_cbam_network_is_its_head_at_each_position():
    network = build_network(cbam(3, 10)).eval()
    with torch.inference_mode():
        features = network.features(torch.randn(2, 3, 32, 48))  # (2, 512, 2, 3)
        evidence = network.evidence(features)
        assert evidence.shape == (2, 10, 2, 3)
        for row in range(2):
            for col in range(3):
                hidden = features[:, :, row, col] @ network.hidden.weight.T + network.hidden.bias
                expected = hidden.clamp(min=0) @ network.head.weight.T + network.head.bias
                torch.testing.assert_close(evidence[:, :, row, col], expected, rtol=1e-4, atol=1e-5)


def test_the_cbam_network_pools_between_blocks_and_attends_from_the_second_on():
    network = build_network(cbam(3, 10)).eval()
    seen = {}

    def watch(name):
        return lambda module, given, out: seen.update({name: (given[0], out)})

    for i, block in enumerate(network.blocks):
        block.register_forward_hook(watch(f"block {i + 1}"))
    for i, attention in enumerate(network.attentions):
        attention.register_forward_hook(watch(f"attention {i + 2}"))
    with torch.inference_mode():
        network(torch.randn(2, 3, 32, 64))
    order = ["block 1"] + [f"{part} {i}" for i in (2, 3, 4, 5) for part in ("block", "attention")]
    assert list(seen) == order
    for i, width in enumerate((32, 64, 128, 256, 512), start=1):
        given, out = seen[f"block {i}"]
        assert out.shape == (2, width, 32 // 2 ** (i - 1), 64 // 2 ** (i - 1))
        if i > 1:
            assert torch.equal(seen[f"attention {i}"][0], out)
            before = seen["block 1" if i == 2 else f"attention {i - 1}"][1].numpy()
            rows, cols = before.shape[2] // 2, before.shape[3] // 2
            pooled = before.reshape(2, -1, rows, 2, cols, 2).max((3, 5))
            assert np.array_equal(given.numpy(), pooled)


def torchvision_resnet50() -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``torchvision.models.resnet50().state_dict()``, by its rule.

    Compared with torchvision 0.29 itself when this was written: all 320 agree, and so do the outputs.
    """
    shapes = {}

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    entering = 64
    for layer, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            prefix = f"layer{layer}.{block}"
            shapes[f"{prefix}.conv1.weight"] = (width, entering, 1, 1)
            norm(f"{prefix}.bn1", width)
            shapes[f"{prefix}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{prefix}.bn2", width)
            shapes[f"{prefix}.conv3.weight"] = (4 * width, width, 1, 1)
            norm(f"{prefix}.bn3", 4 * width)
            if block == 0:
                shapes[f"{prefix}.downsample.0.weight"] = (4 * width, entering, 1, 1)
                norm(f"{prefix}.downsample.1", 4 * width)
            entering = 4 * width
    return shapes | {"fc.weight": (10, 2048), "fc.bias": (10,)}


def test_resnet50_has_torchvision_s_names_and_shapes():
    with torch.device("meta"):
        state = build_network(resnet50(3, 10)).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == torchvision_resnet50()
    assert len(state) == 320


def test_resnet50_computes_what_its_names_say():
    """He et al. 2015, block by block, with torchvision's stride in the 3x3 convolution."""
    network = build_network(resnet50(3, 10)).eval()
    state = network.state_dict()
    rng = torch.Generator().manual_seed(0)
    for name, value in state.items():  # norms that do something
        if "bn" in name or "downsample.1" in name:
            value.copy_(torch.rand(value.shape, generator=rng) * 0.5 + 0.5)

    def convolve(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[2] // 2)

    def norm(x, name):
        mean, var, gain, shift = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + shift

    x = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        y = F.max_pool2d(norm(convolve(x, "conv1", 2), "bn1").relu(), 3, 2, 1)
        for layer, blocks in enumerate([3, 4, 6, 3], start=1):
            for block in range(blocks):
                name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
                z = norm(convolve(y, f"{name}.conv1"), f"{name}.bn1").relu()
                z = norm(convolve(z, f"{name}.conv2", stride), f"{name}.bn2").relu()
                z = norm(convolve(z, f"{name}.conv3"), f"{name}.bn3")
                if block == 0:
                    y = norm(convolve(y, f"{name}.downsample.0", stride), f"{name}.downsample.1")
                y = (y + z).relu()
        expected = y.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
        torch.testing.assert_close(network(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "first", "reach"),
    [  # weights of the first layer a band; pixels a position of the last map, along a side
        ("baseline", 32 * 9, 8),
        ("cbam", 32 * 9, 16),
        ("balanced", 64 * 9, 8),
        ("balanced-fast", 4 * 64 * 9, 8),
        ("resnet50", 64 * 49, 32),
    ],
)
def test_every_network_takes_any_number_of_bands(name, first, reach):
    counts = {}
    for bands in (3, 12, 13):
        config = NETWORKS[name](bands, 7)
        assert (config.name, config.bands, config.classes) == (name, bands, 7)
        with torch.device("meta"):
            network = build_network(config).eval()
            x = torch.empty(2, bands, 64, 64)
            features = network.features(x)
            assert network(x).shape == (2, 7)
            assert network.evidence(features).shape == (2, 7, 64 // reach, 64 // reach)
        assert network.output_layer.out_features == 7
        assert network.input_layer.in_channels % bands == 0
        counts[bands] = sum(p.numel() for p in network.parameters())
    assert (counts[12] - counts[3], counts[13] - counts[12]) == (9 * first, first)


def test_each_patch_is_scored_on_its_own(network):
    x = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        together = network(x)
        alone = torch.cat([network(x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_config_survives_json(name):
    config = NETWORKS[name](13, 10)
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    kinds = {"baseline": Baseline, "cbam": CbamNet, "resnet50": ResNet50}
    with torch.device("meta"):
        assert type(build_network(config)) is kinds.get(name, BalancedNet)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("depths", (2, 2), "same number of stages"),
        ("attention", "first", "'every' or 'last'"),
        ("bands", 0, "bands=0"),
        ("classes", 0, "classes=0"),
        ("widths", (64, 0, 256), "must be >= 1"),
        ("unshuffle", 0, "must be >= 1"),
        ("depths", (2, 2, 10**9), "at most"),
    ],
)
def test_config_refuses_what_makes_no_network(key, value, message):
    values = {**balanced_fast(3, 10).to_dict(), key: value}
    with pytest.raises(ValueError, match=message):
        config_from_dict(values)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"bands": 0}, ValueError, "bands=0, classes=10: need 1"),
        ({"bands": 10**9}, ValueError, "bands=1000000000"),
        ({"bands": float("nan")}, ValueError, "bands=nan"),
        ({"bands": "3"}, TypeError, "not supported"),
        ({"bands": None}, TypeError, "not supported"),
        ({"classes": 0}, ValueError, "classes=0"),
        ({"classes": 256}, ValueError, "classes=256"),
        ({"depths": [2, 2]}, TypeError, "depths"),
        ({"name": "vgg"}, TypeError, "missing"),  # taken for a balanced network, which needs more
        ({"name": ["cbam"]}, TypeError, "unhashable"),
    ],
)
@pytest.mark.parametrize("make", [baseline, cbam, resnet50])
def test_config_of_a_fixed_network_refuses_hostile_values(make, values, error, message):
    with pytest.raises(error, match=message):
        config_from_dict({**make(3, 10).to_dict(), **values})


@pytest.mark.parametrize("values", [[], "baseline", None, 7])
def test_a_config_that_is_no_object_is_refused(values):
    with pytest.raises(TypeError, match="not an object"):
        config_from_dict(values)


def test_a_fixed_config_names_a_fixed_network():
    with pytest.raises(ValueError, match="use baseline, cbam, resnet50"):
        FixedConfig(name="balanced", bands=3, classes=10)
    with pytest.raises(TypeError, match="classes"):
        config_from_dict({"name": "cbam", "bands": 3})


def test_initial_features_keep_the_scale_of_their_input():
    # He et al. 2015, fan out: the variance of a stride-1 convolution's weights is 2 / (k * k * out).
    torch.manual_seed(0)
    network = BalancedNet(balanced(3, 10))
    weight = network.blocks[-1].conv2.weight
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_folded_norms_change_no_output(name):
    network = build_network(NETWORKS[name](3, 10)).eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, 0, 0.1)
            for values in (norm.running_var, norm.weight):
                nn.init.uniform_(values, 0.7, 1.3)
            nn.init.normal_(norm.bias, 0, 0.1)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = network(x)
        fold_norms(network)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        assert torch.allclose(network(x), before, rtol=1e-3, atol=1e-4 * before.abs().max())


def test_the_moving_mean_is_the_mean_over_a_centred_window():
    x = torch.rand(1, 2, 9, 40, dtype=torch.float64)
    got = moving_mean(x, 8, 3).numpy()
    for col in range(40):
        low, high = max(col - 4, 0), min(col + 4, 40)
        later = (max(col - 3, 0), min(col + 5, 40))
        slow = (x[..., low:high].numpy().mean(-1) + x[..., slice(*later)].numpy().mean(-1)) / 2
        np.testing.assert_allclose(got[..., col], slow)
    np.testing.assert_allclose(moving_mean(x.transpose(2, 3), 8, 2).transpose(2, 3).numpy(), got)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("window", [4, 16, 40])
def test_the_moving_mean_of_training_is_that_of_use(dim, window):
    x = torch.rand(2, 3, 16, 24).requires_grad_()
    trained = moving_mean(x, window, dim)
    with torch.no_grad():
        used = moving_mean(x, window, dim)
    torch.testing.assert_close(trained, used)
    small = torch.rand(1, 1, 6, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: moving_mean(values, window, dim), (small,))


def test_a_flat_scene_is_what_each_of_its_patches_is():
    """Where nothing changes, moving windows and the patch's own pooling are the same mean."""
    attention = BalancedAttention(16).eval()
    x = torch.rand(1, 16, 1, 1).expand(1, 16, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(attention(x, 8), attention(x))
