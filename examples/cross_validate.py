"""k-fold cross-validation of a training recipe, for data too small to hold a validation split apart.

    python examples/cross_validate.py --data EuroSAT_MS --bands no-b10 --init balanced-fast-rgb --out folds

Folds are stratified by class. Each is one `landuse train`, resumed where it was stopped. What is
printed pools the answers given to patches while they were held out, at temperatures fitted on the
other folds. With --seen LIST (the patches that --init was trained on) the patches outside it are
counted apart: only for those is the start innocent too. With --rival MODEL that model answers the
same patches, and who is right where is compared.

With --teacher MODEL, and perhaps --unlabelled FOLDER, the networks learn from its answers too:

    python examples/cross_validate.py --data EuroSAT_MS --bands no-b10 --init balanced-fast-rgb --out folds \
        --teacher balanced-fast-rgb --unlabelled pixels/l2a --seen paper-train.txt --rival balanced-fast-rgb
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from landuse.model.bands import BAND_SETS
from landuse.model.checkpoint import load_checkpoint, load_recipe, model_path
from landuse.model.devices import training_precision
from landuse.model.normalize import path_dn
from landuse.model.training.config import TrainConfig
from landuse.model.training.datasets import PatchSource, list_patches, load_patches, read_split
from landuse.model.training.evaluate import DIHEDRAL, fit_temperature, logits_of, score
from landuse.pipeline.maps.intervals import paired_difference
from landuse.workflows.training.train import TrainRequest, train_model, unlabelled_source


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


def paired(own: torch.Tensor, rival: torch.Tensor) -> dict[str, Any]:
    """Who of two is right on the same patches: Tango's interval of the difference, McNemar's exact test.

    Args:
        own: (N,) whether one is right.
        rival: (N,) whether the other is.
    """
    alone, rival_alone = int((own & ~rival).sum()), int((~own & rival).sum())
    low, high = paired_difference(alone, rival_alone, len(own))
    discordant = alone + rival_alone
    return {
        "n": len(own),
        "right": int(own.sum()),
        "rival_right": int(rival.sum()),
        "right_alone": alone,
        "rival_right_alone": rival_alone,
        "difference_95": (low, high),
        "mcnemar_exact_p": float(binomtest(alone, discordant, 0.5).pvalue) if discordant else 1.0,
    }


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
    parser.add_argument("--early-crop-px", type=int, nargs="*", default=[], help="sides of early crops")
    parser.add_argument("--cutmix", type=float, default=0.5)
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--teacher", nargs="*", default=[], help="models whose answers are learned from too")
    parser.add_argument("--teacher-share", type=float, default=0.5, help="of the target, beside the label")
    parser.add_argument("--unlabelled", type=Path, help="folder of patches that only the teachers know")
    parser.add_argument("--unlabelled-ratio", type=float, default=1.0, help="to one labelled patch")
    parser.add_argument("--rival", help="a model that answers the same patches")
    parser.add_argument("--l2a-error", type=float, default=0.5, help="share of the path, for the comparison")
    options = parser.parse_args()
    options.precision = training_precision(options.precision, "auto")
    source = PatchSource(root=options.data)
    names = list_patches(options.data)
    folds = stratified_folds(names, options.folds, options.seed)
    config = TrainConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        peak_rate=options.peak_rate,
        group_dropout=options.group_dropout if options.bands != "rgb" else 0.0,
        early_crop_px=tuple(options.early_crop_px),
        cutmix=options.cutmix,
        teacher_share=options.teacher_share,
        unlabelled_ratio=options.unlabelled_ratio,
        seed=options.seed,
        precision=options.precision,
        val_every=options.epochs,
    )
    further = None
    if options.unlabelled is not None:
        further = unlabelled_source(options.unlabelled, None, source.level)
    options.out.mkdir(parents=True, exist_ok=True)
    answers, labels, order = [], [], []
    right: dict[str, list[torch.Tensor]] = {}
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
                teachers=tuple(options.teacher),
                unlabelled=further,
                name=f"fold-{number}",
            )
        )
        held = read_split(lists[1])
        for who, model in (("own", weights), ("rival", options.rival and model_path(options.rival))):
            if model is None:
                continue
            network, contract = load_checkpoint(model)
            patches = load_patches(source, held, contract.bands)
            logits = logits_of(network, contract, patches, symmetries=DIHEDRAL)
            hazy = logits_of(
                network,
                contract,
                patches,
                path_shift_dn=-options.l2a_error * torch.tensor(path_dn(contract.bands)),
                symmetries=DIHEDRAL,
            )
            right.setdefault(who, []).append(logits.argmax(1) == patches.labels)
            right.setdefault(f"{who}, hazy", []).append(hazy.argmax(1) == patches.labels)
            if who == "own":
                answers.append(logits)
                labels.append(patches.labels)
                order += [f"{Path(name).parent.name}/{Path(name).stem}" for name in patches.names]
                classes = contract.classes
    seen = {str(Path(name).with_suffix("")) for name in read_split(options.seen)} if options.seen else set()
    unseen = torch.tensor([name not in seen for name in order])
    pooled, truth = torch.cat(calibrated(answers, labels)), torch.cat(labels)
    parts = {"all": torch.ones_like(unseen)}
    if seen and bool(unseen.any()):
        parts["unseen by --init"] = unseen
    result: dict[str, Any] = {
        what: asdict(score(pooled[rows], truth[rows], classes)) for what, rows in parts.items()
    }
    if options.rival is not None:
        whole = {who: torch.cat(parts_of) for who, parts_of in right.items()}
        result["rival"] = {
            f"{what}{how}": paired(whole[f"own{how}"][rows], whole[f"rival{how}"][rows])
            for what, rows in parts.items()
            for how in ("", ", hazy")
        }
    result["recipe"] = load_recipe(weights)  # as it was: with the digests of --init and --teacher
    (options.out / "folds.json").write_text(json.dumps(result, indent=2), "utf-8")
    for what in parts:
        n, accuracy, ece = (result[what][key] for key in ("n", "accuracy", "ece"))
        low, high = wilson_interval(round(accuracy * n), n)
        print(
            f"{what}: {accuracy:.2%} of {n} held-out patches, 95 % interval {low:.2%} to {high:.2%} "
            f"(Wilson), ECE {ece:.2%}"
        )
    for what, pair in result.get("rival", {}).items():
        low, high = pair["difference_95"]
        print(
            f"{what}: {pair['right']} right, {options.rival} {pair['rival_right']}, of {pair['n']}; alone "
            f"{pair['right_alone']} and {pair['rival_right_alone']}; difference {low:+.2%} to {high:+.2%} "
            f"(Tango), McNemar's exact p = {pair['mcnemar_exact_p']:.3g}"
        )


if __name__ == "__main__":
    main()
