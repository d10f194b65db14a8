"""IO: HTTP as searches need it. The one place where a search tries again, with one deadline for all of it."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from pystac_client.stac_api_io import StacApiIO
from urllib3.exceptions import MaxRetryError, NewConnectionError

from landuse.errors import ProviderError, ReadError
from landuse.pipeline.remote.hosts import HostAdapter, Hosts
from landuse.pipeline.remote.retry import (
    BUSY_STATUS,
    ExhaustedError,
    Patience,
    RetryPolicy,
    TransientError,
    retry_after_s,
)
from landuse.pipeline.stac_json import is_remote, mapping, sequence, text, web_address
from landuse.redact import redact_href

if TYPE_CHECKING:
    from collections.abc import Iterator

UNREACHED_ATTEMPTS = 3
"""Attempts to connect to a host that refuses or has no name: it is seldom back within seconds."""

MAX_DOCUMENT_BYTES = 256 * 1024**2
"""A longer answer is none: a page of a hundred items is two or three megabytes."""

CHUNK_BYTES = 64 * 1024

TOOK_TOO_LONG = "exceeded the maximum allowed time"
"""What Planetary Computer says of a search that a second attempt often finishes; its status is 400 or 504."""

_BROKEN_OFF = (
    requests.ConnectionError,
    requests.Timeout,
    # Read from urllib3 itself, a body breaks off with urllib3's errors.
    urllib3.exceptions.HTTPError,
)


class StacHttp(StacApiIO):
    """GET and POST of JSON, with the retries that STAC servers need. It signs nothing.

    Messages name the address without its query, and the status: never what an answer's body says,
    which may quote a token.
    """

    def __init__(self, policy: RetryPolicy | None = None, hosts: Hosts | None = None) -> None:
        """The clock of the policy's deadline starts.

        Args:
            policy: patience.
            hosts: which may be asked; by default public ones.
        """
        # Without retries of urllib3's: two patient layers would multiply.
        super().__init__(max_retries=None)
        self.hosts = hosts or Hosts()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HostAdapter(self.hosts))
        self._policy = policy or RetryPolicy()
        self._patience = Patience(self._policy)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The body of an answer that is whole.

        Args:
            href: http(s) URL.
            method: ``GET`` or ``POST``.
            headers: beside the session's own.
            parameters: sent as the query, or as a JSON body with ``POST``.

        Raises:
            ProviderError: no attempt was answered, or the answer was an error.
        """
        method = (method or "GET").upper()
        posted = method == "POST"
        unreached = 0

        def attempt() -> str:
            nonlocal unreached
            self._check_time()
            connect_s, read_s = (
                max(min(limit, self._patience.left_s), 0.1) for limit in self._policy.timeouts_s
            )
            try:
                answer = self.session.request(
                    method,
                    href,
                    headers=headers,
                    params=None if posted else parameters,
                    json=parameters if posted else None,
                    timeout=(connect_s, read_s),
                    stream=True,
                )
                with closing(answer):
                    return self._body(answer)
            except requests.exceptions.SSLError:
                raise  # a certificate that is refused now is refused again
            except _BROKEN_OFF as error:
                if _never_connected(error):
                    unreached += 1
                    if unreached == UNREACHED_ATTEMPTS:
                        raise ExhaustedError(
                            f"no connection ({_reason(error)}, {unreached} attempts)"
                        ) from None
                raise TransientError(_reason(error)) from None

        try:
            if method not in ("GET", "POST") or not is_remote(href):
                raise requests.exceptions.InvalidURL("it is no address to ask with GET or POST")
            return self._patience.run(attempt, redact_href(href))
        except ExhaustedError as error:
            raise ProviderError(
                f"{redact_href(href)} did not answer: {error}. Check the network and the address, narrow "
                "--date or --bbox, or try again later."
            ) from None
        except ReadError as error:
            raise ProviderError(f"{redact_href(href)} is not followed: {error}.") from None
        except (requests.RequestException, ValueError) as error:
            raise ProviderError(
                f"{redact_href(href)} cannot be asked ({type(error).__name__}). Check the address."
            ) from None

    @property
    def time_is_up(self) -> bool:
        """Whether the deadline is over: whatever is asked for now fails, however good it is."""
        return self._patience.left_s <= 0

    def _check_time(self) -> None:
        if self.time_is_up:
            raise ExhaustedError(f"the time of {self._policy.deadline_s:g} s is used up")

    def _body(self, answer: requests.Response) -> str:
        """The answer's text, taken as it arrives so that a trickle cannot outlast the deadline."""
        shown = redact_href(answer.url)
        content = bytearray()
        while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=True):
            content += chunk
            if len(content) > MAX_DOCUMENT_BYTES:
                raise ProviderError(f"{shown} answers with more than {MAX_DOCUMENT_BYTES} bytes.")
            self._check_time()
        body = content.decode("utf-8", errors="replace")
        status = f"HTTP {answer.status_code}"
        if answer.status_code in BUSY_STATUS:
            raise TransientError(status, retry_after_s(answer.headers.get("Retry-After")))
        if TOOK_TOO_LONG in body and answer.status_code >= 400:
            raise TransientError(f"the search {TOOK_TOO_LONG}")
        if not 200 <= answer.status_code < 300:
            raise ProviderError(f"{shown} did not answer: {status}. Check the address, or try again later.")
        if _is_cut_short(body):
            raise TransientError("the answer broke off")
        return body

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The pages of a search, up to the last or to an empty one; paging that goes in a circle is an error.

        Raises:
            ProviderError: a page cannot be had, is no page, or leads back or off the web.
        """
        method = (method or "GET").upper()
        here, sent = url, parameters or {}
        asked: set[str] = set()
        while True:
            question = json.dumps([method, here, sent], sort_keys=True)
            if question in asked:
                raise ProviderError(
                    f"The pages of {redact_href(url)} go in a circle: page {len(asked) + 1} is one that was "
                    "read before. Try another source, or tell its operator."
                )
            asked.add(question)
            page = self._page(here, method, sent)
            if not page["features"]:
                return
            yield page
            link = next(
                (link for link in map(mapping, sequence(page.get("links"))) if link.get("rel") == "next"),
                None,
            )
            if link is None:
                return
            here = web_address(text(link.get("href")), here, "next page")
            # Headers that a link may ask for are not sent: no provider needs them, and a hostile server
            # could speak through them to services within reach of this machine only.
            method = text(link.get("method")).upper() or "GET"
            body = dict(mapping(link.get("body")))
            merged = {**(parameters or {}), **body} if link.get("merge") is True else body
            sent = merged if method == "POST" else {}

    def _page(self, url: str, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            page = json.loads(self.request(url, method=method, parameters=parameters))
        except (ValueError, RecursionError) as error:
            raise _no_page(url, type(error).__name__) from None
        if not isinstance(page, dict):
            raise _no_page(url, "it is no JSON object")
        features = page.get("features")
        if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
            raise _no_page(url, "it has no list of features")
        return page


def _no_page(url: str, reason: str) -> ProviderError:
    return ProviderError(
        f"{redact_href(url)} did not answer as a STAC API does ({reason}). Check the address."
    )


def _is_cut_short(body: str) -> bool:
    """Whether a JSON document ends too soon, as when a proxy breaks off and hides it."""
    start = body.lstrip()[:1]
    if start not in ("", "{", "["):
        return False
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        # Of an unterminated string the parser tells the beginning.
        return error.msg.startswith("Unterminated") or not body[error.pos :].strip()
    except RecursionError:
        return False
    return False


def _never_connected(error: Exception) -> bool:
    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)


def _reason(error: Exception) -> str:
    """What went wrong, without the address, which urllib3 quotes with its query."""
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else None
    return type(reason or error).__name__
