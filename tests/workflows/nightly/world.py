"""A catalogue that changes from night to night, its imagery, and the nightly run as a process of its own.

Land of one tile, seen each day. Its red reflectance is known for every cell and day, and a model of pixels
turns just that into probabilities: so the right map and the right change are known too. Cells are of 160 m,
which keeps the maps small; what lies within one is alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

from landuse.contract import LevelInput, ModelContract, PixelOutputs
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.workflows.nightly.config import load_config
from landuse.workflows.nightly.run import Night, run_nightly
from tests.servers import START_SECONDS, free_port, stac_item, write_items
from tests.warm import Warm
from tests.workflows.pixel_models import Scores

ROOT = Path(__file__).parents[3]
CELL_PX = 16
CELLS = 20
"""Cells along a side of the tile's imagery."""
LEFT, TOP = 512_000, 5_310_080
"""Its corner: a multiple of a cell's 160 m."""
TILE, CRS = "33UWP", "EPSG:32633"
FIRST = datetime(2026, 6, 1, 10, 10, 31, tzinfo=UTC)
"""When the first scene is acquired; one a day follows."""

RETRY = RetryPolicy(attempts=2, first_pause_s=0.01, longest_pause_s=0.02, deadline_s=20, rest_s=0.02)


class Cells:
    """Each pixel is as bright as its red DN."""

    weights_path = None
    position_px = 8
    contract = ModelContract(
        name="brightness",
        bands=("B04",),
        levels=(LevelInput(level="L2A", gain=(1.0,), offset_dn=(0.0,)),),
        saturation_dn=(10_000.0,),
        mean=(0.0,),
        std=(1.0,),
        classes=("Dark", "Bright"),
        patch_size_px=64,
        resolution_m=10.0,
        pixels=PixelOutputs(
            covers=("Dim", "Lit"), uses_of_covers=(("Dark",), ("Bright",)), uses=("Dark", "Bright")
        ),
    )

    def __init__(self, sha="0" * 64, pause_s=0.0):
        self.weights_sha256 = sha
        self.pause_s = pause_s

    def pixel_scores(self, dn, bands, level):
        time.sleep(self.pause_s)
        bright = (dn[0] / 10_000).astype(np.float32)
        scores = np.stack([1 - bright, bright])
        return Scores(landuse=scores, cover=scores)


MODELS = {
    "first": Cells(),
    "second": Cells("2" * 64),
    "slow": Cells(pause_s=0.5),
}


def load(model, device):
    return MODELS[model]


def moment(day):
    """Acquisition of a day's scene; day 1 is the first."""
    return FIRST + timedelta(days=day - 1)


def night(day):
    """When the nightly run of a day begins."""
    return moment(day).replace(hour=23, minute=0, second=0)


def period(day):
    return f"{moment(day):%Y-%m-%d}"


@dataclass(frozen=True)
class Block:
    """Cells of the tile, from its top left."""

    row: int
    col: int
    rows: int
    cols: int

    @property
    def slices(self):
        return np.s_[self.row : self.row + self.rows, self.col : self.col + self.cols]

    @property
    def bbox(self):
        """West, south, east, north; a metre inside the cells, so that degrees do not cost another row."""
        left, top = LEFT + self.col * 160, TOP - self.row * 160
        edges = left + 1, top - self.rows * 160 + 1, left + self.cols * 160 - 1, top - 1
        return [round(edge, 7) for edge in transform_bounds(CRS, "EPSG:4326", *edges)]


def land(day, changed=None, since=99):
    """Red DN of the tile's cells on a day: a quiet ground, a strip that flickers between the two classes
    without moving far, and a block that turns from dark to bright for good."""
    rng = np.random.default_rng(7)
    dn = rng.integers(400, 2500, (CELLS, CELLS)) + np.random.default_rng(day).integers(
        -80, 80, (CELLS, CELLS)
    )
    dn[:, 4] = 4800 if day % 2 else 5200
    if changed is not None:
        dn[changed.slices] = 9400 if day >= since else 600
    return dn


def write_scene(folder, dn, *, cloudy=False, baseline="05.11"):
    """The COGs of a scene, stored as its baseline has it."""
    folder.mkdir(parents=True)
    grid = Affine(10, 0, LEFT, 0, -10, TOP)
    added = 1000 if baseline >= "04.00" else 0
    red = np.kron(dn + added, np.ones((CELL_PX, CELL_PX))).astype(np.uint16)
    scl = np.full((CELLS * CELL_PX // 2,) * 2, 9 if cloudy else 4, np.uint8)
    for name, values, transform in (("B04", red, grid), ("SCL", scl, grid @ Affine.scale(2))):
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="COG", dtype=values.dtype.name, count=1, nodata=0, crs=CRS,
            width=values.shape[1], height=values.shape[0], transform=transform, blocksize=128,
        ) as target:  # fmt: skip
            target.write(values, 1)


def scene_item(day, href, *, baseline="05.11", processed=None, tile=TILE):
    """The item of a day's scene, as Planetary Computer names them: the id has the time of processing."""
    processed = processed or moment(day) + timedelta(hours=3)
    side = CELLS * 160
    bounds = [LEFT, TOP - side, LEFT + side, TOP]
    item = stac_item(
        f"S2A_MSIL2A_{moment(day):%Y%m%dT%H%M%S}_R022_T{tile}_{processed:%Y%m%dT%H%M%S}",
        bbox=transform_bounds(CRS, "EPSG:4326", *bounds),
        datetime=f"{moment(day):%Y-%m-%dT%H:%M:%SZ}",
        bands=("B04", "SCL"),
        href=href + "/{band}.tif",
        platform="Sentinel-2A",
        constellation="Sentinel 2",
        s2__mgrs_tile=tile,
        s2__processing_baseline=baseline,
        s2__generation_time=f"{processed:%Y-%m-%dT%H:%M:%SZ}",
        proj__code=CRS,
        proj__bbox=bounds,
    )
    for band, factor in (("B04", 1), ("SCL", 2)):
        item["assets"][band]["proj:shape"] = [CELLS * CELL_PX // factor] * 2
    return item


class Api:
    """A STAC API (rustac) that holds other items each night, at one address."""

    def __init__(self, folder):
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self._items = folder / "items.json"
        self._output = folder / "rustac.log"

    @contextmanager
    def serving(self, items):
        write_items(self._items, items)
        command = [Path(sys.executable).with_name("rustac"), "serve", "--create-collections"]
        with self._output.open("w") as output:
            process = subprocess.Popen(
                [*map(str, command), "--addr", self.address, str(self._items)], stdout=output, stderr=output
            )
            try:
                self._wait(process)
                yield
            finally:
                process.kill()
                process.wait()

    def _wait(self, process):
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.url, timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.02)
        raise RuntimeError(f"rustac serve did not start: {self._output.read_text()}")


def write_config(path, source, areas, **values):
    """The config of a run; JSON is YAML too."""
    top = {"out": "out", "source": source, "model": "first", "cell_m": 10 * CELL_PX, **values}
    named = [{"name": name, "bbox": block.bbox, **own} for name, (block, own) in areas.items()]
    path.write_text(json.dumps(top | {"areas": named}, indent=1), "utf-8")
    return path


def run_here(config, now_utc, only=(), **options):
    """A night in this process."""
    settings = Night(**{"now_utc": now_utc, "load": load, "retry": RETRY, **options})
    return run_nightly(load_config(config), settings, only)


def start(config, now_utc):
    """A night in a process of its own; its stdout has the report, its stderr what happens."""
    return Warm(["-m", __name__, config, now_utc.isoformat()], cwd=ROOT)


def main(config, now):
    def tell(area, line):
        print(f"{area}: {line}", file=sys.stderr, flush=True)

    report = run_here(Path(config), datetime.fromisoformat(now), tell=tell)
    print(json.dumps(report.to_dict()))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
