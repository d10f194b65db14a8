"""What a user's ``--source`` means: a known provider, a STAC API by its URL, or a path."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from landuse.errors import UsageError
from landuse.pipeline.providers import PROVIDERS, Provider
from landuse.pipeline.search.stac_files import FoundItem, exists, local_document
from landuse.pipeline.stac_json import MALFORMED_HOST, Json, is_remote, mapping, sequence, text
from landuse.redact import printable, redact_href

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pystac import Item


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldItems:
    """STAC items that are held already, as a source."""

    name: str
    """What messages and reports call them."""
    items: tuple[FoundItem, ...]
    """Each with where it came from; what that is on the web may lead to the web alone."""
    doubts_told: bool = False
    """Whether the pixels were held against what is stated of them, and doubts were told."""


Source: TypeAlias = str | Provider | HeldItems
"""A provider, its name, a URL, a path, or items."""

_COLLECTION_URL = re.compile(r"(https?://[^?#]+)/collections/([^/?#]+)/?", re.IGNORECASE)


def held_items(items: Iterable[Item]) -> HeldItems:
    """Items of pystac as a source; hrefs that are relative to an item's own address become absolute."""
    found = []
    for item in items:
        values, address = item.to_dict(transform_hrefs=False), item.get_self_href()
        for key, asset in item.assets.items():
            values["assets"][key]["href"] = asset.get_absolute_href() or asset.href
        found.append(FoundItem(item=values, location=address or "items", item_href=address))
    return HeldItems(name="items", items=tuple(found))


def find_provider(source: str | Provider) -> tuple[Provider, str]:
    """The provider that ``source`` means, and the URL or absolute path to start at.

    The URL of a known endpoint means the first provider there; with ``/collections/ID``, the one that
    serves this collection. Any other URL or path is a source that is described by its items alone.

    Raises:
        UsageError: It is neither a provider's name, a URL, nor a path that exists.
    """
    if isinstance(source, Provider):
        return source, source.endpoint
    if source in PROVIDERS:
        return PROVIDERS[source], PROVIDERS[source].endpoint
    if "://" in source:
        _check_url(source)
        return _provider_at(source)
    if not exists(source):
        raise UsageError(
            f"--source {source[:200]!r} is neither a provider ({', '.join(PROVIDERS)}), a URL, nor a file "
            "here."
        )
    return Provider(name=printable(source), endpoint=""), str(local_document(Path(source)))


def _check_url(source: str) -> None:
    """UsageError where it is no address on the web; of a malformed one nothing is told."""
    try:
        parts = urlsplit(source)
        # A port that is no number (ValueError) is a password that a "/", "?" or "#" cuts in two.
        sound = bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(
            f"--source is no URL: {MALFORMED_HOST}. In a password write / ? # , as %2F %3F %23 %2C."
        )
    if not is_remote(source):
        raise UsageError(f"--source {redact_href(source)!r} is not http(s). Download it and give its path.")


def _provider_at(url: str) -> tuple[Provider, str]:
    root, collection = split_collection(url)
    known = [provider for provider in PROVIDERS.values() if provider.endpoint == root.rstrip("/")]
    if not known:
        return Provider(name=redact_href(url), endpoint=url), url
    if collection is None:
        return known[0], known[0].endpoint
    for provider in known:
        if collection in _served(provider):
            return provider, provider.endpoint
    # Another collection of a known service: its name stays, by which hrefs are signed.
    return replace(known[0], endpoint=url, collections=(), asset_keys=(), s3=None), url


def split_collection(url: str) -> tuple[str, str | None]:
    """A URL that ends in ``/collections/ID`` as the API's root and the id; any other with None."""
    match = _COLLECTION_URL.fullmatch(url)
    return (url, None) if match is None else (match[1], match[2])


def described_by(item: Json, provider: Provider) -> Provider:
    """The known provider that a saved item came from, so that it is read and signed as its own."""
    if provider.name in PROVIDERS:
        return provider
    links = [text(mapping(link).get("href")) for link in sequence(item.get("links"))]
    for known in PROVIDERS.values():
        served = text(item.get("collection")) in _served(known)
        if served and any(link.startswith(known.endpoint + "/") for link in links):
            return known
    return provider


def _served(provider: Provider) -> tuple[str, ...]:
    return tuple(identifier for _, identifier in provider.collections)


def split_sources(text: str) -> tuple[str, ...]:
    """The sources of ``a,b,c``.

    A comma may also be part of a path, of a URL's query or of a password, and nothing that belongs to
    these may be told as if it were a source of its own. So a comma parts sources only where what comes
    before it is a provider's name or a path that exists, or what comes after it is one of these or a URL.
    """
    if text and exists(text):
        return (text,)
    sources = [""]
    for part in text.split(","):
        if _is_known(sources[-1]) or "://" in part or (part.strip() and _is_known(part)):
            sources.append(part)
        else:
            sources[-1] += f",{part}"
    return tuple(source for source in (source.strip(", ") for source in sources) if source)


def _is_known(source: str) -> bool:
    """Whether it is a provider's name, a path, or nothing."""
    return not source.strip(", ") or source.strip() in PROVIDERS or exists(source.strip())
