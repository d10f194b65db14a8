"""Tables of images and labels: CSV with an image's name first and a 0 or a 1 for each label."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from landuse.contract import check_class_names
from landuse.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LABELS = 255
"""Columns of labels; more than any known data set of images of land has."""

MAX_NAME = 1000
"""Characters of an image's name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelTable:
    """Which labels each image has."""

    path: Path
    """The CSV."""
    names: tuple[str, ...]
    """Each image's path below the folder of images."""
    labels: tuple[str, ...]
    """Label names, in the order of the columns."""
    targets: NDArray[np.uint8]
    """(N, labels), 1 where the image has the label."""

    def ordered(self, labels: tuple[str, ...], model: str) -> LabelTable:
        """The table with its columns in the order of a model's labels.

        Raises:
            UsageError: it has a label that the model does not know, or lacks one.
        """
        unknown = [name for name in self.labels if name not in labels]
        if unknown:
            raise UsageError(
                f"{self.path} has the labels {', '.join(unknown)}, which model {model} does not know. It "
                f"knows {', '.join(labels)}. Take those columns out, or choose another --model."
            )
        missing = [name for name in labels if name not in self.labels]
        if missing:
            raise UsageError(
                f"{self.path} lacks the labels {', '.join(missing)}, which model {model} tells. Add those "
                "columns: an empty one would be taken for absent."
            )
        columns = [self.labels.index(name) for name in labels]
        return LabelTable(path=self.path, names=self.names, labels=labels, targets=self.targets[:, columns])


def read_table(path: Path) -> LabelTable:
    """Read a CSV of images and labels.

    The first line names the columns: the image's, which may be named anything, then one for each label.

    Raises:
        UsageError: it cannot be read or is no such table; the message names the line.

    Example:
        >>> read_table(Path("train.csv")).labels  # doctest: +SKIP
        ('airplane', 'bare-soil')
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            labels = _labels(path, next(rows, []))
            names: list[str] = []
            targets: list[list[int]] = []
            for row in rows:
                if row:  # an empty line is none
                    name, values = _row(path, rows.line_num, row, labels)
                    names.append(name)
                    targets.append(values)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Give a CSV of images and labels.") from error
    except csv.Error as error:
        raise UsageError(f"{path}, line {rows.line_num} is no CSV ({error}). Correct it.") from error
    if not names:
        raise UsageError(f"{path} names no image. Give a CSV with a line for each image.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{path} names the image {name!r:.200} twice. Take one of the lines out.")
        seen.add(name)
    return LabelTable(path=path, names=tuple(names), labels=labels, targets=np.array(targets, np.uint8))


def _labels(path: Path, header: list[str]) -> tuple[str, ...]:
    labels = tuple(name.strip() for name in header[1:])
    try:
        if not 1 <= len(labels) <= MAX_LABELS:
            raise ValueError(f"it names {len(labels)} labels; 1 to {MAX_LABELS} are needed")
        check_class_names(labels)
        twice = sorted({name for name in labels if labels.count(name) > 1})
        if twice:
            raise ValueError(f"it names {', '.join(twice)} twice")
    except ValueError as error:
        raise UsageError(
            f"{path}: the first line does not name an image's column and then labels ({error}). Write it as "
            "image,LABEL,LABEL,..."
        ) from None
    return labels


def _row(path: Path, line: int, row: list[str], labels: tuple[str, ...]) -> tuple[str, list[int]]:
    if len(row) != len(labels) + 1:
        raise UsageError(
            f"{path}, line {line} has {len(row)} fields; the first line names {len(labels) + 1} columns. "
            "Correct the line."
        )
    name = row[0].strip()
    parts = PurePosixPath(name).parts
    if (
        not parts
        or len(name) > MAX_NAME
        or name.startswith("/")
        or ".." in parts
        or any(character in name for character in "\\:\0")
    ):
        raise UsageError(
            f"{path}, line {line}: {name!r:.200} is no path of an image below --images. Correct the line."
        )
    values = [value.strip() for value in row[1:]]
    for label, value in zip(labels, values, strict=True):
        if value not in ("0", "1"):
            raise UsageError(
                f"{path}, line {line}: {label} is {value!r:.40}; a label is 0 or 1. Correct the line."
            )
    return name, [int(value) for value in values]
