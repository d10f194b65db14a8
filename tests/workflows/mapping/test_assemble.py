"""Assembling a map from blocks: how much memory that takes, measured by the kernel."""

import subprocess
import sys
import textwrap

ASSEMBLE_TWO_MAPS = """
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    import numpy as np, pyogrio, pyproj, rasterio, shapely
    from landuse.pipeline.write.block_file import BlockFile, write_block
    from landuse.pipeline.blocks.plan import make_plan
    from landuse.pipeline.blocks.votes import block_rasters, count_pixels
    from landuse.pipeline.write.folder import Store
    from landuse.contract import LevelInput, ModelContract
    from landuse.pipeline.cells import CellScores
    from landuse.pipeline.scene import BandAsset, Scene
    from landuse.workflows.mapping.assemble import assemble
    from landuse.pipeline.write.vector_layers import VectorOptions
    from landuse.workflows.mapping.calibrate import peak_bytes

    CONTRACT = ModelContract(
        name="test", bands=("B04",), levels=(LevelInput(level="L2A", gain=(1.0,), offset_dn=(0.0,)),),
        saturation_dn=(2750.0,), mean=(0.5,), std=(0.2,), classes=("A", "B", "C"), patch_size_px=64,
        resolution_m=10.0,
    )
    COLS, SQUARE = 1024, 16
    to_degrees = pyproj.Transformer.from_crs("EPSG:32633", 4326, always_xy=True).transform

    def plan_of(rows):
        x, y = 500_000 + COLS * 10, 5_000_000 + rows * 10
        corners = [to_degrees(*at) for at in ((500_000, 5_000_000), (x, 5_000_000), (x, y), (500_000, y))]
        scene = Scene(
            id="s", provider="local", acquired_utc=datetime(2024, 6, 1, tzinfo=UTC), level="L2A",
            baseline=None, cloud_percent=None, footprint=(tuple(corners),), crs="EPSG:32633",
            bounds_m=(500_000, 5_000_000, x, y), assets=(BandAsset(band="B04", href="B04.tif"),),
        )
        return make_plan(
            shapely.Polygon(corners), [scene], CONTRACT, weights_sha256="0", stride_px=1, composite="best",
            clip=False, block_px=256, crs="EPSG:32633", probabilities=True,
        )

    def peak_mb(name, rows):
        # Squares of one class each: polygons in proportion to the area, and a real load on every stage.
        plan, rng = plan_of(rows), np.random.default_rng(0)
        out = Path(sys.argv[1]) / name
        out.mkdir()
        store = Store.at(out).child("blocks")
        store.prepare()
        for block in plan.blocks:
            votes = rng.dirichlet(np.ones(3), (-(-block.shape[0] // SQUARE), -(-block.shape[1] // SQUARE)))
            scores = votes.astype(np.float32).transpose(2, 0, 1).repeat(SQUARE, 1).repeat(SQUARE, 2)
            scores = scores[:, : block.shape[0], : block.shape[1]]
            yes, no = np.ones(block.shape, bool), np.zeros(block.shape, bool)
            none = np.zeros((0, *block.shape), np.float32)
            cells = CellScores(
                probabilities=scores, cover=none, doubt=none, mapped=yes, observed=yes, clouded=no, failed=no
            )
            rasters = block_rasters(cells, yes, probabilities=True)
            content = BlockFile(
                rasters=rasters,
                counts=count_pixels(rasters, yes, yes, no, classes=3, covers=0, cell_px=1),
                picture=np.zeros((3, *block.shape), np.uint8),
                observed=True, failures=(), patches=1, pixels=0,
            )
            write_block(store, block, content)
        options = {"spares_read": False, "vectors": VectorOptions()}
        made = assemble(plan, store, out, **options)
        peak = peak_bytes() / 2**20
        assert made.cover.cells == plan.rows * plan.cols
        assert sum(entry.cells for entry in made.classes) == plan.rows * plan.cols
        with rasterio.open(out / "landuse.tif") as file:
            assert file.shape == (plan.rows, plan.cols)
        held = {"layer": "landuse", "columns": ["area_ha"], "read_geometry": False}
        areas_ha = pyogrio.read_dataframe(out / "landuse.gpkg", **held).area_ha
        assert len(areas_ha) > plan.rows * plan.cols / SQUARE**2 / 3
        assert round(areas_ha.sum() * 100) == COLS * rows  # polygons end with the imagery
        return peak

    # The small one fills GDAL's cache already.
    print(peak_mb("small", 2048), peak_mb("large", 8192))
"""


def test_four_times_the_area_takes_no_more_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ASSEMBLE_TWO_MAPS), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    small, large = map(float, done.stdout.split())
    # The large map's values are 142 MB. With GDAL's own cache, or polygons made at once, it takes 100 MB
    # more.
    assert large < small + 50, f"{small:.0f} MB, then {large:.0f} MB"
