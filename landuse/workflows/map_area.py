"""From an area and dates to a land-use map: plan, blocks, outputs."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import shapely

import landuse
from landuse.errors import IncompleteError, OutputError, ReadError, UsageError
from landuse.model import classes as class_table
from landuse.pipeline import patches, providers, stitch
from landuse.pipeline.area import Area, DateRange, parse_bbox, parse_dates, read_aoi
from landuse.pipeline.blocks import BlockFile, read_block, write_block
from landuse.pipeline.composite import composite
from landuse.pipeline.plan import RunPlan, make_plan, project
from landuse.pipeline.read import read_scene
from landuse.pipeline.search import SceneQuery, search
from landuse.pipeline.vectorize import polygonize
from landuse.pipeline.write import RasterLayer, prepare_folder, staged, write_cog, write_json, write_vectors
from landuse.records import NODATA_ID, Block, CellScores, PixelBlock, ReadFailure
from landuse.workflows.report import ClassArea, Cover, MapReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from landuse.pipeline.providers import Provider
    from landuse.records import BandAsset, ModelContract, Scene

log = logging.getLogger(__name__)

OUTPUTS = (
    "landuse.tif",
    "landuse.tif.aux.xml",
    "confidence.tif",
    "probabilities.tif",
    "landuse.gpkg",
    "run.json",
)


class PatchClassifier(Protocol):
    """What a map needs of a model; ``model.predict.Predictor`` is one."""

    contract: ModelContract
    weights_sha256: str

    def cell_probabilities(self, dn: NDArray[np.uint16], level: str, cells: int) -> NDArray[np.float32]:
        """(N, band, S, S) DN to the (N, class, cells, cells) probabilities of each patch's cells."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRequest:
    """What a user asks for."""

    source: str | Provider
    """Provider, its name, a STAC API's URL, or a path to local STAC metadata."""
    area: Area | None
    """Where; None maps all that a local source covers."""
    dates: DateRange | None
    """When; None takes any date."""
    out: Path
    """Folder for the results."""
    stride_px: int = 16
    """Cell size in pixels of 10 m."""
    max_cloud_percent: float = 40.0
    """Scenes with more cloud are left out."""
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

    def __post_init__(self) -> None:
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


def plan_map(request: MapRequest, contract: ModelContract, weights_sha256: str) -> RunPlan:
    """Find the scenes and plan the map; no pixel is read.

    Raises:
        LanduseError: as ``search`` and ``make_plan`` do.
    """
    query = SceneQuery(
        area=request.area,
        dates=request.dates,
        max_cloud_percent=request.max_cloud_percent,
        bands=contract.bands,
        levels=tuple(entry.level for entry in contract.levels),
    )
    scenes = tuple(_with_fingerprints(scene) for scene in search(request.source, query))
    area = shapely.union_all([_footprint(scene) for scene in scenes])
    return make_plan(
        area if request.area is None else request.area.geometry,
        scenes,
        contract,
        weights_sha256=weights_sha256,
        stride_px=request.stride_px,
        composite=request.composite,
        clip=request.area is not None and request.area.clip,
        block_px=request.block_px,
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
    plan = plan_map(request, classifier.contract, classifier.weights_sha256)
    for warning in plan.warnings:
        log.warning("%s", warning)
    prepare_folder(request.out)  # only now: a request that fits nothing leaves no folder behind
    planned = time.monotonic()
    log.info(
        "%d scenes, %d x %d cells in %d blocks", len(plan.scenes), plan.rows, plan.cols, len(plan.blocks)
    )
    work = request.out / f".blocks-{plan.blocks_key}"
    prepare_folder(work)
    patch_count = 0
    for number, block in enumerate(plan.blocks, 1):
        content = read_block(work, block, plan)
        if content is None or content.failures:
            content = run_block(plan, block, classifier)
            write_block(work, block, content)
        patch_count += content.patches
        if on_progress is not None:
            on_progress(Progress(blocks_done=number, blocks=len(plan.blocks), patches=patch_count))
    mapped = time.monotonic()
    scores, failures = _gather(plan, work)
    cover = _cover(plan, scores)
    if failures and not scores.observed.any():
        shutil.rmtree(work, ignore_errors=True)
        raise ReadError(f"No scene could be read. {failures[0].reason}")
    with staged(request.out, OUTPUTS) as folder:
        written, areas = _write_outputs(plan, scores, folder, probabilities=request.probabilities)
        report = MapReport(
            plan=plan,
            cover=cover,
            classes=areas,
            failures=failures,
            files=(*written, "run.json"),
            out=request.out,
            patches=patch_count,
            seconds={"plan": planned - began, "map": mapped - planned, "write": time.monotonic() - mapped},
        )
        write_json(folder / "run.json", report.to_dict())
    if not failures:
        # Blocks in which a read failed are done again by the next run; the others are kept for it.
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


def run_block(plan: RunPlan, block: Block, classifier: PatchClassifier) -> BlockFile:
    """Read, composite and classify one block. A scene that cannot be read is reported, not guessed."""
    inside = _inside(plan, block)
    windows = patches.block_windows(plan, block)
    if windows is None or not inside.any():
        return BlockFile(scores=_nothing(plan, block), failures=(), patches=0)
    layers, failures = _read_layers(plan, block, windows)
    blend = stitch.Blend(block, classes=len(plan.classes))
    rows = windows.rows_px[1] - windows.rows_px[0]
    cols = windows.cols_px[1] - windows.cols_px[0]
    pixels = composite(layers, plan.composite) if layers else _no_pixels(len(plan.bands), rows, cols)
    count = 0
    for batch in patches.patch_batches(pixels, windows, patch_px=plan.patch_px, batch_size=256):
        blend.add(batch, classifier.cell_probabilities(batch.dn, plan.level, plan.patch_px // plan.stride_px))
        count += len(batch.dn)
    scores = blend.settle(
        pixels,
        stride_px=plan.stride_px,
        row_offset_px=block.row_start * plan.stride_px - windows.rows_px[0],
        col_offset_px=block.col_start * plan.stride_px - windows.cols_px[0],
        inside=inside,
        any_failed=bool(failures),
    )
    return BlockFile(scores=scores, failures=tuple(failures), patches=count)


def _read_layers(
    plan: RunPlan, block: Block, windows: patches.BlockWindows
) -> tuple[list[PixelBlock], list[ReadFailure]]:
    """Pixels of each scene that touches the block, in order; ``best`` stops once all is clear."""
    geobox = plan.pixel_geobox(windows.rows_px, windows.cols_px)
    extent = shapely.box(*geobox.boundingbox.bbox)
    layers: list[PixelBlock] = []
    failures: list[ReadFailure] = []
    usable = np.zeros(geobox.shape, np.bool_)
    for scene in plan.scenes:
        if not _ground(scene, plan.crs).buffer(plan.cell_m).intersects(extent):
            continue
        try:
            layer = read_scene(scene, plan.bands, geobox, partial(providers.sign, provider=scene.provider))
        except ReadError as error:
            log.warning("%s", error)
            failures.append(ReadFailure(block=block.name, scene_id=scene.id, reason=str(error)))
            continue
        layers.append(layer)
        usable |= layer.usable
        if plan.composite == "best" and usable.all():
            break
    return layers, failures


def _footprint(scene: Scene) -> shapely.Geometry:
    return shapely.make_valid(shapely.Polygon(scene.footprint))


def _ground(scene: Scene, crs: str) -> shapely.Geometry:
    """Where a scene may have pixels: its raster's bounds where known, else its footprint."""
    if scene.bounds_m is not None and scene.crs is not None:
        return project(shapely.box(*scene.bounds_m), scene.crs, crs)
    return project(_footprint(scene), "EPSG:4326", crs)


def _no_pixels(bands: int, rows: int, cols: int) -> PixelBlock:
    nothing = np.zeros((rows, cols), np.bool_)
    return PixelBlock(dn=np.zeros((bands, rows, cols), np.uint16), observed=nothing, usable=nothing)


def _nothing(plan: RunPlan, block: Block) -> CellScores:
    nothing = np.zeros(block.shape, np.bool_)
    return CellScores(
        probabilities=np.zeros((len(plan.classes), *block.shape), np.float32),
        mapped=nothing,
        observed=nothing,
        clouded=nothing,
        failed=nothing,
    )


def _inside(plan: RunPlan, block: Block) -> NDArray[np.bool_]:
    """(row, col), True where a cell touches the area."""
    if plan.clip_wkt is None:
        return np.ones(block.shape, np.bool_)
    area = shapely.from_wkt(plan.clip_wkt)
    shapely.prepare(area)
    left = plan.left_m + np.arange(block.col_start, block.col_stop) * plan.cell_m
    top = plan.top_m - np.arange(block.row_start, block.row_stop) * plan.cell_m
    cells = shapely.box(left[None, :], top[:, None] - plan.cell_m, left[None, :] + plan.cell_m, top[:, None])
    return np.asarray(shapely.intersects(area, cells))


def _gather(plan: RunPlan, work: Path) -> tuple[CellScores, tuple[ReadFailure, ...]]:
    """All blocks' cells as one raster."""
    shape = (plan.rows, plan.cols)
    whole = CellScores(
        probabilities=np.zeros((len(plan.classes), *shape), np.float32),
        mapped=np.zeros(shape, np.bool_),
        observed=np.zeros(shape, np.bool_),
        clouded=np.zeros(shape, np.bool_),
        failed=np.zeros(shape, np.bool_),
    )
    failures: list[ReadFailure] = []
    for block in plan.blocks:
        content = read_block(work, block, plan)
        if content is None:
            raise ReadError(f"Block {block.name} vanished from {work} during the run. Run again to redo it.")
        place = np.s_[block.row_start : block.row_stop, block.col_start : block.col_stop]
        whole.probabilities[:, *place] = content.scores.probabilities
        whole.mapped[place] = content.scores.mapped
        whole.observed[place] = content.scores.observed
        whole.clouded[place] = content.scores.clouded
        whole.failed[place] = content.scores.failed
        failures += content.failures
    return whole, tuple(failures)


def _cover(plan: RunPlan, scores: CellScores) -> Cover:
    """What became of the area's cells, block by block."""
    counts = dict.fromkeys(("cells", "valid", "cloudy", "failed"), 0)
    for block in plan.blocks:
        place = np.s_[block.row_start : block.row_stop, block.col_start : block.col_stop]
        inside, mapped = _inside(plan, block), scores.mapped[place]
        failed = inside & scores.failed[place] & ~mapped
        counts["cells"] += int(inside.sum())
        counts["valid"] += int((inside & mapped).sum())
        counts["failed"] += int(failed.sum())
        counts["cloudy"] += int((inside & scores.clouded[place] & ~mapped & ~failed).sum())
    cells = counts["cells"]
    valid, cloudy, failed_share = (counts[name] / cells for name in ("valid", "cloudy", "failed"))
    return Cover(
        cells=cells,
        valid=valid,
        cloudy=cloudy,
        failed=failed_share,
        nodata=(cells - counts["valid"] - counts["cloudy"] - counts["failed"]) / cells,
    )


def _write_outputs(
    plan: RunPlan, scores: CellScores, folder: Path, *, probabilities: bool
) -> tuple[tuple[str, ...], tuple[ClassArea, ...]]:
    """Write rasters and polygons; returns their names and the area of each class."""
    classes = stitch.class_raster(scores)
    confidence = stitch.confidence_raster(scores)
    geobox = plan.cell_geobox
    tags = {
        "landuse_version": landuse.__version__,
        "model": plan.model,
        "weights_sha256": plan.weights_sha256,
        "plan_sha256": plan.digest,
        "acquired_utc": ", ".join(sorted({scene.acquired_utc.isoformat() for scene in plan.scenes})),
    }
    colors = {entry.name: entry.color for entry in class_table.EUROSAT}
    written = ["landuse.tif", "landuse.tif.aux.xml", "confidence.tif", "landuse.gpkg"]
    write_cog(
        folder / "landuse.tif",
        RasterLayer(
            values=classes,
            geobox=geobox,
            nodata=NODATA_ID,
            descriptions=("land-use class",),
            overview_resampling="MODE",
            colors={i: colors.get(name, (128, 128, 128)) for i, name in enumerate(plan.classes)},
            categories=dict(enumerate(plan.classes)),
            tags=tags,
        ),
    )
    write_cog(
        folder / "confidence.tif",
        RasterLayer(
            values=confidence,
            geobox=geobox,
            nodata=float("nan"),
            descriptions=("probability of the land-use class",),
            overview_resampling="AVERAGE",
            tags=tags,
        ),
    )
    if probabilities:
        written.append("probabilities.tif")
        write_cog(
            folder / "probabilities.tif",
            RasterLayer(
                values=np.where(scores.mapped, scores.probabilities, np.float32(np.nan)),
                geobox=geobox,
                nodata=float("nan"),
                descriptions=plan.classes,
                overview_resampling="AVERAGE",
                tags=tags,
            ),
        )
    polygons = polygonize(classes, confidence, geobox, names=plan.classes, nodata=NODATA_ID)
    write_vectors(folder / "landuse.gpkg", {"landuse": polygons})
    return tuple(written), _class_areas(classes, plan)


def _class_areas(classes: NDArray[np.uint8], plan: RunPlan) -> tuple[ClassArea, ...]:
    counts = Counter(classes[classes != NODATA_ID].tolist())
    total = sum(counts.values())
    return tuple(
        ClassArea(
            id=i,
            name=plan.classes[i],
            cells=cells,
            area_m2=cells * plan.cell_m**2,
            share=cells / total,
        )
        for i, cells in sorted(counts.items())
    )
