"""IO: the files in which finished blocks wait for the map to be assembled, in a folder of their plan."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from landuse.errors import UsageError
from landuse.pipeline.cells import CellScores
from landuse.pipeline.scene import ReadFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import Block
    from landuse.pipeline.write.folder import Store

_FOLDER = ".blocks-"
"""What the names of the folders begin with."""

PLAN_FILE = "plan.json"
"""Which plan the blocks beside it are of."""

_SCORES = tuple(field.name for field in fields(CellScores))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockFile:
    """What a block's file holds."""

    scores: CellScores
    """The block's cells."""
    picture: NDArray[np.uint8]
    """(3, y, x), the imagery of its cells in red, green and blue, as ``rgb_image.draw_picture`` makes it."""
    failures: tuple[ReadFailure, ...]
    """Reads that failed for good."""
    patches: int
    """Patches that went through the network."""


def block_name(block: Block) -> str:
    """Name of a block's file."""
    return f"{block.name}.npz"


def write_block(folder: Store, block: Block, content: BlockFile) -> None:
    """Write a block's file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    failures = json.dumps([asdict(failure) for failure in content.failures]).encode()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        picture=content.picture,
        **{name: getattr(content.scores, name) for name in _SCORES},
        failures=np.frombuffer(failures, np.uint8),
        patches=np.int64(content.patches),
    )
    folder.write(block_name(block), buffer.getvalue())


def read_block(folder: Store, block: Block, plan: RunPlan) -> BlockFile | None:
    """A finished block's file; None where there is none or it does not hold this block whole.

    Raises:
        OutputError: it cannot be reached.
    """
    data = folder.read(block_name(block))
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            scores = CellScores(**{name: file[name] for name in _SCORES})
            failures = tuple(ReadFailure(**entry) for entry in json.loads(file["failures"].tobytes()))
            patches = int(file["patches"])
            picture = file["picture"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    if scores.probabilities.shape != (len(plan.classes), *block.shape):
        return None
    return BlockFile(scores=scores, picture=picture, failures=failures, patches=patches)


def open_blocks(out: Store, plan: RunPlan, *, overwrite: bool) -> Store:
    """The folder in ``out`` for the plan's blocks, with those in it that an earlier run of it finished.

    Args:
        out: where the map will lie.
        plan: what is to be mapped.
        overwrite: discard the finished blocks of other plans.

    Raises:
        UsageError: there are finished blocks of another plan, and ``overwrite`` is not asked for.
        OutputError: the folder cannot be made.
    """
    folder = out.child(f"{_FOLDER}{plan.blocks_key}")
    for other in _folders(out):
        if other == folder:
            continue
        finished = sum(name.endswith(".npz") for name in other.names())
        if finished and not overwrite:
            raise UsageError(_refusal(out, other, finished, plan))
        other.remove()
    folder.prepare()
    folder.write(PLAN_FILE, json.dumps(plan.to_public_dict()).encode())
    return folder


def is_unfinished(out: Store) -> bool:
    """Whether blocks wait in ``out`` for their map."""
    return any(PLAN_FILE in folder.names() for folder in _folders(out))


def remove_blocks(out: Store) -> None:
    """Remove all finished blocks, of whatever plan."""
    for folder in _folders(out):
        folder.remove()


def _folders(out: Store) -> list[Store]:
    return [out.child(name) for name in out.names() if name.startswith(_FOLDER)]


def _refusal(out: Store, other: Store, finished: int, plan: RunPlan) -> str:
    held = f"{out} holds {finished} finished blocks of a map that was not completed"
    mend = (
        "Use --overwrite to discard them, or another --out, or repeat the earlier command to go on with it."
    )
    try:
        before = json.loads(other.read(PLAN_FILE) or b"")
        held = f"{out} holds {finished} of {len(before['blocks'])} blocks of a map that was not completed"
        differences = _differences(before, plan.to_public_dict())
    except (ValueError, TypeError, KeyError, AttributeError):  # no plan, or none of this version's
        return f"{held}, by a plan that this version cannot read. {mend}"
    return f"{held}, by another plan ({'; '.join(differences)}). {mend}"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two plans differ, in words; what one difference brings about is not told as well."""
    told = [
        f"{name} {before[key]}, now {now[key]}"
        for key, name in (
            ("version", "landuse"),
            ("model", "model"),
            ("stride_px", "stride"),
            ("engine", "engine"),
            ("composite", "composite"),
        )
        if before[key] != now[key]
    ]
    if before["model"] == now["model"] and before["weights_sha256"] != now["weights_sha256"]:
        told.append(f"other weights of {now['model']}")
    grid = ("crs", "left_m", "top_m", "rows", "cols", "clip_wkt")
    if before["stride_px"] == now["stride_px"] and any(before[key] != now[key] for key in grid):
        told.append("another area")
    scenes = [[scene["id"] for scene in plan["scenes"]] for plan in (before, now)]
    for change, these, those in (("no longer used", *scenes), ("new", *reversed(scenes))):
        changed = sorted(set(these) - set(those))
        if changed:
            told.append(f"{len(changed)} scenes {change}, such as {changed[0]!r}")
    if not told:
        told.append(
            "its scenes are in another order" if scenes[0] != scenes[1] else "its imagery has changed"
        )
    return told
