"""Model cards: what a checkpoint is, as a STAC Item with the machine learning model extension (MLM).

What the file itself says (contract, network, size, digest) is read from it; what it cannot say
(training data, split, measured figures, limits) comes as ``CardFacts``. A card is for people
and catalogues, and complete enough to rebuild the network's input from it. A map that a shipped model made
takes its ``model.json`` from that model's card (``stac_model``); no pixel depends on a card.

Written to MLM v1.4.0, the version that the pinned ``pystac-ext-mlm`` knows; v1.5 only adds to it.
Source: https://github.com/stac-extensions/mlm/tree/v1.4.0
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING
from urllib.parse import quote

import pystac
import torch
from pystac.extensions.classification import Classification
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import (
    AssetGeneralMLMExtension,
    Hyperparameters,
    MLMExtension,
    ModelInput,
    ModelOutput,
    ProcessingExpression,
    ResultStructure,
    TaskType,
)
from pystac.extensions.raster import DataType

from landuse.classes import EUROSAT
from landuse.errors import ModelError, UsageError
from landuse.model.checkpoint import load_checkpoint
from landuse.model.predict import DEFAULT_BATCH_SIZE, file_sha256
from landuse.pipeline.write.folder import write_json
from landuse.redact import printable
from landuse.sentinel2 import (
    BANDS,
    CENTER_WAVELENGTH_UM,
    COMMON_NAMES,
    DN_PER_REFLECTANCE,
    LEVELS,
    RESOLUTION_M,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from landuse.contract import ModelContract
    from landuse.model.networks import PatchNetwork

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("eo/v2.0.0", "raster/v2.0.0", "classification/v2.0.0", "processing/v1.2.0")
)
"""Besides those of MLM and of files, which pystac adds."""

MEDIA_TYPE = "application/octet-stream; framework=pytorch"
"""MLM, "Model Artifact Media-Type": safetensors has no registered type, and servers may refuse one
that is made up; ``mlm:artifact_type`` says what the file is."""

ARTIFACT_TYPE = "safetensors.torch.save_file"

LEVEL_FORMAT = "landuse-level-transform"
SOFTMAX_FORMAT = "landuse-softmax"
"""Formats of the processing expressions; the descriptions beside them say what they mean."""

SHA2_256 = "1220"
"""Multihash prefix: the function's code and the digest's length of 32 bytes."""

MAX_TEXT_CHARS = 2000

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]")
"""What MLM's schema takes as ``mlm:name``, less blanks: it is the item's id as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardMetric:
    """One measured figure."""

    name: str
    """What was measured, such as ``accuracy``."""
    value: float
    """The figure; shares are 0..1."""
    interval: tuple[float, float] | None
    """95 % interval, or None where there is none."""
    measured: str
    """On what, and how."""

    def __post_init__(self) -> None:
        _check_text("metric name", self.name)
        _check_text(f"how {self.name} was measured", self.measured)
        if not all(isfinite(number) for number in (self.value, *(self.interval or ()))):
            raise UsageError(f"Metric {self.name}: {self.value} within {self.interval} must be finite.")
        if self.interval is not None and not self.interval[0] <= self.value <= self.interval[1]:
            raise UsageError(
                f"Metric {self.name}: {self.value} lies outside its interval {self.interval}. Are they of "
                "the same measurement, and low before high?"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card says that the checkpoint cannot."""

    training_data: str
    """Name, source and licence of the data."""
    split: str
    """Which part of it was trained on, and which held out."""
    patches: int
    """Patches trained on."""
    lineage: tuple[str, ...]
    """The steps or commands that made the weights, in order."""
    metrics: tuple[CardMetric, ...]
    """Measured figures, none that was not."""
    limits: tuple[str, ...]
    """What the model should not be trusted with."""
    license: str
    """SPDX identifier of the weights' licence, or ``other``."""
    created_utc: datetime
    """When the weights were finished, timezone-aware UTC."""
    bbox_lonlat: tuple[float, float, float, float]
    """West, south, east, north of the training data in degrees."""
    pretrained_source: str | None = None
    """What the weights were started from; None where they were trained from scratch."""

    def __post_init__(self) -> None:
        _check_text("training_data", self.training_data)
        _check_text("split", self.split)
        for what, texts in (("lineage", self.lineage), ("limits", self.limits)):
            if not texts:
                raise UsageError(f"{what} is empty. Say at least one thing there.")
            for text in texts:
                _check_text(what, text)
        if self.pretrained_source is not None:
            _check_text("pretrained_source", self.pretrained_source)
        if not self.metrics:
            raise UsageError("metrics is empty. A card states at least one measured figure.")
        if self.patches < 1:
            raise UsageError(f"patches is {self.patches}; at least 1 was trained on.")
        if not re.fullmatch(r"[A-Za-z0-9.+-]{1,64}", self.license):
            raise UsageError(f"license {self.license!r} is no SPDX identifier, such as MIT; or use other.")
        if self.created_utc.utcoffset() != UTC.utcoffset(None):
            raise UsageError(f"created_utc {self.created_utc} is not in UTC, such as 2025-01-31T12:00:00Z.")
        west, south, east, north = self.bbox_lonlat
        if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            raise UsageError(
                f"bbox_lonlat {self.bbox_lonlat} is not west, south, east, north in degrees, west < east and "
                "south < north."
            )


def write_card(checkpoint: Path, facts: CardFacts, path: Path) -> None:
    """Write the card of ``checkpoint`` to ``path``, beside it.

    Args:
        checkpoint: the weights, as ``landuse train`` wrote them.
        facts: what they cannot say of themselves.
        path: the card; what is there is replaced.

    Raises:
        ModelError: the checkpoint cannot be read, or is not one that a card can describe.
        UsageError: ``path`` lies elsewhere: the card names its weights by a relative href.
        OutputError: ``path`` cannot be written.
    """
    if path.parent.resolve() != checkpoint.parent.resolve():
        raise UsageError(f"The card {path} must lie beside its weights. Write it into {checkpoint.parent}.")
    network, contract = load_checkpoint(checkpoint)
    _check_contract(checkpoint, contract)
    values = _item(checkpoint, network, contract, facts).to_dict(include_self_link=False)
    try:
        json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:  # the network's config, which is the file's own, may hold anything
        raise ModelError(
            f"Model {checkpoint}: its network config cannot be told as JSON ({error}). Train it again."
        ) from error
    write_json(path, values)


def load_facts(path: Path) -> CardFacts:
    """The facts of a JSON file whose keys are the fields of ``CardFacts``.

    Raises:
        UsageError: it cannot be read, a key is missing or unknown, or a value is not what it must be.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"Facts {path} cannot be read as JSON ({error}).") from error
    try:
        return _facts_of(values)
    except UsageError as error:
        raise UsageError(f"Facts {path}: {error}") from error


def _facts_of(values: object) -> CardFacts:
    entries = _object("facts", values, CardFacts, optional={"pretrained_source"})
    source = entries.get("pretrained_source")
    west, south, east, north = _numbers("bbox_lonlat", entries["bbox_lonlat"], 4)
    return CardFacts(
        training_data=_text("training_data", entries["training_data"]),
        split=_text("split", entries["split"]),
        patches=_whole("patches", entries["patches"]),
        lineage=tuple(_text("lineage", entry) for entry in _list("lineage", entries["lineage"])),
        metrics=tuple(_metric_of(entry) for entry in _list("metrics", entries["metrics"])),
        limits=tuple(_text("limits", entry) for entry in _list("limits", entries["limits"])),
        license=_text("license", entries["license"]),
        created_utc=_instant("created_utc", entries["created_utc"]),
        bbox_lonlat=(west, south, east, north),
        pretrained_source=None if source is None else _text("pretrained_source", source),
    )


def _metric_of(values: object) -> CardMetric:
    entries = _object("a metric", values, CardMetric)
    interval = entries["interval"]
    if interval is not None:
        low, high = _numbers("interval", interval, 2)
    return CardMetric(
        name=_text("name", entries["name"]),
        value=_number("value", entries["value"]),
        interval=None if interval is None else (low, high),
        measured=_text("measured", entries["measured"]),
    )


def _object(
    what: str, values: object, kind: type[CardFacts | CardMetric], optional: Iterable[str] = ()
) -> dict[str, object]:
    """An object with the keys of a record's fields, all but the optional ones, and no others."""
    if not isinstance(values, dict):
        raise UsageError(f"{what} must be an object, not {_shown(values)}.")
    known = {field.name for field in fields(kind)}
    unknown, missing = sorted(values.keys() - known), sorted(known - values.keys() - set(optional))
    if unknown or missing:
        raise UsageError(
            f"{what}: unknown keys {_shown(unknown)}, missing keys {missing}. The keys are "
            f"{', '.join(sorted(known))}."
        )
    return values


def _list(what: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise UsageError(f"{what} must be a list, not {_shown(value)}.")
    return value


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} must be text, not {_shown(value)}.")
    return value


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{what} must be a number, not {_shown(value)}.")
    try:
        return float(value)
    except OverflowError as error:
        raise UsageError(f"{what} is too large a number.") from error


def _whole(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{what} must be a whole number, not {_shown(value)}.")
    return value


def _numbers(what: str, value: object, count: int) -> list[float]:
    numbers = [_number(what, entry) for entry in _list(what, value)]
    if len(numbers) != count:
        raise UsageError(f"{what} must be {count} numbers, not {len(numbers)}.")
    return numbers


def _instant(what: str, value: object) -> datetime:
    try:
        return datetime.fromisoformat(_text(what, value))
    except ValueError as error:
        raise UsageError(f"{what} {_shown(value)} is no ISO 8601 time ({error}).") from error


def _shown(value: object) -> str:
    """A value of a file in a message: printable and short."""
    return printable(repr(value)[:80])


def _check_text(what: str, text: str) -> None:
    if not text.strip() or len(text) > MAX_TEXT_CHARS or not text.isprintable():
        raise UsageError(
            f"{what} {_shown(text)} must be one line of 1 to {MAX_TEXT_CHARS} printable characters."
        )


def _check_contract(checkpoint: Path, contract: ModelContract) -> None:
    """See that the contract can be told in STAC's terms.

    Raises:
        ModelError: it cannot.
    """
    if not _NAME.fullmatch(contract.name):
        raise ModelError(
            f"Model {checkpoint}: its name {_shown(contract.name)} cannot be a STAC id. Train it under a "
            "--name of at least three letters, digits, '-', '_' or '.'."
        )
    foreign = [band for band in contract.bands if band not in BANDS]
    foreign += [entry.level for entry in contract.levels if entry.level not in LEVELS]
    if foreign:
        raise ModelError(
            f"Model {checkpoint}: {_shown(foreign)} are no bands or levels of Sentinel-2, and cards describe "
            f"no others. Train it on {', '.join(BANDS)} of {' or '.join(LEVELS)}."
        )


def _item(checkpoint: Path, network: PatchNetwork, contract: ModelContract, facts: CardFacts) -> pystac.Item:
    west, south, east, north = facts.bbox_lonlat
    levels = [entry.level for entry in contract.levels]
    item = pystac.Item(
        id=contract.name,
        geometry={
            "type": "Polygon",
            "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
        },
        bbox=[west, south, east, north],
        datetime=facts.created_utc,
        properties={
            "title": contract.name,
            "description": (
                f"Network {printable(network.config.name)} that tells which of {len(contract.classes)} "
                f"land-use classes a Sentinel-2 patch of {contract.patch_size_px} x {contract.patch_size_px} "
                f"px at {contract.resolution_m:g} m shows ({', '.join(contract.bands)} of "
                f"{' or '.join(levels)})."
            ),
            "license": facts.license,
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": contract.resolution_m,
            "bands": [model_band(name, contract) for name in contract.bands],
            "processing:lineage": "\n".join(
                f"{number}. {step}" for number, step in enumerate(facts.lineage, 1)
            ),
            "landuse:levels": levels,
            "landuse:patch_size_px": contract.patch_size_px,
            "landuse:training_data": facts.training_data,
            "landuse:split": facts.split,
            "landuse:training_patches": facts.patches,
            "landuse:metrics": [asdict(metric) for metric in facts.metrics],
            "landuse:limits": list(facts.limits),
        },
        stac_extensions=list(EXTENSIONS),
    )
    MLMExtension.ext(item, add_if_missing=True).apply(
        name=contract.name,
        architecture=printable(network.config.name),
        tasks=[TaskType.SCENE_CLASSIFICATION, TaskType.CLASSIFICATION],
        input=[model_input(contract)],
        output=[model_output(contract)],
        framework="PyTorch",
        # Semantic versions in the schema's sense; which build it was does not matter to the weights.
        framework_version=torch.__version__.partition("+")[0],
        total_parameters=sum(parameter.numel() for parameter in network.parameters()),
        pretrained=facts.pretrained_source is not None,
        pretrained_source=facts.pretrained_source,
        batch_size_suggestion=DEFAULT_BATCH_SIZE,
        accelerator=None,
        accelerator_constrained=False,
        hyperparameters=Hyperparameters(network.config.to_dict()),
    )
    _add_weights(item, checkpoint, contract)
    return item


def _add_weights(item: pystac.Item, checkpoint: Path, contract: ModelContract) -> None:
    asset = pystac.Asset(
        href=f"./{quote(checkpoint.name)}",
        title="Weights",
        description=(
            "safetensors, read without pickle; its header carries the contract and the network's config "
            "that this card tells."
        ),
        media_type=MEDIA_TYPE,
        roles=["mlm:model", "mlm:weights", "mlm:checkpoint", "data"],
        # STAC 1.1 takes bands in an item's properties, where MLM looks for them, only if an asset has some.
        extra_fields={"bands": [{"name": name} for name in contract.bands]},
    )
    item.add_asset("weights", asset)
    AssetGeneralMLMExtension.ext(asset).apply(artifact_type=ARTIFACT_TYPE)
    FileExtension.ext(asset, add_if_missing=True).apply(
        checksum=SHA2_256 + file_sha256(checkpoint), size=checkpoint.stat().st_size
    )


def model_band(name: str, contract: ModelContract) -> dict[str, object]:
    """What goes into the pre-processing: reflectance x 10000 without offset, at the model's pixel size."""
    return {
        "name": name,
        "eo:common_name": COMMON_NAMES[name],
        "eo:center_wavelength": CENTER_WAVELENGTH_UM[name],
        "gsd": RESOLUTION_M[name],
        "raster:spatial_resolution": contract.resolution_m,
        "data_type": DataType.UINT16.value,
        "nodata": 0,
        "raster:scale": 1 / DN_PER_REFLECTANCE,
        "raster:offset": 0,
    }


def model_input(contract: ModelContract) -> ModelInput:
    """Bands, shape, and all that stands between DN and the network's input.

    ``standardize`` divides by the saturation before it subtracts the mean; here mean and standard
    deviation are in DN instead, so that they are MLM's own z-score.
    """
    size = contract.patch_size_px
    per_band = zip(contract.mean, contract.std, contract.saturation_dn, strict=True)
    levels = {
        entry.level: {"gain": list(entry.gain), "offset_dn": list(entry.offset_dn)}
        for entry in contract.levels
    }
    return ModelInput(
        {
            "name": "patch",
            "bands": list(contract.bands),
            "input": {
                "shape": [-1, len(contract.bands), size, size],
                "dim_order": ["batch", "channel", "height", "width"],
                "data_type": DataType.FLOAT32.value,
            },
            "description": (
                f"dn is reflectance x {DN_PER_REFLECTANCE} without the +1000 offset of newer products, at "
                f"{contract.resolution_m:g} m, nodata filled. First, band by band, the pre-processing for "
                "the level of the imagery: clip(gain * dn + offset_dn, 0, saturation_dn); then "
                "value_scaling, one for each band: (x - mean) / stddev."
            ),
            # pystac's ModelInput writes one object; the specification asks for a list, one for each band.
            "value_scaling": [
                {"type": "z-score", "mean": mean * saturation, "stddev": std * saturation}
                for mean, std, saturation in per_band
            ],
            "resize_type": None,
            "pre_processing_function": {
                "format": LEVEL_FORMAT,
                "expression": {
                    "formula": "clip(gain * dn + offset_dn, 0, saturation_dn)",
                    "levels": levels,
                    "saturation_dn": list(contract.saturation_dn),
                },
            },
        }
    )


def model_output(contract: ModelContract) -> ModelOutput:
    """What the network gives, as MLM says it."""
    return ModelOutput.create(
        name="logits",
        tasks=[TaskType.SCENE_CLASSIFICATION, TaskType.CLASSIFICATION],
        result=ResultStructure.create(
            shape=[-1, len(contract.classes)], dim_order=["batch", "class"], data_type=DataType.FLOAT32
        ),
        description="Logits; the post-processing makes them probabilities: softmax(logits / temperature).",
        classes=[_class(value, name) for value, name in enumerate(contract.classes)],
        post_processing_function=ProcessingExpression.create(
            format=SOFTMAX_FORMAT,
            expression={"formula": "softmax(logits / temperature)", "temperature": contract.temperature},
        ),
    )


def _class(value: int, name: str) -> Classification:
    """A class of the output; its value is the logit's index and the id in the class raster."""
    known = next((entry for entry in EUROSAT if entry.name == name), None)
    return Classification.create(
        value=value,
        # The extension's schema takes letters, digits, '-' and '_'; the description keeps the rest.
        name=re.sub(r"[^0-9A-Za-z_-]", "-", name) or "-",
        # Required until v2.0.0 of the extension; MLM's schema refers to v1.1.0.
        description=known.title if known else printable(name) or "-",
        color_hint="{:02X}{:02X}{:02X}".format(*known.color) if known else None,
    )
