"""``landuse suggest``: where to label next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.commands.accuracy import MapArgument
from landuse.commands.options import JsonOption, one_of
from landuse.commands.terminal import print_json
from landuse.redact import printable

if TYPE_CHECKING:
    from landuse.workflows.suggest import SuggestReport


def suggest_command(
    map_: MapArgument,
    map2: Annotated[
        Path | None,
        typer.Argument(metavar="[MAP2]", help="Another map of the area, for --by disagreement."),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="doubt: where the model is least certain. coverage: places unlike each other and unlike "
            "what is labelled, to begin with. disagreement: where two maps, of two models or dates, differ.",
            autocompletion=one_of("doubt", "coverage", "disagreement"),
        ),
    ] = "doubt",
    n: Annotated[int, typer.Option("--n", help="Points in all.")] = 100,
    min_distance: Annotated[
        float | None,
        typer.Option(
            metavar="METRES",
            help="Least distance between points, and from those of --exclude; default: half of what so many "
            "points, spread evenly, would have.",
        ),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Vector file of what is labelled already: nothing near it is suggested again.",
        ),
    ] = None,
    exclude_layer: Annotated[
        str | None, typer.Option(help="Layer of --exclude; default: samples, or the only one of points.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same points.")] = 0,
    out: Annotated[Path, typer.Option(help="GeoPackage to label in QGIS.")] = Path("suggested.gpkg"),
    as_json: JsonOption = False,
    overwrite: Annotated[bool, typer.Option(help="Replace --out, with the labels it may hold.")] = False,
) -> None:
    """Choose points that teach a model most, to be labelled in QGIS. They are no sample to judge a map by."""
    from landuse.workflows.suggest import SuggestRequest, suggest_points

    report = suggest_points(
        SuggestRequest(
            map_=map_,
            other=map2,
            by=by,
            count=n,
            distance_m=min_distance,
            exclude=exclude,
            exclude_layer=exclude_layer,
            seed=seed,
            out=out,
            overwrite=overwrite,
        )
    )
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)


def _print(report: SuggestReport) -> None:
    width = max(22, *(len(name) for name, _ in report.strata))
    typer.echo(f"{'mapped':{width}} {'points':>7}")
    for name, points in report.strata:
        typer.echo(f"{printable(name):{width}} {points:7}")
    typer.echo(f"by      {report.by}, from {report.measured}")
    typer.echo(f"apart   {report.distance_m:,.0f} m at least; {report.excluded} labels on the map left out")
    out = printable(str(report.out))
    typer.echo(f"wrote   {out}: {report.points} points, the most telling first")
    for note in report.notes:
        typer.echo(f"note    {printable(note)}")
