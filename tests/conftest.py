"""What every test shares: where the real data are, and seeds."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    # Processes that share the tests share the cores: else each, and what it starts, has a thread for every
    # core. Set before numpy and torch are imported, which read it then.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

# A busy machine is no bug: no test of what is computed fails for how long it took.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


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


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # pipeline tests must not import it
        sys.modules["torch"].manual_seed(0)
