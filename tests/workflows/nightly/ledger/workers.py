"""What other processes do to a ledger in tests: share its periods, or die in the middle of it."""

import os
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from landuse.errors import LeaseLostError
from landuse.workflows.nightly.ledger.ledger import Ledger
from landuse.workflows.nightly.ledger.records import NewMap, Recipe, Sighting
from landuse.workflows.nightly.ledger.schema import SCENES

AREA, ATTEMPTS = "valley", 100
RECIPE = Recipe(
    model_sha256="m" * 64,
    place_sha256="p" * 64,
    stride_px=16,
    composite="best",
    max_cloud=40.0,
    window_days=1,
)
START_UTC = datetime(2024, 6, 1, tzinfo=UTC)


def many_sightings(periods: int) -> list[Sighting]:
    """Two scenes in each of so many periods."""
    return [
        Sighting(
            scene_id=f"{day}-{tile}",
            baseline="05.10",
            acquired_utc=START_UTC + timedelta(days=day, hours=10),
            period=f"{START_UTC + timedelta(days=day):%Y-%m-%d}",
        )
        for day in range(periods)
        for tile in "AB"
    ]


def share(url: str, owner: str, log: Path, periods: int, lease_seconds: float, go: Path) -> None:
    """Do periods beside others until all are done; each one taken and each one settled is logged."""
    sightings = many_sightings(periods)
    by_period = {name: [s for s in sightings if s.period == name] for name in {s.period for s in sightings}}
    _log(log, "ready")
    while not go.exists():  # all begin at once, so that they also make the tables at once
        time.sleep(0.005)
    with Ledger.at(url) as ledger:
        ledger.note_found(AREA, sightings, RECIPE, datetime.now(UTC))
        while True:
            todo = list(ledger.periods_to_do(AREA, RECIPE, datetime.now(UTC), ATTEMPTS))
            random.shuffle(todo)
            for period in todo:
                lease = ledger.lease(
                    period,
                    owner,
                    now_utc=datetime.now(UTC),
                    minutes=lease_seconds / 60,
                    attempts=ATTEMPTS,
                )
                if lease is None:
                    continue
                _log(log, f"took {period.first_day} {owner}")
                time.sleep(0.03)
                made = NewMap(
                    map_id=f"{period.first_day}-{owner}-{time.monotonic_ns()}",
                    created_utc=datetime.now(UTC),
                    path=f"{period.first_day}/{owner}",
                    valid=1.0,
                )
                try:
                    ledger.settle_mapped(
                        lease, made, by_period[period.first_day], {}, now_utc=datetime.now(UTC), seconds=0.01
                    )
                except LeaseLostError:
                    continue
                _log(log, f"settled {period.first_day} {owner}")
            if all(row.state == "mapped" for row in ledger.scenes(AREA, RECIPE)):
                return
            time.sleep(0.02)


def hang_in_a_write(url: str, log: Path) -> None:
    """Change every row in a transaction that never ends, holding the writers' lock."""
    with Ledger.at(url) as ledger, ledger.database.writing() as connection:
        connection.execute(sa.update(SCENES).values(reason="half-written"))
        _log(log, "hangs")
        time.sleep(600)


def _log(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as file:  # a short line is appended whole
        file.write(f"{line}\n")


if __name__ == "__main__":
    task, url, *rest = sys.argv[1:]
    if task == "share":
        owner, log, periods, lease_seconds, go = rest
        share(url, f"{owner}-{os.getpid()}", Path(log), int(periods), float(lease_seconds), Path(go))
    else:
        hang_in_a_write(url, Path(rest[0]))
