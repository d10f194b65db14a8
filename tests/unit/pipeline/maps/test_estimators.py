"""Oracles: the worked example of Olofsson et al. (2014), its equations as slow loops, and a known truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landuse.errors import UsageError
from landuse.pipeline.maps.estimators import ErrorMatrix, estimate
from landuse.pipeline.maps.sampling import draw

PIXEL_HA = 0.09

# Table 8: rows are the map's classes.
PAPER = ErrorMatrix(
    classes=("deforestation", "forest gain", "stable forest", "stable non-forest"),
    mapped_cells=np.array([200_000, 150_000, 3_200_000, 6_450_000]),
    counts=np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]),
)


def values(estimates):
    return [entry.value for entry in estimates]


def margins(estimates):
    return [entry.margin_95 for entry in estimates]


def test_table_9_of_the_paper():
    published = [
        [0.0176, 0, 0.0013, 0.0011],
        [0, 0.0110, 0.0016, 0.0024],
        [0.0019, 0, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    np.testing.assert_allclose(estimate(PAPER).proportions, published, atol=5e-5)


def test_accuracies_of_the_paper():
    """Section 5.2.1, printed to two decimals.

    It prints 0.23 and 0.01 for the producer's accuracy of forest gain and of stable non-forest. Its own eq. 7
    gives 0.254 and 0.018, as the loops below and the R package mapaccuracy do; those are expected here.
    """
    found = estimate(PAPER)
    assert found.overall.value == pytest.approx(0.95, abs=0.005)
    assert found.overall.margin_95 == pytest.approx(0.02, abs=0.005)
    np.testing.assert_allclose(values(found.users), [0.88, 0.73, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(margins(found.users), [0.07, 0.10, 0.04, 0.02], atol=0.005)
    np.testing.assert_allclose(values(found.producers), [0.75, 0.85, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(margins(found.producers), [0.21, 0.254, 0.03, 0.018], atol=0.005)


def test_areas_of_the_paper():
    """Section 5.2.2, printed to the pixel and to the hectare."""
    shares = estimate(PAPER).area_shares
    pixels = shares[0].times(10_000_000)
    assert (round(pixels.value), round(pixels.margin_95)) == (235_086, 68_418)
    areas = [share.times(10_000_000 * PIXEL_HA) for share in shares]
    assert [round(value) for value in values(areas)] == [21_158, 11_686, 285_770, 581_386]
    assert [round(value) for value in margins(areas)] == [6_158, 3_756, 15_510, 16_282]


def by_loops(cells, counts):
    """The paper's equations as they are printed: overall, user's, producer's, areas; (value, variance)."""
    q, total = len(cells), sum(cells)
    n = [sum(row) for row in counts]
    p = [[cells[i] / total * counts[i][j] / n[i] for j in range(q)] for i in range(q)]
    user = [p[i][i] / sum(p[i]) for i in range(q)]
    user_variance = [user[i] * (1 - user[i]) / (n[i] - 1) for i in range(q)]
    overall = sum(p[i][i] for i in range(q))
    overall_variance = sum((cells[i] / total) ** 2 * user_variance[i] for i in range(q))
    producers, areas = [], []
    for j in range(q):
        area = sum(p[i][j] for i in range(q))
        # Eq. 10 in its second form.
        areas.append((area, sum((cells[i] / total * p[i][j] - p[i][j] ** 2) / (n[i] - 1) for i in range(q))))
        if area == 0:
            producers.append(None)
            continue
        producer = p[j][j] / area
        pixels = sum(cells[i] / n[i] * counts[i][j] for i in range(q))
        own = cells[j] ** 2 * (1 - producer) ** 2 * user_variance[j]
        others = 0.0
        for i in range(q):
            if i != j:
                share = counts[i][j] / n[i]
                others += cells[i] ** 2 * share * (1 - share) / (n[i] - 1)
        producers.append((producer, (own + producer**2 * others) / pixels**2))
    return (overall, overall_variance), list(zip(user, user_variance, strict=True)), producers, areas


@st.composite
def matrices(draw_):
    size = draw_(st.integers(2, 5))
    counts = [
        draw_(st.lists(st.integers(0, 40), min_size=size, max_size=size).filter(lambda row: sum(row) >= 2))
        for _ in range(size)
    ]
    spare = draw_(st.lists(st.integers(1, 10**7), min_size=size, max_size=size))
    cells = [sum(row) + more for row, more in zip(counts, spare, strict=True)]
    return cells, counts


def as_matrix(cells, counts):
    names = tuple(f"class {i}" for i in range(len(cells)))
    return ErrorMatrix(classes=names, mapped_cells=np.array(cells), counts=np.array(counts))


@given(matrices())
def test_estimates_are_those_of_slow_loops(case):
    found = estimate(as_matrix(*case))
    overall, users, producers, areas = by_loops(*case)
    pairs = [(found.overall, overall), *zip(found.users, users, strict=True)]
    pairs += [*zip(found.producers, producers, strict=True), *zip(found.area_shares, areas, strict=True)]
    for ours, theirs in pairs:
        if theirs is None:
            assert ours is None
            continue
        assert ours.value == pytest.approx(theirs[0], rel=1e-9, abs=1e-12)
        assert ours.standard_error**2 == pytest.approx(theirs[1], rel=1e-6, abs=1e-12)


@given(matrices())
def test_shares_sum_to_one_and_a_perfect_sample_confirms_the_map(case):
    cells, counts = case
    found = estimate(as_matrix(cells, counts))
    assert found.proportions.sum() == pytest.approx(1)
    assert sum(values(found.area_shares)) == pytest.approx(1)
    np.testing.assert_allclose(found.proportions.sum(1), np.array(cells) / sum(cells))
    perfect = estimate(as_matrix(cells, np.diag(np.sum(counts, 1))))
    np.testing.assert_allclose(values(perfect.area_shares), np.array(cells) / sum(cells))
    assert values([perfect.overall, *perfect.users, *perfect.producers]) == pytest.approx(
        [1] * (2 * len(cells) + 1)
    )
    assert margins(perfect.area_shares) == [0] * len(cells)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """A map of 40,000 cells with known errors, sampled 400 times as `landuse sample` does."""
    rng = np.random.default_rng(3)
    cells = np.array([3_000, 12_000, 25_000])
    chances = [[0.80, 0.15, 0.05], [0.06, 0.86, 0.08], [0.02, 0.06, 0.92]]
    truth = [rng.choice(3, size=n, p=row) for n, row in zip(cells, chances, strict=True)]
    true_cells = np.array([np.bincount(row, minlength=3) for row in truth])  # (mapped, reference)
    true_areas = true_cells.sum(0) / cells.sum()
    expected = [np.trace(true_cells) / cells.sum(), *true_areas, *np.diag(true_cells) / cells]
    expected += [*np.diag(true_cells) / true_cells.sum(0)]
    found = []
    for seed in range(400):
        chosen = draw(cells, np.array([100, 150, 250]), seed)
        counts = [np.bincount(row[at], minlength=3) for row, at in zip(truth, chosen, strict=True)]
        told = estimate(as_matrix(cells, counts))
        found.append([told.overall, *told.area_shares, *told.users, *told.producers])
    for index, value in enumerate(expected):
        estimates = [row[index] for row in found]
        covered = np.mean([abs(entry.value - value) <= entry.margin_95 for entry in estimates])
        assert 0.92 <= covered <= 0.98  # 0.95 +- 2.8 standard errors of 400 trials
        # Unbiased: the mean is off by no more than chance.
        spread = np.std(values(estimates))
        assert abs(np.mean(values(estimates)) - value) < 4 * spread / np.sqrt(len(found))
        assert np.mean([entry.standard_error for entry in estimates]) == pytest.approx(spread, rel=0.12)


def test_a_class_that_is_never_mapped_has_an_area():
    """Row sums by hand: 10 % of 900 cells and 20 % of 100 are the third class."""
    found = estimate(as_matrix([900, 100, 0], [[17, 1, 2], [1, 3, 1], [0, 0, 0]]))
    assert found.area_shares[2].value == pytest.approx(0.9 * 0.1 + 0.1 * 0.2)
    assert found.area_shares[2].standard_error > 0
    assert found.users[2] is None
    assert (found.producers[2].value, found.producers[2].standard_error) == (0, 0)


def test_a_class_that_is_nowhere_has_no_accuracy():
    found = estimate(as_matrix([900, 100, 0], [[18, 2, 0], [1, 4, 0], [0, 0, 0]]))
    assert (found.users[2], found.producers[2], found.area_shares[2].value) == (None, None, 0)


def test_a_class_that_is_labelled_whole_adds_no_variance():
    one = estimate(as_matrix([500, 1], [[20, 0], [0, 1]]))
    assert (one.overall.value, one.overall.standard_error) == (1, 0)
    census = estimate(as_matrix([6, 3], [[5, 1], [1, 2]]))
    assert values(census.area_shares) == pytest.approx([6 / 9, 3 / 9])
    assert margins([census.overall, *census.area_shares, *census.users, *census.producers]) == [0] * 7


@pytest.mark.parametrize(("lone", "told"), [([0, 0], "0 of 100 cells"), ([0, 1], "1 of 100 cells")])
def test_a_mapped_class_with_too_few_points_is_named(lone, told):
    with pytest.raises(UsageError, match=rf"class 1 \({told}, 10\.00% of all\)"):
        estimate(as_matrix([900, 100], [[20, 1], lone]))


def test_what_does_not_belong_together_is_no_matrix():
    with pytest.raises(ValueError, match="do not belong together"):
        as_matrix([1, 2, 3], [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="more points"):
        as_matrix([2, 9], [[2, 1], [1, 1]])
