"""A map as one picture for a slide: the image and the map side by side, and what is to be known of them.

Drawn with matplotlib's objects alone, as ``workflows.figures`` does it: no pyplot, nothing left open.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from landuse.pipeline.cells import NO_CLASS, NODATA_ID, percent
from landuse.pipeline.write.folder import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landuse.pipeline.cells import NoClass
    from landuse.pipeline.pages.content import MapView

FONT = "DejaVu Sans"
"""Comes with matplotlib, so a preview looks the same everywhere."""

WIDTH_PX, HEIGHT_PX, DPI = 1920, 1080, 120
MARGIN_PX, GAP_PX = 56, 28
LEGEND_PX = 410
"""Width of the legend, or of a column of it."""
LEGEND_COLUMNS, LEGEND_COLUMN_ROWS, ROW_PX = 4, 5, 38
LEGEND_BELOW_PX = 48 + LEGEND_COLUMN_ROWS * ROW_PX
"""Its height where it stands below the panels, the last column for cells without a class."""
PANELS_TOP_PX, PANELS_BOTTOM_PX = 150, 980
"""The panels lie between these heights, counted from the top."""

HEAD_PX = 34
"""Height of the line above a panel."""

INK, QUIET = "#1b211d", "#59635c"
NO_IMAGE = (225, 228, 225)
"""Of pixels without data: black would weigh too much on a white sheet."""

LEGEND_ROWS = 12
"""So many classes are named, the largest first; the rest are summed up."""

STRIPE_PX = 5
"""Width of the stripes over cells without a class."""

SWATCH_PX = 24


_Row: TypeAlias = "tuple[str, float, NDArray[np.integer] | None]"
"""Title, share and look of a line of the legend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How the panels and the legend stand."""

    beside: bool
    """Whether the panels stand side by side, or one above the other."""
    below: bool
    """Whether the legend stands below them, or to their right."""
    width_px: int
    """Of a panel."""
    height_px: int
    """Of a panel."""


def write_preview(target: Path, view: MapView) -> None:
    """Draw the preview of a map, as PNG of 1920 x 1080 pixels, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    figure = draw_preview(view)
    with atomic_path(target) as partial:
        # Without the version of matplotlib, which would make equal previews differ.
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})


def draw_preview(view: MapView) -> Figure:
    """The preview as a figure of its own, known to nobody else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_PX / DPI, HEIGHT_PX / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _write(figure, MARGIN_PX, 74, view.title, size=25, room_px=WIDTH_PX - 2 * MARGIN_PX, weight="bold")
    _write(figure, MARGIN_PX, 118, _subtitle(view), size=14, color=QUIET, room_px=WIDTH_PX - 2 * MARGIN_PX)
    layout = _layout(view)
    image_axes, map_axes = _panels(figure, layout)
    _show(image_axes, image_picture(view, *_size_px(image_axes)), view)
    _show(map_axes, cell_picture(view, *_size_px(map_axes)), view)
    _draw_scale(image_axes, view)
    _draw_north(image_axes)
    _draw_legend(figure, view, layout)
    bands = ", ".join(view.image_bands)
    footer = f"{view.attribution} · image: {bands} · {view.model}, landuse {view.version}"
    _write(figure, MARGIN_PX, 1036, footer, size=11.5, color=QUIET, room_px=WIDTH_PX - 2 * MARGIN_PX)
    return figure


def plain(text: str) -> str:
    """The text on one line, of characters that the font has; others become ``?``."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    drawn = get_font(findfont(FontProperties(family=FONT))).get_charmap()
    return "".join(c if ord(c) in drawn and c.isprintable() else "?" for c in " ".join(text.split()))


def _write(
    figure: Figure,
    x_px: float,
    y_px: float,
    text: str,
    *,
    size: float,
    room_px: float,
    color: str = INK,
    weight: str = "normal",
    align: str = "left",
) -> None:
    """One line of text at so many pixels from the left and the top, cut to the room there is for it."""
    drawn = figure.text(
        x_px / WIDTH_PX,
        1 - y_px / HEIGHT_PX,
        plain(text),
        fontfamily=FONT,
        fontsize=size,
        fontweight=weight,
        color=color,
        ha=align,
        va="baseline",
        parse_math=False,
    )
    shown = drawn.get_text()[:400]
    while shown and drawn.get_window_extent().width > room_px:
        # A step that halves what is too long would cut too much; a tenth is found soon enough.
        shown = shown[: min(len(shown) - 1, len(shown) * 9 // 10 + 1)]
        drawn.set_text(f"{shown.rstrip()}…")


def _subtitle(view: MapView) -> str:
    """When, how large, and of what cells."""
    used = [scene for scene in view.scenes if not scene.spare] or list(view.scenes)
    days = sorted({f"{scene.acquired_utc:%Y-%m-%d}" for scene in used})
    when = ", ".join(days) if len(days) <= 3 else f"{days[0]} to {days[-1]} ({len(days)} days)"
    area_m2 = view.cover.cells * view.cell_m**2
    area = f"{area_m2 / 1e6:,.1f} km²" if area_m2 >= 1e6 else f"{area_m2 / 1e4:,.1f} ha"
    parts = [when, area, f"cells of {view.cell_m:g} m", view.crs]
    return " · ".join(part for part in parts if part)


def _layout(view: MapView) -> _Layout:
    """Panels side by side or one above the other, legend right or below: whatever shows the map largest."""
    left, bottom, right, top = view.bounds_m
    aspect = (right - left) / (top - bottom)
    choices = []
    for below in (False, True):
        room_x = WIDTH_PX - 2 * MARGIN_PX - (0 if below else LEGEND_PX + 2 * GAP_PX)
        room_y = PANELS_BOTTOM_PX - PANELS_TOP_PX - (LEGEND_BELOW_PX if below else 0)
        for beside in (True, False):
            across, down = (2, 1) if beside else (1, 2)
            width = (room_x - (across - 1) * GAP_PX) / across
            height = (room_y - down * HEAD_PX - (down - 1) * GAP_PX) / down
            # Whole pixels, so that the picture of the cells fits its panel exactly.
            size = max(round(min(width, height * aspect)), 8), max(round(min(width / aspect, height)), 8)
            choices.append(_Layout(beside=beside, below=below, width_px=size[0], height_px=size[1]))
    return max(choices, key=lambda layout: layout.width_px)


def _panels(figure: Figure, layout: _Layout) -> tuple[Axes, Axes]:
    """Two equal panels of the map's proportions, in the middle of their room."""
    width, height = layout.width_px, layout.height_px
    room_x = WIDTH_PX - 2 * MARGIN_PX - (0 if layout.below else LEGEND_PX + 2 * GAP_PX)
    # However narrow, a panel leaves room for what stands above it.
    step_x, step_y = (max(width, 100) + GAP_PX, 0) if layout.beside else (0, height + GAP_PX + HEAD_PX)
    x, y = MARGIN_PX + (room_x - width - step_x) // 2, PANELS_TOP_PX + HEAD_PX
    panels = []
    for number, head in enumerate(("Image", "Land use")):
        from_left, from_top = x + number * step_x, y + number * step_y
        _write(figure, from_left, from_top - 10, head, size=13, room_px=room_x, weight="bold")
        axes = figure.add_axes(
            (
                from_left / WIDTH_PX,
                1 - (from_top + height) / HEIGHT_PX,
                width / WIDTH_PX,
                height / HEIGHT_PX,
            )
        )
        axes.set_axis_off()
        panels.append(axes)
    return panels[0], panels[1]


def _show(axes: Axes, picture: NDArray[np.uint8], view: MapView) -> None:
    left, bottom, right, top = view.bounds_m
    axes.imshow(picture, extent=(left, right, bottom, top), interpolation="nearest", aspect="auto")


def _size_px(axes: Axes) -> tuple[int, int]:
    """Height and width of a panel."""
    box = axes.get_window_extent()
    return round(box.height), round(box.width)


def image_picture(view: MapView, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """The image at a size for the screen, (y, x, 3): averaged where it shrinks, sharp where it grows."""
    seen = view.image.any(axis=2, keepdims=True)  # (y, x, 1)
    image = np.where(seen, view.image, np.array(NO_IMAGE, np.uint8))
    # Ours, not matplotlib's, which takes 16 bytes for each pixel of a large image.
    return np.asarray(Image.fromarray(image).resize((width_px, height_px), Image.Resampling.BOX))


def cell_picture(view: MapView, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """The map at a size for the screen, (y, x, 3): no colour is mixed, cells without a class are hatched.

    Cells outside the area are white.
    """
    rows, cols = view.classes.shape
    row = ((np.arange(height_px) + 0.5) * rows / height_px).astype(int)
    col = ((np.arange(width_px) + 0.5) * cols / width_px).astype(int)
    classes, status = view.classes[np.ix_(row, col)], view.status[np.ix_(row, col)]
    palette = np.full((256, 3), 255, np.uint8)
    for entry in view.legend:
        palette[entry.id] = entry.color
    picture = palette[classes]  # (y, x, 3)
    for kind in NO_CLASS:
        found = (classes == NODATA_ID) & (status == kind.status)
        picture[found] = hatched(kind, height_px, width_px)[found]
    return picture


def hatched(kind: NoClass, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """A rectangle of what cells without a class look like, (y, x, 3)."""
    y, x = np.indices((height_px, width_px))
    striped = (x + y) % (2 * STRIPE_PX) < STRIPE_PX
    return np.where(striped[..., None], kind.stripe, kind.color).astype(np.uint8)


def _draw_scale(axes: Axes, view: MapView) -> None:
    """A bar of a round length, at most a third of the panel."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, _, right, _ = view.bounds_m
    bar_m = round_length((right - left) / 3)
    height_px, width_px = _size_px(axes)
    label = f"{bar_m / 1000:g} km" if bar_m >= 1000 else f"{bar_m:g} m"
    start, low = 16 / width_px, 16 / height_px
    length = bar_m / (right - left)
    axes.add_patch(
        Rectangle(
            (start, low), length, 7 / height_px, transform=axes.transAxes, facecolor="white", edgecolor=INK
        )
    )
    axes.text(
        *(start, low + 12 / height_px, label),
        transform=axes.transAxes,
        fontfamily=FONT,
        fontsize=12,
        fontweight="bold",
        color="white",
        path_effects=[withStroke(linewidth=3, foreground=INK)],
    )


def round_length(most_m: float) -> float:
    """The largest 1, 2 or 5 times a power of ten within ``most_m``."""
    power = 10.0 ** floor(log10(most_m))
    # The logarithm may be rounded up to the next power.
    return next(step * power for step in (5, 2, 1, 0.5) if step * power <= most_m)


def _draw_north(axes: Axes) -> None:
    from matplotlib.patches import Polygon
    from matplotlib.patheffects import withStroke

    height_px, width_px = _size_px(axes)
    outline = ((0, 0), (11, 30), (22, 0), (11, 7))  # in pixels, a notched arrow head
    right, top = width_px - 38, height_px - 64
    corners = [((right + x) / width_px, (top + 18 + y) / height_px) for x, y in outline]
    axes.add_patch(Polygon(corners, transform=axes.transAxes, facecolor="white", edgecolor=INK))
    axes.text(
        *((right + 11) / width_px, top / height_px, "N"),
        transform=axes.transAxes,
        ha="center",
        fontfamily=FONT,
        fontsize=12,
        fontweight="bold",
        color="white",
        path_effects=[withStroke(linewidth=3, foreground=INK)],
    )


def _draw_legend(figure: Figure, view: MapView, layout: _Layout) -> None:
    """Classes by their area, then what became of the cells without one."""
    titles = {entry.id: entry for entry in view.legend}
    areas = sorted(view.areas, key=lambda area: -area.area_m2)
    rows: list[_Row] = [
        (titles[area.id].title, area.share, np.full((SWATCH_PX, SWATCH_PX, 3), titles[area.id].color))
        for area in areas[:LEGEND_ROWS]
    ]
    rest = areas[LEGEND_ROWS:]
    if rest:
        rows.append((f"{len(rest)} more classes", sum(area.share for area in rest), None))
    gaps: list[_Row] = [
        (kind.title, share, hatched(kind, SWATCH_PX, SWATCH_PX))
        for kind in NO_CLASS
        if (share := getattr(view.cover, kind.share)) > 0
    ]
    head, gaps_head = "Share of the classified area", f"Classified: {percent(view.cover.valid)} of the area"
    if not layout.below:
        x = WIDTH_PX - MARGIN_PX - LEGEND_PX
        y = _legend_part(figure, x, PANELS_TOP_PX + HEAD_PX - 10, head, rows)
        _legend_part(figure, x, y + 26, gaps_head, gaps)
        return
    y = PANELS_BOTTOM_PX - LEGEND_BELOW_PX + 48
    step = (WIDTH_PX - 2 * MARGIN_PX - LEGEND_PX) // (LEGEND_COLUMNS - 1)
    for column in range(LEGEND_COLUMNS - 1):
        some = rows[column * LEGEND_COLUMN_ROWS : (column + 1) * LEGEND_COLUMN_ROWS]
        _legend_part(figure, MARGIN_PX + column * step, y, "" if column else head, some)
    _legend_part(figure, MARGIN_PX + (LEGEND_COLUMNS - 1) * step, y, gaps_head, gaps)


def _legend_part(figure: Figure, x: int, y: int, head: str, rows: Sequence[_Row]) -> int:
    """A head and its rows of title, share and swatch, from a height down to the one that is returned."""
    _write(figure, x, y, head, size=13, room_px=LEGEND_PX, weight="bold")
    for title, share, look in rows:
        y += ROW_PX
        if look is not None:
            # Pictures are placed by whole pixels from the lower left corner.
            figure.figimage(look.astype(np.uint8), xo=x, yo=HEIGHT_PX - y - 4, origin="upper")
        _write(figure, x + SWATCH_PX + 14, y, title, size=14, room_px=LEGEND_PX - SWATCH_PX - 110)
        _write(figure, x + LEGEND_PX, y, percent(share), size=14, room_px=115, align="right")
    return y + ROW_PX
