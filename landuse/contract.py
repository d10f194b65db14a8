"""What a model needs to be fed and what its outputs mean: the contract between models and maps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from landuse.sentinel2 import BANDS, LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A contract comes with a file of weights, which anyone may have made: it must neither take all memory nor
# turn every pixel into the same.
MAX_PATCH_PX = 512
"""Side of the largest patch: a batch of them has to fit into memory."""
PIXEL_M = (1.0, 1000.0)
"""Least and largest pixel size that a model may be trained at."""
GAIN = (1e-3, 1e3)
"""Least and largest gain of a band. Stored values are brought to one scale before it."""
MAX_DN = 1e5
"""Largest saturation, and size of an offset, in DN: reflectance is at most some 20 000."""
TEMPERATURE = (1e-2, 1e2)
"""Least and largest temperature."""

REFLECTANCE, RGB8 = "reflectance", "rgb8"
"""What a network reads: Sentinel-2's reflectance as DN, or 8-bit RGB images of any origin."""
IMAGE_BANDS = ("red", "green", "blue")
"""The bands of a network that reads 8-bit RGB images, in order."""
IMAGE_MAX = 255.0
"""The largest value of an 8-bit image."""
PREPROCESSES = ("raw", "grey", "sharpen")
"""What is done to the pixels before mean and spread: nothing, grey in each band, or a sharpening kernel."""

_MODEL_NAME = re.compile(r"[^\W_][\w .,&+()'-]{0,79}")
"""A name of a model: it may become part of a path, of a table or of a page."""

_CLASS_NAME = re.compile(r"[^\W_][\w .,:/&+()'-]{0,79}")
"""A name of a class or cover: it may become part of a table or of a page, and never of a path."""

_CLASS_LETTERS = "_.,:/&+()'-"
"""What it is made of, beside letters, digits and blanks."""

_MOST_TOLD = 5
"""Names that a message lists."""


def _check_names(what: tuple[str, str], form: re.Pattern[str], letters: str, names: Iterable[str]) -> None:
    bad = [name for name in names if not form.fullmatch(name) or name != name.strip()]
    if bad:
        told = ", ".join(repr(name[:80]) for name in bad[:_MOST_TOLD])
        more = f" and {len(bad) - _MOST_TOLD} more" if len(bad) > _MOST_TOLD else ""
        said = f"{what[0]} {told} is no name" if len(bad) == 1 else f"{what[1]} {told}{more} are no names"
        raise ValueError(
            f"{said}: 1 to 80 letters, digits, blanks and {letters}, the first a letter or a digit"
        )


def check_class_names(names: Iterable[str]) -> None:
    """Refuse names that no class of a model, of a legend or of labels can have.

    Raises:
        ValueError: some are none; the message lists them and says what names are made of.

    Example:
        >>> check_class_names(["Wald/Forst", "Acker: Mais"])
    """
    _check_names(("class", "classes"), _CLASS_NAME, _CLASS_LETTERS, names)


def check_model_name(name: str) -> None:
    """Refuse a name that no model can have.

    Raises:
        ValueError: it is none; the message says what names are made of.
    """
    _check_names(("model", "models"), _MODEL_NAME, "_.,&+()'-", (name,))


def _check_within(what: str, values: Iterable[float], limits: tuple[float, float]) -> None:
    low, high = limits
    for value in values:
        if not low <= value <= high:  # NaN is not either
            raise ValueError(f"{what} {value:g} is not in {low:g} to {high:g}")


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
class PixelOutputs:
    """What a network that classifies each pixel says of it: what covers it, and what it is used for."""

    covers: tuple[str, ...]
    """Land covers; the index is the id in the cover raster."""
    uses_of_covers: tuple[tuple[str, ...], ...]
    """For each cover the classes that it can be; each class belongs to one cover."""
    uses: tuple[str, ...]
    """The classes that the use head tells apart, in the order of its outputs: those of the patches."""
    cover_temperature: float = 1.0
    """The cover's logits are divided by this before the softmax."""
    use_temperature: float = 1.0
    """The use's logits of a pixel are divided by this before the softmax over a cover's uses."""
    visible_cover_bias: tuple[float, ...] = ()
    """Added to the logits of each cover where all optional bands are missing; empty adds nothing."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.covers) <= 255 or len(set(self.covers)) != len(self.covers):
            raise ValueError(f"{len(self.covers)} covers; a cover raster holds 2 to 255 different ones")
        named = [name for row in self.uses_of_covers for name in row]
        if len(self.uses_of_covers) != len(self.covers) or len(set(named)) != len(named):
            raise ValueError(f"uses_of_covers {self.uses_of_covers} must give each cover its own classes")
        if any(not row or (len(row) > 1 and not set(row) <= set(self.uses)) for row in self.uses_of_covers):
            raise ValueError(
                f"uses_of_covers {self.uses_of_covers}: each cover needs a class, and where it has several, "
                f"the use head must tell them apart: {self.uses}"
            )
        _check_within("temperature", (self.cover_temperature, self.use_temperature), TEMPERATURE)
        if self.visible_cover_bias:
            if len(self.visible_cover_bias) != len(self.covers):
                raise ValueError(
                    f"visible_cover_bias {self.visible_cover_bias} needs a number for each cover"
                )
            _check_within("visible_cover_bias", self.visible_cover_bias, (-100.0, 100.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedClasses:
    """Classes of a user's own, told apart at each pixel by a head on the features of a network of pixels."""

    colors: tuple[tuple[int, int, int], ...]
    """Red, green and blue, 0..255, of each class by id."""
    temperature: float = 1.0
    """The head's logits are divided by this before the softmax."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.colors) <= 255:
            raise ValueError(f"{len(self.colors)} colours of learned classes; there are 2 to 255 classes")
        for color in self.colors:
            if len(color) != 3 or not all(type(value) is int and 0 <= value <= 255 for value in color):
                raise ValueError(f"colour {str(color)[:60]} is not three whole numbers in 0 to 255")
        _check_within("temperature of learned classes", (self.temperature,), TEMPERATURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOutputs:
    """That a network says of each class by itself whether it is there: any number of them, or none."""

    thresholds: tuple[float, ...]
    """From which probability on each class counts as there, by id; fitted on the validation part."""

    def __post_init__(self) -> None:
        _check_within("threshold of a label", self.thresholds, (0.0, 1.0))


MAX_SPECTRA = 64
"""Parts of a mixture of spectra; more than any here has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSpectra:
    """Which spectra training has shown: a mixture of normal distributions of the roots of reflectances."""

    weights: tuple[float, ...]
    """Share of each distribution."""
    means: tuple[tuple[float, ...], ...]
    """(part, band), in the contract's band order, of ``model.doubt.spectra_of``."""
    factors: tuple[tuple[tuple[float, ...], ...], ...]
    """(part, band, band up to that one): lower triangular factors of the covariances."""
    rare: float
    """Share of the mixture whose density is so low that imagery like it counts as doubtful."""

    def __post_init__(self) -> None:
        bands = len(self.means[0]) if self.means else 0
        count = len(self.weights)
        if not (1 <= count <= MAX_SPECTRA and count == len(self.means) == len(self.factors)) or not bands:
            raise ValueError(
                f"a mixture of {count} weights, {len(self.means)} means and {len(self.factors)} factors; "
                f"each of 1 to {MAX_SPECTRA} parts needs one"
            )
        if any(len(mean) != bands for mean in self.means) or any(
            [len(row) for row in factor] != list(range(1, bands + 1)) for factor in self.factors
        ):
            raise ValueError(f"every mean and factor of a mixture needs the {bands} bands of the first mean")
        rows = [row for factor in self.factors for row in factor]
        if not all(isfinite(v) and abs(v) < 1e3 for row in (*self.means, *rows) for v in row):
            raise ValueError("every number of a mixture must be finite and below 1000")
        if min(row[-1] for row in rows) < 1e-4 or not all(0 < weight <= 1 for weight in self.weights):
            raise ValueError("a mixture's weights must be in 0..1 and its spreads at least 0.0001")
        if not 0 < self.rare < 0.5:
            raise ValueError(f"rare {self.rare} is no small share")


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
    optional_bands: tuple[str, ...] = ()
    """Those of ``bands`` that the imagery may lack: the network was trained without them too."""
    pixels: PixelOutputs | None = None
    """What a network that classifies each pixel says; None where it classifies patches alone."""
    spectra: KnownSpectra | None = None
    """Which spectra training has shown; None where that is not known, and doubt is not told."""
    learned: LearnedClasses | None = None
    """How ``classes`` are told apart where they are a user's own; None where they are uses of covers."""
    input_kind: str = REFLECTANCE
    """``REFLECTANCE`` or ``RGB8``. Of images no level and no pixel size is stated: ``levels`` is empty, and
    ``resolution_m`` is 0."""
    preprocess: str = "raw"
    """One of ``PREPROCESSES``."""
    labels: LabelOutputs | None = None
    """Where the classes do not exclude each other: the threshold of each. None where they do."""

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
        if not self.levels and self.input_kind == REFLECTANCE:
            raise ValueError("a contract names at least one processing level")
        least = 2 if self.labels is None else 1
        if not least <= len(self.classes) <= 255 or len(set(self.classes)) != len(self.classes):
            raise ValueError(
                f"{len(self.classes)} classes; a class raster holds 2 to 255 different ones, and of labels "
                "there are 1 to 255"
            )
        self._check_images_and_labels()
        if not 1 <= self.patch_size_px <= MAX_PATCH_PX:
            raise ValueError(f"patch_size_px {self.patch_size_px!s:.20} is not in 1 to {MAX_PATCH_PX} px")
        self._check_ranges()
        if not set(self.optional_bands) < set(self.bands):
            raise ValueError(f"optional_bands {self.optional_bands} must be some, not all, of {self.bands}")
        if self.spectra is not None and len(self.spectra.means[0]) != count:
            raise ValueError(f"the mixture of spectra has {len(self.spectra.means[0])} bands, not {count}")
        if self.learned is not None:
            if self.pixels is None:
                raise ValueError("learned classes need a network of pixels")
            if len(self.learned.colors) != len(self.classes):
                raise ValueError(
                    f"{len(self.learned.colors)} colours for {len(self.classes)} learned classes"
                )
        elif self.pixels is not None:
            named = {name for row in self.pixels.uses_of_covers for name in row}
            if named != set(self.classes):
                raise ValueError(f"the covers' classes {sorted(named)} are not the classes {self.classes}")

    def check_names(self) -> None:
        """Refuse names that no file may bring: tables and pages show them.

        Raises:
            ValueError: names of the model, of classes or of covers are none.
        """
        check_model_name(self.name)
        check_class_names(self.classes)
        covers = () if self.pixels is None else self.pixels.covers
        _check_names(("cover", "covers"), _CLASS_NAME, _CLASS_LETTERS, covers)

    def _check_images_and_labels(self) -> None:
        if self.input_kind not in (REFLECTANCE, RGB8):
            raise ValueError(f"input_kind {self.input_kind!r:.40} is neither {REFLECTANCE} nor {RGB8}")
        if self.input_kind == RGB8:
            stated = (self.bands, self.levels, self.resolution_m, self.saturation_dn)
            if stated != (IMAGE_BANDS, (), 0.0, (IMAGE_MAX,) * 3) or self.optional_bands:
                raise ValueError(
                    f"a network of 8-bit RGB images has the bands {', '.join(IMAGE_BANDS)}, up to "
                    f"{IMAGE_MAX:g}, and no level and no pixel size"
                )
        if self.preprocess not in PREPROCESSES:
            raise ValueError(
                f"preprocess {self.preprocess!r:.40} is unknown; it is one of {', '.join(PREPROCESSES)}"
            )
        if self.preprocess == "grey" and len(self.bands) != 3:
            raise ValueError(f"grey is made of three bands, not of {len(self.bands)}")
        if self.pixels is not None and (
            self.labels is not None or self.preprocess != "raw" or self.input_kind != REFLECTANCE
        ):
            raise ValueError("a network of pixels reads raw reflectance, and its classes exclude each other")
        if self.labels is not None and len(self.labels.thresholds) != len(self.classes):
            raise ValueError(f"{len(self.labels.thresholds)} thresholds for {len(self.classes)} labels")

    def _check_ranges(self) -> None:
        images = self.input_kind == RGB8
        unknown = [band[:20] for band in self.bands if band not in (IMAGE_BANDS if images else BANDS)]
        if unknown:
            raise ValueError(f"bands {unknown} are not among {', '.join(BANDS)}")
        levels = [entry.level for entry in self.levels]
        if not set(levels) <= set(LEVELS) or len(set(levels)) != len(levels):
            raise ValueError(f"levels {levels} must be different ones of {', '.join(LEVELS)}")
        for entry in self.levels:
            _check_within(f"gain of {entry.level}", entry.gain, GAIN)
            _check_within(f"offset_dn of {entry.level}", entry.offset_dn, (-MAX_DN, MAX_DN))
        _check_within("saturation_dn", self.saturation_dn, (1.0, MAX_DN))
        _check_within("mean", self.mean, (0.0, 1.0))
        _check_within("std", self.std, (1e-6, 1.0))
        _check_within("temperature", (self.temperature,), TEMPERATURE)
        if not images:
            _check_within("resolution_m", (self.resolution_m,), PIXEL_M)

    @property
    def required_bands(self) -> tuple[str, ...]:
        """Those of ``bands`` without which the network says nothing, in input order."""
        return tuple(band for band in self.bands if band not in self.optional_bands)

    @property
    def tells_doubt(self) -> bool:
        """Whether a map by the model says where the imagery is unlike what training showed."""
        return self.pixels is not None and self.spectra is not None

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """Colour of each class by id, where the model brings its own; else none."""
        return () if self.learned is None else self.learned.colors

    @property
    def patch_classes(self) -> tuple[str, ...]:
        """What a whole patch is classified as: the index is the output of the patch head."""
        return self.classes if self.pixels is None else self.pixels.uses

    def level_input(self, level: str) -> LevelInput | None:
        """The transform of ``level``, or None where the model does not read it."""
        return next((entry for entry in self.levels if entry.level == level), None)

    def mean_dn(self, level: str, bands: Sequence[str]) -> tuple[float, ...]:
        """DN of some bands that mean nothing to the network: its input is 0 there.

        Raises:
            ValueError: the model does not read the level, or a band.
        """
        entry = self.level_input(level)
        if entry is None:
            raise ValueError(f"{self.name} does not read {level}")
        rows = [self.bands.index(band) for band in bands]
        return tuple(
            (self.mean[row] * self.saturation_dn[row] - entry.offset_dn[row]) / entry.gain[row]
            for row in rows
        )
