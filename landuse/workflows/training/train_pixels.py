"""From patch labels and folders of pixel labels to the weights of a network that classifies each pixel."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from landuse.errors import ModelError, OutputError, UsageError
from landuse.model.checkpoint import load_pixel_checkpoint, model_path
from landuse.model.devices import resolve_device
from landuse.model.pixel_network import NAME
from landuse.model.predict import file_sha256
from landuse.model.training.datasets import class_names, load_patches
from landuse.model.training.pixels.measure import cover_reliability
from landuse.model.training.pixels.sources import read_pixel_patches
from landuse.model.training.pixels.train import OPTIONAL, REQUIRED, train_pixels
from landuse.model.training.teach import PixelLessons, answers_of, check_teacher
from landuse.workflows.training.train import keep_split, reader_of, split_files, split_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from landuse.model.training.datasets import LabelledPatches, PatchSource
    from landuse.model.training.pixels.config import PixelTrainConfig
    from landuse.model.training.pixels.measure import Reliability
    from landuse.model.training.pixels.sources import PixelPatches
    from landuse.model.training.pixels.train import PixelProgress, PixelRun

log = logging.getLogger(__name__)

VAL_FILE = "val.txt"
"""In a folder of pixel labels: names of the patches to measure on, one a line."""

VAL_SHARE = 10
"""Where there is no such file, one patch in so many is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelTrainRequest:
    """What ``landuse train --network balanced-pixel`` is asked for."""

    data: PatchSource
    """Folder with one folder of patches a class."""
    split: str | None
    """As ``split_names`` takes it."""
    pixels: tuple[Path, ...]
    """Folders of patches with pixel labels; none trains on patch labels alone."""
    out: Path
    """Folder for weights, state and metrics; a run found there is resumed."""
    config: PixelTrainConfig
    """The recipe."""
    name: str = NAME
    """The model's name in its contract."""
    init: str | None = None
    """Shipped model or checkpoint of such a network to start from instead of from scratch."""
    teachers: tuple[str, ...] = ()
    """Shipped models or checkpoints of patches whose answers are learned from too."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``."""

    def __post_init__(self) -> None:
        doubled = [folder for folder in self.pixels if self.pixels.count(folder) > 1]
        if doubled:
            raise UsageError(f"--pixels {doubled[0]} is given twice. Give it once.")


def train_pixel_model(
    request: PixelTrainRequest, on_step: Callable[[PixelProgress], None] | None = None
) -> Path:
    """Train and write ``out/model.safetensors``; returns its path.

    Beside it lie ``metrics.json`` (figures on what was kept out), ``losses.jsonl`` (the parts of the loss,
    each 25 steps), ``curves.png``, which draws them, and, where gradients are levelled, ``gradients.jsonl``.

    Args:
        request: data, recipe and where the results go.
        on_step: called every few steps.

    Raises:
        UsageError: the data, the split or a folder of pixel labels cannot be used.
        ModelError: ``out`` holds a run with other settings, or the weights to start from do not fit.
        OutputError: ``out`` cannot be written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"--network {NAME} trains in one process. Run it without torchrun.")
    resolve_device(request.device)  # before minutes of reading
    train_names, val_names = split_names(request.data.root, request.split, request.config.seed)
    sets = [
        read_pixel_patches(folder, class_names(request.data.root), REQUIRED + OPTIONAL)
        for folder in request.pixels
    ]
    held = _held_out(request, sets, train_names, val_names)
    kept = [name for name in train_names if _stem(name) not in held]
    if len(kept) < len(train_names):
        log.warning(
            "%d patches of --split are measured on in --pixels, and are not learned from",
            len(train_names) - len(kept),
        )
    parts = [_parts(folder, entry, held) for folder, entry in zip(request.pixels, sets, strict=True)]
    init = None if request.init is None else model_path(request.init)
    config = request.config if init is None else replace(request.config, init_sha256=file_sha256(init))
    # Not above: the figures' writer loads GDAL, which training on folders without pixel labels does not need.
    from landuse.workflows.training.figures import draw_losses

    losses = request.out / "losses.jsonl"

    def stepped(progress: PixelProgress) -> None:
        _add_line(losses, {"step": progress.step, "losses": progress.losses})
        if on_step is not None:
            on_step(progress)

    def saved(run: PixelRun) -> None:
        if losses.exists():  # the first state may be saved before the first losses are told
            draw_losses(losses, request.out / "curves.png")

    train_patches = load_patches(request.data, kept, REQUIRED)
    lessons = None
    if request.teachers:
        teachers = tuple(model_path(teacher) for teacher in request.teachers)
        config = replace(config, teacher_sha256=tuple(file_sha256(path) for path in teachers))
        lessons = _lessons(request, teachers, kept, train_patches, [train for train, _ in parts])
    weights = train_pixels(
        config,
        train_patches,
        load_patches(request.data, val_names, REQUIRED),
        [train for train, _ in parts],
        [val for _, val in parts],
        request.out,
        name=request.name,
        init=init,
        lessons=lessons,
        device=request.device,
        on_step=stepped,
        on_saved=saved,
    )
    if split_files(request.data.root, request.split) is None:
        keep_split(request.out, train_names, val_names)
    return weights


def _lessons(
    request: PixelTrainRequest,
    teachers: tuple[Path, ...],
    names: Sequence[str],
    patches: LabelledPatches,
    sets: Sequence[PixelPatches],
) -> PixelLessons:
    """What the teachers say of the training patches, and of those with pixel labels.

    Raises:
        UsageError: patches cannot be read, or lack a band that a teacher reads.
        ModelError: a teacher cannot be asked, see ``check_teacher``.
    """
    side = int(patches.images.shape[2])
    for path in teachers:
        for folder, level, held in (
            (None, patches.level, None),
            *((folder, each.level, each.bands) for folder, each in zip(request.pixels, sets, strict=True)),
        ):
            contract = check_teacher(path, patches.classes, level, side)
            missing = [] if held is None else [band for band in contract.bands if band not in held]
            if missing:
                raise UsageError(
                    f"--pixels {folder} does not hold {', '.join(missing)}, which --teacher {contract.name} "
                    "reads. Give patches that have them, or another teacher."
                )

    return PixelLessons(
        patches=answers_of(teachers, reader_of(request.data, names, patches), request.device),
        sets=tuple(answers_of(teachers, each.whole().of_bands, request.device) for each in sets),
    )


def evaluate_pixels(model: str, folders: Sequence[Path], device: str = "auto") -> dict[str, Reliability]:
    """How reliable the cover's confidence is on pixel labels, by folder; of several, of ``all`` too.

    Where a folder has a ``val.txt``, the patches that it names are scored, else all.

    Args:
        model: name of a shipped model, or path of a checkpoint; one of pixels.
        folders: of patches with pixel labels.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Raises:
        UsageError: a folder cannot be used or lacks a band that the model needs.
        ModelError: the model cannot be used, or has other covers or levels than a folder.
    """
    target = resolve_device(device)
    network, contract = load_pixel_checkpoint(model_path(model))
    network = network.to(target)
    covers = () if contract.pixels is None else contract.pixels.covers
    found: dict[str, Reliability] = {}
    for folder in folders:
        patches = read_pixel_patches(folder, contract.patch_classes, contract.bands)
        missing = [band for band in contract.required_bands if band not in patches.bands]
        if missing:
            raise UsageError(
                f"--pixels {folder} lacks {', '.join(missing)}, which model {contract.name} needs. Add the "
                "bands, or choose another --model."
            )
        if patches.covers != covers or contract.level_input(patches.level) is None:
            levels = " and ".join(entry.level for entry in contract.levels)
            raise ModelError(
                f"Model {contract.name} knows the covers {', '.join(covers)} of {levels}; --pixels {folder} "
                f"labels {', '.join(patches.covers)} of {patches.level}. Use a model trained on such labels."
            )
        if (folder / VAL_FILE).exists():
            named = _named(folder / VAL_FILE, patches)
            patches = patches.subset([i for i, name in enumerate(patches.names) if name in named])
            if not patches.labelled_pixels:
                raise UsageError(
                    f"{folder / VAL_FILE} names patches of which no pixel is labelled. Name others."
                )
        found[str(folder)] = cover_reliability(network, contract, patches)
    if len(found) > 1:
        found["all"] = sum(list(found.values())[1:], start=found[str(folders[0])])
    return found


def _held_out(
    request: PixelTrainRequest, sets: Sequence[PixelPatches], train_names: list[str], val_names: list[str]
) -> set[str]:
    """Names of the patches with pixel labels that are measured on, of all folders together.

    Those of the split's validation list are; then those that a folder's ``val.txt`` names or, where there is
    none, as many more as it takes to one in ``VAL_SHARE``, drawn by the run's seed.
    """
    measured = {_stem(name) for name in val_names}
    learned = {_stem(name) for name in train_names}
    held: set[str] = set()
    for folder, entry in zip(request.pixels, sets, strict=True):
        own = measured & set(entry.names)
        if own:
            log.warning(
                "%d patches of --pixels %s are in the validation list of --split%s: they are measured on, "
                "and not learned from",
                len(own), folder, "" if request.split is None else f" {request.split}",
            )  # fmt: skip
        path = folder / VAL_FILE
        if path.exists():
            named = _named(path, entry)
        else:
            wanted = max(len(entry) // VAL_SHARE, 1) - len(own)
            # Of what --split learns from, as little as possible is taken out.
            rest = sorted(set(entry.names) - own, key=lambda name: (name in learned, name))
            free = sum(name not in learned for name in rest)
            pool = rest[: free if free >= wanted else len(rest)]
            chosen = np.random.default_rng(request.config.seed).permutation(len(pool))[: max(wanted, 0)]
            named = {pool[row] for row in chosen.tolist()}
        held |= own | named
    return held


def _named(path: Path, entry: PixelPatches) -> set[str]:
    """The patches that a ``val.txt`` names."""
    try:
        names = {line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Write it again, or remove it.") from error
    strange = names - set(entry.names)
    if strange or not names:
        what = f"names {min(strange)}, which is no patch of its folder" if strange else "names no patch"
        raise UsageError(f"{path} {what}. Give the names of patches, one a line, without suffixes.")
    return names


def _parts(folder: Path, entry: PixelPatches, held: set[str]) -> tuple[PixelPatches, PixelPatches]:
    """The patches of a folder to learn from, and those to measure on."""
    rows = {
        flag: [i for i, name in enumerate(entry.names) if (name in held) == flag] for flag in (False, True)
    }
    for flag, what in ((False, "learn from"), (True, "measure on")):
        if not rows[flag] or not entry.subset(rows[flag]).labelled_pixels:
            raise UsageError(
                f"--pixels {folder} holds {len(entry)} patches and leaves none with labels to {what}. "
                "Give more."
            )
    return entry.subset(rows[False]), entry.subset(rows[True])


def _stem(name: str) -> str:
    """The file's name without its class and suffix: a JPEG and a TIFF of one patch are one patch."""
    file = name.rpartition("/")[2]
    return file.rpartition(".")[0] or file


def _add_line(path: Path, values: dict[str, object]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}). Make room and run it again.") from error
