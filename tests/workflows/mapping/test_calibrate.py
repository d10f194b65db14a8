"""What a run is foreseen to take by small runs of this machine, and where those are kept.

Oracle: lines through two points, drawn by hand; the run itself, whose work is counted, not timed: a busy
machine is no bug. ``tests/benchmarks/foreseen.py`` holds seconds against seconds.
"""

import json
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from landuse.errors import OutputError
from landuse.workflows.mapping import calibrate
from landuse.workflows.mapping.calibrate import Calibration, kept_calibration, key_of, measure
from landuse.workflows.mapping.dry_run import estimate_run
from landuse.workflows.mapping.map_area import map_area
from tests.workflows.pixel_models import RedPixels
from tests.workflows.small_maps import catalog_of, red_raster, request

PER_PIXEL_S = 2e-6


class SlowPixels(RedPixels):
    """Takes so long for each pixel, by a clock of its own that nothing else moves."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def pixel_scores(self, dn, bands, level):
        self.clock.now += PER_PIXEL_S * dn[0].size
        return super().pixel_scores(dn, bands, level)


class Clock:
    now = 0.0

    def __call__(self):
        self.now += 1e-7
        return self.now


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """What stands for the seconds of this machine; the cache is the test's."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "SIDES_PX", {"pixels": (144, 168, 288)})
    return clock


@pytest.fixture
def asked(tmp_path):
    rng = np.random.default_rng(2)
    dn = np.kron(rng.integers(300, 6000, (2, 20, 16)), np.ones((10, 10))) + rng.integers(0, 99, (2, 200, 160))
    raster = red_raster(tmp_path / "red.tif", dn.astype(np.uint16), bands=("B04", "B08"))
    return request(tmp_path, catalog_of(tmp_path, raster), block_px=96)


def test_a_run_is_foreseen_within_a_quarter(clock, asked):
    classifier = SlowPixels(clock)
    before = estimate_run(asked, classifier)
    assert before.calibration is None
    assert before.cost.memory_bytes is None
    estimate = estimate_run(asked, classifier, calibrate=True)
    assert estimate.calibration.work_seconds == pytest.approx(PER_PIXEL_S, rel=0.02)
    began = clock.now
    report = map_area(asked, classifier)
    assert estimate.cost.pixels == report.pixels
    soon, late = estimate.cost.seconds
    assert soon == late  # nothing is fetched
    assert soon == pytest.approx(clock.now - began, rel=0.25)
    assert estimate.cost.network_seconds == pytest.approx(report.seconds["map"], rel=0.05)
    files = sum(path.stat().st_size for path in asked.out.iterdir())
    assert 0.5 * files < estimate.cost.disk_about_bytes[0] < max(estimate.cost.disk_bytes)
    assert 50e6 < estimate.cost.memory_bytes < 10e9
    # It is kept: the next dry run says the same, and when that was measured.
    again = estimate_run(asked, classifier)
    assert (again.cost, again.calibration) == (estimate.cost, estimate.calibration)
    assert again.to_dict()["calibration"]["measured_utc"] == estimate.calibration.measured_utc


def test_another_model_or_other_files_are_measured_anew(clock, asked, monkeypatch):
    estimate = estimate_run(asked, RedPixels())
    key = key_of(asked, estimate.plan, RedPixels())
    assert key == key_of(replace(asked, out="elsewhere"), estimate.plan, RedPixels())
    others = [
        key_of(asked, replace(estimate.plan, weights_sha256="3" * 64), RedPixels()),
        key_of(asked, replace(estimate.plan, stride_px=2), RedPixels()),
        key_of(asked, replace(estimate.plan, bands=("B04",)), RedPixels()),
        key_of(asked, replace(estimate.plan, probabilities=True), RedPixels()),
        key_of(replace(asked, vectors=replace(asked.vectors, cells=True)), estimate.plan, RedPixels()),
    ]
    monkeypatch.setattr(calibrate.platform, "node", lambda: "another-machine")
    others.append(key_of(asked, estimate.plan, RedPixels()))
    assert len({key, *others}) == 7


KEPT = Calibration(
    measured_utc="2026-01-02T03:04:05+00:00", once_seconds=1.0, plan_seconds=1.0, plan_cell_seconds=0.0,
    map_seconds=1.0, work_seconds=1e-6, write_seconds=1.0, cell_seconds=1e-7, map_memory_bytes=5e8,
    pixel_bytes=600.0, write_memory_bytes=5e8, cell_memory_bytes=50.0, disk_bytes=1e6, cell_bytes=12.0,
)  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        {"work_seconds": -1.0},
        {"work_seconds": "fast"},
        {"work_seconds": None},
        {"disk_bytes": 1e999},
        {"measured_utc": "yesterday"},
        {"measured_utc": 5},
    ],
)
def test_a_damaged_cache_counts_as_none(clock, tmp_path, damage):
    calibrate.keep_calibration("some", KEPT)
    assert kept_calibration("some") == KEPT
    assert kept_calibration("other") is None
    path = tmp_path / "cache/landuse/calibration.json"
    path.write_text(json.dumps({"some": {**asdict(KEPT), **damage}}))
    assert kept_calibration("some") is None
    path.write_text("[" * 100_000)
    assert kept_calibration("some") is None


def test_a_cache_that_cannot_be_written_is_told(clock, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match=r"calibration\.json cannot be written .* leave --calibrate out"):
        calibrate.keep_calibration("some", KEPT)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert calibrate.cache_folder().is_absolute()


def test_the_command_says_when_it_was_measured(clock, asked, run, monkeypatch):
    monkeypatch.setattr("landuse.workflows.mapping.map_area.load_classifier", lambda *_: RedPixels())
    options = ("map", "--source", asked.source, "--out", asked.out)
    assert "--calibrate is for --dry-run" in run(*options, "--calibrate").error
    assert "--calibrate measures small runs" in run(*options, "--dry-run").out
    monkeypatch.setattr(
        "landuse.workflows.mapping.dry_run.measure", lambda *_: KEPT
    )  # measured above, for real
    told = run(*options, "--dry-run", "--calibrate").out
    assert "measured at 2026-01-02T03:04:05+00:00" in told
    assert "memory  about 0.5" in told
    assert measure is calibrate.measure
