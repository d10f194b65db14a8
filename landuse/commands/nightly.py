"""``landuse nightly``: new acquisitions become maps, every night."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.commands.options import DeviceOption, JsonOption, QuietOption, terminable
from landuse.commands.terminal import (
    print_error,
    print_health,
    print_json,
    print_night,
    print_rebuilt,
    tell_area,
)
from landuse.errors import LanduseError

if TYPE_CHECKING:
    from collections.abc import Iterator

nightly_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Map what is new in many areas, night after night."
)

ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file that names the areas; see examples/nightly.")
]


@nightly_app.command("run")
def run_command(
    config: ConfigArgument,
    area: Annotated[
        list[str] | None, typer.Option(help="Do this area alone. May be given several times.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="Look at the periods from this day on, instead of look_back_days and all that is due.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Search, say what would be mapped, and write nothing.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Map what is new: search, map, publish, compare, remember.

    Exit code 0: nothing failed. 10 + N: something failed in N areas (99: in 89 or more); the others are done,
    and what failed is tried again another night.
    """
    from landuse.workflows.nightly.config import load_config
    from landuse.workflows.nightly.run import Night, requested_day, run_nightly
    from landuse.workflows.nightly.status import write_own_metrics

    settings = load_config(config)
    night = Night(since=requested_day(since), dry_run=dry_run, device=device, tell=tell_area(quiet=quiet))
    with terminable():
        report = run_nightly(settings, night, area or ())
    with _ending(report.exit_code):
        try:
            if as_json:
                print_json(report.to_dict())
            else:
                print_night(report)
        finally:
            if not dry_run:
                write_own_metrics(settings)


@nightly_app.command("status")
def status_command(
    config: ConfigArgument,
    max_age_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Exit with code 20 when the newest mapped scene of an area is older, or there is none. "
            "Default: as CONFIG says.",
        ),
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="Also write the status as a Prometheus textfile.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show each area's last map, its age, scenes by state, damaged maps, and failures with their reasons."""
    from datetime import UTC, datetime

    from landuse.workflows.nightly.config import load_config
    from landuse.workflows.nightly.status import STALE_CODE, nightly_status, write_metrics

    areas = nightly_status(load_config(config), datetime.now(UTC), max_age_days)
    with _ending(STALE_CODE if any(area.stale for area in areas) else 0):
        if as_json:
            print_json({"areas": [area.to_dict() for area in areas]})
        else:
            print_health(areas)
        if metrics is not None:
            write_metrics(metrics, areas)


@nightly_app.command("rebuild")
def rebuild_command(
    config: ConfigArgument,
    area: Annotated[
        list[str] | None, typer.Option(help="Do this area alone. May be given several times.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a ledger that was lost, or is older than the maps, from the published maps in `out`.

    What the ledger knows stays as it is. Let no other run be at work meanwhile.
    """
    from landuse.workflows.nightly.config import load_config
    from landuse.workflows.nightly.rebuild import rebuild_ledger

    areas = rebuild_ledger(load_config(config), area or ())
    if as_json:
        print_json({"areas": [entry.to_dict() for entry in areas]})
    else:
        print_rebuilt(areas)


@contextmanager
def _ending(code: int) -> Iterator[None]:
    """End with an exit code that already has something to tell: what fails in the block is only told then."""
    try:
        yield
    except LanduseError as error:
        if not code:
            raise
        print_error(error)
    raise typer.Exit(code)
