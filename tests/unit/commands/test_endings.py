"""Where a command cannot say what it has to say, or gets no memory: one message, and an exit code that tells.

Oracle: a device of the system that is always full, descriptors that are closed, and the system's own limit.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

FULL_DEVICE = Path("/dev/full")
FULL = "Stdout cannot be written (No space left on device)"


def ended(*arguments, stdout=None, preexec_fn=None):
    """Exit code and stderr of the command, whose stdout is held back as it is where nobody asks otherwise."""
    done = subprocess.run(
        [sys.executable, "-m", "landuse", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=preexec_fn,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stderr


def config_of(folder):
    path = folder / "nightly.yaml"
    path.write_text("out: out\nmax_age_days: 1\nareas:\n  - {name: box, bbox: [13.1, 48.27, 13.18, 48.31]}\n")
    return path


@pytest.mark.parametrize("stdout", ["full", "closed"])
def test_a_stdout_that_takes_nothing_is_told(stdout):
    if stdout == "full":
        with FULL_DEVICE.open("wb") as target:
            code, told = ended("--version", stdout=target)
        says = FULL
    else:
        code, told = ended("--version", preexec_fn=lambda: os.close(1))
        says = "Stdout is closed"
    assert code == 1
    assert told.startswith(f"Error: {says}")
    assert told.count("\n") == 1


def test_where_nobody_reads_on_a_command_ends_quietly_as_it_would(tmp_path):
    for arguments, expected in ((("--version",), 0), (("nightly", "status", config_of(tmp_path)), 20)):
        reads, writes = os.pipe()
        os.close(reads)
        assert ended(*arguments, stdout=writes) == (expected, "")
        os.close(writes)


def test_an_exit_code_that_tells_outlasts_a_full_stdout(tmp_path):
    with FULL_DEVICE.open("wb") as target:
        code, told = ended("nightly", "status", config_of(tmp_path), stdout=target)
    assert code == 20
    assert told.startswith(f"Error: {FULL}")


def test_memory_that_runs_out_is_told():
    """torch does not fit in: its import fails in its own words."""
    limit = 250_000_000  # less than its library alone
    code, told = ended("models", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert code == 1
    assert told.startswith("Error: Memory ran out (")
    assert told.count("\n") == 1
