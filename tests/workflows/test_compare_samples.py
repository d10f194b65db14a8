"""Which of two maps is better. Oracles: loops over the arrays, sums of binomial coefficients, Agresti's
table, and how often the interval holds the difference of two known maps."""

import json
import math

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine

from landuse.errors import UsageError
from landuse.pipeline.maps.intervals import paired_difference, wilson
from landuse.pipeline.maps.sampling import SampleDesign
from landuse.workflows.accuracy import draw_sample
from landuse.workflows.compare.by_samples import Pairs, compare_by_samples, estimate_pairs

NAMES = ("AnnualCrop", "Forest", "SeaLake")
CELL_M = 20
LEFT, TOP = 512_320, 5_310_080


def write_map(folder, ids, *, names=NAMES, crs="EPSG:32633", transform=None, **tags):
    folder.mkdir(parents=True, exist_ok=True)
    transform = transform or Affine(CELL_M, 0, LEFT, 0, -CELL_M, TOP)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "crs": crs}
    profile |= {"height": ids.shape[0], "width": ids.shape[1], "transform": transform}
    with rasterio.open(folder / "landuse.tif", "w", **profile) as file:
        file.write(ids, 1)
        file.update_tags(classes=json.dumps(names), **tags)
    return folder


def flawed(truth, share, seed):
    """A map that is wrong in some of its cells."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(truth.shape) < share
    other = ((truth + rng.integers(1, 3, truth.shape)) % 3).astype(np.uint8)
    return np.where(wrong & (truth != 255), other, truth).astype(np.uint8)


@pytest.fixture(scope="module")
def truth():
    grid = np.random.default_rng(7).choice(3, (80, 100), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    grid[:10, :10] = 255
    return grid


@pytest.fixture(scope="module")
def maps(tmp_path_factory, truth):
    folder = tmp_path_factory.mktemp("maps")
    first, second = flawed(truth, 0.1, 1), flawed(truth, 0.3, 2)
    second[70:, :] = 255
    return (write_map(folder / "a", first), first), (write_map(folder / "b", second), second)


def label(folder, path, truth, names=NAMES, points=120):
    draw_sample(folder, SampleDesign(total=points, min_per_class=20), path, seed=3, overwrite=False)
    frame = gpd.read_file(path, layer="samples")
    frame["reference"] = [names[truth[row, col]] for row, col in zip(frame.row, frame.col, strict=True)]
    frame.to_file(path.with_suffix(".labelled.gpkg"), layer="samples")
    return path.with_suffix(".labelled.gpkg"), frame


def by_loops(strata, pairs):
    """Difference and its variance, as surveys have them: weights, means and variances of strata."""
    total = sum(strata.values())
    value = variance = 0.0
    for stratum, area in strata.items():
        scores = [a - b for which, a, b in pairs if which == stratum]
        mean = sum(scores) / len(scores)
        value += area / total * mean
        spread = sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
        variance += (area / total) ** 2 * spread / len(scores)
    return value, variance


def mcnemar(b, c):
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n
    return min(2 * tail, 1.0)


def test_the_figures_are_those_of_loops(tmp_path, truth, maps):
    (a, first), (b, second) = maps
    path, frame = label(a, tmp_path / "points.gpkg", truth)
    report = compare_by_samples(a, b, path)
    both = (first != 255) & (second != 255)
    strata = {i: int((first[both] == i).sum()) for i in range(3)}
    pairs = [
        (first[row, col], int(first[row, col] == truth[row, col]), int(second[row, col] == truth[row, col]))
        for row, col in zip(frame.row, frame.col, strict=True)
        if both[row, col]
    ]
    value, variance = by_loops(strata, pairs)
    assert report.pairs.areas.tolist() == list(strata.values())
    assert report.points.used == len(pairs) == report.pairs.points.sum()
    assert report.points.nodata == 120 - len(pairs) > 0
    assert report.difference.value == pytest.approx(value)
    assert report.difference.standard_error == pytest.approx(math.sqrt(variance))
    only_a = sum(a > b for _, a, b in pairs)
    only_b = sum(b > a for _, a, b in pairs)
    assert (report.only_first, report.only_second) == (only_a, only_b)
    assert report.mcnemar_p == pytest.approx(mcnemar(only_a, only_b))
    assert report.first.value - report.second.value == pytest.approx(value)
    true = (first == truth)[both].mean() - (second == truth)[both].mean()
    assert report.difference.low < true < report.difference.high
    assert report.verdict == "the first map is better"
    assert any("one of the maps has no class" in warning for warning in report.warnings)
    # The same points judge the maps given the other way round, by the strata that they were drawn from.
    swapped = compare_by_samples(b, a, path)
    assert (swapped.strata, swapped.verdict) == ("second", "the second map is better")
    assert swapped.difference.value == pytest.approx(-value)
    assert swapped.difference.low == pytest.approx(-report.difference.high)


def pair_of(**counts):
    return Pairs(**{name: np.array([count]) for name, count in counts.items()})


def test_the_ends_are_those_of_each_stratum_added_in_squares():
    pairs = Pairs(
        areas=np.array([600, 300, 100]),
        points=np.array([40, 30, 30]),
        both=np.array([30, 20, 15]),
        only_first=np.array([6, 5, 9]),
        only_second=np.array([2, 5, 0]),
    )
    found = estimate_pairs(pairs)
    below = above = 0.0
    value = sum(w * (b - c) / n for w, b, c, n in [(0.6, 6, 2, 40), (0.3, 5, 5, 30), (0.1, 9, 0, 30)])
    for w, b, c, n in [(0.6, 6, 2, 40), (0.3, 5, 5, 30), (0.1, 9, 0, 30)]:
        low, high = paired_difference(b, c, n)
        below += (w * ((b - c) / n - low)) ** 2
        above += (w * (high - (b - c) / n)) ** 2
    assert found.difference.value == pytest.approx(value)
    assert found.difference.low == pytest.approx(value - math.sqrt(below))
    assert found.difference.high == pytest.approx(value + math.sqrt(above))
    one = pair_of(areas=9, points=50, both=40, only_first=6, only_second=1)
    low, high = wilson(np.array(46 / 50), np.array(50.0))
    first = estimate_pairs(one).first
    assert (first.low, first.high) == pytest.approx((float(low), float(high)))


def test_mcnemars_example():
    """Agresti (2013), table 11.1: 150 and 86 of 1600 changed their mind; z = -4.17, p < 0.001."""
    pairs = pair_of(areas=1, points=1600, both=794, only_first=150, only_second=86)
    found = estimate_pairs(pairs)
    assert found.difference.value == pytest.approx(0.04)
    assert found.difference.standard_error == pytest.approx(0.0095, abs=1e-4)
    assert found.mcnemar_p == pytest.approx(mcnemar(150, 86))
    assert found.mcnemar_p < 0.001


def test_the_interval_holds_the_difference_as_often_as_it_says():
    """A hundred points of two good maps: a normal interval is often empty, and misses more often."""
    rng = np.random.default_rng(5)
    areas = np.array([700, 250, 50])
    cells = np.array([[0.93, 0.04, 0.01], [0.88, 0.05, 0.03], [0.75, 0.05, 0.15]])
    points = (50, 30, 20)
    true = float((areas / 1000 * (cells[:, 1] - cells[:, 2])).sum())
    held = normal = 0
    for _ in range(300):
        drawn = np.stack(
            [rng.multinomial(n, [*row, 1 - row.sum()]) for n, row in zip(points, cells, strict=True)]
        )
        found = estimate_pairs(
            Pairs(areas=areas, points=np.array(points), both=drawn[:, 0], only_first=drawn[:, 1],
                  only_second=drawn[:, 2])
        ).difference  # fmt: skip
        held += found.low <= true <= found.high
        normal += abs(found.value - true) <= 1.96 * found.standard_error
    assert held > 0.925 * 300
    assert held > normal


def test_maps_of_other_classes_and_grids_are_brought_to_a_legend(tmp_path, truth, maps):
    (a, first), _ = maps
    covers = ("Crops", "Trees", "Water")
    to = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:32632", always_xy=True)
    left, top = to.transform(LEFT, TOP)
    size = 260
    x, y = np.meshgrid(left - 200 + (np.arange(size) + 0.5) * 10, top + 400 - (np.arange(size) + 0.5) * 10)
    ex, ny = pyproj.Transformer.from_crs("EPSG:32632", "EPSG:32633", always_xy=True).transform(x, y)
    row, col = np.floor((TOP - ny) / CELL_M).astype(int), np.floor((ex - LEFT) / CELL_M).astype(int)
    inside = (row >= 0) & (row < 80) & (col >= 0) & (col < 100)
    ids = np.full((size, size), 255, np.uint8)
    ids[inside] = truth[row[inside], col[inside]]
    place = Affine(10, 0, left - 200, 0, -10, top + 400)
    other = write_map(tmp_path / "other", ids, names=covers, crs="EPSG:32632", transform=place)
    path, frame = label(a, tmp_path / "points.gpkg", truth)
    with pytest.raises(UsageError, match=r"has the classes Crops.*Name a --crosswalk"):
        compare_by_samples(a, other, path)
    report = compare_by_samples(a, other, path, crosswalk="cover")
    assert report.second.value == 1  # it is the truth
    right = (first == truth)[frame.row, frame.col]
    assert report.only_second == int((~right).sum())
    assert report.only_first == 0
    assert report.second.low < 1


def test_names_that_two_legends_use_otherwise_are_told(tmp_path, truth, maps):
    (a, first), (b, _) = maps
    path, _ = label(a, tmp_path / "points.gpkg", truth)
    parts = json.dumps([["AnnualCrop"], ["Forest", "Shrubland"], ["SeaLake"]])
    other = write_map(tmp_path / "other", first, classes_of=parts)
    (warning,) = compare_by_samples(a, other, path).warnings
    assert "Forest is Forest on" in warning
    assert not [told for told in compare_by_samples(a, b, path).warnings if "Forest is" in told]


def test_ids_are_those_of_the_map_that_the_points_were_drawn_from(tmp_path, truth, maps):
    """Two maps of the same land, their classes in another order: names and ids of the first say the same."""
    (a, _), (b, second) = maps
    order = (2, 0, 1)
    back = np.array([*(order.index(i) for i in range(3)), *[255] * 253], np.uint8)
    b = write_map(tmp_path / "b", back[second], names=[NAMES[i] for i in order])
    path, frame = label(a, tmp_path / "points.gpkg", truth)
    own = tmp_path / "own.csv"
    own.write_text("class,new\n" + "".join(f"{name},{name}\n" for name in NAMES))
    expected = compare_by_samples(a, b, path, crosswalk=str(own))

    def saved(**columns):
        frame.assign(**columns).to_file(tmp_path / "ids.gpkg", layer="samples")
        return tmp_path / "ids.gpkg"

    by_id = saved(reference=[NAMES.index(name) for name in frame.reference])
    for found in (
        compare_by_samples(a, b, by_id, crosswalk=str(own)),
        compare_by_samples(b, a, by_id, crosswalk=str(own)),
    ):
        assert {found.first.value, found.second.value} == {expected.first.value, expected.second.value}
        assert found.points == expected.points
    unsaid = saved(reference=[NAMES.index(name) for name in frame.reference], map_sha256=None)
    with pytest.raises(UsageError, match=r"Numbers could be ids of either map.*map_sha256.*Give names"):
        compare_by_samples(a, b, unsaid, crosswalk=str(own))
    same = write_map(tmp_path / "same", second)
    assert compare_by_samples(a, same, unsaid).first.value == expected.first.value


def test_codes_of_a_crosswalk_are_no_ids(tmp_path, truth, maps):
    """10 is Tree cover in WorldCover, and the eleventh class of a map of many."""
    (_, first), (_, second) = maps
    names = ("AnnualCrop", "Forest", "SeaLake", *(f"Spare {i}" for i in range(9)))
    rows = "".join(f"{name},,{name}\n" for name in names)
    own = tmp_path / "own.csv"
    own.write_text(f"class,code,new\n{rows},40,AnnualCrop\n,10,Forest\n,8,SeaLake\n")
    a, b = (write_map(tmp_path / n, i, names=names) for n, i in (("a", first), ("b", second)))
    path, frame = label(a, tmp_path / "points.gpkg", truth)
    expected = compare_by_samples(a, b, path, crosswalk=str(own))

    def coded(codes):
        frame.assign(reference=[codes[NAMES.index(name)] for name in frame.reference]).to_file(
            tmp_path / "codes.gpkg", layer="samples"
        )
        return compare_by_samples(a, b, tmp_path / "codes.gpkg", crosswalk=str(own))

    found = coded((40, 10, 8))
    assert (found.first, found.second) == (expected.first, expected.second)
    assert "are taken for codes of --crosswalk" in found.warnings[-1]
    with pytest.raises(UsageError, match=r"do not know: '1'.*Numbers are codes of the crosswalk here"):
        coded((40, 1, 8))


def test_a_crosswalk_of_codes_alone_does_not_bring_other_classes_together(tmp_path, truth, maps):
    (a, first), _ = maps
    path, _ = label(a, tmp_path / "points.gpkg", truth)
    other = write_map(tmp_path / "other", first, names=NAMES[::-1])
    own = tmp_path / "own.csv"
    own.write_text("code,new\n40,AnnualCrop\n10,Forest\n80,SeaLake\n")
    with pytest.raises(UsageError, match=r"brings .*other.* to the classes SeaLake.*columns class,new"):
        compare_by_samples(a, other, path, crosswalk=str(own))


def test_the_command_and_what_it_refuses(tmp_path, truth, maps, run):
    (a, _), (b, _) = maps
    path, frame = label(a, tmp_path / "points.gpkg", truth)
    shown = run("compare", a, b, "--samples", path)
    assert shown.code == 0, shown.err
    assert "so          the first map is better" in shown.out
    assert "McNemar's exact test p = " in shown.out
    told = json.loads(run("compare", a, b, "--samples", path, "--json").out)
    assert told["strata_of"] == "first"
    assert told["difference"]["low_95"] > 0
    assert run("compare", a, "--samples", path).code == 2
    assert "do not tell which is better" in run("compare", a, a, "--samples", path).out

    def refused(changed):
        changed.to_file(tmp_path / "bad.gpkg", layer="samples")
        return run("compare", a, b, "--samples", tmp_path / "bad.gpkg").err

    assert "names classes in column reference that the maps do not know: 'Dune'" in refused(
        frame.assign(reference="Dune")
    )
    assert "Too few labelled points in the class" in refused(frame[frame.reference != "SeaLake"].head(12))
    far = refused(frame.set_geometry(frame.translate(1e5)))
    assert "No labelled point of" in far
    assert (
        "drawn from neither map" in run("compare", b, b, "--samples", path).out
        or "Too few" in run("compare", b, b, "--samples", path).err
    )
