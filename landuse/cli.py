"""The command line: options to a config, one workflow call, a printed result. No logic."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import landuse
from landuse.errors import IncompleteError, LanduseError
from landuse.model import DEFAULT_MODEL, MAP_MODEL
from landuse.redact import printable, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType

    from landuse.model.recipe import EpochMetrics, StepProgress
    from landuse.pipeline.failover import SourceOutcome
    from landuse.workflows.fetch import Transfer
    from landuse.workflows.foresee import Foresight
    from landuse.workflows.report import MapReport
    from landuse.workflows.run_blocks import Progress


class _Group(TyperGroup):
    """Turns an error of ours into its message and exit code; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # click's own signature
        try:
            return super().invoke(ctx)
        except LanduseError as error:
            # One line: a reason of GDAL's may have several, and a name in it anything.
            typer.echo(f"Error: {printable(' '.join(str(error).split()))}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as stop:
            told = f": {stop}" if str(stop) else ""
            typer.echo(f"Interrupted{told}. Run the same command again: what is finished is kept.", err=True)
            raise typer.Exit(143 if isinstance(stop, _Terminated) else 130) from None


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """While ``kill`` and a system that shuts down let the run tidy up."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _LogFormatter(logging.Formatter):
    """One printable line a record, without tokens: GDAL and urllib3 quote the URLs they were given."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(" ".join(redact(super().format(record)).split()))


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Land-use maps from Sentinel-2: from an area and a date to a GeoTIFF and a GeoPackage.",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Get data sets to train on.")
app.add_typer(data_app, name="data")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace results that are in --out already.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"landuse {landuse.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[  # handled by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO if verbose else logging.WARNING)
    if not verbose:
        # What matters of theirs comes back as an error of ours.
        for library in ("rasterio", "urllib3"):
            logging.getLogger(library).setLevel(logging.CRITICAL)


@app.command("map")
def map_command(
    bbox: Annotated[
        str | None,
        typer.Option(metavar="W,S,E,N", help="Area as west, south, east, north in degrees (WGS 84)."),
    ] = None,
    aoi: Annotated[
        Path | None,
        typer.Option(help="Area as the polygons of a vector file in any CRS; the map is cut to them."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(metavar="DATE[/DATE]", help="Day, month or range of dates, UTC; 2024-06-01/2024-06-30."),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="planetary-computer, earth-search, earth-search-c1, earth-search-l1c, cdse or cdse-l1c; URL "
            "of a STAC API or catalogue; or path of a STAC item, ItemCollection, catalogue or "
            "stac-geoparquet file, which needs neither --bbox nor --date. Of several (a,b,c) the first that "
            "serves the area is mapped, and what it fails to give is read from the next."
        ),
    ] = "planetary-computer",
    model: Annotated[
        str, typer.Option(help="Name of a shipped model (see `landuse models`) or path of a .safetensors.")
    ] = MAP_MODEL,
    stride_px: Annotated[
        int, typer.Option(help="Cell size of the map in pixels of 10 m; 16 gives cells of 160 m.")
    ] = 16,
    max_cloud: Annotated[
        float, typer.Option(help="Leave out scenes with more cloud over the area, in percent.")
    ] = 40.0,
    composite: Annotated[
        str, typer.Option(help="Several dates to one image: `best` (clearest first) or `median`, per pixel.")
    ] = "best",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:INDEX.")] = "auto",
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="Have the blocks done by the workers of this dask scheduler. They must see --source, "
            "--model and --out as this machine does.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Have the blocks done by so many processes on this machine, which share its cores, or its "
            "GPUs, one each."
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            help="Folder for the results, or URL of one that fsspec knows, such as s3://bucket/map."
        ),
    ] = "landuse-map",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write every class's probability (0..1).")
    ] = False,
    min_valid: Annotated[
        float,
        typer.Option(help="Exit with code 4 when less than this share of cells got a class, in percent."),
    ] = 10.0,
    engine: Annotated[
        str,
        typer.Option(
            help="`windows` classifies each window alone; `shared` computes what windows share once, many "
            "times as fast at small strides; `auto` takes shared where the model was trained for it."
        ),
    ] = "auto",
    block_px: Annotated[
        int | None,
        typer.Option(
            help="Side of the blocks that are read at a time, in pixels; memory, not results. Default: 1024, "
            "or 1536 with shared."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read and mapped; read no pixel.")
    ] = False,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Map an area: find scenes, read, classify, write GeoTIFF and GeoPackage."""
    from landuse.workflows.map_area import (
        MapRequest,
        load_classifier,
        map_area,
        requested_area,
        requested_cluster,
        requested_dates,
    )

    cluster = requested_cluster(scheduler, workers, model, device)
    request = MapRequest(
        source=source,
        area=requested_area(bbox, aoi),
        dates=requested_dates(date),
        out=out,
        stride_px=stride_px,
        max_cloud_percent=max_cloud,
        composite=composite,
        probabilities=probabilities,
        min_valid_percent=min_valid,
        overwrite=overwrite,
        engine=engine,
        block_px=block_px,
    )
    # On a cluster the workers compute: this process only asks the model what it needs.
    classifier = load_classifier(model, device if cluster is None else "cpu")
    if dry_run:
        from landuse.workflows.foresee import foresee

        foresight = foresee(request, classifier)
        if as_json:
            _print_json(foresight.to_dict())
        else:
            _print_foresight(foresight)
        return
    try:
        with _terminable(), _progress(quiet=as_json) as on_progress:
            report = map_area(request, classifier, on_progress, cluster)
    except IncompleteError as error:
        if as_json:
            _print_json(error.report)
        raise
    if as_json:
        _print_json(report.to_dict())
    else:
        _print_report(report)


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the demo's catalogue, truth and map.")] = Path(
        "landuse-demo"
    ),
    stride_px: Annotated[
        int, typer.Option(help="Cell size of the map in pixels of 10 m; 16 gives cells of 160 m.")
    ] = 16,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Map a simulated landscape whose truth is known; no network needed."""
    from landuse.workflows.demo import MAJORITY_PERCENT, run_demo
    from landuse.workflows.map_area import load_classifier

    with _progress(quiet=as_json) as on_progress:
        result = run_demo(
            out,
            load_classifier(MAP_MODEL),
            stride_px=stride_px,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    agreement = result.agreement
    if as_json:
        _print_json({**result.report.to_dict(), "agreement": asdict(agreement)})
        return
    _print_report(result.report)
    typer.echo(f"truth   {result.catalog.truth}")
    typer.echo(
        f"agrees with the truth in {agreement.agreeing} of {agreement.cells} cells "
        f"({agreement.percent or 0:.1f} %) that one class fills to {MAJORITY_PERCENT} %; "
        f"{agreement.mixed_cells} mixed cells do not count"
    )


@app.command("catalog")
def catalog_command(
    rasters: Annotated[list[Path], typer.Argument(help="One multi-band GeoTIFF, or one file a band.")],
    level: Annotated[str, typer.Option(help="Processing level of the pixels: L1C or L2A.")],
    acquired: Annotated[
        str, typer.Option("--datetime", help="Acquisition time, ISO 8601; UTC unless it says otherwise.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the catalogue; an existing one gains an item.")],
    baseline: Annotated[
        str | None, typer.Option(help="Processing baseline, NN.NN; from 04.00 on stored values carry +1000.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="reflectance = scale x stored + offset; default: tags, else 0.0001.")
    ] = None,
    offset: Annotated[
        float | None,
        typer.Option(help="reflectance = scale x stored + offset; default: tags, else baseline."),
    ] = None,
    nodata: Annotated[
        float | None,
        typer.Option(help="Stored value that means nodata; default: tags, else 0 (NaN for floats)."),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="B04,B03,B02", help="Band names in file order; default: descriptions, file names."
        ),
    ] = None,
    item_id: Annotated[str | None, typer.Option("--id", help="Item id; default: from the file name.")] = None,
    as_json: JsonOption = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an item of the same id.")] = False,
) -> None:
    """Make local rasters a STAC catalogue of COGs that `landuse map --source` reads."""
    from landuse.workflows.catalog import catalog_rasters, parse_acquired_utc
    from landuse.workflows.rasters import CatalogRequest

    result = catalog_rasters(
        CatalogRequest(
            rasters=tuple(rasters),
            level=level,
            acquired_utc=parse_acquired_utc(acquired),
            out=out,
            baseline=baseline,
            scale=scale,
            offset=offset,
            nodata=nodata,
            bands=tuple(name.strip() for name in bands.split(",")) if bands is not None else None,
            item_id=item_id,
            overwrite=overwrite,
        )
    )
    if as_json:
        _print_json(result.to_dict())
        return
    typer.echo(
        f"item     {result.item_id} ({', '.join(asset.band for asset in result.assets)}; {result.crs[:40]})"
    )
    west, south, east, north = result.bounds_lonlat
    typer.echo(f"bbox     {west:.6f},{south:.6f},{east:.6f},{north:.6f}")
    typer.echo(f"catalog  {result.catalog}")
    typer.echo(f"next     landuse map --source {result.catalog} --out MAP")


LevelOption = Annotated[
    str, typer.Option(help="Processing level of the patches, L1C or L2A; EuroSAT is L1C.")
]
BandOrderOption = Annotated[
    str | None,
    typer.Option(
        metavar="B02,B03,...",
        help="Band names of TIFF patches in file order; default: the files' own, else EuroSAT's.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:INDEX.")]


@app.command("train")
def train_command(
    data: Annotated[
        Path, typer.Option(help="Folder with one folder of JPEG or 13-band TIFF patches a class.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights and state; a run in it is resumed.")],
    split: Annotated[
        str,
        typer.Option(
            help="paper, spatial or another NAME of splits/NAME-train.txt and -val.txt near --data, or "
            "TRAIN.txt,VAL.txt."
        ),
    ] = "paper",
    network: Annotated[
        str, typer.Option(help="baseline, cbam, balanced, balanced-fast or resnet50.")
    ] = "balanced-fast",
    bands: Annotated[
        str, typer.Option(help="rgb; all (13, L1C); no-b10 (12, L1C and L2A). The latter two need TIFFs.")
    ] = "rgb",
    level: LevelOption = "L1C",
    band_order: BandOrderOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model in its contract; default: NETWORK-BANDS.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = 40,
    batch_size: Annotated[int, typer.Option(help="Patches a step, over all processes.")] = 128,
    peak_rate: Annotated[
        float, typer.Option(help="Learning rate after warm-up, for this batch size.")
    ] = 0.15,
    warmup_epochs: Annotated[float, typer.Option(help="Epochs of warm-up before the cosine.")] = 2.0,
    weight_decay: Annotated[float, typer.Option(help="On convolution and linear weights.")] = 5e-4,
    decay_fusion: Annotated[
        bool, typer.Option("--decay-fusion", help="Put the learned fusion scalars under weight decay too.")
    ] = False,
    class_balance: Annotated[
        float | None, typer.Option(help="Beta of class-balanced loss weights (Cui 2019), such as 0.999.")
    ] = None,
    cutmix: Annotated[float, typer.Option(help="Augmentation: share of the batches under CutMix.")] = 0.5,
    cutmix_until: Annotated[
        float, typer.Option(help="Augmentation: share of the epochs after which CutMix ends.")
    ] = 0.8,
    brightness: Annotated[
        float, typer.Option(help="Augmentation: brightness and contrast are scaled by 1 +- this.")
    ] = 0.35,
    atmosphere: Annotated[
        float, typer.Option(help="Augmentation: path radiance either way, 1 = from L1C to L2A.")
    ] = 0.7,
    group_dropout: Annotated[
        float, typer.Option(help="Augmentation: share of the patches that lose a spectral group of bands.")
    ] = 0.0,
    early_crop_px: Annotated[
        int | None, typer.Option(help="Learn from random crops of this side first: cheaper epochs.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from a shipped model or a .safetensors, not from scratch; bands it does not know "
            "begin at zero. resnet50 takes torchvision's weights as safetensors."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and augmentation.")] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[
        str, typer.Option(help="bf16 autocast, or fp32 where the processor has no bfloat16.")
    ] = "bf16",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network; about 1.2x faster, needs a C++ compiler.")
    ] = False,
    val_every: Annotated[int, typer.Option(help="Epochs between measurements on the validation split.")] = 1,
) -> None:
    """Train a network from scratch on labelled patches; the same command resumes a run that was killed.

    On several GPUs: torchrun --nproc-per-node 4 -m landuse train ...
    """
    from landuse.model.recipe import TrainConfig
    from landuse.workflows.training import TrainRequest, patch_source, train_model

    request = TrainRequest(
        data=patch_source(data, level, band_order),
        split=split,
        out=out,
        bands=bands,
        name=name or f"{network}-{bands}",
        init=init,
        device=device,
        config=TrainConfig(
            network=network,
            epochs=epochs,
            batch_size=batch_size,
            peak_rate=peak_rate,
            warmup_epochs=warmup_epochs,
            weight_decay=weight_decay,
            decay_fusion=decay_fusion,
            class_balance=class_balance,
            cutmix=cutmix,
            cutmix_until=cutmix_until,
            brightness=brightness,
            atmosphere=atmosphere,
            group_dropout=group_dropout,
            early_crop_px=early_crop_px,
            seed=seed,
            precision=precision,
            compile=compile_,
            val_every=val_every,
        ),
    )
    with _training_progress() as (on_epoch, on_step):
        weights = train_model(request, on_epoch, on_step)
    typer.echo(str(weights))


@app.command("evaluate")
def evaluate_command(
    data: Annotated[
        Path, typer.Option(help="Folder with one folder of JPEG or 13-band TIFF patches a class.")
    ],
    model: Annotated[
        str, typer.Option(help="Name of a shipped model or path of a .safetensors.")
    ] = DEFAULT_MODEL,
    split: Annotated[str, typer.Option(help="`all`, or a file with one Class/file.jpg a line.")] = "all",
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over the eight symmetries of the square.")
    ] = False,
    level: LevelOption = "L1C",
    band_order: BandOrderOption = None,
    l2a_error: Annotated[
        float | None,
        typer.Option(
            help="Score under a simulated L2A atmosphere that the model's contract misses by this share of "
            "the path radiance, such as 0.5."
        ),
    ] = None,
    device: DeviceOption = "auto",
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw the confusion matrix.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on labelled patches."""
    from landuse.model.checkpoint import load_contract, model_path
    from landuse.workflows.training import evaluate_model, patch_source, scores_to_dict

    if confusion is not None:
        from landuse.workflows.figures import check_png, draw_confusion  # not needed for the scores alone

        check_png(confusion)  # before minutes of scoring
    scores = evaluate_model(
        patch_source(data, level, band_order), model, split=split, tta=tta, l2a_error=l2a_error, device=device
    )
    if confusion is not None:
        draw_confusion(scores, load_contract(model_path(model)).classes, confusion)
    if as_json:
        _print_json(scores_to_dict(scores))
        return
    low, high = scores.interval
    typer.echo(f"patches {scores.n}  accuracy {scores.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})")
    typer.echo(f"kappa {scores.kappa:.4f}  macro F1 {scores.macro_f1:.4f}  ECE {scores.ece:.2%}")
    for class_name, recall in scores.per_class.items():
        typer.echo(f"  {printable(class_name):22} {recall:.2%}")
    if confusion is not None:
        typer.echo(f"wrote   {confusion}")


@app.command("models")
def models_command(as_json: JsonOption = False) -> None:
    """List the models that come with the package."""
    from landuse.model.checkpoint import contract_to_dict, load_contract, model_path, shipped_models

    contracts = {name: load_contract(model_path(name)) for name in shipped_models()}
    if as_json:
        _print_json({name: contract_to_dict(contract) for name, contract in contracts.items()})
        return
    for name, contract in contracts.items():
        levels = " and ".join(entry.level for entry in contract.levels)
        told = f"{', '.join(contract.bands)} of {levels}; {len(contract.classes)} classes"
        shared = "; windows may share features" if contract.shared_features else ""
        typer.echo(f"{name}  {told}{shared}")


@contextmanager
def _training_progress() -> Iterator[tuple[Callable[[EpochMetrics], None], Callable[[StepProgress], None]]]:
    """A line on stderr for each measurement, and where it is a terminal a bar with the time left."""
    from datetime import timedelta

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.fields[left]} left"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("train", total=None, epoch=1, left="?")
        left = ""

        def on_step(progress: StepProgress) -> None:
            nonlocal left
            left = str(timedelta(seconds=round(progress.seconds_left)))
            bar.update(task, total=progress.steps, completed=progress.step, epoch=progress.epoch, left=left)

        def on_epoch(metrics: EpochMetrics) -> None:
            console.print(
                f"epoch {metrics.epoch}  loss {metrics.loss:.3f}  val {metrics.val_accuracy:.2%}  simulated "
                f"L2A {metrics.val_accuracy_l2a:.2%}  {metrics.patches_per_s:.0f} patches/s  {left} left",
                highlight=False,
            )

        yield on_epoch, on_step


@data_app.command("eurosat")
def data_eurosat_command(
    bands: Annotated[
        str, typer.Option(help="`rgb`: JPEG, 95 MB to fetch; `all`: 13-band GeoTIFF, 2.1 GB to fetch.")
    ] = "rgb",
    out: Annotated[Path, typer.Option(help="Folder for EuroSAT_RGB or EuroSAT_MS, and for splits.")] = Path(
        "eurosat"
    ),
    url: Annotated[
        str | None, typer.Option(help="Whole URL of the archive on a mirror; default: Zenodo's.")
    ] = None,
    md5: Annotated[
        str | None, typer.Option(help="MD5 of another archive at --url; default: the published one.")
    ] = None,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Download EuroSAT, check and unpack it, and write the paper's split; resumes where it stopped."""
    from landuse.workflows.download import DownloadRequest, download_eurosat

    request = DownloadRequest(bands=bands, out=out, url=url, md5=md5, overwrite=overwrite)
    with _transfer_progress(quiet=as_json) as on_progress:
        data = download_eurosat(request, on_progress)
    if as_json:
        _print_json(data.to_dict())
        return
    there = ", already there" if data.already_there else ""
    typer.echo(f"data     {data.path} ({data.patches} patches{there})")
    for path in data.splits:
        typer.echo(f"split    {path}")
    wanted = "" if bands == "rgb" else f" --bands {bands}"
    typer.echo(f"next     landuse train --data {data.path}{wanted} --out RUN")


@contextmanager
def _transfer_progress(*, quiet: bool) -> Iterator[Callable[[Transfer], None]]:
    """A bar for each stage of a download on stderr where it is a terminal, nothing otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    with Bar(
        *columns, TimeRemainingColumn(), console=console, disable=quiet or not console.is_terminal
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(transfer: Transfer) -> None:
            stage, done = transfer.stage, transfer.done
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, amount="")
            amount = f"{done} patches" if stage == "unpacking" else f"{done / 1e6:.1f} MB"
            bar.update(tasks[stage], total=transfer.total, completed=done, amount=amount)

        yield on_progress


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on stderr where it is a terminal, nothing otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("mapping"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[patches]} patches"),
    )
    with Bar(
        *columns, TimeRemainingColumn(), console=console, disable=quiet or not console.is_terminal
    ) as bar:
        task = bar.add_task("mapping", total=None, patches=0)

        def on_progress(progress: Progress) -> None:
            bar.update(task, total=progress.blocks, completed=progress.blocks_done, patches=progress.patches)

        yield on_progress


def _print_json(values: Mapping[str, object]) -> None:
    typer.echo(json.dumps(values, indent=2, allow_nan=False))


def _print_foresight(foresight: Foresight) -> None:
    plan, gaps = foresight.plan, foresight.gaps
    _print_sources(foresight.sources)
    typer.echo(
        f"grid    {plan.cols} x {plan.rows} cells of {plan.cell_m:g} m in {plan.crs}, "
        f"{len(plan.blocks)} blocks"
    )
    typer.echo(
        f"model   {printable(plan.model)} on {', '.join(plan.bands)} ({plan.level}), "
        f"{plan.composite} composite"
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
    low, high = (size / 1e6 for size in foresight.read_bytes)
    typer.echo(f"read    about {low:.1f} MB if the first scenes are clear, {high:.1f} MB if all are needed")
    typer.echo(f"disk    up to {max(foresight.disk_bytes) / 1e6:.1f} MB while it runs")
    soon, late = (foresight.network_seconds + seconds for seconds in foresight.read_seconds)
    typer.echo(
        f"time    {soon:.0f} to {late:.0f} s: {foresight.patches} patches take "
        f"{foresight.network_seconds:.0f} s here, reading at an assumed 10 MB/s the rest"
    )


def _print_sources(sources: Iterable[SourceOutcome]) -> None:
    for source in sources:
        why = f": {printable(source.reason)}" if source.reason else ""
        typer.echo(f"source  {printable(source.source)} {source.state}, {source.scenes} scenes{why}")


def _print_report(report: MapReport) -> None:
    cover = report.cover
    if len(report.sources) > 1:
        _print_sources(report.sources)
    typer.echo(f"{'class':22} {'area km2':>10} {'share':>7}")
    for entry in report.classes:
        typer.echo(f"{printable(entry.name):22} {entry.area_m2 / 1e6:10.2f} {entry.share:7.1%}")
    typer.echo(
        f"cells   {cover.cells}: {cover.valid:.1%} classified, {cover.cloudy:.1%} cloudy, "
        f"{cover.failed:.1%} failed, {cover.nodata:.1%} nodata"
    )
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
    for name in report.files:
        typer.echo(f"wrote   {report.out}/{name}")
