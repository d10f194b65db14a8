"""Pure: STAC items of our own making, told from those of imagery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from landuse.pipeline.fields import mapping

if TYPE_CHECKING:
    from landuse.pipeline.fields import Json

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
