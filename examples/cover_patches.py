"""Write patches with cover labels as the folders that ``landuse train --pixels`` reads.

From arrays as ``bands_10m.npz`` and its kin hold them (L2A, DN = (code x 1.3 / 255)^2 x 10000):

    python examples/cover_patches.py arrays cover/l2a_patches --out pixels/l2a

From 13-band patches of EuroSAT and an ``.npz`` of their labels (``label``, ``name``, ``classes``):

    python examples/cover_patches.py eurosat cover/eurosat_ms_labels.npz EuroSAT_MS --out pixels/eurosat

A label's weight is the teacher's confidence, times ``--disagreement`` where its two views differ; where no
confidence is known, ``--confidence``. ``--labels`` takes other labels, see ``examples/teach_covers.py``. Snow
is given no weight: dark sea and clouds are often called so. Bands of 20 m are brought to 10 m by cubic
convolution, as maps read them. ``--limit`` takes the first patches only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import reproject

from landuse.classes import LAND_COVER_NAMES
from landuse.model.bands import EUROSAT_TIFF
from landuse.model.training.pixels.sources import FOLDER_FILE, LABEL_SUFFIX, WEIGHT_SUFFIX
from landuse.model.training.pixels.train import OPTIONAL, REQUIRED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BANDS = REQUIRED + OPTIONAL
FINE, COARSE = ("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12")
IGNORED = ("SnowIce",)
TEACHER = (
    "water", "trees", "grass", "flooded_vegetation", "crops", "shrub_and_scrub", "built", "bare",
    "snow_and_ice",
)  # fmt: skip
"""Dynamic World's own names of ``LAND_COVER_NAMES``."""


def dn_of(codes: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Reflectance x 10000 of stored codes."""
    dn: NDArray[np.uint16] = np.rint((codes.astype(np.float32) * 1.3 / 255) ** 2 * 10_000).astype(np.uint16)
    return dn


def finer(dn: NDArray[np.uint16], side_px: int) -> NDArray[np.uint16]:
    """``(bands, S, S)`` brought to ``side_px`` by cubic convolution."""
    fine = np.zeros((len(dn), side_px, side_px), np.float32)
    corner = Affine.translation(500_000, 5_300_000)  # somewhere: at 0, 0 GDAL takes a grid for none
    step = 10 * side_px / dn.shape[1]
    reproject(
        dn.astype(np.float32),
        fine,
        src_transform=corner @ Affine.scale(step, -step),
        dst_transform=corner @ Affine.scale(10, -10),
        src_crs="EPSG:32633",
        dst_crs="EPSG:32633",
        resampling=Resampling.cubic,
    )
    return np.rint(fine.clip(0, 65_535)).astype(np.uint16)


def weight_of(label: NDArray[np.uint8], confidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """The confidence, and 0 of covers that are not to be believed."""
    ignored = [LAND_COVER_NAMES.index(name) for name in IGNORED]
    return np.where(np.isin(label, ignored), 0, confidence).astype(np.float32)


def stored_arrays(folder: Path, limit: int | None) -> Iterator[NDArray[np.uint16]]:
    """DN of ``BANDS`` of each patch of a folder of arrays, 20 m bands brought to 10 m."""
    bands: dict[str, Any] = {}
    for name in ("bands_10m", "bands_20m"):
        with np.load(folder / f"{name}.npz") as file:
            bands[name] = file[name][:limit]
    _check_lengths(folder, bands)
    for fine_codes, coarse_codes in zip(*bands.values(), strict=True):
        fine = dn_of(fine_codes)
        coarse = finer(dn_of(coarse_codes), fine.shape[1])
        both = dict(zip(FINE + COARSE, (*fine, *coarse), strict=True))
        yield np.stack([both[band] for band in BANDS])


def array_patches(
    folder: Path, labels: Path, disagreement: float, limit: int | None
) -> Iterator[tuple[str, NDArray[np.uint16], NDArray[np.uint8], NDArray[np.float32]]]:
    """Name, DN of ``BANDS``, labels and weights of each patch of a folder of arrays.

    ``labels`` holds ``label.npz``, ``confidence_16.npz`` and perhaps a second view, ``label_half_path.npz``.
    """
    names = ["label", "confidence_16"]
    names += ["label_half_path"] if (labels / "label_half_path.npz").exists() else []
    told: dict[str, Any] = {}
    for name in names:
        with np.load(labels / f"{name}.npz") as file:
            told[name] = file[name][:limit]
    images = list(stored_arrays(folder, limit))
    _check_lengths(folder, told | {"bands": images})
    for row, image in enumerate(images):
        label = told["label"][row]
        agreed = 1.0
        if "label_half_path" in told:
            agreed = np.where(label == told["label_half_path"][row], 1, disagreement)
        weight = weight_of(label, (told["confidence_16"][row] / 16 * agreed).astype(np.float32))
        yield f"{folder.name}_{row:05d}", image, label, weight


def _check_lengths(folder: Path, arrays: dict[str, Any]) -> None:
    if len({len(array) for array in arrays.values()}) != 1:
        sizes = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise ValueError(f"the arrays of {folder} hold different numbers of patches: {sizes}")


def eurosat_patches(
    labels: Path, roots: list[Path], confidence: float, limit: int | None, taught: Path | None = None
) -> Iterator[tuple[str, str, NDArray[np.uint16], NDArray[np.uint8], NDArray[np.float32]]]:
    """Name, use, DN of ``BANDS``, labels and weights of each labelled patch of EuroSAT.

    ``taught`` holds other labels of the same patches, ``label.npz``, and their ``confidence_16.npz``.
    """
    with np.load(labels) as file:
        values, names = file["label"][:limit], file["name"][:limit].tolist()
        covers = tuple(map(str, file["classes"]))
    confidences: list[Any] = [confidence] * len(names)
    if taught is not None:
        with np.load(taught / "label.npz") as file, np.load(taught / "confidence_16.npz") as second:
            values, confidences = file["label"][:limit], list(second["confidence_16"][:limit] / 16)
    if covers != TEACHER:
        raise ValueError(f"{labels} names the covers {', '.join(covers)}; wanted are {', '.join(TEACHER)}")
    rows = [EUROSAT_TIFF.index(band) for band in BANDS]
    for name, label, believed in zip(names, values, confidences, strict=True):
        stem = Path(name).stem
        use = stem.rpartition("_")[0]
        found = [path for root in roots if (path := root / use / f"{stem}.tif").is_file()]
        if not found:
            raise ValueError(f"{stem}.tif is in {use} of none of {', '.join(map(str, roots))}")
        with rasterio.open(found[0]) as file:
            if file.count != len(EUROSAT_TIFF):
                raise ValueError(f"{found[0]} has {file.count} bands; EuroSAT's have {len(EUROSAT_TIFF)}")
            dn = file.read()[rows]
        yield stem, use, dn, label, weight_of(label, np.broadcast_to(believed, label.shape))


def write(path: Path, values: NDArray[Any], names: tuple[str, ...] = ()) -> None:
    """``(bands, S, S)`` as a small GeoTIFF."""
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=count, height=height, width=width,
        compress="deflate",
    ) as file:  # fmt: skip
        file.write(values)
        if names:
            file.descriptions = names


def main() -> None:
    """Write the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    arrays = commands.add_parser("arrays", help="L2A patches held as arrays")
    arrays.add_argument("folder", type=Path, help="with bands_10m.npz, bands_20m.npz, label.npz, ...")
    arrays.add_argument("--disagreement", type=float, default=0.4, help="weight where the two labels differ")
    eurosat = commands.add_parser("eurosat", help="EuroSAT's 13-band patches")
    eurosat.add_argument("labels", type=Path, help=".npz with label, name and classes")
    eurosat.add_argument("roots", type=Path, nargs="+", help="folders with one folder of patches a class")
    eurosat.add_argument("--confidence", type=float, default=0.8, help="weight of every label")
    for command in (arrays, eurosat):
        command.add_argument("--out", type=Path, required=True, help="a new folder")
        command.add_argument(
            "--labels", type=Path, dest="taught", help="folder of other labels, see teach_covers.py"
        )
        command.add_argument("--limit", type=int, help="only the first patches")
    options = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # patches of arrays lie nowhere
    out: Path = options.out
    partial = out.with_name(f".{out.name}.part")
    uses: dict[str, str] = {}
    count, labelled = 0, 0.0
    try:
        if out.exists():
            raise ValueError(f"{out} is there already. Remove it, or name another --out.")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if options.command == "arrays":
            told = options.taught or options.folder
            patches = array_patches(options.folder, told, options.disagreement, options.limit)
            level = "L2A"
        else:
            found = eurosat_patches(
                options.labels, options.roots, options.confidence, options.limit, options.taught
            )
            level = "L1C"

            def named() -> Iterator[tuple[str, NDArray[np.uint16], NDArray[np.uint8], NDArray[np.float32]]]:
                for name, use, dn, label, weight in found:
                    uses[name] = use
                    yield name, dn, label, weight

            patches = named()
        for name, dn, label, weight in patches:
            write(partial / f"{name}.tif", dn, BANDS)
            write(partial / f"{name}{LABEL_SUFFIX}", label[None])
            write(partial / f"{name}{WEIGHT_SUFFIX}", weight[None])
            count, labelled = count + 1, labelled + float((weight > 0).mean())
        about = {"level": level, "covers": LAND_COVER_NAMES, **({"uses": uses} if uses else {})}
        (partial / FOLDER_FILE).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        partial.replace(out)
    except (OSError, KeyError, ValueError, RasterioError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        sys.exit(f"Error: {error}")
    share = f"{labelled / count:.1%} of their pixels labelled"
    print(f"wrote {out}: {count} patches of {', '.join(BANDS)} ({level}), {share}")


if __name__ == "__main__":
    main()
