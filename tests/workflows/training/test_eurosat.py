"""Downloading and unpacking EuroSAT, against a real server of this process and archives made up here.

Oracles: the bytes served and the server's own log of what it was asked, hashlib, the standard library's
zipfile, click's list of options, and the lists of the paper's split that come with the real test data.
"""

import hashlib
import io
import json
import logging
import random
import resource
import shutil
import signal
import stat
import struct
import subprocess
import threading
import time
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer

from landuse.cli import app
from landuse.errors import OutputError, ProviderError, UsageError
from landuse.model.training.datasets import list_patches, read_split
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.workflows.training import eurosat
from landuse.workflows.training.eurosat import (
    ARCHIVES,
    EurosatRequest,
    Source,
    get_eurosat,
    paper_split,
)
from landuse.workflows.training.train import split_files
from tests.commands import LANDUSE, spawn

QUICK = RetryPolicy(
    attempts=3, first_pause_s=0.01, longest_pause_s=0.05, connect_timeout_s=30, read_timeout_s=30
)
ONCE = replace(QUICK, attempts=1)
COUNTS = {
    "AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500,
    "Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000,
}  # fmt: skip


@dataclass
class Asked:
    """One request and its answer, as the server saw them."""

    path: str
    status: int
    sent: int = 0
    at: float = field(default_factory=time.monotonic)


@dataclass
class Served:
    """What lies at the URL, how it is served, and what happened."""

    content: bytes
    url: str = ""
    announce_length: bool = True
    faults: list[tuple] = field(default_factory=list)
    """One is used up by each request: ("status", code, headers), ("cut", bytes), ("stall", bytes)."""
    log: list[Asked] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(content):
    """Serve ``content`` at every path."""
    served = Served(content)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            fault = served.faults.pop(0) if served.faults else ("none",)
            asked = Asked(self.path, 200)
            served.log.append(asked)
            if fault[0] == "status":
                asked.status = fault[1]
                self.send_response(fault[1])
                for name, value in fault[2].items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = len(served.content)
            self.send_response(200)
            if served.announce_length:
                self.send_header("Content-Length", str(size))
            self.end_headers()
            asked.sent = min(size, fault[1]) if fault[0] in ("cut", "stall") else size
            with suppress(ConnectionError):  # who has seen enough may go
                self.wfile.write(served.content[: asked.sent])
            if fault[0] == "stall":
                served.release.wait(120)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/mirror/EuroSAT_RGB.zip"
    try:
        yield served
    finally:
        served.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def patches_of(suffix=".jpg", size=20_000):
    rng = random.Random(7)
    return {
        f"{name}/{name}_{number}{suffix}": rng.randbytes(size)
        for name in ("Forest", "River")
        for number in range(1, 11)
    }


def zipped(members, top="EuroSAT_RGB/", compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{top}{name}", content)
    return buffer.getvalue()


def md5(content):
    return hashlib.md5(content).hexdigest()


PATCHES = patches_of()
ARCHIVE = zipped(PATCHES)  # 400 kB


@pytest.fixture
def server():
    with serving(ARCHIVE) as served:
        yield served


def get(served, out, patience=QUICK, on_progress=None, **changes):
    values = {"bands": "rgb", "out": out, "url": served.url, "md5": md5(served.content), **changes}
    return get_eurosat(EurosatRequest(**values), on_progress, patience)


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.*")
        if path.is_file()
    }


def assert_whole(data, out):
    found = files_below(out)
    assert json.loads(found.pop("EuroSAT_RGB/source.json"))["md5"] == data.source.md5
    assert found == {f"EuroSAT_RGB/{name}": content for name, content in PATCHES.items()}
    assert sorted(path.name for path in out.iterdir()) == ["EuroSAT_RGB"]


def test_a_whole_download(server, tmp_path):
    heard = []
    data = get(server, tmp_path / "new" / "out", on_progress=heard.append)
    assert_whole(data, tmp_path / "new" / "out")
    assert data.to_dict() == {
        "path": str(tmp_path / "new" / "out" / "EuroSAT_RGB"), "patches": 20, "bytes": len(ARCHIVE),
        "md5": md5(ARCHIVE), "url": server.url, "splits": [], "already_there": False,
    }  # fmt: skip
    assert [(a.status, a.sent) for a in server.log] == [(200, len(ARCHIVE))]
    assert list(dict.fromkeys(t.stage for t in heard)) == ["downloading", "unpacking"]
    for stage, total in [("downloading", len(ARCHIVE)), ("unpacking", 20)]:
        steps = [t for t in heard if t.stage == stage]
        assert steps[-1].done == steps[-1].total == total
        assert [t.done for t in steps] == sorted(t.done for t in steps)


def test_tiffs_without_a_folder_above_them(tmp_path):
    patches = patches_of(".tif", size=100)
    with serving(zipped(patches, top="")) as served:
        data = get(served, tmp_path, bands="all")
    assert data.path == tmp_path / "EuroSAT_MS"
    assert {k: v for k, v in files_below(data.path).items() if k != "source.json"} == patches


@pytest.mark.parametrize("announce_length", [True, False])
def test_a_body_that_is_cut_off_is_never_taken_for_whole(server, tmp_path, announce_length):
    server.announce_length = announce_length
    server.faults = [("cut", 150_000)]
    if announce_length:
        assert_whole(get(server, tmp_path), tmp_path)
        assert [a.sent for a in server.log] == [150_000, len(ARCHIVE)]
        return
    # Nothing but the checksum tells that the answer ended too early.
    with pytest.raises(ProviderError, match=f"does not have the MD5 {md5(ARCHIVE)} and is deleted.*--url"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_asks_for_a_pause_gets_it(server, tmp_path):
    server.faults = [("status", 429, {"Retry-After": "1"})]
    get(server, tmp_path)
    first, second = server.log
    assert second.at - first.at >= 1


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(server, tmp_path, code):
    server.faults = [("status", code, {}), ("status", code, {})]
    assert_whole(get(server, tmp_path), tmp_path)
    assert [a.status for a in server.log] == [code, code, 200]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_what_will_not_pass_is_one_error_at_once(server, tmp_path, code):
    server.faults = [("status", code, {})]
    with pytest.raises(ProviderError, match=rf"{server.url} answered HTTP {code}.*--url"):
        get(server, tmp_path)
    assert len(server.log) == 1
    assert list(tmp_path.iterdir()) == []


def test_trying_ends(server, tmp_path):
    server.faults = [("status", 503, {})] * 10
    with pytest.raises(ProviderError, match=r"HTTP 503 \(3 attempts.*curl -C - -O http://.*--archive"):
        get(server, tmp_path)
    assert len(server.log) == 3


def test_a_server_that_stops_talking_times_out(server, tmp_path):
    server.faults = [("stall", 150_000)]
    assert_whole(get(server, tmp_path, replace(QUICK, read_timeout_s=1)), tmp_path)
    assert [a.sent for a in server.log] == [150_000, len(ARCHIVE)]


def test_a_server_that_is_not_there(server, tmp_path):
    host = server.url.rpartition(":")[0]
    with pytest.raises(ProviderError, match=r"refused.* after 0 bytes \(3 attempts") as raised:
        get(replace(server, url=f"{host}:1/a.zip?sig=SECRET"), tmp_path)
    assert "SECRET" not in str(raised.value)


def test_redirects_are_followed_to_the_web_alone(server, tmp_path):
    port = server.url.split(":")[2].split("/")[0]
    server.faults = [
        ("status", 302, {"Location": "/elsewhere.zip"}),
        ("status", 307, {"Location": f"http://localhost:{port}/third.zip?sig=SECRET"}),
        ("cut", 150_000),
    ]
    assert_whole(get(server, tmp_path / "a"), tmp_path / "a")
    paths = [a.path for a in server.log]
    assert paths[1:] == ["/elsewhere.zip", "/third.zip?sig=SECRET", "/mirror/EuroSAT_RGB.zip"]
    for location in ("file:///etc/passwd", "ftp://127.0.0.1/a.zip?sig=SECRET", "gopher:x", "http://[/"):
        server.faults = [("status", 302, {"Location": location})]
        with pytest.raises(ProviderError, match="cannot be downloaded") as raised:
            get(server, tmp_path / "b")
        assert "SECRET" not in str(raised.value)
    server.faults = [("status", 302, {"Location": server.url})] * 40
    with pytest.raises(ProviderError, match="Exceeded 30 redirects"):
        get(server, tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []


def test_a_wrong_checksum_is_said_and_the_file_is_gone(server, tmp_path):
    with pytest.raises(ProviderError) as raised:
        get(server, tmp_path, md5="0" * 32)
    assert all(part in str(raised.value) for part in (server.url, "0" * 32, "deleted", "--url", "--md5"))
    assert list(tmp_path.iterdir()) == []
    assert len(server.log) == 1  # what came whole would be the same again


def test_the_published_checksum_and_size_hold_for_a_mirror_too(server, tmp_path):
    with pytest.raises(ProviderError, match=rf"has {len(ARCHIVE)} bytes; the published file has 94658721"):
        get(server, tmp_path, md5=None)
    server.announce_length = False
    with pytest.raises(ProviderError, match=rf"does not have the MD5 {ARCHIVES['rgb'].md5}"):
        get(server, tmp_path, md5=None)
    assert list(tmp_path.iterdir()) == []


def test_more_than_was_announced_or_is_sane_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(eurosat, "MAX_ARCHIVE_BYTES", 100_000)
    with pytest.raises(ProviderError, match="at most 100000 are taken"):
        get(server, tmp_path)
    server.announce_length = False
    with pytest.raises(ProviderError, match="or more; at most 100000 are taken"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_said_before_the_bytes_come(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(eurosat.shutil, "disk_usage", lambda _: usage._replace(free=len(ARCHIVE) - 1))
    with pytest.raises(OutputError, match=r"0 MB free; 0 MB are needed.*--out"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    # The published archive's patches are known to need more than the archive.
    published = ARCHIVES["rgb"].size_bytes
    monkeypatch.setattr(eurosat.shutil, "disk_usage", lambda _: usage._replace(free=published + 1_000_000))
    server.announce_length = False
    with pytest.raises(OutputError, match="96 MB free; 225 MB are needed"):
        get(server, tmp_path, md5=None)


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    first = get(server, tmp_path)
    again = get(server, tmp_path)
    assert again == replace(first, already_there=True)
    assert len(server.log) == 1
    replaced = get(server, tmp_path, overwrite=True)
    assert replaced == first
    assert_whole(replaced, tmp_path)
    assert len(server.log) == 2


def lose_a_patch(folder):
    (folder / "Forest" / "Forest_3.jpg").unlink()


def shorten_a_patch(folder):
    (folder / "Forest" / "Forest_3.jpg").write_bytes(b"x")


def lose_its_source(folder):
    (folder / "source.json").unlink()


def forge_its_source(folder):
    (folder / "source.json").write_text(json.dumps({"url": 1, "md5": md5(ARCHIVE), "patches": 20}))


@pytest.mark.parametrize("spoil", [lose_a_patch, shorten_a_patch, lose_its_source, forge_its_source])
def test_what_is_there_but_not_whole_is_not_taken_for_whole(server, tmp_path, spoil):
    get(server, tmp_path)
    spoil(tmp_path / "EuroSAT_RGB")
    with pytest.raises(UsageError, match=r"holds (19|20) patches.*--overwrite"):
        get(server, tmp_path)
    assert len(server.log) == 1
    assert_whole(get(server, tmp_path, overwrite=True), tmp_path)


def test_what_is_there_of_another_archive_is_not_taken_for_this_one(server, tmp_path):
    get(server, tmp_path)
    with pytest.raises(UsageError, match=f"MD5 {'1' * 32}"):
        get(server, tmp_path, md5="1" * 32)


def test_a_failed_replacement_leaves_the_old_folder(server, tmp_path):
    get(server, tmp_path)
    server.content = zipped({"Forest/../../x.jpg": b""})
    with pytest.raises(ProviderError, match="refused"):
        get(server, tmp_path, overwrite=True)
    server.content = ARCHIVE
    assert_whole(get(server, tmp_path), tmp_path)


def test_files_and_links_in_the_way_are_left_alone(server, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "EuroSAT_RGB").write_text("mine")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "EuroSAT_RGB").symlink_to(tmp_path / "a")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "EuroSAT_RGB").symlink_to(tmp_path / "nowhere")
    for out in ("a", "b", "c"):
        with pytest.raises(UsageError, match="is not a folder"):
            get(server, tmp_path / out, overwrite=True)
    with pytest.raises(OutputError, match="cannot be written"):
        get(server, tmp_path / "a" / "EuroSAT_RGB" / "out")
    assert (tmp_path / "a" / "EuroSAT_RGB").read_text() == "mine"
    assert server.log == []


@pytest.mark.parametrize("killed_at", ["unpacking", "swapping"])
def test_what_a_killed_run_left_is_cleared_up(server, tmp_path, killed_at):
    get(server, tmp_path)
    half = tmp_path / ".EuroSAT_RGB.part" / "Forest"
    half.mkdir(parents=True)
    (half / "Forest_1.jpg").write_bytes(b"half")
    if killed_at == "swapping":
        (tmp_path / "EuroSAT_RGB").rename(tmp_path / ".EuroSAT_RGB.old")
    assert_whole(get(server, tmp_path), tmp_path)
    assert len(server.log) == 1


def member(name, content=b"x", mode=None, **changes):
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    if mode is not None:
        info.external_attr = mode << 16
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "extra",
    [
        member("../../evil.jpg"),
        member("EuroSAT_RGB/../evil.jpg"),
        member("EuroSAT_RGB/Forest/.."),
        member("EuroSAT_RGB/Forest/../../../evil.txt"),
        member("/Forest/evil.jpg"),
        member("/etc/evil"),
        member("//host/evil.jpg"),
        member("C:/Forest/evil.jpg"),
        member("Forest\\..\\..\\evil.jpg"),
        member("EuroSAT_RGB/Forest/evil\0.jpg"),
        member("EuroSAT_RGB/Forest/evil\n.jpg"),
        member("EuroSAT_RGB/Forest/\x1b[2Jevil.jpg"),
        member("EuroSAT_RGB/.hidden/evil.jpg"),
        member("EuroSAT_RGB/Forest/" + "e" * 300 + ".jpg"),
        member("EuroSAT_RGB/Forest/evil.jpg", b"/etc/passwd", stat.S_IFLNK | 0o777),
        member("EuroSAT_RGB/Forest", b"/etc", stat.S_IFLNK | 0o777),
        member("EuroSAT_RGB/pipe", b"", stat.S_IFIFO | 0o666),
        member("EuroSAT_RGB/Forest/evil.jpg", bytes((1 << 20) + 1), compress_type=zipfile.ZIP_DEFLATED),
        member("EuroSAT_RGB/Forest/evil.jpg", compress_type=zipfile.ZIP_LZMA),
        member("EuroSAT_RGB/Forest/Forest_1.jpg"),
        member("EuroSAT_RGB/forest/FOREST_1.JPG"),
        member("Other/Forest/Forest_1000.jpg"),
    ],
    ids=lambda extra: f"{extra[0].filename[:40]!r}",
)
def test_a_hostile_member_spoils_the_whole_archive(tmp_path, extra):
    buffer = io.BytesIO(zipped(dict(list(PATCHES.items())[:12])))
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr(*extra)
    out = tmp_path / "deep" / "er" / "out"
    with serving(buffer.getvalue()) as served, pytest.raises(ProviderError, match="is refused") as raised:
        get(served, out)
    assert str(raised.value).isprintable()
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert list(out.iterdir()) == []


def test_members_that_are_no_patches_are_left_out(tmp_path):
    others = {
        "README.md": b"hello", "Forest/": b"", "Forest/.DS_Store": b"x", "deep/Forest/x.jpg": b"x",
        "Forest/._Forest_1.jpg": b"x", "top.jpg.txt": b"x", "Forest/notes.txt": b"x",
    }  # fmt: skip
    with serving(zipped(PATCHES | others)) as served:
        assert_whole(get(served, tmp_path), tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>not an archive</html>", zipped({"README.md": b"x"})])
def test_what_is_no_archive_of_patches_is_refused(tmp_path, content):
    with serving(content) as served, pytest.raises(ProviderError, match="is refused"):
        get(served, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_many_members_and_too_many_bytes_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(eurosat, "MAX_MEMBERS", 19)
    with pytest.raises(ProviderError, match="20 members; at most 19"):
        get(server, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(eurosat, "MAX_UNPACKED_BYTES", 399_999)
    with pytest.raises(ProviderError, match="400000 bytes; at most 399999"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stated", "says"), [(1000, "CRC"), (900_001, "shorter than it states")])
def test_a_member_that_lies_about_its_size_is_not_inflated_further(tmp_path, stated, says):
    archive = bytearray(zipped({"Forest/Forest_1.jpg": bytes(900_000)}))
    directory = archive.rindex(b"PK\x01\x02")
    assert struct.unpack_from("<I", archive, directory + 24) == (900_000,)
    struct.pack_into("<I", archive, directory + 24, stated)
    with serving(bytes(archive)) as served, pytest.raises(ProviderError, match=says):
        get(served, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damage_anywhere_in_an_archive_is_refused_or_harmless(tmp_path):
    archive = zipped({f"Forest/Forest_{i}.jpg": bytes(range(200)) for i in range(4)})
    rng = random.Random(3)
    folder = tmp_path / "out" / "EuroSAT_RGB"
    refused = 0
    for _ in range(200):
        spoilt = bytearray(archive)
        for _ in range(rng.choice((1, 1, 4))):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        (tmp_path / "a.zip").write_bytes(spoilt)
        try:
            options = {"archive": tmp_path / "a.zip", "md5": md5(bytes(spoilt))}
            get_eurosat(EurosatRequest(bands="rgb", out=tmp_path / "out", **options))
        except (ProviderError, OutputError):  # the latter where a size is absurd
            refused += 1
            assert list((tmp_path / "out").iterdir()) == []
        else:
            (folder / "source.json").unlink()
            files = [path for path in folder.rglob("*") if path.is_file()]
            assert files
            assert all(len(path.relative_to(folder).parts) == 2 for path in files)
            shutil.rmtree(folder)
    assert refused > 30


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bands": "nir"}, ["--bands 'nir'", "rgb or all"]),
        ({"url": "ftp://x.org/a.zip"}, ["ftp://x.org/a.zip", "http(s)"]),
        ({"url": "/tmp/a.zip"}, ["/tmp/a.zip", "http(s)"]),
        ({"url": "https://me:pw@[x/a.zip?sig=SECRET"}, ["--url 'https://...'"]),
        ({"md5": "xyz"}, ["--md5 'xyz'", "32 hexadecimal"]),
        ({"url": "http://x.org/a.zip", "archive": Path("a.zip")}, ["--url and --archive", "one of them"]),
    ],
)
def test_a_wrong_request_gets_one_message_with_the_mend(tmp_path, changes, says):
    with pytest.raises(UsageError) as raised:
        EurosatRequest(**{"bands": "rgb", "out": tmp_path, **changes})
    assert all(part in str(raised.value) for part in says), raised.value
    assert "SECRET" not in str(raised.value)


def test_secrets_of_a_url_are_neither_told_nor_kept(server, tmp_path, caplog, capfd):
    server.faults = [("cut", 150_000)]
    signed = server.url.replace("http://", "http://me:pw@") + "?sig=SECRET"
    with caplog.at_level(logging.DEBUG, "landuse"), pytest.raises(ProviderError) as raised:
        get(replace(server, url=signed), tmp_path, ONCE)
    data = get(replace(server, url=signed), tmp_path)
    told = [str(raised.value), caplog.text, capfd.readouterr().err, json.dumps(data.to_dict())]
    told.append((data.path / "source.json").read_text())
    assert not any(secret in text for text in told for secret in ("SECRET", "pw@"))


def all_names(suffix=".jpg"):
    return [f"{name}/{name}_{i}{suffix}" for name, count in COUNTS.items() for i in range(1, count + 1)]


def test_the_papers_split_is_the_one_of_the_real_data(data_dir):
    splits = paper_split(random.Random(1).sample(all_names(), 27_000))
    for part in ("train", "val"):
        text = (data_dir / "eurosat" / "splits" / f"paper-{part}.txt").read_text()
        assert splits[part] == text.split()
    assert {part: len(names) for part, names in splits.items()} == {
        "train": 18_900,
        "val": 4_050,
        "test": 4_050,
    }
    assert sorted(name for names in splits.values() for name in names) == sorted(all_names())
    held_apart = {name for name in splits["test"] if (data_dir / "eurosat" / "EuroSAT_RGB" / name).exists()}
    assert held_apart == set()
    tiffs = paper_split(all_names(".tif"))
    assert tiffs == {p: [name.replace(".jpg", ".tif") for name in names] for p, names in splits.items()}


@pytest.mark.parametrize("names", [[], all_names()[1:], [*all_names()[1:], all_names()[1]]])
def test_the_papers_split_is_one_of_all_patches(names):
    with pytest.raises(UsageError, match=f"these are {len(set(names))}"):
        paper_split(names)


def test_a_whole_eurosat_gets_lists_that_training_finds(tmp_path):
    archive = zipped(dict.fromkeys(all_names(), b""), compression=zipfile.ZIP_STORED)
    with serving(archive) as served:
        data = get(served, tmp_path)
    assert data.patches == 27_000
    assert list_patches(data.path) == sorted(all_names())
    assert split_files(data.path, "paper") == data.splits[:2]
    expected = paper_split(all_names())
    assert [path.name for path in data.splits] == ["paper-train.txt", "paper-val.txt", "paper-test.txt"]
    assert [read_split(path) for path in data.splits] == list(expected.values())


@pytest.fixture
def small_eurosat(monkeypatch):
    """EuroSAT with twenty patches, ten of them for training and ten for validation."""

    def halves(names):
        assert len(names) == 20
        return {"train": sorted(names)[:10], "val": sorted(names)[10:]}

    monkeypatch.setattr(eurosat, "EUROSAT_PATCHES", 20)
    monkeypatch.setattr(eurosat, "paper_split", halves)


@pytest.mark.usefixtures("small_eurosat")
def test_lists_are_written_again_but_not_over_others(server, tmp_path, caplog):
    data = get(server, tmp_path)
    texts = [path.read_text() for path in data.splits]
    assert texts[0].splitlines() == sorted(PATCHES)[:10]
    data.splits[0].unlink()
    data.splits[1].write_text("Forest/mine.jpg\n")
    assert get(server, tmp_path) == replace(data, already_there=True)
    assert [path.read_text() for path in data.splits] == [texts[0], "Forest/mine.jpg\n"]
    assert "paper-val.txt is not the paper's list" in caplog.text
    assert len(server.log) == 1
    get(server, tmp_path, overwrite=True)
    assert [path.read_text() for path in data.splits] == texts


@pytest.mark.usefixtures("small_eurosat")
@pytest.mark.parametrize(("bands", "suffix"), [("rgb", ".jpg"), ("all", ".tif")])
def test_a_published_folder_that_was_unpacked_by_hand_is_taken(tmp_path, bands, suffix):
    for name in patches_of(suffix):
        path = tmp_path / ARCHIVES[bands].folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    data = get_eurosat(EurosatRequest(bands=bands, out=tmp_path))
    assert (data.already_there, data.patches, data.source) == (True, 20, None)
    assert {data.to_dict()[key] for key in ("bytes", "md5", "url")} == {None}
    # The lists are the same for both: they name the JPEGs.
    listed = [name for path in data.splits for name in path.read_text().split()]
    assert listed == sorted(PATCHES)


def test_what_is_published_is_well_formed():
    for bands, known in ARCHIVES.items():
        for same in ({}, {"url": known.url}, {"md5": known.md5.upper()}):
            assert EurosatRequest(bands=bands, out=Path(), **same).wanted == known
        assert known.size_bytes < eurosat.MAX_ARCHIVE_BYTES
        assert known.unpacked_bytes < eurosat.MAX_UNPACKED_BYTES


def landuse(*arguments, **options):
    return spawn("data", "eurosat", *arguments, **options)


def files_of_at_most_200_kb():
    """A full disk, as far as a process can tell. (Python ignores SIGXFSZ.)"""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_while_downloading_is_one_error(server, tmp_path):
    options = ("--url", server.url, "--md5", md5(ARCHIVE), "--out", tmp_path)
    done = landuse(*options, preexec_fn=files_of_at_most_200_kb)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"Error: {tmp_path} cannot be written (File too large)")
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert landuse(*options).code == 0


def test_a_full_disk_while_unpacking_keeps_the_archive(tmp_path):
    archive = zipped({"Forest/Forest_1.jpg": b"x", "Forest/Forest_2.jpg": bytes(500_000)})
    assert len(archive) < 10_000
    with serving(archive) as served:
        options = ("--url", served.url, "--md5", md5(archive), "--out", tmp_path)
        done = landuse(*options, preexec_fn=files_of_at_most_200_kb)
        assert done.code == 1
        assert "is kept" in done.err
        assert [path.name for path in tmp_path.iterdir()] == [".EuroSAT_RGB.download"]
        assert landuse(*options).code == 0
        assert len(served.log) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["EuroSAT_RGB"]
    assert (tmp_path / "EuroSAT_RGB" / "Forest" / "Forest_2.jpg").read_bytes() == bytes(500_000)


def test_an_archive_that_is_here_already_is_checked_unpacked_and_kept(server, tmp_path):
    file = tmp_path / "by curl.zip"
    file.write_bytes(ARCHIVE)
    out = tmp_path / "out"
    done = landuse("--archive", file, "--md5", md5(ARCHIVE), "--out", out, "--json")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert (told["patches"], told["url"], told["md5"]) == (20, file.as_uri(), md5(ARCHIVE))
    assert files_below(out / "EuroSAT_RGB").keys() == {*PATCHES, "source.json"}
    assert file.read_bytes() == ARCHIVE
    assert server.log == []


def test_an_archive_that_is_not_the_one_meant_is_refused_and_kept(tmp_path):
    file = tmp_path / "half.zip"
    file.write_bytes(ARCHIVE[:1000])
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=f"MD5 is {md5(ARCHIVE[:1000])}, not {md5(ARCHIVE)}"):
        get_eurosat(EurosatRequest(bands="rgb", out=out, archive=file, md5=md5(ARCHIVE)))
    for path in (tmp_path / "none.zip", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            get_eurosat(EurosatRequest(bands="rgb", out=out, archive=path))
    assert file.exists()
    assert list(out.iterdir()) == []


def test_the_command_says_where_the_data_are_and_what_next(server, tmp_path):
    options = ("--url", server.url, "--md5", md5(ARCHIVE), "--out", tmp_path)
    done = landuse(*options)
    folder = tmp_path / "EuroSAT_RGB"
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"data     {folder} (20 patches)",
        f"next     landuse train --data {folder} --out RUN",
    ]
    again = landuse(*options, "--json")
    assert (again.code, again.err) == (0, "")
    source = Source(**json.loads((folder / "source.json").read_text()))
    assert json.loads(again.out) == {
        "path": str(folder), "patches": 20, "bytes": len(ARCHIVE), "md5": md5(ARCHIVE), "url": server.url,
        "splits": [], "already_there": True,
    }  # fmt: skip
    assert source.patch_bytes == sum(map(len, PATCHES.values()))
    assert "already there" in landuse(*options).out
    assert len(server.log) == 1


def test_the_command_fails_with_one_line_and_the_providers_code(server, tmp_path):
    server.faults = [("status", 404, {})]
    done = landuse("--url", server.url, "--out", tmp_path, "--json")
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith(f"Error: {server.url} answered HTTP 404")
    assert len(done.err.splitlines()) == 1
    assert landuse("--bands", "nir").code == 2


def test_a_proxy_of_the_environment_is_used(server, tmp_path):
    proxy = server.url.removesuffix("/mirror/EuroSAT_RGB.zip")
    done = landuse(
        "--url", "http://mirror.invalid/a.zip", "--md5", md5(ARCHIVE), "--out", tmp_path,
        http_proxy=proxy, no_proxy="",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [a.path for a in server.log] == ["http://mirror.invalid/a.zip"]


def test_what_a_killed_download_left_is_cleared_up(server, tmp_path):
    server.faults = [("stall", 300_000)]
    options = ["--url", server.url, "--md5", md5(ARCHIVE), "--out", str(tmp_path)]
    process = subprocess.Popen([LANDUSE, "data", "eurosat", *options], stderr=subprocess.DEVNULL)

    def sizes():
        return [path.stat().st_size for path in tmp_path.glob(".EuroSAT_RGB.download/*")]

    deadline = time.monotonic() + 60
    while not any(size > 100_000 for size in sizes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert max(sizes()) > 100_000
    assert landuse(*options).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["EuroSAT_RGB"]


def test_every_option_of_the_command_has_help():
    command = typer.main.get_command(app).commands["data"].commands["eurosat"]
    options = [p for p in command.params if p.param_type_name == "option"]
    assert {p.name for p in options} == {
        "bands",
        "out",
        "url",
        "archive",
        "md5",
        "as_json",
        "overwrite",
        "quiet",
    }
    assert all(p.help for p in options)
