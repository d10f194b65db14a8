"""What all figures share: their look, names as they can be drawn, and how they are written.

They are drawn with matplotlib's ``Figure`` and without pyplot, so no figure stays open, no display is
needed, and a caller's own figures are not changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from landuse.errors import UsageError
from landuse.pipeline.write.folder import atomic_path, prepare_folder
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
"""Comes with matplotlib, so a figure looks the same everywhere."""

DPI = 150
NAME_CHARS = 28
"""Longer names are cut: one hostile name must not squeeze the matrix out of its figure."""

DARK, MUTED = "#1a1a1a", "#6b6b6b"
BLUE, VERMILION = "#0072b2", "#d55e00"
"""Of the palette of Okabe and Ito, which people of any colour vision tell apart."""


def check_png(path: Path) -> None:
    """See that a figure can be written to ``path``, before the work it would show is done.

    Raises:
        UsageError: the name does not end in ``.png``.
        OutputError: the folder cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"Figures are PNG files; {path.name!r} is named otherwise. End the name in .png.")
    prepare_folder(path.parent)


def new_figure(width_in: float, height_in: float) -> Figure:
    """A figure of its own on an Agg canvas, known to nobody else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def head(axes: Axes, text: str) -> None:
    """Write a panel's heading."""
    axes.set_title(text, fontsize=10.5, loc="left", color=DARK)


def tidy(axes: Axes, *, grid: Literal["both", "y"] = "y") -> None:
    """A light grid, no frame above and to the right, and dark numbers."""
    axes.grid(axis=grid, color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelcolor=DARK)


def plain_names(classes: Sequence[str]) -> list[str]:
    """Names on one line, short, and of characters that the font has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    drawn = get_font(findfont(FontProperties(family=FONT))).get_charmap()
    names = []
    for name in classes:
        plain = "".join(char if ord(char) in drawn else "?" for char in printable(name))
        names.append(plain if len(plain) <= NAME_CHARS else f"{plain[: NAME_CHARS - 1]}…")
    return names


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as partial:
        # Without the version of matplotlib, which would make equal figures differ.
        figure.savefig(
            partial, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None}
        )
