"""What goes into the ledger of nightly runs, and what comes out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from landuse.errors import UsageError
from landuse.redact import printable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_ID = 200
"""Characters of a scene's id; those of Sentinel-2 have some 60. A database's index holds only short keys."""

MAX_BASELINE = 20
"""Characters of a processing baseline; ``"05.11"`` has five."""


def kept_id(scene_id: str) -> str:
    """A scene's id; its SHA-256 where it is nothing that a ledger can keep."""
    if _can_be_kept(scene_id):
        return scene_id
    return f"sha256-{hashlib.sha256(scene_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _can_be_kept(scene_id: str) -> bool:
    return 0 < len(scene_id) <= MAX_ID and scene_id.isprintable()


class SceneState(StrEnum):
    """What became of a scene."""

    FOUND = "found"
    """Nothing yet: it waits for a run, or a run is at it."""
    MAPPED = "mapped"
    """It is in a map. This changes only where the map's files are damaged: then it is to be mapped again."""
    SKIPPED = "skipped"
    """It was looked at and is in no map; the reason says why."""
    FAILED = "failed"
    """The last try failed; the next night tries again."""
    PARKED = "parked"
    """All tries are used up; only more ``attempts``, or another scene of its period, bring it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides a map beside its scenes: what is done is done under one recipe."""

    model_sha256: str
    """Hash of the model's weights."""
    place_sha256: str
    """Hash of the area's geometry."""
    stride_px: int
    """Cell size in pixels of 10 m."""
    bands: str = "all"
    """Which bands are read of those that the model can do without."""
    composite: str
    """How several scenes become one image."""
    max_cloud: float
    """Scenes with more cloud over the area are left out; percent."""
    window_days: int
    """Scenes of so many days make one map."""
    legend_sha256: str = ""
    """Hash of the legend that the map is told in; empty without one."""

    @property
    def digest(self) -> str:
        """What the ledger calls it: SHA-256 in hex."""
        values = asdict(self)
        if not self.legend_sha256:  # ledgers are older than legends
            del values["legend_sha256"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def changes_from(self, other: Recipe) -> str:
        """What is otherwise than in another one, for people: ``stride_px 16 -> 8``."""
        before, after = asdict(other), asdict(self)
        return ", ".join(
            f"{name.removesuffix('_sha256')} {str(before[name])[:12]} -> {str(value)[:12]}"
            for name, value in after.items()
            if value != before[name]
        )


class SceneKey(NamedTuple):
    """What names a scene within an area and a recipe."""

    scene_id: str
    """The item's id, as its provider spells it, or ``kept_id`` of it. Hostile: never part of a path or of
    markup."""
    baseline: str
    """Processing baseline such as ``"05.11"``; empty where the item states none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A scene that a catalogue was seen to hold.

    Raises:
        UsageError: its id or its baseline is nothing that a ledger can keep.
    """

    scene_id: str
    """The item's id, as its provider spells it."""
    baseline: str
    """Processing baseline; empty where the item states none."""
    acquired_utc: datetime
    """Acquisition time, timezone-aware UTC."""
    period: str
    """First day of the period whose scenes make one map, such as ``"2024-06-01"``."""
    acquisition: str = ""
    """What tells its acquisition from others, as ``recognise`` writes it; empty where it is unknown."""

    def __post_init__(self) -> None:
        if not _can_be_kept(self.scene_id):
            raise UsageError(
                f"Scene id {printable(self.scene_id[:60])!r} of {len(self.scene_id)} characters cannot be "
                f"kept in the ledger: 1 to {MAX_ID} printable characters can. Mend the item's metadata."
            )
        if len(self.baseline) > MAX_BASELINE or not self.baseline.isprintable():
            raise UsageError(
                f"Scene {self.scene_id}: {printable(self.baseline[:60])!r} is no processing baseline, such "
                "as '05.11'. Mend the item's metadata."
            )
        if self.acquired_utc.utcoffset() != UTC.utcoffset(None):
            raise ValueError(f"scene {self.scene_id!r}: acquired_utc {self.acquired_utc} is not in UTC")
        date.fromisoformat(self.period)  # says itself what is wrong

    @property
    def key(self) -> SceneKey:
        """What names it."""
        return SceneKey(scene_id=self.scene_id, baseline=self.baseline)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneRow(Sighting):
    """What the ledger holds of one scene in one area under one recipe: as it was first seen, and since."""

    area: str
    """Name of the area."""
    recipe: str
    """Digest of the recipe."""
    state: SceneState
    """What became of it."""
    reason: str
    """Why it was skipped, failed or is parked; else empty."""
    attempts: int
    """Tries that were begun, those cut off by a crash among them."""
    first_seen_utc: datetime
    """When a run first saw it."""
    updated_utc: datetime
    """When its state last changed."""
    seconds: float | None
    """How long the last try of its period took that came to an end."""
    map_id: str | None
    """The first map that it went into; later maps of the period are found by ``MapRow.superseded_by``. One
    that is to be made again is here before that."""

    @property
    def sighting(self) -> Sighting:
        """It as it was first seen."""
        return Sighting(**{entry.name: getattr(self, entry.name) for entry in fields(Sighting)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DuePeriod:
    """A period with work to do."""

    area: str
    """Name of the area."""
    first_day: str
    """Its first day, such as ``"2024-06-01"``."""
    recipe: Recipe
    """What its map is to be made by."""
    scenes: tuple[SceneKey, ...]
    """The scenes that are due, by time; the period may hold others that are mapped already."""

    @property
    def scene_ids(self) -> tuple[str, ...]:
        """Ids of the scenes that are due."""
        return tuple(key.scene_id for key in self.scenes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one run to work on a period, for a time."""

    on: DuePeriod
    """The period, with the scenes that were due when it was taken; a try of each has been counted."""
    owner: str
    """Who holds it; no two runs have the same name."""
    expires_utc: datetime
    """From here on another run may take the period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMap:
    """A map that has been made and published."""

    map_id: str
    """Unique in the ledger."""
    created_utc: datetime
    """When it was made."""
    path: str
    """Its folder, relative to the outputs' root, with ``/`` between the parts."""
    valid: float
    """Share of its cells that got a class, 0..1."""
    change_paths: tuple[str, ...] = ()
    """Files of the change against earlier maps, relative to the root."""

    def __post_init__(self) -> None:
        if not 0 <= self.valid <= 1:
            raise ValueError(f"map {self.map_id!r}: a share of {self.valid} of the cells is none, 0..1")
        for path in (self.path, *self.change_paths):
            parts = PurePosixPath(path).parts
            if (
                not parts
                or not path.isprintable()
                or ".." in parts
                or parts[0] == "/"
                or set(path) & set(":\\")
            ):
                raise ValueError(f"map {self.map_id!r}: {path!r} is no path inside the outputs' root")


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRow(NewMap):
    """What the ledger holds of one map."""

    area: str
    """Name of the area."""
    period: str
    """First day of its period."""
    window_days: int
    """How many days that has."""
    number: int
    """Counts the area's maps in the order in which they were entered, whatever the clocks say."""
    model_sha256: str
    """Hash of the model's weights."""
    recipe: str
    """Digest of the recipe that it was made by."""
    scene_ids: tuple[str, ...]
    """Ids of the scenes in it, by time. Hostile: never part of a path or of markup."""
    superseded_by: str | None
    """The map of the same days that came into force after it, mostly of the same period; None: it is
    current."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRecord:
    """All that the ledger holds of one map: enough to enter it again in a ledger that has lost it."""

    map: MapRow
    """Its row; which map supersedes it follows from the others."""
    recipe: Recipe
    """What it was made by."""
    turn: int
    """When that came into force last, among the area's recipes: the higher the later."""
    scenes: tuple[SceneRow, ...]
    """The scenes that went into it first, and with the last map of its period those that were left out."""

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        entered = replace(self, map=replace(self.map, superseded_by=None))
        values: dict[str, object] = _adapter().dump_python(entered, mode="json")
        return values

    @staticmethod
    def from_dict(values: object) -> MapRecord:
        """What ``to_dict`` wrote.

        Raises:
            ValueError: it is nothing of the kind, or does not hold together.
        """
        record = _adapter().validate_python(values)
        recipe, row = record.recipe.digest, record.map
        own = (row.recipe, row.model_sha256, row.window_days)
        if own != (recipe, record.recipe.model_sha256, record.recipe.window_days):
            raise ValueError(f"map {row.map_id!r} is of another recipe than its record")
        foreign = [one for one in record.scenes if (one.area, one.recipe) != (row.area, recipe)]
        if foreign or any(one.map_id not in (None, row.map_id) for one in record.scenes):
            raise ValueError(f"map {row.map_id!r} has scenes of another map in its record")
        return record


@cache
def _adapter() -> TypeAdapter[MapRecord]:
    from pydantic import TypeAdapter  # takes a while

    return TypeAdapter(MapRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaStatus:
    """How an area fares under the recipe that it was last looked at with."""

    area: str
    """Its name."""
    looked_utc: datetime | None = None
    """When its catalogue was last searched with success; None: never."""
    last_map: MapRow | None = None
    """Of the current maps that of the latest period, whatever its recipe; None before the first."""
    newest_utc: datetime | None = None
    """Acquisition of the newest scene that is mapped, whatever the recipe."""
    scenes: Mapping[SceneState, int] = field(default_factory=lambda: dict.fromkeys(SceneState, 0))
    """How many of its scenes are in each state under this recipe."""
    running: int = 0
    """Periods that a run is at."""
    failures: tuple[SceneRow, ...] = ()
    """Its failed and its parked scenes with the reasons, by period."""
    empty_utc: datetime | None = None
    """Since when searches find nothing where they found scenes before; None: the last one did."""
    lost: int = 0
    """How many scenes of the days searched they found before."""
    never_listed: bool = False
    """Whether no search has ever found a scene of the place where the area lies now."""
