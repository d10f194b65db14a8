"""``landuse.learn``: what people hold in Python, as the request of a model of their own classes."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.model import MAP_MODEL
from landuse.workflows.learn.learn import learn as learn_request
from landuse.workflows.learn.request import MAX_DATES, PER_CLASS, PER_SHAPE, LearnRequest
from landuse.workflows.mapping.from_python import dates_of, source_of

if TYPE_CHECKING:
    import geopandas as gpd

    from landuse.workflows.learn.request import LearnReport
    from landuse.workflows.mapping.from_python import DateLike, SourceLike


def learn(
    *,
    labels: str | Path | gpd.GeoDataFrame,
    column: str | None = None,
    out: str | Path,
    source: SourceLike = "planetary-computer",
    date: DateLike | None = None,
    layer: str | None = None,
    name: str | None = None,
    model: str | Path = MAP_MODEL,
    bands: str = "all",
    max_cloud_percent: float = 40.0,
    max_dates: int = MAX_DATES,
    per_polygon: int = PER_SHAPE,
    per_class: int = PER_CLASS,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    allow_private_hosts: bool = False,
) -> LearnReport:
    """Learn your own classes from labels over scenes, as ``landuse learn`` does.

    Args:
        labels: a ``GeoDataFrame`` of polygons or points in any CRS, the path of a vector file of such, or
            that of a GeoTIFF of class ids.
        column: of a table or vector file, holds the classes.
        out: where the model goes, a name that ends in ``.safetensors``; its report lies beside it.
        source: as of ``landuse.map``.
        date: as of ``landuse.map``.
        layer: of a GeoPackage with several.
        name: what the model is called; None: as its file.
        model: name or path of the model of pixels whose trunk is kept.
        bands: ``"all"``, ``"rgb"`` or ``"rgb-nir"``.
        max_cloud_percent: leave out scenes with more cloud over the labels.
        max_dates: most dates to see each labelled pixel on.
        per_polygon: most pixels to learn from of a polygon.
        per_class: most pixels to learn from of a class.
        seed: of the pixels and blocks that are drawn.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:INDEX"``.
        overwrite: replace the model that is in ``out``.
        allow_private_hosts: as of ``landuse.map``.

    Returns:
        What was learned and how well it is told apart on land that was held out. ``model`` is the file.

    Raises:
        UsageError: an argument or a label is wrong; the message says how to mend it.
        LanduseError: nothing found, nothing readable, nothing writable.

    Example:
        >>> import landuse
        >>> report = landuse.learn(
        ...     labels="fields.gpkg", column="crop", source="landuse-demo/catalog", out="crops.safetensors"
        ... )  # doctest: +SKIP
        >>> land = landuse.map(source="landuse-demo/catalog", model=report.model)  # doctest: +SKIP
    """
    import geopandas  # takes half a second

    for what, given, kind in (
        ("labels", labels, str | Path | geopandas.GeoDataFrame),
        ("column", column, str | None),
        ("out", out, str | Path),
        ("layer", layer, str | None),
        ("name", name, str | None),
        ("model", model, str | Path),
        ("bands", bands, str),
        ("max_cloud_percent", max_cloud_percent, Real),
        ("max_dates", max_dates, int),
        ("per_polygon", per_polygon, int),
        ("per_class", per_class, int),
        ("seed", seed, int),
        ("device", device, str),
        ("overwrite", overwrite, bool),
        ("allow_private_hosts", allow_private_hosts, bool),
    ):
        if not isinstance(given, kind) or (isinstance(given, bool) and kind is not bool):
            raise UsageError(f"{what} {given!r:.60} is {type(given).__name__}. See help(landuse.learn).")
    if column is None and isinstance(labels, geopandas.GeoDataFrame):
        raise UsageError("column is not given. Name the column of labels that holds the classes.")
    request = LearnRequest(
        source=source_of(source),
        labels=Path(labels) if isinstance(labels, str) else labels,
        column=column,
        layer=layer,
        out=Path(out),
        name=name,
        dates=None if date is None else dates_of(date),
        model=str(model),
        bands=bands,
        max_cloud_percent=float(max_cloud_percent),
        max_dates=max_dates,
        per_shape=per_polygon,
        per_class=per_class,
        seed=seed,
        device=device,
        overwrite=overwrite,
        allow_private_hosts=allow_private_hosts,
    )
    return learn_request(request)
