"""What each provider calls things, and how a STAC item of theirs becomes a ``Scene``.

An item is JSON that somebody else wrote: every field is checked before it is believed. Items from
the web may point to the web only, never at this machine's files, and no href may name one of GDAL's
virtual file systems. Scale, offset and level are read from the item or derived from its processing
baseline, never assumed.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote, urljoin, urlsplit, urlunsplit
from urllib.request import url2pathname

import shapely
from shapely import Geometry, Polygon

from landuse.errors import ProviderError, UsageError
from landuse.records import BandAsset, Scene
from landuse.redact import redact, redact_href
from landuse.sentinel2 import (
    BANDS,
    COMMON_NAMES,
    DN_PER_REFLECTANCE,
    LEVELS,
    SCL,
    offset_of_baseline,
)

Json: TypeAlias = Mapping[str, object]
"""A JSON object that has been parsed and not yet believed."""

PRODUCT_LEVELS = {"S2MSI1C": "L1C", "S2MSI2A": "L2A"}
"""ESA's product types and the processing levels they mean."""

BAND_OF_COMMON_NAME = {name: band for band, name in COMMON_NAMES.items()} | {
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
}
"""Names of the eo extension that mean exactly one band of Sentinel-2; plain ``rededge`` does not."""

_BAND_KEY = re.compile(r"(B(?:0[1-9]|1[0-2]|8A)|SCL)(?:_\d+m)?", re.IGNORECASE)
_PICTURE_KEY = re.compile(r"visual|tci|preview|thumbnail|overview|rendered", re.IGNORECASE)
_PICTURE_ROLES = {"visual", "overview", "thumbnail", "metadata"}
_BASELINE = re.compile(r"\d{2}\.\d{2}", re.ASCII)
_CRS_CODE = re.compile(r"[A-Za-z0-9_]+:[A-Za-z0-9]+", re.ASCII)
_ENDS_A_URL = re.compile(r"[\s'\"<>]")
"""Characters that URLs in running text are taken to end at; ``redact`` could not see past them."""

EARTH_RADIUS_M = (6.3e6, 6.4e6)
"""Between these lies the semi-major axis of every ellipsoid in use for the earth; no other body's does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One source of STAC items and what it calls things."""

    name: str
    """How the user and the report name it."""
    endpoint: str
    """Root of the STAC API or URL of a static catalogue; empty for local metadata."""
    collections: tuple[tuple[str, str], ...] = ()
    """(level, collection id) of what it serves; empty searches every collection."""
    asset_keys: tuple[tuple[str, str], ...] = ()
    """(band, asset key); empty finds bands by their names in the item."""
    radiometry: Literal["baseline", "item"] = "item"
    """Scale and offset by ESA's rule for the baseline, or as the item states them."""
    signing: Literal["none", "planetary-computer"] = "none"
    """What makes an href readable."""


PLANETARY_COMPUTER = Provider(
    name="planetary-computer",
    endpoint="https://planetarycomputer.microsoft.com/api/stac/v1",
    collections=(("L2A", "sentinel-2-l2a"),),
    asset_keys=tuple((band, band) for band in (*BANDS, SCL) if band != "B10"),
    radiometry="baseline",
    signing="planetary-computer",
)

PROVIDERS = {provider.name: provider for provider in (PLANETARY_COMPUTER,)}
"""Providers the user can name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _BandEntry:
    """Where one band of an item was found."""

    band: str
    key: str
    asset: Json
    index: int
    """Band number inside the file, from 1."""
    rank: int
    """0 found by asset key, 1 by band name, 2 by common name: less is surer."""

    @property
    def preference(self) -> tuple[int, bool, float, str]:
        """Surest name first, then GeoTIFF before JPEG 2000, then the finest pixels."""
        pixel_m = number(self.asset.get("gsd")) or math.inf
        return self.rank, "tiff" not in text(self.asset.get("type") or "tiff"), pixel_m, self.key


def scene_from_item(item: Json, provider: Provider, location: str) -> Scene:
    """What landuse needs of a STAC item, checked; hrefs absolute and unsigned.

    Args:
        item: the STAC item as parsed JSON, of any version from 1.0.0-beta on.
        provider: what names the item uses.
        location: URL or local path of the document the item was read from; relative hrefs start
            there, and an item whose location is a URL may refer to the web alone.

    Raises:
        UsageError: The item does not say what is needed: time, place, level, bands, scale, offset.
        ProviderError: The item refers to something it must not.
    """
    name = _name(item)
    level = _level(item, provider)
    baseline = processing_baseline(item)
    entries = _entries(item, provider)
    if not entries:
        raise UsageError(
            f"{name} names no band of Sentinel-2 among its assets "
            f"{', '.join(repr(key) for key in list(mapping(item.get('assets')))[:20]) or '(none)'}. "
            "Name them B02, B03, ... as asset keys or in the assets' bands."
        )
    outline = footprint(item)
    parts = shapely.get_parts(outline)
    largest = max((part for part in parts if isinstance(part, Polygon)), key=lambda part: part.area)
    crs, bounds_m = _projection(item, entries)
    return Scene(
        id=text(item.get("id")),
        provider=provider.name,
        acquired_utc=acquired_utc(item),
        level=level,
        baseline=baseline,
        cloud_percent=cloud_percent(item),
        footprint=tuple((float(lon), float(lat)) for lon, lat, *_ in largest.exterior.coords),
        crs=crs,
        bounds_m=bounds_m,
        assets=tuple(_band_asset(item, entry, provider, location) for entry in entries),
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
            west, south, east, north = _numbers(item.get("bbox"), 4)
            geometry = shapely.box(west, south, east, north)
        geometry = shapely.make_valid(geometry)
    except (shapely.errors.GEOSException, ValueError, TypeError) as error:
        raise UsageError(f"{_name(item)} states no usable geometry ({error}). Mend its metadata.") from error
    west, south, east, north = geometry.bounds if not geometry.is_empty else (math.nan,) * 4
    if not (geometry.area > 0 and west >= -360 and east <= 360 and south >= -90 and north <= 90):
        raise UsageError(
            f"{_name(item)} has a geometry without an area in longitude and latitude. Mend its metadata."
        )
    if east - west > 180:
        # A ring that crosses the 180th meridian and was written without being cut there.
        east_of = shapely.make_valid(
            shapely.transform(geometry, lambda xy: xy + (xy[:, :1] < 0) * (360.0, 0.0))
        )
        geometry = east_of.intersection(shapely.box(0, -90, 180, 90)).union(
            shapely.transform(
                east_of.intersection(shapely.box(180, -90, 360, 90)), lambda xy: xy - (360.0, 0.0)
            )
        )
    return geometry


def acquired_utc(item: Json) -> datetime:
    """Acquisition time: ``datetime``, else ``start_datetime``; a time without offset is UTC.

    Raises:
        UsageError: There is none.
    """
    properties = mapping(item.get("properties"))
    for key in ("datetime", "start_datetime"):
        moment = _moment(properties.get(key))
        if moment is not None:
            return moment
    raise UsageError(f"{_name(item)} states no acquisition time. Give it a datetime.")


def cloud_percent(item: Json) -> float | None:
    """Cloud cover of the scene in percent, where the item states it."""
    return number(mapping(item.get("properties")).get("eo:cloud_cover"))


def processing_baseline(item: Json) -> str | None:
    """Baseline such as ``"05.11"``, where the item states one."""
    properties = mapping(item.get("properties"))
    for key in ("s2:processing_baseline", "processing:version"):
        value = text(properties.get(key))
        if _BASELINE.fullmatch(value):
            return value
    return None


def acquisition(item: Json) -> tuple[str, ...]:
    """What copies of one acquisition share, whatever baseline they were processed with.

    Platform, time and tile; the item's own id where it does not name its tile.
    """
    properties = mapping(item.get("properties"))
    tile = text(properties.get("s2:mgrs_tile")) or text(properties.get("grid:code")).removeprefix("MGRS-")
    if not tile:
        return (text(item.get("id")),)
    return text(properties.get("platform")).lower(), acquired_utc(item).isoformat(), tile.upper()


def processed(item: Json) -> tuple[tuple[int, ...], float]:
    """Baseline and time of processing, to tell the newest of several copies of one acquisition."""
    properties = mapping(item.get("properties"))
    times = (_moment(properties.get(key)) for key in ("s2:generation_time", "processing:datetime", "created"))
    newest = next((moment.timestamp() for moment in times if moment is not None), -math.inf)
    return _baseline_number(processing_baseline(item)), newest


def sign(href: str, provider: str) -> str:
    """An href that can be opened now. Call it just before the read: a signature lasts an hour at most.

    Args:
        href: unsigned.
        provider: name of the scene's provider.

    Raises:
        ProviderError: No token was given out.
    """
    known = PROVIDERS.get(provider)
    if known is None or known.signing == "none":
        return href
    # Imported here: it takes a second, and only this provider's reads need it.
    import planetary_computer
    import requests

    try:
        return str(planetary_computer.sign(href))
    except requests.RequestException as error:
        raise ProviderError(
            f"{provider} gave no token for {redact_href(href)}: {redact(str(error))}. "
            "Try again later, or check PC_SDK_SAS_URL and PC_SDK_SUBSCRIPTION_KEY."
        ) from error
    except ValueError as error:
        # Without its cause: what could not be parsed is quoted there, and may be the token.
        raise ProviderError(
            f"{provider} answered the request of a token for {redact_href(href)} with something else "
            f"({type(error).__name__}). Try again later, or check PC_SDK_SAS_URL."
        ) from None


def is_remote(location: str) -> bool:
    """Whether a document comes from the web."""
    return urlsplit(location).scheme.lower() in ("http", "https")


def resolve_href(href: str, location: str) -> str:
    """An href as the document at ``location`` means it: an absolute URL or an absolute local path.

    Blanks, quotes and ``<>`` in a URL come back percent-encoded, so that the URL is whole in any text.

    Raises:
        ProviderError: The href must not be followed from there.
    """
    # From the web a relative href is a URL too, and its query as secret.
    shown = re.split(r"[?#]", href, maxsplit=1)[0] if is_remote(location) else href
    refusal = f"{redact(redact_href(shown))[:200]!r} in {redact_href(location)!r} is refused: "
    # GDAL reads "/vsicurl/...", "/vsizip/..." and the like as commands, wherever they come from.
    if not href or not href.isprintable() or href.lower().startswith("/vsi"):
        raise ProviderError(refusal + "it is no plain address. Use http(s), s3 or a path.")
    try:
        parts = urlsplit(href)
        scheme = parts.scheme.lower()
        if scheme in ("http", "https", "s3"):
            return _plain_url(href)
        if is_remote(location):
            if scheme:
                raise ValueError("metadata from the web may refer to http(s) and s3 alone")
            return _plain_url(urljoin(location, href))
        # One letter is a drive, not a scheme.
        if len(scheme) > 1 and not (scheme == "file" and parts.netloc in ("", "localhost")):
            raise ValueError("only http(s), s3, file and plain paths are read")
    except ValueError as error:
        raise ProviderError(f"{refusal}{error}.") from error
    path = Path(url2pathname(parts.path)) if scheme == "file" else Path(href)
    absolute = os.path.abspath(Path(location).parent / path)  # noqa: PTH100 - resolve() would follow links
    if absolute.lower().startswith("/vsi"):
        raise ProviderError(refusal + "it is no plain address. Use http(s), s3 or a path.")
    return absolute


def _plain_url(url: str) -> str:
    """The URL with a host and without characters that would end it within a text; ValueError otherwise."""
    parts = urlsplit(url)
    if not parts.hostname or _ENDS_A_URL.search(parts.hostname):
        raise ValueError("it names no host")
    if not _ENDS_A_URL.search(url):
        return url
    if parts.scheme.lower() == "s3":
        # A key of S3 is literal: encoded, it would be another object's.
        if re.search(r"[?#@]", url):
            raise ValueError("an s3 address with blanks or quotes may have neither query nor password")
        return url
    return _ENDS_A_URL.sub(lambda found: quote(found[0]), url)


def mapping(value: object) -> Json:
    """``value`` where it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[object]:
    """``value`` where it is a JSON array, else an empty one."""
    return value if isinstance(value, (list, tuple)) else ()


def number(value: object) -> float | None:
    """``value`` where it is a finite JSON number, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def text(value: object) -> str:
    """``value`` where it is a JSON string, else an empty one."""
    return value if isinstance(value, str) else ""


def _numbers(value: object, count: int) -> tuple[float, ...]:
    """Exactly ``count`` finite numbers; ValueError otherwise."""
    values = [number(entry) for entry in sequence(value)]
    found = tuple(entry for entry in values if entry is not None)
    if not len(found) == len(values) == count:
        raise ValueError(f"{count} finite numbers expected")
    return found


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _name(item: Json) -> str:
    identifier = text(item.get("id"))
    if not identifier:
        raise UsageError("A STAC item has no id. Mend its metadata.")
    return f"STAC item {identifier[:120]!r}"


def _baseline_number(baseline: str | None) -> tuple[int, ...]:
    return () if baseline is None else tuple(int(part) for part in baseline.split("."))


def _level(item: Json, provider: Provider) -> str:
    properties = mapping(item.get("properties"))
    constellation = text(properties.get("constellation")) or text(properties.get("platform"))
    if (
        is_remote(provider.endpoint)
        and constellation
        and not re.search(r"sentinel[-_ ]?2", constellation, re.I)
    ):
        raise UsageError(
            f"{_name(item)} is of {constellation[:60]!r}, not of Sentinel-2. Choose another source."
        )
    collection = text(item.get("collection"))
    stated: tuple[str, ...] = (
        PRODUCT_LEVELS.get(text(properties.get("s2:product_type")), ""),
        PRODUCT_LEVELS.get(text(properties.get("product:type")), ""),
        text(properties.get("processing:level")).upper().replace("LEVEL-", "L"),
        *(level for level, identifier in provider.collections if identifier == collection),
        *re.findall(r"(?:^|[-_])(l1c|l2a)(?=$|[-_])", collection, re.I),
    )
    for level in stated:
        if level.upper() in LEVELS:
            return level.upper()
    raise UsageError(
        f"{_name(item)} does not say whether it is {' or '.join(LEVELS)}. "
        'Give it "processing:level", or make its catalogue with landuse catalog --level.'
    )


def _entries(item: Json, provider: Provider) -> tuple[_BandEntry, ...]:
    """The best asset of each band the item offers, in order of wavelength, SCL last."""
    assets = {key: mapping(asset) for key, asset in mapping(item.get("assets")).items()}
    if provider.asset_keys:
        found: Iterator[_BandEntry] = (
            _BandEntry(band=band, key=key, asset=assets[key], index=1, rank=0)
            for band, key in provider.asset_keys
            if key in assets
        )
    else:
        found = (entry for key, asset in assets.items() for entry in _named_bands(key, asset))
    best: dict[str, _BandEntry] = {}
    for entry in found:
        if entry.band not in best or entry.preference < best[entry.band].preference:
            best[entry.band] = entry
    return tuple(best[band] for band in (*BANDS, SCL) if band in best)


def _named_bands(key: str, asset: Json) -> Iterator[_BandEntry]:
    """The bands an asset holds by its key or by the names it gives its bands."""
    if _PICTURE_KEY.match(key) or _PICTURE_ROLES & {text(role) for role in sequence(asset.get("roles"))}:
        return
    described = [mapping(band) for band in sequence(asset.get("bands")) or sequence(asset.get("eo:bands"))]
    match = _BAND_KEY.fullmatch(key)
    if match is not None and len(described) <= 1:
        yield _BandEntry(band=match[1].upper(), key=key, asset=asset, index=1, rank=0)
        return
    if not described and key.lower() in BAND_OF_COMMON_NAME:
        yield _BandEntry(band=BAND_OF_COMMON_NAME[key.lower()], key=key, asset=asset, index=1, rank=2)
    for index, band in enumerate(described, start=1):
        names = [text(band.get(field)) for field in ("name", "eo:common_name", "common_name")]
        match = _BAND_KEY.fullmatch(names[0])
        # An asset of one band may also tell which by its key, as in Earth Search's "rededge1".
        names += [key] if len(described) == 1 else []
        common = next(
            (BAND_OF_COMMON_NAME[name.lower()] for name in names if name.lower() in BAND_OF_COMMON_NAME), None
        )
        if match is not None:
            yield _BandEntry(band=match[1].upper(), key=key, asset=asset, index=index, rank=1)
        elif common is not None:
            yield _BandEntry(band=common, key=key, asset=asset, index=index, rank=2)


def _band_asset(item: Json, entry: _BandEntry, provider: Provider, location: str) -> BandAsset:
    try:
        href = resolve_href(text(entry.asset.get("href")), location)
    except ProviderError as error:
        raise ProviderError(f"{_name(item)}, asset {entry.key[:60]!r}: {error}") from error
    if provider.signing != "none":
        # Someone's old signature would be taken for a valid one when the time comes to sign.
        href = urlunsplit(urlsplit(href)._replace(query="", fragment=""))
    if entry.band == SCL:
        return BandAsset(band=SCL, href=href, index=entry.index, scale=1.0, offset=0.0, nodata=0.0)
    scale, offset = _scale_offset(item, entry, provider)
    return BandAsset(
        band=entry.band,
        href=href,
        index=entry.index,
        scale=scale,
        offset=offset,
        nodata=_nodata(item, entry),
        pixel_m=_pixel_m(entry),
    )


def _described(entry: _BandEntry) -> tuple[Json, Json]:
    """What the asset says of this one band in ``bands`` (STAC 1.1) and in ``raster:bands`` (1.0)."""
    described = [
        mapping(bands[entry.index - 1]) if len(bands) >= entry.index else {}
        for bands in (sequence(entry.asset.get("bands")), sequence(entry.asset.get("raster:bands")))
    ]
    return described[0], described[1]


def _scale_offset(item: Json, entry: _BandEntry, provider: Provider) -> tuple[float, float]:
    """Scale and offset of ``reflectance = scale * stored + offset``: as stated, or by the baseline."""
    properties = mapping(item.get("properties"))
    band, raster_band = _described(entry)
    scale = offset = None
    if provider.radiometry == "item":
        places = (band, entry.asset, properties)
        scale, offset = (
            next((value for value in values if value is not None), None)
            for values in (
                [number(raster_band.get("scale")), *(number(place.get("raster:scale")) for place in places)],
                [
                    number(raster_band.get("offset")),
                    *(number(place.get("raster:offset")) for place in places),
                ],
            )
        )
        if properties.get("earthsearch:boa_offset_applied") is True:
            # Earth Search leaves the offset in raster:bands even where it has already taken it off.
            offset = 0.0
    baseline = processing_baseline(item)
    if baseline is not None:
        scale = 1 / DN_PER_REFLECTANCE if scale is None else scale
        offset = offset_of_baseline(baseline) if offset is None else offset
    if scale is None or offset is None:
        lacking = " and ".join(
            name for name, value in (("scale", scale), ("offset", offset)) if value is None
        )
        raise UsageError(
            f"{_name(item)}, asset {entry.key[:60]!r}: no {lacking} is stated and no processing baseline to "
            'derive it from. Give the asset "raster:scale" and "raster:offset", or the item '
            '"s2:processing_baseline".'
        )
    if scale <= 0:
        raise UsageError(f"{_name(item)}, asset {entry.key[:60]!r}: scale {scale:g} must be above 0.")
    return scale, offset


def _nodata(item: Json, entry: _BandEntry) -> float | None:
    """The stored value that means nodata: as stated, else 0 in ESA's own products, else none."""
    band, raster_band = _described(entry)
    for place in (band, raster_band, entry.asset):
        if "nodata" in place:
            stated = place["nodata"]
            return math.nan if stated == "nan" else number(stated)
    return None if processing_baseline(item) is None else 0.0


def _pixel_m(entry: _BandEntry) -> float | None:
    """Pixel size in metres, where the asset states it; ``gsd`` does not count, which is the sensor's."""
    for place in (*_described(entry), entry.asset):
        stated = number(place.get("raster:spatial_resolution")) or number(place.get("spatial_resolution"))
        if stated is not None and stated > 0:
            return stated
    transform = sequence(entry.asset.get("proj:transform"))
    size = number(transform[0]) if transform else None
    # In degrees a pixel of Sentinel-2 is far smaller than 1; nobody's metres are.
    return abs(size) if size is not None and abs(size) >= 1 else None


def _projection(
    item: Json, entries: Sequence[_BandEntry]
) -> tuple[str | None, tuple[float, float, float, float] | None]:
    """CRS and left, bottom, right, top in it, where the item or its bands state them.

    Without bounds of the item's own, they are those of all its reflectance bands together.

    Raises:
        UsageError: The CRS is none, or none of the earth's surface.
    """
    properties = mapping(item.get("properties"))
    stated = ((place, _crs_code(place)) for place in (properties, *(entry.asset for entry in entries)))
    crs = next((code for _, code in stated if code is not None), None)
    if crs is None:
        return None, None
    fault = _crs_fault(crs)
    if fault is not None:
        raise UsageError(f"{_name(item)} states the CRS {crs[:60]!r}: {fault}. Mend its metadata.")
    own = _bounds(properties)
    if own is not None:
        return crs, own
    bands = [
        bounds
        for entry in entries
        if entry.band != SCL and _crs_code(entry.asset) in (None, crs)
        for bounds in [_bounds(entry.asset)]
        if bounds is not None
    ]
    if not bands:
        return crs, None
    lefts, bottoms, rights, tops = zip(*bands, strict=True)
    return crs, (min(lefts), min(bottoms), max(rights), max(tops))


def _crs_code(place: Json) -> str | None:
    """``AUTHORITY:CODE`` from ``proj:code``, else from the older ``proj:epsg``; not yet believed."""
    code = text(place.get("proj:code"))
    epsg = number(place.get("proj:epsg"))
    return code or (f"EPSG:{epsg:.15g}" if epsg else None)


@functools.lru_cache(maxsize=256)
def _crs_fault(code: str) -> str | None:
    """Why the code cannot be a scene's CRS, or None. Cached: thousands of items share a few zones."""
    import pyproj
    from pyproj.exceptions import CRSError

    # Longer forms may name files, and PROJ would read them.
    if not _CRS_CODE.fullmatch(code):
        return "it is not AUTHORITY:CODE, such as EPSG:32633"
    try:
        crs = pyproj.CRS.from_user_input(code)
    except CRSError:
        return "there is no such CRS"
    if not (crs.is_projected or crs.is_geographic) or crs.ellipsoid is None:
        return "it is not one of easting and northing or longitude and latitude"
    low, high = EARTH_RADIUS_M
    return None if low < crs.ellipsoid.semi_major_metre < high else "it is not of the earth"


def _bounds(place: Json) -> tuple[float, float, float, float] | None:
    """Left, bottom, right, top from ``proj:bbox``, else from ``proj:transform`` and ``proj:shape``."""
    try:
        if "proj:bbox" in place:
            left, bottom, right, top = _numbers(place["proj:bbox"], 4)
        else:
            rows, cols = _numbers(place.get("proj:shape"), 2)
            a, b, c, d, e, f = _numbers(sequence(place.get("proj:transform"))[:6], 6)
            xs = [a * col + b * row + c for col in (0, cols) for row in (0, rows)]
            ys = [d * col + e * row + f for col in (0, cols) for row in (0, rows)]
            left, bottom, right, top = min(xs), min(ys), max(xs), max(ys)
    except ValueError:
        return None
    return (left, bottom, right, top) if left < right and bottom < top else None
