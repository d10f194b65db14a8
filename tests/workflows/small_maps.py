"""From a raster to a map, for tests: catalogue it, ask for its map, read the result."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from landuse.contract import LevelInput, ModelContract
from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters
from landuse.workflows.mapping.request import MapRequest
from tests.workflows.world import assert_same_map

SCENES = {
    "orihuela": ("scenes/orihuela_es_L1C_20190918_13b_utm30n.tif", "L1C", "2019-09-18T10:50:31+00:00"),
    "inn": ("scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif", "L2A", "2021-06-18T10:10:31+00:00"),
}


class BrightnessClassifier:
    """Scores cells by their patch's mean red DN, so that the map can be computed by hand."""

    weights_sha256 = "0" * 64
    weights_path = None

    def __init__(self, patch_size_px: int) -> None:
        self.contract = ModelContract(
            name="brightness",
            bands=("B04",),
            levels=(LevelInput(level="L2A", gain=(1.0,), offset_dn=(0.0,)),),
            saturation_dn=(10_000.0,),
            mean=(0.0,),
            std=(1.0,),
            classes=("Dark", "Bright"),
            patch_size_px=patch_size_px,
            resolution_m=10.0,
        )

    def cell_probabilities(self, dn, level, cells):
        bright = (dn.mean((1, 2, 3)) / 10_000).astype(np.float32)
        return np.tile(np.stack([1 - bright, bright], 1)[:, :, None, None], (1, 1, cells, cells))


def red_raster(path, values, *, bands=("B04",), left=512_340, top=5_310_070, crs="EPSG:32633"):
    """A raster of (y, x) DN of red, or of (band, y, x) DN of ``bands``."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[-2],
        width=values.shape[-1],
        count=len(bands),
        dtype="uint16",
        crs=crs,
        transform=Affine(10, 0, left, 0, -10, top),
        nodata=0,
    ) as file:
        file.write(values.reshape(len(bands), *values.shape[-2:]))
        file.descriptions = bands
    return path


def catalog_of(tmp_path, raster, *, level="L2A", acquired="2024-06-01T10:00:00+00:00", name="catalog"):
    result = catalog_rasters(
        CatalogRequest(
            rasters=(raster,),
            level=level,
            acquired_utc=datetime.fromisoformat(acquired).astimezone(UTC),
            out=tmp_path / name,
            baseline="03.00",
        )
    )
    return str(result.catalog)


def request(tmp_path, source, **options):
    values = {"source": source, "area": None, "dates": None, "out": tmp_path / "map"} | options
    return MapRequest(**values)


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def read_share(path, band=1):
    """A raster of shares as its own metadata decodes it, NaN where there is none."""
    with rasterio.open(path) as file:
        stored = file.read(band)
        return np.where(stored == file.nodata, np.nan, stored * file.scales[0] + file.offsets[0])


def files_of(folder):
    """The files of a map without the time of its making, ``run.json`` without what was fetched too."""
    content = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    run = json.loads(content.pop("run.json"))
    for changing in ("created_utc", "seconds", "traffic"):
        del run[changing]
    created = re.compile(rb"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
    for name in ("index.html", "model.json"):
        content[name] = created.sub(b"", content[name])
    # Where scenes and weights are, seen from here, and the sums of files that hold a time differ too.
    item = json.loads(created.sub(b"", content["item.json"]))
    del item["links"]
    for asset in item["assets"].values():
        if asset["href"].endswith((".gpkg", ".html", ".json")):
            del asset["file:checksum"], asset["file:size"]
    content["item.json"] = json.dumps(item).encode()
    model = json.loads(content["model.json"])
    for asset in model["assets"].values():
        asset["href"] = asset["href"].rpartition("/")[2]
    content["model.json"] = json.dumps(model).encode()
    return content, run


def assert_same_files(folder, reference):
    """Byte for byte; a GeoPackage, which holds the time of its making, by its map."""
    (made, run), (expected, expected_run) = files_of(folder), files_of(reference)
    assert made.keys() == expected.keys()
    assert [name for name in made if made[name] != expected[name] and name != "landuse.gpkg"] == []
    assert run == expected_run
    assert_same_map(Path(folder), Path(reference))
