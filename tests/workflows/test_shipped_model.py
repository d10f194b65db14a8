"""The weights that ship, on real pixels: labelled patches of either level, and scenes seen by eye."""

from datetime import UTC, datetime

import pytest
import rasterio
import torch

from landuse.model import DEFAULT_MODEL
from landuse.model.checkpoint import WEIGHTS, load_checkpoint, model_path, shipped_models
from landuse.model.datasets import load_patches, read_split
from landuse.model.evaluate import logits_of
from landuse.model.normalize import path_dn
from landuse.workflows.catalog import catalog_rasters
from landuse.workflows.map_area import MapRequest, load_classifier, map_area
from landuse.workflows.rasters import CatalogRequest

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
SEEN = [
    pytest.param(
        "inn_ering_de_at_L2A_window2_RGBN_utm33n.tif",
        "L2A",
        datetime(2021, 6, 18, tzinfo=UTC),
        INN,
        id="inn, L2A",
    ),
    pytest.param(
        "orihuela_es_L1C_20190918_13b_utm30n.tif",
        "L1C",
        datetime(2019, 9, 18, tzinfo=UTC),
        ORIHUELA,
        id="orihuela",
    ),
]


def test_shipped_weights_are_small_and_carry_their_contract():
    assert DEFAULT_MODEL in shipped_models()
    for name in shipped_models():
        assert (WEIGHTS / f"{name}.safetensors").stat().st_size <= 12_000_000
        _, contract = load_checkpoint(model_path(name))
        assert contract.name == name
        assert {entry.level for entry in contract.levels} == {"L1C", "L2A"}


@pytest.mark.slow
@pytest.mark.parametrize("amount", [0.5, 0.0, -0.5, -0.75])
def test_accuracy_on_the_validation_split_whatever_the_atmosphere(data_dir, amount):
    """+0.5 is plain L1C and -0.5 plain L2A where the contract's middle is missed by that much."""
    root = data_dir / "eurosat"
    network, contract = load_checkpoint(model_path(DEFAULT_MODEL))
    names = read_split(root / "splits" / "paper-val.txt")[:: 1 if amount == 0 else 3]
    patches = load_patches(root / "EuroSAT_RGB", names)
    shift = amount * torch.tensor(path_dn(contract.bands))
    logits = logits_of(network, contract, patches, path_shift_dn=shift)
    assert (logits.argmax(1) == patches.labels).double().mean() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("name", "level", "acquired_utc", "seen"), SEEN)
def test_real_scenes_are_mapped_as_a_person_sees_them(data_dir, tmp_path, name, level, acquired_utc, seen):
    source = data_dir / "scenes" / name
    catalog = catalog_rasters(
        CatalogRequest(
            rasters=(source,),
            level=level,
            acquired_utc=acquired_utc,
            baseline="02.08",
            out=tmp_path / "catalog",
        )
    )
    report = map_area(
        MapRequest(source=str(catalog.catalog), area=None, dates=None, out=tmp_path / "map"),
        load_classifier(DEFAULT_MODEL, "cpu"),
    )
    right, wrong = 0, []
    with rasterio.open(source) as image, rasterio.open(tmp_path / "map" / "landuse.tif") as file:
        classes = file.read(1)
        for expected, places in seen.items():
            for row, col in places:
                x, y = image.xy(row, col)
                found = report.plan.classes[classes[file.index(x, y)]]
                if found == expected or (expected == "fields" and found in FIELDS):
                    right += 1
                else:
                    wrong.append((expected, (row, col), found))
    assert right / (right + len(wrong)) >= 0.8, wrong
