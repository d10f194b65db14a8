"""Maps of single pixels. Oracles: the network run over all of the imagery at once; a rule computed by hand on
the raster's own values; shapely's point in polygon; GDAL's own reading of categories and colours."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from matplotlib.text import Text

from landuse.classes import LAND_COVER
from landuse.commands.terminal import print_report
from landuse.errors import ModelError, UsageError
from landuse.model.predict_pixels import PixelPredictor
from landuse.pipeline.blocks.context import block_context
from landuse.pipeline.cells import CellStatus
from landuse.pipeline.maps.to_xarray import open_map
from landuse.pipeline.pages.preview import draw_preview
from landuse.pipeline.search.area import Area
from landuse.pipeline.write.folder import Store
from landuse.pipeline.write.vector_layers import VectorOptions
from landuse.workflows.classify import classify
from landuse.workflows.mapping import in_process, publish
from landuse.workflows.mapping.dry_run import estimate_run
from landuse.workflows.mapping.in_process import Cluster
from landuse.workflows.mapping.map_area import load_classifier, map_area
from landuse.workflows.mapping.publish import map_view
from landuse.workflows.nightly.published import damage
from tests.workflows.pixel_models import (
    INFRARED,
    VISIBLE,
    DoubtingPixels,
    RedPixels,
    save_pixel_model,
    spectra_around,
)
from tests.workflows.small_maps import (
    SCENES,
    BrightnessClassifier,
    catalog_of,
    read,
    red_raster,
    request,
)

LEFT, TOP = 512_340, 5_310_070


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_pixel_model(tmp_path_factory.mktemp("model") / "random-pixel.safetensors")


@pytest.fixture(scope="module")
def inn(data_dir, tmp_path_factory):
    """A real scene of four bands without a mask, catalogued."""
    name, level, acquired = SCENES["inn"]
    return catalog_of(tmp_path_factory.mktemp("inn"), data_dir / name, level=level, acquired=acquired)


@pytest.fixture(scope="module")
def whole(inn, model, tmp_path_factory):
    """The scene's map in one block, with probabilities."""
    folder = tmp_path_factory.mktemp("whole")
    return map_area(request(folder, inn, probabilities=True), load_classifier(str(model), "cpu"))


def bands_of(path):
    with rasterio.open(path) as file:
        return file.read()


def assert_as_whole(out, whole):
    """Shares within a step of those of the map in one block; classes the same but where two tie to a step."""
    ours, theirs = (bands_of(Path(folder) / "probabilities.tif").astype(int) for folder in (out, whole))
    assert np.abs(ours - theirs).max() <= 1
    ranked = np.sort(theirs, 0)
    tie = ranked[-1] - ranked[-2] <= 2
    same = read(Path(out) / "landuse.tif") == read(Path(whole) / "landuse.tif")
    assert same[~tie].all()
    assert same.mean() > 0.999
    assert (read(Path(out) / "cover.tif") == read(Path(whole) / "cover.tif")).mean() > 0.999
    assert np.array_equal(read(Path(out) / "status.tif"), read(Path(whole) / "status.tif"))


def test_the_map_is_what_the_network_says_of_the_whole_scene(whole, model, inn, data_dir):
    with rasterio.open(data_dir / SCENES["inn"][0]) as file:
        stored, transform = file.read(), file.transform
    plan = whole.plan
    assert plan.bands == (*VISIBLE, "B08")
    assert plan.missing_bands == INFRARED[1:]
    assert (plan.cell_m, plan.engine, plan.covers) == (10.0, "pixels", tuple(c.name for c in LAND_COVER))
    # The network's lattice is the zone's: rows and columns before the scene complete it.
    top, left = round(-transform.f / 10) % 8, round(transform.c / 10) % 8
    rows, cols = stored.shape[1:]
    around = ((0, 0), (top, -(top + rows) % 8), (left, -(left + cols) % 8))
    dn = np.pad(stored.clip(1), around, mode="edge").astype(np.uint16)
    scores = PixelPredictor.load(str(model), "cpu").pixel_scores(dn, plan.bands, "L2A")
    inner = np.s_[:, top + 48 : top + rows - 48, left + 48 : left + cols - 48]
    written = bands_of(whole.out / "probabilities.tif")
    assert written.shape[1:] == (rows, cols)
    expected = np.rint(scores.landuse[inner] * 250)
    assert np.abs(written[:, 48:-48, 48:-48] - expected).max() <= 1
    classes, cover = (read(whole.out / name)[48:-48, 48:-48] for name in ("landuse.tif", "cover.tif"))
    assert (classes == scores.landuse[inner].argmax(0)).mean() > 0.998
    assert (cover == scores.cover[inner].argmax(0)).mean() > 0.998
    assert len(np.unique(classes)) > 5
    second = bands_of(whole.out / "second.tif")
    shares = np.sort(written, 0)
    assert np.abs(second[1].astype(int) - shares[-2]).max() <= 1
    assert (second[0] != read(whole.out / "landuse.tif")).all()


@pytest.mark.parametrize("block_px", [104, 250])
def test_blocks_of_any_size_give_the_same_map(tmp_path, inn, model, whole, block_px):
    asked = request(tmp_path, inn, block_px=block_px, probabilities=True)
    report = map_area(asked, load_classifier(str(model), "cpu"))
    assert len(report.plan.blocks) > 5
    assert_as_whole(report.out, whole.out)


def test_the_page_shows_every_nth_cell_whole_and_the_runs_warnings(whole, monkeypatch):
    shown = map_view(whole, whole.out)
    assert shown.thinned == 1
    assert shown.warnings == whole.plan.warnings
    assert any("B11" in warning for warning in shown.warnings)
    assert shown.cover_areas == whole.covers
    monkeypatch.setattr(publish, "VIEW_CELLS", 200)
    monkeypatch.setattr(publish, "STRIP_ROWS", 50)  # no multiple of the step
    thin = map_view(whole, whole.out)
    assert (thin.thinned, thin.shown_m) == (3, 30.0)
    second = bands_of(whole.out / "second.tif")
    for name, values in (
        ("classes", read(whole.out / "landuse.tif")),
        ("confidence", read(whole.out / "confidence.tif")),
        ("status", read(whole.out / "status.tif")),
        ("land_cover", read(whole.out / "cover.tif")),
        ("second", second[0]),
        ("second_share", second[1]),
    ):
        np.testing.assert_array_equal(getattr(shown, name), values)
        np.testing.assert_array_equal(getattr(thin, name), values[::3, ::3])


@pytest.mark.usefixtures("warm_workers")
def test_another_process_gives_the_same_map(tmp_path, inn, model, whole):
    """Of several processes, and what they do at the same time, ``test_on_dask`` tells."""
    asked = request(tmp_path, inn, block_px=200, probabilities=True)
    cluster = Cluster(workers=1, model=str(model), device="cpu", load=load_classifier)
    report = map_area(asked, load_classifier(str(model), "cpu"), None, cluster)
    assert_as_whole(report.out, whole.out)


def test_a_part_of_the_scene_gets_the_same_pixels(tmp_path, inn, model, whole):
    left, bottom, *_ = whole.plan.cell_geobox.boundingbox.bbox
    corners = np.array(
        [(left + 600, bottom + 900), (left + 1500, bottom + 900), (left + 1500, bottom + 2000)]
    )
    place = gpd.GeoSeries([shapely.Polygon(corners)], crs=whole.plan.crs).to_crs(4326).iloc[0]
    asked = request(tmp_path, inn, area=Area(geometry=place, clip=True, name="part"))
    report = map_area(asked, load_classifier(str(model), "cpu"))
    with (
        rasterio.open(report.out / "landuse.tif") as part,
        rasterio.open(whole.out / "landuse.tif") as all_of,
    ):
        values = part.read(1)
        row, col = all_of.index(*part.xy(0, 0))
        there = all_of.read(1)[row : row + part.height, col : col + part.width]
        ys, xs = np.mgrid[: part.height, : part.width]
        x, y = part.transform @ (xs + 0.5, ys + 0.5)
    asked = shapely.from_wkt(report.plan.clip_wkt)
    parts_m2 = shapely.area(shapely.intersection(asked, shapely.box(x - 5, y - 5, x + 5, y + 5)))
    clear = (parts_m2 == 0) | (parts_m2 > 0.01)  # smaller parts are not counted
    inside = parts_m2 > 0.01
    assert np.array_equal((values != 255)[clear], inside[clear])
    assert (values[inside] == there[inside]).mean() > 0.999
    assert report.cover.cells == (values != 255).sum()
    for entry in report.classes:
        assert entry.area_m2 == pytest.approx(parts_m2[values == entry.id].sum(), abs=0.005 * entry.cells)
    assert sum(entry.area_m2 for entry in report.classes) == pytest.approx(asked.area, rel=1e-5)
    assert sum(entry.area_m2 for entry in report.covers) == pytest.approx(asked.area, rel=1e-5)


@pytest.mark.parametrize("cell_m", [20, 40])
def test_larger_cells_hold_the_mean_of_their_pixels(tmp_path, inn, model, whole, cell_m):
    asked = request(tmp_path, inn, cell_m=cell_m, probabilities=True, block_px=240)
    report = map_area(asked, load_classifier(str(model), "cpu"))
    side = cell_m // 10
    with (
        rasterio.open(report.out / "probabilities.tif") as coarse,
        rasterio.open(whole.out / "probabilities.tif") as fine,
    ):
        written, pixels = coarse.read(), fine.read().astype(float)
        skip_rows, skip_cols = (
            round(v)
            for v in (
                (coarse.transform.f - fine.transform.f) / 10,
                (fine.transform.c - coarse.transform.c) / 10,
            )
        )
    padded = np.full((14, written.shape[1] * side, written.shape[2] * side), np.nan)
    padded[:, skip_rows : skip_rows + pixels.shape[1], skip_cols : skip_cols + pixels.shape[2]] = pixels
    cells = padded.reshape(14, written.shape[1], side, written.shape[2], side)
    means = np.nanmean(cells, axis=(2, 4))
    assert np.abs(written - means).max() <= 1.1  # both are rounded
    assert report.plan.cell_m == cell_m
    # Areas are of the pixels on the imagery, not of whole cells.
    assert sum(entry.area_m2 for entry in report.classes) == pixels.shape[1] * pixels.shape[2] * 100
    assert report.classes[0].cells * cell_m**2 >= report.classes[0].area_m2
    assert report.cover.valid == 1


def test_fewer_bands_are_read_where_fewer_are_asked_for(tmp_path, inn, model):
    report = map_area(request(tmp_path, inn, bands="rgb"), load_classifier(str(model), "cpu"))
    assert report.plan.bands == VISIBLE
    assert report.plan.missing_bands == ()
    run = json.loads((report.out / "run.json").read_text())
    assert run["model"]["bands"] == list(VISIBLE)
    assert {asset for scene in run["scenes"] for asset in scene["assets"]} == set(VISIBLE)


def test_what_one_scene_lacks_no_scene_is_read_in(tmp_path):
    values = np.full((60, 70), 3000, np.uint16)
    two = red_raster(tmp_path / "both.tif", np.stack([values, values]), bands=("B04", "B08"))
    catalog_of(tmp_path, two)
    late = red_raster(tmp_path / "red.tif", values)
    classifier = RedPixels()
    one = map_area(
        request(tmp_path, str(tmp_path / "catalog" / "catalog.json"), out=tmp_path / "one"), classifier
    )
    assert one.plan.bands == ("B04", "B08")
    assert one.plan.missing_bands == ()
    source = catalog_of(tmp_path, late, acquired="2024-06-03T10:00:00+00:00")
    both = map_area(request(tmp_path, source, out=tmp_path / "both"), classifier)
    assert (len(both.plan.scenes), both.plan.bands, both.plan.missing_bands) == (2, ("B04",), ("B08",))
    assert any("B08" in warning for warning in both.plan.warnings)
    assert classifier.asked[0][0] == ("B04", "B08")
    assert classifier.asked[-1][0] == ("B04",)


def test_every_pixel_is_what_it_is_and_says_why_not(tmp_path):
    """A rule of each pixel alone, under cloud, off the imagery and beside it."""
    rng = np.random.default_rng(3)
    red = rng.integers(1, 9000, (130, 150)).astype(np.uint16)
    red[20:30, 40:50] = 0  # nodata: seen by no scene
    scl = np.full(red.shape, 4, np.uint8)
    scl[100:, 110:] = 9
    raster = red_raster(tmp_path / "red.tif", red)
    with rasterio.open(raster) as file:
        profile = {**file.profile, "dtype": "uint8"}
    with rasterio.open(tmp_path / "scl.tif", "w", **profile) as file:
        file.write(scl, 1)
        file.set_band_description(1, "SCL")
    from datetime import UTC, datetime

    from landuse.workflows.imagery.bands import CatalogRequest
    from landuse.workflows.imagery.catalog import catalog_rasters

    made = catalog_rasters(
        CatalogRequest(
            rasters=(raster, tmp_path / "scl.tif"),
            level="L2A",
            out=tmp_path / "catalog",
            baseline="03.00",
            acquired_utc=datetime(2024, 6, 1, 10, tzinfo=UTC),
        )
    )
    report = map_area(request(tmp_path, str(made.catalog), block_px=64), RedPixels())
    status, classes, cover = (read(report.out / f"{name}.tif") for name in ("status", "landuse", "cover"))
    assert status.shape == red.shape
    assert (status[20:30, 40:50] == CellStatus.UNSEEN).all()
    assert (status[110:, 120:] == CellStatus.CLOUDY).all()
    mapped = status == CellStatus.CLASSIFIED
    # The mask reaches some pixels further than the cloud; nothing else is left out.
    assert (mapped[:80][red[:80] > 0]).all()
    share = (red / 10_000).astype(np.float32)
    rule = np.stack([1 - share, share - share * share, share * share])
    assert np.array_equal(classes[mapped], rule.argmax(0)[mapped])
    assert np.array_equal(cover[mapped], (share > 0.5)[mapped])
    assert (classes[~mapped] == 255).all()
    assert (cover[~mapped] == 255).all()
    counts = np.bincount(status.ravel(), minlength=5) / status.size
    assert (report.cover.valid, report.cover.cloudy) == pytest.approx((counts[1], counts[2]))
    assert report.cover.nodata == pytest.approx(counts[4])
    areas = {entry.id: entry.area_m2 for entry in report.classes}
    assert areas == {i: n * 100 for i, n in enumerate(np.bincount(classes[mapped])) if n}
    # Half of a cell's pixels decide.
    coarse = map_area(request(tmp_path, str(made.catalog), out=tmp_path / "coarse", cell_m=20), RedPixels())
    with rasterio.open(coarse.out / "status.tif") as file:
        kinds = file.read(1)
        top, left = round((file.transform.f - TOP) / 10), round((LEFT - file.transform.c) / 10)
    padded = np.zeros((kinds.shape[0] * 2, kinds.shape[1] * 2), np.uint8)
    padded[top : top + status.shape[0], left : left + status.shape[1]] = status
    cells = padded.reshape(kinds.shape[0], 2, kinds.shape[1], 2).swapaxes(1, 2).reshape(*kinds.shape, 4)
    usable, seen = (cells == 1).sum(-1), ((cells == 1) | (cells == 2)).sum(-1)
    assert np.array_equal(kinds == CellStatus.CLASSIFIED, (usable > 0) & (usable * 2 >= seen))


def test_doubt_is_told_and_what_is_too_doubtful_is_unknown(tmp_path, capsys):
    """By a rule of each pixel alone: its class by the red, its doubt by the near infrared."""
    rng = np.random.default_rng(6)
    red, near = rng.integers(1, 9000, (2, 120, 100)).astype(np.uint16)
    scene = red_raster(tmp_path / "scene.tif", np.stack([red, near]), bands=("B04", "B08"))
    source = catalog_of(tmp_path, scene)
    plain = map_area(request(tmp_path, source, block_px=64), DoubtingPixels())
    doubt = near / 10_000
    assert np.array_equal(read(plain.out / "doubt.tif"), np.rint(doubt.astype(np.float32) * 250))
    share = (np.rint(doubt * 250) >= 125).mean()
    assert plain.cover.doubtful == pytest.approx(share)
    assert (plain.cover.valid, plain.cover.unknown) == (1, 0)
    run = json.loads((plain.out / "run.json").read_text())
    assert run["cover"]["doubtful"] == pytest.approx(share)
    (warning,) = [text for text in run["warnings"] if "doubt.tif" in text]
    assert warning.startswith(f"{100 * share:.1f} % of what is mapped is unlike the imagery")
    page = (plain.out / "index.html").read_text()
    assert f'"doubtful":{run["cover"]["doubtful"]}' in page
    assert warning in page
    print_report(plain)
    assert f"doubt   {100 * share:.1f}% of what is mapped is unlike" in capsys.readouterr().out
    drawn = draw_preview(map_view(plain, plain.out)).findobj(Text)
    told = f"Doubtful  {100 * share:.1f} % of what is mapped"
    assert told in [text.get_text() for text in drawn]
    with open_map(plain.out) as opened:
        np.testing.assert_allclose(opened["doubt"], doubt, atol=0.0021)

    strict = map_area(
        request(tmp_path, source, out=tmp_path / "strict", min_confidence=0.4), DoubtingPixels()
    )
    lit = red / 10_000
    best = np.max([1 - lit, lit - lit * lit, lit * lit], axis=0)
    sure = best * (1 - doubt)
    clear = abs(sure - 0.4) > 0.004  # off the step at which a cell becomes unknown
    status, classes = read(strict.out / "status.tif"), read(strict.out / "landuse.tif")
    unknown = status == CellStatus.UNKNOWN
    assert np.array_equal(unknown[clear], (sure < 0.4)[clear])
    assert 0.2 < unknown.mean() < 0.8
    assert (status[~unknown] == CellStatus.CLASSIFIED).all()
    assert np.array_equal(classes[~unknown], read(plain.out / "landuse.tif")[~unknown])
    for name in ("landuse", "confidence", "cover"):
        assert (read(strict.out / f"{name}.tif")[unknown] == 255).all()
    assert np.array_equal(read(strict.out / "doubt.tif"), read(plain.out / "doubt.tif"))
    assert (strict.cover.unknown, strict.cover.valid) == pytest.approx((unknown.mean(), 1 - unknown.mean()))
    assert strict.cover.doubtful == pytest.approx(share)
    assert strict.plan.digest != plain.plan.digest
    print_report(strict)
    assert f", {100 * unknown.mean():.1f}% unknown" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"--min-confidence 50 is no share. Give 0 to 1"):
        request(tmp_path, source, min_confidence=50)


def test_doubt_is_the_same_in_blocks_of_any_size(tmp_path):
    """Land beside a desert; a model of random weights that has seen the land."""
    rng = np.random.default_rng(7)
    land = np.array([900, 900, 600, 3200], float)
    dn = land[:, None, None] * rng.normal(1, 0.1, (4, 200, 320))
    dn[:, :, 150:] = np.array([3600, 2400, 1500, 4300])[:, None, None] * rng.normal(1, 0.1, (4, 200, 170))
    raster = red_raster(tmp_path / "scene.tif", dn[0].astype(np.uint16))
    with rasterio.open(raster) as file:
        profile = {**file.profile, "count": 4}
    with rasterio.open(raster, "w", **profile) as file:
        file.write(dn.astype(np.uint16))
        file.descriptions = (*VISIBLE, "B08")
    source = catalog_of(tmp_path, raster)
    # L2A's middle atmosphere lies above the ground.
    known = spectra_around((1030, 1080, 935, 3210, *(2000,) * 6))
    classifier = load_classifier(str(save_pixel_model(tmp_path / "model.safetensors", spectra=known)), "cpu")
    one = map_area(request(tmp_path, source, out=tmp_path / "one"), classifier)
    many = map_area(request(tmp_path, source, out=tmp_path / "many", block_px=104), classifier)
    assert len(many.plan.blocks) > 5
    doubts = [read(made.out / "doubt.tif").astype(int) for made in (one, many)]
    assert np.abs(doubts[0] - doubts[1]).max() <= 1
    assert (doubts[0][:, :140] < 125).all()
    assert (doubts[0][:, 160:] >= 125).all()
    assert one.cover.doubtful == pytest.approx(170 / 320, abs=0.03)
    assert any("doubt.tif" in text for text in one.warnings)


def test_a_model_of_patches_tells_no_doubt_and_has_a_least_confidence_all_the_same(tmp_path):
    raster = red_raster(tmp_path / "red.tif", np.full((128, 256), 4000, np.uint16))
    with rasterio.open(raster, "r+") as file:
        file.write(np.full((128, 128), 500, np.uint16), 1, window=((0, 128), (0, 128)))
    asked = request(tmp_path, catalog_of(tmp_path, raster), min_confidence=0.8, stride_px=64)
    report = map_area(asked, BrightnessClassifier(64))
    status = read(report.out / "status.tif")
    assert (status[:-1, 1] == CellStatus.CLASSIFIED).all()
    assert (status[:-1, -2] == CellStatus.UNKNOWN).all()
    assert report.cover.doubtful is None
    assert not (report.out / "doubt.tif").exists()


def test_what_cannot_be_read_is_failed_by_the_pixel(tmp_path):
    red = np.full((90, 200), 2000, np.uint16)
    source = catalog_of(tmp_path, red_raster(tmp_path / "west.tif", red), name="catalog")
    gone = red_raster(tmp_path / "east.tif", red, left=LEFT + 1500)
    source = catalog_of(tmp_path, gone, acquired="2024-06-01T10:00:01+00:00")
    cogs = [path for path in (tmp_path / "catalog").rglob("*.tif") if "east" in str(path)]
    assert cogs
    for path in cogs:
        path.write_bytes(b"nothing")
    report = map_area(request(tmp_path, source, allow_failed=True), RedPixels())
    status = read(report.out / "status.tif")
    assert (status[:, :200] == CellStatus.CLASSIFIED).all()
    assert (status[:, 200:] == CellStatus.FAILED).all()
    assert report.cover.failed == pytest.approx(150 / 350)


def test_a_stopped_run_goes_on_from_its_blocks(tmp_path, inn, model, whole):
    classifier = load_classifier(str(model), "cpu")

    def stop(progress):
        if progress.blocks_done == 3:
            raise KeyboardInterrupt

    asked = request(tmp_path, inn, block_px=200)
    with pytest.raises(KeyboardInterrupt):
        map_area(asked, classifier, stop)
    blocks = sorted((tmp_path / "map").glob(".blocks-*/*.npz"))
    kept = {path: path.stat().st_mtime_ns for path in blocks}
    assert len(kept) == 3
    first = blocks[0].read_bytes()
    damaged = bytearray(first)
    damaged[len(first) // 2] ^= 255
    blocks[0].write_bytes(bytes(damaged))  # its checksum tells
    damaged = bytearray(blocks[1].read_bytes())
    damaged[damaged.rindex(b"PK\x01\x02") + 8] |= 1  # as if it were encrypted
    blocks[1].write_bytes(bytes(damaged))
    seen = []
    report = map_area(asked, classifier, lambda progress: seen.append(progress.blocks_done))
    assert min(seen[2:]) == 1
    reference = map_area(request(tmp_path, inn, block_px=200, out=tmp_path / "other"), classifier)
    for name in ("landuse.tif", "cover.tif", "confidence.tif", "second.tif", "status.tif"):
        assert (report.out / name).read_bytes() == (reference.out / name).read_bytes()


def test_blocks_of_which_the_network_sees_most_come_first(tmp_path, inn, model, monkeypatch):
    """A large block finds no room where smaller ones were: memory would grow with each of other size."""
    done, score = [], in_process.score_block

    def noted(plan, block, *more):
        done.append(block)
        return score(plan, block, *more)

    monkeypatch.setattr(in_process, "score_block", noted)
    report = map_area(request(tmp_path, inn, block_px=200), load_classifier(str(model), "cpu"))
    seen = [block_context(report.plan, block).pixels for block in done]
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 2
    assert {block.name for block in done} == {block.name for block in report.plan.blocks}


def test_rasters_of_a_block_are_made_while_the_network_works_on_the_next(tmp_path, inn, model, monkeypatch):
    scored, overlapped = [], []
    begun = threading.Condition()
    score, content = in_process.score_block, in_process.block_content

    def scoring(plan, block, *more):
        with begun:
            scored.append(block)
            begun.notify_all()
        return score(plan, block, *more)

    def making(plan, block, found):
        before = scored.index(block) + 1
        if before < len(plan.blocks):
            with begun:
                overlapped.append(begun.wait_for(lambda: len(scored) > before, timeout=20))
        return content(plan, block, found)

    monkeypatch.setattr(in_process, "score_block", scoring)
    monkeypatch.setattr(in_process, "block_content", making)
    report = map_area(request(tmp_path, inn, block_px=200), load_classifier(str(model), "cpu"))
    assert len(overlapped) == len(report.plan.blocks) - 1 > 2
    assert all(overlapped)


def test_blocks_kept_without_probabilities_are_done_again_for_them(tmp_path, inn, model):
    classifier = load_classifier(str(model), "cpu")

    def stop(progress):
        if progress.blocks_done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_area(request(tmp_path, inn, block_px=200), classifier, stop)
    seen = []
    report = map_area(
        request(tmp_path, inn, block_px=200, probabilities=True),
        classifier,
        lambda progress: seen.append(progress.blocks_done),
    )
    assert seen[2] == 0
    assert bands_of(report.out / "probabilities.tif").shape[0] == 14


def test_the_cover_raster_says_what_its_values_mean(whole):
    with rasterio.open(whole.out / "cover.tif") as file:
        colors = file.colormap(1)
        assert file.overviews(1) or max(file.shape) <= 512
        assert json.loads(file.tags()["covers"])[:2] == ["Water", "Trees"]
    for entry in LAND_COVER:
        assert colors[entry.id][:3] == entry.color
    names = re.findall(r"<Category>(.*?)</Category>", (whole.out / "cover.tif.aux.xml").read_text())
    assert names == [entry.name for entry in LAND_COVER]
    item = json.loads((whole.out / "item.json").read_text())
    meant = item["assets"]["cover"]["classification:classes"]
    assert [entry["name"] for entry in meant[:-1]] == [entry.name for entry in LAND_COVER]
    ids, counts = np.unique(read(whole.out / "cover.tif"), return_counts=True)
    assert {e["value"]: e["count"] for e in meant[:-1] if e["count"]} == dict(
        zip(ids.tolist(), counts.tolist(), strict=True)
    )
    assert {entry.id: entry.cells for entry in whole.covers} == dict(
        zip(ids.tolist(), counts.tolist(), strict=True)
    )


def test_the_map_opens_with_its_cover(whole):
    with open_map(whole.out) as ds:
        assert np.array_equal(ds["cover"].to_numpy(), read(whole.out / "cover.tif"))
        assert ds["cover"].attrs["flag_meanings"].split()[:2] == ["Water", "Trees"]
        assert ds["cover"].attrs["area_ha"][1] == pytest.approx(
            next((entry.area_ha for entry in whole.covers if entry.id == 1), 0.0)
        )
        assert ds.attrs["bands"] == "B04, B03, B02, B08"
        assert ds["probabilities"].sizes["class_name"] == 14


def test_imagery_in_memory_gives_the_same_map(model, whole, data_dir):
    import rioxarray

    name, level, _ = SCENES["inn"]
    data = rioxarray.open_rasterio(data_dir / name)
    data = data.assign_coords(band=["B04", "B03", "B02", "B08"])
    ds = classify(
        data, level=level, scale=1e-4, offset=0.0, model=str(model), device="cpu", probabilities=True
    )
    assert np.array_equal(ds["class"].to_numpy(), read(whole.out / "landuse.tif"))
    assert np.array_equal(ds["cover"].to_numpy(), read(whole.out / "cover.tif"))
    assert ds.attrs["valid"] == whole.cover.valid
    coarse = classify(data, level=level, scale=1e-4, offset=0.0, model=str(model), device="cpu", cell_m=40)
    assert coarse.odc.geobox.resolution.x == 40


def test_polygons_below_half_a_hectare_go_to_their_neighbours(tmp_path, whole):
    polygons = gpd.read_file(whole.out / "landuse.gpkg", layer="landuse")
    assert whole.vectors.min_area_ha == 0.5
    assert (polygons.area_ha >= 0.5).all()
    assert polygons.area_ha.sum() == pytest.approx(sum(entry.area_ha for entry in whole.classes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride_px": 16}, "--stride-px 16 is for models of patches.*--cell-m 10"),
        ({"cell_m": 15}, "--cell-m 15 is no multiple of the pixels' 10 m"),
        ({"cell_m": 0}, "--cell-m 0 is no multiple"),
        ({"cell_m": float("nan")}, "--cell-m nan is no multiple"),
        ({"cell_m": 1000}, "from 10 to 640"),
        ({"bands": "swir"}, "--bands 'swir' is unknown. Use all, rgb, rgb-nir"),
    ],
)
def test_what_does_not_fit_a_model_of_pixels_is_one_error(tmp_path, inn, model, options, message):
    with pytest.raises(UsageError, match=message):
        map_area(request(tmp_path, inn, **options), load_classifier(str(model), "cpu"))
    assert not (tmp_path / "map").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell_m": 10}, "--cell-m 10 is for models of pixels.*--stride-px 16"),
    ],
)
def test_what_does_not_fit_a_model_of_patches_is_one_error(tmp_path, inn, options, message):
    with pytest.raises(UsageError, match=message):
        map_area(request(tmp_path, inn, **options), load_classifier("balanced-fast-rgb", "cpu"))


def test_a_source_without_a_band_that_is_needed_is_refused(tmp_path, model):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((40, 40), 900, np.uint16)))
    with pytest.raises(ModelError, match="B03"):
        map_area(request(tmp_path, source), load_classifier(str(model), "cpu"))


def test_rasters_alone_are_those_of_the_whole_map(tmp_path, inn, model, whole, monkeypatch):
    """Nothing that shows a map to people is made; the item lists what is there, with its sums."""
    for name in ("map_view", "write_preview", "write_page"):
        monkeypatch.delattr(f"landuse.workflows.mapping.publish.{name}")
    asked = request(tmp_path, inn, probabilities=True, vectors=None)
    report = map_area(asked, load_classifier(str(model), "cpu"))
    there = {path.name for path in report.out.iterdir()}
    assert {path.name for path in whole.out.iterdir()} - there == {
        "landuse.gpkg",
        "preview.png",
        "index.html",
    }
    assert set(report.files) == there
    for name in there:
        if name.endswith((".tif", ".xml")):
            assert (report.out / name).read_bytes() == (whole.out / name).read_bytes(), name
    item = json.loads((report.out / "item.json").read_text())
    listed = there - {"item.json", "model.json"}
    assert {asset["href"] for asset in item["assets"].values()} == {f"./{name}" for name in listed}
    assert damage(Store.at(report.out), digests=True) == ""
    assert json.loads((report.out / "run.json").read_text())["vectors"] is None
    assert report.classes == whole.classes
    with pytest.raises(UsageError, match="holds rasters alone"):
        report.to_geodataframe()
    with report.to_xarray() as ds:
        np.testing.assert_array_equal(ds["class"], read(whole.out / "landuse.tif"))
    foreseen = [
        estimate_run(replace(asked, vectors=vectors), load_classifier(str(model), "cpu")).cost.disk_bytes[0]
        for vectors in (None, VectorOptions())
    ]
    assert foreseen[0] < foreseen[1]


def test_a_dry_run_tells_how_many_pixels(tmp_path, inn, model, whole):
    estimate = estimate_run(request(tmp_path, inn, probabilities=True), load_classifier(str(model), "cpu"))
    assert estimate.cost.pixels == whole.pixels > whole.plan.rows * whole.plan.cols
    assert estimate.cost.patches == whole.patches == 0
    assert estimate.cost.network_seconds > 0
    kept = sum(path.stat().st_size for path in whole.out.iterdir())
    assert kept < max(estimate.cost.disk_bytes)


def test_the_command_takes_cells_and_bands(tmp_path, run, inn, model):
    made = run(
        "map",
        "--source",
        inn,
        "--model",
        model,
        "--cell-m",
        20,
        "--bands",
        "rgb",
        "--device",
        "cpu",
        "--out",
        tmp_path / "map",
    )
    assert made.code == 0, made.err
    assert "bands   B04, B03, B02\n" in made.out
    assert "dates   2021-06-18\n" in made.out
    assert "cover   " in made.out
    refused = run("map", "--source", inn, "--model", model, "--stride-px", 8, "--out", tmp_path / "no")
    assert refused.code == 2
    assert "--cell-m" in refused.err
