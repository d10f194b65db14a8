"""A map's STAC documents: ``item.json``, the map itself, and ``model.json``, the network that made it.

``model.json`` follows the machine learning model extension (MLM) v1.5.0. Of a model that comes with
the package it tells what its card tells; of any other only what its checkpoint says of itself.
Source: https://github.com/stac-extensions/mlm/tree/v1.5.0
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pystac

import landuse
from landuse.errors import OutputError
from landuse.model import WEIGHTS, shipped_models
from landuse.model.checkpoint import load_checkpoint
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
from landuse.workflows.card import (
    ARTIFACT_TYPE,
    EXTENSIONS,
    MEDIA_TYPE,
    model_band,
    model_input,
    model_output,
)

if TYPE_CHECKING:
    from pathlib import Path

    from landuse.contract import ModelContract
    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.write.stac_item import MapFacts

MLM = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
SCIENTIFIC = "https://stac-extensions.github.io/scientific/v1.0.0/schema.json"

TRAINING_SPAN_UTC = (datetime(2015, 6, 23, tzinfo=UTC), datetime(2017, 8, 31, 23, 59, 59, tzinfo=UTC))
"""Bounds of when EuroSAT's patches were taken, which its authors state no closer: from the launch of
Sentinel-2A to their first paper (arXiv 1709.00029)."""

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

WHOLE_WORLD = [-180.0, -90.0, 180.0, 90.0]
"""Where a model was trained of which that is not known."""


def write_stac(
    folder: Path, plan: RunPlan, facts: MapFacts, contract: ModelContract, weights: Path | None = None
) -> None:
    """Write ``model.json`` and ``item.json`` into a folder that holds all other files of a map.

    Args:
        folder: where the files are now; ``facts.folder`` is where they will be.
        plan: what was mapped.
        facts: what else is said of the map.
        contract: the model's.
        weights: the model's file, where it is known.

    Raises:
        OutputError: a file cannot be read or written.
    """
    item = map_item(plan, facts, _files(folder))
    model = model_item(
        contract, plan.weights_sha256, weights=weights, folder=facts.folder, created_utc=facts.created_utc
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
) -> pystac.Item:
    """The MLM item of a network.

    Its weights are named by their digest (RFC 6920), unless they are a file of the user's: where a package
    lies on this machine helps nobody, and what it holds can be had elsewhere.

    Args:
        contract: the model's.
        weights_sha256: digest of its file.
        weights: that file, where it is known.
        folder: where the item will lie; None where that is not on this machine.
        created_utc: when the item is made.

    Raises:
        ModelError: ``weights`` cannot be read.
    """
    item = _shipped(contract.name, weights_sha256)
    href = f"ni:///sha-256;{base64.urlsafe_b64encode(bytes.fromhex(weights_sha256)).decode().rstrip('=')}"
    if item is not None:
        told = f"landuse/model/weights/{contract.name}.safetensors of landuse {landuse.__version__}."
    else:
        if weights is not None and file_sha256(weights) != weights_sha256:
            weights = None  # another file by now
        item = _own(contract, weights, created_utc)
        href = href if weights is None else local_href(str(weights.absolute()), folder)
        told = f"The weights of {printable(contract.name)}."
    item.assets = {}
    item.add_asset("weights", _asset(href, told, contract, weights_sha256))
    for described in item.properties["mlm:input"]:
        # Since 1.5, an input that names bands has a dimension of that name.
        described["input"]["dim_order"] = ["batch", "bands", "height", "width"]
    return item


def _shipped(name: str, weights_sha256: str) -> pystac.Item | None:
    """The card of a model that comes with the package, as an item of this version; None of any other."""
    if name not in shipped_models():
        return None
    card = json.loads((WEIGHTS / f"{name}.json").read_text("utf-8"))
    if card["assets"]["weights"]["file:checksum"] != SHA2_256 + weights_sha256:
        return None
    item = pystac.Item.from_dict(card, migrate=False)
    item.stac_extensions = [url for url in item.stac_extensions if "/mlm/" not in url] + [MLM, SCIENTIFIC]
    begin, end = (pystac.utils.datetime_to_str(moment) for moment in TRAINING_SPAN_UTC)
    item.properties |= {
        "created": item.properties["datetime"],
        "start_datetime": begin,
        "end_datetime": end,
        "sci:publications": [dict(publication) for publication in PUBLICATIONS],
    }
    item.datetime = None
    return item


def _own(contract: ModelContract, weights: Path | None, created_utc: datetime) -> pystac.Item:
    """What a contract, and its checkpoint where there is one, tell of a model."""
    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", contract.name).strip("-_.")
    if not re.fullmatch(r"[a-zA-Z].+", name):
        name = f"model-{name}".rstrip("-")
    west, south, east, north = WHOLE_WORLD
    properties: dict[str, object] = {
        "title": printable(contract.name),
        "description": (
            f"A network that tells which of {len(contract.classes)} land-use classes a Sentinel-2 patch of "
            f"{contract.patch_size_px} x {contract.patch_size_px} px at {contract.resolution_m:g} m shows. "
            "Where and when its training data were taken is not known here: the geometry is the whole world."
        ),
        "constellation": "sentinel-2",
        "gsd": contract.resolution_m,
        "bands": [model_band(band, contract) for band in contract.bands],
        "landuse:levels": [entry.level for entry in contract.levels],
        "mlm:name": name,
        "mlm:architecture": "unknown",
        "mlm:tasks": ["scene-classification", "classification"],
        "mlm:framework": "PyTorch",
        "mlm:input": [model_input(contract).to_dict()],
        "mlm:output": [model_output(contract).to_dict()],
        "mlm:batch_size_suggestion": DEFAULT_BATCH_SIZE,
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
    }
    if weights is not None:
        network, _ = load_checkpoint(weights)
        properties |= {
            "mlm:architecture": printable(network.config.name),
            "mlm:total_parameters": sum(parameter.numel() for parameter in network.parameters()),
            # JSON has neither NaN nor infinity; a checkpoint may.
            "mlm:hyperparameters": json.loads(json.dumps(network.config.to_dict()), parse_constant=str),
        }
    return pystac.Item(
        id=name,
        geometry={
            "type": "Polygon",
            "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
        },
        bbox=WHOLE_WORLD,
        datetime=created_utc,
        properties=properties,
        stac_extensions=[*EXTENSIONS, FILE_EXTENSION, MLM],
    )


def _asset(href: str, told: str, contract: ModelContract, weights_sha256: str) -> pystac.Asset:
    return pystac.Asset(
        href=href,
        title="Weights",
        description=f"{told} safetensors, read without pickle.",
        media_type=MEDIA_TYPE,
        roles=["mlm:model", "mlm:weights", "data"],
        extra_fields={
            # STAC 1.1 takes bands in an item's properties, as MLM wants them, only if an asset has some.
            "bands": [{"name": name} for name in contract.bands],
            "mlm:artifact_type": ARTIFACT_TYPE,
            "file:checksum": SHA2_256 + weights_sha256,
        },
    )
