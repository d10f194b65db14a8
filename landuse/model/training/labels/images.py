"""Images with any number of labels each, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from landuse.contract import RGB8

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImages:
    """Images of one part, all of one size, with what is on them."""

    images: Tensor
    """(N, bands, S, S): uint8 of 8-bit images, int16 DN of reflectance."""
    input_kind: str
    """``REFLECTANCE`` or ``RGB8`` of ``landuse.contract``."""
    bands: tuple[str, ...]
    """Band names in order."""
    level: str
    """Processing level of reflectance; empty of 8-bit images."""
    targets: Tensor
    """(N, labels) uint8, 1 where the label is there."""
    names: tuple[str, ...]
    """Each image's name, as its table has it."""
    labels: tuple[str, ...]
    """Label names; the index is the column of ``targets``."""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not self.images.shape[0] == len(self.targets) == len(self.names):
            raise ValueError(
                f"images {tuple(self.images.shape)}, {len(self.targets)} targets and {len(self.names)} names "
                "do not belong together"
            )
        if self.images.shape[1] != len(self.bands) or self.targets.shape[1] != len(self.labels):
            raise ValueError(
                f"images {tuple(self.images.shape)} and targets {tuple(self.targets.shape)} do not hold the "
                f"bands {self.bands} and the labels {self.labels}"
            )
        if (self.input_kind == RGB8) != (self.images.dtype == torch.uint8):
            raise ValueError(f"images of {self.images.dtype} are not of the kind {self.input_kind}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size_px(self) -> int:
        """Side of an image."""
        return int(self.images.shape[2])
