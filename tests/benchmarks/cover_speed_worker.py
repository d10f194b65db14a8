"""One side of ``cover_speed``: a network in a process of its own, asked to run by lines on its input.

``cover_speed_worker.py dynamicworld SAVED_MODEL PIXELS.npz THREADS`` needs TensorFlow and numpy alone, so it
runs in an environment without landuse. ``cover_speed_worker.py landuse MODEL PIXELS.npz THREADS BANDS
PRECISION`` needs landuse. Each line read is ``network``, ``whole`` or ``labels FILE.npy``; each line written
is the processor seconds that it took, of all threads: others' work on the machine disturbs them less than the
clock. ``network`` runs the network alone on an input that was made before; ``whole`` begins with DN and ends
with probabilities in numpy. The first lines of each kind set things up. A model of landuse computes as
``landuse map`` has it: memory that is freed is used again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

DW_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
DW_LOW = (1.7417, 1.7261, 1.6798, 1.7735, 2.2892, 2.3829, 2.3829, 2.1953, 1.5548)
DW_RANGE = (2.0233, 2.0389, 2.1796, 2.2890, 2.6172, 2.7734, 2.7578, 2.7891, 2.4140)
"""How Dynamic World brings L1C DN to its input: the logarithm's low end and range, then a sigmoid."""


def dynamic_world_input(dn: np.ndarray) -> np.ndarray:
    """(1, H, W, 9) float32 of (9, H, W) DN in the order of ``DW_BANDS``."""
    x = np.log(np.moveaxis(dn, 0, -1)[None].astype(np.float32) * np.float32(0.005) + np.float32(1))
    x = (x - np.array(DW_LOW, np.float32)) / np.array(DW_RANGE, np.float32)
    x = np.exp(x * np.float32(5) - np.float32(1))
    return x / (x + 1)


TO_THE_END = ExitStack()
"""What lasts as long as the process."""

Sides = tuple[Callable[[], object], Callable[[], object], Callable[[], np.ndarray]]
"""What runs the network alone, what runs all of it, and what gives the (H, W) covers."""


def dynamic_world(folder: str, dn: dict[str, np.ndarray], threads: int) -> Sides:
    """The SavedModel as it is meant to be called: eagerly, a whole image at a time."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = tf.saved_model.load(folder)
    stack = np.stack([dn[band] for band in DW_BANDS])
    given = tf.constant(dynamic_world_input(stack))

    def whole() -> np.ndarray:
        return tf.nn.softmax(model(tf.constant(dynamic_world_input(stack)))).numpy()

    return lambda: model(given).numpy(), whole, lambda: whole()[0].argmax(-1)


def of_landuse(name: str, dn: dict[str, np.ndarray], threads: int, bands: str, precision: str) -> Sides:
    """A model of pixels, fed those of the wanted bands that it knows."""
    import torch

    from landuse.model.memory import reused_memory
    from landuse.model.predict_pixels import PixelPredictor

    TO_THE_END.enter_context(reused_memory())
    torch.set_num_threads(threads)
    predictor = PixelPredictor.load(name, "cpu", precision)
    used = tuple(band for band in predictor.contract.bands if band in bands.split(","))
    stack = np.stack([dn[band] for band in used])
    x, present = predictor._input(stack, used, "L1C")

    def network() -> object:
        with torch.inference_mode():
            return predictor.dense_features(x, present)

    return (
        network,
        lambda: predictor.pixel_scores(stack, used, "L1C"),
        lambda: predictor.pixel_scores(stack, used, "L1C").cover.argmax(0),
    )


def main() -> None:
    """Answer until the input ends."""
    kind, model, pixels, threads, *more = sys.argv[1:]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    with np.load(pixels) as held:
        dn = {band: held[band] for band in held.files}
    network, whole, labels = {"dynamicworld": dynamic_world, "landuse": of_landuse}[kind](
        model, dn, int(threads), *more
    )
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        began = time.process_time()
        if words[0] == "labels":
            np.save(words[1], labels().astype(np.uint8))
        else:
            {"network": network, "whole": whole}[words[0]]()
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()
