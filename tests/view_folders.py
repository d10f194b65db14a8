"""Folders as `landuse map` and `landuse change` write them, of any size: one pattern laid again and again."""

import json
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from landuse.classes import LAND_COVER_NAMES, LAND_USE, LAND_USE_NAMES
from landuse.pipeline.cells import NODATA_ID, STATUS_COLORS, CellStatus
from landuse.pipeline.maps.moved_probability import UNCHANGED_CODE, UNCONFIRMED_CODE, change_codes
from landuse.pipeline.write.cog import RasterLayer, cog_writer

PATTERN_PX = 512
LEFT_M, TOP_M = 399_960.0, 5_400_000.0


def pattern(seed: int) -> dict[str, np.ndarray]:
    """What the rasters of a map hold in a square of 512 cells: fields with borders and noise, a cloud."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:PATTERN_PX, :PATTERN_PX]
    fields = rng.integers(0, len(LAND_USE_NAMES), (16, 16))
    bent = (x + 9 * np.sin(y / 23)).astype(int) // 32 % 16
    classes = fields[(y + 7 * np.sin(x / 17)).astype(int) // 32 % 16, bent].astype(np.uint8)
    second = ((classes + 1 + fields[y // 32, x // 32]) % len(LAND_USE_NAMES)).astype(np.uint8)
    confidence = (120 + (x * 3 + y * 5) % 131).astype(np.uint8)
    status = np.full(classes.shape, CellStatus.CLASSIFIED, np.uint8)
    status[np.hypot(y - 300, x - 180) < 60] = CellStatus.CLOUDY
    lost = status == CellStatus.CLOUDY
    colors = np.array([entry.color for entry in LAND_USE], float)
    light = 0.55 + 0.15 * ((x // 3 + y // 5) % 7) / 7
    image = np.clip(colors[classes] * light[..., None] * 0.8 + 20, 1, 255).astype(np.uint8)
    image[lost] = 245
    cover = (classes % len(LAND_COVER_NAMES)).astype(np.uint8)
    for raster in (classes, second, confidence, cover):
        raster[lost] = NODATA_ID
    return {
        "landuse": classes[None],
        "cover": cover[None],
        "confidence": confidence[None],
        "second": np.stack([second, np.where(lost, NODATA_ID, (250 - confidence) // 2).astype(np.uint8)]),
        "doubt": np.where(lost, NODATA_ID, fields[y // 32, x // 32] * 9).astype(np.uint8)[None],
        "status": status[None],
        "image": np.moveaxis(image, -1, 0),
    }


def write_map(
    folder: Path,
    side_px: int,
    *,
    seed: int = 0,
    acquired: str = "2024-06-16T10:00:29+00:00",
    crs: str = "EPSG:32633",
    left_m: float = LEFT_M,
    top_m: float = TOP_M,
    without: tuple[str, ...] = (),
    tags: dict[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Write the rasters of a map of that many cells along a side; returns the pattern they are made of."""
    folder.mkdir(parents=True)
    values = pattern(seed)
    grid = GeoBox((side_px, side_px), Affine(10, 0, left_m, 0, -10, top_m), crs)
    common = {
        "acquired_utc": acquired,
        "plan_sha256": f"{seed:064x}",
        "TIFFTAG_COPYRIGHT": "Contains modified Copernicus Sentinel data 2024",
        "classes": json.dumps(LAND_USE_NAMES),
    }
    tags = common | (tags or {})
    own = {
        "cover": {"tags": tags | {"covers": json.dumps(LAND_COVER_NAMES)}},
        "status": {"colors": STATUS_COLORS},
        "image": {"is_rgb": True},
    }
    for name, bands in values.items():
        if name in without:
            continue
        nearest = "AVERAGE" if name in ("confidence", "doubt", "image") else "MODE"
        layer = {
            "tags": tags,
            "nodata": 0 if name in ("status", "image") else NODATA_ID,
            "overview_resampling": "NEAREST" if name == "second" else nearest,
            "scale": 0.004 if name in ("confidence", "doubt") else 1.0,
        } | own.get(name, {})
        _write(folder / f"{name}.tif", grid, bands, layer)
    return values


def write_change(
    folder: Path, side_px: int, before: dict[str, np.ndarray], after: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Write the rasters of a change between two maps of seeds 0 and 1."""
    folder.mkdir(parents=True)
    grid = GeoBox((side_px, side_px), Affine(10, 0, LEFT_M, 0, -10, TOP_M), "EPSG:32633")
    count = len(LAND_USE_NAMES)
    pairs = {(0, 7): 120.0, (1, 12): 40.5}
    codes = change_codes(count, pairs)
    old, new = before["landuse"][0].astype(int), after["landuse"][0].astype(int)
    changed = np.full(old.shape, UNCHANGED_CODE, np.uint8)
    for pair in pairs:
        changed[(old % 5 == pair[0]) & (new % 3 == pair[1] % 3)] = codes[pair]
    changed[:40, :60] = UNCONFIRMED_CODE
    changed[(old == NODATA_ID) | (new == NODATA_ID)] = NODATA_ID
    moved = np.where(changed == NODATA_ID, NODATA_ID, np.abs(old * 7 - new * 5) % 251).astype(np.uint8)
    tags = {
        "before_plan_sha256": f"{0:064x}",
        "after_plan_sha256": f"{1:064x}",
        "before_acquired_utc": "2024-06-16T10:00:29+00:00",
        "after_acquired_utc": "2024-07-16T10:00:29+00:00",
    }
    colors = {codes[pair]: LAND_USE[pair[1]].color for pair in pairs}
    layers = {
        "change": {
            "tags": tags,
            "nodata": NODATA_ID,
            "overview_resampling": "MODE",
            "colors": colors | {UNCHANGED_CODE: (240, 240, 240), UNCONFIRMED_CODE: (150, 150, 150)},
        },
        "difference": {"tags": tags, "nodata": NODATA_ID, "overview_resampling": "AVERAGE", "scale": 0.004},
    }
    values = {"change": changed[None], "difference": moved[None]}
    for name, layer in layers.items():
        _write(folder / f"{name}.tif", grid, values[name], layer)
    matrix = [{"from_id": a, "to_id": b, "area_ha": area} for (a, b), area in pairs.items()]
    (folder / "change.json").write_text(json.dumps({"classes": LAND_USE_NAMES, "matrix": matrix}), "utf-8")
    return values


def _write(path: Path, grid: GeoBox, bands: np.ndarray, layer: dict) -> None:
    rows, cols = grid.shape
    described = tuple(f"band {index}" for index in range(len(bands)))
    with cog_writer(path, RasterLayer(dtype="uint8", geobox=grid, descriptions=described, **layer)) as put:
        repeats = -(-cols // PATTERN_PX)
        for row in range(0, rows, PATTERN_PX):
            strip = np.tile(bands, (1, 1, repeats))[:, : rows - row, :cols]
            # Each row of patterns is moved on by a cell, or one could not tell where in the map one is.
            put(row, 0, np.roll(strip, row // PATTERN_PX, axis=2))
