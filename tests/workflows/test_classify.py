"""Imagery that is held already. Oracle: what ``landuse map`` makes of the same files, cell by cell."""

from pathlib import Path

import dask.array
import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
import rioxarray
import xarray as xr

import landuse
from landuse.model import MAP_MODEL
from landuse.pipeline.blocks import plan
from landuse.workflows.mapping.map_area import load_classifier, map_area
from tests.workflows.patch_models import save_patch_model
from tests.workflows.pixel_models import DoubtingPixels
from tests.workflows.small_maps import SCENES, catalog_of, request

pytestmark = pytest.mark.slow

STATED = {"level": "L1C", "scale": 1e-4, "offset": 0.0}


@pytest.fixture(scope="module")
def orihuela(data_dir):
    return data_dir / SCENES["orihuela"][0]


@pytest.fixture(scope="module")
def patch_model(tmp_path_factory):
    """A small model of patches."""
    return str(save_patch_model(tmp_path_factory.mktemp("model") / "balanced-fast-rgb.safetensors"))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory, orihuela, patch_model):
    """The catalogue of the scene, and its maps by model, with probabilities."""
    folder = tmp_path_factory.mktemp("orihuela")
    source = catalog_of(folder, orihuela, level="L1C", acquired=SCENES["orihuela"][2])
    maps = {}
    for model in (MAP_MODEL, patch_model):
        out = folder / Path(model).stem
        map_area(request(folder, source, out=out, probabilities=True), load_classifier(model))
        maps[model] = landuse.open_map(out).load()
    return source, maps


def assert_same(found, expected):
    """Every variable and the grid; not the time and title, which held imagery does not state."""
    assert found.odc.geobox == expected.odc.geobox
    assert set(found.data_vars) == set(expected.data_vars)
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        assert found[name].dtype == expected[name].dtype
        assert {k: str(v) for k, v in found[name].attrs.items()} == {
            k: str(v) for k, v in expected[name].attrs.items()
        }
    for name in ("model", "weights_sha256", "level", "engine", "valid", "cloudy"):
        np.testing.assert_equal(found.attrs[name], expected.attrs[name])  # of nobody's clouds NaN


@pytest.mark.parametrize("chunks", [None, {"band": 5, "y": 173, "x": 131}])
def test_bands_that_rioxarray_opened_become_the_map_of_landuse_map(orihuela, mapped, chunks):
    with rioxarray.open_rasterio(orihuela, chunks=chunks) as bands:
        found = landuse.classify(bands, **STATED, probabilities=True)
    assert_same(found, mapped[1][MAP_MODEL])


@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")  # odc-geo's own
@pytest.mark.parametrize("chunks", [None, {"y": 149, "x": 211}])
def test_bands_that_odc_stac_loaded_become_the_map_of_landuse_map(mapped, chunks):
    source, maps = mapped
    items = list(pystac.Catalog.from_file(source).get_items(recursive=True))
    bands = odc.stac.load(items, chunks=chunks)
    assert set(bands.data_vars) >= {"B04", "B8A"}
    assert_same(landuse.classify(bands, **STATED, probabilities=True), maps[MAP_MODEL])


class Recorder:
    """An array that notes what is read of it."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.most = 0

    def __getitem__(self, key):
        part = self.values[key]
        self.most = max(self.most, part.size)
        return part


def test_imagery_is_read_block_by_block(orihuela, mapped, patch_model, monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_PX", 128)
    with rioxarray.open_rasterio(orihuela) as whole:
        recorder = Recorder(whole.values)
        chunked = dask.array.from_array(recorder, chunks=(13, 50, 70), asarray=False, fancy=False)
        bands = whole.copy(data=chunked)
    found = landuse.classify(bands, **STATED, model=patch_model, probabilities=True)
    assert_same(found, mapped[1][patch_model])
    assert recorder.most == 13 * 50 * 70


@pytest.fixture(scope="module")
def red(orihuela):
    """Red, green and blue as a Dataset with names of other kinds, in memory."""
    with rioxarray.open_rasterio(orihuela) as bands:
        return xr.Dataset({
            name: bands.isel(band=i, drop=True).drop_attrs(deep=False).load()
            for name, i in (("red", 3), ("B3", 2), ("B02_10m", 1))
        })  # fmt: skip


def told(bands, **attributes):
    return bands.assign({name: band.assign_attrs(attributes) for name, band in bands.data_vars.items()})


def test_names_scales_and_shapes_that_mean_the_same_give_the_same(red, orihuela):
    expected = landuse.classify(red, **STATED)
    for same, stated in (
        (red.assign(visual=red["red"], other=("k", [1])), STATED),
        (red.expand_dims("time"), STATED),
        (red.transpose("x", "y"), STATED),
        (red * np.float32(1e-4), {"level": "L1C", "scale": 1.0, "offset": 0.0}),
        (red + np.uint16(1000), {"level": "L1C", "scale": 1e-4, "offset": -0.1}),
        (
            told(red + np.uint16(1000), scale_factor=1e-4, add_offset=-0.1),
            {"level": "L1C"},
        ),
        (
            red.rename(red="SR_B4", B3="SR_B3", B02_10m="SR_B2").assign(SR_B9=red["red"]),
            STATED,
        ),
        (red.to_dataarray("band"), STATED),
    ):
        assert_same(landuse.classify(same, **stated), expected)


@pytest.mark.parametrize("chunks", [None, 100])
def test_pixels_that_contradict_what_is_stated_are_refused(orihuela, red, chunks, caplog):
    """As on the command line. The oracle is the scene, which is L1C without an offset."""
    bands = red if chunks is None else red.chunk(chunks)
    with pytest.raises(landuse.UsageError, match=r"below zero .* With scale=0\.0001 and offset=0 they are"):
        landuse.classify(bands, level="L1C", scale=1e-4, offset=-0.1)
    with pytest.raises(landuse.UsageError, match=r"The imagery's middle: .* With scale="):
        landuse.classify(bands, level="L1C", scale=1.0, offset=0.0)
    with (
        rioxarray.open_rasterio(orihuela) as whole,
        pytest.raises(landuse.UsageError, match="has no band B10"),
    ):
        landuse.classify(whole, level="L2A", scale=1e-4, offset=0.0)
    landuse.classify(bands, **STATED)
    assert "Not every scene offers" in caplog.text


@pytest.mark.parametrize(("near", "told"), [(9000, "100.0 % of what is mapped is unlike"), (1000, "")])
def test_what_is_unlike_the_models_training_is_told(monkeypatch, red, near, told, caplog):
    """By a model that doubts each pixel by its own near infrared."""
    monkeypatch.setattr("landuse.workflows.classify.load_classifier", lambda *_: DoubtingPixels())
    bands = xr.Dataset({"B04": red["red"], "B08": xr.full_like(red["red"], near)})
    found = landuse.classify(bands, **(STATED | {"level": "L2A"}))
    assert (found["doubt"] > 0.5).all() == bool(told)
    assert [told] * bool(told) == [
        record.message[: len(told)] for record in caplog.records if "unlike" in record.message
    ]


def test_what_is_nodata_gets_no_class(red):
    holed = red.copy(deep=True)
    holed["B3"][:300] = 0
    found = landuse.classify(holed, **STATED)
    assert int((found["class"] == 255).sum()) > 300
    masked = (holed * 1e-4).where(holed > 0)
    assert_same(landuse.classify(masked, level="L1C", scale=1.0, offset=0.0), found)
    by_name = landuse.classify(told(holed.where(holed > 0, 9), _FillValue=9), **STATED)
    assert_same(by_name, found)
    for told_so in ({"missing_value": 9}, {"nodata": None, "_FillValue": np.array([9])}, {"nodata": "9"}):
        assert_same(landuse.classify(told(holed.where(holed > 0, 9), **told_so), **STATED), found)


@pytest.mark.parametrize(
    ("change", "stated", "message"),
    [
        (lambda ds: told(ds, nodata="none"), STATED, "nodata of band B0[234] is 'none', not one number"),
        (
            lambda ds: told(ds, nodata=[1, 2]),
            STATED,
            r"nodata of band B0[234] is \[1, 2\], not one",
        ),
        (lambda ds: None, STATED, "Imagery is an xarray.DataArray or Dataset, not NoneType"),
        (lambda ds: ds["red"].values, STATED, "not ndarray"),
        (lambda ds: ds.drop_vars("spatial_ref").drop_encoding(), STATED, "not georeferenced"),
        (
            lambda ds: ds.rename(red="near", B3="a", B02_10m="b"),
            STATED,
            "No band of Sentinel-2 is among 'near'",
        ),
        (lambda ds: ds.assign(B04=ds["red"]), STATED, "Band B04 is there more than once"),
        (lambda ds: ds.rename(red="SR_B4"), STATED, "'SR_B4' may be Landsat's"),
        (lambda ds: ds.drop_vars("B3"), STATED, "needs B04, B03, B02; the imagery has B04, B02"),
        (lambda ds: ds.expand_dims(time=2), STATED, "dimensions time, y, x"),
        (lambda ds: ds.to_dataarray("band").assign_coords(band=[1, 2, 3]), STATED, "3 bands have no names"),
        (lambda ds: ds.isel(y=slice(None, None, -1)), STATED, "north-up"),
        (lambda ds: ds.assign_coords(x=ds["x"] + 5), STATED, "corners on multiples of 10 m"),
        (lambda ds: ds.isel(x=slice(None, None, 2)), STATED, "pixels of 20 x -10"),
        (lambda ds: ds.odc.assign_crs("EPSG:3857"), STATED, "in EPSG:3857"),
        (lambda ds: ds > 5, STATED, "is bool"),
        (lambda ds: ds, {"level": "L1C"}, "Scale or offset of band B04 is not stated"),
        (lambda ds: ds, {"level": "L1C", "scale": 1e-4}, "Scale or offset of band B04 is not stated"),
        (lambda ds: ds, STATED | {"scale": "1e-4"}, "scale '1e-4' is no number"),
        (lambda ds: ds, STATED | {"offset": -1000}, "offset -1000, which is in reflectance"),
        (lambda ds: ds, STATED | {"scale": float("nan")}, "Scale nan must be above 0"),
        (lambda ds: ds, STATED | {"level": "L2"}, "Level 'L2' is unknown"),
        (lambda ds: ds, STATED | {"level": None}, "Level None is unknown"),
        (lambda ds: ds, STATED | {"model": 5}, "Model 5 is neither a name nor a path"),
        (lambda ds: ds, STATED | {"model": "nonsense"}, "nonsense"),
        (lambda ds: ds, STATED | {"stride_px": "16"}, "stride_px '16' is no whole number"),
        (lambda ds: ds, STATED | {"model": "balanced-fast-rgb", "stride_px": 7}, "does not divide"),
        (lambda ds: ds, STATED | {"device": "abacus"}, "abacus"),
    ],
)
def test_what_does_not_fit_or_is_not_stated_is_refused(red, change, stated, message):
    with pytest.raises(landuse.UsageError, match=message):
        landuse.classify(change(red), **stated)


def test_the_scene_is_as_the_tests_say(orihuela):
    with rasterio.open(orihuela) as file:
        assert file.descriptions[:4] == ("B01", "B02", "B03", "B04")
