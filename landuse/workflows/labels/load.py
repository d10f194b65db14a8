"""The images of a table, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from landuse.contract import IMAGE_BANDS, REFLECTANCE, RGB8
from landuse.errors import UsageError
from landuse.model.training.labels.images import LabelledImages
from landuse.pipeline.read.images import read_picture, resized
from landuse.sentinel2 import BANDS, LEVELS

if TYPE_CHECKING:
    from pathlib import Path

    from landuse.workflows.labels.table import LabelTable


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """A folder of images and what is stated of them."""

    root: Path
    """The folder that the names of a table are below."""
    level: str = "L1C"
    """Processing level of reflectance; says nothing of 8-bit images."""
    band_order: tuple[str, ...] | None = None
    """Band names of TIFFs of reflectance in file order; None takes the files' own, else EuroSAT's."""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UsageError(f"--level {self.level!r} is unknown. Use {' or '.join(LEVELS)}.")
        check_band_order(self.band_order or ())
        if not self.root.is_dir():
            raise UsageError(f"--images {self.root} is not a folder. Give the one that holds the images.")


def check_band_order(order: tuple[str, ...]) -> None:
    """See that names are Sentinel-2's bands, each once.

    Raises:
        UsageError: one is none, or is there twice.
    """
    if [name for name in order if name not in BANDS] or len(set(order)) != len(order):
        raise UsageError(f"--band-order {','.join(order)}: each band once, from {', '.join(BANDS)}.")


def load_images(
    source: ImageSource, table: LabelTable, *, bands: tuple[str, ...], size_px: int | None
) -> LabelledImages:
    """Every image of a table, in memory as the files hold them.

    Args:
        source: where they lie.
        table: which they are, and what they show.
        bands: of reflectance, the bands to take.
        size_px: side that 8-bit images are brought to. Reflectance must have it already, since a pixel of
            it is 10 m wide; None takes the first image's.

    Raises:
        UsageError: an image cannot be read, or differs from the first in kind or size.
    """
    held: np.ndarray | None = None
    kind = ""
    for row, name in enumerate(table.names):
        picture = read_picture(source.root / name, bands=bands, band_order=source.band_order)
        values = picture.values
        own = REFLECTANCE if picture.is_reflectance else RGB8
        if held is None:
            kind = own
            side = size_px or min(values.shape[1:])
            held = np.empty((len(table.names), len(values), side, side), values.dtype)
        if own != kind:
            raise UsageError(
                f"Image {source.root / name} is {own}; the first of {table.path} is {kind}. Give images of "
                "one kind."
            )
        side = held.shape[2]
        if own == RGB8:
            values = resized(values, side)  # type: ignore[arg-type]  # uint8, as the kind says
        elif values.shape[1:] != (side, side):
            raise UsageError(
                f"Image {source.root / name} of reflectance is {values.shape[1]} x {values.shape[2]} px; "
                f"{side} x {side} px are wanted, and its pixels keep their 10 m. Cut it so, or give --size."
            )
        held[row] = values
    if held is None:
        raise UsageError(f"{table.path} names no image. Give a CSV with a line for each image.")
    return LabelledImages(
        images=torch.from_numpy(held),
        input_kind=kind,
        bands=IMAGE_BANDS if kind == RGB8 else bands,
        level="" if kind == RGB8 else source.level,
        targets=torch.from_numpy(table.targets),
        names=table.names,
        labels=table.labels,
    )
