"""Blocks of imagery to class probabilities, by a model that landuse did not train.

A model of patches votes with one answer for all cells of a patch; overlapping patches are averaged. A dense
model sees windows of one size, placed so that each pixel that is kept has ``context_px`` of others around
it, as far as there is imagery. Every forward pass has the same shape.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landuse.errors import ModelError
from landuse.model.foreign.contract import (
    CHANNELS_LAST,
    DENSE,
    LOGITS,
    ForeignContract,
    ForeignModel,
    contract_of,
    read_contract,
)
from landuse.model.foreign.files import input_shape, opened, output_shape, read_model, torch_function

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SUM_TOLERANCE = 1e-3
"""How far the probabilities of a place may be from a sum of 1."""

_TRIAL_DN = (0, 4000)
"""What a model is tried out on: noise between these."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForeignScores:
    """What a block's pixels were found to be."""

    landuse: NDArray[np.float32]
    """(class, y, x), probabilities that sum to 1."""
    cover: NDArray[np.float32]
    """The same: each class is a cover of its own."""
    doubt: None = None
    """Nothing tells what the model was trained on."""


class _Foreign:
    """What models of patches and dense ones share.

    Attributes:
        contract: what a map needs to know.
        foreign: all that the model's contract says.
        weights_sha256: digest of the model and its contract.
        weights_path: None; the digest is of two files.
    """

    weights_path: Path | None = None

    def __init__(
        self, run: Callable[[NDArray[np.float32]], object], foreign: ForeignContract, weights_sha256: str
    ) -> None:
        self.contract = foreign.model
        self.foreign = foreign
        self.weights_sha256 = weights_sha256
        self._run = run
        self._try_out()

    def _try_out(self) -> None:
        """One forward pass on noise, so that a model that its contract does not fit fails before a map."""
        rng = np.random.default_rng(0)
        size, bands = self.contract.patch_size_px, len(self.contract.bands)
        noise = rng.integers(*_TRIAL_DN, (1, bands, size, size), np.uint16, endpoint=True)
        self._probabilities(noise, self.contract.levels[0].level)

    def _probabilities(self, dn: NDArray[np.uint16], level: str) -> NDArray[np.float32]:
        """(N, bands, size, size) DN to (N, classes, ...) probabilities; N is at most a batch."""
        values = self._input(dn, level)
        if (lacking := self.foreign.batch_size - len(values)) > 0:
            values = np.concatenate([values, np.zeros((lacking, *values.shape[1:]), np.float32)])
        if self.foreign.layout == CHANNELS_LAST:
            values = np.ascontiguousarray(np.moveaxis(values, 1, -1))
        if values.shape != input_shape(self.foreign):
            raise ValueError(f"a batch of {values.shape} is not one of {input_shape(self.foreign)}")
        try:
            out = self._run(values)
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # whatever a network of the user's raises
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(
                f"Model {self.contract.name} failed on an array of {values.shape} ({reason}). Correct the "
                "model, or bands, size_px, batch_size or layout of its contract."
            ) from error
        return self._checked(out)[: len(dn)]

    def _input(self, dn: NDArray[np.uint16], level: str) -> NDArray[np.float32]:
        entry = self.contract.level_input(level)
        if entry is None:
            raise ModelError(
                f"Model {self.contract.name} reads "
                f"{', '.join(one.level for one in self.contract.levels)}; the imagery is {level}. Choose "
                "another --model or a source of that level."
            )

        def per_band(values: Sequence[float]) -> NDArray[np.float32]:
            return np.array(values, np.float32)[:, None, None]

        contract, most = self.contract, np.array(self.contract.saturation_dn)
        values = dn.astype(np.float32) * per_band(entry.gain) + per_band(entry.offset_dn)
        np.clip(values, 0, per_band(contract.saturation_dn), out=values)
        mean, std = np.array(contract.mean) * most, np.array(contract.std) * most
        scaled: NDArray[np.float32] = (values - per_band(mean.tolist())) / per_band(std.tolist())
        return scaled

    def _checked(self, out: object) -> NDArray[np.float32]:
        """(N, classes, ...) probabilities of what a model returned.

        Raises:
            ModelError: it is no array of the contract's shape, not finite, or no probabilities.
        """
        name, wanted = self.contract.name, output_shape(self.foreign)
        shape = getattr(out, "shape", None)
        if not isinstance(out, np.ndarray) or out.dtype.kind != "f" or shape != wanted:
            found = type(out).__name__ if shape is None else f"{getattr(out, 'dtype', '')} of {tuple(shape)}"
            raise ModelError(
                f"Model {name} gives {found}, and its contract means floats of {wanted}. Correct classes, "
                "size_px, kind or layout of the contract, or the model."
            )
        if not np.isfinite(out).all():
            raise ModelError(
                f"Model {name} gives values that are not finite (NaN or infinite). Check mean_dn, std_dn and "
                "the weights."
            )
        scores = np.moveaxis(out, -1, 1) if self.foreign.layout == CHANNELS_LAST and out.ndim == 4 else out
        if self.foreign.output == LOGITS:
            scores = scores.astype(np.float32) / np.float32(self.contract.temperature)
            scores = np.exp(scores - scores.max(1, keepdims=True))
        elif scores.min() < -SUM_TOLERANCE or abs(scores.sum(1) - 1).max() > SUM_TOLERANCE:
            raise ModelError(
                f"Model {name} gives values of {scores.min():g} to {scores.max():g} that sum to "
                f"{scores.sum(1).min():g} to {scores.sum(1).max():g}, no probabilities. Say output: logits "
                "in its contract, or add a softmax to the model."
            )
        shares = scores.clip(0).astype(np.float32)
        normed: NDArray[np.float32] = shares / shares.sum(1, keepdims=True)
        return normed


class ForeignPatchPredictor(_Foreign):
    """A model of patches."""

    def cell_probabilities(self, dn: NDArray[np.uint16], level: str, cells: int) -> NDArray[np.float32]:
        """(N, bands, size, size) DN to (N, class, cells, cells): every cell of a patch has its answer."""
        step = self.foreign.batch_size
        parts = [self._probabilities(dn[at : at + step], level) for at in range(0, len(dn), step)]
        answers = np.concatenate([np.zeros((0, len(self.contract.classes)), np.float32), *parts])
        return np.broadcast_to(answers[:, :, None, None], (*answers.shape, cells, cells))


class ForeignPixelPredictor(_Foreign):
    """A dense model."""

    @property
    def position_px(self) -> int:
        """A block begins and ends on multiples of it."""
        return self.foreign.multiple_px

    def pixel_scores(self, dn: NDArray[np.uint16], bands: Sequence[str], level: str) -> ForeignScores:
        """(band, y, x) DN to the probabilities of each pixel, window by window.

        Raises:
            ModelError: bands or level are not the contract's, or the model's answer is none.
        """
        contract = self.contract
        if tuple(bands) != contract.bands or dn.ndim != 3 or len(dn) != len(contract.bands):
            raise ModelError(
                f"Model {contract.name} takes the bands {', '.join(contract.bands)} in this order; it was "
                f"given {', '.join(bands) or 'none'}."
            )
        size = contract.patch_size_px
        height, width = dn.shape[1:]
        lacking = [(0, max(size - side, 0)) for side in (height, width)]
        padded = np.pad(dn, [(0, 0), *lacking], "edge")
        rows, cols = (
            windows(side, size, self.foreign.context_px, self.foreign.multiple_px)
            for side in padded.shape[1:]
        )
        found = np.empty((len(contract.classes), *padded.shape[1:]), np.float32)
        places = [(row, col) for row in rows for col in cols]
        step = self.foreign.batch_size
        for at in range(0, len(places), step):
            batch = places[at : at + step]
            stack = np.stack(
                [padded[:, r.start : r.start + size, c.start : c.start + size] for r, c in batch]
            )
            for (r, c), shares in zip(batch, self._probabilities(stack, level), strict=True):
                found[:, r.first : r.last, c.first : c.last] = shares[
                    :, r.first - r.start : r.last - r.start, c.first - c.start : c.last - c.start
                ]
        shares = found[:, :height, :width]
        return ForeignScores(landuse=shares, cover=shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window along one axis, and what of its answer is kept."""

    start: int
    """Its first pixel."""
    first: int
    """First pixel that is kept."""
    last: int
    """One past the last that is kept."""


def windows(length: int, size: int, context: int, multiple: int) -> list[Window]:
    """Windows that cover an axis once, each kept pixel ``context`` from the window's ends or at the axis's.

    Args:
        length: of the axis; at least ``size``, a multiple of ``multiple``.
        size: of a window, likewise.
        context: pixels that are not kept at an end of a window that is not the axis's.
        multiple: windows begin on multiples of it.

    Example:
        >>> [(w.start, w.first, w.last) for w in windows(100, 60, 10, 1)]
        [(0, 0, 50), (40, 50, 100)]
    """
    context = -(-context // multiple) * multiple
    starts = [*range(0, length - size, size - 2 * context), length - size]
    edges = [0, *(start + size - context for start in starts[:-1]), length]
    return [
        Window(start=start, first=first, last=last)
        for start, first, last in zip(starts, edges[:-1], edges[1:], strict=True)
    ]


def load_file(path: Path, device: str) -> ForeignPatchPredictor | ForeignPixelPredictor:
    """The predictor of an ONNX or TorchScript file with its contract beside it.

    Raises:
        ModelError: file or contract is missing, damaged, or they do not fit each other.
        UsageError: the device is unknown or missing.
    """
    content = read_model(path)  # first: whoever gives a pickle is told so, with or without a contract
    beside = path.with_suffix(".json")
    foreign = read_contract(beside)
    digest = hashlib.sha256(content)
    if foreign.sha256 is not None and foreign.sha256 != digest.hexdigest():
        raise ModelError(
            f"Model {path} has the digest {digest.hexdigest()}, and {beside} is the contract of "
            f"{foreign.sha256}. Give the file that it is about."
        )
    digest.update(foreign.to_json().encode())
    return _predictor(opened(path, content, foreign, device), foreign, digest.hexdigest())


def load_held(model: ForeignModel, device: str) -> ForeignPatchPredictor | ForeignPixelPredictor:
    """The predictor of a network that is held in Python.

    Raises:
        ModelError: its contract is none, or the network does not fit it.
        UsageError: the device is unknown or missing.
    """
    given = model.contract
    foreign = read_contract(Path(given)) if isinstance(given, str | Path) else contract_of(dict(given))
    network: Any = model.network
    digest = hashlib.sha256(foreign.to_json().encode())
    digest.update(model.version.encode())
    run: Callable[[NDArray[np.float32]], object] = network
    if _is_module(network):
        from landuse.model.devices import resolve_device

        kind = type(network)
        digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().double().numpy().tobytes())
        run = torch_function(network, resolve_device(device))
    elif not callable(network):
        raise ModelError(
            f"A network of {type(network).__name__} is neither a torch.nn.Module nor a function of arrays. "
            "Give a path as model= itself."
        )
    elif not model.version:
        raise ModelError(
            f"Model {foreign.model.name} is a function, and nothing tells which version. Name it: "
            "landuse.ForeignModel(network, contract, version='2024-06')."
        )
    return _predictor(run, foreign, digest.hexdigest())


def _is_module(network: object) -> bool:
    """Whether it is a module of torch, which is not imported for that: who holds one has imported it."""
    return any(
        kind.__module__.startswith("torch.") and kind.__name__ == "Module" for kind in type(network).__mro__
    )


def _predictor(
    run: Callable[[NDArray[np.float32]], object], foreign: ForeignContract, digest: str
) -> ForeignPatchPredictor | ForeignPixelPredictor:
    if foreign.kind == DENSE:
        return ForeignPixelPredictor(run, foreign, digest)
    return ForeignPatchPredictor(run, foreign, digest)
