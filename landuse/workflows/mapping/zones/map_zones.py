"""An area over several UTM zones: a map of each zone by ``map_area``, then all of them joined.

Each zone's map is what ``map_area`` makes of the zone's part of the area, cut to that part. Which zones are
finished is kept in a hidden folder beside them until all are, so that an interrupted run goes on with the
others. A finished zone is made again where other scenes are found, or a local file was replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import landuse
from landuse.errors import IncompleteError, NothingFoundError, UsageError
from landuse.pipeline.cells import percent
from landuse.pipeline.search.area import Area
from landuse.pipeline.stac_json import mapping
from landuse.pipeline.write.folder import Store
from landuse.pipeline.write.stac_catalog import add_collection_to_catalog, check_catalog
from landuse.pipeline.zones import joined_crs, parts_by_zone
from landuse.redact import redact_href
from landuse.workflows.mapping.assemble import OUTPUTS
from landuse.workflows.mapping.map_area import area_of, find_scenes, map_area
from landuse.workflows.mapping.zones.join_zones import JOINED, join
from landuse.workflows.mapping.zones.report import UnmappedZone, ZoneMap, ZonesReport, zone_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from landuse.pipeline.scene import Scene
    from landuse.pipeline.zones import ZonePart
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.in_process import Cluster, Progress
    from landuse.workflows.mapping.report import MapReport
    from landuse.workflows.mapping.request import MapRequest

log = logging.getLogger(__name__)

_FINISHED = ".zones-"
"""What the name of the folder begins with that holds the plans of finished zones."""


def zone_requests(request: MapRequest, classifier: Classifier) -> tuple[tuple[ZonePart, MapRequest], ...]:
    """The parts of the area by zone, and what is asked of ``map_area`` for each.

    Raises:
        LanduseError: as ``find_scenes`` does, which tells the area where none is given.
    """
    if request.area is None:
        area = area_of(request, find_scenes(request, classifier.contract).scenes)
        name = "scenes"
    else:
        area, name = request.area.geometry, request.area.name
    return tuple(
        (
            part,
            replace(
                request,
                zones="one",
                catalog=None,  # lists the collection of all
                crs=part.crs,
                area=Area(geometry=part.geometry, clip=True, name=f"{name}-{part.name}"),
                # Only the whole can tell whether too little of it is mapped.
                min_valid_percent=0.0,
                allow_failed=True,
                overwrite=True,
            ),
        )
        for part in parts_by_zone(area)
    )


def map_any(
    request: MapRequest,
    classifier: Classifier,
    on_progress: Callable[[Progress], None] | None = None,
    cluster: Cluster | None = None,
) -> MapReport | ZonesReport:
    """Make the map, or the maps of the zones, as the request asks for. Its arguments are ``map_area``'s.

    Raises:
        LanduseError: as ``map_area`` and ``map_zones`` do.
    """
    make = map_zones if request.zones == "each" else map_area
    return make(request, classifier, on_progress, cluster)


def map_zones(
    request: MapRequest,
    classifier: Classifier,
    on_progress: Callable[[Progress], None] | None = None,
    cluster: Cluster | None = None,
) -> ZonesReport:
    """Make a map of each UTM zone of the area, and join them. Zones and blocks that are finished are kept.

    Args:
        request: what to map, with ``zones="each"``.
        classifier: the model.
        on_progress: as of ``map_area``, for each zone anew.
        cluster: as of ``map_area``.

    Raises:
        UsageError: the folder holds a map or zones of another request, and ``overwrite`` is not asked for; or
            the request is wrong.
        NothingFoundError: in no zone anything was found.
        IncompleteError: the maps are written, but less of the area than ``min_valid_percent`` is classified,
            or some of it could not be read and ``allow_failed`` is not asked for.
        LanduseError: as ``map_area`` does.
    """
    began = time.monotonic()
    out = Store.at(request.folder(classifier.weights_sha256))
    kept = out.child(f"{_FINISHED}{_key(request, classifier.weights_sha256)}")
    _refuse(out, kept, request)
    if request.catalog is not None and out.path is not None:
        check_catalog(request.catalog, out.path)
    asked = zone_requests(request, classifier)
    _refuse_strange(out, [part for part, _ in asked])
    out.prepare()
    with out.locked() as check_lock:
        _refuse(out, kept, request)  # another run may have been at work until now
        for other in _kept_folders(out):
            if other != kept:
                other.remove()
        kept.prepare()
        zones: list[ZoneMap] = []
        unmapped: list[UnmappedZone] = []
        for number, (part, of_zone) in enumerate(asked, 1):
            log.info("zone %s, %d of %d", part.name, number, len(asked))
            try:
                zones.append(_zone(out, kept, part, of_zone, classifier, on_progress, cluster))
            except NothingFoundError as error:
                log.warning("Zone %s has no map: %s", part.name, error)
                unmapped.append(UnmappedZone(part=part, reason=str(error)))
        if not zones:
            raise nothing_found([(zone.part.name, zone.reason) for zone in unmapped])
        mapped = time.monotonic()
        report = ZonesReport(
            title=request.title or _title(zones),
            created_utc=datetime.now(UTC),
            zones=tuple(zones),
            unmapped=tuple(unmapped),
            crs=joined_crs([part for part, _ in asked]),
            vectors=request.vectors,
            files=(),
            out=out.path or out.shown,
            seconds={"map": mapped - began},
        )
        report = join(report, out, check_lock)
        if request.catalog is not None and out.path is not None:
            add_collection_to_catalog(request.catalog, out.path)
        if not report.cover.failed:
            kept.remove()
    _check_complete(report, request)
    return report


def nothing_found(zones: Sequence[tuple[str, str]]) -> NothingFoundError:
    """What to raise where no zone of an area has anything to map.

    Args:
        zones: name of each, and why.
    """
    name, reason = zones[0]
    return NothingFoundError(f"Nothing was found in any of {len(zones)} UTM zones. In zone {name}: {reason}")


def _zone(
    out: Store,
    kept: Store,
    part: ZonePart,
    request: MapRequest,
    classifier: Classifier,
    on_progress: Callable[[Progress], None] | None,
    cluster: Cluster | None,
) -> ZoneMap:
    """The map of a zone: that which an earlier run made of the same scenes, or a new one."""
    there = out.child(zone_folder(part))
    name = f"{part.name}.json"
    found = find_scenes(request, classifier.contract)
    made_of = _made_of(request, found.scenes, classifier.weights_sha256)
    if (finished := _finished(kept.read(name), made_of, there, part)) is not None:
        log.info("zone %s was finished by an earlier run", part.name)
        return finished
    where: Path | str = there.path or f"{str(request.out).rstrip('/')}/{zone_folder(part)}"
    report = map_area(replace(request, out=where), classifier, on_progress, cluster, found)
    plan = replace(report.plan, blocks=()).to_public_dict()
    if not report.cover.failed:
        kept.write(name, json.dumps({"made_of": made_of, "plan": plan}).encode())
    # As it is read again: the signatures in addresses are gone, which the digest does not count.
    return ZoneMap.of(part, plan, report.to_dict())


def _made_of(request: MapRequest, scenes: Sequence[Scene], weights_sha256: str) -> str:
    """Digest of what is asked of a zone, and of the scenes found for it with versions of local files."""
    told = []
    for scene in scenes:
        assets = tuple(replace(asset, href=redact_href(asset.href)) for asset in scene.assets)
        told.append(asdict(replace(scene, assets=assets, mirrors=(), item_href=None)))
    values = [request.decisive(weights_sha256), told]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _finished(kept: bytes | None, made_of: str, there: Store, part: ZonePart) -> ZoneMap | None:
    """A zone's map that an earlier run finished; None where it is not, not whole, or made of others."""
    report = there.read("run.json")
    if kept is None or report is None:
        return None
    with suppress(ValueError, RecursionError):
        told = mapping(json.loads(kept))
        if told.get("made_of") != made_of:
            return None
        found = ZoneMap.of(part, told.get("plan"), json.loads(report))
        listed = found.report.get("files")
        held = there.names()
        if isinstance(listed, list) and all(name in held for name in listed):
            return found
    return None


def _key(request: MapRequest, weights_sha256: str) -> str:
    """What finished zones are kept under: all that is asked and decides what is in their folders."""
    decisive = {
        "version": landuse.__version__,
        "map": request.decisive(weights_sha256),
        "clip": request.area is not None and request.area.clip,
        "probabilities": request.probabilities,
        "title": request.title,
        "vectors": request.vectors and asdict(request.vectors),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _kept_folders(out: Store) -> list[Store]:
    return [out.child(name) for name in out.names() if name.startswith(_FINISHED)]


def _refuse(out: Store, kept: Store, request: MapRequest) -> None:
    """Refuse to replace maps unasked; the zones of the same request are gone on with.

    Raises:
        UsageError: a map is there, or zones of another request.
    """
    if request.overwrite:
        return
    there = out.names()
    goes_on = kept in _kept_folders(out)
    held = [name for name in dict.fromkeys((*JOINED, *OUTPUTS)) if name in there]
    if held and (not goes_on or JOINED[-1] in held):
        raise UsageError(
            f"{out} already holds {', '.join(held)}. Use --overwrite to replace it, or another --out."
        )
    others = [folder for folder in _kept_folders(out) if folder != kept]
    zones = [name for name in there if name.startswith("zone-")]
    if (others or zones) and not goes_on:
        raise UsageError(
            f"{out} holds {', '.join(zones) or 'zones'} of another request, which was not completed. Use "
            "--overwrite to discard them, or another --out, or repeat the earlier command to go on with it."
        )


def _refuse_strange(out: Store, parts: Sequence[ZonePart]) -> None:
    """Refuse a folder with zones that this area does not have: nobody else would remove them.

    Raises:
        UsageError: there are such.
    """
    strange = sorted(
        {name for name in out.names() if name.startswith("zone-")} - {zone_folder(part) for part in parts}
    )
    if strange:
        raise UsageError(
            f"{out} holds {', '.join(strange)}, and the area reaches into no such zone. Remove it, or choose "
            "another --out."
        )


def _title(zones: Sequence[ZoneMap]) -> str:
    days = sorted(
        scene.acquired_utc.date() for zone in zones for scene in zone.plan.scenes_used(zone.spares_read)
    )
    told = f"{days[0]}" if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return f"Land use, {told}"


def _check_complete(report: ZonesReport, request: MapRequest) -> None:
    """Refuse maps of which too little is classified or some could not be read.

    Raises:
        IncompleteError: they are such; the files are written all the same.
    """
    cover = report.cover
    if cover.valid * 100 < request.min_valid_percent:
        raise IncompleteError(
            report=report.to_dict(),
            message=f"Only {cover.valid:.1%} of the area in {len(report.zones)} zones could be classified, "
            f"below --min-valid {request.min_valid_percent:g} % ({cover.cloud_told}, failed "
            f"{cover.failed:.1%}, nodata {cover.nodata:.1%}). The maps are in {report.out}; "
            f"{cover.unseen_told or 'widen --date or raise --max-cloud'}.",
        )
    if cover.failed and not request.allow_failed:
        lost = [zone.part.name for zone in report.zones if zone.cover.failed]
        raise IncompleteError(
            report=report.to_dict(),
            message=f"{percent(cover.failed)} of the area is empty, since some of zone "
            f"{', '.join(lost)} could not be read; the run.json of each zone lists it. The maps are in "
            f"{report.out}. Run again with --overwrite, which reads what is missing, or "
            "accept such maps with --allow-failed.",
        )
