"""The nightly run's configuration: a YAML file in, the settings of each area out.

Everything wrong with a file is told at once, a line each, with the place in the file and the mend.
Relative paths start from the file's folder, wherever the run is started.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from sqlalchemy.engine import URL

from landuse.errors import UsageError
from landuse.legends.legend import BUILT_IN, load_legend
from landuse.model import MAP_MODEL
from landuse.pipeline.cells import CHANGE_THRESHOLD
from landuse.pipeline.providers import PROVIDERS
from landuse.pipeline.search.area import Area, parse_bbox, read_aoi
from landuse.pipeline.search.source import split_sources
from landuse.pipeline.search.stac_files import exists
from landuse.workflows.nightly.ledger.schema import URL_FORM, parse_url
from landuse.workflows.nightly.yaml_file import Settings, read_document, shown, wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from landuse.workflows.nightly.yaml_file import Document

SECRET_KEYS = ("out", "ledger", "scheduler")
"""Keys whose values may hold passwords: they alone take ``${NAME}``, and no message shows them."""

_SOURCE = f"{', '.join(PROVIDERS)}, a URL or a path, or a list of them"
_CHANGE = "true, false, or `threshold` and `confirm`"

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


def _folder(info: ValidationInfo) -> Path:
    """The folder that relative paths start from."""
    return info.context if isinstance(info.context, Path) else Path.cwd()


class ChangeConfig(Settings):
    """How a new map is compared with the one before it. A field's description says what to give."""

    threshold: float = Field(
        default=CHANGE_THRESHOLD, ge=0, le=1, allow_inf_nan=False, description="a share, 0 to 1"
    )
    """Share of a cell's probability that has to move."""
    confirm: int = Field(default=0, ge=0, le=10, description="a whole number, 0 to 10")
    """Later maps that have to agree before a change is reported."""


def _change(value: object) -> object:
    """``true`` is the default comparison, ``false`` is none."""
    if value is None:
        raise wrong(f"it is empty. Give {_CHANGE}.")
    if isinstance(value, bool):
        return ChangeConfig() if value else None
    return value


def _sources(value: object, info: ValidationInfo) -> object:
    """``a,b``, or a list of sources, with paths from the file's folder."""
    if isinstance(value, str):
        value = split_sources(value)
    if not isinstance(value, tuple):
        return value
    if not value:
        raise wrong(f"it is empty. Give {_SOURCE}.")
    found = []
    for source in value:
        if isinstance(source, str) and source and source not in PROVIDERS and "://" not in source:
            path = _folder(info) / source
            if not exists(str(path)):
                near = difflib.get_close_matches(source, PROVIDERS, 1)
                mend = f"Did you mean {near[0]}?" if near else f"Give {_SOURCE}."
                raise wrong(f"{shown(source)} is neither a provider nor a path that exists. {mend}")
            source = str(path)
        found.append(source)
    return tuple(found)


class AreaSettings(Settings):
    """What the file says for all areas, and an area may say otherwise for itself."""

    source: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_sources)] = Field(
        default=("planetary-computer",),
        repr=False,
        description=_SOURCE,
    )
    """Where to look for scenes, in the order in which they are tried."""
    model: str = Field(
        default=MAP_MODEL, min_length=1, description="a name that `landuse models` lists, or a path"
    )
    """The network."""
    cell_m: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="metres, a multiple of 10, or leave it out"
    )
    """Cell size of the maps in metres, of a model that classifies each pixel; None: 10."""
    stride_px: int | None = Field(
        default=None, ge=1, description="whole pixels of 10 m, such as 8 or 16, or leave it out"
    )
    """Cell size of the maps in pixels of 10 m, of a model that classifies patches; None: 16."""
    legend: str | None = Field(
        default=None, min_length=1, description=f"{', '.join(BUILT_IN)}, the path of a file, or leave it out"
    )
    """Classes to tell the maps in, made of the model's; None: the model's own."""
    bands: Literal["all", "rgb", "rgb-nir"] = Field(default="all", description="all, rgb or rgb-nir")
    """Which bands to read of those that the model can do without."""
    allow_private_hosts: bool = Field(default=False, description="true or false")
    """Whether sources on the web may lead to private hosts other than their own."""
    composite: Literal["best", "median", "medoid"] = Field(
        default="best", description="best, median or medoid"
    )
    """How several scenes become one image."""
    max_cloud: Percent = Field(default=40.0, description="percent, 0 to 100")
    """Scenes with more cloud over the area are left out."""
    min_valid: Percent = Field(default=10.0, description="percent, 0 to 100")
    """Below this share of classified cells a map counts as incomplete."""
    window_days: int = Field(default=1, ge=1, le=366, description="whole days, 1 to 366")
    """Scenes of so many days make one map; 1: of one overpass."""
    look_back_days: int = Field(default=45, ge=1, le=3660, description="whole days, 1 to 3660")
    """How far back each night looks for scenes that were published late."""
    change: Annotated[ChangeConfig | None, BeforeValidator(_change)] = Field(
        default_factory=lambda: ChangeConfig(), description=_CHANGE
    )
    """Comparison with the map before; None: none."""
    max_age_days: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="days above 0, or leave it out"
    )
    """``landuse nightly status`` raises an alarm where an area's last map is older; None: never."""

    @field_validator("legend")
    @classmethod
    def _legend_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        place = value if value in BUILT_IN else str(_folder(info) / value)
        try:
            load_legend(place)
        except UsageError as error:
            raise wrong(str(error).removeprefix("--legend ")) from None
        return place

    @field_validator("model")
    @classmethod
    def _model_path(cls, value: str, info: ValidationInfo) -> str:
        return str(_folder(info) / value) if "/" in value or "." in value else value  # names have neither


class AreaConfig(AreaSettings):
    """One area, with all that holds for it."""

    name: str = Field(
        pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$",
        description="1 to 60 letters, digits, - and _, the first a letter or digit; in quotes where YAML "
        "takes it for something else",
    )
    """What its folder is called."""
    bbox: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = Field(
        default=None, min_length=4, max_length=4, description="[west, south, east, north] in degrees"
    )
    """West, south, east, north in degrees."""
    file: Path | None = Field(
        default=None,
        strict=False,
        validate_default=True,
        description="the path of a vector file of polygons",
    )
    """Vector file whose polygons are mapped, instead of ``bbox``."""

    @field_validator("bbox")
    @classmethod
    def _bounds(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        try:
            if value is not None:
                _box(value)
        except UsageError as error:
            raise wrong(str(error).replace("--bbox ", "")) from None
        return value

    @field_validator("file")
    @classmethod
    def _one_place(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        box = info.data.get("bbox")
        if value is None:
            if box is None and "bbox" in info.data:  # it is not where it is wrong, which is told already
                raise wrong("neither it nor `bbox` is given. Give one of them.")
            return None
        if box is not None:
            raise wrong("it is given beside `bbox`. Give one of them.")
        path = _folder(info) / value
        if not exists(str(path)):
            raise wrong(f"{shown(str(path))} does not exist. Give a vector file of polygons.")
        return path

    def place(self) -> Area:
        """Where it is.

        Raises:
            UsageError: its file cannot be read or holds no polygon.
        """
        return _box(self.bbox) if self.bbox is not None else read_aoi(self.file or Path())


class NightlyConfig(AreaSettings):
    """The whole file. What it says for all areas is in each of ``areas``, too."""

    out: SecretStr = Field(description="a folder, or a URL that fsspec knows, such as s3://bucket/maps")
    """Root of all results: a folder or an fsspec URL."""
    ledger: SecretStr = Field(default=SecretStr(""), validate_default=True, description=URL_FORM)
    """SQLAlchemy URL of the ledger; of itself ``ledger.sqlite`` in ``out``."""
    scheduler: SecretStr | None = Field(
        default=None, description="the address of a dask scheduler, tcp://HOST:PORT"
    )
    """Address of the dask scheduler whose workers do the blocks; None: none does."""
    workers: int | None = Field(default=None, ge=1, description="whole processes, 1 or more, or leave it out")
    """Processes to start on this machine for the blocks; None: none."""
    attempts: int = Field(default=5, ge=1, le=1000, description="whole nights, 1 to 1000")
    """Nights on which a scene is tried before it is parked."""
    lease_minutes: int = Field(default=240, ge=1, le=10_080, description="whole minutes, 1 to 10080")
    """How long a run that died keeps others from its work."""
    metrics_file: str | None = Field(
        default=None, description="a path inside `out` that ends in .prom, such as metrics/landuse.prom"
    )
    """Prometheus textfile, as a path inside ``out``; None: none is written."""
    areas: tuple[AreaConfig, ...] = Field(description="a list, each with `name` and with `bbox` or `file`")
    """What is mapped."""

    @model_validator(mode="before")
    @classmethod
    def _merge(cls, data: object) -> object:
        """Each area gets what the file says for all."""
        if not isinstance(data, dict) or not isinstance(data.get("areas"), tuple):
            return data
        common = {key: data[key] for key in AreaSettings.model_fields if key in data}
        areas = tuple(common | area if isinstance(area, dict) else area for area in data["areas"])
        return data | {"areas": areas}

    @field_validator("out")
    @classmethod
    def _root(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        text = value.get_secret_value()
        if not text:
            raise wrong("it is empty. Give a folder or a URL.")
        return value if "://" in text else SecretStr(str(_folder(info) / text))

    @field_validator("ledger")
    @classmethod
    def _database(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        text = value.get_secret_value()
        root = info.data["out"].get_secret_value() if "out" in info.data else None
        if not text and root is None:
            return value  # `out` is wrong, which is told already
        if not text and "://" in str(root):
            raise wrong(f"it is needed, as `out` is a URL. Give {URL_FORM}.")
        try:
            url = parse_url(text) if text else URL.create("sqlite", database=f"{root}/ledger.sqlite")
        except UsageError as error:
            raise wrong(str(error)) from None
        if url.get_backend_name() == "sqlite":
            url = url.set(database=str(_folder(info) / str(url.database)))
        return SecretStr(url.render_as_string(hide_password=False))

    @field_validator("workers")
    @classmethod
    def _one_cluster(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("scheduler") is not None:
            raise wrong("it is given beside `scheduler`. Give one of them.")
        return value

    @field_validator("metrics_file")
    @classmethod
    def _inside(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        path, out = PurePosixPath(value), info.data.get("out")
        if path.is_absolute() or ".." in path.parts or path.suffix != ".prom":
            raise wrong(f"{shown(value)} does not fit. Give a path inside `out` that ends in .prom.")
        if out is not None and "://" in out.get_secret_value():
            raise wrong("nobody reads it where `out` is a URL. Leave it out.")
        return str(path)

    @field_validator("areas")
    @classmethod
    def _names_differ(cls, value: tuple[AreaConfig, ...]) -> tuple[AreaConfig, ...]:
        if not value:
            raise wrong("it is empty. Give one area or more.")
        seen: dict[str, str] = {}
        for index, area in enumerate(value):
            other = seen.setdefault(area.name.lower(), area.name)
            if len(seen) <= index:
                told = f"{area.name!r} is the name of another area, {other!r}; case makes no difference."
                raise wrong(f"{told} Give it its own.", (index, "name"))
        return value

    def area(self, name: str) -> AreaConfig:
        """The area of that name.

        Raises:
            UsageError: there is none.
        """
        named = {area.name: area for area in self.areas}
        if name not in named:
            near = difflib.get_close_matches(name, named, 1)
            mend = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(named)}."
            raise UsageError(f"The config has no area {shown(name)}. {mend}")
        return named[name]


_PARTS: dict[str, type[Settings]] = {"areas": AreaConfig, "change": ChangeConfig}
"""Models by the keys that hold them."""


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> NightlyConfig:
    """The configuration in a file, with the environment's values in place of ``${NAME}``.

    Raises:
        UsageError: the file cannot be read, is no YAML, or holds anything that does not fit; all of it,
            a line each, in the order of the file. Names given twice are told when the rest fits.
    """
    document = read_document(path, SECRET_KEYS, environ)
    told = {at for at, _ in document.problems}
    try:
        config = NightlyConfig.model_validate(document.values, context=path.parent.absolute())
    except ValidationError as error:
        for details in error.errors():
            if details["loc"] not in told and _is_own(document, details):
                document.add(details, NightlyConfig, _PARTS)
    else:
        if not document.problems:
            return config
    raise document.refusal()


def _box(bbox: tuple[float, ...]) -> Area:
    """The area of west, south, east, north."""
    return parse_bbox(",".join(map(repr, bbox)))


def _is_own(document: Document, details: ErrorDetails) -> bool:
    """False for what an area has from the top of the file: it is told there."""
    at = details["loc"]
    inherited = at[:1] == ("areas",) and len(at) > 2 and at[2] in AreaSettings.model_fields
    return not inherited or at[:3] in document.lines
