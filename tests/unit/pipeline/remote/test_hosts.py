"""Which hosts are asked. The oracle is the log of a real server that must not be asked."""

import json
import socket

import pytest
from starlette.responses import RedirectResponse

from landuse.errors import ProviderError, ReadError
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.hosts import Hosts, is_public
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search.find_scenes import SceneQuery, search
from landuse.pipeline.search.stac_files import read_document, stac_io
from tests.servers import file_server, stac_item, write_items

HASTY = RetryPolicy(attempts=2, first_pause_s=0.01, deadline_s=5, connect_timeout_s=2, read_timeout_s=2)
ANYWHERE = SceneQuery(area=None)
REFUSED = "is at (127.0.0.1|::1), an address of this machine or of a private network.*--allow-private-hosts"


@pytest.fixture
def servers(tmp_path):
    """A server that the user names, by its address, and one that he does not, by ``localhost``."""
    for name in ("named", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tif").write_bytes(b"pixels")
    with file_server(tmp_path / "named") as named, file_server(tmp_path / "inner") as inner:
        inner.url = inner.url.replace("127.0.0.1", "localhost")
        yield named, inner


def first_bytes(href, provider, **options):
    with Remote(HASTY, **options) as remote, remote.opened(href, provider) as opened:
        read = opened.opener(opened.name).read(6)
        opened.raise_failure()
    return read


def resolving(monkeypatch, names):
    """Names resolve to these addresses, each time to the next of them."""

    def answers(host, port, *_, **__):
        found = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", answers)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
     "224.0.0.1", "::1", "::", "fe80::1%eth0", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
     "2002:7f00:1::"],
)  # fmt: skip
def test_an_address_that_is_not_of_the_public_internet_is_told(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_public_internet_is_told(address):
    assert is_public(address)


def test_a_catalogue_on_the_web_leads_to_its_own_host_and_not_to_a_private_one(servers, tmp_path):
    named, inner = servers
    for server in servers:
        (server.root / "item.json").write_text(json.dumps(stac_item("scene")))
    for name, href in (("own", "item.json"), ("away", f"{inner.url}/item.json")):
        links = [{"rel": "item", "href": href}]
        catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "links": links}
        (named.root / f"{name}.json").write_text(json.dumps(catalog))
    assert len(search(f"{named.url}/own.json", ANYWHERE, HASTY)) == 1
    with pytest.raises(ProviderError, match=REFUSED):
        search(f"{named.url}/away.json", ANYWHERE, HASTY)
    assert inner.log == []
    assert len(search(f"{named.url}/away.json", ANYWHERE, HASTY, any_host=True)) == 1
    # A catalogue on this machine is the user's own: what it links to he has named.
    (tmp_path / "local.json").write_text((named.root / "away.json").read_text())
    (scene,) = search(str(tmp_path / "local.json"), ANYWHERE, HASTY)
    assert scene.provider == inner.url
    assert scene.assets[0].href.startswith(inner.url)


def test_a_redirection_to_a_private_host_is_refused_in_a_search_and_in_a_read(servers):
    named, inner = servers
    (named.root / "item.json").write_text(json.dumps(stac_item("scene")))
    target = {"own": named.url, "away": inner.url}

    def redirect(request):
        place, _, name = request.path_params["path"].partition("/")
        return RedirectResponse(f"{target[place]}/{name}") if place in target else None

    named.interfere = redirect
    assert read_document(f"{named.url}/own/item.json", stac_io(HASTY, named.url))["id"] == "scene"
    assert first_bytes(f"{named.url}/own/x.tif", named.url) == b"pixels"
    with pytest.raises(ProviderError, match=REFUSED):
        read_document(f"{named.url}/away/item.json", stac_io(HASTY, named.url))
    with pytest.raises(ReadError, match=REFUSED):
        first_bytes(f"{named.url}/away/x.tif", named.url)
    assert inner.log == []
    assert first_bytes(f"{named.url}/away/x.tif", named.url, any_host=True) == b"pixels"


def test_pixels_of_an_item_from_the_web_are_not_read_from_a_private_host(servers, tmp_path):
    named, inner = servers
    item = stac_item("scene", bands=("B02",), href=f"{inner.url}/x.tif")
    path = write_items(named.root / "items.json", [item])
    (scene,) = search(f"{named.url}/items.json", ANYWHERE, HASTY)
    with pytest.raises(ReadError, match=REFUSED):
        first_bytes(scene.assets[0].href, scene.provider)
    with pytest.raises(ReadError, match=REFUSED):
        first_bytes(scene.assets[0].href, "planetary-computer")
    assert inner.log == []
    (scene,) = search(str(path), ANYWHERE, HASTY)
    assert first_bytes(scene.assets[0].href, scene.provider) == b"pixels"


def test_a_name_that_leads_elsewhere_when_it_is_asked_again_is_refused(monkeypatch):
    public, private = ["93.184.216.34"], ["127.0.0.1"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = socket.create_connection(listening.getsockname())
        resolving(monkeypatch, {"x.org": [public]})
        with pytest.raises(ReadError, match=REFUSED):
            Hosts(["https://x.org"]).connect("x.org", 80, lambda: made)
        assert made.fileno() == -1

    def told():
        return {entry[4][0] for entry in socket.getaddrinfo("x.org", 80)}

    # One that the user named is private from the beginning, or never; also where it is both at once.
    for names in ([public, private], [public + private]):
        resolving(monkeypatch, {"x.org": names})
        hosts = Hosts(["https://X.org./stac"])
        if names[0] == public:
            hosts.check("x.org", told())
        with pytest.raises(ReadError, match=REFUSED):
            hosts.check("x.org", told())
    Hosts(["https://x.org"]).check("x.org", set(private))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "a.localhost"])
def test_behind_a_proxy_an_address_that_is_written_out_is_refused(servers, monkeypatch, host):
    named, _ = servers
    monkeypatch.setenv("http_proxy", named.url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ProviderError, match=REFUSED):
        read_document(f"http://{host}/x.json", stac_io(HASTY, "https://example.org"))
    assert named.log == []
