"""From an area and dates to a land-use map: plan, blocks, outputs."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import shapely

from landuse.errors import IncompleteError, OutputError, UsageError
from landuse.pipeline.area import Area, DateRange, parse_bbox, parse_dates, read_aoi
from landuse.pipeline.blocks import BlockFile, read_block, write_block
from landuse.pipeline.failover import Found, search_sources, split_sources
from landuse.pipeline.lonlat import outline
from landuse.pipeline.plan import RunPlan, make_plan, utm_crs
from landuse.pipeline.remote import Remote
from landuse.pipeline.retry import RetryPolicy
from landuse.pipeline.search import SceneQuery
from landuse.pipeline.survey import survey
from landuse.pipeline.write import prepare_folder, staged, write_json
from landuse.workflows.block import BlockInput, PatchClassifier, classify_block, read_input
from landuse.workflows.outputs import OUTPUTS, assemble
from landuse.workflows.report import MapReport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.providers import Provider
    from landuse.records import BandAsset, Block, ModelContract, ReadFailure, Scene

log = logging.getLogger(__name__)

BLOCKS_AHEAD = 2
"""Blocks whose pixels are read or wait while another is classified; each may hold some 100 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRequest:
    """What a user asks for."""

    source: str | Provider | tuple[str | Provider, ...]
    """Provider, its name, a STAC API's URL, or a path to local STAC metadata; several, in a tuple or
    separated by commas, in the order in which they are tried."""
    area: Area | None
    """Where; None maps all that a local source covers."""
    dates: DateRange | None
    """When; None takes any date."""
    out: Path
    """Folder for the results."""
    stride_px: int = 16
    """Cell size in pixels of 10 m."""
    max_cloud_percent: float = 40.0
    """Scenes with more cloud over the area, of what they show of it, are left out."""
    composite: str = "best"
    """``"best"`` or ``"median"``."""
    probabilities: bool = False
    """Also write every class's probability."""
    min_valid_percent: float = 10.0
    """Below this share of classified cells the map counts as incomplete."""
    overwrite: bool = False
    """Replace results that are there already."""
    block_px: int = 1024
    """Side of a block; decides memory, not results."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Patience with catalogues and imagery."""

    @property
    def sources(self) -> tuple[str | Provider, ...]:
        """Where to look, in order."""
        if isinstance(self.source, str):
            return split_sources(self.source)
        return self.source if isinstance(self.source, tuple) else (self.source,)

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("--source is empty. Name a provider, a URL or a path.")
        if not 0 <= self.min_valid_percent <= 100:
            raise UsageError(f"--min-valid {self.min_valid_percent:g} is no percentage. Give 0 to 100.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    blocks_done: int
    """Finished blocks."""
    blocks: int
    """All blocks."""
    patches: int
    """Patches classified so far."""


def load_classifier(model: str, device: str = "auto") -> PatchClassifier:
    """The classifier of a shipped model's name or of a checkpoint's path.

    Raises:
        ModelError: there is no such model, or its file is corrupt or foreign.
        UsageError: the device is unknown or missing.
    """
    from landuse.model.predict import Predictor  # torch takes seconds to import

    return Predictor.load(model, device)


def requested_area(bbox: str | None, aoi: Path | None) -> Area | None:
    """The area that ``--bbox`` or ``--aoi`` names; None without either.

    Raises:
        UsageError: both are given, or the one given is malformed.
    """
    if bbox is not None and aoi is not None:
        raise UsageError("--bbox and --aoi are both given. Give one.")
    if bbox is not None:
        return parse_bbox(bbox)
    return read_aoi(aoi) if aoi is not None else None


def requested_dates(date: str | None) -> DateRange | None:
    """The span that ``--date`` names; None without it.

    Raises:
        UsageError: it is malformed.
    """
    return parse_dates(date) if date is not None else None


def find_scenes(request: MapRequest, contract: ModelContract) -> Found:
    """The scenes to choose from; no pixel is read.

    Raises:
        LanduseError: as ``search_sources`` does.
    """
    query = SceneQuery(
        area=request.area,
        dates=request.dates,
        max_cloud_percent=request.max_cloud_percent,
        bands=contract.bands,
        levels=tuple(entry.level for entry in contract.levels),
    )
    found = search_sources(request.sources, query, request.retry)
    return replace(found, scenes=tuple(_with_fingerprints(scene) for scene in found.scenes))


def ground_of(request: MapRequest, scenes: Sequence[Scene]) -> BaseGeometry:
    """The area to map in longitude and latitude: as asked for, else all that the scenes cover."""
    return (
        shapely.union_all([outline(scene) for scene in scenes])
        if request.area is None
        else request.area.geometry
    )


def plan_map(
    request: MapRequest,
    contract: ModelContract,
    weights_sha256: str,
    scenes: Sequence[Scene],
    crs: str | None = None,
) -> RunPlan:
    """Plan the map of the scenes, in the UTM zone ``crs`` or that which suits them; no pixel is read.

    Raises:
        LanduseError: as ``make_plan`` does.
    """
    return make_plan(
        ground_of(request, scenes),
        scenes,
        contract,
        weights_sha256=weights_sha256,
        stride_px=request.stride_px,
        composite=request.composite,
        clip=request.area is not None and request.area.clip,
        block_px=request.block_px,
        crs=crs,
    )


def _with_fingerprints(scene: Scene) -> Scene:
    """The scene with the size and time of its local files: blocks of another version are not taken over."""

    def marked(asset: BandAsset) -> BandAsset:
        try:
            stat = Path(asset.href).stat()
        except (OSError, ValueError):  # not local, or gone: reading will say so
            return asset
        return replace(asset, fingerprint=f"{stat.st_size} {stat.st_mtime_ns}")

    return replace(scene, assets=tuple(marked(asset) for asset in scene.assets))


def map_area(
    request: MapRequest, classifier: PatchClassifier, on_progress: Callable[[Progress], None] | None = None
) -> MapReport:
    """Make the map. Blocks that an interrupted run of the same plan finished are taken over.

    Raises:
        UsageError: the folder holds a map and ``overwrite`` is not asked for, or the request is wrong.
        IncompleteError: the map is written, but less of it than ``min_valid_percent`` is classified.
        LanduseError: nothing found, nothing readable, nothing writable.
    """
    began = time.monotonic()
    try:
        held = [name for name in OUTPUTS if (request.out / name).exists()]
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise OutputError(
            f"Output folder {request.out} cannot be read ({error.strerror or error}). Choose another --out."
        ) from error
    if held and not request.overwrite:
        raise UsageError(
            f"{request.out} already holds {', '.join(held)}. Use --overwrite to replace it, or another --out."
        )
    found = find_scenes(request, classifier.contract)
    # What is fetched lies beside the results: the system's temporary folder is often memory.
    folder = next(path for path in (request.out, *request.out.absolute().parents) if path.is_dir())
    providers = [source for source in request.sources if not isinstance(source, str)]
    with Remote(request.retry, providers=providers, folder=folder) as remote:
        ground = ground_of(request, found.scenes)
        crs = utm_crs(ground, found.scenes)
        surveyed = survey(
            found.scenes,
            ground,
            crs,
            composite=request.composite,
            max_cloud_percent=request.max_cloud_percent,
            remote=remote,
        )
        plan = plan_map(request, classifier.contract, classifier.weights_sha256, surveyed.scenes, crs)
        for warning in plan.warnings:
            log.warning("%s", warning)
        prepare_folder(request.out)  # only now: a request that fits nothing leaves no folder behind
        planned = time.monotonic()
        work = request.out / f".blocks-{plan.blocks_key}"
        patch_count = _run_blocks(plan, work, classifier, remote, on_progress)
        traffic = remote.traffic
    mapped = time.monotonic()
    with staged(request.out, OUTPUTS) as folder:
        made = assemble(plan, work, folder, probabilities=request.probabilities)
        report = MapReport(
            plan=plan,
            sources=found.sources,
            left_out=surveyed.left_out,
            cover=made.cover,
            classes=made.classes,
            failures=(*surveyed.failures, *made.failures),
            files=(*made.files, "run.json"),
            out=request.out,
            patches=patch_count,
            traffic=traffic,
            seconds={
                "plan": planned - began,
                "map": mapped - planned,
                "write": time.monotonic() - mapped,
            },
        )
        write_json(folder / "run.json", report.to_dict())
    cover = made.cover
    if not any(is_missing(failure) for failure in made.failures):
        # Blocks in which pixels are missing are done again by the next run; the others are kept for it.
        for leftover in request.out.glob(".blocks-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    if cover.valid * 100 < request.min_valid_percent:
        raise IncompleteError(
            report=report.to_dict(),
            message=f"Only {cover.valid:.1%} of {cover.cells} cells could be classified, below --min-valid "
            f"{request.min_valid_percent:g} % (cloudy {cover.cloudy:.1%}, failed {cover.failed:.1%}, nodata "
            f"{cover.nodata:.1%}). The map and its run.json are in {request.out}; widen --date or raise "
            "--max-cloud.",
        )
    return report


def _run_blocks(
    plan: RunPlan,
    work: Path,
    classifier: PatchClassifier,
    remote: Remote,
    on_progress: Callable[[Progress], None] | None,
) -> int:
    """Do every block that is not done yet; returns how many patches they have together."""
    log.info(
        "%d scenes, %d x %d cells in %d blocks", len(plan.scenes), plan.rows, plan.cols, len(plan.blocks)
    )
    prepare_folder(work)
    patch_count = done = 0

    def finished(content: BlockFile) -> None:
        nonlocal patch_count, done
        patch_count += content.patches
        done += 1
        if on_progress is not None:
            on_progress(Progress(blocks_done=done, blocks=len(plan.blocks), patches=patch_count))

    left = []
    for block in plan.blocks:
        content = read_block(work, block, plan)
        # One that was read from a mirror is done again too: the mirror may have changed.
        if content is None or content.failures:
            left.append(block)
        else:
            finished(content)
    with closing(_read_ahead(plan, left, remote)) as inputs:
        for block, given in inputs:
            content = classify_block(plan, block, classifier, given)
            write_block(work, block, content)
            finished(content)
    return patch_count


def _read_ahead(
    plan: RunPlan, blocks: Sequence[Block], remote: Remote
) -> Generator[tuple[Block, BlockInput | None]]:
    """Each block with its pixels; the next ones are read while the network works on one."""
    with remote.readers(1) as reader:
        waiting = deque(
            (block, reader.submit(read_input, plan, block, remote)) for block in blocks[:BLOCKS_AHEAD]
        )
        for following in (*blocks[BLOCKS_AHEAD:], *[None] * min(BLOCKS_AHEAD, len(blocks))):
            block, reading = waiting.popleft()
            given = reading.result()
            if following is not None:
                waiting.append((following, reader.submit(read_input, plan, following, remote)))
            yield block, given


def is_missing(failure: ReadFailure) -> bool:
    """Whether a failed read left pixels missing; a mirror may have had them."""
    return failure.replaced_by is None
