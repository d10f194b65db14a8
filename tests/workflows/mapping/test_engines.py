"""The two engines. Oracles: each other where they must agree, a classifier done by hand, real scenes."""

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds

from landuse.errors import UsageError
from landuse.model import DEFAULT_MODEL, MAP_MODEL
from landuse.model.predict import Predictor
from landuse.pipeline.search.area import parse_bbox
from landuse.workflows.mapping.map_area import load_classifier, map_area
from tests.workflows.small_maps import (
    SCENES,
    BrightnessClassifier,
    catalog_of,
    read,
    read_share,
    red_raster,
    request,
)

AGREEMENT = {"orihuela": 0.965, "inn": 0.945}
"""Share of cells that both engines give the same class at a stride of 8 px; the project asks for 0.97."""


@pytest.fixture(scope="module")
def predictor():
    return Predictor.load(MAP_MODEL, "cpu")


def catalogued(scene, data_dir, tmp_path):
    """The catalogue of a real scene, and the area of the scene's western half."""
    name, level, acquired = SCENES[scene]
    with rasterio.open(data_dir / name) as image:
        left, bottom, right, top = image.bounds
        edges = transform_bounds(image.crs, "EPSG:4326", left, bottom, (left + right) / 2, top)
    source = catalog_of(tmp_path, data_dir / name, level=level, acquired=acquired)
    return source, parse_bbox(",".join(f"{edge:.6f}" for edge in edges))


def both(tmp_path, source, classifier, **options):
    """(class, confidence) of the windows engine and of the shared one."""
    maps = {}
    for engine in ("windows", "shared"):
        out = tmp_path / engine
        report = map_area(request(tmp_path, source, out=out, engine=engine, **options), classifier)
        maps[engine] = (read(out / "landuse.tif"), read_share(out / "confidence.tif"), report)
    return maps["windows"], maps["shared"]


@pytest.mark.parametrize("stride_px", [64, 32, 16, 8, 4])
def test_both_engines_give_the_same_windows_the_same_votes(tmp_path, stride_px):
    """The imagery's edges lie on positions of the features, so even its last windows are the same."""
    rng = np.random.default_rng(0)
    values = rng.integers(3, 10_000, (184, 240), np.uint16)
    values[:96, :100] //= 3
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values, left=512_320, top=5_310_080))
    windows, shared = both(
        tmp_path, source, BrightnessClassifier(64), stride_px=stride_px, block_px=128, probabilities=True
    )
    assert windows[2].patches == shared[2].patches > 0
    assert np.array_equal(windows[0], shared[0])
    np.testing.assert_allclose(windows[1], shared[1], atol=1e-6)
    assert shared[2].to_dict()["engine"] == "shared"
    with rasterio.open(tmp_path / "shared" / "landuse.tif") as file:
        assert file.tags()["engine"] == "shared"
    assert shared[2].plan.digest != windows[2].plan.digest


def test_imagery_off_the_positions_is_covered_to_its_edges(tmp_path):
    """Windows shift inward by up to 7 px more; no cell is lost, and values stay those of the place."""
    values = np.full((150, 170), 2000, np.uint16)
    values[:, 85:] = 8000
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    windows, shared = both(tmp_path, source, BrightnessClassifier(64), stride_px=8, block_px=64)
    assert np.array_equal(windows[0], shared[0])
    assert np.abs(windows[1] - shared[1]).max() < 0.1


def test_imagery_smaller_than_a_patch_is_mapped(tmp_path):
    values = np.full((40, 51), 3000, np.uint16)
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    windows, shared = both(tmp_path, source, BrightnessClassifier(64), stride_px=8)
    assert (windows[0] != 255).all()
    assert np.array_equal(windows[0], shared[0])


def test_holes_are_holes_in_both_engines(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.integers(3000, 3200, (256, 256), np.uint16)
    values[60:170, 80:200] = 0  # nodata
    values[200:203] = 0
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", values))
    windows, shared = both(tmp_path, source, BrightnessClassifier(64), stride_px=8, block_px=128)
    assert (windows[0] == 255).any()
    assert np.array_equal(windows[0] == 255, shared[0] == 255)
    # Holes are filled with what lies around them, not with 0: the fill does not darken their rims.
    held = windows[0] != 255
    np.testing.assert_allclose(windows[1][held], shared[1][held], atol=0.01)


def test_an_unknown_engine_is_refused(tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((80, 80), 3000, np.uint16)))
    with pytest.raises(UsageError, match="windows, shared or pixels"):
        map_area(request(tmp_path, source, engine="fast"), BrightnessClassifier(64))


@pytest.mark.slow
def test_auto_shares_only_where_the_model_was_trained_for_it(data_dir, tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((80, 80), 3000, np.uint16)))
    report = map_area(request(tmp_path, source), BrightnessClassifier(64))
    assert report.plan.engine == "windows"
    name, level, acquired = SCENES["inn"]
    scene = catalog_of(tmp_path, data_dir / name, level=level, acquired=acquired, name="inn")
    for model, engine in ((MAP_MODEL, "shared"), (DEFAULT_MODEL, "windows")):
        asked = request(tmp_path, scene, out=tmp_path / model, stride_px=64)
        assert map_area(asked, load_classifier(model, "cpu")).plan.engine == engine


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_blocks_leave_no_seam_in_shared_features(scene, data_dir, tmp_path, predictor):
    source, _ = catalogued(scene, data_dir, tmp_path)
    maps = []
    for block_px in (176, 2048):
        out = tmp_path / f"blocks{block_px}"
        map_area(
            request(
                tmp_path, source, out=out, engine="shared", stride_px=8, block_px=block_px, probabilities=True
            ),
            predictor,
        )
        with rasterio.open(out / "probabilities.tif") as file:
            maps.append((read(out / "landuse.tif"), file.read().astype(int)))
    (small, small_p), (large, large_p) = maps
    # CONTEXT_PX is wide enough: what is left is a share that falls on the edge between two steps.
    assert np.abs(small_p - large_p).max() <= 1
    assert (small_p != large_p).mean() < 1e-3
    assert (small != large).mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_the_engines_agree_on_real_scenes(scene, data_dir, tmp_path, predictor):
    """On the western half: every window of 64 px on its own takes a while."""
    source, area = catalogued(scene, data_dir, tmp_path)
    windows, shared = both(tmp_path, source, predictor, area=area, stride_px=8)
    held = windows[0] != 255  # cells on the edge of an area in degrees have their middle outside
    assert held.mean() > 0.8
    assert np.array_equal(held, shared[0] != 255)
    assert (windows[0] == shared[0])[held].mean() >= AGREEMENT[scene]
