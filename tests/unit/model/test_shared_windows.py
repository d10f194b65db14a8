"""Oracle: each window cut out and computed alone, by a network whose features know no neighbours."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landuse.errors import ModelError
from landuse.model.checkpoint import save_checkpoint
from landuse.model.networks import PatchNetwork, baseline, build_network
from landuse.model.predict import Predictor, cell_weights
from landuse.model.shared_windows import window_logits


class Pooled(PatchNetwork):
    """Means of 8 x 8 px and a linear head: a window's features are the same whatever lies around it."""

    position_px = 8

    def __init__(self, bands=3, classes=4):
        super().__init__()
        self.head = nn.Conv2d(bands, classes, 1)

    def features(self, x, window=None):
        return F.avg_pool2d(x, 8)

    def evidence(self, features):
        return self.head(features)


@settings(deadline=None, max_examples=30)
@given(
    row_starts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    col_starts=st.lists(st.integers(0, 37), min_size=1, max_size=4),
    cells=st.sampled_from([1, 4, 8, 32]),
)
def test_windows_of_a_scene_score_as_they_do_cut_out(row_starts, col_starts, cells):
    network = Pooled()
    scene = torch.rand(1, 3, 124, 101, generator=torch.Generator().manual_seed(0))
    weights = torch.from_numpy(cell_weights(64, cells, 8))
    with torch.inference_mode():
        rows = dict(
            window_logits(
                lambda x: network.evidence(network.features(x)),
                scene,
                step_px=8,
                row_starts=row_starts,
                col_starts=col_starts,
                patch_px=64,
                weights=weights,
            )
        )
        assert sorted(rows) == list(range(len(row_starts)))
        for index, top in enumerate(row_starts):
            assert rows[index].shape == (4, cells, len(col_starts), cells)
            for window, left in enumerate(col_starts):
                evidence = network.evidence(network.features(scene[:, :, top : top + 64, left : left + 64]))
                alone = torch.einsum("bchw,ih,jw->bcij", evidence, weights, weights)[0]
                torch.testing.assert_close(rows[index][:, :, window], alone, rtol=1e-4, atol=1e-5)


def test_probabilities_are_the_softmax_of_window_logits_under_the_contract(checkpoint):
    """``checkpoint`` has patches of 16 px: its windows share little, but must be read right."""
    predictor = Predictor.load(str(checkpoint), "cpu")
    dn = np.random.default_rng(0).integers(1, 3000, (3, 48, 40), np.uint16)
    step = predictor.position_px
    rows = dict(
        predictor.shared_probabilities(dn, "L2A", row_starts=[0, step], col_starts=[0, step, 24], cells=2)
    )
    assert sorted(rows) == [0, 1]
    for values in rows.values():
        assert values.shape == (len(predictor.contract.classes), 2, 3, 2)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values.sum(0), 1, atol=1e-5)


def test_a_network_without_shared_features_says_what_to_do(tmp_path, contract):
    from dataclasses import replace

    network = build_network(baseline(3, len(contract.classes)))
    path = tmp_path / "baseline.safetensors"
    save_checkpoint(path, network, replace(contract, patch_size_px=64))
    dn = np.ones((3, 128, 128), np.uint16)
    with pytest.raises(ModelError, match="--engine windows"):
        list(
            Predictor.load(str(path), "cpu").shared_probabilities(
                dn, "L2A", row_starts=[0], col_starts=[0], cells=1
            )
        )
