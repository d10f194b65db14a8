"""What the page and the preview show of a map: pixels at a size for screens, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from landuse.pipeline.cells import STATUS_COLORS, CellStatus

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from landuse.classes import LandUseClass
    from landuse.pipeline.cells import ClassArea, Cover


@dataclass(frozen=True, slots=True, kw_only=True)
class NoClass:
    """How cells of the area that have no class are shown: hatched, so that none passes for a class."""

    status: CellStatus
    """Why they have none."""
    share: str
    """Field of ``Cover`` that holds their share."""
    title: str
    """For people."""
    color: tuple[int, int, int]
    """Red, green, blue of the ground, 0..255."""
    stripe: tuple[int, int, int]
    """The same of the stripes on it."""


NO_CLASS = (
    NoClass(
        status=CellStatus.CLOUDY,
        share="cloudy",
        title="Cloud, shadow or snow",
        color=STATUS_COLORS[CellStatus.CLOUDY],
        stripe=(150, 163, 178),
    ),
    NoClass(
        status=CellStatus.FAILED,
        share="failed",
        title="Could not be read",
        color=STATUS_COLORS[CellStatus.FAILED],
        stripe=(24, 24, 27),
    ),
    NoClass(
        status=CellStatus.UNSEEN,
        share="nodata",
        title="No imagery",
        color=STATUS_COLORS[CellStatus.UNSEEN],
        stripe=(92, 101, 113),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewScene:
    """A scene that a map was made of."""

    id: str
    """As its provider spells it. Hostile: never markup."""
    provider: str
    """Where it came from."""
    acquired_utc: datetime
    """When it was taken."""
    level: str
    """``"L1C"`` or ``"L2A"``."""
    tile: str
    """MGRS tile; empty where unknown."""
    cloud_percent: float | None
    """Cloud over the area where its mask told, else over all of the scene where its item told."""
    spare: bool
    """True where others show all that it shows: it was read only where one of them failed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapView:
    """A map for the page and the preview. All texts may be hostile; none is markup.

    The rasters share the map's outline. Of a large map they are its overviews: good to look at, never
    to be counted. ``image`` may have other pixels than the cells, finer ones as a rule.
    """

    title: str
    """What the map is called."""
    crs: str
    """Of the grid, such as ``"EPSG:32633"``; in metres."""
    bounds_m: tuple[float, float, float, float]
    """Left, bottom, right, top of the rasters in that CRS."""
    cell_m: float
    """Side of the map's cells, whatever is shown of them here."""
    classes: NDArray[np.uint8]
    """(row, col), class ids, ``NODATA_ID`` where there is none."""
    confidence: NDArray[np.uint8]
    """(row, col), probability of the class x ``SHARE_STEPS``, 255 where there is none."""
    status: NDArray[np.uint8]
    """(row, col), ``CellStatus``."""
    image: NDArray[np.uint8]
    """(y, x, 3), red, green and blue of the imagery, stretched for the eye; (0, 0, 0) is nodata."""
    image_bands: tuple[str, ...]
    """Which bands are shown as red, green and blue."""
    legend: tuple[LandUseClass, ...]
    """Every class of the model, by id."""
    areas: tuple[ClassArea, ...]
    """Area of each class that occurs, counted on the map itself."""
    cover: Cover
    """What became of the area's cells."""
    scenes: tuple[ViewScene, ...]
    """What it was made of, in the order in which they were preferred."""
    composite: str
    """``"best"`` or ``"median"``."""
    model: str
    """Name of the network."""
    weights_sha256: str
    """Digest of its weights."""
    version: str
    """Of landuse."""
    created_utc: datetime
    """When the map was made."""
    files: tuple[str, ...]
    """Names of the files beside the page."""
    attribution: str
    """Whose data it is."""
    citation: str
    """How to cite the map."""

    def __post_init__(self) -> None:
        if self.classes.ndim != 2 or not self.classes.shape == self.confidence.shape == self.status.shape:
            raise ValueError(
                f"classes {self.classes.shape}, confidence {self.confidence.shape} and status "
                f"{self.status.shape} do not share their (row, col)"
            )
        if self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"image {self.image.shape} is not (y, x, 3)")
