"""Map two dates of a simulated landscape and compare the maps: ``python examples/compare_two_dates.py OUT``.

The dates are five days apart and the land is the same, so every difference is flicker: what comparing the
classes alone takes for change, and what is left of it when enough of a cell's probability has to move.
"""

import sys
from pathlib import Path

from landuse.model import MAP_MODEL
from landuse.workflows.change import ChangeRequest, compare_maps
from landuse.workflows.demo.run_demo import make_demo_catalog
from landuse.workflows.mapping.map_area import load_classifier, map_area
from landuse.workflows.mapping.request import MapRequest, requested_dates


def main(out: Path) -> None:
    """Write the maps and what changed between them."""
    demo = make_demo_catalog(out / "demo")
    classifier = load_classifier(MAP_MODEL)
    maps = [out / f"map-{day}" for day in demo.dates]
    for day, folder in zip(demo.dates, maps, strict=True):
        map_area(
            MapRequest(
                source=str(demo.catalog),
                area=None,
                dates=requested_dates(f"{day}"),
                out=folder,
                max_cloud_percent=100.0,
                probabilities=True,
                overwrite=True,
            ),
            classifier,
        )
    report = compare_maps(ChangeRequest(before=maps[0], after=maps[1], out=out / "change", overwrite=True))
    cover = report.cover
    print(f"{cover.compared} cells seen on both dates")
    print(f"{cover.share(cover.naive):.1%} have another class on the second date")
    print(f"{cover.share(cover.changed):.1%} are reported as changed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
