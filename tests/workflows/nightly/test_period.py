"""Periods of several scenes, runs beside each other, and settings that change: what may go wrong.

Oracles: the scenes as published, the ledger's rows as plain SQL has them, the maps' own ``run.json``, the
files that are there.
"""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from landuse.pipeline.write.folder import Store
from landuse.workflows.nightly import run as nightly_run
from tests.workflows.nightly.test_run import EAST, Faulty, Interfering, World, forget, no_room, told
from tests.workflows.nightly.world import MODELS, Block, land, night, period, run_here


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.configure(window_days=3, composite="median")
    return made


HILL = Block(8, 8, 5, 6)
PERIOD = period(1)
"""Days 1 to 3 make a period of three days."""


def days_in(world, map_id):
    """Days of the scenes in a map, by its ``run.json``."""
    report = json.loads((world.out / "valley" / map_id / "run.json").read_text())
    return sorted(int(scene["acquired_utc"][8:10]) for scene in report["scenes"])


def current(world):
    """By period, the days in its current map; by the ledger, and each map's folder is there."""
    rows = [row for row in world.rows("maps") if row["superseded_by"] is None]
    assert len({row["window"] for row in rows}) == len(rows)
    return {row["window"]: days_in(world, row["map_id"]) for row in rows}


def other_model(world, day):
    return run_here(world.config, night(day), load=lambda model, device: MODELS["second"]).areas[0]


# Periods of several scenes.


def test_a_gap_in_the_catalogue_takes_no_scene_out_of_the_map(world):
    one, two, three = (world.scene(day) for day in (1, 2, 3))
    world.publish(one, two)
    world.one(2)
    world.publish(two, three)  # the first is missing for a night, in which a late one comes
    area = world.one(3)
    assert told(area) == [(PERIOD, "failed")]
    assert "would lose it" in area.periods[0].reason
    assert current(world) == {PERIOD: [1, 2]}
    world.publish(one, two, three)
    assert told(world.one(4)) == [(PERIOD, "mapped")]
    assert current(world) == {PERIOD: [1, 2, 3]}
    assert world.one(5).periods == ()


def test_what_stays_away_stays_in_its_map_and_the_late_scene_is_parked(world):
    world.configure(attempts=2, window_days=3, composite="median")
    world.publish(world.scene(1))
    world.one(1)
    world.publish(world.scene(2))
    assert [told(world.one(day)) for day in (2, 3, 4)] == [[(PERIOD, "failed")], [(PERIOD, "failed")], []]
    assert current(world) == {PERIOD: [1]}
    assert world.states() == [(PERIOD, "mapped"), (PERIOD, "parked")]
    # More tries, once it is listed again.
    world.publish(world.scene(1), world.scene(2))
    world.configure(attempts=3, window_days=3, composite="median")
    assert told(world.one(5)) == [(PERIOD, "mapped")]
    assert current(world) == {PERIOD: [1, 2]}


def test_an_older_baseline_does_not_replace_what_is_mapped(world):
    new = world.scene(2, "new", baseline="05.12", processed=night(3))
    old, late = world.scene(2, "old"), world.scene(3)
    world.publish(new)
    world.one(3)
    world.publish({**old, "id": "behind"}, late)
    assert told(world.one(4)) == [(PERIOD, "failed")]
    (row,) = world.rows("maps")
    world.publish(new, late)
    assert told(world.one(5)) == [(PERIOD, "mapped")]
    made = max(world.rows("maps"), key=lambda row: row["number"])
    scenes = json.loads((world.out / made["path"] / "run.json").read_text())["scenes"]
    assert {scene["baseline"] for scene in scenes} == {"05.11", "05.12"}
    assert (len(scenes), made["superseded_by"]) == (2, None)
    assert row["map_id"] != made["map_id"]


def test_a_newer_baseline_takes_the_place_of_the_older_one(world):
    world.publish(world.scene(1), world.scene(2))
    world.one(2)
    world.publish(world.scene(1), world.scene(2, "new", baseline="05.12", processed=night(5)))
    assert told(world.one(5)) == [(PERIOD, "mapped")]
    assert current(world) == {PERIOD: [1, 2]}
    assert [row["state"] for row in world.rows("scenes")] == ["mapped"] * 3


@pytest.mark.parametrize("cloudy", [True, False])
def test_a_mask_that_cannot_be_read_one_night_is_read_another(world, cloudy):
    first, second = world.scene(2, cloudy=cloudy), world.scene(3)
    second["properties"]["eo:cloud_cover"] = 60  # of the tile: the area is clear
    world.publish(first, second)
    mask = world.folder / "images" / "3" / "SCL.tif"
    whole = mask.read_bytes()
    mask.write_bytes(b"")
    area = world.one(4)
    assert told(area) == [(PERIOD, "failed")]
    assert "SCL" in area.periods[0].reason
    assert {row["state"] for row in world.rows("scenes")} == {"failed"}
    mask.write_bytes(whole)
    assert told(world.one(5)) == [(PERIOD, "mapped")]
    assert current(world) == {PERIOD: [3] if cloudy else [2, 3]}


def test_a_mask_that_is_never_read_is_said_to_be_why(world):
    world.configure(attempts=2, window_days=3, composite="median")
    first, second = world.scene(2), world.scene(3)
    second["properties"]["eo:cloud_cover"] = 60
    world.publish(first, second)
    (world.folder / "images" / "3" / "SCL.tif").write_bytes(b"")
    assert [told(world.one(day)) for day in (4, 5, 6)] == [[(PERIOD, "failed")], [(PERIOD, "mapped")], []]
    assert current(world) == {PERIOD: [2]}
    (reason,) = (row["reason"] for row in world.rows("scenes") if row["state"] == "skipped")
    assert reason.startswith("60.0 % cloud over its tile, above max_cloud 40. Its mask cannot be read")


def test_what_is_mapped_is_not_given_up_for_a_late_scene_where_it_cannot_be_read(world):
    world.configure(attempts=2, window_days=3, composite="median")
    world.publish(world.scene(1))
    world.one(1)
    (world.folder / "images" / "1" / "B04.tif").write_bytes(b"")
    world.publish(world.scene(1), world.scene(2))
    assert [told(world.one(day)) for day in (2, 3, 4)] == [[(PERIOD, "failed")], [(PERIOD, "failed")], []]
    assert current(world) == {PERIOD: [1]}


def test_whatever_a_catalogue_lists_the_map_never_loses_a_scene(world):
    """Ten nights of gaps, late scenes and unreadable masks, by a fixed dice."""
    rng = np.random.default_rng(12)
    items = {day: world.scene(day) for day in range(1, 7)}
    world.configure(window_days=3, composite="median", attempts=30)
    had = {}
    for day in range(6, 16):
        listed = [item for item in items.values() if rng.random() < 0.7]
        mask = world.folder / "images" / str(rng.integers(1, 7)) / "SCL.tif"
        whole = mask.read_bytes()
        mask.write_bytes(b"")
        world.publish(*listed)
        world.one(day)
        mask.write_bytes(whole)
        for name, days in current(world).items() if world.rows("maps") else ():
            assert set(had.get(name, ())) <= set(days)
            had[name] = days
    world.publish(*items.values())
    world.one(16)
    assert current(world) == {period(1): [1, 2, 3], period(4): [4, 5, 6]}
    assert set(Counter(row["scene_id"] for row in world.rows("scenes")).values()) == {1}
    folders = {path.parent.name for path in world.out.glob("valley/*/run.json")}
    assert folders == {row["map_id"] for row in world.rows("maps")}  # nothing is left over


def test_a_scene_noted_by_another_run_since_the_search_costs_it_no_try(world, monkeypatch):
    one, two = world.scene(2), world.scene(3)
    world.publish(one)
    work = nightly_run.do_period

    def beside(context, due):
        monkeypatch.setattr(nightly_run, "do_period", work)
        held = context.ledger.lease(due, "another", now_utc=context.clock(), minutes=9, attempts=5)
        world.publish(one, two)
        assert told(world.one(4)) == []  # it only notes the second
        context.ledger.release(held)
        return work(context, due)

    monkeypatch.setattr(nightly_run, "do_period", beside)
    assert told(world.one(4)) == [(PERIOD, "mapped")]
    assert sorted((row["state"], row["attempts"]) for row in world.rows("scenes")) == [
        ("found", 0),
        ("mapped", 1),
    ]
    assert told(world.one(5)) == [(PERIOD, "mapped")]
    assert current(world) == {PERIOD: [2, 3]}


# Runs beside each other, and what they leave.


@pytest.mark.parametrize("settles_first", ["this", "other"])
def test_runs_with_other_models_delete_nothing_of_each_other(world, settles_first):
    world.configure()
    world.publish(world.scene(1))
    world.one(1)
    world.publish(world.scene(1), world.scene(1, "late", tile=EAST))
    done = []

    def beside():
        if not done:
            done.append(other_model(world, 2))

    if settles_first == "other":
        beside()
    area = world.one(2, load=lambda model, device: Interfering(beside))
    assert told(area) == [(period(1), "mapped")]
    other_model(world, 3)
    maps = world.rows("maps")
    assert world.maps() == sorted(row["map_id"] for row in maps)
    for path in world.out.glob("valley/*/item.json"):
        for link in json.loads(path.read_text())["links"]:
            if "version" in link["rel"]:
                assert (path.parent / link["href"]).is_file()


def test_what_was_never_entered_is_cleared_away_when_its_period_is_mapped_otherwise(world):
    world.publish(world.scene(1))
    world.one(1)
    (name,) = world.maps()
    left = world.out / "valley" / f"{PERIOD}-{'0' * 12}"
    shutil.copytree(world.out / "valley" / name, left)
    item = json.loads((left / "item.json").read_text())
    del item["properties"]["version"]
    (left / "item.json").write_text(json.dumps(item))
    half = world.out / "valley" / f"{PERIOD}-{'1' * 12}"
    held = world.out / "valley" / f"{PERIOD}-{'2' * 12}"
    for folder in (half, held):
        folder.mkdir()
        (folder / "landuse.tif").write_bytes(b"II")
    world.publish(world.scene(1), world.scene(2))
    with Store.at(held).locked():  # by a run whose lease has lapsed
        assert told(world.one(2)) == [(PERIOD, "mapped")]
    assert (left.exists(), half.exists(), held.exists()) == (False, False, True)
    assert (world.out / "valley" / name).exists()


def test_a_run_that_is_still_at_a_period_whose_lease_lapsed_stops_only_that_one(world):
    world.configure(lease_minutes=1)
    world.publish(*(world.scene(day) for day in (1, 2, 3)))
    later = []

    def beside():
        if not later:
            later.append(None)
            later.append(run_here(world.config, night(4)).areas[0])

    first = world.one(3, load=lambda model, device: Interfering(beside))
    assert told(later[1]) == [(period(1), "left"), (period(2), "mapped"), (period(3), "mapped")]
    assert "at work" in later[1].periods[0].reason
    assert not later[1].error
    assert {entry.state for entry in first.periods} == {"left"}
    assert told(world.one(5)) == [(period(1), "mapped")]


class Dead(BaseException):
    """As a killed process."""


def test_what_every_run_dies_of_is_told_as_a_failure_when_it_is_parked(world):
    world.configure(attempts=2)
    world.publish(world.scene(1), world.scene(2))

    def die():
        raise Dead

    for day in (2, 3):
        with pytest.raises(Dead):
            world.night(day, load=lambda model, device: Interfering(die))
    report = world.night(4)
    (area,) = report.areas
    assert report.exit_code == 11
    (entry,) = area.earlier
    assert entry.first_day == period(1)
    assert entry.reason.startswith("2 tries were cut off")
    assert told(area) == [(period(2), "mapped")]
    assert world.states() == [(period(1), "parked"), (period(2), "mapped")]
    assert world.night(5).exit_code == 0


def test_fewer_attempts_park_what_has_failed_more_often(world):
    world.configure(attempts=5)
    world.publish(world.scene(1, dn=np.full_like(land(1), 9000)))
    for day in (1, 2, 3):
        world.night(day, load=lambda model, device: Faulty())
    world.configure(attempts=2)
    assert world.night(4).exit_code == 11
    assert world.states() == [(period(1), "parked")]


def test_a_period_that_cannot_be_written_stops_no_other_and_is_parked(world):
    world.configure(attempts=2)
    world.publish(world.scene(1))
    world.one(1)
    (name,) = world.maps()
    # A file stands where the period's folder would be.
    shutil.rmtree(world.out)
    world.out.mkdir()
    (world.out / "valley").mkdir()
    (world.out / "valley" / name).write_text("in the way")
    for day in (2, 3):
        world.publish(*(world.scene(number) for number in range(1, day + 1)))
        (area,) = world.night(day).areas
        assert told(area) == [(period(1), "failed"), (period(day), "mapped")]
        assert name in area.periods[0].reason
    assert world.states() == [(period(1), "parked"), (period(2), "mapped"), (period(3), "mapped")]
    assert world.night(4).exit_code == 0


def test_a_period_that_alone_cannot_be_written_is_parked_too(world):
    world.configure(attempts=2)
    world.publish(world.scene(1))
    world.one(1)
    (name,) = world.maps()
    shutil.rmtree(world.out)
    (world.out / "valley").mkdir(parents=True)
    (world.out / "valley" / name).write_text("in the way")
    for day in (2, 3):
        report = world.night(day)
        assert told(report.areas[0]) == [(period(1), "failed")]
        assert (report.areas[0].error, report.exit_code) == ("", 11)
    assert world.states() == [(period(1), "parked")]
    assert world.night(4).exit_code == 0


def test_where_nothing_can_be_written_the_area_says_so_and_no_try_is_used_up(world, monkeypatch):
    no_room(monkeypatch)
    world.configure()
    world.publish(world.scene(1), world.scene(2))

    def fill():
        for folder in (world.out / "valley").glob("*/.blocks-*"):
            if folder.is_dir():
                shutil.rmtree(folder)
                folder.write_text("no room for blocks")

    report = world.night(2, load=lambda model, device: Interfering(fill))
    assert report.exit_code == 11
    assert "cannot be written" in report.areas[0].error
    assert [row["attempts"] for row in world.rows("scenes")] == [0, 0]


def test_a_catalogue_that_cannot_be_read_keeps_no_period_from_being_mapped(world):
    world.configure()
    world.publish(*(world.scene(day) for day in (1, 2, 3)))
    (world.out / "valley").mkdir(parents=True)
    (world.out / "valley" / "catalog.json").write_text("{")
    report = world.night(3)
    (area,) = report.areas
    assert told(area) == [(period(day), "mapped") for day in (1, 2, 3)]
    assert len(area.changes) == 2
    assert "catalog.json holds no JSON" in area.error
    assert report.exit_code == 11
    (world.out / "valley" / "catalog.json").unlink()
    assert world.night(4).exit_code == 0
    check_items(world)


@pytest.mark.parametrize("content", ["{", "", "[1]", "\xff"])
def test_a_report_that_is_cut_off_is_made_anew(world, content):
    world.publish(world.scene(1))
    world.one(1)
    path = world.out / "valley" / forget(world) / "run.json"
    path.write_bytes(content.encode("latin-1"))
    assert told(world.one(2)) == [(PERIOD, "mapped")]
    assert current(world) == {PERIOD: [1]}


@pytest.mark.parametrize("odd", ["x" * 201, "a\nb"])
def test_a_scene_with_an_odd_name_is_mapped_all_the_same(world, odd):
    world.publish({**world.scene(1), "id": odd})
    assert told(world.one(1)) == [(PERIOD, "mapped")]
    assert world.one(2).periods == ()
    (row,) = world.rows("scenes")
    assert len(row["scene_id"]) <= 200
    assert row["scene_id"].isprintable()


# Settings that change.


def check_items(world):
    """What the catalogue says of each map is what the ledger says."""
    for row in world.rows("maps"):
        item = json.loads((world.out / row["path"] / "item.json").read_text())
        links = {link["rel"]: link["href"] for link in item["links"]}
        successor = row["superseded_by"] and f"../{row['superseded_by']}/item.json"
        assert links.get("successor-version") == successor
        assert item["properties"]["deprecated"] == (successor is not None)


def folders(world):
    return {path.parent.name: path.stat().st_mtime_ns for path in world.out.glob("valley/*/run.json")}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cell_m": 80}, "stride_px 16 -> 8"),
        ({"composite": "median"}, "composite best -> median"),
        ({"max_cloud": 55}, "max_cloud 40.0 -> 55.0"),
        ({"window_days": 3}, "window_days 1 -> 3"),
        ({"areas": {"valley": (HILL, {})}}, "place "),
    ],
)
def test_changed_settings_are_told_and_what_was_looked_at_is_mapped_anew_once(world, changed, named):
    world.configure()
    world.publish(*(world.scene(day) for day in (1, 2, 3)))
    world.one(3)
    first = folders(world)
    world.configure(**changed)
    heard = []
    area = world.one(4, tell=lambda name, line: heard.append(line))
    assert any(named in line for line in heard)
    expected = {period(1): [1, 2, 3]} if "window_days" in changed else {period(d): [d] for d in (1, 2, 3)}
    assert told(area) == [(name, "mapped") for name in expected]
    assert world.one(5).periods == ()
    now = {row["window"]: row["map_id"] for row in world.rows("maps") if row["superseded_by"] is None}
    assert set(now) == set(expected)
    assert not set(now.values()) & set(first)
    assert {name: folders(world)[name] for name in first} == first  # they stay, untouched
    check_items(world)
    # Back again: nothing is to be mapped, and the first maps are current.
    world.configure()
    assert world.one(6).periods == ()
    check_items(world)
    assert current(world) == {period(day): [day] for day in (1, 2, 3)}
    assert {row["map_id"] for row in world.rows("maps") if row["superseded_by"] is None} == set(first)
    pairs = [json.loads(path.read_text()) for path in world.out.glob("valley/changes/*/change.json")]
    assert len(pairs) == 2
    assert {name for pair in pairs for name in pair["made_of"]["maps"]} == set(first)


def test_more_cloud_allowed_brings_back_what_was_skipped(world):
    world.configure()
    world.publish(world.scene(1, cloudy=True))
    assert told(world.one(1)) == [(period(1), "skipped")]
    world.configure(max_cloud=100)
    assert told(world.one(2, dry_run=True)) == [(period(1), "due")]
    assert told(world.one(2)) == [(period(1), "mapped")]


def test_a_model_and_back_again(world):
    world.configure()
    world.publish(world.scene(1), world.scene(2))
    world.one(2)
    assert [entry.state for entry in other_model(world, 3).periods] == ["mapped", "mapped"]
    assert world.one(4).periods == ()
    world.publish(*(world.scene(day) for day in (1, 2, 3)))
    assert world.one(5).changes == (f"valley/changes/{period(2)}_{period(3)}",)
    latest = [row for row in world.rows("maps") if row["superseded_by"] is None]
    assert {row["model_sha256"] for row in latest} == {MODELS["first"].weights_sha256}
    assert len(latest) == 3
    check_items(world)


def test_settings_changed_in_a_gap_lose_nothing_in_the_end(world):
    one, two = world.scene(1), world.scene(2)
    world.publish(one, two)
    world.one(2)
    world.configure(window_days=3, composite="median", cell_m=80)
    world.publish(two)
    world.one(3)
    world.publish(one, two)
    world.one(4)
    assert current(world) == {PERIOD: [1, 2]}
