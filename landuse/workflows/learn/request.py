"""What ``landuse learn`` is asked for, checked, and what it found."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.contract import check_model_name
from landuse.errors import UsageError
from landuse.model import MAP_MODEL
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.redact import printable

if TYPE_CHECKING:
    import geopandas as gpd

    from landuse.pipeline.search.area import DateRange
    from landuse.pipeline.search.source import Source
    from landuse.workflows.learn.validate import Measure, Scores

SUFFIX = ".safetensors"
REPORT_JSON, REPORT_PAGE, ERRORS_FILE = ".report.json", ".report.html", ".likely-errors.gpkg"
"""What lies beside the model, after its name."""

PER_SHAPE, PER_CLASS, MAX_DATES = 40, 2000, 4
"""Unless asked otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnRequest:
    """What a user asks for."""

    source: Source | tuple[Source, ...]
    """As of ``MapRequest``."""
    labels: Path | gpd.GeoDataFrame
    """Polygons, points or a raster of classes; or a table of shapes."""
    column: str | None
    """Of vector labels: holds the classes."""
    layer: str | None = None
    """Of a GeoPackage with several."""
    out: Path = Path("my-model.safetensors")
    """The model; its report lies beside it."""
    name: str | None = None
    """Of the model in its contract; None: that of the file."""
    dates: DateRange | None = None
    """When the scenes were taken; None takes any date."""
    model: str = MAP_MODEL
    """Whose trunk is kept: a model of pixels."""
    bands: str = "all"
    """As of ``MapRequest``."""
    max_cloud_percent: float = 40.0
    """Scenes with more cloud over the labels are left out."""
    max_dates: int = MAX_DATES
    """Most dates to see each pixel on."""
    per_shape: int = PER_SHAPE
    """Most pixels of a polygon."""
    per_class: int = PER_CLASS
    """Most pixels of a class."""
    seed: int = 0
    """Of everything that is drawn."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``."""
    overwrite: bool = False
    """Replace a model that is there, and its report."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Patience with catalogues and imagery."""
    allow_private_hosts: bool = False
    """As of ``MapRequest``."""

    def __post_init__(self) -> None:
        if self.out.suffix != SUFFIX or self.out.name == SUFFIX:
            raise UsageError(f"--out {self.out} is no model's name. Give one that ends in {SUFFIX}.")
        for option, value, most in (
            ("--max-dates", self.max_dates, 24),
            ("--per-polygon", self.per_shape, 10_000),
            ("--per-class", self.per_class, 10_000),
        ):
            if not 1 <= value <= most:
                raise UsageError(f"{option} {value} is not in 1 to {most}.")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is negative. Give 0 or more.")
        try:
            check_model_name(self.model_name)
        except ValueError as error:
            raise UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}. Give another --name.") from error

    @property
    def model_name(self) -> str:
        """What the model is called."""
        if self.name is not None:
            return self.name
        return re.sub(r"[^\w.-]+", "-", self.out.name.removesuffix(SUFFIX)).strip("-_.")[:80] or "learned"

    @property
    def files(self) -> tuple[Path, Path, Path, Path]:
        """Likely errors, page, report and, last, the model."""
        stem = self.out.name.removesuffix(SUFFIX)
        beside = (self.out.with_name(stem + suffix) for suffix in (ERRORS_FILE, REPORT_PAGE, REPORT_JSON))
        first, second, third = beside
        return first, second, third, self.out


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """How much a share of the labels teaches."""

    share: float
    """Of the blocks that are learned from."""
    samples: int
    """Labelled pixels that a fold learned from, on average."""
    accuracy: float
    """On what is held out."""
    macro_f1: float
    """On what is held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnReport:
    """What was learned, and how well."""

    model: Path
    """The model's file."""
    page: Path
    """The report for people."""
    errors_file: Path
    """Labels that are probably wrong, as a GeoPackage."""
    name: str
    """The model's name."""
    trunk: str
    """Name of the model whose trunk it keeps."""
    classes: tuple[str, ...]
    """Class names by id."""
    crs: str
    """UTM zone that the labels were placed in."""
    level: str
    """Of the scenes."""
    bands: tuple[str, ...]
    """That were read."""
    days: tuple[tuple[str, ...], ...]
    """Ids of the scenes of each date that was looked at."""
    samples: int
    """Labelled pixels that a date shows clear."""
    shapes: int
    """Polygons or points that they are of; 0 of a raster."""
    left_out: dict[str, int]
    """Labels and pixels that were not learned from, by the reason."""
    blocks: int
    """Blocks of land that were held out in turn."""
    block_m: float | None
    """Their side in metres; None where places were held out."""
    folds: int
    """Parts that the blocks were shared among."""
    scores: Scores
    """On land that was held out."""
    relabelled: Scores
    """Of the trunk's model with its classes renamed by the best legend, on the same land."""
    gain: dict[str, Measure]
    """How much better the learned model is than that."""
    curve: tuple[CurvePoint, ...]
    """What fewer labels teach."""
    temperature: float
    """Fitted on what was held out."""
    calibration_error: float
    """Of what was held out, with that temperature; fitted on the same samples, and so a little low."""
    likely_errors: int
    """Labels that are probably wrong."""
    warnings: tuple[str, ...]
    """What to know before the model is used."""
    seconds: float
    """That it took."""

    def to_dict(self) -> dict[str, object]:
        """The report as plain JSON values."""
        values = asdict(self)
        for key in ("model", "page", "errors_file"):
            values[key] = printable(str(values[key]))
        return values
