"""Which spectra training has shown, as ``landuse.model.doubt`` takes them: a mixture fitted to patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import logsumexp

from landuse.contract import KnownSpectra
from landuse.model.doubt import spectra_of
from landuse.model.normalize import bring_to_input, path_dn
from landuse.model.training import augment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from landuse.contract import ModelContract

PARTS = 12
"""Normal distributions of the mixture; 20 were no better on the scenes of ``docs/figures.md``."""

PATCHES_A_LEVEL = 1400
"""Of each level so many patches are taken, some more than once if there are fewer: imagery of both levels is
to be known."""

CELLS = 20_000
"""Spectra that the mixture is fitted to."""

ROUNDS = 40
"""Of expectation maximisation."""

LEAST_VARIANCE = 2e-4
"""Added to each band's: a root of reflectance of 0.014, so that no part is a spike."""

ATMOSPHERE, BRIGHTNESS = 0.3, 0.1
"""How far the patches are varied, about half as far as training varies them."""

RARE = 0.04
"""Of what is drawn of the mixture this share is at least as rare as what doubt calls so."""


def fit_known_spectra(
    parts: Sequence[tuple[Tensor, tuple[str, ...], str]], contract: ModelContract
) -> KnownSpectra | None:
    """The mixture of the patches' spectra; None where no patches have all of the contract's bands.

    Args:
        parts: DN (N, bands, S, S), names of their bands, and their level, of each set of patches.
        contract: the model's.
    """
    spectra = []
    for level in sorted({level for _, _, level in parts}):
        rows = []
        for dn, bands, own_level in parts:
            if own_level == level and set(contract.bands) <= set(bands):
                rows.append(dn[:, [bands.index(band) for band in contract.bands]])
        if rows:
            spectra.append(_varied(torch.cat(rows), contract, level))
    if not spectra:
        return None
    cells = np.concatenate(spectra)
    rng = np.random.default_rng(0)
    chosen = cells[rng.permutation(len(cells))[:CELLS]]
    weights, means, factors = _mixture(chosen, rng)
    return KnownSpectra(
        weights=tuple(weights.tolist()),
        means=tuple(map(tuple, means.tolist())),
        factors=tuple(
            tuple(tuple(row[: index + 1]) for index, row in enumerate(factor)) for factor in factors.tolist()
        ),
        rare=RARE,
    )


def _varied(dn: Tensor, contract: ModelContract, level: str) -> NDArray[np.float64]:
    """Spectra of a level's patches in other light, (cells, bands); as many whatever the number of patches."""
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(len(dn), generator=rng)
    rows = order.repeat(-(-PATCHES_A_LEVEL // len(dn)))[:PATCHES_A_LEVEL]
    found = []
    for first in range(0, len(rows), 100):  # for memory
        input_dn = bring_to_input(dn[rows[first : first + 100]].float(), contract, level)
        path = torch.tensor(path_dn(contract.bands))
        lit = augment.brightness(
            augment.atmosphere(input_dn, path, ATMOSPHERE, rng).clamp(min=0), BRIGHTNESS, rng
        )
        found.append(spectra_of(lit).movedim(1, -1).flatten(0, 2))
    return torch.cat(found).numpy().astype(np.float64)


def _mixture(
    cells: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weights, means and factors of covariances by expectation maximisation (Dempster et al. 1977)."""
    count, bands = cells.shape
    floor = LEAST_VARIANCE * np.eye(bands)
    means = cells[[rng.integers(count)]]
    for _ in range(min(PARTS, count) - 1):  # far from each other (k-means++, Arthur and Vassilvitskii 2007)
        far = np.min([np.square(cells - mean).sum(1) for mean in means], axis=0) + 1e-12
        means = np.concatenate([means, cells[[rng.choice(count, p=far / far.sum())]]])
    parts = len(means)
    weights: NDArray[np.float64] = np.full(parts, 1 / parts)
    covariances: NDArray[np.float64] = np.repeat((np.cov(cells.T) / parts + floor)[None], parts, 0)
    for _ in range(ROUNDS):
        factors = np.linalg.cholesky(covariances)
        told = np.stack(
            [
                np.log(weight)
                - np.log(np.diag(factor)).sum()
                - 0.5 * np.square((cells - mean) @ np.linalg.inv(factor).T).sum(1)
                for weight, mean, factor in zip(weights, means, factors, strict=True)
            ]
        )
        shares = np.exp(told - logsumexp(told, axis=0))  # (part, cell)
        sums = shares.sum(1) + 1e-9
        weights, means = sums / sums.sum(), shares @ cells / sums[:, None]
        for index, (share, mean) in enumerate(zip(shares, means, strict=True)):
            away = cells - mean
            covariances[index] = (share[:, None] * away).T @ away / sums[index] + floor
    return weights, means, np.linalg.cholesky(covariances).astype(np.float64)
