"""Label patches with a network that knows land cover, from several views of each.

    python examples/teach_covers.py arrays cover/l2a_patches --teacher forward --out labels/l2a
    python examples/teach_covers.py eurosat cover/eurosat_ms_labels.npz EuroSAT_MS --teacher forward \
        --out labels/eurosat

The teacher is Dynamic World's network (Brown et al. 2022) as a SavedModel; it needs ``tensorflow`` in the
environment. What it says is averaged over the symmetries of the square and, for L2A, which it was not made
for, over the whole and three quarters of the path radiance that L1C has on top, the former counting twice.

It says Grass too seldom: of the pixels of EuroSAT's Pasture patches (L1C, as it expects) it calls 59 % Grass,
of those of AnnualCrop 89 % Crops. ``--grass`` is added to the logarithm of Grass's probability; with 0.3 it
calls 70 and 86 %.

The result is a folder of ``label.npz`` and ``confidence_16.npz`` that ``cover_patches.py --labels`` reads.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from cover_patches import BANDS, eurosat_patches, stored_arrays

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

TEACHER_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
LOW = (1.7417, 1.7261, 1.6798, 1.7735, 2.2892, 2.3829, 2.3829, 2.1953, 1.5548)
HIGH = (2.0233, 2.0389, 2.1796, 2.2890, 2.6172, 2.7734, 2.7578, 2.7891, 2.4140)
PATH_DN = (700, 400, 300, 0, 0, 0, 0, 0, 0)
"""What L1C has on top of L2A over land, about."""
VIEWS = {
    "L1C": ((0.0, 1, tuple(range(8))),),
    "L2A": ((1.0, 2, (0, 3, 5, 6)), (0.75, 1, (1, 2, 4, 7))),
}
"""By level: share of the path radiance that is added, what such a view counts, and its symmetries."""
GRASS = 2
BATCH = 64

Teacher: TypeAlias = "Callable[[NDArray[np.float32]], NDArray[np.float32]]"
"""From its input, (N, S, S, bands), to probabilities, (N, S, S, covers)."""


def seen(dn: NDArray[Any], path_share: float) -> NDArray[np.float32]:
    """``(N, BANDS, S, S)`` DN as the teacher's input, (N, S, S, its bands)."""
    rows = [BANDS.index(band) for band in TEACHER_BANDS]
    values = dn[:, rows].transpose(0, 2, 3, 1).astype(np.float32) + path_share * np.array(PATH_DN, np.float32)
    low, high = np.array(LOW, np.float32), np.array(HIGH, np.float32)
    x = np.exp((np.log(values * 0.005 + 1) - low) / high * 5 - 1)
    result: NDArray[np.float32] = x / (x + 1)
    return result


def turned(x: NDArray[np.float32], symmetry: int) -> NDArray[np.float32]:
    """``(N, S, S, ...)`` mirrored from symmetry 4 on, then turned."""
    return np.ascontiguousarray(np.rot90(x[:, :, ::-1] if symmetry >= 4 else x, symmetry % 4, (1, 2)))


def turned_back(x: NDArray[np.float32], symmetry: int) -> NDArray[np.float32]:
    """The inverse of ``turned``."""
    back = np.rot90(x, -(symmetry % 4), (1, 2))
    return back[:, :, ::-1] if symmetry >= 4 else back


def averaged(teacher: Teacher, dn: NDArray[Any], level: str) -> NDArray[np.float32]:
    """Probabilities over the views of a level, (N, S, S, covers)."""
    total, weights = np.zeros((), np.float32), 0.0
    for path_share, weight, symmetries in VIEWS[level]:
        x = seen(dn, path_share)
        for symmetry in symmetries:
            total = total + weight * turned_back(teacher(turned(x, symmetry)), symmetry)
            weights += weight
    result: NDArray[np.float32] = total / weights
    return result


def load_teacher(folder: Path) -> Teacher:
    """The SavedModel as a function from its input to probabilities."""
    import tensorflow as tf  # of this example alone

    forward = tf.saved_model.load(str(folder)).signatures["serving_default"]

    def teacher(x: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = forward(tf.constant(x)).values()
        result: NDArray[np.float32] = tf.nn.softmax(logits, -1).numpy()
        return result

    return teacher


def main() -> None:
    """Label and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    arrays = commands.add_parser("arrays", help="L2A patches held as arrays")
    arrays.add_argument("folder", type=Path, help="with bands_10m.npz and bands_20m.npz")
    eurosat = commands.add_parser("eurosat", help="EuroSAT's 13-band patches")
    eurosat.add_argument("labels", type=Path, help=".npz that names the patches")
    eurosat.add_argument("roots", type=Path, nargs="+", help="folders with one folder of patches a class")
    for command in (arrays, eurosat):
        command.add_argument("--teacher", type=Path, required=True, help="folder of the SavedModel")
        command.add_argument("--grass", type=float, default=0.3, help="added to the logarithm of Grass")
        command.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args()
    try:
        options.out.mkdir(parents=True)
        if options.command == "arrays":
            level, dn = "L2A", np.stack(list(stored_arrays(options.folder, None)))
        else:
            level = "L1C"
            dn = np.stack([patch[2] for patch in eurosat_patches(options.labels, options.roots, 1.0, None)])
        teacher = load_teacher(options.teacher)
        labels, confidences = [], []
        for start in range(0, len(dn), BATCH):
            shares = averaged(teacher, dn[start : start + BATCH], level)
            shares[..., GRASS] *= np.exp(options.grass)
            shares /= shares.sum(-1, keepdims=True)
            labels.append(shares.argmax(-1).astype(np.uint8))
            confidences.append(np.rint(shares.max(-1) * 16).astype(np.uint8))
        np.savez_compressed(options.out / "label.npz", label=np.concatenate(labels))
        np.savez_compressed(options.out / "confidence_16.npz", confidence_16=np.concatenate(confidences))
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"Error: {error}")
    print(f"wrote {options.out}: labels of {len(dn)} patches ({level})")


if __name__ == "__main__":
    main()
