"""Oracle: what each record says of itself, value by value."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from landuse import contract, errors
from landuse.classes import EUROSAT, EUROSAT_NAMES
from landuse.contract import LearnedClasses, LevelInput, ModelContract, PixelOutputs
from landuse.model.bands import EUROSAT_TIFF
from landuse.pipeline import cells, scene
from landuse.pipeline.cells import NODATA_ID, Block
from landuse.pipeline.scene import BandAsset, Scene
from landuse.sentinel2 import BANDS, RESOLUTION_M

CONTRACT = ModelContract(
    name="model",
    bands=("B04", "B03"),
    levels=(LevelInput(level="L2A", gain=(1.0, 1.0), offset_dn=(0.0, 0.0)),),
    saturation_dn=(2750.0,) * 2,
    mean=(0.3, 0.4),
    std=(0.2, 0.1),
    classes=("a", "b"),
    patch_size_px=64,
    resolution_m=10.0,
)
SCENE = Scene(
    id="../../S2",
    provider="local",
    acquired_utc=datetime(2021, 7, 1, 10, 30, tzinfo=UTC),
    level="L2A",
    baseline="03.00",
    cloud_percent=1.5,
    footprint=(((13.0, 48.0), (13.1, 48.0), (13.1, 48.1), (13.0, 48.0)),),
    crs="EPSG:32633",
    bounds_m=(0.0, 0.0, 100.0, 200.0),
    assets=(BandAsset(band="B04", href="red.tif"), BandAsset(band="SCL", href="scl.tif", scale=1.0)),
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bands": ()}, "unique and at least one"),
        ({"bands": ("B04", "B04")}, r"\('B04', 'B04'\) must be unique"),
        ({"bands": ("B04", "B03", "B02")}, "needs 3 entries"),
        ({"mean": (0.3,)}, "needs 2 entries"),
        ({"levels": (LevelInput(level="L2A", gain=(1.0,), offset_dn=(0.0, 0.0)),)}, "needs 2 entries"),
        ({"levels": ()}, "at least one processing level"),
        ({"std": (0.2, 0.0)}, "must be above 0"),
        ({"std": (0.2, NAN)}, "finite"),
        ({"mean": (INF, 0.4)}, "finite"),
        ({"levels": (LevelInput(level="L2A", gain=(1.0, NAN), offset_dn=(0.0, 0.0)),)}, "finite"),
        ({"saturation_dn": (2750.0, 0.0)}, "must be above 0"),
        ({"saturation_dn": (INF, 1.0)}, "finite"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"temperature": NAN}, "finite"),
        ({"classes": ("a",)}, "1 classes; a class raster holds 2 to 255"),
        ({"classes": tuple(map(str, range(256)))}, "256 classes"),
        ({"classes": ("a", "a")}, "different"),
        ({"patch_size_px": 0}, "patch_size_px 0 is not in 1 to 512 px"),
        ({"resolution_m": 0.0}, "resolution_m 0 is not in 1 to 1000"),
        ({"patch_size_px": 10**18}, "1000000000000000000 is not in 1 to 512 px"),
        ({"patch_size_px": 4096}, "4096 is not in"),
        ({"resolution_m": 1e18}, r"1e\+18 is not in"),
        (
            {"levels": (LevelInput(level="L2A", gain=(1.0, 1e300), offset_dn=(0.0, 0.0)),)},
            r"gain of L2A 1e\+300",
        ),
        ({"levels": (LevelInput(level="L2A", gain=(1.0, 0.0), offset_dn=(0.0, 0.0)),)}, "gain of L2A 0 "),
        ({"levels": (LevelInput(level="L2A", gain=(1.0, 1.0), offset_dn=(0.0, -1e9)),)}, "offset_dn of L2A"),
        ({"levels": (LevelInput(level="L3", gain=(1.0, 1.0), offset_dn=(0.0, 0.0)),)}, r"\['L3'\] must be"),
        ({"saturation_dn": (2750.0, 1e9)}, r"saturation_dn 1e\+09"),
        ({"mean": (0.3, 7.0)}, "mean 7 is not"),
        ({"std": (0.2, 1e-30)}, "std 1e-30 is not"),
        ({"temperature": 1e9}, r"temperature 1e\+09"),
        ({"bands": ("B04", "../B03")}, r"\['../B03'\] are not among B01"),
        ({"name": "-1"}, "model '-1' is no name"),
        ({"name": "[]"}, r"model '\[\]' is no name"),
        ({"name": "../../x"}, "model '../../x' is no name"),
        ({"name": "a/b"}, "model 'a/b' is no name"),
        ({"name": "a:b"}, "model 'a:b' is no name"),
        ({"name": "x" * 100_000}, "is no name"),
        ({"classes": ("a", "<b>")}, "class '<b>' is no name"),
    ],
)
def test_a_contract_is_checked_at_birth(values, message):
    with pytest.raises(ValueError, match=message):
        replace(CONTRACT, **values).check_names()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colors": ((0, 0, 0),)}, "1 colours of learned classes"),
        ({"colors": ((0, 0, 0), (0, 0, 256))}, r"colour \(0, 0, 256\) is not three whole numbers"),
        ({"colors": ((0, 0, 0), (0, 0, True))}, "is not three whole numbers"),
        ({"colors": ((0, 0, 0), (0, 0))}, "is not three whole numbers"),
        ({"temperature": 0.0}, "temperature of learned classes 0 is not in"),
        ({"temperature": NAN}, "temperature of learned classes nan"),
    ],
)
def test_learned_classes_are_checked_at_birth(values, message):
    with pytest.raises(ValueError, match=message):
        LearnedClasses(**({"colors": ((0, 0, 0), (1, 2, 3))} | values))


def test_learned_classes_need_a_network_of_pixels_and_a_colour_each():
    learned = LearnedClasses(colors=((0, 0, 0), (1, 2, 3)))
    with pytest.raises(ValueError, match="need a network of pixels"):
        replace(CONTRACT, learned=learned)
    outputs = PixelOutputs(covers=("x", "y"), uses_of_covers=(("u",), ("v", "w")), uses=("v", "w"))
    own = replace(CONTRACT, pixels=outputs, learned=learned)  # its classes are no uses of the covers
    assert own.colors == learned.colors
    assert CONTRACT.colors == ()
    with pytest.raises(ValueError, match="3 colours for 2 learned classes"):
        replace(own, learned=LearnedClasses(colors=((0, 0, 0),) * 3))
    replace(own, classes=("Wald/Forst", "Acker: Mais")).check_names()
    with pytest.raises(ValueError, match=r"classes '/a', '<b>' are no names: .* digits, blanks and _\.,:/&"):
        replace(own, classes=("/a", "<b>")).check_names()


def test_a_contract_knows_its_levels():
    assert CONTRACT.level_input("L2A") is CONTRACT.levels[0]
    assert CONTRACT.level_input("L1C") is None


def test_a_scene_keeps_the_provider_s_id_and_finds_its_assets():
    assert SCENE.id == "../../S2"
    assert SCENE.bands == ("B04", "SCL")
    assert SCENE.asset("SCL") is SCENE.assets[1]
    assert SCENE.asset("B08") is None


@pytest.mark.parametrize("zone", [None, timezone(timedelta(hours=2))])
def test_acquisition_times_are_utc(zone):
    with pytest.raises(ValueError, match="is not in UTC"):
        replace(SCENE, acquired_utc=datetime(2021, 7, 1, tzinfo=zone))


@pytest.mark.parametrize(
    "values",
    [{"scale": 0.0}, {"scale": -1e-4}, {"scale": NAN}, {"scale": INF}, {"offset": NAN}, {"index": 0}],
)
def test_an_asset_s_scale_offset_and_index_are_checked(values):
    with pytest.raises(ValueError, match="band B04"):
        BandAsset(band="B04", href="red.tif", **values)


def test_an_asset_may_have_no_nodata_or_nan():
    assert BandAsset(band="B04", href="red.tif", nodata=None).nodata is None
    assert np.isnan(BandAsset(band="B04", href="red.tif", nodata=NAN).nodata)


def test_a_block_s_name_is_unique_and_safe():
    blocks = [
        Block(row_start=r, row_stop=r + 3, col_start=c, col_stop=c + 2)
        for r in (0, 3, 1_000_000)
        for c in (0, 11, 110)
    ]
    names = [block.name for block in blocks]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() for name in names)
    assert {block.shape for block in blocks} == {(3, 2)}


def test_records_are_frozen_slotted_keyword_only_and_documented():
    classes = [c for module in (contract, scene, cells) for c in vars(module).values() if is_dataclass(c)]
    assert len(classes) >= 6
    for record in classes:
        assert record.__dataclass_params__.frozen, record
        assert "__slots__" in vars(record), record
        assert all(field.kw_only for field in fields(record)), record
        assert record.__doc__, record
    with pytest.raises(FrozenInstanceError):
        SCENE.id = "other"


def test_exit_codes_are_the_documented_ones():
    expected = {
        "LanduseError": 1,
        "OutputError": 1,
        "UsageError": 2,
        "ModelError": 2,
        "NothingFoundError": 3,
        "IncompleteError": 4,
        "ProviderError": 5,
        "ReadError": 5,
    }
    tree = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception)}
    assert all(issubclass(c, errors.LanduseError) for c in tree.values())
    assert {name: tree[name].exit_code for name in expected} == expected


def test_classes_are_numbered_in_the_order_of_eurosat_s_folders():
    assert [c.id for c in EUROSAT] == list(range(10))
    assert list(EUROSAT_NAMES) == sorted(EUROSAT_NAMES)
    assert NODATA_ID not in {c.id for c in EUROSAT}
    assert len({c.color for c in EUROSAT}) == 10  # told apart on a map
    assert all(0 <= value <= 255 for c in EUROSAT for value in c.color)


def test_bands_are_the_msi_s():
    # ESA, Sentinel-2 MSI: four bands at 10 m, six at 20 m, three at 60 m.
    assert sorted(b for b, m in RESOLUTION_M.items() if m == 10) == ["B02", "B03", "B04", "B08"]
    assert sorted(b for b, m in RESOLUTION_M.items() if m == 60) == ["B01", "B09", "B10"]
    assert sum(m == 20 for m in RESOLUTION_M.values()) == 6
    assert sorted(EUROSAT_TIFF) == sorted(BANDS)
    assert EUROSAT_TIFF[-1] == "B8A"
