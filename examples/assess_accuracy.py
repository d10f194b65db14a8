"""How good is a map, by a raster taken for the truth: ``assess_accuracy.py MAP_FOLDER TRUTH.tif OUT``.

Draws a sample of the map, labels it from the raster instead of by eye, and prints accuracy and areas
beside what the raster itself says. The raster holds the map's class ids, in any grid: `landuse demo`
writes one beside its map. Real points are labelled in QGIS, then: ``landuse area MAP --samples FILE``.
"""

import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from landuse.pipeline.maps.open import counted_map
from landuse.pipeline.maps.sampling import SampleDesign
from landuse.workflows.accuracy import assess_map, draw_sample


def main(folder: Path, truth: Path, out: Path) -> None:
    """Write ``points.gpkg`` and ``labelled.gpkg`` into a folder, and print the figures."""
    source, drawn, labelled = counted_map(folder), out / "points.gpkg", out / "labelled.gpkg"
    draw_sample(folder, SampleDesign(standard_error=0.02), drawn, seed=0, overwrite=True)
    grid = {
        "crs": source.crs,
        "transform": source.transform,
        "height": source.shape[0],
        "width": source.shape[1],
    }
    with rasterio.open(truth) as file, WarpedVRT(file, resampling=Resampling.mode, **grid) as warped:
        true_ids = warped.read(1)
    points = gpd.read_file(drawn, layer="samples")
    names = np.array([*source.names, *[None] * (256 - len(source.names))], dtype=object)
    points["reference"] = names[true_ids[points["row"], points["col"]]]
    points.to_file(labelled, layer="samples")

    report = assess_map(folder, labelled)
    with rasterio.open(source.path) as file:
        true_ids = true_ids[file.read(1) != file.nodata]
    cell_ha = abs(source.transform.determinant) / 10_000
    print(f"{'class':22} {'mapped ha':>10} {'estimated ha, 95 %':>26} {'true ha':>10}")
    for i in report.present:
        area, true_ha = report.area_ha(i), (true_ids == i).sum() * cell_ha
        told = f"{area.value:,.0f} ({area.low:,.0f} to {area.high:,.0f})"
        print(f"{source.names[i]:22} {report.mapped_ha(i):10,.0f} {told:>26} {true_ha:10,.0f}")
    overall = report.accuracy.overall
    told = f"{overall.value:.3f} ({overall.low:.3f} to {overall.high:.3f})"
    print(f"overall accuracy {told} from {report.points.used} points")
    for warning in report.warnings:
        print(f"note: {warning}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
