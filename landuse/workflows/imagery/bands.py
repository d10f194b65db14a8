"""What local rasters are: their bands, and what their stored values mean.

Nothing about the pixels is guessed. What counts, in this order:

* scale and offset (``reflectance = scale * stored + offset``): the request; else GDAL's band scale
  and offset, where they are not the identity (1, 0), which GDAL also reports where nothing is set;
  else, for uint16 and int16 only, Sentinel-2's DN: scale 1/10000 and, as ESA's format
  specification has it, offset -0.1 from processing baseline 04.00 on and 0 before. Without a stated
  baseline, offset 0 where the pixels prove it (``shows_no_offset``) and an error where not; so with a
  scale that the request states. A tagged offset of 0 beside a tagged scale says nothing: GDAL writes it
  where only a scale was set.
* baseline: the request; else the dataset tag ``PROCESSING_BASELINE`` (as GDAL's SENTINEL2 driver
  sets it).
* nodata: the request; else the file's nodata; else 0 for integers (ESA: DN 0 is nodata) and NaN
  for floats. The scene classification (SCL) has nodata 0 and neither scale nor offset.
* level and time: the request alone.

What was stated is held against the pixels (``check_pixels``), and refused where they contradict it.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError  # GDAL's own errors; rasterio wraps only some of them
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import array_bounds

from landuse.errors import ReadError, UsageError
from landuse.pipeline.read.check_pixels import contradiction, look
from landuse.pipeline.scene import BandAsset
from landuse.sentinel2 import (
    BANDS,
    COMMON_NAMES,
    DN_PER_REFLECTANCE,
    LEVELS,
    SCL,
    STORED_OFFSET_DN,
    offset_of_baseline,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rasterio.crs import CRS

log = logging.getLogger(__name__)


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


CACHE_BYTES = 256 * 1024**2
"""Memory for decoded pixels while rasters are read band by band: a row of tiles with all bands fits. rasterio
takes the number for bytes, where GDAL's own option takes a small one for megabytes."""

LEFT_OUT = "-"
"""In the place of a name: the band is no band of Sentinel-2, or is not wanted."""

MAX_ID_LENGTH = 100
"""Characters of an item id."""


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
    """Acquisition time, timezone-aware UTC, not in the future; see ``parse_acquired_utc``."""
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
    """Band names in the order of files and of bands within a file, instead of their descriptions;
    ``LEFT_OUT`` for a band that is not taken."""
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
        now = datetime.now(UTC)
        if self.acquired_utc > now:
            raise UsageError(
                f"--datetime {self.acquired_utc:%Y-%m-%dT%H:%M:%SZ} is in the future: it is {now:%Y-%m-%d}. "
                "State when the scene was acquired."
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RasterBand:
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
        """What messages call the band."""
        return f"{self.name} ({self.path.name}, band {self.index})"


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


def _check_baseline(baseline: str, origin: str) -> None:
    if not re.fullmatch(r"[0-9]{2}\.[0-9]{2}", baseline):
        raise UsageError(f"{origin} {baseline!r} is no processing baseline. Give it as NN.NN, such as 05.11.")


def describe_bands(request: CatalogRequest) -> tuple[tuple[RasterBand, ...], str | None]:
    """Every band of every input, named and checked, and the baseline."""
    bands: list[RasterBand] = []
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


def _open_bands(path: Path) -> tuple[list[RasterBand], list[str | None], str | None]:
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
            RasterBand(
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


def _named(
    request: CatalogRequest, bands: list[RasterBand], descriptions: list[str | None]
) -> tuple[RasterBand, ...]:
    """The bands with their names: stated, described, or read from the name of a one-band file."""
    if request.bands is not None:
        if len(request.bands) != len(bands):
            raise UsageError(
                f"--bands names {len(request.bands)} bands ({', '.join(request.bands)}); the rasters hold "
                f"{len(bands)}. Name each, in the order of the files and of the bands in them."
            )
        kept = [index for index, text in enumerate(request.bands) if text != LEFT_OUT]
        bands = [bands[index] for index in kept]
        names = [parse_band_name(request.bands[index]) for index in kept]
        found = [repr(request.bands[index]) for index in kept]
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
    if not names:
        raise UsageError(f"--bands {','.join(request.bands or ())} leaves every band out. Name at least one.")
    if None in names:
        raise UsageError(
            f"Not every band's name is understood. Found: {', '.join(found)}. Name them in this order, "
            f"with {LEFT_OUT} for each that is to be left out, such as an index or a mask: --bands "
            f"{','.join(name or LEFT_OUT for name in names)}, say (B01..B12, B8A, SCL)."
        )
    named = tuple(replace(band, name=name) for band, name in zip(bands, names, strict=True) if name)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        where = ", ".join(band.label for band in named if band.name in twice)
        raise UsageError(
            f"A band is there more than once: {where}. An item holds each band once; leave one out."
        )
    return named


def _check_together(level: str, bands: tuple[RasterBand, ...]) -> None:
    """Refuse bands that cannot be one acquisition of that level."""
    first = bands[0]
    for band in bands:
        if band.crs != first.crs:
            raise UsageError(
                f"{band.label} is in {crs_text(band.crs)[:60]}, {first.label} in {crs_text(first.crs)[:60]}"
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


def decoding(band: RasterBand, request: CatalogRequest, baseline: str | None, offset_free: bool) -> BandAsset:
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


def _scale(band: RasterBand, request: CatalogRequest) -> float:
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


def shows_no_offset(stored: NDArray[Any], nodata: float, scale: float = 1 / DN_PER_REFLECTANCE) -> bool:
    """Whether stored values prove that they carry no +1000, or what that is in their units.

    With it, a DN below 1000 would be a negative reflectance, and no product holds a hundredth of
    its pixels at less than -0.01. So a hundredth below 900 is proof of the contrary; its absence
    proves nothing. Values of 0 and less are fill as often as not, whatever nodata is tagged, and do
    not count.

    Args:
        stored: values of one band, any shape.
        nodata: the value that does not count.
        scale: reflectance of one stored unit.
    """
    values = stored.astype(np.float64)
    valid = values[(values != nodata) & (values > 0)]
    least = 0.9 * STORED_OFFSET_DN / DN_PER_REFLECTANCE
    return valid.size > 0 and bool((valid * scale < least).mean() >= 0.01)


def bands_show_no_offset(bands: tuple[RasterBand, ...], request: CatalogRequest) -> bool:
    """Whether any band of the rasters, thinned to about a million pixels, proves it for all."""
    for band in bands:
        is_dn = band.dtype in ("uint16", "int16")
        if band.name == SCL or band.offset_tag != 0 or not (is_dn or request.scale is not None):
            continue
        nodata = request.nodata if request.nodata is not None else band.nodata_tag
        try:
            with rasterio.open(band.path) as dataset:
                thinned = dataset.read(band.index, out_shape=(min(band.height, 1024), min(band.width, 1024)))
        except RasterioError as error:
            raise unreadable(band, error) from error
        if shows_no_offset(thinned, 0 if nodata is None else nodata, _scale(band, request)):
            return True
    return False


def _offset(
    band: RasterBand, request: CatalogRequest, scale: float, baseline: str | None, offset_free: bool
) -> float:
    if request.offset is not None:
        return request.offset
    if band.offset_tag != 0:
        if not abs(band.offset_tag) <= 1:
            raise UsageError(
                f"{band.label} is tagged with offset {band.offset_tag}, not in reflectance. Give --offset."
            )
        return band.offset_tag
    if offset_free:
        return 0.0
    if band.dtype not in ("uint16", "int16") or not math.isclose(scale, 1 / DN_PER_REFLECTANCE, rel_tol=1e-6):
        raise UsageError(
            f"{band.label} ({band.dtype}, scale {scale:g}) states no offset. Give --offset; 0 where "
            "there is none."
        )
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


def check_pixels(
    bands: tuple[RasterBand, ...],
    assets: tuple[BandAsset, ...],
    request: CatalogRequest,
    baseline: str | None,
) -> None:
    """Look coarsely at all bands together.

    Raises:
        UsageError: the pixels contradict the units or the order of the bands.
        ReadError: a band cannot be read.
    """
    with ExitStack() as held:
        files = {band.path: held.enter_context(rasterio.open(band.path)) for band in bands}
        sources = [
            (files[band.path], replace(asset, index=band.index))
            for band, asset in zip(bands, assets, strict=True)
            if band.name != SCL
        ]
        try:
            found = contradiction(look(sources), assets, request.level) if sources else None
        except (RasterioError, CPLE_BaseError) as error:
            raise unreadable(bands[0], error) from error
    if found is None:
        return
    names = ", ".join(dict.fromkeys(band.path.name for band in bands))
    stated = f" (baseline {baseline})" if baseline is not None and request.offset is None else ""
    fits = f"--bands {','.join(_all_names(bands, request, found.order))}" if found.order else found.options
    mend = f"With {fits} they are plausible." if fits else "State what they are."
    text = f"{names}{stated}: {found.told} {mend}"
    if found.certain:
        raise UsageError(text)
    log.warning("%s", text)


def _all_names(bands: tuple[RasterBand, ...], request: CatalogRequest, order: tuple[str, ...]) -> list[str]:
    """Names as ``--bands`` takes them, of other names for all bands but SCL."""
    spectral = iter(order)
    kept = [SCL if band.name == SCL else next(spectral) for band in bands]
    if request.bands is None:
        return kept
    names = iter(kept)
    return [text if text == LEFT_OUT else next(names) for text in request.bands]


def crs_text(crs: CRS) -> str:
    """``AUTHORITY:CODE`` where the CRS is exactly that, else WKT2."""
    authority = crs.to_authority(confidence_threshold=100)
    return ":".join(authority) if authority else str(crs.to_wkt(version="WKT2_2019"))


def unreadable(band: RasterBand, error: RasterioError) -> ReadError:
    """The error that a band cannot be read."""
    return ReadError(f"{band.label} cannot be read ({error}). Is {band.path} whole?")
