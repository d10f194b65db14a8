"""A map of classes that is there already: what it says of itself, its cells counted, its pixels by strips.

It is read at full resolution, never by its overviews, and never whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landuse.errors import ReadError, UsageError
from landuse.pipeline.cells import NODATA_ID
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

_STRIP_ROWS = 512
"""As high as a COG's tiles: each is read once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassMap:
    """A map of classes, counted."""

    path: Path
    """Its raster."""
    names: tuple[str, ...]
    """Class names by id."""
    cells: NDArray[np.int64]
    """(class,), cells of each."""
    shape: tuple[int, int]
    """(rows, cols)."""
    transform: Affine
    """From (col, row) to coordinates in ``crs``."""
    crs: CRS
    """Projected."""
    cell_ha: float
    """Area of a cell."""
    sha256: str
    """Digest of grid, class names and class ids: the same map has the same, however it is stored."""

    def coordinates(self, places: NDArray[np.floating]) -> NDArray[np.float64]:
        """(..., 2) row and col, fractions counted from a cell's upper left corner, to (..., 2) x and y."""
        return _apply(self.transform, places[..., ::-1])

    def places(self, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., 2) x and y to (..., 2) row and col: what ``coordinates`` undoes."""
        return _apply(~self.transform, coordinates)[..., ::-1]


def _apply(transform: Affine, pairs: NDArray[np.floating]) -> NDArray[np.float64]:
    first, second = pairs[..., 0], pairs[..., 1]
    return np.stack(
        [
            transform.a * first + transform.b * second + transform.c,
            transform.d * first + transform.e * second + transform.f,
        ],
        -1,
    )


def open_map(path: Path) -> ClassMap:
    """Read and count a map.

    Args:
        path: a map's folder, or the ``landuse.tif`` in it.

    Raises:
        UsageError: there is no such map, or it lacks what is needed.
        ReadError: its pixels cannot be read.
    """
    raster = path / "landuse.tif" if path.is_dir() else path
    if not raster.is_file():
        raise UsageError(
            f"{raster} does not exist. Give the folder that `landuse map` wrote, or its landuse.tif."
        )
    try:
        with rasterio.open(raster) as file:
            if file.count != 1 or file.dtypes[0] != "uint8" or file.nodata != NODATA_ID:
                raise UsageError(
                    f"{raster} has {file.count} bands of {file.dtypes[0]} with nodata {file.nodata}; a map "
                    f"has one of uint8 with nodata {NODATA_ID}. Give the landuse.tif of `landuse map`."
                )
            names = class_names(raster, file.tags().get("classes"))
            crs, transform, shape = file.crs, file.transform, file.shape
    except RasterioError as error:
        raise UsageError(f"{raster} cannot be read as a raster ({error}). Give a landuse.tif.") from error
    if crs is None or not crs.is_projected:
        raise UsageError(
            f"{raster} is in {crs}, where cells have no one area. Give a map in a projected CRS."
        )
    digest = hashlib.sha256(json.dumps([names, crs.to_string(), list(transform), shape]).encode())
    cells = np.zeros(NODATA_ID + 1, np.int64)
    for _, ids in strips(raster):
        digest.update(ids.tobytes())
        cells += np.bincount(ids.ravel(), minlength=len(cells))
    foreign = np.flatnonzero(cells[len(names) : NODATA_ID]) + len(names)
    if foreign.size or not cells[: len(names)].any():
        raise UsageError(
            f"{raster} holds class ids such as {foreign.tolist()[:5]} beyond its {len(names)} classes, or no "
            "class at all. Give the landuse.tif of `landuse map`, or make the map again."
        )
    return ClassMap(
        path=raster,
        names=names,
        cells=cells[: len(names)],
        shape=shape,
        transform=transform,
        crs=crs,
        cell_ha=abs(transform.determinant) * crs.linear_units_factor[1] ** 2 / 10_000,
        sha256=digest.hexdigest(),
    )


def class_names(raster: Path, tag: str | None) -> tuple[str, ...]:
    """Names by id from the raster's tag; what a terminal or XML cannot hold is replaced."""
    try:
        names = json.loads(tag or "null")
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"{raster} does not say in its tag `classes` what its class ids mean. Give a landuse.tif as "
            "`landuse map` writes it, or set the tag to a JSON list of names by id."
        )
    cleaned = tuple(printable(name).strip() for name in names)
    if not 2 <= len(set(cleaned)) == len(cleaned) <= NODATA_ID or "" in cleaned:
        raise UsageError(
            f"{raster} names its classes {cleaned}; 2 to {NODATA_ID} different names are needed."
        )
    return cleaned


def strips(raster: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """First row and class ids, (row, col), of all columns, from the top."""
    try:
        with rasterio.open(raster) as file:
            for row in range(0, file.height, _STRIP_ROWS):
                rows = min(_STRIP_ROWS, file.height - row)
                yield row, file.read(1, window=Window(0, row, file.width, rows))
    except RasterioError as error:
        raise ReadError(f"{raster} cannot be read ({error}). Is it whole? Make the map again.") from error
