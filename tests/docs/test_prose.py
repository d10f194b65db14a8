"""The README's size and order, links that lead somewhere, and messages that the package really has.

Oracles: the limits that were set for the README, the file system, the string literals of the source.
"""

import ast
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import landuse
from tests.docs.pages import DOCS, ROOT

README = ROOT / "README.md"
MAX_LINES, MAX_WORDS = 150, 1300
ORDER = [
    "Install and activate",
    "Your own GeoTIFF",
    "A provider",
    "What comes out",
    "How right is it",
    "Change",
    "Your own classes, other maps",
    "Python",
    "Every night",
    "Training",
    "Limits",
    "Links",
]
OUTSIDE = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("examples/*/README.md"))]
"""Pages that mkdocs does not build; it checks the links of the others."""


def test_the_readme_is_short_and_in_order():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert len(text.split()) <= MAX_WORDS
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ORDER
    limits = text.partition("## Limits\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"^- ", limits, re.MULTILINE)) == 5
    assert len(re.findall(r"!\[", text)) == 1


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    local = [target.partition("#")[0] for target in targets if not urlsplit(target).scheme]
    assert [target for target in local if not (page.parent / target).exists()] == []


def said_by_the_package():
    """Its string literals; what a value fills is …"""
    for path in Path(landuse.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_troubleshooting_quotes_real_messages():
    headings = re.findall(r"^### (.*)$", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    assert len(headings) > 40
    texts = [" ".join(text.split()) for text in said_by_the_package()]
    pieces = [piece.strip() for heading in headings for piece in heading.split("…") if piece.strip()]
    assert [piece for piece in pieces if not any(piece in text for text in texts)] == []


def test_the_glossary_has_a_word_once():
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert len(words) >= 20
    assert words == sorted(set(words))


@pytest.mark.parametrize("page", [*OUTSIDE, *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.stem)
def test_files_that_pages_name_exist(page):
    named = re.findall(
        r"`(?:python |pytest )?((?:landuse|tests|examples|docs)/[\w./-]+)[` ]", page.read_text("utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
