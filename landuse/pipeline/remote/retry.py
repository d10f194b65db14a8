"""Trying again: what the search, the token service and every range request have in common.

A service that is busy or breaks off is asked again after a growing, jittered pause; where it says
how long to wait (``Retry-After``) that counts. Attempts and the time for all of them are bounded, and
a service that is down costs all of them once, not at every request.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP answers that a later attempt may turn into success."""

LONGEST_REST = 10
"""A service that stays down is left alone for at most so many times as long as at first."""


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
    rest_s: float = 60.0
    """How long a service that is down is left alone; it doubles each time that it is still down then."""

    def __post_init__(self) -> None:
        times = (self.deadline_s, self.connect_timeout_s, self.read_timeout_s)
        pauses = (self.first_pause_s, self.longest_pause_s, self.rest_s)
        if self.attempts < 1 or min(times) <= 0 or min(pauses) < 0:
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

    @property
    def over(self) -> bool:
        """Whether the time is used up or nobody wants the result any more."""
        return self.left_s <= 0 or self._stopped.is_set()

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


@dataclass(slots=True, kw_only=True)
class _Outage:
    failures: int = 0
    """In a row."""
    reason: str = ""
    rest_s: float = 0.0
    """How long this rest lasts; 0 while there is none."""
    ends: float = 0.0
    """On the monotonic clock."""


class Outages:
    """Which services are down. For any thread.

    A service that failed so many times in a row is left alone for the policy's ``rest_s``: what is to be
    asked of it fails at once. Then each request gets one attempt, until one succeeds or the next rest begins.
    """

    def __init__(
        self, policy: RetryPolicy, *, after: int = 1, stopped: threading.Event | None = None
    ) -> None:
        """No service is down.

        Args:
            policy: patience with a service that is not.
            after: how many failures in a row make a service count as down.
            stopped: ends all patience, as that of ``Patience``.
        """
        self._policy = policy
        self._after = after
        self._stopped = stopped
        self._outages: dict[str, _Outage] = {}
        self._lock = threading.Lock()

    def patience(self, service: str) -> Patience:
        """The patience with a service now.

        Raises:
            ExhaustedError: it is being left alone; the message is that of its last failure.
        """
        with self._lock:
            outage = self._outages.get(service)
            if outage is None or outage.failures < self._after:
                return Patience(self._policy, self._stopped)
            if time.monotonic() < outage.ends:
                raise ExhaustedError(f"{outage.reason}; it is left alone for {outage.rest_s:g} s")
        return Patience(replace(self._policy, attempts=1), self._stopped)

    def failed(self, service: str, reason: str) -> None:
        """Note that a service did not serve, patience or not."""
        with self._lock:
            outage = self._outages.setdefault(service, _Outage())
            outage.failures += 1
            now = time.monotonic()
            # Whoever was asking while the rest began has met the same outage, not another.
            if outage.failures >= self._after and now >= outage.ends:
                longest_s = LONGEST_REST * self._policy.rest_s
                outage.rest_s = min(2 * outage.rest_s or self._policy.rest_s, longest_s)
                outage.ends = now + outage.rest_s
                outage.reason = reason

    def answered(self, service: str) -> None:
        """Note that a service does serve."""
        with self._lock:
            self._outages.pop(service, None)


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
