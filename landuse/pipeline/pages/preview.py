"""A map as one image for a slide: imagery and classes beside each other, with legend, scale and source.

matplotlib places everything (its constrained layout). pyplot is not used, so that nothing stays open.
"""

from __future__ import annotations

from math import ceil, floor, log10
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from landuse.pipeline.cells import NO_CLASS, NODATA_ID, percent
from landuse.pipeline.pages.pieces import reduced_classes
from landuse.pipeline.write.folder import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landuse.pipeline.cells import NoClass
    from landuse.pipeline.pages.content import MapView

FONT = "DejaVu Sans"
"""Comes with matplotlib, so that a preview looks the same everywhere."""

WIDTH_PX, HEIGHT_PX, DPI = 1920, 1080, 120
MARGIN = 56 / WIDTH_PX
"""Left and right of everything, as a share of the width."""

INK, QUIET = "#1b211d", "#59635c"
NO_IMAGE = (225, 228, 225)
"""Colour of pixels without data: black would weigh too much on a white page."""

LEGEND_ROWS = 12
"""So many classes are named, the largest first. The others are summed up in one row."""

LABEL_LETTERS = 28
"""Longer titles of classes are cut in the legend."""

WIDE = 2.3
"""From this ratio of width to height on, the two panels stand one above the other."""

STRIPE_PX = 5
"""Width of the stripes over cells without a class."""

PANEL_PX = 1000
"""Least length of the longer side that classes are drawn with: stripes need more pixels than cells have."""


def write_preview(target: Path, view: MapView) -> None:
    """Draw the preview of a map as PNG of 1920 x 1080 pixels, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    figure = draw_preview(view)
    with atomic_path(target) as partial:
        # Without the version of matplotlib, which would make equal previews differ.
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})


def draw_preview(view: MapView) -> Figure:
    """The preview as a figure whose layout is settled.

    Example:
        ``draw_preview(view).savefig("preview.svg")``
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    left, bottom, right, top = view.bounds_m
    is_wide = right - left > WIDE * (top - bottom)
    with rc_context({"font.family": FONT, "text.parse_math": False, "text.color": INK}):
        engine = ConstrainedLayoutEngine(rect=(MARGIN, 0.055, 1 - 2 * MARGIN, 0.82))
        figure = Figure((WIDTH_PX / DPI, HEIGHT_PX / DPI), DPI, facecolor="white", layout=engine)
        FigureCanvasAgg(figure)
        bands = ", ".join(view.image_bands)
        footer = f"{view.attribution} · image: {bands} · {view.model}, landuse {view.version}"
        _line(figure, 0.93, view.title, size=25, weight="bold")
        _line(figure, 0.89, _subtitle(view), size=14, color=QUIET)
        _line(figure, 0.03, footer, size=11.5, color=QUIET)
        if is_wide:
            image_axes, map_axes, legend_axes = figure.subplots(3, height_ratios=(1, 1, 0.6))
        else:
            image_axes, map_axes, legend_axes = figure.subplots(1, 3, width_ratios=(1, 1, 0.75))
        classes, cell_m = class_image(view)
        # Whole squares of cells: the last ones may reach over the map's edge.
        reach = (left, left + classes.shape[1] * cell_m, top - classes.shape[0] * cell_m, top)
        for axes, head, pixels, extent in (
            (image_axes, "Image", small_image(view.image), (left, right, bottom, top)),
            (map_axes, "Land use", classes, reach),
        ):
            axes.imshow(pixels, extent=extent, interpolation="nearest")
            axes.set(xlim=(left, right), ylim=(bottom, top))
            axes.set_title(head, loc="left", y=1.0, fontsize=13, fontweight="bold")
            axes.set_anchor("NW")
            axes.set_axis_off()
        _draw_scale(image_axes, (right - left) / 3, (top - bottom) / 100)
        _draw_north(image_axes)
        _draw_legend(legend_axes, view, columns=4 if is_wide else 1)
        figure.draw_without_rendering()  # settles the layout
    return figure


def plain(text: str) -> str:
    """The text on one line, of characters that the font has; others become ``?``."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    drawn = get_font(findfont(FontProperties(family=FONT))).get_charmap()
    return "".join(c if ord(c) in drawn and c.isprintable() else "?" for c in " ".join(text.split()))


def _line(
    figure: Figure, y: float, text: str, *, size: float, color: str = INK, weight: str = "normal"
) -> None:
    """One line of text from the left margin, cut to the width of the page; ``y`` is 0..1 from below."""
    line = figure.text(MARGIN, y, plain(text), fontsize=size, color=color, fontweight=weight)
    line.set_in_layout(False)
    shown = line.get_text()[:400]
    while shown and line.get_window_extent().width > WIDTH_PX * (1 - 2 * MARGIN):
        # A step that halves what is too long would cut too much; a tenth is found soon enough.
        shown = shown[: min(len(shown) - 1, len(shown) * 9 // 10 + 1)]
        line.set_text(f"{shown.rstrip()}…")


def _subtitle(view: MapView) -> str:
    """When the imagery is from, how large the area is, and how large its cells are."""
    used = [scene for scene in view.scenes if not scene.spare] or list(view.scenes)
    days = sorted({f"{scene.acquired_utc:%Y-%m-%d}" for scene in used})
    when = ", ".join(days) if len(days) <= 3 else f"{days[0]} to {days[-1]} ({len(days)} days)"
    area_m2 = view.cover.cells * view.cell_m**2
    area = f"{area_m2 / 1e6:,.1f} km²" if area_m2 >= 1e6 else f"{area_m2 / 1e4:,.1f} ha"
    return " · ".join(part for part in (when, area, f"cells of {view.cell_m:g} m", view.crs) if part)


def small_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image (y, x, 3) with at most ``PANEL_PX`` pixels a side, averaged; nodata as ``NO_IMAGE``."""
    seen = image.any(axis=2, keepdims=True)  # (y, x, 1)
    shown = Image.fromarray(np.where(seen, image, np.array(NO_IMAGE, np.uint8)))
    # Here rather than in matplotlib, which takes 16 bytes for each pixel of a large image.
    shown.thumbnail((PANEL_PX, PANEL_PX), Image.Resampling.BOX)
    return np.asarray(shown)


def class_image(view: MapView) -> tuple[NDArray[np.uint8], float]:
    """The classes in their colours, (y, x, 3), and the side of one of its pixels in metres.

    Each cell is a square of the same whole number of pixels; of a map of more than ``PANEL_PX`` cells a side,
    each pixel is a square of cells and has the class that most of them have. No colours are mixed, cells
    without a class are hatched, and cells outside the area are white.
    """
    palette = np.full((256, 3), 255, np.uint8)
    for entry in view.legend:
        palette[entry.id] = entry.color
    together = ceil(max(view.classes.shape) / PANEL_PX)
    reduced = reduced_classes(view, together)
    factor = ceil(PANEL_PX / max(reduced[0].shape))
    classes, status = (a.repeat(factor, 0).repeat(factor, 1) for a in reduced)
    shown = palette[classes]  # (y, x, 3)
    y, x = (np.arange(count) for count in classes.shape)
    striped = ((y[:, None] + x) % (2 * STRIPE_PX) < STRIPE_PX)[..., None]
    for kind in NO_CLASS:
        found = (classes == NODATA_ID) & (status == kind.status)
        shown[found] = np.where(
            striped[found], np.array(kind.stripe, np.uint8), np.array(kind.color, np.uint8)
        )
    return shown, view.shown_m * together / factor


def _draw_scale(axes: Axes, most_m: float, height_m: float) -> None:
    """A bar of a round length up to ``most_m`` in the lower left corner, ``height_m`` high."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    bar_m = round_length(most_m)
    label = f"{bar_m / 1000:g} km" if bar_m >= 1000 else f"{bar_m:g} m"
    bar = AnchoredSizeBar(
        axes.transData,
        bar_m,
        label,
        "lower left",
        size_vertical=height_m,
        color="white",
        frameon=False,
        borderpad=0.8,
        fontproperties=FontProperties(family=FONT, size=12, weight="bold"),
    )
    for part in bar.findobj(lambda artist: isinstance(artist, (Rectangle, Text))):
        part.set_path_effects([withStroke(linewidth=3, foreground=INK)])  # readable on any image
    bar.set_in_layout(False)
    axes.add_artist(bar)


def round_length(most_m: float) -> float:
    """The largest 1, 2 or 5 times a power of ten within ``most_m``."""
    power = 10.0 ** floor(log10(most_m))
    # The logarithm may be rounded up to the next power.
    return next(step * power for step in (5, 2, 1, 0.5) if step * power <= most_m)


def _draw_north(axes: Axes) -> None:
    """An arrow to the north in the upper right corner: the columns of a map run north."""
    arrow = axes.annotate(
        "N",
        (0.95, 0.96),
        (0, -52),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        fontsize=12,
        fontweight="bold",
        bbox={"boxstyle": "circle", "facecolor": "white", "edgecolor": INK},
        arrowprops={"arrowstyle": "simple", "facecolor": "white", "edgecolor": INK},
    )
    arrow.set_in_layout(False)


def _draw_legend(axes: Axes, view: MapView, *, columns: int) -> None:
    """Classes by their area, then what became of the cells without one."""
    from matplotlib.patches import Patch

    entries = {entry.id: entry for entry in view.legend}
    areas = sorted(view.areas, key=lambda area: -area.area_m2)
    rows = [
        Patch(facecolor=_hex(entries[area.id].color), label=_label(entries[area.id].title, area.share))
        for area in areas[:LEGEND_ROWS]
    ]
    if rest := areas[LEGEND_ROWS:]:
        share = sum(area.share for area in rest)
        rows.append(Patch(facecolor="none", label=_label(f"{len(rest)} more classes", share)))
    rows += [
        Patch(facecolor=_hex(kind.color), edgecolor=_hex(kind.stripe), hatch="////", label=_gap(kind, share))
        for kind in NO_CLASS
        if (share := getattr(view.cover, kind.share)) is None or share > 0
    ]
    if view.cover.doubtful is not None:
        told = f"Doubtful  {percent(view.cover.doubtful)} of what is mapped"
        rows.append(Patch(facecolor="none", label=told))
    axes.set_axis_off()
    legend = axes.legend(
        handles=rows,
        title=f"Share of what is classified\n({percent(view.cover.valid)} of the area)",
        loc="upper left",
        ncols=columns,
        borderaxespad=0,
        handlelength=1.5,
        fontsize=12,
        title_fontproperties={"family": FONT, "size": 13, "weight": "bold"},
        frameon=False,
        alignment="left",
    )
    legend.set_in_layout(False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _label(title: str, share: float) -> str:
    shown = plain(title)
    cut = shown if len(shown) <= LABEL_LETTERS else f"{shown[: LABEL_LETTERS - 1]}…"
    return f"{cut}  {percent(share)}"


def _gap(kind: NoClass, share: float | None) -> str:
    return f"{kind.title}  not checked" if share is None else f"{kind.title}  {percent(share)} of the area"


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
