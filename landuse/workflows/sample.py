"""From a map to a sample of its cells, to be labelled in QGIS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from landuse.errors import UsageError
from landuse.model import classes as class_table
from landuse.pipeline.maps.estimators import CITATION
from landuse.pipeline.maps.open import open_map, strips
from landuse.pipeline.maps.points import MAP_COLUMN, REFERENCE, SAMPLES, texts
from landuse.pipeline.maps.sampling import SampleDesign, allocate, draw, locate, shuffle
from landuse.pipeline.write.folder import prepare_folder
from landuse.pipeline.write.geopackage import geopackage_writer
from landuse.pipeline.write.qgis import label_form, outlined

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReport:
    """What was drawn."""

    out: Path
    """The GeoPackage."""
    classes: tuple[tuple[str, int, int], ...]
    """Name, cells and points of each mapped class."""
    seed: int
    """The same map, design and seed give the same points."""
    map_sha256: str
    """Of the map that it was drawn from."""

    @property
    def points(self) -> int:
        """Points in all."""
        return sum(points for _, _, points in self.classes)

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        rows = [{"class": name, "cells": cells, "points": points} for name, cells, points in self.classes]
        told = {"out": str(self.out), "points": self.points, "classes": rows, "seed": self.seed}
        return told | {MAP_COLUMN: self.map_sha256, "citation": CITATION}


def draw_sample(path: Path, design: SampleDesign, out: Path, *, seed: int, overwrite: bool) -> SampleReport:
    """Draw a stratified random sample of a map's cells and write it for QGIS.

    The file does not tell what the map says of a point: who knows it tends to agree.
    ``assess.assess_map`` looks it up. Points are in random order: the first so many of them are a random
    sample too.

    Args:
        path: a map's folder, or its ``landuse.tif``.
        design: how many points.
        out: the GeoPackage.
        seed: of the draw.
        overwrite: replace what is at ``out``, labels and all.

    Raises:
        UsageError: map or design do not suit, or ``out`` is there already.
        OutputError: it cannot be written.
    """
    if out.suffix.lower() != ".gpkg":
        raise UsageError(f"--out {out} is no GeoPackage. Give a name that ends in .gpkg.")
    if out.exists() and not overwrite:
        raise UsageError(
            f"{out} exists{_labels_in(out)}. Choose another --out, or replace it by --overwrite."
        )
    if seed < 0:
        raise UsageError(f"--seed {seed} is negative. Give 0 or more.")
    source = open_map(path)
    points = allocate(source.cells, design)
    cells = shuffle(locate(strips(source.path), draw(source.cells, points, seed)), seed)  # (point, 2)
    prepare_folder(out.parent)
    legend = class_table.legend(source.names)
    fixed, hidden = ("sample_id", "row", "col"), ("fid", MAP_COLUMN)
    styles = (
        label_form(SAMPLES, column=REFERENCE, note="note", fixed=fixed, hidden=hidden, legend=legend),
        outlined("cells", "what a point's label is about"),
    )
    ids = np.arange(1, len(cells) + 1)
    text = pd.array([None] * len(cells), dtype="string")
    columns = {"sample_id": ids, "row": cells[:, 0], "col": cells[:, 1], REFERENCE: text, "note": text}
    with geopackage_writer(out, styles) as put:
        at = source.coordinates(cells + 0.5)
        put(
            SAMPLES,
            gpd.GeoDataFrame(
                columns | {MAP_COLUMN: source.sha256}, geometry=shapely.points(at), crs=source.crs.to_wkt()
            ),
        )
        corners = np.array([(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)])
        rings = source.coordinates(cells[:, None] + corners)  # (point, corner, 2)
        squares = shapely.polygons(rings)
        put("cells", gpd.GeoDataFrame({"sample_id": ids}, geometry=squares, crs=source.crs.to_wkt()))
    drawn = zip(source.names, source.cells.tolist(), points.tolist(), strict=True)
    return SampleReport(
        out=out,
        classes=tuple(row for row in drawn if row[1]),
        seed=seed,
        map_sha256=source.sha256,
    )


def _labels_in(out: Path) -> str:
    """What a sample that is to be replaced holds, in words."""
    try:
        frame = pyogrio.read_dataframe(out, layer=SAMPLES, columns=[REFERENCE], read_geometry=False)
        count = sum(label != "" for label in texts(frame[REFERENCE]))
    except (DataSourceError, DataLayerError, KeyError):
        return ""
    return f" and holds {count} labels" if count else ""
