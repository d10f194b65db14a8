"""The settings of a training run on labels, checked where they are born, and what it reports of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from landuse.contract import MAX_PATCH_PX, PREPROCESSES
from landuse.errors import UsageError
from landuse.model.networks import NETWORKS
from landuse.model.training.labels.losses import LOSSES

BALANCED_POS_WEIGHT = "balanced"
"""``pos_weight`` that is drawn from the table: labels that are absent over labels that are there."""

MAX_POS_WEIGHT = 20.0
"""A rarer label is not weighed more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTrainConfig:
    """Everything that decides a training run on labels."""

    network: str = "balanced-fast"
    """Name in ``NETWORKS``."""
    size_px: int = 128
    """Side that images are brought to."""
    preprocess: str = "raw"
    """One of ``landuse.contract.PREPROCESSES``."""
    loss: str = "bce"
    """One of ``LOSSES``."""
    pos_weight: str = "1"
    """What a label that is there counts: a number, or ``BALANCED_POS_WEIGHT``."""
    label_smoothing: float = 0.0
    """Targets are moved by half of it from 0 and 1."""
    epochs: int = 60
    """Passes over the training part."""
    batch_size: int = 32
    """Images a step, over all processes."""
    peak_rate: float = 0.05
    """Learning rate after warm-up; scale it with the batch size."""
    warmup_epochs: float = 3.0
    """Epochs of linear warm-up from zero; cosine to zero after it."""
    weight_decay: float = 5e-4
    """On convolution and linear weights only."""
    decay_fusion: bool = False
    """Put the fusion scalars under weight decay too."""
    ema: float = 0.998
    """Decay of the weights' moving average, which is what is evaluated and kept."""
    dihedral: bool = True
    """Each image under a random symmetry of the square."""
    least_area: float = 0.6
    """Random crops of at least this share of the area, brought back to the size; 1 takes whole images."""
    brightness: float = 0.2
    """Brightness and contrast are scaled by 1 +- this."""
    randaugment: int = 0
    """Operations of RandAugment on each image; 0 is none."""
    magnitude: float = 0.5
    """Strength of RandAugment's operations, 0..1."""
    cutmix: float = 0.0
    """Share of the batches under CutMix."""
    mixup: float = 0.0
    """Share of the batches under Mixup; with CutMix, of those that are not under it."""
    mix_until: float = 0.8
    """Share of the epochs after which CutMix and Mixup end."""
    atmosphere: float = 0.7
    """Of reflectance: path radiance either way, in units of the L1C to L2A path radiance."""
    early_size_px: int | None = None
    """Side that images have until ``early_until`` (cheaper epochs); None: ``size_px`` from the first on."""
    early_until: float = 0.6
    """Share of the epochs after which images have their size."""
    keep: str = "last"
    """Weights that are kept: of the ``last`` epoch, or of the ``best`` one by mAP on the validation part."""
    init_sha256: str | None = None
    """Digest of the checkpoint whose weights are started from; None starts from scratch."""
    seed: int = 0
    """Of initialisation, order and augmentation."""
    precision: str = "bf16"
    """``"bf16"`` autocast, or ``"fp32"``; see ``devices.training_precision``."""
    compile: bool = False
    """``torch.compile`` the training step (needs a C++ compiler)."""
    val_every: int = 1
    """Epochs between measurements on the validation part; the last epoch is always measured."""

    def __post_init__(self) -> None:
        self._check_choices()
        if self.epochs < 1 or self.batch_size < 2 or self.val_every < 1:
            raise UsageError(
                f"--epochs {self.epochs}, --batch-size {self.batch_size} and --val-every {self.val_every} "
                "must be at least 1, 2 and 1."
            )
        if not 0 <= self.randaugment <= 10:
            raise UsageError(f"--randaugment {self.randaugment} must lie in 0..10; 2 is usual.")
        for option, side in (("--size", self.size_px), ("--early-size", self.early_size_px)):
            if side is not None and not 16 <= side <= MAX_PATCH_PX:
                raise UsageError(f"{option} {side} must lie in 16..{MAX_PATCH_PX} px.")
        shares = {
            "--label-smoothing": self.label_smoothing,
            "--ema": self.ema,
            "--crop-area": self.least_area,
            "--brightness": self.brightness,
            "--magnitude": self.magnitude,
            "--cutmix": self.cutmix,
            "--mixup": self.mixup,
            "--cutmix-until": self.mix_until,
            "--early-until": self.early_until,
        }
        others = {
            "--peak-rate": self.peak_rate,
            "--warmup-epochs": self.warmup_epochs,
            "--weight-decay": self.weight_decay,
            "--atmosphere": self.atmosphere,
        }
        above = ("--peak-rate", "--crop-area")
        for name, value in {**shares, **others}.items():
            if not math.isfinite(value) or value < 0 or (name in above and value == 0):
                raise UsageError(
                    f"{name} {value} must be a number {'above' if name in above else 'of at least'} 0."
                )
            if name in shares and value > 1:
                raise UsageError(f"{name} {value} must lie in 0..1.")
        if self.network == "baseline" and (self.size_px != 64 or self.early_size_px is not None):
            raise UsageError(
                "--network baseline takes images of 64 px only. Use --size 64 without --early-size, or "
                "another network."
            )

    def _check_choices(self) -> None:
        for option, value, known in (
            ("--network", self.network, tuple(NETWORKS)),
            ("--preprocess", self.preprocess, PREPROCESSES),
            ("--loss", self.loss, LOSSES),
            ("--precision", self.precision, ("bf16", "fp32")),
            ("--keep", self.keep, ("last", "best")),
        ):
            if value not in known:
                raise UsageError(f"{option} {value!r} is unknown. Choose {', '.join(known)}.")
        if self.pos_weight != BALANCED_POS_WEIGHT:
            try:
                weight = float(self.pos_weight)
            except ValueError:
                weight = math.nan
            if not 0 < weight <= 1000:
                raise UsageError(
                    f"--pos-weight {self.pos_weight!r} must be a number above 0, up to 1000, or "
                    f"{BALANCED_POS_WEIGHT}."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMetrics:
    """One line of a run's ``metrics.jsonl``."""

    epoch: int
    """From 1."""
    loss: float
    """Mean training loss."""
    val_map: float
    """Mean average precision of the moving average on the validation part."""
    val_micro_f1: float
    """Micro F1 there, with a threshold of 0.5 for each label."""
    fusion: tuple[float, ...]
    """Learned fusion weight of each balanced attention."""
    images_per_s: float
    """Training speed."""
    seconds: float
    """Time since this process began to train."""
