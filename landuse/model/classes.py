"""Class ids, names and colours: the one place."""

from __future__ import annotations

from dataclasses import dataclass


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
