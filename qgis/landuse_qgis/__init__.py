"""A plugin of QGIS: the commands of ``landuse`` in the Processing toolbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plugin import LandusePlugin


def classFactory(iface: object) -> LandusePlugin:  # QGIS calls it by this name
    """What QGIS calls to load the plugin."""
    from .plugin import LandusePlugin  # QGIS has its own modules at hand only now

    return LandusePlugin()
