"""What a step of training on pixels is shown: patches, mosaics of patches, and patches with pixel labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from landuse.model.normalize import bring_to_input, standardize
from landuse.model.training import augment
from landuse.model.training.pixels import spectra
from landuse.model.training.pixels.sources import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from landuse.contract import ModelContract
    from landuse.model.training.datasets import LabelledPatches
    from landuse.model.training.pixels.config import PixelTrainConfig
    from landuse.model.training.pixels.sources import PixelPatches
    from landuse.model.training.teach import PixelLessons

MIXED = 0.5
"""Share of the patches with pixel labels into which a rectangle of another one is laid."""

NOISE_DN = 12.0
"""Deviation of the noise that is added to each pixel."""

OF_ONE_BAND = 0.04
"""How far a band's light deviates from that of the image, as a share. With more, woods and water could
not be told apart by their colour in the visible bands."""

MOSAIC_PATCHES = 3
"""Patches of a mosaic."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """Standardised images and which of their infrared bands are there."""

    x: Tensor
    """(B, bands, H, W)."""
    present: Tensor
    """(B, optional bands), 1 or 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchBatch:
    """Labelled patches."""

    view: View
    """As the network is shown them."""
    plain: View
    """As the moving average sees them: the same place, not spoilt."""
    label: Tensor
    """(B,) int64."""
    mixed: Tensor
    """(B, uses) probabilities, of the images after CutMix; where there are teachers, their answer and the
    label together."""
    is_mixed: bool
    """Whether images were mixed; ``plain`` is then not of the same place."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MosaicBatch:
    """Mosaics of labelled patches, with exact borders."""

    view: View
    """As the network is shown them."""
    region: Tensor
    """(B, H, W) int64, 0..MOSAIC_PATCHES-1."""
    label: Tensor
    """(B, MOSAIC_PATCHES) int64, of each region."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelBatch:
    """Patches with pixel labels."""

    view: View
    """As the network is shown them: perhaps without infrared bands."""
    plain: View
    """As the moving average sees them: unspoilt, with all bands."""
    plain_visible: View
    """The same without infrared bands."""
    label: Tensor
    """(B, H, W) int64 cover; where ``weight`` is 0, anything in range."""
    weight: Tensor
    """(B, H, W) float32."""
    use: Tensor
    """(B,) int64, -1 where unknown."""
    answer: Tensor
    """(B, uses) probabilities, what teachers say of the use; zeros where they say nothing."""


class Batches:
    """Draws each step's batches; a step draws the same whatever was drawn before it."""

    def __init__(
        self,
        config: PixelTrainConfig,
        contract: ModelContract,
        patches: LabelledPatches,
        pixels: Sequence[PixelPatches],
        path_dn: Tensor,
        device: torch.device,
        lessons: PixelLessons | None = None,
    ) -> None:
        self.config, self.contract, self.device = config, contract, device
        self.path_dn = path_dn.to(device)
        self.patch_level, self.dn_per_count = patches.level, patches.dn_per_count
        self.images, self.labels = patches.images.to(device), patches.labels.to(device)
        self.targets = _targets(patches, lessons, config.teacher_share).to(device)
        """(N, uses) probabilities that each patch is to be told by."""
        self.patch_rows = [contract.bands.index(band) for band in patches.bands]
        silent = [torch.zeros(len(entry), len(patches.classes)) for entry in pixels]
        self.sets = [
            _OnDevice(entry, answers, contract, config.balance, device)
            for entry, answers in zip(pixels, silent if lessons is None else lessons.sets, strict=True)
        ]
        sizes = torch.tensor([len(entry) for entry in pixels], dtype=torch.float64).sqrt()
        self.cover_weight = _cover_weights(pixels, config.cover_balance).to(device)
        """(256,) what a pixel of each cover weighs in the loss; 0 of ``UNLABELLED``."""
        self.counts = _split(config.pixels, (sizes / sizes.sum()).tolist()) if pixels else []

    def generator(self, step: int) -> torch.Generator:
        """The source of a step's randomness, on the device."""
        # Mixed, and not written side by side: torch's CPU generator looks at the lower 32 bits alone.
        low, high = np.random.SeedSequence((self.config.seed, step)).generate_state(2).tolist()
        return torch.Generator(self.device).manual_seed((high << 32 | low) & (2**63 - 1))

    def patch_batch(self, step: int, rng: torch.Generator) -> PatchBatch:
        """Labelled patches of a step."""
        config = self.config
        dn, rows = self._draw_patches(config.patches, rng)
        dn = augment.random_dihedral(augment.random_shift(dn, 5, rng), rng)
        dn = self._known(bring_to_input(self._all_bands(dn), self.contract, self.patch_level))
        mixed = self.targets[rows]
        mixing = step < 0.8 * config.steps and float(_uniform((), rng)) < config.cutmix
        spoilt = self._spoilt(dn, infrared=False, rng=rng)
        present = self._absent(len(dn))
        x = standardize(spoilt, self.contract)
        if mixing:
            x, mixed = augment.cutmix(x, mixed, rng)
        return PatchBatch(
            view=self._view(x, present),
            plain=self._view(standardize(dn, self.contract), present),
            label=self.labels[rows],
            mixed=mixed,
            is_mixed=mixing,
        )

    def mosaic_batch(self, rng: torch.Generator) -> MosaicBatch:
        """Mosaics of a step."""
        count, parts = self.config.mosaics, MOSAIC_PATCHES
        dn, rows = self._draw_patches(count * parts, rng)
        label = self.labels[rows]
        dn = augment.random_dihedral(dn, rng)
        side = dn.shape[2]
        region = borders(count, side, parts, rng)
        # Scenes of EuroSAT differ in their light, which must not give the border away.
        dn = augment.brightness(dn, 0.15, rng).view(count, parts, -1, side, side)
        chosen = region[:, None, None].expand(-1, 1, dn.shape[2], -1, -1)
        dn = dn.gather(1, chosen)[:, 0]
        dn = self._known(bring_to_input(self._all_bands(dn), self.contract, self.patch_level))
        x = standardize(self._spoilt(dn, infrared=False, rng=rng), self.contract)
        return MosaicBatch(
            view=self._view(x, self._absent(count)), region=region, label=label.view(count, parts)
        )

    def pixel_batch(self, rng: torch.Generator) -> PixelBatch:
        """Patches with pixel labels of a step."""
        config = self.config
        parts = [
            entry.draw(count, self.contract, rng)
            for entry, count in zip(self.sets, self.counts, strict=True)
            if count
        ]
        dn, label, weight, use, answer, present = (torch.cat(values) for values in zip(*parts, strict=True))
        stack = torch.cat([dn, label[:, None], weight[:, None]], 1)
        stack = augment.random_dihedral(stack, rng)
        laid = _laid_over(stack, present, rng)
        whole = ~laid.flatten(1).any(1)
        use = torch.where(whole, use, torch.full_like(use, -1))
        dn, label, weight = stack[:, :-2], stack[:, -2], stack[:, -1]
        shown = present * self._shown(len(dn), rng)
        # Without infrared a flooded field is like a dark wood: nothing would tell them apart.
        dn, label, weight = self._flooded(dn, label, weight, shown.any(1), rng)
        spoilt = spectra.season(dn, self.contract.bands, config.season, rng)
        spoilt = self._spoilt(spoilt, infrared=True, rng=rng)
        plain = standardize(dn, self.contract)
        return PixelBatch(
            view=self._view(standardize(spoilt, self.contract), shown),
            plain=self._view(plain, present),
            plain_visible=self._view(plain, torch.zeros_like(present)),
            label=label.long(),
            weight=weight,
            use=use,
            answer=answer * whole[:, None],
        )

    def _draw_patches(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """DN of some patches, and which they are."""
        rows = torch.randint(len(self.images), (count,), generator=rng, device=self.device)
        return self.images[rows].float() * self.dn_per_count, rows

    def _all_bands(self, dn: Tensor) -> Tensor:
        """The patches' bands among the contract's; the others hold zeros."""
        whole = dn.new_zeros((len(dn), len(self.contract.bands), *dn.shape[2:]))
        whole[:, self.patch_rows] = dn
        return whole

    def _known(self, input_dn: Tensor) -> Tensor:
        """Without what the transform of the level has made of bands that the patches lack."""
        mask = torch.zeros(len(self.contract.bands), device=self.device)
        mask[self.patch_rows] = 1
        return input_dn * mask[None, :, None, None]

    def _spoilt(self, dn: Tensor, *, infrared: bool, rng: torch.Generator) -> Tensor:
        """Input DN as another sensor, sun and atmosphere would have it."""
        config, bands = self.config, self.contract.bands
        # A gain is of the ground. What the atmosphere adds, half of it in the middle of the levels, varies
        # below and in all bands together: woods and water differ by less.
        base = (self.path_dn / 2)[:, None, None]
        infrared_gain = config.infrared_gain if infrared else 0.0
        dn = base + spectra.gains(dn - base, bands, config.visible_gain, infrared_gain, rng)
        dn = augment.brightness(dn, config.brightness, rng, OF_ONE_BAND)
        dn = augment.atmosphere(dn, self.path_dn, config.atmosphere, rng, OF_ONE_BAND)
        return dn + NOISE_DN * torch.randn(dn.shape, generator=rng, device=dn.device)

    def _flooded(
        self, dn: Tensor, label: Tensor, weight: Tensor, floodable: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fields of some of the ``floodable`` patches, (B,) bool, under water, labelled so."""
        covers = self.contract.pixels.covers if self.contract.pixels is not None else ()
        if self.config.flood == 0 or "Water" not in covers:
            return dn, label, weight
        fields = [covers.index(name) for name in ("Crops", "Grass", "Bare") if name in covers]
        count, side = len(dn), dn.shape[2]
        share = 0.2 + 0.6 * _uniform((count,), rng)
        region = spectra.blobs(count, side, share, rng)
        chosen = (_uniform((count,), rng) < self.config.flood) & floodable
        field = torch.isin(label, torch.tensor(fields, device=dn.device, dtype=label.dtype)) & (weight > 0)
        where = region & field & chosen[:, None, None]
        # What the middle of the levels holds of the atmosphere, see ``normalize``.
        water = spectra.flood(dn, self.contract.bands, where, self.path_dn / 2, rng)
        wet = torch.full_like(label, covers.index("Water"))
        return water, torch.where(where, wet, label), torch.where(where, torch.ones_like(weight), weight)

    def _shown(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, optional bands): which of them each image is shown with, if it has them."""
        config, optional = self.config, len(self.contract.optional_bands)
        draw = _uniform((count, 1), rng)
        # Of what is left, a third loses bands at random.
        some = (_uniform((count, optional), rng) < 0.5).float()
        some = torch.where(_uniform((count, 1), rng) < 1 / 3, some, torch.ones_like(some))
        first = torch.zeros_like(some)
        first[:, :1] = 1
        alone = config.without_infrared + config.near_infrared_alone
        shown = torch.where(draw < alone, first, some)
        return torch.where(draw < config.without_infrared, torch.zeros_like(shown), shown)

    def _absent(self, count: int) -> Tensor:
        rows = [self.contract.bands[row] for row in self.patch_rows]
        present = [float(band in rows) for band in self.contract.optional_bands]
        return torch.tensor([present], device=self.device).expand(count, -1)

    def _view(self, x: Tensor, present: Tensor) -> View:
        return View(x=x.contiguous(memory_format=torch.channels_last), present=present)


class _OnDevice:
    """A set of patches with pixel labels, on the device, and how often each is drawn."""

    def __init__(
        self,
        patches: PixelPatches,
        answers: Tensor,
        contract: ModelContract,
        balance: float,
        device: torch.device,
    ) -> None:
        self.level = patches.level
        self.dn, self.label = patches.dn.to(device), patches.label.to(device)
        self.weight, self.use = patches.weight.to(device), patches.use.to(device)
        self.answers = answers.to(device)
        self.rows = [contract.bands.index(band) for band in patches.bands]
        there = [float(band in patches.bands) for band in contract.optional_bands]
        self.present = torch.tensor(there, device=device)
        counts = torch.stack(
            [torch.bincount(label[label != UNLABELLED].flatten().long(), minlength=len(patches.covers))
             for label in patches.label]
        ).double()  # fmt: skip
        frequency = counts.sum(0) / counts.sum()
        rarity = torch.where(frequency > 0, frequency.clamp(min=1e-4) ** -balance, 0.0)
        shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
        self.chance = (shares @ rarity).clamp(min=1e-6).float().to(device)

    def draw(
        self, count: int, contract: ModelContract, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Input DN, label, weight, use, what teachers say of it, and present bands; see ``PixelBatch``.

        Label and weight are float, and the bands of ``dn`` that are missing hold zeros.
        """
        rows = torch.multinomial(self.chance, count, replacement=True, generator=rng)
        stored = self.dn[rows].float()
        dn = stored.new_zeros((count, len(contract.bands), *stored.shape[2:]))
        dn[:, self.rows] = stored
        mask = torch.zeros(len(contract.bands), device=dn.device)
        mask[self.rows] = 1
        dn = bring_to_input(dn, contract, self.level) * mask[None, :, None, None]
        label = self.label[rows].float()
        known = label != UNLABELLED
        weight = self.weight[rows].float() / 255 * known
        label = torch.where(known, label, torch.zeros_like(label))
        present = self.present[None].expand(count, -1)
        return dn, label, weight, self.use[rows], self.answers[rows], present


def _targets(patches: LabelledPatches, lessons: PixelLessons | None, share: float) -> Tensor:
    """What each labelled patch is to be told by, (N, uses): its label and, where there are some, answers."""
    label = F.one_hot(patches.labels, len(patches.classes)).float()
    return label if lessons is None else torch.lerp(label, lessons.patches, share)


def _cover_weights(pixels: Sequence[PixelPatches], balance: float) -> Tensor:
    """What a pixel of each cover weighs: 1 in the mean over pixels, more for rare covers."""
    mass = torch.zeros(256, dtype=torch.float64)
    for entry in pixels:
        weight = entry.weight.double() * (entry.label != UNLABELLED)
        mass += torch.bincount(entry.label.flatten().long(), weight.flatten(), 256)
    share = mass / mass.sum().clamp(min=1)
    # A cover of less than one pixel in fifty weighs as one of fifty would: its labels are the least sure.
    raw = torch.where(share > 0, share.clamp(min=0.02) ** -balance, 0.0)
    return (raw / (raw * share).sum().clamp(min=1e-9)).float()


def borders(count: int, side: int, parts: int, rng: torch.Generator) -> Tensor:
    """Regions of mosaics, (count, side, side) int64 in 0..parts-1: cells around points, or a band across.

    Args:
        count: mosaics.
        side: pixels a side.
        parts: regions of the cells; a band has two.
        rng: source of randomness, whose device the result is on.
    """
    device = rng.device
    line = torch.arange(side, device=device, dtype=torch.float32)
    rows, cols = line[:, None], line[None, :]
    points = torch.rand((count, parts, 2, 1, 1), generator=rng, device=device) * side
    distance = (rows - points[:, :, 0]) ** 2 + (cols - points[:, :, 1]) ** 2
    cells = distance.argmin(1)  # (count, side, side)
    angle = _uniform((count, 1, 1), rng) * torch.pi
    width = (8 + 24 * _uniform((count, 1, 1), rng)) / 2
    across = (rows - points[:, 0, 0]) * angle.cos() + (cols - points[:, 0, 1]) * angle.sin()
    band = (across.abs() < width).long()
    return torch.where(_uniform((count, 1, 1), rng) < 0.3, band, cells)


def _laid_over(stack: Tensor, present: Tensor, rng: torch.Generator) -> Tensor:
    """Lay a rectangle of the image before over ``MIXED`` of them, in place; returns where, (B, 1, H, W) bool.

    Images of other bands are not mixed, so that no band is half there.
    """
    count, _, height, width = stack.shape
    device = stack.device
    sides = 0.25 + 0.45 * torch.rand((count, 2), generator=rng, device=device)
    origin = torch.rand((count, 2), generator=rng, device=device) * (1 - sides)
    rows = torch.arange(height, device=device)[None] / height
    cols = torch.arange(width, device=device)[None] / width
    inside_rows = (rows >= origin[:, :1]) & (rows < origin[:, :1] + sides[:, :1])
    inside_cols = (cols >= origin[:, 1:]) & (cols < origin[:, 1:] + sides[:, 1:])
    alike = (present == present.roll(1, 0)).all(1)[:, None, None]
    chosen = (_uniform((count, 1, 1), rng) < MIXED) & alike
    where = ((inside_rows[:, :, None] & inside_cols[:, None, :]) & chosen)[:, None]
    stack.copy_(torch.where(where, stack.roll(1, 0), stack))
    return where


def _uniform(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng, device=rng.device)


def _split(total: int, shares: list[float]) -> list[int]:
    """Whole numbers that add up to ``total``, about in these shares."""
    counts = [int(total * share) for share in shares]
    counts[0] += total - sum(counts)
    return counts
