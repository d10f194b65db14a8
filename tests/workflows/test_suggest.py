"""Points worth labelling, from a map's files to a form. Oracles: loops over whole arrays; ``landuse sample``
for the form; GDAL's rasters as they were written.
"""

import json
import math

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine

from landuse.errors import UsageError
from landuse.pipeline.maps import layers as layers_module
from landuse.pipeline.maps.open import counted_map
from landuse.pipeline.maps.sampling import SampleDesign
from landuse.pipeline.maps.suggesting import chances, choose_by_cover, choose_by_strata
from landuse.workflows.accuracy import assess_map, draw_sample
from landuse.workflows.suggest import SuggestRequest, suggest_points

NAMES = ("AnnualCrop", "Forest", "SeaLake")
CELL_M, LEFT, TOP = 10, 512_320, 5_310_080
SHAPE = (90, 120)


def write(
    path,
    values,
    *,
    left=LEFT,
    top=TOP,
    cell_m=CELL_M,
    crs="EPSG:32633",
    nodata=255,
    names=NAMES,
    run="a",
    **tags,
):
    values = values if values.ndim == 3 else values[None]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        dtype=values.dtype,
        nodata=nodata,
        crs=crs,
        height=values.shape[1],
        width=values.shape[2],
        transform=Affine(cell_m, 0, left, 0, -cell_m, top),
        tiled=True,
        blockxsize=64,
        blockysize=64,
    ) as file:
        file.write(values)
        file.update_tags(classes=json.dumps(names), plan_sha256=run, **tags)


def shares_of(seed, shape=SHAPE):
    """(class, row, col) probabilities in steps of 1/250 of smooth land; a corner has none."""
    rng = np.random.default_rng(seed)
    fields = np.kron(rng.random((3, shape[0] // 10, shape[1] // 10)), np.ones((10, 10)))
    logits = 6 * fields + rng.normal(0, 0.7, (3, *shape))
    shares = np.exp(logits)
    steps = np.rint(250 * shares / shares.sum(0))
    steps[:, :12, :20] = 255
    return steps.astype(np.uint8)


def write_map(folder, shares, *, probabilities=False, doubt=None, **options):
    folder.mkdir(parents=True)
    empty = shares[0] == 255
    order = np.argsort(-shares.astype(int), 0, kind="stable")
    classes = np.where(empty, 255, order[0]).astype(np.uint8)
    ranked = np.take_along_axis(shares, order, 0)
    write(folder / "landuse.tif", classes, **options)
    write(folder / "confidence.tif", ranked[0], **options)
    if probabilities:
        write(folder / "probabilities.tif", shares, **options)
    else:
        second = np.stack([np.where(empty, 255, order[1]).astype(np.uint8), ranked[1]])
        write(folder / "second.tif", second, **options)
    if doubt is not None:
        write(folder / "doubt.tif", doubt, **options)
    image = np.stack([shares[0], shares[1], shares[2]]) // 2
    write(folder / "image.tif", image, **options | {"nodata": 0})
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_map(tmp_path / "map", shares_of(1))


def suggested(folder, out, **options):
    report = suggest_points(SuggestRequest(map_=folder, out=out, **options))
    return report, gpd.read_file(out, layer="samples")


def best_of_squares(scores, side, seed):
    """(N, 2) cells and (N,) scores, square by square."""
    rows, cols = scores.shape
    cells = []
    for top in range(0, rows, side):
        for left in range(0, cols, side):
            inside = [
                (scores[r, c], int(chances(np.array(r), np.array(c), seed)), r, c)
                for r in range(top, min(top + side, rows))
                for c in range(left, min(left + side, cols))
                if scores[r, c] >= 0
            ]
            cells += [max(inside)[2:]] if inside else []
    cells = np.array(cells)
    return cells, scores[cells[:, 0], cells[:, 1]]


@pytest.mark.parametrize("probabilities", [False, True])
def test_doubt_is_what_a_loop_over_all_cells_finds(tmp_path, probabilities, monkeypatch):
    shares = shares_of(1)
    doubt = np.where(shares[0] == 255, 255, np.random.default_rng(2).integers(0, 251, SHAPE)).astype(np.uint8)
    folder = write_map(tmp_path / "map", shares, probabilities=probabilities, doubt=doubt)
    report, frame = suggested(folder, tmp_path / "a.gpkg", count=25, distance_m=70, seed=3)
    ranked = np.sort(np.where(shares == 255, 0, shares).astype(int), 0)
    scores = 250**2 - (ranked[-1] - ranked[-2]) * (250 - np.where(doubt == 255, 0, doubt).astype(int))
    scores = np.where(shares[0] == 255, -1, scores)
    cells, worth = best_of_squares(scores, 7, seed=3)
    classes = shares.argmax(0)[cells[:, 0], cells[:, 1]]
    expected = cells[choose_by_strata(cells, worth, classes, 25, 7)]
    np.testing.assert_array_equal(frame[["row", "col"]], expected)
    assert report.points == 25
    assert report.measured == "the margin of the class, and doubt"
    mapped = shares.argmax(0)[expected[:, 0], expected[:, 1]]
    assert dict(report.strata) == {name: int((mapped == i).sum()) for i, name in enumerate(NAMES)}
    monkeypatch.setattr(layers_module, "_STRIP_VALUES", 700)  # a row or two at a time
    _, again = suggested(folder, tmp_path / "b.gpkg", count=25, distance_m=70, seed=3)
    assert again.equals(frame)


@pytest.mark.parametrize("probabilities", [False, True])
def test_coverage_is_k_centre_on_what_the_map_says(tmp_path, probabilities):
    shares = shares_of(4)
    folder = write_map(tmp_path / "map", shares, probabilities=probabilities)
    labels = gpd.GeoDataFrame(
        geometry=gpd.points_from_xy([LEFT + 605, LEFT + 305], [TOP - 405, TOP - 805]), crs=32633
    )
    labels.to_crs(4326).to_file(tmp_path / "labels.geojson")
    report, frame = suggested(
        folder,
        tmp_path / "a.gpkg",
        by="coverage",
        count=12,
        distance_m=65,
        exclude=tmp_path / "labels.geojson",
        seed=1,
    )
    known = [(40, 60), (80, 30)]
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    near = np.min([(rows - r) ** 2 + (cols - c) ** 2 for r, c in known], 0)
    assert not (np.abs(np.sqrt(near) - 6.5) < 0.02).any()  # the circle around a label is a polygon
    cells, _ = best_of_squares(np.where((shares[0] == 255) | (near < 6.5**2), -1, 0), 6, seed=1)
    features = np.sqrt(shares / np.float32(250)) if probabilities else (shares // 2) / np.float32(255)
    at = np.array(known)
    chosen = choose_by_cover(
        cells,
        features[:, cells[:, 0], cells[:, 1]].T,
        features[:, at[:, 0], at[:, 1]].T,
        12,
        6.5,
    )
    np.testing.assert_array_equal(frame[["row", "col"]], cells[chosen])
    assert report.excluded == 2
    assert ("Hellinger" in report.measured) == probabilities


def test_disagreement_is_where_two_maps_differ_surely_also_on_shifted_grids(tmp_path):
    first, second = shares_of(5), shares_of(6)
    folder = write_map(tmp_path / "first", first)
    down, right = 15, -10  # the second begins 15 rows above and 10 columns right of the first
    other = write_map(tmp_path / "second", second, left=LEFT + 10 * CELL_M, top=TOP + 15 * CELL_M)
    report, frame = suggested(
        folder, tmp_path / "a.gpkg", by="disagreement", other=other, count=30, distance_m=40
    )
    scores = np.full(SHAPE, -1)
    pairs = np.full(SHAPE, -1)
    for r in range(SHAPE[0]):
        for c in range(SHAPE[1]):
            r2, c2 = r + down, c + right
            if not (0 <= r2 < SHAPE[0] and 0 <= c2 < SHAPE[1]):
                continue
            one, two = first[:, r, c].astype(int), second[:, r2, c2].astype(int)
            if one[0] != 255 and two[0] != 255 and one.argmax() != two.argmax():
                scores[r, c] = one.max() * two.max()
                pairs[r, c] = one.argmax() * 256 + two.argmax()
    cells, worth = best_of_squares(scores, 4, seed=0)
    chosen = choose_by_strata(cells, worth, pairs[cells[:, 0], cells[:, 1]], 30, 4)
    np.testing.assert_array_equal(frame[["row", "col"]], cells[chosen])
    assert len(report.strata) == 6
    assert all(name.partition(" / ")[0] != name.partition(" / ")[2] for name, _ in report.strata)
    assert "first map" in report.notes[-1]


def test_the_form_is_that_of_a_sample_and_says_what_it_is(tmp_path, folder):
    _, frame = suggested(folder, tmp_path / "a.gpkg", count=9)
    draw_sample(folder, SampleDesign(total=30, min_per_class=2), tmp_path / "b.gpkg", seed=0, overwrite=False)
    sample = gpd.read_file(tmp_path / "b.gpkg", layer="samples")
    assert [name for name in frame.columns if name != "design"] == list(sample.columns)
    assert (frame["design"] == "suggested by doubt").all()
    assert frame[["reference", "note"]].isna().all(axis=None)
    assert (frame["map_sha256"] == counted_map(folder).sha256).all()
    styles = pyogrio.read_dataframe(tmp_path / "a.gpkg", layer="layer_styles")
    assert set(styles["f_table_name"]) == {"samples", "cells"}
    squares = gpd.read_file(tmp_path / "a.gpkg", layer="cells")
    assert squares.contains(frame.geometry).all()
    frame["reference"] = "Forest"
    frame.to_file(tmp_path / "labelled.gpkg", layer="samples")
    with pytest.raises(
        UsageError, match=r"9 of 9 points of .*labelled.gpkg were chosen by `landuse suggest`"
    ):
        assess_map(folder, tmp_path / "labelled.gpkg")
    mixed = gpd.pd.concat([sample.assign(reference="Forest"), frame.iloc[:1]])
    mixed.to_file(tmp_path / "mixed.gpkg", layer="samples")
    with pytest.raises(UsageError, match="1 of 31 points"):
        assess_map(folder, tmp_path / "mixed.gpkg")


@pytest.mark.parametrize("by", ["doubt", "coverage"])
def test_points_keep_their_distance_and_the_loop_goes_on_from_what_is_labelled(tmp_path, folder, by):
    report, first = suggested(folder, tmp_path / "a.gpkg", by=by, count=20)
    assert report.distance_m == pytest.approx(10 * math.sqrt((90 * 120 - 240) / 20) / 2)
    _, second = suggested(
        folder,
        tmp_path / "b.gpkg",
        by=by,
        count=20,
        distance_m=100,
        exclude=tmp_path / "a.gpkg",
    )
    apart = shapely.distance(first.geometry.to_numpy()[:, None], first.geometry.to_numpy()[None])
    assert apart[~np.eye(20, dtype=bool)].min() >= report.distance_m
    between = shapely.distance(first.geometry.to_numpy()[:, None], second.geometry.to_numpy()[None])
    assert between.min() > 99  # a circle of 100 m is drawn as a polygon
    _, other = suggested(folder, tmp_path / "c.gpkg", by=by, count=20, seed=9)
    assert by == "doubt" or not other.equals(first)


def test_polygons_are_kept_off_too(tmp_path, folder):
    fields = gpd.GeoDataFrame(
        geometry=[shapely.box(LEFT, TOP - 900, LEFT + 600, TOP), shapely.Point(), None], crs=32633
    )
    fields.to_file(tmp_path / "fields.gpkg", layer="fields")
    report, frame = suggested(
        folder,
        tmp_path / "a.gpkg",
        exclude=tmp_path / "fields.gpkg",
        exclude_layer="fields",
        count=300,
        distance_m=60,
    )
    assert frame.geometry.x.min() > LEFT + 600 + report.distance_m * 0.99
    assert report.points < 300
    assert "points lie" in report.notes[1]


def test_a_finer_image_counts_by_its_means(tmp_path):
    shares = shares_of(7)
    folder = write_map(tmp_path / "map", shares)
    fine = np.random.default_rng(0).integers(1, 255, (3, 180, 240)).astype(np.uint8)
    write(folder / "image.tif", fine, cell_m=5, nodata=0)
    _, frame = suggested(folder, tmp_path / "a.gpkg", by="coverage", count=5, distance_m=100)
    means = np.rint(fine.reshape(3, 90, 2, 120, 2).mean((2, 4))) / 255
    cells, _ = best_of_squares(np.where(shares[0] == 255, -1, 0), 10, seed=0)
    features = means.astype(np.float32)[:, cells[:, 0], cells[:, 1]].T
    chosen = choose_by_cover(cells, features, np.zeros((0, 3)), 5, 10)
    np.testing.assert_array_equal(frame[["row", "col"]], cells[chosen])


def test_the_command_prints_what_it_chose(tmp_path, folder, run):
    done = run("suggest", folder, "--n", 7, "--out", tmp_path / "a.gpkg")
    assert done.code == 0
    assert "7 points, the most telling first" in done.out
    assert "Accuracy and areas need `landuse sample`" in done.out
    told = json.loads(run("suggest", folder, "--n", 7, "--out", tmp_path / "b.gpkg", "--json").out)
    assert (told["points"], told["by"], told["seed"]) == (7, "doubt", 0)
    assert sum(row["points"] for row in told["strata"]) == 7
    refused = run("suggest", folder, "--out", tmp_path / "a.gpkg")
    assert (refused.code, "exists" in refused.error) == (2, True)


def spoilt(name, **options):
    """A map of which one raster is of another run or shape."""

    def make(folder):
        shape = options.pop("shape", SHAPE)
        count = {"second": (2,)}.get(name, ())
        write(folder / f"{name}.tif", np.ones((*count, *shape), options.pop("dtype", np.uint8)), **options)

    return make


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoilt("confidence", run="b"), "confidence.tif is not of the run that made"),
        (spoilt("second", left=LEFT + 10), "second.tif is not of the run"),
        (spoilt("doubt", shape=(90, 119)), "doubt.tif is not of the run"),
        (spoilt("confidence", crs="EPSG:32632"), "confidence.tif is not of the run"),
        (spoilt("confidence", dtype=np.uint16, nodata=0), "confidence.tif is not of the run"),
        (lambda folder: (folder / "confidence.tif").unlink(), "has no confidence.tif"),
        (lambda folder: (folder / "second.tif").write_text("x"), "cannot be read as a raster"),
        (lambda folder: (folder / "landuse.tif").unlink(), "does not exist"),
    ],
)
def test_maps_that_do_not_hang_together_are_refused(tmp_path, folder, spoil, message):
    spoil(folder)
    with pytest.raises(UsageError, match=message):
        suggest_points(SuggestRequest(map_=folder, out=tmp_path / "a.gpkg"))
    assert not (tmp_path / "a.gpkg").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "chance"}, "--by 'chance' is unknown"),
        ({"by": "disagreement"}, "takes two maps"),
        ({"count": 0}, "--n 0 is not in 1 to 10000"),
        ({"seed": -1}, "--seed -1 is negative"),
        ({"distance_m": math.nan}, "--min-distance nan is no distance"),
        ({"distance_m": -1}, "--min-distance -1 is no distance"),
        ({"exclude_layer": "x"}, "is given without --exclude"),
    ],
)
def test_requests_are_checked(tmp_path, folder, options, message):
    with pytest.raises(UsageError, match=message):
        SuggestRequest(map_=folder, out=tmp_path / "a.gpkg", **options)


def test_files_that_are_not_labels_are_refused(tmp_path, folder):
    def refusal(path, content=None):
        if content is not None:
            path.write_text(content)
        with pytest.raises(UsageError) as refused:
            suggest_points(SuggestRequest(map_=folder, out=tmp_path / "a.gpkg", exclude=path))
        return str(refused.value)

    assert "--exclude" in refusal(tmp_path / "gone.gpkg")
    hostile = f"<OGRVRTDataSource><SrcDataSource>{folder}</SrcDataSource></OGRVRTDataSource>"
    assert "its format is not known" in refusal(tmp_path / "x.vrt", hostile)
    assert "cannot be read" in refusal(tmp_path / "x.geojson", '{"type": ')
    gpd.GeoDataFrame(geometry=[shapely.Point(1, 2)]).to_parquet(tmp_path / "x.parquet")
    assert "states no coordinate reference system" in refusal(tmp_path / "x.parquet")
    whole = gpd.GeoDataFrame(
        geometry=[shapely.box(LEFT - 9999, TOP - 9999, LEFT + 9999, TOP + 9999)], crs=32633
    )
    whole.to_file(tmp_path / "whole.fgb")
    assert "has no cell to suggest by doubt: all lie within" in refusal(tmp_path / "whole.fgb")
    far = gpd.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=4326)
    far.to_file(tmp_path / "far.fgb")
    report = suggest_points(
        SuggestRequest(map_=folder, out=tmp_path / "a.gpkg", exclude=tmp_path / "far.fgb", count=5)
    )
    assert any("Nothing of --exclude" in note for note in report.notes)


def test_maps_that_cannot_disagree_are_refused(tmp_path, folder):
    def refusal(name, **options):
        shape = options.pop("shape", SHAPE)
        other = write_map(tmp_path / name, shares_of(2, shape), **options)
        with pytest.raises(UsageError) as refused:
            suggest_points(
                SuggestRequest(map_=folder, out=tmp_path / "a.gpkg", by="disagreement", other=other)
            )
        return str(refused.value)

    assert "need the same classes in the same order" in refusal("names", names=("a", "b", "c"))
    parts = json.dumps([["AnnualCrop", "Pasture"], ["Forest"], ["SeaLake"]])
    assert "AnnualCrop is the sum of AnnualCrop, Pasture" in refusal("legend", classes_of=parts)
    assert "in one UTM zone" in refusal("crs", crs="EPSG:32632")
    assert "do not lie on those of" in refusal("cells", cell_m=20)
    assert "do not lie on those of" in refusal("between", left=LEFT + 3)
    assert "do not overlap" in refusal("far", left=LEFT + 1200)
    same = write_map(tmp_path / "same", shares_of(1))
    with pytest.raises(UsageError, match="has no cell to suggest by disagreement"):
        suggest_points(SuggestRequest(map_=folder, out=tmp_path / "a.gpkg", by="disagreement", other=same))
