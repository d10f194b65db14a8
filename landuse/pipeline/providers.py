"""The providers: where each serves what, what it calls things, and how its files are reached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from landuse.sentinel2 import BANDS, SCL

PAGE_ITEMS = 100
"""Items asked for in one page.

Every known provider serves that many within its limits: Planetary Computer and CDSE allow 1000 but take
long over large pages, and Earth Search must answer within 6 MB, some 250 items.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """How the objects behind ``s3://`` hrefs are reached."""

    endpoint_url: str | None = None
    """The service; None is AWS."""
    region: str | None = None
    """Region of the buckets; None leaves it to the user's AWS configuration."""
    requester_pays: bool = False
    """Whether the user's account pays for the transfer, which S3 wants to be told."""
    credentials: str = "aws"
    """Where the keys come from: ``"aws"`` is the usual chain of AWS (environment, profile, role); any other
    word is the beginning of two environment variables, as ``CDSE_S3`` is of ``CDSE_S3_ACCESS_KEY`` and
    ``CDSE_S3_SECRET_KEY``, so that no AWS keys are ever shown to another service."""
    buckets: tuple[str, ...] = ()
    """The only buckets whose items are believed: nobody pays for, or shows keys to, what a forged item
    names. Empty allows any."""

    @property
    def variables(self) -> tuple[str, str]:
        """Environment variables of the key and of its secret, where they are not the usual ones of AWS."""
        return f"{self.credentials}_ACCESS_KEY", f"{self.credentials}_SECRET_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One source of STAC items and what it calls things."""

    name: str
    """How the user and the report name it."""
    endpoint: str
    """Root of the STAC API or URL of a static catalogue; empty for local metadata."""
    collections: tuple[tuple[str, str], ...] = ()
    """(level, collection id) of what it serves; empty searches every collection."""
    asset_keys: tuple[tuple[str, str], ...] = ()
    """(band, asset key); empty finds bands by their names in the item."""
    radiometry: Literal["baseline", "item", "checked"] = "item"
    """Scale and offset by ESA's rule for the baseline; as the item states them; or as the item states
    them, refused where they contradict that rule and no flag explains it."""
    signing: Literal["none", "planetary-computer"] = "none"
    """What makes an http href readable."""
    s3: S3Access | None = None
    """What makes an s3 href readable; None where the provider has none."""
    page_items: int = PAGE_ITEMS
    """Items asked for in one page of a search."""

    @property
    def levels(self) -> tuple[str, ...]:
        """Processing levels it is known to serve."""
        return tuple(dict.fromkeys(level for level, _ in self.collections))


PLANETARY_COMPUTER = Provider(
    name="planetary-computer",
    endpoint="https://planetarycomputer.microsoft.com/api/stac/v1",
    collections=(("L2A", "sentinel-2-l2a"),),
    asset_keys=tuple((band, band) for band in (*BANDS, SCL) if band != "B10"),
    # Its items state no offset.
    radiometry="baseline",
    signing="planetary-computer",
)

EARTH_SEARCH = Provider(
    name="earth-search",
    endpoint="https://earth-search.aws.element84.com/v1",
    collections=(("L2A", "sentinel-2-l2a"),),
    radiometry="checked",
)

EARTH_SEARCH_C1 = replace(EARTH_SEARCH, name="earth-search-c1", collections=(("L2A", "sentinel-2-c1-l2a"),))
"""Sentinel-2's Collection 1, in which old acquisitions are reprocessed with one baseline."""

EARTH_SEARCH_L1C = replace(
    EARTH_SEARCH,
    name="earth-search-l1c",
    collections=(("L1C", "sentinel-2-l1c"),),
    s3=S3Access(region="eu-central-1", requester_pays=True, buckets=("sentinel-s2-l1c",)),
)

CDSE = Provider(
    name="cdse",
    endpoint="https://stac.dataspace.copernicus.eu/v1",
    collections=(("L2A", "sentinel-2-l2a"),),
    radiometry="checked",
    s3=S3Access(
        endpoint_url="https://eodata.dataspace.copernicus.eu",
        region="default",
        credentials="CDSE_S3",
        buckets=("eodata",),
    ),
)

CDSE_L1C = replace(CDSE, name="cdse-l1c", collections=(("L1C", "sentinel-2-l1c"),))

PROVIDERS = {
    provider.name: provider
    for provider in (PLANETARY_COMPUTER, EARTH_SEARCH, EARTH_SEARCH_C1, EARTH_SEARCH_L1C, CDSE, CDSE_L1C)
}
"""Providers the user can name."""
