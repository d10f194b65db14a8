"""What is read around a block of pixels, and how gaps in it are filled. Oracles: loops over pixels."""

import numpy as np
import pytest

from landuse.pipeline.blocks.context import CONTEXT_PX, axis_context, filled
from tests.pixels import block_of_pixels


@pytest.mark.parametrize("step", [1, 8])
def test_a_place_is_read_with_its_context_on_the_zones_lattice(step):
    rng = np.random.default_rng(step)
    for _ in range(300):
        origin, first = (int(v) for v in rng.integers(-500, 500, 2))
        own = range(first, first + int(rng.integers(1, 400)))
        low = int(rng.integers(-900, 900))
        imagery = range(low, low + int(rng.integers(1, 1500)))
        got = axis_context(
            (own.start, own.stop), data_px=(imagery.start, imagery.stop), step_px=step, origin_px=origin
        )
        if not set(own) & set(imagery):
            assert got is None
            continue
        around = range(own.start - CONTEXT_PX, own.stop + CONTEXT_PX)
        needed = set(own) | (set(around) & set(imagery))
        assert (got[0] + origin) % step == (got[1] + origin) % step == 0
        assert needed <= set(range(*got))
        assert min(needed) - got[0] < step
        assert got[1] - 1 - max(needed) < step


def test_a_gap_holds_the_mean_of_what_lies_around_it():
    rng = np.random.default_rng(4)
    dn = rng.integers(1, 9000, (2, 96, 640)).astype(np.uint16)
    usable = rng.random((96, 640)) < 0.7
    usable[16:64, 120:500] = False  # wider than both squares
    usable[:, 560:568] = False
    expected = dn.copy()
    for row, col in np.argwhere(~usable):
        step_row, step_col = row // 8, col // 8
        for reach in (4, 16, 1000):
            part = np.s_[
                max(step_row - reach, 0) * 8 : (step_row + reach + 1) * 8,
                max(step_col - reach, 0) * 8 : (step_col + reach + 1) * 8,
            ]
            if usable[part].any():
                break
        expected[:, row, col] = np.rint(dn[:, *part][:, usable[part]].mean(1, dtype=np.float64))
    pixels = block_of_pixels(dn, np.ones_like(usable), usable)
    assert np.array_equal(filled(pixels, step_px=8), expected)
    assert np.array_equal(pixels.dn.values, dn)  # what was read is left as it is


def test_what_has_no_gaps_or_nothing_else_is_not_copied():
    dn = np.ones((1, 16, 24), np.uint16)
    for usable in (np.ones((16, 24), bool), np.zeros((16, 24), bool)):
        pixels = block_of_pixels(dn, usable, usable)
        assert np.shares_memory(filled(pixels, step_px=8), dn)
