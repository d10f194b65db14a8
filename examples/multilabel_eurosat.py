"""A multi-label EuroSAT of mosaics, and a network trained on it that ``landuse map`` takes.

    python examples/multilabel_eurosat.py --data EuroSAT_RGB --out mosaics --train 12000 --val 2000

A window of 64 px of a real scene seldom shows one class. Here each image is made of up to four patches with
exact borders between them, and has every class that fills 5 % of it. ``--out`` then holds ``images``
(GeoTIFFs of uint16 DN), ``train.csv``, ``val.csv`` and, in ``run``, what ``landuse train --labels`` writes.
Images to learn from and to measure on are made of the training and validation patches of ``--split``. With
``--epochs 0`` nothing is trained. The same command resumes training; images that are there are not made
again.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import torch
from affine import Affine

from landuse.errors import LanduseError
from landuse.model.bands import RGB
from landuse.model.training.datasets import PatchSource, load_patches
from landuse.model.training.labels.config import LabelTrainConfig
from landuse.model.training.pixels.batches import borders
from landuse.pipeline.write.folder import atomic_path, prepare_folder
from landuse.workflows.labels.train import LabelTrainRequest, image_source, train_label_model
from landuse.workflows.training.train import split_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from landuse.model.training.datasets import LabelledPatches

AT_ONCE = 256


def mosaics(
    patches: LabelledPatches, count: int, parts: int, least_share: float, seed: int
) -> Iterator[tuple[NDArray[np.uint16], list[int]]]:
    """DN ``(bands, S, S)`` of each mosaic, and 1 for each class that fills ``least_share`` of it, else 0."""
    rng = torch.Generator().manual_seed(seed)
    side, classes = int(patches.images.shape[2]), len(patches.classes)
    for start in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - start)
        chosen = torch.randint(len(patches), (size, parts), generator=rng)
        dn = patches.dn(chosen.flatten()).unflatten(0, (size, parts))  # (B, parts, bands, S, S)
        region = borders(size, side, parts, rng)
        where = region[:, None, None].expand(-1, 1, dn.shape[2], -1, -1)
        image = dn.gather(1, where)[:, 0].round().to(torch.int32).numpy().astype(np.uint16)
        label = patches.labels[chosen].gather(1, region.flatten(1))  # (B, S * S)
        shares = torch.nn.functional.one_hot(label, classes).float().mean(1)
        yield from zip(image, (shares >= least_share).int().tolist(), strict=True)


def write_images(folder: Path, table: Path, patches: LabelledPatches, options: argparse.Namespace) -> None:
    """Write a part's images, and last its table: where that is there, so are they."""
    part = table.stem
    count, seed = (
        (options.train, 2 * options.seed) if part == "train" else (options.val, 2 * options.seed + 1)
    )
    if table.exists():
        with table.open(newline="") as file:
            held = sum(1 for _ in csv.reader(file)) - 1
        if held != count:
            sys.exit(f"{table} names {held} images, not {count}. Choose another --out, or the same numbers.")
        return
    profile = {
        "driver": "GTiff", "dtype": "uint16", "count": len(RGB), "height": patches.images.shape[2],
        "width": patches.images.shape[3], "compress": "deflate", "crs": "EPSG:32633",
        "transform": Affine(10, 0, 500_000, 0, -10, 5_300_000),  # somewhere: GDAL warns where there is none
    }  # fmt: skip
    rows = []
    for number, (image, labels) in enumerate(mosaics(patches, count, options.parts, options.share, seed)):
        name = f"{part}_{number:06}.tif"
        with rasterio.open(folder / name, "w", **profile) as file:
            file.write(image)
            file.descriptions = RGB
        rows.append([name, *labels])
    with atomic_path(table) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", *patches.classes])
        writer.writerows(rows)


def main() -> None:
    """Make the images, then train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of patches a class")
    parser.add_argument("--split", help="as of landuse train; default: the paper's, else random")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=12_000, help="images to learn from")
    parser.add_argument("--val", type=int, default=2_000, help="images to measure on")
    parser.add_argument("--parts", type=int, default=4, help="patches of an image, at most")
    parser.add_argument("--share", type=float, default=0.05, help="a class that fills as much is a label")
    parser.add_argument("--epochs", type=int, default=20, help="0 trains nothing")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--start-from", help="weights to start from, such as balanced-fast-rgb")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if min(options.train, options.val, options.parts) < 1 or not 0 < options.share <= 1:
        parser.error("--train, --val and --parts are at least 1, and --share lies in 0 to 1")
    try:
        prepare_folder(options.out)
        images = options.out / "images"
        images.mkdir(exist_ok=True)
        source = PatchSource(root=options.data)
        side = 0
        names = split_names(options.data, options.split, options.seed)
        for part, own in zip(("train", "val"), names, strict=True):
            patches = load_patches(source, own, RGB)
            side = int(patches.images.shape[2])
            write_images(images, options.out / f"{part}.csv", patches, options)
            print(f"{part:8} {options.out / f'{part}.csv'}")
        if options.epochs == 0:
            return
        request = LabelTrainRequest(
            labels=options.out / "train.csv",
            val_labels=options.out / "val.csv",
            images=image_source(images),
            out=options.out / "run",
            name="multilabel-eurosat",
            init=options.start_from,
            config=LabelTrainConfig(
                size_px=side,
                epochs=options.epochs,
                batch_size=options.batch_size,
                peak_rate=0.1 * options.batch_size / 128,
                least_area=1.0,  # a crop would change how much of the image a class fills
                brightness=0.35,
                seed=options.seed,
            ),
        )
        weights = train_label_model(
            request,
            lambda told: print(
                f"epoch {told.epoch}  loss {told.loss:.3f}  val mAP {told.val_map:.2%}", file=sys.stderr
            ),
        )
    except LanduseError as error:
        sys.exit(str(error))
    print(f"weights  {weights}")


if __name__ == "__main__":
    main()
