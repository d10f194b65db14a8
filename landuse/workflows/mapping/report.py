"""What a run did, for people and machines."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING

import landuse
from landuse.errors import ReadError, UsageError
from landuse.legends.legend import hexadecimal
from landuse.pipeline.blocks.plan import json_number
from landuse.pipeline.cells import WARN_DOUBTFUL, percent
from landuse.redact import redact_href

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import geopandas as gpd
    import xarray as xr
    from matplotlib.axes import Axes

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import ClassArea, Cover
    from landuse.pipeline.remote.request_pool import Traffic
    from landuse.pipeline.scene import ReadFailure, Scene
    from landuse.pipeline.search.find_scenes import SourceOutcome
    from landuse.pipeline.search.season import Season
    from landuse.pipeline.write.vector_layers import VectorOptions


_DRAWN_CELLS = 2000
"""Cells along a drawn map's longer side, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeasonTold:
    """The months in which imagery was taken."""

    label: str
    """For people."""
    months: tuple[int, ...]
    """Their numbers, in order."""


def season_told(season: Season, latitude: float) -> SeasonTold:
    """A season at a place in degrees north."""
    return SeasonTold(label=season.label(latitude), months=season.months(latitude))


def doubt_told(cover: Cover, model: str, where: str) -> str | None:
    """A sentence without its stop on how much of a map is doubtful; None where little is, or none is known.

    Args:
        cover: of the map.
        model: what made it.
        where: what holds the doubt of each cell.
    """
    if cover.doubtful is None or cover.doubtful <= WARN_DOUBTFUL:
        return None
    return (
        f"{percent(cover.doubtful)} of what is mapped is unlike the imagery that {model} was trained on "
        f"({where}): another climate, cloud, snow, or wrong units. Do not rely on its classes there"
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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
    season: SeasonTold | None = None
    """In which months imagery was taken; None of any."""
    sources: tuple[SourceOutcome, ...]
    """What became of each source."""
    left_out: tuple[Scene, ...]
    """Scenes that were found and are too cloudy over the area, or show nothing of it."""
    cover: Cover
    """How much of it."""
    classes: tuple[ClassArea, ...]
    """Area of each class that occurs."""
    covers: tuple[ClassArea, ...] = ()
    """Area of each land cover that occurs; none of a model that tells none."""
    vectors: VectorOptions | None
    """How the vector layers were asked for; None: rasters alone were."""
    failures: tuple[ReadFailure, ...]
    """Reads that failed for good, and from where their pixels came instead."""
    files: tuple[str, ...]
    """Names of the files in the output folder."""
    out: Path | str
    """The output folder, or its URL without passwords."""
    patches: int
    """Patches that went through the network, in this run and the one it resumed."""
    pixels: int = 0
    """Pixels that did, of a model of pixels; those around each block count as well."""
    traffic: Traffic
    """What this run fetched."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each stage."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before trusting the map, a sentence each."""
        told = doubt_told(self.cover, self.plan.model, "doubt.tif")
        if told is None:
            return self.plan.warnings
        return (*self.plan.warnings, f"{told}; --min-confidence 0.5 leaves such cells unknown.")

    def to_xarray(self) -> xr.Dataset:
        """The map as ``landuse.open_map`` opens it: lazily, from the folder.

        Raises:
            LanduseError: the folder is gone, or cannot be read.

        Example:
            >>> report = landuse.map(source="catalog", out="landuse-map")
            >>> report.to_xarray()["class"].rio.crs
        """
        from landuse.pipeline.maps.to_xarray import open_map

        return open_map(self.out)

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """The map's polygons, in its CRS, a row each: class id and name, confidence, hectares.

        For hectares by class take ``classes``: small polygons have the class of their largest neighbour,
        unless ``min_area_ha`` is 0.

        Raises:
            UsageError: the map was made with ``rasters_only``.
            ReadError: the vector file is gone, or cannot be read.

        Example:
            >>> report.to_geodataframe().dissolve("class_name", aggfunc="sum")["area_ha"]
        """
        import geopandas
        from pyogrio.errors import DataSourceError

        if self.vectors is None:
            raise UsageError(
                f"{self.out} holds rasters alone, as was asked for. Make the map without rasters_only, to "
                "have polygons."
            )
        path = f"{self.out}/landuse.{self.vectors.format}"
        try:
            if self.vectors.format == "parquet":
                return geopandas.read_parquet(path)
            return geopandas.read_file(path, layer="landuse")
        except (OSError, ValueError, DataSourceError) as error:
            raise ReadError(f"{path} cannot be read ({error}). Make the map again.") from error

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the classes in their colours, with a legend of those that occur.

        Args:
            ax: where to; None makes a figure with pyplot. Of a large map every few cells are drawn.

        Raises:
            LanduseError: the folder is gone, or cannot be read.

        Example:
            >>> report.plot().figure.savefig("map.png")
        """
        import numpy as np
        from matplotlib import pyplot
        from matplotlib.patches import Patch

        ax = pyplot.figure(figsize=(8, 6), layout="constrained").add_subplot() if ax is None else ax
        rgba = np.zeros((256, 4), np.uint8)
        entries = self.plan.entries
        for entry in entries:
            rgba[entry.id] = (*entry.color, 255)
        with self.to_xarray() as ds:
            step = max(max(ds["class"].shape) // _DRAWN_CELLS, 1)
            ids = ds["class"][::step, ::step].to_numpy()
            left, bottom, right, top = ds.odc.geobox.boundingbox.bbox
        ax.imshow(rgba[ids], extent=(left, right, bottom, top), interpolation="nearest")
        there = {entry.id for entry in self.classes}
        ax.legend(
            handles=[
                Patch(color=f"#{bytes(e.color).hex()}", label=e.title) for e in entries if e.id in there
            ],
            loc="upper left",
            bbox_to_anchor=(1, 1),
        )
        ax.set_title(self.title.replace("$", r"\$"))
        ax.set_xlabel(f"x in m ({self.plan.crs})")
        ax.set_ylabel("y in m")
        return ax

    def __repr__(self) -> str:
        plan = self.plan
        grid = f"{plan.rows} x {plan.cols} cells of {plan.cell_m:g} m in {plan.crs}"
        return f"<MapReport {self.title!r}: {grid}, in {self.out}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: title, areas and where the files are. Every text is somebody else's."""
        colors = {entry.id: entry for entry in self.plan.entries}
        rows = "".join(
            f'<tr><td style="background:#{bytes(colors[area.id].color).hex()}">&emsp;</td>'
            f"<td>{escape(colors[area.id].title)}</td><td>{area.area_ha:,.1f} ha</td>"
            f"<td>{escape(percent(area.share))}</td></tr>"
            for area in self.classes
        )
        days = sorted({f"{scene.acquired_utc:%Y-%m-%d}" for scene in self.plan.scenes})
        return (
            f"<b>{escape(self.title)}</b><table>{rows}</table>"
            f"<p>{self.plan.rows} x {self.plan.cols} cells of {self.plan.cell_m:g} m in "
            f"{escape(self.plan.crs)}, {escape(percent(self.cover.valid))} classified; "
            f"scenes of {', '.join(days)}; model {escape(self.plan.model)}; "
            f"files in <code>{escape(str(self.out))}</code></p>"
        )

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
                "missing_bands": list(plan.missing_bands),
                "level": plan.level,
                "patch_px": plan.patch_px,
            },
            "engine": plan.engine,
            "precision": plan.precision or None,
            "composite": plan.composite,
            "fuse": plan.fuse,
            "smooth": (
                {
                    "strengths": dict(zip(_of_model(plan), plan.smooth, strict=True)),
                    "window_px": plan.smooth_px,
                }
                if plan.smooth
                else None
            ),
            "season": self.season and asdict(self.season),
            "min_confidence": plan.min_confidence,
            "sources": [asdict(source) for source in self.sources],
            "scenes": [
                {**_scene_entry(scene), "used": self.spares_read or not scene.spare} for scene in plan.scenes
            ],
            "left_out": [
                {"id": scene.id, "provider": scene.provider, "area": _area_entry(scene)}
                for scene in self.left_out
            ],
            "cover": asdict(self.cover),
            "legend": _legend_entry(plan),
            "classes": [{**asdict(entry), "area_ha": entry.area_ha} for entry in self.classes],
            "covers": [{**asdict(entry), "area_ha": entry.area_ha} for entry in self.covers],
            "vectors": self.vectors and asdict(self.vectors),
            "warnings": list(self.warnings),
            "failures": [asdict(failure) for failure in self.failures],
            "patches": self.patches,
            "pixels": self.pixels,
            "traffic": asdict(self.traffic),
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "files": list(self.files),
            "versions": _versions(),
        }


def _of_model(plan: RunPlan) -> tuple[str, ...]:
    """The model's classes, also where a legend merges them."""
    return plan.classes if plan.legend is None else plan.legend.model_classes


def _legend_entry(plan: RunPlan) -> dict[str, object] | None:
    """What the map's classes are sums of; None where they are the model's."""
    if plan.legend is None:
        return None
    return {
        "name": plan.legend.name,
        "source": plan.legend.source,
        "model_classes": list(plan.legend.model_classes),
        "classes": [
            {"name": name, "of": list(parts), "colour": hexadecimal(color)}
            for name, parts, color in zip(plan.classes, plan.legend.of, plan.legend.colors, strict=True)
        ],
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


def _area_entry(scene: Scene) -> dict[str, float | bool] | None:
    if scene.view is None:
        return None
    return {
        "seen_percent": round(100 * scene.view.seen, 2),
        "clear_percent": round(100 * scene.view.clear, 2),
        "cloud_percent": round(scene.view.cloud_percent, 2),
        "estimated": scene.view.estimated,
    }


def _asset_entries(scene: Scene) -> dict[str, dict[str, object]]:
    return {
        asset.band: {
            "href": redact_href(asset.href),
            "scale": asset.scale,
            "offset": asset.offset,
            "nodata": json_number(asset.nodata),
            **({"fingerprint": asset.fingerprint} if asset.fingerprint else {}),
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
