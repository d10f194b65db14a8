"""What an href may mean: items from the web may point to the web only, never at this machine's files.

No href may name one of GDAL's virtual file systems.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import url2pathname

from landuse.errors import ProviderError
from landuse.redact import redact, redact_href

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
