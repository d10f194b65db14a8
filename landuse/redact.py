"""What text may not carry out of the program: secrets in URLs, and characters that steer a terminal."""

from __future__ import annotations

import re

_URL = re.compile(
    r"([a-z][a-z0-9+.-]*://)(?:[^\s/?#'\"<>@]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?", re.IGNORECASE
)


def redact(message: str) -> str:
    """The text with every URL in it cut to scheme, host and path: no tokens, no passwords."""
    return _URL.sub(r"\1\2", message)


def printable(text: str) -> str:
    """The text without anything that could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
