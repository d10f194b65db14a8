"""Pure: class probabilities smoothed over a moving window, by Bayes' rule on their logits.

After Simoes et al. 2024 ("Bayesian inference for post-processing of remote-sensing image classification",
Remote Sensing 16(23), 4572), as sits does it in R. Of each class, the logit at a pixel is taken for a
measurement whose variance is the strength of the smoothing; what is to be expected there is normally
distributed, with the mean and the variance of the more probable half of the window. So a class that its
neighbours agree on wins over a single pixel, while at a border, where they differ, each pixel keeps its own.

The neighbours' logits are rounded to whole steps: sums of whole numbers do not depend on their order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from landuse.classes import THIN
from landuse.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SMOOTH_PX = 7
"""Side of the window where none is asked for."""

MAX_SMOOTH_PX = 11
"""Largest side of the window: sums of squares over half of it stay below 2**31."""

MAX_STRENGTH = 1000.0
"""Variance of a logit beyond which nothing of a pixel's own evidence is left."""

NEIGHBOUR_SHARE = 0.5
"""Share of the window's pixels that tell what is to be expected: those where the class is most probable."""

LEAST_SHARE = 1e-4
"""Probabilities are kept this far from 0 and 1, so that their logits are finite."""

_STEPS = 512
"""Steps of a neighbour's logit in 1."""

_MISSING = np.int16(-32_768)
"""A neighbour that is not there; it is below every logit."""

_STRIP_PIXELS = 2**14
"""Pixels smoothed at a time: what a processor's cache holds of a window's neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """How class probabilities are smoothed."""

    strengths: tuple[float, ...] = ()
    """Of each class the variance of its logit at a pixel: more gives neighbours more weight. 0 leaves the
    class's probabilities as they are. Empty: no class is smoothed."""
    window_px: int = SMOOTH_PX
    """Side of the window in pixels, odd."""

    def __post_init__(self) -> None:
        for strength in self.strengths:
            if not 0 <= strength <= MAX_STRENGTH:  # nor is NaN
                raise UsageError(
                    f"--smooth {strength:g} is no strength. Give 0 (off) to {MAX_STRENGTH:g}, such as 0.5."
                )
        if not (3 <= self.window_px <= MAX_SMOOTH_PX and self.window_px % 2 == 1):
            raise UsageError(
                f"--smooth-px {self.window_px} is no window. Give an odd number of pixels from 3 to "
                f"{MAX_SMOOTH_PX}, such as {SMOOTH_PX}."
            )

    @property
    def is_on(self) -> bool:
        """Whether any class is smoothed."""
        return any(self.strengths)

    @property
    def reach_px(self) -> int:
        """Pixels beyond a pixel that count for it; 0 where nothing is smoothed."""
        return self.window_px // 2 if self.is_on else 0


def parse_smooth(asked: str | float, window_px: int, classes: Sequence[str]) -> Smoothing:
    """What ``--smooth`` and ``--smooth-px`` mean for a model's classes.

    Args:
        asked: a strength for every class but the thin ones, which have 0; and, after commas, those of single
            classes: ``"1,Forest=5,Hedge=0"``.
        window_px: side of the window.
        classes: names of the classes by id.

    Raises:
        UsageError: a strength is none, a class is unknown, or the window is none.

    Example:
        >>> parse_smooth("1,Hedge=0", 5, ("Forest", "River", "Hedge")).strengths
        (1.0, 0.0, 0.0)
    """
    first, *others = (part.strip() for part in str(asked).split(","))
    strength = _strength(first, str(asked))
    of_class = {name: 0.0 if name in THIN else strength for name in classes}
    for part in others:
        name, _, text = part.partition("=")
        if name not in of_class:
            raise UsageError(
                f"--smooth {asked}: {part!r:.60} names no class. Give CLASS=STRENGTH; the classes are "
                f"{', '.join(classes)}."
            )
        of_class[name] = _strength(text, str(asked))
    return Smoothing(strengths=tuple(of_class.values()), window_px=window_px)


def _strength(text: str, asked: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--smooth {asked!r:.80}: {text!r:.40} is no number. Give a strength, such as 0.5, and after "
            "commas those of single classes, such as 0.5,Forest=2."
        ) from None


def smooth_classes(
    shares: NDArray[np.float32],
    usable: NDArray[np.bool_],
    smoothing: Smoothing,
) -> NDArray[np.float32]:
    """Class probabilities smoothed over a window.

    Those of classes of strength 0 stay; those of the others fill up to 1.

    Args:
        shares: (class, y, x), 0..1, summing to 1 over classes.
        usable: (y, x), True where a pixel tells something; others are nobody's neighbours.
        smoothing: a strength for each class, and the window.

    Returns:
        (class, y, x), summing to 1 over classes. A pixel with no usable one in its window keeps its own.

    Example:
        >>> import numpy as np
        >>> sure = np.full((2, 5, 5), 0.1, np.float32)
        >>> sure[0] = 0.9
        >>> sure[:, 2, 2] = 0.4, 0.6  # a speck
        >>> made = smooth_classes(sure, np.ones((5, 5), bool), Smoothing(strengths=(1.0, 1.0)))
        >>> bool(made[0, 2, 2] > 0.8)
        True
    """
    areal = [index for index, strength in enumerate(smoothing.strengths) if strength]
    if len(areal) < 2:  # nothing to move between
        return shares
    thin = [index for index in range(len(shares)) if index not in areal]
    rows, cols = usable.shape
    reach, side = smoothing.reach_px, smoothing.window_px
    made = shares.copy()
    there = np.pad(usable, reach)
    count = _window_count(there, side)
    chosen = np.ceil(NEIGHBOUR_SHARE * count).astype(np.int32)
    step = max(_STRIP_PIXELS // max(cols, 1), 1)
    steps = np.full((rows + 2 * reach, cols + 2 * reach), _MISSING, np.int16)
    inner = np.s_[reach : reach + rows, reach : reach + cols]
    for index in areal:
        own = _logits(shares[index])
        steps[inner] = np.where(usable, np.rint(own * _STEPS), _MISSING)
        for top in range(0, rows, step):
            at = np.s_[top : top + step]
            around = steps[top : min(top + step, rows) + 2 * reach]
            made[index, at] = _posterior(own[at], around, chosen[at], smoothing.strengths[index], side)
    left = 1 - shares[thin].sum(0)
    total = made[areal].sum(0)
    for index in areal:
        made[index] *= left / total
    alone = count == 0
    if alone.any():
        made[:, alone] = shares[:, alone]
    return made


def _logits(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    kept = shares.clip(LEAST_SHARE, 1 - LEAST_SHARE)
    logits: NDArray[np.float32] = np.log(kept / (1 - kept))
    return logits


def _posterior(
    own: NDArray[np.float32],
    around: NDArray[np.int16],
    chosen: NDArray[np.int32],
    strength: float,
    side: int,
) -> NDArray[np.float32]:
    """The probability of one class at each pixel of a strip, by its own logit and its neighbours'."""
    sums, squares = _sums_of_largest(around, chosen, side)
    some = np.maximum(chosen, 1)
    mean = sums / (some * _STEPS)
    # In whole numbers below 2**53: nothing is lost in the difference.
    spread = squares.astype(np.float64) - np.square(sums, dtype=np.float64) / some
    variance = spread.clip(0) / (np.maximum(chosen - 1, 1) * _STEPS**2)
    weight = variance / (variance + strength)
    logit = weight * own + (1 - weight) * mean
    shares: NDArray[np.float32] = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return shares


def _sums_of_largest(
    around: NDArray[np.int16], chosen: NDArray[np.int32], side: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sums, and sums of squares, of so many of the largest values of each pixel's window.

    Args:
        around: (rows + side - 1, cols + side - 1).
        chosen: (rows, cols), how many.
        side: of the window.
    """
    rows, cols = chosen.shape
    column = [around[down : down + rows] for down in range(side)]
    _run(_column_sort(side), column)
    wires = [values[:, right : right + cols] for right in range(side) for values in column]
    order = _run(_window_sort(side), wires)
    sums, squares = np.zeros((2, rows, cols), np.int32)
    same = int(chosen.min()) if chosen.size else 0
    for rank, wire in enumerate(order):
        values = wires[wire].astype(np.int32)
        if rank >= same:
            values = np.where(rank < chosen, values, 0)
        sums += values
        squares += values * values
    return sums, squares


def _window_count(there: NDArray[np.bool_], side: int) -> NDArray[np.int32]:
    """How many pixels of each window are there, (y, x)."""
    rows, cols = (length - side + 1 for length in there.shape)
    table = np.zeros((there.shape[0] + 1, there.shape[1] + 1), np.int32)
    there.astype(np.int32).cumsum(0).cumsum(1, out=table[1:, 1:])
    count: NDArray[np.int32] = (
        table[side : side + rows, side : side + cols]
        - table[:rows, side : side + cols]
        - table[side : side + rows, :cols]
        + table[:rows, :cols]
    )
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """A sorting network: which wires are compared in turn, and in which order they are sorted at the end."""

    comparisons: tuple[tuple[int, int, bool, bool], ...]
    """Two wires, the first of which takes the larger value; and whether each is looked at afterwards."""
    order: tuple[int, ...]
    """Wires from the largest value down, as far as they are needed."""


def _run(network: _Network, wires: list[NDArray[np.int16]]) -> tuple[int, ...]:
    """Sort the values of each pixel; ``wires`` is changed, the arrays in it are not."""
    for high, low, needs_high, needs_low in network.comparisons:
        first, second = wires[high], wires[low]
        if needs_high:
            wires[high] = np.maximum(first, second)
        if needs_low:
            wires[low] = np.minimum(first, second)
    return network.order


@lru_cache
def _column_sort(side: int) -> _Network:
    """Sorts the values of one column of a window; all of them are needed, on wires in their order."""
    comparisons = [(upper, lower) for start in range(side - 1) for upper, lower in _bubble(side, start)]
    return _Network(
        comparisons=tuple((high, low, True, True) for high, low in comparisons), order=tuple(range(side))
    )


def _bubble(side: int, start: int) -> list[tuple[int, int]]:
    """The largest of the wires from ``start`` on moves up to ``start``."""
    return [(row - 1, row) for row in range(side - 1, start, -1)]


@lru_cache
def _window_sort(side: int) -> _Network:
    """Merges a window's sorted columns as far as the largest of it are needed (Batcher's odd-even merge)."""
    lists = [list(range(right * side, (right + 1) * side)) for right in range(side)]
    comparisons: list[tuple[int, int]] = []
    while len(lists) > 1:
        pairs = [_merge(lists[i], lists[i + 1], comparisons) for i in range(0, len(lists) - 1, 2)]
        lists = pairs + (lists[-1:] if len(lists) % 2 else [])
    order = lists[0][: math.ceil(NEIGHBOUR_SHARE * side**2)]
    needed, kept = set(order), []
    for high, low in reversed(comparisons):
        if high in needed or low in needed:
            kept.append((high, low, high in needed, low in needed))
            needed |= {high, low}
    return _Network(comparisons=tuple(reversed(kept)), order=tuple(order))


def _merge(first: list[int], second: list[int], comparisons: list[tuple[int, int]]) -> list[int]:
    """The wires of two sorted lists in order; what is to be compared for it is added to ``comparisons``."""
    if not first or not second:
        return first + second
    if len(first) == len(second) == 1:
        comparisons.append((first[0], second[0]))
        return first + second
    odd = _merge(first[::2], second[::2], comparisons)
    even = _merge(first[1::2], second[1::2], comparisons)
    merged = odd[:1]
    for index in range(max(len(even), len(odd) - 1)):
        if index < len(even) and index + 1 < len(odd):
            comparisons.append((even[index], odd[index + 1]))
            merged += [even[index], odd[index + 1]]
        else:
            merged += even[index : index + 1] + odd[index + 1 : index + 2]
    return merged
