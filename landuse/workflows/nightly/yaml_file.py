"""A YAML file to plain values: whoever wrote it is told all that is wrong with it, with lines and mends.

No anchors, aliases or tags: a config needs none, and without them no small file becomes a large value.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from landuse.errors import UsageError
from landuse.redact import printable, redact_href

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
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


class _RefusedError(yaml.MarkedYAMLError):
    """YAML that a config does not need."""


class _Loader(yaml.SafeLoader):
    """Refuses what a config does not need before anything is built of it."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; counts how deep it lies."""
        event, problem = self.peek_event(), ""  # type: ignore[no-untyped-call]  # PyYAML's stubs do not tell
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors (&) and aliases (*) are not read. Write the value out"
        elif getattr(event, "tag", None):
            problem = "tags (!) are not read. Write a plain value; quotes make it text"
        elif self.depth >= MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            problem = f"more than {MAX_DEPTH} lists and mappings within each other. No key takes that"
        if problem:
            raise _RefusedError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file that is a YAML mapping."""

    path: Path
    """The file."""
    secret_keys: Collection[str]
    """Keys at its top whose values may hold passwords: they take ``${NAME}``, and are never shown."""
    environ: Mapping[str, str] = field(repr=False)
    """What stands in the place of ``${NAME}``, by name."""
    values: dict[str, Value] = field(default_factory=dict)
    """What it holds; of keys that are given twice the first."""
    lines: dict[At, int] = field(default_factory=dict)
    """The line of each value's beginning, from 1: that of its key where it has one."""
    problems: list[tuple[At, str]] = field(default_factory=list)
    """What is wrong with it and the mend, each with the way to the value."""

    def add(self, details: ErrorDetails, root: type[Settings], parts: Mapping[str, type[Settings]]) -> None:
        """Add what pydantic found in the settings, with the mend.

        Args:
            details: its finding.
            root: the settings of the whole file.
            parts: the settings within, by the key that holds them.
        """
        at, context = details["loc"], details.get("ctx", {})
        if details["type"] == "landuse":
            self.problems.append(((*at, *context["at"]), context["problem"]))
            return
        fields = {
            name: found for model in (root, *parts.values()) for name, found in model.model_fields.items()
        }
        known = next((fields[str(part)] for part in reversed(at) if part in fields), None)
        mend = f"Give {known.description if known else '`key: value` lines'}."
        value = "this" if at and at[0] in self.secret_keys else shown(details["input"])
        told = f"{value} does not fit. {mend}"
        if details["type"] == "missing":
            told = f"it is missing. {mend}"
        elif details["type"] == "extra_forbidden":
            model = next((parts[str(part)] for part in reversed(at[:-1]) if part in parts), root)
            near = difflib.get_close_matches(str(at[-1]), model.model_fields, 1)
            told = f"unknown key. Known are: {', '.join(model.model_fields)}."
            if near:
                told = f"unknown key. Did you mean {near[0]}?"
            elif at[-1] in root.model_fields:
                told = "unknown key. It belongs at the top of the file and holds for all."
        self.problems.append((at, told))

    def refusal(self) -> UsageError:
        """All problems with their places, a line each, in the order of the file."""
        placed = [(self._line(at), f"{_spelled(at)}{problem}") for at, problem in self.problems]
        placed.sort(key=lambda entry: entry[0])
        told = [f"{self.path}:{line}: {problem}" for line, problem in placed[:MAX_TOLD]]
        if len(placed) > MAX_TOLD:
            told.append(f"{self.path}: {len(placed) - MAX_TOLD} more problems. Mend these first.")
        return UsageError("\n".join(told))

    def _line(self, at: At) -> int:
        """The line of a value, or where it is missing of what it is missing in."""
        return next((self.lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in self.lines), 1)


def read_document(path: Path, secret_keys: Collection[str], environ: Mapping[str, str]) -> Document:
    """The mapping in a YAML file, with the environment's values in place of ``${NAME}``.

    Args:
        path: the file.
        secret_keys: keys at its top that take references, and whose passwords must come by them.
        environ: values by name.

    Raises:
        UsageError: the file cannot be read, is larger or deeper than a config, is no YAML, uses what a
            config does not need, or is no mapping.
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
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{path}:{line}: a character that YAML forbids. Delete it.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = printable(error.problem or "it is broken off")
        if not isinstance(error, _RefusedError):
            told = f"this is no YAML: {told}. Mend it"
        # YAML's own error quotes the line, and what is secret in it.
        raise UsageError(f"{path}:{mark.line + 1 if mark else 1}: {told}.") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}:1: this is no mapping. Give `key: value` lines.")
    document = Document(path=path, secret_keys=secret_keys, environ=environ)
    document.values.update(_mapping(document, loader, node, ()))
    return document


def _mapping(document: Document, loader: _Loader, node: yaml.MappingNode, at: At) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.problems.append((at, f"line {line} has a key that is no text. Write one."))
        elif key in found:
            document.problems.append(((*at, key), f"given again in line {line}. Keep one of the two."))
        else:
            document.lines[*at, key] = line
            found[key] = _value(document, loader, value_node, (*at, key))
    return found


def _value(document: Document, loader: _Loader, node: yaml.Node, at: At) -> Value:
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, loader, node, at)
    if isinstance(node, yaml.SequenceNode):
        document.lines.update({(*at, i): item.start_mark.line + 1 for i, item in enumerate(node.value)})
        return tuple(_value(document, loader, item, (*at, index)) for index, item in enumerate(node.value))
    problem, value = "", node.value
    if node.tag in _CONVERTED:
        try:
            value = loader.construct_object(node)
        except ValueError:  # Python converts no number of thousands of digits
            problem, value = "it is no number. Give one.", None
    elif not value.isprintable():
        problem = "it has characters that no line shows. Delete them."
    elif len(at) == 1 and at[0] in document.secret_keys:
        problem, value = _filled(value, document.environ)
    elif "${" in value:
        mend = f"Only {', '.join(document.secret_keys)} take values from the environment."
        problem = f"${{...}} has no meaning here. {mend}"
    if problem:
        document.problems.append((at, problem))
    return value  # type: ignore[no-any-return]  # PyYAML's stubs do not know what a scalar holds


def _filled(text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """What is wrong with a text that takes references, and the text with their values in their places.

    In a URL's user, password and query the values are encoded.
    """
    bare = _REFERENCE.sub("", text)
    if _PASSWORD.search(bare):
        mend = "Put it into an environment variable and write ${NAME} in its place."
        return f"it holds a password. {mend}", text
    if "${" in bare:
        return "a ${ without a name and }. Write ${NAME}.", text
    for name in _REFERENCE.findall(text):
        if not environ.get(name):
            return f"the environment variable {name} is not set. Set it for this process.", text
        if not environ[name].isprintable():
            return f"the environment variable {name} holds more than one line of text. Set it anew.", text

    def encoded(part: re.Match[str]) -> str:
        return _REFERENCE.sub(lambda match: quote(environ[match[1]], safe=""), part[0])

    text = _SECRET_PARTS.sub(encoded, text)
    return "", _REFERENCE.sub(lambda match: environ[match[1]], text)


def wrong(problem: str, at: At = ()) -> PydanticCustomError:
    """For validators: what is wrong, and the mend; ``at`` leads from the value to the part that is meant."""
    return PydanticCustomError("landuse", "{problem}", {"problem": problem, "at": at})


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


def _spelled(at: At) -> str:
    """``areas[1].bbox: `` of the way to a value; empty for the whole file."""
    parts = [
        f"[{part}]" if isinstance(part, int) else f".{part if part.isidentifier() else shown(part)}"
        for part in at
    ]
    return f"{''.join(parts).removeprefix('.')}: " if parts else ""
