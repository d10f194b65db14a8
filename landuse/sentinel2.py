"""What ESA's Sentinel-2 products call and mean things: the one place."""

from __future__ import annotations

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Every band of the MSI, in order of wavelength."""

B8A_LAST = (*BANDS[:8], "B09", "B10", "B11", "B12", "B8A")
"""Every band in the order that some files have them, EuroSAT's 13-band TIFFs among them."""

SCL = "SCL"
"""The scene classification of L2A, handled like a band."""

RESOLUTION_M = dict(zip(BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20), strict=True))
"""Ground sampling distance of each band in metres."""

CENTER_WAVELENGTH_UM = dict(
    zip(
        BANDS,
        (0.443, 0.492, 0.560, 0.665, 0.704, 0.741, 0.783, 0.833, 0.865, 0.945, 1.374, 1.614, 2.202),
        strict=True,
    )
)
"""Centre wavelength of each band in micrometres (Sentinel-2 spectral response functions, S2A)."""

COMMON_NAMES = dict(
    zip(
        BANDS,
        (
            *("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078"),
            *("nir", "nir08", "nir09", "cirrus", "swir16", "swir22"),
        ),
        strict=True,
    )
)
"""``eo:common_name`` of each band (STAC electro-optical extension v2.0.0)."""

LEVELS = ("L1C", "L2A")
"""Top-of-atmosphere and surface reflectance. L2A has no B10."""

DN_PER_REFLECTANCE = 10_000
"""Digital numbers in landuse are reflectance x 10000 without offset, whatever the source stored."""

MAX_DN = 65_535
"""Largest digital number."""

OFFSET_BASELINE = (4, 0)
"""From processing baseline 04.00 on, products store ``reflectance x 10000 + 1000``, whatever the date."""

STORED_OFFSET_DN = 1000
"""What they add."""


def offset_of_baseline(baseline: str) -> float:
    """``offset`` of ``reflectance = stored / 10000 + offset`` for a processing baseline ``NN.NN``."""
    major, minor = (int(part) for part in baseline.split("."))
    return -STORED_OFFSET_DN / DN_PER_REFLECTANCE if (major, minor) >= OFFSET_BASELINE else 0.0
