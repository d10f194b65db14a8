"""Descriptions of a network as a STAC Item with the machine learning model extension (MLM) v1.5.0.

There are two of them, by one writer. A model card (``write_card``) lies beside a checkpoint and tells all
that is known of it; the models that come with the package have one. ``model.json`` (``write_stac``) lies
beside each map and tells which network made it: of a model that comes with the package what its card tells,
of any other model what its checkpoint says of itself.

What the checkpoint says (contract, network, size, digest) is read from it; what it cannot say (training
data, split, measured figures, limits) comes as ``CardFacts``.
Source: https://github.com/stac-extensions/mlm/tree/v1.5.0
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import pystac
import torch
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
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

import landuse
from landuse.classes import LAND_COVER, LAND_USE
from landuse.classes import legend as class_legend
from landuse.contract import RGB8
from landuse.errors import ModelError, OutputError, UsageError
from landuse.model import WEIGHTS, shipped_models
from landuse.model.checkpoint import load_checkpoint, load_contract, load_pixel_checkpoint, load_recipe
from landuse.model.cover_and_use import LINES, USE_AROUND_PX
from landuse.model.foreign.contract import CHANNELS_LAST, DENSE, LOGITS
from landuse.model.pixel_network import PixelNet
from landuse.model.predict import DEFAULT_BATCH_SIZE, file_sha256
from landuse.pipeline.write.folder import write_json
from landuse.pipeline.write.stac_item import (
    FILE_EXTENSION,
    ITEM_NAME,
    MODEL_NAME,
    SHA2_256,
    MapFile,
    local_href,
    map_item,
)
from landuse.redact import printable
from landuse.sentinel2 import (
    CENTER_WAVELENGTH_UM,
    COMMON_NAMES,
    DN_PER_REFLECTANCE,
    RESOLUTION_M,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from landuse.classes import LandUseClass
    from landuse.contract import LabelOutputs, ModelContract, PixelOutputs
    from landuse.model.foreign.contract import ForeignContract
    from landuse.model.networks import PatchNetwork
    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.write.stac_item import MapFacts

MLM = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
SCIENTIFIC = "https://stac-extensions.github.io/scientific/v1.0.0/schema.json"

EXTENSIONS = (
    *(
        f"https://stac-extensions.github.io/{name}/schema.json"
        for name in ("eo/v2.0.0", "raster/v2.0.0", "classification/v2.0.0", "processing/v1.2.0")
    ),
    FILE_EXTENSION,
    MLM,
)
"""What every description of a model uses."""

MEDIA_TYPE = "application/octet-stream; framework=pytorch"
"""MLM, "Model Artifact Media-Type": safetensors has no registered type, and servers may refuse one
that is made up; ``mlm:artifact_type`` says what the file is."""

ARTIFACT_TYPE = "safetensors.torch.save_file"

LEVEL_FORMAT = "landuse-level-transform"
SOFTMAX_FORMAT = "landuse-softmax"
SIGMOID_FORMAT = "landuse-sigmoid"
IMAGE_FORMAT = "landuse-image"
COMBINATION_FORMAT = "landuse-cover-and-use"
"""Formats of the processing expressions; the descriptions beside them say what they mean."""

PREPROCESS_TOLD = {
    "raw": "value / 255",
    "grey": "0.299 red + 0.587 green + 0.114 blue of value / 255, in each band",
    "sharpen": (
        "value / 255 under the kernel 0 -1 0 / -1 5 -1 / 0 -1 0, mirrored at the border without its edge, "
        "cut to 0..1"
    ),
}
"""What a contract's ``preprocess`` does, of 8-bit values."""

WHOLE_WORLD = (-180.0, -90.0, 180.0, 90.0)
"""Where a model was trained of which that is not known."""

TRAINING_SPAN_UTC = (datetime(2015, 6, 23, tzinfo=UTC), datetime(2017, 8, 31, 23, 59, 59, tzinfo=UTC))
"""Bounds of when EuroSAT's patches were taken, which its authors state no closer: from the launch of
Sentinel-2A to their first paper (arXiv 1709.00029). Patches with cover labels may be younger."""

PUBLICATIONS = (
    {
        "doi": "10.48550/arXiv.2510.15527",
        "citation": (
            "Vir: Balanced Multi-Task Attention for Satellite Image Classification. arXiv 2510.15527, 2025. "
            "The network."
        ),
    },
    {
        "doi": "10.1109/JSTARS.2019.2918242",
        "citation": (
            "Helber, Bischke, Dengel, Borth: EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land "
            "Use and Land Cover Classification. IEEE JSTARS 12 (7), 2019. Training data and classes."
        ),
    },
)
"""What the models that come with the package rest on."""

COVER_PUBLICATION = {
    "doi": "10.1038/s41597-022-01307-4",
    "citation": (
        "Brown et al.: Dynamic World, Near real-time global 10 m land use land cover mapping. Scientific "
        "Data 9, 251, 2022. The cover labels were made with it."
    ),
}
"""What those of them that tell covers rest on too."""

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]")
"""What MLM's schema takes as ``mlm:name``, less blanks: it is the item's id as well."""


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("it must be one line of printable characters")
    return text


def _in_utc(moment: datetime) -> datetime:
    if moment.utcoffset() != UTC.utcoffset(None):
        raise ValueError("it is not in UTC, such as 2025-01-31T12:00:00Z")
    return moment


def _in_order(bbox: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    west, south, east, north = bbox
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise ValueError("it is not west, south, east, north in degrees, west < east and south < north")
    return bbox


Line = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_one_line)]
Lines = Annotated[tuple[Line, ...], Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class CardMetric:
    """One measured figure."""

    name: Line
    """What was measured, such as ``accuracy``."""
    value: Finite
    """The figure; shares are 0..1."""
    interval: tuple[Finite, Finite] | None
    """95 % interval, or None where there is none."""
    measured: Line
    """On what, and how."""

    @model_validator(mode="after")
    def _within_interval(self) -> CardMetric:
        if self.interval is not None and not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(f"{self.value} lies outside its interval {self.interval}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class CardFacts:
    """What a card says that the checkpoint cannot.

    Raises:
        pydantic.ValidationError: a value is not what its field must be.
    """

    training_data: Line
    """Name, source and licence of the data."""
    split: Line
    """Which part of it was trained on, and which held out."""
    patches: Annotated[int, Field(ge=1)]
    """Patches trained on."""
    lineage: Lines
    """The steps or commands that made the weights, in order."""
    metrics: Annotated[tuple[CardMetric, ...], Field(min_length=1)]
    """Measured figures, none that was not."""
    limits: Lines
    """What the model should not be trusted with."""
    license: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.+-]{1,64}$")]
    """SPDX identifier of the weights' licence, such as ``MIT``, or ``other``."""
    created_utc: Annotated[datetime, AfterValidator(_in_utc)]
    """When the weights were finished, timezone-aware UTC."""
    bbox_lonlat: Annotated[tuple[float, float, float, float], AfterValidator(_in_order)]
    """West, south, east, north of the training data in degrees."""
    pretrained_source: Line | None = None
    """What the weights were started from; None where they were trained from scratch."""


def load_facts(path: Path) -> CardFacts:
    """The facts of a JSON file whose keys are the fields of ``CardFacts``.

    Raises:
        UsageError: it cannot be read, a key is missing or unknown, or a value is not what it must be.

    Example:
        >>> load_facts(Path("examples/model_cards/balanced-fast-rgb.json")).license
        'MIT'
    """
    try:
        return TypeAdapter(CardFacts).validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"Facts {path} cannot be read ({error}).") from error
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, one['loc'])) or 'all of it'}: {one['msg']}"[:200]
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise UsageError(printable(f"Facts {path}: {'; '.join(found[:5])}. Correct the file.")) from error


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

    Example:
        >>> write_card(Path("a.safetensors"), facts, Path("a.json"))  # doctest: +SKIP
    """
    if path.parent.resolve() != checkpoint.parent.resolve():
        raise UsageError(f"The card {path} must lie beside its weights. Write it into {checkpoint.parent}.")
    network, contract = _network_of(checkpoint)
    if not _NAME.fullmatch(contract.name):
        raise ModelError(
            f"Model {checkpoint}: its name {printable(contract.name)[:80]!r} cannot be a STAC id. Train it "
            "under a --name of at least three letters, digits, '-', '_' or '.'."
        )
    item = _item(contract, network, facts, facts.created_utc)
    recipe = load_recipe(checkpoint)
    if recipe is not None:
        text = printable(json.dumps(recipe, ensure_ascii=False))  # as of the network's config
        item.properties["landuse:recipe"] = json.loads(text, parse_constant=str)
    _add_weights(
        item,
        contract,
        f"./{quote(checkpoint.name)}",
        "Their header carries the contract and the network's config that this card tells.",
        file_sha256(checkpoint),
        size_bytes=checkpoint.stat().st_size,
    )
    write_json(path, item.to_dict(include_self_link=False))


def write_stac(
    folder: Path,
    plan: RunPlan,
    facts: MapFacts,
    contract: ModelContract,
    weights: Path | None = None,
    foreign: ForeignContract | None = None,
) -> None:
    """Write ``model.json`` and ``item.json`` into a folder that holds all other files of a map.

    Args:
        folder: where the files are now; ``facts.folder`` is where they will be.
        plan: what was mapped.
        facts: what else is said of the map.
        contract: the model's.
        weights: the model's file, where it is known.
        foreign: all that the contract of a model says which landuse did not train.

    Raises:
        OutputError: a file cannot be read or written.

    Example:
        >>> write_stac(Path("map"), plan, facts, predictor.contract)  # doctest: +SKIP
    """
    item = map_item(plan, facts, _files(folder))
    model = model_item(
        contract,
        plan.weights_sha256,
        weights=weights,
        folder=facts.folder,
        created_utc=facts.created_utc,
        foreign=foreign,
    )
    for name, document in ((MODEL_NAME, model), (ITEM_NAME, item)):
        write_json(folder / name, document.to_dict(include_self_link=False, transform_hrefs=False))


def _files(folder: Path) -> list[MapFile]:
    """Size and digest of the map's files."""
    found = []
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name not in (ITEM_NAME, MODEL_NAME):
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                found.append(MapFile(name=path.name, size_bytes=path.stat().st_size, sha256=sha256))
    except OSError as error:
        raise OutputError(
            f"The files in {folder} cannot be read again ({error.strerror or error}). Check the disk, then "
            "run again; finished blocks are kept."
        ) from error
    return found


def model_item(
    contract: ModelContract,
    weights_sha256: str,
    *,
    weights: Path | None,
    folder: Path | None,
    created_utc: datetime,
    foreign: ForeignContract | None = None,
) -> pystac.Item:
    """The MLM item of the network that made a map.

    Its weights are named by their digest (RFC 6920), unless they are a file of the user's: where the package
    lies on this machine helps nobody else, and its weights can be had elsewhere.

    Args:
        contract: the model's.
        weights_sha256: digest of its file.
        weights: that file, where it is known.
        folder: where the item will lie; None where that is not on this machine.
        created_utc: when the item is made.
        foreign: all that the contract of a model says which landuse did not train.

    Raises:
        ModelError: ``weights`` cannot be read.

    Example:
        >>> model_item(
        ...     predictor.contract, predictor.weights_sha256, weights=None, folder=None, created_utc=now
        ... )  # doctest: +SKIP
    """
    if foreign is not None:
        return _foreign_item(foreign, weights_sha256, created_utc)
    item = _shipped(contract, weights_sha256)
    href = _named_by(weights_sha256)
    if item is not None:
        told = f"They are landuse/model/weights/{contract.name}.safetensors of landuse {landuse.__version__}."
    else:
        if weights is not None and file_sha256(weights) != weights_sha256:
            weights = None  # another file by now
        network = None if weights is None else _network_of(weights)[0]
        item = _item(contract, network, None, created_utc)
        href = href if weights is None else local_href(str(weights.absolute()), folder)
        told = f"They are those of {printable(contract.name)}."
    _add_weights(item, contract, href, told, weights_sha256)
    return item


def _foreign_item(foreign: ForeignContract, sha256: str, created_utc: datetime) -> pystac.Item:
    """The item of a model that landuse did not train, by its contract: the network itself is not known."""
    # What is told of patches holds of windows too; heads, covers and uses it has none.
    contract = replace(foreign.model, pixels=None)
    item = _item(contract, None, None, created_utc)
    size, dense = contract.patch_size_px, foreign.kind == DENSE
    item.properties["description"] = (
        f"A model that landuse did not train, by its contract. It tells which of {len(contract.classes)} "
        f"classes each {f'pixel of a window of {size} px' if dense else f'patch of {size} px'} at "
        f"{contract.resolution_m:g} m shows ({', '.join(contract.bands)} of "
        f"{' or '.join(entry.level for entry in contract.levels)}). Where and when its training data were "
        "taken is not known here: the geometry is the whole world."
    )
    model = MLMExtension.ext(item)
    if dense:
        model.tasks = [TaskType.SEMANTIC_SEGMENTATION]
    last = foreign.layout == CHANNELS_LAST
    values, result = _input(contract).to_dict(), _output(contract).to_dict()
    if last:
        values["input"] |= {
            "shape": [-1, size, size, len(contract.bands)],
            "dim_order": ["batch", "height", "width", "bands"],
        }
    if dense:
        order = ["batch", "height", "width", "class"] if last else ["batch", "class", "height", "width"]
        sizes = {"batch": -1, "class": len(contract.classes), "height": size, "width": size}
        result["tasks"] = [TaskType.SEMANTIC_SEGMENTATION.value]
        result["result"] |= {"shape": [sizes[name] for name in order], "dim_order": order}
    if foreign.output != LOGITS:
        result |= {"name": "probabilities", "description": "Probabilities, as the model itself gives them."}
        del result["post_processing_function"]
    model.input, model.output = [ModelInput(values)], [ModelOutput(result)]
    model.batch_size_suggestion = foreign.batch_size
    model.framework = None
    item.properties["landuse:foreign"] = {
        "kind": foreign.kind,
        "context_px": foreign.context_px,
        "multiple_px": foreign.multiple_px,
    }
    asset = pystac.Asset(
        href=_named_by(sha256),
        title="Model",
        description="The digest is of the model's file and its contract together, not of one file.",
        media_type="application/octet-stream",
        roles=["mlm:model", "data"],
        extra_fields={"bands": [{"name": name} for name in contract.bands]},
    )
    item.add_asset("weights", asset)
    AssetGeneralMLMExtension.ext(asset).apply(artifact_type="unknown")
    return item


def _named_by(sha256: str) -> str:
    """A name of what has this digest, wherever it is (RFC 6920)."""
    return f"ni:///sha-256;{base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip('=')}"


def _network_of(checkpoint: Path) -> tuple[PatchNetwork | PixelNet, ModelContract]:
    """The network of a checkpoint, of patches or of pixels, and its contract."""
    if load_contract(checkpoint).pixels is None:
        return load_checkpoint(checkpoint)
    return load_pixel_checkpoint(checkpoint)


def _shipped(contract: ModelContract, weights_sha256: str) -> pystac.Item | None:
    """What the card of a model that comes with the package tells; None of any other model."""
    name = contract.name
    if name not in shipped_models():
        return None
    item = pystac.Item.from_dict(json.loads((WEIGHTS / f"{name}.json").read_text("utf-8")), migrate=False)
    if FileExtension.ext(item.assets.pop("weights")).checksum != SHA2_256 + weights_sha256:
        return None
    item.stac_extensions.append(SCIENTIFIC)
    begin, end = (pystac.utils.datetime_to_str(moment) for moment in TRAINING_SPAN_UTC)
    publications: tuple[dict[str, str], ...] = PUBLICATIONS
    if contract.pixels is not None:
        publications, end = (*PUBLICATIONS, COVER_PUBLICATION), item.properties["datetime"]
    item.properties |= {
        "created": item.properties["datetime"],
        "start_datetime": begin,
        "end_datetime": end,
        "sci:publications": [dict(publication) for publication in publications],
    }
    item.datetime = None
    return item


def _item(
    contract: ModelContract,
    network: PatchNetwork | PixelNet | None,
    facts: CardFacts | None,
    created_utc: datetime,
) -> pystac.Item:
    """The item of a model, without its weights; where the network or the facts are None it says less."""
    west, south, east, north = WHOLE_WORLD if facts is None else facts.bbox_lonlat
    levels = [entry.level for entry in contract.levels]
    size = contract.patch_size_px
    architecture = "unknown" if network is None else printable(network.config.name)
    description = _description(contract, architecture)
    if contract.pixels is not None and facts is not None and facts.pretrained_source is None:
        description += " Its training began at random weights."
    if facts is None:
        description += (
            " Where and when its training data were taken is not known here: the geometry is the whole world."
        )
    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", contract.name).strip("-_.")
    if not re.fullmatch(r"[a-zA-Z].+", name):
        name = f"model-{name}".rstrip("-")
    item = pystac.Item(
        id=name,
        geometry={
            "type": "Polygon",
            "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
        },
        bbox=[west, south, east, north],
        datetime=created_utc,
        properties={
            "title": printable(contract.name),
            "description": description,
            **_origin(contract),
            "bands": [_band(band, contract) for band in contract.bands],
            "landuse:levels": levels,
            "landuse:patch_size_px": size,
            **({"landuse:preprocess": contract.preprocess} if contract.preprocess != "raw" else {}),
        },
        stac_extensions=list(EXTENSIONS),
    )
    if contract.optional_bands:
        item.properties["landuse:optional_bands"] = list(contract.optional_bands)
    if facts is not None:
        item.properties |= {
            "license": facts.license,
            "processing:lineage": "\n".join(
                f"{number}. {step}" for number, step in enumerate(facts.lineage, 1)
            ),
            "landuse:training_data": facts.training_data,
            "landuse:split": facts.split,
            "landuse:training_patches": facts.patches,
            "landuse:metrics": [asdict(metric) for metric in facts.metrics],
            "landuse:limits": list(facts.limits),
            "mlm:pretrained": facts.pretrained_source is not None,
            "mlm:pretrained_source": facts.pretrained_source,
            # Semantic versions in the schema's sense; which build it was does not matter to the weights.
            "mlm:framework_version": torch.__version__.partition("+")[0],
        }
    model = MLMExtension.ext(item)
    model.mlm_name, model.architecture, model.framework = name, architecture, "PyTorch"
    if contract.pixels is None:
        model.tasks = [TaskType.SCENE_CLASSIFICATION, TaskType.CLASSIFICATION]
        model.input, model.output = [_input(contract)], [_output(contract)]
        model.batch_size_suggestion = DEFAULT_BATCH_SIZE
    else:
        model.tasks = [TaskType.SEMANTIC_SEGMENTATION, TaskType.CLASSIFICATION]
        model.input = [_input(contract), _present(contract)]
        model.output = _pixel_outputs(contract, contract.pixels)
        model.batch_size_suggestion = 1  # a block is large enough
    model.accelerator, model.accelerator_constrained = None, False
    if network is not None:
        model.total_parameters = sum(parameter.numel() for parameter in network.parameters())
        # JSON has neither NaN nor infinity, and UTF-8 no half characters; a checkpoint may.
        config = printable(json.dumps(network.config.to_dict(), ensure_ascii=False))
        model.hyperparameters = Hyperparameters(json.loads(config, parse_constant=str))
    return item


def _origin(contract: ModelContract) -> dict[str, object]:
    """Whose imagery a model reads; of images of any origin nothing is known."""
    if contract.input_kind == RGB8:
        return {}
    return {"constellation": "sentinel-2", "instruments": ["msi"], "gsd": contract.resolution_m}


def _description(contract: ModelContract, architecture: str) -> str:
    """What a model does, of what, in one sentence."""
    told = (
        f"which of {len(contract.classes)} land-use classes"
        if contract.labels is None
        else f"which, if any, of {len(contract.classes)} labels"
    )
    if contract.input_kind == RGB8:
        size = contract.patch_size_px
        return (
            f"A network ({architecture}) that tells {told} an 8-bit RGB image shows, brought to {size} x "
            f"{size} px."
        )
    levels = " or ".join(entry.level for entry in contract.levels)
    size, bands = contract.patch_size_px, ", ".join(contract.required_bands)
    if contract.optional_bands:
        bands += f" and, where there, {', '.join(contract.optional_bands)}"
    if contract.pixels is None:
        return (
            f"A network ({architecture}) that tells {told} a "
            f"Sentinel-2 patch of {size} x {size} px at {contract.resolution_m:g} m shows "
            f"({bands} of {levels})."
        )
    return (
        f"A network ({architecture}) that tells which of {len(contract.pixels.covers)} land covers and which "
        f"of {len(contract.classes)} land-use classes each pixel of {contract.resolution_m:g} m is "
        f"({bands} of {levels})."
    )


def _add_weights(
    item: pystac.Item,
    contract: ModelContract,
    href: str,
    told: str,
    sha256: str,
    size_bytes: int | None = None,
) -> None:
    asset = pystac.Asset(
        href=href,
        title="Weights",
        description=f"Weights as safetensors, read without pickle. {told}",
        media_type=MEDIA_TYPE,
        roles=["mlm:model", "mlm:weights", "mlm:checkpoint", "data"],
        # STAC 1.1 takes bands in an item's properties, where MLM looks for them, only if an asset has some.
        extra_fields={"bands": [{"name": name} for name in contract.bands]},
    )
    item.add_asset("weights", asset)
    AssetGeneralMLMExtension.ext(asset).apply(artifact_type=ARTIFACT_TYPE)
    FileExtension.ext(asset).apply(checksum=SHA2_256 + sha256, size=size_bytes)


def _band(name: str, contract: ModelContract) -> dict[str, object]:
    if contract.input_kind == RGB8:
        return {"name": name, "eo:common_name": name, "data_type": DataType.UINT8.value}
    return _sentinel_band(name, contract)


def _sentinel_band(name: str, contract: ModelContract) -> dict[str, object]:
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


def _image_input(contract: ModelContract) -> ModelInput:
    """As ``_input``, of a model of 8-bit RGB images."""
    size = contract.patch_size_px
    return ModelInput(
        {
            "name": "image",
            "bands": list(contract.bands),
            "input": {
                "shape": [-1, len(contract.bands), size, size],
                "dim_order": ["batch", "bands", "height", "width"],
                "data_type": DataType.FLOAT32.value,
            },
            "description": (
                f"value is an 8-bit image's, 0 to 255, brought to {size} x {size} px by bilinear resampling. "
                f"First the pre-processing: {PREPROCESS_TOLD[contract.preprocess]}; then value_scaling, one "
                "for each band: (x - mean) / stddev."
            ),
            "value_scaling": [
                {"type": "z-score", "mean": mean, "stddev": std}
                for mean, std in zip(contract.mean, contract.std, strict=True)
            ],
            "resize_type": "interpolation-linear",
            "pre_processing_function": {
                "format": IMAGE_FORMAT,
                "expression": {
                    "formula": PREPROCESS_TOLD[contract.preprocess],
                    "preprocess": contract.preprocess,
                },
            },
        }
    )


def _input(contract: ModelContract) -> ModelInput:
    """Bands, shape, and all that stands between DN and the network's input.

    ``standardize`` divides by the saturation before it subtracts the mean; here mean and standard
    deviation are in DN instead, so that they are MLM's own z-score.
    """
    if contract.input_kind == RGB8:
        return _image_input(contract)
    size = contract.patch_size_px if contract.pixels is None else -1
    per_band = zip(contract.mean, contract.std, contract.saturation_dn, strict=True)
    levels = {
        entry.level: {"gain": list(entry.gain), "offset_dn": list(entry.offset_dn)}
        for entry in contract.levels
    }
    return ModelInput(
        {
            "name": "patch" if contract.pixels is None else "block",
            "bands": list(contract.bands),
            "input": {
                "shape": [-1, len(contract.bands), size, size],
                # An input that names bands has a dimension of that name (MLM 1.5).
                "dim_order": ["batch", "bands", "height", "width"],
                "data_type": DataType.FLOAT32.value,
            },
            "description": (
                f"dn is reflectance x {DN_PER_REFLECTANCE} without the +1000 offset of newer products, at "
                f"{contract.resolution_m:g} m, nodata filled. First, band by band, the pre-processing for "
                "the level of the imagery: clip(gain * dn + offset_dn, 0, saturation_dn); then "
                + (
                    ""
                    if contract.preprocess == "raw"
                    else f"{PREPROCESS_TOLD[contract.preprocess]}, of x / saturation_dn for value / 255, and "
                    "x back in DN; then "
                )
                + "value_scaling, one for each band: (x - mean) / stddev."
                + (
                    f" Height and width are multiples of {PixelNet.position_px}. What stands in a band that "
                    "is missing is not looked at."
                    if contract.pixels is not None
                    else ""
                )
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
                    **({"preprocess": contract.preprocess} if contract.preprocess != "raw" else {}),
                    "saturation_dn": list(contract.saturation_dn),
                },
            },
        }
    )


def _label_output(contract: ModelContract, labels: LabelOutputs) -> ModelOutput:
    """As ``_output``, of a network whose classes do not exclude each other."""
    return ModelOutput.create(
        name="logits",
        tasks=[TaskType.SCENE_CLASSIFICATION, TaskType.CLASSIFICATION],
        result=ResultStructure.create(
            shape=[-1, len(contract.classes)], dim_order=["batch", "class"], data_type=DataType.FLOAT32
        ),
        description=(
            "Logits; the post-processing makes them probabilities, each by itself: sigmoid(logits / "
            "temperature). A label is there where its probability is not below its threshold."
        ),
        classes=[_class(value, name) for value, name in enumerate(contract.classes)],
        post_processing_function=ProcessingExpression.create(
            format=SIGMOID_FORMAT,
            expression={
                "formula": "sigmoid(logits / temperature)",
                "temperature": contract.temperature,
                "thresholds": list(labels.thresholds),
            },
        ),
    )


def _output(contract: ModelContract) -> ModelOutput:
    """What the network gives, as MLM says it."""
    if contract.labels is not None:
        return _label_output(contract, contract.labels)
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


def _present(contract: ModelContract) -> ModelInput:
    """Which of the optional bands a block has, as MLM says it."""
    return ModelInput(
        {
            "name": "present",
            "bands": [],
            "input": {
                "shape": [-1, len(contract.optional_bands)],
                "dim_order": ["batch", "optional-band"],
                "data_type": DataType.FLOAT32.value,
            },
            "description": (
                f"1 where a band is there and 0 where it is missing, of {', '.join(contract.optional_bands)}."
            ),
            "resize_type": None,
        }
    )


def _pixel_outputs(contract: ModelContract, outputs: PixelOutputs) -> list[ModelOutput]:
    """The two outputs of a network that classifies each pixel, as MLM says them."""
    uses = {cover: list(row) for cover, row in zip(outputs.covers, outputs.uses_of_covers, strict=True)}
    tasks = [TaskType.SEMANTIC_SEGMENTATION, TaskType.CLASSIFICATION]

    def result(count: int) -> ResultStructure:
        return ResultStructure.create(
            shape=[-1, count, -1, -1],
            dim_order=["batch", "class", "height", "width"],
            data_type=DataType.FLOAT32,
        )

    cover_formula = "p(cover) = softmax(cover_logits / cover_temperature)"
    if outputs.visible_cover_bias:
        cover_formula += ", visible_cover_bias added to cover_logits where all optional bands are missing"
    landuse_output = (
        _learned_output(contract, result)
        if contract.learned is not None
        else ModelOutput.create(
            name="landuse",
            tasks=tasks,
            result=result(len(contract.classes)),
            description=(
                "Probabilities of each pixel's land use, which post-processing makes of the logits of covers "
                "and of uses: sum over covers of p(cover) p(use | cover). The network's third head, of whole "
                f"patches of {contract.patch_size_px} px, tells the uses "
                f"{', '.join(map(printable, outputs.uses))}."
            ),
            classes=[_class(value, name) for value, name in enumerate(contract.classes)],
            post_processing_function=ProcessingExpression.create(
                format=COMBINATION_FORMAT,
                expression={
                    "formula": (
                        f"{cover_formula}; p(use | cover) = softmax over the "
                        "uses of the cover of use_logits / use_temperature. Of a cover of several uses, "
                        "those that are not decided at each pixel are averaged over use_around_px around it, "
                        "weighted by p(cover)."
                    ),
                    "uses": list(outputs.uses),
                    "uses_of_covers": uses,
                    "cover_temperature": outputs.cover_temperature,
                    "use_temperature": outputs.use_temperature,
                    "visible_cover_bias": list(outputs.visible_cover_bias),
                    "use_around_px": USE_AROUND_PX,
                    "decided_at_each_pixel": [name for name in LINES if name in outputs.uses],
                },
            ),
        )
    )
    cover_output = ModelOutput.create(
        name="cover",
        tasks=tasks,
        result=result(len(outputs.covers)),
        description="Probabilities of each pixel's land cover, which post-processing makes of the logits.",
        classes=[_class(value, name, LAND_COVER) for value, name in enumerate(outputs.covers)],
        post_processing_function=ProcessingExpression.create(
            format=COMBINATION_FORMAT,
            expression={
                "formula": cover_formula,
                "cover_temperature": outputs.cover_temperature,
                "visible_cover_bias": list(outputs.visible_cover_bias),
            },
        ),
    )
    return [landuse_output, cover_output]


def _learned_output(contract: ModelContract, result: Callable[[int], ResultStructure]) -> ModelOutput:
    """What a head for a user's own classes gives, as MLM says it."""
    assert contract.learned is not None  # of such a contract
    entries = class_legend(contract.classes, contract.colors)
    return ModelOutput.create(
        name="landuse",
        tasks=[TaskType.SEMANTIC_SEGMENTATION, TaskType.CLASSIFICATION],
        result=result(len(contract.classes)),
        description=(
            "Probabilities of each pixel's class, which post-processing makes of the logits of a linear head "
            "on the network's features, its logits and its input."
        ),
        classes=[_class(entry.id, entry.name, entries) for entry in entries],
        post_processing_function=ProcessingExpression.create(
            format=SOFTMAX_FORMAT,
            expression={
                "formula": "softmax(logits / temperature)",
                "temperature": contract.learned.temperature,
            },
        ),
    )


def _class(value: int, name: str, legend: tuple[LandUseClass, ...] = LAND_USE) -> Classification:
    """A class of an output; its value is the index there and the id in the map's raster."""
    known = next((entry for entry in legend if entry.name == name), None)
    return Classification.create(
        value=value,
        # The extension's schema takes letters, digits, '-' and '_'; the description keeps the rest.
        name=re.sub(r"[^0-9A-Za-z_-]", "-", name) or "-",
        # Required until v2.0.0 of the extension; MLM's schema refers to v1.1.0.
        description=known.title if known else printable(name) or "-",
        color_hint="{:02X}{:02X}{:02X}".format(*known.color) if known else None,
    )
