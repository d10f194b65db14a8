"""The figure of ``engine.py``: cost by stride, cost as the area grows, memory as it grows."""

from __future__ import annotations

from math import floor, log10
from statistics import median
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from engine_tables import Row
    from matplotlib.axes import Axes

COLORS = {"obvious": "#8c8c8c", "windows": "#0072b2", "shared": "#d55e00"}
"""Of the palette of Okabe and Ito, which people of any colour vision tell apart."""


def draw(rows: list[Row], path: Path) -> None:
    """Write the figure."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    by_stride, by_area, memory = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    _by_stride(by_stride, rows)
    _by_area(
        by_area,
        [row for row in rows if row.name == "area"],
        "ms per km²",
        lambda row: 1000 * row.seconds / row.km2,
    )
    _by_area(
        memory,
        [row for row in rows if row.name in ("area", "whole tile")],
        "peak RSS, MB",
        lambda row: row.peak_rss_mb,
    )
    by_area.set_title("Cost as the area grows", loc="left")
    memory.set_title("Memory as the area grows", loc="left")
    memory.axhline(3000, color="#6b6b6b", linewidth=1, linestyle="--")
    memory.text(
        0.02, 3000, "bound: 3 GB", transform=memory.get_yaxis_transform(), va="bottom", color="#6b6b6b"
    )
    memory.set_ylim(0, 3400)
    figure.savefig(path, dpi=150)


def _by_stride(axes: Axes, rows: list[Row]) -> None:
    """Bars of the rounds' medians on their tiles; a tick on a bar is the slower of its floors."""
    strides = sorted({row.stride_px for row in rows if row.name == "end to end"}, reverse=True)
    ways = ["obvious", *sorted({row.engine for row in rows if row.name == "end to end"}, reverse=True)]
    width = 0.8 / len(ways)
    for place, way in enumerate(ways):
        for index, stride_px in enumerate(strides):
            same = [row for row in rows if row.stride_px == stride_px]
            if way == "obvious":
                cost = _cost([row for row in same if row.name == "obvious loop"])
            else:
                mine = [row for row in same if row.engine == way]
                whole = [row for row in mine if row.name in ("whole tile", "part of it")]
                cost = _cost(whole or [row for row in mine if row.name == "end to end"])
            left = index + (place - (len(ways) - 1) / 2) * width
            label = {"obvious": "obvious loop"}.get(way, f"--engine {way}") if index == 0 else None
            axes.bar(left, cost, width * 0.92, color=COLORS[way], label=label)
            axes.text(
                left, cost * 1.06, f"{cost:.1f}" if cost < 100 else f"{cost:.0f}", ha="center", fontsize=8
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(
        range(len(strides)), [f"stride {stride_px}\n{stride_px * 10} m cells" for stride_px in strides]
    )
    axes.set_ylabel("ms per km²")
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** floor(log10(low)), high * 3)
    axes.set_title("Cost by stride, end to end", loc="left")
    axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=9, columnspacing=1.2)
    axes.spines[["top", "right"]].set_visible(False)


def _cost(rows: list[Row]) -> float:
    return median(1000 * row.seconds / row.km2 for row in rows)


def _by_area(axes: Axes, rows: list[Row], label: str, value: object) -> None:
    for engine in sorted({row.engine for row in rows}, reverse=True):
        stride = next(row.stride_px for row in rows if row.engine == engine and row.name == "area")
        mine = sorted(
            (row.km2, value(row)) for row in rows if row.engine == engine and row.stride_px == stride
        )
        axes.plot(*zip(*mine, strict=True), "o-", color=COLORS[engine], label=f"{engine}, stride {stride}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("km²")
    axes.set_ylabel(label)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    axes.legend(frameon=False, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
