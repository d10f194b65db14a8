"""What a night leaves behind when things go wrong: catalogues, change layers, reports, exit codes, logs.

Oracles: the ledger's rows as plain SQL has them, and the files as they were before.
"""

import json
import logging
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from landuse.commands.terminal import print_night
from landuse.errors import LanduseError, LedgerError, OutputError
from landuse.pipeline.write.folder import Store
from landuse.workflows.nightly import period as nightly_period
from landuse.workflows.nightly import run as nightly_run
from landuse.workflows.nightly.config import load_config
from landuse.workflows.nightly.report import AreaNightReport, NightReport, NotCompared
from landuse.workflows.nightly.run import Clock, Night, run_area
from landuse.workflows.nightly.status import nightly_status
from tests.workflows.nightly.test_run import EAST, VALLEY, Faulty, Interfering, World, told
from tests.workflows.nightly.world import RETRY, Cells, land, load, night, period, run_here

BRIGHT = np.full_like(land(1), 9000)
SECRET = "GET https://u:hunter2@host/x?sig=abc failed"


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.configure()
    return made


def items(world):
    """The maps' items by map."""
    return {path.parent.name: json.loads(path.read_text()) for path in world.out.glob("valley/*/item.json")}


def layer(world, before, after):
    """Names of the files of a change layer."""
    folder = world.out / "valley" / "changes" / f"{period(before)}_{period(after)}"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_map_made_otherwise_confirms_nothing_and_takes_nothing(world):
    """Older maps stay as they are when the settings change."""
    settings = {"change": {"threshold": 0.7, "confirm": 2}, "look_back_days": 5}
    stays = np.full((20, 20), 600)
    stays[3:5, 3:5] = 9400
    scenes = [world.scene(1, dn=np.full((20, 20), 600)), *(world.scene(day, dn=stays) for day in (2, 20, 40))]
    world.configure(**settings)
    world.publish(*scenes[:2])
    world.one(2)
    assert world.changed(1, 2) == 4
    world.configure(**settings, cell_m=80)
    world.publish(*scenes[:3])
    world.one(20)
    assert world.changed(1, 2) == 4
    report = json.loads(layer(world, 1, 2)["change.json"])
    assert [entry["role"] for entry in report["inputs"]] == ["before", "after"]
    (warning,) = [text for text in report["warnings"] if "confirms nothing" in text]
    assert f"The map of {period(20)} confirms nothing" in warning
    assert str(world.folder) not in warning
    world.configure(**settings)
    world.publish(*scenes)
    world.one(40)
    report = json.loads(layer(world, 1, 2)["change.json"])
    paths = [entry["path"].removeprefix("../../")[:10] for entry in report["inputs"]]
    assert paths == [period(day) for day in (1, 2, 40)]
    assert set(layer(world, 2, 20)) == {"not-compared.json"}
    assert world.one(41).changes == ()


def test_change_between_maps_without_a_cloud_mask_is_not_published(world):
    """What differs may be cloud. The scenes are those of the other tests, without their classification."""
    items = [world.scene(1), world.scene(2)]
    for item in items:
        del item["assets"]["SCL"]
    world.publish(*items)
    heard = []
    area = world.one(2, tell=lambda name, line: heard.append(line))
    (refusal,) = layer(world, 1, 2).items()
    assert refusal[0] == "not-compared.json"
    reason = json.loads(refusal[1])["reason"]
    assert "without a cloud mask" in reason
    assert not [json.loads(row["change_paths"]) for row in world.rows("maps")][1]
    # The report keeps it apart from layers that were made.
    folder = f"valley/changes/{period(1)}_{period(2)}"
    assert area.changes == ()
    assert area.to_dict()["not_compared"] == [{"folder": folder, "reason": reason}]
    told = f"the maps of {period(1)} and {period(2)} are not compared: {reason}"
    assert heard[-1] == told
    assert not [line for line in heard if line.startswith("change from")]
    # The next night has nothing to compare; the status goes on telling it, until it is not wanted.
    assert world.one(3).not_compared == ()
    (health,) = nightly_status(load_config(world.config), night(3))
    assert health.warnings == (told,)
    world.configure(change=False)
    (health,) = nightly_status(load_config(world.config), night(3))
    assert health.warnings == ()


def test_maps_of_other_legends_of_the_same_names_are_not_compared(world):
    """All of the land would have changed, from Low to High or back."""
    legends = [world.folder / name for name in ("a.csv", "b.csv")]
    for path, low, high in zip(legends, ("Dark", "Bright"), ("Bright", "Dark"), strict=True):
        path.write_text(f"class,new,colour\n{low},Low,#000000\n{high},High,#ffffff\n")
    scenes = [world.scene(1), world.scene(9)]
    world.configure(legend=str(legends[0]), look_back_days=5)
    world.publish(scenes[0])
    world.one(1)
    world.configure(legend=str(legends[1]), look_back_days=5)
    world.publish(*scenes)
    (refused,) = world.one(9).not_compared
    assert "mean different things by the same names: " in refused.reason
    assert set(layer(world, 1, 9)) == {"not-compared.json"}


def test_change_between_maps_composed_otherwise_says_so(world):
    world.configure(look_back_days=5)
    scenes = [world.scene(1), world.scene(9)]
    world.publish(scenes[0])
    world.one(1)
    world.configure(composite="median", look_back_days=5)
    world.publish(*scenes)
    world.one(9)
    (warning,) = json.loads(layer(world, 1, 9)["change.json"])["warnings"]
    assert f"composite best ({period(1)}) and median ({period(9)})" in warning


def test_the_status_tells_of_the_latest_two_maps_alone(world):
    items = [world.scene(day) for day in (1, 2, 3)]
    del items[0]["assets"]["SCL"]
    world.publish(*items[:2])
    world.one(2)
    (health,) = nightly_status(load_config(world.config), night(2))
    assert "are not compared: " in health.warnings[0]
    world.publish(*items)
    area = world.one(3)
    assert area.changes == (f"valley/changes/{period(2)}_{period(3)}",)
    (health,) = nightly_status(load_config(world.config), night(3))
    assert health.warnings == ()
    assert set(layer(world, 1, 2)) == {"not-compared.json"}


def test_a_summary_counts_the_layers_that_were_made(capsys):
    refused = [NotCompared(folder=f"a/changes/2026-06-0{day}_2026-06-09", reason="odd") for day in (1, 2)]
    areas = [
        AreaNightReport(area="a", changes=("a/changes/x",)),
        AreaNightReport(area="b", changes=("b/changes/x", "b/changes/y"), not_compared=(refused[0],)),
        AreaNightReport(area="c", not_compared=tuple(refused), warnings=("look here",)),
    ]
    print_night(NightReport(began_utc=night(1), dry_run=False, areas=tuple(areas), seconds=1))
    lines = [line.rpartition("periods: ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "1 change layer",
        "2 change layers, 1 pair of maps not compared",
        "2 pairs of maps not compared",
        "  warning look here",
    ]


def test_layers_stay_while_an_area_wants_none(world):
    world.publish(world.scene(1), world.scene(2))
    world.one(2)
    before = layer(world, 1, 2)
    assert "change.tif" in before
    world.configure(change=False)
    assert world.one(3).changes == ()
    assert layer(world, 1, 2) == before
    assert [json.loads(row["change_paths"]) for row in world.rows("maps")][1]
    world.configure()
    assert world.one(4).changes == ()
    assert layer(world, 1, 2) == before


def test_versions_follow_the_ledger_and_not_the_clocks(world):
    """As three machines make them whose clocks differ by days."""
    scenes = [world.scene(1), world.scene(1, "east", tile=EAST), world.scene(1, "north", tile="33UWQ")]
    for count, day in enumerate((5, 3, 4), 1):
        world.publish(*scenes[:count])
        assert told(world.one(day)) == [(period(1), "mapped")]
    superseded_by = {row["map_id"]: row["superseded_by"] for row in world.rows("maps")}
    (first,) = set(superseded_by) - set(superseded_by.values())
    chain = [first, superseded_by[first], superseded_by[superseded_by[first]]]
    assert superseded_by[chain[-1]] is None
    found = items(world)
    assert [found[name]["properties"]["version"] for name in chain] == ["1", "2", "3"]
    assert [found[name]["properties"]["deprecated"] for name in chain] == [True, True, False]
    for name, following in superseded_by.items():
        links = {link["rel"]: link["href"] for link in found[name]["links"]}
        assert links.get("successor-version") == (following and f"../{following}/item.json")
    links = json.loads((world.out / "valley" / "catalog.json").read_text())["links"]
    titles = [link["title"] for link in links if link["rel"] == "item"]
    assert titles == [f"valley, {period(1)}, superseded"] * 2 + [f"valley, {period(1)}"]


def test_a_map_of_more_days_follows_those_of_its_days(world):
    world.publish(world.scene(1), world.scene(2))
    world.one(2)
    days = {path.parent.name for path in world.out.glob("valley/*/item.json")}
    world.configure(window_days=3, composite="median")
    world.one(3)
    found = items(world)
    (longer,) = set(found) - days
    assert found[longer]["properties"]["deprecated"] is False
    for name in days:
        links = {link["rel"]: link["href"] for link in found[name]["links"]}
        assert found[name]["properties"]["deprecated"] is True
        assert links["successor-version"] == links["latest-version"] == f"../{longer}/item.json"


def test_runs_over_two_areas_at_once_are_both_in_the_catalogue(world, monkeypatch):
    """One writes what it read before the other, which is done by then."""
    world.configure({"a": (VALLEY, {}), "b": (VALLEY, {})})
    world.publish(world.scene(1))
    write = Store.write
    began, ran = [], []

    def late(store, name, content):
        if store.path == world.out and not began:
            began.append(name)
            ran.append(world.night(1, ["b"]))
        write(store, name, content)

    monkeypatch.setattr(Store, "write", late)
    world.night(1, ["a"])
    assert [report.exit_code for report in ran] == [0]
    links = json.loads((world.out / "catalog.json").read_text())["links"]
    assert [link["title"] for link in links if link["rel"] == "child"] == ["a", "b"]


def test_a_failure_is_told_by_every_run_of_its_night(world):
    world.publish(world.scene(1, dn=BRIGHT), world.scene(2, dn=BRIGHT // 9))
    faulty = {"load": lambda model, device: Faulty()}
    assert world.night(2, **faulty).exit_code == 11
    again = run_here(world.config, night(2) + timedelta(minutes=10), **faulty)
    assert again.exit_code == 11
    (area,) = again.areas
    assert area.periods == ()
    (failed,) = area.earlier
    assert (failed.first_day, failed.reason) == (period(1), "ZeroDivisionError: by bright ground")
    assert again.to_dict()["failed_areas"] == ["valley"]
    assert world.one(2, since=night(2).date()).failed == 0  # asks for nothing of that day
    # The last try parks it; that too is told by the runs after it, that night.
    world.configure(attempts=2)
    parked = world.night(3, **faulty)
    assert (told(parked.areas[0]), parked.exit_code) == ([(period(1), "failed")], 11)
    assert run_here(world.config, night(3) + timedelta(hours=1)).exit_code == 11
    assert world.night(4).exit_code == 0


def test_a_try_again_after_an_error_hides_no_failure(world, monkeypatch):
    """As Prefect tries an area again minutes after something stopped it."""
    world.publish(world.scene(1, dn=BRIGHT), world.scene(2, dn=BRIGHT // 9))
    settings = load_config(world.config)
    whole = nightly_period.map_area

    def broken(request, *rest):
        if period(2) in str(request.out):
            raise LedgerError("the server is gone")
        return whole(request, *rest)

    def once(minutes):
        options = Night(
            now_utc=night(2) + timedelta(minutes=minutes), load=lambda model, device: Faulty(), retry=RETRY
        )
        return run_area(settings, settings.areas[0], options)

    with monkeypatch.context() as patch:
        patch.setattr(nightly_period, "map_area", broken)
        with pytest.raises(LedgerError, match="gone"):
            once(0)
    area = once(1)
    assert [entry.first_day for entry in area.earlier] == [period(1)]
    assert area.failed == 1


def test_what_nobody_foresaw_tells_no_secret_to_a_scheduler(world, monkeypatch, caplog):
    """It logs what is raised with its traceback, and with those of its causes."""
    world.publish(world.scene(1))
    settings = load_config(world.config)
    once = Night(now_utc=night(1), load=load, retry=RETRY)

    def fail(request, contract):
        raise failure

    def fail_with_cause(request, contract):
        try:
            raise RuntimeError(SECRET)
        except RuntimeError as error:
            raise failure from error

    monkeypatch.setattr(nightly_run, "find_scenes", fail)
    failure = RuntimeError(SECRET)
    with pytest.raises(LanduseError, match=r"^RuntimeError: GET https://host/x failed$") as raised:
        run_area(settings, settings.areas[0], once)
    shown = "".join(traceback.format_exception(raised.value))
    monkeypatch.setattr(nightly_run, "find_scenes", fail_with_cause)
    failure = OutputError("full")
    with pytest.raises(OutputError, match="full") as raised:
        run_area(settings, settings.areas[0], once)
    shown += "".join(traceback.format_exception(raised.value))
    formatter = logging.Formatter()
    shown += "".join(map(formatter.format, caplog.records))
    assert "find_scenes" in shown  # where it came from
    assert "GET https://host/x failed" in shown
    assert "hunter2" not in shown
    assert "sig=abc" not in shown


class Telling(Cells):
    """Fails with a URL in its message."""

    def pixel_scores(self, dn, bands, level):
        raise RuntimeError(SECRET)


def test_what_nobody_foresaw_in_a_period_tells_no_secret_to_the_log(world, caplog):
    world.publish(world.scene(1))
    assert told(world.one(1, load=lambda model, device: Telling())) == [(period(1), "failed")]
    shown = "".join(map(logging.Formatter().format, caplog.records))
    assert "pixel_scores" in shown
    assert "hunter2" not in shown + json.dumps(world.rows("scenes"))


def test_the_clock_goes_on_in_a_sleep_and_never_back(monkeypatch):
    clock = Clock(night(1))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    asleep = clock()
    assert asleep - night(1) >= timedelta(hours=1)
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    assert clock() == asleep


def test_a_machine_that_wakes_up_sees_that_its_lease_has_lapsed(world, monkeypatch):
    world.publish(world.scene(1))
    real = time.time

    def sleep():
        monkeypatch.setattr(time, "time", lambda: real() + 5 * 3600)

    assert told(world.one(1, load=lambda model, device: Interfering(sleep))) == [(period(1), "left")]
    assert world.rows("maps") == []


@pytest.mark.parametrize(("broken", "code"), [(True, 11), (False, 1)])
def test_metrics_that_cannot_be_written_cost_no_report(world, run, broken, code):
    """The exit code of failed areas stays; where all went well it is that of the metrics."""
    if broken:
        (world.folder / "items.json").write_text("{")
    world.configure(model="balanced-pixel", metrics_file="landuse.prom")
    (world.out / "landuse.prom").mkdir(parents=True)
    ran = run("nightly", "run", world.config, "--json", "--quiet", "--device", "cpu")
    assert ran.code == code
    assert json.loads(ran.out)["failed_areas"] == (["valley"] if broken else [])
    assert ran.err.count("Error: ") == 1
    assert "landuse.prom cannot be written" in ran.err


@pytest.mark.parametrize(("days", "code"), [("1", 20), (None, 1)])
def test_the_alarm_of_status_outlasts_its_metrics(world, run, days, code):
    target = world.folder / "m.prom"
    target.mkdir()
    asked = ["--max-age-days", days] if days else []
    ran = run("nightly", "status", world.config, "--json", "--metrics", target, *asked)
    assert (ran.code, json.loads(ran.out)["areas"][0]["stale"]) == (code, days is not None)
    assert "m.prom cannot be written" in ran.err


def test_who_may_only_read_can_ask_for_the_status(world):
    """As a monitor does that runs as another user."""
    world.publish(world.scene(1))
    world.one(1)
    folder = Path(tempfile.mkdtemp(prefix="landuse-"))  # above pytest's own a stranger may not look
    try:
        shutil.copy(world.out / "ledger.sqlite", folder)
        folder.chmod(0o555)
        world.configure(out=str(folder))
        settings = load_config(world.config)

        def ask():
            if os.getuid() == 0:
                os.setuid(65534)
            (health,) = nightly_status(settings, night(2))
            os._exit(40 + health.scenes["mapped"])

        process = multiprocessing.get_context("fork").Process(target=ask)
        process.start()
        process.join(60)
        assert process.exitcode == 41
        assert [path.name for path in folder.iterdir()] == ["ledger.sqlite"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
