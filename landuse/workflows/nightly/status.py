"""How nightly runs fare: by area, for people, for JSON and for Prometheus."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.pipeline.write import atomic_path, prepare_folder
from landuse.workflows.nightly.ledger.ledger import Ledger
from landuse.workflows.nightly.ledger.records import SceneRow, SceneState, StateCounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from landuse.workflows.nightly.config import NightlyConfig
    from landuse.workflows.nightly.ledger.records import AreaStatus, MapRow

STALE_CODE = 20
"""Exit code of ``landuse nightly status`` where an area's last map is older than it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaHealth:
    """How one area fares."""

    area: str
    """Its name."""
    looked_utc: datetime | None
    """When its catalogue was last searched with success; None: never."""
    last_map: MapRow | None
    """The map of its latest period; None: there is none."""
    newest_utc: datetime | None
    """Acquisition of its newest scene that is mapped."""
    age_days: float | None
    """How long ago that was."""
    max_age_days: float | None
    """How long it may be; None: as long as it likes."""
    scenes: StateCounts
    """Its scenes by state."""
    running: int
    """Periods that a run is at."""
    failures: tuple[SceneRow, ...]
    """Its failed and parked scenes, with reasons."""

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
            "scenes": asdict(self.scenes),
            "running": self.running,
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
    """How the config's areas fare, in its order.

    Args:
        config: of the nightly runs.
        now_utc: the time.
        max_age_days: how old the newest mapped scene of an area may be; None: as the config says.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    with Ledger.at(config.ledger.get_secret_value(), create=False) as ledger:
        known = {status.area: status for status in ledger.status(now_utc)}
        return tuple(
            _health(
                area.name,
                known.get(area.name),
                ledger.latest_maps(area.name),
                now_utc,
                area.max_age_days if max_age_days is None else max_age_days,
            )
            for area in config.areas
        )


def _health(
    name: str,
    status: AreaStatus | None,
    maps: tuple[MapRow, ...],
    now_utc: datetime,
    max_age_days: float | None,
) -> AreaHealth:
    newest_utc = None if status is None else status.newest_utc
    return AreaHealth(
        area=name,
        looked_utc=None if status is None else status.looked_utc,
        last_map=maps[-1] if maps else None,
        newest_utc=newest_utc,
        age_days=None if newest_utc is None else (now_utc - newest_utc) / timedelta(days=1),
        max_age_days=max_age_days,
        scenes=StateCounts() if status is None else status.counts,
        running=0 if status is None else status.running,
        failures=() if status is None else status.failures,
    )


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
        partial.write_text(metrics(areas), "utf-8")


def metrics(areas: Iterable[AreaHealth]) -> str:
    """The status in Prometheus's text format 0.0.4.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    areas = tuple(areas)
    lines: list[str] = []

    def add(name: str, told: str, values: Iterable[tuple[dict[str, str], float | None]]) -> None:
        lines.append(f"# HELP landuse_nightly_{name} {told}")
        lines.append(f"# TYPE landuse_nightly_{name} gauge")
        for labels, value in values:
            if value is not None:
                shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
                lines.append(f"landuse_nightly_{name}{{{shown}}} {value:.17g}")

    add(
        "last_search_timestamp_seconds",
        "When the area's catalogue was last searched with success.",
        (({"area": area.area}, _unix(area.looked_utc)) for area in areas),
    )
    add(
        "last_map_timestamp_seconds",
        "When the map of the area's latest period was made.",
        (
            ({"area": area.area}, None if area.last_map is None else _unix(area.last_map.created_utc))
            for area in areas
        ),
    )
    add(
        "newest_scene_timestamp_seconds",
        "When the area's newest mapped scene was acquired.",
        (({"area": area.area}, _unix(area.newest_utc)) for area in areas),
    )
    add(
        "stale",
        "1 where the newest mapped scene is older than max_age_days allows.",
        (({"area": area.area}, float(area.stale)) for area in areas),
    )
    add(
        "scenes",
        "Scenes of the area by state.",
        (
            ({"area": area.area, "state": state.value}, float(getattr(area.scenes, state.value)))
            for area in areas
            for state in SceneState
        ),
    )
    return "\n".join(lines) + "\n"


def _unix(moment_utc: datetime | None) -> float | None:
    return None if moment_utc is None else moment_utc.timestamp()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _iso(moment_utc: datetime | None) -> str | None:
    return None if moment_utc is None else moment_utc.isoformat(timespec="seconds")
