"""Legends as data: read from a file or from a table of the package, checked, and laid over a model's classes.

A legend says which classes a map is told in, which classes of a model each of them is made of, and which
codes of other people's maps mean it. The tables of the package are files beside this module, each with the
definitions it rests on; they are read when one is asked for. A user's own file may hold anything.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


BUILT_IN = ("eurosat", "cover", "worldcover", "io-lulc", "ipcc", "corine-1")
"""Names of the tables beside this module."""

MAX_BYTES = 1_000_000
"""A larger file is no legend."""

MAX_CLASSES = 250
"""Classes of a legend: a class raster holds no more, with what else its values mean."""

MAX_TITLE = 200
"""Characters of a title; of a source five times as many."""

FORMS = "CSV with the columns class,new,colour, or JSON"

_NAME = re.compile(r"[^\W_][\w .,:/&+()'-]{0,79}")
"""As of a model's classes: a name may become part of a table or of a page, and never of a path."""

_COLOUR = re.compile(r"#?([0-9a-fA-F]{6})")

_SPARE_COLOURS = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#808080"),
    *("#332288", "#117733", "#882255", "#44AA99", "#999933", "#AA4499", "#DDCC77", "#661100"),
)
"""For classes without one: told apart by most colour-blind people (Okabe and Ito 2008; Tol 2021)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendClass:
    """One class of a legend."""

    name: str
    """What it is called."""
    color: tuple[int, int, int]
    """Red, green, blue, 0..255."""
    of: tuple[str, ...] = ()
    """Classes of models that it is made of."""
    codes: tuple[str, ...] = ()
    """Values of other maps that mean it: numbers of a raster, names, or texts of a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """Classes, what they are made of, and where that comes from."""

    name: str
    """Of the table, or of the file."""
    title: str
    """What it is, for people."""
    source: str
    """The definitions it rests on; empty where a file says nothing."""
    classes: tuple[LegendClass, ...]
    """In the order of their ids."""
    ignore: tuple[str, ...] = ()
    """Values of other maps that mean no class, such as cloud."""
    is_own: bool = True
    """Whether it is a user's own, and not a table of the package, which knows classes of several models."""

    @property
    def sha256(self) -> str:
        """Digest of what it makes of a model's classes: names, colours and parts."""
        told = [[entry.name, entry.color, entry.of] for entry in self.classes]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @property
    def class_of(self) -> dict[str, str]:
        """Name of the class that a model's class belongs to, by the model's class."""
        return {part: entry.name for entry in self.classes for part in entry.of}

    @property
    def class_of_code(self) -> dict[str, str | None]:
        """Name of the class that a code means, by code; None for those that mean none."""
        known: dict[str, str | None] = {code: entry.name for entry in self.classes for code in entry.codes}
        return known | dict.fromkeys(self.ignore)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedClasses:
    """A legend laid over a model's classes: what a map's classes are sums of."""

    name: str
    """Of the legend."""
    source: str
    """The definitions it rests on."""
    model_classes: tuple[str, ...]
    """The model's classes, in its order."""
    of: tuple[tuple[str, ...], ...]
    """For each class of the map those of the model whose probabilities are added."""
    colors: tuple[tuple[int, int, int], ...]
    """Red, green, blue of each class of the map, 0..255."""

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """``of`` as places in ``model_classes``."""
        return tuple(tuple(self.model_classes.index(part) for part in parts) for parts in self.of)


def load_legend(named: str, option: str = "--legend") -> Legend:
    """The legend of a table's name or of a file's path.

    Args:
        named: one of ``BUILT_IN``, or the path of a CSV or JSON file.
        option: what messages call it.

    Raises:
        UsageError: there is none of that name, or the file is no legend; one message says why.

    Example:
        >>> load_legend("ipcc").class_of["Residential"]
        'Settlements'
    """
    if named in BUILT_IN:
        text = (Path(__file__).parent / f"{named}.json").read_text("utf-8")
        return replace(_from_json(text, named, f"{option} {named}"), is_own=False)
    path, shown = Path(named), f"{option} {printable(named)}"
    try:
        if not path.exists():
            raise UsageError(
                f"{shown} is neither a legend of landuse nor a file. Give {', '.join(BUILT_IN)}, or the path "
                f"of a {FORMS}."
            )
        if not path.is_file():
            raise UsageError(f"{shown} is no file. Give a {FORMS}.")
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{shown} has more than {MAX_BYTES} bytes, and a legend has a few lines.")
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:  # a NUL in the path, or bytes that are no UTF-8
        raise UsageError(
            f"{shown} cannot be read as text ({type(error).__name__}). Give a {FORMS}, in UTF-8."
        ) from None
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path.stem, shown)
    return _from_csv(text, path.stem, shown)


def merged_classes(
    legend: Legend, classes: Sequence[str], model: str
) -> tuple[tuple[str, ...], MergedClasses]:
    """Lay a legend over a model's classes.

    Args:
        legend: what a map is to be told in.
        classes: the model's classes, in its order.
        model: its name, for messages.

    Returns:
        The map's class names by id, which are those of the legend that some class of the model belongs to;
        and what they are sums of.

    Raises:
        UsageError: the legend says nothing of a class, or leaves fewer than two.
    """
    home = legend.class_of
    missing = [name for name in classes if name not in home]
    if missing:
        raise UsageError(
            f"Legend {printable(legend.name)} does not say what becomes of {_listed(missing)} of model "
            f"{printable(model)}, whose classes are {', '.join(map(printable, classes))}. Give a legend that "
            "names each of them."
        )
    used = [entry for entry in legend.classes if any(home[name] == entry.name for name in classes)]
    if len(used) < 2:
        raise UsageError(
            f"Legend {printable(legend.name)} makes one class, {printable(used[0].name)}, of all that model "
            f"{printable(model)} tells apart. A map needs two or more."
        )
    return tuple(entry.name for entry in used), MergedClasses(
        name=legend.name,
        source=legend.source,
        model_classes=tuple(classes),
        of=tuple(tuple(name for name in classes if home[name] == entry.name) for entry in used),
        colors=tuple(entry.color for entry in used),
    )


def check_known(legend: Legend, classes: Iterable[str], model: str) -> None:
    """See that a user's legend names no class that the model does not have: it may be misspelt.

    A table of the package names the classes of several models.

    Raises:
        UsageError: it names one.
    """
    known = tuple(classes)
    foreign = [name for name in legend.class_of if name not in known]
    if foreign and legend.is_own:
        raise UsageError(
            f"Legend {printable(legend.name)} names {_listed(foreign)}, which model {printable(model)} does "
            f"not have. Its classes are {', '.join(map(printable, known))}."
        )


def colors_of(tag: str | None, count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours in a raster's tag, a JSON list of ``"#RRGGBB"`` by id; none where it holds anything else."""
    try:
        told = json.loads(tag or "null")
    except (ValueError, RecursionError):
        return ()
    if not isinstance(told, list) or len(told) != count:
        return ()
    found = [_COLOUR.fullmatch(entry) if isinstance(entry, str) else None for entry in told]
    return tuple(_rgb(match[1]) for match in found if match) if all(found) else ()


def hexadecimal(color: tuple[int, int, int]) -> str:
    """``"#RRGGBB"``."""
    return "#{:02X}{:02X}{:02X}".format(*color)


def _rgb(digits: str) -> tuple[int, int, int]:
    return (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16))


def _from_json(text: str, name: str, shown: str) -> Legend:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown} is no JSON ({type(error).__name__}). Give a {FORMS}.") from None
    entries = document.get("classes") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            f'{shown} has no list "classes". Give {{"classes": [{{"name": "Woods", "colour": "#1E6932", '
            '"of": ["Forest"]}, ...]}.'
        )
    rows: list[_Row] = []
    for number, entry in enumerate(entries, 1):
        place = f"{shown}, class {number}"
        if not isinstance(entry, dict) or not set(entry) <= {"name", "colour", "color", "of", "codes"}:
            raise UsageError(f'{place} must be an object of "name", "colour", "of" and "codes" alone.')
        new, colour = entry.get("name"), entry.get("colour", entry.get("color", ""))
        if not isinstance(new, str) or not isinstance(colour, str):
            raise UsageError(f'{place}: "name" and "colour" must be texts.')
        rows.append(_Row(place=place, new=new, colour=colour))
        rows += [_Row(place=place, new=new, part=part) for part in _texts(entry, "of", place)]
        rows += [_Row(place=place, new=new, code=code) for code in _texts(entry, "codes", place)]
    ignored = _texts(document, "ignore", shown)
    rows += [_Row(place=shown, new="", code=code) for code in ignored]
    title, source = (str(document.get(key) or "") for key in ("title", "source"))
    return _checked(rows, name, shown, title=title, source=source)


def _texts(entry: Mapping[str, object], key: str, place: str) -> list[str]:
    values = entry.get(key, [])
    if not isinstance(values, list) or not all(
        isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip()
        for value in values
    ):
        raise UsageError(f'{place}: "{key}" must be a list of names or whole numbers.')
    return [str(value).strip() for value in values]


def _from_csv(text: str, name: str, shown: str) -> Legend:
    first = text.partition("\n")[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UsageError(f"{shown} is no CSV ({error}). Give a {FORMS}.") from None
    header = [cell.strip().lower().replace("color", "colour") for cell in lines[0]] if lines else []
    if (
        len(set(header)) != len(header)
        or not {"new"} <= set(header) <= {"class", "new", "colour", "code"}
        or not {"class", "code"} & set(header)
    ):
        raise UsageError(
            f"{shown} begins with {printable(first)[:60]!r}. Its first line must be class,new,colour, with "
            "code where it tells what codes of another map mean."
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        place = f"{shown}, line {number}"
        if len(line) != len(header):
            raise UsageError(f"{place} has {len(line)} cells, and the first line has {len(header)}.")
        row = _Row(place=place, **_cells(header, line))
        if not row.part and not row.code:
            raise UsageError(f"{place} names neither a class nor a code.")
        rows.append(row)
    return _checked(rows, name, shown, title=name, source="")


def _cells(header: Sequence[str], line: Sequence[str]) -> dict[str, str]:
    fields = {"class": "part", "new": "new", "colour": "colour", "code": "code"}
    return {fields[key]: cell.strip() for key, cell in zip(header, line, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One statement of a file: a class has a colour, is made of a class, or is meant by a code."""

    place: str
    new: str
    part: str = ""
    code: str = ""
    colour: str = ""


def _checked(rows: Sequence[_Row], name: str, shown: str, *, title: str, source: str) -> Legend:
    """The legend that rows make; the first thing wrong with them is told."""
    names = list(dict.fromkeys(row.new for row in rows if row.new))
    bad = [name for name in names if not _NAME.fullmatch(name) or name != name.strip()]
    if bad:
        told = ", ".join(repr(printable(name)[:80]) for name in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        first = next(row.place for row in rows if row.new == bad[0])
        said = f"{first}: {told} is no name" if len(bad) == 1 else f"{shown}: {told}{more} are no names"
        raise UsageError(
            f"{said}: 1 to 80 letters, digits, blanks and _.,:/&+()'-, the first a letter or a digit."
        )
    for row in rows:
        if row.part and not row.new:
            raise UsageError(
                f"{row.place} gives class {printable(row.part)[:80]!r} no new name. Only a code may be left "
                "out of a comparison that way."
            )
        if row.colour and not _COLOUR.fullmatch(row.colour):
            raise UsageError(
                f"{row.place}: {printable(row.colour)[:40]!r} is no colour. Give #RRGGBB, such as #1E6932."
            )
    if not names or len(names) > MAX_CLASSES:
        raise UsageError(f"{shown} has {len(names)} classes; a legend has 1 to {MAX_CLASSES}.")
    for kind, values in (
        ("class", [row.part for row in rows if row.part]),
        ("code", [row.code for row in rows if row.code]),
    ):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UsageError(
                f"{shown} names {kind} {printable(twice[0])[:80]!r} twice. Each {kind} belongs to one class."
            )
    colours: dict[str, str] = {}
    for row in rows:
        if row.new and row.colour:
            digits = _COLOUR.fullmatch(row.colour)
            told = digits[1].upper() if digits else ""
            if colours.setdefault(row.new, told) != told:
                raise UsageError(
                    f"{row.place} gives {row.new} the colour {row.colour}, and an earlier line gives it "
                    f"#{colours[row.new]}. A class has one colour."
                )
    if len({value.casefold() for value in names}) != len(names):
        twice = [value for value, count in Counter(n.casefold() for n in names).items() if count > 1]
        raise UsageError(f"{shown} spells class {twice[0]!r} in two ways. Spell it in one.")
    spare = cycle(_SPARE_COLOURS)
    return Legend(
        name=printable(name)[:MAX_TITLE],
        title=printable(title or name)[:MAX_TITLE],
        source=printable(source)[: 5 * MAX_TITLE],
        classes=tuple(
            LegendClass(
                name=new,
                color=_rgb(colours.get(new) or next(spare)[1:]),
                of=tuple(row.part for row in rows if row.new == new and row.part),
                codes=tuple(row.code for row in rows if row.new == new and row.code),
            )
            for new in names
        ),
        ignore=tuple(row.code for row in rows if not row.new and row.code),
    )


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(printable(name)[:80] for name in names[:5])
    return told if len(names) <= 5 else f"{told} and {len(names) - 5} more"
