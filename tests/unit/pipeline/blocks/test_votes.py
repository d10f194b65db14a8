"""Oracle: each window's votes added cell by cell."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from landuse.pipeline.blocks.votes import (
    block_rasters,
    class_raster,
    confidence_raster,
    count_in_cells,
    count_pixels,
    probability_rasters,
    settle_pixels,
    status_raster,
    two_best,
)
from landuse.pipeline.cells import CellScores, CellStatus
from tests.pixels import block_of_pixels


def test_shares_are_coded_in_steps_and_status_says_why():
    """Oracle: each of the 16 ways a cell can be, one by one."""
    ways = np.array(list(itertools.product([False, True], repeat=4)), np.bool_)
    inside, mapped, clouded, failed = (ways[:, i].reshape(2, 8) for i in range(4))
    mapped = mapped & inside  # as ``settle`` has it
    probabilities = np.where(mapped, np.linspace(0, 1, 16).reshape(2, 8), 0).astype(np.float32)
    scores = CellScores(
        cover=np.zeros((0, 2, 8), np.float32),
        doubt=np.zeros((0, 2, 8), np.float32),
        probabilities=np.stack([probabilities, np.where(mapped, 1 - probabilities, 0)]),
        mapped=mapped,
        observed=clouded,
        clouded=clouded,
        failed=failed & ~mapped,
    )
    stored, confidence, classes = probability_rasters(scores), confidence_raster(scores), class_raster(scores)
    status = status_raster(scores, inside)
    for cell in np.ndindex(2, 8):
        if mapped[cell]:
            assert status[cell] == CellStatus.CLASSIFIED
            share = probabilities[cell]
            assert abs(stored[(0, *cell)] / 250 - share) <= 0.5 / 250 + 1e-6
            assert confidence[cell] == max(stored[(0, *cell)], stored[(1, *cell)])
            assert classes[cell] == (0 if share >= 0.5 else 1)
            continue
        assert stored[(0, *cell)] == confidence[cell] == classes[cell] == 255
        if not inside[cell]:
            assert status[cell] == CellStatus.OUTSIDE
        elif failed[cell]:
            assert status[cell] == CellStatus.FAILED
        else:
            assert status[cell] == (CellStatus.CLOUDY if clouded[cell] else CellStatus.UNSEEN)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 20), ties=st.booleans())
def test_the_two_best_of_each_cell(seed, classes, ties):
    """Oracle: a stable sort."""
    rng = np.random.default_rng(seed)
    shares = rng.random((classes, 7, 11)).astype(np.float32)
    if ties:
        shares = np.rint(shares * 4).astype(np.float32) / 4
    order = np.argsort(-shares, axis=0, kind="stable")[:2]
    ids, values = two_best(shares)
    assert np.array_equal(ids, order)
    assert np.array_equal(values, np.take_along_axis(shares, order, 0))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), side=st.sampled_from([1, 2, 3]))
def test_cells_of_pixels_one_by_one(seed, side):
    """Oracle: a loop over cells and their pixels."""
    rng = np.random.default_rng(seed)
    rows, cols = 4, 5
    usable = rng.random((rows * side, cols * side)) < 0.6
    observed = usable | (rng.random(usable.shape) < 0.5)
    inside_px = rng.random(usable.shape) < 0.8
    lost = rng.random(usable.shape) < 0.3
    landuse = rng.dirichlet(np.ones(3), usable.shape).transpose(2, 0, 1).astype(np.float32)
    cover = rng.dirichlet(np.ones(2), usable.shape).transpose(2, 0, 1).astype(np.float32)
    doubt = rng.random((1, *usable.shape)).astype(np.float32)
    pixels = block_of_pixels(np.ones((1, *usable.shape), np.uint16), observed, usable)
    inside = count_in_cells(inside_px, side) > 0
    scores = settle_pixels(
        landuse, cover, doubt, pixels, cell_px=side, inside=inside, lost=count_in_cells(lost, side) > 0
    )
    rasters = block_rasters(scores, inside, probabilities=True)
    counts = count_pixels(rasters, inside_px, observed, lost, classes=3, covers=2, cell_px=side)
    of_class, of_status = np.zeros(3, int), np.zeros(len(CellStatus), int)
    for row, col in np.ndindex(rows, cols):
        at = np.s_[row * side : (row + 1) * side, col * side : (col + 1) * side]
        good, seen = usable[at], observed[at]
        mapped = inside_px[at].any() and good.any() and 2 * good.sum() >= seen.sum()
        if mapped:
            mean = landuse[:, *at][:, good].mean(1, dtype=np.float64)
            np.testing.assert_allclose(rasters.probabilities[:, row, col], mean * 250, atol=0.51)
            best = np.argsort(-mean, kind="stable")
            assert (rasters.classes[row, col], rasters.second[0, row, col]) == tuple(best[:2])
            assert abs(rasters.doubt[0, row, col] / 250 - doubt[0][at][good].mean()) < 0.51 / 250
            assert rasters.cover[0, row, col] == cover[:, *at][:, good].mean(1, dtype=np.float64).argmax()
            status = CellStatus.CLASSIFIED
        else:
            assert rasters.classes[row, col] == rasters.confidence[row, col] == 255
            assert (rasters.second[:, row, col] == 255).all()
            assert rasters.cover[0, row, col] == rasters.doubt[0, row, col] == 255
            status = CellStatus.CLOUDY if good.sum() < seen.sum() else CellStatus.UNSEEN
            status = CellStatus.FAILED if lost[at].any() else status
            status = status if inside_px[at].any() else CellStatus.OUTSIDE
        assert rasters.status[row, col] == status
        for y, x in np.ndindex(side, side):
            if not inside_px[at][y, x]:
                continue
            if seen[y, x]:
                of_status[status] += 1
                if mapped:
                    of_class[rasters.classes[row, col]] += 1
            else:
                of_status[CellStatus.FAILED if lost[at][y, x] else CellStatus.UNSEEN] += 1
    assert counts.of_class.tolist() == of_class.tolist()
    assert counts.of_status.tolist() == of_status.tolist()
    assert counts.of_cover.sum() == of_class.sum()
