"""Signing: the oracles are Planetary Computer's own SDK and a token service and a storage on loopback."""

import contextlib
import json
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from landuse.errors import ProviderError, ReadError
from landuse.pipeline.providers import PLANETARY_COMPUTER, PROVIDERS
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.remote.signing import MAX_TOKEN_BYTES, NoSigner, PlanetaryComputerSigner, signer_of
from tests.faults import Storage, Tokens, serving, token_service
from tests.servers import file_server, free_port

# The SDK's models are written for pydantic 1, and whichever test imports them first is warned.
pytestmark = pytest.mark.filterwarnings("ignore:Support for class-based `config`")

PLACE = "sentinel2l2a01.blob.core.windows.net/sentinel2-l2"
HREF = f"https://{PLACE}/10/T/CK/B04.tif"
TOKEN = json.dumps({"msft:expiry": "2099-01-01T00:00:00Z", "token": "se=2099&sig=a%2Fb"})
HASTY = RetryPolicy(attempts=3, first_pause_s=0.01, deadline_s=20, connect_timeout_s=2, read_timeout_s=2)


@pytest.fixture
def service_at(monkeypatch):
    """Makes the SDK's settings point at a token service."""
    from planetary_computer.sas import TOKEN_CACHE
    from planetary_computer.settings import Settings

    def point(url, key=None):
        monkeypatch.setenv("PC_SDK_SAS_URL", url)
        # Empty, not absent: else the SDK would look for the settings file of whoever runs the tests.
        monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", key or "")
        Settings.get.cache_clear()
        TOKEN_CACHE.clear()

    yield point
    Settings.get.cache_clear()
    TOKEN_CACHE.clear()


@contextmanager
def answering(tmp_path, answer) -> Iterator[tuple[str, list]]:
    """A token service that answers as ``answer`` does; yields its URL and the requests it got."""
    asked = []

    def interfere(request):
        asked.append(request)
        return answer(request)

    with file_server(tmp_path) as server:
        server.interfere = interfere
        yield server.url, asked


def everything_about(error):
    """What any log could show of an error, its causes included."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    "href",
    [
        HREF,
        f"https://{PLACE}/a%20b/c.tif",
        "https://naipeuwest.blob.core.windows.net/naip/v002/x.tif",
        "http://abc.blob.core.windows.net/$web/index.html",
        # Somewhere else: as it is.
        "https://example.org/sentinel2-l2/B04.tif",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/B04.tif",
    ],
)
def test_hrefs_are_signed_as_the_sdk_signs_them(tmp_path, service_at, href):
    import planetary_computer

    token = {
        "msft:expiry": "2099-01-01T00:00:00Z",
        "token": "st=1&se=2099-01-01T00%3A00%3A00Z&sp=rl&sig=a%2Fb",
    }
    with answering(tmp_path, lambda request: Response(json.dumps(token))) as (url, asked):
        service_at(url)
        assert PlanetaryComputerSigner(HASTY).sign(href) == planetary_computer.sign(href)
    assert len({request.url.path for request in asked}) == len(asked) / 2


def test_a_query_of_the_href_itself_is_kept(service_at):
    tokens = Tokens()
    with token_service(tokens) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(HASTY)
        signed = signer.sign(HREF + "?snapshot=2024-01-01")
        assert signed.startswith(HREF + "?snapshot=2024-01-01&se=")
        assert tokens.valid(signed)
        assert signer.renew(signed, None)
        assert signer.sign(HREF) not in signed
        assert len(service.asked) == 2


def test_many_threads_ask_for_a_containers_token_once(service_at):
    tokens = Tokens()
    with token_service(tokens) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(HASTY)
        barrier = threading.Barrier(16)

        def sign(number):
            barrier.wait()
            return signer.sign(f"https://{PLACE if number % 2 else PLACE + '-other'}/{number}.tif")

        with ThreadPoolExecutor(16) as pool:
            signed = list(pool.map(sign, range(16)))
        assert all(tokens.valid(one) for one in signed)
        assert sorted(path for path, _ in service.asked) == [
            "/sentinel2l2a01/sentinel2-l2",
            "/sentinel2l2a01/sentinel2-l2-other",
        ]
        # The same container, however its host is spelt.
        signer.sign(HREF.replace("sentinel2l2a01.blob", "Sentinel2L2A01.Blob"))
        assert len(service.asked) == 2


def test_a_short_lived_token_is_replaced_before_it_ends(service_at):
    tokens = Tokens(lifetime_s=2)
    with token_service(tokens) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(HASTY)
        ends = time.monotonic() + 2.6
        while time.monotonic() < ends:
            assert tokens.valid(signer.sign(HREF))
            time.sleep(0.02)
        # Each is used for half of its life: neither for every request a new one, nor one to the end.
        assert 2 <= len(service.asked) <= 4


def test_a_token_that_lives_longer_than_a_read_is_kept(service_at):
    with token_service(Tokens(lifetime_s=3600)) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(HASTY)
        assert len({signer.sign(HREF) for _ in range(50)}) == len(service.asked) == 1


def test_only_the_first_to_meet_a_revoked_token_drops_it(service_at):
    tokens = Tokens()
    with token_service(tokens) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(HASTY)
        old = signer.sign(HREF)
        tokens.revoke()
        assert not tokens.valid(signer.sign(HREF))
        assert signer.renew(old, None)
        new = signer.sign(HREF)
        assert tokens.valid(new)
        # The others that were refused with the old one come later; the new one stays.
        barrier = threading.Barrier(8)

        def renewed(_):
            barrier.wait()
            return signer.renew(old, None), signer.sign(HREF)

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(renewed, range(8))) == {(True, new)}
        assert len(service.asked) == 2
    assert not signer.renew("https://example.org/B04.tif?sig=x", None)


def test_a_token_that_was_fetched_after_the_last_refusal_is_not_to_blame(service_at):
    tokens = Tokens()
    with token_service(tokens) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(HASTY)
        old = signer.sign(HREF)
        # Another file was refused with the same token, which is older than that.
        assert signer.renew(old, time.monotonic())
        refused = time.monotonic()
        new = signer.sign(HREF)
        assert not signer.renew(new, refused)
        assert signer.sign(HREF) == new
        assert signer.renew(old, refused)  # another thread has seen to that one
        assert len(service.asked) == 2


def test_a_busy_service_is_asked_again(service_at):
    with token_service(Tokens(busy=2)) as service:
        service_at(service.url)
        assert PlanetaryComputerSigner(HASTY).sign(HREF) != HREF
        assert len(service.asked) == 3


def test_a_service_that_is_down_is_waited_for_once_by_all(service_at):
    patient = RetryPolicy(attempts=3, first_pause_s=0.4, deadline_s=20, rest_s=0.5)
    tokens = Tokens(busy=1000)
    with token_service(tokens) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(patient)
        barrier = threading.Barrier(8)

        def refusal(_):
            barrier.wait()
            with pytest.raises(ProviderError, match=r"answered 503 \(3 attempts") as caught:
                signer.sign(HREF)
            return str(caught.value)

        with ThreadPoolExecutor(8) as pool:
            refusals = list(pool.map(refusal, range(8)))
        assert sum("left alone for 0.5 s" in one for one in refusals) == 7
        assert len(service.asked) == 3
        # For a while nobody asks again, then one request does, once.
        time.sleep(0.6)
        for said in (r"answered 503 \(1 attempts", "left alone for 1 s"):
            with pytest.raises(ProviderError, match=said):
                signer.sign(HREF)
        assert len(service.asked) == 4
        # It is not held against a service that is back.
        tokens.busy = 0
        time.sleep(1.1)
        assert tokens.valid(signer.sign(HREF))
        assert len(service.asked) == 5


def test_a_refusal_of_one_container_is_kept_and_no_other_suffers(tmp_path, service_at):
    def answer(request):
        return PlainTextResponse("", 404) if request.url.path.endswith("private") else Response(TOKEN)

    with answering(tmp_path, answer) as (url, asked):
        service_at(url)
        signer = PlanetaryComputerSigner(HASTY)
        for _ in range(5):
            with pytest.raises(ProviderError, match="the answer was 404"):
                signer.sign(f"https://{PLACE}-private/B04.tif")
        assert len(asked) == 1
        assert signer.sign(HREF) != HREF


@pytest.mark.parametrize("stop", [False, True])
def test_a_trickling_token_outlasts_neither_its_time_nor_the_run(service_at, stop):
    class Trickle(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "32768")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    self.wfile.write(b"x")
                    time.sleep(0.1)

        def log_message(self, format, *args):
            pass

    stopped = threading.Event()
    policy = RetryPolicy(
        attempts=2, first_pause_s=0.1, deadline_s=60 if stop else 1, connect_timeout_s=1, read_timeout_s=1
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Trickle) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            service_at(f"http://127.0.0.1:{server.server_port}")
            if stop:
                threading.Timer(0.5, stopped.set).start()
            began = time.monotonic()
            with pytest.raises(ProviderError, match="did not come in time"):
                PlanetaryComputerSigner(policy, stopped).sign(HREF)
            assert time.monotonic() - began < 3
        finally:
            server.shutdown()
            thread.join()


def test_an_answer_that_is_far_too_long_is_no_token(tmp_path, service_at):
    with answering(tmp_path, lambda request: Response(TOKEN + " " * MAX_TOKEN_BYTES)) as (url, asked):
        service_at(url)
        with pytest.raises(ProviderError, match="more than 65536 bytes"):
            PlanetaryComputerSigner(HASTY).sign(HREF)
    assert len(asked) == HASTY.attempts


@pytest.mark.parametrize(
    ("service", "signed"),
    [
        ("http://127.0.0.1:9", True),
        ("http://[::1]:9", True),
        ("http://localhost", True),
        ("http://127.9.9.9/sas/v1/token", True),
        ("http://tokens.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("http://10.0.0.1", False),
        ("https://127.0.0.1", False),
        ("https://planetarycomputer.microsoft.com/api/sas/v1/token", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_a_token_goes_over_plain_http_only_to_what_is_played_on_this_machine(monkeypatch, service, signed):
    """No proxy and nobody on the way may read it. Whether a token is asked for tells whether one is sent."""
    monkeypatch.setenv("PC_SDK_SAS_URL", service)
    asked = []

    class Asked(PlanetaryComputerSigner):
        def _token(self, container):
            asked.append(container)
            raise ProviderError("asked")

    signer = Asked(HASTY)
    with contextlib.suppress(ProviderError):
        assert signer.sign(HREF.replace("https", "http")) == HREF.replace("https", "http")
    assert asked == ["sentinel2l2a01/sentinel2-l2"] * signed
    # By https it always is.
    with pytest.raises(ProviderError, match="asked"):
        signer.sign(HREF.replace("https", "HTTPS"))


def test_waiting_for_a_token_ends_when_the_run_is_stopped(service_at):
    stopped = threading.Event()
    with token_service(Tokens(busy=1000)) as service:
        service_at(service.url)
        signer = signer_of(PLANETARY_COMPUTER, RetryPolicy(first_pause_s=60, longest_pause_s=60), stopped)
        threading.Timer(0.2, stopped.set).start()
        began = time.monotonic()
        with pytest.raises(ProviderError, match="being stopped"):
            signer.sign(HREF)
        assert time.monotonic() - began < 10


SECRETS = ("t0ken", "k3y")


@pytest.mark.parametrize(
    ("answer", "said", "requests"),
    [
        (PlainTextResponse("no t0ken", 404), "the answer was 404", 1),
        (PlainTextResponse("k3y t0ken", 403), "the answer was 403", 1),
        (PlainTextResponse("<html>t0ken</html>"), "something else than a token", 3),
        (Response(b'{"token": "sig=t0ken\xff'), "something else than a token", 3),
        (Response('{"token": "sig=t0ken"}'), "something else than a token", 3),
        (Response('["sig=t0ken"]'), "something else than a token", 3),
        (Response('{"msft:expiry": "2099-01-01T00:00:00Z"}'), "something else than a token", 3),
        (Response('{"msft:expiry": "2099-01-01T00:00:00Z", "token": ""}'), "something else than a token", 3),
        (
            Response('{"msft:expiry": "2099-01-01T00:00:00Z", "token": ["sig=t0ken"]}'),
            "something else than a token",
            3,
        ),
        (Response('{"msft:expiry": "t0ken", "token": "sig=t0ken"}'), "something else than a token", 3),
        # Of what zone nobody knows.
        (
            Response('{"msft:expiry": "2099-01-01T00:00:00", "token": "sig=t0ken"}'),
            "something else than a token",
            3,
        ),
    ],
)
def test_no_token_is_an_error_that_tells_no_secret(tmp_path, service_at, caplog, answer, said, requests):
    with answering(tmp_path, lambda request: answer) as (url, asked):
        service_at(url, "k3y")
        with caplog.at_level("INFO"), pytest.raises(ProviderError, match=said) as caught:
            PlanetaryComputerSigner(HASTY).sign(f"{HREF}?mine={SECRETS[0]}")
    assert len(asked) == requests
    assert "PC_SDK_SUBSCRIPTION_KEY" in str(caught.value)
    assert "sentinel2l2a01/sentinel2-l2" in str(caught.value)
    for text in (everything_about(caught.value), caplog.text):
        assert not any(secret in text for secret in SECRETS)


@pytest.mark.parametrize("key", ["k3y\n", "kéy k3y ☃"])
def test_a_key_that_no_header_can_hold_is_not_shown(tmp_path, service_at, key):
    with answering(tmp_path, lambda request: PlainTextResponse("", 404)) as (url, asked):
        service_at(url, key)
        with pytest.raises(ProviderError, match="the request is not possible") as caught:
            PlanetaryComputerSigner(HASTY).sign(HREF)
    assert asked == []
    assert "k3y" not in everything_about(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "https://", "ftp://127.0.0.1/token"])
def test_settings_that_are_no_url_are_an_error_of_ours(service_at, url):
    service_at(url)
    with pytest.raises(ProviderError, match="check PC_SDK_SAS_URL"):
        PlanetaryComputerSigner(HASTY).sign(HREF)


def test_a_service_that_is_not_there_is_an_error_of_ours(service_at):
    service_at(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ProviderError, match="token service failed"):
        PlanetaryComputerSigner(HASTY).sign(HREF)


def test_the_subscription_key_goes_to_the_service_only(tmp_path, service_at, monkeypatch):
    tokens = Tokens()
    seen = []

    class Store(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, str(self.headers)))
            body = b"the bytes"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    with token_service(tokens) as service, ThreadingHTTPServer(("127.0.0.1", 0), Store) as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.05,))
        thread.start()
        service_at(service.url, "k3y")
        # As a proxy the store gets what is meant for Azure, without its certificates.
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{store.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        try:
            with Remote(HASTY) as remote:
                href = HREF.replace("https", "http")
                with remote.opened(href, PLANETARY_COMPUTER.name) as opened:
                    assert opened.opener(opened.name).read(9) == b"the bytes"
        finally:
            store.shutdown()
            thread.join()
    assert service.asked == [("/sentinel2l2a01/sentinel2-l2", "k3y")]
    ((path, headers),) = seen
    assert tokens.valid(path)
    assert "k3y" not in path + headers
    assert "ocp-apim" not in headers.lower()


def test_the_subscription_key_does_not_follow_a_redirection(tmp_path, service_at):
    with (
        answering(tmp_path, lambda request: PlainTextResponse("", 404)) as (elsewhere, strayed),
        answering(tmp_path, lambda request: RedirectResponse(elsewhere + "/steal")) as (url, asked),
    ):
        service_at(url, "k3y")
        with pytest.raises(ProviderError, match="the answer was 307"):
            PlanetaryComputerSigner(HASTY).sign(HREF)
    assert asked[0].headers["Ocp-Apim-Subscription-Key"] == "k3y"
    assert strayed == []


@pytest.mark.parametrize(
    "href",
    [
        # The host is another one.
        "https://evil@sentinel2l2a01.blob.core.windows.net.evil.org/sentinel2-l2/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net@evil.org/sentinel2-l2/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net:x@evil.org/sentinel2-l2/B04.tif",
        "https://evilblob.core.windows.net/sentinel2-l2/B04.tif",
        "https://.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https://evil.org/sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https://evil.org?//sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https://evil.org#@sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        # urllib.parse and requests disagree on which it is.
        r"https://evil.org\@sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        r"https://evil.org\.sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https://evil.org\t@sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https:///sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https:sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https://user:pass@sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net:8443/sentinel2-l2/B04.tif",
        "https://a.b.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https://\u017fentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "https://sentinel2l2a01.blob.core.window\u017f.net/sentinel2-l2/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net\u3002evil.org/sentinel2-l2/B04.tif",
        "https://[::1/sentinel2-l2/B04.tif",
        # The container is none, and would be a part of the service's URL.
        "https://sentinel2l2a01.blob.core.windows.net/../B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/../../admin/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/%2e%2e/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/..%2fadmin/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net//sentinel2-l2/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/a?b/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2\n/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/s\u00e9ntinel/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/\u0661\u0662\u0663/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2",
        "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/",
        # No place for a query.
        "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif#x",
        "s3://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "ftp://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif",
        "",
    ],
)
def test_what_is_no_blob_for_certain_is_neither_signed_nor_asked_about(service_at, href):
    tokens = Tokens()
    with token_service(tokens) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(HASTY)
        assert signer.sign(href) == href
        assert not signer.renew(href, None)
        assert service.asked == []


def test_only_planetary_computers_hrefs_are_signed(service_at):
    with token_service(Tokens()) as service:
        service_at(service.url)
        for provider in PROVIDERS.values():
            signed = signer_of(provider, HASTY).sign(HREF) != HREF
            assert signed == (provider.name == "planetary-computer")
        assert not NoSigner().renew(HREF, None)
        assert len(service.asked) == 1


def test_a_signer_does_not_show_its_tokens(service_at):
    with token_service(Tokens()) as service:
        service_at(service.url)
        signer = PlanetaryComputerSigner(HASTY)
        secret = signer.sign(HREF).partition("sig=")[2]
        assert secret not in repr(vars(signer))


@pytest.mark.parametrize("faults", [{"lifetime_s": 2.0}, {"revoked": True}, {"busy": 1}])
def test_a_file_is_read_whole_while_its_tokens_end(tmp_path, service_at, monkeypatch, faults):
    """The storage refuses every request without a valid token: the bytes are the proof."""
    revoked = faults.pop("revoked", False)
    tokens = Tokens(**faults)
    content = bytes(range(256)) * 2000
    (tmp_path / "B04.tif").write_bytes(content)
    storage = Storage(root=tmp_path, prefix="/sentinel2-l2/", tokens=tokens)
    if revoked:
        storage.interfere = lambda store: tokens.revoke() if len(store.asked) % 3 == 1 else None
    with serving(storage), token_service(tokens) as service:
        service_at(service.url)
        monkeypatch.setenv("http_proxy", storage.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with (
            Remote(HASTY) as remote,
            remote.opened(f"http://{PLACE}/B04.tif", "planetary-computer") as opened,
        ):
            file = opened.opener(opened.name)
            got = b""
            while part := file.read(65_536):
                got += part
                if tokens.lifetime_s < 60:
                    time.sleep(0.4)
            opened.raise_failure()
        assert got == content
        assert len(service.asked) > 1
    assert any(one.status == 403 for one in storage.asked) == revoked
    assert all(one.status in (206, 403) for one in storage.asked)


def test_a_file_that_is_always_refused_costs_its_neighbours_nothing(tmp_path, service_at, monkeypatch):
    """The storage refuses one name whatever its token: that file is lost, at once and for good."""

    class Private(Tokens):
        def valid(self, url):
            return "private" not in url and super().valid(url)

    tokens = Private()
    content = bytes(range(256)) * 2000
    for name in ("private.tif", "B04.tif"):
        (tmp_path / name).write_bytes(content)
    storage = Storage(root=tmp_path, prefix="/sentinel2-l2/", tokens=tokens)
    policy = RetryPolicy(attempts=5, first_pause_s=0.01, deadline_s=20)
    with serving(storage), token_service(tokens) as service:
        service_at(service.url)
        monkeypatch.setenv("http_proxy", storage.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with Remote(policy) as remote:

            def read(name):
                with remote.opened(f"http://{PLACE}/{name}.tif", "planetary-computer") as opened:
                    found = opened.opener(opened.name).read(len(content))
                    opened.raise_failure()
                return found

            assert read("B04")[:9] == content[:9]
            for _ in range(4):
                with pytest.raises(ReadError, match=r"^the server answered 403 \(access denied\)$"):
                    read("private")
            assert [one.status for one in storage.asked if "private" in one.url] == [403, 403]
            assert remote.known_lost(f"http://{PLACE}/private.tif", "planetary-computer") is not None
            # The second token is still there, and the host is not down: it may be busy for once.
            storage.busy_every = len(storage.asked) + 1
            (tmp_path / "B08.tif").write_bytes(content)
            assert read("B08") == content
            assert len(service.asked) == 2
