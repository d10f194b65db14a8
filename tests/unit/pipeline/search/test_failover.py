"""Several sources: real servers on loopback and files. Oracle: the rule, in the words of each case."""

import json
import logging
import re
from dataclasses import replace

import pytest
from starlette.responses import PlainTextResponse

from landuse.errors import ModelError, NothingFoundError, ProviderError, UsageError
from landuse.pipeline.providers import EARTH_SEARCH, PLANETARY_COMPUTER
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search.area import parse_bbox, parse_dates
from landuse.pipeline.search.find_scenes import SceneQuery, search_sources
from landuse.pipeline.search.source import split_sources
from tests.servers import file_server, free_port, stac_api, stac_item, write_items

HASTY = RetryPolicy(attempts=2, first_pause_s=0.0, deadline_s=20)
QUERY = SceneQuery(
    area=parse_bbox("10.2,50.2,10.4,50.4"),
    dates=parse_dates("2015-06-23/.."),
    levels=("L1C", "L2A"),
    bands=("B02", "B03"),
)
TILE = {"s2__mgrs_tile": "32UMA", "platform": "Sentinel-2B"}
BROKEN = {"s2__processing_baseline": None}
OF_L1C = {"s2__product_type": "S2MSI1C"}
SOURCES = {
    "good": [stac_item("good-1", **TILE), stac_item("good-2", datetime="2024-06-20T10:20:30Z", **TILE)],
    "also": [stac_item("also-1", **{**TILE, "platform": "sentinel-2b"})],
    "elsewhere": [stac_item("far", bbox=(50, 10, 51, 11))],
    "faulty": [stac_item("faulty-1", **BROKEN), stac_item("faulty-2", **BROKEN)],
    "mixed": [stac_item("l2a", **TILE), stac_item("l1c", **OF_L1C, **TILE)],
    "l1c": [stac_item("toa", **OF_L1C, **TILE)],
    "poor": [stac_item("one-band", bands=("B02",), **TILE)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    for name, items in SOURCES.items():
        write_items(root / f"{name}.json", items)
    (root / "catalog.json").write_text("no json")
    return root


@pytest.fixture(scope="module")
def web(folder):
    with file_server(folder) as server:
        yield server


def _found(*sources, **wanted):
    return search_sources(sources, replace(QUERY, **wanted), HASTY)


def _told(found):
    return [(outcome.source, outcome.state, outcome.scenes) for outcome in found.sources]


def test_the_first_that_serves_is_used_and_the_rest_stand_by_in_order(folder, web):
    here, there, nothing = str(folder / "good.json"), f"{web.url}/also.json", f"{web.url}/elsewhere.json"
    found = _found(nothing, here, there)
    assert _told(found) == [(nothing, "nothing", 0), (here, "used", 2), (there, "standby", 1)]
    assert "1 outside the area" in found.sources[0].reason
    assert [outcome.reason for outcome in found.sources[1:]] == ["", ""]
    assert [scene.id for scene in found.scenes] == ["good-2", "good-1"]
    assert [scene.provider for scene in found.scenes] == [here, here]
    assert [[mirror.id for mirror in scene.mirrors] for scene in found.scenes] == [[], ["also-1"]]
    assert found.scenes[1].mirrors[0].provider == there
    turned = _found(there, nothing, here)
    assert _told(turned) == [(there, "used", 1), (nothing, "nothing", 0), (here, "standby", 1)]
    assert [scene.id for scene in turned.scenes] == ["also-1"]
    assert [mirror.id for mirror in turned.scenes[0].mirrors] == ["good-1"]


def test_a_known_provider_is_called_by_its_name(folder, tmp_path):
    item = stac_item("pc", **TILE)
    down = replace(EARTH_SEARCH, endpoint=f"http://127.0.0.1:{free_port()}")
    with stac_api(write_items(tmp_path / "items.json", [item])) as url:
        found = _found(down, replace(PLANETARY_COMPUTER, endpoint=url), levels=("L2A",))
    assert _told(found) == [("earth-search", "failed", 0), ("planetary-computer", "used", 1)]
    assert "did not answer" in found.sources[0].reason


def test_only_the_level_that_is_used_stands_by(folder):
    good, toa = str(folder / "good.json"), str(folder / "l1c.json")
    assert _told(_found(good, toa)) == [(good, "used", 2), (toa, "unfit", 0)]
    assert _told(_found(toa, good)) == [(toa, "used", 1), (good, "unfit", 0)]
    # Of one that offers both, the level that is used.
    mixed = str(folder / "mixed.json")
    assert _told(_found(toa, mixed)) == [(toa, "used", 1), (mixed, "standby", 1)]


@pytest.mark.parametrize(
    ("name", "state", "said"),
    [
        ("faulty.json", "failed", "None of the 2 items .* 'faulty-1'"),
        ("mixed.json", "unfit", "L1C and L2A"),
        ("poor.json", "unfit", "no B03"),
        ("elsewhere.json", "nothing", "1 outside the area"),
        ("catalog.json", "failed", "cannot be read as STAC"),
        ("missing.json", "failed", "HTTP 404"),
    ],
)
def test_whatever_a_stranger_serves_the_next_source_is_asked(web, folder, caplog, name, state, said):
    source, good = f"{web.url}/{name}", str(folder / "good.json")
    found = _found(source, good)
    assert _told(found) == [(source, state, 0), (good, "used", 2)]
    assert re.search(said, found.sources[0].reason)
    assert f"source {source} is passed over" in caplog.text
    # To stand by, one of two levels is of use: the level that is used counts.
    beside = "standby" if name == "mixed.json" else state
    assert [outcome.state for outcome in _found(good, source).sources] == ["used", beside]


@pytest.mark.parametrize(
    ("name", "said"), [("faulty", "'faulty-1'"), ("mixed", "L1C and L2A"), ("catalog", "STAC")]
)
def test_ones_own_files_are_to_be_mended_at_once(folder, web, name, said):
    own = str(folder / f"{name}.json")
    with pytest.raises(UsageError, match=said):
        _found(own, f"{web.url}/good.json")
    if name != "mixed":
        with pytest.raises(UsageError, match=said):
            _found(f"{web.url}/good.json", own)


def test_ones_own_files_that_do_not_fit_are_passed_over(folder):
    poor, far, good = (str(folder / f"{name}.json") for name in ("poor", "elsewhere", "good"))
    assert _told(_found(poor, far, good)) == [(poor, "unfit", 0), (far, "nothing", 0), (good, "used", 2)]


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("elsewhere", "elsewhere"), NothingFoundError),
        (("elsewhere", "poor"), ModelError),
        (("elsewhere", "mixed"), UsageError),
        # What is down may have the scenes.
        (("elsewhere", "missing"), ProviderError),
        (("missing", "poor", "elsewhere"), ProviderError),
        (("mixed", "faulty"), ProviderError),
    ],
)
def test_where_none_serves_each_is_told_of_and_the_worst_counts(web, names, error):
    sources = [f"{web.url}/{name}.json" for name in names]
    with pytest.raises(error, match="No source serves the area") as caught:
        _found(*sources)
    assert type(caught.value) is error
    assert caught.value.exit_code == {NothingFoundError: 3, ProviderError: 5}.get(error, 2)
    message = str(caught.value)
    places = [message.index(f"{source}: ") for source in sources]
    assert places == sorted(places)


def test_of_one_source_its_own_error_is_told(web):
    for name, error in (("elsewhere", NothingFoundError), ("mixed", UsageError), ("missing", ProviderError)):
        with pytest.raises(error) as caught:
            _found(f"{web.url}/{name}.json")
        assert "No source" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["planetary-computre", "ftp://x.org/stac", "x" * 5000, "https://u:p/w@x"])
def test_what_is_no_source_is_seen_before_any_is_searched(web, wrong):
    web.log.clear()
    with pytest.raises(UsageError, match="--source"):
        _found(f"{web.url}/good.json", wrong)
    assert web.log == []


def test_the_rest_of_an_address_is_not_shown(web, folder):
    with pytest.raises(UsageError, match="what follows the comma after a URL") as caught:
        _found(f"{web.url}/good.json", str(folder / "good.json"), "SECRET@host/v1")
    assert "SECRET" not in f"{caught.value}{caught.value.__cause__}"
    with pytest.raises(UsageError, match="'planetary-computre'"):
        _found(str(folder / "good.json"), "planetary-computre", f"{web.url}/good.json")


def test_secrets_in_addresses_are_never_told(web, folder, caplog):
    caplog.set_level(logging.DEBUG, logger="landuse")
    root = web.url.replace("http://", "http://me:SECRET@")
    sources = [f"{root}/{name}.json?sig=SECRET" for name in ("missing", "faulty", "mixed", "elsewhere")]
    with pytest.raises(ProviderError) as caught:
        _found(*sources)
    web.interfere = lambda request: PlainTextResponse("SECRET", 503) if "also" in request.url.path else None
    try:
        found = _found(*sources, f"{root}/good.json?sig=SECRET", f"{root}/also.json?sig=SECRET")
    finally:
        web.interfere = None
    assert [outcome.state for outcome in found.sources] == [
        "failed", "failed", "unfit", "nothing", "used", "failed"
    ]  # fmt: skip
    names = [scene.provider for scene in found.scenes]
    assert names == [f"{web.url}/good.json"] * 2
    for told in (caught.value, found.sources, names, caplog.text):
        assert "SECRET" not in str(told)


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("planetary-computer", ["planetary-computer"]),
        ("cdse, earth-search ,planetary-computer", ["cdse", "earth-search", "planetary-computer"]),
        ("cdse,,earth-search,", ["cdse", "earth-search"]),
        ("https://x.org/a.json,", ["https://x.org/a.json"]),
        ("", []),
        (" , ", []),
        # Commas of a password, of a query, of a path.
        ("https://user:p,w@host/v1", ["https://user:p,w@host/v1"]),
        ("https://user:p,,w@host/v1,cdse", ["https://user:p,,w@host/v1", "cdse"]),
        ("https://x.org/a?bbox=1,2,3,4,https://y.org", ["https://x.org/a?bbox=1,2,3,4", "https://y.org"]),
        ("my,items.json", ["my,items.json"]),
        ("cdse,my,items.json,earth-search", ["cdse", "my,items.json", "earth-search"]),
        ("https://x.org,my.json", ["https://x.org", "my.json"]),
        # What is unknown is told alone where what is before or after it is known.
        ("planetary-computre,cdse", ["planetary-computre", "cdse"]),
        ("cdse,planetary-computre", ["cdse", "planetary-computre"]),
        ("my.json,nowhere.json", ["my.json", "nowhere.json"]),
    ],
)
def test_commas_part_sources_and_nothing_else(tmp_path, monkeypatch, text, sources):
    monkeypatch.chdir(tmp_path)
    for name in ("my,items.json", "my.json"):
        (tmp_path / name).write_text(json.dumps({}))
    assert split_sources(text) == tuple(sources)


def test_a_text_that_no_file_can_be_called_is_split_all_the_same():
    assert split_sources("x" * 5000) == ("x" * 5000,)
    assert split_sources(f"cdse,{'x' * 5000}") == ("cdse", "x" * 5000)
