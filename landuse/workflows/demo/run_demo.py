"""The demo: a simulated landscape in a STAC catalogue, and how well a map agrees with its truth.

The catalogue is written by ``imagery.catalog.catalog_rasters``, the way own imagery is, so that mapping it
is the very same work as mapping a provider's scene.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_points

from landuse.classes import LAND_COVER, LAND_COVER_NAMES, LAND_USE, LAND_USE_NAMES
from landuse.errors import OutputError, UsageError
from landuse.pipeline.cells import NODATA_ID
from landuse.pipeline.search.area import Area
from landuse.pipeline.write.cog import RasterLayer, cog_writer
from landuse.sentinel2 import DN_PER_REFLECTANCE, SCL, STORED_OFFSET_DN
from landuse.workflows.demo.acquisition import SCL_NODATA, SimulatedDate
from landuse.workflows.demo.agreement import Agreement, agreement
from landuse.workflows.demo.landscape import SIZE_PX, simulate
from landuse.workflows.demo.spectra import BANDS_10M, BANDS_20M, SEASONS
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from landuse.classes import LandUseClass
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.in_process import Progress
    from landuse.workflows.mapping.report import MapReport

DEMO_SEED = 7
DEMO_CRS = "EPSG:32633"
DEMO_LEFT_M, DEMO_TOP_M = 430_000.0, 5_340_000.0
"""Upper left corner, on the 20 m lattice of Sentinel-2 in UTM zone 33 north: in Upper Austria."""
TILE = "T33UVP"
BASELINE = "05.11"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCatalog:
    """The simulated scenes on disk."""

    catalog: Path
    """``catalog.json`` of the STAC catalogue."""
    truth: Path
    """GeoTIFF of the ids of land use at 10 m; 255 where no class names the use."""
    truth_cover: Path
    """GeoTIFF of the ids of land cover at 10 m."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees of a box inside the scenes."""
    dates: tuple[date, ...]
    """Days of the scenes, in order."""
    item_ids: tuple[str, ...]
    """Ids of the scenes, in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo made."""

    report: MapReport
    """Of the map, whose files are in ``report.out``."""
    agreement: Agreement
    """Of the map's land use with the truth."""
    cover_agreement: Agreement | None
    """Of its land cover; None where the model says nothing of cover."""
    catalog: DemoCatalog
    """What was mapped."""


def run_demo(
    out: Path,
    classifier: Classifier,
    *,
    season: str = "summer",
    cell_m: float | None = None,
    stride_px: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> DemoResult:
    """Simulate scenes, map them as any others, and compare the map with the truth.

    Args:
        out: folder for ``catalog/``, ``truth.tif``, ``truth-cover.tif`` and ``map/``.
        classifier: the model.
        season: of the scenes, one of ``SEASONS``.
        cell_m: cell size of the map in metres, of a model that classifies each pixel.
        stride_px: cell size of the map in pixels, of a model that classifies patches.
        overwrite: replace an earlier demo's map.
        on_progress: called after each block.

    Raises:
        UsageError: an earlier map is there and ``overwrite`` is not asked for, or the season is unknown.
        LanduseError: as ``map_area`` does.
    """
    map_folder = out / "map"
    if (map_folder / "landuse.tif").exists() and not overwrite:
        raise UsageError(
            f"{map_folder} already holds a map. Use --overwrite to replace it, or another --out."
        )
    catalog = make_demo_catalog(out, season=season)
    request = MapRequest(
        source=str(catalog.catalog),
        area=Area(geometry=shapely.box(*catalog.bbox), clip=False, name="demo"),
        dates=None,
        out=map_folder,
        cell_m=cell_m,
        stride_px=stride_px,
        max_cloud_percent=100.0,
        overwrite=overwrite,
    )
    report = map_area(request, classifier, on_progress)
    cover = agreement(catalog.truth_cover, map_folder / "cover.tif", "covers") if report.covers else None
    return DemoResult(
        report=report,
        agreement=agreement(catalog.truth, map_folder / "landuse.tif"),
        cover_agreement=cover,
        catalog=catalog,
    )


def make_demo_catalog(out: Path, seed: int = DEMO_SEED, season: str = "summer") -> DemoCatalog:
    """Simulate the demo's scenes and write them, with their truth, under ``out``.

    What an earlier run left in ``out`` is replaced.

    Args:
        out: folder for ``catalog/``, ``truth.tif`` and ``truth-cover.tif``.
        seed: of the simulation; the same seed gives the same pixels.
        season: of the scenes, one of ``SEASONS``; the land is the same in all of them.

    Raises:
        OutputError: the folder cannot be written.
        UsageError: the season is unknown.
    """
    if season not in SEASONS:
        raise UsageError(f"--season {season!r} is unknown. Choose {', '.join(SEASONS)}.")
    landscape = simulate(seed, season)
    results = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for index, acquired in enumerate(landscape.dates):
            with tempfile.TemporaryDirectory(prefix=".scene-", dir=out) as folder:
                request = CatalogRequest(
                    rasters=_write_scene(acquired, Path(folder)),
                    level="L2A",
                    acquired_utc=acquired.acquired_utc,
                    baseline=BASELINE,
                    item_id=_item_id(acquired, index),
                    cloud_percent=round(acquired.cloud_percent, 2),
                    out=out / "catalog",
                    overwrite=True,
                )
                results.append(catalog_rasters(request))
        _write_truth(out / "truth.tif", landscape.landuse, LAND_USE, "land use")
        _write_truth(out / "truth-cover.tif", landscape.cover, LAND_COVER, "land cover")
    except (OSError, RasterioError) as error:
        raise OutputError(f"Demo folder {out} cannot be written ({error}). Choose another --out.") from error
    return DemoCatalog(
        catalog=results[0].catalog,
        truth=out / "truth.tif",
        truth_cover=out / "truth-cover.tif",
        bbox=_bbox_inside(),
        dates=tuple(acquired.acquired_utc.date() for acquired in landscape.dates),
        item_ids=tuple(result.item_id for result in results),
    )


def _item_id(acquired: SimulatedDate, index: int) -> str:
    """An id as ESA names L2A products."""
    # The two satellites pass over one orbit in turn, five days apart.
    satellite = "S2A" if index % 2 == 0 else "S2B"
    day = f"{acquired.acquired_utc:%Y%m%d}"
    moment = f"{day}T{acquired.acquired_utc:%H%M%S}"
    return f"{satellite}_MSIL2A_{moment}_N{BASELINE.replace('.', '')}_R122_{TILE}_{day}T160000"


def _bbox_inside() -> tuple[float, float, float, float]:
    """West, south, east, north in degrees of a box that the scenes fill to its corners."""
    right, bottom = DEMO_LEFT_M + 10 * SIZE_PX, DEMO_TOP_M - 10 * SIZE_PX
    xs, ys = [DEMO_LEFT_M, DEMO_LEFT_M, right, right], [DEMO_TOP_M, bottom, DEMO_TOP_M, bottom]
    lons, lats = transform_points(DEMO_CRS, "EPSG:4326", xs, ys)[:2]
    # An edge between two corners bends by less than two metres, and 5 decimals are one.
    inward = (max(lons[:2]) + 2e-5, max(lats[1::2]) + 2e-5, min(lons[2:]) - 2e-5, min(lats[0::2]) - 2e-5)
    west, south, east, north = (round(value, 5) for value in inward)
    return west, south, east, north


def stored_dn(reflectance: NDArray[np.float32], observed: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Reflectance as Sentinel-2 stores it from baseline 04.00 on.

    Args:
        reflectance: (..., y, x) surface reflectance.
        observed: (y, x), True where the sensor saw something.

    Returns:
        The same shape, ``reflectance x 10000 + 1000``; 0 where nothing was seen.
    """
    dn = np.clip(np.rint(reflectance * DN_PER_REFLECTANCE) + STORED_OFFSET_DN, 1, np.iinfo(np.uint16).max)
    return np.where(observed, dn, 0).astype(np.uint16)


def _write_scene(acquired: SimulatedDate, folder: Path) -> tuple[Path, ...]:
    """One GeoTIFF a band."""
    seen_20m = acquired.scl != SCL_NODATA
    seen_10m = seen_20m.repeat(2, axis=0).repeat(2, axis=1)
    images: dict[str, tuple[NDArray[np.uint16] | NDArray[np.uint8], int]] = {}
    for name, reflectance in zip(BANDS_10M, acquired.reflectance_10m, strict=True):
        images[name] = (stored_dn(reflectance, seen_10m), 10)
    for name, reflectance in zip(BANDS_20M, acquired.reflectance_20m, strict=True):
        images[name] = (stored_dn(reflectance, seen_20m), 20)
    images[SCL] = (acquired.scl, 20)
    for name, (image, pixel_m) in images.items():
        _write_raster(folder / f"{name}.tif", image, pixel_m, name)
    return tuple(folder / f"{name}.tif" for name in images)


def _write_raster(
    path: Path,
    image: NDArray[np.uint16] | NDArray[np.uint8],
    pixel_m: int,
    description: str,
) -> None:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=image.dtype,
        count=1,
        height=image.shape[0],
        width=image.shape[1],
        crs=DEMO_CRS,
        transform=Affine(pixel_m, 0, DEMO_LEFT_M, 0, -pixel_m, DEMO_TOP_M),
        nodata=0,
        compress="deflate",
    ) as target:
        target.write(image, 1)
        target.set_band_description(1, description)


def _write_truth(
    path: Path, ids: NDArray[np.uint8], entries: tuple[LandUseClass, ...], description: str
) -> None:
    """A raster of ids with the names and colours that maps have."""
    layer = RasterLayer(
        dtype="uint8",
        geobox=GeoBox(ids.shape, Affine(10, 0, DEMO_LEFT_M, 0, -10, DEMO_TOP_M), DEMO_CRS),
        nodata=NODATA_ID,
        descriptions=(description,),
        overview_resampling="MODE",
        colors={entry.id: entry.color for entry in entries},
        categories={entry.id: entry.title for entry in entries},
        tags={"classes": json.dumps(LAND_USE_NAMES), "covers": json.dumps(LAND_COVER_NAMES)},
    )
    with cog_writer(path, layer) as put:
        put(0, 0, ids)
