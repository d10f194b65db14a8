"""Patches whose pixels are labelled: as GeoTIFF pairs, in memory.

A folder of pixel labels holds, for each patch, ``NAME.tif`` with its bands (named in the file's band
descriptions, uint16 DN), ``NAME.label.tif`` with the cover's id of each pixel (uint8, 255 for unknown) and,
where they are known, ``NAME.weight.tif`` with how far each label is to be believed (0..1). ``folder.json``
says what the ids mean and which level the pixels are of: ``{"level": "L2A", "covers": ["Water", ...]}``, and
perhaps what whole patches are used for, ``"uses": {"NAME": "River"}``. ``examples/cover_patches.py`` writes
such a folder from arrays.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from landuse.errors import UsageError
from landuse.model.training.datasets import MAX_STORED_DN, Patches
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

PATCH_MULTIPLE_PX = 8
"""Patches' sides are multiples of it, as ``PixelNet.position_px`` says."""


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
        if height != width or height % PATCH_MULTIPLE_PX:
            raise ValueError(
                f"patches of {height} x {width} px; sides must be equal and multiples of {PATCH_MULTIPLE_PX}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labelled_pixels(self) -> int:
        """Pixels whose label counts."""
        return int(((self.label != UNLABELLED) & (self.weight > 0)).sum())

    def whole(self) -> Patches:
        """The same patches without their labels."""
        return Patches(images=self.dn, dn_per_count=1.0, bands=self.bands, level=self.level, names=self.names)

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


def read_pixel_patches(folder: Path, uses: Sequence[str], bands: Sequence[str] = BANDS) -> PixelPatches:
    """All patches of a folder of pixel labels.

    Args:
        folder: as the module says.
        uses: what whole patches can be used for, by id; ``folder.json`` may name the use of a patch.
        bands: those to read of what the files hold.

    Raises:
        UsageError: the folder or a file of it is not as it must be.
    """
    about = _about(folder)
    covers, level = tuple(about["covers"]), str(about["level"])
    stems = sorted(path.name[: -len(LABEL_SUFFIX)] for path in folder.glob(f"*{LABEL_SUFFIX}"))
    if not stems:
        raise UsageError(f"--pixels {folder} holds no *{LABEL_SUFFIX}. Give a folder of patches and labels.")
    strange = sorted(about["uses"].keys() - set(stems))
    if strange:
        raise UsageError(
            f"{folder / FOLDER_FILE} names the use of {strange[0]}, and there is no "
            f"{strange[0]}{LABEL_SUFFIX}. Name the patches as their files are named."
        )
    order: tuple[str, ...] = ()
    images, labels, weights = [], [], []
    for stem in stems:
        dn, names = _read(folder / f"{stem}.tif")
        order = order or _checked_bands(names, folder / f"{stem}.tif")
        label, _ = _read(folder / f"{stem}{LABEL_SUFFIX}")
        weight_file = folder / f"{stem}{WEIGHT_SUFFIX}"
        weight = _read(weight_file)[0] if weight_file.exists() else np.ones(label.shape, np.float32)
        if names != order or not dn.shape[1:] == label.shape[1:] == weight.shape[1:]:
            raise UsageError(
                f"{folder / stem}.tif has the bands {', '.join(names)} of {dn.shape[1:]} px, its labels "
                f"{label.shape[1:]} and weights {weight.shape[1:]}; the first patch has the bands "
                f"{', '.join(order)}. All must agree."
            )
        if dn.dtype != np.uint16 or len(label) != 1 or label.dtype != np.uint8 or len(weight) != 1:
            raise UsageError(
                f"{folder / stem}.tif is {dn.dtype}, its labels are {len(label)} bands of {label.dtype} and "
                f"its weights {len(weight)} bands; wanted are uint16 DN (reflectance x 10000, no offset), "
                "one band of uint8 and one band. Convert them."
            )
        wrong = (label != UNLABELLED) & (label >= len(covers))
        if wrong.any():
            raise UsageError(
                f"{folder / stem}{LABEL_SUFFIX} holds the id {int(label[wrong].max())}, and {FOLDER_FILE} "
                f"names {len(covers)} covers. Ids are 0..{len(covers) - 1}, and {UNLABELLED} for unknown."
            )
        if not np.isfinite(weight).all() or weight.min() < 0 or weight.max() > 1:
            raise UsageError(f"{weight_file} holds values outside 0..1. Give weights in 0..1.")
        rows = [order.index(band) for band in order if band in bands]
        images.append(np.minimum(dn[rows], MAX_STORED_DN).astype(np.int16))
        labels.append(label[0])
        weights.append(np.rint(weight[0] * 255).astype(np.uint8))
        if images[-1].shape != images[0].shape or images[0].shape[1] != images[0].shape[2]:
            raise UsageError(
                f"{folder / stem}.tif is {dn.shape[1]} x {dn.shape[2]} px, the first patch "
                f"{images[0].shape[1]} x {images[0].shape[2]}. Patches are square and of one size: cut "
                "them so."
            )
    if images[0].shape[1] % PATCH_MULTIPLE_PX:
        raise UsageError(
            f"--pixels {folder} holds patches of {images[0].shape[1]} px; their side must be a multiple of "
            f"{PATCH_MULTIPLE_PX}. Cut them so."
        )
    patches = PixelPatches(
        dn=torch.from_numpy(np.stack(images)),
        bands=tuple(band for band in order if band in bands),
        level=level,
        label=torch.from_numpy(np.stack(labels)),
        weight=torch.from_numpy(np.stack(weights)),
        use=torch.tensor([_use(about["uses"].get(stem), uses, folder) for stem in stems]),
        names=tuple(stems),
        covers=covers,
    )
    if not patches.labelled_pixels:
        raise UsageError(f"--pixels {folder} labels no pixel with a weight above 0. Label some.")
    return patches


def _checked_bands(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    unknown = [name or "(none)" for name in names if name not in BANDS]
    if unknown or len(set(names)) != len(names):
        raise UsageError(
            f"{path} names its bands {', '.join(name or '(none)' for name in names)}; unknown: "
            f"{', '.join(unknown) or 'none'}. Set its band descriptions to names such as "
            f"{', '.join(BANDS[1:4])}, each once."
        )
    return names


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
    except (RasterioError, OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}). Write it again, or leave the patch out."
        ) from error
