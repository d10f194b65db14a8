"""A lock on a folder elsewhere. The services are moto's S3 on the loopback, and fsspec's memory.

Oracle: who is in the folder at each moment, while what may happen between two requests is made to happen.
"""

import json
import multiprocessing
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from landuse.errors import BusyError
from landuse.pipeline.write import lock as lock_module
from landuse.pipeline.write.folder import Store

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAUSERSOWN00000000", "AWS_SECRET_ACCESS_KEY": "users+s3cret/key"}


@pytest.fixture(scope="module")
def service():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def store(service, monkeypatch, request):
    """An empty folder in a bucket, which processes of their own reach too."""
    host, port = service
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="locks")
    client.close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # of the service that another test had
    return Store.at(f"s3://locks/{abs(hash(request.node.name))}")


def lock_file(**values):
    """What a lock's file holds, of a machine elsewhere."""
    now = datetime.now(UTC)
    told = {
        "owner": "other", "process": "process 7 of elsewhere", "machine": "elsewhere", "pid": 7,
        "since_utc": now.isoformat(), "until_utc": (now + timedelta(seconds=60)).isoformat(),
    }  # fmt: skip
    return json.dumps(told | values).encode()


EXPIRED = {"until_utc": "2024-06-01T00:00:00+00:00"}


def test_one_run_at_a_time_is_in_the_folder(store):
    with store.locked() as check:
        check()
        (name,) = store.names()
        told = json.loads(store.read(name))
        assert datetime.fromisoformat(told["since_utc"]) <= datetime.now(UTC)
        assert datetime.fromisoformat(told["until_utc"]) > datetime.now(UTC) + timedelta(minutes=5)
        says = (
            rf"Another run is at work in s3://locks/\d+: {told['process']}, since .* expires at \d\d:\d\d UTC"
        )
        with pytest.raises(BusyError, match=says), store.locked():
            pass
        assert store.names() == [name]
    assert store.names() == []
    with store.locked():
        pass


@pytest.mark.parametrize("content", [lock_file(**EXPIRED), b"", b"[]", b'{"until_utc": "2999-01-01"}'])
def test_what_has_expired_or_cannot_be_read_is_taken_over(store, content):
    store.write(".lock-000004", content)
    with store.locked():
        assert store.names() == [".lock-000005"]
    assert store.names() == []


def meanwhile(monkeypatch, action, *, before=True):
    """Have something happen just before the next file is created, or just after."""
    create, actions = Store.create, [action]

    def creating(store, name, content):
        todo = actions.pop() if actions else None
        if todo is not None and before:
            todo()
        made = create(store, name, content)
        if todo is not None and not before:
            todo()
        return made

    monkeypatch.setattr(Store, "create", creating)


def test_of_two_that_begin_at_once_one_goes_on(store, monkeypatch):
    with ExitStack() as first:
        meanwhile(monkeypatch, lambda: first.enter_context(store.locked()))
        with pytest.raises(BusyError, match="Another run is at work"), store.locked():
            pass
        assert len(store.names()) == 1


def test_of_two_that_take_over_one_goes_on(store, monkeypatch):
    store.write(".lock-000001", lock_file(**EXPIRED))
    with ExitStack() as first:
        meanwhile(monkeypatch, lambda: first.enter_context(store.locked()))
        with pytest.raises(BusyError, match="Another run is at work"), store.locked():
            pass
        assert store.names() == [".lock-000002"]


def test_a_lock_that_began_again_below_is_seen(store, monkeypatch):
    """The expired one is released, and a third run begins at its number, before this one takes over."""
    store.write(".lock-000001", lock_file(**EXPIRED))

    def begun_again():
        store.write(".lock-000001", lock_file(owner="third"))

    meanwhile(monkeypatch, begun_again)
    with pytest.raises(BusyError, match="process 7 of elsewhere"), store.locked():
        pass
    assert store.names() == [".lock-000001"]


def test_a_lock_is_renewed_and_its_loss_is_told(store, monkeypatch):
    monkeypatch.setattr(lock_module, "RENEW_S", 0.05)
    with store.locked() as check:
        first = store.read(".lock-000001")
        deadline = time.monotonic() + 30
        while store.read(".lock-000001") == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        check()
        store.write(".lock-000002", lock_file())
        with pytest.raises(BusyError, match=r"no longer this run's.*process 7 of elsewhere has taken over"):
            check()
    assert store.names() == [".lock-000002"]


def test_a_lock_that_was_not_renewed_is_lost(store, monkeypatch):
    monkeypatch.setattr(lock_module, "LOCK_S", 0.0)
    with store.locked() as check, pytest.raises(BusyError, match="was not renewed"):
        check()


def hold(url, held):
    with Store.at(url).locked():
        held.set()
        time.sleep(60)


def test_a_lock_of_a_process_that_was_killed_on_this_machine_is_over(store):
    spawned = multiprocessing.get_context("spawn")
    held = spawned.Event()
    process = spawned.Process(target=hold, args=(store.shown, held), daemon=True)
    process.start()
    assert held.wait(60)
    with pytest.raises(BusyError, match=f"process {process.pid} of"), store.locked():
        pass
    process.kill()
    process.join()
    with store.locked():
        assert store.names() == [".lock-000002"]


class Careless(type(fsspec.filesystem("memory"))):
    """Knows nothing of creating."""

    protocol = "careless"

    def pipe_file(self, path, value, mode="overwrite", **options):
        super().pipe_file(path, value)


def test_a_store_that_cannot_create_is_told_of(caplog):
    store = Store(shown="careless://map", path=None, filesystem=Careless(), root="/careless-map")
    with store.locked(), pytest.raises(BusyError, match="Another run is at work"), store.locked():
        pass
    assert "careless://map cannot create a file only where there is none" in caplog.text
    assert store.names() == []
