"""IO: labelled points from a vector file, which anyone may have made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import shapely

from landuse.errors import UsageError
from landuse.pipeline.search.area_file import VectorUse, read_features
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import geopandas as gpd
    import pandas as pd

SAMPLES = "samples"
"""The layer of points that `landuse sample` writes."""

REFERENCE = "reference"
"""Its column for what is on the ground."""

MAP_COLUMN = "map_sha256"
"""Its column for the map that it was drawn from: in every row, so that it outlives a change of format."""

DESIGN = "design"
"""The column by which ``landuse suggest`` says of each point that it is no part of a probability sample."""

SUGGESTED = "suggested by "
"""What it holds begins so."""


def refuse_suggested(frame: gpd.GeoDataFrame, samples: Path) -> None:
    """Refuse points that were chosen and not drawn: what they tell of a map's accuracy and areas is biased.

    Args:
        frame: of ``read_points``.
        samples: their file.

    Raises:
        UsageError: some point says that it was suggested.
    """
    if DESIGN not in frame.columns:
        return
    chosen = sum(value.startswith(SUGGESTED) for value in texts(frame[DESIGN]))
    if chosen:
        raise UsageError(
            f"{chosen} of {len(frame)} points of {samples} were chosen by `landuse suggest`, not drawn: "
            "accuracy and areas of them would be biased. They are for learning. Draw a sample with `landuse "
            "sample`, and label that."
        )


def refuse_unlabelled(labels: Sequence[str], samples: Path, column: str, names: Sequence[str]) -> None:
    """Refuse points none of which anybody has labelled yet.

    Args:
        labels: of the points, empty where there is none.
        samples: their file.
        column: that labels are in.
        names: of the map's classes.

    Raises:
        UsageError: all are empty.
    """
    if not any(labels):
        raise UsageError(
            f"No point of {samples} is labelled yet: write what is on the ground at each of its "
            f"{len(labels)} points into the column {column}, by the name of a class of the map, such as "
            f"{names[0]}."
        )


def read_points(samples: Path, layer: str | None, column: str) -> gpd.GeoDataFrame:
    """The points of a file, each with its attributes.

    Args:
        samples: a GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile.
        layer: None where there is but one of points, or one called ``samples``.
        column: that has to be there.

    Raises:
        UsageError: it cannot be read, or lacks layer, column, CRS or points.
    """
    use = VectorUse(option="--samples", layer_option="--layer", kind="POINT", preferred=SAMPLES, columns=True)
    frame = read_features(samples, layer, use)
    if column not in frame.columns:
        found = ", ".join(printable(str(name)) for name in frame.columns)
        raise UsageError(f"--samples {samples} has no column {column!r}. Give one by --column: {found}.")
    if frame.crs is None:
        raise UsageError(f"--samples {samples} states no coordinate reference system. Save it with its CRS.")
    shapes = frame.geometry.to_numpy()
    kinds = shapely.get_type_id(shapes)  # 0 is a point, 4 several in one
    if not (((kinds == 0) | (kinds == 4)) & (shapely.get_num_coordinates(shapes) == 1)).all():
        raise UsageError(
            f"--samples {samples} holds features that are not one point each. Give points alone."
        )
    return frame


def texts(column: pd.Series[object]) -> list[str]:
    """Values of a column as trimmed text, empty where there is none."""
    return [
        "" if missing else str(value).strip() for value, missing in zip(column, column.isna(), strict=True)
    ]
