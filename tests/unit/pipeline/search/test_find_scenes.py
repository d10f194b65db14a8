"""Oracles: the items as written, and every order in which they may come."""

import asyncio
import itertools
import json
import shutil
from dataclasses import replace

import pytest
import rustac
from starlette.responses import JSONResponse

from landuse.errors import LanduseError, ModelError, NothingFoundError, ProviderError, UsageError
from landuse.pipeline.providers import EARTH_SEARCH
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search import find_scenes as module
from landuse.pipeline.search.area import parse_bbox, parse_dates
from landuse.pipeline.search.find_scenes import CLOUD_TOLERANCE_PERCENT, SceneQuery, search, search_sources
from tests.servers import file_server, free_port, json_body, stac_item, write_items

INSIDE = parse_bbox("10.2,50.2,10.4,50.4")
ANYWHERE = SceneQuery(area=None)
EVER = parse_dates("2015-06-23/..")
AT_ONCE = RetryPolicy(first_pause_s=0.0)


def _query(**wanted):
    return SceneQuery(**{"area": INSIDE, "dates": EVER, **wanted})


def _catalogue(folder, items):
    """A static catalogue with a collection between the root and the items."""
    (folder / "s2").mkdir(parents=True)
    for item in items:
        (folder / "s2" / f"{item['id']}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./{item['id']}.json"} for item in items]
    # A link back up must not send the walk in circles.
    links += [{"rel": "root", "href": "../catalog.json"}, {"rel": "child", "href": "../catalog.json"}]
    collection = {"type": "Collection", "stac_version": "1.1.0", "id": "s2", "links": links}
    (folder / "s2" / "collection.json").write_text(json.dumps(collection))
    root = {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "root",
        "links": [{"rel": "child", "href": "./s2/collection.json"}],
    }
    (folder / "catalog.json").write_text(json.dumps(root))
    return folder


def test_every_form_of_local_metadata_gives_the_same_scenes(tmp_path, monkeypatch):
    items = [stac_item("a", cloud=5.0), stac_item("b", cloud=1.0), stac_item("c", cloud=None)]
    folder = _catalogue(tmp_path / "catalogue", items)
    collection = write_items(folder / "s2" / "items.json", items)
    parquet = folder / "s2" / "items.parquet"

    async def write():
        await rustac.write(str(parquet), items)

    asyncio.run(write())
    monkeypatch.chdir(tmp_path)
    for source in (folder, folder / "catalog.json", folder / "s2", collection, parquet, "catalogue"):
        scenes = search(str(source), _query())
        assert [scene.id for scene in scenes] == ["b", "a", "c"]
        # Relative hrefs start at the file that holds the item.
        assert scenes[0].asset("B04").href == str(folder / "s2" / "B04.tif")
        assert {scene.provider for scene in scenes} == {str(source)}
    (alone,) = search(str(folder / "s2" / "a.json"), ANYWHERE)
    (same,) = (scene for scene in search(str(parquet), _query()) if scene.id == "a")
    # A row of a table cannot be linked to, an item's own document can.
    assert (alone.item_href, same.item_href) == (str(folder / "s2" / "a.json"), None)
    assert alone == replace(same, provider=alone.provider, item_href=alone.item_href)


def test_area_is_the_true_outline_and_a_shared_edge_is_no_overlap(tmp_path):
    triangle = stac_item("triangle")
    triangle["geometry"]["coordinates"] = [[[10, 50], [11, 50], [11, 51], [10, 50]]]
    path = write_items(tmp_path / "items.json", [triangle])
    assert search(str(path), SceneQuery(area=parse_bbox("10.6,50.2,10.8,50.4")))
    for outside in ("10.1,50.7,10.2,50.9", "11,50,11.5,51"):
        with pytest.raises(NothingFoundError, match="1 outside the area"):
            search(str(path), SceneQuery(area=parse_bbox(outside)))


def test_what_removed_how_many_is_said(tmp_path):
    items = [
        stac_item("far", bbox=(20, 50, 21, 51)),
        stac_item("old", datetime="2019-06-15T10:20:30Z"),
        stac_item("older", datetime="2018-06-15T10:20:30Z"),
        stac_item("cloudy", cloud=70.5),
        stac_item("overcast", cloud=99.0),
    ]
    path = write_items(tmp_path / "items.json", items)
    with pytest.raises(NothingFoundError) as caught:
        search(str(path), _query(dates=parse_dates("2024-06"), max_cloud_percent=40))
    message = str(caught.value)
    for said in (
        "5 items",
        "2 cloudier than 40 %",
        "1 outside the area",
        "2 outside the dates",
        "70.5 %",
        "--date",
        "50.2,10.4,50.4 in 2024-06-01/2024-06-30 fits",
    ):
        assert said in message
    assert caught.value.exit_code == 3


def test_an_item_without_cloud_cover_passes_and_comes_last(tmp_path):
    items = [
        stac_item("unknown", cloud=None),
        stac_item("cloudy", cloud=30.0),
        stac_item("clear-old", cloud=2.0, datetime="2024-05-01T00:00:00Z"),
        stac_item("clear-new", cloud=2.0, datetime="2024-06-01T00:00:00Z"),
        stac_item("clear-new-b", cloud=2.0, datetime="2024-06-01T00:00:00Z"),
    ]
    expected = ["clear-new", "clear-new-b", "clear-old", "cloudy", "unknown"]
    for order in itertools.permutations(items):
        path = write_items(tmp_path / "items.json", list(order))
        assert [scene.id for scene in search(str(path), _query(max_cloud_percent=40))] == expected


def test_of_copies_of_one_acquisition_the_newest_baseline_stays(tmp_path):
    one = {"s2__mgrs_tile": "32UMA", "platform": "Sentinel-2B"}
    items = [
        stac_item("x-0214", s2__processing_baseline="02.14", **one),
        stac_item(
            "x-0510-first", s2__processing_baseline="05.10", s2__generation_time="2024-06-15T12:00:00Z", **one
        ),
        stac_item(
            "x-0510-again", s2__processing_baseline="05.10", s2__generation_time="2024-07-15T12:00:00Z", **one
        ),
        stac_item("neighbour", s2__mgrs_tile="32UNA", platform="Sentinel-2B"),
        stac_item("no-tile"),
        stac_item("no-tile", s2__processing_baseline="04.00"),
    ]
    for order in itertools.permutations(items):
        path = write_items(tmp_path / "items.json", list(order))
        scenes = search(str(path), _query())
        assert [scene.id for scene in scenes] == ["neighbour", "no-tile", "x-0510-again"]
        assert scenes[1].baseline == "05.10"


@pytest.mark.parametrize(
    "other", [{"datetime": "2024-06-16T10:20:30Z"}, {"bbox": (9.3, 50.0, 10.4, 51.0), "collection": "west"}]
)
def test_an_id_that_two_scenes_have_is_refused(tmp_path, other):
    """Catalogues that are joined may use one twice; one of them would be left out in silence."""
    path = write_items(tmp_path / "items.json", [stac_item("scene"), stac_item("scene", **other)])
    with pytest.raises(UsageError, match=r"Two scenes have the id 'scene', of 2024-06-1\d .* id of its own"):
        search(str(path), _query())


def test_levels_are_kept_apart(tmp_path):
    items = [stac_item("l2a"), stac_item("l1c", s2__product_type="S2MSI1C")]
    path = str(write_items(tmp_path / "items.json", items))
    assert [scene.id for scene in search(path, _query(levels=("L1C",)))] == ["l1c"]
    with pytest.raises(UsageError, match="L1C and L2A"):
        search(path, _query())
    alone = str(write_items(tmp_path / "one.json", items[:1]))
    with pytest.raises(ModelError, match="L1C is needed"):
        search(alone, _query(levels=("L1C",)))


def test_scenes_without_the_bands_give_way_to_those_with_them(tmp_path):
    items = [stac_item("rgb"), stac_item("more", bands=("B02", "B03", "B04", "B08"), cloud=50.0)]
    path = str(write_items(tmp_path / "items.json", items))
    assert [scene.id for scene in search(path, _query(bands=("B04", "B08")))] == ["more"]
    with pytest.raises(ModelError, match=r"offers B02, B03, B04, B08 \(no B10\)"):
        search(path, _query(bands=("B08", "B10")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "cannot be read as STAC"),
        ("[]", "no JSON object"),
        ("{}", "no STAC item"),
        ("[" * 100_000, "cannot be read as STAC"),
        (b"II*\x00\xff\xfe", "landuse catalog"),
    ],
)
def test_a_file_that_is_no_stac_is_the_users_to_mend(tmp_path, content, said):
    path = tmp_path / "items.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=said):
        search(str(path), ANYWHERE)


def test_an_image_as_a_source_is_told_how_to_be_mapped(tmp_path):
    path = tmp_path / "scene.tif"
    path.write_bytes(b"II*\x00\xff\xfe")
    with pytest.raises(UsageError, match=r"is an image, not STAC\. Map it with landuse map scene\.tif"):
        search(str(path), ANYWHERE)


@pytest.mark.parametrize(
    "source", ["planetary-computre", "ftp://x.org/stac", "http://[", "nowhere/catalog.json", "x" * 5000]
)
def test_an_unknown_source_is_named(source):
    with pytest.raises(UsageError, match="--source"):
        search(source, _query())


def test_an_item_of_the_future_is_refused(tmp_path):
    future = stac_item("future", datetime="2999-01-01T10:00:00Z")
    with pytest.raises(UsageError, match="2999-01-01T10:00:00Z, which is in the future"):
        search(str(write_items(tmp_path / "items.json", [future])), ANYWHERE)


def test_an_empty_folder_and_a_broken_parquet_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"catalog\.json"):
        search(str(tmp_path), ANYWHERE)
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(UsageError, match="cannot be read as STAC"):
        search(str(tmp_path / "x.parquet"), ANYWHERE)


def test_a_faulty_item_of_ones_own_is_an_error_not_a_gap(tmp_path):
    faulty = stac_item("faulty", s2__processing_baseline=None)
    path = write_items(tmp_path / "items.json", [stac_item("good"), faulty])
    with pytest.raises(UsageError, match="'faulty'"):
        search(str(path), _query())


def test_a_faulty_item_from_the_web_is_left_out_with_a_warning(tmp_path, caplog):
    faulty = stac_item("faulty", href="file:///etc/passwd")
    write_items(tmp_path / "items.json", [stac_item("good"), faulty])
    write_items(tmp_path / "faulty.json", [faulty])
    with file_server(tmp_path) as server:
        scenes = search(f"{server.url}/items.json", _query())
        assert [scene.id for scene in scenes] == ["good"]
        assert scenes[0].asset("B02").href == f"{server.url}/B02.tif"
        assert "faulty" in caplog.text
        with pytest.raises(ProviderError, match=r"None of the 1 items .* can be used.*'faulty'.*refused"):
            search(f"{server.url}/faulty.json", _query())


def test_a_strangers_faults_are_the_providers_and_not_the_users(tmp_path):
    faulty = stac_item("faulty", s2__processing_baseline=None)
    path = write_items(tmp_path / "items.json", [faulty])
    with file_server(tmp_path) as server:
        with pytest.raises(ProviderError, match=r"'faulty'.*no scale and offset") as caught:
            search(f"{server.url}/items.json", _query())
        assert caught.value.exit_code == 5
    with pytest.raises(UsageError, match=r"'faulty'.*no scale and offset"):
        search(str(path), _query())


@pytest.mark.parametrize(
    "link", ["http://me:SECRET@[::1", "//me:SECRET@h\u2100st/x", "http://h\u2100st/?s=SECRET"]
)
def test_a_malformed_address_in_an_answer_is_an_error_of_ours_and_not_told(tmp_path, link, caplog):
    item = stac_item("a")
    item["links"] = [{"rel": "self", "href": link}]
    pages = {"features": [item], "links": [{"rel": "next", "href": link}]}
    root = {"type": "Catalog", "stac_version": "1.0.0", "links": [{"rel": "search", "href": link}]}
    (tmp_path / "index.json").write_text(json.dumps(root))
    write_items(tmp_path / "items.json", [stac_item("a", href=link)])
    with file_server(tmp_path) as server:
        for path in ("index.json", "items.json"):
            with pytest.raises(ProviderError, match="refused") as caught:
                search(f"{server.url}/{path}", _query())
            assert "SECRET" not in str(caught.value)
        _api(server, [(200, pages)])
        with pytest.raises(ProviderError, match="next page") as caught:
            search(server.url, _query())
        assert "SECRET" not in str(caught.value)
        _api(server, [(200, {"features": [item]})])
        assert [scene.id for scene in search(server.url, _query())] == ["a"]
    assert "SECRET" not in caplog.text


def test_a_static_catalogue_on_the_web_is_walked(tmp_path):
    _catalogue(tmp_path / "c", [stac_item("a"), stac_item("b", cloud=1.0)])
    with file_server(tmp_path) as server:
        scenes = search(f"{server.url}/c/catalog.json", _query())
        assert [scene.id for scene in scenes] == ["b", "a"]
        assert scenes[0].asset("B04").href == f"{server.url}/c/s2/B04.tif"


def test_a_catalogue_on_the_web_cannot_lead_to_local_files(tmp_path):
    secret = write_items(tmp_path / "secret.json", [stac_item("secret")])
    (tmp_path / "web").mkdir()
    for number, href in enumerate((secret.as_uri(), f"/vsisubfile/0_9,{secret}", str(secret))):
        root = {"type": "Catalog", "stac_version": "1.1.0", "links": [{"rel": "item", "href": href}]}
        (tmp_path / "web" / f"{number}.json").write_text(json.dumps(root))
        with file_server(tmp_path / "web") as server, pytest.raises(ProviderError):
            search(f"{server.url}/{number}.json", ANYWHERE)


def test_saved_items_of_planetary_computer_are_signed_as_its_own(tmp_path):
    item = stac_item("pc", href="https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/{band}.tif")
    root = "https://planetarycomputer.microsoft.com/api/stac/v1/"
    item["links"] = [{"rel": "root", "href": root}]
    path = write_items(tmp_path / "items.json", [item, stac_item("other")])
    assert {scene.id: scene.provider for scene in search(str(path), _query())} == {
        "pc": "planetary-computer",
        "other": str(path),
    }


def test_an_unreachable_server_is_a_provider_error_that_names_it():
    url = f"http://127.0.0.1:{free_port()}/stac"
    with pytest.raises(ProviderError, match=url) as caught:
        search(url, _query())
    assert caught.value.exit_code == 5


def test_a_page_that_is_no_stac_is_a_provider_error(tmp_path):
    (tmp_path / "index.html").write_text("<html>")
    with file_server(tmp_path) as server:
        for path in ("index.html", "missing", "%ff"):
            with pytest.raises(ProviderError, match=server.url):
                search(f"{server.url}/{path}", _query())


def _api(server, pages, method="POST"):
    """Makes a file server answer as a STAC API whose search gives ``pages`` in turn."""
    pages = iter(pages)

    def interfere(request):
        if request.url.path == "/search":
            status, content = next(pages)
            return JSONResponse(content, status_code=status)
        links = [{"rel": "search", "href": f"{server.url}/search", "method": method}]
        return JSONResponse({"type": "Catalog", "stac_version": "1.0.0", "links": links})

    server.interfere = interfere


def test_a_hiccup_and_a_search_that_took_too_long_are_tried_again(tmp_path):
    late = (400, {"code": "BadRequest", "description": "The request exceeded the maximum allowed time."})
    found = (200, {"type": "FeatureCollection", "features": [stac_item("a")]})
    with file_server(tmp_path) as server:
        _api(server, [(503, {}), late, (429, {}), found])
        assert [scene.id for scene in search(server.url, _query(), AT_ONCE)] == ["a"]
        assert [entry.status for entry in server.log if entry.path == "/search"] == [503, 400, 429, 200]
        _api(server, [late] * AT_ONCE.attempts)
        with pytest.raises(ProviderError, match=r"exceeded the maximum allowed time .7 attempts"):
            search(server.url, _query(), AT_ONCE)


@pytest.mark.parametrize(
    "answer",
    [{"features": [5]}, {"features": {"a": 1}}, {"features": "abc"}, {"features": [{}], "links": [{}]}, []],
)
def test_nonsense_from_a_server_is_an_error_of_ours(tmp_path, answer):
    with file_server(tmp_path) as server:
        _api(server, [(200, answer)] * 2)
        with pytest.raises(LanduseError):
            search(server.url, _query())


def test_more_items_than_the_cap_are_never_cut_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ITEMS", 3)
    four = [stac_item(name) for name in "abcd"]
    path = write_items(tmp_path / "four.json", four)
    with pytest.raises(UsageError, match="more than 3 items"):
        search(str(path), _query())
    with file_server(tmp_path) as server:
        _api(server, [(200, {"features": four})])
        with pytest.raises(UsageError, match="more than 3 items"):
            search(server.url, _query())
    shutil.copy(path, tmp_path / "copy.json")
    write_items(path, four[:3])
    assert len(search(str(path), _query())) == 3


def test_the_world_is_not_searched_without_an_area(tmp_path):
    with file_server(tmp_path) as server:
        _api(server, [])
        with pytest.raises(UsageError, match="--bbox"):
            search(server.url, ANYWHERE)
        with pytest.raises(UsageError, match=r"all that it has, from 2015 to today\. Say when, with --date"):
            search(server.url, SceneQuery(area=INSIDE))
        # Of a known service that is known before it is asked.
        known = replace(EARTH_SEARCH, endpoint=server.url)
        asked = len(server.log)
        for query in (ANYWHERE, SceneQuery(area=INSIDE)):
            with pytest.raises(UsageError, match="Say wh"):
                search(known, query)
        assert len(server.log) == asked


def test_swapped_latitude_and_longitude_are_guessed_of_local_sources_too(tmp_path):
    path = write_items(tmp_path / "items.json", [stac_item("a")])
    with pytest.raises(
        NothingFoundError, match=r"probably swapped: .* as in --bbox 10\.2,50\.2,10\.4,50\.4\."
    ):
        search(str(path), SceneQuery(area=parse_bbox("50.2,10.2,50.4,10.4")))
    # Of several sources it is guessed by the one that shows it.
    empty = write_items(tmp_path / "empty.json", [])
    for order in ((path, empty), (empty, path)):
        with pytest.raises(NothingFoundError, match="probably swapped") as caught:
            search_sources(
                [str(one) for one in order], SceneQuery(area=parse_bbox("50.2,10.2,50.4,10.4")), RetryPolicy()
            )
        assert caught.value.turned == pytest.approx((10.2, 50.2, 10.4, 50.4))
    with pytest.raises(NothingFoundError) as caught:
        search(str(path), SceneQuery(area=parse_bbox("20.2,10.2,20.4,10.4")))
    assert "probably swapped" not in str(caught.value)
    assert caught.value.turned is None


def test_a_bad_link_of_a_catalogue_on_the_web_costs_that_link_alone(tmp_path, caplog):
    (tmp_path / "good.json").write_text(json.dumps(stac_item("good")))
    (tmp_path / "broken.json").write_text("no json")
    (tmp_path / "other.json").write_text('{"hello": 1}')
    bad = ["gone.json", "broken.json", "other.json", "file:///etc/hostname", "ftp://x.org/a.json"]
    for name, hrefs in (("some.json", [*bad, "good.json"]), ("none.json", bad), ("only.json", ["good.json"])):
        links = [{"rel": "item", "href": href} for href in hrefs]
        catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "links": links}
        (tmp_path / name).write_text(json.dumps(catalog))
    with file_server(tmp_path) as server:
        assert [scene.id for scene in search(f"{server.url}/some.json", _query())] == ["good"]
        assert caplog.text.count("left out: ") == len(bad)
        with pytest.raises(
            ProviderError, match=r"Nothing that .*none.json links to can be read; .* The first: "
        ):
            search(f"{server.url}/none.json", _query())
        assert len(search(f"{server.url}/only.json", _query())) == 1
    # One's own catalogue can be mended.
    with pytest.raises(LanduseError, match="refused"):
        search(str(tmp_path / "some.json"), _query())


def test_too_many_local_items_are_refused_before_any_is_understood(tmp_path, monkeypatch):
    understood = []
    monkeypatch.setattr(module, "scene_from_item", lambda *_: understood.append(1))
    item = stac_item("a")
    path = write_items(tmp_path / "many.json", [item] * 12_000)
    links = [{"rel": "item", "href": f"{number}.json"} for number in range(12_000)]
    catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "links": links}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    for source in (path, tmp_path):  # of the latter not one of the items is there
        with pytest.raises(UsageError, match=r"more than 10000 items\. Name a part of it"):
            search(str(source), _query())
    assert not understood


def test_a_query_is_checked_where_it_is_made():
    with pytest.raises(UsageError, match="--max-cloud 140"):
        SceneQuery(area=None, max_cloud_percent=140)
    with pytest.raises(ValueError, match="L3"):
        SceneQuery(area=None, levels=("L3",))


FULL = ("B02", "SCL")
L1C_MASK = ("B01", "B02", "B04", "B05", "B08", "B8A", "B09", "B10", "B11", "B12")


def _kept(tmp_path, item, **wanted):
    path = str(write_items(tmp_path / "items.json", [item, stac_item("clear", cloud=None)]))
    return item["id"] in [scene.id for scene in search(path, _query(**wanted))]


@pytest.mark.parametrize(
    ("cloud", "share", "limit", "kept"),
    [
        # The area is all of the tile: its cloud is the tile's.
        (44.9, 1.0, 40, True),
        (45.1, 1.0, 40, False),
        # A half: under 80 % of cloud, the clear 20 % may all lie there and fill 40 % of it.
        (80.0, 0.5, 55.1, True),
        (80.0, 0.5, 54.9, False),
        # A hundredth of a tile may be clear under nearly any cloud, but not under all of it.
        (99.1, 0.01, 5, True),
        (99.9, 0.01, 84.0, False),
        (100.0, 0.01, 94.9, False),
        (100.0, 0.01, 95.1, True),
    ],
)
@pytest.mark.parametrize(("bands", "product"), [(FULL, "S2MSI2A"), (L1C_MASK, "S2MSI1C")])
def test_a_tile_is_left_out_only_where_the_area_must_be_cloudier(
    tmp_path, cloud, share, limit, kept, bands, product
):
    """Oracle: with a share c under cloud and s asked for, at least 1 - (1 - c) / s of the area is."""
    area = parse_bbox(f"10,50,{10 + share},51")
    item = stac_item("tile", cloud=cloud, bands=bands, s2__product_type=product)
    levels = ("L1C",) if product == "S2MSI1C" else ("L2A",)
    clear = stac_item("clear", cloud=None, s2__product_type=product)
    path = str(write_items(tmp_path / "items.json", [item, clear]))
    ids = [scene.id for scene in search(path, SceneQuery(area=area, max_cloud_percent=limit, levels=levels))]
    assert ("tile" in ids) is kept
    least = 100 * (1 - (1 - cloud / 100) / share)
    assert kept is (least - CLOUD_TOLERANCE_PERCENT <= limit)


def test_without_a_mask_the_tiles_cloud_counts_as_the_areas(tmp_path):
    assert not _kept(tmp_path, stac_item("x", cloud=40.1), max_cloud_percent=40)
    assert _kept(tmp_path, stac_item("x", cloud=40.1, bands=FULL), max_cloud_percent=40)
    # L1C without the cirrus band cannot be judged either.
    l1c = {"s2__product_type": "S2MSI1C", "bands": tuple(b for b in L1C_MASK if b != "B10")}
    path = str(write_items(tmp_path / "items.json", [stac_item("x", cloud=40.1, **l1c)]))
    with pytest.raises(NothingFoundError, match=r"1 cloudier than 40 %.*the clearest has 40\.1 % or more"):
        search(path, _query(max_cloud_percent=40))


def test_providers_that_state_other_moments_of_one_pass_mean_one_acquisition(tmp_path):
    one = {"s2__mgrs_tile": "32UMA", "platform": "Sentinel-2B", "s2__processing_baseline": "02.14"}
    new = {"grid__code": "MGRS-32UMA", "platform": "sentinel-2b", "s2__processing_baseline": "05.10"}
    items = [
        stac_item("pass-begins", datetime="2024-06-15T10:10:30Z", **one),
        stac_item("tile-seen", datetime="2024-06-15T10:25:00Z", **new),
        stac_item("next-pass", datetime="2024-06-15T11:50:00Z", **one),
        stac_item("other-satellite", datetime="2024-06-15T10:10:30Z", **{**one, "platform": "Sentinel-2A"}),
        stac_item("other-tile", datetime="2024-06-15T10:10:30Z", **{**one, "s2__mgrs_tile": "32UMB"}),
    ]
    for order in itertools.permutations(items):
        path = write_items(tmp_path / "items.json", list(order))
        assert {scene.id for scene in search(str(path), _query())} == {
            "tile-seen", "next-pass", "other-satellite", "other-tile"
        }  # fmt: skip


def test_the_two_parts_of_a_divided_tile_are_no_copies_of_each_other(tmp_path):
    one = {"s2__mgrs_tile": "32UMA", "platform": "Sentinel-2B"}
    north = stac_item("north", bbox=(10, 50.25, 11, 51), **one)
    south = stac_item("south", bbox=(10, 50, 11, 50.35), **one)
    again = stac_item(
        "south-again", bbox=(10, 50, 11, 50.36), s2__generation_time="2024-09-01T00:00:00Z", **one
    )
    path = write_items(tmp_path / "items.json", [north, south, again])
    assert {scene.id for scene in search(str(path), _query())} == {"north", "south-again"}


def test_both_sides_of_the_antimeridian_are_searched_and_nothing_comes_twice(tmp_path):
    east = stac_item("east", bbox=(178, -18, 179, -17), collection="sentinel-2-l2a")
    west = stac_item("west", bbox=(-179, -18, -178.5, -17))
    both = stac_item("both", bbox=(179, -18, 181, -17))
    both["geometry"]["coordinates"] = [[[179, -18], [-179, -18], [-179, -17], [179, -17], [179, -18]]]
    asked = []
    with file_server(tmp_path) as server:
        _api(server, [])
        catalogue = server.interfere

        def interfere(request):
            if request.url.path != "/search":
                return catalogue(request)
            asked.append(json_body(request))
            return JSONResponse({"features": [east, both] if asked[-1]["bbox"][0] > 0 else [both, west]})

        server.interfere = interfere
        scenes = search(server.url, SceneQuery(area=parse_bbox("178,-18,-178,-16"), dates=EVER))
    assert sorted(scene.id for scene in scenes) == ["both", "east", "west"]
    assert [body["bbox"] for body in asked] == [[178, -18, 180, -16], [-180, -18, -178, -16]]


def test_ids_with_separators_and_markup_are_data(tmp_path):
    hostile = "../../../etc/<script>alert(1)</script>\x1b[31m"
    path = write_items(tmp_path / "items.json", [stac_item(hostile)])
    assert [scene.id for scene in search(str(path), _query())] == [hostile]


def test_a_search_off_the_web_is_refused(tmp_path):
    secret = write_items(tmp_path / "secret.json", [stac_item("secret")])
    (tmp_path / "web").mkdir()
    for href in (secret.as_uri(), "ftp://x.org/search"):
        root = {"type": "Catalog", "stac_version": "1.0.0", "links": [{"rel": "search", "href": href}]}
        (tmp_path / "web" / "index.json").write_text(json.dumps(root))
        with (
            file_server(tmp_path / "web") as server,
            pytest.raises(ProviderError, match="not on the web; that is refused"),
        ):
            search(f"{server.url}/index.json", _query())


def test_a_known_service_without_the_level_names_those_that_have_it():
    with pytest.raises(ModelError, match=r"serves L2A; L1C is needed.*\(earth-search-l1c, cdse-l1c\)"):
        search(EARTH_SEARCH, _query(levels=("L1C",)))
