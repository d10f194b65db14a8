"""How the cover benchmark reads its references: offsets, resolutions and the split."""

import json

import numpy as np
import pytest
import rasterio

from landuse.classes import LAND_COVER_NAMES, LAND_USE_NAMES, USES_OF_COVERS
from landuse.model.normalize import PATH_DN, TRANSMITTANCE
from tests.benchmarks import cover
from tests.benchmarks.cover import score_folder
from tests.benchmarks.cover_references import (
    Findings,
    as_l2a,
    decoded,
    orihuela,
    stored_offsets,
    terramesh_places,
    twice_as_fine,
    validation_rows,
)
from tests.benchmarks.cover_scores import Scores, ece, judged


@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize("second", [0, 1000])
def test_the_offset_of_each_level_shows_in_the_pixels(first, second):
    rng = np.random.default_rng(0)
    l2a = {band: rng.integers(800, 3000, (20, 20)) for band in ("B11", "B12")}
    l1c = {band: 0.95 * values + PATH_DN[band] for band, values in l2a.items()}
    l1c["B10"] = rng.integers(8, 60, (20, 20))
    stored = (
        {band: (values + first).astype(np.uint16) for band, values in l1c.items()},
        {band: (values + second).astype(np.uint16) for band, values in l2a.items()},
    )
    assert stored_offsets(*stored) == (first, second)


def test_the_places_of_terramesh_are_freed_of_their_offsets(data_dir):
    places = list(terramesh_places(data_dir))
    assert [place.offsets for place in places] == [(1000, 0), (0, 0), (1000, 1000), (1000, 0), (0, 0)]
    for place in places:
        gap = np.median(place.l2a["B11"].astype(float) - place.l1c["B11"])
        assert abs(gap) < 300


def test_l2a_is_l1c_less_the_path_radiance():
    ground = np.array([[100, 2500]], float)
    seen = {band: np.rint(TRANSMITTANCE[band] * ground + PATH_DN[band]).astype(np.uint16) for band in PATH_DN}
    for values in as_l2a({band: seen[band] for band in ("B02", "B08", "B11")}).values():
        np.testing.assert_allclose(values, ground, atol=1)


def test_the_kept_tenth_is_the_agreed_one():
    rows = validation_rows()
    assert len(set(rows.tolist())) == 399
    np.testing.assert_array_equal(rows, np.random.default_rng(16).permutation(3969)[:399])


def test_codes_of_the_cover_patches_become_dn():
    np.testing.assert_allclose(decoded(np.array([0, 255], np.uint8)), [0, 16_900])


def test_bands_of_20_m_keep_their_places_on_pixels_of_10_m():
    rows, cols = np.mgrid[:16, :16].astype(np.float32)
    fine = twice_as_fine(np.stack([1000 + 40 * rows, 1000 + 40 * cols]))
    at = (np.arange(32) + 0.5) / 2 - 0.5  # of fine pixels, in coarse ones
    inner = slice(6, -6)
    np.testing.assert_allclose(fine[0, inner, 3], 1000 + 40 * at[inner], atol=0.5)
    np.testing.assert_allclose(fine[1, 3, inner], 1000 + 40 * at[inner], atol=0.5)


def dynamic_worlds_own(data_dir):
    """A model that says of orihuela what Dynamic World says, and is sure of it."""
    with rasterio.open(data_dir / "cover" / "orihuela_dw.tif") as file:
        ids = file.read(1)
    cover = (ids == np.arange(9)[:, None, None]).astype(np.float32)
    landuse = np.zeros((14, *ids.shape), np.float32)
    for index, uses in enumerate(USES_OF_COVERS):
        landuse[LAND_USE_NAMES.index(uses[0])] = cover[index]
    return lambda dn, level: Scores(landuse=landuse, cover=cover)


def test_dynamic_worlds_own_map_agrees_with_itself_and_finds_the_water_that_the_notes_say(data_dir):
    findings = Findings()
    orihuela(data_dir, dynamic_worlds_own(data_dir), "rgb", findings)
    assert findings.rows["orihuela as Dynamic World: all"] == 1
    assert findings.rows["orihuela water: IoU of cover"] == pytest.approx(0.63, abs=0.005)
    assert findings.rows["orihuela water: IoU of use"] == findings.rows["orihuela water: IoU of cover"]
    assert ece(findings.calibration["orihuela as Dynamic World"]) == 0


def test_a_finished_map_scores_as_the_model_that_made_it(data_dir, tmp_path, capsys):
    scores = dynamic_worlds_own(data_dir)({}, "L1C")
    with rasterio.open(data_dir / "cover" / "orihuela_dw.tif") as file:
        profile = file.profile
    for name, values, names in (
        ("landuse.tif", scores.landuse, LAND_USE_NAMES),
        ("cover.tif", scores.cover, LAND_COVER_NAMES),
    ):
        with rasterio.open(tmp_path / name, "w", **profile) as file:
            file.write(values.argmax(0).astype(np.uint8), 1)
            file.update_tags(classes=json.dumps(names))
    score_folder(tmp_path, data_dir)
    told = capsys.readouterr().out
    tables = {part.splitlines()[0]: part for part in told.strip().split("\n\n")}
    assert set(tables) == {
        "orihuela water mask, landuse.tif",
        "orihuela water mask, cover.tif",
        "Dynamic World's orihuela_dw.tif, cover.tif",
    }
    for raster in ("landuse.tif", "cover.tif"):
        (water,) = (row for row in tables[f"orihuela water mask, {raster}"].splitlines() if row[:2] == "1 ")
        assert float(water.split()[4]) == pytest.approx(0.629, abs=0.001)
    whole = tables["Dynamic World's orihuela_dw.tif, cover.tif"].splitlines()
    assert whole[-2].split() == ["all", "196392", "1.000"]


def test_the_reliability_of_each_column_is_drawn_and_printed(tmp_path, monkeypatch, capsys):
    findings = Findings(
        rows={"points": 0.5},
        calibration={
            "points": judged(np.array([0.95, 0.95, 0.3]), np.array([True, False, True])),
            "mosaics": judged(np.array([0.95]), np.array([True])),
        },
    )
    monkeypatch.setattr(cover, "pixel_scorer", lambda *model: None)
    monkeypatch.setattr(cover, "run", lambda *asked: {"rgb": findings, "DW": Findings(rows={"points": 0.4})})
    monkeypatch.setenv("LANDUSE_TEST_DATA", str(tmp_path))
    cover.score_models(["--model", "any", "--reliability", str(tmp_path / "reliability.png")])
    assert [path.name for path in tmp_path.iterdir()] == ["reliability-rgb.png"]
    shown = capsys.readouterr().out.splitlines()
    (last,) = (line.split() for line in shown if line.startswith("0.93 to 1.00"))
    # Shares and what is right: two of three points, half right; all of the mosaics; both counted alike.
    assert last[3:] == ["66.7%,", "right", "50.0%", "100.0%,", "right", "100.0%", "83.3%,", "right", "80.0%"]
