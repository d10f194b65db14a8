"""Scenes and their pixels, as the stages of the pipeline hand them to each other.

Digital numbers (DN) are reflectance x 10000 without offset from the moment a block is read; 0 is nodata.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING

from landuse.sentinel2 import SCL

if TYPE_CHECKING:
    from collections.abc import Collection


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
    estimated: bool = False
    """True where no mask told, but how blue the scene is (``ESTIMATE_BANDS``): good enough to rank scenes
    by, not to leave one out."""

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
    """How much of the area the scene shows; None before it was looked at, or where nothing tells."""
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

    @property
    def area_cloud_percent(self) -> float | None:
        """Cloud over the area where a mask was looked at, else over the whole scene as its item states."""
        return self.cloud_percent if self.view is None or self.view.estimated else self.view.cloud_percent

    def asset(self, band: str) -> BandAsset | None:
        """The asset of ``band``, or None."""
        return next((asset for asset in self.assets if asset.band == band), None)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the assets the scene offers."""
        return tuple(asset.band for asset in self.assets)


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


L1C_CLOUD_BANDS = ("B01", "B02", "B04", "B05", "B08", "B8A", "B09", "B10", "B11", "B12")
"""The bands ``clear_by_spectrum`` reads, in order: those s2cloudless was trained on."""


ESTIMATE_BANDS = ("B02", "B04")
"""What the cloud of a scene without a mask is estimated from."""


def mask_bands(level: str, bands: Collection[str]) -> tuple[str, ...]:
    """What a cloud mask is made of in a scene that offers ``bands``; empty where none can be made."""
    if SCL in bands:
        return (SCL,)
    return L1C_CLOUD_BANDS if level == "L1C" and set(L1C_CLOUD_BANDS) <= set(bands) else ()


def is_masked(scene: Scene) -> bool:
    """Whether a cloud mask of the scene can be made: else clouds in it are mapped as land."""
    return bool(mask_bands(scene.level, scene.bands))
