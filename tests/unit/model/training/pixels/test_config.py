"""The recipe of training on pixels: what is set by text, what is refused, its schedules in closed form."""

import math

import pytest

from landuse.errors import UsageError
from landuse.model.training.pixels.config import PixelTrainConfig


def test_settings_are_read_by_name():
    config = PixelTrainConfig.from_settings(
        ["steps=100", " peak_rate = 0.05", "flood=0"], seed=7, precision="fp32", init_sha256="ab"
    )
    assert config == PixelTrainConfig(
        steps=100, peak_rate=0.05, flood=0.0, seed=7, precision="fp32", init_sha256="ab"
    )
    assert isinstance(config.flood, float)
    assert PixelTrainConfig.from_settings([]) == PixelTrainConfig()
    levelled = PixelTrainConfig.from_settings(["gradients=branches", "weight_of_use=0.5"])
    assert (levelled.gradients, levelled.weight_of_use) == ("branches", 0.5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["step=100"],
            "--set step=100 is not NAME=VALUE with a known name. Did you mean steps? Known: steps,",
        ),
        (["steps"], "--set steps is not NAME=VALUE with a known name. Known: steps, patches"),
        (["=3"], "--set =3 is not NAME=VALUE"),
        (["steps=1.5"], "--set steps=1.5: steps must be a whole number, such as 12000."),
        (["steps=many"], "steps must be a whole number"),
        (["flood=wet"], "--set flood=wet: flood must be a number, such as 0.15."),
        (["steps=3", "steps=4"], "--set steps is given twice"),
        (["seed=3"], "--set seed=3: seed has an option of its own. Use --seed."),
        (["precision=fp32"], "Use --precision."),
        (["init_sha256=0"], "Use --init."),
        (["steps=0"], "--set steps=0 must be at least 1."),
        (["save_every=0"], "--set save_every=0 must be at least 1."),
        (["patches=1"], "--set patches=1 must be at least 2."),
        (["mosaics=-1"], "--set mosaics=-1 must be at least 0."),
        (["ema=1.5"], "--set ema=1.5 must lie in 0..1."),
        (["robust=nan"], "--set robust=nan must be a number of at least 0."),
        (["linear=inf"], "--set linear=inf must be a number of at least 0."),
        (["weight_decay=-1"], "--set weight_decay=-1.0 must be a number of at least 0."),
        (["without_infrared=0.7", "near_infrared_alone=0.7"], "Give at most 1 together."),
        (["peak_rate=0"], "--set peak_rate=0.0 teaches nothing"),
        (["gradients=all"], "--set gradients=all is unknown. Use none, tasks, branches, both, gradnorm."),
        (["gradients=both", "pixels=0"], "and pixels=0 leaves the latter out. Leave one of the two away."),
        (["gradients=tasks", "weight_of_use=2"], "weighs use and cover itself"),
        (["gradient_smoothing=1"], "--set gradient_smoothing=1.0 would never look"),
        (["weight_of_use=0", "weight_of_cover=0"], "leave nothing to learn"),
    ],
)
def test_what_is_no_recipe_is_one_clear_error(settings, says):
    with pytest.raises(UsageError) as caught:
        PixelTrainConfig.from_settings(settings)
    assert says in str(caught.value)


@pytest.mark.parametrize("values", [{"seed": -1}, {"seed": 2**31}, {"precision": "fp16"}])
def test_seed_and_precision_are_checked(values):
    with pytest.raises(UsageError, match=f"--{next(iter(values))}"):
        PixelTrainConfig.from_settings([], **values)


def test_the_rate_warms_up_and_falls_as_half_a_cosine():
    config = PixelTrainConfig(steps=110, warmup_steps=10, peak_rate=0.2)
    assert [config.rate_at(step) for step in (0, 4, 9)] == pytest.approx([0.02, 0.1, 0.2])
    for step in (10, 35, 60, 85, 109):
        assert config.rate_at(step) == pytest.approx(0.1 * (1 + math.cos(math.pi * (step - 10) / 100)))
    assert config.rate_at(60) == pytest.approx(0.1)
    assert PixelTrainConfig(steps=5, warmup_steps=0).rate_at(0) == PixelTrainConfig().peak_rate


def test_agreement_grows_from_its_start():
    config = PixelTrainConfig(steps=1000, agreement=0.5, agreement_from=0.2)
    assert [config.agreement_at(step) for step in (0, 199, 200, 300, 400, 999)] == pytest.approx(
        [0, 0, 0, 0.25, 0.5, 0.5]
    )
    assert PixelTrainConfig(agreement_from=0.0).agreement_at(1) == 0.5
