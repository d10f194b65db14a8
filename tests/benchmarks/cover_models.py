"""What the cover benchmark scores: models as functions from DN to the scores of each pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rioxarray  # noqa: F401  # lets datasets say .rio
import xarray as xr
from numpy.typing import NDArray

import landuse
from landuse.classes import LAND_USE_NAMES
from landuse.model.bands import RGB
from landuse.model.predict import Predictor
from tests.benchmarks.cover_scores import Scores, cover_of_use

Dn = dict[str, NDArray[np.uint16]]
"""(H, W) DN of each band by name."""
Scorer = Callable[[Dn, str], Scores]
"""From the bands of a scene and its level to what a model says of each pixel."""


def pixel_scorer(model: str | Path, device: str = "cpu", precision: str = "fp32") -> Scorer:
    """A model that classifies each pixel, reading those of the given bands that it knows.

    The imagery is grown by copies of its edge to whole positions of the network, and cut again.
    """
    from landuse.model.predict_pixels import PixelPredictor

    predictor = PixelPredictor.load(str(model), device, precision)

    def scores(dn: Dn, level: str) -> Scores:
        bands = tuple(band for band in predictor.contract.bands if band in dn)
        stack = np.stack([dn[band] for band in bands])
        rows, cols = stack.shape[1:]
        more = [(0, -side % predictor.position_px) for side in (rows, cols)]
        found = predictor.pixel_scores(np.pad(stack, ((0, 0), *more), mode="edge"), bands, level)
        return Scores(landuse=found.landuse[:, :rows, :cols], cover=found.cover[:, :rows, :cols])

    return scores


def patch_scorer(model: str, stride_px: int, device: str = "cpu") -> Scorer:
    """A model that classifies patches, mapped by ``landuse.classify`` with cells of ``stride_px`` pixels.

    Each pixel gets the probabilities of its cell; those of covers are sums over their uses. Imagery of the
    size of a patch has one window, which is asked for directly: ``classify`` reads the model each time.
    """
    predictor = Predictor.load(model, device)

    def cells_of(dn: Dn, level: str) -> tuple[NDArray[np.float32], int, int]:
        """Probabilities of each cell, and the pixels of the first ones that lie beyond the imagery."""
        rows, cols = dn["B04"].shape
        if rows == cols == predictor.contract.patch_size_px:
            stack = np.stack([dn[band] for band in predictor.contract.bands])
            (_, windows), = predictor.shared_probabilities(
                stack, level, row_starts=[0], col_starts=[0], cells=rows // stride_px
            )  # fmt: skip
            return windows[:, :, 0], 0, 0
        y, x = 5_300_000 - 10.0 * np.arange(rows) - 5, 500_000 + 10.0 * np.arange(cols) + 5
        held = xr.Dataset({band: (("y", "x"), dn[band]) for band in RGB}, {"y": y, "x": x})
        held = held.rio.write_crs("EPSG:32633")
        made = landuse.classify(
            held, level=level, scale=1e-4, offset=0.0, model=model, stride_px=stride_px, device=device,
            probabilities=True,
        )  # fmt: skip
        shares = made["probabilities"].to_numpy()
        down = round((made.y.to_numpy()[0] + 5 * stride_px - 5_300_000) / 10)
        right = round((500_000 - made.x.to_numpy()[0] + 5 * stride_px) / 10)
        return np.nan_to_num(shares), down, right

    def scores(dn: Dn, level: str) -> Scores:
        rows, cols = dn["B04"].shape
        cells, down, right = cells_of(dn, level)
        uses = np.zeros((len(LAND_USE_NAMES), rows, cols), np.float32)
        large = cells.repeat(stride_px, 1).repeat(stride_px, 2)
        ids = [LAND_USE_NAMES.index(name) for name in predictor.contract.classes]
        uses[ids] = large[:, down : down + rows, right : right + cols]
        return Scores(landuse=uses, cover=cover_of_use(uses))

    return scores


def symmetric(scorer: Scorer) -> Scorer:
    """The mean over the eight symmetries of the square of what a model says."""

    def scores(dn: Dn, level: str) -> Scores:
        sums: dict[str, NDArray[np.float32]] = {}
        for flip in (False, True):
            for turns in range(4):
                seen = {band: _turned(values, flip, turns) for band, values in dn.items()}
                found = scorer(seen, level)
                for name in ("landuse", "cover"):
                    part = _turned_back(getattr(found, name), flip, turns) / 8
                    sums[name] = sums[name] + part if name in sums else part
        return Scores(landuse=sums["landuse"], cover=sums["cover"])

    return scores


def _turned(values: NDArray, flip: bool, turns: int) -> NDArray:
    """(..., H, W) mirrored, then turned."""
    return np.ascontiguousarray(np.rot90(values[..., ::-1] if flip else values, turns, (-2, -1)))


def _turned_back(values: NDArray, flip: bool, turns: int) -> NDArray:
    """The inverse of ``_turned``."""
    back = np.rot90(values, -turns, (-2, -1))
    return back[..., ::-1] if flip else back
