"""IO: what makes an href readable now. Called just before each request, never in a plan.

Planetary Computer gives out SAS tokens by container that live less than an hour. Its SDK's settings
are honoured (``PC_SDK_SAS_URL``, ``PC_SDK_SUBSCRIPTION_KEY``, its settings file); the token itself is
fetched here, since the SDK's request has no timeout and keeps a token that the storage has revoked.

A token is sent by https alone, but for a service that is itself on this machine (``PC_SDK_SAS_URL`` is plain
http to a loopback address): whoever plays Planetary Computer here plays its storage as well.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from landuse.errors import ProviderError
from landuse.pipeline.remote.retry import (
    BUSY_STATUS,
    ExhaustedError,
    Outages,
    Patience,
    RetryPolicy,
    TransientError,
    retry_after_s,
)

if TYPE_CHECKING:
    import requests

    from landuse.pipeline.providers import Provider

BLOB_DOMAIN = ".blob.core.windows.net"
"""Only what is stored there takes Planetary Computer's tokens; a token is sent nowhere else."""

_BLOB = re.compile(
    rf"(?i:(https?)://([a-z0-9]{{3,24}}){re.escape(BLOB_DOMAIN)})/([a-z0-9$][a-z0-9-]{{2,62}})/[^#]+",
    re.ASCII,
)
"""Scheme, account and container of a blob, by the names that Azure allows.

The host has to follow ``//`` and end before ``/``: parsers of URLs do not agree on which host is meant
where there is a user, a port or a backslash, and the token would go to the one that requests takes.
"""

SPARE_S = 60.0
"""A token with less than this to live is replaced: requests that begin now must end with it."""


MAX_TOKEN_BYTES = 1 << 16
"""No token is longer; what else answers may never end."""


class Signer(Protocol):
    """Turns unsigned hrefs into such that can be opened."""

    def sign(self, href: str) -> str:
        """The href as it can be opened now; raises ``ProviderError`` where no token is to be had."""
        ...

    def renew(self, signed: str, refused_before_s: float | None) -> bool:
        """Forget what ``signed`` was signed with, since it was refused.

        False where another signature cannot help: there is none, or this one was fetched after the last
        was refused, at ``refused_before_s`` on the monotonic clock.
        """
        ...


class NoSigner:
    """For what needs no signature."""

    def sign(self, href: str) -> str:
        """The href itself."""
        return href

    def renew(self, signed: str, refused_before_s: float | None) -> bool:
        """There is nothing to renew."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    value: str = field(repr=False)
    """Query to append. A secret."""
    expires_utc: datetime
    lifetime_s: float
    """From when it was fetched."""
    asked_s: float
    """When it was asked for, on the monotonic clock."""

    @property
    def fresh(self) -> bool:
        left_s = (self.expires_utc - datetime.now(UTC)).total_seconds()
        # A token that never had a minute is used for half of what it has.
        return left_s > min(SPARE_S, self.lifetime_s / 2)


class PlanetaryComputerSigner:
    """SAS tokens, one a container, fetched when needed and again before they end. For any thread."""

    def __init__(self, policy: RetryPolicy, stopped: threading.Event | None = None) -> None:
        self._policy = policy
        self._outages = Outages(policy, stopped=stopped)
        self._tokens: dict[str, _Token] = {}
        self._lock = threading.Lock()

    def sign(self, href: str) -> str:
        """The href with a token that is valid now; itself where it is not in blob storage.

        Raises:
            ProviderError: no token was given out, now or a short time ago.
        """
        container = _container(href)
        if container is None:
            return href
        with self._lock:
            token = self._tokens.get(container)
            if token is None or not token.fresh:
                token = self._tokens[container] = self._token(container)
        return f"{href}{'&' if '?' in href else '?'}{token.value}"

    def renew(self, signed: str, refused_before_s: float | None) -> bool:
        """Forget the token of ``signed``, unless another thread has replaced it or it is not to blame."""
        container = _container(signed)
        if container is None:
            return False
        with self._lock:
            token = self._tokens.get(container)
            if token is not None and signed.endswith(token.value):
                if refused_before_s is not None and token.asked_s > refused_before_s:
                    return False
                del self._tokens[container]
        return True

    def _token(self, container: str) -> _Token:
        """A new token; the lock is held, so that all who want one wait for the same."""
        try:
            patience = self._outages.patience(container)
        except ExhaustedError as error:
            raise _no_token(container, error) from None
        try:
            token = patience.run(lambda: self._fetch(container, patience), f"token of {container}")
        except (_RefusedError, ExhaustedError) as error:
            self._outages.failed(container, str(error))
            raise _no_token(container, error) from None
        self._outages.answered(container)
        return token

    def _fetch(self, container: str, patience: Patience) -> _Token:
        # Imported here: they take a second, and only this provider's reads need them.
        import requests
        from planetary_computer.settings import Settings
        from urllib3.exceptions import HTTPError

        settings = Settings.get()
        key = settings.subscription_key
        headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
        asked_s = time.monotonic()
        try:
            # Wherever a redirection led, the subscription key would go as well.
            answer = requests.get(
                f"{settings.sas_url}/{container}", headers=headers, timeout=self._policy.timeouts_s,
                allow_redirects=False, stream=True,
            )  # fmt: skip
            with closing(answer):
                body = _body(answer, patience) if answer.status_code == 200 else b""
        except (requests.ConnectionError, requests.Timeout, HTTPError) as e:
            raise TransientError(f"the token service failed ({type(e).__name__})") from None
        except (requests.RequestException, ValueError) as e:
            # Without its text: it quotes a header that cannot be sent, which may be the key.
            raise _RefusedError(f"the request is not possible ({type(e).__name__})") from None
        if answer.status_code in BUSY_STATUS:
            asked_pause_s = retry_after_s(answer.headers.get("Retry-After"))
            raise TransientError(f"the token service answered {answer.status_code}", asked_pause_s)
        if answer.status_code != 200:
            raise _RefusedError(f"the answer was {answer.status_code}")
        try:
            stated = json.loads(body)
            expires_utc = datetime.fromisoformat(stated["msft:expiry"])
            value = stated["token"]
            if not isinstance(value, str) or not value or expires_utc.tzinfo is None:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            # Without its cause: what could not be parsed is quoted there, and may be the token.
            raise TransientError("the token service answered with something else than a token") from None
        lifetime_s = (expires_utc - datetime.now(UTC)).total_seconds()
        return _Token(value=value, expires_utc=expires_utc, lifetime_s=lifetime_s, asked_s=asked_s)


class _RefusedError(Exception):
    """Asking again will not help."""


def _no_token(container: str, reason: Exception) -> ProviderError:
    return ProviderError(
        f"Planetary Computer gave no token for {container!r}: {reason}. Try again later, or check "
        "PC_SDK_SAS_URL and PC_SDK_SUBSCRIPTION_KEY."
    )


def _body(answer: requests.Response, patience: Patience) -> bytes:
    """The answer as it arrives, so that a trickle outlasts neither the time nor a stopped run."""
    body = bytearray()
    while piece := answer.raw.read1(MAX_TOKEN_BYTES, decode_content=True):
        body += piece
        if len(body) > MAX_TOKEN_BYTES:
            raise TransientError(f"the token service answered with more than {MAX_TOKEN_BYTES} bytes")
        if patience.over:
            raise TransientError("the token did not come in time")
    return bytes(body)


def _container(href: str) -> str | None:
    """``account/container`` of an href in blob storage that a token may be sent to, else None."""
    match = _BLOB.fullmatch(href)
    if match is None or (match[1].lower() != "https" and not _played_here()):
        return None
    return f"{match[2].lower()}/{match[3]}"


def _played_here() -> bool:
    """Whether the token service is on this machine, and not even by https."""
    try:
        url = urlsplit(os.environ.get("PC_SDK_SAS_URL", ""))
        host = url.hostname or ""
        return url.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def signer_of(provider: Provider, policy: RetryPolicy, stopped: threading.Event | None = None) -> Signer:
    """What signs a provider's hrefs; ``stopped`` ends its patience."""
    if provider.signing == "planetary-computer":
        return PlanetaryComputerSigner(policy, stopped)
    return NoSigner()
