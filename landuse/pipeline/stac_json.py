"""Values out of JSON that somebody else wrote: each is checked for its type before it is believed."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import url2pathname

from landuse.errors import ProviderError
from landuse.redact import redact, redact_href

Json: TypeAlias = Mapping[str, object]
"""A JSON object that has been parsed and not yet believed."""


def mapping(value: object) -> Json:
    """``value`` where it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[object]:
    """``value`` where it is a JSON array, else an empty one."""
    return value if isinstance(value, (list, tuple)) else ()


def number(value: object) -> float | None:
    """``value`` where it is a finite JSON number, else None."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's integers have no end
        return None
    return found if math.isfinite(found) else None


def numbers(value: object, count: int) -> tuple[float, ...]:
    """Exactly ``count`` finite numbers; ValueError otherwise."""
    values = [number(entry) for entry in sequence(value)]
    found = tuple(entry for entry in values if entry is not None)
    if not len(found) == len(values) == count:
        raise ValueError(f"{count} finite numbers expected")
    return found


def text(value: object) -> str:
    """``value`` where it is a JSON string, else an empty one."""
    return value if isinstance(value, str) else ""


def moment_utc(value: object) -> datetime | None:
    """``value`` where it is an ISO 8601 time, in UTC; a time without offset is UTC. Else None."""
    try:
        moment = datetime.fromisoformat(text(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


MAP_LEVEL = "L4"
"""Processing level of what is derived from measurements, such as a map (STAC processing v1.2.0)."""

PLAN_DIGEST = "landuse:plan_sha256"
"""Property in which a map's item names the plan of its run."""


def is_land_use_map(item: Json) -> bool:
    """Whether the item is a map that landuse made: what can be mapped are the scenes it names, not itself."""
    properties = mapping(item.get("properties"))
    return properties.get("processing:level") == MAP_LEVEL and PLAN_DIGEST in properties


def is_model(item: Json) -> bool:
    """Whether the item describes a machine learning model (MLM), not imagery."""
    return "mlm:name" in mapping(item.get("properties"))


_ENDS_A_URL = re.compile(r"[\s'\"<>]")
"""Characters that URLs in running text are taken to end at; ``redact`` could not see past them."""

MALFORMED_HOST = "its host is malformed"
"""All that is told of a URL that cannot be taken apart: Python's own words quote its user and password."""


class _RefusedError(ValueError):
    """Why an href is not followed, in words that tell nothing of it."""


def is_remote(location: str) -> bool:
    """Whether a document comes from the web; one with a malformed host comes from nowhere."""
    try:
        return urlsplit(location).scheme.lower() in ("http", "https")
    except ValueError:
        return False


def web_address(href: str, location: str, what: str) -> str:
    """The URL that the document at the URL ``location`` means by ``href``.

    Args:
        href: as the document has it; relative or absolute.
        location: URL of the document.
        what: what is said to be there, for the message.

    Raises:
        ProviderError: it leads off the web, or its host is malformed.
    """
    try:
        url = urljoin(location, href)
    except ValueError:
        url = ""
    if is_remote(url):
        return url
    raise ProviderError(
        f"{redact_href(location)} has its {what} at {_shown(href, location)!r}, which is not on the web; "
        "that is refused."
    )


def _shown(href: str, location: str) -> str:
    """As much of an href as may be told."""
    if is_remote(location):
        # From the web a relative href is a URL too, and its query as secret.
        href = re.split(r"[?#]", href, maxsplit=1)[0]
        href = f"https:{href}" if href.startswith("//") else href
    return redact(redact_href(href))[:200]


def resolve_href(href: str, location: str) -> str:
    """An href as the document at ``location`` means it: an absolute URL or an absolute local path.

    Blanks, quotes and ``<>`` in a URL come back percent-encoded, so that the URL is whole in any text.

    Raises:
        ProviderError: The href must not be followed from there.
    """
    refusal = f"{_shown(href, location)!r} in {redact_href(location)!r} is refused: "
    # GDAL reads "/vsicurl/...", "/vsizip/..." and the like as commands, wherever they come from.
    if not href or not href.isprintable() or href.lower().startswith("/vsi"):
        raise ProviderError(refusal + "it is no plain address. Use http(s), s3 or a path.")
    try:
        parts = urlsplit(href)
        scheme = parts.scheme.lower()
        if scheme in ("http", "https", "s3"):
            return _plain_url(href)
        if is_remote(location):
            if scheme:
                raise _RefusedError("metadata from the web may refer to http(s) and s3 alone")
            return _plain_url(urljoin(location, href))
        # One letter is a drive, not a scheme.
        if len(scheme) > 1 and not (scheme == "file" and parts.netloc in ("", "localhost")):
            raise _RefusedError("only http(s), s3, file and plain paths are read")
    except _RefusedError as error:
        raise ProviderError(f"{refusal}{error}.") from None
    except ValueError:
        raise ProviderError(f"{refusal}{MALFORMED_HOST}.") from None
    path = Path(url2pathname(parts.path)) if scheme == "file" else Path(href)
    absolute = os.path.abspath(Path(location).parent / path)  # noqa: PTH100 - resolve() would follow links
    if absolute.lower().startswith("/vsi"):
        raise ProviderError(refusal + "it is no plain address. Use http(s), s3 or a path.")
    return absolute


def _plain_url(url: str) -> str:
    """The URL with a host and without characters that would end it within a text; ValueError otherwise."""
    parts = urlsplit(url)
    if not parts.hostname or _ENDS_A_URL.search(parts.hostname):
        raise _RefusedError("it names no host")
    if not _ENDS_A_URL.search(url):
        return url
    if parts.scheme.lower() == "s3":
        # A key of S3 is literal: encoded, it would be another object's.
        if re.search(r"[?#@]", url):
            raise _RefusedError("an s3 address with blanks or quotes may have neither query nor password")
        return url
    return _ENDS_A_URL.sub(lambda found: quote(found[0]), url)
