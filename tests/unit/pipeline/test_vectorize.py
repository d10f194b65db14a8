"""Polygons against a flood fill, cell by cell."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox

from landuse.pipeline.vectorize import polygonize

NAMES = ("A", "B", "C")


def components(classes):
    """4-connected components by flood fill: list of (value, cells)."""
    left = {(r, c) for r, c in np.ndindex(classes.shape) if classes[r, c] != 255}
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


@settings(max_examples=80, deadline=None)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 12)),
        elements=st.sampled_from([0, 1, 2, 255]),
    )
)
def test_polygons_are_the_4_connected_components(classes):
    confidence = np.random.default_rng(0).random(classes.shape).astype(np.float32)
    geobox = GeoBox(classes.shape, Affine(160, 0, 500_000, 0, -160, 5_300_000), "EPSG:32633")
    frame = polygonize(classes, confidence, geobox, names=NAMES, nodata=255)
    assert frame.geometry.is_valid.all()
    assert frame.area_m2.sum() == pytest.approx((classes != 255).sum() * 160**2)
    np.testing.assert_allclose(frame.geometry.area, frame.area_m2)
    expected = sorted(
        (value, len(cells), float(np.mean([float(confidence[cell]) for cell in cells])))
        for value, cells in components(classes)
    )
    got = sorted(
        (int(row.class_id), round(row.area_m2 / 160**2), float(row.confidence)) for row in frame.itertuples()
    )
    np.testing.assert_allclose(np.array(got).reshape(-1, 3), np.array(expected).reshape(-1, 3), atol=1e-6)
    for row in frame.itertuples():
        assert row.class_name == NAMES[row.class_id]
        for r, c in np.ndindex(classes.shape):
            centre = shapely.Point(500_000 + c * 160 + 80, 5_300_000 - r * 160 - 80)
            if row.geometry.contains(centre):
                assert classes[r, c] == row.class_id


def test_no_cells_make_an_empty_layer_with_its_columns():
    classes = np.full((3, 4), 255, np.uint8)
    geobox = GeoBox(classes.shape, Affine(160, 0, 500_000, 0, -160, 5_300_000), "EPSG:32633")
    frame = polygonize(classes, np.zeros((3, 4), np.float32), geobox, names=NAMES, nodata=255)
    assert frame.empty
    assert list(frame.columns) == ["class_id", "class_name", "confidence", "area_m2", "geometry"]
    assert frame.crs == "EPSG:32633"
