"""How true maps of pixels are: any model, and any map, against the visible references.

``LANDUSE_TEST_DATA=... python -m tests.benchmarks.cover --model PATH.safetensors [--d4] [--today]`` scores a
model that classifies each pixel in the visible bands, with near infrared, and in all bands that a reference
has; ``--today`` adds the shipped patch model at strides 16 and 8. ``--map FOLDER`` scores a finished map on
the references that lie on it. ``--reliability FILE.png`` also draws, a picture a column, how much is right of
what is said with each confidence. ``... cover score MAP REFERENCE [--legend FILE.json]`` scores any map
against any points, polygons or raster; ``... cover terramesh`` shows what is known of TerraMesh's offsets
and legend. One core needs a minute or less for a column of a model of pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import rasterio
import torch

from landuse.errors import LanduseError
from landuse.model import DEFAULT_MODEL
from landuse.model.training.pixels.measure import Reliability
from landuse.workflows.training.drawing import check_png
from landuse.workflows.training.figures import draw_reliability
from tests.benchmarks.cover_maps import Legend, read_map, score_map
from tests.benchmarks.cover_models import Scorer, patch_scorer, pixel_scorer, symmetric
from tests.benchmarks.cover_references import (
    BAND_SETS,
    REFERENCES,
    Findings,
    map_references,
    measure,
    terramesh_evidence,
    water_mask,
)
from tests.benchmarks.cover_scores import iou, pooled

TODAY_STRIDES = (16, 8)

NOTES = """Dynamic World's own network on L2A pixels, from the project's notes (not run here):
  40 polygons of a scene kept apart: .675 plain, .957 with half a path radiance added, .962 with the whole
  59 polygons of another:            .625 plain, .731 half, .904 whole
  two L1C windows:                   .48 and .41
  Leipzig's points:                  not runnable, bands are missing
Today's map, from the same notes:    .62 and .79 of the polygons, .38 and .48 of the windows"""


def dynamic_world(data: Path) -> Findings:
    """What can be worked out of Dynamic World's own maps."""
    findings = Findings()
    with rasterio.open(data / "cover" / "orihuela_dw.tif") as file:
        covers = file.read(1)
    findings.put("orihuela water: IoU of cover", iou(covers == 0, *water_mask(data)))
    return findings


def table(columns: dict[str, Findings]) -> str:
    """Rows of figures, one column for each model."""
    names = list(dict.fromkeys(name for one in columns.values() for name in one.rows))
    width = max(len(name) for name in names)
    lines = [" " * width + "".join(f"{title:>14}" for title in columns)]
    for name in names:
        values = (one.rows.get(name) for one in columns.values())
        cells = "".join(f"{'-' if value is None else f'{value:.3f}':>14}" for value in values)
        lines.append(f"{name:{width}}{cells}")
    return "\n".join(lines)


def reliability(findings: Findings) -> dict[str, Reliability]:
    """How reliable a column's confidence is, on each reference and on all, each of the same weight."""
    judged = findings.calibration | {"each alike": pooled(list(findings.calibration.values()))}
    return {
        name: Reliability.of(*map(torch.from_numpy, (one.confidence, one.right, one.weight)))
        for name, one in judged.items()
    }


def reliability_table(sets: dict[str, Reliability]) -> str:
    """A row for each bin of confidence that has pixels: each set's share in it, and what of that is right."""
    lines = [f"{'confidence':12}" + "".join(f"{name[:24]:>26}" for name in sets)]
    bins = len(next(iter(sets.values())).weight)
    for index in range(bins):
        cells = [
            f"{one.weight[index] / sum(one.weight):8.1%}, right {one.right[index] / one.weight[index]:6.1%}"
            if one.weight[index]
            else "-"
            for one in sets.values()
        ]
        if set(cells) != {"-"}:
            at = f"{index / bins:.2f} to {(index + 1) / bins:.2f}"
            lines.append(f"{at:12}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)


def run(
    scorers: dict[str, tuple[Scorer, str]], data: Path, only: tuple[str, ...] = ()
) -> dict[str, Findings]:
    """Findings by column.

    Args:
        scorers: by column, a model and the name of the band set that it is fed.
        data: the folder of the test data.
        only: names of references; empty: all.
    """
    columns = {}
    for title, (scorer, band_set) in scorers.items():
        began = time.perf_counter()
        columns[title] = measure(data, scorer, band_set, only)
        print(f"{title}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return columns if only and "orihuela" not in only else columns | {"DW": dynamic_world(data)}


def score_folder(folder: Path, data: Path) -> None:
    """Print how a finished map does on each visible reference that lies on it."""
    seen = False
    for title, raster, reference, legend in map_references(data):
        if not (folder / raster).is_file():
            continue
        try:
            a_map = read_map(folder / raster)
            scores = score_map(a_map, reference, legend.of(a_map.names))
        except LanduseError as error:
            print(f"{title}, {raster}: not scored. {error}", file=sys.stderr)
            continue
        seen = True
        print(f"{title}, {raster}\n{scores.table()}\n")
    if not seen:
        raise SystemExit(f"No visible reference lies on a map in {folder}.")


def score_one(words: list[str]) -> None:
    """``score MAP REFERENCE [--legend FILE.json]``."""
    parser = argparse.ArgumentParser(prog="cover score")
    parser.add_argument("map", type=Path, help="a map's folder, or a raster of classes")
    parser.add_argument("reference", type=Path, help="a raster of labels, or points or polygons")
    parser.add_argument("--legend", type=Path, help="JSON that says what is right where")
    parser.add_argument("--raster", default="landuse.tif", help="which raster of a folder: cover.tif, say")
    given = parser.parse_args(words)
    legend = Legend.read(given.legend) if given.legend else Legend()
    a_map = read_map(given.map, legend.names, given.raster)
    print(score_map(a_map, given.reference, legend).table())


def score_models(words: list[str]) -> None:
    """Models on the visible references; or a finished map's folder."""
    parser = argparse.ArgumentParser(prog="cover", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint or name of a model that classifies each pixel")
    parser.add_argument("--today", action="store_true", help=f"also {DEFAULT_MODEL} at strides 16 and 8")
    parser.add_argument("--map", type=Path, help="instead, a folder that `landuse map` wrote")
    parser.add_argument("--bands", nargs="+", choices=BAND_SETS, default=list(BAND_SETS))
    parser.add_argument("--only", nargs="+", choices=REFERENCES, default=[])
    parser.add_argument("--d4", action="store_true", help="average over the eight symmetries")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", help="of a model of pixels: fp32 or bf16")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--reliability", type=Path, metavar="FILE.png", help="also draw and print reliability"
    )
    given = parser.parse_args(words)
    if given.reliability:
        check_png(given.reliability)  # before minutes of scoring
    data = Path(os.environ["LANDUSE_TEST_DATA"])
    if given.map:
        score_folder(given.map, data)
        return
    if not given.model and not given.today:
        parser.error("nothing to score: give --model, --today or --map")
    scorers: dict[str, tuple[Scorer, str]] = {}
    if given.today:
        for stride_px in TODAY_STRIDES:
            scorers[f"stride {stride_px}"] = patch_scorer(DEFAULT_MODEL, stride_px, given.device), "rgb"
    if given.model:
        scorer = pixel_scorer(given.model, given.device, given.precision)
        scorers |= {name: (symmetric(scorer) if given.d4 else scorer, name) for name in given.bands}
    columns = run(scorers, data, tuple(given.only))
    print(f"{table(columns)}\n\n{NOTES}")
    for title, findings in columns.items():
        if given.reliability and findings.calibration:
            sets = reliability(findings)
            path = given.reliability
            draw_reliability(sets, path.with_stem(f"{path.stem}-{title.replace(' ', '-')}"))
            print(f"\n{title}\n{reliability_table(sets)}")
    if given.json:
        given.json.write_text(json.dumps({title: one.rows for title, one in columns.items()}, indent=1))


def main() -> None:
    """Print what was asked for."""
    words = sys.argv[1:]
    try:
        if words[:1] == ["score"]:
            score_one(words[1:])
        elif words == ["terramesh"]:
            print(terramesh_evidence(Path(os.environ["LANDUSE_TEST_DATA"])))
        else:
            score_models(words)
    except LanduseError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
