"""The agreement of a map with a truth. Oracle: a slow loop over the cells."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine

from landuse.classes import LAND_USE_NAMES
from landuse.errors import ReadError, UsageError
from landuse.workflows.demo.agreement import agreement


def write(path, image, size_m, names, tag="classes"):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=1,
        height=len(image),
        width=image.shape[1],
        crs="EPSG:32633",
        transform=Affine(size_m, 0, 430_000, 0, -size_m, 5_340_000),
        nodata=255,
    ) as target:
        target.write(image, 1)
        if names:
            target.update_tags(**{tag: json.dumps(names)})
    return path


def counted(truth, mapped, cell, classes):
    """Cells and agreeing cells of each class, and those that do not count."""
    count, other = {k: [0, 0] for k in range(classes)}, 0
    for row in range(len(mapped)):
        for col in range(mapped.shape[1]):
            if mapped[row, col] == 255:
                continue
            pixels = truth[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell]
            shares = [(pixels == k).mean() for k in range(classes)]
            if max(shares) < 0.6:
                other += 1
                continue
            major = int(np.argmax(shares))
            count[major][0] += 1
            count[major][1] += int(mapped[row, col] == major)
    return count, other


@pytest.mark.parametrize("cell", [16, 2, 1])
def test_agreement_is_that_of_a_slow_loop(tmp_path, cell):
    rng = np.random.default_rng(3)
    rows, cols, classes = 5, 7, len(LAND_USE_NAMES)
    truth = rng.integers(0, classes, (rows, cols), np.uint8).repeat(cell, 0).repeat(cell, 1)
    noisy = rng.random(truth.shape) < rng.uniform(0, 0.6, (rows, cols)).repeat(cell, 0).repeat(cell, 1)
    truth[noisy] = rng.integers(0, classes, int(noisy.sum()), np.uint8)
    truth[: 2 * cell, :cell] = 255  # not known
    mapped = truth[cell // 2 :: cell, cell // 2 :: cell].copy()
    mapped[:2, 0] = 3
    mapped[0, 2:4] = 255
    mapped[3] = rng.integers(0, classes, cols, np.uint8)
    expected, other = counted(truth, mapped, cell, classes)
    assert other >= 2

    result = agreement(
        write(tmp_path / "truth.tif", truth, 10, LAND_USE_NAMES),
        write(tmp_path / "map.tif", mapped, 10 * cell, LAND_USE_NAMES),
    )
    assert result.uncounted_cells == other
    assert {k: [c.cells, c.agreeing] for k, c in enumerate(result.classes)} == expected
    cells, agreeing = (sum(c[i] for c in expected.values()) for i in (0, 1))
    assert result.cells == cells
    assert 0 < agreeing < cells
    assert result.percent == pytest.approx(100 * agreeing / cells)
    recalls = [100 * right / of for of, right in expected.values() if of]
    assert len(recalls) < classes
    assert result.mean_percent == pytest.approx(np.mean(recalls))


def test_classes_are_compared_by_name(tmp_path):
    truth = write(tmp_path / "truth.tif", np.array([[0, 1, 2, 2]], np.uint8), 10, ["a", "b", "c"], "covers")
    mapped = write(
        tmp_path / "map.tif", np.array([[2, 1, 0, 1]], np.uint8), 10, ["c", "other", "a"], "covers"
    )
    result = agreement(truth, mapped, "covers")
    assert [(c.name, c.cells, c.agreeing) for c in result.classes] == [("a", 1, 1), ("b", 1, 0), ("c", 2, 1)]


def test_rasters_that_do_not_suit_are_refused(tmp_path):
    image = np.zeros((4, 4), np.uint8)
    truth = write(tmp_path / "truth.tif", image, 10, ["a"])
    with pytest.raises(UsageError, match="finer than the truth's pixels"):
        agreement(truth, write(tmp_path / "fine.tif", image, 5, ["a"]))
    with pytest.raises(ReadError, match=r"nameless.tif does not name its classes in the tag 'classes'"):
        agreement(truth, write(tmp_path / "nameless.tif", image, 10, []))
    with pytest.raises(ReadError, match=r"missing.tif cannot be read"):
        agreement(truth, tmp_path / "missing.tif")
