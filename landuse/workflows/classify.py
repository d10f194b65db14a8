"""Imagery that is held already, as ``xarray``, to a map: the blocks of ``landuse map`` without its files."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import odc.geo.xr
import xarray as xr

import landuse
from landuse.errors import ModelError, UsageError
from landuse.legends.legend import load_legend
from landuse.model import MAP_MODEL
from landuse.model.foreign.contract import ForeignModel
from landuse.model.memory import reused_memory
from landuse.pipeline.blocks.smooth import SMOOTH_PX
from landuse.pipeline.cells import SHARE_STEPS
from landuse.pipeline.geometry import footprint_of_bounds, is_utm, outer_rings
from landuse.pipeline.maps.to_xarray import map_dataset, told_shares
from landuse.pipeline.read.check_pixels import LONGEST_SIDE_PX, contradiction
from landuse.pipeline.read.onto_grid import valid_pixels
from landuse.pipeline.read.read_block import BlockPixels
from landuse.pipeline.read.read_scene import image_of
from landuse.pipeline.scene import BandAsset, Scene
from landuse.sentinel2 import LEVELS, SCL
from landuse.workflows.imagery.bands import parse_band_name
from landuse.workflows.mapping.assemble import CellTally
from landuse.workflows.mapping.classify_block import BlockInput, classify_block, work_of
from landuse.workflows.mapping.in_process import largest_first, read_ahead
from landuse.workflows.mapping.map_area import load_classifier, plan_map, with_precision
from landuse.workflows.mapping.report import doubt_told
from landuse.workflows.mapping.request import MapRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from odc.geo.geobox import GeoBox

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import Block, ClassArea
    from landuse.pipeline.read.onto_grid import Stored

log = logging.getLogger(__name__)

LOOKED_AT_PX = 1024
"""Side of what is looked at before anything is classified."""

_LATTICE_PX = 1e-3
"""Pixels lie on Sentinel-2's lattice if their corners do to this share of a pixel."""

_ONLY_SENTINEL2 = {"SR_B8", "SR_B8A", "SR_B9", "SR_B11", "SR_B12"}
"""Landsat has ``SR_B1`` to ``SR_B7``, which are other bands; beside one of these they are Sentinel-2's."""


def classify(
    data: xr.DataArray | xr.Dataset,
    *,
    level: str,
    scale: float | None = None,
    offset: float | None = None,
    model: str | Path | ForeignModel = MAP_MODEL,
    cell_m: float | None = None,
    stride_px: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    smooth: float | str = 0.0,
    smooth_px: int = SMOOTH_PX,
    probabilities: bool = False,
    legend: str | Path | None = None,
) -> xr.Dataset:
    """Classify Sentinel-2 imagery that is held already: the same map as ``landuse map`` makes of it.

    The imagery may be larger than memory: it is read block by block, so give it dask-backed or lazy. The
    map is in memory: 6 bytes a cell, or 11 with land cover and doubt, and 4 for each class with
    ``probabilities``.

    Args:
        data: one acquisition, or one composite, on pixels of 10 m of a UTM zone, north-up, with corners on
            multiples of 10 m. A Dataset with a variable for each band, ``(y, x)``; or a DataArray
            ``(band, y, x)`` whose ``band`` coordinate, or attribute ``long_name``, names the bands. Bands
            are called ``B04`` or ``red``, say; those that the model can do without may be missing. Others
            than the model's are ignored, but for those that show clouds: ``SCL`` (L2A), or all bands but
            B03, B06 and B07 (L1C). Without them, clouds are classified as land.
        level: ``"L1C"`` or ``"L2A"``.
        scale: reflectance = scale * stored + offset, for every band but ``SCL``. None: the attribute
            ``scale_factor`` of the arrays, which must then have it.
        offset: in reflectance. None: the attribute ``add_offset``, which must then not be 0.
        model: name of a shipped model; path of a checkpoint, or of an ONNX or TorchScript file with its
            contract beside it; or a network in Python, as ``landuse.ForeignModel``.
        cell_m: side of a cell of the map in metres, of a model that classifies each pixel; None: 10.
        stride_px: side of a cell in pixels, of a model that classifies patches; None: 16.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:INDEX"``.
        precision: arithmetic of a model of pixels, as of ``map``: ``"fp32"``, ``"bf16"`` or ``"auto"``.
        smooth: how strongly class probabilities are smoothed, as of ``map``; 0: not at all.
        smooth_px: side of the window in which they are, in pixels: odd, 3 to 11.
        probabilities: also give every class's probability.
        legend: classes to tell the map in, whose probabilities are sums of the model's: ``"eurosat"``,
            ``"cover"``, ``"worldcover"``, ``"io-lulc"``, ``"ipcc"``, ``"corine-1"``, or the path of a file.

    Returns:
        A map as ``open_map`` describes it, in memory.

    What the imagery lacks, such as bands or a cloud mask, and how much of it is unlike what the model was
    trained on, is logged as a warning.

    Raises:
        UsageError: bands, grid, scale, offset or level are not stated, or do not fit, or the pixels in the
            middle of the imagery contradict them; the message says how to mend it.
        ModelError: there is no such model, or it needs other bands or another level.

    Example:
        >>> import landuse, rioxarray
        >>> bands = rioxarray.open_rasterio("sentinel2_13_bands.tif", chunks=2048)
        >>> ds = landuse.classify(bands, level="L1C", scale=1e-4, offset=0.0)
    """
    if level not in LEVELS:
        raise UsageError(f"Level {level!r} is unknown. State the imagery's: {' or '.join(LEVELS)}.")
    if not isinstance(legend, str | Path | None):
        raise UsageError(f"legend {legend!r:.60} is neither a name nor a path. Give ipcc, say, or None.")
    if not isinstance(model, str | Path | ForeignModel):
        raise UsageError(
            f"Model {model!r:.60} is neither a name nor a path, nor a landuse.ForeignModel. See `landuse "
            "models`."
        )
    if isinstance(stride_px, bool) or not isinstance(stride_px, int | None):
        raise UsageError(f"stride_px {stride_px!r:.60} is no whole number of pixels. Give 16, say.")
    if isinstance(cell_m, bool) or not isinstance(cell_m, Real | None):
        raise UsageError(f"cell_m {cell_m!r:.60} is no number of metres. Give 10 or 20, say.")
    if isinstance(smooth, bool) or not isinstance(smooth, Real | str):
        raise UsageError(f"smooth {smooth!r:.60} is no strength. Give 0.5, say.")
    if isinstance(smooth_px, bool) or not isinstance(smooth_px, int):
        raise UsageError(f"smooth_px {smooth_px!r:.60} is no whole number of pixels. Give 7, say.")
    classifier = with_precision(
        load_classifier(model if isinstance(model, ForeignModel) else str(model), device), precision
    )
    held = _held(data, level, scale, offset, classifier.contract.resolution_m)
    _check_pixels(held)
    needed = classifier.contract.required_bands
    missing = [band for band in needed if band not in held.scene.bands]
    if missing:
        raise ModelError(
            f"Model {classifier.contract.name} needs {', '.join(needed)}; the imagery has "
            f"{', '.join(held.scene.bands)} (no {', '.join(missing)}). Choose another model, "
            "or name the bands."
        )
    request = MapRequest(
        source="array",
        area=None,
        dates=None,
        cell_m=None if cell_m is None else float(cell_m),
        stride_px=stride_px,
        smooth=smooth,
        smooth_px=smooth_px,
        precision=precision,
        probabilities=probabilities,
        legend=None if legend is None else load_legend(str(legend), "legend"),
    )
    plan = plan_map(request, classifier, [held.scene])
    for warning in plan.warnings:
        log.warning("%s", warning)

    def read(block: Block) -> BlockInput | None:
        return held.input_of(plan, block)

    count = len(plan.classes) if probabilities else 0
    # What the files of a map hold, as they hold it.
    class_cells, confidence, status = np.zeros((3, plan.rows, plan.cols), np.uint8)
    covers = np.zeros((int(bool(plan.covers)), plan.rows, plan.cols), np.uint8)
    doubt = np.zeros((int(plan.tells_doubt), plan.rows, plan.cols), np.uint8)
    shares = np.zeros((count, plan.rows, plan.cols), np.uint8)
    tally = CellTally(plan, plan.scenes)
    with ThreadPoolExecutor(1) as reader, reused_memory():
        for block, given in read_ahead(largest_first(plan, plan.blocks), read, reader):
            content = classify_block(plan, block, classifier, given)
            cells = np.s_[block.row_start : block.row_stop, block.col_start : block.col_stop]
            class_cells[cells] = content.rasters.classes
            confidence[cells] = content.rasters.confidence
            status[cells] = content.rasters.status
            covers[:, *cells] = content.rasters.cover
            doubt[:, *cells] = content.rasters.doubt
            if probabilities:
                shares[:, *cells] = content.rasters.probabilities
            tally.add(content.rasters, content.counts)
    doubtful = doubt_told(tally.cover, plan.model, "doubt")
    if doubtful is not None:
        log.warning("%s; .where(ds.doubt < 0.5) leaves them out.", doubtful)
    rasters = {"class": class_cells[None], "confidence": confidence[None], "status": status[None]}
    if plan.covers:
        rasters["cover"] = covers
    if plan.tells_doubt:
        rasters["doubt"] = doubt
    if probabilities:
        rasters["probabilities"] = shares
    coordinates = odc.geo.xr.xr_coords(plan.cell_geobox)
    return map_dataset(
        {
            name: xr.DataArray(
                values, coordinates, ("band", "y", "x"), attrs={"scale_factor": 1 / SHARE_STEPS}
            )
            for name, values in rasters.items()
        },
        names=plan.classes,
        entries=plan.entries,
        covers=plan.covers,
        area_ha=_hectares(tally.classes, len(plan.classes)),
        cover_ha=_hectares(tally.covers, len(plan.covers)),
        attributes={
            "model": plan.model,
            "weights_sha256": plan.weights_sha256,
            "engine": plan.engine,
            "level": plan.level,
            "bands": ", ".join(plan.bands),
            "landuse_version": landuse.__version__,
            **({} if plan.legend is None else {"legend": plan.legend.name}),
            **told_shares(asdict(tally.cover)),
        },
    )


def _hectares(areas: Sequence[ClassArea], count: int) -> list[float]:
    """The area of each class by id, 0 where it does not occur."""
    by_id = {entry.id: entry.area_ha for entry in areas}
    return [by_id.get(i, 0.0) for i in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Held:
    """Imagery in memory or behind dask, as if it were a scene."""

    bands: xr.Dataset
    """Stored values of each band, ``(y, x)``."""
    geobox: GeoBox
    """Their grid."""
    scene: Scene
    """What they mean."""

    def input_of(self, plan: RunPlan, block: Block) -> BlockInput | None:
        """What a block is classified from; None where there is nothing to map."""
        work = work_of(plan, block)
        if work is None:
            return None
        placed, land = work
        grid = plan.pixel_geobox(placed.rows_px, placed.cols_px)
        pixels = image_of(self.scene, plan.bands, grid, self.stored)
        return BlockInput(placed=placed, land=land, read=BlockPixels(pixels=pixels, failures=(), lost=()))

    def stored(self, names: Sequence[str], grid: GeoBox) -> dict[str, Stored]:
        """Stored values and validity of bands on a grid, which may reach beyond the imagery."""
        left, top = (round(value) for value in ~self.geobox.affine @ (grid.affine.c, grid.affine.f))
        (rows, cols), (height, width) = grid.shape, self.geobox.shape
        y, x = slice(max(top, 0), min(top + rows, height)), slice(max(left, 0), min(left + cols, width))
        there = np.s_[
            y.start - top : max(y.stop, y.start) - top, x.start - left : max(x.stop, x.start) - left
        ]
        read = self.bands[list(names)].isel(y=y, x=x).compute()  # all bands at once: they may share chunks
        layers = {}
        for name in names:
            values = read[name].to_numpy()
            stored, valid = np.zeros(grid.shape, values.dtype), np.zeros(grid.shape, np.bool_)
            asset = self.scene.asset(name)
            if values.size and asset is not None:
                stored[there], valid[there] = values, valid_pixels(values, asset)
            layers[name] = (stored, valid)
        return layers


def _held(
    data: xr.DataArray | xr.Dataset, level: str, scale: float | None, offset: float | None, pixel_m: float
) -> _Held:
    """Imagery with all that was stated of it, checked."""
    arrays = _named(data)
    first = next(iter(arrays.values()))
    geobox = first.odc.geobox
    if geobox is None or geobox.crs is None:
        raise UsageError(
            "The imagery is not georeferenced: it has no CRS, or no x and y. Set it, with rioxarray say: "
            "data.rio.write_crs('EPSG:32630')."
        )
    grid, crs = geobox.affine, f"EPSG:{geobox.crs.to_epsg()}"
    corner_px = (grid.c / pixel_m, grid.f / pixel_m)
    if (
        not is_utm(crs)
        or max(abs(grid.a - pixel_m), abs(grid.e + pixel_m), abs(grid.b), abs(grid.d)) > _LATTICE_PX
        or max(abs(edge - round(edge)) for edge in corner_px) > _LATTICE_PX
    ):
        raise UsageError(
            f"The imagery has pixels of {grid.a:g} x {grid.e:g} from {grid.c:.10g}, {grid.f:.10g} in {crs}. "
            f"They have to be {pixel_m:g} x -{pixel_m:g} m in a UTM zone, north-up, with corners on "
            f"multiples of {pixel_m:g} m. Reproject the bands, with odc-geo say: "
            f"data.odc.reproject('EPSG:32630', resolution={pixel_m:g}). "
            "What stackstac loads needs xy_coords='center'."
        )
    if level == "L2A" and "B10" in arrays:
        raise UsageError("Level L2A has no band B10. Is it L1C? Otherwise leave the band out.")
    assets = tuple(_asset(name, array, scale, offset) for name, array in arrays.items())
    bounds = geobox.boundingbox.bbox
    footprint = outer_rings(footprint_of_bounds(crs, bounds))
    if not footprint:
        raise UsageError(f"The imagery's bounds {bounds} lie off the earth in {crs}. State its CRS anew.")
    scene = Scene(
        id="array",
        provider="array",
        acquired_utc=datetime.min.replace(tzinfo=UTC),  # nothing depends on it: there is one scene
        level=level,
        baseline=None,
        cloud_percent=None,
        footprint=footprint,
        crs=crs,
        bounds_m=bounds,
        assets=assets,
    )
    return _Held(bands=xr.Dataset({n: a.variable for n, a in arrays.items()}), geobox=geobox, scene=scene)


def _check_pixels(held: _Held) -> None:
    """Look at the middle of the imagery: all of it might be larger than memory, or long to compute.

    Raises:
        UsageError: its pixels contradict what is stated of them.
    """
    assets = [asset for asset in held.scene.assets if asset.band != SCL]
    height, width = held.geobox.shape
    rows, cols = (slice(max((n - LOOKED_AT_PX) // 2, 0), (n + LOOKED_AT_PX) // 2) for n in (height, width))
    step = -(-max(rows.stop - rows.start, cols.stop - cols.start) // LONGEST_SIDE_PX)
    part = held.bands[[asset.band for asset in assets]].isel(y=rows, x=cols)
    thinned = part.compute().isel(y=slice(None, None, step), x=slice(None, None, step))
    layers = {
        asset.band: (values, valid_pixels(values, asset))
        for asset in assets
        for values in (thinned[asset.band].to_numpy(),)
    }
    found = contradiction(layers, assets, held.scene.level)
    if found is None:
        return
    if found.units is not None:
        mend = f"With scale={found.units[0]:g} and offset={found.units[1]:g} they are plausible."
    elif found.order:
        mend = f"With the names {', '.join(found.order)} they are plausible."
    else:
        mend = "State what they are."
    text = f"The imagery's middle: {found.told} {mend}"
    if found.certain:
        raise UsageError(text)
    log.warning("%s", text)


def _named(data: xr.DataArray | xr.Dataset) -> dict[str, xr.DataArray]:
    """The bands by their Sentinel-2 names, each ``(y, x)`` on one grid."""
    if isinstance(data, xr.Dataset):
        spelt = [
            (str(name), array) for name, array in data.data_vars.items() if {"y", "x"} <= set(array.dims)
        ]
    elif isinstance(data, xr.DataArray) and "band" in data.dims:
        labels = list(data["band"].values) if "band" in data.coords else []
        if not all(isinstance(label, str) for label in labels):
            told = data.attrs.get("long_name", ())
            labels = [told] if isinstance(told, str) else list(told)
        if len(labels) != data.sizes["band"]:
            raise UsageError(
                f"The {data.sizes['band']} bands have no names. Name them in their order: "
                "data.assign_coords(band=['B04', 'B03', 'B02'])."
            )
        spelt = [(str(label), data.isel(band=i, drop=True)) for i, label in enumerate(labels)]
    elif isinstance(data, xr.DataArray):
        spelt = [(str(data.name), data)]
    else:
        raise UsageError(
            f"Imagery is an xarray.DataArray or Dataset, not {type(data).__name__}. Open it with "
            "rioxarray.open_rasterio or odc.stac.load."
        )
    is_sentinel2 = bool({name.upper() for name, _ in spelt} & _ONLY_SENTINEL2)
    arrays: dict[str, xr.DataArray] = {}
    for name, array in spelt:
        is_surface = name.upper().startswith("SR_B")
        band = parse_band_name(name[3:] if is_surface else name)
        if band is None:
            continue
        if is_surface and not is_sentinel2:
            raise UsageError(
                f"Band {name!r} may be Landsat's, whose numbers mean other bands than Sentinel-2's. If it "
                "is Sentinel-2's, rename it: B04, say."
            )
        if band in arrays:
            raise UsageError(f"Band {band} is there more than once, also as {name!r}. Leave one out.")
        single = array.squeeze([dim for dim in array.dims if dim not in ("y", "x") and array.sizes[dim] == 1])
        if set(single.dims) != {"y", "x"}:
            raise UsageError(
                f"Band {name!r} has the dimensions {', '.join(map(str, array.dims))} of {array.shape}; a map "
                "is made of one image with y and x. Choose one, with .isel(time=0) say, or make a median."
            )
        arrays[band] = single.transpose("y", "x")
    if not arrays:
        found = ", ".join(repr(name) for name, _ in spelt) or "none"
        raise UsageError(f"No band of Sentinel-2 is among {found:.200}. Name them B04 or red, say.")
    return arrays


def _asset(band: str, array: xr.DataArray, scale: float | None, offset: float | None) -> BandAsset:
    """What a band's stored values mean. Attributes of 1 and 0 say nothing: they are written unasked."""
    if array.dtype.kind not in "uif":
        raise UsageError(f"Band {band} is {array.dtype}; whole or floating numbers are needed.")
    nodata = _told_nodata(band, array)
    if nodata is None:
        nodata = math.nan if array.dtype.kind == "f" else 0.0
    if band == SCL:
        return BandAsset(band=SCL, href="", scale=1.0, nodata=nodata)
    scale = scale if scale is not None else _stated(array, "scale_factor", 1.0)
    offset = offset if offset is not None else _stated(array, "add_offset", 0.0)
    if scale is None or offset is None:
        raise UsageError(
            f"Scale or offset of band {band} is not stated. Give both, as reflectance = scale * stored + "
            "offset: scale=1e-4, offset=-0.1 for ESA's DN from baseline 04.00 on, offset=0 before and where "
            "it was removed; scale=1, offset=0 for reflectance."
        )
    for name, value in (("scale", scale), ("offset", offset)):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise UsageError(f"{name} {value!r:.60} is no number. Give scale=1e-4, offset=-0.1, say.")
    if not (math.isfinite(scale) and scale > 0 and abs(offset) <= 1):
        raise UsageError(
            f"Scale {scale} must be above 0, and offset {offset}, which is in reflectance, within -1..1: DN "
            "that carry +1000 have scale=1e-4, offset=-0.1."
        )
    return BandAsset(band=band, href="", scale=float(scale), offset=float(offset), nodata=nodata)


def _told_nodata(band: str, array: xr.DataArray) -> float | None:
    """The stored value that means nothing, by the first attribute that says one, as rioxarray has them."""
    for name in ("nodata", "_FillValue", "missing_value", "fill_value"):
        told = array.attrs.get(name)
        if told is None:
            continue
        try:
            (value,) = np.asarray(told, np.float64).ravel()
        except (TypeError, ValueError):
            raise UsageError(
                f"Attribute {name} of band {band} is {told!r:.60}, not one number. Give the stored value "
                "that means nodata, or drop the attribute."
            ) from None
        return float(value)
    return None


def _stated(array: xr.DataArray, name: str, unasked: float) -> float | None:
    value = array.attrs.get(name)
    return None if value is None or value == unasked else value
