"""Blocks of imagery to the land use and the land cover of each pixel.

A block goes through the network in one pass. Its outermost pixels have seen the zeros that pad it, so a
caller gives more of the imagery than it needs an answer for (``landuse.pipeline.blocks.context``).
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from landuse.errors import ModelError, UsageError
from landuse.model import PRECISIONS
from landuse.model.checkpoint import load_pixel_checkpoint, model_path
from landuse.model.cover_and_use import combine, cover_shares, with_prior
from landuse.model.devices import resolve_device
from landuse.model.doubt import DoubtMeter
from landuse.model.networks import fold_norms
from landuse.model.normalize import bring_to_input, standardize
from landuse.model.precision import fastest, measure_precisions
from landuse.model.predict import file_sha256, full_float32

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from landuse.contract import ModelContract
    from landuse.model.pixel_network import DenseFeatures, PixelNet
    from landuse.model.precision import PrecisionTiming


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelScores:
    """What a block's pixels were found to be."""

    landuse: NDArray[np.float32]
    """(class, y, x), probabilities that sum to 1 over the contract's classes."""
    cover: NDArray[np.float32]
    """(cover, y, x), probabilities that sum to 1 over the contract's covers."""
    doubt: NDArray[np.float32] | None
    """(y, x), 0..1, how unlike what training showed; from 0.5 on it is doubtful. None of a model that does
    not tell."""


class PixelPredictor:
    """A network that classifies each pixel, with its contract.

    Attributes:
        contract: bands, levels, classes and covers.
        device: where the network runs.
        precision: ``"fp32"`` or ``"bf16"``, of the convolutions; all else is float32.
        timings: what ``auto`` chose the precision by; empty where it was given.
        weights_sha256: SHA-256 of the checkpoint's file, in hex: what a run's hash and report name.
        weights_path: the checkpoint's file, where it came from one.
    """

    def __init__(
        self,
        network: PixelNet,
        contract: ModelContract,
        *,
        device: torch.device,
        precision: str = "fp32",
        weights_sha256: str,
        weights_path: Path | None = None,
    ) -> None:
        _check_precision(precision)
        self.contract = contract
        self.device = device
        self.precision = "fp32"
        self.timings: tuple[PrecisionTiming, ...] = ()
        self.weights_sha256 = weights_sha256
        self.weights_path = weights_path
        self._meters: dict[tuple[str, ...], DoubtMeter] = {}
        self._network = network.eval().to(device=device, dtype=torch.float32)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        self._choose(precision)

    @classmethod
    def load(cls, model: str, device: str = "auto", precision: str = "fp32") -> Self:
        """The predictor of a shipped model's name or of a checkpoint's path.

        Args:
            model: name or path.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
            precision: ``fp32``; ``bf16``, which is faster on processors that compute in it; or ``auto``,
                which times both.

        Raises:
            ModelError: there is no such model, its file is corrupt or foreign, or it classifies patches.
            UsageError: the device is unknown or missing, or the precision is unknown.
        """
        target = resolve_device(device)
        path = model_path(model)
        network, contract = load_pixel_checkpoint(path)
        fold_norms(network)
        return cls(
            network,
            contract,
            device=target,
            precision=precision,
            weights_sha256=file_sha256(path),
            weights_path=path,
        )

    def in_precision(self, precision: str) -> Self:
        """The same network computing in another precision: ``fp32``, ``bf16`` or ``auto``.

        Raises:
            UsageError: the precision is unknown.
        """
        _check_precision(precision)
        other = copy(self)
        other._choose(precision)
        return other

    def _choose(self, precision: str) -> None:
        self.timings = ()
        if precision == "auto":
            self.precision = "fp32"
            self.timings = measure_precisions(self)
            precision = fastest(self.timings)
        self.precision = precision

    @property
    def position_px(self) -> int:
        """A block's sides are multiples of it."""
        return self._network.position_px

    @torch.inference_mode()
    def pixel_scores(self, dn: NDArray[np.uint16], bands: Sequence[str], level: str) -> PixelScores:
        """The land use and the land cover of each pixel of a block.

        Args:
            dn: (bands, H, W) uint16, reflectance x 10000; H and W are multiples of ``position_px``.
            bands: what ``dn`` holds: all of the contract's required bands and any of the optional ones.
            level: ``"L1C"`` or ``"L2A"``.

        Raises:
            ModelError: type, shape, bands or level are not the contract's.

        Example:
            >>> scores = PixelPredictor.load("balanced-pixel").pixel_scores(dn, ("B04", "B03", "B02"), "L2A")
        """
        # A head for learned classes has weights for every band; else those that are missing cost nothing.
        held = self.contract.bands if self.contract.learned is not None else tuple(bands)
        input_dn, present = self._input_dn(dn, tuple(bands), level, held)
        with full_float32():
            classes, of_cover = self._shares(self._standardized(input_dn, held), present)
            doubt = self._meter(tuple(bands))(input_dn).cpu().numpy() if self.contract.tells_doubt else None
        return PixelScores(landuse=classes[0].cpu().numpy(), cover=of_cover[0].cpu().numpy(), doubt=doubt)

    def _shares(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of each pixel's class and of its cover, of standardised ``(1, bands, H, W)``."""
        contract, head = self.contract, self._network.learned
        found = self.dense_features(x, present)
        if contract.learned is None or head is None or contract.pixels is None:
            return combine(with_prior(found.cover, present, contract), found.use_half, contract)
        classes = (head(found, x, present) / contract.learned.temperature).softmax(1)
        return classes, cover_shares(with_prior(found.cover, present, contract), contract.pixels)

    def dense_features(self, x: Tensor, present: Tensor) -> DenseFeatures:
        """The network alone: standardised ``(B, bands, H, W)`` to the logits, and what they are made of."""
        half = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self._network.dense_features(self._network.features(x, present))

    def _meter(self, bands: tuple[str, ...]) -> DoubtMeter:
        if bands not in self._meters:
            self._meters[bands] = DoubtMeter(self.contract, bands, self.device)
        return self._meters[bands]

    def block_input(self, dn: NDArray[np.uint16], bands: Sequence[str], level: str) -> tuple[Tensor, Tensor]:
        """What the network reads of a block, (1, bands of the contract, H, W), and which bands are there.

        Args:
            dn: as for ``pixel_scores``.
            bands: as for ``pixel_scores``.
            level: ``"L1C"`` or ``"L2A"``.

        Raises:
            ModelError: type, shape, bands or level are not the contract's.
        """
        return self._input(dn, tuple(bands), level)

    def _input(self, dn: NDArray[np.uint16], bands: tuple[str, ...], level: str) -> tuple[Tensor, Tensor]:
        """(1, bands of the contract, H, W) and which of the optional ones are there, (1, optional)."""
        held = self.contract.bands
        input_dn, present = self._input_dn(dn, bands, level, held)
        return self._standardized(input_dn, held), present

    def _standardized(self, input_dn: Tensor, held: tuple[str, ...]) -> Tensor:
        return standardize(input_dn, self.contract, held).contiguous(memory_format=torch.channels_last)

    def _input_dn(
        self, dn: NDArray[np.uint16], bands: tuple[str, ...], level: str, held: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        """What ``_input`` makes, in DN that are neither clipped nor standardised, of the bands ``held``."""
        contract = self.contract
        known = [band for band in contract.bands if band in bands]
        missing = [band for band in contract.required_bands if band not in bands]
        if missing or tuple(known) != bands:
            raise ModelError(
                f"Model {contract.name} takes the bands {', '.join(contract.bands)} in this order, of which "
                f"{', '.join(contract.required_bands)} are required; it was given "
                f"{', '.join(bands) or 'none'}."
            )
        side = self.position_px
        if dn.dtype != np.uint16 or dn.ndim != 3 or dn.shape[0] != len(bands):
            raise ModelError(
                f"Model {contract.name} takes uint16 DN (reflectance x 10000) of shape ({len(bands)}, "
                f"height, width); it was given {dn.dtype} of shape {dn.shape}. Scale and convert the pixels "
                "first."
            )
        if not dn.size or dn.shape[1] % side or dn.shape[2] % side:
            raise ModelError(
                f"Model {contract.name} takes blocks whose sides are multiples of {side} px; it was given "
                f"{dn.shape[1]} x {dn.shape[2]} px. Pad the block."
            )
        whole = dn[None]
        if held != bands:
            # Filled by numpy: torch has no indexed assignment of uint16.
            whole = np.zeros((1, len(held), *dn.shape[1:]), np.uint16)
            whole[0, [held.index(band) for band in bands]] = dn
        stored = torch.from_numpy(np.ascontiguousarray(whole))
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the computing
            stored = stored.pin_memory().to(self.device, non_blocking=True)
        present = torch.tensor([[float(band in bands) for band in contract.optional_bands]])
        return bring_to_input(stored, contract, level, held), present.to(self.device)


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r} is unknown. Use {', '.join(PRECISIONS)}.")
