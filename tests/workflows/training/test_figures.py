"""Figures are looked at: what is written where, in which shade, and that nothing else is touched.

Oracles: the text and the marks that matplotlib itself holds when it draws, recounted by hand; the
pixels of the PNG as pillow reads them; a subprocess for what is imported.
"""

import itertools
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from landuse.classes import EUROSAT_NAMES
from landuse.cli import app
from landuse.errors import OutputError, UsageError
from landuse.model.checkpoint import load_contract, model_path
from landuse.model.training.evaluate import Scores, score
from landuse.model.training.pixels.measure import Reliability
from landuse.workflows.training import figures
from landuse.workflows.training.figures import draw_confusion, draw_curves, draw_reliability
from landuse.workflows.training.logs import read_metrics

CLASSES = ("Brick", "Grass", "Water")
HOSTILE = ("$x^{2$ \\frac{", "a\nb\x1b[31m\ud800漢", "n" * 300)


def scores_of(confusion):
    """Scores of the answers that give this confusion matrix."""
    count = len(confusion)
    pairs = [(t, p) for t, row in enumerate(confusion) for p, n in enumerate(row) for _ in range(n)]
    labels = torch.tensor([true for true, _ in pairs])
    answers = torch.tensor([answer for _, answer in pairs])
    probabilities = torch.nn.functional.one_hot(answers, count).float()
    return score(probabilities, labels, tuple(f"class {i}" for i in range(count)))


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is saved, with the canvas it was drawn on."""
    seen = []
    save = figures.save_figure

    def keep(figure, path):
        save(figure, path)
        seen.append(figure)

    monkeypatch.setattr(figures, "save_figure", keep)
    return seen


def texts_of(axes):
    """Text in data coordinates, by cell."""
    cells = {}
    for text in axes.texts:
        x, y = text.get_position()
        cells.setdefault((round(y), round(x)), []).append(text.get_text())
    return cells


def line(epoch, **changed):
    values = {
        "epoch": epoch,
        "loss": 2.0 / epoch,
        "val_accuracy": 1 - 0.4 / epoch,
        "val_accuracy_l2a": 1 - 0.6 / epoch,
        "fusion": [0.5, 0.4],
        "patches_per_s": 100.0,
        "seconds": 3.5 * epoch,
    }
    return json.dumps(values | changed)


def test_every_cell_says_count_and_share_of_its_true_class(tmp_path, drawn):
    confusion = ((30, 10, 0), (1, 99, 0), (0, 0, 0))
    draw_confusion(scores_of(confusion), CLASSES, tmp_path / "matrix.png")
    matrix, _bar = drawn[0].axes
    assert texts_of(matrix) == {
        (0, 0): ["30", "75.0 %"],
        (0, 1): ["10", "25.0 %"],
        (0, 2): ["0"],
        (1, 0): ["1", "1.0 %"],
        (1, 1): ["99", "99.0 %"],
        (1, 2): ["0"],
        (2, 0): ["0"],
        (2, 1): ["0"],
        (2, 2): ["0"],
    }
    # Rows are true, with their patches, columns predicted.
    assert matrix.get_ylabel() == "true class (patches)"
    assert matrix.get_xlabel() == "predicted class"
    assert [t.get_text() for t in matrix.get_yticklabels()] == ["Brick  (40)", "Grass  (100)", "Water  (0)"]
    assert [t.get_text() for t in matrix.get_xticklabels()] == list(CLASSES)
    assert matrix.get_ylim()[0] > matrix.get_ylim()[1]  # the first class on top
    np.testing.assert_allclose(matrix.images[0].get_array(), [[0.75, 0.25, 0], [0.01, 0.99, 0], [0, 0, 0]])


def test_the_title_says_accuracy_interval_kappa_and_n(tmp_path, drawn):
    scores = Scores(
        n=4050,
        accuracy=0.97163,
        kappa=0.96843,
        macro_f1=0.9,
        per_class={},
        ece=0.01,
        confidence_gap=None,
        confusion=((1, 0), (0, 1)),
        interval=(0.96642, 0.97654),
    )
    draw_confusion(scores, ("a", "b"), tmp_path / "matrix.png")
    assert drawn[0].get_suptitle() == (
        "accuracy 97.16 % (95 % interval 96.64 to 97.65),  kappa 0.9684,  n = 4050"
    )


def contrast(first, second):
    """WCAG 2.1 contrast ratio of two sRGB colours of 0..1."""

    def luminance(color):
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_at_every_shade_and_the_shades_grow_darker(tmp_path, drawn):
    """Oracle: WCAG 2.1; 3 : 1 for the muted zeros and bold counts, 4.5 : 1 for the rest."""
    from matplotlib.colors import to_rgb

    # Every share from 0 to 100 % in steps of 5 somewhere.
    confusion = np.zeros((22, 22), int)
    for row in range(21):
        confusion[row, [row, 21]] = 5 * row, 100 - 5 * row
    draw_confusion(scores_of(confusion.tolist()), tuple(f"c{i}" for i in range(22)), tmp_path / "matrix.png")
    matrix = drawn[0].axes[0]
    image = matrix.images[0]
    assert len({text.get_text() for text in matrix.texts if "%" in text.get_text()}) == 20
    for text in matrix.texts:
        x, y = text.get_position()
        share = image.get_array()[round(y), round(x)]
        ratio = contrast(to_rgb(text.get_color()), image.cmap(image.norm(share)))
        assert ratio >= (3 if text.get_text() == "0" else 4.5), (text.get_text(), share, ratio)
    greys = [
        np.dot(image.cmap(image.norm(share))[:3], (0.299, 0.587, 0.114)) for share in np.linspace(0, 1, 50)
    ]
    assert (np.diff(greys) < 0).all()  # one order of lightness, whatever the colour vision


def boxes(figure, texts):
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts]


def test_ten_classes_are_readable_nothing_overlaps_nothing_is_cut(tmp_path, drawn):
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 30, (10, 10)) + np.diag(rng.integers(1000, 3000, 10))
    draw_confusion(scores_of(confusion.tolist()), EUROSAT_NAMES, tmp_path / "matrix.png")
    figure = drawn[0]
    matrix = figure.axes[0]
    cell_px = matrix.transData.transform((1, 0))[0] - matrix.transData.transform((0, 0))[0]
    assert all(box.width < cell_px for box in boxes(figure, matrix.texts))
    rows = boxes(figure, matrix.get_yticklabels())
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(rows))
    assert min(text.get_fontsize() for text in matrix.texts) >= 7
    with Image.open(tmp_path / "matrix.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 1000
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert edges.min() == 255  # a margin all around: no text runs out of the picture


def test_hostile_names_are_drawn_as_they_are_short_and_on_one_line(tmp_path, drawn):
    """Where a formula were parsed, matplotlib would raise; where a glyph were missing, warn."""
    draw_confusion(scores_of(((5, 1, 0), (0, 5, 0), (0, 2, 5))), HOSTILE, tmp_path / "matrix.png")
    labels = drawn[0].axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["$x^{2$ \\frac{", "a?b?[31m??", "n" * 27 + "…"]
    assert not any(label.get_parse_math() for label in labels)
    assert not any(label.get_parse_math() for label in drawn[0].axes[0].get_yticklabels())


def test_many_classes_are_shades_without_numbers_and_a_picture_of_bounded_size(tmp_path, drawn):
    confusion = np.eye(90, dtype=int)
    draw_confusion(scores_of(confusion.tolist()), tuple(map(str, range(90))), tmp_path / "matrix.png")
    assert not list(drawn[0].axes[0].texts)
    with Image.open(tmp_path / "matrix.png") as picture:
        assert max(picture.size) < 5000


def test_equal_scores_make_equal_files(tmp_path):
    for name in ("a.png", "b.png"):
        draw_confusion(scores_of(((3, 1), (0, 4))), ("x", "y"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_matrix_that_does_not_fit_the_classes_is_refused(tmp_path):
    for classes in (CLASSES[:2], (*CLASSES, "Sky"), ()):
        with pytest.raises(ValueError, match=f"does not fit {len(classes)} classes"):
            draw_confusion(scores_of(((1, 0, 0), (0, 1, 0), (0, 0, 1))), classes, tmp_path / "matrix.png")
    assert list(tmp_path.iterdir()) == []


def test_curves_show_every_measurement_and_only_those(tmp_path, drawn):
    """Epochs between measurements are missing from the file; the marks say which were measured."""
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(line(epoch) for epoch in (1, 5, 10)) + "\n")
    draw_curves(file, tmp_path / "curves.png")
    loss, accuracy, fusion = drawn[0].axes
    assert [curve.get_xydata().tolist() for curve in loss.lines] == [[[1, 2.0], [5, 0.4], [10, 0.2]]]
    plain, l2a = accuracy.lines
    np.testing.assert_allclose(plain.get_xydata(), [[1, 0.6], [5, 0.92], [10, 0.96]])
    np.testing.assert_allclose(l2a.get_xydata(), [[1, 0.4], [5, 0.88], [10, 0.94]])
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "as it is: 96.00 %",
        "under a simulated L2A atmosphere: 94.00 %",
    ]
    assert [curve.get_ydata().tolist() for curve in fusion.lines] == [[0.5] * 3, [0.4] * 3]
    assert all(curve.get_marker() == "o" for axes in drawn[0].axes for curve in axes.lines)
    # Two lines of one panel differ in more than hue.
    assert plain.get_linestyle() != l2a.get_linestyle()


def test_the_accuracy_axis_encloses_the_curves_with_ticks_that_leave_room(tmp_path, drawn):
    cases = {
        "low": (0.1, 0.97, (0.1, 0.97)),
        "narrow": (0.9712, 0.9715, (0.9712, 0.9715)),
        "whole": (0.0, 1.0, (0.0005, 0.9995)),
    }
    for name, (first, last, (low, high)) in cases.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(
            "\n".join(
                line(epoch, val_accuracy=value, val_accuracy_l2a=value)
                for epoch, value in ((1, first), (2, last))
            )
        )
        draw_curves(file, tmp_path / f"{name}.png")
        axes = drawn[-1].axes[1]
        bottom, top = axes.get_ylim()
        assert bottom <= low
        assert top >= high
        shown = axes.lines[0].get_ydata()
        assert bottom <= min(shown)
        assert max(shown) <= top
        ticks = sorted(boxes(drawn[-1], axes.get_yticklabels()), key=lambda box: box.y0)
        assert len(ticks) >= 2
        assert all(lower.y1 < upper.y0 for lower, upper in itertools.pairwise(ticks)), name


def test_a_network_without_attention_has_no_panel_for_it(tmp_path, drawn):
    (tmp_path / "metrics.jsonl").write_text(line(1, fusion=[]))
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert len(drawn[0].axes) == 2


def test_what_a_killed_run_leaves_does_not_hide_the_rest(tmp_path, caplog):
    """Half a line, one that the resumed run wrote on its end, an epoch measured twice, other trash."""
    file = tmp_path / "metrics.jsonl"
    torn = line(2)[:30]
    trash = ["", "[1]", '{"epoch": 3}', line(4, fusion="half"), line(5, val_accuracy=1.5), "[" * 100_000]
    file.write_text(
        "\n".join([line(1), torn + line(2), line(2, loss=9.0), line(2, loss=7.0), *trash, line(6)])
    )
    with caplog.at_level(logging.WARNING):
        metrics = read_metrics(file)
    assert [(entry.epoch, entry.loss) for entry in metrics] == [(1, 2.0), (2, 7.0), (6, pytest.approx(1 / 3))]
    assert [record.args[1] for record in caplog.records] == [2, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"no json\n", b"\xff\xfe"])
def test_a_file_without_a_measurement_is_refused(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=r"metrics\.jsonl of a training run"):
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    with pytest.raises(UsageError, match="cannot be read"):
        draw_curves(tmp_path / "missing.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_figures_are_whole_or_not_there(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fails(self, target, **_options):
        target.write_bytes(b"half a picture")
        raise OSError("disk full")

    (tmp_path / "matrix.png").write_bytes(b"before")
    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OutputError, match="disk full"):
        draw_confusion(scores_of(((1, 0), (0, 1))), ("x", "y"), tmp_path / "matrix.png")
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.png"]
    assert (tmp_path / "matrix.png").read_bytes() == b"before"


def test_another_kind_of_file_is_refused(tmp_path):
    for name in ("matrix.jpg", "matrix", "png"):
        with pytest.raises(UsageError, match=r"End the name in \.png"):
            draw_confusion(scores_of(((1, 0), (0, 1))), ("x", "y"), tmp_path / name)


def test_matplotlib_is_loaded_to_draw_and_pyplot_never(tmp_path):
    code = f"""
import sys
from pathlib import Path
from landuse.workflows.training import figures
assert "matplotlib" not in sys.modules
Path({str(tmp_path)!r}, "m.jsonl").write_text({line(1)!r})
figures.draw_curves(Path({str(tmp_path)!r}, "m.jsonl"), Path({str(tmp_path)!r}, "m.png"))
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
    assert (tmp_path / "m.png").is_file()


def test_evaluate_draws_the_matrix_that_it_prints(tmp_path, capsys, drawn):
    """Classes that do not occur keep their rows: the names come from the model, not from the scores."""
    classes = load_contract(model_path("balanced-fast-rgb")).classes
    rng = np.random.default_rng(0)
    for name in classes:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(20, 60, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{name}_{number}.jpg")
    listed = tmp_path / "list.txt"
    listed.write_text("Forest/Forest_0.jpg\nForest/Forest_1.jpg\nSeaLake/SeaLake_0.jpg\n")
    target = tmp_path / "new" / "matrix.png"
    command = ["evaluate", "--data", str(tmp_path / "data"), "--split", str(listed), "--device", "cpu"]

    def run(*extra):
        with pytest.raises(SystemExit) as ended:
            app([*command, *extra], prog_name="landuse")
        return ended.value.code or 0, capsys.readouterr()

    code, shown = run("--confusion", str(target), "--json")
    assert code == 0
    printed = json.loads(shown.out)
    assert target.is_file()
    matrix = drawn[0].axes[0]
    assert [label.get_text() for label in matrix.get_xticklabels()] == list(classes)
    counts = {cell: int(texts[0]) for cell, texts in texts_of(matrix).items()}
    assert [[counts[row, col] for col in range(10)] for row in range(10)] == printed["confusion"]
    assert sum(counts.values()) == 3

    code, shown = run("--confusion", str(target))
    assert code == 0
    assert f"wrote   {target}" in shown.out
    code, shown = run("--confusion", str(tmp_path / "matrix.pdf"))
    assert code == 2
    assert "End the name in .png." in shown.err
    assert len(drawn) == 2


def test_evaluate_refuses_a_bad_name_before_it_scores(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        app(["evaluate", "--data", str(tmp_path / "none"), "--confusion", "matrix.svg"], prog_name="landuse")
    assert ended.value.code == 2
    assert "'matrix.svg'" in capsys.readouterr().err


def test_reliability_is_a_line_a_set_of_what_is_right_in_each_bin(drawn, tmp_path):
    confidence = torch.tensor([0.96, 0.94, 0.9, 0.3])
    told = Reliability.of(confidence, torch.tensor([True, False, False, True]), torch.tensor([1.0, 3, 2, 2]))
    draw_reliability(dict.fromkeys(HOSTILE, told + told), tmp_path / "reliability.png")
    with Image.open(tmp_path / "reliability.png") as image:
        assert image.format == "PNG"
    above, below = drawn[0].axes
    diagonal, *lines = above.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    assert len(lines) == len(HOSTILE)
    for line in lines:  # by hand: 0.96 and 0.94 are in the last bin, 0.9 is in the one before it
        np.testing.assert_allclose(line.get_xydata(), [[0.3, 1], [0.9, 0], [0.945, 0.25]], atol=1e-6)
    np.testing.assert_allclose(below.lines[0].get_ydata(), [1 / 4, 1 / 4, 1 / 2])
    first, *_ = (text.get_text() for text in above.get_legend().get_texts())
    assert told.ece == pytest.approx((2 * 0.7 + 2 * 0.9 + abs(1 - 0.96 - 3 * 0.94)) / 8)
    assert first == f"$x^{{2$ \\frac{{: 37.5 % right, ECE {told.ece * 100:.1f} %"
