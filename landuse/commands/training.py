"""``landuse train``, ``evaluate``, ``models`` and ``data``: networks, and what they learn from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from landuse.commands.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
    QuietOption,
    one_of,
)
from landuse.commands.terminal import (
    label_training_progress,
    pixel_training_progress,
    print_json,
    training_progress,
    transfer_progress,
)
from landuse.errors import UsageError
from landuse.model import DEFAULT_MODEL, shipped_models
from landuse.redact import printable

LevelOption = Annotated[
    str,
    typer.Option(
        help="Processing level of the patches, L1C or L2A; EuroSAT is L1C.",
        autocompletion=one_of("L1C", "L2A"),
    ),
]
BandOrderOption = Annotated[
    str | None,
    typer.Option(
        metavar="B02,B03,...",
        help="Band names of TIFF patches in file order; default: the files' own, else EuroSAT's.",
    ),
]


PIXEL_NETWORK = "balanced-pixel"
"""As ``landuse.model.pixel_network.NAME``, which would load torch."""

OPTIONS_OF_PATCHES = (
    "bands", "epochs", "batch_size", "peak_rate", "warmup_epochs", "weight_decay", "decay_fusion",
    "class_balance", "cutmix", "cutmix_until", "brightness", "atmosphere", "group_dropout", "early_crop_px",
    "compile_", "val_every", "optimizer", "restart_epochs", "unlabelled", "unlabelled_level",
    "unlabelled_ratio",
)  # fmt: skip
"""Parameters of ``train_command`` that have no meaning where pixels are classified."""

OPTIONS_OF_FOLDERS = (
    "data",
    "split",
    "pixels",
    "settings",
    "class_balance",
    "group_dropout",
    "early_crop_px",
    "optimizer",
    "restart_epochs",
    "teacher",
    "teacher_share",
    "unlabelled",
    "unlabelled_level",
    "unlabelled_ratio",
)
"""Parameters of ``train_command`` that have no meaning where labels are learned from a table."""

OPTIONS_OF_LABELS = (
    "images", "val_labels", "size", "preprocess", "loss", "pos_weight", "label_smoothing", "dihedral",
    "crop_area", "randaugment", "magnitude", "mixup", "early_size", "early_until", "ema", "keep",
)  # fmt: skip
"""Parameters of ``train_command`` that have a meaning only there."""

OPTION_OF = {"settings": "--set", "dihedral": "--d4"}
"""Options that are not named as their parameters."""

PATCH_BATCH, LABEL_BATCH = 128, 32
"""Patches and images with labels a step where ``--batch-size`` is not given."""

EVALUATE_OTHERS = ("data", "pixels", "split", "l2a_error", "confusion", "reliability")
"""Parameters of ``evaluate_command`` that have no meaning where labels are scored."""

LABELS_PANEL = "Images with labels from a table"
TEACHER_PANEL = "Learning from the answers of other models"
TRAIN_PANELS: dict[str, tuple[str, ...]] = {"Options": ()}

ImagesOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the images that --labels names.", rich_help_panel=LABELS_PANEL),
]


def train_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for weights and state; a run in it is resumed.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with one folder of JPEG or 13-band TIFF patches a class.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="TRAIN.csv",
            help="Instead of --data: a CSV of images and labels that do not exclude each other. The first "
            "column names the image, each further one a label, 0 or 1.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = None,
    images: ImagesOption = None,
    val_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="VAL.csv",
            help="The images that are measured on, with the same columns. Temperature and thresholds are "
            "fitted to them.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            help="Side in pixels that 8-bit images are brought to; reflectance must have it.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = 128,
    preprocess: Annotated[
        str,
        typer.Option(
            help="raw; grey; or sharpen, with the kernel 0 -1 0 / -1 5 -1 / 0 -1 0. The model keeps it.",
            autocompletion=one_of("raw", "grey", "sharpen"),
            rich_help_panel=LABELS_PANEL,
        ),
    ] = "raw",
    loss: Annotated[
        str,
        typer.Option(
            help="bce, focal or asymmetric.",
            autocompletion=one_of("bce", "focal", "asymmetric"),
            rich_help_panel=LABELS_PANEL,
        ),
    ] = "bce",
    pos_weight: Annotated[
        str,
        typer.Option(
            metavar="NUMBER",
            help="What a label that is there counts beside one that is not; or balanced: by their numbers, "
            "at most 20.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = "1",
    label_smoothing: Annotated[
        float, typer.Option(help="Moves targets by half of it from 0 and 1.", rich_help_panel=LABELS_PANEL)
    ] = 0.0,
    dihedral: Annotated[
        bool,
        typer.Option(
            "--d4/--no-d4",
            help="Augmentation: each image under a random symmetry of the square.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = True,
    crop_area: Annotated[
        float,
        typer.Option(
            help="Augmentation: random crops of at least this share of the area, brought back to the size.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = 0.6,
    randaugment: Annotated[
        int,
        typer.Option(
            help="Augmentation: operations of RandAugment on each image; 2 is usual.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = 0,
    magnitude: Annotated[
        float,
        typer.Option(
            help="Augmentation: strength of RandAugment's operations, 0 to 1.", rich_help_panel=LABELS_PANEL
        ),
    ] = 0.5,
    mixup: Annotated[
        float,
        typer.Option(
            help="Augmentation: share of the batches under Mixup, of those that are not under CutMix.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = 0.0,
    early_size: Annotated[
        int | None,
        typer.Option(help="Side that images have at first: cheaper epochs.", rich_help_panel=LABELS_PANEL),
    ] = None,
    early_until: Annotated[
        float,
        typer.Option(help="Share of the epochs after which --early-size ends.", rich_help_panel=LABELS_PANEL),
    ] = 0.6,
    ema: Annotated[
        float,
        typer.Option(
            help="Decay of the weights' moving average, which is kept.", rich_help_panel=LABELS_PANEL
        ),
    ] = 0.998,
    keep: Annotated[
        str,
        typer.Option(
            help="Weights of the last epoch, or of the best by mAP on --val-labels, whose figure there then "
            "flatters.",
            autocompletion=one_of("last", "best"),
            rich_help_panel=LABELS_PANEL,
        ),
    ] = "last",
    split: Annotated[
        str | None,
        typer.Option(
            help="paper, spatial or another NAME of splits/NAME-train.txt and -val.txt near --data; "
            "TRAIN.txt,VAL.txt; or random, which measures on a fifth of each class, drawn by --seed. "
            "Default: paper where its lists are there, else random."
        ),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            help="baseline, cbam, balanced, balanced-fast or resnet50 classify patches; balanced-pixel "
            "classifies pixels.",
            autocompletion=one_of(
                "baseline", "cbam", "balanced", "balanced-fast", "resnet50", "balanced-pixel"
            ),
        ),
    ] = "balanced-fast",
    pixels: Annotated[
        list[Path] | None,
        typer.Option(
            help="Of balanced-pixel: folder of patches with pixel labels; may be given several times. "
            "Without any it learns from patch labels alone."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Of balanced-pixel: a setting of its recipe, such as steps=3000, or gradients=both, which "
            "levels what use and cover, and what visible and infrared bands, teach it; may be given often.",
        ),
    ] = None,
    bands: Annotated[
        str,
        typer.Option(
            help="rgb; all (13, L1C); no-b10 (12, L1C and L2A). The latter two need TIFFs.",
            autocompletion=one_of("rgb", "all", "no-b10"),
        ),
    ] = "rgb",
    level: LevelOption = "L1C",
    band_order: BandOrderOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model in its contract; default: NETWORK-BANDS.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = 40,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Patches a step, over all processes. Default: 128, with --labels 32, or as many as give an "
            "epoch 8 steps."
        ),
    ] = None,
    peak_rate: Annotated[
        float,
        typer.Option(
            help="Learning rate after warm-up, for --batch-size; for 128 where that is not given, and lower "
            "where the batch is."
        ),
    ] = 0.15,
    warmup_epochs: Annotated[float, typer.Option(help="Epochs of warm-up before the cosine.")] = 2.0,
    restart_epochs: Annotated[
        int | None,
        typer.Option(help="Start the cosine anew after so many epochs, then after twice as many each time."),
    ] = None,
    optimizer: Annotated[
        str,
        typer.Option(
            help="sgd with Nesterov momentum, or adamw, which wants a --peak-rate of about 0.001.",
            autocompletion=one_of("sgd", "adamw"),
        ),
    ] = "sgd",
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
        str | None,
        typer.Option(
            metavar="SIDE,...",
            help="Learn from random crops of this side first: cheaper epochs. Of several sides, such as "
            "32,48, each is taken for as many epochs.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            "--start-from",
            help="Start from a shipped model or a .safetensors, not from scratch; bands it does not know "
            "begin at zero. resnet50 takes torchvision's weights as safetensors.",
            autocompletion=shipped_models,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL,...",
            help="Learn from the answers of these models too (distillation); of several, from their mean. "
            "They look at the plain patch and may read other bands than the network that learns.",
            rich_help_panel=TEACHER_PANEL,
            autocompletion=shipped_models,
        ),
    ] = None,
    teacher_share: Annotated[
        float,
        typer.Option(
            help="What the teachers' answer counts beside the label of a patch, 0 to 1.",
            rich_help_panel=TEACHER_PANEL,
        ),
    ] = 0.5,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="Folder of further patches, which only the teachers say something of (noisy student). They "
            "may lack bands.",
            rich_help_panel=TEACHER_PANEL,
        ),
    ] = None,
    unlabelled_level: Annotated[
        str | None,
        typer.Option(
            help="Their level, L1C or L2A; default: what their folder.json says, else --level.",
            autocompletion=one_of("L1C", "L2A"),
            rich_help_panel=TEACHER_PANEL,
        ),
    ] = None,
    unlabelled_ratio: Annotated[
        float,
        typer.Option(help="Unlabelled patches a step for each labelled one.", rich_help_panel=TEACHER_PANEL),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and augmentation.")] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="bf16 autocast or fp32; auto is bf16 where the device computes in it, else fp32.",
            autocompletion=one_of("auto", "bf16", "fp32"),
        ),
    ] = "auto",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network; about 1.2x faster, needs a C++ compiler.")
    ] = False,
    val_every: Annotated[int, typer.Option(help="Epochs between measurements on the validation split.")] = 1,
    quiet: QuietOption = False,
) -> None:
    """Train a network from scratch on labelled patches; the same command resumes a run that was killed.

    balanced-pixel learns from patches with pixel labels too (--pixels). Its recipe is set with --set, but for
    --init, --seed and --precision.

    With --labels it learns from a table of images that each have any number of labels.

    On several GPUs: torchrun --nproc-per-node 4 -m landuse train ...
    """
    from landuse.model.devices import training_precision

    precision = training_precision(precision, device)
    if labels is not None:
        _refuse(context, OPTIONS_OF_FOLDERS, "apply to --labels")
        if network == PIXEL_NETWORK:
            raise UsageError(
                f"--network {PIXEL_NETWORK} classifies pixels, and --labels are of whole images."
            )
        if images is None or val_labels is None:
            raise UsageError("--labels needs --images DIR and --val-labels VAL.csv too. Give all three.")
        from landuse.model.training.labels.config import LabelTrainConfig
        from landuse.workflows.labels.train import LabelTrainRequest, image_source, train_label_model

        batch = batch_size or LABEL_BATCH
        label_request = LabelTrainRequest(
            labels=labels,
            val_labels=val_labels,
            images=image_source(images, level, band_order),
            out=out,
            bands=bands,
            name=name or f"{network}-labels",
            init=init,
            device=device,
            fits_batch=batch_size is None,
            config=LabelTrainConfig(
                network=network,
                size_px=size,
                preprocess=preprocess,
                loss=loss,
                pos_weight=pos_weight,
                label_smoothing=label_smoothing,
                epochs=epochs,
                batch_size=batch,
                peak_rate=peak_rate if batch_size else peak_rate * batch / PATCH_BATCH,
                warmup_epochs=warmup_epochs,
                weight_decay=weight_decay,
                decay_fusion=decay_fusion,
                ema=ema,
                dihedral=dihedral,
                least_area=crop_area,
                brightness=brightness,
                randaugment=randaugment,
                magnitude=magnitude,
                cutmix=cutmix,
                mixup=mixup,
                mix_until=cutmix_until,
                atmosphere=atmosphere,
                early_size_px=early_size,
                early_until=early_until,
                keep=keep,
                seed=seed,
                precision=precision,
                compile=compile_,
                val_every=val_every,
            ),
        )
        with label_training_progress(quiet=quiet) as (on_label_epoch, on_step):
            weights = train_label_model(label_request, on_label_epoch, on_step)
        typer.echo(str(weights))
        return
    _refuse(context, OPTIONS_OF_LABELS, "apply without --labels")
    if data is None:
        raise UsageError(
            "There is nothing to learn from. Give --data DIR, or --labels TRAIN.csv and its images."
        )
    from landuse.workflows.training.train import patch_source

    teachers = () if teacher is None else tuple(name.strip() for name in teacher.split(","))
    if network == PIXEL_NETWORK:
        _refuse(
            context,
            OPTIONS_OF_PATCHES,
            f"apply to --network {PIXEL_NETWORK}",
            "the recipe is set with --set NAME=VALUE",
        )
        from landuse.model.training.pixels.config import PixelTrainConfig
        from landuse.workflows.training.train_pixels import PixelTrainRequest, train_pixel_model

        pixel_request = PixelTrainRequest(
            data=patch_source(data, level, band_order),
            split=split,
            pixels=tuple(pixels or ()),
            out=out,
            name=name or network,
            init=init,
            teachers=teachers,
            device=device,
            config=PixelTrainConfig.from_settings(
                settings or (), seed=seed, precision=precision, teacher_share=teacher_share
            ),
        )
        with pixel_training_progress(quiet=quiet) as on_pixel_step:
            weights = train_pixel_model(pixel_request, on_pixel_step)
        typer.echo(str(weights))
        return
    if pixels or settings:
        raise UsageError(
            f"--pixels and --set are of --network {PIXEL_NETWORK}, and --network {network} is trained. Leave "
            f"them out, or choose {PIXEL_NETWORK}."
        )
    from landuse.model.training.config import TrainConfig
    from landuse.workflows.training.train import TrainRequest, train_model, unlabelled_source

    further = None
    if unlabelled is not None:
        further = unlabelled_source(unlabelled, unlabelled_level, level)
    elif unlabelled_level is not None:
        raise UsageError("--unlabelled-level is of --unlabelled, which is not given. Give both or neither.")
    request = TrainRequest(
        data=patch_source(data, level, band_order),
        split=split,
        out=out,
        bands=bands,
        name=name or f"{network}-{bands}",
        init=init,
        teachers=teachers,
        unlabelled=further,
        device=device,
        fits_batch=batch_size is None,
        config=TrainConfig(
            network=network,
            epochs=epochs,
            batch_size=PATCH_BATCH if batch_size is None else batch_size,
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
            early_crop_px=_sides(early_crop_px),
            restart_epochs=restart_epochs,
            optimizer=optimizer,
            teacher_share=teacher_share,
            unlabelled_ratio=unlabelled_ratio,
            seed=seed,
            precision=precision,
            compile=compile_,
            val_every=val_every,
        ),
    )
    with training_progress(quiet=quiet) as (on_epoch, on_step):
        weights = train_model(request, on_epoch, on_step)
    typer.echo(str(weights))


def _sides(text: str | None) -> tuple[int, ...]:
    """The sides that ``--early-crop-px 32,48`` gives.

    Raises:
        UsageError: one is no whole number.
    """
    try:
        return () if text is None else tuple(int(side) for side in text.split(","))
    except ValueError:
        raise UsageError(f"--early-crop-px {text} must be whole numbers, such as 48 or 32,48.") from None


def _refuse(context: typer.Context, names: tuple[str, ...], where: str, mend: str = "") -> None:
    """See that no option was given that has no meaning here.

    Raises:
        UsageError: one was.
    """
    given = [
        OPTION_OF.get(name, f"--{name.strip('_').replace('_', '-')}")
        for name in names
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} {'do' if len(given) > 1 else 'does'} not {where}. Leave it out"
            f"{'; ' + mend if mend else ''}."
        )


def evaluate_command(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Folder with one folder of JPEG or 13-band TIFF patches a class.")
    ] = None,
    pixels: Annotated[
        list[Path] | None,
        typer.Option(
            help="Of a model of pixels: folder of patches with pixel labels, such as one for each scene; may "
            "be given several times. Those that its val.txt names are scored, else all."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="TEST.csv",
            help="Of models that tell labels: a CSV of images and labels, as of `landuse train --labels`.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = None,
    images: ImagesOption = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER,...",
            help="What each of several models of --labels counts; default: all alike.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = None,
    curves: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Also draw precision over recall of each label.",
            rich_help_panel=LABELS_PANEL,
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
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
    reliability: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Also draw how much of what --pixels is said to be with a confidence is right.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on labelled patches (--data), and a model of pixels on pixel labels too (--pixels).

    Of patches a model of pixels is scored by its head that classifies patches, of pixels by its land cover.
    Models that tell labels are scored on a table of images (--labels); several, as in --model A,B, by the
    mean of their probabilities.
    """
    if labels is not None:
        _refuse(context, EVALUATE_OTHERS, "apply to --labels")
        if images is None:
            raise UsageError("--labels needs --images DIR too. Give the folder of the images.")
        _evaluate_labels(
            model, labels, images, weights, curves, level, band_order, tta=tta, device=device, as_json=as_json
        )
        return
    _refuse(context, ("images", "weights", "curves"), "apply without --labels")
    from landuse.model.checkpoint import load_contract, model_path
    from landuse.workflows.training.train import evaluate_model, patch_source

    for figure, of, given in (("--confusion", "--data", data), ("--reliability", "--pixels", pixels)):
        if (confusion if figure == "--confusion" else reliability) is not None and not given:
            raise UsageError(f"{figure} draws the scores of {of}, which is not given. Give it too.")
    if data is None and not pixels:
        raise UsageError("There is nothing to score on. Give --data, --pixels or both, or --labels.")
    if confusion is not None or reliability is not None:
        # Not needed for the scores alone.
        from landuse.workflows.training.drawing import check_png
        from landuse.workflows.training.figures import draw_confusion, draw_reliability

        for path in (confusion, reliability):
            if path is not None:
                check_png(path)  # before minutes of scoring
    told: dict[str, Any] = {}
    lines: list[str] = []
    if data is not None:
        patches = patch_source(data, level, band_order)
        scores = evaluate_model(patches, model, split=split, tta=tta, l2a_error=l2a_error, device=device)
        if confusion is not None:
            draw_confusion(scores, load_contract(model_path(model)).patch_classes, confusion)
        told |= asdict(scores)
        low, high = scores.interval
        lines += [
            f"patches {scores.n}  accuracy {scores.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})",
            f"kappa {scores.kappa:.4f}  macro F1 {scores.macro_f1:.4f}  ECE {scores.ece:.2%}",
            *(f"  {printable(name):22} {recall:.2%}" for name, recall in scores.per_class.items()),
        ]
    if pixels:
        from landuse.workflows.training.train_pixels import evaluate_pixels

        sets = evaluate_pixels(model, pixels, device)
        if reliability is not None:
            draw_reliability(sets, reliability)
        told["pixels"] = {
            name: {"accuracy": one.accuracy, "ece": one.ece, **asdict(one)} for name, one in sets.items()
        }
        lines.append("pixels  share of labels met by the land cover, and how far its confidence is off")
        lines += [
            f"  {one.accuracy:7.2%}  ECE {one.ece:6.2%}  {printable(name)}" for name, one in sets.items()
        ]
    if as_json:
        print_json(told)
        return
    lines += [f"wrote   {path}" for path in (confusion, reliability) if path is not None]
    typer.echo("\n".join(lines))


def _evaluate_labels(
    model: str,
    labels: Path,
    images: Path,
    weights: str | None,
    curves: Path | None,
    level: str,
    band_order: str | None,
    *,
    tta: bool,
    device: str,
    as_json: bool,
) -> None:
    from landuse.workflows.labels.evaluate import evaluate_labels
    from landuse.workflows.labels.stream import models_of, weights_of
    from landuse.workflows.labels.train import image_source

    if curves is not None:
        from landuse.workflows.training.drawing import check_png

        check_png(curves)  # before minutes of scoring
    found = evaluate_labels(
        models_of(model),
        labels,
        image_source(images, level, band_order),
        weights=weights_of(weights),
        tta=tta,
        device=device,
    )
    if curves is not None:
        from landuse.workflows.labels.figures import draw_precision_recall

        draw_precision_recall(found, curves)
    scores = found.scores
    if as_json:
        print_json(asdict(scores))
        return
    low, high = scores.interval
    lines = [
        f"images {scores.n}  mAP {scores.map:.2%} (95 % interval {low:.2%} to {high:.2%})  "
        f"PR-AUC {scores.pr_auc:.2%}",
        f"micro F1 {scores.micro_f1:.2%}  macro F1 {scores.macro_f1:.2%}  Hamming loss {scores.hamming:.2%}",
        f"  {'label':22} {'images':>6} {'AP':>8} {'F1':>8} {'threshold':>9}",
        *(
            f"  {printable(name):22} {one.positives:6} {_percent(one.ap):>8} {_percent(one.f1):>8} "
            f"{one.threshold:9.3f}"
            for name, one in scores.per_label.items()
        ),
    ]
    if curves is not None:
        lines.append(f"wrote   {curves}")
    typer.echo("\n".join(lines))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def models_command(as_json: JsonOption = False) -> None:
    """List the models that come with the package."""
    from landuse.model.checkpoint import load_contract, model_path

    contracts = {name: load_contract(model_path(name)) for name in shipped_models()}
    if as_json:
        print_json(
            {
                name: {key: value for key, value in asdict(contract).items() if key != "spectra"}
                | {"tells_doubt": contract.tells_doubt}
                for name, contract in contracts.items()
            }
        )
        return
    for name, contract in contracts.items():
        kind = "labels" if contract.labels is not None else "classes"
        levels = " and ".join(entry.level for entry in contract.levels)
        bands = ", ".join(contract.required_bands)
        if contract.optional_bands:
            bands += f" and, where there, {', '.join(contract.optional_bands)}"
        reads = f"{bands} of {levels}" if levels else "8-bit RGB images"
        told = f"{reads}; {len(contract.classes)} {kind}"
        if contract.pixels is not None:
            told += f" and {len(contract.pixels.covers)} covers of each pixel"
        typer.echo(f"{name}  {told}")


def eurosat_command(
    bands: Annotated[
        str,
        typer.Option(
            help="`rgb`: JPEG, 95 MB to fetch; `all`: 13-band GeoTIFF, 2.1 GB to fetch.",
            autocompletion=one_of("rgb", "all"),
        ),
    ] = "rgb",
    out: Annotated[Path, typer.Option(help="Folder for EuroSAT_RGB or EuroSAT_MS, and for splits.")] = Path(
        "eurosat"
    ),
    url: Annotated[
        str | None, typer.Option(help="Whole URL of the archive on a mirror; default: Zenodo's.")
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.zip",
            help="The archive, downloaded already, as with `curl -C - -O URL`.",
        ),
    ] = None,
    md5: Annotated[str | None, typer.Option(help="MD5 of another archive than the published one.")] = None,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Download EuroSAT, check and unpack it, and write the paper's split."""
    from landuse.workflows.training.eurosat import EurosatRequest, get_eurosat

    request = EurosatRequest(bands=bands, out=out, url=url, archive=archive, md5=md5, overwrite=overwrite)
    with transfer_progress(quiet=quiet) as on_progress:
        data = get_eurosat(request, on_progress)
    if as_json:
        print_json(data.to_dict())
        return
    there = ", already there" if data.already_there else ""
    typer.echo(f"data     {data.path} ({data.patches} patches{there})")
    for path in data.splits:
        typer.echo(f"split    {path}")
    wanted = "" if bands == "rgb" else f" --bands {bands}"
    typer.echo(f"next     landuse train --data {data.path}{wanted} --out RUN")
