"""The status of nightly runs, area by area: for people, as JSON and for Prometheus."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from landuse.errors import OutputError, UsageError
from landuse.pipeline.write.folder import Store, atomic_path, prepare_folder
from landuse.workflows.nightly.ledger.ledger import Ledger
from landuse.workflows.nightly.ledger.records import AreaStatus
from landuse.workflows.nightly.published import damaged_maps, latest_refusal, told_unknown, unknown_maps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from landuse.workflows.nightly.config import AreaConfig, NightlyConfig

STALE_CODE = 20
"""Exit code of ``landuse nightly status`` where an area's last map is older than it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaHealth(AreaStatus):
    """The status of one area of a config, with the age of its newest mapped scene."""

    age_days: float | None = None
    """How long ago its newest mapped scene was acquired; None: it has none."""
    max_age_days: float | None = None
    """How old it may be; None: any age will do."""
    warnings: tuple[str, ...] = ()
    """What is wrong with its published maps, with what its source lists, or with the latest two maps: that
    they cannot be compared."""

    @property
    def stale(self) -> bool:
        """Whether its last map is older than it may be, or missing."""
        if self.max_age_days is None:
            return False
        return self.age_days is None or self.age_days > self.max_age_days

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        last = self.last_map
        return {
            "area": self.area,
            "looked_utc": _iso(self.looked_utc),
            "last_map": last
            and {
                "window": last.period,
                "path": last.path,
                "created_utc": _iso(last.created_utc),
                "valid": last.valid,
            },
            "newest_scene_utc": _iso(self.newest_utc),
            "age_days": None if self.age_days is None else round(self.age_days, 3),
            "max_age_days": self.max_age_days,
            "stale": self.stale,
            "scenes": dict(self.scenes),
            "running": self.running,
            "warnings": self.warnings,
            "failures": [
                {
                    "scene_id": row.scene_id,
                    "baseline": row.baseline,
                    "window": row.period,
                    "state": row.state.value,
                    "attempts": row.attempts,
                    "reason": row.reason,
                    "updated_utc": _iso(row.updated_utc),
                }
                for row in self.failures
            ],
        }


def nightly_status(
    config: NightlyConfig, now_utc: datetime, max_age_days: float | None = None
) -> tuple[AreaHealth, ...]:
    """The status of the config's areas, in the order of the config.

    Args:
        config: of the nightly runs.
        now_utc: the time.
        max_age_days: how old the newest mapped scene of an area may be; None: as the config says.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    with Ledger.at(config.ledger.get_secret_value(), create=False) as ledger:
        known = {status.area: status for status in ledger.status(now_utc)}
        warnings = {area.name: _warnings(ledger, config, area) for area in config.areas}
    areas = []
    for area in config.areas:
        status = known.get(area.name, AreaStatus(area=area.name))
        age = None if status.newest_utc is None else now_utc - status.newest_utc
        areas.append(
            AreaHealth(
                **{entry.name: getattr(status, entry.name) for entry in fields(status)},
                age_days=None if age is None else age / timedelta(days=1),
                max_age_days=area.max_age_days if max_age_days is None else max_age_days,
                warnings=(*_told_search(status), *warnings[area.name]),
            )
        )
    return tuple(areas)


def _told_search(status: AreaStatus) -> list[str]:
    if status.never_listed:
        return ["no scene was ever found: check where the area lies (its bbox or file) and its source"]
    if status.empty_utc is None:
        return []
    return [
        f"the source has listed nothing since {status.empty_utc:%Y-%m-%d %H:%M} UTC; of the same days it "
        f"listed {status.lost} scenes before"
    ]


def _warnings(ledger: Ledger, config: NightlyConfig, area: AreaConfig) -> list[str]:
    """What is wrong with an area's published maps, by the names and sizes of their files.

    That the latest two are not compared is told too.
    """
    try:
        folder = Store.at(config.out.get_secret_value()).child(area.name)
        unknown = unknown_maps(ledger, folder, area.name)
        damaged = list(damaged_maps(ledger, folder, area.name))
        refusal = None if area.change is None else latest_refusal(folder, area.name)
    except (OutputError, UsageError) as error:  # whoever watches need not see the maps
        return [str(error)]
    told = [told_unknown(ledger, folder, unknown)] if unknown else []
    return [
        *told,
        *(f"map {row.map_id} is damaged, the next run makes it again: {why}" for row, why in damaged),
        *([] if refusal is None else [str(refusal)]),
    ]


def write_own_metrics(config: NightlyConfig) -> None:
    """Write the config's ``metrics_file``, where it names one.

    Raises:
        LedgerError: the ledger cannot be read.
        OutputError: it cannot be written.
    """
    if config.metrics_file is not None:
        path = Path(config.out.get_secret_value()) / config.metrics_file
        write_metrics(path, nightly_status(config, datetime.now(UTC)))


def write_metrics(path: Path, areas: Iterable[AreaHealth]) -> None:
    """Write what Prometheus's node exporter reads from its textfile folder, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    prepare_folder(path.absolute().parent)
    with atomic_path(path) as partial:
        partial.write_bytes(metrics(areas))


def metrics(areas: Iterable[AreaHealth]) -> bytes:
    """The status in Prometheus's text format, UTF-8.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    registry = CollectorRegistry()

    def gauge(name: str, told: str, labels: tuple[str, ...] = ("area",)) -> Gauge:
        return Gauge(f"landuse_nightly_{name}", told, labels, registry=registry)

    searched = gauge(
        "last_search_timestamp_seconds", "When the area's catalogue was last searched with success."
    )
    made = gauge("last_map_timestamp_seconds", "When the map of the area's latest period was made.")
    newest = gauge("newest_scene_timestamp_seconds", "When the area's newest mapped scene was acquired.")
    stale = gauge("stale", "1 where the newest mapped scene is older than max_age_days allows.")
    scenes = gauge("scenes", "Scenes of the area by state.", ("area", "state"))
    warnings = gauge("warnings", "What is wrong with the area's maps or its source, as `status` tells.")
    for area in areas:
        moments = {
            searched: area.looked_utc,
            made: None if area.last_map is None else area.last_map.created_utc,
            newest: area.newest_utc,
        }
        for timestamp, moment_utc in moments.items():
            if moment_utc is not None:  # else the area has no sample of it
                timestamp.labels(area.area).set(moment_utc.timestamp())
        stale.labels(area.area).set(area.stale)
        warnings.labels(area.area).set(len(area.warnings))
        for state, count in area.scenes.items():
            scenes.labels(area.area, state).set(count)
    return generate_latest(registry)


def _iso(moment_utc: datetime | None) -> str | None:
    return None if moment_utc is None else moment_utc.isoformat(timespec="seconds")
