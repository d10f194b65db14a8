"""The networks side by side: size, arithmetic, speed, and accuracy under the same recipe.

    python examples/compare_networks.py --data EuroSAT_RGB --out runs --epochs 5 \
        --networks baseline,cbam,balanced-fast --splits paper,spatial --seeds 0,1,2

Every run is `landuse train` with its own folder under --out, is resumed where it was stopped and is
not repeated once it is done. The table on stdout holds what was run; the rest says "not run".
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

from landuse.model.networks import NETWORKS, build_network
from landuse.model.training.config import EpochMetrics, TrainConfig
from landuse.model.training.datasets import PatchSource
from landuse.workflows.training.logs import read_metrics
from landuse.workflows.training.train import TrainRequest, train_model

BANDS, CLASSES, SIDE_PX = 3, 10, 64


def arithmetic(network: nn.Module) -> tuple[float, float]:
    """Millions of parameters, and billions of multiply-accumulates for one patch."""
    macs = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    hooks = [
        m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, BANDS, SIDE_PX, SIDE_PX))
    for hook in hooks:
        hook.remove()
    return sum(p.numel() for p in network.parameters()) / 1e6, macs / 1e9


def patches_per_s(network: nn.Module, device: torch.device, batch: int, rounds: int = 5) -> float:
    """Median inference speed under bf16 autocast."""
    network = network.eval().to(device=device, memory_format=torch.channels_last)
    x = torch.randn(batch, BANDS, SIDE_PX, SIDE_PX, device=device).to(memory_format=torch.channels_last)
    speeds = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        for _ in range(rounds + 1):
            began = time.perf_counter()
            network(x).float().cpu()  # to the CPU: waits for a GPU to be done
            speeds.append(batch / (time.perf_counter() - began))
    return statistics.median(speeds[1:])  # the first round warms up


def last_metrics(run: Path, epochs: int) -> EpochMetrics | None:
    """The last measurement of a finished run; None where it was not run to its end."""
    if not (run / "model.safetensors").is_file():
        return None
    last = read_metrics(run / "metrics.jsonl")[-1]
    return last if last.epoch == epochs else None


def accuracy(runs: list[EpochMetrics | None]) -> str:
    """Mean and spread of the runs there are."""
    values = [100 * run.val_accuracy for run in runs if run is not None]
    if not values:
        return "not run"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)} seeds)"


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of JPEGs a class")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which to train; the others are sized")
    parser.add_argument("--splits", default="paper,spatial")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--speed-batch", type=int, default=128, help="patches at once when speed is measured")
    parser.add_argument("--decay-fusion", action="store_true", help="fusion scalars under weight decay")
    parser.add_argument("--no-training", action="store_true", help="only size, speed and what was run before")
    options = parser.parse_args()
    chosen, splits = options.networks.split(","), options.splits.split(",")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    tag = "-decayed" if options.decay_fusion else ""
    found: dict[tuple[str, str], list[EpochMetrics | None]] = {}
    for name in NETWORKS:
        for split in splits:
            for seed in seeds:
                run = options.out / f"{name}-{split}-{options.epochs}-{seed}{tag}"
                if name in chosen and not options.no_training and last_metrics(run, options.epochs) is None:
                    print(f"training {run.name}", file=sys.stderr)
                    config = TrainConfig(
                        network=name,
                        epochs=options.epochs,
                        batch_size=options.batch_size,
                        seed=seed,
                        warmup_epochs=min(2.0, options.epochs / 4),
                        decay_fusion=options.decay_fusion,
                        val_every=options.epochs,
                    )
                    source = PatchSource(root=options.data)
                    train_model(TrainRequest(data=source, split=split, out=run, config=config, name=name))
                found.setdefault((name, split), []).append(last_metrics(run, options.epochs))
    gpu = torch.cuda.is_available()
    columns = ["network", "parameters, M", "GMAC", "patches/s CPU", *(["patches/s GPU"] if gpu else [])]
    columns += [f"val %, {split}, {options.epochs} epochs" for split in splits] + ["fusion weights"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name, make in NETWORKS.items():
        network = build_network(make(BANDS, CLASSES))
        parameters, gmac = arithmetic(network)
        row = [name, f"{parameters:.2f}", f"{gmac:.2f}"]
        for device in ("cpu", "cuda") if gpu else ("cpu",):
            row.append(f"{patches_per_s(network, torch.device(device), options.speed_batch):.0f}")
        row += [accuracy(found[name, split]) for split in splits]
        fusion = next((run.fusion for run in found[name, splits[0]] if run is not None), ())
        row.append(" ".join(f"{value:.2f}" for value in fusion))
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
