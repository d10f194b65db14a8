"""Which arithmetic a network of pixels computes fastest in, on this machine: measured, not guessed.

float32 is what a map is made in unless another is asked for, since it gives the same map on every machine.
bfloat16 keeps the range of float32 and 8 bits of its fraction. Processors with instructions for it multiply
about twice as many of them in a second; on others it is imitated, and takes many times as long.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from landuse.model.devices import computes_bfloat16
from landuse.model.doubt import draw
from landuse.model.memory import reused_memory
from landuse.sentinel2 import DN_PER_REFLECTANCE

if TYPE_CHECKING:
    from landuse.contract import ModelContract
    from landuse.model.predict_pixels import PixelPredictor

SIDE_PX, FIELD_PX = 384, 16
"""Sides of the block that is timed, and of the fields of one spectrum in it."""

TIMES = 3
"""Timed passes of each; the fastest counts, since others' work only makes them slower."""

LEAST_GAIN = 1.15
"""Below it bfloat16 is not chosen: it costs equal pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionTiming:
    """What one precision was measured to be worth."""

    precision: str
    """``"fp32"`` or ``"bf16"``."""
    seconds: float
    """For a megapixel through the network alone: of the processor, which others' work disturbs less than the
    clock; of a GPU by the clock."""
    equal: float
    """Share of the pixels whose class is that of float32."""

    def __str__(self) -> str:
        equal = "" if self.precision == "fp32" else f" with {self.equal:.2%} of the pixels as of fp32"
        return f"{self.precision} takes {self.seconds:.2f} s a megapixel{equal}"


def measure_precisions(predictor: PixelPredictor) -> tuple[PrecisionTiming, ...]:
    """Time a block in float32 and, where the device computes in it, in bfloat16, in turn.

    The block is drawn, always the same, of the spectra that the model's training showed, in fields.

    Example:
        >>> [str(timing) for timing in measure_precisions(PixelPredictor.load("balanced-pixel"))]
    """
    precisions = ["fp32"] + ["bf16"] * computes_bfloat16(predictor.device)
    sides = {precision: predictor.in_precision(precision) for precision in precisions}
    dn, bands = _block(predictor.contract), predictor.contract.bands
    level = predictor.contract.levels[0].level
    x, present = predictor.block_input(dn, bands, level)
    seconds = dict.fromkeys(precisions, np.inf)
    clock = time.perf_counter if predictor.device.type == "cuda" else time.process_time
    with torch.inference_mode(), reused_memory():
        for _ in range(1 + TIMES):  # the first sets up
            for precision, side in sides.items():
                began = clock()
                side.dense_features(x, present)
                if predictor.device.type == "cuda":
                    torch.cuda.synchronize(predictor.device)
                seconds[precision] = min(seconds[precision], clock() - began)
    classes = {name: side.pixel_scores(dn, bands, level).landuse.argmax(0) for name, side in sides.items()}
    return tuple(
        PrecisionTiming(
            precision=precision,
            seconds=seconds[precision] / (SIDE_PX**2 / 1e6),
            equal=float((classes[precision] == classes["fp32"]).mean()),
        )
        for precision in precisions
    )


def fastest(timings: tuple[PrecisionTiming, ...]) -> str:
    """The precision to compute in: another than float32 where that pays."""
    own = next(timing for timing in timings if timing.precision == "fp32")
    best = min(timings, key=lambda timing: timing.seconds)
    return best.precision if own.seconds >= LEAST_GAIN * best.seconds else "fp32"


def _block(contract: ModelContract) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """(bands, side, side) DN: fields, each of one spectrum with some noise."""
    rng = np.random.default_rng(0)
    count = (SIDE_PX // FIELD_PX) ** 2
    if contract.spectra is None:
        units = rng.normal(contract.mean, contract.std, (count, len(contract.bands)))
        fields = units * np.array(contract.saturation_dn)
    else:
        fields = draw(contract.spectra, count) ** 2 * DN_PER_REFLECTANCE
    coarse = torch.from_numpy(fields.T.reshape(1, len(contract.bands), SIDE_PX // FIELD_PX, -1))
    land = F.interpolate(coarse, scale_factor=FIELD_PX, mode="nearest")[0].numpy()
    noisy = land * rng.normal(1, 0.05, land.shape)
    return np.clip(np.rint(noisy), 1, 20_000).astype(np.uint16)
