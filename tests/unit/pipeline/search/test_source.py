"""Oracles: the services' own documents, and the addresses as they are published."""

from dataclasses import replace

import pytest

from landuse.errors import UsageError
from landuse.pipeline.providers import (
    CDSE,
    EARTH_SEARCH,
    EARTH_SEARCH_C1,
    EARTH_SEARCH_L1C,
    PLANETARY_COMPUTER,
    PROVIDERS,
    Provider,
    S3Access,
)
from landuse.pipeline.search.source import described_by, find_provider
from landuse.sentinel2 import LEVELS
from tests.servers import stac_item

PC = "https://planetarycomputer.microsoft.com/api/stac/v1"
ES = "https://earth-search.aws.element84.com/v1"
CD = "https://stac.dataspace.copernicus.eu/v1"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("planetary-computer", "planetary-computer"),
        (PC, "planetary-computer"),
        (PC + "/", "planetary-computer"),
        (PC + "/collections/sentinel-2-l2a", "planetary-computer"),
        (ES, "earth-search"),
        (ES + "/collections/sentinel-2-l2a", "earth-search"),
        (ES + "/collections/sentinel-2-c1-l2a/", "earth-search-c1"),
        (ES + "/collections/sentinel-2-l1c", "earth-search-l1c"),
        ("earth-search-l1c", "earth-search-l1c"),
        (CD, "cdse"),
        (CD + "/collections/sentinel-2-l1c", "cdse-l1c"),
    ],
)
def test_a_name_and_the_address_behind_it_mean_the_same_provider(source, name):
    provider, location = find_provider(source)
    assert provider is PROVIDERS[name]
    assert location == provider.endpoint


def test_another_collection_of_a_known_service_is_searched_there_and_signed_as_its_own():
    provider, location = find_provider(PC + "/collections/sentinel-2-l3")
    assert (provider.name, provider.signing) == ("planetary-computer", "planetary-computer")
    assert (provider.collections, location) == ((), PC + "/collections/sentinel-2-l3")


@pytest.mark.parametrize(
    "source",
    ["https://stac.example.org/v1", "http://127.0.0.1:8000/collections/sentinel-2-l2a", PC + "/search?x=1"],
)
def test_any_other_address_is_described_by_its_items_alone(source):
    provider, location = find_provider(source)
    assert location == provider.endpoint == source
    assert (provider.collections, provider.signing, provider.radiometry, provider.s3) == (
        (),
        "none",
        "item",
        None,
    )
    assert "?" not in provider.name


def test_a_provider_record_a_path_and_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = replace(PLANETARY_COMPUTER, endpoint="http://127.0.0.1:1")
    assert find_provider(own) == (own, "http://127.0.0.1:1")
    (tmp_path / "items.json").write_text("{}")
    for given in (str(tmp_path / "items.json"), "./items.json"):
        provider, location = find_provider(given)
        assert (provider.name, location) == (given, str(tmp_path / "items.json"))
    (tmp_path / "odd\x1b[31m").write_text("{}")
    assert find_provider("odd\x1b[31m")[0].name == "odd?[31m"
    with pytest.raises(UsageError, match=r"neither a provider .*planetary-computer, earth-search, .*cdse"):
        find_provider("planetary-computre")
    with pytest.raises(UsageError, match="not http") as caught:
        find_provider("ftp://user:SECRET@x.org/stac?sig=SECRET")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "https://user:SECRET@ho\u2100st/v1",
        "https://user:SECRET@[::1/v1",
        "https://user:SEC/RET@host/v1",
        "https://user:SEC?RET@host/v1",
        "https://user:SEC#RET@host/v1",
        "https://user:SEC",
        "https:///SECRET",
        "ftp://user:SEC/RET@host",
    ],
)
def test_nothing_is_told_of_an_address_with_a_malformed_host(source):
    with pytest.raises(UsageError, match="--source is no URL: its host is malformed") as caught:
        find_provider(source)
    assert "SEC" not in f"{caught.value}{caught.value.__cause__}"
    assert "RET" not in str(caught.value)


@pytest.mark.parametrize("source", ["x" * 5000, "x/" * 3000, "a\x00b"])
def test_a_name_that_no_file_can_have_is_no_source(source):
    with pytest.raises(UsageError, match="neither a provider") as caught:
        find_provider(source)
    assert len(str(caught.value)) < 600


def test_known_providers_say_how_their_files_are_reached():
    for name, provider in PROVIDERS.items():
        assert provider.name == name
        assert provider.endpoint.startswith("https://")
        assert not provider.endpoint.endswith("/")
        assert set(provider.levels) <= set(LEVELS)
        assert 1 <= provider.page_items <= 250
    assert EARTH_SEARCH_L1C.s3 == S3Access(
        region="eu-central-1", requester_pays=True, buckets=("sentinel-s2-l1c",)
    )
    assert CDSE.s3 is not None
    assert CDSE.s3.variables == ("CDSE_S3_ACCESS_KEY", "CDSE_S3_SECRET_KEY")
    assert not CDSE.s3.requester_pays
    assert [provider.signing for provider in PROVIDERS.values() if provider.signing != "none"] == [
        "planetary-computer"
    ]


@pytest.mark.parametrize("known", [EARTH_SEARCH, EARTH_SEARCH_C1, EARTH_SEARCH_L1C, CDSE, PLANETARY_COMPUTER])
def test_saved_items_are_told_apart_by_service_and_collection(known):
    local = Provider(name="local", endpoint="")
    ((_, collection),) = known.collections
    item = stac_item("x", collection=collection)
    assert described_by(item, local) is local
    item["links"] = [{"rel": "self", "href": f"{known.endpoint}/collections/{collection}/items/x"}]
    assert described_by(item, local) is known
    assert described_by({**item, "collection": "landsat-c2-l2"}, local) is local
    # A host that only begins like the service's is another's.
    item["links"] = [
        {"rel": "self", "href": f"{known.endpoint}.example.org/collections/{collection}/items/x"}
    ]
    assert described_by(item, local) is local
    # What a known service was asked for is its own, whatever the items say.
    assert described_by(item, EARTH_SEARCH) is EARTH_SEARCH
