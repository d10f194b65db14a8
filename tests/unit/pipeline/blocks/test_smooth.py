"""Smoothed probabilities against a loop over pixels, in plain floats, as Simoes et al. 2024 write it down."""

import numpy as np
import pytest

from landuse.errors import UsageError
from landuse.pipeline.blocks.smooth import Smoothing, _run, _window_sort, parse_smooth, smooth_classes


def looped(shares, usable, strengths, side):
    """The same, pixel by pixel, from logits that are not rounded: the two may differ by half a map's step."""
    _, rows, cols = shares.shape
    reach, made = side // 2, shares.astype(float)
    kept = shares.clip(1e-4, 1 - 1e-4).astype(float)
    logits = np.log(kept / (1 - kept))
    areal = [index for index, strength in enumerate(strengths) if strength]
    for row in range(rows):
        for col in range(cols):
            around = np.s_[max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1]
            if not usable[around].any():
                continue
            found = {}
            for index in areal:
                there = sorted(logits[index][around][usable[around]], reverse=True)
                highest = np.array(there[: int(np.ceil(len(there) / 2))])
                variance = highest.var(ddof=1) if len(highest) > 1 else 0.0
                weight = variance / (variance + strengths[index])
                logit = weight * logits[index, row, col] + (1 - weight) * highest.mean()
                found[index] = 1 / (1 + np.exp(-logit))
            thin = sum(shares[i, row, col] for i in range(len(shares)) if i not in areal)
            for index, share in found.items():
                made[index, row, col] = share / sum(found.values()) * (1 - thin)
    return made


def random_shares(seed, classes=5, rows=17, cols=21):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, 0.3), (rows, cols)).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("side", [3, 5, 7, 9, 11])
@pytest.mark.parametrize("clear", [1.0, 0.7, 0.05])
def test_smoothing_is_what_a_loop_over_pixels_makes(side, clear):
    shares = random_shares(side)
    usable = np.random.default_rng(1).random(shares.shape[1:]) < clear
    strengths = (0.5, 2.0, 0.0, 0.5, 20.0)
    made = smooth_classes(shares, usable, Smoothing(strengths=strengths, window_px=side))
    np.testing.assert_allclose(made, looped(shares, usable, strengths, side), atol=2e-3)
    np.testing.assert_allclose(made.sum(0), 1, atol=1e-6)
    assert np.array_equal(made[2], shares[2])  # strength 0


@pytest.mark.parametrize("side", [3, 5, 7, 9, 11])
def test_the_sorting_network_finds_the_largest_half(side):
    rng = np.random.default_rng(side)
    columns = np.sort(rng.integers(-50, 50, (300, side, side)).astype(np.int16))[:, :, ::-1]
    wires = [columns[:, right, rank] for right in range(side) for rank in range(side)]
    order = _run(_window_sort(side), wires)
    found = np.stack([wires[wire] for wire in order], 1)
    expected = np.sort(columns.reshape(300, -1))[:, ::-1][:, : side**2 // 2 + 1]
    assert np.array_equal(found, expected)


def test_strips_and_what_lies_out_of_reach_change_nothing(monkeypatch):
    shares, usable = random_shares(4, rows=40, cols=30), np.random.default_rng(2).random((40, 30)) < 0.9
    smoothing = Smoothing(strengths=(0.5,) * 5, window_px=7)
    whole = smooth_classes(shares, usable, smoothing)
    monkeypatch.setattr("landuse.pipeline.blocks.smooth._STRIP_PIXELS", 64)
    assert np.array_equal(smooth_classes(shares, usable, smoothing), whole)
    part = smooth_classes(shares[:, 7:23, 4:20], usable[7:23, 4:20], smoothing)
    assert np.array_equal(part[:, 3:-3, 3:-3], whole[:, 10:20, 7:17])


def test_a_speck_goes_a_border_and_a_thin_line_stay():
    shares = np.full((3, 24, 24), 0.05, np.float32)
    shares[0, :, :12] = shares[1, :, 12:] = 0.9
    shares[:, 6, 4] = 0.3, 0.65, 0.05  # a speck
    shares[:, :, 18] = np.array([0.05, 0.4, 0.55])[:, None]  # a line one pixel wide
    usable = np.ones((24, 24), bool)
    smoothed = smooth_classes(shares, usable, Smoothing(strengths=(0.5, 0.5, 0.0))).argmax(0)
    expected = np.repeat(np.where(np.arange(24) < 12, 0, 1)[None], 24, 0)
    expected[:, 18] = 2
    assert np.array_equal(smoothed, expected)
    blunt = smooth_classes(shares, usable, Smoothing(strengths=(0.5,) * 3)).argmax(0)
    assert (blunt[:, 18] == 1).all()


def test_off_is_off():
    shares = random_shares(0)
    usable = np.ones(shares.shape[1:], bool)
    for strengths in ((), (0.0,) * 5, (0.0, 1.0, 0.0, 0.0, 0.0)):
        assert smooth_classes(shares, usable, Smoothing(strengths=strengths)) is shares
    assert Smoothing().reach_px == Smoothing(strengths=(0.0,)).reach_px == 0


def test_strengths_are_those_asked_for():
    classes = ("Forest", "River", "Hedge", "Highway")
    assert parse_smooth(0.5, 7, classes).strengths == (0.5, 0.0, 0.5, 0.0)
    assert parse_smooth("1, Forest=5, River=2,Hedge=0", 5, classes).strengths == (5.0, 2.0, 0.0, 0.0)
    assert not parse_smooth("0", 7, classes).is_on


@pytest.mark.parametrize(
    ("asked", "window_px", "message"),
    [
        ("strong", 7, "--smooth 'strong': 'strong' is no number"),
        ("", 7, "'' is no number"),
        ("-1", 7, "--smooth -1 is no strength. Give 0"),
        ("nan", 7, "--smooth nan is no strength"),
        ("inf", 7, "--smooth inf is no strength"),
        ("1,Moor=2", 7, "'Moor=2' names no class.*the classes are Forest, River"),
        ("1,Forest", 7, "'' is no number"),
        ("1,Forest=much", 7, "'much' is no number"),
        ("1", 4, "--smooth-px 4 is no window. Give an odd number of pixels from 3 to 11"),
        ("1", 1, "--smooth-px 1 is no window"),
        ("1", 13, "--smooth-px 13 is no window"),
    ],
)
def test_what_is_no_smoothing_is_one_error(asked, window_px, message):
    with pytest.raises(UsageError, match=message):
        parse_smooth(asked, window_px, ("Forest", "River"))
