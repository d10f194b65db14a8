"""The files that join the maps of several UTM zones: virtual rasters, polygons, collection and summary."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import shapely

from landuse.classes import legend
from landuse.pipeline.geometry import crosses_antimeridian, in_one_piece, surfaces
from landuse.pipeline.stac_json import mapping, sequence, text
from landuse.pipeline.write.folder import atomic_path, write_json
from landuse.pipeline.write.geopackage import SUFFIXES
from landuse.pipeline.write.joined_vectors import JOINED_LAYERS, ZoneVectors, write_joined_vectors
from landuse.pipeline.write.mosaic import MosaicPart, lies_on, mosaic_vrt, warped_geobox, warped_vrt
from landuse.pipeline.write.stac_collection import (
    COLLECTION_NAME,
    CollectionFacts,
    in_collection,
    zones_collection,
)
from landuse.pipeline.write.stac_item import ITEM_NAME
from landuse.pipeline.write.vector_layers import GEOPACKAGE
from landuse.pipeline.zones import joined_geobox
from landuse.workflows.mapping.assemble import raster_layers
from landuse.workflows.mapping.publish import attribution

if TYPE_CHECKING:
    from collections.abc import Callable

    from odc.geo.geobox import GeoBox

    from landuse.pipeline.scene import Scene
    from landuse.pipeline.write.cog import RasterLayer
    from landuse.pipeline.write.folder import Store
    from landuse.workflows.mapping.zones.report import ZoneMap, ZonesReport

WARPED = "warped"
"""Folder of the virtual rasters that bring single zones into the joined CRS."""

_RASTERS = (
    "landuse.tif",
    "cover.tif",
    "confidence.tif",
    "second.tif",
    "doubt.tif",
    "probabilities.tif",
    "status.tif",
    "image.tif",
)

JOINED = (
    *(f"{Path(name).stem}.vrt" for name in _RASTERS),
    GEOPACKAGE,
    *(f"{layer}{SUFFIXES[kind]}" for kind in ("parquet", "fgb") for layer in JOINED_LAYERS),
    COLLECTION_NAME,
    "run.json",
)
"""Every joined file. The last one tells that the others are whole."""


def join(report: ZonesReport, out: Store, check: Callable[[], None] = lambda: None) -> ZonesReport:
    """Write the joined files beside the zones' folders; returns the report with their names.

    Args:
        report: of the run, without files.
        out: where the zones' folders are.
        check: sees that the folder is still this run's, before files are replaced.

    Raises:
        ReadError: polygons of a zone cannot be read.
        OutputError: a file cannot be written.
    """
    began = time.monotonic()
    layers = [raster_layers(zone.plan, _used(zone)) for zone in report.zones]
    names = [name for name in _RASTERS if name in layers[0]]
    warped: dict[str, str] = {}
    mosaics = {name: _mosaic(report, name, [of[name] for of in layers], warped) for name in names}
    if warped or WARPED in out.names():
        _write_warped(out.child(WARPED), warped)
    with out.replaced(JOINED, check) as folder:
        vectors = _vectors(report, out, folder)
        joined = [f"{Path(name).stem}.vrt" for name in names]
        for name, content in mosaics.items():
            _write_text(folder / f"{Path(name).stem}.vrt", content)
        report = replace(
            report,
            files=(
                *joined,
                *(f"{WARPED}/{name}" for name in warped),
                *vectors,
                COLLECTION_NAME,
                "run.json",
                *(
                    f"{zone.folder}/{text(name)}"
                    for zone in report.zones
                    for name in sequence(zone.report.get("files"))
                ),
            ),
        )
        collection = _collection(report, (*joined, *vectors, "run.json"))
        write_json(folder / COLLECTION_NAME, collection)
        for zone in report.zones:
            item = json.loads(out.child(zone.folder).read(ITEM_NAME) or b"{}")
            told = in_collection(mapping(item), text(collection["id"]))
            content = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
            out.child(zone.folder).write(ITEM_NAME, content.encode())
        report = replace(report, seconds={**report.seconds, "join": time.monotonic() - began})
        write_json(folder / "run.json", report.to_dict())
    return report


def _used(zone: ZoneMap) -> tuple[Scene, ...]:
    return zone.plan.scenes_used(zone.spares_read)


def _mosaic(report: ZonesReport, name: str, layers: list[RasterLayer], warped: dict[str, str]) -> str:
    """The virtual raster of all zones' rasters of a name; those that it needs are added to ``warped``."""
    plans = [zone.plan for zone in report.zones]
    whole = joined_geobox([plan.cell_geobox for plan in plans], report.crs, plans[0].cell_m)
    # A picture has several pixels a cell, but of a large map: then that of every zone is shown as coarse.
    finer = min(round(plans[0].cell_m / layer.geobox.affine.a) for layer in layers)
    whole = whole.zoom_out(1 / finer)
    own: list[MosaicPart] = []
    moved: list[MosaicPart] = []
    for zone, layer in zip(report.zones, layers, strict=True):
        file = f"{zone.folder}/{name}"
        if lies_on(layer.geobox, whole):
            own.append(MosaicPart(href=file, geobox=layer.geobox))
            continue
        target: GeoBox = warped_geobox(layer.geobox, whole)
        vrt = f"{Path(name).stem}-{zone.part.name}.vrt"
        warped[vrt] = warped_vrt(MosaicPart(href=f"../{file}", geobox=layer.geobox), target, layer)
        moved.append(MosaicPart(href=f"{WARPED}/{vrt}", geobox=target))
    tags = {**dict(layers[0].tags or {}), **_joined_tags(report)}
    # Cells of the CRS's own zone come last: at the border they are shown as they are.
    return mosaic_vrt([*moved, *own], replace(layers[0], geobox=whole, tags=tags))


def _joined_tags(report: ZonesReport) -> dict[str, str]:
    """Tags in which zones may differ."""
    scenes = [scene for zone in report.zones for scene in _used(zone)]
    return {
        "TIFFTAG_COPYRIGHT": attribution(scenes),
        "plan_sha256": report.plan_sha256,
        "acquired_utc": ", ".join(sorted({scene.acquired_utc.isoformat() for scene in scenes})),
        "scenes": json.dumps(sorted({scene.id for scene in scenes})),
        "cloud_mask": ", ".join(
            sorted(
                {
                    told
                    for zone in report.zones
                    for told in (raster_layers(zone.plan, _used(zone))["landuse.tif"].tags or {})[
                        "cloud_mask"
                    ].split(", ")
                }
            )
        ),
        "zones": ", ".join(zone.part.name for zone in report.zones),
    }


def _write_warped(folder: Store, contents: dict[str, str]) -> None:
    """The virtual rasters of single zones; what an earlier run left of others is removed."""
    folder.remove()
    folder.prepare()
    for name, content in contents.items():
        folder.write(name, content.encode())


def _write_text(target: Path, content: str) -> None:
    with atomic_path(target) as partial:
        partial.write_text(content, "utf-8")


def _vectors(report: ZonesReport, out: Store, folder: Path) -> tuple[str, ...]:
    """The joined vector layers, if there are any; those of zones elsewhere are fetched for it."""
    if report.vectors is None:
        return ()
    plan = report.zones[0].plan
    suffix = SUFFIXES[report.vectors.format]
    files = [GEOPACKAGE] if suffix == ".gpkg" else [f"{layer}{suffix}" for layer in JOINED_LAYERS[:3]]
    with ExitStack() as stack:
        zones = []
        for zone in report.zones:
            there = out.child(zone.folder)
            held = there.path
            if held is None:
                held = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="landuse-")))
                for name in files:
                    there.fetch(name, held / name)
            zones.append(ZoneVectors(name=zone.part.name, folder=held, crs=zone.plan.crs))
        return write_joined_vectors(
            folder,
            zones,
            _outlines(report),
            report.classes,
            legend(plan.classes, plan.colors if plan.legend is None else plan.legend.colors),
            report.vectors,
            report.crs,
        )


def _outlines(report: ZonesReport) -> gpd.GeoDataFrame:
    """The parts of the area by zone, in longitude and latitude, with what became of each."""
    mapped = [(zone.part, zone.land_m2, zone.folder, zone.cover.valid) for zone in report.zones]
    empty = [(zone.part, zone.part.area_m2, "", 0.0) for zone in report.unmapped]
    every = sorted([*mapped, *empty], key=lambda entry: entry[0].zone)
    return gpd.GeoDataFrame(
        {
            "zone": [part.name for part, *_ in every],
            "crs": [part.crs for part, *_ in every],
            "folder": [folder for _, _, folder, _ in every],
            "area_ha": [area / 10_000 for _, area, _, _ in every],
            "classified_percent": [100 * valid for *_, valid in every],
        },
        geometry=[part.geometry for part, *_ in every],
        crs="EPSG:4326",
    )


def _collection(report: ZonesReport, files: tuple[str, ...]) -> dict[str, object]:
    scenes = [scene for zone in report.zones for scene in _used(zone)]
    moments = sorted(scene.acquired_utc for scene in scenes)
    parts = [zone.part.geometry for zone in report.zones]
    facts = CollectionFacts(
        title=report.title,
        attribution=attribution(scenes),
        plan_sha256=report.plan_sha256,
        bboxes=tuple(_bbox(shape) for shape in (surfaces(shapely.union_all(parts)), *parts)),
        first_utc=moments[0],
        last_utc=moments[-1],
        crs=report.crs,
        areas=tuple({**asdict(entry), "area_ha": entry.area_ha} for entry in report.classes),
        cover=asdict(report.cover),
    )
    return zones_collection(facts, [zone.folder for zone in report.zones], files)


def _bbox(shape: shapely.Geometry) -> tuple[float, float, float, float]:
    """West, south, east, north; over the 180th meridian west is beyond east."""
    west, south, east, north = in_one_piece(shape).bounds
    return (west, south, east - 360 if crosses_antimeridian(shape) else east, north)
