"""Oracle: scipy's labels of the whole mask."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from landuse.pipeline.maps.small_patches import small_patches


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 20)),
    rows=st.integers(1, 12),
    share=st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]),
    least=st.integers(1, 12),
)
def test_patches_are_small_however_the_mask_is_cut(seed, shape, rows, share, least):
    mask = np.random.default_rng(seed).random(shape) < share
    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = least
    found = list(small_patches(lambda: (mask[row : row + rows] for row in range(0, len(mask), rows)), least))
    assert [len(strip) for strip in found] == [
        len(mask[row : row + rows]) for row in range(0, len(mask), rows)
    ]
    assert np.array_equal(np.concatenate(found), sizes[parts] < least)
