"""References that are fetched: land cover that a STAC source serves, of the year that suits a map."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import rasterio
import shapely
from rasterio._err import CPLE_BaseError  # GDAL's own errors; rasterio wraps only some of them
from rasterio.errors import RasterioError

from landuse.errors import NothingFoundError, ProviderError, ReadError, UsageError
from landuse.pipeline.geometry import cut_at_antimeridian, in_one_piece, project, surfaces
from landuse.pipeline.maps.reference import RasterReference, check_raster
from landuse.pipeline.providers import PROVIDERS
from landuse.pipeline.read.onto_grid import chunk_ranges
from landuse.pipeline.read.read_scene import GDAL_OPTIONS
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.search.area import Area, parse_dates
from landuse.pipeline.search.find_scenes import search_items, source_name
from landuse.pipeline.stac_json import mapping, moment_utc, resolve_href, sequence, text
from landuse.redact import printable, redact_href
from landuse.workflows.compare.crosswalk import OpenedReference, crosswalk_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

    from landuse.pipeline.maps.open import ClassMap
    from landuse.pipeline.providers import Provider
    from landuse.pipeline.remote.files import Opened as RemoteOpened
    from landuse.pipeline.search.stac_files import FoundItem
    from landuse.workflows.compare.crosswalk import Crosswalk
    from landuse.workflows.compare.request import CompareRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection of land cover that is understood."""

    asset: str
    """Key of the asset that holds the classes."""
    legend: str
    """The legend whose codes they are."""


COLLECTIONS = {
    "esa-worldcover": Collection(asset="map", legend="worldcover"),
    "io-lulc-annual-v02": Collection(asset="data", legend="io-lulc"),
}
"""As Planetary Computer serves them."""

_ALL_DATES = "2015-01-01/.."


@contextmanager
def opened_collection(
    request: CompareRequest, source: ClassMap, grid: GeoBox
) -> Iterator[tuple[Crosswalk, OpenedReference]]:
    """The reference that ``--reference`` names, of the year nearest to the map's, ready to be read.

    Raises:
        UsageError: the collection is not known, or its rasters are no maps of classes.
        NothingFoundError: the source has nothing there, or not of that year.
        ProviderError: the source cannot be asked, or a raster cannot be read.
    """
    name = request.collection or ""
    if name not in COLLECTIONS:
        raise UsageError(
            f"--reference {printable(name)[:80]!r} is unknown. Give {' or '.join(COLLECTIONS)}; any other "
            "raster can be given as REFERENCE."
        )
    for option, value in (("--column", request.column), ("--layer", request.layer)):
        if value is not None:
            raise UsageError(f"{option} {value!r} is for polygons, and {name} is a raster. Leave it out.")
    known = COLLECTIONS[name]
    crosswalk = crosswalk_of(source, request.crosswalk or known.legend)
    provider, items = search_items(
        request.source,
        name,
        _area_of(grid),
        parse_dates(_ALL_DATES),
        request.retry,
        any_host=request.allow_private_hosts,
    )
    year = _year(items, source, request)
    items = tuple(entry for entry in items if _year_of(entry) == year)
    places = [_place(entry, known.asset, provider) for entry in items]
    shown = f"{name} {year}"
    codes = crosswalk.codes({}, names_alone=False)
    with ExitStack() as stack:
        remote = stack.enter_context(
            Remote(request.retry, any_host=request.allow_private_hosts, folder=_scratch(request))
        )
        stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
        files: list[DatasetReader] = []
        fetchers: list[RemoteOpened | None] = []
        for href, owner in places:
            file, opened = _open(href, owner, remote, stack)
            files.append(file)
            fetchers.append(opened)

        def fetch(place: int, bounds: tuple[float, float, float, float]) -> None:
            opened = fetchers[place]
            if opened is not None:
                opened.fetch(chunk_ranges(files[place], 1, _window(files[place], bounds)))

        def check() -> None:
            for opened in fetchers:
                if opened is not None:
                    opened.raise_failure()

        reference = RasterReference(
            files,
            codes,
            grid,
            names=[redact_href(href) for href, _ in places],
            fetch=fetch,
            check=check,
        )
        about: dict[str, object] = {
            "kind": "collection",
            "source": source_name(request.source),
            "collection": name,
            "year": year,
            "items": [printable(text(entry.item.get("id"))) for entry in items],
            "hrefs": [redact_href(href) for href, _ in places],
            "crs": files[0].crs.to_string(),
            "pixel_m": reference.pixel_m,
        }
        yield crosswalk, OpenedReference(reference=reference, codes=codes, shown=shown, about=about)


def _scratch(request: CompareRequest) -> Path:
    """Where what is fetched lies: beside the results, since the system's temporary folder is often memory."""
    return next(path for path in (request.out, *request.out.absolute().parents) if path.is_dir())


def _area_of(grid: GeoBox) -> Area:
    """The map's box in longitude and latitude."""
    box = shapely.box(*grid.boundingbox.bbox)
    lonlat = in_one_piece(project(box, str(grid.crs), "EPSG:4326"))
    return Area(geometry=surfaces(cut_at_antimeridian(shapely.make_valid(lonlat))), clip=False, name="map")


def _year_of(entry: FoundItem) -> int | None:
    """The year that an item is about."""
    properties = mapping(entry.item.get("properties"))
    moment = moment_utc(properties.get("start_datetime")) or moment_utc(properties.get("datetime"))
    return None if moment is None else moment.year


def _year(items: Sequence[FoundItem], source: ClassMap, request: CompareRequest) -> int:
    """The year to take: as asked for, else the one nearest to the map's, the later of two."""
    years = sorted({year for entry in items if (year := _year_of(entry)) is not None})
    if request.year in years:
        return request.year
    if request.year is not None or not years:
        raise NothingFoundError(
            f"{source_name(request.source)} has {request.collection} over the map of "
            f"{', '.join(map(str, years)) or 'no stated year'}, not of {request.year}. Give one of these as "
            "--year."
        )
    if source.year is None:
        return years[-1]
    wanted = source.year
    return min(years, key=lambda year: (abs(year - wanted), -year))


def _place(entry: FoundItem, key: str, provider: Provider) -> tuple[str, str]:
    """The address of an item's raster, unsigned, and whose it is."""
    name = f"Item {printable(text(entry.item.get('id')))[:80]!r}"
    asset = mapping(mapping(entry.item.get("assets")).get(key))
    if not text(asset.get("href")):
        raise ProviderError(f"{name} has no asset {key!r}. Choose another --source.")
    try:
        href = resolve_href(text(asset.get("href")), entry.location)
    except ProviderError as error:
        raise ProviderError(f"{name}, asset {key!r}: {error}") from error
    owner = _owner(entry, provider)
    if owner.signing != "none":  # a saved signature has long expired
        href = urlunsplit(urlsplit(href)._replace(query="", fragment=""))
    return href, owner.name


def _owner(entry: FoundItem, provider: Provider) -> Provider:
    """The known provider that a saved item came from, so that it is signed as its own."""
    if provider.name in PROVIDERS:
        return provider
    links = [text(mapping(link).get("href")) for link in sequence(entry.item.get("links"))]
    for known in PROVIDERS.values():
        if known.signing != "none" and any(link.startswith(known.endpoint + "/") for link in links):
            return known
    return provider


def _open(
    href: str, owner: str, remote: Remote, stack: ExitStack
) -> tuple[DatasetReader, RemoteOpened | None]:
    """A raster, open and checked, and what fetches its bytes where it is remote."""
    opened: RemoteOpened | None = None
    shown = redact_href(href)
    try:
        if "://" not in href:
            file = stack.enter_context(rasterio.open(href, driver="GTiff"))
        else:
            opened = stack.enter_context(remote.opened(href, owner))
            try:
                file = stack.enter_context(rasterio.open(opened.name, driver="GTiff", opener=opened.opener))
            except (RasterioError, CPLE_BaseError, OSError):
                # GDAL knows only that bytes are missing; the request that failed knows why.
                opened.raise_failure()
                raise
    except (RasterioError, CPLE_BaseError, OSError, ProviderError) as error:
        raise ReadError(
            f"{shown} cannot be read ({error.__cause__ or error}). Try again later, or give the raster as "
            "REFERENCE."
        ) from error
    check_raster(file, shown)
    return file, opened


def _window(file: DatasetReader, bounds: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """(row, col, rows, cols) of a raster that cover bounds in its CRS, and a pixel more."""
    left, bottom, right, top = bounds
    grid = file.transform
    cols = np.array([left, right]) - grid.c
    rows = np.array([top, bottom]) - grid.f
    col_start, col_stop = np.floor(cols.min() / grid.a) - 1, np.ceil(cols.max() / grid.a) + 1
    row_start, row_stop = np.floor((rows / grid.e).min()) - 1, np.ceil((rows / grid.e).max()) + 1
    return int(row_start), int(col_start), int(row_stop - row_start), int(col_stop - col_start)
