"""The entry: commands by name, what holds for all of them, errors to exit codes. No logic."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, cast

import typer
from typer.core import TyperGroup

import landuse
from landuse.commands.accuracy import area_command, sample_command
from landuse.commands.change import change_command
from landuse.commands.clean import clean_command
from landuse.commands.compare import COMPARE_EXAMPLES, compare_command
from landuse.commands.labels import PREDICT_EXAMPLES, predict_command, thresholds_command
from landuse.commands.learning import LEARN_EXAMPLES, LEARN_PANELS, learn_command
from landuse.commands.maps import (
    MAP_EXAMPLES,
    MAP_PANELS,
    catalog_command,
    demo_command,
    map_command,
)
from landuse.commands.nightly import nightly_app
from landuse.commands.options import QuietOption, Terminated, grouped
from landuse.commands.suggest import suggest_command
from landuse.commands.terminal import print_error
from landuse.commands.training import (
    TRAIN_PANELS,
    eurosat_command,
    evaluate_command,
    models_command,
    train_command,
)
from landuse.commands.view import VIEW_EXAMPLES, view_command
from landuse.errors import LanduseError, OutputError, UsageError
from landuse.redact import printable, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_MEMORY = (
    "Cannot allocate memory",  # the system
    "failed to map segment",  # the loader of shared libraries
    "can't allocate memory",  # torch
    "can't start new thread",  # Python
    "bad_alloc",  # C++
)
"""What is said where memory ran out, by those who raise no MemoryError."""


class _Stdout:
    """Stdout. What cannot be written to it is an error of ours, such as a full disk.

    Where nobody reads on, as of ``landuse ... | head``, the rest is dropped, and the command ends as it
    would.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the stream has
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._told():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._told():
            self._stream.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Python would try again at its end what it holds back of the text.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            if error.errno == errno.EPIPE:
                return
            raise OutputError(
                f"Stdout cannot be written ({error.strerror}). What the command made is kept; send its "
                "output where there is room."
            ) from error


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """While an interrupt that was raised in a destructor comes again a moment later.

    Python drops what a destructor raises, and dask's futures have destructors of some length.
    """
    before = sys.unraisablehook
    again: list[threading.Timer] = []

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        number = signal.SIGTERM if issubclass(dropped.exc_type, Terminated) else signal.SIGINT
        # Not at once: it would be raised in here, and dropped too.
        again.append(threading.Timer(0.05, os.kill, (os.getpid(), number)))
        again[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()


class _Group(TyperGroup):
    """Turns an error of ours into its message and exit code; anything else keeps its traceback.

    Errors of ours are also a stdout that takes nothing and memory that ran out.
    """

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # click's own signature
        stdout = sys.stdout
        if stdout is None:
            _fail("Stdout is closed. Send it to a file or to /dev/null.")
        sys.stdout = cast("TextIO", _Stdout(stdout))
        try:
            with _interrupts_kept():
                return super().main(*args, **options)
        except LanduseError as error:  # from before any command, as of `--version`
            _fail(error, error.exit_code)
        except Exception as error:
            if not _out_of_memory(error):
                raise
            _fail(
                f"Memory ran out ({error or type(error).__name__}). End other programs or raise the limit "
                "(ulimit -v), or map a smaller area; finished blocks are kept."
            )
        finally:
            sys.stdout = stdout

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # click's own signature
        try:
            return super().invoke(ctx)
        except LanduseError as error:
            print_error(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as stop:
            told = f": {stop}" if str(stop) else ""
            typer.echo(f"Interrupted{told}. Run the same command again: what is finished is kept.", err=True)
            raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None


def _fail(problem: object, code: int = 1) -> NoReturn:
    print_error(problem)
    sys.exit(code)


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether that is what an error, or one that led to it, is about."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


class _LogHandler(logging.Handler):
    """Writes to what stderr is at that moment: while a progress bar is shown, to the lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:  # closed: print would write to stdout
            return
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody listens
            self.handleError(record)


class _LogFormatter(logging.Formatter):
    """One printable line a record, without tokens: GDAL and urllib3 quote the URLs they were given."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(" ".join(redact(super().format(record)).split()))


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Land-use maps from Sentinel-2: from an area and a date to a GeoTIFF and a GeoPackage.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"landuse {landuse.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[  # handled by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
    quiet: QuietOption = False,
) -> None:
    if quiet and verbose:
        raise UsageError("--quiet and --verbose are both given. Give one.")
    handler = _LogHandler()
    handler.setFormatter(_LogFormatter("%(levelname)s %(name)s: %(message)s"))
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(handlers=[handler], level=level)
    if not verbose:
        # What matters of theirs comes back as an error of ours.
        for library in ("rasterio", "urllib3"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
    # rasterio means to keep this to itself where it burns geometries into arrays, by way of filters of
    # warnings that all threads share: while another thread reads it slips through at times.
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")


data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Get data sets to train on.")
data_app.command("eurosat")(eurosat_command)

# In the order in which help lists them: maps, what they are worth, networks.
app.command("map", cls=grouped(MAP_PANELS), epilog=MAP_EXAMPLES)(map_command)
app.command("demo")(demo_command)
app.command("catalog")(catalog_command)
app.command("view", epilog=VIEW_EXAMPLES)(view_command)
app.command("sample")(sample_command)
app.command("area")(area_command)
app.command("suggest")(suggest_command)
app.command("change")(change_command)
app.command("compare", epilog=COMPARE_EXAMPLES)(compare_command)
app.command("learn", cls=grouped(LEARN_PANELS), epilog=LEARN_EXAMPLES)(learn_command)
app.command("clean")(clean_command)
app.command("models")(models_command)
app.command("train", cls=grouped(TRAIN_PANELS))(train_command)
app.command("evaluate", cls=grouped(TRAIN_PANELS))(evaluate_command)
app.command("thresholds")(thresholds_command)
app.command("predict", epilog=PREDICT_EXAMPLES)(predict_command)
app.add_typer(data_app, name="data")
app.add_typer(nightly_app, name="nightly")
