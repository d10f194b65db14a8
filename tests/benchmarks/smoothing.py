"""What smoothing does on mosaics with exact borders: right pixels, border errors, specks, calibration.

``LANDUSE_TEST_DATA=... python -m tests.benchmarks.smoothing --model balanced-pixel`` prints a line for each
strength and window, of the mosaics that the cover benchmark makes. A speck is a patch of one class below ten
pixels that hang together by their sides.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landuse.classes import LAND_USE_NAMES
from landuse.model.bands import EUROSAT_TIFF, RGB
from landuse.model.training.datasets import PatchSource, load_patches, read_split
from landuse.pipeline.blocks.smooth import parse_smooth, smooth_classes
from landuse.sentinel2 import BANDS
from tests.benchmarks.cover_models import pixel_scorer
from tests.benchmarks.cover_mosaics import Mosaic, mosaics
from tests.benchmarks.cover_references import LINEAR, MOSAIC_PX, MOSAIC_SEED, MOSAICS, chosen
from tests.benchmarks.cover_scores import ece, judged, near_border, use_ids

SPECK_PX = 10
BORDER_PX = 2


def specks(classes: NDArray[np.uint8], least_px: int = SPECK_PX) -> int:
    """How many patches of one class have fewer than ``least_px`` pixels; 255 is no class.

    Args:
        classes: (H, W) ids.
        least_px: pixels from which on a patch is no speck.
    """
    count = 0
    for value in np.unique(classes[classes != 255]):
        sizes = np.bincount(ndimage.label(classes == value)[0].ravel())[1:]
        count += int((sizes < least_px).sum())
    return count


def canvases(data: Path) -> dict[str, tuple[list[Mosaic], tuple[str, ...], str]]:
    """By title the mosaics, their bands, and the set of bands that is shown."""
    root = data / "eurosat"
    names = read_split(root / "splits" / "paper-val.txt")
    parts = [
        load_patches(
            PatchSource(root=root / folder, band_order=EUROSAT_TIFF),
            [name for name in names if (root / folder / name).with_suffix(".tif").exists()],
            BANDS,
        )
        for folder in ("EuroSAT_MS", "EuroSAT_MS_2")
    ]
    dn = np.concatenate([part.dn(slice(None)).numpy().astype(np.uint16) for part in parts])
    labels = np.concatenate([part.labels.numpy() for part in parts]).astype(np.uint8)
    some = [names[i] for i in np.random.default_rng(MOSAIC_SEED).permutation(len(names))[:600]]
    jpegs = load_patches(PatchSource(root=root / "EuroSAT_RGB"), some)
    jpeg_dn = jpegs.dn(slice(None)).numpy().round().astype(np.uint16)
    drawn = {"count": MOSAICS, "side_px": MOSAIC_PX, "seed": MOSAIC_SEED}
    of_13 = mosaics(dn, labels, **drawn)
    of_jpegs = mosaics(jpeg_dn, jpegs.labels.numpy().astype(np.uint8), **drawn)
    return {
        "all bands": (of_13, BANDS, "all"),
        "visible": (of_13, BANDS, "rgb"),
        "JPEG": (of_jpegs, RGB, "rgb"),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--smooth", nargs="+", default=["0", "0.25", "0.5", "1", "2"])
    parser.add_argument("--smooth-px", nargs="+", type=int, default=[5, 7, 9])
    given = parser.parse_args()
    scorer = pixel_scorer(given.model)
    for title, (made, bands, shown) in canvases(Path(os.environ["LANDUSE_TEST_DATA"])).items():
        truth = np.stack([one.classes for one in made])
        shares = [scorer(chosen(dict(zip(bands, one.dn, strict=True)), shown), "L1C").landuse for one in made]
        areal = ~np.isin(truth, use_ids(*LINEAR))
        border = np.stack([near_border(one.classes, BORDER_PX) for one in made])
        print(f"{title}\nstrength px   right  inside  wrong at borders  specks  River  Highway   ECE")
        for asked in given.smooth:
            for side in given.smooth_px if float(asked.split(",")[0]) else given.smooth_px[:1]:
                smoothing = parse_smooth(asked, side, LAND_USE_NAMES)
                everywhere = np.ones(truth.shape[1:], np.bool_)
                smooth = np.stack([smooth_classes(one, everywhere, smoothing) for one in shares])
                found = smooth.argmax(1).astype(np.uint8)
                right = found == truth
                thin = [right[truth == value].mean() for value in use_ids(*LINEAR)]
                error = ece(judged(smooth.max(1)[areal], right[areal]))
                print(
                    f"{asked:>8} {side:2}  {right[areal].mean():6.4f}  {right[areal & ~border].mean():6.4f}"
                    f"  {1 - right[areal & border].mean():16.4f}  {sum(map(specks, found)):6}  {thin[0]:5.3f}"
                    f"  {thin[1]:7.3f}  {error:5.3f}"
                )


if __name__ == "__main__":
    main()
