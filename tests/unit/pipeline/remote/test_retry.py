"""Patience: the oracles are RFC 9110 for what a service asks for, and the policy's own documentation."""

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landuse.pipeline.remote.retry import (
    ExhaustedError,
    Outages,
    Patience,
    RetryPolicy,
    TransientError,
    retry_after_s,
)


class Pauses(threading.Event):
    """Notes the pauses instead of spending them."""

    def __init__(self) -> None:
        super().__init__()
        self.s: list[float] = []

    def wait(self, timeout=None):
        self.s.append(timeout)
        return self.is_set()


class Failing:
    """Fails so many times, then answers."""

    def __init__(self, times, retry_after_s=None):
        self.times = times
        self.retry_after_s = retry_after_s
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.times:
            raise TransientError(f"failure {self.calls}", self.retry_after_s)
        return "the answer"


policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 12),
    first_pause_s=st.floats(0, 10),
    longest_pause_s=st.floats(0, 60),
    deadline_s=st.just(1e9),
)


@given(policies, st.integers(0, 15))
def test_attempts_are_counted_and_pauses_grow_jittered_up_to_a_bound(policy, failures):
    pauses, attempt = Pauses(), Failing(failures)
    patience = Patience(policy, pauses)
    if failures < policy.attempts:
        assert patience.run(attempt) == "the answer"
    else:
        with pytest.raises(ExhaustedError, match=rf"failure {policy.attempts} \({policy.attempts} attempts"):
            patience.run(attempt)
    assert attempt.calls == min(failures + 1, policy.attempts)
    assert len(pauses.s) == attempt.calls - 1
    for number, pause_s in enumerate(pauses.s):
        grown_s = min(policy.first_pause_s * 2**number, policy.longest_pause_s)
        assert grown_s / 2 <= pause_s <= grown_s


def test_clients_that_failed_together_do_not_come_back_together():
    policy = RetryPolicy(attempts=2)
    firsts = set()
    for _ in range(20):
        pauses = Pauses()
        with pytest.raises(ExhaustedError):
            Patience(policy, pauses).run(Failing(2))
        firsts.update(pauses.s)
    assert len(firsts) > 10
    assert max(firsts) - min(firsts) > policy.first_pause_s / 8


@given(policies, st.floats(0, 1e4))
def test_the_pause_that_a_service_asks_for_is_honoured(policy, asked_s):
    pauses = Pauses()
    with pytest.raises(ExhaustedError):
        Patience(policy, pauses).run(Failing(policy.attempts, asked_s))
    assert all(asked_s <= pause_s <= max(asked_s, policy.longest_pause_s) for pause_s in pauses.s)


@given(
    policies,
    st.floats(0.1, 1e4),
    st.one_of(st.none(), st.floats(0, 1e5), st.just(float("inf"))),
)
def test_no_pause_is_begun_that_would_not_end_before_the_deadline(policy, deadline_s, asked_s):
    policy = RetryPolicy(
        attempts=policy.attempts,
        first_pause_s=policy.first_pause_s,
        longest_pause_s=policy.longest_pause_s,
        deadline_s=deadline_s,
    )
    pauses, attempt = Pauses(), Failing(99, asked_s)
    with pytest.raises(ExhaustedError) as caught:
        Patience(policy, pauses).run(attempt)
    assert all(pause_s < deadline_s for pause_s in pauses.s)
    assert ("is used up" in str(caught.value)) == (attempt.calls < policy.attempts)


def test_a_real_clock_ends_all_attempts_together():
    policy = RetryPolicy(attempts=1000, first_pause_s=0.02, longest_pause_s=0.04, deadline_s=0.3)
    patience = Patience(policy)
    began = time.monotonic()
    with pytest.raises(ExhaustedError, match=r"failure \d+ \(\d+ attempts in 0\.[23] s; the time of 0\.3 s"):
        patience.run(Failing(1000))
    assert time.monotonic() - began < 0.3 + 0.1
    # What is left is left for the next page of the same search.
    began = time.monotonic()
    with pytest.raises(ExhaustedError, match="is used up"):
        patience.run(Failing(1000))
    assert time.monotonic() - began < 0.15


def test_a_service_that_asks_for_longer_than_there_is_time_is_not_waited_for():
    began = time.monotonic()
    with pytest.raises(ExhaustedError, match="1 attempts"):
        Patience(RetryPolicy(deadline_s=5)).run(Failing(1, 3600.0))
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), ExhaustedError("done")])
def test_an_error_that_another_attempt_would_meet_again_passes_at_once(error):
    pauses = Pauses()
    calls = []

    def attempt():
        calls.append(1)
        raise error

    with pytest.raises(type(error)) as caught:
        Patience(RetryPolicy(), pauses).run(attempt)
    assert caught.value is error
    assert (len(calls), pauses.s) == (1, [])


def test_what_nobody_wants_any_more_is_not_waited_for():
    stopped = threading.Event()
    attempt = Failing(99)
    threading.Timer(0.1, stopped.set).start()
    began = time.monotonic()
    with pytest.raises(ExhaustedError, match=r"failure 1 .*being stopped"):
        Patience(RetryPolicy(first_pause_s=60, longest_pause_s=60), stopped).run(attempt)
    assert time.monotonic() - began < 5
    with pytest.raises(ExhaustedError, match="being stopped"):
        Patience(RetryPolicy(), stopped).run(attempt)
    assert attempt.calls == 1


class Clock:
    """The oracle is the documentation of ``Outages``: at most so many seconds to the next attempt."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("landuse.pipeline.remote.retry.time.monotonic", lambda: self.now)


def attempts(outages, service="host"):
    """How many attempts a request has now; 0 where it fails at once."""
    try:
        return outages.patience(service).policy.attempts
    except ExhaustedError:
        return 0


def test_a_service_that_stays_down_is_asked_once_a_rest_that_grows_to_a_bound(monkeypatch):
    clock = Clock(monkeypatch)
    outages = Outages(RetryPolicy(attempts=7, rest_s=60), after=2)
    outages.failed("host", "one")
    assert attempts(outages) == 7
    outages.failed("host", "two")
    for rest_s in (60, 120, 240, 480, 600, 600):
        outages.failed("host", "of one who was asking meanwhile")
        clock.now += rest_s - 1
        with pytest.raises(ExhaustedError, match=rf"two; it is left alone for {rest_s} s"):
            outages.patience("host")
        clock.now += 1
        assert attempts(outages) == attempts(outages) == 1
        outages.failed("host", "two")
    assert attempts(outages, "another host") == 7


def test_a_service_that_answers_has_all_patience_again(monkeypatch):
    clock = Clock(monkeypatch)
    outages = Outages(RetryPolicy(attempts=7, rest_s=60), after=2)
    for _ in range(3):
        outages.failed("host", "down")
        outages.answered("host")
    assert attempts(outages) == 7
    outages.failed("host", "down")
    outages.failed("host", "down")
    clock.now += 61
    outages.answered("host")
    assert attempts(outages) == 7
    outages.failed("host", "down")
    outages.failed("host", "down")
    clock.now += 60
    assert attempts(outages) == 1


def test_what_is_over_says_so(monkeypatch):
    clock = Clock(monkeypatch)
    stopped = threading.Event()
    patience = Outages(RetryPolicy(deadline_s=5), stopped=stopped).patience("host")
    assert not patience.over
    clock.now += 5
    assert patience.over
    patience = Patience(RetryPolicy(), stopped)
    assert not patience.over
    stopped.set()
    assert patience.over


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        # The three forms of a date that RFC 9110 wants understood, all of them over.
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Sun Nov  6 08:49:37 1994", 0),
        ("soon", None),
        ("", None),
        ("-3", None),
        ("1.5", None),
        ("²", None),
        ("Sun, 06 Nov 1994 08:49:37 +99999999999999999999", None),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after_s(value) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_retry_after_as_a_date_counts_from_now(zone):
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True).replace("GMT", zone)
    assert 85 < retry_after_s(moment) <= 90


@given(st.one_of(st.text(), st.from_regex(r"\w{3}, \d{1,2} \w{3} \d{1,30} \d\d:\d\d:\d\d [+-]\d{1,30}")))
def test_no_retry_after_is_an_error_of_ours(value):
    seconds = retry_after_s(value)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"first_pause_s": -1},
        {"longest_pause_s": -0.1},
        {"deadline_s": 0},
        {"connect_timeout_s": 0},
        {"read_timeout_s": -5},
        {"rest_s": -1},
    ],
)
def test_a_policy_without_attempts_or_time_is_refused(wrong):
    with pytest.raises(ValueError, match="at least one attempt and times above 0"):
        RetryPolicy(**wrong)
