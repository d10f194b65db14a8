"""Mosaics of labelled patches whose borders are known to the pixel.

A canvas is cut into regions, the cells of a Voronoi diagram or pieces of parallel bands, and each region is
filled from one patch. Where a region is larger than its patch, the patch goes on mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

SPACING_PX = 48
"""Mean distance of the centres of Voronoi cells; most cells then fit into a patch of 64 px."""
BAND_WIDTHS_PX = (6, 40)
"""Narrowest and widest band; a river or a road is some 3 to 20 px wide."""
BAND_LENGTH_PX = 56


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mosaic:
    """One canvas."""

    dn: NDArray[np.uint16]
    """(bands, S, S), reflectance x 10000."""
    classes: NDArray[np.uint8]
    """(S, S), label of the patch that each pixel is from."""


def voronoi_regions(rng: np.random.Generator, side_px: int) -> NDArray[np.int64]:
    """(S, S) index of the nearest of points that lie about ``SPACING_PX`` apart."""
    centres = np.mgrid[
        -SPACING_PX : side_px + SPACING_PX : SPACING_PX, -SPACING_PX : side_px + SPACING_PX : SPACING_PX
    ]
    points = centres.reshape(2, -1).T + rng.uniform(0, SPACING_PX * 0.8, (centres[0].size, 2))
    pixels = np.mgrid[:side_px, :side_px].reshape(2, -1).T
    return cKDTree(points).query(pixels)[1].reshape(side_px, side_px)


def band_regions(rng: np.random.Generator, side_px: int) -> NDArray[np.int64]:
    """(S, S) index of pieces of parallel bands of random direction and widths."""
    angle = rng.uniform(0, np.pi)
    rows, cols = np.mgrid[:side_px, :side_px] - side_px / 2
    across, along = rows * np.cos(angle) + cols * np.sin(angle), cols * np.cos(angle) - rows * np.sin(angle)
    half = side_px  # no pixel lies further from the middle
    edges = [-half + 0.0]
    while edges[-1] < half:
        edges.append(edges[-1] + rng.uniform(*BAND_WIDTHS_PX))
    band = np.searchsorted(edges, across)
    shift = rng.uniform(0, BAND_LENGTH_PX, len(edges) + 1)
    piece = np.floor((along + half + shift[band]) / BAND_LENGTH_PX).astype(np.int64)
    return band * (2 * side_px) + piece


KINDS = {"cells": voronoi_regions, "bands": band_regions}
"""The kinds of regions; canvases take them in turn."""


def mosaic(
    patches: NDArray[np.uint16],
    labels: NDArray[np.uint8],
    regions: NDArray[np.int64],
    rng: np.random.Generator,
) -> Mosaic:
    """Fill each region from a patch drawn at random.

    Args:
        patches: (N, bands, P, P), DN.
        labels: (N,), class of each.
        regions: (S, S), which region each pixel belongs to.
        rng: draws the patches.
    """
    size = patches.shape[-1]
    dn = np.zeros((patches.shape[1], *regions.shape), np.uint16)
    classes = np.zeros(regions.shape, np.uint8)
    values, flat = np.unique(regions, return_inverse=True)
    flat = flat.reshape(regions.shape)
    order = np.argsort(flat, axis=None, kind="stable")
    starts = np.searchsorted(flat.ravel()[order], np.arange(len(values) + 1))
    for region in range(len(values)):
        rows, cols = np.unravel_index(order[starts[region] : starts[region + 1]], regions.shape)
        chosen = int(rng.integers(len(patches)))
        dn[:, rows, cols] = patches[chosen][:, _mirrored(rows, size), _mirrored(cols, size)]
        classes[rows, cols] = labels[chosen]
    return Mosaic(dn=dn, classes=classes)


def _mirrored(at: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Places along one axis, centred on the patch, and mirrored where they leave it."""
    spare = max(size - int(at.max() - at.min()) - 1, 0) // 2
    place = (at - at.min() + spare) % (2 * size)
    return np.minimum(place, 2 * size - 1 - place)


def mosaics(
    patches: NDArray[np.uint16], labels: NDArray[np.uint8], *, count: int, side_px: int, seed: int
) -> list[Mosaic]:
    """``count`` canvases, every other one of Voronoi cells and of bands."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        regions = list(KINDS.values())[index % len(KINDS)](rng, side_px)
        made.append(mosaic(patches, labels, regions, rng))
    return made
