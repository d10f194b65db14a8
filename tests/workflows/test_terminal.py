"""The command on a terminal, without one, quiet, and completed by a shell.

Oracles: a pseudo-terminal of the system, what it was told to erase and to draw; bash itself; the sets of
values that the code accepts.
"""

import json
import logging
import re
import subprocess

import numpy as np
import pytest
import rasterio
import typer
from affine import Affine

from landuse.classes import EUROSAT
from landuse.cli import app
from landuse.commands.training import PIXEL_NETWORK
from landuse.contract import PREPROCESSES
from landuse.model import PRECISIONS, shipped_models
from landuse.model.bands import BAND_SETS
from landuse.model.networks import NETWORKS
from landuse.model.training.labels.losses import LOSSES
from landuse.pipeline.blocks.plan import COMPOSITES, FUSIONS
from landuse.pipeline.providers import PROVIDERS
from landuse.pipeline.search.season import SEASONS as MAP_SEASONS
from landuse.pipeline.write.geopackage import SUFFIXES
from landuse.sentinel2 import LEVELS
from landuse.workflows.demo.spectra import SEASONS
from landuse.workflows.training.eurosat import ARCHIVES
from tests.commands import LANDUSE, spawn
from tests.terminals import on_terminal
from tests.workflows.patch_models import save_patch_model
from tests.workflows.small_maps import catalog_of


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A catalogue of 8 x 9 cells of 160 m, whose imagery has no cloud mask, which is warned of."""
    folder = tmp_path_factory.mktemp("scene")
    fields = np.random.default_rng(5).integers(300, 1500, (3, 4, 3)).repeat(32, 1).repeat(48, 2)
    with rasterio.open(
        folder / "fields.tif", "w", driver="GTiff", dtype="uint16", count=3, height=128, width=144,
        crs="EPSG:32633", transform=Affine(10, 0, 512_320, 0, -10, 5_310_080), nodata=0,
    ) as file:  # fmt: skip
        file.write(fields.astype(np.uint16))
        file.descriptions = ("B04", "B03", "B02")
    return catalog_of(folder, folder / "fields.tif")


@pytest.fixture(scope="module")
def patch_model(tmp_path_factory):
    """A small model of patches."""
    return save_patch_model(tmp_path_factory.mktemp("model") / "balanced-fast-rgb.safetensors")


@pytest.fixture
def options(source, patch_model, tmp_path):
    """A map of six blocks, by a model of patches."""
    model = ("--model", patch_model)
    return ("map", "--source", source, *model, "--out", tmp_path / "map", "--block-px", "64")


def test_a_terminal_shows_stages_and_keeps_the_table(options, tmp_path):
    shown = on_terminal(*options)
    assert shown.code == 0
    for told in ("searching", "looking at clouds", "classifying", "6/6 blocks, ", "patches/s", "writing"):
        assert told in shown.raw
    assert shown.raw.count("\x1b[?25l") == shown.raw.count("\x1b[?25h") == 1  # the cursor comes back
    left = shown.left
    assert left[0].startswith("WARNING landuse.workflows.mapping.map_area: ")
    done = next(row for row, line in enumerate(left) if line.startswith("done in 0:"))
    assert not [line for line in left if re.match("searching|looking|classifying|writing", line)]
    assert left[done + 1].split() == ["class", "area", "ha", "share"]
    areas = {line.split()[0]: line.split()[1] for line in left[done + 2 :] if line.endswith("%")}
    report = json.loads((tmp_path / "map" / "run.json").read_text())
    assert areas == {entry["name"]: f"{entry['area_m2'] / 1e4:,.2f}" for entry in report["classes"]}
    assert "38;5;237" in shown.colors  # of the bar: the test of NO_COLOR would see it
    # Each class beside its colour on the map.
    colors = {entry.name: entry.color for entry in EUROSAT}
    for name in areas:
        assert re.search(r"\x1b\[48;2;{};{};{}m  \x1b\[0m +{} ".format(*colors[name], name), shown.raw)
    assert sum(line.startswith("wrote   ") for line in left) == len(report["files"])


def test_no_color_is_respected(options):
    shown = on_terminal(*options, NO_COLOR="1")
    assert shown.code == 0
    assert "classifying" in shown.raw
    assert shown.colors == []
    row = next(line for line in shown.left if line.endswith("%"))
    assert row.split()[0] in {entry.name for entry in EUROSAT}
    assert row[0] != " "  # no room is left for a colour that is not shown


@pytest.mark.parametrize(("cols", "environment"), [(100, {"TERM": "dumb"}), (24, {})], ids=["dumb", "narrow"])
def test_a_dumb_or_narrow_terminal_gets_lines(options, cols, environment):
    shown = on_terminal(*options, cols=cols, **environment)
    assert shown.code == 0
    assert "classifying: 6/6 blocks, " in shown.raw
    assert "━" not in shown.raw
    assert all(re.search(r"\d+\.\d\d +\d+\.\d%", line) for line in shown.left if line.endswith("%"))
    if environment:
        assert "\x1b" not in shown.raw


def test_json_stays_alone_on_stdout_beside_a_bar_on_the_terminal(options, tmp_path):
    shown = on_terminal(*options, "--json", pipe_stdout=True)
    assert shown.code == 0
    assert json.loads(shown.out) == json.loads((tmp_path / "map" / "run.json").read_text())
    assert "━" in shown.raw
    assert shown.left[-1].startswith("done in ")


def test_a_log_shows_life_and_a_pipe_the_plain_report(options):
    shown = spawn(*options, FORCE_COLOR="1")
    assert shown.code == 0
    assert "\x1b" not in shown.out + shown.err
    told = [line for line in shown.err.splitlines() if not line.startswith("WARNING")]
    assert told[:3] == ["searching", "looking at clouds", "classifying: 0/6 blocks"]
    assert told[-3].startswith("classifying: 6/6 blocks, ")
    assert told[-2] == "writing"
    assert re.fullmatch(r"done in \d:\d\d:\d\d; \d+ patches", told[-1])
    assert re.match(r"class +area ha +share\n", shown.out)


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_leaves_the_result_and_errors(options, place):
    shown = spawn(*(("-q", *options) if place == "before" else (*options, "--quiet")))
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("class ")


def test_quiet_is_not_silent_about_an_error(run):
    shown = run("map", "-q", "--source", "nowhere")
    assert (shown.code, shown.err) == (2, f"Error: {shown.error}\n")


def test_quiet_and_verbose_exclude_each_other(run, options):
    shown = run("-v", "-q", *options)
    assert (shown.code, shown.out) == (2, "")
    assert shown.error == "--quiet and --verbose are both given. Give one."


def test_verbose_logs_info(options):
    shown = spawn("-v", *options)
    assert shown.code == 0
    told = "1 scenes, bands B04, B03, B02; 8 x 9 cells in 6 blocks"
    assert f"INFO landuse.workflows.mapping.map_area: {told}" in shown.err.splitlines()


ACCEPTED = {
    ("map", "composite"): COMPOSITES,
    ("map", "fuse"): FUSIONS,
    ("map", "season"): MAP_SEASONS,
    ("map", "source"): PROVIDERS,
    ("map", "vector_format"): SUFFIXES,
    ("map", "model"): shipped_models(),
    ("map", "device"): ("auto", "cpu", "cuda"),
    ("map", "precision"): PRECISIONS,
    ("demo", "model"): shipped_models(),
    ("demo", "season"): SEASONS,
    ("catalog", "level"): LEVELS,
    ("train", "level"): LEVELS,
    ("train", "network"): (*NETWORKS, PIXEL_NETWORK),
    ("train", "bands"): BAND_SETS,
    ("train", "precision"): ("auto", "bf16", "fp32"),
    ("train", "init"): shipped_models(),
    ("evaluate", "model"): shipped_models(),
    ("evaluate", "level"): LEVELS,
    ("train", "preprocess"): PREPROCESSES,
    ("train", "loss"): LOSSES,
    ("train", "keep"): ("last", "best"),
    ("predict", "model"): shipped_models(),
    ("predict", "level"): LEVELS,
    ("thresholds", "model"): shipped_models(),
    ("thresholds", "level"): LEVELS,
    ("data eurosat", "bands"): ARCHIVES,
}


@pytest.mark.parametrize(("command", "option"), ACCEPTED)
def test_what_is_completed_is_what_is_accepted(command, option):
    found = typer.main.get_command(app)
    for name in command.split():
        found = found.commands[name]
    (parameter,) = (p for p in found.params if p.name == option)
    completed = parameter.shell_complete(typer.Context(found), "")
    assert [item.value for item in completed] == list(ACCEPTED[command, option])


def completed_by_bash(*words):
    """What bash offers for the last word, through the function that ``--show-completion`` gives it."""
    script = (
        'eval "$(_LANDUSE_COMPLETE=source_bash "$1")"; shift; COMP_WORDS=(landuse "$@"); COMP_CWORD=$#; '
        'PATH="$FOLDER:$PATH" _landuse_completion landuse; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", LANDUSE, *words],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env={"FOLDER": str(LANDUSE.parent), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_commands_options_and_values():
    assert completed_by_bash("ma") == ["map"]
    assert completed_by_bash("map", "--comp") == ["--composite"]
    assert completed_by_bash("map", "--composite", "") == ["best", "median", "medoid"]
    assert completed_by_bash("map", "--bands", "rgb-") == ["rgb-nir"]


def test_zsh_is_given_the_values():
    shown = spawn(_LANDUSE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="landuse catalog x.tif --level L")
    assert (shown.code, shown.err) == (0, "")
    assert re.findall(r'"(\w+)"', shown.out) == ["L1C", "L2A"]


def test_completion_is_installed_for_the_shell_that_asks(tmp_path):
    done = subprocess.run(
        ["bash", "--norc", "-c", '"$1" --install-completion; echo $?', "bash", LANDUSE],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == ""
    assert (
        done.stdout.splitlines()[0] == f"bash completion installed in {tmp_path}/.bash_completions/landuse.sh"
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert "landuse.sh" in (tmp_path / ".bashrc").read_text()
    subprocess.run(["bash", "-n", tmp_path / ".bash_completions" / "landuse.sh"], check=True)


def test_a_log_line_carries_no_token_and_stays_one_line():
    from landuse.cli import _LogFormatter

    record = logging.LogRecord("rasterio", 30, "", 0, "%s", ("https://u:p@x.org/a?sig=1\n\x1b[31m",), None)
    assert _LogFormatter("%(message)s").format(record) == "https://x.org/a ?[31m"
