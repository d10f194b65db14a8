"""The command line as a user meets it: what is printed where, exit codes, files left behind.

Oracles: the design's exit codes, click's own list of options, rasterio's windows and warper.
"""

import json
import pickle
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import rustac
import shapely
import typer
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds, transform_geom
from rich.filesize import decimal
from scipy.ndimage import distance_transform_edt
from starlette.responses import PlainTextResponse

import landuse
from landuse.cli import app
from landuse.model import DEFAULT_MODEL
from landuse.model.checkpoint import model_path
from tests.commands import LANDUSE, Ran, spawn
from tests.servers import file_server, free_port
from tests.warm import Warm
from tests.workflows.patch_models import save_patch_model

INN = "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif"
ORIHUELA = "scenes/orihuela_es_L1C_20190918_13b_utm30n.tif"
ORIHUELA_LONLAT = "scenes/orihuela_es_L1C_20190918_13b_epsg4326.tif"
EXETER_BNG = "scenes/exeter_gb_2024_cloudy/exe_2024-06-02_12-21-19_EPSG27700.tif"
EXETER_CLOUDY = "scenes/exeter_gb_2024_cloudy/exe_2024-06-17_12-21-21_UTM.tif"
LEFT_M, TOP_M = 512_320, 5_310_080  # on the 160 m lattice of UTM zone 33 north
COMMANDS = sorted(typer.main.get_command(app).commands)


def write_raster(path, values, names=("B04", "B03", "B02"), *, left=LEFT_M, top=TOP_M):
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=len(names), height=values.shape[1],
        width=values.shape[2], crs="EPSG:32633", transform=Affine(10, 0, left, 0, -10, top), nodata=0,
    ) as target:  # fmt: skip
        target.write(values)
        target.descriptions = names
    return path


def catalogue(raster, out, *options):
    """What ``landuse catalog`` makes of a raster; the stated options are the scene's facts."""
    stated = options or ("--level", "L2A", "--datetime", "2024-06-15T10:20:31Z", "--baseline", "03.00")
    with pytest.raises(SystemExit) as ended:
        app(["catalog", str(raster), *stated, "--out", str(out)], prog_name="landuse")
    assert not ended.value.code
    return out


def classes(path):
    with rasterio.open(Path(path) / "landuse.tif") as file:
        return file.read(1)


def lonlat_box(left, bottom, right, top, crs="EPSG:32633"):
    return ",".join(f"{edge:.7f}" for edge in transform_bounds(crs, "EPSG:4326", left, bottom, right, top))


@pytest.fixture(scope="session")
def patch_model(tmp_path_factory):
    """A small model of patches."""
    return save_patch_model(tmp_path_factory.mktemp("model") / f"{DEFAULT_MODEL}.safetensors")


@pytest.fixture
def run(run, patch_model):
    """The command; maps are made by a model of patches unless a test names one: their cells are few."""

    def call(command, *arguments):
        if command == "map" and "--model" not in arguments:
            arguments = (*arguments, "--model", patch_model)
        return run(command, *arguments)

    return call


@pytest.fixture(scope="module")
def pixels():
    """(B04 B03 B02, 128 rows, 144 cols) of fields whose brightness differs."""
    rng = np.random.default_rng(5)
    fields = rng.integers(300, 1500, (3, 4, 3)).repeat(32, 1).repeat(48, 2)
    return (fields + rng.normal(0, 60, fields.shape)).clip(1, None).astype(np.uint16)


@pytest.fixture(scope="module")
def small(tmp_path_factory, pixels):
    """A catalogue of one small scene: 8 x 9 cells of 160 m. Tests must not change it."""
    folder = tmp_path_factory.mktemp("small")
    return catalogue(write_raster(folder / "fields.tif", pixels), folder / "catalog")


def options_of(command):
    return [p for p in typer.main.get_command(app).commands[command].params if p.param_type_name == "option"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_documents_every_option_and_default(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "200")
    shown = run(command, "--help")
    assert (shown.code, shown.err) == (0, "")
    text = "".join(shown.out.split())  # its lines are broken at hyphens as well
    for option in options_of(command):
        assert option.help, option.name
        assert option.opts[0] in text
        assert "".join(option.help.split()) in text
        if option.default not in (None, "") and not option.is_flag:
            assert f"[default:{option.default}]" in text


def test_the_help_of_map_groups_its_options_and_ends_with_examples(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = run("map", "--help").out
    heads = ["Where and when:", "Imagery and model:", "Results:", "Vector layers:", "The run:", "Examples:"]
    assert sorted(heads, key=text.index) == heads
    assert "Options:" not in text
    for option in options_of("map"):  # each under one head
        assert len(re.findall(rf"^  (-\w, )?{option.opts[0]}\b(?!-)", text, re.MULTILINE)) == 1, option.name
    assert text.index("Where and when:") < text.index("--aoi") < text.index("Imagery and model:")
    assert text.index("Vector layers:") < text.index("--whole-cells") < text.index("The run:")
    examples = [
        shlex.split(line) for line in text[text.index("Examples:") :].splitlines()[1:] if line.strip()
    ]
    assert len(examples) >= 3
    for program, command, *arguments in examples:
        assert (program, command) == ("landuse", "map")
        typer.main.get_command(app).commands["map"].make_context("map", arguments)  # refuses what is unknown


def test_each_number_of_map_names_its_unit():
    units = {
        "cell_m": "metres",
        "stride_px": "pixels of 10 m",
        "max_cloud": "percent",
        "min_valid": "percent",
        "min_confidence": "0 to 1",
        "block_px": "pixels",
        "smooth_px": "in pixels",
        "min_area_ha": "hectares",
        "simplify_m": "metres",
        "bbox": "degrees",
        "date": "UTC",
        "probabilities": "0..1",
    }
    helps = {option.name: option.help for option in options_of("map")}
    numbers = {option.name for option in options_of("map") if type(option.default) in (int, float)}
    assert numbers <= set(units)
    for name, unit in units.items():
        assert unit in helps[name], name


def test_the_app_lists_its_commands_and_version(run):
    shown = run("--help")
    assert shown.code == 0
    assert all(command in shown.out for command in COMMANDS)
    assert {"map", "demo", "catalog", "train", "evaluate", "models"} <= set(COMMANDS)
    assert spawn("--version") == Ran(0, f"landuse {landuse.__version__}\n", "")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom landuse.cli import app\n"
        "try:\n    app(['map', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numpy', 'rasterio', 'geopandas', 'shapely') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_models_are_listed_with_what_they_need(run):
    shown = run("models")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    told = "B04, B03, B02 of L1C and L2A; 10 classes"
    assert f"balanced-fast-rgb  {told}" in lines
    optional = "B08, B05, B06, B07, B8A, B11, B12"
    of_pixels = f"B04, B03, B02 and, where there, {optional} of L1C and L2A"
    assert f"balanced-pixel  {of_pixels}; 14 classes and 9 covers of each pixel" in lines
    assert [line.split()[0] for line in lines] == [
        "balanced-fast-all",
        "balanced-fast-no-b10",
        "balanced-fast-rgb",
        "balanced-pixel",
        "multilabel-ucm",
    ]
    assert "multilabel-ucm  8-bit RGB images; 17 labels" in lines
    listed = json.loads(run("models", "--json").out)
    assert listed["balanced-fast-rgb"]["bands"] == ["B04", "B03", "B02"]
    assert {level["level"] for level in listed["balanced-fast-rgb"]["levels"]} == {"L1C", "L2A"}
    assert len(listed["balanced-fast-rgb"]["classes"]) == 10


@pytest.mark.parametrize("form", [["--bbox", "{}"], ["--bbox={}"]], ids=["space", "equals"])
def test_a_bbox_may_begin_with_a_minus(run, small, form):
    shown = run("map", "--source", small, *(part.format("-4.1,52.3,-3.9,52.5") for part in form))
    assert shown.code == 3
    assert "-4.1,52.3,-3.9,52.5" in shown.error


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--bbox", "1,2,3"], 2, ["'1,2,3' has 3 values, not 4", "W,S,E,N"]),
        (["--bbox", "a,2,3,4"], 2, ["no number", "W,S,E,N"]),
        (["--bbox", "-3.9,52.3,-4.1,52.5"], 2, ["west -3.9 beyond east -4.1", "swapped"]),
        (["--bbox", "-4.1,52.5,-3.9,52.3"], 2, ["south 52.5 above north 52.3", "swapped"]),
        (["--bbox", "-4.1,52.3,-3.9,152.5"], 2, ["out of range", "-90 to 90"]),
        (["--bbox", "1,2,1,3"], 2, ["no area", "W < E"]),
        (["--bbox", "1,2,3,4", "--aoi", "x.geojson"], 2, ["--bbox and --aoi", "Give one"]),
        (["--aoi", "x.geojson"], 2, ["x.geojson does not exist"]),
        (["--date", "yesterday"], 2, ["'yesterday'", "2024-06-01/2024-06-30"]),
        (["--date", "2024-13"], 2, ["'2024-13'", "Give 2024-06-30"]),
        (["--date", "2024-06-30/2024-06-01"], 2, ["run backwards", "Swap"]),
        (["--model", "resnet9000"], 2, ["'resnet9000'", "balanced-fast-rgb", "landuse models"]),
        (["--device", "tpu"], 2, ["'tpu'", "auto, cpu, cuda"]),
        (["--device", "cuda:99"], 2, ["cuda:99 is not available", "--device cpu"]),
        (["--precision", "fp16"], 2, ["'fp16'", "fp32, bf16, auto"]),
        (["--precision", "bf16", "--model", "balanced-fast-rgb"], 2, ["models of pixels", "--model"]),
        (["--precision", "auto", "--scheduler", "tcp://a:1"], 2, ["times this machine", "Give fp32 or bf16"]),
        (["--source", "nowhere"], 2, ["'nowhere'", "planetary-computer"]),
        (["--source", "ftp://x.org/a.json"], 2, ["ftp://x.org/a.json", "Download it"]),
        (["--stride-px", "10"], 2, ["--stride-px 10", "1, 2, 4, 8, 16, 32, 64"]),
        (["--stride-px", "0"], 2, ["--stride-px 0", "16"]),
        (["--stride-px", "many"], 2, ["--stride-px", "integer"]),
        (["--composite", "mean"], 2, ["'mean'", "best, median, medoid"]),
        (["--fuse", "maps"], 2, ["'maps'", "pixels, dates"]),
        (["--season", "fall"], 2, ["'fall'", "spring, summer"]),
        (["--max-cloud", "140"], 2, ["--max-cloud 140", "0 to 100"]),
        (["--min-valid", "140"], 2, ["--min-valid 140", "0 to 100"]),
        (["--min-valid", "nan"], 2, ["--min-valid nan", "0 to 100"]),
        (["--block-px", "4"], 2, ["4 px", "1024"]),
        (["--rasters-only", "--cells"], 2, ["--rasters-only writes no vector layers", "Leave one"]),
        (["--no-such-option"], 2, ["--no-such-option"]),
        (["--bbox", "-4.1,52.3,-3.9,52.5"], 3, ["1 outside the area", "move --bbox"]),
        (["--bbox", "179,-17,-179,-16"], 3, ["1 outside the area", "179,-17,-179,-16"]),
        (["--date", "2001"], 3, ["1 outside the dates", "widen --date"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("-") else None,
)
def test_a_wrong_request_gets_one_message_with_the_mend(run, small, tmp_path, options, code, says):
    shown = run("map", "--source", small, "--out", tmp_path / "map", *options)
    assert shown.code == code
    assert all(part in shown.error for part in says), shown.error
    assert not list(tmp_path.rglob("*"))


def truncated(path):
    path.write_bytes(model_path("balanced-fast-rgb").read_bytes()[:-1000])


def cut_header(path):
    path.write_bytes(model_path("balanced-fast-rgb").read_bytes()[:20])


def pickled(path):
    path.write_bytes(pickle.dumps({"weights": [1.0, 2.0]}))


def plain_text(path):
    path.write_text("these are not weights\n" * 20)


def empty(path):
    path.touch()


@pytest.mark.parametrize("spoil", [truncated, cut_header, pickled, plain_text, empty])
def test_corrupt_weights_are_refused(run, small, tmp_path, spoil):
    weights = tmp_path / "model.safetensors"
    spoil(weights)
    shown = run("map", "--source", small, "--out", tmp_path / "map", "--model", weights)
    assert shown.code == 2
    assert str(weights) in shown.error
    assert "landuse train" in shown.error or "Train it again" in shown.error
    assert not (tmp_path / "map").exists()


def test_missing_bands_name_the_model_and_the_bands(run, pixels, tmp_path):
    source = catalogue(write_raster(tmp_path / "two.tif", pixels[:2], ("B04", "B08")), tmp_path / "catalog")
    shown = run("map", "--source", source, "--out", tmp_path / "map")
    assert shown.code == 2
    assert "B04, B03, B02" in shown.error
    assert "no B03, B02" in shown.error
    assert "--model" in shown.error
    assert not (tmp_path / "map").exists()


def test_what_cannot_be_written_is_said_before_the_work(run, small, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("mine")
    for out in (in_the_way, in_the_way / "map", tmp_path / ("long" * 100)):
        shown = run("map", "--source", small, "--out", out)
        assert shown.code == 1
        assert f"{out} cannot be " in shown.error
        assert "another --out" in shown.error
    (tmp_path / "map" / "landuse.tif").mkdir(parents=True)
    shown = run("map", "--source", small, "--out", tmp_path / "map", "--overwrite")
    assert shown.code == 1
    assert f"{tmp_path / 'map'} cannot be replaced" in shown.error
    assert [path.name for path in tmp_path.rglob("*")].count("landuse.gpkg") == 0
    assert in_the_way.read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused_before_the_search(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    nowhere = f"http://127.0.0.1:{free_port()}"  # who asks there is told so, with code 5
    for out in (tmp_path / "file", tmp_path / "file" / "map"):
        shown = run("map", "--source", nowhere, "--bbox", "1,2,3,4", "--out", out)
        assert shown.code == 1
        assert f"{out} cannot be written, since {tmp_path / 'file'} is a file" in shown.error


def test_a_map_of_which_some_could_not_be_read_exits_with_4_unless_that_is_allowed(run, pixels, tmp_path):
    catalogue(write_raster(tmp_path / "west.tif", pixels), tmp_path / "catalog")
    source = catalogue(write_raster(tmp_path / "east.tif", pixels, left=LEFT_M + 1440), tmp_path / "catalog")
    (source / "east" / "B03.tif").write_bytes(b"nothing")
    shown = run("map", "--source", source, "--out", tmp_path / "map", "--json")
    assert shown.code == 4
    assert "B03 of 'east'" in shown.err
    assert "--allow-failed" in shown.err
    assert json.loads(shown.out) == json.loads((tmp_path / "map" / "run.json").read_text())
    assert json.loads(shown.out)["cover"]["failed"] == pytest.approx(1 / 2)
    shown = run("map", "--source", source, "--out", tmp_path / "map", "--overwrite", "--allow-failed")
    assert shown.code == 0, shown.err


def test_small_and_coarse_imagery_is_warned_of_in_every_file_also_where_quiet(run, pixels, tmp_path):
    grey = pixels[:1].repeat(3, 0)  # in which no order of bands shows
    raster = write_raster(tmp_path / "small.tif", grey[:, :50, :50])
    with rasterio.open(raster, "r+") as file:
        file.transform = Affine(30, 0, LEFT_M, 0, -30, TOP_M)
    source = catalogue(raster, tmp_path / "catalog")
    item = source / "small" / "small.json"
    document = json.loads(item.read_text())
    for asset in document["assets"].values():  # not every item says how large its pixels are
        del asset["proj:transform"], asset["raster:spatial_resolution"]
    document["properties"] = {k: v for k, v in document["properties"].items() if k != "proj:transform"}
    item.write_text(json.dumps(document))
    few = lonlat_box(LEFT_M, TOP_M - 1500, LEFT_M + 1500, TOP_M)
    shown = run("map", "--source", source, "--bbox", few, "--out", tmp_path / "map", "--quiet")
    assert (shown.code, shown.err) == (0, "")
    warnings = json.loads((tmp_path / "map" / "run.json").read_text())["warnings"]
    assert "1 of 1 scenes have pixels of up to 30 m" in " ".join(warnings)
    page = (tmp_path / "map" / "index.html").read_text()
    assert "pixels of up to 30 m" in page
    raster = write_raster(tmp_path / "tiny.tif", grey[:, :50, :60])
    source = catalogue(raster, tmp_path / "tiny")
    shown = run("map", "--source", source, "--out", tmp_path / "tiny-map", "--quiet")
    assert (shown.code, shown.err) == (0, "")
    (warning,) = [
        told
        for told in json.loads((tmp_path / "tiny-map" / "run.json").read_text())["warnings"]
        if "60 x 50" in told
    ]
    assert "smaller than the 64 x 64" in warning
    assert warning[:60] in (tmp_path / "tiny-map" / "index.html").read_text()


def test_an_unreadable_asset(run, small, tmp_path):
    source = shutil.copytree(small, tmp_path / "catalog")
    cog = source / "fields" / "B03.tif"
    content = cog.read_bytes()
    cog.write_bytes(content[:400] + bytes(len(content) - 400))
    shown = run("map", "--source", source, "--out", tmp_path / "map")
    assert shown.code == 5
    assert "B03" in shown.error
    assert str(cog) in shown.error
    assert not list((tmp_path / "map").rglob("*"))


def test_an_unreachable_provider(run, tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    shown = run("map", "--source", url, "--bbox", "1,2,3,4", "--out", tmp_path / "map")
    assert shown.code == 5
    assert url in shown.error
    assert "try again later" in shown.error
    assert not list((tmp_path / "map").rglob("*"))


def test_an_incomplete_map_is_written_and_said(run, pixels, tmp_path):
    holed = pixels.copy()
    holed[:, 32:] = 0
    source = catalogue(write_raster(tmp_path / "holed.tif", holed), tmp_path / "catalog")
    shown = run("map", "--source", source, "--out", tmp_path / "map", "--min-valid", "50")
    assert shown.code == 4
    assert "Only 25.0% of 72 cells" in shown.error
    assert "--min-valid 50 %" in shown.error
    run_json = json.loads((tmp_path / "map" / "run.json").read_text())
    assert run_json["cover"]["valid"] == pytest.approx(1 / 4)
    assert run_json["cover"]["nodata"] == pytest.approx(3 / 4)
    assert (classes(tmp_path / "map") != 255).sum() == 18


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_map_and_a_second_run_ends_it(run, small, tmp_path, patch_model):
    def files_of_at_most_90_kib():
        # The block and the rasters fit, the GeoPackage does not. (Python ignores SIGXFSZ.)
        resource.setrlimit(resource.RLIMIT_FSIZE, (90 * 1024, 90 * 1024))

    out = tmp_path / "map"
    shown = spawn(
        "map", "--source", small, "--out", out, "--model", patch_model, preexec_fn=files_of_at_most_90_kib
    )
    assert shown.code == 1
    assert "landuse.gpkg cannot be written" in shown.error
    assert "run again" in shown.error
    assert [path.name for path in out.iterdir() if not path.name.startswith(".blocks-")] == []
    again = run("map", "--source", small, "--out", out, "--json")
    assert again.code == 0
    assert {path.name for path in out.iterdir()} == set(json.loads(again.out)["files"])


@pytest.mark.slow
def test_json_is_the_only_thing_on_stdout(small, tmp_path, patch_model):
    options = ("--out", tmp_path / "map", "--model", patch_model, "--json", "--probabilities")
    shown = spawn("--quiet", "map", "--source", small, *options)
    assert shown.code == 0
    assert shown.err == ""
    report = json.loads(shown.out)
    written = json.loads((tmp_path / "map" / "run.json").read_text())
    assert report == written
    assert report["grid"]["shape"] == [8, 9]
    assert {path.name for path in (tmp_path / "map").iterdir()} == set(report["files"])
    assert report["cover"]["valid"] == 1


def test_a_report_for_people_names_areas_and_files(run, small, tmp_path):
    shown = run("map", "--source", small, "--out", tmp_path / "map")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0].split() == ["class", "area", "ha", "share"]
    areas = [float(line.split()[1]) for line in lines[1:] if line.endswith("%")]
    assert sum(areas) == pytest.approx(72 * 1.6**2, abs=0.05)
    wrote = [re.fullmatch(r"wrote   (.*)  \((\S+ \S+)\)", line) for line in lines if line.startswith("wrote")]
    assert {Path(found[1]) for found in wrote} == set((tmp_path / "map").iterdir())
    sizes = {found[1]: found[2] for found in wrote}
    assert sizes == {path: decimal(Path(path).stat().st_size) for path in sizes}
    again = run("map", "--source", small, "--out", tmp_path / "map")
    assert again.code == 2
    assert "--overwrite" in again.error


def test_a_dry_run_reads_no_pixel_and_writes_nothing(run, small, tmp_path):
    source = shutil.copytree(small, tmp_path / "catalog")
    for cog in source.rglob("*.tif"):
        cog.unlink()
    before = sorted(tmp_path.rglob("*"))
    options = ("map", "--source", source, "--out", tmp_path / "map", "--dry-run")
    shown = run(*options)
    assert (shown.code, shown.err) == (0, "")
    assert "9 x 8 cells of 160 m in EPSG:32633" in shown.out
    assert "2024-06-15 fields" in shown.out
    foreseen = json.loads(run(*options, "--json").out)
    plan = foreseen["plan"]
    assert foreseen["patches"] > 0
    assert (plan["rows"], plan["cols"], plan["left_m"], plan["top_m"]) == (8, 9, LEFT_M, TOP_M)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_area_of_interest_from_a_file(run, small, tmp_path):
    disc = gpd.GeoSeries([shapely.Point(LEFT_M + 700, TOP_M - 600).buffer(300)], crs=32633)
    disc.to_crs(4326).to_file(tmp_path / "disc.geojson")
    shown = run(
        "map", "--source", small, "--aoi", tmp_path / "disc.geojson", "--date", "2024-06",
        "--out", tmp_path / "map", "--json",
    )  # fmt: skip
    assert shown.code == 0
    report = json.loads(shown.out)
    grid = Affine(*report["grid"]["transform"])
    cells = [
        shapely.box(*(grid @ (col, row + 1)), *(grid @ (col + 1, row)))
        for row in range(report["grid"]["shape"][0])
        for col in range(report["grid"]["shape"][1])
    ]
    touched = [disc[0].intersects(cell) for cell in cells]
    assert report["cover"]["cells"] == sum(touched) < len(cells)
    np.testing.assert_array_equal((classes(tmp_path / "map") != 255).ravel(), touched)


def items_with_absolute_hrefs(catalog):
    items = list(pystac.Catalog.from_file(str(catalog / "catalog.json")).get_items())
    for item in items:
        item.make_asset_hrefs_absolute()
    return items


def test_every_form_of_a_source_gives_the_same_map(run, small, tmp_path):
    items = items_with_absolute_hrefs(small)
    collection = tmp_path / "items.json"
    collection.write_text(json.dumps(pystac.ItemCollection(items).to_dict()))
    parquet = tmp_path / "items.parquet"
    rustac.write_sync(str(parquet), [item.to_dict() for item in items])
    sources = [small, small / "catalog.json", small / "fields" / "fields.json", collection, parquet]
    maps = []
    for number, source in enumerate(sources):
        out = tmp_path / f"map{number}"
        shown = run("map", "--source", source, "--out", out, "--stride-px", "32", "--json")
        assert shown.code == 0, shown.err
        maps.append((classes(out), json.loads(shown.out)["plan_sha256"]))
    for cells, _ in maps[1:]:
        np.testing.assert_array_equal(cells, maps[0][0])
    assert (maps[0][0] != 255).all()


HOSTILE = "../../x\u001b[31m<script>\u202e\n\"'`$(id)"


@pytest.mark.slow
def test_a_hostile_item_id_steers_neither_terminal_nor_paths(run, small, tmp_path):
    (item,) = items_with_absolute_hrefs(small)
    document = item.to_dict() | {"id": HOSTILE}
    source = tmp_path / "deep" / "er" / "items.json"
    source.parent.mkdir(parents=True)
    source.write_text(json.dumps({"type": "FeatureCollection", "features": [document]}))
    out = tmp_path / "deep" / "er" / "map"
    options = ("map", "--source", source, "--out", out)

    plan = run(*options, "--dry-run")
    mapped = run(*options)
    assert (plan.code, mapped.code) == (0, 0), mapped.err
    report = json.loads((out / "run.json").read_text())
    assert report["scenes"][0]["id"] == HOSTILE  # kept as data
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    expected = {"deep", "deep/er", "deep/er/items.json", "deep/er/map"}
    assert names == expected | {f"deep/er/map/{name}" for name in report["files"]}

    document["assets"]["B04"]["href"] = str(tmp_path / "gone.tif")
    source.write_text(json.dumps({"type": "FeatureCollection", "features": [document]}))
    failed = spawn("--verbose", *options, "--overwrite")
    assert failed.code == 5
    assert "gone.tif" in failed.error
    for text in (plan.out, plan.err, mapped.out, mapped.err, failed.out, failed.err):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    # The id is printed on one line, not as several.
    assert [line for line in plan.out.splitlines() if line.startswith("\"'`")] == []


@pytest.mark.slow
def test_signatures_in_hrefs_are_shown_nowhere(run, small, tmp_path):
    """Somebody's presigned links, on a source that no provider of ours signs for."""
    (item,) = items_with_absolute_hrefs(small)
    document = item.to_dict()
    source = tmp_path / "items.json"
    out = tmp_path / "map"
    with file_server(small) as files:
        for band, asset in document["assets"].items():
            asset["href"] = f"{files.url}/fields/{band}.tif?X-Amz-Signature=s3cr3t"
        source.write_text(json.dumps({"type": "FeatureCollection", "features": [document]}))
        options = ("map", "--source", source, "--out", out)
        shown = [run(*options, "--dry-run"), run(*options, "--dry-run", "--json"), run(*options)]
        assert [ran.code for ran in shown] == [0, 0, 0]
        plan = json.loads(shown[1].out)["plan"]
        assert {asset["href"] for asset in plan["scenes"][0]["assets"]} == {
            f"{files.url}/fields/{band}.tif" for band in ("B02", "B03", "B04")
        }
        files.interfere = lambda request: PlainTextResponse("no", status_code=403)
        shown.append(spawn("--verbose", *options, "--overwrite"))
        assert shown[-1].code == 5
        assert f"{files.url}/fields/B04.tif" in shown[-1].error
    texts = [text for ran in shown for text in (ran.out, ran.err)]
    texts += [path.read_bytes().decode("latin-1") for path in out.iterdir()]
    assert [text for text in texts if "s3cr3t" in text] == []


@pytest.mark.slow
def test_an_interrupted_run_says_so_and_keeps_its_blocks(small, tmp_path):
    out = tmp_path / "map"
    options = ("map", "--source", small, "--out", out, "--stride-px", "4", "--block-px", "16")
    options += ("--model", DEFAULT_MODEL)
    with Warm([LANDUSE, *options]) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob(".blocks-*/*.npz")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    said = stderr.splitlines()[-1]
    assert re.match(r"Interrupted: \d+ of \d+ blocks are finished\. Run the same command again: ", said)
    assert "Traceback" not in stderr
    (work,) = out.iterdir()
    assert list(work.glob("*.npz"))
    assert not list(work.glob(".partial*"))


def test_three_bands_without_infrared_are_enough_for_a_real_scene(run, data_dir, tmp_path):
    with rasterio.open(data_dir / INN) as image:
        rgb, transform = image.read([1, 2, 3]), image.transform
        assert image.descriptions[:3] == ("B04", "B03", "B02")
    write_raster(tmp_path / "rgb.tif", rgb, left=transform.c, top=transform.f)
    facts = ("--level", "L2A", "--datetime", "2021-06-18", "--offset", "0")
    bbox = lonlat_box(360_000, 5_349_600, 361_000, 5_350_100)
    outs = []
    for name, raster in (("three", tmp_path / "rgb.tif"), ("four", data_dir / INN)):
        source = catalogue(raster, tmp_path / name, *facts)
        outs.append(tmp_path / f"map-{name}")
        assert run("map", "--source", source, "--out", outs[-1], "--bbox", bbox).code == 0
    np.testing.assert_array_equal(classes(outs[0]), classes(outs[1]))
    assert (classes(outs[0]) != 255).mean() > 0.9  # of the corners the box leaves some free


@pytest.mark.slow
def test_a_raster_in_degrees_maps_onto_the_utm_grid_of_its_warped_twin(run, data_dir, tmp_path):
    """The test data hold one scene twice: in EPSG:4326, and warped from that to EPSG:32630."""
    facts = ("--level", "L1C", "--datetime", "2019-09-18T10:50:31Z", "--baseline", "02.08")
    with rasterio.open(data_dir / ORIHUELA) as image:
        left, bottom, right, top = image.bounds
        crs = image.crs
    bbox = lonlat_box(left + 1600, bottom + 1200, right - 1600, top - 1200, crs)
    maps = {}
    for name, raster in (("utm", ORIHUELA), ("lonlat", ORIHUELA_LONLAT)):
        source = catalogue(data_dir / raster, tmp_path / name, *facts)
        out = tmp_path / f"map-{name}"
        shown = run("map", "--source", source, "--out", out, "--bbox", bbox, "--probabilities")
        assert shown.code == 0, shown.err
        with rasterio.open(out / "probabilities.tif") as file:
            maps[name] = (file.crs, file.transform, file.read() * file.scales[0])
    assert maps["utm"][:2] == maps["lonlat"][:2]
    assert maps["lonlat"][0] == crs
    twin, ours = maps["utm"][2], maps["lonlat"][2]  # (class, row, col)
    assert np.isfinite(ours).all()
    assert (twin.argmax(0) == ours.argmax(0)).mean() > 0.85
    # The same ground through two resamplings: a cell is like its twin, and less like a neighbour of it.
    differs = np.abs(twin - ours).mean()
    assert differs < 0.5 * np.abs(twin[:, 1:] - ours[:, :-1]).mean()
    assert differs < 0.5 * np.abs(twin[:, :, 1:] - ours[:, :, :-1]).mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raster", "acquired"), [(EXETER_BNG, "2024-06-02T11:21:19Z"), (EXETER_CLOUDY, "2024-06-17T11:21:21Z")]
)
def test_a_20_m_scene_with_clouds_in_another_crs(run, data_dir, tmp_path, raster, acquired):
    """Oracle: the scene classification, warped whole by rasterio onto the map's pixels."""
    facts = ("--level", "L2A", "--datetime", acquired, "--baseline", "05.10")
    source = catalogue(data_dir / raster, tmp_path / "catalog", *facts)
    out = tmp_path / "map"
    options = ("--stride-px", "64", "--min-valid", "0", "--max-cloud", "100")
    shown = run("map", "--source", source, "--out", out, *options)
    assert shown.code == 0, shown.err
    with rasterio.open(out / "landuse.tif") as file:
        mapped = file.read(1)
        assert (file.crs, file.res) == ("EPSG:32630", (640, 640))
        assert [edge % 640 for edge in file.bounds] == [0, 0, 0, 0]
        pixel_grid = file.transform @ Affine.scale(1 / 64)
        shape = (file.height * 64, file.width * 64)
        grid = {"crs": file.crs, "transform": pixel_grid, "height": shape[0], "width": shape[1]}
    with rasterio.open(data_dir / raster) as image:
        index = image.descriptions.index("SCL") + 1
        with WarpedVRT(image, resampling=Resampling.nearest, nodata=0, **grid) as warped:
            scl = warped.read(index)
        outline = shapely.box(*image.bounds)
        outline = shapely.geometry.shape(transform_geom(image.crs, "EPSG:32630", outline.__geo_interface__))
    cells = scl.reshape(mapped.shape[0], 64, mapped.shape[1], 64)
    clear = np.isin(cells, [2, 4, 5, 6, 7]).mean((1, 3))
    # Clouds grow by 100 m; what is further from any, and not unusable itself, is mapped.
    far = distance_transform_edt(~np.isin(scl, [3, 8, 9, 10]), sampling=10) > 110
    surely = (far & np.isin(scl, [2, 4, 5, 6, 7])).reshape(cells.shape).mean((1, 3))
    seen = (cells != 0).mean((1, 3))
    assert (mapped[seen == 0] == 255).all()
    assert (mapped[(clear == 0) & (seen == 1)] == 255).all()
    assert (mapped[surely == 1] != 255).all()
    run_json = json.loads((out / "run.json").read_text())
    assert run_json["cover"]["cells"] * 640**2 > outline.area
    # Of each cell counts what the image shows of it.
    share = seen[mapped != 255].sum() * 640**2 / outline.area
    assert run_json["cover"]["valid"] == pytest.approx(share, rel=0.002)
    assert (surely == 1).any() or (clear == 0).any()
