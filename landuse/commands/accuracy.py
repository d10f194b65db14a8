"""``landuse sample`` and ``area``: points to label, and what they tell of a map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.commands.options import JsonOption, OverwriteOption
from landuse.commands.terminal import print_json
from landuse.redact import printable

if TYPE_CHECKING:
    from landuse.pipeline.maps.estimators import Estimate
    from landuse.workflows.accuracy import AreaReport, SampleReport

MapArgument = Annotated[
    Path, typer.Argument(metavar="MAP", help="Folder that `landuse map` wrote, or its landuse.tif.")
]

DEFAULT_STANDARD_ERROR = 0.02
"""Some 400 points; 0.01 asks for four times as many."""


def sample_command(
    map_: MapArgument,
    n: Annotated[int | None, typer.Option("--n", help="Points in all.")] = None,
    per_class: Annotated[int | None, typer.Option(help="Points in every mapped class.")] = None,
    standard_error: Annotated[
        float | None,
        typer.Option(
            help="As many points as this standard error of the overall accuracy needs. Default, without --n "
            f"and --per-class: {DEFAULT_STANDARD_ERROR}."
        ),
    ] = None,
    expected_accuracy: Annotated[
        float, typer.Option(help="User's accuracy to expect of the classes, for --standard-error.")
    ] = 0.8,
    min_per_class: Annotated[
        int, typer.Option(help="Fewest points in a class, however rare, if it has as many cells.")
    ] = 50,
    seed: Annotated[int, typer.Option(help="The same seed draws the same points.")] = 0,
    out: Annotated[Path, typer.Option(help="GeoPackage to label in QGIS.")] = Path("points.gpkg"),
    as_json: JsonOption = False,
    overwrite: Annotated[bool, typer.Option(help="Replace --out, with the labels it may hold.")] = False,
) -> None:
    """Draw a stratified random sample of a map's cells, to be labelled in QGIS."""
    from landuse.pipeline.maps.sampling import SampleDesign
    from landuse.workflows.accuracy import draw_sample

    if n is None and per_class is None and standard_error is None:
        standard_error = DEFAULT_STANDARD_ERROR
    design = SampleDesign(
        total=n,
        per_class=per_class,
        standard_error=standard_error,
        expected_accuracy=expected_accuracy,
        min_per_class=min_per_class,
    )
    report = draw_sample(map_, design, out, seed=seed, overwrite=overwrite)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_sample(report, map_)


def area_command(
    map_: MapArgument,
    samples: Annotated[
        Path,
        typer.Option(
            help="Labelled points in any CRS: GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile."
        ),
    ],
    layer: Annotated[str | None, typer.Option(help="Layer of the points; default: samples.")] = None,
    column: Annotated[
        str, typer.Option(help="Column with the class on the ground, by name or id.")
    ] = "reference",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Also write what --json prints to a file.")
    ] = None,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Accuracy of a map, and areas with 95 % intervals, from labelled points (Olofsson et al. 2014)."""
    from landuse.workflows.accuracy import assess_map, write_report

    report = assess_map(map_, samples, layer=layer, column=column)
    if out is not None:
        write_report(report, out, overwrite=overwrite)
    if as_json:
        print_json(report.to_dict())
        return
    _print_area(report)
    if out is not None:
        typer.echo(f"wrote   {printable(str(out))}")


def _print_sample(report: SampleReport, map_: Path) -> None:
    typer.echo(f"{'class':22} {'cells':>10} {'points':>7}")
    for name, cells, points in report.classes:
        typer.echo(f"{name:22} {cells:10} {points:7}")
    out = printable(str(report.out))
    typer.echo(
        f"wrote   {out}: {report.points} points, in random order: label as many from the top as you can"
    )
    typer.echo(
        f"next    label column `reference` in QGIS, then: landuse area {printable(str(map_))} --samples {out}"
    )


def _print_area(report: AreaReport) -> None:
    accuracy, points = report.accuracy, report.points
    typer.echo(
        f"{'class':22} {'mapped ha':>12} {'estimated ha':>14} {'95 % interval':>24} {'user':>19} "
        f"{'producer':>19} {'n':>5}"
    )
    for i in report.present:
        area = report.area_ha(i)
        typer.echo(
            f"{report.source.names[i]:22} {report.mapped_ha(i):12,.1f} {area.value:14,.1f} "
            f"{f'{area.low:,.1f} to {area.high:,.1f}':>24} {_share(accuracy.users[i]):>19} "
            f"{_share(accuracy.producers[i]):>19} {report.matrix.points[i]:5}"
        )
    typer.echo(f"overall accuracy {_share(accuracy.overall)} of {report.total_ha:,.1f} ha mapped")
    typer.echo(
        f"points  {points.given}: {points.used} used, {points.unlabelled} without label, {points.outside} "
        f"outside the map, {points.nodata} on nodata, {points.repeated} repeated"
    )
    for warning in report.warnings:
        typer.echo(f"note    {printable(warning)}")
    typer.echo("method  stratified estimators; Olofsson et al. (2014), doi:10.1016/j.rse.2014.02.015")
    typer.echo("        95 % intervals: Wilson's score by stratum, combined by MOVER (Zou and Donner 2008)")


def _share(value: Estimate | None) -> str:
    return "-" if value is None else f"{value.value:.3f} ({value.low:.3f}-{value.high:.3f})"
