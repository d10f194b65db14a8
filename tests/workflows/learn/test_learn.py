"""Learning a user's own classes, and what is then done with the model.

Oracles: the kinds of the fields that the scene was made of; scikit-learn's regression; a map's own pixels.
"""

import json
from dataclasses import replace
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rioxarray
import torch
import yaml
from safetensors.torch import load_file

import landuse
from landuse.model.checkpoint import contract_from_dict, load_contract, load_pixel_checkpoint
from landuse.model.predict_pixels import PixelPredictor
from landuse.pipeline.maps.viewable import viewable
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.workflows.learn.labels import place_shapes
from landuse.workflows.learn.request import LearnRequest
from tests.stac_schemas import stac_errors
from tests.workflows.learn.small_labels import FIELD_PX, KINDS, LEFT, TOP, run
from tests.workflows.small_maps import read

NAMES = ("bright", "dark", "green")


@pytest.fixture(scope="session")
def learned(world):
    """A model of 60 fields, by the command line, and what it printed as JSON."""
    labels = world.folder / "fields.gpkg"
    world.fields().to_file(labels, layer="fields")
    out = world.folder / "own.safetensors"
    done = run(
        "learn", world.source, "--labels", labels, "--column", "class", "--out", out, "--model", world.model,
        "--per-polygon", "10", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    return out, json.loads(done.out)


def share_right(world, classes, names):
    """Of the cells well inside fields, how many have the field's kind."""
    inner = np.zeros((FIELD_PX, FIELD_PX), bool)
    inner[3:-3, 3:-3] = True
    inner = np.tile(inner, world.kinds.shape)
    kinds = list(KINDS)
    told = np.array([kinds.index(name) for name in names])[np.where(classes == 255, 0, classes)]
    return float((told == world.truth)[inner & (classes != 255)].mean())


def test_classes_are_told_apart_on_land_that_was_held_out_better_than_by_the_model_as_it_is(learned):
    _, report = learned
    scores, before = report["scores"], report["relabelled"]
    assert report["classes"] == list(NAMES)
    assert scores["accuracy"]["value"] > 0.97 > before["accuracy"]["value"]
    assert report["gain"]["accuracy"]["low"] > 0
    assert scores["accuracy"]["low"] <= scores["accuracy"]["value"] <= scores["accuracy"]["high"]
    assert len(report["days"]) == 2
    assert report["block_m"] == 640  # the scene is 1.9 x 2.6 km
    assert report["folds"] == 5
    assert np.sum(scores["confusion"]) == report["samples"]
    assert [point["share"] for point in report["curve"]][-1] == 1
    assert report["warnings"] == []


def test_the_report_lies_beside_the_model_and_needs_nothing_else(learned):
    out, report = learned
    page = out.with_name("own.report.html").read_text("utf-8")
    assert "http" not in page.replace("https://doi.org", "")
    assert all(name in page for name in NAMES)
    told = json.loads(out.with_name("own.report.json").read_text("utf-8"))
    assert told.pop("method")
    assert told == report
    assert out.with_name("own.likely-errors.gpkg").is_file()


def test_the_model_maps_like_any_other_from_the_command_line_and_from_python(world, learned, tmp_path):
    model, _ = learned
    options = ("--date", "2024-06-01", "--probabilities")
    done = run("map", "--source", world.source, "--model", model, "--out", tmp_path / "map", *options)
    assert done.code == 0, done.err
    with rasterio.open(tmp_path / "map" / "landuse.tif") as file:
        classes, names = file.read(1), json.loads(file.tags()["classes"])
        palette = [file.colormap(1)[i][:3] for i in range(3)]
    colors = load_contract(model).learned.colors
    assert names == list(NAMES)
    assert palette == list(colors)
    assert share_right(world, classes, names) > 0.97
    with landuse.open_map(tmp_path / "map") as opened:
        assert opened["class"].attrs["flag_meanings"] == "bright dark green"
        assert opened["class"].attrs["flag_colors"] == " ".join("#" + bytes(color).hex() for color in colors)
        assert "cover" in opened
    held = landuse.map(source=world.source, model=model, date="2024-06-01")
    np.testing.assert_array_equal(held["class"].values, classes)
    data = rioxarray.open_rasterio(world.folder / "scene-0.tif")
    again = landuse.classify(data, level="L2A", scale=1e-4, offset=0.0, model=model)
    np.testing.assert_array_equal(again["class"].values, classes)
    assert again["class"].attrs["flag_colors"] == opened["class"].attrs["flag_colors"]
    card = json.loads((tmp_path / "map" / "model.json").read_text("utf-8"))
    output = card["properties"]["mlm:output"][0]
    assert [entry["name"] for entry in output["classification:classes"]] == list(NAMES)
    assert stac_errors(card) == []
    assert stac_errors(json.loads((tmp_path / "map" / "item.json").read_text("utf-8"))) == []
    assert "softmax" in output["post_processing_function"]["expression"]["formula"]
    # What covers the ground, and how strange the imagery is, is still told by the trunk.
    options = ("--date", "2024-06-01")
    run("map", "--source", world.source, "--model", world.model, "--out", tmp_path / "trunk", *options)
    for name in ("cover.tif", "doubt.tif"):
        np.testing.assert_array_equal(read(tmp_path / "map" / name), read(tmp_path / "trunk" / name))
    # Classes of one's own are smoothed too, and say nothing of the cover.
    smooth = landuse.map(source=world.source, model=model, date="2024-06-01", smooth=0.5)
    np.testing.assert_array_equal(smooth["cover"].values, held["cover"].values)


def test_names_of_legends_with_slashes_and_colons_go_through_every_command(world, tmp_path):
    """Oracles: GDAL and OGR, which read the names; the names of all files that are written."""
    own = {"bright": "Siedlung: Dorf/Weiler", "dark": "Wald/Forst", "green": "Acker: Mais"}
    fields = world.fields()
    fields["class"] = fields["class"].map(own)
    model = tmp_path / "own.safetensors"
    landuse.learn(labels=fields, column="class", source=world.source, model=world.model, out=model)
    for day in ("01", "11"):
        done = run(
            "map", "--source", world.source, "--model", model, "--out", tmp_path / day, "--cells",
            "--date", f"2024-06-{day}", "--probabilities", "--smooth", "0.1,Acker: Mais=0.2",
        )  # fmt: skip
        assert done.code == 0, done.err
    folder = tmp_path / "01"
    names = ["Acker: Mais", "Siedlung: Dorf/Weiler", "Wald/Forst"]
    with rasterio.open(folder / "landuse.tif") as file:
        assert json.loads(file.tags()["classes"]) == names
    with rasterio.open(folder / "probabilities.tif") as file:
        assert list(file.descriptions) == names
    categories = ElementTree.parse(folder / "landuse.tif.aux.xml").iter("Category")
    assert [entry.text for entry in categories][:3] == names
    for layer in ("landuse", "summary", "cells"):
        assert set(gpd.read_file(folder / "landuse.gpkg", layer=layer)["class_name"].dropna()) == set(names)
    for document in ("item.json", "model.json"):
        assert stac_errors(json.loads((folder / document).read_text("utf-8"))) == []
    with landuse.open_map(folder) as opened:
        told = opened["class"].attrs["flag_meanings"].split()
        assert told == ["Acker__Mais", "Siedlung__Dorf_Weiler", "Wald_Forst"]
        assert list(opened["class_name"].values) == names
    assert [entry.title for entry in viewable(folder).first.legend] == names
    done = run("change", folder, tmp_path / "11", "--out", tmp_path / "change")
    assert done.code == 0, done.err
    viewable(tmp_path / "change")
    crosswalk = tmp_path / "legend.csv"
    crosswalk.write_text("class,new\n" + "".join(f"{name},Land: {name}\n" for name in names), "utf-8")
    for more in ((), ("--crosswalk", crosswalk)):
        done = run("compare", folder, tmp_path / "11", "--out", tmp_path / "compared", "--overwrite", *more)
        assert done.code == 0, done.err
    points = tmp_path / "points.gpkg"
    assert run("sample", folder, "--n", "30", "--min-per-class", "5", "--out", points).code == 0
    frame = gpd.read_file(points, layer="samples")
    kinds = [own[kind] for kind in KINDS]
    frame["reference"] = [
        kinds[world.truth[int((TOP - at.y) // 10), int((at.x - LEFT) // 10)]] for at in frame.geometry
    ]
    frame.to_file(points, layer="samples", driver="GPKG")
    done = run("area", folder, "--samples", points, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["overall_accuracy"]["value"] > 0.9
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert not [path for path in written if any(word in path for word in ("Acker", "Mais", "Wald", "Dorf"))]


def test_maps_of_two_dates_are_compared_and_areas_estimated(world, learned, tmp_path):
    model, _ = learned
    for day in ("01", "11"):
        options = ("--date", f"2024-06-{day}", "--probabilities")
        done = run("map", "--source", world.source, "--model", model, "--out", tmp_path / day, *options)
        assert done.code == 0, done.err
    done = run("change", tmp_path / "01", tmp_path / "11", "--out", tmp_path / "change")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "change" / "change.json").read_text("utf-8"))
    report = landuse.change(tmp_path / "01", str(tmp_path / "11"), out=tmp_path / "change-python")
    assert report.to_dict()["matrix"] == told["matrix"]
    # Beside itself as a plain raster, and beside the other date, from the command line and from Python.
    same = landuse.compare(tmp_path / "01", tmp_path / "01" / "landuse.tif", out=tmp_path / "same")
    assert same.agreement.overall == 1
    done = run("compare", tmp_path / "01", tmp_path / "11", "--out", tmp_path / "compared", "--json")
    assert done.code == 0, done.err
    other = landuse.compare(tmp_path / "01", tmp_path / "11", out=tmp_path / "compared-python")
    assert json.loads(done.out)["confusion_ha"] == other.to_dict()["confusion_ha"]
    points = tmp_path / "points.gpkg"
    assert run("sample", tmp_path / "01", "--n", "60", "--min-per-class", "10", "--out", points).code == 0
    frame = gpd.read_file(points, layer="samples")
    kinds = list(KINDS)
    frame["reference"] = [
        kinds[world.truth[int((TOP - at.y) // 10), int((at.x - LEFT) // 10)]] for at in frame.geometry
    ]
    frame.to_file(points, layer="samples", driver="GPKG")
    done = run("area", tmp_path / "01", "--samples", points, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["overall_accuracy"]["value"] > 0.9


def test_the_model_runs_by_night(world, learned, tmp_path):
    model, _ = learned
    config = {
        "out": str(tmp_path / "maps"),
        "source": world.source,
        "model": str(model),
        "max_cloud": 100,
        "areas": [{"name": "fields", "bbox": [15.17, 47.93, 15.19, 47.94]}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    done = run("nightly", "run", tmp_path / "config.yaml", "--since", "2024-06-01")
    assert done.code == 0, done.err + done.out
    maps = sorted((tmp_path / "maps").rglob("landuse.tif"))
    assert len(maps) == 2
    with rasterio.open(maps[0]) as file:
        assert json.loads(file.tags()["classes"]) == list(NAMES)


def test_what_the_head_says_is_what_scikit_learn_says_of_the_same_features(world, learned):
    """The logits of the saved network are a linear function of its features, fitted as scikit-learn would."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from landuse.model.training.class_head import STRENGTH, Rows, fit_head

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    features = (rng.normal(size=(120, 9)) + labels[:, None] * rng.normal(size=9)).astype(np.float32)
    rows = Rows(features=features, sample=np.arange(120), weight=np.ones(120))
    head = fit_head(rows, labels, np.ones(120), 3)
    balance = {k: 120 / 3 / (labels == k).sum() for k in range(3)}
    weight = np.array([balance[k] for k in labels])
    scaler = StandardScaler().fit(features, sample_weight=weight)
    oracle = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=5000, tol=1e-10)
    oracle.fit(scaler.transform(features), labels)
    expected = oracle.predict_proba(scaler.transform(features))
    logits = head.logits(features)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected, atol=2e-4)


def test_the_saved_network_says_what_the_fit_said_of_each_labelled_pixel(world, learned):
    """Of the pixels' own views: the head in the network is the linear function that was fitted."""
    from landuse.model.training.class_head import LinearHead
    from landuse.workflows.learn.features import see_pixels
    from landuse.workflows.learn.labels import labels_of
    from landuse.workflows.learn.learn import _area_of, _days, _search

    model, _ = learned
    network, contract = load_pixel_checkpoint(model)
    weight = torch.cat([network.learned.coarse.weight, network.learned.fine.weight], 1)[:, :, 0, 0].double()
    head = LinearHead(
        weight=weight.detach().numpy(), bias=network.learned.coarse.bias.detach().double().numpy()
    )
    labels = labels_of(world.fields(20, seed=1), "class", "labels")
    pixels = place_shapes(labels, "EPSG:32633", per_shape=5, per_class=100, seed=0)
    request = LearnRequest(source=world.source, labels=world.fields(), column="class")
    scenes = _search(request, contract, _area_of(labels))
    days = _days(scenes, (*("B04", "B03", "B02"), "B08"), 1)
    predictor = PixelPredictor.load(str(model))
    with Remote(RetryPolicy()) as remote:
        seen = see_pixels(pixels, days, "L2A", predictor, remote, seed=0)
    assert seen.seen.all()
    logits = head.logits(seen.first) / contract.learned.temperature
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    held = landuse.map(
        source=world.source, model=model, date=days[0].scenes[0].acquired_utc.date(), probabilities=True
    )
    row = pixels.rows + TOP // 10
    col = pixels.cols - LEFT // 10
    found = held["probabilities"].values[:, row, col].T
    np.testing.assert_allclose(found, expected, atol=0.004)  # maps hold steps of 1/250


def test_the_same_labels_give_the_same_model_and_a_raster_of_labels_does_too(world, tmp_path):
    ids = world.truth.astype(np.uint8)
    ids[: FIELD_PX * 2] = 255
    labels = world.write_raster(tmp_path / "ids.tif", ids)
    contents = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.safetensors"
        report = landuse.learn(
            labels=labels,
            source=world.source,
            out=out,
            model=world.model,
            name="same",
            max_dates=1,
            per_class=100,
        )
        contents.append((load_file(out), load_contract(out)))
    (first, contract), (second, same) = contents
    assert contract == same
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert report.classes == NAMES
    assert report.shapes == 0
    assert report.scores.accuracy.value > 0.9
    assert max(entry.samples for entry in report.scores.classes) == 100


def test_wrong_labels_come_first_among_the_likely_errors(world, tmp_path):
    fields = world.fields(80)
    wrong = [3, 17, 40, 62]
    for row in wrong:
        fields.loc[row, "class"] = NAMES[(NAMES.index(fields.loc[row, "class"]) + 1) % 3]
    report = landuse.learn(
        labels=fields, column="class", source=world.source, out=tmp_path / "m.safetensors", model=world.model,
        max_dates=1,
    )  # fmt: skip
    errors = gpd.read_file(report.errors_file, layer="polygons")
    assert set(errors["feature"][:4]) == set(wrong)
    assert report.likely_errors == len(errors)
    truth = world.fields(80)["class"]
    assert list(errors["suggested"][:4]) == [truth[row] for row in errors["feature"][:4]]
    assert (errors["self_confidence"].diff().dropna() >= 0).all()


def test_a_learned_model_can_be_learned_on(world, learned, tmp_path):
    model, _ = learned
    fields = world.fields(50, seed=4)
    fields["class"] = fields["class"].replace({"dark": "not green", "bright": "not green"})
    report = landuse.learn(
        labels=fields, column="class", source=world.source, out=tmp_path / "two.safetensors", model=model,
        max_dates=1, per_polygon=10,
    )  # fmt: skip
    assert report.classes == ("green", "not green")
    assert report.scores.accuracy.value > 0.95
    network, contract = load_pixel_checkpoint(tmp_path / "two.safetensors")
    assert (network.config.classes, contract.classes) == (2, ("green", "not green"))


def test_a_contract_of_learned_classes_survives_json_and_refuses_what_is_hostile(learned):
    from dataclasses import asdict

    contract = load_contract(learned[0])
    values = json.loads(json.dumps(asdict(contract)))
    assert contract_from_dict(values) == contract
    for damage in (
        {"colors": values["learned"]["colors"][:2]},
        {"colors": [[0, 0, 256]] * 3},
        {"colors": [[0, 0]] * 3},
        {"colors": [[0, 0, 0.5]] * 3},
        {"colors": "red"},
        {"temperature": 1e9},
        {"temperature": float("nan")},
        {"more": 1},
    ):
        with pytest.raises((ValueError, TypeError, KeyError)):
            contract_from_dict({**values, "learned": {**values["learned"], **damage}})
    with pytest.raises(ValueError, match="need a network of pixels"):
        replace(contract, pixels=None)
    with pytest.raises(ValueError, match="are not the classes"):
        replace(contract, learned=None)
