"""The settings of a training run, checked where they are born, and what it reports of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from landuse.errors import UsageError
from landuse.model.networks import NETWORKS

OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run."""

    network: str = "balanced-fast"
    """Name in ``NETWORKS``."""
    epochs: int = 40
    """Passes over the training split."""
    batch_size: int = 128
    """Patches a step, over all processes."""
    peak_rate: float = 0.15
    """Learning rate after warm-up; scale it with the batch size."""
    warmup_epochs: float = 2.0
    """Epochs of linear warm-up from zero; cosine to zero after it."""
    restart_epochs: int | None = None
    """Epochs until the cosine starts anew, twice as many after each time; None: it falls to zero once."""
    optimizer: str = "sgd"
    """``"sgd"`` with Nesterov momentum, or ``"adamw"``."""
    weight_decay: float = 5e-4
    """On convolution and linear weights only: decay on the fusion scalars would decide them."""
    decay_fusion: bool = False
    """Put the fusion scalars under weight decay too, to see what it makes of them."""
    fusion_start: float = 0.0
    """The fusion scalars before their sigmoid, where the network is not started from other weights."""
    label_smoothing: float = 0.1
    """Of the cross-entropy."""
    class_balance: float | None = None
    """Beta of class-balanced weights ``(1 - b) / (1 - b^n)`` (Cui et al. 2019); None weighs alike."""
    ema: float = 0.999
    """Decay of the weights' moving average, which is what is evaluated and kept."""
    cutmix: float = 0.5
    """Probability of CutMix for a batch, until ``cutmix_until``."""
    cutmix_until: float = 0.8
    """Share of the epochs after which CutMix ends."""
    dihedral: bool = True
    """Each patch under a random symmetry of the square."""
    shift_px: int = 5
    """Random shift by reflect-padding."""
    early_crop_px: tuple[int, ...] = ()
    """Sides of the random crops learned from until ``early_until``, one after the other, for as many epochs
    each (cheaper epochs); empty: whole patches."""
    early_until: float = 0.45
    """Share of the epochs after which whole patches are learned from."""
    brightness: float = 0.35
    """Brightness and contrast are scaled by 1 +- this: scenes differ more than EuroSAT's do."""
    atmosphere: float = 0.7
    """Atmosphere augmentation, in units of the L1C to L2A path radiance either way."""
    group_dropout: float = 0.0
    """Share of the patches that lose one spectral group of bands."""
    init_sha256: str | None = None
    """Digest of the checkpoint whose weights are started from; None starts from scratch."""
    teacher_sha256: tuple[str, ...] = ()
    """Digests of the checkpoints whose answers are learned from too, see ``teach``."""
    teacher_share: float = 0.5
    """What the teachers' answer counts in the target of a labelled patch, beside its label; of no weight
    without teachers."""
    unlabelled_ratio: float = 1.0
    """Unlabelled patches a step for each labelled one, where there are any."""
    seed: int = 0
    """Of initialisation, order and augmentation."""
    precision: str = "bf16"
    """``"bf16"`` autocast, or ``"fp32"``; see ``devices.training_precision``."""
    compile: bool = False
    """``torch.compile`` the training step (needs a C++ compiler)."""
    val_every: int = 1
    """Epochs between measurements on the validation split; the last epoch is always measured."""

    def crop_at(self, epoch: int) -> int | None:
        """Side of the crops that an epoch (from 0) learns from; None for whole patches.

        Example:
            >>> config = TrainConfig(epochs=10, early_crop_px=(32, 48), early_until=0.6)
            >>> [config.crop_at(epoch) for epoch in range(10)]
            [32, 32, 32, 48, 48, 48, None, None, None, None]
        """
        early = self.early_until * self.epochs
        if not self.early_crop_px or epoch >= early:
            return None
        return self.early_crop_px[int(epoch * len(self.early_crop_px) / early)]

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise UsageError(f"--network {self.network!r} is unknown. Choose {', '.join(NETWORKS)}.")
        if self.epochs < 1 or self.batch_size < 2 or self.val_every < 1:
            raise UsageError(
                f"--epochs {self.epochs}, --batch-size {self.batch_size} and --val-every {self.val_every} "
                "must be at least 1, 2 and 1."
            )
        if self.precision not in ("bf16", "fp32"):
            raise UsageError(f"--precision {self.precision!r} is unknown. Use bf16 or fp32.")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"--optimizer {self.optimizer!r} is unknown. Use {' or '.join(OPTIMIZERS)}.")
        if self.restart_epochs is not None and self.restart_epochs < 1:
            raise UsageError(f"--restart-epochs {self.restart_epochs} must be at least 1.")
        if self.class_balance is not None and not 0 <= self.class_balance < 1:
            raise UsageError(
                f"--class-balance {self.class_balance} must lie in 0..1, below 1, such as 0.999."
            )
        positive = {"--peak-rate": self.peak_rate}
        shares = {
            "--brightness": self.brightness,
            "--label-smoothing": self.label_smoothing,
            "--cutmix": self.cutmix,
            "--cutmix-until": self.cutmix_until,
            "--ema": self.ema,
            "--group-dropout": self.group_dropout,
            "--teacher-share": self.teacher_share,
        }
        others = {
            "--unlabelled-ratio": self.unlabelled_ratio,
            "--warmup-epochs": self.warmup_epochs,
            "--weight-decay": self.weight_decay,
            "--atmosphere": self.atmosphere,
        }
        for name, value in {**positive, **shares, **others}.items():
            if not math.isfinite(value) or value < 0 or (name in positive and value == 0):
                raise UsageError(
                    f"{name} {value} must be a number {'above' if name in positive else 'of at least'} 0."
                )
        for name, value in shares.items():
            if value > 1:
                raise UsageError(f"{name} {value} must lie in 0..1.")
        if self.network == "baseline" and self.early_crop_px:
            raise UsageError(
                "--early-crop-px does not suit --network baseline, which takes whole patches. Leave it out."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """One line of ``metrics.jsonl``."""

    epoch: int
    """From 1."""
    loss: float
    """Mean training loss."""
    val_accuracy: float
    """Of the moving average on the validation split."""
    val_accuracy_l2a: float
    """The same with the validation split under a simulated L2A atmosphere."""
    fusion: tuple[float, ...]
    """Learned fusion weight of each balanced attention."""
    patches_per_s: float
    """Training speed."""
    seconds: float
    """Time since this process began to train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress:
    """Where a run stands, after a step."""

    epoch: int
    """The epoch under way, from 1."""
    step: int
    """Steps done in all, those of earlier sittings included."""
    steps: int
    """Steps of the whole run."""
    loss: float
    """Of this step."""
    seconds_left: float
    """By the pace of this sitting so far, measuring included."""


class Schedule(Protocol):
    """What decides the learning rate of each step."""

    @property
    def epochs(self) -> int:
        """Passes over the training part."""

    @property
    def peak_rate(self) -> float:
        """After warm-up."""

    @property
    def warmup_epochs(self) -> float:
        """Epochs of linear warm-up from zero."""


def rate_at(config: Schedule, step: int, steps_per_epoch: int, *, restart_epochs: int | None = None) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine to zero.

    With ``restart_epochs`` the cosine takes so many epochs and starts anew, each time for twice as many
    (Loshchilov and Hutter 2017, arXiv 1608.03983).
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.peak_rate * (step + 1) / warmup
    since, length = step - warmup, config.epochs * steps_per_epoch - warmup
    if restart_epochs is not None:
        length = restart_epochs * steps_per_epoch
        while since >= length:
            since, length = since - length, 2 * length
    return config.peak_rate * 0.5 * (1 + math.cos(math.pi * since / max(length, 1)))


def class_weights(counts: tuple[int, ...], beta: float) -> tuple[float, ...]:
    """Class-balanced weights ``(1 - b) / (1 - b^n)``, scaled to sum to the number of classes.

    Source: Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", arXiv 1901.05555.

    Raises:
        UsageError: a class has no patch.
    """
    if min(counts) < 1:
        raise UsageError(f"--class-balance: a class has no training patch (counts {counts}). Add some.")
    raw = [(1 - beta) / (1 - beta**count) for count in counts]
    return tuple(value * len(counts) / sum(raw) for value in raw)
