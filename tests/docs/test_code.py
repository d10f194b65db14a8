"""Every code block of the README and of the tutorial runs, in order, in an empty folder, without a network.

Blocks marked ``network`` are not run; the command line has to accept what they, and the blocks of all other
pages, ask of ``landuse``. A block marked ``after: NAME, ...`` gets what a reader has at that point:
``PREPARED`` makes it. Oracles: the exit code of each block; for the outputs that the tutorial shows, what its
blocks printed here, where numbers may differ.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import geopandas
import pytest
import rasterio
import typer

from landuse.cli import app
from tests.docs.pages import DOCS, ROOT, code_of, commands_of

README, TUTORIAL = ROOT / "README.md", DOCS / "tutorial.md"
OWN_CLASSES = DOCS / "tutorial-own-classes.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
SHOWN_ONLY = {"text", "json", "yaml"}
"""Languages of blocks that show something and run nothing."""


def shell(folder, text):
    """What a block printed; it has to succeed."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "http_proxy": "http://127.0.0.1:1",  # whoever asks the network gets a refusal
        "https_proxy": "http://127.0.0.1:1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def python(folder, text):
    (folder / "block.py").write_text(text)
    return shell(folder, "python block.py")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The simulated scenes of ``landuse demo``."""
    from landuse.workflows.demo.run_demo import make_demo_catalog

    folder = tmp_path_factory.mktemp("demo")
    make_demo_catalog(folder)
    return folder


def scenes_of(demo):
    return sorted(path for path in (demo / "catalog").iterdir() if path.is_dir())


def write_scene(folder, demo):
    """``scene.tif`` as the tutorial makes it."""
    shutil.copytree(demo, folder / "demo")
    (script,) = [code for code in code_of(TUTORIAL) if '"scene.tif", "w"' in code.text]
    python(folder, script.text)
    shutil.rmtree(folder / "demo")


def label(folder, demo):
    points = geopandas.read_file(folder / "points.gpkg", layer="samples")
    with rasterio.open(folder / "map" / "landuse.tif") as land:
        names = dict(enumerate(json.loads(land.tags()["classes"])))
    with rasterio.open(demo / "truth.tif") as truth:
        ids = [
            int(value[0]) for value in truth.sample(zip(points.geometry.x, points.geometry.y, strict=True))
        ]
    points["reference"] = [names.get(number) for number in ids]
    points.to_file(folder / "points.gpkg", layer="samples", driver="GPKG")


def map_date(folder, demo, name, scene):
    day = re.search(r"_(\d{4})(\d\d)(\d\d)T", scenes_of(demo)[scene].name)
    date = "-".join(day.groups())
    options = f"--source '{demo / 'catalog'}' --date {date} --max-cloud 100 --probabilities"
    shell(folder, f"landuse map {options} --out {name}")


def write_config(folder, demo):
    """Of one small area, whose scene was taken two days ago, so that the look-back reaches it."""
    day = datetime.now(UTC) - timedelta(days=2)
    bands = " ".join(f"'{path}'" for path in sorted(scenes_of(demo)[0].glob("*.tif")))
    about = f"--level L2A --baseline 05.11 --datetime {day:%Y-%m-%dT%H:%M:%SZ}"
    shell(folder, f"landuse catalog {bands} {about} --out lately")
    (folder / "config.yaml").write_text(
        "out: maps\nsource: lately\nareas:\n  - name: demo\n    bbox: [14.06, 48.19, 14.08, 48.20]\n"
    )


PREPARED = {
    "demo": lambda folder, demo: shutil.copytree(demo, folder / "demo"),
    "label points.gpkg": label,
    "map-june": lambda folder, demo: map_date(folder, demo, "map-june", 0),
    "map-july": lambda folder, demo: map_date(folder, demo, "map-july", 1),
    "config.yaml": write_config,
}


def run_page(page, folder, demo):
    """Each block in order; what they printed."""
    printed = []
    for code in code_of(page):
        if code.mark == "network" or code.language in SHOWN_ONLY:
            continue
        if code.mark:
            assert code.mark.startswith("after: "), f"{page}:{code.line}: what does {code.mark!r} mean?"
            for name in code.mark.removeprefix("after: ").split(", "):
                PREPARED[name](folder, demo)
        run = {"bash": shell, "python": python}[code.language]
        printed.append(run(folder, code.text))
    return "".join(printed)


def masked(line):
    """Without what may differ from machine to machine; a page may show … for a number of the reader's run."""
    return re.sub(r"…|\d+(?:[.,]\d+)*", "0", " ".join(line.split()))


@pytest.mark.slow
def test_readme_runs(tmp_path, demo):
    write_scene(tmp_path, demo)
    printed = run_page(README, tmp_path, demo)
    assert "overall accuracy" in printed
    assert (tmp_path / "map" / "landuse.gpkg").is_file()
    assert (tmp_path / "change" / "change.json").is_file()
    assert (tmp_path / "maps" / "catalog.json").is_file()


@pytest.mark.slow
def test_tutorial_runs_and_prints_what_it_shows(tmp_path, demo):
    printed = {masked(line) for line in run_page(TUTORIAL, tmp_path, demo).splitlines()}
    shown = [line for code in code_of(TUTORIAL) if code.language == "text" for line in code.text.splitlines()]
    assert len(shown) >= 8
    assert [line for line in shown if masked(line) not in printed] == []


@pytest.mark.slow
def test_the_tutorial_of_own_classes_runs_and_prints_what_it_shows(tmp_path, demo):
    output = run_page(OWN_CLASSES, tmp_path, demo)
    printed = {masked(line) for line in output.splitlines()}
    shown = [
        line for code in code_of(OWN_CLASSES) if code.language == "text" for line in code.text.splitlines()
    ]
    assert len(shown) == 4
    assert [line for line in shown if masked(line) not in printed] == []
    # The polygon that was mislabelled on purpose is found.
    assert re.search(r"^ *1 +4 +field +wood ", output, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_accepts_what_pages_say(page):
    for code in code_of(page):
        assert code.language, f"{page}:{code.line}: a block without a language"
        for words in commands_of(code):
            command = typer.main.get_command(app)
            rest = words[1:]
            while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
                command = command.commands[rest.pop(0)]
            if "--help" not in rest:
                command.make_context(" ".join(words), rest)


def test_blocks_are_found_with_their_marks(tmp_path):
    """Oracle: a page written here."""
    page = tmp_path / "page.md"
    page.write_text(
        "a\n\n<!-- network -->\n```bash\nlanduse map \\\n  --out x # y\n```\n\n"
        "<!-- no -->\n\n```python\n1\n```\n"
    )
    first, second = code_of(page)
    assert (first.language, first.mark, first.line) == ("bash", "network", 4)
    assert commands_of(first) == [["landuse", "map", "--out", "x"]]
    assert (second.language, second.mark, second.text) == ("python", "", "1\n")
