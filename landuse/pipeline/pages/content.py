"""What the page and the preview show of a map: pixels at a size for screens, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from landuse.classes import LandUseClass
    from landuse.pipeline.cells import ClassArea, Cover
    from landuse.pipeline.scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapView:
    """A map for the page and the preview. All texts may be hostile; none is markup.

    The rasters of cells begin at the map's upper left corner and share their rows and columns. The image has
    the map's outline and its own pixels, finer ones than the cells as a rule. Of a large map the rasters are
    thinned: good to look at, never to be counted.
    """

    title: str
    """What the map is called."""
    crs: str
    """Of the grid, such as ``"EPSG:32633"``; in metres."""
    bounds_m: tuple[float, float, float, float]
    """Left, bottom, right, top of the rasters in that CRS."""
    cell_m: float
    """Side of the map's cells."""
    thinned: int = 1
    """The rasters of cells hold one cell, the upper left one, of each square of so many rows and columns."""
    classes: NDArray[np.uint8]
    """(row, col), class ids, ``NODATA_ID`` where there is none."""
    confidence: NDArray[np.uint8]
    """(row, col), probability of the class x ``SHARE_STEPS``, 255 where there is none."""
    status: NDArray[np.uint8]
    """(row, col), ``CellStatus``."""
    land_cover: NDArray[np.uint8] | None = None
    """(row, col), ids of ``cover_legend``, ``NODATA_ID`` where there is none; None of a map without."""
    second: NDArray[np.uint8] | None = None
    """(row, col), id of the second most probable class, ``NODATA_ID`` where there is none; None of a map
    without."""
    second_share: NDArray[np.uint8] | None = None
    """(row, col), its probability x ``SHARE_STEPS``, 255 where there is none; given with ``second``."""
    image: NDArray[np.uint8]
    """(y, x, 3), red, green and blue of the imagery, stretched for the eye; (0, 0, 0) is nodata."""
    image_bands: tuple[str, ...]
    """Which bands are shown as red, green and blue."""
    legend: tuple[LandUseClass, ...]
    """Every class of the model, by id."""
    cover_legend: tuple[LandUseClass, ...] = ()
    """Every land cover of the model, by id; given with ``land_cover``."""
    areas: tuple[ClassArea, ...]
    """Area of each class that occurs, counted on the map itself."""
    cover_areas: tuple[ClassArea, ...] = ()
    """The same of each land cover."""
    cover: Cover
    """What became of the area's cells."""
    scenes: tuple[Scene, ...]
    """What it was made of, in the order in which they were preferred; ``spare`` where none was read."""
    composite: str
    """``"best"``, ``"median"``, ``"medoid"``, or ``"dates"`` where dates were classified one by one."""
    smooth_px: int = 0
    """Side of the window in which probabilities were smoothed, in pixels; 0 where they were not."""
    season: str = ""
    """Which months imagery was taken in; empty of any."""
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
    warnings: tuple[str, ...] = ()
    """What to know before trusting the map, a sentence each."""

    def __post_init__(self) -> None:
        for name in ("classes", "confidence", "status", "land_cover", "second", "second_share"):
            values = getattr(self, name)
            if values is not None and (values.ndim != 2 or values.shape != self.classes.shape):
                raise ValueError(f"{name} {values.shape} is not (row, col) as classes {self.classes.shape}")
        if (self.second is None) != (self.second_share is None):
            raise ValueError("second and second_share are given together or not at all")
        if (self.land_cover is None) != (not self.cover_legend):
            raise ValueError("land_cover and cover_legend are given together or not at all")
        if self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"image {self.image.shape} is not (y, x, 3)")

    @property
    def shown_m(self) -> float:
        """Side of what is one value in the rasters of cells."""
        return self.cell_m * self.thinned

    @property
    def area_m2(self) -> float:
        """Land of the area."""
        classified = sum(area.area_m2 for area in self.areas)
        return classified / self.cover.valid if self.cover.valid else self.cover.cells * self.cell_m**2
