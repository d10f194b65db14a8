"""``landuse.change`` and ``landuse.compare``: what people hold in Python, as requests about two maps."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.pipeline.cells import CHANGE_THRESHOLD
from landuse.workflows.change import ChangeRequest, compare_maps
from landuse.workflows.compare.compare_map import compare_map
from landuse.workflows.compare.request import MIN_PATCH_HA, CompareRequest
from landuse.workflows.mapping.report import MapReport

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from landuse.workflows.change import ChangeReport
    from landuse.workflows.compare.compare_map import CompareReport

    MapLike: TypeAlias = str | Path | MapReport


def change(
    before: MapLike,
    after: MapLike,
    *,
    out: str | Path,
    confirm: MapLike | Sequence[MapLike] = (),
    threshold: float = CHANGE_THRESHOLD,
    min_patch_ha: float | None = None,
    overwrite: bool = False,
) -> ChangeReport:
    """Find what changed between two maps of one place, as ``landuse change`` does.

    Args:
        before: the earlier map, with probabilities: its folder, its ``landuse.tif`` or its report.
        after: the same of the later one.
        out: folder for the results.
        confirm: a map of a later date still, or several, which have to agree with a change.
        threshold: share of a cell's probability that has to move for a change of class to count, 0 to 1.
        min_patch_ha: leave out patches of change below this, in hectares; None: 0.5 between maps of pixels.
        overwrite: replace results that are in ``out``.

    Returns:
        What became of every class, in cells and hectares; ``to_dict()`` is what ``change.json`` holds.

    Raises:
        UsageError: the maps do not suit each other, or an argument is wrong.
        LanduseError: nothing readable, nothing writable.

    Example:
        >>> import landuse
        >>> report = landuse.change("map-june", "map-july", out="change")  # doctest: +SKIP
    """
    _check(
        "change",
        ("threshold", threshold, Real),
        ("min_patch_ha", min_patch_ha, Real | None),
        ("overwrite", overwrite, bool),
    )
    later = (confirm,) if isinstance(confirm, str | Path | MapReport) else confirm
    return compare_maps(
        ChangeRequest(
            before=_path("before", before),
            after=_path("after", after),
            later=tuple(_path("confirm", entry) for entry in later),
            threshold=float(threshold),
            min_patch_ha=None if min_patch_ha is None else float(min_patch_ha),
            out=_path("out", out),
            overwrite=overwrite,
        )
    )


def compare(
    map: MapLike,
    reference: MapLike | None = None,
    *,
    out: str | Path,
    crosswalk: str | Path | None = None,
    column: str | None = None,
    layer: str | None = None,
    collection: str | None = None,
    source: str = "planetary-computer",
    year: int | None = None,
    min_patch_ha: float = MIN_PATCH_HA,
    overwrite: bool = False,
    allow_private_hosts: bool = False,
) -> CompareReport:
    """Compare a map with any other, as ``landuse compare`` does. The reference is not the truth.

    Args:
        map: a map: its folder, its ``landuse.tif`` or its report.
        reference: another map, a GeoTIFF of classes, or a vector file of polygons, in any CRS.
        out: folder for the results.
        crosswalk: the classes that both are brought to: a legend, such as ``"worldcover"``, or a file; None:
            the names that both give their classes.
        column: of polygons, holds their class or code.
        layer: of a GeoPackage of polygons.
        collection: instead of ``reference`` a collection of ``source``: ``"esa-worldcover"`` or
            ``"io-lulc-annual-v02"``.
        source: where that is: a provider, the URL of a STAC API, or a path.
        year: of the collection; None: the nearest to the map's scenes.
        min_patch_ha: draw no polygons for smaller patches of disagreement, in hectares.
        overwrite: replace results that are in ``out``.
        allow_private_hosts: as of ``landuse.map``.

    Returns:
        Agreement by class and hectares of each pair of classes; ``to_dict()`` is what ``compare.json`` holds.

    Raises:
        UsageError: map, reference and crosswalk do not suit each other, or an argument is wrong.
        LanduseError: nothing found, nothing readable, nothing writable.

    Example:
        >>> import landuse
        >>> report = landuse.compare(
        ...     "map", "worldcover.tif", crosswalk="worldcover", out="compared"
        ... )  # doctest: +SKIP
    """
    _check(
        "compare",
        ("crosswalk", crosswalk, str | Path | None),
        ("column", column, str | None),
        ("layer", layer, str | None),
        ("collection", collection, str | None),
        ("source", source, str),
        ("year", year, int | None),
        ("min_patch_ha", min_patch_ha, Real),
        ("overwrite", overwrite, bool),
        ("allow_private_hosts", allow_private_hosts, bool),
    )
    return compare_map(
        CompareRequest(
            map=_path("map", map),
            reference=None if reference is None else _path("reference", reference),
            collection=collection,
            source=source,
            year=year,
            crosswalk=None if crosswalk is None else str(crosswalk),
            layer=layer,
            column=column,
            min_patch_ha=float(min_patch_ha),
            out=_path("out", out),
            overwrite=overwrite,
            allow_private_hosts=allow_private_hosts,
        )
    )


def _path(what: str, given: object) -> Path:
    """Where a map lies."""
    if isinstance(given, MapReport):
        return Path(str(given.out))
    if not isinstance(given, str | Path):
        raise UsageError(f"{what} {given!r:.60} is {type(given).__name__}. Give the path of a map.")
    return Path(given)


def _check(function: str, *arguments: tuple[str, object, object]) -> None:
    for what, given, kind in arguments:
        wrong = isinstance(given, bool) and kind is not bool
        if wrong or not isinstance(given, kind):  # type: ignore[arg-type]  # types and unions of types
            raise UsageError(f"{what} {given!r:.60} is {type(given).__name__}. See help(landuse.{function}).")
