"""``landuse.map``: what people hold in Python, as the request of a map."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from datetime import UTC, date, datetime
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import numpy as np
import shapely

from landuse.errors import IncompleteError, UsageError
from landuse.legends.legend import load_legend
from landuse.model import MAP_MODEL
from landuse.model.foreign.contract import ForeignModel
from landuse.pipeline.blocks.smooth import SMOOTH_PX
from landuse.pipeline.cells import percent
from landuse.pipeline.maps.to_xarray import open_map
from landuse.pipeline.providers import Provider
from landuse.pipeline.search.area import Area, area_of_shapes, parse_bbox, parse_dates, read_aoi
from landuse.pipeline.search.source import held_items
from landuse.pipeline.write.vector_layers import VectorOptions
from landuse.workflows.mapping.map_area import (
    find_scenes,
    is_missing,
    load_classifier,
    map_area,
    plan_map,
    with_precision,
)
from landuse.workflows.mapping.request import MapRequest, requested_season
from landuse.workflows.mapping.zones.map_zones import map_any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import geopandas as gpd
    import pystac
    import xarray as xr
    from numpy.typing import NDArray

    from landuse.pipeline.search.area import DateRange
    from landuse.pipeline.search.source import Source
    from landuse.workflows.mapping.report import MapReport
    from landuse.workflows.mapping.zones.report import ZonesReport

    SourceLike: TypeAlias = (
        str
        | Path
        | Provider
        | pystac.Item
        | pystac.ItemCollection
        | Sequence[str | Path | Provider | pystac.Item]
    )
    AreaLike: TypeAlias = (
        Sequence[float]
        | NDArray[np.floating]
        | shapely.Geometry
        | gpd.GeoDataFrame
        | gpd.GeoSeries
        | str
        | Path
    )
    DateLike: TypeAlias = str | date | datetime | Sequence[str | date | datetime | None]

MAX_BYTES = 2 * 1024**3
"""A map that takes more memory than this has to go to a folder."""


@overload
def map(
    *,
    source: SourceLike = ...,
    area: AreaLike | None = ...,
    date: DateLike | None = ...,
    out: None = ...,
    model: str | Path | ForeignModel = ...,
    cell_m: float | None = ...,
    stride_px: int | None = ...,
    legend: str | Path | None = ...,
    bands: str = ...,
    max_cloud_percent: float = ...,
    season: str | None = ...,
    zones: Literal["one"] = ...,
    composite: str = ...,
    fuse: str = ...,
    smooth: float | str = ...,
    smooth_px: int = ...,
    probabilities: bool = ...,
    min_confidence: float = ...,
    min_valid_percent: float = ...,
    allow_failed: bool = ...,
    device: str = ...,
    precision: str = ...,
    allow_private_hosts: bool = ...,
) -> xr.Dataset: ...


@overload
def map(
    *,
    source: SourceLike = ...,
    area: AreaLike | None = ...,
    date: DateLike | None = ...,
    out: str | Path,
    model: str | Path | ForeignModel = ...,
    cell_m: float | None = ...,
    stride_px: int | None = ...,
    legend: str | Path | None = ...,
    bands: str = ...,
    max_cloud_percent: float = ...,
    season: str | None = ...,
    zones: Literal["one"] = ...,
    composite: str = ...,
    fuse: str = ...,
    smooth: float | str = ...,
    smooth_px: int = ...,
    probabilities: bool = ...,
    min_confidence: float = ...,
    min_valid_percent: float = ...,
    allow_failed: bool = ...,
    device: str = ...,
    precision: str = ...,
    title: str = ...,
    rasters_only: bool = ...,
    overwrite: bool = ...,
    allow_private_hosts: bool = ...,
) -> MapReport: ...


@overload
def map(
    *,
    source: SourceLike = ...,
    area: AreaLike | None = ...,
    date: DateLike | None = ...,
    out: str | Path,
    model: str | Path | ForeignModel = ...,
    cell_m: float | None = ...,
    stride_px: int | None = ...,
    legend: str | Path | None = ...,
    bands: str = ...,
    max_cloud_percent: float = ...,
    season: str | None = ...,
    zones: Literal["each"],
    composite: str = ...,
    fuse: str = ...,
    smooth: float | str = ...,
    smooth_px: int = ...,
    probabilities: bool = ...,
    min_confidence: float = ...,
    min_valid_percent: float = ...,
    allow_failed: bool = ...,
    device: str = ...,
    precision: str = ...,
    title: str = ...,
    rasters_only: bool = ...,
    overwrite: bool = ...,
    allow_private_hosts: bool = ...,
) -> ZonesReport: ...


def map(
    *,
    source: SourceLike = "planetary-computer",
    area: AreaLike | None = None,
    date: DateLike | None = None,
    out: str | Path | None = None,
    model: str | Path | ForeignModel = MAP_MODEL,
    cell_m: float | None = None,
    stride_px: int | None = None,
    legend: str | Path | None = None,
    bands: str = "all",
    max_cloud_percent: float = 40.0,
    season: str | None = None,
    zones: str = "one",
    composite: str = "best",
    fuse: str = "pixels",
    smooth: float | str = 0.0,
    smooth_px: int = SMOOTH_PX,
    probabilities: bool = False,
    min_confidence: float = 0.0,
    min_valid_percent: float = 10.0,
    allow_failed: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    title: str = "",
    rasters_only: bool = False,
    overwrite: bool = False,
    allow_private_hosts: bool = False,
) -> xr.Dataset | MapReport | ZonesReport:
    """Map an area as ``landuse map`` does.

    Args:
        source: name of a provider; URL of a STAC API or catalogue; path of a STAC item, ItemCollection,
            catalogue or stac-geoparquet file; a pystac ``Item``, ``ItemCollection`` or list of ``Item``; or a
            list of names, URLs and paths, of which the first that serves the area is mapped.
        area: where. ``(west, south, east, north)`` in degrees maps that box; a shapely polygon in degrees, a
            ``GeoDataFrame`` or ``GeoSeries`` in any CRS, or the path of a vector file cuts the map to its
            polygons. None maps all that a local source covers.
        date: when, in UTC. A string as ``--date`` takes it, such as ``"2024-06-01/2024-06-30"``; a ``date``
            or ``datetime`` for its whole day; or a pair of ends, each included, of which None leaves one
            open. In a pair a ``datetime`` is a moment. One without time zone is in UTC. None takes any date.
        out: folder for the files, or its fsspec URL. None keeps nothing on disk and returns the map in
            memory: 6 bytes a cell, or 11 with land cover and doubt, and 4 for each class with
            ``probabilities``.
        model: name of a shipped model; path of a checkpoint, or of an ONNX or TorchScript file with its
            contract beside it; or a network in Python, as ``landuse.ForeignModel``.
        cell_m: side of a cell in metres, of a model that classifies each pixel; None: 10.
        stride_px: side of a cell in pixels of 10 m, of a model that classifies patches; None: 16.
        legend: classes to tell the map in, whose probabilities are sums of the model's: ``"eurosat"``,
            ``"cover"``, ``"worldcover"``, ``"io-lulc"``, ``"ipcc"``, ``"corine-1"``, or the path of a file.
        bands: ``"all"``, ``"rgb"`` or ``"rgb-nir"``: which to read of those that the model can do without.
        max_cloud_percent: leave out scenes with more cloud over the area.
        season: ``"spring"``, ``"summer"``, ``"autumn"`` or ``"winter"`` where the area lies (south of the
            equator summer is December to February), or months such as ``"4-6"``; None: any.
        zones: ``"one"``: one map, in the UTM zone that holds most of the area; ``"each"``: a map for each
            zone of the area, joined in ``out``.
        composite: ``"best"``, ``"median"`` or ``"medoid"``: how several scenes become one image.
        fuse: ``"pixels"``: the composite is classified; ``"dates"``: each date is, and the probabilities of
            those that are clear at a pixel are averaged.
        smooth: how strongly class probabilities are smoothed by those around, of a model that classifies each
            pixel: 0.5, say, 0 not at all; a string names classes as well, as ``--smooth`` takes them.
        smooth_px: side of the window in which they are smoothed, in pixels: odd, 3 to 11.
        probabilities: also give every class's probability.
        min_confidence: leave cells unknown whose confidence, times what doubt leaves of it, is below this.
        min_valid_percent: raise ``IncompleteError`` where a smaller share of the cells got a class.
        allow_failed: do not raise ``IncompleteError`` where some of the map could not be read.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:INDEX"``.
        precision: arithmetic of a model of pixels: ``"fp32"``; ``"bf16"``, which processors that compute in
            it do about twice as fast, with some pixels otherwise; or ``"auto"``, which times both.
        title: what the map in ``out`` is called.
        rasters_only: write no polygons, page or preview to ``out``, which takes less time.
        overwrite: replace the map that is in ``out``.
        allow_private_hosts: let a source on the web lead to addresses of this machine and of private
            networks, also other than its own.

    Returns:
        With ``out`` the ``MapReport`` of the run, whose ``to_xarray()`` opens the map, or with
        ``zones="each"`` a ``ZonesReport``; without ``out`` the map as ``open_map`` describes it, in memory.

    Raises:
        UsageError: an argument is wrong; the message says how to mend it.
        IncompleteError: too few cells got a class, or some could not be read.
        LanduseError: nothing found, nothing readable, nothing writable.

    Example:
        >>> import landuse
        >>> ds = landuse.map(source="landuse-demo/catalog", date="2024-06")
        >>> report = landuse.map(source="landuse-demo/catalog", out="landuse-map", overwrite=True)
    """
    for name, given, kind in (
        ("model", model, str | Path | ForeignModel),
        ("out", out, str | Path | None),
        ("cell_m", cell_m, Real | None),
        ("stride_px", stride_px, int | None),
        ("legend", legend, str | Path | None),
        ("bands", bands, str),
        ("max_cloud_percent", max_cloud_percent, Real),
        ("min_confidence", min_confidence, Real),
        ("min_valid_percent", min_valid_percent, Real),
        ("season", season, str | None),
        ("zones", zones, str),
        ("composite", composite, str),
        ("fuse", fuse, str),
        ("smooth", smooth, Real | str),
        ("smooth_px", smooth_px, int),
        ("device", device, str),
        ("precision", precision, str),
        ("title", title, str),
        ("allow_failed", allow_failed, bool),
        ("probabilities", probabilities, bool),
        ("rasters_only", rasters_only, bool),
        ("overwrite", overwrite, bool),
        ("allow_private_hosts", allow_private_hosts, bool),
    ):
        if not isinstance(given, kind) or (isinstance(given, bool) and kind is not bool):
            raise UsageError(f"{name} {given!r:.60} is {type(given).__name__}. See help(landuse.map).")
    request = MapRequest(
        source=source_of(source),
        area=None if area is None else area_of(area),
        dates=None if date is None else dates_of(date),
        out=out,
        cell_m=cell_m,
        stride_px=stride_px,
        legend=None if legend is None else load_legend(str(legend), "legend"),
        bands=bands,
        max_cloud_percent=max_cloud_percent,
        season=requested_season(season),
        zones=zones,
        composite=composite,
        fuse=fuse,
        smooth=smooth,
        smooth_px=smooth_px,
        probabilities=probabilities,
        precision=precision,
        min_confidence=min_confidence,
        min_valid_percent=min_valid_percent,
        allow_failed=allow_failed,
        title=title,
        vectors=None if rasters_only or out is None else VectorOptions(),
        overwrite=overwrite,
        allow_private_hosts=allow_private_hosts,
    )
    classifier = with_precision(
        load_classifier(model if isinstance(model, ForeignModel) else str(model), device), precision
    )
    if out is not None:
        return map_any(request, classifier)
    if request.zones == "each":
        raise UsageError(
            'zones="each" makes several maps, each in a grid of its own, which are no one dataset. Give '
            "out=, a folder."
        )
    found = find_scenes(request, classifier.contract)
    plan = plan_map(request, classifier, found.scenes)
    size = (
        plan.rows
        * plan.cols
        * (6 + bool(plan.covers) + 4 * plan.tells_doubt + 4 * len(plan.classes) * probabilities)
    )
    if size > MAX_BYTES:
        raise UsageError(
            f"The map of {plan.rows} x {plan.cols} cells would take {size / 1024**3:.1f} GiB of memory. Give "
            "out=, a folder, and open it with landuse.open_map; or a smaller area or larger cells."
        )
    with tempfile.TemporaryDirectory(prefix="landuse-") as folder:
        held = replace(request, out=Path(folder) / "map", min_valid_percent=0.0, allow_failed=True)
        report = map_area(held, classifier, found=found)
        with open_map(Path(folder) / "map") as opened:
            dataset = opened.load()
    if report.cover.valid * 100 < min_valid_percent:
        mend = report.cover.unseen_told or "Widen date, raise max_cloud_percent"
        raise IncompleteError(
            report=report.to_dict(),
            message=f"Only {report.cover.valid:.1%} of {report.cover.cells} cells could be classified, below "
            f"min_valid_percent {min_valid_percent:g}, and nothing was kept. {mend}, or lower "
            "min_valid_percent to see it.",
        )
    if report.cover.failed and not allow_failed:
        lost = next(failure for failure in report.failures if is_missing(failure))
        raise IncompleteError(
            report=report.to_dict(),
            message=f"{percent(report.cover.failed)} of the map could not be read, and nothing was kept "
            f"({lost.reason.rstrip('.')}). Run again, or see it with allow_failed=True.",
        )
    return dataset


def source_of(value: SourceLike) -> Source | tuple[Source, ...]:
    """What ``source`` means.

    Raises:
        UsageError: it is none of what ``map`` takes.
    """
    if isinstance(value, str | Provider):
        return value
    if isinstance(value, Path):
        return (str(value),)  # in a tuple, where a comma parts nothing
    import pystac  # takes a while

    if isinstance(value, pystac.Item):
        return held_items([value])
    if isinstance(value, list | tuple | pystac.ItemCollection) and len(entries := list(value)):
        items = [entry for entry in entries if isinstance(entry, pystac.Item)]
        if len(items) == len(entries):
            return held_items(items)
        if not items and all(isinstance(entry, str | Path | Provider) for entry in entries):
            return tuple(str(entry) if isinstance(entry, Path) else entry for entry in entries)
    raise UsageError(
        f"source {value!r:.80} of {type(value).__name__} is no source. Give a provider's name, a URL, a "
        "path, a pystac Item, ItemCollection or list of Items, or a list of names, URLs and paths."
    )


def area_of(value: AreaLike) -> Area:
    """What ``area`` means.

    Raises:
        UsageError: it is none of what ``map`` takes, or no place on earth.
    """
    if isinstance(value, str | os.PathLike):
        return read_aoi(Path(value))
    if isinstance(value, np.ndarray) and value.shape == (4,):  # as of GeoDataFrame.total_bounds
        value = value.tolist()
    if isinstance(value, list | tuple) and all(
        isinstance(edge, Real) and not isinstance(edge, bool) for edge in value
    ):
        return parse_bbox(",".join(str(float(edge)) for edge in value))
    import geopandas  # takes half a second

    if isinstance(value, shapely.Geometry):
        return area_of_shapes(geopandas.GeoSeries([value], crs=4326), "area", "area")
    if isinstance(value, geopandas.GeoDataFrame | geopandas.GeoSeries):
        return area_of_shapes(value.geometry, "area", "area")
    raise UsageError(
        f"area {value!r:.80} of {type(value).__name__} is no area. Give (west, south, east, north) in "
        "degrees, a shapely polygon in degrees, a GeoDataFrame, or the path of a vector file."
    )


def dates_of(value: DateLike) -> DateRange:
    """What ``date`` means.

    Raises:
        UsageError: it is none of what ``map`` takes, or its ends are swapped.
    """
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        return parse_dates(moment.date().isoformat())
    if isinstance(value, str | date):
        return parse_dates(value if isinstance(value, str) else value.isoformat())
    if isinstance(value, list | tuple) and len(value) == 2:
        ends = [
            ".." if end is None else end if isinstance(end, str) else end.isoformat()
            for end in value
            if end is None or isinstance(end, str | date)
        ]
        if len(ends) == 2:
            return parse_dates("/".join(ends))
    raise UsageError(
        f"date {value!r:.80} of {type(value).__name__} is no date. Give a string such as "
        "2024-06-01/2024-06-30, a date or datetime, or a pair of them."
    )
