"""IO: remote files as GDAL reads them.

GDAL's own network layer cannot sign a request anew, takes an expired token for a missing file and
may forget what it fetched. Here GDAL reads through rasterio's opener from sparse copies (``sparse_copy``),
which fetch what is not there yet by range (``ranges``).
"""

from __future__ import annotations

import io
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from landuse.errors import LanduseError, ProviderError
from landuse.pipeline.providers import PROVIDERS, S3Access
from landuse.pipeline.remote.ranges import (
    HttpSource,
    RangeSource,
    S3Source,
    http_session,
    s3_client,
)
from landuse.pipeline.remote.request_pool import RequestPool
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.remote.signing import NoSigner, Signer, signer_of
from landuse.pipeline.remote.sparse_copy import RemoteFile, SparseStore
from landuse.pipeline.stac_json import is_remote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from requests import Session

    from landuse.pipeline.providers import Provider
    from landuse.pipeline.remote.hosts import Hosts
    from landuse.pipeline.remote.request_pool import Traffic


class _Handle(io.RawIOBase):
    """What GDAL reads from: a position in a remote file. It never raises, which GDAL's callbacks cannot."""

    def __init__(self, file: RemoteFile, failures: list[LanduseError]) -> None:
        super().__init__()
        self._file = file
        self._at = 0
        self._failures = failures
        """Of all that GDAL has open of the file. After the first nothing is fetched: the read is lost."""

    def read(self, count: int = -1) -> bytes:
        if self._failures:
            return b""
        try:
            found = self._file.read(self._at, self._file.size if count < 0 else count)
        except LanduseError as error:
            self._failures.append(error)
            return b""
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: -1}[whence]
        if base < 0 and not self._failures:
            try:
                base = self._file.size
            except LanduseError as error:
                self._failures.append(error)
        if base >= 0:
            self._at = offset + base
        return self._at

    def tell(self) -> int:
        return self._at


class Opened:
    """A remote file while GDAL has it open."""

    def __init__(self, file: RemoteFile, name: str) -> None:
        self.name = name
        """Path to give to ``rasterio.open``, with ``opener``."""
        self._file = file
        self._failures: list[LanduseError] = []

    def opener(self, path: str, mode: str = "rb") -> _Handle:
        """What rasterio calls to open the file; nothing else is to be found beside it."""
        # rasterio first opens "test" to see whether this works at all.
        if mode not in ("r", "rb") or path not in (self.name, "test"):
            raise FileNotFoundError(path)
        return _Handle(self._file, self._failures)

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Bring half-open byte ranges before GDAL asks for them, side by side."""
        self._file.fetch(ranges)

    def raise_failure(self) -> None:
        """Raise the first error that GDAL was not told of.

        Raises:
            ReadError, ProviderError: the bare reason.
            OutputError: what was fetched cannot be kept.
        """
        if self._failures:
            raise self._failures[0]


class Remote:
    """The remote files of one run, and the manners in which they are asked for. A context manager."""

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        providers: Iterable[Provider] = (),
        threads: int = 32,
        folder: Path | None = None,
        any_host: bool = False,
    ) -> None:
        """Nothing is asked for yet.

        Args:
            policy: patience with each request.
            providers: beside the known ones, to be found by their names.
            threads: requests side by side.
            folder: where the copies lie; the system's temporary folder by default.
            any_host: whether what comes from the web may lead to private hosts that the user did not name.

        Raises:
            OutputError: nothing can be kept there.
        """
        self._policy = policy or RetryPolicy()
        self._providers = {**PROVIDERS, **{provider.name: provider for provider in providers}}
        self._threads = threads
        self._store = SparseStore(folder)
        self._requests = RequestPool(self._policy, threads)
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], RemoteFile] = {}
        self._signers: dict[str, Signer] = {}
        self._clients: dict[S3Access, Any] = {}
        self._any_host = any_host
        self._sessions: dict[str, Session] = {}
        """By provider: which hosts may be asked depends on it."""
        self._names = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.close()
        for session in self._sessions.values():
            session.close()
        for client in self._clients.values():
            client.close()
        self._store.close()

    def stop(self) -> None:
        """End all patience, for good: pauses end, no request begins, bodies are not taken in any further."""
        self._requests.stop()

    @contextmanager
    def readers(self, threads: int) -> Iterator[ThreadPoolExecutor]:
        """Threads to read these files in.

        They are waited for. Where what waits for them is interrupted or fails, their patience ends first;
        not so for a read that is lost, without which the run goes on.
        """
        with ThreadPoolExecutor(threads, thread_name_prefix="landuse-reader") as pool:
            try:
                yield pool
            except ProviderError:
                raise
            except BaseException:
                self.stop()
                raise

    @property
    def traffic(self) -> Traffic:
        """What was fetched so far."""
        return self._requests.traffic

    @contextmanager
    def opened(self, href: str, provider: str) -> Iterator[Opened]:
        """A remote file for GDAL to read while the context lasts.

        Args:
            href: unsigned.
            provider: name of the scene's provider, which decides signatures and credentials.

        Raises:
            ReadError, ProviderError: it cannot be asked for; the message is the bare reason.
        """
        # A name of our own: an href may hold anything, and rasterio knows one opener a name.
        with self._lock:
            suffix = ".jp2" if is_jpeg2000(href) else ".tif"
            name = f"landuse-{os.getpid()}-{id(self)}-{next(self._names)}{suffix}"
            file = self._files.get((provider, href))
            if file is None:
                host = urlsplit(href).netloc.rpartition("@")[2]
                file = RemoteFile(self._source(href, provider), self._requests, host, self._store)
                self._files[provider, href] = file
        yield Opened(file, name)

    def known_lost(self, href: str, provider: str) -> str | None:
        """Why a remote file can never be read in this run, where that was met before; nothing is asked.

        Args:
            href: unsigned.
            provider: name of the scene's provider.
        """
        with self._lock:
            file = self._files.get((provider, href))
        return None if file is None else file.lost

    def _source(self, href: str, provider: str) -> RangeSource:
        known = self._providers.get(provider)
        if urlsplit(href).scheme.lower() == "s3":
            access = known.s3 if known is not None else None
            if access is None:
                # Nobody pays for a stranger's catalogue unless he says so, as he would to GDAL.
                access = S3Access(requester_pays=os.environ.get("AWS_REQUEST_PAYER") == "requester")
            if access not in self._clients:
                self._clients[access] = s3_client(access, self._policy, self._threads)
            return S3Source(href, self._clients[access], access)
        if known is not None and provider not in self._signers:
            self._signers[provider] = signer_of(known, self._policy, self._requests.stopped)
        signer = self._signers.get(provider, NoSigner())
        if provider not in self._sessions:
            self._sessions[provider] = http_session(self._threads, self._hosts_of(provider))
        return HttpSource(href, self._sessions[provider], signer, self._policy)

    def _hosts_of(self, provider: str) -> Hosts:
        """What a provider's files may lead to: a source on this machine may name any host."""
        # Imported here: it takes a while, and only what is remote needs it.
        from landuse.pipeline.remote.hosts import Hosts

        known = self._providers.get(provider)
        named = provider if known is None else known.endpoint
        return Hosts([named], any_host=self._any_host or not is_remote(named))


def is_jpeg2000(href: str) -> bool:
    """Whether an href names a JPEG 2000 file; any other is taken for a GeoTIFF."""
    path = urlsplit(href).path if "://" in href else href
    return path.lower().endswith((".jp2", ".j2k"))
