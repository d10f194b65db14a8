"""The nightly run, period by period, over local catalogues.

Oracles: the scenes as published, the ledger's rows as plain SQL has them, the files that are there, and for
metrics the parser of Prometheus's own client.
"""

import errno
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import fsspec
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from landuse.errors import UsageError
from landuse.pipeline.search.find_scenes import SceneQuery, search
from landuse.workflows.nightly import period as nightly_period
from landuse.workflows.nightly.config import load_config
from landuse.workflows.nightly.ledger.ledger import Ledger
from landuse.workflows.nightly.ledger.recognise import period_of, period_start_utc, recognise
from landuse.workflows.nightly.ledger.records import SceneRow, SceneState, Sighting
from landuse.workflows.nightly.report import AreaNightReport, NightReport, PeriodReport
from landuse.workflows.nightly.run import Night, requested_day, run_nightly
from landuse.workflows.nightly.status import metrics, nightly_status, write_metrics
from tests.servers import write_items
from tests.workflows.nightly.world import (
    CELL_PX,
    RETRY,
    Block,
    Cells,
    land,
    load,
    moment,
    night,
    period,
    run_here,
    scene_item,
    write_config,
    write_scene,
)

VALLEY = Block(2, 2, 6, 7)
WEST, EAST = "33UWP", "33UXP"
"""Two tiles; both show all of the ground here."""


class World:
    """A local catalogue, a config, and the nights over them."""

    def __init__(self, folder):
        self.folder = folder
        self.out = folder / "out"
        self.config = None
        self.publish()

    def scene(self, day, name=None, dn=None, *, cloudy=False, **item):
        """A scene's item; its imagery is written where it is not there yet."""
        folder = self.folder / "images" / (name or str(day))
        if not folder.exists():
            baseline = item.get("baseline", "05.11")
            write_scene(folder, land(day) if dn is None else dn, cloudy=cloudy, baseline=baseline)
        return scene_item(day, str(folder), **item)

    def publish(self, *items):
        write_items(self.folder / "items.json", list(items))

    def configure(self, areas=None, **values):
        areas = areas or {"valley": (VALLEY, {})}
        self.config = write_config(self.folder / "nightly.yaml", "items.json", areas, **values)

    def night(self, day, only=(), **options):
        return run_here(self.config, night(day), only, **options)

    def one(self, day, **options):
        """A night over the only area."""
        (area,) = self.night(day, **options).areas
        assert not area.error, area.error
        return area

    def rows(self, table):
        with sqlite3.connect(self.out / "ledger.sqlite") as connection:
            connection.row_factory = sqlite3.Row
            found = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]
        connection.close()
        return found

    def states(self):
        return sorted((row["window"], row["state"]) for row in self.rows("scenes"))

    def maps(self):
        return sorted(path.parent.name for path in self.out.glob("valley/*/run.json"))

    def changed(self, before, after):
        """Cells of a change layer that report change."""
        with rasterio.open(
            self.out / "valley/changes" / f"{period(before)}_{period(after)}" / "change.tif"
        ) as file:
            return int(np.isin(file.read(1), (0, 254, 255), invert=True).sum())


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.configure()
    return made


def told(area):
    return [(entry.first_day, entry.state) for entry in area.periods]


@given(
    st.datetimes(datetime(2015, 6, 23), datetime(2100, 1, 1)),
    st.floats(-12, 12),
    st.integers(1, 366),
)
def test_periods_part_the_calendar(moment, hours, days):
    moment_utc, shift = moment.replace(tzinfo=UTC), timedelta(hours=hours)
    first = period_of(moment_utc, shift, days)
    begins_utc = period_start_utc(first, shift)
    assert begins_utc <= moment_utc < begins_utc + timedelta(days=days)
    assert period_of(begins_utc, shift, days) == first
    assert period_of(begins_utc - timedelta(seconds=1), shift, days) == first - timedelta(days=days)
    assert period_of(begins_utc + timedelta(days=days), shift, days) == first + timedelta(days=days)


def _recognised(tmp_path, known, item, state=SceneState.MAPPED):
    """What a scene is taken for where another is known."""
    found = []
    for document in (known, item):
        path = write_items(tmp_path / "items.json", [document])
        found += search(str(path), SceneQuery(area=None))
    (first,) = recognise(found[:1], [], timedelta(hours=1), 1)
    entered = {name: getattr(first.sighting, name) for name in first.sighting.__slots__}
    row = SceneRow(
        area="valley", recipe="0", state=state, reason="", attempts=1, first_seen_utc=night(1),
        updated_utc=night(1), seconds=None, map_id=None, **entered,
    )  # fmt: skip
    (second,) = recognise(found[1:], [row], timedelta(hours=1), 1)
    return second.sighting.key == first.sighting.key


def test_a_scene_that_is_listed_again_is_known_by_what_it_shows(tmp_path):
    world = World(tmp_path)
    known = world.scene(1)
    again = world.scene(1, processed=night(5))
    assert again["id"] != known["id"]
    assert _recognised(tmp_path, known, again)
    # As another provider names it, and times it when the tile was seen.
    elsewhere = {**again, "id": "S2A_33UWP_20260601_0_L2A"}
    elsewhere["properties"] = {**again["properties"], "datetime": "2026-06-01T10:17:02Z"}
    assert _recognised(tmp_path, known, elsewhere)
    assert not _recognised(tmp_path, known, world.scene(1, tile=EAST))
    assert not _recognised(tmp_path, known, world.scene(2, processed=night(5)))
    # Halves of a tile that was received at two stations are two scenes.
    halves = []
    west, south, east, north = known["bbox"]
    middle = (south + north) / 2
    for name, (low, high) in {"a": (south, middle), "b": (middle, north)}.items():
        ring = [[west, low], [east, low], [east, high], [west, high], [west, low]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        halves.append({**known, "id": name, "bbox": [west, low, east, high], "geometry": geometry})
    assert not _recognised(tmp_path, *halves)


def test_a_newer_baseline_is_another_scene_and_an_older_one_undoes_nothing(tmp_path):
    world = World(tmp_path)
    old, new = (world.scene(1, name, baseline=name, processed=night(3)) for name in ("05.11", "05.12"))
    old = {**old, "id": "older"}
    assert not _recognised(tmp_path, old, new)
    assert _recognised(tmp_path, new, old)
    # ... but what was never mapped may be what the older one shows.
    assert not _recognised(tmp_path, new, old, state=SceneState.FOUND)


def forget(world):
    """Leave the only map as a run does that is killed between the map and the ledger."""
    (name,) = world.maps()
    path = world.out / "valley" / name / "item.json"
    item = json.loads(path.read_text())
    del item["properties"]["version"]
    path.write_text(json.dumps(item))
    (world.out / "ledger.sqlite").unlink()
    return name


def test_a_map_without_a_ledger_is_taken_over(world):
    world.publish(world.scene(1))
    world.one(1)
    name = forget(world)
    before = (world.out / "valley" / name / "run.json").stat().st_mtime_ns
    assert told(world.one(2)) == [(period(1), "mapped")]
    assert world.maps() == [name]
    assert (world.out / "valley" / name / "run.json").stat().st_mtime_ns == before


def test_clouds_are_skipped_until_a_clear_scene_joins_their_period(world):
    clouded = world.scene(1, cloudy=True)
    world.publish(clouded)
    area = world.one(1)
    assert told(area) == [(period(1), "skipped")]
    assert "100.0 % cloud" in area.periods[0].reason
    assert told(world.one(2)) == []
    assert world.maps() == []
    world.publish(clouded, world.scene(1, "late", tile=EAST))
    assert told(world.one(3)) == [(period(1), "mapped")]
    assert world.states() == [(period(1), "mapped"), (period(1), "skipped")]
    reasons = {row["state"]: row["reason"] for row in world.rows("scenes")}
    assert reasons == {"mapped": "", "skipped": "100.0 % cloud over the area, above max_cloud 40."}


def test_a_late_scene_makes_its_period_anew_and_the_old_map_stays(world):
    world.configure(composite="median", window_days=3)
    first = [world.scene(day) for day in (2, 3)]
    world.publish(*first)
    world.one(4)
    (old,) = world.rows("maps")
    world.publish(*first, world.scene(1))
    area = world.one(6)
    assert [entry.state for entry in area.periods] == ["mapped"]
    old, new = sorted(world.rows("maps"), key=lambda row: row["created_utc"])
    assert (old["superseded_by"], new["superseded_by"]) == (new["map_id"], None)
    assert len(json.loads(new["scene_ids"])) == 3
    items = {
        row["map_id"]: json.loads((world.out / row["path"] / "item.json").read_text()) for row in (old, new)
    }
    versions = {name: item["properties"]["version"] for name, item in items.items()}
    assert versions == {old["map_id"]: "1", new["map_id"]: "2"}
    links = {link["rel"]: link["href"] for link in items[new["map_id"]]["links"]}
    assert links["predecessor-version"] == f"../{old['map_id']}/item.json"
    assert world.one(7).periods == ()


def test_what_no_longer_is_listed_is_waited_for_and_then_parked(world):
    world.configure(attempts=2)
    image = world.folder / "images" / "1" / "B04.tif"
    world.publish(world.scene(1))
    image.rename(image.with_suffix(".gone"))
    area = world.one(1)
    assert told(area) == [(period(1), "failed")]
    assert area.failed == 1
    world.publish()
    area = world.one(2)
    assert (told(area), area.periods[0].reason) == (
        [(period(1), "failed")],
        "The source does not list it any more.",
    )
    assert world.states() == [(period(1), "parked")]
    assert world.one(3).periods == ()


def test_a_map_with_failed_reads_waits_for_them_but_not_for_ever(world):
    world.configure(attempts=2, composite="median", window_days=3)
    items = [world.scene(day) for day in (2, 3)]
    world.publish(*items)
    image = world.folder / "images" / "3" / "B04.tif"
    image.write_bytes(b"")
    area = world.one(4)
    assert [entry.state for entry in area.periods] == ["failed"]
    assert "B04" in area.periods[0].reason
    assert not (world.out / "valley" / "catalog.json").exists()
    assert [entry.state for entry in world.one(5).periods] == ["mapped"]
    (name,) = world.maps()
    report = json.loads((world.out / "valley" / name / "run.json").read_text())
    assert {failure["band"] for failure in report["failures"]} == {"B04"}


def test_a_failed_read_is_read_another_night(world):
    world.configure(composite="median", window_days=3)
    world.publish(*(world.scene(day) for day in (2, 3)))
    image = world.folder / "images" / "3" / "B04.tif"
    whole = image.read_bytes()
    image.write_bytes(b"")
    assert [entry.state for entry in world.one(4).periods] == ["failed"]
    image.write_bytes(whole)
    assert [entry.state for entry in world.one(5).periods] == ["mapped"]
    (name,) = world.maps()
    report = json.loads((world.out / "valley" / name / "run.json").read_text())
    assert report["failures"] == []
    assert [row["attempts"] for row in world.rows("scenes")] == [2, 2]


class Faulty(Cells):
    """Fails in a way that nobody foresaw, on bright ground."""

    def pixel_scores(self, dn, bands, level):
        if dn.max() > 5000:
            raise ZeroDivisionError("by bright ground")
        return super().pixel_scores(dn, bands, level)


def test_one_failure_stops_neither_the_next_period_nor_the_next_area(world):
    bright = np.full_like(land(1), 9000)
    world.publish(world.scene(1, dn=bright), world.scene(2, dn=bright // 9))
    world.configure({"hill": (VALLEY, {"source": "nothing.json"}), "valley": (VALLEY, {})})
    (world.folder / "nothing.json").write_text("{")
    world.configure({"hill": (VALLEY, {"source": "nothing.json"}), "valley": (VALLEY, {})})
    heard = []
    report = world.night(2, load=lambda model, device: Faulty(), tell=lambda *line: heard.append(line))
    hill, valley = report.areas
    assert hill.error
    assert ("hill", f"failed: {hill.error}") in heard
    assert told(valley) == [(period(1), "failed"), (period(2), "mapped")]
    assert valley.periods[0].reason == "ZeroDivisionError: by bright ground"
    assert report.exit_code == 12
    assert report.to_dict()["failed_areas"] == ["hill", "valley"]
    assert world.night(2, ["valley"]).areas[0].periods == ()  # not twice a night
    assert world.night(3, ["valley"]).exit_code == 0


def test_exit_codes_stay_apart_from_those_of_signals_and_usage():
    failed = PeriodReport(first_day="2026-06-01", state="failed", scenes=("a",))
    for count, code in ((0, 0), (1, 11), (89, 99), (90, 99), (500, 99)):
        areas = [AreaNightReport(area=f"a{n}", periods=(failed, failed)) for n in range(count)]
        report = NightReport(
            began_utc=night(1), dry_run=False, areas=(*areas, AreaNightReport(area="well")), seconds=1
        )
        assert report.exit_code == code


class Interfering(Cells):
    """Does something while it classifies."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def pixel_scores(self, dn, bands, level):
        self.act()
        return super().pixel_scores(dn, bands, level)


def test_who_lost_the_lease_enters_and_publishes_nothing(world):
    world.publish(world.scene(1))

    def steal():
        with sqlite3.connect(world.out / "ledger.sqlite") as connection:
            connection.execute("UPDATE leases SET owner = 'another'")
        connection.close()

    area = world.one(1, load=lambda model, device: Interfering(steal))
    assert told(area) == [(period(1), "left")]
    assert "no longer held" in area.periods[0].reason
    assert area.failed == 0
    assert world.rows("maps") == []
    assert world.states() == [(period(1), "found")]
    assert not (world.out / "valley" / "catalog.json").exists()
    assert told(world.one(2)) == [(period(1), "mapped")]  # the other's lease has lapsed


def test_a_lease_is_renewed_while_a_map_is_made_and_its_loss_ends_that(world, monkeypatch):
    monkeypatch.setattr(nightly_period, "RENEWALS", 600)  # of a lease of a minute: ten a second
    world.configure(lease_minutes=1)
    world.publish(world.scene(1))
    leases = []

    def wait():
        for _ in range(2):
            leases.append(world.rows("leases")[0])
            time.sleep(0.4)

    assert told(world.one(1, load=lambda model, device: Interfering(wait))) == [(period(1), "mapped")]
    assert leases[0]["expires_utc"] < leases[1]["expires_utc"]
    assert leases[0]["owner"] == leases[1]["owner"]

    world.publish(world.scene(1), world.scene(2))

    def lose():
        with sqlite3.connect(world.out / "ledger.sqlite") as connection:
            connection.execute("UPDATE leases SET owner = 'another'")
        connection.close()
        time.sleep(0.4)

    assert told(world.one(2, load=lambda model, device: Interfering(lose))) == [(period(2), "left")]
    assert len(world.maps()) == 1  # the second was given up, not finished


@pytest.fixture
def interrupting():
    """Presses Ctrl-C while it classifies.

    A shell has its background jobs, and theirs, ignore SIGINT, and Python then leaves it so: in a run of the
    tests that was started there nothing would happen, unless a test before this one had set a handler.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Interfering(lambda: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, before)


def test_a_run_that_is_stopped_gives_its_period_back_untried(world, interrupting):
    world.publish(world.scene(1))
    with pytest.raises(KeyboardInterrupt):
        world.night(1, load=lambda model, device: interrupting)
    assert world.rows("leases") == []
    assert [row["attempts"] for row in world.rows("scenes")] == [0]
    assert told(world.one(1)) == [(period(1), "mapped")]


def no_room(monkeypatch):
    """As on a full disk."""

    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)


def test_a_full_disk_uses_up_nobodys_tries(world, monkeypatch):
    no_room(monkeypatch)
    world.publish(world.scene(1))
    world.one(1)  # the folder is there
    world.publish(world.scene(1), world.scene(2))

    def fill():
        for folder in (world.out / "valley").glob(f"{period(2)}-*/.blocks-*"):
            shutil.rmtree(folder)
            folder.write_text("no room for blocks")

    (area,) = world.night(2, load=lambda model, device: Interfering(fill)).areas
    assert area.error
    assert area.failed == 1
    assert [row["attempts"] for row in world.rows("scenes")] == [1, 0]
    assert world.rows("leases") == []


def test_a_dry_run_says_what_is_due_and_writes_nothing(world):
    world.publish(world.scene(1), world.scene(2))
    before = sorted(world.folder.rglob("*"))
    area = world.one(2, dry_run=True)
    assert told(area) == [(period(1), "due"), (period(2), "due")]
    assert sorted(world.folder.rglob("*")) == before
    world.one(1)
    assert told(world.one(2, dry_run=True)) == [(period(2), "due")]


@dataclass(frozen=True)
class Turned(Block):
    """A place whose latitudes stand where longitudes belong."""

    @property
    def bbox(self):
        west, south, east, north = super().bbox
        return [south, west, north, east]


@dataclass(frozen=True)
class Sea(Block):
    """A place of no imagery, whichever way it is turned."""

    @property
    def bbox(self):
        return [1, 2, 1.1, 2.1]


def test_swapped_latitude_and_longitude_are_told_as_by_the_command_for_one_map(world, run):
    """Oracle: the place where the imagery is known to lie, and the sentence of `landuse map`."""
    turned = Turned(2, 2, 6, 7)
    world.configure({"valley": (VALLEY, {}), "swapped": (turned, {}), "sea": (Sea(2, 2, 6, 7), {})})
    world.publish(world.scene(1))
    settings = {"--source": world.folder / "items.json", "--bbox": ",".join(map(str, turned.bbox))}
    ran = run("map", *itertools.chain(*settings.items()), "--out", world.folder / "map")
    assert ran.code == 3
    sentence, box = re.search(r"(Latitude and longitude .*, as in )--bbox ([\d.,]+)\.", ran.error).groups()
    heard = []
    for options in ({"dry_run": True}, {}, {}):
        heard.clear()
        report = world.night(2, tell=lambda *line: heard.append(line), **options)
        valley, swapped, sea = report.areas
        assert swapped.warnings == (f"{sentence}bbox: [{box}].",)
        assert ("swapped", f"warning: {swapped.warnings[0]}") in heard
        assert swapped.to_dict()["warnings"] == swapped.warnings
        assert (valley.warnings, sea.warnings) == ((), ())
        assert report.exit_code == 0
    assert [float(edge) for edge in box.split(",")] == pytest.approx(VALLEY.bbox, abs=1e-4)
    # The status of what never had a scene, whatever the settings, until its place is another.
    never = "no scene was ever found: check where the area lies (its bbox or file) and its source"
    assert [area.warnings for area in nightly_status(load_config(world.config), night(3))] == [
        (),
        (never,),
        (never,),
    ]
    world.configure({"valley": (turned, {}), "swapped": (VALLEY, {})}, change=False)
    world.night(3)
    found = nightly_status(load_config(world.config), night(3))
    assert [area.warnings for area in found] == [(never,), ()]


def test_an_area_that_had_a_scene_is_not_taken_for_swapped(world):
    """Its source lists others now, which lie where it would be with latitude for longitude."""
    world.configure({"valley": (Turned(2, 2, 6, 7), {})})
    world.publish(world.scene(1))
    (warning,) = world.one(1).warnings
    assert "probably swapped" in warning
    seen = Sighting(scene_id="S", baseline="05.11", acquired_utc=moment(1), period=period(1))
    with Ledger.at(f"sqlite:///{world.out}/ledger.sqlite") as ledger:
        ledger.note_found("valley", [seen], ledger.recipe_of("valley"), night(1))
    area = world.one(2)
    assert (area.found, area.warnings) == (0, ())


def test_look_back_and_since(world):
    world.publish(*(world.scene(day) for day in (1, 2, 9)))
    world.configure(look_back_days=3)
    assert told(world.one(10, dry_run=True)) == [(period(9), "due")]
    assert told(world.one(10, since=date(2026, 6, 2))) == [(period(2), "mapped"), (period(9), "mapped")]
    assert requested_day("2026-06-02") == date(2026, 6, 2)
    with pytest.raises(UsageError, match="--since 'June' is no day"):
        requested_day("June")


def test_what_is_due_from_long_ago_is_still_found(world, interrupting):
    world.publish(world.scene(1))
    with pytest.raises(KeyboardInterrupt):
        world.night(1, load=lambda model, device: interrupting)
    world.configure(look_back_days=3)
    assert told(world.one(30)) == [(period(1), "mapped")]


def test_a_map_with_too_little_in_it_is_published_but_not_compared(world):
    world.configure(min_valid=60, max_cloud=90)
    folder = world.folder / "images" / "2"
    write_scene(folder, land(2))
    with rasterio.open(folder / "SCL.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        scl = file.read(1)
        scl[: (VALLEY.row + 4) * CELL_PX // 2] = 9
        file.write(scl, 1)
    world.publish(*(world.scene(day) for day in (1, 2, 3)))
    area = world.one(3)
    assert [entry.state for entry in area.periods] == ["mapped"] * 3
    assert 0 < area.periods[1].valid < 0.6
    assert area.changes == (f"valley/changes/{period(1)}_{period(3)}",)


def test_a_later_map_confirms_a_change_or_contradicts_it(world):
    world.configure(change={"threshold": 0.7, "confirm": 1})
    stays, passes = Block(3, 3, 2, 2), Block(6, 6, 1, 2)
    for day in (1, 2, 3):
        dn = np.full((20, 20), 600)
        dn[stays.slices] = 9400 if day > 1 else 600
        dn[passes.slices] = 9400 if day == 2 else 600
        world.scene(day, dn=dn)
    world.publish(*(world.scene(day) for day in (1, 2)))
    world.one(2)
    assert world.changed(1, 2) == 6
    world.publish(*(world.scene(day) for day in (1, 2, 3)))
    area = world.one(3)
    assert [path.rpartition("/")[2] for path in area.changes] == [
        f"{period(1)}_{period(2)}",
        f"{period(2)}_{period(3)}",
    ]
    assert world.changed(1, 2) == 4
    by_map = {row["window"]: json.loads(row["change_paths"]) for row in world.rows("maps")}
    assert by_map[period(2)] == [f"valley/changes/{period(1)}_{period(2)}"]
    assert world.one(4).changes == ()


def test_maps_that_do_not_suit_each_other_are_told_of_once(world):
    world.publish(world.scene(1))
    world.one(1)
    world.configure(cell_m=80, look_back_days=3)  # the map of day 1 is too old to be made anew
    world.publish(world.scene(1), world.scene(9))
    area = world.one(9)
    assert (area.changes, len(area.not_compared)) == ((), 1)
    folder = world.out / "valley" / "changes" / f"{period(1)}_{period(9)}"
    assert [path.name for path in folder.iterdir()] == ["not-compared.json"]
    reason = json.loads((folder / "not-compared.json").read_text())["reason"]
    assert "cells of" in reason
    assert str(world.folder) not in reason
    assert area.not_compared[0].reason == reason
    area = world.one(10)
    assert (area.changes, area.not_compared) == ((), ())


def test_without_change_there_is_none(world):
    world.configure(change=False)
    world.publish(world.scene(1), world.scene(2))
    assert world.one(2).changes == ()
    assert not (world.out / "valley" / "changes").exists()


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def test_outputs_elsewhere_are_those_of_a_folder(world, memory):
    """Oracle: the same nights with a folder as root."""
    world.publish(world.scene(1), world.scene(2))
    world.configure(out="memory://maps", ledger="sqlite:///ledger.sqlite")
    report = world.one(2)
    assert [entry.state for entry in report.periods] == ["mapped", "mapped"]
    assert world.one(3).periods == ()
    world.configure()
    world.one(2)
    here = {path.relative_to(world.out).as_posix() for path in world.out.rglob("*") if path.is_file()}
    here = {name for name in here if not name.startswith("ledger.sqlite")}
    there = {name.removeprefix("/maps/") for name in memory.find("/maps")}
    assert there == here
    for name in here:
        if name.endswith("landuse.tif") or name.endswith("catalog.json"):
            # The digest of a map's record, which holds the time of its making.
            contents = (memory.cat_file(f"/maps/{name}"), (world.out / name).read_bytes())
            elsewhere, near = (
                re.sub(rb'"landuse:record": "[0-9a-f]+"', b"", content) for content in contents
            )
            assert elsewhere == near
    layer = f"valley/changes/{period(1)}_{period(2)}"
    for name in ("change.tif", "difference.tif"):
        with (
            rasterio.MemoryFile(memory.cat_file(f"/maps/{layer}/{name}")) as content,
            content.open() as file,
            rasterio.open(world.out / layer / name) as expected,
        ):
            np.testing.assert_array_equal(file.read(), expected.read())
    inputs = json.loads(memory.cat_file(f"/maps/{layer}/change.json"))["inputs"]
    assert [entry["path"].split("/")[0] for entry in inputs] == ["..", ".."]


def test_status_tells_of_each_area_and_raises_an_alarm(world):
    world.configure({"valley": (VALLEY, {}), "hill": (VALLEY, {"max_age_days": 3})}, max_age_days=9)
    world.publish(world.scene(1), world.scene(2, cloudy=True))
    settings = load_config(world.config)
    empty = nightly_status(settings, night(1))
    assert [(area.last_map, area.age_days, area.stale) for area in empty] == [(None, None, True)] * 2
    assert not world.out.exists()
    world.night(2)
    valley, hill = nightly_status(settings, moment(5))
    assert (valley.area, hill.area) == ("valley", "hill")
    assert valley.last_map.period == period(1)
    assert valley.age_days == pytest.approx(4)
    assert (valley.stale, hill.stale) == (False, True)
    assert (valley.scenes["mapped"], valley.scenes["skipped"]) == (1, 1)
    assert [area.stale for area in nightly_status(settings, moment(5), 100)] == [False, False]
    assert json.loads(json.dumps(hill.to_dict()))["stale"] is True


def test_metrics_are_what_prometheus_reads(world, tmp_path):
    world.publish(world.scene(1))
    world.night(1)
    areas = nightly_status(load_config(world.config), moment(3))
    path = tmp_path / "textfiles" / "landuse.prom"
    write_metrics(path, areas)
    assert [entry.name for entry in path.parent.iterdir()] == ["landuse.prom"]
    families = {family.name: family for family in text_string_to_metric_families(path.read_text())}
    assert {family.type for family in families.values()} == {"gauge"}
    assert all(family.documentation for family in families.values())
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["landuse_nightly_newest_scene_timestamp_seconds", "valley"] == moment(1).timestamp()
    (made,) = world.rows("maps")
    made_utc = datetime.fromisoformat(made["created_utc"]).replace(tzinfo=UTC)
    assert values["landuse_nightly_last_map_timestamp_seconds", "valley"] == made_utc.timestamp()
    counts = {key[2]: value for key, value in values.items() if key[0] == "landuse_nightly_scenes"}
    assert counts == {"found": 0, "mapped": 1, "skipped": 0, "failed": 0, "parked": 0}


def test_the_config_names_its_metrics_file_and_the_command_its_exit_codes(world, run):
    item = world.scene(1)
    item["assets"] |= dict.fromkeys(("B02", "B03"), item["assets"]["B04"])
    item["properties"]["datetime"] = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%dT10:10:31Z}"
    world.publish({**item, "id": "recent"})
    world.configure(model="balanced-pixel", metrics_file="landuse.prom")
    ran = run("nightly", "run", world.config, "--dry-run")
    assert ran.code == 0
    assert "  due     " in ran.out
    assert "valley: 1 scenes since" in ran.err
    ran = run("nightly", "run", world.config, "--json", "--quiet", "--device", "cpu")
    assert (ran.code, ran.err) == (0, "")
    (entry,) = json.loads(ran.out)["areas"][0]["windows"]
    assert entry["state"] == "mapped"
    assert 'landuse_nightly_stale{area="valley"} 0' in (world.out / "landuse.prom").read_text()

    ran = run("nightly", "status", world.config, "--max-age-days", "5")
    assert ran.code == 0
    assert "valley" in ran.out
    ran = run(
        "nightly",
        "status",
        world.config,
        "--max-age-days",
        "1",
        "--json",
        "--metrics",
        world.folder / "m.prom",
    )
    assert ran.code == 20
    assert json.loads(ran.out)["areas"][0]["last_map"]["window"] == entry["window"]
    assert 'landuse_nightly_stale{area="valley"} 1' in (world.folder / "m.prom").read_text()

    world.publish({**world.scene(1), "id": "b04-alone"} | {"properties": item["properties"]})
    ran = run("nightly", "run", world.config)
    assert ran.code == 11
    assert "The model needs 3 bands" in ran.out
    ran = run("nightly", "run", world.config, "--area", "vally")
    assert ran.code == 2
    assert "valley" in ran.error


def test_areas_of_one_model_share_it(world):
    world.configure({"valley": (VALLEY, {}), "hill": (VALLEY, {})})
    loaded = []

    def counting(model, device):
        loaded.append(model)
        return load(model, device)

    run_nightly(load_config(world.config), Night(now_utc=night(1), load=counting, retry=RETRY))
    assert loaded == ["first"]


@pytest.mark.slow
def test_blocks_are_done_by_workers_where_the_config_says_so(world):
    world.publish(world.scene(1))
    world.configure(workers=1)
    report = world.night(1)
    assert report.exit_code == 0, report
    assert told(report.areas[0]) == [(period(1), "mapped")]


def test_labels_are_escaped():
    from landuse.workflows.nightly.status import AreaHealth

    name = 'a"b\\c\nd'
    text = metrics([AreaHealth(area=name)]).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.labels["area"] for sample in samples} == {name}
