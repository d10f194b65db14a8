"""Images with labels to learn from: coloured squares on grey, as JPEGs and a table, or as GeoTIFFs of DN."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from tests.patches import write_tiff

LABELS = ("brick", "grass", "pond")
HUES = np.array([(220, 60, 40), (60, 200, 60), (40, 60, 220)])
DN = np.array([(2400, 900, 700), (700, 2200, 800), (600, 800, 2300)])
SIDE_PX = 32


def drawn(number: int, hues: np.ndarray, ground: float, noise: float) -> tuple[np.ndarray, list[int]]:
    """Image ``number`` (3, 32, 32) float, and which labels it has: those of its number's bits."""
    rng = np.random.default_rng(number)
    targets = [number >> bit & 1 for bit in range(3)]
    image = np.full((3, SIDE_PX, SIDE_PX), ground)
    places = rng.permutation(4)
    for bit, there in enumerate(targets):
        if there:
            row, col = divmod(int(places[bit]), 2)
            image[:, 16 * row + 2 : 16 * row + 14, 16 * col + 2 : 16 * col + 14] = hues[bit][:, None, None]
    return image + rng.normal(0, noise, image.shape), targets


def write_table(path: Path, rows: list[tuple[str, list[int]]], labels: tuple[str, ...] = LABELS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *labels])
        writer.writerows([name, *values] for name, values in rows)
    return path


def make_images(root: Path, count: int = 48) -> Path:
    """``images/*.jpg``, ``train.csv`` of three quarters of them and ``val.csv`` of the others."""
    folder = root / "images"
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        image, targets = drawn(number, HUES, 120, 12)
        name = f"image{number:03}.jpg"
        Image.fromarray(image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(
            folder / name, quality=95
        )
        rows.append((name, targets))
    # By eights: each quarter has every combination of labels.
    write_table(root / "train.csv", [row for i, row in enumerate(rows) if i // 8 % 4])
    write_table(root / "val.csv", [row for i, row in enumerate(rows) if not i // 8 % 4])
    return root


def make_reflectance(root: Path, count: int = 48) -> Path:
    """The same as ``images/*.tif`` of uint16 DN with the bands B02, B03 and B04, in that order."""
    rows = []
    for number in range(count):
        image, targets = drawn(number, DN, 1300, 60)
        name = f"image{number:03}.tif"
        write_tiff(root / "images" / name, image.clip(1, 9000).astype(np.uint16)[::-1], ("B02", "B03", "B04"))
        rows.append((name, targets))
    write_table(root / "train.csv", [row for i, row in enumerate(rows) if i // 8 % 4])
    write_table(root / "val.csv", [row for i, row in enumerate(rows) if not i // 8 % 4])
    return root
