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

from landuse.pipeline.read import read_block
from landuse.pipeline.read.read_block import Imagery, read_dates, read_pixels
from landuse.pipeline.read.read_scene import read_scene
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


@pytest.mark.parametrize("composite", ["best", "median", "medoid"])
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


def test_dates_are_read_one_by_one_when_they_are_asked_for(tmp_path, monkeypatch):
    scenes = [
        scene(tmp_path / f"{name}.tif", dn, day=day, spare=name == "c")
        for name, dn, day in (("a", 500, 1), ("b", 600, 2), ("a2", 700, 1), ("c", 800, 3))
    ]
    (tmp_path / "b.tif").unlink()
    read_so_far = []
    monkeypatch.setattr(
        read_block, "read_scene", lambda one, *rest: read_so_far.append(one.id) or read_scene(one, *rest)
    )
    imagery = Imagery(scenes=tuple(scenes), bands=("B04",), composite="best", margin_m=160.0)
    with Remote() as remote:
        dates = read_dates(imagery, GRID, remote, "a block")
        assert read_so_far == []
        first = next(dates)
        assert set(read_so_far) == {"a"}  # clear everywhere: the day's other scene is not needed
        assert (first.pixels.dn.values == 500).all()
        second, third = dates
    assert not second.pixels.observed.values.any()
    assert ([lost.id for lost in second.lost], len(second.failures)) == (["b"], 1)
    assert (third.pixels.dn.values == 800).all()  # spare or not: every date has its say


@pytest.mark.parametrize("composite", ["median", "medoid"])
def test_many_days_are_read_in_strips_and_nothing_changes(tmp_path, monkeypatch, composite):
    scenes = [
        scene(tmp_path / f"{day}.tif", 100 * day, day=day, columns=columns)
        for day, columns in ((1, 192), (2, 120), (4, 150), (8, 60))
    ]
    (tmp_path / "4.tif").unlink()
    whole = read(scenes, composite)
    asked = []
    monkeypatch.setattr(
        read_block,
        "read_scene",
        lambda one, bands, grid, *rest: asked.append(grid.shape[0]) or read_scene(one, bands, grid, *rest),
    )
    monkeypatch.setattr(read_block, "MOST_BYTES", 100_000)
    found = read(scenes, composite)
    assert (set(asked), len(asked)) == ({64}, 12)
    assert found.pixels.identical(whole.pixels)
    assert (found.failures, found.lost) == (whole.failures, whole.lost)
    assert len(np.unique(whole.pixels.dn.values)) >= 2
