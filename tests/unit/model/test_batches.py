"""Oracle: machines whose speed at each batch size is written down."""

import numpy as np
import pytest
import torch

from landuse.model.batches import SIZES, fastest_size
from landuse.model.predict import Predictor


class Machine:
    """Runs batches at the given patches a second, by a clock of its own."""

    def __init__(self, pace, limit=None):
        self.pace, self.limit, self.now, self.ran = pace, limit, 0.0, []

    def run(self, size):
        if self.limit is not None and size > self.limit:
            raise torch.OutOfMemoryError("too many")
        self.ran.append(size)
        self.now += size / self.pace[size]


@pytest.mark.parametrize(
    ("pace", "limit", "expected"),
    [
        ({16: 300, 32: 283, 64: 298, 128: 284, 256: 239}, None, 16),  # a CPU: the smallest that is as fast
        ({16: 100, 32: 190, 64: 350, 128: 600, 256: 900}, None, 256),  # an accelerator
        ({16: 100, 32: 190, 64: 350, 128: 600, 256: 900}, 64, 64),  # what fits into its memory
        ({16: 100, 32: 100.5, 64: 102, 128: 105, 256: 104}, None, 64),
    ],
)
def test_the_fastest_size_that_fits(pace, limit, expected):
    machine = Machine(pace, limit)
    assert fastest_size(machine.run, sorted(pace), lambda: machine.now) == expected


def test_hopeless_sizes_are_not_tried():
    machine = Machine({16: 300, 32: 100, 64: 1, 128: 1})
    assert fastest_size(machine.run, (16, 32, 64, 128), lambda: machine.now) == 16
    assert max(machine.ran) == 32


def test_it_is_tried_out_once_and_changes_no_score(checkpoint):
    dn = np.random.default_rng(0).integers(1, 3500, (SIZES[-1] + 5, 3, 16, 16)).astype(np.uint16)
    fixed = Predictor.load(str(checkpoint), "cpu", batch_size=64).cell_probabilities(dn, "L2A", 2)
    predictor = Predictor.load(str(checkpoint), "cpu")
    few = predictor.cell_probabilities(dn[:7], "L2A", 2)
    assert predictor.batch_size == 64  # too few to try anything on
    many = predictor.cell_probabilities(dn, "L2A", 2)
    chosen = predictor.batch_size
    assert chosen in SIZES
    np.testing.assert_allclose(many, fixed, atol=1e-6)
    np.testing.assert_allclose(few, fixed[:7], atol=1e-6)
    predictor.cell_probabilities(dn[::-1], "L2A", 2)
    assert predictor.batch_size == chosen
