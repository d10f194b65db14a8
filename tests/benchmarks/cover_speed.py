"""How fast a model of pixels is beside Dynamic World's network: the same pixels, in turn, in one run.

``LANDUSE_TEST_DATA=... python -m tests.benchmarks.cover_speed --model PATH --tensorflow-python PYTHON``
mirrors a real scene of 13 bands into a square and has it classified by processes that live side by side, each
on the same cores with the same number of threads: Dynamic World's SavedModel under TensorFlow, whose
environment the given Python is of, and the model in each band set and precision. Round after round each
runs once while the others wait; what is quoted are medians of processor seconds and of ratios within a round,
which others' work on the machine disturbs less.
First the run proves that Dynamic World is called rightly: its labels of the scene are those it is known by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import rasterio

from tests.benchmarks.cover_references import BAND_SETS, read_bands

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("cover_speed_worker.py")
SCENE = "orihuela_es_L1C_20190918_13b_utm30n.tif"
TILE_PX = 10_980
WARM_UP = 2
"""Calls of each kind before timings: the first traces or sets up."""
LEAST_AGREEMENT = 0.99
"""Of Dynamic World's labels of the scene with those in the data; fewer mean that it is called wrongly."""
OTHER = "Dynamic World"
SURROUNDINGS = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
"""Of the workers: no graphics card, and TensorFlow says errors alone."""


class Side:
    """A worker's process and what it answered."""

    def __init__(self, command: list[str], threads: int) -> None:
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | counts | SURROUNDINGS,
        )  # fmt: skip
        self.seconds: dict[str, list[float]] = {"network": [], "whole": []}
        self._answer("ready")

    def ask(self, line: str) -> float:
        """Have a line carried out; its processor seconds."""
        if self._process.stdin is None:
            raise RuntimeError("the worker has no input")
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, expected: str | None = None) -> str:
        line = self._process.stdout.readline().strip()
        if not line or (expected and line != expected):
            raise SystemExit(f"{' '.join(map(str, self._process.args))} failed: it answered {line!r}.")
        return line


def mirrored(values: np.ndarray, side_px: int) -> np.ndarray:
    """(H, W) continued by its mirror images to a square."""
    more = [(0, max(side_px - length, 0)) for length in values.shape]
    return np.pad(values, more, mode="symmetric")[:side_px, :side_px]


def check_labels(tf_python: str, data: Path, folder: Path, threads: int) -> float:
    """Share of the scene that Dynamic World labels as the data say it does.

    Raises:
        SystemExit: it is too small for the network to have been called rightly.
    """
    dn, _, _ = read_bands(data / "scenes" / SCENE)
    np.savez(folder / "scene.npz", **dn)
    side = Side(
        [tf_python, WORKER, "dynamicworld", model_of(data), folder / "scene.npz", str(threads)], threads
    )
    side.ask(f"labels {folder / 'labels.npy'}")
    side.close()
    with rasterio.open(data / "cover" / "orihuela_dw.tif") as file:
        same = float((np.load(folder / "labels.npy") == file.read(1)).mean())
    if same < LEAST_AGREEMENT:
        raise SystemExit(f"Dynamic World labels {same:.1%} of the scene as it should: it is called wrongly.")
    return same


def model_of(data: Path) -> Path:
    """Dynamic World's SavedModel."""
    return data / "cover" / "dynamicworld" / "forward"


def timings(given: argparse.Namespace, data: Path, folder: Path) -> dict[str, Side]:
    """The sides, each with its seconds by kind."""
    dn, _, _ = read_bands(data / "scenes" / SCENE)
    pixels = folder / "block.npz"
    np.savez(pixels, **{band: mirrored(values, given.side_px) for band, values in dn.items()})
    threads = str(given.threads)
    commands = {OTHER: [given.tensorflow_python, WORKER, "dynamicworld", model_of(data), pixels, threads]}
    for precision in given.precisions:
        for band_set in given.bands:
            bands = ",".join(BAND_SETS[band_set])
            command = [sys.executable, WORKER, "landuse", given.model, pixels, threads, bands, precision]
            commands[f"{band_set}, {precision}"] = command
    sides = {name: Side(command, given.threads) for name, command in commands.items()}
    for index in range(WARM_UP + given.rounds):
        for kind in ("network", "whole"):
            for side in sides.values():
                seconds = side.ask(kind)
                if index >= WARM_UP:
                    side.seconds[kind].append(seconds)
        print(f"round {index + 1} of {WARM_UP + given.rounds}", file=sys.stderr, flush=True)
    for side in sides.values():
        side.close()
    return sides


def table(seconds: dict[str, dict[str, list[float]]], megapixels: float) -> str:
    """Medians of seconds a megapixel, of seconds a tile, and of the ratio to Dynamic World within rounds.

    Args:
        seconds: by side and kind, one value a round.
        megapixels: of the block.
    """
    width = max(map(len, seconds))
    lines = [f"{'':{width}}  network s/Mpx  ratio   whole s/Mpx  ratio   tile s"]
    for name, kinds in seconds.items():
        line = f"{name:{width}}"
        for kind, space in (("network", 15), ("whole", 14)):
            ratios = [own / other for own, other in zip(kinds[kind], seconds[OTHER][kind], strict=True)]
            line += f"{median(kinds[kind]) / megapixels:{space}.2f} {median(ratios):6.2f}"
        lines.append(f"{line} {median(kinds['whole']) / megapixels * TILE_PX**2 / 1e6:8.0f}")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint or name of a model of pixels")
    parser.add_argument("--tensorflow-python", required=True, help="Python of an environment with TensorFlow")
    parser.add_argument("--bands", nargs="+", choices=BAND_SETS, default=list(BAND_SETS))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--side-px", type=int, default=1024, help="side of the block, a multiple of 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every round's seconds to this file")
    given = parser.parse_args()
    data = Path(os.environ["LANDUSE_TEST_DATA"]).resolve()
    with tempfile.TemporaryDirectory() as name:
        same = check_labels(given.tensorflow_python, data, Path(name), given.threads)
        print(f"Dynamic World labels {same:.1%} of orihuela as in the data, so it is called rightly.")
        sides = timings(given, data, Path(name))
    seconds = {name: side.seconds for name, side in sides.items()}
    print(f"blocks of {given.side_px} x {given.side_px} px, {given.threads} threads, {given.rounds} rounds")
    print(table(seconds, given.side_px**2 / 1e6))
    if given.json:
        given.json.write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
