"""What ``landuse nightly`` shows: plain lines, since it mostly runs where nobody watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from landuse.errors import LanduseError
    from landuse.workflows.nightly_report import NightReport
    from landuse.workflows.nightly_status import AreaHealth


def tell_area(*, quiet: bool) -> Callable[[str, str], None]:
    """Writes what happens in an area to stderr, a line each."""

    def tell(area: str, line: str) -> None:
        if not quiet:
            typer.echo(f"{area}: {printable(' '.join(line.split()))}", err=True)

    return tell


def print_error(error: LanduseError) -> None:
    """What went wrong beside what the exit code tells, on stderr."""
    typer.echo(f"Error: {printable(' '.join(str(error).split()))}", err=True)


def print_night(report: NightReport) -> None:
    """What a run did, on stdout: a line for each area, then those for what is left undone."""
    for area in report.areas:
        counts = {
            state: sum(window.state == state for window in area.windows)
            for state in ("due", "mapped", "skipped", "failed", "left")
        }
        told = [f"{count} {state}" for state, count in counts.items() if count]
        changes = [f"{len(area.changes)} change layers"] if area.changes else []
        earlier = [f"{len(area.earlier)} failed earlier tonight"] if area.earlier else []
        windows = ", ".join([*told, *changes, *earlier]) or "nothing to do"
        typer.echo(f"{area.area:20} {area.found} scenes, {area.new} new; windows: {windows}")
        for window in (*area.windows, *area.earlier):
            if window.state == "due":
                typer.echo(f"  due     {window.window}  {', '.join(map(printable, window.scenes))}")
            if window.state == "failed":
                typer.echo(f"  failed  {window.window}  {printable(window.reason)}")
        if area.error:
            typer.echo(f"  failed  {printable(area.error)}")


def print_health(areas: Iterable[AreaHealth]) -> None:
    """How the areas fare, on stdout."""
    typer.echo(
        f"{'area':20} {'last map':10} {'made':16} {'age d':>6} {'found':>6} {'mapped':>6} {'skipped':>7} "
        f"{'failed':>6} {'parked':>6}"
    )
    for area in areas:
        last, counts = area.last_map, area.scenes
        window, made = ("-", "-") if last is None else (last.window, f"{last.created_utc:%Y-%m-%d %H:%M}")
        age = "-" if area.age_days is None else f"{area.age_days:.1f}"
        typer.echo(
            f"{area.area:20} {window:10} {made:16} {age:>6} {counts.found:6} {counts.mapped:6} "
            f"{counts.skipped:7} {counts.failed:6} {counts.parked:6}" + ("  STALE" if area.stale else "")
        )
        for row in area.failures:
            typer.echo(
                f"  {row.state.value:7} {row.window}  {printable(row.scene_id)} {printable(row.baseline)} "
                f"after {row.attempts} tries: {printable(row.reason)}"
            )
