"""IO: a sparse copy of each remote file: each byte fetched once, and none that was not.

What is asked for and not there yet is fetched by range, checked and kept for the rest of the run. Nobody
reads a byte that was not fetched, so a failed request is an error and never a blank.
"""

from __future__ import annotations

import os
import tempfile
import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

from landuse.errors import OutputError, ReadError
from landuse.pipeline.remote.ranges import Part, RangeSource, UnreachableError
from landuse.pipeline.remote.retry import ExhaustedError, Patience, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from landuse.pipeline.remote.request_pool import RequestPool

HEAD_BYTES = 32_768
"""Fetched when a file is opened: the header of a COG with the index of its chunks."""

STEP_BYTES = 65_536
"""Least that one request outside the known chunks brings, on multiples of itself."""

GAP_BYTES = 16_384
"""Ranges closer than this are fetched as one: a request costs more than these bytes."""

LONGEST_BYTES = 2 << 20
"""A longer range is fetched in pieces, side by side."""

LARGEST_BYTES = 1 << 40
"""A file that is said to be larger is refused: the copies share one address space on disk."""


class Spans:
    """Which bytes of a file are there: disjoint, sorted, half-open ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Mark ``start`` to ``stop`` as there."""
        if start >= stop:
            return
        first = bisect_left(self._stops, start)
        last = first
        while last < len(self._starts) and self._starts[last] <= stop:
            start, stop = min(start, self._starts[last]), max(stop, self._stops[last])
            last += 1
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of ``start`` to ``stop`` that are not there."""
        found = []
        at = bisect_left(self._stops, start + 1)
        while start < stop:
            if at == len(self._starts) or self._starts[at] >= stop:
                found.append((start, stop))
                break
            if self._starts[at] > start:
                found.append((start, self._starts[at]))
            start = self._stops[at]
            at += 1
        return found


class SparseStore:
    """What was fetched of all files, side by side in one sparse file without a name. For any thread.

    A file each would need more open files than a process may have, and one with a name would outlive
    a process that is killed.
    """

    def __init__(self, folder: Path | None) -> None:
        """An empty store in ``folder``, by default the system's temporary one.

        Raises:
            OutputError: no file can be made there.
        """
        self._folder = folder or tempfile.gettempdir()
        self._mend = "use an output folder elsewhere" if folder else "set TMPDIR to a folder elsewhere"
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # lives as long as the run
        except OSError as error:
            raise self._useless("made", error) from error
        self._lock = threading.Lock()
        self._end = 0

    def reserve(self, size: int) -> int:
        """Where ``size`` bytes that nobody else uses begin."""
        with self._lock:
            base, self._end = self._end, self._end + size
        return base

    def write(self, at: int, piece: bytes) -> None:
        """Keep bytes.

        Raises:
            OutputError: they cannot be, on a full disk above all.
        """
        try:
            while piece:
                done = os.pwrite(self._file.fileno(), piece, at)
                at, piece = at + done, piece[done:]
        except OSError as error:
            raise self._useless("written", error) from error

    def read(self, at: int, count: int) -> bytes:
        """Bytes that were kept.

        Raises:
            OutputError: the disk does not give them back.
        """
        try:
            found = os.pread(self._file.fileno(), count, at)
        except OSError as error:
            raise self._useless("read", error) from error
        if len(found) != count:
            raise OutputError(f"The copies of remote files in {self._folder} are damaged. Check that disk.")
        return found

    def _useless(self, done: str, error: OSError) -> OutputError:
        return OutputError(
            f"The copies of remote files in {self._folder} cannot be {done} ({error.strerror}). Make room "
            f"there, or {self._mend}."
        )

    def close(self) -> None:
        """Let go of everything."""
        self._file.close()


class RemoteFile:
    """A sparse copy of one remote file. For any thread."""

    def __init__(self, source: RangeSource, requests: RequestPool, host: str, store: SparseStore) -> None:
        self._source = source
        self._requests = requests
        self._host = host
        self._span_lock = threading.Lock()
        self._spans = Spans()
        self._on_the_way: list[tuple[int, int]] = []
        """Ranges that a thread has asked for: whoever wants these bytes waits instead of asking too."""
        self._arrived = threading.Condition(self._span_lock)
        """Told when ranges are no longer on the way."""
        self._store = store
        self._base = 0
        """Where the copy begins; known with the size."""
        self._size: int | None = None
        self._version: str | None = None
        self.lost: str | None = None
        """Why the file can never be read in this run, once that is known."""

    @property
    def size(self) -> int:
        """Bytes of the whole file; fetches its head if nothing is known yet."""
        if self._size is None:
            self.fetch([(0, HEAD_BYTES)])
        if self._size is None:
            raise ReadError("the server does not say how large the file is")
        return self._size

    def read(self, start: int, count: int) -> bytes:
        """Bytes from ``start``, at most ``count`` and fewer only at the file's end.

        Raises:
            ReadError: they cannot be had; the message is the bare reason.
            OutputError: they cannot be kept.
        """
        stop = min(start + count, self.size)
        if start >= stop:
            return b""
        # Whole steps, so that the many small reads of a header are few requests.
        low = start // STEP_BYTES * STEP_BYTES
        high = min(-(-stop // STEP_BYTES) * STEP_BYTES, self.size)
        if self._missing(start, stop):
            self.fetch([(low, high)])
        return self._store.read(self._base + start, stop - start)

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Bring what is missing of half-open ranges, neighbours together, several requests side by side.

        Raises:
            ReadError: something cannot be had; the message is the bare reason.
            OutputError: it cannot be kept.
        """
        ranges = list(ranges)
        while True:
            with self._span_lock:
                if self.lost is not None:
                    raise ReadError(self.lost)
                wanted = [
                    gap for start, stop in ranges for gap in self._spans.missing(start, self._clip(stop))
                ]
                if not wanted:
                    return
                asked = _joined([gap for one in wanted for gap in self._free(*one)], self._free)
                if not asked:  # all of it is on the way to others; where that fails, this one asks
                    self._arrived.wait()
                    continue
                self._on_the_way += asked
            errors: list[Exception] = []
            try:
                errors = self._requests.side_by_side(self._get, asked)
            finally:
                with self._span_lock:
                    for error in errors:
                        if isinstance(error, ReadError):
                            # It will be said again for every block; the server need not be asked again.
                            self.lost = str(error)
                self._no_longer_on_the_way(asked)
            if errors and isinstance(errors[0], ExhaustedError):
                raise ReadError(str(errors[0])) from None
            if errors:
                raise errors[0]

    def _no_longer_on_the_way(self, spans: Iterable[tuple[int, int]]) -> None:
        with self._span_lock:
            for span in spans:
                self._on_the_way.remove(span)
            self._arrived.notify_all()

    def _free(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of ``start`` to ``stop`` that are neither there nor on the way; the lock is held."""
        way = Spans()
        for span in self._on_the_way:
            way.add(*span)
        return [gap for one in self._spans.missing(start, stop) for gap in way.missing(*one)]

    def _missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        with self._span_lock:
            return self._spans.missing(start, stop)

    def _clip(self, stop: int) -> int:
        return stop if self._size is None else min(stop, self._size)

    def _get(self, span: tuple[int, int]) -> None:
        """Fetch one range into the copy; an attempt goes on where the one before it broke off."""
        at, stop = span
        coming: list[tuple[int, int]] = []  # of all answers

        def attempt(patience: Patience) -> None:
            nonlocal at
            self._requests.count(requests=1)
            part = self._source.request(at, stop)
            with self._requests.taking(part):
                if part.start > at:
                    raise TransientError("the answer holds another range than was asked for")
                size = self._expect(part, coming)
                at = part.start
                for piece in part.pieces:
                    if at + len(piece) > size:
                        # Behind it lies another file's copy.
                        raise ReadError(f"the server sends more than the {size} bytes that it says there are")
                    self._keep(piece, at)
                    at += len(piece)
                    if patience.over:
                        raise UnreachableError(f"only {at - part.start} bytes came in time")
            if part.length is not None and at - part.start != part.length:
                raise TransientError(f"the answer broke off after {at - part.start} of {part.length} bytes")
            if at < min(stop, size):
                raise TransientError(f"the answer broke off at byte {at} of {stop}")

        try:
            self._requests.patiently(self._host, attempt)
        finally:
            self._no_longer_on_the_way(coming)

    def _expect(self, part: Part, coming: list[tuple[int, int]]) -> int:
        """The file's size; an answer of another version than those before it is refused.

        What the answer holds is on the way, and noted in ``coming``: a server that does not know ranges
        sends all of the file, which nobody need ask for again.
        """
        if part.total > LARGEST_BYTES:
            raise ReadError(f"the server says that the file has {part.total} bytes")
        with self._span_lock:
            if self._size not in (None, part.total):
                raise ReadError(f"the file changed while it was read ({self._size} to {part.total} bytes)")
            if part.version is not None and self._version not in (None, part.version):
                raise ReadError("the file changed while it was read (another ETag)")
            if self._size is None:
                self._base = self._store.reserve(part.total)
            self._size, self._version = part.total, part.version or self._version
            stop = part.total if part.length is None else min(part.start + part.length, part.total)
            coming.append((part.start, stop))
            self._on_the_way.append((part.start, stop))
        return part.total

    def _keep(self, piece: bytes, at: int) -> None:
        self._store.write(self._base + at, piece)
        with self._span_lock:
            self._spans.add(at, at + len(piece))
        self._requests.count(fetched_bytes=len(piece))


def _joined(
    wanted: Iterable[tuple[int, int]], free: Callable[[int, int], list[tuple[int, int]]]
) -> list[tuple[int, int]]:
    """Ranges with small gaps closed and long ones cut.

    Args:
        wanted: half-open ranges.
        free: the parts of a range that may be asked for: none that are there already.
    """
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(wanted):
        if joined and start <= joined[-1][1] + GAP_BYTES:
            last = joined.pop()
            # Bytes between them that are there already would be fetched twice.
            if start <= last[1] or free(last[1], start) == [(last[1], start)]:
                joined.append((last[0], max(last[1], stop)))
                continue
            joined.append(last)
        joined.append((start, stop))
    return [
        (at, min(at + LONGEST_BYTES, stop))
        for start, stop in joined
        for at in range(start, stop, LONGEST_BYTES)
    ]
