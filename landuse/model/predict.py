"""Batches of patches to class probabilities.

Maps are made of overlapping windows computed in blocks, so a patch has to score the same whatever
block it is read in: every forward pass has the same batch size (the last one is padded), in full
float32, because kernels are chosen, and sums ordered, by the shape of the batch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from landuse.errors import ModelError, UsageError
from landuse.model.checkpoint import load_checkpoint, model_path
from landuse.model.devices import resolve_device
from landuse.model.normalize import bring_to_input, standardize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from landuse.model.networks import PatchNetwork
    from landuse.records import ModelContract


CELL_SIGMA_PX = 18.0
"""Width of the Gaussian by which the evidence around a cell counts. On mosaics of validation patches
12 to 32 px map cells about equally well, and all better than a patch's plain mean; the smaller the
value, the less a river or a road grows to the width of a patch."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"Model {path} cannot be read ({error}). Check the path and its rights.") from error


def cell_weights(patch_px: int, cells: int, positions: int) -> NDArray[np.float32]:
    """How much each position of a feature map says of each cell, along one axis.

    A Gaussian of ``CELL_SIGMA_PX`` around every pixel of the cell, summed over them and scaled to
    sum to 1 over positions.

    Args:
        patch_px: side of the patch.
        cells: cells along the side.
        positions: positions of the feature map along the side.

    Returns:
        (cells, positions) float32.
    """
    pixels = np.arange(patch_px)
    centres = (np.arange(positions) + 0.5) * patch_px / positions - 0.5
    closeness = np.exp(
        -0.5 * ((centres[None, :] - pixels[:, None]) / CELL_SIGMA_PX) ** 2
    )  # (pixel, position)
    weights = closeness.reshape(cells, patch_px // cells, positions).sum(1)
    shares: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares


def _to_numpy(parts: list[Tensor], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Batches as one array; of no batches, an empty one of ``(0, *shape)``."""
    if not parts:
        return np.empty((0, *shape), np.float32)
    joined: NDArray[np.float32] = torch.cat(parts).contiguous().cpu().numpy()
    return joined


class Predictor:
    """A network with its contract, ready to classify patches of any level the contract names.

    Attributes:
        contract: bands, levels, classes and patch size.
        device: where the network runs.
        batch_size: patches a forward pass.
        weights_sha256: SHA-256 of the checkpoint's file, in hex: what a run's hash and report name.
    """

    def __init__(
        self,
        network: PatchNetwork,
        contract: ModelContract,
        *,
        device: torch.device,
        batch_size: int,
        weights_sha256: str,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"--batch-size {batch_size} is below 1. Use 64, or less where memory is short.")
        self.contract = contract
        self.device = device
        self.batch_size = batch_size
        self.weights_sha256 = weights_sha256
        self._network = network.eval().to(device=device, dtype=torch.float32)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub

    @classmethod
    def load(cls, model: str, device: str = "auto", batch_size: int = 64) -> Self:
        """The predictor of a shipped model's name or of a checkpoint's path.

        Args:
            model: name or path.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
            batch_size: patches a forward pass; decides memory and speed.

        Raises:
            ModelError: there is no such model, or its file is corrupt or foreign.
            UsageError: the device is unknown or missing, or the batch size is below 1.
        """
        target = resolve_device(device)
        path = model_path(model)
        network, contract = load_checkpoint(path)
        return cls(network, contract, device=target, batch_size=batch_size, weights_sha256=file_sha256(path))

    @torch.inference_mode()
    def probabilities(self, dn: NDArray[np.uint16], level: str) -> NDArray[np.float32]:
        """Class probabilities of patches.

        Args:
            dn: (N, bands, S, S) uint16, reflectance x 10000 without offset, bands in the contract's
                order, S its patch size. No pixel is nodata: the caller has filled those.
            level: ``"L1C"`` or ``"L2A"``.

        Returns:
            (N, classes) float32; each row sums to 1 and does not depend on the other patches.

        Raises:
            ModelError: type, shape, number of bands or level are not the contract's.
        """
        self._check(dn, level)
        scores = list(self._forward(dn, level, self._network))
        return _to_numpy(scores, (len(self.contract.classes),))

    @torch.inference_mode()
    def cell_probabilities(self, dn: NDArray[np.uint16], level: str, cells: int) -> NDArray[np.float32]:
        """Class probabilities of each cell of patches, cut into ``cells x cells``.

        A patch's logits are the mean of the class evidence at every position of the last feature
        map. For a cell that mean is weighted by closeness (``cell_weights``): the patch remains the
        context in which each position was computed, and what lies near the cell decides.

        Args:
            dn: as for ``probabilities``.
            level: ``"L1C"`` or ``"L2A"``.
            cells: cells along a side; 1 asks for the whole patch.

        Returns:
            (N, classes, cells, cells) float32; sums to 1 over classes.

        Raises:
            ModelError: type, shape, number of bands or level are not the contract's.
        """
        self._check(dn, level)
        size = self.contract.patch_size_px
        if cells < 1 or size % cells:
            raise ModelError(
                f"{cells} cells do not divide the {size} px of a patch. Use a divisor of {size}."
            )

        def cell_logits(x: Tensor) -> Tensor:
            evidence = self._network.evidence(self._network.features(x))  # (B, classes, h, w)
            weights = torch.from_numpy(
                cell_weights(self.contract.patch_size_px, cells, evidence.shape[2])
            ).to(x.device)
            return torch.einsum("bchw,ih,jw->bcij", evidence, weights, weights)

        scores = list(self._forward(dn, level, cell_logits))
        return _to_numpy(scores, (len(self.contract.classes), cells, cells))

    def _forward(
        self, dn: NDArray[np.uint16], level: str, run: Callable[[Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Probabilities of each batch; every forward pass has ``batch_size`` patches."""
        # Convolutions in TF32, the default on recent GPUs, keep 10 bits of each product.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for start in range(0, len(dn), self.batch_size):
                part = dn[start : start + self.batch_size]
                batch = np.zeros((self.batch_size, *dn.shape[1:]), np.float32)
                batch[: len(part)] = part
                input_dn = bring_to_input(torch.from_numpy(batch).to(self.device), self.contract, level)
                x = standardize(input_dn, self.contract).contiguous(memory_format=torch.channels_last)
                logits = (run(x) / self.contract.temperature).movedim(1, -1).contiguous()  # (B, ..., classes)
                # Over the last axis each row is worked out alone; over another one threads share the
                # rows in chunks whose ends round differently.
                yield logits.softmax(-1).movedim(-1, 1)[: len(part)]  # (n, classes, ...)

    def _check(self, dn: NDArray[np.uint16], level: str) -> None:
        contract = self.contract
        size = contract.patch_size_px
        if dn.dtype != np.uint16:
            raise ModelError(
                f"Model {contract.name} takes uint16 DN (reflectance x 10000); it was given {dn.dtype}. "
                "Scale and convert the pixels first."
            )
        if dn.ndim != 4 or dn.shape[1] != len(contract.bands):
            raise ModelError(
                f"Model {contract.name} takes (patches, {len(contract.bands)}, {size}, {size}) with the "
                f"bands {', '.join(contract.bands)}; it was given {dn.shape}. Offer exactly those bands in "
                "that order, or choose another --model."
            )
        if dn.shape[2:] != (size, size):
            raise ModelError(
                f"Model {contract.name} classifies patches of {size} x {size} px at "
                f"{contract.resolution_m:g} m; it was given {dn.shape[2]} x {dn.shape[3]} px. Cut the "
                "windows to that size."
            )
        if contract.level_input(level) is None:
            raise ModelError(
                f"Model {contract.name} reads {', '.join(e.level for e in contract.levels)}; the imagery is "
                f"{level}. Choose another --model or a source of that level."
            )
