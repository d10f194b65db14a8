"""What QGIS loads: it hangs the provider into the Processing toolbox and takes it out again."""

from __future__ import annotations

from qgis.core import QgsApplication

from .provider import LanduseProvider


class LandusePlugin:
    """The plugin, as QGIS knows it."""

    def __init__(self) -> None:
        self.provider: LanduseProvider | None = None

    def initProcessing(self) -> None:
        """Add the provider; ``qgis_process`` calls this alone."""
        self.provider = LanduseProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider to the window's toolbox."""
        self.initProcessing()

    def unload(self) -> None:
        """Take the provider out."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
