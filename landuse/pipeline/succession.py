"""Pure: which map of an area supersedes which.

Of each day there is at most one current map: by the recipe that came into force last, and of that the one
entered last. So where an area goes back to settings that it had before, the maps made by them are current
again; and a window that was not mapped anew, as it is from too long ago, keeps the map it has.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from landuse.pipeline.ledger_records import MapRow


def succession(maps: Iterable[MapRow], turns: Mapping[str, int]) -> dict[str, str | None]:
    """By each map's id, that of the map which supersedes it; None for those that are current.

    The maps of one window form one chain. Its last one is superseded by one of another length of window,
    where that shows some of its days and came into force later.

    Args:
        maps: all of one area.
        turns: by a recipe's digest, when it came into force last: the higher the later.
    """

    def rank(row: MapRow) -> tuple[int, int]:
        return turns.get(row.recipe, 0), row.number

    found: dict[str, str | None] = {}
    latest: list[MapRow] = []
    for _, window in groupby(sorted(maps, key=lambda row: (row.window, rank(row))), lambda row: row.window):
        chain = list(window)
        found |= {before.map_id: after.map_id for before, after in pairwise(chain)}
        latest.append(chain[-1])
    of_day: dict[int, list[MapRow]] = defaultdict(list)
    for row in latest:
        for day in _days(row):
            of_day[day].append(row)
    for row in latest:
        highest = max((other for day in _days(row) for other in of_day[day]), key=rank)
        found[row.map_id] = None if highest is row else highest.map_id
    return found


def _days(row: MapRow) -> range:
    first = date.fromisoformat(row.window).toordinal()
    return range(first, first + row.window_days)
