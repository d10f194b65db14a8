"""Patches of all uses, and two folders' worth of patches with pixel labels, small enough for a few steps."""

import pytest
import torch

from landuse.classes import EUROSAT_NAMES, LAND_COVER_NAMES
from landuse.model.pixel_network import PixelNetConfig
from landuse.model.training.datasets import LabelledPatches
from landuse.model.training.pixels import known_spectra, train
from landuse.model.training.pixels.sources import PixelPatches

SIDE = 32
VISIBLE = ("B04", "B03", "B02")
INFRARED = ("B08", "B05", "B06", "B07", "B8A", "B11", "B12")
SPECTRA = torch.randint(300, 3000, (9, 10), generator=torch.Generator().manual_seed(3)).float()
"""DN of each cover in the bands of the network."""


def labelled(count, seed) -> LabelledPatches:
    """Patches of the three visible bands, each use in its own colour."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    colors = torch.randint(40, 220, (10, 3), generator=torch.Generator().manual_seed(8)).float()
    noise = 15 * torch.randn(count, 3, SIDE, SIDE, generator=rng)
    images = (colors[labels][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return LabelledPatches(
        images=images,
        dn_per_count=2750 / 255,
        bands=VISIBLE,
        level="L1C",
        labels=labels,
        names=tuple(f"{EUROSAT_NAMES[label]}/{seed}_{i}.jpg" for i, label in enumerate(labels.tolist())),
        classes=EUROSAT_NAMES,
    )


def covered(count, seed, bands=(*VISIBLE, *INFRARED), level="L2A", use=-1, name="p") -> PixelPatches:
    """Patches in halves of two covers, each with its spectrum; one row in four is not labelled."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(9, (count, 2), generator=rng).repeat_interleave(SIDE // 2, 1)[:, :, None]
    label = label.expand(-1, -1, SIDE).clone()
    dn = SPECTRA[label].movedim(3, 1) + 60 * torch.randn(count, 10, SIDE, SIDE, generator=rng)
    rows = [(*VISIBLE, *INFRARED).index(band) for band in bands]
    label[:, ::4] = 255
    weight = torch.randint(64, 256, (count, SIDE, SIDE), generator=rng)
    return PixelPatches(
        dn=dn[:, rows].clamp(1).round().to(torch.int16),
        bands=tuple(bands),
        level=level,
        label=label.to(torch.uint8),
        weight=weight.to(torch.uint8),
        use=torch.full((count,), use),
        names=tuple(f"{name}{seed}_{i}" for i in range(count)),
        covers=LAND_COVER_NAMES,
    )


@pytest.fixture
def patches() -> LabelledPatches:
    return labelled(60, 0)


@pytest.fixture
def val_patches() -> LabelledPatches:
    return labelled(20, 1)


@pytest.fixture
def sets() -> list[PixelPatches]:
    return [covered(24, 0), covered(8, 1, (*VISIBLE, "B08"), "L1C", use=9)]


@pytest.fixture
def val_sets() -> list[PixelPatches]:
    return [covered(6, 2), covered(4, 3, (*VISIBLE, "B08"), "L1C", use=9)]


@pytest.fixture
def narrow(monkeypatch):
    """The network with few channels, whose steps take milliseconds, and a mixture fitted in a few rounds."""

    def config(visible, infrared, covers, uses):
        return PixelNetConfig(
            visible=visible, infrared=infrared, covers=covers, uses=uses, branch=8, widths=(12, 16, 24),
            depths=(1, 1, 1), decoder=(12, 8),
        )  # fmt: skip

    monkeypatch.setattr(train, "balanced_pixel", config)
    for name, value in {"ROUNDS": 4, "PATCHES_A_LEVEL": 100, "CELLS": 2000}.items():
        monkeypatch.setattr(known_spectra, name, value)
