"""What the land of the demo looks like: colours by class, by surface and by season.

Nothing here is a pixel of an image. The means and standard deviations by class are statistics of EuroSAT's
L1C patches; the surfaces are typical Sentinel-2 spectra of what they name. All are L1C DN (reflectance at the
top of the atmosphere x 10000) in the order of ``BANDS``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landuse.model.normalize import PATH_DN, TRANSMITTANCE

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]

BANDS_10M = ("B02", "B03", "B04", "B08")
BANDS_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Simulated bands in order of wavelength: the order of the tables below."""

PATH = np.array([PATH_DN[band] for band in BANDS], np.float32)
"""(band,) path radiance, DN."""
CLEAR = np.array([TRANSMITTANCE[band] for band in BANDS], np.float32)
"""(band,) share of the surface's light that reaches the sensor."""

SEASONS = ("spring", "summer", "autumn")
"""April, June and October."""

CLASS_MEAN_L1C_DN = {
    "AnnualCrop": (1278, 1300, 1392, 1681, 2693, 3231, 3116, 3560, 2673, 1732),
    "Pasture": (997, 956, 689, 1213, 2822, 3463, 3412, 3857, 2081, 1033),
    "PermanentCrop": (1217, 1224, 1289, 1580, 2396, 2789, 2711, 3075, 2644, 1734),
    "SeaLake": (914, 754, 470, 482, 366, 362, 299, 281, 85, 53),
}
"""Mean of each class over EuroSAT's 13-band patches. Classes of several covers are painted by their parts."""

CLASS_STD_L1C_DN = {
    "AnnualCrop": (176, 224, 437, 353, 380, 525, 536, 537, 549, 525),
    "Forest": (23, 44, 40, 62, 232, 321, 412, 366, 161, 76),
    "HerbaceousVegetation": (114, 148, 215, 187, 241, 278, 327, 308, 338, 259),
    "Pasture": (73, 99, 169, 150, 388, 529, 598, 564, 292, 215),
    "PermanentCrop": (168, 223, 357, 274, 274, 329, 382, 350, 422, 383),
    "SeaLake": (25, 33, 34, 43, 97, 119, 124, 133, 75, 41),
}
"""Mean standard deviation of each class within a 640 m patch."""

SOIL = np.array((0.7, 0.9, 1.0, 0.9, 0.5, 0.35, 0.3, 0.3, 0.8, 0.9), np.float32)
"""How bare, dry soil brightens each band, in units of the class's std."""
GREEN = np.array((-0.45, -0.35, -0.75, -0.5, 0.7, 1.0, 1.0, 1.0, -0.5, -0.7), np.float32)
"""How green vegetation changes each band, in units of the class's std."""
EVEN = np.ones(len(BANDS), np.float32)

SEASON_SHIFT = {
    "spring": {
        "AnnualCrop": (0.2, 0.2),
        "Pasture": (0.1, 0.0),
        "PermanentCrop": (0.1, -0.3),
    },
    "summer": {},
    "autumn": {
        "AnnualCrop": (0.5, -0.6),
        "Pasture": (0.3, -0.5),
        "PermanentCrop": (0.2, -0.5),
    },
}
"""How far a class's fields lie from its mean in a season: along ``SOIL`` and along ``GREEN``."""


def std(name: str) -> Floats:
    """(band,) standard deviation of a class, L1C DN."""
    return np.array(CLASS_STD_L1C_DN[name], np.float32)


def in_season(name: str, season: str) -> Floats:
    """(band,) mean of a class in a season, L1C DN."""
    soil, green = SEASON_SHIFT[season].get(name, (0.0, 0.0))
    mean = np.array(CLASS_MEAN_L1C_DN[name], np.float32)
    shifted: Floats = mean + std(name) * (np.float32(soil) * SOIL + np.float32(green) * GREEN)
    return shifted


def field_colours(
    rng: np.random.Generator, name: str, season: str, count: int, *, soil: float, green: float
) -> Floats:
    """(parcel, band) colours of a class's parcels: more or less bare, more or less green."""
    bare = soil * rng.standard_normal((count, 1)).astype(np.float32)
    crop = green * rng.standard_normal((count, 1)).astype(np.float32)
    own = 0.1 * rng.standard_normal((count, len(BANDS))).astype(np.float32)
    colours: Floats = in_season(name, season) + std(name) * (bare * SOIL + crop * GREEN + own)
    return colours


def _surface(*l2a_dn: float) -> Floats:
    """L1C DN of a surface whose reflectance x 10000 is given."""
    seen: Floats = CLEAR * np.array(l2a_dn, np.float32) + PATH
    return seen


ASPHALT = np.array((1290, 1170, 1130, 1260, 1500, 1600, 1560, 1700, 1650, 1350), np.float32)
CONCRETE = np.array((1750, 1750, 1850, 2000, 2200, 2300, 2300, 2450, 2500, 2200), np.float32)
WHITE_ROOF = np.array((2900, 2950, 3050, 3050, 3150, 3200, 3250, 3250, 3000, 2700), np.float32)
GREY_ROOF = np.array((1800, 1750, 1800, 1850, 1950, 2000, 2000, 2100, 2200, 1950), np.float32)
DARK_ROOF = np.array((1180, 1050, 1000, 1080, 1250, 1350, 1300, 1400, 1500, 1250), np.float32)
TILE_ROOF = np.array((1450, 1480, 1900, 2050, 2300, 2450, 2450, 2600, 2500, 2250), np.float32)
TRACK = np.array((1450, 1500, 1700, 1950, 2300, 2500, 2500, 2700, 3000, 2400), np.float32)
GRAVEL = np.array((1500, 1550, 1650, 1750, 1850, 1900, 1900, 1950, 2100, 1800), np.float32)
QUARRY = _surface(1300, 1750, 2100, 2250, 2450, 2550, 2600, 2700, 3000, 2600)
RIVER_WATER = np.array((1060, 940, 700, 680, 560, 540, 480, 450, 200, 130), np.float32)
CONIFER = _surface(110, 230, 150, 400, 1050, 1300, 1350, 1450, 650, 300)
CLOUD = np.array((7200, 7000, 7100, 7200, 7300, 7400, 7500, 7500, 4500, 3300), np.float32)
HAZE = np.array((350, 280, 240, 220, 180, 165, 150, 140, 50, 30), np.float32)
"""What the densest haze of the simulation adds."""

BROADLEAF = {
    "spring": _surface(260, 430, 400, 780, 1500, 1750, 1800, 1950, 1700, 950),
    "summer": np.array((880, 760, 500, 840, 2150, 2700, 2600, 2950, 1400, 620), np.float32),
    "autumn": _surface(230, 460, 520, 950, 1650, 1900, 1950, 2150, 1500, 780),
}
"""Broad-leaved trees: buds, full leaf, coloured leaves."""
GARDEN = {
    "spring": _surface(420, 650, 560, 1000, 1950, 2350, 2350, 2550, 1950, 1150),
    "summer": np.array((1080, 1010, 860, 1180, 2150, 2600, 2550, 2850, 1850, 1050), np.float32),
    "autumn": _surface(430, 660, 640, 1050, 1850, 2200, 2200, 2400, 1950, 1200),
}
SHRUBS = {
    "spring": _surface(450, 670, 800, 1130, 1600, 1850, 1900, 2150, 2450, 1600),
    "summer": _surface(420, 640, 740, 1100, 1750, 2050, 2100, 2350, 2400, 1500),
    "autumn": _surface(440, 660, 790, 1130, 1600, 1850, 1900, 2150, 2400, 1600),
}
"""Shrubs with dry grass between them."""
ROUGH_GRASS = {
    "spring": _surface(400, 700, 700, 1200, 2100, 2500, 2600, 2750, 2400, 1400),
    "summer": _surface(360, 680, 600, 1150, 2250, 2700, 2800, 2950, 2400, 1350),
    "autumn": _surface(420, 690, 780, 1200, 1950, 2300, 2400, 2550, 2450, 1500),
}
"""Grass that is neither mown nor grazed much."""
REEDS = {
    "spring": _surface(330, 450, 520, 750, 1050, 1150, 1250, 1350, 1250, 800),
    "summer": _surface(300, 450, 420, 820, 1600, 1900, 2000, 2100, 1300, 700),
    "autumn": _surface(350, 520, 600, 900, 1300, 1450, 1550, 1650, 1450, 900),
}
"""Reeds that stand in water."""
