"""IO: the vector layers of several zones' maps in one file, in one CRS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import geopandas as gpd
import pandas as pd
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataSourceError

from landuse.errors import ReadError
from landuse.pipeline.write.geopackage import SUFFIXES, convert_layers, geopackage_writer
from landuse.pipeline.write.qgis import StyleEntry, categorized, outlined
from landuse.pipeline.write.vector_layers import GEOPACKAGE, summary_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from landuse.classes import LandUseClass
    from landuse.pipeline.cells import ClassArea
    from landuse.pipeline.write.vector_layers import VectorOptions

JOINED_LAYERS = ("landuse", "cells", "scenes", "summary", "zones")
"""What the layers are called; in other formats than GeoPackage each is a file of that name."""

_AT_ONCE = 50_000
"""Polygons in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneVectors:
    """The vector layers of one zone's map."""

    name: str
    """Of the zone, such as ``"32N"``."""
    folder: Path
    """Where its vector files lie, on this machine."""
    crs: str
    """Of its polygons."""


def write_joined_vectors(
    target: Path,
    zones: Sequence[ZoneVectors],
    outlines: gpd.GeoDataFrame,
    areas: Sequence[ClassArea],
    entries: Sequence[LandUseClass],
    options: VectorOptions,
    crs: str,
) -> tuple[str, ...]:
    """Write the layers of all zones into one GeoPackage, or a file for each layer; returns the files' names.

    Each polygon keeps the hectares that its own zone's grid gave it, and says which zone it is of. Polygons
    that meet at a zone's border stay two.

    Args:
        target: folder to write to.
        zones: the maps, in the order in which they come.
        outlines: the layer ``zones``, in longitude and latitude.
        areas: the layer ``summary``: of all zones together.
        entries: the classes, for the style.
        options: how the layers are written.
        crs: of the layers ``landuse`` and ``cells``.

    Raises:
        ReadError: the vector layers of a zone's map cannot be read.
        OutputError: a file cannot be written.
    """
    legend = [StyleEntry(value=entry.id, label=entry.title, color=entry.color) for entry in entries]
    styles = [
        categorized("landuse", "class_id", legend, "Land use"),
        outlined("scenes", "Scenes that the maps were made of"),
        outlined("zones", "What each zone's map holds"),
    ]
    if options.cells:
        styles.append(categorized("cells", "class_id", legend, "Cells"))
    with geopackage_writer(target / GEOPACKAGE, styles) as put:
        for layer in ("landuse", "cells", "scenes"):
            if layer == "cells" and not options.cells:
                continue
            for zone in zones:
                source = "EPSG:4326" if layer == "scenes" else zone.crs
                for frame in _features(zone, layer, options.format, source):
                    put(layer, frame if layer == "scenes" else _into(frame, zone.crs, crs))
        put("summary", summary_table(areas))
        put("zones", outlines)
    if options.format == "gpkg":
        return (GEOPACKAGE,)
    names = convert_layers(target / GEOPACKAGE, SUFFIXES[options.format])
    (target / GEOPACKAGE).unlink()
    return names


def _features(zone: ZoneVectors, layer: str, format_: str, crs: str) -> Iterator[gpd.GeoDataFrame]:
    """A layer's features, some at a time; the first frame may be empty."""
    path = zone.folder / (GEOPACKAGE if format_ == "gpkg" else f"{layer}{SUFFIXES[format_]}")
    try:
        if format_ == "parquet":
            import pyarrow.parquet  # only this format needs it

            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(_AT_ONCE):
                    table = batch.to_pandas().drop(columns="bbox")
                    yield _told(zone, table, table.pop("geometry"), crs)
            return
        with pyogrio.open_arrow(path, layer=layer, batch_size=_AT_ONCE, use_pyarrow=True) as (about, batches):
            column = str(about["geometry_name"] or "wkb_geometry")
            for batch in batches:
                table = batch.to_pandas().drop(columns="fid", errors="ignore")
                yield _told(zone, table, table.pop(column), crs)
    except (OSError, KeyError, ValueError, DataSourceError) as error:
        raise ReadError(
            f"The polygons of zone {zone.name} in {path} cannot be read ({error}). Map again with "
            "--overwrite."
        ) from error


def _told(zone: ZoneVectors, table: pd.DataFrame, wkb: pd.Series, crs: str) -> gpd.GeoDataFrame:
    table.insert(0, "zone", zone.name)
    return gpd.GeoDataFrame(table, geometry=shapely.from_wkb(wkb.to_numpy()), crs=crs)


def _into(frame: gpd.GeoDataFrame, source: str, target: str) -> gpd.GeoDataFrame:
    """The same in another CRS: corner by corner, so that neighbours keep their corners in common."""
    if source == target:
        return frame
    to_target = pyproj.Transformer.from_crs(source, target, always_xy=True).transform
    moved = shapely.transform(frame.geometry.to_numpy(), to_target, interleaved=False)
    return frame.set_geometry(gpd.GeoSeries(moved, index=frame.index, crs=target))
