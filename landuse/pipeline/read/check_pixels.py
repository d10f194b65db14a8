"""IO: scenes whose pixels contradict what is stated of them are refused before anything is mapped."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # GDAL's own errors; rasterio wraps only some of them
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds
from rasterio.windows import from_bounds

from landuse.errors import UsageError
from landuse.pipeline.read.onto_grid import tagged_nodata, valid_pixels
from landuse.pipeline.read.read_scene import GDAL_OPTIONS, driver_of
from landuse.pipeline.search.source import HeldItems
from landuse.plausible import (
    ESA_OFFSET,
    likely_order,
    likely_units,
    offset_doubt,
    order_fault,
    unit_fault,
)
from landuse.sentinel2 import SCL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rasterio.io import DatasetReader
    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.read.onto_grid import Stored
    from landuse.pipeline.scene import BandAsset, Scene
    from landuse.pipeline.search.source import Source

log = logging.getLogger(__name__)

LONGEST_SIDE_PX = 256
"""Pixels along the longer side of what is looked at."""


def look(
    sources: Sequence[tuple[DatasetReader, BandAsset]],
    part: tuple[float, float, float, float] | None = None,
) -> dict[str, Stored]:
    """Pixels of several bands at the same places, thinned to ``LONGEST_SIDE_PX`` where they are more.

    Args:
        sources: open rasters of one CRS, each with the band of it that is meant.
        part: left, bottom, right, top of what is to be looked at; None: all that they share.

    Returns:
        Stored values and validity ``(y, x)`` of each band; nothing where they share nothing, or are rotated.

    Raises:
        RasterioError: a raster cannot be read.
    """
    extents = [tuple(source.bounds) for source, _ in sources] + ([part] if part is not None else [])
    lefts, bottoms, rights, tops = zip(*extents, strict=True)
    left, bottom, right, top = max(lefts), max(bottoms), min(rights), min(tops)
    if left >= right or bottom >= top or not all(source.transform.is_rectilinear for source, _ in sources):
        return {}
    pixel = max(
        min(source.res[0] for source, _ in sources), max(right - left, top - bottom) / LONGEST_SIDE_PX
    )
    shape = tuple(max(1, round(side / pixel)) for side in (top - bottom, right - left))
    layers = {}
    for source, asset in sources:
        window = from_bounds(left, bottom, right, top, source.transform)
        stored = source.read(asset.index, window=window, out_shape=shape)
        layers[asset.band] = stored, valid_pixels(stored, asset, tagged_nodata(source, asset))
    return layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """What is stated of a scene, and its pixels say otherwise."""

    told: str
    """What is stated and what the pixels say: a sentence that begins with "it"."""
    units: tuple[float, float] | None = None
    """Where the units are wrong: scale and offset that would be plausible; None where none are known."""
    order: tuple[str, ...] = ()
    """Where the order is wrong: names of the bands, without SCL, that would be plausible; else empty."""
    certain: bool
    """False where haze, say, could look the same."""

    @property
    def options(self) -> str:
        """Options of ``landuse catalog`` that would be plausible; empty where none are known."""
        if self.units is not None:
            return f"--scale {self.units[0]:g} --offset {self.units[1]:g}"
        return f"--bands {','.join(self.order)}" if self.order else ""


def contradiction(
    layers: Mapping[str, Stored], assets: Sequence[BandAsset], level: str
) -> Contradiction | None:
    """What of a scene its pixels contradict: units first, then the order of its bands.

    Args:
        layers: of ``look``.
        assets: what is stated of the bands.
        level: ``"L1C"`` or ``"L2A"``.
    """
    bands = [asset for asset in assets if asset.band != SCL and asset.band in layers]
    if not bands:
        return None
    valid = np.logical_and.reduce([layers[asset.band][1] for asset in bands])
    stored = {asset.band: layers[asset.band][0][valid].astype(np.float64) for asset in bands}
    reflectance = {asset.band: asset.scale * stored[asset.band] + asset.offset for asset in bands}
    stated = f"it is stated that reflectance is {bands[0].scale:g} x stored {bands[0].offset:+g}, but"
    fault = unit_fault(reflectance, level)
    if fault is not None:
        if all(-60 < np.median(values) < 0 for values in stored.values()):
            fault += "; such values are decibels of radar, not Sentinel-2"
        elif all(1 < values.max() <= 255 for values in stored.values()):
            fault += "; values of 0 to 255 are a picture's, and what they mean is lost"
            return Contradiction(told=f"{stated} so read its pixels are {fault}.", certain=True)
        likely = likely_units(stored, level)
        return Contradiction(told=f"{stated} so read its pixels are {fault}.", units=likely, certain=True)
    fault = order_fault(reflectance, level)
    if fault is not None:
        order = likely_order(reflectance, level)
        told = f"its bands are stated to be {', '.join(reflectance)}, but {fault}."
        return Contradiction(told=told, order=order or (), certain=True)
    doubt = offset_doubt(reflectance, level)
    if doubt is None:
        return None
    likely = (bands[0].scale, bands[0].offset + ESA_OFFSET)
    return Contradiction(told=f"{stated} {doubt}.", units=likely, certain=False)


def check_scenes(scenes: Sequence[Scene], area: BaseGeometry, sources: Sequence[Source]) -> None:
    """Look coarsely at the scenes that lie on this machine, as far as they show the area.

    What comes from the web is not looked at: it would be fetched for this alone.

    Args:
        scenes: those of a plan; spares are left out.
        area: in longitude and latitude.
        sources: where they were found; what one has told of its doubts is not told again.

    Raises:
        UsageError: the pixels of one contradict what is stated of it.
    """
    told = {source.name for source in sources if isinstance(source, HeldItems) and source.doubts_told}
    for scene in scenes:
        assets = [asset for asset in scene.assets if asset.band != SCL]
        if scene.spare or any("://" in asset.href for asset in assets):
            continue
        try:
            found = contradiction(_look_at(assets, area), assets, scene.level)
        except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
            log.debug(
                "scene %s cannot be looked at: %s", scene.id, error
            )  # reading it for the map will say so
            continue
        if found is None:
            continue
        anew = f"landuse catalog {found.options}".rstrip()
        text = f"Scene {scene.id!r}: {found.told} Mend its metadata, or catalogue it anew ({anew})."
        if found.certain:
            raise UsageError(text)
        if scene.provider not in told:
            log.warning("%s", text)


def _look_at(assets: Sequence[BandAsset], area: BaseGeometry) -> dict[str, Stored]:
    with ExitStack() as held:
        held.enter_context(rasterio.Env(**GDAL_OPTIONS))
        sources = [
            (held.enter_context(rasterio.open(asset.href, driver=driver_of(asset))), asset)
            for asset in assets
        ]
        crs = sources[0][0].crs
        if any(source.crs != crs for source, _ in sources) or crs is None:
            return {}
        return look(sources, transform_bounds("EPSG:4326", crs, *area.bounds))
