"""Blocks of pixels. Oracle: the arrays that went in, and arithmetic on the lattice."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from landuse.pipeline.pixels import cut_out, pixel_block

CRS = "EPSG:32633"


def grid(left, top, height, width):
    return GeoBox((height, width), Affine(10, 0, left, 0, -10, top), CRS)


@pytest.fixture
def pixels():
    dn = np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50)
    seen = np.ones((40, 50), bool)
    return pixel_block(dn, seen, seen, bands=("B04", "B03", "B02"), geobox=grid(512_340, 5_310_070, 40, 50))


def test_it_knows_its_grid_and_holds_the_arrays_themselves():
    dn, seen = np.ones((1, 4, 5), np.uint16), np.ones((4, 5), bool)
    made = pixel_block(dn, seen, seen, bands=("B04",), geobox=grid(512_000, 5_310_000, 4, 5))
    assert made.odc.geobox == grid(512_000, 5_310_000, 4, 5)
    assert np.shares_memory(made.dn.values, dn)
    assert made.dn.dims == ("band", "y", "x")
    assert made.band.values.tolist() == ["B04"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"dn": np.ones((4, 5), np.uint16)},
        {"observed": np.ones((5, 4), bool)},
        {"usable": np.ones((3, 5), bool)},
        {"bands": ("B04", "B03")},
        {"geobox": grid(0, 0, 5, 4)},
    ],
)
def test_arrays_that_do_not_share_their_pixels_are_refused(wrong):
    seen = np.ones((4, 5), bool)
    values = {"dn": np.ones((1, 4, 5), np.uint16), "observed": seen, "usable": seen}
    values |= {"bands": ("B04",), "geobox": grid(0, 0, 4, 5)} | wrong
    with pytest.raises(ValueError, match="do not share"):
        pixel_block(**values)


@pytest.mark.parametrize(("row", "col"), [(0, 0), (7, 11), (30, 38)])
def test_a_part_is_the_pixels_of_its_grid_as_views(pixels, row, col):
    part = cut_out(pixels, grid(512_340 + 10 * col, 5_310_070 - 10 * row, 10, 12))
    np.testing.assert_array_equal(part.dn.values, pixels.dn.values[:, row : row + 10, col : col + 12])
    assert np.shares_memory(part.dn.values, pixels.dn.values)


@pytest.mark.parametrize(("row", "col"), [(-1, 0), (31, 0), (0, 39), (200, 200)])
def test_a_grid_that_reaches_beyond_is_refused(pixels, row, col):
    with pytest.raises(ValueError, match="reaches beyond"):
        cut_out(pixels, grid(512_340 + 10 * col, 5_310_070 - 10 * row, 10, 12))


@pytest.mark.parametrize(("east_m", "north_m"), [(5, 0), (0, 4), (0.5, 0)])
def test_a_grid_between_the_pixels_is_refused_and_not_rounded(pixels, east_m, north_m):
    with pytest.raises(ValueError, match="Incompatible grids"):
        cut_out(pixels, grid(512_440 + east_m, 5_309_970 + north_m, 10, 12))
