"""A finished map as an ``xarray.Dataset``: opened lazily from its folder, or made of arrays in memory."""

from __future__ import annotations

import json
import math
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from xml.etree import ElementTree

import numpy as np
import odc.geo.xr  # noqa: F401  # lets every array say .odc.geobox
import rasterio
import rioxarray
import xarray as xr
from rasterio.errors import RasterioError

from landuse.classes import LandUseClass, cover_legend, legend
from landuse.errors import LanduseError, OutputError, ReadError, UsageError
from landuse.pipeline.cells import NODATA_ID, STATUS_COLORS, CellStatus
from landuse.pipeline.maps.open import class_entries, class_names, zone_folders
from landuse.pipeline.read.read_scene import GDAL_OPTIONS
from landuse.pipeline.search.stac_files import stac_io
from landuse.pipeline.stac_json import Json, is_remote, mapping, number, sequence, text
from landuse.pipeline.write.folder import Store
from landuse.redact import printable, redact, redact_href

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RASTERS = {
    "class": "landuse.tif",
    "confidence": "confidence.tif",
    "status": "status.tif",
    "cover": "cover.tif",
    "doubt": "doubt.tif",
    "probabilities": "probabilities.tif",
}
"""The file of each variable. Joined maps of several UTM zones have virtual rasters in their place."""

_OPTIONAL = ("cover", "doubt", "probabilities")
"""Those that may be missing."""

_PROVENANCE = {
    "attribution": "TIFFTAG_COPYRIGHT",
    **dict.fromkeys(("model", "weights_sha256", "engine", "composite", "level", "plan_sha256")),
    **dict.fromkeys(("legend", "legend_source")),
    **dict.fromkeys(("bands", "acquired_utc", "scenes", "landuse_version")),
}
"""Attributes of the dataset, and the raster's tag that each comes from where that is called otherwise."""

_BESIDE = re.compile(r"(?:zone-\d\d[NS]|warped)/[\w-]+\.(?:tif|vrt)|\.\./zone-\d\d[NS]/[\w-]+\.tif")
"""What a virtual raster of joined maps takes its cells from: nothing but what lies in their folder."""

_OPTIONS: dict[str, dict[str, Any]] = {"GTiff": {"GEOREF_SOURCES": "INTERNAL"}, "VRT": {}}
"""How each driver of GDAL opens a raster."""

_CHUNK_CELLS = 2048
"""Side of a dask chunk: a multiple of the side of a COG's tiles."""


def open_map(location: Path | str) -> xr.Dataset:
    """Open a map that ``landuse map`` or ``landuse.map`` wrote. No cell is read until it is needed.

    The variables are dask-backed and have the dimensions ``y, x`` in a UTM zone:

    * ``class``: uint8, class id. 255 means no class; it stands as ``_FillValue`` in the attributes, so that
      ids remain whole numbers. ``flag_values``, ``flag_meanings`` and ``flag_colors`` say what they mean (CF
      conventions, 3.5), and ``area_ha`` how many hectares each class has.
    * ``confidence``: float32, probability of that class, 0..1; NaN where there is no class.
    * ``status``: uint8, why a cell has a class or none, with flags as ``class`` has them; 0 is ``outside``.
    * ``cover``: uint8, land cover id, with flags and ``area_ha`` as ``class`` has them; where the model
      classifies each pixel.
    * ``doubt``: float32, how unlike what the model was trained on, 0..1, from 0.5 on doubtful; where
      the model knows its training's spectra.
    * ``probabilities``: float32, with ``class_name`` as first dimension; where the map was made with them.

    The second most probable class is in ``second.tif`` alone; ``probabilities`` tell it where they are there.

    The coordinate ``spatial_ref`` holds the CRS, so that ``.odc.geobox`` and ``.rio`` know the grid. The
    dataset's attributes tell what the map was made of. An error of reading cells comes from dask.

    The maps of several UTM zones (``zones="each"``) open as one, in the grid of their virtual rasters: cells
    of the zone that holds most of the land are shown as they are, those of others by the nearest cell. The
    attribute ``zones`` names them, and ``area_ha`` is what they have in their own grids.

    Args:
        location: folder of the map, or the ``landuse.tif`` in it: a path, an ``https://`` URL, or a URL that
            both GDAL and fsspec know, such as ``s3://bucket/map``. Joined maps: a path of their folder.

    Raises:
        UsageError: there is no such map, it is not finished, or its files are not as landuse writes them.
        ReadError: the map cannot be read.
        ProviderError: the server does not answer.

    Example:
        >>> import landuse
        >>> ds = landuse.open_map("landuse-demo/map")
        >>> forest_cells = int((ds["class"] == 1).sum())
    """
    folder = _folder_of(location)
    report = _report(folder)
    try:
        zones = zone_folders(report)
    except ValueError as error:
        raise _foreign(folder, str(error)) from None
    if zones and "://" in folder:
        raise UsageError(
            f"{redact_href(folder)} holds the joined maps of {len(zones)} UTM zones, whose virtual rasters "
            "are opened on this machine alone. Copy the folder here, or open the map of one zone: "
            f"landuse.open_map({printable(_file(redact_href(folder), zones[0]))!r})"
            f"{''.join(f', or {printable(name)}' for name in zones[1:])}."
        )
    files = {name: f"{Path(file).stem}.vrt" if zones else file for name, file in _RASTERS.items()}
    listed = sequence(report.get("files"))
    missing = [file for name, file in files.items() if file not in listed and name not in _OPTIONAL]
    if missing:
        raise _foreign(folder, f"its run.json does not list {', '.join(missing)}")
    with ExitStack() as on_error:
        rasters = {}
        for name, file in files.items():
            if file in listed:
                if zones:
                    _check_virtual(folder, file)
                rasters[name] = _raster(_file(folder, file), "VRT" if zones else "GTiff")
                on_error.callback(rasters[name].close)
        tags = rasters["class"].attrs["tags"]
        names = class_names(Path(redact_href(folder)) / files["class"], tags.get("classes"))
        covers: Sequence[str] = ()
        if "cover" in rasters:
            covers = class_names(
                Path(redact_href(folder)) / files["cover"],
                rasters["cover"].attrs["tags"].get("covers"),
                "covers",
            )
        for name, raster in rasters.items():
            digest = text(report.get("plan_sha256"))
            _check(folder, name, raster, files[name], rasters["class"], digest, names)
        attributes: dict[str, object] = {
            "title": printable(text(report.get("title"))),
            "created_utc": printable(text(report.get("created_utc"))),
            **{
                name: printable(tags[tag or name])
                for name, tag in _PROVENANCE.items()
                if (tag or name) in tags
            },
        }
        attributes |= told_shares(mapping(report.get("cover")))
        if zones:
            attributes["zones"] = printable(", ".join(name.removeprefix("zone-") for name in zones))
        dataset = map_dataset(
            rasters,
            names=names,
            entries=class_entries(names, tags),
            covers=covers,
            area_ha=_hectares(report, "classes", len(names)),
            cover_ha=_hectares(report, "covers", len(covers)),
            attributes=attributes,
        )
        dataset.set_close(on_error.pop_all().close)
    return dataset


def _hectares(report: Json, key: str, count: int) -> list[float]:
    """Hectares of each class by id, 0 where it does not occur."""
    areas = {
        str(entry.get("id")): number(entry.get("area_ha"))
        for entry in map(mapping, sequence(report.get(key)))
    }
    return [areas.get(str(i)) or 0.0 for i in range(count)]


def map_dataset(
    rasters: Mapping[str, xr.DataArray],
    *,
    names: Sequence[str],
    covers: Sequence[str],
    area_ha: Sequence[float],
    cover_ha: Sequence[float],
    attributes: Mapping[str, object],
    entries: Sequence[LandUseClass] | None = None,
) -> xr.Dataset:
    """A map's variables as ``open_map`` describes them.

    Args:
        rasters: ``class``, ``confidence`` and ``status``, and perhaps ``cover``, ``doubt`` and
            ``probabilities``: uint8 as the files hold them, ``(band, y, x)``, with a ``spatial_ref``.
        names: class names by id.
        covers: names of land covers by id; none without ``cover``.
        area_ha: hectares of each class.
        cover_ha: hectares of each land cover.
        attributes: of the dataset.
        entries: names and colours of the classes; None takes the usual colours of ``names``.
    """
    class_cells = _ids(
        rasters["class"], "land-use class", legend(names) if entries is None else entries, area_ha
    )
    status = rasters["status"].squeeze("band", drop=True)
    status.attrs = {
        "long_name": "why a cell has a class or none",
        "_FillValue": np.uint8(CellStatus.OUTSIDE),
        **_flags({kind: (kind.name.lower(), STATUS_COLORS.get(kind, (0, 0, 0))) for kind in CellStatus}),
    }
    variables = {
        "class": class_cells,
        "confidence": _share(rasters["confidence"].squeeze("band", drop=True), "probability of the class"),
        "status": status,
    }
    if "cover" in rasters:
        variables["cover"] = _ids(rasters["cover"], "land cover", cover_legend(covers), cover_ha)
    if "doubt" in rasters:
        doubt = rasters["doubt"].squeeze("band", drop=True)
        variables["doubt"] = _share(doubt, "how unlike what the model was trained on")
    if "probabilities" in rasters:
        shares = rasters["probabilities"].rename(band="class_name").assign_coords(class_name=list(names))
        variables["probabilities"] = _share(shares, "probability of each class")
    for name, variable in variables.items():
        stored = (
            rasters[name].attrs["scale_factor"] if name in ("confidence", "doubt", "probabilities") else None
        )
        variable.encoding = {"dtype": "uint8", "grid_mapping": "spatial_ref"}
        if stored is not None:
            variable.encoding |= {"_FillValue": np.uint8(NODATA_ID), "scale_factor": stored}
    return xr.Dataset(variables, attrs={"Conventions": "CF-1.11", **attributes})


def told_shares(cover: Mapping[str, object]) -> dict[str, float]:
    """What became of the cells, as attributes: NaN where it is not known, as of clouds without a mask."""
    return {
        name: math.nan if cover.get(name, 0) is None else number(cover.get(name)) or 0.0
        for name in ("valid", "cloudy", "failed", "nodata", "unknown", "doubtful")
        if name in cover
    }


def _ids(
    stored: xr.DataArray, long_name: str, entries: Sequence[LandUseClass], area_ha: Sequence[float]
) -> xr.DataArray:
    """Class ids, which remain whole numbers, with what they mean."""
    ids = stored.squeeze("band", drop=True)
    ids.attrs = {
        "long_name": long_name,
        "_FillValue": np.uint8(NODATA_ID),
        **_flags({entry.id: (entry.name, entry.color) for entry in entries}),
        "area_ha": [float(area) for area in area_ha],
    }
    return ids


def _share(stored: xr.DataArray, long_name: str) -> xr.DataArray:
    """Shares 0..1 as float32, NaN where there is none."""
    share = stored.where(stored != NODATA_ID) * np.float32(stored.attrs["scale_factor"])  # float32
    share.attrs = {"long_name": long_name, "units": "1"}
    return share


def _flags(meanings: Mapping[int, tuple[str, tuple[int, int, int]]]) -> dict[str, object]:
    """What whole numbers mean, as CF has it: words without blanks; colours as ESA's land cover has them."""
    return {
        "flag_values": np.array(list(meanings), np.uint8),
        "flag_meanings": " ".join(re.sub(r"[^\w.+@-]", "_", name) for name, _ in meanings.values()),
        "flag_colors": " ".join("#{:02x}{:02x}{:02x}".format(*color) for _, color in meanings.values()),
    }


def _folder_of(location: Path | str) -> str:
    """A map's folder, or its URL, of that or of the class raster in it."""
    if not isinstance(location, str | os.PathLike) or not os.fspath(location):
        raise UsageError(
            f"A map is opened from a path or a URL, not from {type(location).__name__} {location!r:.60}. "
            "Give the folder that `landuse map` wrote."
        )
    if "://" in (place := str(os.fspath(location))):
        parts = urlsplit(place)
        return urlunsplit(parts._replace(path=parts.path.removesuffix(f"/{_RASTERS['class']}").rstrip("/")))
    path = Path(place)
    return str((path.parent if path.name == _RASTERS["class"] else path).absolute())


def _file(folder: str, name: str) -> str:
    """A file in it; a query, which may be a signature, stays at the URL's end."""
    if "://" not in folder:
        return str(Path(folder) / name)
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path}/{name}"))


def _report(folder: str) -> Json:
    """What ``run.json`` holds, which comes last into a map's folder: the map is whole."""
    try:
        if is_remote(folder):
            found: bytes | str | None = stac_io(named=folder).request(_file(folder, "run.json"))
        else:
            found = Store.at(folder).read("run.json")
        report = json.loads(found) if found is not None else None
    except (OutputError, ValueError, RecursionError) as error:
        raise ReadError(
            f"run.json in {redact_href(folder)} cannot be read ({redact(str(error)):.200}). Check the "
            "address and your rights, or make the map again."
        ) from error
    if report is None:
        raise UsageError(
            f"{redact_href(folder)} holds no finished map: it has no run.json. Give the folder that "
            "`landuse map` wrote."
        )
    return mapping(report)


def _check_virtual(folder: str, file: str) -> None:
    """See that a virtual raster leads to rasters in its folder alone: GDAL would follow any name.

    Raises:
        UsageError: it leads elsewhere.
        ReadError: it, or what it leads to, cannot be read.
    """
    waiting = [Path(folder) / file]
    while waiting:
        path = waiting.pop()
        try:
            root = ElementTree.fromstring(path.read_bytes())
        except (OSError, ElementTree.ParseError) as error:
            raise ReadError(f"{path} cannot be read as a virtual raster ({error}). Map again.") from error
        for source in root.iter():
            if source.tag not in ("SourceFilename", "SourceDataset"):
                continue
            name = source.text or ""
            if not _BESIDE.fullmatch(name) or source.get("relativeToVRT") != "1":
                raise _foreign(folder, f"{path.name} leads to {printable(name)!r:.200}")
            if name.endswith(".vrt"):
                waiting.append(path.parent / name)
            else:
                _plain(str(path.parent / name))


def _plain(file: str) -> None:
    """See that a file is a GeoTIFF, whatever it is called.

    Raises:
        ReadError: it is none.
    """
    try:
        with rasterio.open(file, driver="GTiff"):
            pass
    except RasterioError as error:
        raise _unreadable(file, error) from error


def _raster(file: str, driver: str) -> xr.DataArray:
    try:
        # GDAL would try all its drivers, some of which follow names in a file to other files.
        with rasterio.Env(**GDAL_OPTIONS):
            with rasterio.open(file, driver=driver) as plain:
                tags = plain.tags()  # rioxarray makes numbers of those that look like one
            raster = rioxarray.open_rasterio(
                file, chunks={"y": _CHUNK_CELLS, "x": _CHUNK_CELLS}, driver=driver, **_OPTIONS[driver]
            )
    except (RasterioError, OSError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(raster, xr.DataArray):
        raise UsageError(f"{redact_href(file)} holds several rasters. Give a map of `landuse map`.")
    return raster.assign_attrs(tags=tags)


def _unreadable(file: str, error: Exception) -> ReadError:
    return ReadError(
        f"{redact_href(file)} cannot be read as a raster ({redact(str(error))}). Is it whole? Make the "
        "map again."
    )


def _check(
    folder: str,
    name: str,
    raster: xr.DataArray,
    file: str,
    first: xr.DataArray,
    plan_sha256: str,
    names: Sequence[str],
) -> None:
    """See that a raster is of that map and holds what its variable says."""
    bands = len(names) if name == "probabilities" else 1
    nodata = CellStatus.OUTSIDE if name == "status" else NODATA_ID
    if raster.dtype != np.uint8 or raster.sizes["band"] != bands or raster.rio.nodata != nodata:
        raise _foreign(
            folder,
            f"{file} has {raster.sizes['band']} bands of {raster.dtype} with nodata {raster.rio.nodata}, not "
            f"{bands} of uint8 with {int(nodata)}",
        )
    if not plan_sha256 or raster.attrs["tags"].get("plan_sha256") != plan_sha256:
        raise _foreign(folder, f"{file} and run.json do not name the same plan_sha256")
    if raster.rio.crs is None or raster.odc.geobox != first.odc.geobox:
        raise _foreign(folder, f"{file} has no CRS, or another grid than the classes")


def _foreign(folder: str, reason: str) -> LanduseError:
    return UsageError(
        f"{redact_href(folder)} holds no map as `landuse map` writes it: {reason}. Give the folder of one "
        "run, or make the map again."
    )
