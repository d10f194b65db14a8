"""One window of one area: leased, mapped into a folder of its own, settled in the ledger.

A run that is killed leaves a folder, whole or not, and a lease. The next one, once the lease has lapsed,
goes on with the folder: what lies in it is named by all that decides the map.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import shapely

from landuse.errors import (
    ClusterError,
    IncompleteError,
    LanduseError,
    LeaseLostError,
    LedgerError,
    NothingFoundError,
    OutputError,
    ReadError,
)
from landuse.pipeline.acquisitions import is_outdated, sighting_of
from landuse.pipeline.fields import mapping, number, sequence, text
from landuse.pipeline.ledger_records import NewMap
from landuse.redact import redact
from landuse.workflows.map_area import map_area
from landuse.workflows.map_request import MapRequest
from landuse.workflows.nightly_report import WindowReport
from landuse.workflows.publish import span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from landuse.pipeline.acquisitions import Seen
    from landuse.pipeline.area import Area
    from landuse.pipeline.failover import Found
    from landuse.pipeline.fields import Json
    from landuse.pipeline.ledger import Ledger
    from landuse.pipeline.ledger_records import DueWindow, Lease, Sighting
    from landuse.pipeline.retry import RetryPolicy
    from landuse.pipeline.store import Store
    from landuse.workflows.block import PatchClassifier
    from landuse.workflows.nightly_config import AreaConfig
    from landuse.workflows.run_blocks import Cluster, Progress

log = logging.getLogger(__name__)

RUN_NAME = "run.json"
"""Tells that a map's other files are whole."""

MAP_FOLDER = re.compile(r"\d{4}-\d\d-\d\d-[0-9a-f]{12}")
"""Names of the maps' folders: their window and a digest."""

RENEWALS = 4
"""A lease is renewed so many times before it would lapse."""

_UNLISTED = "The source does not list it any more."
_OUTDATED = "The source lists a newer processing baseline of it."
_SPARE = "The clearer scenes of its window show all that it shows."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """All that the windows of an area share."""

    area: AreaConfig
    """Its settings."""
    place: Area
    """Where it is."""
    folder: Store
    """Where its maps lie."""
    location: Path | str
    """The same, as a path or an fsspec URL."""
    ledger: Ledger
    """What is done."""
    classifier: PatchClassifier
    """The model."""
    cluster: Cluster | None
    """Where blocks are done; None: in this process."""
    found: Found
    """What the source has tonight."""
    seen: tuple[Seen, ...]
    """Its scenes, and what the ledger calls them."""
    owner: str
    """This run."""
    clock: Callable[[], datetime]
    """The time in UTC."""
    attempts: int
    """Nights on which a scene is tried."""
    lease_minutes: int
    """How long a run that died keeps others from its work."""
    retry: RetryPolicy
    """Patience with imagery."""


def do_window(job: Job, window: DueWindow) -> WindowReport:
    """Map a window, unless another run is at it.

    Raises:
        OutputError, ClusterError, LedgerError: what concerns every window. None of its tries is used up.
    """
    lease = job.ledger.lease(
        window, job.owner, now_utc=job.clock(), minutes=job.lease_minutes, attempts=job.attempts
    )
    ids = tuple(key.scene_id for key in window.scenes)
    if lease is None:
        return WindowReport(window=window.window, state="left", scenes=ids, reason="Another run has it.")
    began = time.monotonic()
    try:
        try:
            with _renewed(job, lease) as check_held:
                return _Window(job, lease, check_held).settle()
        except (LeaseLostError, OutputError, ClusterError, LedgerError):
            raise
        # Whatever it is that one window's imagery brings about, the next one's may be sound.
        except Exception as error:
            reason = str(error)
            if not isinstance(error, LanduseError):
                reason = redact(f"{type(error).__name__}: {error}")
                log.exception("area %s: window %s failed", job.area.name, window.window)
            seconds = time.monotonic() - began
            job.ledger.settle_failed(
                lease, reason, now_utc=job.clock(), attempts=job.attempts, seconds=seconds
            )
            return WindowReport(
                window=window.window, state="failed", scenes=ids, reason=reason, seconds=seconds
            )
    except LeaseLostError as error:
        return WindowReport(window=window.window, state="left", scenes=ids, reason=str(error))
    except (KeyboardInterrupt, OutputError, ClusterError, LedgerError):
        job.ledger.release(lease)
        raise


@contextmanager
def _renewed(job: Job, lease: Lease) -> Iterator[Callable[[], None]]:
    """Renew a lease as long as the block lasts. Yields what raises ``LeaseLostError`` once that failed."""
    ended = threading.Event()
    lost: list[LeaseLostError] = []

    def renew() -> None:
        while not ended.wait(job.lease_minutes * 60 / RENEWALS):
            try:
                job.ledger.renew(lease, now_utc=job.clock(), minutes=job.lease_minutes)
            except LeaseLostError as error:
                lost.append(error)
                return
            except LedgerError as error:  # it may be back before the lease lapses
                log.warning("area %s: %s", job.area.name, error)

    def check_held() -> None:
        if lost:
            raise lost[0]

    thread = threading.Thread(target=renew, name=f"lease-{lease.on.window}", daemon=True)
    thread.start()
    try:
        yield check_held
    finally:
        ended.set()
        thread.join()


class _Window:
    """A leased window on its way from scenes to the ledger."""

    def __init__(self, job: Job, lease: Lease, check_held: Callable[[], None]) -> None:
        self.job = job
        self.lease = lease
        self.check_held = check_held
        self.began = time.monotonic()
        self.seen = [one for one in job.seen if one.sighting.window == lease.on.window]
        listed = {one.sighting.key for one in self.seen}
        rows = {row.key: row for row in job.ledger.scenes(job.area.name, lease.on.model_sha256)}
        self.due = [rows[key] for key in lease.on.scenes]
        self.unlisted = [row for row in self.due if row.key not in listed]
        self.outdated = {sighting_of(row): _OUTDATED for row in self.unlisted if is_outdated(row, self.seen)}
        self.map_id = _map_id(job, lease.on.window, self.seen)

    def settle(self) -> WindowReport:
        """Map the window and enter what became of it."""
        known = {row.map_id for row in self.job.ledger.all_maps(self.job.area.name)}
        if not self.seen or self.map_id in known:
            # What is listed is in its map. Catalogues have gaps: what is not is waited for.
            if len(self.outdated) < len(self.unlisted) or not self.unlisted:
                raise ReadError(_UNLISTED)
            return self._skip(self.outdated, _OUTDATED)
        try:
            report = self._report()
        except NothingFoundError as error:
            reason = str(error)
            return self._skip(self.outdated | {one.sighting: reason for one in self.seen}, reason)
        self.check_held()
        valid = number(mapping(report["cover"]).get("valid")) or 0.0
        mapped, skipped = _sorted_out(self.seen, report, self.job.area.max_cloud)
        self.job.ledger.settle_mapped(
            self.lease,
            NewMap(
                map_id=self.map_id,
                created_utc=self.job.clock(),
                path=f"{self.job.area.name}/{self.map_id}",
                valid=valid,
            ),
            mapped,
            self.outdated | skipped,
            now_utc=self.job.clock(),
            seconds=self.seconds,
        )
        self._sweep(known | {self.map_id})
        return WindowReport(
            window=self.lease.on.window,
            state="mapped",
            scenes=tuple(sighting.scene_id for sighting in mapped),
            map_id=self.map_id,
            valid=valid,
            seconds=self.seconds,
        )

    @property
    def seconds(self) -> float:
        """Since the window was begun."""
        return time.monotonic() - self.began

    def _report(self) -> Json:
        """What ``run.json`` says of the window's map, which is made unless a run that died had finished it.

        Raises:
            NothingFoundError: none of the scenes can be used.
            ReadError: pixels are missing, and another night may have them.
        """
        folder = self.job.folder.child(self.map_id)
        content = folder.read(RUN_NAME)
        report: Json = mapping(json.loads(content)) if content is not None else {}
        if content is None or _missing(report):
            report = self._mapped()
        missing = _missing(report)
        last_try = max(row.attempts for row in self.due) >= self.job.attempts
        if missing and not last_try:
            first = missing[0]
            raise ReadError(
                f"{len(missing)} reads failed, such as {text(first.get('band'))} of "
                f"{text(first.get('scene_id'))!r}: {text(first.get('reason'))}"
            )
        return report

    def _mapped(self) -> Json:
        job = self.job
        scenes = tuple(one.scene for one in self.seen)
        location = job.location
        request = MapRequest(
            source=job.area.source,
            area=job.place,
            dates=None,
            out=f"{location}/{self.map_id}" if isinstance(location, str) else location / self.map_id,
            stride_px=job.area.stride_px,
            max_cloud_percent=job.area.max_cloud,
            composite=job.area.composite,
            probabilities=True,  # for the comparison with other nights
            min_valid_percent=job.area.min_valid,
            title=f"Land use of {job.area.name}, {span(scenes)}",
            overwrite=True,  # what is there is of a run that died, or lacks pixels
            retry=job.retry,
        )

        def on_progress(progress: Progress) -> None:
            self.check_held()

        try:
            report = map_area(
                request, job.classifier, on_progress, job.cluster, replace(job.found, scenes=scenes)
            )
        except IncompleteError as error:
            return error.report
        return report.to_dict()

    def _skip(self, skipped: Mapping[Sighting, str], reason: str) -> WindowReport:
        self.check_held()
        self.job.ledger.settle_skipped(self.lease, skipped, now_utc=self.job.clock(), seconds=self.seconds)
        return WindowReport(
            window=self.lease.on.window,
            state="skipped",
            scenes=tuple(sighting.scene_id for sighting in skipped),
            reason=reason,
            seconds=self.seconds,
        )

    def _sweep(self, known: set[str]) -> None:
        """Remove what runs that died left of maps of this window that are made otherwise by now."""
        for name in self.job.folder.names():
            is_ours = MAP_FOLDER.fullmatch(name) and name.startswith(self.lease.on.window)
            if is_ours and name not in known:
                self.job.folder.child(name).remove()


def _map_id(job: Job, window: str, seen: list[Seen]) -> str:
    """What a map is called: its window, and a digest of all that decides it."""
    decisive = (
        job.area.name,
        shapely.to_wkb(job.place.geometry, hex=True),
        sorted((one.scene.provider, one.scene.id, one.scene.baseline or "") for one in seen),
        job.classifier.weights_sha256,
        [job.area.stride_px, job.area.composite, job.area.max_cloud],
    )
    return f"{window}-{hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]}"


def _missing(report: Json) -> list[Json]:
    """Reads that failed for good and left pixels missing; masks are not among them."""
    failures = (mapping(entry) for entry in sequence(report.get("failures")))
    return [entry for entry in failures if entry.get("replaced_by") is None and entry.get("block")]


def _sorted_out(
    seen: list[Seen], report: Json, max_cloud: float
) -> tuple[list[Sighting], dict[Sighting, str]]:
    """The scenes in a map, and those that are not with the reason."""
    mapped: list[Sighting] = []
    skipped: dict[Sighting, str] = {}
    used = {text(entry.get("id")): entry for entry in map(mapping, sequence(report.get("scenes")))}
    left_out = {text(entry.get("id")): entry for entry in map(mapping, sequence(report.get("left_out")))}
    for one in seen:
        entry = used.get(one.scene.id)
        if entry is None:
            view = mapping(left_out.get(one.scene.id, {}).get("area"))
            skipped[one.sighting] = _why(view, one.scene.cloud_percent, max_cloud)
        elif entry.get("spare"):
            skipped[one.sighting] = _SPARE
        else:
            mapped.append(one.sighting)
    return mapped, skipped


def _why(view: Json, stated_percent: float | None, max_cloud: float) -> str:
    """Why a scene was left out."""
    if view and not number(view.get("seen_percent")):
        return "It shows nothing of the area."
    cloud = number(view.get("cloud_percent")) if view else stated_percent
    return f"{cloud or 0:.1f} % cloud over the area, above max_cloud {max_cloud:g}."
