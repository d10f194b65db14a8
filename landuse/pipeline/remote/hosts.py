"""Which hosts are asked: any that is public, and of all others those that the user named.

What comes from the web may hold any address, or redirect to any: of this machine, of its network, of the
service that gives a cloud's machines their keys. Addresses are looked at when a connection is made, after
names are resolved, so that each redirect counts and no name stands for one address now and another later.
Behind a proxy the proxy resolves names, by rules of its own; addresses are looked at all the same.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from landuse.errors import ReadError
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from requests import PreparedRequest, Response

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses of IPv6 that a gateway translates to the address of IPv4 in their last 32 bits (RFC 6052)."""


class Hosts:
    """The hosts that may be asked on behalf of one source."""

    def __init__(self, hrefs: Iterable[str] = (), *, any_host: bool = False) -> None:
        """Public hosts may be asked, and those of ``hrefs``.

        Args:
            hrefs: what the user named, or what a document on this machine names.
            any_host: every other host may be asked too.
        """
        self._any_host = any_host
        self._private: dict[str, bool | None] = {}
        """By named host whether it is a private one; None before that was looked at. A public one stays
        public: whoever owns its name could otherwise lead to an address of this machine later."""
        self.name(hrefs)

    def name(self, hrefs: Iterable[str]) -> None:
        """The hosts of ``hrefs`` may be asked too."""
        for href in hrefs:
            self._private.setdefault(_host(href), None)

    def check(self, host: str, addresses: set[str]) -> None:
        """Refuse a host by the addresses that its name means.

        Raises:
            ReadError: one of them is not public, and the user did not name the host.
        """
        inner = {address for address in addresses if not is_public(address)}
        if self._any_host or not inner:
            if self._private.get(host, True) is None:
                self._private[host] = False
            return
        if self._private.get(host, False) is None:
            self._private[host] = inner == addresses
        if not self._private.get(host):
            raise ReadError(
                f"{printable(host)} is at {min(inner)}, an address of this machine or of a private network, "
                "where nothing from the web may lead unless --allow-private-hosts is given"
            )

    def connect(self, host: str, port: int | None, connect: Callable[[], socket.socket]) -> socket.socket:
        """The connection that ``connect`` makes, if it may be made; nothing has been sent yet.

        Raises:
            ReadError: it may not.
        """
        if self._any_host:
            return connect()
        host = _plain(host)
        try:
            told = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError):  # connecting will say so
            told = set()
        self.check(host, told)
        connection = connect()
        try:
            # The name was resolved once more for this.
            self.check(host, {str(connection.getpeername()[0])})
        except BaseException:
            connection.close()
            raise
        return connection


class HostAdapter(HTTPAdapter):
    """HTTP of requests that connects to ``Hosts`` alone."""

    def __init__(self, hosts: Hosts, **options: Any) -> None:  # noqa: ANN401  # those of requests
        self._hosts = hosts
        super().__init__(**options)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  # those of requests
        """The pool of connections, each of which is checked."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._hosts)

    def send(self, request: PreparedRequest, *arguments: Any, **options: Any) -> Response:  # noqa: ANN401
        """Send one request; behind a proxy only an address that is written out can be looked at."""
        if select_proxy(request.url or "", options.get("proxies")):
            host = _host(request.url or "")
            self._hosts.check(host, _written_out(host))
        return super().send(request, *arguments, **options)


def _pools(hosts: Hosts) -> dict[str, type[HTTPConnectionPool]]:
    class Http(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return hosts.connect(self.host, self.port, super()._new_conn)

    class Https(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return hosts.connect(self.host, self.port, super()._new_conn)

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = Https

    return {"http": HttpPool, "https": HttpsPool}


def is_public(address: str) -> bool:
    """Whether an address is one of the public Internet; of IPv4 inside IPv6 that counts which is inside."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return found.is_global and not found.is_multicast


def _written_out(host: str) -> set[str]:
    """The address that a host itself is, in any of its spellings; none of a name, but of this machine's."""
    if host == "localhost" or host.endswith(".localhost"):
        return {"127.0.0.1"}
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)}
    except (OSError, UnicodeError):
        return set()


def _host(href: str) -> str:
    try:
        return _plain(urlsplit(href).hostname or "")
    except ValueError:
        return ""


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()
