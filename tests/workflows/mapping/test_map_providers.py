"""The same pixels through every kind of catalogue, with and without faults.

Oracle: the map of the same files on disk, bit for bit. The services are real servers on loopback: a STAC
API, a token service, and storage that refuses whatever is not signed with a token of its own. Azure's
hosts are played by the storage as an HTTP proxy, so that only what would be signed there is signed here.
"""

import dataclasses
import itertools
import json
import logging
import time
from contextlib import ExitStack

import numpy as np
import pytest

from landuse.errors import IncompleteError, NothingFoundError, ProviderError, ReadError
from landuse.model.predict_pixels import PixelPredictor
from landuse.pipeline.providers import EARTH_SEARCH, PLANETARY_COMPUTER
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search.area import parse_bbox, parse_dates
from landuse.workflows.mapping.dry_run import estimate_run
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest
from tests.faults import Storage, Tokens, faulty_api, serving, token_service
from tests.servers import free_port, stac_api, write_items
from tests.workflows.pixel_models import save_pixel_model
from tests.workflows.world import (
    BASELINES,
    SCENES,
    area_of,
    assert_same_map,
    item_collection,
    layers,
    make_world,
)

# The SDK's models are written for pydantic 1, and importing them warns.
pytestmark = pytest.mark.filterwarnings("ignore:Support for class-based `config`")

ACCOUNT = "sentinel2l2a01"
BLOBS = f"http://{ACCOUNT}.blob.core.windows.net/sentinel2-l2"
KEY = "k3y-of-mine"
HASTY = RetryPolicy(attempts=7, first_pause_s=0.02, deadline_s=30, connect_timeout_s=5, read_timeout_s=5)
DAYS = tuple(SCENES)


AREA = area_of(359_900, 5_349_400, 362_600, 5_352_000)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """A model of pixels: maps are in cells of 10 m."""
    return PixelPredictor.load(
        str(save_pixel_model(tmp_path_factory.mktemp("model") / "a.safetensors")), "cpu"
    )


@pytest.fixture(scope="module")
def world(data_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    return root, make_world(data_dir, root)


def request(source, out, **wanted):
    return MapRequest(
        **{
            "source": source,
            "area": AREA,
            "dates": parse_dates("2015-06-23/.."),
            "out": out,
            "retry": HASTY,
            "block_px": 128,
            **wanted,
        }
    )


def local_map(world, predictor, out, days=DAYS, **wanted):
    root, acquisitions = world
    href = f"{root}/{{folder}}/{{band}}.tif"
    items = [acquisitions[day, "03.00"].earth_search(href) for day in days]
    source = item_collection(out.with_suffix(".json"), items)
    return map_area(request(source, out, **wanted), predictor)


@pytest.fixture(scope="module")
def reference(world, predictor, tmp_path_factory):
    """The map of both dates on disk; its cloud is filled from the other date."""
    out = tmp_path_factory.mktemp("reference") / "map"
    report = local_map(world, predictor, out)
    assert report.cover.valid > 0.98
    # The second date is the clearer over the area, whatever the tiles say.
    assert [scene.acquired_utc.strftime("%Y%m%d") for scene in report.plan.scenes] == [DAYS[1], DAYS[0]]
    assert len(np.unique(layers(out)[0][2])) > 4
    return out


@pytest.fixture(scope="module")
def reference_of_one(world, predictor, tmp_path_factory):
    """The map of the clearer date alone: what its cloud hides stays empty."""
    out = tmp_path_factory.mktemp("reference") / "one"
    report = local_map(world, predictor, out, days=DAYS[1:])
    assert 0.9 < report.cover.valid < 0.999
    assert report.cover.cloudy > 0
    return out


class Services:
    """Planetary Computer and Earth Search on loopback, over the same files."""

    def __init__(self, stack, world, monkeypatch, tmp_path, baseline, **token):
        from planetary_computer.settings import Settings

        root, acquisitions = world
        self.tokens = Tokens(**token)
        self.azure = stack.enter_context(
            serving(Storage(root=root, prefix="/sentinel2-l2/", tokens=self.tokens))
        )
        self.bucket = stack.enter_context(serving(Storage(root=root)))
        self.service = stack.enter_context(token_service(self.tokens))
        self.apis = {}
        for kind, href in (
            ("planetary_computer", BLOBS + "/{folder}/{band}.tif?sig=someone-elses-old-one"),
            ("earth_search", self.bucket.url + "/{folder}/{band}.tif"),
        ):
            items = [getattr(acquisitions[day, baseline], kind)(href) for day in DAYS]
            self.apis[kind] = stack.enter_context(stac_api(write_items(tmp_path / f"{kind}.json", items)))
        monkeypatch.setenv("PC_SDK_SAS_URL", self.service.url)
        monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", KEY)
        monkeypatch.setenv("HTTP_PROXY", self.azure.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        Settings.get.cache_clear()
        stack.callback(Settings.get.cache_clear)

    @property
    def planetary_computer(self):
        return dataclasses.replace(PLANETARY_COMPUTER, endpoint=self.apis["planetary_computer"])

    @property
    def earth_search(self):
        return dataclasses.replace(EARTH_SEARCH, endpoint=self.apis["earth_search"])

    def secrets(self):
        return [KEY, "sig=", "someone-elses", *self.tokens.given]


@pytest.fixture
def services(world, monkeypatch, tmp_path):
    with ExitStack() as stack:
        yield lambda baseline="05.11", **token: Services(
            stack, world, monkeypatch, tmp_path, baseline, **token
        )


def run_json(out):
    return json.loads((out / "run.json").read_text())


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("kind", ["planetary_computer", "earth_search"])
def test_every_catalogue_and_baseline_gives_the_same_map(
    services, reference, predictor, tmp_path, kind, baseline
):
    there = services(baseline)
    provider = getattr(there, kind)
    out = tmp_path / "map"
    map_area(request(provider, out), predictor)
    assert_same_map(out, reference)
    written = run_json(out)
    for scene in written["scenes"]:
        assert (scene["provider"], scene["baseline"]) == (provider.name, baseline)
        offsets = {asset["offset"] for band, asset in scene["assets"].items() if band != "SCL"}
        assert offsets == {-BASELINES[baseline] / 10_000}
        assert scene["cloud_percent"] == 55.0
        assert scene["area"]["cloud_percent"] < 40
    assert [(source["source"], source["state"]) for source in written["sources"]] == [(provider.name, "used")]
    assert written["failures"] == []


def test_nothing_is_fetched_twice_and_little_that_is_not_needed(services, reference, predictor, tmp_path):
    there = services()
    out = tmp_path / "map"
    report = map_area(request(there.planetary_computer, out), predictor)
    assert there.azure.refetched() == {}
    assert {one.status for one in there.azure.asked} == {206}
    fetched = sum(one.sent for one in there.azure.asked)
    assert fetched == report.traffic.fetched_bytes
    assert len(there.azure.asked) == report.traffic.requests
    assert len(there.service.asked) == 1  # one token serves the whole run
    assert there.service.asked[0] == (f"/{ACCOUNT}/sentinel2-l2", KEY)


@pytest.mark.slow
def test_a_night_of_faults_gives_the_map_of_a_quiet_one(
    services, reference_of_one, predictor, tmp_path, caplog
):
    """20 % busy, 5 % broken off, tokens of two seconds, one asset gone, the provider down soon."""
    caplog.set_level(logging.INFO)
    there = services(lifetime_s=2.0)
    there.tokens.busy = 2
    quiet = map_area(request(there.planetary_computer, tmp_path / "quiet"), predictor)
    there.azure.asked.clear()

    def slowly(storage):
        time.sleep(0.02)  # so that tokens end while the run goes on

    for storage in (there.azure, there.bucket):
        storage.busy_every, storage.truncate_every, storage.interfere = 5, 20, slowly
        # Of the first date one band is gone for good, everywhere.
        storage.gone = frozenset()
    gone = f"{DAYS[0]}-05.11/B03.tif"
    aside = there.azure.root / (gone + ".aside")
    (there.azure.root / gone).rename(aside)
    there.azure.down_after = 3  # before all of the second date is there: six requests bring it
    out = tmp_path / "map"
    try:
        with (
            faulty_api(there.apis["planetary_computer"], busy_every=5, truncate_every=7) as first,
            faulty_api(there.apis["earth_search"], busy_every=5, truncate_every=7) as second,
        ):
            sources = (
                dataclasses.replace(there.planetary_computer, endpoint=first),
                dataclasses.replace(there.earth_search, endpoint=second),
            )
            report = map_area(request(sources, out, allow_failed=True), predictor)
    finally:
        aside.rename(there.azure.root / gone)
    assert quiet.cover.valid > report.cover.valid
    assert_same_map(out, reference_of_one)

    written = run_json(out)
    assert [source["state"] for source in written["sources"]] == ["used", "standby"]
    missing = [failure for failure in written["failures"] if failure["replaced_by"] is None]
    assert {failure["band"] for failure in missing if failure["provider"] == "earth-search"} == {"B03"}
    assert {failure["provider"] for failure in missing} == {"planetary-computer", "earth-search"}
    assert all(failure["scene_id"].find(DAYS[0]) > 0 for failure in missing)
    assert {"404" in failure["reason"] for failure in missing if failure["provider"] == "earth-search"} == {
        True
    }
    replaced = [failure for failure in written["failures"] if failure["replaced_by"] is not None]
    assert {failure["replaced_by"] for failure in replaced} == {"earth-search"}
    assert {failure["provider"] for failure in replaced} == {"planetary-computer"}
    assert there.bucket.asked
    assert len(there.service.asked) > 2  # tokens were renewed
    for storage in (there.azure, there.bucket):
        assert storage.refetched() == {}
    kept = [caplog.text, json.dumps(report.to_dict()), str(report)]
    kept += [path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file()]
    for text in kept:
        for secret in there.secrets():
            assert secret not in text


def test_a_provider_that_is_down_half_way_is_replaced(services, reference, predictor, tmp_path):
    there = services()
    map_area(request(there.planetary_computer, tmp_path / "quiet"), predictor)
    there.azure.down_after = len(there.azure.asked) // 4
    there.azure.asked.clear()
    out = tmp_path / "map"
    report = map_area(request((there.planetary_computer, there.earth_search), out), predictor)
    assert_same_map(out, reference)
    assert {failure.replaced_by for failure in report.failures} == {"earth-search"}
    assert not list(out.glob(".*"))  # nothing is missing: nothing is left to mend


def test_revoked_tokens_are_replaced(services, reference, predictor, tmp_path):
    there = services()

    asked = itertools.count(1)  # each request has its own number, also of those at the same moment

    def revoke(storage):
        if next(asked) in (4, 14):  # far apart: a request is given a second token, not a third
            there.tokens.revoke()

    there.azure.interfere = revoke
    out = tmp_path / "map"
    report = map_area(request(there.planetary_computer, out), predictor)
    assert_same_map(out, reference)
    assert report.failures == ()
    assert {one.status for one in there.azure.asked} == {206, 403}
    assert next(asked) > 14


def test_without_another_source_what_is_missing_is_empty_and_said(services, predictor, tmp_path):
    there = services()
    there.azure.gone = frozenset({"B03.tif"})
    with pytest.raises(ReadError, match=r"No scene could be read.*B03.*404"):
        map_area(request(there.planetary_computer, tmp_path / "map"), predictor)
    assert not list((tmp_path / "map").iterdir())


def test_a_source_that_does_not_serve_is_passed_over(services, reference, predictor, tmp_path, caplog):
    there = services()
    down = dataclasses.replace(PLANETARY_COMPUTER, endpoint=f"http://127.0.0.1:{free_port()}")
    out = tmp_path / "map"
    map_area(request((down, there.earth_search), out), predictor)
    assert_same_map(out, reference)
    states = [(source["source"], source["state"]) for source in run_json(out)["sources"]]
    assert states == [("planetary-computer", "failed"), ("earth-search", "used")]
    assert "planetary-computer is passed over" in caplog.text
    with pytest.raises(ProviderError, match=r"No source serves the area.*planetary-computer.*earth-search"):
        map_area(
            request((down, dataclasses.replace(EARTH_SEARCH, endpoint=down.endpoint)), tmp_path / "no"),
            predictor,
        )


def test_cloud_counts_over_the_area_and_not_over_the_tile(world, predictor, tmp_path):
    # Both tiles are said to be 55 % cloud. Over this area the first date is all cloud, the second clear.
    row, col, _ = 60, 40, 25
    x, y = 359_130 + col * 20, 5_352_340 - row * 20
    area = area_of(x - 200, y - 200, x + 200, y + 200)
    report = local_map(world, predictor, tmp_path / "map", area=area)
    (scene,) = report.plan.scenes
    assert scene.acquired_utc.strftime("%Y%m%d") == DAYS[1]
    assert (scene.view.seen, scene.view.clear) == (1, 1)
    (left_out,) = report.left_out
    assert left_out.view.cloud_percent == 100
    with pytest.raises(
        NothingFoundError, match=r"the clearest has 100.0 % cloud there, above --max-cloud 40"
    ):
        local_map(world, predictor, tmp_path / "none", days=DAYS[:1], area=area)


def test_below_min_valid_the_report_is_complete(world, predictor, tmp_path):
    row, col, _ = 60, 40, 25
    x, y = 359_130 + col * 20, 5_352_340 - row * 20
    area = area_of(x - 200, y - 200, x + 200, y + 200)
    with pytest.raises(IncompleteError) as caught:
        local_map(
            world, predictor, tmp_path / "map", days=DAYS[:1], area=area, max_cloud_percent=100,
            min_valid_percent=50,
        )  # fmt: skip
    assert caught.value.exit_code == 4
    written = run_json(tmp_path / "map")
    assert written["cover"]["cloudy"] > 0.5
    assert written["scenes"][0]["area"]["clear_percent"] == 0
    assert {values[2].tolist()[0][0] for values in layers(tmp_path / "map")[:1]} == {255}


def test_a_dry_run_foresees_without_reading_a_pixel(services, predictor, tmp_path):
    there = services()
    sources = (there.planetary_computer, there.earth_search)
    estimate = estimate_run(request(sources, tmp_path / "map"), predictor)
    assert there.azure.asked == there.bucket.asked == there.service.asked == []
    assert [len(scene.mirrors) for scene in estimate.plan.scenes] == [1, 1]
    assert estimate.gaps.percent == 0
    report = map_area(request(sources, tmp_path / "map"), predictor)
    assert estimate.cost.pixels >= report.pixels > 0.9 * estimate.cost.pixels
    shown = json.dumps(estimate.to_dict())
    for secret in there.secrets():
        assert secret not in shown


def test_what_no_scene_covers_is_said_before_the_run(world, predictor, tmp_path):
    root, acquisitions = world
    acquisition = acquisitions[DAYS[0], "03.00"]
    west, south, east, north = acquisition.bbox
    area = parse_bbox(f"{west},{south},{east + (east - west)},{north}")
    items = [acquisition.earth_search(f"{root}/{{folder}}/{{band}}.tif")]
    source = item_collection(tmp_path / "items.json", items)
    wanted = request(source, tmp_path / "map", area=area, max_cloud_percent=100)
    estimate = estimate_run(wanted, predictor)
    assert estimate.gaps.percent == pytest.approx(50, abs=0.1)
    assert estimate.gaps.bboxes[0] == pytest.approx((east, south, 2 * east - west, north), abs=1e-4)
