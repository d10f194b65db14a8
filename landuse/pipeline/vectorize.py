"""Pure: a class raster to polygons with class, mean confidence and area."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from rasterio.features import rasterize, shapes
from shapely.geometry import shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox


def polygonize(
    classes: NDArray[np.uint8],
    confidence: NDArray[np.float32],
    geobox: GeoBox,
    *,
    names: Sequence[str],
    nodata: int,
) -> gpd.GeoDataFrame:
    """Polygons of 4-connected cells of one class.

    Args:
        classes: (row, col) class ids.
        confidence: (row, col) confidence of each class, 0..1.
        geobox: the grid of both.
        names: class names by id.
        nodata: id of cells that belong to no polygon.

    Returns:
        One row a polygon, in the grid's CRS: ``class_id``, ``class_name``, ``confidence`` (mean of
        its cells), ``area_m2`` (its cells' area) and a valid ``geometry``.
    """
    found = [
        (shape(geometry), int(value))
        for geometry, value in shapes(
            classes, mask=classes != nodata, connectivity=4, transform=geobox.affine
        )
    ]
    geometries = [_valid_polygon(polygon) for polygon, _ in found]
    ids = np.array([value for _, value in found], np.int64)
    # Polygon edges are cell edges, so burning the polygons back by cell centre is exact.
    labels = np.zeros(classes.shape, np.int32)
    if geometries:
        rasterize(
            ((geometry, n + 1) for n, geometry in enumerate(geometries)), out=labels, transform=geobox.affine
        )
    cells = np.bincount(labels.ravel(), minlength=len(found) + 1)[1:]
    inside = labels > 0
    sums = np.bincount(labels[inside], weights=confidence[inside], minlength=len(found) + 1)[1:]
    cell_m2 = abs(geobox.affine.determinant)
    return gpd.GeoDataFrame(
        {
            "class_id": ids,
            "class_name": [names[i] for i in ids],
            "confidence": sums / np.maximum(cells, 1),
            "area_m2": cells * cell_m2,
        },
        geometry=geometries,
        crs=str(geobox.crs),
    )


def _valid_polygon(polygon: shapely.Geometry) -> shapely.Geometry:
    """The same cells as a valid geometry: GDAL's rings may touch themselves at a corner."""
    return polygon if polygon.is_valid else shapely.make_valid(polygon, method="structure")
