"""Pictures to look at: each visible scene beside its land use and its land cover, as PNG.

``LANDUSE_TEST_DATA=... python -m tests.benchmarks.cover_render --model PATH.safetensors --out FOLDER`` draws
the imagery with 1 % cut off at either end and the classes of use, below them how sure the model is of the
use (black 0, white 1) and the classes of cover. ``--box ROW,COL,ROWS,COLS`` cuts a part out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from landuse.classes import LAND_COVER, LAND_USE, LandUseClass
from landuse.model import DEFAULT_MODEL
from landuse.model.bands import RGB
from landuse.pipeline.read.rgb_image import stretch
from tests.benchmarks.cover_models import Dn, Scorer, patch_scorer, pixel_scorer, symmetric
from tests.benchmarks.cover_references import BAND_SETS, chosen, classes_of, read_bands, terramesh_places

GAP_PX, LEGEND_PX, LEGEND_ROW_PX, NO_CLASS = 6, 180, 16, (0, 0, 0)
SCENES = {
    "inn1": ("inn_ering_de_at_L2A_window1_RGBN_utm33n.tif", "L2A"),
    "inn2": ("inn_ering_de_at_L2A_window2_RGBN_utm33n.tif", "L2A"),
    "orihuela": ("orihuela_es_L1C_20190918_13b_utm30n.tif", "L1C"),
    "slovenia": ("slovenia_L1C_20150830_13b_utm33n.tif", "L1C"),
    "leipzig": ("leipzig_de_L2A_8b_utm32n.tif", "L1C"),
}
"""File and level that it is read as."""


def scenes(data: Path, wanted: Sequence[str]) -> Iterator[tuple[str, str, Dn]]:
    """Name, level and bands of each scene that is wanted; ``terramesh`` stands for its places."""
    for name, (file, level) in SCENES.items():
        if name in wanted:
            yield name, level, read_bands(data / "scenes" / file)[0]
    if "terramesh" in wanted:
        for place in terramesh_places(data):
            yield f"{place.name}_L1C", "L1C", place.l1c
            yield f"{place.name}_L2A", "L2A", place.l2a


def picture(dn: Dn) -> NDArray[np.uint8]:
    """(H, W, 3) of the visible bands, each stretched by itself."""
    visible = np.stack([dn[band] for band in RGB]).astype(np.float32)
    top = np.percentile(visible, 99.5)
    return stretch((visible / top * 254 + 1).clip(1, 255).astype(np.uint8))


def colored(ids: NDArray[np.uint8], legend: Sequence[LandUseClass]) -> NDArray[np.uint8]:
    """(H, W, 3) of class ids."""
    palette = np.full((256, 3), NO_CLASS, np.uint8)
    for entry in legend:
        palette[entry.id] = entry.color
    return palette[ids]


def sheet(panels: Sequence[NDArray[np.uint8]], zoom: int, ids: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Four panels in a square, enlarged, beside the legends of what they show.

    Args:
        panels: (H, W, 3) each, of one size.
        zoom: screen pixels a pixel.
        ids: the ids of use and of cover, whose classes the legends name, with their shares.
    """
    rows, cols = panels[0].shape[:2]
    high, wide = rows * zoom + GAP_PX, cols * zoom + GAP_PX
    whole = Image.new("RGB", (2 * wide + LEGEND_PX, 2 * high), "white")
    draw = ImageDraw.Draw(whole)
    for index, panel in enumerate(panels):
        large = Image.fromarray(panel.repeat(zoom, 0).repeat(zoom, 1))
        whole.paste(large, (index % 2 * wide, index // 2 * high))
    top = GAP_PX
    for title, values, legend in zip(("Land use", "Land cover"), ids, (LAND_USE, LAND_COVER), strict=True):
        draw.text((2 * wide, top), title, fill="black")
        top += LEGEND_ROW_PX
        parts = [(float((values == entry.id).mean()), entry) for entry in legend]
        for part, entry in sorted(parts, key=lambda pair: -pair[0]):
            if part:
                draw.rectangle((2 * wide, top, 2 * wide + 12, top + 12), fill=entry.color, outline="black")
                draw.text((2 * wide + 18, top), f"{entry.title} {part:.1%}", fill="black")
                top += LEGEND_ROW_PX
        top += LEGEND_ROW_PX
    return whole


def render(scorer: Scorer, dn: Dn, level: str, zoom: int, box: Sequence[int] | None) -> Image.Image:
    """The sheet of one scene, classified whole; ``box`` is row, col, rows and cols of what is drawn."""
    scores = scorer(dn, level)
    uses, confidence = classes_of(scores.landuse)
    covers, _ = classes_of(scores.cover)
    row, col, rows, cols = box or (0, 0, *uses.shape)
    part = np.s_[row : row + rows, col : col + cols]
    grey = np.rint(confidence * 255).astype(np.uint8)[..., None].repeat(3, -1)
    panels = [picture(dn)[part], colored(uses, LAND_USE)[part], grey[part], colored(covers, LAND_COVER)[part]]
    return sheet(panels, zoom, [uses[part], covers[part]])


def main() -> None:
    """Draw each scene with each band set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model of pixels; without it today's patch model at --stride-px")
    parser.add_argument("--stride-px", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bands", nargs="+", choices=BAND_SETS, default=["rgb", "rgb-nir", "all"])
    names = [*SCENES, "terramesh"]
    parser.add_argument("--scenes", nargs="+", choices=names, default=names)
    parser.add_argument("--box", help="row,col,rows,cols in pixels of the scene")
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--d4", action="store_true", help="average over the eight symmetries")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scorer = (
        pixel_scorer(given.model, given.device)
        if given.model
        else patch_scorer(DEFAULT_MODEL, given.stride_px, given.device)
    )
    if given.d4:
        scorer = symmetric(scorer)
    box = [int(text) for text in given.box.split(",")] if given.box else None
    for name, level, dn in scenes(Path(os.environ["LANDUSE_TEST_DATA"]), given.scenes):
        done: set[frozenset[str]] = set()
        for band_set in given.bands if given.model else ["rgb"]:
            fed = chosen(dn, band_set)
            if frozenset(fed) in done:
                continue  # the scene has no more bands than those of the last set
            done.add(frozenset(fed))
            target = given.out / f"{name}_{band_set}.png"
            render(scorer, fed, level, given.zoom, box).save(target)
            print(target)


if __name__ == "__main__":
    main()
