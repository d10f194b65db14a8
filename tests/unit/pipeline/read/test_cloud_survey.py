"""The survey: the oracle is what was painted into the masks."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.warp import transform_bounds

from landuse.errors import NothingFoundError, ReadError
from landuse.pipeline.read.cloud_survey import survey
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.scene import BandAsset, Scene

CRS = "EPSG:32633"
LEFT, TOP, SIDE_PX = 500_000, 5_300_000, 100  # SCL pixels of 20 m
AREA = shapely.box(
    *transform_bounds(CRS, "EPSG:4326", LEFT, TOP - 20 * SIDE_PX, LEFT + 20 * SIDE_PX, TOP)
).buffer(-1e-4)


def scene(folder, name, day, clear, *, observed=np.s_[:, :], cloud=None, hour=10):
    """A scene whose mask is clear in the given window of the area, and cloud elsewhere."""
    scl = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    scl[observed] = 9
    scl[clear] = np.where(scl[clear] == 9, 5, 0)
    href = str(folder / f"{name}.tif")
    with rasterio.open(
        href, "w", driver="GTiff", height=SIDE_PX, width=SIDE_PX, count=1, dtype="uint8", crs=CRS, nodata=0,
        transform=Affine(20, 0, LEFT, 0, -20, TOP),
    ) as file:  # fmt: skip
        file.write(scl, 1)
    ring = tuple((float(lon), float(lat)) for lon, lat in AREA.exterior.coords)
    return Scene(
        id=name, provider="local", acquired_utc=datetime(2024, 6, day, hour, tzinfo=UTC), level="L2A",
        baseline="05.10", cloud_percent=cloud, footprint=(ring,), crs=CRS, bounds_m=None,
        assets=(BandAsset(band="SCL", href=href, scale=1.0),),
    )  # fmt: skip


def look(scenes, every_date=False, max_cloud_percent=100.0):
    with Remote() as remote:
        return survey(
            scenes, AREA, CRS, every_date=every_date, max_cloud_percent=max_cloud_percent, remote=remote
        )


ALL, NONE = np.s_[:, :], np.s_[:0, :0]
WEST, EAST, NORTH = np.s_[:, :50], np.s_[:, 50:], np.s_[:50, :]


def test_what_is_seen_and_clear_of_the_area_is_what_was_painted(tmp_path):
    (found,) = look([scene(tmp_path, "a", 1, NORTH, observed=np.s_[:, :80], cloud=99.0)]).scenes
    assert found.view.seen == pytest.approx(0.8, abs=0.02)
    # Clouds grow by 100 m, five pixels.
    assert found.view.clear == pytest.approx(0.45 * 0.8, abs=0.02)
    assert found.view.cloud_percent == pytest.approx(55, abs=2)


def test_tiles_of_one_day_stay_together_and_the_clearest_day_comes_first(tmp_path):
    scenes = [
        scene(tmp_path, "one", 1, ALL, observed=np.s_[:, :70]),
        scene(tmp_path, "west", 3, ALL, observed=WEST),
        scene(tmp_path, "east", 3, ALL, observed=EAST, hour=11),
        scene(tmp_path, "cloudy", 5, np.s_[:20, :]),
    ]
    for order in (scenes, scenes[::-1]):
        found = look(order).scenes
        assert [one.id for one in found] == ["east", "west", "one", "cloudy"]


def test_what_adds_nothing_is_spare_for_best_alone(tmp_path):
    scenes = [
        scene(tmp_path, "full", 1, np.s_[:, :90]),
        scene(tmp_path, "less", 2, WEST),
        scene(tmp_path, "rest", 3, np.s_[:, 60:]),
        scene(tmp_path, "again", 4, np.s_[:, 80:]),
    ]
    spare = {one.id: one.spare for one in look(scenes).scenes}
    assert spare == {"full": False, "less": True, "rest": False, "again": True}
    assert not any(one.spare for one in look(scenes, every_date=True).scenes)


def test_a_thousandth_of_the_area_is_not_spare(tmp_path):
    """Of a large area that is square kilometres. Few of 10,000 pixels are clear in the second one alone."""
    scenes = [
        scene(tmp_path, "full", 1, np.s_[:, :80]),
        scene(tmp_path, "little", 2, np.s_[40:52, 85:97]),  # five pixels a side are too near to cloud
        scene(tmp_path, "nothing", 3, np.s_[40:50, 85:95]),
    ]
    found = {one.id: one for one in look(scenes).scenes}
    assert 0 < found["little"].view.clear < 0.001
    assert {name: one.spare for name, one in found.items()} == {
        "full": False, "little": False, "nothing": True,
    }  # fmt: skip


def test_too_much_cloud_over_the_area_leaves_a_scene_out_and_it_is_told(tmp_path):
    scenes = [
        scene(tmp_path, "good", 1, np.s_[:, :80], cloud=95.0),
        scene(tmp_path, "bad", 2, WEST, cloud=1.0),
    ]
    found = look(scenes, max_cloud_percent=40)
    assert [one.id for one in found.scenes] == ["good"]
    assert [(one.id, one.view.cloud_percent > 40) for one in found.left_out] == [("bad", True)]
    with pytest.raises(NothingFoundError, match=r"clearest has 2\d\.\d % cloud there, above --max-cloud 10"):
        look(scenes, max_cloud_percent=10)


def test_a_mask_that_cannot_be_read_is_told_and_its_scene_judged_by_what_it_states(tmp_path):
    scenes = [scene(tmp_path, "sound", 1, ALL), scene(tmp_path, "lost", 2, ALL, cloud=20.0)]
    (tmp_path / "lost.tif").unlink()
    found = look(scenes)
    assert [one.id for one in found.scenes] == ["sound", "lost"]
    (failure,) = found.failures
    assert (failure.scene_id, failure.band, failure.replaced_by) == ("lost", "SCL", None)


def test_when_no_mask_can_be_read_that_is_a_failed_read_and_not_nothing_found(tmp_path):
    scenes = [scene(tmp_path, "a", 1, ALL, cloud=60.0), scene(tmp_path, "b", 2, ALL, cloud=70.0)]
    for path in tmp_path.glob("*.tif"):
        path.unlink()
    with pytest.raises(ReadError, match="the cloud masks of 2 could not be read") as caught:
        look(scenes, max_cloud_percent=40)
    assert caught.value.exit_code == 5


def test_a_mask_that_cannot_be_read_may_hide_the_one_clear_scene(tmp_path):
    scenes = [scene(tmp_path, "cloudy", 1, NONE), scene(tmp_path, "lost", 2, ALL, cloud=60.0)]
    (tmp_path / "lost.tif").unlink()
    with pytest.raises(
        ReadError, match=r"None of the 2 scenes.* the cloud masks of 1 could not be read.*lost"
    ):
        look(scenes, max_cloud_percent=40)


EXETER = (
    "06-02_12-21-19_EPSG27700",
    "06-17_12-21-21_UTM",
    "08-01_12-21-19",
    "08-16_12-21-11",
    "08-26_12-21-11",
)
"""Five dates, of which the scene classification beside the bands calls 0, 71, 1, 7 and 51 % cloud."""


def exeter(data_dir, masked):
    """The real dates with their masks, or without, as people's own files mostly are. They carry +1000."""
    area = shapely.box(-3.56, 50.69, -3.47, 50.75)
    ring = tuple((float(lon), float(lat)) for lon, lat in area.buffer(0.05).exterior.coords)
    scenes = []
    for name in EXETER:
        href = str(data_dir / "scenes" / "exeter_gb_2024_cloudy" / f"exe_2024-{name}.tif")
        bands = [
            BandAsset(band=band, href=href, index=i, offset=-0.1) for i, band in ((1, "B02"), (3, "B04"))
        ]
        mask = [BandAsset(band="SCL", href=href, index=5, scale=1.0)]
        month, day = map(int, name[:5].split("-"))
        scenes.append(
            Scene(
                id=name[:5], provider="local", acquired_utc=datetime(2024, month, day, 11, tzinfo=UTC),
                level="L2A", baseline="05.10", cloud_percent=None, footprint=(ring,), crs=None, bounds_m=None,
                assets=(*bands, *(mask if masked else ())),
            )
        )  # fmt: skip
    with Remote() as remote:
        found = survey(
            scenes[::-1], area, "EPSG:32630", every_date=False, max_cloud_percent=100, remote=remote
        )
    return found.scenes


def test_without_masks_the_clear_date_comes_before_newer_cloudy_ones(data_dir):
    """By the blue alone, beside what the same dates' masks say."""
    found = exeter(data_dir, masked=False)
    assert found[0].id == "06-02"  # and not 08-26, the newest, half under cloud
    assert [one.id for one in found[3:]] == ["08-26", "06-17"]
    assert all(one.view.estimated for one in found)
    masks = {one.id: one.view.cloud_percent for one in exeter(data_dir, masked=True)}
    assert masks["08-26"] > 40
    assert masks["06-17"] > 60
    for one in found:
        if one.id != "08-16":  # cirrus, which the visible bands do not show
            assert one.view.cloud_percent < masks[one.id] + 6
            assert one.area_cloud_percent is None  # an estimate is not told as what a mask says


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_an_estimate_ranks_and_leaves_nothing_out(tmp_path, level):
    def painted(day, blue):
        one = scene(tmp_path, f"{day}", day, ALL)
        with rasterio.open(one.assets[0].href, "r+") as file:
            shape, profile = file.shape, file.profile
        href = str(tmp_path / f"{day}-bands.tif")
        with rasterio.open(href, "w", **profile | {"count": 2, "dtype": "uint16"}) as file:
            file.write(np.stack([np.full(shape, value, np.uint16) for value in (blue, 900)]))
        bands = [BandAsset(band=band, href=href, index=i) for i, band in ((1, "B02"), (2, "B04"))]
        return replace(one, level=level, assets=tuple(bands))

    found = look([painted(3, 5000), painted(2, 700), painted(1, 1450)], max_cloud_percent=10)
    assert [one.id for one in found.scenes] == ["2", "1", "3"]
    assert [round(one.view.cloud_percent) for one in found.scenes[::2]] == [0, 100]
    assert found.left_out == ()


def test_a_scene_that_shows_nothing_of_the_area_is_no_cloudy_one(tmp_path):
    with pytest.raises(NothingFoundError, match="shows anything of the area"):
        look([scene(tmp_path, "a", 1, NONE, observed=NONE)])
