"""Land-use maps from Sentinel-2: from an area and a date to a georeferenced map.

Nothing heavy is imported before a name is used: ``import landuse`` takes a few milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from landuse.errors import (
        IncompleteError,
        LanduseError,
        ModelError,
        NothingFoundError,
        OutputError,
        ProviderError,
        ReadError,
        UsageError,
    )
    from landuse.model.foreign.contract import ForeignModel
    from landuse.pipeline.maps.to_xarray import open_map
    from landuse.workflows.change import ChangeReport
    from landuse.workflows.classify import classify
    from landuse.workflows.compare.compare_map import CompareReport
    from landuse.workflows.learn.from_python import learn
    from landuse.workflows.learn.request import LearnReport
    from landuse.workflows.mapping.from_python import map
    from landuse.workflows.mapping.report import MapReport
    from landuse.workflows.mapping.zones.report import ZonesReport
    from landuse.workflows.of_two_maps import change, compare
else:
    _HOMES = {
        "ChangeReport": "landuse.workflows.change",
        "CompareReport": "landuse.workflows.compare.compare_map",
        "ForeignModel": "landuse.model.foreign.contract",
        "LearnReport": "landuse.workflows.learn.request",
        "MapReport": "landuse.workflows.mapping.report",
        "ZonesReport": "landuse.workflows.mapping.zones.report",
        "change": "landuse.workflows.of_two_maps",
        "classify": "landuse.workflows.classify",
        "compare": "landuse.workflows.of_two_maps",
        "learn": "landuse.workflows.learn.from_python",
        "map": "landuse.workflows.mapping.from_python",
        "open_map": "landuse.pipeline.maps.to_xarray",
        **dict.fromkeys(
            (
                "IncompleteError",
                "LanduseError",
                "ModelError",
                "NothingFoundError",
                "OutputError",
                "ProviderError",
                "ReadError",
                "UsageError",
            ),
            "landuse.errors",
        ),
    }

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module 'landuse' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """The public names, imported or not."""
        return sorted({*globals(), *__all__})


__all__ = [
    "ChangeReport",
    "CompareReport",
    "ForeignModel",
    "IncompleteError",
    "LanduseError",
    "LearnReport",
    "MapReport",
    "ModelError",
    "NothingFoundError",
    "OutputError",
    "ProviderError",
    "ReadError",
    "UsageError",
    "ZonesReport",
    "__version__",
    "change",
    "classify",
    "compare",
    "learn",
    "map",
    "open_map",
]
