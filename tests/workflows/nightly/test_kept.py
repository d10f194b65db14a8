"""What outlives a release: digests and names in ledgers and folders, and the keys of what machines read.

Oracle: the values as they were when they were committed. A change of one of them makes every map anew, or
breaks what somebody reads; it has to be meant.
"""

import json
from datetime import UTC, datetime

from landuse.pipeline.scene import Scene
from landuse.workflows.nightly.config import load_config
from landuse.workflows.nightly.ledger.recognise import period_of, recognise, solar_shift
from landuse.workflows.nightly.ledger.records import (
    DuePeriod,
    Lease,
    MapRow,
    SceneRow,
    SceneState,
)
from landuse.workflows.nightly.period import _map_id
from landuse.workflows.nightly.report import AreaNightReport, NightReport, NotCompared, PeriodReport
from landuse.workflows.nightly.run import Clock, Night, _AreaRun
from landuse.workflows.nightly.status import AreaHealth
from tests.workflows.small_maps import BrightnessClassifier

CONFIG = """\
out: maps
window_days: 5
areas:
  - name: box
    bbox: [13.10, 48.27, 13.18, 48.31]
  - name: district
    file: district.geojson
    stride_px: 8
    composite: median
    max_cloud: 30
"""
DISTRICT = '{"type": "Polygon", "coordinates": [[[13.1, 48.2], [13.2, 48.2], [13.2, 48.3], [13.1, 48.2]]]}'
NOW = datetime(2024, 6, 20, 2, 0, tzinfo=UTC)
SCENE = Scene(
    id="S2A_MSIL2A_20240613T101031_R022_T33UUP_20240613T150000",
    provider="planetary-computer",
    acquired_utc=datetime(2024, 6, 13, 10, 10, 31, 24000, tzinfo=UTC),
    level="L2A",
    baseline="05.10",
    cloud_percent=12.5,
    footprint=(((13.0, 48.0), (14.2, 48.0), (14.2, 49.1), (13.0, 49.1), (13.0, 48.0)),),
    crs="EPSG:32633",
    bounds_m=None,
    assets=(),
    platform="sentinel-2a",
    tile="33UUP",
)


class Model:
    weights_sha256 = "a" * 64
    contract = BrightnessClassifier(64).contract


def runs(folder):
    (folder / "district.geojson").write_text(DISTRICT)
    (folder / "nightly.yaml").write_text(CONFIG)
    config = load_config(folder / "nightly.yaml", {})
    return [
        _AreaRun(config, area, Night(now_utc=NOW), lambda model, device: Model(), Clock(NOW))
        for area in config.areas
    ]


def test_the_recipe_of_a_config_keeps_its_digest(tmp_path):
    assert [run.recipe.digest for run in runs(tmp_path)] == [
        "5fa6a3f83ff9d6a8c42a61bd6d1dec54edee0011c93ce2853e44ebee68a608a6",
        "1a81a62e78a03b0ef50fd5bc1e74bf74d4f81cc17b541daab5db0929a6a14564",
    ]


def test_a_scene_keeps_its_name_its_days_and_its_map(tmp_path):
    run = runs(tmp_path)[0]
    shift = solar_shift(run.place)
    (seen,) = recognise([SCENE], [], shift, run.area.window_days)
    assert seen.sighting.acquisition == (
        '{"level":"L2A","platform":"sentinel-2a","tile":"33UUP"'
        ',"outline":[[[13.0,48.0],[14.2,48.0],[14.2,49.1],[13.0,49.1],[13.0,48.0]]]}'
    )
    assert seen.sighting.period == period_of(SCENE.acquired_utc, shift, 5).isoformat() == "2024-06-09"
    due = DuePeriod(area="box", first_day="2024-06-09", recipe=run.recipe, scenes=(seen.sighting.key,))
    lease = Lease(on=due, owner="a", expires_utc=NOW)
    assert _map_id(lease, [seen]) == "2024-06-09-f259f02e4802"


def test_a_nights_report_keeps_its_keys():
    period = PeriodReport(
        first_day="2024-06-11", state="mapped", scenes=("A",), map_id="m", valid=0.5, reason="", seconds=1.5
    )
    failed = PeriodReport(first_day="2024-06-06", state="failed", scenes=("B",), reason="broken")
    area = AreaNightReport(
        area="box", found=2, new=1, periods=(period,), earlier=(failed,), changes=("box/changes/x",),
        not_compared=(NotCompared(folder="box/changes/y", reason="odd"),), warnings=("empty",), error="",
    )  # fmt: skip
    report = NightReport(began_utc=NOW, dry_run=False, areas=(area,), seconds=2.25)
    assert json.loads(json.dumps(report.to_dict())) == {
        "began_utc": "2024-06-20T02:00:00+00:00",
        "dry_run": False,
        "seconds": 2.25,
        "failed_areas": ["box"],
        "areas": [
            {
                "area": "box",
                "found": 2,
                "new": 1,
                "windows": [
                    {
                        "window": "2024-06-11",
                        "state": "mapped",
                        "scenes": ["A"],
                        "map_id": "m",
                        "valid": 0.5,
                        "reason": "",
                        "seconds": 1.5,
                    }
                ],
                "earlier": [
                    {
                        "window": "2024-06-06",
                        "state": "failed",
                        "scenes": ["B"],
                        "map_id": None,
                        "valid": None,
                        "reason": "broken",
                        "seconds": 0.0,
                    },
                ],
                "changes": ["box/changes/x"],
                "not_compared": [{"folder": "box/changes/y", "reason": "odd"}],
                "warnings": ["empty"],
                "error": "",
                "failed": 1,
            }
        ],
    }


def test_the_status_keeps_its_keys():
    scene = SceneRow(
        area="box", scene_id="B", baseline="05.10", recipe="r", acquired_utc=NOW, period="2024-06-06",
        acquisition="", state=SceneState.FAILED, reason="broken", attempts=2, first_seen_utc=NOW,
        updated_utc=NOW, seconds=1.0, map_id=None,
    )  # fmt: skip
    last = MapRow(
        map_id="m", area="box", period="2024-06-11", window_days=5, number=1, created_utc=NOW,
        model_sha256="a", recipe="r", path="box/m", scene_ids=("A",), valid=0.5, superseded_by=None,
        change_paths=(),
    )  # fmt: skip
    health = AreaHealth(
        area="box", looked_utc=NOW, last_map=last, newest_utc=NOW, age_days=1.5, max_age_days=1.0,
        scenes=AreaHealth(area="box").scenes | {SceneState.MAPPED: 1, SceneState.FAILED: 1},
        failures=(scene,), warnings=("odd",),
    )  # fmt: skip
    assert json.loads(json.dumps(health.to_dict())) == {
        "area": "box",
        "looked_utc": "2024-06-20T02:00:00+00:00",
        "last_map": {
            "window": "2024-06-11",
            "path": "box/m",
            "created_utc": "2024-06-20T02:00:00+00:00",
            "valid": 0.5,
        },
        "newest_scene_utc": "2024-06-20T02:00:00+00:00",
        "age_days": 1.5,
        "max_age_days": 1.0,
        "stale": True,
        "scenes": {"found": 0, "mapped": 1, "skipped": 0, "failed": 1, "parked": 0},
        "running": 0,
        "warnings": ["odd"],
        "failures": [
            {
                "scene_id": "B",
                "baseline": "05.10",
                "window": "2024-06-06",
                "state": "failed",
                "attempts": 2,
                "reason": "broken",
                "updated_utc": "2024-06-20T02:00:00+00:00",
            }
        ],
    }
