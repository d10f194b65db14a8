"""A simulated Sentinel-2 landscape with known land use, for the demo and for tests.

Nothing in it is taken from an image. Colours are drawn from per-class statistics of EuroSAT's L1C
patches (``CLASS_MEAN_L1C_DN`` and ``CLASS_STD_L1C_DN``), shapes from simple rules: fields are cut
from rotated strips, towns from a street grid, a river meanders along a sum of sines. The scene is
painted on a 5 m grid and brought to 10 m and 20 m by averaging and a small blur, as optics do.
Colours are drawn as L1C and taken to the surface (L2A) by the inverse of ``model.normalize``.

Pure: a seed in, arrays out; the same seed gives the same arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from landuse.classes import EUROSAT_NAMES
from landuse.model.normalize import PATH_DN, TRANSMITTANCE
from landuse.sentinel2 import DN_PER_REFLECTANCE

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
    Mask: TypeAlias = NDArray[np.bool_]

BANDS_10M = ("B02", "B03", "B04", "B08")
BANDS_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Simulated bands in order of wavelength: the order of the tables below."""

CLASS_MEAN_L1C_DN = {
    "AnnualCrop": (1278, 1300, 1392, 1681, 2693, 3231, 3116, 3560, 2673, 1732),
    "Forest": (829, 709, 426, 770, 2209, 2828, 2770, 3153, 1357, 554),
    "HerbaceousVegetation": (1126, 1075, 1069, 1385, 2064, 2352, 2356, 2637, 2394, 1482),
    "Highway": (1127, 1063, 997, 1270, 2188, 2603, 2526, 2852, 2013, 1242),
    "Industrial": (1412, 1315, 1313, 1460, 1964, 2211, 2099, 2371, 2074, 1492),
    "Pasture": (997, 956, 689, 1213, 2822, 3463, 3412, 3857, 2081, 1033),
    "PermanentCrop": (1217, 1224, 1289, 1580, 2396, 2789, 2711, 3075, 2644, 1734),
    "Residential": (1231, 1132, 1097, 1301, 1965, 2262, 2154, 2441, 1962, 1378),
    "River": (1017, 888, 683, 897, 1652, 2001, 1936, 2177, 1241, 676),
    "SeaLake": (914, 754, 470, 482, 366, 362, 299, 281, 85, 53),
}
"""Mean of each class over EuroSAT's 13-band patches, L1C DN."""

CLASS_STD_L1C_DN = {
    "AnnualCrop": (176, 224, 437, 353, 380, 525, 536, 537, 549, 525),
    "Forest": (23, 44, 40, 62, 232, 321, 412, 366, 161, 76),
    "HerbaceousVegetation": (114, 148, 215, 187, 241, 278, 327, 308, 338, 259),
    "Highway": (207, 238, 376, 285, 448, 603, 701, 663, 439, 395),
    "Industrial": (428, 461, 578, 407, 438, 514, 653, 568, 491, 453),
    "Pasture": (73, 99, 169, 150, 388, 529, 598, 564, 292, 215),
    "PermanentCrop": (168, 223, 357, 274, 274, 329, 382, 350, 422, 383),
    "Residential": (193, 210, 302, 169, 272, 353, 513, 405, 266, 259),
    "River": (147, 200, 275, 307, 754, 978, 1070, 1136, 713, 440),
    "SeaLake": (25, 33, 34, 43, 97, 119, 124, 133, 75, 41),
}
"""Mean standard deviation of each class within a 640 m patch, L1C DN."""

SIZE_PX = 512
"""Side of the landscape in pixels of 10 m."""
FINE = 2
"""The scene is painted on pixels of 10 m / FINE."""

SOIL = np.array((0.7, 0.9, 1.0, 0.9, 0.5, 0.35, 0.3, 0.3, 0.8, 0.9), np.float32)
"""How bare, dry soil brightens each band, in units of the class's std."""
GREEN = np.array((-0.45, -0.35, -0.75, -0.5, 0.7, 1.0, 1.0, 1.0, -0.5, -0.7), np.float32)
"""How green vegetation changes each band, in units of the class's std."""
EVEN = np.ones(len(BANDS), np.float32)

ASPHALT = np.array((1290, 1170, 1130, 1260, 1500, 1600, 1560, 1700, 1650, 1350), np.float32)
CONCRETE = np.array((1750, 1750, 1850, 2000, 2200, 2300, 2300, 2450, 2500, 2200), np.float32)
WHITE_ROOF = np.array((2900, 2950, 3050, 3050, 3150, 3200, 3250, 3250, 3000, 2700), np.float32)
GREY_ROOF = np.array((1800, 1750, 1800, 1850, 1950, 2000, 2000, 2100, 2200, 1950), np.float32)
DARK_ROOF = np.array((1180, 1050, 1000, 1080, 1250, 1350, 1300, 1400, 1500, 1250), np.float32)
TILE_ROOF = np.array((1450, 1480, 1900, 2050, 2300, 2450, 2450, 2600, 2500, 2250), np.float32)
GARDEN = np.array((1080, 1010, 860, 1180, 2150, 2600, 2550, 2850, 1850, 1050), np.float32)
TREES = np.array((880, 760, 500, 840, 2150, 2700, 2600, 2950, 1400, 620), np.float32)
TRACK = np.array((1450, 1500, 1700, 1950, 2300, 2500, 2500, 2700, 3000, 2400), np.float32)
GRAVEL = np.array((1500, 1550, 1650, 1750, 1850, 1900, 1900, 1950, 2100, 1800), np.float32)
RIVER_WATER = np.array((1060, 940, 700, 680, 560, 540, 480, 450, 200, 130), np.float32)
CLOUD = np.array((7200, 7000, 7100, 7200, 7300, 7400, 7500, 7500, 4500, 3300), np.float32)
"""L1C DN of surfaces that are no class of their own."""

SCL_NODATA, SCL_SHADOW, SCL_VEGETATION, SCL_BARE, SCL_WATER, SCL_CLOUD_MEDIUM, SCL_CLOUD = 0, 3, 4, 5, 6, 8, 9
"""Values of Sen2Cor's scene classification that are simulated."""


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Landscape:
    """The land, and how it looked on each date."""

    truth: NDArray[np.uint8]
    """(y, x) class ids at 10 m."""
    dates: tuple[SimulatedDate, ...]
    """Acquisitions in order of time."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Canvas:
    """The scene while it is painted, on the fine grid. Each pixel shows one material."""

    rng: np.random.Generator
    x: Floats
    """(y, x) distance from the left edge in pixels of 10 m."""
    y: Floats
    """(y, x) distance from the upper edge in pixels of 10 m."""
    material: NDArray[np.int32]
    """(y, x) index into ``base`` and ``texture``."""
    pattern: Floats
    """(y, x) texture of about unit variance, which ``texture`` scales for each material and band."""
    base: list[Floats] = field(default_factory=list)
    """(band,) L1C DN of each material."""
    texture: list[Floats] = field(default_factory=list)
    """(band,) L1C DN that one unit of the pattern adds."""

    def add(self, base: Floats, texture: Floats) -> int:
        """A new material's index."""
        self.base.append(base.astype(np.float32))
        self.texture.append(texture.astype(np.float32))
        return len(self.base) - 1

    def paint(self, where: Mask, base: Floats, texture: Floats, pattern: Floats) -> None:
        """One material on ``where``."""
        self.material[where] = self.add(base, texture)
        self.pattern[where] = pattern[where]

    def paint_parcels(
        self, where: Mask, parcel: NDArray[np.int64], colours: Floats, texture: Floats, pattern: Floats
    ) -> None:
        """Parcel ``k`` in colour ``colours[k]``, all with one texture; colours is (parcel, band)."""
        first = len(self.base)
        for colour in colours:
            self.add(colour, texture)
        self.material[where] = first + parcel[where]
        self.pattern[where] = pattern[where]

    def render(self) -> Floats:
        """(band, y, x) L1C DN at 5 m."""
        base, texture = np.stack(self.base), np.stack(self.texture)
        return np.stack(
            [base[self.material, b] + texture[self.material, b] * self.pattern for b in range(len(BANDS))]
        )


def _smooth(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of (..., y, x), edges replicated."""
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (-2, -1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = np.zeros_like(image)
        for k, tap in enumerate(taps):
            window = [slice(None)] * image.ndim
            window[axis] = slice(k, k + size)
            image += tap * padded[tuple(window)]
    return image


def _noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Floats:
    """Smooth random field of mean 0 and variance 1 whose bumps are about ``scale`` cells apart."""
    coarse = rng.standard_normal([int(np.ceil(n / scale)) + 3 for n in shape]).astype(np.float32)
    height, width = shape
    image = Image.fromarray(coarse).resize(
        (width, height), Image.Resampling.BICUBIC, box=(0.5, 0.5, 0.5 + width / scale, 0.5 + height / scale)
    )
    out = np.asarray(image, np.float32)
    scaled: Floats = (out - out.mean()) / out.std()
    return scaled


def _rotated(c: _Canvas, angle_deg: float) -> tuple[Floats, Floats]:
    """Coordinates along and across a direction, in 10 m pixels."""
    a = np.deg2rad(angle_deg)
    cos, sin = np.float32(np.cos(a)), np.float32(np.sin(a))
    return c.x * cos + c.y * sin, c.y * cos - c.x * sin


def _cuts(
    rng: np.random.Generator, low: float, high: float, sizes: tuple[float, float]
) -> NDArray[np.float64]:
    """Increasing positions from ``low`` past ``high`` with random steps of ``sizes``."""
    count = int((high - low) / sizes[0]) + 2
    steps = rng.uniform(*sizes, count)
    positions = low + np.cumsum(steps)
    return positions[positions < high]


def _parcels(
    c: _Canvas, u: Floats, v: Floats, widths: tuple[float, float], lengths: tuple[float, float]
) -> tuple[NDArray[np.int64], int, Floats]:
    """Cut the plane into strips along ``u`` and the strips into parcels.

    Returns:
        (y, x) parcel number, the count of parcels, and (y, x) distance to the parcel's edge in pixels.
    """
    rows = _cuts(c.rng, float(v.min()) - 1, float(v.max()), widths)
    strip = np.searchsorted(rows, v)
    inside = _distance_to_cuts(rows, v)
    parcel = np.zeros(u.shape, np.int64)
    total = 0
    low, high = float(u.min()), float(u.max())
    for k in range(len(rows) + 1):
        cols = _cuts(c.rng, low - c.rng.uniform(0, lengths[1]), high, lengths)
        where = strip == k
        parcel[where] = total + np.searchsorted(cols, u[where])
        inside[where] = np.minimum(inside[where], _distance_to_cuts(cols, u[where]))
        total += len(cols) + 1
    return parcel, total, inside


def _distance_to_cuts(cuts: NDArray[np.float64], position: Floats) -> Floats:
    """Distance to the nearest of the increasing ``cuts``."""
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    k = np.searchsorted(cuts, position)
    nearest: Floats = np.minimum(position - edges[k], edges[k + 1] - position).astype(np.float32)
    return nearest


def _mean(name: str) -> Floats:
    return np.array(CLASS_MEAN_L1C_DN[name], np.float32)


def _std(name: str) -> Floats:
    return np.array(CLASS_STD_L1C_DN[name], np.float32)


def _field_colours(rng: np.random.Generator, name: str, count: int, soil: float, green: float) -> Floats:
    """(parcel, band) colours of a class's parcels: more or less bare, more or less green."""
    bare = soil * rng.standard_normal((count, 1)).astype(np.float32)
    crop = green * rng.standard_normal((count, 1)).astype(np.float32)
    own = 0.1 * rng.standard_normal((count, len(BANDS))).astype(np.float32)
    colours: Floats = _mean(name) + _std(name) * (bare * SOIL + crop * GREEN + own)
    return colours


def _annual_crop(c: _Canvas, where: Mask, angle_deg: float) -> None:
    u, v = _rotated(c, angle_deg)
    bend = 4 * _noise(c.rng, u.shape, 160)
    parcel, count, inside = _parcels(c, u, v + bend, (9, 26), (22, 60))
    colours = _field_colours(c.rng, "AnnualCrop", count, 0.75, 0.9)
    rows = np.sin(2 * np.pi * v / 1.7 + _noise(c.rng, u.shape, 60))
    pattern = 0.5 * rows + 0.6 * _noise(c.rng, u.shape, 3) + 0.8 * _noise(c.rng, u.shape, 24)
    c.paint_parcels(where, parcel, colours, 0.11 * _std("AnnualCrop") * (SOIL - 0.5 * GREEN), pattern)
    # A farm track between some of the strips.
    c.paint(where & (inside < 0.45) & (parcel % 5 == 0), TRACK, 60 * EVEN, pattern)


def _pasture(c: _Canvas, where: Mask, angle_deg: float) -> None:
    u, v = _rotated(c, angle_deg)
    parcel, count, inside = _parcels(
        c, u + 6 * _noise(c.rng, u.shape, 70), v + 6 * _noise(c.rng, u.shape, 70), (16, 34), (18, 40)
    )
    colours = _field_colours(c.rng, "Pasture", count, 0.35, 0.55)
    pattern = 0.4 * _noise(c.rng, u.shape, 3) + 0.9 * _noise(c.rng, u.shape, 22)
    c.paint_parcels(where, parcel, colours, 0.25 * _std("Pasture") * (0.6 * SOIL - 0.6 * GREEN), pattern)
    hedge = (inside < 0.8) & (_noise(c.rng, u.shape, 14) > -0.3)
    tree = _noise(c.rng, u.shape, 5) > 2.6
    c.paint(where & (hedge | tree), TREES, 0.8 * _std("Forest"), _noise(c.rng, u.shape, 3))


def _permanent_crop(c: _Canvas, where: Mask, angle_deg: float) -> None:
    shape = c.x.shape
    u, v = _rotated(c, angle_deg)
    u, v = u + 3 * _noise(c.rng, shape, 90), v + 3 * _noise(c.rng, shape, 90)
    block, count, inside = _parcels(c, u, v, (14, 30), (16, 36))
    colours = _field_colours(c.rng, "PermanentCrop", count, 0.55, 0.6)
    turned = (c.rng.random(count) < 0.5)[block]
    along, across = np.where(turned, v, u), np.where(turned, u, v)
    strip, strips, _ = _parcels(c, along, across, (2.5, 7), (14, 40))
    age = c.rng.standard_normal(strips).astype(np.float32)[strip]
    period = c.rng.uniform(2.0, 4.0, count).astype(np.float32)[block]
    rows = np.sin(2 * np.pi * across / period)
    pattern = 0.8 * age + 0.35 * rows + 0.5 * _noise(c.rng, shape, 3) + 0.3 * _noise(c.rng, shape, 16)
    c.paint_parcels(where, block, colours, 0.3 * _std("PermanentCrop") * (SOIL - 0.6 * GREEN), pattern)
    grove = _noise(c.rng, shape, 9) > 2.0
    c.paint(where & grove, 0.5 * (TREES + GARDEN), _std("Forest"), pattern)
    c.paint(where & (inside < 0.55), TRACK, 90 * EVEN, pattern)


def _herbaceous(c: _Canvas, where: Mask) -> None:
    shape = c.x.shape
    ground = _noise(c.rng, shape, 60)
    pattern = 0.7 * ground + 0.55 * _noise(c.rng, shape, 18) + 0.45 * _noise(c.rng, shape, 6)
    pattern += 0.35 * _noise(c.rng, shape, 3)
    name = "HerbaceousVegetation"
    c.paint(where, _mean(name), _std(name) * (0.85 * SOIL - 0.25 * GREEN), pattern)
    scrub = _noise(c.rng, shape, 6) + 0.8 * _noise(c.rng, shape, 40) - 0.5 * ground > 1.9
    c.paint(where & scrub, 0.5 * (TREES + _mean(name)), 0.4 * _std(name), pattern)
    path = np.abs(_noise(c.rng, shape, 110) + 0.08 * _noise(c.rng, shape, 20)) < 0.02
    c.paint(where & path, TRACK - 100, 80 * EVEN, pattern)


def _forest(c: _Canvas, where: Mask) -> None:
    shape = c.x.shape
    crowns = _noise(c.rng, shape, 4.5) + 0.6 * _noise(c.rng, shape, 2.5)
    pattern = 0.75 * crowns + 0.5 * _noise(c.rng, shape, 45)
    c.paint(where, _mean("Forest"), _std("Forest"), pattern)
    path = np.abs(_noise(c.rng, shape, 150) + 0.1 * _noise(c.rng, shape, 25)) < 0.012
    c.paint(where & path, 0.6 * _mean("Forest") + 0.4 * TRACK, 40 * EVEN, pattern)


def _residential(c: _Canvas, where: Mask, angle_deg: float) -> None:
    shape = c.x.shape
    u, v = _rotated(c, angle_deg)
    u = u + 5 * _noise(c.rng, shape, 130)
    v = v + 5 * _noise(c.rng, shape, 130)
    pattern = _noise(c.rng, shape, 3)
    c.paint(where, GARDEN, np.array((60, 70, 90, 90, 200, 260, 280, 280, 150, 120), np.float32), pattern)
    c.paint(where & (_noise(c.rng, shape, 4) > 1.0), TREES, 0.7 * _std("Forest"), pattern)
    # Plots of about 20 m x 20 m; a house of 10 to 20 m stands on most of them.
    cell_u, cell_v = np.floor(u / 2.1).astype(np.int64), np.floor(v / 2.3).astype(np.int64)
    plot = (cell_u - cell_u.min()) * (cell_v.max() - cell_v.min() + 1) + (cell_v - cell_v.min())
    count = int(plot.max()) + 1
    width, depth = (c.rng.uniform(0.9, 1.7, count).astype(np.float32)[plot] for _ in range(2))
    house = (u % 2.1 < width) & (v % 2.3 < depth) & (c.rng.random(count) < 0.8)[plot]
    kind = c.rng.choice(4, count, p=(0.45, 0.2, 0.2, 0.15))[plot]
    for index, roof in enumerate((TILE_ROOF, GREY_ROOF, DARK_ROOF, 0.5 * (WHITE_ROOF + GREY_ROOF))):
        c.paint(where & house & (kind == index), roof, 0.1 * roof, pattern)
    street = (u % 10.5 < 0.8) | (v % 8.4 < 0.8)
    c.paint(where & street, ASPHALT, 60 * EVEN, pattern)
    park = _noise(c.rng, shape, 40) > 2.1
    c.paint(where & park, 0.5 * (GARDEN + _mean("Pasture")), 60 * EVEN, pattern)


def _industrial(c: _Canvas, where: Mask, angle_deg: float) -> None:
    shape = c.x.shape
    u, v = _rotated(c, angle_deg)
    pattern = _noise(c.rng, shape, 3)
    parcel, count, inside = _parcels(c, u, v, (9, 20), (10, 26))
    yards = np.stack((ASPHALT, CONCRETE - 250, 0.5 * (GARDEN + GRAVEL), GARDEN))
    ground = yards[c.rng.choice(4, count, p=(0.5, 0.2, 0.15, 0.15))]
    c.paint_parcels(where, parcel, ground, 110 * EVEN, pattern)
    hall, halls, to_edge = _parcels(c, u, v, (4, 11), (5, 14))
    built = (c.rng.random(halls) < 0.62)[hall] & (to_edge > 0.55) & (inside > 1.0)
    roofs = np.stack((WHITE_ROOF, GREY_ROOF, DARK_ROOF, TILE_ROOF))
    colours = roofs[c.rng.choice(4, halls, p=(0.36, 0.34, 0.22, 0.08))]
    colours = colours * c.rng.uniform(0.8, 1.15, (halls, 1)).astype(np.float32)
    c.paint_parcels(where & built, hall, colours, 50 * EVEN, pattern)
    c.paint(where & (inside < 0.7), ASPHALT, 50 * EVEN, pattern)
    c.paint(where & ~built & (inside > 0.7) & (inside < 1.5), TREES + 150, 60 * EVEN, pattern)


def _lake(c: _Canvas, where: Mask) -> None:
    shape = c.x.shape
    pattern = 0.5 * _noise(c.rng, shape, 200) + 0.15 * _noise(c.rng, shape, 3)
    c.paint(where, _mean("SeaLake"), 0.5 * _std("SeaLake"), pattern)


def _river(c: _Canvas, distance: Floats) -> None:
    """Water, gravel and riparian woods; ``distance`` is from the centre line in pixels."""
    shape = c.x.shape
    wobble = 0.9 * _noise(c.rng, shape, 24)
    woods = 13.5 + 4 * _noise(c.rng, shape, 50)
    crowns = _noise(c.rng, shape, 4)
    meadow = np.abs(distance) < 23
    c.paint(meadow, _mean("Pasture") + 40, 0.3 * _std("Pasture"), _noise(c.rng, shape, 14))
    c.paint(np.abs(distance) + wobble < woods, TREES, 1.2 * _std("Forest"), crowns)
    bar = _noise(c.rng, shape, 60) > 0.9
    c.paint((np.abs(distance) + wobble < 8.6) & bar, GRAVEL, 120 * EVEN, crowns)
    ripple = 0.6 * _noise(c.rng, shape, 90) + 0.2 * _noise(c.rng, shape, 3)
    c.paint(np.abs(distance) + wobble < 7.2, RIVER_WATER, 45 * EVEN, ripple)


def _mixed_land(c: _Canvas, where: Mask, angle_deg: float) -> Mask:
    """Small green fields and copses, what motorways are built through. Returns where the copses are."""
    shape = c.x.shape
    u, v = _rotated(c, angle_deg)
    bend = 6 * _noise(c.rng, shape, 70)
    parcel, count, _ = _parcels(c, u + bend, v + bend, (12, 30), (16, 40))
    colours = _field_colours(c.rng, "Highway", count, 0.4, 0.5)
    pattern = 0.5 * _noise(c.rng, shape, 3) + 0.8 * _noise(c.rng, shape, 20)
    c.paint_parcels(where, parcel, colours, 0.15 * _std("Highway") * (SOIL - 0.6 * GREEN), pattern)
    copse = where & (c.rng.random(count) < 0.35)[parcel]
    c.paint(copse, TREES, 1.2 * _std("Forest"), _noise(c.rng, shape, 4))
    return copse


def _motorway(c: _Canvas, distance: Floats, junction_x: float, junction_y: float) -> None:
    """Two carriageways with verges, and a junction with a road that crosses."""
    pattern = _noise(c.rng, c.x.shape, 3)
    across = c.x - junction_x + 0.25 * (c.y - junction_y)
    near = np.hypot(c.x - junction_x, c.y - junction_y)
    ramps = np.zeros(c.x.shape, bool)
    for side_x, side_y in ((-1, -1), (1, 1), (-1, 1), (1, -1)):
        loop = np.hypot(c.x - junction_x - 6.5 * side_x, c.y - junction_y - 6.5 * side_y)
        ramps |= np.abs(loop - 5.5) < 0.7
    crossing = (np.abs(across) < 0.9) & (np.abs(c.y - junction_y) < 80)
    verge = (np.abs(distance) < 3.6) | (near < 14)
    c.paint(verge, GARDEN + 40, 90 * EVEN, pattern)
    c.paint(ramps | crossing, 0.6 * ASPHALT + 0.4 * CONCRETE, 50 * EVEN, pattern)
    c.paint(np.abs(distance) < 2.3, 0.5 * ASPHALT + 0.5 * CONCRETE, 60 * EVEN, pattern)
    c.paint(np.abs(distance) < 0.35, GARDEN, 60 * EVEN, pattern)


def _landscape(rng: np.random.Generator) -> tuple[_Canvas, NDArray[np.uint8]]:
    """The painted land and its (y, x) classes, both on the fine grid."""
    side = SIZE_PX * FINE
    axis = ((np.arange(side) + 0.5) / FINE).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    c = _Canvas(
        rng=rng,
        x=x,
        y=y,
        material=np.zeros((side, side), np.int32),
        pattern=np.zeros((side, side), np.float32),
    )
    xw = x + 5 * _noise(rng, x.shape, 100)
    yw = y + 5 * _noise(rng, x.shape, 100)
    truth = np.zeros((side, side), np.uint8)

    def zone(name: str, where: Mask) -> Mask:
        truth[where] = EUROSAT_NAMES.index(name)
        return where

    meander = x - (176 + 20 * np.sin(2 * np.pi * y / 210 + 0.6) + 7 * np.sin(2 * np.pi * y / 83))
    left, right = meander < 0, xw > 352
    middle = ~left & ~right
    road_y = 425 - 0.22 * (x - 256) + 22 * np.sin(2 * np.pi * x / 520 + 0.4)
    # The vertical distance, shortened by the road's slope, is the distance to the road.
    road = (y - road_y) / np.hypot(1, np.gradient(road_y, 1 / FINE, axis=1))
    _annual_crop(c, zone("AnnualCrop", left), 24)
    _annual_crop(c, zone("AnnualCrop", middle), -38)
    _annual_crop(c, zone("AnnualCrop", right), 8)
    _forest(c, zone("Forest", left & (yw < 150)))
    _pasture(c, zone("Pasture", left & (yw >= 150) & (yw < 285)), 12)
    _herbaceous(c, zone("HerbaceousVegetation", middle & (yw < 140)))
    _permanent_crop(c, zone("PermanentCrop", middle & (yw >= 140) & (yw < 285)), -20)
    _forest(c, zone("Forest", right & (yw < 130)))
    _residential(c, zone("Residential", right & (yw >= 130) & (yw < 255)), 17)
    shore = np.hypot((xw - 470) / 116, (yw - 22) / 116)
    _lake(c, zone("SeaLake", shore + 0.04 * _noise(rng, x.shape, 40) < 1))
    _river(c, meander)
    belt = (np.abs(road) < 38 + 6 * _noise(rng, x.shape, 60)) & (np.abs(meander) > 18)
    zone("Forest", _mixed_land(c, belt, 40))
    _industrial(c, zone("Industrial", right & (yw >= 255) & (yw < 338)), -9)
    zone("River", np.abs(meander) < 19)
    zone("Highway", np.abs(road) < 18)
    _motorway(c, road, 268.0, float(road_y[0, 268 * FINE]))
    return c, truth


def _to_surface(l1c_dn: Floats) -> Floats:
    """(band, y, x) L1C DN to surface reflectance, the inverse of ``normalize``'s first-order atmosphere."""
    path = np.array([PATH_DN[band] for band in BANDS], np.float32)[:, None, None]
    gain = np.array([TRANSMITTANCE[band] for band in BANDS], np.float32)[:, None, None]
    return ((l1c_dn - path) / gain / DN_PER_REFLECTANCE).astype(np.float32)


def _mean_blocks(image: NDArray[np.floating], factor: int) -> Floats:
    """(..., y, x) averaged over squares of ``factor`` pixels."""
    *rest, height, width = image.shape
    squares = image.reshape(*rest, height // factor, factor, width // factor, factor)
    averaged: Floats = squares.mean((-3, -1), dtype=np.float32)
    return averaged


def _acquire(
    land_l1c_dn: Floats, rng: np.random.Generator, acquired_utc: datetime, *, swath_edge: bool
) -> SimulatedDate:
    """One date: clouds and their shadows over the land, the sensor's blur and noise."""
    side = land_l1c_dn.shape[-1]
    # Clouds are drawn beyond the scene, so that those outside it cast their shadows too. The sun
    # stands in the south-east: a shadow falls 350 m north and 250 m west of its cloud.
    north, west = 35 * FINE, 25 * FINE
    sky = (side + north, side + west)
    billow = _noise(rng, sky, 170) + 0.35 * _noise(rng, sky, 50) + 0.12 * _noise(rng, sky, 14)
    clouds = np.clip((billow - 1.75) / 0.35, 0, 1)
    opacity, shadow = clouds[:side, :side], clouds[north:, west:]
    seen = land_l1c_dn * (1 - 0.6 * shadow) * (1 - opacity) + CLOUD[:, None, None] * opacity
    ten = _smooth(_mean_blocks(_to_surface(seen), FINE), 0.5)
    ten += rng.normal(0, 6 / DN_PER_REFLECTANCE, ten.shape).astype(np.float32)
    twenty = _mean_blocks(ten, 2)
    cloud, shade = _mean_blocks(opacity, 2 * FINE), _mean_blocks(shadow, 2 * FINE)
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


def simulate(seed: int) -> Landscape:
    """The landscape of a seed, acquired twice, five days apart."""
    rng = np.random.default_rng(seed)
    canvas, truth = _landscape(rng)
    land = canvas.render()
    return Landscape(
        truth=truth[FINE // 2 :: FINE, FINE // 2 :: FINE],
        dates=(
            _acquire(land, rng, datetime(2024, 6, 11, 10, 0, 31, tzinfo=UTC), swath_edge=False),
            _acquire(land, rng, datetime(2024, 6, 16, 10, 0, 29, tzinfo=UTC), swath_edge=True),
        ),
    )
