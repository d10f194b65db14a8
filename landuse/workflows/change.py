"""From two maps of one place to what changed between them, with later maps to confirm it.

Three passes over the strips of the overlap, which is never in memory as a whole: verdicts; polygons, of which
those too small are taken out again; the change raster of what is left.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from affine import Affine
from rasterio.features import rasterize
from rasterio.windows import Window

import landuse
from landuse.errors import UsageError
from landuse.model.classes import legend
from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS
from landuse.pipeline.maps.moved_probability import (
    UNCHANGED_CODE,
    UNCONFIRMED_CODE,
    Verdict,
    change_codes,
    from_to,
    judge,
)
from landuse.pipeline.maps.open import check_order, opened_map, overlap_of
from landuse.pipeline.write.cog import RasterLayer, cog_writer
from landuse.pipeline.write.folder import prepare_folder, staged, write_json
from landuse.pipeline.write.geopackage import geopackage_writer
from landuse.pipeline.write.polygons import polygonize
from landuse.pipeline.write.qgis import StyleEntry, categorized
from landuse.workflows.change_report import (
    OUTPUTS,
    ChangeCover,
    ChangeReport,
    ChangeRequest,
    MapInput,
    Transition,
)
from landuse.workflows.mapping.assemble import GDAL_CACHE_MB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader, DatasetWriter

    from landuse.pipeline.maps.open import Overlap

_RAW = "raw.tif"
"""What lies between the passes; it goes with the hidden folder it is made in."""

_RAW_NODATA, _RAW_UNCONFIRMED, _RAW_UNCHANGED = 65_535, 65_534, 65_533
"""Its values; a changed cell has ``from x classes + to``, which stays below even with 255 classes."""

_UNCHANGED_COLOR, _UNCONFIRMED_COLOR = (240, 240, 240), (150, 150, 150)


@dataclass(slots=True, kw_only=True, eq=False)
class _Counts:
    """What the passes count."""

    verdicts: NDArray[np.int64]
    """(verdict,), cells of each."""
    matrix: NDArray[np.int64]
    """(class, class), cells from and to, as reported."""
    too_small: int = 0
    """Cells of polygons that were left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Kinds:
    """The kinds of change, and how the change raster tells them apart."""

    names: tuple[str, ...]
    """Class names by id."""
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
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB))
        paths = (request.before, request.after, *request.later)
        overlap = overlap_of([stack.enter_context(opened_map(path)) for path in paths])
        check_order(overlap.maps)
        prepare_folder(request.out)
        folder = stack.enter_context(staged(request.out, OUTPUTS))
        counts = _judge_cells(overlap, request.threshold, folder)
        kinds = _kinds(overlap, counts)
        _write_polygons(overlap, counts, kinds, request.min_area_ha, folder)
        _write_change(overlap, kinds, folder)
        report = _report(overlap, counts, request)
        write_json(folder / "change.json", report.to_dict())
    return report


def _judge_cells(overlap: Overlap, threshold: float, folder: Path) -> _Counts:
    """The first pass: verdict and difference of every cell."""
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
    return _Kinds(names=overlap.names, pairs={code: pair for pair, code in codes.items()})


def _write_polygons(
    overlap: Overlap, counts: _Counts, kinds: _Kinds, min_area_ha: float, folder: Path
) -> None:
    """The second pass: polygons of change; those too small are taken out of raster and counts."""
    entries, labels = legend(kinds.names), kinds.labels
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
        rasterio.open(folder / _RAW, "r+") as raw,
        rasterio.open(folder / "difference.tif") as moved,
    ):
        for polygons in polygonize(
            _changed_strips(overlap, kinds, raw, moved),
            overlap.geobox,
            names=[labels.get(code, "") for code in range(NODATA_ID)],
            nodata=NODATA_ID,
        ):
            frame = _change_frame(polygons, kinds, overlap.cell_ha)
            small = frame["area_ha"] < min_area_ha
            if small.any():
                _take_out(frame[small], raw, counts)
            put("change", frame[~small])
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


def _take_out(small: gpd.GeoDataFrame, raw: DatasetWriter, counts: _Counts) -> None:
    """Make the cells of polygons unchanged."""
    grid = raw.transform
    left, bottom, right, top = small.total_bounds
    col, row = round((left - grid.c) / grid.a), round((top - grid.f) / grid.e)
    window = Window(col, row, round((right - left) / grid.a), round((bottom - top) / grid.e))
    values = raw.read(1, window=window)
    inside = rasterize(small.geometry, values.shape, transform=grid @ Affine.translation(col, row)) == 1
    values[inside] = _RAW_UNCHANGED
    raw.write(values, 1, window=window)
    for start, end, cells in zip(small["from_id"], small["to_id"], small["cells"], strict=True):
        counts.matrix[start, end] -= cells
        counts.matrix[start, start] += cells
    counts.too_small += int(small["cells"].sum())


def _write_change(overlap: Overlap, kinds: _Kinds, folder: Path) -> None:
    """The last pass: the change raster."""
    entries = legend(kinds.names)
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
            f"The maps were made with different weights ({models}): some of the change may be theirs. Map "
            "both with one model.",
        )
        if len(weights) > 1
        else (),
    )
