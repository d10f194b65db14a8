"""What other processes do to a ledger in tests: share its windows, or die in the middle of it."""

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


def many_sightings(windows: int) -> list[Sighting]:
    """Two scenes in each of so many windows."""
    return [
        Sighting(
            scene_id=f"{day}-{tile}",
            baseline="05.10",
            acquired_utc=START_UTC + timedelta(days=day, hours=10),
            window=f"{START_UTC + timedelta(days=day):%Y-%m-%d}",
        )
        for day in range(windows)
        for tile in "AB"
    ]


def share(url: str, owner: str, log: Path, windows: int, lease_seconds: float, go: Path) -> None:
    """Do windows beside others until all are done; each one taken and each one settled is logged."""
    sightings = many_sightings(windows)
    by_window = {name: [s for s in sightings if s.window == name] for name in {s.window for s in sightings}}
    _log(log, "ready")
    while not go.exists():  # all begin at once, so that they also make the tables at once
        time.sleep(0.005)
    with Ledger.at(url) as ledger:
        ledger.note_found(AREA, sightings, RECIPE, datetime.now(UTC))
        while True:
            todo = list(ledger.windows_to_do(AREA, RECIPE, datetime.now(UTC), ATTEMPTS))
            random.shuffle(todo)
            for window in todo:
                lease = ledger.lease(
                    window,
                    owner,
                    now_utc=datetime.now(UTC),
                    minutes=lease_seconds / 60,
                    attempts=ATTEMPTS,
                )
                if lease is None:
                    continue
                _log(log, f"took {window.window} {owner}")
                time.sleep(0.03)
                made = NewMap(
                    map_id=f"{window.window}-{owner}-{time.monotonic_ns()}",
                    created_utc=datetime.now(UTC),
                    path=f"{window.window}/{owner}",
                    valid=1.0,
                )
                try:
                    ledger.settle_mapped(
                        lease, made, by_window[window.window], {}, now_utc=datetime.now(UTC), seconds=0.01
                    )
                except LeaseLostError:
                    continue
                _log(log, f"settled {window.window} {owner}")
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
        owner, log, windows, lease_seconds, go = rest
        share(url, f"{owner}-{os.getpid()}", Path(log), int(windows), float(lease_seconds), Path(go))
    else:
        hang_in_a_write(url, Path(rest[0]))
