"""Scores of models on a table of images and labels, and thresholds that are fitted to one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from landuse.contract import LabelOutputs
from landuse.errors import ModelError, UsageError
from landuse.model.checkpoint import load_checkpoint, load_contract, model_path, save_checkpoint
from landuse.model.predict_images import Ensemble
from landuse.model.training.labels.measure import fit_thresholds, score_labels
from landuse.workflows.labels.stream import check_level, told_images
from landuse.workflows.labels.table import read_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from landuse.model.training.labels.measure import LabelScores
    from landuse.workflows.labels.load import ImageSource


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluated:
    """What a model says of the images of a table, beside what is on them."""

    scores: LabelScores
    """How well both agree."""
    probabilities: NDArray[np.float64]
    """(N, labels)."""
    targets: NDArray[np.uint8]
    """(N, labels), 1 where the image has the label."""
    labels: tuple[str, ...]
    """Label of each column."""


def evaluate_labels(
    models: Sequence[str],
    table_file: Path,
    images: ImageSource,
    *,
    weights: Sequence[float] | None = None,
    tta: bool = False,
    device: str = "auto",
) -> Evaluated:
    """Score models on a table of images; of several the mean probabilities and the mean thresholds.

    Args:
        models: names of shipped models, or paths of checkpoints.
        table_file: the CSV.
        images: the folder of its images.
        weights: what each model counts; None counts all alike.
        tta: average over the eight symmetries of the square.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Raises:
        UsageError: the table or an image cannot be used, or no image has a label.
        ModelError: a model cannot be used, tells no labels, or other ones than the table.
    """
    ensemble, told, targets = _told(models, table_file, images, weights=weights, tta=tta, device=device)
    thresholds = np.zeros(len(ensemble.classes))
    for predictor, share in zip(ensemble.predictors, ensemble.shares, strict=True):
        own = predictor.contract
        if own.labels is not None:
            by_label = dict(zip(own.classes, own.labels.thresholds, strict=True))
            thresholds += share * np.array([by_label[name] for name in ensemble.classes])
    try:
        scores = score_labels(told, targets, ensemble.classes, tuple(thresholds.tolist()))
    except ValueError as error:
        raise UsageError(f"{table_file} cannot be scored on: {error}. Give another table.") from None
    return Evaluated(scores=scores, probabilities=told, targets=targets, labels=ensemble.classes)


def refit_thresholds(
    model: str,
    table_file: Path,
    images: ImageSource,
    out: Path,
    *,
    tta: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> dict[str, float]:
    """Fit the threshold of each label to a table, and write the weights anew with them.

    A label that is on none of the images keeps the threshold that it has.

    Args:
        model: name of a shipped model, or path of a checkpoint.
        table_file: the CSV; not the one that is reported on.
        images: the folder of its images.
        out: the new checkpoint.
        tta: fit them to the average over the eight symmetries of the square.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        overwrite: replace ``out``.

    Returns:
        The threshold of each label.

    Raises:
        UsageError: the table or an image cannot be used, or ``out`` is there already.
        ModelError: the model cannot be used.
        OutputError: ``out`` cannot be written.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} is to be weights. End its name in .safetensors.")
    if out.exists() and not overwrite:
        raise UsageError(f"--out {out} is there already. Choose another, or replace it with --overwrite.")
    _, told, targets = _told([model], table_file, images, weights=None, tta=tta, device=device)
    path = model_path(model)
    network, contract = load_checkpoint(path)
    before = () if contract.labels is None else contract.labels.thresholds
    fitted = fit_thresholds(told, targets)
    thresholds = tuple(
        new if targets[:, i].any() else old for i, (new, old) in enumerate(zip(fitted, before, strict=True))
    )
    save_checkpoint(out, network, replace(contract, labels=LabelOutputs(thresholds=thresholds)))
    return dict(zip(contract.classes, thresholds, strict=True))


def _told(
    models: Sequence[str],
    table_file: Path,
    images: ImageSource,
    *,
    weights: Sequence[float] | None,
    tta: bool,
    device: str,
) -> tuple[Ensemble, NDArray[np.float64], NDArray[np.uint8]]:
    table = read_table(table_file)
    for model in models:
        contract = load_contract(model_path(model))
        if contract.labels is None:
            raise ModelError(
                f"Model {contract.name} tells classes that exclude each other, and {table_file} is a table "
                "of labels that do not. Score it with --data, or choose a model trained with --labels."
            )
    ensemble = Ensemble.load(models, weights, device)
    check_level(ensemble, images.level)
    table = table.ordered(ensemble.classes, ", ".join(models))
    parts = []
    for part in told_images(
        ensemble,
        [(name, images.root / name) for name in table.names],
        level=images.level,
        band_order=images.band_order,
        tta=tta,
    ):
        if part.broken:
            raise part.broken[0]
        parts.append(part.probabilities)
    return ensemble, np.concatenate(parts), table.targets
