"""What a command shows: its result on stdout, its progress on stderr.

On a terminal progress is a bar and a map's classes are a table with their colours; anywhere else both are
plain lines, for logs and pipes. ``NO_COLOR`` and ``TERM=dumb`` hold. ``landuse nightly`` mostly runs where
nobody watches: it always shows plain lines.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeAlias, TypeVar

import typer

from landuse.pipeline.cells import percent
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from landuse.model.training.config import EpochMetrics, StepProgress
    from landuse.model.training.labels.config import LabelMetrics
    from landuse.model.training.pixels.train import PixelProgress
    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import ClassArea
    from landuse.pipeline.search.find_scenes import SourceOutcome
    from landuse.workflows.demo.run_demo import DemoResult
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.dry_run import Cost, RunEstimate, ZonesEstimate
    from landuse.workflows.mapping.in_process import Progress
    from landuse.workflows.mapping.report import MapReport
    from landuse.workflows.mapping.zones.report import ZonesReport
    from landuse.workflows.nightly.rebuild import AreaRebuilt
    from landuse.workflows.nightly.report import NightReport
    from landuse.workflows.nightly.status import AreaHealth
    from landuse.workflows.training.eurosat import Transfer

M = TypeVar("M")

Show: TypeAlias = "Callable[[Progress, str | None], None]"
"""Shows how far a run is: its stage and, while blocks are done, how many and how fast."""

SILENCE_S = 60.0
"""Without a terminal a line tells of each tenth of the blocks, and of one after so long a silence."""

BARS_WIDTH = 70
"""Columns of a terminal that bars with their numbers need."""

SMALL_M2 = 1e7
"""Below 10 km2 in all, areas are told in hectares."""


def terminal(stream: TextIO | None) -> Console | None:
    """The console of a terminal that can move its cursor; None where plain lines are wanted, or nothing."""
    if stream is None or not stream.isatty():
        return None
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    return console if console.is_interactive else None


class Pace:
    """How fast a stage goes. What was finished when it began, by an earlier run, does not count."""

    def __init__(self, begun: Progress, now_s: float) -> None:
        self._begun = begun
        self._began_s = now_s

    def told(self, progress: Progress, now_s: float) -> str:
        """Blocks done; patches or pixels per second and time left as soon as they can be known."""
        told = f"{progress.blocks_done}/{progress.blocks} blocks"
        seconds = now_s - self._began_s
        done = progress.blocks_done - self._begun.blocks_done
        if not done or seconds <= 0:
            return told
        if pixels := progress.pixels - self._begun.pixels:
            told = f"{told}, {pixels / seconds / 1e6:.2f} Mpx/s"
        else:
            told = f"{told}, {(progress.patches - self._begun.patches) / seconds:.0f} patches/s"
        left = progress.blocks - progress.blocks_done
        return f"{told}, {_duration(seconds / done * left)} left" if left else told


@contextmanager
def map_progress(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """How far a map is, on stderr: bars on a terminal, else a line for each stage and now and then."""
    from landuse.workflows.mapping.in_process import Stage

    console = terminal(sys.stderr)
    shown: AbstractContextManager[Show] = nullcontext(_lines())
    if quiet:
        shown = nullcontext(lambda progress, told: None)
    elif console is not None and console.width >= BARS_WIDTH:
        shown = _bars(console)
    began_s = time.monotonic()
    latest: Progress | None = None
    with shown as show:
        pace: Pace | None = None

        def on_progress(progress: Progress) -> None:
            nonlocal latest, pace
            latest = progress
            if progress.stage != Stage.CLASSIFY:
                show(progress, None)
                return
            now_s = time.monotonic()
            pace = pace or Pace(progress, now_s)
            show(progress, pace.told(progress, now_s))

        yield on_progress
    if latest is not None and not quiet:
        took = _duration(time.monotonic() - began_s)
        done = f"{latest.pixels / 1e6:.1f} Mpx" if latest.pixels else f"{latest.patches} patches"
        typer.echo(f"done in {took}; {done}", err=True)


def _lines() -> Show:
    stage, tenth, told_s = "", 0, 0.0

    def show(progress: Progress, told: str | None) -> None:
        nonlocal stage, tenth, told_s
        now_s = time.monotonic()
        now_tenth = 10 * progress.blocks_done // progress.blocks if told else 0
        if progress.stage == stage and now_tenth == tenth and now_s - told_s < SILENCE_S:
            return
        stage, tenth, told_s = progress.stage, now_tenth, now_s
        typer.echo(f"{stage}: {told}" if told else stage, err=True)

    return show


@contextmanager
def _bars(console: Console) -> Iterator[Show]:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    # stdout is left alone: it may be a pipe. What is logged to stderr is shown above the bars.
    with Bars(*columns, console=console, transient=True, expand=True, redirect_stdout=False) as bars:
        task: TaskID | None = None
        stage = ""

        def show(progress: Progress, told: str | None) -> None:
            nonlocal task, stage
            if task is None or progress.stage != stage:
                if task is not None:
                    bars.update(task, total=1, completed=1)
                    bars.stop_task(task)
                task, stage = bars.add_task(progress.stage, total=None, told=""), progress.stage
            if told:
                bars.update(task, total=progress.blocks, completed=progress.blocks_done, told=told)

        yield show


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def training_progress(
    *, quiet: bool
) -> Iterator[tuple[Callable[[EpochMetrics], None], Callable[[StepProgress], None]]]:
    """A line on stderr for each measurement, and where it is a terminal a bar with the time left."""

    def told(metrics: EpochMetrics) -> str:
        return (
            f"epoch {metrics.epoch}  loss {metrics.loss:.3f}  val {metrics.val_accuracy:.2%}  "
            f"simulated L2A {metrics.val_accuracy_l2a:.2%}  {metrics.patches_per_s:.0f} patches/s"
        )

    with _epochs_progress(told, quiet=quiet) as callbacks:
        yield callbacks


@contextmanager
def label_training_progress(
    *, quiet: bool
) -> Iterator[tuple[Callable[[LabelMetrics], None], Callable[[StepProgress], None]]]:
    """As ``training_progress``, of a run on labels."""

    def told(metrics: LabelMetrics) -> str:
        return (
            f"epoch {metrics.epoch}  loss {metrics.loss:.3f}  val mAP {metrics.val_map:.2%}  "
            f"micro F1 {metrics.val_micro_f1:.2%}  {metrics.images_per_s:.0f} images/s"
        )

    with _epochs_progress(told, quiet=quiet) as callbacks:
        yield callbacks


@contextmanager
def _epochs_progress(
    told: Callable[[M], str], *, quiet: bool
) -> Iterator[tuple[Callable[[M], None], Callable[[StepProgress], None]]]:
    """A line for each measurement, as ``told`` words it, and a bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = terminal(sys.stderr)
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.fields[left]} left"))
    bar = Progress(
        *columns, console=console or Console(stderr=True), transient=True, disable=quiet or console is None
    )
    with bar:
        task = bar.add_task("train", total=None, epoch=1, left="?")
        left = ""

        def on_step(progress: StepProgress) -> None:
            nonlocal left
            left = _duration(progress.seconds_left)
            bar.update(task, total=progress.steps, completed=progress.step, epoch=progress.epoch, left=left)

        def on_epoch(metrics: M) -> None:
            if not quiet:
                # to what stderr is while the bar is shown: the lines above it
                print(f"{told(metrics)}  {left} left", file=sys.stderr, flush=True)

        yield on_epoch, on_step


@contextmanager
def images_progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """How many of the images are done: a bar on a terminal, else a line for each tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = terminal(sys.stderr)
    columns = (
        TextColumn("{task.completed:.0f} of {task.total:.0f} images"),
        BarColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(
        *columns, console=console or Console(stderr=True), transient=True, disable=quiet or console is None
    )
    told = -1
    with bar:
        task = bar.add_task("predict", total=0)

        def on_progress(done: int, total: int) -> None:
            nonlocal told
            bar.update(task, completed=done, total=total)
            part = done * 10 // max(total, 1)
            if console is None and not quiet and part > told:
                print(f"{done} of {total} images", file=sys.stderr, flush=True)
            told = max(part, told)

        yield on_progress


@contextmanager
def pixel_training_progress(*, quiet: bool) -> Iterator[Callable[[PixelProgress], None]]:
    """A line on stderr for each fiftieth of a run, and where it is a terminal a bar with the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = terminal(sys.stderr)
    columns = (TextColumn("step {task.completed:.0f}"), BarColumn(), TextColumn("{task.fields[left]} left"))
    bar = Progress(
        *columns, console=console or Console(stderr=True), transient=True, disable=quiet or console is None
    )
    told = -1
    with bar:
        task = bar.add_task("train", total=None, left="?")

        def on_step(progress: PixelProgress) -> None:
            nonlocal told
            left = _duration(progress.seconds_left)
            bar.update(task, total=progress.steps, completed=progress.step, left=left)
            part = progress.step * 50 // progress.steps
            if part > told and not quiet:
                losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
                print(
                    f"step {progress.step} of {progress.steps}  {losses}  {left} left",
                    file=sys.stderr,
                    flush=True,
                )
            told = part

        yield on_step


@contextmanager
def transfer_progress(*, quiet: bool) -> Iterator[Callable[[Transfer], None]]:
    """A bar for each stage of a download on stderr where it is a terminal, nothing otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = terminal(sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    with Bar(
        *columns,
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        disable=quiet or console is None,
        redirect_stdout=False,
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(transfer: Transfer) -> None:
            stage, done = transfer.stage, transfer.done
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, amount="")
            amount = f"{done} patches" if stage == "unpacking" else f"{done / 1e6:.1f} MB"
            bar.update(tasks[stage], total=transfer.total, completed=done, amount=amount)

        yield on_progress


def print_precision(classifier: Classifier, *, quiet: bool) -> None:
    """What ``--precision auto`` measured and chose, on stderr; nothing where nothing was measured."""
    timings = getattr(classifier, "timings", ())
    if quiet or not timings:
        return
    told = ", ".join(map(str, timings))
    if len(timings) == 1:
        told += "; this machine does not compute in bf16"
    typer.echo(f"precision   {told}: {classifier.precision} is taken", err=True)  # type: ignore[union-attr]  # what has timings has a precision


def print_json(values: Mapping[str, object]) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(values, indent=2, allow_nan=False))


def print_estimate(estimate: RunEstimate) -> None:
    """What a dry run found, on stdout."""
    plan, gaps = estimate.plan, estimate.gaps
    _print_sources(estimate.sources)
    typer.echo(
        f"grid    {plan.cols} x {plan.rows} cells of {plan.cell_m:g} m in {plan.crs}, "
        f"{len(plan.blocks)} blocks"
    )
    typer.echo(
        f"model   {printable(plan.model)} on {', '.join(plan.bands)} ({plan.level}), "
        + (f"{plan.composite} composite" if plan.fuse == "pixels" else "each date by itself")
        + (f", smoothed over {plan.smooth_px} px" if plan.smooth else "")
    )
    for scene in plan.scenes:
        cloud = "cloud unknown" if scene.cloud_percent is None else f"{scene.cloud_percent:.1f} % cloud"
        tile = f" {printable(scene.tile)}" if scene.tile else ""
        also = "".join(f", also at {printable(mirror.provider)}" for mirror in scene.mirrors)
        typer.echo(
            f"scene   {scene.acquired_utc:%Y-%m-%d}{tile} {printable(scene.id)} ({cloud} in all{also})"
        )
    for warning in plan.warnings:
        typer.echo(f"note    {printable(warning)}")
    typer.echo(
        f"gaps    {gaps.percent:.1f} % of the area is in no scene"
        + "".join(f"; {','.join(f'{edge:g}' for edge in bbox)}" for bbox in gaps.bboxes)
    )
    _print_cost(estimate.cost)
    if estimate.calibration is None:
        typer.echo("speed   timed for a moment; --calibrate measures small runs, and keeps that for later")
    else:
        typer.echo(f"speed   of small runs on this machine, measured at {estimate.calibration.measured_utc}")


def _print_cost(estimate: Cost) -> None:
    """What a run takes, on stdout."""
    low, high = (size / 1e6 for size in estimate.read_bytes)
    typer.echo(f"read    about {low:.1f} MB if the first scenes are clear, {high:.1f} MB if all are needed")
    about = ""
    if estimate.disk_about_bytes is not None:
        about = f"about {max(estimate.disk_about_bytes) / 1e6:.1f} MB, "
    typer.echo(f"disk    {about}up to {max(estimate.disk_bytes) / 1e6:.1f} MB while it runs")
    if estimate.memory_bytes is not None:
        typer.echo(f"memory  about {estimate.memory_bytes / 1e9:.2f} GB at most")
    soon, late = estimate.seconds
    work = f"{estimate.pixels / 1e6:.1f} Mpx" if estimate.pixels else f"{estimate.patches} patches"
    span = f"{soon:.0f} s" if round(soon) == round(late) else f"{soon:.0f} to {late:.0f} s"
    typer.echo(
        f"time    {span}: {work} take {estimate.network_seconds:.0f} s here, fetching at an assumed 10 MB/s "
        "and writing the rest"
    )


def print_any_estimate(estimate: RunEstimate | ZonesEstimate) -> None:
    """What a dry run found, on stdout: of one map, or of each zone's and of all together."""
    from landuse.workflows.mapping.dry_run import RunEstimate

    if isinstance(estimate, RunEstimate):
        print_estimate(estimate)
        return
    for name, zone in estimate.zones:
        typer.echo(f"zone    {name}")
        print_estimate(zone)
    for name, reason in estimate.unmapped:
        typer.echo(f"zone    {name}: no map, {printable(reason)}")
    typer.echo(f"all     {len(estimate.zones)} zones")
    _print_cost(estimate.total)


def _print_sources(sources: Iterable[SourceOutcome]) -> None:
    for source in sources:
        why = f": {printable(source.reason)}" if source.reason else ""
        typer.echo(f"source  {printable(source.source)} {source.state}, {source.scenes} scenes{why}")


def print_any_report(report: MapReport | ZonesReport) -> None:
    """What a run did, on stdout: of one map, or of the maps of several zones."""
    from landuse.workflows.mapping.report import MapReport

    if isinstance(report, MapReport):
        print_report(report)
        return
    cover = report.cover
    _print_classes(report.classes)
    _print_covers(report.covers)
    for zone in report.zones:
        typer.echo(
            f"zone    {zone.part.name}: {zone.land_m2 / 1e6:.2f} km2, {_percent(zone.cover.valid)} "
            f"classified, in {report.out}/{zone.folder}"
        )
    for empty in report.unmapped:
        typer.echo(f"zone    {empty.part.name}: {empty.part.area_m2 / 1e6:.2f} km2, no map")
    typer.echo(
        f"area    {report.land_m2 / 1e6:.2f} km2: {_percent(cover.valid)} classified, "
        f"{cover.cloud_told.replace(' %', '%')}, {_percent(cover.failed)} failed, "
        f"{_percent(cover.nodata)} nodata"
    )
    for name in report.files:
        if "/" not in name:
            typer.echo(f"wrote   {report.out}/{name}")


def print_report(report: MapReport) -> None:
    """What a run did, on stdout: areas by class, what became of the cells, the files."""
    cover, console = report.cover, terminal(sys.stdout)
    if len(report.sources) > 1:
        _print_sources(report.sources)
    if console is None:
        _print_classes(report.classes)
    else:
        # With fewer colours several classes would look the same.
        many = console.color_system in ("256", "truecolor") and not console.no_color
        console.print(_class_table(report, swatches=many))
    _print_covers(report.covers)
    _print_scenes(report)
    _print_bands(report.plan)
    typer.echo(
        f"cells   {cover.cells}: {_percent(cover.valid)} classified, {cover.cloud_told.replace(' %', '%')}, "
        f"{_percent(cover.failed)} failed, {_percent(cover.nodata)} nodata"
        + (f", {_percent(cover.unknown)} unknown" if report.plan.min_confidence else "")
    )
    if cover.doubtful is not None:
        typer.echo(
            f"doubt   {_percent(cover.doubtful)} of what is mapped is unlike the imagery that "
            f"{printable(report.plan.model)} was trained on"
        )
    _print_failures(report)
    for name in report.files:
        typer.echo(f"wrote   {report.out}/{name}{_size_of(report, name)}")


def print_agreement(result: DemoResult) -> None:
    """How the demo's map agrees with its truth, on stdout: by class, overall and as a mean of the classes."""
    from landuse.workflows.demo.agreement import MAJORITY_PERCENT

    found = (
        ("land use", result.agreement, result.catalog.truth),
        ("land cover", result.cover_agreement, result.catalog.truth_cover),
    )
    for what, agreement, truth in found:
        if agreement is None:
            continue
        typer.echo(f"truth   {truth}")
        typer.echo(f"{f'true {what}':22} {'cells':>10} {'agree':>7}")
        for entry in agreement.classes:
            if entry.percent is not None:
                typer.echo(f"{entry.name:22} {entry.cells:10} {entry.percent:6.1f}%")
        typer.echo(
            f"{what} agrees with the truth in {agreement.agreeing} of {agreement.cells} cells "
            f"({agreement.percent or 0:.1f} %), mean of the classes {agreement.mean_percent or 0:.1f} %; "
            f"{agreement.uncounted_cells} cells do not count: no known class fills {MAJORITY_PERCENT} %"
        )
    typer.echo("The landscape is simulated: these figures do not say how right maps of real imagery are.")


MOST_DAYS = 6
"""Days that a summary names; of more it says how many there are."""

SHOWN_OF_DAYS = {
    "best": "of each pixel the first that is clear",
    "median": "of each pixel the median of those that are clear",
    "medoid": "of each pixel the medoid of those that are clear",
}
"""By composite, what a map of several days shows of them."""


def _print_scenes(report: MapReport) -> None:
    """The days of the scenes in order of preference, and what of them each pixel shows."""
    plan = report.plan
    scenes = plan.scenes_used(report.spares_read)
    days = list(dict.fromkeys(f"{scene.acquired_utc:%Y-%m-%d}" for scene in scenes))
    named = ", ".join(days[:MOST_DAYS]) + (
        f" and {len(days) - MOST_DAYS} more" if len(days) > MOST_DAYS else ""
    )
    shown = "each is classified" if plan.fuse == "dates" else SHOWN_OF_DAYS[plan.composite]
    typer.echo(f"dates   {named}{f': {shown}' if len(days) > 1 else ''}")


def _print_bands(plan: RunPlan) -> None:
    """Which bands were read, of a model that can do without some of them."""
    if plan.engine == "pixels":
        without = f"; not in every scene: {', '.join(plan.missing_bands)}" if plan.missing_bands else ""
        typer.echo(f"bands   {', '.join(plan.bands)}{without}")


def _percent(share: float) -> str:
    return percent(share).replace(" ", "")


def _area_unit(classes: Iterable[ClassArea]) -> tuple[str, float]:
    """Name of the unit that suits the areas, and its square metres."""
    return ("ha", 1e4) if sum(entry.area_m2 for entry in classes) < SMALL_M2 else ("km2", 1e6)


def _print_classes(classes: tuple[ClassArea, ...]) -> None:
    unit, unit_m2 = _area_unit(classes)
    typer.echo(f"{'class':22} {f'area {unit}':>10} {'share':>7}")
    for entry in classes:
        typer.echo(f"{printable(entry.name):22} {entry.area_m2 / unit_m2:10.2f} {_percent(entry.share):>7}")


def _print_covers(covers: tuple[ClassArea, ...]) -> None:
    if covers:
        told = ", ".join(f"{printable(entry.name)} {_percent(entry.share)}" for entry in covers)
        typer.echo(f"cover   {told}")


def _class_table(report: MapReport, *, swatches: bool) -> Table:
    """The classes as a table, each beside its colour on the map."""
    from rich.table import Table
    from rich.text import Text

    unit, unit_m2 = _area_unit(report.classes)
    table = Table(box=None, pad_edge=False, header_style="bold")
    if swatches:
        table.add_column()
    table.add_column("class", overflow="ellipsis", no_wrap=True)
    table.add_column(f"area {unit}", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    colors = [entry.color for entry in report.plan.entries]
    for entry in report.classes:
        row = (Text(printable(entry.name)), f"{entry.area_m2 / unit_m2:,.2f}", _percent(entry.share))
        swatch = (Text("  ", style="on rgb({},{},{})".format(*colors[entry.id])),) if swatches else ()
        table.add_row(*swatch, *row)
    return table


def _size_of(report: MapReport, name: str) -> str:
    """The size of a file, in brackets; nothing where it does not lie in a folder of this machine."""
    if not isinstance(report.out, Path):
        return ""
    from rich.filesize import decimal

    return f"  ({decimal((report.out / name).stat().st_size)})"


def _print_failures(report: MapReport) -> None:
    elsewhere = Counter(f.replaced_by for f in report.failures if f.replaced_by is not None)
    for source, count in sorted(elsewhere.items()):
        typer.echo(f"failed  {count} reads, done at {printable(source)} instead; listed in run.json")
    missing = [failure for failure in report.failures if failure.replaced_by is None]
    if missing:
        scenes = len({failure.scene_id for failure in missing})
        typer.echo(
            f"failed  {len(missing)} reads of {scenes} scenes, listed in run.json; run again with "
            "--overwrite to read them anew"
        )


def tell_area(*, quiet: bool) -> Callable[[str, str], None]:
    """Writes what happens in an area to stderr, a line each."""

    def tell(area: str, line: str) -> None:
        if not quiet:
            typer.echo(f"{area}: {printable(' '.join(line.split()))}", err=True)

    return tell


def print_error(error: object) -> None:
    """What went wrong, on stderr, in one line: a reason of GDAL's may have several, a name in it anything."""
    typer.echo(f"Error: {printable(' '.join(str(error).split()))}", err=True)


def print_night(report: NightReport) -> None:
    """What a run did, on stdout: a line for each area, then those for what is left undone."""
    for area in report.areas:
        counts = {
            state: sum(period.state == state for period in area.periods)
            for state in ("due", "mapped", "skipped", "failed", "left")
        }
        told = [f"{count} {state}" for state, count in counts.items() if count]
        layers = "1 change layer" if len(area.changes) == 1 else f"{len(area.changes)} change layers"
        changes = [layers] if area.changes else []
        if area.not_compared:
            pairs = "1 pair" if len(area.not_compared) == 1 else f"{len(area.not_compared)} pairs"
            changes.append(f"{pairs} of maps not compared")
        earlier = [f"{len(area.earlier)} failed earlier tonight"] if area.earlier else []
        periods = ", ".join([*told, *changes, *earlier]) or "nothing to do"
        typer.echo(f"{area.area:20} {area.found} scenes, {area.new} new; periods: {periods}")
        for period in (*area.periods, *area.earlier):
            if period.state == "due":
                typer.echo(f"  due     {period.first_day}  {', '.join(map(printable, period.scenes))}")
            if period.state == "failed":
                typer.echo(f"  failed  {period.first_day}  {printable(period.reason)}")
        for warning in area.warnings:
            typer.echo(f"  warning {printable(warning)}")
        if area.error:
            typer.echo(f"  failed  {printable(area.error)}")


def print_rebuilt(areas: Iterable[AreaRebuilt]) -> None:
    """What of each area was entered in the ledger again, on stdout."""
    for area in areas:
        typer.echo(f"{area.area:20} {area.maps} maps entered")
        for name in area.unread:
            typer.echo(
                f"  left    {name}: its item holds no JSON; its scenes are mapped again if still listed"
            )


def print_health(areas: Iterable[AreaHealth]) -> None:
    """How the areas fare, on stdout."""
    states = ("found", "mapped", "skipped", "failed", "parked")
    typer.echo(f"{'area':20} {'last map':10} {'made':16} {'age d':>6} " + " ".join(f"{s:>7}" for s in states))
    for area in areas:
        last = area.last_map
        period, made = ("-", "-") if last is None else (last.period, f"{last.created_utc:%Y-%m-%d %H:%M}")
        age = "-" if area.age_days is None else f"{area.age_days:.1f}"
        counts = " ".join(f"{count:7}" for count in area.scenes.values())
        stale = "  STALE" if area.stale else ""
        typer.echo(f"{area.area:20} {period:10} {made:16} {age:>6} {counts}{stale}")
        for warning in area.warnings:
            typer.echo(f"  warning {printable(warning)}")
        for row in area.failures:
            typer.echo(
                f"  {row.state.value:7} {row.period}  {printable(row.scene_id)} {printable(row.baseline)} "
                f"after {row.attempts} tries: {printable(row.reason)}"
            )
