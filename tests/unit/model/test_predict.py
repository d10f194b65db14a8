"""Oracles: the network called by hand on one patch at a time, hashlib on the file, and made-up machines.

The speed of a made-up machine at each batch size is written down.
"""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from landuse.errors import ModelError, UsageError
from landuse.model.checkpoint import load_checkpoint, save_checkpoint
from landuse.model.normalize import PATH_DN, TRANSMITTANCE, bring_to_input, standardize
from landuse.model.predict import BATCH_SIZES, CELL_SIGMA_PX, Predictor, fastest_size


@pytest.fixture
def dn() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 3500, (11, 3, 16, 16)).astype(np.uint16)


def by_hand(checkpoint, dn, level):
    """Patch by patch: transform, clip, standardise, forward, temperature, softmax."""
    network, contract = load_checkpoint(checkpoint)
    entry = contract.level_input(level)
    rows = []
    for patch in dn.astype(np.float64):
        x = np.empty_like(patch)
        for c in range(len(contract.bands)):
            input_dn = patch[c] * entry.gain[c] + entry.offset_dn[c]
            x[c] = (np.clip(input_dn / 2750, 0, 1) - contract.mean[c]) / contract.std[c]
        with torch.inference_mode():
            logits = network(torch.from_numpy(x[None]).float())[0].double().numpy() / 1.5
        odds = np.exp(logits - logits.max())
        rows.append(odds / odds.sum())
    return np.array(rows)


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_probabilities_are_the_network_s_under_the_contract(checkpoint, dn, level):
    got = Predictor.load(str(checkpoint), "cpu", batch_size=4).probabilities(dn, level)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_hand(checkpoint, dn, level), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-6)
    assert got.std(0).min() > 1e-4  # the patches do differ


def test_a_patch_scores_the_same_bits_in_any_company(checkpoint, dn):
    predictor = Predictor.load(str(checkpoint), "cpu", batch_size=4)
    together = predictor.probabilities(dn, "L2A")
    for size in (1, 2, 3, 5, 7):
        for start in range(0, len(dn), size):
            part = predictor.probabilities(dn[start : start + size], "L2A")
            assert np.array_equal(part, together[start : start + size])
    shuffled = np.random.default_rng(1).permutation(len(dn))
    assert np.array_equal(predictor.probabilities(dn[shuffled], "L2A"), together[shuffled])


def cells_by_hand(checkpoint, dn, level, cells):
    """Evidence at each position, weighted by a Gaussian around every pixel of a cell, in plain loops."""
    network, contract = load_checkpoint(checkpoint)
    x = standardize(bring_to_input(torch.from_numpy(dn), contract, level), contract)
    with torch.inference_mode():
        evidence = network.evidence(network.features(x)).double().numpy()  # (N, classes, h, w)
    positions, cell_px = evidence.shape[2], 16 // cells
    near = np.zeros((cells, positions))
    for cell in range(cells):
        for pixel in range(cell * cell_px, (cell + 1) * cell_px):
            for position in range(positions):
                centre = (position + 0.5) * 16 / positions - 0.5
                near[cell, position] += np.exp(-((pixel - centre) ** 2) / (2 * CELL_SIGMA_PX**2))
        if cells > 1:  # the outermost have seen the patch's padding
            near[cell, 0] = near[cell, -1] = 0
        near[cell] /= near[cell].sum()
    out = np.empty((len(dn), 3, cells, cells))
    for n in range(len(dn)):
        for row in range(cells):
            for col in range(cells):
                weight = np.outer(near[row], near[col])
                logits = (evidence[n] * weight).sum((1, 2)) / 1.5
                odds = np.exp(logits - logits.max())
                out[n, :, row, col] = odds / odds.sum()
    return out


@pytest.mark.parametrize("cells", [1, 2, 4])
def test_cells_are_the_evidence_around_them(checkpoint, dn, cells):
    got = Predictor.load(str(checkpoint), "cpu", batch_size=4).cell_probabilities(dn, "L2A", cells)
    assert got.dtype == np.float32
    expected = cells_by_hand(checkpoint, dn, "L2A", cells)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    if cells > 1:  # rows are no columns
        assert np.abs(expected - expected.swapaxes(2, 3)).max() > 1e-3


def test_a_cell_scores_the_same_bits_in_any_company(checkpoint):
    torch.set_num_threads(2)  # how work is shared among threads must not show either
    dn = np.random.default_rng(2).integers(1, 3500, (70, 3, 16, 16)).astype(np.uint16)
    predictor = Predictor.load(str(checkpoint), "cpu", batch_size=64)
    together = predictor.cell_probabilities(dn, "L2A", 4)
    for size, starts in ((1, (0, 17, 65)), (9, (0, 27, 63)), (50, (0, 50))):
        for start in starts:
            part = predictor.cell_probabilities(dn[start : start + size], "L2A", 4)
            assert np.array_equal(part, together[start : start + size])
    assert predictor.cell_probabilities(dn[:0], "L2A", 4).shape == (0, 3, 4, 4)


def test_both_levels_of_one_ground_get_the_same_answer(checkpoint, dn):
    path = np.array([PATH_DN[band] for band in ("B04", "B03", "B02")])[:, None, None]
    l1c = np.rint(dn * TRANSMITTANCE["B04"] + path).astype(np.uint16)
    predictor = Predictor.load(str(checkpoint), "cpu")
    np.testing.assert_allclose(
        predictor.probabilities(dn, "L2A"), predictor.probabilities(l1c, "L1C"), atol=2e-3
    )
    # Without the level the answer is another one: the transform is not idle.
    apart = predictor.probabilities(dn, "L2A") - predictor.probabilities(dn, "L1C")
    assert np.abs(apart).max() > 1e-2


def test_temperature_softens_without_changing_the_class(tmp_path, checkpoint, dn):
    network, contract = load_checkpoint(checkpoint)
    warm = tmp_path / "warm.safetensors"
    save_checkpoint(warm, network, replace(contract, temperature=contract.temperature * 2))
    cold = Predictor.load(str(checkpoint), "cpu").probabilities(dn, "L2A")
    soft = Predictor.load(str(warm), "cpu").probabilities(dn, "L2A")
    assert np.array_equal(cold.argmax(1), soft.argmax(1))
    odds = np.sqrt(cold)  # halving the logits is the square root of the odds
    np.testing.assert_allclose(soft, odds / odds.sum(1, keepdims=True), rtol=1e-4)


def test_no_patches_give_no_rows(checkpoint, dn):
    assert Predictor.load(str(checkpoint), "cpu").probabilities(dn[:0], "L1C").shape == (0, 3)


def test_the_weights_hash_is_the_file_s(checkpoint):
    predictor = Predictor.load(str(checkpoint), "cpu")
    assert predictor.weights_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert predictor.contract.name == "tiny"


def test_input_that_does_not_fit_is_refused_with_the_mend(checkpoint, dn):
    predictor = Predictor.load(str(checkpoint), "cpu")
    for wrong, level, message in (
        (dn.astype(np.float32), "L2A", r"takes uint16 DN .* given float32\. Scale and convert"),
        (dn.astype(np.int16), "L2A", "given int16"),
        (dn[:, :2], "L2A", r"B04, B03, B02; it was given \(11, 2, 16, 16\)\. Offer exactly those bands"),
        (dn[0], "L2A", r"given \(3, 16, 16\)"),
        (dn[..., :8], "L2A", r"patches of 16 x 16 px at 10 m; it was given 16 x 8 px\. Cut the windows"),
        (dn, "L1B", r"reads L1C, L2A; the imagery is L1B\. Choose another --model"),
    ):
        with pytest.raises(ModelError, match=message):
            predictor.probabilities(wrong, level)
        with pytest.raises(ModelError, match=message):
            predictor.cell_probabilities(wrong, level, 2)


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:", "cuda:x", "cuda:-1", "cpu:0", ""])
def test_an_unknown_device_is_refused(checkpoint, device):
    with pytest.raises(UsageError, match="Use auto, cpu, cuda or cuda:INDEX"):
        Predictor.load(str(checkpoint), device)


def test_a_device_this_machine_lacks_is_refused(checkpoint):
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(UsageError, match=f"{missing} is not available.*Use --device cpu"):
        Predictor.load(str(checkpoint), missing)


def test_auto_takes_the_gpu_where_there_is_one(checkpoint):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Predictor.load(str(checkpoint)).device.type == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_the_gpu_agrees_with_the_cpu(checkpoint, dn):
    on_cpu = Predictor.load(str(checkpoint), "cpu").probabilities(dn, "L2A")
    on_gpu = Predictor.load(str(checkpoint), "cuda").probabilities(dn, "L2A")
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


def test_a_batch_of_nothing_and_a_missing_model_are_refused(checkpoint):
    with pytest.raises(UsageError, match="--batch-size 0"):
        Predictor.load(str(checkpoint), "cpu", batch_size=0)
    with pytest.raises(ModelError, match="No model"):
        Predictor.load("nonsense", "cpu")


def test_convolutions_in_bfloat16_give_nearly_the_same(checkpoint, dn):
    """What a GPU does, on the CPU: every path runs, and only the convolutions lose digits."""
    whole, half = (Predictor.load(str(checkpoint), "cpu", batch_size=4) for _ in range(2))
    assert not whole._half
    half._half = True
    for expected, got in (
        (whole.probabilities(dn, "L1C"), half.probabilities(dn, "L1C")),
        (whole.cell_probabilities(dn, "L1C", 4), half.cell_probabilities(dn, "L1C", 4)),
    ):
        assert got.dtype == np.float32
        assert 0 < np.abs(got - expected).max() < 0.1
        np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)


class Machine:
    """Runs batches at the given patches a second, by a clock of its own."""

    def __init__(self, pace, limit=None):
        self.pace, self.limit, self.now, self.ran = pace, limit, 0.0, []

    def run(self, size):
        if self.limit is not None and size > self.limit:
            raise torch.OutOfMemoryError("too many")
        self.ran.append(size)
        self.now += size / self.pace[size]


@pytest.mark.parametrize(
    ("pace", "limit", "expected"),
    [
        ({16: 300, 32: 283, 64: 298, 128: 284, 256: 239}, None, 16),  # a CPU: the smallest that is as fast
        ({16: 100, 32: 190, 64: 350, 128: 600, 256: 900}, None, 256),  # an accelerator
        ({16: 100, 32: 190, 64: 350, 128: 600, 256: 900}, 64, 64),  # what fits into its memory
        ({16: 100, 32: 100.5, 64: 102, 128: 105, 256: 104}, None, 64),
    ],
)
def test_the_fastest_size_that_fits(pace, limit, expected):
    machine = Machine(pace, limit)
    assert fastest_size(machine.run, sorted(pace), lambda: machine.now) == expected


def test_hopeless_sizes_are_not_tried():
    machine = Machine({16: 300, 32: 100, 64: 1, 128: 1})
    assert fastest_size(machine.run, (16, 32, 64, 128), lambda: machine.now) == 16
    assert max(machine.ran) == 32


def test_it_is_tried_out_once_and_changes_no_score(checkpoint):
    dn = np.random.default_rng(0).integers(1, 3500, (BATCH_SIZES[-1] + 5, 3, 16, 16)).astype(np.uint16)
    fixed = Predictor.load(str(checkpoint), "cpu", batch_size=64).cell_probabilities(dn, "L2A", 2)
    predictor = Predictor.load(str(checkpoint), "cpu")
    few = predictor.cell_probabilities(dn[:7], "L2A", 2)
    assert predictor.batch_size == 64  # too few to try anything on
    many = predictor.cell_probabilities(dn, "L2A", 2)
    chosen = predictor.batch_size
    assert chosen in BATCH_SIZES
    np.testing.assert_allclose(many, fixed, atol=1e-6)
    np.testing.assert_allclose(few, fixed[:7], atol=1e-6)
    predictor.cell_probabilities(dn[::-1], "L2A", 2)
    assert predictor.batch_size == chosen
