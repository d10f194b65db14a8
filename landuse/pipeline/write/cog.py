"""IO: COG, GeoPackage and JSON, each written whole or not at all.

A file is made in a hidden folder beside its place, read back, and only then renamed over it: a full
disk or a killed process leaves what was there before.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pyogrio
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from landuse.pipeline.write.folder import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

COG_BLOCK_PX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterLayer:
    """What a COG is to hold, but for its values."""

    dtype: str
    """Of its values."""
    geobox: GeoBox
    """Its grid."""
    nodata: float
    """Value of cells without data."""
    descriptions: tuple[str, ...]
    """One for each band; as many bands are there."""
    overview_resampling: str
    """``"MODE"`` for classes, ``"AVERAGE"`` for quantities, ``"NEAREST"`` where bands belong together."""
    units: str | tuple[str, ...] = ""
    """Unit of every band, or of each, where it has one."""
    scale: float | tuple[float, ...] = 1.0
    """What a stored value of every band, or of each, is multiplied by to be in that unit."""
    is_rgb: bool = False
    """Whether its three bands are red, green and blue."""
    colors: Mapping[int, tuple[int, int, int]] | None = None
    """Colour of each value, for a single uint8 band."""
    categories: Mapping[int, str] | None = None
    """Name of each value, for a single uint8 band."""
    tags: Mapping[str, str] | None = None
    """Provenance, as dataset metadata."""


@contextmanager
def cog_writer(target: Path, layer: RasterLayer) -> Iterator[Callable[[int, int, NDArray[np.generic]], None]]:
    """Write a cloud-optimised GeoTIFF piece by piece, atomically, and read it back.

    Yields a function of first row, first column and values ``(row, col)`` or ``(band, row, col)``. The
    pieces have to cover the grid; no more than one of them is in memory, beside GDAL's block cache, which
    the caller bounds. The file is made of them when the block ends well.

    Raises:
        OutputError: it cannot be written, or does not hold what was written.
    """
    rows, cols = layer.geobox.shape
    profile = {
        "driver": "GTiff",
        "dtype": layer.dtype,
        "count": len(layer.descriptions),
        "height": rows,
        "width": cols,
        "crs": str(layer.geobox.crs),
        "transform": layer.geobox.affine,
        "nodata": layer.nodata,
        # Tiles are written whole: in a small raster they would be larger than all of it.
        "tiled": min(rows, cols) > COG_BLOCK_PX,
        # A full tile's probabilities would be 1.7 GB here. Bands apart are as fast as together uncompressed.
        "compress": "ZSTD",
        "zstd_level": 1,
        "interleave": "BAND",
        "BIGTIFF": "IF_SAFER",
        "photometric": "RGB" if layer.is_rgb else "MINISBLACK",
    }
    with atomic_path(target) as partial:
        pieces = partial.with_name("pieces.tif")
        with rasterio.open(pieces, "w", **profile) as plain:
            plain.descriptions = layer.descriptions
            units, scale = layer.units, layer.scale
            plain.units = units if isinstance(units, tuple) else (units,) * plain.count
            plain.scales = scale if isinstance(scale, tuple) else (scale,) * plain.count
            if layer.colors is not None:
                plain.write_colormap(1, {v: (*rgb, 255) for v, rgb in layer.colors.items()})
            plain.update_tags(**dict(layer.tags or {}))

            def put(row: int, col: int, values: NDArray[np.generic]) -> None:
                bands = values if values.ndim == 3 else values[None]  # (band, row, col)
                plain.write(bands, window=Window(col, row, bands.shape[2], bands.shape[1]))

            yield put
        with rasterio.open(pieces) as plain:
            rasterio.shutil.copy(
                plain,
                partial,
                driver="COG",
                BLOCKSIZE=COG_BLOCK_PX,
                COMPRESS="DEFLATE",
                LEVEL="1",  # higher ones take up to three times as long, for files a tenth smaller
                NUM_THREADS="ALL_CPUS",
                PREDICTOR="YES",
                BIGTIFF="IF_SAFER",
                OVERVIEW_RESAMPLING=layer.overview_resampling,
            )
            with rasterio.open(partial) as written:
                _check_same(plain, written)
    if layer.categories is not None:
        _write_categories(target, layer.categories)


def _check_same(plain: DatasetReader, written: DatasetReader) -> None:
    """Compare two files block by block; OSError where they differ."""
    for row in range(0, plain.height, COG_BLOCK_PX):
        for col in range(0, plain.width, COG_BLOCK_PX):
            part = Window(
                col, row, min(COG_BLOCK_PX, plain.width - col), min(COG_BLOCK_PX, plain.height - row)
            )
            expected = plain.read(window=part)
            if not np.array_equal(written.read(window=part), expected, equal_nan=expected.dtype.kind == "f"):
                raise OSError("the file does not hold what was written to it")


@contextmanager
def unsynced_sqlite() -> Iterator[None]:
    """Let SQLite not wait for the disk at each step: a file that is renamed once whole needs none of that.

    On a full disk GDAL would also try in vain to index each feature, and wait each time: for minutes.
    """
    option = "OGR_SQLITE_SYNCHRONOUS"
    before = pyogrio.get_gdal_config_option(option)
    pyogrio.set_gdal_config_options({option: "OFF"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({option: before})


def _write_categories(target: Path, categories: Mapping[int, str]) -> None:
    """Write category names to GDAL's sidecar ``<target>.aux.xml``, where GeoTIFF keeps them."""
    dataset = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(dataset, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for value in range(max(categories) + 1):
        ElementTree.SubElement(names, "Category").text = categories.get(value, "")
    with atomic_path(target.with_name(f"{target.name}.aux.xml")) as partial:
        ElementTree.ElementTree(dataset).write(partial, encoding="utf-8")
