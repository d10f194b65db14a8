"""What a device is worth to ``landuse``: a GPU, or the CPU beside which it is to be seen.

``python -m tests.benchmarks.device --device cuda`` takes a few minutes on a GPU and tells, for each precision
that the device computes in: megapixels a second of the dense network alone, and from DN in memory to
probabilities in memory; the share of what the device can do at most, which is the network's floating point
operations (counted by torch) over those of a large product of matrices, measured here; the share of the
pixels whose class is that of the CPU in float32; and of a whole ``landuse map`` its megapixels a second and
the share of its classifying stage in which the network was idle, waiting for pixels or files. Then images a
second of training ``balanced-fast``. ``--device cpu --side-px 128 --map-px 0`` takes seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from landuse.model.devices import computes_bfloat16, resolve_device
from landuse.model.memory import reused_memory
from landuse.model.networks import NETWORKS, build_network
from landuse.model.predict import full_float32
from landuse.model.predict_pixels import PixelPredictor
from tests.benchmarks.full_tile import BANDS, run, write_tile

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TIMES = 5


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What the dense network reaches in one precision."""

    network: float
    """Megapixels a second of the network alone."""
    scores: float
    """Megapixels a second from DN to probabilities, both in the machine's memory."""
    roofline: float
    """The network's operations a second over those of a product of matrices in this precision."""
    equal: float
    """Share of the pixels whose class is that of float32 on the CPU."""


def seconds(work: Callable[[], object], device: torch.device, times: int = TIMES) -> float:
    """The fastest of some runs, after one that sets up."""
    took = []
    for _ in range(1 + times):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return min(took[1:])


def peak_operations(device: torch.device, precision: str) -> float:
    """Floating point operations a second of a product of matrices."""
    side = 8192 if device.type == "cuda" else 1024
    one = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    with torch.inference_mode(), full_float32():
        return 2 * side**3 / seconds(lambda: one @ one, device)


def speed_of(model: str, device: str, precision: str, dn: np.ndarray, expected: np.ndarray) -> Speed:
    """Time the dense network on a block.

    Args:
        model: name or path.
        device: as ``--device`` names it.
        precision: ``fp32`` or ``bf16``.
        dn: (4, H, W) uint16 of ``BANDS``.
        expected: (H, W), the classes that the CPU tells in float32.
    """
    predictor = PixelPredictor.load(model, device, precision)
    target = predictor.device
    megapixels = dn.shape[1] * dn.shape[2] / 1e6
    x, present = predictor.block_input(dn, BANDS, "L2A")
    with torch.inference_mode(), full_float32(), reused_memory():
        with FlopCounterMode(display=False) as counter:
            predictor.dense_features(x, present)
        alone = seconds(lambda: predictor.dense_features(x, present), target)
        whole = seconds(lambda: predictor.pixel_scores(dn, BANDS, "L2A"), target)
        found = predictor.pixel_scores(dn, BANDS, "L2A").landuse.argmax(0)
    return Speed(
        network=megapixels / alone,
        scores=megapixels / whole,
        roofline=counter.get_total_flops() / alone / peak_operations(target, precision),
        equal=float((found == expected).mean()),
    )


def training_speed(device: torch.device, batch: int) -> float:
    """Images a second of training ``balanced-fast`` on RGB patches of 64 px, in bfloat16 where it can."""
    network = build_network(NETWORKS["balanced-fast"](3, 10)).train()
    network.to(device=device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    x = torch.randn(batch, 3, 64, 64, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
            loss = F.cross_entropy(network(x).float(), labels)
        loss.backward()
        optimizer.step()

    return batch / seconds(step, device)


def whole_map(model: str, device: str, precision: str, side_px: int, network: float) -> dict[str, float]:
    """Megapixels a second of ``landuse map``, and the share of its classifying in which the network was idle.

    Args:
        model: name or path.
        device: as ``--device`` names it.
        precision: ``fp32`` or ``bf16``.
        side_px: of the tile.
        network: megapixels a second of the network alone.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tile = write_tile(folder, side_px)
        landuse = [sys.executable, "-m", "landuse"]
        stated = ["--level", "L2A", "--datetime", "2024-06-01T10:00:00Z", "--baseline", "05.10"]
        run([*landuse, "catalog", str(tile), *stated, "--out", str(folder / "catalog")])
        took, _ = run(
            [*landuse, "map", "--source", str(folder / "catalog" / "catalog.json"), "--model", model,
             "--device", device, "--precision", precision, "--out", str(folder / "map"), "--quiet"]
        )  # fmt: skip
        told = json.loads((folder / "map" / "run.json").read_bytes())
    return {
        "megapixels_a_second": side_px**2 / 1e6 / took["wall_s"],
        "idle": idle_share(told["pixels"] / 1e6, told["seconds"]["map"], network),
    }


def idle_share(megapixels: float, stage_s: float, network: float) -> float:
    """Share of a stage in which a network that computes so many megapixels a second had nothing to do."""
    return max(0.0, 1 - megapixels / network / stage_s)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:INDEX")
    parser.add_argument("--model", default="balanced-pixel")
    parser.add_argument("--side-px", type=int, default=1536, help="of the block, a multiple of 8")
    parser.add_argument(
        "--map-px", type=int, default=4096, help="side of the tile that is mapped; 0: none is"
    )
    parser.add_argument("--batch", type=int, default=512, help="images of a training step")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    device = resolve_device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    rng = np.random.default_rng(0)
    fields = rng.integers(300, 3000, (len(BANDS), given.side_px // 8, given.side_px // 8))
    dn = (np.kron(fields, np.ones((8, 8))) * rng.uniform(0.9, 1.1, (1, given.side_px, given.side_px))).astype(
        np.uint16
    )
    expected = PixelPredictor.load(given.model, "cpu").pixel_scores(dn, BANDS, "L2A").landuse.argmax(0)
    figures: dict[str, object] = {"device": name}
    for precision in ["fp32"] + ["bf16"] * computes_bfloat16(device):
        speed = speed_of(given.model, given.device, precision, dn, expected)
        figures[precision] = asdict(speed)
        print(
            f"{precision}: network {speed.network:.2f} Mpx/s, {speed.roofline:.0%} of the roofline; DN to "
            f"probabilities {speed.scores:.2f} Mpx/s; {speed.equal:.3%} of the pixels as of the CPU in fp32"
        )
        if given.map_px:
            told = whole_map(given.model, given.device, precision, given.map_px, speed.network)
            figures[f"{precision} map"] = told
            print(
                f"{precision}: landuse map {told['megapixels_a_second']:.2f} Mpx/s end to end, network idle "
                f"{told['idle']:.0%} of the classifying"
            )
    figures["images_a_second"] = training_speed(device, given.batch)
    print(f"training balanced-fast: {figures['images_a_second']:.0f} images a second")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
