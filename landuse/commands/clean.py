"""``landuse clean``: what runs that were killed left behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.commands.options import JsonOption
from landuse.commands.terminal import print_json
from landuse.redact import printable

if TYPE_CHECKING:
    from landuse.workflows.clean import CleanReport


def clean_command(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="Folders that `landuse` wrote to, such as a map's or a nightly root."
        ),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove what is listed; without it nothing is removed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what runs that were killed left behind, with its size; --yes removes it.

    Finished maps, ledgers and files of others are never touched, nor is a folder in which a run is at work.
    """
    from landuse.workflows.clean import clean

    report = clean(folders, remove=yes)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_cleaned(report)


def _print_cleaned(report: CleanReport) -> None:
    from rich.filesize import decimal

    done = "removed" if report.removed else "found"
    for entry in report.leftovers:
        state, why = ("kept", f"; {entry.kept}") if entry.kept else (done, "")
        path = printable(str(entry.path))
        typer.echo(f"{state:7} {path}  ({decimal(entry.size_bytes)})  {entry.told}{printable(why)}")
    count = len(report.removable)
    size = decimal(sum(entry.size_bytes for entry in report.removable))
    typer.echo(f"total   {count} leftover{'s' * (count != 1)}, {size}")
    if count and not report.removed:
        typer.echo("next    the same command with --yes removes what was found")
