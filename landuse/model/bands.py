"""The band orders and levels of the data that networks are trained on."""

from __future__ import annotations

from landuse.sentinel2 import B8A_LAST, BANDS

ALL = BANDS
"""Every band, in order of wavelength: ``--bands all``; L1C only, since L2A has no B10."""

NO_B10 = tuple(band for band in BANDS if band != "B10")
"""Every band that both levels have: ``--bands no-b10``."""

RGB = ("B04", "B03", "B02")
"""Red, green, blue: the order of EuroSAT's JPEGs and of every RGB network here."""

EUROSAT_TIFF = B8A_LAST
"""Band order of EuroSAT's 13-band TIFFs: B8A comes last."""

BAND_SETS = {"rgb": RGB, "all": ALL, "no-b10": NO_B10}
"""The values of ``--bands``."""

SPECTRAL_GROUPS = (
    ("B01", "B02", "B03", "B04"),
    ("B05", "B06", "B07"),
    ("B08", "B8A", "B09"),
    ("B10", "B11", "B12"),
)
"""Visible, red edge, near infrared, short-wave infrared: bands that fail and vary together."""

INPUT_MAX_DN = {
    "B01": 2750.0,
    "B02": 2750.0,
    "B03": 2750.0,
    "B04": 2750.0,
    "B05": 4000.0,
    "B06": 6000.0,
    "B07": 7000.0,
    "B08": 7000.0,
    "B8A": 8000.0,
    "B09": 8000.0,
    "B10": 200.0,
    "B11": 6000.0,
    "B12": 5000.0,
}
"""Where a network's input saturates, in DN.

The visible: as EuroSAT's JPEGs. B10: thick cirrus. B09: as B8A, without water vapour. The rest: EuroSAT's
mean plus four standard deviations, rounded up to the next thousand.
"""

EUROSAT_JPEG_MAX_DN = 2750
"""EuroSAT's JPEGs are ``clip(DN, 0, 2750) / 2750 x 255``."""
