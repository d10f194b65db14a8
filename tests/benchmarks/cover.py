"""How true maps of pixels are: any model, and any map, against the visible references.

``LANDUSE_TEST_DATA=... python -m tests.benchmarks.cover --model PATH.safetensors`` scores a model that
classifies each pixel in the visible bands, with near infrared, and in all bands that a reference has.
``--today`` adds the shipped patch model at strides 16 and 8. One core needs about a minute for each column.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import rasterio

from landuse.model import MAP_MODEL
from tests.benchmarks.cover_models import Scorer, patch_scorer, pixel_scorer, symmetric
from tests.benchmarks.cover_references import BAND_SETS, REFERENCES, Findings, measure, water_mask
from tests.benchmarks.cover_scores import iou

TODAY_STRIDES = (16, 8)


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
        print(f"{title}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return columns | {"DW": dynamic_world(data)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint or name of a model that classifies each pixel")
    parser.add_argument("--today", action="store_true", help=f"also {MAP_MODEL} at strides 16 and 8")
    parser.add_argument("--bands", nargs="+", choices=BAND_SETS, default=list(BAND_SETS))
    parser.add_argument("--only", nargs="+", choices=REFERENCES, default=[])
    parser.add_argument("--d4", action="store_true", help="average over the eight symmetries")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    if not given.model and not given.today:
        parser.error("nothing to score: give --model, --today or both")
    scorers: dict[str, tuple[Scorer, str]] = {}
    if given.today:
        scorers |= {f"stride {s}": (patch_scorer(MAP_MODEL, s, given.device), "rgb") for s in TODAY_STRIDES}
    if given.model:
        scorer = pixel_scorer(given.model, given.device, given.precision)
        scorers |= {name: (symmetric(scorer) if given.d4 else scorer, name) for name in given.bands}
    columns = run(scorers, Path(os.environ["LANDUSE_TEST_DATA"]), tuple(given.only))
    print(table(columns))
    if given.json:
        given.json.write_text(json.dumps({title: one.rows for title, one in columns.items()}, indent=1))


if __name__ == "__main__":
    main()
