"""The training loop on patches and pixels.

Each step shows the network three batches at once: labelled patches, mosaics of patches with exact borders,
and patches with pixel labels, some of them without infrared. Its moving average teaches it too: what the
average says of an unspoilt view with all bands, the network is to say of the spoilt view with fewer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from landuse.classes import EUROSAT_NAMES, LAND_COVER_NAMES, LAND_USE_NAMES, USES_OF_COVERS
from landuse.contract import ModelContract, PixelOutputs
from landuse.errors import ModelError, OutputError, UsageError
from landuse.model.bands import INPUT_MAX_DN
from landuse.model.checkpoint import load_pixel_checkpoint, save_checkpoint
from landuse.model.devices import resolve_device
from landuse.model.normalize import bring_to_input, level_inputs, path_dn
from landuse.model.pixel_network import PixelNet, Pyramid, balanced_pixel
from landuse.model.training.pixels import losses
from landuse.model.training.pixels.batches import MOSAIC_PATCHES, Batches, View
from landuse.model.training.pixels.gradients import TASK_OF_PART, Levelling, cut, task_losses
from landuse.model.training.pixels.known_spectra import fit_known_spectra
from landuse.model.training.pixels.measure import PixelMetrics, fit_temperatures, measure
from landuse.model.training.pixels.sources import PATCH_MULTIPLE_PX
from landuse.model.training.state import parameter_groups, read_state, write_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from landuse.model.pixel_network import PixelNetConfig
    from landuse.model.training.datasets import LabelledPatches
    from landuse.model.training.pixels.batches import MosaicBatch, PatchBatch, PixelBatch
    from landuse.model.training.pixels.config import PixelTrainConfig
    from landuse.model.training.pixels.gradients import StepGradients
    from landuse.model.training.pixels.sources import PixelPatches
    from landuse.model.training.teach import PixelLessons

log = logging.getLogger(__name__)

REQUIRED = ("B04", "B03", "B02")
"""Bands without which the network says nothing."""

MAX_GRADIENT = 5.0
"""Longer gradients are scaled down to this norm: early bags of pixels can give very long ones. It comes last,
after those of tasks and branches are levelled, and is the same for all weights, which leaves them level."""

OPTIONAL = ("B08", "B05", "B06", "B07", "B8A", "B11", "B12")
"""Bands that may be missing, the near infrared first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelProgress:
    """Where a run stands, after a step."""

    step: int
    """Steps done in all, those of earlier sittings included."""
    steps: int
    """Steps of the whole run."""
    losses: dict[str, float]
    """Each part of the loss, before its weight."""
    seconds_left: float
    """By the pace of this sitting so far."""


class Step(NamedTuple):
    """What a step of training asks of the network."""

    parts: dict[str, tuple[float, Tensor]]
    """Weight and value of each part of the loss."""
    trunk: Pyramid
    """The trunk's features."""
    seen: Pyramid
    """What the heads were given: these, or leaves of the same values where gradients are levelled between."""


def make_pixel_contract(name: str, patches: LabelledPatches, pixels: Sequence[PixelPatches]) -> ModelContract:
    """The contract of a network that is trained on these data; its statistics are theirs.

    Raises:
        UsageError: the data do not fit each other.
    """
    bands = REQUIRED + OPTIONAL
    covers = pixels[0].covers if pixels else LAND_COVER_NAMES
    if any(entry.covers != covers for entry in pixels):
        raise UsageError("The folders of --pixels name different covers. Train on those of one legend.")
    if covers != LAND_COVER_NAMES:
        raise UsageError(
            f"--pixels names the covers {', '.join(covers)}; the classes of a map are made of "
            f"{', '.join(LAND_COVER_NAMES)}. Translate the labels."
        )
    unnamed = set(patches.classes) - {use for row in USES_OF_COVERS for use in row}
    if unnamed:
        raise UsageError(
            f"--data holds the classes {', '.join(sorted(unnamed))}, which no cover can be. Use EuroSAT's: "
            f"{', '.join(EUROSAT_NAMES)}."
        )
    untaught = {use for row in USES_OF_COVERS if len(row) > 1 for use in row} - set(patches.classes)
    if untaught:
        raise UsageError(
            f"--data holds no patches of {', '.join(sorted(untaught))}, which uses of one cover are told "
            f"apart by. Use EuroSAT's classes: {', '.join(EUROSAT_NAMES)}."
        )
    side = int(patches.images.shape[2])
    if side % PATCH_MULTIPLE_PX:
        raise UsageError(
            f"--data holds patches of {side} px; their side must be a multiple of {PATCH_MULTIPLE_PX}. Cut "
            "them so."
        )
    for what, held, size in (
        ("--data", patches.bands, side),
        *(("--pixels", entry.bands, int(entry.dn.shape[2])) for entry in pixels),
    ):
        lacking = [band for band in REQUIRED if band not in held]
        if lacking:
            raise UsageError(f"{what} lacks the bands {', '.join(lacking)}. They are required.")
        if size != side:
            raise UsageError(f"{what} holds patches of {size} px, --data of {side}. Cut them to one size.")
    contract = ModelContract(
        name=name,
        bands=bands,
        optional_bands=OPTIONAL,
        levels=level_inputs(bands),
        saturation_dn=tuple(INPUT_MAX_DN[band] for band in bands),
        mean=(0.0,) * len(bands),
        std=(1.0,) * len(bands),
        classes=LAND_USE_NAMES,
        patch_size_px=int(patches.images.shape[2]),
        resolution_m=10.0,
        pixels=PixelOutputs(covers=covers, uses_of_covers=USES_OF_COVERS, uses=patches.classes),
    )
    return _with_statistics(contract, patches, pixels)


def _with_statistics(
    contract: ModelContract, patches: LabelledPatches, pixels: Sequence[PixelPatches]
) -> ModelContract:
    """Mean and deviation of each band's clipped input: of the pixel labels' patches, else of the patches."""
    parts: list[tuple[tuple[str, ...], Tensor, str]] = [
        (entry.bands, entry.dn[:: max(len(entry) // 400, 1)].float(), entry.level) for entry in pixels
    ]
    parts.append((patches.bands, patches.dn(slice(None, None, max(len(patches) // 400, 1))), patches.level))
    saturation = torch.tensor(contract.saturation_dn)[:, None]
    values: list[list[Tensor]] = [[] for _ in contract.bands]
    for bands, dn, level in parts:
        whole = dn.new_zeros((len(dn), len(contract.bands), *dn.shape[2:]))
        rows = [contract.bands.index(band) for band in bands if band in contract.bands]
        whole[:, rows] = dn[:, [bands.index(contract.bands[row]) for row in rows]]
        scaled = bring_to_input(whole, contract, level).transpose(0, 1).flatten(1) / saturation
        for row in rows:
            values[row].append(scaled[row].clamp(0, 1))
    # In float64, so that they do not depend on how many threads add them up.
    joined = [torch.cat(of_band or [torch.tensor([0.0, 0.5])]).double() for of_band in values]
    return replace(
        contract,
        mean=tuple(float(band.mean()) for band in joined),
        std=tuple(max(float(band.std()), 0.01) for band in joined),
    )


def _digest(patches: LabelledPatches, pixels: Sequence[PixelPatches]) -> str:
    """What tells the data of one run from another's: names, bands and levels."""
    told: list[object] = [patches.names, patches.bands, patches.level]
    for entry in pixels:
        told += [entry.names, entry.bands, entry.level]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


class PixelRun:
    """Network, moving average, optimiser and position in the schedule."""

    def __init__(
        self,
        config: PixelTrainConfig,
        contract: ModelContract,
        out: Path,
        device: torch.device,
        data_sha256: str = "",
        network: PixelNetConfig | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        assert contract.pixels is not None  # ``make_pixel_contract`` makes no other
        self.config, self.contract, self.device = config, contract, device
        self.data_sha256 = data_sha256
        self.state_file = out / "state.safetensors"
        network_config = network or balanced_pixel(
            len(REQUIRED), len(OPTIONAL), len(contract.pixels.covers), len(contract.pixels.uses)
        )
        self.network = PixelNet(network_config)
        self.average = PixelNet(network_config).eval()
        for mine in (self.network, self.average):
            mine.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.network, config.weight_decay),
            lr=config.peak_rate,
            momentum=0.9,
            nesterov=True,
        )
        self.step = 0
        self.levelling = (
            None if config.gradients == "none" else Levelling(config.gradients, config.gradient_smoothing)
        )
        self.gradients_file = out / "gradients.jsonl"
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    def start_from(self, init: Path) -> None:
        """Take the weights and the statistics of a checkpoint.

        Raises:
            ModelError: it is none of such a network, or its bands, covers or uses are not this run's.
        """
        network, contract = load_pixel_checkpoint(init)
        own = self.contract
        if network.config != self.network.config or (
            contract.bands,
            contract.pixels and contract.pixels.uses,
        ) != (own.bands, own.pixels and own.pixels.uses):
            raise ModelError(
                f"--init {init} is of a network with other layers, bands or uses. Choose another."
            )
        self.contract = replace(own, mean=contract.mean, std=contract.std)
        for mine in (self.network, self.average):
            mine.load_state_dict(network.state_dict())

    def update_average(self) -> None:
        """Move the average towards the network; early on faster than ``ema`` says."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        if self._pairs is None:
            current = self.network.state_dict()
            floating = [
                (value, current[name])
                for name, value in self.average.state_dict().items()
                if value.dtype.is_floating_point
            ]
            self._pairs = [pair[0] for pair in floating], [pair[1] for pair in floating]
        with torch.no_grad():
            torch._foreach_lerp_(self._pairs[0], self._pairs[1], 1 - decay)

    def save(self) -> None:
        """Write the whole state, whole or not at all.

        Raises:
            OutputError: the folder is not writable or the disk is full.
        """
        header = {"step": str(self.step), "data": self.data_sha256}
        write_state(self.state_file, self._modules, self.optimizer, self.config, header)

    def resume(self) -> bool:
        """Take up a state written earlier; False where there is none.

        Raises:
            ModelError: it belongs to another configuration, to other data, or is damaged.
        """
        found = read_state(
            self.state_file, self._modules, self.optimizer, self.config, ("step",), self.data_sha256
        )
        if found is None:
            return False
        (self.step,) = found
        return True

    @property
    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"network": self.network, "average": self.average}
        return modules if self.levelling is None else modules | {"levelling": self.levelling}


def train_pixels(
    config: PixelTrainConfig,
    train_patches: LabelledPatches,
    val_patches: LabelledPatches,
    train_sets: Sequence[PixelPatches],
    val_sets: Sequence[PixelPatches],
    out: Path,
    *,
    name: str,
    init: Path | None = None,
    network: PixelNetConfig | None = None,
    lessons: PixelLessons | None = None,
    device: str = "auto",
    on_step: Callable[[PixelProgress], None] | None = None,
    on_saved: Callable[[PixelRun], None] | None = None,
) -> Path:
    """Train, resuming a run found in ``out``, and write ``out/model.safetensors``.

    Args:
        config: the recipe.
        train_patches: labelled patches that are learned from.
        val_patches: those that are measured on.
        train_sets: patches with pixel labels that are learned from; none trains on patch labels alone.
        val_sets: those that are measured on and that the cover's temperature is fitted on.
        out: folder for ``state.safetensors``, ``metrics.json``, the result and, where gradients are levelled,
            ``gradients.jsonl`` with a line a step (see ``StepGradients``).
        name: the model's name in its contract.
        init: a checkpoint of such a network to go on from, with its contract's statistics; None starts from
            random weights. ``config.init_sha256`` is its digest.
        network: of as many bands, covers and uses; None is ``balanced_pixel``.
        lessons: what teachers say of ``train_patches`` and ``train_sets``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        on_step: called every few steps.
        on_saved: called with the run whenever its state has been saved.

    Returns:
        The checkpoint's path: the moving average after the last step, temperature-scaled.

    Raises:
        UsageError: the data do not fit each other, or there is no such device.
        ModelError: ``out`` holds a run with other settings, or a damaged one.
        OutputError: ``out`` cannot be written.
    """
    if config.gradients != "none" and not train_sets:
        raise UsageError(
            f"--set gradients={config.gradients} levels what labels of patches and of pixels ask for, and "
            "there are none of pixels. Give --pixels."
        )
    target = resolve_device(device)
    contract = make_pixel_contract(name, train_patches, train_sets)
    run = PixelRun(config, contract, out, target, _digest(train_patches, train_sets), network)
    if init is not None:
        run.start_from(init)
        contract = run.contract
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {out} cannot be made ({error}). Name a folder you may write to.") from error
    if run.resume():
        log.info("resuming after step %d of %d", run.step, config.steps)
    if run.levelling is not None:
        _keep_steps(run.gradients_file, run.step)
    if run.step < config.steps:
        path = torch.tensor(path_dn(contract.bands))
        batches = Batches(config, contract, train_patches, train_sets, path, target, lessons)
        _train_steps(run, batches, on_step, on_saved)
    fitted = fit_temperatures(run.average, contract, val_patches, val_sets)
    sets = [(entry.dn, entry.bands, entry.level) for entry in train_sets]
    fitted = replace(fitted, spectra=fit_known_spectra(sets, fitted))
    metrics = measure(run.average, fitted, val_patches, val_sets)
    _write_metrics(out / "metrics.json", metrics)
    result = out / "model.safetensors"
    save_checkpoint(result, run.average, fitted)
    return result


def _train_steps(
    run: PixelRun,
    batches: Batches,
    on_step: Callable[[PixelProgress], None] | None,
    on_saved: Callable[[PixelRun], None] | None,
) -> None:
    config = run.config
    began, first_step = time.monotonic(), run.step
    run.network.train()
    while run.step < config.steps:
        for group in run.optimizer.param_groups:
            group["lr"] = config.rate_at(run.step)
        parts, trunk, seen = step_losses(run, batches)
        loss = torch.stack([weight * value for weight, value in parts.values()]).sum()
        run.optimizer.zero_grad()
        if run.levelling is None:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            torch.nn.utils.clip_grad_norm_(run.network.parameters(), MAX_GRADIENT)
        else:
            told = run.levelling.backward(run.network, task_losses(parts), trunk, seen)
            norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), MAX_GRADIENT)
            _add_step(run.gradients_file, replace(told, step=run.step + 1, norm=float(norm)))
        run.optimizer.step()
        run.step += 1
        run.update_average()
        last = run.step == config.steps
        if on_step is not None and (run.step % 25 == 0 or last):
            pace = (time.monotonic() - began) / (run.step - first_step)
            on_step(
                PixelProgress(
                    step=run.step,
                    steps=config.steps,
                    losses={name: float(value.detach()) for name, (_, value) in parts.items()},
                    seconds_left=pace * (config.steps - run.step),
                )
            )
        if run.step % config.save_every == 0 or last:
            if not bool(torch.isfinite(loss.detach())):
                raise ModelError(
                    f"The loss is {float(loss.detach())} after step {run.step}. Lower --set peak_rate."
                )
            run.save()
            if on_saved is not None:
                on_saved(run)


def step_losses(run: PixelRun, batches: Batches) -> Step:
    """Each part of a step's loss with its weight. The network's forward pass is one for all batches."""
    config, contract = run.config, run.contract
    rng = batches.generator(run.step)
    patch = batches.patch_batch(run.step, rng)
    mosaic = batches.mosaic_batch(rng) if config.mosaics else None
    pixel = batches.pixel_batch(rng) if batches.sets and config.pixels else None
    views = [patch.view, *([mosaic.view] if mosaic else []), *([pixel.view] if pixel else [])]
    with torch.autocast(run.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        trunk = run.network.features(
            torch.cat([view.x for view in views]), torch.cat([view.present for view in views])
        )
        pyramid = trunk if run.levelling is None else Pyramid(*cut(trunk))
        covers, uses = run.network.dense(pyramid)
    patch_logits = run.network.head(pyramid.eighth.float().mean((2, 3)))
    sizes = [len(view.x) for view in views]
    cover_parts, use_parts = torch.split(covers.float(), sizes), torch.split(uses.float(), sizes)
    logit_parts = torch.split(patch_logits, sizes)
    parts: dict[str, tuple[float, Tensor]] = {
        "patch": (
            1.0,
            F.cross_entropy(logit_parts[0], patch.mixed, label_smoothing=config.label_smoothing),
        )
    }
    if config.weak_cover and not patch.is_mixed:
        parts["weak_cover"] = config.weak_cover, _weak_cover(cover_parts[0], patch.label, contract, config)
    if config.conditional and not patch.is_mixed:
        everywhere = patch.label[:, None, None].expand(-1, *use_parts[0].shape[2:])
        conditional = _conditional(use_parts[0], cover_parts[0], everywhere, contract)
        parts["conditional"] = config.conditional, conditional
    if mosaic is not None:
        areal, line = _mosaic(use_parts[1], cover_parts[1], mosaic, contract, config)
        parts["mosaic"], parts["line"] = (1.0, areal), (config.linear, line)
    if pixel is not None:
        balanced = pixel.weight * batches.cover_weight[pixel.label]
        parts["cover"] = 1.0, losses.weighted_cross_entropy(cover_parts[-1], pixel.label, balanced)
        known = pixel.use >= 0
        if bool(known.any()):
            if config.weak_cover:
                weak = _weak_cover(cover_parts[-1], pixel.use, contract, config)
                parts["weak_cover_infrared"] = config.weak_cover, weak
            parts["patch_infrared"] = (
                0.3,
                F.cross_entropy(
                    logit_parts[-1][known], pixel.use[known], label_smoothing=config.label_smoothing
                ),
            )
        if config.taught_use and bool((pixel.answer > 0).any()):
            taught = _taught(logit_parts[-1], use_parts[-1], cover_parts[-1], pixel.answer, contract, config)
            parts |= {name: (config.taught_use * weight, value) for name, (weight, value) in taught.items()}
    weight = config.agreement_at(run.step)
    if weight > 0:
        agreement = _agreement(run, patch, pixel, cover_parts, use_parts)
        parts |= {name: (weight, value) for name, value in agreement.items()}
    of_task = {"use": config.weight_of_use, "cover": config.weight_of_cover}
    parts = {name: (of_task[TASK_OF_PART[name]] * weight, value) for name, (weight, value) in parts.items()}
    return Step(parts, trunk, pyramid)


def _weak_cover(
    logits: Tensor, use_label: Tensor, contract: ModelContract, config: PixelTrainConfig
) -> Tensor:
    """What patches' labels, (B,) or -1 where unknown, say of the cover of their pixels."""
    assert contract.pixels is not None  # of a pixel contract
    covers, uses = contract.pixels.covers, contract.pixels.uses
    probabilities = logits.softmax(1)
    allowed = logits.new_ones((len(uses) + 1, len(covers)))  # the last row is of an unknown use
    for use, named in losses.COVERS_OF_USE.items():
        if use in uses:
            allowed[uses.index(use)] = logits.new_tensor([float(cover in named) for cover in covers])
    # An image that holds two patches has no label of its own; -1 takes the last row.
    of_label = torch.einsum("bchw,bc->bhw", probabilities, allowed[use_label])
    loss = losses.generalised_cross_entropy(of_label, config.robust)
    total = loss.mean((1, 2)).sum()
    for use, cover in losses.COVER_OF_LINE.items():
        if use in uses:
            of_use = (use_label == uses.index(use)).float()
            chance = probabilities[:, covers.index(cover)].flatten(1)
            everywhere = torch.ones_like(chance, dtype=torch.bool)
            loss = losses.bag(chance, everywhere, losses.LINE_SHARE[use], most=0.9)
            total = total + (loss * of_use).sum()
    return total / len(logits)


def _mosaic(
    use_logits: Tensor,
    cover_logits: Tensor,
    mosaic: MosaicBatch,
    contract: ModelContract,
    config: PixelTrainConfig,
) -> tuple[Tensor, Tensor]:
    """Loss of the areal regions' pixels, and of the linear regions' bags."""
    assert contract.pixels is not None  # of a pixel contract
    uses, covers = contract.pixels.uses, contract.pixels.covers
    probabilities = use_logits.softmax(1)
    label = mosaic.label.gather(1, mosaic.region.flatten(1)).view_as(mosaic.region)  # (B, H, W)
    of_label = probabilities.gather(1, label[:, None])[:, 0]
    linear = torch.zeros_like(label, dtype=torch.bool)
    bags = []
    for use, cover in losses.COVER_OF_LINE.items():
        if use not in uses:
            continue
        row = uses.index(use)
        linear |= label == row
        covered = cover_logits.softmax(1)[:, covers.index(cover)]
        chance = losses.line_chance(probabilities[:, row], covered)
        for part in range(MOSAIC_PATCHES):
            region = (mosaic.region == part).flatten(1) & (mosaic.label[:, part] == row)[:, None]
            bags.append(losses.bag(chance, region, losses.LINE_SHARE[use]))
    areal = losses.generalised_cross_entropy(of_label, config.robust) * ~linear
    line = torch.stack(bags)
    return areal.sum() / (~linear).sum().clamp(min=1), line.sum() / (line > 0).sum().clamp(min=1)


def _conditional(use_logits: Tensor, cover_logits: Tensor, label: Tensor, contract: ModelContract) -> Tensor:
    """What labels say of the use of those pixels whose cover can be used so.

    A River's water is a river, though its fields say nothing. A Highway says nothing either: its built pixels
    may be houses.

    Args:
        use_logits: (B, uses, H, W).
        cover_logits: (B, covers, H, W); they weigh the pixels and are not trained here.
        label: (B, H, W) int64, the use of the patch that each pixel is of, or -1 where unknown.
        contract: names uses, covers and which belong together.
    """
    assert contract.pixels is not None  # of a pixel contract
    outputs = contract.pixels
    covers = cover_logits.detach().softmax(1)
    total, mass = use_logits.new_zeros(()), use_logits.new_zeros(())
    for index, named in enumerate(outputs.uses_of_covers):
        if len(named) == 1:
            continue
        among = use_logits[:, [outputs.uses.index(use) for use in named]].log_softmax(1)
        for position, use in enumerate(named):
            if use == "Highway":
                continue
            weight = covers[:, index] * (label == outputs.uses.index(use))
            weight = weight * losses.LAND_TO_PATCHES.get(use, 1.0)
            total = total - (among[:, position] * weight).sum()
            mass = mass + weight.sum()
    return total / mass.clamp(min=1.0)


def _taught(
    logits: Tensor,
    use_logits: Tensor,
    cover_logits: Tensor,
    answer: Tensor,
    contract: ModelContract,
    config: PixelTrainConfig,
) -> dict[str, tuple[float, Tensor]]:
    """What teachers say of the use of patches with pixel labels: of the whole patch, and of its pixels.

    Args:
        logits: (B, uses), of the patch head.
        use_logits: (B, uses, H, W).
        cover_logits: (B, covers, H, W).
        answer: (B, uses) probabilities; zeros where the teachers say nothing.
        contract: names uses, covers and which belong together.
        config: the recipe.

    Returns:
        Weight and value of each part of the loss.
    """
    assert contract.pixels is not None  # of a pixel contract
    uses, covers = contract.pixels.uses, contract.pixels.covers
    of_patch = -(answer * logits.log_softmax(1)).sum() / answer.sum().clamp(min=1.0)
    sure, label = answer.max(1)
    label = torch.where(sure >= config.taught_from, label, torch.full_like(label, -1))
    parts = {"taught": (1.0, of_patch)}
    if config.conditional:
        everywhere = label[:, None, None].expand(-1, *use_logits.shape[2:])
        of_pixels = _conditional(use_logits, cover_logits, everywhere, contract)
        parts["taught_conditional"] = config.conditional, of_pixels
    if config.linear:
        probabilities = use_logits.softmax(1)
        bags = []
        for use, cover in losses.COVER_OF_LINE.items():
            if use not in uses:
                continue
            covered = cover_logits.detach().softmax(1)[:, covers.index(cover)]
            chance = losses.line_chance(probabilities[:, uses.index(use)], covered)
            region = (label == uses.index(use))[:, None].expand(chance.shape)
            bags.append(losses.bag(chance, region, losses.LINE_SHARE[use]))
        line = torch.stack(bags) if bags else use_logits.new_zeros(1)
        parts["taught_line"] = config.linear, line.sum() / (line > 0).sum().clamp(min=1)
    return parts


def _agreement(
    run: PixelRun,
    patch: PatchBatch,
    pixel: PixelBatch | None,
    cover_parts: Sequence[Tensor],
    use_parts: Sequence[Tensor],
) -> dict[str, Tensor]:
    """How far the network is from what its moving average says of unspoilt views of the same places."""
    half = len(patch.label) // 2
    views: list[View] = []
    if not patch.is_mixed:
        views.append(View(x=patch.plain.x[:half], present=patch.plain.present[:half]))
    if pixel is not None:
        views += [pixel.plain, pixel.plain_visible]
    if not views:
        return {}
    with (
        torch.no_grad(),
        torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bf16"),
    ):
        covers, uses = run.average.dense(
            run.average.features(
                torch.cat([view.x for view in views]), torch.cat([view.present for view in views])
            )
        )
    sizes = [len(view.x) for view in views]
    cover_targets = torch.split(covers.float().softmax(1), sizes)
    use_targets = torch.split(uses.float().softmax(1), sizes)
    parts: dict[str, Tensor] = {}
    if not patch.is_mixed:
        parts["agree_patch"] = losses.divergence(cover_parts[0][:half], cover_targets[0])
    if pixel is not None:
        parts["agree_cover"] = losses.divergence(cover_parts[-1], cover_targets[-2])
        # Uses are learned from patches that have no infrared: what they say without it holds with it too.
        parts["agree_use"] = losses.divergence(use_parts[-1], use_targets[-1])
    return parts


def _add_step(path: Path, told: StepGradients) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(told)) + "\n")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}). Make room and run it again.") from error


def _keep_steps(path: Path, steps: int) -> None:
    """Drop the lines of steps that will be done again, and half a line that a kill may have left."""
    if not path.exists():
        return
    partial = path.with_name(f".{path.name}.part")
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
        partial.write_text("".join(line for line in lines if _is_of(line, steps)), "utf-8")
        partial.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path} cannot be written ({error}). Make room and run it again.") from error


def _is_of(line: str, steps: int) -> bool:
    """Whether a line of ``gradients.jsonl`` is of one of the first ``steps`` steps."""
    try:
        return int(json.loads(line)["step"]) <= steps
    except (ValueError, KeyError, TypeError):
        return False


def _write_metrics(path: Path, metrics: PixelMetrics) -> None:
    try:
        path.write_text(json.dumps(asdict(metrics), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}). Make room and run it again.") from error
