"""What the speed of the cover benchmark is made of: the pixels, Dynamic World's input and the table."""

import math

import numpy as np
import pytest

from tests.benchmarks.cover_speed import OTHER, mirrored, table
from tests.benchmarks.cover_speed_worker import DW_BANDS, DW_LOW, DW_RANGE, dynamic_world_input


def test_dynamic_worlds_input_is_that_of_its_description():
    dn = np.full((9, 1, 2), 1000, np.uint16)
    dn[4, 0, 1] = 0
    given = dynamic_world_input(dn)
    assert given.shape == (1, 1, 2, 9)
    assert given.dtype == np.float32
    band = DW_BANDS.index("B06")
    for col, value in ((0, 1000), (1, 0)):
        x = (math.log(value * 0.005 + 1) - DW_LOW[band]) / DW_RANGE[band]
        x = math.exp(5 * x - 1)
        assert given[0, 0, col, band] == pytest.approx(x / (x + 1), rel=1e-5)


def test_a_scene_goes_on_mirrored_and_is_cut_where_it_is_larger():
    values = np.arange(6).reshape(2, 3)
    assert mirrored(values, 4).tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]]
    assert mirrored(values, 1).tolist() == [[0]]


def test_the_table_quotes_ratios_within_rounds():
    seconds = {
        OTHER: {"network": [1.0, 10.0, 1.0], "whole": [2.0, 2.0, 2.0]},
        "rgb, fp32": {"network": [0.5, 5.0, 0.5], "whole": [1.0, 2.0, 9.0]},
    }
    lines = table(seconds, 0.5).splitlines()
    assert lines[1].split() == ["Dynamic", "World", "2.00", "1.00", "4.00", "1.00", "482"]
    assert lines[2].split() == ["rgb,", "fp32", "1.00", "0.50", "4.00", "1.00", "482"]
