"""The site that ``make docs`` builds: strict, without a word to other hosts, and true to the package.

Oracles: mkdocs' own strictness, the files of the package, what ``--help`` prints, the names that ``landuse``
exports.
"""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import landuse
from landuse import errors
from landuse.cli import app
from tests.docs.pages import DOCS, ROOT

PACKAGE = Path(landuse.__file__).parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning of mkdocs, such as a broken link, is a failure."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ
        | {
            "NO_MKDOCS_2_WARNING": "1",
            "PYTHONPATH": str(ROOT),
            "http_proxy": "http://127.0.0.1:1",  # whoever asks the network gets a refusal
            "https_proxy": "http://127.0.0.1:1",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(page):
    """What a reader sees of a page."""
    source = page.read_text("utf-8")
    body = source[source.index("<article") : source.index("</article>")]
    return html.unescape(re.sub(r"<[^>]+>", "", body))


def test_the_site_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    foreign = re.compile(
        r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']?(?:https?:)?//[^\s"'>]+"""
    )
    assert {match for page in pages for match in foreign.findall(page.read_text("utf-8"))} == set()
    sheets = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\s]+", sheets) == []


def test_the_tree_is_that_of_the_package(site):
    text = text_of(site / "explanation" / "architecture.html")
    printed, folders = set(), [""]
    for line in text[text.index("landuse/  ") :].splitlines()[1:]:
        match = re.match(r"( +)(\S+)", line)
        if match is None:
            break
        depth, name = len(match[1]) // 4, match[2]
        folders[depth:] = [folders[depth - 1] + name]
        printed.add(folders[depth])
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    packages = [path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert printed == {
        *(path.relative_to(PACKAGE).as_posix() for path in modules),
        *(f"{path.relative_to(PACKAGE).as_posix()}/" for path in packages),
    }


def test_the_picture_shows_folders_and_modules_that_exist():
    picture = (DOCS / "explanation" / "architecture.svg").read_text("utf-8")
    labels = ", ".join(re.findall(r'class="[nr]">([^<]+)<', picture)).split(", ")
    folders = {f"{path.parent.name}/" for path in PACKAGE.rglob("__init__.py")}
    modules = {path.stem for path in PACKAGE.rglob("*.py")}
    assert len(labels) > 20
    assert set(labels) - {"*.py"} <= folders | modules


def commands():
    def walk(names, command):
        if not hasattr(command, "commands"):
            yield names
            return
        for name, child in command.commands.items():
            yield from walk([*names, name], child)

    yield from walk([], typer.main.get_command(app))


def squeezed(text):
    """Letters alone: ``--help`` breaks its lines anywhere, also within words."""
    return "".join(text.split()).replace("`", "")


def test_the_reference_says_what_help_says(site):
    text = text_of(site / "reference" / "cli.html")
    for names in commands():
        check_section(text, names)


def check_section(text, names):
    """Each option of a command is there with what ``--help`` says of it."""
    section = re.split(rf"^landuse {' '.join(names)}\b.*$", text, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^landuse [a-z ]+¶?$", section, maxsplit=1, flags=re.MULTILINE)[0]
    told = CliRunner().invoke(app, [*names, "--help"]).output
    options = told.partition("Examples:")[0]
    options = re.sub(r"^[A-Z][a-z ,]*:$", "", options, flags=re.MULTILINE)  # the headings of groups
    records = re.split(r"^  (?=-)", options, flags=re.MULTILINE)[1:]
    assert len(records) >= 2
    for record in records:
        name, _, meaning = record.partition("  ")
        assert squeezed(name) in squeezed(section)
        assert squeezed(meaning) in squeezed(section), record


def test_the_python_reference_has_every_public_name(site):
    text = text_of(site / "reference" / "python.html")
    public = [
        f"landuse.{name}" for name in getattr(landuse, "__all__", ()) if callable(getattr(landuse, name))
    ]
    known = [name for name in vars(errors) if name.endswith("Error")]
    assert len(known) >= 10
    assert [name for name in [*public, *known] if name not in text] == []


def test_decisions_are_all_listed():
    listed = set(
        re.findall(r"\]\((\d\d-[a-z0-9-]+\.md)\)", (DOCS / "decisions" / "index.md").read_text("utf-8"))
    )
    assert listed == {path.name for path in (DOCS / "decisions").glob("[0-9]*.md")}
    for name in listed:
        headings = re.findall(r"^## (.*)$", (DOCS / "decisions" / name).read_text("utf-8"), re.MULTILINE)
        assert headings == ["Context", "Choice", "Consequence"]
