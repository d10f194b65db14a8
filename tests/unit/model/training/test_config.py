"""Oracles: the papers' formulas by numpy, and each option's name in what refuses its value."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from landuse.errors import UsageError
from landuse.model.networks import NETWORKS
from landuse.model.training.config import TrainConfig, class_weights


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.99999])
def test_class_weights_are_cui_s_effective_numbers(beta):
    counts = (3000, 2000, 2500, 1)  # EuroSAT's classes differ little; a class of one patch does not
    effective = [np.sum(beta ** np.arange(n)) for n in counts]  # 1 + b + b^2 + ..., equation 2
    expected = np.array([1 / number for number in effective])
    expected *= len(counts) / expected.sum()
    got = class_weights(counts, beta)
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert sum(got) == pytest.approx(4)


def test_class_weights_run_from_even_to_inverse_frequency():
    counts = (100, 300, 50)
    assert class_weights(counts, 0.0) == pytest.approx((1, 1, 1))
    inverse = np.array([1 / n for n in counts])
    np.testing.assert_allclose(class_weights(counts, 1 - 1e-9), inverse * 3 / inverse.sum(), rtol=1e-3)


def test_class_weights_need_a_patch_of_each_class():
    with pytest.raises(
        UsageError, match=r"--class-balance: a class has no training patch .*\(10, 0, 3\)\)\. Add"
    ):
        class_weights((10, 0, 3), 0.9)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("network", ["resnet", "", "BALANCED"]),
        ("epochs", [0, -1]),
        ("batch_size", [1, 0, -8]),
        ("val_every", [0, -1]),
        ("precision", ["fp16", ""]),
        ("optimizer", ["adam", ""]),
        ("restart_epochs", [0, -1]),
        ("teacher_share", [-0.1, 1.1, NAN]),
        ("unlabelled_ratio", [-0.1, NAN, INF]),
        ("class_balance", [1.0, 1.5, -0.1, NAN, INF]),
        ("peak_rate", [0.0, -0.1, NAN, INF]),
        ("weight_decay", [-1e-9, NAN, INF]),
        ("atmosphere", [-0.1, NAN, INF]),
        ("brightness", [-0.1, 1.1, NAN, INF]),
        ("label_smoothing", [-0.1, 1.1, NAN]),
        ("warmup_epochs", [-1.0, NAN, INF]),
        ("cutmix", [-0.1, 1.1, NAN]),
        ("cutmix_until", [-0.1, 1.1, NAN]),
        ("ema", [-0.1, 1.1, NAN]),
        ("group_dropout", [-0.1, 1.1, NAN]),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_option_s_name(option, values):
    name = f"--{option.replace('_', '-')}"
    for value in values:
        with pytest.raises(UsageError) as refused:
            TrainConfig(**{option: value})
        message = str(refused.value)
        assert f"{name} " in message
        assert str(value) in message
        assert any(mend in message for mend in ("Choose", "Use ", "must ")), message


def test_the_ends_of_every_range_are_allowed():
    lowest = TrainConfig(
        epochs=1, batch_size=2, val_every=1, class_balance=0.0, weight_decay=0.0, atmosphere=0.0,
        brightness=0.0, label_smoothing=0.0, cutmix=0.0, ema=0.0, group_dropout=0.0,
    )  # fmt: skip
    assert lowest.class_balance == 0.0
    assert TrainConfig(brightness=1.0, label_smoothing=1.0, cutmix=1.0, ema=1.0, group_dropout=1.0)
    for name in NETWORKS:
        assert TrainConfig(network=name).network == name


def test_an_unknown_network_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match="Choose baseline, cbam, balanced, balanced-fast, resnet50"):
        TrainConfig(network="resnet")


def test_crops_do_not_suit_the_baseline():
    with pytest.raises(UsageError, match=r"--early-crop-px does not suit --network baseline.*Leave it out"):
        TrainConfig(network="baseline", early_crop_px=(48,))


def test_settings_survive_json():
    """What a state holds is compared with what a resumed run is asked for."""
    config = TrainConfig(class_balance=0.999, early_crop_px=(48,), init_sha256="ab" * 32)
    values = json.loads(json.dumps(asdict(config)))
    assert values["early_crop_px"] == [48]  # JSON knows no tuples
    assert TrainConfig(**values | {"early_crop_px": (48,), "teacher_sha256": ()}) == config
