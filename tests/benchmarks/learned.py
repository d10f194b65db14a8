"""How well learned classes are told apart on land that was held out, beside the shipped model re-labelled.

    python -m tests.benchmarks.learned leipzig|terramesh|demo

The re-labelled model has its classes renamed by the best legend, found on the land that is not held out.
"""

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine

import landuse
from landuse.workflows.demo.run_demo import make_demo_catalog
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from tests.benchmarks.cover_references import TERRAMESH_L2A, terramesh_places

GRID = Affine(10, 0, 500_000, 0, -10, 5_300_000)
"""Where the places of TerraMesh are put: their files do not say where they are."""

DEMO_CLASSES = {"field": (0, 6), "wood": (1,), "grass": (2, 5), "built": (3, 4, 7), "water": (8, 9)}
"""A legend of somebody's own, by the ids of the demo's truth."""


def data_folder() -> Path:
    """The folder of the test data."""
    return Path(os.environ["LANDUSE_TEST_DATA"])


def told(title: str, report: landuse.LearnReport) -> None:
    """Print the figures of a report."""

    def share(one: object) -> str:
        return f"{100 * one.value:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})"

    own, other = report.scores, report.relabelled
    print(
        f"{title}: {report.samples} pixels, {report.blocks} blocks of {report.block_m} m; accuracy "
        f"{share(own.accuracy)}, re-labelled {share(other.accuracy)}, gain {share(report.gain['accuracy'])}; "
        "macro F1 "
        f"{share(own.macro_f1)}, re-labelled {share(other.macro_f1)}, gain {share(report.gain['macro_f1'])}; "
        f"calibration error {100 * report.calibration_error:.1f}; {report.seconds:.0f} s",
        flush=True,
    )


def write(path: Path, values: np.ndarray, bands: tuple[str, ...] = ()) -> Path:
    """A GeoTIFF of (band, y, x) on ``GRID``."""
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=len(values), height=values.shape[1],
        width=values.shape[2], crs="EPSG:32633", transform=GRID, nodata=0,
    ) as file:  # fmt: skip
        file.write(values)
        if bands:
            file.descriptions = bands
    return path


def catalog(raster: Path, folder: Path, bands: tuple[str, ...] | None = None) -> str:
    """A catalogue of one raster of DN without offset."""
    request = CatalogRequest(
        rasters=(raster,), level="L2A", acquired_utc=datetime(2020, 6, 1, tzinfo=UTC), out=folder, scale=1e-4,
        offset=0.0, bands=bands,
    )  # fmt: skip
    return str(catalog_rasters(request).catalog)


def leipzig(folder: Path) -> None:
    """97 points, read as L2A."""
    data = data_folder()
    bands = ("B02", "B03", "B04", "B06", "B07", "B08", "B11", "-")
    source = catalog(data / "scenes" / "leipzig_de_L2A_8b_utm32n.tif", folder / "catalog", bands)
    labels = data / "reference" / "leipzig_de_landcover_points.gpkg"
    told(
        "Leipzig",
        landuse.learn(labels=labels, column="land_cover", source=source, out=folder / "m.safetensors"),
    )


def terramesh(folder: Path) -> None:
    """Places of more than one class, three draws of pixels each."""
    for place in terramesh_places(data_folder()):
        if len(np.unique(place.lulc)) < 2:
            continue
        bands = tuple(band for band in TERRAMESH_L2A if band in place.l2a)
        scene = write(folder / f"{place.name}.tif", np.stack([place.l2a[band] for band in bands]), bands)
        source = catalog(scene, folder / place.name)
        labels = write(folder / f"{place.name}-lulc.tif", place.lulc[None])
        for seed in range(3):
            out = folder / f"{place.name}-{seed}.safetensors"
            told(
                f"{place.name}, seed {seed}", landuse.learn(labels=labels, source=source, out=out, seed=seed)
            )


def polygons(truth: Path, each: int, seed: int) -> gpd.GeoDataFrame:
    """Squares of 50 m well inside land of one class, so many of each."""
    rng = np.random.default_rng(seed)
    with rasterio.open(truth) as file:
        ids, grid, crs = file.read(1), file.transform, file.crs
    names, shapes = [], []
    for name, own in DEMO_CLASSES.items():
        one = np.isin(ids, own)
        inside = np.logical_and.reduce([np.roll(one, (r, c), (0, 1)) for r in (-2, 0, 2) for c in (-2, 0, 2)])
        places = np.argwhere(inside)
        for row, col in places[rng.permutation(len(places))[:each]]:
            x, y = grid @ (col + 0.5, row + 0.5)
            names.append(name)
            shapes.append(shapely.box(x - 25, y - 25, x + 25, y + 25))
    return gpd.GeoDataFrame({"class": names}, geometry=shapes, crs=crs)


def demo(folder: Path) -> None:
    """20, 60 and 200 polygons of five classes; 20 three times."""
    made = make_demo_catalog(folder)
    for each, seed in ((4, 5), (4, 0), (4, 1), (12, 0), (40, 0)):
        out = folder / f"{each}-{seed}.safetensors"
        labels = polygons(made.truth, each, seed)
        report = landuse.learn(
            labels=labels, column="class", source=str(made.catalog), max_cloud_percent=100, out=out
        )
        told(f"demo, {5 * each} polygons, seed {seed}", report)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        {"leipzig": leipzig, "terramesh": terramesh, "demo": demo}[sys.argv[1]](Path(scratch))
