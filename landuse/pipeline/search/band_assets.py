"""Which asset of a STAC item holds which band, and what its numbers mean.

Scale and offset are read from the item or derived from its processing baseline, never assumed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from landuse.errors import ProviderError, UsageError
from landuse.pipeline.geometry import METRES_A_DEGREE
from landuse.pipeline.scene import BandAsset
from landuse.pipeline.search.item_properties import item_name, level, processing_baseline
from landuse.pipeline.stac_json import Json, mapping, number, numbers, resolve_href, sequence, text
from landuse.sentinel2 import BANDS, COMMON_NAMES, DN_PER_REFLECTANCE, SCL, offset_of_baseline

if TYPE_CHECKING:
    from landuse.pipeline.providers import Provider

BAND_OF_COMMON_NAME = {name: band for band, name in COMMON_NAMES.items()} | {
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
}
"""Names of the eo extension that mean exactly one band of Sentinel-2; plain ``rededge`` does not."""

_BAND_KEY = re.compile(r"(B(?:0[1-9]|1[0-2]|8A)|SCL)(?:_\d+m)?", re.IGNORECASE)
_IMAGE_KEY = re.compile(r"visual|tci|preview|thumbnail|overview|rendered", re.IGNORECASE)
_IMAGE_ROLES = {"visual", "overview", "thumbnail", "metadata"}
_CRS_CODE = re.compile(r"[A-Za-z0-9_]+:[A-Za-z0-9]+", re.ASCII)

EARTH_RADIUS_M = (6.3e6, 6.4e6)
"""Between these lies the semi-major axis of every ellipsoid in use for the earth; no other body's does."""

MOST_BYTES_PER_PX = 16.0
"""A band's file is never larger by its pixels: that is a complex number of double precision."""

COARSEST_PIXEL_M = 10_000.0
"""Nobody's pixels of Sentinel-2 are larger."""

APPLIED_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
"""Earth Search's flags, of version 1 and of version 0: the offset is already taken off the pixels of its own
GeoTIFFs of L2A. The JPEG 2000 files beside them are ESA's, as they were."""

ORIGINAL_SUFFIX = "-jp2"
"""What Earth Search appends to the key of an asset that is ESA's own file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandEntry:
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


def band_entries(item: Json, provider: Provider) -> tuple[BandEntry, ...]:
    """The best asset of each band the item offers, in order of wavelength, SCL last."""
    assets = {key: mapping(asset) for key, asset in mapping(item.get("assets")).items()}
    if provider.asset_keys:
        found: Iterator[BandEntry] = (
            BandEntry(band=band, key=key, asset=assets[key], index=1, rank=0)
            for band, key in provider.asset_keys
            if key in assets
        )
    else:
        found = (entry for key, asset in assets.items() for entry in _named_bands(key, asset))
    best: dict[str, BandEntry] = {}
    for entry in found:
        if entry.band not in best or entry.preference < best[entry.band].preference:
            best[entry.band] = entry
    return tuple(best[band] for band in (*BANDS, SCL) if band in best)


def _named_bands(key: str, asset: Json) -> Iterator[BandEntry]:
    """The bands an asset holds by its key or by the names it gives its bands."""
    if _IMAGE_KEY.match(key) or _IMAGE_ROLES & {text(role) for role in sequence(asset.get("roles"))}:
        return
    described = [mapping(band) for band in sequence(asset.get("bands")) or sequence(asset.get("eo:bands"))]
    plain = key.removesuffix(ORIGINAL_SUFFIX)
    match = _BAND_KEY.fullmatch(plain)
    if match is not None and len(described) <= 1:
        yield BandEntry(band=match[1].upper(), key=key, asset=asset, index=1, rank=0)
        return
    if not described and plain.lower() in BAND_OF_COMMON_NAME:
        yield BandEntry(band=BAND_OF_COMMON_NAME[plain.lower()], key=key, asset=asset, index=1, rank=2)
    for index, band in enumerate(described, start=1):
        names = [text(band.get(field)) for field in ("name", "eo:common_name", "common_name")]
        match = _BAND_KEY.fullmatch(names[0])
        # An asset of one band may also tell which by its key, as in Earth Search's "rededge1".
        names += [plain] if len(described) == 1 else []
        common = next(
            (BAND_OF_COMMON_NAME[name.lower()] for name in names if name.lower() in BAND_OF_COMMON_NAME), None
        )
        if match is not None:
            yield BandEntry(band=match[1].upper(), key=key, asset=asset, index=index, rank=1)
        elif common is not None:
            yield BandEntry(band=common, key=key, asset=asset, index=index, rank=2)


def band_asset(item: Json, entry: BandEntry, provider: Provider, location: str) -> BandAsset:
    """One band as it can be read: an absolute, unsigned href, and what the stored numbers mean.

    Raises:
        UsageError: scale or offset are neither stated nor derivable, or are contradictory.
        ProviderError: the href must not be followed.
    """
    try:
        href = resolve_href(text(entry.asset.get("href")), location)
        _check_bucket(href, provider)
    except ProviderError as error:
        raise ProviderError(f"{item_name(item)}, asset {entry.key[:60]!r}: {error}") from error
    if provider.signing != "none":
        # Someone's old signature would be taken for a valid one when the time comes to sign.
        href = urlunsplit(urlsplit(href)._replace(query="", fragment=""))
    classes = entry.band == SCL
    scale, offset = (1.0, 0.0) if classes else _scale_offset(item, entry, provider)
    return BandAsset(
        band=entry.band,
        href=href,
        index=entry.index,
        scale=scale,
        offset=offset,
        nodata=0.0 if classes else _nodata(item, entry),
        pixel_m=_pixel_m(entry),
        bytes_per_px=_bytes_per_px(entry),
    )


def _check_bucket(href: str, provider: Provider) -> None:
    """ProviderError where an item names a bucket that its provider does not have."""
    if provider.s3 is None or not provider.s3.buckets or not href.lower().startswith("s3://"):
        return
    bucket = urlsplit(href).netloc
    if bucket not in provider.s3.buckets:
        shown = bucket.rpartition("@")[2][:63]
        raise ProviderError(
            f"the bucket {shown!r} is refused: {provider.name} has {', '.join(provider.s3.buckets)}, "
            "and no keys or money are spent elsewhere."
        )


def _described(entry: BandEntry) -> tuple[Json, Json]:
    """What the asset says of this one band in ``bands`` (STAC 1.1) and in ``raster:bands`` (1.0)."""
    described = [
        mapping(bands[entry.index - 1]) if len(bands) >= entry.index else {}
        for bands in (sequence(entry.asset.get("bands")), sequence(entry.asset.get("raster:bands")))
    ]
    return described[0], described[1]


def _scale_offset(item: Json, entry: BandEntry, provider: Provider) -> tuple[float, float]:
    """Scale and offset of ``reflectance = scale * stored + offset``: as stated, or by the baseline.

    - Where the provider states none (Planetary Computer), ESA's rule for the baseline decides: -0.1 from
      04.00 on, else 0. Never the date: old acquisitions are reprocessed.
    - Where a flag says that the offset is already taken off the pixels (Earth Search), it is 0, whatever
      ``raster:bands`` states: Earth Search leaves -0.1 there. ``_is_offset_applied`` says of which assets.
    - Else the item is believed: its ``raster:bands``, ``bands``, asset or properties. What the known
      providers state without such a flag always equals ESA's rule (-0.1 from 04.00 on, 0 before, in every
      item seen). So an item of theirs that says otherwise is damaged in one of the two fields, nobody can
      tell which, and it is refused. One's own catalogue may state what it likes, but not a scale alone
      where the rule has an offset: whether it is still in the pixels cannot be told.
    """
    stated: list[float | None] = [None, None]
    applied = False
    if provider.radiometry != "baseline":
        stated = [_stated(item, entry, field) for field in ("scale", "offset")]
        # Without a stated scale and offset, as in Earth Search's version 0, the flag counts all the same.
        applied = _is_offset_applied(item, entry, provider)
    baseline = processing_baseline(item)
    by_rule = None if baseline is None else (1 / DN_PER_REFLECTANCE, offset_of_baseline(baseline))
    scale, offset = (
        value if value is not None or by_rule is None else rule
        for value, rule in zip(stated, by_rule or (None, None), strict=True)
    )
    if applied:
        offset = 0.0
    where = f"{item_name(item)}, asset {entry.key[:60]!r}"
    if offset and stated[0] is not None and stated[1] is None and provider.radiometry == "item":
        raise UsageError(
            f"{where}: scale {stated[0]:g} is stated and no offset, and by the processing baseline "
            f'{baseline} ESA has {offset:g}. State "raster:offset": {offset:g} if it is still in the pixels, '
            "0 if it is not."
        )
    if scale is None or offset is None:
        lacking = " and ".join(
            name for name, value in (("scale", scale), ("offset", offset)) if value is None
        )
        raise UsageError(
            f"{where}: no {lacking} is stated and no processing baseline to derive it from. Give the asset "
            '"raster:scale" and "raster:offset", or the item "s2:processing_baseline".'
        )
    if not 0 < scale <= 1 or abs(offset) > 1:
        raise UsageError(
            f"{where}: scale {scale:g} has to be above 0 and at most 1, and offset {offset:g}, which is in "
            "reflectance, within -1..1: ESA's +1000 is scale 0.0001 and offset -0.1. Mend its metadata."
        )
    if scale == 1 and offset != 0 and not _data_type(entry).startswith("float"):
        raise UsageError(
            f"{where}: with scale 1 and offset {offset:g} whole numbers are no reflectance. State their "
            'scale (0.0001 with an offset of -0.1), or "data_type": "float32" where they have decimals.'
        )
    believed = by_rule is None or applied or provider.radiometry != "checked"
    if by_rule is not None and not believed and not _same((scale, offset), by_rule):
        raise UsageError(
            f"{where}: scale {scale:g} and offset {offset:g} are stated, but the processing baseline "
            f"{baseline} means {by_rule[0]:g} and {by_rule[1]:g}. One of them is wrong; use another source."
        )
    return scale, offset


def _is_offset_applied(item: Json, entry: BandEntry, provider: Provider) -> bool:
    """Whether a flag says that the offset is already taken off this asset's pixels.

    Raises:
        UsageError: a flag is neither true nor false.
    """
    properties = mapping(item.get("properties"))
    flags = [(flag, properties[flag]) for flag in APPLIED_FLAGS if properties.get(flag) is not None]
    for flag, stated in flags:
        if str(stated).lower() not in ("true", "false"):
            raise UsageError(
                f"{item_name(item)} states {flag} as {str(stated)[:40]!r}, neither true nor false. Mend its "
                "metadata."
            )
    is_original = entry.key.endswith(ORIGINAL_SUFFIX) or text(entry.asset.get("type")).startswith("image/jp2")
    return (
        any(str(stated).lower() == "true" for _, stated in flags)
        and not is_original
        and level(item, provider) == "L2A"  # of L1C no offset was ever taken off
    )


def _data_type(entry: BandEntry) -> str:
    """Type of the stored values, where the item states it; else empty."""
    band, raster_band = _described(entry)
    holders = (band, raster_band, entry.asset)
    return next((text(holder["data_type"]) for holder in holders if "data_type" in holder), "")


def _same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(one, other, strict=True))


def _stated(item: Json, entry: BandEntry, field: str) -> float | None:
    """``scale`` or ``offset`` as the item has it; what is said of the band goes before the rest."""
    band, raster_band = _described(entry)
    values = [number(raster_band.get(field))]
    for holder in (band, entry.asset, mapping(item.get("properties"))):
        values.append(number(holder.get(f"raster:{field}")))
    return next((value for value in values if value is not None), None)


def _nodata(item: Json, entry: BandEntry) -> float | None:
    """The stored value that means nodata: as stated, else 0 in ESA's own products, else none."""
    band, raster_band = _described(entry)
    for holder in (band, raster_band, entry.asset):
        stated = holder.get("nodata")
        if stated is not None:  # a null says nothing: ESA's 0 is no reflectance
            return math.nan if stated == "nan" else number(stated)
    return None if processing_baseline(item) is None else 0.0


def _pixel_m(entry: BandEntry) -> float | None:
    """Pixel size in metres, where the asset states it; ``gsd`` does not count, which is the sensor's."""
    for holder in (*_described(entry), entry.asset):
        stated = number(holder.get("raster:spatial_resolution")) or number(holder.get("spatial_resolution"))
        if stated is not None and 0 < stated <= COARSEST_PIXEL_M:
            return stated
    transform = sequence(entry.asset.get("proj:transform"))
    size = abs(number(transform[4]) or 0.0) if len(transform) >= 6 else 0.0
    # In degrees a pixel of Sentinel-2 is far smaller than 1; nobody's metres are.
    size_m = size if size >= 1 else size * METRES_A_DEGREE
    return size_m if 0 < size_m <= COARSEST_PIXEL_M else None


def _bytes_per_px(entry: BandEntry) -> float | None:
    """Size of the file by its pixels, where the asset states both and they can be true of one file."""
    size = number(entry.asset.get("file:size"))
    try:
        rows, cols = numbers(entry.asset.get("proj:shape"), 2)
    except ValueError:
        return None
    if size is None or rows < 1 or cols < 1:
        return None
    per_px = size / rows / cols
    return per_px if 0 < per_px <= MOST_BYTES_PER_PX else None


def projection(
    item: Json, entries: Sequence[BandEntry]
) -> tuple[str | None, tuple[float, float, float, float] | None]:
    """CRS and left, bottom, right, top in it, where the item or its bands state them.

    Without bounds of the item's own, they are those of all its reflectance bands together.

    Raises:
        UsageError: The CRS is none, or none of the earth's surface.
    """
    properties = mapping(item.get("properties"))
    stated = ((holder, _crs_code(holder)) for holder in (properties, *(entry.asset for entry in entries)))
    crs = next((code for _, code in stated if code is not None), None)
    if crs is None:
        return None, None
    fault = _crs_fault(crs)
    if fault is not None:
        raise UsageError(f"{item_name(item)} states the CRS {crs[:60]!r}: {fault}. Mend its metadata.")
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


def _crs_code(holder: Json) -> str | None:
    """``AUTHORITY:CODE`` from ``proj:code``, else from the older ``proj:epsg``; not yet believed."""
    code = text(holder.get("proj:code"))
    epsg = number(holder.get("proj:epsg"))
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


def _bounds(holder: Json) -> tuple[float, float, float, float] | None:
    """Left, bottom, right, top from ``proj:bbox``, else from ``proj:transform`` and ``proj:shape``."""
    try:
        if "proj:bbox" in holder:
            left, bottom, right, top = numbers(holder["proj:bbox"], 4)
        else:
            rows, cols = numbers(holder.get("proj:shape"), 2)
            a, b, c, d, e, f = numbers(sequence(holder.get("proj:transform"))[:6], 6)
            xs = [a * col + b * row + c for col in (0, cols) for row in (0, rows)]
            ys = [d * col + e * row + f for col in (0, cols) for row in (0, rows)]
            left, bottom, right, top = min(xs), min(ys), max(xs), max(ys)
    except ValueError:
        return None
    return (left, bottom, right, top) if left < right and bottom < top else None
