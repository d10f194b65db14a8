"""Pure: area, scenes and the model's contract in; a plan of what to read and map out.

The map's cells are ``stride_px`` pixels wide (by default 1 where the model classifies each pixel) and lie on
multiples of their own size in the UTM zone, counted from the zone's origin. So a cell of a given place is the
same cell whatever the area asked for, and maps of neighbouring areas and of other nights line up.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import shapely

import landuse
from landuse.classes import LandUseClass, legend
from landuse.contract import ModelContract
from landuse.errors import ModelError, UsageError
from landuse.legends.legend import Legend, MergedClasses, check_known, merged_classes
from landuse.pipeline.blocks.smooth import Smoothing
from landuse.pipeline.cells import Block
from landuse.pipeline.geometry import footprint_in, project, snap, utm_crs
from landuse.pipeline.scene import AreaView, BandAsset, Scene, is_masked, mask_bands
from landuse.redact import redact_href
from landuse.sentinel2 import RESOLUTION_M

if TYPE_CHECKING:
    from collections.abc import Sequence

    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

COMPOSITES = ("best", "median", "medoid")
FUSIONS = ("pixels", "dates")
"""What of several dates becomes one: their pixels, which are then classified, or their probabilities."""
BAND_SETS = {"all": None, "rgb": ("B04", "B03", "B02"), "rgb-nir": ("B04", "B03", "B02", "B08")}
"""What may be asked for by name, of the bands that a model can do without; None: all of them."""
MAX_CELL_PX = 64
"""Largest side of a cell of averaged pixels."""

CLOUD_TOLD_PERCENT = 15.0
"""From this estimate on, cloud in scenes without a mask is warned of; see ``cloud_mask.HAZE_REFLECTANCE``."""

PICTURE_PX = 4096
"""Side of the picture of the imagery that goes with a map, unless its cells are finer."""

BLOCK_PX = 1024
"""Side of a block. Around it a network that sees whole blocks computes a margin, which weighs less the larger
the block; but those of 1,280 and 1,536 px took as long on two cores, and more memory."""

MAX_PIXELS = 20_000_000_000
"""Most pixels of one map: at 10 m some 1400 km a side, more than any country of Europe but one."""

MAX_BLOCKS = 200_000
"""Most blocks of one map; each is a file, and a line of the plan."""

MAX_WIDTH_M = 2e6
"""Widest area of one map: six UTM zones at 60 degrees north, three at the equator."""

FALSE_EASTING_M = 500_000.0
"""Easting of the middle of a UTM zone."""

EARTH_RADIUS_M = 6_371_000.0

WARN_AREA_SCALE = 0.01
"""By how much areas may be told too large before a map warns of it."""

MIN_BLOCK_PX = 64
"""Smallest side of a block whose pixels are classified."""

STRIDE_PX = {"windows": 16, "pixels": 1}
"""Cell size where none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Everything that decides a map's pixels. Serialises to JSON; hrefs are unsigned."""

    version: str
    """Version of landuse: its code decides pixels too."""
    crs: str
    """UTM CRS of the map, such as ``"EPSG:32633"``."""
    left_m: float
    """Left edge of the grid, a multiple of ``stride_px * pixel_m``."""
    top_m: float
    """Top edge of the grid, a multiple of ``stride_px * pixel_m``."""
    rows: int
    """Cells from top to bottom."""
    cols: int
    """Cells from left to right."""
    pixel_m: float
    """Pixel size at which scenes are read."""
    stride_px: int
    """Cell size in pixels; of patches, also the distance from one to the next."""
    patch_px: int
    """Side of a patch, in pixels; a multiple of ``stride_px``."""
    engine: str
    """``"windows"``: each patch goes through the network alone. ``"pixels"``: each pixel is classified, a
    block in one pass."""
    position_px: int
    """Pixels from one position of the features of a whole block to the next; 1 of patches."""
    data_rows_px: tuple[int, int]
    """First and one past the last pixel row, from the grid's top, where scenes have pixels."""
    data_cols_px: tuple[int, int]
    """First and one past the last pixel column, from the grid's left, where scenes have pixels."""
    area_wkt: str | None
    """Area asked for, in the map's CRS: its land is counted, and polygons are cut to it. None: all of the
    scenes."""
    is_clipped: bool
    """Whether cells beyond the area stay nodata; False fills the grid."""
    bands: tuple[str, ...]
    """Bands to read, in the model's order."""
    missing_bands: tuple[str, ...]
    """Bands that were asked for and that the model does without, since not every scene offers them."""
    level: str
    """Processing level of every scene."""
    composite: str
    """``"best"``, ``"median"`` or ``"medoid"``."""
    fuse: str = "pixels"
    """``"pixels"``: the composite is classified. ``"dates"``: each date is, and the probabilities of those
    that are clear at a pixel are averaged."""
    scenes: tuple[Scene, ...]
    """In order of preference."""
    model: str
    """Name of the model."""
    weights_sha256: str
    """Digest of the model's file."""
    classes: tuple[str, ...]
    """Class names; the index is the id."""
    legend: MergedClasses | None = None
    """What they are sums of, of the model's classes; None where they are the model's."""
    covers: tuple[str, ...]
    """Names of the land covers; the index is the id. Empty for a model that tells none."""
    colors: tuple[tuple[int, int, int], ...] = ()
    """Colour of each class by id, where the model brings its own and no legend does. They do not decide
    pixels."""
    tells_doubt: bool = False
    """Whether the model says where the imagery is unlike what it was trained on."""
    min_confidence: float = 0.0
    """Cells whose confidence, times what doubt leaves of it, is below this have no class."""
    thresholds: tuple[float, ...] = ()
    """Where the classes are labels that do not exclude each other: from which probability on each counts as
    there. Empty where they exclude each other."""
    smooth: tuple[float, ...] = ()
    """Of each class how strongly its probabilities are smoothed, as ``smooth.Smoothing`` has it; empty: none
    is."""
    smooth_px: int = 0
    """Side of the window of the smoothing in pixels; 0 without."""
    precision: str = ""
    """Arithmetic of the network's convolutions, of a model of pixels: ``"fp32"`` or ``"bf16"``; empty of
    others, which have no choice."""
    probabilities: bool
    """Whether blocks keep every class's probability. It does not decide pixels."""
    blocks: tuple[Block, ...]
    """Units of work; together they cover the grid once. They do not decide pixels."""

    @property
    def entries(self) -> tuple[LandUseClass, ...]:
        """Its classes by id, with titles and colours."""
        return legend(self.classes, self.colors if self.legend is None else self.legend.colors)

    @property
    def smoothing(self) -> Smoothing:
        """How class probabilities are smoothed."""
        return Smoothing(strengths=self.smooth, window_px=self.smooth_px) if self.smooth else Smoothing()

    @property
    def reads_every_date(self) -> bool:
        """Whether a pixel is read of every date, not of the first clear one alone."""
        return reads_every_date(self.composite, self.fuse)

    @property
    def cell_m(self) -> float:
        """Side of a map cell in metres."""
        return self.stride_px * self.pixel_m

    @property
    def clip_wkt(self) -> str | None:
        """Area in the map's CRS beyond which cells stay nodata, or None where the grid is filled."""
        return self.area_wkt if self.is_clipped else None

    @property
    def land(self) -> BaseGeometry:
        """What of the area lies within the scenes, in the map's CRS; without an area all of them."""
        seen = shapely.union_all([footprint_in(scene, self.crs) for scene in self.scenes])
        return seen if self.area_wkt is None else shapely.intersection(shapely.from_wkt(self.area_wkt), seen)

    def scenes_used(self, spares_read: bool) -> tuple[Scene, ...]:
        """The scenes that may have pixels in the map, in order of preference.

        Args:
            spares_read: whether some read failed, so that spare scenes were read in its place.
        """
        return tuple(scene for scene in self.scenes if spares_read or not scene.spare)

    @property
    def picture_step_px(self) -> int:
        """Side in pixels of a pixel of the map's picture; it divides a cell."""
        sides = [step for step in range(1, self.stride_px + 1) if self.stride_px % step == 0]
        longest_px = max(self.rows, self.cols) * self.stride_px
        return next((step for step in sides if longest_px <= step * PICTURE_PX), self.stride_px)

    @property
    def picture_geobox(self) -> GeoBox:
        """Grid of the picture of the imagery."""
        per_cell = self.stride_px // self.picture_step_px
        size_m = self.picture_step_px * self.pixel_m
        return _geobox(self.crs, self.left_m, self.top_m, size_m, self.rows * per_cell, self.cols * per_cell)

    @property
    def cell_geobox(self) -> GeoBox:
        """Grid of the map."""
        return _geobox(self.crs, self.left_m, self.top_m, self.cell_m, self.rows, self.cols)

    def pixel_geobox(self, rows_px: tuple[int, int], cols_px: tuple[int, int]) -> GeoBox:
        """Grid of a rectangle of pixels, given from the map's top left corner."""
        return _geobox(
            self.crs,
            self.left_m + cols_px[0] * self.pixel_m,
            self.top_m - rows_px[0] * self.pixel_m,
            self.pixel_m,
            rows_px[1] - rows_px[0],
            cols_px[1] - cols_px[0],
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before trusting the map, a sentence each."""
        coarse: dict[str, float] = {}
        for scene in self.scenes:
            for asset in scene.assets:
                own_m = RESOLUTION_M.get(asset.band, self.pixel_m)
                if asset.band in self.bands and (asset.pixel_m or 0) > 1.5 * max(self.pixel_m, own_m):
                    coarse[scene.id] = max(coarse.get(scene.id, 0.0), asset.pixel_m or 0)
        found = []
        if coarse:
            found.append(
                f"{len(coarse)} of {len(self.scenes)} scenes have pixels of up to "
                f"{max(coarse.values()):.3g} m, such as {min(coarse)!r}; {self.model} was trained at "
                f"{self.pixel_m:g} m and reads blurred land badly: towns and single houses are hardly found. "
                "Use imagery of the sensor's resolution."
            )
        rows_px, cols_px = (last - first for first, last in (self.data_rows_px, self.data_cols_px))
        if min(rows_px, cols_px) < self.patch_px:
            found.append(
                f"The imagery is {cols_px} x {rows_px} pixels, smaller than the {self.patch_px} x "
                f"{self.patch_px} that {self.model} learned from: it does not know the surroundings and errs "
                "more often. Use a larger part of the scene."
            )
        farthest_m = max(
            abs(self.left_m - FALSE_EASTING_M), abs(self.left_m + self.cols * self.cell_m - FALSE_EASTING_M)
        )
        too_large = _area_scale(farthest_m) - 1
        if too_large > WARN_AREA_SCALE:
            found.append(
                f"The map reaches {farthest_m / 1000:.0f} km from the middle of UTM zone {self.crs}, where "
                f"areas are told {100 * too_large:.1f} % too large. Map each zone by itself: --zones each."
            )
        if self.missing_bands:
            found.append(
                f"Not every scene offers {', '.join(self.missing_bands)}, which {self.model} can do without: "
                f"it reads {', '.join(self.bands)} alone, and errs more often. Use a source with all bands."
            )
        unmasked = [scene for scene in self.scenes if not is_masked(scene)]
        if unmasked:
            needed = (
                "no scene classification (SCL)" if self.level == "L2A" else "not the bands to tell cloud by"
            )
            found.append(
                f"{len(unmasked)} of {len(self.scenes)} scenes have {needed}, such as "
                f"{min(scene.id for scene in unmasked)!r}: cloud is not checked, and mapped as land. Use "
                "clear scenes, L2A with SCL, or L1C with all bands."
            )
        first = self.scenes[0]  # with "best" most of the map shows it
        if first in unmasked and first.view is not None and first.view.cloud_percent >= CLOUD_TOLD_PERCENT:
            found.append(
                f"About {first.view.cloud_percent:.0f} % of what {first.id!r} shows of the area looks like "
                "cloud or snow, by its blue. Look at image.tif, and choose another --date; or the stated "
                "level or offset is wrong."
            )
        return tuple(found)

    @property
    def digest(self) -> str:
        """Digest of all that decides the pixels.

        Not in it: an area that the map is not cut to; the blocks, and what else they keep; bands that are not
        read; queries of hrefs, which may be signatures; when local files were written; what only ranked the
        scenes or estimates from them; how their source was named; where their items are; and their mirrors,
        which show the same.
        """
        values = self.to_dict()
        for name in ("blocks", "probabilities", "missing_bands", "area_wkt", "is_clipped", "colors"):
            del values[name]
        values["clip_wkt"] = self.clip_wkt
        for name in (
            "covers", "tells_doubt", "min_confidence", "legend", "thresholds", "smooth", "smooth_px",
        ):  # fmt: skip
            if not values[name]:
                del values[name]
        if self.legend is not None:  # what it is called, and what it rests on, decide nothing
            values["legend"] = {"of": self.legend.of, "colors": self.legend.colors}
        if self.fuse == "pixels":
            del values["fuse"]
        if self.precision != "bf16":  # digests are older than the choice
            del values["precision"]
        for scene in values["scenes"]:
            for name in ("provider", "view", "mirrors", "platform", "tile", "item_href"):
                del scene[name]
            for asset in scene["assets"]:
                asset["href"] = redact_href(asset["href"])
                for name in ("fingerprint", "pixel_m", "bytes_per_px"):
                    del asset[name]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def blocks_key(self) -> str:
        """What finished blocks are kept under: digest, the area they count, versions of the local files."""
        versions = [asset.fingerprint for scene in self.scenes for asset in scene.assets]
        return hashlib.sha256(json.dumps([self.digest, self.area_wkt, versions]).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        values = asdict(self)
        for scene in values["scenes"]:
            for copy in (scene, *scene["mirrors"]):
                copy["acquired_utc"] = copy["acquired_utc"].isoformat()
                for asset in copy["assets"]:
                    asset["nodata"] = json_number(asset["nodata"])
        return values

    def to_public_dict(self) -> dict[str, Any]:
        """``to_dict`` without the queries of hrefs, which may be signatures."""
        values = self.to_dict()
        for scene in values["scenes"]:
            for copy in (scene, *scene["mirrors"]):
                if copy["item_href"] is not None:
                    copy["item_href"] = redact_href(copy["item_href"])
                for asset in copy["assets"]:
                    asset["href"] = redact_href(asset["href"])
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``, also after a trip through JSON.

        Raises:
            KeyError, TypeError, ValueError: the values are no plan.
        """
        tupled = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        tupled["colors"] = tuple(tuple(color) for color in values.get("colors", ()))
        tupled["scenes"] = tuple(_scene_from_dict(scene) for scene in values["scenes"])
        tupled["blocks"] = tuple(Block(**block) for block in values["blocks"])
        tupled["legend"] = _legend_from_dict(values.get("legend"))
        return cls(**tupled)  # type: ignore[arg-type]  # JSON promises no types


def _area_scale(distance_m: float) -> float:
    """How many times too large UTM tells a small area so far from a zone's middle, on a round earth."""
    return (0.9996 * (1 + distance_m**2 / (2 * EARTH_RADIUS_M**2))) ** 2


def _legend_from_dict(values: dict[str, Any] | None) -> MergedClasses | None:
    if values is None:
        return None
    nested = {name: tuple(tuple(part) for part in values[name]) for name in ("of", "colors")}
    return MergedClasses(**{**values, "model_classes": tuple(values["model_classes"]), **nested})


def reads_every_date(composite: str, fuse: str) -> bool:
    """Whether a pixel is read of every date, not of the first clear one alone."""
    return composite != "best" or fuse == "dates"


def json_number(value: float | None) -> float | str | None:
    """A number as JSON knows it, which has no NaN: STAC writes it as a string."""
    return "nan" if value is not None and math.isnan(value) else value


def _scene_from_dict(values: dict[str, Any]) -> Scene:
    return Scene(
        **{
            **values,
            "acquired_utc": datetime.fromisoformat(values["acquired_utc"]),
            "footprint": tuple(
                tuple((float(lon), float(lat)) for lon, lat in ring) for ring in values["footprint"]
            ),
            "bounds_m": None if values["bounds_m"] is None else tuple(values["bounds_m"]),
            "assets": tuple(
                BandAsset(**{**asset, "nodata": None if asset["nodata"] is None else float(asset["nodata"])})
                for asset in values["assets"]
            ),
            "view": None if values["view"] is None else AreaView(**values["view"]),
            "mirrors": tuple(_scene_from_dict(mirror) for mirror in values["mirrors"]),
        }
    )


def _geobox(crs: str, left_m: float, top_m: float, size_m: float, rows: int, cols: int) -> GeoBox:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox((rows, cols), Affine(size_m, 0, left_m, 0, -size_m, top_m), crs)


def data_extent(
    scenes: Sequence[Scene], crs: str, left_m: float, top_m: float, pixel_m: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns, in pixels from the grid's corner, that enclose the scenes' pixels."""
    wests, souths, easts, norths = zip(*(footprint_in(scene, crs).bounds for scene in scenes), strict=True)
    rows = snap(top_m - max(norths), top_m - min(souths), pixel_m)
    cols = snap(min(wests) - left_m, max(easts) - left_m, pixel_m)
    return rows, cols


def cut_into_blocks(rows: int, cols: int, block_cells: int) -> tuple[Block, ...]:
    """Blocks of at most ``block_cells`` a side that cover ``rows x cols`` cells once, row by row."""
    return tuple(
        Block(
            row_start=row,
            row_stop=min(row + block_cells, rows),
            col_start=col,
            col_stop=min(col + block_cells, cols),
        )
        for row in range(0, rows, block_cells)
        for col in range(0, cols, block_cells)
    )


def engine_of(contract: ModelContract) -> str:
    """What a map is made with: ``"pixels"`` of a model that classifies each pixel, else ``"windows"``."""
    return "windows" if contract.pixels is None else "pixels"


def cell_px(contract: ModelContract, *, cell_m: float | None, stride_px: int | None) -> int:
    """Side of a map's cell in pixels.

    Args:
        contract: the model's.
        cell_m: side of a cell as asked for of a model of pixels, in metres; None: a pixel.
        stride_px: side of a cell as asked for of a model of patches, in pixels; None: 16.

    Raises:
        UsageError: the one that is given is not for this model, or does not fit it.
    """
    pixel_m = contract.resolution_m
    if contract.pixels is None:
        if cell_m is not None:
            raise UsageError(
                f"--cell-m {cell_m:g} is for models of pixels; {contract.name} classifies patches of "
                f"{contract.patch_size_px} px. Give --stride-px 16 for cells of {16 * pixel_m:g} m, or "
                "choose another --model."
            )
        stride_px = STRIDE_PX["windows"] if stride_px is None else stride_px
        _check_stride(contract, stride_px)
        return stride_px
    if stride_px is not None:
        raise UsageError(
            f"--stride-px {stride_px} is for models of patches; {contract.name} classifies each pixel. Give "
            f"--cell-m {pixel_m:g}, {2 * pixel_m:g} or another multiple of {pixel_m:g} instead."
        )
    if cell_m is None:
        return STRIDE_PX["pixels"]
    side = round(cell_m / pixel_m) if math.isfinite(cell_m) else 0
    if not 1 <= side <= MAX_CELL_PX or side * pixel_m != cell_m:
        raise UsageError(
            f"--cell-m {cell_m:g} is no multiple of the pixels' {pixel_m:g} m from {pixel_m:g} to "
            f"{MAX_CELL_PX * pixel_m:g}. Use {pixel_m:g}, {2 * pixel_m:g} or {4 * pixel_m:g}, say."
        )
    return side


def _check_stride(contract: ModelContract, stride_px: int) -> None:
    patch_px = contract.patch_size_px
    if contract.pixels is None and (stride_px < 1 or patch_px % stride_px):
        fits = ", ".join(str(s) for s in range(1, patch_px + 1) if patch_px % s == 0)
        raise UsageError(
            f"--stride-px {stride_px} does not divide the {patch_px} px patch. Use one of {fits}."
        )


def bands_to_read(
    scenes: Sequence[Scene], contract: ModelContract, asked: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The bands of which a map is made: those asked for that every scene offers.

    Args:
        scenes: all that are read.
        contract: the model's.
        asked: one of ``BAND_SETS``.

    Returns:
        The bands to read and those that are missing, both in the model's order.

    Raises:
        UsageError: the set is unknown, or the model cannot do with it.
        ModelError: a scene lacks a band that the model needs.
    """
    if asked not in BAND_SETS:
        raise UsageError(f"--bands {asked!r} is unknown. Use {', '.join(BAND_SETS)}.")
    chosen = BAND_SETS[asked]
    wanted = contract.bands if chosen is None else tuple(b for b in contract.bands if b in chosen)
    required = contract.required_bands
    if not set(required) <= set(wanted):
        lacking = ", ".join(band for band in required if band not in wanted)
        raise UsageError(
            f"--bands {asked} leaves out {lacking}, without which {contract.name} says nothing. Use --bands "
            "all, or choose another --model."
        )
    for scene in scenes:
        lost = [band for band in required if band not in scene.bands]
        if lost:
            raise ModelError(
                f"Model {contract.name} needs {', '.join(required)}; scene {scene.id!r} offers "
                f"{', '.join(scene.bands) or 'no band'} (no {', '.join(lost)}). "
                "Choose a --model for the bands at hand, or a source that has them."
            )
    read = tuple(band for band in wanted if all(band in scene.bands for scene in scenes))
    return read, tuple(band for band in wanted if band not in read)


def check_fit(
    scenes: Sequence[Scene],
    contract: ModelContract,
    *,
    stride_px: int,
    composite: str,
    fuse: str = "pixels",
    bands: str = "all",
    block_px: int | None = None,
) -> None:
    """Refuse what no map can be made of; the arguments are those of ``make_plan``.

    Raises:
        UsageError: the stride, composite, fusion, bands or block size does not fit, or the scenes mix levels.
        ModelError: the scenes lack a band or level that the model needs.
    """
    _check_stride(contract, stride_px)
    if composite not in COMPOSITES:
        raise UsageError(f"--composite {composite!r} is unknown. Use one of {', '.join(COMPOSITES)}.")
    if fuse not in FUSIONS:
        raise UsageError(f"--fuse {fuse!r} is unknown. Use one of {', '.join(FUSIONS)}.")
    if fuse == "dates" and composite != "best":
        raise UsageError(
            f"--fuse dates classifies each date by itself, and --composite {composite} makes one image of "
            "all. Give one of the two."
        )
    engine = engine_of(contract)
    # Around each block of pixels its context is computed too, which tiny blocks would repeat for ever.
    least_px = stride_px if engine == "windows" else max(stride_px, MIN_BLOCK_PX)
    if block_px is not None and block_px < least_px:
        raise UsageError(
            f"Block size {block_px} px is below the {least_px} px that a map by {contract.name} in cells of "
            f"{stride_px} px needs. Use {BLOCK_PX} or so."
        )
    levels = {scene.level for scene in scenes}
    if len(levels) != 1:
        raise UsageError(f"The scenes mix levels {', '.join(sorted(levels))}. Choose one with the source.")
    level = levels.pop()
    if contract.level_input(level) is None:
        reads = ", ".join(entry.level for entry in contract.levels)
        raise ModelError(
            f"Model {contract.name} reads {reads}; the source offers {level}. "
            f"Choose another --model or a {reads} source."
        )
    bands_to_read(scenes, contract, bands)


def suitable_crs(area: BaseGeometry, scenes: Sequence[Scene]) -> str:
    """The UTM zone that ``utm_crs`` finds for an area in longitude and latitude.

    Raises:
        UsageError: the area is too wide for one zone.
    """
    crs = utm_crs(area, scenes)
    _projected(area, crs)
    return crs


def planned_extent(
    area: BaseGeometry, crs: str, contract: ModelContract, *, stride_px: int, block_px: int | None
) -> tuple[int, int, int, int]:
    """Where the map's grid lies, once it is certain that a map of that size can be made.

    Args:
        area: in longitude and latitude.
        crs: UTM zone of the map.
        contract: the model's.
        stride_px: cell size in pixels.
        block_px: as of ``make_plan``.

    Returns:
        First and one past the last row, counted downwards, and column of the cells of the zone.

    Raises:
        UsageError: the area is too wide for one zone, or holds too many pixels or blocks.
    """
    west, south, east, north = _projected(area, crs).bounds
    cell_m = stride_px * contract.resolution_m
    cols = snap(west, east, cell_m)
    row_stop, row_start = (-edge for edge in snap(south, north, cell_m))
    pixels = (row_stop - row_start) * (cols[1] - cols[0]) * stride_px**2
    if pixels > MAX_PIXELS:
        raise UsageError(
            f"The area has {pixels / 1e9:.1f} thousand million pixels of {contract.resolution_m:g} m "
            f"({(east - west) / 1000:.0f} x {(north - south) / 1000:.0f} km), and a map has at most "
            f"{MAX_PIXELS / 1e9:g}. Map it in parts."
        )
    side_px = max(block_px or BLOCK_PX, stride_px)
    blocks = pixels / side_px**2
    if blocks > MAX_BLOCKS:
        raise UsageError(
            f"The area takes {blocks:.0f} blocks of {side_px} px, and a map has at most {MAX_BLOCKS}. Give a "
            f"larger --block-px, such as {BLOCK_PX}."
        )
    return row_start, row_stop, *cols


def fits_zone(area: BaseGeometry, crs: str) -> bool:
    """Whether an area in longitude and latitude is narrow enough for one map in a UTM zone."""
    return _is_narrow(project(area, "EPSG:4326", crs))


def _is_narrow(projected: BaseGeometry) -> bool:
    west, _, east, _ = projected.bounds
    return all(map(math.isfinite, projected.bounds)) and east - west <= MAX_WIDTH_M


def _projected(area: BaseGeometry, crs: str) -> BaseGeometry:
    projected = project(area, "EPSG:4326", crs)
    if not _is_narrow(projected):
        raise UsageError(
            f"The area reaches too far from UTM zone {crs} for one map. Map each zone by itself with --zones "
            "each, or cut the area to a few degrees of longitude."
        )
    return projected


def make_plan(
    area: BaseGeometry,
    scenes: Sequence[Scene],
    contract: ModelContract,
    *,
    weights_sha256: str,
    stride_px: int,
    composite: str,
    clip: bool,
    fuse: str = "pixels",
    asked: bool = False,
    position_px: int = 1,
    bands: str = "all",
    probabilities: bool = False,
    min_confidence: float = 0.0,
    smoothing: Smoothing | None = None,
    precision: str = "",
    block_px: int | None = None,
    crs: str | None = None,
    told_in: Legend | None = None,
) -> RunPlan:
    """Plan a map.

    Args:
        area: polygon in longitude and latitude.
        scenes: what to read, in order of preference, all of one level.
        contract: the model's.
        weights_sha256: digest of the model's file.
        stride_px: cell size in pixels; of a model of patches it must divide the patch size.
        composite: one of ``COMPOSITES``.
        fuse: one of ``FUSIONS``.
        clip: True leaves cells that do not touch the area empty; False fills the grid around it.
        asked: True counts the area's land alone, also where the grid is filled. An area that clips always is.
        position_px: of a model of pixels, pixels between positions of its coarsest features.
        bands: which of the bands that the model can do without to read: one of ``BAND_SETS``.
        probabilities: whether blocks keep every class's probability.
        smoothing: of class probabilities; None: none.
        precision: of the network's arithmetic; empty where the model has no choice.
        min_confidence: below it, times what doubt leaves of it, a cell has no class.
        block_px: side of a block in pixels; it decides memory, not results. None takes ``BLOCK_PX``.
        crs: UTM zone of the map; by default that of ``utm_crs``.
        told_in: legend whose classes the map has; None keeps the model's.

    Raises:
        UsageError: the stride, composite, fusion, bands, block size or legend does not fit, or the area is
            too wide for one zone or too large.
        ModelError: the scenes lack a band or level that the model needs.
    """
    check_fit(
        scenes,
        contract,
        stride_px=stride_px,
        composite=composite,
        fuse=fuse,
        bands=bands,
        block_px=block_px,
    )
    smoothing = smoothing or Smoothing()
    engine = engine_of(contract)
    classes, merged = told_classes(contract, told_in)
    thresholds = () if contract.labels is None else contract.labels.thresholds
    read, missing = bands_to_read(scenes, contract, bands)
    crs = crs or suitable_crs(area, scenes)
    row_start, row_stop, col_start, col_stop = planned_extent(
        area, crs, contract, stride_px=stride_px, block_px=block_px
    )
    cell_m = stride_px * contract.resolution_m
    left_m, top_m = col_start * cell_m, -row_start * cell_m
    rows, cols = row_stop - row_start, col_stop - col_start
    data_rows, data_cols = data_extent(scenes, crs, left_m, top_m, contract.resolution_m)
    return RunPlan(
        version=landuse.__version__,
        crs=crs,
        left_m=left_m,
        top_m=top_m,
        rows=rows,
        cols=cols,
        pixel_m=contract.resolution_m,
        stride_px=stride_px,
        patch_px=contract.patch_size_px,
        engine=engine,
        position_px=1 if engine == "windows" else position_px,
        data_rows_px=data_rows,
        data_cols_px=data_cols,
        area_wkt=_projected(area, crs).wkt if clip or asked else None,
        is_clipped=clip,
        bands=read,
        missing_bands=missing,
        level=scenes[0].level,
        composite=composite,
        fuse=fuse,
        scenes=tuple(_only_read(scene, read) for scene in scenes),
        model=contract.name,
        weights_sha256=weights_sha256,
        classes=classes,
        legend=merged,
        covers=() if contract.pixels is None else contract.pixels.covers,
        colors=contract.colors if merged is None else (),
        tells_doubt=contract.tells_doubt,
        min_confidence=min_confidence,
        smooth=smoothing.strengths if smoothing.is_on else (),
        smooth_px=smoothing.window_px if smoothing.is_on else 0,
        thresholds=thresholds,
        precision=precision,
        probabilities=probabilities or bool(thresholds),
        blocks=cut_into_blocks(rows, cols, max((block_px or BLOCK_PX) // stride_px, 1)),
    )


def told_classes(
    contract: ModelContract, told_in: Legend | None
) -> tuple[tuple[str, ...], MergedClasses | None]:
    """Names of a map's classes by id, and what they are sums of where a legend is given.

    Raises:
        UsageError: the legend does not fit the model's classes.
    """
    if told_in is None:
        return contract.classes, None
    if contract.labels is not None:
        raise UsageError(
            f"A legend adds probabilities of classes that exclude each other, and {contract.name} tells "
            "labels that do not. Leave --legend out."
        )
    check_known(told_in, contract.classes, contract.name)
    return merged_classes(told_in, contract.classes, contract.name)


def _only_read(scene: Scene, bands: tuple[str, ...]) -> Scene:
    """The scene without the assets that a run does not read, and without mirrors that lack one of them."""
    kept = {*bands, *mask_bands(scene.level, scene.bands)}
    return replace(
        scene,
        assets=tuple(asset for asset in scene.assets if asset.band in kept),
        mirrors=tuple(_only_read(mirror, bands) for mirror in scene.mirrors if kept <= set(mirror.bands)),
    )
