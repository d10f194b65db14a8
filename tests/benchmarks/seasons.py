"""Maps of one date, composites and fused dates: simulated seasons whose truth is known, and real dates.

``python -m tests.benchmarks.seasons --model balanced-pixel --out FOLDER`` maps the demo's land in June, April
and October. With ``LANDUSE_TEST_DATA`` also the two dates of the Inn and the three of slovenia.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.warp import reproject

from landuse.classes import LAND_COVER_NAMES
from landuse.pipeline.search.area import Area, parse_dates
from landuse.workflows.demo.agreement import agreement
from landuse.workflows.demo.run_demo import make_demo_catalog
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.classify_block import Classifier
from landuse.workflows.mapping.map_area import load_classifier, map_area
from landuse.workflows.mapping.request import MapRequest
from tests.benchmarks.cover_widths import INN, inn_of_image, widths_of
from tests.benchmarks.smoothing import specks

WAYS: dict[str, dict[str, object]] = {
    "best": {},
    "median": {"composite": "median"},
    "medoid": {"composite": "medoid"},
    "fused": {"fuse": "dates"},
    "fused, smoothed": {"fuse": "dates", "smooth": 0.5},
}
"""How several dates become one map."""
INN_DATES = {
    "2021-06-18": "inn_ering_de_at_L2A_window2_RGBN_utm33n.tif",
    "2021-07-23": "inn_ering_de_at_L2A_window1_RGBN_utm33n.tif",
}
"""The days stand for the two dates, which are of one place."""
SLOVENIA_DATES = {
    "2015-07-31": "slovenia_L1C_20150731_cloudy_13b_utm33n.tif",
    "2015-08-20": "slovenia_L1C_20150820_cloudy_13b_utm33n.tif",
    "2015-08-30": "slovenia_L1C_20150830_13b_utm33n.tif",
}


def mapped(classifier: Classifier, source: str, out: Path, **options: object) -> Path:
    """The folder of a map."""
    values = {"area": None, "dates": None, "max_cloud_percent": 100.0, "min_valid_percent": 0.0} | options
    map_area(MapRequest(source=source, out=out, overwrite=True, **values), classifier)
    return out


def ids(out: Path, name: str) -> NDArray[np.uint8]:
    """(row, col) ids of one of a map's rasters."""
    with rasterio.open(out / name) as file:
        return file.read(1)


def demo(classifier: Classifier, out: Path) -> None:
    """Each date, each season and all dates together, against the demo's truth."""
    days: dict[str, str] = {}
    for season in ("summer", "spring", "autumn"):
        made = make_demo_catalog(out / "demo", season=season)
        days |= {str(day): str(day) for day in made.dates}
        days[season] = f"{made.dates[0]}/{made.dates[-1]}"
    days["all"] = "2024"
    area = Area(geometry=shapely.box(*made.bbox), clip=False, name="demo")
    print("dates                        use (mean of recalls)  cover (mean)  classified  specks")
    for title, span in days.items():
        for way, options in WAYS.items() if title == "all" else list(WAYS.items())[: 4 if "/" in span else 1]:
            made_map = mapped(
                classifier, str(made.catalog), out / f"demo-{title}-{way}", area=area,
                dates=parse_dates(span), **options,
            )  # fmt: skip
            use = agreement(made.truth, made_map / "landuse.tif")
            cover = agreement(made.truth_cover, made_map / "cover.tif", "covers")
            found = ids(made_map, "landuse.tif")
            print(
                f"{title:10} {way:18} {use.percent:7.1f} ({use.mean_percent:.1f}) {cover.percent:13.1f} "
                f"({cover.mean_percent:.1f}) {100 * (found != 255).mean():10.1f} {specks(found):8}"
            )


def catalogued(data: Path, out: Path, dates: dict[str, str], level: str) -> str:
    """A catalogue of rasters by day."""
    for day, name in dates.items():
        acquired = datetime.fromisoformat(f"{day}T10:10:31").replace(tzinfo=UTC)
        result = catalog_rasters(
            CatalogRequest(
                rasters=(data / "scenes" / name,), level=level, acquired_utc=acquired, out=out,
                baseline="03.00", overwrite=True,
            )
        )  # fmt: skip
    return str(result.catalog)


def inn(classifier: Classifier, data: Path, out: Path) -> None:
    """Two dates of one place, without a truth: how they agree, the river's width, specks."""
    source = catalogued(data, out / "inn", INN_DATES, "L2A")
    maps = {day: mapped(classifier, source, out / f"inn-{day}", dates=parse_dates(day)) for day in INN_DATES}
    maps |= {way: mapped(classifier, source, out / f"inn-{way}", **given) for way, given in WAYS.items()}
    uses = {name: ids(folder, "landuse.tif") for name, folder in maps.items()}
    covers = {name: ids(folder, "cover.tif") for name, folder in maps.items()}
    first, second = (covers[day] for day in INN_DATES)
    crops, grass = LAND_COVER_NAMES.index("Crops"), LAND_COVER_NAMES.index("Grass")
    swapped = ((first == crops) & (second == grass)) | ((first == grass) & (second == crops))
    print(f"Inn: crops on one date and grass on the other on {swapped.mean():.1%} of the pixels")
    image = inn_of_image(data).across
    for name, cover in covers.items():
        same = [(uses[name] == uses[day]).mean() for day in INN_DATES]
        off = np.abs(np.subtract(widths_of(cover == 0, INN).across, image)).mean()
        print(
            f"{name:16} same use as the dates {same[0]:.3f} {same[1]:.3f}  specks {specks(uses[name]):5}  "
            f"river off by {off:.0f} m  crops there {(cover[swapped] == crops).mean():.2f}"
        )


def onto(path: Path, grid_of: Path) -> NDArray[np.uint8]:
    """(row, col) ids of a raster at the centres of another's cells; 255 beyond it."""
    with rasterio.open(path) as file, rasterio.open(grid_of) as grid:
        found = np.full(grid.shape, 255, np.uint8)
        reproject(
            file.read(1), found, src_transform=file.transform, src_crs=file.crs, src_nodata=255,
            dst_transform=grid.transform, dst_crs=grid.crs, dst_nodata=255,
        )  # fmt: skip
        return found


def slovenia(classifier: Classifier, data: Path, out: Path) -> None:
    """Two hazy or cloudy dates and a clear one, against Dynamic World's map of the clear one."""
    source = catalogued(data, out / "slovenia", SLOVENIA_DATES, "L1C")
    asked = {day: {"dates": parse_dates(day)} for day in SLOVENIA_DATES} | WAYS
    for name, options in asked.items():
        made = mapped(classifier, source, out / f"slovenia-{name}", **options)
        cover = ids(made, "cover.tif")
        truth = onto(data / "cover" / "slovenia_L1C_20150830_13b_utm33n_dw.tif", made / "cover.tif")
        both = (truth != 255) & (cover != 255)
        same = f"{(cover == truth)[both].mean():.3f}" if both.any() else "-"
        print(f"slovenia {name:16} classified {(cover != 255).mean():.3f}  same cover {same}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    classifier = load_classifier(given.model, "cpu")
    demo(classifier, given.out)
    if "LANDUSE_TEST_DATA" in os.environ:
        data = Path(os.environ["LANDUSE_TEST_DATA"])
        inn(classifier, data, given.out)
        slovenia(classifier, data, given.out)


if __name__ == "__main__":
    main()
