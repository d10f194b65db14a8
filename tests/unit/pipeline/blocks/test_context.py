"""What is read around a block of pixels, and how gaps in it are filled. Oracles: loops over pixels."""

import numpy as np
import pytest

from landuse.pipeline.blocks.context import CONTEXT_PX, READ_PX, axis_context, filled
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
    usable[16:64, 120:500] = False  # wider than the square
    usable[:, 560:568] = False
    expected = dn.copy()
    for row, col in np.argwhere(~usable):
        step_row, step_col = row // 8, col // 8
        part = np.s_[
            max(step_row - 4, 0) * 8 : (step_row + 5) * 8, max(step_col - 4, 0) * 8 : (step_col + 5) * 8
        ]
        around = dn[:, *part][:, usable[part]]
        expected[:, row, col] = np.rint(around.mean(1, dtype=np.float64)) if around.size else (700, 0)
    pixels = block_of_pixels(dn, np.ones_like(usable), usable)
    assert np.array_equal(filled(pixels, step_px=8, far_dn=(700.2, -3.0)), expected)
    assert np.array_equal(pixels.dn.values, dn)  # what was read is left as it is


def test_a_gap_that_a_block_sees_is_filled_alike_in_every_block():
    """Whatever the block, what lies within ``CONTEXT_PX`` of it holds what a block of the whole scene has."""
    rng = np.random.default_rng(5)
    dn = rng.integers(1, 9000, (1, 480, 640)).astype(np.uint16)
    usable = rng.random(dn.shape[1:]) < 0.7
    for _ in range(6):  # clouds, some of them wider than a square
        row, col, size = rng.integers(0, 480), rng.integers(0, 640), rng.integers(20, 200)
        usable[row : row + size, col : col + size] = False

    def fill(rows, cols):
        part = block_of_pixels(dn[:, rows, cols], np.ones_like(usable[rows, cols]), usable[rows, cols])
        return filled(part, step_px=8, far_dn=(700.0,))

    whole = fill(slice(None), slice(None))
    for _ in range(40):
        at = [
            [
                axis_context((own, own + 40), data_px=(0, size), step_px=8, origin_px=0, context_px=context)
                for context in (READ_PX, CONTEXT_PX)
            ]
            for own, size in ((int(rng.integers(0, 440)), 480), (int(rng.integers(0, 600)), 640))
        ]
        (rows, seen_rows), (cols, seen_cols) = ((slice(*read), slice(*seen)) for read, seen in at)
        got = fill(rows, cols)
        inner = np.s_[
            :,
            seen_rows.start - rows.start : seen_rows.stop - rows.start,
            seen_cols.start - cols.start : seen_cols.stop - cols.start,
        ]
        assert np.array_equal(got[inner], whole[:, seen_rows, seen_cols])


@pytest.mark.parametrize("corner", [(0, 0), (91, 635), (43, 301), (2, 320), (90, 3)])
def test_one_small_gap_wherever_it_lies_holds_the_mean_around_it(corner):
    rng = np.random.default_rng(6)
    dn = rng.integers(1, 9000, (1, 96, 640)).astype(np.uint16)
    usable = np.ones((96, 640), bool)
    usable[tuple(slice(start, start + 5) for start in corner)] = False
    expected = dn.copy()
    for row, col in np.argwhere(~usable):
        part = tuple(slice(max(at // 8 - 4, 0) * 8, (at // 8 + 5) * 8) for at in (row, col))
        expected[0, row, col] = np.rint(dn[0][part][usable[part]].mean(dtype=np.float64))
    pixels = block_of_pixels(dn, np.ones_like(usable), usable)
    assert np.array_equal(filled(pixels, step_px=8, far_dn=(5.0,)), expected)


def test_what_has_no_gaps_or_nothing_else_is_not_copied():
    dn = np.ones((1, 16, 24), np.uint16)
    for usable in (np.ones((16, 24), bool), np.zeros((16, 24), bool)):
        pixels = block_of_pixels(dn, usable, usable)
        assert np.shares_memory(filled(pixels, step_px=8, far_dn=(5.0,)), dn)
