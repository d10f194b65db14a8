"""The command on a terminal, for tests: a pseudo-terminal of the system, and what was written to it."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading
from dataclasses import dataclass

from tests.commands import LANDUSE
from tests.warm import Warm

_CONTROL = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


@dataclass(frozen=True)
class Shown:
    code: int
    raw: str
    """All that reached the terminal."""
    out: str
    """stdout, where that was a pipe."""

    @property
    def left(self):
        """Lines that are left standing: one that was erased is gone, and so are empty ones."""
        lines, row = [""], 0
        for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\r\n|\n|\r)", self.raw):
            if part == "\x1b[2K":
                lines[row] = ""
            elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
                row -= int(up[1])
            elif part in ("\r\n", "\n"):
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif part != "\r" and not _CONTROL.fullmatch(part):
                lines[row] += part
        return [line for line in lines if line]

    @property
    def colors(self):
        """Parameters of every sequence that sets a colour of text or ground."""
        found = re.findall(r"\x1b\[([\d;]*)m", self.raw)
        codes = [code for code in found if re.match(r"(?:\d;)*(?:[34]\d|9\d|10\d)(?:;|$)", code)]
        return [code for code in codes if code not in ("39", "49")]


def on_terminal(*arguments, cols=100, pipe_stdout=False, **environment):
    """The installed command with stderr, and stdout unless it is piped, on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, cols, 0, 0))
    # What would decide instead of the terminal: libraries set COLUMNS for the process of the tests.
    deciding = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    plain = {name: value for name, value in os.environ.items() if name not in deciding}
    chunks = []

    def listen():
        with contextlib.suppress(OSError):  # Linux ends a terminal that nobody holds with EIO
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)

    listener = threading.Thread(target=listen)
    with Warm(
        [LANDUSE, *arguments],
        stdout=None if pipe_stdout else theirs,
        stderr=theirs,
        env={**plain, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment},
    ) as process:
        os.close(theirs)
        listener.start()
        out, _ = process.communicate(timeout=120)
        listener.join(timeout=10)
    os.close(ours)
    return Shown(process.returncode, b"".join(chunks).decode(), out)
