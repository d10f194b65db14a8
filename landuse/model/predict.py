"""Batches of patches to class probabilities.

Maps are made of overlapping windows computed in blocks, so a patch has to score the same whatever
block it is read in: every forward pass has the same batch size (the last one is padded), because
kernels are chosen, and sums ordered, by the shape of the batch. On a CPU the network runs in full
float32; on a GPU with bfloat16 arithmetic its convolutions run in that, and all else in float32.
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from landuse.errors import ModelError, UsageError
from landuse.model.checkpoint import load_checkpoint, model_path
from landuse.model.devices import resolve_device
from landuse.model.networks import fold_norms
from landuse.model.normalize import bring_to_input, standardize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from landuse.contract import ModelContract
    from landuse.model.networks import PatchNetwork

log = logging.getLogger(__name__)

CELL_SIGMA_PX = 18.0
"""Width of the Gaussian by which the evidence around a cell counts. On mosaics of validation patches
12 to 32 px map cells about equally well, and all better than a patch's plain mean; the smaller the
value, the less a river or a road grows to the width of a patch."""

DEFAULT_BATCH_SIZE = 64
"""Good on any processor; used until there are patches enough to try others out."""

BATCH_SIZES = (16, 32, 64, 128, 256, 512)
"""What is tried. Beyond 512 patches nothing is gained, and their features take gigabytes."""

BATCH_TIMINGS = 2
"""Timings of each size; the fastest counts, since others may use the machine too."""

NEAR_BEST = 0.97
"""The smallest size counts that is so close to the fastest one."""

HOPELESS = 0.85
"""Sizes grow until one is so much slower than the best before."""


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


def fastest_size(
    run: Callable[[int], object], sizes: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> int:
    """The batch size with the most patches a second; the smallest of those that are about as fast.

    Args:
        run: computes a batch of that size to its end.
        sizes: what to try, growing. One that does not fit into memory ends the search.
        clock: seconds.
    """
    run(sizes[0])  # the first batch also sets things up
    pace: dict[int, float] = {}
    for size in sizes:
        seconds = []
        try:
            for _ in range(BATCH_TIMINGS):
                began = clock()
                run(size)
                seconds.append(clock() - began)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        pace[size] = size / max(min(seconds), 1e-9)
        if pace[size] < HOPELESS * max(pace.values()):
            break
    best = max(pace.values())
    return min(size for size in pace if pace[size] >= NEAR_BEST * best)


def cell_weights(patch_px: int, cells: int, positions: int) -> NDArray[np.float32]:
    """How much each position of a feature map says of each cell, along one axis.

    A Gaussian of ``CELL_SIGMA_PX`` around every pixel of the cell, summed over them and scaled to
    sum to 1 over positions. Where a patch has several cells, its outermost positions say nothing: they
    have seen the zeros that pad the patch, and other windows see the same ground further inside.

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
    if cells > 1 and positions >= 4:
        weights[:, [0, -1]] = 0
    shares: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares


def _to_numpy(parts: list[Tensor], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Batches as one array; of no batches, an empty one of ``(0, *shape)``."""
    if not parts:
        return np.empty((0, *shape), np.float32)
    joined: NDArray[np.float32] = torch.cat(parts).contiguous().cpu().numpy()
    return joined


def full_float32() -> AbstractContextManager[None]:
    """Convolutions in TF32, the default on recent GPUs, keep 10 bits of each product: not here."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


class Predictor:
    """A network with its contract, ready to classify patches of any level the contract names.

    Attributes:
        contract: bands, levels, classes and patch size.
        device: where the network runs.
        batch_size: patches a forward pass now.
        weights_sha256: SHA-256 of the checkpoint's file, in hex: what a run's hash and report name.
        weights_path: the checkpoint's file, where it came from one.
    """

    def __init__(
        self,
        network: PatchNetwork,
        contract: ModelContract,
        *,
        device: torch.device,
        batch_size: int | None,
        weights_sha256: str,
        weights_path: Path | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"--batch-size {batch_size} is below 1. Use 64, or less where memory is short.")
        self.contract = contract
        self.device = device
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        self._to_try_out = batch_size is None
        self._half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.weights_sha256 = weights_sha256
        self.weights_path = weights_path
        self._network = network.eval().to(device=device, dtype=torch.float32)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub

    @classmethod
    def load(cls, model: str, device: str = "auto", batch_size: int | None = None) -> Self:
        """The predictor of a shipped model's name or of a checkpoint's path.

        Args:
            model: name or path.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
            batch_size: patches a forward pass; decides memory and speed. None tries out what is fastest
                as soon as there are patches enough.

        Raises:
            ModelError: there is no such model, or its file is corrupt or foreign.
            UsageError: the device is unknown or missing, or the batch size is below 1.
        """
        target = resolve_device(device)
        path = model_path(model)
        network, contract = load_checkpoint(path)
        fold_norms(network)
        return cls(
            network,
            contract,
            device=target,
            batch_size=batch_size,
            weights_sha256=file_sha256(path),
            weights_path=path,
        )

    @torch.inference_mode()
    def probabilities(self, dn: NDArray[np.uint16], level: str) -> NDArray[np.float32]:
        """Class probabilities of patches.

        Args:
            dn: (N, bands, S, S) uint16, reflectance x 10000 without offset, bands in the contract's
                order, S its patch size. No pixel is nodata: the caller has filled those.
            level: ``"L1C"`` or ``"L2A"``.

        Returns:
            (N, classes) float32; each row sums to 1, but of labels, and does not depend on the other patches.

        Raises:
            ModelError: type, shape, number of bands or level are not the contract's.
        """
        self._check(dn, level)
        scores = list(self._forward(dn, level, self._logits))
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
            (N, classes, cells, cells) float32; sums to 1 over classes, but of labels.

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
            evidence = self._evidence(x)  # (B, classes, h, w)
            weights = torch.from_numpy(
                cell_weights(self.contract.patch_size_px, cells, evidence.shape[2])
            ).to(x.device)
            return torch.einsum("bchw,ih,jw->bcij", evidence, weights, weights)

        scores = list(self._forward(dn, level, cell_logits))
        return _to_numpy(scores, (len(self.contract.classes), cells, cells))

    def _input(self, dn: NDArray[np.uint16], level: str) -> Tensor:
        """(N, bands, H, W) DN to the network's input; whole numbers cross to the device, two bytes each."""
        whole = torch.from_numpy(np.ascontiguousarray(dn))
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the computing
            whole = whole.pin_memory().to(self.device, non_blocking=True)
        x = standardize(bring_to_input(whole, self.contract, level), self.contract)
        return x.contiguous(memory_format=torch.channels_last)

    def _forward(
        self, dn: NDArray[np.uint16], level: str, run: Callable[[Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Probabilities of each batch; every forward pass has ``batch_size`` patches."""
        with full_float32():
            if self._to_try_out and len(dn) >= BATCH_SIZES[-1]:
                self._to_try_out = False
                self.batch_size = fastest_size(
                    lambda size: run(self._input(dn[:size], level)).cpu(), BATCH_SIZES
                )
                log.info("Batches of %d patches are fastest here.", self.batch_size)
            for start in range(0, len(dn), self.batch_size):
                part = dn[start : start + self.batch_size]
                count = len(part)
                if count < self.batch_size:
                    part = np.concatenate(
                        [part, np.zeros((self.batch_size - count, *dn.shape[1:]), np.uint16)]
                    )
                logits = run(self._input(part, level)) / self.contract.temperature
                # Over the last axis each row is worked out alone; over another one threads share the
                # rows in chunks whose ends round differently.
                last = logits.movedim(1, -1).contiguous()  # (B, ..., classes)
                told = last.softmax(-1) if self.contract.labels is None else last.sigmoid()
                yield told.movedim(-1, 1)[:count]  # (n, classes, ...)

    def _evidence(self, x: Tensor) -> Tensor:
        """Class evidence in float32; convolutions as the device does them best."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            features = self._network.features(x)
        return self._network.evidence(features.float())

    def _logits(self, x: Tensor) -> Tensor:
        """Of whole patches, in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            logits: Tensor = self._network(x)
        return logits.float()

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
