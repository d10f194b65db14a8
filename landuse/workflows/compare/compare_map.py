"""From a map and a reference to where they agree, in hectares, on a map, as polygons and on a page.

Passes over strips of the map, which is never in memory as a whole: pairs of classes; patches of disagreement,
of which small ones are not drawn; polygons, and the raster.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.windows import Window

import landuse
from landuse.errors import ReadError, UsageError
from landuse.pipeline.cells import NODATA_ID
from landuse.pipeline.maps import agreement as figures
from landuse.pipeline.maps.agreement import Agreement
from landuse.pipeline.maps.open import class_parts, counted_map, raster_of
from landuse.pipeline.maps.reference import (
    CONFLICT_ID,
    IGNORED_ID,
    RasterReference,
    is_raster,
    opened_raster,
    read_polygons,
    strips_of,
    value_names,
)
from landuse.pipeline.maps.small_patches import small_patches
from landuse.pipeline.pages.comparison import ComparisonView, write_comparison_page
from landuse.pipeline.write.cog import RasterLayer, cog_writer
from landuse.pipeline.write.folder import prepare_folder, staged, write_json
from landuse.pipeline.write.geopackage import geopackage_writer
from landuse.pipeline.write.polygons import polygonize
from landuse.pipeline.write.qgis import StyleEntry, categorized
from landuse.workflows.compare.crosswalk import OpenedReference, crosswalk_of
from landuse.workflows.mapping.assemble import GDAL_CACHE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from landuse.pipeline.maps.open import ClassMap
    from landuse.workflows.compare.crosswalk import Crosswalk
    from landuse.workflows.compare.request import CompareRequest

OUTPUTS = (
    "disagreement.tif",
    "disagreement.tif.aux.xml",
    "disagreement.gpkg",
    "index.html",
    "compare.json",
)
"""The last one tells that the others are whole."""

CAVEAT = (
    "The reference is another map and not the truth: dates, definitions and errors of either make them "
    "differ. Which is right only labelled points tell: `landuse sample`, `landuse area`, `landuse compare "
    "--samples`."
)

_RAW = "raw.tif"
_RAW_NOTHING, _RAW_SAME = 65_535, 65_534
"""Its values; cells that differ have ``class of the map x classes + class of the reference``."""

_SAME_CODE, _OTHER_CODE = 0, 251
_MOST_PAIRS = 250
"""Pairs of classes with a code of their own in the raster; the smallest of more share ``_OTHER_CODE``."""

_SAME_COLOR, _OTHER_COLOR = (240, 240, 240), (120, 120, 120)

_STRIP_VALUES = 2**21
"""Cells of a strip, of the finer grid."""

_EDGE_SHARE = 0.01
"""Of a map's land: areas of whole cells that differ from it by more are told."""

_VIEW_CELLS = 1200
"""Longest side of a panel of the page."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Counts:
    """What the first pass counts, in cells of the finer grid."""

    pairs: NDArray[np.int64]
    """(map class, reference class)."""
    nothing: int = 0
    """Of the map, where the reference has no data."""
    ignored: int = 0
    """Of the map, where the reference's value means no class."""
    conflicts: int = 0
    """Of the map, in polygons of different classes."""
    small: int = 0
    """Of disagreement, in patches that are too small to be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompareReport:
    """How far a map and a reference agree."""

    request: CompareRequest
    """What was asked for."""
    source: ClassMap
    """The map."""
    reference: dict[str, object]
    """What it was compared with."""
    crosswalk: Crosswalk
    """The classes."""
    agreement: Agreement
    """The figures."""
    geobox: GeoBox
    """Grid of the comparison."""
    told: str
    """How the reference was brought to it."""
    nothing_ha: float
    """Of the map, where the reference has no data."""
    ignored_ha: float
    """Of the map, where the reference's value means no class."""
    conflict_ha: float
    """Of the map, in polygons of different classes."""
    small_ha: float
    """Of disagreement, in patches too small to be drawn."""
    warnings: tuple[str, ...]
    """What to keep in mind."""
    files: tuple[str, ...] = OUTPUTS
    """Their names."""

    def to_dict(self) -> dict[str, object]:
        """As JSON: ``compare.json``."""
        found, legend = self.agreement, self.crosswalk.legend
        present = found.present
        return {
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": figures.METHOD,
            "note": CAVEAT,
            "map": str(self.source.path),
            "map_sha256": self.source.sha256,
            "reference": self.reference,
            "crosswalk": None
            if legend is None
            else {"name": legend.name, "title": legend.title, "source": legend.source},
            "grid": {
                "crs": str(self.geobox.crs),
                "transform": list(self.geobox.affine)[:6],
                "shape": list(self.geobox.shape),
                "cell_m": self.geobox.affine.a,
                "how": self.told,
            },
            "hectares": {
                "compared": found.total_ha,
                "reference_has_no_data": self.nothing_ha,
                "left_out_by_crosswalk": self.ignored_ha,
                "in_polygons_that_differ": self.conflict_ha,
                "in_patches_too_small_to_draw": self.small_ha,
            },
            "min_patch_ha": self.request.min_patch_ha,
            "overall_agreement": found.overall,
            "quantity_disagreement": found.quantity,
            "allocation_disagreement": found.allocation,
            "classes": [entry.to_dict() for entry in found.classes],
            "confusion_ha": {
                "rows": "class of the map",
                "columns": "class of the reference",
                "classes": [found.names[i] for i in present],
                "hectares": found.hectares[np.ix_(present, present)].tolist(),
            },
            "warnings": list(self.warnings),
            "files": list(self.files),
            "versions": {
                "landuse": landuse.__version__,
                "numpy": np.__version__,
                "rasterio": rasterio.__version__,
                "gdal": rasterio.__gdal_version__,
            },
        }


def compare_map(request: CompareRequest) -> CompareReport:
    """Compare a map with a reference and write what was found, all files or none.

    Raises:
        UsageError: map, reference and crosswalk do not suit each other, or results are there already.
        ReadError: one of them cannot be read.
        ProviderError: a source cannot be asked.
        NothingFoundError: a source has nothing there.
        OutputError: a file cannot be written.
    """
    there = [name for name in OUTPUTS if (request.out / name).exists()]
    if there and not request.overwrite:
        raise UsageError(
            f"{request.out} already holds {there[0]}. Use --overwrite to replace it, or another --out."
        )
    source = counted_map(request.map)
    _check_grid(source)
    grid = GeoBox(source.shape, source.transform, source.crs.to_wkt())
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES))
        crosswalk, opened = stack.enter_context(_opened(request, source, grid))
        step = opened.reference.step
        fine = GeoBox(
            (source.shape[0] * step, source.shape[1] * step),
            source.transform @ Affine.scale(1 / step),
            source.crs.to_wkt(),
        )
        prepare_folder(request.out)
        folder = stack.enter_context(staged(request.out, OUTPUTS))
        counts, view = _count(source, opened, crosswalk, fine, folder)
        crosswalk.refuse_unknown(opened.codes, opened.shown)
        report = _report(request, source, opened, crosswalk, fine, counts)
        kinds = _kinds(counts.pairs)
        small = _write_raster(fine, step, source, kinds, crosswalk, folder, request.min_patch_ha)
        report = replace(report, small_ha=small * _cell_ha(fine))
        _write_polygons(fine, step, source, kinds, crosswalk, report, folder)
        write_comparison_page(
            folder / "index.html",
            ComparisonView(
                title=f"{source.path.parent.name or source.path.name} beside {opened.shown}",
                names=crosswalk.names,
                colors=crosswalk.colors,
                of_map=view[0],
                of_reference=view[1],
                agreement=report.agreement,
                notes=(report.told, f"Crosswalk {crosswalk.told}.", *report.warnings),
            ),
        )
        write_json(folder / "compare.json", report.to_dict())
    return report


def _cell_ha(fine: GeoBox) -> float:
    return float(abs(fine.affine.determinant)) / 10_000


def _check_grid(source: ClassMap) -> None:
    grid = source.transform
    if grid.b or grid.d or grid.a <= 0 or grid.a != -grid.e or source.crs.linear_units_factor[1] != 1:
        raise UsageError(
            f"{source.path} is rotated, or has no square cells in metres. Give a map as `landuse map` "
            "writes it."
        )


@contextmanager
def _opened(
    request: CompareRequest, source: ClassMap, grid: GeoBox
) -> Iterator[tuple[Crosswalk, OpenedReference]]:
    """The reference, wherever it is, and the classes to compare in."""
    if request.reference is None:
        from landuse.workflows.compare.from_source import opened_collection

        with opened_collection(request, source, grid) as found:
            yield found
        return
    path = raster_of(request.reference) if request.reference.is_dir() else request.reference
    shown = f"REFERENCE {path}"
    if not path.is_file():
        raise UsageError(
            f"{shown} does not exist. Give a GeoTIFF of classes, a map's folder, or a vector file of "
            "polygons."
        )
    crosswalk = crosswalk_of(source, request.crosswalk)
    if not is_raster(path):
        codes = crosswalk.codes({}, names_alone=False)
        polygons = read_polygons(path, request.layer, request.column, codes, grid)
        crosswalk.refuse_unknown(codes, shown)
        about: dict[str, object] = {"path": str(path), "kind": "polygons", "column": request.column}
        yield crosswalk, OpenedReference(reference=polygons, codes=codes, shown=path.name, about=about)
        return
    for option, value in (("--column", request.column), ("--layer", request.layer)):
        if value is not None:
            raise UsageError(f"{option} {value!r} is for polygons, and {shown} is a raster. Leave it out.")
    with opened_raster(path, shown) as file:
        names, is_ours = value_names(path, file)
        if not names and crosswalk.legend is None:
            raise UsageError(
                f"{shown} does not say what its values mean. Name a --crosswalk: a legend of landuse, or a "
                "file with the columns code,new."
            )
        codes = crosswalk.codes(names, names_alone=is_ours)
        reference = RasterReference([file], codes, grid, names=[shown])
        about = {
            "path": str(path),
            "kind": "raster",
            "crs": file.crs.to_string(),
            "pixel_m": reference.pixel_m if math.isfinite(reference.pixel_m) else None,
        }
        warnings: tuple[str, ...] = ()
        shown = path.name
        if is_ours:
            shown = f"{path.absolute().parent.name}/{path.name}"
            theirs = tuple(names.values())
            parts = class_parts(path, theirs, file.tags().get("classes_of"))
            warnings = crosswalk.other_meanings(source, theirs, parts, str(path))
        raster = OpenedReference(
            reference=reference, codes=codes, shown=shown, about=about, warnings=warnings
        )
        yield crosswalk, raster


def _count(
    source: ClassMap, opened: OpenedReference, crosswalk: Crosswalk, fine: GeoBox, folder: Path
) -> tuple[_Counts, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The pairs of every cell, counted and kept; and every few of them, for the page."""
    size, step = len(crosswalk.names), opened.reference.step
    counts = _Counts(pairs=np.zeros((size, size), np.int64))
    rows, cols = fine.shape
    every = max(math.ceil(max(rows, cols) / _VIEW_CELLS), 1)
    panels: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "height": rows, "width": cols}
    place = {"crs": source.crs, "transform": fine.affine}
    with (
        rasterio.open(
            folder / _RAW, "w", BIGTIFF="IF_SAFER", compress="DEFLATE", zlevel=1, **profile, **place
        ) as raw,
        _reading(source) as file,
    ):
        for window, (top, bottom) in strips_of(
            GeoBox(source.shape, source.transform, source.crs.to_wkt()), step, _STRIP_VALUES
        ):
            ours = crosswalk.of_map[_finer(_read(file, source, window), step)]
            theirs = opened.reference.ids(fine, (top, bottom))
            mapped = ours != NODATA_ID
            both = mapped & (theirs < size)
            counts.nothing += int((mapped & (theirs == NODATA_ID)).sum())
            counts.ignored += int((mapped & (theirs == IGNORED_ID)).sum())
            counts.conflicts += int((mapped & (theirs == CONFLICT_ID)).sum())
            pair = ours[both].astype(np.int64) * size + theirs[both]
            counts.pairs += np.bincount(pair, minlength=size * size).reshape(size, size)
            values = np.full(ours.shape, _RAW_NOTHING, np.uint16)
            values[both] = np.where(ours[both] == theirs[both], _RAW_SAME, pair)
            raw.write(values, 1, window=Window(0, top, cols, bottom - top))
            first = -top % every
            for panel, ids in zip(panels, (ours, theirs), strict=True):
                panel.append(np.where(ids < size, ids, np.uint8(NODATA_ID))[first::every, ::every])
    if not counts.pairs.any() and not opened.codes.unknown:
        raise UsageError(
            f"{opened.shown} has no class anywhere that {source.path} has one: they do not overlap, or it is "
            "empty there. Give a reference of the same place."
        )
    return counts, (np.concatenate(panels[0]), np.concatenate(panels[1]))


@contextmanager
def _reading(source: ClassMap) -> Iterator[DatasetReader]:
    try:
        file = rasterio.open(source.path)
    except RasterioError as error:
        raise ReadError(f"{source.path} cannot be read ({error}). Make the map again.") from error
    with file:
        yield file


def _read(file: DatasetReader, source: ClassMap, window: Window) -> NDArray[np.uint8]:
    try:
        ids: NDArray[np.uint8] = file.read(1, window=window)
    except RasterioError as error:
        raise ReadError(f"{source.path} cannot be read ({error}). Make the map again.") from error
    return ids


def _finer(ids: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    return ids if step == 1 else ids.repeat(step, 0).repeat(step, 1)


def _kinds(pairs: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """Map and reference class of each code of the raster, the largest pairs first."""
    differing = [(int(pairs[i, j]), i, j) for i, j in np.argwhere(pairs).tolist() if i != j]
    ranked = sorted(differing, key=lambda row: (-row[0], row[1], row[2]))[:_MOST_PAIRS]
    return {code: (i, j) for code, (_, i, j) in enumerate(ranked, 1)}


def _code_of_raw(kinds: dict[int, tuple[int, int]], size: int) -> NDArray[np.uint8]:
    """Code of the raster for each value that lies between the passes."""
    codes = np.full(_RAW_NOTHING + 1, _OTHER_CODE, np.uint8)
    codes[_RAW_NOTHING], codes[_RAW_SAME] = NODATA_ID, _SAME_CODE
    for code, (i, j) in kinds.items():
        codes[i * size + j] = code
    return codes


def _raw_strips(
    raw: DatasetReader, fine: GeoBox, step: int, source: ClassMap
) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    grid = GeoBox(source.shape, source.transform, source.crs.to_wkt())
    for _, (top, bottom) in strips_of(grid, step, _STRIP_VALUES):
        yield top, raw.read(1, window=Window(0, top, fine.shape[1], bottom - top))


def _write_raster(
    fine: GeoBox,
    step: int,
    source: ClassMap,
    kinds: dict[int, tuple[int, int]],
    crosswalk: Crosswalk,
    folder: Path,
    min_patch_ha: float,
) -> int:
    """The raster of disagreement, and a mask of its small patches; returns how many cells those have."""
    codes = _code_of_raw(kinds, len(crosswalk.names))
    labels = {
        code: f"{crosswalk.names[i]} on the map, {crosswalk.names[j]} on the reference"
        for code, (i, j) in kinds.items()
    }
    layer = RasterLayer(
        dtype="uint8",
        geobox=fine,
        nodata=NODATA_ID,
        descriptions=("where map and reference differ",),
        overview_resampling="MODE",
        units="disagreement code",
        colors={_SAME_CODE: _SAME_COLOR, _OTHER_CODE: _OTHER_COLOR}
        | {code: crosswalk.colors[j] for code, (_, j) in kinds.items()},
        categories={_SAME_CODE: "same class", **labels, _OTHER_CODE: "another pair of classes"},
        tags={
            "TIFFTAG_SOFTWARE": f"landuse {landuse.__version__}",
            "landuse_version": landuse.__version__,
            "map_sha256": source.sha256,
            "crosswalk": crosswalk.told,
        },
    )
    rows, cols = fine.shape
    least = math.ceil(min_patch_ha / _cell_ha(fine) - 1e-9)
    small_cells = 0
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": rows, "width": cols}
    with (
        cog_writer(folder / "disagreement.tif", layer) as put,
        rasterio.open(folder / _RAW) as raw,
        rasterio.open(folder / "small.tif", "w", compress="DEFLATE", zlevel=1, crs=source.crs,
                      transform=fine.affine, **profile) as drawn,
    ):  # fmt: skip

        def differing() -> Iterator[NDArray[np.bool_]]:
            for _, values in _raw_strips(raw, fine, step, source):
                yield values < _RAW_SAME

        masks = small_patches(differing, least) if least > 1 else None
        for top, values in _raw_strips(raw, fine, step, source):
            put(top, 0, codes[values])
            small = np.zeros(values.shape, np.bool_) if masks is None else next(masks)
            small_cells += int(small.sum())
            drawn.write(small.astype(np.uint8), 1, window=Window(0, top, cols, len(values)))
    return small_cells


def _write_polygons(
    fine: GeoBox,
    step: int,
    source: ClassMap,
    kinds: dict[int, tuple[int, int]],
    crosswalk: Crosswalk,
    report: CompareReport,
    folder: Path,
) -> None:
    """Polygons of disagreement, each of one pair of classes, and the table of all pairs."""
    size, names = len(crosswalk.names), crosswalk.names
    codes = _code_of_raw(kinds, size)
    style = [
        StyleEntry(value=code, label=f"{names[i]}, reference {names[j]}", color=crosswalk.colors[j])
        for code, (i, j) in kinds.items()
    ]
    styles = [categorized("disagreement", "code", style, "Where they differ, in the reference's colour")]
    cell_ha = _cell_ha(fine)

    def strips() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        with rasterio.open(folder / _RAW) as raw, rasterio.open(folder / "small.tif") as small:
            for top, values in _raw_strips(raw, fine, step, source):
                ids = codes[values]
                hidden = small.read(1, window=Window(0, top, fine.shape[1], len(values))) > 0
                ids[hidden | (ids == _SAME_CODE)] = NODATA_ID
                yield ids, np.zeros(ids.shape, np.float32)

    def named(of: NDArray[np.int64], side: int) -> NDArray[np.object_]:
        return np.array([names[kinds[code][side]] if code in kinds else "other" for code in of], object)

    with geopackage_writer(folder / "disagreement.gpkg", styles) as put:
        for polygons in polygonize(strips(), fine, names=[""] * NODATA_ID, nodata=NODATA_ID):
            code = polygons["class_id"].to_numpy()
            put(
                "disagreement",
                gpd.GeoDataFrame(
                    {
                        "code": code,
                        "map_class": named(code, 0),
                        "reference_class": named(code, 1),
                        "cells": np.rint(polygons["area_ha"] / cell_ha).astype(np.int64),
                        "area_ha": polygons["area_ha"],
                    },
                    geometry=polygons.geometry,
                ),
            )
        hectares = report.agreement.hectares
        rows = [
            {"map_class": names[i], "reference_class": names[j], "area_ha": float(hectares[i, j])}
            for i, j in np.argwhere(hectares).tolist()
        ]
        put("matrix", pd.DataFrame(rows))


def _report(
    request: CompareRequest,
    source: ClassMap,
    opened: OpenedReference,
    crosswalk: Crosswalk,
    fine: GeoBox,
    counts: _Counts,
) -> CompareReport:
    cell_ha = _cell_ha(fine)
    found = Agreement(names=crosswalk.names, hectares=counts.pairs.astype(np.float64) * cell_ha)
    mapped = int(counts.pairs.sum()) + counts.nothing + counts.ignored + counts.conflicts
    warnings = [*opened.warnings]
    whole_ha, inside_ha = mapped * cell_ha, float(source.area_ha.sum())
    if not source.of_whole_cells and whole_ha - inside_ha > _EDGE_SHARE * inside_ha:
        warnings.append(
            "Cells are counted whole, also where they reach beyond the area or the imagery: the map has "
            f"{whole_ha:,.1f} ha here and {inside_ha:,.1f} ha in its run.json. Map with smaller cells "
            "(--cell-m) to count less of what lies beyond."
        )
    if counts.nothing > 0.05 * mapped:
        warnings.append(
            f"The reference has no data on {counts.nothing / mapped:.0%} of the map; the figures are about "
            "the rest."
        )
    if counts.conflicts:
        warnings.append(
            f"{counts.conflicts * cell_ha:,.1f} ha lie in polygons of different classes and are left out."
        )
    silent = [
        crosswalk.names[i] for i in np.flatnonzero((counts.pairs.sum(0) > 0) & (counts.pairs.sum(1) == 0))
    ]
    if silent:
        warnings.append(
            f"The map shows no {', '.join(silent)}, of which the reference has some: it may have no class "
            "that the crosswalk brings there."
        )
    return CompareReport(
        request=request,
        source=source,
        reference=opened.about,
        crosswalk=crosswalk,
        agreement=found,
        geobox=fine,
        told=f"The reference on the map's grid: {opened.reference.told}.",
        nothing_ha=counts.nothing * cell_ha,
        ignored_ha=counts.ignored * cell_ha,
        conflict_ha=counts.conflicts * cell_ha,
        small_ha=0.0,
        warnings=tuple(warnings),
    )
