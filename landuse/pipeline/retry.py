"""Trying again: what the search, the token service and every range request have in common.

A service that is busy or breaks off is asked again after a growing, jittered pause; where it says
how long to wait (``Retry-After``) that counts. Attempts and the time for all of them are bounded.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP answers that a later attempt may turn into success."""


class TransientError(Exception):
    """An attempt failed in a way that another may not. ``retry_after_s``: the pause the service asked for."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class ExhaustedError(Exception):
    """No attempt succeeded; the message says how many there were, in what time, and the last reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient to be."""

    attempts: int = 7
    """Attempts at one request, the first included."""
    first_pause_s: float = 0.5
    """Pause after the first failure; it doubles from one to the next, and half of it is random."""
    longest_pause_s: float = 30.0
    """Beyond this no pause grows by itself; a service may ask for longer."""
    deadline_s: float = 300.0
    """Time for all attempts together; no pause is begun that would not end before it."""
    connect_timeout_s: float = 10.0
    """Time to reach a server."""
    read_timeout_s: float = 60.0
    """Longest silence of a server that was reached."""

    def __post_init__(self) -> None:
        times = (self.deadline_s, self.connect_timeout_s, self.read_timeout_s)
        if self.attempts < 1 or min(times) <= 0 or min(self.first_pause_s, self.longest_pause_s) < 0:
            raise ValueError(f"{self} needs at least one attempt and times above 0")

    @property
    def timeouts_s(self) -> tuple[float, float]:
        """Connect and read timeout, as requests takes them."""
        return self.connect_timeout_s, self.read_timeout_s


class Patience:
    """A policy with its clock running: what a search of many pages spends together."""

    def __init__(self, policy: RetryPolicy, stopped: threading.Event | None = None) -> None:
        """The clock starts.

        Args:
            policy: how patient to be.
            stopped: set by another thread when nobody wants the result any more: pauses end, and no
                attempt begins.
        """
        self.policy = policy
        self._stopped = stopped or threading.Event()
        self._ends = time.monotonic() + policy.deadline_s

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._ends - time.monotonic()

    def run(self, attempt: Callable[[], T], what: str = "a request") -> T:
        """The result of the first attempt that succeeds.

        Args:
            attempt: raises ``TransientError`` where trying again may help; any other error ends it.
            what: what is asked for, for the log; without secrets.

        Raises:
            ExhaustedError: attempts or time are used up, or all was stopped.
        """
        if self._stopped.is_set():
            raise ExhaustedError("the run is being stopped")
        began = time.monotonic()
        for number in range(1, self.policy.attempts + 1):
            try:
                return attempt()
            except TransientError as error:
                spent = f"{number} attempts in {time.monotonic() - began:.1f} s"
                if number == self.policy.attempts:
                    raise ExhaustedError(f"{error} ({spent})") from error
                pause_s = self._pause_s(number, error.retry_after_s)
                if pause_s >= self.left_s:
                    raise ExhaustedError(
                        f"{error} ({spent}; the time of {self.policy.deadline_s:g} s is used up)"
                    ) from error
                log.info("%s: attempt %d failed (%s); the next in %.1f s", what, number, error, pause_s)
                if self._stopped.wait(pause_s):
                    raise ExhaustedError(f"{error} ({spent}; the run is being stopped)") from error
        raise AssertionError("the loop returns or raises")

    def _pause_s(self, number: int, asked_s: float | None) -> float:
        grown: float = min(self.policy.first_pause_s * 2 ** (number - 1), self.policy.longest_pause_s)
        # Many clients that failed together must not come back together.
        pause_s = grown * random.uniform(0.5, 1.0)
        return pause_s if asked_s is None else max(pause_s, asked_s)


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        if value.strip().isdigit():
            return float(value)
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):  # the last for a time zone of many digits
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
