"""Folders of labelled patches to learn from: one hue a class, textured; and TIFFs of any bands."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image

# Written out: the tests of band names and orders must not take them from what they test.
NATURAL = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
EUROSAT = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
HUES = {"Brick": (200, 90, 70), "Grass": (70, 190, 80), "Water": (40, 60, 200)}
SPECTRA_DN = {
    # B01..B12 in order of wavelength; B10 nearly black, as over clear ground.
    "Brick": (1500, 1300, 1400, 2100, 2200, 2300, 2400, 2400, 2500, 900, 12, 2600, 2100),
    "Grass": (1300, 1000, 1100, 800, 1400, 2600, 3200, 3100, 3500, 1100, 13, 1900, 900),
    "Water": (1200, 950, 800, 500, 480, 380, 360, 300, 260, 150, 10, 90, 60),
}
SIDE_PX = 16


def make_jpegs(root: Path, each: int = 40) -> Path:
    """``<Class>/<Class>_<n>.jpg``, ``each`` of the three classes."""
    rng = np.random.default_rng(0)
    for name, hue in HUES.items():
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.array(hue) + rng.normal(0, 20, (SIDE_PX, SIDE_PX, 3)) + rng.normal(0, 10)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / name / f"{name}_{number}.jpg", quality=95)
    return root


def spectral_patches(each: int) -> dict[str, np.ndarray]:
    """``Class/Class_<n>`` to its DN (13 bands in order of wavelength, 16, 16) uint16."""
    rng = np.random.default_rng(1)
    patches = {}
    for name, spectrum in SPECTRA_DN.items():
        mean = np.array(spectrum, float)[:, None, None]
        for number in range(each):
            dn = mean * (1 + rng.normal(0, 0.1, (13, SIDE_PX, SIDE_PX)) + rng.normal(0, 0.05))
            patches[f"{name}/{name}_{number}"] = dn.clip(1, None).astype(np.uint16)
    return patches


def write_tiff(path: Path, values: np.ndarray, names: Sequence[str] | None = None) -> Path:
    """``(bands, rows, cols)`` of any type as a GeoTIFF; ``names`` become the bands' descriptions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=values.shape[0], height=values.shape[1],
        width=values.shape[2], crs="EPSG:32633", transform=Affine(10, 0, 500_000, 0, -10, 5_300_000),
    ) as target:  # fmt: skip
        target.write(values)
        if names is not None:
            target.descriptions = tuple(names)
    return path


def make_tiffs(
    root: Path, order: Sequence[str] = EUROSAT, *, named: bool = False, each: int = 2
) -> dict[str, np.ndarray]:
    """``spectral_patches`` as ``<root>/<Class>/<Class>_<n>.tif`` with their bands in ``order``."""
    patches = spectral_patches(each)
    rows = [NATURAL.index(band) for band in order]
    for name, dn in patches.items():
        write_tiff(root / f"{name}.tif", dn[rows], order if named else None)
    return patches


def write_split(folder: Path, names: Sequence[str], measured: int = 4) -> str:
    """``--split`` of every ``measured``-th name to measure on and the others to learn from."""
    train, val = folder / "learn.txt", folder / "measure.txt"
    train.write_text("".join(f"{name}\n" for i, name in enumerate(names) if i % measured))
    val.write_text("".join(f"{name}\n" for name in names[::measured]))
    return f"{train},{val}"
