"""What text may not carry out of the program: secrets in URLs, and characters that steer a terminal."""

from __future__ import annotations

import re
import traceback
from urllib.parse import urlsplit, urlunsplit

_URL = re.compile(
    r"([a-z][a-z0-9+.-]*://)(?:[^\s/?#'\"<>]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?", re.IGNORECASE
)
_IS_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def redact(message: str) -> str:
    """The text with every URL in it cut to scheme, host and path: no tokens, no passwords."""
    return _URL.sub(r"\1\2", message)


def redact_href(href: str) -> str:
    """One whole href, cut to scheme, host and path where it is a URL; a local path stays as it is.

    Unlike ``redact`` it need not find where the URL ends, so blanks and quotes in it hide nothing.
    """
    if not _IS_URL.match(href):
        return href
    try:
        parts = urlsplit(href)
    except ValueError:
        # A malformed host: nothing in it can be told from a password.
        return href.partition("://")[0] + "://..."
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def redacted_traceback(error: BaseException) -> str:
    """How an error that nobody foresaw came about, with its causes, for a log."""
    return redact("".join(traceback.format_exception(error)))


def printable(text: str) -> str:
    """The text without anything that could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
