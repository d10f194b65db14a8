"""What of a folder can be looked at. Oracles: what was written, and rasterio."""

import json
import shutil

import numpy as np
import pytest
import rasterio

from landuse.classes import LAND_USE
from landuse.errors import UsageError
from landuse.pipeline.maps.viewable import folders_of, viewable
from tests.view_folders import LEFT_M, TOP_M, write_change, write_map


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    before = write_map(folder / "map", 600)
    after = write_map(folder / "later", 600, seed=1)
    write_change(folder / "change", 600, before, after)
    return folder


@pytest.fixture
def copied(folders, tmp_path):
    return shutil.copytree(folders, tmp_path / "copied")


def test_a_map_and_its_rasters(folders):
    found = viewable(folders / "map")
    assert [(raster.name, raster.kind) for raster in found.rasters] == [
        ("landuse", "classes"),
        ("cover", "classes"),
        ("confidence", "share"),
        ("doubt", "share"),
        ("image", "image"),
        ("second", ""),
        ("status", ""),
    ]
    first = found.first
    assert (first.shape, first.origin_m, first.pixel_m) == ((600, 600), (LEFT_M, TOP_M), 10.0)
    assert [(entry.value, entry.title, entry.color) for entry in first.legend] == [
        (entry.id, entry.title, entry.color) for entry in LAND_USE
    ]
    assert (found.kind, found.zone, found.is_north, found.days) == ("map", 33, True, "2024-06-16")
    assert viewable(folders / "map" / "landuse.tif") == found


def test_a_change_names_the_kinds_that_occur_the_largest_first(folders):
    found = viewable(folders / "change")
    legend = found.first.legend
    titles = ["Annual crop to Residential", "Forest to Bare ground", "Unconfirmed", "No change"]
    assert [entry.title for entry in legend] == titles
    with rasterio.open(folders / "change" / "change.tif") as file:
        colors = file.colormap(1)
        assert set(np.unique(file.read(1))) - {255} <= {entry.value for entry in legend}
    assert all(entry.color == colors[entry.value][:3] for entry in legend)
    assert found.days == "2024-06-16 / 2024-07-16"


def test_a_map_of_patches_has_what_it_has(copied):
    for name in ("cover", "second", "doubt", "image"):
        (copied / "map" / f"{name}.tif").unlink()
    names = [raster.name for raster in viewable(copied / "map").rasters]
    assert names == ["landuse", "confidence", "status"]


def rewritten(path, **profile):
    """The same raster with another profile."""
    with rasterio.open(path) as file:
        values, tags = file.read(), file.tags()
        made = {**file.profile, "driver": "GTiff", **profile}
    with rasterio.open(path, "w", **made) as file:
        file.write(values.astype(made["dtype"])[: made["count"]])
        file.update_tags(**tags)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "landuse.tif").unlink(), "neither a landuse.tif nor a change.tif"),
        (lambda folder: (folder / "cover.tif").write_bytes(b"II*\0junk"), "cannot be read as a GeoTIFF"),
        (lambda folder: (folder / "cover.tif").write_bytes(b"GIF89a"), "cannot be read as a GeoTIFF"),
        (lambda folder: rewritten(folder / "cover.tif", tiled=False), "no cloud-optimised GeoTIFF"),
        (lambda folder: rewritten(folder / "cover.tif", dtype="uint16"), "bands of uint16"),
        (lambda folder: rewritten(folder / "landuse.tif", crs="EPSG:3035"), "is in EPSG:3035"),
        (
            lambda folder: shutil.copy(folder.parent / "later" / "cover.tif", folder),
            "is not of the run that made",
        ),
    ],
)
def test_what_the_page_could_not_show_is_refused(copied, damage, told):
    damage(copied / "map")
    with pytest.raises(UsageError, match=told):
        viewable(copied / "map")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"classes": ["A", "B"], "matrix": [{"from_id": 0, "to_id": 2, "area_ha": 1}]}',
        '{"classes": ["A", "B"], "matrix": [{"from_id": "0", "to_id": 1}]}',
        '{"classes": ["A", "B"], "matrix": [{"from_id": 0.5, "to_id": 1}]}',
    ],
)
def test_a_change_that_does_not_say_what_it_means_is_refused(copied, content):
    (copied / "change" / "change.json").write_text(content, "utf-8")
    with pytest.raises(UsageError, match=r"change\.(json|tif) does not say"):
        viewable(copied / "change")


def test_words_of_a_raster_cannot_steer_a_terminal(tmp_path):
    names = json.dumps(["Fo\x1b[31mrest", *(f"C{index}" for index in range(13))])
    write_map(tmp_path / "map", 64, tags={"classes": names, "TIFFTAG_COPYRIGHT": "a\x1bb"})
    found = viewable(tmp_path / "map").first
    assert found.legend[0].title == "Fo?[31mrest"
    assert found.tags["TIFFTAG_COPYRIGHT"] == "a?b"


def joined(folder, zones):
    """A folder of joined maps as far as it is looked at."""
    folder.mkdir()
    (folder / "landuse.vrt").write_text("<VRTDataset/>")
    (folder / "run.json").write_text(json.dumps({"zones": [{"folder": zone} for zone in zones]}))
    return folder


def test_of_joined_maps_those_of_the_zones_are_looked_at(folders, tmp_path):
    folder = joined(tmp_path / "austria", ["zone-33N", "zone-32N"])
    zones = (folder / "zone-33N", folder / "zone-32N")
    assert folders_of(folder) == folders_of(folder / "landuse.vrt") == zones
    for single in (folders / "map", folders / "map" / "landuse.tif", folders / "change", folder / "zone-33N"):
        assert folders_of(single) == (single,)
    (folder / "run.json").unlink()  # not finished
    with pytest.raises(UsageError, match=r"neither a landuse\.tif"):
        viewable(*folders_of(folder))


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (
            '{"zones": [{"folder": "zone-33N"}, {"folder": "../other"}]}',
            r"names the zone's folder '\.\./other'",
        ),
        ('{"zones": [{}]}', "names the zone's folder ''"),
        ('{"zones": [', "cannot be read as the report of a map"),
    ],
)
def test_joined_maps_that_lead_elsewhere_are_not_looked_at(tmp_path, report, told):
    folder = joined(tmp_path / "austria", ["zone-33N"])
    (folder / "run.json").write_text(report)
    with pytest.raises(UsageError, match=told):
        folders_of(folder)
