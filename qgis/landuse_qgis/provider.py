"""The provider: five algorithms, and the setting that says where ``landuse`` is."""

from __future__ import annotations

from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS
from .command import SETTING


class LanduseProvider(QgsProcessingProvider):
    """``landuse`` in the Processing toolbox."""

    def load(self) -> bool:
        """Add the setting; True where that went well."""
        ProcessingConfig.settingIcons["landuse"] = self.icon()
        ProcessingConfig.addSetting(
            Setting("landuse", SETTING, "Path of the program landuse; empty: the one on the PATH", "")
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Take the setting out."""
        ProcessingConfig.removeSetting(SETTING)

    def loadAlgorithms(self) -> None:
        """Make the algorithms."""
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())

    def id(self) -> str:
        """What begins the names of the algorithms: ``landuse:map``."""
        return "landuse"

    def name(self) -> str:
        """For people."""
        return "landuse"

    def icon(self) -> QIcon:
        """In the toolbox."""
        return QIcon(str(Path(__file__).with_name("icon.svg")))
