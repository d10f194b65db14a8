"""What training and prediction both apply to pixels before the network sees them.

EuroSAT is L1C (top of atmosphere), most imagery on offer is L2A (surface), and the difference, a
path radiance that is largest in the blue, is what breaks a EuroSAT network on L2A. So neither
level enters as it is: both are brought to a state half-way between them (``level_inputs``), and
training varies the atmosphere around that middle by more than half the difference
(``augment.atmosphere``). A scene of either level then lies well inside what the network has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from landuse.contract import LevelInput, ModelContract
from landuse.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

PATH_DN = {
    "B01": 950.0,
    "B02": 700.0,
    "B03": 400.0,
    "B04": 300.0,
    "B05": 260.0,
    "B06": 230.0,
    "B07": 205.0,
    "B08": 180.0,
    "B8A": 165.0,
    "B09": 140.0,
    "B10": 0.0,
    "B11": 55.0,
    "B12": 35.0,
}
"""Path radiance of a clear mid-latitude scene, L1C minus L2A, in DN.

B01 to B04 are observed; from B05 on it is ``2950 * tau + 98 * wavelength_um ** -1.3``, tau
being the Rayleigh optical depth of the band and the factors those that give B02 and B04 their values.
B10 sees no ground.
"""

TRANSMITTANCE = dict.fromkeys(PATH_DN, 0.95) | {"B09": 0.23}
"""``L1C = TRANSMITTANCE * L2A + PATH_DN`` to first order.

B09 lies in an absorption band of water vapour, which L2A corrects for: in EuroSAT's L1C its mean is
732 DN beside 2594 of B8A, while the ground is about as bright in both.
"""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as Pillow and OpenCV have them."""


def path_dn(bands: tuple[str, ...]) -> tuple[float, ...]:
    """Path radiance of each band in DN.

    Raises:
        ModelError: a band's path radiance is not known here.
    """
    missing = [band for band in bands if band not in PATH_DN]
    if missing:
        raise ModelError(
            f"No path radiance is known for {', '.join(missing)}; known: {', '.join(PATH_DN)}. "
            "Train on those bands or add the value to landuse/model/normalize.py."
        )
    return tuple(PATH_DN[band] for band in bands)


def level_inputs(bands: tuple[str, ...]) -> tuple[LevelInput, ...]:
    """Transforms that bring L1C and L2A to the middle between the two; L1C alone where B10 is read."""
    path = path_dn(bands)
    middle = tuple((1 + TRANSMITTANCE[band]) / 2 for band in bands)
    from_l1c = tuple(m / TRANSMITTANCE[band] for m, band in zip(middle, bands, strict=True))
    l1c = LevelInput(
        level="L1C",
        gain=from_l1c,
        offset_dn=tuple(p * (0.5 - gain) for p, gain in zip(path, from_l1c, strict=True)),
    )
    if "B10" in bands:
        return (l1c,)  # L2A has no B10
    return (
        l1c,
        LevelInput(
            level="L2A",
            gain=middle,
            offset_dn=tuple(p * 0.5 for p in path),
        ),
    )


def _per_band(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, -1, 1, 1)


def _of_bands(values: tuple[float, ...], contract: ModelContract, bands: Sequence[str] | None) -> list[float]:
    """Of a value for each of the contract's bands those of some of them; None: all."""
    return [values[contract.bands.index(band)] for band in (contract.bands if bands is None else bands)]


def bring_to_input(
    dn: Tensor, contract: ModelContract, level: str, bands: Sequence[str] | None = None
) -> Tensor:
    """DN of one level to the network's input DN.

    Args:
        dn: (B, bands, H, W), reflectance x 10000, any numeric dtype.
        contract: names the bands and the level's transform.
        level: ``"L1C"`` or ``"L2A"``.
        bands: those of the contract's that ``dn`` holds; None: all.

    Returns:
        (B, bands, H, W) float32, not yet clipped.

    Raises:
        ModelError: the level or the number of bands is not the contract's.
    """
    entry = contract.level_input(level)
    if entry is None:
        raise ModelError(
            f"Model {contract.name} reads {', '.join(e.level for e in contract.levels)}; the imagery "
            f"is {level}. Choose another --model or a source of that level."
        )
    held = contract.bands if bands is None else bands
    if dn.ndim != 4 or dn.shape[1] != len(held):
        raise ModelError(
            f"Model {contract.name} takes (batch, {len(held)}, height, width) with bands "
            f"{', '.join(held)}; it was given {tuple(dn.shape)}."
        )
    gain, offset = (
        _per_band(_of_bands(values, contract, bands), dn) for values in (entry.gain, entry.offset_dn)
    )
    return (dn.to(torch.float32) * gain).add_(offset)  # in place: blocks are large


def to_unit(input_dn: Tensor, contract: ModelContract, bands: Sequence[str] | None = None) -> Tensor:
    """Input ``(B, bands, H, W)`` as shares of where each band saturates, float32, not yet clipped.

    Args:
        input_dn: input DN as of ``bring_to_input``; of a network of images their values 0..255.
        contract: names the saturation.
        bands: those of the contract's that are held; None: all.
    """
    return input_dn / _per_band(_of_bands(contract.saturation_dn, contract, bands), input_dn)


def preprocessed(unit: Tensor, preprocess: str) -> Tensor:
    """What the contract's ``preprocess`` makes of ``(B, bands, H, W)`` in 0..1: the same shape, in 0..1.

    ``grey`` is ITU-R BT.601's luma in each of the three bands. ``sharpen`` is the kernel
    ``0 -1 0 / -1 5 -1 / 0 -1 0`` on each band, cut to 0..1; at the border the image is mirrored without
    repeating its edge, as OpenCV's ``filter2D`` does.
    """
    if preprocess == "grey":
        luma = (unit * _per_band(LUMA, unit)).sum(1, keepdim=True)
        return luma.expand(-1, 3, -1, -1)
    if preprocess == "sharpen":
        padded = F.pad(unit, (1, 1, 1, 1), mode="reflect")
        around = (
            padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        )
        return (5 * unit - around).clamp(0, 1)
    return unit


def standardize_unit(unit: Tensor, contract: ModelContract, bands: Sequence[str] | None = None) -> Tensor:
    """Shares of the saturation ``(B, bands, H, W)`` to what the first convolution reads, same shape."""
    mean, std = (
        _per_band(_of_bands(values, contract, bands), unit) for values in (contract.mean, contract.std)
    )
    shares = preprocessed(unit.clamp(0, 1), contract.preprocess)
    return (shares - mean).div_(std)  # in place: blocks are large


def standardize(input_dn: Tensor, contract: ModelContract, bands: Sequence[str] | None = None) -> Tensor:
    """Input DN ``(B, bands, H, W)`` to what the first convolution reads, float32, same shape.

    Args:
        input_dn: as of ``bring_to_input``.
        contract: names what the bands are measured by.
        bands: those of the contract's that are held; None: all.
    """
    return standardize_unit(to_unit(input_dn, contract, bands), contract, bands)
