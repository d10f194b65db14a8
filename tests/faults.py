"""A file server on loopback that fails as services do: busy, broken off, expired, gone, down.

Faults come in a fixed rhythm, so that a test sees the same ones each time. The server answers
plain requests and, as an HTTP proxy, requests for any host: so Azure's hosts can be played.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


@dataclass
class Asked:
    """One request and what became of it."""

    url: str
    byte_range: tuple[int, int] | None
    """Half-open."""
    status: int
    sent: int
    """Bytes of the body that were sent."""


@dataclass
class Tokens:
    """A SAS token service and the storage's view of its tokens."""

    lifetime_s: float = 3600.0
    given: dict[str, float] = field(default_factory=dict)
    """Signature to the monotonic time it ends."""
    busy: int = 0
    """So many requests of a token are answered 503 first."""

    def give(self) -> dict[str, str]:
        signature = secrets.token_hex(16)
        self.given[signature] = time.monotonic() + self.lifetime_s
        expiry = datetime.now(UTC) + timedelta(seconds=self.lifetime_s)
        return {"msft:expiry": expiry.isoformat(), "token": f"se={expiry:%Y}&sig={signature}%2B"}

    def valid(self, url: str) -> bool:
        signature = parse_qs(urlsplit(url).query).get("sig", [""])[0].removesuffix("+")
        return self.given.get(signature, 0) > time.monotonic()

    def revoke(self) -> None:
        """What was given out until now is refused, though it says that it lives on."""
        self.given.clear()


@dataclass
class Storage:
    """Files by URL path, and the faults with which they are given out."""

    root: Path
    prefix: str = "/"
    tokens: Tokens | None = None
    busy_every: int = 0
    """Every so many requests one is answered 503 or 429, in turn."""
    truncate_every: int = 0
    """Every so many requests one breaks off half-way."""
    gone: frozenset[str] = frozenset()
    """Names of files that are answered 404."""
    down_after: int | None = None
    """After so many requests no one is answered any more."""
    latency_s: float = 0.0
    """How long each answer takes to begin."""
    ranges: bool = True
    """Whether ranges are understood; else each answer is the whole file."""
    interfere: Callable[[Storage], None] | None = None
    """Called before each answer, to change something half-way."""
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def refetched(self) -> dict[str, int]:
        """Bytes that were sent more than once, by URL without its query."""
        seen: dict[str, list[tuple[int, int]]] = {}
        for one in self.asked:
            if one.byte_range is not None and one.status == 206:
                start = one.byte_range[0]
                seen.setdefault(one.url.partition("?")[0], []).append((start, start + one.sent))
        twice = {}
        for url, spans in seen.items():
            end = overlap = 0
            for start, stop in sorted(spans):
                overlap += max(min(end, stop) - start, 0)
                end = max(end, stop)
            if overlap:
                twice[url] = overlap
        return twice


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        storage = self.server.storage
        with self.server.lock:
            if storage.interfere is not None:
                storage.interfere(storage)
            number = len(storage.asked) + 1
            entry = Asked(url=self.path, byte_range=self._span(), status=0, sent=0)
            storage.asked.append(entry)
        if storage.latency_s:
            time.sleep(storage.latency_s)
        if storage.down_after is not None and number > storage.down_after:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        path = storage.root / urlsplit(self.path).path.removeprefix(storage.prefix)
        if storage.tokens is not None and not storage.tokens.valid(self.path):
            self._say(entry, 403, b"AuthenticationFailed")
        elif storage.busy_every and number % storage.busy_every == 0:
            self._say(entry, 503 if number // storage.busy_every % 2 else 429, b"busy", {"Retry-After": "0"})
        elif path.name in storage.gone or not path.is_file():
            self._say(entry, 404, b"BlobNotFound")
        else:
            content = path.read_bytes()
            headers = {"ETag": f'"{len(content)}"', "Accept-Ranges": "bytes"}
            status = 200
            if entry.byte_range is not None and storage.ranges:
                start, stop = entry.byte_range
                total = len(content)
                if start >= total:
                    self._say(entry, 416, b"")
                    return
                content, status = content[start:stop], 206
                headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{total}"
            cut = bool(storage.truncate_every) and number % storage.truncate_every == 0
            self._say(entry, status, content, headers, cut=cut)

    def _span(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return None if match is None else (int(match[1]), int(match[2]) + 1)

    def _say(
        self,
        entry: Asked,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        entry.status = status
        entry.sent = len(body) // 2 if cut else len(body)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            entry.sent = 0
            return
        self.wfile.write(body[: entry.sent])
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it was given


class _Server(_Quiet):
    def __init__(self, storage: Storage) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.storage = storage
        self.lock = threading.Lock()


@contextmanager
def serving(storage: Storage) -> Iterator[Storage]:
    """The storage behind HTTP on a free port of loopback."""
    with _Server(storage) as server:
        storage.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield storage
        finally:
            server.shutdown()
            thread.join()


class _TokenHandler(BaseHTTPRequestHandler):
    server: _TokenServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Ocp-Apim-Subscription-Key")))
        tokens = self.server.tokens
        status, body = 200, b""
        if tokens.busy > 0:
            tokens.busy -= 1
            status = 503
        else:
            body = json.dumps(tokens.give()).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _TokenServer(_Quiet):
    def __init__(self, tokens: Tokens) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.tokens = tokens
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def token_service(tokens: Tokens) -> Iterator[_TokenServer]:
    """Planetary Computer's token service on loopback."""
    with _TokenServer(tokens) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _GatewayHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Gateway

    def do_GET(self) -> None:
        self._forward(None)

    def do_POST(self) -> None:
        self._forward(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _forward(self, body: bytes | None) -> None:
        gateway = self.server
        with gateway.lock:
            gateway.count += 1
            number = gateway.count
        if gateway.busy_every and number % gateway.busy_every == 0:
            self._say(503, b"busy", cut=False)
            return
        headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        request = urllib.request.Request(gateway.behind + self.path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            # Links lead back here, not past the faults.
            content = answer.read().replace(gateway.behind.encode(), gateway.url.encode())
        cut = bool(gateway.truncate_every) and number % gateway.truncate_every == 0
        self._say(200, content, cut=cut)

    def _say(self, status: int, content: bytes, *, cut: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Gateway(_Quiet):
    def __init__(self, behind: str, busy_every: int, truncate_every: int) -> None:
        super().__init__(("127.0.0.1", 0), _GatewayHandler)
        self.behind = behind
        self.busy_every = busy_every
        self.truncate_every = truncate_every
        self.count = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def faulty_api(url: str, *, busy_every: int = 0, truncate_every: int = 0) -> Iterator[str]:
    """The STAC API at ``url`` behind a gateway that is busy and breaks off; yields the gateway's URL."""
    with _Gateway(url, busy_every, truncate_every) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()
