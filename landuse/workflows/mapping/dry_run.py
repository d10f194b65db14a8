"""What a run would read, compute and write, before any pixel is read: ``--dry-run``."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import shapely

from landuse.pipeline.blocks.context import BlockContext
from landuse.pipeline.geometry import footprint_in, footprint_of, solar_days
from landuse.pipeline.remote.files import is_jpeg2000
from landuse.sentinel2 import RESOLUTION_M, SCL
from landuse.workflows.mapping.classify_block import work_of
from landuse.workflows.mapping.map_area import area_of, find_scenes, plan_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.scene import BandAsset, Scene
    from landuse.pipeline.search.find_scenes import SourceOutcome
    from landuse.workflows.mapping.classify_block import (
        Classifier,
        Land,
        PatchClassifier,
        PixelClassifier,
        Placed,
    )
    from landuse.workflows.mapping.request import MapRequest

CHUNK_PX = 512
"""Side of the chunks that COGs of Sentinel-2 are read in; JPEG 2000 has 1024."""

BYTES_PER_PX = {"tiff": 1.5, "jp2": 1.0, SCL: 0.05}
"""What a compressed pixel takes where the item does not tell: reflectance by format, and the SCL."""

READ_BYTES_PER_S = 10e6
"""Assumed rate of reading: nothing is fetched here that would tell."""

VECTOR_BYTES = {"polygons": 20, "large polygons": 2, "cells": 250}
"""Of a map's cell in the vector layers: its share of polygons, of those that are larger than a minimum, and
its square where cells are asked for."""

SMALL_FILES_BYTES = 1_500_000
"""What preview, scripts of the page, STAC items and empty tables take together, of any map."""

CALIBRATION_PATCHES = 256
"""Patches that the network is timed on."""

CALIBRATION_PX = 768
"""Side of the block of pixels that a network of pixels is timed on."""

GAPS_SHOWN = 5
"""Largest gaps in cover that are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """What of the area no scene's footprint covers."""

    percent: float
    """Share of the area."""
    bboxes: tuple[tuple[float, float, float, float], ...]
    """West, south, east, north of the largest gaps in degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    """What ``landuse map`` would do."""

    plan: RunPlan
    """With every scene that may be clear enough over the area, which only its mask can tell."""
    sources: tuple[SourceOutcome, ...]
    """What became of each source."""
    gaps: Gaps
    """What no scene covers."""
    read_bytes: tuple[int, int]
    """From one clear layer of scenes to all of them; estimated."""
    patches: int
    """Patches that the network may have to classify."""
    pixels: int
    """Pixels that it may have to, of a model of pixels; those around each block count as well."""
    disk_bytes: tuple[int, int]
    """Most that is held during the run, copies of what is fetched included; estimated."""
    read_seconds: tuple[float, float]
    """At ``READ_BYTES_PER_S``."""
    network_seconds: float
    """At the rate that the network has on this machine now."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; hrefs without their query, which may be a signature."""
        values = asdict(self)
        values["plan"] = self.plan.to_public_dict()
        values["assumed_read_bytes_per_s"] = READ_BYTES_PER_S
        return values


def estimate_run(request: MapRequest, classifier: Classifier) -> RunEstimate:
    """Search and plan, and estimate what the run will take. No pixel is read.

    Raises:
        LanduseError: as ``find_scenes`` and ``plan_map`` do.
    """
    found = find_scenes(request, classifier.contract)
    plan = plan_map(request, classifier, found.scenes)
    work = [placed for placed in (work_of(plan, block) for block in plan.blocks) if placed is not None]
    extent = shapely.union_all(
        [
            shapely.box(*plan.pixel_geobox(placed.rows_px, placed.cols_px).boundingbox.bbox)
            for placed, _ in work
        ]
    )
    dates = len(set(solar_days(plan.scenes))) if plan.fuse == "dates" else 1
    patches = dates * sum(_patches(placed) for placed, _ in work)
    pixels = dates * sum(placed.pixels for placed, _ in work if isinstance(placed, BlockContext))
    read_bytes, fetched_bytes = _read_bytes(plan, extent), _read_bytes(plan, extent, remote_only=True)
    kept = _kept_bytes(plan, request)
    return RunEstimate(
        plan=plan,
        sources=found.sources,
        gaps=gaps_in(area_of(request, found.scenes), plan.scenes),
        read_bytes=read_bytes,
        patches=patches,
        pixels=pixels,
        disk_bytes=(fetched_bytes[0] + kept, fetched_bytes[1] + kept),
        read_seconds=(read_bytes[0] / READ_BYTES_PER_S, read_bytes[1] / READ_BYTES_PER_S),
        network_seconds=dates * _network_seconds(plan, classifier, work) if work else 0.0,
    )


def _patches(placed: Placed) -> int:
    if isinstance(placed, BlockContext):
        return 0
    return len(placed.rows.cells) * len(placed.cols.cells)


def _kept_bytes(plan: RunPlan, request: MapRequest) -> int:
    """Finished blocks and the map's files, as if nothing could be compressed; both are there at the end."""
    # Class, confidence, status; cover, second class with its probability; doubt; every class's probability.
    bands = 3 + 3 * bool(plan.covers) + plan.tells_doubt + len(plan.classes) * plan.probabilities
    rasters = 3 * bands  # in blocks, in pieces, and as COGs made of them
    is_sieved = (request.vectors.for_plan(plan).min_area_ha or 0) > 0
    vectors = VECTOR_BYTES["large polygons" if is_sieved else "polygons"] + (
        VECTOR_BYTES["cells"] if request.vectors.cells else 0
    )
    picture = 3 * (plan.stride_px // plan.picture_step_px) ** 2  # in block, pieces, COG and page
    return plan.rows * plan.cols * (rasters + vectors + 4 * picture) + SMALL_FILES_BYTES


def _read_bytes(plan: RunPlan, extent: BaseGeometry, *, remote_only: bool = False) -> tuple[int, int]:
    """Bytes of the first scenes that cover the area with the masks of all, and of all scenes."""
    least = most = 0.0
    left = extent
    for scene in plan.scenes:
        part = extent.intersection(footprint_in(scene, plan.crs))
        size = sum(
            _asset_bytes(asset, part) for asset in scene.assets if not remote_only or "://" in asset.href
        )
        most += size
        if plan.reads_every_date or part.intersection(left).area > 0:
            least += size
            left = left.difference(part)
    return round(least), round(most)


def _asset_bytes(asset: BandAsset, part: BaseGeometry) -> float:
    """Bytes of the chunks that a region touches: a rectangle of w x h touches (w + 1)(h + 1) on average."""
    if part.is_empty:
        return 0.0
    jpeg = is_jpeg2000(asset.href)
    pixel_m = asset.pixel_m or (20 if asset.band == SCL else RESOLUTION_M[asset.band])
    side_m = (2 * CHUNK_PX if jpeg else CHUNK_PX) * pixel_m
    chunks = part.area / side_m**2 + part.length / (2 * side_m) + 1
    per_px = asset.bytes_per_px or BYTES_PER_PX[SCL if asset.band == SCL else "jp2" if jpeg else "tiff"]
    return float(chunks * (side_m / pixel_m) ** 2 * per_px)


def gaps_in(area: BaseGeometry, scenes: Sequence[Scene]) -> Gaps:
    """What of the area the scenes' footprints leave out; slivers below a millionth of it are none."""
    covered = shapely.union_all([footprint_of(scene) for scene in scenes])
    parts = [part for part in shapely.get_parts(area.difference(covered)) if part.area > 1e-6 * area.area]
    parts.sort(key=lambda part: -part.area)
    return Gaps(
        percent=100 * sum(part.area for part in parts) / area.area,
        bboxes=tuple(tuple(round(edge, 6) for edge in part.bounds) for part in parts[:GAPS_SHOWN]),
    )


def _network_seconds(plan: RunPlan, classifier: Classifier, work: Sequence[tuple[Placed, Land]]) -> float:
    """Timed on noise: what a patch shows does not matter to how long it takes."""
    pixels = sum(math.prod(high - low for low, high in (w.rows_px, w.cols_px)) for w, _ in work)

    def classify_noise() -> float:
        """Classifies a little; returns how many times that the run is."""
        rng = np.random.default_rng(0)
        if plan.engine == "pixels":
            side = CALIBRATION_PX // plan.position_px * plan.position_px
            scene = rng.integers(1, 4000, (len(plan.bands), side, side), np.uint16)
            cast("PixelClassifier", classifier).pixel_scores(scene, plan.bands, plan.level)
            return pixels / side**2
        patch_classifier, cells = cast("PatchClassifier", classifier), plan.patch_px // plan.stride_px
        shape = (CALIBRATION_PATCHES, len(plan.bands), plan.patch_px, plan.patch_px)
        patch_classifier.cell_probabilities(rng.integers(1, 4000, shape, np.uint16), plan.level, cells)
        return sum(_patches(placed) for placed, _ in work) / CALIBRATION_PATCHES

    classify_noise()  # the first batch also sets things up
    began = time.perf_counter()
    times = classify_noise()
    return (time.perf_counter() - began) * times
