"""How far a run is, as text. Oracle: the arithmetic by hand, with a clock that the test moves."""

import io
import time

import pytest

from landuse.commands.terminal import Pace, map_progress, terminal
from landuse.workflows.mapping.in_process import Progress, Stage


class Clock:
    now_s = 1000.0


@pytest.fixture
def clock(monkeypatch):
    moved = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: moved.now_s)
    return moved


def at(done, blocks=40, stage=Stage.CLASSIFY):
    return Progress(stage=stage, blocks_done=done, blocks=blocks, patches=100 * done)


def test_pace_counts_from_where_the_stage_began():
    """An earlier run did 10 of 40 blocks; 5 more take 20 s, so the last 25 take 100 s."""
    pace = Pace(at(10), 1000.0)
    assert pace.told(at(10), 1000.0) == "10/40 blocks"
    assert pace.told(at(15), 1020.0) == "15/40 blocks, 25 patches/s, 0:01:40 left"
    assert pace.told(at(40), 1120.0) == "40/40 blocks, 25 patches/s"


def test_no_time_that_has_passed_is_no_division_by_it():
    assert Pace(at(0), 1000.0).told(at(1), 1000.0) == "1/40 blocks"


def test_without_a_terminal_each_stage_and_each_tenth_is_a_line(capsys, clock):
    with map_progress(quiet=False) as on_progress:
        for stage in (Stage.SEARCH, Stage.SURVEY):
            on_progress(at(0, 0, stage))
        on_progress(at(0))
        for done in range(1, 41):
            clock.now_s += 1
            on_progress(at(done))
        on_progress(at(40, 40, Stage.WRITE))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[:3] == ["searching", "looking at clouds", "classifying: 0/40 blocks"]
    tenths = [f"classifying: {done}/40 blocks, 100 patches/s" for done in range(4, 41, 4)]
    assert [line.partition(", 0:")[0] for line in lines[3:-2]] == tenths
    assert lines[3].endswith(", 0:00:36 left")
    assert lines[-2:] == ["writing", "done in 0:00:40; 4000 patches"]


def test_slow_blocks_are_told_of_before_a_tenth_of_them_is_done(capsys, clock):
    with map_progress(quiet=False) as on_progress:
        on_progress(at(0, 1000))
        for done in range(1, 13):
            clock.now_s += 25
            on_progress(at(done, 1000))
    lines = capsys.readouterr().err.splitlines()[1:-1]
    assert [line.partition("/")[0] for line in lines] == [f"classifying: {done}" for done in (3, 6, 9, 12)]


def test_quiet_is_silent(capsys):
    with map_progress(quiet=True) as on_progress:
        on_progress(at(0, 0, Stage.SEARCH))
        on_progress(at(1))
    assert capsys.readouterr() == ("", "")


def test_a_failed_run_is_not_told_as_done(capsys):
    def interrupted():
        with map_progress(quiet=False) as on_progress:
            on_progress(at(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err == "classifying: 0/40 blocks\n"


@pytest.mark.parametrize("force", ["1", ""])
def test_a_pipe_is_no_terminal_whatever_the_environment_says(monkeypatch, force):
    monkeypatch.setenv("FORCE_COLOR", force)
    assert terminal(io.StringIO()) is None
