"""``landuse view``: look at maps and changes in a browser, at full resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landuse.commands.options import QuietOption, terminable

VIEW_EXAMPLES = """\b
Examples:
  landuse view map
  landuse view map-june map-july change
  landuse view austria
  landuse view map --no-open --port 8765
"""


def view_command(
    maps: Annotated[
        list[Path],
        typer.Argument(
            metavar="MAP...",
            help="Folders that `landuse map` or `landuse change` wrote, or landuse.tif or change.tif in one. "
            "Of joined maps (--zones each) all zones are shown.",
        ),
    ],
    port: Annotated[
        int,
        typer.Option(help="Port of the loopback; 0 takes a free one. With one of your own links last."),
    ] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Open no browser; the address is printed either way.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Look at maps and changes in a browser, however large they are; Ctrl-C ends it.

    The page is served on the loopback of this machine and reads the rasters by ranges, where somebody looks.
    """
    from landuse.workflows.view.view import ViewRequest, open_browser, served

    with terminable(), served(ViewRequest(folders=tuple(maps), port=port)) as serving:
        try:
            typer.echo(f"open    {serving.address}")
            opened = not no_open and open_browser(serving.address)
            if not quiet:
                told = "A browser was asked to open it" if opened else "Open that address in a browser"
                typer.echo(f"{told}. Ctrl-C ends the server.", err=True)
            serving.run()
        except KeyboardInterrupt:  # how it is meant to end
            if not quiet:
                typer.echo("Ended.", err=True)
