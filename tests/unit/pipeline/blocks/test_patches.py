"""Windows, batches and stitching against slow, obvious loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landuse.pipeline.blocks.patches import MIN_USABLE, BlockPatches, axis_patches, patch_batches
from landuse.pipeline.blocks.votes import Blend, class_raster, confidence_raster
from landuse.pipeline.cells import Block
from tests.pixels import block_of_pixels


@settings(max_examples=300, deadline=None)
@given(
    cells=st.integers(1, 40),
    split=st.integers(0, 40),
    span=st.sampled_from([1, 2, 4, 8]),
    stride_px=st.sampled_from([1, 8, 16]),
    low=st.integers(-100, 300),
    length=st.integers(1, 700),
)
def test_windows_reach_every_cell_with_data_and_do_not_depend_on_blocks(
    cells, split, span, stride_px, low, length
):
    patch_px = span * stride_px
    high = low + length
    options = {"stride_px": stride_px, "patch_px": patch_px, "data_px": (low, high)}
    whole = axis_patches(0, cells, **options)
    split = min(split, cells)
    parts = set()
    for start, stop in ((0, split), (split, cells)):
        if start < stop:
            part = axis_patches(start, stop, **options)
            parts |= set(zip(part.cells, part.starts_px, strict=True))
    assert parts == set(zip(whole.cells, whole.starts_px, strict=True))
    for cell, start in zip(whole.cells, whole.starts_px, strict=True):
        assert low <= start
        assert start + patch_px <= max(high, low + patch_px)  # whole patches of real pixels
        assert abs(start - cell * stride_px) < stride_px  # shifted by less than a cell
    for cell in range(cells):
        has_data = cell * stride_px < high and (cell + 1) * stride_px > low
        voted = any(first <= cell < first + span for first in whole.cells)
        assert voted or not has_data


def block_of(rng, height, width, clear=0.9):
    observed = rng.random((height, width)) < 0.97
    usable = observed & (rng.random((height, width)) < clear)
    dn = rng.integers(1, 5000, (2, height, width)).astype(np.uint16)
    dn[:, ~observed] = 0
    return block_of_pixels(dn=dn, observed=observed, usable=usable)


def windows_of(rows, cols, height, width, stride_px, patch_px):
    return BlockPatches(
        rows=axis_patches(0, rows, stride_px=stride_px, patch_px=patch_px, data_px=(0, height)),
        cols=axis_patches(0, cols, stride_px=stride_px, patch_px=patch_px, data_px=(0, width)),
        rows_px=(0, rows * stride_px),
        cols_px=(0, cols * stride_px),
    )


def test_batches_hold_the_pixels_of_their_windows_with_gaps_filled_by_the_mean():
    rng = np.random.default_rng(1)
    height, width, stride, patch = 56, 88, 8, 16
    pixels = block_of(rng, height, width)
    pixels.usable.values[:20, :20] = False
    windows = windows_of(7, 11, height, width, stride, patch)
    got = {}
    for batch in patch_batches(pixels, windows, patch_px=patch, batch_size=5):
        for n in range(len(batch.dn)):
            got[int(batch.row_cells[n]), int(batch.col_cells[n])] = batch.dn[n], float(batch.usable_share[n])
    expected = {}
    for row in range(0, height - patch + 1, stride):
        for col in range(0, width - patch + 1, stride):
            mask = pixels.usable.values[row : row + patch, col : col + patch]
            if mask.mean() < MIN_USABLE:
                continue
            dn = pixels.dn.values[:, row : row + patch, col : col + patch].astype(float)
            for band in dn:
                band[~mask] = round(band[mask].mean())
            expected[row // stride, col // stride] = dn, mask.mean()
    assert 0 < len(expected) < 60
    assert got.keys() == expected.keys()
    for key, (dn, share) in expected.items():
        np.testing.assert_array_equal(got[key][0], dn)
        assert got[key][1] == pytest.approx(share)


@pytest.mark.parametrize("exclusive", [True, False])
def test_blend_equals_a_loop_over_cells(exclusive):
    rng = np.random.default_rng(2)
    stride, patch, rows, cols = 8, 32, 9, 13
    height, width = rows * stride - 3, cols * stride - 5  # imagery ends inside the last cells
    pixels = block_of(rng, rows * stride, cols * stride, clear=0.95)
    for mask in (pixels.observed.values, pixels.usable.values):
        mask[height:] = False
        mask[:, width:] = False
    windows = windows_of(rows, cols, height, width, stride, patch)
    block = Block(row_start=0, row_stop=rows, col_start=0, col_stop=cols)
    blend = Blend(block, classes=3, exclusive=exclusive)
    span = patch // stride
    sums, total = np.zeros((3, rows, cols)), np.zeros((rows, cols))
    for batch in patch_batches(pixels, windows, patch_px=patch, batch_size=4):
        scores = rng.dirichlet([1, 1, 1], (len(batch.dn), span, span)).astype(np.float32)
        scores = np.moveaxis(scores, 3, 1)  # (N, class, span, span)
        if not exclusive:  # any number of labels, or none
            scores = rng.random(scores.shape).astype(np.float32) * (rng.random((len(scores), 3, 1, 1)) < 0.5)
        blend.add(batch, scores)
        for n, score in enumerate(scores):
            for i in range(span):
                for j in range(span):
                    row, col = batch.row_cells[n] + i, batch.col_cells[n] + j
                    if 0 <= row < rows and 0 <= col < cols:
                        weight = round(float(batch.usable_share[n]) * 100)
                        sums[:, row, col] += weight * score[:, i, j]
                        total[row, col] += weight
    inside = np.ones((rows, cols), bool)
    inside[0, 0] = False
    settled = blend.settle(pixels, stride_px=stride, inside=inside, lost=~inside)
    assert settled.mapped.sum() == rows * cols - 1
    np.testing.assert_allclose(
        settled.probabilities[:, settled.mapped], (sums / total)[:, settled.mapped], atol=1e-4
    )
    if exclusive:
        np.testing.assert_allclose(settled.probabilities.sum(0)[settled.mapped], 1, atol=1e-6)
    classes, confidence = class_raster(settled), confidence_raster(settled)
    assert classes[0, 0] == 255
    assert confidence[0, 0] == 255
    np.testing.assert_array_equal(
        confidence[settled.mapped], np.rint(settled.probabilities.max(0)[settled.mapped] * 250)
    )


def test_cells_without_clear_pixels_get_no_class():
    stride, patch, rows, cols = 8, 16, 6, 6
    shape = (rows * stride, cols * stride)
    pixels = block_of_pixels(
        dn=np.full((1, *shape), 500, np.uint16), observed=np.ones(shape, bool), usable=np.ones(shape, bool)
    )
    pixels.usable.values[:8, :8] = False  # cell (0, 0): clouded
    pixels.usable.values[8:16, 8:13] = False  # cell (1, 1): 5 of 8 columns clouded
    pixels.usable.values[16:24, 16:19] = False  # cell (2, 2): 3 of 8 columns clouded
    pixels.observed.values[40:, 40:] = False  # cell (5, 5): never seen
    pixels.usable.values[40:, 40:] = False
    # A scene over the last two rows and columns could not be read; where another shows them, no harm is done.
    lost = np.zeros((rows, cols), bool)
    lost[4:, 4:] = True
    windows = windows_of(rows, cols, *shape, stride, patch)
    block = Block(row_start=0, row_stop=rows, col_start=0, col_stop=cols)
    blend = Blend(block, classes=2)
    for batch in patch_batches(pixels, windows, patch_px=patch, batch_size=64):
        blend.add(batch, np.tile(np.float32([0.25, 0.75])[:, None, None], (len(batch.dn), 1, 2, 2)))
    settled = blend.settle(
        pixels,
        stride_px=stride,
        inside=np.ones((rows, cols), bool),
        lost=lost,
    )
    unmapped = {(int(r), int(c)) for r, c in zip(*np.nonzero(~settled.mapped), strict=True)}
    assert unmapped == {(0, 0), (1, 1), (5, 5)}
    assert settled.observed[0, 0]
    assert settled.clouded[0, 0]
    assert not settled.clouded[5, 5]
    assert not settled.observed[5, 5]
    assert {(int(r), int(c)) for r, c in zip(*np.nonzero(settled.failed), strict=True)} == {(5, 5)}
    assert set(np.unique(class_raster(settled))) == {1, 255}


def pixel_block(dn, usable):
    return block_of_pixels(dn=dn, usable=usable, observed=usable)
