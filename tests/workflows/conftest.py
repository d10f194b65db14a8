"""What the tests of the workflows share: the command as a function."""

import logging
import sys

import pytest

from landuse.cli import app
from landuse.workflows.demo.run_demo import DemoCatalog, make_demo_catalog
from tests.commands import Ran


@pytest.fixture(scope="session")
def demo_catalog(tmp_path_factory: pytest.TempPathFactory) -> DemoCatalog:
    """The demo's catalogue and its truth. Tests must not change it."""
    return make_demo_catalog(tmp_path_factory.mktemp("demo-catalog"))


@pytest.fixture
def run(capfd, monkeypatch):
    """The command in this process (torch is imported once), its output caught below Python."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets it

    def call(*arguments):
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
