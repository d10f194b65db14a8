"""Pure: which pixels of one scene are clear of cloud, by its classification or by its spectrum.

L2A brings a scene classification (SCL) whose cloud classes are too tight; they grow by a margin.
L1C brings none: s2cloudless tells cloud from its spectrum. That finds no cloud shadow and leaves
snow alone, which SCL masks both.

A pixel's mask depends on pixels at most ``MASK_MARGIN_PX`` away. What lies outside the array counts
as what the scene does not show, so a rectangle read with that margin has, inside, the whole scene's mask.
"""

from __future__ import annotations

from functools import cache
from math import floor
from typing import TYPE_CHECKING

import numpy as np

from landuse.pipeline.scene import L1C_CLOUD_BANDS
from landuse.sentinel2 import DN_PER_REFLECTANCE, RESOLUTION_M

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from s2cloudless.cloud_detector import S2PixelCloudDetector

SCL_USABLE = {
    2: "dark area or topographic shadow",
    4: "vegetation",
    5: "bare soil",
    6: "water",
    7: "unclassified",
}
"""Scene classification values whose pixels are mapped (Sentinel-2 L2A product definition).

Every other is not: 0 no data, 1 saturated or defective, 3 cloud shadow, 8 and 9 cloud, 10 thin cirrus, 11
snow or ice; and what the definition does not know, since a foreign fill value is no land either.
"""

SCL_GROWING = (3, 8, 9, 10)
"""Those with edges that reach further than SCL says. Snow, defects and nodata end where they end."""

SCL_MARGIN_M = 100.0
"""How far around clouds and their shadows pixels are not mapped either.

Sen2Cor decides pixel by pixel at 20 m, and the haze at a cloud's rim stays below its thresholds.
Over Exeter in August 2024, fields 40 m from a cloud were 80 to 210 DN brighter in B02 than far ones,
and 50 to 140 DN at 100 m. The price is the clear land in a strip of 100 m around every cloud: 4 % of
a view with few clouds, up to 17 % of one with many.
"""

SCL_SPECK_M = 60.0
"""Spots of cloud or shadow in which no square of this side fits stay masked but do not grow.

SCL calls single bright roofs cloud and dark streets shadow, on a day without a cloud too. Grown, each
would take a disc of more than 200 m out of a town. The price: the rim of so small a cloud is mapped.
"""


PIXEL_M = RESOLUTION_M["B02"]
"""Pixel size of ``clear_by_spectrum``'s input in metres."""

MASK_LATTICE_PX = RESOLUTION_M["B10"] // PIXEL_M
"""Side in pixels of the cells ``clear_by_spectrum`` decides on: B01, B09 and B10 are no finer."""

CLOUD_PROBABILITY = 0.5
"""A cell is cloud where the mean probability around it is above this.

With s2cloudless 0.4 is common, with the mean over 240 m. Measured, 0.5 with a mean over 120 m loses
less clear land and finds smaller clouds: of 314 EuroSAT patches 0.7 % is masked instead of 0.9 %, and a
disc of thick cloud set into a clear scene is found from 180 m across instead of 300 m, one of thin
cloud from 300 m instead of more than 400 m. The price: 1.8 % of the industrial patches instead of 0.7 %.
"""

AVERAGED_M = 120
"""Radius of the disc the probability is averaged over: lone bright roofs drop out."""

GROWN_M = 120
"""Radius of the disc that cloud grows by: the whole cells nearest to ``SCL_MARGIN_M``."""

HAZE_REFLECTANCE = {"L2A": (0.04, 0.12), "L1C": (0.093, 0.169)}
"""Blue less half the red where cloud begins, and where it is certain, of scenes without a mask.

It is the haze optimised transform (Zhang et al. 2002, Remote Sensing of Environment 82, 173-187): land lies
near one line of red over blue, and haze moves it away to the blue. L1C's bounds are L2A's below the path
radiance. Measured as a share of the scene: over Exeter 2, 68, 6, 5 and 46 % where SCL calls 0, 71, 1, 7 and
51 % cloud (and 45 % of the fourth date thin cirrus, which no visible band shows); over Slovenia 5, 85 and 0 %
on the two cloudy dates and the clear one; 1 % of 3,969 clear patches, 6 % of their built land.
"""

MASK_MARGIN_PX = max(
    floor(SCL_MARGIN_M / PIXEL_M) + round(SCL_SPECK_M / PIXEL_M) - 1,
    (AVERAGED_M + GROWN_M) // PIXEL_M,
)
"""Pixels of 10 m around a rectangle that both masks need to be exact inside it.

It is a multiple of ``MASK_LATTICE_PX``, and enough for SCL in pixels larger than 10 m as well.
"""


def clear_by_scl(scl: NDArray[np.generic], pixel_m: float) -> NDArray[np.bool_]:
    """Mask of an L2A scene.

    Args:
        scl: scene classification, (y, x); 0 where the scene shows nothing.
        pixel_m: side of its pixels in metres.

    Returns:
        (y, x), True = usable.
    """
    from scipy import ndimage

    unusable = ~np.isin(scl, list(SCL_USABLE))
    speck_px = max(1, round(SCL_SPECK_M / pixel_m))
    cloud = ndimage.binary_opening(np.isin(scl, SCL_GROWING), np.ones((speck_px, speck_px), np.bool_))
    if cloud.any():  # the distance to nothing is not defined
        unusable |= ndimage.distance_transform_edt(~cloud, sampling=pixel_m) <= SCL_MARGIN_M
    return ~unusable


def clear_by_spectrum(dn: NDArray[np.uint16], observed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of an L1C scene, by s2cloudless (Skakun et al. 2022, doi:10.1016/j.rse.2022.112990).

    Args:
        dn: (``L1C_CLOUD_BANDS``, y, x), top-of-atmosphere reflectance x 10000 without offset, in pixels
            of 10 m. Its upper left corner lies on a multiple of 60 m, the same for every rectangle.
        observed: (y, x), True where ``dn`` is data.

    Returns:
        (y, x), True = observed and clear. What was not observed is neither: the probability is averaged
        over observed cells only, and only they are cloud that grows.

    Raises:
        ValueError: bands are missing, or the shapes differ or do not divide into cells of 60 m.
    """
    _, rows, cols = dn.shape
    if observed.shape != (rows, cols) or rows % MASK_LATTICE_PX or cols % MASK_LATTICE_PX:
        raise ValueError(
            f"dn {dn.shape} and observed {observed.shape} do not share whole cells of "
            f"{MASK_LATTICE_PX} x {MASK_LATTICE_PX} px"
        )
    pixels = _cell_sums(observed)  # (row, col)
    sums = np.stack([_cell_sums(np.where(observed, band, 0)) for band in dn])  # (band, row, col)
    clear = _clear_cells(sums / np.maximum(pixels, 1), pixels > 0, RESOLUTION_M["B10"])
    return observed & clear.repeat(MASK_LATTICE_PX, axis=0).repeat(MASK_LATTICE_PX, axis=1)


def cloud_by_haze(blue: NDArray[np.uint16], red: NDArray[np.uint16], level: str) -> NDArray[np.float64]:
    """How much of each pixel looks like cloud: to rank scenes without a mask, not to mask them.

    Snow looks like it too; cirrus and shadow do not.

    Args:
        blue: DN of B02, (y, x).
        red: DN of B04, (y, x).
        level: ``"L1C"`` or ``"L2A"``.

    Returns:
        (y, x), 0..1.
    """
    low, high = HAZE_REFLECTANCE[level]
    haze = (blue.astype(np.float64) - 0.5 * red) / DN_PER_REFLECTANCE
    share: NDArray[np.float64] = ((haze - low) / (high - low)).clip(0, 1)
    return share


def clear_by_coarse_spectrum(
    dn: NDArray[np.uint16], observed: NDArray[np.bool_], pixel_m: float
) -> NDArray[np.bool_]:
    """``clear_by_spectrum`` for pixels of 60 m and more, each decided on by itself: to look a scene over.

    Args:
        dn: (``L1C_CLOUD_BANDS``, y, x), top-of-atmosphere reflectance x 10000 without offset.
        observed: (y, x), True where ``dn`` is data.
        pixel_m: side of the pixels in metres.

    Returns:
        (y, x), True = observed and clear.
    """
    return _clear_cells(dn, observed, pixel_m)


def _clear_cells(
    dn: NDArray[np.uint16] | NDArray[np.float64], seen: NDArray[np.bool_], cell_m: float
) -> NDArray[np.bool_]:
    """Seen and clear cells ``(row, col)`` of their mean DN ``(band, row, col)``."""
    from s2cloudless.utils import cv2_disk
    from scipy import ndimage

    if len(dn) != len(L1C_CLOUD_BANDS):
        raise ValueError(f"{len(dn)} bands; the cloud test needs {', '.join(L1C_CLOUD_BANDS)}")
    if not seen.any():
        return np.zeros_like(seen)
    reflectance = dn[:, seen].T / DN_PER_REFLECTANCE  # (cell, band)
    probability = np.zeros(seen.shape)
    probability[seen] = _detector().get_cloud_probability_maps(reflectance[None, None])[0, 0]
    # Not the detector's own average: it mirrors what it sees at the array's edge, in float32.
    averaged = cv2_disk(round(AVERAGED_M / cell_m)).astype(np.float64)
    total = ndimage.correlate(probability, averaged, mode="constant")
    count = ndimage.correlate(seen.astype(np.float64), averaged, mode="constant")
    grown = cv2_disk(round(GROWN_M / cell_m)).astype(np.bool_)
    cloud: NDArray[np.bool_] = ndimage.binary_dilation(seen & (total > CLOUD_PROBABILITY * count), grown)
    return seen & ~cloud


def _cell_sums(values: NDArray[np.uint16] | NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Sum over each cell: (y, x) pixels to (row, col) cells."""
    rows, cols = values.shape[0] // MASK_LATTICE_PX, values.shape[1] // MASK_LATTICE_PX
    cells = values.reshape(rows, MASK_LATTICE_PX, cols, MASK_LATTICE_PX)
    sums: NDArray[np.uint32] = cells.sum((1, 3), dtype=np.uint32)
    return sums


@cache
def _detector() -> S2PixelCloudDetector:
    """The detector; its model is 11 MB of text, which it reads at first use."""
    from s2cloudless.cloud_detector import S2PixelCloudDetector

    return S2PixelCloudDetector(average_over=None, dilation_size=None)
