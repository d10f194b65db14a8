"""Remote files. The oracle is the file itself; the faults are a real server's, whose log tells who asked."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from landuse.errors import AssetError, OutputError, ReadError
from landuse.pipeline.read.onto_grid import chunk_ranges
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.remote.sparse_copy import HEAD_BYTES, Spans
from tests.faults import Storage, serving
from tests.servers import free_port

HASTY = RetryPolicy(attempts=6, first_pause_s=0.01, deadline_s=20, connect_timeout_s=2, read_timeout_s=2)


@pytest.fixture
def noise(tmp_path):
    """A file that does not repeat itself."""
    content = np.random.default_rng(3).bytes(700_001)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "noise.tif").write_bytes(content)
    return Storage(root=tmp_path / "served"), content


def handle(remote, storage, name="noise.tif"):
    with remote.opened(f"{storage.url}/{name}", "somewhere") as opened:
        return opened, opened.opener(opened.name)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12), st.integers(0, 60))
def test_spans_tell_what_is_missing_like_a_set_of_bytes(added, low):
    spans, there = Spans(), set()
    for start, stop in added:
        spans.add(start, stop)
        there |= set(range(start, stop))
    for high in range(low, 64):
        missing = [byte for start, stop in spans.missing(low, high) for byte in range(start, stop)]
        assert missing == [byte for byte in range(low, high) if byte not in there]


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"busy_every": 2},
        {"truncate_every": 2},
        {"busy_every": 5, "truncate_every": 3},
        {"ranges": False},
        {"ranges": False, "truncate_every": 2},
    ],
)
def test_every_read_gives_the_bytes_of_the_file_and_each_byte_comes_once(noise, faults):
    storage, content = noise
    for name, value in faults.items():
        setattr(storage, name, value)
    reads = np.random.default_rng(4).integers(0, len(content), (40, 2))
    with serving(storage), Remote(HASTY) as remote:
        opened, file = handle(remote, storage)
        opened.fetch([(300_000, 420_000), (100_000, 100_001)])
        for offset, count in reads.tolist():
            file.seek(offset)
            assert file.read(count) == content[offset : offset + count]
            assert file.tell() == min(offset + count, len(content))
        assert file.seek(0, 2) == len(content)
        assert file.read(10) == b""
        opened.raise_failure()
        if not faults:
            assert remote.traffic.fetched_bytes <= len(content)
    assert storage.refetched() == {}


def test_threads_that_want_the_same_bytes_ask_for_them_once(noise):
    storage, content = noise
    with serving(storage), Remote(HASTY) as remote:
        barrier = threading.Barrier(8)

        def read():
            _, file = handle(remote, storage)
            barrier.wait()
            return file.read(len(content))

        with ThreadPoolExecutor(8) as pool:
            found = [future.result() for future in [pool.submit(read) for _ in range(8)]]
        assert all(one == content for one in found)
        assert remote.traffic.fetched_bytes == len(content)
    assert storage.refetched() == {}
    assert sum(one.sent for one in storage.asked) == len(content)


def test_threads_that_want_other_bytes_do_not_wait_for_each_other(noise):
    storage, content = noise
    storage.latency_s = 0.4
    with serving(storage), Remote(HASTY) as remote, ThreadPoolExecutor(4) as pool:
        opened, file = handle(remote, storage)
        assert file.read(10) == content[:10]
        began = time.monotonic()
        # Each shares some bytes with its neighbour.
        starts = range(100_000, 500_000, 100_000)
        list(pool.map(lambda start: opened.fetch([(start, start + 150_000)]), starts))
        assert time.monotonic() - began < 3 * storage.latency_s  # one after the other it were four
        file.seek(100_000)
        asked = len(storage.asked)
        assert file.read(450_000) == content[100_000:550_000]
        assert len(storage.asked) == asked
    assert not storage.refetched()


def test_a_file_of_a_server_without_ranges_comes_once_however_many_threads_want_it(noise):
    storage, content = noise
    storage.ranges, storage.latency_s = False, 0.1
    starts = range(0, 700_000, 70_000)
    with serving(storage), Remote(HASTY) as remote, ThreadPoolExecutor(10) as pool:
        opened, file = handle(remote, storage)
        list(
            pool.map(
                lambda start: opened.fetch([(start, start + 1000), (start + 40_000, start + 50_000)]), starts
            )
        )
        assert file.read(len(content)) == content
        # Whoever asked before the first answer came could not know.
        assert len(storage.asked) <= 2 * len(starts)
        before = len(storage.asked)
    storage.asked.clear()
    with serving(storage), Remote(HASTY) as remote, ThreadPoolExecutor(10) as pool:
        opened, file = handle(remote, storage)
        list(pool.map(lambda start: file.seek(0, 2) and opened.fetch([(start, start + 1000)]), starts))
        assert len(storage.asked) == 1 < before
        assert remote.traffic.fetched_bytes == len(content)


def test_who_waits_for_bytes_that_do_not_come_asks_for_them(noise):
    storage, content = noise
    storage.latency_s = 0.3
    begun = threading.Event()
    with serving(storage), Remote(replace(HASTY, attempts=1)) as remote, ThreadPoolExecutor(1) as pool:
        opened, file = handle(remote, storage)
        assert file.read(10) == content[:10]
        storage.busy_every = 2  # the second request of all is the next one
        storage.interfere = lambda _: begun.set()
        first = pool.submit(opened.fetch, [(200_000, 300_000)])
        assert begun.wait(5)
        assert len(storage.asked) == 2
        opened.fetch([(200_000, 300_000)])
        assert first.done()  # this one began when that one had failed
        with pytest.raises(ReadError, match=r"503|429"):
            first.result()
        file.seek(200_000)
        assert file.read(100_000) == content[200_000:300_000]
    assert [one.status for one in storage.asked][:3] in ([206, 503, 206], [206, 429, 206])


def test_a_file_that_is_gone_is_asked_for_once_and_never_a_blank(noise):
    storage, _ = noise
    storage.gone = frozenset({"noise.tif"})
    with serving(storage), Remote(HASTY) as remote:
        for _ in range(3):
            opened, file = handle(remote, storage)
            assert file.read(10) == b""  # GDAL's callbacks cannot be raised from
            with pytest.raises(ReadError, match="404"):
                opened.raise_failure()
    assert len(storage.asked) == 1


def test_what_is_known_to_be_lost_is_told_without_asking(noise):
    storage, content = noise
    (storage.root / "sound.tif").write_bytes(content)
    storage.gone = frozenset({"noise.tif"})
    with serving(storage), Remote(HASTY) as remote:
        gone, sound = f"{storage.url}/noise.tif", f"{storage.url}/sound.tif"
        assert remote.known_lost(gone, "somewhere") is None  # nobody has asked for it yet
        for name in ("noise.tif", "sound.tif"):
            handle(remote, storage, name)[1].read(10)
        asked = len(storage.asked)
        assert remote.known_lost(gone, "somewhere") == "the server answered 404 (no such file)"
        assert remote.known_lost(sound, "somewhere") is None
        assert remote.known_lost(gone, "elsewhere") is None
        assert len(storage.asked) == asked


def lost(remote, url):
    """Why the file cannot be read."""
    with remote.opened(url, "somewhere") as opened:
        assert opened.opener(opened.name).read(1) == b""
        with pytest.raises(ReadError) as caught:
            opened.raise_failure()
    return str(caught.value)


def test_a_host_that_does_not_answer_is_left_alone_for_a_while():
    patient = RetryPolicy(attempts=3, first_pause_s=0.01, deadline_s=5, connect_timeout_s=1, rest_s=0.5)
    with Remote(patient) as remote:
        port = free_port()
        for number in range(6):
            assert "connection failed" in lost(remote, f"http://127.0.0.1:{port}/{number}.tif")
        # Two files with all attempts, the other four with none.
        assert remote.traffic.requests == 2 * 3
        time.sleep(0.6)
        for number in range(4):
            assert "connection failed" in lost(remote, f"http://127.0.0.1:{port}/{number}.tif")
        assert remote.traffic.requests == 2 * 3 + 1


@pytest.mark.parametrize(
    "fault",
    [{"busy_every": 1}, {"gone": frozenset({"noise.tif"})}, {"truncate_every": 1}],
)
def test_a_host_that_answers_is_not_down_for_what_it_answers(noise, fault):
    """One asset that cannot be had must not cost its neighbours."""
    storage, content = noise
    (storage.root / "sound.tif").write_bytes(content)
    patient = RetryPolicy(attempts=3, first_pause_s=0.01, deadline_s=20)
    with serving(storage), Remote(patient) as remote:
        for name, value in fault.items():
            setattr(storage, name, value)
        for _ in range(4):
            handle(remote, storage)[1].read(len(content))
        storage.truncate_every = 0
        storage.busy_every = len(storage.asked) + 1  # the next request: one attempt would not do
        opened, file = handle(remote, storage, "sound.tif")
        assert file.read(5) == content[:5]
        opened.raise_failure()


def test_a_host_that_comes_back_is_trusted_again(noise):
    storage, content = noise
    storage.down_after = 0
    policy = replace(HASTY, rest_s=0.2)
    with serving(storage), Remote(policy) as remote:
        for _ in range(2):
            _, file = handle(remote, storage)
            assert file.read(1) == b""
        storage.down_after = None
        time.sleep(0.3)
        _, file = handle(remote, storage)
        assert file.read(5) == content[:5]
        storage.busy_every = 2
        opened, file = handle(remote, storage)
        assert file.read(len(content)) == content
        opened.raise_failure()


@pytest.fixture
def full_disk(noise):
    """No file of this process may grow beyond 100 kB, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="this system limits no files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_ends_the_run_and_names_the_folder(noise, tmp_path):
    """It is no fault of an asset: every other one would fail the same way."""
    storage, content = noise
    copies = tmp_path / "copies"
    copies.mkdir()
    with serving(storage), Remote(HASTY, folder=copies) as remote:
        opened, file = handle(remote, storage)
        assert file.read(5) == content[:5]
        with pytest.raises(
            OutputError, match=r"copies.*cannot be written \(File too large\).*output folder elsewhere"
        ):
            opened.fetch([(0, len(content))])
        assert file.read(len(content)) == b""  # GDAL's callbacks cannot be raised from
        with pytest.raises(OutputError, match=re.escape(str(copies))):
            opened.raise_failure()
        assert remote.known_lost(f"{storage.url}/noise.tif", "somewhere") is None


def test_a_folder_without_room_for_copies_is_an_error_of_ours(tmp_path):
    with pytest.raises(OutputError, match=r"nowhere cannot be made \(No such file or directory\)"):
        Remote(HASTY, folder=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (KeyboardInterrupt(), True),
        (ValueError("a bug"), True),
        (OutputError("full"), True),
        (AssetError("lost", band="B04", href="x"), False),
    ],
)
def test_whatever_ends_the_run_ends_the_patience_of_its_readers(noise, error, stops):
    """A lost asset does not: its scene may have a mirror."""
    storage, content = noise
    with serving(storage), Remote(HASTY) as remote:

        def read():
            with remote.readers(2) as pool:
                pool.submit(time.sleep, 0)
                raise error

        with pytest.raises(type(error)):
            read()
        opened, file = handle(remote, storage)
        assert file.read(5) == (b"" if stops else content[:5])
        if stops:
            with pytest.raises(ReadError, match="being stopped"):
                opened.raise_failure()


def test_a_file_that_changes_while_it_is_read_is_an_error(noise):
    storage, content = noise
    with serving(storage), Remote(HASTY) as remote:
        opened, file = handle(remote, storage)
        assert file.read(5) == content[:5]
        (storage.root / "noise.tif").write_bytes(content + b"more")
        file.seek(600_000)
        assert file.read(10) == b""
        with pytest.raises(ReadError, match="changed while it was read"):
            opened.raise_failure()


def test_only_the_file_itself_is_found_beside_it(noise):
    storage, _ = noise
    with serving(storage), Remote(HASTY) as remote:
        opened, _ = handle(remote, storage)
        for name in (opened.name + ".ovr", opened.name + ".aux.xml", "/etc/passwd"):
            with pytest.raises(FileNotFoundError):
                opened.opener(name)


class Stating:
    """An open dataset whose header states a size for every tile."""

    def __init__(self, source, size):
        self._source = source
        self._size = size

    def __getattr__(self, name):
        return getattr(self._source, name)

    def get_tag_item(self, name, *namespace, bidx):
        return str(self._size) if "SIZE" in name else self._source.get_tag_item(name, *namespace, bidx=bidx)


def test_a_window_brings_its_tiles_in_few_aligned_requests(tmp_path):
    """Oracle: the tile index of the file, read by rasterio from disk."""
    served = tmp_path / "served"
    served.mkdir()
    values = np.random.default_rng(1).integers(1, 60_000, (1, 1500, 2000), np.uint16)
    with rasterio.open(
        served / "B04.tif", "w", driver="COG", dtype="uint16", count=1, height=1500, width=2000, nodata=0,
        crs="EPSG:32633", transform=Affine(10, 0, 4e5, 0, -10, 5.4e6), blocksize=512, compress="deflate",
    ) as target:  # fmt: skip
        target.write(values)
    storage = Storage(root=served)
    with rasterio.open(served / "B04.tif") as source:
        # Rows 600..1100 and columns 500..600 touch tile rows 1 and 2, tile columns 0 and 1.
        ranges = chunk_ranges(source, 1, (600, 500, 500, 100))
        tiles = [(1, 0), (1, 1), (2, 0), (2, 1)]
        for (start, stop), (row, col) in zip(ranges, tiles, strict=True):
            assert start == int(source.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1))
            assert stop - start == int(source.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=1))
        # A header that states gigabytes does not have them fetched ahead.
        assert chunk_ranges(Stating(source, 2 * 512 * 512 * 2), 1, (600, 500, 500, 100)) == [
            (start, start + 2 * 512 * 512 * 2) for start, _ in ranges
        ]
        assert chunk_ranges(Stating(source, 2 * 512 * 512 * 2 + 1), 1, (600, 500, 500, 100)) == []
    with serving(storage), Remote(HASTY) as remote, remote.opened(f"{storage.url}/B04.tif", "x") as opened:
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            rasterio.open(opened.name, opener=opened.opener, driver="GTiff") as source,
        ):
            opened.fetch(ranges)
            got = source.read(1, window=((600, 1100), (500, 600)))
        opened.raise_failure()
        np.testing.assert_array_equal(got, values[0, 600:1100, 500:600])
        # The header, and the two rows of tiles, each of which lies in one piece.
        asked = [one.byte_range for one in storage.asked]
        assert asked[0] == (0, HEAD_BYTES)
        pieces = [(ranges[0][0], ranges[1][1]), (ranges[2][0], ranges[3][1])]
        assert sorted(asked[-2:]) == pieces
        assert len(asked) <= 4
