"""What levelling the gradients of tasks and branches is worth, beside fixed weights, GradNorm and neither.

    python examples/calibrate_gradients.py --data EuroSAT_RGB --pixels pixels/l2a --out study

Each arm trains `balanced-pixel` with each seed on the same data; each run has its own folder under --out,
is resumed where it was stopped and is not repeated once it is done. `table.md` and `results.json` in --out
hold mean and deviation of what use and cover reach, of how far each falls short of a network trained for it
alone, and of what each branch is worth, that is what the cover loses without it. --half-side and
--half-width make a run some twelve times cheaper. --quick tries it all in seconds; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from landuse.classes import LAND_COVER_NAMES
from landuse.errors import LanduseError, UsageError
from landuse.model.checkpoint import load_pixel_checkpoint
from landuse.model.devices import training_precision
from landuse.model.pixel_network import PixelNetConfig, balanced_pixel
from landuse.model.training.datasets import LabelledPatches, PatchSource, class_names, load_patches
from landuse.model.training.pixels.config import PixelTrainConfig
from landuse.model.training.pixels.gradients import BRANCHES, TASKS
from landuse.model.training.pixels.measure import cover_logits
from landuse.model.training.pixels.sources import PixelPatches, read_pixel_patches
from landuse.model.training.pixels.train import MAX_GRADIENT, OPTIONAL, REQUIRED, train_pixels
from landuse.workflows.training.train import split_names

if TYPE_CHECKING:
    from landuse.contract import ModelContract
    from landuse.model.pixel_network import PixelNet

FIXED = "fixed"
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    FIXED: {},
    "tasks and branches": {"gradients": "both"},
    "tasks only": {"gradients": "tasks"},
    "GradNorm": {"gradients": "gradnorm"},
    "use alone": {"weight_of_cover": 0.0},
    "cover alone": {"weight_of_use": 0.0},
}
"""Settings by name; those of ``FIXED`` are given by --fixed."""

QUICK = {"steps": 3, "seeds": "0", "patches": 4, "mosaics": 2, "pixel_patches": 4, "train": 40, "val": 20}


@dataclass(frozen=True)
class Data:
    """What every run learns from and is measured on."""

    train: LabelledPatches
    val: LabelledPatches
    train_covers: list[PixelPatches]
    val_covers: list[PixelPatches]


def read_data(options: argparse.Namespace) -> Data:
    """The patches, a part of them if asked; one patch with pixel labels in ten is measured on."""
    rng = np.random.default_rng(0)  # the same data whatever the seed of a run
    names = split_names(options.data, options.split, 0)
    parts = []
    for listed, most in zip(names, (options.train, options.val), strict=True):
        chosen = [listed[row] for row in rng.permutation(len(listed))[:most].tolist()]
        parts.append(load_patches(PatchSource(root=options.data), sorted(chosen), REQUIRED))
    learned, measured = [], []
    held = {Path(name).stem for name in names[1]}
    for folder in options.pixels:
        entry = read_pixel_patches(folder, class_names(options.data), REQUIRED + OPTIONAL)
        order = rng.permutation(len(entry)).tolist()
        own = set(order[: max(len(entry) // 10, 1)]) | {
            i for i, name in enumerate(entry.names) if name in held
        }
        learned.append(entry.subset([row for row in range(len(entry)) if row not in own]))
        measured.append(entry.subset(sorted(own)))
    data = Data(parts[0], parts[1], learned, measured)
    return halved(data) if options.half_side else data


def halved(data: Data) -> Data:
    """Patches of half as many pixels a side, each the mean of four; a label counts where the four agree."""

    def means(images: torch.Tensor) -> torch.Tensor:
        parts = [F.avg_pool2d(part.float(), 2).round().to(images.dtype) for part in images.split(500)]
        return torch.cat(parts)

    def covers(entry: PixelPatches) -> PixelPatches:
        four = torch.stack([entry.label[:, row::2, col::2] for row in (0, 1) for col in (0, 1)])
        agree = (four == four[0]).all(0)
        return replace(
            entry, dn=means(entry.dn), label=four[0].clone(), weight=entry.weight[:, ::2, ::2] * agree
        )

    return Data(
        *(replace(part, images=means(part.images)) for part in (data.train, data.val)),
        *([covers(entry) for entry in part] for part in (data.train_covers, data.val_covers)),
    )


def cover_accuracy(network: PixelNet, contract: ModelContract, sets: list[PixelPatches]) -> float:
    """Share of the cover's pixels that are right with all bands, weighted by how far labels are believed."""
    right, total = 0.0, 0.0
    for entry in sets:
        for logits, label, weight in cover_logits(network, contract, entry, torch.ones(len(OPTIONAL))):
            right += float((weight * (logits.argmax(1) == label)).sum())
            total += float(weight.sum())
    return right / total


def without_visible(network: PixelNet) -> PixelNet:
    """The network with the visible bands at their mean, whatever they hold.

    No training shows it this: it has no word for visible bands that are missing, as it has for infrared ones.
    """
    blind = copy.deepcopy(network)
    with torch.no_grad():
        blind.visible.weight.zero_()
    return blind


def run_once(
    config: PixelTrainConfig, data: Data, out: Path, network: PixelNetConfig | None, device: str
) -> dict[str, Any]:
    """Train and measure one run, or read what it was measured at."""
    done = out / "result.json"
    about = json.loads(json.dumps({"config": asdict(config), "network": network and network.to_dict()}))
    if done.is_file() and (found := json.loads(done.read_text("utf-8")))["about"] == about:
        return found  # type: ignore[no-any-return]  # written below
    began = time.monotonic()
    sets = data.train_covers, data.val_covers
    weights = train_pixels(
        config, data.train, data.val, *sets, out, name=out.name, network=network, device=device
    )
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    trained, contract = load_pixel_checkpoint(weights)
    covers = metrics["cover_accuracy"]
    blind = cover_accuracy(without_visible(trained), contract, data.val_covers)
    found = {
        "about": about,
        "seconds": time.monotonic() - began,
        "use": metrics["patch_accuracy"],
        "cover": covers["all"],
        "cover_visible": covers["visible"],
        "cover_near_infrared": covers["near_infrared"],
        "cover_visible_at_mean": blind,
        "infrared_worth": covers["all"] - covers["visible"],
        "visible_worth": covers["all"] - blind,
        "gradients": gradients(out / "gradients.jsonl"),
    }
    done.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return found


def gradients(path: Path) -> dict[str, float]:
    """Medians over the steps of what was measured; nothing where gradients were not."""
    if not path.is_file():
        return {}
    steps = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    lengths = [[step["task_norm"][name] for name in TASKS] for step in steps]
    branches = [[step["branch_norm"][name] for name in BRANCHES] for step in steps]
    return {
        "use_to_cover": statistics.median(use / cover for use, cover in lengths if cover),
        "visible_to_infrared": statistics.median(one / other for one, other in branches if other),
        "weight_of_use": statistics.median(step["task_weight"]["use"] for step in steps),
        "weight_of_visible": statistics.median(step["branch_weight"]["visible"] for step in steps),
        "conflicts": sum(step["cosine"] < 0 for step in steps) / len(steps),
        "clipped": sum(step["norm"] > MAX_GRADIENT for step in steps) / len(steps),
    }


def told(values: list[float], *, percent: bool = True, sign: bool = False) -> str:
    """Mean and deviation."""
    if not values:
        return "-"
    scaled = [value * (100 if percent else 1) for value in values]
    mean = f"{statistics.mean(scaled):{'+' if sign else ''}.{1 if percent else 2}f}"
    return mean if len(scaled) == 1 else f"{mean} ± {statistics.stdev(scaled):.{1 if percent else 2}f}"


def tables(found: dict[str, list[dict[str, Any]]]) -> str:
    """Both tables in Markdown; differences are of runs with one seed."""
    alone = {
        task: {run["about"]["config"]["seed"]: run[task] for run in found.get(f"{task} alone", [])}
        for task in TASKS
    }
    columns = [
        "gradients", "seeds", "use", "cover", "use less alone", "cover less alone", "gap between tasks",
        "infrared is worth", "visible is worth",
    ]  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for arm, runs in found.items():
        lost: dict[str, list[float]] = {
            task: [
                run[task] - alone[task][seed]
                for run in runs
                if (seed := run["about"]["config"]["seed"]) in alone[task]
            ]
            for task in TASKS
        }
        gaps = [use - cover for use, cover in zip(lost["use"], lost["cover"], strict=False)]
        asked = [task for task in TASKS if arm not in ("use alone", "cover alone") or arm == f"{task} alone"]
        both = len(asked) == len(TASKS)
        cells = [arm, str(len(runs))]
        cells += [told([run[task] for run in runs]) if task in asked else "-" for task in TASKS]
        cells += [told(lost[task], sign=True) if both else "-" for task in TASKS]
        cells += [told(gaps, sign=True) if both else "-"]
        cells += [
            told([run[f"{name}_worth"] for run in runs], sign=True) if "cover" in asked else "-"
            for name in ("infrared", "visible")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    columns = [
        "gradients", "use to cover", "visible to infrared", "weight of use", "weight of visible",
        "tasks conflict, % of steps", "clipped, % of steps",
    ]  # fmt: skip
    lines += ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for arm, runs in found.items():
        measured = [run["gradients"] for run in runs if run["gradients"]]
        if measured:
            keys = ("use_to_cover", "visible_to_infrared", "weight_of_use", "weight_of_visible")
            cells = [told([entry[key] for entry in measured], percent=False) for key in keys]
            cells += [told([entry[key] for entry in measured]) for key in ("conflicts", "clipped")]
            lines.append("| " + " | ".join([arm, *cells]) + " |")
    return "\n".join(lines) + "\n"


def settings_of(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """What an arm sets of the recipe."""
    if arm == FIXED:
        use, cover = (float(value) for value in options.fixed.split(","))
        return {"weight_of_use": use, "weight_of_cover": cover}
    return ARMS[arm]


def parse() -> argparse.Namespace:
    """The options; --quick sets some of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of JPEGs a class")
    parser.add_argument("--split", help="as of landuse train; default: paper if its lists are there")
    parser.add_argument("--pixels", type=Path, action="append", required=True, help="folder of pixel labels")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of the tables")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--fixed", default="0.5,1.5", help=f"weights of use and cover in the arm {FIXED}")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--patches", type=int, default=96, help="labelled patches a step")
    parser.add_argument("--mosaics", type=int, default=48, help="mosaics a step")
    parser.add_argument("--pixel-patches", type=int, default=32, help="patches with pixel labels a step")
    parser.add_argument("--peak-rate", type=float, default=0.1)
    parser.add_argument("--train", type=int, help="learn from so many of the labelled patches")
    parser.add_argument("--val", type=int, help="measure on so many of them")
    parser.add_argument("--half-side", action="store_true", help="patches at 20 m instead of 10 m a pixel")
    parser.add_argument("--half-width", action="store_true", help="a network of half as many channels")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--quick", action="store_true", help="try everything in seconds")
    options = parser.parse_args()
    options.precision = training_precision(options.precision, options.device)
    if options.quick:
        vars(options).update(QUICK, half_side=True, half_width=True)
    return options


def main() -> None:
    """Train what is missing, and write and print the tables."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    arms = options.arms.split(",")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise UsageError(f"--arms {unknown[0]} is unknown. Use some of {', '.join(ARMS)}.")
    data = read_data(options)
    network = None
    if options.half_width:
        whole = balanced_pixel(len(REQUIRED), len(OPTIONAL), len(LAND_COVER_NAMES), len(data.train.classes))
        network = replace(
            whole,
            branch=whole.branch // 2,
            widths=tuple(width // 2 for width in whole.widths),
            decoder=tuple(width // 2 for width in whole.decoder),
        )
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for seed in map(int, options.seeds.split(",")):  # one seed of every arm, then the next
        for arm in arms:
            config = PixelTrainConfig(
                steps=options.steps,
                patches=options.patches,
                mosaics=options.mosaics,
                pixels=options.pixel_patches,
                peak_rate=options.peak_rate,
                warmup_steps=options.steps // 20,
                seed=seed,
                precision=options.precision,
                **settings_of(arm, options),
            )
            out = options.out / f"{arm.replace(' ', '-')}-{seed}"
            run = run_once(config, data, out, network, options.device)
            print(f"{out.name}: use {run['use']:.1%}, cover {run['cover']:.1%}", file=sys.stderr, flush=True)
            found[arm].append(run)
            shown = {name: runs for name, runs in found.items() if runs}
            (options.out / "results.json").write_text(json.dumps(shown, indent=1) + "\n", "utf-8")
            (options.out / "table.md").write_text(tables(shown), "utf-8")
    print(tables(found), end="")


if __name__ == "__main__":
    try:
        main()
    except LanduseError as error:
        sys.exit(f"Error: {error}")
