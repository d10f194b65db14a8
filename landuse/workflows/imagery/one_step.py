"""Rasters of one's own as a source of scenes, without a catalogue: ``landuse map scene.tif``.

The files are read where they lie. What ``landuse catalog`` would have to be told has to be told here, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import rasterio

from landuse.errors import UsageError
from landuse.pipeline.search.source import HeldItems
from landuse.pipeline.search.stac_files import FoundItem
from landuse.redact import printable
from landuse.sentinel2 import SCL
from landuse.workflows.imagery.bands import CACHE_BYTES, CatalogRequest, check_pixels, parse_band_name
from landuse.workflows.imagery.catalog import describe, json_nodata, new_item, parse_acquired_utc

if TYPE_CHECKING:
    from pathlib import Path

    from landuse.workflows.imagery.catalog import DescribedRasters


DEFAULT_SOURCE = "planetary-computer"
"""Where scenes are looked for when no source is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What is stated of rasters; see ``CatalogRequest``."""

    level: str | None = None
    acquired: str | None = None
    """ISO 8601."""
    baseline: str | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    bands: tuple[str, ...] | None = None


def requested_source(
    source: str, rasters: tuple[Path, ...], facts: ImageFacts, bands: str
) -> tuple[str | HeldItems, str]:
    """What to map: ``--source``, or the images that are named instead; and which bands to read.

    Args:
        source: of ``--source``.
        rasters: images; none where the source is meant.
        facts: what is stated of them, but for the names of their bands.
        bands: ``"all"``, ``"rgb"``, ``"rgb-nir"``; or the names of the images' bands.

    Raises:
        UsageError: both are named, or facts without an image; or as of ``held_rasters``.
    """
    if not rasters:
        if facts != ImageFacts():
            raise UsageError(
                "--level, --datetime, --baseline, --scale, --offset and --nodata tell of an image of your "
                "own. Name it: landuse map scene.tif; a --source tells of itself."
            )
        return source, bands
    if source != DEFAULT_SOURCE:
        raise UsageError(f"Both images and --source {source!r:.100} are named. Give one.")
    if "," in bands or parse_band_name(bands) is not None:
        facts = replace(facts, bands=tuple(name.strip() for name in bands.split(",")))
        bands = "all"
    return held_rasters(rasters, facts), bands


def held_rasters(rasters: tuple[Path, ...], facts: ImageFacts) -> HeldItems:
    """Rasters of one acquisition as a source of one scene.

    Raises:
        UsageError: something has to be stated, and the message names all of it; or what is stated does not
            fit the rasters.
        ReadError: pixels cannot be read.
    """
    lacking = []
    if facts.level is None:
        lacking.append("--level L1C (top of the atmosphere) or L2A (surface).")
    if facts.acquired is None:
        lacking.append("--datetime, when it was acquired, such as 2024-06-01T10:20:31Z.")
    request = CatalogRequest(
        rasters=rasters,
        level=facts.level or "L1C",  # which may have every band, so that none is refused for the level
        acquired_utc=datetime(2015, 6, 23, tzinfo=UTC)
        if facts.acquired is None
        else parse_acquired_utc(facts.acquired),
        out=rasters[0].parent,  # where nothing is written
        baseline=facts.baseline,
        scale=facts.scale,
        offset=facts.offset,
        nodata=facts.nodata,
        bands=facts.bands,
    )
    names = ", ".join(path.name for path in rasters)
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        try:
            described = describe(request)
        except UsageError as error:
            if not lacking:
                raise
            lacking.append(str(error))
        if lacking:
            raise UsageError(f"To map {names}, state what it does not say itself: {' '.join(lacking)}")
        _check_formats(rasters)
        check_pixels(described.bands, described.assets, request, described.baseline)
    item = new_item(request, described).to_dict(include_self_link=False)
    item["assets"] = _assets(described)
    # Known by their paths, so that the same files have the same place in a catalogue of maps.
    name = printable(", ".join(str(path.absolute()) for path in rasters))
    location = str(rasters[0].absolute())
    found = FoundItem(item=item, location=location, item_href=None)
    return HeldItems(name=name, items=(found,), doubts_told=True)


def _check_formats(rasters: tuple[Path, ...]) -> None:
    for path in rasters:
        with rasterio.open(path) as dataset:
            if dataset.driver not in ("GTiff", "JP2OpenJPEG"):
                raise UsageError(
                    f"{path} is of the format {dataset.driver}; GeoTIFF and JPEG 2000 are mapped as they "
                    "are. Make a catalogue of it first, with landuse catalog."
                )


def _assets(described: DescribedRasters) -> dict[str, object]:
    """STAC assets, one for each file, with its bands by their number in it."""
    files: dict[Path, dict[int, dict[str, object]]] = {}
    grids = {}
    for band, asset in zip(described.bands, described.assets, strict=True):
        values: dict[str, object] = {"name": band.name, "nodata": json_nodata(asset.nodata)}
        if band.name != SCL:
            values |= {"raster:scale": asset.scale, "raster:offset": asset.offset, "data_type": band.dtype}
        files.setdefault(band.path, {})[band.index] = values
        grids[band.path] = {
            "proj:shape": [band.height, band.width],
            "proj:transform": [*band.transform][:6],
        }
    return {
        f"file-{number}": {
            "href": str(path),
            "roles": ["data"],
            **grids[path],
            "bands": [bands.get(index, {}) for index in range(1, max(bands) + 1)],
        }
        for number, (path, bands) in enumerate(files.items(), start=1)
    }
