"""``landuse compare``: a map beside another one, or two maps judged by labelled points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.commands.options import (
    JsonOption,
    OverwriteOption,
    PrivateHostsOption,
    one_of,
    terminable,
)
from landuse.commands.terminal import print_json
from landuse.errors import UsageError
from landuse.redact import printable

if TYPE_CHECKING:
    from landuse.pipeline.maps.estimators import Estimate
    from landuse.workflows.compare.by_samples import PairedReport
    from landuse.workflows.compare.compare_map import CompareReport

COMPARE_EXAMPLES = """\b
Examples:
  landuse compare map worldcover.tif --crosswalk worldcover
  landuse compare map clc2018.gpkg --column Code_18 --crosswalk corine-1
  landuse compare map --source planetary-computer --reference esa-worldcover
  landuse compare map map-of-another-model --samples points.gpkg
"""


def compare_command(
    map_: Annotated[
        Path, typer.Argument(metavar="MAP", help="Folder that `landuse map` wrote, or its landuse.tif.")
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REFERENCE]",
            help="What to compare it with: a GeoTIFF of classes, another map's folder, or polygons as "
            "GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile; in any CRS and resolution.",
        ),
    ] = None,
    crosswalk: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help="The classes that both are brought to: eurosat, cover, worldcover, io-lulc, ipcc, "
            "corine-1, or a file: CSV with the columns class,code,new, or JSON. Default: the names that "
            "both give their classes.",
            autocompletion=one_of("eurosat", "cover", "worldcover", "io-lulc", "ipcc", "corine-1"),
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Of polygons: the column that holds their class or code.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Of a GeoPackage: the layer of polygons, or of points for --samples.")
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="Where --reference is: planetary-computer, URL of a STAC API, or path of STAC metadata."
        ),
    ] = "planetary-computer",
    collection: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="COLLECTION",
            help="Fetch the reference from --source: esa-worldcover or io-lulc-annual-v02.",
            autocompletion=one_of("esa-worldcover", "io-lulc-annual-v02"),
        ),
    ] = None,
    year: Annotated[
        int | None, typer.Option(help="Of --reference; default: the year nearest to the map's scenes.")
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Labelled points of `landuse sample`: tell which of MAP and REFERENCE, another map, is "
            "better."
        ),
    ] = None,
    label_column: Annotated[
        str, typer.Option(help="Of --samples: column with the class on the ground.")
    ] = "reference",
    min_patch_ha: Annotated[
        float,
        typer.Option(
            help="Draw no polygons for patches of disagreement below this, in hectares; they count all the "
            "same."
        ),
    ] = 0.5,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("landuse-compare"),
    allow_private_hosts: PrivateHostsOption = False,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Compare a map with any other: agreement by class, hectares, where they differ, and a page.

    The reference is not the truth. With --samples labelled points say which of two maps is better, and how
    sure that is.
    """
    if samples is not None:
        from landuse.workflows.compare.by_samples import compare_by_samples

        if reference is None or collection is not None:
            raise UsageError(
                "--samples judges two maps. Give both: landuse compare MAP_A MAP_B --samples FILE."
            )
        paired = compare_by_samples(
            map_, reference, samples, layer=layer, column=label_column, crosswalk=crosswalk
        )
        if as_json:
            print_json(paired.to_dict())
        else:
            _print_paired(paired)
        return
    from landuse.workflows.compare.compare_map import compare_map
    from landuse.workflows.compare.request import CompareRequest

    request = CompareRequest(
        map=map_,
        reference=reference,
        collection=collection,
        source=source,
        year=year,
        crosswalk=crosswalk,
        layer=layer,
        column=column,
        min_patch_ha=min_patch_ha,
        out=out,
        overwrite=overwrite,
        allow_private_hosts=allow_private_hosts,
    )
    with terminable():
        report = compare_map(request)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_comparison(report)


def _print_comparison(report: CompareReport) -> None:
    found = report.agreement
    typer.echo(
        f"{'class':28} {'map ha':>12} {'reference ha':>13} {'user':>7} {'producer':>9} {'F1':>6} {'IoU':>6}"
    )
    for entry in found.classes:
        typer.echo(
            f"{printable(entry.name)[:28]:28} {entry.map_ha:12,.1f} {entry.reference_ha:13,.1f} "
            f"{_figure(entry.users):>7} {_figure(entry.producers):>9} {_figure(entry.f1):>6} "
            f"{_figure(entry.iou):>6}"
        )
    typer.echo(
        f"agree   on {found.overall:.1%} of {found.total_ha:,.1f} ha; disagreement: {found.quantity:.1%} of "
        f"quantity, {found.allocation:.1%} of place"
    )
    typer.echo(f"how     {printable(report.told)} Crosswalk {printable(report.crosswalk.told)}.")
    for warning in report.warnings:
        typer.echo(f"note    {printable(warning)}")
    typer.echo(
        "note    The reference is another map and not the truth; labelled points tell which is better."
    )
    for name in report.files:
        typer.echo(f"wrote   {printable(str(report.request.out))}/{name}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_paired(report: PairedReport) -> None:
    for name, accuracy in (("first", report.first), ("second", report.second)):
        typer.echo(f"{name:11} overall accuracy {_interval(accuracy)}")
    low, high = report.difference.low, report.difference.high
    typer.echo(
        f"difference  first - second {report.difference.value:+.3f} ({low:+.3f} to {high:+.3f}), of "
        f"{report.points.used} points"
    )
    typer.echo(
        f"points      {report.only_first} right on the first alone, {report.only_second} on the second "
        f"alone, {report.both_right} on both; McNemar's exact test p = {report.mcnemar_p:.4g}"
    )
    typer.echo(f"so          {report.verdict}")
    for warning in report.warnings:
        typer.echo(f"note        {printable(warning)}")


def _interval(value: Estimate) -> str:
    return f"{value.value:.3f} ({value.low:.3f}-{value.high:.3f})"
