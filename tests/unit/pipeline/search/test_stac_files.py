"""HTTP against real servers on loopback. Oracles: what was asked, by the server's own log, and RFC 9110."""

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from landuse.errors import ProviderError
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search.stac_files import read_document, stac_io
from tests.servers import file_server, free_port, json_body

AT_ONCE = RetryPolicy(first_pause_s=0.0)


def _io(policy):
    """Of a user who named this machine."""
    return stac_io(policy, "http://127.0.0.1")


WHOLE = {"type": "Catalog", "id": "x"}


@contextmanager
def _answering(folder, *answers):
    """A server that gives each answer once, then the whole document."""
    waiting = list(answers)

    def interfere(request):
        return waiting.pop(0) if waiting else JSONResponse(WHOLE)

    with file_server(folder) as server:
        server.interfere = interfere
        yield server


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(tmp_path, status):
    with _answering(tmp_path, *[PlainTextResponse("busy", status)] * 6) as server:
        assert read_document(server.url, _io(AT_ONCE)) == WHOLE
        assert [entry.status for entry in server.log] == [status] * 6 + [200]
    with (
        _answering(tmp_path, *[PlainTextResponse("busy", status)] * 7) as server,
        pytest.raises(ProviderError, match=rf"HTTP {status} .7 attempts") as caught,
    ):
        read_document(server.url, _io(AT_ONCE))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_a_refusal_is_final(tmp_path, status):
    with _answering(tmp_path, PlainTextResponse("no", status)) as server:
        with pytest.raises(ProviderError, match=f"HTTP {status}"):
            read_document(server.url, _io(AT_ONCE))
        assert len(server.log) == 1


def test_the_pause_that_a_server_asks_for_is_kept(tmp_path):
    with _answering(tmp_path, PlainTextResponse("busy", 429, headers={"Retry-After": "1"})) as server:
        began = time.monotonic()
        assert read_document(server.url, _io(AT_ONCE)) == WHOLE
        assert time.monotonic() - began >= 1


def test_a_pause_beyond_the_deadline_is_not_begun(tmp_path):
    with _answering(tmp_path, PlainTextResponse("busy", 503, headers={"Retry-After": "3600"})) as server:
        began = time.monotonic()
        with pytest.raises(ProviderError, match="the time of 5 s is used up"):
            read_document(server.url, _io(RetryPolicy(deadline_s=5)))
        assert time.monotonic() - began < 4


def test_the_deadline_is_of_all_requests_together(tmp_path):
    with _answering(tmp_path) as server:
        io = _io(RetryPolicy(deadline_s=0.4))
        read_document(server.url, io)
        time.sleep(0.5)
        with pytest.raises(ProviderError, match="used up"):
            read_document(server.url, io)
        assert len(server.log) == 1


@pytest.mark.parametrize(
    "body", ['{"type": "Catalog", "links": [{"rel": "ch', '{"type": ', "", '{"a": [1, 2']
)
def test_a_document_that_broke_off_is_asked_for_again(tmp_path, body):
    with _answering(tmp_path, Response(body, media_type="application/json")) as server:
        assert read_document(server.url, _io(AT_ONCE)) == WHOLE
        assert len(server.log) == 2


@pytest.mark.parametrize(
    "body", ["<html>", "no json", '{"a": 1} and more', '{"a": nothing}', "[1, 2]", "[" * 9999]
)
def test_a_document_that_is_something_else_is_not(tmp_path, body):
    with _answering(tmp_path, Response(body)) as server:
        with pytest.raises(ProviderError, match="cannot be read as STAC"):
            read_document(server.url, _io(AT_ONCE))
        assert len(server.log) == 1


@contextmanager
def _raw_server(*answers):
    """A socket that answers each connection with these bytes, then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            for answer in answers:
                connection, _ = listening.accept()
                with connection, suppress(ConnectionError):
                    connection.recv(65536)
                    for part in answer:
                        connection.sendall(part)
                        time.sleep(0.05 if len(answer) > 1 else 0)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join(timeout=10)


def _http(body, length):
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}".encode()


def test_a_connection_that_breaks_is_made_again():
    whole = json.dumps(WHOLE)
    with _raw_server([b""], [_http(whole[:9], len(whole))], [_http(whole, len(whole))]) as url:
        assert read_document(url, _io(AT_ONCE)) == WHOLE


def test_a_trickle_does_not_outlast_the_deadline():
    drops = [_http("[", 1000), *[b" "] * 40]  # each comes soon enough, all of them take two seconds
    with _raw_server(drops) as url:
        began = time.monotonic()
        with pytest.raises(ProviderError, match=r"the time of 0\.5 s is used up"):
            read_document(url, _io(RetryPolicy(deadline_s=0.5, first_pause_s=0)))
        assert time.monotonic() - began < 1.5


def test_a_host_that_refuses_is_soon_given_up():
    began = time.monotonic()
    url = f"http://127.0.0.1:{free_port()}/stac"
    with pytest.raises(ProviderError, match=rf"{url} did not answer: no connection .*3 attempts"):
        read_document(url, _io(RetryPolicy(first_pause_s=0.1)))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("token sig=SECRET expired", 403),
        PlainTextResponse("sig=SECRET", 200),
        JSONResponse({"code": "BadRequest", "description": "exceeded the maximum allowed time SECRET"}, 400),
        PlainTextResponse("SECRET", 503),
    ],
)
def test_no_answer_and_no_address_puts_a_secret_into_a_message(tmp_path, answer, caplog):
    caplog.set_level("DEBUG", logger="landuse")
    with _answering(tmp_path, *[answer] * 7) as server, pytest.raises(ProviderError) as caught:
        read_document(server.url.replace("http://", "http://me:SECRET@") + "/x?token=SECRET", _io(AT_ONCE))
    message = f"{caught.value} {caught.value.__cause__} {caplog.text}"
    assert "SECRET" not in message
    with pytest.raises(ProviderError) as caught:
        read_document(f"http://me:SECRET@127.0.0.1:{free_port()}/x?token=SECRET", _io(AT_ONCE))
    assert "SECRET" not in str(caught.value)


def test_an_answer_that_points_to_local_files_is_not_followed(tmp_path):
    (tmp_path / "secret.json").write_text(json.dumps(WHOLE))
    with (
        _answering(tmp_path, RedirectResponse((tmp_path / "secret.json").as_uri())) as server,
        pytest.raises(ProviderError, match="cannot be asked"),
    ):
        read_document(server.url, _io(AT_ONCE))


def _paged(server, pages):
    """Pages by number: ``pages`` gives features and the next link of each; POST bodies are noted."""
    asked = []

    def interfere(request):
        body = json_body(request) if request.method == "POST" else dict(request.query_params)
        asked.append((request.method, request.url.path, body))
        return JSONResponse(pages[len(asked) - 1])

    server.interfere = interfere
    return asked


def _page(name, **link):
    return {"features": [{"id": name}], "links": [{"rel": "next", **link}] if link else []}


def test_pages_are_followed_as_planetary_computer_and_earth_search_link_them(tmp_path):
    first = {"collections": ["s2"], "limit": 2}
    with file_server(tmp_path) as server:
        url = f"{server.url}/search"
        asked = _paged(
            server,
            [
                _page("a", href=url, method="POST", body={"token": "next:1"}, merge=True),
                _page("b", href=url, method="POST", body={**first, "next": "2"}, merge=False),
                _page("c", href="/search?page=3&limit=2"),
                _page("d"),
            ],
        )
        pages = list(_io(AT_ONCE).get_pages(url, "POST", first))
    assert [page["features"][0]["id"] for page in pages] == ["a", "b", "c", "d"]
    assert asked == [
        ("POST", "/search", first),
        ("POST", "/search", {**first, "token": "next:1"}),
        ("POST", "/search", {**first, "next": "2"}),
        ("GET", "/search", {"page": "3", "limit": "2"}),
    ]


def test_an_empty_page_is_the_last(tmp_path):
    with file_server(tmp_path) as server:
        asked = _paged(
            server,
            [_page("a", href="?page=2"), {"features": [], "links": [{"rel": "next", "href": "?page=3"}]}],
        )
        assert len(list(_io(AT_ONCE).get_pages(f"{server.url}/search"))) == 1
    assert len(asked) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_in_a_circle_end_with_an_error(tmp_path, method):
    def link(number):
        if method == "GET":
            return {"href": f"/search?page={number}"}
        return {"href": "/search", "method": "POST", "body": {"page": number}}

    with file_server(tmp_path) as server:
        asked = _paged(server, [_page("a", **link(1)), _page("b", **link(2)), _page("c", **link(1))] * 9)
        with pytest.raises(ProviderError, match="go in a circle"):
            list(_io(AT_ONCE).get_pages(f"{server.url}/search", method, {"limit": 1}))
    assert len(asked) == 3


@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://x.org/p", "/vsicurl/", "s3://b/x", "data:,x"]
)
def test_a_next_page_off_the_web_is_refused(tmp_path, href):
    (tmp_path / "page.json").write_text(json.dumps(_page("b")))
    with file_server(tmp_path) as server:
        asked = _paged(server, [_page("a", href=href), Response(status_code=404)])
        if href.startswith("/"):  # a path is one of that server's
            asked.clear()
            server.interfere = None
        with pytest.raises(ProviderError, match=r"refused|404"):
            list(_io(AT_ONCE).get_pages(f"{server.url}/search"))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD"])
def test_a_next_page_may_be_asked_for_with_get_and_post_only(tmp_path, method):
    with file_server(tmp_path) as server:
        asked = _paged(server, [_page("a", href="/search", method=method), _page("b")])
        with pytest.raises(ProviderError, match="cannot be asked"):
            list(_io(AT_ONCE).get_pages(f"{server.url}/search"))
        assert len(asked) == 1


@pytest.mark.parametrize(
    "page", [[], 5, {}, {"features": None}, {"features": {"a": 1}}, {"features": "abc"}, {"features": [5]}]
)
def test_a_page_that_is_none_is_an_error(tmp_path, page):
    with file_server(tmp_path) as server:
        _paged(server, [page])
        with pytest.raises(ProviderError, match="as a STAC API does"):
            list(_io(AT_ONCE).get_pages(f"{server.url}/search"))
