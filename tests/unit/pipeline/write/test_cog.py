"""Files on disk, re-read by rasterio, GDAL's VRT driver and pyogrio; and disks that fill up."""

import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from landuse.errors import OutputError
from landuse.pipeline.write.cog import RasterLayer, cog_writer
from landuse.pipeline.write.folder import atomic_path, prepare_folder, write_json
from landuse.pipeline.write.geopackage import geopackage_writer

GEOBOX = GeoBox((700, 900), Affine(80, 0, 500_000, 0, -80, 5_300_000), "EPSG:32633")


VALUES = np.random.default_rng(0).choice(np.uint8([0, 3, 9, 255]), GEOBOX.shape)


def class_layer():
    return RasterLayer(
        dtype="uint8",
        geobox=GEOBOX,
        nodata=255,
        descriptions=("land-use class",),
        overview_resampling="MODE",
        colors={0: (1, 2, 3), 3: (4, 5, 6), 9: (7, 8, 9)},
        categories={0: "Annual & <crop>", 3: "Highway", 9: "SeaLake"},
        tags={"model": "test"},
    )


def test_a_class_cog_holds_values_colours_names_and_overviews_of_real_classes(tmp_path):
    # In pieces that fit neither each other nor the file's tiles.
    with cog_writer(tmp_path / "landuse.tif", class_layer()) as put:
        for row in range(0, 700, 130):
            for col in range(0, 900, 250):
                put(row, col, VALUES[row : row + 130, col : col + 250])
    assert cog_validate(tmp_path / "landuse.tif", strict=True)[:2] == (True, [])
    with rasterio.open(tmp_path / "landuse.tif") as file:
        np.testing.assert_array_equal(file.read(1), VALUES)
        assert file.transform == GEOBOX.affine
        assert file.crs == "EPSG:32633"
        assert file.nodata == 255
        assert file.descriptions == ("land-use class",)
        assert file.colormap(1)[3] == (4, 5, 6, 255)
        assert file.tags()["model"] == "test"
        assert file.overviews(1)
        # Averaged overviews would invent classes between 0, 3 and 9.
        small = file.read(1, out_shape=(350, 450))
        assert set(np.unique(small)) <= {0, 3, 9, 255}
        rasterio.shutil.copy(file, tmp_path / "names.vrt", driver="VRT")
    vrt = (tmp_path / "names.vrt").read_text()
    assert "<Category>Annual &amp; &lt;crop&gt;</Category>" in vrt
    assert vrt.index("Annual") < vrt.index("Highway") < vrt.index("SeaLake")


def test_what_waits_to_be_put_together_is_compressed(tmp_path):
    """Probabilities of a map are much the same over hundreds of cells; a full tile's are 1.7 GB raw."""
    box = GeoBox((600, 600), Affine(10, 0, 500_000, 0, -10, 5_300_000), "EPSG:32633")
    values = np.kron(
        np.random.default_rng(1).integers(0, 250, (14, 30, 30), np.uint8), np.ones((20, 20), np.uint8)
    )
    layer = RasterLayer(
        dtype="uint8", geobox=box, nodata=255, descriptions=("x",) * 14, overview_resampling="AVERAGE"
    )
    with cog_writer(tmp_path / "probabilities.tif", layer) as put:
        for row in range(0, 600, 256):
            put(row, 0, values[:, row : row + 256])
        with rasterio.open(next(tmp_path.glob("*/pieces.tif"))) as pieces:
            assert pieces.compression.name == "zstd"
            assert pieces.interleaving.name == "band"
    with rasterio.open(tmp_path / "probabilities.tif") as file:
        np.testing.assert_array_equal(file.read(), values)
        assert file.compression.name == "deflate"


def test_a_piece_that_fails_leaves_no_file(tmp_path):
    def half() -> None:
        with cog_writer(tmp_path / "landuse.tif", class_layer()) as put:
            put(0, 0, VALUES[:130])
            raise KeyError("the rest")

    with pytest.raises(KeyError):
        half()
    assert not list(tmp_path.iterdir())


def squares(*sides):
    return gpd.GeoDataFrame(
        {"class_name": np.array([f"side {side}" for side in sides], object)},
        geometry=[shapely.box(side, 0, 2 * side, side) for side in sides],
        crs="EPSG:32633",
    )


@pytest.mark.parametrize(
    "given", [[()], [(), (), (10,)], [(10, 20), (), (30,)], [(side,) for side in range(1, 9)]]
)
def test_vectors_come_back_in_one_indexed_layer(tmp_path, given):
    with geopackage_writer(tmp_path / "landuse.gpkg") as put:
        for sides in given:
            put("landuse", squares(*sides))
    assert [path.name for path in tmp_path.iterdir()] == ["landuse.gpkg"]
    assert [name for name, _ in pyogrio.list_layers(tmp_path / "landuse.gpkg")] == ["landuse"]
    held = gpd.read_file(tmp_path / "landuse.gpkg")
    sides = [side for some in given for side in some]
    assert held.crs == "EPSG:32633"
    assert held.area.tolist() == [side**2 for side in sides]
    assert held.class_name.tolist() == [f"side {side}" for side in sides]
    with closing(sqlite3.connect(tmp_path / "landuse.gpkg")) as database:
        assert database.execute("SELECT count(*) FROM rtree_landuse_geom").fetchone() == (len(sides),)


def test_a_frame_that_fails_leaves_what_was_there(tmp_path):
    target = tmp_path / "landuse.gpkg"
    target.write_text("before")

    def half() -> None:
        with geopackage_writer(target) as put:
            put("landuse", squares(10))
            raise KeyError("the rest")

    with pytest.raises(KeyError):
        half()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = tmp_path / "file.json"
    write_json(target, {"a": 1})

    def fill_the_disk() -> None:
        with atomic_path(target) as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OutputError, match=r"file.json cannot be written \(disk full\)"):
        fill_the_disk()
    assert target.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("what", ["cog", "gpkg", "json"])
def test_a_full_disk_is_one_clear_error_and_no_half_file(tmp_path, what):
    """The kernel's limit on file size stands in for a full disk: writes beyond it fail for real."""
    script = f"""
        import resource, sys
        from pathlib import Path
        import geopandas as gpd, numpy as np, shapely
        from affine import Affine
        from odc.geo.geobox import GeoBox
        from landuse.errors import OutputError
        from landuse.pipeline.write.cog import RasterLayer, cog_writer
        from landuse.pipeline.write.folder import write_json
        from landuse.pipeline.write.geopackage import geopackage_writer
        out = Path({str(tmp_path)!r})
        noise = np.random.default_rng(0).integers(0, 255, (1200, 1200)).astype(np.uint8)
        box = GeoBox(noise.shape, Affine(80, 0, 500_000, 0, -80, 5_300_000), "EPSG:32633")
        options = dict(nodata=255, descriptions=("x",), overview_resampling="MODE")
        layer = RasterLayer(dtype="uint8", geobox=box, **options)
        frame = gpd.GeoDataFrame(
            {{"a": range(20_000)}}, geometry=[shapely.Point(i, i).buffer(1) for i in range(20_000)], crs=32633
        )
        def write_cog():
            with cog_writer(out / "x.tif", layer) as put:
                put(0, 0, noise)
        def write_gpkg():
            with geopackage_writer(out / "x.gpkg") as put:
                put("x", frame.iloc[:100])
                put("x", frame)
        write = {{
            "cog": write_cog,
            "gpkg": write_gpkg,
            "json": lambda: write_json(out / "x.json", {{"x": "y" * 10**6}}),
        }}[{what!r}]
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            write()
        except OutputError as error:
            print("REFUSED", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "REFUSED" in done.stdout, done.stderr
    assert "Free space or choose another --out" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written.*Choose another --out"):
        prepare_folder(tmp_path / "out")
