"""The table of the attention study (Vir, arXiv 2510.15527), trained anew, beside what the paper reports.

    python examples/reproduce_paper.py --data data/EuroSAT_RGB --out runs

trains ``baseline`` and ``cbam`` with three seeds and ``balanced`` with one, each by the paper's recipe and by
ours, on ``paper-train``, and ``balanced`` with and without weight decay on its fusion scalars. Every run is
`landuse train` with a folder of its own: the same command goes on where it was stopped, and does nothing
twice. It ends with ``table.md`` and ``table.json`` in --out, which hold what was run and say "not run" of the
rest.

    --quick         the whole way with a patch a class and one epoch, to see that it works
    --estimate      what is left to do and how long it takes here, by a few steps of each network, and no more
    --report-only   the table of what was run before
    --networks baseline,cbam,balanced-fast --splits paper,spatial --recipes ours --epochs 3
                    any networks alike, by an epoch count of your own

The paper's recipe: AdamW, rate 0.001, decay 0.05, a cosine that starts anew after 15 and after 45 of 80
epochs, batches of 64, class-balanced weights (Cui et al. 2019). Its augmentation was never run: the code that
was released overwrites it, so it is left out here too; --augment adds flips and brightness. Ours is the
recipe of `landuse train` with 80 epochs; `balanced` learns from crops of 32 and of 48 px first.

All is measured on the validation list of the split, on the weights of the last epoch: nothing is selected on
it. Of the calibration error each half of the patches is at the temperature that was fitted on the other.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from landuse.errors import LanduseError
from landuse.model.checkpoint import load_checkpoint, load_recipe
from landuse.model.devices import resolve_device, training_precision
from landuse.model.networks import NETWORKS, build_network, fusion_weights
from landuse.model.training.config import TrainConfig, rate_at
from landuse.model.training.datasets import PatchSource, class_names, load_patches
from landuse.model.training.evaluate import DIHEDRAL, fit_temperature, logits_of, score
from landuse.workflows.training.train import TrainRequest, split_names, train_model

BANDS, CLASSES, SIDE_PX = 3, 10, 64

REPORTED: dict[str, dict[str, float]] = {
    "baseline": {"accuracy": 0.9430},
    "cbam": {"accuracy": 0.9598},
    "balanced": {"accuracy": 0.9723, "kappa": 0.9692, "worst_recall": 0.9446, "confidence_gap": 0.2425},
    "resnet50": {"accuracy": 0.9857},
}
"""On the paper's test part; ``resnet50`` of Helber et al. 2019, from ImageNet's weights, on another split."""

REPORTED_ALPHA = 0.57
"""The fusion weight that the paper's runs end with."""

PAPER_START = 0.5
"""The paper's fusion scalar before training; its sigmoid is 0.62."""

QUICK_STRIDE = {"train": 1, "val": 4}
"""--quick learns from a patch of each class, and measures on a patch of each fourth one."""


@dataclass(frozen=True)
class Run:
    """One training."""

    network: str
    split: str
    recipe: str
    seed: int
    decayed: bool

    def folder(self, out: Path, epochs: int) -> Path:
        """Where it lies; what decides it is in the name."""
        decay = "-decayed" if self.decayed else ""
        split = "lists" if "," in self.split else self.split
        return out / f"{self.network}-{split}-{self.recipe}-{epochs}-{self.seed}{decay}"


def has_fusion(network: str) -> bool:
    """Whether a network mixes two attentions by learned scalars."""
    with torch.device("meta"):
        return hasattr(build_network(NETWORKS[network](BANDS, CLASSES)).config, "attention")


def recipe_of(run: Run, options: argparse.Namespace) -> TrainConfig:
    """The settings of a run."""
    if run.recipe == "paper":
        config = TrainConfig(
            network=run.network,
            epochs=options.epochs or 80,
            batch_size=64,
            optimizer="adamw",
            peak_rate=0.001,
            warmup_epochs=0.0,
            restart_epochs=15,
            weight_decay=0.05,
            fusion_start=PAPER_START,
            label_smoothing=0.0,
            class_balance=0.999,
            ema=0.0,
            cutmix=0.0,
            dihedral=options.augment,
            shift_px=0,
            brightness=0.2 if options.augment else 0.0,
            atmosphere=0.0,
        )
    else:
        epochs = options.epochs or 80
        config = TrainConfig(
            network=run.network,
            epochs=epochs,
            warmup_epochs=min(2.0, epochs / 4),
            early_crop_px=(32, 48) if run.network == "balanced" else (),
            early_until=0.6,
        )
    config = replace(
        config,
        seed=run.seed,
        decay_fusion=run.decayed,
        precision=options.precision,
        val_every=max(1, config.epochs // 8),
    )
    return replace(config, batch_size=5) if options.quick else config


def runs_of(options: argparse.Namespace) -> list[Run]:
    """Every run that is asked for; the long ones last."""
    networks = sorted(options.networks, key=lambda name: arithmetic(name)[1])
    return [
        Run(network, split, recipe, seed, decayed)
        for network in networks
        for split in options.splits
        for recipe in options.recipes
        for seed in (options.balanced_seeds if network == "balanced" else options.seeds)
        for decayed in ((False, True) if has_fusion(network) and not options.no_decay else (False,))
    ]


@lru_cache
def arithmetic(name: str) -> tuple[float, float]:
    """Millions of parameters, and billions of multiply-accumulates for one patch."""
    network = build_network(NETWORKS[name](BANDS, CLASSES)).eval()
    macs = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, BANDS, SIDE_PX, SIDE_PX))
    return sum(p.numel() for p in network.parameters()) / 1e6, macs / 1e9


def finished(run: Run, options: argparse.Namespace) -> Path | None:
    """The weights of a run that came to its end with these settings; None where there are none."""
    config = recipe_of(run, options)
    weights = run.folder(options.out, config.epochs) / "model.safetensors"
    if not weights.is_file():
        return None
    return weights if load_recipe(weights) == json.loads(json.dumps(asdict(config))) else None


def scores_of(run: Run, weights: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a finished run scores, measured once and kept beside its weights."""
    kept = weights.with_name("scores-tta.json" if options.tta else "scores.json")
    if kept.is_file() and kept.stat().st_mtime >= weights.stat().st_mtime:
        return dict(json.loads(kept.read_text("utf-8")))
    network, contract = load_checkpoint(weights)
    network.to(resolve_device(options.device))
    source = PatchSource(root=options.data)
    patches = load_patches(source, split_names(options.data, run.split, 0)[1], contract.bands)
    logits = logits_of(network, contract, patches, symmetries=DIHEDRAL if options.tta else (0,))
    plain = score(logits.softmax(1), patches.labels, contract.classes)
    worst = min(plain.per_class.items(), key=lambda item: item[1])
    told = {
        "n": plain.n,
        "accuracy": plain.accuracy,
        "interval": plain.interval,
        "kappa": plain.kappa,
        "worst_recall": worst[1],
        "worst_class": worst[0],
        "confidence_gap": plain.confidence_gap,
        "ece_uncalibrated": plain.ece,
        "ece": crossed_error(logits, patches.labels, contract.classes),
        "alpha": fusion_weights(network),
        "tta": options.tta,
    }
    partial = kept.with_suffix(".part")
    partial.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    partial.replace(kept)
    return told


def crossed_error(logits: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]) -> float:
    """Calibration error of all patches, each half at the temperature that was fitted on the other."""
    halves = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).chunk(2)
    probabilities = torch.empty_like(logits)
    for own, other in (halves, halves[::-1]):
        temperature = fit_temperature(logits[other], labels[other])
        probabilities[own] = (logits[own] / temperature).softmax(1)
    return score(probabilities, labels, classes).ece


def alpha_by_decay_alone(config: TrainConfig, patches: int) -> float:
    """Where weight decay alone brings a fusion weight that nothing else moves."""
    steps = patches // config.batch_size
    scalar = config.fusion_start
    for step in range(config.epochs * steps):
        scalar *= 1 - config.weight_decay * rate_at(config, step, steps, restart_epochs=config.restart_epochs)
    return 1 / (1 + math.exp(-scalar))


def pace(
    network_name: str, config: TrainConfig, device: torch.device, side_px: int, *, learning: bool = True
) -> float:
    """Patches a second that a network learns from, or answers for, by a few steps on noise."""
    torch.manual_seed(0)
    network = build_network(NETWORKS[network_name](BANDS, CLASSES)).train(learning)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
    batch = config.batch_size if device.type == "cuda" else 16
    x = torch.randn(batch, BANDS, side_px, side_px, device=device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    speeds = []
    for _ in range(4):
        began = time.perf_counter()
        with (
            torch.set_grad_enabled(learning),
            torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"),
        ):
            logits = network(x).float()
        loss = F.cross_entropy(logits, torch.zeros(batch, dtype=torch.int64, device=device))
        if learning:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        float(loss.detach())  # waits for a GPU to be done
        speeds.append(batch / (time.perf_counter() - began))
    return statistics.median(speeds[1:])  # the first warms up


def estimate(runs: list[Run], options: argparse.Namespace) -> None:
    """Print what is left to do and how long it takes here."""
    device = resolve_device(options.device)
    known: dict[tuple[str, int], float] = {}
    total = 0.0
    print(f"{torch.get_num_threads()} threads, {device}, {options.precision}; measuring not included")
    for run in runs:
        config = recipe_of(run, options)
        if finished(run, options) is not None:
            print(f"{run.folder(options.out, config.epochs).name:40} done")
            continue
        patches = len(split_names(options.data, run.split, 0)[0])
        seconds = 0.0
        for epoch in range(config.epochs):
            side = config.crop_at(epoch) or SIDE_PX
            if (run.network, side) not in known:
                known[run.network, side] = pace(run.network, config, device, side)
            seconds += patches / known[run.network, side]
        total += seconds
        print(f"{run.folder(options.out, config.epochs).name:40} {seconds / 3600:8.2f} h")
    for (name, side), speed in known.items():
        print(f"{name} at {side} px: {speed:.1f} patches/s")
    print(f"in all {total / 3600:.1f} h")


def quick_lists(options: argparse.Namespace) -> str:
    """Lists of a few patches of each class, as the split that --quick learns from."""
    learned, measured = split_names(options.data, options.splits[0], 0)
    folder = options.out / "quick"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part, names in (("train", learned), ("val", measured)):
        few = [
            name
            for label in class_names(options.data)
            for name in [each for each in names if each.startswith(f"{label}/")][:1]
        ]
        few = few[:: QUICK_STRIDE[part]]
        paths.append(folder / f"{part}.txt")
        paths[-1].write_text("".join(f"{name}\n" for name in few), "utf-8")
    return ",".join(map(str, paths))


def spread(values: list[float], percent: bool = True) -> str:
    """Mean of some runs, with their standard deviation where there are several."""
    factor, digits = (100, 2) if percent else (1, 4)
    mean = f"{factor * statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"


def rows_of(runs: list[Run], options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each network scores by each recipe, over its seeds; runs that are not finished are left out."""
    rows: dict[tuple[str, str, str, bool], dict[str, Any]] = {}
    for run in runs:
        config = recipe_of(run, options)
        row = rows.setdefault(
            (run.network, run.split, run.recipe, run.decayed),
            {
                "network": run.network,
                "split": run.split,
                "recipe": run.recipe,
                "decay_on_alpha": run.decayed,
                "epochs": config.epochs,
                "runs": {},
                "config": asdict(config),
            },
        )
        weights = finished(run, options)
        if weights is not None:
            row["runs"][str(run.seed)] = scores_of(run, weights, options)
    return list(rows.values())


def table_of(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The rows as Markdown, beside the paper's figures."""
    lines = [
        "| network | list | recipe | epochs | seeds | accuracy, % | 95 % interval | kappa | worst class, % | "
        "confidence gap, points | ECE, % | ECE uncalibrated, % | reported, % |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        runs = list(row["runs"].values())
        recipe = row["recipe"] + (", decay on alpha" if row["decay_on_alpha"] else "")
        reported = REPORTED.get(row["network"], {}).get("accuracy")
        listed = "quick" if options.quick else f"{row['split']}-val"
        cells = [row["network"], listed, recipe, str(row["epochs"])]
        if not runs:
            cells += ["not run", *[""] * 7]
        else:
            gaps = [run["confidence_gap"] for run in runs if run["confidence_gap"] is not None]
            # Of several seeds the interval is of the first: it is of the patches, not of the seeds.
            low, high = runs[0]["interval"]
            worst = min(runs, key=lambda run: float(run["worst_recall"]))
            cells += [
                ", ".join(row["runs"]),
                spread([run["accuracy"] for run in runs]),
                f"{low:.2%} to {high:.2%}".replace("%", ""),
                spread([run["kappa"] for run in runs], percent=False),
                f"{100 * worst['worst_recall']:.2f} ({worst['worst_class']})",
                spread(gaps) if gaps else "-",
                spread([run["ece"] for run in runs]),
                spread([run["ece_uncalibrated"] for run in runs]),
            ]
        cells.append("" if reported is None else f"{100 * reported:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| alpha of each block, input to output | recipe | epochs | seed | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for seed, run in row["runs"].items():
            if run["alpha"]:
                decay = "decay on it" if row["decay_on_alpha"] else "no decay on it"
                alphas = " ".join(f"{value:.2f}" for value in run["alpha"])
                lines.append(
                    f"| {row['network']} | {row['recipe']}, {decay} | {row['epochs']} | {seed} | {alphas} |"
                )
    return "\n".join(lines)


def sizes_of(options: argparse.Namespace) -> str:
    """Size, arithmetic and speed of every network as Markdown."""
    device = resolve_device(options.device)
    where = f"{device}, {options.precision}"
    lines = [
        f"| network | parameters, M | GMAC | patches/s learned from ({where}) | answered |",
        "|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        parameters, gmac = arithmetic(name)
        speeds = ["not measured"] * 2
        if name in options.networks and not options.quick and not options.report_only:
            config = TrainConfig(network=name, precision=options.precision)
            speeds = [
                f"{pace(name, config, device, SIDE_PX, learning=learning):.0f}" for learning in (True, False)
            ]
        lines.append(f"| {name} | {parameters:.2f} | {gmac:.2f} | {' | '.join(speeds)} |")
    return "\n".join(lines)


def report(runs: list[Run], options: argparse.Namespace, sizes: str = "") -> str:
    """Write ``table.md`` and ``table.json``; returns the former's text.

    ``sizes`` goes to its end, see ``sizes_of``.
    """
    rows = rows_of(runs, options)
    done = sum(len(row["runs"]) for row in rows)
    balanced = recipe_of(Run("balanced", options.splits[0], "paper", 0, decayed=True), options)
    patches = len(split_names(options.data, options.splits[0], 0)[0])
    alone = alpha_by_decay_alone(balanced, patches)
    text = "\n".join(
        [
            "# The paper's networks, trained anew",
            "",
            f"{done} of {len(runs)} runs are done. {patches} patches are learned from"
            f"{'; QUICK: these figures mean nothing' if options.quick else ''}. Measured"
            f"{' over the eight symmetries' if options.tta else ''} on the last epoch's weights.",
            "",
            table_of(rows, options),
            "",
            f"The paper reports a worst class of {REPORTED['balanced']['worst_recall']:.2%}, kappa "
            f"{REPORTED['balanced']['kappa']}, a confidence gap of "
            f"{100 * REPORTED['balanced']['confidence_gap']:.2f} points and alphas of about {REPORTED_ALPHA} "
            f"for balanced; ResNet-50 from ImageNet has {REPORTED['resnet50']['accuracy']:.2%}. Weight decay "
            f"alone, without any gradient, brings alpha's start of "
            f"{1 / (1 + math.exp(-PAPER_START)):.2f} to {alone:.2f} by the paper's recipe.",
            "",
            sizes,
        ]
    )
    told = {"reported": REPORTED, "alpha_by_decay_alone": alone, "quick": options.quick, "rows": rows}
    for name, content in (("table.md", text), ("table.json", json.dumps(told, indent=1) + "\n")):
        partial = options.out / f".{name}.part"
        partial.write_text(content, "utf-8")
        partial.replace(options.out / name)
    return text


def names_in(text: str) -> list[str]:
    """The names of a list with commas."""
    return [name.strip() for name in text.split(",")]


def numbers_in(text: str) -> list[int]:
    """The numbers of a list with commas."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Train what is missing, measure it and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of JPEGs a class")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of the table")
    parser.add_argument("--networks", type=names_in, default=names_in("baseline,cbam,balanced"))
    parser.add_argument(
        "--splits", type=names_in, default=["paper"], help="names as of landuse train --split"
    )
    parser.add_argument("--recipes", type=names_in, default=["paper", "ours"])
    parser.add_argument("--seeds", type=numbers_in, default=[0, 1, 2])
    parser.add_argument("--balanced-seeds", type=numbers_in, default=[0], help="of balanced, which is slow")
    parser.add_argument("--epochs", type=int, help="default: 80")
    parser.add_argument("--no-decay", action="store_true", help="leave out weight decay on alpha")
    parser.add_argument("--augment", action="store_true", help="flips and brightness in the paper's recipe")
    parser.add_argument("--tta", action="store_true", help="measure over the eight symmetries")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="a patch a class, one epoch, one seed")
    what.add_argument("--estimate", action="store_true", help="say how long it takes here")
    what.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args()
    options.precision = training_precision(options.precision, options.device)
    unknown = [*set(options.networks) - set(NETWORKS), *set(options.recipes) - {"paper", "ours"}]
    if unknown:
        parser.error(f"{', '.join(unknown)}: networks are {', '.join(NETWORKS)}; recipes are paper and ours")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if options.quick:
            lists = quick_lists(options)
            options.out, options.epochs, options.seeds, options.balanced_seeds = (
                options.out / "quick",
                1,
                [0],
                [0],
            )
            options.splits = [lists]
        runs = runs_of(options)
        if options.estimate:
            estimate(runs, options)
            return
        for run in runs:
            if options.report_only or finished(run, options) is not None:
                continue
            config = recipe_of(run, options)
            folder = run.folder(options.out, config.epochs)
            print(f"training {folder.name}", file=sys.stderr)
            source = PatchSource(root=options.data)
            train_model(
                TrainRequest(
                    data=source,
                    split=run.split,
                    out=folder,
                    config=config,
                    name=run.network,
                    device=options.device,
                )
            )
            report(runs, options)  # after each run: the whole table may take days
        print(report(runs, options, sizes_of(options)))
    except LanduseError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
