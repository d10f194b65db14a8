"""Two real acquisitions of one place, and the catalogues that providers would make of them.

The pixels are two dates of a real L2A scene. A scene classification is laid over them here: clear
land with one cloud and its shadow, at another place on each date, so that masks, ranking and
composites have something to do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

from landuse.pipeline.search.area import Area, parse_bbox
from tests.servers import stac_item

SCENES = {
    "20210618": "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif",
    "20210723": "scenes/inn_ering_de_at_L2A_window1_RGBN_utm33n.tif",
}
"""Day to file; the days stand for the two dates."""

CLOUDS = {"20210618": (60, 40, 25), "20210723": (150, 90, 12)}
"""Day to row, column and radius of its cloud, in SCL pixels."""

BANDS = ("B02", "B03", "B04")
COMMON = {"B02": "blue", "B03": "green", "B04": "red", "SCL": "scl"}
TILE = "33UUP"
BASELINES = {"03.00": 0, "05.11": 1000}
"""Baseline to what it adds to stored values."""


@dataclass(frozen=True)
class Acquisition:
    """One date as stored with one baseline."""

    day: str
    baseline: str
    folder: str
    """Of its COGs, relative to the world's root."""
    crs: str
    transform: Affine
    shape: tuple[int, int]
    bbox: tuple[float, float, float, float]

    @property
    def datetime(self) -> str:
        return f"{self.day[:4]}-{self.day[4:6]}-{self.day[6:]}T10:10:31Z"

    def item(self, identifier: str, **properties: Any) -> dict[str, Any]:
        return stac_item(
            identifier,
            bbox=self.bbox,
            datetime=self.datetime,
            cloud=55.0,  # as stated of the whole tile: the area is clearer
            bands=(),
            s2__processing_baseline=self.baseline,
            **properties,
        )

    def asset(self, href: str, band: str) -> dict[str, Any]:
        factor = 2 if band == "SCL" else 1
        grid = self.transform @ Affine.scale(factor)
        return {
            "href": href.format(band=band, folder=self.folder),
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "proj:shape": [-(-size // factor) for size in self.shape],
            "proj:transform": list(grid)[:6],
        }

    def planetary_computer(self, href: str) -> dict[str, Any]:
        """Bands by key and a baseline; no scale, no offset."""
        item = self.item(
            f"S2A_MSIL2A_{self.day}T101031_R022_T{TILE}_20210901T000000",
            platform="Sentinel-2A",
            constellation="Sentinel 2",
            proj__epsg=int(self.crs.removeprefix("EPSG:")),
            s2__mgrs_tile=TILE,
        )
        item["assets"] = {band: self.asset(href, band) for band in (*BANDS, "SCL")}
        return item

    def earth_search(self, href: str) -> dict[str, Any]:
        """Common names, scale and offset of each band, and a datetime some minutes later (the tile's own)."""
        offset = -BASELINES[self.baseline] / 10_000
        item = self.item(
            f"S2A_{TILE}_{self.day}_0_L2A",
            platform="sentinel-2a",
            constellation="sentinel-2",
            proj__epsg=int(self.crs.removeprefix("EPSG:")),
            grid__code=f"MGRS-{TILE}",
            earthsearch__boa_offset_applied=False,
        )
        item["properties"]["datetime"] = self.datetime.replace("10:10:31Z", "10:17:02.5Z")
        for band in (*BANDS, "SCL"):
            asset = self.asset(href, band)
            decoding = {} if band == "SCL" else {"scale": 0.0001, "offset": offset}
            asset["raster:bands"] = [{"nodata": 0, **decoding}]
            item["assets"][COMMON[band]] = asset
        return item


def make_world(data_dir: Path, root: Path) -> dict[tuple[str, str], Acquisition]:
    """COGs of both dates under ``root``, stored by each baseline; (day, baseline) to acquisition."""
    made = {}
    for day, name in SCENES.items():
        with rasterio.open(data_dir / name) as image:
            pixels = {band: image.read(image.descriptions.index(band) + 1) for band in BANDS}
            crs, transform, shape = image.crs.to_string(), image.transform, image.shape
            bbox = transform_bounds(image.crs, "EPSG:4326", *image.bounds)
        for baseline, added in BASELINES.items():
            folder = f"{day}-{baseline}"
            (root / folder).mkdir(parents=True)
            for band, dn in pixels.items():
                stored = np.where(dn > 0, dn + added, 0).astype(np.uint16)
                _write_cog(root / folder / f"{band}.tif", stored, crs, transform)
            _write_cog(root / folder / "SCL.tif", _scl(day, shape), crs, transform @ Affine.scale(2))
            made[day, baseline] = Acquisition(
                day=day,
                baseline=baseline,
                folder=folder,
                crs=crs,
                transform=transform,
                shape=shape,
                bbox=bbox,
            )
    return made


def _scl(day: str, shape: tuple[int, int]) -> np.ndarray:
    rows, cols = np.mgrid[: -(-shape[0] // 2), : -(-shape[1] // 2)]
    row, col, radius = CLOUDS[day]
    scl = np.full(rows.shape, 4, np.uint8)
    scl[np.hypot(rows - row - 20, cols - col - 15) < radius] = 3
    scl[np.hypot(rows - row, cols - col) < radius] = 9
    return scl


def _write_cog(path: Path, values: np.ndarray, crs: str, transform: Affine) -> None:
    with rasterio.open(
        path, "w", driver="COG", dtype=values.dtype.name, count=1, height=values.shape[0],
        width=values.shape[1], crs=crs, transform=transform, nodata=0, blocksize=128, compress="deflate",
    ) as target:  # fmt: skip
        target.write(values, 1)


def item_collection(path: Path, items: list[dict[str, Any]]) -> str:
    """An ItemCollection file, as ``--source`` takes it."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return str(path)


def area_of(left: float, bottom: float, right: float, top: float) -> Area:
    """An area by its edges in the scenes' zone."""
    edges = transform_bounds("EPSG:32633", "EPSG:4326", left, bottom, right, top)
    return parse_bbox(",".join(f"{edge:.7f}" for edge in edges))


def layers(out: Path) -> list[tuple[Any, Affine, np.ndarray]]:
    """CRS, grid and values of a map's classes and of their confidence."""
    read = []
    for name in ("landuse.tif", "confidence.tif"):
        with rasterio.open(out / name) as file:
            read.append((file.crs, file.transform, file.read(1)))
    return read


def assert_same_map(out: Path, reference: Path) -> None:
    """Two maps are equal bit for bit."""
    for (crs, grid, values), (crs_too, grid_too, expected) in zip(
        layers(out), layers(reference), strict=True
    ):
        assert (crs, grid) == (crs_too, grid_too)
        np.testing.assert_array_equal(values, expected)
