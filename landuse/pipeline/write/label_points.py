"""IO: points to be labelled in QGIS, as ``landuse sample`` and ``landuse suggest`` write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from landuse.pipeline.maps.points import MAP_COLUMN, REFERENCE, SAMPLES
from landuse.pipeline.write.folder import prepare_folder
from landuse.pipeline.write.geopackage import geopackage_writer
from landuse.pipeline.write.qgis import label_form, outlined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from landuse.classes import LandUseClass
    from landuse.pipeline.maps.open import ClassMap


def write_label_points(
    out: Path,
    source: ClassMap,
    cells: NDArray[np.int64],
    legend: Sequence[LandUseClass],
    shown: Mapping[str, object] | None = None,
) -> None:
    """Write points in the middle of cells, with a form that offers the classes, and the cells themselves.

    Args:
        out: the GeoPackage; what is there is replaced.
        source: the map whose cells they are.
        cells: (point, 2), row and col, in the order in which they are to be labelled.
        legend: the classes to choose from.
        shown: further columns, which the form shows and does not let edit.

    Raises:
        OutputError: it cannot be written.
    """
    prepare_folder(out.parent)
    shown = shown or {}
    fixed, hidden = ("sample_id", "row", "col", *shown), ("fid", MAP_COLUMN)
    styles = (
        label_form(SAMPLES, column=REFERENCE, note="note", fixed=fixed, hidden=hidden, legend=legend),
        outlined("cells", "what a point's label is about"),
    )
    ids = np.arange(1, len(cells) + 1)
    text = pd.array([None] * len(cells), dtype="string")
    columns = {"sample_id": ids, "row": cells[:, 0], "col": cells[:, 1], REFERENCE: text, "note": text}
    with geopackage_writer(out, styles) as put:
        at = source.coordinates(cells + 0.5)
        put(
            SAMPLES,
            gpd.GeoDataFrame(
                {**columns, **shown, MAP_COLUMN: source.sha256},
                geometry=shapely.points(at),
                crs=source.crs.to_wkt(),
            ),
        )
        corners = np.array([(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)])
        rings = source.coordinates(cells[:, None] + corners)  # (point, corner, 2)
        squares = shapely.polygons(rings)
        put("cells", gpd.GeoDataFrame({"sample_id": ids}, geometry=squares, crs=source.crs.to_wkt()))
