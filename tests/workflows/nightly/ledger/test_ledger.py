"""The ledger on both of its databases.

Oracles: Python's own sqlite3 and psycopg as independent readers, other processes that are killed for
real, and in the property a small model of who may hold what, written out anew.
"""

import hashlib
import json
import random
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from landuse.errors import LeaseLostError, LedgerError, UsageError
from landuse.workflows.nightly.ledger import schema
from landuse.workflows.nightly.ledger.ledger import Ledger
from landuse.workflows.nightly.ledger.records import (
    DuePeriod,
    MapRecord,
    MapRow,
    NewMap,
    SceneState,
    Sighting,
    kept_id,
)
from landuse.workflows.nightly.ledger.rows import succession
from tests.postgres import PASSWORD
from tests.warm import Warm
from tests.workflows.nightly.ledger.workers import AREA, ATTEMPTS, RECIPE, many_sightings

NOW = datetime(2024, 6, 20, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
OTHER = replace(RECIPE, model_sha256="n" * 64)
MINUTES = 240


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    server = request.getfixturevalue("postgres")
    return server.url(server.new_database())


@pytest.fixture
def ledger(url):
    with Ledger.at(url) as opened:
        yield opened


def sighting(scene_id="S2A_33UUP", *, baseline="05.10", day=1, period=None):
    acquired = datetime(2024, 6, day, 10, 10, 31, 24000, tzinfo=UTC)
    return Sighting(
        scene_id=scene_id,
        baseline=baseline,
        acquired_utc=acquired,
        period=period or f"{acquired:%Y-%m-%d}",
    )


_ids = count()


def new_map(name=None, created_utc=NOW):
    return NewMap(map_id=name or f"map-{next(_ids)}", created_utc=created_utc, path="maps/2024", valid=0.75)


def due(ledger, now_utc=NOW, *, recipe=RECIPE, attempts=ATTEMPTS, area=AREA):
    return ledger.periods_to_do(area, recipe, now_utc, attempts)


def take(ledger, period, now_utc=NOW, *, owner="a", minutes=MINUTES, attempts=ATTEMPTS):
    return ledger.lease(period, owner, now_utc=now_utc, minutes=minutes, attempts=attempts)


def take_first(ledger, now_utc=NOW, **kwargs):
    return take(ledger, due(ledger, now_utc)[0], now_utc, **kwargs)


def map_it(ledger, lease, sightings, *, now_utc=NOW, made=None, skipped=None):
    return ledger.settle_mapped(
        lease, made or new_map(created_utc=now_utc), sightings, skipped or {}, now_utc=now_utc, seconds=60.0
    )


def states(ledger, recipe=RECIPE):
    return {(row.scene_id, row.baseline): row.state.value for row in ledger.scenes(AREA, recipe)}


def test_a_scene_is_found_mapped_and_then_left_alone(ledger):
    scene = sighting()
    assert ledger.note_found(AREA, [scene], RECIPE, NOW) == 1
    (period,) = due(ledger)
    assert (period.area, period.first_day, period.recipe) == (AREA, "2024-06-01", RECIPE)
    assert period.scenes == (scene.key,)
    lease = take(ledger, period)
    assert lease.expires_utc == NOW + timedelta(minutes=MINUTES)
    made = map_it(ledger, lease, [scene], now_utc=NOW + timedelta(minutes=5))
    (row,) = ledger.scenes(AREA, RECIPE)
    assert row.state is SceneState.MAPPED
    assert (row.map_id, row.attempts, row.seconds, row.reason) == (made.map_id, 1, 60.0, "")
    assert (row.first_seen_utc, row.updated_utc) == (NOW, NOW + timedelta(minutes=5))
    assert row.acquired_utc == scene.acquired_utc
    assert row.acquired_utc.tzinfo is UTC
    assert ledger.latest_maps(AREA) == (made,)
    for night in range(3):
        ledger.note_found(AREA, [scene], RECIPE, NOW + night * DAY)
        assert due(ledger, NOW + night * DAY) == ()
        assert take(ledger, period, NOW + night * DAY) is None


def test_noting_scenes_late_twice_and_out_of_order_changes_nothing(ledger):
    scenes = [sighting(f"S{day}", day=day) for day in range(1, 6)]
    for batch in (scenes[3:], scenes[3:] * 2, scenes[:2], list(reversed(scenes)), []):
        ledger.note_found(AREA, batch, RECIPE, NOW)
    noted = ledger.scenes(AREA, RECIPE)
    assert [row.scene_id for row in noted] == ["S1", "S2", "S3", "S4", "S5"]
    # Even where a provider changed its mind about the time, or the period's length was changed.
    moved = [replace(scene, period="2024-05-30", acquired_utc=scene.acquired_utc + DAY) for scene in scenes]
    assert ledger.note_found(AREA, moved, RECIPE, NOW + DAY) == 0
    assert ledger.scenes(AREA, RECIPE) == noted
    assert [period.first_day for period in due(ledger)] == [scene.period for scene in scenes]


def test_reprocessing_backfill_and_a_new_model_are_each_mapped_again_and_supersede(ledger):
    first, late = sighting("S2A_33UUP"), sighting("S2A_33UVP")
    newer = replace(first, baseline="05.11")
    chain = []
    for scenes, recipe in (
        ([first], RECIPE),
        ([first, late], RECIPE),
        ([newer, late], RECIPE),
        ([newer, late], OTHER),
    ):
        ledger.note_found(AREA, [first, *scenes], recipe, NOW)
        (period,) = due(ledger, recipe=recipe)
        chain.append(map_it(ledger, take(ledger, period), scenes))
        if recipe != RECIPE:  # the old baseline would be due for ever, if nothing were said of it
            (period,) = due(ledger, recipe=recipe)
            assert period.scenes == (first.key,)
            ledger.settle_skipped(
                take(ledger, period), {first: "superseded by baseline 05.11"}, now_utc=NOW, seconds=0.0
            )
        assert due(ledger, recipe=recipe) == ()
    assert [row.superseded_by for row in ledger.all_maps(AREA)] == [
        *(row.map_id for row in chain[1:]),
        None,
    ]
    assert ledger.latest_maps(AREA) == (chain[-1],)
    assert chain[-1].scene_ids == ("S2A_33UUP", "S2A_33UVP")
    # A scene's map is the one that it first went into: it was mapped once.
    first_in = {row.key: row.map_id for row in ledger.scenes(AREA, RECIPE)}
    assert first_in == {
        scene.key: row.map_id for scene, row in zip((first, late, newer), chain[:3], strict=True)
    }
    assert states(ledger, OTHER) == {
        ("S2A_33UUP", "05.10"): "skipped",
        ("S2A_33UUP", "05.11"): "mapped",
        ("S2A_33UVP", "05.10"): "mapped",
    }


def current(ledger):
    return {row.map_id for row in ledger.latest_maps(AREA)}


def map_day(ledger, name, recipe, *days, period=None, noted_utc=NOW):
    """A map of the scenes of some days, of their period."""
    scenes = [sighting(f"{name}-{day}", day=day, period=period) for day in days]
    ledger.note_found(AREA, scenes, recipe, noted_utc)
    (found,) = due(ledger, recipe=recipe)
    return map_it(ledger, take(ledger, found), scenes, made=new_map(name))


def test_the_recipe_in_force_decides_which_maps_are_current(ledger):
    for name, day in (("a1", 1), ("a2", 2)):
        map_day(ledger, name, RECIPE, day)
    assert ledger.recipe_of(AREA) == RECIPE
    map_day(ledger, "b1", OTHER, 1)
    assert ledger.recipe_of(AREA) == OTHER
    assert current(ledger) == {"b1", "a2"}  # day 2 was not mapped anew: its map stays
    ledger.note_found(AREA, [], RECIPE, NOW)
    assert current(ledger) == {"a1", "a2"}
    map_day(ledger, "a1+", RECIPE, 1)
    assert current(ledger) == {"a1+", "a2"}
    ledger.note_found(AREA, [], OTHER, NOW)
    assert current(ledger) == {"b1", "a2"}
    chain = {row.map_id: row.superseded_by for row in ledger.all_maps(AREA)}
    assert chain == {"a1": "a1+", "a1+": "b1", "b1": None, "a2": None}


def test_a_run_with_settings_that_are_over_takes_nothing_from_those_in_force(ledger):
    map_day(ledger, "b1", OTHER, 1, noted_utc=NOW)
    made = map_day(ledger, "a1", RECIPE, 1, noted_utc=NOW - DAY)  # a slow run of the night before
    assert ledger.recipe_of(AREA) == OTHER
    assert made.superseded_by == "b1"
    assert current(ledger) == {"b1"}


def test_periods_of_another_length_supersede_those_that_they_overlap(ledger):
    for day in (1, 2, 3, 7):
        map_day(ledger, f"a{day}", RECIPE, day)
    three = replace(RECIPE, window_days=3)
    map_day(ledger, "b", three, 2, 3, period="2024-06-01")
    assert current(ledger) == {"b", "a7"}
    assert {row.superseded_by for row in ledger.all_maps(AREA) if row.map_id in ("a1", "a2", "a3")} == {"b"}
    ledger.note_found(AREA, [], RECIPE, NOW)
    assert current(ledger) == {"a1", "a2", "a3", "a7"}


def test_a_map_of_many_days_stays_until_those_of_its_days_show_all_of_it(ledger):
    """What the catalogue calls a scene may change meanwhile."""
    whole = replace(RECIPE, window_days=30)
    scenes = [sighting(f"S{day}", day=day, period="2024-06-01") for day in (2, 3, 7)]
    ledger.note_found(AREA, scenes, whole, NOW)
    (period,) = due(ledger, recipe=whole)
    map_it(ledger, take(ledger, period), scenes, made=new_map("whole"))
    for day, shown in ((2, {"whole", "d2"}), (7, {"whole", "d2", "d7"}), (3, {"d2", "d3", "d7"})):
        again = sighting(f"again-S{day}", day=day)
        ledger.note_found(AREA, [again], RECIPE, NOW)
        (period,) = due(ledger)
        map_it(ledger, take(ledger, period), [again], made=new_map(f"d{day}"))
        assert current(ledger) == shown
    ledger.note_found(AREA, [], whole, NOW)
    assert current(ledger) == {"whole"}


def test_a_damaged_map_is_made_again_under_its_name(ledger):
    scenes = [sighting(f"S{day}", day=day, period="2024-06-01") for day in (1, 2)]
    for batch in (scenes[:1], scenes):
        ledger.note_found(AREA, batch, RECIPE, NOW)
        made = map_it(ledger, take_first(ledger), batch)
    old, row = ledger.all_maps(AREA)
    assert made == row

    def again(row, now_utc=NOW, recipe=RECIPE):
        ledger.map_again(row, recipe, "cut", now_utc, lambda moment: f"{moment:%Y-%m-%d}")
        return [(period.first_day, period.scenes) for period in due(ledger, recipe=recipe)]

    assert again(old) == []  # another one shows its scenes
    held = take_first_of(ledger)
    assert again(row) == []  # another run is at it
    ledger.release(held)
    assert again(replace(row, created_utc=NOW - DAY)) == []  # it was made again since
    assert again(row) == [("2024-06-01", tuple(scene.key for scene in scenes))]
    once_more = map_it(ledger, take_first(ledger), scenes, made=new_map(row.map_id, NOW + DAY))
    assert (once_more.number, once_more.created_utc) == (row.number, NOW + DAY)
    assert [entry.map_id for entry in ledger.all_maps(AREA)] == [old.map_id, row.map_id]
    assert due(ledger) == ()
    # With other settings it is not made as it was.
    days = replace(RECIPE, window_days=2)
    assert again(once_more, recipe=days) == [(f"2024-06-0{day}", (scenes[day - 1].key,)) for day in (1, 2)]
    assert due(ledger) == ()


def take_first_of(ledger):
    """A lease on the period of the first two days, of a run with other settings."""
    ledger.note_found(AREA, [sighting("X", day=2, period="2024-06-01")], OTHER, NOW)
    (period,) = due(ledger, recipe=OTHER)
    held = take(ledger, period)
    ledger.note_found(AREA, [], RECIPE, NOW)
    return held


def test_what_a_map_records_restores_it(ledger, tmp_path):
    """Oracle: all rows of the ledger that is lost."""
    scenes = [sighting(f"S{day}", day=day) for day in (1, 2)]
    for recipe in (RECIPE, OTHER):
        ledger.note_found(AREA, scenes, recipe, NOW)
        first, second = due(ledger, recipe=recipe)
        map_it(ledger, take(ledger, first), scenes[:1], made=new_map(f"{recipe.model_sha256[0]}1"))
        cloudy = replace(scenes[1], scene_id="cloudy")
        name = f"{recipe.model_sha256[0]}2"
        map_it(ledger, take(ledger, second), scenes[1:], made=new_map(name), skipped={cloudy: "cloud"})
    ledger.note_found(AREA, [], RECIPE, NOW)
    ledger.note_changes(AREA, {"m2": ("valley/changes/a",)})
    records = [MapRecord.from_dict(json.loads(json.dumps(one.to_dict()))) for one in ledger.records(AREA)]
    with Ledger.at(f"sqlite:///{tmp_path}/other.sqlite") as other:
        assert other.restore(AREA, records[1:]) == 3
        assert other.restore(AREA, records) == 1
        assert other.restore(AREA, records) == 0
        assert other.all_maps(AREA) == ledger.all_maps(AREA)
        assert other.records(AREA) == ledger.records(AREA)
        for recipe in (RECIPE, OTHER):
            assert other.scenes(AREA, recipe) == ledger.scenes(AREA, recipe)
            assert due(other, recipe=recipe) == ()
        assert other.recipe_of(AREA) == RECIPE


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["map"].update(path="../../x"),
        lambda record: record["map"].update(valid="much"),
        lambda record: record["map"].update(recipe="0" * 64),
        lambda record: record["recipe"].update(window_days=[]),
        lambda record: record["scenes"][0].update(map_id="other"),
        lambda record: record["scenes"][0].update(scene_id=""),
        lambda record: record.pop("map"),
    ],
)
def test_a_record_that_does_not_hold_together_is_refused(ledger, change):
    ledger.note_found(AREA, [sighting()], RECIPE, NOW)
    map_it(ledger, take_first(ledger), [sighting()])
    (record,) = (one.to_dict() for one in ledger.records(AREA))
    MapRecord.from_dict(record)
    change(record)
    with pytest.raises((ValueError, UsageError)):
        MapRecord.from_dict(record)


@given(
    maps=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 5])), min_size=1, max_size=12),
    turns=st.permutations([1, 2, 5]),
)
@example(maps=[(1, 1), (1, 5), (3, 2)], turns=[2, 5, 1])  # of two lengths from the same first day
def test_each_day_has_at_most_one_current_map(maps, turns):
    """Oracle: the ranks, looked up anew for every day."""
    rows = [
        MapRow(
            map_id=str(number), area=AREA, period=f"2024-06-{day - (day - 1) % days:02}", window_days=days,
            number=number, created_utc=NOW, model_sha256="", recipe=str(days), path="p", scene_ids=(),
            valid=1.0, superseded_by=None, change_paths=(),
        )
        for number, (day, days) in enumerate(maps)
    ]  # fmt: skip
    found = succession(rows, {str(days): turn for turn, days in enumerate(turns)}, {})
    latest = [row for row in rows if found[row.map_id] is None]
    for day in range(1, 31):
        shown = [row for row in rows if int(row.period[-2:]) <= day < int(row.period[-2:]) + row.window_days]
        there = [row for row in latest if row in shown]
        assert len(there) <= 1
        if shown:
            best = max(shown, key=lambda row: (turns.index(row.window_days), row.number))
            assert there in ([], [best])
    for row in rows:  # whatever is superseded leads to a map that is not
        name, steps = row.map_id, 0
        while found[name] is not None:
            name, steps = found[name], steps + 1
            assert steps < len(rows)


def test_a_recipe_says_what_is_otherwise():
    told = replace(RECIPE, stride_px=8, model_sha256="n" * 64).changes_from(RECIPE)
    assert told == "model mmmmmmmmmmmm -> nnnnnnnnnnnn, stride_px 16 -> 8"


def test_maps_of_other_periods_and_areas_supersede_nothing(ledger):
    for area, day in (("valley", 1), ("valley", 2), ("coast", 1)):
        scene = sighting(f"S{day}", day=day)
        ledger.note_found(area, [scene], RECIPE, NOW)
        (period,) = due(ledger, area=area)
        map_it(ledger, take(ledger, period), [scene])
    assert [row.period for row in ledger.latest_maps("valley")] == ["2024-06-01", "2024-06-02"]
    assert [row.period for row in ledger.latest_maps("coast")] == ["2024-06-01"]


def test_a_lease_is_of_one_run_until_it_lapses(ledger):
    ledger.note_found(AREA, [sighting()], RECIPE, NOW)
    (period,) = due(ledger)
    assert take(ledger, period, owner="a") is not None
    last = NOW + timedelta(minutes=MINUTES) - timedelta(seconds=1)
    for now_utc in (NOW, last):
        assert due(ledger, now_utc) == ()
        assert take(ledger, period, now_utc, owner="b") is None
        assert take(ledger, period, now_utc, owner="a") is None  # a run holds what it holds once
    assert due(ledger, last + timedelta(seconds=1)) == (period,)
    assert take(ledger, period, last + timedelta(seconds=1), owner="b") is not None


def test_periods_and_areas_are_leased_apart_and_recipes_are_not(ledger):
    for area, day in (("valley", 1), ("valley", 2), ("coast", 1)):
        ledger.note_found(area, [sighting(f"S{day}", day=day)], RECIPE, NOW)
        period = next(w for w in due(ledger, area=area) if w.first_day == sighting(day=day).period)
        assert take(ledger, period, owner=f"{area} {day}") is not None
    # Runs with other settings work in the same folders: one after the other.
    ledger.note_found("valley", [sighting("S1", day=1)], OTHER, NOW)
    assert due(ledger, recipe=OTHER) == ()
    assert take(ledger, replace(any_period("valley"), recipe=OTHER, scenes=(sighting("S1").key,))) is None
    assert len(due(ledger, NOW + DAY, recipe=OTHER)) == 1


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_run_that_comes_too_late_changes_nothing(ledger, is_taken):
    scene = sighting()
    ledger.note_found(AREA, [scene], RECIPE, NOW)
    lease = take_first(ledger, owner="a")
    late = lease.expires_utc
    if is_taken:
        assert take_first(ledger, late, owner="b") is not None
    before = ledger.scenes(AREA, RECIPE)
    for settle in (
        lambda: map_it(ledger, lease, [scene], now_utc=late),
        lambda: ledger.settle_failed(lease, "too late", now_utc=late, attempts=1, seconds=1.0),
        lambda: ledger.settle_skipped(lease, {scene: "too late"}, now_utc=late, seconds=1.0),
        lambda: ledger.renew(lease, now_utc=late, minutes=1),
    ):
        with pytest.raises(LeaseLostError, match=r"2024-06-01.*'valley'.*'a'.*2024-06-20 06:00"):
            settle()
    if is_taken:
        ledger.release(lease)
    assert ledger.scenes(AREA, RECIPE) == before
    assert ledger.all_maps(AREA) == ()
    assert len(due(ledger, late)) == (0 if is_taken else 1)


def test_a_lease_is_settled_once(ledger):
    scene = sighting()
    ledger.note_found(AREA, [scene], RECIPE, NOW)
    lease = take_first(ledger)
    map_it(ledger, lease, [scene])
    with pytest.raises(LeaseLostError):
        map_it(ledger, lease, [scene])
    assert len(ledger.all_maps(AREA)) == 1


def test_a_renewed_lease_lasts_longer(ledger):
    scene = sighting()
    ledger.note_found(AREA, [scene], RECIPE, NOW)
    lease = take_first(ledger)
    later = NOW + timedelta(minutes=200)
    renewed = ledger.renew(lease, now_utc=later, minutes=MINUTES)
    assert renewed.expires_utc == later + timedelta(minutes=MINUTES)
    assert due(ledger, lease.expires_utc) == ()
    map_it(ledger, lease, [scene], now_utc=lease.expires_utc)  # the older record of it will do
    assert states(ledger) == {("S2A_33UUP", "05.10"): "mapped"}


def test_a_period_released_is_due_at_once_and_its_try_not_counted(ledger):
    ledger.note_found(AREA, [sighting()], RECIPE, NOW)
    for _ in range(3):
        ledger.release(take_first(ledger, attempts=1))
    assert [row.attempts for row in ledger.scenes(AREA, RECIPE)] == [0]


def test_what_failed_is_tried_once_a_night_and_then_parked(ledger):
    ledger.note_found(AREA, [sighting("A"), sighting("B")], RECIPE, NOW)
    for night in range(3):
        now_utc = NOW + night * DAY
        assert due(ledger, now_utc, attempts=3) != ()
        lease = take_first(ledger, now_utc, attempts=3)
        failed = now_utc + timedelta(hours=2)
        ledger.settle_failed(
            lease, f"no imagery\n\x1b[31m at https://me:pw@host/x?sig=secret, {night}", now_utc=failed,
            attempts=3, seconds=7200.0,
        )  # fmt: skip
        rows = ledger.scenes(AREA, RECIPE)
        expected = "parked" if night == 2 else "failed"
        assert [(row.state.value, row.attempts) for row in rows] == [(expected, night + 1)] * 2
        assert {row.reason for row in rows} == {f"no imagery ?[31m at https://host/x {night}"}
        assert due(ledger, failed + timedelta(hours=1), attempts=3) == ()
        assert take(ledger, lease.on, failed + timedelta(hours=1), attempts=3) is None
    assert due(ledger, NOW + 30 * DAY, attempts=3) == ()
    # Whoever allows more tries gets them.
    assert len(due(ledger, NOW + 30 * DAY, attempts=4)) == 1


def test_a_period_that_kills_every_run_is_parked(ledger):
    ledger.note_found(AREA, [sighting()], RECIPE, NOW)
    now_utc = NOW
    for tried in range(3):
        assert take_first(ledger, now_utc, attempts=3) is not None
        assert [row.attempts for row in ledger.scenes(AREA, RECIPE)] == [tried + 1]
        ledger.park_spent(AREA, RECIPE, now_utc, 3)  # another run comes by: the last try may yet succeed
        assert states(ledger) == {("S2A_33UUP", "05.10"): "found"}
        now_utc += timedelta(minutes=MINUTES)
    assert due(ledger, now_utc, attempts=3) == ()
    ledger.park_spent(AREA, RECIPE, now_utc, 3)
    (row,) = ledger.scenes(AREA, RECIPE)
    assert row.state is SceneState.PARKED
    assert row.updated_utc == now_utc
    assert row.reason.startswith("3 tries were cut off")
    assert due(ledger, now_utc + DAY, attempts=3) == ()


def test_fewer_attempts_than_there_were_park_what_failed(ledger):
    ledger.note_found(AREA, [sighting()], RECIPE, NOW)
    for night in range(3):
        lease = take_first(ledger, NOW + night * DAY, attempts=5)
        ledger.settle_failed(lease, "broken", now_utc=NOW + night * DAY, attempts=5, seconds=1.0)
    ledger.park_spent(AREA, RECIPE, NOW + 3 * DAY, 2)
    (row,) = ledger.scenes(AREA, RECIPE)
    assert (row.state, row.reason) == (SceneState.PARKED, "broken")
    assert len(due(ledger, NOW + 4 * DAY, attempts=4)) == 1


def test_a_lease_is_on_what_was_due_and_not_on_what_was_noted_since(ledger):
    scene, late = sighting("A"), sighting("B")
    ledger.note_found(AREA, [scene], RECIPE, NOW)
    (period,) = due(ledger)
    ledger.note_found(AREA, [late], RECIPE, NOW)
    lease = take(ledger, period)
    assert lease.on.scenes == (scene.key,)
    assert {row.scene_id: row.attempts for row in ledger.scenes(AREA, RECIPE)} == {"A": 1, "B": 0}
    ledger.settle_failed(lease, "broken", now_utc=NOW, attempts=5, seconds=1.0)
    assert states(ledger) == {("A", "05.10"): "failed", ("B", "05.10"): "found"}


def test_a_parked_scene_is_mapped_with_a_late_one_of_its_period(ledger):
    old, late = sighting("A"), sighting("B")
    ledger.note_found(AREA, [old], RECIPE, NOW)
    ledger.settle_failed(take_first(ledger), "broken", now_utc=NOW, attempts=1, seconds=1.0)
    assert states(ledger) == {("A", "05.10"): "parked"}
    ledger.note_found(AREA, [late], RECIPE, NOW + DAY)
    (period,) = due(ledger, NOW + DAY, attempts=1)
    assert period.scenes == (late.key,)
    lease = take(ledger, period, NOW + DAY, attempts=1)
    map_it(ledger, lease, [old, late], now_utc=NOW + DAY)
    assert states(ledger) == {("A", "05.10"): "mapped", ("B", "05.10"): "mapped"}


def test_a_scene_found_while_its_period_is_mapped_stays_due(ledger):
    scene, late = sighting("A"), sighting("B")
    ledger.note_found(AREA, [scene], RECIPE, NOW)
    lease = take_first(ledger)
    ledger.note_found(AREA, [late], RECIPE, NOW)
    ledger.settle_failed(lease, "broken", now_utc=NOW, attempts=5, seconds=1.0)
    map_it(ledger, take_first(ledger, NOW + DAY), [scene], now_utc=NOW + DAY)
    (period,) = due(ledger, NOW + DAY)
    assert period.scenes == (late.key,)


def test_a_scene_in_a_map_that_nobody_noted_is_entered(ledger):
    scene, unknown, skipped = sighting("A"), sighting("B"), sighting("C")
    ledger.note_found(AREA, [scene], RECIPE, NOW)
    map_it(ledger, take_first(ledger), [scene, unknown], skipped={skipped: "cloud 97 %"})
    ledger.note_found(AREA, [scene, unknown, skipped], RECIPE, NOW)
    assert due(ledger) == ()
    rows = {row.scene_id: (row.state.value, row.reason) for row in ledger.scenes(AREA, RECIPE)}
    assert rows == {"A": ("mapped", ""), "B": ("mapped", ""), "C": ("skipped", "cloud 97 %")}


def test_a_dry_run_foresees_what_noting_would_make_due(url, ledger):
    noted, more = [sighting(f"S{day}", day=day) for day in (1, 2, 3)], sighting("T2", day=2)
    ledger.note_found(AREA, noted, RECIPE, NOW)
    map_it(ledger, take_first(ledger), noted[:1])
    take_first(ledger)
    fresh = [noted[0], more, sighting("S9", day=9), sighting("S4", day=4)]
    with Ledger.at(url, create=False) as reader:
        foreseen = reader.periods_to_do(AREA, RECIPE, NOW, ATTEMPTS, fresh)
    assert [row.scene_id for row in ledger.scenes(AREA, RECIPE)] == ["S1", "S2", "S3"]
    ledger.note_found(AREA, fresh, RECIPE, NOW)
    assert foreseen == due(ledger)
    assert [period.first_day for period in foreseen] == ["2024-06-03", "2024-06-04", "2024-06-09"]


def test_without_create_a_ledger_that_is_not_there_reads_as_empty(url, tmp_path):
    with Ledger.at(url, create=False) as ledger:
        assert ledger.status(NOW) == ()
        assert len(ledger.periods_to_do(AREA, RECIPE, NOW, ATTEMPTS, [sighting()])) == 1
    assert list(tmp_path.iterdir()) == []
    with Ledger.at(url, create=False) as ledger:
        assert ledger.latest_maps(AREA) == ()


def test_status_tells_of_each_area_under_its_model(ledger):
    valley = [sighting(f"S{day}", day=day) for day in range(1, 7)]
    ledger.note_found("coast", [], OTHER, NOW - DAY)
    ledger.note_found(AREA, valley, OTHER, NOW - 2 * DAY)
    for step, period in enumerate(due(ledger, NOW, recipe=OTHER)[:1]):
        map_it(ledger, take(ledger, period), [valley[step]])
    ledger.note_found(AREA, valley, RECIPE, NOW)
    ledger.note_found(AREA, valley, OTHER, NOW - DAY)  # a slow run of the night before
    periods = due(ledger)
    late_map = map_it(ledger, take(ledger, periods[4]), [valley[4]], now_utc=NOW + timedelta(hours=1))
    ledger.settle_skipped(take(ledger, periods[0]), {valley[0]: "cloud"}, now_utc=NOW, seconds=0.0)
    ledger.settle_failed(take(ledger, periods[1]), "x", now_utc=NOW, attempts=5, seconds=1.0)
    ledger.settle_failed(take(ledger, periods[2]), "y", now_utc=NOW, attempts=1, seconds=1.0)
    take(ledger, periods[3])
    coast, area = ledger.status(NOW)
    assert (coast.area, coast.last_map, coast.newest_utc, coast.scenes["found"]) == ("coast", None, None, 0)
    assert coast.looked_utc == NOW - DAY
    assert (coast.never_listed, area.never_listed) == (True, False)
    assert (area.area, area.looked_utc) == (AREA, NOW)
    assert area.scenes == {"found": 2, "mapped": 1, "skipped": 1, "failed": 1, "parked": 1}
    assert area.running == 1
    assert area.last_map == late_map
    assert area.newest_utc == valley[4].acquired_utc
    assert [(row.scene_id, row.state.value, row.reason) for row in area.failures] == [
        ("S2", "failed", "x"),
        ("S3", "parked", "y"),
    ]
    assert ledger.status(NOW + DAY)[1].running == 0
    # Another model finds nothing new at the same place; at another place nothing ever was.
    ledger.note_found(AREA, [], replace(RECIPE, model_sha256="m" * 64), NOW + DAY)
    assert not ledger.status(NOW + DAY)[1].never_listed
    ledger.note_found(AREA, [], replace(RECIPE, place_sha256="q" * 64), NOW + 2 * DAY)
    assert ledger.status(NOW + 2 * DAY)[1].never_listed


def test_hostile_ids_and_names_are_kept_as_they_are(ledger):
    names = ["'; DROP TABLE scenes; --", "../../etc/passwd", "<script>", "Größe 測試 🛰", "%s %(x)s :y"]
    area = "a'; DELETE FROM areas; --"
    scenes = [sighting(name) for name in names]
    ledger.note_found(area, scenes, RECIPE, NOW)
    (period,) = due(ledger, area=area)
    made = map_it(ledger, take(ledger, period), scenes)
    assert sorted(made.scene_ids) == sorted(names)
    assert ledger.latest_maps(area) == (made,)
    assert {row.scene_id for row in ledger.scenes(area, RECIPE)} == set(names)


@pytest.mark.parametrize("scene_id", ["", "x" * 201, "a\0b", "a\nb", "\ud800"])
def test_an_id_that_no_database_keeps_is_refused(scene_id):
    with pytest.raises(UsageError, match="Mend the item's metadata"):
        sighting(scene_id)


def test_what_no_database_keeps_goes_by_its_digest():
    odd = ["", "x" * 201, "x" * 202, "a\0b", "a\nb", "\ud800"]
    kept = [kept_id(scene_id) for scene_id in odd]
    assert len({sighting(scene_id).key for scene_id in kept}) == len(odd)
    assert kept_id("x" * 200) == "x" * 200
    assert kept_id("x" * 201) == f"sha256-{hashlib.sha256(b'x' * 201).hexdigest()}"


@pytest.mark.parametrize("path", ["", ".", "/etc", "a/../../b", "a\\b", "s3://bucket/x", "C:x", "a\nb"])
def test_a_map_lies_inside_the_root(path):
    with pytest.raises(ValueError, match="no path inside"):
        NewMap(map_id="m", created_utc=NOW, path=path, valid=1.0)


def test_times_have_to_be_in_utc(ledger):
    local = NOW.astimezone(tz=datetime.strptime("+0200", "%z").tzinfo)
    with pytest.raises(ValueError, match="not in UTC"):
        replace(sighting(), acquired_utc=local)
    with pytest.raises(Exception, match="not in UTC"):
        ledger.note_found(AREA, [], RECIPE, NOW.replace(tzinfo=None))


def test_other_readers_find_the_rows_in_sqlite(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.at(f"sqlite:///{path}") as ledger:
        ledger.note_found(AREA, [sighting()], RECIPE, NOW)
        map_it(ledger, take_first(ledger), [sighting()], made=new_map("m1"))
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            found = other.execute("SELECT scene_id, state, acquired_utc, map_id FROM scenes").fetchall()
            assert found == [("S2A_33UUP", "mapped", "2024-06-01 10:10:31.024000", "m1")]
            assert other.execute("SELECT path, scene_ids FROM maps").fetchall() == [
                ("maps/2024", '["S2A_33UUP"]')
            ]
            assert other.execute("SELECT count(*) FROM leases").fetchone() == (0,)


def test_other_readers_find_the_rows_in_postgresql(postgres):
    name = postgres.new_database()
    with Ledger.at(postgres.url(name)) as ledger:
        ledger.note_found(AREA, [sighting()], RECIPE, NOW)
        map_it(ledger, take_first(ledger), [sighting()], made=new_map("m1"))
    with postgres.connect(name) as other:
        assert other.execute("SHOW timezone").fetchone() == ("America/St_Johns",)
        found = other.execute("SELECT scene_id, state, acquired_utc, map_id FROM scenes").fetchall()
        assert found == [("S2A_33UUP", "mapped", sighting().acquired_utc, "m1")]
        assert other.execute("SELECT scene_ids FROM maps").fetchall() == [(["S2A_33UUP"],)]


# Other programs' databases, and none.


@contextmanager
def raw(url, request):
    """A connection of another program; statements are committed at its end."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            yield connection
    else:
        server = request.getfixturevalue("postgres")
        with server.connect(url.partition("@/")[2].partition("?")[0]) as connection:
            yield connection


def test_a_newer_ledger_is_refused(url, request):
    with Ledger.at(url):
        pass
    with raw(url, request) as other:
        other.execute("UPDATE landuse_ledger SET version = 7")
    with (
        pytest.raises(LedgerError, match=r"version 7, and this landuse knows 2.*Install") as refused,
        Ledger.at(url),
    ):
        pass
    assert PASSWORD not in str(refused.value)


def test_an_older_ledger_is_brought_up_by_a_run(url, request):
    with Ledger.at(url) as ledger:
        ledger.note_found(AREA, [sighting()], RECIPE, NOW)
        kept = ledger.scenes(AREA, RECIPE)
    with raw(url, request) as other:
        other.execute("DROP TABLE searches")
        other.execute("UPDATE landuse_ledger SET version = 1")
    with pytest.raises(LedgerError, match=r"version 1.*nightly run"), Ledger.at(url, create=False):
        pass
    with Ledger.at(url) as ledger:
        assert ledger.scenes(AREA, RECIPE) == kept
        for day in (0, 1):
            ledger.note_found(AREA, [], RECIPE, NOW + day * DAY, listed_before=3)
            assert [(status.lost, status.empty_utc) for status in ledger.status(NOW)] == [(3, NOW)]


def test_tables_of_another_program_are_refused_and_left_alone(url, request):
    with raw(url, request) as other:
        other.execute("CREATE TABLE scenes (title TEXT)")
    with pytest.raises(LedgerError, match="no ledger: it holds 'scenes'"), Ledger.at(url):
        pass
    with raw(url, request) as other:
        assert other.execute("SELECT * FROM scenes").fetchall() == []
        if "sqlite" in url:
            assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_postgresql_database_may_be_shared(postgres):
    name = postgres.new_database()
    with postgres.connect(name) as other:
        other.execute("CREATE TABLE spatial_ref_sys (srid integer)")
    with Ledger.at(postgres.url(name)) as ledger:
        assert ledger.status(NOW) == ()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_text("areas: []\n" * 100, "utf-8")
    with (
        pytest.raises(LedgerError, match=r"ledger.sqlite cannot be used \(file is not a database\)"),
        Ledger.at(f"sqlite:///{path}"),
    ):
        pass


def test_a_missing_folder_and_a_missing_server_are_told(tmp_path):
    with (
        pytest.raises(LedgerError, match=r"cannot be used \(unable to open database file\)"),
        Ledger.at(f"sqlite:///{tmp_path}/missing/ledger.sqlite"),
    ):
        pass
    with (
        pytest.raises(LedgerError, match="cannot be used") as refused,
        Ledger.at(f"postgresql://me:{PASSWORD}@/db?host={tmp_path}&password={PASSWORD}"),
    ):
        pass
    assert PASSWORD not in str(refused.value)


def test_a_wrong_password_is_told_but_never_shown(postgres):
    wrong = postgres.url("postgres").replace(PASSWORD, "guessed")
    with pytest.raises(LedgerError, match="password authentication failed") as refused, Ledger.at(wrong):
        pass
    assert "guessed" not in f"{refused.value} {refused.value.__cause__}"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite://", "in memory is forgotten"),
        ("sqlite:///:memory:", "in memory is forgotten"),
        ("mysql://me:pw-secret@host/db", "'mysql' is no database"),
        ("ledger.sqlite", "no URL of a database"),
        ("postgresql://me:pw-secret@host:port/db", "no URL of a database"),
    ],
)
def test_a_wrong_url_is_refused(url, told):
    with pytest.raises(UsageError, match=told) as refused, Ledger.at(url):
        pass
    assert "pw-secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_missing_driver_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'landuse\[postgres\]'"),
        Ledger.at("postgresql://h/db"),
    ):
        pass


def test_another_writer_that_stays_too_long_is_told(url, monkeypatch):
    monkeypatch.setattr(schema, "LOCK_SECONDS", 1)
    with Ledger.at(url) as ledger, ledger.database.writing():
        assert ledger.status(NOW) == ()  # readers do not wait
        with pytest.raises(LedgerError, match="lock"):
            ledger.note_found(AREA, [], RECIPE, NOW)


# Other processes.


@contextmanager
def workers(*commands):
    """Processes of ``workers``; whatever still runs at the end is killed."""
    program = ("-m", "tests.workflows.nightly.ledger.workers")
    running = [
        Warm([*program, *command], needs=["landuse.workflows.nightly.ledger.ledger"]) for command in commands
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            with process:
                process.wait()


def wait_for(log, text, times=1):
    until = time.monotonic() + 60
    while not log.exists() or log.read_text("utf-8").count(text) < times:
        assert time.monotonic() < until, f"no {text!r} in {log}"
        time.sleep(0.01)


def test_processes_share_the_periods_without_overlap(url, tmp_path):
    log, go, periods = tmp_path / "log", tmp_path / "go", 15
    with workers(*(("share", url, name, log, periods, 600, go) for name in "abc")) as running:
        wait_for(log, "ready", times=3)
        go.touch()  # they also make the tables together
        assert [process.wait(60) for process in running] == [0, 0, 0]
    lines = [line for line in log.read_text("utf-8").splitlines() if line != "ready"]
    assert (
        sorted(Counter(line.split()[1] for line in lines if line.startswith("took")).values())
        == [1] * periods
    )
    assert len({line.split()[2] for line in lines}) >= 2, "one process did everything: nothing was shared"
    with Ledger.at(url) as ledger:
        assert len(ledger.all_maps(AREA)) == periods
        assert {row.state for row in ledger.scenes(AREA, RECIPE)} == {SceneState.MAPPED}


def test_what_a_killed_process_held_is_done_by_others_after_it_lapses(url, tmp_path):
    log, go, periods = tmp_path / "log", tmp_path / "go", 6
    go.touch()
    with Ledger.at(url) as ledger:
        ledger.note_found(AREA, many_sightings(periods), RECIPE, datetime.now(UTC))
        with workers(("share", url, "victim", log, periods, 3, go)) as (victim,):
            wait_for(log, "took")
            victim.kill()  # SIGKILL: nothing is tidied up
        with workers(*(("share", url, name, log, periods, 3, go) for name in "ab")) as running:
            assert [process.wait(60) for process in running] == [0, 0]
        maps = ledger.all_maps(AREA)
        assert len(maps) == periods
        assert len({row.period for row in maps}) == periods
        assert {row.state for row in ledger.scenes(AREA, RECIPE)} == {SceneState.MAPPED}


def test_a_process_killed_in_a_write_leaves_nothing_of_it_and_no_lock(url, tmp_path):
    log = tmp_path / "log"
    with Ledger.at(url) as ledger:
        ledger.note_found(AREA, [sighting()], RECIPE, NOW)
        with workers(("hang", url, log)) as (victim,):
            wait_for(log, "hangs")
            assert [row.reason for row in ledger.scenes(AREA, RECIPE)] == [""]
            victim.kill()
        assert ledger.note_found(AREA, [sighting("another")], RECIPE, NOW) == 1
        assert [row.reason for row in ledger.scenes(AREA, RECIPE)] == ["", ""]


# Whatever runs do, each scene is mapped once.

PERIODS = ("2024-06-01", "2024-06-02")
SCENES = tuple(
    sighting(f"S{number}", baseline=baseline, day=number % 2 + 1)
    for number in range(3)
    for baseline in ("04.00", "05.11")
)
OWNERS = 3

steps = st.lists(
    st.one_of(
        st.tuples(st.just("note"), st.integers(0, len(SCENES) - 1)),
        st.tuples(st.just("pass"), st.sampled_from([1, 60, 300, 1440])),
        st.tuples(
            st.sampled_from(["take", "map", "fail", "release", "crash", "renew"]), st.integers(0, OWNERS - 1)
        ),
    ),
    min_size=10,
    max_size=60,
)


class Runs:
    """Some runs at one area, and a model of who holds what."""

    def __init__(self, ledger, area):
        self.ledger, self.area, self.now_utc = ledger, area, NOW
        self.noted = []
        self.leases = {}
        """What each run believes to hold."""
        self.holders = {}
        """By period: who holds it until when, by the model."""
        self.first_map = {}
        """By scene: the map it was first in, by the model."""

    def holds(self, lease):
        owner, until = self.holders.get(lease.on.first_day, (None, NOW))
        return owner == lease.owner and until > self.now_utc

    def note(self, index):
        if SCENES[index] not in self.noted:
            self.noted.append(SCENES[index])
        self.ledger.note_found(self.area, [SCENES[index]], RECIPE, self.now_utc)

    def wait(self, minutes):
        self.now_utc += timedelta(minutes=minutes)

    def take(self, number):
        if number in self.leases:
            return
        for name in random.sample(PERIODS, len(PERIODS)):
            keys = tuple(scene.key for scene in self.noted if scene.period == name)
            period = replace(any_period(self.area), first_day=name, scenes=keys)
            lease = take(self.ledger, period, self.now_utc, owner=f"run {next(_ids)}")
            held_by_other = self.holders.get(name, (None, NOW))[1] > self.now_utc
            assert not (lease is not None and held_by_other)
            if lease is None:
                continue
            assert not {scene for scene in lease.on.scenes if scene in self.first_map}, "mapped again"
            self.leases[number] = lease
            self.holders[name] = (lease.owner, lease.expires_utc)
            return

    def crash(self, number):
        self.leases.pop(number, None)

    def end(self, number, action):
        """Whatever a run does with what it believes to hold, it can where the model says so."""
        lease = self.leases.pop(number, None)
        if lease is None:
            return
        allowed = self.holds(lease)
        try:
            action(lease)
        except LeaseLostError:
            assert not allowed
        else:
            assert allowed
            self.holders.pop(lease.on.first_day)

    def map(self, number):
        def action(lease):
            scenes = [scene for scene in self.noted if scene.period == lease.on.first_day]
            made = map_it(self.ledger, lease, scenes, now_utc=self.now_utc)
            for scene in scenes:
                self.first_map.setdefault(scene.key, made.map_id)

        self.end(number, action)

    def fail(self, number):
        self.end(
            number,
            lambda lease: self.ledger.settle_failed(
                lease, "broken", now_utc=self.now_utc, attempts=ATTEMPTS, seconds=1.0
            ),
        )

    def release(self, number):
        lease = self.leases.pop(number, None)
        if lease is not None:
            self.ledger.release(lease)
            if self.holders.get(lease.on.first_day, (None,))[0] == lease.owner:
                self.holders.pop(lease.on.first_day)

    def renew(self, number):
        lease = self.leases.get(number)
        if lease is None:
            return
        try:
            renewed = self.ledger.renew(lease, now_utc=self.now_utc, minutes=MINUTES)
        except LeaseLostError:
            assert not self.holds(lease)
        else:
            assert self.holds(lease)
            self.leases[number] = renewed
            self.holders[lease.on.first_day] = (lease.owner, renewed.expires_utc)


def any_period(area):
    return DuePeriod(area=area, first_day=PERIODS[0], recipe=RECIPE, scenes=())


def test_each_scene_is_mapped_once_whatever_runs_do(url, ledger):
    @settings(max_examples=30 if url.startswith("sqlite") else 8)  # a transaction takes ten times as long
    @given(steps=steps)
    def holds(steps):
        check_steps(ledger, steps)

    holds()


def check_steps(ledger, steps):
    runs = Runs(ledger, f"area {next(_ids)}")
    for name, value in steps:
        getattr(runs, "wait" if name == "pass" else name)(value)
        found = {row.key: row.map_id for row in ledger.scenes(runs.area, RECIPE) if row.map_id}
        assert found == runs.first_map
    for index in range(len(SCENES)):
        runs.note(index)
    for _ in PERIODS:  # one undisturbed night
        runs.wait(1440)
        for number in range(OWNERS):
            runs.crash(number)
            runs.take(number)
            runs.map(number)
    rows = ledger.scenes(runs.area, RECIPE)
    assert {row.key for row in rows} == {scene.key for scene in SCENES}
    assert {row.state for row in rows} == {SceneState.MAPPED}
    assert {row.key: row.map_id for row in rows} == runs.first_map
    assert due(ledger, runs.now_utc + 30 * DAY, area=runs.area) == ()
    # Every map stays reachable: each chain ends at the period's latest.
    maps = {row.map_id: row for row in ledger.all_maps(runs.area)}
    latest = {row.period: row.map_id for row in ledger.latest_maps(runs.area)}
    assert set(latest) == set(PERIODS)
    assert len(latest) == len(ledger.latest_maps(runs.area))
    for row in maps.values():
        length = 0
        while row.superseded_by is not None:
            row, length = maps[row.superseded_by], length + 1
            assert length < len(maps)
        assert row.map_id == latest[row.period]
    for key, map_id in runs.first_map.items():
        assert key.scene_id in maps[map_id].scene_ids
