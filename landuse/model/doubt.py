"""How unlike all that training showed the spectra around a pixel are.

A network says of a desert what it would say of the field that is nearest to it, and is sure of it. Its own
outputs do not tell: by the energy of its logits (Liu et al. 2020, arXiv 2010.03759) noise is what it knows
best. What tells is how probable the imagery is under a mixture of normal distributions fitted to the
training's patches (``KnownSpectra``): of the visible bands, of these with the first infrared one, and of all
bands that are there. In many bands at once a place that is strange in a few of them does not stand out; so
the strangest of the three counts.

The spectra are the means of squares of ``CELL_PX`` on the network's lattice, and doubt is averaged over
``AROUND_CELLS`` of them: a place's doubt depends on its surroundings of 200 m alone, and not on weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from landuse.sentinel2 import DN_PER_REFLECTANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from landuse.contract import KnownSpectra, ModelContract

CELL_PX = 4
"""Side of the squares whose mean spectra are judged; it divides the network's positions."""

AROUND_CELLS = 5
"""Squares a side over which doubt is averaged: one strange roof is no strange land."""

SAMPLES = 20_000
"""Spectra drawn of the mixture, to know which of its densities are rare with any choice of bands."""


def spectra_of(input_dn: Tensor) -> Tensor:
    """What the mixture is of: the roots of the reflectances of squares, (B, bands, H/4, W/4).

    Args:
        input_dn: (B, bands, H, W) as ``normalize.bring_to_input`` makes it, not clipped.
    """
    return (F.avg_pool2d(input_dn, CELL_PX).clamp(min=0) / DN_PER_REFLECTANCE).sqrt()


class DoubtMeter:
    """Tells the doubt of imagery that has some of a model's bands."""

    def __init__(self, contract: ModelContract, bands: Sequence[str], device: torch.device) -> None:
        """Prepare for some bands.

        Args:
            contract: of a model that knows its spectra.
            bands: those that are there, of the contract's.
            device: where the spectra are.
        """
        if contract.spectra is None:
            raise ValueError(f"model {contract.name} does not know its spectra")
        self._there = there = [contract.bands.index(band) for band in bands]
        visible = len(contract.required_bands)
        views = dict.fromkeys((tuple(there[:visible]), tuple(there[: visible + 1]), tuple(there)))
        self._views = [_View(contract.spectra, columns, device) for columns in views]

    def __call__(self, input_dn: Tensor) -> Tensor:
        """Doubt of each pixel, 0..1, (H, W): 0.5 is as rare as the rarest of what training showed.

        Args:
            input_dn: (1, bands, H, W), not clipped: those that are there, or all of the contract's; sides are
                multiples of ``CELL_PX``.
        """
        if input_dn.shape[1] != len(self._there):
            input_dn = input_dn[:, self._there]
        spectra = spectra_of(input_dn)[0]  # (bands that are there, rows, cols)
        rarity = torch.stack([view.rarity(spectra) for view in self._views]).amax(0)
        near = F.avg_pool2d(
            rarity.sigmoid()[None, None], AROUND_CELLS, 1, AROUND_CELLS // 2, count_include_pad=False
        )
        return F.interpolate(near, scale_factor=CELL_PX, mode="nearest")[0, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A normal distribution of a mixture, over some of the bands."""

    log_weight: float
    """Of the mixture, with all that the density's exponent does not hold."""
    whiten: Tensor
    """(n, n), lower triangular: makes the distribution a standard one."""
    centre: Tensor
    """(n,), its whitened mean."""


class _View:
    """The mixture over the first of the bands that are there."""

    def __init__(self, known: KnownSpectra, columns: tuple[int, ...], device: torch.device) -> None:
        chosen = np.array(columns)
        self._parts = []
        for weight, mean, factor in zip(known.weights, known.means, factors_of(known), strict=True):
            rows = factor[chosen]  # a share of the covariance is a covariance
            own = np.linalg.cholesky(rows @ rows.T)
            whiten = np.linalg.inv(own)
            log_weight = np.log(weight) - np.log(np.diag(own)).sum() - 0.5 * len(columns) * np.log(2 * np.pi)
            self._parts.append(
                _Part(
                    log_weight=float(log_weight),
                    whiten=torch.tensor(whiten, dtype=torch.float32, device=device),
                    centre=torch.tensor(whiten @ np.array(mean)[chosen], dtype=torch.float32, device=device),
                )
            )
        drawn = torch.tensor(draw(known, SAMPLES).T, dtype=torch.float32, device=device)
        density = self._log_density(drawn[list(columns), None]).flatten().cpu().numpy()
        self._least = float(np.quantile(density, known.rare))

    def rarity(self, spectra: Tensor) -> Tensor:
        """How far below the least usual one the logarithm of the density is, (rows, cols)."""
        return self._least - self._log_density(spectra[: len(self._parts[0].centre)])

    def _log_density(self, values: Tensor) -> Tensor:
        flat = values.flatten(1)  # (n, cells)
        total = flat.new_full(flat.shape[1:], -torch.inf)
        for part in self._parts:
            distance = (part.whiten @ flat - part.centre[:, None]).square().sum(0)
            total = torch.logaddexp(total, part.log_weight - 0.5 * distance)
        return total.view(values.shape[1:])


def factors_of(known: KnownSpectra) -> NDArray[np.float64]:
    """The lower triangular factors of the covariances, (part, band, band)."""
    bands = len(known.means[0])
    factors = np.zeros((len(known.weights), bands, bands))
    for factor, rows in zip(factors, known.factors, strict=True):
        for index, row in enumerate(rows):
            factor[index, : index + 1] = row
    return factors


def draw(known: KnownSpectra, count: int) -> NDArray[np.float64]:
    """Spectra drawn of the mixture, always the same ones, (count, band)."""
    rng = np.random.default_rng(0)
    weights = np.array(known.weights)
    parts = rng.choice(len(weights), count, p=weights / weights.sum())
    noise = rng.standard_normal((count, len(known.means[0])))
    drawn: NDArray[np.float64] = np.array(known.means)[parts]
    drawn += np.einsum("nij,nj->ni", factors_of(known)[parts], noise)
    return drawn
