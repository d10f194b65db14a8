"""IO: what each scene shows of the area, by its cloud mask; which scenes to use, and in which order.

A tile's stated cloud cover says little of an area that is a hundredth of it. So the mask of every
candidate is read once over the area, coarsely, before anything else: a few kilobytes a scene where
the mask has overviews. Scenes without a mask are ranked by an estimate from their blue and red.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from landuse.errors import AssetError, LanduseError, NothingFoundError, ReadError
from landuse.pipeline.geometry import footprint_of, project, snap, solar_days
from landuse.pipeline.pixels import pixels_in
from landuse.pipeline.read.read_scene import read_estimate, read_failure, read_mask
from landuse.pipeline.scene import ESTIMATE_BANDS, AreaView, ReadFailure, is_masked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.remote.files import Remote
    from landuse.pipeline.scene import Scene

log = logging.getLogger(__name__)

LONGEST_SIDE_PX = 512
"""Pixels along the area's longer side: what a mask is looked at in."""

FINEST_M = {"L2A": 20.0, "L1C": 60.0}
"""Pixels that masks have at their finest."""

SIDE_BY_SIDE = 8
"""Scenes that are looked at side by side."""

ENOUGH = 0.999
"""Where the scenes looked at show this share of the area clear, L1C is not looked at any further: its mask
takes ten whole bands, of JPEG 2000 at that, and somebody pays for them."""

SPARE_SHARE = 1e-4
"""An overpass that adds less than this share of the area to those before it is spare: about a pixel of the
grid that it is looked at in. A larger share of a large area would be square kilometres of holes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Which scenes to use, and what was found on the way."""

    scenes: tuple[Scene, ...]
    """Those clear enough, best first; overpasses that show most of the area clear come first."""
    left_out: tuple[Scene, ...]
    """Those whose mask shows more cloud over the area than is wanted, or nothing of it."""
    failures: tuple[ReadFailure, ...]
    """Masks that could not be read; their scenes are judged by what their items state."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """One scene over the area."""

    scene: Scene
    packed: NDArray[np.uint8] | None
    """What is clear of the survey's grid, in bits; None where no mask was looked at."""
    failures: tuple[ReadFailure, ...]

    def clear(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """(y, x); nothing where no mask was looked at."""
        if self.packed is None:
            return np.zeros(shape, np.bool_)
        return np.unpackbits(self.packed, count=shape[0] * shape[1]).astype(np.bool_).reshape(shape)


def survey(
    scenes: Sequence[Scene],
    area: BaseGeometry,
    crs: str,
    *,
    every_date: bool,
    max_cloud_percent: float,
    remote: Remote,
    own_zone_first: bool = False,
) -> Survey:
    """Look at the scenes' masks over the area.

    Args:
        scenes: candidates of one level.
        area: in longitude and latitude.
        crs: projected CRS to look in.
        every_date: whether pixels are read of every date; then no scene is spare.
        max_cloud_percent: a scene with more cloud over the area, of what it shows of it, is left out.
        remote: how what is not on this machine is read.
        own_zone_first: whether of one day the scenes in ``crs`` come before those that have to be warped.

    Raises:
        NothingFoundError: no scene is left.
        ReadError: no scene is left, and some were left out whose masks could not be read.
    """
    extent = project(area, "EPSG:4326", crs)
    grid = _coarse_grid(extent, crs, FINEST_M[scenes[0].level])
    inside = pixels_in(extent, grid, all_touched=True)
    looks = _look_at(scenes, grid, inside, remote, lazily=not every_date and scenes[0].level == "L1C")
    failures = tuple(failure for look in looks for failure in look.failures)
    kept = [look for look in looks if _good_enough(look.scene, max_cloud_percent)]
    if not kept:
        raise _none_left([look.scene for look in looks], failures, max_cloud_percent)
    log.info("%d of %d scenes are clear enough over the area", len(kept), len(looks))
    ordered = _in_order(kept, area, inside, crs if own_zone_first else None)
    return Survey(
        scenes=tuple(one.scene for one in ordered) if every_date else _with_spares(ordered, inside),
        left_out=tuple(look.scene for look in looks if not _good_enough(look.scene, max_cloud_percent)),
        failures=failures,
    )


def _none_left(
    scenes: Sequence[Scene], failures: Sequence[ReadFailure], max_cloud_percent: float
) -> LanduseError:
    views = [scene.view for scene in scenes if scene.view is not None and not scene.view.estimated]
    unread = {failure.scene_id: failure for failure in failures if failure.replaced_by is None}
    if unread:
        reason = next(iter(unread.values())).reason
        return ReadError(
            f"None of the {len(scenes)} scenes is known to be clear enough over the area: the cloud masks of "
            f"{len(unread)} could not be read. {reason}"
        )
    least = min((view.cloud_percent for view in views if view.seen), default=None)
    if least is None:
        return NothingFoundError(
            f"None of the {len(scenes)} scenes shows anything of the area. Widen --date."
        )
    return NothingFoundError(
        f"None of the {len(scenes)} scenes is clear enough over the area: the clearest has {least:.1f} % "
        f"cloud there, above --max-cloud {max_cloud_percent:g}. Widen --date or raise --max-cloud."
    )


def _coarse_grid(extent: BaseGeometry, crs: str, finest_m: float) -> GeoBox:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    west, south, east, north = extent.bounds
    size_m = finest_m * max(1, math.ceil(max(east - west, north - south) / LONGEST_SIDE_PX / finest_m))
    cols, rows = snap(west, east, size_m), snap(south, north, size_m)
    corner = Affine(size_m, 0, cols[0] * size_m, 0, -size_m, rows[1] * size_m)
    return GeoBox((rows[1] - rows[0], cols[1] - cols[0]), corner, crs)


def _look_at(
    scenes: Sequence[Scene], grid: GeoBox, inside: NDArray[np.bool_], remote: Remote, *, lazily: bool
) -> list[_Look]:
    """Look at every scene, or lazily at the likeliest to be clear until together they show enough."""
    looks: list[_Look] = []
    covered = np.zeros_like(inside)
    for first in range(0, len(scenes), SIDE_BY_SIDE):
        batch = scenes[first : first + SIDE_BY_SIDE]
        if lazily and covered[inside].mean() >= ENOUGH:
            looks += [_Look(scene=scene, packed=None, failures=()) for scene in batch]
            continue
        with remote.readers(len(batch)) as pool:
            found = list(pool.map(lambda scene: _look(scene, grid, inside, remote), batch))
        for look in found:
            covered |= look.clear(inside.shape)
        looks += found
    return looks


def _look(scene: Scene, grid: GeoBox, inside: NDArray[np.bool_], remote: Remote) -> _Look:
    if not is_masked(scene):
        return _Look(scene=_estimated(scene, grid, inside, remote), packed=None, failures=())
    failures: list[ReadFailure] = []
    for copy in (scene, *scene.mirrors):
        try:
            observed, clear = read_mask(copy, grid, remote)
        except AssetError as error:
            log.warning("%s", error)
            failures.append(read_failure(copy, error))
            continue
        total = int(inside.sum())
        seen, bright = (int((mask & inside).sum()) / total for mask in (observed, clear))
        replaced = tuple(replace(failure, replaced_by=copy.provider) for failure in failures)
        return _Look(
            scene=replace(scene, view=AreaView(seen=seen, clear=bright)),
            packed=np.packbits(clear & inside),
            failures=replaced,
        )
    return _Look(scene=scene, packed=None, failures=tuple(failures))


def _estimated(scene: Scene, grid: GeoBox, inside: NDArray[np.bool_], remote: Remote) -> Scene:
    """The scene with an estimate of its cloud over the area, where it has the bands for one."""
    for copy in (scene, *scene.mirrors):
        if not set(ESTIMATE_BANDS) <= set(copy.bands):
            continue
        try:
            observed, cloud = read_estimate(copy, grid, remote)
        except AssetError as error:
            log.warning("%s", error)  # no failure of the map's yet: its blocks are read from the same assets
            continue
        total = int(inside.sum())
        seen = observed & inside
        clear = float((1 - cloud)[seen].sum()) / total
        view = AreaView(seen=int(seen.sum()) / total, clear=clear, estimated=True)
        return replace(scene, view=view)
    return scene


def _good_enough(scene: Scene, max_cloud_percent: float) -> bool:
    if scene.view is None or scene.view.estimated:
        return scene.cloud_percent is None or scene.cloud_percent <= max_cloud_percent
    return scene.view.seen > 0 and scene.view.cloud_percent <= max_cloud_percent


def _in_order(
    looks: Sequence[_Look], area: BaseGeometry, inside: NDArray[np.bool_], first_crs: str | None
) -> list[_Look]:
    """Overpass by overpass, so that neighbouring tiles of one date meet and seams lie only at clouds."""
    days: dict[date, list[_Look]] = {}
    for look, day in zip(looks, solar_days([look.scene for look in looks]), strict=True):
        days.setdefault(day, []).append(look)

    def clear_of_day(day: date) -> float:
        measured = np.logical_or.reduce([look.clear(inside.shape) for look in days[day]])
        others = sum(clear_of_scene(look) for look in days[day] if look.packed is None)
        return min(float(measured.sum() / inside.sum()) + others, 1.0)

    def clear_of_scene(look: _Look) -> float:
        return _stated_clear(look.scene, area) if look.scene.view is None else look.scene.view.clear

    order = sorted(days, key=lambda day: (-round(clear_of_day(day), 3), -day.toordinal()))

    def rank(look: _Look) -> tuple[bool, float, str]:
        warped = first_crs is not None and look.scene.crs != first_crs
        return warped, -clear_of_scene(look), look.scene.id

    return [look for day in order for look in sorted(days[day], key=rank)]


def _with_spares(ordered: Sequence[_Look], inside: NDArray[np.bool_]) -> tuple[Scene, ...]:
    """The scenes in order; those that add next to nothing to the ones before them marked as spare.

    Without this a pixel that no date shows, such as a roof that SCL calls cloud, would have every scene read.
    """
    covered = np.zeros_like(inside)
    scenes: list[Scene] = []
    for look in ordered:
        clear = look.clear(inside.shape)
        added = float((clear & ~covered).sum() / inside.sum())
        unknown = look.packed is None and covered[inside].mean() < ENOUGH
        spare = bool(scenes) and added < SPARE_SHARE and not unknown
        if not spare:
            covered |= clear
        scenes.append(replace(look.scene, spare=spare))
    return tuple(scenes)


def _stated_clear(scene: Scene, area: BaseGeometry) -> float:
    """Share of the area that a scene without a mask may show clear: by its footprint and its stated cloud.

    One that states no cloud comes after those that do.
    """
    covered = footprint_of(scene).intersection(area).area / area.area
    cloud_percent = 100.0 if scene.cloud_percent is None else scene.cloud_percent
    return float(covered) * (1 - cloud_percent / 100)
