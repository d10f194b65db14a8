"""Cells of a map: what their values mean, and the records that stages hand to each other about them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NODATA_ID = 255
"""Class raster value of a cell without a class."""

COLORS_TAG = "class_colors"
"""Tag of a map's rasters: the colours of its classes, a JSON list of ``"#RRGGBB"`` by id, where its model or
a legend brings its own."""

SHARE_STEPS = 250
"""Confidence and probability rasters hold rounded multiples of 1/250; 255 is nodata there too."""

DOUBTFUL = 0.5
"""From this doubt on a cell counts as doubtful: it is as rare as the rarest that training showed."""

WARN_DOUBTFUL = 1 / 3
"""Beyond this share of doubtful area a map warns of itself."""

AREA_STEPS = 10_000
"""Areas are counted in steps of 1/10000 of a pixel: sums of whole numbers are exact, whatever the blocks."""

CHANGE_THRESHOLD = 0.7
"""Share of a cell's probability that has to move for a change of class to count; see
``pipeline.maps.moved_probability``."""


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
    UNKNOWN = 5
    """Seen, but its class is less certain, confidence and doubt together, than was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoClass:
    """How cells of the area without a class are shown: hatched, so that none passes for a class."""

    status: CellStatus
    """Why they have none."""
    share: str
    """Field of ``Cover`` that holds their share."""
    title: str
    """For people."""
    color: tuple[int, int, int]
    """Red, green and blue below the stripes, 0..255. It is also their colour in ``status.tif``."""
    stripe: tuple[int, int, int]
    """Red, green and blue of the stripes, 0..255."""


NO_CLASS = (
    NoClass(
        status=CellStatus.CLOUDY,
        share="cloudy",
        title="Cloud, shadow or snow",
        color=(255, 255, 255),
        stripe=(150, 163, 178),
    ),
    NoClass(
        status=CellStatus.FAILED,
        share="failed",
        title="Could not be read",
        color=(255, 214, 10),
        stripe=(24, 24, 27),
    ),
    NoClass(
        status=CellStatus.UNSEEN,
        share="nodata",
        title="No imagery",
        color=(36, 40, 47),
        stripe=(92, 101, 113),
    ),
    NoClass(
        status=CellStatus.UNKNOWN,
        share="unknown",
        title="Unknown: too doubtful",
        color=(226, 214, 240),
        stripe=(140, 104, 180),
    ),
)
"""How the page, the preview and the colour table of ``status.tif`` show them."""

STATUS_COLORS = {CellStatus.CLASSIFIED: (214, 232, 214)} | {kind.status: kind.color for kind in NO_CLASS}
"""Red, green and blue of each status that has a colour; ``OUTSIDE`` is nodata."""


def percent(share: float) -> str:
    """A share for people; one that is there never reads 0.0, one that is not whole never 100.0."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellScores:
    """What a block's cells were found to be, before a class is chosen."""

    probabilities: NDArray[np.float32]
    """(class, row, col), 0..1, summing to 1 over classes; of no meaning where ``mapped`` is False."""
    cover: NDArray[np.float32]
    """(cover, row, col), likewise; of a model that names no covers there are none."""
    doubt: NDArray[np.float32]
    """(1, row, col), 0..1, likewise; of a model that tells no doubt (0, row, col)."""
    mapped: NDArray[np.bool_]
    """(row, col), True where the cell gets a class."""
    observed: NDArray[np.bool_]
    """(row, col), True where a scene saw at least one pixel of the cell, clear or not."""
    clouded: NDArray[np.bool_]
    """(row, col), True where cloud, shadow or snow hides at least one of those pixels."""
    failed: NDArray[np.bool_]
    """(row, col), True where a cell is not mapped and a scene over it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockRasters:
    """What a map's rasters hold of a block, each value as its file holds it: uint8, 255 for no value.

    Shares are in steps of 1/``SHARE_STEPS``.
    """

    classes: NDArray[np.uint8]
    """(row, col), id of the most probable class."""
    confidence: NDArray[np.uint8]
    """(row, col), its probability in steps."""
    status: NDArray[np.uint8]
    """(row, col), why a cell has a class or none, as ``CellStatus``."""
    second: NDArray[np.uint8]
    """(2, row, col), id and probability of the second most probable class; (0, row, col) without covers."""
    cover: NDArray[np.uint8]
    """(1, row, col), id of the most probable cover; (0, row, col) without covers."""
    doubt: NDArray[np.uint8]
    """(1, row, col), how unlike what training showed, in steps; of an unknown cell too. (0, row, col) of a
    model that does not tell."""
    probabilities: NDArray[np.uint8]
    """(class, row, col), every class's probability in steps; (0, row, col) where they are not kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelCounts:
    """How many pixels of the area a block has, by what became of them. Areas are counted from these.

    Of a pixel on the area's outline the part inside counts: all are in steps of 1/``AREA_STEPS`` of a pixel.
    """

    of_class: NDArray[np.int64]
    """(class,), pixels inside the area and on the imagery in cells of each class."""
    of_cover: NDArray[np.int64]
    """(cover,), those in cells of each cover."""
    of_status: NDArray[np.int64]
    """(``CellStatus``,), pixels inside the area of each status."""
    of_doubt: NDArray[np.int64]
    """(2,), those of cells whose doubt is known, and of them the doubtful ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassArea:
    """One class, or one cover, in a map."""

    id: int
    """Value in the class raster."""
    name: str
    """Class name."""
    cells: int
    """Cells of the class."""
    area_m2: float
    """Their area, as far as it lies inside the area asked for and on the imagery."""
    share: float
    """Their share of the classified area, 0..1."""

    @property
    def area_ha(self) -> float:
        """Their area in hectares."""
        return self.area_m2 / 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """What became of the area's cells; the shares are of the land inside the area and add up to 1."""

    cells: int
    """Cells of the area."""
    valid: float
    """Share that got a class, 0..1."""
    cloudy: float | None
    """Share seen, but under cloud, shadow or snow; None where no scene had a mask to tell."""
    failed: float
    """Share without a class under a scene that could not be read."""
    nodata: float
    """Share that no scene saw, or too little of for a patch."""
    unknown: float = 0.0
    """Share seen whose class is less certain than was asked for (``--min-confidence``)."""
    doubtful: float | None = None
    """Share of what is classified or unknown that is unlike what the model was trained on; None of a model
    that does not tell."""
    unmasked_scenes: int = 0
    """Scenes in the map without a cloud mask: their clouds are mapped as land."""

    @property
    def unseen_told(self) -> str | None:
        """Where most of the area lies outside the scenes, that it does and what to do; else None."""
        if self.nodata <= 0.5:
            return None
        return (
            f"{percent(self.nodata)} of the area lies outside the scenes: move it to them, make it smaller, "
            "or find more scenes"
        )

    @property
    def cloud_told(self) -> str:
        """What is known of clouds, for people: a share, or that nobody looked."""
        if self.cloudy is None:
            return "cloud not checked"
        unmasked = self.unmasked_scenes
        some = f" (not checked in {unmasked} scene{'s' * (unmasked > 1)})" if unmasked else ""
        return f"{percent(self.cloudy)} cloudy{some}"
