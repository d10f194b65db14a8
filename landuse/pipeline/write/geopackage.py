"""IO: a map's vector layers: one GeoPackage, or a GeoParquet or FlatGeobuf file for each layer.

Layers grow frame by frame in a GeoPackage; the other formats are made of it, streamed as Arrow batches.
"""

from __future__ import annotations

import json
import math
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import shapely

from landuse.errors import UsageError
from landuse.pipeline.write.cog import unsynced_sqlite
from landuse.pipeline.write.folder import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from landuse.pipeline.write.qgis import LayerStyle

SUFFIXES = {"gpkg": ".gpkg", "parquet": ".parquet", "fgb": ".fgb"}
"""Of ``--vector-format``."""

GEOMETRY_COLUMN = "geom"
"""What GDAL calls it in a GeoPackage."""

_STYLES = "layer_styles"
"""The table in which QGIS looks for a layer's style."""


def check_vector_format(name: str) -> None:
    """See that there is such a format.

    Raises:
        UsageError: there is not.
    """
    if name not in SUFFIXES:
        raise UsageError(f"--vector-format {name!r} is unknown. Use {', '.join(SUFFIXES)}.")


@contextmanager
def geopackage_writer(
    target: Path, styles: Sequence[LayerStyle] = ()
) -> Iterator[Callable[[str, pd.DataFrame], None]]:
    """Write a GeoPackage frame by frame, atomically, and count its features again.

    Yields a function of a layer's name and a frame, with polygons, points or no geometries. The first frame
    of a layer, if an empty one, gives its columns. No more than one frame is in memory. An append costs some
    50 ms whatever its size.

    Args:
        target: the file.
        styles: how QGIS draws the layers when they are opened.

    Raises:
        OutputError: it cannot be written, or does not hold what was written.
    """
    with atomic_path(target) as partial, unsynced_sqlite():
        given: dict[str, int] = {}

        def put(layer: str, frame: pd.DataFrame) -> None:
            if frame.empty and layer in given:
                return
            kind = None
            if isinstance(frame, gpd.GeoDataFrame):
                kind = "Point" if set(frame.geom_type) == {"Point"} else "MultiPolygon"
            pyogrio.write_dataframe(
                frame,
                partial,
                layer=layer,
                driver="GPKG",
                geometry_type=kind,
                promote_to_multi=kind == "MultiPolygon" or None,
                append=layer in given,
                layer_options={"FID": "id"} if layer == _STYLES else None,  # as QGIS asks for it
            )
            given[layer] = given.get(layer, 0) + len(frame)

        yield put
        if styles:
            put(_STYLES, _style_table(styles))
        for layer, count in given.items():
            held = pyogrio.read_info(partial, layer=layer)["features"]
            if held != count:
                raise OSError(f"layer {layer} holds {held} of {count} features")


def _style_table(styles: Sequence[LayerStyle]) -> pd.DataFrame:
    """The table as QGIS itself makes it in a GeoPackage."""
    return pd.DataFrame(
        {
            "f_table_catalog": "",
            "f_table_schema": "",
            "f_table_name": [style.layer for style in styles],
            "f_geometry_column": GEOMETRY_COLUMN,
            "styleName": [style.layer for style in styles],
            "styleQML": [style.qml for style in styles],
            "styleSLD": "",
            "useAsDefault": True,
            "description": [style.description for style in styles],
            "owner": "",
            "ui": "",
            "update_time": pd.Timestamp(datetime.now(UTC)),
        }
    )


def convert_layers(geopackage: Path, suffix: str) -> tuple[str, ...]:
    """Write each layer of a GeoPackage beside it, in a file of its own named after the layer.

    Args:
        geopackage: as ``geopackage_writer`` made it.
        suffix: ``".parquet"`` or ``".fgb"``.

    Returns:
        The files' names.

    Raises:
        OutputError: a file cannot be written.
    """
    names = []
    for layer, _ in pyogrio.list_layers(geopackage):
        if layer == _STYLES:  # none of the formats knows them
            continue
        names.append(f"{layer}{suffix}")
        with (
            atomic_path(geopackage.with_name(names[-1])) as partial,
            pyogrio.open_arrow(geopackage, layer=layer, use_pyarrow=True) as (about, batches),
        ):
            write = _write_parquet if suffix == ".parquet" else _write_flatgeobuf
            write(partial, layer, about, batches)
    return tuple(names)


def _write_flatgeobuf(
    target: Path, layer: str, about: Mapping[str, object], batches: pa.RecordBatchReader
) -> None:
    if about["geometry_type"] is None:
        # A small table; as Arrow it would have to have a CRS.
        pyogrio.write_dataframe(
            batches.read_all().to_pandas(),
            target,
            layer=layer,
            driver="FlatGeobuf",
            layer_options={"SPATIAL_INDEX": "NO"},
        )
        return
    pyogrio.write_arrow(
        batches,
        target,
        layer=layer,
        driver="FlatGeobuf",
        geometry_name=_geometry_of(about),
        geometry_type=about["geometry_type"],
        crs=about["crs"],
    )


def _write_parquet(
    target: Path, layer: str, about: Mapping[str, object], batches: pa.RecordBatchReader
) -> None:
    """GeoParquet 1.1 with the bounds of each feature, so that readers skip what they do not need.

    Source: https://geoparquet.org/releases/v1.1.0/
    """
    import pyarrow as pa  # only this format needs it
    import pyarrow.parquet

    geometry = _geometry_of(about) if about["geometry_type"] is not None else None
    edges = ("xmin", "ymin", "xmax", "ymax")
    schema = batches.schema
    if geometry is not None:
        at = schema.get_field_index(geometry)
        bounds_type = pa.struct([(edge, pa.float64()) for edge in edges])
        schema = schema.set(at, pa.field("geometry", pa.binary())).append(pa.field("bbox", bounds_type))
    total = np.array([math.inf, math.inf, -math.inf, -math.inf])
    with closing(pyarrow.parquet.ParquetWriter(target, schema, compression="zstd")) as writer:
        for batch in batches:
            columns = list(batch.columns)
            if geometry is not None:
                columns[at] = columns[at].cast(pa.binary())
                bounds = shapely.bounds(shapely.from_wkb(columns[at].to_numpy(zero_copy_only=False)))
                columns.append(pa.StructArray.from_arrays(list(bounds.T), names=list(edges)))
                total[:2] = np.fmin(total[:2], bounds[:, :2].min(0))
                total[2:] = np.fmax(total[2:], bounds[:, 2:].max(0))
            writer.write_batch(pa.record_batch(columns, schema=schema))
        if geometry is not None:
            column = {
                "encoding": "WKB",
                "geometry_types": ["MultiPolygon"],
                "crs": pyproj.CRS.from_user_input(about["crs"]).to_json_dict(),
                "edges": "planar",
                "covering": {"bbox": {edge: ["bbox", edge] for edge in edges}},
            }
            if np.isfinite(total).all():
                column["bbox"] = total.tolist()
            geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
            writer.add_key_value_metadata({"geo": json.dumps(geo)})


def _geometry_of(about: Mapping[str, object]) -> str:
    """The geometry column of a layer that is read as Arrow; GDAL's default where its file names none."""
    return str(about["geometry_name"] or "wkb_geometry")
