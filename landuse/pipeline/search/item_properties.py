"""Which product a STAC item describes: satellite, tile, time, level, processing baseline.

Providers state each of these in fields of their own; where all else is silent, ESA's product name
tells (``S2B_MSIL2A_20220130T100139_N0400_R122_T33TWN_20220130T115938``).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.pipeline.stac_json import Json, is_remote, mapping, moment_utc, number, text
from landuse.sentinel2 import LEVELS

if TYPE_CHECKING:
    from landuse.pipeline.providers import Provider

PRODUCT_LEVELS = {"S2MSI1C": "L1C", "S2MSI2A": "L2A"}
"""ESA's product types and the processing levels they mean."""

CLOCK_TOLERANCE = timedelta(days=1)
"""A clock that is wrong by less does not make an acquisition one of the future."""

_BASELINE = re.compile(r"\d{2}\.\d{2}", re.ASCII)
_NAME = re.compile(
    r"S2(?P<unit>[A-Z])_MSIL(?:1C|2A)_\d{8}T\d{6}(?:_N(?P<major>\d{2})(?P<minor>\d{2}))?_R\d{3}"
    r"_T(?P<tile>\d{2}[A-Z]{3})_\d{8}T\d{6}(?:\.SAFE)?",
    re.ASCII,
)
"""ESA's product name; Planetary Computer's ids are such names without the baseline."""
_TILE = re.compile(r"(\d{1,2})([C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])", re.ASCII)
_PLATFORM = re.compile(r"sentinel[-_ ]?2[-_ ]?([a-z])", re.ASCII)


def item_name(item: Json) -> str:
    """How messages call the item.

    Raises:
        UsageError: it has no id.
    """
    identifier = text(item.get("id"))
    if not identifier:
        raise UsageError("A STAC item has no id. Mend its metadata.")
    return f"STAC item {identifier[:120]!r}"


def acquired_utc(item: Json) -> datetime:
    """Acquisition time: ``datetime``, else ``start_datetime``; a time without offset is UTC.

    Raises:
        UsageError: There is none, or it is in the future.
    """
    properties = mapping(item.get("properties"))
    for key in ("datetime", "start_datetime"):
        moment = moment_utc(properties.get(key))
        if moment is not None:
            if moment > datetime.now(UTC) + CLOCK_TOLERANCE:
                raise UsageError(
                    f"{item_name(item)} states the acquisition time {moment:%Y-%m-%dT%H:%M:%SZ}, which is in "
                    "the future. Mend its metadata, or this machine's clock."
                )
            return moment
    raise UsageError(f"{item_name(item)} states no acquisition time. Give it a datetime.")


def cloud_percent(item: Json) -> float | None:
    """Cloud cover of the scene in percent, where the item states it."""
    return number(mapping(item.get("properties")).get("eo:cloud_cover"))


def platform(item: Json) -> str:
    """The satellite, as ``"sentinel-2b"`` however it is spelt; empty where the item does not say."""
    stated = text(mapping(item.get("properties")).get("platform")).strip().lower()
    match = _PLATFORM.fullmatch(stated)
    if match is not None:
        return f"sentinel-2{match[1]}"
    if stated:
        return re.sub(r"[^a-z0-9]+", "-", stated)[:40].strip("-")
    named = _product_name(item)
    return "" if named is None else f"sentinel-2{named['unit'].lower()}"


def tile(item: Json) -> str:
    """The MGRS tile, such as ``"33UUP"``; empty where the item does not say."""
    properties = mapping(item.get("properties"))
    stated = [
        text(properties.get("s2:mgrs_tile")),
        text(properties.get("grid:code")).upper().removeprefix("MGRS-"),
        *(
            f"{number(properties.get(f'{prefix}:utm_zone')) or 0:.0f}"
            f"{text(properties.get(f'{prefix}:latitude_band'))}{text(properties.get(f'{prefix}:grid_square'))}"
            for prefix in ("mgrs", "sentinel")
        ),
    ]
    named = _product_name(item)
    if named is not None:
        stated.append(named["tile"])
    for name in stated:
        match = _TILE.fullmatch(name.upper().removeprefix("T"))
        if match is not None and 1 <= int(match[1]) <= 60:
            return f"{int(match[1]):02d}{match[2]}"
    return ""


def processing_baseline(item: Json) -> str | None:
    """Baseline such as ``"05.11"``: as stated, else as the product's name has it; None where neither does.

    Raises:
        UsageError: both do and they differ, so that neither can be believed.
    """
    properties = mapping(item.get("properties"))
    keys = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
    values = (text(properties.get(key)) for key in keys)
    stated = next((value for value in values if _BASELINE.fullmatch(value)), None)
    named = _product_name(item)
    name_has = None if named is None or named["major"] is None else f"{named['major']}.{named['minor']}"
    if stated is not None and name_has is not None and stated != name_has:
        raise UsageError(
            f"{item_name(item)} states the processing baseline {stated}, but its product's name "
            f"{named[0] if named is not None else ''!r} means {name_has}; the offset of its pixels depends "
            "on it. Mend its metadata."
        )
    return stated or name_has


def processed(item: Json) -> tuple[tuple[int, ...], float]:
    """Baseline and time of processing, to tell the newest of several copies of one acquisition."""
    properties = mapping(item.get("properties"))
    keys = ("s2:generation_time", "processing:datetime", "created")
    times = (moment_utc(properties.get(key)) for key in keys)
    newest = next((moment.timestamp() for moment in times if moment is not None), -math.inf)
    baseline = processing_baseline(item)
    return () if baseline is None else tuple(int(part) for part in baseline.split(".")), newest


def level(item: Json, provider: Provider) -> str:
    """``"L1C"`` or ``"L2A"``: as stated, else as the collection's name says.

    Raises:
        UsageError: neither says, or the item is of another satellite.
    """
    properties = mapping(item.get("properties"))
    constellation = text(properties.get("constellation")) or text(properties.get("platform"))
    if (
        is_remote(provider.endpoint)
        and constellation
        and not re.search(r"sentinel[-_ ]?2", constellation, re.I)
    ):
        raise UsageError(
            f"{item_name(item)} is of {constellation[:60]!r}, not of Sentinel-2. Choose another source."
        )
    collection = text(item.get("collection"))
    stated: tuple[str, ...] = (
        PRODUCT_LEVELS.get(text(properties.get("s2:product_type")), ""),
        PRODUCT_LEVELS.get(text(properties.get("product:type")), ""),
        text(properties.get("processing:level")).upper().replace("LEVEL-", "L"),
        *(level for level, identifier in provider.collections if identifier == collection),
        *re.findall(r"(?:^|[-_])(l1c|l2a)(?=$|[-_])", collection, re.I),
    )
    for value in stated:
        if value.upper() in LEVELS:
            return value.upper()
    raise UsageError(
        f"{item_name(item)} does not say whether it is {' or '.join(LEVELS)}. "
        'Give it "processing:level", or make its catalogue with landuse catalog --level.'
    )


def _product_name(item: Json) -> re.Match[str] | None:
    """ESA's name of the product, where the item gives it; one with a baseline before one without."""
    properties = mapping(item.get("properties"))
    names = (
        text(properties.get("s2:product_uri")),
        text(properties.get("sentinel:product_id")),
        text(item.get("id")),
    )
    matches = [match for match in map(_NAME.fullmatch, names) if match is not None]
    return next((match for match in matches if match["major"] is not None), next(iter(matches), None))
