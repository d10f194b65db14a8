"""A catalogue that maps are added to. Oracles: published JSON schemas, pystac's walk, what was written."""

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pystac
import pytest
import rustac

from landuse.errors import NothingFoundError, ProviderError, UsageError
from landuse.pipeline.search.area import parse_bbox, parse_dates
from landuse.pipeline.search.find_scenes import SceneQuery, search
from landuse.pipeline.search.stac_files import read_items, stac_io
from landuse.pipeline.write.stac_catalog import add_to_catalog
from tests.servers import file_server, stac_item
from tests.stac_schemas import stac_errors

ANY = SceneQuery(area=None)


def map_folder(folder, identifier="landuse-20240601-0123abcd", scenes=(), title="A map", **properties):
    """A folder with the least that makes a map's item, and a model beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    item = stac_item(
        identifier, processing__level="L4", landuse__plan_sha256="0" * 64, title=title, **properties
    )
    del item["collection"]
    item["links"] = [{"rel": "derived_from", "href": href} for href in ("./model.json", *scenes)]
    (folder / "item.json").write_text(json.dumps(item))
    model = {**stac_item("model"), "properties": {"mlm:name": "model", "datetime": None}}
    (folder / "model.json").write_text(json.dumps(model))
    return folder


def scene_file(folder, identifier, **values):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{identifier}.json"
    path.write_text(json.dumps(stac_item(identifier, **values)))
    return path


def read(path):
    return json.loads(path.read_text("utf-8"))


def items(catalog):
    return [link["href"] for link in read(catalog)["links"] if link["rel"] == "item"]


def test_a_catalogue_grows_map_by_map_and_is_read_by_others(tmp_path):
    folder = tmp_path / "maps"
    catalog = add_to_catalog(folder, map_folder(folder / "june", "landuse-20240601-00000000"))
    add_to_catalog(folder, map_folder(folder / "july", "landuse-20240701-00000000"))
    add_to_catalog(folder, map_folder(tmp_path / "elsewhere", "landuse-20240801-00000000"))
    assert stac_errors(read(catalog)) == []
    assert items(catalog) == ["./june/item.json", "./july/item.json", "../elsewhere/item.json"]
    root = pystac.Catalog.from_file(str(catalog))
    found = list(root.get_items(recursive=True))
    assert [item.id for item in found] == [f"landuse-20240{month}01-00000000" for month in (6, 7, 8)]
    assert all(item.get_parent() is root and item.get_root() is root for item in found)
    assert rustac.read_sync(str(catalog))["id"] == root.id
    # From the map upwards as well.
    alone = pystac.Item.from_file(str(tmp_path / "elsewhere" / "item.json"))
    assert alone.get_parent().get_self_href() == str(catalog)
    assert stac_errors(read(folder / "june" / "item.json")) == []


def test_the_same_map_is_listed_once(tmp_path):
    june = map_folder(tmp_path / "june", title="first")
    add_to_catalog(tmp_path, june)
    add_to_catalog(tmp_path, map_folder(june, title="second"))  # made again, in its place
    catalog = add_to_catalog(tmp_path, map_folder(june, "landuse-20240601-ffffffff"))  # by another model
    assert items(catalog) == ["./june/item.json"]
    add_to_catalog(tmp_path, map_folder(tmp_path / "copy", "landuse-20240601-ffffffff"))  # the same elsewhere
    assert items(catalog) == ["./copy/item.json"]
    assert len(read(tmp_path / "june" / "item.json")["links"]) == 3  # root, parent, model: not piled up


def add_after(barrier_and_folder):
    barrier, folder, name = barrier_and_folder
    barrier.wait()
    for again in range(5):
        add_to_catalog(folder, map_folder(folder / f"{name}{again}", f"landuse-{name}{again}-00000000"))


def test_processes_that_add_at_once_lose_nothing(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(3, mp_context=spawn) as pool:
        barrier = manager.Barrier(3)
        list(pool.map(add_after, [(barrier, tmp_path, name) for name in "abc"]))
    assert sorted(items(tmp_path / "catalog.json")) == sorted(
        f"./{name}{again}/item.json" for name in "abc" for again in range(5)
    )
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(
    "text", ["\"'><script>alert(1)</script>", "../../evil", "a\nb\x1b[31m", "ünïcödé-\u202e-🛰", ""]
)
def test_hostile_ids_and_titles_are_only_told(tmp_path, text):
    folder = tmp_path / "maps"
    catalog = add_to_catalog(folder, map_folder(folder / "june", text or "x", title=text))
    assert items(catalog) == ["./june/item.json"]
    assert stac_errors(read(catalog)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps"]
    assert sorted(path.name for path in folder.iterdir()) == [".catalog.lock", "catalog.json", "june"]
    assert [item.id for item in pystac.Catalog.from_file(str(catalog)).get_items()] == [text or "x"]


def test_what_is_no_catalogue_or_no_map_is_left_alone(tmp_path):
    june = map_folder(tmp_path / "june")
    before = (june / "item.json").read_bytes()
    for content in ("{", "[]", '{"type": "Collection"}', "\x00"):
        (tmp_path / "catalog.json").write_text(content)
        with pytest.raises(UsageError, match=r"catalog\.json"):
            add_to_catalog(tmp_path, june)
        assert (tmp_path / "catalog.json").read_text() == content
    assert (june / "item.json").read_bytes() == before
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        add_to_catalog(tmp_path / "new", tmp_path / "other")
    scene_file(tmp_path / "other", "item")
    with pytest.raises(UsageError, match="no map that landuse made"):
        add_to_catalog(tmp_path / "new", tmp_path / "other")


def test_what_others_wrote_into_a_catalogue_is_kept(tmp_path):
    scene_file(tmp_path / "s", "s")
    foreign = {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "mine",
        "description": "d",
        "own:field": 1,
        "links": [{"rel": "item", "href": "./s/s.json"}, {"rel": "license", "href": "https://example.org"}],
    }
    (tmp_path / "catalog.json").write_text(json.dumps(foreign))
    catalog = add_to_catalog(tmp_path, map_folder(tmp_path / "june", scenes=["../s/s.json"]))
    assert read(catalog)["own:field"] == 1
    assert [link["rel"] for link in read(catalog)["links"]] == ["item", "license", "item"]
    # The scene is found by itself and through the map, and counts once.
    assert [scene.id for scene in search(str(tmp_path), ANY)] == ["s"]


def test_maps_as_a_source_mean_their_scenes_each_once(tmp_path):
    scene_file(tmp_path / "scenes", "a", datetime="2024-06-01T10:00:00Z", cloud=1.0)
    scene_file(tmp_path / "scenes", "b", datetime="2024-07-01T10:00:00Z", cloud=2.0)
    scene_file(tmp_path / "scenes", "far", datetime="2024-07-02T10:00:00Z", bbox=(80.0, 10.0, 81.0, 11.0))
    maps = tmp_path / "maps"
    a, b, far = (f"../../scenes/{name}.json" for name in ("a", "b", "far"))
    add_to_catalog(maps, map_folder(maps / "one", "landuse-1", [a, b]))
    catalog = add_to_catalog(maps, map_folder(maps / "two", "landuse-2", [b, far]))
    scenes = search(str(catalog), ANY)
    assert [scene.id for scene in scenes] == ["a", "b", "far"]
    assert scenes[0].asset("B04").href == str(tmp_path / "scenes" / "B04.tif")
    assert scenes[0].item_href == str(tmp_path / "scenes" / "a.json")
    july = SceneQuery(area=parse_bbox("10.1,50.1,10.2,50.2"), dates=parse_dates("2024-07"))
    assert [scene.id for scene in search(str(catalog), july)] == ["b"]
    assert [scene.id for scene in search(str(maps / "two" / "item.json"), july)] == ["b"]
    with pytest.raises(NothingFoundError, match="2 outside the dates"):
        search(str(maps / "one" / "item.json"), SceneQuery(area=None, dates=parse_dates("2023")))
    found = list(read_items(str(catalog), stac_io()))
    assert [os.path.basename(entry.location) for entry in found] == ["a.json", "b.json", "far.json"]  # noqa: PTH119 - of a string


def test_a_map_whose_scenes_are_gone_says_so(tmp_path, caplog):
    a = scene_file(tmp_path / "scenes", "a")
    folder = map_folder(tmp_path / "maps" / "one", scenes=["../../scenes/gone.json", "../../scenes/a.json"])
    catalog = add_to_catalog(tmp_path / "maps", folder)
    assert [scene.id for scene in search(str(catalog), ANY)] == ["a"]
    assert "gone.json" in caplog.text
    a.unlink()
    with pytest.raises(UsageError, match=r"maps/one/item\.json can be read again: .*a\.json cannot be read"):
        search(str(catalog), ANY)
    with pytest.raises(UsageError, match="can be read again: it names none"):
        search(str(map_folder(tmp_path / "bare") / "item.json"), ANY)
    # A map of a map, or of what is no item, names no scene either.
    circle = map_folder(tmp_path / "circle", scenes=["./item.json", "../maps/catalog.json"])
    with pytest.raises(UsageError, match="can be read again"):
        search(str(circle / "item.json"), ANY)


@pytest.mark.parametrize("href", ["file:///etc/hostname", "/vsicurl/http://x", "s3://bucket/x.json"])
def test_a_map_on_the_web_never_leads_to_this_machine(tmp_path, href):
    scene_file(tmp_path / "scenes", "a")
    map_folder(tmp_path / "web", scenes=["../scenes/a.json?sig=SECRET"])
    map_folder(tmp_path / "bad", scenes=[href])
    with file_server(tmp_path) as server:
        (scene,) = search(f"{server.url}/web/item.json", ANY)
        assert scene.asset("B04").href == f"{server.url}/scenes/B04.tif"
        assert scene.item_href == f"{server.url}/scenes/a.json?sig=SECRET"
        with pytest.raises(ProviderError) as caught:
            search(f"{server.url}/bad/item.json", ANY)
        assert "hostname" not in str(caught.value) or "refused" in str(caught.value)
        # A path of this machine is one of the server's there.
        map_folder(tmp_path / "path", scenes=[str(tmp_path / "scenes" / "a.json")])
        with pytest.raises(ProviderError, match="404"):
            search(f"{server.url}/path/item.json", ANY)


def test_a_local_map_leads_to_scenes_on_the_web(tmp_path):
    scene_file(tmp_path / "scenes", "a")
    with file_server(tmp_path) as server:
        folder = map_folder(tmp_path / "map", scenes=[f"{server.url}/scenes/a.json"])
        (scene,) = search(str(folder / "item.json"), ANY)
    assert scene.asset("B04").href == f"{server.url}/scenes/B04.tif"


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("https://stac.example.org/items/a", "https://stac.example.org/items/a"),
        ("https://stac.example.org/items/a b", "https://stac.example.org/items/a%20b"),
        ("/data/a.json", None),
        ("./a.json", None),
        ("https://[x", None),
        ("https:///a", None),
        ("https://stac.example.org/\x1b[31m", None),
    ],
)
def test_features_of_a_collection_are_found_again_by_their_own_address(tmp_path, href, expected):
    item = stac_item("a")
    item["links"] = [{"rel": "self", "href": href}]
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    (scene,) = search(str(path), ANY)
    assert scene.item_href == expected
