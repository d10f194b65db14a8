"""Where a network runs: one device, or the processes that ``torchrun`` started."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed

from landuse.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


_CPU_FEATURES = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Of ``torch.cpu.get_capabilities``: processors that compute in bfloat16."""


def resolve_device(device: str) -> torch.device:
    """The torch device that ``--device`` names; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: the device is unknown or this machine does not have it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (":" in device and not (index.isascii() and index.isdigit()))):
        raise UsageError(f"--device {device!r} is unknown. Use auto, cpu, cuda or cuda:INDEX.")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise UsageError(
                f"--device {device} is not available: PyTorch {torch.__version__} sees {count} CUDA devices. "
                "Use --device cpu, or install a CUDA build of PyTorch and its driver."
            )
    return torch.device(device)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; of a CPU False also where PyTorch cannot tell."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    tell = getattr(torch.cpu, "get_capabilities", None)  # newer versions have it
    known = {} if tell is None else tell()
    return any(known.get(name, False) for name in _CPU_FEATURES)


def training_precision(precision: str, device: str) -> str:
    """What ``landuse train --precision`` stands for on a device, as ``--device`` names it.

    ``"auto"`` is ``"bf16"`` where the device computes in bfloat16, else ``"fp32"``: imitated, bfloat16 takes
    some ten times as long. Anything else is given back for the recipe to check.

    Raises:
        UsageError: the device is unknown or missing.

    Example:
        >>> training_precision("fp32", "cpu")
        'fp32'
    """
    if precision != "auto":
        return precision
    return "bf16" if computes_bfloat16(resolve_device(device)) else "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """This process among those that train together."""

    rank: int
    """0 measures, writes and reports."""
    count: int
    """Processes that train; each takes its share of every batch."""
    device: torch.device
    """Where this one computes."""

    @property
    def leads(self) -> bool:
        """True in the one process that measures, writes and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[Worker]:
    """This process as a worker: alone, or in the group whose variables ``torchrun`` has set.

    Args:
        device: as for ``resolve_device``; under torchrun ``auto`` and ``cuda`` give each process the
            GPU of its local rank.

    Raises:
        UsageError: the device is unknown or missing.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Worker(rank=0, count=1, device=resolve_device(device))
        return
    if device.startswith("cuda:"):
        raise UsageError(f"--device {device} under torchrun would put every process on it. Use cuda or cpu.")
    resolved = resolve_device(device)
    if resolved.type == "cuda":
        resolved = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(resolved)
    distributed.init_process_group("nccl" if resolved.type == "cuda" else "gloo")
    try:
        yield Worker(rank=distributed.get_rank(), count=count, device=resolved)
    finally:
        distributed.destroy_process_group()
