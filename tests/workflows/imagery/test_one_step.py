"""``landuse map scene.tif``. Oracle: the map of the same image by way of a catalogue."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from landuse.errors import UsageError
from landuse.workflows.imagery.one_step import ImageFacts, held_rasters, requested_source
from landuse.workflows.mapping.map_area import map_area
from tests.workflows.small_maps import BrightnessClassifier, catalog_of, red_raster, request
from tests.workflows.world import assert_same_map

FACTS = ImageFacts(level="L2A", acquired="2024-06-01T10:00:00+00:00", baseline="03.00")


@pytest.fixture
def image(tmp_path):
    """One band, nameless but for its description; 64 x 48 pixels."""
    values = np.random.default_rng(3).integers(300, 3000, (64, 48)).astype(np.uint16)
    return red_raster(tmp_path / "scene.tif", values)


def test_an_image_is_mapped_as_its_catalogue_would_be(tmp_path, image):
    source = catalog_of(tmp_path, image)
    catalogued = map_area(request(tmp_path, source), BrightnessClassifier(16))
    (tmp_path / "one").mkdir()
    direct, _ = requested_source("planetary-computer", (image,), FACTS, "all")
    mapped = map_area(request(tmp_path / "one", direct), BrightnessClassifier(16))
    assert_same_map(Path(catalogued.out), Path(mapped.out))
    assert mapped.plan.scenes[0].assets[0].href == str(image)  # read where it lies


def test_bands_of_several_files_are_found_by_their_number(tmp_path, image):
    three = tmp_path / "three.tif"
    with rasterio.open(image) as one, rasterio.open(three, "w", **(one.profile | {"count": 3})) as target:
        for index, plus in enumerate((0, 100, 200), 1):
            target.write(one.read(1) + plus, index)
    names = "B03,-,B02,B04"
    held, bands = requested_source("planetary-computer", (three, image), FACTS, names)
    assert bands == "all"
    found = [
        (Path(asset["href"]).name, [band.get("name") for band in asset["bands"]])
        for asset in held.items[0].item["assets"].values()
    ]
    assert found == [("three.tif", ["B03", None, "B02"]), ("scene.tif", ["B04"])]


def test_all_that_an_image_does_not_say_is_asked_for_at_once(tmp_path, image):
    with rasterio.open(image, "r+") as file:
        file.descriptions = (None,)
    with pytest.raises(UsageError, match=r"To map scene\.tif.*--level L1C.*--datetime.*band's name.*--bands"):
        held_rasters((image,), ImageFacts())


def test_a_doubt_about_the_offset_is_told_once_and_names_what_would_fit(tmp_path, data_dir, caplog):
    """Red alone with leaves has no say; red, green and blue of L2A that all carry +1000 have."""
    with rasterio.open(data_dir / "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif") as original:
        stored, profile = original.read([1, 2, 3]) + 1000, original.profile | {"count": 3}
        names = original.descriptions[:3]
    with rasterio.open(tmp_path / "plus.tif", "w", **profile) as target:
        target.write(stored.astype(profile["dtype"]))
        target.descriptions = names
    facts = replace(FACTS, baseline=None, offset=0.0)
    source, _ = requested_source("planetary-computer", (tmp_path / "plus.tif",), facts, "all")
    map_area(request(tmp_path, source), BrightnessClassifier(16))
    (told,) = [record.message for record in caplog.records if "+1000" in record.message]
    assert told.startswith("plus.tif: it is stated that reflectance is 0.0001 x stored +0, but")
    assert told.endswith("With --scale 0.0001 --offset -0.1 they are plausible.")


def test_facts_without_an_image_and_an_image_beside_a_source_are_refused(image):
    with pytest.raises(UsageError, match=re.escape("landuse map scene.tif")):
        requested_source("planetary-computer", (), FACTS, "all")
    with pytest.raises(UsageError, match="Give one"):
        requested_source("cdse", (image,), FACTS, "all")
    assert requested_source("cdse", (), ImageFacts(), "rgb") == ("cdse", "rgb")


def test_a_format_that_is_not_read_as_it_is_goes_by_a_catalogue(tmp_path, image):
    virtual = tmp_path / "scene.vrt"
    rasterio.shutil.copy(image, virtual, driver="VRT")
    with pytest.raises(UsageError, match="landuse catalog"):
        held_rasters((virtual,), FACTS)
