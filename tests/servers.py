"""Real servers on loopback, and the little STAC items and COGs that they serve."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.from_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

START_SECONDS = 20.0


@dataclass(frozen=True)
class Answered:
    """One request and what it got."""

    method: str
    path: str
    byte_range: str | None
    status: int


@dataclass
class FileServer:
    """A folder behind HTTP with Range support.

    ``interfere`` may answer in the server's stead (an error, a stall); None from it serves the file.
    """

    root: Path
    url: str = ""
    log: list[Answered] = field(default_factory=list)
    interfere: Callable[[Request], Response | None] | None = None

    def _answer(self, request: Request) -> Response:
        response = self.interfere(request) if self.interfere is not None else None
        path = (self.root / request.path_params["path"]).resolve()
        if response is None and path.is_relative_to(self.root.resolve()) and path.is_file():
            response = FileResponse(path)
        return response or PlainTextResponse("no such file", status_code=404)

    def app(self) -> Callable[..., Any]:
        routed = Starlette(
            routes=[Route("/{path:path}", self._answer, methods=["GET", "HEAD", "POST"])],
        )

        async def logged(scope: Any, receive: Any, send: Any) -> None:
            # FileResponse turns to 206 only while it is sent, so the status is noted there.
            async def noting(message: Any) -> None:
                if message["type"] == "http.response.start":
                    ranges = dict(scope["headers"]).get(b"range")
                    self.log.append(
                        Answered(
                            method=scope["method"],
                            path=scope["path"],
                            byte_range=None if ranges is None else ranges.decode(),
                            status=message["status"],
                        )
                    )
                await send(message)

            await routed(scope, receive, noting)

        return logged


class _Server(uvicorn.Server):
    """Looks ten times as often whether it is to end: hundreds of tests start one."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


@contextmanager
def file_server(root: Path) -> Iterator[FileServer]:
    """Serve the files under ``root`` on a free port of loopback."""
    served = FileServer(root=root)
    config = uvicorn.Config(served.app(), log_level="error", lifespan="off", ws="none")
    server = _Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        served.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the file server did not start")
            time.sleep(0.01)
        try:
            yield served
        finally:
            server.should_exit = True
            ends = time.monotonic() + START_SECONDS
            while thread.is_alive() and time.monotonic() < ends:
                # A connection that is kept open for later requests is not waited for, an answer is.
                server.force_exit = not server.server_state.tasks
                thread.join(timeout=0.01)


@contextmanager
def stac_api(items_path: Path) -> Iterator[str]:
    """A STAC API (rustac) over an ItemCollection file; yields its root URL."""
    command = Path(sys.executable).with_name("rustac")
    with tempfile.TemporaryFile("w+") as output:
        for _ in range(3):
            # Another process may take the port between the look and the start; then look again.
            address = f"127.0.0.1:{free_port()}"
            process = subprocess.Popen(
                [str(command), "serve", "--create-collections", "--addr", address, str(items_path)],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            if _answers(f"http://{address}/", process):
                break
            _end(process)
        else:
            output.seek(0)
            raise RuntimeError(f"rustac serve did not start: {output.read()}")
        try:
            yield f"http://{address}"
        finally:
            _end(process)


def json_body(request: Request) -> Any:
    """The JSON that a request brings, for use inside ``interfere``."""
    return json.loads(anyio.from_thread.run(request.body))


def free_port() -> int:
    """A port of loopback that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str, process: subprocess.Popen[Any]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    return False


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stac_item(
    identifier: str,
    *,
    bbox: tuple[float, float, float, float] = (10.0, 50.0, 11.0, 51.0),
    datetime: str = "2024-06-15T10:20:30Z",
    cloud: float | None = 10.0,
    bands: tuple[str, ...] = ("B02", "B03", "B04"),
    href: str = "./{band}.tif",
    collection: str = "sentinel-2-l2a",
    **properties: Any,
) -> dict[str, Any]:
    """A small Sentinel-2-like item; ``properties`` override its own, and None takes one out."""
    west, south, east, north = bbox
    stated = {
        "datetime": datetime,
        "eo:cloud_cover": cloud,
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": "05.10",
        **{name.replace("__", ":"): value for name, value in properties.items()},
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": identifier,
        "collection": collection,
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
        },
        "bbox": list(bbox),
        "properties": {name: value for name, value in stated.items() if value is not None},
        "links": [],
        "assets": {
            band: {"href": href.format(band=band), "type": "image/tiff; application=geotiff"}
            for band in bands
        },
    }


def write_items(path: Path, items: list[dict[str, Any]]) -> Path:
    """An ItemCollection file."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}), encoding="utf-8")
    return path
