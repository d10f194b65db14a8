"""Scores of finished maps: points, polygons and rasters on a map of four quarters, counted by hand."""

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from landuse.errors import UsageError
from tests.benchmarks.cover_maps import Legend, read_map, score_map

NAMES = ("Forest", "River", "SeaLake")
LEFT, TOP = 500_000, 5_300_000


def write(path: Path, ids: np.ndarray, *, pixel_m: float = 10, nodata=255, names=NAMES) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, height=ids.shape[0], width=ids.shape[1],
        crs="EPSG:32633", transform=Affine(pixel_m, 0, LEFT, 0, -pixel_m, TOP), nodata=nodata,
    ) as file:  # fmt: skip
        file.write(ids.astype(np.uint8), 1)
        if names:
            file.update_tags(classes=json.dumps(names))
    return path


@pytest.fixture
def quarters(tmp_path) -> Path:
    """8 x 8 cells of 10 m: Forest and River above, SeaLake and nothing below."""
    ids = np.zeros((8, 8), np.uint8)
    ids[:4, 4:], ids[4:, :4], ids[4:, 4:] = 1, 2, 255
    return write(tmp_path / "landuse.tif", ids)


WATER = Legend(right={"wood": ("Forest",), "water": ("River", "SeaLake")}, column="cover")


def points(path: Path, rows: list[tuple[str, float, float]], crs: str = "EPSG:32633") -> Path:
    frame = gpd.GeoDataFrame(
        {"cover": [row[0] for row in rows]},
        geometry=[shapely.Point(LEFT + 10 * col, TOP - 10 * row) for _, row, col in rows],
        crs="EPSG:32633",
    )
    frame.to_crs(crs).to_file(path)
    return path


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_points_are_looked_up_where_they_lie(quarters, tmp_path, crs):
    rows = [
        ("wood", 0.5, 0.5), ("wood", 0.5, 5.5), ("water", 3.5, 7.5), ("water", 4.5, 0.5), ("water", 3.9, 3.9),
        ("water", 5.5, 5.5), ("water", 50, 50), ("bog", 1, 1),
    ]  # fmt: skip
    scores = score_map(read_map(quarters), points(tmp_path / "p.gpkg", rows, crs), WATER)
    assert scores.recall(0) == 0.5
    assert scores.recall(1) == pytest.approx(2 / 3)  # one lies where the map says nothing
    assert (scores.overall, scores.mean_recall) == (pytest.approx(3 / 5), pytest.approx(7 / 12))
    assert scores.iou(1) == pytest.approx(2 / 4)
    assert (scores.outside, scores.unlabelled) == (1, 1)
    assert "River" in scores.table()


def test_polygons_are_scored_at_pixels_of_10_m_whatever_the_cell(tmp_path):
    ids = np.array([[0, 1], [2, 255]])
    for pixel_m, factor in ((10, 4), (40, 1)):
        path = write(tmp_path / f"{pixel_m}.tif", ids.repeat(factor, 0).repeat(factor, 1), pixel_m=pixel_m)
        frame = gpd.GeoDataFrame(
            {"cover": ["wood", "water"]},
            geometry=[
                shapely.box(LEFT, TOP - 30, LEFT + 60, TOP),
                shapely.box(LEFT, TOP - 80, LEFT + 80, TOP - 40),
            ],
            crs="EPSG:32633",
        )
        frame.to_file(tmp_path / "areas.gpkg")
        scores = score_map(read_map(path), tmp_path / "areas.gpkg", WATER)
        assert scores.counts[0, :3].tolist() == [12, 6, 0]
        assert scores.counts[1, [0, 1, 2, 255]].tolist() == [0, 0, 16, 16]


def test_a_raster_is_scored_at_its_own_pixels(quarters, tmp_path):
    truth = np.full((4, 4), 1)
    truth[:2, :2], truth[3, 3] = 0, 9
    reference = write(tmp_path / "truth.tif", truth, pixel_m=20, nodata=9, names=None)
    legend = Legend(right={"0": ("Forest",), "1": ("River", "SeaLake")})
    scores = score_map(read_map(quarters), reference, legend)
    assert scores.counts[:, [0, 1, 2, 255]].tolist() == [[4, 0, 0, 0], [0, 4, 4, 3]]
    assert scores.overall == 1


def test_without_a_legend_labels_are_the_maps_own(quarters, tmp_path):
    same = score_map(read_map(quarters), quarters, Legend())
    assert same.labels == ("0", "1", "2")
    assert same.overall == 1
    frame = points(tmp_path / "p.gpkg", [("River", 1, 6), ("Forest", 1, 6)])
    named = score_map(read_map(quarters), frame, Legend(column="cover"))
    assert (named.recall(0), named.recall(1), named.recall(2)) == (0, 1, None)


def test_confidence_beside_the_map_is_judged(quarters, tmp_path):
    with rasterio.open(
        tmp_path / "confidence.tif", "w", driver="GTiff", dtype="uint8", count=1, height=8, width=8,
        crs="EPSG:32633", transform=Affine(10, 0, LEFT, 0, -10, TOP),
    ) as file:  # fmt: skip
        file.write(np.full((8, 8), 200, np.uint8), 1)
        file.scales = (1 / 250,)
    rows = [("wood", 0.5, 0.5), ("wood", 0.5, 5.5)]
    scores = score_map(read_map(tmp_path), points(tmp_path / "p.gpkg", rows), WATER)
    assert "expected calibration error 0.300; median confidence of wrong 0.800" in scores.table()


def test_a_legend_is_read_from_json_and_refused_where_it_does_not_fit(quarters, tmp_path):
    path = tmp_path / "legend.json"
    path.write_text(json.dumps({"column": "cover", "right": {"wood": ["Forest"]}}))
    assert Legend.read(path) == Legend(column="cover", right={"wood": ("Forest",)})
    path.write_text(json.dumps({"colum": "cover"}))
    with pytest.raises(UsageError, match="unknown keys colum"):
        Legend.read(path)
    reference = points(tmp_path / "p.gpkg", [("wood", 0.5, 0.5)])
    with pytest.raises(UsageError, match="The legend names Woods, which"):
        score_map(read_map(quarters), reference, Legend(column="cover", right={"wood": ("Woods",)}))
    with pytest.raises(UsageError, match="has no column reference; it has cover"):
        score_map(read_map(quarters), reference, Legend())
    with pytest.raises(UsageError, match="Nothing of"):
        score_map(read_map(quarters), points(tmp_path / "far.gpkg", [("wood", 900, 900)]), WATER)
    limited = Legend(right={"dry": ("Forest", "Bare")}).of(NAMES)
    assert limited.right == {"dry": ("Forest",)}
