"""Does `landuse suggest` save labels? ``suggest_and_learn.py OUT [--terramesh FOLDER]``.

Plays the loop suggest -> label -> learn on land whose truth is known, and compares it with labels at random.
What learns is a logistic regression on what the model of pixels says of a pixel (roots of its probabilities)
and on its bands; its map is what the next round is suggested from, as a model taught by the labels would make
it. Truth is the demo's simulated land and, with ``--terramesh``, the land-cover ids of five real places of
TerraMesh (folders ``S2L1C``, ``S2L2A`` and ``LULC``), side by side. Labels come from every other square of
320 m, and scores from the squares between them.

Prints mean and standard deviation over the seeds of the mean recall of the classes and of the overall
accuracy; writes ``curves.json`` and ``curves.png``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landuse.model import MAP_MODEL
from landuse.model.predict_pixels import PixelPredictor
from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS
from landuse.pipeline.maps.suggesting import (
    BestOfSquares,
    choose_by_cover,
    choose_by_strata,
    doubt_scores,
)
from landuse.sentinel2 import DN_PER_REFLECTANCE
from landuse.workflows.demo.landscape import simulate
from landuse.workflows.demo.spectra import BANDS_10M, BANDS_20M

BANDS = ("B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
DISTANCE_PX = 6
SQUARE_PX = 32
TESTED = 20_000
CLEAR = (4, 5, 6)
"""Of the scene classification: vegetation, bare ground, water."""

STRATEGIES = {
    "random": "cells at random, each as likely as any other",
    "by class": "at random, as many in each mapped class",
    "doubt": "suggest --by doubt, every round",
    "coverage": "suggest --by coverage, every round",
    "coverage, then doubt": "suggest --by coverage in the first round, --by doubt from then on",
}


@dataclass(frozen=True, kw_only=True)
class Land:
    """Imagery with its truth."""

    shares: NDArray[np.float32]
    """(class, row, col), what the model says."""
    inputs: NDArray[np.float32]
    """(pixel, feature), what the regression sees."""
    truth: NDArray[np.uint8]
    """(row, col), ids."""
    known: NDArray[np.bool_]
    """(row, col), where there is a truth and no cloud."""


def land_of(
    dn: NDArray[np.uint16], shares: NDArray[np.float32], truth: NDArray[np.uint8], known: object
) -> Land:
    """The features of each pixel, brought to mean 0 and spread 1."""
    columns = np.concatenate([np.sqrt(shares), np.log(dn + np.float32(100))]).reshape(
        len(shares) + len(dn), -1
    )
    inputs = (columns - columns.mean(1, keepdims=True)) / (columns.std(1, keepdims=True) + 1e-6)
    return Land(shares=shares, inputs=inputs.T.astype(np.float32), truth=truth, known=np.asarray(known))


def simulated(predictor: PixelPredictor, seed: int, side: int | None) -> Land:
    """The first date of a simulated landscape, or of its corner of so many pixels."""
    landscape = simulate(seed, "summer")
    date = landscape.dates[0]
    reflectance = dict(zip(BANDS_10M, date.reflectance_10m, strict=True))
    reflectance |= {
        band: values.repeat(2, 0).repeat(2, 1)
        for band, values in zip(BANDS_20M, date.reflectance_20m, strict=True)
    }
    dn = np.stack([np.rint(reflectance[band] * DN_PER_REFLECTANCE).clip(1, 65_535) for band in BANDS])
    dn = np.ascontiguousarray(dn[:, :side, :side]).astype(np.uint16)
    clear = np.isin(date.scl, CLEAR).repeat(2, 0).repeat(2, 1)[:side, :side]
    truth = landscape.landuse[:side, :side]
    shares = predictor.pixel_scores(dn, BANDS, "L2A").landuse
    return land_of(dn, shares, truth, clear & (truth != NODATA_ID))


def terramesh(predictor: PixelPredictor, folder: Path) -> Land:
    """The places side by side."""
    own = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    images, scores, truths = [], [], []
    for path in sorted((folder / "LULC").glob("*.tif")):
        read = []
        for kind in ("LULC", "S2L1C", "S2L2A"):
            with rasterio.open(folder / kind / path.name) as file:
                read.append(file.read())
        truth, l1c, l2a = read[0][0], read[1].astype(int), read[2].astype(int)
        # Over clear ground B10 of L1C is nearly black; in the short-wave infrared the levels are about equal.
        first = 1000 if l1c[10].min() >= 500 else 0
        above = np.mean([np.median(l2a[10 + i] - l1c[11 + i] + first) for i in (0, 1)])
        l2a -= 1000 if above > 500 else 0
        dn = np.stack([l2a[own.index(band)] for band in BANDS]).clip(1, 65_535).astype(np.uint16)
        scores.append(predictor.pixel_scores(dn, BANDS, "L2A").landuse)
        images.append(dn)
        truths.append(truth)
    truth = np.concatenate(truths, 1)
    return land_of(np.concatenate(images, 2), np.concatenate(scores, 2), truth, truth > 0)


def learned(inputs: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> torch.nn.Linear:
    """A logistic regression of several classes, its weights kept small (ridge)."""
    torch.manual_seed(0)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    layer = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    descent = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        descent.zero_grad()
        fit = torch.nn.functional.cross_entropy(layer(x), y, reduction="sum")
        value = fit + 1.5 * (layer.weight**2).sum()
        value.backward()
        return value

    descent.step(loss)
    return layer


def suggested(
    strategy: str,
    shares: NDArray[np.float32],
    free: NDArray[np.bool_],
    places: NDArray[np.int64],
    count: int,
    seed: int,
) -> NDArray[np.int64]:
    """(point, 2), what to label next by what the map of this round says."""
    rng = np.random.default_rng(seed)
    if strategy == "random":
        flat = rng.choice(np.flatnonzero(free), count, replace=False)
        return np.stack(np.divmod(flat, free.shape[1]), 1)
    if strategy == "coverage, then doubt":
        strategy = "doubt" if len(places) else "coverage"
    steps = np.rint(np.sort(shares, 0)[-2:] * SHARE_STEPS).astype(np.uint8)
    classes = shares.argmax(0).astype(np.uint8)
    worth = (
        doubt_scores(classes, steps[1], steps[0], None) if strategy == "doubt" else np.zeros(free.shape, int)
    )
    best = BestOfSquares(free.shape, DISTANCE_PX, seed)
    best.add(0, np.where(free, worth, -1))
    cells, scores = best.cells()
    if strategy == "coverage":
        roots = np.sqrt(shares)
        features, known = roots[:, cells[:, 0], cells[:, 1]].T, roots[:, places[:, 0], places[:, 1]].T
        return cells[choose_by_cover(cells, features, known, count, DISTANCE_PX)]
    if strategy == "by class":
        scores = rng.permutation(len(cells))
    return cells[choose_by_strata(cells, scores, classes[cells[:, 0], cells[:, 1]], count, DISTANCE_PX)]


def loop(land: Land, strategy: str, budgets: list[int], seed: int) -> list[tuple[float, float]]:
    """Mean recall and overall accuracy after each round."""
    rows, cols = np.mgrid[: land.truth.shape[0], : land.truth.shape[1]]
    is_pool = (rows // SQUARE_PX + cols // SQUARE_PX) % 2 == 0
    pool, tested = land.known & is_pool, np.flatnonzero(land.known & ~is_pool)
    tested = np.random.default_rng(0).choice(tested, min(TESTED, len(tested)), replace=False)
    ids, truth = np.unique(land.truth[land.known], return_inverse=True)[0], land.truth.ravel()
    places, shares, found = np.zeros((0, 2), np.int64), land.shares, []
    for number, budget in enumerate(budgets):
        free = pool.copy()
        for row, col in places:
            near = (rows[max(row - DISTANCE_PX, 0) : row + DISTANCE_PX + 1, :1] - row) ** 2 + (
                cols[:1, max(col - DISTANCE_PX, 0) : col + DISTANCE_PX + 1] - col
            ) ** 2 < DISTANCE_PX**2
            part = free[
                max(row - DISTANCE_PX, 0) : row + DISTANCE_PX + 1,
                max(col - DISTANCE_PX, 0) : col + DISTANCE_PX + 1,
            ]
            part &= ~near
        new = suggested(strategy, shares, free, places, budget - len(places), 1000 * seed + number)
        places = np.concatenate([places, new])
        flat = places[:, 0] * land.truth.shape[1] + places[:, 1]
        layer = learned(land.inputs[flat], np.searchsorted(ids, truth[flat]), len(ids))
        with torch.inference_mode():
            probabilities = layer(torch.from_numpy(land.inputs)).softmax(1).numpy().T
        shares = probabilities.reshape(len(ids), *land.truth.shape)
        said = ids[probabilities[:, tested].argmax(0)]
        right = said == truth[tested]
        recalls = [right[truth[tested] == one].mean() for one in np.unique(truth[tested])]
        found.append((float(np.mean(recalls)), float(right.mean())))
    return found


def draw(
    curves: dict[str, dict[str, list[list[tuple[float, float]]]]], budgets: list[int], path: Path
) -> None:
    """Mean and standard deviation over the seeds, by number of labels."""
    figure = Figure(figsize=(5 * len(curves), 7.2), layout="constrained")
    panels = figure.subplots(2, len(curves), squeeze=False, sharex=True)
    for column, (name, by_strategy) in enumerate(curves.items()):
        for row, measure in enumerate(("mean recall of the classes", "overall accuracy")):
            panel = panels[row, column]
            for strategy, runs in by_strategy.items():
                values = np.array(runs)[:, :, row]
                mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0 * values[0]
                (line,) = panel.plot(budgets, mean, marker="o", ms=3, label=strategy)
                panel.fill_between(budgets, mean - spread, mean + spread, alpha=0.12, color=line.get_color())
            panel.set(xscale="log", ylabel=measure, title=name if row == 0 else "")
            panel.set_xticks(budgets, map(str, budgets))
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    panels[1, 0].set_xlabel("labels")
    panels[1, 0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Play, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--terramesh", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budgets", default="20,40,80,160,320", help="labels after each round")
    parser.add_argument("--corner-px", type=int, help="a corner of the simulated land, to try this out")
    given = parser.parse_args()
    budgets = [int(part) for part in given.budgets.split(",")]
    given.out.mkdir(parents=True, exist_ok=True)
    predictor = PixelPredictor.load(MAP_MODEL, "cpu")
    lands = {"simulated": simulated(predictor, 7, given.corner_px)}
    if given.terramesh is not None:
        lands["TerraMesh"] = terramesh(predictor, given.terramesh)
    curves: dict[str, dict[str, list[list[tuple[float, float]]]]] = {}
    for name, land in lands.items():
        curves[name] = {
            strategy: [loop(land, strategy, budgets, seed) for seed in range(given.seeds)]
            for strategy in STRATEGIES
        }
        for row, measure in enumerate(("mean recall of the classes", "overall accuracy")):
            print(f"{name}, {measure}: mean (standard deviation) over {given.seeds} seeds, by labels")
            print(f"{'':22}" + "".join(f"{budget:>13}" for budget in budgets))
            for strategy, runs in curves[name].items():
                values = np.array(runs)[:, :, row]
                told = zip(values.mean(0), values.std(0, ddof=1 if len(values) > 1 else 0), strict=True)
                print(f"{strategy:22}" + "".join(f"  {mean:.3f} ({spread:.3f})" for mean, spread in told))
    (given.out / "curves.json").write_text(json.dumps({"budgets": budgets, "curves": curves}))
    draw(curves, budgets, given.out / "curves.png")


if __name__ == "__main__":
    main()
