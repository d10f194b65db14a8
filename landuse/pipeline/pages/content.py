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
    scenes: tuple[Scene, ...]
    """What it was made of, in the order in which they were preferred; ``spare`` where none was read."""
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
