"""Local Sentinel-2 rasters to a self-contained STAC catalogue of COGs, so they are read like a provider's.

What the rasters hold is found out in ``bands.py``. Pixels, grid and CRS stay as they are; each COG is
compared with its source before it is published.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
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
from rasterio._err import CPLE_BaseError  # GDAL's own errors; rasterio wraps only some of them
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_points

from landuse.errors import OutputError, UsageError
from landuse.pipeline.scene import BandAsset
from landuse.pipeline.write.folder import replacing, write_json
from landuse.pipeline.write.stac_catalog import CATALOG_NAME, linked, lists, read_catalog
from landuse.sentinel2 import (
    CENTER_WAVELENGTH_UM,
    COMMON_NAMES,
    DN_PER_REFLECTANCE,
    RESOLUTION_M,
    SCL,
    STORED_OFFSET_DN,
)
from landuse.workflows.imagery.bands import (
    CACHE_BYTES,
    GDAL_TYPES,
    MAX_ID_LENGTH,
    CatalogRequest,
    RasterBand,
    bands_show_no_offset,
    check_pixels,
    crs_text,
    decoding,
    describe_bands,
    unreadable,
)

if TYPE_CHECKING:
    from landuse.pipeline.stac_json import Json

log = logging.getLogger(__name__)

SCL_RESOLUTION_M = 20

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("eo/v2.0.0", "projection/v2.0.0", "raster/v2.0.0", "processing/v1.2.0")
)
SENTINEL2_EXTENSION = "https://stac-extensions.github.io/sentinel-2/v1.0.0/schema.json"


OFFSET_EVIDENCE = (
    "dark pixels: no baseline or offset was stated, and values of a reflectance below "
    f"{STORED_OFFSET_DN / DN_PER_REFLECTANCE} show that the stored values carry no +{STORED_OFFSET_DN}"
)
"""``landuse:offset_evidence`` of an item whose offset 0 was shown by its pixels alone."""

EDGE_POINTS = 20
"""Points along each edge of a footprint, so that it stays true in longitude and latitude."""


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
    level: str
    """``"L1C"`` or ``"L2A"``."""
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
                    "nodata": json_nodata(asset.nodata),
                }
                for asset in self.assets
            ],
        }


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


def catalog_rasters(request: CatalogRequest) -> CatalogResult:
    """Write the rasters of one acquisition as one STAC item with a COG per band.

    Raises:
        UsageError: an input does not fit the request, or something is unstated; nothing is written.
        ReadError: an input's pixels cannot be read.
        OutputError: the folder cannot be written.
    """
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        described = describe(request)
        bands, assets = described.bands, described.assets
        check_pixels(bands, assets, request, described.baseline)
        item_id = request.item_id or _derive_id(request)
        path, target = request.out / CATALOG_NAME, request.out / item_id
        catalog = read_catalog(
            path,
            "--out",
            identifier="landuse-local",
            description="Local Sentinel-2 rasters, one COG per band.",
        )
        _check_target(request, catalog, target)
        item = new_item(request, described, item_id)
        for band, asset in zip(bands, assets, strict=True):
            item.add_asset(band.name, _stac_asset(band, asset))
        document = target / f"{item_id}.json"
        catalog, values = linked(catalog, path, item.to_dict(include_self_link=False), document, {})
        try:
            request.out.mkdir(parents=True, exist_ok=True)
            with replacing(target) as folder:
                for band, asset in zip(bands, assets, strict=True):
                    _write_cog(band, asset, folder / f"{band.name}.tif")
                write_json(folder / document.name, values)
            write_json(path, catalog)
        except OSError as error:
            raise OutputError(
                f"Catalogue folder {request.out} cannot be written ({error}). Free space or choose "
                "another --out."
            ) from error
    log.info("wrote item %s with %d bands to %s", item_id, len(bands), request.out)
    return CatalogResult(
        catalog=path,
        item=document,
        item_id=item_id,
        assets=tuple(replace(asset, href=str(target / f"{asset.band}.tif")) for asset in assets),
        level=request.level,
        crs=crs_text(bands[0].crs),
        bounds_lonlat=_bounds(described.footprint),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DescribedRasters:
    """What rasters hold, as far as it is stated or proven."""

    bands: tuple[RasterBand, ...]
    """In order of input, without those that are left out."""
    assets: tuple[BandAsset, ...]
    """What the values of each mean; without hrefs."""
    baseline: str | None
    """Processing baseline, where it is known."""
    offset_free: bool
    """Whether dark pixels alone showed that there is no offset."""
    footprint: tuple[tuple[float, float], ...]
    """Closed ring of (longitude, latitude) round all bands."""


def describe(request: CatalogRequest) -> DescribedRasters:
    """Open the rasters of a request and find out what they hold.

    Raises:
        UsageError: an input does not fit the request, or something is unstated.
        ReadError: an input's pixels cannot be read.
    """
    bands, baseline = describe_bands(request)
    offset_free = baseline is None and request.offset is None and bands_show_no_offset(bands, request)
    if offset_free:
        log.warning(
            "no --baseline or --offset is given; dark pixels of a reflectance below %g show that values "
            "carry no +%d",
            STORED_OFFSET_DN / DN_PER_REFLECTANCE,
            STORED_OFFSET_DN,
        )
    return DescribedRasters(
        bands=bands,
        assets=tuple(decoding(band, request, baseline, offset_free) for band in bands),
        baseline=baseline,
        offset_free=offset_free,
        footprint=_footprint_lonlat(bands),
    )


def _derive_id(request: CatalogRequest) -> str:
    """An id from the file names: what they share, of safe characters, else level and time."""
    letters = zip(*(path.stem for path in request.rasters), strict=False)
    shared = "".join(same[0] for same in takewhile(lambda group: len(set(group)) == 1, letters))
    if len(request.rasters) > 1:
        # The stems part within the band's name: its common beginning (B0) goes too.
        shared = re.sub(r"(^|[^A-Za-z0-9])[A-Za-z]?[0-9]?$", "", shared)
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", shared).strip("-_")[:MAX_ID_LENGTH].rstrip("-_")
    return safe or f"S2_{request.level}_{request.acquired_utc:%Y%m%dT%H%M%S}"


def _footprint_lonlat(bands: tuple[RasterBand, ...]) -> tuple[tuple[float, float], ...]:
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
            f"The bounds {left, bottom, right, top} lie outside the earth in {crs_text(crs)[:60]}. Check "
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


def new_item(request: CatalogRequest, described: DescribedRasters, item_id: str | None = None) -> pystac.Item:
    """The STAC item of the rasters, without assets."""
    bands, baseline, footprint = described.bands, described.baseline, described.footprint
    crs = crs_text(bands[0].crs)
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
    if described.offset_free:
        properties["landuse:offset_evidence"] = OFFSET_EVIDENCE
    return pystac.Item(
        id=item_id or _derive_id(request),
        geometry={"type": "Polygon", "coordinates": [[list(point) for point in footprint]]},
        bbox=list(_bounds(footprint)),
        datetime=request.acquired_utc,
        properties=properties,
        stac_extensions=extensions,
    )


def _stac_asset(band: RasterBand, asset: BandAsset) -> pystac.Asset:
    fields: dict[str, object] = {
        "gsd": RESOLUTION_M.get(band.name, SCL_RESOLUTION_M),
        "data_type": band.dtype,
        "nodata": json_nodata(asset.nodata),
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


def json_nodata(value: float | None) -> float | int | str | None:
    """Nodata as STAC spells it: whole numbers without their point, NaN as text."""
    if value is None:
        return None
    if math.isnan(value):
        return "nan"
    return int(value) if value.is_integer() else value


def _check_target(request: CatalogRequest, catalog: Json, target: Path) -> None:
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


def _is_item_folder(catalog: Json, target: Path) -> bool:
    """Whether a folder is an item, linked by the catalogue or cut off before it was linked."""
    if target.is_symlink() or not target.is_dir():
        return False
    document = target / f"{target.name}.json"
    if lists(catalog, target.parent / CATALOG_NAME, document):
        return True
    try:
        values = json.loads(document.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("type") == "Feature" and values.get("id") == target.name


def _vrt(band: RasterBand, asset: BandAsset) -> str:
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


def _write_cog(band: RasterBand, asset: BandAsset, path: Path) -> None:
    """One band as a COG, block by block through GDAL, checked against its source by checksum."""
    try:
        with rasterio.open(_vrt(band, asset)) as source:
            expected = source.checksum(1)
    except (RasterioError, CPLE_BaseError) as error:
        raise unreadable(band, error) from error
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
    except (RasterioError, CPLE_BaseError) as error:
        raise OutputError(
            f"{band.label} cannot be written to {path.parent} ({error}). Free space or choose another --out."
        ) from error
    if found != expected:
        raise OutputError(
            f"{band.label}: the copy in {path.parent} has checksum {found}, its source {expected}. Free "
            "space or choose another --out."
        )
