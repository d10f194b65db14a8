"""``landuse map`` beside the loop that anybody would write for the same network, and the network alone.

``python -m tests.benchmarks.dense_loop`` lays a tile of the simulated landscape out (``full_tile``) and makes
a map of it in several ways, in alternating rounds, each in a process of its own on the same cores: by
``landuse map``, once with all files, once ``--rasters-only`` and, where the processor computes in bfloat16,
once more so; and by a loop of rasterio's windows with an overlap, torch's ``DataLoader``, the same network in
float32, and classes, confidence and cover written window by window. The loop asks for no clouds, no polygons,
no page, no overviews, no doubt. In each round the network alone runs over blocks of the same sizes too.
Quoted are the medians of the seconds of the clock and of the processor, and of the ratios in a round.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch

from landuse.model.devices import computes_bfloat16
from landuse.pipeline.blocks.plan import BLOCK_PX
from tests.benchmarks.full_tile import BANDS, LANDUSE, NETWORK, block_sizes, catalogued, run, write_tile

LOOP = """
import sys
import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch.utils.data import DataLoader, Dataset
from landuse.model.checkpoint import load_pixel_checkpoint, model_path
from landuse.model.cover_and_use import combine, with_prior
from landuse.model.normalize import bring_to_input, standardize
tile, model, bands, out = sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4]
INNER, MARGIN = 512, 64
network, contract = load_pixel_checkpoint(model_path(model))
network.eval()
present = torch.tensor([[float(band in bands) for band in contract.optional_bands]])
rows = [contract.bands.index(band) for band in bands]

class Windows(Dataset):
    def __init__(self):
        with rasterio.open(tile) as file:
            self.profile, (height, width) = file.profile, file.shape
        self.corners = [(y, x) for y in range(0, height, INNER) for x in range(0, width, INNER)]
    def __len__(self):
        return len(self.corners)
    def __getitem__(self, index):
        y, x = self.corners[index]
        side = INNER + 2 * MARGIN
        with rasterio.open(tile) as file:
            dn = file.read(window=Window(x - MARGIN, y - MARGIN, side, side), boundless=True)
        whole = np.zeros((len(contract.bands), side, side), np.float32)
        whole[rows] = np.maximum(dn.astype(np.float32) - 1000, 1)  # as ESA stores it from baseline 04.00 on
        return whole, y, x

windows = Windows()
made = {**windows.profile, "count": 3, "dtype": "uint8", "nodata": 255}
with rasterio.open(out, "w", **made) as file, torch.inference_mode():
    for dn, ys, xs in DataLoader(windows, batch_size=1, num_workers=1):
        x = standardize(bring_to_input(dn, contract, "L2A"), contract)
        found = network.dense_features(network.features(x, present))
        classes, covers = combine(with_prior(found.cover, present, contract), found.use_half, contract)
        share, best = classes[0].max(0)
        layers = torch.stack([best, (share * 250).round(), covers[0].argmax(0)]).to(torch.uint8).numpy()
        y, x = int(ys[0]), int(xs[0])
        height, width = min(INNER, file.height - y), min(INNER, file.width - x)
        kept = layers[:, MARGIN : MARGIN + height, MARGIN : MARGIN + width]
        file.write(kept, window=Window(x, y, width, height))
"""

LOOP_NAME = "the loop"
NETWORK_NAME = "the network alone"
BF16 = ", bf16"
"""What ends the names of what computes in bfloat16."""


def table(rounds: list[dict[str, dict[str, float]]]) -> str:
    """Medians of all, and of the ratios within rounds: how much longer the loop takes, and the network less.

    Args:
        rounds: by name what ``full_tile.run`` told of each.
    """
    lines = [f"{'':24} clock s  processor s  peak GB"]
    for name in rounds[0]:
        wall, cpu, peak = (median(one[name][key] for one in rounds) for key in ("wall_s", "cpu_s", "peak_gb"))
        lines.append(f"{name:24} {wall:7.1f} {cpu:12.1f} {peak:8.2f}")
    lines.append("ratios by the clock; by the processor (least and greatest)")
    for name in rounds[0]:
        if name.startswith((LOOP_NAME, NETWORK_NAME)):
            continue
        network = NETWORK_NAME + (BF16 if name.endswith(BF16) else "")
        lines.append(f"{'the loop to ' + name:46} {_ratios(rounds, LOOP_NAME, name)}")
        lines.append(f"{name + ' to ' + network:46} {_ratios(rounds, name, network)}")
    return "\n".join(lines)


def _ratios(rounds: list[dict[str, dict[str, float]]], above: str, below: str) -> str:
    told = []
    for key in ("wall_s", "cpu_s"):
        ratios = [one[above][key] / one[below][key] for one in rounds]
        told.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return "; ".join(told)


def mapping(model: str, catalog: Path, folder: Path, *options: str) -> list[str]:
    """The command that maps a catalogue."""
    asked = [*LANDUSE, "map", "--source", str(catalog), "--model", model, "--out", str(folder / "map")]
    return [*asked, "--overwrite", "--quiet", *options]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="balanced-pixel")
    parser.add_argument("--side-px", type=int, default=3072, help="side of the tile, a multiple of 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every round's figures to this file")
    given = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tile = write_tile(folder, given.side_px)
        catalog = catalogued(tile, folder / "catalog")
        sizes = json.dumps(block_sizes(given.side_px, BLOCK_PX))
        precisions = ("fp32", "bf16") if computes_bfloat16(torch.device("cpu")) else ("fp32",)
        commands = {"all files": mapping(given.model, catalog, folder)}
        for precision in precisions:
            ending = BF16 if precision == "bf16" else ""
            commands[f"rasters only{ending}"] = mapping(
                given.model, catalog, folder, "--rasters-only", "--precision", precision
            )
            commands[f"{NETWORK_NAME}{ending}"] = [
                sys.executable, "-c", NETWORK, given.model, sizes, ",".join(BANDS), precision,
            ]  # fmt: skip
        commands[LOOP_NAME] = [
            sys.executable, "-c", LOOP, str(tile), given.model, ",".join(BANDS), str(folder / "loop.tif"),
        ]  # fmt: skip
        for index in range(given.rounds):
            order = list(commands) if index % 2 == 0 else list(reversed(commands))
            took = {title: run(commands[title])[0] for title in order}
            rounds.append({title: took[title] for title in commands})
            print(f"round {index + 1} of {given.rounds}", file=sys.stderr, flush=True)
    print(f"tile of {given.side_px} px, bands {', '.join(BANDS)}, {given.rounds} rounds")
    print(table(rounds))
    if given.json:
        given.json.write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
