"""The real Planetary Computer, asked as a user asks it. Opt-in: ``pytest -m online``.

Oracle: a scene that has been in the archive for years, and what its item states.
"""

from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio

from landuse.model.predict import Predictor
from landuse.pipeline.search.area import parse_bbox, parse_dates
from landuse.pipeline.search.find_scenes import SceneQuery, search
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest

pytestmark = [
    pytest.mark.online,
    # The SDK's models are written for pydantic 1, and importing them warns.
    pytest.mark.filterwarnings("ignore:Support for class-based `config`"),
]

LAKE = "11.30,47.93,11.32,47.94"
"""The middle of Lake Starnberg."""
JUNE = "2021-06-01/2021-06-30"


def test_scenes_of_a_past_month_are_found_unsigned():
    query = SceneQuery(area=parse_bbox(LAKE), dates=parse_dates(JUNE), levels=("L2A",), bands=("B02", "B04"))
    scenes = search("planetary-computer", query)
    assert len(scenes) >= 4  # two satellites, five days
    clouds = [scene.cloud_percent for scene in scenes]
    assert clouds == sorted(clouds)
    for scene in scenes:
        assert scene.level == "L2A"
        assert datetime(2021, 6, 1, tzinfo=UTC) <= scene.acquired_utc < datetime(2021, 7, 1, tzinfo=UTC)
        assert scene.asset("SCL") is not None
        assert all("?" not in asset.href for asset in scene.assets)
        # Baseline 03.00 of that month, or 05.00 where ESA processed it again.
        assert scene.asset("B04").offset == (-0.1 if scene.baseline >= "04.00" else 0)


def test_the_middle_of_a_lake_is_water(tmp_path):
    report = map_area(
        MapRequest(
            source="planetary-computer",
            area=parse_bbox(LAKE),
            dates=parse_dates(JUNE),
            out=tmp_path / "map",
            max_cloud_percent=20,
        ),
        Predictor.load("balanced-fast-rgb"),
    )
    with rasterio.open(tmp_path / "map" / "landuse.tif") as file:
        classes = file.read(1)
        assert file.crs == "EPSG:32632"
    assert report.cover.valid > 0.9
    water = [report.plan.classes.index("SeaLake"), report.plan.classes.index("River")]
    assert np.isin(classes[classes != 255], water).mean() > 0.9
    assert "sig=" not in (tmp_path / "map" / "run.json").read_text()
