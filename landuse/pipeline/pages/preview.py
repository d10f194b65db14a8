"""A map as one image for a slide: imagery, classes and cover beside each other, with legends, scale, source.

matplotlib places everything (its constrained layout). pyplot is not used, so that nothing stays open.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor, log10
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from landuse.pipeline.cells import NO_CLASS, NODATA_ID, percent
from landuse.pipeline.pages.pieces import reduced_classes
from landuse.pipeline.write.folder import atomic_path

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.patches import Patch
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
"""From this ratio of width to height on, the panels stand one above the other."""

NOTES = 3
"""So many warnings are shown, a line each."""

NOTE_HEIGHT = 0.024
"""Of a line of them, as a share of the height."""

STRIPE_PX = 5
"""Width of the stripes over cells without a class."""

PANEL_PX = 1000
"""Least length of the longer side that classes are drawn with: stripes need more pixels than cells have."""


def write_preview(target: Path, view: MapView) -> None:
    """Draw the preview of a map as PNG of 1920 x 1080 pixels, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    canvas = cast("FigureCanvasAgg", draw_preview(view).canvas)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib's
    # Not by ``savefig``, which draws a figure twice, and names the version of matplotlib in the file.
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]  # matplotlib's
    with atomic_path(target) as partial:
        pixels.save(partial, format="png", dpi=(DPI, DPI))
    # Figures hold themselves in circles, which Python looks for seldom: of map after map 8 MB would stay.
    # Texts hold the renderer too, so that what it holds is taken from it.
    canvas.get_renderer().__dict__.clear()  # type: ignore[no-untyped-call]  # matplotlib's


def draw_preview(view: MapView) -> Figure:
    """The preview as a figure whose layout is settled. Where legends are within it is known once it is drawn.

    Example:
        ``draw_preview(view).savefig("preview.svg")``
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    left, bottom, right, top = view.bounds_m
    is_wide = right - left > WIDE * (top - bottom)
    shown = {"Land use": view}
    if view.land_cover is not None:
        shown["Land cover"] = _of_cover(view, view.land_cover)
    with rc_context({"font.family": FONT, "text.parse_math": False, "text.color": INK}):
        notes = view.warnings[:NOTES]
        low = 0.055 + NOTE_HEIGHT * len(notes)
        engine = ConstrainedLayoutEngine(rect=(MARGIN, low, 1 - 2 * MARGIN, 0.875 - low))
        figure = Figure((WIDTH_PX / DPI, HEIGHT_PX / DPI), DPI, facecolor="white", layout=engine)
        FigureCanvasAgg(figure)
        bands = ", ".join(view.image_bands)
        footer = f"{view.attribution} · image: {bands} · {view.model}, landuse {view.version}"
        _line(figure, 0.93, view.title, size=25, weight="bold")
        _line(figure, 0.89, _subtitle(view), size=14, color=QUIET)
        _line(figure, 0.03, footer, size=11.5, color=QUIET)
        for place, note in enumerate(reversed(notes), start=1):
            _line(figure, 0.035 + NOTE_HEIGHT * place, f"Note: {note}", size=11.5)
        # The images are of one size; two legends need more room than one.
        sizes = (1.0,) * (len(shown) + 1)
        if is_wide:
            axes_of = figure.subplots(len(sizes) + 1, height_ratios=(*sizes, 1.45 if len(shown) > 1 else 0.6))
        else:
            axes_of = figure.subplots(
                1, len(sizes) + 1, width_ratios=(*sizes, 1.1 if len(shown) > 1 else 0.75)
            )
        *panels, legend_axes = axes_of
        drawn = [("Image", small_image(view.image), (left, right, bottom, top))]
        for head, one in shown.items():
            classes, cell_m = class_image(one)
            # Whole squares of cells: the last ones may reach over the map's edge.
            reach = (left, left + classes.shape[1] * cell_m, top - classes.shape[0] * cell_m, top)
            drawn.append((head, classes, reach))
        for axes, (head, pixels, extent) in zip(panels, drawn, strict=True):
            axes.imshow(pixels, extent=extent, interpolation="nearest")
            axes.set(xlim=(left, right), ylim=(bottom, top))
            axes.set_title(head, loc="left", y=1.0, fontsize=13, fontweight="bold")
            axes.set_anchor("NW")
            axes.set_axis_off()
        image_axes = panels[0]
        _draw_scale(image_axes, (right - left) / 3, (top - bottom) / 100)
        _draw_north(image_axes)
        _draw_legends(legend_axes, shown, is_wide=is_wide)
        engine.execute(figure)  # settles the layout and scales no image, as drawing would
        figure.set_layout_engine("none")
        for axes in figure.axes:
            # The layout's last digits depend on the order in memory, and equal maps have equal previews.
            axes.set_position(np.round(axes.get_position(original=True).bounds, 5), which="original")
    return figure


def _of_cover(view: MapView, land_cover: NDArray[np.uint8]) -> MapView:
    """The view with its land cover in place of its classes."""
    return replace(view, classes=land_cover, legend=view.cover_legend, areas=view.cover_areas)


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
    area_m2 = view.area_m2
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


def _draw_legends(axes: Axes, shown: dict[str, MapView], *, is_wide: bool) -> None:
    """Classes by their area and what became of cells without one; then the land cover, where it is told."""
    from matplotlib.patches import Patch

    axes.set_axis_off()
    (_, uses), *covers = shown.items()
    gaps = [
        Patch(facecolor=_hex(kind.color), edgecolor=_hex(kind.stripe), hatch="////", label=_gap(kind, share))
        for kind in NO_CLASS
        if (share := getattr(uses.cover, kind.share)) is None or share > 0
    ]
    if uses.cover.doubtful is not None:
        told = f"Doubtful  {percent(uses.cover.doubtful)} of what is mapped"
        gaps.append(Patch(facecolor="none", label=told))
    title = f"Share of what is classified\n({percent(uses.cover.valid)} of the area)"
    columns = (3 if covers else 4) if is_wide else 1
    # Of two legends each has less room.
    most = LEGEND_ROWS - len(gaps) if covers else LEGEND_ROWS
    first = _draw_legend(axes, _rows_of(uses, most) + gaps, title, "upper left", columns)
    for head, view in covers:
        second, title = _rows_of(view), f"{head} of the same"
        if is_wide:
            _draw_legend(axes, second, title, "upper right", 2)
        else:
            _draw_legend(axes, second, title, "lower left", 1)
        axes.add_artist(first)  # a second legend takes the place of the first


def _rows_of(view: MapView, most: int = LEGEND_ROWS) -> list[Patch]:
    """A row of the legend for each class that occurs, by area; the smallest of many are summed up."""
    from matplotlib.patches import Patch

    entries = {entry.id: entry for entry in view.legend}
    areas = sorted(view.areas, key=lambda area: -area.area_m2)
    rows = [
        Patch(facecolor=_hex(entries[area.id].color), label=_label(entries[area.id].title, area.share))
        for area in areas[:most]
    ]
    if rest := areas[most:]:
        share = sum(area.share for area in rest)
        rows.append(Patch(facecolor="none", label=_label(f"{len(rest)} more classes", share)))
    return rows


def _draw_legend(
    axes: Axes,
    rows: list[Patch],
    title: str,
    place: Literal["upper left", "upper right", "lower left"],
    columns: int,
) -> Legend:
    from matplotlib.font_manager import FontProperties

    legend = axes.legend(
        handles=rows,
        title=title,
        loc=place,
        ncols=columns,
        borderaxespad=0,
        handlelength=1.5,
        fontsize=12,
        title_fontproperties=FontProperties(family=FONT, size=13, weight="bold"),
        frameon=False,
        alignment="left",
    )
    legend.set_in_layout(False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def _label(title: str, share: float) -> str:
    shown = plain(title)
    cut = shown if len(shown) <= LABEL_LETTERS else f"{shown[: LABEL_LETTERS - 1]}…"
    return f"{cut}  {percent(share)}"


def _gap(kind: NoClass, share: float | None) -> str:
    return f"{kind.title}  not checked" if share is None else f"{kind.title}  {percent(share)} of the area"


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
