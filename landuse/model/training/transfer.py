"""Starting a network from weights that were learned on something else.

Bands that the given weights know are matched by name. A band they do not know starts with weights
of zero: the first output is then exactly the given network's, and training decides what the band
is worth. Other classes get a fresh last layer.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from landuse.contract import RGB8
from landuse.errors import ModelError
from landuse.model.bands import RGB
from landuse.model.checkpoint import has_contract, load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from landuse.contract import ModelContract
    from landuse.model.networks import PatchNetwork

log = logging.getLogger(__name__)


def start_from(path: Path, network: PatchNetwork, contract: ModelContract) -> ModelContract:
    """Fill ``network`` with the weights in ``path``, and say how its input is now scaled.

    Args:
        path: a checkpoint of ours, or for ``resnet50`` a safetensors file with torchvision's
            parameter names (ImageNet weights).
        network: the network to fill.
        contract: the contract of the run; its mean and std were measured on the training patches.

    Returns:
        ``contract``, with mean, std and saturation of each band that the given weights know.

    Raises:
        ModelError: the file cannot be read, or is of another network.
    """
    # Images of unknown origin have no Sentinel-2 bands: their red, green and blue are taken for those.
    images = contract.input_kind == RGB8
    wanted = RGB if images else contract.bands
    if network.config.name == "resnet50" and not has_contract(path):
        _fill(path, network, _foreign_tensors(path), RGB, wanted, same_classes=False)
        return contract
    given, known = load_checkpoint(path)
    if _without_ends(given.config.to_dict()) != _without_ends(network.config.to_dict()):
        raise ModelError(
            f"--init {path} is {given.config.name}; the run trains {network.config.name}. Start from weights "
            "of the same network, or from scratch."
        )
    same_classes = known.classes == contract.classes
    known_bands = RGB if known.input_kind == RGB8 else known.bands
    _fill(path, network, given.state_dict(), known_bands, wanted, same_classes)
    if (contract.input_kind, contract.preprocess) != (known.input_kind, known.preprocess):
        return contract  # the values are of another kind: their own mean and spread hold
    return _scaled_like(contract, known)


def _foreign_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"--init {path} is not a readable safetensors file ({error}). Pickled weights are never loaded: "
            "give the safetensors of torchvision's resnet50."
        ) from error


def _without_ends(config: dict[str, object]) -> dict[str, object]:
    """A network's config without what a start from other data may change."""
    return {key: value for key, value in config.items() if key not in ("bands", "classes")}


def _scaled_like(contract: ModelContract, known: ModelContract) -> ModelContract:
    """``contract`` with the input scaling that the known bands' weights were learned with."""

    def merged(own: tuple[float, ...], given: tuple[float, ...]) -> tuple[float, ...]:
        by_band = dict(zip(known.bands, given, strict=True))
        return tuple(by_band.get(band, value) for band, value in zip(contract.bands, own, strict=True))

    return replace(
        contract,
        mean=merged(contract.mean, known.mean),
        std=merged(contract.std, known.std),
        saturation_dn=merged(contract.saturation_dn, known.saturation_dn),
    )


def _fill(
    path: Path,
    network: PatchNetwork,
    tensors: dict[str, Tensor],
    known: tuple[str, ...],
    wanted: tuple[str, ...],
    same_classes: bool,
) -> None:
    """Load ``tensors`` with the first layer spread over the wanted bands, the last where classes agree."""
    state = network.state_dict()
    names = {id(module): name for name, module in network.named_modules()}
    first = f"{names[id(network.input_layer)]}.weight"
    last = names[id(network.output_layer)]
    fresh = set() if same_classes else {f"{last}.weight", f"{last}.bias"}
    start = {key: value for key, value in tensors.items() if key not in fresh}
    own = {key: state[key] for key in fresh}
    shapes = {key: tuple(value.shape) for key, value in start.items() if key != first}
    expected = {key: tuple(value.shape) for key, value in state.items() if key not in fresh | {first}}
    # torchvision's files of before 2018 lack the counters; they only matter without a momentum.
    counters = {key for key in expected if key.endswith("num_batches_tracked")} - shapes.keys()
    wrong = sorted(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
    wrong = [key for key in wrong if key not in counters]
    if wrong or first not in start:
        raise ModelError(
            f"--init {path} does not fit {network.config.name}: {wrong[0] if wrong else first} is missing, "
            "unknown or of another shape. Start from weights of the same network."
        )
    spread = _spread(path, start[first], state[first], known, wanted)
    network.load_state_dict(start | own | {key: state[key] for key in counters} | {first: spread})
    log.info("started from %s; new bands: %s", path, [b for b in wanted if b not in known] or "none")


def _spread(
    path: Path, given: Tensor, own: Tensor, known: tuple[str, ...], wanted: tuple[str, ...]
) -> Tensor:
    """The first layer's weight ``(out, bands * k, h, w)`` for the wanted bands; unknown ones are zero."""
    each = own.shape[1] // len(wanted)
    fits = (own.shape[0], len(known) * each, *own.shape[2:])
    if tuple(given.shape) != fits:
        raise ModelError(f"--init {path}: its first layer is {tuple(given.shape)}; {fits} was expected.")
    spread = torch.zeros(own.shape, dtype=own.dtype)
    for row, band in enumerate(wanted):
        if band in known:
            source = known.index(band)
            spread[:, row * each : (row + 1) * each] = given[:, source * each : (source + 1) * each]
    return spread
