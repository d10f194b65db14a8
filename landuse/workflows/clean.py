"""What runs that were killed left behind: found, told with its size, and removed where that is asked for.

Only what ``landuse`` itself names and makes is ever taken for a leftover: its name has the form that
``pipeline.write`` gives it, and what lies in it has names that it would write there. Everything else is never
touched: finished maps, ledgers, folders of others. Links are never followed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import BusyError, OutputError, UsageError
from landuse.pipeline.stac_json import mapping, sequence
from landuse.workflows.change import OUTPUTS as CHANGE_FILES
from landuse.workflows.compare.compare_map import OUTPUTS as COMPARE_FILES
from landuse.workflows.mapping.assemble import OUTPUTS as MAP_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECENT_SECONDS = 600
"""What no lock guards is left alone while something in it is newer than this: a run may be at it."""

MOST_DEPTH = 4
"""How deep folders are looked into: in a root of ``landuse nightly`` lie areas, changes and pairs."""

_BLOCKS = re.compile(r"\.blocks-[0-9a-f]{16}")
_PARTIAL = re.compile(r"\.partial-[a-z0-9_]{8}")
_SCENE = re.compile(r"\.scene-[a-z0-9_]{8}")
_REPLACED = re.compile(r"\.(?P<target>[^/]+)\.(?P<kind>part|old)")

_BLOCK_FILE = re.compile(r"r\d{6,}_c\d{6,}\.npz")

_MARKS = ("run.json", "change.json", "compare.json", "catalog.json", "item.json", "state.safetensors")
"""Files by which a folder of ``landuse`` is known, as far as they name it."""

_MARK_BYTES = 1 << 20
"""So much of such a file is looked into."""

_WRITTEN = re.compile(
    r"[A-Za-z0-9_.-]+\.(tif|tif\.aux\.xml|gpkg|gpkg-journal|json|html|png|jpg|parquet|fgb|csv|txt|npz|safetensors)"
)
"""Names of files that ``landuse`` writes, whole or in part."""

_KNOWN = frozenset({*MAP_FILES, *CHANGE_FILES, *COMPARE_FILES, "raw.tif", "pieces.tif"})
"""Names of the files of a map, of a change and of a comparison: whoever holds them is of ``landuse``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that a run left."""

    path: Path
    """Where it lies."""
    size_bytes: int
    """Of all files in it."""
    told: str
    """What it is, for people."""
    kept: str = ""
    """Why it is not to be removed; empty where it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanReport:
    """What was found, and what became of it."""

    leftovers: tuple[Leftover, ...]
    """By path."""
    removed: bool
    """Whether those that may be removed were."""

    @property
    def removable(self) -> tuple[Leftover, ...]:
        """Those that may be removed."""
        return tuple(entry for entry in self.leftovers if not entry.kept)

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {
            "removed": self.removed,
            "bytes": sum(entry.size_bytes for entry in self.removable),
            "leftovers": [
                {
                    "path": str(entry.path),
                    "bytes": entry.size_bytes,
                    "what": entry.told,
                    "kept_because": entry.kept or None,
                }
                for entry in self.leftovers
            ],
        }


def clean(folders: Sequence[Path], *, remove: bool = False) -> CleanReport:
    """Find what runs left in some folders and below them, and remove it where that is asked for.

    Args:
        folders: of ``landuse``: outputs, catalogues, roots of nightly runs.
        remove: whether to remove what was found; else it is only told.

    Raises:
        UsageError: a folder is none, or nothing in it says that it is of ``landuse``.
        BusyError: a run is at work in one of them; nothing was removed.
        OutputError: something could not be read or removed.

    Example:
        >>> report = clean([Path("map")])  # doctest: +SKIP
        >>> sum(entry.size_bytes for entry in report.removable)  # doctest: +SKIP
        1048576
    """
    with ExitStack() as stack:
        found: dict[Path, Leftover] = {}
        locked: dict[Path, bool] = {}
        for folder in folders:
            if folder.is_symlink() or not folder.is_dir():
                raise UsageError(f"{folder} is no folder. Give one that `landuse` wrote to.")
            try:
                found |= {entry.path: entry for entry in _leftovers(folder.resolve(), locked, stack)}
            except OSError as error:
                raise OutputError(
                    f"{folder} cannot be looked into ({error.strerror or error}). Check its rights."
                ) from error
        leftovers = tuple(found[path] for path in sorted(found))
        report = CleanReport(leftovers=leftovers, removed=remove)
        if remove:
            for entry in report.removable:
                _remove(entry.path)
    return report


def _leftovers(folder: Path, locked: dict[Path, bool], stack: ExitStack) -> list[Leftover]:
    """What lies in a folder and below it; where something does, the folders down to it are locked.

    Args:
        folder: resolved.
        locked: the folders that are locked already, and whether they could be; those locked here join them.
        stack: keeps the locks.
    """
    by_place = {place: _candidates(place) for place in _walk(folder, MOST_DEPTH)}
    if not any(_is_own(place) for place in by_place):
        by_place = {
            place: [path for path in candidates if _shows_its_maker(path)]
            for place, candidates in by_place.items()
        }
        if not any(by_place.values()):
            raise UsageError(
                f"Nothing in {folder} says that `landuse` wrote it, so nothing in it is touched. Give a "
                "folder of its outputs."
            )
    for place, candidates in by_place.items():
        # A run locks its output folder, or of changes the one above.
        between = [parent for parent in place.parents if parent.is_relative_to(folder)]
        for guarded in (folder.parent, *reversed(between), place) if candidates else ():
            if guarded not in locked:
                locked[guarded] = stack.enter_context(_locked(guarded))
    judged = (
        _judged(path, guarded=locked[place]) for place, candidates in by_place.items() for path in candidates
    )
    return [entry for entry in judged if entry is not None]


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """A folder and those below it; hidden ones and links are not entered."""
    yield folder
    if depth == 0:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), depth - 1)


def _candidates(place: Path) -> list[Path]:
    """What in a folder has a name as runs give it."""
    names = sorted(entry.name for entry in os.scandir(place) if not entry.is_symlink())
    forms = (_BLOCKS, _PARTIAL, _SCENE, _REPLACED)
    return [place / name for name in names if any(form.fullmatch(name) for form in forms)]


def _is_own(place: Path) -> bool:
    """Whether a file in a folder says that ``landuse`` wrote it."""
    for name in _MARKS:
        path = place / name
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            if b"landuse" in file.read(_MARK_BYTES):
                return True
    return False


def _shows_its_maker(path: Path) -> bool:
    """Whether a leftover says of itself that it is of ``landuse``: where it lies no finished file tells."""
    names = {entry.name for entry, _ in _inside(path) if entry != path}
    if _BLOCKS.fullmatch(path.name):
        return "plan.json" in names
    return _PARTIAL.fullmatch(path.name) is not None and not names.isdisjoint(_KNOWN)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder against runs of ``landuse``; False where its file system knows no locks.

    Raises:
        BusyError: a run is at work there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"A run is at work in {folder}, so nothing was removed. Wait for it or end it, then clean."
            ) from None
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _judged(path: Path, *, guarded: bool) -> Leftover | None:
    """What a leftover is, and whether it may go; None of what is not of ``landuse`` at all."""
    inside = _inside(path)
    size = sum(status.st_size for _, status in inside if stat.S_ISREG(status.st_mode))
    newest = max(status.st_mtime for _, status in inside)
    name = path.name
    foreign = [entry for entry, _ in inside if entry != path and not _is_written(path, entry)]
    if _BLOCKS.fullmatch(name):
        told = _blocks_told(path)
        # Only `landuse map` works in it, and it locks the folder above.
        recent = "" if guarded else _recent(newest)
    elif match := _REPLACED.fullmatch(name):
        target = path.with_name(match["target"])
        is_old = match["kind"] == "old"
        told = f"what {'was to replace' if not is_old else 'was replaced at'} {target.name}"
        recent = _recent(newest)
        if is_old and not target.exists():
            recent = f"it is the only copy of {target.name}; the command that wrote it puts it back"
        if not path.is_dir() and not _WRITTEN.fullmatch(target.name):
            return None
    else:
        told = "files of a run that did not end"
        recent = _recent(newest)
    if foreign:
        recent = f"it holds {foreign[0].relative_to(path)}, which landuse does not write there"
    return Leftover(path=path, size_bytes=size, told=told, kept=recent)


def _inside(path: Path) -> list[tuple[Path, os.stat_result]]:
    """A file or folder and all in it, links themselves."""
    found = [(path, path.lstat())]
    if stat.S_ISDIR(found[0][1].st_mode):
        for entry in os.scandir(path):
            found += _inside(Path(entry.path))
    return found


def _is_written(top: Path, entry: Path) -> bool:
    """Whether what lies in a leftover is something that a run writes there."""
    mode = entry.lstat().st_mode
    if stat.S_ISDIR(mode):
        # A catalogue, a data set or a scene that was to come has folders of its own.
        return _PARTIAL.fullmatch(entry.name) is not None or not _BLOCKS.fullmatch(top.name)
    if not stat.S_ISREG(mode):
        return False
    if _BLOCKS.fullmatch(top.name) and not any(_PARTIAL.fullmatch(part) for part in entry.parts):
        return entry.name == "plan.json" or _BLOCK_FILE.fullmatch(entry.name) is not None
    return _WRITTEN.fullmatch(entry.name) is not None


def _blocks_told(path: Path) -> str:
    finished = sum(_BLOCK_FILE.fullmatch(entry.name) is not None for entry in os.scandir(path))
    try:
        planned = len(sequence(mapping(json.loads((path / "plan.json").read_bytes())).get("blocks")))
    except (OSError, ValueError, RecursionError):
        planned = 0
    of = f"{finished} of {planned}" if planned else f"{finished}"
    if (path.parent / "run.json").is_file():
        return f"{of} finished blocks beside a map in which reads failed; --overwrite would go on from them"
    return f"{of} finished blocks of a map that was not completed; the same command would go on from them"


def _recent(newest: float) -> str:
    minutes = RECENT_SECONDS // 60
    if time.time() - newest < RECENT_SECONDS:
        return f"something in it is newer than {minutes} minutes, so a run may be at it"
    return ""


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be removed ({error.strerror or error}).") from error
