"""A small model of patches for tests of agreement: maps of one and of many blocks, zones, sources, hosts."""

from pathlib import Path

import torch

from landuse.model.checkpoint import load_contract, model_path, save_checkpoint
from landuse.model.networks import NetworkConfig, build_network
from landuse.model.predict import Predictor

NAME = "balanced-fast-rgb"


def save_patch_model(path: Path, seed: int = 2) -> Path:
    """The shipped model's contract with a network of a quarter of its channels and random weights.

    Patches take a tenth of the time, and its classes vary from place to place as a trained one's do.
    """
    torch.manual_seed(seed)
    contract = load_contract(model_path(NAME))
    config = NetworkConfig(
        name=NAME.removesuffix("-rgb"), bands=len(contract.bands), classes=len(contract.classes), unshuffle=2,
        widths=(16, 24, 32), depths=(1, 1, 1), attention="last", dropblock=(0.0, 0.0, 0.0),
    )  # fmt: skip
    network = build_network(config).train()
    # Patches of many colours: statistics as in training, and logits that no class always wins.
    x = torch.randn(64, config.bands, 1, 1) + 0.3 * torch.randn(64, config.bands, 64, 64)
    with torch.no_grad():
        for _ in range(10):
            network(x)
        logits = network.eval()(x)
        network.output_layer.weight *= (4 / logits.std(0))[:, None]
        network.output_layer.bias.copy_(-network(x).mean(0))
    save_checkpoint(path, network, contract)
    return path


def patch_predictor(folder: Path) -> Predictor:
    """It, ready to classify."""
    return Predictor.load(str(save_patch_model(folder / f"{NAME}.safetensors")), "cpu")
