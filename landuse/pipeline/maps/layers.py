"""IO: what lies beside the classes of a finished map, strip by strip: confidence, second class and so on."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landuse.errors import ReadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from landuse.pipeline.maps.open import ClassMap

_STRIP_VALUES = 2**22
"""Values of all layers in a strip."""

_STRIP_ROWS = 512
"""As high as a COG's chunks: each is read once, where a strip may be so high."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapLayers:
    """Rasters of one map, open."""

    path: Path
    """The class raster."""
    shape: tuple[int, int]
    """(rows, cols) of cells."""
    files: dict[str, DatasetReader]
    """By name, such as ``"confidence"``; ``"landuse"`` is always there."""

    def strips(
        self, wanted: Sequence[tuple[str, int]], rows: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """First row, and values (layer, row, col) of all columns, from the top.

        Args:
            wanted: name and band, from 1, of each layer.
            rows: first and one past the last row; None: all.

        Raises:
            ReadError: a raster cannot be read.
        """
        first, last = rows or (0, self.shape[0])
        finest = max(self._cells_px(name) for name, _ in wanted) ** 2
        step = min(max(_STRIP_VALUES // (self.shape[1] * len(wanted) * finest), 1), _STRIP_ROWS)
        for row in range(first, last, step):
            count = min(step, last - row)
            try:
                yield row, np.stack([self._read(name, band, row, count) for name, band in wanted])
            except RasterioError as error:
                raise ReadError(
                    f"{self.path.parent} cannot be read ({error}). Is it whole? Make the map again."
                ) from error

    def _cells_px(self, name: str) -> int:
        """Pixels of a raster along the side of a cell; only the image may have more than one."""
        return int(self.files[name].width) // self.shape[1]

    def _read(self, name: str, band: int, row: int, count: int) -> NDArray[np.uint8]:
        file, size = self.files[name], self._cells_px(name)
        values: NDArray[np.uint8] = file.read(
            band, window=Window(0, row * size, self.shape[1] * size, count * size)
        )
        if size == 1:
            return values
        means = values.reshape(count, size, self.shape[1], size).mean((1, 3))
        whole: NDArray[np.uint8] = np.rint(means).astype(np.uint8)
        return whole


@contextmanager
def opened_layers(source: ClassMap, names: Sequence[str]) -> Iterator[MapLayers]:
    """Open rasters that lie beside a map's classes, as far as they are there.

    Args:
        source: the map.
        names: of files, without their ending, which is that of the classes.

    Raises:
        UsageError: one cannot be read, or is not of the run that made the classes.
    """
    with ExitStack() as stack:
        files = {}
        for name in ("landuse", *names):
            path = source.path if name == "landuse" else source.path.with_name(f"{name}{source.path.suffix}")
            if not path.is_file():
                continue
            try:
                files[name] = stack.enter_context(rasterio.open(path))
            except RasterioError as error:
                raise UsageError(
                    f"{path} cannot be read as a raster ({error}). Make the map again."
                ) from error
            _check_belongs(path, files[name], files["landuse"])
        yield MapLayers(path=source.path, shape=source.shape, files=files)


def _check_belongs(path: Path, file: DatasetReader, classes: DatasetReader) -> None:
    """See that a raster is of the same run and of the same grid; an image may be finer by whole pixels."""
    size = file.width // classes.width
    grid = Affine(*file.transform[:6]) @ Affine.scale(max(size, 1))
    if (
        size < 1
        or file.shape != (classes.height * size, classes.width * size)
        or file.crs != classes.crs
        or not grid.almost_equals(Affine(*classes.transform[:6]), 1e-6 * abs(classes.transform.a))
        or file.tags().get("plan_sha256") != classes.tags().get("plan_sha256")
        or set(file.dtypes) != {"uint8"}
    ):
        raise UsageError(
            f"{path} is not of the run that made {classes.name}: their grid, values or tag plan_sha256 "
            "differ. Make the map again."
        )
