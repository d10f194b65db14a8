"""What a model needs to be fed and what its outputs mean: the contract between models and maps."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelInput:
    """How one processing level enters a network: ``input_dn = gain * dn + offset_dn``, per band."""

    level: str
    """``"L1C"`` or ``"L2A"``."""
    gain: tuple[float, ...]
    """Factor per band, in the contract's band order."""
    offset_dn: tuple[float, ...]
    """Offset per band in DN, in the contract's band order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """What a network needs to be fed and what its outputs mean. Travels inside the checkpoint."""

    name: str
    """Name of the model."""
    bands: tuple[str, ...]
    """Sentinel-2 band names in input order."""
    levels: tuple[LevelInput, ...]
    """The processing levels the model reads, and how."""
    saturation_dn: tuple[float, ...]
    """Per band: input DN are clipped to 0..saturation_dn and divided by it."""
    mean: tuple[float, ...]
    """Per band mean of the clipped input in 0..1, subtracted."""
    std: tuple[float, ...]
    """Per band standard deviation of the clipped input in 0..1, divided by."""
    classes: tuple[str, ...]
    """Class names; the index is the id in the class raster."""
    patch_size_px: int
    """Side of the square patch the model classifies."""
    resolution_m: float
    """Pixel size the model was trained at."""
    temperature: float = 1.0
    """Logits are divided by this before the softmax (fitted on the validation split)."""
    shared_features: bool = False
    """Trained so that windows which share features score as patches cut out do."""

    def __post_init__(self) -> None:
        count = len(self.bands)
        if count == 0 or len(set(self.bands)) != count:
            raise ValueError(f"bands {self.bands} must be unique and at least one")
        per_band = [self.mean, self.std, self.saturation_dn]
        for level in self.levels:
            per_band += [level.gain, level.offset_dn]
        if any(len(values) != count for values in per_band):
            raise ValueError(f"every per-band value needs {count} entries, one for each of {self.bands}")
        if min(*self.std, *self.saturation_dn, self.temperature) <= 0:
            raise ValueError(
                f"std {self.std}, saturation_dn {self.saturation_dn} and temperature "
                f"{self.temperature} must be above 0"
            )
        scalars = (self.resolution_m, self.temperature)
        if not all(isfinite(value) for values in (*per_band, scalars) for value in values):
            raise ValueError("every number of a contract must be finite")
        if not self.levels:
            raise ValueError("a contract names at least one processing level")
        if not 2 <= len(self.classes) <= 255 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes; a class raster holds 2 to 255 different ones")
        if self.patch_size_px < 1 or self.resolution_m <= 0:
            raise ValueError(f"patch {self.patch_size_px} px at {self.resolution_m} m is not a patch")

    def level_input(self, level: str) -> LevelInput | None:
        """The transform of ``level``, or None where the model does not read it."""
        return next((entry for entry in self.levels if entry.level == level), None)
