"""Where results lie. Oracles: pathlib for folders here, fsspec's own memory file system for elsewhere."""

import errno
import hashlib
import multiprocessing
import os
import pickle
from pathlib import Path

import fsspec
import pytest

from landuse.errors import OutputError, UsageError
from landuse.pipeline.write.folder import Store

NAMES = ("a.tif", "b.tif", "run.json")


@pytest.fixture(params=["folder", "file", "memory"])
def store(request, tmp_path):
    """An empty store, and how to see its files without it."""
    if request.param == "memory":
        memory = fsspec.filesystem("memory")
        yield (
            Store.at("memory://store/map"),
            lambda: {
                Path(path).name: memory.cat_file(path) for path in memory.find("/store/map", maxdepth=1)
            },
        )
        memory.store.clear()
        return
    location = tmp_path / "map" if request.param == "folder" else f"file://{tmp_path}/map"
    yield (
        Store.at(location),
        lambda: {path.name: path.read_bytes() for path in (tmp_path / "map").iterdir() if path.is_file()},
    )


def test_what_is_written_is_there_for_others(store):
    here, seen = store
    assert here.names() == []
    assert here.read("a.tif") is None
    here.prepare()
    here.write("a.tif", b"one")
    here.write("a.tif", b"two")
    assert seen() == {"a.tif": b"two"}
    there = pickle.loads(pickle.dumps(here.absolute()))
    assert there.read("a.tif") == b"two"
    work = there.child(".blocks-1")
    work.prepare()
    work.write("r1.npz", b"block")
    assert here.names() == [".blocks-1", "a.tif"]
    assert here.child(".blocks-1").names() == ["r1.npz"]
    work.remove()
    work.remove()
    assert here.names() == ["a.tif"]


def test_the_files_of_a_map_replace_the_last_ones(store):
    here, seen = store
    here.prepare()
    for made in ({"a.tif": b"1", "b.tif": b"1", "run.json": b"1"}, {"a.tif": b"2", "run.json": b"2"}):
        with here.replaced(NAMES) as folder:
            for name, content in made.items():
                (folder / name).write_bytes(content)
        assert seen() == made
    with pytest.raises(ZeroDivisionError), here.replaced(NAMES) as folder:
        (folder / "a.tif").write_bytes(bytes(1 // 0))
    assert seen() == made


def test_elsewhere_the_last_file_goes_first_and_comes_last(monkeypatch):
    """A run that is killed as it uploads leaves nothing that says it is whole."""
    here = Store.at("memory://upload/map")
    here.prepare()
    for name in NAMES:
        here.write(name, b"old")
    moment = []
    memory = type(here.filesystem)
    put, remove = memory.put_file, memory.rm_file
    monkeypatch.setattr(memory, "put_file", lambda *a, **k: moment.append(a[2][-8:]) or put(*a, **k))
    monkeypatch.setattr(memory, "rm_file", lambda *a, **k: moment.append("-" + a[1][-8:]) or remove(*a, **k))
    with here.replaced(NAMES) as folder:
        for name in ("a.tif", "run.json"):
            (folder / name).write_bytes(b"new")
    assert moment[0] == "-run.json"
    assert moment[-1] == "run.json"
    assert here.names() == ["a.tif", "run.json"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nosuch://user:s3cret@host/map", "nosuch://host/map cannot be opened.*fsspec knows"),
        ("gs://user:s3cret@bucket/map", "gs://bucket/map cannot be opened.*gcsfs.*install what its protocol"),
    ],
)
def test_a_url_that_cannot_be_opened_tells_no_password(url, says):
    with pytest.raises(UsageError, match=says) as caught:
        Store.at(url)
    assert "s3cret" not in str(caught.value)


def test_a_service_that_does_not_answer_tells_no_password(unused_port):
    """A real FTP client at a closed port."""
    with pytest.raises((UsageError, OutputError), match=f"ftp://127.0.0.1:{unused_port}/map") as caught:
        Store.at(f"ftp://user:s3cret@127.0.0.1:{unused_port}/map").prepare()
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def unused_port():
    from tests.servers import free_port

    return free_port()


def hold(path, held, done):
    with Store.at(path).locked():
        held.set()
        done.wait(60)


def test_a_lock_ends_with_its_process(tmp_path):
    (tmp_path / ".partial-old").mkdir()
    spawned = multiprocessing.get_context("spawn")
    held, done = spawned.Event(), spawned.Event()
    process = spawned.Process(target=hold, args=(tmp_path, held, done))
    process.start()
    assert held.wait(60)
    assert list(tmp_path.iterdir()) == []  # what a killed run left of hidden folders
    with pytest.raises(OutputError, match=r"Another run.*another --out"), Store.at(tmp_path).locked():
        pass
    process.kill()
    process.join()
    with Store.at(tmp_path).locked():
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_takes_its_place_is_kept_first(tmp_path, monkeypatch):
    """Oracle: what the system was asked to keep, by inode, at each rename and in the end."""
    kept, renamed = set(), []
    replace, fsync = os.replace, os.fsync

    def keeping(descriptor):
        kept.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renaming(source, target):
        assert Path(source).stat().st_ino in kept
        if Path(target).name == NAMES[-1] and renamed:
            assert tmp_path.stat().st_ino in kept  # the others' names are, before the last one's
        kept.discard(tmp_path.stat().st_ino)
        renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", keeping)
    monkeypatch.setattr(os, "replace", renaming)
    store = Store.at(tmp_path)
    with store.replaced(NAMES) as folder:
        for name in NAMES:
            (folder / name).write_bytes(b"1")
    assert renamed == list(NAMES)
    assert tmp_path.stat().st_ino in kept
    store.write("catalog.json", b"{}")
    assert tmp_path.stat().st_ino in kept


def test_a_crash_while_files_are_replaced_leaves_no_word_that_they_are_whole(tmp_path, monkeypatch):
    """Oracle: the folder at the moment of each rename, as a killed run would leave it."""
    store, seen = Store.at(tmp_path), []
    for content in (b"old", b"new"):
        with store.replaced(NAMES) as folder:
            for name in NAMES:
                (folder / name).write_bytes(content)
            replace = os.replace

            def renaming(source, target, replace=replace):
                seen.append({path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()})
                replace(source, target)

            monkeypatch.setattr(os, "replace", renaming)
        monkeypatch.setattr(os, "replace", replace)
    assert len(seen) == 2 * len(NAMES)
    assert all(NAMES[-1] not in there for there in seen)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"new"}


def test_sizes_digests_and_room(store, monkeypatch):
    here, _ = store
    assert here.sizes() == {}
    here.prepare()
    here.write("a.tif", b"one")
    here.child("below").prepare()
    here.child("below").write("b.tif", b"four")
    assert here.sizes() == {"a.tif": 3}
    assert here.sha256("a.tif") == hashlib.sha256(b"one").hexdigest()
    with pytest.raises(OutputError, match=r"no\.tif cannot be read"):
        here.sha256("no.tif")
    here.check_room()
    assert here.names() == ["a.tif", "below"]
    if here.path is not None:

        def full(descriptor, start, size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OutputError, match="no room"):
            here.check_room()
