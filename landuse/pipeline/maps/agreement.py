"""Pure: how far two maps agree, from the hectares of each pair of their classes.

The reference is not the truth: another map, of other dates and other definitions, disagrees without either
being wrong. There is no kappa among the figures: it compares with a chance that no map is made by, and says
nothing that agreement, quantity and allocation do not (Pontius and Millones 2011, International Journal of
Remote Sensing 32, 4407-4429).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHOD = (
    "agreement of two maps by area; user's accuracy is the share of what the map calls a class that the "
    "reference calls so too, producer's the share of the reference's class that the map finds; F1 is their "
    "harmonic mean and IoU the part of either that both have; quantity and allocation disagreement as in "
    "Pontius and Millones (2011); no kappa, which that paper shows to be of no use here"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAgreement:
    """How far two maps agree on one class. Shares are 0..1; None where nothing is there to share."""

    name: str
    """The class."""
    map_ha: float
    """Hectares of it on the map, where both maps have a class."""
    reference_ha: float
    """Hectares of it on the reference."""
    both_ha: float
    """Hectares that both call so."""

    @property
    def users(self) -> float | None:
        """Of what the map calls the class, the share that the reference does too."""
        return self.both_ha / self.map_ha if self.map_ha else None

    @property
    def producers(self) -> float | None:
        """Of what the reference calls the class, the share that the map does too."""
        return self.both_ha / self.reference_ha if self.reference_ha else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both."""
        total = self.map_ha + self.reference_ha
        return 2 * self.both_ha / total if total else None

    @property
    def iou(self) -> float | None:
        """Of what either calls the class, the share that both do."""
        either = self.map_ha + self.reference_ha - self.both_ha
        return self.both_ha / either if either else None

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {
            "name": self.name,
            "map_ha": self.map_ha,
            "reference_ha": self.reference_ha,
            "both_ha": self.both_ha,
            "users_accuracy": self.users,
            "producers_accuracy": self.producers,
            "f1": self.f1,
            "iou": self.iou,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Agreement:
    """How far two maps agree."""

    names: tuple[str, ...]
    """Classes that both are told in."""
    hectares: NDArray[np.float64]
    """(map class, reference class), areas of the pairs; some above 0."""

    def __post_init__(self) -> None:
        size = len(self.names)
        if self.hectares.shape != (size, size) or self.hectares.min() < 0 or self.hectares.sum() <= 0:
            raise ValueError(
                f"hectares {self.hectares.shape} of {size} classes must be 0 or more, some above"
            )

    @property
    def total_ha(self) -> float:
        """Where both have a class."""
        return float(self.hectares.sum())

    @property
    def overall(self) -> float:
        """Share on which they agree, 0..1."""
        return float(np.trace(self.hectares)) / self.total_ha

    @property
    def quantity(self) -> float:
        """Share of disagreement that comes from different areas of the classes, 0..1."""
        return float(np.abs(self.hectares.sum(1) - self.hectares.sum(0)).sum()) / 2 / self.total_ha

    @property
    def allocation(self) -> float:
        """Share of disagreement that is a matter of place: the rest."""
        return max(1 - self.overall - self.quantity, 0.0)

    @property
    def present(self) -> list[int]:
        """Places of the classes that either has."""
        return [int(i) for i in np.flatnonzero(self.hectares.sum(0) + self.hectares.sum(1))]

    @property
    def classes(self) -> tuple[ClassAgreement, ...]:
        """By class, those that either has."""
        return tuple(
            ClassAgreement(
                name=self.names[i],
                map_ha=float(self.hectares[i].sum()),
                reference_ha=float(self.hectares[:, i].sum()),
                both_ha=float(self.hectares[i, i]),
            )
            for i in self.present
        )
