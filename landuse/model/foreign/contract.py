"""What a model that landuse did not train takes and gives, as its author states it.

The contract is a JSON file beside the model's file, of the same name but for its end (``crops.onnx`` and
``crops.json``), or a dictionary of the same keys in Python. All of it is checked before anything runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from landuse.contract import MAX_DN, LevelInput, ModelContract, PixelOutputs
from landuse.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FORMAT = "landuse-foreign-model-1"

PATCH, DENSE = "patch", "dense"
LOGITS, PROBABILITIES = "logits", "probabilities"
CHANNELS_FIRST, CHANNELS_LAST = "channels-first", "channels-last"

MAX_CONTRACT_BYTES = 1_000_000
MAX_BATCH = 512
MAX_CONTEXT_PX = 72
"""What is read around a block of a map: a window cannot be given more of it."""

DEFAULT_SATURATION_DN = 65_535.0
"""Where a contract names none: nothing is cut."""

_REQUIRED = {"format", "name", "kind", "bands", "levels", "classes", "mean_dn", "std_dn", "size_px", "output"}
_OPTIONAL = {
    "saturation_dn",
    "resolution_m",
    "temperature",
    "layout",
    "batch_size",
    "context_px",
    "multiple_px",
    "output_name",
    "sha256",
}

DAMAGE = (KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What making a contract of hostile JSON can raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignContract:
    """A contract, checked."""

    model: ModelContract
    """What a map needs to know of it. Its ``patch_size_px`` is the side of a patch, or of a window."""
    kind: str
    """``"patch"``: (N, bands, size, size) to (N, classes). ``"dense"``: to (N, classes, size, size)."""
    output: str
    """``"logits"`` or ``"probabilities"``."""
    layout: str
    """``"channels-first"``, or ``"channels-last"``: (N, size, size, bands) to (N, size, size, classes)."""
    batch_size: int
    """Patches or windows of each forward pass; the last pass is filled up."""
    context_px: int
    """Dense: pixels along each side of a window that are looked at and not kept."""
    multiple_px: int
    """Dense: windows begin on multiples of so many pixels."""
    output_name: str | None
    """Which output of an ONNX file of several."""
    sha256: str | None
    """Digest of the model's file, in hex, where the contract names it."""

    def to_json(self) -> str:
        """The contract in one spelling: what digests are made of."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True, eq=False)
class ForeignModel:
    """A network that is held in Python and did not come from landuse, with its contract.

    Give it to ``landuse.map`` or ``landuse.classify`` as ``model``. Nothing is unpickled: how the network
    was loaded is your own affair.

    Args:
        network: a ``torch.nn.Module``, or any function of one float32 array of ``(N, bands, size, size)``
            that returns one of ``(N, classes)`` or ``(N, classes, size, size)``, as the contract says.
        contract: the keys of the contract's JSON, or the path of that file.
        version: names what computes. A function needs it: blocks that an earlier run finished are taken
            over only where it is the same. Of a module the weights and its class tell.

    Example:
        >>> import landuse
        >>> model = landuse.ForeignModel(network, "crops.json")  # doctest: +SKIP
        >>> landuse.map(source="catalog", model=model, out="map")  # doctest: +SKIP
    """

    network: Callable[..., Any]
    contract: Mapping[str, object] | str | Path
    version: str = field(default="", kw_only=True)


def read_contract(path: Path) -> ForeignContract:
    """The contract in a JSON file.

    Raises:
        ModelError: it cannot be read, or states what no model may be.
    """
    try:
        if not path.is_file():
            raise ModelError(
                f"No contract {path}. Beside a model's file must lie a JSON file that says what it takes and "
                "gives: see docs/how-to/foreign-models.md."
            )
        if (size := path.stat().st_size) > MAX_CONTRACT_BYTES:
            raise ModelError(f"Contract {path} has {size} bytes, more than {MAX_CONTRACT_BYTES}.")
        values = json.loads(path.read_text("utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"Contract {path} is no readable JSON ({error}). Correct the file.") from error
    return contract_of(values, f"Contract {path}")


def contract_of(values: object, told: str = "The contract") -> ForeignContract:
    """The contract of its JSON's values.

    Args:
        values: what the file holds.
        told: how messages call it.

    Raises:
        ModelError: a key is missing, unknown or out of its bounds.

    Example:
        >>> contract_of(json.loads(text)).kind  # doctest: +SKIP
        'dense'
    """
    try:
        return _contract(values)
    except DAMAGE as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{told} cannot be used: {reason}. Correct it.") from error


def _contract(values: object) -> ForeignContract:
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise TypeError("it is no JSON object")
    missing, unknown = _REQUIRED - values.keys(), values.keys() - _REQUIRED - _OPTIONAL
    if values.get("format") != FORMAT:
        raise ValueError(f"format is {values.get('format')!r:.60}, not {FORMAT!r}")
    if missing or unknown:
        raise ValueError(
            "; ".join(
                f"{told} keys {', '.join(sorted(key[:40] for key in keys))}"
                for told, keys in (("missing", missing), ("unknown", unknown))
                if keys
            )
        )
    kind = _one_of("kind", values["kind"], (PATCH, DENSE))
    bands, classes = _texts("bands", values["bands"]), _texts("classes", values["classes"])
    saturation = _per_band("saturation_dn", values.get("saturation_dn", DEFAULT_SATURATION_DN), bands)
    if not all(1 <= value <= MAX_DN for value in saturation):
        raise ValueError(f"saturation_dn {saturation} must be within 1 to {MAX_DN:g}")
    mean, std = _per_band("mean_dn", values["mean_dn"], bands), _per_band("std_dn", values["std_dn"], bands)
    model = ModelContract(
        name=_text("name", values["name"]),
        bands=bands,
        levels=_levels(values["levels"], bands),
        saturation_dn=saturation,
        mean=tuple(value / most for value, most in zip(mean, saturation, strict=True)),
        std=tuple(value / most for value, most in zip(std, saturation, strict=True)),
        classes=classes,
        patch_size_px=_whole("size_px", values["size_px"], (1, 512)),
        resolution_m=_number("resolution_m", values.get("resolution_m", 10)),
        temperature=_number("temperature", values.get("temperature", 1)),
    )
    model.check_names()
    if kind == DENSE:
        # Each class is a cover of its own: nothing more is known of it.
        one_each = tuple((name,) for name in classes)
        model = replace(model, pixels=PixelOutputs(covers=classes, uses_of_covers=one_each, uses=()))
    size = model.patch_size_px
    if kind == PATCH and (stated := values.keys() & {"context_px", "multiple_px"}):
        raise ValueError(f"{', '.join(sorted(stated))} is for dense models, and this one is of patches")
    context = _whole("context_px", values.get("context_px", 0), (0, MAX_CONTEXT_PX))
    multiple = _whole("multiple_px", values.get("multiple_px", 1), (1, 256))
    if size % multiple or size - 2 * -(-context // multiple) * multiple < multiple:
        raise ValueError(
            f"a window of size_px {size} must be a multiple of multiple_px {multiple}, and keep something "
            f"between the context_px {context} on both sides, in steps of {multiple}"
        )
    output_name, sha256 = values.get("output_name"), values.get("sha256")
    if sha256 is not None and (len(_text("sha256", sha256)) != 64 or set(sha256) - set("0123456789abcdef")):
        raise ValueError("sha256 is not 64 digits of 0-9 and a-f")
    return ForeignContract(
        model=model,
        kind=kind,
        output=_one_of("output", values["output"], (LOGITS, PROBABILITIES)),
        layout=_one_of("layout", values.get("layout", CHANNELS_FIRST), (CHANNELS_FIRST, CHANNELS_LAST)),
        batch_size=_whole("batch_size", values.get("batch_size", 64 if kind == PATCH else 1), (1, MAX_BATCH)),
        context_px=context,
        multiple_px=multiple,
        output_name=None if output_name is None else _text("output_name", output_name),
        sha256=sha256,
    )


def _levels(value: object, bands: tuple[str, ...]) -> tuple[LevelInput, ...]:
    if not isinstance(value, dict):
        raise TypeError('levels is no object such as {"L2A": {}}')
    entries = []
    for level, transform in value.items():
        if not isinstance(transform, dict) or transform.keys() - {"gain", "offset_dn"}:
            raise TypeError(f"level {level!r:.20} is no object of gain and offset_dn")
        entries.append(
            LevelInput(
                level=level,
                gain=_per_band("gain", transform.get("gain", 1.0), bands),
                offset_dn=_per_band("offset_dn", transform.get("offset_dn", 0.0), bands),
            )
        )
    return tuple(entries)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _one_of(key: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{key} is {value!r:.60}, not one of {', '.join(known)}")
    return str(value)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise TypeError(f"{key} {value!r:.60} is no text of 1 to 200 characters")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{key} {value!r:.60} is no list of texts")
    return tuple(_text(f"one of {key}", entry) for entry in value)


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{key} {value!r:.60} is no number")
    return float(value)


def _per_band(key: str, value: object, bands: tuple[str, ...]) -> tuple[float, ...]:
    """One number for each band; one alone holds for all of them."""
    if not isinstance(value, list | tuple):
        return (_number(key, value),) * len(bands)
    if len(value) != len(bands):
        raise ValueError(f"{key} has {len(value)} numbers, not one for each of the {len(bands)} bands")
    return tuple(_number(f"one of {key}", entry) for entry in value)


def _whole(key: str, value: object, limits: tuple[int, int]) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not limits[0] <= value <= limits[1]:
        raise ValueError(f"{key} {value!r:.60} is no whole number of {limits[0]} to {limits[1]}")
    return value
