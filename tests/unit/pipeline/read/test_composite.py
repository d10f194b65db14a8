"""Composites against a loop over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landuse.pipeline.read.composite import composite
from tests.pixels import block_of_pixels


def random_layers(seed, count, top_dn, rows=9, cols=7):
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(count):
        observed = rng.random((rows, cols)) < 0.7
        dn = rng.integers(1, top_dn, (2, rows, cols), endpoint=True).astype(np.uint16)
        dn[:, ~observed] = 0
        usable = observed & (rng.random((rows, cols)) < 0.6)
        layers.append(block_of_pixels(dn=dn, observed=observed, usable=usable))
    return layers


@given(
    seed=st.integers(0, 1 << 30),
    days=st.lists(
        st.sampled_from(["2024-06-01", "2024-06-04", "2024-06-06", "2024-06-09"]), min_size=1, max_size=7
    ),
    grouped=st.booleans(),
    method=st.sampled_from(["best", "median", "medoid"]),
    top_dn=st.sampled_from([3, 12_000, 65_535]),
)
def test_composites_equal_a_loop(seed, days, grouped, method, top_dn):
    layers = random_layers(seed, len(days), top_dn)
    result = composite(layers, method, days) if grouped else composite(layers, method)
    made, made_usable, made_observed = result.dn.values, result.usable.values, result.observed.values
    dn = [layer.dn.values for layer in layers]
    is_usable, is_observed = (
        np.stack([layer[name].values for layer in layers]) for name in ("usable", "observed")
    )
    for row in range(9):
        for col in range(7):
            usable = np.flatnonzero(is_usable[:, row, col]).tolist()
            observed = np.flatnonzero(is_observed[:, row, col]).tolist()
            assert made_usable[row, col] == bool(usable)
            assert made_observed[row, col] == bool(observed)
            first_of_day = {}
            for index in usable:
                first_of_day.setdefault(days[index] if grouped else index, index)
            if method == "medoid" and first_of_day:
                preferred = dict.fromkeys(days if grouped else range(len(days)))
                in_order = [first_of_day[day] for day in preferred if day in first_of_day]
                spectra = np.array([dn[index][:, row, col] for index in in_order], float)
                away = np.square(spectra - np.median(spectra, axis=0)).sum(1)
                assert made[:, row, col].tolist() == spectra[away.argmin()].tolist()
                continue
            for band in range(2):
                values = [int(dn[index][band, row, col]) for index in first_of_day.values()]
                if values:
                    expected = values[0] if method == "best" else np.rint(np.median(values))
                else:
                    expected = dn[observed[0]][band, row, col] if observed else 0
                assert made[band, row, col] == expected


def test_an_overlap_of_two_tiles_counts_once():
    layers = [
        block_of_pixels(
            dn=np.full((1, 1, 1), dn, np.uint16), observed=np.ones((1, 1), bool), usable=np.ones((1, 1), bool)
        )
        for dn in (900, 910, 300, 200)
    ]
    assert composite(layers, "median").dn.item() == 600
    assert composite(layers, "median", ["a", "a", "b", "c"]).dn.item() == 300


def test_layers_stay_as_they_are():
    layers = random_layers(0, 4, 12_000)
    before = [layer.dn.values.copy() for layer in layers]
    composite(layers, "median", [1, 1, 2, 3])
    for layer, dn in zip(layers, before, strict=True):
        np.testing.assert_array_equal(layer.dn.values, dn)


def test_one_group_for_each_layer():
    with pytest.raises(ValueError, match="3 layers, but 2 groups"):
        composite(random_layers(0, 3, 100), "median", ["a", "b"])


def test_a_medoid_is_a_spectrum_that_was_seen_and_a_median_need_not_be():
    spectra = [(100, 900), (200, 100), (800, 300)]
    layers = [
        block_of_pixels(
            dn=np.array(spectrum, np.uint16)[:, None, None],
            observed=np.ones((1, 1), bool),
            usable=np.ones((1, 1), bool),
        )
        for spectrum in spectra
    ]
    assert composite(layers, "median").dn.values.ravel().tolist() == [200, 300]
    assert composite(layers, "medoid").dn.values.ravel().tolist() == [200, 100]
    # Of two days both are equally far from what lies between them: the preferred one is taken.
    assert composite(layers[1:], "medoid").dn.values.ravel().tolist() == [200, 100]


@pytest.mark.parametrize("method", ["median", "medoid"])
def test_strips_change_nothing(monkeypatch, method):
    layers = random_layers(3, 5, 12_000, rows=20, cols=11)
    whole = composite(layers, method)
    monkeypatch.setattr("landuse.pipeline.read.composite._STRIP_PIXELS", 33)
    assert composite(layers, method).identical(whole)
