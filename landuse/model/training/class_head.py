"""The fit of a head for a user's own classes: regularised multinomial regression on a network's features.

A few hundred labels do not teach a network, but they do teach a linear function of what a network knows of a
pixel. The fit is convex and begins at zero, so that the same samples give the same head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRENGTH = 0.05
"""Inverse strength of the penalty on the squares of the weights, for each sample's unit of weight.

It is ``C`` of scikit-learn's ``LogisticRegression``. From 0.01 to 0.1 it makes little difference on 97
points of Leipzig and on 2500 pixels of each place of TerraMesh.
"""

MAX_STEPS = 200
"""Steps of the optimiser; it is near enough its end after some fifty."""

UNSEEN_LOGIT = -30.0
"""Logit of a class of which a fold has no sample, below the least of the others."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Views of samples, as a head sees them: a sample has several, under other bands, dates or symmetries."""

    features: NDArray[np.float32]
    """(row, feature)."""
    sample: NDArray[np.int64]
    """(row,), which sample a row is a view of."""
    weight: NDArray[np.float64]
    """(row,), share of the view in its sample; those of a sample sum to 1."""

    def of(self, samples: NDArray[np.bool_]) -> Rows:
        """The rows of some samples, (sample,) True; samples keep their numbers."""
        kept = samples[self.sample]
        return Rows(features=self.features[kept], sample=self.sample[kept], weight=self.weight[kept])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearHead:
    """A linear function of a pixel's features."""

    weight: NDArray[np.float64]
    """(class, feature)."""
    bias: NDArray[np.float64]
    """(class,)."""

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, class) of (n, feature)."""
        found: NDArray[np.float64] = features.astype(np.float64) @ self.weight.T + self.bias
        return found


def fit_head(
    rows: Rows,
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    classes: int,
    strength: float = STRENGTH,
) -> LinearHead:
    """Fit a head, all classes alike however many samples each has.

    Args:
        rows: views of the samples to learn from; samples without a row are not learned from.
        labels: (sample,), class ids.
        weights: (sample,), how much a sample says.
        classes: how many there are; one of which there is no sample gets ``UNSEEN_LOGIT``.
        strength: see ``STRENGTH``.

    Raises:
        ValueError: the samples are of fewer than two classes.

    Example:
        >>> head = fit_head(rows, labels, weights, classes=3)  # doctest: +SKIP
    """
    own = labels[rows.sample]
    there, index = np.unique(own, return_inverse=True)
    if len(there) < 2:
        raise ValueError(f"samples of {len(there)} classes teach nothing; 2 are needed")
    weight = rows.weight * weights[rows.sample]
    of_class = np.bincount(index, weight)
    # Each class weighs as much as the others, and all together what the samples do.
    weight = weight * (weight.sum() / len(there) / of_class)[index]
    mean, spread = _moments(rows.features, weight)
    x = (rows.features.astype(np.float64) - mean) / spread
    found = _minimise(x, index, weight, len(there), strength)
    scaled = found[:, :-1] / spread
    bias = found[:, -1] - scaled @ mean
    head = LinearHead(weight=np.zeros((classes, x.shape[1])), bias=np.full(classes, UNSEEN_LOGIT))
    head.weight[there], head.bias[there] = scaled, bias
    return head


def _moments(
    features: NDArray[np.float32], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each feature; 1 where it does not vary."""
    share = weight / weight.sum()
    mean = share @ features.astype(np.float64)
    spread = np.sqrt(share @ (features.astype(np.float64) - mean) ** 2)
    return mean, np.where(spread > 1e-6, spread, 1.0)


def _minimise(
    x: NDArray[np.float64],
    index: NDArray[np.int64],
    weight: NDArray[np.float64],
    classes: int,
    strength: float,
) -> NDArray[np.float64]:
    """(class, feature + 1), weights and, last, biases at the least penalised cross-entropy."""
    count, width = x.shape
    at = np.arange(count)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parameters = flat.reshape(classes, width + 1)
        logits = x @ parameters[:, :-1].T + parameters[:, -1]
        logits -= logits.max(1, keepdims=True)
        shares = np.exp(logits)
        total = shares.sum(1)
        value = float(weight @ (np.log(total) - logits[at, index]))
        shares /= total[:, None]
        shares[at, index] -= 1
        shares *= weight[:, None]
        gradient = np.empty_like(parameters)
        gradient[:, :-1] = shares.T @ x + parameters[:, :-1] / strength
        gradient[:, -1] = shares.sum(0)
        return value + 0.5 / strength * float((parameters[:, :-1] ** 2).sum()), gradient.ravel()

    found = minimize(
        loss, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS}
    )
    solution: NDArray[np.float64] = found.x.reshape(classes, width + 1)
    return solution
