"""IO: the shapes in a vector file that a user names, as with ``--aoi``. Whoever made the file may mean ill.

GDAL opens a file by what is in it, whatever it is called: some of its drivers ask servers, read other files
or run SQL. So the file's first bytes decide here, and GDAL is given only what two drivers read that do none
of this. Of a GeoPackage tables alone are read, for a limited time: a view is a program.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import shapely

from landuse.errors import UsageError
from landuse.pipeline.stac_json import Json, mapping, sequence, text
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import geopandas as gpd
    import pyproj

MAX_BYTES = 512 * 1024**2
"""A larger file is no area."""

LIMIT_S = 30.0
"""How long a GeoPackage may take to be read."""

STEPS = 10_000
"""Of SQLite's machine, from one look at the clock to the next."""

FORMATS = "GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile"

_MEND = f"Give {FORMATS}; `ogr2ogr aoi.gpkg FILE` makes one of most others."
_CRS_NAME = re.compile(r"[A-Za-z0-9:._-]{1,80}", re.ASCII)


def read_shapes(path: Path, layer: str | None) -> gpd.GeoSeries:
    """The geometries in a vector file, with their CRS where the file states it.

    Args:
        path: the file.
        layer: which layer of a GeoPackage; None: the only one of polygons.

    Raises:
        UsageError: it is missing, of another format, damaged, or has no such layer.
    """
    return read_features(path, layer, option="--aoi", column=None).geometry


def read_features(path: Path, layer: str | None, *, option: str, column: str | None) -> gpd.GeoDataFrame:
    """The geometries in a vector file, and what one column says of each.

    Args:
        path: the file.
        layer: which layer of a GeoPackage; None: the only one of polygons or, with a column, the only one.
        option: what named the file, for messages.
        column: which column to read; None: none.

    Raises:
        UsageError: it is missing, of another format, damaged, or has no such layer or column.
    """
    # geopandas takes half a second to import; a run with --bbox never needs it.
    import geopandas
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
    from pyproj.exceptions import CRSError

    if not path.exists():
        raise UsageError(f"{option} {path} does not exist.")
    if not path.is_file():
        raise UsageError(f"{option} {path} is no file. {_MEND}")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UsageError(
                f"{option} {path} has {size} bytes, more than {MAX_BYTES}. Give what is needed alone."
            )
        with path.open("rb") as file:
            begins = file.read(16)
        if begins.startswith(b"SQLite format 3\0"):
            return _geopackage(path, layer, option, column)
        if layer is not None:
            raise UsageError(
                f"{option}-layer {layer!r} is for a GeoPackage, and {option} {path} is none. Leave it out."
            )
        whole = path.absolute()  # a name such as "WFS:x" means something else to GDAL
        wanted = [] if column is None else [column]
        if begins.startswith(b"fgb\3"):
            return _with_column(geopandas.read_file(whole, columns=wanted), path, option, column)
        if begins.startswith(b"\0\0\x27\x0a") and path.suffix.lower() == ".shp":
            return _with_column(geopandas.read_file(whole, columns=wanted), path, option, column)
        if begins.startswith(b"PAR1"):
            return _with_column(geopandas.read_parquet(whole), path, option, column)
        if begins.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return _geojson(path, option, column)
    except (
        *(DataSourceError, DataLayerError, FeatureError, CRSError, shapely.errors.ShapelyError),
        *(sqlite3.Error, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError),
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{option} {path} cannot be read as a vector file ({reason}). {_MEND}") from error
    raise UsageError(f"{option} {path} cannot be read as a vector file (its format is not known). {_MEND}")


def _with_column(frame: gpd.GeoDataFrame, path: Path, option: str, column: str | None) -> gpd.GeoDataFrame:
    """The geometries and that column."""
    if column is None:
        return frame[[frame.geometry.name]]
    names = [str(name) for name in frame.columns if name != frame.geometry.name]
    if column not in names:
        raise _no_column(path, option, column, names)
    return frame[[column, frame.geometry.name]]


def _no_column(path: Path, option: str, column: str, names: Sequence[str]) -> UsageError:
    found = f" It has: {', '.join(printable(name) for name in names[:20])}." if names else ""
    return UsageError(f"{option} {path} has no column {column!r}.{found} Name one that it has.")


def _frame(
    shapes: Sequence[object], values: Sequence[object], column: str | None, crs: pyproj.CRS | None
) -> gpd.GeoDataFrame:
    import geopandas
    import numpy as np

    held = np.empty(len(values), object)
    held[:] = values
    columns = {} if column is None else {column: held}
    return geopandas.GeoDataFrame(columns, geometry=geopandas.GeoSeries(shapes), crs=crs)


def _geojson(path: Path, option: str, column: str | None) -> gpd.GeoDataFrame:
    """RFC 7946, and the CRS by name of the GeoJSON before it."""
    import pyproj

    document: Json = mapping(json.loads(path.read_text(encoding="utf-8-sig")))
    kind = document.get("type")
    features: list[Json] = (
        [mapping(feature) for feature in sequence(document.get("features"))]
        if kind == "FeatureCollection"
        else [document]
        if kind == "Feature"
        else [{"geometry": document}]
    )
    found = [feature.get("geometry") for feature in features]
    told = [mapping(feature.get("properties") or {}) for feature in features]
    if column is not None and not any(column in entry for entry in told):
        raise _no_column(path, option, column, list(dict.fromkeys(name for entry in told for name in entry)))
    shapes = shapely.from_geojson([None if shape is None else json.dumps(shape) for shape in found])
    crs: pyproj.CRS | None = pyproj.CRS("OGC:CRS84")
    if "crs" in document:
        name = text(mapping(mapping(document["crs"]).get("properties")).get("name"))
        # Longer forms may name files, and PROJ would read them.
        crs = pyproj.CRS.from_user_input(name) if _CRS_NAME.fullmatch(name) else None
    return _frame(shapes, [None if column is None else entry.get(column) for entry in told], column, crs)


def _geopackage(path: Path, layer: str | None, option: str, column: str | None) -> gpd.GeoDataFrame:
    """The geometries of one table (OGC 12-128r19), and that column of it."""
    ends = time.monotonic() + LIMIT_S
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as database:
        database.set_progress_handler(lambda: time.monotonic() > ends, STEPS)
        database.execute("PRAGMA trusted_schema = OFF")
        tables = {
            str(name)
            for name, code in database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
            if not re.match(r"\s*CREATE\s+VIRTUAL\b", str(code), re.IGNORECASE)
        }
        if not {"gpkg_geometry_columns", "gpkg_spatial_ref_sys"} <= tables:
            raise ValueError("it is a database without the tables of a GeoPackage")
        known = database.execute(
            "SELECT table_name, column_name, geometry_type_name, srs_id FROM gpkg_geometry_columns"
        ).fetchall()
        table, shape, _, number = _chosen(
            [entry for entry in known if entry[0] in tables],
            path,
            layer,
            option,
            any_kind=column is not None,
        )
        if column is not None:
            names = [str(row[1]) for row in database.execute(f"PRAGMA table_info({_quoted(table)})")]
            if column not in names or column == shape:
                raise _no_column(path, option, column, [name for name in names if name != shape])
        wanted = _quoted(shape) + ("" if column is None else f", {_quoted(column)}")
        rows = database.execute(f"SELECT {wanted} FROM {_quoted(table)}").fetchall()
        shapes = [None if row[0] is None else shapely.from_wkb(_wkb(row[0])) for row in rows]
        stated = database.execute(
            "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys "
            "WHERE srs_id = ?",
            (number,),
        ).fetchone()
    return _frame(shapes, [row[-1] for row in rows], column, None if stated is None else _crs(*stated))


def _chosen(
    known: list[tuple[str, str, str, int]], path: Path, layer: str | None, option: str, *, any_kind: bool
) -> tuple[str, str, str, int]:
    kinds = {str(name): str(kind) for name, _, kind, _ in known}
    fit = [
        entry
        for entry in known
        if (
            entry[0] == layer
            if layer is not None
            else any_kind or re.search("POLYGON|GEOMETRY", str(entry[2]).upper())
        )
    ]
    if len(fit) == 1:
        return fit[0]
    found = ", ".join(f"{name}: {kind.title()}" for name, kind in kinds.items()) or "none"
    if layer is not None:
        raise UsageError(f"{option} {path} has no table {layer!r} of geometries. It has: {found}.")
    kind = "layers of geometries" if any_kind else "layers of polygons"
    raise UsageError(
        f"{option} {path} has {len(fit)} {kind} (tables: "
        f"{found}; views are not read). Name one with {option}-layer."
    )


def _wkb(blob: bytes) -> bytes:
    """The WKB behind a GeoPackage's header, whose fourth byte tells how long the header is (2.1.3)."""
    envelope = (blob[3] >> 1) & 7
    if blob[:2] != b"GP" or envelope > 4:
        raise ValueError("a geometry in it is damaged")
    return blob[8 + (0, 32, 48, 48, 64)[envelope] :]


def _crs(organization: str, code: int, definition: str) -> pyproj.CRS | None:
    import pyproj

    if str(organization).upper() == "EPSG":
        return pyproj.CRS.from_epsg(code)
    return None if definition == "undefined" else pyproj.CRS.from_wkt(definition)


def _quoted(name: str) -> str:
    return '"' + str(name).replace('"', '""') + '"'
