"""The algorithms in QGIS itself, without a window; `make qgis-test` runs these. Oracles: the files that
`landuse` wrote, rasterio, what QGIS says of its layers.

QGIS comes from the distribution (Debian: apt install qgis python3-qgis). Where it is missing they are
skipped, in the CI too.
"""

import json
import os
import shutil
import subprocess
import sys

import geopandas as gpd
import numpy as np
import pytest
import rasterio

from landuse.classes import LAND_USE_NAMES
from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow

# Debian's qgis_process hands on an option of the window's program that it does not know.
QGIS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
PYTHON = "/usr/bin/python3"
"""The one that QGIS of the distribution has its modules in."""


@pytest.fixture(scope="module")
def qgis(tmp_path_factory):
    """Runs an algorithm and returns its results; its profile is its own and has the plugin enabled."""
    if QGIS is None:
        pytest.skip("needs QGIS: qgis_process is not on the PATH (Debian: apt install qgis python3-qgis)")
    home = tmp_path_factory.mktemp("home")
    program = home / "landuse"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m landuse "$@"\n', "utf-8")
    program.chmod(0o755)
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "QT_QPA_PLATFORM": "offscreen",
        "QGIS_PLUGINPATH": str(ROOT / "qgis"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANDUSE_COMMAND": str(program),
    }

    def call(*arguments, command=QGIS):
        return subprocess.run(
            [command, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    assert "landuse_qgis" in call("plugins", "list").stdout
    call("plugins", "enable", "landuse_qgis")

    def run(name, **parameters):
        given = [f"{key}={value}" for key, value in parameters.items()]
        done = call("run", f"landuse:{name}", "--json", "--", *given)
        if done.returncode:
            return done.stdout + done.stderr
        return json.loads(done.stdout[done.stdout.index("{") :])["results"]

    run.call = call
    return run


@pytest.fixture(scope="module")
def mapped(qgis, demo_catalog, tmp_path_factory):
    """A small map that QGIS made, and its results."""
    out = tmp_path_factory.mktemp("qgis") / "map"
    with rasterio.open(demo_catalog.truth) as truth:
        left, top = truth.transform.c, truth.transform.f
        crs = truth.crs.to_string()
    extent = f"{left + 500},{left + 1700},{top - 1700},{top - 500} [{crs}]"
    return qgis("map", SOURCE=demo_catalog.catalog, EXTENT=extent, OUT=out, LOAD="false"), out


def test_five_algorithms_are_in_the_toolbox(qgis):
    listed, names = qgis.call("list").stdout, ("map", "change", "sample", "accuracy", "compare")
    assert [name for name in names if f"landuse:{name}	" not in listed] == []


def test_a_map_is_made_of_an_extent_in_another_crs(mapped):
    results, out = mapped
    assert results["LANDUSE"] == str(out / "landuse.tif")
    assert results["POLYGONS"] == f"{out / 'landuse.gpkg'}|layername=landuse"
    with rasterio.open(results["LANDUSE"]) as file:
        assert file.tags()["engine"] == "pixels"
        assert all(115 <= side <= 130 for side in file.shape)
        assert (file.read(1) != 255).mean() > 0.5


def test_points_are_drawn_labelled_and_judged(qgis, mapped, tmp_path):
    _, out = mapped
    points = tmp_path / "points.gpkg"
    results = qgis("sample", MAP=out, N=120, MIN_PER_CLASS=2, OUT=points, LOAD="false")
    assert isinstance(results, dict), results
    assert results["POINTS"] == f"{points}|layername=samples"
    frame = gpd.read_file(points, layer="samples")
    with rasterio.open(out / "landuse.tif") as file:
        values = file.read(1)[frame["row"], frame["col"]]
    frame["reference"] = [LAND_USE_NAMES[value] for value in values]
    labelled = tmp_path / "labelled.gpkg"
    frame.to_file(labelled)
    report = qgis("accuracy", MAP=out, SAMPLES=labelled, OUT=tmp_path / "area.json")
    assert isinstance(report, dict), report
    assert np.isclose(report["OVERALL"], 1.0)
    assert report["LOW"] < report["HIGH"] <= 1.0
    assert json.loads((tmp_path / "area.json").read_text("utf-8"))


def test_a_map_is_compared_and_errors_are_told(qgis, mapped, tmp_path):
    _, out = mapped
    results = qgis("compare", MAP=out, REFERENCE=out / "landuse.tif", OUT=tmp_path / "compare", LOAD="false")
    assert results["DISAGREEMENT"] == str(tmp_path / "compare" / "disagreement.tif")
    assert json.loads((tmp_path / "compare" / "compare.json").read_text("utf-8"))
    told = qgis("change", BEFORE=out, AFTER=out, OUT=tmp_path / "change", LOAD="false")
    assert "has no probabilities.tif" in told


def test_styles_are_read_by_qgis(qgis, mapped):
    _, out = mapped
    code = f"""
import os
from qgis.core import QgsApplication, QgsRasterLayer, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsRasterLayer({str(out / "confidence.tif")!r}, "c")
_, well = layer.loadNamedStyle({str(ROOT / "qgis/landuse_qgis/styles/confidence.qml")!r})
shader = layer.renderer().shader().rasterShaderFunction()
polygons = QgsVectorLayer({str(out / "landuse.gpkg|layername=landuse")!r}, "p", "ogr")
print(well, layer.renderer().type(), shader.maximumValue(), len(shader.colorRampItemList()))
print(polygons.renderer().type())
classes = QgsRasterLayer({str(out / "landuse.tif")!r}, "l")
print(classes.renderer().type(), flush=True)
os._exit(0)  # QGIS may fall over layers at its end
"""
    done = qgis.call("-c", code, command=PYTHON)
    expected = ["True singlebandpseudocolor 1.0 5", "categorizedSymbol", "paletted"]
    assert done.stdout.splitlines() == expected, done.stderr
