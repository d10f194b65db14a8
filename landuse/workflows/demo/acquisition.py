"""How the land of the demo looks from above: slopes, haze, clouds, shadows, the sensor's blur and noise."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from landuse.sentinel2 import DN_PER_REFLECTANCE
from landuse.workflows.demo.shapes import mean_blocks, noise, smooth
from landuse.workflows.demo.spectra import BANDS, BANDS_10M, BANDS_20M, CLEAR, CLOUD, HAZE, PATH

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]

PIXEL_M = 10.0
CLOUD_HEIGHT_M = 850.0

SCL_NODATA, SCL_SHADOW, SCL_VEGETATION, SCL_BARE, SCL_WATER, SCL_CLOUD_MEDIUM, SCL_CLOUD = 0, 3, 4, 5, 6, 8, 9
"""Values of Sen2Cor's scene classification that are simulated."""

_FIRST_DATE = {
    "spring": datetime(2024, 4, 12, 10, 0, 31, tzinfo=UTC),
    "summer": datetime(2024, 6, 11, 10, 0, 31, tzinfo=UTC),
    "autumn": datetime(2024, 10, 9, 10, 0, 31, tzinfo=UTC),
}
_SUN_ELEVATION_DEG = {"spring": 49.0, "summer": 62.0, "autumn": 34.0}
SUN_AZIMUTH_DEG = 145.0
"""Clockwise from north: the sun stands in the south-east."""

_DIFFUSE = np.array((0.35, 0.27, 0.22, 0.2, 0.18, 0.16, 0.15, 0.14, 0.08, 0.06), np.float32)
"""(band,) share of the light that comes from the whole sky and reaches every slope."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedDate:
    """One acquisition of the landscape, L2A."""

    acquired_utc: datetime
    """Acquisition time, UTC."""
    reflectance_10m: Floats
    """(band, y, x) surface reflectance of ``BANDS_10M``."""
    reflectance_20m: Floats
    """(band, y, x) surface reflectance of ``BANDS_20M``, at half the size."""
    scl: NDArray[np.uint8]
    """(y, x) scene classification at 20 m; 0 outside the swath."""

    @property
    def cloud_percent(self) -> float:
        """Share of the observed pixels that are cloud."""
        observed = np.count_nonzero(self.scl != SCL_NODATA)
        return 100 * np.count_nonzero(self.scl >= SCL_CLOUD_MEDIUM) / observed


def season_dates(season: str) -> tuple[datetime, datetime]:
    """Two acquisitions of one orbit, by the two satellites in turn."""
    first = _FIRST_DATE[season]
    return first, first + timedelta(days=5) - timedelta(seconds=2)


def sunlight(heights_m: Floats, season: str) -> Floats:
    """How much sun each pixel gets, compared with level land.

    Args:
        heights_m: (y, x) heights of 10 m pixels; y points south.
        season: decides how high the sun stands.

    Returns:
        (y, x), 1 on level land, 0 where the slope faces away from the sun.
    """
    south, east = np.gradient(heights_m, PIXEL_M)
    elevation, azimuth = np.deg2rad(_SUN_ELEVATION_DEG[season]), np.deg2rad(SUN_AZIMUTH_DEG)
    to_east, to_south = np.cos(elevation) * np.sin(azimuth), -np.cos(elevation) * np.cos(azimuth)
    # The normal of a slope is (-east, -south, 1).
    facing = (np.sin(elevation) - east * to_east - south * to_south) / np.sqrt(1 + east**2 + south**2)
    light: Floats = (np.clip(facing, 0, None) / np.sin(elevation)).astype(np.float32)
    return light


def _to_surface(l1c_dn: Floats) -> Floats:
    """(band, y, x) L1C DN to surface reflectance, the inverse of ``normalize``'s first-order atmosphere."""
    surface: Floats = (l1c_dn - PATH[:, None, None]) / (CLEAR[:, None, None] * np.float32(DN_PER_REFLECTANCE))
    return surface


def acquire(
    land_l1c_dn: Floats,
    heights_m: Floats,
    rng: np.random.Generator,
    acquired_utc: datetime,
    season: str,
    *,
    haze: float,
    swath_edge: bool,
) -> SimulatedDate:
    """One date. Haze stays in the L2A and out of the scene classification, as thin haze does.

    Args:
        land_l1c_dn: (band, y, x) L1C DN of level land at 10 m, through a clear atmosphere.
        heights_m: (y, x) heights.
        rng: decides clouds, haze and noise.
        acquired_utc: when.
        season: decides how high the sun stands.
        haze: its mean over the scene, of the densest there is.
        swath_edge: whether the swath ends within the scene.
    """
    side = land_l1c_dn.shape[-1]
    path = PATH[:, None, None]
    light = _DIFFUSE[:, None, None] + (1 - _DIFFUSE[:, None, None]) * sunlight(heights_m, season)
    lit = (land_l1c_dn - path) * light + path
    # Clouds are drawn beyond the scene, so that those outside it cast their shadows too.
    reach_px = CLOUD_HEIGHT_M / np.tan(np.deg2rad(_SUN_ELEVATION_DEG[season])) / PIXEL_M
    azimuth = np.deg2rad(SUN_AZIMUTH_DEG)
    north, west = round(-reach_px * np.cos(azimuth)), round(reach_px * np.sin(azimuth))
    sky = (side + north, side + west)
    billow = noise(rng, sky, 85) + 0.35 * noise(rng, sky, 25) + 0.12 * noise(rng, sky, 7)
    clouds = np.clip((billow - 1.75) / 0.35, 0, 1)
    opacity, shadow = clouds[:side, :side], clouds[north:, west:]
    veil = np.clip(haze * (1 + 0.5 * noise(rng, (side, side), 180)), 0, 1)
    hazy = lit * (1 - 0.08 * veil) + HAZE[:, None, None] * veil
    seen = hazy * (1 - 0.6 * shadow) * (1 - opacity) + CLOUD[:, None, None] * opacity
    ten = smooth(_to_surface(seen), 0.5)
    ten += rng.normal(0, 6 / DN_PER_REFLECTANCE, ten.shape).astype(np.float32)
    twenty = mean_blocks(ten, 2)
    cloud, shade = mean_blocks(opacity, 2), mean_blocks(shadow, 2)
    red, nir = twenty[BANDS.index("B04")], twenty[BANDS.index("B08")]
    ndvi = (nir - red) / np.maximum(nir + red, 1e-3)
    scl = np.where(ndvi > 0.4, SCL_VEGETATION, SCL_BARE)
    scl[(nir < 0.1) & (ndvi < 0.4)] = SCL_WATER
    scl[shade > 0.15] = SCL_SHADOW
    scl[cloud > 0.05] = SCL_CLOUD_MEDIUM
    scl[cloud > 0.6] = SCL_CLOUD
    if swath_edge:
        row, col = np.indices(scl.shape)
        scl[col < 14 - 0.05 * row] = SCL_NODATA
    return SimulatedDate(
        acquired_utc=acquired_utc,
        reflectance_10m=np.maximum(ten[[BANDS.index(b) for b in BANDS_10M]], 1 / DN_PER_REFLECTANCE),
        reflectance_20m=np.maximum(twenty[[BANDS.index(b) for b in BANDS_20M]], 1 / DN_PER_REFLECTANCE),
        scl=scl.astype(np.uint8),
    )
