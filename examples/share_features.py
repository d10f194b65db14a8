"""Teach a trained network to score windows that share features as it scores patches cut out.

    python examples/share_features.py --init model.safetensors --data EuroSAT_RGB \
        --split paper-train.txt --val paper-val.txt --out shared.safetensors

The network as it is teaches the copy that is trained, so little of what it knows is lost. Each step
takes two mosaics of 4 x 4 patches, one of neighbours that do not belong together and one of patches
mirrored into continuous quarters. On windows of them, at random places too, three things are asked
for: cut out and shared, the copy gives what the teacher gives the window (turned at random, so that
on average it is the teacher's mean over the square's symmetries), and both give the same. Batch
normalisation keeps its statistics. The result's contract says ``shared_features``.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from landuse.contract import ModelContract
from landuse.errors import LanduseError
from landuse.model.checkpoint import load_checkpoint, save_checkpoint
from landuse.model.networks import PatchNetwork
from landuse.model.normalize import bring_to_input, path_dn, standardize
from landuse.model.predict import cell_weights
from landuse.model.training import augment
from landuse.model.training.datasets import LabelledPatches, PatchSource, load_patches, read_split
from landuse.model.training.evaluate import fit_temperature, logits_of, score

SIDE = 4
"""Patches along a mosaic's side."""

RANDOM_WINDOWS = 10
"""Windows of each step and mosaic that lie across patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How long and how hard."""

    steps: int
    """Mosaic pairs."""
    rate: float
    """Learning rate after warm-up; half a cosine to zero."""
    agreement: float = 3.0
    """Weight of the two engines' divergence from each other, beside 3 for each one's from the teacher."""
    labels: float = 0.1
    """Weight of the labels' cross-entropy."""
    ema: float = 0.995
    """Decay of the weights' moving average, which is kept."""
    seed: int = 0
    """Of mosaics, windows and augmentation."""


def mosaic(patches: LabelledPatches, mirrored: bool, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """DN ``(bands, 4 S, 4 S)`` of patches side by side, and their labels ``(4, 4)``."""
    every = 2 if mirrored else 1
    count = (SIDE // every) ** 2
    chosen = torch.randint(len(patches), (count,), generator=rng)
    dn = augment.random_dihedral(patches.dn(chosen), rng)
    rows = []
    for row in range(SIDE):
        tiles = []
        for col in range(SIDE):
            tile = dn[row // every * (SIDE // every) + col // every]
            flips = [axis for axis, place in ((1, row), (2, col)) if mirrored and place % 2]
            tiles.append(tile.flip(flips) if flips else tile)
        rows.append(torch.cat(tiles, 2))
    labels = patches.labels[chosen].view(SIDE // every, SIDE // every)
    return torch.cat(rows, 1), labels.repeat_interleave(every, 0).repeat_interleave(every, 1)


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of cells' classes from probabilities ``(N, classes, ...)``."""
    return (target * (target.clamp(min=1e-8).log() - F.log_softmax(logits, 1))).sum(1).mean()


def evidence(network: PatchNetwork, x: Tensor, window: int | None = None) -> Tensor:
    """Class evidence of patches, or of a scene in moving windows."""
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, torch.bfloat16):
        return network.evidence(network.features(x, window)).float()


def turned_evidence(network: PatchNetwork, x: Tensor, rng: torch.Generator) -> Tensor:
    """Evidence of patches turned or mirrored at random, turned back."""
    quarters, flip = int(torch.randint(4, (), generator=rng)), bool(torch.randint(2, (), generator=rng))
    turned = evidence(network, torch.rot90(x.flip(3) if flip else x, quarters, (2, 3)))
    back = torch.rot90(turned, -quarters, (2, 3))
    return back.flip(3) if flip else back


def tune(
    start: PatchNetwork,
    teacher: PatchNetwork,
    contract: ModelContract,
    patches: LabelledPatches,
    tuning: Tuning,
) -> PatchNetwork:
    """The moving average of the weights of a copy of ``start``."""
    for network in (start, teacher):
        network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
    student, kept = copy.deepcopy(start), copy.deepcopy(start)
    rng = torch.Generator().manual_seed(tuning.seed)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=tuning.rate, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    size, step_px = contract.patch_size_px, student.position_px
    span = size // step_px
    weights = torch.from_numpy(cell_weights(size, span, span))
    path = torch.tensor(path_dn(contract.bands))

    def cells(values: Tensor) -> Tensor:
        return torch.einsum("bchw,ih,jw->bcij", values, weights, weights) / contract.temperature

    def patch_logits(values: Tensor) -> Tensor:
        return values.mean((2, 3)) / contract.temperature

    for step in range(tuning.steps):
        rate = tuning.rate * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / tuning.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        dn, labels = zip(*(mosaic(patches, mirrored, rng) for mirrored in (False, True)), strict=True)
        x = bring_to_input(torch.stack(dn), contract, "L1C")
        x = standardize(augment.brightness(augment.atmosphere(x, path, 0.7, rng), 0.35, rng), contract)
        aligned = [(b, r * span, c * span) for b in range(2) for r in range(SIDE) for c in range(SIDE)]
        places = torch.randint((SIDE - 1) * span + 1, (2, RANDOM_WINDOWS, 2), generator=rng).tolist()
        windows = aligned + [(b, row, col) for b in range(2) for row, col in places[b]]
        patch = torch.stack(
            [x[b, :, r * step_px :, c * step_px :][:, :size, :size] for b, r, c in windows]
        )  # (windows, bands, S, S)
        scene = evidence(student, x, size)
        alone = evidence(student, patch)
        shared = torch.stack([scene[b, :, r : r + span, c : c + span] for b, r, c in windows])
        with torch.no_grad():
            taught = turned_evidence(teacher, patch, rng)
            target, whole = cells(taught).softmax(1), patch_logits(taught).softmax(1)
        truth = torch.stack(labels).flatten()
        loss = torch.zeros(())
        for mine, other in ((alone, shared), (shared, alone)):
            labelled = mine[: len(aligned)].mean((2, 3))
            loss = loss + tuning.labels * F.cross_entropy(labelled, truth, label_smoothing=0.05)
            loss = loss + divergence(whole, patch_logits(mine)) + 2 * divergence(target, cells(mine))
            loss = loss + tuning.agreement * divergence(cells(other).detach().softmax(1), cells(mine))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        decay = min(tuning.ema, (step + 1) / (step + 20))
        with torch.no_grad():
            for average, value in zip(kept.parameters(), student.parameters(), strict=True):
                average.lerp_(value, 1 - decay)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {tuning.steps}: loss {float(loss):.3f}", file=sys.stderr, flush=True)
    return kept


def main() -> None:
    """Tune, fit the temperature, write, and say what the result scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--init", type=Path, required=True, help="the trained network")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of patches a class")
    parser.add_argument("--split", type=Path, required=True, help="list of the patches to learn from")
    parser.add_argument("--val", type=Path, required=True, help="list of the patches to measure on")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--agreement", type=float, default=3.0, help="weight of the engines' divergence")
    parser.add_argument("--teacher", type=Path, help="the network that teaches, if not --init")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        start, contract = load_checkpoint(options.init)
        teacher = load_checkpoint(options.teacher)[0] if options.teacher else start
        source = PatchSource(root=options.data)
        patches = load_patches(source, read_split(options.split), contract.bands)
        val = load_patches(source, read_split(options.val), contract.bands)
        tuning = Tuning(
            steps=options.steps, rate=options.rate, agreement=options.agreement, seed=options.seed
        )
        network = tune(start, teacher, contract, patches, tuning)
        logits = logits_of(network, contract, val)
        contract = replace(contract, shared_features=True, temperature=fit_temperature(logits, val.labels))
        save_checkpoint(options.out, network, contract)
    except (LanduseError, ValueError) as error:
        sys.exit(f"Error: {error}")
    scores = score((logits / contract.temperature).softmax(1), val.labels, contract.classes)
    print(f"wrote {options.out}: {scores.accuracy:.2%} of {scores.n} patches, ECE {scores.ece:.2%}")


if __name__ == "__main__":
    main()
