"""``landuse change``: what changed between two maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.commands.options import JsonOption, OverwriteOption, terminable
from landuse.commands.terminal import print_json
from landuse.pipeline.cells import CHANGE_THRESHOLD
from landuse.redact import printable

if TYPE_CHECKING:
    from landuse.workflows.change import ChangeReport


def change_command(
    map_a: Annotated[
        Path,
        typer.Argument(
            metavar="MAP_A", help="Folder that `landuse map --probabilities` wrote, or its landuse.tif."
        ),
    ],
    map_b: Annotated[Path, typer.Argument(metavar="MAP_B", help="The same of a later date.")],
    confirm: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MAP_C",
            help="The same of a date later still: a change stands only where this map agrees that the cell "
            "is no longer what it was. May be given several times.",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            help="A change of class counts where this share of the cell's probability moved, 0 to 1; 0 takes "
            "every difference, flicker too."
        ),
    ] = CHANGE_THRESHOLD,
    min_patch_ha: Annotated[
        float | None,
        typer.Option(
            help="Leave out patches of change below this, in hectares; a patch is all changed cells that "
            "hang together, whatever they changed to. Default: 0.5 between maps of pixels, else 0."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("landuse-change"),
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Find what changed between two maps of one place, without the flicker of cells between classes.

    Areas counted on maps are biased by the maps' errors: `landuse sample` and `landuse area` estimate a map's
    areas with intervals (Olofsson et al. 2014).
    """
    from landuse.workflows.change import ChangeRequest, compare_maps

    request = ChangeRequest(
        before=map_a,
        after=map_b,
        later=tuple(confirm or ()),
        threshold=threshold,
        min_patch_ha=min_patch_ha,
        out=out,
        overwrite=overwrite,
    )
    with terminable():
        report = compare_maps(request)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_change(report)


def _print_change(report: ChangeReport) -> None:
    cover, request = report.cover, report.request
    _print_matrix(report)
    typer.echo(
        f"cells   {cover.compared} compared: {cover.share(cover.changed):.1%} changed, "
        f"{cover.share(cover.unchanged):.1%} unchanged, {cover.share(cover.unconfirmed):.1%} unconfirmed; "
        f"{cover.nodata} more are nodata in either map"
    )
    typer.echo(
        f"flicker {cover.share(cover.naive):.1%} have another class; of these {cover.naive} cells "
        f"{cover.flicker} moved by less than {request.threshold:g}, {cover.contradicted} are contradicted by "
        f"later maps, {cover.too_small} lie in patches below {request.min_patch_ha or 0:g} ha"
    )
    for warning in report.warnings:
        typer.echo(f"note    {printable(warning)}")
    for name in report.files:
        typer.echo(f"wrote   {printable(str(request.out))}/{name}")


def _print_matrix(report: ChangeReport) -> None:
    """Hectares from class (rows) to class (columns); classes that do not occur are left out."""
    area_ha = {(row.from_id, row.to_id): row.area_ha for row in report.matrix}
    ids = sorted({index for pair in area_ha for index in pair})
    names = [printable(name) for name in report.names]
    typer.echo(f"{'ha, from row to column':22} " + " ".join(f"{_head(names[index]):>9}" for index in ids))
    for start in ids:
        cells = (f"{area_ha[start, end]:9.1f}" if (start, end) in area_ha else f"{'.':>9}" for end in ids)
        typer.echo(f"{names[start][:22]:22} {' '.join(cells)}")


def _head(name: str) -> str:
    """A name that fits a column, with a point where it is cut."""
    return name if len(name) <= 9 else f"{name[:8]}."
