"""Labelled patches from folders: ``<root>/<Class>/<name>.jpg``.

The only module of ``model`` that reads images. A data set is small enough to live in memory as
uint8 (EuroSAT RGB: 330 MB), so training never waits for a disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from landuse.errors import UsageError
from landuse.model.bands import EUROSAT_JPEG_MAX_DN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

IMAGE_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledPatches:
    """Patches of one split, in memory."""

    images: Tensor
    """(N, bands, S, S) uint8, as the files hold them."""
    labels: Tensor
    """(N,) int64, index into ``classes``."""
    names: tuple[str, ...]
    """``Class/file`` of each patch."""
    classes: tuple[str, ...]
    """Class names, sorted."""

    def __len__(self) -> int:
        return len(self.names)


def to_dn(images: Tensor) -> Tensor:
    """EuroSAT's 8-bit RGB values to DN (reflectance x 10000), float32, same shape."""
    return images.to(torch.float32) * (EUROSAT_JPEG_MAX_DN / 255)


def class_names(root: Path) -> tuple[str, ...]:
    """The class folders of ``root``, sorted.

    Raises:
        UsageError: ``root`` is no folder of class folders.
    """
    if not root.is_dir():
        raise UsageError(f"--data {root} is not a folder. Give the folder that holds one folder a class.")
    names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        raise UsageError(f"--data {root} holds {len(names)} class folders; at least 2 are needed.")
    return names


def list_patches(root: Path) -> list[str]:
    """``Class/file`` of every image under ``root``, sorted."""
    return sorted(
        f"{name}/{path.name}"
        for name in class_names(root)
        for path in (root / name).iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
    )


def read_split(path: Path) -> list[str]:
    """Names in a split file, one ``Class/file`` a line.

    Raises:
        UsageError: the file cannot be read, is empty, or a name leaves the data folder.
    """
    try:
        names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Split file {path} cannot be read: {error}.") from error
    if not names:
        raise UsageError(f"Split file {path} is empty. Give one Class/file.jpg a line.")
    for name in names:
        parts = name.split("/")
        if len(parts) != 2 or ".." in parts or "" in parts or "\\" in name:
            raise UsageError(f"Split file {path} names {name!r}; expected Class/file.jpg.")
    return names


def load_patches(root: Path, names: Sequence[str]) -> LabelledPatches:
    """Read the named patches of ``root`` into memory.

    Raises:
        UsageError: a file is missing, not an image, or of another size than the first.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    classes = class_names(root)
    index = {name: i for i, name in enumerate(classes)}
    images: np.ndarray | None = None
    labels = []
    for row, name in enumerate(names):
        label = name.split("/")[0]
        if label not in index:
            raise UsageError(f"{name}: class {label!r} is not a folder of {root} ({', '.join(classes)}).")
        try:
            with Image.open(root / name) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise UsageError(f"Patch {root / name} cannot be read: {error}.") from error
        if images is None:
            images = np.empty((len(names), 3, *pixels.shape[:2]), np.uint8)
        if pixels.shape[:2] != images.shape[2:]:
            raise UsageError(f"Patch {name} is {pixels.shape[:2]} px; the first is {images.shape[2:]}.")
        images[row] = pixels.transpose(2, 0, 1)
        labels.append(index[label])
    if images is None:
        raise UsageError(f"No patch named for {root}.")
    return LabelledPatches(
        images=torch.from_numpy(images),
        labels=torch.tensor(labels),
        names=tuple(names),
        classes=classes,
    )
