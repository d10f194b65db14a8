"""Runs that end early, and those that go on from there. Oracle: the map of a run that was let alone, byte for
byte. The model is one of pixels, in cells of 10 m; what is refused before any pixel is read needs none."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from landuse.errors import OutputError, UsageError
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.write.folder import Store
from landuse.workflows.mapping.map_area import load_classifier, map_area
from tests.servers import file_server, stac_item, write_items
from tests.warm import Warm
from tests.workflows.pixel_models import BLOCK_PX, BLOCKS, VISIBLE, small_scene
from tests.workflows.previews import drawn_previews
from tests.workflows.small_maps import BrightnessClassifier, assert_same_files, catalog_of, red_raster
from tests.workflows.small_maps import request as any_request

MAIN = """
import os, pathlib, signal, sys
import landuse.workflows.mapping.map_area as workflow
from landuse.cli import app
from tests.workflows.loaders import slow
workflow.load_classifier = slow
left = int(sys.argv.pop(1))
replace = pathlib.Path.replace
def replaced(path, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
if left:
    pathlib.Path.replace = replaced
app()
"""
"""The command, with a classifier that takes its time; killed as it moves its nth file into place."""


def request(tmp_path, source, **options):
    return any_request(tmp_path, source, block_px=BLOCK_PX, **options)


@pytest.fixture(scope="module", autouse=True)
def _drawn_previews():
    """Maps of other processes are compared with those of this one."""
    with drawn_previews():
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A catalogue, a model of pixels and the map of it that is made in one go."""
    folder = tmp_path_factory.mktemp("scene")
    source, model = small_scene(folder)
    report = map_area(request(folder, source), load_classifier(model, "cpu"))
    assert (len(report.plan.blocks), report.plan.engine, report.plan.cell_m) == (BLOCKS, "pixels", 10.0)
    assert len(report.classes) > 3
    return source, model, folder / "map"


def stopping(after, kind=KeyboardInterrupt):
    def stop(progress):
        if progress.blocks_done == after:
            raise kind

    return stop


def command(source, model, out, *, kill_at=0, **options):
    asked = ["--source", source, "--model", model, "--out", out, "--block-px", BLOCK_PX, "--device", "cpu"]
    return Warm(
        ["-c", MAIN, kill_at, "map", *asked],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        **options,
    )


def finished(out):
    return {path: path.stat().st_mtime_ns for path in out.glob(".blocks-*/*.npz")}


def wait_for_blocks(process, out, count):
    deadline = time.monotonic() + 300  # a busy machine is no bug
    while len(finished(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_at_any_moment_it_goes_on_from_there(scene, tmp_path):
    """SIGKILL between two blocks, in the midst of one, and as files are moved into place."""
    source, model, whole = scene
    out = tmp_path / "map"
    draw = random.Random(7)
    before = {}
    for wanted in sorted(draw.sample(range(1, BLOCKS - 2), 2)):
        with command(source, model, out) as process:
            wait_for_blocks(process, out, wanted)
            time.sleep(draw.uniform(0, 0.2))
            process.kill()
        now = finished(out)
        assert before.items() <= now.items()  # what was finished was not done again
        before = now
    left = BLOCKS - len(before)
    # One move for plan.json, each block and each of the fifteen files as it is made, then two into place.
    with command(source, model, out, kill_at=1 + left + 15 + 3) as process:
        process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert before.items() <= finished(out).items()
    assert (out / "landuse.tif").exists()
    assert not (out / "run.json").exists()
    assert list(out.glob(".partial-*"))
    map_area(request(tmp_path, source), load_classifier(model, "cpu"))
    assert_same_files(out, whole)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_kill_say_how_to_go_on(scene, tmp_path, kind, code):
    source, model, whole = scene
    out = tmp_path / "map"
    with command(source, model, out) as process:
        wait_for_blocks(process, out, 2)
        process.send_signal(kind)
        stdout, stderr = process.communicate(timeout=300)
    count = len(finished(out))
    assert (process.returncode, stdout) == (code, "")
    said = stderr.splitlines()[-1]
    assert said in {
        f"Interrupted: {told} of {BLOCKS} blocks are finished. "
        "Run the same command again: what is finished is kept."
        for told in (count - 1, count)  # it may come between a block and its count
    }
    assert "Traceback" not in stderr
    assert not list(out.glob("**/.partial*"))
    map_area(request(tmp_path, source), load_classifier(model, "cpu"))
    assert_same_files(out, whole)


def test_blocks_of_another_plan_are_not_thrown_away_unasked(scene, tmp_path):
    source, model, whole = scene
    out = tmp_path / "map"
    with pytest.raises(KeyboardInterrupt, match=f"^3 of {BLOCKS} blocks are finished"):
        map_area(request(tmp_path, source), load_classifier(model, "cpu"), stopping(3))
    before = finished(out)
    assert len(before) == 3
    differs = r"\(cells of 10 m, now 20 m; composite best, now median\)"
    said = rf"map holds 3 of {BLOCKS} blocks .*{differs}.*--overwrite"
    with pytest.raises(UsageError, match=said):
        map_area(request(tmp_path, source, cell_m=20, composite="median"), load_classifier(model, "cpu"))
    assert finished(out) == before
    map_area(request(tmp_path, source), load_classifier(model, "cpu"))
    assert_same_files(out, whole)


def test_overwrite_discards_blocks_of_another_plan_and_goes_on_from_its_own(scene, tmp_path):
    source, model, whole = scene
    out = tmp_path / "map"
    for options in ({"cell_m": 20}, {"overwrite": True}):
        with pytest.raises(KeyboardInterrupt):
            map_area(request(tmp_path, source, **options), load_classifier(model, "cpu"), stopping(4))
    before = finished(out)
    assert len(before) == 4
    assert len({path.parent for path in before}) == 1
    with pytest.raises(KeyboardInterrupt):
        map_area(request(tmp_path, source, overwrite=True), load_classifier(model, "cpu"), stopping(6))
    assert before.items() < finished(out).items()
    map_area(request(tmp_path, source, overwrite=True), load_classifier(model, "cpu"))
    assert_same_files(out, whole)


def test_a_scene_that_is_new_in_the_catalogue_is_named(tmp_path):
    values = np.full((128, 256), 900, np.uint16)
    catalog_of(tmp_path, red_raster(tmp_path / "first.tif", values))
    source = str(tmp_path / "catalog" / "catalog.json")
    with pytest.raises(KeyboardInterrupt):
        map_area(request(tmp_path, source), BrightnessClassifier(64), stopping(1))
    catalog_of(tmp_path, red_raster(tmp_path / "second.tif", values), acquired="2024-06-06T10:00:00+00:00")
    with pytest.raises(UsageError, match=r"\(1 scenes new, such as 'second'\)"):
        map_area(request(tmp_path, source), BrightnessClassifier(64))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"blocks": 3}'])
def test_a_damaged_plan_of_blocks_is_no_traceback(scene, tmp_path, damage):
    source, model, _ = scene
    folder = tmp_path / "map" / ".blocks-0123"
    folder.mkdir(parents=True)
    (folder / "r000000_c000000.npz").touch()
    (folder / "plan.json").write_text(damage)
    with pytest.raises(UsageError, match=r"holds 1 finished blocks.*cannot read.*--overwrite"):
        map_area(request(tmp_path, source), load_classifier(model, "cpu"))


def test_two_runs_into_one_folder_keep_apart(scene, tmp_path):
    source, model, whole = scene
    out = tmp_path / "map"
    out.mkdir()
    with Store.at(out).locked():
        with pytest.raises(OutputError, match=r"Another run is at work in .*map\. Wait"):
            map_area(request(tmp_path, source), load_classifier(model, "cpu"))
        assert not list(out.iterdir())
    map_area(request(tmp_path, source), load_classifier(model, "cpu"))
    assert_same_files(out, whole)


def test_the_plan_beside_the_blocks_holds_no_signature(scene, tmp_path):
    source, model, _ = scene
    item = json.loads(next(Path(source).parent.glob("fields/*.json")).read_text())
    item["assets"] = {
        band: {**item["assets"][band], "href": f"http://127.0.0.1:1/{band}.tif?X-Amz-Signature=s3cr3t"}
        for band in VISIBLE
    }
    path = write_items(tmp_path / "items.json", [item])
    hasty = RetryPolicy(attempts=1)
    with pytest.raises(KeyboardInterrupt):
        map_area(request(tmp_path, str(path), retry=hasty), load_classifier(model, "cpu"), stopping(1))
    (plan,) = (tmp_path / "map").glob(".blocks-*/plan.json")
    assert "http://127.0.0.1:1/B04.tif" in plan.read_text()
    assert "s3cr3t" not in plan.read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stride_px": 10}, "--stride-px 10"),
        ({"composite": "mean"}, "'mean'"),
    ],
)
def test_what_fits_nothing_is_refused_before_a_pixel_is_read(tmp_path, options, says):
    """The imagery cannot be read at all: whoever tried would say so."""
    item = stac_item("item", cloud=5.0, bands=("B04", "SCL"), s2__processing_baseline="03.00")
    path = write_items(tmp_path / "items.json", [item])
    with pytest.raises(UsageError, match=says):
        map_area(request(tmp_path, str(path), **options), BrightnessClassifier(64))
    assert not (tmp_path / "map").exists()


@pytest.mark.parametrize(
    ("bbox", "says"), [("-80,-10,90,60", "reaches too far"), ("2,10,18,34", "thousand million pixels")]
)
def test_an_area_of_which_no_map_can_be_made_is_refused_before_anybody_is_asked(tmp_path, bbox, says):
    from landuse.pipeline.search.area import parse_bbox

    with file_server(tmp_path) as server, pytest.raises(UsageError, match=says):
        map_area(request(tmp_path, server.url, area=parse_bbox(bbox)), BrightnessClassifier(64))
    assert server.log == []
