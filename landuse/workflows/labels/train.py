"""From tables of images and labels to weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.model.bands import BAND_SETS
from landuse.model.checkpoint import model_path
from landuse.model.predict import file_sha256
from landuse.model.training.labels.train import train_labels
from landuse.workflows.labels.load import ImageSource, check_band_order, load_images
from landuse.workflows.labels.table import read_table
from landuse.workflows.training.train import fitted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from landuse.model.training.config import StepProgress
    from landuse.model.training.labels.config import LabelMetrics, LabelTrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTrainRequest:
    """What ``landuse train --labels`` is asked for."""

    labels: Path
    """CSV of the images to learn from."""
    val_labels: Path
    """CSV of the images to measure on."""
    images: ImageSource
    """Folder of the images of both."""
    out: Path
    """Folder for weights, state and metrics; a run found there is resumed."""
    config: LabelTrainConfig
    """The recipe."""
    bands: str = "rgb"
    """Of reflectance: name in ``BAND_SETS``."""
    name: str = "labels"
    """The model's name in its contract."""
    init: str | None = None
    """Shipped model or checkpoint to start from instead of from scratch."""
    fits_batch: bool = False
    """Take fewer images a step, and a lower rate, where an epoch would have fewer than ``LEAST_STEPS``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``."""

    def __post_init__(self) -> None:
        if self.bands not in BAND_SETS:
            raise UsageError(f"--bands {self.bands!r} is unknown. Choose {', '.join(BAND_SETS)}.")
        if self.bands == "all" and self.images.level == "L2A":
            raise UsageError("--bands all with --level L2A: L2A has no B10. Use --bands no-b10.")


def image_source(images: Path, level: str = "L1C", band_order: str | None = None) -> ImageSource:
    """The source that ``--images``, ``--level`` and ``--band-order`` name.

    Raises:
        UsageError: there is no such folder, or the level or a band is unknown.
    """
    return ImageSource(root=images, level=level, band_order=band_names(band_order))


def band_names(text: str | None) -> tuple[str, ...] | None:
    """The names that ``--band-order B02,B03`` gives.

    Raises:
        UsageError: one is no band of Sentinel-2, or is there twice.
    """
    if text is None:
        return None
    order = tuple(name.strip() for name in text.split(","))
    check_band_order(order)
    return order


def train_label_model(
    request: LabelTrainRequest,
    on_epoch: Callable[[LabelMetrics], None] | None = None,
    on_step: Callable[[StepProgress], None] | None = None,
) -> Path:
    """Train and write ``out/model.safetensors`` and ``out/curves.png``; returns the former's path.

    Raises:
        UsageError: a table or an image cannot be used, or an image is in both tables.
        ModelError: ``out`` holds a run with other settings.
        OutputError: ``out`` cannot be written.
    """
    table, val_table = read_table(request.labels), read_table(request.val_labels)
    shared = set(table.names) & set(val_table.names)
    if shared:
        raise UsageError(
            f"{len(shared)} images are in both {table.path} and {val_table.path}, such as {min(shared)}. "
            "Take them out of one: scores on images that were trained on mean nothing."
        )
    val_table = val_table.ordered(table.labels, request.name)
    # Not above: the figures' writer loads matplotlib when it draws, and the rest can do without.
    from landuse.workflows.labels.figures import draw_label_curves

    init = None if request.init is None else model_path(request.init)
    config = request.config if init is None else replace(request.config, init_sha256=file_sha256(init))
    if request.fits_batch:
        config = fitted(config, len(table.names))
    bands = BAND_SETS[request.bands]

    def measured(metrics: LabelMetrics) -> None:
        draw_label_curves(request.out / "metrics.jsonl", request.out / "curves.png")
        if on_epoch is not None:
            on_epoch(metrics)

    return train_labels(
        config,
        load_images(request.images, table, bands=bands, size_px=config.size_px),
        load_images(request.images, val_table, bands=bands, size_px=config.size_px),
        request.out,
        name=request.name,
        init=init,
        device=request.device,
        on_epoch=measured,
        on_step=on_step,
    )
