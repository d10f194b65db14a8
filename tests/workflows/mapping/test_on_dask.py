"""Blocks on dask workers, which are real processes. Oracle: the map that this process makes, bit for bit.

The model is one of pixels, in cells of 10 m.
"""

import os
import pickle
import re
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from distributed.protocol import dumps

from landuse.errors import ClusterError, ModelError, OutputError, UsageError
from landuse.pipeline.blocks.plan import cut_into_blocks
from landuse.pipeline.remote.request_pool import Traffic
from landuse.pipeline.write.folder import Store
from landuse.workflows.mapping import on_dask as cluster_module
from landuse.workflows.mapping.in_process import BlockDone, Cluster, Stage
from landuse.workflows.mapping.map_area import load_classifier, map_area, requested_cluster
from landuse.workflows.mapping.on_dask import Told, Workers, worker_device
from landuse.workflows.mapping.request import MapRequest
from tests.commands import interruptible, spawn
from tests.servers import file_server, free_port
from tests.warm import Warm
from tests.workflows.loaders import deadly, other_weights
from tests.workflows.pixel_models import BLOCK_PX, BLOCKS, small_scene
from tests.workflows.previews import drawn_previews
from tests.workflows.small_maps import assert_same_files, catalog_of, files_of
from tests.workflows.world import assert_same_map

DASK = Path(sys.executable).with_name("dask")
MODEL = "balanced-pixel"


def own(model, **options):
    """A cluster whose workers load the model themselves."""
    return Cluster(**{"model": model, "device": "cpu", "load": load_classifier, **options})


def request(source, out, **options):
    return MapRequest(
        **{"source": str(source), "area": None, "dates": None, "out": out, "block_px": BLOCK_PX, **options}
    )


@pytest.fixture(scope="module", autouse=True)
def _drawn_previews():
    """Maps of other processes are compared with those of this one."""
    with drawn_previews():
        yield


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # As many as each worker here has: with other numbers, convolutions are the same to some 1e-6 only, and
    # of thousands of cells one may fall to the other side of a step of 1/250.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A catalogue, a model of pixels and the map of it that this process makes."""
    folder = tmp_path_factory.mktemp("scene")
    source, model = small_scene(folder)
    report = map_area(request(source, folder / "here"), load_classifier(model, "cpu"))
    assert (len(report.plan.blocks), report.plan.engine, report.plan.cell_m) == (BLOCKS, "pixels", 10.0)
    return source, model, folder / "here"


@contextmanager
def dask_process(*arguments):
    with Warm(
        [DASK, *arguments], needs=["distributed.cli.dask_scheduler", "distributed.cli.dask_worker"]
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=30)


@contextmanager
def scheduler():
    """The address of a scheduler in a process of its own, and the process."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    options = ("--host", "127.0.0.1", "--port", port, "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    with dask_process("scheduler", *options) as process:
        wait_until(lambda: can_connect(port))
        yield address, process


def can_connect(port):
    import socket

    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker(address, tmp_path, name):
    options = ("--nthreads", 1, "--no-nanny", "--memory-limit", 0, "--no-dashboard", "--name", name)
    return dask_process("worker", address, *options, "--local-directory", tmp_path / name)


@pytest.fixture
def threads():
    """The address of a scheduler whose one worker is a thread of this process."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False}, memory_limit=0,
    ) as local:  # fmt: skip
        yield local.scheduler_address


@pytest.mark.slow
def test_the_command_with_two_workers_of_its_own_makes_the_same_map(data_dir, tmp_path):
    """Real pixels and the shipped network, whose convolutions must not depend on their threads."""
    image = data_dir / "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif"
    source = catalog_of(tmp_path, image)
    options = ("map", "--source", source, "--block-px", "128", "--json")
    options += ("--bbox", "13.107,48.275,13.121,48.284")
    here = spawn(*options, "--out", tmp_path / "here")
    there = spawn(*options, "--out", tmp_path / "there", "--workers", "2", cold=True)
    assert (here.code, there.code) == (0, 0), there.err
    warned = [[line for line in ran.err.splitlines() if line.startswith("WARNING")] for ran in (here, there)]
    assert warned[0] == warned[1]
    assert_same_files(tmp_path / "there", tmp_path / "here")
    assert not list((tmp_path / "there").glob(".*"))


@pytest.mark.usefixtures("warm_workers")
def test_results_go_where_fsspec_leads_and_workers_too(scene, tmp_path):
    """A folder that is no local one to landuse, shared with processes; hrefs of a server, which count."""
    source, model, here = scene
    url = f"dir::file://{tmp_path}/there"
    out = tmp_path / "there" / str(tmp_path / "there")[1:]  # fsspec takes a path after dir:: for its own too
    out.parent.mkdir(parents=True)
    with file_server(Path(source).parent) as served:
        report = map_area(
            request(f"{served.url}/catalog.json", url),
            load_classifier(model, "cpu"),
            cluster=own(model, workers=2),
        )
    assert report.traffic.fetched_bytes > 0
    made, run = files_of(out)
    assert run["cover"]["valid"] == 1
    assert "landuse.gpkg" in made
    assert_same_map(out, here)
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_workers_killed_at_random_and_a_cancelled_run_cost_their_blocks_only(scene, tmp_path):
    """One worker is killed, the run is cancelled, it is gone on with, and another worker is killed."""
    source, model, here = scene
    moment = np.random.default_rng()  # any moment will do
    first, cancelled, second = np.sort(moment.choice(np.arange(1, BLOCKS - 2), 3, replace=False))
    written, runs = {}, []

    def on_progress(progress):
        for path in (tmp_path / "map").glob(".blocks-*/*.npz"):
            assert written.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if progress.stage is Stage.SEARCH:
            runs.append("run")
        if progress.blocks_done >= first:
            processes["one"].kill()
        if len(runs) == 1 and progress.blocks_done >= cancelled:
            raise KeyboardInterrupt
        if progress.blocks_done >= second:
            processes["two"].kill()

    with scheduler() as (address, _), ExitStack() as stack:
        processes = {name: stack.enter_context(worker(address, tmp_path, name)) for name in ("one", "two")}
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        asked = request(source, tmp_path / "map"), load_classifier(model, "cpu"), on_progress
        with pytest.raises(KeyboardInterrupt, match=f"{cancelled} of {BLOCKS} blocks are finished"):
            map_area(*asked, own(model, scheduler=address))
        processes["three"] = stack.enter_context(worker(address, tmp_path, "three"))
        with Client(address, set_as_default=False) as client:
            wait_until(lambda: len(client.nthreads()) == 2)  # the second and the third
        report = map_area(*asked, own(model, scheduler=address))
    assert len(written) >= BLOCKS - 2, (first, cancelled, second)
    assert report.pixels > report.plan.rows * report.plan.cols
    assert_same_files(tmp_path / "map", here)


def test_a_lost_scheduler_and_no_worker_are_one_error_each(scene, tmp_path, monkeypatch):
    source, model, here = scene
    out = tmp_path / "map"
    monkeypatch.setattr(cluster_module, "WORKER_S", 1.0)
    monkeypatch.setattr(cluster_module, "LOOK_S", 0.2)
    with scheduler() as (address, process):
        there = own(model, scheduler=address)
        with pytest.raises(ClusterError, match=f"{address} has had no worker for 1 s.*dask worker"):
            map_area(request(source, out), load_classifier(model, "cpu"), cluster=there)
        with worker(address, tmp_path, "one"):
            monkeypatch.setattr(cluster_module, "WORKER_S", 60.0)

            def on_progress(progress):
                if progress.blocks_done == 2:
                    process.kill()

            with pytest.raises(ClusterError, match=f"{address} was lost.*finished blocks are kept"):
                map_area(request(source, out), load_classifier(model, "cpu"), on_progress, there)
    monkeypatch.setattr(cluster_module, "ANSWER_S", 0.5)
    with pytest.raises(ClusterError, match=f"{address} cannot be reached.*--scheduler"):
        map_area(request(source, out), load_classifier(model, "cpu"), cluster=there)
    assert len(list(out.glob(".blocks-*/*.npz"))) >= 2
    map_area(request(source, out), load_classifier(model, "cpu"))
    assert_same_files(out, here)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_a_block_that_kills_its_workers_is_named(scene, tmp_path):
    source, model, _ = scene
    with pytest.raises(ClusterError, match=r"r\d+_c\d+ was begun 3 times.*--block-px.*are kept"):
        map_area(
            request(source, tmp_path / "map"),
            load_classifier(model, "cpu"),
            cluster=own(model, workers=1, load=deadly),
        )
    assert not (tmp_path / "map" / "run.json").exists()


def test_workers_with_other_files_are_refused(scene, tmp_path, threads):
    source, model, _ = scene
    with pytest.raises(
        ModelError, match=r"sha256 111111111111, the plan's has [0-9a-f]{12}\..*the same file"
    ):
        map_area(
            request(source, tmp_path / "map"),
            load_classifier(model, "cpu"),
            cluster=own(model, scheduler=threads, load=other_weights),
        )


def test_threads_of_a_cluster_keep_results_in_memory(scene, tmp_path, threads):
    source, model, here = scene
    there = own(model, scheduler=threads)
    map_area(request(source, "memory://somewhere/map"), load_classifier(model, "cpu"), cluster=there)
    memory = fsspec.filesystem("memory")
    with pytest.raises(UsageError, match=r"memory://somewhere/map already holds landuse\.tif"):
        map_area(request(source, "memory://somewhere/map"), load_classifier(model, "cpu"), cluster=there)
    memory.get("/somewhere/map", str(tmp_path / "map"), recursive=True)
    assert_same_files(tmp_path / "map", here)


def test_a_task_is_a_few_hundred_bytes(scene, tmp_path, threads, monkeypatch):
    """Oracle: what the client really sends, as dask puts it on the wire."""
    source, model, _ = scene
    sent = []
    send = Client._send_to_scheduler

    def counted(self, message):
        if message["op"] == "update-graph":
            sent.append((len(message["keys"]), sum(map(len, dumps(message)))))
        return send(self, message)

    monkeypatch.setattr(Client, "_send_to_scheduler", counted)
    map_area(
        request(source, tmp_path / "map"),
        load_classifier(model, "cpu"),
        cluster=own(model, scheduler=threads),
    )
    (_, site), *messages = sent
    tasks = sum(count for count, _ in messages)
    assert tasks == BLOCKS
    assert sum(size for _, size in messages) < 1_000 * tasks
    assert site < 10_000
    assert len(pickle.dumps(BlockDone(name="r000000_c000000", patches=1, pixels=0, failures=0))) < 500


def test_many_workers_get_several_tasks_in_a_message_and_never_too_few(monkeypatch):
    """Oracle: the least of tasks that the workers' threads need, at each moment."""
    least, messages, waiting = [], [], []
    threads = {f"tcp://worker-{number}": 2 for number in range(16)}

    class Ended:
        """A task's future, which ends when it is asked for."""

        def __init__(self, key):
            self.key = key
            waiting.append(self)

        def add_done_callback(self, tell):
            self.tell = tell

        def exception(self):
            return None

        def result(self, timeout):
            done = BlockDone(name=self.key, patches=0, pixels=1, failures=0)
            return Told(done=done, site="site", traffic=Traffic(requests=0, fetched_bytes=0))

    class Scheduler:
        def nthreads(self):
            return threads

        def submit(self, function, *given, key):
            if key.endswith("-site"):
                return None
            messages.append(1)
            return Ended(key)

        def map(self, function, sites, numbers, key):
            messages.append(len(numbers))
            return [Ended(one) for one in key]

    class Plan:
        blocks = cut_into_blocks(40, 50, 1)

    workers = Workers(Scheduler(), "many", lambda plan, folder: None)
    monkeypatch.setattr(cluster_module, "_packed", lambda job: b"")
    seen = []

    def on_done(done):
        seen.append(done.name)

    class Queue:
        """Gives the task that waits for longest."""

        def __init__(self):
            self.ended = []

        def put(self, future):
            self.ended.append(future)

        def get(self, timeout):
            least.append((len(waiting), 2000 - len(seen)))
            return waiting.pop(0)

    monkeypatch.setattr(cluster_module.queue, "SimpleQueue", Queue)
    workers.run(Plan(), Plan.blocks, Store.at("any"), on_done)
    assert len(seen) == len(set(seen)) == 2000
    assert all(here >= min(32, left) for here, left in least)
    assert max(here for here, _ in least) <= 48
    assert len(messages) < 2000 / 7


@pytest.mark.parametrize(
    ("device", "name", "gpus", "expected"),
    [
        ("cuda", 0, 4, "cuda:0"),
        ("cuda", 3, 4, "cuda:3"),
        ("auto", 5, 4, "cuda:1"),
        ("auto", 1, 0, "auto"),
        ("cpu", 1, 4, "cpu"),
        ("cuda:2", 1, 4, "cuda:2"),
        ("cuda", "tcp://elsewhere:1", 0, "cuda"),
    ],
)
def test_workers_of_a_machine_have_a_gpu_each(device, name, gpus, expected):
    assert worker_device(device, name, gpus) == expected


@pytest.mark.parametrize(
    ("scheduler", "workers", "says"),
    [
        ("tcp://a:1", 2, "both given"),
        (None, 0, "--workers 0"),
        ("a:8786", None, "no address"),
        ("tcp://u:s3cret@a", None, "'tcp://a' is no address"),
    ],
)
def test_a_wrong_cluster_is_refused(scheduler, workers, says):
    with pytest.raises(UsageError, match=says):
        requested_cluster(scheduler, workers, MODEL, "cpu")
    assert requested_cluster(None, None, MODEL, "cpu") is None


def test_a_model_of_ones_own_is_named_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.safetensors").touch()
    assert (
        requested_cluster("tcp://a:1", None, "own.safetensors", "cpu").model == f"{tmp_path}/own.safetensors"
    )
    assert requested_cluster("tls://a:1", None, MODEL, "cpu") == Cluster(
        scheduler="tls://a:1", model=MODEL, device="cpu", load=load_classifier
    )


def children_of(pid):
    """Processes below one, by Linux's own list."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children_of(child)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_run(scene, tmp_path, kind):
    """Ctrl-C reaches the whole group at once; of SIGKILL only the main process dies."""
    source, model, here = scene
    out = tmp_path / "map"
    code = (
        "from landuse.cli import app\n"
        "import landuse.workflows.mapping.map_area as m, tests.workflows.loaders as l\n"
        "m.load_classifier = l.slow\n"
        "if __name__ == '__main__': app()"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    options = ("--source", source, "--model", model, "--out", out, "--block-px", BLOCK_PX, "--workers", 2)
    with interruptible(
        [sys.executable, script, "map", *options],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        wait_until(lambda: list(out.glob(".blocks-*/*.npz")) or process.poll() is not None)
        assert process.poll() is None
        family = children_of(process.pid)
        assert len(family) >= 2
        (os.killpg if kind == signal.SIGINT else os.kill)(process.pid, kind)
        stdout, stderr = process.communicate(timeout=60)
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in family))
    if kind == signal.SIGINT:
        assert (process.returncode, stdout) == (130, ""), stderr
        said = stderr.splitlines()[-1]
        assert re.fullmatch(
            f"Interrupted: \\d+ of {BLOCKS} blocks are finished. Run the same command .*", said
        )
    assert not list(out.glob(".blocks-*/.partial*")) or kind == signal.SIGKILL
    map_area(request(source, out), load_classifier(model, "cpu"))
    assert_same_files(out, here)


def test_a_folder_that_workers_do_not_see_is_refused(scene, tmp_path, threads, monkeypatch):
    source, model, _ = scene
    from landuse.pipeline.write.folder import Store

    monkeypatch.setattr(Store, "absolute", lambda self: self.child("elsewhere"))
    with pytest.raises(OutputError, match=r"does not see .*map/.*share"):
        map_area(
            request(source, tmp_path / "map"),
            load_classifier(model, "cpu"),
            cluster=own(model, scheduler=threads),
        )
