"""Pure: how well a head tells classes apart on land that it did not learn from, and which labels look wrong.

Neighbouring pixels are alike, so that a head tried on pixels beside those it learned from looks better than
it is (Roberts et al. 2017, https://doi.org/10.1111/ecog.02881). Whole blocks of land are held out instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from landuse.errors import UsageError
from landuse.model.training.class_head import Rows, fit_head
from landuse.pipeline.maps.intervals import wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCK_SIDES_PX = (500, 250, 125, 64, 32)
"""Sides of the blocks, 5 km first; the widest counts that gives blocks enough."""

NEAR_CELL_PX = 4
"""Side of the cells that samples are gathered in to see which shapes lie near one another."""

ENOUGH_BLOCKS, ENOUGH_OF_CLASS = 10, 3
"""Blocks that are enough in all, and of each class."""

FOLDS = 5
"""Parts that the blocks are shared among."""

CURVE = (0.125, 0.25, 0.5)
"""Shares of the blocks that the learning curve learns from, before all of them."""

DRAWS = 1000
"""Draws of blocks, with replacement, that intervals are made of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """Which land is held out together."""

    side_m: float | None
    """Side of the blocks in metres; None where places are held out."""
    group: NDArray[np.int64]
    """(sample,), number of its block."""
    fold: NDArray[np.int64]
    """(sample,), number of the fold that holds it out."""

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return int(self.group.max()) + 1


def make_blocks(
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    labels: NDArray[np.int64],
    shapes: NDArray[np.int64],
    classes: int,
) -> Blocks:
    """Share samples among folds by blocks of land; the samples of a shape are never parted.

    Shapes of a class as near as the smallest blocks are wide are one place: points of one field, and a shape
    that is there twice. Points of a small place are never parted either; where blocks of any side are too
    few, no place is.

    Args:
        rows: (sample,), pixel rows in the zone.
        cols: (sample,), pixel columns.
        labels: (sample,), class ids.
        shapes: (sample,), which shape a sample is of; -1 of none.
        classes: how many there are.

    Raises:
        UsageError: no class but one lies in two places, so that nothing can be held out.
    """
    place: NDArray[np.float64] = np.stack([rows, cols], 1).astype(np.float64)
    near: NDArray[np.int64] | None = None
    if (shapes >= 0).all():
        shape = np.unique(shapes, return_inverse=True)[1].ravel()
        near = _near_shapes(rows, cols, labels, shape)
        is_point = np.bincount(shape)[shape] == 1
        is_joined = is_point & _is_small(near, rows) & _is_small(near, cols)
        whole = np.unique(np.where(is_joined, -1 - near, shape), return_inverse=True)[1].ravel()
        size = np.bincount(whole)
        place = np.stack([np.bincount(whole, at) / size for at in (rows, cols)], 1)[whole]
    group: NDArray[np.int64] | None = None
    side: float | None = None
    for enough in ((ENOUGH_BLOCKS, ENOUGH_OF_CLASS), (FOLDS, 2)):
        for px in BLOCK_SIDES_PX:
            _, numbers = np.unique(np.floor(place / px), axis=0, return_inverse=True)
            numbers = numbers.ravel()
            of_class = _in_blocks(numbers, labels, classes)
            if len(of_class) >= enough[0] and (of_class > 0).sum(0).min() >= enough[1]:
                group, side = numbers, px * 10.0
                break
        if group is not None:
            break
    if group is None and near is not None:
        group = near
    if group is None:
        _, numbers = np.unique(np.floor(place / BLOCK_SIDES_PX[-1]), axis=0, return_inverse=True)
        group, side = numbers.ravel(), BLOCK_SIDES_PX[-1] * 10.0
    of_class = _in_blocks(group, labels, classes)
    if ((of_class > 0).sum(0) >= 2).sum() < 2:
        raise UsageError(
            f"The labels lie in {len(of_class)} places, and fewer than two classes lie in more than one of "
            f"them, {BLOCK_SIDES_PX[-1] * 10} m apart: nothing can be held out to see what is learned. Label "
            "each class at two places at least."
        )
    return Blocks(side_m=side, group=group, fold=_folds(of_class)[group])


def _near_shapes(
    rows: NDArray[np.int64], cols: NDArray[np.int64], labels: NDArray[np.int64], shape: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(sample,), the place that its shape lies in, with those of its class that are near it or near these."""
    reach = BLOCK_SIDES_PX[-1] // NEAR_CELL_PX
    at = np.stack([rows // NEAR_CELL_PX, cols // NEAR_CELL_PX, labels * (reach + 1)], 1)  # classes far apart
    cells, cell = np.unique(at, axis=0, return_inverse=True)
    near = KDTree(cells).query_pairs(reach, output_type="ndarray")
    count = int(shape.max()) + 1
    first = np.concatenate([shape, count + near[:, 0]])
    second = count + np.concatenate([cell.ravel(), near[:, 1]])
    links = coo_array((np.ones(len(first)), (first, second)), shape=(count + len(cells),) * 2)
    place = connected_components(links, directed=False)[1][shape]
    return np.unique(place, return_inverse=True)[1].ravel().astype(np.int64)


def _is_small(group: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(sample,), whether its group is no wider than two of the smallest blocks."""
    low, high = np.full(int(group.max()) + 1, at.max()), np.full(int(group.max()) + 1, at.min())
    np.minimum.at(low, group, at)
    np.maximum.at(high, group, at)
    small: NDArray[np.bool_] = (high - low < 2 * BLOCK_SIDES_PX[-1])[group]
    return small


def _in_blocks(group: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(block, class), samples."""
    counts = np.bincount(group * classes + labels, minlength=(int(group.max()) + 1) * classes)
    return counts.reshape(-1, classes)


def _folds(of_class: NDArray[np.int64]) -> NDArray[np.int64]:
    """(block,), its fold: the largest first, each to the fold that has least of its classes."""
    totals = np.maximum(of_class.sum(0), 1)
    shares = of_class / totals
    folds = np.zeros((min(FOLDS, len(of_class)), of_class.shape[1]))
    found = np.zeros(len(of_class), np.int64)
    for block in np.argsort(-shares.sum(1), kind="stable"):
        fold = int(np.argmin((folds * shares[block]).sum(1) + 1e-6 * folds.sum(1)))
        found[block] = fold
        folds[fold] += shares[block]
    return found


def out_of_fold(
    rows: Rows,
    first: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    blocks: Blocks,
    classes: int,
    *,
    share: float = 1.0,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Logits of each sample by a head that learned from other folds, (sample, class).

    Args:
        rows: views of all samples.
        first: (sample, feature), the view that is judged.
        labels: (sample,).
        weights: (sample,).
        blocks: which samples are held out together.
        classes: how many there are.
        share: of the other folds' blocks, how many are learned from.
        seed: of which these are.
    """
    logits = np.zeros((len(labels), classes))
    for fold in range(int(blocks.fold.max()) + 1):
        held = blocks.fold == fold
        learned = ~held
        if share < 1:
            learned &= _some_blocks(blocks, learned, labels, share, seed + fold)
        head = fit_head(rows.of(learned), labels, weights, classes)
        logits[held] = head.logits(first[held])
    return logits


def _some_blocks(
    blocks: Blocks, learned: NDArray[np.bool_], labels: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """(sample,), those of a share of the blocks, and as many more as it takes to have two classes."""
    order = np.random.default_rng(seed).permutation(np.unique(blocks.group[learned]))
    count = max(round(share * len(order)), 1)
    while count < len(order) and len(np.unique(labels[learned & np.isin(blocks.group, order[:count])])) < 2:
        count += 1
    return np.isin(blocks.group, order[:count])


def relabelled(
    trunk: NDArray[np.int64], labels: NDArray[np.int64], blocks: Blocks, classes: int
) -> NDArray[np.int64]:
    """What a model as it is says once its classes are renamed by the best legend, (sample,) class ids.

    The legend gives each class of the model the one that most of the other folds' samples of it have.

    Args:
        trunk: (sample,), ids of the model's own classes.
        labels: (sample,).
        blocks: which samples are held out together.
        classes: how many there are.
    """
    found = np.zeros(len(labels), np.int64)
    for fold in range(int(blocks.fold.max()) + 1):
        held = blocks.fold == fold
        counts = np.zeros((int(trunk.max()) + 1, classes), np.int64)
        np.add.at(counts, (trunk[~held], labels[~held]), 1)
        legend = counts.argmax(1)
        legend[counts.sum(1) == 0] = np.bincount(labels[~held], minlength=classes).argmax()
        found[held] = legend[trunk[held]]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A figure, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """How well one class is told apart. Shares are 0..1; None where there is nothing to divide by."""

    name: str
    samples: int
    """Its labelled pixels."""
    blocks: int
    """Blocks that it lies in."""
    recall: Measure | None
    """Of its samples, those that are told to be it."""
    precision: Measure | None
    """Of the samples that are told to be it, those that are."""
    f1: Measure | None
    """Harmonic mean of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How well classes are told apart on land that was held out."""

    accuracy: Measure
    """Share of the samples that are told right."""
    macro_f1: Measure
    """Mean F1 of the classes."""
    classes: tuple[ClassScore, ...]
    """One for each class, by id."""
    confusion: tuple[tuple[int, ...], ...]
    """Samples; rows = label, columns = told."""


def score(
    told: NDArray[np.int64], labels: NDArray[np.int64], blocks: Blocks, names: Sequence[str], seed: int = 0
) -> Scores:
    """Scores with intervals: blocks, not samples, are drawn again and again, as samples of a block are alike.

    An interval reaches as far as Wilson's of as many blocks too: draws of blocks without an error show none,
    however few blocks there are.

    Args:
        told: (sample,) class ids.
        labels: (sample,) class ids.
        blocks: which samples lie together.
        names: class names by id.
        seed: of the draws.
    """
    classes = len(names)
    by_block = _by_block(told, labels, blocks, classes)
    whole = by_block.sum(0)
    drawn = _draws(by_block, seed)
    accuracy, macro = _accuracy(whole[None]), _macro_f1(whole[None])
    of_class, spread = _of_classes(whole[None]), _of_classes(drawn)
    lying, telling = ((by_block.sum(axis) > 0).sum(0) for axis in (2, 1))
    return Scores(
        accuracy=_measure(accuracy, _accuracy(drawn), blocks.count),
        macro_f1=_measure(macro, _macro_f1(drawn), blocks.count),
        classes=tuple(
            ClassScore(
                name=name,
                samples=int(whole[i].sum()),
                blocks=int(lying[i]),
                **{
                    what: None
                    if np.isnan(of_class[what][0, i])
                    else _measure(of_class[what][:, i], spread[what][:, i], int(count[i]))
                    for what, count in (("recall", lying), ("precision", telling), ("f1", lying))
                },
            )
            for i, name in enumerate(names)
        ),
        confusion=tuple(tuple(int(v) for v in row) for row in whole),
    )


def gain(
    told: NDArray[np.int64],
    other: NDArray[np.int64],
    labels: NDArray[np.int64],
    blocks: Blocks,
    classes: int,
    seed: int = 0,
) -> dict[str, Measure]:
    """How much better one set of answers is than another, over the same draws of blocks.

    Args:
        told: (sample,) class ids.
        other: (sample,) class ids, to be beaten.
        labels: (sample,) class ids.
        blocks: which samples lie together.
        classes: how many there are.
        seed: of the draws.
    """
    first, second = (_by_block(answer, labels, blocks, classes) for answer in (told, other))
    drawn = _draws(first, seed), _draws(second, seed)
    return {
        name: _measure(
            figure(first.sum(0)[None]) - figure(second.sum(0)[None]), figure(drawn[0]) - figure(drawn[1])
        )
        for name, figure in (("accuracy", _accuracy), ("macro_f1", _macro_f1))
    }


def _by_block(
    told: NDArray[np.int64], labels: NDArray[np.int64], blocks: Blocks, classes: int
) -> NDArray[np.int64]:
    """(block, label, told), samples."""
    key = (blocks.group * classes + labels) * classes + told
    counts = np.bincount(key, minlength=blocks.count * classes**2)
    return counts.reshape(blocks.count, classes, classes)


def _draws(by_block: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """(draw, label, told), of as many blocks as there are, drawn with replacement."""
    count = len(by_block)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)
    flat = by_block.reshape(count, -1)
    drawn: NDArray[np.int64] = (times @ flat).reshape(DRAWS, *by_block.shape[1:])
    return drawn


def _accuracy(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    total = confusion.sum((1, 2))
    right: NDArray[np.float64] = np.trace(confusion, axis1=1, axis2=2) / np.maximum(total, 1)
    return right


def _of_classes(confusion: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """(draw, class) each; NaN where there is nothing to divide by."""
    right = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)
    own, told = confusion.sum(2), confusion.sum(1)
    with np.errstate(invalid="ignore"):
        return {"recall": right / own, "precision": right / told, "f1": 2 * right / (own + told)}


def _macro_f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the classes that occur in a draw."""
    f1 = _of_classes(confusion)["f1"]
    there = ~np.isnan(f1)
    mean: NDArray[np.float64] = np.where(there, f1, 0).sum(1) / np.maximum(there.sum(1), 1)
    return mean


def _measure(value: NDArray[np.float64], drawn: NDArray[np.float64], blocks: int | None = None) -> Measure:
    """A figure with its interval; of a share of what lies in so many blocks no narrower than Wilson's."""
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]) if known.size else (value[0], value[0])
    if blocks is not None:
        ends = wilson(value, np.array([float(blocks)]))
        low, high = min(low, ends[0][0]), max(high, ends[1][0])
    return Measure(value=float(value[0]), low=float(low), high=float(high))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LikelyErrors:
    """Labels that are probably wrong, the likeliest first."""

    items: NDArray[np.int64]
    """(error,), which item, of shapes or of pixels."""
    suggested: NDArray[np.int64]
    """(error,), the class that it probably is."""
    self_confidence: NDArray[np.float64]
    """(error,), probability of the class that it is labelled as."""
    confidence: NDArray[np.float64]
    """(error,), probability of the suggested class."""


def likely_errors(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> LikelyErrors:
    """Confident learning (Northcutt, Jiang and Chuang 2021, https://doi.org/10.1613/jair.1.12125).

    A class's threshold is the mean probability of it among the items labelled so. An item is probably of
    another class where it is at least as probable of that one as the class's threshold asks, and of none
    with more probability. Those least probable of their own label come first.

    Args:
        probabilities: (item, class), by a model that did not learn from the item.
        labels: (item,), the classes given.
    """
    count, classes = probabilities.shape
    own = probabilities[np.arange(count), labels]
    totals = np.bincount(labels, minlength=classes)
    thresholds = np.bincount(labels, own, minlength=classes) / np.maximum(totals, 1)
    thresholds[totals == 0] = np.inf
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested = confident.argmax(1)
    wrong = np.flatnonzero((confident.max(1) > 0) & (suggested != labels))
    order = wrong[np.argsort(own[wrong], kind="stable")]
    return LikelyErrors(
        items=order,
        suggested=suggested[order],
        self_confidence=own[order],
        confidence=probabilities[order, suggested[order]],
    )


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error, in bins of equal width, 0..1.

    Args:
        probabilities: (sample, class).
        labels: (sample,).
        bins: how many.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
