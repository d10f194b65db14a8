"""The frozen records that stages hand to each other.

Each value is checked where it is born. Digital numbers (DN) are reflectance x 10000 without
offset from the moment a block is read; 0 is nodata.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NODATA_ID = 255
"""Class raster value of a cell without a class."""

SHARE_STEPS = 250
"""Confidence and probability rasters hold rounded multiples of 1/250; 255 is nodata there too."""

CHANGE_THRESHOLD = 0.7
"""Share of a cell's probability that has to move for a change of class to count (``pipeline.change``)."""


class CellStatus(IntEnum):
    """Why a cell has a class or none: the values of the status raster."""

    OUTSIDE = 0
    """Not part of the area."""
    CLASSIFIED = 1
    CLOUDY = 2
    """Seen, but under cloud, shadow or snow."""
    FAILED = 3
    """Under a scene that could not be read."""
    UNSEEN = 4
    """No scene saw it, or too little of it for a patch."""


def percent(share: float) -> str:
    """A share for people; one that is there never reads 0.0, one that is not whole never 100.0."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelInput:
    """How one processing level enters a network: ``input_dn = gain * dn + offset_dn``, per band."""

    level: str
    """``"L1C"`` or ``"L2A"``."""
    gain: tuple[float, ...]
    """Factor per band, in the contract's band order."""
    offset_dn: tuple[float, ...]
    """Offset per band in DN, in the contract's band order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """What a network needs to be fed and what its outputs mean. Travels inside the checkpoint."""

    name: str
    """Name of the model."""
    bands: tuple[str, ...]
    """Sentinel-2 band names in input order."""
    levels: tuple[LevelInput, ...]
    """The processing levels the model reads, and how."""
    saturation_dn: tuple[float, ...]
    """Per band: input DN are clipped to 0..saturation_dn and divided by it."""
    mean: tuple[float, ...]
    """Per band mean of the clipped input in 0..1, subtracted."""
    std: tuple[float, ...]
    """Per band standard deviation of the clipped input in 0..1, divided by."""
    classes: tuple[str, ...]
    """Class names; the index is the id in the class raster."""
    patch_size_px: int
    """Side of the square patch the model classifies."""
    resolution_m: float
    """Pixel size the model was trained at."""
    temperature: float = 1.0
    """Logits are divided by this before the softmax (fitted on the validation split)."""
    shared_features: bool = False
    """Trained so that windows which share features score as patches cut out do."""

    def __post_init__(self) -> None:
        count = len(self.bands)
        if count == 0 or len(set(self.bands)) != count:
            raise ValueError(f"bands {self.bands} must be unique and at least one")
        per_band = [self.mean, self.std, self.saturation_dn]
        for level in self.levels:
            per_band += [level.gain, level.offset_dn]
        if any(len(values) != count for values in per_band):
            raise ValueError(f"every per-band value needs {count} entries, one for each of {self.bands}")
        if min(*self.std, *self.saturation_dn, self.temperature) <= 0:
            raise ValueError(
                f"std {self.std}, saturation_dn {self.saturation_dn} and temperature "
                f"{self.temperature} must be above 0"
            )
        scalars = (self.resolution_m, self.temperature)
        if not all(isfinite(value) for values in (*per_band, scalars) for value in values):
            raise ValueError("every number of a contract must be finite")
        if not self.levels:
            raise ValueError("a contract names at least one processing level")
        if not 2 <= len(self.classes) <= 255 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes; a class raster holds 2 to 255 different ones")
        if self.patch_size_px < 1 or self.resolution_m <= 0:
            raise ValueError(f"patch {self.patch_size_px} px at {self.resolution_m} m is not a patch")

    def level_input(self, level: str) -> LevelInput | None:
        """The transform of ``level``, or None where the model does not read it."""
        return next((entry for entry in self.levels if entry.level == level), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandAsset:
    """One readable raster of a scene."""

    band: str
    """Sentinel-2 band name, or ``"SCL"`` for the scene classification."""
    href: str
    """Unsigned URL or local path."""
    index: int = 1
    """Band number inside the file, from 1."""
    scale: float = 1 / 10_000
    """reflectance = scale * stored + offset."""
    offset: float = 0.0
    """reflectance = scale * stored + offset."""
    nodata: float | None = 0.0
    """Stored value that means nodata; None where every pixel is data."""
    fingerprint: str | None = None
    """What tells this version of a local file from another under the same name."""
    pixel_m: float | None = None
    """Pixel size in metres, where the item states it; only warnings depend on it."""
    bytes_per_px: float | None = None
    """Size of the file by its pixels, where the item states both; only estimates depend on it."""

    def __post_init__(self) -> None:
        if not (isfinite(self.scale) and isfinite(self.offset)) or self.scale <= 0 or self.index < 1:
            raise ValueError(
                f"band {self.band}: scale {self.scale} and index {self.index} must be > 0, scale and offset "
                f"{self.offset} finite"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaView:
    """What a scene shows of the area asked for, by its cloud mask; both are shares of the area, 0..1."""

    seen: float
    """Observed, clear or not."""
    clear: float
    """Observed and free of cloud, shadow and snow."""

    def __post_init__(self) -> None:
        if not 0 <= self.clear <= self.seen <= 1 + 1e-9:
            raise ValueError(f"clear {self.clear} and seen {self.seen} must be ordered shares, 0..1")

    @property
    def cloud_percent(self) -> float:
        """Share of what was seen that is not clear; 0 where nothing was."""
        return 100 * (self.seen - self.clear) / self.seen if self.seen else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One acquisition over one tile, the same whatever the provider."""

    id: str
    """The item's id as the provider spells it. Hostile: never part of a path or of markup."""
    provider: str
    """Where it comes from, for signing and for the report."""
    acquired_utc: datetime
    """Acquisition time, timezone-aware UTC."""
    level: str
    """``"L1C"`` or ``"L2A"``."""
    baseline: str | None
    """Processing baseline such as ``"05.11"``, where the item states one."""
    cloud_percent: float | None
    """Cloud cover of the whole scene in percent, where the item states it."""
    footprint: tuple[tuple[tuple[float, float], ...], ...]
    """Outer ring of each part of the footprint, (longitude, latitude) in degrees, within -180..180."""
    crs: str | None
    """Native CRS such as ``"EPSG:32633"``, where the item states it."""
    bounds_m: tuple[float, float, float, float] | None
    """Left, bottom, right, top of the raster in its native CRS, where the item states it."""
    assets: tuple[BandAsset, ...]
    """Bands, and SCL where there is one."""
    platform: str = ""
    """Satellite in small letters, such as ``"sentinel-2b"``; empty where the item does not say."""
    tile: str = ""
    """MGRS tile, such as ``"33UUP"``; empty where the item does not say."""
    view: AreaView | None = None
    """How much of the area the scene shows; None before its mask was looked at, or without one."""
    spare: bool = False
    """True where the scenes before it show all that it shows: it is read only where one of them fails."""
    mirrors: tuple[Scene, ...] = ()
    """The same acquisition at further sources, in the order in which they are tried when a read fails."""
    item_href: str | None = None
    """URL or absolute local path where its STAC item can be read again; None where it has no document of its
    own, such as rows of a parquet file or features of a search response without self link."""

    def __post_init__(self) -> None:
        if not self.footprint or any(len(ring) < 4 for ring in self.footprint):
            raise ValueError(f"scene {self.id!r}: a footprint needs rings of at least 4 points")
        if self.acquired_utc.utcoffset() != UTC.utcoffset(None):
            raise ValueError(f"scene {self.id!r}: acquired_utc {self.acquired_utc} is not in UTC")

    def asset(self, band: str) -> BandAsset | None:
        """The asset of ``band``, or None."""
        return next((asset for asset in self.assets if asset.band == band), None)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the assets the scene offers."""
        return tuple(asset.band for asset in self.assets)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelBlock:
    """Pixels of one block of one scene, or of a composite of scenes."""

    dn: NDArray[np.uint16]
    """(band, y, x), reflectance x 10000; 0 = nodata."""
    observed: NDArray[np.bool_]
    """(y, x), True where the sensor saw something in every band."""
    usable: NDArray[np.bool_]
    """(y, x), True where observed and clear."""

    def __post_init__(self) -> None:
        if self.dn.ndim != 3 or not self.dn.shape[1:] == self.observed.shape == self.usable.shape:
            raise ValueError(
                f"dn {self.dn.shape}, observed {self.observed.shape} and usable "
                f"{self.usable.shape} do not share their (y, x)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A rectangle of map cells that is read, classified and written as one unit of work."""

    row_start: int
    """First cell row, from the top of the map's grid."""
    row_stop: int
    """One past the last cell row."""
    col_start: int
    """First cell column, from the left of the map's grid."""
    col_stop: int
    """One past the last cell column."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) in cells."""
        return self.row_stop - self.row_start, self.col_stop - self.col_start

    @property
    def name(self) -> str:
        """A file-safe name, unique within a plan."""
        return f"r{self.row_start:06d}_c{self.col_start:06d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFailure:
    """One asset that could not be read for one block."""

    block: str
    """``Block.name``; empty where the scene was looked at as a whole."""
    scene_id: str
    """The scene, as its provider names it."""
    provider: str
    """Where it was to be read from."""
    band: str
    """The asset's band."""
    href: str
    """The asset's address, without its query."""
    replaced_by: str | None
    """The source whose copy was read instead; None where the pixels are missing."""
    reason: str
    """What went wrong; URLs without their query."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellScores:
    """What a block's cells were found to be, before a class is chosen."""

    probabilities: NDArray[np.float32]
    """(class, row, col), 0..1, summing to 1 over classes; 0 everywhere where ``mapped`` is False."""
    mapped: NDArray[np.bool_]
    """(row, col), True where the cell gets a class."""
    observed: NDArray[np.bool_]
    """(row, col), True where a scene saw at least one pixel of the cell, clear or not."""
    clouded: NDArray[np.bool_]
    """(row, col), True where cloud, shadow or snow hides at least one of those pixels."""
    failed: NDArray[np.bool_]
    """(row, col), True where a cell is not mapped and a scene over it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassArea:
    """One class in a map."""

    id: int
    """Value in the class raster."""
    name: str
    """Class name."""
    cells: int
    """Cells of the class."""
    area_m2: float
    """Their area."""
    share: float
    """Their share of the classified cells, 0..1."""

    @property
    def area_ha(self) -> float:
        """Their area in hectares."""
        return self.area_m2 / 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """What became of the area's cells; the four shares add up to 1."""

    cells: int
    """Cells of the area."""
    valid: float
    """Share that got a class, 0..1."""
    cloudy: float
    """Share seen, but under cloud, shadow or snow."""
    failed: float
    """Share without a class under a scene that could not be read."""
    nodata: float
    """Share that no scene saw, or too little of for a patch."""
