"""What is asked of a comparison of maps, and what it found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import rasterio

import landuse
from landuse.errors import UsageError
from landuse.pipeline.cells import CHANGE_THRESHOLD

if TYPE_CHECKING:
    from pathlib import Path

    from odc.geo.geobox import GeoBox

OUTPUTS = ("change.tif", "change.tif.aux.xml", "difference.tif", "change.gpkg", "change.json")
"""The last one tells that the others are whole."""

METHOD = (
    "Total variation distance of the class probabilities, after change vector analysis in posterior "
    "probability space (Chen et al. 2011, IEEE Geoscience and Remote Sensing Letters 8(2), 317-321)."
)
BIAS = (
    "Areas of change counted on maps are biased by the maps' errors. For areas with intervals label a sample "
    "(Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """What a user asks for."""

    before: Path
    """Folder of the earlier map, or its ``landuse.tif``."""
    after: Path
    """The later one."""
    later: tuple[Path, ...] = ()
    """Maps after that, which have to agree with a change wherever they see it."""
    threshold: float = CHANGE_THRESHOLD
    """Share of a cell's probability that has to move for a change of class to count, 0..1."""
    min_area_ha: float = 0.0
    """Polygons of change below this count as unchanged."""
    out: Path
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that are there already."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold:g} is no share. Give 0 to 1.")
        if not (math.isfinite(self.min_area_ha) and self.min_area_ha >= 0):
            raise UsageError(f"--min-area-ha {self.min_area_ha:g} is no size. Give 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """Cells of one class before and one after; the same one for what is not reported as changed."""

    from_id: int
    """Class in the first map."""
    from_class: str
    """Its name."""
    to_id: int
    """Class in the second map where change is reported, else ``from_id``."""
    to_class: str
    """Its name."""
    cells: int
    """How many."""
    area_ha: float
    """Their area."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCover:
    """What became of the cells where the two maps overlap."""

    cells: int
    """All of them."""
    nodata: int
    """Without a class in either map: never change."""
    changed: int
    """Reported as changed."""
    unconfirmed: int
    """Changed, but no later map sees them; 0 where none was given."""
    naive: int
    """Whose class differs: what comparing the classes alone would report."""
    flicker: int
    """Whose class differs while too little of the probability moved."""
    contradicted: int
    """Changed, but not so in a later map."""
    too_small: int
    """Changed, in polygons below the smallest area asked for."""

    @property
    def compared(self) -> int:
        """Cells with a class in both maps."""
        return self.cells - self.nodata

    @property
    def unchanged(self) -> int:
        """Cells that are reported as what they were."""
        return self.compared - self.changed - self.unconfirmed

    def share(self, cells: int) -> float:
        """Share of the compared cells, 0..1; 0 where none was."""
        return cells / self.compared if self.compared else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MapInput:
    """A map that was compared."""

    role: str
    """``"before"``, ``"after"`` or ``"later"``."""
    path: str
    """Its class raster."""
    acquired_utc: tuple[datetime, ...]
    """Of its scenes."""
    plan_sha256: str
    """What it was made of."""
    model: str
    """What made it."""
    weights_sha256: str
    """Digest of the model's weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeReport:
    """What was found."""

    request: ChangeRequest
    """What was asked for."""
    inputs: tuple[MapInput, ...]
    """The maps, in the order given."""
    names: tuple[str, ...]
    """Class names by id."""
    geobox: GeoBox
    """Where the first two maps overlap."""
    cover: ChangeCover
    """What became of its cells."""
    matrix: tuple[Transition, ...]
    """Those that occur, by ids. Their cells are the changed and the unchanged ones."""
    warnings: tuple[str, ...]
    """What to keep in mind."""
    files: tuple[str, ...] = OUTPUTS
    """Their names."""

    def to_dict(self) -> dict[str, object]:
        """As JSON: ``change.json``."""
        cover, request = self.cover, self.request
        counted = {"unchanged": cover.unchanged, "changed": cover.changed, "unconfirmed": cover.unconfirmed}
        return {
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": METHOD,
            "note": BIAS,
            "inputs": [
                asdict(entry) | {"acquired_utc": [moment.isoformat() for moment in entry.acquired_utc]}
                for entry in self.inputs
            ],
            "threshold": request.threshold,
            "min_area_ha": request.min_area_ha,
            "grid": {
                "crs": str(self.geobox.crs),
                "transform": list(self.geobox.affine)[:6],
                "shape": list(self.geobox.shape),
                "cell_m": self.geobox.affine.a,
            },
            "classes": list(self.names),
            "cells": {"overlap": cover.cells, "nodata": cover.nodata, "compared": cover.compared, **counted},
            "shares": {
                **{name: cover.share(cells) for name, cells in counted.items()},
                "nodata": cover.nodata / cover.cells,
            },
            "class_differs": {
                "cells": cover.naive,
                "share": cover.share(cover.naive),
                "flicker": cover.flicker,
                "contradicted": cover.contradicted,
                "too_small": cover.too_small,
            },
            "matrix": [asdict(row) for row in self.matrix],
            "warnings": list(self.warnings),
            "files": list(self.files),
            "versions": {
                "landuse": landuse.__version__,
                "numpy": np.__version__,
                "rasterio": rasterio.__version__,
                "gdal": rasterio.__gdal_version__,
            },
        }
