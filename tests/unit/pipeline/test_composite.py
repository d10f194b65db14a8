"""Cloud masks and composites against a loop over pixels."""

import numpy as np
import pytest

from landuse.pipeline.composite import clear_of_clouds, composite
from landuse.records import PixelBlock


def test_scl_values_that_are_not_mapped():
    scl = np.arange(12, dtype=np.uint8)[None]
    assert np.nonzero(clear_of_clouds(scl)[0])[0].tolist() == [2, 4, 5, 6, 7]


@pytest.mark.parametrize("method", ["best", "median"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_composites_equal_a_loop(method, count):
    rng = np.random.default_rng(count)
    layers = []
    for _ in range(count):
        observed = rng.random((9, 7)) < 0.7
        dn = rng.integers(1, 60_000, (2, 9, 7)).astype(np.uint16)
        dn[:, ~observed] = 0
        layers.append(PixelBlock(dn=dn, observed=observed, usable=observed & (rng.random((9, 7)) < 0.6)))
    made = composite(layers, method)
    for row in range(9):
        for col in range(7):
            usable = [layer for layer in layers if layer.usable[row, col]]
            observed = [layer for layer in layers if layer.observed[row, col]]
            assert made.usable[row, col] == bool(usable)
            assert made.observed[row, col] == bool(observed)
            for band in range(2):
                values = [int(layer.dn[band, row, col]) for layer in usable]
                if values:
                    expected = values[0] if method == "best" else np.rint(np.median(values))
                else:
                    expected = observed[0].dn[band, row, col] if observed else 0
                assert made.dn[band, row, col] == expected
