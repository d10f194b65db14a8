"""Maps as datasets. Oracle: rasterio's own reading of the same files."""

import json
import shutil

import numpy as np
import pytest
import rasterio

import landuse
from landuse.classes import EUROSAT
from landuse.workflows.mapping.map_area import map_area
from tests.servers import file_server
from tests.workflows.small_maps import BrightnessClassifier, catalog_of, read, read_share, red_raster, request


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A map of 2 classes with a hole and with probabilities."""
    folder = tmp_path_factory.mktemp("map")
    rng = np.random.default_rng(5)
    values = rng.integers(1, 10_000, (150, 170), dtype=np.uint16)
    values[:70, :60] = 0
    source = catalog_of(folder, red_raster(folder / "red.tif", values))
    map_area(request(folder, source, stride_px=8, probabilities=True), BrightnessClassifier(16))
    return folder / "map"


def test_a_map_opens_as_rasterio_reads_it(mapped):
    with landuse.open_map(mapped) as ds, rasterio.open(mapped / "landuse.tif") as file:
        assert all(variable.chunks for variable in ds.data_vars.values())  # nothing is read yet
        for found in (ds.odc.geobox, ds["confidence"].odc.geobox, ds["probabilities"].odc.geobox):
            assert found.shape == file.shape
            assert found.affine == file.transform
            assert found.crs.to_epsg() == 32633
        assert ds.rio.crs == file.crs
        assert ds.rio.transform() == file.transform
        np.testing.assert_array_equal(ds["class"], file.read(1))
        assert ds["class"].dtype == np.uint8
        assert ds["class"].rio.nodata == file.nodata == 255
        tags = file.tags()
        meanings = ds["class"].attrs["flag_meanings"].split()
        assert meanings == json.loads(tags["classes"]) == list(ds["class_name"].values)
        colors = [file.colormap(1)[value][:3] for value in ds["class"].attrs["flag_values"]]
        told = ds["class"].attrs["flag_colors"].split()
        assert [tuple(bytes.fromhex(text[1:])) for text in told] == colors
        for name in ("plan_sha256", "model", "weights_sha256", "acquired_utc", "scenes"):
            assert ds.attrs[name] == tags[name]
        np.testing.assert_array_equal(ds["status"], read(mapped / "status.tif"))
        assert ds["status"].attrs["flag_meanings"].split() == [
            "outside", "classified", "cloudy", "failed", "unseen", "unknown"
        ]  # fmt: skip
        confidence = read_share(mapped / "confidence.tif")
        assert np.isnan(confidence).any()
        assert ds["confidence"].dtype == np.float32
        np.testing.assert_allclose(ds["confidence"], confidence, rtol=1e-6)
        for band, name in enumerate(("Dark", "Bright"), 1):
            share = read_share(mapped / "probabilities.tif", band)
            np.testing.assert_allclose(ds["probabilities"].sel(class_name=name), share, rtol=1e-6)
        cells = [int((ds["class"] == value).sum()) for value in (0, 1)]
        area_ha = ds["class"].attrs["area_ha"]
        report = json.loads((mapped / "run.json").read_text())
        assert area_ha == [entry["area_ha"] for entry in report["classes"]]
        assert (area_ha <= np.array(cells) * 0.64).all()  # cells reach beyond the imagery


def test_what_is_written_again_is_what_was_stored(mapped, tmp_path):
    with landuse.open_map(mapped) as ds:
        for name, file in (("class", "landuse.tif"), ("confidence", "confidence.tif")):
            ds[name].rio.to_raster(tmp_path / file)
            with rasterio.open(tmp_path / file) as written, rasterio.open(mapped / file) as first:
                np.testing.assert_array_equal(written.read(), first.read())
                assert (written.nodata, written.scales) == (first.nodata, first.scales)


def test_a_map_opens_by_its_raster_and_from_the_web(mapped):
    with landuse.open_map(mapped) as first, landuse.open_map(str(mapped / "landuse.tif")) as second:
        assert first.identical(second)
        with file_server(mapped.parent) as server, landuse.open_map(f"{server.url}/map/?key=1") as third:
            assert first.identical(third)


def test_colours_are_those_of_the_table_of_classes(mapped):
    from landuse.pipeline.maps.to_xarray import _flags

    told = _flags({entry.id: (entry.name, entry.color) for entry in EUROSAT})
    assert told["flag_colors"].split()[1] == "#1e6932"
    assert _flags({0: ('a "b" <c>', (0, 0, 0))})["flag_meanings"] == "a__b___c_"


def changed(mapped, tmp_path, change):
    folder = tmp_path / "changed"
    shutil.copytree(mapped, folder)
    change(folder)
    return folder


def report_of(**values):
    def change(folder):
        held = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(held | values))

    return change


def tagged(folder):
    with rasterio.open(folder / "confidence.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(plan_sha256="f" * 64)


def elsewhere(folder):
    with rasterio.open(folder / "status.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.transform = rasterio.Affine(80, 0, 0, 0, -80, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), "it has no run.json"),
        (lambda folder: (folder / "run.json").write_text("{"), "run.json in .* cannot be read"),
        (lambda folder: (folder / "run.json").write_text("[" * 100_000), "run.json in .* cannot be read"),
        (lambda folder: (folder / "run.json").write_text("[1]"), "does not list landuse.tif"),
        (lambda folder: (folder / "run.json").write_bytes(b"\xff\x00"), "run.json in .* cannot be read"),
        (report_of(files=5), "does not list landuse.tif, confidence.tif, status.tif"),
        (report_of(plan_sha256="0" * 64), "landuse.tif and run.json do not name the same plan_sha256"),
        (report_of(plan_sha256=None), "do not name the same plan_sha256"),
        (lambda folder: (folder / "status.tif").write_text("<VRTDataset/>"), "status.tif cannot be read"),
        (lambda folder: (folder / "confidence.tif").unlink(), "confidence.tif cannot be read"),
        (lambda folder: shutil.copy(folder / "image.tif", folder / "landuse.tif"), "landuse.tif has 3 bands"),
        (lambda folder: shutil.copy(folder / "status.tif", folder / "confidence.tif"), "with nodata 0"),
        (tagged, "confidence.tif and run.json do not name the same"),
        (elsewhere, "status.tif has no CRS, or another grid"),
    ],
)
def test_what_is_no_map_is_refused_with_one_error(mapped, tmp_path, change, message):
    with pytest.raises(landuse.LanduseError, match=message) as refused:
        landuse.open_map(changed(mapped, tmp_path, change))
    assert "make the map again" in str(refused.value).lower() or "Give the folder" in str(refused.value)


@pytest.mark.parametrize("areas", [None, 5, [5], [{"id": [], "area_ha": 1}], [{"id": 0, "area_ha": "much"}]])
def test_areas_that_are_none_are_not_believed(mapped, tmp_path, areas):
    with landuse.open_map(changed(mapped, tmp_path, report_of(classes=areas))) as ds:
        assert ds["class"].attrs["area_ha"] == [0.0, 0.0]


@pytest.mark.parametrize("location", [None, 5, b"map", "", ["map"]])
def test_what_names_no_place_is_refused(location):
    with pytest.raises(landuse.UsageError, match="from a path or a URL"):
        landuse.open_map(location)


def test_a_place_without_a_map_is_refused(tmp_path):
    with pytest.raises(landuse.UsageError, match="holds no finished map"):
        landuse.open_map(tmp_path / "nowhere")
    with file_server(tmp_path) as server, pytest.raises(landuse.LanduseError, match="404") as refused:
        landuse.open_map(f"{server.url}/nowhere?secret=1")
    assert "secret" not in str(refused.value)
    with pytest.raises(landuse.LanduseError):
        landuse.open_map("nonsense://bucket/map")
