"""On an accelerator: a bare loop in bf16, the product's batches, what crosses to it, and a whole map."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from engine_rows import bare_network, end_to_end, patches, pixels
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landuse.model.predict import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHES = (64, 256, 1024, 4096)
LEAST_S = 2.0


class Sent(TorchDispatchMode):
    """Counts the bytes of what is made on a device out of a tensor of this machine's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        here = [
            leaf
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu" and leaf.numel() > 1
        ]
        if isinstance(found, torch.Tensor) and found.device.type != "cpu" and here:
            self.bytes += max(leaf.numel() * leaf.element_size() for leaf in here)
        return found


def speed(run: Callable[[], object], patch_count: int) -> float:
    """Patches/s of ``run()``, each of ``patch_count``, with the device's queue empty before and after."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < LEAST_S:
        for _ in range(4):
            run()
        torch.cuda.synchronize()
        steps += 4
    return steps * patch_count / (time.perf_counter() - began)


@torch.inference_mode()
def device(job: dict) -> dict:
    """Patches/s of a bare bf16 loop by batch size and of the product's batches; one map, end to end."""
    network, contract, to_input = bare_network(job)
    network = network.to("cuda", torch.bfloat16)
    dn = patches(job, contract)
    x = to_input(dn).to("cuda", torch.bfloat16).repeat(4, 1, 1, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    bare = {str(size): speed(lambda part=x[:size]: network(part), size) for size in BATCHES}
    predictor = Predictor.load(job["model"], "cuda")
    product = {
        str(cells): speed(lambda cells=cells: predictor.cell_probabilities(dn, job["level"], cells), len(dn))
        for cells in (1, 4)
    }
    block = pixels(job, contract, 2048, 2048)
    starts = range(0, 2048 - contract.patch_size_px + 1, 8)

    def share() -> None:
        rows = predictor.shared_probabilities(
            block, job["level"], row_starts=starts, col_starts=starts, cells=contract.patch_size_px // 8
        )
        for _ in rows:
            pass

    with Sent() as sent:
        predictor.cell_probabilities(dn, job["level"], 4)
    return {
        "name": torch.cuda.get_device_name(),
        "bare": bare,
        "product": product,
        "shared_stride_8": speed(share, len(starts) ** 2),
        "sent_bytes_per_patch": sent.bytes / len(dn),
        "patch_bytes": dn[0].nbytes,
        "map": end_to_end(job | {"device": "cuda"}),
    }
