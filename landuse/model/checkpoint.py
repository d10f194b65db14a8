"""Weights together with the contract they need, as safetensors.

One file holds both: the tensors, and in the header the network's config and the contract as JSON.
Nothing in a checkpoint is ever executed: pickles are refused unread.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from landuse.contract import (
    REFLECTANCE,
    KnownSpectra,
    LabelOutputs,
    LearnedClasses,
    LevelInput,
    ModelContract,
    PixelOutputs,
)
from landuse.errors import ModelError, OutputError
from landuse.model import WEIGHTS, shipped_models
from landuse.model.networks import build_network, config_from_dict
from landuse.model.pixel_network import NAME as PIXEL_NETWORK
from landuse.model.pixel_network import PixelNet, PixelNetConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _typeshed import DataclassInstance
    from torch import Tensor, nn

    from landuse.model.networks import PatchNetwork

FORMAT = "landuse-checkpoint-2"
MAX_BYTES = 2_000_000_000
DAMAGE = (KeyError, TypeError, ValueError, OverflowError, RuntimeError)
"""What making a config, a contract or a network of hostile JSON can raise (torch: RuntimeError)."""


def model_path(model: str) -> Path:
    """The file of a shipped model's name or of a path.

    Raises:
        ModelError: there is no such model.
    """
    if model in shipped_models():
        return WEIGHTS / f"{model}.safetensors"
    path = Path(model)
    if path.is_file():
        return path
    raise ModelError(
        f"No model {model!r}: neither a shipped model ({', '.join(shipped_models()) or 'none'}) nor a "
        "file. See `landuse models`, or give the path of a .safetensors that `landuse train` wrote."
    )


def contract_from_dict(values: dict[str, Any]) -> ModelContract:
    """The contract of ``asdict``'s values after a way through JSON.

    Raises:
        KeyError, TypeError, ValueError: the values are no contract.
    """
    if not isinstance(values, dict):
        raise TypeError(f"it is a {type(values).__name__}, not an object")
    # Older checkpoints say whether they were trained for an engine that is no more.
    unknown = values.keys() - {field.name for field in fields(ModelContract)} - {"shared_features"}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    contract = ModelContract(
        name=_text(values["name"]),
        bands=_texts(values["bands"]),
        levels=tuple(
            LevelInput(
                level=_text(entry["level"]),
                gain=_numbers(entry["gain"]),
                offset_dn=_numbers(entry["offset_dn"]),
            )
            for entry in _list(values["levels"])
        ),
        saturation_dn=_numbers(values["saturation_dn"]),
        mean=_numbers(values["mean"]),
        std=_numbers(values["std"]),
        classes=_texts(values["classes"]),
        patch_size_px=_whole(values["patch_size_px"]),
        resolution_m=_number(values["resolution_m"]),
        temperature=_number(values["temperature"]),
        # Older checkpoints do not name these seven.
        optional_bands=_texts(values.get("optional_bands", [])),
        pixels=_pixel_outputs(values.get("pixels")),
        spectra=_known_spectra(values.get("spectra")),
        learned=_learned_classes(values.get("learned")),
        input_kind=_text(values.get("input_kind", REFLECTANCE)),
        preprocess=_text(values.get("preprocess", "raw")),
        labels=_label_outputs(values.get("labels")),
    )
    contract.check_names()
    return contract


def _known_spectra(values: dict[str, Any] | None) -> KnownSpectra | None:
    if values is None:
        return None
    if not isinstance(values, dict) or values.keys() != {field.name for field in fields(KnownSpectra)}:
        raise ValueError("spectra is no mixture")
    return KnownSpectra(
        weights=_numbers(values["weights"]),
        means=tuple(map(_numbers, values["means"])),
        factors=tuple(tuple(map(_numbers, factor)) for factor in values["factors"]),
        rare=_number(values["rare"]),
    )


def _pixel_outputs(values: dict[str, Any] | None) -> PixelOutputs | None:
    if values is None:
        return None
    if not isinstance(values, dict):
        raise TypeError(f"pixels is a {type(values).__name__}, not an object")
    unknown = values.keys() - {field.name for field in fields(PixelOutputs)}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)} of pixels")
    return PixelOutputs(
        covers=_texts(values["covers"]),
        uses_of_covers=tuple(map(_texts, _list(values["uses_of_covers"]))),
        uses=_texts(values["uses"]),
        cover_temperature=_number(values["cover_temperature"]),
        use_temperature=_number(values["use_temperature"]),
        visible_cover_bias=_numbers(values.get("visible_cover_bias", [])),  # older ones have none
    )


def _learned_classes(values: dict[str, Any] | None) -> LearnedClasses | None:
    if values is None:
        return None
    if not isinstance(values, dict) or values.keys() != {field.name for field in fields(LearnedClasses)}:
        raise ValueError("learned is no table of classes")
    colors = [tuple(map(_whole, _list(color))) for color in _list(values["colors"])]
    return LearnedClasses(
        colors=tuple(colors),  # type: ignore[arg-type]  # __post_init__ counts their values
        temperature=_number(values["temperature"]),
    )


def _label_outputs(values: dict[str, Any] | None) -> LabelOutputs | None:
    if values is None:
        return None
    if not isinstance(values, dict) or values.keys() != {field.name for field in fields(LabelOutputs)}:
        raise ValueError("labels is no table of thresholds")
    return LabelOutputs(thresholds=_numbers(values["thresholds"]))


def _list(value: object) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{value!r:.60} is no list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(_text, _list(value)))


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{value!r:.60} is no number")
    return float(value)


def _numbers(value: object) -> tuple[float, ...]:
    return tuple(map(_number, _list(value)))


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r:.60} is no whole number")
    return value


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write ``tensors`` and ``header`` to ``path``, whole or not at all.

    Raises:
        OutputError: the folder is missing, not writable, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, metadata=header)
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        raise OutputError(
            f"{path} cannot be written ({error}). Check the folder's rights and the space on its disk."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def save_checkpoint(
    path: Path,
    network: PatchNetwork | PixelNet,
    contract: ModelContract,
    *,
    recipe: DataclassInstance | None = None,
) -> None:
    """Write weights, config and contract to ``path``, whole or not at all.

    Args:
        path: the .safetensors file.
        network: its weights and config.
        contract: what it needs and says.
        recipe: the settings that made the weights, among them the digests of what they were started from
            and taught by; see ``load_recipe``.

    Raises:
        OutputError: the folder is missing, not writable, or the disk is full.
    """
    header = {
        "format": FORMAT,
        "network": json.dumps(network.config.to_dict()),
        "contract": json.dumps(asdict(contract)),
    }
    if recipe is not None:
        header["recipe"] = json.dumps(asdict(recipe))
    write_safetensors(path, network.state_dict(), header)


def _header(path: Path) -> dict[str, str]:
    mend = "Give a .safetensors that `landuse train` wrote, or a name from `landuse models`."
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"Model {path} is larger than {MAX_BYTES} bytes. {mend}")
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"Model {path} is not a readable safetensors file ({error}). {mend}") from error
    if header.get("format") != FORMAT:
        found = header.get("format")
        raise ModelError(f"Model {path} carries no {FORMAT} contract (format: {found!r}). {mend}")
    return header


def has_contract(path: Path) -> bool:
    """True where ``path`` is a checkpoint of ours; False for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load_contract(path: Path) -> ModelContract:
    """Only the contract of a checkpoint; no tensor is read.

    Raises:
        ModelError: the file is missing, corrupt, or carries no contract.
    """
    header = _header(path)
    try:
        return contract_from_dict(json.loads(header["contract"]))
    except DAMAGE as error:
        raise ModelError(f"Model {path}: its contract is damaged ({error}). Train it again.") from error


def load_recipe(path: Path) -> dict[str, Any] | None:
    """The settings that made the weights of a checkpoint; None where it does not say.

    Raises:
        ModelError: the file is missing, corrupt, or its recipe is no JSON object.
    """
    text = _header(path).get("recipe")
    if text is None:
        return None
    try:
        recipe = json.loads(text)
    except ValueError as error:
        raise ModelError(f"Model {path}: its recipe is damaged ({error}). Train it again.") from error
    if not isinstance(recipe, dict):
        raise ModelError(f"Model {path}: its recipe is no object. Train it again.")
    return recipe


def load_checkpoint(path: Path) -> tuple[PatchNetwork, ModelContract]:
    """The network in evaluation mode, on the CPU, and its contract.

    Raises:
        ModelError: the file is missing, corrupt, foreign, or its tensors do not fit its config.
    """
    contract = load_contract(path)
    header = _header(path)
    if contract.pixels is not None:
        raise ModelError(
            f"Model {path} classifies each pixel, and patches are to be classified. Choose a model "
            "of patches."
        )
    try:
        config = config_from_dict(json.loads(header["network"]))
        if (config.bands, config.classes) != (len(contract.bands), len(contract.classes)):
            raise ValueError(
                f"network takes {config.bands} bands and {config.classes} classes, contract names "
                f"{len(contract.bands)} and {len(contract.classes)}"
            )
        # Without storage: the file's real tensors, not its config's claims, decide what is allocated.
        with torch.device("meta"):
            network = build_network(config)
    except DAMAGE as error:
        raise ModelError(f"Model {path}: its network config is damaged ({error}). Train it again.") from error
    load_weights(network, path)
    return network.eval(), contract


def load_pixel_checkpoint(path: Path) -> tuple[PixelNet, ModelContract]:
    """A network that classifies each pixel, in evaluation mode, on the CPU, and its contract.

    Raises:
        ModelError: the file is missing, corrupt, foreign, of a network that classifies patches, or its
            tensors do not fit its config.
    """
    contract = load_contract(path)
    header = _header(path)
    if contract.pixels is None:
        raise ModelError(
            f"Model {path} classifies patches, and pixels are to be classified. Choose a model of pixels, "
            f"such as {PIXEL_NETWORK}."
        )
    try:
        config = PixelNetConfig.from_dict(json.loads(header["network"]))
        found = (config.visible, config.infrared, config.covers, config.uses, config.classes)
        named = (
            len(contract.required_bands),
            len(contract.optional_bands),
            len(contract.pixels.covers),
            len(contract.pixels.uses),
            0 if contract.learned is None else len(contract.classes),
        )
        if found != named or contract.bands != (*contract.required_bands, *contract.optional_bands):
            raise ValueError(
                f"network takes {found[0]} + {found[1]} bands and tells {found[2]} covers, {found[3]} uses "
                f"and {found[4]} learned classes apart, contract names {named[0]} + {named[1]}, {named[2]}, "
                f"{named[3]} and {named[4]}"
            )
        with torch.device("meta"):
            network = PixelNet(config)
    except DAMAGE as error:
        raise ModelError(f"Model {path}: its network config is damaged ({error}). Train it again.") from error
    load_weights(network, path)
    return network.eval(), contract


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill ``network``, which may still be without storage, from ``path``; every name and shape must match.

    Raises:
        ModelError: they do not, or a value is not finite.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"Model {path}: its weights cannot be read ({error}). Train it again.") from error
    own = network.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"Model {path}: its weights do not fit its network ({name} is {found.get(name, 'missing')}, "
                f"the network has {expected.get(name, 'no such tensor')}). Train it again."
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ModelError(f"Model {path}: {name} holds values that are not finite. Train it again.")
    # Copied: the tensors that were read may be a view of the file, which can change.
    copies = {name: tensor.to(own[name].dtype, copy=True) for name, tensor in tensors.items()}
    # Assigned where there is no storage yet; ``to_empty`` would load torch's compiler, which takes a second.
    network.load_state_dict(copies, assign=any(tensor.is_meta for tensor in own.values()))
