"""The engine end to end: against its floors, against the obvious loop, by stride, engine, area and workers.

``LANDUSE_TEST_DATA=... python tests/benchmarks/engine.py [--quick] [--tile-px 10980] [--strides 64,16,8]
[--engines windows,shared] [--out FOLDER]`` mirrors a real scene into a tile, catalogues it with
``catalog_rasters`` and maps it with ``map_area``, as a user would. Every row runs in a process of its own.
Rows that are compared run in turn, round after round, and what is quoted are medians of ratios within a
round: times differ from machine to machine and from minute to minute, ratios less. Rows that would take
too long run on a smaller tile, which the table names; what is compared is time per km2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from engine_plot import draw
from engine_tables import Row, checks, equal_cells, table
from engine_tile import SCENES, real_catalog, tile_catalog

from landuse.model import MAP_MODEL

WINDOWS_A_ROUND = 4096
"""Patches of a tile in the rounds: some 10 to 20 seconds on two cores."""


@dataclass(kw_only=True)
class Bench:
    """One run of the benchmark."""

    model: str
    scene: str
    tile_px: int
    strides: list[int]
    engines: list[str]
    rounds: int
    budget_s: float
    folder: Path
    out: Path
    facts: dict = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def run(self) -> None:
        """All parts, from those that others need."""
        parts = (self.batches, self.compare, self.full, self.scale, self.distribute, self.agree, self.device)
        for part in parts:
            part()
            self.keep()

    def batches(self) -> None:
        """The best batch size of a bare loop, and the loader that suits the obvious loop."""
        catalog = self.tile(2048)
        self.facts["batches"] = [self.ask("batches", catalog) for _ in range(self.rounds)]
        best = {size: median(found["bare"][size] for found in self.facts["batches"])
                for size in self.facts["batches"][0]["bare"]}  # fmt: skip
        self.batch = int(max(best, key=lambda size: best[size]))
        self.rate = best[str(self.batch)]
        loaders = {
            count: self.ask("obvious", catalog, stride_px=64, loaders=count)["seconds"] for count in (0, 2)
        }
        self.loaders = min(loaders, key=lambda count: loaders[count])
        self.facts |= {"best_batch": self.batch, "loader_s": loaders}

    def compare(self) -> None:
        """Floors, both engines and the obvious loop in turn."""
        for stride_px in self.strides:
            side = min(max(self.whole(stride_px * WINDOWS_A_ROUND**0.5), 512), self.tile_px)
            for number in range(self.rounds):
                for engine in self.engines:
                    self.floors_and_map(stride_px, side, engine, number)
                found = self.ask("obvious", self.tile(side), stride_px=stride_px, loaders=self.loaders)
                self.add("obvious loop", found, stride_px, side, "", number)

    def floors_and_map(self, stride_px: int, side: int, engine: str, number: int) -> None:
        """The two floors of a map, and the map."""
        job = {"stride_px": stride_px, "engine": engine, "batch": self.batch}
        read = self.ask("read", self.tile(side), **job)
        found = self.ask("map", self.tile(side), **job)
        alone = self.ask("network", self.tile(side), patches=found["patches"], **job)
        alone["patches"] = found["patches"]
        self.add("read only", read, stride_px, side, engine, number)
        self.add("network only", alone, stride_px, side, engine, number)
        self.add("end to end", found, stride_px, side, engine, number)

    def full(self) -> None:
        """Each engine at each stride on the whole tile, or as much of it as fits the budget."""
        for engine in self.engines:
            for stride_px in self.strides:
                # Shared, every stride costs about what windows of 64 px cost.
                span = 64 if engine == "shared" else stride_px
                fits = self.whole(span * (self.budget_s * self.rate) ** 0.5)
                side = self.tile_px if fits >= self.tile_px else max(fits, 1024)
                found = self.ask("map", self.tile(side), stride_px=stride_px, engine=engine)
                self.add(
                    "whole tile" if side == self.tile_px else "part of it", found, stride_px, side, engine
                )

    def scale(self) -> None:
        """1, 4 and 16 times the area."""
        for engine in self.engines:
            stride_px = 64 if engine == "windows" else self.strides[-1]
            base = min(1024, self.tile_px // 4)
            for side in (base, 2 * base, 4 * base):
                found = self.ask("map", self.tile(side), stride_px=stride_px, engine=engine)
                self.add("area", found, stride_px, side, engine)

    def distribute(self) -> None:
        """In one process, and with 1 and 2 dask workers."""
        engine = self.engines[0]
        for number in range(min(self.rounds, 2)):
            for workers in (None, 1, 2):
                found = self.ask("map", self.tile(4096), stride_px=64, engine=engine, workers=workers)
                self.add("dask", found, 64, 4096, engine, number, workers or 0)

    def agree(self) -> None:
        """Share of cells to which the engines give one class, on the real scenes; ours beside the loop."""
        found = {}
        for scene in SCENES:
            catalog = real_catalog(scene, self.folder)
            for engine in self.engines:
                self.ask("map", catalog, scene, stride_px=8, engine=engine, out=f"real-{engine}")
            if len(self.engines) == 2:
                maps = [self.folder / f"real-{engine}" / "landuse.tif" for engine in self.engines]
                found[f"engines, stride 8, {scene}"] = equal_cells(*maps)
        catalog = self.tile(2048)
        self.ask("map", catalog, stride_px=64, engine="windows", out="ours")
        self.ask("obvious", catalog, stride_px=64, loaders=0, out="obvious.tif")
        maps = self.folder / "ours" / "landuse.tif", self.folder / "obvious.tif"
        found["windows and obvious loop, stride 64"] = equal_cells(*maps)
        self.facts["equal_cells"] = found

    def device(self) -> None:
        """The accelerator's rows, where there is one."""
        import torch

        if torch.cuda.is_available():
            job = {"stride_px": self.strides[-1], "engine": self.engines[-1]}
            self.facts["accelerator"] = self.ask("device", self.tile(4096), **job)

    def whole(self, px: float) -> int:
        """The next smaller multiple of 512."""
        return int(px // 512 * 512)

    def tile(self, side: int) -> Path:
        """The catalogue of a tile."""
        return tile_catalog(self.scene, min(side, self.tile_px), self.folder)

    def ask(self, row: str, catalog: Path, scene: str | None = None, out: str = "out", **job: object) -> dict:
        """Run a row in a process of its own."""
        job |= {
            "row": row,
            "catalog": str(catalog),
            "level": SCENES[scene or self.scene][1],
            "model": self.model,
            "out": str(self.folder / (out if row != "obvious" or out != "out" else "out.tif")),
        }
        command = [sys.executable, str(Path(__file__).with_name("engine_rows.py")), json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{job}\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    def add(
        self,
        name: str,
        found: dict,
        stride_px: int,
        side: int,
        engine: str,
        number: int = 0,
        workers: int = 0,
    ) -> None:
        """Keep what a row found, and say so."""
        row = Row(
            name=name, engine=engine, stride_px=stride_px, tile_px=min(side, self.tile_px), round=number,
            workers=workers, seconds=found["seconds"], cpu_s=found["cpu_s"], patches=found.get("patches"),
            waited=found.get("waited"), peak_rss_mb=found["peak_rss_mb"], parts=found.get("parts"),
        )  # fmt: skip
        self.rows.append(row)
        where = f"stride {stride_px}, {row.tile_px} px"
        print(f"{name} {engine} {where}: {row.seconds:.1f} s, CPU {row.cpu_s:.1f} s", file=sys.stderr)

    def keep(self) -> None:
        """What is known by now, as JSON."""
        import torch

        self.facts["machine"] = {
            "cores": os.cpu_count(),
            "cpu": cpu_name(),
            "torch": torch.__version__,
            "torch_threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "load_1_min": os.getloadavg()[0],
        }
        values = self.facts | {"rows": [row.to_dict() for row in self.rows]}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "engine.json").write_text(json.dumps(values, indent=1) + "\n")


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    """Print the table and the checks; write ``engine.json`` and ``engine.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tile-px", type=int, default=10_980)
    parser.add_argument("--strides", default="64,16,8")
    parser.add_argument("--engines", default="windows,shared")
    parser.add_argument("--scene", choices=SCENES, default="inn")
    parser.add_argument("--model", default=MAP_MODEL, help="name or path of a .safetensors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget-s", type=float, default=150, help="of a row of windows; decides its tile")
    parser.add_argument("--quick", action="store_true", help="a tile of 2048 px, one round, 20 s a row")
    parser.add_argument("--work", type=Path, help="folder that keeps the tiles; by default a temporary one")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of engine.json and .png")
    given = parser.parse_args()
    if "LANDUSE_TEST_DATA" not in os.environ:
        raise SystemExit("LANDUSE_TEST_DATA names no folder; the tile is made of a real scene there.")
    if given.quick:
        given.tile_px, given.rounds, given.budget_s = min(given.tile_px, 2048), 1, 20
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(
            model=given.model, scene=given.scene, tile_px=given.tile_px, rounds=given.rounds,
            strides=[int(stride) for stride in given.strides.split(",")], engines=given.engines.split(","),
            budget_s=given.budget_s, folder=folder, out=given.out,
        )  # fmt: skip
        bench.run()
    print(table(bench.rows))
    print(checks(bench.rows, bench.facts))
    draw(bench.rows, bench.out / "engine.png")


if __name__ == "__main__":
    main()
