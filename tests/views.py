"""A small map to show: every class, every way of having none, an image finer than its cells."""

from datetime import UTC, datetime

import numpy as np
from scipy.ndimage import zoom

from landuse.classes import (
    EUROSAT_NAMES,
    LAND_COVER_NAMES,
    LAND_USE_NAMES,
    LandUseClass,
    cover_legend,
    legend,
)
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


def pixel_view(**changed) -> MapView:
    """The same with land covers, a second class of each cell and warnings, as models of pixels make it."""
    plain = small_view()
    rng = np.random.default_rng(8)
    unmapped = plain.classes == NODATA_ID
    covers = rng.integers(0, len(LAND_COVER_NAMES), (ROWS, COLS), dtype=np.uint8)
    second = (plain.classes + rng.integers(1, 10, (ROWS, COLS), dtype=np.uint8)) % len(EUROSAT_NAMES)
    share = rng.integers(0, 251 - plain.confidence.clip(0, 250), dtype=np.uint8)
    covers[unmapped] = second[unmapped] = share[unmapped] = NODATA_ID
    cells = np.bincount(covers[~unmapped], minlength=len(LAND_COVER_NAMES)).tolist()
    values = {
        "land_cover": covers,
        "second": second,
        "second_share": share,
        "legend": legend(LAND_USE_NAMES),
        "cover_legend": cover_legend(LAND_COVER_NAMES),
        "cover_areas": tuple(
            ClassArea(id=i, name=LAND_COVER_NAMES[i], cells=n, area_m2=n * CELL_M**2, share=n / sum(cells))
            for i, n in enumerate(cells)
            if n
        ),
        "warnings": ("No scene offers B08.", "Clouds in two scenes are mapped as land."),
    }
    return small_view(**values | changed)


def noisy_view(side: int) -> MapView:
    """A square map of pixels whose classes are spots of some pixels, and whose probabilities are uneven."""
    rng = np.random.default_rng(9)
    spots = [zoom(rng.random((side // step + 2,) * 2), step, order=1)[:side, :side] for step in (25, 12, 6)]
    field = sum(spots) / 3  # (row, col), about 0.5
    classes = np.clip((field - 0.2) / 0.6 * 14, 0, 13).astype(np.uint8)
    confidence = np.rint(250 * (0.95 - 0.3 * spots[1] - 0.05 * rng.random((side, side)))).astype(np.uint8)
    image = zoom(rng.integers(60, 200, (side // 4 + 1,) * 2 + (3,)), (4, 4, 1), order=1)[:side, :side]
    status = np.full((side, side), CellStatus.CLASSIFIED, np.uint8)
    values = {
        "classes": classes,
        "confidence": confidence,
        "status": status,
        "land_cover": classes * np.uint8(9) // np.uint8(14),
        "second": np.where(spots[2] > 0.5, classes + 1, classes - 1).clip(0, 13).astype(np.uint8),
        "second_share": ((250 - confidence) * (0.5 + 0.4 * spots[2])).astype(np.uint8),
        "image": image.astype(np.uint8),
        "cell_m": 10.0,
        "bounds_m": (LEFT_M, TOP_M - side * 10, LEFT_M + side * 10, TOP_M),
        "areas": tuple(
            ClassArea(id=i, name=name, cells=1, area_m2=100.0, share=1 / 14)
            for i, name in enumerate(LAND_USE_NAMES)
        ),
    }
    status[50:90, 70:200] = CellStatus.CLOUDY
    for name in ("classes", "confidence", "land_cover", "second", "second_share"):
        values[name][status == CellStatus.CLOUDY] = NODATA_ID
    return pixel_view(**values)


def cells_of(raw: bytes, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The layers of an inflated piece, cell by cell, as ``pack_cells`` says that it is made."""
    lengths = np.frombuffer(raw, "<u4", 2)
    at, count, tables = 8, shape[0] * shape[1], []
    for length, layers in zip(lengths, (4, 2), strict=True):
        tables.append(np.frombuffer(raw, np.uint8, length * layers, at).reshape(length, layers))
        at += length * layers
    found = []
    for length, table in zip(lengths, tables, strict=True):
        places = np.frombuffer(raw, np.uint8, count, at).astype(int)
        at += count
        if length > 256:
            places += 256 * np.frombuffer(raw, np.uint8, count, at).astype(int)
            at += count
        found += [table[places, layer].reshape(shape) for layer in range(table.shape[1])]
    assert at == len(raw)
    names = ("classes", "status", "covers", "second", "confidence", "secondShare")
    return dict(zip(names, found, strict=True))


def hostile_view() -> MapView:
    """The same map, hostile in every text that it has."""
    plain = pixel_view()
    return pixel_view(
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
        warnings=(HOSTILE,),
        cover_legend=tuple(
            LandUseClass(id=c.id, name=f"{HOSTILE}{c.id}", title=f"{HOSTILE}{c.id}", color=c.color)
            for c in plain.cover_legend
        ),
    )
