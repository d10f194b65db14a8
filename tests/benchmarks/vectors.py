"""Polygons of a full tile at a stride of 8: ours against the obvious way, GDAL's shapes into one GeoPackage.

The map is smooth noise cut into ten classes, at about as many polygons for each cell as real maps have.
Times differ from machine to machine, their ratio hardly.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.features import shapes
from scipy import ndimage

from landuse.pipeline.write.geopackage import geopackage_writer
from landuse.pipeline.write.polygons import polygonize

SIDE, CELL_M = 1373, 80  # 10,980 px of 10 m
STRIP = 190
GEOBOX = GeoBox((SIDE, SIDE), Affine(CELL_M, 0, 400_000, 0, -CELL_M, 5_400_000), "EPSG:32633")
NAMES = tuple(f"Class{i}" for i in range(10))


def make() -> tuple[np.ndarray, np.ndarray]:
    """Classes and confidences of every cell."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 6)
    classes = np.digitize(smooth, np.quantile(smooth, np.linspace(0.1, 0.9, 9))).astype(np.uint8)
    return classes, rng.random((SIDE, SIDE)).astype(np.float32)


def ours(target: Path, classes: np.ndarray, confidence: np.ndarray) -> None:
    """Strip by strip, as a map run does it."""
    strips = ((classes[row : row + STRIP], confidence[row : row + STRIP]) for row in range(0, SIDE, STRIP))
    with geopackage_writer(target) as put:
        for frame in polygonize(strips, GEOBOX, names=NAMES, nodata=255):
            put("landuse", frame)


def obvious(target: Path, classes: np.ndarray, confidence: np.ndarray) -> None:
    """GDAL's shapes, all at once, and the mean confidence of each by its label."""
    labels = np.zeros(classes.shape, np.int32)
    for value in range(len(NAMES)):
        found = ndimage.label(classes == value)[0]
        labels = np.where(found, found + labels.max(), labels)
    found = list(shapes(labels, transform=GEOBOX.affine))
    ids = np.array([int(value) for _, value in found])
    first = np.zeros(labels.max() + 1, np.uint8)
    first[labels] = classes
    means = ndimage.mean(confidence, labels, ids)
    frame = gpd.GeoDataFrame(
        {"class_id": first[ids], "class_name": np.array(NAMES)[first[ids]], "confidence": means},
        geometry=[shapely.geometry.shape(shape) for shape, _ in found],
        crs="EPSG:32633",
    )
    frame["area_ha"] = frame.area / 10_000
    frame.to_file(target, layer="landuse")


def main() -> None:
    """Print both times, their ratio, and what was made."""
    classes, confidence = make()
    with tempfile.TemporaryDirectory() as folder:
        seconds, counts = {}, {}
        for name, way in (("ours", ours), ("obvious", obvious)):
            target = Path(folder) / f"{name}.gpkg"
            began = time.perf_counter()
            way(target, classes, confidence)
            seconds[name] = time.perf_counter() - began
            counts[name] = pyogrio.read_info(target, layer="landuse")["features"]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{name:8} {seconds[name]:6.1f} s  {counts[name]} polygons  peak {peak:.0f} MB by then")
        if counts["ours"] != counts["obvious"]:
            sys.exit(f"the two make different polygons: {counts}")
        print(f"ratio    {seconds['obvious'] / seconds['ours']:.1f}")


if __name__ == "__main__":
    main()
