"""A YAML file to plain values and on to settings: whoever wrote it is told all that is wrong, and where.

No anchors, aliases or tags: a config needs none, and without them no small file becomes a large value.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from landuse.errors import UsageError
from landuse.redact import printable, redact_href

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

MAX_BYTES = 1 << 18
"""Of a file: some two thousand areas."""

MAX_DEPTH = 8
"""Lists and mappings within each other."""

MAX_TOLD = 20
"""Problems that are listed; of more, the number."""

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...] | dict[str, Value] | None"
"""What a file may hold."""

At: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys, and positions in lists from 0."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_PARTS = re.compile(r"(?<=://)[^/?#@]*(?=@)|\?.*")
"""User and password of a URL, and its query."""
_PASSWORD = re.compile(
    r"://[^/@]*:[^@]+@|[?&][^=&#]*(?:pass|pwd|secret|token|key|sig)[^=&#]*=[^&#]", re.IGNORECASE
)
_CONVERTED = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float")}
"""What YAML makes something else than text of; dates stay as they are written."""


class Settings(BaseModel):
    """What a mapping holds: nothing unknown, nothing converted in silence, nothing changed later.

    A field's description says what to give for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong with a value."""

    at: At
    """The value."""
    text: str
    """What it is, and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file that is a YAML mapping."""

    path: Path
    """The file."""
    values: dict[str, Value]
    """What it holds; of keys that are given twice the first."""
    lines: Mapping[At, int]
    """The line of each value's beginning, from 1: that of its key where it has one."""
    problems: tuple[Problem, ...]
    """What is wrong with it, whatever it is for."""

    def refusal(self, problems: Sequence[Problem]) -> UsageError:
        """All problems with their places, a line each, in the order of the file."""
        ordered = sorted(problems, key=lambda problem: self._line(problem.at))
        told = [
            f"{self.path}:{self._line(problem.at)}: {_spelled(problem.at)}{problem.text}"
            for problem in ordered[:MAX_TOLD]
        ]
        if len(ordered) > MAX_TOLD:
            told.append(f"{self.path}: {len(ordered) - MAX_TOLD} more problems. Mend these first.")
        return UsageError("\n".join(told))

    def _line(self, at: At) -> int:
        """The line of a value, or where it is missing of what it is missing in."""
        return next((self.lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in self.lines), 1)


def read_document(path: Path) -> Document:
    """The mapping in a YAML file.

    Raises:
        UsageError: the file cannot be read, is larger or deeper than a config, is no YAML, uses what a
            config needs not, or is no mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}). Give a YAML file.") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES} bytes. Give a config, or split it.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: this is not UTF-8. Save the file as UTF-8.") from error
    try:
        _check_events(path, text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = printable(error.problem or "it is broken off")
        told = f"{path}:{line}: this is no YAML: {problem}. Mend it."
        raise UsageError(told) from None  # YAML's own error quotes the line, and what is secret in it
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{path}:{line}: a character that YAML forbids. Delete it.") from error
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}:1: this is no mapping. Give `key: value` lines.")
    reader = _Reader(loader)
    values = reader.mapping(node, ())
    return Document(path=path, values=values, lines=reader.lines, problems=tuple(reader.problems))


def expand(
    document: Document, keys: Collection[str], environ: Mapping[str, str]
) -> tuple[dict[str, Value], list[Problem]]:
    """The document's values with the environment's in place of ``${NAME}``, and what is wrong with that.

    Args:
        document: what the file says.
        keys: those at its top that take references, and whose passwords must come by them.
        environ: values by name.
    """
    problems = []
    values = dict(document.values)
    for at, found in _texts(document.values, ()):
        if "${" in found and not (len(at) == 1 and at[0] in keys):
            mend = f"Only {', '.join(keys)} take values from the environment."
            problems.append(Problem(at=at, text=f"${{...}} has no meaning here. {mend}"))
    for key in keys:
        text = values.get(key)
        if not isinstance(text, str):
            continue
        if _PASSWORD.search(_REFERENCE.sub("", text)):
            mend = "Put it into an environment variable and write ${NAME} in its place."
            problems.append(Problem(at=(key,), text=f"it holds a password. {mend}"))
        names = _REFERENCE.findall(text)
        missing = [name for name in names if not environ.get(name)]
        unprintable = [name for name in names if not environ.get(name, "").isprintable()]
        if missing:
            told = f"the environment variable {missing[0]} is not set. Set it for this process."
        elif unprintable:
            told = f"the environment variable {unprintable[0]} holds more than one line of text. Set it anew."
        elif "${" in _REFERENCE.sub("", text):
            told = "a ${ without a name and }. Write ${NAME}."
        else:
            values[key] = _filled(text, environ)
            continue
        problems.append(Problem(at=(key,), text=told))
    return values, problems


def _filled(text: str, environ: Mapping[str, str]) -> str:
    """The text with its references replaced; in a URL's user, password and query they are encoded."""

    def encoded(part: re.Match[str]) -> str:
        return _REFERENCE.sub(lambda match: quote(environ[match[1]], safe=""), part[0])

    text = _SECRET_PARTS.sub(encoded, text)
    return _REFERENCE.sub(lambda match: environ[match[1]], text)


def wrong(problem: str, at: At = ()) -> PydanticCustomError:
    """For validators: what is wrong, and the mend; ``at`` leads from the value to the part that is meant."""
    return PydanticCustomError("landuse", "{problem}", {"problem": problem, "at": at})


def explain(
    details: ErrorDetails,
    root: type[Settings],
    parts: Mapping[str, type[Settings]],
    secret_keys: Collection[str],
) -> Problem:
    """What pydantic found, with the mend.

    Args:
        details: its finding.
        root: the settings of the whole file.
        parts: settings within, by the key that holds them.
        secret_keys: those at the top whose values are not shown.
    """
    at, context = details["loc"], details.get("ctx", {})
    model, description = root, "`key: value` lines"
    for index, part in enumerate(at):
        if part in model.model_fields:
            description = model.model_fields[str(part)].description or description
        if index + 1 < len(at):
            model = parts.get(str(part), model)
    if details["type"] == "landuse":
        return Problem(at=(*at, *context["at"]), text=context["problem"])
    if details["type"] == "extra_forbidden":
        return Problem(at=at, text=f"unknown key. {_nearest(str(at[-1]), model, root)}")
    if details["type"] == "missing":
        return Problem(at=at, text=f"it is missing. Give {description}.")
    value = "this" if at and at[0] in secret_keys else shown(details["input"])
    return Problem(at=at, text=f"{value} does not fit. Give {description}.")


def shown(value: object) -> str:
    """A value for a message: short, on one line, and without passwords."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = redact_href(value).partition("?")[0]
        if "@" in text:
            text = "..." + text.rpartition("@")[2]
        return repr(text if len(text) <= 60 else f"{text[:57]}...")
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]" if 0 < len(value) < 6 else f"a list of {len(value)}"
    return "a mapping" if isinstance(value, dict) else str(value)[:60]


def _nearest(key: str, model: type[Settings], root: type[Settings]) -> str:
    """The mend for a key that the settings do not know."""
    near = difflib.get_close_matches(key, model.model_fields, 1)
    if near:
        return f"Did you mean {near[0]}?"
    if key in root.model_fields:
        return "It belongs at the top of the file and holds for all."
    return f"Known are: {', '.join(model.model_fields)}."


def _spelled(at: At) -> str:
    """``areas[1].bbox: `` of the way to a value; empty for the whole file."""
    parts = [
        f"[{part}]" if isinstance(part, int) else f".{part if part.isidentifier() else shown(part)}"
        for part in at
    ]
    return f"{''.join(parts).removeprefix('.')}: " if parts else ""


def _texts(value: Value, at: At) -> list[tuple[At, str]]:
    """Each text in a value, and the way to it."""
    if isinstance(value, str):
        return [(at, value)]
    if isinstance(value, dict):
        return [found for key, part in value.items() for found in _texts(part, (*at, key))]
    if isinstance(value, tuple):
        return [found for index, part in enumerate(value) for found in _texts(part, (*at, index))]
    return []


def _check_events(path: Path, text: str) -> None:
    """Refuse what a config needs not, before anything is built: the parser's events never nest."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors (&) and aliases (*) are not read. Write the value out"
        elif getattr(event, "tag", None):
            problem = "tags (!) are not read. Write a plain value; quotes make it text"
        elif depth > MAX_DEPTH:
            problem = f"more than {MAX_DEPTH} lists and mappings within each other. No key takes that"
        else:
            continue
        line = event.start_mark.line + 1 if event.start_mark else 1
        raise UsageError(f"{path}:{line}: {problem}.")


class _Reader:
    """Builds values of a document's nodes, and notes lines and problems."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.lines: dict[At, int] = {}
        self.problems: list[Problem] = []
        self._loader = loader

    def mapping(self, node: yaml.MappingNode, at: At) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(
                    Problem(at=at, text=f"line {line} has a key that is no text. Write one.")
                )
                continue
            key = key_node.value
            here = (*at, key)
            if key in found:
                told = f"given again in line {line}. Keep one of the two."
                self.problems.append(Problem(at=here, text=told))
                continue
            self.lines[here] = line
            found[key] = self._value(value_node, here)
        return found

    def _value(self, node: yaml.Node, at: At) -> Value:
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            values = []
            for index, item in enumerate(node.value):
                here = (*at, index)
                self.lines[here] = item.start_mark.line + 1
                values.append(self._value(item, here))
            return tuple(values)
        if node.tag in _CONVERTED:
            return self._converted(node, at)
        text = str(node.value)
        if not text.isprintable():
            self.problems.append(Problem(at=at, text="it has characters that no line shows. Delete them."))
        return text

    def _converted(self, node: yaml.Node, at: At) -> bool | int | float | None:
        try:
            value: bool | int | float | None = self._loader.construct_object(node)
        except ValueError:  # Python converts no number of thousands of digits
            self.problems.append(Problem(at=at, text="it is no number. Give one."))
            return None
        return value
