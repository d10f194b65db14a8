"""The command as its user starts and ends it. Oracles: urllib, the exit code, the port that is free again."""

import json
import re
import shutil
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request

import pytest

from landuse.errors import UsageError
from landuse.workflows.view.view import MOST_FOLDERS, ViewRequest, open_browser, served
from tests.view_folders import write_map
from tests.warm import Warm


@pytest.fixture(scope="module")
def map_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "map"
    write_map(folder, 100)
    return folder


def answer(url, **headers):
    request = urllib.request.Request(url, headers={k.replace("_", "-"): v for k, v in headers.items()})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.status, response.read()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0)])
def test_it_prints_its_address_serves_and_ends_cleanly(map_folder, number, code):
    with Warm(["-m", "landuse", "view", map_folder, "--no-open"]) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("open    http://127.0.0.1:")
            address = line.split()[1]
            status, page = answer(address)
            assert (status, b"landuse view" in page) == (200, True)
            part = answer(f"{address}data/0/landuse.tif", Range="bytes=0-3")
            assert part == (206, (map_folder / "landuse.tif").read_bytes()[:4])
            # A connection that is open and idle keeps nothing from ending.
            port = int(address.rsplit(":", 1)[1].strip("/"))
            with socket.create_connection(("127.0.0.1", port), timeout=10):
                process.send_signal(number)
                out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (code, "")
    assert err.splitlines() == ["Open that address in a browser. Ctrl-C ends the server.", "Ended."]
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_what_cannot_be_shown_is_told_before_anything_is_served(run, tmp_path, map_folder):
    told = run("view", tmp_path, "--no-open")
    assert (told.code, "neither a landuse.tif nor a change.tif" in told.err) == (2, True)
    told = run("view", map_folder, "--no-open", "--port", "70000")
    assert (told.code, "--port 70000 is no port" in told.err) == (2, True)
    with pytest.raises(UsageError, match=f"the page shows 1 to {MOST_FOLDERS}"):
        ViewRequest(folders=(map_folder,) * (MOST_FOLDERS + 1))


def test_joined_maps_are_shown_zone_by_zone_as_if_these_were_given(map_folder, tmp_path):
    zones = ["zone-33N", "zone-32N"]
    for name in ("june", "july"):
        folder = tmp_path / name
        for zone in zones:
            shutil.copytree(map_folder, folder / zone)
        (folder / "run.json").write_text(json.dumps({"zones": [{"folder": zone} for zone in zones]}))

    def titles_and_rasters(*given):
        with served(ViewRequest(folders=given)) as serving:
            thread = threading.Thread(target=serving.run, daemon=True)
            thread.start()
            try:
                page = answer(serving.address)[1].decode()
                raster = answer(f"{serving.address}data/3/landuse.tif")[1]
            finally:
                serving.stop()
                thread.join(timeout=60)
        return re.findall(r'"title": ?"([^"]*zone-[^"]*)"', page), raster

    found = titles_and_rasters(tmp_path / "june", tmp_path / "july")
    assert found[0] == ["june zone-33N", "june zone-32N", "july zone-33N", "july zone-32N"]
    assert found[1] == (map_folder / "landuse.tif").read_bytes()
    each = [tmp_path / name / zone for name in ("june", "july") for zone in zones]
    assert titles_and_rasters(*each) == found


def test_zones_count_as_folders(tmp_path):
    folder = tmp_path / "wide"
    folder.mkdir()
    zones = [{"folder": f"zone-{number:02}N"} for number in range(1, MOST_FOLDERS + 2)]
    (folder / "run.json").write_text(json.dumps({"zones": zones}))
    with (
        pytest.raises(UsageError, match=f"{MOST_FOLDERS + 1} folders are given, counting those of the zones"),
        served(ViewRequest(folders=(folder,))),
    ):
        pass


def test_no_browser_is_opened_without_a_display(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("a browser is opened"))
    assert open_browser("http://127.0.0.1:1/") is False
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    assert open_browser("http://127.0.0.1:1/") is True


def test_the_page_follows_what_lies_in_the_folders(map_folder, tmp_path):
    folder = tmp_path / "map"
    shutil.copytree(map_folder, folder)
    with served(ViewRequest(folders=(folder,))) as serving:
        thread = threading.Thread(target=serving.run)
        thread.start()
        try:
            assert b"2024-06-16" in answer(serving.address)[1]
            shutil.rmtree(folder)
            with pytest.raises(urllib.error.HTTPError) as refused:
                answer(serving.address)
            with refused.value as error:
                assert (error.code, b"neither a landuse.tif" in error.read()) == (500, True)
            write_map(folder, 120, seed=1, acquired="2025-01-02T10:00:00+00:00")
            assert b"2025-01-02" in answer(serving.address)[1]
        finally:
            serving.stop()
            thread.join(timeout=10)
