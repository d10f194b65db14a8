"""What the plan of a country, and of a continent, costs before any pixel is read.

``python -m tests.benchmarks.plan_large`` plans maps of land as large as Germany and as the European Union
from simulated scenes: every tile of the MGRS that touches the land, on several dates, with the bands that the
shipped model reads. The outlines are simulated too, with as many corners as official ones have. It prints the
scenes, blocks, seconds and megabytes of each plan, the size of its JSON, what a dry run takes to look at its
blocks, and what goes to a dask scheduler once and for each block. Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from distributed import Client, LocalCluster
from distributed.protocol import dumps

from landuse.model.checkpoint import load_contract, model_path
from landuse.pipeline.blocks.plan import BLOCK_PX, RunPlan, make_plan
from landuse.pipeline.geometry import footprint_of_bounds, outer_rings, project
from landuse.pipeline.remote.request_pool import Traffic
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.scene import BandAsset, Scene
from landuse.pipeline.write.folder import Store
from landuse.pipeline.zones import ZonePart, parts_by_zone
from landuse.workflows.mapping.calibrate import peak_bytes, reset_peak
from landuse.workflows.mapping.dry_run import work_of_blocks
from landuse.workflows.mapping.in_process import BlockDone, Cluster
from landuse.workflows.mapping.map_area import load_classifier
from landuse.workflows.mapping.on_dask import Job, Site, Told, Workers

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "SCL")
LANDS = {
    "Germany": ((10.5, 51.2), (4.4, 3.9), 20_000),
    "European Union": ((10.0, 51.0), (22.0, 15.5), 100_000),
}
"""Longitude and latitude of the middle, half the width and height in degrees, and corners of the outline."""


WORKERS = (1, 16)
"""On how many workers of two threads the messages are counted."""

BLOCKS_SENT = 400
"""Of how many blocks."""

CASES = (("Germany", BLOCK_PX), ("European Union", 896))
"""Sides of blocks: of the larger land as of a machine with little memory, which makes some 100,000."""


def land(name: str) -> shapely.Geometry:
    """A crooked outline."""
    (lon, lat), (wide, high), corners = LANDS[name]
    rng = np.random.default_rng(4)
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = np.ones(corners)
    for waves in (3, 7, 19, 53, 211, 907):
        radius += 0.3 / waves**0.8 * np.sin(waves * angle + rng.uniform(0, 7))
    radius /= radius.max()
    shape = shapely.Polygon(
        np.stack([lon + wide * radius * np.cos(angle), lat + high * radius * np.sin(angle)], axis=1)
    )
    return shapely.make_valid(shape)


def scenes_of(part: ZonePart, dates: int) -> list[Scene]:
    """Every tile of 109.8 km on a lattice of 100 km that touches a part, on each date."""
    shape = project(part.geometry, "EPSG:4326", part.crs)
    west, south, east, north = shape.bounds
    scenes = []
    shapely.prepare(shape)
    for left in range(math.floor(west / 1e5) * 100_000, math.ceil(east / 1e5) * 100_000, 100_000):
        for top in range(math.ceil(south / 1e5) * 100_000, math.ceil(north / 1e5) * 100_000 + 1, 100_000):
            bounds = (left - 20.0, top - 109_780.0, left + 109_780.0, top + 20.0)
            if not shape.intersects(shapely.box(*bounds)):
                continue
            rings = outer_rings(footprint_of_bounds(part.crs, bounds))
            tile = f"{part.name[:2]}{left // 100_000:02d}{top // 100_000:03d}"
            for number in range(dates):
                moment = datetime(2024, 6, 1, 10, tzinfo=UTC) + timedelta(days=5 * number)
                scene = f"S2A_MSIL2A_{moment:%Y%m%d}T100031_N0510_R122_T{tile}_{moment:%Y%m%d}T160000"
                assets = tuple(
                    BandAsset(
                        band=band, pixel_m=10.0, bytes_per_px=1.5,
                        href=f"https://storage.example/sentinel2-l2/{tile}/{scene}.SAFE/R10m/{band}_10m.tif",
                    )
                    for band in BANDS
                )  # fmt: skip
                scenes.append(
                    Scene(
                        id=scene, provider="simulated", acquired_utc=moment, level="L2A", baseline="05.10",
                        cloud_percent=10.0, footprint=rings, crs=part.crs, bounds_m=bounds, assets=assets,
                        tile=tile,
                    )
                )  # fmt: skip
    return scenes


class Measured:
    """Processor seconds, and by how much the process' memory grew at most, inside the context."""

    def __enter__(self) -> Measured:
        reset_peak()
        self._before = peak_bytes()
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began
        self.peak_mb = (peak_bytes() - self._before) / 1e6


def sent(plan: RunPlan, workers: int) -> tuple[int, float]:
    """Bytes that a run sends to a scheduler of so many workers: once, and for a block on average."""
    messages: list[int] = []
    send, do = Client._send_to_scheduler, Site.do

    def counted(client: Client, message: dict) -> None:
        if message["op"] == "update-graph":
            messages.append(sum(map(len, dumps(message))))
        return send(client, message)

    def nothing(site: Site, number: int) -> Told:
        done = BlockDone(name=site.job.plan.blocks[number].name, patches=0, pixels=1, failures=0)
        return Told(done=done, site=site.name, traffic=Traffic(requests=0, fetched_bytes=0))

    Client._send_to_scheduler, Site.do = counted, nothing
    try:
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False}, memory_limit=0,
            ) as local,
            Client(local, set_as_default=False) as client,
        ):  # fmt: skip
            job = partial(
                Job,
                cluster=Cluster(scheduler="tcp://any:1", model="any", device="cpu", load=load_classifier),
                policy=RetryPolicy(),
                providers=(),
                any_host=False,
            )
            some = plan.blocks[-BLOCKS_SENT:]
            Workers(client, "simulated", job).run(plan, some, Store.at("any"), lambda done: None)
    finally:
        Client._send_to_scheduler, Site.do = send, do
    once, *tasks = messages
    return once, sum(tasks) / len(some)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dates", type=int, default=6)
    parser.add_argument("--lands", default=",".join(LANDS))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    contract = load_contract(model_path("balanced-pixel"))
    told = []
    for name, block_px in ((name, size) for name, size in CASES if name in given.lands.split(",")):
        area = land(name)
        with Measured() as parting:
            parts = parts_by_zone(area)
        if name == "Germany":
            whole = ZonePart(zone=32, geometry=area)
            work = [(whole, [scene for part in parts for scene in scenes_of(part, given.dates)])]
        else:
            work = [(part, scenes_of(part, given.dates)) for part in parts]
        total = {
            "blocks": 0,
            "scenes": 0,
            "seconds": parting.seconds,
            "peak_mb": 0.0,
            "json_mb": 0.0,
            "dry_run_seconds": 0.0,
        }
        largest: RunPlan | None = None
        for part, scenes in work:
            with Measured() as planning:
                plan = make_plan(
                    part.geometry, scenes, contract, weights_sha256="0" * 64, stride_px=1, composite="best",
                    clip=True, position_px=8, block_px=block_px, crs=part.crs,
                )  # fmt: skip
            with Measured() as digesting:
                _ = plan.blocks_key
            with Measured() as writing:
                document = json.dumps(plan.to_public_dict())
            with Measured() as looking:
                with_land = len(work_of_blocks(plan))
            print(
                f"{name:15} zone {part.name}  {len(scenes):5} scenes {len(plan.blocks):6} blocks, "
                f"{with_land:6} with land  plan {planning.seconds:5.1f} s {planning.peak_mb:4.0f} MB  digest "
                f"{digesting.seconds:4.1f} s {digesting.peak_mb:4.0f} MB  JSON {len(document) / 1e6:5.1f} MB "
                f"{writing.seconds:4.1f} s  dry run {looking.seconds:5.1f} s {looking.peak_mb:4.0f} MB",
                flush=True,
            )
            total["dry_run_seconds"] += looking.seconds
            total["blocks"] += len(plan.blocks)
            total["scenes"] += len(scenes)
            total["seconds"] += planning.seconds + digesting.seconds + writing.seconds
            total["peak_mb"] = max(total["peak_mb"], planning.peak_mb, digesting.peak_mb, writing.peak_mb)
            total["json_mb"] += len(document) / 1e6
            largest = plan if largest is None or len(plan.blocks) > len(largest.blocks) else largest
        for workers in WORKERS:
            once, each = sent(largest, workers)
            in_all = once / len(largest.blocks) + each
            total |= {"sent_once_mb": once / 1e6, f"sent_a_block_{workers}": in_all}
            print(
                f"{name}: {len(largest.blocks)} blocks on {workers} workers: {once / 1e6:.2f} MB once and "
                f"{each:.0f} bytes a block go to the scheduler, {in_all:.0f} bytes a block in all"
            )
        print(
            f"{name}: {total['scenes']} scenes, {total['blocks']} blocks in {len(work)} maps; planned in "
            f"{total['seconds']:.1f} s and {total['peak_mb']:.0f} MB, JSON {total['json_mb']:.0f} MB"
        )
        print(f"{name}: a dry run looks at the blocks for {total['dry_run_seconds']:.1f} s")
        told.append({"land": name, **total})
    if given.json:
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
