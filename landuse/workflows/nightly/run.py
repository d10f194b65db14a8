"""The nightly run: for each area new scenes become a map, a catalogue entry and a change layer.

The ledger alone records what is done. A scene is due if the ledger does not have it as mapped, however late
the scene was published, and catalogues and change layers are made from the ledger. So the next night makes
up for a night that failed or was killed.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import shapely

from landuse.errors import ClusterError, LanduseError, NothingFoundError, OutputError, ReadError, UsageError
from landuse.legends.legend import load_legend
from landuse.pipeline.blocks.plan import cell_px
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search.area import DateRange
from landuse.pipeline.search.find_scenes import Found, order_hint
from landuse.pipeline.write.folder import Store
from landuse.redact import redact, redacted_traceback
from landuse.workflows.mapping.map_area import find_scenes, load_classifier, requested_cluster
from landuse.workflows.mapping.request import MapRequest
from landuse.workflows.nightly.ledger.ledger import Ledger
from landuse.workflows.nightly.ledger.recognise import period_of, period_start_utc, recognise, solar_shift
from landuse.workflows.nightly.ledger.records import Recipe, SceneState
from landuse.workflows.nightly.ledger.rows import NIGHT
from landuse.workflows.nightly.period import AreaContext, count_try, do_period
from landuse.workflows.nightly.publish import publish_area, update_changes
from landuse.workflows.nightly.published import check_known, damaged_maps, replaced_scenes
from landuse.workflows.nightly.report import AreaNightReport, NightReport, PeriodReport, failed_since

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from landuse.pipeline.search.area import Area
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.nightly.config import AreaConfig, NightlyConfig
    from landuse.workflows.nightly.ledger.recognise import Seen
    from landuse.workflows.nightly.ledger.records import DuePeriod, MapRow
    from landuse.workflows.nightly.report import NotCompared, Tell

log = logging.getLogger(__name__)

LAUNCH = date(2015, 6, 23)
"""Launch of Sentinel-2A: there are no scenes from before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """The options of one run that are not in its config."""

    now_utc: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When the run begins, timezone-aware UTC."""
    since: date | None = None
    """Consider periods from this day on; None: those of ``look_back_days``, and older ones that are due."""
    dry_run: bool = False
    """Only report what would be mapped; write nothing."""
    device: str = "auto"
    """What the network runs on."""
    load: Callable[[str, str], Classifier] = load_classifier
    """Makes the classifier of a model and a device."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """How often and how long requests are tried again."""
    tell: Tell = field(default=lambda area, line: None)
    """Is called with the name of an area and a line about what happens in it."""


def requested_day(day: str | None) -> date | None:
    """The day that ``--since`` names; None without it.

    Raises:
        UsageError: it is no day, or lies before Sentinel-2's launch or after today.
    """
    if day is None:
        return None
    try:
        found = date.fromisoformat(day)
    except ValueError as error:
        raise UsageError(f"--since {day!r} is no day ({error}). Give one such as 2024-06-30.") from error
    if not LAUNCH <= found <= datetime.now(UTC).date():
        raise UsageError(
            f"--since {found} is no day between Sentinel-2's launch ({LAUNCH}) and today. Give one such as "
            "2024-06-30."
        )
    return found


def run_nightly(config: NightlyConfig, night: Night | None = None, only: Sequence[str] = ()) -> NightReport:
    """Run all areas, or those named, one after the other. A failed area does not stop the others.

    Args:
        config: the areas and their settings.
        night: the options of this run.
        only: names of areas; empty: all.

    Raises:
        UsageError: the config has no area of such a name.
        KeyboardInterrupt: the run was stopped; what is finished is kept.
    """
    night = night or Night()
    areas = [config.area(name) for name in dict.fromkeys(only)] or list(config.areas)
    load = cache(night.load)  # areas share a model
    clock = Clock(night.now_utc)
    reports = []
    for area in areas:
        try:
            report = _AreaRun(config, area, night, load, clock).do()
        # Whatever goes wrong in one area, the others are mapped all the same.
        except Exception as error:
            reason = _reason(area, error)
            night.tell(area.name, f"failed: {reason}")
            report = AreaNightReport(area=area.name, error=reason)
        reports.append(report)
        gc.collect()  # what holds itself in circles, such as figures, may be large, and is looked for seldom
    return NightReport(
        began_utc=night.now_utc,
        dry_run=night.dry_run,
        areas=tuple(reports),
        seconds=(clock() - night.now_utc).total_seconds(),
    )


def run_area(config: NightlyConfig, area: AreaConfig, night: Night | None = None) -> AreaNightReport:
    """Run one area: search, map what is due, publish, compare.

    Raises:
        LanduseError: the area could not be done to its end. A failed period raises nothing: it is in the
            report. The error has no cause attached: a scheduler logs causes, and they may quote a URL with
            its token.
    """
    night = night or Night()
    try:
        return _AreaRun(config, area, night, night.load, Clock(night.now_utc)).do()
    except LanduseError as error:
        raise error from None
    except Exception as error:
        raise LanduseError(_reason(area, error)) from None


def _reason(area: AreaConfig, error: Exception) -> str:
    """Why an area failed, for people; the traceback of an unforeseen error goes to the log."""
    if isinstance(error, LanduseError):
        return str(error)
    log.error("area %s failed: %s", area.name, redacted_traceback(error))
    return redact(f"{type(error).__name__}: {error}")


class Clock:
    """The time since a night began, added to its beginning. It never goes back.

    It goes on while the machine sleeps: on waking up, a run has to see that its lease has expired, which
    other machines judge by their clocks.
    """

    def __init__(self, now_utc: datetime) -> None:
        self._now_utc = now_utc
        self._began_s = time.time(), time.monotonic()
        self._passed_s = 0.0

    def __call__(self) -> datetime:
        """The time now, timezone-aware UTC."""
        wall_s, steady_s = self._began_s
        # The wall clock may be set back; the steady one may stand still in a sleep.
        self._passed_s = max(self._passed_s, time.time() - wall_s, time.monotonic() - steady_s)
        return self._now_utc + timedelta(seconds=self._passed_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SearchResult:
    """What the search of an area found, and what is to be done about it."""

    found: Found
    seen: tuple[Seen, ...]
    new: int
    due: tuple[DuePeriod, ...]
    earlier: tuple[PeriodReport, ...]
    warnings: tuple[str, ...]


class _AreaRun:
    """One area in one night."""

    def __init__(
        self,
        config: NightlyConfig,
        area: AreaConfig,
        night: Night,
        load: Callable[[str, str], Classifier],
        clock: Clock,
    ) -> None:
        self.config = config
        self.area = area
        self.night = night
        self.clock = clock
        self.place = area.place()
        scheduler = None if config.scheduler is None else config.scheduler.get_secret_value()
        cluster = requested_cluster(scheduler, config.workers, area.model, night.device)
        # On a cluster the workers compute: this process only asks the model what it needs.
        self.classifier = load(area.model, night.device if cluster is None else "cpu")
        self.cluster = cluster and replace(cluster, load=night.load)
        self.recipe = Recipe(
            model_sha256=self.classifier.weights_sha256,
            place_sha256=_digest(self.place),
            stride_px=cell_px(self.classifier.contract, cell_m=area.cell_m, stride_px=area.stride_px),
            bands=area.bands,
            composite=area.composite,
            max_cloud=area.max_cloud,
            window_days=area.window_days,
            legend_sha256="" if area.legend is None else load_legend(area.legend).sha256,
        )

    def tell(self, line: str) -> None:
        """Log a line, and show it to whoever watches the run."""
        log.info("area %s: %s", self.area.name, line)
        self.night.tell(self.area.name, line)

    def do(self) -> AreaNightReport:
        """Search, map what is due, publish and compare."""
        root = Store.at(self.config.out.get_secret_value())
        if not self.night.dry_run:
            root.prepare()  # by default the ledger lies in it
        ledger_url = self.config.ledger.get_secret_value()
        with Ledger.at(ledger_url, create=not self.night.dry_run) as ledger:
            check_known(ledger, root.child(self.area.name), self.area.name)
            self._look_after(ledger, root)
            result = self._search(ledger, root)
            if self.night.dry_run:
                periods = tuple(
                    PeriodReport(first_day=period.first_day, state="due", scenes=period.scene_ids)
                    for period in result.due
                )
                return AreaNightReport(
                    area=self.area.name,
                    found=len(result.seen),
                    new=result.new,
                    periods=periods,
                    warnings=result.warnings,
                )
            context = self._context(root, ledger, result)
            done, error = self._do_periods(context, root, result.due)
            changes: tuple[str, ...] = ()
            not_compared: tuple[NotCompared, ...] = ()
            try:
                changes, not_compared = update_changes(ledger, root, self.area, self.tell)
                publish_area(ledger, root, self.area.name)
            except (OutputError, ReadError) as failure:  # what is mapped is reported all the same
                error = error or str(failure)
        if error:
            self.tell(f"failed: {error}")
        return AreaNightReport(
            area=self.area.name,
            found=len(result.seen),
            new=result.new,
            periods=tuple(done),
            changes=changes,
            not_compared=not_compared,
            warnings=result.warnings,
            earlier=result.earlier,
            error=error,
        )

    def _look_after(self, ledger: Ledger, root: Store) -> None:
        """See that current maps' files are as they were made; the scenes of those that are not are due."""
        folder = root.child(self.area.name)
        for row, wrong in damaged_maps(ledger, folder, self.area.name, self.night.now_utc):
            self.tell(f"map {row.map_id} is damaged and is to be made again: {wrong}")
            self._map_again(ledger, row, f"Its map is damaged: {wrong}.")

    def _map_again(self, ledger: Ledger, row: MapRow, reason: str) -> None:
        shift = solar_shift(self.place)

        def first_day(moment_utc: datetime) -> str:
            return period_of(moment_utc, shift, self.area.window_days).isoformat()

        if not self.night.dry_run:
            ledger.map_again(row, self.recipe, reason, self.clock(), first_day)

    def _do_periods(
        self, context: AreaContext, root: Store, due: Sequence[DuePeriod]
    ) -> tuple[list[PeriodReport], str]:
        """The reports of the periods, and what kept some of them from being done at all, else empty."""
        done: list[PeriodReport] = []
        stuck: list[tuple[DuePeriod, str]] = []
        of_all = False
        for period in due:
            try:
                done.append(do_period(context, period))
            except (OutputError, ClusterError) as error:  # a full disk, or this period's own trouble
                stuck.append((period, str(error)))
                of_all = of_all or isinstance(error, ClusterError)
                self.tell(f"{period.first_day} cannot be done: {error}")
                continue
            self.tell(_told(done[-1]))
            if done[-1].state == "mapped":
                with suppress(OutputError):  # in the end it is tried again, and told
                    publish_area(context.ledger, root, self.area.name)
                done += [count_try(context, one, reason) for one, reason in stuck]
                stuck = []
        if stuck and not of_all:
            with suppress(OutputError):  # else nothing can be written there, which is no period's own trouble
                context.folder.check_room()
                done += [count_try(context, one, reason) for one, reason in stuck]
                stuck = []
        return sorted(done, key=lambda report: report.first_day), stuck[0][1] if stuck else ""

    def _search(self, ledger: Ledger, root: Store) -> _SearchResult:
        """Search, enter the new scenes, and list the periods that are due."""
        area, recipe = self.area, self.recipe
        shift = solar_shift(self.place)
        before = ledger.recipe_of(area.name)
        if before is not None and before != recipe:
            self.tell(
                f"other settings than before ({recipe.changes_from(before)}): what was not mapped with these "
                f"of the last {area.look_back_days} days is mapped anew"
            )
        if not self.night.dry_run:
            ledger.park_spent(area.name, recipe, self.clock(), self.config.attempts)
        waiting = ledger.periods_to_do(area.name, recipe, self.clock(), self.config.attempts)
        first = _first_period(area, self.night, shift, [period.first_day for period in waiting])
        start_utc = period_start_utc(first, shift)
        found, hint = self._find(start_utc)
        known = ledger.scenes(area.name, recipe)
        seen = tuple(recognise(found.scenes, known, shift, area.window_days))
        sightings = [one.sighting for one in seen]
        new = len({sighting.key for sighting in sightings} - {row.key for row in known})
        self.tell(f"{len(seen)} scenes since {first}, {new} of them new")
        # An area that had a scene before lies where it should.
        warnings = (hint,) if hint and not known else ()
        for warning in warnings:
            self.tell(f"warning: {warning}")
        if not self.night.dry_run:
            listed_before = sum(row.acquired_utc >= start_utc for row in known)
            ledger.note_found(area.name, sightings, recipe, self.clock(), listed_before=listed_before)
        mapped = {row.key for row in known if row.state is SceneState.MAPPED}
        there = [one.scene for one in seen if one.sighting.key in mapped]
        folder = root.child(area.name)
        for row, what in replaced_scenes(ledger, folder, area.name, there, first.isoformat()):
            self.tell(f"map {row.map_id} is to be made again: {what}")
            self._map_again(ledger, row, f"Of its map {what}.")
        due = ledger.periods_to_do(area.name, recipe, self.clock(), self.config.attempts, sightings)
        since = "" if self.night.since is None else first.isoformat()
        due_periods = {period.first_day for period in due}
        left = [row for row in known if row.period >= since and row.period not in due_periods]
        return _SearchResult(
            found=found,
            seen=seen,
            new=new,
            due=tuple(period for period in due if period.first_day >= first.isoformat()),
            earlier=failed_since(left, self.clock() - NIGHT),
            warnings=warnings,
        )

    def _find(self, start_utc: datetime) -> tuple[Found, str]:
        """The source's scenes of the area from a time on; to find none is no failure.

        Where there are none, also a guess at why, else empty.
        """
        request = MapRequest(
            source=self.area.source,
            area=self.place,
            dates=DateRange(start_utc=start_utc, end_utc=self.night.now_utc),
            # Cloud counts over the area, not over the whole tile: that is seen when it is mapped.
            max_cloud_percent=100,
            retry=self.night.retry,
            allow_private_hosts=self.area.allow_private_hosts,
        )
        try:
            return find_scenes(request, self.classifier.contract), ""
        except NothingFoundError as error:
            log.info("area %s: %s", self.area.name, error)
            hint = "" if error.turned is None else order_hint(error.turned, "bbox: [{}]")
            return Found(scenes=(), sources=()), hint

    def _context(self, root: Store, ledger: Ledger, result: _SearchResult) -> AreaContext:
        folder = root.child(self.area.name)
        folder.prepare()
        location = self.config.out.get_secret_value().rstrip("/")
        return AreaContext(
            area=self.area,
            place=self.place,
            folder=folder,
            location=folder.path or f"{location}/{self.area.name}",
            ledger=ledger,
            classifier=self.classifier,
            cluster=self.cluster,
            found=result.found,
            seen=result.seen,
            owner=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
            clock=self.clock,
            attempts=self.config.attempts,
            lease_minutes=self.config.lease_minutes,
            retry=self.night.retry,
        )


def _digest(place: Area) -> str:
    """SHA-256 of an area's geometry, in normal form, and of whether maps are cut to it."""
    outline = shapely.to_wkb(shapely.normalize(place.geometry))
    return hashlib.sha256(outline + bytes([place.clip])).hexdigest()


def _first_period(area: AreaConfig, night: Night, shift: timedelta, due: Sequence[str]) -> date:
    """First day of the first period to search: an older one if it is due and no day is given."""
    if night.since is not None:
        noon_utc = datetime(night.since.year, night.since.month, night.since.day, 12, tzinfo=UTC)
        return period_of(noon_utc - shift, shift, area.window_days)
    looked = period_of(night.now_utc - timedelta(days=area.look_back_days), shift, area.window_days)
    return min([looked, *map(date.fromisoformat, due)])


def _told(period: PeriodReport) -> str:
    scenes = f"{len(period.scenes)} scene" + ("s" if len(period.scenes) != 1 else "")
    if period.state == "mapped":
        return (
            f"{period.first_day} mapped of {scenes} in {period.seconds:.0f} s, {period.valid or 0:.1%} valid"
        )
    return f"{period.first_day} {period.state} ({scenes}): {period.reason}"
