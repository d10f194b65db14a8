"""What scenes to learn from: a source as ``landuse map --source`` takes it, or images of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.workflows.imagery.one_step import DEFAULT_SOURCE, ImageFacts, requested_source

if TYPE_CHECKING:
    from landuse.pipeline.search.source import HeldItems

IMAGES = (".tif", ".tiff", ".jp2")
"""What the names of images end in; a catalogue's do not."""


def requested_scenes(scenes: tuple[str, ...], facts: ImageFacts, bands: str) -> tuple[str | HeldItems, str]:
    """Where scenes come from, and which bands to read.

    Args:
        scenes: one source, or the images of one acquisition.
        facts: what is stated of images.
        bands: as of ``one_step.requested_source``.

    Raises:
        UsageError: sources and images are mixed, or as of ``one_step.requested_source``.
    """
    images = [text for text in scenes if Path(text).suffix.lower() in IMAGES and "://" not in text]
    if len(images) == len(scenes):
        return requested_source(DEFAULT_SOURCE, tuple(map(Path, images)), facts, bands)
    if images or len(scenes) != 1:
        raise UsageError(
            f"SCENES {', '.join(scenes)[:200]!r}: give one source, several of them separated by commas, or "
            "images alone."
        )
    return requested_source(scenes[0], (), facts, bands)
