"""Whole images to probabilities: of classes that exclude each other, or of labels that do not.

An image's probabilities do not depend on what else is predicted with it: every forward pass over images of
the model's own size has the same number of them (the last one is padded), and an image of another size is
computed alone. So a run that was killed goes on to the same figures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from landuse.contract import RGB8
from landuse.errors import ModelError, UsageError
from landuse.model.bands import EUROSAT_JPEG_MAX_DN, RGB
from landuse.model.checkpoint import load_checkpoint, load_contract, model_path
from landuse.model.devices import resolve_device
from landuse.model.networks import fold_norms
from landuse.model.normalize import bring_to_input, standardize
from landuse.model.predict import file_sha256, full_float32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from landuse.contract import ModelContract
    from landuse.model.networks import PatchNetwork

BATCH_SIZE = 32
"""Images a forward pass."""


class ImagePredictor:
    """A network of whole images with its contract.

    Attributes:
        contract: what it reads and tells.
        weights_sha256: SHA-256 of the checkpoint's file, in hex.
    """

    def __init__(
        self, network: PatchNetwork, contract: ModelContract, *, device: torch.device, weights_sha256: str
    ) -> None:
        self.contract = contract
        self.weights_sha256 = weights_sha256
        self._device = device
        self._half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self._network = network.eval().to(device=device, dtype=torch.float32)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub

    @classmethod
    def load(cls, model: str, device: str = "auto") -> Self:
        """The predictor of a shipped model's name or of a checkpoint's path.

        Raises:
            ModelError: there is no such model, its file is corrupt or foreign, or it classifies pixels.
            UsageError: the device is unknown or missing.
        """
        target = resolve_device(device)
        path = model_path(model)
        if load_contract(path).pixels is not None:
            raise ModelError(
                f"Model {model} classifies each pixel, and whole images are to be told. Make a map with it "
                "(landuse map), or choose a model of patches or of images, see `landuse models`."
            )
        network, contract = load_checkpoint(path)
        fold_norms(network)
        return cls(network, contract, device=target, weights_sha256=file_sha256(path))

    @torch.inference_mode()
    def probabilities(
        self, images: Sequence[NDArray[np.generic]], *, level: str = "L1C", tta: bool = False
    ) -> NDArray[np.float64]:
        """Probabilities of each class or label.

        Args:
            images: each (bands, y, x): uint8 of red, green and blue, or int16 DN of the contract's bands. To
                a model of reflectance 8-bit images are EuroSAT's JPEGs: 0..255 is a DN of 0..2750.
            level: ``"L1C"`` or ``"L2A"``, of reflectance.
            tta: average the logits over the eight symmetries of the square.

        Returns:
            (N, classes) float64; rows sum to 1 where classes exclude each other.

        Raises:
            ModelError: an image is not of the contract's kind or bands, or too small for the network.
        """
        found = np.empty((len(images), len(self.contract.classes)))
        side = self.contract.patch_size_px
        usual = [i for i, image in enumerate(images) if image.shape[1:] == (side, side)]
        other = [i for i, image in enumerate(images) if image.shape[1:] != (side, side)]
        with full_float32():
            for start in range(0, len(usual), BATCH_SIZE):
                rows = usual[start : start + BATCH_SIZE]
                x = torch.stack([self._values(images[i]) for i in rows])
                padding = torch.zeros((BATCH_SIZE - len(rows), *x.shape[1:]))
                found[rows] = self._told(torch.cat([x, padding]), level, tta)[: len(rows)]
            for i in other:
                found[i] = self._told(self._values(images[i])[None], level, tta)[0]
        return found

    def _values(self, image: NDArray[np.generic]) -> Tensor:
        """An image as float32: DN for a network of reflectance, 0..255 for one of images."""
        contract = self.contract
        is_image = image.dtype == np.uint8
        values = torch.from_numpy(image.astype(np.float32))
        if contract.input_kind == RGB8:
            if not is_image or len(image) != 3:
                raise ModelError(
                    f"Model {contract.name} reads 8-bit RGB images; it was given {len(image)} bands of "
                    f"{image.dtype}. Choose a model of reflectance, or give images."
                )
            return values
        if not is_image:
            return values
        if set(contract.bands) != set(RGB):
            raise ModelError(
                f"Model {contract.name} reads the bands {', '.join(contract.bands)} of Sentinel-2, which no "
                "8-bit image has. Give GeoTIFFs of uint16 DN, or choose another --model."
            )
        order = [RGB.index(band) for band in contract.bands]
        return values[order] * (EUROSAT_JPEG_MAX_DN / 255)

    def _told(self, values: Tensor, level: str, tta: bool) -> NDArray[np.float64]:
        values = values.to(self._device)
        if self.contract.input_kind != RGB8:
            values = bring_to_input(values, self.contract, level)
        x = standardize(values, self.contract).contiguous(memory_format=torch.channels_last)
        logits = []
        for element in range(8 if tta else 1):
            turned = _dihedral(x, element).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                logits.append(self._network(turned).float())
        mean = torch.stack(logits).mean(0).double() / self.contract.temperature
        told = mean.softmax(1) if self.contract.labels is None else mean.sigmoid()
        found: NDArray[np.float64] = told.cpu().numpy()
        return found


def _dihedral(images: Tensor, element: int) -> Tensor:
    """One of the eight symmetries of the square, of ``(B, bands, H, W)``."""
    if element & 1:
        images = images.flip(3)
    if element & 2:
        images = images.flip(2)
    return images.transpose(2, 3) if element & 4 else images


class Ensemble:
    """Several predictors whose probabilities are averaged, by weight.

    Attributes:
        predictors: its members.
        shares: what each counts; they sum to 1.
        classes: class or label names, in the order of the first member.
        is_labels: whether they do not exclude each other.
    """

    def __init__(self, predictors: Sequence[ImagePredictor], weights: Sequence[float] | None = None) -> None:
        first = predictors[0].contract
        weights = [1.0] * len(predictors) if weights is None else weights
        if len(weights) != len(predictors):
            raise UsageError(
                f"--weights gives {len(weights)} numbers for {len(predictors)} models. Give one for each."
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) == 0:
            raise UsageError(
                f"--weights {','.join(f'{weight:g}' for weight in weights)} must be numbers of at least 0, "
                "and one of them above."
            )
        for predictor in predictors[1:]:
            own = predictor.contract
            if set(own.classes) != set(first.classes) or (own.labels is None) != (first.labels is None):
                raise ModelError(
                    f"Models {first.name} and {own.name} tell different things: {', '.join(first.classes)} "
                    f"({_kind(first)}), and {', '.join(own.classes)} ({_kind(own)}). Average models of "
                    "the same."
                )
        self.predictors = tuple(predictors)
        self.shares = tuple(weight / sum(weights) for weight in weights)
        self.classes = first.classes
        self.is_labels = first.labels is not None

    @classmethod
    def load(
        cls, models: Sequence[str], weights: Sequence[float] | None = None, device: str = "auto"
    ) -> Self:
        """The ensemble of shipped models' names or of checkpoints' paths.

        Raises:
            ModelError: a model cannot be loaded, or they tell different things.
            UsageError: the weights do not fit, or there is no such device.
        """
        return cls([ImagePredictor.load(model, device) for model in models], weights)

    def probabilities(
        self, images: Sequence[Sequence[NDArray[np.generic]]], *, level: str = "L1C", tta: bool = False
    ) -> NDArray[np.float64]:
        """Probabilities ``(N, classes)``, the weighted mean of the members'.

        Args:
            images: for each member the images as ``ImagePredictor.probabilities`` takes them.
            level: as there.
            tta: as there.
        """
        total = np.zeros((len(images[0]), len(self.classes)))
        for predictor, share, given in zip(self.predictors, self.shares, images, strict=True):
            own = predictor.contract.classes
            columns = [own.index(name) for name in self.classes]
            total += share * predictor.probabilities(given, level=level, tta=tta)[:, columns]
        return total


def _kind(contract: ModelContract) -> str:
    return "one of them" if contract.labels is None else "any number of them"
