"""Every block of a plan, done once: here, or by workers of a cluster (``on_dask``).

Whoever runs them, a finished block is a file in the blocks' folder: what is there is not done again.
"""

from __future__ import annotations

import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.model.memory import reused_memory
from landuse.pipeline.blocks.context import block_context
from landuse.pipeline.remote.request_pool import Traffic
from landuse.pipeline.write.block_file import block_name, read_block, write_block
from landuse.redact import redact_href
from landuse.workflows.mapping.classify_block import block_content, read_input, score_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future
    from contextlib import AbstractContextManager

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import Block
    from landuse.pipeline.remote.files import Remote
    from landuse.pipeline.write.block_file import BlockFile
    from landuse.pipeline.write.folder import Store
    from landuse.workflows.mapping.classify_block import BlockInput, BlockScores, Classifier

_ADDRESS = re.compile(r"[a-z]+://[^\s/]+(:\d+|/\S+)")

BLOCKS_AHEAD = 3
"""Blocks whose pixels are read or wait while another is classified; each may hold some 100 MB."""

READERS = 2
"""Blocks that are read at a time: while one waits for a server, another is decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDone:
    """What is told of a finished block: its pixels are in its file."""

    name: str
    """``Block.name``."""
    patches: int
    """Patches that went through the network."""
    pixels: int
    """Pixels that did, of a model of pixels."""
    failures: int
    """Reads that failed for good."""


class Stage(StrEnum):
    """What a run is at, in this order; the values are for people."""

    SEARCH = "searching"
    SURVEY = "looking at clouds"
    CLASSIFY = "classifying"
    WRITE = "writing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. The first of a stage tells what it began with: an earlier run's blocks."""

    stage: Stage
    """What it is at."""
    blocks_done: int
    """Finished blocks."""
    blocks: int
    """All blocks; 0 until they are planned."""
    patches: int
    """Patches classified so far."""
    pixels: int = 0
    """Pixels classified so far, of a model of pixels; those around each block count as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where blocks are done, if not in this process."""

    scheduler: str | None = None
    """Address of a dask scheduler whose workers do them; None starts workers on this machine."""
    workers: int = 1
    """Processes to start on this machine."""
    model: str
    """Name of the model, or a path to it that every worker knows."""
    device: str
    """What each worker computes on; ``cuda`` and ``auto`` share out this machine's GPUs."""
    load: Callable[[str, str], Classifier]
    """Makes the classifier of model and device, in the worker."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers} starts nothing. Give 1 or more.")
        if self.scheduler is not None and not _ADDRESS.fullmatch(self.scheduler):
            raise UsageError(
                f"--scheduler {redact_href(self.scheduler)!r} is no address. Give that of a dask scheduler, "
                "such as tcp://10.0.0.5:8786."
            )


class Tally:
    """What is finished of a run, counted, and told to whoever listens."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self.stage = Stage.SEARCH
        self.blocks = 0
        self.blocks_done = 0
        self.patches = 0
        self.pixels = 0
        self.failures = 0
        self._on_progress = on_progress

    def enter(self, stage: Stage) -> None:
        """A stage begins."""
        self.stage = stage
        self._tell()

    def count(self, done: BlockDone) -> None:
        """One more block is finished; an earlier run did it."""
        self.blocks_done += 1
        self.patches += done.patches
        self.pixels += done.pixels
        self.failures += done.failures

    def add(self, done: BlockDone) -> None:
        """One more block is finished, by this run."""
        self.count(done)
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    stage=self.stage,
                    blocks_done=self.blocks_done,
                    blocks=self.blocks,
                    patches=self.patches,
                    pixels=self.pixels,
                )
            )

    def __str__(self) -> str:
        return f"{self.blocks_done} of {self.blocks} blocks are finished"


def run_block(
    plan: RunPlan,
    block: Block,
    given: BlockInput | None,
    classifier: Classifier,
    folder: Store,
    computing: AbstractContextManager[object] | None = None,
) -> BlockDone:
    """Do one block: its pixels in, its file out. The unit of work, here and on a cluster.

    Args:
        plan: of the map.
        block: one of its blocks.
        given: what ``read_input`` read of it.
        classifier: the plan's model.
        folder: where finished blocks lie.
        computing: entered while the network runs, so that blocks take turns at it while others are read.

    Raises:
        OutputError: the block cannot be kept.
    """
    with computing or nullcontext():
        found = None if given is None else score_block(plan, block, classifier, given)
    return keep_block(plan, block, found, folder)


def keep_block(plan: RunPlan, block: Block, found: BlockScores | None, folder: Store) -> BlockDone:
    """Make a block's rasters of what the network said of it, and write its file.

    Raises:
        OutputError: the block cannot be kept.
    """
    content = block_content(plan, block, found)
    write_block(folder, block, content)
    return _done(block, content)


def finished_block(plan: RunPlan, block: Block, folder: Store) -> BlockDone | None:
    """What is told of a block that is finished already; None where it is to be done.

    One that was read from a mirror, or not in full, is done again: that may have changed.
    """
    content = read_block(folder, block, plan)
    if content is None or content.failures:
        return None
    return _done(block, content)


def _done(block: Block, content: BlockFile) -> BlockDone:
    return BlockDone(
        name=block.name,
        patches=content.patches,
        pixels=content.pixels,
        failures=len(content.failures),
    )


def take_over(plan: RunPlan, folder: Store, tally: Tally) -> list[Block]:
    """Count the blocks that are finished; returns those that are left to do, ``largest_first``."""
    # The folder is listed first: over a network a file that was asked for in vain may be taken for missing
    # for a while, though a worker has written it.
    there = set(folder.names())
    left = []
    for block in plan.blocks:
        done = finished_block(plan, block, folder) if block_name(block) in there else None
        if done is None:
            left.append(block)
        else:
            tally.count(done)
    return largest_first(plan, left)


def largest_first(plan: RunPlan, blocks: Sequence[Block]) -> list[Block]:
    """Blocks in the order in which they are done.

    Of a model of pixels those come first of which the network sees most: what a smaller block needs finds
    room where a larger one was, so that memory does not grow with the number of blocks.
    """

    def seen_pixels(block: Block) -> int:
        around = block_context(plan, block)
        return 0 if around is None else around.pixels

    return sorted(blocks, key=seen_pixels, reverse=True) if plan.engine == "pixels" else list(blocks)


def run_here(
    plan: RunPlan,
    blocks: Sequence[Block],
    folder: Store,
    on_done: Callable[[BlockDone], None],
    *,
    classifier: Classifier,
    remote: Remote,
) -> Traffic:
    """Do the blocks in this process.

    While the network works on one, the next ones are read, and of the one before rasters are made and kept.

    Returns:
        What was fetched beside what ``remote`` counts: nothing.
    """
    kept: list[Future[BlockDone]] = []  # at most one, of which nobody was told yet

    def tell() -> None:
        while kept:
            on_done(kept.pop().result())

    with ThreadPoolExecutor(1) as keeper, reused_memory():
        try:
            with remote.readers(READERS) as reader:
                for block, given in read_ahead(blocks, lambda block: read_input(plan, block, remote), reader):
                    if kept and kept[0].done():
                        tell()
                    found = None if given is None else score_block(plan, block, classifier, given)
                    tell()
                    kept.append(keeper.submit(keep_block, plan, block, found, folder))
                    del found, given  # else they were held while the next one is scored
            tell()
        except BaseException:
            if kept and kept[0].exception() is None:  # a block that is kept counts, whatever came after
                tell()
            raise
    return Traffic(requests=0, fetched_bytes=0)


def read_ahead(
    blocks: Iterable[Block], read: Callable[[Block], BlockInput | None], reader: Executor
) -> Iterator[tuple[Block, BlockInput | None]]:
    """Each block with what is read of it; the next ones are read while the caller works on one."""
    following = iter(blocks)
    ahead: deque[tuple[Block, Future[BlockInput | None]]] = deque()

    def submit() -> None:
        for block in islice(following, BLOCKS_AHEAD - len(ahead)):
            ahead.append((block, reader.submit(read, block)))

    submit()
    while ahead:
        block, reading = ahead.popleft()
        given = reading.result()
        submit()
        yield block, given
