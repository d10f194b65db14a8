"""Months of seasons, written out."""

from datetime import UTC, datetime

import pytest

from landuse.errors import UsageError
from landuse.pipeline.search.season import parse_season


@pytest.mark.parametrize(
    ("asked", "north", "south", "label_south"),
    [
        ("spring", (3, 4, 5), (9, 10, 11), "spring south of the equator: September to November"),
        ("summer", (6, 7, 8), (12, 1, 2), "summer south of the equator: December to February"),
        ("autumn", (9, 10, 11), (3, 4, 5), "autumn south of the equator: March to May"),
        ("winter", (12, 1, 2), (6, 7, 8), "winter south of the equator: June to August"),
        ("4-6", (4, 5, 6), (4, 5, 6), "April to June"),
        ("11-2", (11, 12, 1, 2), (11, 12, 1, 2), "November to February"),
        ("07", (7,), (7,), "July"),
        ("1-12", tuple(range(1, 13)), tuple(range(1, 13)), "January to December"),
    ],
)
def test_months_north_and_south(asked, north, south, label_south):
    season = parse_season(asked)
    assert (season.months(48.0), season.months(-33.0)) == (north, south)
    assert season.label(-33.0) == label_south
    for month in range(1, 13):
        assert season.has(datetime(2024, month, 15, tzinfo=UTC), -0.5) == (month in south)


@pytest.mark.parametrize("asked", ["", "Summer", "fall", "13", "0", "4-", "4-6-8", "4/6", "٤", "-3", "1-100"])
def test_what_is_no_season_is_one_error(asked):
    with pytest.raises(UsageError, match=r"--season .* is unknown. Give spring, summer, autumn, winter"):
        parse_season(asked)
