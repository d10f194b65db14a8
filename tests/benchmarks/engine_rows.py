"""What ``engine.py`` times, a process for each row: a job comes as JSON, what was found goes back so.

Not timed: importing, loading the model, and a first batch. Files are in the system's cache.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import torch
from engine_meters import Clock, Memory, Timed, peak_rss_mb, warm
from engine_obvious import map_obviously

from landuse.model.checkpoint import load_checkpoint, model_path
from landuse.model.networks import fold_norms
from landuse.model.normalize import bring_to_input, standardize
from landuse.model.predict import Predictor
from landuse.pipeline.remote.files import Remote
from landuse.workflows.mapping.classify_block import read_input, work_of
from landuse.workflows.mapping.map_area import find_scenes, map_area, plan_map, requested_cluster
from landuse.workflows.mapping.request import MapRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from landuse.contract import ModelContract
    from landuse.pipeline.blocks.plan import RunPlan

BATCHES = (16, 32, 64, 128, 256)
LEAST_S, MOST_S = 2.0, 15.0
"""How long a network alone is timed; the patches that are left by then are taken to go as fast."""


def request(job: dict) -> MapRequest:
    """What a user of the catalogue asks for."""
    return MapRequest(
        source=job["catalog"], area=None, dates=None, out=Path(job["out"]), stride_px=job["stride_px"],
        engine=job["engine"], overwrite=True,
    )  # fmt: skip


def plan_of(job: dict, predictor: Predictor) -> RunPlan:
    """How that is mapped."""
    asked = request(job)
    return plan_map(asked, predictor, find_scenes(asked, predictor.contract).scenes)


def files_of(job: dict, contract: ModelContract) -> list[Path]:
    """The bands' files, in the model's order."""
    return [next(Path(job["catalog"]).parent.rglob(f"{band}.tif")) for band in contract.bands]


def read(job: dict) -> dict:
    """Every block's pixels as a run reads them, and no network."""
    plan = plan_of(job, Predictor.load(job["model"], "cpu"))
    with Remote() as remote, Clock() as clock:
        for block in plan.blocks:
            read_input(plan, block, remote)
    return clock.times()


def bare_network(job: dict) -> tuple[torch.nn.Module, ModelContract, Callable[[np.ndarray], torch.Tensor]]:
    """The network as the product runs it (norms folded), its contract, and what brings DN to its input."""
    network, contract = load_checkpoint(model_path(job["model"]))
    fold_norms(network)
    network = network.eval().to(memory_format=torch.channels_last)

    def to_input(dn: np.ndarray) -> torch.Tensor:
        x = standardize(bring_to_input(torch.from_numpy(dn), contract, job["level"]), contract)
        return x.contiguous(memory_format=torch.channels_last)

    return network, contract, to_input


def pixels(job: dict, contract: ModelContract, rows: int, cols: int) -> np.ndarray:
    """``(band, rows, cols)`` DN of the tile's corner, repeated where the tile is smaller."""
    bands = []
    for file in files_of(job, contract):
        with rasterio.open(file) as source:
            band = source.read(1, window=((0, min(rows, source.height)), (0, min(cols, source.width))))
        bands.append(np.pad(band, [(0, rows - band.shape[0]), (0, cols - band.shape[1])], mode="wrap"))
    return np.stack(bands)


def patches(job: dict, contract: ModelContract) -> np.ndarray:
    """``(1024, band, 64, 64)`` DN."""
    wide = pixels(job, contract, 32 * 64, 32 * 64)
    cut = wide.reshape(len(wide), 32, 64, 32, 64).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(cut.reshape(1024, len(wide), 64, 64))


@torch.inference_mode()
def batches(job: dict) -> dict:
    """Patches/s of a bare ``network(batch)`` loop by batch size, and of the product's own batches."""
    network, contract, to_input = bare_network(job)
    dn = patches(job, contract)
    x = to_input(dn)
    predictor = Predictor.load(job["model"], "cpu")

    def loop(size: int) -> float:
        parts = x.split(size)
        return speed(lambda step: network(parts[step % len(parts)]), size)

    def product(cells: int) -> float:
        # All at once: with patches enough the first call tries out what batch size is fastest.
        return speed(lambda step: predictor.cell_probabilities(dn, job["level"], cells), len(dn))

    return {
        "bare": {str(size): loop(size) for size in BATCHES},
        "product": {str(c): product(c) for c in (1, 4)},
    }


def speed(run: Callable[[int], object], patch_count: int) -> float:
    """Patches/s of ``run(step)``, each of ``patch_count``, after one that is not timed."""
    run(0)
    began, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < LEAST_S or steps < 2:
        run(steps)
        steps += 1
    return steps * patch_count / seconds


@torch.inference_mode()
def network(job: dict) -> dict:
    """The network alone on what a run computes: its patches, or its blocks' convolutions where shared."""
    bare, contract, to_input = bare_network(job)
    predictor = Predictor.load(job["model"], "cpu")
    plan = plan_of(job, predictor)
    if job["engine"] == "shared":
        works = [work for work in (work_of(plan, block) for block in plan.blocks) if work is not None]
        shapes = [
            tuple(stop - start for start, stop in (windows.rows_px, windows.cols_px)) for windows, _ in works
        ]
        x = to_input(pixels(job, contract, *(max(sides) for sides in zip(*shapes, strict=True)))[None])

        def step(index: int) -> int:
            rows, cols = (side // plan.position_px * plan.position_px for side in shapes[index])
            bare.evidence(bare.features(x[:, :, :rows, :cols], plan.patch_px))
            return rows * cols

        # Windows that start between positions need the convolutions again, from there.
        passes = (plan.position_px // plan.start_px) ** 2
        return alone(step, [rows * cols for rows, cols in shapes], passes)
    parts = to_input(patches(job, contract)).split(job["batch"])

    def step(index: int) -> int:
        bare(parts[index % len(parts)])
        return job["batch"]

    return alone(step, [job["batch"]] * -(-job["patches"] // job["batch"]), 1)


def alone(step: Callable[[int], int], amounts: list[int], passes: int) -> dict:
    """Times of all steps, from those that fit into ``MOST_S``."""
    step(0)
    done = 0
    with Clock() as clock:
        for index, amount in enumerate(amounts):
            step(index)
            done += amount
            if clock.so_far() > MOST_S:
                break
    share = done / sum(amounts) / passes
    return {name: value / share for name, value in clock.times().items()} | {"measured_share": share}


def end_to_end(job: dict) -> dict:
    """``map_area`` as ``landuse map`` calls it."""
    timed = Timed(Predictor.load(job["model"], job.get("device", "cpu")))
    cluster = requested_cluster(None, job.get("workers"), job["model"], "cpu")
    shutil.rmtree(job["out"], ignore_errors=True)
    with Memory() as memory, Clock() as clock:
        report = map_area(request(job), timed, cluster=cluster)
    found = clock.times() | {"parts": report.seconds, "patches": report.patches}
    if cluster is not None:  # workers have classifiers and memory of their own
        return found | {"peak_rss_mb": memory.peak_mb}
    return found | {"waited": 1 - timed.seconds / report.seconds["map"]}


def obvious(job: dict) -> dict:
    """The loop that a user would write."""
    _, contract = load_checkpoint(model_path(job["model"]))
    with Clock() as clock:
        count = map_obviously(
            files_of(job, contract),
            job["model"],
            job["level"],
            job["stride_px"],
            job["loaders"],
            Path(job["out"]),
        )
    return clock.times() | {"patches": count}


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    warm(Path(job["catalog"]))
    row = {"read": read, "batches": batches, "network": network, "map": end_to_end, "obvious": obvious}
    if job["row"] == "device":
        from engine_device import device  # it takes rows of this file

        row["device"] = device
    found = row[job["row"]](job)
    print(json.dumps({"peak_rss_mb": peak_rss_mb()} | found))
