"""IO: the files in which finished blocks wait for the map to be assembled."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from landuse.pipeline.write import atomic_path
from landuse.records import CellScores, ReadFailure

if TYPE_CHECKING:
    from pathlib import Path

    from landuse.pipeline.plan import RunPlan
    from landuse.records import Block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockFile:
    """What a block's file holds."""

    scores: CellScores
    """The block's cells."""
    failures: tuple[ReadFailure, ...]
    """Reads that failed for good."""
    patches: int
    """Patches that went through the network."""


def block_path(folder: Path, block: Block) -> Path:
    """Where a block's file lies."""
    return folder / f"{block.name}.npz"


def write_block(folder: Path, block: Block, content: BlockFile) -> None:
    """Write a block's file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    failures = json.dumps([asdict(failure) for failure in content.failures]).encode()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        probabilities=content.scores.probabilities,
        mapped=content.scores.mapped,
        observed=content.scores.observed,
        clouded=content.scores.clouded,
        failed=content.scores.failed,
        failures=np.frombuffer(failures, np.uint8),
        patches=np.int64(content.patches),
    )
    with atomic_path(block_path(folder, block)) as partial:
        partial.write_bytes(buffer.getbuffer())


def read_block(folder: Path, block: Block, plan: RunPlan) -> BlockFile | None:
    """A finished block's file; None where there is none or it does not hold this block whole."""
    path = block_path(folder, block)
    try:
        with np.load(path, allow_pickle=False) as file:
            scores = CellScores(
                probabilities=file["probabilities"],
                mapped=file["mapped"],
                observed=file["observed"],
                clouded=file["clouded"],
                failed=file["failed"],
            )
            failures = tuple(ReadFailure(**entry) for entry in json.loads(file["failures"].tobytes()))
            patches = int(file["patches"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    if scores.probabilities.shape != (len(plan.classes), *block.shape):
        return None
    return BlockFile(scores=scores, failures=failures, patches=patches)
