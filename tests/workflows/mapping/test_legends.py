"""Maps told in a legend. Oracles: the model's probabilities, added by hand; the land cover beside the map."""

import json
import pickle
from dataclasses import replace
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio

import landuse
from landuse.errors import UsageError
from landuse.legends.legend import load_legend
from landuse.pipeline.blocks.plan import RunPlan
from landuse.pipeline.maps.open import counted_map
from landuse.pipeline.maps.to_xarray import open_map
from landuse.pipeline.remote.files import Remote
from landuse.workflows.mapping.classify_block import classify_block, read_input
from landuse.workflows.mapping.map_area import find_scenes, load_classifier, map_area, plan_map
from landuse.workflows.nightly.ledger.records import Recipe
from tests.workflows.pixel_models import RedPixels, small_scene
from tests.workflows.small_maps import BrightnessClassifier, catalog_of, read, red_raster, request

CSV = "class,new,colour\nDark,Night,#112233\nBright,Day,#ffee00\nGlaring,Day,\n"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return small_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.csv").write_text(CSV, "utf-8")
    return str(tmp_path / "own.csv")


def bands_of(path):
    with rasterio.open(path) as file:
        return file.read()


def test_by_pixels_the_probabilities_are_added_and_the_legend_is_in_every_file(tmp_path, scene):
    source, model = scene
    classifier = load_classifier(model, "cpu")
    plain = map_area(request(tmp_path, source, out=tmp_path / "plain", probabilities=True), classifier)
    cover = load_legend("cover")
    told = map_area(
        request(tmp_path, source, out=tmp_path / "told", probabilities=True, legend=cover),
        classifier,
    )
    names = told.plan.classes
    assert names == tuple(entry.name for entry in cover.classes)
    # A cover's probability is the sum of its classes': the network's own land cover is the oracle.
    ids, covers = read(told.out / "landuse.tif"), read(told.out / "cover.tif")
    assert (ids == covers).mean() > 0.999
    assert np.array_equal(covers, read(plain.out / "cover.tif"))
    merged_argmax = np.array([names.index(cover.class_of[name]) for name in plain.plan.classes])
    assert (ids != merged_argmax[read(plain.out / "landuse.tif")]).any()
    # To a step for each of the classes that were rounded on their own.
    shares, parts = bands_of(told.out / "probabilities.tif"), bands_of(plain.out / "probabilities.tif")
    sums = np.stack(
        [sum(parts[plain.plan.classes.index(part)].astype(int) for part in of) for of in told.plan.legend.of]
    )
    assert np.abs(shares - sums).max() <= 2
    assert np.abs(read(told.out / "confidence.tif").astype(int) - shares.max(0)).max() == 0
    second = bands_of(told.out / "second.tif")
    assert np.array_equal(second[1], np.sort(shares, 0)[-2])
    assert second[0].max() < len(names)

    colors = {i: entry.color for i, entry in enumerate(cover.classes)}
    with rasterio.open(told.out / "landuse.tif") as file:
        assert {i: file.colormap(1)[i][:3] for i in colors} == colors
        tags = file.tags()
    assert json.loads(tags["classes"]) == list(names)
    assert json.loads(tags["classes_of"])[names.index("Built")] == ["Highway", "Industrial", "Residential"]
    assert tags["legend"] == "cover"
    assert "Brown et al." in tags["legend_source"]
    categories = ElementTree.parse(told.out / "landuse.tif.aux.xml").iter("Category")
    assert [entry.text for entry in categories] == list(names)
    with rasterio.open(told.out / "probabilities.tif") as file:
        assert file.descriptions == names
    polygons = gpd.read_file(told.out / "landuse.gpkg", layer="landuse")
    assert set(polygons.class_name) <= set(names)
    style = gpd.read_file(told.out / "landuse.gpkg", layer="layer_styles").set_index("f_table_name")
    assert ",".join(map(str, (*colors[1], 255))) in style.styleQML["landuse"]
    report = json.loads((told.out / "run.json").read_text())
    assert {entry["name"] for entry in report["classes"]} <= set(names)
    assert report["legend"]["name"] == "cover"
    assert report["legend"]["classes"][1] == {"name": "Trees", "of": ["Forest"], "colour": "#397D49"}
    item = pystac.Item.from_file(str(told.out / "item.json"))
    assert item.properties["landuse:legend"]["name"] == "cover"
    asset = next(asset for asset in item.assets.values() if asset.href.endswith("landuse.tif"))
    listed = asset.to_dict()["classification:classes"]
    assert [(entry["value"], entry["color_hint"]) for entry in listed[:2]] == [(0, "419BDF"), (1, "397D49")]
    page = (told.out / "index.html").read_text()
    assert '{"id":1,"title":"Trees","color":[57,125,73]}' in page
    with open_map(told.out) as opened:
        assert opened["class"].attrs["flag_meanings"].split() == list(names)
        assert opened.attrs["legend"] == "cover"
    assert [entry.color for entry in counted_map(told.out).entries] == list(colors.values())


def test_classes_are_smoothed_before_they_are_added(tmp_path, scene):
    source, model = scene
    classifier = load_classifier(model, "cpu")
    asked = {"probabilities": True, "smooth": 0.5}
    plain = map_area(request(tmp_path, source, out=tmp_path / "plain", **asked), classifier)
    cover = load_legend("cover")
    told = map_area(request(tmp_path, source, out=tmp_path / "told", legend=cover, **asked), classifier)
    shares, parts = bands_of(told.out / "probabilities.tif"), bands_of(plain.out / "probabilities.tif")
    sums = np.stack(
        [sum(parts[plain.plan.classes.index(part)].astype(int) for part in of) for of in told.plan.legend.of]
    )
    assert np.abs(shares - sums).max() <= 2  # each was rounded on its own
    strengths = json.loads((told.out / "run.json").read_text())["smooth"]["strengths"]
    assert tuple(strengths) == plain.plan.classes


def test_by_patches_the_votes_are_of_the_legend(tmp_path, own):
    values = np.zeros((128, 128), np.uint16)
    values[:, :64], values[:, 64:] = 2000, 8000
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    (tmp_path / "flip.csv").write_text("class,new\nBright,Light\nDark,Gloom\n", "utf-8")
    flipped = load_legend(str(tmp_path / "flip.csv"))
    asked = request(tmp_path, source, legend=flipped, probabilities=True)
    report = map_area(asked, BrightnessClassifier(64))
    assert report.plan.classes == ("Light", "Gloom")  # in the order of the legend
    shares = bands_of(report.out / "probabilities.tif")[:, 4, [0, -1]]
    assert np.abs(shares - np.array([[50, 200], [200, 50]])).max() <= 5


def test_a_legend_is_part_of_the_plan_and_of_its_digest(tmp_path, scene, own):
    source, model = scene
    classifier = load_classifier(model, "cpu")
    asked = request(tmp_path, source)
    scenes = find_scenes(asked, classifier.contract).scenes
    plans = {
        name: plan_map(replace(asked, legend=name and load_legend(name)), classifier, scenes)
        for name in (None, "cover", "ipcc")
    }
    assert len({plan.digest for plan in plans.values()}) == 3
    for plan in plans.values():
        again = RunPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
        assert again == plan
        assert again.digest == plan.digest
    named = replace(plans["ipcc"], legend=replace(plans["ipcc"].legend, name="other", source=""))
    assert named.digest == plans["ipcc"].digest
    assert len({request(tmp_path, source, out=None, catalog=tmp_path, legend=legend).folder("")
                for legend in (None, load_legend("ipcc"), load_legend("cover"))}) == 3  # fmt: skip


def test_blocks_of_another_legend_are_refused(tmp_path, scene, own, monkeypatch):
    source, _ = scene
    classifier = RedPixels()
    asked = request(tmp_path, source, legend=load_legend(own), block_px=128)

    def interrupted(progress):
        if progress.blocks_done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_area(asked, classifier, interrupted)
    with pytest.raises(UsageError, match="--overwrite"):
        map_area(replace(asked, legend=None), classifier)
    report = map_area(asked, classifier)
    assert report.plan.classes == ("Night", "Day")


def test_what_travels_to_workers_adds_the_same_probabilities(tmp_path, scene, own):
    """dask pickles the plan and nothing else of the request: the legend is in it."""
    source, _ = scene
    classifier = RedPixels()
    asked = request(tmp_path, source, legend=load_legend(own))
    plan = plan_map(asked, classifier, find_scenes(asked, classifier.contract).scenes)
    there = pickle.loads(pickle.dumps(plan))
    assert there == plan
    with Remote() as remote:
        given = read_input(there, there.blocks[0], remote)
    block = classify_block(there, there.blocks[0], RedPixels(), given)
    report = map_area(asked, classifier)
    assert np.array_equal(block.rasters.classes, read(report.out / "landuse.tif"))
    assert set(np.unique(block.rasters.classes)) == {0, 1}


def test_from_python_and_the_command(tmp_path, scene, own, run):
    source, model = scene
    ds = landuse.map(source=source, model=model, legend="ipcc")
    assert ds["class"].attrs["flag_meanings"].split()[:2] == ["Forest_land", "Cropland"]
    assert ds["class"].attrs["flag_colors"].split()[0] == "#1e6932"
    assert ds.attrs["legend"] == "ipcc"
    ran = run("map", "--source", source, "--model", model, "--legend", own, "--out", tmp_path / "n")
    assert ran.code == 2
    assert "names Dark, Bright, Glaring, which model random-pixel does not have" in ran.err
    assert not (tmp_path / "n").exists()
    with pytest.raises(UsageError, match="legend 5 is int"):
        landuse.map(source=source, model=model, legend=5)


def test_a_recipe_without_a_legend_is_what_it_was():
    plain = Recipe(
        model_sha256="m", place_sha256="p", stride_px=1, composite="best", max_cloud=40.0, window_days=1
    )
    # Ledgers hold this digest since before there were legends.
    assert plain.digest == "a8cb8dd5a344a96195dc7cfe7fe4a231c97ff25886c276a7fb5e9c2630fd5068"
    assert replace(plain, legend_sha256="l").digest != plain.digest
