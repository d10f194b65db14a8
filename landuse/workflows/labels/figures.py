"""Figures of networks that tell labels, as PNG: their training, and precision over recall."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from landuse.errors import UsageError
from landuse.model.training.labels.config import LabelMetrics
from landuse.workflows.training.figures import (
    BLUE,
    DARK,
    VERMILION,
    check_png,
    draw_fusion,
    head,
    new_figure,
    save_figure,
)

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes


log = logging.getLogger(__name__)

MAX_CURVES = 60
"""Labels whose curves are drawn; more would be one grey mass."""


def read_label_metrics(metrics_file: Path) -> tuple[LabelMetrics, ...]:
    """The measurements of a run on labels, by epoch; the last one counts where an epoch has two.

    A run that was killed may leave half a line: it is left out, with a warning.

    Raises:
        UsageError: the file cannot be read or holds no measurement.
    """
    try:
        lines = metrics_file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{metrics_file} cannot be read ({error}). Give the metrics.jsonl of a training run on labels."
        ) from error
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = TypeAdapter(LabelMetrics).validate_json(line)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("%s, line %d is no whole measurement (%s): left out", metrics_file, number, reason)
            continue
        found[entry.epoch] = entry
    if not found:
        raise UsageError(
            f"{metrics_file} holds no measurement in {len(lines)} lines. Give the metrics.jsonl of a "
            "training run on labels that has measured an epoch."
        )
    return tuple(found[epoch] for epoch in sorted(found))


def draw_label_curves(metrics_file: Path, path: Path) -> None:
    """Draw a training run on labels: loss, mAP and F1, and the fusion weight of each attention block.

    Args:
        metrics_file: ``metrics.jsonl`` as training writes it.
        path: the PNG; what is there is replaced.

    Raises:
        UsageError: the file holds no measurement, or ``path`` is not named ``.png``.
        OutputError: ``path`` cannot be written.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    check_png(path)
    metrics = read_label_metrics(metrics_file)
    last = metrics[-1]
    blocks = max(len(entry.fusion) for entry in metrics)
    panels = 3 if blocks else 2
    figure = new_figure(8.5, 2.7 * panels + 0.5)
    axes: list[Axes] = list(figure.subplots(panels, sharex=True))
    epochs = [entry.epoch for entry in metrics]
    mark = "o" if len(metrics) <= 60 else ""
    axes[0].plot(epochs, [entry.loss for entry in metrics], color=DARK, marker=mark, markersize=3.5)
    head(axes[0], f"Training loss, {last.loss:.3f} at the last measurement")
    for values, color, dash, name in (
        ([entry.val_map for entry in metrics], BLUE, "-", "mean average precision"),
        ([entry.val_micro_f1 for entry in metrics], VERMILION, "--", "micro F1 at a threshold of 0.5"),
    ):
        label = f"{name}: {values[-1] * 100:.2f} %"
        axes[1].plot(epochs, values, color=color, linestyle=dash, marker=mark, markersize=3.5, label=label)
    axes[1].set_ylim(0, 1)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    head(axes[1], "On the validation part, averaged weights")
    axes[1].legend(loc="lower right", frameon=False, fontsize=9)
    if blocks:
        draw_fusion(axes[2], [(entry.epoch, entry.fusion) for entry in metrics], mark)
    for panel in axes:
        panel.grid(axis="y", color="#dddddd", linewidth=0.7)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelcolor=DARK)
    axes[-1].set_xlabel("epoch", color=DARK)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    save_figure(figure, path)
