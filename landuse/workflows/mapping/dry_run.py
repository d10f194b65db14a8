"""What a run would read, compute and write, before any pixel is read: ``--dry-run``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np
import shapely

from landuse.errors import NothingFoundError
from landuse.pipeline.blocks.context import BlockContext, block_context, own_pixels
from landuse.pipeline.blocks.patches import block_patches
from landuse.pipeline.geometry import footprint_in, footprint_of, solar_days
from landuse.pipeline.read.cloud_survey import LONGEST_SIDE_PX
from landuse.pipeline.remote.files import is_jpeg2000
from landuse.sentinel2 import RESOLUTION_M, SCL
from landuse.workflows.mapping.calibrate import (
    Calibration,
    keep_calibration,
    kept_calibration,
    key_of,
    measure,
)
from landuse.workflows.mapping.classify_block import work_of
from landuse.workflows.mapping.map_area import area_of, find_scenes, plan_map
from landuse.workflows.mapping.publish import VIEW_CELLS
from landuse.workflows.mapping.zones.map_zones import nothing_found, zone_requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.scene import BandAsset, Scene
    from landuse.pipeline.search.find_scenes import SourceOutcome
    from landuse.workflows.mapping.classify_block import (
        Classifier,
        PatchClassifier,
        PixelClassifier,
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

SIEVE_BYTES = 3
"""For a cell while small polygons go to their neighbours: its class before and after, and a mask."""

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
class Cost:
    """What a run takes."""

    read_bytes: tuple[int, int]
    """From one clear layer of scenes to all of them; estimated."""
    patches: int
    """Patches that the network may have to classify."""
    pixels: int
    """Pixels that it may have to, of a model of pixels; those around each block count as well."""
    disk_bytes: tuple[int, int]
    """Most that is held during the run, copies of what is fetched included; estimated."""
    read_seconds: tuple[float, float]
    """Of what is not on this machine, at ``READ_BYTES_PER_S``."""
    network_seconds: float
    """At the rate that the network has on this machine now; that of a calibration where there is one."""
    seconds: tuple[float, float]
    """The whole run, from the least to the most that is read."""
    memory_bytes: int | None = None
    """Most memory of the process, by a calibration; None without."""
    disk_about_bytes: tuple[int, int] | None = None
    """Most that is held on disk, as well as simulated land can be compressed, by a calibration."""

    def __add__(self, other: Self) -> Self:
        """Of two runs, one after the other."""
        return type(self)(
            read_bytes=_added(self.read_bytes, other.read_bytes),
            patches=self.patches + other.patches,
            pixels=self.pixels + other.pixels,
            disk_bytes=_added(self.disk_bytes, other.disk_bytes),
            read_seconds=_added(self.read_seconds, other.read_seconds),
            network_seconds=self.network_seconds + other.network_seconds,
            seconds=_added(self.seconds, other.seconds),
            memory_bytes=(
                None
                if self.memory_bytes is None or other.memory_bytes is None
                else max(self.memory_bytes, other.memory_bytes)
            ),
            disk_about_bytes=(
                None
                if self.disk_about_bytes is None or other.disk_about_bytes is None
                else _added(self.disk_about_bytes, other.disk_about_bytes)
            ),
        )


Pair = TypeVar("Pair", int, float)


def _added(one: tuple[Pair, Pair], other: tuple[Pair, Pair]) -> tuple[Pair, Pair]:
    return one[0] + other[0], one[1] + other[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    """What ``landuse map`` would do."""

    plan: RunPlan
    """With every scene that may be clear enough over the area, which only its mask can tell."""
    sources: tuple[SourceOutcome, ...]
    """What became of each source."""
    gaps: Gaps
    """What no scene covers."""
    cost: Cost
    """What it takes."""
    calibration: Calibration | None = None
    """What that rests on; None where this machine was not measured for such a run."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; hrefs without their query, which may be a signature."""
        values = {name: value for name, value in asdict(self).items() if name not in ("plan", "cost")}
        values |= asdict(self.cost)
        values["plan"] = self.plan.to_public_dict()
        values["assumed_read_bytes_per_s"] = READ_BYTES_PER_S
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonesEstimate:
    """What ``landuse map --zones each`` would do."""

    zones: tuple[tuple[str, RunEstimate], ...]
    """Name of each UTM zone, such as ``"32N"``, and the run of its part of the area."""
    unmapped: tuple[tuple[str, str], ...]
    """Name of each zone in which nothing is found, and why."""

    @property
    def total(self) -> Cost:
        """Of all zones: they are mapped one after the other."""
        first, *others = (estimate.cost for _, estimate in self.zones)
        return sum(others, first)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "zones": [{"zone": name, **estimate.to_dict()} for name, estimate in self.zones],
            "unmapped": [{"zone": name, "reason": reason} for name, reason in self.unmapped],
            "total": asdict(self.total),
        }


def estimate_any(
    request: MapRequest, classifier: Classifier, *, calibrate: bool = False
) -> RunEstimate | ZonesEstimate:
    """What the run of a request, of one zone or of each, will take. No pixel is read.

    Args:
        request: what is to be mapped.
        classifier: the model.
        calibrate: whether to measure this machine anew, and keep that.

    Raises:
        NothingFoundError: in no zone anything was found.
        LanduseError: as ``estimate_run`` does.
    """
    if request.zones != "each":
        return estimate_run(request, classifier, calibrate=calibrate)
    zones: list[tuple[str, RunEstimate]] = []
    unmapped: list[tuple[str, str]] = []
    for part, of_zone in zone_requests(request, classifier):
        try:
            # One measurement does for all zones, unless they are read in other bands.
            anew = calibrate and not any(estimate.calibration for _, estimate in zones)
            zones.append((part.name, estimate_run(of_zone, classifier, calibrate=anew)))
        except NothingFoundError as error:
            unmapped.append((part.name, str(error)))
    if not zones:
        raise nothing_found(unmapped)
    return ZonesEstimate(zones=tuple(zones), unmapped=tuple(unmapped))


def estimate_run(request: MapRequest, classifier: Classifier, *, calibrate: bool = False) -> RunEstimate:
    """Search and plan, and estimate what the run will take. No pixel of a scene is read.

    Args:
        request: what is to be mapped.
        classifier: the model.
        calibrate: whether to measure this machine anew by small runs on simulated land, and keep that.

    Raises:
        LanduseError: as ``find_scenes``, ``plan_map`` and ``measure`` do.
    """
    found = find_scenes(request, classifier.contract)
    plan = plan_map(request, classifier, found.scenes)
    work = work_of_blocks(plan)
    extent = shapely.union_all(
        [shapely.box(*plan.pixel_geobox(block.rows_px, block.cols_px).boundingbox.bbox) for block in work]
    )
    dates = len(set(solar_days(plan.scenes))) if plan.fuse == "dates" else 1
    patches = dates * sum(block.patches for block in work)
    pixels = dates * sum(block.pixels for block in work) if plan.engine == "pixels" else 0
    read_bytes, fetched_bytes = _read_bytes(plan, extent), _read_bytes(plan, extent, remote_only=True)
    kept = _kept_bytes(plan, request)
    key = key_of(request, plan, classifier)
    if calibrate:
        calibration: Calibration | None = measure(request, plan, classifier)
        keep_calibration(key, cast("Calibration", calibration))
    else:
        calibration = kept_calibration(key)
    read_seconds = (fetched_bytes[0] / READ_BYTES_PER_S, fetched_bytes[1] / READ_BYTES_PER_S)
    cost = Cost(
        read_bytes=read_bytes,
        patches=patches,
        pixels=pixels,
        disk_bytes=(fetched_bytes[0] + kept, fetched_bytes[1] + kept),
        read_seconds=read_seconds,
        network_seconds=0.0,
        seconds=(0.0, 0.0),
    )
    if calibration is None:
        network = dates * _network_seconds(plan, classifier, work) if work else 0.0
        cost = replace(
            cost, network_seconds=network, seconds=(network + read_seconds[0], network + read_seconds[1])
        )
    else:
        cost = _foreseen(calibration, cost, plan, work, fetched_bytes)
    return RunEstimate(
        plan=plan,
        sources=found.sources,
        gaps=gaps_in(area_of(request, found.scenes), plan.scenes),
        cost=cost,
        calibration=calibration,
    )


def _foreseen(
    calibration: Calibration,
    cost: Cost,
    plan: RunPlan,
    work: Sequence[BlockWork],
    fetched_bytes: tuple[int, int],
) -> Cost:
    """What a run takes on a machine that was measured."""
    cells = sum(block.cells for block in work)
    largest_px = max((block.pixels for block in work), default=0)
    network = calibration.map_seconds + calibration.work_seconds * (cost.pixels + cost.patches)
    around = calibration.once_seconds + calibration.plan_seconds + calibration.write_seconds
    around += calibration.cell_seconds * cells
    looked_at = min(cells, LONGEST_SIDE_PX**2)  # clouds over a large area are looked at coarsely
    around += calibration.plan_cell_seconds * looked_at
    # The next blocks are read while the network works on one: the slower of the two is waited for, and the
    # first block's pixels.
    first = 1 / max(len(work), 1)
    soon, late = (around + max(network, reading) + first * reading for reading in cost.read_seconds)
    shown = min(plan.rows * plan.cols, VIEW_CELLS**2)
    written = calibration.write_memory_bytes + calibration.cell_memory_bytes * shown
    # The class raster, which is sieved whole.
    beyond = SIEVE_BYTES * (plan.rows * plan.cols - shown) if plan.engine == "pixels" else 0
    mapped = calibration.map_memory_bytes + calibration.pixel_bytes * largest_px
    kept = calibration.disk_bytes + calibration.cell_bytes * cells
    return replace(
        cost,
        network_seconds=network,
        seconds=(soon, late),
        memory_bytes=round(max(mapped, written + beyond)),
        disk_about_bytes=(round(kept + fetched_bytes[0]), round(kept + fetched_bytes[1])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """What a block takes."""

    rows_px: tuple[int, int]
    """First and one past the last pixel row that is read for it, from the map's corner."""
    cols_px: tuple[int, int]
    """The same of columns."""
    cells: int
    """Cells of it that belong to the map."""
    patches: int
    """Patches in it; 0 of a model of pixels."""
    pixels: int
    """Pixels that the network sees for it; of a model of patches those that are read."""


def work_of_blocks(plan: RunPlan) -> list[BlockWork]:
    """What each block with land takes; of a country most are told by their corners alone."""
    area = None if plan.clip_wkt is None else shapely.make_valid(shapely.from_wkt(plan.clip_wkt))
    if area is not None:
        shapely.prepare(area)
    found = []
    for block in plan.blocks:
        box = shapely.box(*plan.pixel_geobox(*own_pixels(plan, block)).boundingbox.bbox)
        if area is not None and not area.intersects(box):
            continue
        cells = block.shape[0] * block.shape[1]
        if area is None or area.contains(box):
            placed = block_context(plan, block) if plan.engine == "pixels" else block_patches(plan, block)
        else:
            work = work_of(plan, block)  # counts the cells that the outline leaves
            placed, cells = (None, 0) if work is None else (work[0], int(work[1].cells.sum()))
        if placed is None:
            continue
        if isinstance(placed, BlockContext):
            patches, pixels = 0, placed.pixels
        else:
            patches = len(placed.rows.cells) * len(placed.cols.cells)
            pixels = (placed.rows_px[1] - placed.rows_px[0]) * (placed.cols_px[1] - placed.cols_px[0])
        found.append(
            BlockWork(
                rows_px=placed.rows_px,
                cols_px=placed.cols_px,
                cells=cells,
                patches=patches,
                pixels=pixels,
            )
        )
    return found


def _kept_bytes(plan: RunPlan, request: MapRequest) -> int:
    """Finished blocks and the map's files, as if nothing could be compressed; both are there at the end."""
    # Class, confidence, status; cover, second class with its probability; doubt; every class's probability.
    bands = 3 + 3 * bool(plan.covers) + plan.tells_doubt + len(plan.classes) * plan.probabilities
    rasters = 3 * bands  # in blocks, in pieces, and as COGs made of them
    vectors = 0
    if request.vectors is not None:
        is_sieved = (request.vectors.for_plan(plan).min_area_ha or 0) > 0
        vectors = VECTOR_BYTES["large polygons" if is_sieved else "polygons"] + (
            VECTOR_BYTES["cells"] if request.vectors.cells else 0
        )
    picture = 3 * (plan.stride_px // plan.picture_step_px) ** 2
    pictures = 3 if request.vectors is None else 4  # in block, pieces, COG and perhaps page
    return plan.rows * plan.cols * (rasters + vectors + pictures * picture) + SMALL_FILES_BYTES


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


def _network_seconds(plan: RunPlan, classifier: Classifier, work: Sequence[BlockWork]) -> float:
    """Timed on noise: what a patch shows does not matter to how long it takes."""
    pixels = sum(block.pixels for block in work)

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
        return sum(block.patches for block in work) / CALIBRATION_PATCHES

    classify_noise()  # the first batch also sets things up
    began = time.perf_counter()
    times = classify_noise()
    return (time.perf_counter() - began) * times
