"""What a user asks of a comparison with one reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from landuse.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from landuse.pipeline.remote.retry import RetryPolicy

MIN_PATCH_HA = 0.5
"""Smallest patch of disagreement that is drawn as polygons where none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """What a user asks for."""

    map: Path
    """Folder of a map, or its ``landuse.tif``."""
    reference: Path | None = None
    """A GeoTIFF of classes, another map's folder, or a vector file of polygons."""
    collection: str | None = None
    """A collection of STAC that is the reference instead."""
    source: str = "planetary-computer"
    """Where that is."""
    year: int | None = None
    """Of which year; None: the nearest to the map's."""
    crosswalk: str | None = None
    """A legend of landuse or a file that both are brought to; None: the map's own names, or what goes with a
    known collection."""
    layer: str | None = None
    """Of a GeoPackage of polygons."""
    column: str | None = None
    """Of polygons: holds their classes."""
    min_patch_ha: float = MIN_PATCH_HA
    """Smaller patches of disagreement are counted and in the raster, but not drawn as polygons."""
    out: Path
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that are there already."""
    retry: RetryPolicy | None = None
    """Patience with a source."""
    allow_private_hosts: bool = False
    """Whether a source on the web may lead to private hosts besides its own."""

    def __post_init__(self) -> None:
        if (self.reference is None) == (self.collection is None):
            raise UsageError("Give a REFERENCE or a --reference of a source, and not both.")
        if not (math.isfinite(self.min_patch_ha) and self.min_patch_ha >= 0):
            raise UsageError(f"--min-patch-ha {self.min_patch_ha:g} is no size. Give 0 or more.")
