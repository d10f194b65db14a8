import pytest

from tests.workflows.learn.small_labels import World


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("learn"))
