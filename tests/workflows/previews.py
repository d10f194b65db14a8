"""Whether maps that a test makes in its process have the previews that users get."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from landuse.workflows.mapping import publish

_draw = publish.write_preview


def _plain(target: Path, view: object) -> None:
    Image.new("RGB", (1, 1)).save(target, format="png")


@contextmanager
def plain_previews():
    """Within, a map's preview is one pixel."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publish, "write_preview", _plain)
        yield


@contextmanager
def drawn_previews():
    """Within, previews are drawn after all."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publish, "write_preview", _draw)
        yield
