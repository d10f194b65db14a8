"""The viewer in Chromium, on a map of 2,000 cells a side. Oracles: rasterio, the arrays that were written,
pyproj, and the browser's own logs."""

import json
import threading
import zlib

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.windows import Window
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import ActionChains, Keys

from landuse.classes import LAND_COVER, LAND_USE
from landuse.pipeline.maps.viewable import viewable
from landuse.pipeline.pages.viewer import data_paths, render_viewer
from landuse.workflows.view.server import Site, listening
from landuse.workflows.view.view import ViewRequest, served
from tests.browser import SIZE_PX, chromium, picture, resize
from tests.view_folders import LEFT_M, TOP_M, write_change, write_map

SIDE_PX = 2000
PLAIN = "v=single&o=100&i=0"
"""One map alone: nothing shines through."""

COLORS = np.array([entry.color for entry in LAND_USE])

IS_STILL = (
    "return document.documentElement.dataset.ready === 'true'"
    " && document.getElementById('map').getAttribute('aria-busy') === 'false'"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    before = write_map(folder / "june", SIDE_PX)
    later = "2024-07-16T10:00:29+00:00"
    after = write_map(folder / "july", SIDE_PX, seed=1, acquired=later, without=("second", "doubt"))
    write_change(folder / "change", SIDE_PX, before, after)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


class Shown:
    """A page that is served, in the browser."""

    def __init__(self, page, address):
        self.page, self.address = page, address

    def open(self, fragment=""):
        self.page.get("about:blank")
        self.page.get_log("browser")
        self.page.get_log("performance")
        self.load(f"{self.address}#{fragment}" if fragment else self.address)
        self.wait()
        return self

    def load(self, address):
        """Has the page loaded. Of some hundred loads one was never told to chromedriver: it gets a second."""
        self.page.set_page_load_timeout(60)
        try:
            self.page.get(address)
        except TimeoutException:
            self.page.get("about:blank")
            self.page.get(address)

    def run(self, script, *arguments):
        return self.page.execute_script(script, *arguments)

    def later(self, expression, *arguments):
        """What a promise gives, or how it failed."""
        self.page.set_script_timeout(120)
        return self.page.execute_async_script(
            f"const done = arguments[arguments.length - 1]; (async () => ({expression}))().then("
            "(value) => done(value), (error) => done({failed: `${error.name}: ${error.message}`}))",
            *arguments,
        )

    def until(self, script, what):
        done = "const [look, done] = [new Function(arguments[0]), arguments[1]], until = Date.now() + 90000;"
        waits = (
            "const wait = () => look() || Date.now() > until ? done(look()) : setTimeout(wait, 15); wait();"
        )
        self.page.set_script_timeout(120)
        assert self.page.execute_async_script(done + waits, script), what

    def wait(self):
        self.until(IS_STILL, "tiles are still on their way")

    def go(self, row, col, zoom):
        """Looks at a place, and waits for it."""
        place = "[-10 * arguments[0], 10 * arguments[1]], arguments[2]"
        self.run(f"viewer.map.setView({place}, {{animate: false}})", row, col, zoom)
        self.wait()

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def place(self, row, col):
        """Where a cell's upper left corner of the first map lies on the screen."""
        return self.run(
            "const p = viewer.map.latLngToContainerPoint([-10 * arguments[0], 10 * arguments[1]]);"
            "const b = viewer.map.getContainer().getBoundingClientRect(); return [b.left + p.x, b.top + p.y]",
            row,
            col,
        )

    def point(self, row, col, told):
        """Puts the pointer on a cell's middle, and waits for what is told of it."""
        self.run("viewer.point(L.latLng([-10 * (arguments[0] + .5), 10 * (arguments[1] + .5)]))", row, col)
        look = f"return document.getElementById('cells').textContent.includes({json.dumps(told)})"
        self.until(look, f"{told} is not told, but {self.text('#cells')}")


def at(row, col, zoom=0, plain=PLAIN):
    """A link to a place that lies in the middle of the map."""
    return f"x={LEFT_M + 10 * col}&y={TOP_M - 10 * row}&z={zoom}&{plain}"


@pytest.fixture
def shown(browser, folders):
    """Shows folders, by name; in the end nothing was asked of another server, and nothing complained of."""
    opened = []

    def show(*names, fragment="", size=SIZE_PX, scheme="light"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        resize(browser, *size, mobile=size[0] < 600)
        request = ViewRequest(folders=tuple(folders / name for name in names))
        context = served(request)
        serving = context.__enter__()
        thread = threading.Thread(target=serving.run)
        thread.start()
        opened.append((context, serving, thread))
        return Shown(browser, serving.address).open(fragment)

    yield show
    asked = urls_of(browser)
    addresses = tuple(serving.address for _, serving, _ in opened)
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"]
    resize(browser, *SIZE_PX)
    browser.get("about:blank")
    for context, serving, thread in opened:
        serving.stop()
        thread.join(timeout=10)
        context.__exit__(None, None, None)
    assert complaints == []
    assert [url for url in asked if not url.startswith((*addresses, "data:", "about:"))] == []
    assert len(asked) > 1


def messages(browser):
    return [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]


def urls_of(browser):
    return [
        message["params"]["request"]["url"]
        for message in messages(browser)
        if message["method"] == "Network.requestWillBeSent"
    ]


def cells_of(folder, name, row, col, rows, cols):
    with rasterio.open(folder / f"{name}.tif") as file:
        return file.read(window=Window(col, row, cols, rows))


def on_screen(page, row, col, rows, cols):
    """Colours of a rectangle of cells at zoom 0, where a cell is a pixel."""
    left, top = (round(value) for value in page.place(row, col))
    return picture(page.page)[top : top + rows, left : left + cols].astype(int)


def test_cells_are_drawn_in_their_classes_colours(shown, folders):
    page = shown("june", fragment=at(620, 750))
    for row, col in ((520, 700), (1890, 1900)):
        page.go(row + 100, col + 50, 0)
        found = on_screen(page, row, col, 100, 90)
        expected = cells_of(folders / "june", "landuse", row, col, 100, 90)[0]
        mapped = expected != 255
        assert mapped.sum() > 5000
        assert np.abs(found - COLORS[np.where(mapped, expected, 0)])[mapped].max() <= 1


def test_overviews_are_read_where_they_suffice(shown, folders):
    page = shown("june", fragment=PLAIN)
    with rasterio.open(folders / "june" / "landuse.tif") as file:
        overviews = file.overviews(1)
        row, col = 600, 800
        small = file.read(1, out_shape=(SIDE_PX // 2,) * 2)  # the first overview
    assert overviews == [2, 4]
    sizes = {path.name: path.stat().st_size for path in (folders / "june").glob("*.tif")}
    received = sum(
        message["params"]["encodedDataLength"]
        for message in messages(page.page)
        if message["method"] == "Network.loadingFinished"
    )
    assert received < 0.9 * sizes["landuse.tif"] + 400_000  # with the page itself
    page.go(row, col, -1)
    found = on_screen(page, row, col, 80, 80)
    expected = small[row // 2 : row // 2 + 80, col // 2 : col // 2 + 80]
    mapped = expected != 255
    assert np.abs(found - COLORS[np.where(mapped, expected, 0)])[mapped].max() <= 1


def test_the_pointer_tells_the_cell(shown, folders):
    page = shown("june", fragment="v=single")
    rng = np.random.default_rng(4)
    seen = 0
    for row, col in rng.integers(0, SIDE_PX, (8, 2)).tolist():
        read = {
            name: cells_of(folders / "june", name, row, col, 1, 1)[:, 0, 0]
            for name in ("landuse", "confidence", "second", "cover", "doubt")
        }
        if read["landuse"][0] == 255:
            page.point(row, col, "Cloud, shadow or snow")
            continue
        seen += 1
        page.point(row, col, f"{LAND_USE[read['landuse'][0]].title}, {read['confidence'][0] / 2.5:.1f} %")
        told = page.text("#cells")
        assert f"then {LAND_USE[read['second'][0]].title}, {read['second'][1] / 2.5:.1f} %" in told
        assert f"Land cover: {LAND_COVER[read['cover'][0]].title}" in told
        assert f"Doubt {read['doubt'][0] / 2.5:.1f} %" in told
        east, north = LEFT_M + 10 * col + 5, TOP_M - 10 * row - 5
        lon, lat = pyproj.Transformer.from_crs(32633, 4326, always_xy=True).transform(east, north)
        assert page.text("#cell-lonlat") == f"{lat:.5f}° N, {lon:.5f}° E"
    assert seen > 3
    page.point(-5, 10, "Outside the area")


def test_swiping_compares_two_dates(shown, folders):
    row, col = 1000, 1000
    page = shown(
        "june",
        "july",
        "change",
        fragment=at(row, col, plain="v=swipe&d=0.5&o=100&i=0&a=june.landuse&b=july.landuse"),
    )
    assert [page.text("#label-a"), page.text("#label-b")] == ["2024-06-16", "2024-07-16"]
    for name, first in (("june", col - 90), ("july", col + 30)):
        expected = cells_of(folders / name, "landuse", row + 20, first, 60, 60)[0]
        found = on_screen(page, row + 20, first, 60, 60)
        mapped = expected != 255
        assert np.abs(found - COLORS[np.where(mapped, expected, 0)])[mapped].max() <= 1
    place = (row + 100, col + 35)  # the outline of the cell is drawn there
    both = [
        LAND_USE[cells_of(folders / name, "landuse", *place, 1, 1)[0, 0, 0]].title
        for name in ("june", "july")
    ]
    page.point(*place, both[0])
    assert all(title in page.text("#cells") for title in both)
    # A key moves the divider, and the left map then lies where the right one was.
    divider = page.page.find_element("css selector", "#divider")
    divider.send_keys(*[Keys.ARROW_RIGHT] * 10)
    page.until("return viewer.state.divided > 0.69", "the divider stands still")
    expected = cells_of(folders / "june", "landuse", row + 20, col + 30, 60, 60)[0]
    mapped = expected != 255
    found = on_screen(page, row + 20, col + 30, 60, 60)
    assert np.abs(found - COLORS[np.where(mapped, expected, 0)])[mapped].max() <= 1


def test_changes_are_shown_over_the_image(shown, folders):
    page = shown("june", "july", "change", fragment=at(520, 520, plain="v=single&o=100&a=change.change"))
    code = 1 + 0 * len(LAND_USE) + 7
    values = cells_of(folders / "change", "change", 450, 450, 140, 140)[0]
    image = cells_of(folders / "july", "image", 450, 450, 140, 140).transpose(1, 2, 0).astype(int)
    found = on_screen(page, 450, 450, 140, 140)
    assert (values == code).sum() > 50
    assert np.abs(found - COLORS[7])[values == code].max() <= 1
    assert np.abs(found - image)[values == 0].max() <= 1  # where nothing changed
    row, col = np.argwhere(values == code)[0].tolist()
    moved = cells_of(folders / "change", "difference", 450 + row, 450 + col, 1, 1)[0, 0, 0]
    page.point(450 + row, 450 + col, "Annual crop to Residential")
    assert f"Moved {moved / 2.5:.1f} % of its probability" in page.text("#cells")
    assert "No change" in page.text("#legends")


def test_classes_are_hidden_and_shown_again(shown, folders):
    page = shown("june", fragment=at(520, 700))
    expected = cells_of(folders / "june", "landuse", 470, 650, 90, 90)[0]
    forest = expected == 1
    assert 0 < forest.sum() < forest.size
    (button,) = page.page.find_elements("css selector", "#legends .toggle[value='1']")
    button.click()
    ground = on_screen(page, 470, 650, 90, 90)
    assert button.get_attribute("aria-pressed") == "false"
    assert (np.abs(ground - COLORS[1])[forest].max(axis=1) > 20).all()
    others = (expected != 255) & ~forest
    assert np.abs(ground - COLORS[np.where(others, expected, 0)])[others].max() <= 1
    page.until("return location.hash.includes('h.landuse=1')", "the link does not know it")
    ActionChains(page.page).double_click(button).perform()
    assert page.run("return [...viewer.hidden.landuse].sort((a, b) => a - b)") == [0, *range(2, 14)]
    page.page.find_element("css selector", "#legends .link").click()
    assert page.run("return viewer.hidden.landuse.size") == 0


def test_a_link_shows_the_same_again(shown):
    page = shown(
        "june",
        "july",
        "change",
        fragment=at(
            700, 600, zoom=0.5, plain="a=july.cover&b=change.difference&v=swipe&d=0.3&o=60&h.cover=2.4"
        ),
    )
    page.until("return location.hash.length > 50", "the address is not written")
    address, before = page.page.current_url, picture(page.page)
    page.page.get("about:blank")
    page.page.get(address)
    page.wait()
    page.until("return location.hash.length > 50", "the address is not written")
    assert page.page.current_url == address
    assert np.abs(picture(page.page).astype(int) - before).max() <= 4  # how colours are mixed is not exact
    assert page.run("return document.getElementById('trouble').hidden")
    # A link that is typed into the open page is followed too.
    page.run("location.hash = 'v=single&a=june.image'")
    page.until("return viewer.state.a.raster === 'image' && viewer.state.view === 'single'", "not followed")


MISFITS = [
    "v=<script>document.title=1</script>",
    "a=nothere.landuse",
    "a=june.second",
    "b=june.__proto__",
    "z=1e9&x=NaN&y=",
    "x=1&y=99999999999999",
    "h.landuse=1.2.999",
    "h.__proto__=1",
    "__proto__=1&constructor=2",
    "%E0%A4%A=1",
]


def test_a_link_that_does_not_fit_is_told_and_does_no_harm(shown):
    page = shown("june", fragment=MISFITS[0])
    for fragment in MISFITS:
        if fragment != MISFITS[0]:
            page.run("viewer.tell(''); location.hash = arguments[0]", fragment)
        page.until("return !document.getElementById('trouble').hidden", f"nothing is told of {fragment}")
        assert "does not fit the maps" in page.text("#trouble")
        assert page.page.title == "june · landuse view"
        assert page.run("return [viewer.state.a.raster, viewer.state.view]") == ["landuse", "single"]


def test_keys_do_what_the_pointer_does(shown):
    page = shown("june", "july")
    area = page.page.find_element("css selector", "#map")
    state = "return [viewer.state.view, viewer.state.a.folder, viewer.state.a.raster, viewer.state.image]"
    assert page.run(state) == ["swipe", "june", "landuse", True]
    area.send_keys("s", "2", "l", "i")
    assert page.run(state) == ["single", "july", "cover", False]
    area.send_keys("1", "s", "]")
    assert page.run("return [viewer.state.a.folder, viewer.state.divided]") == ["june", 0.55]
    zoom = page.run("return viewer.map.getZoom()")
    area.send_keys("+")
    page.until(f"return viewer.map.getZoom() > {zoom}", "plus does not zoom")
    area.send_keys(Keys.ARROW_LEFT)
    page.until("return document.querySelector('#cells .cell-class span:last-child') !== null", "nothing told")
    area.send_keys("f")
    page.until(f"return viewer.map.getZoom() === {zoom}", "f does not show the whole map")
    # Letters that are typed elsewhere do nothing, and everything is reached by Tab.
    page.page.find_element("css selector", "#whole").send_keys("s")
    assert page.run("return viewer.state.view") == "swipe"
    reached = page.run(
        "return ['#map', '#divider', '#opacity', '#link', '[name=folder-a]', '#legends .toggle'].every("
        "(name) => document.querySelector(name).tabIndex === 0)"
    )
    assert reached


def test_memory_is_bounded_however_far_one_looks(shown):
    page = shown("june", "july")
    page.run("viewer.store.most = 3e6")
    for row, col, zoom in ((100, 100, 0), (1800, 200, 0), (1000, 1900, 1), (1000, 1000, -1), (1900, 1900, 0)):
        page.go(row, col, zoom)
    bytes_, kept, read, coming = page.run(
        "const s = viewer.store; const kept = [...s.kept.values()].reduce((sum, one) => sum + one.length, 0);"
        "return [s.bytes, kept, s.read, s.coming.size]"
    )
    assert bytes_ == kept <= 3e6
    assert read * 512 * 512 > 5 * 3e6  # far more was unpacked
    assert coming == 0
    canvases = page.run("return document.querySelectorAll('canvas').length")
    assert canvases <= 4 * 6 * 7  # four layers, with one row of tiles beyond each edge


def test_tiles_out_of_sight_are_asked_for_no_more(shown):
    page = shown("june", fragment=PLAIN)
    page.run(
        "const read = RangedFile.prototype.read; viewer.slow = []; viewer.store.kept.clear();"
        "RangedFile.prototype.read = async function (start, length, signal) {"
        "  await new Promise((done, fail) => { viewer.slow.push(signal); setTimeout(done, 300);"
        "    signal?.addEventListener('abort', () => fail(new DOMException('', 'AbortError'))); });"
        "  return read.call(this, start, length, signal); };"
        "viewer.map.setView([-2000, 2000], 2, {animate: false});"
    )
    page.until("return viewer.slow.length > 1", "nothing is asked for")
    page.run("viewer.map.setView([-18000, 18000], 2, {animate: false})")
    page.until("return viewer.slow.some((signal) => signal?.aborted)", "nothing is withdrawn")
    page.wait()
    assert page.run("return document.getElementById('trouble').hidden")


def test_a_map_of_another_zone_is_warped_to_its_place(shown, folders):
    to_32 = pyproj.Transformer.from_crs(32633, 32632, always_xy=True)
    x, y = to_32.transform(LEFT_M + 10_000, TOP_M - 10_000)
    left, top = round(x - 8000, -1), round(y + 8000, -1)
    other = write_map(folders / "zone32", 1600, seed=3, crs="EPSG:32632", left_m=left, top_m=top)
    assert other["landuse"].shape[1:] == (512, 512)
    page = shown("june", "zone32", fragment=at(1000, 1000, plain="v=single&o=100&i=0&a=zone32.landuse"))
    rows, cols = np.mgrid[960:1040, 955:1045]
    x, y = to_32.transform(LEFT_M + 10 * cols + 5, TOP_M - 10 * rows - 5)
    with rasterio.open(folders / "zone32" / "landuse.tif") as file:
        values = file.read(1)
    place = (x - left) / 10, (top - y) / 10
    # Cells whose middle is nearly on a border may fall either way.
    clear = np.all([np.abs(p - np.round(p)) > 0.02 for p in place], axis=0)
    expected = values[np.floor(place[1]).astype(int), np.floor(place[0]).astype(int)]
    clear &= expected != 255
    found = on_screen(page, 960, 955, 80, 90)
    assert clear.mean() > 0.8
    assert np.abs(found - COLORS[np.where(clear, expected, 0)])[clear].max() <= 1
    page.point(1000, 1000, LAND_USE[expected[40, 45]].title if clear[40, 45] else "")


def test_utm_is_that_of_pyproj_both_ways(shown):
    page = shown("june", fragment=PLAIN)
    rng = np.random.default_rng(1)
    places = [
        (
            zone,
            north,
            (6 * zone - 183 + rng.uniform(-4, 4) + 180) % 360 - 180,
            rng.uniform(1, 80) * (1 if north else -1),
        )
        for zone in (1, 32, 33, 60)
        for north in (True, False)
        for _ in range(3)
    ]
    for zone, north, lon, lat in places:
        crs = 32600 + zone if north else 32700 + zone
        expected = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
        found = page.run("return utmOfLonLat(...arguments)", lon, lat, zone, north)
        assert np.abs(np.subtract(found, expected)).max() < 1e-3
        back = page.run("return lonLatOfUtm(...arguments)", *found, zone, north)
        assert np.abs((np.subtract(back, (lon, lat)) + 180) % 360 - 180).max() < 1e-8


def test_a_map_made_again_is_told(shown, folders, tmp_path):
    page = shown("june", fragment=PLAIN)
    path = folders / "june" / "landuse.tif"
    other = tmp_path / "new.tif"
    other.write_bytes(path.read_bytes())
    other.replace(path)
    page.run("viewer.map.setView([-15000, 15000], 1, {animate: false})")
    page.until("return !document.getElementById('trouble').hidden", "nothing is told")
    assert "was made again. Load this page anew." in page.text("#trouble")
    page.page.get_log("browser")  # the browser logs the refused requests itself
    page.open(PLAIN)
    assert page.run("return document.getElementById('trouble').hidden")


@pytest.mark.parametrize(
    ("size", "scheme"), [((320, 568), "light"), ((844, 390), "dark"), ((1600, 1000), "light")]
)
def test_it_fits_small_and_large_screens(shown, size, scheme):
    page = shown("june", "july", "change", size=size, scheme=scheme)
    width, needed, ground = page.run(
        "return [innerWidth, document.documentElement.scrollWidth,"
        " getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)]"
    )
    assert needed <= width == size[0]
    assert (max(ground) < 60) == (scheme == "dark")
    _, _, map_width, map_height = page.run(
        "const box = document.getElementById('map').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height]"
    )
    assert map_width >= 0.5 * size[0]
    assert map_height >= 250
    small = page.run(
        "return [...document.querySelectorAll('#controls button, #controls select, #controls [type=radio]')]"
        ".filter((one) => one.offsetParent && one.getBoundingClientRect().height < 24).map((one) => one.name)"
    )
    assert small == []


# ---- The reader of GeoTIFFs ----


@pytest.fixture(scope="module")
def tiffs(tmp_path_factory, folders, browser):
    """A page whose server also gives out TIFFs of many kinds, by name; the files lie in a folder."""
    folder = tmp_path_factory.mktemp("tiffs")
    found = [viewable(folders / "june")]
    page, policy = render_viewer(found)
    files = {f"/{name}": folder / name for name in (*KINDS, "hostile.tif")}
    site = Site(page=page, policy=policy, files=files | data_paths(found))
    with listening(lambda: site) as serving:
        thread = threading.Thread(target=serving.run)
        thread.start()
        yield Shown(browser, serving.address), folder
        browser.get("about:blank")
        serving.stop()
        thread.join(timeout=10)


def opened(tiffs):
    """The page and the folder, once the browser shows that page."""
    page, folder = tiffs
    if not page.page.current_url.startswith(page.address):
        page.open(PLAIN)
    return page, folder


KINDS = {
    "plain.tif": {"bands": 1, "compress": "NONE"},
    "deflate.tif": {"bands": 1, "compress": "DEFLATE"},
    "predictor.tif": {"bands": 3, "compress": "DEFLATE", "predictor": 2},
    "by-band.tif": {"bands": 2, "compress": "DEFLATE", "interleave": "BAND", "predictor": 2},
    "big.tif": {"bands": 1, "compress": "DEFLATE", "BIGTIFF": "YES"},
    "sparse.tif": {"bands": 1, "compress": "DEFLATE", "SPARSE_OK": "TRUE"},
}

TILE = (
    "(async ([name, bands, level, row, col]) => {{ const cog = new Cog(name, bands, 255, new TileStore());"
    " const levels = await cog.levels(); const tile = await cog.tile(levels, level, row, col);"
    " return [levels.map((l) => [l.rows, l.cols, l.tileRows, l.tileCols]), [...tile]]; }})({})"
)


@pytest.mark.parametrize("name", KINDS)
def test_tiles_hold_what_rasterio_reads(tiffs, name):
    page, folder = opened(tiffs)
    options = {key: value for key, value in KINDS[name].items() if key != "bands"}
    bands = KINDS[name]["bands"]
    values = np.random.default_rng(2).integers(0, 255, (bands, 300, 200), dtype=np.uint8)
    profile = {
        "driver": "GTiff",
        "count": bands,
        "height": 300,
        "width": 200,
        "dtype": "uint8",
        "nodata": 255,
    }
    profile |= {
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 128,
        "transform": rasterio.Affine(10, 0, 0, 0, -10, 0),
    }
    with rasterio.open(folder / name, "w", **profile, **options) as file:
        if name == "sparse.tif":
            file.write(values[:, 128:, :], window=Window(0, 128, 200, 172))
            values[:, :128] = 255
        else:
            file.write(values)
        file.build_overviews([2], rasterio.enums.Resampling.nearest)
    with rasterio.open(folder / name) as file:
        overview = file.read(out_shape=(bands, 150, 100))
    for level, whole, row, col in (
        (0, values, 1, 1),
        (0, values, 2, 3),
        (0, values, 0, 0),
        (1, overview, 1, 0),
    ):
        levels, tile = page.later(TILE.format("arguments[0]"), [name, bands, level, row, col])
        assert [entry[:2] for entry in levels] == [[300, 200], [150, 100]]
        _, _, height, width = levels[level]
        part = whole[:, row * height : (row + 1) * height, col * width : (col + 1) * width]
        found = np.array(tile, np.uint8).reshape(height, width, bands).transpose(2, 0, 1)
        np.testing.assert_array_equal(found[:, : part.shape[1], : part.shape[2]], part)


def _hostile():
    """Broken files by what is wrong with them, made of a good one of 64 x 64 pixels in one tile."""

    def good(**changed):
        tags = {
            256: (3, 64), 257: (3, 64), 258: (3, 8), 259: (3, 8), 277: (3, 1), 322: (3, 64), 323: (3, 64),
            324: (4, 400), 325: (4, 20),
        }  # fmt: skip
        tags |= {int(key[1:]): value for key, value in changed.items()}
        entries = b"".join(
            key.to_bytes(2, "little")
            + kind.to_bytes(2, "little")
            + count.to_bytes(4, "little")
            + value.to_bytes(4, "little")
            for key, (kind, value, count) in sorted((k, (*v, 1)[:3]) for k, v in tags.items())
        )
        head = b"II*\0" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little") + entries
        return head + (0).to_bytes(4, "little") + bytes(1000)

    looping = bytearray(good())
    looping[10 + 9 * 12 : 14 + 9 * 12] = (8).to_bytes(4, "little")
    return {
        "no TIFF": b"<html>" * 100,
        "empty": b"",
        "short": good()[:40],
        "big-endian": b"MM\0*" + bytes(500),
        "another version": b"II\x2c\0" + bytes(500),
        "a loop of directories": bytes(looping),
        "a directory past the end": b"II*\0\xff\xff\xff\x7f" + bytes(100),
        "a directory of many fields": b"II*\0\x08\0\0\0\xff\xff" + bytes(2000),
        "a table of billions": good(_324=(4, 400, 2**32 - 1)),
        "a table past the end": good(_324=(4, 400, 3_000_000)),
        "16 bits": good(_258=(3, 16)),
        "three bands": good(_277=(3, 3)),
        "LZW": good(_259=(3, 5)),
        "tiles of a million": good(_322=(4, 2**20)),
        "tiles of nothing": good(_322=(3, 0)),
        "no pixels": good(_256=(4, 0)),
        "more tiles than said": good(_256=(4, 2**31)),
        "a type that is none": good(_256=(77, 64)),
        "no tiles": good(_324=(4, 400, 0)),
        "a tile of gigabytes": good(_325=(4, 2**32 - 1)),
        "a tile past the end": good(_324=(4, 2**31)),
        "what is no deflate": good(),
    }


HOSTILE = _hostile()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_with_a_reason(tiffs, kind):
    page, folder = opened(tiffs)
    (folder / "hostile.tif").write_bytes(HOSTILE[kind])
    result = page.later(TILE.format("arguments[0]"), ["hostile.tif", 1, 0, 0, 0])
    assert isinstance(result, dict), "it was read"
    assert result["failed"]


def test_a_tile_that_unpacks_without_end_is_left(tiffs):
    page, folder = opened(tiffs)
    bomb = zlib.compress(bytes(30_000_000), 9)
    head = HOSTILE["what is no deflate"][:-1000]
    tags = bytearray(head)
    at = tags.index((325).to_bytes(2, "little"))
    tags[at + 8 : at + 12] = len(bomb).to_bytes(4, "little")
    at = tags.index((324).to_bytes(2, "little"))
    tags[at + 8 : at + 12] = len(head).to_bytes(4, "little")
    (folder / "hostile.tif").write_bytes(bytes(tags) + bomb)
    result = page.later(TILE.format("arguments[0]"), ["hostile.tif", 1, 0, 0, 0])
    assert "unpacks to more than its size" in result["failed"]
