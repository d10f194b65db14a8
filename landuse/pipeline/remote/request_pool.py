"""The requests of one run: side by side, each repeated with patience, counted, and ended by one call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from landuse.errors import ReadError
from landuse.pipeline.remote.ranges import Part, UnreachableError
from landuse.pipeline.remote.retry import ExhaustedError, Outages, Patience, RetryPolicy
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FAILED_HOST_AFTER = 2
"""After so many reads in a row that a host did not answer, it is left alone for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What was fetched so far."""

    requests: int
    """Answered with data or not."""
    fetched_bytes: int
    """Bytes kept, each counted once."""

    def __add__(self, other: Self) -> Self:
        """Both together."""
        return replace(
            self,
            requests=self.requests + other.requests,
            fetched_bytes=self.fetched_bytes + other.fetched_bytes,
        )


class RequestPool:
    """Asks for ranges of files. For any thread."""

    def __init__(self, policy: RetryPolicy, threads: int) -> None:
        """Nothing is asked for yet.

        Args:
            policy: patience with each request.
            threads: requests side by side.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="landuse-range")
        self.stopped = threading.Event()
        """Set once ``stop`` was called."""
        self._hosts = Outages(policy, after=FAILED_HOST_AFTER, stopped=self.stopped)
        self._lock = threading.Lock()
        self._parts: set[Part] = set()
        """What is being taken in."""
        self._requests = 0
        self._bytes = 0

    def close(self) -> None:
        """Stop, and wait for requests that wait for an answer: at most until their timeout."""
        self.stop()
        self._pool.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """End all patience, for good: pauses end, no request begins, bodies are not taken in any further."""
        self.stopped.set()
        with self._lock:
            parts = list(self._parts)
        for part in parts:
            part.abort()

    @property
    def traffic(self) -> Traffic:
        """What was fetched so far."""
        return Traffic(requests=self._requests, fetched_bytes=self._bytes)

    def side_by_side(
        self, get: Callable[[tuple[int, int]], None], spans: Sequence[tuple[int, int]]
    ) -> list[Exception]:
        """Call ``get`` for each span at the same time; what went wrong comes back, in order."""
        futures = [self._pool.submit(get, span) for span in spans]
        errors = (future.exception() for future in futures)
        return [error for error in errors if isinstance(error, Exception)]

    def patiently(self, host: str, attempt: Callable[[Patience], None]) -> None:
        """Repeat an attempt as the policy says; not at all at a host that is being left alone.

        Raises:
            ExhaustedError: no attempt succeeded.
        """
        patience = self._hosts.patience(host)
        try:
            patience.run(lambda: attempt(patience), printable(host))
        except ExhaustedError as error:
            # A host that is busy or breaks off does answer: its other files may well be read.
            if isinstance(error.__cause__, UnreachableError):
                self._hosts.failed(host, str(error))
            elif error.__cause__ is not None:
                self._hosts.answered(host)
            raise
        except ReadError:
            self._hosts.answered(host)
            raise
        self._hosts.answered(host)

    @contextmanager
    def taking(self, part: Part) -> Iterator[None]:
        """While a part is taken in; ``stop`` ends that even where the server is silent."""
        with self._lock:
            self._parts.add(part)
        try:
            if self.stopped.is_set():
                part.abort()
            yield
        finally:
            with self._lock:
                self._parts.discard(part)
            part.close()

    def count(self, *, requests: int = 0, fetched_bytes: int = 0) -> None:
        """Add to the traffic."""
        with self._lock:
            self._requests += requests
            self._bytes += fetched_bytes
