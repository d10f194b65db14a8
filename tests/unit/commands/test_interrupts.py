"""Interrupts that Python drops: one that is raised in a destructor ends the command all the same."""

import signal
import subprocess
import sys

import pytest

MAIN = """
import os, sys, time
from landuse.cli import app
from landuse.commands.options import terminable

number = int(sys.argv.pop(1))

class Fragile:
    def __del__(self):
        os.kill(os.getpid(), number)  # raised right here, and dropped by Python

def command():
    with terminable():
        thing = Fragile()
        del thing
        print("dropped", flush=True)
        time.sleep(20)

app.command("fragile")(command)
app(["fragile"])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_in_a_destructor_is_not_lost(tmp_path, number, code):
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    command = [sys.executable, script, str(int(number))]
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        timeout=15,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout) == (code, "dropped\n"), done.stderr
    assert done.stderr == "Interrupted. Run the same command again: what is finished is kept.\n"
