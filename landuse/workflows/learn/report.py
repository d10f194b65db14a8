"""The report of what was learned: JSON, a page for people that needs nothing beside it, and likely errors."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely

from landuse.classes import new_colors
from landuse.pipeline.write.folder import write_json, write_whole
from landuse.pipeline.write.geopackage import geopackage_writer
from landuse.redact import printable
from landuse.workflows.learn.labels import PIXEL_M
from landuse.workflows.learn.request import ERRORS_FILE
from landuse.workflows.learn.validate import BLOCK_SIDES_PX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from landuse.workflows.learn.labels import LabelledPixels
    from landuse.workflows.learn.request import CurvePoint, LearnReport
    from landuse.workflows.learn.validate import LikelyErrors, Measure, Scores

METHOD = (
    "Blocks of land are held out in turn; intervals (95 %) are percentiles over draws of blocks with "
    "replacement, and but for gains no narrower than Wilson's, with the number of blocks for that of draws. "
    "Likely errors are those of confident learning (Northcutt, Jiang and Chuang 2021, "
    "https://doi.org/10.1613/jair.1.12125) on answers for land that was held out."
)

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}"
    "i{display:inline-block;width:.9em;height:.9em;margin-right:.4em}img{max-width:100%}"
)


def write_report(page: Path, values: Path, report: LearnReport) -> None:
    """Write a report for people and for programs.

    Raises:
        OutputError: a file cannot be written.
    """
    write_json(values, {**report.to_dict(), "method": METHOD})
    write_whole(page, _page(report))


def write_errors(path: Path, pixels: LabelledPixels, errors: LikelyErrors) -> None:
    """Write the labels that are probably wrong, the likeliest first, as layers of points and of polygons.

    Raises:
        OutputError: the file cannot be written.
    """
    names = np.array(pixels.names, object)
    of_raster = not (pixels.shapes >= 0).all()
    shapes = np.empty(len(errors.items), object)
    if of_raster:
        own = errors.items
        shapes[:] = list(
            shapely.points((pixels.cols[own] + 0.5) * PIXEL_M, -(pixels.rows[own] + 0.5) * PIXEL_M)
        )
        given, rows = pixels.labels[own], np.full(len(own), -1, np.int64)
    else:
        known, first = np.unique(pixels.shapes, return_index=True)
        own = known[errors.items]
        shapes[:] = list(pixels.outlines[own])
        given, rows = pixels.labels[first[errors.items]], pixels.file_rows[own]
    frame = gpd.GeoDataFrame(
        {
            "rank": np.arange(1, len(shapes) + 1),
            "feature": rows,
            "label": names[given],
            "suggested": names[errors.suggested],
            "self_confidence": errors.self_confidence,
            "confidence": errors.confidence,
        },
        geometry=list(shapes),
        crs=pixels.crs,
    )
    kinds = np.array([shape.geom_type for shape in shapes], object)
    with geopackage_writer(path) as put:
        areas = np.isin(kinds, ("Polygon", "MultiPolygon"))
        if areas.any():
            put("polygons", frame[areas])
        if not areas.all() or not len(kinds):
            points = frame[~areas].copy()
            # Of several points in one the first stands for them.
            points["geometry"] = [shapely.get_point(shapely.get_parts(s)[0], 0) or s for s in points.geometry]
            put("points", points)


def _page(report: LearnReport) -> str:
    scores, before = report.scores, report.relabelled
    title = f"{report.name}: {len(report.classes)} classes learned"
    held = (
        f"{report.blocks} blocks of {report.block_m / 1000:g} km"
        if report.block_m is not None
        else f"{report.blocks} places, those of a class {BLOCK_SIDES_PX[-1] * 10} m apart"
    )
    facts = [
        ("labelled pixels", f"{report.samples}" + (f" of {report.shapes} shapes" if report.shapes else "")),
        (
            "left out",
            ", ".join(f"{count} {what}" for what, count in report.left_out.items() if count) or "none",
        ),
        ("dates", str(len(report.days))),
        ("bands", f"{', '.join(report.bands)} of {report.level}"),
        ("held out", f"{held}, in {report.folds} folds"),
        ("trunk", f"{report.trunk}, not changed"),
        ("temperature", f"{report.temperature:.3f}, calibration error {report.calibration_error:.1%}"),
        ("likely errors", f"{report.likely_errors}, in {report.model.stem}{ERRORS_FILE}"),
    ]
    rows = "".join(f"<tr><td>{escape(what)}<td>{escape(printable(told))}" for what, told in facts)
    gains = "".join(
        f"<tr><td>{what}<td>{_share(own)}<td>{_share(other)}<td>{_told(report.gain[key], 100)} points"
        for what, key, own, other in (
            ("overall accuracy", "accuracy", scores.accuracy, before.accuracy),
            ("macro F1", "macro_f1", scores.macro_f1, before.macro_f1),
        )
    )
    warned = "".join(f"<p><strong>{escape(printable(text))}</strong>" for text in report.warnings)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(printable(title))}</title>'
        f"<style>{_STYLE}</style><h1>{escape(printable(title))}</h1>{warned}<table>{rows}</table>"
        "<h2>On land that was held out</h2><table><tr><th><th>learned<th>model as it is, its classes renamed "
        f"by the best legend<th>gain</tr>{gains}</table>{_classes(report)}<h2>Confusion</h2>"
        f"{_confusion(scores, report.classes)}<h2>How much labels teach</h2>"
        f'<img alt="learning curve" src="data:image/png;base64,{_curve(report.curve)}"><p>{escape(METHOD)}'
    )


def _classes(report: LearnReport) -> str:
    colors = new_colors(report.classes)
    head = "<tr><th>class<th>pixels<th>blocks<th>recall<th>precision<th>F1</tr>"
    rows = "".join(
        f'<tr><td><i style="background:#{bytes(colors[i]).hex()}"></i>{escape(printable(entry.name))}'
        f"<td>{entry.samples}<td>{entry.blocks}"
        f"<td>{_share(entry.recall)}<td>{_share(entry.precision)}<td>{_share(entry.f1)}"
        for i, entry in enumerate(report.scores.classes)
    )
    return f"<table>{head}{rows}</table>"


def _confusion(scores: Scores, names: Sequence[str]) -> str:
    told = [escape(printable(name)) for name in names]
    head = "<tr><th>label, told to be" + "".join(f"<th>{name}" for name in told)
    rows = []
    for name, row in zip(told, scores.confusion, strict=True):
        total = max(sum(row), 1)
        cells = "".join(
            f'<td style="background:rgba(0,114,178,{value / total:.2f})">{value}' for value in row
        )
        rows.append(f"<tr><td>{name}{cells}")
    return f"<table>{head}{''.join(rows)}</table>"


def _share(measure: Measure | None) -> str:
    return "none" if measure is None else f"{_told(measure, 100)} %"


def _told(measure: Measure, times: float) -> str:
    value, low, high = (times * number for number in (measure.value, measure.low, measure.high))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _curve(points: Sequence[CurvePoint]) -> str:
    """The learning curve as a PNG in base64."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    samples = [point.samples for point in points]
    axes.plot(samples, [100 * point.macro_f1 for point in points], "o-", color="#0072b2", label="macro F1")
    axes.plot(samples, [100 * point.accuracy for point in points], "s--", color="#d55e00", label="accuracy")
    axes.set_xlabel("labelled pixels learned from")
    axes.set_ylabel("% of what is held out")
    axes.legend(frameon=False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode("ascii")
