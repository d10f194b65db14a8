"""Intervals. Oracles: scipy's binomial tests; roots of the score equations found anew; how often an interval
holds the truth when samples are drawn from known maps."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binomtest

from landuse.pipeline.maps.estimators import ErrorMatrix, estimate
from landuse.pipeline.maps.intervals import Z_95, paired_difference, share_of_sum, weighted_sum, wilson
from tests.unit.pipeline.maps.test_estimators import PAPER


@pytest.mark.parametrize(
    ("right", "points"), [(0, 5), (5, 5), (1, 30), (29, 30), (17, 40), (0, 1), (400, 500)]
)
def test_wilson_is_scipys(right, points):
    low, high = wilson(np.array(right / points), np.array(float(points)))
    expected = binomtest(right, points).proportion_ci(0.95, method="wilson")
    assert (float(low), float(high)) == pytest.approx(tuple(expected), abs=5e-5)  # 1.96 for 1.959964


def test_a_sum_of_one_stratum_is_its_own_interval_and_of_many_close_to_the_normal_one():
    shares, points = np.array([0.1]), np.array([20.0])
    ends = wilson(shares, points)
    total, low, high = weighted_sum(np.array([1.0]), shares, ends)
    assert (total, low, high) == pytest.approx((0.1, float(ends[0][0]), float(ends[1][0])))
    weights, shares, points = np.array([0.3, 0.5, 0.2]), np.array([0.4, 0.6, 0.5]), np.full(3, 4000.0)
    total, low, high = weighted_sum(weights, shares, wilson(shares, points))
    error = np.sqrt((weights**2 * shares * (1 - shares) / points).sum())
    assert (total - low, high - total) == pytest.approx((Z_95 * error, Z_95 * error), rel=5e-3)


def test_ends_of_a_ratio_are_where_the_interval_of_the_difference_reaches_zero():
    rng = np.random.default_rng(3)
    for _ in range(200):
        a, b = rng.uniform(0.01, 1, 2)
        a_low, b_low = a * rng.uniform(0, 1), b * rng.uniform(0, 1)
        a_high, b_high = a + rng.uniform(0, 1), b + rng.uniform(0, 1)

        def difference(share, *, upper, a=a, b=b, ends=(a_low, a_high, b_low, b_high)):
            """The end of the interval of (1 - share) a - share b, which is 0 at the share itself."""
            a_off = ends[1] - a if upper else a - ends[0]
            b_off = b - ends[2] if upper else ends[3] - b
            middle = (1 - share) * a - share * b
            off = np.hypot((1 - share) * a_off, share * b_off)
            return middle + off if upper else middle - off

        low, high = share_of_sum((a, a_low, a_high), (b, b_low, b_high))
        share = a / (a + b)
        assert low == pytest.approx(brentq(lambda s, d=difference: d(s, upper=False), 0, share), abs=1e-9)
        assert high == pytest.approx(brentq(lambda s, d=difference: d(s, upper=True), share, 1), abs=1e-9)


def test_a_ratio_of_which_nothing_or_everything_was_seen():
    low, high = share_of_sum((0.0, 0.0, 0.05), (0.2, 0.1, 0.3))
    assert low == 0
    assert 0.1 < high < 0.4
    low, high = share_of_sum((0.2, 0.1, 0.3), (0.0, 0.0, 0.05))
    assert high == 1
    assert 0.6 < low < 0.9


@pytest.mark.parametrize("other", [(0.2, 0.2, 0.2), (0.2, 0.0, 0.4)])
def test_what_is_nothing_for_certain_leaves_no_doubt(other):
    assert share_of_sum(other, (0.0, 0.0, 0.0)) == (1, 1)
    assert share_of_sum((0.0, 0.0, 0.0), other) == (0, 0)


def score(only_first, only_second, points, delta):
    """The score statistic of a difference, its likelihood maximised by search."""
    both = points - only_first - only_second

    def minus_log_likelihood(q):
        parts = ((only_first, q + delta), (only_second, q), (both, 1 - 2 * q - delta))
        return -sum(n * np.log(max(p, 1e-300)) for n, p in parts if n)

    bounds = (max(0, -delta), (1 - delta) / 2)
    q = minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (only_first - only_second - points * delta) / np.sqrt(points * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize(
    "case", [(0, 1, 44), (5, 2, 40), (1, 12, 60), (0, 9, 25), (20, 3, 30), (150, 86, 1600)]
)
def test_tangos_interval_is_where_the_score_is_1_96(case):
    low, high = paired_difference(*case)
    assert -1 <= low <= (case[0] - case[1]) / case[2] <= high <= 1
    for end, sign in ((low, 1), (high, -1)):
        assert score(*case, end) == pytest.approx(sign * Z_95, abs=2e-3)
    mirrored = paired_difference(case[1], case[0], case[2])
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)


def test_tangos_interval_at_its_ends():
    """Where no point tells the two apart the interval is +- z^2 / (n + z^2), and never empty."""
    low, high = paired_difference(0, 0, 50)
    assert (low, high) == pytest.approx((-(Z_95**2) / (50 + Z_95**2), Z_95**2 / (50 + Z_95**2)), abs=1e-9)
    assert paired_difference(30, 0, 30) == pytest.approx((1 - 2 * Z_95**2 / (30 + Z_95**2), 1), abs=0.05)
    # Agresti (2013), Categorical Data Analysis, table 11.1: approval fell by 0.04, Wald (-0.0587, -0.0213).
    assert paired_difference(86, 150, 1600) == pytest.approx((-0.0587, -0.0213), abs=5e-4)


def test_intervals_of_the_papers_example_are_close_to_its_own():
    """They agree where every stratum shows errors, and are wider where a large one shows one or none."""
    found = estimate(PAPER)
    for entry in (found.overall, *found.users, *found.area_shares[2:]):
        assert entry.low < entry.value < entry.high
        assert (entry.high - entry.low) / (2 * entry.margin_95) == pytest.approx(1, abs=0.07)
    gain = found.area_shares[1]  # one point of 325 in 64.5 % of the map
    assert gain.high - gain.value > 2 * gain.margin_95 > 2 * (gain.value - gain.low)
    assert found.area_shares[0].times(100).high == pytest.approx(100 * found.area_shares[0].high)
    # The normal interval of this producer's accuracy reaches beyond 1.
    assert found.producers[1].value + found.producers[1].margin_95 > 1 > found.producers[1].high


def test_an_error_free_stratum_is_not_taken_for_perfect():
    matrix = ErrorMatrix(
        classes=("a", "b"), mapped_cells=np.array([9000, 1000]), counts=np.array([[30, 0], [0, 20]])
    )
    found = estimate(matrix)
    assert found.overall.standard_error == 0
    assert found.overall.low == pytest.approx(0.895, abs=0.005)
    assert found.overall.high == 1
    assert found.users[0].low == pytest.approx(binomtest(30, 30).proportion_ci(method="wilson").low, abs=1e-4)
    assert (found.producers[1].low, found.producers[1].high) == (pytest.approx(0.45, abs=0.12), 1)
    complete = ErrorMatrix(
        classes=("a", "b"), mapped_cells=np.array([30, 20]), counts=np.array([[30, 0], [5, 15]])
    )
    known = estimate(complete).overall
    assert (known.low, known.value, known.high) == pytest.approx((0.9, 0.9, 0.9))


def coverage(shares, cells, points, draws, seed):
    """How often intervals, by MOVER and normal ones, hold the overall accuracy and the last class's area."""
    rng = np.random.default_rng(seed)
    weights = cells / cells.sum()
    truth = ((weights * np.diag(shares)).sum(), (weights * shares[:, -1]).sum())
    held = np.zeros((2, 2))
    for _ in range(draws):
        counts = np.stack([rng.multinomial(n, row) for n, row in zip(points, shares, strict=True)])
        found = estimate(ErrorMatrix(classes=tuple("abc"), mapped_cells=cells, counts=counts))
        for i, entry in enumerate((found.overall, found.area_shares[2])):
            held[i, 0] += entry.low <= truth[i] <= entry.high
            held[i, 1] += abs(entry.value - truth[i]) <= entry.margin_95
    return held / draws


def test_intervals_hold_the_truth_as_often_as_they_say():
    """A hundred points in three strata, few errors: the normal interval misses far too often."""
    shares = np.array([[0.97, 0.02, 0.01], [0.03, 0.96, 0.01], [0.06, 0.02, 0.92]])
    held = coverage(shares, np.array([60_000, 35_000, 5_000]), (40, 35, 25), draws=600, seed=2)
    assert held[:, 0].min() > 0.91
    assert held[1, 1] < 0.6
