"""One period of one area: it is leased, mapped, and entered in the ledger with what became of its scenes.

A run that is killed leaves a lease; another run takes the period once the lease has expired. It continues
with the files that the killed run left, because the folder's name is a digest of all that decides the map.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from landuse.errors import (
    BusyError,
    ClusterError,
    IncompleteError,
    LanduseError,
    LeaseLostError,
    LedgerError,
    NothingFoundError,
    OutputError,
    ReadError,
)
from landuse.legends.legend import load_legend
from landuse.pipeline.stac_json import mapping, number, sequence, text
from landuse.pipeline.write.stac_item import ITEM_NAME
from landuse.redact import redact, redacted_traceback
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest
from landuse.workflows.nightly.ledger.recognise import is_outdated
from landuse.workflows.nightly.ledger.records import NewMap, SceneState
from landuse.workflows.nightly.published import MAP_FOLDER, RUN_NAME, damage, is_published, read_json
from landuse.workflows.nightly.report import PeriodReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from landuse.pipeline.remote.retry import RetryPolicy
    from landuse.pipeline.search.area import Area
    from landuse.pipeline.search.find_scenes import Found
    from landuse.pipeline.stac_json import Json
    from landuse.pipeline.write.folder import Store
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.in_process import Cluster, Progress
    from landuse.workflows.nightly.config import AreaConfig
    from landuse.workflows.nightly.ledger.ledger import Ledger
    from landuse.workflows.nightly.ledger.recognise import Seen
    from landuse.workflows.nightly.ledger.records import DuePeriod, Lease, Sighting

log = logging.getLogger(__name__)

RENEWALS = 4
"""How often a lease is renewed in the time after which it would expire."""

_TAKEN = "Another run has it."
_UNLISTED = "The source does not list it any more."
_LOST = "The source does not list {!r} any more, which is in the period's map: a new map would lose it."
_OUTDATED = "The source lists a newer processing baseline of it."
_SPARE = "The clearer scenes of its period show all that it shows."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AreaContext:
    """What all periods of an area need in one night."""

    area: AreaConfig
    """The area's settings."""
    place: Area
    """The area's geometry."""
    folder: Store
    """The folder of the area's maps."""
    location: Path | str
    """The same folder, as a path or an fsspec URL."""
    ledger: Ledger
    """The record of what is mapped."""
    classifier: Classifier
    """The model."""
    cluster: Cluster | None
    """The workers that classify blocks; None: this process does."""
    found: Found
    """What the source has tonight."""
    seen: tuple[Seen, ...]
    """The found scenes, each with its name in the ledger."""
    owner: str
    """Names this run in leases; no two runs have the same name."""
    clock: Callable[[], datetime]
    """The time in UTC."""
    attempts: int
    """On how many nights a scene is tried before it is parked."""
    lease_minutes: int
    """How long a lease lasts: so long a run that died keeps other runs from its period."""
    retry: RetryPolicy
    """How often and how long reads are tried again."""


def do_period(context: AreaContext, period: DuePeriod) -> PeriodReport:
    """Map a period, unless another run holds it.

    Raises:
        OutputError, ClusterError, LedgerError: this may concern every period; no try is counted.
    """
    lease = _lease(context, period)
    if lease is None:
        return _left(period, _TAKEN)
    began = time.monotonic()
    try:
        try:
            with _renewed(context, lease) as check_held:
                return PeriodWork(context, lease, check_held).settle()
        except (LeaseLostError, OutputError, ClusterError, LedgerError):
            raise
        # Whatever goes wrong with one period's imagery, the next one's may be sound.
        except Exception as error:
            reason = str(error)
            if not isinstance(error, LanduseError):
                reason = redact(f"{type(error).__name__}: {error}")
                told = (context.area.name, period.first_day, redacted_traceback(error))
                log.error("area %s: period %s failed: %s", *told)
            return _failed(context, lease, reason, time.monotonic() - began)
    except LeaseLostError as error:
        return _left(period, str(error))
    except BusyError as error:  # a run whose lease has lapsed is still at it
        context.ledger.release(lease)
        return _left(period, str(error))
    except (KeyboardInterrupt, OutputError, ClusterError, LedgerError):
        context.ledger.release(lease)
        raise


def count_try(context: AreaContext, period: DuePeriod, reason: str) -> PeriodReport:
    """Count a try of a period that was given back untried, and enter that it failed.

    Other periods could be done meanwhile: so the reason concerns this one alone.
    """
    lease = _lease(context, period)
    return _left(period, _TAKEN) if lease is None else _failed(context, lease, reason, 0.0)


def _lease(context: AreaContext, period: DuePeriod) -> Lease | None:
    return context.ledger.lease(
        period,
        context.owner,
        now_utc=context.clock(),
        minutes=context.lease_minutes,
        attempts=context.attempts,
    )


def _left(period: DuePeriod, reason: str) -> PeriodReport:
    return PeriodReport(first_day=period.first_day, state="left", scenes=period.scene_ids, reason=reason)


def _failed(context: AreaContext, lease: Lease, reason: str, seconds: float) -> PeriodReport:
    now_utc = context.clock()
    context.ledger.settle_failed(lease, reason, now_utc=now_utc, attempts=context.attempts, seconds=seconds)
    return PeriodReport(
        first_day=lease.on.first_day,
        state="failed",
        scenes=lease.on.scene_ids,
        reason=reason,
        seconds=seconds,
    )


@contextmanager
def _renewed(context: AreaContext, lease: Lease) -> Iterator[Callable[[], None]]:
    """Renew a lease while the block lasts. Yields a call that raises ``LeaseLostError`` if it is lost."""
    ended = threading.Event()
    lost: list[LeaseLostError] = []

    def renew() -> None:
        while not ended.wait(context.lease_minutes * 60 / RENEWALS):
            try:
                context.ledger.renew(lease, now_utc=context.clock(), minutes=context.lease_minutes)
            except LeaseLostError as error:
                lost.append(error)
                return
            except LedgerError as error:  # it may be back before the lease lapses
                log.warning("area %s: %s", context.area.name, error)

    def check_held() -> None:
        if lost:
            raise lost[0]

    thread = threading.Thread(target=renew, name=f"lease-{lease.on.first_day}", daemon=True)
    thread.start()
    try:
        yield check_held
    finally:
        ended.set()
        thread.join()


class PeriodWork:
    """The work on one leased period: from its scenes to its outcome in the ledger."""

    def __init__(self, context: AreaContext, lease: Lease, check_held: Callable[[], None]) -> None:
        self.context = context
        self.lease = lease
        self.check_held = check_held
        self.began = time.monotonic()
        self.seen = [one for one in context.seen if one.sighting.period == lease.on.first_day]
        # An older baseline than what is mapped goes by the mapped one's name, but is not it.
        listed = {
            one.sighting.key for one in self.seen if (one.scene.baseline or "") >= one.sighting.baseline
        }
        rows = {
            row.key: row
            for row in context.ledger.scenes(context.area.name, lease.on.recipe)
            if row.period == lease.on.first_day
        }
        self.due = [rows[key] for key in lease.on.scenes]
        self.mapped = [row for row in rows.values() if row.state is SceneState.MAPPED]
        self.unlisted = [row for row in self.due if row.key not in listed]
        self.outdated = {row.sighting: _OUTDATED for row in self.unlisted if is_outdated(row, self.seen)}
        # What is due though it is in a map is to be mapped again: that map's files are damaged, or it is
        # whole, and the scene's own were replaced.
        self.again = [row for row in self.due if row.map_id is not None]
        whole = {name for name in {row.map_id for row in self.again if row.map_id} if not self._damage(name)}
        self.whole = [row for row in self.again if row.map_id in whole]
        lost = [row for row in self.mapped + self.again if row.key not in listed]
        self.lost = [row for row in lost if not is_outdated(row, self.seen)]
        self.last_try = max(row.attempts for row in self.due) >= context.attempts
        self.map_id = _map_id(lease, self.seen)

    def settle(self) -> PeriodReport:
        """Map the period and enter the outcome.

        Raises:
            ReadError: the source does not list all scenes of the period's map, or something cannot be read.
            LeaseLostError: another run may have the period.
        """
        lost = [row for row in self.lost if row in self.mapped + self.whole or not self.last_try]
        if lost:
            raise ReadError(_LOST.format(lost[0].scene_id))
        done = self._known_maps() - {row.map_id for row in self.again}
        if not self.seen or self.map_id in done:
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
        self._sweep()
        valid = number(mapping(report["cover"]).get("valid")) or 0.0
        mapped, skipped = _sorted_out(self.seen, report, self.context.area.max_cloud)
        self.context.ledger.settle_mapped(
            self.lease,
            NewMap(
                map_id=self.map_id,
                created_utc=self.context.clock(),
                path=f"{self.context.area.name}/{self.map_id}",
                valid=valid,
            ),
            mapped,
            self.outdated | skipped,
            now_utc=self.context.clock(),
            seconds=self.seconds,
        )
        return PeriodReport(
            first_day=self.lease.on.first_day,
            state="mapped",
            scenes=tuple(sighting.scene_id for sighting in mapped),
            map_id=self.map_id,
            valid=valid,
            seconds=self.seconds,
        )

    @property
    def seconds(self) -> float:
        """How long the work has taken so far."""
        return time.monotonic() - self.began

    def _report(self) -> Json:
        """The content of ``run.json``; the map is made unless a run that died had finished it.

        Raises:
            NothingFoundError: none of the scenes can be used.
            ReadError: something could not be read, and there is another night to try it. On the last try
                it is raised only if the period's present map has what is missing.
        """
        folder = self.context.folder.child(self.map_id)
        report = read_json(folder, RUN_NAME) or {}
        if not report or _missing(report) or self._damage(self.map_id):
            report = self._mapped()
        missing = _missing(report)
        mapped = {row.key for row in self.mapped + self.whole}
        in_map = {one.scene.id for one in self.seen if one.sighting.key in mapped}
        lost = [entry for entry in missing if text(entry.get("scene_id")) in in_map]
        if lost or (missing and not self.last_try):
            first = (lost or missing)[0]
            raise ReadError(
                f"{len(missing)} reads failed, such as {text(first.get('band'))} of "
                f"{text(first.get('scene_id'))!r}: {text(first.get('reason'))}"
            )
        return report

    def _mapped(self) -> Json:
        context = self.context
        scenes = tuple(one.scene for one in self.seen)
        location = context.location
        request = MapRequest(
            source=context.area.source,
            area=context.place,
            dates=None,
            out=f"{location}/{self.map_id}" if isinstance(location, str) else location / self.map_id,
            cell_m=context.area.cell_m,
            stride_px=context.area.stride_px,
            legend=None if context.area.legend is None else load_legend(context.area.legend),
            bands=context.area.bands,
            max_cloud_percent=context.area.max_cloud,
            composite=context.area.composite,
            probabilities=True,  # for the comparison with other nights
            min_valid_percent=context.area.min_valid,
            title=f"Land use of {context.area.name}, {_days(self.lease)}",
            overwrite=True,  # what is there is of a run that died, or lacks pixels
            retry=context.retry,
            allow_private_hosts=context.area.allow_private_hosts,
        )

        def on_progress(progress: Progress) -> None:
            self.check_held()

        try:
            report = map_area(
                request,
                context.classifier,
                on_progress,
                context.cluster,
                replace(context.found, scenes=scenes),
            )
        except IncompleteError as error:
            return error.report
        return report.to_dict()

    def _skip(self, skipped: Mapping[Sighting, str], reason: str) -> PeriodReport:
        self.check_held()
        self.context.ledger.settle_skipped(
            self.lease, skipped, now_utc=self.context.clock(), seconds=self.seconds
        )
        return PeriodReport(
            first_day=self.lease.on.first_day,
            state="skipped",
            scenes=tuple(sighting.scene_id for sighting in skipped),
            reason=reason,
            seconds=self.seconds,
        )

    def _damage(self, map_id: str) -> str:
        return damage(self.context.folder.child(map_id), digests=True)

    def _known_maps(self) -> set[str]:
        return {row.map_id for row in self.context.ledger.all_maps(self.context.area.name)}

    def _sweep(self) -> None:
        """Remove unfinished maps of this period that runs left when they died.

        While this run holds the lease no other run works on the period, whatever its settings: so every
        finished map is in the ledger. Published maps stay even if the ledger does not have them, since it
        may be a new one after a loss.
        """
        known = self._known_maps() | {self.map_id}
        for name in self.context.folder.names():
            is_ours = MAP_FOLDER.fullmatch(name) and name.startswith(self.lease.on.first_day)
            folder = self.context.folder.child(name)
            if not is_ours or name in known or not folder.names() or _may_be_published(folder):
                continue
            with suppress(BusyError), folder.locked():  # else a run whose lease has lapsed is still at it
                folder.remove()


def _days(lease: Lease) -> str:
    """The period's day, or its first and last day, for a title."""
    first = date.fromisoformat(lease.on.first_day)
    last = first + timedelta(days=lease.on.recipe.window_days - 1)
    return f"{first}" if first == last else f"{first} to {last}"


def _map_id(lease: Lease, seen: list[Seen]) -> str:
    """The name of a map: the period's first day, and a digest of all that decides the map."""
    scenes = sorted((one.scene.provider, one.scene.id, one.scene.baseline or "") for one in seen)
    decided = [lease.on.area, lease.on.recipe.digest, scenes]
    # Of files on this machine, which version; a scene elsewhere has none.
    versions = sorted(
        (one.scene.id, asset.band, asset.fingerprint)
        for one in seen
        for asset in one.scene.assets
        if asset.fingerprint
    )
    decisive = json.dumps([*decided, versions] if versions else decided)
    return f"{lease.on.first_day}-{hashlib.sha256(decisive.encode()).hexdigest()[:12]}"


def _may_be_published(folder: Store) -> bool:
    """Whether a map's item was given a version, or cannot be read."""
    item = read_json(folder, ITEM_NAME)
    return item is not None and (not item or is_published(item))


def _missing(report: Json) -> list[Json]:
    """The failed reads that no other source replaced: of pixels, or of a scene's cloud mask."""
    failures = (mapping(entry) for entry in sequence(report.get("failures")))
    return [entry for entry in failures if entry.get("replaced_by") is None]


def _sorted_out(
    seen: list[Seen], report: Json, max_cloud: float
) -> tuple[list[Sighting], dict[Sighting, str]]:
    """The scenes in a map, and the scenes left out, each with the reason."""
    mapped: list[Sighting] = []
    skipped: dict[Sighting, str] = {}
    used = {text(entry.get("id")): entry for entry in map(mapping, sequence(report.get("scenes")))}
    left_out = {text(entry.get("id")): entry for entry in map(mapping, sequence(report.get("left_out")))}
    unread = {text(entry.get("scene_id")): text(entry.get("reason")) for entry in _missing(report)}
    for one in seen:
        entry = used.get(one.scene.id)
        if entry is None:
            view = mapping(left_out.get(one.scene.id, {}).get("area"))
            why = _why(view, one.scene.cloud_percent, max_cloud)
            failure = unread.get(one.scene.id)
            skipped[one.sighting] = why if failure is None else f"{why} Its mask cannot be read: {failure}"
        elif not entry.get("used"):
            skipped[one.sighting] = _SPARE
        else:
            mapped.append(one.sighting)
    return mapped, skipped


def _why(view: Json, stated_percent: float | None, max_cloud: float) -> str:
    """Why a scene was left out."""
    if not view:
        return f"{stated_percent or 0:.1f} % cloud over its tile, above max_cloud {max_cloud:g}."
    if not number(view.get("seen_percent")):
        return "It shows nothing of the area."
    return (
        f"{number(view.get('cloud_percent')) or 0:.1f} % cloud over the area, above max_cloud {max_cloud:g}."
    )
