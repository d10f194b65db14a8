"""From a folder of labelled patches to weights, and from weights to scores."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch

from landuse.contract import RGB8
from landuse.errors import ModelError, UsageError
from landuse.model import DEFAULT_MODEL
from landuse.model.bands import BAND_SETS
from landuse.model.checkpoint import load_checkpoint, load_contract, load_pixel_checkpoint, model_path
from landuse.model.devices import resolve_device
from landuse.model.normalize import path_dn
from landuse.model.predict import file_sha256
from landuse.model.training.datasets import (
    PatchSource,
    class_names,
    list_patches,
    load_patches,
    load_unlabelled,
    read_split,
    stated_bands,
    stated_level,
)
from landuse.model.training.evaluate import DIHEDRAL, Scores, logits_of, score
from landuse.model.training.pixels.measure import patch_logits
from landuse.model.training.teach import Lessons, answers_of, check_teacher
from landuse.model.training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from landuse.model.training.config import EpochMetrics, StepProgress, TrainConfig
    from landuse.model.training.datasets import LabelledPatches, Patches
    from landuse.model.training.labels.config import LabelTrainConfig

C = TypeVar("C", "TrainConfig", "LabelTrainConfig")

RANDOM = "random"
"""The split that is drawn here."""

VAL_SHARE = 5
"""One patch in so many of each class is measured on in a random split, as in the paper's."""

LEAST_STEPS = 8
"""Steps of an epoch where the batch is fitted to the data: with fewer the network hardly moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What ``landuse train`` is asked for."""

    data: PatchSource
    """Folder with one folder of patches a class."""
    split: str | None
    """As ``split_names`` takes it."""
    out: Path
    """Folder for weights, state and metrics; a run found there is resumed."""
    config: TrainConfig
    """The recipe."""
    fits_batch: bool = False
    """Take fewer patches a step, and a lower rate, where an epoch would have fewer than ``LEAST_STEPS``."""
    bands: str = "rgb"
    """Name in ``BAND_SETS``."""
    name: str = DEFAULT_MODEL
    """The model's name in its contract."""
    init: str | None = None
    """Shipped model or checkpoint to start from instead of from scratch."""
    teachers: tuple[str, ...] = ()
    """Shipped models or checkpoints whose answers are learned from too."""
    unlabelled: PatchSource | None = None
    """Folder of patches without labels, which the teachers answer for."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``."""

    def __post_init__(self) -> None:
        if self.bands not in BAND_SETS:
            raise UsageError(f"--bands {self.bands!r} is unknown. Choose {', '.join(BAND_SETS)}.")
        if self.bands == "all" and self.data.level == "L2A":
            raise UsageError("--bands all with --level L2A: L2A has no B10. Use --bands no-b10.")
        if self.unlabelled is not None and not self.teachers:
            raise UsageError(
                "--unlabelled needs --teacher: nothing else says what those patches show. Name a model."
            )


def unlabelled_source(folder: Path, level: str | None, else_level: str) -> PatchSource:
    """The source of ``--unlabelled``: of ``level``, else as its folder says, else of ``else_level``.

    Raises:
        UsageError: the level is unknown.
    """
    return PatchSource(root=folder, level=level or stated_level(folder) or else_level)


def patch_source(data: Path, level: str, band_order: str | None) -> PatchSource:
    """The source that ``--data``, ``--level`` and ``--band-order`` name.

    Raises:
        UsageError: the level or a band is unknown.
    """
    order = None if band_order is None else tuple(name.strip() for name in band_order.split(","))
    return PatchSource(root=data, level=level, band_order=order)


def split_files(data: Path, split: str | None) -> tuple[Path, Path] | None:
    """The training and validation lists of a split; None where it is drawn at random.

    Raises:
        UsageError: there are none by that name.
    """
    from pathlib import Path

    if split is not None and "," in split:
        train_file, _, val_file = split.partition(",")
        return Path(train_file), Path(val_file)
    name = split or "paper"
    folders = [data / "splits", data.parent / "splits"]
    for folder in folders:
        pair = folder / f"{name}-train.txt", folder / f"{name}-val.txt"
        if all(path.is_file() for path in pair):
            return pair
    if split in (None, RANDOM):
        return None
    raise UsageError(
        f"--split {split!r}: no {split}-train.txt and {split}-val.txt in {folders[0]} or {folders[1]}. "
        f"Give the two lists as --split TRAIN.txt,VAL.txt, or --split {RANDOM}."
    )


def random_split(data: Path, seed: int) -> tuple[list[str], list[str]]:
    """``Class/file`` of the patches to learn from and to measure on: one in ``VAL_SHARE`` of each class.

    Raises:
        UsageError: a class has too few patches for both.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    learned: list[str] = []
    measured: list[str] = []
    names = list_patches(data)
    for label in class_names(data):
        # Files of one stem, such as a JPEG and a PNG, are one patch.
        stems = sorted({_stem(name) for name in names if name.partition("/")[0] == label})
        if len(stems) < 2:
            raise UsageError(
                f"--data {data} holds {len(stems)} patches of class {label}, and a random split needs 2 at "
                "least: one to learn from and one to measure on. Add some, or take the class out."
            )
        held = {stems[row] for row in rng.permutation(len(stems))[: max(len(stems) // VAL_SHARE, 1)].tolist()}
        for name in names:
            if name.partition("/")[0] == label:
                (measured if _stem(name) in held else learned).append(name)
    return learned, measured


def split_names(data: Path, split: str | None, seed: int) -> tuple[list[str], list[str]]:
    """``Class/file`` of the patches to learn from, and of those to measure on.

    Args:
        data: folder with one folder of patches a class.
        split: ``NAME`` for ``splits/NAME-train.txt`` and ``-val.txt``, ``TRAIN.txt,VAL.txt``, or ``random``.
            None takes the paper's where its lists are there, else ``random``.
        seed: of a random split.

    Raises:
        UsageError: there is no such split, or a patch is in both of its lists.
    """
    files = split_files(data, split)
    if files is None:
        return random_split(data, seed)
    train_file, val_file = files
    train_names, val_names = read_split(train_file), read_split(val_file)
    shared = {_stem(name) for name in train_names} & {_stem(name) for name in val_names}
    if shared:
        raise UsageError(
            f"{len(shared)} patches are in both {train_file} and {val_file}, such as {min(shared)}. "
            "Take them out of one: scores on patches that were trained on mean nothing."
        )
    return train_names, val_names


def keep_split(out: Path, train_names: Sequence[str], val_names: Sequence[str]) -> None:
    """Write the lists of a split into the folder of its run, so that it can be evaluated on them.

    Raises:
        OutputError: they cannot be written.
    """
    from landuse.pipeline.write.folder import atomic_path  # loads GDAL, which the rest can do without

    for name, names in (("train.txt", train_names), ("val.txt", val_names)):
        with atomic_path(out / name) as partial:
            partial.write_text("".join(f"{each}\n" for each in names), "utf-8")


def fitted(config: C, patches: int) -> C:
    """The recipe with a batch of which an epoch has ``LEAST_STEPS``, down to two patches for each process.

    The rate goes down with the batch.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batch = config.batch_size
    while batch > 2 * processes and batch % (2 * processes) == 0 and patches // batch < LEAST_STEPS:
        batch //= 2
    return replace(config, batch_size=batch, peak_rate=config.peak_rate * batch / config.batch_size)


def train_model(
    request: TrainRequest,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    on_step: Callable[[StepProgress], None] | None = None,
) -> Path:
    """Train and write ``out/model.safetensors`` and ``out/curves.png``; returns the former's path.

    Raises:
        UsageError: the data or the split cannot be used.
        ModelError: ``out`` holds a run with other settings.
        OutputError: ``out`` cannot be written.
    """
    train_names, val_names = split_names(request.data.root, request.split, request.config.seed)
    # Not above: the figures' writer loads GDAL, which neither training nor evaluation needs.
    from landuse.workflows.training.figures import draw_curves

    init = None if request.init is None else model_path(request.init)
    config = request.config if init is None else replace(request.config, init_sha256=file_sha256(init))
    if request.fits_batch:
        config = fitted(config, len(train_names))
    bands = BAND_SETS[request.bands]
    train_patches = load_patches(request.data, train_names, bands)
    lessons = None
    if request.teachers:
        teachers = tuple(model_path(teacher) for teacher in request.teachers)
        config = replace(config, teacher_sha256=tuple(file_sha256(path) for path in teachers))
        lessons = _lessons(request, teachers, train_names, train_patches)

    def measured(metrics: EpochMetrics) -> None:
        draw_curves(request.out / "metrics.jsonl", request.out / "curves.png")
        if on_epoch is not None:
            on_epoch(metrics)

    weights = train(
        config,
        train_patches,
        load_patches(request.data, val_names, bands),
        request.out,
        name=request.name,
        init=init,
        lessons=lessons,
        device=request.device,
        on_epoch=measured,
        on_step=on_step,
    )
    if split_files(request.data.root, request.split) is None:
        keep_split(request.out, train_names, val_names)
    return weights


def _lessons(
    request: TrainRequest, teachers: tuple[Path, ...], names: Sequence[str], patches: LabelledPatches
) -> Lessons:
    """What the teachers say of the training patches, and of those without labels.

    Raises:
        UsageError: patches cannot be read, or lack a band that a teacher reads.
        ModelError: a teacher cannot be asked, see ``check_teacher``.
    """
    side = int(patches.images.shape[2])
    read: dict[str, None] = {}
    for path in teachers:
        read |= dict.fromkeys(check_teacher(path, patches.classes, patches.level, side).bands)

    labelled = reader_of(request.data, names, patches)
    if request.unlabelled is None:
        return Lessons(labelled=answers_of(teachers, labelled, request.device))
    others = load_unlabelled(request.unlabelled, patches.bands, tuple(read))
    for path in teachers:
        check_teacher(path, patches.classes, others.level, int(others.images.shape[2]))
    return Lessons(
        labelled=answers_of(teachers, labelled, request.device),
        unlabelled=others.of_bands(tuple(band for band in patches.bands if band in others.bands)),
        answers=answers_of(teachers, others.of_bands, request.device),
    )


def reader_of(
    source: PatchSource, names: Sequence[str], patches: LabelledPatches
) -> Callable[[tuple[str, ...]], Patches]:
    """What gives patches with other bands: those in memory where they hold them, else read anew."""

    def read(bands: tuple[str, ...]) -> Patches:
        if set(bands) <= set(patches.bands):
            return patches.of_bands(bands)
        return load_patches(source, names, bands)

    return read


def _stem(name: str) -> str:
    """``Class/file`` without its suffix: a JPEG and a TIFF of one patch are one patch."""
    return name.rpartition(".")[0] or name


def evaluate_model(
    data: PatchSource,
    model: str,
    *,
    split: str = "all",
    tta: bool = False,
    l2a_error: float | None = None,
    device: str = "auto",
) -> Scores:
    """Score a model on labelled patches; of a model that classifies pixels, the head that classifies patches.

    Args:
        data: folder with one folder of patches a class.
        model: name of a shipped model, or path of a checkpoint.
        split: ``"all"`` or the path of a list of ``Class/file.jpg``.
        tta: average over the eight symmetries of the square.
        l2a_error: score the patches as L2A whose path radiance the contract misses by this share of
            itself; 0 is an L2A that it meets exactly.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Raises:
        UsageError: the data cannot be used.
        ModelError: the model cannot be used, or has other classes, bands or levels than the data.
    """
    from pathlib import Path

    path = model_path(model)
    contract = load_contract(path)
    if contract.labels is not None or contract.input_kind == RGB8:
        raise ModelError(
            f"Model {contract.name} tells labels, or reads 8-bit images of any origin, and --data holds "
            "patches of classes that exclude each other. Score it with --labels, or choose another --model."
        )
    if contract.level_input(data.level) is None:
        raise ModelError(
            f"Model {contract.name} reads {', '.join(e.level for e in contract.levels)}; the patches are "
            f"{data.level}. Choose another --model, or correct --level."
        )
    names = list_patches(data.root) if split == "all" else read_split(Path(split))
    bands = contract.bands
    if contract.optional_bands:
        held = stated_bands(data, names[0])
        bands = tuple(band for band in bands if band in held or band not in contract.optional_bands)
    patches = load_patches(data, names, bands)
    if patches.classes != contract.patch_classes:
        raise ModelError(
            f"Model {contract.name} knows {', '.join(contract.patch_classes)}; {data.root} holds "
            f"{', '.join(patches.classes)}. Use the data set it was trained for."
        )
    side = int(patches.images.shape[2])
    if tuple(patches.images.shape[2:]) != (contract.patch_size_px, contract.patch_size_px):
        raise ModelError(
            f"Model {contract.name} classifies patches of {contract.patch_size_px} px; those of {data.root} "
            f"have {side}. Use patches of its size."
        )
    shift = None if l2a_error is None else -l2a_error * torch.tensor(path_dn(contract.bands))
    symmetries = DIHEDRAL if tta else (0,)
    target = resolve_device(device)
    if contract.pixels is None:
        network = load_checkpoint(path)[0].to(target)
        logits = logits_of(network, contract, patches, path_shift_dn=shift, symmetries=symmetries)
    else:
        pixel_network = load_pixel_checkpoint(path)[0].to(target)
        logits = patch_logits(pixel_network, contract, patches, path_shift_dn=shift, symmetries=symmetries)
    return score((logits / contract.temperature).softmax(1), patches.labels, contract.patch_classes)
