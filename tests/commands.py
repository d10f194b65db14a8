"""The command line for tests: in this process, or installed and in a process of its own."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import warm

LANDUSE = Path(sys.executable).with_name("landuse")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def error(self):
        """The one message of a failed command."""
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        return lines[0].removeprefix("Error: ")


def interruptible(command, **options):
    """A process that Ctrl-C reaches, with its output in pipes unless ``options`` say otherwise.

    A shell's background jobs, and what they start, ignore SIGINT unless told otherwise.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.Popen(
        [str(part) for part in command],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **(pipes | options),
    )


def spawn(*arguments, preexec_fn=None, cold=False, **environment):
    """The installed command in a process of its own, which starts warm if nothing is asked of its start."""
    command, env = [LANDUSE, *map(str, arguments)], {**os.environ, **environment}
    if preexec_fn is None and not cold:
        done = warm.run(command, env=env)
    else:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            timeout=300,  # a busy machine is no bug
            env=env,
            preexec_fn=preexec_fn,
        )
    return Ran(done.returncode, done.stdout, done.stderr)
