"""IO: the files in which finished blocks wait for the map to be assembled, in a folder of their plan."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from landuse.errors import UsageError
from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS, BlockRasters, CellStatus, PixelCounts
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

_RASTERS = tuple(field.name for field in fields(BlockRasters))
_COUNTS = tuple(field.name for field in fields(PixelCounts))

_NOISY = ("picture", "confidence", "second")
"""Arrays that compression makes only a quarter smaller: it is not worth its time."""

_DAMAGE = (
    OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What reading a file raises that was cut off or overwritten."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockFile:
    """What a block's file holds."""

    rasters: BlockRasters
    """The block's cells."""
    counts: PixelCounts
    """The area's pixels in it."""
    picture: NDArray[np.uint8]
    """(3, y, x), the imagery of its cells in red, green and blue, as ``rgb_image.draw_picture`` makes it."""
    observed: bool
    """Whether a scene saw any of its cells, clear or not."""
    failures: tuple[ReadFailure, ...]
    """Reads that failed for good."""
    patches: int
    """Patches that went through the network; 0 for a model of pixels."""
    pixels: int
    """Pixels that went through the network in one pass, with those around the block; 0 for patches."""


def block_name(block: Block) -> str:
    """Name of a block's file."""
    return f"{block.name}.npz"


def write_block(folder: Store, block: Block, content: BlockFile) -> None:
    """Write a block's file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    failures = json.dumps([asdict(failure) for failure in content.failures]).encode()
    arrays: dict[str, NDArray[np.generic]] = {
        "picture": content.picture,
        **{name: getattr(content.rasters, name) for name in _RASTERS},
        **{name: getattr(content.counts, name) for name in _COUNTS},
        "failures": np.frombuffer(failures, np.uint8),
        "observed": np.array(content.observed),
        "patches": np.array(content.patches, np.int64),
        "pixels": np.array(content.pixels, np.int64),
    }
    buffer = io.BytesIO()
    # What ``numpy.savez_compressed`` writes, at its fastest: higher levels take more time than the disk does.
    with zipfile.ZipFile(buffer, "w", compresslevel=1) as archive:
        for name, values in arrays.items():
            archive.compression = zipfile.ZIP_STORED if name in _NOISY else zipfile.ZIP_DEFLATED
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(values, order="C"), allow_pickle=False)
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
            content = BlockFile(
                rasters=BlockRasters(**{name: file[name] for name in _RASTERS}),
                counts=PixelCounts(**{name: file[name] for name in _COUNTS}),
                picture=file["picture"],
                observed=bool(file["observed"]),
                failures=tuple(ReadFailure(**entry) for entry in json.loads(file["failures"].tobytes())),
                patches=int(file["patches"]),
                pixels=int(file["pixels"]),
            )
        return content if _is_of(content, block, plan) else None
    except _DAMAGE:
        return None


def _is_of(content: BlockFile, block: Block, plan: RunPlan) -> bool:
    """Whether a file's arrays have the shapes, types and values of this block of this plan."""
    rasters, counts = content.rasters, content.counts
    rows, cols = block.shape
    side = plan.stride_px // plan.picture_step_px
    has_covers = len(plan.covers) > 0
    kept = len(rasters.probabilities)
    shapes = (
        (rasters.classes, (rows, cols)),
        (rasters.confidence, (rows, cols)),
        (rasters.status, (rows, cols)),
        (rasters.second, (2 * has_covers, rows, cols)),
        (rasters.cover, (1 * has_covers, rows, cols)),
        (rasters.doubt, (1 * plan.tells_doubt, rows, cols)),
        (rasters.probabilities, (kept, rows, cols)),
        (content.picture, (3, rows * side, cols * side)),
    )
    if any(values.dtype != np.uint8 or values.shape != shape for values, shape in shapes):
        return False
    if kept not in (0, len(plan.classes)) or (plan.probabilities and not kept):
        return False
    lengths = (
        (counts.of_class, len(plan.classes)),
        (counts.of_cover, len(plan.covers)),
        (counts.of_status, len(CellStatus)),
        (counts.of_doubt, 2),
    )
    if any(
        values.dtype != np.int64 or values.shape != (length,) or (values < 0).any()
        for values, length in lengths
    ):
        return False
    ids = [(rasters.classes, len(plan.classes))]
    if has_covers:
        ids += [(rasters.second[0], len(plan.classes)), (rasters.cover[0], len(plan.covers))]
    return (
        int(rasters.status.max(initial=0)) < len(CellStatus)
        and all(_holds(values, below) for values, below in ids)
        and all(
            _holds(values, SHARE_STEPS + 1)
            for values in (rasters.confidence, rasters.second[1:], rasters.doubt, rasters.probabilities)
        )
    )


def _holds(values: NDArray[np.uint8], below: int) -> bool:
    """Whether all values are below a limit, or no value at all."""
    return not ((values >= below) & (values != NODATA_ID)).any()


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


def unfinished_precision(out: Store) -> str:
    """In which precision the blocks that wait in ``out`` were computed; empty where none tells."""
    for folder in _folders(out):
        try:
            told = json.loads(folder.read(PLAN_FILE) or b"")["precision"]
        except (ValueError, TypeError, KeyError):  # no plan, or none of this version's
            continue
        if told in ("fp32", "bf16"):
            return str(told)
    return ""


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
    cells = [plan["stride_px"] * plan["pixel_m"] for plan in (before, now)]
    told = [f"cells of {cells[0]:g} m, now {cells[1]:g} m"] if cells[0] != cells[1] else []
    told += [
        f"{name} {before[key]}, now {now[key]}"
        for key, name in (
            ("version", "landuse"),
            ("model", "model"),
            ("engine", "engine"),
            ("composite", "composite"),
            ("fuse", "fuse"),
            ("precision", "precision"),
        )
        if before[key] != now[key]
    ]
    # Lists once they have been JSON.
    if (list(before["smooth"]), before["smooth_px"]) != (list(now["smooth"]), now["smooth_px"]):
        told.append("other smoothing")
    if before["model"] == now["model"] and list(before["bands"]) != list(now["bands"]):
        told.append(f"bands {', '.join(before['bands'])}, now {', '.join(now['bands'])}")
    if before["model"] == now["model"] and before["weights_sha256"] != now["weights_sha256"]:
        told.append(f"other weights of {now['model']}")
    grid = ("crs", "left_m", "top_m", "rows", "cols", "area_wkt", "is_clipped")
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
