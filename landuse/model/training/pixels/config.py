"""The settings of a training run on pixels, checked where they are born."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from landuse.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelTrainConfig:
    """Everything that decides a training run of a network that classifies each pixel."""

    steps: int = 12_000
    """Steps of the optimiser."""
    patches: int = 96
    """Labelled patches a step."""
    mosaics: int = 48
    """Mosaics of patches a step, each with exact borders; 0 leaves this loss out."""
    pixels: int = 32
    """Patches with pixel labels a step; 0 leaves these losses out."""
    peak_rate: float = 0.1
    """Learning rate after warm-up."""
    warmup_steps: int = 300
    """Steps of linear warm-up from zero; cosine to zero after it."""
    weight_decay: float = 5e-4
    """On convolution and linear weights only."""
    ema: float = 0.999
    """Decay of the weights' moving average, which teaches, is evaluated and is kept."""
    label_smoothing: float = 0.1
    """Of the patches' cross-entropy."""
    cutmix: float = 0.3
    """Share of the steps whose patches are mixed, in the first 80 % of the run."""
    atmosphere: float = 0.7
    """Atmosphere augmentation, in units of the L1C to L2A path radiance either way."""
    brightness: float = 0.3
    """Brightness and contrast are scaled by 1 +- this."""
    visible_gain: float = 0.08
    """Each visible band's gain varies log-normally by this."""
    infrared_gain: float = 0.2
    """That of the infrared bands, most of it in common between neighbours in wavelength."""
    season: float = 0.5
    """How far vegetation is turned towards the colours of autumn, at most; 0 leaves it as it is."""
    flood: float = 0.15
    """Share of the patches with pixel labels in which fields are put under turbid water."""
    without_infrared: float = 0.3
    """Share of the patches with infrared bands that are shown without any."""
    near_infrared_alone: float = 0.3
    """Share of them that are shown with the near infrared (the first infrared band) alone."""
    disagreement: float = 0.4
    """Weight of a pixel label that the teacher's second view contradicts."""
    robust: float = 0.7
    """``q`` of the generalised cross-entropy on mosaics: 0 is cross-entropy, 1 the mean absolute error."""
    linear: float = 0.5
    """Weight of the bag losses: a River's or a Highway's strongest pixels are of it."""
    conditional: float = 1.0
    """Weight of what a patch's label says of the use of those pixels whose cover can be used so."""
    weak_cover: float = 1.0
    """Weight of what a patch's label says of its cover: a SeaLake is water, a Pasture no crops, a River has
    water somewhere."""
    cover_balance: float = 0.5
    """Pixels of a cover weigh by its frequency to the power of minus this, so that a rare one is not given up
    for a frequent one that looks like it."""
    agreement: float = 0.5
    """Weight of the agreement with the moving average, which sees an unspoilt view of the same patch."""
    agreement_from: float = 0.15
    """Share of the run from which agreement counts, growing over as long again."""
    balance: float = 0.5
    """Rarer covers are drawn more often: by their frequency to the power of minus this."""
    init_sha256: str | None = None
    """Digest of the checkpoint whose weights are started from; None starts from random ones."""
    seed: int = 0
    """Of initialisation, choice and augmentation."""
    precision: str = "bf16"
    """``"bf16"`` autocast, or ``"fp32"``."""
    save_every: int = 500
    """Steps between saved states."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.save_every < 1 or self.patches < 2:
            raise UsageError(
                f"--steps {self.steps}, --save-every {self.save_every} and --patches {self.patches} must be "
                "at least 1, 1 and 2."
            )
        if min(self.mosaics, self.pixels, self.warmup_steps) < 0:
            raise UsageError(
                f"--mosaics {self.mosaics}, --pixels {self.pixels} and --warmup-steps {self.warmup_steps} "
                "must be at least 0."
            )
        if self.precision not in ("bf16", "fp32"):
            raise UsageError(f"--precision {self.precision!r} is unknown. Use bf16 or fp32.")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, float) and (not math.isfinite(value) or value < 0):
                raise UsageError(f"--{entry.name.replace('_', '-')} {value} must be a number of at least 0.")
        shares = ("ema", "label_smoothing", "cutmix", "flood", "disagreement", "robust", "agreement_from")
        for name in shares:
            if getattr(self, name) > 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} must lie in 0..1.")
        if self.without_infrared + self.near_infrared_alone > 1:
            raise UsageError(
                f"--without-infrared {self.without_infrared} and --near-infrared-alone "
                f"{self.near_infrared_alone} are shares of the same patches. Give at most 1 together."
            )
        if self.peak_rate == 0:
            raise UsageError("--peak-rate 0.0 teaches nothing. Give a number above 0.")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, from 0: linear warm-up, then half a cosine to zero."""
        if step < self.warmup_steps:
            return self.peak_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * done))

    def agreement_at(self, step: int) -> float:
        """Weight of the agreement with the moving average at a step, from 0."""
        start = self.agreement_from * self.steps
        if step < start:
            return 0.0
        return self.agreement * min(1.0, (step - start) / max(start, 1.0))
