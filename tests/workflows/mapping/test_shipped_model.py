"""The weights that ship, on real pixels: labelled patches of either level, and scenes seen by eye."""

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray
import torch
from PIL import Image

import landuse
from landuse.contract import IMAGE_BANDS, RGB8
from landuse.model import DEFAULT_MODEL, MAP_MODEL, WEIGHTS, shipped_models
from landuse.model.bands import ALL, NO_B10, RGB
from landuse.model.checkpoint import load_checkpoint, load_contract, model_path
from landuse.model.normalize import path_dn
from landuse.model.training.datasets import PatchSource, list_patches, load_patches, read_split
from landuse.model.training.evaluate import logits_of
from landuse.model.training.pixels.train import OPTIONAL, REQUIRED
from landuse.pipeline.search.area import parse_bbox, parse_dates
from landuse.workflows.mapping.map_area import load_classifier, map_area
from landuse.workflows.training.train import evaluate_model
from tests.workflows.small_maps import request

FIELDS = {"AnnualCrop", "PermanentCrop", "Pasture", "HerbaceousVegetation"}

# What a person sees at (row, col) of the scenes' own pixels.
INN = {
    "Forest": [(20, 35), (50, 80), (100, 100)],
    "River": [(345, 60), (345, 200), (295, 330), (255, 390)],
    "Residential": [(100, 300), (100, 355), (365, 455)],
    "fields": [(30, 260), (110, 150), (215, 40), (140, 230), (90, 480), (90, 540), (210, 300)],
}
ORIHUELA = {
    "Residential": [(160, 175)],
    "Industrial": [(285, 37), (370, 205)],
    "Highway": [(190, 60), (370, 112), (440, 140)],
    "fields": [(230, 250), (300, 200), (390, 330), (350, 30)],
}
INN_SEEN = ("inn", INN)
ORIHUELA_SEEN = ("orihuela", ORIHUELA)
SEEN = [
    pytest.param(DEFAULT_MODEL, *INN_SEEN, id="inn, L2A"),
    pytest.param(DEFAULT_MODEL, *ORIHUELA_SEEN, id="orihuela"),
    pytest.param("balanced-fast-all", *ORIHUELA_SEEN, id="orihuela, 13 bands"),
    pytest.param("balanced-fast-no-b10", *ORIHUELA_SEEN, id="orihuela, 12 bands"),
]


CLOUDED = "14.071728,48.182489,14.098316,48.200694"
"""Two kilometres of the demo's land."""


def test_shipped_weights_are_small_and_carry_their_contract():
    bands = {
        DEFAULT_MODEL: RGB,
        MAP_MODEL: REQUIRED + OPTIONAL,
        "balanced-fast-all": ALL,
        "balanced-fast-no-b10": NO_B10,
        "multilabel-ucm": IMAGE_BANDS,
    }
    assert set(shipped_models()) == set(bands)
    for name in shipped_models():
        assert (WEIGHTS / f"{name}.safetensors").stat().st_size <= 12_000_000
        contract = load_contract(model_path(name))
        assert contract.name == name
        assert contract.bands == bands[name]
        assert (contract.pixels is not None) == (name == MAP_MODEL)
        # L2A has no B10, and images have no level.
        expected = {"L1C"} if "B10" in contract.bands else {"L1C", "L2A"}
        expected = set() if contract.input_kind == RGB8 else expected
        assert {entry.level for entry in contract.levels} == expected


@pytest.mark.slow
@pytest.mark.parametrize("amount", [0.5, -0.5, -0.75])
def test_accuracy_on_the_validation_split_whatever_the_atmosphere(data_dir, amount):
    """+0.5 is plain L1C and -0.5 plain L2A where the contract's middle is missed by that much.

    What is met exactly is held to more, on more patches, below.
    """
    root = data_dir / "eurosat"
    network, contract = load_checkpoint(model_path(DEFAULT_MODEL))
    names = read_split(root / "splits" / "paper-val.txt")[::12]
    patches = load_patches(PatchSource(root=root / "EuroSAT_RGB"), names)
    shift = amount * torch.tensor(path_dn(contract.bands))
    logits = logits_of(network, contract, patches, path_shift_dn=shift)
    assert (logits.argmax(1) == patches.labels).double().mean() >= 0.95


@pytest.mark.slow
def test_evaluate_agrees_with_a_script_of_ten_lines(data_dir, tmp_path):
    """Pillow and numpy from the JPEG to the network's input, and the eight symmetries as rotations."""
    root = data_dir / "eurosat"
    names = (root / "splits" / "paper-val.txt").read_text().split()[::36]
    split = tmp_path / "some.txt"
    split.write_text("\n".join(names))
    network, contract = load_checkpoint(model_path(DEFAULT_MODEL))
    l1c = next(entry for entry in contract.levels if entry.level == "L1C")
    confusion, confidences = np.zeros((10, 10), int), []
    for start in range(0, len(names), 8):
        turned = []
        for name in names[start : start + 8]:
            with Image.open(root / "EuroSAT_RGB" / name) as image:
                dn = np.asarray(image).astype(float) / 255 * 2750  # (row, col, red green blue)
            x = ((dn * l1c.gain + l1c.offset_dn) / contract.saturation_dn).clip(0, 1)
            x = (x - contract.mean) / contract.std
            turned += [np.rot90(face, k) for face in (x, x[:, ::-1]) for k in range(4)]
        batch = torch.tensor(np.stack(turned)).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            logits = network(batch).unflatten(0, (-1, 8)).mean(1)
        confidence, answer = (logits / contract.temperature).softmax(1).max(1)
        for name, found in zip(names[start : start + 8], answer.tolist(), strict=True):
            confusion[contract.classes.index(name.split("/")[0]), found] += 1
        confidences += confidence.tolist()
    scores = evaluate_model(
        PatchSource(root=root / "EuroSAT_RGB"), DEFAULT_MODEL, split=str(split), tta=True, device="cpu"
    )
    assert scores.n == len(names) == 113
    # Two ties, which rounding may tell otherwise.
    assert abs(np.array(scores.confusion) - confusion).sum() <= 4
    # The next test holds the bar, on more patches.
    assert min(scores.accuracy, np.trace(confusion) / 113) >= 0.97
    # A bin's gap is its summed confidence less its right answers.
    assert np.mean(confidences) - scores.accuracy == pytest.approx(0, abs=scores.ece + 1e-3)


@pytest.mark.slow
def test_the_default_reads_both_levels_and_knows_what_it_does_not_know(data_dir, tmp_path):
    """The bars of the figures: plain, and where the contract misses L2A's atmosphere by half a path.

    On every sixth patch of the split; all of them are measured for docs/figures.md.
    """
    source = PatchSource(root=data_dir / "eurosat" / "EuroSAT_RGB")
    names = read_split(data_dir / "eurosat" / "splits" / "paper-val.txt")[::6]
    split = tmp_path / "sixth.txt"
    split.write_text("\n".join(names))
    plain, l2a = (
        evaluate_model(source, DEFAULT_MODEL, split=str(split), device="cpu", l2a_error=error)
        for error in (0.0, 0.5)
    )
    assert plain.accuracy >= 0.983
    assert l2a.accuracy >= plain.accuracy - 0.01
    assert max(plain.ece, l2a.ece) <= 0.02
    assert plain.confidence_gap > 0.1


@pytest.mark.slow
def test_an_rgb_model_reads_the_same_patch_from_either_kind_of_file(data_dir):
    """EuroSAT's JPEGs are its 13-band TIFFs' B04, B03, B02 but for rounding and the codec's loss."""
    root = data_dir / "eurosat"
    network, contract = load_checkpoint(model_path(DEFAULT_MODEL))
    names = [name.replace(".tif", ".jpg") for name in list_patches(root / "EuroSAT_MS")]
    names = [name for name in names if (root / "EuroSAT_RGB" / name).is_file()][::2]
    probabilities = []
    for folder in ("EuroSAT_RGB", "EuroSAT_MS"):
        patches = load_patches(PatchSource(root=root / folder), names, contract.bands)
        probabilities.append(logits_of(network, contract, patches).softmax(1))
    assert len(names) >= 100
    same = probabilities[0].argmax(1) == probabilities[1].argmax(1)
    assert same.double().mean() >= 0.95  # whose classes differ are unsure of both
    assert (probabilities[0] - probabilities[1]).abs().mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("model", "scene", "seen"), SEEN)
def test_real_scenes_are_mapped_as_a_person_sees_them(real_map, model, scene, seen):
    made = real_map(scene, model)
    right, wrong = 0, []
    with rasterio.open(made.raster) as image, rasterio.open(made.out / "landuse.tif") as file:
        classes = file.read(1)
        for expected, places in seen.items():
            for row, col in places:
                x, y = image.xy(row, col)
                found = made.report.plan.classes[classes[file.index(x, y)]]
                if found == expected or (expected == "fields" and found in FIELDS):
                    right += 1
                else:
                    wrong.append((expected, (row, col), found))
    assert right / (right + len(wrong)) >= 0.8, wrong


# The same places by what a pixel there is. A dammed river is a lake in part, which the card says, and a place
# among the fields of orihuela lies under the flood. The motorway is left out: it is found in pieces.
PIXELS_SEEN = {
    "inn": {
        ("Forest",): INN["Forest"],
        ("River", "SeaLake"): INN["River"],
        ("Residential",): INN["Residential"],
        tuple(FIELDS): INN["fields"],
    },
    "orihuela": {
        ("Residential", "Industrial"): ORIHUELA["Residential"] + ORIHUELA["Industrial"],
        tuple(FIELDS): ORIHUELA["fields"][1:],
        ("River", "SeaLake"): ORIHUELA["fields"][:1],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("scene", PIXELS_SEEN)
def test_single_pixels_are_what_a_person_sees(real_map, scene):
    made = real_map(scene, MAP_MODEL)
    with rasterio.open(made.raster) as image, rasterio.open(made.out / "landuse.tif") as file:
        classes = file.read(1)
        for expected, places in PIXELS_SEEN[scene].items():
            for row, col in places:
                found = made.report.plan.classes[classes[file.index(*image.xy(row, col))]]
                assert found in expected, (row, col)


@pytest.mark.slow
@pytest.mark.parametrize("scene", PIXELS_SEEN)
def test_blocks_of_pixels_leave_no_seam(real_map, scene, tmp_path):
    """What lies beyond the context of a block changes no probability by more than a step of 1/250."""
    made = real_map(scene, MAP_MODEL)
    maps = []
    for block_px in (104, 2048):
        out = tmp_path / f"blocks{block_px}"
        asked = request(tmp_path, made.source, out=out, block_px=block_px, probabilities=True)
        map_area(asked, load_classifier(MAP_MODEL, "cpu"))
        with rasterio.open(out / "probabilities.tif") as file:
            maps.append(file.read().astype(int))
    assert np.abs(maps[0] - maps[1]).max() <= 1


@pytest.mark.slow
def test_blocks_near_clouds_leave_no_seam(demo_catalog, tmp_path):
    """Of a date with clouds over a tenth of the area, which fill more than a block's surroundings."""
    maps = []
    for block_px in (104, 2048):
        asked = request(
            tmp_path,
            str(demo_catalog.catalog),
            area=parse_bbox(CLOUDED),
            dates=parse_dates("2024-06-11"),
            out=tmp_path / f"blocks{block_px}",
            block_px=block_px,
            probabilities=True,
            vectors=None,
        )
        report = map_area(asked, load_classifier(MAP_MODEL, "cpu"))
        assert report.cover.cloudy > 0.05
        with rasterio.open(asked.out / "probabilities.tif") as file:
            maps.append(file.read().astype(int))
    assert np.abs(maps[0] - maps[1]).max() <= 1


GROUPS = {
    "urban": {"Residential", "Industrial", "Highway"},
    "forest": {"Forest"},
    "water": {"River", "SeaLake"},
    "pasture": {"Pasture", "HerbaceousVegetation"},
}


@pytest.mark.slow
@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_points_of_single_woods_and_fields_are_as_right_as_the_documentation_says(data_dir, level):
    """The README's figure. Oracle: points that others labelled, each compared with the pixel it lies in."""
    with rioxarray.open_rasterio(data_dir / "scenes" / "leipzig_de_L2A_8b_utm32n.tif") as scene:
        order = ["B02", "B03", "B04", "B06", "B07", "B08", "B11"]
        bands = scene[:7].drop_attrs(deep=False).assign_coords(band=order)
        mapped = landuse.classify(bands, level=level, scale=1e-4, offset=0.0)
    names = mapped["class"].attrs["flag_meanings"].split()
    points = geopandas.read_file(data_dir / "reference" / "leipzig_de_landcover_points.gpkg")
    points = points.to_crs(mapped.rio.crs)
    found = {group: [] for group in GROUPS}
    for label, point in zip(points["land_cover"], points.geometry, strict=True):
        cell = mapped.sel(x=point.x, y=point.y, method="nearest")
        found[label].append(names[int(cell["class"])] in GROUPS[label])
    assert {group: len(right) for group, right in found.items()} == {
        "urban": 36,
        "forest": 28,
        "water": 13,
        "pasture": 20,
    }
    assert np.mean([np.mean(right) for right in found.values()]) == pytest.approx(0.80, abs=0.03)
    assert sum(found["forest"]) >= 24
    assert sum(found["water"]) >= 12


@pytest.mark.slow
def test_a_flood_drawn_by_hand_is_water(data_dir, real_map):
    """Turbid water over fields in an L1C scene: as much of it as a person has drawn, as the card says."""
    made = real_map("orihuela", MAP_MODEL)
    with (
        rasterio.open(made.out / "cover.tif") as file,
        rasterio.open(data_dir / "reference" / "orihuela_es_watermask_hand_utm30n.tif") as reference,
    ):
        truth = reference.read(1)
        rows, cols = np.indices(truth.shape)
        x, y = rasterio.transform.xy(reference.transform, rows.ravel(), cols.ravel())
        at_rows, at_cols = rasterio.transform.rowcol(file.transform, x, y)
        water = file.read(1)[np.asarray(at_rows), np.asarray(at_cols)].reshape(truth.shape) == 0
    drawn, known = truth == 1, truth >= 0
    overlap = (water & drawn & known).sum() / ((water | drawn) & known).sum()
    assert overlap == pytest.approx(0.644, abs=0.03)
