"""Pure: the rasters of several zones' maps as one virtual raster (GDAL VRT), which holds no pixel itself.

A raster in another CRS than the mosaic's takes a VRT of its own that warps it by the nearest cell; the mosaic
then lays all on one another. VRTs of both kinds open in GDAL 2 and later, and in QGIS; an index that warps by
itself (GTI) would need GDAL 3.9. Format: https://gdal.org/en/stable/drivers/raster/vrt.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import shapely

from landuse.pipeline.geometry import project
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from affine import Affine
    from odc.geo.geobox import GeoBox

    from landuse.pipeline.write.cog import RasterLayer

_TYPES = {"uint8": "Byte"}
"""GDAL's name of each type that rasters of a map have."""

_BLOCK_PX = 512
"""Side of the tiles in which a warped raster is computed: that of the files' own."""

_APART_PX = 0.01
"""How far warping may be from the true place, in pixels of the source: it computes few places exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicPart:
    """A raster in a mosaic."""

    href: str
    """Its path, from the mosaic's folder."""
    geobox: GeoBox
    """Its grid."""


def lies_on(part: GeoBox, whole: GeoBox) -> bool:
    """Whether the cells of a grid are cells of another, or would be if that reached so far."""
    same = str(part.crs) == str(whole.crs) and part.affine.a == whole.affine.a
    steps = (
        (edge - start) / whole.affine.a for edge, start in zip(_corner(part), _corner(whole), strict=True)
    )
    return same and all(abs(step - round(step)) < 1e-6 for step in steps)


def warped_geobox(part: GeoBox, whole: GeoBox) -> GeoBox:
    """The piece of a mosaic's grid that holds all of a raster in another CRS, and a cell around it."""
    from odc.geo.geobox import GeoBox

    box = shapely.box(*part.boundingbox.bbox)
    left, bottom, right, top = project(box, str(part.crs), str(whole.crs)).bounds
    size = whole.affine.a
    first_col = max(int((left - whole.affine.c) // size) - 1, 0)
    first_row = max(int((whole.affine.f - top) // size) - 1, 0)
    last_col = min(int((right - whole.affine.c) // size) + 2, whole.shape[1])
    last_row = min(int((whole.affine.f - bottom) // size) + 2, whole.shape[0])
    shape = (max(last_row - first_row, 1), max(last_col - first_col, 1))
    return GeoBox(shape, whole.affine @ whole.affine.translation(first_col, first_row), whole.crs)


def warped_vrt(part: MosaicPart, target: GeoBox, layer: RasterLayer) -> str:
    """A raster in another CRS: each cell holds what the nearest cell of the raster does.

    Args:
        part: the raster; its path is from the folder of this VRT.
        target: grid of the VRT.
        layer: what the raster holds; its grid does not matter.
    """
    root = _dataset(target, {"subClass": "VRTWarpedDataset"})
    for number in range(1, len(layer.descriptions) + 1):
        band = _band(root, layer, number, {"subClass": "VRTWarpedRasterBand"})
        SubElement(band, "NoDataValue").text = f"{layer.nodata:g}"
    SubElement(root, "BlockXSize").text = SubElement(root, "BlockYSize").text = str(_BLOCK_PX)
    options = SubElement(root, "GDALWarpOptions")
    SubElement(options, "ResampleAlg").text = "NearestNeighbour"
    SubElement(options, "WorkingDataType").text = _TYPES[layer.dtype]
    for name, value in (
        ("UNIFIED_SRC_NODATA", "YES"),
        ("INIT_DEST", "NO_DATA"),
        ("ERROR_OUT_IF_EMPTY_SOURCE_WINDOW", "FALSE"),
    ):
        SubElement(options, "Option", name=name).text = value
    SubElement(options, "SourceDataset", relativeToVRT="1").text = part.href
    approximate = SubElement(SubElement(options, "Transformer"), "ApproxTransformer")
    SubElement(approximate, "MaxError").text = f"{_APART_PX:g}"
    places = SubElement(SubElement(approximate, "BaseTransformer"), "GenImgProjTransformer")
    for name, affine in (
        ("SrcGeoTransform", part.geobox.affine),
        ("SrcInvGeoTransform", ~part.geobox.affine),
        ("DstGeoTransform", target.affine),
        ("DstInvGeoTransform", ~target.affine),
    ):
        SubElement(places, name).text = _six(affine)
    between = SubElement(SubElement(places, "ReprojectTransformer"), "ReprojectionTransformer")
    SubElement(between, "SourceSRS").text = str(part.geobox.crs)
    SubElement(between, "TargetSRS").text = str(target.crs)
    bands = SubElement(options, "BandList")
    for number in range(1, len(layer.descriptions) + 1):
        mapped = SubElement(bands, "BandMapping", src=str(number), dst=str(number))
        for name in ("SrcNoDataReal", "DstNoDataReal"):
            SubElement(mapped, name).text = f"{layer.nodata:g}"
    return _text(root)


def mosaic_vrt(parts: Sequence[MosaicPart], layer: RasterLayer) -> str:
    """Rasters on the mosaic's lattice as one; where two have a value the later one's is shown.

    Args:
        parts: the rasters, or the VRTs that warp them.
        layer: what the mosaic holds, with its grid.
    """
    whole = layer.geobox
    root = _dataset(whole, {})
    metadata = SubElement(root, "Metadata")
    for key, value in dict(layer.tags or {}).items():
        SubElement(metadata, "MDI", key=key).text = printable(value)
    for number, description in enumerate(layer.descriptions, 1):
        band = _band(root, layer, number, {})
        SubElement(band, "Description").text = printable(description)
        SubElement(band, "NoDataValue").text = f"{layer.nodata:g}"
        units, scale = layer.units, layer.scale
        SubElement(band, "UnitType").text = units if isinstance(units, str) else units[number - 1]
        SubElement(band, "Scale").text = repr(scale if isinstance(scale, float) else scale[number - 1])
        if layer.categories is not None:
            names = SubElement(band, "CategoryNames")
            for identifier in range(max(layer.categories) + 1):
                SubElement(names, "Category").text = printable(layer.categories.get(identifier, ""))
        for part in parts:
            _source(band, part, whole, number, layer)
    return _text(root)


def _source(band: Element, part: MosaicPart, whole: GeoBox, number: int, layer: RasterLayer) -> None:
    rows, cols = part.geobox.shape
    source = SubElement(band, "ComplexSource")  # unlike a simple one it leaves out what has no value
    SubElement(source, "SourceFilename", relativeToVRT="1").text = part.href
    SubElement(source, "SourceBand").text = str(number)
    SubElement(
        source,
        "SourceProperties",
        RasterXSize=str(cols),
        RasterYSize=str(rows),
        DataType=_TYPES[layer.dtype],
        BlockXSize=str(_BLOCK_PX),
        BlockYSize=str(_BLOCK_PX),
    )
    left, top = _corner(part.geobox)
    start_left, start_top = _corner(whole)
    size = whole.affine.a
    SubElement(source, "SrcRect", xOff="0", yOff="0", xSize=str(cols), ySize=str(rows))
    SubElement(
        source,
        "DstRect",
        xOff=str(round((left - start_left) / size)),
        yOff=str(round((start_top - top) / size)),
        xSize=str(cols),
        ySize=str(rows),
    )
    SubElement(source, "NODATA").text = f"{layer.nodata:g}"


def _dataset(grid: GeoBox, kind: dict[str, str]) -> Element:
    rows, cols = grid.shape
    root = Element("VRTDataset", {"rasterXSize": str(cols), "rasterYSize": str(rows), **kind})
    SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = str(grid.crs)
    SubElement(root, "GeoTransform").text = _six(grid.affine)
    return root


def _band(root: Element, layer: RasterLayer, number: int, kind: dict[str, str]) -> Element:
    about = {"dataType": _TYPES[layer.dtype], "band": str(number), **kind}
    band = SubElement(root, "VRTRasterBand", about)
    if layer.is_rgb:
        SubElement(band, "ColorInterp").text = ("Red", "Green", "Blue")[number - 1]
    elif layer.colors is not None:
        SubElement(band, "ColorInterp").text = "Palette"
        table = SubElement(band, "ColorTable")
        for value in range(max(layer.colors) + 1):
            red, green, blue = layer.colors.get(value, (0, 0, 0))
            SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
    return band


def _corner(grid: GeoBox) -> tuple[float, float]:
    """Left and top."""
    return float(grid.affine.c), float(grid.affine.f)


def _six(affine: Affine) -> str:
    """GDAL's geotransform of an affine transform."""
    values = (affine.c, affine.a, affine.b, affine.f, affine.d, affine.e)
    return ", ".join(repr(float(value)) for value in values)


def _text(root: Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
