"""Values out of JSON that somebody else wrote: each is checked for its type before it is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

Json: TypeAlias = Mapping[str, object]
"""A JSON object that has been parsed and not yet believed."""


def mapping(value: object) -> Json:
    """``value`` where it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[object]:
    """``value`` where it is a JSON array, else an empty one."""
    return value if isinstance(value, (list, tuple)) else ()


def number(value: object) -> float | None:
    """``value`` where it is a finite JSON number, else None."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's integers have no end
        return None
    return found if math.isfinite(found) else None


def numbers(value: object, count: int) -> tuple[float, ...]:
    """Exactly ``count`` finite numbers; ValueError otherwise."""
    values = [number(entry) for entry in sequence(value)]
    found = tuple(entry for entry in values if entry is not None)
    if not len(found) == len(values) == count:
        raise ValueError(f"{count} finite numbers expected")
    return found


def text(value: object) -> str:
    """``value`` where it is a JSON string, else an empty one."""
    return value if isinstance(value, str) else ""


def moment_utc(value: object) -> datetime | None:
    """``value`` where it is an ISO 8601 time, in UTC; a time without offset is UTC. Else None."""
    try:
        moment = datetime.fromisoformat(text(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
