"""The entry: commands by name, what holds for all of them, errors to exit codes. No logic."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import landuse
from landuse.commands.accuracy import area_command, sample_command
from landuse.commands.change import change_command
from landuse.commands.maps import (
    MAP_EXAMPLES,
    MAP_PANELS,
    catalog_command,
    demo_command,
    map_command,
)
from landuse.commands.nightly import nightly_app
from landuse.commands.options import QuietOption, Terminated, grouped
from landuse.commands.training import eurosat_command, evaluate_command, models_command, train_command
from landuse.errors import LanduseError, UsageError
from landuse.redact import printable, redact


class _Group(TyperGroup):
    """Turns an error of ours into its message and exit code; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # click's own signature
        try:
            return super().invoke(ctx)
        except LanduseError as error:
            # One line: a reason of GDAL's may have several, and a name in it anything.
            typer.echo(f"Error: {printable(' '.join(str(error).split()))}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as stop:
            told = f": {stop}" if str(stop) else ""
            typer.echo(f"Interrupted{told}. Run the same command again: what is finished is kept.", err=True)
            raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None


class _LogHandler(logging.Handler):
    """Writes to what stderr is at that moment: while a progress bar is shown, to the lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
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


data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Get data sets to train on.")
data_app.command("eurosat")(eurosat_command)

# In the order in which help lists them: maps, what they are worth, networks.
app.command("map", cls=grouped(MAP_PANELS), epilog=MAP_EXAMPLES)(map_command)
app.command("demo")(demo_command)
app.command("catalog")(catalog_command)
app.command("sample")(sample_command)
app.command("area")(area_command)
app.command("change")(change_command)
app.command("models")(models_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.add_typer(data_app, name="data")
app.add_typer(nightly_app, name="nightly")
