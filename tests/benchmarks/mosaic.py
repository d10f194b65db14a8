"""How well cells are mapped where several classes meet: mosaics of validation patches, truth known.

``LANDUSE_TEST_DATA=... python tests/benchmarks/mosaic.py`` lays 25 patches side by side, slides windows over
them at stride 16 and compares each cell with its patch's label: by the evidence near the cell, as maps are
made, and by plain patch votes.
"""

import os
from pathlib import Path

import numpy as np

from landuse.model import DEFAULT_MODEL
from landuse.model.predict import Predictor
from landuse.model.training.datasets import PatchSource, load_patches, read_split

SIDE, PATCH_PX, STRIDE_PX, MOSAICS = 5, 64, 16, 8
SPAN = PATCH_PX // STRIDE_PX


def main() -> None:
    """Print both accuracies."""
    root = Path(os.environ["LANDUSE_TEST_DATA"]) / "eurosat"
    names = read_split(root / "splits" / "paper-val.txt")
    chosen = np.random.default_rng(0).permutation(len(names))[: SIDE * SIDE * MOSAICS]
    patches = load_patches(PatchSource(root=root / "EuroSAT_RGB"), [names[i] for i in chosen])
    predictor = Predictor.load(DEFAULT_MODEL, "cpu")
    right = {"evidence near the cell": 0, "plain patch votes": 0}
    cells = SIDE * SPAN
    for start in range(0, len(patches), SIDE * SIDE):
        tiles = patches.dn(slice(start, start + SIDE * SIDE)).numpy().round().astype(np.uint16)
        rows = tiles.reshape(SIDE, SIDE, 3, PATCH_PX, PATCH_PX).transpose(2, 0, 3, 1, 4)
        mosaic = rows.reshape(3, SIDE * PATCH_PX, SIDE * PATCH_PX)
        labels = patches.labels[start : start + SIDE * SIDE].numpy().reshape(SIDE, SIDE)
        truth = np.kron(labels, np.ones((SPAN, SPAN), int))
        corners = range(cells - SPAN + 1)
        places = [(row, col) for row in corners for col in corners]
        windows = np.stack(
            [
                mosaic[:, r * STRIDE_PX : r * STRIDE_PX + PATCH_PX, c * STRIDE_PX : c * STRIDE_PX + PATCH_PX]
                for r, c in places
            ]
        )
        near = predictor.cell_probabilities(windows, "L1C", SPAN)
        plain = np.tile(predictor.probabilities(windows, "L1C")[:, :, None, None], (1, 1, SPAN, SPAN))
        for name, votes in zip(right, (near, plain), strict=True):
            sums = np.zeros((votes.shape[1], cells, cells))
            for (row, col), vote in zip(places, votes, strict=True):
                sums[:, row : row + SPAN, col : col + SPAN] += vote
            right[name] += int((sums.argmax(0) == truth).sum())
    for name, count in right.items():
        print(f"{name}: {count / (MOSAICS * cells * cells):.1%} of {MOSAICS * cells * cells} cells")


if __name__ == "__main__":
    main()
