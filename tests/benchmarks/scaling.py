"""How much faster a map is made by two dask workers of one core each than by one.

``python -m tests.benchmarks.scaling`` starts a scheduler with one worker and another with two. Each worker is
a process of its own, kept to one core, and has the shipped network compute blocks of the simulated landscape.
The same map is made on both by turns. What counts is the time from the first block to the last (``map`` of
the report): planning and writing are done by the process that asks, whatever the number of workers. The
efficiency is the time on one worker over that on two, halved.

Others' work on the machine, and two cores that share a memory or a frequency, slow two workers down as well.
So by turns with these a control has two processes, kept to the same cores, run the network alone, each on
half of the land, against one on all of it: what the machine would allow without dask. And the workers'
processor seconds are told: those of one over twice those of the busier of two is the efficiency of a machine
where nobody else is at work, but for what workers wait.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.in_process import Cluster
from landuse.workflows.mapping.map_area import load_classifier, map_area
from landuse.workflows.mapping.request import MapRequest
from tests.benchmarks.full_tile import BANDS, write_tile
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 60
"""Seconds within which workers answer."""


@contextmanager
def workers(cores: list[int], folder: Path) -> Iterator[str]:
    """The address of a scheduler with a worker of one thread on each of some cores."""
    from distributed import Client

    with ExitStack() as stack:

        def start(*arguments: str, core: int | None = None) -> None:
            command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
            pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
            log = stack.enter_context((folder / f"{arguments[0]}-{len(cores)}-{core}.log").open("w"))
            process = subprocess.Popen([*pinned, *command], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)

        port = free_port()
        address = f"tcp://127.0.0.1:{port}"
        start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        for core in cores:
            start(
                "worker", address, "--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--no-dashboard",
                "--local-directory", str(folder / f"worker-{len(cores)}-{core}"), core=core,
            )  # fmt: skip
        with Client(address, timeout=START_S, set_as_default=False) as client:
            client.wait_for_workers(len(cores), timeout=START_S)
        yield address


def _pin(cores: object) -> None:
    """Keep a process of the control to a core, and have it load the network."""
    global _classifier
    import torch

    os.sched_setaffinity(0, {cores.get()})  # type: ignore[attr-defined]  # a queue of multiprocessing
    torch.set_num_threads(1)
    _classifier = load_classifier("balanced-pixel", "cpu")


def _compute(sides: list[int]) -> None:
    """The network alone over squares of some sides."""
    rng = np.random.default_rng(0)
    for side in sides:
        dn = rng.integers(300, 3000, (len(BANDS), side, side)).astype(np.uint16)
        _classifier.pixel_scores(dn, BANDS, "L2A")


def _seconds(pool: ProcessPoolExecutor, shares: list[list[int]]) -> float:
    began = time.monotonic()
    for future in [pool.submit(_compute, share) for share in shares]:
        future.result()
    return time.monotonic() - began


def catalogued(folder: Path, tile: Path) -> str:
    """The catalogue of a tile."""
    asked = CatalogRequest(
        rasters=(tile,), level="L2A", acquired_utc=datetime(2024, 6, 1, 10, tzinfo=UTC), baseline="05.10",
        out=folder / "catalog",
    )  # fmt: skip
    return str(catalog_rasters(asked).catalog)


def _used(address: str) -> dict[str, float]:
    """Processor seconds of each worker so far."""
    from distributed import Client

    with Client(address, timeout=START_S, set_as_default=False) as client:
        return client.run(time.process_time)


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Print seconds of each round, the efficiency and that of the control."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side-px", type=int, default=512)
    parser.add_argument("--block-px", type=int, default=128)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("This process may use one core only, and two are compared. Give it two.")
    kinds = ("one", "two", "processor_one", "processor_two", "control_one", "control_two")
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        source = catalogued(folder, write_tile(folder, given.side_px))
        asked = {
            "one": stack.enter_context(workers(cores[:1], folder)),
            "two": stack.enter_context(workers(cores, folder)),
        }
        pools = {}
        for which, used in (("control_one", cores[:1]), ("control_two", cores)):
            queue = get_context("spawn").Queue()
            for core in used:
                queue.put(core)
            pools[which] = stack.enter_context(
                ProcessPoolExecutor(len(used), get_context("spawn"), initializer=_pin, initargs=(queue,))
            )
        classifier = load_classifier("balanced-pixel", "cpu")
        request = MapRequest(
            source=source, area=None, dates=None, out=folder / "map", block_px=given.block_px, overwrite=True
        )
        blocks = (-(-given.side_px // given.block_px)) ** 2
        side = given.block_px + 128  # with its surroundings, about
        shares = {"control_one": [[side] * blocks], "control_two": [[side] * (blocks // 2)] * 2}
        for number in range(given.rounds + 1):  # the first only warms everything up
            for which, address in asked.items():
                cluster = Cluster(
                    scheduler=address, model="balanced-pixel", device="cpu", load=load_classifier
                )
                before = _used(address)
                report = map_area(replace(request, out=folder / f"map-{which}"), classifier, cluster=cluster)
                if number:
                    seconds[which].append(report.seconds["map"])
                    after = _used(address)
                    seconds[f"processor_{which}"].append(max(after[one] - before[one] for one in after))
            for which, pool in pools.items():
                took = _seconds(pool, shares[which])
                if number:
                    seconds[which].append(took)
    ratio = {
        two: [one / both / 2 for one, both in zip(seconds[alone], seconds[two], strict=True)]
        for alone, two in zip(kinds[::2], kinds[1::2], strict=True)
    }
    load = os.getloadavg()[0]
    print(
        f"{blocks} blocks of {given.block_px} px, {given.rounds} rounds by turns: medians (least to greatest)"
    )
    for what, alone, two in (
        ("dask workers of one core", "one", "two"),
        ("processor seconds of the busier of these", "processor_one", "processor_two"),
        ("the network alone in processes of one core", "control_one", "control_two"),
    ):
        print(
            f"{what:43} one {spread(seconds[alone])} s, two {spread(seconds[two])} s: efficiency "
            f"{spread(ratio[two])}"
        )
    print(f"{time.monotonic() - began:.0f} s in all; load of the machine {load:.1f}")
    if given.json:
        given.json.write_text(json.dumps({"seconds": seconds, "efficiency": ratio, "load": load}, indent=1))


if __name__ == "__main__":
    main()
