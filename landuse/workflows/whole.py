"""IO: files and folders that appear whole or not at all.

The hidden names beside the target are always the same, so a run that was killed leaves nothing that
the next one does not clear away. Two runs at a time on one target are not foreseen.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a small file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``target`` when the block ends well, and vanishes otherwise.

    Raises:
        OSError: the folder above cannot be written; what was at ``target`` is untouched.
    """
    clear_up(target)
    fresh, stale = _hidden(target)
    fresh.mkdir()
    try:
        yield fresh
        if target.exists():
            target.rename(stale)
        fresh.rename(target)
    finally:
        clear_up(target)


def clear_up(target: Path) -> None:
    """Undo what an interrupted ``replacing`` left: a folder without its files, or one set aside."""
    fresh, stale = _hidden(target)
    shutil.rmtree(fresh, ignore_errors=True)
    if stale.exists() and not target.exists():
        stale.rename(target)
    shutil.rmtree(stale, ignore_errors=True)


def _hidden(target: Path) -> tuple[Path, Path]:
    """Where the folder to come and the one to go lie, beside it."""
    return target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
