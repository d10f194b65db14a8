"""Figures of a network's scores and of its training, as PNG."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from landuse.workflows.training.drawing import (
    BLUE,
    DARK,
    FONT,
    MUTED,
    NAME_CHARS,
    VERMILION,
    check_png,
    head,
    new_figure,
    plain_names,
    save_figure,
    tidy,
)
from landuse.workflows.training.logs import read_losses, read_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from landuse.model.training.evaluate import Scores
    from landuse.model.training.pixels.measure import Reliability

CELL_IN, MAX_SIDE_IN = 0.78, 24.0
"""Side of a matrix cell, and of a matrix of so many classes that its cells must be smaller."""

TEXT_CLASSES = 30
"""Up to so many classes numbers fit into the cells."""

LEAST_SHARE = 0.0005
"""Accuracies nearer to 0 or 1 are drawn at this distance from it."""


def draw_confusion(scores: Scores, classes: tuple[str, ...], path: Path) -> None:
    """Draw the confusion matrix: rows true, columns predicted, counts and shares of the true class.

    Args:
        scores: their confusion matrix is drawn, and their accuracy, kappa and n head it.
        classes: name of each row and column.
        path: the PNG; what is there is replaced.

    Raises:
        ValueError: the matrix is not one row and column a class.
        UsageError: ``path`` is not named ``.png``.
        OutputError: it cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    count = len(classes)
    if count == 0 or {len(row) for row in scores.confusion} != {count} or len(scores.confusion) != count:
        raise ValueError(f"a confusion matrix of {len(scores.confusion)} rows does not fit {count} classes")
    check_png(path)
    totals = [sum(row) for row in scores.confusion]
    shares = [
        [value / total if total else 0.0 for value in row]
        for row, total in zip(scores.confusion, totals, strict=True)
    ]
    side_in = min(count * CELL_IN, MAX_SIDE_IN)
    figure = new_figure(side_in + 3.4, side_in + 2.2)
    axes = figure.add_subplot()
    # Errors are a few percent of a class: the square root lets them show beside the diagonal.
    norm = PowerNorm(0.5, 0, 1)
    axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    if count <= TEXT_CLASSES:
        shade = colormaps["Blues"]
        for row, total in enumerate(totals):
            for col, value in enumerate(scores.confusion[row]):
                ink = _ink(shade(float(norm(shares[row][col]))))
                _write_cell(axes, row, col, value, total, ink)
    # Names as high as the rows allow, 10 points at most.
    _name_classes(axes, plain_names(classes), totals, size=min(10.0, 0.75 * 72 * side_in / count))
    figure.suptitle(_headline(scores), fontsize=11, x=0.01, ha="left", color=DARK)
    bar = figure.colorbar(ScalarMappable(norm, "Blues"), ax=axes, fraction=0.035, pad=0.02)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0 %", "1 %", "5 %", "20 %", "50 %", "100 %"])
    bar.set_label("share of the true class", color=DARK)
    bar.outline.set_visible(False)
    save_figure(figure, path)


def draw_curves(metrics_file: Path, path: Path) -> None:
    """Draw a training run: loss, both accuracies, and the fusion weight of each attention block.

    Args:
        metrics_file: ``metrics.jsonl`` as training writes it; epochs between measurements may be missing.
        path: the PNG; what is there is replaced.

    Raises:
        UsageError: the file holds no measurement, or ``path`` is not named ``.png``.
        OutputError: ``path`` cannot be written.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    check_png(path)
    metrics = read_metrics(metrics_file)
    last = metrics[-1]
    blocks = max(len(entry.fusion) for entry in metrics)
    panels = 3 if blocks else 2
    figure = new_figure(8.5, 2.7 * panels + 0.5)
    axes: list[Axes] = list(figure.subplots(panels, sharex=True))
    epochs = [entry.epoch for entry in metrics]
    mark = "o" if len(metrics) <= 60 else ""

    axes[0].plot(epochs, [entry.loss for entry in metrics], color=DARK, marker=mark, markersize=3.5)
    head(axes[0], f"Training loss, {last.loss:.3f} at the last measurement")

    # On a logit axis 98 and 99 % are as far apart as they are in errors. 0 and 100 % would be infinitely far
    # away.
    axes[1].set_yscale("logit")
    for values, color, dash, name in (
        ([entry.val_accuracy for entry in metrics], BLUE, "-", "as it is"),
        ([entry.val_accuracy_l2a for entry in metrics], VERMILION, "--", "under a simulated L2A atmosphere"),
    ):
        label = f"{name}: {values[-1] * 100:.2f} %"
        drawn = [min(max(value, LEAST_SHARE), 1 - LEAST_SHARE) for value in values]
        axes[1].plot(epochs, drawn, color=color, linestyle=dash, marker=mark, markersize=3.5, label=label)
    axes[1].set_yticks([], minor=True)
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:g} %"))
    head(axes[1], "Accuracy on the validation split, averaged weights")
    axes[1].legend(loc="lower right", frameon=False, fontsize=9)

    if blocks:
        draw_fusion(axes[2], [(entry.epoch, entry.fusion) for entry in metrics], mark)
    for panel in axes:
        tidy(panel)
    axes[-1].set_xlabel("epoch", color=DARK)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    save_figure(figure, path)


def draw_losses(losses_file: Path, path: Path) -> None:
    """Draw a training run on pixels: each part of its loss, smoothed, on a common logarithmic axis.

    Args:
        losses_file: ``losses.jsonl`` as training writes it.
        path: the PNG; what is there is replaced.

    Raises:
        UsageError: the file holds no losses, or ``path`` is not named ``.png``.
        OutputError: ``path`` cannot be written.
    """
    from matplotlib import colormaps

    check_png(path)
    losses = read_losses(losses_file)
    names = sorted({name for values in losses.values() for name in values})
    figure = new_figure(8.5, 4.5)
    axes: Axes = figure.add_subplot()
    shade = colormaps["tab20"]
    for index, name in enumerate(names):
        steps = [step for step, values in losses.items() if name in values]
        values = [losses[step][name] for step in steps]
        # One step's loss says little: the mean of a twentieth of the run, which ends at that step.
        window = max(len(values) // 20, 1)
        means = [
            sum(part) / len(part)
            for part in (values[max(i - window + 1, 0) : i + 1] for i in range(len(values)))
        ]
        mark = "o" if len(means) == 1 else ""
        axes.plot(steps, means, color=shade(index % 20), marker=mark, label=f"{name}: {means[-1]:.3g}")
    axes.set_yscale("log", nonpositive="clip")
    head(axes, f"Parts of the loss after {max(losses)} steps, each before its weight")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    tidy(axes)
    axes.set_xlabel("step", color=DARK)
    save_figure(figure, path)


def draw_reliability(sets: Mapping[str, Reliability], path: Path) -> None:
    """Draw how much of what is said with each confidence is right, a line a set, over how much is said so.

    Args:
        sets: by name; bins without pixels are left out.
        path: the PNG; what is there is replaced.

    Raises:
        UsageError: ``path`` is not named ``.png``.
        OutputError: it cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import PercentFormatter

    check_png(path)
    figure = new_figure(8.5, 6.5)
    axes: list[Axes] = list(figure.subplots(2, sharex=True, height_ratios=(3, 1)))
    axes[0].plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    names = plain_names([name[-NAME_CHARS:] for name in sets])  # folders: their ends tell them apart
    for index, (name, told) in enumerate(zip(names, sets.values(), strict=True)):
        bins = [
            (sure / weight, right / weight, weight / sum(told.weight))
            for weight, sure, right in zip(told.weight, told.confidence, told.right, strict=True)
            if weight
        ]
        sure, right, share = zip(*bins, strict=True)
        color = colormaps["tab20"](index % 20)
        label = f"{name}: {told.accuracy * 100:.1f} % right, ECE {told.ece * 100:.1f} %"
        axes[0].plot(sure, right, label=label, color=color, marker="o", markersize=3.5)
        axes[1].plot(sure, share, color=color, marker="o", markersize=3.5)
    axes[0].set(xlim=(0, 1), ylim=(0, 1))
    axes[1].set_ylim(bottom=0)
    head(axes[0], "Share that is right of what is said with a confidence; on the dotted line they are equal")
    head(axes[1], "Share of the pixels that are in each bin of confidence")
    legend = axes[0].legend(loc="upper left", frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    for panel in axes:
        panel.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        panel.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        tidy(panel, grid="both")
    axes[1].set_xlabel("mean confidence of a bin", color=DARK)
    save_figure(figure, path)


def draw_fusion(axes: Axes, measured: Sequence[tuple[int, tuple[float, ...]]], mark: str) -> None:
    """One line a block, from input (dark) to output (light).

    Args:
        axes: what to draw into.
        measured: epoch and fusion weight of each block.
        mark: matplotlib's marker of a measurement, or nothing.
    """
    from matplotlib import colormaps

    shade = colormaps["viridis"]
    dashes = ("-", "--", "-.", ":")
    blocks = max(len(fusion) for _, fusion in measured)
    for block in range(blocks):
        values = [(epoch, fusion[block]) for epoch, fusion in measured if len(fusion) > block]
        axes.plot(
            [epoch for epoch, _ in values],
            [value for _, value in values],
            # Viridis' yellow end is too pale on white.
            color=shade(0.88 * block / max(blocks - 1, 1)),
            linestyle=dashes[block % len(dashes)],
            marker=mark,
            markersize=3.5,
            label=f"block {block + 1}: {values[-1][1]:.2f}",
        )
    axes.set_ylim(0, 1)
    head(axes, "Fusion weight of each attention block: 1 = coordinate, 0 = channel attention")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _ink(color: tuple[float, float, float, float]) -> str:
    """Black or white, whichever stands out more from a colour (relative luminance of WCAG 2.1)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _write_cell(axes: Axes, row: int, col: int, value: int, total: int, ink: str) -> None:
    """Count and share of the true class; a bare, muted 0 lets the errors stand out."""
    if value == 0:
        axes.text(col, row, "0", ha="center", va="center", fontsize=8, color=MUTED)
        return
    weight = "bold" if row == col else "normal"
    axes.text(
        col, row - 0.13, str(value), ha="center", va="center", fontsize=10, fontweight=weight, color=ink
    )
    axes.text(
        col, row + 0.22, f"{value / total * 100:.1f} %", ha="center", va="center", fontsize=7.5, color=ink
    )


def _name_classes(axes: Axes, names: Sequence[str], totals: Sequence[int], size: float) -> None:
    """Names on both axes, as they are: a ``$`` in one starts no formula."""
    places = range(len(names))
    style = {"fontfamily": FONT, "fontsize": size, "color": DARK, "parse_math": False}
    axes.set_xticks(
        places, labels=names, rotation=40, ha="right", rotation_mode="anchor", minor=False, **style
    )
    rows = [f"{name}  ({total})" for name, total in zip(names, totals, strict=True)]
    axes.set_yticks(places, labels=rows, minor=False, **style)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # White lines between the cells.
    axes.set_xticks([place - 0.5 for place in places[1:]], minor=True)
    axes.set_yticks([place - 0.5 for place in places[1:]], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class", fontsize=11, color=DARK)
    axes.set_ylabel("true class (patches)", fontsize=11, color=DARK)


def _headline(scores: Scores) -> str:
    low, high = scores.interval
    kappa = f"{scores.kappa:.4f}" if isfinite(scores.kappa) else "undefined"
    return (
        f"accuracy {scores.accuracy * 100:.2f} % (95 % interval {low * 100:.2f} to {high * 100:.2f}),  "
        f"kappa {kappa},  n = {scores.n}"
    )
