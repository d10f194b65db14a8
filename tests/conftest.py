"""What every test shares: the real data, the command as a function, the scenes of the demo, and seeds."""

from __future__ import annotations

import gc
import logging
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    # Processes that share the tests share the cores: else each, and what it starts, has a thread for every
    # core. Set before numpy and torch are imported, which read it then.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import numpy as np
import pytest
import typer
from hypothesis import settings

from landuse.cli import app
from tests.commands import Ran

if TYPE_CHECKING:
    from landuse.workflows.demo.run_demo import DemoCatalog
    from tests.postgres import PostgresServer

# A busy machine is no bug: no test of what is computed fails for how long it took.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_built = cache(typer.main.get_command)
"""The command, which is the same each time; typer takes 40 ms to make it of its functions."""


# Collecting imports half of what there is and makes thousands of tests, all of which stay.
gc.disable()


IN_MEMORY, LEAST_FREE = Path("/dev/shm"), 8 << 30
"""A folder in memory, where the system has one, and the bytes that must be free for the tests to use it."""


def pytest_configure() -> None:
    """Temporary folders lie in memory if it is roomy.

    Maps and ledgers are forced to the disk thousands of times, which the tests would wait for.
    """
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ and _is_roomy(IN_MEMORY):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(IN_MEMORY)


def _is_roomy(folder: Path) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text("ascii").splitlines())
    available = int(told["MemAvailable"].split()[0]) << 10
    return min(shutil.disk_usage(folder).free, available) >= LEAST_FREE


FIRST = ("workflows/nightly/test_prefect_flow.py", "workflows/nightly/test_fortnight.py")
"""Modules whose worlds take long to make. Processes that share the tests take over each other's last ones,
and each would make such a world anew."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of ``FIRST`` come first; all else stays in order."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        module = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
        return FIRST.index(module) if module in FIRST else len(FIRST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What was imported stays until the end: a search for garbage need not look at it each time."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir(pytestconfig: pytest.Config) -> Path:
    """The folder of real test data, which is not part of the repository.

    A test without it is skipped, except in the CI, where a skip would hide that nothing was tested.
    """
    value = os.environ.get("LANDUSE_TEST_DATA")
    folder = (pytestconfig.rootpath / value).resolve() if value else None
    if folder is not None and folder.is_dir():
        return folder
    reason = f"needs the real test data: LANDUSE_TEST_DATA is {value!r}, not a folder"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"{reason}, and CI=true forbids the skip")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; the test is skipped where none is installed, but in the CI."""
    from tests.postgres import postgres_server  # most runs need no driver

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def demo_catalog(tmp_path_factory: pytest.TempPathFactory) -> DemoCatalog:
    """The demo's catalogue and its truth. Tests must not change it."""
    from landuse.workflows.demo.run_demo import make_demo_catalog  # reads rasters, which most tests need not

    return make_demo_catalog(tmp_path_factory.mktemp("demo-catalog"))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """The command in this process (torch is imported once), its output caught below Python."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets it
    monkeypatch.setattr(typer.main, "get_command", _built)

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        # The command ends its process as a rule: what it sets of the log would stay for other tests.
        loggers = [logging.getLogger(name) for name in (None, "rasterio", "urllib3")]
        before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
        try:
            with pytest.raises(SystemExit) as ended:
                app([str(argument) for argument in arguments], prog_name="landuse")
        finally:
            for logger, level, handlers in before:
                logger.setLevel(level)
                logger.handlers[:] = handlers
        return Ran(ended.value.code or 0, *capfd.readouterr())

    return call


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # pipeline tests must not import it
        sys.modules["torch"].manual_seed(0)
