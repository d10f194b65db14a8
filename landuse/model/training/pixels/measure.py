"""How well a network that classifies each pixel does on data kept out of training, and its temperatures.

A confidence is reliable where as much is right: of what is said with a confidence of 0.8, eight in ten.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from landuse.model.cover_and_use import with_prior
from landuse.model.normalize import bring_to_input, standardize
from landuse.model.training import augment
from landuse.model.training.evaluate import fit_temperature, score
from landuse.model.training.pixels.sources import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from landuse.contract import ModelContract
    from landuse.model.pixel_network import PixelNet
    from landuse.model.training.datasets import LabelledPatches
    from landuse.model.training.pixels.sources import PixelPatches

log = logging.getLogger(__name__)

BATCH = 128

RELIABILITY_BINS = 15
"""Of equal width, as for the calibration error of patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How much of what is said with a confidence is right: sums over the pixels of each bin of confidence."""

    weight: tuple[float, ...]
    """Of the pixels, each counted by how far its label is believed."""
    confidence: tuple[float, ...]
    """Of their confidence times that."""
    right: tuple[float, ...]
    """Of that over those that are right."""

    @classmethod
    def of(cls, confidence: Tensor, right: Tensor, weight: Tensor) -> Reliability:
        """Of pixels, (N,): how sure each answer is (0..1), whether it is right, how far its label counts."""
        bins = (confidence * RELIABILITY_BINS).long().clamp(max=RELIABILITY_BINS - 1)

        def sums(values: Tensor) -> tuple[float, ...]:
            return tuple(torch.bincount(bins, values.double(), RELIABILITY_BINS).tolist())

        weight = weight.double()
        return cls(weight=sums(weight), confidence=sums(weight * confidence), right=sums(weight * right))

    def __add__(self, other: Reliability) -> Reliability:
        def added(name: str) -> tuple[float, ...]:
            return tuple(a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True))

        return Reliability(weight=added("weight"), confidence=added("confidence"), right=added("right"))

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return sum(self.right) / sum(self.weight)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1."""
        gaps = (abs(right - sure) for right, sure in zip(self.right, self.confidence, strict=True))
        return sum(gaps) / sum(self.weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelMetrics:
    """Figures of a network on validation data."""

    patch_accuracy: float
    """Of the patch head, on the validation patches."""
    cover_accuracy: dict[str, float]
    """Of the cover's pixels weighted by how far their labels are believed: with the visible bands alone
    (``"visible"``), with the near infrared (``"near_infrared"``) and with all bands (``"all"``)."""
    cover_recall: dict[str, float]
    """Of each cover that occurs, with all bands."""


@torch.inference_mode()
def patch_logits(
    network: PixelNet,
    contract: ModelContract,
    patches: LabelledPatches,
    *,
    path_shift_dn: Tensor | None = None,
    symmetries: tuple[int, ...] = (0,),
) -> Tensor:
    """Logits of labelled patches, (N, uses) float32 on the CPU, averaged over ``symmetries``.

    Args:
        network: in evaluation mode, on any device.
        contract: the network's.
        patches: what to score, in bands of the contract: all that are required and any others.
        path_shift_dn: (bands of the contract,) DN added to the network's input DN, to simulate another
            atmosphere.
        symmetries: elements of the dihedral group; ``evaluate.DIHEDRAL`` is D4 test-time augmentation.
    """
    device = next(network.parameters()).device
    rows = [contract.bands.index(band) for band in patches.bands]
    there = [float(band in patches.bands) for band in contract.optional_bands]
    present = torch.tensor([there], device=device)
    parts = []
    for start in range(0, len(patches), BATCH):
        dn = patches.dn(slice(start, start + BATCH)).to(device)
        whole = dn.new_zeros((len(dn), len(contract.bands), *dn.shape[2:]))
        whole[:, rows] = dn
        input_dn = bring_to_input(whole, contract, patches.level)
        if path_shift_dn is not None:
            input_dn = input_dn + path_shift_dn.to(device)[:, None, None]
        x = standardize(input_dn, contract).to(memory_format=torch.channels_last)
        shown = present.expand(len(x), -1)
        logits = [network(augment.dihedral(x, element), shown).float() for element in symmetries]
        parts.append(torch.stack(logits).mean(0).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def cover_logits(
    network: PixelNet, contract: ModelContract, patches: PixelPatches, shown: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of pixels: the cover's logits with the model's prior, labels and weights, on the device.

    Args:
        network: in evaluation mode.
        contract: the network's.
        patches: with pixel labels.
        shown: (optional bands,) 1 where an infrared band is to be shown.
    """
    device = next(network.parameters()).device
    rows = [contract.bands.index(band) for band in patches.bands]
    there = torch.tensor([float(band in patches.bands) for band in contract.optional_bands])
    present = (there * shown)[None].to(device)
    for start in range(0, len(patches), BATCH):
        dn = patches.dn[start : start + BATCH].float()
        whole = dn.new_zeros((len(dn), len(contract.bands), *dn.shape[2:]))
        whole[:, rows] = dn
        x = standardize(bring_to_input(whole, contract, patches.level), contract).to(device)
        covers, _ = network.dense(network.features(x, present.expand(len(x), -1)))
        covers = with_prior(covers, present, contract)
        label = patches.label[start : start + BATCH].to(device)
        weight = patches.weight[start : start + BATCH].to(device).float() / 255 * (label != UNLABELLED)
        keep = (weight > 0).flatten()
        yield (
            covers.float().movedim(1, -1).flatten(0, 2)[keep],
            label.flatten()[keep].long(),
            weight.flatten()[keep],
        )


def measure(
    network: PixelNet,
    contract: ModelContract,
    patches: LabelledPatches,
    sets: Sequence[PixelPatches],
) -> PixelMetrics:
    """Figures on validation data; the covers' are empty without pixel labels."""
    logits = patch_logits(network, contract, patches)
    accuracy = score(logits.softmax(1), patches.labels, contract.patch_classes).accuracy
    if not sets or contract.pixels is None:
        return PixelMetrics(patch_accuracy=accuracy, cover_accuracy={}, cover_recall={})
    optional = len(contract.optional_bands)
    first = torch.zeros(optional)
    first[:1] = 1
    shown = {"visible": torch.zeros(optional), "near_infrared": first, "all": torch.ones(optional)}
    accuracies, recalls = {}, {}
    count = len(contract.pixels.covers)
    for name, bands in shown.items():
        confusion = torch.zeros((count, count), dtype=torch.float64)
        for entry in sets:
            for found, label, weight in cover_logits(network, contract, entry, bands):
                index = label * count + found.argmax(1)
                confusion += torch.bincount(index, weight.double(), count * count).cpu().view(count, count)
        accuracies[name] = float(confusion.diagonal().sum() / confusion.sum())
        total = confusion.sum(1)
        recalls = {
            cover: float(confusion[row, row] / total[row])
            for row, cover in enumerate(contract.pixels.covers)
            if total[row] > 0
        }
    return PixelMetrics(patch_accuracy=accuracy, cover_accuracy=accuracies, cover_recall=recalls)


def cover_reliability(network: PixelNet, contract: ModelContract, patches: PixelPatches) -> Reliability:
    """The reliability of the cover's probabilities on labelled pixels, with all bands that they have.

    Args:
        network: in evaluation mode.
        contract: the network's, of pixels; its temperature of the cover is applied.
        patches: with pixel labels.
    """
    temperature = 1.0 if contract.pixels is None else contract.pixels.cover_temperature
    told = []
    for logits, label, weight in cover_logits(
        network, contract, patches, torch.ones(len(contract.optional_bands))
    ):
        confidence, found = (logits / temperature).softmax(1).max(1)
        told.append(Reliability.of(confidence, found == label, weight))
    return sum(told[1:], start=told[0])


def fit_temperatures(
    network: PixelNet,
    contract: ModelContract,
    patches: LabelledPatches,
    sets: Sequence[PixelPatches],
) -> ModelContract:
    """The contract with temperatures fitted on validation data: of the patch head, and of the cover.

    The cover's is fitted on pixels whose label is believed by half or more, one in 61 of them; where there
    is none, it stays 1, with a warning.
    """
    temperature = fit_temperature(patch_logits(network, contract, patches), patches.labels)
    contract = replace(contract, temperature=temperature)
    if not sets or contract.pixels is None:
        return contract
    logits, labels = [], []
    for entry in sets:
        for found, label, weight in cover_logits(
            network, contract, entry, torch.ones(len(contract.optional_bands))
        ):
            sure = weight >= 0.5
            logits.append(found[sure][::61].cpu())
            labels.append(label[sure][::61].cpu())
    if not sum(map(len, labels)):
        log.warning("No label of a validation pixel is believed by half: the covers are not calibrated.")
        return contract
    cover = fit_temperature(torch.cat(logits), torch.cat(labels))
    return replace(contract, pixels=replace(contract.pixels, cover_temperature=cover))
