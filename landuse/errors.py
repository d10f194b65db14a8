"""Every error that a user can meet. Only ``cli.py`` turns one into an exit code.

A message says what, the values, and the mend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class LanduseError(Exception):
    """Root of the tree: anything landuse refuses or fails to do."""

    exit_code = 1


class UsageError(LanduseError):
    """The request itself is wrong: options, config, or an input that does not fit."""

    exit_code = 2


class ModelError(UsageError):
    """Weights or their contract are missing, corrupt, foreign or do not fit the imagery."""


class NothingFoundError(LanduseError):
    """No scene matches the area, the dates and the filters."""

    exit_code = 3

    def __init__(self, message: str, *, turned: tuple[float, float, float, float] | None = None) -> None:
        super().__init__(message)
        self.turned = turned
        """West, south, east, north of the area with its longitudes and latitudes exchanged, where that is a
        guess at why nothing was found: imagery lies there. Else None."""


class IncompleteError(LanduseError):
    """The map is written, but too much of it is nodata, or some of it could not be read."""

    exit_code = 4

    def __init__(self, message: str, report: Mapping[str, object]) -> None:
        super().__init__(message)
        self.report = report
        """What ``run.json`` holds: an incomplete map is a result all the same."""


class ProviderError(LanduseError):
    """A catalogue or its imagery cannot be reached or read."""

    exit_code = 5


class ReadError(ProviderError):
    """An asset cannot be read."""


class AssetError(ReadError):
    """One asset of a scene cannot be read."""

    def __init__(self, message: str, *, band: str, href: str) -> None:
        super().__init__(message)
        self.band = band
        """The asset's band."""
        self.href = href
        """Its address, without its query."""


class OutputError(LanduseError):
    """The output folder or a file in it cannot be written."""


class BusyError(OutputError):
    """Another run is at work in the folder."""


class ClusterError(LanduseError):
    """The processes or machines that a run is shared between cannot be reached, or gave up."""


class LedgerError(LanduseError):
    """The ledger of nightly runs cannot be reached, read or written."""


class LeaseLostError(LedgerError):
    """A run no longer holds the window that it worked on: it took too long, and another may do it now."""
