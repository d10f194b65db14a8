"""What a run did, for people and machines."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import landuse
from landuse.pipeline.blocks.plan import json_number
from landuse.redact import redact_href

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import ClassArea, Cover
    from landuse.pipeline.remote.files import Traffic
    from landuse.pipeline.scene import ReadFailure, Scene
    from landuse.pipeline.search.find_scenes import SourceOutcome
    from landuse.pipeline.write.vector_layers import VectorOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class MapReport:
    """What a run did; written as ``run.json``."""

    title: str
    """What the map is called."""
    created_utc: datetime
    """When it was made."""
    plan: RunPlan
    """What was mapped."""
    spares_read: bool
    """Whether a read failed, so that spare scenes may have pixels in the map."""
    sources: tuple[SourceOutcome, ...]
    """What became of each source."""
    left_out: tuple[Scene, ...]
    """Scenes that were found and are too cloudy over the area, or show nothing of it."""
    cover: Cover
    """How much of it."""
    classes: tuple[ClassArea, ...]
    """Area of each class that occurs."""
    vectors: VectorOptions
    """How the vector layers were asked for."""
    failures: tuple[ReadFailure, ...]
    """Reads that failed for good, and from where their pixels came instead."""
    files: tuple[str, ...]
    """Names of the files in the output folder."""
    out: Path | str
    """The output folder, or its URL without passwords."""
    patches: int
    """Patches that went through the network, in this run and the one it resumed."""
    traffic: Traffic
    """What this run fetched."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each stage."""

    def to_dict(self) -> dict[str, object]:
        """The report as plain JSON values; hrefs without their query."""
        plan = self.plan
        return {
            "landuse": landuse.__version__,
            "title": self.title,
            "created_utc": self.created_utc.isoformat(timespec="seconds"),
            "plan_sha256": plan.digest,
            "grid": {
                "crs": plan.crs,
                "transform": list(plan.cell_geobox.affine)[:6],
                "shape": [plan.rows, plan.cols],
                "cell_m": plan.cell_m,
                "stride_px": plan.stride_px,
                "pixel_m": plan.pixel_m,
            },
            "model": {
                "name": plan.model,
                "weights_sha256": plan.weights_sha256,
                "bands": list(plan.bands),
                "level": plan.level,
                "patch_px": plan.patch_px,
            },
            "engine": plan.engine,
            "composite": plan.composite,
            "sources": [asdict(source) for source in self.sources],
            "scenes": [
                {**_scene_entry(scene), "used": self.spares_read or not scene.spare} for scene in plan.scenes
            ],
            "left_out": [
                {"id": scene.id, "provider": scene.provider, "area": _area_entry(scene)}
                for scene in self.left_out
            ],
            "cover": asdict(self.cover),
            "classes": [{**asdict(entry), "area_ha": entry.area_ha} for entry in self.classes],
            "vectors": asdict(self.vectors),
            "warnings": list(plan.warnings),
            "failures": [asdict(failure) for failure in self.failures],
            "patches": self.patches,
            "traffic": asdict(self.traffic),
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "files": list(self.files),
            "versions": _versions(),
        }


def _scene_entry(scene: Scene) -> dict[str, object]:
    return {
        "id": scene.id,
        "provider": scene.provider,
        "acquired_utc": scene.acquired_utc.isoformat(),
        "level": scene.level,
        "baseline": scene.baseline,
        "cloud_percent": scene.cloud_percent,
        "area": _area_entry(scene),
        "spare": scene.spare,
        "mirrors": [
            {
                "id": mirror.id,
                "provider": mirror.provider,
                "baseline": mirror.baseline,
                "assets": _asset_entries(mirror),
            }
            for mirror in scene.mirrors
        ],
        "assets": _asset_entries(scene),
    }


def _area_entry(scene: Scene) -> dict[str, float] | None:
    if scene.view is None:
        return None
    return {
        "seen_percent": round(100 * scene.view.seen, 2),
        "clear_percent": round(100 * scene.view.clear, 2),
        "cloud_percent": round(scene.view.cloud_percent, 2),
    }


def _asset_entries(scene: Scene) -> dict[str, dict[str, object]]:
    return {
        asset.band: {
            "href": redact_href(asset.href),
            "scale": asset.scale,
            "offset": asset.offset,
            "nodata": json_number(asset.nodata),
        }
        for asset in scene.assets
    }


def _versions() -> dict[str, str]:
    import numpy as np
    import rasterio
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "rasterio": rasterio.__version__,
        "gdal": rasterio.__gdal_version__,
    }
