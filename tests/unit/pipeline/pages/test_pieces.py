"""Pieces of a map in a page. Oracles: loops over single cells, and what the page's tests decode."""

import zlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landuse.pipeline.cells import NODATA_ID, CellStatus
from landuse.pipeline.pages import pieces
from landuse.pipeline.pages.pieces import DIGITS, Detail, most_frequent, pack_cells, pack_map, to_text
from tests.views import cells_of, noisy_view, pixel_view, small_view

EXACT = Detail(share_step=1, quality=80)


@given(st.binary(max_size=200))
def test_text_holds_the_bytes_as_one_number(content):
    text = to_text(content)
    assert set(text) <= set(DIGITS)
    assert not set(text) & set('<"\\ \n\r')
    number = 0
    for high, low in zip(text[::2], text[1::2], strict=True):
        number = number * 8192 + DIGITS.index(high) * 91 + DIGITS.index(low)
    bits = 8 * (4 + len(content))
    assert number >> (-bits % 13) == int.from_bytes(len(content).to_bytes(4, "big") + content, "big")
    assert len(text) == 2 * -(-bits // 13)


def test_a_piece_holds_its_cells_and_no_others():
    view = noisy_view(200)  # more than 256 pairs of probabilities
    rows, cols = slice(40, 120), slice(60, 200)
    found = cells_of(zlib.decompress(pack_cells(view, rows, cols, EXACT)), (80, 140))
    assert len(set(zip(found["confidence"].ravel(), found["secondShare"].ravel(), strict=True))) > 256
    for name, layer in (
        ("classes", view.classes),
        ("status", view.status),
        ("covers", view.land_cover),
        ("second", view.second),
        ("confidence", view.confidence),
        ("secondShare", view.second_share),
    ):
        np.testing.assert_array_equal(found[name], layer[rows, cols])


@pytest.mark.parametrize("step", sorted({detail.share_step for detail in pieces.DETAILS}))
def test_probabilities_are_rounded_to_the_nearest_step_and_nodata_stays(step):
    shares = np.arange(256, dtype=np.uint8)[None]
    view = small_view(
        classes=np.zeros_like(shares),
        status=np.ones_like(shares),
        confidence=shares,
        land_cover=None,
        second=shares,
        second_share=shares,
    )
    whole = slice(0, 1), slice(0, 256)
    raw = zlib.decompress(pack_cells(view, *whole, replace(EXACT, share_step=step)))
    for name in ("confidence", "secondShare"):
        found = cells_of(raw, (1, 256))[name][0].astype(int)
        assert found[255] == NODATA_ID
        assert (found[:251] % step == 0).all()
        assert found[250] == 250
        assert (np.abs(found[:251] - np.arange(251)) <= step / 2).all()


@pytest.mark.parametrize(("shape", "factor"), [((7, 10), 3), ((4, 4), 2), ((5, 3), 1), ((1, 9), 4)])
def test_the_most_frequent_value_of_each_square(shape, factor):
    values = np.random.default_rng(2).integers(0, 4, shape).astype(np.uint16) * 300
    found = most_frequent(values, factor)
    assert found.shape == tuple(-(-side // factor) for side in shape)
    for row, col in np.ndindex(found.shape):
        square = values[row * factor : (row + 1) * factor, col * factor : (col + 1) * factor]
        counts = Counter(square.ravel().tolist())
        most = max(counts.values())
        assert found[row, col] == min(value for value, count in counts.items() if count == most)


def test_the_overview_has_the_class_of_most_cells_and_their_mean_confidence(monkeypatch):
    monkeypatch.setattr(pieces, "WHOLE_PX", 4)
    monkeypatch.setattr(pieces, "PIECE_PX", 4)
    view = pixel_view()
    packed = pack_map(view, 10**7)
    assert (packed.cells.overview_factor, packed.cells.side) == (3, 4)
    assert sorted(packed.cells.pieces) == [(row, col) for row in range(2) for col in range(3)]
    raw = np.frombuffer(zlib.decompress(bytes_of(packed.cells.overview)), np.uint8).reshape(4, 2, 3)
    for row, col in np.ndindex(2, 3):
        square = slice(3 * row, 3 * row + 3), slice(3 * col, 3 * col + 3)
        cells = zip(view.status[square].ravel().tolist(), view.classes[square].ravel().tolist(), strict=True)
        counts = Counter(cells)
        chosen = (int(raw[1, row, col]), int(raw[0, row, col]))
        assert counts[chosen] == max(counts.values())
        known = view.confidence[square][view.classes[square] != NODATA_ID]
        assert abs(int(raw[2, row, col]) - known.mean()) <= pieces.OVERVIEW_SHARE_STEP / 2 + 0.5
        covers = Counter(view.land_cover[square].ravel().tolist())
        assert covers[int(raw[3, row, col])] == max(covers.values())


def bytes_of(text):
    bits = "".join(
        f"{DIGITS.index(high) * 91 + DIGITS.index(low):013b}"
        for high, low in zip(text[::2], text[1::2], strict=True)
    )
    length = int(bits[:32], 2)
    return int(bits[32 : 32 + 8 * length], 2).to_bytes(length, "big")


def test_the_finest_detail_that_fits_is_taken_and_then_the_rasters_are_thinned(monkeypatch):
    monkeypatch.setattr(pieces, "WHOLE_PX", 64)
    monkeypatch.setattr(pieces, "PIECE_PX", 32)
    view = noisy_view(250)

    def size(packed):
        return packed.cells.size_bytes + packed.image.size_bytes

    finest = pack_map(view, 10**9)
    assert finest.detail == pieces.DETAILS[0]
    before = size(finest)
    seen = {0}
    while finest.view.thinned == 1:
        packed = pack_map(view, before - 1)
        assert size(packed) < before
        if packed.view.thinned == 1:
            assert pieces.DETAILS.index(packed.detail) > max(seen)
            seen.add(pieces.DETAILS.index(packed.detail))
        before, finest = size(packed), packed
    assert len(seen) > 2
    thin = finest.view
    assert (thin.thinned, thin.shown_m) == (2, 20.0)
    assert thin.image.shape == (125, 125, 3)
    for name in ("classes", "confidence", "status", "land_cover", "second", "second_share"):
        np.testing.assert_array_equal(getattr(thin, name), getattr(view, name)[::2, ::2])
    assert (thin.status == CellStatus.CLOUDY).any()
    assert pack_map(view, 1).view.thinned == 4  # small rasters are packed whatever that takes
