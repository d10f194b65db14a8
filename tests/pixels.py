"""Blocks of pixels for tests, somewhere on Sentinel-2's lattice."""

from affine import Affine
from odc.geo.geobox import GeoBox

from landuse.pipeline.pixels import pixel_block


def block_of_pixels(dn, observed, usable, bands=None):
    """``pixel_block`` of plain arrays, on a grid of 10 m of its own size."""
    bands = bands or tuple(f"B{index + 1:02d}" for index in range(len(dn)))
    geobox = GeoBox(dn.shape[1:], Affine(10, 0, 512_000, 0, -10, 5_312_000), "EPSG:32633")
    return pixel_block(dn, observed, usable, bands=bands, geobox=geobox)
