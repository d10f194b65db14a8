"""Class ids, names and colours: the one place."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class LandUseClass:
    """One class of a map, of land use or of land cover."""

    id: int
    """Value in the class raster, 0..254."""
    name: str
    """Name as the data it is trained on spell it."""
    title: str
    """Name for people."""
    color: tuple[int, int, int]
    """Red, green, blue, 0..255."""


EUROSAT = (
    LandUseClass(id=0, name="AnnualCrop", title="Annual crop", color=(240, 200, 80)),
    LandUseClass(id=1, name="Forest", title="Forest", color=(30, 105, 50)),
    LandUseClass(id=2, name="HerbaceousVegetation", title="Herbaceous vegetation", color=(155, 190, 95)),
    LandUseClass(id=3, name="Highway", title="Highway", color=(70, 70, 75)),
    LandUseClass(id=4, name="Industrial", title="Industrial", color=(160, 85, 160)),
    LandUseClass(id=5, name="Pasture", title="Pasture", color=(120, 215, 120)),
    LandUseClass(id=6, name="PermanentCrop", title="Permanent crop", color=(200, 125, 50)),
    LandUseClass(id=7, name="Residential", title="Residential", color=(220, 60, 60)),
    LandUseClass(id=8, name="River", title="River", color=(70, 160, 230)),
    LandUseClass(id=9, name="SeaLake", title="Sea or lake", color=(25, 70, 160)),
)
"""The ten classes of EuroSAT (Helber et al. 2019), in the order of its folders."""

EUROSAT_NAMES = tuple(c.name for c in EUROSAT)

LAND_USE = (
    *EUROSAT,
    LandUseClass(id=10, name="Shrubland", title="Shrubland", color=(190, 165, 110)),
    LandUseClass(id=11, name="Wetland", title="Wetland", color=(105, 160, 165)),
    LandUseClass(id=12, name="Bare", title="Bare ground", color=(205, 195, 180)),
    LandUseClass(id=13, name="SnowIce", title="Snow or ice", color=(235, 245, 255)),
)
"""The classes of a map of pixels: EuroSAT's, and four covers that EuroSAT has no name for."""

LAND_USE_NAMES = tuple(c.name for c in LAND_USE)

LAND_COVER = (
    LandUseClass(id=0, name="Water", title="Water", color=(65, 155, 223)),
    LandUseClass(id=1, name="Trees", title="Trees", color=(57, 125, 73)),
    LandUseClass(id=2, name="Grass", title="Grass", color=(136, 176, 83)),
    LandUseClass(id=3, name="FloodedVegetation", title="Flooded vegetation", color=(122, 135, 198)),
    LandUseClass(id=4, name="Crops", title="Crops", color=(228, 150, 53)),
    LandUseClass(id=5, name="ShrubScrub", title="Shrub and scrub", color=(223, 195, 90)),
    LandUseClass(id=6, name="Built", title="Built", color=(196, 40, 27)),
    LandUseClass(id=7, name="Bare", title="Bare ground", color=(165, 155, 143)),
    LandUseClass(id=8, name="SnowIce", title="Snow and ice", color=(179, 159, 225)),
)
"""The nine covers of Dynamic World (Brown et al. 2022, Scientific Data), in its order and colours."""

LAND_COVER_NAMES = tuple(c.name for c in LAND_COVER)

USES_OF_COVERS = (
    ("River", "SeaLake"),
    ("Forest",),
    ("Pasture", "HerbaceousVegetation"),
    ("Wetland",),
    ("AnnualCrop", "PermanentCrop"),
    ("Shrubland",),
    ("Residential", "Industrial", "Highway"),
    ("Bare",),
    ("SnowIce",),
)
"""What each cover of ``LAND_COVER`` can be used as, by name in ``LAND_USE``."""

THIN = ("River", "Highway")
"""Classes that may be one pixel wide: what smooths over a window leaves them as they are."""


_OTHER_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (128, 128, 128),
)
"""For classes that are not EuroSAT's: told apart by most colour-blind people (Okabe and Ito 2008)."""


def legend(names: Sequence[str], colors: Sequence[tuple[int, int, int]] = ()) -> tuple[LandUseClass, ...]:
    """Id, title and colour of a model's classes; one that is not known here is titled by its name.

    Args:
        names: class names by id.
        colors: colour of each by id, where the model brings its own; else none.
    """
    entries = _entries(names, (*LAND_COVER, *LAND_USE))  # of two with one name the land use counts
    if not colors:
        return entries
    return tuple(replace(entry, color=own) for entry, own in zip(entries, colors, strict=True))


def new_colors(names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """A colour for each of a user's own classes, no two alike.

    A name that is known here in any case, of a use or of a cover, has its colour. The others take those of
    Okabe and Ito, and then hues by the golden angle.

    Args:
        names: class names by id.

    Example:
        >>> new_colors(["Forest", "vineyard"])
        ((30, 105, 50), (230, 159, 0))
    """
    known = {entry.name.casefold(): entry.color for entry in (*LAND_COVER, *LAND_USE)}
    own = [known.get(name.casefold()) for name in names]
    taken: set[tuple[int, int, int]] = set()
    found: list[tuple[int, int, int] | None] = []
    for color in own:
        found.append(None if color is None or color in taken else color)
        taken |= {color} if color is not None else set()
    free = _free_colors(taken)
    return tuple(next(free) if color is None else color for color in found)


def _free_colors(taken: set[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Colours that are not taken, those that are told apart best first."""
    yield from (color for color in _OTHER_COLORS if color not in taken)
    step = 0
    while True:
        step += 1
        hue, value = step * 0.618034 % 1, (0.9, 0.7, 0.5)[step % 3]
        red, green, blue = (round(255 * part) for part in hsv_to_rgb(hue, 0.65, value))
        if (red, green, blue) not in taken:
            taken.add((red, green, blue))
            yield red, green, blue


def cover_legend(names: Sequence[str]) -> tuple[LandUseClass, ...]:
    """Id, title and colour of a model's covers; one that is not known here is titled by its name.

    Args:
        names: cover names by id.
    """
    return _entries(names, LAND_COVER)


def _entries(names: Sequence[str], entries: tuple[LandUseClass, ...]) -> tuple[LandUseClass, ...]:
    known = {entry.name: entry for entry in entries}
    return tuple(
        replace(known[name], id=i)
        if name in known
        else LandUseClass(id=i, name=name, title=name, color=_OTHER_COLORS[i % len(_OTHER_COLORS)])
        for i, name in enumerate(names)
    )
