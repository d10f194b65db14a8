"""From an area and dates to a land-use map.

``map_area`` goes through the stages in order, each with what the one before returned: the request, the scenes
that were found, the UTM zone, the survey of clouds, the plan, the blocks, the files, their publication.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import shapely

from landuse.contract import RGB8
from landuse.errors import IncompleteError, ModelError, OutputError, UsageError
from landuse.model import PRECISIONS, shipped_models
from landuse.model.foreign.contract import ForeignModel
from landuse.pipeline.blocks.plan import (
    RunPlan,
    cell_px,
    check_fit,
    make_plan,
    planned_extent,
    reads_every_date,
    suitable_crs,
    told_classes,
)
from landuse.pipeline.blocks.smooth import Smoothing, parse_smooth
from landuse.pipeline.cells import percent
from landuse.pipeline.geometry import footprint_of
from landuse.pipeline.read.check_pixels import check_scenes
from landuse.pipeline.read.cloud_survey import Survey, survey
from landuse.pipeline.read.read_scene import pixel_m_of
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.search.find_scenes import Found, SceneQuery, search_sources
from landuse.pipeline.write.block_file import is_unfinished, open_blocks, remove_blocks, unfinished_precision
from landuse.pipeline.write.folder import Store
from landuse.pipeline.write.stac_catalog import add_to_catalog, check_catalog
from landuse.workflows.mapping.assemble import OUTPUTS, Assembled, assemble
from landuse.workflows.mapping.in_process import Cluster, Stage, Tally, run_here, take_over
from landuse.workflows.mapping.publish import default_title, publish, published_files
from landuse.workflows.mapping.report import MapReport, season_told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shapely.geometry.base import BaseGeometry

    from landuse.contract import ModelContract
    from landuse.model.predict_pixels import PixelPredictor
    from landuse.pipeline.cells import Block
    from landuse.pipeline.remote.request_pool import Traffic
    from landuse.pipeline.scene import BandAsset, ReadFailure, Scene
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.in_process import BlockDone, Progress
    from landuse.workflows.mapping.request import MapRequest

log = logging.getLogger(__name__)

BlockRunner: TypeAlias = "Callable[[RunPlan, Sequence[Block], Store, Callable[[BlockDone], None]], Traffic]"
"""Does blocks of a plan, keeps them in a folder, tells of each, and returns what was fetched elsewhere."""


def load_classifier(model: str | ForeignModel, device: str = "auto") -> Classifier:
    """The classifier of a shipped model's name, of the path of a model's file, or of a network in Python.

    Raises:
        ModelError: there is no such model, its file is corrupt, or it is not what its contract says.
        UsageError: the device is unknown or missing.
    """
    if isinstance(model, ForeignModel):
        from landuse.model.foreign.predict import load_held

        return load_held(model, device)
    if model not in shipped_models() and (path := Path(model)).is_file() and not _is_checkpoint(path):
        from landuse.model.foreign.predict import load_file

        return load_file(path, device)
    # torch takes seconds to import
    from landuse.model.checkpoint import load_contract, model_path

    contract = load_contract(model_path(model))
    if contract.input_kind == RGB8:
        raise ModelError(
            f"Model {contract.name} reads 8-bit RGB images, and Sentinel-2's scenes are reflectance: no map "
            "can be made with it. Tell the labels of images with `landuse predict`, or choose another "
            "--model."
        )
    if contract.pixels is not None:
        from landuse.model.predict_pixels import PixelPredictor

        return PixelPredictor.load(model, device)
    from landuse.model.predict import Predictor

    return Predictor.load(model, device)


def with_precision(classifier: Classifier, precision: str) -> Classifier:
    """The classifier computing in a precision: ``fp32``, ``bf16``, or ``auto``, which measures.

    Raises:
        UsageError: the precision is unknown, or the model has no choice.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r} is unknown. Use {', '.join(PRECISIONS)}.")
    if _precision_of(classifier):
        return cast("PixelPredictor", classifier).in_precision(precision)
    if precision == "bf16":
        raise UsageError(
            f"--precision bf16 is for models of pixels that landuse trained, and {classifier.contract.name} "
            "is none. Leave it out, or choose another --model."
        )
    return classifier


def _precision_of(classifier: Classifier) -> str:
    """In which precision a classifier computes; empty where it has no choice."""
    return str(getattr(classifier, "precision", ""))


def _as_begun(request: MapRequest, classifier: Classifier, out: Store) -> Classifier:
    """The classifier in the precision of the blocks that wait in ``out``, where it may be any."""
    begun = unfinished_precision(out) if request.precision == "auto" else ""
    return with_precision(classifier, begun) if begun and _precision_of(classifier) else classifier


def _is_checkpoint(path: Path) -> bool:
    """Whether a file is safetensors by its name, or by its first bytes: the length of JSON, and JSON."""
    if path.suffix.lower() == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return True  # the checkpoint's reader tells what is wrong


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


def find_scenes(request: MapRequest, contract: ModelContract) -> Found:
    """The scenes to choose from; no pixel is read.

    Raises:
        UsageError: no map can be made of the area, which is seen before anything is asked.
        LanduseError: as ``search_sources`` does.
    """
    told_classes(contract, request.legend)
    smoothing_of(request, contract)
    if request.area is not None:
        _check_extent(request, contract, _crs_of(request, ()), ())
    query = SceneQuery(
        area=request.area,
        dates=request.dates,
        season=request.season,
        max_cloud_percent=request.max_cloud_percent,
        bands=contract.required_bands,
        levels=tuple(entry.level for entry in contract.levels),
    )
    found = search_sources(request.sources, query, request.retry, any_host=request.allow_private_hosts)
    if request.season is not None:
        log.info("season: %s", request.season.label(area_of(request, found.scenes).centroid.y))
    return replace(found, scenes=tuple(_with_fingerprints(scene) for scene in found.scenes))


def smoothing_of(request: MapRequest, contract: ModelContract) -> Smoothing:
    """How the request has the model's class probabilities smoothed.

    Raises:
        UsageError: a strength, class or window is none, or the model classifies patches.
    """
    smoothing = parse_smooth(request.smooth, request.smooth_px, contract.classes)
    if smoothing.is_on and contract.pixels is None:
        raise UsageError(
            f"--smooth is for models of pixels, and {contract.name} classifies patches, whose cells are "
            "means of windows already. Leave it out, or choose another --model."
        )
    return smoothing


def area_of(request: MapRequest, scenes: Sequence[Scene]) -> BaseGeometry:
    """The area to map in longitude and latitude: as asked for, else all that the scenes cover."""
    return (
        shapely.union_all([footprint_of(scene) for scene in scenes])
        if request.area is None
        else request.area.geometry
    )


def choose_zone(request: MapRequest, classifier: Classifier, scenes: Sequence[Scene]) -> str:
    """The UTM zone of the map, once it is certain that a map can be made of these scenes.

    This is asked before any pixel is read, and of all scenes that were found, so that clouds do not move the
    map to another zone.

    Raises:
        LanduseError: as ``check_fit``, ``suitable_crs`` and ``planned_extent`` do.
    """
    contract = classifier.contract
    check_fit(
        scenes,
        contract,
        stride_px=cell_px(contract, cell_m=request.cell_m, stride_px=request.stride_px),
        composite=request.composite,
        fuse=request.fuse,
        bands=request.bands,
        block_px=request.block_px,
    )
    crs = _crs_of(request, scenes)
    _check_extent(request, contract, crs, scenes)
    return crs


def _crs_of(request: MapRequest, scenes: Sequence[Scene]) -> str:
    """The UTM zone that is asked for, or the one that suits the area and the scenes."""
    return request.crs or suitable_crs(area_of(request, scenes), scenes)


def _check_extent(request: MapRequest, contract: ModelContract, crs: str, scenes: Sequence[Scene]) -> None:
    """Refuse an area of which the model makes no map in this zone: one that is too wide or too large."""
    planned_extent(
        area_of(request, scenes),
        crs,
        contract,
        stride_px=cell_px(contract, cell_m=request.cell_m, stride_px=request.stride_px),
        block_px=request.block_px,
    )


def plan_map(
    request: MapRequest, classifier: Classifier, scenes: Sequence[Scene], crs: str | None = None
) -> RunPlan:
    """Plan the map of the scenes in the UTM zone ``crs``, or that which suits them; no pixel is read.

    Raises:
        LanduseError: as ``make_plan`` does.
    """
    contract = classifier.contract
    return make_plan(
        area_of(request, scenes),
        scenes,
        contract,
        weights_sha256=classifier.weights_sha256,
        position_px=getattr(classifier, "position_px", 1),  # a model of patches has none
        stride_px=cell_px(contract, cell_m=request.cell_m, stride_px=request.stride_px),
        bands=request.bands,
        probabilities=request.probabilities,
        min_confidence=request.min_confidence,
        composite=request.composite,
        fuse=request.fuse,
        smoothing=smoothing_of(request, contract),
        precision=_precision_of(classifier),
        clip=request.area is not None and request.area.clip,
        asked=request.area is not None,
        block_px=request.block_px,
        crs=crs or request.crs,
        told_in=request.legend,
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
    classifier: Classifier,
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
        IncompleteError: the map is written, but less of it than ``min_valid_percent`` is classified, or some
            of it could not be read and ``allow_failed`` is not asked for.
        LanduseError: nothing found, nothing readable, nothing writable, no worker.
        KeyboardInterrupt: again, saying how many blocks are finished.
    """
    began = time.monotonic()
    tally = Tally(on_progress)
    out = _destination(request, classifier)
    classifier = _as_begun(request, classifier, out)
    tally.enter(Stage.SEARCH)
    found = found or find_scenes(request, classifier.contract)
    crs = choose_zone(request, classifier, found.scenes)
    scratch = _scratch_folder(out)
    with ExitStack() as held:  # the folder stays locked until the map is in place
        with (
            Remote(
                request.retry,
                providers=request.providers,
                folder=scratch,
                any_host=request.allow_private_hosts,
            ) as remote,
            _block_runner(request, classifier, cluster, remote, scratch) as run_blocks,
        ):
            tally.enter(Stage.SURVEY)
            surveyed = _survey(request, found.scenes, crs, remote)
            check_scenes(surveyed.scenes, area_of(request, found.scenes), request.sources)
            plan = plan_map(request, classifier, _measured(surveyed.scenes), crs)
            work, check_lock = held.enter_context(_claimed(out, plan, request, tally))
            planned = time.monotonic()
            fetched = _classify(plan, work, run_blocks, tally)
            traffic = remote.traffic + fetched
        mapped = time.monotonic()
        tally.enter(Stage.WRITE)
        with out.replaced(OUTPUTS, check_lock) as folder:
            spares_read = tally.failures > 0
            made = assemble(
                plan,
                work,
                folder,
                spares_read=spares_read,
                vectors=request.vectors,
            )
            report = MapReport(
                title=request.title or default_title(plan.scenes_used(spares_read)),
                created_utc=datetime.now(UTC),
                plan=plan,
                spares_read=spares_read,
                season=(
                    None
                    if request.season is None
                    else season_told(request.season, area_of(request, found.scenes).centroid.y)
                ),
                sources=found.sources,
                left_out=surveyed.left_out,
                cover=made.cover,
                classes=made.classes,
                covers=made.covers,
                vectors=request.vectors and request.vectors.for_plan(plan),
                failures=(*surveyed.failures, *made.failures),
                files=(*made.files, *published_files(rasters_only=request.vectors is None)),
                out=out.path or out.shown,
                patches=tally.patches,
                pixels=tally.pixels,
                traffic=traffic,
                seconds={
                    "plan": planned - began,
                    "map": mapped - planned,
                    "write": time.monotonic() - mapped,
                },
            )
            publish(report, folder, classifier)
        _settle(out, request, made)
    for warning in report.warnings[len(plan.warnings) :]:
        log.warning("%s", warning)
    _check_complete(report, request)
    return report


def _measured(scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """The scenes with the pixel sizes of local files, where their items state none: coarse ones are told."""

    def measured(asset: BandAsset) -> BandAsset:
        if asset.pixel_m is not None or "://" in asset.href:
            return asset
        return replace(asset, pixel_m=pixel_m_of(asset))

    return tuple(replace(scene, assets=tuple(map(measured, scene.assets))) for scene in scenes)


def _destination(request: MapRequest, classifier: Classifier) -> Store:
    """Where the results go; a place that cannot take them is refused before anything is searched.

    Raises:
        UsageError: a map is there already, or the catalogue cannot list one there.
        OutputError: it is a file, or below one.
    """
    out = Store.at(request.folder(classifier.weights_sha256))
    _refuse_map(out, request)
    if out.path is not None:
        there = next(path for path in (out.path, *out.path.absolute().parents) if path.exists())
        if not there.is_dir():
            raise OutputError(
                f"Output folder {out} cannot be written, since {there} is a file. Choose another --out."
            )
    if request.catalog is not None and out.path is not None:
        check_catalog(request.catalog, out.path)
    return out


def _scratch_folder(out: Store) -> Path | None:
    """Where what is fetched lies: beside the results, since the system's temporary folder is often memory.

    Raises:
        OutputError: nothing can be written there.
    """
    if out.path is None:
        return None
    folder = next(path for path in (out.path, *out.path.absolute().parents) if path.is_dir())
    if not os.access(folder, os.W_OK):
        raise OutputError(f"Output folder {out} cannot be written. Choose another --out.")
    return folder


def _survey(request: MapRequest, scenes: Sequence[Scene], crs: str, remote: Remote) -> Survey:
    """Which scenes to read and in what order, by the cloud over the area."""
    return survey(
        scenes,
        area_of(request, scenes),
        crs,
        every_date=reads_every_date(request.composite, request.fuse),
        max_cloud_percent=request.max_cloud_percent,
        remote=remote,
        own_zone_first=request.crs is not None,
    )


@contextmanager
def _claimed(
    out: Store, plan: RunPlan, request: MapRequest, tally: Tally
) -> Iterator[tuple[Store, Callable[[], None]]]:
    """The folder of the plan's blocks, for this run alone until the context ends, and what sees that it is.

    The output folder is made here and not before: a request that fits nothing leaves none behind.

    Raises:
        UsageError: meanwhile another run has put a map there, or blocks of another plan are there.
        BusyError: another run is at work there.
        OutputError: it cannot be written.
        KeyboardInterrupt: again, saying how many blocks are finished.
    """
    for warning in plan.warnings:
        log.warning("%s", warning)
    out.prepare()
    tally.blocks = len(plan.blocks)
    with out.locked() as check_lock, _counting(tally):
        _refuse_map(out, request)  # another run may have been at work until now
        yield open_blocks(out, plan, overwrite=request.overwrite), check_lock


def _classify(plan: RunPlan, work: Store, run_blocks: BlockRunner, tally: Tally) -> Traffic:
    """Do the blocks that no earlier run has finished; returns what workers elsewhere fetched for them."""
    log.info(
        "%d scenes, bands %s; %d x %d cells in %d blocks",
        len(plan.scenes),
        ", ".join(plan.bands),
        plan.rows,
        plan.cols,
        len(plan.blocks),
    )
    left = take_over(plan, work, tally)
    tally.enter(Stage.CLASSIFY)
    return run_blocks(plan, left, work, tally.add)


def _settle(out: Store, request: MapRequest, made: Assembled) -> None:
    """Once the files are in place: remove the blocks, and list the map where a catalogue is asked for."""
    if not any(is_missing(failure) for failure in made.failures):
        # Blocks in which pixels are missing are done again by the next run; the others are kept for it.
        remove_blocks(out)
    if request.catalog is not None and out.path is not None:
        add_to_catalog(request.catalog, out.path)


def _check_complete(report: MapReport, request: MapRequest) -> None:
    """Refuse a map of which too little is classified or some could not be read.

    Raises:
        IncompleteError: it is such a map; its files are written all the same.
    """
    cover = report.cover
    if cover.valid * 100 < request.min_valid_percent:
        raise IncompleteError(
            report=report.to_dict(),
            message=f"Only {cover.valid:.1%} of {cover.cells} cells could be classified, below --min-valid "
            f"{request.min_valid_percent:g} % ({cover.cloud_told}, failed {cover.failed:.1%}, nodata "
            f"{cover.nodata:.1%}). The map and its run.json are in {report.out}; "
            f"{cover.unseen_told or 'widen --date or raise --max-cloud'}.",
        )
    if cover.failed and not request.allow_failed:
        lost = next(failure for failure in report.failures if is_missing(failure))
        raise IncompleteError(
            report=report.to_dict(),
            message=f"{percent(cover.failed)} of the map is empty, since {lost.band} of "
            f"{lost.scene_id!r} and perhaps more could not be read ({lost.reason.rstrip('.')}). The map and "
            f"its run.json, with every read that failed, are in {report.out}. Run again with --overwrite, "
            "which reads what is missing, or accept such maps with --allow-failed.",
        )


def _refuse_map(out: Store, request: MapRequest) -> None:
    """Refuse to replace a map unasked; one whose files were being put into place is gone on with."""
    there = out.names()
    if "collection.json" in there and any(name.startswith("zone-") for name in there):
        raise UsageError(
            f"{out} holds the joined maps of several UTM zones, which one map does not replace. Use --zones "
            "each, or another --out."
        )
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
    classifier: Classifier,
    cluster: Cluster | None,
    remote: Remote,
    scratch: Path | None,
) -> Iterator[BlockRunner]:
    if cluster is None:
        yield partial(run_here, classifier=classifier, remote=remote)
        return
    from landuse.workflows.mapping.on_dask import workers  # dask takes a while to import

    with workers(
        cluster,
        policy=request.retry,
        providers=request.providers,
        scratch=scratch,
        any_host=request.allow_private_hosts,
    ) as those:
        yield those.run


def is_missing(failure: ReadFailure) -> bool:
    """Whether a failed read left pixels missing; a mirror may have had them."""
    return failure.replaced_by is None
