"""Blocks on dask: a task a block, on workers that this process starts or that a scheduler has.

Pixels never travel: a worker reads a block, writes its file and tells a few numbers. The plan goes to
the scheduler once and from there to each worker; a task names its block by number.
"""

from __future__ import annotations

import logging
import multiprocessing.resource_tracker
import queue
import signal
import tempfile
import threading
import time
import uuid
import weakref
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import dask
from dask.system import CPU_COUNT
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, get_worker
from distributed.protocol import pickle as dask_pickle

import landuse
from landuse.errors import ClusterError, ModelError, OutputError, UsageError
from landuse.model.memory import reused_memory
from landuse.pipeline.remote.files import Remote
from landuse.pipeline.remote.request_pool import Traffic
from landuse.pipeline.write.block_file import PLAN_FILE
from landuse.redact import redact_href
from landuse.workflows.mapping.classify_block import read_input
from landuse.workflows.mapping.in_process import BlockDone, finished_block, run_block
from landuse.workflows.mapping.map_area import with_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import Block
    from landuse.pipeline.providers import Provider
    from landuse.pipeline.remote.retry import RetryPolicy
    from landuse.pipeline.write.folder import Store
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.in_process import Cluster

THREADS = 2
"""Tasks at a time in a worker of ours: one is read while the network works on the other."""

ANSWER_S = 30.0
"""How long a scheduler may take to answer."""

WORKER_S = 60.0
"""How long a scheduler may be without any worker."""

LOOK_S = 2.0
"""Seconds between looks at which workers there are."""

DEATHS = 3
"""Workers of ours that one block may cost."""

_COMPUTING = threading.Lock()
"""Held in a worker while the network runs: it has all of the worker's cores, or its GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs to know to do any block of a plan."""

    plan: RunPlan
    """Of the map."""
    folder: Store
    """Where finished blocks lie."""
    cluster: Cluster
    """Which model to load."""
    policy: RetryPolicy
    """Patience with imagery."""
    providers: tuple[Provider, ...]
    """Beside the known ones."""
    any_host: bool
    """Whether what comes from the web may lead to private hosts."""
    scratch: Path | None = None
    """Folder for what is fetched; None takes the worker's own."""
    threads: int | None = None
    """Of the network, on a CPU; None takes as many as the worker was given."""
    gpus: int = 0
    """Of this machine, for its workers to share; 0 where a worker has a device of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a task returns."""

    done: BlockDone
    """The block."""
    site: str
    """Who did it."""
    traffic: Traffic
    """What it fetched so far for this run."""


class Site:
    """A worker process at work on a job: its model, and what it fetched. It travels as a recipe.

    As the result of a task it is made again wherever it is lost, and its files are closed when the run
    that asked for it ends or goes away.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.name = uuid.uuid4().hex
        self._remote: Remote | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[[bytes], Site], tuple[bytes]]:
        return _site, (_packed(self.job),)

    def do(self, number: int) -> Told:
        """Do a block of the plan, unless its file is there: a worker may die when it has just written it."""
        plan, folder = self.job.plan, self.job.folder
        block = plan.blocks[number]
        remote = self._open()
        done = finished_block(plan, block, folder)
        if done is None:
            given = read_input(plan, block, remote)
            with _COMPUTING:
                classifier = self._classifier()
            done = run_block(plan, block, given, classifier, folder, _COMPUTING)
        return Told(done=done, site=self.name, traffic=remote.traffic)

    def _open(self) -> Remote:
        with self._lock:
            if self._remote is None:
                self._check()
                job = self.job
                scratch = job.scratch or Path(get_worker().local_directory)
                self._remote = Remote(
                    job.policy, providers=job.providers, folder=scratch, any_host=job.any_host
                )
                weakref.finalize(self, self._remote.__exit__, None, None, None)
                memory = ExitStack()
                memory.enter_context(reused_memory())
                weakref.finalize(self, memory.close)
            return self._remote

    def _check(self) -> None:
        job = self.job
        worker = get_worker().address
        if job.plan.version != landuse.__version__:
            raise UsageError(
                f"Worker {worker} runs landuse {landuse.__version__}, the plan is of {job.plan.version}. "
                "Install the same version on every machine."
            )
        if PLAN_FILE not in job.folder.names():
            raise OutputError(
                f"Worker {worker} does not see {job.folder}. Give an --out that every worker and this "
                "machine share: a common folder, or a URL such as s3://bucket/folder."
            )

    def _classifier(self) -> Classifier:
        import torch

        worker, cluster = get_worker(), self.job.cluster
        # dask starts workers with one thread for numerical libraries; a thread's own setting counts.
        torch.set_num_threads(self.job.threads or worker.state.nthreads)
        device = worker_device(cluster.device, worker.name, self.job.gpus)
        plan = self.job.plan
        return _loaded(cluster.load, cluster.model, device, plan.weights_sha256, plan.precision)


@lru_cache(maxsize=1)
def _loaded(
    load: Callable[[str, str], Classifier], model: str, device: str, weights_sha256: str, precision: str
) -> Classifier:
    """The model in the plan's precision, kept in the process for the next run of the same."""
    classifier = load(model, device)
    if classifier.weights_sha256 != weights_sha256:
        raise ModelError(
            f"Worker {get_worker().address}: the file of model {model} has sha256 "
            f"{classifier.weights_sha256[:12]}, the plan's has {weights_sha256[:12]}. Give every worker the "
            "same file."
        )
    return with_precision(classifier, precision) if precision else classifier


def worker_device(device: str, name: object, gpus: int) -> str:
    """The device of a worker: of this machine's GPUs each worker has one, in turn where they are too few.

    Args:
        device: as asked for.
        name: of the worker; those of this machine are numbered from 0.
        gpus: of this machine; 0 where the worker is elsewhere.
    """
    return f"cuda:{int(str(name)) % gpus}" if gpus and device in ("auto", "cuda") else device


def _packed(job: Job) -> bytes:
    """A job as dask sends it, made small: a country's plan takes megabytes, which a scheduler keeps."""
    return zlib.compress(dask_pickle.dumps(job))


def _site(packed: bytes) -> Site:
    """The site of a packed job, in the worker."""
    job: Job = dask_pickle.loads(zlib.decompress(packed))
    return Site(job)


def _do(site: Site, number: int) -> Told:
    return site.do(number)


@contextmanager
def workers(
    cluster: Cluster,
    *,
    policy: RetryPolicy,
    providers: Sequence[Provider],
    scratch: Path | None,
    any_host: bool = False,
) -> Iterator[Workers]:
    """The workers of a scheduler, or workers of our own, which end with the context.

    Args:
        cluster: whose workers.
        policy: patience with imagery.
        providers: beside the known ones.
        scratch: folder for what workers of our own fetch.
        any_host: whether what comes from the web may lead to private hosts.

    Raises:
        ClusterError: they cannot be reached or started.
    """
    job = partial(Job, cluster=cluster, policy=policy, providers=tuple(providers), any_host=any_host)
    with _quiet():
        if cluster.scheduler is None:
            with _own_workers(cluster.workers) as own, _client(own, own.scheduler_address) as client:
                client.forward_logging("landuse")
                threads = max(1, CPU_COUNT // cluster.workers)
                gpus = _gpus() if cluster.device in ("auto", "cuda") else 0
                scratch = None if scratch is None else scratch.absolute()
                yield Workers(client, "of our own", partial(job, scratch=scratch, threads=threads, gpus=gpus))
        else:
            shown = redact_href(cluster.scheduler)
            with _client(cluster.scheduler, shown) as client:
                yield Workers(client, shown, job)


@contextmanager
def _quiet() -> Iterator[None]:
    """What matters of dask's own messages comes back as an error of ours."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


@contextmanager
def _client(scheduler: str | LocalCluster, shown: str) -> Iterator[Client]:
    try:
        client = Client(scheduler, timeout=ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:  # dask's TimeoutError is an OSError
        raise ClusterError(
            f"Scheduler {shown} cannot be reached ({str(error) or 'no answer'}). Check --scheduler, and that "
            "`dask scheduler` runs there."
        ) from error
    with client:
        yield client


@contextmanager
def _own_workers(count: int) -> Iterator[LocalCluster]:
    settings = {
        "distributed.scheduler.allowed-failures": DEATHS - 1,
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    }
    with tempfile.TemporaryDirectory(prefix="landuse-workers-") as folder:
        try:
            with dask.config.set(settings), _without_interrupts():
                own = LocalCluster(
                    n_workers=count,
                    threads_per_worker=THREADS,
                    memory_limit=0,  # what torch and GDAL take is no memory that dask could spill
                    dashboard_address="127.0.0.1:0",  # dask opens a port even for none, and a fixed one
                    scheduler_kwargs={"dashboard": False},
                    local_directory=folder,
                    silence_logs=False,
                )
        except (OSError, RuntimeError) as error:
            raise ClusterError(
                f"{count} workers cannot be started ({error}). Give fewer --workers."
            ) from error
        with own:
            yield own


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started here, threads and processes, never gets a Ctrl-C: this process handles it."""
    # Starting this helper of Python's would unblock the signal.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers:
    """Runs blocks on workers that are connected."""

    def __init__(self, client: Client, shown: str, job: Callable[..., Job]) -> None:
        """Nothing runs yet.

        Args:
            client: of the scheduler.
            shown: what messages call the scheduler.
            job: makes a job of its last two fields, ``plan`` and ``folder``.
        """
        self._client = client
        self._shown = shown
        self._job = job
        self._seen_s = self._looked_s = -LOOK_S

    def run(
        self, plan: RunPlan, blocks: Sequence[Block], folder: Store, on_done: Callable[[BlockDone], None]
    ) -> Traffic:
        """Do the blocks, a task each.

        Returns:
            What the workers fetched, but for what they did not live to tell.

        Raises:
            ClusterError: the scheduler or all workers are gone, or a block costs one worker after the other.
            LanduseError: what a worker met.
        """
        job = self._job(plan=plan, folder=folder.absolute())
        run = f"landuse-{uuid.uuid4().hex[:12]}"
        with self._reaching():
            site = self._client.submit(_site, _packed(job), key=f"{run}-site")
        number_of = {block: number for number, block in enumerate(plan.blocks)}
        following = iter(blocks)
        pending: set[Future[Told]] = set()
        traffic: dict[str, Traffic] = {}
        ended: queue.SimpleQueue[Future[Told]] = queue.SimpleQueue()
        self._seen_s = time.monotonic()
        room = spare = 0
        while True:
            if time.monotonic() - self._looked_s > LOOK_S:
                room, spare = self._look()
            # Few at a time: a scheduler need not know a country's blocks, and a worker that dies makes
            # everything suspicious that waits for it. On many workers several go in one message, which says
            # once what is the same for all.
            free = room - len(pending)
            if free >= max(spare // 2, 1):
                numbers = [number_of[block] for block in islice(following, free)]
                for future in self._submit(plan, numbers, site, run):
                    pending.add(future)
                    future.add_done_callback(ended.put)
            if not pending and (room or not blocks):
                return sum(traffic.values(), Traffic(requests=0, fetched_bytes=0))
            try:
                future = ended.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            told = self._told(future)
            if told is None:
                future.add_done_callback(ended.put)
                continue
            pending.remove(future)
            traffic[told.site] = told.traffic
            on_done(told.done)

    def _submit(
        self, plan: RunPlan, numbers: Sequence[int], site: Future[Site], run: str
    ) -> Sequence[Future[Told]]:
        """The tasks of some blocks of the plan, in one message."""
        if not numbers:
            return []
        keys = [f"{run}-{plan.blocks[number].name}" for number in numbers]
        with self._reaching():
            if len(numbers) == 1:  # for which this is the shorter message
                return [self._client.submit(_do, site, numbers[0], key=keys[0])]
            return self._client.map(_do, [site] * len(numbers), numbers, key=keys)

    def _look(self) -> tuple[int, int]:
        """How many tasks the workers there are have use for, and how many of these only wait.

        Raises:
            ClusterError: there are none, and have been none for too long.
        """
        with self._reaching():
            threads = self._client.nthreads()
        self._looked_s = time.monotonic()
        if threads:
            self._seen_s = self._looked_s
        elif self._looked_s - self._seen_s > WORKER_S:
            raise self._error(f"has had no worker for {WORKER_S:.0f} s", "Start workers with `dask worker`")
        return int(sum(threads.values())) + len(threads), len(threads)

    def _told(self, future: Future[Told]) -> Told | None:
        """What a task that ended returned; None where that was lost with its worker and is done again."""
        with self._reaching():
            error = future.exception()
        if isinstance(error, KilledWorker):
            block = str(error.task).rpartition("-")[2]
            raise ClusterError(
                f"Block {block} was begun {error.allowed_failures + 1} times, and each time its worker died, "
                f"the last one at {error.last_worker.address}. Memory is the usual reason: give workers more "
                "of it, or a smaller --block-px, and run again; finished blocks are kept."
            )
        if error is not None:
            raise error
        with self._reaching():
            try:
                told: Told = future.result(timeout=ANSWER_S)
            except TimeoutError:
                return None
        return told

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """While the scheduler is asked."""
        try:
            yield
        except (CancelledError, OSError) as error:  # CommClosedError is an OSError
            raise self._error("was lost", "Start it again") from error

    def _error(self, what: str, mend: str) -> ClusterError:
        return ClusterError(
            f"Scheduler {self._shown} {what}. {mend} and run again; finished blocks are kept."
        )
