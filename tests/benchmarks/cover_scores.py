"""How well a map of pixels agrees with references: pure functions of arrays.

Wherever ids stand for classes, 255 says that there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landuse.classes import LAND_COVER_NAMES, LAND_USE_NAMES, USES_OF_COVERS

NONE_ID = 255
"""No class: the reference or the map says nothing."""

ECE_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """What a model says of each pixel; has the fields of ``predict_pixels.PixelScores``."""

    landuse: NDArray[np.float32]
    """(14, H, W), probability of each of ``classes.LAND_USE``; sums to 1."""
    cover: NDArray[np.float32]
    """(9, H, W), probability of each of ``classes.LAND_COVER``; sums to 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Pixels or points whose truth is known, and how sure the map was of each."""

    confidence: NDArray[np.float32]
    """(N,), 0..1, of what the map says."""
    right: NDArray[np.bool_]
    """(N,), whether that is true."""
    weight: NDArray[np.float32]
    """(N,), how much each counts."""


def judged(confidence: NDArray, right: NDArray, weight: NDArray | None = None) -> Judged:
    """``Judged`` of arrays of any one shape; without ``weight`` each counts 1."""
    given = np.ones(confidence.shape, np.float32) if weight is None else weight
    return Judged(
        confidence=confidence.ravel().astype(np.float32),
        right=right.ravel().astype(np.bool_),
        weight=given.ravel().astype(np.float32),
    )


def ids_of(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
    """Ids of classes by name.

    Raises:
        ValueError: a name is not one of ``names``.
    """
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such class; known are {', '.join(names)}")
    return [names.index(name) for name in wanted]


def use_ids(*names: str) -> list[int]:
    """Ids of land-use classes by name."""
    return ids_of(LAND_USE_NAMES, names)


def cover_ids(*names: str) -> list[int]:
    """Ids of covers by name."""
    return ids_of(LAND_COVER_NAMES, names)


def cover_of_use(landuse: NDArray[np.float32]) -> NDArray[np.float32]:
    """(9, H, W) covers of (14, H, W) land use: the sums over what each cover can be."""
    return np.stack([landuse[use_ids(*uses)].sum(0) for uses in USES_OF_COVERS])


def recalls(truth: NDArray, right: NDArray, weight: NDArray | None = None) -> dict[int, float]:
    """For each id in ``truth`` but ``NONE_ID`` the weighted share of its pixels that are right.

    Args:
        truth: ids, of any shape.
        right: whether each is right, same shape.
        weight: how much each counts; None: all the same. A class of no weight is left out.
    """
    given = np.ones(truth.shape) if weight is None else weight.astype(float)
    found = {}
    for value in np.unique(truth[truth != NONE_ID]):
        here = truth == value
        total = given[here].sum()
        if total > 0:
            found[int(value)] = float((given * right)[here].sum() / total)
    return found


def share(right: NDArray, weight: NDArray | None = None) -> float | None:
    """Weighted share of what is right; None of nothing."""
    given = np.ones(right.shape) if weight is None else weight.astype(float)
    total = given.sum()
    return float((given * right).sum() / total) if total > 0 else None


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float | None:
    """Intersection over union of two masks where ``valid``; None where neither has a pixel."""
    union = ((found | truth) & valid).sum()
    return float((found & truth & valid).sum() / union) if union else None


def ece(pixels: Judged, bins: int = ECE_BINS) -> float | None:
    """Expected calibration error over bins of equal width; None of nothing.

    The weighted mean over bins of ``|share that is right - mean confidence|``.
    """
    total = pixels.weight.sum(dtype=float)
    if total == 0:
        return None
    at = np.clip(np.ceil(pixels.confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(at, pixels.weight * (pixels.right - pixels.confidence.astype(float)), bins)
    return float(np.abs(gap).sum() / total)


def pooled(parts: list[Judged]) -> Judged:
    """Several references as one, in which each has the same weight."""
    return Judged(
        confidence=np.concatenate([part.confidence for part in parts]),
        right=np.concatenate([part.right for part in parts]),
        weight=np.concatenate([part.weight / part.weight.sum(dtype=float) for part in parts]),
    )


def near_border(classes: NDArray[np.uint8], px: int) -> NDArray[np.bool_]:
    """Pixels at most ``px`` rows and columns away from a pixel of another class.

    Args:
        classes: (H, W) ids.
        px: distance in pixels; 0 marks none.
    """
    side = 2 * px + 1
    return ndimage.maximum_filter(classes, side) != ndimage.minimum_filter(classes, side)


def wrong_confidence(pixels: Judged) -> float | None:
    """Median confidence of what is wrong; None where nothing is."""
    wrong = pixels.confidence[~pixels.right]
    return float(np.median(wrong)) if len(wrong) else None
