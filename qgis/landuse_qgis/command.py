"""From what a user fills in to a command line of ``landuse``, and from there to what it answers. No QGIS.

The program runs as a process of its own: what it needs, PyTorch among it, is not installed into QGIS, and a
crash of one is none of the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SETTING = "LANDUSE_COMMAND"
"""Name of the setting, and of the variable of the environment, that hold the program's path."""

INCOMPLETE = 4
"""Exit code of a map that was written although too little of it is classified."""

_ENDING_SECONDS = 20.0
_OF_QGIS = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONNOUSERSITE",
    "GDAL_DATA",
    "PROJ_LIB",
    "PROJ_DATA",
)
"""Variables that QGIS sets for its own libraries; ``landuse`` brings its own."""


class CommandError(Exception):
    """``landuse`` is missing, or it failed; says what it said."""


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    """0, or ``INCOMPLETE``."""
    out: str
    """Its standard output."""


def program(configured: str = "") -> str:
    """Where ``landuse`` is: as it is set, else by the environment, else on the PATH.

    Raises:
        CommandError: it is not there.
    """
    wanted = configured.strip() or os.environ.get(SETTING, "").strip()
    found = shutil.which(wanted or "landuse")
    if found is None:
        where = f"{wanted!r} is no program" if wanted else "landuse is not on the PATH"
        raise CommandError(
            f"{where}. Install landuse and name it in Settings, Options, Processing, Providers, landuse, "
            "such as /home/me/landuse/.venv/bin/landuse."
        )
    return found


def options(**values: object) -> list[str]:
    """Options of the command line: nothing for None and empty text, the name alone for True.

    Example:
        >>> options(min_patch_ha=0.5, overwrite=True, date="")
        ['--min-patch-ha=0.5', '--overwrite']
    """
    found = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(option)
        elif value not in (None, False, ""):
            # With = nothing that a user fills in can be taken for another option.
            found.append(f"{option}={value:g}" if isinstance(value, float) else f"{option}={value}")
    return found


def paths(*values: str) -> list[str]:
    """Arguments that are no options, whatever they begin with."""
    return ["--", *values]


def run(
    arguments: Sequence[str],
    *,
    configured: str = "",
    tell: Callable[[str], None] = lambda line: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Answer:
    """Run ``landuse`` and wait for it.

    Args:
        arguments: of the command line.
        configured: the program's path as it is set.
        tell: gets each line of standard error.
        is_cancelled: whether the user wants it ended; asked several times a second.

    Raises:
        CommandError: it is missing, failed or was cancelled.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _OF_QGIS}
    try:
        process = subprocess.Popen(
            [program(configured), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
    except OSError as error:
        raise CommandError(f"landuse cannot be started ({error.strerror or error}).") from error
    out: list[str] = []
    errors: list[str] = []

    def read_errors() -> None:
        for line in process.stderr or ():
            errors.append(line.rstrip())
            tell(errors[-1])

    threads = [
        threading.Thread(target=read_errors),
        threading.Thread(target=lambda: out.extend(process.stdout or ())),
    ]
    for thread in threads:
        thread.start()
    cancelled = False
    while process.poll() is None:
        if is_cancelled():
            cancelled = True
            _end(process)
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    if cancelled:
        raise CommandError("Cancelled. Run it again with the same folder: what is finished is kept.")
    if process.returncode not in (0, INCOMPLETE):
        said = [line for line in errors if line.startswith("Error: ")] or errors[-3:]
        raise CommandError(
            " ".join(said).removeprefix("Error: ") or f"landuse ended with {process.returncode}."
        )
    return Answer(code=process.returncode, out="".join(out))


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def style(name: str) -> str | None:
    """The style of an output such as ``"confidence"``; None where its file has its own colours."""
    path = Path(__file__).with_name("styles") / f"{name}.qml"
    return str(path) if path.is_file() else None
