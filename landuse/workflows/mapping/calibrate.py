"""How fast this machine makes maps: small runs on simulated land, timed, kept in the user's cache.

A dry run foresees a run by them. They are whole runs of ``map_area``: of a model, its bands, the size of
cells and what else decides how long a pixel takes. Two sizes tell what a run takes in any case, and what each
pixel and each cell adds.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import math
import os
import platform
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import RasterioError

import landuse
from landuse.errors import OutputError
from landuse.pipeline.scene import mask_bands
from landuse.pipeline.stac_json import Json, mapping, number, text
from landuse.pipeline.write.folder import write_whole
from landuse.sentinel2 import RESOLUTION_M, SCL
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.in_process import Stage
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.mapping.request import MapRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.workflows.mapping.classify_block import Classifier
    from landuse.workflows.mapping.in_process import Progress

log = logging.getLogger(__name__)

SIDES_PX = {"pixels": (384, 768, 1536), "windows": (192, 384, 768)}
"""Sides of the scenes that are mapped, by engine, in one block each. The first sets things up, others tell
seconds apart. Memory is told by the first and the last: what the second leaves would count again."""

_FILE = "calibration.json"

_LAND = (
    (300, 600, 400, 900, 2300, 2900, 3100, 3300, 1700, 800),
    (500, 800, 900, 1300, 2200, 2500, 2600, 2800, 2900, 1900),
    (250, 450, 300, 700, 1700, 2100, 2200, 2400, 1200, 500),
    (900, 1100, 1400, 1800, 2200, 2400, 2500, 2700, 3300, 2700),
    (1000, 1150, 1250, 1400, 1600, 1700, 1750, 1800, 1900, 1700),
    (450, 450, 300, 250, 200, 200, 150, 150, 100, 80),
)
"""Reflectance x 10000 of meadow, crops, wood, bare soil, houses and water, in the order of ``_BANDS``."""

_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_OTHERS_DN = {"B01": 600, "B09": 900, "B10": 20}
"""Bands that tell little of land."""

_PATCH_PX = 40
"""About as far apart as fields are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a run takes on a machine. ``work`` counts pixels through the network, or patches."""

    measured_utc: str
    """When it was measured, ISO 8601."""
    once_seconds: float
    """What the first run of a process takes longer than later ones."""
    plan_seconds: float
    """Finding and looking at local scenes, whatever their size."""
    plan_cell_seconds: float
    """For each cell of the area."""
    map_seconds: float
    """Of a run's blocks, whatever their number."""
    work_seconds: float
    """For each pixel or patch."""
    write_seconds: float
    """Of a map's files, whatever their size."""
    cell_seconds: float
    """For each cell in them."""
    map_memory_bytes: float
    """Of a process that does blocks, beside them."""
    pixel_bytes: float
    """For each pixel of the largest block, with those around it."""
    write_memory_bytes: float
    """Of a process that writes a map's files, whatever their size."""
    cell_memory_bytes: float
    """For each cell in them, as far as the page shows all."""
    disk_bytes: float
    """Of a map's files, whatever their size."""
    cell_bytes: float
    """For each cell in them, and in the blocks that wait for them."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "measured_utc" and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} {value} is no size")
        datetime.fromisoformat(self.measured_utc)


def cache_folder() -> Path:
    """Where the user's programs keep what can be made again: ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    above = os.environ.get("XDG_CACHE_HOME")
    return (Path(above) if above and Path(above).is_absolute() else Path.home() / ".cache") / "landuse"


def key_of(request: MapRequest, plan: RunPlan, classifier: Classifier) -> str:
    """What a calibration is kept under: machine, versions, model, and what decides how long a pixel takes."""
    import torch

    device = str(getattr(classifier, "device", "cpu"))
    told = {
        "version": landuse.__version__,
        "torch": torch.__version__,
        "machine": [platform.node(), platform.machine(), _processor(), _cores()],
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else "",
        "threads": torch.get_num_threads(),
        "model": plan.weights_sha256,
        "precision": plan.precision,
        "bands": plan.bands,
        "level": plan.level,
        "masked": bool(mask_bands(plan.level, plan.scenes[0].bands)),
        "stride_px": plan.stride_px,
        "smooth": [bool(plan.smooth), plan.smooth_px],
        "probabilities": plan.probabilities,
        "legend": plan.legend is not None,
        "vectors": request.vectors and asdict(request.vectors),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


def _cores() -> int:
    """Cores that this process may use, where the system tells."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def kept_calibration(key: str) -> Calibration | None:
    """What was measured before; None where nothing was, or the file is damaged."""
    found = mapping(_kept().get(key))
    values: dict[str, object] = {
        field.name: text(found.get(field.name))
        if field.name == "measured_utc"
        else number(found.get(field.name))
        for field in fields(Calibration)
    }
    try:
        return Calibration(**values)  # type: ignore[arg-type]  # a value of another type is refused there
    except (TypeError, ValueError):
        return None


def _kept() -> Json:
    try:
        return mapping(json.loads((cache_folder() / _FILE).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}


def keep_calibration(key: str, calibration: Calibration) -> None:
    """Keep what was measured for later dry runs.

    Raises:
        OutputError: the cache cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _FILE, json.dumps({**_kept(), key: asdict(calibration)}, indent=1))
    except OSError as error:
        raise OutputError(
            f"{folder / _FILE} cannot be written ({error.strerror or error}). Set XDG_CACHE_HOME to a folder "
            "that can be, or leave --calibrate out."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What a small run took."""

    plan_s: float
    map_s: float
    write_s: float
    work: int
    cells: int
    block_px: int
    """Pixels of its largest block, with those around it."""
    map_peak_bytes: int
    write_peak_bytes: int
    disk_bytes: int


def measure(request: MapRequest, plan: RunPlan, classifier: Classifier) -> Calibration:
    """Map simulated land three times, of ``SIDES_PX``, and tell fixed costs from those of pixels and cells.

    Args:
        request: whose options decide what is written.
        plan: of the run that is to be foreseen.
        classifier: the plan's model.

    Raises:
        LanduseError: nothing can be written to the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="landuse-calibration-") as folder, _without_logs():
        first, small, large = (
            _timed(Path(folder) / str(side), side, request, plan, classifier)
            for side in SIDES_PX[plan.engine]
        )

    def line(ys: tuple[float, float], xs: tuple[int, int]) -> tuple[float, float]:
        """Fixed part and slope through two points, neither below 0."""
        slope = max((ys[1] - ys[0]) / (xs[1] - xs[0]), 0.0)
        return max(ys[0] - slope * xs[0], 0.0), slope

    map_s, work_s = line((small.map_s, large.map_s), (small.work, large.work))
    plan_s, plan_cell_s = line((small.plan_s, large.plan_s), (small.cells, large.cells))
    write_s, cell_s = line((small.write_s, large.write_s), (small.cells, large.cells))
    map_memory, per_pixel = line(
        (first.map_peak_bytes, large.map_peak_bytes), (first.block_px, large.block_px)
    )
    write_memory, of_cell = line((first.write_peak_bytes, large.write_peak_bytes), (first.cells, large.cells))
    disk, per_cell = line((small.disk_bytes, large.disk_bytes), (small.cells, large.cells))
    usual = plan_s + map_s + write_s + work_s * first.work + (plan_cell_s + cell_s) * first.cells
    return Calibration(
        measured_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        once_seconds=max(first.plan_s + first.map_s + first.write_s - usual, 0.0),
        plan_seconds=plan_s,
        plan_cell_seconds=plan_cell_s,
        map_seconds=map_s,
        work_seconds=work_s,
        write_seconds=write_s,
        cell_seconds=cell_s,
        map_memory_bytes=map_memory,
        pixel_bytes=per_pixel,
        write_memory_bytes=write_memory,
        cell_memory_bytes=of_cell,
        disk_bytes=disk,
        cell_bytes=per_cell,
    )


@contextmanager
def _without_logs() -> Iterator[None]:
    """What is said of simulated land concerns nobody."""
    logger = logging.getLogger("landuse")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _timed(folder: Path, side: int, request: MapRequest, plan: RunPlan, classifier: Classifier) -> _Run:
    source = _scene(folder, side, plan)
    blocks = map_peak = 0

    def watch(progress: Progress) -> None:
        nonlocal blocks, map_peak
        if progress.stage is Stage.WRITE:
            waiting = (folder / "map").glob(".blocks-*/*.npz")
            blocks = sum(path.stat().st_size for path in waiting)
            map_peak = peak_bytes()
            reset_peak()

    small = replace(
        request,
        source=source,
        area=None,
        dates=None,
        season=None,
        out=folder / "map",
        catalog=None,
        crs=None,
        composite="best",
        fuse="pixels",
        bands="all",
        max_cloud_percent=100.0,
        min_valid_percent=0.0,
        allow_failed=True,
        block_px=side,
        overwrite=True,
    )
    reset_peak()
    began = time.perf_counter()
    report = map_area(small, classifier, watch)
    spent = time.perf_counter() - began
    seconds = report.seconds
    made = report.plan
    around = max(
        (rows[1] - rows[0]) * (cols[1] - cols[0])
        for rows, cols in (_read_px(made, number) for number in range(len(made.blocks)))
    )
    files = sum(path.stat().st_size for path in (folder / "map").rglob("*") if path.is_file())
    return _Run(
        plan_s=seconds["plan"] + spent - sum(seconds.values()),
        map_s=seconds["map"],
        write_s=seconds["write"],
        work=report.pixels or report.patches,
        cells=made.rows * made.cols,
        block_px=around,
        map_peak_bytes=map_peak,
        write_peak_bytes=peak_bytes(),
        disk_bytes=files + blocks,
    )


def _read_px(plan: RunPlan, number: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of pixels that are read for a block."""
    from landuse.workflows.mapping.classify_block import work_of

    work = work_of(plan, plan.blocks[number])
    return ((0, 0), (0, 0)) if work is None else (work[0].rows_px, work[0].cols_px)


def reset_peak() -> None:
    """Have the kernel forget how much memory the process had at most; only Linux can.

    What earlier runs gave back, and the C library keeps, is returned first: a run begins without it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def peak_bytes() -> int:
    """Most memory of the process since ``reset_peak``, or since it began where that does nothing."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _scene(folder: Path, side: int, plan: RunPlan) -> str:
    """A catalogue of one simulated scene with the bands that the plan's scenes are read in."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    land = _patchwork(rng, side)
    paths = []
    for band in sorted({*plan.bands, *mask_bands(plan.level, plan.scenes[0].bands)}):
        step = round(RESOLUTION_M.get(band, 20) / 10)
        if band == SCL:
            values: NDArray[np.generic] = np.full((side // step, side // step), 4, np.uint8)
        else:
            dn = _seen(rng, land, band)
            values = dn[: side // step * step, : side // step * step]
            values = values.reshape(side // step, step, side // step, step).mean((1, 3)).astype(np.uint16)
        paths.append(folder / f"{band}.tif")
        _write(paths[-1], values, 10 * step, band)
    try:
        result = catalog_rasters(
            CatalogRequest(
                rasters=tuple(paths),
                level=plan.level,
                acquired_utc=datetime(2024, 6, 1, 10, tzinfo=UTC),
                baseline="03.00",
                out=folder / "catalog",
            )
        )
    except (OSError, RasterioError) as error:
        raise OutputError(
            f"{folder} cannot be written ({error}). Free space in the folder TMPDIR."
        ) from error
    return str(result.catalog)


def _patchwork(rng: np.random.Generator, side: int) -> NDArray[np.intp]:
    """(y, x), which land of ``_LAND`` is where: patches of many sizes with crooked borders."""
    fields_ = np.zeros((len(_LAND), side, side), np.float32)
    for field in fields_:
        for scale, weight in ((_PATCH_PX, 1.0), (_PATCH_PX // 4, 0.35)):
            coarse = rng.standard_normal((side // scale + 2,) * 2).astype(np.float32)
            at = np.arange(side) / scale
            low, part = at.astype(int), (at % 1).astype(np.float32)
            rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
            field += weight * (rows[:, low] * (1 - part) + rows[:, low + 1] * part)
    return np.asarray(fields_.argmax(0), np.intp)


def _seen(rng: np.random.Generator, land: NDArray[np.intp], band: str) -> NDArray[np.float64]:
    """(y, x) DN of a band, with the sensor's noise."""
    if band in _OTHERS_DN:
        means = np.full(len(_LAND), float(_OTHERS_DN[band]))
    else:
        means = np.array([colours[_BANDS.index(band)] for colours in _LAND], float)
    dn: NDArray[np.float64] = np.clip(means[land] * (1 + 0.03 * rng.standard_normal(land.shape)), 1, 10_000)
    return dn


def _write(path: Path, values: NDArray[np.generic], pixel_m: int, band: str) -> None:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=values.dtype.name,
        count=1,
        height=values.shape[0],
        width=values.shape[1],
        crs="EPSG:32633",
        transform=Affine(pixel_m, 0, 500_040, 0, -pixel_m, 5_400_000),
        nodata=0,
    ) as target:
        target.write(values, 1)
        target.set_band_description(1, band)
