"""From two maps of one place to what changed between them, with later maps to confirm it.

Passes over the strips of the overlap, which is never in memory as a whole: verdicts; patches of change, of
which those too small are taken out again; polygons, and the change raster, of what is left.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio

import landuse
from landuse.errors import UsageError
from landuse.pipeline.cells import CHANGE_THRESHOLD, NODATA_ID, SHARE_STEPS
from landuse.pipeline.maps.moved_probability import (
    UNCHANGED_CODE,
    UNCONFIRMED_CODE,
    Verdict,
    change_codes,
    from_to,
    judge,
)
from landuse.pipeline.maps.open import check_order, opened_map, overlap_of
from landuse.pipeline.maps.small_patches import small_patches
from landuse.pipeline.write.cog import RasterLayer, cog_writer
from landuse.pipeline.write.folder import prepare_folder, staged, write_json
from landuse.pipeline.write.geopackage import geopackage_writer
from landuse.pipeline.write.polygons import polygonize
from landuse.pipeline.write.qgis import StyleEntry, categorized
from landuse.workflows.mapping.assemble import GDAL_CACHE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

    from landuse.classes import LandUseClass
    from landuse.pipeline.maps.open import Overlap

_RAW = "raw.tif"
"""What lies between the passes; it goes with the hidden folder it is made in."""

_RAW_NODATA, _RAW_UNCONFIRMED, _RAW_UNCHANGED = 65_535, 65_534, 65_533
"""Its values; a changed cell has ``from x classes + to``, which stays below even with 255 classes."""

PIXELS_MIN_PATCH_HA = 0.5
"""Smallest patch of change between maps of pixels where none is asked for: a pixel that differs alone is more
often one that was seen otherwise than one that changed."""

_UNCHANGED_COLOR, _UNCONFIRMED_COLOR = (240, 240, 240), (150, 150, 150)


@dataclass(slots=True, kw_only=True, eq=False)
class _Counts:
    """What the passes count."""

    verdicts: NDArray[np.int64]
    """(verdict,), cells of each."""
    matrix: NDArray[np.int64]
    """(class, class), cells from and to, as reported."""
    too_small: int = 0
    """Cells of patches that were left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Kinds:
    """The kinds of change, and how the change raster tells them apart."""

    names: tuple[str, ...]
    """Class names by id."""
    entries: tuple[LandUseClass, ...]
    """The same with titles and colours."""
    pairs: Mapping[int, tuple[int, int]]
    """From and to of each code."""

    @property
    def labels(self) -> dict[int, str]:
        """What each code means."""
        return {
            code: f"{self.names[start]} to {self.names[end]}" for code, (start, end) in self.pairs.items()
        }

    @property
    def values(self) -> NDArray[np.uint8]:
        """Code for each value between the passes."""
        values = np.full(_RAW_NODATA + 1, NODATA_ID, np.uint8)
        values[_RAW_UNCHANGED], values[_RAW_UNCONFIRMED] = UNCHANGED_CODE, UNCONFIRMED_CODE
        for code, (start, end) in self.pairs.items():
            values[start * len(self.names) + end] = code
        return values


def compare_maps(request: ChangeRequest) -> ChangeReport:
    """Find what changed between two maps and write it, all files or none.

    Raises:
        UsageError: the maps do not suit each other or lack something, or results are there already.
        ReadError: a map cannot be read.
        OutputError: a file cannot be written.
    """
    there = [name for name in OUTPUTS if (request.out / name).exists()]
    if there and not request.overwrite:
        raise UsageError(
            f"{request.out} already holds {there[0]}. Use --overwrite to replace it, or another --out."
        )
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES))
        paths = (request.before, request.after, *request.later)
        overlap = overlap_of([stack.enter_context(opened_map(path)) for path in paths])
        check_order(overlap.maps)
        prepare_folder(request.out)
        folder = stack.enter_context(staged(request.out, OUTPUTS))
        request = replace(request, min_patch_ha=_min_patch_ha(overlap, request))
        counts = _judge_cells(overlap, request.threshold, folder)
        _take_out_small(overlap, counts, request.min_patch_ha or 0.0, folder)
        kinds = _kinds(overlap, counts)
        _write_polygons(overlap, counts, kinds, folder)
        _write_change(overlap, kinds, folder)
        report = _report(overlap, counts, request)
        write_json(folder / "change.json", report.to_dict())
    return report


def _min_patch_ha(overlap: Overlap, request: ChangeRequest) -> float:
    """The smallest patch as asked for, else what suits the maps."""
    if request.min_patch_ha is not None:
        return request.min_patch_ha
    return PIXELS_MIN_PATCH_HA if any(entry.engine == "pixels" for entry in overlap.maps) else 0.0


def _judge_cells(overlap: Overlap, threshold: float, folder: Path) -> _Counts:
    """Verdict and difference of every cell."""
    classes = len(overlap.names)
    counts = _Counts(verdicts=np.zeros(len(Verdict), np.int64), matrix=np.zeros((classes, classes), np.int64))
    rows, cols = overlap.geobox.shape
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "height": rows, "width": cols}
    grid = {"crs": str(overlap.geobox.crs), "transform": overlap.geobox.affine}
    layer = RasterLayer(
        dtype="uint8",
        geobox=overlap.geobox,
        nodata=NODATA_ID,
        descriptions=("share of the class probability that moved",),
        overview_resampling="AVERAGE",
        units="1",
        scale=1 / SHARE_STEPS,
        tags=_tags(overlap),
    )
    with (
        cog_writer(folder / "difference.tif", layer) as put,
        rasterio.open(folder / _RAW, "w", BIGTIFF="IF_SAFER", **profile, **grid) as raw,
    ):
        for strip in overlap.strips():
            before, after, *later = overlap.cells(strip)
            judged = judge(before, after, later, threshold)
            put(strip.row_off, 0, judged.difference)
            values = np.full(judged.verdict.shape, _RAW_UNCHANGED, np.uint16)
            values[judged.verdict == Verdict.NODATA] = _RAW_NODATA
            values[judged.verdict == Verdict.UNCONFIRMED] = _RAW_UNCONFIRMED
            changed = judged.verdict == Verdict.CHANGED
            values[changed] = before.classes[changed].astype(np.uint16) * classes + after.classes[changed]
            raw.write(values, 1, window=strip)
            counts.verdicts += np.bincount(judged.verdict.ravel(), minlength=len(Verdict))
            counts.matrix += from_to(before, after, judged.verdict)
        if counts.verdicts.sum() == counts.verdicts[Verdict.NODATA]:
            first, second = overlap.maps[:2]
            raise UsageError(
                f"No cell has a class in both {first.path} and {second.path}. Give maps that see the same "
                "land."
            )
    return counts


def _kinds(overlap: Overlap, counts: _Counts) -> _Kinds:
    occurring = [(start, end) for start, end in np.argwhere(counts.matrix).tolist() if start != end]
    try:
        codes = change_codes(len(overlap.names), occurring)
    except ValueError as error:
        raise UsageError(f"{error}. Raise --threshold.") from error
    entries = overlap.maps[0].entries
    return _Kinds(names=overlap.names, entries=entries, pairs={code: pair for pair, code in codes.items()})


def _take_out_small(overlap: Overlap, counts: _Counts, min_patch_ha: float, folder: Path) -> None:
    """Make the cells of patches of change below a size unchanged, whatever they changed to."""
    least_cells = math.ceil(min_patch_ha / overlap.cell_ha - 1e-9)
    if least_cells <= 1:
        return
    classes = len(overlap.names)
    with rasterio.open(folder / _RAW, "r+") as raw:

        def changed() -> Iterator[NDArray[np.bool_]]:
            for strip in overlap.strips():
                yield raw.read(1, window=strip) < _RAW_UNCHANGED

        # Each strip is read for the last time before it is written.
        for strip, small in zip(overlap.strips(), small_patches(changed, least_cells), strict=True):
            if not small.any():
                continue
            values = raw.read(1, window=strip)
            pairs = np.bincount(values[small], minlength=classes**2).reshape(classes, classes)
            counts.matrix -= pairs
            np.fill_diagonal(counts.matrix, counts.matrix.diagonal() + pairs.sum(1))
            counts.too_small += int(pairs.sum())
            values[small] = _RAW_UNCHANGED
            raw.write(values, 1, window=strip)


def _write_polygons(overlap: Overlap, counts: _Counts, kinds: _Kinds, folder: Path) -> None:
    """Polygons of change, each of one kind."""
    entries, labels = kinds.entries, kinds.labels
    style = [
        StyleEntry(
            value=code, label=f"{entries[start].title} to {entries[end].title}", color=entries[end].color
        )
        for code, (start, end) in kinds.pairs.items()
        if counts.matrix[start, end]
    ]
    styles = [categorized("change", "code", style, "Change of land use, in the new class's colour")]
    with (
        geopackage_writer(folder / "change.gpkg", styles) as put,
        rasterio.open(folder / _RAW) as raw,
        rasterio.open(folder / "difference.tif") as moved,
    ):
        for polygons in polygonize(
            _changed_strips(overlap, kinds, raw, moved),
            overlap.geobox,
            names=[labels.get(code, "") for code in range(NODATA_ID)],
            nodata=NODATA_ID,
        ):
            put("change", _change_frame(polygons, kinds, overlap.cell_ha))
        put("matrix", pd.DataFrame([asdict(entry) for entry in _transitions(overlap, counts)]))


def _changed_strips(
    overlap: Overlap, kinds: _Kinds, raw: DatasetReader, moved: DatasetReader
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Codes of changed cells, nodata elsewhere, and the share that moved, (row, col), from the top."""
    values = kinds.values
    values[[_RAW_UNCHANGED, _RAW_UNCONFIRMED]] = NODATA_ID
    for strip in overlap.strips():
        share = moved.read(1, window=strip).astype(np.float32) / np.float32(SHARE_STEPS)
        yield values[raw.read(1, window=strip)], share


def _change_frame(polygons: gpd.GeoDataFrame, kinds: _Kinds, cell_ha: float) -> gpd.GeoDataFrame:
    """The columns of the layer ``change``."""
    pairs = [kinds.pairs[code] for code in polygons["class_id"]]
    ids = np.array(pairs, np.int64).reshape(-1, 2)  # (polygon, 2)
    names = np.array(kinds.names, object)
    return gpd.GeoDataFrame(
        {
            "code": polygons["class_id"],
            "from_id": ids[:, 0],
            "from_class": names[ids[:, 0]],
            "to_id": ids[:, 1],
            "to_class": names[ids[:, 1]],
            "difference": polygons["confidence"],
            "cells": np.rint(polygons["area_ha"] / cell_ha).astype(np.int64),
            "area_ha": polygons["area_ha"],
        },
        geometry=polygons.geometry,
    )


def _write_change(overlap: Overlap, kinds: _Kinds, folder: Path) -> None:
    """The change raster."""
    entries = kinds.entries
    own = {UNCHANGED_CODE: _UNCHANGED_COLOR, UNCONFIRMED_CODE: _UNCONFIRMED_COLOR}
    layer = RasterLayer(
        dtype="uint8",
        geobox=overlap.geobox,
        nodata=NODATA_ID,
        descriptions=("change of the land-use class",),
        overview_resampling="MODE",
        units="change code",
        colors=own | {code: entries[end].color for code, (_, end) in kinds.pairs.items()},
        categories=kinds.labels | {UNCHANGED_CODE: "no change", UNCONFIRMED_CODE: "unconfirmed"},
        tags=_tags(overlap),
    )
    values = kinds.values
    with cog_writer(folder / "change.tif", layer) as put, rasterio.open(folder / _RAW) as raw:
        for strip in overlap.strips():
            put(strip.row_off, 0, values[raw.read(1, window=strip)])


def _tags(overlap: Overlap) -> dict[str, str]:
    before, after = overlap.maps[:2]
    return {
        "TIFFTAG_SOFTWARE": f"landuse {landuse.__version__}",
        "TIFFTAG_COPYRIGHT": "; ".join(dict.fromkeys(entry.attribution for entry in overlap.maps)),
        "landuse_version": landuse.__version__,
        "before_plan_sha256": before.plan_sha256,
        "before_acquired_utc": ", ".join(moment.isoformat() for moment in before.acquired_utc),
        "after_plan_sha256": after.plan_sha256,
        "after_acquired_utc": ", ".join(moment.isoformat() for moment in after.acquired_utc),
        "later_plan_sha256": ", ".join(entry.plan_sha256 for entry in overlap.maps[2:]),
    }


def _transitions(overlap: Overlap, counts: _Counts) -> tuple[Transition, ...]:
    return tuple(
        Transition(
            from_id=start,
            from_class=overlap.names[start],
            to_id=end,
            to_class=overlap.names[end],
            cells=int(counts.matrix[start, end]),
            area_ha=int(counts.matrix[start, end]) * overlap.cell_ha,
        )
        for start, end in np.argwhere(counts.matrix).tolist()
    )


def _report(overlap: Overlap, counts: _Counts, request: ChangeRequest) -> ChangeReport:
    cells = dict(zip(Verdict, counts.verdicts.tolist(), strict=True))
    weights = {entry.weights_sha256 for entry in overlap.maps}
    models = ", ".join(sorted({entry.model for entry in overlap.maps}))
    other_weights = (
        f"The maps were made with different weights ({models}): some of the change may be theirs. Map both "
        "with one model."
    )
    return ChangeReport(
        request=request,
        inputs=tuple(
            MapInput(
                role=("before", "after")[index] if index < 2 else "later",
                path=str(entry.path),
                acquired_utc=entry.acquired_utc,
                plan_sha256=entry.plan_sha256,
                model=entry.model,
                weights_sha256=entry.weights_sha256,
            )
            for index, entry in enumerate(overlap.maps)
        ),
        names=overlap.names,
        geobox=overlap.geobox,
        cover=ChangeCover(
            cells=sum(cells.values()),
            nodata=cells[Verdict.NODATA],
            changed=cells[Verdict.CHANGED] - counts.too_small,
            unconfirmed=cells[Verdict.UNCONFIRMED],
            naive=sum(cells.values()) - cells[Verdict.NODATA] - cells[Verdict.SAME],
            flicker=cells[Verdict.FLICKER],
            contradicted=cells[Verdict.CONTRADICTED],
            too_small=counts.too_small,
        ),
        matrix=_transitions(overlap, counts),
        warnings=(
            *_cloud_warnings(overlap),
            *([other_weights] if len(weights) > 1 else []),
            *_settings_warnings(overlap),
        ),
    )


def _cloud_warnings(overlap: Overlap) -> list[str]:
    """For each of the two maps whether clouds in it may pass for change."""
    return [
        f"{entry.path} {entry.clouds_unknown}: what differs may be cloud. Compare maps of scenes with a "
        "cloud mask, or look at image.tif first."
        for entry in overlap.maps[:2]
        if entry.clouds_unknown
    ]


def _settings_warnings(overlap: Overlap) -> list[str]:
    """In which settings the maps differ, with the values of each."""
    differing = []
    for name in overlap.maps[0].settings:
        days_of: dict[str, list[str]] = {}
        for entry in overlap.maps:
            if entry.settings[name]:  # else an older landuse made it
                days_of.setdefault(entry.settings[name], []).append(entry.days)
        if len(days_of) > 1:
            told = " and ".join(f"{value} ({', '.join(days)})" for value, days in days_of.items())
            differing.append(f"{name} {told}")
    if not differing:
        return []
    return [
        f"The maps were made with different settings: {'; '.join(differing)}. Some of the change may be "
        "theirs. Map all with the same."
    ]


OUTPUTS = ("change.tif", "change.tif.aux.xml", "difference.tif", "change.gpkg", "change.json")
"""The last one tells that the others are whole."""

METHOD = (
    "Total variation distance of the class probabilities, after change vector analysis in posterior "
    "probability space (Chen et al. 2011, IEEE Geoscience and Remote Sensing Letters 8(2), 317-321)."
)

BIAS = (
    "Areas of change counted on maps are biased by the maps' errors. For areas with intervals label a sample "
    "(Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """What a user asks for."""

    before: Path
    """Folder of the earlier map, or its ``landuse.tif``."""
    after: Path
    """The later one."""
    later: tuple[Path, ...] = ()
    """Maps after that, which have to agree with a change wherever they see it."""
    threshold: float = CHANGE_THRESHOLD
    """Share of a cell's probability that has to move for a change of class to count, 0..1."""
    min_patch_ha: float | None = None
    """Patches of change below this count as unchanged. A patch is all changed cells that hang together,
    whatever they changed to. None: ``PIXELS_MIN_PATCH_HA`` between maps of pixels, else 0."""
    out: Path
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that are there already."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold:g} is no share. Give 0 to 1.")
        least = self.min_patch_ha
        if least is not None and not (math.isfinite(least) and least >= 0):
            raise UsageError(f"--min-patch-ha {least:g} is no size. Give 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """Cells of one class before and one after; the same one for what is not reported as changed."""

    from_id: int
    """Class in the first map."""
    from_class: str
    """Its name."""
    to_id: int
    """Class in the second map where change is reported, else ``from_id``."""
    to_class: str
    """Its name."""
    cells: int
    """How many."""
    area_ha: float
    """Their area."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCover:
    """What became of the cells where the two maps overlap."""

    cells: int
    """All of them."""
    nodata: int
    """Without a class in either map: never change."""
    changed: int
    """Reported as changed."""
    unconfirmed: int
    """Changed, but no later map sees them; 0 where none was given."""
    naive: int
    """Whose class differs: what comparing the classes alone would report."""
    flicker: int
    """Whose class differs while too little of the probability moved."""
    contradicted: int
    """Changed, but not so in a later map."""
    too_small: int
    """Changed, in patches below the smallest that counts."""

    @property
    def compared(self) -> int:
        """Cells with a class in both maps."""
        return self.cells - self.nodata

    @property
    def unchanged(self) -> int:
        """Cells that are reported as what they were."""
        return self.compared - self.changed - self.unconfirmed

    def share(self, cells: int) -> float:
        """Share of the compared cells, 0..1; 0 where none was."""
        return cells / self.compared if self.compared else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MapInput:
    """A map that was compared."""

    role: str
    """``"before"``, ``"after"`` or ``"later"``."""
    path: str
    """Its class raster."""
    acquired_utc: tuple[datetime, ...]
    """Of its scenes."""
    plan_sha256: str
    """What it was made of."""
    model: str
    """What made it."""
    weights_sha256: str
    """Digest of the model's weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeReport:
    """What was found."""

    request: ChangeRequest
    """What was asked for."""
    inputs: tuple[MapInput, ...]
    """The maps, in the order given."""
    names: tuple[str, ...]
    """Class names by id."""
    geobox: GeoBox
    """Where the first two maps overlap."""
    cover: ChangeCover
    """What became of its cells."""
    matrix: tuple[Transition, ...]
    """Those that occur, by ids. Their cells are the changed and the unchanged ones."""
    warnings: tuple[str, ...]
    """What to keep in mind."""
    files: tuple[str, ...] = OUTPUTS
    """Their names."""

    def to_dict(self) -> dict[str, object]:
        """As JSON: ``change.json``."""
        cover, request = self.cover, self.request
        counted = {"unchanged": cover.unchanged, "changed": cover.changed, "unconfirmed": cover.unconfirmed}
        return {
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": METHOD,
            "note": BIAS,
            "inputs": [
                asdict(entry) | {"acquired_utc": [moment.isoformat() for moment in entry.acquired_utc]}
                for entry in self.inputs
            ],
            "threshold": request.threshold,
            "min_patch_ha": request.min_patch_ha,
            "grid": {
                "crs": str(self.geobox.crs),
                "transform": list(self.geobox.affine)[:6],
                "shape": list(self.geobox.shape),
                "cell_m": self.geobox.affine.a,
            },
            "classes": list(self.names),
            "cells": {"overlap": cover.cells, "nodata": cover.nodata, "compared": cover.compared, **counted},
            "shares": {
                **{name: cover.share(cells) for name, cells in counted.items()},
                "nodata": cover.nodata / cover.cells,
            },
            "class_differs": {
                "cells": cover.naive,
                "share": cover.share(cover.naive),
                "flicker": cover.flicker,
                "contradicted": cover.contradicted,
                "too_small": cover.too_small,
            },
            "matrix": [asdict(row) for row in self.matrix],
            "warnings": list(self.warnings),
            "files": list(self.files),
            "versions": {
                "landuse": landuse.__version__,
                "numpy": np.__version__,
                "rasterio": rasterio.__version__,
                "gdal": rasterio.__gdal_version__,
            },
        }
