"""The demo: a simulated landscape in a STAC catalogue, and how well a map agrees with its truth.

The catalogue is written by ``imagery.catalog.catalog_rasters``, the way own imagery is, so that mapping it
is the very same work as mapping a provider's scene.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject
from rasterio.warp import transform as transform_points

from landuse.classes import EUROSAT, EUROSAT_NAMES
from landuse.errors import OutputError, ReadError, UsageError
from landuse.pipeline.cells import NODATA_ID
from landuse.pipeline.search.area import Area
from landuse.sentinel2 import DN_PER_REFLECTANCE, SCL, STORED_OFFSET_DN
from landuse.workflows.demo.landscape import (
    BANDS_10M,
    BANDS_20M,
    SCL_NODATA,
    SIZE_PX,
    SimulatedDate,
    simulate,
)
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.in_process import Progress
    from landuse.workflows.mapping.report import MapReport

DEMO_SEED = 7
DEMO_CRS = "EPSG:32633"
DEMO_LEFT_M, DEMO_TOP_M = 430_000.0, 5_340_000.0
"""Upper left corner, on the 20 m lattice of Sentinel-2 in UTM zone 33 north: in Upper Austria."""
TILE = "T33UVP"
BASELINE = "05.11"

MAJORITY_PERCENT = 60
"""A cell counts for the agreement where one class of the truth fills at least this much of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCatalog:
    """The simulated scenes on disk."""

    catalog: Path
    """``catalog.json`` of the STAC catalogue."""
    truth: Path
    """GeoTIFF of class ids at 10 m, nodata 255."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees of a box inside the scenes."""
    dates: tuple[date, ...]
    """Days of the scenes, in order."""
    item_ids: tuple[str, ...]
    """Ids of the scenes, in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAgreement:
    """How one class of the truth was mapped."""

    name: str
    """Name of the class."""
    cells: int
    """Cells that count and whose truth it is."""
    agreeing: int
    """Those of them that the map gives the same class."""

    @property
    def percent(self) -> float | None:
        """Agreement in percent; None without cells."""
        return 100 * self.agreeing / self.cells if self.cells else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a map agrees with the truth, over the cells that count (see ``agreement``)."""

    cells: int
    """Cells that count."""
    agreeing: int
    """Those whose class is the truth's."""
    mixed_cells: int
    """Mapped cells that do not count: no class fills ``MAJORITY_PERCENT`` of them."""
    classes: tuple[ClassAgreement, ...]
    """The same for each class, in order of id."""

    @property
    def percent(self) -> float | None:
        """Agreement in percent; None where no cell counts."""
        return 100 * self.agreeing / self.cells if self.cells else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo made."""

    report: MapReport
    """Of the map, whose files are in ``report.out``."""
    agreement: Agreement
    """Of the map with the truth."""
    catalog: DemoCatalog
    """What was mapped."""


def run_demo(
    out: Path,
    classifier: Classifier,
    *,
    stride_px: int = 16,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> DemoResult:
    """Simulate scenes, map them as any others, and compare the map with the truth.

    Args:
        out: folder for ``catalog/``, ``truth.tif`` and ``map/``.
        classifier: the model.
        stride_px: cell size of the map in pixels.
        overwrite: replace an earlier demo's map.
        on_progress: called after each block.

    Raises:
        UsageError: an earlier map is there and ``overwrite`` is not asked for.
        LanduseError: as ``map_area`` does.
    """
    map_folder = out / "map"
    if (map_folder / "landuse.tif").exists() and not overwrite:
        raise UsageError(
            f"{map_folder} already holds a map. Use --overwrite to replace it, or another --out."
        )
    catalog = make_demo_catalog(out)
    request = MapRequest(
        source=str(catalog.catalog),
        area=Area(geometry=shapely.box(*catalog.bbox), clip=False, name="demo"),
        dates=None,
        out=map_folder,
        stride_px=stride_px,
        max_cloud_percent=100.0,
        overwrite=overwrite,
    )
    report = map_area(request, classifier, on_progress)
    return DemoResult(
        report=report, agreement=agreement(catalog.truth, map_folder / "landuse.tif"), catalog=catalog
    )


def make_demo_catalog(out: Path, seed: int = DEMO_SEED) -> DemoCatalog:
    """Simulate the demo's scenes and write them, with their truth, under ``out``.

    What an earlier run left in ``out`` is replaced.

    Args:
        out: folder for ``catalog/`` and ``truth.tif``.
        seed: of the simulation; the same seed gives the same pixels.

    Raises:
        OutputError: the folder cannot be written.
    """
    landscape = simulate(seed)
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
        partial = out / ".truth.tif.part"
        _write_raster(partial, landscape.truth, 10, "land use", NODATA_ID)
        truth = partial.replace(out / "truth.tif")
    except (OSError, RasterioError) as error:
        raise OutputError(f"Demo folder {out} cannot be written ({error}). Choose another --out.") from error
    return DemoCatalog(
        catalog=results[0].catalog,
        truth=truth,
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
        _write_raster(folder / f"{name}.tif", image, pixel_m, name, 0)
    return tuple(folder / f"{name}.tif" for name in images)


def _write_raster(
    path: Path,
    image: NDArray[np.uint16] | NDArray[np.uint8],
    pixel_m: int,
    description: str,
    nodata: int,
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
        nodata=nodata,
        compress="deflate",
    ) as target:
        target.write(image, 1)
        target.set_band_description(1, description)


def agreement(truth_path: Path, landuse_path: Path) -> Agreement:
    """Compare a land-use map with a truth of finer pixels.

    A map's cell counts where it has a class and one class of the truth fills at least
    ``MAJORITY_PERCENT`` of it; a cell astride several classes has no true class of its own.

    Raises:
        ReadError: a file cannot be read.
        UsageError: the map's cells are not coarser than the truth's pixels.
    """
    try:
        with rasterio.open(landuse_path) as dataset:
            mapped = dataset.read(1)
            grid, crs = dataset.transform, dataset.crs
        with rasterio.open(truth_path) as dataset:
            truth = dataset.read(1)
            truth_grid, truth_crs = dataset.transform, dataset.crs
    except RasterioError as error:
        raise ReadError(f"Map {landuse_path} or truth {truth_path} cannot be read ({error}).") from error
    if crs == truth_crs and abs(grid.a) < abs(truth_grid.a):
        raise UsageError(
            f"Cells of {landuse_path} ({abs(grid.a)} m) are finer than the truth's pixels "
            f"({abs(truth_grid.a)} m). Compare a map at its own resolution."
        )
    shares = np.zeros((len(EUROSAT), *mapped.shape), np.float32)  # (class, row, col)
    for entry in EUROSAT:
        reproject(
            (truth == entry.id).astype(np.float32),
            shares[entry.id],
            src_transform=truth_grid,
            src_crs=truth_crs,
            dst_transform=grid,
            dst_crs=crs,
            resampling=Resampling.average,
        )
    return _compare(mapped, shares)


def _compare(mapped: NDArray[np.uint8], shares: NDArray[np.float32]) -> Agreement:
    """The agreement of (row, col) classes with (class, row, col) shares of the truth in 0..1."""
    major = shares.argmax(0)
    has_class = mapped != NODATA_ID
    counts = has_class & (shares.max(0) >= MAJORITY_PERCENT / 100 - 1e-6)
    agrees = counts & (mapped == major)
    return Agreement(
        cells=int(counts.sum()),
        agreeing=int(agrees.sum()),
        mixed_cells=int((has_class & ~counts).sum()),
        classes=tuple(
            ClassAgreement(
                name=name,
                cells=int((counts & (major == index)).sum()),
                agreeing=int((agrees & (major == index)).sum()),
            )
            for index, name in enumerate(EUROSAT_NAMES)
        ),
    )
