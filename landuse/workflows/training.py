"""From a folder of labelled patches to weights, and from weights to scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from landuse.errors import ModelError, UsageError
from landuse.model import DEFAULT_MODEL
from landuse.model.checkpoint import load_checkpoint, model_path
from landuse.model.datasets import list_patches, load_patches, read_split
from landuse.model.evaluate import DIHEDRAL, Scores, logits_of, score
from landuse.model.predict import file_sha256
from landuse.model.train import EpochMetrics, TrainConfig, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What ``landuse train`` is asked for."""

    data: Path
    """Folder with one folder of JPEGs a class."""
    split: str
    """``NAME`` for ``splits/NAME-train.txt`` and ``-val.txt``, or ``TRAIN.txt,VAL.txt``."""
    out: Path
    """Folder for weights, state and metrics; a run found there is resumed."""
    config: TrainConfig
    """The recipe."""
    name: str = DEFAULT_MODEL
    """The model's name in its contract."""
    init: str | None = None
    """Shipped model or checkpoint to start from instead of from scratch."""


def split_files(data: Path, split: str) -> tuple[Path, Path]:
    """The training and validation lists of a split.

    Raises:
        UsageError: there are none by that name.
    """
    from pathlib import Path

    if "," in split:
        train_file, _, val_file = split.partition(",")
        return Path(train_file), Path(val_file)
    folders = [data / "splits", data.parent / "splits"]
    for folder in folders:
        pair = folder / f"{split}-train.txt", folder / f"{split}-val.txt"
        if all(path.is_file() for path in pair):
            return pair
    raise UsageError(
        f"--split {split!r}: no {split}-train.txt and {split}-val.txt in {folders[0]} or {folders[1]}. "
        "Give the two lists as --split TRAIN.txt,VAL.txt."
    )


def train_model(request: TrainRequest, on_epoch: Callable[[EpochMetrics], None] | None = None) -> Path:
    """Train and write ``out/model.safetensors``; returns its path.

    Raises:
        UsageError: the data or the split cannot be used.
        ModelError: ``out`` holds a run with other settings.
    """
    train_file, val_file = split_files(request.data, request.split)
    train_names, val_names = read_split(train_file), read_split(val_file)
    shared = set(train_names) & set(val_names)
    if shared:
        raise UsageError(
            f"{len(shared)} patches are in both {train_file} and {val_file}, such as {min(shared)}. "
            "Take them out of one: scores on patches that were trained on mean nothing."
        )
    init = None if request.init is None else model_path(request.init)
    config = request.config if init is None else replace(request.config, init_sha256=file_sha256(init))
    return train(
        config,
        load_patches(request.data, train_names),
        load_patches(request.data, val_names),
        request.out,
        name=request.name,
        init=init,
        on_epoch=on_epoch,
    )


def evaluate_model(data: Path, model: str, *, split: str = "all", tta: bool = False) -> Scores:
    """Score a model on labelled patches.

    Args:
        data: folder with one folder of JPEGs a class.
        model: name of a shipped model, or path of a checkpoint.
        split: ``"all"`` or the path of a list of ``Class/file.jpg``.
        tta: average over the eight symmetries of the square.

    Raises:
        UsageError: the data cannot be used.
        ModelError: the model cannot be used, or has other classes than the data.
    """
    from pathlib import Path

    network, contract = load_checkpoint(model_path(model))
    patches = load_patches(data, list_patches(data) if split == "all" else read_split(Path(split)))
    if patches.classes != contract.classes:
        raise ModelError(
            f"Model {contract.name} knows {', '.join(contract.classes)}; {data} holds "
            f"{', '.join(patches.classes)}. Use the data set it was trained for."
        )
    if patches.images.shape[1] != len(contract.bands):
        raise ModelError(
            f"Model {contract.name} needs {len(contract.bands)} bands ({', '.join(contract.bands)}); the "
            f"patches of {data} have {patches.images.shape[1]}. Use a model for those bands."
        )
    logits = logits_of(network, contract, patches, symmetries=DIHEDRAL if tta else (0,))
    return score((logits / contract.temperature).softmax(1), patches.labels, contract.classes)


def scores_to_dict(scores: Scores) -> dict[str, object]:
    """Scores as plain JSON values."""
    return asdict(scores)
