"""A small scene whose fields are of three kinds, and labels of some of them."""

import json
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from typer.testing import CliRunner

from landuse.cli import app
from tests.workflows.pixel_models import VISIBLE, save_pixel_model, spectra_around
from tests.workflows.small_maps import catalog_of, red_raster

LEFT, TOP, FIELD_PX = 512_320, 5_310_080, 16
ROWS, COLS = 12, 16
KINDS = {"dark": (500, 600, 700, 900), "green": (600, 1100, 500, 4200), "bright": (3200, 3000, 2900, 3400)}
"""Red, green, blue and near infrared of each kind of field, in DN."""

BANDS = (*VISIBLE, "B08")


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Ran:
    """A command, in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ran(code=done.exit_code, out=done.stdout, err=done.stderr)


class World:
    """Two dates of the scene in a catalogue, a model of random weights, and which kind each field is."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(3)
        self.folder = folder
        self.kinds = rng.integers(0, 3, (ROWS, COLS))
        truth = np.kron(self.kinds, np.ones((FIELD_PX, FIELD_PX), np.int64))
        spectra = np.array(list(KINDS.values()))
        for number, day in enumerate(("2024-06-01", "2024-06-11")):
            noise = rng.normal(0, 120, (4, *truth.shape))
            dn = spectra[truth].transpose(2, 0, 1) * (1 + 0.1 * number) + noise
            raster = red_raster(
                folder / f"scene-{number}.tif",
                dn.clip(1, 9000).astype(np.uint16),
                bands=BANDS,
                left=LEFT,
                top=TOP,
            )
            self.raster = raster
            self.source = catalog_of(folder, raster, acquired=f"{day}T10:00:00+00:00")
        self.truth = truth
        spectra = spectra_around((800,) * 10, spread=0.2)
        self.model = str(save_pixel_model(folder / "random-pixel.safetensors", spectra=spectra))

    def field(self, row: int, col: int, inward_m: float = 20.0) -> shapely.Polygon:
        """The outline of a field, moved inwards."""
        side = FIELD_PX * 10
        left, top = LEFT + col * side, TOP - row * side
        return shapely.box(left, top - side, left + side, top).buffer(-inward_m)

    def fields(self, count: int = 60, seed: int = 0) -> gpd.GeoDataFrame:
        """Some labelled fields, and the column ``class``."""
        chosen = np.random.default_rng(seed).permutation(ROWS * COLS)[:count]
        names = list(KINDS)
        at = [divmod(int(i), COLS) for i in chosen]
        return gpd.GeoDataFrame(
            {"class": [names[self.kinds[place]] for place in at]},
            geometry=[self.field(*place) for place in at],
            crs="EPSG:32633",
        )

    def write_raster(
        self, path: Path, values: np.ndarray, *, nodata: int | None = 255, tags: bool = True
    ) -> Path:
        """A raster of ids on the scene's grid."""
        grid = Affine(10, 0, LEFT, 0, -10, TOP)
        with rasterio.open(
            path, "w", driver="GTiff", dtype=values.dtype.name, count=1, height=values.shape[0],
            width=values.shape[1], crs="EPSG:32633", transform=grid, nodata=nodata,
        ) as file:  # fmt: skip
            file.write(values, 1)
            if tags:
                file.update_tags(classes=json.dumps(list(KINDS)))
        return path
