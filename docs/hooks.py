"""What the documentation takes from the package itself: two reference pages and the tree of its modules.

mkdocs calls ``on_files`` and ``on_page_markdown`` when it builds the site (``hooks`` in mkdocs.yml).
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from mkdocs.structure.files import File

import landuse
from landuse import errors
from landuse.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from typer.core import TyperCommand, TyperGroup

PACKAGE = Path(landuse.__file__).parent
TREE = "<!-- tree of the package -->"
"""Where a page shows the tree."""

PYTHON_HEAD = """# Python reference

Made from the docstrings when the documentation is built.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the package; mkdocs calls this when it has listed the files."""
    for path, text in (("reference/cli.md", cli_reference()), ("reference/python.md", python_reference())):
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the tree of the package where a page asks for it; mkdocs calls this for each page."""
    if TREE not in markdown:  # of most pages; the whole package is parsed for the tree
        return markdown
    return markdown.replace(TREE, f"```text\n{package_tree()}```")


def commands() -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """Every command that does something, by its full name, in the order in which ``--help`` lists them."""

    def walk(
        name: str, command: TyperCommand | TyperGroup
    ) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield name, command
            return
        for child, inner in children.items():
            yield from walk(f"{name} {child}", inner)

    yield from walk("landuse", typer.main.get_command(app))


def cli_reference() -> str:
    """The page about the command line: each command with its arguments, options and defaults."""
    root = typer.main.get_command(app)
    parts = ["# Command line\n\nMade from the commands themselves when the documentation is built.\n"]
    parts.append(f"## landuse\n\n{_prose(root.help)}\n\n{_table(root)}\n")
    parts.extend(
        f"## {name}\n\n```text\n{_usage(name, command)}\n```\n\n{_prose(command.help)}\n\n"
        f"{_examples(command)}{_table(command)}\n"
        for name, command in commands()
    )
    return "\n".join(parts)


def _examples(command: TyperCommand | TyperGroup) -> str:
    """What ``--help`` ends with, as it stands there; nothing where it ends with its options."""
    text = inspect.cleandoc(command.epilog or "").removeprefix("\b").strip("\n")
    return f"```text\n{text}\n```\n\n" if text else ""


def _usage(name: str, command: TyperCommand | TyperGroup) -> str:
    with typer.Context(command, info_name=name) as context:
        return " ".join([name, *command.collect_usage_pieces(context)])


def _table(command: TyperCommand | TyperGroup) -> str:
    """Arguments and options of a command as a table of Markdown, in the words of ``--help``."""
    rows = ["| argument or option | meaning |", "|---|---|"]
    with typer.Context(command, info_name=command.name) as context:
        for parameter in command.get_params(context):
            told = parameter.get_help_record(context)
            if told is not None:  # None: hidden
                name, meaning = (part.replace("|", "\\|").replace("\n", " ") for part in told)
                rows.append(f"| `{name}` | {_prose(meaning)} |")
    return "\n".join(rows)


def _prose(text: str | None) -> str:
    """Help text as Markdown: what could be read as a tag is escaped."""
    return inspect.cleandoc(text or "").replace("<", "&lt;")


def python_reference() -> str:
    """The page about Python: the public names of ``landuse``, and every error."""
    public = set(getattr(landuse, "__all__", ()))
    parts = [PYTHON_HEAD, "## Public names\n"]
    for name in sorted(public):
        value = getattr(landuse, name)
        if callable(value) and not (inspect.isclass(value) and issubclass(value, errors.LanduseError)):
            parts.append(_entry(f"{value.__module__}.{value.__qualname__}", f"landuse.{name}"))
    parts.append("## Errors\n\nEach has the exit code of the command line in `exit_code`.\n")
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.LanduseError):
            home = "landuse" if name in public else "landuse.errors"
            parts.append(_entry(f"landuse.errors.{name}", f"{home}.{name}"))
    return "\n".join(parts)


def _entry(identifier: str, heading: str) -> str:
    return f"::: {identifier}\n    options:\n      heading: {heading}\n      toc_label: {heading}\n"


def package_tree() -> str:
    """Every folder and module of the package, a line each, with the first paragraph of its docstring."""
    entries = [("landuse/", _summary(PACKAGE / "__init__.py"))]

    def walk(folder: Path, indent: str) -> None:
        for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
            if path.suffix == ".py" and path.name != "__init__.py":
                entries.append((f"{indent}{path.name}", _summary(path)))
            elif (path / "__init__.py").is_file():
                entries.append((f"{indent}{path.name}/", _summary(path / "__init__.py")))
                walk(path, f"{indent}    ")

    walk(PACKAGE, "    ")
    width = max(len(name) for name, _ in entries) + 2
    return "".join(f"{name:{width}}{summary}".rstrip() + "\n" for name, summary in entries)


def _summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("``", "")
