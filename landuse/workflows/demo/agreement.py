"""How a map agrees with a truth that is known everywhere, class by class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject

from landuse.errors import ReadError, UsageError
from landuse.pipeline.cells import NODATA_ID

if TYPE_CHECKING:
    from pathlib import Path

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

MAJORITY_PERCENT = 60
"""A cell counts for the agreement where one class of the truth fills at least this much of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAgreement:
    """How one class of the truth was mapped."""

    name: str
    """Name of the class."""
    cells: int
    """Cells that count and whose truth it is."""
    agreeing: int
    """Those of them that the map gives the same class."""

    @property
    def percent(self) -> float | None:
        """Its recall in percent; None without cells."""
        return 100 * self.agreeing / self.cells if self.cells else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a map agrees with the truth, over the cells that count (see ``agreement``)."""

    cells: int
    """Cells that count."""
    agreeing: int
    """Those whose class is the truth's."""
    uncounted_cells: int
    """Mapped cells that do not count: no known class fills ``MAJORITY_PERCENT`` of them."""
    classes: tuple[ClassAgreement, ...]
    """The same for each class of the truth, in order of id."""

    @property
    def percent(self) -> float | None:
        """Overall agreement in percent; None where no cell counts."""
        return 100 * self.agreeing / self.cells if self.cells else None

    @property
    def mean_percent(self) -> float | None:
        """Mean of the recalls of the classes that have cells, in percent; None where no cell counts."""
        recalls = [entry.percent for entry in self.classes if entry.percent is not None]
        return sum(recalls) / len(recalls) if recalls else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Raster:
    ids: NDArray[np.uint8]
    names: tuple[str, ...]
    transform: Affine
    crs: CRS


def _read(path: Path, tag: str) -> _Raster:
    try:
        with rasterio.open(path) as dataset:
            names = json.loads(dataset.tags().get(tag, "[]"))
            raster = _Raster(
                ids=dataset.read(1), names=tuple(names), transform=dataset.transform, crs=dataset.crs
            )
    except (RasterioError, json.JSONDecodeError) as error:
        raise ReadError(f"{path} cannot be read ({error}).") from error
    if not raster.names:
        raise ReadError(f"{path} does not name its classes in the tag {tag!r}. Make it again.")
    return raster


def agreement(truth_path: Path, map_path: Path, tag: str = "classes") -> Agreement:
    """Compare a map with a truth whose pixels are as fine or finer.

    A map's cell counts where it has a class and one class of the truth fills at least
    ``MAJORITY_PERCENT`` of it; a cell astride several classes has no true class of its own, nor has one
    whose truth is not known. Classes are compared by name.

    Args:
        truth_path: raster of class ids.
        map_path: raster of class ids, in any grid.
        tag: of both rasters, holds the class names as JSON: ``"classes"``, or ``"covers"`` of land cover.

    Raises:
        ReadError: a file cannot be read or does not name its classes.
        UsageError: the map's cells are finer than the truth's pixels.
    """
    truth, mapped = _read(truth_path, tag), _read(map_path, tag)
    cell_m, pixel_m = abs(mapped.transform.a), abs(truth.transform.a)
    if mapped.crs == truth.crs and cell_m < pixel_m:
        raise UsageError(
            f"Cells of {map_path} ({cell_m} m) are finer than the truth's pixels ({pixel_m} m). "
            "Compare a map at its own resolution."
        )
    shares = np.zeros((len(truth.names), *mapped.ids.shape), np.float32)  # (class, row, col)
    for index in range(len(truth.names)):
        reproject(
            (truth.ids == index).astype(np.float32),
            shares[index],
            src_transform=truth.transform,
            src_crs=truth.crs,
            dst_transform=mapped.transform,
            dst_crs=mapped.crs,
            resampling=Resampling.average,
        )
    # The map's ids as the truth's; a class that the truth does not know agrees with none.
    known = np.full(256, len(truth.names), np.int64)
    for index, name in enumerate(mapped.names):
        if name in truth.names:
            known[index] = truth.names.index(name)
    return _compare(mapped.ids != NODATA_ID, known[mapped.ids], shares, truth.names)


def _compare(
    has_class: NDArray[np.bool_],
    mapped: NDArray[np.int64],
    shares: NDArray[np.float32],
    names: tuple[str, ...],
) -> Agreement:
    """The agreement of (row, col) classes with (class, row, col) shares of the truth in 0..1."""
    major = shares.argmax(0)
    counts = has_class & (shares.max(0) >= MAJORITY_PERCENT / 100 - 1e-6)
    agrees = counts & (mapped == major)
    return Agreement(
        cells=int(counts.sum()),
        agreeing=int(agrees.sum()),
        uncounted_cells=int((has_class & ~counts).sum()),
        classes=tuple(
            ClassAgreement(
                name=name,
                cells=int((counts & (major == index)).sum()),
                agreeing=int((agrees & (major == index)).sum()),
            )
            for index, name in enumerate(names)
        ),
    )
