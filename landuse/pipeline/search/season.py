"""Pure: months of the year in which imagery is wanted, by name or by number."""

from __future__ import annotations

import re
from calendar import month_name
from dataclasses import dataclass
from typing import TYPE_CHECKING

from landuse.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

SEASONS = {"spring": (3, 5), "summer": (6, 8), "autumn": (9, 11), "winter": (12, 2)}
"""First and last month of the meteorological seasons north of the equator; south of it they lie half a year
later: summer is December to February there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Season:
    """Months of any year, from one to another; over the new year where the first is the later one."""

    name: str
    """As in ``SEASONS``; empty where months were asked for."""
    first: int
    """First month, 1 to 12; of a named season north of the equator."""
    last: int
    """Last month, which belongs to it."""

    def months(self, latitude: float) -> tuple[int, ...]:
        """Numbers of the months in their order, at a place in degrees north."""
        shift = 6 if self.name and latitude < 0 else 0
        count = (self.last - self.first) % 12 + 1
        return tuple((self.first - 1 + shift + index) % 12 + 1 for index in range(count))

    def has(self, moment_utc: datetime, latitude: float) -> bool:
        """Whether a moment's month, in UTC, belongs to it at a place in degrees north."""
        return moment_utc.month in self.months(latitude)

    def label(self, latitude: float) -> str:
        """For people: the name, the months and, of a named season, the side of the equator."""
        months = self.months(latitude)
        span = " to ".join(dict.fromkeys(month_name[month] for month in (months[0], months[-1])))
        side = "south" if latitude < 0 else "north"
        return f"{self.name} {side} of the equator: {span}" if self.name else span


def parse_season(text: str) -> Season:
    """A season's name, a month or two of them as ``first-last``.

    Raises:
        UsageError: On anything else.

    Example:
        >>> parse_season("summer").months(-33.0)
        (12, 1, 2)
        >>> parse_season("11-2").label(48.0)
        'November to February'
    """
    if text in SEASONS:
        first, last = SEASONS[text]
        return Season(name=text, first=first, last=last)
    match = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", text, flags=re.ASCII)
    months = [] if match is None else [int(part) for part in match.groups() if part is not None]
    if not months or not all(1 <= month <= 12 for month in months):
        raise UsageError(
            f"--season {text!r:.40} is unknown. Give {', '.join(SEASONS)}, a month such as 7, or months such "
            "as 4-6; 11-2 goes over the new year."
        )
    return Season(name="", first=months[0], last=months[-1])
