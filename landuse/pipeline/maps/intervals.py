"""Pure: intervals of shares that stay honest where few points are right, or all of them.

A standard error of 0 says that no error was seen, not that there is none. Wilson's score interval of a
stratum knows the difference. Sums over strata take theirs from those of the strata: how far the estimate lies
from each end is added up in squares (MOVER), so that a stratum in which no error was seen adds its share of
doubt. Of one stratum that is Wilson's interval itself.

Sources: Wilson (1927), JASA 22, 209-212; Zou and Donner (2008), Statistics in Medicine 27, 1693-1702, and
for strata Yan and Su (2010), Statistics in Biopharmaceutical Research 2, 329-335; for ratios Donner and Zou
(2012), Statistical Methods in Medical Research 21, 347-359; for pairs Tango (1998), Statistics in Medicine
17, 891-908.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ends = tuple[NDArray[np.float64], NDArray[np.float64]]

METHOD = (
    "95 % intervals by Wilson's score in each stratum, sums and ratios over strata by MOVER (Zou and Donner "
    "2008; Donner and Zou 2012)"
)

Z_95 = 1.96
"""Standard errors to either side of an estimate that make the 95 % interval of a normal distribution."""


def wilson(shares: NDArray[np.float64], points: NDArray[np.float64], z: float = Z_95) -> Ends:
    """Ends of the score interval of shares that were seen in points drawn alike.

    Args:
        shares: 0..1, of any shape.
        points: how many each is of, 0 or more, of a shape that goes with it; of none everything is possible.
        z: 1.96 for 95 %.

    Example:
        >>> low, high = wilson(np.array([0.0]), np.array([50.0]))
        >>> round(float(high[0]), 3)
        0.071
    """
    n = np.maximum(points, 1e-12)
    middle = (shares + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(shares * (1 - shares) / n + z**2 / (4 * n**2))
    # A share of 0 has 0 at its end, and rounding would leave a hair.
    low = np.where(shares <= 0, 0.0, np.clip(middle - half, 0, shares))
    high = np.where(shares >= 1, 1.0, np.clip(middle + half, shares, 1))
    return low, high


def weighted_sum(
    weights: NDArray[np.float64], values: NDArray[np.float64], ends: Ends
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A sum over strata, and the ends of its interval, by the recovery of variances (MOVER).

    Args:
        weights: (stratum,), shares of the area, 0 or more.
        values: (stratum, ...), estimates.
        ends: of their intervals, each (stratum, ...).

    Returns:
        Sum, low and high, each (...).
    """
    low, high = ends
    w = weights.reshape(-1, *[1] * (values.ndim - 1))
    total = (w * values).sum(0)
    below = np.sqrt((w**2 * (values - low) ** 2).sum(0))
    above = np.sqrt((w**2 * (high - values) ** 2).sum(0))
    return total, total - below, total + above


def share_of_sum(part: tuple[float, float, float], rest: tuple[float, float, float]) -> tuple[float, float]:
    """Ends of the interval of ``part / (part + rest)``, of two independent estimates, by MOVER for ratios.

    Args:
        part: estimate, low and high, 0 or more.
        rest: likewise; of both together the estimate is above 0.

    Example:
        >>> share_of_sum((1.0, 1.0, 1.0), (3.0, 3.0, 3.0))
        (0.25, 0.25)
    """
    a, a_low, a_high = part
    b, b_low, b_high = rest
    if min(a_high, b_high) <= 0:  # one of them is nothing for certain, however much the other is
        return (0.0, 0.0) if a_high <= 0 else (1.0, 1.0)

    def ratio(first: float, off: float, second: float, other_off: float, *, upper: bool) -> float:
        """Where ``first - r * second`` is as far from 0 as its interval reaches; infinite for no bound."""
        root = np.sqrt(max((first * other_off) ** 2 + (off * second) ** 2 - (off * other_off) ** 2, 0.0))
        if not upper:
            below = first * second + root
            return 0.0 if below <= 0 else (first**2 - off**2) / below
        scale = second**2 - other_off**2
        return np.inf if scale <= 1e-300 else (first * second + root) / scale

    # Odds of the part against the rest.
    low = ratio(a, a - a_low, b, b_high - b, upper=False)
    high = ratio(a, a_high - a, b, b - b_low, upper=True)
    share = a / (a + b)
    return (
        float(np.clip(low / (1 + low), 0, share)),
        float(np.clip(1.0 if np.isinf(high) else high / (1 + high), share, 1)),
    )


def paired_difference(
    only_first: float, only_second: float, points: int, z: float = Z_95
) -> tuple[float, float]:
    """Ends of Tango's score interval of the difference of two shares that were seen in the same points.

    Args:
        only_first: points in which the first alone is right.
        only_second: points in which the second alone is right.
        points: all of them.
        z: 1.96 for 95 %.

    Example:
        >>> low, high = paired_difference(0, 0, 100)
        >>> round(high, 4) == -round(low, 4) == 0.037
        True
    """
    b, c, n = float(only_first), float(only_second), float(points)
    seen = (b - c) / n

    def distance(delta: float) -> float:
        """Standard errors, if the difference were ``delta``, that what was seen lies above it."""
        linear = -b - c + (2 * n - b + c) * delta
        root = np.sqrt(max(linear**2 + 8 * n * c * delta * (1 - delta), 0.0))
        q = (root - linear) / (4 * n)  # share of the second alone, most likely under that difference
        variance = n * (2 * q + delta * (1 - delta))
        if variance <= 0:
            return float(np.sign(b - c - n * delta)) * np.inf if b - c != n * delta else 0.0
        return float((b - c - n * delta) / np.sqrt(variance))

    def end(outer: float, sign: float) -> float:
        if abs(outer - seen) < 1e-12:
            return seen
        at = distance(outer)
        if not np.isfinite(at):
            at = sign * 1e9
        if sign * at <= z:
            return outer

        def beyond(delta: float) -> float:
            far = distance(delta)
            return (sign * far if np.isfinite(far) else 1e9) - z

        return float(brentq(beyond, outer, seen, xtol=1e-12))

    return end(-1.0, 1.0), end(1.0, -1.0)
