"""The picture of the imagery. Oracle: a slow loop over its pixels, and arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landuse.pipeline.read.rgb_image import draw_picture, picture_bands, stretch
from tests.pixels import block_of_pixels

BANDS = ("B08", "B02", "B03", "B04")


def pixels(seed, rows, cols):
    rng = np.random.default_rng(seed)
    observed = rng.random((rows, cols)) < 0.8
    dn = rng.integers(1, 9000, (len(BANDS), rows, cols)).astype(np.uint16) * observed
    return block_of_pixels(dn=dn, observed=observed, usable=observed, bands=BANDS)


@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_every_pixel_is_the_mean_of_what_was_observed(seed, rows, cols, step):
    block = pixels(seed, rows * step, cols * step)
    picture = draw_picture(block, step_px=step)
    assert picture.shape == (3, rows, cols)
    for color, band in enumerate((3, 2, 1)):  # B04, B03, B02
        for row in range(rows):
            for col in range(cols):
                values = [
                    int(block.dn.values[band, row * step + y, col * step + x])
                    for y in range(step)
                    for x in range(step)
                    if block.observed.values[row * step + y, col * step + x]
                ]
                if not values:
                    assert picture[color, row, col] == 0
                    continue
                share = min(sum(values) / len(values) / 10_000 / 0.4, 1)
                assert picture[color, row, col] == pytest.approx(1 + 254 * math.sqrt(share), abs=0.5001)


def test_a_model_without_the_visible_bands_is_shown_in_grey():
    assert picture_bands(BANDS) == ("B04", "B03", "B02")
    assert picture_bands(("B08", "B11")) == ("B08", "B08", "B08")


def test_stretching_spreads_the_shades_and_keeps_nodata_black():
    picture = np.zeros((3, 40, 50), np.uint8)
    picture[:, 5:] = np.random.default_rng(0).integers(60, 101, (3, 35, 50))
    picture[0, 20, 20] = 255  # one glint does not darken the rest
    shown = stretch(picture)
    assert (shown[:5] == 0).all()
    assert (shown[5:] > 0).all()
    assert shown[5:].max() == 255
    assert shown[5:].min() == 1
    assert np.median(shown[5:]) == pytest.approx(128, abs=8)
    assert (stretch(np.zeros((3, 4, 4), np.uint8)) == 0).all()
