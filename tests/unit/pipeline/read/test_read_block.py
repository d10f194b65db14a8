"""What becomes of a block when scenes, or parts of them, cannot be read. Oracle: the files themselves."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.warp import transform_bounds

from landuse.pipeline.read.read_block import Imagery, read_pixels
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.scene import BandAsset, Scene

CRS = "EPSG:32633"
LEFT, TOP, SIDE_PX = 512_000, 5_312_000, 192
GRID = GeoBox((SIDE_PX, SIDE_PX), Affine(10, 0, LEFT, 0, -10, TOP), CRS)


def scene(path, value, *, provider="local", columns=SIDE_PX, day=1, **fields):
    """A scene of one value over the first columns of the area; its footprint is the whole area's."""
    with rasterio.open(
        path, "w", driver="GTiff", height=SIDE_PX, width=columns, count=1, dtype="uint16", crs=CRS, nodata=0,
        transform=Affine(10, 0, LEFT, 0, -10, TOP),
    ) as file:  # fmt: skip
        file.write(np.full((SIDE_PX, columns), value, np.uint16), 1)
    edges = transform_bounds(CRS, "EPSG:4326", LEFT, TOP - 10 * SIDE_PX, LEFT + 10 * SIDE_PX, TOP)
    ring = tuple((float(lon), float(lat)) for lon, lat in shapely.box(*edges).exterior.coords)
    return Scene(
        id=path.stem, provider=provider, acquired_utc=datetime(2024, 6, day, 10, tzinfo=UTC), level="L2A",
        baseline="03.00", cloud_percent=None, footprint=(ring,), crs=CRS,
        bounds_m=(LEFT, TOP - 10 * SIDE_PX, LEFT + 10 * SIDE_PX, TOP),
        assets=(BandAsset(band="B04", href=str(path)),), **fields,
    )  # fmt: skip


def read(scenes, composite="best"):
    imagery = Imagery(scenes=tuple(scenes), bands=("B04",), composite=composite, margin_m=160.0)
    with Remote() as remote:
        return read_pixels(imagery, GRID, remote, "a block")


def test_a_mirror_is_read_where_the_scene_fails_and_it_is_recorded(tmp_path):
    first = scene(tmp_path / "first.tif", 500, mirrors=(scene(tmp_path / "second.tif", 700, provider="b"),))
    (tmp_path / "first.tif").unlink()
    found = read([first])
    assert (found.pixels.dn.values == 700).all()
    (failure,) = found.failures
    assert (failure.scene_id, failure.provider, failure.replaced_by) == ("first", "local", "b")
    assert found.lost == ()


def test_a_mirror_that_shows_less_is_filled_from_the_next_and_a_gap_is_no_secret(tmp_path):
    half = scene(tmp_path / "half.tif", 700, provider="b", columns=96)
    whole = scene(tmp_path / "whole.tif", 900, provider="c")
    first = scene(tmp_path / "first.tif", 500, mirrors=(half, whole))
    (tmp_path / "first.tif").unlink()
    found = read([first])
    assert (found.pixels.dn.values[0, :, :96] == 700).all()
    assert (found.pixels.dn.values[0, :, 96:] == 900).all()
    assert found.lost == ()

    found = read([replace(first, mirrors=(half,))])
    assert not found.pixels.observed.values[:, 96:].any()
    assert [failure.replaced_by for failure in found.failures] == [None]
    assert [lost.id for lost in found.lost] == ["first"]


@pytest.mark.parametrize("composite", ["best", "median"])
def test_a_spare_scene_is_read_only_where_another_is_lost(tmp_path, composite):
    first = scene(tmp_path / "first.tif", 500)
    spare = scene(tmp_path / "spare.tif", 700, day=2, spare=True)
    assert (read([first, spare], composite).pixels.dn.values == 500).all()
    (tmp_path / "first.tif").unlink()
    found = read([first, spare], composite)
    assert (found.pixels.dn.values == 700).all()
    assert [lost.id for lost in found.lost] == ["first"]


def test_nothing_readable_is_nothing_observed(tmp_path):
    first = scene(tmp_path / "first.tif", 500)
    (tmp_path / "first.tif").unlink()
    found = read([first])
    assert not found.pixels.observed.values.any()
    assert not found.pixels.dn.values.any()
