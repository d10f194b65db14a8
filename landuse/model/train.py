"""Training from scratch: SGD with Nesterov momentum, warm-up and cosine, EMA, CutMix.

An epoch's randomness depends on the seed and the epoch alone and the state is written after each
one, so a run that was killed goes on from its last whole epoch exactly as if it had not been.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open

from landuse.errors import ModelError, OutputError, UsageError
from landuse.model import augment
from landuse.model.bands import EUROSAT_JPEG_MAX_DN, RGB
from landuse.model.checkpoint import DAMAGE, load_checkpoint, save_checkpoint, write_safetensors
from landuse.model.datasets import LabelledPatches, to_dn
from landuse.model.evaluate import fit_temperature, logits_of, score
from landuse.model.networks import NETWORKS, BalancedNet, fusion_weights, set_dropblock_progress
from landuse.model.normalize import bring_to_input, level_inputs, path_dn, standardize
from landuse.records import ModelContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run."""

    network: str = "balanced-fast"
    """Name in ``NETWORKS``."""
    epochs: int = 40
    """Passes over the training split."""
    batch_size: int = 128
    """Patches a step."""
    peak_rate: float = 0.15
    """Learning rate after warm-up; scale it with the batch size."""
    warmup_epochs: float = 2.0
    """Epochs of linear warm-up from zero; cosine to zero after it."""
    weight_decay: float = 5e-4
    """On convolution and linear weights only: decay on the fusion scalars would decide them."""
    label_smoothing: float = 0.1
    """Of the cross-entropy."""
    ema: float = 0.999
    """Decay of the weights' moving average, which is what is evaluated and kept."""
    cutmix: float = 0.5
    """Probability of CutMix for a batch, until ``cutmix_until``."""
    cutmix_until: float = 0.8
    """Share of the epochs after which CutMix ends."""
    shift_px: int = 5
    """Random shift by reflect-padding."""
    brightness: float = 0.35
    """Brightness and contrast are scaled by 1 +- this: scenes differ more than EuroSAT's do."""
    atmosphere: float = 0.7
    """Atmosphere augmentation, in units of the L1C to L2A path radiance either way."""
    init_sha256: str | None = None
    """Digest of the checkpoint whose weights are started from; None starts from scratch."""
    seed: int = 0
    """Of initialisation, order and augmentation."""
    compile: bool = False
    """``torch.compile`` the training step (needs a C++ compiler)."""

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise UsageError(f"--network {self.network!r} is unknown. Choose {', '.join(NETWORKS)}.")
        if self.epochs < 1 or self.batch_size < 2:
            raise UsageError(
                f"--epochs {self.epochs} and --batch-size {self.batch_size} must be at least 1 and 2."
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


SIMULATED_L2A = 0.5
"""How far, in units of the path radiance, the simulated L2A lies below the input's middle state."""


def make_contract(name: str, patches: LabelledPatches, bands: tuple[str, ...] = RGB) -> ModelContract:
    """The contract of a network trained on ``patches``; mean and std are measured on them."""
    draft = ModelContract(
        name=name,
        bands=bands,
        levels=level_inputs(bands),
        saturation_dn=float(EUROSAT_JPEG_MAX_DN),
        mean=tuple(0.0 for _ in bands),
        std=tuple(1.0 for _ in bands),
        classes=patches.classes,
        patch_size_px=int(patches.images.shape[2]),
        resolution_m=10.0,
    )
    total, squares, count = torch.zeros(len(bands)), torch.zeros(len(bands)), 0
    for images in torch.split(patches.images, 1024):
        x = standardize(bring_to_input(to_dn(images), draft, "L1C"), draft)
        total += x.mean((0, 2, 3)) * len(x)
        squares += x.square().mean((0, 2, 3)) * len(x)
        count += len(x)
    mean = total / count
    std = (squares / count - mean.square()).sqrt()
    return replace(draft, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def rate_at(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine to zero."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.peak_rate * (step + 1) / warmup
    total = config.epochs * steps_per_epoch
    return config.peak_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


class _Run:
    """The mutable state of a training run and how it is kept on disk."""

    def __init__(self, config: TrainConfig, contract: ModelContract, out: Path) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.contract = contract
        self.out = out
        network_config = NETWORKS[config.network](len(contract.bands), len(contract.classes))
        self.network = BalancedNet(network_config)
        self.average = BalancedNet(network_config).eval()
        for network in (self.network, self.average):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        self.average.load_state_dict(self.network.state_dict())
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        free = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": free, "weight_decay": 0.0},
            ],
            lr=config.peak_rate,
            momentum=0.9,
            nesterov=True,
        )
        self.epoch = 0
        self.step = 0
        self.forward = torch.compile(self.network) if config.compile else self.network

    def update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        current = self.network.state_dict()
        with torch.no_grad():
            for name, value in self.average.state_dict().items():
                if value.dtype.is_floating_point:
                    value.lerp_(current[name], 1 - decay)
                else:
                    value.copy_(current[name])

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors[f"momentum.{index}"] = state["momentum_buffer"]
        return tensors

    def save(self) -> None:
        """Write the whole state, atomically, to ``state.safetensors``."""
        header = {
            "epoch": str(self.epoch),
            "step": str(self.step),
            "config": json.dumps(asdict(self.config)),
        }
        write_safetensors(self.out / "state.safetensors", self._tensors(), header)

    def resume(self) -> bool:
        """Take up ``state.safetensors``; False where there is none.

        Raises:
            ModelError: it belongs to another configuration or is damaged.
        """
        path = self.out / "state.safetensors"
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  # safe_open is no mapping
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read ({error}). Remove it to start again.") from error
        try:
            if json.loads(header["config"]) != asdict(self.config):
                raise ModelError(
                    f"{path} belongs to a run with other settings. Use another --out or remove it."
                )
            for prefix, module in (("network.", self.network), ("average.", self.average)):
                module.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                )
            state: dict[str, Any] = self.optimizer.state_dict()
            state["state"] = {
                int(k.removeprefix("momentum.")): {"momentum_buffer": v}
                for k, v in tensors.items()
                if k.startswith("momentum.")
            }
            self.optimizer.load_state_dict(state)
            self.epoch, self.step = int(header["epoch"]), int(header["step"])
        except DAMAGE as error:
            raise ModelError(f"{path} is damaged ({error}). Remove it to start again.") from error
        return True


def _starting_point(
    init: Path, config: TrainConfig, contract: ModelContract
) -> tuple[BalancedNet, ModelContract]:
    """The network to start from, and its contract.

    Raises:
        ModelError: it is another network, or made for other bands or classes.
    """
    network, given = load_checkpoint(init)
    if (network.config.name, given.bands, given.classes) != (
        config.network,
        contract.bands,
        contract.classes,
    ):
        raise ModelError(
            f"--init {init} is {network.config.name} for {', '.join(given.bands)} and {len(given.classes)} "
            f"classes; the run is {config.network} for {', '.join(contract.bands)} and "
            f"{len(contract.classes)}. Start from weights that fit, or from scratch."
        )
    return network, given


def _epoch_seed(config: TrainConfig, epoch: int) -> int:
    return config.seed * 1_000_003 + epoch


def _batches(
    patches: LabelledPatches, config: TrainConfig, contract: ModelContract, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented input ``(B, bands, S, S)`` and target probabilities ``(B, classes)`` of one epoch."""
    rng = torch.Generator().manual_seed(_epoch_seed(config, epoch))
    path = torch.tensor(path_dn(contract.bands))
    order = torch.randperm(len(patches), generator=rng)
    classes = len(contract.classes)
    mixing = config.cutmix if epoch < config.cutmix_until * config.epochs else 0.0
    for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
        chosen = order[start : start + config.batch_size]
        images = augment.random_shift(patches.images[chosen].float(), config.shift_px, rng)
        dn = bring_to_input(to_dn(augment.random_dihedral(images, rng)), contract, "L1C")
        dn = augment.brightness(augment.atmosphere(dn, path, config.atmosphere, rng), config.brightness, rng)
        x = standardize(dn, contract)
        targets = F.one_hot(patches.labels[chosen], classes).float()
        if float(torch.rand((), generator=rng)) < mixing:
            x, targets = augment.cutmix(x, targets, rng)
        yield x.contiguous(memory_format=torch.channels_last), targets


def train(
    config: TrainConfig,
    train_patches: LabelledPatches,
    val_patches: LabelledPatches,
    out: Path,
    *,
    name: str,
    init: Path | None = None,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
) -> Path:
    """Train, resuming a run found in ``out``, and write ``out/model.safetensors``.

    Args:
        config: the recipe.
        train_patches: what is learned from.
        val_patches: what is measured on after each epoch and what the temperature is fitted on.
        out: folder for ``state.safetensors``, ``metrics.jsonl`` and the result.
        name: the model's name in its contract.
        init: checkpoint to start from instead of from scratch; ``config.init_sha256`` is its digest.
        on_epoch: called after each epoch.

    Returns:
        The checkpoint's path: the moving average of the last epoch, temperature-scaled.

    Raises:
        UsageError: the splits do not fit each other or the batch size.
        ModelError: ``out`` holds a run with other settings, or a damaged one.
        OutputError: ``out`` cannot be written.
    """
    if train_patches.classes != val_patches.classes:
        raise UsageError(f"Training classes {train_patches.classes} differ from {val_patches.classes}.")
    if len(train_patches) < config.batch_size:
        raise UsageError(f"{len(train_patches)} patches are fewer than one batch of {config.batch_size}.")
    side = int(train_patches.images.shape[2])
    if config.shift_px >= side:
        raise UsageError(f"A shift of {config.shift_px} px does not fit patches of {side} px. Lower it.")
    contract = make_contract(name, train_patches)
    start = None if init is None else _starting_point(init, config, contract)
    if start is not None:
        # The weights were learned on inputs scaled like this.
        contract = replace(contract, mean=start[1].mean, std=start[1].std)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {out} cannot be made ({error}). Name a folder you may write to.") from error
    run = _Run(config, contract, out)
    if start is not None:
        run.network.load_state_dict(start[0].state_dict())
        run.average.load_state_dict(start[0].state_dict())
    metrics_file = out / "metrics.jsonl"
    if run.resume():
        log.info("resuming after epoch %d of %d", run.epoch, config.epochs)
    else:
        metrics_file.unlink(missing_ok=True)  # of a run whose state is gone
    steps_per_epoch = len(train_patches) // config.batch_size
    path = torch.tensor(path_dn(contract.bands))
    began = time.monotonic()
    while run.epoch < config.epochs:
        epoch_began = time.monotonic()
        # Dropout and DropBlock draw from the global generator.
        torch.manual_seed(_epoch_seed(config, run.epoch))
        set_dropblock_progress(run.network, run.epoch / config.epochs)
        run.network.train()
        losses = []
        for x, targets in _batches(train_patches, config, contract, run.epoch):
            for group in run.optimizer.param_groups:
                group["lr"] = rate_at(config, run.step, steps_per_epoch)
            with torch.autocast("cpu", torch.bfloat16):
                logits = run.forward(x)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing)
            run.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            run.optimizer.step()
            run.step += 1
            run.update_average()
            losses.append(float(loss.detach()))
        speed = steps_per_epoch * config.batch_size / (time.monotonic() - epoch_began)
        run.epoch += 1
        run.save()
        accuracies = []
        for shift in (None, -SIMULATED_L2A * path):
            logits = logits_of(run.average, contract, val_patches, path_shift_dn=shift)
            accuracies.append(score(logits.softmax(1), val_patches.labels, contract.classes).accuracy)
        metrics = EpochMetrics(
            epoch=run.epoch,
            loss=sum(losses) / len(losses),
            val_accuracy=accuracies[0],
            val_accuracy_l2a=accuracies[1],
            fusion=tuple(fusion_weights(run.average)),
            patches_per_s=speed,
            seconds=time.monotonic() - began,
        )
        try:
            with metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(metrics)) + "\n")
        except OSError as error:
            raise OutputError(
                f"{metrics_file} cannot be written ({error}). Make room and run the same command again."
            ) from error
        if on_epoch is not None:
            on_epoch(metrics)
    logits = logits_of(run.average, contract, val_patches)
    contract = replace(contract, temperature=fit_temperature(logits, val_patches.labels))
    result = out / "model.safetensors"
    save_checkpoint(result, run.average, contract)
    return result
