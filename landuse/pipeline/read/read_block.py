"""The pixels of one block: scene after scene, from a mirror where one fails, one image at the end.

What cannot be read anywhere is reported, not guessed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely

from landuse.errors import AssetError
from landuse.pipeline.geometry import footprint_in, footprint_of, project, solar_days
from landuse.pipeline.pixels import pixel_block, pixels_in
from landuse.pipeline.read.composite import composite
from landuse.pipeline.read.read_scene import read_failure, read_scene
from landuse.pipeline.scene import ReadFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    import xarray as xr
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.remote.files import Remote
    from landuse.pipeline.scene import Scene

log = logging.getLogger(__name__)

FOOTPRINT_ERROR_M = 200.0
"""How far the edge of a scene's pixels may lie inside its footprint, in metres."""


MOST_BYTES = 2**30
"""Memory for the days of one block of which a median or medoid is made."""

LEAST_ROWS = 64
"""Rows that are read at a time at least: around each a mask looks at some more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockPixels:
    """What could be read of a block."""

    pixels: xr.Dataset
    """The composite of its scenes, as ``pixel_block`` makes it."""
    failures: tuple[ReadFailure, ...]
    """What could not be read, also where a mirror had it."""
    lost: tuple[Scene, ...]
    """Scenes of which pixels are missing, no mirror having them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagery:
    """What is read for a map, whatever the rectangle."""

    scenes: tuple[Scene, ...]
    """In order of preference, all of one level."""
    bands: tuple[str, ...]
    """Names of the bands to read, in the order of the result."""
    composite: str
    """``"best"``, ``"median"`` or ``"medoid"``: how several scenes become one image."""
    margin_m: float
    """How far outside its footprint a scene may still have pixels, in metres."""


def read_pixels(imagery: Imagery, geobox: GeoBox, remote: Remote, block: str) -> BlockPixels:
    """Read the scenes that touch a rectangle, in their order, until ``best`` has all of it clear.

    Median and medoid need all days at once: where those are more than ``MOST_BYTES`` the rectangle is read
    in strips.

    Args:
        imagery: scenes, bands and composite.
        geobox: the rectangle's pixels, in the map's CRS.
        remote: how what is not on this machine is read.
        block: name for the records of failures.
    """
    strips = _strips(imagery, geobox)
    parts = [_read_strip(imagery, geobox[strip], remote, block) for strip in strips]
    if len(parts) == 1:
        return parts[0]
    dn, observed, usable = (
        np.concatenate([getattr(part.pixels, name).values for part in parts], axis=-2)
        for name in ("dn", "observed", "usable")
    )
    return BlockPixels(
        pixels=pixel_block(dn, observed, usable, bands=imagery.bands, geobox=geobox),
        failures=tuple(dict.fromkeys(failure for part in parts for failure in part.failures)),
        lost=tuple({scene.id: scene for part in parts for scene in part.lost}.values()),
    )


def _strips(imagery: Imagery, geobox: GeoBox) -> list[tuple[slice, slice]]:
    """Rows and columns of the parts in which a rectangle is read."""
    rows, cols = geobox.shape
    if imagery.composite == "best":
        return [np.s_[:rows, :cols]]
    row_bytes = max(len(_touching(imagery, geobox)), 1) * cols * (2 * len(imagery.bands) + 2)
    step = max(MOST_BYTES // max(row_bytes, 1), LEAST_ROWS)
    return [np.s_[top : min(top + step, rows), :cols] for top in range(0, rows, step)]


def _read_strip(imagery: Imagery, geobox: GeoBox, remote: Remote, block: str) -> BlockPixels:
    """What ``read_pixels`` reads, all days at once."""
    image: xr.Dataset | None = None
    layers: list[xr.Dataset] = []
    days: list[date] = []
    failures: list[ReadFailure] = []
    lost: list[Scene] = []
    for scene, day in _in_turn(imagery, geobox, lost):
        layer, failed = _read_somewhere(scene, imagery.bands, geobox, remote, block)
        failures += failed
        if any(failure.replaced_by is None for failure in failed):
            lost.append(scene)
        if layer is None:
            continue
        if imagery.composite != "best":
            layers.append(layer)
            days.append(day)
            continue
        # Folded as they come: a block never holds more than two.
        image = layer if image is None else composite([image, layer], "best")
        if image.usable.all():
            break
    if layers:
        image = composite(layers, imagery.composite, days)
    image = no_pixels(imagery, geobox) if image is None else image
    return BlockPixels(pixels=image, failures=tuple(failures), lost=tuple(lost))


def read_dates(imagery: Imagery, geobox: GeoBox, remote: Remote, block: str) -> Iterator[BlockPixels]:
    """Read every solar day of a rectangle by itself, the clearest first; each when it is asked for.

    So a caller that is done with one before it asks for the next holds no more of a month than of a day.

    Args:
        imagery: scenes and bands; of a day's scenes the first that is usable at a pixel is taken.
        geobox: the rectangle's pixels, in the map's CRS.
        remote: how what is not on this machine is read.
        block: name for the records of failures.
    """
    of_day: dict[date, list[Scene]] = {}
    for scene, day in _touching(imagery, geobox):
        of_day.setdefault(day, []).append(replace(scene, spare=False))
    for scenes in of_day.values():
        yield read_pixels(replace(imagery, scenes=tuple(scenes), composite="best"), geobox, remote, block)


def no_pixels(imagery: Imagery, geobox: GeoBox) -> xr.Dataset:
    """What is read of a rectangle that no scene shows."""
    nothing = np.zeros(geobox.shape, np.bool_)
    dn = np.zeros((len(imagery.bands), *geobox.shape), np.uint16)
    return pixel_block(dn, nothing, nothing, bands=imagery.bands, geobox=geobox)


def _in_turn(imagery: Imagery, geobox: GeoBox, lost: Sequence[Scene]) -> Iterator[tuple[Scene, date]]:
    """Scenes that touch the rectangle; spare ones only where pixels of another are missing by then."""
    touching = _touching(imagery, geobox)
    yield from (one for one in touching if not one[0].spare)
    for one in touching:
        if one[0].spare and lost:
            yield one


def _touching(imagery: Imagery, geobox: GeoBox) -> list[tuple[Scene, date]]:
    """Scenes that may have pixels in the rectangle, with their solar days."""
    extent, crs = shapely.box(*geobox.boundingbox.bbox), str(geobox.crs)
    return [
        (scene, day)
        for scene, day in zip(imagery.scenes, solar_days(imagery.scenes), strict=True)
        if footprint_in(scene, crs).buffer(imagery.margin_m).intersects(extent)
    ]


def _read_somewhere(
    scene: Scene, bands: tuple[str, ...], geobox: GeoBox, remote: Remote, block: str
) -> tuple[xr.Dataset | None, list[ReadFailure]]:
    """Pixels of the scene, else of its mirrors together, and what could not be read."""
    failures: list[ReadFailure] = []
    layer: xr.Dataset | None = None
    for copy in (scene, *scene.mirrors):
        try:
            found = read_scene(copy, bands, geobox, remote)
        except AssetError as error:
            log.warning("%s", error)
            failures.append(read_failure(copy, error, block))
            continue
        layer = found if layer is None else composite([layer, found], "best")
        # A mirror may show less than the scene it stands in for.
        if copy is scene or not _leaves_a_gap(layer, scene, geobox):
            return layer, [replace(failure, replaced_by=copy.provider) for failure in failures]
    return layer, failures


def _leaves_a_gap(layer: xr.Dataset, scene: Scene, geobox: GeoBox) -> bool:
    """Whether the layer lacks pixels well inside the scene's footprint."""
    footprint = project(footprint_of(scene), "EPSG:4326", str(geobox.crs)).buffer(-FOOTPRINT_ERROR_M)
    inside = footprint.intersection(shapely.box(*geobox.boundingbox.bbox))
    if inside.area == 0:
        return False
    return bool((pixels_in(inside, geobox) & ~layer.observed.values).any())


def footprints_in(scenes: Sequence[Scene], crs: str) -> BaseGeometry:
    """Where any of the scenes may have pixels, in ``crs``."""
    return shapely.union_all([footprint_in(scene, crs) for scene in scenes])
