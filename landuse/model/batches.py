"""How many patches to give the network at a time: tried out once, on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_SIZE = 64
"""Good on any processor; used until there are patches enough to try others out."""

SIZES = (16, 32, 64, 128, 256, 512)
"""What is tried. Beyond 512 patches nothing is gained, and their features take gigabytes."""

TRIES = 2
"""Timings of each size; the fastest counts, since others may use the machine too."""

NEAR_BEST = 0.97
"""The smallest size counts that is so close to the fastest one."""

HOPELESS = 0.85
"""Sizes grow until one is so much slower than the best before."""


def fastest_size(
    run: Callable[[int], object], sizes: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> int:
    """The batch size with the most patches a second; the smallest of those that are about as fast.

    Args:
        run: computes a batch of that size to its end.
        sizes: what to try, growing. One that does not fit into memory ends the search.
        clock: seconds.
    """
    run(sizes[0])  # the first batch also sets things up
    pace: dict[int, float] = {}
    for size in sizes:
        seconds = []
        try:
            for _ in range(TRIES):
                began = clock()
                run(size)
                seconds.append(clock() - began)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        pace[size] = size / max(min(seconds), 1e-9)
        if pace[size] < HOPELESS * max(pace.values()):
            break
    best = max(pace.values())
    return min(size for size in pace if pace[size] >= NEAR_BEST * best)
