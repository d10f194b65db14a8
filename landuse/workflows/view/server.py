"""A server on the loopback that gives out one page and the ranges of a few files, and nothing else.

What it can give is a table of paths, made beforehand: the path of a request is only ever looked up in it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from landuse.errors import LanduseError, OutputError, UsageError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

_LOG = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

MOST_CONNECTIONS = 128
"""At one time; a browser has six."""

IDLE_SECONDS = 30
"""A connection on which nothing is asked for so long is closed."""

_PIECE_BYTES = 1 << 18

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # The browser's cache lets ranges of one file wait for each other, and would fill the disk.
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a server gives out."""

    page: str
    """HTML, at ``/``."""
    policy: str
    """Its Content-Security-Policy."""
    files: dict[str, Path]
    """Files by path on the server, such as ``"/data/0/landuse.tif"``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """A part of a file."""

    start: int
    """First byte."""
    stop: int
    """One past the last."""


def byte_range(header: str | None, size: int) -> ByteRange | None:
    """The part of a file that a ``Range`` header asks for, by RFC 9110, section 14.

    Args:
        header: its value; None where there is none.
        size: of the file in bytes.

    Returns:
        The part; None where the whole file is to be sent: there is no header, it is not understood, or it
        asks for several parts, which a server may answer so.

    Raises:
        ValueError: the part lies beyond the file.

    Example:
        >>> byte_range("bytes=-2", 10)
        ByteRange(start=8, stop=10)
    """
    told = _RANGE.fullmatch((header or "").strip())
    if told is None or told[1] == told[2] == "":
        return None
    if told[1] == "":
        length = int(told[2])
        if length == 0 or size == 0:
            raise ValueError("no byte is asked for")
        return ByteRange(start=max(size - length, 0), stop=size)
    start = int(told[1])
    stop = size if told[2] == "" else int(told[2]) + 1
    if told[2] != "" and stop <= start:
        return None  # not a range at all
    if start >= size:
        raise ValueError("it begins past the end")
    return ByteRange(start=start, stop=min(stop, size))


class _Server(ThreadingHTTPServer):
    """One thread a connection, of which there are only so many."""

    daemon_threads = True
    block_on_close = False  # an idle connection does not keep the command from ending
    request_queue_size = MOST_CONNECTIONS
    allow_reuse_address = os.name == "posix"  # a port that was left a moment ago can be taken again

    def __init__(self, port: int, site: Callable[[], Site]) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.site = site
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        self.free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        self.free.acquire()
        try:
            super().process_request(request, client_address)
        except Exception:
            # No thread was started. A Ctrl-C may come after one was, which then gives its place back itself;
            # the server ends anyway.
            self.free.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        # Who leaves while something is sent is no error of ours; all else is told with -v.
        _LOG.info("a request ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True  # headers and first bytes go in two writes
    server_version = "landuse"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            # A name of somebody else's that was made to point here (DNS rebinding).
            self._text(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to its own address only.\n")
            return
        if self.headers.get("Content-Length", "0") != "0" or self.headers.get("Transfer-Encoding"):
            self.close_connection = True  # what follows would be read as the next request
            self._text(HTTPStatus.BAD_REQUEST, "No body is expected.\n")
            return
        path = urlsplit(self.path).path if self.path.startswith("/") else ""
        try:
            site = self.server.site()
        except LanduseError as error:
            self._text(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n")
            return
        if path == "/":
            self._text(HTTPStatus.OK, site.page, "text/html", {"Content-Security-Policy": site.policy})
        elif path in site.files:
            self._file(site.files[path])
        else:
            self._text(HTTPStatus.NOT_FOUND, "There is no such file.\n")

    def _file(self, path: Path) -> None:
        try:
            file = path.open("rb")
        except OSError:
            self._text(HTTPStatus.NOT_FOUND, "The file is gone. Load the page anew.\n")
            return
        with file:
            stat = os.fstat(file.fileno())
            etag = f'"{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}"'
            headers = {
                "ETag": etag,
                "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
                "Accept-Ranges": "bytes",
            }
            if not _matches(self.headers.get("If-Match"), etag, otherwise=True):
                self._text(HTTPStatus.PRECONDITION_FAILED, "The file was made again.\n", headers=headers)
                return
            if _matches(self.headers.get("If-None-Match"), etag, otherwise=False):
                self._head(HTTPStatus.NOT_MODIFIED, headers)
                return
            wanted = self.headers.get("Range") if self.command == "GET" else None
            if self.headers.get("If-Range", etag) != etag:
                wanted = None
            try:
                part = byte_range(wanted, stat.st_size)
            except ValueError:
                headers["Content-Range"] = f"bytes */{stat.st_size}"
                self._text(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                    "The range is past the end.\n",
                    headers=headers,
                )
                return
            headers["Content-Type"] = "image/tiff"
            if part is None:
                part = ByteRange(start=0, stop=stat.st_size)
                status = HTTPStatus.OK
            else:
                headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{stat.st_size}"
                status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Length"] = str(part.stop - part.start)
            self._head(status, headers)
            if self.command == "GET":
                self._send(file, part)

    def _send(self, file: BinaryIO, part: ByteRange) -> None:
        at = part.start
        while at < part.stop:
            piece = os.pread(file.fileno(), min(_PIECE_BYTES, part.stop - at), at)
            if not piece:  # it was cut short: the browser is told by the end of the connection
                self.close_connection = True
                return
            self.wfile.write(piece)
            at += len(piece)

    def _text(
        self, status: HTTPStatus, text: str, kind: str = "text/plain", headers: dict[str, str] | None = None
    ) -> None:
        content = text.encode()
        self._head(
            status,
            {
                **(headers or {}),
                "Content-Type": f"{kind}; charset=utf-8",
                "Content-Length": str(len(content)),
            },
        )
        if self.command != "HEAD":
            self.wfile.write(content)

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        _LOG.info(format, *args)


def _matches(header: str | None, etag: str, *, otherwise: bool) -> bool:
    """Whether a header names the file as it is; ``otherwise`` where there is no such header."""
    if header is None:
        return otherwise
    return header.strip() == "*" or etag in (entry.strip().removeprefix("W/") for entry in header.split(","))


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server that listens."""

    address: str
    """Its URL."""
    run: Callable[[], None]
    """Answers requests until the thread that called is interrupted, or ``stop`` is called from another."""
    stop: Callable[[], None]
    """Ends ``run``."""


@contextmanager
def listening(site: Callable[[], Site], port: int = 0) -> Iterator[Serving]:
    """Listen on the loopback.

    Args:
        site: gives what to serve; it is called with each request.
        port: to listen on; 0 takes a free one.

    Raises:
        UsageError: that is no port.
        OutputError: it cannot be had.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is no port. Give 1024 to 65535, or leave it out for a free one.")
    try:
        server = _Server(port, site)
    except OSError as error:
        raise OutputError(
            f"Port {port} of {LOOPBACK} cannot be listened on ({error.strerror or error}). Leave --port "
            "out for a free one, or name another."
        ) from error
    try:
        yield Serving(
            address=f"http://{LOOPBACK}:{server.server_port}/",
            run=lambda: server.serve_forever(poll_interval=0.2),
            stop=server.shutdown,
        )
    finally:
        server.server_close()
