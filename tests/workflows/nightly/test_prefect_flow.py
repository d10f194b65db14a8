"""The nightly flow on a real Prefect server: a process of its own on a free port of the loopback.

Oracle: what the server's own client says of flow runs, task runs and schedules.
"""

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

import landuse
from landuse.errors import ProviderError, UsageError
from landuse.workflows.nightly.report import AreaNightReport, PeriodReport
from tests import warm

CONFIG = """\
out: maps
areas:
  - {name: north, bbox: [13.10, 48.27, 13.18, 48.31]}
  - {name: south, bbox: [13.10, 48.07, 13.18, 48.11]}
  - {name: west, bbox: [12.10, 48.27, 12.18, 48.31]}
"""

OFFLINE = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prefect server with an empty database, and no word to anybody else."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OFFLINE.items():
            patch.setenv(name, value)
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=300):
            yield


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "nightly.yaml"
    path.write_text(CONFIG)
    return path


DONE = AreaNightReport(area="any")
FAILED = AreaNightReport(
    area="any", periods=(PeriodReport(first_day="2024-06-18", state="failed", scenes=("a",)),)
)


class Areas:
    """Stands for ``nightly.run_area``: does as it is told for each area, and counts."""

    def __init__(self, **outcomes):
        self.outcomes = outcomes
        self.calls = []

    def __call__(self, config, area):
        self.calls.append(area.name)
        outcome = self.outcomes.get(area.name, [DONE]).pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def areas(monkeypatch):
    def told(**outcomes):
        from landuse.workflows.nightly.prefect_flow import nightly_area

        module = ModuleType("landuse.workflows.nightly.run")
        module.run_area = Areas(**outcomes)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(nightly_area, "retry_delay_seconds", [0, 0])
        return module.run_area

    return told


def task_runs(state):
    """Name, state and number of tries of each task run of a flow run, as the server knows them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        # Task runs reach the server as events, some moments after the flow run has ended.
        for _ in range(100):
            runs = client.read_task_runs(flow_run_filter=flow_run)
            if runs and all(run.state is not None and run.state.is_final() for run in runs):
                break
            time.sleep(0.2)
    return sorted((run.name, run.state_type.value, run.run_count) for run in runs)


def test_a_task_run_for_each_area(server, config, areas):
    from prefect.client.orchestration import get_client

    from landuse.workflows.nightly.prefect_flow import nightly_flow

    run = areas()
    state = nightly_flow(config, return_state=True)
    assert state.is_completed()
    assert run.calls == ["north", "south", "west"]
    assert task_runs(state) == [(name, "COMPLETED", 1) for name in run.calls]
    with get_client(sync_client=True) as client:
        kept = client.read_flow_run(state.state_details.flow_run_id).parameters
    assert kept == {"config": str(config), "areas": None}  # and nothing of what is in the config


def test_one_areas_failure_stops_no_other(server, config, areas):
    """What may be over in minutes is tried three times; scenes that failed wait for another night."""
    from landuse.workflows.nightly.prefect_flow import AreasFailedError, nightly_flow

    gone = [ProviderError("gone"), AreaNightReport(area="north", error="gone"), ProviderError("gone")]
    run = areas(north=gone, south=[ProviderError("busy"), DONE], west=[FAILED])
    state = nightly_flow(config, return_state=True)
    assert state.is_failed()
    assert run.calls == ["north"] * 3 + ["south"] * 2 + ["west"]
    assert task_runs(state) == [("north", "FAILED", 3), ("south", "COMPLETED", 2), ("west", "FAILED", 1)]
    with pytest.raises(AreasFailedError, match="2 of 3 areas failed: north, west"):
        state.result()


def test_a_failure_from_before_the_retry_is_one(server, config, areas):
    """The second try has nothing left to do: the night is no success for that."""
    from landuse.workflows.nightly.prefect_flow import AreasFailedError, nightly_flow

    areas(south=[ProviderError("busy"), AreaNightReport(area="south", earlier=FAILED.periods)])
    state = nightly_flow(config, ["south"], return_state=True)
    assert task_runs(state) == [("south", "FAILED", 2)]
    with pytest.raises(AreasFailedError, match="1 of 1 areas failed: south"):
        state.result()


def test_metrics_that_cannot_be_written_hide_no_failure(server, config, areas, tmp_path):
    from landuse.errors import OutputError
    from landuse.workflows.nightly.prefect_flow import AreasFailedError, nightly_flow

    config.write_text(f"{CONFIG}metrics_file: landuse.prom\n")
    (tmp_path / "maps" / "landuse.prom").mkdir(parents=True)
    areas(west=[FAILED])
    with pytest.raises(AreasFailedError, match="1 of 3 areas failed: west") as failed:
        nightly_flow(config)
    assert "landuse.prom cannot be written" in str(failed.value)
    areas()
    with pytest.raises(OutputError, match=r"landuse\.prom cannot be written"):
        nightly_flow(config)


def test_no_secret_reaches_prefects_log(server, config, tmp_path):
    """Neither by what nobody foresaw, nor by the causes of what is told; its server keeps the log.

    In a process of its own, as Prefect sets its loggers up once.
    """
    from prefect.settings import PREFECT_API_URL

    script = tmp_path / "night.py"
    script.write_text(LEAKY)
    # With no address it would start a server of its own, which takes seconds.
    environ = os.environ | {
        "PREFECT_LOGGING_EXTRA_LOGGERS": "landuse",
        "PREFECT_API_URL": PREFECT_API_URL.value(),
    }
    ran = warm.run([script, config], env=environ)
    shown = ran.stdout + ran.stderr
    assert "RuntimeError: GET https://host/x failed" in shown
    assert "ProviderError: gone" in shown
    assert "2 of 2 areas failed: north, south" in shown
    assert "hunter2" not in shown
    assert "sig=abc" not in shown


LEAKY = """
import sys
from pathlib import Path
from landuse.errors import ProviderError
from landuse.workflows.nightly import run
from landuse.workflows.nightly.prefect_flow import nightly_area, nightly_flow

class Broken:
    def __init__(self, config, area, *rest):
        self.area = area.name

    def do(self):
        try:
            raise RuntimeError("GET https://u:hunter2@host/x?sig=abc failed")
        except RuntimeError as error:
            if self.area == "south":
                raise ProviderError("gone") from error
            raise

run._AreaRun = Broken
nightly_area.retry_delay_seconds = [0, 0]
nightly_flow(Path(sys.argv[1]), ["north", "south"])
"""


@pytest.mark.slow
def test_a_night_on_simulated_scenes(server, tmp_path):
    """The whole of it: flow, task, search, map, ledger, metrics; a second night has nothing to do."""
    from landuse.workflows.demo.run_demo import make_demo_catalog
    from landuse.workflows.nightly.config import load_config
    from landuse.workflows.nightly.prefect_flow import nightly_flow
    from landuse.workflows.nightly.status import nightly_status

    demo = make_demo_catalog(tmp_path / "demo")
    west, south, _, _ = demo.bbox
    box = [west, south, west + 0.01, south + 0.01]
    config = tmp_path / "nightly.yaml"
    config.write_text(
        f"out: maps\nsource: {demo.catalog.relative_to(tmp_path)}\nlook_back_days: 3660\nmax_cloud: 100\n"
        f"metrics_file: landuse.prom\nareas:\n  - {{name: corner, bbox: {box}}}\n"
    )
    for _ in range(2):
        state = nightly_flow(config, return_state=True)
        assert state.is_completed(), state.message
        assert task_runs(state) == [("corner", "COMPLETED", 1)]
        maps = sorted((tmp_path / "maps" / "corner").rglob("landuse.tif"))
        assert len(maps) == len(demo.dates)
    (health,) = nightly_status(load_config(config), datetime.now(UTC))
    assert health.area == "corner"
    assert 'area="corner"' in (tmp_path / "maps" / "landuse.prom").read_text()


def test_areas_that_are_named(server, config, areas):
    from landuse.workflows.nightly.prefect_flow import nightly_flow

    run = areas()
    nightly_flow(config, ["south"])
    assert run.calls == ["south"]
    with pytest.raises(UsageError, match="Did you mean south"):
        nightly_flow(config, ["north", "sauth"])
    assert run.calls == ["south"]


@pytest.mark.slow
def test_the_example_serves_it_on_a_schedule(server, tmp_path):
    """The example as a user starts it; a run of its deployment gets as far as this config's mistake."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    example = Path(__file__).parents[3] / "examples" / "nightly" / "serve_prefect.py"
    config = tmp_path / "nightly.yaml"
    config.write_text("out: maps\n")
    environ = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, example, config.name],
            cwd=tmp_path,
            env=environ,
            stdout=log,
            stderr=log,
        ) as served,
        get_client(sync_client=True) as client,
    ):
        try:
            deployment = until(
                lambda: next((d for d in client.read_deployments() if d.name == "landuse-nightly"), None)
            )
            (planned,) = deployment.schedules
            assert planned.active
            assert planned.schedule.cron == "30 3 * * *"
            assert deployment.parameters == {"config": str(config)}
            run = client.create_flow_run_from_deployment(deployment.id)
            done = until(lambda: final(client.read_flow_run(run.id)))
        finally:
            served.terminate()  # a shell has its background jobs, and theirs, ignore SIGINT
            served.wait(60)
    assert done.state.is_failed(), (tmp_path / "log").read_text()
    assert f"{config}:1: areas: it is missing." in done.state.message


def final(run):
    return run if run.state is not None and run.state.is_final() else None


def until(look, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    pytest.fail(f"nothing came within {seconds} s")


def test_nothing_else_imports_prefect():
    package = Path(landuse.__file__).parent
    pattern = re.compile(r"^\s*(from|import) \S*prefect", re.MULTILINE)
    named = {path.name for path in package.rglob("*.py") if pattern.search(path.read_text("utf-8"))}
    assert named == {"prefect_flow.py"}
