"""The preview. Oracles: Pillow reads the file; colours and places are worked out by hand or one by one."""

import gc
import subprocess
import sys
import weakref
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.text import Text
from PIL import Image

from landuse.classes import LAND_COVER_NAMES, LAND_USE_NAMES
from landuse.errors import OutputError
from landuse.pipeline.cells import NO_CLASS, NODATA_ID, CellStatus, Cover, percent
from landuse.pipeline.pages import preview
from landuse.pipeline.pages.preview import class_image, draw_preview, plain, round_length, write_preview
from tests.views import CELL_M, COLS, LEFT_M, ROWS, TOP_M, hostile_view, pixel_view, small_view


def texts(figure):
    """Everything that is written: on the page, in the panels, in the legend and at the scale bar."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def drawn(view):
    """The figure as it is drawn: by then each panel and each text has its place."""
    figure = draw_preview(view)
    figure.draw_without_rendering()
    return figure


def written(tmp_path, view):
    write_preview(tmp_path / "preview.png", view)
    with Image.open(tmp_path / "preview.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def box_px(axes):
    """Left, top, right, bottom of a panel in the picture's pixels."""
    box = axes.get_window_extent()
    return round(box.x0), round(1080 - box.y1), round(box.x1), round(1080 - box.y0)


def test_the_picture_shows_every_cell_and_pixel_in_its_place(tmp_path):
    view = small_view()
    pixels = written(tmp_path, view)
    assert pixels.shape == (1080, 1920, 3)
    image_axes, map_axes, _ = drawn(view).axes
    colors = {entry.id: entry.color for entry in view.legend}
    kinds = {kind.status: {kind.color, kind.stripe} for kind in NO_CLASS}
    left, top, right, bottom = box_px(map_axes)
    for row in range(ROWS):
        for col in range(COLS):
            y = top + (row + 0.5) * (bottom - top) / ROWS
            x = left + (col + 0.5) * (right - left) / COLS
            patch = pixels[int(y) - 12 : int(y) + 12, int(x) - 12 : int(x) + 12].reshape(-1, 3)
            shown = {tuple(color) for color in patch.tolist()}
            if view.classes[row, col] != NODATA_ID:
                assert shown == {colors[view.classes[row, col]]}
            else:
                assert shown == kinds.get(view.status[row, col], {(255, 255, 255)})
    # Same size, same extent.
    assert np.subtract(box_px(image_axes)[2:], box_px(image_axes)[:2]).tolist() == [
        right - left,
        bottom - top,
    ]
    assert image_axes.images[0].get_extent() == map_axes.images[0].get_extent()


@pytest.mark.parametrize("repeat", [1, 4])
def test_the_land_cover_is_drawn_beside_the_land_use_or_below_it(repeat):
    """As many classes and covers as there are, on a map of usual shape and on a wide one."""
    view = pixel_view()

    def wide(values):
        return np.tile(values, (1, repeat, *(1,) * (values.ndim - 2)))

    rasters = ("classes", "confidence", "status", "land_cover", "second", "second_share", "image")
    of_classes, of_covers = (
        tuple(replace(view.areas[0], id=i, name=name, share=1 / len(names)) for i, name in enumerate(names))
        for names in (LAND_USE_NAMES, LAND_COVER_NAMES)
    )
    view = replace(
        view,
        **{name: wide(getattr(view, name)) for name in rasters},
        bounds_m=(LEFT_M, TOP_M - ROWS * CELL_M, LEFT_M + repeat * COLS * CELL_M, TOP_M),
        areas=of_classes,
        cover_areas=of_covers,
    )
    figure = draw_preview(view)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    *panels, _ = figure.axes
    assert [axes.get_title("left") for axes in panels] == ["Image", "Land use", "Land cover"]
    left, top, right, bottom = box_px(panels[2])
    for row, col in np.argwhere(view.land_cover != NODATA_ID):
        y = top + (row + 0.5) * (bottom - top) / ROWS
        x = left + (col + 0.5) * (right - left) / COLS / repeat
        assert tuple(pixels[int(y), int(x)]) == view.cover_legend[view.land_cover[row, col]].color
    said = texts(figure)
    for entry in view.cover_legend:
        assert f"{entry.title}  11.1 %" in said
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text()]
    assert max(box.x1 for box in boxes) <= 1880
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_the_sheets_pixels_do_not_stay(tmp_path):
    """Oracle: the objects of matplotlib that hold the sheet's 8 MB each, none of which is alive."""
    made = []
    kept = RendererAgg.__init__

    def counted(self, *given):
        kept(self, *given)
        made.append(weakref.ref(self._renderer))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RendererAgg, "__init__", counted)
        gc.disable()
        try:
            write_preview(tmp_path / "preview.png", small_view())
            assert made
            assert [one for one in made if one() is not None] == []
        finally:
            gc.enable()


def test_every_cell_is_a_square_of_one_class():
    """Oracle: cell by cell, the colours of its square."""
    view = small_view()
    shown, pixel_m = class_image(view)
    side = shown.shape[0] // ROWS
    assert shown.shape == (ROWS * side, COLS * side, 3)
    assert pixel_m * side == CELL_M
    for row, col in np.ndindex(ROWS, COLS):
        if view.classes[row, col] != NODATA_ID:
            square = shown[row * side : (row + 1) * side, col * side : (col + 1) * side]
            assert (square == view.legend[view.classes[row, col]].color).all()


def test_a_pixel_of_a_large_map_has_the_class_of_most_of_its_cells(monkeypatch):
    monkeypatch.setattr(preview, "PANEL_PX", 4)
    classes = np.array([[1, 1, 2, 2, 255], [1, 3, 2, 255, 255], [4, 4, 5, 5, 6]], np.uint8)
    status = np.where(classes == 255, CellStatus.CLOUDY, CellStatus.CLASSIFIED).astype(np.uint8)
    view = small_view(classes=classes, status=status, confidence=np.full_like(classes, 200), thinned=3)
    shown, pixel_m = class_image(view)
    colors = {entry.id: entry.color for entry in view.legend}
    assert pixel_m * (shown.shape[1] // 3) == 2 * 3 * CELL_M
    middles = shown[shown.shape[0] // 4 :: shown.shape[0] // 2, shown.shape[1] // 6 :: shown.shape[1] // 3]
    found = [[tuple(color) for color in row] for row in middles.tolist()]
    assert found[0][:2] == [colors[1], colors[2]]
    assert found[0][2] in (NO_CLASS[0].color, NO_CLASS[0].stripe)
    assert found[1] == [colors[4], colors[5], colors[6]]


def test_title_dates_shares_cover_and_source_are_said():
    view = small_view()
    said = texts(draw_preview(view))
    assert "Valley of the test" in said
    assert " · ".join(("2024-06-11, 2024-06-16", "1.4 km²", "cells of 160 m", "EPSG:32633")) in said
    for area in view.areas:
        assert f"{view.legend[area.id].title}  {100 * area.share:.1f} %" in said
    assert "Share of what is classified\n(90.6 % of the area)" in said
    assert "Cloud, shadow or snow  3.8 % of the area" in said
    assert any("Contains modified Copernicus Sentinel data 2024" in text for text in said)
    assert "N" in said
    # A third of 1440 m at most.
    assert "200 m" in said


def test_what_did_not_happen_is_not_in_the_legend():
    said = texts(
        draw_preview(small_view(cover=Cover(cells=53, valid=1.0, cloudy=0.0, failed=0.0, nodata=0.0)))
    )
    assert not [text for text in said for kind in NO_CLASS if kind.title in text]
    assert "Share of what is classified\n(100.0 % of the area)" in said


def test_a_map_without_a_class_or_a_scene_is_drawn_too():
    cover = Cover(cells=54, valid=0.0, cloudy=1.0, failed=0.0, nodata=0.0)
    said = texts(draw_preview(small_view(areas=(), scenes=(), cover=cover)))
    assert "1.4 km² · cells of 160 m · EPSG:32633" in said
    assert "Share of what is classified\n(0.0 % of the area)" in said


@pytest.mark.parametrize("shape", [(6, 9), (60, 3), (3, 60), (1, 400), (400, 1), (1, 1)])
def test_any_shape_of_area_keeps_its_proportions_inside_the_sheet(shape):
    rows, cols = shape
    rng = np.random.default_rng(1)
    figure = drawn(
        small_view(
            classes=rng.integers(0, 10, shape, dtype=np.uint8),
            confidence=np.full(shape, 200, np.uint8),
            status=np.ones(shape, np.uint8),
            image=rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            bounds_m=(LEFT_M, TOP_M - rows * CELL_M, LEFT_M + cols * CELL_M, TOP_M),
        )
    )
    boxes = [box_px(axes) for axes in figure.axes[:2]]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 1920 - 56
        assert 0 <= top < bottom <= 1080
        if max(shape) < 100:
            assert (right - left) / (bottom - top) == pytest.approx(cols / rows, rel=0.05)
    first, second = boxes
    assert first[2] <= second[0] or first[3] <= second[1]  # they do not overlap


def test_nothing_runs_over_the_edge_and_texts_do_not_overlap():
    view = small_view(title="A long name of an area " * 30)
    many = tuple(
        replace(view.scenes[0], acquired_utc=view.scenes[0].acquired_utc + timedelta(days=n))
        for n in range(90)
    )
    figure = drawn(replace(view, scenes=many))
    texts_seen = [text for text in figure.findobj(Text) if text.get_text()]
    boxes = [text.get_window_extent() for text in texts_seen]
    assert min(box.x0 for box in boxes) >= 40
    assert max(box.x1 for box in boxes) <= 1880
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert figure.texts[0].get_text().endswith("…")
    assert figure.texts[1].get_text().startswith("2024-06-16 to 2024-09-13 (90 days)")
    assert min(text.get_fontsize() for text in texts_seen) >= 10


@pytest.mark.parametrize("title", ["$x^{2$ \\frac{", "漢字 \ud800 \x1b[31m", "", "a\nb", "‮abc"])
def test_hostile_titles_are_drawn_as_text(tmp_path, title):
    """Where a formula were parsed, matplotlib would raise; where a glyph were missing, warn."""
    written(tmp_path, small_view(title=title))
    said = draw_preview(small_view(title=title)).findobj(Text)
    assert not any(text.get_parse_math() for text in said if text.get_text())


def test_every_text_may_be_hostile(tmp_path):
    written(tmp_path, hostile_view())


def test_plain_text_keeps_what_the_font_has():
    assert plain("Žďár — ß $5$\n\tx") == "Žďár — ß $5$ x"
    assert plain("漢\x1b") == "??"


def test_shares_never_round_to_nothing_or_all():
    assert [percent(share) for share in (0, 0.0004, 0.0005, 0.5, 0.9996, 1)] == [
        "0.0 %",
        "<0.1 %",
        "0.1 %",
        "50.0 %",
        ">99.9 %",
        "100.0 %",
    ]


@given(st.floats(1, 1e6))
def test_the_scale_bar_has_a_round_length(most_m):
    length = round_length(most_m)
    assert most_m / 2.5 < length <= most_m
    assert f"{length:.0e}"[0] in "125"


def test_no_digit_of_the_layout_that_another_run_may_change_moves_a_panel():
    figure = drawn(pixel_view())
    for axes in figure.axes:
        bounds = axes.get_position(original=True).bounds
        assert bounds == pytest.approx(np.round(bounds, 5), abs=1e-12)


def test_equal_maps_make_equal_pictures_whole_or_not_there(tmp_path):
    for name in ("a.png", "b.png"):
        write_preview(tmp_path / name, small_view())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(OutputError):
        write_preview(tmp_path / "none" / "preview.png", small_view())


def test_pyplot_is_never_loaded(pytestconfig):
    code = """
import sys
from landuse.pipeline.pages import preview
assert "matplotlib" not in sys.modules
from tests.views import small_view
preview.draw_preview(small_view())
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, check=True, timeout=120, cwd=pytestconfig.rootpath)


def test_warnings_are_told_a_line_each():
    long = "The imagery is 40 x 40 pixels. " * 20
    figure = draw_preview(small_view(warnings=("First.", long, "Third.", "Fourth.")))
    lines = [text for text in figure.texts if text.get_text().startswith("Note: ")]
    lines.sort(key=lambda text: -text.get_position()[1])
    first, cut, third = [text.get_text() for text in lines]
    assert (first, third) == ("Note: First.", "Note: Third.")
    assert cut.startswith("Note: The imagery is 40 x 40 pixels.")
    assert cut.endswith("…")
    assert not any("Note" in text for text in texts(draw_preview(small_view())))


def test_the_area_is_that_of_the_land_and_not_of_whole_cells():
    view = small_view()
    halved = replace(view, areas=tuple(replace(area, area_m2=area.area_m2 / 2) for area in view.areas))
    assert halved.area_m2 == pytest.approx(view.area_m2 / 2)
    assert draw_preview(halved).texts != draw_preview(view).texts
