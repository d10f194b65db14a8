"""Class ids, names and colours: the one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class LandUseClass:
    """One land-use class of a map."""

    id: int
    """Value in the class raster, 0..254."""
    name: str
    """Name as EuroSAT's folders spell it."""
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


def legend(names: Sequence[str]) -> tuple[LandUseClass, ...]:
    """Id, title and colour of a model's classes; one that is not EuroSAT's is titled by its name.

    Args:
        names: class names by id.
    """
    known = {entry.name: entry for entry in EUROSAT}
    return tuple(
        replace(known[name], id=i)
        if name in known
        else LandUseClass(id=i, name=name, title=name, color=_OTHER_COLORS[i % len(_OTHER_COLORS)])
        for i, name in enumerate(names)
    )
