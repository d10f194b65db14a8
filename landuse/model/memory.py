"""Memory that a run of blocks uses again, instead of giving it back after each layer.

The layers of a network over a block make arrays of 100 MB, one after the other. The C library maps each anew
and gives it back, and the system clears each page of it at the first touch: a third of the network's time.
While ``reused_memory`` lasts, what is freed is kept for what is made next.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of ``mallopt``, by glibc's ``malloc.h``."""

_NEVER = 2**31 - 1
_USUAL_MAPS = 65_536
_LARGEST_HELD = 32 * 2**20
"""To where glibc's threshold moves by itself once arrays of this size were freed; larger ones are mapped."""

_lock = threading.Lock()
_inside = 0


@contextmanager
def reused_memory() -> Iterator[None]:
    """While it lasts, memory that this process frees is kept for its next use; at the end it is given back.

    It may be entered within itself, and by several threads: the last to leave ends it. With a C library other
    than glibc nothing changes.

    Example:
        >>> with reused_memory():
        ...     scores = [predictor.pixel_scores(dn, bands, "L2A") for dn in blocks]
    """
    global _inside
    library = _glibc()
    with _lock:
        _inside += 1
        if library is not None and _inside == 1:
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if library is not None and _inside == 0:
                library.mallopt(_MMAP_MAX, _USUAL_MAPS)
                library.mallopt(_MMAP_THRESHOLD, _LARGEST_HELD)
                library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_HELD)
                library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
