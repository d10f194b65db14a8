"""From labels and scenes to a model of a user's own classes, and how well it tells them apart."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
import torch

from landuse.classes import new_colors
from landuse.contract import LearnedClasses
from landuse.errors import ModelError, NothingFoundError, OutputError, UsageError
from landuse.model.checkpoint import load_contract, load_pixel_checkpoint, model_path, save_checkpoint
from landuse.model.pixel_network import PixelNet
from landuse.model.predict_pixels import PixelPredictor
from landuse.model.training.class_head import fit_head
from landuse.model.training.evaluate import fit_temperature
from landuse.pipeline.blocks.plan import bands_to_read, check_fit, data_extent, suitable_crs
from landuse.pipeline.geometry import footprint_in, solar_days
from landuse.pipeline.providers import Provider
from landuse.pipeline.read.check_pixels import check_scenes
from landuse.pipeline.read.cloud_survey import survey
from landuse.pipeline.read.read_block import Imagery
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.search.area import Area
from landuse.pipeline.search.find_scenes import SceneQuery, search_sources
from landuse.pipeline.search.source import split_sources
from landuse.pipeline.write.folder import prepare_folder, staged
from landuse.workflows.learn.features import see_pixels
from landuse.workflows.learn.labels import (
    PIXEL_M,
    RasterLabels,
    bounds_lonlat,
    labels_of,
    place_raster,
    place_shapes,
    read_labels,
)
from landuse.workflows.learn.report import write_errors, write_report
from landuse.workflows.learn.request import CurvePoint, LearnReport
from landuse.workflows.learn.validate import (
    CURVE,
    calibration_error,
    gain,
    likely_errors,
    make_blocks,
    out_of_fold,
    relabelled,
    score,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from landuse.contract import ModelContract
    from landuse.model.training.class_head import LinearHead
    from landuse.pipeline.scene import Scene
    from landuse.pipeline.search.source import Source
    from landuse.workflows.learn.features import SeenPixels
    from landuse.workflows.learn.labels import LabelledPixels, VectorLabels
    from landuse.workflows.learn.request import LearnRequest
    from landuse.workflows.learn.validate import Blocks, LikelyErrors

log = logging.getLogger(__name__)

MARGIN_DEG = 0.002
"""How far around the labels scenes are looked for: a single point is no area."""

FEW_SAMPLES = 10
"""A class of fewer labelled pixels is told of."""


def learn(request: LearnRequest, on_progress: Callable[[str, int, int], None] | None = None) -> LearnReport:
    """Learn a model of a user's own classes and write it with its report, all files or none.

    Args:
        request: labels, scenes and where the model goes.
        on_progress: called with a stage, how much of it is done and how much there is.

    Raises:
        UsageError: labels or options do not suit, or pixels contradict what is stated of them; the message
            says how to mend it.
        ModelError: the model whose trunk is to be kept is none of pixels, or needs other bands.
        NothingFoundError: there is no imagery where the labels are, or it does not show them clear.
        OutputError: a file cannot be written.
    """
    began = time.monotonic()
    tell = on_progress or (lambda stage, done, total: None)
    _check_out(request)
    contract = load_contract(model_path(request.model))
    if contract.pixels is None or contract.resolution_m != PIXEL_M:
        raise ModelError(
            f"Model {contract.name} classifies {'patches' if contract.pixels is None else 'other pixels'}, "
            f"and classes are learned on a model that classifies pixels of {PIXEL_M:g} m. Choose another "
            "--model."
        )
    labels = (
        read_labels(request.labels, request.layer, request.column)
        if isinstance(request.labels, Path)
        else labels_of(request.labels, request.column or "", "labels")
    )
    tell("searching", 0, 1)
    area = _area_of(labels)
    scenes = _search(request, contract, area)
    crs = suitable_crs(area.geometry, scenes)
    check_fit(scenes, contract, stride_px=1, composite="best", bands=request.bands)
    providers = tuple(source for source in _sources(request) if isinstance(source, Provider))
    predictor = PixelPredictor.load(request.model, request.device)
    with Remote(request.retry, providers=providers, any_host=request.allow_private_hosts) as remote:
        tell("looking at clouds", 0, 1)
        clear = survey(
            scenes, area.geometry, crs, every_date=True, max_cloud_percent=request.max_cloud_percent,
            remote=remote,
        ).scenes  # fmt: skip
        check_scenes(clear, area.geometry, _sources(request))
        bands, _ = bands_to_read(clear, contract, request.bands)
        days = _days(clear, bands, request.max_dates)
        pixels = _placed(request, labels, crs, clear)
        pixels, beyond = _on_imagery(pixels, clear, request)
        seen = see_pixels(
            pixels, days, clear[0].level, predictor, remote, seed=request.seed,
            on_tile=lambda done, total: tell("looking at labels", done, total),
        )  # fmt: skip
    left_out = {
        "unlabelled": 0 if isinstance(labels, RasterLabels) else labels.unlabelled,
        "conflicting": pixels.conflicting,
        "outside the imagery": beyond,
        "not clear": int((~seen.seen).sum()),
    }
    pixels, seen = _seen_alone(pixels, seen)
    _check_classes(pixels)
    tell("learning", 0, 1)
    learned = _Learned(pixels, seen, request.seed)
    prepare_folder(request.out.parent)
    with staged(request.out.parent, [path.name for path in request.files]) as folder:
        errors, page, told, model = (folder / path.name for path in request.files)
        _save(request, contract, learned.head, pixels.names, learned.temperature, model)
        write_errors(errors, pixels, learned.errors)
        report = LearnReport(
            model=request.out, page=request.files[1], errors_file=request.files[0],
            name=request.model_name, trunk=contract.name, classes=pixels.names, crs=crs, level=clear[0].level,
            bands=bands, days=tuple(tuple(scene.id for scene in day.scenes) for day in days),
            samples=len(pixels.labels), shapes=len(np.unique(pixels.shapes[pixels.shapes >= 0])),
            left_out=left_out, blocks=learned.blocks.count, block_m=learned.blocks.side_m,
            folds=int(learned.blocks.fold.max()) + 1, scores=learned.scores, relabelled=learned.relabelled,
            gain=learned.gain, curve=learned.curve(), temperature=learned.temperature,
            calibration_error=learned.calibration_error, likely_errors=len(learned.errors.items),
            warnings=_warnings(learned, pixels), seconds=time.monotonic() - began,
        )  # fmt: skip
        write_report(page, told, report)
    for warning in report.warnings:
        log.warning("%s", warning)
    return report


def _check_out(request: LearnRequest) -> None:
    there = [path for path in request.files if path.exists()]
    if there and not request.overwrite:
        raise UsageError(f"{there[0]} exists. Choose another --out, or replace it by --overwrite.")
    if isinstance(request.labels, Path) and any(
        path.exists() and request.labels.exists() and path.samefile(request.labels) for path in request.files
    ):
        raise UsageError(
            f"--labels {request.labels} would be replaced by what is learned. Choose another --out."
        )
    first = next(path for path in (request.out.parent, *request.out.absolute().parents) if path.exists())
    if not first.is_dir():
        raise OutputError(f"--out {request.out} cannot be written, since {first} is a file. Choose another.")


def _area_of(labels: VectorLabels | RasterLabels) -> Area:
    """A box around the labels, in degrees."""
    west, south, east, north = bounds_lonlat(labels)
    box = shapely.box(
        max(west - MARGIN_DEG, -180), max(south - MARGIN_DEG, -90), min(east + MARGIN_DEG, 180),
        min(north + MARGIN_DEG, 90),
    )  # fmt: skip
    return Area(geometry=box, clip=False, name="labels")


def _search(request: LearnRequest, contract: ModelContract, area: Area) -> tuple[Scene, ...]:
    """Scenes where the labels are.

    Raises:
        NothingFoundError: there is none.
    """
    query = SceneQuery(
        area=area,
        dates=request.dates,
        max_cloud_percent=request.max_cloud_percent,
        bands=contract.required_bands,
        levels=tuple(entry.level for entry in contract.levels),
    )
    try:
        return search_sources(
            _sources(request), query, request.retry, any_host=request.allow_private_hosts
        ).scenes
    except NothingFoundError as error:
        told = ",".join(f"{edge:.6g}" for edge in area.bbox)
        raise NothingFoundError(
            f"There is no imagery where --labels are, {told} (W,S,E,N): {error} Give scenes of that place, "
            "or labels with the CRS that they are in."
        ) from error


def _sources(request: LearnRequest) -> tuple[Source, ...]:
    """Where to look, in order."""
    if isinstance(request.source, str):
        return split_sources(request.source)
    return request.source if isinstance(request.source, tuple) else (request.source,)


def _days(scenes: Sequence[Scene], bands: tuple[str, ...], most: int) -> tuple[Imagery, ...]:
    """The scenes by the day that shows them, in order of preference."""
    by_day: dict[object, list[Scene]] = {}
    for scene, day in zip(scenes, solar_days(scenes), strict=True):
        by_day.setdefault(day, []).append(replace(scene, spare=False))
    return tuple(
        Imagery(scenes=tuple(own), bands=bands, composite="best", margin_m=PIXEL_M)
        for own in list(by_day.values())[:most]
    )


def _placed(
    request: LearnRequest, labels: VectorLabels | RasterLabels, crs: str, scenes: Sequence[Scene]
) -> LabelledPixels:
    if isinstance(labels, RasterLabels):
        rows, cols = data_extent(scenes, crs, 0.0, 0.0, PIXEL_M)
        return place_raster(labels, crs, (*rows, *cols), per_class=request.per_class, seed=request.seed)
    return place_shapes(
        labels, crs, per_shape=request.per_shape, per_class=request.per_class, seed=request.seed
    )


def _on_imagery(
    pixels: LabelledPixels, scenes: Sequence[Scene], request: LearnRequest
) -> tuple[LabelledPixels, int]:
    """The pixels that lie on a scene, and how many do not.

    Raises:
        UsageError: none does.
    """
    footprint: BaseGeometry = shapely.union_all([footprint_in(scene, pixels.crs) for scene in scenes])
    shapely.prepare(footprint)
    inside = shapely.contains_xy(footprint, (pixels.cols + 0.5) * PIXEL_M, -(pixels.rows + 0.5) * PIXEL_M)
    if not inside.any():
        raise UsageError(
            f"No label of --labels lies on the imagery, which covers {_told(footprint)} in {pixels.crs}; the "
            f"labels lie in {_told_pixels(pixels)}. Give scenes of their place, or save the labels with the "
            "CRS that they are in."
        )
    return pixels.of(inside), int((~inside).sum())


def _told(shape: BaseGeometry) -> str:
    west, south, east, north = shape.bounds
    return f"{west:.0f},{south:.0f},{east:.0f},{north:.0f}"


def _told_pixels(pixels: LabelledPixels) -> str:
    if not len(pixels.rows):
        return "no pixel"
    west, east = pixels.cols.min() * PIXEL_M, (pixels.cols.max() + 1) * PIXEL_M
    south, north = -(pixels.rows.max() + 1) * PIXEL_M, -pixels.rows.min() * PIXEL_M
    return f"{west:.0f},{south:.0f},{east:.0f},{north:.0f}"


def _seen_alone(pixels: LabelledPixels, seen: SeenPixels) -> tuple[LabelledPixels, SeenPixels]:
    """Pixels that a date shows, and their views, numbered anew."""
    kept = seen.seen
    number = np.cumsum(kept) - 1
    rows = seen.rows.of(kept)
    return pixels.of(kept), replace(
        seen,
        rows=replace(rows, sample=number[rows.sample]),
        first=seen.first[kept],
        seen=kept[kept],
        trunk=seen.trunk[kept],
    )


def _check_classes(pixels: LabelledPixels) -> None:
    counts = np.bincount(pixels.labels, minlength=len(pixels.names))
    lost = [name for name, count in zip(pixels.names, counts, strict=True) if not count]
    if not counts.any():
        raise NothingFoundError(
            "No labelled pixel is clear on any date. Raise --max-cloud, or give scenes of other dates."
        )
    if lost:
        raise UsageError(
            f"No pixel is left of {', '.join(lost)}: what is labelled so lies outside the imagery, under "
            "cloud, or in shapes of other classes too. Label it elsewhere, or take the class out."
        )


class _Learned:
    """What the labels teach, and how well."""

    def __init__(self, pixels: LabelledPixels, seen: SeenPixels, seed: int) -> None:
        self._pixels, self._seen, self._seed = pixels, seen, seed
        labels, classes = pixels.labels, len(pixels.names)
        self._weights = _weights(pixels)
        self.blocks: Blocks = make_blocks(pixels.rows, pixels.cols, labels, pixels.shapes, classes)
        self._logits = self._held_out(1.0)
        told = self._logits.argmax(1)
        legend = relabelled(seen.trunk, labels, self.blocks, classes)
        self.scores = score(told, labels, self.blocks, pixels.names, seed)
        self.relabelled = score(legend, labels, self.blocks, pixels.names, seed)
        self.gain = gain(told, legend, labels, self.blocks, classes, seed)
        self.temperature = fit_temperature(torch.from_numpy(self._logits), torch.from_numpy(labels))
        shares = _softmax(self._logits / self.temperature)
        self.calibration_error = calibration_error(shares, labels)
        self.errors: LikelyErrors = likely_errors(*_of_shapes(shares, pixels))
        self.head: LinearHead = fit_head(seen.rows, labels, self._weights, classes)

    def _held_out(self, share: float) -> NDArray[np.float64]:
        pixels, seen = self._pixels, self._seen
        return out_of_fold(
            seen.rows, seen.first, pixels.labels, self._weights, self.blocks, len(pixels.names), share=share,
            seed=self._seed,
        )  # fmt: skip

    def curve(self) -> tuple[CurvePoint, ...]:
        """What fewer labels teach, and all of them."""
        labels, names, blocks = self._pixels.labels, self._pixels.names, self.blocks
        folds = int(blocks.fold.max()) + 1
        learned = len(labels) * (folds - 1) / folds
        points = []
        for share in (*CURVE, 1.0):
            if share < 1 and share * blocks.count * (folds - 1) / folds < len(names):
                continue  # fewer blocks than classes
            found = self._logits if share == 1 else self._held_out(share)
            scores = score(found.argmax(1), labels, blocks, names, self._seed)
            points.append(
                CurvePoint(
                    share=share,
                    samples=round(share * learned),
                    accuracy=scores.accuracy.value,
                    macro_f1=scores.macro_f1.value,
                )
            )
        return tuple(points)


def _weights(pixels: LabelledPixels) -> NDArray[np.float64]:
    """(pixel,): those of a shape are alike, so that nine of them say as much as three of different shapes."""
    shape = np.where(pixels.shapes >= 0, pixels.shapes, len(pixels.outlines) + np.arange(len(pixels.shapes)))
    _, index, count = np.unique(shape, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / np.sqrt(count[index.ravel()])
    return weights


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    found: NDArray[np.float64] = shares / shares.sum(1, keepdims=True)
    return found


def _of_shapes(
    shares: NDArray[np.float64], pixels: LabelledPixels
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities and labels of the shapes, means over their pixels; of a raster, of its pixels."""
    if not (pixels.shapes >= 0).all():
        return shares, pixels.labels
    shapes, first, index = np.unique(pixels.shapes, return_index=True, return_inverse=True)
    means = np.zeros((len(shapes), shares.shape[1]))
    np.add.at(means, index.ravel(), shares)
    return means / np.bincount(index.ravel())[:, None], pixels.labels[first]


def _warnings(learned: _Learned, pixels: LabelledPixels) -> tuple[str, ...]:
    told = []
    alone = [entry.name for entry in learned.scores.classes if entry.blocks < 2]
    if alone:
        told.append(
            f"{', '.join(alone)} lies in one block of land alone: it is learned, and how well cannot be "
            "known. "
            "Label it in other places."
        )
    few = [entry.name for entry in learned.scores.classes if entry.samples < FEW_SAMPLES]
    if few:
        told.append(f"{', '.join(few)} has fewer than {FEW_SAMPLES} labelled pixels. Label more of it.")
    if learned.gain["macro_f1"].low < 0:
        told.append(
            "The learned model may be no better than the one that it is learned on, with its classes "
            "renamed: the "
            f"gain in macro F1 is {learned.gain['macro_f1'].value:.3f}, 95 % interval "
            f"{learned.gain['macro_f1'].low:.3f} to {learned.gain['macro_f1'].high:.3f}. Label more land."
        )
    return tuple(told)


def _save(
    request: LearnRequest,
    contract: ModelContract,
    head: LinearHead,
    names: tuple[str, ...],
    temperature: float,
    path: Path,
) -> None:
    """The trunk as it is, with the head; in a checkpoint like any other."""
    trunk, _ = load_pixel_checkpoint(model_path(request.model))
    network = PixelNet(replace(trunk.config, classes=len(names)))
    own = {name: value for name, value in trunk.state_dict().items() if not name.startswith("learned.")}
    network.load_state_dict(own, strict=False)
    if network.learned is None:
        raise ValueError("a network of learned classes has a head for them")
    network.learned.load_linear(torch.from_numpy(head.weight).float(), torch.from_numpy(head.bias).float())
    learned = replace(
        contract,
        name=request.model_name,
        classes=names,
        learned=LearnedClasses(colors=new_colors(names), temperature=temperature),
    )
    save_checkpoint(path, network.eval(), learned)
