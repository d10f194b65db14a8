"""A small network, its contract, and a folder of coloured patches to learn from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from landuse.contract import ModelContract
from landuse.model.checkpoint import save_checkpoint
from landuse.model.networks import BalancedNet, NetworkConfig
from landuse.model.normalize import level_inputs
from landuse.model.training.datasets import LabelledPatches, PatchSource, list_patches, load_patches
from tests.patches import SIDE_PX, make_jpegs

CLASSES = ("Brick", "Grass", "Water")


def randomise(network: torch.nn.Module, seed: int = 0) -> None:
    """Parameters and running statistics that hide no mistake behind a 0 or a 1."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.dtype.is_floating_point:
                continue
            noise = torch.randn(value.shape, generator=rng)
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise * 0.3 + 0.1)


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Tensors this small gain nothing from threads and lose seconds to them on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def contract() -> ModelContract:
    bands = ("B04", "B03", "B02")
    return ModelContract(
        name="tiny",
        bands=bands,
        levels=level_inputs(bands),
        saturation_dn=(2750.0,) * 3,
        mean=(0.3, 0.35, 0.4),
        std=(0.2, 0.15, 0.1),
        classes=CLASSES,
        patch_size_px=SIDE_PX,
        resolution_m=10.0,
        temperature=1.5,
    )


@pytest.fixture
def network() -> BalancedNet:
    config = NetworkConfig(
        name="tiny",
        bands=3,
        classes=3,
        unshuffle=2,
        widths=(8, 16),
        depths=(1, 2),
        attention="last",
        dropblock=(0.1, 0.2),
        dropout=0.5,
    )
    torch.manual_seed(0)
    net = BalancedNet(config)
    # Statistics of a forward pass in training, so that features keep a sane scale.
    net.train()
    for _ in range(20):
        net(torch.randn(16, 3, SIDE_PX, SIDE_PX))
    return net.eval()


@pytest.fixture
def checkpoint(tmp_path: Path, network: BalancedNet, contract: ModelContract) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, network, contract)
    return path


@pytest.fixture(scope="session")
def patch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<Class>/<Class>_<n>.jpg``: one hue a class, textured, 40 of each."""
    return make_jpegs(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="session")
def patches(patch_folder: Path) -> LabelledPatches:
    return load_patches(PatchSource(root=patch_folder), list_patches(patch_folder))
