"""What is made of a map for people who open it: page, preview, and its STAC documents."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.enums import Resampling

import landuse
from landuse.classes import legend
from landuse.pipeline.pages.content import MapView
from landuse.pipeline.pages.page import write_page
from landuse.pipeline.pages.preview import write_preview
from landuse.pipeline.read.rgb_image import picture_bands, stretch
from landuse.pipeline.write.folder import write_json
from landuse.pipeline.write.stac_item import MapFacts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from numpy.typing import NDArray

    from landuse.pipeline.scene import Scene
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.report import MapReport

PUBLISHED = ("preview.png", "index.html", "run.json", "model.json", "item.json")
"""What is made of a map's rasters and vectors."""

VIEW_CELLS = 2048
"""Longest side of a view's cells: what a browser draws at once without thinking."""

VIEW_PX = 3072
"""Longest side of a view's image."""


def publish(report: MapReport, folder: Path, classifier: Classifier) -> None:
    """Write what is made of a map's rasters and vectors, beside them.

    Args:
        report: of the run.
        folder: where the map's files are; ``report.out`` is where they will be.
        classifier: the model.

    Raises:
        OutputError: a file cannot be written.
    """
    from landuse.workflows.model_card import write_stac  # takes torch, which takes seconds to import

    view = map_view(report, folder)
    write_preview(folder / "preview.png", view)
    write_page(folder / "index.html", view)
    write_json(folder / "run.json", report.to_dict())
    # Last, since it holds the checksums of all others.
    facts = MapFacts(
        title=report.title,
        attribution=view.attribution,
        created_utc=report.created_utc,
        classes=report.classes,
        covers=report.covers,
        cover=report.cover,
        folder=report.out if isinstance(report.out, Path) else None,
        spares_read=report.spares_read,
    )
    write_stac(folder, report.plan, facts, classifier.contract, classifier.weights_path)


def map_view(report: MapReport, folder: Path) -> MapView:
    """The view of the rasters in a folder; of a large map, of their overviews."""
    plan, used = report.plan, report.plan.scenes_used(report.spares_read)
    return MapView(
        title=report.title,
        crs=plan.crs,
        bounds_m=plan.cell_geobox.boundingbox.bbox,
        cell_m=plan.cell_m,
        classes=_small(folder / "landuse.tif", VIEW_CELLS, Resampling.nearest)[0],
        confidence=_small(folder / "confidence.tif", VIEW_CELLS, Resampling.nearest)[0],
        status=_small(folder / "status.tif", VIEW_CELLS, Resampling.nearest)[0],
        image=stretch(_small(folder / "image.tif", VIEW_PX, Resampling.average)),
        image_bands=picture_bands(plan.bands),
        legend=legend(plan.classes),
        areas=report.classes,
        cover=report.cover,
        scenes=tuple(replace(scene, spare=scene not in used) for scene in plan.scenes),
        composite=plan.composite,
        model=plan.model,
        weights_sha256=plan.weights_sha256,
        version=landuse.__version__,
        created_utc=report.created_utc,
        files=report.files,
        attribution=attribution(used),
        citation=(
            f"{report.title}. Land-use map in cells of {plan.cell_m:g} m, made on "
            f"{report.created_utc:%Y-%m-%d} with landuse {landuse.__version__} (network {plan.model}, "
            f"weights {plan.weights_sha256[:12]}) from Copernicus Sentinel-2 {plan.level} data of "
            f"{span(used)}."
        ),
    )


def default_title(scenes: Iterable[Scene]) -> str:
    """What a map is called whose user did not say."""
    return f"Land use, {span(scenes)}"


def span(scenes: Iterable[Scene]) -> str:
    """The day of the scenes, or the first and the last."""
    days = _days(scenes)
    return f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"


def attribution(scenes: Iterable[Scene]) -> str:
    """Whose data it is, in the words that Copernicus asks for."""
    years = sorted({day.year for day in _days(scenes)})
    told = f"{years[0]}" if len(years) == 1 else f"{years[0]}-{years[-1]}"
    return f"Contains modified Copernicus Sentinel data {told}"


def _days(scenes: Iterable[Scene]) -> list[date]:
    return sorted({scene.acquired_utc.date() for scene in scenes})


def _small(path: Path, longest: int, resampling: Resampling) -> NDArray[np.uint8]:
    """A raster (band, row, col), thinned so that neither side is longer."""
    with rasterio.open(path) as file:
        factor = max(math.ceil(max(file.shape) / longest), 1)
        shape = (file.count, math.ceil(file.height / factor), math.ceil(file.width / factor))
        values: NDArray[np.uint8] = file.read(out_shape=shape, resampling=resampling)
    return values
