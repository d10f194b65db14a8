"""``landuse predict`` and ``thresholds``: whole images to probabilities, and from which on a label counts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landuse.commands.options import DeviceOption, JsonOption, OverwriteOption, QuietOption, one_of
from landuse.commands.terminal import images_progress, print_json
from landuse.model import DEFAULT_MODEL, shipped_models
from landuse.redact import printable

TtaOption = Annotated[bool, typer.Option("--tta", help="Average over the eight symmetries of the square.")]
ReflectanceLevelOption = Annotated[
    str,
    typer.Option(
        help="Processing level of images of reflectance, L1C or L2A.", autocompletion=one_of("L1C", "L2A")
    ),
]
ReflectanceOrderOption = Annotated[
    str | None,
    typer.Option(
        metavar="B02,B03,...",
        help="Band names of TIFFs of reflectance in file order; default: the files' own, else EuroSAT's.",
    ),
]
ModelsOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL[,MODEL...]",
        help="Name of a shipped model (see `landuse models`) or path of a .safetensors; several are "
        "averaged.",
        autocompletion=shipped_models,
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(metavar="NUMBER,...", help="What each of several models counts; default: all alike."),
]

PREDICT_EXAMPLES = """\b
Examples:
  landuse predict photos --model labels.safetensors --tta --out probabilities.csv
  landuse predict a.tif b.tif --model balanced-fast-no-b10 --level L2A --out classes.csv
  landuse predict photos --model raw.safetensors,sharp.safetensors --weights 1,2 --out mean.csv
"""


def predict_command(
    images: Annotated[
        list[Path],
        typer.Argument(help="Images, or folders of images: JPEG, PNG or TIFF.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.csv",
            help="Table of probabilities, a column for each class or label. The same command goes on with "
            "one that was interrupted.",
        ),
    ],
    model: ModelsOption = DEFAULT_MODEL,
    weights: WeightsOption = None,
    tta: TtaOption = False,
    level: ReflectanceLevelOption = "L1C",
    band_order: ReflectanceOrderOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell the class or the labels of whole images, as a table of probabilities.

    A model that reads 8-bit RGB images has them brought to its size. A model of reflectance reads GeoTIFFs of
    uint16 DN by the names of their bands, at their own size; 8-bit RGB images are taken for EuroSAT's JPEGs.
    """
    from landuse.workflows.labels.predict import PredictRequest, predict_images
    from landuse.workflows.labels.stream import models_of, weights_of
    from landuse.workflows.labels.train import band_names

    request = PredictRequest(
        images=tuple(images),
        models=models_of(model),
        out=out,
        weights=weights_of(weights),
        tta=tta,
        level=level,
        band_order=band_names(band_order),
        device=device,
        overwrite=overwrite,
    )
    with images_progress(quiet=quiet) as on_progress:
        made = predict_images(request, on_progress)
    if as_json:
        print_json(
            {"out": str(made.out), "images": made.images, "new": made.new, "columns": list(made.columns)}
        )
        return
    typer.echo(str(made.out))


def thresholds_command(
    labels: Annotated[
        Path,
        typer.Option(
            metavar="VAL.csv", help="Images and labels to fit them to; not those that are reported on."
        ),
    ],
    images: Annotated[Path, typer.Option(help="Folder of the images that --labels names.")],
    model: Annotated[
        str,
        typer.Option(
            help="Name of a shipped model or path of a .safetensors that tells labels.",
            autocompletion=shipped_models,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.safetensors", help="The same weights with the new thresholds.")
    ],
    tta: TtaOption = False,
    level: ReflectanceLevelOption = "L1C",
    band_order: ReflectanceOrderOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit from which probability on each label counts as there: the best F1 on a table of images."""
    from landuse.workflows.labels.evaluate import refit_thresholds
    from landuse.workflows.labels.train import image_source

    found = refit_thresholds(
        model,
        labels,
        image_source(images, level, band_order),
        out,
        tta=tta,
        device=device,
        overwrite=overwrite,
    )
    if as_json:
        print_json({"out": str(out), "thresholds": found})
        return
    typer.echo(
        "\n".join([*(f"{value:.4f}  {printable(name)}" for name, value in found.items()), f"wrote   {out}"])
    )
