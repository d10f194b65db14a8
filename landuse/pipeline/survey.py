"""IO: what each scene shows of the area, by its cloud mask; which scenes to use, and in which order.

A tile's stated cloud cover says little of an area that is a hundredth of it. So the mask of every
candidate is read once over the area, coarsely, before anything else: a few kilobytes a scene where
the mask has overviews.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from landuse.errors import AssetError, NothingFoundError
from landuse.pipeline.clouds import mask_bands
from landuse.pipeline.lonlat import outline, solar_days
from landuse.pipeline.plan import project, snap
from landuse.pipeline.read import read_failure, read_mask
from landuse.records import AreaView, ReadFailure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.remote import Remote
    from landuse.records import Scene

log = logging.getLogger(__name__)

LONGEST_SIDE_PX = 768
"""Pixels along the area's longer side: what a mask is looked at in."""

FINEST_M = {"L2A": 20.0, "L1C": 60.0}
"""Pixels that masks have at their finest."""

SIDE_BY_SIDE = 8
"""Scenes that are looked at side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Which scenes to use, and what was found on the way."""

    scenes: tuple[Scene, ...]
    """Those clear enough, best first; overpasses that show most of the area clear come first."""
    dropped: int
    """Scenes whose mask shows more cloud over the area than is wanted, or nothing of it."""
    failures: tuple[ReadFailure, ...]
    """Masks that could not be read; their scenes are judged by what their items state."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """One scene over the area."""

    scene: Scene
    clear: NDArray[np.bool_] | None
    """(y, x) of the survey's grid; None where no mask could be looked at."""
    failures: tuple[ReadFailure, ...]


def survey(
    scenes: Sequence[Scene], area: BaseGeometry, crs: str, *, max_cloud_percent: float, remote: Remote
) -> Survey:
    """Look at each scene's mask over the area.

    Args:
        scenes: candidates.
        area: in longitude and latitude.
        crs: projected CRS to look in.
        max_cloud_percent: a scene with more cloud over the area, of what it shows of it, is left out.
        remote: how what is not on this machine is read.

    Raises:
        NothingFoundError: no scene is left.
    """
    ground = project(area, "EPSG:4326", crs)
    finest_m = max(FINEST_M[scene.level] for scene in scenes)
    grid = _coarse_grid(ground, crs, finest_m)
    inside = _inside(ground, grid)
    with remote.readers(SIDE_BY_SIDE) as pool:
        looks = list(pool.map(lambda scene: _look(scene, grid, inside, remote), scenes))
    kept = [look for look in looks if _good_enough(look.scene, max_cloud_percent)]
    failures = tuple(failure for look in looks for failure in look.failures)
    if not kept:
        views = [scene.view for scene in (look.scene for look in looks) if scene.view is not None]
        seeing = [view for view in views if view.seen]
        least = min((view.cloud_percent for view in seeing), default=None)
        what = (
            "shows anything of the area"
            if least is None
            else f"is clear enough over the area: the clearest has {least:.1f} % cloud there, above "
            f"--max-cloud {max_cloud_percent:g}"
        )
        mend = "Widen --date" if least is None else "Widen --date or raise --max-cloud"
        raise NothingFoundError(f"None of the {len(scenes)} scenes {what}. {mend}.")
    log.info("%d of %d scenes are clear enough over the area", len(kept), len(looks))
    return Survey(scenes=_in_order(kept, area, inside), dropped=len(looks) - len(kept), failures=failures)


def _coarse_grid(ground: BaseGeometry, crs: str, finest_m: float) -> GeoBox:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    west, south, east, north = ground.bounds
    size_m = finest_m * max(1, math.ceil(max(east - west, north - south) / LONGEST_SIDE_PX / finest_m))
    cols, rows = snap(west, east, size_m), snap(south, north, size_m)
    corner = Affine(size_m, 0, cols[0] * size_m, 0, -size_m, rows[1] * size_m)
    return GeoBox((rows[1] - rows[0], cols[1] - cols[0]), corner, crs)


def _inside(ground: BaseGeometry, grid: GeoBox) -> NDArray[np.bool_]:
    """(y, x), True where a pixel touches the area."""
    from rasterio.features import geometry_mask

    outside: NDArray[np.bool_] = geometry_mask([ground], grid.shape, grid.affine, all_touched=True)
    return ~outside


def _look(scene: Scene, grid: GeoBox, inside: NDArray[np.bool_], remote: Remote) -> _Look:
    if not mask_bands(scene.level, scene.bands):
        return _Look(scene=scene, clear=None, failures=())
    failures: list[ReadFailure] = []
    for copy in (scene, *scene.mirrors):
        try:
            observed, clear = read_mask(copy, grid, remote)
        except AssetError as error:
            log.warning("%s", error)
            failures.append(read_failure(copy, error))
            continue
        total = int(inside.sum())
        view = AreaView(
            seen=int((observed & inside).sum()) / total, clear=int((clear & inside).sum()) / total
        )
        replaced = tuple(replace(failure, replaced_by=copy.provider) for failure in failures)
        return _Look(scene=replace(scene, view=view), clear=clear & inside, failures=replaced)
    return _Look(scene=scene, clear=None, failures=tuple(failures))


def _good_enough(scene: Scene, max_cloud_percent: float) -> bool:
    if scene.view is None:
        return scene.cloud_percent is None or scene.cloud_percent <= max_cloud_percent
    return scene.view.seen > 0 and scene.view.cloud_percent <= max_cloud_percent


def _in_order(looks: Sequence[_Look], area: BaseGeometry, inside: NDArray[np.bool_]) -> tuple[Scene, ...]:
    """Overpass by overpass, so that neighbouring tiles of one date meet and seams lie only at clouds."""
    days: dict[date, list[_Look]] = {}
    for look, day in zip(looks, solar_days([look.scene for look in looks]), strict=True):
        days.setdefault(day, []).append(look)

    def clear_of_day(day: date) -> float:
        measured = [look.clear for look in days[day] if look.clear is not None]
        share = float(np.logical_or.reduce(measured).sum() / inside.sum()) if measured else 0.0
        stated = sum(_stated_clear(look.scene, area) for look in days[day] if look.clear is None)
        return min(share + stated, 1.0)

    order = sorted(days, key=lambda day: (-round(clear_of_day(day), 3), -day.toordinal()))
    return tuple(
        look.scene
        for day in order
        for look in sorted(days[day], key=lambda look: (-_clear_share(look, area), look.scene.id))
    )


def _clear_share(look: _Look, area: BaseGeometry) -> float:
    return _stated_clear(look.scene, area) if look.scene.view is None else look.scene.view.clear


def _stated_clear(scene: Scene, area: BaseGeometry) -> float:
    """Share of the area that a scene without a mask may show clear: by its outline and its stated cloud.

    One that states no cloud comes after those that do.
    """
    covered = outline(scene).intersection(area).area / area.area
    cloud_percent = 100.0 if scene.cloud_percent is None else scene.cloud_percent
    return float(covered) * (1 - cloud_percent / 100)
