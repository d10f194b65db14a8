"""The band orders and levels of the data that networks are trained on."""

from __future__ import annotations

from landuse.sentinel2 import BANDS

RGB = ("B04", "B03", "B02")
"""Red, green, blue: the order of EuroSAT's JPEGs and of every RGB network here."""

EUROSAT_TIFF = (*BANDS[:8], "B09", "B10", "B11", "B12", "B8A")
"""Band order of EuroSAT's 13-band TIFFs: B8A comes last."""

EUROSAT_JPEG_MAX_DN = 2750
"""EuroSAT's JPEGs are ``clip(DN, 0, 2750) / 2750 x 255``."""
