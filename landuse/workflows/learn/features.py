"""From labelled pixels and scenes to what a network knows of each pixel, in several views.

The network's trunk is not trained here. So that a head on its features holds where bands are missing and
whichever way a field lies, each pixel is seen on several dates, with all bands, with the visible ones and the
first infrared one, with the visible ones alone, and turned.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from landuse.errors import ReadError
from landuse.model.cover_and_use import combine, with_prior
from landuse.model.pixel_network import coarse_features, fine_features
from landuse.model.predict import full_float32
from landuse.model.training.augment import dihedral
from landuse.model.training.class_head import Rows
from landuse.pipeline.blocks.context import READ_PX, axis_context, filled
from landuse.pipeline.blocks.plan import data_extent
from landuse.pipeline.read.read_block import Imagery, read_pixels
from landuse.workflows.learn.labels import PIXEL_M

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from landuse.contract import ModelContract
    from landuse.model.pixel_network import DenseFeatures
    from landuse.model.predict_pixels import PixelPredictor
    from landuse.pipeline.remote.files import Remote
    from landuse.workflows.learn.labels import LabelledPixels

log = logging.getLogger(__name__)

TILE_PX = 256
"""Labelled pixels of a square of so many pixels a side are read and computed together."""

WHOLE_SHARE = 0.5
"""Share of a sample's weight that its views with all bands have, where there are others."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenPixels:
    """What is known of labelled pixels that some date shows clear."""

    rows: Rows
    """Their views; samples are numbered as the pixels are."""
    first: NDArray[np.float32]
    """(pixel, feature), the view with all bands on the first date that shows a pixel; 0 where none does."""
    seen: NDArray[np.bool_]
    """(pixel,), whether a date shows it."""
    trunk: NDArray[np.int64]
    """(pixel,), the id of the class that the network as it is gives it, of ``trunk_contract``."""


def trunk_contract(contract: ModelContract) -> ModelContract:
    """The contract of the network without a learned head: its classes are the uses of its covers."""
    if contract.pixels is None:
        raise ValueError(f"model {contract.name} classifies patches, not pixels")
    named = {name for row in contract.pixels.uses_of_covers for name in row}
    # In their order where they are the contract's, so that ids stay.
    classes = contract.classes if named == set(contract.classes) else tuple(sorted(named))
    return replace(contract, learned=None, classes=classes)


def see_pixels(
    pixels: LabelledPixels,
    days: Sequence[Imagery],
    level: str,
    predictor: PixelPredictor,
    remote: Remote,
    *,
    seed: int,
    on_tile: Callable[[int, int], None] | None = None,
) -> SeenPixels:
    """Look at labelled pixels on each date.

    Args:
        pixels: where they are.
        days: scenes of each date, in order of preference.
        level: of the scenes.
        predictor: the network.
        remote: how what is not on this machine is read.
        seed: of how tiles are turned.
        on_tile: called with how many tiles are done, and of how many.

    Raises:
        ReadError: nothing could be read.
    """
    looks = _Looks(predictor, level, seed)
    extents = [data_extent(day.scenes, pixels.crs, 0.0, 0.0, PIXEL_M) for day in days]
    reasons: list[str] = []
    tiles = list(_tiles(pixels))
    for done, own in enumerate(tiles):
        for day, extent in zip(days, extents, strict=True):
            reasons += _see_tile(pixels, own, day, extent, looks, remote)
        if on_tile is not None:
            on_tile(done + 1, len(tiles))
    if not looks.parts and reasons:
        raise ReadError(f"No imagery of the labels could be read. {reasons[0]}")
    if reasons:
        log.warning("%d reads failed; their pixels are not learned from. %s", len(reasons), reasons[0])
    return looks.gathered(len(pixels.labels))


def _tiles(pixels: LabelledPixels) -> Iterator[NDArray[np.int64]]:
    """Indices of the pixels of each tile, in order of the tiles."""
    key = np.stack([pixels.rows // TILE_PX, pixels.cols // TILE_PX], 1)
    _, tile = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(tile.ravel(), kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(tile.ravel()[order])) + 1)


def _see_tile(
    pixels: LabelledPixels,
    own: NDArray[np.int64],
    day: Imagery,
    extent: tuple[tuple[int, int], tuple[int, int]],
    looks: _Looks,
    remote: Remote,
) -> list[str]:
    """Look at the pixels of a tile on a date; why what could not be read could not."""
    row, col = pixels.rows[own], pixels.cols[own]
    step = looks.predictor.position_px
    rows, cols = (
        axis_context(
            (int(at.min()), int(at.max()) + 1), data_px=data, step_px=step, origin_px=0, context_px=READ_PX
        )
        for at, data in zip((row, col), extent, strict=True)
    )
    if rows is None or cols is None:
        return []
    corner = Affine(PIXEL_M, 0, cols[0] * PIXEL_M, 0, -PIXEL_M, -rows[0] * PIXEL_M)
    geobox = GeoBox((rows[1] - rows[0], cols[1] - cols[0]), corner, pixels.crs)
    read = read_pixels(day, geobox, remote, f"{rows[0]}_{cols[0]}")
    at = row - rows[0], col - cols[0]
    usable = read.pixels.usable.values[at]
    if usable.any():
        far_dn = looks.predictor.contract.mean_dn(looks.level, day.bands)
        dn = filled(read.pixels, step_px=step, far_dn=far_dn)
        looks.add(dn, day.bands, own[usable], (at[0][usable], at[1][usable]))
    return [failure.reason for failure in read.failures if failure.replaced_by is None]


def _features_at(
    found: DenseFeatures, x: Tensor, present: Tensor, at: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.float32]:
    """(pixel, feature) of some pixels of a block."""
    row, col = torch.from_numpy(at[0]), torch.from_numpy(at[1])
    coarse = coarse_features(found)[0][:, row // 2, col // 2]
    fine = fine_features(found, x, present)[0][:, row, col]
    features: NDArray[np.float32] = torch.cat([coarse, fine]).T.contiguous().cpu().numpy()
    return features


class _Looks:
    """Views of pixels, as they are made."""

    def __init__(self, predictor: PixelPredictor, level: str, seed: int) -> None:
        self.predictor = predictor
        self.parts: list[tuple[NDArray[np.int64], NDArray[np.float32], float]] = []
        """Samples, features and weight of each view; the first of each sample has all bands."""
        self._firsts: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]] = []
        self.level = level
        self._rng = np.random.default_rng(seed)
        self._trunk = trunk_contract(predictor.contract)

    @torch.inference_mode()
    def add(
        self,
        dn: NDArray[np.uint16],
        bands: tuple[str, ...],
        samples: NDArray[np.int64],
        at: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        """See some pixels of a block.

        Args:
            dn: (band, y, x), filled.
            bands: what it holds.
            samples: numbers of the pixels.
            at: rows and columns of the pixels in the block.
        """
        contract = self.predictor.contract
        x, present = self.predictor.block_input(dn, bands, self.level)
        optional = [band for band in contract.optional_bands if band in bands]
        fewer = [optional[:1], []] if len(optional) > 1 else [[]] if optional else []
        share = WHOLE_SHARE if fewer else 1.0
        with full_float32():
            found = self.predictor.dense_features(x, present)
            plain = _features_at(found, x, present, at)
            turned = self._view(x, present, at, int(self._rng.integers(1, 8)))
            self.parts += [(samples, plain, share / 2), (samples, turned, share / 2)]
            for kept in fewer:
                left = present.new_tensor([[float(band in kept) for band in contract.optional_bands]])
                view = self._view(x, left, at, int(self._rng.integers(8)))
                self.parts.append((samples, view, (1 - share) / len(fewer)))
            classes, _ = combine(with_prior(found.cover, present, self._trunk), found.use_half, self._trunk)
        self._firsts.append((samples, plain, classes[0].argmax(0).cpu().numpy()[at]))

    def _view(
        self, x: Tensor, present: Tensor, at: tuple[NDArray[np.int64], NDArray[np.int64]], element: int
    ) -> NDArray[np.float32]:
        """(pixel, feature), of the block under a symmetry of the square."""
        height, width = x.shape[2:]
        places = torch.arange(height * width).view(1, 1, height, width)
        moved = dihedral(places, element)
        inverse = torch.empty(height * width, dtype=torch.long)
        inverse[moved.flatten()] = torch.arange(height * width)
        where = inverse[torch.from_numpy(at[0] * width + at[1])].numpy()
        x = dihedral(x, element).contiguous(memory_format=torch.channels_last)
        found = self.predictor.dense_features(x, present)
        return _features_at(found, x, present, (where // moved.shape[3], where % moved.shape[3]))

    def gathered(self, count: int) -> SeenPixels:
        """All that was seen, of so many pixels."""
        width = self.parts[0][1].shape[1] if self.parts else 0
        sample = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in self.parts)])
        features = np.concatenate([np.zeros((0, width), np.float32), *(part[1] for part in self.parts)])
        weight = np.concatenate([np.zeros(0), *(np.full(len(part[0]), part[2]) for part in self.parts)])
        total = np.bincount(sample, weight, minlength=count)
        first, trunk = np.zeros((count, width), np.float32), np.zeros(count, np.int64)
        seen = np.zeros(count, np.bool_)
        for samples, plain, classes in self._firsts:
            new = ~seen[samples]
            first[samples[new]], trunk[samples[new]] = plain[new], classes[new]
            seen[samples] = True
        rows = Rows(features=features, sample=sample, weight=weight / np.maximum(total, 1e-12)[sample])
        return SeenPixels(rows=rows, first=first, seen=seen, trunk=trunk)
