"""``landuse map``, ``demo`` and ``catalog``: from local rasters or a provider to a map."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from landuse.commands.options import (
    AnyModelOption,
    DeviceOption,
    ImageBaselineOption,
    ImageDatetimeOption,
    ImageLevelOption,
    ImageNodataOption,
    ImageOffsetOption,
    ImageScaleOption,
    JsonOption,
    OverwriteOption,
    PrecisionOption,
    PrivateHostsOption,
    QuietOption,
    one_of,
    terminable,
)
from landuse.commands.terminal import (
    map_progress,
    print_agreement,
    print_any_estimate,
    print_any_report,
    print_json,
    print_precision,
    print_report,
)
from landuse.errors import IncompleteError, UsageError
from landuse.model import MAP_MODEL

MAP_PANELS = {
    "Where and when": (
        "rasters",
        "bbox",
        "aoi",
        "aoi_layer",
        "date",
        "season",
        "zones",
        "source",
        "allow_private_hosts",
    ),
    "Imagery and model": (
        "model",
        "legend",
        "bands",
        "cell_m",
        "stride_px",
        "max_cloud",
        "composite",
        "fuse",
    ),
    "Smoothing": ("smooth", "smooth_px"),
    "Results": (
        "out",
        "catalog",
        "title",
        "probabilities",
        "rasters_only",
        "overwrite",
        "min_valid",
        "allow_failed",
    ),
    "Vector layers": ("vector_format", "cells", "whole_cells", "min_area_ha", "simplify_m"),
    "The run": (
        "dry_run",
        "calibrate",
        "device",
        "precision",
        "workers",
        "scheduler",
        "block_px",
        "as_json",
        "quiet",
    ),
}
"""Options of ``landuse map`` as its help groups them."""

MAP_EXAMPLES = """\b
Examples:
  landuse map --bbox 13.10,48.27,13.18,48.31 --date 2024-06 --out map
  landuse map --aoi fields.gpkg --date 2024-06-01/2024-06-30 --max-cloud 20
  landuse map --source own/catalog.json --bands rgb-nir --probabilities
  landuse map --source earth-search,cdse --bbox=-4.1,52.3,-3.9,52.5 --date 2024-06 --dry-run
"""


def map_command(
    rasters: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE]...",
            help="Your own Sentinel-2 image instead of a source: one multi-band GeoTIFF, or one file a band.",
        ),
    ] = None,
    bbox: Annotated[
        str | None,
        typer.Option(metavar="W,S,E,N", help="Area as west, south, east, north in degrees (WGS 84)."),
    ] = None,
    aoi: Annotated[
        Path | None,
        typer.Option(
            help="Area as the polygons of a GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile in any "
            "CRS; the map is cut to them."
        ),
    ] = None,
    aoi_layer: Annotated[
        str | None,
        typer.Option(help="Layer of the GeoPackage in --aoi; default: its only one of polygons."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(metavar="DATE[/DATE]", help="Day, month or range of dates, UTC; 2024-06-01/2024-06-30."),
    ] = None,
    season: Annotated[
        str | None,
        typer.Option(
            metavar="SEASON",
            help="Of --date only these months: spring, summer, autumn or winter where the area lies (south "
            "of the equator summer is December to February), or months as 4-6 or 11-2.",
            autocompletion=one_of("spring", "summer", "autumn", "winter"),
        ),
    ] = None,
    zones: Annotated[
        str,
        typer.Option(
            help="`one`: one map, in the UTM zone that holds most of the area; what lies in other zones is "
            "warped. `each`: a map for each UTM zone of the area, each cut to its part, joined by virtual "
            "rasters, one file of polygons, a STAC collection and a summary.",
            autocompletion=one_of("one", "each"),
        ),
    ] = "one",
    source: Annotated[
        str,
        typer.Option(
            help="planetary-computer, earth-search, earth-search-c1, earth-search-l1c, cdse or cdse-l1c; URL "
            "of a STAC API or catalogue; or path of a STAC item, ItemCollection, catalogue or "
            "stac-geoparquet file, which needs neither --bbox nor --date. Of several (a,b,c) the first that "
            "serves the area is mapped, and what it fails to give is read from the next.",
            autocompletion=one_of(
                "planetary-computer",
                "earth-search",
                "earth-search-c1",
                "earth-search-l1c",
                "cdse",
                "cdse-l1c",
            ),
        ),
    ] = "planetary-computer",
    model: AnyModelOption = MAP_MODEL,
    cell_m: Annotated[
        float | None,
        typer.Option(
            help="Cell size of the map in metres, of a model that classifies each pixel: 10 (default), 20, "
            "40 or another multiple of 10, by the mean of the pixels' probabilities."
        ),
    ] = None,
    stride_px: Annotated[
        int | None,
        typer.Option(
            help="Cell size of the map in pixels of 10 m, of a model that classifies patches: 16 (default) "
            "gives cells of 160 m."
        ),
    ] = None,
    legend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help="Tell the map in other classes, whose probabilities add up the model's: eurosat, cover, "
            "worldcover, io-lulc, ipcc, corine-1, or a file: CSV with the columns class,new,colour, or JSON.",
            autocompletion=one_of("eurosat", "cover", "worldcover", "io-lulc", "ipcc", "corine-1"),
        ),
    ] = None,
    bands: Annotated[
        str,
        typer.Option(
            help="Which bands to read of those that the model can do without: `all` that every scene offers, "
            "`rgb`, or `rgb-nir` (red, green, blue, near infrared). Fewer bands are fewer bytes to fetch. "
            "Of an IMAGE also the names of its bands in their order: B04,B03,-,B02 leaves out the third.",
            autocompletion=one_of("all", "rgb", "rgb-nir"),
        ),
    ] = "all",
    max_cloud: Annotated[
        float, typer.Option(help="Leave out scenes with more cloud over the area, in percent.")
    ] = 40.0,
    composite: Annotated[
        str,
        typer.Option(
            help="Several dates to one image, per pixel: `best` (clearest first), `median`, or `medoid` (the "
            "date nearest to the median, all bands of it).",
            autocompletion=one_of("best", "median", "medoid"),
        ),
    ] = "best",
    fuse: Annotated[
        str,
        typer.Option(
            help="What of several dates becomes one: `pixels` (as --composite says), or `dates`: each date "
            "is classified, and the probabilities of those that are clear at a pixel are averaged.",
            autocompletion=one_of("pixels", "dates"),
        ),
    ] = "pixels",
    smooth: Annotated[
        str,
        typer.Option(
            metavar="STRENGTH[,CLASS=STRENGTH]...",
            help="Smooth class probabilities by those around each pixel, of a model that classifies each "
            "pixel: 0 (default) does not, 0.5 removes specks and keeps borders. River and Highway are left "
            "as they are, unless named: 0.5,Forest=2,River=0.5.",
        ),
    ] = "0",
    smooth_px: Annotated[
        int, typer.Option(help="Side of the window in which --smooth looks, in pixels: odd, 3 to 11.")
    ] = 7,
    allow_private_hosts: PrivateHostsOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="Have the blocks done by the workers of this dask scheduler. They must see --source, "
            "--model and --out as this machine does.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Have the blocks done by so many processes on this machine, which share its cores, or its "
            "GPUs, one each."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder for the results, or URL of one that fsspec knows, such as s3://bucket/map. Default: "
            "landuse-map, or with --catalog a folder in it."
        ),
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(help="Also list the map in the STAC catalogue in this folder; one is made if need be."),
    ] = None,
    title: Annotated[str, typer.Option(help="What the map is called; default: the days of its scenes.")] = "",
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Also write every class's probability (0..1); `landuse change` needs them.",
        ),
    ] = False,
    rasters_only: Annotated[
        bool,
        typer.Option(
            "--rasters-only",
            help="Write the rasters and what tells of them, but no polygons, page or preview: less time and "
            "disk where many or large maps are only read on.",
        ),
    ] = False,
    vector_format: Annotated[
        str,
        typer.Option(
            help="gpkg: one GeoPackage, styled for QGIS; parquet (GeoParquet) or fgb (FlatGeobuf): a file "
            "for each layer.",
            autocompletion=one_of("gpkg", "parquet", "fgb"),
        ),
    ] = "gpkg",
    cells: Annotated[
        bool, typer.Option("--cells", help="Also write every cell as a square of the vector file.")
    ] = False,
    min_area_ha: Annotated[
        float | None,
        typer.Option(
            help="Polygons below this many hectares go to their largest neighbour; rasters stay. Default: 0, "
            "or 0.5 of a model that classifies each pixel."
        ),
    ] = None,
    simplify_m: Annotated[
        float,
        typer.Option(
            help="Move outlines by up to so many metres to simplify them, without gaps; rasters stay."
        ),
    ] = 0.0,
    min_confidence: Annotated[
        float,
        typer.Option(
            help="Leave cells unknown whose confidence, 0 to 1, is below this; of a model of pixels the "
            "confidence times what doubt leaves of it. 0.5, say. Doubt is told by models of pixels only."
        ),
    ] = 0.0,
    whole_cells: Annotated[
        bool,
        typer.Option(
            "--whole-cells",
            help="Leave polygons as their cells are; else they are cut to the area, and to the scenes.",
        ),
    ] = False,
    min_valid: Annotated[
        float,
        typer.Option(help="Exit with code 4 when less than this share of cells got a class, in percent."),
    ] = 10.0,
    allow_failed: Annotated[
        bool,
        typer.Option(
            "--allow-failed",
            help="Exit with code 0 also where something could not be read and the map is empty there; "
            "without it that is code 4.",
        ),
    ] = False,
    block_px: Annotated[
        int | None,
        typer.Option(
            help="Side of the blocks that are read at a time, in pixels; memory, not results. Default: 1024."
        ),
    ] = None,
    level: ImageLevelOption = None,
    acquired: ImageDatetimeOption = None,
    baseline: ImageBaselineOption = None,
    scale: ImageScaleOption = None,
    offset: ImageOffsetOption = None,
    nodata: ImageNodataOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read and mapped; read no pixel.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="With --dry-run: map simulated land for half a minute, and foresee time, memory and disk by "
            "that, now and in later dry runs of this model on this machine.",
        ),
    ] = False,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Map an area: find scenes, read, classify, write GeoTIFF, GeoPackage and a page."""
    from landuse.legends.legend import load_legend
    from landuse.workflows.imagery.one_step import ImageFacts, requested_source
    from landuse.workflows.mapping.map_area import load_classifier, requested_cluster, with_precision
    from landuse.workflows.mapping.request import (
        MapRequest,
        requested_area,
        requested_dates,
        requested_season,
        requested_vectors,
    )
    from landuse.workflows.mapping.zones.map_zones import map_any

    if calibrate and not dry_run:
        raise UsageError("--calibrate is for --dry-run, which it makes surer. Give both, or neither.")
    if scheduler is not None and precision == "auto":
        raise UsageError(
            "--precision auto times this machine, and the workers of --scheduler are others. Give fp32 or "
            "bf16."
        )
    cluster = requested_cluster(scheduler, workers, model, device)
    facts = ImageFacts(
        level=level,
        acquired=acquired,
        baseline=baseline,
        scale=scale,
        offset=offset,
        nodata=nodata,
    )
    source_or_image, bands = requested_source(source, tuple(rasters or ()), facts, bands)
    request = MapRequest(
        source=source_or_image,
        area=requested_area(bbox, aoi, aoi_layer),
        dates=requested_dates(date),
        season=requested_season(season),
        zones=zones,
        out=out,
        catalog=catalog,
        title=title,
        cell_m=cell_m,
        stride_px=stride_px,
        legend=None if legend is None else load_legend(legend),
        bands=bands,
        max_cloud_percent=max_cloud,
        composite=composite,
        fuse=fuse,
        smooth=smooth,
        smooth_px=smooth_px,
        precision=precision,
        probabilities=probabilities,
        vectors=requested_vectors(
            rasters_only=rasters_only,
            vector_format=vector_format,
            cells=cells,
            min_area_ha=min_area_ha,
            simplify_m=simplify_m,
            whole_cells=whole_cells,
        ),
        min_confidence=min_confidence,
        min_valid_percent=min_valid,
        allow_failed=allow_failed,
        overwrite=overwrite,
        block_px=block_px,
        allow_private_hosts=allow_private_hosts,
    )
    # On a cluster the workers compute: this process only asks the model what it needs, or how fast it is.
    here = cluster is None or precision == "auto"
    classifier = with_precision(load_classifier(model, device if here else "cpu"), precision)
    print_precision(classifier, quiet=quiet)
    if dry_run:
        from landuse.workflows.mapping.dry_run import estimate_any

        estimate = estimate_any(request, classifier, calibrate=calibrate)
        if as_json:
            print_json(estimate.to_dict())
        else:
            print_any_estimate(estimate)
        return
    try:
        with terminable(), map_progress(quiet=quiet) as on_progress:
            report = map_any(request, classifier, on_progress, cluster)
    except IncompleteError as error:
        if as_json:
            print_json(error.report)
        raise
    if as_json:
        print_json(report.to_dict())
    else:
        print_any_report(report)


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the demo's catalogue, truth and map.")] = Path(
        "landuse-demo"
    ),
    model: AnyModelOption = MAP_MODEL,
    season: Annotated[
        str,
        typer.Option(
            help="Of the simulated scenes: spring, summer or autumn.",
            autocompletion=one_of("spring", "summer", "autumn"),
        ),
    ] = "summer",
    cell_m: Annotated[
        float | None,
        typer.Option(help="As of `landuse map`: cell size of a model that classifies each pixel."),
    ] = None,
    stride_px: Annotated[
        int | None, typer.Option(help="As of `landuse map`: cell size of a model that classifies patches.")
    ] = None,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Map a simulated landscape whose truth is known; no network needed."""
    from landuse.workflows.demo.run_demo import run_demo
    from landuse.workflows.mapping.map_area import load_classifier

    with terminable(), map_progress(quiet=quiet) as on_progress:
        result = run_demo(
            out,
            load_classifier(model),
            season=season,
            cell_m=cell_m,
            stride_px=stride_px,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    if as_json:
        cover = result.cover_agreement and asdict(result.cover_agreement)
        found = {"agreement": asdict(result.agreement), "cover_agreement": cover}
        print_json({**result.report.to_dict(), **found})
        return
    print_report(result.report)
    print_agreement(result)


def catalog_command(
    rasters: Annotated[list[Path], typer.Argument(help="One multi-band GeoTIFF, or one file a band.")],
    level: Annotated[
        str,
        typer.Option(help="Processing level of the pixels: L1C or L2A.", autocompletion=one_of("L1C", "L2A")),
    ],
    acquired: Annotated[
        str, typer.Option("--datetime", help="Acquisition time, ISO 8601; UTC unless it says otherwise.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the catalogue; an existing one gains an item.")],
    baseline: Annotated[
        str | None, typer.Option(help="Processing baseline, NN.NN; from 04.00 on stored values carry +1000.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="reflectance = scale x stored + offset; default: tags, else 0.0001.")
    ] = None,
    offset: Annotated[
        float | None,
        typer.Option(help="reflectance = scale x stored + offset; default: tags, else baseline."),
    ] = None,
    nodata: Annotated[
        float | None,
        typer.Option(help="Stored value that means nodata; default: tags, else 0 (NaN for floats)."),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="B04,B03,B02",
            help="Band names in file order, - for a band to leave out; default: descriptions, file names.",
        ),
    ] = None,
    item_id: Annotated[str | None, typer.Option("--id", help="Item id; default: from the file name.")] = None,
    as_json: JsonOption = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an item of the same id.")] = False,
) -> None:
    """Make local rasters a STAC catalogue of COGs that `landuse map --source` reads."""
    from landuse.workflows.imagery.bands import CatalogRequest
    from landuse.workflows.imagery.catalog import catalog_rasters, parse_acquired_utc
    from landuse.workflows.imagery.next_step import next_step

    result = catalog_rasters(
        CatalogRequest(
            rasters=tuple(rasters),
            level=level,
            acquired_utc=parse_acquired_utc(acquired),
            out=out,
            baseline=baseline,
            scale=scale,
            offset=offset,
            nodata=nodata,
            bands=tuple(name.strip() for name in bands.split(",")) if bands is not None else None,
            item_id=item_id,
            overwrite=overwrite,
        )
    )
    if as_json:
        print_json(result.to_dict())
        return
    typer.echo(
        f"item     {result.item_id} ({', '.join(asset.band for asset in result.assets)}; {result.crs[:40]})"
    )
    west, south, east, north = result.bounds_lonlat
    typer.echo(f"bbox     {west:.6f},{south:.6f},{east:.6f},{north:.6f}")
    typer.echo(f"catalog  {result.catalog}")
    typer.echo(f"next     {next_step(result)}")
