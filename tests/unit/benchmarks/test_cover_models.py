"""How the cover benchmark asks models: the symmetries, and the bands that it feeds."""

import numpy as np

from tests.benchmarks.cover_models import symmetric
from tests.benchmarks.cover_references import chosen, classes_of, has_set
from tests.benchmarks.cover_scores import NONE_ID, Scores


def scores_of(values: np.ndarray) -> Scores:
    return Scores(landuse=np.stack([values, 1 - values]), cover=np.stack([1 - values, values]))


def test_a_model_of_single_pixels_says_the_same_averaged_over_symmetries():
    dn = np.random.default_rng(0).integers(0, 1000, (5, 8)).astype(np.uint16)
    plain = lambda bands, level: scores_of(bands["B04"].astype(np.float32) / 1000)  # noqa: E731  # a scorer
    found = symmetric(plain)({"B04": dn}, "L1C")
    np.testing.assert_allclose(found.landuse, plain({"B04": dn}, "L1C").landuse, atol=1e-6)
    np.testing.assert_allclose(found.cover, plain({"B04": dn}, "L1C").cover, atol=1e-6)


def test_what_depends_on_the_corner_is_averaged_over_all_eight_views():
    asked = []

    def corner(bands, level):
        asked.append(bands["B04"].copy())
        values = np.zeros(bands["B04"].shape, np.float32)
        values[0, 1] = 1  # whatever lies there
        return scores_of(values)

    dn = np.arange(9).reshape(3, 3).astype(np.uint16)
    found = symmetric(corner)({"B04": dn}, "L2A")
    assert len({view.tobytes() for view in asked}) == 8
    expected = np.array([[0, 2, 0], [2, 0, 2], [0, 2, 0]]) / 8
    np.testing.assert_allclose(found.landuse[0], expected)


def test_a_reference_is_fed_the_bands_of_the_set_that_it_has():
    dn = {band: np.zeros((2, 2), np.uint16) for band in ("B02", "B03", "B04", "B08")}
    assert set(chosen(dn, "rgb")) == {"B02", "B03", "B04"}
    assert set(chosen(dn, "all")) == set(dn)
    assert [has_set(dn, name) for name in ("rgb", "rgb-nir", "all")] == [True, True, False]


def test_pixels_that_no_model_spoke_of_have_no_class():
    probabilities = np.zeros((3, 1, 2), np.float32)
    probabilities[:, 0, 0] = 0.2, 0.7, 0.1
    ids, confidence = classes_of(probabilities)
    assert ids.tolist() == [[1, NONE_ID]]
    assert confidence[0, 0] == np.float32(0.7)
