"""The documentation's pages as tests see them: their code blocks, and how each is marked."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- ([^>]*?) -->\s*\Z")


@dataclass(frozen=True)
class Code:
    """One fenced block."""

    language: str
    text: str
    line: int
    """Of the fence, from 1."""
    mark: str
    """The comment right before it, such as ``network``; empty without one."""


def code_of(page: Path) -> list[Code]:
    """Its fenced blocks, in order."""
    text = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = _MARK.search(text[: match.start()])
        mark = before[1] if before is not None and "\n\n" not in before[0] else ""
        found.append(
            Code(language=match[1], text=match[2], line=text.count("\n", 0, match.start()) + 1, mark=mark)
        )
    return found


def commands_of(code: Code) -> list[list[str]]:
    """The words of each call of ``landuse`` in a block for the shell."""
    lines = code.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("landuse ")]
    return [line for line in words if line]
