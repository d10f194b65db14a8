"""IO: one published file from the web, in as many goes as it takes, its checksum checked.

What has come lies in ``part``, and beside it ``part.json`` with what the server said of the file, so that
the next go, or the next run, asks for the missing bytes alone. Two runs at a time on one ``part`` are not
foreseen.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests

import landuse
from landuse.errors import OutputError, ProviderError
from landuse.pipeline.remote.retry import RetryPolicy, retry_after_s
from landuse.pipeline.search.stac_files import cause
from landuse.pipeline.write.folder import write_whole
from landuse.redact import redact_href

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 4 << 30
"""Twice EuroSAT's larger archive: what a server without an end is listened to."""

MAX_REDIRECTS = 5

_CHUNK_BYTES = 1 << 16

_PROGRESS_BYTES = 1 << 20
"""A connection that breaks after this much is no failure in a row with the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """A file on the web and what its publisher says of it."""

    url: str
    """Where it is."""
    md5: str
    """Its checksum, 32 hexadecimal digits in lower case."""
    size_bytes: int | None = None
    """Its size, where it is published."""


PATIENCE = RetryPolicy(attempts=5, first_pause_s=1.0, longest_pause_s=120.0, connect_timeout_s=15.0)
"""Attempts are failures in a row here, and no pause is longer, whatever the server asks for: what has come is
kept, so a download has no deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How far a download is."""

    stage: str
    """``"downloading"``, ``"checking"`` (both in bytes) or ``"unpacking"`` (in files)."""
    done: int
    """Bytes or files done."""
    total: int | None
    """Bytes or files in all, where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What a server says of a file. Kept beside a partial download, it says what that is a part of."""

    url: str
    """Without query: that of a signed URL differs each time."""
    etag: str | None
    """None where there is none, or a weak one: it does not vouch for bytes."""
    last_modified: str | None
    """The header as it came."""
    size_bytes: int | None
    """Size of the whole file."""

    def differs(self, other: _Described) -> bool:
        """Whether the two are surely not of one file."""
        pairs = (
            (self.etag, other.etag),
            (self.last_modified, other.last_modified),
            (self.size_bytes, other.size_bytes),
        )
        return any(mine is not None and its is not None and mine != its for mine, its in pairs)


class _InterruptedError(Exception):
    """An attempt that may go better the next time."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def fetch(
    file: PublishedFile,
    part: Path,
    on_progress: Callable[[Transfer], None],
    *,
    spare_bytes: int = 0,
    patience: RetryPolicy = PATIENCE,
) -> None:
    """Make ``part`` the file; what is there of it already is not asked for again.

    Args:
        file: what to fetch.
        part: where to; ``part.json`` beside it is ours too.
        on_progress: told of every piece.
        spare_bytes: room on the disk that is needed beyond the file.
        patience: how long to try.

    Raises:
        ProviderError: it cannot be had, or is another file than was published.
        OutputError: the disk is too small.
        OSError: ``part`` cannot be written.
    """
    failures = reached = 0
    with requests.Session() as session:
        # Compressed on the way, a range of bytes would be one of other bytes.
        session.headers.update(
            {"User-Agent": f"landuse/{landuse.__version__}", "Accept-Encoding": "identity"}
        )
        while True:
            try:
                _attempt(session, file, part, on_progress, spare_bytes, patience)
                break
            except _InterruptedError as error:
                have = _size(part)
                failures = 1 if have >= reached + _PROGRESS_BYTES else failures + 1
                reached = max(reached, have)
                if failures >= patience.attempts:
                    raise ProviderError(
                        f"{redact_href(file.url)} failed {failures} times in a row: {error}. {have} bytes "
                        "are kept. Run the same command again later to go on from there, or use a mirror "
                        "(--url)."
                    ) from error
                wait_s = max(patience.first_pause_s * 2 ** (failures - 1), error.retry_after_s)
                wait_s = min(wait_s, patience.longest_pause_s)
                log.warning(
                    "%s: %s; %d bytes are kept, trying again in %.1f s",
                    redact_href(file.url),
                    error,
                    have,
                    wait_s,
                )
                time.sleep(wait_s)
    _check_md5(file, part, on_progress)


def discard(part: Path) -> None:
    """Remove a partial download and its description."""
    part.unlink(missing_ok=True)
    _description(part).unlink(missing_ok=True)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse work that the disk has no room for.

    Raises:
        OutputError: it is too small.
    """
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise OutputError(
            f"{folder} has {free_bytes / 1e6:.0f} MB free; {needed_bytes / 1e6:.0f} MB are needed. "
            "Free space, or choose another --out."
        )


def is_web(url: str) -> bool:
    """Whether a URL is http(s) with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def read_object(path: Path) -> Mapping[str, object]:
    """A JSON object; empty where there is none that can be parsed."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _attempt(
    session: requests.Session,
    file: PublishedFile,
    part: Path,
    on_progress: Callable[[Transfer], None],
    spare_bytes: int,
    patience: RetryPolicy,
) -> None:
    """One go at what is missing of the file."""
    known = _read_description(file, part)
    have = 0 if known is None else _size(part)
    if known is not None and have == (file.size_bytes or known.size_bytes):
        return
    headers = {}
    if known is not None and have:
        headers["Range"] = f"bytes={have}-"
        # Without either, the checksum alone tells whether the pieces belong together.
        validator = known.etag or known.last_modified
        if validator is not None:
            headers["If-Range"] = validator
    try:
        with _open(session, file.url, headers, patience) as response:
            _check_status(response, file, part)
            told = _described(response, file)
            if response.status_code == HTTPStatus.PARTIAL_CONTENT:
                begin = _range_begin(response)
                if known is None or begin != have or told.differs(known):
                    discard(part)
                    raise _InterruptedError(f"it sent bytes from {begin} on of what may be another file")
                told = replace(known, size_bytes=known.size_bytes or told.size_bytes)
            else:
                have = 0
            _check_size(file, told.size_bytes, part, spare_bytes)
            _receive(response, file, part, told, have, on_progress)
    except requests.RequestException as error:
        raise _InterruptedError(cause(error)) from error


def _open(
    session: requests.Session, url: str, headers: Mapping[str, str], patience: RetryPolicy
) -> requests.Response:
    """The answer to a GET, after redirects to http(s) alone.

    ``requests`` would follow them too, but reads the body of each, however long.
    """
    for _ in range(MAX_REDIRECTS + 1):
        if not is_web(url):
            raise ProviderError(
                f"The download is redirected to {redact_href(url)[:200]!r}, which is not http(s). Use a "
                "mirror (--url)."
            )
        try:
            response = session.get(
                url,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=patience.timeouts_s,
            )
            location = session.get_redirect_target(response)
            if location is None:
                return response
            response.close()
            url = urljoin(url, location)
        except requests.exceptions.SSLError as error:
            raise ProviderError(
                f"{redact_href(url)} shows no certificate to trust: {cause(error)}. Check the clock and "
                "REQUESTS_CA_BUNDLE, or use a mirror (--url)."
            ) from error
        except ValueError as error:
            # What requests, urllib3 and urllib say of addresses and headers that are none.
            raise ProviderError(
                f"{redact_href(url)[:200]!r} cannot be asked for ({type(error).__name__}). Check --url and "
                "the proxy settings."
            ) from error
    raise ProviderError(
        f"{redact_href(url)} redirects more than {MAX_REDIRECTS} times. Use a mirror (--url)."
    )


def _check_status(response: requests.Response, file: PublishedFile, part: Path) -> None:
    """Tell an answer with bytes from one that may come later and one that never will."""
    code = response.status_code
    if code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise ProviderError(
                f"{redact_href(file.url)} comes in the encoding {encoding[:40]!r}, though none was asked "
                "for. Use a mirror (--url)."
            )
        return
    if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        discard(part)
        raise _InterruptedError("HTTP 416: it has fewer bytes than are here")
    if code == HTTPStatus.TOO_MANY_REQUESTS or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        asked_s = retry_after_s(response.headers.get("Retry-After")) or 0.0
        raise _InterruptedError(f"HTTP {code}", asked_s)
    raise ProviderError(
        f"{redact_href(file.url)} answered HTTP {code}, not the file. Check the address, or use a mirror "
        "(--url)."
    )


def _described(response: requests.Response, file: PublishedFile) -> _Described:
    """What the headers say of the whole file."""
    etag = response.headers.get("ETag")
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        size = response.headers.get("Content-Length", "")
    return _Described(
        url=redact_href(file.url),
        etag=None if etag is None or etag.startswith("W/") else etag,
        last_modified=response.headers.get("Last-Modified"),
        size_bytes=int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None,
    )


def _range_begin(response: requests.Response) -> int | None:
    """First byte of a 206 answer."""
    match = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    return None if match is None else int(match[1])


def _check_size(file: PublishedFile, size_bytes: int | None, part: Path, spare_bytes: int) -> None:
    """Refuse what cannot be the file, or has no room, before its bytes come."""
    if size_bytes is not None and size_bytes != (file.size_bytes or size_bytes):
        discard(part)
        raise ProviderError(
            f"{redact_href(file.url)} has {size_bytes} bytes; the published file has {file.size_bytes}. "
            "Give the address of the file itself, or its checksum with --md5 if it is meant to be another."
        )
    if size_bytes is not None and size_bytes > MAX_FILE_BYTES:
        raise ProviderError(
            f"{redact_href(file.url)} has {size_bytes} bytes; at most {MAX_FILE_BYTES} are taken. Give the "
            "address of the file that is meant."
        )
    missing_bytes = max(0, (size_bytes or file.size_bytes or 0) - _size(part))
    require_space(part.parent, missing_bytes + spare_bytes)


def _receive(
    response: requests.Response,
    file: PublishedFile,
    part: Path,
    told: _Described,
    have: int,
    on_progress: Callable[[Transfer], None],
) -> None:
    """Write the body to ``part`` from byte ``have`` on."""
    total = told.size_bytes or file.size_bytes
    most = total or MAX_FILE_BYTES
    if not have:
        # Bytes of an older file must never lie under the description of this one.
        discard(part)
        _write_description(part, told)
    with part.open("ab") as target:
        try:
            for chunk in response.iter_content(_CHUNK_BYTES):
                have += len(chunk)
                if have > most:
                    break
                target.write(chunk)
                on_progress(Transfer(stage="downloading", done=have, total=total))
        except requests.RequestException as error:
            raise _InterruptedError(
                f"the connection broke at byte {have} of {total or 'an unknown number'}"
            ) from error
    if have > most:
        discard(part)
        raise ProviderError(f"{redact_href(file.url)} sends more than {most} bytes. Use a mirror (--url).")
    if total is not None and have < total:
        raise _InterruptedError(f"the answer ended at byte {have} of {total}")
    if told.size_bytes is None:
        # The end that was not announced is known now, so that a later run need not ask for it.
        _write_description(part, replace(told, size_bytes=have))


def _check_md5(file: PublishedFile, part: Path, on_progress: Callable[[Transfer], None]) -> None:
    """Refuse a file that is not the one meant; it is gone then.

    MD5 is what is published. It tells a damaged file or another one, not one made by a forger.
    """
    digest = hashlib.md5(usedforsecurity=False)
    total = _size(part)
    done = 0
    with part.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_progress(Transfer(stage="checking", done=done, total=total))
    if digest.hexdigest() != file.md5:
        discard(part)
        raise ProviderError(
            f"{redact_href(file.url)}: MD5 of the {total} bytes that came is {digest.hexdigest()}, not "
            f"{file.md5}; they are deleted. Run again, or use a mirror (--url); if another file is meant, "
            "give its --md5."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _description(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _write_description(part: Path, told: _Described) -> None:
    write_whole(_description(part), json.dumps(asdict(told), indent=2) + "\n")


def _read_description(file: PublishedFile, part: Path) -> _Described | None:
    """What ``part`` is a part of; None, and it is gone, where that is not surely this file."""
    values = read_object(_description(part))
    url, etag, last_modified = (
        value if isinstance(value, str) else None
        for value in (values.get("url"), values.get("etag"), values.get("last_modified"))
    )
    size = values.get("size_bytes")
    size_bytes = size if isinstance(size, int) else None
    if url != redact_href(file.url) or _size(part) > (file.size_bytes or size_bytes or MAX_FILE_BYTES):
        discard(part)
        return None
    return _Described(url=url, etag=etag, last_modified=last_modified, size_bytes=size_bytes)
