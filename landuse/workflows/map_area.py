"""From an area and dates to a land-use map: plan, blocks, outputs."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import shapely

from landuse.errors import IncompleteError, UsageError
from landuse.pipeline.area import Area, DateRange, parse_bbox, parse_dates, read_aoi
from landuse.pipeline.blocks import is_unfinished, open_blocks, remove_blocks
from landuse.pipeline.failover import Found, search_sources, split_sources
from landuse.pipeline.lonlat import outline
from landuse.pipeline.plan import RunPlan, make_plan
from landuse.pipeline.remote import Remote
from landuse.pipeline.retry import RetryPolicy
from landuse.pipeline.search import SceneQuery
from landuse.pipeline.stac_catalog import add_to_catalog
from landuse.pipeline.store import Store
from landuse.pipeline.survey import survey
from landuse.redact import redact_href
from landuse.workflows.outputs import OUTPUTS, assemble
from landuse.workflows.publish import PUBLISHED, default_title, publish
from landuse.workflows.report import MapReport
from landuse.workflows.run_blocks import Cluster, Stage, Tally, run_here, take_over
from landuse.workflows.vector_layers import VectorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.providers import Provider
    from landuse.pipeline.remote import Traffic
    from landuse.records import BandAsset, Block, ModelContract, ReadFailure, Scene
    from landuse.workflows.block import PatchClassifier
    from landuse.workflows.run_blocks import BlockDone, Progress

log = logging.getLogger(__name__)

MAX_TITLE = 200
"""Characters of a map's title."""

BlockRunner: TypeAlias = "Callable[[RunPlan, Sequence[Block], Store, Callable[[BlockDone], None]], Traffic]"
"""Does blocks of a plan, keeps them in a folder, tells of each, and returns what was fetched elsewhere."""


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
    out: Path | str | None = None
    """Folder for the results, or its fsspec URL; None: ``landuse-map``, or a folder in the catalogue's."""
    catalog: Path | None = None
    """Folder of the STAC catalogue that lists the map; None: none does."""
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
    title: str = ""
    """What the map is called; empty names it after the days of its scenes. May hold anything printable."""
    vectors: VectorOptions = field(default_factory=VectorOptions)
    """How its vector layers are to be."""
    overwrite: bool = False
    """Replace results that are there already."""
    engine: str = "auto"
    """``"windows"``: each window goes through the network alone; ``"shared"``: windows share features;
    ``"auto"``: shared where the model was trained for it, else windows."""
    block_px: int | None = None
    """Side of a block; decides memory, not results. None: what suits the engine."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Patience with catalogues and imagery."""

    @property
    def sources(self) -> tuple[str | Provider, ...]:
        """Where to look, in order."""
        if isinstance(self.source, str):
            return split_sources(self.source)
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def providers(self) -> tuple[Provider, ...]:
        """Those of the sources that are given as such."""
        return tuple(source for source in self.sources if not isinstance(source, str))

    def folder(self, weights_sha256: str) -> Path | str:
        """Where the results go: the same request has the same place, so that it can be gone on with."""
        if self.out is not None:
            return self.out
        if self.catalog is None:
            return Path("landuse-map")
        decisive = (
            [source if isinstance(source, str) else source.name for source in self.sources],
            self.area and shapely.to_wkb(self.area.geometry, hex=True),
            str(self.dates),
            [self.stride_px, self.composite, self.engine, self.max_cloud_percent, weights_sha256],
        )
        start = self.dates and (self.dates.start_utc or self.dates.end_utc)
        days = f"{start:%Y-%m-%d}" if start else "any-date"
        key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:8]
        return self.catalog / f"landuse-{days}-{key}"

    def __post_init__(self) -> None:
        if self.catalog is not None and isinstance(self.out, str) and "://" in self.out:
            raise UsageError(
                f"--catalog {self.catalog} lists maps on this machine, and --out {redact_href(self.out)} is "
                "a URL. Give a folder, or leave --catalog out."
            )
        if not self.sources:
            raise UsageError("--source is empty. Name a provider, a URL or a path.")
        if not 0 <= self.min_valid_percent <= 100:
            raise UsageError(f"--min-valid {self.min_valid_percent:g} is no percentage. Give 0 to 100.")
        if len(self.title) > MAX_TITLE or not self.title.isprintable():
            raise UsageError(
                f"--title {self.title[:40]!r} of {len(self.title)} characters is no title. Give one line of "
                f"at most {MAX_TITLE} printable characters."
            )


def load_classifier(model: str, device: str = "auto") -> PatchClassifier:
    """The classifier of a shipped model's name or of a checkpoint's path.

    Raises:
        ModelError: there is no such model, or its file is corrupt or foreign.
        UsageError: the device is unknown or missing.
    """
    from landuse.model.predict import Predictor  # torch takes seconds to import

    return Predictor.load(model, device)


def requested_cluster(scheduler: str | None, workers: int | None, model: str, device: str) -> Cluster | None:
    """Where ``--scheduler`` or ``--workers`` has blocks done; None without either: in this process.

    Raises:
        UsageError: both are given, or the one given is malformed.
    """
    if scheduler is not None and workers is not None:
        raise UsageError(
            "--scheduler and --workers are both given. Give one: whose workers, or how many here."
        )
    if scheduler is None and workers is None:
        return None
    path = Path(model)
    if path.is_file():  # a worker may have another working directory
        model = str(path.absolute())
    return Cluster(
        scheduler=scheduler,
        workers=1 if workers is None else workers,
        model=model,
        device=device,
        load=load_classifier,
    )


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
    classifier: PatchClassifier,
    scenes: Sequence[Scene],
    crs: str | None = None,
) -> RunPlan:
    """Plan the map of the scenes, in the UTM zone ``crs`` or that which suits them; no pixel is read.

    Raises:
        LanduseError: as ``make_plan`` does.
    """
    engine = request.engine
    if engine == "auto":
        engine = "shared" if classifier.contract.shared_features else "windows"
    return make_plan(
        ground_of(request, scenes),
        scenes,
        classifier.contract,
        weights_sha256=classifier.weights_sha256,
        engine=engine,
        position_px=classifier.position_px if engine == "shared" else 1,
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
    request: MapRequest,
    classifier: PatchClassifier,
    on_progress: Callable[[Progress], None] | None = None,
    cluster: Cluster | None = None,
    found: Found | None = None,
) -> MapReport:
    """Make the map. Blocks that an interrupted run of the same plan finished are taken over.

    Args:
        request: what to map.
        classifier: the model; on a cluster each worker loads its own, and this one only tells what it is.
        on_progress: called when a stage begins, and after each block.
        cluster: where the blocks are done; None does them in this process.
        found: scenes of ``find_scenes``, all or some; None searches for them.

    Raises:
        UsageError: the folder holds a map, or blocks of another, and ``overwrite`` is not asked for; or the
            request is wrong.
        IncompleteError: the map is written, but less of it than ``min_valid_percent`` is classified.
        LanduseError: nothing found, nothing readable, nothing writable, no worker.
        KeyboardInterrupt: again, saying how many blocks are finished.
    """
    began = time.monotonic()
    out = Store.at(request.folder(classifier.weights_sha256))
    _refuse_map(out, request)
    tally = Tally(on_progress)
    tally.enter(Stage.SEARCH)
    found = found or find_scenes(request, classifier.contract)
    # What fits nothing is refused before a pixel is read.
    first = plan_map(request, classifier, found.scenes)
    # What is fetched lies beside the results: the system's temporary folder is often memory.
    scratch = out.path and next(path for path in (out.path, *out.path.absolute().parents) if path.is_dir())
    with ExitStack() as held:
        with (
            Remote(request.retry, providers=request.providers, folder=scratch) as remote,
            _block_runner(request, classifier, cluster, remote, scratch) as run_blocks,
        ):
            tally.enter(Stage.SURVEY)
            surveyed = survey(
                found.scenes,
                ground_of(request, found.scenes),
                first.crs,
                composite=request.composite,
                max_cloud_percent=request.max_cloud_percent,
                remote=remote,
            )
            plan = plan_map(request, classifier, surveyed.scenes, first.crs)
            for warning in plan.warnings:
                log.warning("%s", warning)
            out.prepare()  # only now: a request that fits nothing leaves no folder behind
            planned = time.monotonic()
            tally.blocks = len(plan.blocks)
            held.enter_context(out.locked())
            held.enter_context(_counting(tally))
            _refuse_map(out, request)  # another run may have been at work until now
            work = open_blocks(out, plan, overwrite=request.overwrite)
            log.info(
                "%d scenes, %d x %d cells in %d blocks",
                len(plan.scenes),
                plan.rows,
                plan.cols,
                len(plan.blocks),
            )
            left = take_over(plan, work, tally)
            tally.enter(Stage.CLASSIFY)
            fetched = run_blocks(plan, left, work, tally.add)
            traffic = remote.traffic + fetched
        mapped = time.monotonic()
        tally.enter(Stage.WRITE)
        with out.replaced(OUTPUTS) as folder:
            made = assemble(plan, work, folder, probabilities=request.probabilities, vectors=request.vectors)
            report = MapReport(
                title=request.title or default_title(plan.scenes),
                created_utc=datetime.now(UTC),
                plan=plan,
                sources=found.sources,
                left_out=surveyed.left_out,
                cover=made.cover,
                classes=made.classes,
                vectors=request.vectors,
                failures=(*surveyed.failures, *made.failures),
                files=(*made.files, *PUBLISHED),
                out=out.path or out.shown,
                patches=tally.patches,
                traffic=traffic,
                seconds={
                    "plan": planned - began,
                    "map": mapped - planned,
                    "write": time.monotonic() - mapped,
                },
            )
            publish(report, folder, classifier)
        if not any(is_missing(failure) for failure in made.failures):
            # Blocks in which pixels are missing are done again by the next run; the others are kept for it.
            remove_blocks(out)
        if request.catalog is not None and out.path is not None:
            add_to_catalog(request.catalog, out.path)
    cover = made.cover
    if cover.valid * 100 < request.min_valid_percent:
        raise IncompleteError(
            report=report.to_dict(),
            message=f"Only {cover.valid:.1%} of {cover.cells} cells could be classified, below --min-valid "
            f"{request.min_valid_percent:g} % (cloudy {cover.cloudy:.1%}, failed {cover.failed:.1%}, nodata "
            f"{cover.nodata:.1%}). The map and its run.json are in {out}; widen --date or raise "
            "--max-cloud.",
        )
    return report


def _refuse_map(out: Store, request: MapRequest) -> None:
    """Refuse to replace a map unasked; one whose files were being put into place is gone on with."""
    there = out.names()
    held = [name for name in OUTPUTS if name in there]
    if held and not request.overwrite and not (OUTPUTS[-1] not in held and is_unfinished(out)):
        raise UsageError(
            f"{out} already holds {', '.join(held)}. Use --overwrite to replace it, or another --out."
        )


@contextmanager
def _counting(tally: Tally) -> Iterator[None]:
    """Whoever is interrupted here is told how far the run was."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise type(stop)(str(tally)) from stop


@contextmanager
def _block_runner(
    request: MapRequest,
    classifier: PatchClassifier,
    cluster: Cluster | None,
    remote: Remote,
    scratch: Path | None,
) -> Iterator[BlockRunner]:
    if cluster is None:
        yield partial(run_here, classifier=classifier, remote=remote)
        return
    from landuse.workflows.cluster import workers  # dask takes a while to import

    with workers(cluster, policy=request.retry, providers=request.providers, scratch=scratch) as those:
        yield those.run


def is_missing(failure: ReadFailure) -> bool:
    """Whether a failed read left pixels missing; a mirror may have had them."""
    return failure.replaced_by is None
