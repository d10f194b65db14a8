"""Oracle: each window's votes added cell by cell."""

import itertools

import numpy as np

from landuse.pipeline.blocks.votes import (
    class_raster,
    confidence_raster,
    probability_rasters,
    status_raster,
)
from landuse.pipeline.cells import CellScores, CellStatus


def test_shares_are_coded_in_steps_and_status_says_why():
    """Oracle: each of the 16 ways a cell can be, one by one."""
    ways = np.array(list(itertools.product([False, True], repeat=4)), np.bool_)
    inside, mapped, clouded, failed = (ways[:, i].reshape(2, 8) for i in range(4))
    mapped = mapped & inside  # as ``settle`` has it
    probabilities = np.where(mapped, np.linspace(0, 1, 16).reshape(2, 8), 0).astype(np.float32)
    scores = CellScores(
        cover=np.zeros((0, 2, 8), np.float32),
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
