"""Patches whose pixels are labelled: as GeoTIFF pairs, in memory.

A folder of pixel labels holds, for each patch, ``NAME.tif`` with its bands (named in the file's band
descriptions), ``NAME.label.tif`` with the cover's id of each pixel and, where they are known,
``NAME.weight.tif`` with how far each label is to be believed (0..1) and ``folder.json``, which says what the
ids mean and which level the pixels are of. ``examples/cover_patches.py`` writes such a folder from arrays.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from landuse.errors import UsageError
from landuse.sentinel2 import BANDS, LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

LABEL_SUFFIX, WEIGHT_SUFFIX = ".label.tif", ".weight.tif"

FOLDER_FILE = "folder.json"

UNLABELLED = 255
"""Label of a pixel of which nothing is known."""

MAX_STORED_DN = 32_767
"""DN are kept as int16; every network's input saturates far below."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelPatches:
    """Patches whose pixels are labelled, in memory."""

    dn: Tensor
    """(N, bands, S, S) int16, reflectance x 10000."""
    bands: tuple[str, ...]
    """Band names in order."""
    level: str
    """Processing level, ``"L1C"`` or ``"L2A"``."""
    label: Tensor
    """(N, S, S) uint8, index into ``covers``, or ``UNLABELLED``."""
    weight: Tensor
    """(N, S, S) uint8, how far each label is to be believed, times 255."""
    use: Tensor
    """(N,) int64, what the whole patch is used for, or -1 where that is not known."""
    names: tuple[str, ...]
    """Name of each patch."""
    covers: tuple[str, ...]
    """Cover names by id."""

    def __post_init__(self) -> None:
        count, bands, height, width = self.dn.shape
        if (count, height, width) != tuple(self.label.shape) or self.label.shape != self.weight.shape:
            raise ValueError(
                f"pixels {tuple(self.dn.shape)}, labels {tuple(self.label.shape)} and weights "
                f"{tuple(self.weight.shape)} do not belong together"
            )
        if bands != len(self.bands) or not count == len(self.names) == len(self.use):
            raise ValueError(f"{bands} bands, {count} patches: named {len(self.bands)}, {len(self.names)}")
        if height != width or height % 8:
            raise ValueError(f"patches of {height} x {width} px; sides must be equal and multiples of 8")

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, rows: Sequence[int] | NDArray[np.intp]) -> PixelPatches:
        """Some of the patches, in the order of ``rows``."""
        index = torch.as_tensor(np.asarray(rows, np.int64))
        return PixelPatches(
            dn=self.dn[index],
            bands=self.bands,
            level=self.level,
            label=self.label[index],
            weight=self.weight[index],
            use=self.use[index],
            names=tuple(self.names[row] for row in index.tolist()),
            covers=self.covers,
        )


def read_pixel_patches(folder: Path, uses: Sequence[str]) -> PixelPatches:
    """All patches of a folder of pixel labels.

    Args:
        folder: as the module says.
        uses: what whole patches can be used for, by id; ``folder.json`` may name the use of a patch.

    Raises:
        UsageError: the folder or a file of it is not as it must be.
    """
    about = _about(folder)
    covers, level = tuple(about["covers"]), str(about["level"])
    stems = sorted(path.name[: -len(LABEL_SUFFIX)] for path in folder.glob(f"*{LABEL_SUFFIX}"))
    if not stems:
        raise UsageError(f"--pixels {folder} holds no *{LABEL_SUFFIX}. Give a folder of patches and labels.")
    bands: tuple[str, ...] | None = None
    images, labels, weights = [], [], []
    for stem in stems:
        dn, names = _read(folder / f"{stem}.tif")
        if bands is None:
            bands = names
            unknown = [name for name in names if name not in BANDS]
            if unknown:
                raise UsageError(
                    f"{folder / stem}.tif names its bands {', '.join(names)}; unknown: {', '.join(unknown)}. "
                    f"Set its band descriptions to names such as {', '.join(BANDS[1:4])}."
                )
        label, _ = _read(folder / f"{stem}{LABEL_SUFFIX}")
        weight_file = folder / f"{stem}{WEIGHT_SUFFIX}"
        weight = _read(weight_file)[0] if weight_file.exists() else np.ones(label.shape, np.float32)
        if names != bands or dn.shape[1:] != label.shape[1:] or label.shape != weight.shape:
            raise UsageError(
                f"{folder / stem}.tif has bands {', '.join(names)} of {dn.shape[1:]} px, its labels "
                f"{label.shape[1:]} and weights {weight.shape[1:]}; the first patch has the bands "
                f"{', '.join(bands)}. All must agree."
            )
        wrong = (label != UNLABELLED) & (label >= len(covers))
        if wrong.any():
            raise UsageError(
                f"{folder / stem}{LABEL_SUFFIX} holds the id {int(label[wrong].max())}, and {FOLDER_FILE} "
                f"names {len(covers)} covers. Ids are 0..{len(covers) - 1}, and {UNLABELLED} for unknown."
            )
        if not np.isfinite(weight).all() or weight.min() < 0 or weight.max() > 1:
            raise UsageError(f"{weight_file} holds values outside 0..1. Give weights in 0..1.")
        images.append(np.clip(dn, 0, MAX_STORED_DN).astype(np.int16))
        labels.append(label[0].astype(np.uint8))
        weights.append(np.rint(weight[0] * 255).astype(np.uint8))
    assert bands is not None  # there is at least one patch
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UsageError(f"--pixels {folder} holds patches of {len(shapes)} sizes. All must be of one size.")
    return PixelPatches(
        dn=torch.from_numpy(np.stack(images)),
        bands=bands,
        level=level,
        label=torch.from_numpy(np.stack(labels)),
        weight=torch.from_numpy(np.stack(weights)),
        use=torch.tensor([_use(about["uses"].get(stem), uses, folder) for stem in stems]),
        names=tuple(stems),
        covers=covers,
    )


def _about(folder: Path) -> dict[str, Any]:
    """``folder.json``, checked: ``covers``, ``level`` and perhaps ``uses`` by patch."""
    path = folder / FOLDER_FILE
    mend = (
        f'{FOLDER_FILE} holds {{"level": "L2A", "covers": ["Water", ...]}} and perhaps '
        '"uses": {"NAME": "River"}.'
    )
    if not folder.is_dir():
        raise UsageError(
            f"--pixels {folder} is not a folder. Give the folder that holds the labelled patches."
        )
    try:
        about = json.loads(path.read_text("utf-8"))
        covers, level, uses = about["covers"], about["level"], about.setdefault("uses", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read ({error!r}). {mend}") from error
    named = isinstance(covers, list) and all(isinstance(name, str) for name in covers)
    if not named or not 2 <= len(covers) <= UNLABELLED or level not in LEVELS or not isinstance(uses, dict):
        raise UsageError(f"{path} names the covers {covers!r} and the level {level!r}. {mend}")
    return about  # type: ignore[no-any-return]  # JSON is untyped


def _use(name: object, uses: Sequence[str], folder: Path) -> int:
    if name is None:
        return -1
    if name not in uses:
        raise UsageError(f"{folder / FOLDER_FILE} names the use {name!r}. Known: {', '.join(uses)}.")
    return uses.index(str(name))


def _read(path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """A raster's values, (band, y, x), and its bands' descriptions."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a patch need not lie anywhere
            with rasterio.open(path) as file:
                return file.read(), tuple(name or "" for name in file.descriptions)
    except RasterioError as error:
        raise UsageError(
            f"{path} cannot be read ({error}). Write it again, or leave the patch out."
        ) from error
