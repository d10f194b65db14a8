"""Windows of the benchmark beside peers. Oracle: where each pixel of the raster came from."""

import numpy as np
import pytest

from tests.benchmarks.peers_worker import MARGIN_PX, keep, starts


@pytest.mark.parametrize(
    ("height", "width", "window"), [(512, 768, 456), (2048, 2048, 1024), (300, 500, 512)]
)
def test_each_pixel_is_kept_of_a_window_that_sees_what_is_around_it(height, width, window):
    rows, cols = np.full((2, height, width), -1, np.int32)
    for row in starts(height, window):
        for col in starts(width, window):
            seen = np.s_[row : min(row + window, height), col : min(col + window, width)]
            shape = rows[seen].shape
            keep(rows, np.full(shape, row), row, col)
            keep(cols, np.full(shape, col), row, col)
    for origin, length, axis in ((rows, height, 0), (cols, width, 1)):
        place = np.arange(length).reshape((-1, 1) if axis == 0 else (1, -1))
        before, after = place - origin, np.minimum(origin + window, length) - 1 - place
        assert (origin >= 0).all()
        assert ((before >= MARGIN_PX) | (origin == 0)).all()
        assert ((after >= MARGIN_PX) | (origin + window >= length)).all()


def test_a_window_that_reaches_beyond_the_raster_is_cut_off():
    classes = np.zeros((100, 100), np.uint8)
    keep(classes, np.ones((160, 160), np.uint8), 0, 0)
    assert classes.all()
