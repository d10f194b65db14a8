"""IO: what makes an href readable now. Called just before each request, never in a plan.

Planetary Computer gives out SAS tokens by container that live less than an hour. Its SDK's settings
are honoured (``PC_SDK_SAS_URL``, ``PC_SDK_SUBSCRIPTION_KEY``, its settings file); the token itself is
fetched here, since the SDK's request has no timeout and keeps a token that the storage has revoked.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from landuse.errors import ProviderError
from landuse.pipeline.retry import (
    BUSY_STATUS,
    ExhaustedError,
    Patience,
    RetryPolicy,
    TransientError,
    retry_after_s,
)

if TYPE_CHECKING:
    from landuse.pipeline.providers import Provider

BLOB_DOMAIN = ".blob.core.windows.net"
"""Only what is stored there takes Planetary Computer's tokens; a token is sent nowhere else."""

_BLOB = re.compile(
    rf"(?i:https?://([a-z0-9]{{3,24}}){re.escape(BLOB_DOMAIN)})/([a-z0-9$][a-z0-9-]{{2,62}})/[^#]+", re.ASCII
)
"""Account and container of a blob, by the names that Azure allows.

The host has to follow ``//`` and end before ``/``: parsers of URLs do not agree on which host is meant
where there is a user, a port or a backslash, and the token would go to the one that requests takes.
"""

SPARE_S = 60.0
"""A token with less than this to live is replaced: requests that begin now must end with it."""


class Signer(Protocol):
    """Turns unsigned hrefs into such that can be opened."""

    def sign(self, href: str) -> str:
        """The href as it can be opened now; raises ``ProviderError`` where no token is to be had."""
        ...

    def renew(self, signed: str) -> bool:
        """Forget what ``signed`` was signed with, since it was refused; False where nothing was."""
        ...


class NoSigner:
    """For what needs no signature."""

    def sign(self, href: str) -> str:
        """The href itself."""
        return href

    def renew(self, signed: str) -> bool:
        """There is nothing to renew."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    value: str = field(repr=False)
    """Query to append. A secret."""
    expires_utc: datetime
    lifetime_s: float
    """From when it was fetched."""

    @property
    def fresh(self) -> bool:
        left_s = (self.expires_utc - datetime.now(UTC)).total_seconds()
        # A token that never had a minute is used for half of what it has.
        return left_s > min(SPARE_S, self.lifetime_s / 2)


class PlanetaryComputerSigner:
    """SAS tokens, one a container, fetched when needed and again before they end. For any thread."""

    def __init__(self, policy: RetryPolicy, stopped: threading.Event | None = None) -> None:
        self._policy = policy
        self._stopped = stopped
        self._tokens: dict[str, _Token] = {}
        self._refusals: dict[str, tuple[float, str]] = {}
        """By container: when the service last gave no token, on the monotonic clock, and the message."""
        self._lock = threading.Lock()

    def sign(self, href: str) -> str:
        """The href with a token that is valid now; itself where it is not in blob storage.

        Raises:
            ProviderError: no token was given out.
        """
        container = _container(href)
        if container is None:
            return href
        came = time.monotonic()
        with self._lock:
            token = self._tokens.get(container)
            if token is None or not token.fresh:
                refused, message = self._refusals.get(container, (came, ""))
                if refused > came:
                    # It was refused while this thread waited for it: no need to lose the same time again.
                    raise ProviderError(message)
                token = self._tokens[container] = self._fetch(container)
        return f"{href}{'&' if '?' in href else '?'}{token.value}"

    def renew(self, signed: str) -> bool:
        """Forget the token of ``signed``, unless another thread has replaced it already."""
        container = _container(signed)
        if container is None:
            return False
        with self._lock:
            token = self._tokens.get(container)
            if token is not None and signed.endswith(token.value):
                del self._tokens[container]
        return True

    def _fetch(self, container: str) -> _Token:
        # Imported here: they take a second, and only this provider's reads need them.
        import requests
        from planetary_computer.settings import Settings

        settings = Settings.get()
        url = f"{settings.sas_url}/{container}"
        key = settings.subscription_key
        headers = {"Ocp-Apim-Subscription-Key": key} if key else {}

        def attempt() -> _Token:
            try:
                # Wherever a redirection led, the subscription key would go as well.
                answer = requests.get(
                    url, headers=headers, timeout=self._policy.timeouts_s, allow_redirects=False
                )
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as e:
                raise TransientError(f"the token service failed ({type(e).__name__})") from None
            except (requests.RequestException, UnicodeError) as e:
                # Without its text: it quotes a header that cannot be sent, which may be the key.
                raise self._refused(container, f"the request is not possible ({type(e).__name__})") from None
            if answer.status_code in BUSY_STATUS:
                asked_s = retry_after_s(answer.headers.get("Retry-After"))
                raise TransientError(f"the token service answered {answer.status_code}", asked_s)
            if answer.status_code != 200:
                raise self._refused(container, f"the answer was {answer.status_code}")
            try:
                stated = answer.json()
                expires_utc = datetime.fromisoformat(stated["msft:expiry"])
                value = stated["token"]
                if not isinstance(value, str) or not value or expires_utc.tzinfo is None:
                    raise ValueError
            except (ValueError, KeyError, TypeError):
                # Without its cause: what could not be parsed is quoted there, and may be the token.
                raise TransientError("the token service answered with something else than a token") from None
            lifetime_s = (expires_utc - datetime.now(UTC)).total_seconds()
            return _Token(value=value, expires_utc=expires_utc, lifetime_s=lifetime_s)

        try:
            return Patience(self._policy, self._stopped).run(attempt, f"token of {container}")
        except ExhaustedError as error:
            raise self._refused(container, str(error)) from None

    def _refused(self, container: str, reason: str) -> ProviderError:
        message = (
            f"Planetary Computer gave no token for {container!r}: {reason}. Try again later, or check "
            "PC_SDK_SAS_URL and PC_SDK_SUBSCRIPTION_KEY."
        )
        self._refusals[container] = time.monotonic(), message
        return ProviderError(message)


def _container(href: str) -> str | None:
    """``account/container`` of an href in blob storage, else None."""
    match = _BLOB.fullmatch(href)
    return None if match is None else f"{match[1].lower()}/{match[2]}"


def signer_of(provider: Provider, policy: RetryPolicy, stopped: threading.Event | None = None) -> Signer:
    """What signs a provider's hrefs; ``stopped`` ends its patience."""
    if provider.signing == "planetary-computer":
        return PlanetaryComputerSigner(policy, stopped)
    return NoSigner()
