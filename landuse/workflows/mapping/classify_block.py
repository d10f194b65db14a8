"""One block of a map: read, composite, classify, votes. The unit of work, here and on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import numpy as np
import shapely

from landuse.pipeline.blocks import patches, votes
from landuse.pipeline.blocks.context import BlockContext, block_context, filled, own_pixels
from landuse.pipeline.blocks.plan import RunPlan
from landuse.pipeline.blocks.smooth import smooth_classes
from landuse.pipeline.cells import AREA_STEPS, Block, BlockRasters, CellScores, PixelCounts
from landuse.pipeline.geometry import surfaces
from landuse.pipeline.pixels import cut_out, pixels_in
from landuse.pipeline.read.composite import composite
from landuse.pipeline.read.read_block import (
    BlockPixels,
    Imagery,
    footprints_in,
    no_pixels,
    read_dates,
    read_pixels,
)
from landuse.pipeline.read.rgb_image import draw_picture
from landuse.pipeline.write.block_file import BlockFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

    from landuse.contract import ModelContract
    from landuse.pipeline.remote.files import Remote
    from landuse.pipeline.scene import ReadFailure, Scene


PATCHES_AT_ONCE = 512
"""Patches handed to the network together; it cuts them into batches of what is fastest."""


class PatchClassifier(Protocol):
    """What a map needs of a model of patches; ``model.predict.Predictor`` is one."""

    contract: ModelContract
    weights_sha256: str
    weights_path: Path | None

    def cell_probabilities(self, dn: NDArray[np.uint16], level: str, cells: int) -> NDArray[np.float32]:
        """(N, band, S, S) DN to the (N, class, cells, cells) probabilities of each patch's cells."""
        ...


class PixelScores(Protocol):
    """What a model says of each pixel; ``model.predict_pixels.PixelScores`` is one."""

    @property
    def landuse(self) -> NDArray[np.float32]:
        """(class, y, x), summing to 1 over classes."""
        ...

    @property
    def cover(self) -> NDArray[np.float32]:
        """(cover, y, x), summing to 1 over covers."""
        ...

    @property
    def doubt(self) -> NDArray[np.float32] | None:
        """(y, x), 0..1; None of a model that does not tell."""
        ...


class PixelClassifier(Protocol):
    """What a map needs of a model of pixels; ``model.predict_pixels.PixelPredictor`` is one."""

    contract: ModelContract
    weights_sha256: str
    weights_path: Path | None

    @property
    def position_px(self) -> int:
        """Pixels from one position of the network's coarsest features to the next."""
        ...

    def pixel_scores(self, dn: NDArray[np.uint16], bands: tuple[str, ...], level: str) -> PixelScores:
        """(band, y, x) DN of some of the contract's bands to the scores of each pixel.

        Both sides are multiples of ``position_px``.
        """
        ...


Classifier: TypeAlias = PatchClassifier | PixelClassifier
"""What a map is made with."""

Placed: TypeAlias = patches.BlockPatches | BlockContext
"""What to read for a block: its patches, or the pixels in and around it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Land:
    """What of a block's land belongs to the area."""

    cells: NDArray[np.bool_]
    """(row, col), True where a cell belongs to the map: where it has land of the area, or anywhere."""
    shares: NDArray[np.uint16]
    """(y, x), how much of a pixel lies inside the area, in steps of 1/``AREA_STEPS``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockInput:
    """What a block is classified from."""

    placed: Placed
    """Where its patches lie, or what is read around it."""
    land: Land
    """What of it belongs to the area."""
    read: BlockPixels
    """Its pixels, and what could not be read of them; where dates are fused those of the first."""
    later: Iterable[BlockPixels] = field(default=())
    """Where dates are fused the others, each read when it is asked for, once."""


def imagery_of(plan: RunPlan) -> Imagery:
    """What a plan's blocks are read from."""
    return Imagery(scenes=plan.scenes, bands=plan.bands, composite=plan.composite, margin_m=plan.cell_m)


def read_input(plan: RunPlan, block: Block, remote: Remote) -> BlockInput | None:
    """The reading half of a block; None where there is nothing to map."""
    work = work_of(plan, block)
    if work is None:
        return None
    placed, land = work
    imagery, grid = imagery_of(plan), plan.pixel_geobox(placed.rows_px, placed.cols_px)
    if plan.fuse == "pixels":
        read = read_pixels(imagery, grid, remote, block.name)
        return BlockInput(placed=placed, land=land, read=read)
    dates = read_dates(imagery, grid, remote, block.name)
    first = next(dates, BlockPixels(pixels=no_pixels(imagery, grid), failures=(), lost=()))
    return BlockInput(placed=placed, land=land, read=first, later=dates)


def classify_block(
    plan: RunPlan, block: Block, classifier: Classifier, given: BlockInput | None
) -> BlockFile:
    """The computing half of a block: the network's part, and what is made of it."""
    found = None if given is None else score_block(plan, block, classifier, given)
    return block_content(plan, block, found)


def block_content(plan: RunPlan, block: Block, found: BlockScores | None) -> BlockFile:
    """What a block's file holds, of what it was found to be; None where there was nothing to map."""
    if found is None:
        side = plan.stride_px // plan.picture_step_px
        rows, cols = block.shape
        picture = np.zeros((3, rows * side, cols * side), np.uint8)
        scores, patch_count, pixel_count, given = no_scores(plan, block), 0, 0, None
    else:
        scores, patch_count, pixel_count, given = found.scores, found.patches, found.pixels, found.given
        picture = draw_picture(_pixels_of_cells(plan, block, given), step_px=plan.picture_step_px)
    land = land_of(plan, block) if given is None else given.land
    rasters = votes.block_rasters(
        scores, land.cells, probabilities=plan.probabilities, min_confidence=plan.min_confidence
    )
    return BlockFile(
        rasters=rasters,
        counts=_count_pixels(plan, block, rasters, land, given),
        picture=picture,
        observed=bool(scores.observed.any()),
        failures=() if given is None else given.read.failures,
        patches=patch_count,
        pixels=pixel_count,
    )


def _count_pixels(
    plan: RunPlan, block: Block, rasters: BlockRasters, land: Land, given: BlockInput | None
) -> PixelCounts:
    """The area's pixels in a block, by what became of them."""
    nothing = np.zeros(land.shares.shape, np.bool_)
    return votes.count_pixels(
        rasters,
        land.shares,
        nothing if given is None else _pixels_of_cells(plan, block, given).observed.values,
        nothing if given is None else _lost_pixels(plan, block, given),
        classes=len(plan.classes),
        covers=len(plan.covers),
        cell_px=plan.stride_px,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockScores:
    """What a block was found to be."""

    scores: CellScores
    """Of its cells."""
    patches: int
    """Patches that went through the network."""
    pixels: int
    """Pixels that did in one pass, with those around the block; of each date where dates are fused."""
    given: BlockInput
    """What it was found from: of fused dates the first clear pixels, and all that could not be read."""


def score_block(plan: RunPlan, block: Block, classifier: Classifier, given: BlockInput) -> BlockScores:
    """What a block's cells are found to be: the scores of its image, or the mean of those of its dates."""
    blend: votes.Blend | None = None
    if plan.engine == "windows":
        blend = votes.Blend(block, classes=len(plan.classes), exclusive=not plan.thresholds)
    evidence = _Evidence()
    image: xr.Dataset | None = None
    failures: list[ReadFailure] = []
    lost: list[Scene] = []
    patch_count = pixel_count = 0
    for read in chain((given.read,), given.later):
        one = replace(given, read=read, later=())
        failures += read.failures
        lost += read.lost
        # Folded as they come: a block never holds more than two dates.
        image = read.pixels if image is None else composite([image, read.pixels], "best")
        if blend is not None:
            patch_count += _patch_votes(plan, cast("PatchClassifier", classifier), one, blend)
            continue
        around = _pixels_around(plan, block, one)
        if around.usable.values.any():  # else nothing of it would be kept
            # The engine follows from the contract of this model: it is one of pixels.
            found = _scores_around(plan, block, cast("PixelClassifier", classifier), one)
            evidence.add(found, around.usable.values)
        pixel_count += one.placed.pixels if isinstance(one.placed, BlockContext) else 0
    if image is None:
        raise ValueError("a block has a first date")
    read = BlockPixels(pixels=image, failures=tuple(failures), lost=tuple(lost))
    given = replace(given, read=read, later=())
    own = _pixels_of_cells(plan, block, given)
    if blend is not None:
        scores = blend.settle(
            own,
            stride_px=plan.stride_px,
            inside=given.land.cells,
            lost=cells_touching(footprints_in(read.lost, plan.crs), plan, block),
        )
    else:
        landuse, cover, doubt = _own_scores(plan, block, classifier.contract, given, evidence)
        failed = votes.count_in_cells(_lost_pixels(plan, block, given), plan.stride_px) > 0
        scores = votes.settle_pixels(
            landuse, cover, doubt, own, cell_px=plan.stride_px, inside=given.land.cells, lost=failed
        )
    return BlockScores(scores=scores, patches=patch_count, pixels=pixel_count, given=given)


class _Evidence:
    """The mean over dates of what a model says of each pixel, of those dates on which it is usable."""

    def __init__(self) -> None:
        self._sums: list[NDArray[np.float32]] = []
        self._count: NDArray[np.uint16] | None = None

    def add(self, scores: list[NDArray[np.float32]], usable: NDArray[np.bool_]) -> None:
        """One date more: arrays of (any, y, x), and (y, x) where they count."""
        if self._count is None:
            # What is not usable is looked at by nobody, unless a later date is.
            self._sums, self._count = scores, usable.astype(np.uint16)
            return
        for sums, values in zip(self._sums, scores, strict=True):
            for of_sum, of_value in zip(sums, values, strict=True):  # one at a time, for memory
                np.copyto(of_sum, np.where(self._count > 0, of_sum, 0) + of_value, where=usable)
        self._count += usable

    def means(self) -> list[NDArray[np.float32]] | None:
        """The means, in the order in which the arrays were given; None without a date."""
        if self._count is None:
            return None
        if int(self._count.max()) > 1:
            share = (1 / np.maximum(self._count, 1)).astype(np.float32)
            for sums in self._sums:
                sums *= share
        return self._sums


def _own_scores(
    plan: RunPlan, block: Block, contract: ModelContract, given: BlockInput, evidence: _Evidence
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities of the classes and the covers of the block's own pixels, ``(class, y, x)``, and doubt."""
    means = evidence.means()
    own = own_pixels(plan, block)
    if means is None:
        rows, cols = (stop - start for start, stop in own)
        return (
            np.zeros((len(plan.classes), rows, cols), np.float32),
            np.zeros((len(plan.covers), rows, cols), np.float32),
            np.zeros((int(plan.tells_doubt), rows, cols), np.float32),
        )
    landuse, cover, doubt = means
    inner = _part(own, _around_px(plan, block, given))
    if plan.smoothing.is_on:
        usable = _pixels_around(plan, block, given).usable.values
        landuse = smooth_classes(landuse, usable, plan.smoothing)[inner]
        # Learned classes are no uses of covers.
        cover = cover[inner] if contract.learned is not None else _covers_of(landuse, contract)
    else:
        landuse, cover = landuse[inner], cover[inner]
    members = None if plan.legend is None else plan.legend.members
    return votes.merged(landuse, members), cover, doubt[inner]


def _covers_of(landuse: NDArray[np.float32], contract: ModelContract) -> NDArray[np.float32]:
    """(cover, y, x): what covers a pixel is the sum of what it can be used as."""
    uses_of_covers = () if contract.pixels is None else contract.pixels.uses_of_covers
    return np.stack(
        [landuse[[contract.classes.index(use) for use in uses]].sum(0) for uses in uses_of_covers]
    )


def _scores_around(
    plan: RunPlan, block: Block, classifier: PixelClassifier, given: BlockInput
) -> list[NDArray[np.float32]]:
    """Probabilities of classes and covers and the doubt, each (any, y, x), of ``_around_px``."""
    far_dn = classifier.contract.mean_dn(plan.level, plan.bands)
    placed = cast("BlockContext", given.placed)  # the engine follows from the model
    seen = (placed.seen_rows_px, placed.seen_cols_px)
    dn = filled(given.read.pixels, step_px=plan.position_px, far_dn=far_dn)
    dn = dn[_part(seen, (placed.rows_px, placed.cols_px))]
    scores = classifier.pixel_scores(dn, plan.bands, plan.level)
    doubt = np.zeros((0, *dn.shape[1:]), np.float32) if scores.doubt is None else scores.doubt[None]
    part = _part(_around_px(plan, block, given), seen)
    return [scores.landuse[part], scores.cover[part], doubt[part]]


def _around_px(plan: RunPlan, block: Block, given: BlockInput) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of the block's own pixels and those that smoothing needs, as far as they are read."""
    reach = plan.smoothing.reach_px
    rows, cols = (
        (max(start - reach, first), min(stop + reach, last))
        for (start, stop), (first, last) in zip(
            own_pixels(plan, block), (given.placed.rows_px, given.placed.cols_px), strict=True
        )
    )
    return rows, cols


def _part(
    inner: tuple[tuple[int, int], tuple[int, int]], outer: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[slice, slice, slice]:
    """Where a rectangle lies in arrays (any, y, x) of another."""
    rows, cols = (
        slice(start - first, stop - first) for (start, stop), (first, _) in zip(inner, outer, strict=True)
    )
    return np.s_[:, rows, cols]


def _pixels_around(plan: RunPlan, block: Block, given: BlockInput) -> xr.Dataset:
    """The pixels of ``_around_px``."""
    return cut_out(given.read.pixels, plan.pixel_geobox(*_around_px(plan, block, given)))


def _lost_pixels(plan: RunPlan, block: Block, given: BlockInput) -> NDArray[np.bool_]:
    """(y, x), True where a scene has pixels, by its footprint, that could not be read."""
    return _centres_in(footprints_in(given.read.lost, plan.crs), plan.pixel_geobox(*own_pixels(plan, block)))


def _pixels_of_cells(plan: RunPlan, block: Block, given: BlockInput) -> xr.Dataset:
    """The pixels of the block's cells, without the context that was read around them."""
    return cut_out(given.read.pixels, plan.pixel_geobox(*own_pixels(plan, block)))


def _patch_votes(plan: RunPlan, classifier: PatchClassifier, given: BlockInput, blend: votes.Blend) -> int:
    """Each patch cut out and classified alone; returns how many."""
    cells, count = plan.patch_px // plan.stride_px, 0
    members = None if plan.legend is None else plan.legend.members
    for batch in patches.patch_batches(
        given.read.pixels, _patches_of(given), patch_px=plan.patch_px, batch_size=PATCHES_AT_ONCE
    ):
        shares = classifier.cell_probabilities(batch.dn, plan.level, cells)
        blend.add(batch, votes.merged(shares, members, axis=1))
        count += len(batch.dn)
    return count


def _patches_of(given: BlockInput) -> patches.BlockPatches:
    if isinstance(given.placed, patches.BlockPatches):
        return given.placed
    raise TypeError("a block of pixels has no patches")


def work_of(plan: RunPlan, block: Block) -> tuple[Placed, Land] | None:
    """What to read for a block, and what of it is part of the area; None where there is nothing to map."""
    land = land_of(plan, block)
    placed = block_context(plan, block) if plan.engine == "pixels" else patches.block_patches(plan, block)
    return None if placed is None or not land.cells.any() else (placed, land)


def no_scores(plan: RunPlan, block: Block) -> CellScores:
    """Those of a block with nothing to map."""
    nothing = np.zeros(block.shape, np.bool_)
    return CellScores(
        probabilities=np.zeros((len(plan.classes), *block.shape), np.float32),
        cover=np.zeros((len(plan.covers), *block.shape), np.float32),
        doubt=np.zeros((int(plan.tells_doubt), *block.shape), np.float32),
        mapped=nothing,
        observed=nothing,
        clouded=nothing,
        failed=nothing,
    )


def land_of(plan: RunPlan, block: Block) -> Land:
    """What of a block's land belongs to the area."""
    area = plan.land if plan.area_wkt is None else shapely.from_wkt(plan.area_wkt)
    shares = _shares_in(area, plan.pixel_geobox(*own_pixels(plan, block)))
    cells = np.ones(block.shape, np.bool_)
    if plan.is_clipped:
        cells = votes.count_in_cells(shares, plan.stride_px) > 0
    return Land(cells=cells, shares=shares)


def _shares_in(geometry: BaseGeometry, grid: GeoBox) -> NDArray[np.uint16]:
    """(y, x), how much of each pixel of a grid lies in a geometry in its CRS, as ``Land.shares`` has it."""
    inside = _centres_in(geometry, grid)
    shares = np.where(inside, np.uint16(AREA_STEPS), np.uint16(0))
    near = surfaces(shapely.intersection(shapely.make_valid(geometry), _around(grid)))
    if near.is_empty:
        return shares
    # Centres tell of every pixel but those that the outline goes through.
    cut = pixels_in(near.boundary, grid, all_touched=True)
    rows, cols = np.nonzero(cut)
    size = grid.affine.a
    left, top = grid.affine.c + cols * size, grid.affine.f - rows * size
    pixels = shapely.box(left, top - size, left + size, top)
    parts = shapely.area(shapely.intersection(pixels, near)) / size**2
    shares[rows, cols] = np.rint(parts * AREA_STEPS)
    return shares


def _around(grid: GeoBox) -> Polygon:
    """A grid's rectangle and a pixel more: an area may have many more corners than a block sees."""
    return shapely.box(*shapely.box(*grid.boundingbox.bbox).buffer(grid.affine.a).bounds)


def _centres_in(geometry: BaseGeometry, grid: GeoBox) -> NDArray[np.bool_]:
    """(y, x), True where the centre of a pixel of a grid lies in a geometry in its CRS."""
    near = shapely.clip_by_rect(geometry, *_around(grid).bounds)
    if near.is_empty:
        return np.zeros(grid.shape, np.bool_)
    return pixels_in(near, grid)


def cells_touching(geometry: BaseGeometry, plan: RunPlan, block: Block) -> NDArray[np.bool_]:
    """(row, col), True where a cell touches a geometry in the map's CRS."""
    shapely.prepare(geometry)
    left = plan.left_m + np.arange(block.col_start, block.col_stop) * plan.cell_m
    top = plan.top_m - np.arange(block.row_start, block.row_stop) * plan.cell_m
    cells = shapely.box(left[None, :], top[:, None] - plan.cell_m, left[None, :] + plan.cell_m, top[:, None])
    return np.asarray(shapely.intersects(geometry, cells))
