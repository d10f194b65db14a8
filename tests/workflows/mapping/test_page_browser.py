"""The page in a browser. Oracles: the map's arrays, pyproj, and the browser's own logs.

Places on the screen are worked out from where the browser says that the image lies.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pyproj
import pytest
from selenium.webdriver import ActionChains, Keys

from landuse.pipeline.cells import NO_CLASS, NODATA_ID, SHARE_STEPS, CellStatus, Cover
from landuse.pipeline.pages import page as page_module
from landuse.pipeline.pages import pieces
from landuse.pipeline.pages.page import ASSETS, write_page
from tests.browser import SIZE_PX, chromium, picture, resize
from tests.views import (
    CELL_M,
    COLS,
    HOSTILE,
    LEFT_M,
    PX_PER_CELL,
    ROWS,
    TOP_M,
    hostile_view,
    noisy_view,
    pixel_view,
    small_view,
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def shown(page, tmp_path):
    """Shows a map's page, freshly loaded from disk, at full opacity."""

    def show(view, *, opacity=100):
        write_page(tmp_path / "index.html", view)
        page.get("about:blank")
        for log in ("browser", "performance"):
            page.get_log(log)
        page.get((tmp_path / "index.html").as_uri())
        page.set_script_timeout(20)
        page.execute_async_script(
            "const done = arguments[0]; const wait = () =>"
            "document.documentElement.dataset.ready ? done() : setTimeout(wait, 20); wait();"
        )
        fade(page, opacity)
        return page

    yield show
    assert [entry for entry in page.get_log("browser") if entry["level"] != "DEBUG"] == []
    resize(page, *SIZE_PX)


@pytest.fixture(params=["whole", "pieces"])
def packing(request, monkeypatch):
    """A map in one piece, and the same in six with an overview beneath them."""
    if request.param == "pieces":
        cut(monkeypatch, whole_px=4, piece_px=4)
    return request.param


def cut(monkeypatch, *, whole_px, piece_px):
    monkeypatch.setattr(pieces, "WHOLE_PX", whole_px)
    monkeypatch.setattr(pieces, "PIECE_PX", piece_px)


def laid(page):
    """Canvases of pieces of cells on the map, once those in sight lie there."""
    page.execute_async_script(
        "const done = arguments[0]; const wait = () =>"
        "document.getElementById('cells').style.visibility === 'hidden' ? done() : setTimeout(wait, 20);"
        "wait();"
    )
    return len(page.find_elements("css selector", ".leaflet-cells-pane canvas")) - 1


def fade(page, percent):
    page.execute_script(
        "const range = document.getElementById('opacity'); range.value = arguments[0];"
        "range.dispatchEvent(new Event('input'))",
        percent,
    )


def choose(page, value):
    page.find_element("css selector", f"input[value={value}]").click()


def box_of(page, selector):
    """Left, top, width and height on the screen, in pixels."""
    return page.execute_script(
        "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]",
        selector,
    )


def screen(page, row, col):
    """Where a place lies on the screen; row and col count cells from the map's upper left corner."""
    left, top, width, height = box_of(page, "#map img")
    return left + col * width / COLS, top + row * height / ROWS


def hover(page, x, y):
    actions = ActionChains(page, duration=0)
    actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    actions.perform()
    page.execute_async_script("setTimeout(arguments[0], 50)")  # a piece may have to be unpacked


def zoom(page, way, *, times):
    """Press the button, which with the shift key zooms by three steps."""
    button = page.find_element("css selector", f".leaflet-control-zoom-{way}")
    for _ in range(times):
        ActionChains(page, duration=0).key_down(Keys.SHIFT).click(button).key_up(Keys.SHIFT).perform()
        page.execute_async_script("setTimeout(arguments[0], 350)")


def readout(page):
    return [page.find_element("id", name).text for name in ("cell-class", "cell-lonlat", "cell-utm")]


def text(page, name):
    return page.find_element("id", name).text


def colors_at(page, pixels, half_px=3):
    """Colours around the middle of each cell, as sets, by (row, col)."""
    found = {}
    for row in range(ROWS):
        for col in range(COLS):
            x, y = (round(value) for value in screen(page, row + 0.5, col + 0.5))
            patch = pixels[y - half_px : y + half_px + 1, x - half_px : x + half_px + 1]
            found[row, col] = {tuple(color) for color in patch.reshape(-1, 3).tolist()}
    return found


def expected_colors(view):
    kinds = {kind.status: {kind.color, kind.stripe} for kind in NO_CLASS}
    return {
        (row, col): {view.legend[view.classes[row, col]].color}
        if view.classes[row, col] != NODATA_ID
        else kinds.get(view.status[row, col])
        for row in range(ROWS)
        for col in range(COLS)
    }


def test_every_cell_has_the_colour_of_its_class_with_sharp_edges(shown, packing):
    view = small_view()
    page = shown(view)
    if packing == "pieces":
        assert laid(page) == 6
    pixels = picture(page)
    found = colors_at(page, pixels)
    for cell, colors in expected_colors(view).items():
        if colors is not None:  # outside the area the image is seen
            assert found[cell] <= colors, cell
            # In pieces a cell is too small to be striped itself.
            assert packing == "pieces" or len(found[cell]) == len(colors)
    # Along a row of pixels colours change only at edges of cells, and nothing lies between two of them.
    left, top, width, height = box_of(page, "#map img")
    row = 2
    line = pixels[round(top + (row + 0.5) * height / ROWS), round(left) + 1 : round(left + width) - 1]
    cols = (np.arange(len(line)) + 1.5) * COLS / width
    inside = np.minimum(cols % 1, 1 - cols % 1) > 1.5 * COLS / width  # away from edges by a pixel
    colors = np.array([entry.color for entry in view.legend])
    np.testing.assert_array_equal(line[inside], colors[view.classes[row, cols[inside].astype(int)]])
    assert {tuple(color) for color in line.tolist()} <= {entry.color for entry in view.legend}


def test_the_image_lies_exactly_beneath_the_cells(shown, packing, monkeypatch):
    if packing == "pieces":
        cut(monkeypatch, whole_px=40, piece_px=48)  # of the image; its overview is a quarter as sharp
        monkeypatch.setattr(pieces, "EXACT_PX", 10**6)
    view = small_view()
    page = shown(view)
    assert box_of(page, "#cells") == box_of(page, "#map img")
    choose(page, "image")
    pixels = picture(page)
    rows, cols = view.image.shape[:2]
    for y in range(0, rows, 5):
        for x in range(0, cols, 7):
            at = [
                round(value - 0.5) for value in screen(page, (y + 0.5) / PX_PER_CELL, (x + 0.5) / PX_PER_CELL)
            ]
            assert pixels[at[1], at[0]].tolist() == view.image[y, x].tolist(), (y, x)


@pytest.mark.parametrize("view", [small_view(), pixel_view()], ids=["patches", "pixels"])
def test_hovering_tells_classes_probabilities_cover_and_place(shown, packing, view):
    page = shown(view)
    to_lonlat = pyproj.Transformer.from_crs(view.crs, "EPSG:4326", always_xy=True)
    titles = {kind.status: kind.title for kind in NO_CLASS} | {CellStatus.OUTSIDE: "Outside the area"}
    left, top, width, height = box_of(page, "#map img")
    for row, col in [(0, 0), (1, 2), (4, 0), (5, 8), (2, 3), (3, 7), (0, 8), (5, 0)]:
        x, y = (round(value) for value in screen(page, row + 0.4, col + 0.7))
        hover(page, x, y)
        said, lonlat, utm = readout(page)
        more = [text(page, "cell-second"), text(page, "cell-cover")]
        if view.classes[row, col] == NODATA_ID:
            assert said == titles[view.status[row, col]]
            assert more == ["", ""]
        else:
            share = 100 * int(view.confidence[row, col]) / SHARE_STEPS
            assert said == f"{view.legend[view.classes[row, col]].title}, {share:.1f} %"
            if view.second is None:
                assert more == ["", ""]
            else:
                share = 100 * int(view.second_share[row, col]) / SHARE_STEPS
                assert more == [
                    f"then {view.legend[view.second[row, col]].title}, {share:.1f} %",
                    f"Land cover: {view.cover_legend[view.land_cover[row, col]].title}",
                ]
        east = LEFT_M + (x - left) * COLS * CELL_M / width
        north = TOP_M - (y - top) * ROWS * CELL_M / height
        lon, lat = to_lonlat.transform(east, north)
        # Overlays begin at whole pixels: half of one is some metre here.
        metre_px = COLS * CELL_M / width
        numbers = re.fullmatch(r"([\d.]+)° N, ([\d.]+)° E", lonlat)
        assert float(numbers[1]) == pytest.approx(lat, abs=metre_px * 1e-5)
        assert float(numbers[2]) == pytest.approx(lon, abs=metre_px * 1.5e-5)
        numbers = re.fullmatch(r"UTM 33N: (\d+) E, (\d+) N", utm)
        assert float(numbers[1]) == pytest.approx(east, abs=metre_px + 0.5)
        assert float(numbers[2]) == pytest.approx(north, abs=metre_px + 0.5)
    hover(page, left - 20, top + 20)
    assert readout(page)[0] == "Outside the area"


def test_utm_to_degrees_agrees_with_pyproj(page):
    rng = np.random.default_rng(3)
    source = (ASSETS / "utm.js").read_text("utf-8")
    page.get("about:blank")
    for zone, is_north in ((1, True), (33, True), (60, False), (19, False)):
        # Half a zone is 334 km wide; maps over two zones reach further.
        east = rng.uniform(-200e3, 1200e3, 200)
        north = rng.uniform(0, 9.3e6, 200) if is_north else rng.uniform(1.1e6, 10e6, 200)
        call = "return arguments[0].map(([e, n]) => lonLatOfUtm(e, n, arguments[1], arguments[2]))"
        places = np.stack([east, north], 1).tolist()
        found = np.array(page.execute_script(f"{source}; {call}", places, zone, is_north))
        crs = f"EPSG:{(32600 if is_north else 32700) + zone}"
        lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(east, north)
        across = (found[:, 0] - lon + 180) % 360 - 180
        np.testing.assert_allclose(across, 0, atol=1e-8)
        np.testing.assert_allclose(found[:, 1], lat, atol=1e-8)
        assert (np.abs(found[:, 0]) <= 180).all()


def test_view_layer_opacity_and_divider_change_what_is_seen(shown):
    view = small_view()
    page = shown(view, opacity=40)
    middle = (2, 3)  # a cell with a class
    color = np.array(view.legend[view.classes[middle]].color)
    x, y = (round(value) for value in screen(page, middle[0] + 0.5, middle[1] + 0.5))
    mixed = picture(page)[y, x].astype(int)
    choose(page, "image")
    bare = picture(page)[y, x].astype(int)
    np.testing.assert_allclose(mixed, 0.4 * color + 0.6 * bare, atol=1)
    assert text(page, "opacity-value") == "40 %"

    # Confidence: higher is greener and brighter; both ends of the scale are shown beside it.
    fade(page, 100)
    choose(page, "map")
    choose(page, "confidence")
    assert page.find_element("id", "ramp").is_displayed()
    found = colors_at(page, picture(page))
    mapped = [cell for cell in found if view.classes[cell] != NODATA_ID]
    by_confidence = sorted(mapped, key=lambda cell: view.confidence[cell])
    greens = [green for cell in by_confidence for _, green, _ in found[cell]]
    assert len(greens) == len(mapped)
    assert greens == sorted(greens)
    for cell in set(found) - set(mapped) - {(0, 0)}:
        assert found[cell] == expected_colors(view)[cell]
    choose(page, "classes")

    # Swipe: the image left of the divider, the map right of it; by keys and by pointer.
    choose(page, "swipe")
    divider = page.find_element("id", "divider")
    for move, share in (
        (lambda: None, 0.5),
        (lambda: divider.send_keys(Keys.ARROW_RIGHT * 5), 0.6),
        (lambda: ActionChains(page, duration=50).drag_and_drop_by_offset(divider, -100, 0).perform(), None),
    ):
        move()
        share = share or float(divider.get_attribute("aria-valuenow")) / 100
        left, _, width, _ = box_of(page, "#frame")
        edge = left + share * width
        assert box_of(page, "#divider")[0] + 22 == pytest.approx(edge, abs=0.006 * width)
        pixels = picture(page)
        found, expected = colors_at(page, pixels, half_px=2), expected_colors(view)
        for (row, col), colors in expected.items():
            x = screen(page, row + 0.5, col + 0.5)[0]
            if abs(x - edge) > 80 and colors is not None and (row, col) not in ((0, 4), (5, 0)):
                assert (found[row, col] <= colors) == (x > edge), (row, col, share)
    assert share < 0.5


def test_land_cover_is_a_layer_with_areas_of_its_own(shown, packing):
    page = shown(small_view())
    assert not page.find_element("id", "covers-choice").is_displayed()
    assert page.find_element("id", "ramp-note").get_attribute("hidden")
    view = pixel_view()
    page = shown(view)
    choose(page, "confidence")
    assert page.find_element("id", "ramp-note").is_displayed()
    choose(page, "covers")
    kinds = {kind.status: {kind.color, kind.stripe} for kind in NO_CLASS}
    for (row, col), colors in colors_at(page, picture(page)).items():
        if view.land_cover[row, col] != NODATA_ID:
            assert colors == {view.cover_legend[view.land_cover[row, col]].color}
        elif view.status[row, col] != CellStatus.OUTSIDE:
            assert colors <= kinds[view.status[row, col]]
    names = [row.text for row in page.find_elements("css selector", "#areas tbody .toggle")]
    largest_first = sorted(view.cover_areas, key=lambda area: -area.area_m2)
    assert names == [view.cover_legend[area.id].title for area in largest_first]
    choose(page, "classes")
    names = {row.text for row in page.find_elements("css selector", "#areas tbody .toggle")}
    assert names == {view.legend[area.id].title for area in view.areas}


def test_a_class_is_hidden_and_shown_by_its_name(shown, packing):
    view = pixel_view()
    page = shown(view)
    choose(page, "image")
    bare = colors_at(page, picture(page), half_px=0)
    choose(page, "map")

    def toggle(entry):
        (button,) = [
            button
            for button in page.find_elements("css selector", "#areas .toggle")
            if button.text == entry.title
        ]
        return button

    def check(hidden, layer=view.classes, entries=view.legend):
        for cell, colors in colors_at(page, picture(page), half_px=0).items():
            if layer[cell] in hidden:
                assert colors == bare[cell], cell
            elif layer[cell] != NODATA_ID:
                assert colors == {entries[layer[cell]].color}, cell
        pressed = {
            button.text: button.get_attribute("aria-pressed")
            for button in page.find_elements("css selector", "#areas .toggle")
        }
        titles = {entries[i].title for i in hidden}
        assert {title for title, value in pressed.items() if value == "false"} == titles & set(pressed)
        assert page.find_element("id", "show-all").is_displayed() == bool(hidden)

    first, second = (int(view.classes[cell]) for cell in ((2, 3), (3, 7)))
    assert first != second
    toggle(view.legend[first]).click()
    check({first})
    toggle(view.legend[second]).send_keys(Keys.SPACE)
    check({first, second})
    toggle(view.legend[first]).click()
    check({second})
    hover(page, *screen(page, 3.5, 7.5))
    assert readout(page)[0].startswith(view.legend[second].title)  # hidden, but told
    # What is hidden of one layer is not of another.
    choose(page, "covers")
    check(set(), view.land_cover, view.cover_legend)
    choose(page, "classes")
    check({second})
    page.find_element("id", "show-all").click()
    check(set())
    ActionChains(page, duration=0).double_click(toggle(view.legend[first])).perform()
    check(set(range(len(view.legend))) - {first})


def test_of_a_large_map_pieces_are_unpacked_where_somebody_looks(shown, monkeypatch):
    cut(monkeypatch, whole_px=200, piece_px=100)
    monkeypatch.setattr(page_module, "PAGE_BYTES", 3_000_000)
    side = 1300
    view = noisy_view(side)
    page = shown(view)
    # The whole map fits: its overview is drawn, and the single cell under the pointer is told all the same.
    assert page.find_elements("css selector", ".leaflet-cells-pane canvas") == [
        page.find_element("id", "cells")
    ]
    step = 100 * int(re.search(r'"share_step":(\d+)', page.page_source)[1]) / SHARE_STEPS
    assert text(page, "detail") == (
        f"This page shows probabilities in steps of {step:g} %. The files beside it hold all; areas are "
        "counted on all cells."
    )
    left, top, width, height = box_of(page, "#map img")

    def check(x, y):
        hover(page, x, y)
        left, top, width, height = box_of(page, "#map img")
        col, row = (int(part * side) for part in ((x - left) / width, (y - top) / height))
        said = readout(page)[0]
        near = [
            view.legend[i].title
            for i in np.unique(view.classes[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2])
            if i != NODATA_ID
        ]
        title, _, share = said.rpartition(", ")
        assert title in near
        number = float(re.fullmatch(r"(?:about|above|below) ([\d.]+) %", share)[1])
        seen = view.confidence[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2] / SHARE_STEPS * 100
        assert np.abs(seen - number).min() <= step / 2 + 1e-6

    for x, y in [(0.1, 0.8), (0.7, 0.3), (0.98, 0.99)]:
        check(round(left + x * width), round(top + y * height))
    # Closer: pieces lie over the overview, and cells have their own colours with sharp edges.
    zoom(page, "in", times=2)
    count = laid(page)
    assert 4 <= count < 60
    fade(page, 100)
    pixels = picture(page)
    left, top, width, height = box_of(page, "#map img")
    assert width / side > 3
    frame = box_of(page, "#map")
    kinds = {kind.status: {kind.color, kind.stripe} for kind in NO_CLASS}
    checked = 0
    rng = np.random.default_rng(4)
    xs = rng.integers(round(frame[0]) + 70, round(frame[0] + frame[2]) - 70, 1000)
    ys = rng.integers(round(frame[1]) + 100, round(frame[1] + frame[3]) - 200, 1000)
    for x, y in zip(xs, ys, strict=True):
        col, row = ((x + 0.5 - left) / width * side, (y + 0.5 - top) / height * side)
        if min(col % 1, 1 - col % 1, row % 1, 1 - row % 1) > 0.25:
            found = tuple(pixels[y, x].tolist())
            status = view.status[int(row), int(col)]
            if status == CellStatus.CLASSIFIED:
                assert found == view.legend[view.classes[int(row), int(col)]].color
            else:
                assert found in kinds[status]
            checked += 1
    assert checked > 200
    check(round(frame[0] + frame[2] / 2), round(frame[1] + frame[3] / 2))
    # Away again: nothing is left but the overview.
    zoom(page, "out", times=3)
    assert len(page.find_elements("css selector", ".leaflet-cells-pane canvas")) == 1
    assert len(page.find_elements("css selector", ".leaflet-image-pane img")) == 1


def test_thinned_cells_lie_in_their_places_and_the_page_says_so(shown):
    """Two thirds of a square lie beyond the map's edge; the cell that is told is its upper left one."""
    view = small_view(
        thinned=3,
        cell_m=60.0,
        bounds_m=(LEFT_M, TOP_M - (ROWS * 180 - 120), LEFT_M + COLS * 180 - 60, TOP_M),
    )
    page = shown(view)
    assert text(page, "detail") == (
        "This page shows of each square of 180 m the cell of 60 m in its upper left corner. The files beside "
        "it hold all; areas are counted on all cells."
    )
    left, top, width, _ = box_of(page, "#map img")
    metre = width / (COLS * 180 - 60)
    pixels = picture(page)
    for row, col in [(2, 3), (3, 7), (0, 4), (4, 5)]:
        x, y = (round(value) for value in (left + (col + 0.5) * 180 * metre, top + (row + 0.5) * 180 * metre))
        entry = view.legend[view.classes[row, col]]
        assert tuple(pixels[y, x].tolist()) == entry.color
        hover(page, x, y)
        assert readout(page)[0].startswith(entry.title)


def test_warnings_of_the_run_are_shown_before_the_figures(shown):
    page = shown(small_view())
    assert not page.find_element("id", "warnings").is_displayed()
    assert not page.find_element("id", "detail").is_displayed()
    view = pixel_view()
    page = shown(view)
    told = [entry.text for entry in page.find_elements("css selector", "#warnings li")]
    assert told == list(view.warnings)
    assert box_of(page, "#warnings")[1] < box_of(page, "#cover")[1]


def test_areas_cover_scenes_and_files_are_those_of_the_map(shown):
    view = small_view()
    page = shown(view)
    rows = [
        [cell.text for cell in row.find_elements("css selector", "th, td")]
        for row in page.find_elements("css selector", "#areas tbody tr")
    ]
    largest_first = sorted(view.areas, key=lambda area: -area.area_m2)
    assert rows == [
        [
            view.legend[area.id].title,
            f"{area.area_ha:,.1f}",
            f"{area.area_m2 / 1e6:,.2f}",
            f"{100 * area.share:.1f}",
        ]
        for area in largest_first
    ]
    bars = page.execute_script(
        "return [...document.querySelectorAll('#areas .bar')].map(b => b.getBoundingClientRect().width)"
    )
    np.testing.assert_allclose(
        np.array(bars) / bars[0], [a.share / largest_first[0].share for a in largest_first], atol=0.01
    )
    total = page.find_element("css selector", "#areas tfoot").text.split()
    assert total == ["Classified", f"{sum(a.area_ha for a in view.areas):,.1f}", total[2], "100.0"]
    cover = [entry.text.split("\n") for entry in page.find_elements("css selector", "#cover li")]
    assert cover == [
        ["Classified", "90.6 %"],
        ["Cloud, shadow or snow", "3.8 %"],
        ["Could not be read", "1.9 %"],
        ["No imagery", "3.8 %"],
        ["Unknown: too doubtful", "0.0 %"],
    ]
    scenes = page.find_element("id", "scenes").text
    assert "2024-06-16 10:05 33UVP L2A 12.3" in scenes
    assert "2024-06-11 10:05 33UVP L2A 0.0" in scenes
    assert "2024-06-21 10:05 33UVP L2A \u2013" in scenes
    assert scenes.count("in reserve") == 1
    links = [link.get_attribute("href") for link in page.find_elements("css selector", "#files a")]
    folder = page.current_url.rpartition("/")[0]
    assert links == [f"{folder}/{name}" for name in view.files if name != "index.html"]
    assert text(page, "subtitle").replace("\xa0", " ") == "2024-06-11 to 2024-06-16 · 1.36 km² · 160 m cells"
    assert text(page, "citation") == view.citation
    assert text(page, "attribution") == view.attribution
    assert "balanced-fast-rgb" in text(page, "about")
    assert "landuse 0.6.0" in text(page, "about")
    assert page.title == "Valley of the test · land use"


def test_a_map_without_a_class_or_a_scene_is_shown_too(shown):
    plain = small_view()
    none = np.full_like(plain.classes, NODATA_ID)
    cloudy = np.full_like(plain.status, CellStatus.CLOUDY)
    cover = Cover(cells=54, valid=0.0, cloudy=1.0, failed=0.0, nodata=0.0)
    view = replace(plain, classes=none, confidence=none, status=cloudy, areas=(), scenes=(), cover=cover)
    page = shown(view)
    assert set(map(frozenset, colors_at(page, picture(page)).values())) == {
        frozenset((NO_CLASS[0].color, NO_CLASS[0].stripe))
    }
    assert text(page, "absent").startswith("Not found: Annual crop, Forest")
    assert text(page, "subtitle").replace("\xa0", " ") == "1.38 km² · 160 m cells"


def test_clouds_that_nobody_checked_are_not_told_as_none(shown):
    view = small_view()
    page = shown(replace(view, cover=replace(view.cover, cloudy=None)))
    assert "Cloud, shadow or snow\nnot checked" in text(page, "cover")
    assert text(page, "doubt") == ""


def test_the_share_that_is_unlike_the_training_is_told(shown):
    view = small_view()
    page = shown(replace(view, cover=replace(view.cover, doubtful=0.416)))
    assert text(page, "doubt").startswith("41.6 % of what is mapped is unlike")


def test_no_request_leaves_the_page(shown):
    page = shown(small_view())
    choose(page, "swipe")
    choose(page, "confidence")
    asked = [
        event["params"]["request"]["url"]
        for event in (json.loads(entry["message"])["message"] for entry in page.get_log("performance"))
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file://") for url in asked)  # the log was kept
    assert {url for url in asked if not url.startswith("data:")} == {page.current_url}


def test_hostile_texts_run_nothing_and_add_nothing(shown):
    def elements():
        return page.execute_script(
            "return [...document.querySelectorAll('script, style, img, a')].map(e => e.tagName).sort()"
        )

    page = shown(pixel_view(files=hostile_view().files, warnings=("One.",)))
    plain = elements()
    page = shown(hostile_view())
    assert elements() == plain
    assert page.execute_script("return window.hacked ?? null") is None
    raw = "return document.getElementById(arguments[0]).textContent.toWellFormed()"
    for name in ("title", "citation", "attribution"):
        assert page.execute_script(raw, name) == HOSTILE.replace("\ud800", "\ufffd")
    folder = page.current_url.rpartition("/")[0]
    for link in page.find_elements("css selector", "#files a"):
        address = link.get_attribute("href")
        assert address.rpartition("/")[0] == folder  # a file beside the page, whatever it is called
    hover(page, *screen(page, 2.5, 3.5))
    assert page.execute_script(raw, "cell-class").startswith(f"{HOSTILE[:-1]}\ufffd")
    assert page.execute_script("return document.documentElement.scrollWidth") <= SIZE_PX[0]


def test_keys_and_taps_do_what_the_pointer_does_on_a_phone_too(shown):
    view = small_view()
    resize(shown(view), 390, 844, mobile=True)
    page = shown(view)
    assert page.execute_script("return document.documentElement.scrollWidth") == 390
    for selector in ("#map", "#controls", "#areas"):
        left, _, width, _ = box_of(page, selector)
        assert left >= 0
        assert left + width <= 390
    x, y = screen(page, 3.5, 5.5)
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.execute_async_script("setTimeout(arguments[0], 400)")
    assert readout(page)[0].startswith(view.legend[view.classes[3, 5]].title)
    # By keys alone: the middle of the map is told once it has moved.
    page.find_element("id", "opacity").send_keys(Keys.TAB)
    ActionChains(page, duration=0).send_keys("+").perform()
    page.execute_async_script("setTimeout(arguments[0], 600)")
    left, top, width, height = box_of(page, "#map")
    canvas = box_of(page, "#cells")
    row = int((top + height / 2 - canvas[1]) / canvas[3] * ROWS)
    col = int((left + width / 2 - canvas[0]) / canvas[2] * COLS)
    assert canvas[2] > 390
    assert view.classes[row, col] != NODATA_ID
    assert readout(page)[0].startswith(view.legend[view.classes[row, col]].title)
