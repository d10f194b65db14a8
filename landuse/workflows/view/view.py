"""From folders of maps and changes to a page that a browser of this machine shows."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.pipeline.maps.viewable import folders_of, viewable
from landuse.pipeline.pages.viewer import data_paths, render_viewer
from landuse.workflows.view.server import Site, listening

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from landuse.workflows.view.server import Serving

MOST_FOLDERS = 40
"""More make no readable list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRequest:
    """What a user asks to see."""

    folders: tuple[Path, ...]
    """Folders of ``landuse map`` and ``landuse change``, in the order of the page's lists. Of joined maps of
    several UTM zones the maps of the zones are shown."""
    port: int = 0
    """To listen on; 0 takes a free one."""

    def __post_init__(self) -> None:
        _check_count(len(self.folders), "are given")


def _check_count(count: int, told: str) -> None:
    if not 1 <= count <= MOST_FOLDERS:
        raise UsageError(f"{count} folders {told}; the page shows 1 to {MOST_FOLDERS}. Give fewer.")


class _Sites:
    """What is served of some folders, made again when a raster in them was.

    Requests come in several threads; what it costs to look whether a file changed is one ``stat``.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._site, self._state = self._read()

    def __call__(self) -> Site:
        with self._lock:
            if self._state != _state(self._site.files.values()):
                self._site, self._state = self._read()
            return self._site

    def _read(self) -> tuple[Site, list[tuple[int, int] | None]]:
        found = [viewable(path) for path in self._folders]
        files = data_paths(found)
        state = _state(files.values())
        page, policy = render_viewer(found)
        return Site(page=page, policy=policy, files=files), state


def _state(files: Iterable[Path]) -> list[tuple[int, int] | None]:
    """By file: which one it is and when it was written; None where it is gone."""
    state: list[tuple[int, int] | None] = []
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            state.append(None)
        else:
            state.append((stat.st_ino, stat.st_mtime_ns))
    return state


@contextmanager
def served(request: ViewRequest) -> Iterator[Serving]:
    """Listen on the loopback with the page of some folders.

    Raises:
        UsageError: a folder holds nothing that can be shown, or they hold the maps of too many zones.
        OutputError: the port cannot be had.

    Example:
        >>> with served(ViewRequest(folders=(Path("map"),))) as serving:  # doctest: +SKIP
        ...     print(serving.address)
    """
    folders = tuple(folder for path in request.folders for folder in folders_of(path))
    _check_count(len(folders), "are given, counting those of the zones in joined maps")
    with listening(_Sites(folders), request.port) as serving:
        yield serving


def open_browser(address: str) -> bool:
    """Open a page in the user's browser; False where there is none with a window.

    A browser of text would take the terminal over, so without a display none is started.
    """
    has_display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform.startswith("linux") and not has_display:
        return False
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False
