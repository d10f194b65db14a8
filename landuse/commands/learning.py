"""``landuse learn``: a model of a user's own classes, from labels over scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.commands.options import (
    DeviceOption,
    ImageBaselineOption,
    ImageDatetimeOption,
    ImageLevelOption,
    ImageNodataOption,
    ImageOffsetOption,
    ImageScaleOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
    PrivateHostsOption,
    QuietOption,
    one_of,
    terminable,
)
from landuse.commands.terminal import print_json
from landuse.model import MAP_MODEL
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from landuse.workflows.learn.request import LearnReport
    from landuse.workflows.learn.validate import Measure

LEARN_PANELS = {
    "Scenes and labels": ("scenes", "labels", "column", "labels_layer", "per_polygon", "per_class"),
    "Imagery and model": ("date", "max_cloud", "max_dates", "bands", "model", "allow_private_hosts"),
    "Results": ("out", "name", "overwrite"),
    "The run": ("seed", "device", "as_json", "quiet"),
}
"""Options of ``landuse learn`` as its help groups them."""

LEARN_EXAMPLES = """\b
Examples:
  landuse learn own/catalog.json --labels fields.gpkg --column crop --out crops.safetensors
  landuse learn planetary-computer --date 2024-05/2024-09 --labels points.gpkg --column class
  landuse learn scene.tif --level L2A --datetime 2024-06-01 --labels classes.tif
"""


def learn_command(
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENE...",
            help="What `landuse map` reads: a provider, the URL or path of a catalogue, or your own image, "
            "one multi-band GeoTIFF or one file a band.",
        ),
    ],
    labels: Annotated[
        Path,
        typer.Option(
            help="Polygons or points of a GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile in any "
            "CRS, or a GeoTIFF of class ids."
        ),
    ],
    column: Annotated[str | None, typer.Option(help="Column of the classes; a GeoTIFF has none.")] = None,
    labels_layer: Annotated[
        str | None, typer.Option(help="Layer of the GeoPackage in --labels; default: its only one.")
    ] = None,
    per_polygon: Annotated[int, typer.Option(help="Most pixels to learn from of a polygon.")] = 40,
    per_class: Annotated[int, typer.Option(help="Most pixels to learn from of a class.")] = 2000,
    out: Annotated[
        Path, typer.Option(help="The model; its report and its likely errors lie beside it.")
    ] = Path("my-model.safetensors"),
    name: Annotated[str | None, typer.Option(help="What the model is called; default: as its file.")] = None,
    date: Annotated[
        str | None,
        typer.Option(metavar="DATE[/DATE]", help="Day, month or range of dates, UTC; 2024-06-01/2024-06-30."),
    ] = None,
    max_cloud: Annotated[
        float, typer.Option(help="Leave out scenes with more cloud over the labels, in percent.")
    ] = 40.0,
    max_dates: Annotated[int, typer.Option(help="Most dates to see each labelled pixel on.")] = 4,
    bands: Annotated[
        str,
        typer.Option(
            help="Which bands to read, as of `landuse map`: all, rgb or rgb-nir. Of an image also the names "
            "of its bands in their order.",
            autocompletion=one_of("all", "rgb", "rgb-nir"),
        ),
    ] = "all",
    model: ModelOption = MAP_MODEL,
    allow_private_hosts: PrivateHostsOption = False,
    seed: Annotated[int, typer.Option(help="Of the pixels and blocks that are drawn.")] = 0,
    device: DeviceOption = "auto",
    level: ImageLevelOption = None,
    acquired: ImageDatetimeOption = None,
    baseline: ImageBaselineOption = None,
    scale: ImageScaleOption = None,
    offset: ImageOffsetOption = None,
    nodata: ImageNodataOption = None,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Learn your own classes from polygons, points or a raster, as a model that maps like any other.

    The network's trunk is kept, and a new head is fitted on it. Blocks of land are held out in turn, and the
    report says how well each class is told apart there and which labels are probably wrong.
    """
    from landuse.workflows.imagery.one_step import ImageFacts
    from landuse.workflows.learn.learn import learn
    from landuse.workflows.learn.request import LearnRequest
    from landuse.workflows.learn.scenes import requested_scenes
    from landuse.workflows.mapping.request import requested_dates

    facts = ImageFacts(
        level=level, acquired=acquired, baseline=baseline, scale=scale, offset=offset, nodata=nodata
    )
    source, bands = requested_scenes(tuple(scenes), facts, bands)
    request = LearnRequest(
        source=source,
        labels=labels,
        column=column,
        layer=labels_layer,
        out=out,
        name=name,
        dates=requested_dates(date),
        model=model,
        bands=bands,
        max_cloud_percent=max_cloud,
        max_dates=max_dates,
        per_shape=per_polygon,
        per_class=per_class,
        seed=seed,
        device=device,
        overwrite=overwrite,
        allow_private_hosts=allow_private_hosts,
    )
    with terminable():
        report = learn(request, _progress(quiet=quiet))
    if as_json:
        print_json(report.to_dict())
        return
    _print(report)


def _progress(*, quiet: bool) -> Callable[[str, int, int], None]:
    """A line on stderr for each stage, and for each tenth of one that has parts."""
    told: set[tuple[str, int]] = set()

    def tell(stage: str, done: int, total: int) -> None:
        key = stage, 10 * done // max(total, 1)
        if quiet or key in told:
            return
        told.add(key)
        typer.echo(f"{stage}: {done}/{total}" if total > 1 else stage, err=True)

    return tell


def _print(report: LearnReport) -> None:
    scores, before = report.scores, report.relabelled
    held = f"blocks of {report.block_m:g} m" if report.block_m is not None else "places"
    width = max(len("class"), *(len(printable(name)) for name in report.classes))
    lines = [
        f"labels  {report.samples} pixels of {len(report.classes)} classes, on {len(report.days)} "
        + ("date" if len(report.days) == 1 else "dates")
        + "".join(f"; {count} {what}" for what, count in report.left_out.items() if count),
        f"held out {report.blocks} {held} in {report.folds} folds",
        f"{'class':{width}}  pixels  recall  precision      F1   95 % interval",
    ]
    for entry in scores.classes:
        f1 = entry.f1
        told = "   none" if f1 is None else f"{f1.value:7.1%}   {f1.low:.1%} to {f1.high:.1%}"
        both = (entry.recall, entry.precision)
        shares = "  ".join(f"{'none':>6}" if share is None else f"{share.value:6.1%}" for share in both)
        lines.append(f"{printable(entry.name):{width}}  {entry.samples:6}  {shares}   {told}")
    for what, own, other, gained in (
        ("accuracy", scores.accuracy, before.accuracy, report.gain["accuracy"]),
        ("macro F1", scores.macro_f1, before.macro_f1, report.gain["macro_f1"]),
    ):
        lines.append(
            f"{what} {_interval(own)}; {report.trunk} with its classes renamed {_interval(other)}; gain "
            f"{_interval(gained)}"
        )
    lines += [
        f"likely errors {report.likely_errors}, in {report.errors_file}",
        f"report  {report.page}",
        f"model   {report.model}",
        f"next    landuse map --model {report.model} ...",
    ]
    typer.echo("\n".join(lines))


def _interval(measure: Measure) -> str:
    return f"{measure.value:.1%} ({measure.low:.1%} to {measure.high:.1%})"
