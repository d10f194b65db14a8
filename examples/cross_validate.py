"""k-fold cross-validation of a training recipe, for data too small to hold a validation split apart.

    python examples/cross_validate.py --data EuroSAT_MS --bands no-b10 --init balanced-fast-rgb --out folds

Folds are stratified by class. Each is one `landuse train`, resumed where it was stopped. What is
printed pools the answers given to patches while they were held out, at temperatures fitted on the
other folds. With --seen LIST (the patches that --init was trained on) the patches outside it are
counted apart: only for those is the start innocent too.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

import torch

from landuse.model.bands import BAND_SETS
from landuse.model.checkpoint import load_checkpoint
from landuse.model.training.config import TrainConfig
from landuse.model.training.datasets import PatchSource, list_patches, load_patches, read_split
from landuse.model.training.evaluate import DIHEDRAL, fit_temperature, logits_of, score
from landuse.workflows.training.train import TrainRequest, train_model


def stratified_folds(names: list[str], folds: int, seed: int) -> list[list[str]]:
    """``names`` (``Class/file``) dealt out to ``folds`` lists, each class evenly."""
    rng = torch.Generator().manual_seed(seed)
    dealt: list[list[str]] = [[] for _ in range(folds)]
    turn = 0
    for label in sorted({name.split("/")[0] for name in names}):
        members = [name for name in names if name.split("/")[0] == label]
        for index in torch.randperm(len(members), generator=rng).tolist():
            dealt[turn % folds].append(members[index])
            turn += 1
    return dealt


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share; unlike the bootstrap's, not empty where every answer is right."""
    z, share = 1.96, right / count
    middle, reach = (
        share + z * z / (2 * count),
        z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2),
    )
    return (middle - reach) / (1 + z * z / count), (middle + reach) / (1 + z * z / count)


def calibrated(answers: list[torch.Tensor], labels: list[torch.Tensor]) -> list[torch.Tensor]:
    """Probabilities of each fold's logits at the temperature that fits the other folds best."""
    probabilities = []
    for number, logits in enumerate(answers):
        others = [fold for fold in range(len(answers)) if fold != number]
        temperature = fit_temperature(
            torch.cat([answers[fold] for fold in others]), torch.cat([labels[fold] for fold in others])
        )
        probabilities.append((logits / temperature).softmax(1))
    return probabilities


def main() -> None:
    """Train every fold and print what they say of the patches held out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of patches a class")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of folds.json")
    parser.add_argument("--bands", default="all", choices=BAND_SETS)
    parser.add_argument("--init", help="weights to start from; from scratch where none are named")
    parser.add_argument("--seen", type=Path, help="list of the patches that --init was trained on")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--peak-rate", type=float, default=0.02)
    parser.add_argument("--group-dropout", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = PatchSource(root=options.data)
    names = list_patches(options.data)
    folds = stratified_folds(names, options.folds, options.seed)
    config = TrainConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        peak_rate=options.peak_rate,
        group_dropout=options.group_dropout if options.bands != "rgb" else 0.0,
        seed=options.seed,
        val_every=options.epochs,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    answers, labels, order = [], [], []
    for number, held_out in enumerate(folds):
        lists = [options.out / f"fold{number}-{part}.txt" for part in ("train", "val")]
        lists[0].write_text("\n".join(sorted(set(names) - set(held_out))), "utf-8")
        lists[1].write_text("\n".join(sorted(held_out)), "utf-8")
        weights = train_model(
            TrainRequest(
                data=source,
                split=f"{lists[0]},{lists[1]}",
                out=options.out / f"fold{number}",
                config=config,
                bands=options.bands,
                init=options.init,
                name=f"fold-{number}",
            )
        )
        network, contract = load_checkpoint(weights)
        patches = load_patches(source, read_split(lists[1]), contract.bands)
        answers.append(logits_of(network, contract, patches, symmetries=DIHEDRAL))
        labels.append(patches.labels)
        order += [f"{Path(name).parent.name}/{Path(name).stem}" for name in patches.names]
    seen = {str(Path(name).with_suffix("")) for name in read_split(options.seen)} if options.seen else set()
    unseen = torch.tensor([name not in seen for name in order])
    pooled, truth = torch.cat(calibrated(answers, labels)), torch.cat(labels)
    result = {"all": asdict(score(pooled, truth, contract.classes))}
    if seen and bool(unseen.any()):
        result["unseen by --init"] = asdict(score(pooled[unseen], truth[unseen], contract.classes))
    result["recipe"] = asdict(config)
    (options.out / "folds.json").write_text(json.dumps(result, indent=2), "utf-8")
    for what in ("all", "unseen by --init"):
        if what in result:
            n, accuracy, ece = (result[what][key] for key in ("n", "accuracy", "ece"))
            low, high = wilson_interval(round(accuracy * n), n)
            print(
                f"{what}: {accuracy:.2%} of {n} held-out patches, 95 % interval {low:.2%} to {high:.2%} "
                f"(Wilson), ECE {ece:.2%}"
            )


if __name__ == "__main__":
    main()
