"""Published maps beside the ledger: one of them is lost, damaged, or of settings that came and went.

Oracles: the ledger's rows as plain SQL has them before the loss, and the files as they were made.
"""

import json
import shutil

import pytest
import rasterio

from landuse.pipeline.write.folder import Store
from landuse.workflows.nightly.config import load_config
from landuse.workflows.nightly.published import NIGHTS_OF_DIGESTS, damage
from landuse.workflows.nightly.status import metrics, nightly_status
from tests.workflows.nightly.test_run import World, told
from tests.workflows.nightly.world import land, night, period

TABLES = ("areas", "maps", "recipes", "scenes")


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.configure()
    return made


def health(world, day):
    (area,) = nightly_status(load_config(world.config), night(day))
    return area


def lose_ledger(world):
    for path in world.out.glob("ledger.sqlite*"):
        path.unlink()


def files(world):
    return {path: path.read_bytes() for path in world.out.rglob("*") if "ledger.sqlite" not in path.name}


def items(world):
    return [json.loads(path.read_text()) for path in world.out.glob("valley/*/item.json")]


def test_a_lost_ledger_is_refused_and_restored_from_the_maps(world, run):
    """Also where settings were changed and changed back, and a scene was left out of a map."""
    scenes = [world.scene(1), world.scene(2), world.scene(2, "cloudy", cloudy=True, tile="33UXP")]
    world.publish(*scenes)
    world.one(2)
    world.configure(max_cloud=55)  # leaves out the same: the maps are of the same plans
    assert told(world.one(3)) == [(period(1), "mapped"), (period(2), "mapped")]
    world.configure()
    assert world.one(4).periods == ()
    ids = [item["id"] for item in items(world)]
    assert len(set(ids)) == len(ids) == 4
    before = {name: world.rows(name) for name in TABLES}
    catalogue = (world.out / "valley" / "catalog.json").read_bytes()

    lose_ledger(world)
    report = world.night(5)
    assert report.exit_code == 11
    assert "holds 4 published maps that ledger" in report.areas[0].error
    assert "landuse nightly rebuild" in report.areas[0].error
    assert "4 published maps" in health(world, 5).warnings[0]
    assert (world.out / "valley" / "catalog.json").read_bytes() == catalogue

    ran = run("nightly", "rebuild", world.config, "--json")
    assert (ran.code, json.loads(ran.out)["areas"]) == (0, [{"area": "valley", "maps": 4, "unread": []}])
    after = {name: world.rows(name) for name in TABLES}
    for table in ("maps", "recipes", "scenes"):
        assert after[table] == before[table]
    assert after["areas"][0]["recipe"] == before["areas"][0]["recipe"]
    assert health(world, 5).warnings == ()
    assert world.one(6).periods == ()
    assert (world.out / "valley" / "catalog.json").read_bytes() == catalogue
    assert "0 maps entered" in run("nightly", "rebuild", world.config).out


def test_a_published_item_without_a_record_restores_nothing(world, run):
    world.publish(world.scene(1), world.scene(2))
    world.one(2)
    first, second = world.maps()
    lose_ledger(world)
    (world.out / "valley" / first / "item.json").write_text("{")
    path = world.out / "valley" / second / "item.json"
    item = json.loads(path.read_text())
    path.write_text(
        json.dumps({**item, "properties": {"version": "1", "landuse:record": {"map": "x" * 500}}})
    )
    ran = run("nightly", "rebuild", world.config)
    assert ran.code == 1
    assert f"{second}/item.json holds no record of its map" in ran.error
    assert world.rows("maps") == []
    path.write_text(json.dumps(item))
    ran = run("nightly", "rebuild", world.config)
    assert f"left    {first}" in ran.out
    # What cannot be read is mapped again.
    assert told(world.one(3)) == [(period(1), "mapped")]
    assert [row["window"] for row in world.rows("maps")] == [period(1), period(2)]


def spoil_gone(folder):
    shutil.rmtree(folder)


def spoil_cut(folder):
    path = folder / "landuse.tif"
    path.write_bytes(path.read_bytes()[:-9])


def spoil_bits(folder):
    path = folder / "status.tif"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


SPOILT = {
    "it is gone": spoil_gone,
    "landuse.tif has": spoil_cut,
    "status.tif has another content": spoil_bits,
    "probabilities.tif is missing": lambda folder: (folder / "probabilities.tif").unlink(),
    "item.json is missing": lambda folder: (folder / "item.json").unlink(),
    "item.json holds no description": lambda folder: (folder / "item.json").write_text("[]"),
    "model.json holds no description": lambda folder: (folder / "model.json").write_bytes(b""),
}


def test_damaged_maps_are_told_and_made_again(world):
    world.configure(look_back_days=3)
    world.publish(world.scene(1), world.scene(2))
    world.one(2)
    first, second = world.maps()
    made = {name: world.out / "valley" / name / "landuse.tif" for name in (first, second)}
    made = {path: path.read_bytes() for path in made.values()}
    for says, spoil in SPOILT.items():
        folder = world.folder / "spoilt" / first
        shutil.copytree(world.out / "valley" / first, folder)
        spoil(folder)
        assert damage(Store.at(folder), digests=True).startswith(says)
        assert bool(damage(Store.at(folder), digests=False)) == (spoil is not spoil_bits)
        shutil.rmtree(folder.parent)

    spoil_gone(world.out / "valley" / first)
    spoil_cut(world.out / "valley" / second)
    gone, cut = health(world, 20).warnings
    assert gone == f"map {first} is damaged, the next run makes it again: it is gone"
    assert cut.startswith(f"map {second} is damaged, the next run makes it again: landuse.tif has ")
    assert b'landuse_nightly_warnings{area="valley"} 2.0' in metrics([health(world, 20)])
    heard = []
    area = world.one(20, tell=lambda *line: heard.append(line))
    assert told(area) == [(period(1), "mapped"), (period(2), "mapped")]
    assert ("valley", f"map {first} is damaged and is to be made again: it is gone") in heard
    check_made_again(world, made)
    assert world.one(21).periods == ()

    # What has its size is seen on the night on which the map is read whole.
    spoil_bits(world.out / "valley" / first)
    assert health(world, 22).warnings == ()
    turn = int(first[-12:], 16) % NIGHTS_OF_DIGESTS
    day = next(day for day in range(24, 60) if night(day).toordinal() % NIGHTS_OF_DIGESTS == turn)
    assert world.one(day - 1).periods == ()
    assert told(world.one(day)) == [(period(1), "mapped")]
    check_made_again(world, made)


def check_made_again(world, made):
    """The maps are there under their names, once, with the content that they had."""
    assert {path: path.read_bytes() for path in made} == made
    names = world.maps()
    assert [damage(Store.at(world.out / "valley" / name), digests=True) for name in names] == [""] * 2
    assert [row["map_id"] for row in world.rows("maps")] == names == sorted(path.parent.name for path in made)
    assert sorted(item["id"] for item in items(world)) == names
    assert {row["state"] for row in world.rows("scenes")} == {"mapped"}


def test_a_scene_whose_file_was_replaced_is_mapped_again(world, tmp_path):
    """Oracle: maps and change of a catalogue that had the new file from the first."""
    world.configure(change={})
    scenes = [world.scene(day) for day in (1, 2, 3)]
    world.publish(*scenes)
    world.one(3)
    before = world.maps()
    assert world.one(4).periods == ()
    dn = land(2)
    dn[:] = 9000 - dn
    shutil.rmtree(world.folder / "images" / "2")
    assert world.scene(2, dn=dn) == scenes[1]
    assert world.one(5, dry_run=True).periods == ()
    assert world.maps() == before
    heard = []
    assert told(world.one(5, tell=lambda *line: heard.append(line))) == [(period(2), "mapped")]
    old = next(name for name in before if name.startswith(period(2)))
    replaced = f"map {old} is to be made again: B04 of scene {scenes[1]['id']} was replaced"
    assert ("valley", replaced) in heard
    (new,) = set(world.maps()) - set(before)
    superseded = {row["map_id"]: row["superseded_by"] for row in world.rows("maps")}
    assert superseded[old] == new
    assert {row["state"] for row in world.rows("scenes")} == {"mapped"}
    assert world.one(6).periods == ()

    (tmp_path / "fresh").mkdir()
    fresh = World(tmp_path / "fresh")
    fresh.configure(change={})
    fresh.publish(fresh.scene(1), fresh.scene(2, dn=dn), fresh.scene(3))
    fresh.one(3)
    expected = next(name for name in fresh.maps() if name.startswith(period(2)))
    names = [
        (f"{new}/landuse.tif", f"{expected}/landuse.tif"),
        *[(f"changes/{pair}/change.tif",) * 2 for pair in ("2026-06-01_2026-06-02", "2026-06-02_2026-06-03")],
    ]
    for own, other in names:
        with (
            rasterio.open(world.out / "valley" / own) as a,
            rasterio.open(fresh.out / "valley" / other) as b,
        ):
            assert (a.read() == b.read()).all()


def test_a_damaged_map_whose_scenes_are_not_listed_waits_for_them(world):
    world.configure(window_days=3, composite="median", attempts=3)
    scenes = [world.scene(day) for day in (1, 2)]
    world.publish(*scenes)
    world.one(2)
    (name,) = world.maps()
    shutil.rmtree(world.out / "valley" / name)
    for listed in ([], scenes[:1]):
        world.publish(*listed)
        area = world.one(3 + len(listed))
        assert [entry.state for entry in area.periods] == ["failed"]
        assert "does not list" in area.periods[0].reason
    assert len(health(world, 5).failures) == 2
    world.publish(*scenes)
    assert [entry.state for entry in world.one(6).periods] == ["mapped"]
    assert world.maps() == [name]
    assert {row["state"] for row in world.rows("scenes")} == {"mapped"}


def test_a_source_that_lists_nothing_any_more_is_told(world):
    world.publish(world.scene(1))
    world.one(1)
    assert health(world, 1).warnings == ()
    world.publish()
    world.one(2, since=night(2).date())  # of which there was none before
    assert health(world, 2).warnings == ()
    for day in (3, 4):
        world.one(day)
        (warning,) = health(world, day).warnings
        assert warning.startswith(f"the source has listed nothing since {night(3):%Y-%m-%d %H:%M} UTC")
        assert "listed 1 scenes before" in warning
    world.publish(world.scene(1))
    world.one(5)
    assert health(world, 5).warnings == ()


def test_the_first_map_of_a_day_does_not_replace_one_of_many_days(world):
    world.configure(window_days=30, composite="median", attempts=1)
    scenes = [world.scene(day) for day in (1, 2, 3)]
    world.publish(*scenes)
    world.one(3)
    (whole,) = world.maps()
    world.configure(composite="median")
    (world.folder / "images" / "2" / "B04.tif").rename(world.folder / "B04.tif")
    area = world.one(4)
    assert told(area) == [(period(1), "mapped"), (period(2), "failed"), (period(3), "mapped")]
    current = [row["map_id"] for row in world.rows("maps") if row["superseded_by"] is None]
    assert whole in current
    assert len(current) == 3
    deprecated = {item["id"]: item["properties"]["deprecated"] for item in items(world)}
    assert set(deprecated.values()) == {False}
    (world.folder / "B04.tif").rename(world.folder / "images" / "2" / "B04.tif")
    world.configure(composite="median", attempts=2)
    assert told(world.one(5)) == [(period(2), "mapped")]
    deprecated = {item["id"]: item["properties"]["deprecated"] for item in items(world)}
    assert [name for name, old in deprecated.items() if old] == [whole]
