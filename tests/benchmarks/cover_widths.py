"""How wide a river and a motorway are on a map: transects of inn window 2 and of orihuela.

``LANDUSE_TEST_DATA=... python -m tests.benchmarks.cover_widths --model PATH.safetensors`` measures the Inn
where both of its banks are seen, in the image by NDWI and on the map by the classes of water; and the
motorway of orihuela along a centre line that was drawn by eye, good to about a pixel. Widths are in metres.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landuse.classes import LAND_COVER_NAMES
from landuse.model import DEFAULT_MODEL
from tests.benchmarks.cover_models import Scorer, patch_scorer, pixel_scorer, symmetric
from tests.benchmarks.cover_references import BAND_SETS, chosen, classes_of, read_bands
from tests.benchmarks.cover_scores import use_ids

PIXEL_M = 10.0
STEP_PX = 0.1
"""Of the walk along a transect."""
NDWI_WATER = 0.0
"""From here on a pixel is water; between 0.0 and 0.3 lie hardly any pixels of the scene."""

DOWN, OBLIQUE = (1.0, 0.0), (0.864, 0.504)
INN = (
    ((345, 40), DOWN),
    ((350, 75), DOWN),
    ((350, 110), DOWN),
    ((345, 170), DOWN),
    ((315, 300), OBLIQUE),
    ((300, 325), OBLIQUE),
    ((288, 350), OBLIQUE),
    ((266, 400), OBLIQUE),
)
"""A pixel in the main channel, and the direction across it, as rows and columns."""

MOTORWAY = (
    (60, 16), (80, 18.5), (100, 19.5), (120, 23.5), (140, 30), (160, 38), (180, 43.5), (200, 51.7),
    (220, 59.7), (240, 67), (260, 75), (280, 82.6), (300, 90.4), (320, 99.5), (340, 104.7), (360, 112.5),
    (380, 119.8), (400, 127), (420, 134.5), (440, 142.5), (460, 150), (480, 159),
)  # fmt: skip
"""Row and column of its centre line."""
REACH_PX = 3.0
"""The motorway may lie so far beside the line that was drawn."""
SAMPLE_PX = 10.0
"""Distance of the motorway's transects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Widths along transects, in metres."""

    across: tuple[float, ...]
    """Of each transect; 0 where the class is not met."""

    @property
    def found(self) -> float:
        """Share of the transects that meet the class."""
        return float(np.mean([width > 0 for width in self.across]))

    @property
    def told(self) -> str:
        """In words."""
        met = [width for width in self.across if width]
        if not met:
            return "not met anywhere"
        return (
            f"met by {self.found:.0%} of {len(self.across)} transects, median {np.median(met):.0f} m, 90 % "
            f"up to {np.quantile(met, 0.9):.0f} m, at most {max(met):.0f} m"
        )


def run_width(
    mask: NDArray[np.bool_], middle: tuple[float, float], across: tuple[float, float], reach_px: float = 0
) -> float:
    """Length in pixels of the run of a mask along a line.

    Args:
        mask: (H, W).
        middle: row and column, in pixels counted from the centre of the first one.
        across: direction of the line, of length 1.
        reach_px: the run may begin so far beside the middle; the nearest one counts.

    Returns:
        0 where there is none. A run that meets the edge of the mask ends there.
    """
    longest = int(np.hypot(*mask.shape) / STEP_PX)
    steps = np.arange(-longest, longest + 1)
    rows, cols = (np.rint(m + steps * STEP_PX * a).astype(int) for m, a in zip(middle, across, strict=True))
    inside = (rows >= 0) & (rows < mask.shape[0]) & (cols >= 0) & (cols < mask.shape[1])
    hit = np.zeros(len(steps), np.bool_)
    hit[inside] = mask[rows[inside], cols[inside]]
    near = np.flatnonzero(hit & (np.abs(steps) * STEP_PX <= reach_px + STEP_PX / 2))
    if not len(near):
        return 0.0
    start = near[np.argmin(np.abs(steps[near]))]
    gaps = np.flatnonzero(~hit)
    before, after = gaps[gaps < start], gaps[gaps > start]
    first = before[-1] + 1 if len(before) else 0
    last = after[0] if len(after) else len(hit)
    return float((last - first) * STEP_PX)


def along(
    line: Sequence[tuple[float, float]], every_px: float
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Points of a line at equal distances, each with the direction across the line."""
    placed = []
    for (row, col), (row_end, col_end) in pairwise(line):
        length = float(np.hypot(row_end - row, col_end - col))
        down, right = (row_end - row) / length, (col_end - col) / length
        for distance in np.arange(0, length, every_px):
            placed.append(((row + distance * down, col + distance * right), (-right, down)))
    return placed


def widths_of(
    mask: NDArray[np.bool_],
    transects: Sequence[tuple[tuple[float, float], tuple[float, float]]],
    reach_px: float = 0,
) -> Widths:
    """Widths of a mask along transects, in metres."""
    return Widths(
        across=tuple(PIXEL_M * run_width(mask, middle, across, reach_px) for middle, across in transects)
    )


def inn_of_image(data: Path) -> Widths:
    """The Inn's widths by NDWI."""
    dn, _, _ = read_bands(data / "scenes" / "inn_ering_de_at_L2A_window2_RGBN_utm33n.tif")
    green, nir = dn["B03"].astype(float), dn["B08"].astype(float)
    return widths_of((green - nir) / (green + nir) > NDWI_WATER, INN)


def measured(data: Path, scorer: Scorer, band_set: str) -> list[str]:
    """Lines of a report on one model with one band set."""
    dn, _, _ = read_bands(data / "scenes" / "inn_ering_de_at_L2A_window2_RGBN_utm33n.tif")
    scores = scorer(chosen(dn, band_set), "L2A")
    covers, _ = classes_of(scores.cover)
    uses, _ = classes_of(scores.landuse)
    image = inn_of_image(data)
    lines = ["Inn, m     image  " + " ".join(f"{width:5.0f}" for width in image.across)]
    for title, mask in (
        ("cover", covers == LAND_COVER_NAMES.index("Water")),
        ("use", np.isin(uses, use_ids("River", "SeaLake"))),
    ):
        found = widths_of(mask, INN)
        off = np.abs(np.subtract(found.across, image.across))
        cells = " ".join(f"{width:5.0f}" for width in found.across)
        lines.append(
            f"{'':10} {title:6} {cells}   off by {off.mean():.0f} m in the mean, {off.max():.0f} m at most, "
            f"within 20 m on {(off <= 20).sum()} of {len(off)}"
        )
    dn, _, _ = read_bands(data / "scenes" / "orihuela_es_L1C_20190918_13b_utm30n.tif")
    scores = scorer(chosen(dn, band_set), "L1C")
    highway = classes_of(scores.landuse)[0] == use_ids("Highway")[0]
    built = classes_of(scores.cover)[0] == LAND_COVER_NAMES.index("Built")
    transects = along(MOTORWAY, SAMPLE_PX)
    lines.append(f"motorway   Highway {widths_of(highway, transects, REACH_PX).told}")
    lines.append(f"           Built   {widths_of(built, transects, REACH_PX).told}")
    lines.append(f"orihuela   Highway on {highway.sum()} pixels, {highway.mean():.2%} of the scene")
    return lines


def main() -> None:
    """Print the widths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model of pixels; without it today's patch model at --stride-px")
    parser.add_argument("--stride-px", type=int, default=8)
    parser.add_argument("--bands", nargs="+", choices=BAND_SETS, default=["rgb", "rgb-nir", "all"])
    parser.add_argument("--d4", action="store_true", help="average over the eight symmetries")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    data = Path(os.environ["LANDUSE_TEST_DATA"])
    if given.model:
        scorer = pixel_scorer(given.model, given.device)
        scorer = symmetric(scorer) if given.d4 else scorer
    else:
        scorer = patch_scorer(DEFAULT_MODEL, given.stride_px, given.device)
    for band_set in given.bands if given.model else ["rgb"]:
        print(f"{given.model or f'{DEFAULT_MODEL} at stride {given.stride_px}'}, {band_set}")
        print("\n".join(measured(data, scorer, band_set)))


if __name__ == "__main__":
    main()
