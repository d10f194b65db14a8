"""IO: the features in a user's vector file, such as that of ``--aoi``. Whoever made the file may mean ill.

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
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import shapely

from landuse.errors import UsageError
from landuse.pipeline.stac_json import Json, mapping, sequence, text

if TYPE_CHECKING:
    from pathlib import Path

    import geopandas as gpd
    import pyproj

MAX_BYTES = 512 * 1024**2
"""A larger file is no area."""

LIMIT_S = 30.0
"""How long a GeoPackage may take to be read."""

MAX_COLUMNS = 500
"""Attributes of a layer; more are no table of labels."""

STEPS = 10_000
"""Of SQLite's machine, from one look at the clock to the next."""

FORMATS = "GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile"

_MEND = f"Give {FORMATS}; `ogr2ogr new.gpkg FILE` makes one of most others."
_CRS_NAME = re.compile(r"[A-Za-z0-9:._-]{1,80}", re.ASCII)


def read_shapes(path: Path, layer: str | None) -> gpd.GeoSeries:
    """The geometries in a vector file, with their CRS where the file states it.

    Args:
        path: the file.
        layer: which layer of a GeoPackage; None: the only one of polygons.

    Raises:
        UsageError: it is missing, of another format, damaged, or has no such layer.
    """
    return read_features(path, layer, VectorUse()).geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorUse:
    """What a vector file is wanted for: how messages call it, and which layer is meant of several."""

    option: str = "--aoi"
    """The option that names it."""
    layer_option: str = "--aoi-layer"
    """The option that names its layer."""
    kind: str = "POLYGON"
    """What the layer's geometries are, empty: anything; one that may hold any is taken, too."""
    preferred: str | None = None
    """The layer to take of several, where there is one of that name."""
    columns: bool = False
    """Whether its attributes are read."""
    instead: str = ""
    """What to do with other geometries, a sentence."""


def read_features(path: Path, layer: str | None, use: VectorUse) -> gpd.GeoDataFrame:
    """The features of a vector file, with their CRS where the file states it.

    Args:
        path: the file.
        layer: which layer of a GeoPackage; None: the only one that suits.
        use: what it is wanted for.

    Returns:
        A frame with a ``geometry``, and the file's columns where they are wanted.

    Raises:
        UsageError: it is missing, of another format, damaged, or has no such layer.

    Example:
        >>> points = VectorUse(option="--samples", layer_option="--layer", kind="POINT", columns=True)
        >>> read_features(Path("points.gpkg"), None, points)  # doctest: +SKIP
    """
    # geopandas takes half a second to import; a run with --bbox never needs it.
    import geopandas
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
    from pyproj.exceptions import CRSError

    what = f"{use.option} {path}"
    if not path.exists():
        raise UsageError(f"{what} does not exist.")
    if not path.is_file():
        raise UsageError(f"{what} is no file. {_MEND}")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UsageError(f"{what} has {size} bytes, more than {MAX_BYTES}. Give what is needed alone.")
        with path.open("rb") as file:
            begins = file.read(16)
        if begins.startswith(b"SQLite format 3\0"):
            return _geopackage(path, layer, use)
        if layer is not None:
            raise UsageError(
                f"{use.layer_option} {layer!r} is for a GeoPackage, and {what} is none. Leave it out."
            )
        whole = path.absolute()  # a name such as "WFS:x" means something else to GDAL
        columns: list[str] | None = None if use.columns else []
        if begins.startswith(b"fgb\3"):
            return geopandas.read_file(whole, columns=columns)
        if begins.startswith(b"\0\0\x27\x0a") and path.suffix.lower() == ".shp":
            return geopandas.read_file(whole, columns=columns)
        if begins.startswith(b"PAR1"):
            return geopandas.read_parquet(whole)
        if begins.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return _geojson(path, use)
    except (
        *(DataSourceError, DataLayerError, FeatureError, CRSError, shapely.errors.ShapelyError),
        *(sqlite3.Error, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError),
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{what} cannot be read as a vector file ({reason}). {_MEND}") from error
    raise UsageError(f"{what} cannot be read as a vector file (its format is not known). {_MEND}")


def _geojson(path: Path, use: VectorUse) -> gpd.GeoDataFrame:
    """RFC 7946, and the CRS by name of the GeoJSON before it."""
    import geopandas
    import pandas
    import pyproj

    document: Json = mapping(json.loads(path.read_text(encoding="utf-8-sig")))
    kind = document.get("type")
    features: list[Json] = []
    if kind == "FeatureCollection":
        features = [mapping(feature) for feature in sequence(document.get("features"))]
        found = [feature.get("geometry") for feature in features]
    else:
        features = [document] if kind == "Feature" else [{}]
        found = [document.get("geometry") if kind == "Feature" else document]
    shapes = shapely.from_geojson([None if shape is None else json.dumps(shape) for shape in found])
    crs: pyproj.CRS | None = pyproj.CRS("OGC:CRS84")
    if "crs" in document:
        name = text(mapping(mapping(document["crs"]).get("properties")).get("name"))
        # Longer forms may name files, and PROJ would read them.
        crs = pyproj.CRS.from_user_input(name) if _CRS_NAME.fullmatch(name) else None
    rows = [mapping(feature.get("properties")) if use.columns else {} for feature in features]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "geometry"))
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"its features have more than {MAX_COLUMNS} properties")
    table = pandas.DataFrame({name: [_plain(row.get(name)) for row in rows] for name in names})
    return geopandas.GeoDataFrame(table, geometry=geopandas.GeoSeries(shapes, crs=crs), crs=crs)


def _plain(value: object) -> object:
    """A value that stands for itself in a table; none for what does not."""
    return value if isinstance(value, str | int | float) else None


def _geopackage(path: Path, layer: str | None, use: VectorUse) -> gpd.GeoDataFrame:
    """The rows of one table (OGC 12-128r19)."""
    import geopandas
    import pandas

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
        suitable = [entry for entry in known if entry[0] in tables]
        table, column, _, number = _chosen(suitable, path, layer, use)
        names = [
            str(row[1])
            for row in database.execute(f"PRAGMA table_info({_quoted(table)})")
            if use.columns and row[1] not in (column, "geometry", "fid")
        ][:MAX_COLUMNS]
        wanted = ", ".join(map(_quoted, (column, *names)))
        rows = database.execute(f"SELECT {wanted} FROM {_quoted(table)}").fetchall()
        shapes = [None if row[0] is None else shapely.from_wkb(_wkb(row[0])) for row in rows]
        stated = database.execute(
            "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys "
            "WHERE srs_id = ?",
            (number,),
        ).fetchone()
    crs = None if stated is None else _crs(*stated)
    values = {name: [_plain(row[place]) for row in rows] for place, name in enumerate(names, 1)}
    return geopandas.GeoDataFrame(
        pandas.DataFrame(values), geometry=geopandas.GeoSeries(shapes, crs=crs), crs=crs
    )


def _chosen(
    known: list[tuple[str, str, str, int]], path: Path, layer: str | None, use: VectorUse
) -> tuple[str, str, str, int]:
    kinds = {str(name): str(kind) for name, _, kind, _ in known}
    if layer is None and use.preferred in kinds and len(kinds) > 1:
        layer = use.preferred
    fit = [
        entry
        for entry in known
        if (
            entry[0] == layer
            if layer is not None
            else re.search(f"{use.kind}|GEOMETRY", str(entry[2]).upper())
        )
    ]
    if len(fit) == 1:
        return fit[0]
    found = ", ".join(f"{name}: {kind.title()}" for name, kind in kinds.items()) or "none"
    if layer is not None:
        raise UsageError(f"{use.option} {path} has no table {layer!r} of geometries. It has: {found}.")
    wanted = f"{use.kind.lower()}s" if use.kind else "geometries"
    mend = f"Name one with {use.layer_option}." if fit else f"Give a file with one. {use.instead}".rstrip()
    raise UsageError(
        f"{use.option} {path} has {len(fit)} layers of {wanted} (tables: {found}; views are not read). {mend}"
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
