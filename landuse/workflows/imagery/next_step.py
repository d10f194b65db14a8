"""How to map what was catalogued: which shipped model reads its bands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from landuse.model import MAP_MODEL, shipped_models
from landuse.model.checkpoint import load_contract, model_path

if TYPE_CHECKING:
    from landuse.workflows.imagery.catalog import CatalogResult


def next_step(result: CatalogResult) -> str:
    """The command that maps a new item, with a model that reads its bands, and how many it reads.

    The default model is preferred; else the one that reads most.
    """
    bands = set(result.bands)
    reads: dict[str, set[str]] = {}
    for name in shipped_models():
        contract = load_contract(model_path(name))
        if bands >= set(contract.required_bands) and result.level in [one.level for one in contract.levels]:
            reads[name] = bands & {*contract.required_bands, *contract.optional_bands}
    if not reads:
        return f"no model that comes with landuse reads {', '.join(result.bands)} alone: see landuse models"
    best = MAP_MODEL if MAP_MODEL in reads else max(reads, key=lambda name: len(reads[name]))
    chosen = "" if best == MAP_MODEL else f" --model {best}"
    return (
        f"landuse map --source {result.catalog}{chosen} --out MAP  ({best} reads "
        f"{', '.join(band for band in result.bands if band in reads[best])})"
    )
