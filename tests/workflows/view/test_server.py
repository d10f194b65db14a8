"""The server on the loopback. Oracles: the file's bytes, Python's http.client and raw sockets, RFC 9110."""

import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landuse.errors import LanduseError, OutputError, UsageError
from landuse.workflows.view.server import LOOPBACK, ByteRange, Site, byte_range, listening

CONTENT = bytes(range(256)) * 4000  # more than one piece
PATH = "/data/0/landuse.tif"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    file = folder / "landuse.tif"
    file.write_bytes(CONTENT)
    (folder / "secret.txt").write_text("secret", "utf-8")
    site = Site(page="<!doctype html>é", policy="default-src 'none'", files={PATH: file})
    with listening(lambda: site) as serving:
        thread = threading.Thread(target=serving.run)
        thread.start()
        yield int(serving.address.rsplit(":", 1)[1].strip("/")), file
        serving.stop()
        thread.join(timeout=10)
        assert not thread.is_alive()


def ask(served, path=PATH, method="GET", **headers):
    """Status, headers and content."""
    with closing(http.client.HTTPConnection(LOOPBACK, served[0], timeout=10)) as connection:
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_ranges_are_those_of_the_file(served):
    size = len(CONTENT)
    for asked, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=10-299999", 10, 300_000),
        ("bytes=1000-", 1000, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=-{size + 5}", 0, size),
        (f"bytes=5-{10**18}", 5, size),
    ):
        status, headers, content = ask(served, Range=asked)
        assert (status, content) == (206, CONTENT[start:stop]), asked
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        assert headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("asked", [f"bytes={len(CONTENT)}-", "bytes=-0", f"bytes={10**18}-{10**18 + 1}"])
def test_a_range_past_the_end_is_refused(served, asked):
    status, headers, _ = ask(served, Range=asked)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")


@pytest.mark.parametrize("asked", ["bytes=9-3", "lines=1-2", "bytes=1-2,5-6", "bytes=-", "bytes=a-b", ""])
def test_what_is_no_single_range_gets_the_whole_file(served, asked):
    status, headers, content = ask(served, Range=asked)
    assert (status, content) == (200, CONTENT)
    assert headers["Accept-Ranges"] == "bytes"


@given(st.binary(min_size=1, max_size=60), st.integers(0, 70), st.integers(0, 70), st.sampled_from("abc"))
def test_ranges_agree_with_python_slices(content, first, second, form):
    header = {"a": f"bytes={first}-{second}", "b": f"bytes={first}-", "c": f"bytes=-{second}"}[form]
    expected = {"a": content[first : second + 1], "b": content[first:], "c": content[-second:]}[form]
    try:
        part = byte_range(header, len(content))
    except ValueError:
        assert expected == b"" or (form == "c" and second == 0)
    else:
        if part is None:
            assert form == "a"
            assert second < first
        else:
            assert content[part.start : part.stop] == expected
            assert isinstance(part, ByteRange)


def test_a_file_that_changed_is_told_by_its_etag(served):
    etag = ask(served, method="HEAD")[1]["ETag"]
    assert ask(served, If_None_Match=etag)[::2] == (304, b"")
    assert ask(served, Range="bytes=0-3", If_Match=etag)[::2] == (206, CONTENT[:4])
    assert ask(served, Range="bytes=0-3", If_Match='"other"')[0] == 412
    assert ask(served, Range="bytes=0-3", If_Range='"other"')[::2] == (200, CONTENT)
    other = served[1].with_name("new.tif")
    other.write_bytes(CONTENT)
    other.replace(served[1])  # as a map that is made again comes into place
    assert ask(served, Range="bytes=0-3", If_Match=etag)[0] == 412


def test_head_sends_no_content(served):
    status, headers, content = ask(served, method="HEAD")
    assert (status, headers["Content-Length"], content) == (200, str(len(CONTENT)), b"")


@pytest.mark.parametrize(
    "path",
    [
        "/data/0/secret.txt",
        "/data/0/../0/secret.txt",
        "/data/0/%2e%2e/secret.txt",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/data/0/landuse.tif/",
        "/data/0/landuse.tif%00",
        "/data/1/landuse.tif",
        "/data/0/./landuse.tif",
        "http://evil.example/data/0/landuse.tif",
        "*",
    ],
)
def test_nothing_but_the_given_files_is_reachable(served, path):
    status, _, content = ask(served, path)
    assert status in (404, 421)  # a whole URL names another host
    assert b"secret" not in content


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", "", "[::1]:{port}"],
)
def test_another_host_is_refused(served, host):
    status, _, content = ask(served, Host=host.format(port=served[0]))
    assert status == 421
    assert CONTENT[:200] not in content


def test_names_of_the_loopback_are_answered_and_two_hosts_are_not(served):
    port = served[0]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"LOCALHOST:{port}"):
        assert ask(served, "/", Host=host)[0] == 200
    twice = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n"
    for text in (twice, "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"):
        with socket.create_connection((LOOPBACK, port), timeout=10) as plain:
            plain.sendall(text.encode())
            assert b" 421 " in plain.recv(100)


def test_a_page_of_another_site_gets_no_leave(served):
    _, headers, _ = ask(served, Origin="https://evil.example")
    assert not [name for name in headers if name.lower().startswith("access-control")]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert ask(served, method="OPTIONS", Origin="https://evil.example")[0] == 501
    assert ask(served, method="POST")[0] == 501


def test_the_page_comes_with_its_policy(served):
    status, headers, content = ask(served, "/")
    assert (status, content.decode()) == (200, "<!doctype html>é")
    assert headers["Content-Security-Policy"] == "default-src 'none'"
    assert headers["Cache-Control"] == "no-store"


def test_a_request_with_a_body_cannot_hide_another(served):
    hidden = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served[0]}\r\n\r\n"
    text = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served[0]}\r\nContent-Length: {len(hidden)}\r\n\r\n{hidden}"
    with socket.create_connection((LOOPBACK, served[0]), timeout=10) as plain:
        plain.sendall(text.encode())
        got = b""
        while piece := plain.recv(4096):
            got += piece
    assert got.count(b"HTTP/1.1 ") == 1
    assert got.startswith(b"HTTP/1.1 400 ")


def test_many_requests_at_once_get_their_own_bytes(served):
    places = [(index * 7919) % (len(CONTENT) - 5000) for index in range(400)]

    def read(place):
        return ask(served, Range=f"bytes={place}-{place + 4999}")[2]

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(read, places)) == [CONTENT[place : place + 5000] for place in places]


def test_who_leaves_early_hurts_nobody(served, capfd):
    for _ in range(5):
        with socket.create_connection((LOOPBACK, served[0]), timeout=10) as plain:
            plain.sendall(f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{served[0]}\r\n\r\n".encode())
            plain.recv(10)
    assert ask(served)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_just_after_a_connection_began_lets_it_end_quietly(monkeypatch, capfd):
    begin, answering = threading.Thread.start, []

    def begun_and_interrupted(thread):
        begin(thread)
        answering.append(thread)
        raise KeyboardInterrupt

    with listening(lambda: Site(page="", policy="", files={})) as serving:
        port = int(serving.address.rsplit(":", 1)[1].strip("/"))
        with socket.create_connection((LOOPBACK, port), timeout=10) as plain:
            monkeypatch.setattr(threading.Thread, "start", begun_and_interrupted)
            with pytest.raises(KeyboardInterrupt):
                serving.run()
            monkeypatch.undo()
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answering[0].join(timeout=10)
    assert not answering[0].is_alive()
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_went_away_is_told():
    def gone():
        raise LanduseError("the folder is gone")

    with listening(gone) as serving:
        thread = threading.Thread(target=serving.run)
        thread.start()
        port = int(serving.address.rsplit(":", 1)[1].strip("/"))
        assert ask((port, None), "/")[::2] == (500, b"the folder is gone\n")
        serving.stop()
        thread.join(timeout=10)


def test_ports_that_cannot_be_had_are_told():
    with pytest.raises(UsageError, match="--port 70000 is no port"), listening(lambda: None, 70_000):
        pass
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"Port {port} of 127.0.0.1"), listening(lambda: None, port):
            pass
