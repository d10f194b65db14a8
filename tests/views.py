"""A small map to show: every class, every way of having none, an image finer than its cells."""

from datetime import UTC, datetime

import numpy as np

from landuse.classes import EUROSAT_NAMES, LandUseClass, legend
from landuse.pipeline.cells import NODATA_ID, CellStatus, ClassArea, Cover
from landuse.pipeline.pages.content import MapView
from landuse.pipeline.scene import Scene

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    "\"'&amp; \n\u2028\u202e漢\ud800"
)
"""Breaks out of scripts, attributes, lines and encodings where it is not escaped."""

ROWS, COLS, CELL_M, PX_PER_CELL = 6, 9, 160.0, 16
LEFT_M, TOP_M = 431_040.0, 5_339_840.0


def _scene(**values) -> Scene:
    """A scene of which only what is shown matters."""
    ring = ((14.0, 48.0), (15.0, 48.0), (15.0, 49.0), (14.0, 48.0))
    unseen = {"baseline": None, "crs": None, "bounds_m": None, "assets": (), "footprint": (ring,)}
    return Scene(**unseen | values)


def small_view(**changed) -> MapView:
    """A map of 9 x 6 cells of 160 m in UTM zone 33 north, with an image of 10 m pixels."""
    rng = np.random.default_rng(7)
    classes = rng.integers(0, len(EUROSAT_NAMES), (ROWS, COLS), dtype=np.uint8)
    status = np.full((ROWS, COLS), CellStatus.CLASSIFIED, np.uint8)
    status[1, 2:4], status[4, 0], status[5, 7:], status[0, 0] = (
        CellStatus.CLOUDY,
        CellStatus.FAILED,
        CellStatus.UNSEEN,
        CellStatus.OUTSIDE,
    )
    unmapped = status != CellStatus.CLASSIFIED
    classes[unmapped] = NODATA_ID
    confidence = np.where(unmapped, 255, rng.integers(25, 251, (ROWS, COLS))).astype(np.uint8)
    image = rng.integers(1, 256, (ROWS * PX_PER_CELL, COLS * PX_PER_CELL, 3), dtype=np.uint8)
    cells, mapped = ROWS * COLS - 1, int((~unmapped).sum())
    counts = {i: int((classes == i).sum()) for i in range(len(EUROSAT_NAMES))}
    values = {
        "title": "Valley of the test",
        "crs": "EPSG:32633",
        "bounds_m": (LEFT_M, TOP_M - ROWS * CELL_M, LEFT_M + COLS * CELL_M, TOP_M),
        "cell_m": CELL_M,
        "classes": classes,
        "confidence": confidence,
        "status": status,
        "image": image,
        "image_bands": ("B04", "B03", "B02"),
        "legend": legend(EUROSAT_NAMES),
        "areas": tuple(
            ClassArea(
                id=i, name=EUROSAT_NAMES[i], cells=n, area_m2=float(n * CELL_M**2), share=float(n / mapped)
            )
            for i, n in counts.items()
            if n
        ),
        "cover": Cover(
            cells=cells, valid=mapped / cells, cloudy=2 / cells, failed=1 / cells, nodata=2 / cells
        ),
        "scenes": tuple(
            _scene(
                id=f"S2A_MSIL2A_202406{day}",
                provider="local",
                acquired_utc=datetime(2024, 6, day, 10, 5, tzinfo=UTC),
                level="L2A",
                tile="33UVP",
                cloud_percent=cloud,
                spare=spare,
            )
            for day, cloud, spare in ((16, 12.34, False), (11, 0.0, False), (21, None, True))
        ),
        "composite": "best",
        "model": "balanced-fast-rgb",
        "weights_sha256": "0123456789abcdef" * 4,
        "version": "0.6.0",
        "created_utc": datetime(2024, 7, 1, 8, 30, tzinfo=UTC),
        "files": ("landuse.tif", "landuse.gpkg", "item.json", "index.html", "run.json"),
        "attribution": "Contains modified Copernicus Sentinel data 2024",
        "citation": "Valley of the test: land use in June 2024. landuse 0.6.0, model balanced-fast-rgb.",
    }
    return MapView(**values | changed)


def hostile_view() -> MapView:
    """The same map, hostile in every text that it has."""
    plain = small_view()
    return small_view(
        title=HOSTILE,
        image_bands=(HOSTILE,) * 3,
        legend=tuple(
            LandUseClass(id=c.id, name=f"{HOSTILE}{c.id}", title=f"{HOSTILE}{c.id}", color=c.color)
            for c in plain.legend
        ),
        scenes=tuple(
            _scene(
                id=HOSTILE,
                provider=HOSTILE,
                acquired_utc=scene.acquired_utc,
                level=HOSTILE,
                tile=HOSTILE,
                cloud_percent=scene.cloud_percent,
                spare=scene.spare,
            )
            for scene in plain.scenes
        ),
        composite=HOSTILE,
        model=HOSTILE,
        weights_sha256=HOSTILE,
        version=HOSTILE,
        files=("javascript:window.hacked=1", "../../secret", HOSTILE.replace("\ud800", "")),
        attribution=HOSTILE,
        citation=HOSTILE,
    )
