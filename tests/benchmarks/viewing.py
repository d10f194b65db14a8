"""How soon `landuse view` shows a whole tile in Chromium, and what that takes.

``python -m tests.benchmarks.viewing`` writes two maps of 10,980 cells a side, a pattern laid again and again,
and opens them in a browser without a window, as a swipe of two maps with their images beneath. It tells, in
medians over several places: until the whole map stands, until a place at full resolution stands after a jump,
until the tiles of a pan stand, and until a key's zoom stands; what was fetched; and the memory of the page's
process at its peak. ``--folder`` keeps the maps for a next time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from landuse.workflows.view.view import ViewRequest, served
from tests.browser import chromium, resize
from tests.view_folders import write_map

TILE_PX = 10_980
PLACES = 10
SCREEN_PX = (1600, 1000)

STILL = """
const [act, done] = [new Function(arguments[0]), arguments[1]];
const from = performance.now();
let last = from, longest = 0, seen = false;
const look = (now) => {
  longest = Math.max(longest, now - last);
  last = now;
  const { map } = viewer;
  const moves = map._animatingZoom || map._panAnim?._inProgress;
  const busy = moves || map.getContainer().getAttribute("aria-busy") === "true";
  seen ||= busy;
  if (!busy && (seen || now - from > 300)) return done([seen ? now - from : 0, longest]);
  requestAnimationFrame(look);
};
act();
requestAnimationFrame(look);
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-px", type=int, default=TILE_PX)
    parser.add_argument("--folder", type=Path, help="where the maps lie, or are to be kept")
    parser.add_argument("--places", type=int, default=PLACES, help="to look at")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for index, name in enumerate(("june", "july")):
            if not (folder / name).exists():
                started = time.monotonic()
                write_map(folder / name, arguments.side_px, seed=index)
                print(f"wrote   {name} in {time.monotonic() - started:.0f} s")
        sizes = sum(path.stat().st_size for path in folder.rglob("*.tif"))
        print(f"maps    2 of {arguments.side_px} x {arguments.side_px} cells, {sizes / 1e6:.0f} MB in all")
        with (
            served(ViewRequest(folders=(folder / "june", folder / "july"))) as serving,
            chromium(Path(temporary) / "profile") as page,
        ):
            thread = threading.Thread(target=serving.run, daemon=True)
            thread.start()
            resize(page, *SCREEN_PX)
            page.set_script_timeout(120)
            measure(page, serving.address, arguments.side_px, arguments.places)
            serving.stop()


def measure(page, address: str, side_px: int, places: int) -> None:
    """Open the page, move about, and print what was seen."""
    page.get("about:blank")
    page.get_log("performance")
    before = processor_seconds(page)
    page.get(address)
    page.execute_async_script(
        "const done = arguments[0]; const wait = () => performance.getEntriesByName('still').length ? done()"
        " : setTimeout(wait, 10); wait();"
    )
    paint, still = page.execute_script(
        "return [performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0,"
        " performance.getEntriesByName('still')[0].startTime]"
    )
    requests, fetched = traffic(page)
    print(f"open    page drawn after {paint:.0f} ms, the whole map after {still:.0f} ms")
    spent_s = processor_seconds(page) - before
    print(f"        {requests} requests, {fetched / 1e6:.2f} MB, {spent_s:.2f} processor seconds")
    peak = memory(page)
    rng = np.random.default_rng(0)
    taken: dict[str, list[list[float]]] = {"jump": [], "pan": [], "zoom": []}
    spent: dict[str, list[float]] = {name: [] for name in taken}
    for row, col in rng.integers(800, side_px - 800, (places, 2)).tolist():
        jump = f"viewer.map.setView([-10 * {row}, 10 * {col}], 0, {{animate: false}})"
        for name, act in (
            ("jump", jump),
            ("pan", "viewer.map.panBy([500, 300])"),
            ("zoom", "viewer.map.zoomIn(1)"),
        ):
            before = processor_seconds(page)
            taken[name].append(page.execute_async_script(STILL, act))
            spent[name].append(processor_seconds(page) - before)
            peak = [max(pair) for pair in zip(peak, memory(page), strict=True)]
    for name, pairs in taken.items():
        times, gaps = zip(*pairs, strict=True)
        print(
            f"{name:8}stands after {statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f}); "
            f"longest gap between two pictures {statistics.median(gaps):.0f} ms; "
            f"{statistics.median(spent[name]):.2f} processor seconds of browser and server"
        )
    requests, fetched = traffic(page)
    print(f"moving  {requests} requests, {fetched / 1e6:.2f} MB")
    kept, heap, process = peak
    print(
        f"memory  at most {kept / 1e6:.0f} MB of tiles kept, {heap / 1e6:.0f} MB of JavaScript, "
        f"{process / 1e6:.0f} MB of the page's process"
    )
    for _ in range(2):
        page.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    kept, heap, process = memory(page)
    print(f"        after {places} places and without garbage {heap / 1e6:.0f} MB, {process / 1e6:.0f} MB")


def traffic(page) -> tuple[int, float]:
    """Requests since the last call, and their bytes; SystemExit where another server was asked."""
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    foreign = [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "about:"))]
    if foreign:
        raise SystemExit(f"the page asked {foreign}")
    complaints = [entry for entry in page.get_log("browser") if entry["level"] != "DEBUG"]
    if complaints:
        raise SystemExit(f"the browser complains: {complaints}")
    finished = (
        m["params"]["encodedDataLength"] for m in messages if m["method"] == "Network.loadingFinished"
    )
    return len(asked), sum(finished)


def memory(page) -> list[float]:
    """Bytes of unpacked tiles, of JavaScript's heap, and of the page's process as the kernel counts them."""
    kept, heap = page.execute_script("return [viewer.store.bytes, performance.memory.usedJSHeapSize]")
    process = 0.0
    for path in processes(page):
        try:
            if b"--type=renderer" in (path / "cmdline").read_bytes():
                rollup = (path / "smaps_rollup").read_text()
                process = max(process, int(rollup.split("Pss:")[1].split()[0]) * 1024.0)
        except OSError:  # it has ended
            continue
    return [kept, heap, process]


def processes(page) -> list[Path]:
    """The browser's processes, as folders of /proc."""
    found, left = [], [page.service.process.pid]
    while left:
        found.append(Path(f"/proc/{left.pop()}"))
        try:
            children = [task.read_text().split() for task in found[-1].glob("task/*/children")]
        except OSError:  # it has ended
            continue
        left += [int(pid) for pids in children for pid in pids]
    return found


def processor_seconds(page) -> float:
    """Of the browser and of this process, which is the server."""
    ticks = 0
    for path in processes(page):
        try:
            ticks += sum(map(int, (path / "stat").read_text().rpartition(")")[2].split()[11:13]))
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


if __name__ == "__main__":
    main()
