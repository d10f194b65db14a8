"""Maps of more than one date and of smoothed probabilities. Oracles: what a rule computed by hand says of
each date's own values; maps of each date alone; a map in one block; the smoothing of all pixels at once."""

import json

import numpy as np
import pytest
import rasterio

from landuse.commands.terminal import print_estimate
from landuse.errors import NothingFoundError, UsageError
from landuse.pipeline.blocks.patches import MIN_USABLE
from landuse.pipeline.blocks.smooth import Smoothing, smooth_classes
from landuse.pipeline.search.area import parse_dates
from landuse.pipeline.search.season import parse_season
from landuse.pipeline.write.block_file import open_blocks
from landuse.pipeline.write.folder import Store
from landuse.workflows.classify import classify
from landuse.workflows.mapping.dry_run import estimate_run
from landuse.workflows.mapping.in_process import Cluster
from landuse.workflows.mapping.map_area import (
    find_scenes,
    load_classifier,
    map_area,
    plan_map,
    with_precision,
)
from tests.workflows.pixel_models import DoubtingPixels, RedPixels, red_pixels, save_pixel_model
from tests.workflows.small_maps import (
    BrightnessClassifier,
    assert_same_files,
    catalog_of,
    read,
    red_raster,
    request,
)
from tests.workflows.world import area_of, item_collection, make_world

DAYS = ("2024-06-01", "2024-06-11", "2024-10-05")
ROWS, COLS = 150, 130


@pytest.fixture(scope="module")
def dates(tmp_path_factory):
    """Three dates of one place, (date, band, y, x) DN with holes, and the catalogue of them."""
    folder, rng = tmp_path_factory.mktemp("dates"), np.random.default_rng(8)
    fields = rng.integers(1, 9000, (len(DAYS), 2, ROWS // 10, COLS // 10))
    dn = np.kron(fields, np.ones((10, 10), int)).astype(np.uint16)
    for values in dn:
        values[:, np.kron(rng.random((ROWS // 5, COLS // 5)) < 0.2, np.ones((5, 5))) > 0] = 0
    dn[:, :, :20, :20] = 0
    for day, values in zip(DAYS, dn, strict=True):
        raster = red_raster(folder / f"{day}.tif", values, bands=("B04", "B08"))
        source = catalog_of(folder, raster, acquired=f"{day}T10:00:00+00:00")
    return dn, source


def shares_of(out, name="probabilities.tif"):
    with rasterio.open(out / name) as file:
        return file.read()


def test_fused_dates_are_the_mean_of_what_is_said_of_each(tmp_path, dates):
    dn, source = dates
    classifier = DoubtingPixels()
    report = map_area(request(tmp_path, source, fuse="dates", probabilities=True, block_px=64), classifier)
    seen = dn[:, 0] > 0
    count = seen.sum(0)
    lit = np.where(seen, dn[:, 0] / 10_000, 0)
    said = np.stack([np.where(seen, 1 - lit, 0), lit - lit**2, lit**2])  # (class, date, y, x)
    expected = said.sum(1) / np.maximum(count, 1)
    written = shares_of(report.out)
    assert np.array_equal(written[0] != 255, count > 0)
    assert np.abs(written - expected * 250)[:, count > 0].max() <= 0.51
    assert set(np.unique(count)) == {0, 1, 2, 3}
    doubt = np.where(seen, dn[:, 1] / 10_000, 0).sum(0) / np.maximum(count, 1)
    assert np.abs(shares_of(report.out, "doubt.tif")[0] - doubt * 250)[count > 0].max() <= 0.51
    status = read(report.out / "status.tif")
    assert set(np.unique(status)) == {1, 4}
    run = json.loads((report.out / "run.json").read_text())
    assert (run["fuse"], run["composite"], run["smooth"], run["season"]) == ("dates", "best", None, None)
    assert all(scene["used"] for scene in run["scenes"])
    assert (shares_of(report.out, "image.tif")[0][seen.any(0)] > 0).all()  # the first clear date


def test_of_fused_dates_no_more_than_two_are_held(tmp_path, dates, monkeypatch):
    """Each is read when the one before is classified."""
    _, source = dates
    happened = []

    class Told(RedPixels):
        def pixel_scores(self, dn, bands, level):
            happened.append("classified")
            return super().pixel_scores(dn, bands, level)

    from landuse.pipeline.read import read_block

    whole = read_block.read_scene
    monkeypatch.setattr(read_block, "read_scene", lambda *given: happened.append("read") or whole(*given))
    map_area(request(tmp_path, source, fuse="dates"), Told())
    assert happened == ["read", "classified"] * 3


def test_fused_maps_of_patches_weigh_each_date_by_its_clear_pixels(tmp_path, dates):
    dn, source = dates
    report = map_area(
        request(tmp_path, source, fuse="dates", stride_px=16, probabilities=True), BrightnessClassifier(16)
    )
    plan, written = report.plan, shares_of(report.out)
    top, left = round((plan.top_m - 5_310_070) / 10), round((512_340 - plan.left_m) / 10)
    compared = 0
    for row in range(1, plan.rows - 1):
        for col in range(1, plan.cols - 1):
            y, x = row * 16 - top, col * 16 - left
            if not (0 <= y <= ROWS - 16 and 0 <= x <= COLS - 16) or written[0, row, col] == 255:
                continue
            cut = dn[:, 0, y : y + 16, x : x + 16].reshape(3, -1).astype(float)
            clear = (cut > 0).sum(1)
            # Unusable pixels hold the mean of the others of their patch.
            bright = (
                np.array([values[values > 0].mean() if (values > 0).any() else 0 for values in cut]) / 1e4
            )
            weights = np.rint(clear / 256 * 100) * (clear >= MIN_USABLE * 256)
            expected = (weights * bright).sum() / weights.sum()
            assert abs(written[1, row, col] - expected * 250) <= 1
            compared += 1
    assert compared > 20


def test_a_medoid_map_shows_whole_spectra(tmp_path, dates):
    dn, source = dates
    report = map_area(request(tmp_path, source, composite="medoid", probabilities=True), RedPixels())
    written = shares_of(report.out)
    order = [DAYS.index(f"{scene.acquired_utc:%Y-%m-%d}") for scene in report.plan.scenes]
    for y in range(0, ROWS, 7):
        for x in range(0, COLS, 3):
            clear = [dn[index, :, y, x].astype(float) for index in order if dn[index, 0, y, x]]
            if not clear:
                assert written[0, y, x] == 255
                continue
            away = [np.square(spectrum - np.median(clear, axis=0)).sum() for spectrum in clear]
            nearest = clear[int(np.argmin(away))]
            assert abs(written[0, y, x] - (1 - nearest[0] / 10_000) * 250) <= 0.51


SMOOTHED = {"smooth": "0.5,Glaring=0", "smooth_px": 5, "fuse": "dates", "probabilities": True, "block_px": 64}


@pytest.fixture(scope="module")
def smoothed(dates, tmp_path_factory):
    return map_area(request(tmp_path_factory.mktemp("smoothed"), dates[1], **SMOOTHED), RedPixels())


def test_smoothed_probabilities_are_those_of_all_pixels_at_once(dates, smoothed):
    dn, report = dates[0], smoothed
    seen = dn[:, 0] > 0
    count = np.maximum(seen.sum(0), 1)
    lit = np.where(seen, dn[:, 0] / 10_000, 0).astype(np.float32)
    means = np.stack([np.where(seen, 1 - lit, 0), lit - lit**2, lit**2]).sum(1) / count
    smoothing = Smoothing(strengths=(0.5, 0.5, 0.0), window_px=5)
    expected = smooth_classes(means.astype(np.float32), seen.any(0), smoothing)
    written, there = shares_of(report.out), seen.any(0)
    assert np.abs(written - expected * 250)[:, there].max() <= 0.6
    assert np.abs(expected - means)[0][there].max() > 0.1
    # The cover is what its uses add up to.
    assert np.array_equal(read(report.out / "cover.tif")[there], (expected[1:].sum(0) > expected[0])[there])
    run = json.loads((report.out / "run.json").read_text())
    assert run["smooth"] == {
        "strengths": {"Dark": 0.5, "Bright": 0.5, "Glaring": 0.0},
        "window_px": 5,
    }
    assert (
        "smoothed over 5 x 5 px"
        in json.loads((report.out / "item.json").read_text())["properties"]["processing:lineage"]
    )
    page = (report.out / "index.html").read_text()
    assert '"smooth_px": 5' in page or '"smooth_px":5' in page


@pytest.fixture(scope="module")
def inn(data_dir, tmp_path_factory):
    """Two real dates of one place, with a cloud on each, and a network of random weights."""
    root = tmp_path_factory.mktemp("inn")
    world = make_world(data_dir, root)
    items = [
        world[day, "03.00"].planetary_computer(f"{root}/{{folder}}/{{band}}.tif")
        for day in ("20210618", "20210723")
    ]
    left, top = world["20210618", "03.00"].transform.c, world["20210618", "03.00"].transform.f
    area = area_of(left + 400, top - 2200, left + 2000, top - 700)
    model = save_pixel_model(root / "random-pixel.safetensors")
    return item_collection(root / "items.json", items), area, str(model)


def smoothed_and_fused(tmp_path, inn, **options):
    source, area, model = inn
    asked = {"area": area, "fuse": "dates", "smooth": 0.5, "probabilities": True, "max_cloud_percent": 100}
    return map_area(request(tmp_path, source, **asked | options), load_classifier(model, "cpu"))


@pytest.fixture(scope="module")
def in_one_block(inn, tmp_path_factory):
    return smoothed_and_fused(tmp_path_factory.mktemp("whole"), inn)


def test_blocks_of_any_size_give_the_same_fused_and_smoothed_map(tmp_path, inn, in_one_block):
    report = smoothed_and_fused(tmp_path, inn, block_px=80)
    assert (len(report.plan.blocks), len(in_one_block.plan.blocks)) == (6, 1)
    assert report.plan.digest == in_one_block.plan.digest
    ours, theirs = (shares_of(one.out).astype(int) for one in (report, in_one_block))
    assert np.array_equal(ours == 255, theirs == 255)
    assert np.abs(ours - theirs).max() <= 1
    same = read(report.out / "landuse.tif") == read(in_one_block.out / "landuse.tif")
    ranked = np.sort(theirs, 0)
    assert same[ranked[-1] - ranked[-2] > 2].all()


@pytest.mark.usefixtures("warm_workers")
def test_workers_and_a_run_that_was_stopped_give_the_same_map(tmp_path, dates, smoothed):
    def stop(progress):
        if progress.blocks_done == 2:
            raise KeyboardInterrupt

    asked = request(tmp_path, dates[1], **SMOOTHED)
    with pytest.raises(KeyboardInterrupt, match="2 of 9 blocks are finished"):
        map_area(asked, RedPixels(), stop)
    with pytest.raises(UsageError, match=r"\(fuse dates, now pixels; other smoothing\).*--overwrite"):
        map_area(request(tmp_path, dates[1], block_px=64), RedPixels())
    cluster = Cluster(workers=1, model="red", device="cpu", load=red_pixels)
    report = map_area(asked, RedPixels(), None, cluster)
    assert_same_files(report.out, smoothed.out)


def test_fused_real_dates_are_the_mean_of_their_maps(tmp_path, inn):
    source, area, model = inn
    classifier = load_classifier(model, "cpu")
    single = [
        shares_of(
            map_area(
                request(
                    tmp_path,
                    source,
                    area=area,
                    dates=parse_dates(day),
                    probabilities=True,
                    max_cloud_percent=100,
                    out=tmp_path / day,
                ),
                classifier,
            ).out
        )
        for day in ("2021-06-18", "2021-07-23")
    ]
    asked = request(tmp_path, source, area=area, fuse="dates", probabilities=True, max_cloud_percent=100)
    fused = shares_of(map_area(asked, classifier).out)
    clear = [shares[0] != 255 for shares in single]
    both = clear[0] & clear[1]
    assert 0.3 < both.mean() < 0.9
    mean = (single[0].astype(float) + single[1]) / 2
    assert np.abs(fused - mean)[:, both].max() <= 1.01
    for mine, other, shares in ((clear[0], clear[1], single[0]), (clear[1], clear[0], single[1])):
        assert np.array_equal(fused[:, mine & ~other], shares[:, mine & ~other])
    assert (fused[:, ~clear[0] & ~clear[1]] == 255).all()


def test_a_season_leaves_other_months_out(tmp_path, dates, capsys):
    _, source = dates
    asked = request(tmp_path, source, season=parse_season("autumn"))
    report = map_area(asked, RedPixels())
    assert [f"{scene.acquired_utc:%Y-%m-%d}" for scene in report.plan.scenes] == ["2024-10-05"]
    told = {"label": "autumn north of the equator: September to November", "months": [9, 10, 11]}
    assert json.loads((report.out / "run.json").read_text())["season"] == told
    assert told["label"] in (report.out / "index.html").read_text()
    with pytest.raises(NothingFoundError, match=r"3 outside the season.*choose another --season"):
        map_area(request(tmp_path / "none", source, season=parse_season("12-2")), RedPixels())
    estimate = estimate_run(request(tmp_path, source, fuse="dates", season=parse_season("6")), RedPixels())
    assert len(estimate.plan.scenes) == 2
    print_estimate(estimate)
    assert "each date by itself" in capsys.readouterr().out


def test_south_of_the_equator_summer_is_in_january(tmp_path):
    for day, dn in (("2024-01-10", 900), ("2024-07-10", 5000)):
        raster = red_raster(
            tmp_path / f"{day}.tif", np.full((40, 40), dn, np.uint16), crs="EPSG:32733", top=6_310_070
        )
        source = catalog_of(tmp_path, raster, acquired=f"{day}T10:00:00+00:00")
    season = parse_season("summer")
    found = find_scenes(request(tmp_path, source, season=season), RedPixels().contract)
    assert [scene.acquired_utc.month for scene in found.scenes] == [1]
    with pytest.raises(NothingFoundError, match=r"1 outside the season"):
        find_scenes(
            request(tmp_path, source, season=season, dates=parse_dates("2024-07")), RedPixels().contract
        )


def test_what_decides_pixels_is_in_the_digest(tmp_path, dates):
    _, source = dates
    classifier = RedPixels()
    scenes = find_scenes(request(tmp_path, source), classifier.contract).scenes

    def digest(**options):
        return plan_map(request(tmp_path, source, **options), classifier, scenes).digest

    different = [
        digest(),
        digest(smooth=0.5),
        digest(smooth=1),
        digest(smooth=0.5, smooth_px=5),
        digest(smooth="0.5,Dark=0"),
        digest(fuse="dates"),
        digest(composite="medoid"),
    ]
    assert len(set(different)) == len(different)
    assert digest(smooth=0, smooth_px=5) == digest()  # off is off
    assert digest(precision="auto") == digest()  # the classifier says what it computes in


def test_another_arithmetic_than_float32_is_in_the_digest(tmp_path, dates):
    _, source = dates
    scenes = find_scenes(request(tmp_path, source), RedPixels().contract).scenes
    told = {}
    for precision in ("", "fp32", "bf16"):
        classifier = RedPixels()
        classifier.precision = precision
        plan = plan_map(request(tmp_path, source), classifier, scenes)
        assert plan.precision == precision
        told[precision] = plan.digest
    assert told[""] == told["fp32"] != told["bf16"]


class Choosing(RedPixels):
    """A model with a choice of precision, to which float32 seems the faster one today."""

    precision = "fp32"

    def in_precision(self, precision):
        other = Choosing()
        other.precision = precision
        return other


def test_a_run_that_goes_on_takes_the_precision_of_its_blocks(tmp_path, dates):
    _, source = dates
    asked = request(tmp_path, source, precision="auto")
    scenes = find_scenes(asked, Choosing().contract).scenes
    out = Store.at(tmp_path / "map")
    out.prepare()
    open_blocks(out, plan_map(asked, Choosing().in_precision("bf16"), scenes), overwrite=False)
    report = map_area(asked, Choosing())
    assert report.plan.precision == "bf16"
    assert json.loads((report.out / "run.json").read_bytes())["precision"] == "bf16"
    again = map_area(request(tmp_path, source, overwrite=True), Choosing())
    assert again.plan.precision == "fp32"
    with pytest.raises(UsageError, match="bf16 is for models of pixels"):
        with_precision(RedPixels(), "bf16")


def test_imagery_in_memory_is_smoothed_as_well(dates, monkeypatch):
    import xarray as xr

    monkeypatch.setattr("landuse.workflows.classify.load_classifier", red_pixels)
    dn = np.where(dates[0][0] > 0, dates[0][0], 1)
    y, x = 5_310_070 - 10.0 * np.arange(ROWS) - 5, 512_340 + 10.0 * np.arange(COLS) + 5
    held = xr.Dataset({"B04": (("y", "x"), dn[0]), "B08": (("y", "x"), dn[1])}, {"y": y, "x": x})
    made = classify(
        held.rio.write_crs("EPSG:32633"), level="L2A", scale=1e-4, offset=0.0, smooth=0.5, probabilities=True
    )
    lit = (dn[0] / 10_000).astype(np.float32)
    expected = smooth_classes(
        np.stack([1 - lit, lit - lit**2, lit**2]), dn[0] > 0, Smoothing(strengths=(0.5,) * 3)
    )
    assert np.abs(made["probabilities"].to_numpy() - expected).max() <= 0.0021
    with pytest.raises(UsageError, match="smooth None is no strength"):
        classify(held, level="L2A", smooth=None)
    with pytest.raises(UsageError, match=r"smooth_px 7.0 is no whole number"):
        classify(held, level="L2A", smooth_px=7.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fuse": "maps"}, "--fuse 'maps' is unknown. Use one of pixels, dates"),
        ({"fuse": "dates", "composite": "median"}, "--fuse dates .*--composite median .*one of the two"),
        ({"composite": "mean"}, "--composite 'mean' is unknown. Use one of best, median, medoid"),
        ({"smooth": "much"}, "'much' is no number"),
        ({"smooth": 0.5, "smooth_px": 8}, "--smooth-px 8 is no window"),
        ({"smooth": "1,Forest=2"}, "'Forest=2' names no class.*Dark, Bright, Glaring"),
    ],
)
def test_what_fits_nothing_is_one_error(tmp_path, dates, options, message):
    with pytest.raises(UsageError, match=message):
        map_area(request(tmp_path, dates[1], **options), RedPixels())
    assert not (tmp_path / "map").exists()


def test_maps_of_patches_are_not_smoothed(tmp_path, dates):
    with pytest.raises(UsageError, match="--smooth is for models of pixels, and brightness classifies"):
        map_area(request(tmp_path, dates[1], smooth=0.5), BrightnessClassifier(16))


def test_the_command_takes_them(tmp_path, run, inn):
    source, _, model = inn
    given = ("map", "--source", source, "--model", model, "--device", "cpu", "--out", tmp_path / "map")
    made = run(
        *given,
        "--season",
        "6",
        "--smooth",
        "0.5,Forest=1",
        "--fuse",
        "dates",
        "--max-cloud",
        100,
        "--dry-run",
    )
    assert made.code == 0, made.err
    assert "each date by itself, smoothed over 7 px" in made.out
    for options, says in (
        (("--season", "fall"), "--season 'fall' is unknown"),
        (("--smooth", "0.5,Moor=1"), "names no class"),
        (("--smooth-px", 2), "--smooth-px 2 is no window"),
    ):
        refused = run(*given, *options)
        assert refused.code == 2
        assert says in refused.err
