"""A simulated landscape whose land use and land cover are known, for the demo and for tests.

Nothing in it is taken from an image: colours come from the tables of ``spectra``, shapes from simple rules.
Fields are cut from rotated strips, towns from a street grid, a river meanders along a sum of sines. It holds
what makes real scenes hard: hedges, small woods, hamlets and single farms, brooks between rows of trees,
narrow roads, dark conifers on slopes that face away from the sun, ponds, a quarry, reeds and scrub.

The scene is painted on a grid of 5 m. The truth of a 10 m pixel is what fills most of it, by these rules:

- a settlement is its plots: houses, streets and the gardens and trees between them; parks are grass;
- an industrial zone is its halls, yards and the strips of green between them;
- what is much narrower than a pixel (farm tracks, forest paths) belongs to what surrounds it;
- lawns, parks and verges are grass, of which the classes of land use name no use: their use is unknown.

Pure: a seed in, arrays out; the same seed gives the same arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from landuse.classes import LAND_COVER_NAMES, LAND_USE_NAMES
from landuse.pipeline.cells import NODATA_ID
from landuse.workflows.demo.acquisition import SimulatedDate, acquire, season_dates
from landuse.workflows.demo.shapes import from_curve, mean_blocks, noise, parcels, rotated, smooth
from landuse.workflows.demo.spectra import (
    ASPHALT,
    BANDS,
    BROADLEAF,
    CONCRETE,
    CONIFER,
    DARK_ROOF,
    EVEN,
    GARDEN,
    GRAVEL,
    GREEN,
    GREY_ROOF,
    QUARRY,
    REEDS,
    RIVER_WATER,
    ROUGH_GRASS,
    SHRUBS,
    SOIL,
    TILE_ROOF,
    TRACK,
    WHITE_ROOF,
    field_colours,
    in_season,
    std,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
    Mask: TypeAlias = NDArray[np.bool_]

SIZE_PX = 512
"""Side of the landscape in pixels of 10 m."""
FINE = 2
"""The scene is painted on pixels of 10 m / FINE."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Landscape:
    """The land, and how it looked on each date."""

    landuse: NDArray[np.uint8]
    """(y, x) ids in ``classes.LAND_USE`` at 10 m; ``NODATA_ID`` where no class names the use."""
    cover: NDArray[np.uint8]
    """(y, x) ids in ``classes.LAND_COVER`` at 10 m."""
    dates: tuple[SimulatedDate, ...]
    """Acquisitions in order of time."""


KINDS = {
    "field": ("Crops", "AnnualCrop"),
    "orchard": ("Crops", "PermanentCrop"),
    "wood": ("Trees", "Forest"),
    "meadow": ("Grass", "Pasture"),
    "wild grass": ("Grass", "HerbaceousVegetation"),
    "lawn": ("Grass", None),
    "scrub": ("ShrubScrub", "Shrubland"),
    "marsh": ("FloodedVegetation", "Wetland"),
    "settlement": ("Built", "Residential"),
    "works": ("Built", "Industrial"),
    "road": ("Built", "Highway"),
    "river": ("Water", "River"),
    "lake": ("Water", "SeaLake"),
    "stone": ("Bare", "Bare"),
}
"""What a piece of land is: its cover, and its use where a class names it."""
_KIND_NAMES = tuple(KINDS)
_COVER_OF_KIND = np.array([LAND_COVER_NAMES.index(cover) for cover, _ in KINDS.values()], np.uint8)
_USE_OF_KIND = np.array(
    [NODATA_ID if use is None else LAND_USE_NAMES.index(use) for _, use in KINDS.values()], np.uint8
)


@dataclass(slots=True, kw_only=True, eq=False)
class _Canvas:
    """The scene while it is painted, on the fine grid. Each pixel shows one material."""

    rng: np.random.Generator
    season: str
    x: Floats
    """(y, x) distance from the left edge in pixels of 10 m."""
    y: Floats
    """(y, x) distance from the upper edge in pixels of 10 m."""
    material: NDArray[np.int32]
    """(y, x) index into ``base`` and ``texture``; what is painted later has a higher one."""
    kind: NDArray[np.uint8]
    """(y, x) index into ``KINDS``."""
    pattern: Floats
    """(y, x) texture of about unit variance, which ``texture`` scales for each material and band."""
    base: list[Floats] = field(default_factory=list)
    """(band,) L1C DN of each material."""
    texture: list[Floats] = field(default_factory=list)
    """(band,) L1C DN that one unit of the pattern adds."""

    def noise(self, scale: float) -> Floats:
        """Random field whose bumps are about ``scale`` fine pixels apart."""
        return noise(self.rng, self.x.shape, scale)

    def add(self, base: Floats, texture: Floats) -> int:
        """A new material's index."""
        self.base.append(base.astype(np.float32))
        self.texture.append(texture.astype(np.float32))
        return len(self.base) - 1

    def paint(self, where: Mask, base: Floats, texture: Floats, pattern: Floats, kind: str | None) -> None:
        """One material on ``where``; without a kind it belongs to what it is painted on."""
        self.material[where] = self.add(base, texture)
        self._finish(where, pattern, kind)

    def paint_parcels(
        self,
        where: Mask,
        parcel: NDArray[np.int64],
        colours: Floats,
        texture: Floats,
        pattern: Floats,
        kind: str,
    ) -> None:
        """Parcel ``k`` in colour ``colours[k]``, all with one texture; colours is (parcel, band)."""
        first = len(self.base)
        for colour in colours:
            self.add(colour, texture)
        self.material[where] = first + parcel[where]
        self._finish(where, pattern, kind)

    def _finish(self, where: Mask, pattern: Floats, kind: str | None) -> None:
        self.pattern[where] = pattern[where]
        if kind is not None:
            self.kind[where] = _KIND_NAMES.index(kind)

    def render(self) -> Floats:
        """(band, y, x) L1C DN at 10 m, as if all land lay level."""
        base, texture = np.stack(self.base), np.stack(self.texture)
        bands = [
            mean_blocks(base[self.material, b] + texture[self.material, b] * self.pattern, FINE)
            for b in range(len(BANDS))
        ]
        return np.stack(bands)

    def major_kind(self) -> NDArray[np.uint8]:
        """(y, x) the kind that fills most of each 10 m pixel; of two that fill as much, the later one."""
        parts = [
            (self.kind[r::FINE, c::FINE], self.material[r::FINE, c::FINE]) for r, c in np.ndindex(FINE, FINE)
        ]
        kinds, order = (np.stack(both) for both in zip(*parts, strict=True))  # (part, y, x)
        votes = (kinds[:, None] == kinds[None]).sum(1)
        best = (votes * (1 + order.max()) + order).argmax(0)
        major: NDArray[np.uint8] = np.take_along_axis(kinds, best[None], 0)[0]
        return major


def _fields(c: _Canvas, where: Mask, angle_deg: float) -> None:
    """Fields of annual crops, some with a hedge or a farm track between them."""
    u, v = rotated(c.x, c.y, angle_deg)
    bend = 4 * c.noise(160)
    parcel, count, inside = parcels(c.rng, u, v + bend, (9, 26), (22, 60))
    colours = field_colours(c.rng, "AnnualCrop", c.season, count, soil=0.75, green=0.9)
    rows = np.sin(2 * np.pi * v / 1.7 + c.noise(60))
    pattern = 0.5 * rows + 0.6 * c.noise(3) + 0.8 * c.noise(24)
    c.paint_parcels(where, parcel, colours, 0.11 * std("AnnualCrop") * (SOIL - 0.5 * GREEN), pattern, "field")
    c.paint(where & (inside < 0.45) & (parcel % 5 == 0), TRACK, 60 * EVEN, pattern, None)
    hedge = (inside < 0.8) & (parcel % 6 == 1) & (c.noise(16) > -0.4)
    _trees(c, where & hedge)


def _trees(c: _Canvas, where: Mask) -> None:
    """Broad-leaved trees and bushes: hedges, copses, rows along water."""
    c.paint(where, BROADLEAF[c.season], 1.0 * std("Forest"), c.noise(3.5), "wood")


def _pasture(c: _Canvas, where: Mask, angle_deg: float) -> None:
    u, v = rotated(c.x, c.y, angle_deg)
    parcel, count, inside = parcels(c.rng, u + 6 * c.noise(70), v + 6 * c.noise(70), (16, 34), (18, 40))
    colours = field_colours(c.rng, "Pasture", c.season, count, soil=0.35, green=0.55)
    pattern = 0.4 * c.noise(3) + 0.9 * c.noise(22)
    texture = 0.25 * std("Pasture") * (0.6 * SOIL - 0.6 * GREEN)
    c.paint_parcels(where, parcel, colours, texture, pattern, "meadow")
    hedge = (inside < 0.9) & (c.noise(14) > -0.3)
    single = c.noise(5) > 2.6
    _trees(c, where & (hedge | single))


def _orchards(c: _Canvas, where: Mask, angle_deg: float) -> None:
    u, v = rotated(c.x, c.y, angle_deg)
    u, v = u + 3 * c.noise(90), v + 3 * c.noise(90)
    block, count, inside = parcels(c.rng, u, v, (14, 30), (16, 36))
    colours = field_colours(c.rng, "PermanentCrop", c.season, count, soil=0.55, green=0.6)
    turned = (c.rng.random(count) < 0.5)[block]
    along, across = np.where(turned, v, u), np.where(turned, u, v)
    strip, strips, _ = parcels(c.rng, along, across, (2.5, 7), (14, 40))
    age = c.rng.standard_normal(strips).astype(np.float32)[strip]
    period = c.rng.uniform(2.0, 4.0, count).astype(np.float32)[block]
    rows = np.sin(2 * np.pi * across / period)
    pattern = 0.8 * age + 0.35 * rows + 0.5 * c.noise(3) + 0.3 * c.noise(16)
    texture = 0.3 * std("PermanentCrop") * (SOIL - 0.6 * GREEN)
    c.paint_parcels(where, block, colours, texture, pattern, "orchard")
    _trees(c, where & (c.noise(9) > 2.0))
    c.paint(where & (inside < 0.55), TRACK, 90 * EVEN, pattern, None)


def _wild_grass(c: _Canvas, where: Mask) -> None:
    """Rough grass with scrub that grows denser in places, and groups of trees."""
    ground = c.noise(60)
    pattern = 0.7 * ground + 0.55 * c.noise(18) + 0.45 * c.noise(6) + 0.35 * c.noise(3)
    spread = std("HerbaceousVegetation")
    texture = spread * (0.6 * SOIL - 0.25 * GREEN)
    c.paint(where, ROUGH_GRASS[c.season], texture, pattern, "wild grass")
    density = c.noise(8) + 1.3 * c.noise(70) - 0.5 * ground
    c.paint(where & (density > 0.5), SHRUBS[c.season], 0.4 * texture, pattern, "scrub")
    _trees(c, where & (density + 0.5 * c.noise(10) > 2.6))
    path = np.abs(c.noise(110) + 0.08 * c.noise(20)) < 0.02
    c.paint(where & path, TRACK - 100, 80 * EVEN, pattern, None)


def _forest(c: _Canvas, where: Mask, conifer_share: float) -> None:
    """Stands of broad-leaved trees and of conifers, clearings, and paths."""
    crowns: Floats = np.float32(0.75) * (c.noise(4.5) + np.float32(0.6) * c.noise(2.5))
    c.paint(where, BROADLEAF[c.season], std("Forest"), crowns + 0.5 * c.noise(45), "wood")
    stands = c.noise(50) + 0.3 * c.noise(12)
    conifers = where & (stands < np.quantile(stands[where], conifer_share))
    c.paint(conifers, CONIFER, 0.45 * std("Forest"), crowns, "wood")
    clearing = where & (c.noise(34) > 1.9)
    c.paint(clearing, ROUGH_GRASS[c.season], 0.4 * std("HerbaceousVegetation"), crowns, "wild grass")
    path = np.abs(c.noise(150) + 0.1 * c.noise(25)) < 0.012
    c.paint(where & path, 0.6 * BROADLEAF[c.season] + 0.4 * TRACK, 40 * EVEN, crowns, None)


def _plots(c: _Canvas, where: Mask, u: Floats, v: Floats, *, side: float, house: tuple[float, float]) -> None:
    """Plots with gardens, trees and a house on most of them."""
    pattern = c.noise(3)
    garden = np.array((60, 70, 90, 90, 200, 260, 280, 280, 150, 120), np.float32)
    c.paint(where, GARDEN[c.season], garden, pattern, "settlement")
    c.paint(where & (c.noise(4) > 1.0), BROADLEAF[c.season], 0.7 * std("Forest"), pattern, None)
    deep = 1.1 * side
    cell_u, cell_v = np.floor(u / side).astype(np.int64), np.floor(v / deep).astype(np.int64)
    plot = (cell_u - cell_u.min()) * (cell_v.max() - cell_v.min() + 1) + (cell_v - cell_v.min())
    count = int(plot.max()) + 1
    width, depth = (c.rng.uniform(*house, count).astype(np.float32)[plot] for _ in range(2))
    built = (u % side < width) & (v % deep < depth) & (c.rng.random(count) < 0.8)[plot]
    colour = c.rng.choice(4, count, p=(0.45, 0.2, 0.2, 0.15))[plot]
    for index, roof in enumerate((TILE_ROOF, GREY_ROOF, DARK_ROOF, 0.5 * (WHITE_ROOF + GREY_ROOF))):
        c.paint(where & built & (colour == index), roof, 0.1 * roof, pattern, None)


def _town(c: _Canvas, where: Mask, angle_deg: float) -> None:
    u, v = rotated(c.x, c.y, angle_deg)
    u, v = u + 5 * c.noise(130), v + 5 * c.noise(130)
    # Plots of about 20 m x 20 m; a house of 10 to 20 m stands on most of them.
    _plots(c, where, u, v, side=2.1, house=(0.9, 1.7))
    street = (u % 10.5 < 0.8) | (v % 8.4 < 0.8)
    c.paint(where & street, ASPHALT, 60 * EVEN, c.noise(3), None)
    park = where & (c.noise(40) > 2.1)
    c.paint(park, 0.5 * (GARDEN[c.season] + in_season("Pasture", c.season)), 60 * EVEN, c.noise(3), "lawn")
    _trees(c, park & (c.noise(10) > 0.9))


def _hamlets(c: _Canvas, farmland: Mask, roads: Floats) -> Mask:
    """Hamlets beside roads and single farms in the fields. Returns where they are."""
    built = np.zeros(c.x.shape, bool)
    outline = 1 + 0.3 * c.noise(12)
    by_road = np.argwhere(farmland & (np.abs(roads) < 5))
    anywhere = np.argwhere(farmland & (np.abs(roads) > 12))
    sites = [(by_road, 9, (5.0, 13.0)), (anywhere, 14, (1.8, 3.2))]
    for places, number, radii in sites:
        for row, col in places[c.rng.choice(len(places), number, replace=False)]:
            distance = np.hypot(c.x - c.x[row, col], c.y - c.y[row, col])
            built |= distance < c.rng.uniform(*radii) * outline
    built &= farmland
    u, v = rotated(c.x, c.y, 31)
    # Farms have larger houses, barns and more garden than towns.
    _plots(c, built, u + 3 * c.noise(40), v + 3 * c.noise(40), side=3.0, house=(1.0, 2.3))
    return built


def _industry(c: _Canvas, where: Mask, angle_deg: float) -> None:
    u, v = rotated(c.x, c.y, angle_deg)
    pattern = c.noise(3)
    parcel, count, inside = parcels(c.rng, u, v, (9, 20), (10, 26))
    garden = GARDEN[c.season]
    yards = np.stack((ASPHALT, CONCRETE - 250, 0.5 * (garden + GRAVEL), garden))
    ground = yards[c.rng.choice(4, count, p=(0.5, 0.2, 0.15, 0.15))]
    c.paint_parcels(where, parcel, ground, 110 * EVEN, pattern, "works")
    hall, halls, to_edge = parcels(c.rng, u, v, (4, 11), (5, 14))
    built = (c.rng.random(halls) < 0.62)[hall] & (to_edge > 0.55) & (inside > 1.0)
    roofs = np.stack((WHITE_ROOF, GREY_ROOF, DARK_ROOF, TILE_ROOF))
    colours = roofs[c.rng.choice(4, halls, p=(0.36, 0.34, 0.22, 0.08))]
    colours = colours * c.rng.uniform(0.8, 1.15, (halls, 1)).astype(np.float32)
    c.paint_parcels(where & built, hall, colours, 50 * EVEN, pattern, "works")
    c.paint(where & (inside < 0.7), ASPHALT, 50 * EVEN, pattern, None)
    green = where & ~built & (inside > 0.7) & (inside < 1.5)
    c.paint(green, BROADLEAF[c.season] + 150, 60 * EVEN, pattern, None)


def _lake(c: _Canvas, shore: Floats) -> None:
    """Open water, and reeds along a part of the shore; ``shore`` is 0 in the middle and 1 at the shore."""
    pattern = 0.5 * c.noise(200) + 0.15 * c.noise(3)
    c.paint(shore < 1, in_season("SeaLake", c.season), 0.5 * std("SeaLake"), pattern, "lake")
    reeds = (np.abs(shore - 0.98) < 0.045 + 0.02 * c.noise(20)) & (c.noise(90) > -0.2)
    c.paint(reeds, REEDS[c.season], 0.35 * std("HerbaceousVegetation"), c.noise(3), "marsh")


def _ponds(c: _Canvas, farmland: Mask) -> None:
    """Fish ponds of 60 to 160 m."""
    places = np.argwhere(farmland)
    outline = 1 + 0.15 * c.noise(12)
    for row, col in places[c.rng.choice(len(places), 5, replace=False)]:
        radius = c.rng.uniform(3, 8) * outline
        distance = np.hypot(c.x - c.x[row, col], c.y - c.y[row, col])
        _trees(c, (distance < radius + 1.5) & (c.noise(8) > 0.2))
        c.paint(distance < radius, RIVER_WATER, 40 * EVEN, c.noise(20), "lake")


def _river(c: _Canvas, distance: Floats) -> None:
    """Water, gravel and riparian woods; ``distance`` is from the centre line in pixels."""
    wobble = 0.9 * c.noise(24)
    woods = 13.5 + 4 * c.noise(50)
    crowns = c.noise(4)
    meadow = in_season("Pasture", c.season) + 40
    c.paint(np.abs(distance) < 23, meadow, 0.3 * std("Pasture"), c.noise(14), "meadow")
    c.paint(np.abs(distance) + wobble < woods, BROADLEAF[c.season], 1.2 * std("Forest"), crowns, "wood")
    bar = c.noise(60) > 0.9
    c.paint((np.abs(distance) + wobble < 8.6) & bar, GRAVEL, 120 * EVEN, crowns, "stone")
    ripple = 0.6 * c.noise(90) + 0.2 * c.noise(3)
    c.paint(np.abs(distance) + wobble < 7.2, RIVER_WATER, 45 * EVEN, ripple, "river")


def _brook(c: _Canvas, where: Mask, distance: Floats, width: float) -> None:
    """A brook between rows of trees with gaps."""
    bank = np.abs(distance) < width / 2 + 1.4 + 0.4 * c.noise(10)
    _trees(c, where & bank & (c.noise(22) > -0.7))
    c.paint(where & (np.abs(distance) < width / 2), RIVER_WATER, 40 * EVEN, c.noise(6), "river")


def _road(c: _Canvas, where: Mask, distance: Floats, width: float) -> None:
    """A road with narrow verges; a row of trees stands along parts of it."""
    _trees(c, where & (np.abs(distance - width / 2 - 0.9) < 0.55) & (c.noise(30) > 0.9))
    edge = np.abs(distance) < width / 2 + 0.3
    c.paint(where & edge, GARDEN[c.season], 90 * EVEN, c.noise(3), None)
    c.paint(where & (np.abs(distance) < width / 2), ASPHALT + 150, 50 * EVEN, c.noise(3), "road")


def _motorway(c: _Canvas, distance: Floats, junction_x: float, junction_y: float) -> None:
    """Two carriageways with verges, together 30 m wide, and a junction with a road that crosses."""
    pattern = c.noise(3)
    across = c.x - junction_x + 0.25 * (c.y - junction_y)
    near = np.hypot(c.x - junction_x, c.y - junction_y)
    ramps = np.zeros(c.x.shape, bool)
    for side_x, side_y in ((-1, -1), (1, 1), (-1, 1), (1, -1)):
        loop = np.hypot(c.x - junction_x - 6.5 * side_x, c.y - junction_y - 6.5 * side_y)
        ramps |= np.abs(loop - 5.5) < 0.6
    crossing = (np.abs(across) < 0.6) & (np.abs(c.y - junction_y) < 80)
    verge = (np.abs(distance) < 2.6) | (near < 14)
    c.paint(verge, GARDEN[c.season] + 40, 90 * EVEN, pattern, "lawn")
    c.paint(ramps | crossing, 0.6 * ASPHALT + 0.4 * CONCRETE, 50 * EVEN, pattern, "road")
    c.paint(np.abs(distance) < 1.5, 0.5 * ASPHALT + 0.5 * CONCRETE, 60 * EVEN, pattern, "road")
    c.paint(np.abs(distance) < 0.2, GARDEN[c.season], 60 * EVEN, pattern, None)


def _heights(c: _Canvas, hills: Floats) -> Floats:
    """(y, x) height in metres at 10 m: ridges and valleys where ``hills`` is 1, level land where it is 0."""
    ridges = noise(c.rng, hills.shape, 34) + 0.35 * noise(c.rng, hills.shape, 13)
    heights: Floats = smooth(hills * (45 * ridges + 100), 2.0)
    return heights


def _landscape(rng: np.random.Generator, season: str) -> tuple[_Canvas, Floats]:
    """The painted land, and its heights at 10 m."""
    side = SIZE_PX * FINE
    axis = ((np.arange(side) + 0.5) / FINE).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    c = _Canvas(
        rng=rng,
        season=season,
        x=x,
        y=y,
        material=np.zeros((side, side), np.int32),
        kind=np.zeros((side, side), np.uint8),
        pattern=np.zeros((side, side), np.float32),
    )
    xw, yw = x + 5 * c.noise(100), y + 5 * c.noise(100)
    meander = x - (176 + 20 * np.sin(2 * np.pi * y / 210 + 0.6) + 7 * np.sin(2 * np.pi * y / 83))
    left, right = meander < 0, xw > 352
    middle = ~left & ~right
    farmland = np.ones(x.shape, bool)

    def zone(where: Mask) -> Mask:
        """The same mask; it is no farmland from here on."""
        farmland[where] = False
        return where

    _fields(c, left, 24)
    _fields(c, middle, -38)
    _fields(c, right, 8)
    _pasture(c, left & (yw >= 150) & (yw < 285), 12)
    _trees(c, c.noise(18) > 1.9)  # small woods
    _ponds(c, farmland & (np.abs(meander) > 30) & (y > 290))
    brooks = (
        (left, from_curve(y, 330 + 12 * np.sin(x / 17) + 0.1 * x, 1, 1 / FINE), 1.6),
        (~left, from_curve(y, 318 + 10 * np.sin(x / 23 + 1) - 0.09 * x, 1, 1 / FINE), 1.2),
    )
    for where, distance, width in brooks:
        _brook(c, where, distance, width)
    hill_land = zone(left & (yw < 150))
    _forest(c, hill_land, 0.6)
    _wild_grass(c, zone(middle & (yw < 140)))
    _orchards(c, zone(middle & (yw >= 140) & (yw < 285)), -20)
    _forest(c, zone(right & (yw < 130)), 0.3)
    quarry = zone(np.hypot(x - 118, y - 112) < 11 + 2.5 * c.noise(24))
    c.paint(quarry, QUARRY, 350 * EVEN, 0.7 * c.noise(12) + 0.5 * c.noise(4), "stone")
    roads = (
        from_curve(x, 84 + 26 * np.sin(y / 61 + 0.5), 0, 1 / FINE),
        from_curve(x, 300 + 20 * np.sin(y / 47) - 0.1 * y, 0, 1 / FINE),
        from_curve(y, 232 + 16 * np.sin(x / 70) + 0.06 * x, 1, 1 / FINE),
        from_curve(y, 372 + 14 * np.sin(x / 52 + 2), 1, 1 / FINE),
    )
    off_river = np.abs(meander) > 24
    off_lake = np.hypot(x - 470, y - 22) > 128
    nearest = np.min(np.abs(np.stack(roads)), axis=0)
    _hamlets(c, farmland & off_river, nearest)
    for distance, width in zip(roads, (1.2, 1.0, 1.2, 1.0), strict=True):
        _road(c, off_lake & (np.abs(meander) > 9), distance, width)
    _town(c, zone(right & (yw >= 130) & (yw < 255)), 17)
    _industry(c, zone(right & (yw >= 255) & (yw < 338)), -9)
    _lake(c, np.hypot((xw - 470) / 116, (yw - 22) / 116) + 0.04 * c.noise(40))
    _river(c, meander)
    road_y = 425 - 0.22 * (x - 256) + 22 * np.sin(2 * np.pi * x / 520 + 0.4)
    _motorway(c, from_curve(y, road_y, 1, 1 / FINE), 268.0, float(road_y[0, 268 * FINE]))
    hills = smooth(mean_blocks(hill_land.astype(np.float32), FINE), 6.0)
    return c, _heights(c, hills)


def simulate(seed: int, season: str = "summer") -> Landscape:
    """The landscape of a seed in a season, acquired twice, five days apart.

    Args:
        seed: decides the land, the clouds and the haze.
        season: one of ``spectra.SEASONS``; the land is the same in all of them.
    """
    rng = np.random.default_rng(seed)
    canvas, heights = _landscape(rng, season)
    land = canvas.render()
    kinds = canvas.major_kind()
    first, second = season_dates(season)
    return Landscape(
        landuse=_USE_OF_KIND[kinds],
        cover=_COVER_OF_KIND[kinds],
        dates=(
            acquire(land, heights, rng, first, season, haze=0.35, swath_edge=False),
            acquire(land, heights, rng, second, season, haze=0.1, swath_edge=True),
        ),
    )
