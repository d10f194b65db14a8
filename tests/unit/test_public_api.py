"""What ``import landuse`` gives. Oracle: the names and modules written out below."""

import subprocess
import sys

import pytest

import landuse

PUBLIC = {
    "ChangeReport",
    "CompareReport",
    "ForeignModel",
    "IncompleteError",
    "LanduseError",
    "ModelError",
    "NothingFoundError",
    "OutputError",
    "ProviderError",
    "ReadError",
    "UsageError",
    "LearnReport",
    "MapReport",
    "ZonesReport",
    "__version__",
    "change",
    "classify",
    "compare",
    "learn",
    "map",
    "open_map",
}


def test_the_public_names_are_these():
    assert set(landuse.__all__) == PUBLIC
    assert set(dir(landuse)) >= PUBLIC
    for name in PUBLIC:
        assert getattr(landuse, name).__doc__
        if name != "__version__":
            assert getattr(landuse, name).__module__.startswith("landuse.")


def test_any_other_name_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'landuse' has no attribute 'open_maps'"):
        _ = landuse.open_maps


def test_import_landuse_imports_nothing_heavy():
    code = "import sys, landuse; dir(landuse); landuse.LanduseError; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in told.split()}
    assert loaded & {"torch", "rasterio", "xarray", "rioxarray", "odc", "numpy", "dask", "shapely"} == set()
    assert {name for name in told.split() if name.startswith("landuse")} == {"landuse", "landuse.errors"}
