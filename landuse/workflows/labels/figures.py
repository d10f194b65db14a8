"""Figures of networks that tell labels, as PNG: their training, and precision over recall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from landuse.model.training.labels.config import LabelMetrics
from landuse.model.training.labels.measure import curve_points
from landuse.workflows.training.drawing import (
    BLUE,
    DARK,
    VERMILION,
    check_png,
    head,
    new_figure,
    plain_names,
    save_figure,
    tidy,
)
from landuse.workflows.training.figures import draw_fusion
from landuse.workflows.training.logs import read_epochs

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from landuse.workflows.labels.evaluate import Evaluated

MAX_CURVES = 60
"""Labels whose curves are drawn; more would be one grey mass."""


def read_label_metrics(metrics_file: Path) -> tuple[LabelMetrics, ...]:
    """The measurements of a run on labels, as ``read_epochs``."""
    return read_epochs(metrics_file, TypeAdapter(LabelMetrics).validate_json, run="training run on labels")


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
        tidy(panel)
    axes[-1].set_xlabel("epoch", color=DARK)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    save_figure(figure, path)


def draw_precision_recall(found: Evaluated, path: Path) -> None:
    """Draw precision over recall, a line a label that occurs, the best told first in the legend.

    Args:
        found: probabilities and targets; the mean average precision heads the figure.
        path: the PNG; what is there is replaced.

    Raises:
        UsageError: ``path`` is not named ``.png``.
        OutputError: it cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import PercentFormatter

    check_png(path)
    scores = found.scores
    occurring = [(one.ap, name) for name, one in scores.per_label.items() if one.ap is not None]
    by_ap = sorted(((ap, found.labels.index(name), name) for ap, name in occurring), reverse=True)
    shown = by_ap[:MAX_CURVES]
    columns = -(-len(shown) // 30)
    figure = new_figure(7.0 + 2.6 * columns, 6.0)
    axes: Axes = figure.add_subplot()
    dashes = ("-", "--", ":")
    for place, ((ap, column, _), name) in enumerate(
        zip(shown, plain_names([name for *_, name in shown]), strict=True)
    ):
        recall, precision = curve_points(found.probabilities[:, column], found.targets[:, column])
        axes.step(
            [0.0, *recall],
            [precision[0], *precision],
            where="pre",
            color=colormaps["tab20"](place % 20),
            linestyle=dashes[place // 20 % len(dashes)],
            label=f"{name}: {ap * 100:.1f} %",
        )
    low, high = scores.interval
    left_out = f"; {len(by_ap) - len(shown)} labels are not drawn" if len(by_ap) > len(shown) else ""
    head(
        axes,
        f"Precision over recall; mAP {scores.map * 100:.2f} % (95 % interval {low * 100:.2f} to "
        f"{high * 100:.2f}), n = {scores.n}{left_out}",
    )
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, ncols=columns
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("recall: share of the images with the label that are answered so", color=DARK)
    axes.set_ylabel("precision: share of the answers that are right", color=DARK)
    tidy(axes, grid="both")
    save_figure(figure, path)
