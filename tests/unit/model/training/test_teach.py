"""Learning from other networks' answers.

Oracles: torch's own divergence and cross-entropy, the teachers' answers averaged by hand, an uninterrupted
run, and labels that are wrong on purpose, which only a teacher can mend.
"""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from landuse.contract import LabelOutputs
from landuse.errors import ModelError, UsageError
from landuse.model.checkpoint import load_checkpoint, load_recipe, save_checkpoint
from landuse.model.normalize import bring_to_input, level_inputs, standardize
from landuse.model.training.config import TrainConfig
from landuse.model.training.datasets import (
    LabelledPatches,
    Patches,
    PatchSource,
    load_unlabelled,
    stated_level,
)
from landuse.model.training.evaluate import logits_of, score
from landuse.model.training.teach import Lessons, answers_of, check_teacher
from landuse.model.training.train import targets_of, train
from tests.patches import NATURAL, make_jpegs, spectral_patches, write_tiff
from tests.unit.model.training.inputs import training_inputs

RGB = ("B04", "B03", "B02")
NO_B10 = tuple(band for band in NATURAL if band != "B10")
RECIPE = TrainConfig(epochs=3, batch_size=12, peak_rate=0.02, warmup_epochs=1, shift_px=2)


@pytest.fixture(scope="module")
def spectra() -> LabelledPatches:
    """48 patches of 12 bands, read as L1C."""
    written = spectral_patches(16)
    classes = sorted({name.split("/")[0] for name in written})
    rows = [NATURAL.index(band) for band in NO_B10]
    return LabelledPatches(
        images=torch.from_numpy(np.stack(list(written.values()))[:, rows].astype(np.int16)),
        dn_per_count=1.0,
        bands=NO_B10,
        level="L1C",
        labels=torch.tensor([classes.index(name.split("/")[0]) for name in written]),
        names=tuple(f"{name}.tif" for name in written),
        classes=tuple(classes),
    )


def rows_of(patches: LabelledPatches, rows: list[int]) -> LabelledPatches:
    return replace(
        patches,
        images=patches.images[rows],
        labels=patches.labels[rows],
        names=tuple(patches.names[row] for row in rows),
    )


@pytest.fixture(scope="module")
def halves(spectra) -> tuple[LabelledPatches, LabelledPatches]:
    """Two thirds to learn from, a third to measure on."""
    return rows_of(spectra, [i for i in range(48) if i % 3]), rows_of(spectra, list(range(0, 48, 3)))


@pytest.fixture(scope="module")
def further() -> Patches:
    """20 L2A patches without labels, which lack B01 and B09."""
    bands = ("B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
    written = np.stack(list(spectral_patches(7).values()))[:20, [NATURAL.index(band) for band in bands]]
    return Patches(
        images=torch.from_numpy(written.astype(np.int16)),
        dn_per_count=1.0,
        bands=bands,
        level="L2A",
        names=tuple(map(str, range(20))),
    )


def soft(count, seed):
    return torch.randn((count, 3), generator=torch.Generator().manual_seed(seed)).mul(2).softmax(1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_torch_s_cross_entropy_and_divergence_in_shares(share):
    labels, taught, logits = torch.tensor([0, 2, 1, 2]), soft(4, 0), 3 * torch.randn(4, 3)
    config = TrainConfig(label_smoothing=0.1, teacher_share=share)
    got = F.cross_entropy(logits, targets_of(labels, 3, config, taught))
    entropy = -(taught * taught.log()).sum(1).mean()
    divergence = F.kl_div(logits.log_softmax(1), taught, reduction="batchmean") + entropy
    hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(got, (1 - share) * hard + share * divergence)
    alone = F.cross_entropy(logits, targets_of(labels, 3, config))
    torch.testing.assert_close(alone, hard)


def test_several_teachers_are_averaged_and_each_reads_its_bands(tmp_path, network, contract, spectra):
    """By hand: the visible bands alone, brought to the input and divided by the temperature."""
    paths = []
    for number, temperature in enumerate((1.5, 0.7)):
        with torch.no_grad():
            network.head.bias.add_(number)
        paths.append(tmp_path / f"teacher{number}.safetensors")
        save_checkpoint(paths[-1], network, replace(contract, temperature=temperature))
    visible = spectra.images[:, [NO_B10.index(band) for band in RGB]].float()
    told = []
    for path in paths:
        own, held = load_checkpoint(path)
        x = standardize(bring_to_input(visible, held, "L1C"), held)
        with torch.inference_mode():
            told.append((own(x) / held.temperature).softmax(1))
    got = answers_of(paths, spectra.of_bands, "cpu")
    torch.testing.assert_close(got, (told[0] + told[1]) / 2, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(told[0], told[1], atol=1e-2)


def test_a_run_with_a_teacher_that_was_stopped_ends_with_the_same_bits(tmp_path, halves, further):
    lessons = Lessons(labelled=soft(32, 1), unlabelled=further, answers=soft(20, 2))
    config = replace(RECIPE, epochs=2, unlabelled_ratio=0.5, teacher_sha256=("ab" * 32, "cd" * 32))

    class PulledPlug(Exception):
        pass

    def pull(metrics):
        if metrics.epoch == 1:
            raise PulledPlug

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    result = train(config, *halves, whole, name="tiny", lessons=lessons)
    with pytest.raises(PulledPlug):
        train(config, *halves, broken, name="tiny", lessons=lessons, on_epoch=pull)
    train(config, *halves, broken, name="tiny", lessons=lessons)
    for name in ("model.safetensors", "state.safetensors"):
        expected, got = load_file(whole / name), load_file(broken / name)
        assert all(torch.equal(tensor, got[key]) for key, tensor in expected.items())
    assert load_recipe(result) == json.loads(json.dumps(asdict(config)))
    without = load_file(train(config, *halves, tmp_path / "without", name="tiny"))
    assert any(not torch.equal(tensor, without[key]) for key, tensor in load_file(result).items())


def test_unlabelled_patches_join_each_batch_and_what_they_lack_is_at_its_mean(tmp_path, halves, further):
    lessons = Lessons(labelled=soft(32, 1), unlabelled=further, answers=soft(20, 2))
    plain = {"cutmix": 0.0, "shift_px": 0, "dihedral": False, "brightness": 0.0, "atmosphere": 0.0}
    config = replace(RECIPE, epochs=1, unlabelled_ratio=1.5, **plain)
    with training_inputs() as seen:
        _, contract = load_checkpoint(train(config, *halves, tmp_path, name="tiny", lessons=lessons))
    assert [len(x) for x in seen] == [12 + 18] * 2
    more = torch.cat([x[12:] for x in seen])
    lacking = [NO_B10.index(band) for band in ("B01", "B09")]
    assert not bool(more[:, lacking].any())
    assert bool(torch.cat([x[:12] for x in seen])[:, lacking].any())
    # Each of the 20 once before any of them again; as they are, since nothing augments.
    whole = torch.zeros(20, 12, 16, 16)
    whole[:, [NO_B10.index(band) for band in further.bands]] = further.dn(slice(None))
    expected = standardize(bring_to_input(whole, contract, "L2A"), contract)
    expected[:, lacking] = 0
    apart = (more[:, None] - expected[None]).abs().amax((2, 3, 4))
    assert float(apart.min(1).values.max()) < 1e-4
    assert sorted(apart[:20].argmin(1).tolist()) == list(range(20))
    assert len(apart) == 36


def test_a_teacher_mends_labels_that_are_wrong(tmp_path, halves):
    learn, measure = halves
    truth = F.one_hot(learn.labels, 3).float() * 0.9 + 0.1 / 3
    wrong = replace(learn, labels=(learn.labels + 1) % 3)
    config = replace(RECIPE, epochs=4, teacher_share=1.0)
    network, contract = load_checkpoint(
        train(config, wrong, measure, tmp_path, name="tiny", lessons=Lessons(labelled=truth))
    )
    answers = logits_of(network, contract, measure).softmax(1)
    assert score(answers, measure.labels, contract.classes).accuracy > 0.9


def test_teachers_that_cannot_be_asked_are_one_clear_error_each(tmp_path, network, contract):
    path = tmp_path / "t.safetensors"
    save_checkpoint(path, network, contract)
    assert check_teacher(path, contract.classes, "L2A", 16) == contract
    for classes, level, side, message in (
        (
            ("Brick", "Sand", "Water"),
            "L1C",
            16,
            "Brick, Grass, Water; the patches are of Brick, Sand, Water",
        ),
        (("Grass", "Brick", "Water"), "L1C", 16, "of the same classes"),
        (contract.classes, "L1C", 64, "patches of 16 px; there are some of 64 px"),
    ):
        with pytest.raises(ModelError, match=message):
            check_teacher(path, classes, level, side)
    save_checkpoint(path, network, replace(contract, levels=level_inputs(RGB)[:1]))
    with pytest.raises(ModelError, match="reads L1C; patches are L2A"):
        check_teacher(path, contract.classes, "L2A", 16)
    save_checkpoint(path, network, replace(contract, labels=LabelOutputs(thresholds=(0.5,) * 3)))
    with pytest.raises(ModelError, match="no model of Sentinel-2 patches with one class each"):
        check_teacher(path, contract.classes, "L1C", 16)


def test_unlabelled_patches_that_do_not_fit_are_refused(tmp_path, halves, further):
    small = replace(further, images=further.images[:, :, :8, :8])
    lessons = Lessons(labelled=soft(32, 1), unlabelled=small, answers=soft(20, 2))
    with pytest.raises(UsageError, match="--unlabelled holds patches of 8 px, and --data of 16 px"):
        train(RECIPE, *halves, tmp_path / "out", name="tiny", lessons=lessons)
    with pytest.raises(ValueError, match="31 answers for 32 training patches"):
        train(RECIPE, *halves, tmp_path / "out", name="tiny", lessons=Lessons(labelled=soft(31, 1)))
    with pytest.raises(ValueError, match="19 answers for 20 unlabelled"):
        Lessons(labelled=soft(32, 1), unlabelled=further, answers=soft(19, 2))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_unlabelled_patches_is_read_by_the_names_of_its_bands(tmp_path):
    rng = np.random.default_rng(0)
    bands = ("B08", "B04", "B03", "B02")
    written = rng.integers(100, 3000, (2, 4, 16, 16)).astype(np.uint16)
    for number, dn in enumerate(written):
        write_tiff(tmp_path / "deep" / f"p{number}.tif", dn, bands)
        write_tiff(tmp_path / "deep" / f"p{number}.label.tif", dn[:1].astype(np.uint8))
        write_tiff(tmp_path / "deep" / f"p{number}.weight.tif", dn[:1].astype(np.float32))
    (tmp_path / "folder.json").write_text('{"level": "L2A"}')
    assert stated_level(tmp_path) == "L2A"
    source = PatchSource(root=tmp_path, level="L2A")
    got = load_unlabelled(source, NO_B10, RGB)
    assert got.bands == ("B02", "B03", "B04", "B08")
    assert (got.level, got.names) == ("L2A", ("deep/p0.tif", "deep/p1.tif"))
    assert np.array_equal(got.images.numpy(), written[:, [3, 2, 1, 0]])
    assert np.array_equal(got.of_bands(RGB).images.numpy(), written[:, [1, 2, 3]])
    with pytest.raises(UsageError, match=r"hold B08, B04, B03, B02; the teachers read B11 too"):
        load_unlabelled(source, NO_B10, ("B11",))
    with pytest.raises(UsageError, match=r"folder.json says .* are L2A; --unlabelled-level says L1C"):
        load_unlabelled(PatchSource(root=tmp_path, level="L1C"), NO_B10)
    (tmp_path / "folder.json").write_text("[]")
    with pytest.raises(UsageError, match=r"folder.json cannot be read.*cover_patches"):
        load_unlabelled(source, NO_B10)


def test_a_folder_without_patches_or_with_two_kinds_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        load_unlabelled(PatchSource(root=tmp_path / "none"), RGB)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no patches"):
        load_unlabelled(PatchSource(root=tmp_path / "empty"), RGB)
    root = make_jpegs(tmp_path / "two", 1)
    images = load_unlabelled(PatchSource(root=root), NO_B10)
    assert (images.bands, len(images)) == (("B02", "B03", "B04"), 3)
    write_tiff(root / "z.tif", np.ones((3, 16, 16), np.uint16), RGB)
    with pytest.raises(UsageError, match=r"both images and TIFFs, such as .*z\.tif"):
        load_unlabelled(PatchSource(root=root), RGB)
