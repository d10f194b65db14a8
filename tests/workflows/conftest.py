"""What the tests of the workflows share: the command as a function."""

import sys

import pytest

from landuse.cli import app
from tests.commands import Ran


@pytest.fixture
def run(capfd, monkeypatch):
    """The command in this process (torch is imported once), its output caught below Python."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets it

    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="landuse")
        return Ran(ended.value.code or 0, *capfd.readouterr())

    return call
