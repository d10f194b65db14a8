"""Polygons, whatever strips the raster comes in, against GDAL's of the whole raster and a flood fill."""

import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox
from rasterio.features import shapes
from scipy.ndimage import gaussian_filter
from shapely.geometry import shape

from landuse.pipeline.write.polygons import polygonize

NAMES = ("A", "B", "C")
NODATA = 255
RASTERS = arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 0, 0, 1, 1, 2, NODATA]),
)


def grid(classes):
    return GeoBox(classes.shape, Affine(160, 0, 500_000, 0, -160, 5_300_000), "EPSG:32633")


def frames(classes, confidence, heights):
    """What each strip makes known; the strips are as high as ``heights``, over and over."""

    def strips():
        row = 0
        while row < len(classes):
            for height in heights:
                yield classes[row : row + height], confidence[row : row + height]
                row += height
                if row >= len(classes):
                    return

    return polygonize(strips(), grid(classes), names=NAMES, nodata=NODATA)


def polygons(classes, heights, confidence=None):
    confidence = np.ones(classes.shape, np.float32) if confidence is None else confidence
    return pd.concat(list(frames(classes, confidence, heights)))


def same_as_gdal(classes, heights):
    """Whether the polygons are those of GDAL, with the same vertices and no more, and valid."""
    frame = polygons(classes, heights)
    assert frame.geometry.is_valid.all()
    expected = [
        (value, shapely.make_valid(shape(geometry), method="structure"))
        for geometry, value in shapes(
            classes, mask=classes != NODATA, connectivity=4, transform=grid(classes).affine
        )
    ]
    got = sorted((row.class_id, row.geometry.normalize().wkb) for row in frame.itertuples())
    assert got == sorted((int(value), polygon.normalize().wkb) for value, polygon in expected)


def components(classes):
    """4-connected components by flood fill: list of (value, cells)."""
    left = {(r, c) for r, c in np.ndindex(classes.shape) if classes[r, c] != NODATA}
    found = []
    while left:
        cells, queue = set(), [left.pop()]
        while queue:
            r, c = queue.pop()
            cells.add((r, c))
            for near in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if near in left and classes[near] == classes[r, c]:
                    left.discard(near)
                    queue.append(near)
        found.append((int(classes[r, c]), cells))
    return found


@settings(max_examples=120)
@given(RASTERS, st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_polygons_of_strips_are_those_of_the_whole_raster(classes, heights):
    same_as_gdal(classes, heights)


@settings(max_examples=50)
@given(RASTERS, st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_cells_and_confidence_are_those_of_the_4_connected_components(classes, heights):
    confidence = np.random.default_rng(0).random(classes.shape).astype(np.float32)
    confidence[classes == NODATA] = np.nan
    frame = polygons(classes, heights, confidence)
    assert frame.area_ha.sum() == pytest.approx((classes != NODATA).sum() * 2.56)
    np.testing.assert_allclose(frame.geometry.area, frame.area_ha * 10_000)
    expected = sorted(
        (value, len(cells), float(np.mean([float(confidence[cell]) for cell in cells])))
        for value, cells in components(classes)
    )
    got = sorted((row.class_id, round(row.area_ha / 2.56, 6), row.confidence) for row in frame.itertuples())
    np.testing.assert_allclose(np.array(got).reshape(-1, 3), np.array(expected).reshape(-1, 3), rtol=1e-12)
    assert [NAMES[i] for i in frame.class_id] == frame.class_name.tolist()


HOSTILE = {
    "a snake": """
        .......
        aaaaaa.
        .....a.
        .aaaaa.
        .a.....
        .aaaaaa""",
    "a comb that joins at the end": """
        a.a.a.a
        a.a.a.a
        aba.aca
        aaaaaaa""",
    "rings in rings": """
        aaaaaaaaa
        abbbbbbba
        abaaaaaba
        abab.baba
        abaaaaaba
        abbbbbbba
        aaaaaaaaa""",
    "a ring that touches itself at a corner": """
        .aaa
        a..a
        a..a
        aaaa""",
    "holes that touch the rim and each other": """
        aaaaaa
        ab.aaa
        aab..a
        aaabaa
        .aaaab""",
    "corners where all four cells are of others": """
        abab
        baba
        acbc""",
    "one class": """
        aaa
        aaa""",
    "one column": """
        a
        a
        b
        .
        b""",
    "nothing": """
        ...
        ...""",
}


@pytest.mark.parametrize("height", [1, 2, 3, 9])
@pytest.mark.parametrize("drawn", HOSTILE.values(), ids=HOSTILE)
def test_hostile_shapes(drawn, height):
    rows = [[NODATA if cell == "." else "abc".index(cell) for cell in line] for line in drawn.split()]
    same_as_gdal(np.array(rows, np.uint8), [height])


def test_a_map_with_patches_of_all_sizes():
    rng = np.random.default_rng(0)
    fields = [gaussian_filter(rng.standard_normal((230, 310)), sigma) for sigma in (1, 1, 3)]
    classes = np.argmax([field / field.std() for field in fields], axis=0).astype(np.uint8)
    classes[rng.random(classes.shape) < 0.02] = NODATA
    same_as_gdal(classes, [37])


def test_a_polygon_is_known_as_soon_as_a_strip_ends_it():
    classes = np.uint8([[0, 1], [2, 1], [2, 1]])
    found = [sorted(frame.class_id) for frame in frames(classes, np.ones((3, 2), np.float32), [1])]
    assert found == [[], [0], [], [1, 2]]


def test_no_cells_make_an_empty_layer_with_its_columns():
    frame = polygons(np.full((3, 4), NODATA, np.uint8), [2])
    assert frame.empty
    assert list(frame.columns) == ["class_id", "class_name", "confidence", "area_ha", "geometry"]
    assert frame.crs == "EPSG:32633"
