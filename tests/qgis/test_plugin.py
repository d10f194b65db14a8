"""The plugin of QGIS without QGIS: its metadata, its files, how it starts `landuse`. Oracles: what QGIS asks
of a plugin's metadata, Python's compiler, a program that stands in for `landuse` and says what it was given.
"""

import ast
import configparser
import importlib.util
import subprocess
import sys
import time
import zipfile
from xml.etree import ElementTree

import pytest
from typer.main import get_command

import landuse
from landuse.cli import app
from tests.docs.pages import ROOT

PLUGIN = ROOT / "qgis" / "landuse_qgis"


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    try:
        spec.loader.exec_module(loaded)
    finally:
        del sys.modules[path.stem]
    return loaded


command = module(PLUGIN / "command.py")


@pytest.fixture
def stand_in(tmp_path):
    """A program in the place of `landuse`, of some lines of Python."""

    def write(code):
        path = tmp_path / "landuse"
        path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n", "utf-8")
        path.chmod(0o755)
        return str(path)

    return write


def test_metadata_is_what_qgis_asks_for():
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(PLUGIN / "metadata.txt", "utf-8")
    general = metadata["general"]
    for name in ("name", "qgisMinimumVersion", "description", "about", "version", "author", "icon"):
        assert general[name].strip()
    assert general["hasProcessingProvider"] == "yes"
    assert general["version"] == landuse.__version__
    assert (PLUGIN / general["icon"]).is_file()
    assert (PLUGIN / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_every_file_is_python_of_the_oldest_qgis():
    for path in PLUGIN.rglob("*.py"):
        ast.parse(path.read_text("utf-8"), feature_version=(3, 9))  # of QGIS 3.22 LTR
    for path in PLUGIN.rglob("*.qml"):
        root = ElementTree.parse(path).getroot()
        values = [float(item.attrib["value"]) for item in root.iter("item")]
        assert (values[0], values[-1], root.tag) == (0.0, 1.0, "qgis")
    assert command.style("confidence").endswith("styles/confidence.qml")
    assert command.style("landuse") is None  # its file has its colours


def test_options_of_the_algorithms_are_options_of_the_commands():
    """Every `options(name=...)` in the plugin, against the command that stands before it."""
    tree = ast.parse((PLUGIN / "algorithms.py").read_text("utf-8"))
    seen = set()
    for call in ast.walk(tree):
        if not (isinstance(call, ast.List) and call.elts and isinstance(call.elts[0], ast.Constant)):
            continue
        if len(call.elts) < 2 or not isinstance(getattr(call.elts[1], "value", None), ast.Call):
            continue
        name = call.elts[0].value
        known = {option for p in get_command(app).commands[name].params for option in p.opts}
        given = {f"--{word.arg.replace('_', '-')}" for word in call.elts[1].value.keywords}
        assert given <= known
        seen.add(name)
    assert seen == {"map", "change", "sample", "area", "compare"}


def test_the_zip_holds_the_plugin_and_is_the_same_each_time(tmp_path):
    pack = module(ROOT / "qgis" / "make_zip.py").pack
    first, second = pack(tmp_path / "a"), pack(tmp_path / "b")
    assert first.name == f"landuse_qgis-{landuse.__version__}.zip"
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    tracked = subprocess.run(
        ["git", "ls-files", "landuse_qgis"], cwd=ROOT / "qgis", capture_output=True, text=True, check=False
    )
    if tracked.returncode == 0 and tracked.stdout:
        assert names == set(tracked.stdout.split())
    assert {"landuse_qgis/metadata.txt", "landuse_qgis/__init__.py", "landuse_qgis/LICENSE"} <= names


def test_what_a_user_fills_in_is_never_another_option(stand_in):
    arguments = [
        "map",
        *command.options(date="--overwrite", aoi="", n=None, smooth=0.5, keep=False, json=True),
    ]
    arguments += command.paths("--help", "b c")
    answer = command.run(arguments, configured=stand_in("print(sys.argv[1:])"))
    assert ast.literal_eval(answer.out) == [
        "map", "--date=--overwrite", "--smooth=0.5", "--json", "--", "--help", "b c",
    ]  # fmt: skip


def test_progress_and_errors_come_through(stand_in):
    told = []
    failing = stand_in(
        "for line in ('searching', 'Error: No scene. Widen --date.'): print(line, file=sys.stderr)\n"
        "sys.exit(3)"
    )
    with pytest.raises(command.CommandError, match=r"^No scene. Widen --date\.$"):
        command.run([], configured=failing, tell=told.append)
    assert told == ["searching", "Error: No scene. Widen --date."]
    assert command.run([], configured=stand_in("sys.exit(4)")).code == command.INCOMPLETE
    with pytest.raises(command.CommandError, match="ended with 7"):
        command.run([], configured=stand_in("sys.exit(7)"))
    # A lot on both streams blocks neither.
    noisy = stand_in("[print('x' * 1000, file=f) for _ in range(500) for f in (sys.stdout, sys.stderr)]")
    assert len(command.run([], configured=noisy).out) == 500 * 1001


def test_cancelling_ends_the_program(stand_in):
    started = time.monotonic()
    with pytest.raises(command.CommandError, match="Cancelled"):
        command.run([], configured=stand_in("time.sleep(60)"), is_cancelled=lambda: True)
    assert time.monotonic() - started < 30


def test_the_program_is_the_one_that_is_set(stand_in, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv(command.SETTING, raising=False)
    with pytest.raises(command.CommandError, match=r"landuse is not on the PATH\. Install landuse"):
        command.run([])
    with pytest.raises(command.CommandError, match="'/no/such' is no program"):
        command.run([], configured="/no/such")
    path = stand_in("print(os.environ.get('PYTHONHOME'), os.environ.get('GDAL_DATA'))")
    monkeypatch.setenv("PYTHONHOME", "/of/qgis")
    monkeypatch.setenv("GDAL_DATA", "/of/qgis")
    monkeypatch.setenv(command.SETTING, path)
    assert command.run([]).out == "None None\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(command.SETTING)
    assert command.program() == path
