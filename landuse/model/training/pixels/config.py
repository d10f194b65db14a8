"""The settings of a training run on pixels, checked where they are born."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from landuse.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SEED = 2**31 - 1
"""A step's own seed is made of the run's and of its number."""

GRADIENTS = ("none", "tasks", "branches", "both", "gradnorm")
"""What ``gradients`` may be."""

OWN_OPTIONS = {
    "seed": "--seed",
    "precision": "--precision",
    "init_sha256": "--init",
    "teacher_sha256": "--teacher",
    "teacher_share": "--teacher-share",
}
"""Fields that ``--set`` does not set, and the option that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelTrainConfig:
    """Everything that decides a training run of a network that classifies each pixel."""

    steps: int = 12_000
    """Steps of the optimiser."""
    patches: int = 96
    """Labelled patches a step."""
    mosaics: int = 48
    """Mosaics of patches a step, each with exact borders; 0 leaves this loss out."""
    pixels: int = 32
    """Patches with pixel labels a step; 0 leaves these losses out."""
    peak_rate: float = 0.1
    """Learning rate after warm-up."""
    warmup_steps: int = 300
    """Steps of linear warm-up from zero; cosine to zero after it."""
    weight_decay: float = 5e-4
    """On convolution and linear weights only."""
    ema: float = 0.999
    """Decay of the weights' moving average, which teaches, is evaluated and is kept."""
    label_smoothing: float = 0.1
    """Of the patches' cross-entropy."""
    cutmix: float = 0.3
    """Share of the steps whose patches are mixed, in the first 80 % of the run."""
    atmosphere: float = 0.7
    """Atmosphere augmentation, in units of the L1C to L2A path radiance either way."""
    brightness: float = 0.3
    """Brightness and contrast are scaled by 1 +- this."""
    visible_gain: float = 0.08
    """Each visible band's gain varies log-normally by this."""
    infrared_gain: float = 0.2
    """That of the infrared bands, most of it in common between neighbours in wavelength."""
    season: float = 0.5
    """How far vegetation is turned towards the colours of autumn, at most; 0 leaves it as it is."""
    flood: float = 0.15
    """Share of the patches with pixel labels and infrared in which fields are put under turbid water."""
    without_infrared: float = 0.3
    """Share of the patches with infrared bands that are shown without any."""
    near_infrared_alone: float = 0.3
    """Share of them that are shown with the near infrared (the first infrared band) alone."""
    disagreement: float = 0.4
    """Weight of a pixel label that the teacher's second view contradicts."""
    robust: float = 0.7
    """``q`` of the generalised cross-entropy on mosaics: 0 is cross-entropy, 1 the mean absolute error."""
    linear: float = 0.5
    """Weight of the bag losses: a River's or a Highway's strongest pixels are of it."""
    conditional: float = 1.0
    """Weight of what a patch's label says of the use of those pixels whose cover can be used so."""
    weak_cover: float = 1.0
    """Weight of what a patch's label says of its cover: a SeaLake is water, a Pasture no crops, a River has
    water somewhere."""
    cover_balance: float = 0.5
    """Pixels of a cover weigh by its frequency to the power of minus this, so that a rare one is not given up
    for a frequent one that looks like it."""
    agreement: float = 0.5
    """Weight of the agreement with the moving average, which sees an unspoilt view of the same patch."""
    agreement_from: float = 0.15
    """Share of the run from which agreement counts, growing over as long again."""
    balance: float = 0.5
    """Rarer covers are drawn more often: by their frequency to the power of minus this."""
    weight_of_use: float = 1.0
    """Weight of all losses that ask for the use; 0 trains for the cover alone."""
    weight_of_cover: float = 1.0
    """Weight of all losses that ask for the cover; 0 trains for the use alone."""
    gradients: str = "none"
    """What is levelled: the two tasks' gradients where they enter the trunk (``"tasks"``), the two branches'
    (``"branches"``), ``"both"`` or ``"none"``; ``"gradnorm"`` learns weights of the tasks' losses."""
    gradient_smoothing: float = 0.0
    """How much of the running lengths of the gradients a step keeps; 0 levels each step by itself."""
    teacher_share: float = 0.5
    """Where there are teachers: what their answer counts beside the label of a patch, 0 to 1."""
    taught_use: float = 0.5
    """Weight of what teachers say of the use of patches with pixel labels."""
    taught_from: float = 0.8
    """Least probability of a teacher's answer that also tells the use of such a patch's pixels."""
    teacher_sha256: tuple[str, ...] = ()
    """Digests of the teachers' checkpoints."""
    init_sha256: str | None = None
    """Digest of the checkpoint whose weights are started from; None starts from random ones."""
    seed: int = 0
    """Of initialisation, choice and augmentation."""
    precision: str = "bf16"
    """``"bf16"`` autocast, or ``"fp32"``."""
    save_every: int = 500
    """Steps between saved states."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "save_every": 1, "patches": 2, "mosaics": 0, "pixels": 0, "warmup_steps": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UsageError(f"--set {name}={getattr(self, name)} must be at least {value}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed {self.seed} must lie in 0..{MAX_SEED}.")
        if self.precision not in ("bf16", "fp32"):
            raise UsageError(f"--precision {self.precision!r} is unknown. Use bf16 or fp32.")
        if not 0 <= self.teacher_share <= 1:
            raise UsageError(f"--teacher-share {self.teacher_share} must lie in 0..1.")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, float) and (not math.isfinite(value) or value < 0):
                raise UsageError(f"--set {entry.name}={value} must be a number of at least 0.")
        shares = (
            "ema", "label_smoothing", "cutmix", "brightness", "season", "flood", "disagreement", "robust",
            "agreement_from", "without_infrared", "near_infrared_alone", "taught_from",
        )  # fmt: skip
        for name in shares:
            if getattr(self, name) > 1:
                raise UsageError(f"--set {name}={getattr(self, name)} must lie in 0..1.")
        if self.without_infrared + self.near_infrared_alone > 1:
            raise UsageError(
                f"--set without_infrared={self.without_infrared} and near_infrared_alone="
                f"{self.near_infrared_alone} are shares of the same patches. Give at most 1 together."
            )
        self._check_gradients()
        if self.peak_rate == 0:
            raise UsageError("--set peak_rate=0.0 teaches nothing. Give a number above 0.")

    def _check_gradients(self) -> None:
        if self.gradients not in GRADIENTS:
            raise UsageError(f"--set gradients={self.gradients} is unknown. Use {', '.join(GRADIENTS)}.")
        if self.gradient_smoothing >= 1:
            raise UsageError(
                f"--set gradient_smoothing={self.gradient_smoothing} would never look at a step's own "
                "gradients. Give a number below 1."
            )
        if self.weight_of_use == self.weight_of_cover == 0:
            raise UsageError("--set weight_of_use=0 and weight_of_cover=0 leave nothing to learn. Set one.")
        if self.gradients == "none":
            return
        if self.pixels == 0:
            raise UsageError(
                f"--set gradients={self.gradients} levels what labels of patches and of pixels ask for, and "
                "pixels=0 leaves the latter out. Leave one of the two away."
            )
        given = self.weight_of_use, self.weight_of_cover
        if self.gradients != "branches" and given != (1.0, 1.0):
            raise UsageError(
                f"--set gradients={self.gradients} weighs use and cover itself, and weight_of_use={given[0]} "
                f"and weight_of_cover={given[1]} do so too. Leave one of the two away."
            )

    @classmethod
    def from_settings(
        cls,
        settings: Sequence[str],
        *,
        seed: int = 0,
        precision: str = "bf16",
        init_sha256: str | None = None,
        teacher_share: float = 0.5,
    ) -> Self:
        """The recipe with some of its fields set by text.

        Args:
            settings: ``NAME=VALUE`` each, as ``--set`` takes them.
            seed: see the field.
            precision: see the field.
            init_sha256: see the field.
            teacher_share: see the field.

        Raises:
            UsageError: a name is unknown or given twice, or a value is not what its field must be.

        Example:
            >>> PixelTrainConfig.from_settings(["steps=100", "gradients=both"]).gradients
            'both'
        """
        known = {entry.name: entry.default for entry in fields(cls) if entry.name not in OWN_OPTIONS}
        values: dict[str, int | float | str] = {}
        for setting in settings:
            name, equals, text = (part.strip() for part in setting.partition("="))
            if name in OWN_OPTIONS:
                raise UsageError(
                    f"--set {setting}: {name} has an option of its own. Use {OWN_OPTIONS[name]}."
                )
            if not equals or name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f" Did you mean {near[0]}?" if near and near[0] != name else ""
                raise UsageError(
                    f"--set {setting} is not NAME=VALUE with a known name.{hint} Known: {', '.join(known)}."
                )
            if name in values:
                raise UsageError(f"--set {name} is given twice. Give it once.")
            kind = str if isinstance(known[name], str) else int if isinstance(known[name], int) else float
            try:
                values[name] = kind(text)
            except ValueError as error:
                wanted = "a whole number" if kind is int else "a number"
                raise UsageError(
                    f"--set {setting}: {name} must be {wanted}, such as {known[name]}."
                ) from error
        own = {"init_sha256": init_sha256, "teacher_share": teacher_share}
        return cls(seed=seed, precision=precision, **own, **values)  # type: ignore[arg-type]  # each has its field's type, see kind

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, from 0: linear warm-up, then half a cosine to zero."""
        if step < self.warmup_steps:
            return self.peak_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * done))

    def agreement_at(self, step: int) -> float:
        """Weight of the agreement with the moving average at a step, from 0."""
        start = self.agreement_from * self.steps
        if step < start:
            return 0.0
        return self.agreement * min(1.0, (step - start) / max(start, 1.0))
