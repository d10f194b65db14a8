"""The classes that two maps are compared in: those of the map, or of a legend that both are brought to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from landuse.errors import UsageError
from landuse.legends.legend import Legend, check_known, load_legend
from landuse.pipeline.maps.reference import IGNORED_ID, Codes, meanings
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from landuse.pipeline.maps.open import ClassMap
    from landuse.pipeline.maps.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crosswalk:
    """Classes that a map and a reference are both told in."""

    names: tuple[str, ...]
    """By id."""
    colors: tuple[tuple[int, int, int], ...]
    """Red, green, blue of each."""
    of_map: NDArray[np.uint8]
    """(256,), id of each of the map's values; 255 stays 255."""
    legend: Legend | None
    """What it rests on; None where both maps use the map's own names."""

    @property
    def told(self) -> str:
        """What it is, in words."""
        if self.legend is None:
            return "by the names of the map's classes"
        return f"{self.legend.name}: {self.legend.title}"

    @property
    def name_ids(self) -> dict[str, int]:
        """Ids by code, name, or class of a model, in any case."""
        place = {name: i for i, name in enumerate(self.names)}
        known = {name.casefold(): i for name, i in place.items()}
        if self.legend is not None:
            known = {part.casefold(): place[name] for part, name in self.legend.class_of.items()} | known
            codes = self.legend.class_of_code.items()
            known |= {code.casefold(): IGNORED_ID if name is None else place[name] for code, name in codes}
        return known

    def codes(self, names: Mapping[str, str], *, names_alone: bool) -> Codes:
        """What a reference's values mean.

        Args:
            names: of its values, where it says so.
            names_alone: whether a value with a name means that and nothing else.
        """
        known = self.name_ids
        return Codes(
            meaning=meanings(names, lambda text: known.get(text.casefold()), names_alone=names_alone)
        )

    def refuse_unknown(self, codes: Codes, shown: str) -> None:
        """See that every value that was met had a meaning.

        Raises:
            UsageError: some had none.
        """
        if not codes.unknown:
            return
        told = [f"{printable(text)[:40]!r} ({count})" for text, count in codes.unknown.most_common()]
        listed, classes = _first(told, 5), _first(self.names, 12)
        mend = (
            "Say what its values mean by --crosswalk: a legend of landuse, or a file with the columns "
            "code,new that names each."
            if self.legend is None
            else f"Crosswalk {self.legend.name} does not name them. Give a file that does, with the columns "
            "class,code,new; an empty new leaves a value out."
        )
        raise UsageError(
            f"{shown} holds values that mean none of the classes {classes}: {listed}, with how "
            f"often each. {mend}"
        )

    def other_meanings(
        self, source: ClassMap, names: Sequence[str], parts: Sequence[Sequence[str]], shown: str
    ) -> tuple[str, ...]:
        """Warn where a class has other classes of a model in it on a map than on another map.

        Args:
            source: the map.
            names: of the other map's classes.
            parts: of each the model's classes that it is the sum of.
            shown: what the warning calls the other map.
        """
        known = self.name_ids

        def parts_of(names: Sequence[str], parts: Sequence[Sequence[str]]) -> dict[int, set[str]]:
            found: dict[int, set[str]] = {}
            for name, entry in zip(names, parts, strict=True):
                found.setdefault(known.get(name.casefold(), IGNORED_ID), set()).update(entry)
            return found

        def meant(entry: set[str]) -> set[int | str]:
            return {known.get(part.casefold(), part) for part in entry}

        ours, theirs = parts_of(source.names, source.parts), parts_of(names, parts)
        differing = [
            f"{name} is {' + '.join(sorted(ours[i]))} on {source.path}, "
            f"{' + '.join(sorted(theirs[i]))} on {shown}"
            for i, name in enumerate(self.names)
            if i in ours and i in theirs and meant(ours[i]) != meant(theirs[i])
        ]
        if not differing:
            return ()
        return (
            "Classes of one name are made of different classes of a model: "
            f"{'; '.join(differing[:3])}{'; and others' if len(differing) > 3 else ''}. Where the two differ "
            "may be a matter of names. Make both maps with one --legend.",
        )


def _first(texts: Sequence[str], most: int) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedReference:
    """A reference that is ready to be read."""

    reference: Reference
    """Its classes on a grid."""
    codes: Codes
    """What its values mean."""
    shown: str
    """What messages and the page call it."""
    about: dict[str, object]
    """What it is, as JSON."""
    warnings: tuple[str, ...] = ()
    """What to keep in mind of it."""


def crosswalk_of(source: ClassMap, named: str | None) -> Crosswalk:
    """The classes to compare a map in.

    Args:
        source: the map.
        named: a legend of landuse, or a file; None keeps the map's classes.

    Raises:
        UsageError: there is no such legend, or it does not know a class of the map.
    """
    of_map = np.full(256, 255, np.uint8)
    if named is None:
        of_map[: len(source.names)] = np.arange(len(source.names))
        colors = tuple(entry.color for entry in source.entries)
        return Crosswalk(names=source.names, colors=colors, of_map=of_map, legend=None)
    legend = load_legend(named, "--crosswalk")
    palette = {entry.name: entry.color for entry in legend.classes}
    home = legend.class_of
    if not home:  # it tells what codes mean, in the map's own classes
        palette = {entry.name: entry.color for entry in source.entries} | {
            name: color for name, color in palette.items() if name not in source.names
        }
    names = tuple(palette)
    if set(source.names) <= set(names):  # a map that was told in this legend
        home = {name: name for name in names}
    else:
        check_known(legend, source.names, str(source.path))
    missing = [name for name in source.names if name not in home]
    if missing:
        raise UsageError(
            f"--crosswalk {printable(named)} does not say what becomes of {', '.join(missing[:5])} of "
            f"{source.path}, whose classes are {', '.join(source.names)}. Give one that names each of them."
        )
    for i, name in enumerate(source.names):
        of_map[i] = names.index(home[name])
    return Crosswalk(names=names, colors=tuple(palette.values()), of_map=of_map, legend=legend)
