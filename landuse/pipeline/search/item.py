"""A STAC item of any provider as a ``Scene``, the same whatever the provider.

An item is JSON that somebody else wrote: every field is checked before it is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import shapely

from landuse.errors import UsageError
from landuse.pipeline.geometry import cut_at_antimeridian, footprint_of_bounds, make_valid, outer_rings
from landuse.pipeline.scene import Scene
from landuse.pipeline.search.band_assets import band_asset, band_entries, projection
from landuse.pipeline.search.item_properties import (
    acquired_utc,
    cloud_percent,
    item_name,
    level,
    platform,
    processing_baseline,
    tile,
)
from landuse.pipeline.stac_json import Json, mapping, numbers, text

if TYPE_CHECKING:
    from shapely import Geometry

    from landuse.pipeline.providers import Provider


def scene_from_item(item: Json, provider: Provider, location: str, item_href: str | None = None) -> Scene:
    """What landuse needs of a STAC item, checked; hrefs absolute and unsigned.

    Args:
        item: the STAC item as parsed JSON, of any version from 1.0.0-beta on.
        provider: what names the item uses.
        location: URL or local path of the document the item was read from; relative hrefs start
            there, and an item whose location is a URL may refer to the web alone.
        item_href: where this item can be read again by itself, if anywhere.

    Raises:
        UsageError: The item does not say what is needed: time, place, level, bands, scale, offset; or
            it says of its pixels that they lie elsewhere than its footprint.
        ProviderError: The item refers to something it must not.
    """
    name = item_name(item)
    processing_level = level(item, provider)
    entries = band_entries(item, provider)
    if not entries:
        raise UsageError(
            f"{name} names no band of Sentinel-2 among its assets "
            f"{', '.join(repr(key) for key in list(mapping(item.get('assets')))[:20]) or '(none)'}. "
            "Name them B02, B03, ... as asset keys or in the assets' bands."
        )
    crs, bounds_m = projection(item, entries)
    shown = footprint(item)
    if crs is not None and bounds_m is not None and not footprint_of_bounds(crs, bounds_m).intersects(shown):
        # Believed, the scene would be left out of every block without a word.
        pixels = ", ".join(f"{edge:.10g}" for edge in bounds_m)
        raise UsageError(
            f"{name} states pixels at {pixels} of {crs} (left, bottom, right, top), away from its footprint "
            f"at {', '.join(f'{edge:.6g}' for edge in shown.bounds)} (W,S,E,N). Mend its metadata."
        )
    return Scene(
        id=text(item.get("id")),
        provider=provider.name,
        acquired_utc=acquired_utc(item),
        level=processing_level,
        baseline=processing_baseline(item),
        cloud_percent=cloud_percent(item),
        footprint=outer_rings(shown),
        crs=crs,
        bounds_m=bounds_m,
        assets=tuple(band_asset(item, entry, provider, location) for entry in entries),
        platform=platform(item),
        tile=tile(item),
        item_href=item_href,
    )


def footprint(item: Json) -> Geometry:
    """The item's geometry in longitude and latitude; valid, with an area, within -180..180.

    Raises:
        UsageError: There is none.
    """
    try:
        if isinstance(item.get("geometry"), Mapping):
            geometry = shapely.force_2d(shapely.from_geojson(json.dumps(item["geometry"])))
        else:
            geometry = _box(item)
        if _in_range(geometry):
            geometry = make_valid(geometry)
    except (shapely.errors.GEOSException, ValueError, TypeError) as error:
        raise UsageError(
            f"{item_name(item)} states no usable geometry ({error}). Mend its metadata."
        ) from error
    if not (geometry.area > 0 and _in_range(geometry)):
        raise UsageError(
            f"{item_name(item)} has a geometry without an area in longitude and latitude. Mend its metadata."
        )
    return cut_at_antimeridian(geometry)


def _in_range(geometry: Geometry) -> bool:
    """Whether it has coordinates, and all of them may be longitude and latitude; NaN is neither."""
    west, south, east, north = geometry.bounds if not geometry.is_empty else (math.nan,) * 4
    return west >= -360 and east <= 360 and south >= -90 and north <= 90


def _box(item: Json) -> Geometry:
    """The item's ``bbox``, whose west is beyond its east where it crosses the 180th meridian."""
    west, south, east, north = numbers(item.get("bbox"), 4)
    return shapely.box(west, south, east + 360 if west > east else east, north)
