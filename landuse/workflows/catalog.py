"""Local Sentinel-2 rasters to a self-contained STAC catalogue of COGs, so they are read like a provider's.

Nothing about the pixels is guessed. What counts, in this order:

* scale and offset (``reflectance = scale * stored + offset``): the request; else GDAL's band scale
  and offset, where they are not the identity (1, 0), which GDAL also reports where nothing is set;
  else, for uint16 and int16 only, Sentinel-2's DN: scale 1/10000 and, as ESA's format
  specification has it, offset -0.1 from processing baseline 04.00 on and 0 before. Without a stated
  baseline, offset 0 where the pixels prove it (``shows_no_offset``; the item then says so in
  ``landuse:offset_evidence``) and an error where not. A tagged
  offset of 0 beside a tagged scale says nothing: GDAL writes it where only a scale was set.
* baseline: the request; else the dataset tag ``PROCESSING_BASELINE`` (as GDAL's SENTINEL2 driver
  sets it).
* nodata: the request; else the file's nodata; else 0 for integers (ESA: DN 0 is nodata) and NaN
  for floats. The scene classification (SCL) has nodata 0 and neither scale nor offset.
* level and time: the request alone.

Pixels, grid and CRS stay as they are; each COG is compared with its source before it is published.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
import uuid
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np
import pystac
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import transform as transform_points

from landuse.errors import OutputError, ReadError, UsageError
from landuse.records import BandAsset
from landuse.sentinel2 import (
    BANDS,
    CENTER_WAVELENGTH_UM,
    COMMON_NAMES,
    DN_PER_REFLECTANCE,
    LEVELS,
    RESOLUTION_M,
    SCL,
    STORED_OFFSET_DN,
    offset_of_baseline,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rasterio.crs import CRS

log = logging.getLogger(__name__)

SCL_RESOLUTION_M = 20

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("eo/v2.0.0", "projection/v2.0.0", "raster/v2.0.0", "processing/v1.2.0")
)
SENTINEL2_EXTENSION = "https://stac-extensions.github.io/sentinel-2/v1.0.0/schema.json"

GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}
"""Pixel types that are read, with the names GDAL's VRT gives them."""

OFFSET_EVIDENCE = (
    f"dark pixels: no baseline or offset was stated, and values below {STORED_OFFSET_DN} show that the "
    f"stored values carry no +{STORED_OFFSET_DN}"
)
"""``landuse:offset_evidence`` of an item whose offset 0 was shown by its pixels alone."""

MAX_ID_LENGTH = 100
EDGE_POINTS = 20
"""Points along each edge of a footprint, so that it stays true in longitude and latitude."""


def _aliases() -> dict[str, str]:
    """Every accepted spelling of a band, in lower case: ``B04``, ``B4``, ``red``; ``SCL``."""
    names = {SCL.lower(): SCL}
    for band in BANDS:
        names[band.lower()] = band
        names[band.lower().replace("b0", "b")] = band
        names[COMMON_NAMES[band]] = band
    return names


BAND_ALIASES = _aliases()
"""The table of accepted band names; case does not matter, and ``_10m``, ``_20m``, ``_60m`` may follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRequest:
    """What ``landuse catalog`` is asked to do: these rasters are one acquisition."""

    rasters: tuple[Path, ...]
    """One multi-band file, a file per band, or a mix."""
    level: str
    """``"L1C"`` or ``"L2A"``."""
    acquired_utc: datetime
    """Acquisition time, timezone-aware UTC; see ``parse_acquired_utc``."""
    out: Path
    """Folder of the catalogue; an existing catalogue there gains an item."""
    baseline: str | None = None
    """Processing baseline, ``NN.NN``."""
    scale: float | None = None
    """reflectance = scale * stored + offset, for every band but SCL."""
    offset: float | None = None
    """reflectance = scale * stored + offset, for every band but SCL."""
    nodata: float | None = None
    """Stored value that means nodata, for every band but SCL."""
    bands: tuple[str, ...] | None = None
    """Band names in the order of files and of bands within a file, instead of their descriptions."""
    item_id: str | None = None
    """Id of the item; None derives it from the file names."""
    cloud_percent: float | None = None
    """Cloud cover in percent, where it is known."""
    overwrite: bool = False
    """Replace an item of the same id; never a folder that is no item of the catalogue."""

    def __post_init__(self) -> None:
        if not self.rasters:
            raise UsageError("No raster was given. Name at least one GeoTIFF.")
        if self.level not in LEVELS:
            raise UsageError(f"--level {self.level!r} is unknown. Choose {' or '.join(LEVELS)}.")
        if self.acquired_utc.utcoffset() != UTC.utcoffset(None):
            raise UsageError(
                f"--datetime {self.acquired_utc} is not in UTC. Give it as 2024-06-01T10:20:31Z."
            )
        if self.baseline is not None:
            _check_baseline(self.baseline, "--baseline")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"--scale {self.scale} must be above 0, such as 0.0001.")
        if self.offset is not None and not abs(self.offset) <= 1:
            raise UsageError(
                f"--offset {self.offset} is outside -1..1. It is in reflectance, after scaling: DN that "
                "carry +1000 have --offset -0.1."
            )
        if self.cloud_percent is not None and not 0 <= self.cloud_percent <= 100:
            raise UsageError(f"Cloud cover {self.cloud_percent} is outside 0..100 percent.")
        if self.item_id is not None and not re.fullmatch(
            rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_ID_LENGTH - 1}}}", self.item_id
        ):
            raise UsageError(
                f"Item id {self.item_id!r} is not 1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 _ -, the first a "
                "letter or digit. Choose another."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogResult:
    """The item that was written."""

    catalog: Path
    """``catalog.json``."""
    item: Path
    """The item's JSON file."""
    item_id: str
    """The item's id, also the name of its folder."""
    assets: tuple[BandAsset, ...]
    """The COGs, with the scale, offset and nodata that the item states; of SCL only the href counts."""
    crs: str
    """``AUTHORITY:CODE``, or WKT2 where the CRS has no code."""
    bounds_lonlat: tuple[float, float, float, float]
    """West, south, east, north in degrees."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in order of input."""
        return tuple(asset.band for asset in self.assets)

    def to_dict(self) -> dict[str, object]:
        """The result as plain JSON values."""
        return {
            "catalog": str(self.catalog),
            "item": str(self.item),
            "item_id": self.item_id,
            "crs": self.crs,
            "bbox": list(self.bounds_lonlat),
            "assets": [
                {
                    "band": asset.band,
                    "href": asset.href,
                    "scale": asset.scale,
                    "offset": asset.offset,
                    "nodata": _json_nodata(asset.nodata),
                }
                for asset in self.assets
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Band:
    """One band of one input file, as its file describes it."""

    path: Path
    index: int
    name: str
    dtype: str
    crs: CRS
    transform: Affine
    height: int
    width: int
    nodata_tag: float | None
    scale_tag: float
    offset_tag: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in the CRS's units."""
        left, bottom, right, top = array_bounds(self.height, self.width, self.transform)
        return left, bottom, right, top

    @property
    def label(self) -> str:
        return f"{self.name} ({self.path.name}, band {self.index})"


def parse_acquired_utc(text: str) -> datetime:
    """An ISO 8601 time as UTC. A time without a zone is UTC; a date alone is its midnight.

    Raises:
        UsageError: ``text`` is not ISO 8601.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--datetime {text!r} is not an ISO 8601 time ({error}). Give it as 2024-06-01T10:20:31Z."
        ) from error


def parse_band_name(text: str) -> str | None:
    """The band that a description names, by ``BAND_ALIASES``; None where it names none.

    Only what stands before the first comma or blank counts, so GDAL's ``B4, central wavelength
    665 nm`` is understood.
    """
    head = re.split(r"[,\s]", text.strip(), maxsplit=1)[0].lower()
    return BAND_ALIASES.get(re.sub(r"_(10|20|60)m$", "", head))


def band_of_filename(stem: str) -> str | None:
    """The band that a one-band file's name states, as in ``T33UUP_20220130T100211_B04_10m``.

    Either the whole stem is a name of ``BAND_ALIASES``, or exactly one band stands in it as a token
    such as ``B04``, ``B4`` or ``SCL`` (colours do not count there: ``red_lake.tif``).
    """
    whole = parse_band_name(stem)
    if whole is not None:
        return whole
    tokens = (token.lower() for token in re.split(r"[^A-Za-z0-9]+", stem))
    found = {BAND_ALIASES[t] for t in tokens if t in BAND_ALIASES and (t == "scl" or t[1:2].isdigit())}
    return found.pop() if len(found) == 1 else None


def catalog_rasters(request: CatalogRequest) -> CatalogResult:
    """Write the rasters of one acquisition as one STAC item with a COG per band.

    Raises:
        UsageError: an input does not fit the request, or something is unstated; nothing is written.
        ReadError: an input's pixels cannot be read.
        OutputError: the folder cannot be written.
    """
    with rasterio.Env(GDAL_CACHEMAX=256):
        bands, baseline = _describe(request)
        offset_free = baseline is None and request.offset is None and _any_shows_no_offset(bands, request)
        if offset_free:
            log.warning(
                "no --baseline or --offset is given; dark pixels below %d show that values carry no +1000",
                STORED_OFFSET_DN,
            )
        assets = tuple(_decoding(band, request, baseline, offset_free) for band in bands)
        item_id = request.item_id or _derive_id(request)
        footprint = _footprint_lonlat(bands)
        catalog = _open_catalog(request.out)
        target = request.out / item_id
        _check_target(request, catalog, target)
        item = _item(request, item_id, footprint, bands, assets, baseline)
        if offset_free:
            item.properties["landuse:offset_evidence"] = OFFSET_EVIDENCE
        _link(catalog, item, request.out)
        try:
            request.out.mkdir(parents=True, exist_ok=True)
            with _replacing_folder(target) as folder:
                for band, asset in zip(bands, assets, strict=True):
                    _write_cog(band, asset, folder / f"{band.name}.tif")
                _write_json(folder / f"{item_id}.json", item)
            _write_json(request.out / "catalog.json", catalog)
        except OSError as error:
            raise OutputError(
                f"Catalogue folder {request.out} cannot be written ({error}). Free space or choose "
                "another --out."
            ) from error
    log.info("wrote item %s with %d bands to %s", item_id, len(bands), request.out)
    return CatalogResult(
        catalog=request.out / "catalog.json",
        item=target / f"{item_id}.json",
        item_id=item_id,
        assets=tuple(replace(asset, href=str(target / f"{asset.band}.tif")) for asset in assets),
        crs=_crs_text(bands[0].crs),
        bounds_lonlat=_bounds(footprint),
    )


def _check_baseline(baseline: str, origin: str) -> None:
    if not re.fullmatch(r"[0-9]{2}\.[0-9]{2}", baseline):
        raise UsageError(f"{origin} {baseline!r} is no processing baseline. Give it as NN.NN, such as 05.11.")


def _describe(request: CatalogRequest) -> tuple[tuple[_Band, ...], str | None]:
    """Every band of every input, named and checked, and the baseline."""
    bands: list[_Band] = []
    descriptions: list[str | None] = []
    baselines: set[str] = set()
    for path in request.rasters:
        found, described, tagged = _open_bands(path)
        bands += found
        descriptions += described
        if tagged is not None:
            _check_baseline(tagged, f"{path}: tag PROCESSING_BASELINE")
            baselines.add(tagged)
    if request.baseline is None and len(baselines) > 1:
        raise UsageError(
            f"The rasters are tagged with baselines {', '.join(sorted(baselines))}. Rasters of one item "
            "are of one baseline: catalogue them apart, or state it with --baseline."
        )
    named = _named(request, bands, descriptions)
    _check_together(request.level, named)
    return named, request.baseline or (baselines.pop() if baselines else None)


def _open_bands(path: Path) -> tuple[list[_Band], list[str | None], str | None]:
    """The bands of one file with empty names, their descriptions, and the file's baseline tag."""
    if not path.is_file():
        raise UsageError(f"Raster {path} does not exist or is not a file. Check the path.")
    try:
        with warnings.catch_warnings():
            # The missing geotransform is refused below, with the mend.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path)
    except RasterioError as error:
        raise UsageError(f"{path} is not a raster that GDAL can open ({error}). Give a GeoTIFF.") from error
    with dataset:
        mend = "Georeference it first (gdal_translate -a_srs ... -a_ullr ..., or gdalwarp)."
        if not dataset.crs:
            raise UsageError(f"{path} has no coordinate reference system. {mend}")
        if dataset.transform.is_degenerate or dataset.transform == Affine.identity():
            raise UsageError(f"{path} has no geotransform. {mend}")
        if dataset.transform.is_rectilinear and (dataset.transform.a < 0 or dataset.transform.e > 0):
            raise UsageError(
                f"{path} is not stored north-up: its pixels are {dataset.transform.a:g} by "
                f"{dataset.transform.e:g}, where the first is to be above 0 and the second below. Turn it "
                "with gdalwarp, which always writes north-up."
            )
        foreign = sorted(set(dataset.dtypes) - set(GDAL_TYPES))
        if foreign:
            raise UsageError(
                f"{path} has pixels of type {', '.join(foreign)}; one of {', '.join(GDAL_TYPES)} is needed. "
                "Convert it with gdal_translate -ot."
            )
        if any({MaskFlags.per_dataset, MaskFlags.alpha} & set(flags) for flags in dataset.mask_flag_enums):
            raise UsageError(
                f"{path} marks its nodata by a mask or alpha band, which one file per band cannot keep. "
                "Store it as a pixel value: gdalwarp -srcalpha -dstnodata 0."
            )
        # GDAL gives absent, empty and blank descriptions alike.
        descriptions = [(text or "").strip() or None for text in dataset.descriptions]
        baseline = dataset.tags().get("PROCESSING_BASELINE")
        bands = [
            _Band(
                path=path.resolve(),
                index=index,
                name="",
                dtype=dataset.dtypes[index - 1],
                crs=dataset.crs,
                transform=dataset.transform,
                height=dataset.height,
                width=dataset.width,
                nodata_tag=dataset.nodatavals[index - 1],
                scale_tag=dataset.scales[index - 1],
                offset_tag=dataset.offsets[index - 1],
            )
            for index in dataset.indexes
        ]
    return bands, descriptions, baseline


def _named(request: CatalogRequest, bands: list[_Band], descriptions: list[str | None]) -> tuple[_Band, ...]:
    """The bands with their names: stated, described, or read from the name of a one-band file."""
    if request.bands is not None:
        if len(request.bands) != len(bands):
            raise UsageError(
                f"--bands names {len(request.bands)} bands ({', '.join(request.bands)}); the rasters hold "
                f"{len(bands)}. Name each, in the order of the files and of the bands in them."
            )
        names = [parse_band_name(text) for text in request.bands]
        found = [repr(text) for text in request.bands]
    else:
        single = Counter(band.path for band in bands)
        names, found = [], []
        for band, text in zip(bands, descriptions, strict=True):
            if text is None and single[band.path] == 1:
                names.append(band_of_filename(band.path.stem))
                found.append(f"no description in {band.path.name}")
            else:
                names.append(None if text is None else parse_band_name(text))
                found.append("no description" if text is None else repr(text))
    if None in names:
        raise UsageError(
            f"Not every band's name is understood. Found: {', '.join(found)}. Name them in this order, for "
            "example --bands B04,B03,B02 (B01..B12, B8A, SCL)."
        )
    named = tuple(replace(band, name=name) for band, name in zip(bands, names, strict=True) if name)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        where = ", ".join(band.label for band in named if band.name in twice)
        raise UsageError(
            f"A band is there more than once: {where}. An item holds each band once; leave one out."
        )
    return named


def _check_together(level: str, bands: tuple[_Band, ...]) -> None:
    """Refuse bands that cannot be one acquisition of that level."""
    first = bands[0]
    for band in bands:
        if band.crs != first.crs:
            raise UsageError(
                f"{band.label} is in {_crs_text(band.crs)[:60]}, {first.label} in {_crs_text(first.crs)[:60]}"
                ". Bands of one item share their CRS: gdalwarp -t_srs first."
            )
        if level == "L2A" and band.name == "B10":
            raise UsageError(f"{band.label}: level L2A has no B10. Is it L1C? Otherwise leave it out.")
    lefts, bottoms, rights, tops = zip(*(band.bounds for band in bands), strict=True)
    if max(lefts) >= min(rights) or max(bottoms) >= min(tops):
        bounds = "; ".join(f"{band.label}: {band.bounds}" for band in bands)
        raise UsageError(
            f"The bands share no ground. Bounds: {bounds}. Catalogue them as items of their own."
        )


def _decoding(band: _Band, request: CatalogRequest, baseline: str | None, offset_free: bool) -> BandAsset:
    """Scale, offset and nodata of one band, by the rules at the head of this module."""
    if band.name == SCL:
        if not np.issubdtype(band.dtype, np.integer):
            raise UsageError(f"{band.label} is {band.dtype}; the scene classification is of integers.")
        return BandAsset(band=SCL, href="", scale=1.0, nodata=0.0)
    nodata = request.nodata if request.nodata is not None else band.nodata_tag
    if nodata is None:
        nodata = 0.0 if np.issubdtype(band.dtype, np.integer) else math.nan
    if np.issubdtype(band.dtype, np.integer):
        limits = np.iinfo(band.dtype)
        if not (limits.min <= nodata <= limits.max and nodata == int(nodata)):
            raise UsageError(f"{band.label} is {band.dtype} and cannot hold nodata {nodata}. Choose another.")
    scale = _scale(band, request)
    offset = _offset(band, request, scale, baseline, offset_free)
    return BandAsset(band=band.name, href="", scale=scale, offset=offset, nodata=float(nodata))


def _scale(band: _Band, request: CatalogRequest) -> float:
    if request.scale is not None:
        return request.scale
    if band.scale_tag != 1:
        if not (math.isfinite(band.scale_tag) and band.scale_tag > 0):
            raise UsageError(
                f"{band.label} is tagged with scale {band.scale_tag}. State the true one: --scale."
            )
        return band.scale_tag
    if band.dtype not in ("uint16", "int16") or band.offset_tag != 0:
        raise UsageError(
            f"{band.label} is {band.dtype}, tagged scale {band.scale_tag:g} and offset {band.offset_tag:g}; "
            "what its values mean is not stated. Give --scale and --offset with reflectance = scale * stored "
            "+ offset (--scale 1 --offset 0 where the values are reflectance)."
        )
    return 1 / DN_PER_REFLECTANCE


def shows_no_offset(dn: NDArray[np.uint16 | np.int16], nodata: float) -> bool:
    """Whether stored DN prove that they carry no +1000.

    With it, a value below 1000 would be a negative reflectance, and no product holds a hundredth of
    its pixels at less than -0.01. So a hundredth below 900 is proof of the contrary; its absence
    proves nothing. Values of 0 and less are fill as often as not, whatever nodata is tagged, and do
    not count.

    Args:
        dn: stored values of one band, any shape.
        nodata: the value that does not count.
    """
    valid = dn[(dn != nodata) & (dn > 0)]
    return valid.size > 0 and bool((valid < 0.9 * STORED_OFFSET_DN).mean() >= 0.01)


def _any_shows_no_offset(bands: tuple[_Band, ...], request: CatalogRequest) -> bool:
    """Whether any band of the rasters, thinned to about a million pixels, proves it for all."""
    for band in bands:
        if band.name == SCL or band.dtype not in ("uint16", "int16") or band.offset_tag != 0:
            continue
        nodata = request.nodata if request.nodata is not None else band.nodata_tag
        try:
            with rasterio.open(band.path) as dataset:
                thinned = dataset.read(band.index, out_shape=(min(band.height, 1024), min(band.width, 1024)))
        except RasterioError as error:
            raise _unreadable(band, error) from error
        if shows_no_offset(thinned, 0 if nodata is None else nodata):
            return True
    return False


def _offset(
    band: _Band, request: CatalogRequest, scale: float, baseline: str | None, offset_free: bool
) -> float:
    if request.offset is not None:
        return request.offset
    if band.offset_tag != 0:
        if not abs(band.offset_tag) <= 1:
            raise UsageError(
                f"{band.label} is tagged with offset {band.offset_tag}, not in reflectance. Give --offset."
            )
        return band.offset_tag
    if band.dtype not in ("uint16", "int16") or not math.isclose(scale, 1 / DN_PER_REFLECTANCE, rel_tol=1e-6):
        raise UsageError(
            f"{band.label} ({band.dtype}, scale {scale:g}) states no offset. Give --offset; 0 where "
            "there is none."
        )
    if offset_free:
        return 0.0
    if baseline is None:
        raise UsageError(
            f"{band.label}: from baseline 04.00 on, Sentinel-2 DN carry +1000; neither baseline nor offset "
            "is stated, and no band is dark enough to show that it is absent. Give --baseline NN.NN, or "
            "--offset 0 for rasters already without it."
        )
    esa_offset = offset_of_baseline(baseline)
    if esa_offset == 0:
        return 0.0
    if band.scale_tag != 1:
        raise UsageError(
            f"{band.label} is tagged with a scale and no offset, but baseline {baseline} has offset -0.1. "
            "Give --offset -0.1 for DN that carry +1000, or --offset 0 where it is taken off already."
        )
    return esa_offset


def _derive_id(request: CatalogRequest) -> str:
    """An id from the file names: what they share, of safe characters, else level and time."""
    letters = zip(*(path.stem for path in request.rasters), strict=False)
    shared = "".join(same[0] for same in takewhile(lambda group: len(set(group)) == 1, letters))
    if len(request.rasters) > 1:
        # The stems part within the band's name: its common beginning (B0) goes too.
        shared = re.sub(r"(^|[^A-Za-z0-9])[A-Za-z]?[0-9]?$", "", shared)
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", shared).strip("-_")[:MAX_ID_LENGTH].rstrip("-_")
    return safe or f"S2_{request.level}_{request.acquired_utc:%Y%m%dT%H%M%S}"


def _crs_text(crs: CRS) -> str:
    """``AUTHORITY:CODE`` where the CRS is exactly that, else WKT2."""
    authority = crs.to_authority(confidence_threshold=100)
    return ":".join(authority) if authority else str(crs.to_wkt(version="WKT2_2019"))


def _footprint_lonlat(bands: tuple[_Band, ...]) -> tuple[tuple[float, float], ...]:
    """Closed ring of (longitude, latitude), counter-clockwise, round the rectangle that holds every band."""
    lefts, bottoms, rights, tops = zip(*(band.bounds for band in bands), strict=True)
    left, bottom, right, top = min(lefts), min(bottoms), max(rights), max(tops)
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    steps = np.arange(EDGE_POINTS) / EDGE_POINTS
    xs = np.concatenate([x0 + steps * (x1 - x0) for (x0, _), (x1, _) in pairwise(corners)])
    ys = np.concatenate([y0 + steps * (y1 - y0) for (_, y0), (_, y1) in pairwise(corners)])
    crs = bands[0].crs
    try:
        lons, lats = transform_points(crs, "EPSG:4326", xs.tolist(), ys.tolist())[:2]
    except RasterioError as error:
        raise UsageError(
            f"The bounds {left, bottom, right, top} cannot be brought to WGS 84 ({error})."
        ) from error
    ring = tuple((round(lon, 7), round(lat, 7)) for lon, lat in zip(lons, lats, strict=True))
    if not all(abs(lon) <= 180 and abs(lat) <= 90 for lon, lat in ring):
        raise UsageError(
            f"The bounds {left, bottom, right, top} lie outside the earth in {_crs_text(crs)[:60]}. Check "
            "CRS and geotransform."
        )
    west, _, east, _ = _bounds(ring)
    if east - west > 180:
        raise UsageError(
            "The rasters cross the antimeridian. Cut them there and catalogue the two sides apart."
        )
    return (*ring, ring[0])


def _bounds(ring: tuple[tuple[float, float], ...]) -> tuple[float, float, float, float]:
    lons, lats = zip(*ring, strict=True)
    return min(lons), min(lats), max(lons), max(lats)


def _open_catalog(out: Path) -> pystac.Catalog:
    """The catalogue of the folder, or a new one."""
    path = out / "catalog.json"
    if not path.exists():
        return pystac.Catalog(
            id="landuse-local",
            description="Local Sentinel-2 rasters, one COG per band.",
            href=str(path.absolute()),
            catalog_type=pystac.CatalogType.SELF_CONTAINED,
        )
    try:
        catalog = pystac.Catalog.from_dict(
            json.loads(path.read_text("utf-8")), href=str(path.absolute()), preserve_dict=False
        )
    except (
        pystac.STACError,
        pystac.STACTypeError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise UsageError(f"{path} is not a STAC catalogue ({error!r}). Choose another --out.") from error
    catalog.catalog_type = pystac.CatalogType.SELF_CONTAINED
    return catalog


def _item(
    request: CatalogRequest,
    item_id: str,
    footprint: tuple[tuple[float, float], ...],
    bands: tuple[_Band, ...],
    assets: tuple[BandAsset, ...],
    baseline: str | None,
) -> pystac.Item:
    crs = _crs_text(bands[0].crs)
    properties: dict[str, object] = {
        "constellation": "sentinel-2",
        "processing:level": request.level,
        "proj:code" if bands[0].crs.to_authority(confidence_threshold=100) else "proj:wkt2": crs,
    }
    extensions = list(EXTENSIONS)
    if "proj:wkt2" in properties:
        properties["proj:code"] = None
    if baseline is not None:
        properties["s2:processing_baseline"] = baseline
        extensions.append(SENTINEL2_EXTENSION)
    if request.cloud_percent is not None:
        properties["eo:cloud_cover"] = request.cloud_percent
    item = pystac.Item(
        id=item_id,
        geometry={"type": "Polygon", "coordinates": [[list(point) for point in footprint]]},
        bbox=list(_bounds(footprint)),
        datetime=request.acquired_utc,
        properties=properties,
        stac_extensions=extensions,
    )
    for band, asset in zip(bands, assets, strict=True):
        item.add_asset(band.name, _stac_asset(band, asset))
    return item


def _stac_asset(band: _Band, asset: BandAsset) -> pystac.Asset:
    fields: dict[str, object] = {
        "gsd": RESOLUTION_M.get(band.name, SCL_RESOLUTION_M),
        "data_type": band.dtype,
        "nodata": _json_nodata(asset.nodata),
        "proj:shape": [band.height, band.width],
        "proj:transform": [*band.transform][:6],
    }
    if band.crs.is_projected:
        fields["raster:spatial_resolution"] = abs(band.transform.a) * band.crs.linear_units_factor[1]
    if band.name == SCL:
        fields["bands"] = [{"name": SCL}]
        title, roles = "Scene classification", ["data", "classification"]
    else:
        fields |= {"raster:scale": asset.scale, "raster:offset": asset.offset}
        fields["bands"] = [
            {
                "name": band.name,
                "eo:common_name": COMMON_NAMES[band.name],
                "eo:center_wavelength": CENTER_WAVELENGTH_UM[band.name],
            }
        ]
        title, roles = f"{band.name}, {COMMON_NAMES[band.name]}", ["data", "reflectance"]
    return pystac.Asset(
        href=f"./{band.name}.tif",
        title=title,
        media_type=pystac.MediaType.COG,
        roles=roles,
        extra_fields=fields,
    )


def _json_nodata(value: float | None) -> float | int | str | None:
    """Nodata as STAC spells it: whole numbers without their point, NaN as text."""
    if value is None:
        return None
    if math.isnan(value):
        return "nan"
    return int(value) if value.is_integer() else value


def _links_to(catalog: pystac.Catalog, document: Path) -> list[pystac.Link]:
    """The catalogue's item links that lead to the file."""
    wanted = os.path.normpath(document.absolute())
    hrefs = [(link, link.get_absolute_href()) for link in catalog.get_item_links()]
    return [link for link, href in hrefs if href is not None and os.path.normpath(href) == wanted]


def _check_target(request: CatalogRequest, catalog: pystac.Catalog, target: Path) -> None:
    """Refuse a target that is there, unless it is to be replaced and is the catalogue's own to replace."""
    if not (target.exists() or target.is_symlink()):
        return
    if not _is_item_folder(catalog, target):
        raise UsageError(
            f"Folder {target} exists and is no item of the catalogue. Choose another --id or --out."
        )
    if not request.overwrite:
        raise UsageError(
            f"Item {target.name!r} is already in {request.out}. Pass --overwrite or another --id."
        )
    folders = (Path(os.path.normpath(target.absolute())), target.resolve())
    for path in request.rasters:
        with rasterio.open(path) as dataset:
            # Of a VRT the files it draws on as well.
            files = [Path(name) for name in (str(path), *dataset.files)]
        for file in files:
            for place in (Path(os.path.normpath(file.absolute())), file.resolve()):
                if any(place.is_relative_to(folder) for folder in folders):
                    raise UsageError(
                        f"Raster {file} lies in {target}, which --overwrite would replace. Choose another "
                        "--id or --out."
                    )


def _is_item_folder(catalog: pystac.Catalog, target: Path) -> bool:
    """Whether a folder is an item, linked by the catalogue or cut off before it was linked."""
    if target.is_symlink() or not target.is_dir():
        return False
    document = target / f"{target.name}.json"
    if _links_to(catalog, document):
        return True
    try:
        values = json.loads(document.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("type") == "Feature" and values.get("id") == target.name


def _link(catalog: pystac.Catalog, item: pystac.Item, out: Path) -> None:
    """Link item and catalogue to each other, an older item of that id unlinked."""
    href = out.absolute() / item.id / f"{item.id}.json"
    for link in _links_to(catalog, href):
        catalog.links.remove(link)
    item.set_self_href(str(href))
    item.set_root(catalog)
    item.set_parent(catalog)
    catalog.add_link(pystac.Link.item(item))


def _write_json(path: Path, document: pystac.Item | pystac.Catalog) -> None:
    """The document without its self link, whole or not at all."""
    values = document.to_dict(include_self_link=False)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", "utf-8")
    partial.replace(path)


@contextlib.contextmanager
def _replacing_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that takes its place at the end, or vanishes on an error."""
    token = uuid.uuid4().hex[:8]
    fresh = target.with_name(f".{target.name}.{token}.part")
    stale = target.with_name(f".{target.name}.{token}.old")
    fresh.mkdir()
    try:
        yield fresh
        if target.exists():
            target.rename(stale)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if stale.exists() and not target.exists():
            stale.rename(target)
        shutil.rmtree(stale, ignore_errors=True)


def _vrt(band: _Band, asset: BandAsset) -> str:
    """GDAL VRT of one band as it is, with its decoding in the tags. Never holds a pixel itself."""
    size = f'xOff="0" yOff="0" xSize="{band.width}" ySize="{band.height}"'
    decoding = "" if band.name == SCL else f"<Offset>{asset.offset!r}</Offset><Scale>{asset.scale!r}</Scale>"
    return (
        f'<VRTDataset rasterXSize="{band.width}" rasterYSize="{band.height}">'
        f"<SRS>{escape(band.crs.to_wkt(version='WKT2_2019'))}</SRS>"
        f"<GeoTransform>{', '.join(map(repr, band.transform.to_gdal()))}</GeoTransform>"
        f'<VRTRasterBand dataType="{GDAL_TYPES[band.dtype]}" band="1">'
        f"<Description>{band.name}</Description><NoDataValue>{asset.nodata!r}</NoDataValue>{decoding}"
        f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(str(band.path))}</SourceFilename>'
        f"<SourceBand>{band.index}</SourceBand><SrcRect {size}/><DstRect {size}/></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )


def _unreadable(band: _Band, error: RasterioError) -> ReadError:
    return ReadError(f"{band.label} cannot be read ({error}). Is {band.path} whole?")


def _write_cog(band: _Band, asset: BandAsset, path: Path) -> None:
    """One band as a COG, block by block through GDAL, checked against its source by checksum."""
    try:
        with rasterio.open(_vrt(band, asset)) as source:
            expected = source.checksum(1)
    except RasterioError as error:
        raise _unreadable(band, error) from error
    try:
        rasterio.shutil.copy(
            _vrt(band, asset),
            path,
            driver="COG",
            BLOCKSIZE="512",
            COMPRESS="DEFLATE",
            PREDICTOR="YES",
            OVERVIEW_RESAMPLING="NEAREST" if band.name == SCL else "AVERAGE",
            BIGTIFF="IF_SAFER",
        )
        with rasterio.open(path) as copy:
            found = copy.checksum(1)
    except RasterioError as error:
        raise OutputError(
            f"{band.label} cannot be written to {path.parent} ({error}). Free space or choose another --out."
        ) from error
    if found != expected:
        raise OutputError(
            f"{band.label}: the copy in {path.parent} has checksum {found}, its source {expected}. Free "
            "space or choose another --out."
        )
