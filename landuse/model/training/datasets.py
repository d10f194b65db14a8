"""Patches from folders, as RGB images or multi-band GeoTIFFs.

Labelled ones are ``<root>/<Class>/<name>``; unlabelled ones lie anywhere below their root. The only module of
``model`` that reads images. A data set is small enough to live in memory (EuroSAT RGB: 330 MB; all 13 bands:
2.9 GB), so training never waits for a disk.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from landuse.errors import UsageError
from landuse.model.bands import EUROSAT_JPEG_MAX_DN, EUROSAT_TIFF, RGB
from landuse.plausible import cirrus_fault
from landuse.sentinel2 import BANDS, LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
TIFF_SUFFIXES = (".tif", ".tiff")

MAX_STORED_DN = 32_767
"""DN are kept as int16; every network's input saturates far below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSource:
    """A folder of labelled patches and what its files hold."""

    root: Path
    """Folder with one folder a class."""
    level: str = "L1C"
    """Processing level of the pixels; EuroSAT is L1C."""
    band_order: tuple[str, ...] | None = None
    """Band names of the TIFFs in file order; None takes the files' own descriptions, else EuroSAT's order."""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UsageError(f"--level {self.level!r} is unknown. Use {' or '.join(LEVELS)}.")
        order = self.band_order
        if order is None:
            return
        unknown = [name for name in order if name not in BANDS]
        if not order or unknown or len(set(order)) != len(order):
            raise UsageError(
                f"--band-order {','.join(order)}: each band once, from {', '.join(BANDS)}; "
                f"unknown: {', '.join(unknown) or 'none'}."
            )
        if self.level == "L2A" and "B10" in order:
            raise UsageError("--level L2A with B10 in --band-order: L2A has no B10. Name the level it is.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patches:
    """Patches in memory."""

    images: Tensor
    """(N, bands, S, S), uint8 or int16 counts as the files hold them."""
    dn_per_count: float
    """DN (reflectance x 10000) of one count."""
    bands: tuple[str, ...]
    """Band names in order."""
    level: str
    """Processing level, ``"L1C"`` or ``"L2A"``."""
    names: tuple[str, ...]
    """Path of each patch's file below the folder: ``Class/file`` of labelled ones."""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.names):
            raise ValueError(
                f"images {tuple(self.images.shape)} and {len(self.names)} names do not belong together"
            )
        if self.images.shape[1] != len(self.bands):
            raise ValueError(f"images {tuple(self.images.shape)} do not hold the bands {self.bands}")

    def __len__(self) -> int:
        return len(self.names)

    def dn(self, rows: Tensor | slice) -> Tensor:
        """DN of some patches, ``(n, bands, S, S)`` float32."""
        return self.images[rows].to(torch.float32) * self.dn_per_count

    def of_bands(self, bands: tuple[str, ...]) -> Patches:
        """The same patches, unlabelled, with some of their bands, in the order of ``bands``.

        Raises:
            ValueError: they do not hold one of them.
        """
        missing = [band for band in bands if band not in self.bands]
        if missing:
            raise ValueError(f"patches of {', '.join(self.bands)} do not hold {', '.join(missing)}")
        rows = [self.bands.index(band) for band in bands]
        return Patches(
            images=self.images if bands == self.bands else self.images[:, rows],
            dn_per_count=self.dn_per_count,
            bands=bands,
            level=self.level,
            names=self.names,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledPatches(Patches):
    """Patches of one split, in memory."""

    labels: Tensor
    """(N,) int64, index into ``classes``."""
    classes: tuple[str, ...]
    """Class names, sorted."""

    def __post_init__(self) -> None:
        Patches.__post_init__(self)  # not super(): a class with slots is made anew, and super() is of the old
        if len(self.labels) != len(self.names):
            raise ValueError(f"{len(self.labels)} labels and {len(self.names)} names do not belong together")


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
    """``Class/file`` of every patch under ``root``, sorted.

    Raises:
        UsageError: there is none, or images and TIFFs lie side by side.
    """
    found = sorted(
        f"{name}/{path.name}"
        for name in class_names(root)
        for path in (root / name).iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES + TIFF_SUFFIXES
    )
    kinds = {name.lower().endswith(TIFF_SUFFIXES) for name in found}
    if len(kinds) != 1:
        what = "both images and TIFFs" if found else "no patches"
        raise UsageError(f"--data {root} holds {what}. Give a folder of JPEG or PNG patches, or of TIFFs.")
    return found


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


def stated_bands(source: PatchSource, name: str) -> tuple[str, ...]:
    """The bands that a patch holds, in its file's order.

    Args:
        source: the folder and what its files hold.
        name: ``Class/file`` of the patch.

    Raises:
        UsageError: it is missing or not an image, or its bands are not known.
    """
    path = _existing(source.root / name)
    return _TiffReader(source, path, ()).order if path.suffix.lower() in TIFF_SUFFIXES else RGB


def load_patches(source: PatchSource, names: Sequence[str], bands: tuple[str, ...] = RGB) -> LabelledPatches:
    """Read the named patches into memory.

    A split made for EuroSAT's JPEGs serves for its TIFFs: a missing ``x.jpg`` is looked for as ``x.tif``.

    Args:
        source: the folder and what its files hold.
        names: ``Class/file`` of each patch.
        bands: the bands to read, in the order wanted.

    Raises:
        UsageError: a file is missing, not an image, of another size or type than the first, or does
            not hold the bands.
    """
    root = source.root
    classes = class_names(root)
    index = {name: i for i, name in enumerate(classes)}
    for name in names:
        label = name.split("/")[0]
        if label not in index:
            raise UsageError(f"{name}: class {label!r} is not a folder of {root} ({', '.join(classes)}).")
    images, dn_per_count, found = _read_patches(source, names, bands)
    return LabelledPatches(
        images=images,
        dn_per_count=dn_per_count,
        bands=bands,
        level=source.level,
        labels=torch.tensor([index[name.split("/")[0]] for name in names]),
        names=found,
        classes=classes,
    )


def load_unlabelled(source: PatchSource, bands: tuple[str, ...], needed: tuple[str, ...] = ()) -> Patches:
    """Read every patch below a folder into memory, whatever folders it lies in.

    Files of pixel labels, as ``examples/cover_patches.py`` writes them beside patches, are passed over.

    Args:
        source: the folder and what its files hold. What its ``folder.json`` says of the level must agree.
        bands: those wanted; the patches may lack some.
        needed: those that the patches must hold.

    Raises:
        UsageError: there is no patch, a file is not an image, of another size or type than the first, or
            lacks a band that is needed.
    """
    # Not above: that module reads patches by way of this one.
    from landuse.model.training.pixels.sources import FOLDER_FILE, LABEL_SUFFIX, WEIGHT_SUFFIX

    root = source.root
    if not root.is_dir():
        raise UsageError(f"--unlabelled {root} is not a folder. Give a folder of patches.")
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES + TIFF_SUFFIXES
        and not path.name.endswith((LABEL_SUFFIX, WEIGHT_SUFFIX))
    )
    if not names:
        raise UsageError(f"--unlabelled {root} holds no patches. Give a folder of GeoTIFF patches, or JPEGs.")
    stated = stated_level(root)
    if stated not in (None, source.level):
        raise UsageError(
            f"{root / FOLDER_FILE} says that the patches are {stated}; --unlabelled-level says "
            f"{source.level}. Leave the option out, or correct the file."
        )
    held = stated_bands(source, names[0])
    missing = [band for band in needed if band not in held]
    if missing:
        raise UsageError(
            f"The patches of --unlabelled {root} hold {', '.join(held)}; the teachers read "
            f"{', '.join(missing)} too. Give patches that have them, or other teachers."
        )
    read = tuple(band for band in dict.fromkeys((*bands, *needed)) if band in held)
    images, dn_per_count, found = _read_patches(source, names, read)
    return Patches(images=images, dn_per_count=dn_per_count, bands=read, level=source.level, names=found)


def stated_level(root: Path) -> str | None:
    """The level that the ``folder.json`` of a folder of patches states; None where there is no such file.

    Raises:
        UsageError: the file cannot be read.
    """
    from landuse.model.training.pixels.sources import FOLDER_FILE  # as above

    path = root / FOLDER_FILE
    if not path.is_file():
        return None
    try:
        level = json.loads(path.read_text("utf-8"))["level"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read ({error!r}). Write it as examples/cover_patches.py does."
        ) from error
    return str(level)


def _read_patches(
    source: PatchSource, names: Sequence[str], bands: tuple[str, ...]
) -> tuple[Tensor, float, tuple[str, ...]]:
    """Counts ``(N, bands, S, S)`` of the named patches, the DN of a count, and the files' names."""
    root = source.root
    counts: NDArray[np.uint8] | NDArray[np.int16] | None = None
    found = []
    read: _ImageReader | _TiffReader | None = None
    for row, name in enumerate(names):
        path = _existing(root / name)
        tiff = path.suffix.lower() in TIFF_SUFFIXES
        if read is None:
            if not tiff and set(bands) != set(RGB):
                raise UsageError(
                    f"Patches with the bands {', '.join(bands)} are wanted; {path} is an RGB image. Give "
                    "--data a folder of multi-band TIFFs, or use --bands rgb and an RGB model."
                )
            read = _TiffReader(source, path, bands) if tiff else _ImageReader(source, bands)
        elif tiff != isinstance(read, _TiffReader):
            raise UsageError(f"{root} holds both images and TIFFs, such as {path}. Give one kind.")
        pixels = read(path)
        if counts is None:
            if pixels.shape[1] != pixels.shape[2]:
                rows, cols = pixels.shape[1:]
                raise UsageError(f"Patch {name} is {rows} x {cols} px; patches are square. Cut them so.")
            counts = np.empty((len(names), *pixels.shape), pixels.dtype)
        if pixels.shape != counts.shape[1:] or pixels.dtype != counts.dtype:
            raise UsageError(
                f"Patch {name} is {pixels.shape[1:]} px of {pixels.dtype}; the first is "
                f"{counts.shape[2:]} px of {counts.dtype}. Take out what does not belong."
            )
        counts[row] = pixels
        found.append(path.relative_to(root).as_posix())
    if counts is None:
        raise UsageError(f"No patch named for {root}.")
    if isinstance(read, _TiffReader):
        read.check_cirrus()
    dn_per_count = 1.0 if counts.dtype == np.int16 else EUROSAT_JPEG_MAX_DN / 255
    return torch.from_numpy(counts), dn_per_count, tuple(found)


def _existing(path: Path) -> Path:
    """``path``, or the TIFF of the same stem where there is one instead.

    Raises:
        UsageError: there is neither.
    """
    for candidate in (path, *(path.with_suffix(suffix) for suffix in TIFF_SUFFIXES)):
        if candidate.exists():
            return candidate
    raise UsageError(
        f"Patch {path} cannot be read: there is no such file, nor a TIFF of its name. Give --data the folder "
        "that --split was made for."
    )


class _ImageReader:
    """Reads an 8-bit RGB image to ``(bands, S, S)`` uint8."""

    def __init__(self, source: PatchSource, bands: tuple[str, ...]) -> None:
        if source.band_order is not None and source.band_order != RGB:
            raise UsageError(
                f"--band-order {','.join(source.band_order)} is for TIFFs; images are {','.join(RGB)}. "
                "Leave it out."
            )
        self._rows = [RGB.index(band) for band in bands]

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image

        # What Pillow raises on damaged and on enormous images.
        damage = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
        try:
            with Image.open(path) as image:
                if image.mode != "RGB":
                    raise UsageError(
                        f"Patch {path} is an image of mode {image.mode}, not 8-bit RGB. Give EuroSAT-like "
                        "RGB images, or multi-band TIFFs of uint16 DN."
                    )
                pixels = np.asarray(image)
        except damage as error:
            raise UsageError(f"Patch {path} cannot be read: {error}.") from error
        return pixels.transpose(2, 0, 1)[self._rows]  # (bands, S, S)


class _TiffReader:
    """Reads the wanted bands of a uint16 TIFF by name to ``(bands, S, S)`` int16."""

    def __init__(self, source: PatchSource, first: Path, bands: tuple[str, ...]) -> None:
        from rasterio.errors import RasterioError

        self._source = source
        self._bands = bands
        try:
            self.order = self._stated_order(first)
        except (RasterioError, OSError, UnicodeDecodeError) as error:
            raise UsageError(f"Patch {first} cannot be read: {error}.") from error
        missing = [band for band in bands if band not in self.order]
        if missing:
            raise UsageError(
                f"The patches hold {', '.join(self.order)}; {', '.join(missing)} is wanted too. Choose "
                "other --bands or another model, or correct --band-order."
            )
        self._rows = [self.order.index(band) for band in bands]
        self._means: list[NDArray[np.float64]] = []

    def _stated_order(self, path: Path) -> tuple[str, ...]:
        """Band names in file order: as the user says, else as the file says, else EuroSAT's."""
        import rasterio

        with _quiet_georeferencing(), rasterio.open(path) as file:
            described = tuple(text or "" for text in file.descriptions)
            count = file.count
        own = described if all(text in BANDS for text in described) else None
        order = self._source.band_order or own or (EUROSAT_TIFF if count == len(EUROSAT_TIFF) else None)
        if order is None:
            raise UsageError(
                f"Patch {path} has {count} bands without names; EuroSAT's order has {len(EUROSAT_TIFF)}. "
                "Say what they are with --band-order B02,B03,..."
            )
        if len(order) != count:
            raise UsageError(
                f"Patch {path} has {count} bands; --band-order names {len(order)} ({','.join(order)}). "
                "Name each band of the files once, in their order."
            )
        if self._source.level == "L2A" and "B10" in order:
            raise UsageError(
                f"--level L2A, but {path} holds {','.join(order)}, and L2A has no B10. Name the level it "
                "is, or the bands with --band-order."
            )
        if own is not None and own != order:
            raise UsageError(
                f"Patch {path} says its bands are {','.join(own)}; --band-order says {','.join(order)}. "
                "Leave --band-order out, or correct the files."
            )
        return order

    def __call__(self, path: Path) -> NDArray[np.int16]:
        import rasterio
        from rasterio.errors import RasterioError

        try:
            with _quiet_georeferencing(), rasterio.open(path) as file:
                if file.count != len(self.order):
                    raise UsageError(
                        f"Patch {path} has {file.count} bands; the first has {len(self.order)}. Take out "
                        "what does not belong."
                    )
                if set(file.dtypes) != {"uint16"}:
                    raise UsageError(
                        f"Patch {path} is {file.dtypes[0]}; TIFF patches are uint16 DN (reflectance x "
                        "10000, no offset). Convert them."
                    )
                described = tuple(text or "" for text in file.descriptions)
                if all(text in BANDS for text in described) and described != self.order:
                    raise UsageError(
                        f"Patch {path} says its bands are {','.join(described)}; the others are "
                        f"{','.join(self.order)}. Bring the files to one order."
                    )
                pixels: NDArray[np.uint16] = file.read()
        except (RasterioError, OSError, UnicodeDecodeError) as error:
            raise UsageError(f"Patch {path} cannot be read: {error}.") from error
        self._means.append(pixels.mean((1, 2)))
        return np.minimum(pixels[self._rows], MAX_STORED_DN).astype(np.int16)  # (bands, S, S)

    def check_cirrus(self) -> None:
        """Refuse a band order that the pixels contradict: B10, which sees no ground, is the darkest.

        Raises:
            UsageError: another band is, or B10 is bright.
        """
        means = dict(zip(self.order, np.mean(self._means, 0).tolist(), strict=True))
        fault = cirrus_fault(means, clear=True)
        if fault is not None:
            raise UsageError(
                f"The bands of {self._source.root} are not in the order {','.join(self.order)}: {fault}. Say "
                "the files' order with --band-order."
            )


def _quiet_georeferencing() -> warnings.catch_warnings[None]:
    """Patches need no georeferencing, so rasterio need not warn that there is none."""
    from rasterio.errors import NotGeoreferencedWarning

    return warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning)
