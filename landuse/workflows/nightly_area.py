"""One window of one area: leased, given to ``WindowWork``, and whatever goes wrong with it entered.

A run that is killed leaves a lease; the next one takes the window once that has lapsed.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from landuse.errors import (
    BusyError,
    ClusterError,
    LanduseError,
    LeaseLostError,
    LedgerError,
    OutputError,
)
from landuse.redact import redact, redacted_traceback
from landuse.workflows.nightly_report import WindowReport
from landuse.workflows.nightly_window import WindowWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from landuse.pipeline.ledger_records import DueWindow, Lease
    from landuse.workflows.nightly_window import Job

log = logging.getLogger(__name__)

RENEWALS = 4
"""A lease is renewed so many times before it would lapse."""


def do_window(job: Job, window: DueWindow) -> WindowReport:
    """Map a window, unless another run is at it.

    Raises:
        OutputError, ClusterError, LedgerError: what may concern every window. None of its tries is used up.
    """
    lease = job.ledger.lease(
        window, job.owner, now_utc=job.clock(), minutes=job.lease_minutes, attempts=job.attempts
    )
    ids = tuple(key.scene_id for key in window.scenes)
    if lease is None:
        return WindowReport(window=window.window, state="left", scenes=ids, reason="Another run has it.")
    began = time.monotonic()
    try:
        try:
            with _renewed(job, lease) as check_held:
                return WindowWork(job, lease, check_held).settle()
        except (LeaseLostError, OutputError, ClusterError, LedgerError):
            raise
        # Whatever it is that one window's imagery brings about, the next one's may be sound.
        except Exception as error:
            reason = str(error)
            if not isinstance(error, LanduseError):
                reason = redact(f"{type(error).__name__}: {error}")
                told = (job.area.name, window.window, redacted_traceback(error))
                log.error("area %s: window %s failed: %s", *told)
            return _failed(job, lease, reason, time.monotonic() - began)
    except LeaseLostError as error:
        return WindowReport(window=window.window, state="left", scenes=ids, reason=str(error))
    except BusyError as error:  # a run whose lease has lapsed is still at it
        job.ledger.release(lease)
        return WindowReport(window=window.window, state="left", scenes=ids, reason=str(error))
    except (KeyboardInterrupt, OutputError, ClusterError, LedgerError):
        job.ledger.release(lease)
        raise


def count_try(job: Job, window: DueWindow, reason: str) -> WindowReport:
    """Have a window fail that was given back untried: others could be done, so it is its own trouble."""
    lease = job.ledger.lease(
        window, job.owner, now_utc=job.clock(), minutes=job.lease_minutes, attempts=job.attempts
    )
    if lease is None:
        ids = tuple(key.scene_id for key in window.scenes)
        return WindowReport(window=window.window, state="left", scenes=ids, reason="Another run has it.")
    return _failed(job, lease, reason, 0.0)


def _failed(job: Job, lease: Lease, reason: str, seconds: float) -> WindowReport:
    job.ledger.settle_failed(lease, reason, now_utc=job.clock(), attempts=job.attempts, seconds=seconds)
    ids = tuple(key.scene_id for key in lease.on.scenes)
    return WindowReport(window=lease.on.window, state="failed", scenes=ids, reason=reason, seconds=seconds)


@contextmanager
def _renewed(job: Job, lease: Lease) -> Iterator[Callable[[], None]]:
    """Renew a lease as long as the block lasts. Yields what raises ``LeaseLostError`` once that failed."""
    ended = threading.Event()
    lost: list[LeaseLostError] = []

    def renew() -> None:
        while not ended.wait(job.lease_minutes * 60 / RENEWALS):
            try:
                job.ledger.renew(lease, now_utc=job.clock(), minutes=job.lease_minutes)
            except LeaseLostError as error:
                lost.append(error)
                return
            except LedgerError as error:  # it may be back before the lease lapses
                log.warning("area %s: %s", job.area.name, error)

    def check_held() -> None:
        if lost:
            raise lost[0]

    thread = threading.Thread(target=renew, name=f"lease-{lease.on.window}", daemon=True)
    thread.start()
    try:
        yield check_held
    finally:
        ended.set()
        thread.join()
