"""Oracles: the words of the rule, pair by pair."""

from datetime import UTC, datetime, timedelta

import pytest

from landuse.pipeline.scene import Scene
from landuse.pipeline.search.acquisitions import same_acquisition, with_mirrors

SEEN = datetime(2024, 6, 15, 10, 10, 30, tzinfo=UTC)
WEST, EAST = 10.0, 11.0


def _ring(west, east):
    return ((west, 50.0), (east, 50.0), (east, 51.0), (west, 51.0), (west, 50.0))


def _scene(name, **stated):
    return Scene(
        **{
            "id": name,
            "provider": "one",
            "acquired_utc": SEEN,
            "level": "L2A",
            "baseline": "05.10",
            "cloud_percent": None,
            "footprint": (_ring(WEST, EAST),),
            "crs": None,
            "bounds_m": None,
            "assets": (),
            "platform": "sentinel-2b",
            "tile": "32UMA",
            **stated,
        }
    )


@pytest.mark.parametrize(
    ("stated", "same"),
    [
        ({}, True),
        ({"provider": "two", "baseline": "02.14"}, True),
        ({"acquired_utc": SEEN + timedelta(minutes=19)}, True),
        ({"acquired_utc": SEEN - timedelta(minutes=19)}, True),
        ({"acquired_utc": SEEN + timedelta(minutes=21)}, False),
        ({"level": "L1C"}, False),
        ({"platform": "sentinel-2a"}, False),
        ({"tile": "32UMB"}, False),
        ({"tile": ""}, False),
        ({"platform": ""}, False),
        # A box where the other source draws the outline of the pixels; and the other part of a divided tile.
        ({"footprint": (_ring(WEST - 0.5, EAST + 0.5),)}, True),
        ({"footprint": (_ring(EAST - 0.1, EAST + 0.9),)}, False),
    ],
)
def test_what_makes_one_acquisition(stated, same):
    one, other = _scene("a"), _scene("b", **stated)
    assert same_acquisition(one, other) is same
    assert same_acquisition(other, one) is same


def test_over_the_antimeridian_outlines_are_compared_whole():
    halves = (_ring(179.0, 180.0), _ring(-180.0, -179.0))
    assert same_acquisition(_scene("a", footprint=halves), _scene("b", footprint=halves[::-1]))
    assert not same_acquisition(_scene("a", footprint=halves[:1]), _scene("b", footprint=halves[1:]))
    for half in halves:
        assert same_acquisition(_scene("a", footprint=(half,)), _scene("b", footprint=halves))
        assert _mirrored(_scene("a", footprint=(half,)), _scene("b", footprint=halves))
        assert not _mirrored(_scene("a", footprint=halves), _scene("b", footprint=(half,)))


def _mirrored(scene, other):
    return bool(with_mirrors([scene], [[other]])[0].mirrors)


@pytest.mark.parametrize(
    ("ring", "mirrored"),
    [
        (_ring(WEST, EAST), True),
        (_ring(WEST - 3, EAST + 3), True),
        (_ring(WEST, EAST - 0.04), True),
        (_ring(WEST + 0.04, EAST + 9), True),
        (_ring(WEST, EAST - 0.06), False),
        (_ring(WEST + 0.06, EAST + 9), False),
    ],
)
def test_a_mirror_shows_all_of_the_scene(ring, mirrored):
    """A part of it would leave a blank where the scene itself has pixels."""
    scene, other = _scene("a"), _scene("b", provider="two", footprint=(ring,))
    assert same_acquisition(scene, other)
    assert _mirrored(scene, other) is mirrored


def test_mirrors_of_the_scenes_own_baseline_come_first_else_in_the_users_order():
    others = [
        [_scene(name, provider=name, baseline=baseline)]
        for name, baseline in (("two", "02.14"), ("three", "05.10"), ("four", None), ("five", "05.10"))
    ]
    (found,) = with_mirrors([_scene("a")], others)
    assert [mirror.provider for mirror in found.mirrors] == ["three", "five", "two", "four"]
    (found,) = with_mirrors([_scene("a", baseline=None)], others)
    assert [mirror.provider for mirror in found.mirrors] == ["four", "two", "three", "five"]


def test_mirrors_are_the_same_acquisition_at_each_further_source_in_order():
    primary = (_scene("p1"), _scene("p2", tile="32UNA"), _scene("p3", tile=""))
    second = (
        _scene("s2", tile="32UNA", provider="two"),
        _scene("s1", provider="two", mirrors=(_scene("deep"),)),
        _scene("s3", tile="", provider="two"),
    )
    third = (_scene("t1", provider="three"), _scene("t0", provider="three", level="L1C"))
    found = with_mirrors(primary, [second, third])
    assert [scene.id for scene in found] == ["p1", "p2", "p3"]
    assert [[mirror.id for mirror in scene.mirrors] for scene in found] == [["s1", "t1"], ["s2"], []]
    assert [mirror.mirrors for scene in found for mirror in scene.mirrors] == [()] * 3
    assert [[mirror.id for mirror in scene.mirrors] for scene in with_mirrors(primary, [third, second])] == [
        ["t1", "s1"],
        ["s2"],
        [],
    ]
    assert with_mirrors(found, []) == primary
