"""What a run over several UTM zones made: the map of each zone, and all of them together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import shapely

import landuse
from landuse.errors import ReadError, UsageError
from landuse.pipeline.blocks.plan import RunPlan
from landuse.pipeline.cells import ClassArea, Cover
from landuse.pipeline.stac_json import mapping, number, sequence, text
from landuse.pipeline.zones import ZonePart

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    import geopandas as gpd
    import xarray as xr

    from landuse.pipeline.stac_json import Json
    from landuse.pipeline.write.vector_layers import VectorOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneMap:
    """The finished map of one zone."""

    part: ZonePart
    """What of the area it is of."""
    plan: RunPlan
    """What was mapped, without its blocks."""
    report: Json
    """What its ``run.json`` holds."""

    @property
    def folder(self) -> str:
        """Name of its folder, beside the joined files."""
        return zone_folder(self.part)

    @property
    def land_m2(self) -> float:
        """Area of its part of the area, in its own grid."""
        return float(shapely.from_wkt(self.plan.area_wkt).area) if self.plan.area_wkt else 0.0

    @property
    def spares_read(self) -> bool:
        """Whether a read failed, so that spare scenes may have pixels in it."""
        used = [mapping(scene).get("used") for scene in sequence(self.report.get("scenes"))]
        return bool(used) and all(used) and any(scene.spare for scene in self.plan.scenes)

    @property
    def classes(self) -> tuple[ClassArea, ...]:
        """Area of each class that occurs."""
        return _areas(self.report.get("classes"))

    @property
    def covers(self) -> tuple[ClassArea, ...]:
        """Area of each land cover that occurs."""
        return _areas(self.report.get("covers"))

    @property
    def cover(self) -> Cover:
        """What became of its cells."""
        told = mapping(self.report.get("cover"))
        return Cover(**{field.name: told[field.name] for field in fields(Cover)})  # type: ignore[arg-type]  # JSON

    @classmethod
    def of(cls, part: ZonePart, plan: object, report: object) -> Self:
        """The map that a plan and a report, both as JSON, tell of.

        Raises:
            ValueError: they are no plan and report of one map.
        """
        try:
            found = cls(part=part, plan=RunPlan.from_dict(dict(mapping(plan))), report=mapping(report))
            told = text(found.report.get("plan_sha256"))
            if not told or found.plan.digest != told or found.plan.crs != part.crs:
                raise ValueError("plan and report are of different maps")
            _ = found.classes, found.covers, found.cover, found.land_m2
        except (KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
            raise ValueError(f"it is no map of zone {part.name}: {error}") from error
        return found


def zone_folder(part: ZonePart) -> str:
    """Name of the folder of a zone's map."""
    return f"zone-{part.name}"


def _areas(value: object) -> tuple[ClassArea, ...]:
    """Areas out of a report; TypeError where it holds something else."""
    names = [field.name for field in fields(ClassArea)]
    areas = [ClassArea(**{name: mapping(entry)[name] for name in names}) for entry in sequence(value)]  # type: ignore[arg-type]  # JSON
    if any(number(entry.area_m2) is None or not isinstance(entry.id, int) for entry in areas):
        raise TypeError("an area is no number")
    return tuple(areas)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmappedZone:
    """A zone of the area in which nothing was found to map."""

    part: ZonePart
    """What of the area it is."""
    reason: str
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonesReport:
    """What a run with ``--zones each`` made; written as ``run.json`` beside the zones' folders."""

    title: str
    """What the maps are called."""
    created_utc: datetime
    """When they were joined."""
    zones: tuple[ZoneMap, ...]
    """The map of each zone, from west to east."""
    unmapped: tuple[UnmappedZone, ...]
    """Zones without a map: their land counts as ``nodata``."""
    crs: str
    """Of the joined rasters and polygons: an EPSG code, or WKT."""
    vectors: VectorOptions | None
    """How the vector layers were asked for; None: rasters alone were."""
    files: tuple[str, ...]
    """Names of the joined files, and paths of the zones' files, in the output folder."""
    out: Path | str
    """The output folder, or its URL without passwords."""
    seconds: dict[str, float]
    """Time of each stage of this run; zones that an earlier run finished cost none."""

    @property
    def plan_sha256(self) -> str:
        """Digest of the plans of all zones: the same has the same pixels."""
        return joined_digest(self.zones, self.crs)

    @property
    def classes(self) -> tuple[ClassArea, ...]:
        """Area of each class that occurs in a zone, added up."""
        return added_up([zone.classes for zone in self.zones])

    @property
    def covers(self) -> tuple[ClassArea, ...]:
        """Area of each land cover that occurs in a zone, added up."""
        return added_up([zone.covers for zone in self.zones])

    @property
    def cover(self) -> Cover:
        """What became of the whole area; cells at a zone's border are counted in both zones."""
        return joined_cover(
            [(zone.land_m2, zone.cover) for zone in self.zones],
            sum(zone.part.area_m2 for zone in self.unmapped),
        )

    @property
    def land_m2(self) -> float:
        """The whole area, each part of it in its own zone's grid."""
        return sum(zone.land_m2 for zone in self.zones) + sum(zone.part.area_m2 for zone in self.unmapped)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before trusting the maps, a sentence each, with the zone before it."""
        told = [
            f"zone {zone.part.name}: {text(warning)}"
            for zone in self.zones
            for warning in sequence(zone.report.get("warnings"))
        ]
        return (*told, *(f"zone {zone.part.name} has no map: {zone.reason}" for zone in self.unmapped))

    def to_xarray(self) -> xr.Dataset:
        """The maps of all zones, in the grid of the joined rasters, as ``landuse.open_map`` opens them.

        Raises:
            UsageError: they lie elsewhere than on this machine.
            ReadError: the files are gone, or cannot be read.
        """
        from landuse.pipeline.maps.to_xarray import open_map

        return open_map(self.out)

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """The polygons of all zones, in the joined CRS, a row each: zone, class, confidence, hectares.

        For hectares by class take ``classes``: small polygons have the class of their largest neighbour,
        unless ``min_area_ha`` is 0.

        Raises:
            UsageError: the map was made with ``rasters_only``.
            ReadError: the vector file is gone, or cannot be read.

        Example:
            >>> report.to_geodataframe().dissolve("class_name", aggfunc={"area_ha": "sum"})["area_ha"]
        """
        import geopandas
        from pyogrio.errors import DataSourceError

        if self.vectors is None:
            raise UsageError(
                f"{self.out} holds rasters alone, as was asked for. Make the map without rasters_only, to "
                "have polygons."
            )
        path = f"{self.out}/landuse.{self.vectors.format}"
        try:
            if self.vectors.format == "parquet":
                return geopandas.read_parquet(path)
            return geopandas.read_file(path, layer="landuse")
        except (OSError, ValueError, DataSourceError) as error:
            raise ReadError(f"{path} cannot be read ({error}). Make the map again.") from error

    def to_dict(self) -> dict[str, object]:
        """The report as plain JSON values."""
        return {
            "landuse": landuse.__version__,
            "title": self.title,
            "created_utc": self.created_utc.isoformat(timespec="seconds"),
            "plan_sha256": self.plan_sha256,
            "crs": self.crs,
            "area_m2": self.land_m2,
            "zones": [_zone_entry(zone) for zone in self.zones],
            "unmapped": [
                {"zone": zone.part.name, "area_m2": zone.part.area_m2, "reason": zone.reason}
                for zone in self.unmapped
            ],
            "cover": asdict(self.cover),
            "classes": [{**asdict(entry), "area_ha": entry.area_ha} for entry in self.classes],
            "covers": [{**asdict(entry), "area_ha": entry.area_ha} for entry in self.covers],
            "vectors": self.vectors and asdict(self.vectors),
            "warnings": list(self.warnings),
            "patches": self._sum("patches"),
            "pixels": self._sum("pixels"),
            "traffic": {
                name: sum(number(mapping(zone.report.get("traffic")).get(name)) or 0 for zone in self.zones)
                for name in ("requests", "fetched_bytes")
            },
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "files": list(self.files),
        }

    def _sum(self, name: str) -> int:
        return int(sum(number(zone.report.get(name)) or 0 for zone in self.zones))


def joined_digest(zones: Iterable[ZoneMap], crs: str) -> str:
    """Digest of the plans of all zones, and of the grid in which they are shown."""
    plans = sorted((zone.part.name, zone.plan.digest) for zone in zones)
    return hashlib.sha256(json.dumps([plans, crs]).encode()).hexdigest()


def _zone_entry(zone: ZoneMap) -> dict[str, Any]:
    return {
        "zone": zone.part.name,
        "folder": zone.folder,
        "plan_sha256": zone.plan.digest,
        "area_m2": zone.land_m2,
        **{
            name: zone.report.get(name)
            for name in ("grid", "cover", "classes", "failures", "seconds", "traffic", "created_utc")
        },
    }


def added_up(zones: Sequence[Sequence[ClassArea]]) -> tuple[ClassArea, ...]:
    """Areas of the same classes in several zones, added up, by id."""
    by_id: dict[int, list[ClassArea]] = {}
    for entry in (entry for areas in zones for entry in areas):
        by_id.setdefault(entry.id, []).append(entry)
    total = sum(entry.area_m2 for areas in zones for entry in areas)
    return tuple(
        ClassArea(
            id=identifier,
            name=entries[0].name,
            cells=sum(entry.cells for entry in entries),
            area_m2=sum(entry.area_m2 for entry in entries),
            share=sum(entry.area_m2 for entry in entries) / (total or 1),
        )
        for identifier, entries in sorted(by_id.items())
    )


def joined_cover(zones: Sequence[tuple[float, Cover]], unmapped_m2: float) -> Cover:
    """What became of several zones together.

    Args:
        zones: area in square metres of each zone's part, and what became of it.
        unmapped_m2: area of zones without a map.
    """
    total = sum(area for area, _ in zones) + unmapped_m2 or 1.0

    def share(name: str) -> float:
        return float(sum(area * (getattr(cover, name) or 0.0) for area, cover in zones) / total)

    doubted = [
        (area * (cover.valid + cover.unknown), cover.doubtful)
        for area, cover in zones
        if cover.doubtful is not None
    ]
    seen = sum(area for area, _ in doubted)
    return Cover(
        cells=sum(cover.cells for _, cover in zones),
        valid=share("valid"),
        cloudy=share("cloudy") if any(cover.cloudy is not None for _, cover in zones) else None,
        failed=share("failed"),
        nodata=share("nodata") + unmapped_m2 / total,
        unknown=share("unknown"),
        doubtful=sum(area * doubtful for area, doubtful in doubted) / (seen or 1) if doubted else None,
        unmasked_scenes=sum(cover.unmasked_scenes for _, cover in zones),
    )
