"""What tests of workflows share: their maps are many and small."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _plain_previews() -> Iterator[None]:
    """In this process a map's preview is one pixel, but for tests that use ``drawn_previews``.

    Drawing it takes half of the time of a small map. Runs in a process of their own draw theirs.
    """
    from tests.workflows.previews import plain_previews  # reads rasters, which some tests need not

    with plain_previews():
        yield


@pytest.fixture
def drawn_previews() -> Iterator[None]:
    """The test's maps have the previews that users get."""
    from tests.workflows.previews import drawn_previews as drawn

    with drawn():
        yield
