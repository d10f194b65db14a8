"""What a nightly run did, for people and machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from landuse.workflows.nightly.ledger.records import SceneState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from landuse.workflows.nightly.ledger.records import SceneRow

PeriodState = Literal["due", "mapped", "skipped", "failed", "left"]

FAILED_CODE = 10
"""Exit code of a run in which areas failed, to which their number is added."""

MOST_FAILED = 89
"""More failed areas than this count as this many, so that the exit code stays below 130 (Ctrl-C)."""

Tell: TypeAlias = Callable[[str, str], None]
"""Is called with the name of an area and a line for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodReport:
    """What became of one period tonight."""

    first_day: str
    """Its first day."""
    state: PeriodState
    """``mapped``; ``skipped``: none of its scenes can be used; ``failed``: to be tried another night;
    ``left`` to another run; or, of a dry run, ``due``."""
    scenes: tuple[str, ...]
    """Ids of its scenes."""
    map_id: str | None = None
    """Its map, where it was mapped."""
    valid: float | None = None
    """Share of the map's cells that got a class."""
    reason: str = ""
    """Why it was not mapped."""
    seconds: float = 0.0
    """How long it took."""

    def to_dict(self) -> dict[str, object]:
        """As JSON, where the period goes by its persisted name."""
        return {"window" if key == "first_day" else key: value for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCompared:
    """Two maps in succession between which no change layers can be made."""

    folder: str
    """Where the layers would be, relative to the root; it says why they are not."""
    reason: str
    """Why."""

    def __str__(self) -> str:
        """As a line for people."""
        before, after = self.folder.rpartition("/")[2].split("_")
        return f"the maps of {before} and {after} are not compared: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaNightReport:
    """What became of one area tonight."""

    area: str
    """Its name."""
    found: int = 0
    """Scenes that the source has in the days looked at."""
    new: int = 0
    """Those that no run had seen."""
    periods: tuple[PeriodReport, ...] = ()
    """The periods that were due."""
    earlier: tuple[PeriodReport, ...] = ()
    """Periods that failed earlier in the same night, and that this run left to the next one."""
    changes: tuple[str, ...] = ()
    """Folders of the change layers made, relative to the root."""
    not_compared: tuple[NotCompared, ...] = ()
    """Maps that were to be compared tonight and cannot be."""
    warnings: tuple[str, ...] = ()
    """What is probably wrong with the area, though nothing failed."""
    error: str = ""
    """What stopped the area as a whole; else empty."""

    @property
    def failed(self) -> int:
        """What failed this night: periods, and the area as a whole."""
        periods = sum(period.state == "failed" for period in self.periods)
        return periods + len(self.earlier) + bool(self.error)

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {
            "area": self.area,
            "found": self.found,
            "new": self.new,
            "windows": [period.to_dict() for period in self.periods],
            "earlier": [period.to_dict() for period in self.earlier],
            "changes": self.changes,
            "not_compared": [asdict(entry) for entry in self.not_compared],
            "warnings": self.warnings,
            "error": self.error,
            "failed": self.failed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NightReport:
    """What a run did."""

    began_utc: datetime
    """When the run began."""
    dry_run: bool
    """Whether nothing was written."""
    areas: tuple[AreaNightReport, ...]
    """In the order of the config."""
    seconds: float
    """How long it took."""

    @property
    def exit_code(self) -> int:
        """0, or 10 and the number of failed areas."""
        failed = sum(area.failed > 0 for area in self.areas)
        return FAILED_CODE + min(failed, MOST_FAILED) if failed else 0

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {
            "began_utc": self.began_utc.isoformat(timespec="seconds"),
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "failed_areas": [area.area for area in self.areas if area.failed],
            "areas": [area.to_dict() for area in self.areas],
        }


def failed_since(rows: Iterable[SceneRow], moment_utc: datetime) -> tuple[PeriodReport, ...]:
    """The periods with a scene that failed after a time.

    A run that is started again in the same night, by Prefect or by hand, does not try them again. It has to
    report them all the same: else the night would seem to have gone well.
    """
    failed: dict[str, list[SceneRow]] = {}
    for row in rows:
        if row.state in (SceneState.FAILED, SceneState.PARKED) and row.updated_utc > moment_utc:
            failed.setdefault(row.period, []).append(row)
    return tuple(
        PeriodReport(
            first_day=period,
            state="failed",
            scenes=tuple(row.scene_id for row in scenes),
            reason=scenes[0].reason,
            seconds=scenes[0].seconds or 0.0,
        )
        for period, scenes in failed.items()
    )
