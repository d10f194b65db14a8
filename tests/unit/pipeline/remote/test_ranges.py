"""Servers that answer oddly, and runs that are broken off: never a wrong byte, never a long wait."""

import contextlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from landuse.errors import ReadError
from landuse.pipeline.read.read_scene import read_scene
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.remote.sparse_copy import LARGEST_BYTES
from landuse.pipeline.scene import BandAsset, Scene
from tests.faults import Storage, serving

HASTY = RetryPolicy(attempts=3, first_pause_s=0.01, deadline_s=10, connect_timeout_s=2, read_timeout_s=2)
SIZE = 300_000
CONTENT = np.random.default_rng(8).bytes(SIZE)


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler, int, int], None]) -> Iterator[str]:
    """A server whose ``answer`` gets the request and the range that is asked for; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            start, stop = self.headers["Range"].removeprefix("bytes=").split("-")
            # The client may have gone: that is what some tests are about.
            with contextlib.suppress(ConnectionError):
                answer(self, int(start), min(int(stop) + 1, len(CONTENT)))

        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/B04.tif"
        finally:
            server.shutdown()
            thread.join()


HUGE = f"bytes 0-9/{'9' * 5000}"
NOWHERE = f"http://{'a' * 70}/x"
"""No name of a host is that long."""
MERGED = "http://u:pw@ho\u2100st/".encode().decode("latin-1")
"""Under normalisation this host would hold a slash."""


def say(request, status, body, **headers):
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()
    request.wfile.write(body)
    request.close_connection = True


def partial(request, start, stop, body=None, *, total=SIZE, first=None, **headers):
    body = CONTENT[start:stop] if body is None else body
    stated = {
        "Content_Range": f"bytes {start if first is None else first}-{stop - 1}/{total}",
        "Content_Length": len(body),
        **headers,
    }
    say(request, 206, body, **{name: value for name, value in stated.items() if value is not None})


def everything(href, policy=HASTY):
    with Remote(policy) as remote, remote.opened(href, "somewhere") as opened:
        found = opened.opener(opened.name).read()
        opened.raise_failure()
    return found


def test_the_servers_of_these_tests_are_read_where_they_are_not_odd():
    with answering(partial) as href:
        assert everything(href) == CONTENT


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": None},  # ends with the connection
        {"Content_Range": f"BYTES 0-{len(CONTENT) - 1}/{len(CONTENT)}"},
        {"Content_Encoding": "identity"},
        {"ETag": '"one"'},
    ],
)
def test_what_the_standard_allows_is_read(headers):
    """RFC 9110 and 9112: units are case-insensitive, a length is no duty."""

    def answer(request, start, stop):
        if "Content_Range" in headers:
            stop = len(CONTENT)
            start = 0
        partial(request, start, stop, **headers)

    with answering(answer) as href:
        assert everything(href) == CONTENT


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        # As much as was asked for, of a file whose end nobody knows: it must not become the file's end.
        (lambda r, a, b: partial(r, a, b, total="*"), "does not say how large the file is"),
        (lambda r, a, b: say(r, 200, CONTENT[:9]), "does not say how large the file is"),
        (lambda r, a, b: partial(r, a, b, first=a + 7), "another range than was asked for"),
        (lambda r, a, b: partial(r, a, b, Content_Range="lines 1-2/3"), "does not say which range"),
        (lambda r, a, b: partial(r, a, b, Content_Range=None), "does not say which range"),
        (lambda r, a, b: partial(r, a, b, Content_Range=HUGE), "does not say which range"),
        # Those bytes are not the file's.
        (lambda r, a, b: partial(r, a, b, Content_Encoding="gzip"), "'gzip' encoding"),
        (lambda r, a, b: partial(r, a, b, Content_Encoding="x" * 99 + "\x1b"), "'x{20}' encoding"),
        # Behind a file's copy lies another's.
        (lambda r, a, b: partial(r, a, b, CONTENT, total=50), "sends more than the 50 bytes"),
        (lambda r, a, b: partial(r, a, b, total=LARGEST_BYTES + 1), "has 1099511627777 bytes"),
        (lambda r, a, b: partial(r, a, b, b"", Content_Length=9), "broke off after 0 of 9 bytes"),
        (lambda r, a, b: partial(r, a, b, b"", Content_Length=0), "broke off at byte 0"),
        (lambda r, a, b: r.wfile.write(b"HTTP/1.1 what\r\n\r\n"), "connection failed"),
        (lambda r, a, b: say(r, 302, b"", Location="/B04.tif"), "TooManyRedirects"),
        (lambda r, a, b: say(r, 302, b"", Location="ftp://x/y"), "InvalidSchema"),
        (lambda r, a, b: say(r, 302, b"", Location=NOWHERE), "the request is not possible"),
        (lambda r, a, b: say(r, 302, b"", Location="http://[::1/"), r"not possible \(ValueError\)"),
        (lambda r, a, b: say(r, 302, b"", Location=MERGED), r"not possible \((?!.*pw).*\)$"),
        (lambda r, a, b: say(r, 418, b"", Content_Length=0), r"answered 418 \(I'm a Teapot\)$"),
        (lambda r, a, b: say(r, 799, b"", Content_Length=0), r"answered 799 \(which means nothing\)$"),
        # In the server's own words it would be in the log.
        (lambda r, a, b: r.wfile.write(b"HTTP/1.1 451 sig=s3cret \x1b[2J\r\n\r\n"), "451 .Unavailable"),
    ],
)  # fmt: skip
def test_an_odd_answer_is_an_error_and_never_bytes(answer, said):
    with answering(answer) as href, pytest.raises(ReadError, match=said):
        everything(href)


@pytest.mark.parametrize("stated", ["\u00b2", "9" * 5000, "-5", "\u0669"])
def test_a_length_that_is_no_number_is_no_length(stated):
    """RFC 9110: it is ASCII digits. The connection's end tells then how much there is."""

    def answer(request, start, stop):
        request.wfile.write(
            f"HTTP/1.1 206 P\r\nContent-Range: bytes {start}-{stop - 1}/{SIZE}\r\n"
            f"Content-Length: {stated}\r\nConnection: close\r\n\r\n".encode()
        )
        request.wfile.write(CONTENT[start:stop])
        request.close_connection = True

    with answering(answer) as href:
        assert everything(href) == CONTENT


def test_a_lying_file_does_not_spoil_its_neighbours():
    """All copies share one file on disk."""

    def answer(request, start, stop):
        if "bad" in request.path:
            partial(request, start, start + 64, CONTENT[:200_000], total=64)
        else:
            partial(request, start, stop)

    with answering(answer) as href, Remote(HASTY) as remote:

        def read(name):
            with remote.opened(href.replace("B04", name), "somewhere") as opened:
                found = opened.opener(opened.name).read(100_000)
                opened.raise_failure()
            return found

        for number in range(5):
            assert read(f"good{number}") == CONTENT[:100_000]
            with pytest.raises(ReadError, match="sends more than"):
                read(f"bad{number}")
        for number in range(5):
            assert read(f"good{number}") == CONTENT[:100_000]


def test_a_lost_read_is_not_tried_again_by_whatever_gdal_asks_next():
    asked = []

    def answer(request, start, stop):
        asked.append(start)
        say(request, 503, b"", Content_Length=0)

    with answering(answer) as href, Remote(HASTY) as remote, remote.opened(href, "somewhere") as opened:
        with pytest.raises(rasterio.errors.RasterioIOError):
            rasterio.open(opened.name, driver="GTiff", opener=opened.opener)
        with pytest.raises(ReadError, match="answered 503"):
            opened.raise_failure()
    assert len(asked) == HASTY.attempts


def test_many_files_need_few_open_ones():
    """More assets than a process may have files open are no rarity: 1024 are a common limit."""
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        pytest.skip("needs /proc to count open files")
    with answering(partial) as href, Remote(HASTY) as remote:

        def opened_files(number):
            with remote.opened(href.replace("B04", str(number)), "somewhere") as opened:
                assert opened.opener(opened.name).read(100) == CONTENT[:100]
            return len(list(listing.iterdir()))

        # Threads and connections come first, and stay.
        counts = [opened_files(number) for number in range(150)]
        assert max(counts[50:]) <= max(counts[:50]) + 5


@pytest.mark.parametrize("setting", ["ALL_CPUS", "4", None])
def test_jpeg_2000_of_many_tiles_is_not_blank(tmp_path, monkeypatch, setting):
    """GDAL decodes tiles in threads of its own, and there it does not find what Python opened."""
    values = np.random.default_rng(2).integers(1, 60_000, (700, 600), np.uint16)
    transform = Affine(10, 0, 4e5, 0, -10, 5.4e6)
    with rasterio.open(
        tmp_path / "B04.jp2", "w", driver="JP2OpenJPEG", dtype="uint16", count=1, height=700, width=600,
        crs="EPSG:32633", transform=transform, REVERSIBLE="YES", QUALITY="100", BLOCKXSIZE=256,
        BLOCKYSIZE=256,
    ) as target:  # fmt: skip
        target.write(values, 1)
    if setting is not None:
        monkeypatch.setenv("GDAL_NUM_THREADS", setting)
    grid = GeoBox((700, 600), transform, "EPSG:32633")
    with serving(Storage(root=tmp_path)) as storage, Remote(HASTY) as remote:
        scene = Scene(
            id="S2A",
            provider="somewhere",
            acquired_utc=datetime(2024, 6, 1, tzinfo=UTC),
            level="L1C",
            baseline=None,
            cloud_percent=None,
            footprint=(((15, 47), (16, 47), (16, 48), (15, 47)),),
            crs=None,
            bounds_m=None,
            assets=(BandAsset(band="B04", href=f"{storage.url}/B04.jp2"),),
        )
        # In the main thread GDAL's options are the process's, in others the thread's.
        found = [read_scene(scene, ("B04",), grid, remote)]
        with ThreadPoolExecutor(4) as pool:
            found += pool.map(lambda _: read_scene(scene, ("B04",), grid, remote), range(4))
    for block in found:
        np.testing.assert_array_equal(block.dn.values[0], values)


def trickle(request, start, stop):
    """One byte at a time, none of them too late."""
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{stop - 1}/{SIZE}")
    request.send_header("Content-Length", str(stop - start))
    request.end_headers()
    for byte in CONTENT[start:stop][:300]:
        request.wfile.write(bytes([byte]))
        time.sleep(0.1)


def redirection_that_trickles(request, start, stop):
    request.send_response(302)
    request.send_header("Location", "/gone")
    request.send_header("Content-Length", "1000000")
    request.end_headers()
    for _ in range(300):
        request.wfile.write(b"x")
        time.sleep(0.1)


def test_a_trickle_does_not_outlast_the_deadline():
    policy = RetryPolicy(attempts=2, first_pause_s=0.1, deadline_s=1, read_timeout_s=1)
    with answering(trickle) as href, Remote(policy) as remote:
        began = time.monotonic()
        with remote.opened(href, "somewhere") as opened:
            with pytest.raises(ReadError, match=r"only \d+ bytes came in time"):
                opened.fetch([(0, 32_768)])
            assert time.monotonic() - began < 2.5
            # What came is kept.
            assert 5 < remote.traffic.fetched_bytes < 20


def test_the_body_of_a_redirection_is_not_waited_for():
    def answer(request, start, stop):
        (partial if request.path == "/gone" else redirection_that_trickles)(request, start, stop)

    with answering(answer) as href:
        began = time.monotonic()
        assert everything(href) == CONTENT
        assert time.monotonic() - began < 5


def test_connections_are_used_again():
    """Taking bodies in small pieces must leave them at their end, and no byte further."""
    ports = set()

    def answer(request, start, stop):
        ports.add(request.client_address[1])
        body = CONTENT[start:stop]
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{stop - 1}/{SIZE}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with answering(answer) as href, Remote(HASTY) as remote, remote.opened(href, "somewhere") as opened:
        for start in range(0, SIZE, 50_000):
            opened.fetch([(start, start + 40_000)])
        assert remote.traffic.requests > 3
    assert len(ports) == 1


PATIENT = RetryPolicy(attempts=50, first_pause_s=60, longest_pause_s=60, deadline_s=3600)


@pytest.mark.parametrize("fault", ["busy", "endless", "trickle", "silent"])
def test_leaving_ends_all_patience_with_what_is_still_being_fetched(fault):
    """As an interrupt does: the main thread leaves while others still fetch."""
    asked, left = threading.Event(), threading.Event()

    def answer(request, start, stop):
        asked.set()
        if fault == "busy":
            say(request, 503, b"", Content_Length=0)
            return
        if fault == "trickle":
            trickle(request, start, stop)
            return
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 0-{10**9 - 1}/{10**9}")
        request.send_header("Content-Length", str(10**9))
        request.end_headers()
        if fault == "silent":
            left.wait(30)
            return
        for _ in range(600):
            request.wfile.write(bytes(2 << 20))
            time.sleep(0.1)

    with answering(answer) as href:
        errors = []

        def read(remote):
            with remote.opened(href, "somewhere") as opened:
                opened.opener(opened.name).read(10**9)
                try:
                    opened.raise_failure()
                except ReadError as error:
                    errors.append(str(error))

        with contextlib.suppress(KeyboardInterrupt), Remote(PATIENT) as remote:
            thread = threading.Thread(target=read, args=(remote,))
            thread.start()
            assert asked.wait(10)
            time.sleep(0.2)
            began = time.monotonic()
            raise KeyboardInterrupt
        thread.join()
        assert time.monotonic() - began < 5
        left.set()
    assert len(errors) == 1
    assert "being stopped" in errors[0]


def test_an_interrupted_process_ends_soon(tmp_path):
    """A real signal, at a server that is busy for ever."""
    script = tmp_path / "reads.py"
    script.write_text(
        textwrap.dedent("""
            import signal
            import sys
            from landuse.pipeline.remote.files import Remote
            from landuse.pipeline.remote.retry import RetryPolicy

            def read(number):
                with remote.opened(f"{sys.argv[1]}/{number}", "somewhere") as opened:
                    opened.opener(opened.name).read(1)

            # Where the tests run in the background, the shell has it ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            policy = RetryPolicy(attempts=50, first_pause_s=60, longest_pause_s=60, deadline_s=3600)
            try:
                with Remote(policy) as remote, remote.readers(3) as pool:
                    list(pool.map(read, range(9)))
            except KeyboardInterrupt:
                sys.exit(130)
        """),
        encoding="utf-8",
    )
    asked = threading.Event()

    def answer(request, start, stop):
        asked.set()
        say(request, 503, b"", Content_Length=0)

    with answering(answer) as href:
        process = subprocess.Popen([sys.executable, str(script), href], cwd=Path.cwd())
        try:
            assert asked.wait(60)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()
            process.wait()
