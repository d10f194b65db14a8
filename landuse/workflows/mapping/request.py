"""What a user asks for when asking for a map, checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import shapely

from landuse.errors import UsageError
from landuse.pipeline.blocks.smooth import SMOOTH_PX
from landuse.pipeline.providers import Provider
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search.area import Area, DateRange, parse_bbox, parse_dates, read_aoi
from landuse.pipeline.search.season import Season, parse_season
from landuse.pipeline.search.source import split_sources
from landuse.pipeline.write.vector_layers import VectorOptions
from landuse.redact import redact_href

if TYPE_CHECKING:
    from landuse.legends.legend import Legend
    from landuse.pipeline.search.source import Source

ZONES_ASKED = ("one", "each")
"""What ``--zones`` takes."""

MAX_TITLE = 200
"""Characters of a map's title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRequest:
    """What a user asks for."""

    source: Source | tuple[Source, ...]
    """Provider, its name, a STAC API's URL, a path to local STAC metadata, or items; several, in a tuple or
    separated by commas, in the order in which they are tried."""
    area: Area | None
    """Where; None maps all that a local source covers."""
    dates: DateRange | None
    """When; None takes any date."""
    zones: str = "one"
    """``"one"``: one map in one UTM zone; ``"each"``: a map for each zone of the area, joined."""
    crs: str | None = None
    """UTM zone of the map, such as ``"EPSG:32632"``, whose scenes are preferred to others of the same day;
    None: that of ``suitable_crs``, and no such preference."""
    season: Season | None = None
    """In which months of the year; None takes any."""
    out: Path | str | None = None
    """Folder for the results, or its fsspec URL; None: ``landuse-map``, or a folder in the catalogue's."""
    catalog: Path | None = None
    """Folder of the STAC catalogue that lists the map, or the maps of the zones; None: none does."""
    cell_m: float | None = None
    """Cell size in metres where the model classifies each pixel, a multiple of 10; None: 10."""
    stride_px: int | None = None
    """Cell size in pixels of 10 m where the model classifies patches; None: 16."""
    legend: Legend | None = None
    """Classes to tell the map in, made of the model's; None: the model's own."""
    bands: str = "all"
    """Which bands to read of those that the model can do without: ``"all"``, ``"rgb"`` or ``"rgb-nir"``."""
    max_cloud_percent: float = 40.0
    """Scenes with more cloud over the area, of what they show of it, are left out."""
    composite: str = "best"
    """``"best"``, ``"median"`` or ``"medoid"``."""
    fuse: str = "pixels"
    """``"pixels"``: the composite is classified; ``"dates"``: each date, and probabilities are averaged."""
    smooth: str | float = 0.0
    """How strongly class probabilities are smoothed, as ``parse_smooth`` takes it; 0: not at all."""
    smooth_px: int = SMOOTH_PX
    """Side of the window in which they are, in pixels."""
    precision: str = "fp32"
    """What was asked for: ``"fp32"``, ``"bf16"`` or ``"auto"``; the classifier says what it is."""
    probabilities: bool = False
    """Also write every class's probability."""
    min_confidence: float = 0.0
    """Cells whose confidence, times what doubt leaves of it, is below this share become unknown, 0..1."""
    min_valid_percent: float = 10.0
    """Below this share of classified cells the map counts as incomplete."""
    allow_failed: bool = False
    """Whether a map counts as complete of which something could not be read."""
    title: str = ""
    """What the map is called; empty names it after the days of its scenes. May hold anything printable."""
    vectors: VectorOptions | None = field(default_factory=VectorOptions)
    """How its vector layers are to be; None: rasters alone are written, no vectors, page or preview."""
    overwrite: bool = False
    """Replace results that are there already."""
    block_px: int | None = None
    """Side of a block; decides memory, not results. None: what suits the model."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Patience with catalogues and imagery."""
    allow_private_hosts: bool = False
    """Whether a source on the web may lead to hosts of this machine or a private network besides its own."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where to look, in order."""
        if isinstance(self.source, str):
            return split_sources(self.source)
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def providers(self) -> tuple[Provider, ...]:
        """Those of the sources that are given as such."""
        return tuple(source for source in self.sources if isinstance(source, Provider))

    def folder(self, weights_sha256: str) -> Path | str:
        """Where the results go: the same request has the same place, so that it can be gone on with."""
        if self.out is not None:
            return self.out
        if self.catalog is None:
            return Path("landuse-map")
        start = self.dates and (self.dates.start_utc or self.dates.end_utc)
        days = f"{start:%Y-%m-%d}" if start else "any-date"
        key = hashlib.sha256(json.dumps(self.decisive(weights_sha256)).encode()).hexdigest()[:8]
        return self.catalog / f"landuse-{days}-{key}{'-zones' if self.zones == 'each' else ''}"

    def decisive(self, weights_sha256: str) -> tuple[object, ...]:
        """What decides the pixels of the maps asked for, as JSON values; not which scenes there are.

        Args:
            weights_sha256: digest of the model's file.
        """
        return (
            [source if isinstance(source, str) else source.name for source in self.sources],
            self.area and shapely.to_wkb(self.area.geometry, hex=True),
            str(self.dates),
            [
                self.cell_m,
                self.stride_px,
                self.bands,
                self.composite,
                self.max_cloud_percent,
                weights_sha256,
                *([self.min_confidence] if self.min_confidence else []),
                *([self.legend.sha256] if self.legend else []),
                *([str(self.season)] if self.season else []),
                *([self.fuse] if self.fuse != "pixels" else []),
                *([str(self.smooth), self.smooth_px] if self.smooth else []),
                *([self.precision] if self.precision != "fp32" else []),
            ],
        )

    def __post_init__(self) -> None:
        if self.zones not in ZONES_ASKED:
            raise UsageError(f"--zones {self.zones!r} is unknown. Use {' or '.join(ZONES_ASKED)}.")
        if self.catalog is not None and isinstance(self.out, str) and "://" in self.out:
            raise UsageError(
                f"--catalog {self.catalog} lists maps on this machine, and --out {redact_href(self.out)} is "
                "a URL. Give a folder, or leave --catalog out."
            )
        if self.out == "":
            raise UsageError("--out is empty. Name a folder; . is this one.")
        if not self.sources:
            raise UsageError("--source is empty. Name a provider, a URL or a path.")
        if not 0 <= self.min_confidence <= 1:
            raise UsageError(
                f"--min-confidence {self.min_confidence:g} is no share. Give 0 to 1, such as 0.5."
            )
        if not 0 <= self.min_valid_percent <= 100:
            raise UsageError(f"--min-valid {self.min_valid_percent:g} is no percentage. Give 0 to 100.")
        if len(self.title) > MAX_TITLE or not self.title.isprintable():
            raise UsageError(
                f"--title {self.title[:40]!r} of {len(self.title)} characters is no title. Give one line of "
                f"at most {MAX_TITLE} printable characters."
            )


def requested_area(bbox: str | None, aoi: Path | None, aoi_layer: str | None = None) -> Area | None:
    """The area that ``--bbox``, or ``--aoi`` and ``--aoi-layer`` name; None without any.

    Raises:
        UsageError: both are given, or the one given is malformed.
    """
    if aoi is None and aoi_layer is not None:
        raise UsageError(f"--aoi-layer {aoi_layer!r} is given without --aoi. Give the file, too.")
    if bbox is not None and aoi is not None:
        raise UsageError("--bbox and --aoi are both given. Give one.")
    if bbox is not None:
        return parse_bbox(bbox)
    return read_aoi(aoi, aoi_layer) if aoi is not None else None


def requested_dates(date: str | None) -> DateRange | None:
    """The span that ``--date`` names; None without it.

    Raises:
        UsageError: it is malformed.
    """
    return parse_dates(date) if date is not None else None


def requested_season(season: str | None) -> Season | None:
    """The months that ``--season`` names; None without it.

    Raises:
        UsageError: it is none.
    """
    return parse_season(season) if season is not None else None


def requested_vectors(
    *,
    rasters_only: bool,
    vector_format: str,
    cells: bool,
    min_area_ha: float | None,
    simplify_m: float,
    whole_cells: bool,
) -> VectorOptions | None:
    """How the options name the vector layers; None where there are to be none.

    Raises:
        UsageError: the format is unknown, a size is negative or not finite, or something is asked of vector
            layers that are not to be written.
    """
    asked = VectorOptions(
        format=vector_format,
        cells=cells,
        min_area_ha=min_area_ha,
        simplify_m=simplify_m,
        whole_cells=whole_cells,
    )
    if not rasters_only:
        return asked
    if asked != VectorOptions():
        raise UsageError(
            "--rasters-only writes no vector layers, and another option says how they are to be. Leave one "
            "of the two out."
        )
    return None
