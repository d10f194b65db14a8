"""One block of a map: read, composite, classify, votes. The unit of work, here and on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import numpy as np
import shapely

from landuse.pipeline.blocks import patches, votes
from landuse.pipeline.blocks.context import BlockContext, block_context, filled, own_pixels
from landuse.pipeline.blocks.plan import RunPlan
from landuse.pipeline.cells import AREA_STEPS, Block, BlockRasters, CellScores, PixelCounts
from landuse.pipeline.geometry import surfaces
from landuse.pipeline.pixels import cut_out, pixels_in
from landuse.pipeline.read.read_block import BlockPixels, Imagery, footprints_in, read_pixels
from landuse.pipeline.read.rgb_image import draw_picture
from landuse.pipeline.write.block_file import BlockFile

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

    from landuse.contract import ModelContract
    from landuse.pipeline.remote.files import Remote


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
    """Its pixels, and what could not be read of them."""


def imagery_of(plan: RunPlan) -> Imagery:
    """What a plan's blocks are read from."""
    return Imagery(scenes=plan.scenes, bands=plan.bands, composite=plan.composite, margin_m=plan.cell_m)


def read_input(plan: RunPlan, block: Block, remote: Remote) -> BlockInput | None:
    """The reading half of a block; None where there is nothing to map."""
    work = work_of(plan, block)
    if work is None:
        return None
    placed, land = work
    read = read_pixels(
        imagery_of(plan), plan.pixel_geobox(placed.rows_px, placed.cols_px), remote, block.name
    )
    return BlockInput(placed=placed, land=land, read=read)


def classify_block(
    plan: RunPlan, block: Block, classifier: Classifier, given: BlockInput | None
) -> BlockFile:
    """The computing half of a block."""
    if given is None:
        side = plan.stride_px // plan.picture_step_px
        rows, cols = block.shape
        picture = np.zeros((3, rows * side, cols * side), np.uint8)
        scores, patch_count = no_scores(plan, block), 0
    else:
        scores, patch_count = score_block(plan, block, classifier, given)
        picture = draw_picture(_pixels_of_cells(plan, block, given), step_px=plan.picture_step_px)
    land = land_of(plan, block) if given is None else given.land
    rasters = votes.block_rasters(
        scores, land.cells, probabilities=plan.probabilities, min_confidence=plan.min_confidence
    )
    placed = given.placed if given is not None else None
    return BlockFile(
        rasters=rasters,
        counts=_count_pixels(plan, block, rasters, land, given),
        picture=picture,
        observed=bool(scores.observed.any()),
        failures=() if given is None else given.read.failures,
        patches=patch_count,
        pixels=placed.pixels if isinstance(placed, BlockContext) else 0,
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


def score_block(
    plan: RunPlan, block: Block, classifier: Classifier, given: BlockInput
) -> tuple[CellScores, int]:
    """What a block's cells are found to be, and how many patches were classified for that."""
    own = _pixels_of_cells(plan, block, given)
    if plan.engine == "pixels":
        lost = votes.count_in_cells(_lost_pixels(plan, block, given), plan.stride_px) > 0
        # The engine follows from the contract of this model: it is one of pixels.
        landuse, cover, doubt = _own_scores(plan, block, cast("PixelClassifier", classifier), given)
        scores = votes.settle_pixels(
            landuse, cover, doubt, own, cell_px=plan.stride_px, inside=given.land.cells, lost=lost
        )
        return scores, 0
    blend = votes.Blend(block, classes=len(plan.classes))
    count = _patch_votes(plan, cast("PatchClassifier", classifier), given, blend)
    scores = blend.settle(
        own,
        stride_px=plan.stride_px,
        inside=given.land.cells,
        lost=cells_touching(footprints_in(given.read.lost, plan.crs), plan, block),
    )
    return scores, count


def _own_scores(
    plan: RunPlan, block: Block, classifier: PixelClassifier, given: BlockInput
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities of the classes and the covers of the block's own pixels, ``(class, y, x)``, and doubt."""
    own = _pixels_of_cells(plan, block, given)
    if not own.usable.values.any():  # nothing of it would be kept
        shape = own.usable.shape
        return (
            np.zeros((len(plan.classes), *shape), np.float32),
            np.zeros((len(plan.covers), *shape), np.float32),
            np.zeros((int(plan.tells_doubt), *shape), np.float32),
        )
    dn = filled(given.read.pixels, step_px=plan.position_px)
    scores = classifier.pixel_scores(dn, plan.bands, plan.level)
    (top, bottom), (left, right) = (
        (start - around[0], stop - around[0])
        for (start, stop), around in zip(
            own_pixels(plan, block), (given.placed.rows_px, given.placed.cols_px), strict=True
        )
    )
    inner = np.s_[:, top:bottom, left:right]
    doubt = np.zeros((0, *dn.shape[1:]), np.float32) if scores.doubt is None else scores.doubt[None]
    landuse = votes.merged(scores.landuse[inner], None if plan.legend is None else plan.legend.members)
    return landuse, scores.cover[inner], doubt[inner]


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
