"""The benchmark of a device runs on the CPU, on small sizes. Oracle: what its own terms say of each other."""

import numpy as np
import pytest
import torch

from landuse.model.predict_pixels import PixelPredictor
from tests.benchmarks.dense_loop import LOOP_NAME, NETWORK_NAME, table
from tests.benchmarks.device import BANDS, idle_share, speed_of, training_speed
from tests.workflows.pixel_models import save_pixel_model


def test_speed_and_equality_of_the_cpu(tmp_path):
    model = str(save_pixel_model(tmp_path / "pixel.safetensors"))
    dn = np.random.default_rng(0).integers(300, 3000, (len(BANDS), 64, 64)).astype(np.uint16)
    expected = PixelPredictor.load(model, "cpu").pixel_scores(dn, BANDS, "L2A").landuse.argmax(0)
    speed = speed_of(model, "cpu", "fp32", dn, expected)
    assert speed.equal == 1
    assert 0 < speed.scores < speed.network * 1.5
    assert 0 < speed.roofline < 2
    assert speed_of(model, "cpu", "fp32", dn, (expected + 1) % 14).equal == 0


def test_training_speed_counts_images():
    assert training_speed(torch.device("cpu"), 2) > 0


def test_idle_is_what_the_network_does_not_need():
    assert idle_share(10, 10, 2) == pytest.approx(0.5)
    assert idle_share(10, 4, 2) == 0


def test_the_tables_ratio_is_the_median_of_those_in_a_round():
    def took(wall):
        return {"wall_s": wall, "cpu_s": wall / 2, "peak_gb": 1.0}

    rounds = [
        {"all files": took(own), NETWORK_NAME: took(1), LOOP_NAME: took(other)}
        for own, other in ((1, 3), (2, 4), (8, 8))
    ]
    lines = table(rounds).splitlines()
    told = [" ".join(line.split()) for line in lines]
    assert told[1] == "all files 2.0 1.0 1.00"
    assert told[5] == "the loop to all files 2.00 (1.00 to 3.00); 2.00 (1.00 to 3.00)"
    assert told[6] == "all files to the network alone 2.00 (1.00 to 8.00); 2.00 (1.00 to 8.00)"
