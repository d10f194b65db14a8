"""From images to a table of probabilities, which a run that was killed goes on with.

While a run lasts its rows lie in a hidden file beside the table: first the run's settings, then a line for
each image, appended and kept part by part. A half-written last line is cut off. At the end the table is
written whole, in the order of the images, and what it was made with beside it as JSON. Both hold a mark of
each image's file; the row of another file is not taken over.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import landuse
from landuse.errors import BusyError, IncompleteError, OutputError, UsageError
from landuse.model.predict_images import Ensemble
from landuse.pipeline.read.images import PICTURES, TIFFS
from landuse.pipeline.write.folder import atomic_path, prepare_folder, write_json
from landuse.workflows.labels.stream import check_level, told_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

DIGITS = 6
"""Decimals of a probability."""

FORMAT = 2
"""Of the hidden file and of the JSON."""

MARK_CHARS = 16
"""Of the mark of an image's file, with which each line of the hidden file begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What ``landuse predict`` is asked for."""

    images: tuple[Path, ...]
    """Images, and folders of images with all that is in them."""
    models: tuple[str, ...]
    """Names of shipped models, or paths of checkpoints."""
    out: Path
    """The CSV."""
    weights: tuple[float, ...] | None = None
    """What each model counts; None counts all alike."""
    tta: bool = False
    """Average over the eight symmetries of the square."""
    level: str = "L1C"
    """Processing level of reflectance."""
    band_order: tuple[str, ...] | None = None
    """Band names of TIFFs of reflectance in file order; None takes the files' own, else EuroSAT's."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``."""
    overwrite: bool = False
    """Replace a table of other settings."""

    def __post_init__(self) -> None:
        if self.out.suffix.lower() != ".csv":
            raise UsageError(f"--out {self.out} is to be a table. End its name in .csv.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A table of probabilities."""

    out: Path
    """The CSV: an image's name, then the probability of each class or label."""
    images: int
    """Rows in it."""
    new: int
    """Rows that this run computed; the others were there."""
    columns: tuple[str, ...]
    """Class or label names."""


def list_images(given: Sequence[Path]) -> list[tuple[str, Path]]:
    """Name and file of each image, sorted within a folder.

    The images of a single folder are named by their path in it, others by their path as it is given.

    Raises:
        UsageError: a path does not exist, holds no image, or two images have one name.
    """
    found: dict[str, Path] = {}
    for place in given:
        if place.is_dir():
            files = sorted(
                path
                for path in place.rglob("*")
                if path.suffix.lower() in (*PICTURES, *TIFFS)
                and path.is_file()
                and not any(part.startswith(".") for part in path.relative_to(place).parts)
            )
            if not files:
                raise UsageError(f"{place} holds no image. Images end in {', '.join((*PICTURES, *TIFFS))}.")
        elif place.is_file():
            files = [place]
        else:
            raise UsageError(f"There is no image and no folder {place}. Correct the path.")
        for path in files:
            name = (path.relative_to(place) if len(given) == 1 and place.is_dir() else path).as_posix()
            if found.setdefault(name, path) is not path:
                raise UsageError(f"The image {name} is given twice. Give each once.")
            if any(ord(character) < 32 for character in name):
                raise UsageError(f"The image {name!r} has a line break or the like in its name. Rename it.")
    return list(found.items())


def predict_images(
    request: PredictRequest, on_progress: Callable[[int, int], None] | None = None
) -> Predicted:
    """Write the probabilities of images. Rows that an earlier run made of the same files are kept.

    Args:
        request: what to predict.
        on_progress: called with the rows that are there and with those that there will be.

    Raises:
        UsageError: an input is wrong, or ``out`` holds a table of other models, settings or images.
        ModelError: a model cannot be used.
        IncompleteError: the table is written, but some images could not be read; the next run tries those
            again.
        OutputError: ``out`` cannot be written, or another run is at work on it.
    """
    images = list_images(request.images)
    ensemble = Ensemble.load(request.models, request.weights, request.device)
    check_level(ensemble, request.level)
    settings = _settings(request, ensemble)
    prepare_folder(request.out.parent)
    broken: list[str] = []
    marks = {name: _mark(path) for name, path in images}  # before it is read
    with _open_part(request, settings, marks) as (part, rows):
        kept = len(rows)
        if on_progress is not None:
            on_progress(kept, len(images))
        missing = [image for image in images if image[0] not in rows]
        for told in told_images(
            ensemble, missing, level=request.level, band_order=request.band_order, tta=request.tta
        ):
            lines = [
                marks[name].encode() + b"," + _line([name, *(f"{value:.{DIGITS}f}" for value in values)])
                for name, values in zip(told.names, told.probabilities.tolist(), strict=True)
            ]
            _append(part, request.out, rows, told.names, lines)
            for error in told.broken:
                broken.append(str(error))
                log.error("%s", error)
            if on_progress is not None:
                on_progress(len(rows), len(images))
        about = {**settings, "images": {name: mark for name, mark in marks.items() if name in rows}}
        if missing or not request.out.exists() or _about(request.out) != about:
            _write_table(part, request.out, rows, [name for name, _ in images], ensemble.classes)
            write_json(_sidecar(request.out), about)
        _part_file(request.out).unlink()
    if broken:
        raise IncompleteError(
            f"{len(broken)} of {len(images)} images could not be read: {broken[0]} The others are in "
            f"{request.out}. Mend or remove those that are named above, and run the same command again.",
            {"images": len(images), "rows": len(rows), "broken": broken},
        )
    return Predicted(out=request.out, images=len(rows), new=len(rows) - kept, columns=ensemble.classes)


def _settings(request: PredictRequest, ensemble: Ensemble) -> dict[str, object]:
    """All that decides the figures of a row."""
    return {
        "format": FORMAT,
        "landuse_version": landuse.__version__,
        "models": [predictor.contract.name for predictor in ensemble.predictors],
        "weights_sha256": [predictor.weights_sha256 for predictor in ensemble.predictors],
        "shares": list(ensemble.shares),
        "columns": list(ensemble.classes),
        "exclusive": not ensemble.is_labels,
        "tta": request.tta,
        "level": request.level,
        "band_order": None if request.band_order is None else list(request.band_order),
    }


def _mark(path: Path) -> str:
    """Which file an image is, and of when: a digest of its path, size and time. Dashes where it is gone."""
    try:
        stat = path.stat()
    except OSError:  # reading will say so
        return "-" * MARK_CHARS
    version = f"{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}"
    return hashlib.sha256(os.fsencode(version)).hexdigest()[:MARK_CHARS]


def _part_file(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")


def _sidecar(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _line(fields: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue().encode()


@contextmanager
def _open_part(
    request: PredictRequest, settings: dict[str, object], marks: dict[str, str]
) -> Iterator[tuple[IO[bytes], dict[str, tuple[int, int]]]]:
    """The hidden file, for this run alone, and where in it each image's row lies: start and length.

    Raises:
        UsageError: it or the table is of other settings, and ``overwrite`` is not asked for.
        OutputError: it cannot be written, or another run is at work on it.
    """
    path = _part_file(request.out)
    try:
        file = path.open("a+b")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}). Choose another --out.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"Another run is at work on {request.out}. Wait for it or end it, or choose another --out."
            ) from None
        except OSError:
            pass  # a file system that knows no locks
        try:
            rows = _taken_over(file, request, settings, marks)
        except UsageError:
            if file.seek(0, os.SEEK_END) == 0:
                path.unlink(missing_ok=True)  # made just now, and of no use
            raise
        yield file, rows


def _taken_over(
    file: IO[bytes], request: PredictRequest, settings: dict[str, object], marks: dict[str, str]
) -> dict[str, tuple[int, int]]:
    head = json.dumps(settings).encode() + b"\n"
    width = len(settings["columns"]) + 1  # type: ignore[arg-type]  # a list
    file.seek(0)
    first = file.readline()
    if first == head:  # also of a run that was to overwrite: so far these are its rows
        rows, there, end = _rows(file, width, marks)
        file.truncate(end)
    elif first.endswith(b"\n") and file.read(1) and not request.overwrite:
        raise UsageError(
            f"{_part_file(request.out)} holds rows of a run with other models or settings. Run that command "
            "again, choose another --out, or start anew with --overwrite."
        )
    else:
        # No row, or what is to be overwritten.
        file.truncate(0)
        file.seek(0)
        lines = b"" if request.overwrite else _table_lines(request.out, settings)
        file.write(head + lines)
        _keep(file, request.out)
        file.seek(len(head))
        rows, there, _ = _rows(file, width, marks)
    strange = there - marks.keys()
    if strange:
        raise UsageError(
            f"{request.out} has rows of {len(strange)} images that are not given now, such as "
            f"{min(strange)}. Give them too, choose another --out, or start anew with --overwrite."
        )
    if changed := there - rows.keys():
        log.info(
            "%d images, such as %s, are other files than those of their rows, which are made anew",
            len(changed),
            min(changed),
        )
    return rows


def _table_lines(out: Path, settings: dict[str, object]) -> bytes:
    """The rows of a table of the same settings, with their marks; none where there is no table.

    Raises:
        UsageError: it is of other settings.
    """
    if not out.exists():
        return b""
    about = _about(out)
    marks = about.pop("images", None)
    if about != settings or not isinstance(marks, dict):
        raise UsageError(
            f"--out {out} is there already, and not of these models and settings. Choose another, or replace "
            "it with --overwrite."
        )
    try:
        lines = out.read_bytes().partition(b"\n")[2]
    except OSError as error:
        raise UsageError(f"{out} cannot be read ({error}). Choose another --out.") from error
    return b"".join(
        f"{marks.get((_fields(line) or [''])[0])!s:{MARK_CHARS}.{MARK_CHARS}},".encode() + line
        for line in io.BytesIO(lines)
    )


def _about(out: Path) -> dict[str, object]:
    """What a table was made with, as the JSON beside it says; nothing where that cannot be read."""
    try:
        about = json.loads(_sidecar(out).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _fields(line: bytes) -> list[str]:
    """The fields of a line; none where it is not of a table."""
    try:
        return next(csv.reader([line.decode()], strict=True))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        return []


def _rows(
    file: IO[bytes], width: int, marks: dict[str, str]
) -> tuple[dict[str, tuple[int, int]], set[str], int]:
    """Where each image's row lies from here on, whose rows there are, and where the last whole one ends.

    A row whose mark is not the image's is left out of the first.
    """
    rows: dict[str, tuple[int, int]] = {}
    there: set[str] = set()
    start = file.tell()
    for line in file:
        fields = _fields(line)
        # A line that was cut off, or that a loss of power left as zeros, and all after it.
        if not line.endswith(b"\n") or len(fields) != width + 1 or "\0" in fields[1]:
            break
        mark, name = fields[:2]
        there.add(name)
        if mark == marks.get(name):
            rows[name] = (start + MARK_CHARS + 1, len(line) - MARK_CHARS - 1)
        start += len(line)
    return rows, there, start


def _append(
    part: IO[bytes],
    out: Path,
    rows: dict[str, tuple[int, int]],
    names: Sequence[str],
    lines: Sequence[bytes],
) -> None:
    """Add lines, and see that they outlast a kill and a loss of power."""
    part.seek(0, os.SEEK_END)
    start = part.tell()
    try:
        part.write(b"".join(lines))
        _keep(part, out)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written ({error}). Make room and run the same command again."
        ) from error
    for name, line in zip(names, lines, strict=True):
        rows[name] = (start + MARK_CHARS + 1, len(line) - MARK_CHARS - 1)
        start += len(line)


def _keep(file: IO[bytes], out: Path) -> None:
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written ({error}). Make room and run the same command again."
        ) from error


def _write_table(
    part: IO[bytes],
    out: Path,
    rows: dict[str, tuple[int, int]],
    names: Sequence[str],
    columns: Sequence[str],
) -> None:
    """The table, whole, in the order of the images: each row is copied from where it lies."""
    with atomic_path(out) as partial, partial.open("wb") as table:
        table.write(_line(["image", *columns]))
        for name in names:
            if name in rows:
                start, length = rows[name]
                part.seek(start)
                table.write(part.read(length))
