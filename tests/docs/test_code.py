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
from contextlib import chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path

import geopandas
import pytest
import rasterio
import typer

from landuse.cli import app
from tests.docs.pages import DOCS, ROOT, Code, code_of, commands_of

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


class Reader:
    """Somebody who runs the blocks of a page in a folder.

    A block of ``landuse`` commands alone, and one of Python, is run in this process, which has imported torch
    and GDAL already: that takes four seconds a command. Any other is a shell's, and so is a file that is
    written before commands.
    """

    def __init__(self, folder, demo, run, capfd):
        self.folder, self.demo, self._run, self._capfd = folder, demo, run, capfd

    def bash(self, text):
        """What a block printed; it has to succeed."""
        if (file := re.match(r"cat > \S+ <<'END'\n.*?\nEND\n", text, re.DOTALL)) and file.end() < len(text):
            return self._shell(file[0]) + self.bash(text[file.end() :])
        code = Code(language="bash", text=text, line=1, mark="")
        commands = commands_of(code)
        lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
        said = re.sub(r" #.*", "", text)
        if len(commands) < sum(not line.startswith("#") for line in lines) or re.search(r"[$|>`*]", said):
            return self._shell(text)
        return "".join(self.landuse(*words[1:]) for words in commands)

    def landuse(self, *words):
        """What a command printed; it has to succeed."""
        with chdir(self.folder):
            done = self._run(*words)
        assert done.code == 0, f"{words}\n{done.out}{done.err}"
        return done.out + done.err

    def python(self, text):
        """What a block printed; it has to end without an error."""
        self._capfd.readouterr()
        with chdir(self.folder):
            exec(compile(text, "block.py", "exec"), {"__name__": "__main__"})
        return "".join(self._capfd.readouterr())

    def _shell(self, text):
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def reader(tmp_path, demo_catalog, run, capfd, monkeypatch):
    """In an empty folder, where whoever asks the network gets a refusal."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    return Reader(tmp_path, demo_catalog.catalog.parent.parent, run, capfd)


def scenes_of(demo):
    return sorted(path for path in (demo / "catalog").iterdir() if path.is_dir())


def write_scene(reader):
    """``scene.tif`` as the tutorial makes it."""
    shutil.copytree(reader.demo, reader.folder / "demo")
    (script,) = [code for code in code_of(TUTORIAL) if '"scene.tif", "w"' in code.text]
    reader.python(script.text)
    shutil.rmtree(reader.folder / "demo")


def label(reader):
    folder = reader.folder
    points = geopandas.read_file(folder / "points.gpkg", layer="samples")
    with rasterio.open(folder / "map" / "landuse.tif") as land:
        names = dict(enumerate(json.loads(land.tags()["classes"])))
    with rasterio.open(reader.demo / "truth.tif") as truth:
        ids = [
            int(value[0]) for value in truth.sample(zip(points.geometry.x, points.geometry.y, strict=True))
        ]
    points["reference"] = [names.get(number) for number in ids]
    points.to_file(folder / "points.gpkg", layer="samples", driver="GPKG")


def map_date(reader, name, scene):
    day = re.search(r"_(\d{4})(\d\d)(\d\d)T", scenes_of(reader.demo)[scene].name)
    chosen = ("--source", reader.demo / "catalog", "--date", "-".join(day.groups()), "--max-cloud", 100)
    # A part of it is enough to compare.
    reader.landuse("map", *chosen, "--bbox", "14.06,48.19,14.08,48.20", "--probabilities", "--out", name)


def write_config(reader):
    """Of one small area, whose scene was taken two days ago, so that the look-back reaches it."""
    day = datetime.now(UTC) - timedelta(days=2)
    bands = sorted(scenes_of(reader.demo)[0].glob("*.tif"))
    about = ("--level", "L2A", "--baseline", "05.11", "--datetime", f"{day:%Y-%m-%dT%H:%M:%SZ}")
    reader.landuse("catalog", *bands, *about, "--out", "lately")
    (reader.folder / "config.yaml").write_text(
        "out: maps\nsource: lately\nareas:\n  - name: demo\n    bbox: [14.06, 48.19, 14.08, 48.20]\n"
    )


PREPARED = {
    "demo": lambda reader: shutil.copytree(reader.demo, reader.folder / "demo"),
    "label points.gpkg": label,
    "map-june": lambda reader: map_date(reader, "map-june", 0),
    "map-july": lambda reader: map_date(reader, "map-july", 1),
    "config.yaml": write_config,
}


def run_page(page, reader):
    """Each block in order; what they printed."""
    printed = []
    for code in code_of(page):
        if code.mark == "network" or code.language in SHOWN_ONLY:
            continue
        if code.mark:
            assert code.mark.startswith("after: "), f"{page}:{code.line}: what does {code.mark!r} mean?"
            for name in code.mark.removeprefix("after: ").split(", "):
                PREPARED[name](reader)
        printed.append({"bash": reader.bash, "python": reader.python}[code.language](code.text))
    return "".join(printed)


def masked(line):
    """Without what may differ from machine to machine; a page may show … for a number of the reader's run."""
    return re.sub(r"…|\d+(?:[.,]\d+)*", "0", " ".join(line.split()))


@pytest.mark.slow
def test_readme_runs(tmp_path, reader):
    write_scene(reader)
    printed = run_page(README, reader)
    assert "overall accuracy" in printed
    assert (tmp_path / "map" / "landuse.gpkg").is_file()
    assert (tmp_path / "change" / "change.json").is_file()
    assert (tmp_path / "maps" / "catalog.json").is_file()


@pytest.mark.slow
def test_tutorial_runs_and_prints_what_it_shows(reader):
    printed = {masked(line) for line in run_page(TUTORIAL, reader).splitlines()}
    shown = [line for code in code_of(TUTORIAL) if code.language == "text" for line in code.text.splitlines()]
    assert len(shown) >= 8
    assert [line for line in shown if masked(line) not in printed] == []


@pytest.mark.slow
def test_the_tutorial_of_own_classes_runs_and_prints_what_it_shows(reader):
    output = run_page(OWN_CLASSES, reader)
    printed = {masked(line) for line in output.splitlines()}
    shown = [
        line for code in code_of(OWN_CLASSES) if code.language == "text" for line in code.text.splitlines()
    ]
    assert len(shown) == 4
    assert [line for line in shown if masked(line) not in printed] == []
    # The polygon that was mislabelled on purpose is found.
    assert re.search(r"^ *1 +4 +field +wood ", output, re.MULTILINE)


@pytest.fixture(scope="module")
def landuse_command():
    return typer.main.get_command(app)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_accepts_what_pages_say(page, landuse_command):
    for code in code_of(page):
        assert code.language, f"{page}:{code.line}: a block without a language"
        for words in commands_of(code):
            command, rest = landuse_command, words[1:]
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
