"""Average the weights of checkpoints that descend from one another ("model soup", Wortsman et al. 2022).

    python examples/average_weights.py 0.75 run4/model.safetensors 0.25 run5/model.safetensors \
        --data EuroSAT_RGB --split paper-val.txt --name my-model --out my-model.safetensors

Only networks of one lineage can be averaged: same contract, and close enough that the way between
them is flat. The temperature is fitted anew on --split, which should have been trained on by none.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from landuse.contract import ModelContract
from landuse.errors import LanduseError, UsageError
from landuse.model.checkpoint import load_checkpoint, save_checkpoint
from landuse.model.networks import PatchNetwork
from landuse.model.training.datasets import PatchSource, load_patches, read_split
from landuse.model.training.evaluate import fit_temperature, logits_of, score


def average(shares: list[tuple[float, Path]]) -> tuple[PatchNetwork, ModelContract]:
    """The network whose weights are the weighted mean, and the first one's contract."""
    if abs(sum(share for share, _ in shares) - 1) > 1e-6:
        raise UsageError(f"The shares {[share for share, _ in shares]} must sum to 1.")
    network, contract = load_checkpoint(shares[0][1])
    total = {key: shares[0][0] * value.double() for key, value in network.state_dict().items()}
    for share, path in shares[1:]:
        other, own = load_checkpoint(path)
        if replace(own, name=contract.name, temperature=contract.temperature) != contract:
            raise UsageError(f"{path} has another contract than {shares[0][1]}. Average one lineage only.")
        if other.config != network.config:
            raise UsageError(f"{path} is another network than {shares[0][1]}. Average one lineage only.")
        for key, value in other.state_dict().items():
            total[key] += share * value.double()
    dtypes = {key: value.dtype for key, value in network.state_dict().items()}
    network.load_state_dict({key: value.to(dtypes[key]) for key, value in total.items()})
    return network.to(memory_format=torch.channels_last), contract  # type: ignore[call-overload]  # missing in torch's stub


def main() -> None:
    """Average, fit the temperature, write, and say what the result scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shares", nargs="+", metavar="SHARE CHECKPOINT", help="pairs; the shares sum to 1")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of patches a class")
    parser.add_argument("--split", type=Path, required=True, help="list of the patches to measure on")
    parser.add_argument("--name", required=True, help="the result's name in its contract")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    options = parser.parse_args()
    try:
        shares = [float(text) for text in options.shares[::2]]
        paths = [Path(text) for text in options.shares[1::2]]
        network, contract = average(list(zip(shares, paths, strict=True)))
        patches = load_patches(PatchSource(root=options.data), read_split(options.split), contract.bands)
        logits = logits_of(network, contract, patches)
        contract = replace(contract, name=options.name, temperature=fit_temperature(logits, patches.labels))
        save_checkpoint(options.out, network, contract)
    except (LanduseError, ValueError) as error:
        sys.exit(f"Error: {error}")
    scores = score((logits / contract.temperature).softmax(1), patches.labels, contract.classes)
    print(f"wrote {options.out}: {scores.accuracy:.2%} of {scores.n} patches, ECE {scores.ece:.2%}")


if __name__ == "__main__":
    main()
