"""The training loop on patches and pixels. Oracles: an uninterrupted run, another seed, held-out data."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from landuse.classes import EUROSAT_NAMES, LAND_COVER_NAMES, LAND_USE_NAMES
from landuse.errors import ModelError, OutputError, UsageError
from landuse.model.checkpoint import load_pixel_checkpoint
from landuse.model.normalize import bring_to_input, standardize
from landuse.model.training.pixels.config import PixelTrainConfig
from landuse.model.training.pixels.measure import cover_logits, fit_temperatures, measure, patch_logits
from landuse.model.training.pixels.train import _taught, make_pixel_contract, train_pixels
from landuse.model.training.teach import PixelLessons

from .conftest import INFRARED, SIDE, VISIBLE, covered, labelled

RECIPE = PixelTrainConfig(
    steps=4, patches=10, mosaics=3, pixels=6, warmup_steps=2, peak_rate=0.02, precision="fp32", save_every=2,
    agreement_from=0.0, cutmix=0.5,
)  # fmt: skip


@pytest.fixture
def run(patches, val_patches, sets, val_sets, narrow):
    def call(config, out, **options):
        data = (patches, val_patches, options.pop("sets", sets), options.pop("val_sets", val_sets))
        return train_pixels(config, *data, out, name="tiny", device="cpu", **options)

    return call


def same(one, other):
    expected, got = load_file(one), load_file(other)
    assert expected.keys() == got.keys()
    return all(torch.equal(value, got[key]) for key, value in expected.items())


class PulledPlug(Exception):
    """Ends a run from outside, as a kill does, after its state was written."""


def pull(run):
    raise PulledPlug


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, run):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(RECIPE, whole)
    with pytest.raises(PulledPlug):
        run(RECIPE, broken, on_saved=pull)
    assert not (broken / "model.safetensors").exists()
    torch.rand(7)  # whatever happens between the sittings
    steps = []
    run(RECIPE, broken, on_saved=lambda run: steps.append(run.step))
    assert steps == [4]  # two of the four were done
    for name in ("model.safetensors", "state.safetensors"):
        assert same(whole / name, broken / name), name
    assert (whole / "metrics.json").read_bytes() == (broken / "metrics.json").read_bytes()


def test_the_seed_decides(tmp_path, run):
    made = [
        run(replace(RECIPE, steps=2, seed=seed), tmp_path / name)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert same(made[0], made[1])
    assert not same(made[0], made[2])


def test_training_lowers_the_loss_and_writes_what_it_measured(tmp_path, run):
    told = []
    config = replace(RECIPE, steps=50, peak_rate=0.1, save_every=50, ema=0.9, cutmix=0.0, season=0, flood=0)
    result = run(config, tmp_path, on_step=told.append)
    assert [(p.step, p.steps) for p in told] == [(25, 50), (50, 50)]
    assert told[-1].seconds_left == 0
    assert {"patch", "mosaic", "line", "cover", "weak_cover", "conditional", "agree_cover"} <= told[
        -1
    ].losses.keys()
    for part in ("patch", "cover"):
        assert told[-1].losses[part] < told[0].losses[part]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["patch_accuracy"] > 0.3  # chance is 0.1
    assert metrics["cover_accuracy"]["all"] > 0.25  # chance is 0.11
    assert set(metrics["cover_accuracy"]) == {"visible", "near_infrared", "all"}
    network, contract = load_pixel_checkpoint(result)
    assert (contract.name, contract.classes) == ("tiny", LAND_USE_NAMES)
    assert contract.temperature != 1
    assert contract.pixels.cover_temperature != 1
    scored = measure(network, contract, labelled(20, 1), [])
    assert scored.patch_accuracy == metrics["patch_accuracy"]


def test_a_finished_run_is_not_trained_again(tmp_path, run):
    first = run(RECIPE, tmp_path).rename(tmp_path / "first.safetensors")
    assert same(first, run(RECIPE, tmp_path, on_step=pull, on_saved=pull))


def test_other_settings_and_other_data_are_refused(tmp_path, run, sets, val_sets):
    run(RECIPE, tmp_path)
    state = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(ModelError, match="run with other settings"):
        run(replace(RECIPE, flood=0.0), tmp_path)
    with pytest.raises(ModelError, match="run on other data"):
        run(RECIPE, tmp_path, sets=sets[:1], val_sets=val_sets[:1])
    assert (tmp_path / "state.safetensors").read_bytes() == state
    for damage in (b"", state[:1000], state[:-100]):
        (tmp_path / "state.safetensors").write_bytes(damage)
        with pytest.raises(ModelError, match="Remove it to start again"):
            run(RECIPE, tmp_path)


def test_a_run_starts_from_weights_that_fit(tmp_path, run, patches, monkeypatch):
    first = run(replace(RECIPE, steps=2), tmp_path / "first")
    still = replace(
        RECIPE, steps=1, warmup_steps=0, peak_rate=1e-9, weight_decay=0, init_sha256="of the first"
    )
    second = run(still, tmp_path / "second", init=first)
    before, was = load_pixel_checkpoint(first)
    after, now = load_pixel_checkpoint(second)
    assert (was.mean, was.std) == (now.mean, now.std)
    for name, value in before.named_parameters():
        torch.testing.assert_close(after.get_parameter(name), value, atol=1e-5, rtol=1e-4)
    monkeypatch.undo()  # the network as it is has more channels
    with pytest.raises(ModelError, match="other layers, bands or uses"):
        run(still, tmp_path / "third", init=first)


@pytest.fixture
def lessons(patches, sets):
    """A teacher that says of every patch that it is a River, of half of the second set with little reason."""
    river = torch.eye(10)[EUROSAT_NAMES.index("River")]
    unsure = torch.full((4, 10), 0.1)
    second = torch.cat([river.expand(4, -1), unsure])
    return PixelLessons(patches=river.expand(len(patches), -1), sets=(river.expand(24, -1), second))


def test_a_run_with_a_teacher_that_was_stopped_ends_with_the_same_bits(tmp_path, run, lessons):
    config = replace(RECIPE, teacher_sha256=("ab" * 32,))
    whole = run(config, tmp_path / "whole", lessons=lessons)
    with pytest.raises(PulledPlug):
        run(config, tmp_path / "broken", lessons=lessons, on_saved=pull)
    assert same(whole, run(config, tmp_path / "broken", lessons=lessons))
    assert not same(whole, run(RECIPE, tmp_path / "alone"))


def test_what_a_teacher_says_is_learned_with_infrared_too(tmp_path, run, patches, sets, lessons):
    """No label names the use of the first set; its teacher calls all of it River."""
    config = replace(
        RECIPE, steps=30, peak_rate=0.05, save_every=30, ema=0.9, mosaics=0, agreement=0.0, teacher_share=0.0
    )
    river = EUROSAT_NAMES.index("River")
    means = {}
    for name, given in (("taught", lessons), ("alone", None)):
        told = []
        result = run(config, tmp_path / name, lessons=given, on_step=told.append)
        network, contract = load_pixel_checkpoint(result)
        dn = torch.zeros(24, 10, SIDE, SIDE)
        dn[:, [contract.bands.index(band) for band in sets[0].bands]] = sets[0].dn.float()
        x = standardize(bring_to_input(dn, contract, "L2A"), contract)
        with torch.no_grad():
            means[name] = float(network(x, torch.ones(24, 7)).softmax(1)[:, river].mean())
        parts = {"taught", "taught_conditional", "taught_line"}
        assert parts & told[-1].losses.keys() == (parts if given else set())
    assert means["taught"] > 2 * means["alone"]


def test_what_a_teacher_says_weighs_as_by_hand(patches, sets):
    contract = make_pixel_contract("tiny", patches, sets)
    config = replace(RECIPE, taught_from=0.7, conditional=0.0)
    rng = np.random.default_rng(0)
    logits, use_logits = rng.normal(size=(3, 10)), rng.normal(size=(3, 10, 8, 8))
    cover_logits = rng.normal(size=(3, 9, 8, 8))
    water, river = LAND_COVER_NAMES.index("Water"), EUROSAT_NAMES.index("River")
    answer = np.zeros((3, 10))
    answer[0, river] = 1
    answer[1, [river, 9]] = 0.6, 0.4  # not sure enough for pixels
    as_tensors = (torch.from_numpy(values) for values in (logits, use_logits, cover_logits, answer))
    parts = _taught(*as_tensors, contract, config)
    assert parts.keys() == {"taught", "taught_line"}

    def softmax(values):
        return np.exp(values) / np.exp(values).sum(1, keepdims=True)

    of_patch = -(answer * np.log(softmax(logits))).sum() / 2  # of two patches something is said
    assert float(parts["taught"][1]) == pytest.approx(of_patch)
    chance = softmax(use_logits)[0, river] * (0.1 + 0.9 * softmax(cover_logits)[0, water])
    strongest = np.sort(chance.ravel())[-8:].mean()  # an eighth of 64 pixels
    expected = -np.log(strongest) + 4 * max(chance.mean() - 0.5, 0)
    weight, line = parts["taught_line"]
    assert (weight, float(line)) == (config.linear, pytest.approx(expected))


@pytest.mark.parametrize(
    "changed", [{"mosaics": 0}, {"pixels": 0}, {"weak_cover": 0.0, "conditional": 0.0, "agreement": 0.0}]
)
def test_each_part_can_be_left_out(tmp_path, run, changed):
    parts = []
    config = replace(RECIPE, steps=2, cutmix=0.0, **changed)
    run(config, tmp_path, on_step=lambda p: parts.append(p.losses.keys()))
    gone = {"mosaics": {"mosaic", "line"}, "pixels": {"cover", "patch_infrared"}}.get(next(iter(changed)))
    for keys in parts:
        assert not (keys & (gone or {"weak_cover", "conditional", "agree_cover", "agree_patch"}))
    assert parts


def test_patch_labels_alone_make_a_network_too(tmp_path, run):
    result = run(replace(RECIPE, steps=2), tmp_path, sets=[], val_sets=[])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["cover_accuracy"], metrics["cover_recall"]) == ({}, {})
    assert load_pixel_checkpoint(result)[1].pixels.cover_temperature == 1


def test_bfloat16_trains_too(tmp_path, run):
    losses = []
    run(replace(RECIPE, precision="bf16"), tmp_path, on_step=lambda p: losses.append(p.losses))
    assert all(torch.isfinite(torch.tensor(list(values.values()))).all() for values in losses)


def test_a_loss_that_breaks_is_one_clear_error(tmp_path, run):
    with pytest.raises(ModelError, match=r"The loss is (nan|inf) after step 2. Lower --set peak_rate"):
        run(replace(RECIPE, peak_rate=1e38), tmp_path)
    assert not (tmp_path / "state.safetensors").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path, run):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        run(RECIPE, tmp_path / "file" / "out")


def test_the_contract_says_what_the_network_takes(patches, sets):
    contract = make_pixel_contract("tiny", patches, sets)
    assert (contract.bands, contract.optional_bands) == ((*VISIBLE, *INFRARED), INFRARED)
    assert contract.required_bands == VISIBLE
    assert contract.patch_classes == EUROSAT_NAMES
    assert contract.pixels.covers == LAND_COVER_NAMES
    assert contract.patch_size_px == SIDE
    assert [entry.level for entry in contract.levels] == ["L1C", "L2A"]


def test_statistics_are_those_of_the_input_of_each_band(patches, sets):
    contract = make_pixel_contract("tiny", patches, sets)
    for row, band in enumerate(contract.bands):
        values = []
        for entry in (*sets, patches):
            if band not in entry.bands:
                continue
            dn = entry.dn(slice(None)) if entry is patches else entry.dn.float()
            whole = torch.zeros(len(dn), 10, SIDE, SIDE)
            whole[:, row] = dn[:, entry.bands.index(band)]
            scaled = bring_to_input(whole, contract, entry.level)[:, row] / contract.saturation_dn[row]
            values.append(scaled.clamp(0, 1).flatten())
        joined = torch.cat(values)
        assert contract.mean[row] == pytest.approx(float(joined.mean()), rel=1e-4)
        assert contract.std[row] == pytest.approx(float(joined.std()), rel=1e-4)
    alone = make_pixel_contract("tiny", patches, [])
    assert alone.std[3] > 0.01  # of a band that no data have, something to divide by


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sets": {"covers": LAND_COVER_NAMES[::-1]}}, "Translate the labels"),
        ({"sets": {"bands": (*INFRARED, "B01", "B09", "B10")}}, "--pixels lacks the bands B04, B03, B02"),
        ({"patches": {"bands": ("B08", "B03", "B02")}}, "--data lacks the bands B04"),
        ({"patches": {"classes": (*EUROSAT_NAMES[:9], "Glacier")}}, "Glacier, which no cover can be"),
        ({"patches": {"classes": EUROSAT_NAMES[:9]}}, "no patches of SeaLake"),
        ({"patches": {"images": torch.zeros(60, 3, 20, 20)}}, "of 20 px; their side must be"),
        ({"patches": {"images": torch.zeros(60, 3, 64, 64)}}, "of 32 px, --data of 64"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_one_clear_error(patches, sets, changed, says):
    patches = replace(patches, **changed.get("patches", {}))
    with pytest.raises(UsageError) as caught:
        make_pixel_contract("tiny", patches, [replace(sets[0], **changed.get("sets", {}))])
    assert says in str(caught.value)
    with pytest.raises(UsageError, match="different covers"):
        make_pixel_contract(
            "tiny", labelled(20, 0), [sets[0], replace(sets[1], covers=LAND_COVER_NAMES[::-1])]
        )


def test_patch_logits_look_at_no_missing_band(tmp_path, run, patches):
    """The same with a band that is not there, and averaged over symmetries as by hand."""
    network, contract = load_pixel_checkpoint(run(replace(RECIPE, steps=1), tmp_path))
    plain = patch_logits(network, contract, patches)
    assert plain.shape == (60, 10)
    turned = replace(patches, images=patches.images.flip(3))
    both = patch_logits(network, contract, patches, symmetries=(0, 1))
    torch.testing.assert_close(
        both, (plain + patch_logits(network, contract, turned)) / 2, rtol=1e-4, atol=1e-4
    )
    shift = torch.zeros(10)
    shift[3:] = 5000  # of bands that the patches do not have
    torch.testing.assert_close(patch_logits(network, contract, patches, path_shift_dn=shift), plain)
    shift[0] = 500
    assert not torch.allclose(patch_logits(network, contract, patches, path_shift_dn=shift), plain)


@pytest.mark.parametrize("shown", [0, 1])
def test_what_is_measured_has_the_prior_of_the_visible_bands(tmp_path, run, shown):
    """As maps have it: where no infrared band is shown."""
    network, contract = load_pixel_checkpoint(run(replace(RECIPE, steps=1), tmp_path))
    bias = tuple(float(n) for n in range(9))
    biased = replace(contract, pixels=replace(contract.pixels, visible_cover_bias=bias))
    given = covered(3, 5), torch.full((7,), float(shown))
    ((plain, _, _),) = cover_logits(network, contract, *given)
    ((moved, _, _),) = cover_logits(network, biased, *given)
    torch.testing.assert_close(moved, plain if shown else plain + torch.tensor(bias))


def test_labels_that_are_hardly_believed_set_no_temperature(tmp_path, run, patches, caplog):
    network, contract = load_pixel_checkpoint(run(replace(RECIPE, steps=1), tmp_path))
    doubted = covered(4, 5)
    doubted = replace(doubted, weight=torch.full_like(doubted.weight, 100))
    contract = replace(contract, pixels=replace(contract.pixels, cover_temperature=1.0))
    fitted = fit_temperatures(network, contract, patches, [doubted])
    assert fitted.pixels.cover_temperature == 1
    assert fitted.temperature != 1
    assert "the covers are not calibrated" in caplog.text
