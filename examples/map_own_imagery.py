"""Map imagery of your own with the Python API: rasters -> STAC catalogue -> land-use map.

Runs offline: where no raster is given, a scene of the demo's simulated landscape stands in for it.

    python examples/map_own_imagery.py --out own-map
    python examples/map_own_imagery.py --out own-map --level L2A --baseline 05.11 \
        --datetime 2024-06-01T10:20:31Z B02.tif B03.tif B04.tif
"""

from __future__ import annotations

import argparse
from pathlib import Path

from landuse.model.predict import Predictor
from landuse.pipeline.search.area import parse_bbox
from landuse.workflows.demo.run_demo import make_demo_catalog
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters, parse_acquired_utc
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest


def main() -> None:
    """Catalogue the rasters, map a part of them, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rasters", nargs="*", type=Path, help="one multi-band GeoTIFF, or one file a band")
    parser.add_argument("--out", type=Path, required=True, help="folder for the catalogue and the map")
    parser.add_argument("--level", default="L2A", help="processing level of the pixels: L1C or L2A")
    parser.add_argument("--baseline", default="05.11", help="processing baseline; it decides the offset")
    parser.add_argument("--datetime", default="2024-06-01T10:20:31Z", help="acquisition time, ISO 8601")
    parser.add_argument("--bbox", help="W,S,E,N in degrees; all of the imagery where it is not given")
    options = parser.parse_args()

    # 1. Rasters to a catalogue. What the pixels mean is stated, never guessed.
    result = catalog_rasters(
        CatalogRequest(
            rasters=tuple(options.rasters) or demo_rasters(options.out),
            level=options.level,
            acquired_utc=parse_acquired_utc(options.datetime),
            baseline=options.baseline,
            item_id="own-scene",
            out=options.out / "catalog",
            overwrite=True,
        )
    )

    # 2. The catalogue to a map; a provider's name or the URL of a STAC API would do as well.
    report = map_area(
        MapRequest(
            source=str(result.catalog),
            area=parse_bbox(options.bbox) if options.bbox else None,
            dates=None,
            out=options.out / "map",
            stride_px=16,
            overwrite=True,
        ),
        Predictor.load("balanced-fast-rgb"),
        on_progress=lambda done: print(f"block {done.blocks_done} of {done.blocks}"),
    )

    # 3. What is where.
    for entry in report.classes:
        print(f"{entry.name:22} {entry.area_m2 / 1e6:8.2f} km2  {entry.share:6.1%}")
    print(f"{report.cover.valid:.1%} of {report.cover.cells} cells classified; see {report.out}")


def demo_rasters(out: Path) -> tuple[Path, ...]:
    """Three bands of the demo's clearer scene, as if they were your own files."""
    demo = make_demo_catalog(out / "demo")
    return tuple(demo.catalog.parent / demo.item_ids[0] / f"{band}.tif" for band in ("B02", "B03", "B04"))


if __name__ == "__main__":
    main()
