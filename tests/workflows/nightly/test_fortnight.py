"""Nightly runs over a simulated fortnight, against a real STAC API and a real file server on loopback.

Oracles: what was published and the land as it was drawn (``world``), the published STAC schemas, the
maps' own ``run.json``; the ledger's rows as plain SQL has them.
"""

import json
import random
import shutil
import sqlite3
import time
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from starlette.responses import PlainTextResponse

from landuse.pipeline.cells import NODATA_ID
from landuse.pipeline.write.folder import Store
from landuse.workflows.nightly.config import load_config
from landuse.workflows.nightly.published import damage
from landuse.workflows.nightly.rebuild import rebuild_ledger
from tests.postgres import PASSWORD
from tests.servers import file_server
from tests.stac_schemas import stac_errors
from tests.workflows.nightly.world import (
    MODELS,
    Api,
    Block,
    land,
    moment,
    night,
    period,
    run_here,
    scene_item,
    start,
    write_config,
    write_scene,
)

VALLEY, HILL, PLAIN = Block(2, 2, 6, 7), Block(11, 8, 5, 6), Block(12, 1, 4, 5)
BUILT, BUILT_ON = Block(4, 5, 2, 3), 6
"""Land in the valley that turns from dark to bright, and the day on which it first does."""

CLOUDY = 8
"""The day that shows nothing."""

PUBLISHED_ON = {
    **{day: [day] for day in (1, 2, 4, 6, 8, 9, 10, 11, 12)},
    3: [9],  # late
    5: [7],  # out of order: after the scene of day 6
    7: [7],
}
"""Night on which the scene of a day appears."""

LISTED_AGAIN = {4: 8}
"""Day of a scene that is listed again under another id, and the night from which it is."""

REPROCESSED = {2: 10, 9: 12}
"""Day of a scene of which a newer baseline appears, and the night from which it is there."""

CATALOGUE_DOWN, IMAGERY_DOWN = 5, 11
"""Nights."""

PLAIN_DAYS = 4
"""Length of the plain's periods: several scenes make one of its maps."""

PLAIN_PERIODS = {period(1 - 3): [1], period(2): [2, 3, 4, 5], period(6): [6, 7, 9], period(10): [10, 11, 12]}
"""Days of the scenes in each of the plain's maps in the end."""

GAPS = {8: 6, 9: 2}
"""Night on which the scene of a day is not listed though it was before; others of its period are due."""

MASK_DOWN = {9: 3}
"""Night on which the cloud mask of a day's scene cannot be read, and its tile is said to be cloudy."""

NEW_MODEL = 15
"""Night from which the hill has another model."""

LEDGER_LOST, LOST = 14, "ledger lost"
"""Night before which the ledger is lost: a run is refused, and after a rebuild it is a night like others."""

OTHER_SETTINGS = 14
"""Night on which the plain lets more cloud pass, which none of its scenes has."""

DAMAGED, GONE, CUT = 16, ("valley", 10), ("hill", 6)
"""Night before which the map of an area's day is deleted, and another is cut short."""

KILLS, KILLED_FROM = 3, (3, 7, 10, 12, 13)
"""Runs to kill, and the nights on which one is tried until there were so many."""

LAST = 16
"""The fortnight, and two quiet nights."""


def published(url, day):
    """What the catalogue holds on the night of a day."""
    items = []
    for scene_day, (appears,) in PUBLISHED_ON.items():
        if appears > day or GAPS.get(day) == scene_day:
            continue
        items.append(scene_item(scene_day, f"{url}/{scene_day}"))
        if MASK_DOWN.get(day) == scene_day:
            items[-1]["properties"]["eo:cloud_cover"] = 90
        if LISTED_AGAIN.get(scene_day, 99) <= day:
            again = moment(scene_day) + timedelta(days=4)
            items.append(scene_item(scene_day, f"{url}/{scene_day}", processed=again))
        if REPROCESSED.get(scene_day, 99) <= day:
            later = moment(scene_day) + timedelta(days=8)
            items.append(scene_item(scene_day, f"{url}/{scene_day}-new", baseline="05.12", processed=later))
    return items


def ground(day):
    return land(day, BUILT, BUILT_ON)


def killed(config, day, rng):
    """Whether a run could be killed before it was done: at some moment after it has searched."""
    process = start(config, night(day))
    try:
        for line in process.stderr:
            if " scenes since " in line and not line.split(" since ")[1].endswith(" 0 of them new\n"):
                break
        time.sleep(rng.uniform(0, 2.5))
        alive = process.poll() is None
    finally:
        process.kill()
        with process:
            process.communicate()
    return alive


@pytest.fixture(scope="module")
def fortnight(tmp_path_factory):
    """The outputs after all nights, with what each night said."""
    folder = tmp_path_factory.mktemp("fortnight")
    images = folder / "images"
    for day in PUBLISHED_ON:
        write_scene(images / f"{day}", ground(day), cloudy=day == CLOUDY)
    for day in REPROCESSED:
        write_scene(images / f"{day}-new", ground(day), baseline="05.12")
    rng = random.Random(20260601)
    codes, kills, out = {}, [], folder / "out"
    api = Api(folder)
    with file_server(images) as files:
        for day in range(1, LAST + 1):
            files.interfere = None
            if day == IMAGERY_DOWN:
                files.interfere = lambda request: PlainTextResponse("down", status_code=503)
            if day in MASK_DOWN:
                mask = f"/{MASK_DOWN[day]}/SCL.tif"
                files.interfere = lambda request, mask=mask: (
                    PlainTextResponse("down", status_code=503) if request.url.path.endswith(mask) else None
                )
            config = write_config(
                folder / "nightly.yaml",
                api.url,
                {
                    "valley": (VALLEY, {}),
                    "hill": (HILL, {"model": "second" if day >= NEW_MODEL else "first"}),
                    "plain": (
                        PLAIN,
                        {
                            "window_days": PLAIN_DAYS,
                            "composite": "median",
                            "max_cloud": 55 if day == OTHER_SETTINGS else 40,
                        },
                    ),
                },
                change={"threshold": 0.7, "confirm": 1},
                attempts=6,
            )
            if day == CATALOGUE_DOWN:
                codes[day] = run_here(config, night(day)).exit_code
                continue
            if day == LEDGER_LOST:
                before = rows(out, "maps")
                for path in out.glob("ledger.sqlite*"):
                    path.unlink()
                codes[LOST] = run_here(config, night(day)).exit_code
                rebuild_ledger(load_config(config))
                assert rows(out, "maps") == before
            if day == DAMAGED:
                shutil.rmtree(current_map(out, *GONE))
                with (current_map(out, *CUT) / "landuse.tif").open("r+b") as file:
                    file.truncate(99)
            with api.serving(published(files.url, day)):
                if day in KILLED_FROM and len(kills) < KILLS:
                    if killed(config, day, rng):
                        kills.append(day)
                else:
                    codes[day] = run_here(config, night(day)).exit_code
    assert len(kills) == KILLS
    return out, codes


def rows(out, table):
    with sqlite3.connect(out / "ledger.sqlite") as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]
    connection.close()
    return found


def current_map(out, area, day):
    """The folder of the map in force."""
    known = [row for row in rows(out, "maps") if (row["area"], row["window"]) == (area, period(day))]
    (path,) = (row["path"] for row in known if row["superseded_by"] is None)
    return out / path


@pytest.mark.slow
def test_every_scene_is_mapped_once_for_its_baseline_and_model(fortnight):
    out, _ = fortnight
    clear = [day for day in PUBLISHED_ON if day != CLOUDY]
    first = MODELS["first"].weights_sha256
    second = MODELS["second"].weights_sha256
    expected = Counter()
    scenes = rows(out, "scenes")
    by_recipe = {row["recipe"]: json.loads(row["settings"])["model_sha256"] for row in rows(out, "recipes")}
    assert len(by_recipe) == 5  # three places, the hill with another model, the plain with other settings
    for row in scenes:
        row["model"] = by_recipe[row["recipe"]]
    for name, days in PLAIN_PERIODS.items():
        expected["plain", name, "05.11", first] += len(days)
        if reprocessed := sum(day in REPROCESSED for day in days):
            expected["plain", name, "05.12", first] += reprocessed
        for day in days:  # other settings see what is there when they come
            expected["plain", name, "05.12" if day in REPROCESSED else "05.11", first] += 1
    for area in ("valley", "hill"):
        for day in clear:
            expected[area, period(day), "05.11", first] += 1
        for day in REPROCESSED:
            expected[area, period(day), "05.12", first] += 1
    for day in clear:  # the new model sees what is there when it comes: of two baselines the newer
        expected["hill", period(day), "05.12" if day in REPROCESSED else "05.11", second] += 1

    mapped = [row for row in scenes if row["state"] == "mapped"]
    assert Counter((r["area"], r["window"], r["baseline"], r["model"]) for r in mapped) == expected
    skipped = [(row["area"], row["window"], row["model"]) for row in scenes if row not in mapped]
    assert sorted(skipped) == sorted(
        [
            *(
                (area, period(CLOUDY), sha)
                for area, sha in (("valley", first), ("hill", first), ("hill", second))
            ),
            *[("plain", period(6), first)] * 2,
        ]
    )
    assert all("cloud" in row["reason"] for row in scenes if row not in mapped)
    assert rows(out, "leases") == []

    # As many maps lie in the folders, each of one scene where periods are a day long, and nothing that a
    # killed run left half made.
    made = Counter()
    for area in ("valley", "hill"):
        for folder in (out / area).iterdir():
            if folder.name in ("changes", "catalog.json"):
                continue
            report = json.loads((folder / "run.json").read_text())
            (scene,) = report["scenes"]
            made[area, scene["acquired_utc"][:10], scene["baseline"], report["model"]["weights_sha256"]] += 1
            assert report["cover"]["valid"] == 1
            assert not list(folder.glob(".*"))
    assert made == Counter({key: count for key, count in expected.items() if key[0] != "plain"})


@pytest.mark.slow
def test_a_period_of_days_gains_scenes_and_never_loses_one(fortnight):
    out, _ = fortnight
    maps = sorted((row for row in rows(out, "maps") if row["area"] == "plain"), key=lambda row: row["number"])
    assert {path.parent.name for path in out.glob("plain/*/run.json")} == {row["map_id"] for row in maps}
    held = {}
    for row in maps:
        scenes = json.loads((out / row["path"] / "run.json").read_text())["scenes"]
        days = {int(scene["acquired_utc"][8:10]): scene["baseline"] for scene in scenes}
        before = held.get(row["window"], {})
        assert set(before) <= set(days)
        assert all(before[day] <= days[day] for day in before)
        held[row["window"]] = days
    assert held == {
        name: {day: "05.12" if day in REPROCESSED else "05.11" for day in days}
        for name, days in PLAIN_PERIODS.items()
    }
    assert [row["superseded_by"] for row in maps].count(None) == len(PLAIN_PERIODS)


@pytest.mark.slow
def test_nights_without_a_provider_say_so_and_are_made_up_for(fortnight):
    _, codes = fortnight
    failed = {day: code for day, code in codes.items() if code}
    # All three areas, but for the night on which only the plain needed what was not listed.
    assert failed == {CATALOGUE_DOWN: 13, IMAGERY_DOWN: 13, 8: 11, 9: 13, LOST: 13}
    assert codes[LAST] == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pystac.errors.DeprecatedWarning")  # pystac's word for superseded
def test_the_catalogue_is_valid_and_leads_from_each_map_to_the_one_that_supersedes_it(fortnight):
    out, _ = fortnight
    documents = [out / "catalog.json", *out.glob("*/catalog.json"), *out.glob("*/*/item.json")]
    documents += out.glob("*/*/model.json")
    assert [error for path in documents for error in stac_errors(json.loads(path.read_text()))] == []

    catalog = pystac.Catalog.from_file(str(out / "catalog.json"))
    assert sorted(child.title for child in catalog.get_children()) == [
        "Land-use maps of hill",
        "Land-use maps of plain",
        "Land-use maps of valley",
    ]
    items = list(catalog.get_items(recursive=True))
    assert len({item.id for item in items}) == len(items)
    maps = {row["path"]: row for row in rows(out, "maps")}
    assert {path: damage(Store.at(out / path), digests=True) for path in maps} == dict.fromkeys(maps, "")
    assert {Path(item.self_href).parent.relative_to(out).as_posix() for item in items} == set(maps)
    by_map = {row["map_id"]: row for row in maps.values()}
    for item in items:
        row = maps[Path(item.self_href).parent.relative_to(out).as_posix()]
        assert item.properties["deprecated"] == (row["superseded_by"] is not None)
        successors = [link.get_absolute_href() for link in item.links if link.rel == "successor-version"]
        expected = by_map.get(row["superseded_by"])
        assert successors == ([] if expected is None else [str(out / expected["path"] / "item.json")])
        for asset in item.assets.values():
            assert Path(asset.get_absolute_href()).is_file()
        assert item.get_root() is catalog
    chains = Counter((row["area"], row["window"]) for row in maps.values())
    assert chains["valley", period(2)] == 2
    assert chains["hill", period(2)] == 3
    assert chains["hill", period(1)] == 2


@pytest.mark.slow
@pytest.mark.parametrize("area", ["valley", "hill"])
def test_the_change_layers_follow_the_land(fortnight, area):
    out, _ = fortnight
    days = sorted(day for day in PUBLISHED_ON if day != CLOUDY)
    expected = [f"{period(before)}_{period(after)}" for before, after in pairwise(days)]
    layers = sorted(path.name for path in (out / area / "changes").iterdir())
    assert layers == expected
    current = {
        row["window"]: row
        for row in rows(out, "maps")
        if row["superseded_by"] is None and row["area"] == area
    }
    for (before, after), name in zip(pairwise(days), layers, strict=True):
        folder = out / area / "changes" / name
        report = json.loads((folder / "change.json").read_text())
        later = [day for day in days if day > after][:1]
        assert [entry["path"] for entry in report["inputs"]] == [
            f"../../{current[period(day)]['map_id']}/landuse.tif" for day in (before, after, *later)
        ]
        with rasterio.open(folder / "change.tif") as file:
            codes, grid = file.read(1), file.transform
        # The land as it was drawn, in the map's cells.
        moved = np.abs(ground(after) - ground(before)) > 7000
        col, row = (
            round((edge - corner) / 160) for edge, corner in ((grid.c, 512_000), (-grid.f, -5_310_080))
        )
        inside = moved[row : row + codes.shape[0], col : col + codes.shape[1]]
        compared = codes != NODATA_ID  # of the grid's corners the box leaves some free
        assert compared.sum() >= 30
        np.testing.assert_array_equal(codes[compared] != 0, inside[compared])
        assert inside.any() == (area == "valley" and after == BUILT_ON)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_runs_started_together_share_the_work(kind, tmp_path, request, monkeypatch):
    days, ledger = range(1, 7), {}
    if kind == "postgres":
        server = request.getfixturevalue("postgres")
        database = server.new_database()
        monkeypatch.setenv("LEDGER_PASSWORD", PASSWORD)
        ledger["ledger"] = server.url(database).replace(PASSWORD, "${LEDGER_PASSWORD}")
    for day in days:
        write_scene(tmp_path / "images" / f"{day}", ground(day))
    api = Api(tmp_path)
    with file_server(tmp_path / "images") as files:
        areas = {"valley": (VALLEY, {})}
        config = write_config(tmp_path / "nightly.yaml", api.url, areas, model="slow", **ledger)
        with api.serving([scene_item(day, f"{files.url}/{day}") for day in days]):
            runs = [start(config, night(7)) for _ in range(2)]
            try:
                told = [run.communicate(timeout=120) for run in runs]
            finally:
                for run in runs:
                    run.kill()
                    with run:
                        run.wait()
    assert [run.returncode for run in runs] == [0, 0], told
    areas = [json.loads(out)["areas"][0] for out, _ in told]
    mapped = [{entry["window"] for entry in area["windows"] if entry["state"] == "mapped"} for area in areas]
    assert mapped[0] & mapped[1] == set()
    assert mapped[0] | mapped[1] == {period(day) for day in days}
    assert all(mapped)
    out = tmp_path / "out"
    if kind == "sqlite":
        superseded = [row["superseded_by"] for row in rows(out, "maps")]
    else:
        assert not (out / "ledger.sqlite").exists()
        with server.connect(database) as connection:
            superseded = [row[0] for row in connection.execute("SELECT superseded_by FROM maps")]
    assert superseded == [None] * len(days)
    assert len(list((out / "valley").glob("*/run.json"))) == len(days)
    assert len(list((out / "valley" / "changes").glob("*/change.tif"))) == len(days) - 1
    listed = pystac.Catalog.from_file(str(out / "catalog.json")).get_items(recursive=True)
    assert len(list(listed)) == len(days)
