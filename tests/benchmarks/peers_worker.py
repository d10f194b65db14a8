"""One side of ``peers``: a way to map a scene, in a process of its own, asked to do so by lines on its input.

``peers_worker.py WAY FOLDER WINDOW_PX`` needs what the way needs, and landuse's network, which takes torch,
numpy and safetensors: the folder of the repository is on the path. Each line read is the path of the class
raster to write; each line written is JSON with the seconds of the clock and of the processor that it took.
What is imported and loaded beforehand is not counted.

All ways read the same pixels, run the same weights in float32 on as many threads, and keep of each window
what is ``MARGIN_PX`` from its edges, as ``landuse map`` does. Each writes one byte a pixel; ``landuse map``
also writes confidence, cover, doubt, the second class, polygons, the page and its reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BANDS = ("B04", "B03", "B02", "B08")
MODEL = "balanced-pixel"
LEVEL = "L2A"
OFFSET_DN = 1000
"""What is added to the stored values, as ESA does."""
MARGIN_PX = 72
BATCH = 1
"""Windows of a forward pass: on a processor larger ones are no faster."""

Way = Callable[[Path], None]
"""Writes a class raster."""


class Network:
    """The shipped network: stored values of windows to probabilities of classes."""

    def __init__(self) -> None:
        from landuse.model.predict_pixels import PixelPredictor

        self.predictor = PixelPredictor.load(MODEL, "cpu", "fp32")

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """(B, band, y, x) stored values to (B, class, y, x)."""
        import torch

        from landuse.model.predict import full_float32

        dn = np.clip(stored.astype(np.int32) - OFFSET_DN, 0, 65_535).astype(np.uint16)
        with torch.inference_mode(), full_float32():
            given = [self.predictor.block_input(window, BANDS, LEVEL) for window in dn]
            x, present = (torch.cat(parts) for parts in zip(*given, strict=True))
            shares, _ = self.predictor._shares(x, present)  # what `pixel_scores` gives, without doubt
            return shares.numpy()


def starts(length: int, window: int) -> Iterator[int]:
    """Where windows begin along a side: all but the raster's edge is ``MARGIN_PX`` from that of one."""
    step = window - 2 * MARGIN_PX
    count = max(-(-(length - window) // step), 0) + 1
    for number in range(count):
        yield max(min(number * step, length - window), 0)


def keep(classes: np.ndarray, found: np.ndarray, row: int, col: int) -> None:
    """Put what a window (y, x) says into the raster, but for its margins inside the raster."""
    height, width = classes.shape
    top, left = MARGIN_PX * (row > 0), MARGIN_PX * (col > 0)
    bottom = min(found.shape[0] - MARGIN_PX * (row + found.shape[0] < height), height - row)
    right = min(found.shape[1] - MARGIN_PX * (col + found.shape[1] < width), width - col)
    classes[row + top : row + bottom, col + left : col + right] = found[top:bottom, left:right]


def write(path: Path, classes: np.ndarray, crs: object, transform: object) -> None:
    """A compressed, tiled GeoTIFF."""
    import rasterio

    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, height=classes.shape[0], width=classes.shape[1],
        crs=crs, transform=transform, nodata=255, tiled=True, compress="deflate",
    ) as file:  # fmt: skip
        file.write(classes, 1)


def with_torchgeo(folder: Path, window: int) -> Way:
    """``RasterDataset``, ``GridGeoSampler`` and a ``DataLoader`` that reads ahead in a process of its own."""
    import torch

    # Where torchvision was built for another torch its operators do not load, and torchgeo does not import.
    # None of them runs here, so that their names are enough.
    names = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # it is there
            names.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset
    from torchgeo.samplers import GridGeoSampler

    class Scene(RasterDataset):
        filename_glob = "scene.tif"
        is_image = True

    def placed(samples: list[dict]) -> tuple[np.ndarray, list[tuple[float, float]]]:
        corners = [(sample["bounds"][0].start, sample["bounds"][1].stop) for sample in samples]
        return torch.stack([sample["image"] for sample in samples]).numpy(), corners

    network = Network()

    def run(path: Path) -> None:
        import rasterio

        with rasterio.open(folder / "scene.tif") as file:
            crs, transform, shape = file.crs, file.transform, file.shape
        dataset = Scene(str(folder))
        sampler = GridGeoSampler(dataset, size=window, stride=window - 2 * MARGIN_PX)
        loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=1, collate_fn=placed)
        classes = np.full(shape, 255, np.uint8)
        for stored, corners in loader:
            found = network(stored).argmax(1).astype(np.uint8)
            for one, (left, top) in zip(found, corners, strict=True):
                row, col = round((transform.f - top) / 10), round((left - transform.c) / 10)
                if row < 0:  # the lattice begins at the bottom, and its last row reaches beyond the top
                    one, row = one[-row:], 0
                keep(classes, one, row, col)
        write(path, classes, crs, transform)

    return run


def with_odc_stac(folder: Path, window: int) -> Way:
    """``odc.stac.load`` in chunks by dask, and a loop over windows that loads one after the other."""
    import odc.stac
    import pystac

    network = Network()

    def run(path: Path) -> None:
        found = pystac.Catalog.from_file(str(folder / "catalog" / "catalog.json"))
        items = list(found.get_items(recursive=True))
        data = odc.stac.load(items, bands=BANDS, chunks={"x": 1024, "y": 1024}).isel(time=0)
        geobox = data.odc.geobox
        classes = np.full(geobox.shape, 255, np.uint8)
        for row in starts(geobox.shape[0], window):
            for col in starts(geobox.shape[1], window):
                part = data.isel(y=slice(row, row + window), x=slice(col, col + window)).load()
                stored = np.stack([part[band].values for band in BANDS])
                keep(classes, network(stored[None])[0].argmax(0).astype(np.uint8), row, col)
        write(path, classes, str(geobox.crs), geobox.affine)

    return run


def with_rasterio(folder: Path, window: int) -> Way:
    """A loop over windows that rasterio reads."""
    import rasterio
    from rasterio.windows import Window

    network = Network()

    def run(path: Path) -> None:
        with rasterio.open(folder / "scene.tif") as file:
            classes = np.full(file.shape, 255, np.uint8)
            for row in starts(file.height, window):
                for col in starts(file.width, window):
                    stored = file.read(window=Window(col, row, window, window))
                    keep(classes, network(stored[None])[0].argmax(0).astype(np.uint8), row, col)
            write(path, classes, file.crs, file.transform)

    return run


def with_geoai(folder: Path, window: int) -> Way:
    """``geoai.inference.predict_geotiff``, which averages where windows overlap."""
    import torch
    from geoai.inference import predict_geotiff

    network = Network()

    class Module(torch.nn.Module):
        def forward(self, stored: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(network(stored.numpy()))

    def run(path: Path) -> None:
        predict_geotiff(
            Module(), str(folder / "scene.tif"), str(path), tile_size=window, overlap=2 * MARGIN_PX,
            batch_size=BATCH, num_classes=len(network.predictor.contract.classes), output_dtype="uint8",
            output_nodata=255, blend_mode="linear", preprocess_fn=lambda tile: tile,
            postprocess_fn=lambda shares: shares.argmax(0).astype(np.uint8), device="cpu",
            compress="deflate", verbose=False,
        )  # fmt: skip

    return run


def with_landuse(folder: Path, window: int) -> Way:
    """``landuse map``, in blocks of its own size."""
    from landuse.workflows.mapping.map_area import load_classifier, map_area
    from landuse.workflows.mapping.request import MapRequest

    classifier = load_classifier(MODEL, "cpu")

    def run(path: Path) -> None:
        source = str(folder / "catalog" / "catalog.json")
        out = path.with_suffix("")
        map_area(MapRequest(source=source, area=None, dates=None, out=out, overwrite=True), classifier)
        shutil.copyfile(out / "landuse.tif", path)

    return run


WAYS = {
    "landuse": with_landuse,
    "rasterio": with_rasterio,
    "odc-stac": with_odc_stac,
    "torchgeo": with_torchgeo,
    "geoai": with_geoai,
}


def main() -> None:
    """Answer each line, until there are no more."""
    import torch

    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not stand among the answers
    name, folder, window = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    way = WAYS[name](Path(folder), int(window))
    with os.fdopen(answers, "w") as out:
        print("ready", file=out, flush=True)
        for line in sys.stdin:
            began, used = time.monotonic(), processor_s()
            way(Path(line.strip()))
            told = {"seconds": time.monotonic() - began, "processor_seconds": processor_s() - used}
            print(json.dumps(told), file=out, flush=True)


def processor_s() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
