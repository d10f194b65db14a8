"""Models of pixels for tests: a network of random weights, and a rule that can be computed by hand."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from landuse.classes import EUROSAT_NAMES, LAND_COVER_NAMES, LAND_USE_NAMES, USES_OF_COVERS
from landuse.contract import KnownSpectra, LevelInput, ModelContract, PixelOutputs
from landuse.model.bands import INPUT_MAX_DN
from landuse.model.checkpoint import save_checkpoint
from landuse.model.normalize import level_inputs
from landuse.model.pixel_network import PixelNet, PixelNetConfig
from tests.workflows.small_maps import catalog_of, red_raster

# Written out: tests of band orders must not take them from what they test.
VISIBLE = ("B04", "B03", "B02")
INFRARED = ("B08", "B05", "B06", "B07", "B8A", "B11", "B12")


def pixel_contract(name="random-pixel"):
    bands = (*VISIBLE, *INFRARED)
    return ModelContract(
        name=name,
        bands=bands,
        levels=level_inputs(bands),
        saturation_dn=tuple(INPUT_MAX_DN[band] for band in bands),
        mean=(0.35,) * len(bands),
        std=(0.15,) * len(bands),
        classes=LAND_USE_NAMES,
        patch_size_px=64,
        resolution_m=10.0,
        optional_bands=INFRARED,
        pixels=PixelOutputs(covers=LAND_COVER_NAMES, uses_of_covers=USES_OF_COVERS, uses=EUROSAT_NAMES),
    )


def save_pixel_model(path: Path, seed: int = 0, spectra: KnownSpectra | None = None) -> Path:
    """A small ``PixelNet`` of random weights, whose answers are as varied as a trained one's."""
    torch.manual_seed(seed)
    config = PixelNetConfig(
        visible=3,
        infrared=7,
        covers=9,
        uses=10,
        branch=8,
        widths=(16, 24, 32),
        depths=(1, 1, 1),
        decoder=(16, 16),
    )
    network = PixelNet(config).train()
    # Statistics of forward passes in training, so that features keep a sane scale.
    with torch.no_grad():
        for _ in range(10):
            network.dense(network.features(torch.randn(4, 10, 64, 64), (torch.rand(4, 7) < 0.7).float()))
        # Neighbouring pixels mostly agree, as on land: most of what is said comes from coarser features.
        network.from_half.weight *= 0.15
        of_cover = network.covers.weight.view(9, 4, *network.covers.weight.shape[1:])
        of_cover.copy_(20 * of_cover[:, :1] + 1.5 * of_cover)
        network.uses.weight *= 20
    save_checkpoint(path, network.eval(), replace(pixel_contract(), spectra=spectra))
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    landuse: np.ndarray
    cover: np.ndarray
    doubt: np.ndarray | None = None


class RedPixels:
    """Two classes and two covers by each pixel's own red DN, so that a map can be computed by hand."""

    weights_sha256 = "2" * 64
    weights_path = None
    position_px = 8

    def __init__(self):
        self.contract = ModelContract(
            name="red-pixels",
            bands=("B04", "B08"),
            levels=(LevelInput(level="L2A", gain=(1.0, 1.0), offset_dn=(0.0, 0.0)),),
            saturation_dn=(10_000.0,) * 2,
            mean=(0.0,) * 2,
            std=(1.0,) * 2,
            classes=("Dark", "Bright", "Glaring"),
            patch_size_px=64,
            resolution_m=10.0,
            optional_bands=("B08",),
            pixels=PixelOutputs(
                covers=("Dim", "Lit"),
                uses_of_covers=(("Dark",), ("Bright", "Glaring")),
                uses=("Bright", "Glaring"),
            ),
        )
        self.asked = []

    def pixel_scores(self, dn, bands, level):
        assert dn.shape[1] % 8 == dn.shape[2] % 8 == 0
        self.asked.append((bands, dn.shape))
        lit = (dn[0] / 10_000).astype(np.float32)
        glaring = lit * lit
        return Scores(landuse=np.stack([1 - lit, lit - glaring, glaring]), cover=np.stack([1 - lit, lit]))


BLOCKS = 12
"""Of ``small_scene``, cut into those of ``BLOCK_PX``."""
BLOCK_PX = 64


def small_scene(folder: Path) -> tuple[str, str]:
    """A catalogue of fields of 100 m, 180 x 250 px in four bands, one of them glaring; and a model for it."""
    rng = np.random.default_rng(5)
    dn = np.kron(rng.integers(300, 6000, (4, 18, 25)), np.ones((10, 10))) + rng.integers(
        0, 300, (4, 180, 250)
    )
    dn[:, 140:160, 140:160] = 9000
    raster = red_raster(
        folder / "fields.tif", dn.astype(np.uint16), bands=(*VISIBLE, "B08"), left=512_320, top=5_310_080
    )
    return catalog_of(folder, raster), str(save_pixel_model(folder / "random-pixel.safetensors"))


def red_pixels(model, device):
    return RedPixels()


def spectra_around(dn, spread=0.04):
    """Spectra like one, (band,) DN, and no others."""
    factor = tuple(tuple(spread * (i == j) for j in range(i + 1)) for i in range(len(dn)))
    mean = tuple(float(value / 10_000) ** 0.5 for value in dn)
    return KnownSpectra(weights=(1.0,), means=(mean,), factors=(factor,), rare=0.04)


class DoubtingPixels(RedPixels):
    """The same, which doubts each pixel by its own near infrared."""

    def __init__(self):
        super().__init__()
        self.contract = replace(self.contract, spectra=spectra_around((1000, 2000)))

    def pixel_scores(self, dn, bands, level):
        found = super().pixel_scores(dn, bands, level)
        return replace(found, doubt=(dn[1] / 10_000).clip(0, 1).astype(np.float32))
