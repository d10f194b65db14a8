"""IO: other people's maps, brought to a map's grid window by window. Whoever made them may mean ill.

A raster is opened as GeoTIFF and nothing else; its pixels are taken by nearest neighbour. Polygons have the
cells whose centres lie in them.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from xml.etree import ElementTree

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio._err import CPLE_BaseError  # GDAL's own errors; rasterio wraps only some of them
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from landuse.errors import ReadError, UsageError
from landuse.pipeline.cells import NODATA_ID
from landuse.pipeline.maps.open import class_names
from landuse.pipeline.read.read_scene import GDAL_OPTIONS
from landuse.pipeline.search.area_file import VectorUse, read_features
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import geopandas as gpd
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

MOST_FINER = 32
"""Most times that a cell is cut along each side to go with finer pixels."""

POLYGON_STEP_M = 10.0
"""Polygons are laid over cells of about this size: that of the imagery."""

CONFLICT_ID = NODATA_ID - 1
"""Id of cells that lie in polygons of different classes."""

IGNORED_ID = NODATA_ID - 2
"""Id of cells whose value means no class."""

MAX_CODES = 4096
"""Different values of a raster of classes; more are measurements."""

_MAX_SIDECAR_BYTES = 1_000_000


@dataclass(slots=True, kw_only=True)
class Codes:
    """What a reference's values mean, by the ids of the classes that it is compared in."""

    meaning: Callable[[str], int | None]
    """Id of a value's text, ``IGNORED_ID`` for what means no class; None where it is not known."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Values without a meaning that were met, and in how many cells."""
    _known: dict[int, int] = field(default_factory=dict)

    def ids(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Ids of whole numbers, of their shape; ``NODATA_ID`` for unknown ones, which are counted."""
        found, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ids = np.full(len(found), NODATA_ID, np.uint8)
        for place, (value, count) in enumerate(zip(found.tolist(), counts.tolist(), strict=True)):
            known = self.id_of(str(value))
            if known is None:
                self.unknown[str(value)] += count
                if len(self.unknown) > MAX_CODES:
                    break
            else:
                ids[place] = known
        return ids[inverse].reshape(values.shape)

    def id_of(self, text: str) -> int | None:
        """The id of a text."""
        return self.meaning(text)


class Reference(Protocol):
    """A map that another is compared with."""

    step: int
    """By how many times the cells are cut along each side to go with its pixels."""
    told: str
    """How it is brought to the grid, in words."""

    def ids(self, geobox: GeoBox, rows: tuple[int, int]) -> NDArray[np.uint8]:
        """Ids of its classes in some rows of a grid, (row, col); ``NODATA_ID`` where it has none."""
        ...


def pixel_m(file: DatasetReader, crs: str, centre: tuple[float, float]) -> float:
    """Side of a raster's pixels in metres of a projected CRS, about a place in it; infinite if that is off.

    Args:
        file: open.
        crs: of the place.
        centre: x and y.
    """
    (x,), (y,) = transform_points(crs, file.crs, [centre[0]], [centre[1]])
    if not (math.isfinite(x) and math.isfinite(y)):
        return math.inf
    size = file.transform
    xs, ys = transform_points(file.crs, crs, [x, x + abs(size.a), x], [y, y, y + abs(size.e)])
    if not all(map(math.isfinite, (*xs, *ys))):
        return math.inf
    return math.sqrt(math.hypot(xs[1] - xs[0], ys[1] - ys[0]) * math.hypot(xs[2] - xs[0], ys[2] - ys[0]))


class RasterReference:
    """A map of classes as one raster, or as tiles of which the first that has data counts."""

    def __init__(
        self,
        files: Sequence[DatasetReader],
        codes: Codes,
        grid: GeoBox,
        *,
        names: Sequence[str],
        fetch: Callable[[int, tuple[float, float, float, float]], None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            files: open, checked by ``check_raster``.
            codes: what their values mean.
            grid: of the map.
            names: what messages call the files.
            fetch: brings what a file needs for bounds in its CRS.
            check: raises what GDAL was not told of.
        """
        box = grid.boundingbox
        sizes = [
            pixel_m(f, str(grid.crs), ((box.left + box.right) / 2, (box.top + box.bottom) / 2)) for f in files
        ]
        self.pixel_m = min(sizes)
        cell_m = abs(grid.affine.a)
        ratio = cell_m / self.pixel_m if math.isfinite(self.pixel_m) and self.pixel_m > 0 else 1.0
        self.step = int(np.clip(round(ratio), 1, MOST_FINER))
        finer = f"its pixels of about {self.pixel_m:.3g} m are finer than the map's cells of {cell_m:g} m"
        coarser = f"its pixels of about {self.pixel_m:.3g} m are brought to the map's cells of {cell_m:g} m"
        self.told = (
            f"{finer}, which are cut into {self.step} x {self.step} parts; each takes the nearest pixel"
            if self.step > 1
            else f"{coarser} by nearest neighbour"
        )
        self._files, self._codes, self._names = files, codes, names
        self._fetch, self._check = fetch, check

    def ids(self, geobox: GeoBox, rows: tuple[int, int]) -> NDArray[np.uint8]:
        """Ids of its classes in some rows of a grid, (row, col).

        Raises:
            ReadError: it cannot be read.
            UsageError: it holds values that have no meaning.
        """
        ids = np.full((rows[1] - rows[0], geobox.shape[1]), NODATA_ID, np.uint8)
        affine = geobox.affine @ Affine.translation(0, rows[0])
        height, width = ids.shape
        x0, y0 = affine.c, affine.f
        bounds = (x0, y0 + height * affine.e, x0 + width * affine.a, y0)
        for place, file in enumerate(self._files):
            empty = ids == NODATA_ID
            if not empty.any():
                break
            try:
                own = transform_bounds(str(geobox.crs), file.crs, *bounds)
                if not _overlap(own, file.bounds):
                    continue
                if self._fetch is not None:
                    self._fetch(place, own)
                values, there = _nearest(file, affine, str(geobox.crs), (height, width))
            except (RasterioError, CPLE_BaseError, OSError) as error:
                if self._check is not None:
                    self._check()
                raise ReadError(
                    f"{self._names[place]} cannot be read ({error.__cause__ or error}). Is it whole?"
                ) from error
            if self._check is not None:
                self._check()
            there &= empty
            ids[there] = self._codes.ids(values[there])
        return ids


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _nearest(
    file: DatasetReader, affine: Affine, crs: str, shape: tuple[int, int]
) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
    """Values of the pixels nearest to the centres of a grid's cells, and where there is one, (row, col)."""
    stated = file.nodata
    limits = np.iinfo(file.dtypes[0])
    has_nodata = stated is not None and limits.min <= stated <= limits.max
    with WarpedVRT(
        file,
        crs=crs,
        transform=affine,
        height=shape[0],
        width=shape[1],
        resampling=Resampling.nearest,
        tolerance=0.01,  # of a pixel; an eighth of one is usual
        add_alpha=not has_nodata,
        **({} if has_nodata else {"src_nodata": None}),
    ) as warped:
        values = warped.read(1)
        there = values != stated if has_nodata else warped.read(2) > 0
    return values, there


def check_raster(file: DatasetReader, name: str) -> None:
    """See that a raster may be a map of classes on a grid of its own.

    Raises:
        UsageError: it is not; one message says why.
    """
    if file.crs is None:
        raise UsageError(
            f"{name} states no coordinate reference system. Save it with one (gdal_edit -a_srs EPSG:32633)."
        )
    grid = file.transform
    if grid.is_identity or not all(map(math.isfinite, grid)) or grid.is_degenerate:
        raise UsageError(f"{name} is not georeferenced. Save it with its place (gdal_edit -a_ullr).")
    if grid.b or grid.d:
        raise UsageError(f"{name} is rotated. Warp it first: gdalwarp -r near makes it north-up.")
    if file.count != 1:
        raise UsageError(f"{name} has {file.count} bands. Give one of classes: gdal_translate -b 1.")
    if np.dtype(file.dtypes[0]).kind not in "iu":
        raise UsageError(
            f"{name} holds {file.dtypes[0]}, which are measurements and no classes. Give a raster of whole "
            "numbers."
        )


@contextmanager
def opened_raster(path: Path, shown: str) -> Iterator[DatasetReader]:
    """A raster of this machine, as GeoTIFF and nothing else.

    Raises:
        UsageError: it is none.
    """
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
        try:
            file = stack.enter_context(rasterio.open(path.absolute(), driver="GTiff"))
        except (RasterioError, CPLE_BaseError, OSError) as error:
            raise UsageError(
                f"{shown} cannot be read as a GeoTIFF ({error}). `gdal_translate IN OUT.tif` makes one of "
                "most other rasters."
            ) from error
        check_raster(file, shown)
        yield file


def value_names(path: Path, file: DatasetReader) -> tuple[dict[str, str], bool]:
    """What a raster says that its values are called, by value; and whether a map of ours says it.

    Raises:
        UsageError: its tag holds no names.
    """
    tag = file.tags().get("classes")
    if tag is not None:
        return {str(i): name for i, name in enumerate(class_names(path, tag))}, True
    return _category_names(path), False


def _category_names(path: Path) -> dict[str, str]:
    """Names in GDAL's sidecar; none where it holds no such thing."""
    beside = path.with_name(f"{path.name}.aux.xml")
    try:
        if not beside.is_file() or beside.stat().st_size > _MAX_SIDECAR_BYTES:
            return {}
        text = beside.read_text("utf-8")
        if "<!" in text.replace("<!--", ""):  # no declarations: they may grow without bound, or name files
            return {}
        band = ElementTree.fromstring(text).find("PAMRasterBand/CategoryNames")
    except (OSError, ValueError, ElementTree.ParseError):
        return {}
    names = [] if band is None else [(entry.text or "").strip() for entry in band.findall("Category")]
    return {str(i): printable(name)[:200] for i, name in enumerate(names) if name}


class PolygonReference:
    """A map of classes as polygons."""

    def __init__(self, frame: gpd.GeoDataFrame, ids: NDArray[np.uint8], grid: GeoBox) -> None:
        """Nothing is burnt yet.

        Args:
            frame: in the grid's CRS, polygons.
            ids: (polygon,), their classes.
            grid: of the map.
        """
        cell_m = abs(grid.affine.a)
        self.step = int(np.clip(round(cell_m / POLYGON_STEP_M), 1, MOST_FINER))
        part = f"parts of {cell_m / self.step:g} m of the map's cells" if self.step > 1 else "the map's cells"
        self.told = f"polygons have {part} whose centres lie in them"
        self._shapes = frame.geometry.to_numpy()
        self._ids = ids
        self._tree = shapely.STRtree(self._shapes)

    def ids(self, geobox: GeoBox, rows: tuple[int, int]) -> NDArray[np.uint8]:
        """Ids of its classes in some rows of a grid, (row, col); ``CONFLICT_ID`` where polygons differ."""
        height, width = rows[1] - rows[0], geobox.shape[1]
        grid = geobox.affine
        top = grid.f + rows[0] * grid.e
        affine = Affine(grid.a, 0, grid.c, 0, grid.e, top)
        box = shapely.box(grid.c, top + height * grid.e, grid.c + width * grid.a, top)
        near = np.sort(self._tree.query(box, predicate="intersects"))
        if not near.size:
            return np.full((height, width), NODATA_ID, np.uint8)
        found = np.full((height, width), NODATA_ID, np.uint8)
        for value in np.unique(self._ids[near]):
            inside = rasterize(
                self._shapes[near[self._ids[near] == value]], (height, width), transform=affine, dtype="uint8"
            ).astype(np.bool_)
            found[inside] = np.where(found[inside] == NODATA_ID, value, CONFLICT_ID)
        return found


def read_polygons(
    path: Path, layer: str | None, column: str | None, codes: Codes, grid: GeoBox
) -> PolygonReference:
    """Polygons of a vector file, with the classes that a column names.

    Args:
        path: a GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile.
        layer: of a GeoPackage; None: its only one of polygons.
        column: names or codes of classes.
        codes: what they mean; what is unknown is counted in it.
        grid: of the map.

    Raises:
        UsageError: it cannot be read, or has no such column, no CRS or other shapes than polygons.
    """
    use = VectorUse(
        option="REFERENCE",
        layer_option="--layer",
        columns=True,
        instead="Labelled points are given with --samples, or to `landuse area`.",
    )
    frame = read_features(path, layer, use)
    columns = ", ".join(printable(str(name)) for name in frame.columns if name != "geometry") or "none"
    if column is None or column not in frame.columns or column == "geometry":
        said = "is needed" if column is None else f"{printable(column)!r} is none of its columns"
        raise UsageError(f"REFERENCE {path}: --column {said}. It has: {columns}.")
    if frame.crs is None:
        raise UsageError(f"REFERENCE {path} states no coordinate reference system. Save it with its CRS.")
    kinds = set(frame.geom_type.dropna())
    if not kinds or not kinds <= {"Polygon", "MultiPolygon"}:
        raise UsageError(
            f"REFERENCE {path} holds {', '.join(sorted(kinds)) or 'no shapes'}. Give polygons alone. "
            f"{use.instead}"
        )
    frame = frame[~frame.geometry.isna() & ~frame.geometry.is_empty]
    try:
        frame = frame.to_crs(str(grid.crs))
    except Exception as error:  # pyproj raises several kinds of its own
        raise UsageError(f"REFERENCE {path} cannot be brought to the map's CRS ({error}).") from error
    reach = shapely.bounds(frame.geometry.to_numpy())
    frame = frame[np.isfinite(reach).all(1)]
    frame = frame.set_geometry(shapely.make_valid(frame.geometry.to_numpy()), crs=frame.crs)
    texts = ["" if value is None or value != value else str(value).strip() for value in frame[column]]
    ids = np.full(len(texts), IGNORED_ID, np.uint8)
    for place, text in enumerate(texts):
        told = text.removesuffix(".0")  # as a table with gaps holds whole numbers
        known = IGNORED_ID if not told else codes.id_of(told)
        if known is None:
            codes.unknown[told] += 1
        else:
            ids[place] = known
    return PolygonReference(frame, ids, grid)


def is_raster(path: Path) -> bool:
    """Whether a file begins as a TIFF does.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise UsageError(f"REFERENCE {path} cannot be read ({error.strerror}).") from error
    return begins in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def meanings(
    names: Mapping[str, str],
    place_of: Callable[[str], int | None],
    *,
    names_alone: bool,
) -> Callable[[str], int | None]:
    """What values mean: by their names where they have some, else by themselves.

    Args:
        names: of the values.
        place_of: id of a name or code.
        names_alone: whether a value with a name means that and nothing else.
    """

    def meaning(text: str) -> int | None:
        name = names.get(text)
        if name is not None:
            known = place_of(name)
            if known is not None or names_alone:
                return known
        return place_of(text) if not (names_alone and names) else None

    return meaning


def strips_of(geobox: GeoBox, step: int, most_values: int) -> Iterator[tuple[Window, tuple[int, int]]]:
    """Windows of all columns of a map, from the top, and the rows of the finer grid that each has.

    Args:
        geobox: of the map.
        step: parts of a cell along each side.
        most_values: cells of the finer grid in a window, about.
    """
    rows, cols = geobox.shape
    height = max(most_values // (cols * step * step), 1)
    for top in range(0, rows, height):
        count = min(height, rows - top)
        yield Window(0, top, cols, count), (top * step, (top + count) * step)
