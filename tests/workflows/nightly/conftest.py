"""What tests of nights share: their maps are many and small, and a preview takes longer than such a map."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def _plain_previews() -> Iterator[None]:
    """In this process a map's preview is one pixel. Runs in a process of their own draw theirs."""

    def write(target: Path, view: object) -> None:
        Image.new("RGB", (1, 1)).save(target, format="png")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("landuse.workflows.mapping.publish.write_preview", write)
        yield
