"""What is made of a map for people who open it: page, preview, and its STAC documents."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

import landuse
from landuse.classes import cover_legend
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

VIEWS = ("preview.png", "index.html")
"""What shows a map to people."""

DOCUMENTS = ("run.json", "model.json", "item.json")
"""What tells of a map."""

VIEW_CELLS = VIEW_PX = 4096
"""Longest side of a view's cells and of its image: a scene of 40 km at 10 m is shown whole."""

STRIP_ROWS = 512
"""Rows of a raster that are read at once to thin it."""


def published_files(*, rasters_only: bool) -> tuple[str, ...]:
    """Names of the files that ``publish`` writes."""
    return DOCUMENTS if rasters_only else VIEWS + DOCUMENTS


def publish(report: MapReport, folder: Path, classifier: Classifier) -> None:
    """Write what is made of a map's rasters and vectors, beside them.

    Args:
        report: of the run; where it has no vector layers, rasters alone were asked for, and neither page nor
            preview is written.
        folder: where the map's files are; ``report.out`` is where they will be.
        classifier: the model.

    Raises:
        OutputError: a file cannot be written.
    """
    from landuse.workflows.model_card import write_stac  # takes torch, which takes seconds to import

    if report.vectors is not None:
        view = map_view(report, folder)
        write_preview(folder / "preview.png", view)
        write_page(folder / "index.html", view)
    write_json(folder / "run.json", report.to_dict())
    # Last, since it holds the checksums of all others.
    facts = MapFacts(
        title=report.title,
        attribution=attribution(report.plan.scenes_used(report.spares_read)),
        created_utc=report.created_utc,
        classes=report.classes,
        covers=report.covers,
        cover=report.cover,
        folder=report.out if isinstance(report.out, Path) else None,
        spares_read=report.spares_read,
    )
    write_stac(
        folder,
        report.plan,
        facts,
        classifier.contract,
        classifier.weights_path,
        getattr(classifier, "foreign", None),  # a model that landuse trained has none
    )


def map_view(report: MapReport, folder: Path) -> MapView:
    """The view of the rasters in a folder.

    Of a large map every few cells are shown, and not its overviews: class, second class, cover and
    probability of a cell belong together.
    """
    plan, used = report.plan, report.plan.scenes_used(report.spares_read)
    thinned = max(math.ceil(max(plan.rows, plan.cols) / VIEW_CELLS), 1)

    def cells(name: str) -> NDArray[np.uint8]:
        return _every_nth(folder / name, thinned)

    second = cells("second.tif") if plan.covers else None
    return MapView(
        title=report.title,
        crs=plan.crs,
        bounds_m=plan.cell_geobox.boundingbox.bbox,
        cell_m=plan.cell_m,
        thinned=thinned,
        classes=cells("landuse.tif")[0],
        confidence=cells("confidence.tif")[0],
        status=cells("status.tif")[0],
        land_cover=cells("cover.tif")[0] if plan.covers else None,
        second=None if second is None else second[0],
        second_share=None if second is None else second[1],
        image=stretch(_small(folder / "image.tif", VIEW_PX)),
        image_bands=picture_bands(plan.bands),
        legend=plan.entries,
        cover_legend=cover_legend(plan.covers),
        areas=report.classes,
        cover_areas=report.covers,
        cover=report.cover,
        scenes=tuple(replace(scene, spare=scene not in used) for scene in plan.scenes),
        composite="dates" if plan.fuse == "dates" else plan.composite,
        smooth_px=plan.smooth_px,
        season="" if report.season is None else report.season.label,
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
        warnings=report.warnings,
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


def _every_nth(path: Path, step: int) -> NDArray[np.uint8]:
    """Every so many rows and columns of a raster (band, row, col), from the first."""
    with rasterio.open(path) as file:
        shape = (file.count, math.ceil(file.height / step), math.ceil(file.width / step))
        kept = np.empty(shape, np.uint8)
        rows = STRIP_ROWS // step * step
        for top in range(0, file.height, rows):
            strip = file.read(window=Window(0, top, file.width, min(rows, file.height - top)))
            thin = strip[:, ::step, ::step]
            kept[:, top // step : top // step + thin.shape[1]] = thin
    return kept


def _small(path: Path, longest: int) -> NDArray[np.uint8]:
    """A raster (band, row, col), averaged so that neither side is longer."""
    with rasterio.open(path) as file:
        factor = max(math.ceil(max(file.shape) / longest), 1)
        shape = (file.count, math.ceil(file.height / factor), math.ceil(file.width / factor))
        values: NDArray[np.uint8] = file.read(out_shape=shape, resampling=Resampling.average)
    return values
