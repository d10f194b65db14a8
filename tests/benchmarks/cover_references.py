"""The visible references of the cover benchmark: each has its pixels scored and judges what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

from landuse.classes import LAND_COVER_NAMES, LAND_USE_NAMES, USES_OF_COVERS
from landuse.model.bands import EUROSAT_TIFF, NO_B10, RGB
from landuse.model.normalize import PATH_DN, TRANSMITTANCE
from landuse.model.training.datasets import PatchSource, load_patches, read_split
from landuse.sentinel2 import BANDS, STORED_OFFSET_DN
from tests.benchmarks.cover_maps import Legend
from tests.benchmarks.cover_models import Dn, Scorer
from tests.benchmarks.cover_mosaics import KINDS, mosaics
from tests.benchmarks.cover_scores import (
    NONE_ID,
    Judged,
    Scores,
    cover_ids,
    ece,
    iou,
    judged,
    near_border,
    pooled,
    recalls,
    share,
    use_ids,
    wrong_confidence,
)

BAND_SETS: dict[str, tuple[str, ...]] = {"rgb": RGB, "rgb-nir": (*RGB, "B08"), "all": BANDS}
"""What is fed of what a reference has."""

LEIPZIG_USES = {
    "urban": use_ids("Residential", "Industrial", "Highway"),
    "forest": use_ids("Forest"),
    "pasture": use_ids("Pasture", "HerbaceousVegetation"),
    "water": use_ids("River", "SeaLake"),
}
LEIPZIG_COVERS = {
    "urban": cover_ids("Built"),
    "forest": cover_ids("Trees"),
    "pasture": cover_ids("Grass"),
    "water": cover_ids("Water"),
}

BORDER_PX = 2
LINEAR = ("River", "Highway")
"""Classes of whose patches only a part is the class."""
COVER_OF_USE = np.full(NONE_ID + 1, NONE_ID, np.uint8)
"""(256,), id of the cover of each land use."""
for _cover, _uses in enumerate(USES_OF_COVERS):
    COVER_OF_USE[use_ids(*_uses)] = _cover
MOSAICS, MOSAIC_PX, MOSAIC_SEED = 16, 256, 16

COVER_PATCHES, VALIDATION_PATCHES, SPLIT_SEED = 3969, 399, 16

TERRAMESH_L2A = NO_B10
"""Band order of TerraMesh's L2A files; its L1C files have B10 too, in order of wavelength."""
TERRAMESH_LULC = {1: "Water", 2: "Trees", 4: "Crops", 5: "Built"}
"""What the ids of its LULC mean, as far as they are scored; see ``terramesh_evidence``."""


@dataclass(kw_only=True)
class Findings:
    """What one model with one band set reached."""

    rows: dict[str, float | None] = field(default_factory=dict)
    """Figure by name."""
    calibration: dict[str, Judged] = field(default_factory=dict)
    """By reference, what its calibration is worked out from."""

    def put(self, name: str, value: float | None) -> None:
        """Add a figure."""
        self.rows[name] = value


def chosen(dn: Dn, band_set: str) -> Dn:
    """Those bands of ``dn`` that belong to a set."""
    return {band: values for band, values in dn.items() if band in BAND_SETS[band_set]}


def has_set(dn: Dn, band_set: str) -> bool:
    """Whether ``dn`` has all bands of a set; of ``all`` any that is not in the others."""
    extra = {"rgb": ("B04",), "rgb-nir": ("B08",), "all": tuple(set(BANDS) - {*RGB, "B08"})}[band_set]
    return any(band in dn for band in extra)


def classes_of(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(H, W) most probable ids, ``NONE_ID`` where all are 0, and their probabilities."""
    confidence = probabilities.max(0)
    ids = probabilities.argmax(0).astype(np.uint8)
    ids[confidence == 0] = NONE_ID
    return ids, confidence


def read_bands(path: Path, names: tuple[str, ...] | None = None) -> tuple[Dn, Affine, str]:
    """DN by band of a raster of stored DN without offset, with its transform and CRS.

    Args:
        path: the raster.
        names: of its bands; None: its descriptions.
    """
    with rasterio.open(path) as file:
        given = names or tuple((text or "").upper() for text in file.descriptions)
        values = file.read()
        dn = {name: _whole(band) for name, band in zip(given, values, strict=True) if name in BANDS}
        return dn, file.transform, file.crs.to_string()


def _whole(values: NDArray) -> NDArray[np.uint16]:
    return np.rint(values).clip(1, 65_535).astype(np.uint16)


def as_l2a(dn: Dn) -> Dn:
    """L1C brought to L2A by taking the path radiance of a clear scene away."""
    return {
        band: _whole((values.astype(np.float64) - PATH_DN[band]) / TRANSMITTANCE[band])
        for band, values in dn.items()
    }


def leipzig(data: Path, scorer: Scorer, band_set: str, findings: Findings) -> None:
    """97 points: the pixels read as L1C, which they look like, read as L2A, and brought to L2A before.

    What is brought to L2A by ``normalize``'s own figures enters a model that brings both levels to their
    middle as L1C does, but for rounding: that reading proves the way, not the model. Read as L2A as they
    are, the model adds half a path radiance to a whole one, where it expects half a one in all.
    """
    l1c, transform, crs = read_bands(data / "scenes" / "leipzig_de_L2A_8b_utm32n.tif")
    if not has_set(l1c, band_set):
        return
    points = gpd.read_file(data / "reference" / "leipzig_de_landcover_points.gpkg").to_crs(crs)
    cols, rows = ~transform @ (points.geometry.x.to_numpy(), points.geometry.y.to_numpy())
    at = np.floor(rows).astype(int), np.floor(cols).astype(int)
    labels = points["land_cover"].to_numpy()
    readings = (("L1C", "L1C", l1c), ("L2A", "L2A", l1c), ("L2A less path", "L2A", as_l2a(l1c)))
    for reading, level, dn in readings:
        scores = scorer(chosen(dn, band_set), level)
        for what, values, groups in (
            ("use", scores.landuse, LEIPZIG_USES),
            ("cover", scores.cover, LEIPZIG_COVERS),
        ):
            ids, confidence = classes_of(values)
            right = np.array([i in groups[label] for i, label in zip(ids[at], labels, strict=True)])
            names = list(groups)
            truth = np.array([names.index(label) for label in labels])
            found = recalls(truth, right)
            title = f"Leipzig {reading}, {what}"
            findings.put(f"{title}: mean of recalls", float(np.mean(list(found.values()))))
            for index, name in enumerate(names):
                findings.put(f"{title}: {name} ({(truth == index).sum()})", found[index])
            points_judged = judged(confidence[at], right)
            findings.put(f"{title}: median confidence of wrong", wrong_confidence(points_judged))
            if reading != "L2A less path":  # the same once more
                findings.calibration[title] = points_judged


def water_mask(data: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(H, W) hand-drawn water of orihuela, and where it says something."""
    with rasterio.open(data / "reference" / "orihuela_es_watermask_hand_utm30n.tif") as file:
        mask = file.read(1)
    return mask == 1, mask != -1


def orihuela(data: Path, scorer: Scorer, band_set: str, findings: Findings) -> None:
    """Hand-drawn water, and Dynamic World's map."""
    dn, _, _ = read_bands(data / "scenes" / "orihuela_es_L1C_20190918_13b_utm30n.tif")
    scores = scorer(chosen(dn, band_set), "L1C")
    truth, valid = water_mask(data)
    covers, _ = classes_of(scores.cover)
    uses, _ = classes_of(scores.landuse)
    findings.put("orihuela water: IoU of cover", iou(covers == 0, truth, valid))
    findings.put("orihuela water: IoU of use", iou(np.isin(uses, LEIPZIG_USES["water"]), truth, valid))
    water = scores.cover[0]
    findings.calibration["orihuela water"] = judged(
        np.maximum(water, 1 - water)[valid], ((water > 0.5) == truth)[valid]
    )
    _agreement_with(data / "cover" / "orihuela_dw.tif", "orihuela", scores, findings)


def slovenia(data: Path, scorer: Scorer, band_set: str, findings: Findings) -> None:
    """Dynamic World's map of the clear date."""
    dn, _, _ = read_bands(data / "scenes" / "slovenia_L1C_20150830_13b_utm33n.tif")
    scores = scorer(chosen(dn, band_set), "L1C")
    _agreement_with(data / "cover" / "slovenia_L1C_20150830_13b_utm33n_dw.tif", "slovenia", scores, findings)


def _agreement_with(path: Path, title: str, scores: Scores, findings: Findings) -> None:
    with rasterio.open(path) as file:
        truth = file.read(1)
    covers, confidence = classes_of(scores.cover)
    known = truth != NONE_ID
    findings.put(f"{title} as Dynamic World: all", share((covers == truth)[known]))
    for index, value in recalls(truth, covers == truth).items():
        if (truth == index).sum() >= 100:
            findings.put(f"{title} as Dynamic World: {LAND_COVER_NAMES[index]}", value)
    findings.calibration[f"{title} as Dynamic World"] = judged(confidence[known], (covers == truth)[known])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """One place of TerraMesh."""

    name: str
    l1c: Dn
    l2a: Dn
    lulc: NDArray[np.uint8]
    """(H, W), its own ids."""
    offsets: tuple[int, int]
    """DN that the stored L1C and L2A had on top."""


def stored_offsets(l1c: Dn, l2a: Dn) -> tuple[int, int]:
    """What the pixels of a pair say of the offset of 1000 DN in each, L1C first.

    Over clear ground B10 of L1C is nearly black, so that a minimum of 500 DN and more is the offset. In the
    short-wave infrared both levels are about equal, so that L2A has the offset where it lies more than
    500 DN above the L1C that is freed of it.
    """
    first = STORED_OFFSET_DN if l1c["B10"].min() >= STORED_OFFSET_DN / 2 else 0
    above = [np.median(l2a[band].astype(float) - l1c[band] + first) for band in ("B11", "B12")]
    return first, STORED_OFFSET_DN if np.mean(above) > STORED_OFFSET_DN / 2 else 0


def terramesh_places(data: Path) -> Iterator[Place]:
    """Each place, freed of the offset."""
    root = data / "cover" / "terramesh"
    for path in sorted((root / "LULC").glob("*.tif")):
        with rasterio.open(path) as file:
            lulc = file.read(1)
        stored = (
            read_bands(root / "S2L1C" / path.name, BANDS)[0],
            read_bands(root / "S2L2A" / path.name, TERRAMESH_L2A)[0],
        )
        offsets = stored_offsets(*stored)
        l1c, l2a = (
            {band: _whole(values.astype(np.int32) - offset) for band, values in dn.items()}
            for dn, offset in zip(stored, offsets, strict=True)
        )
        yield Place(name=path.stem, l1c=l1c, l2a=l2a, lulc=lulc, offsets=offsets)


def terramesh_evidence(data: Path) -> str:
    """What the pixels say of the offsets and of LULC's ids, as a table.

    For each place the least B10 of L1C, and how far L2A lies above the offset-free L1C in the short-wave
    infrared before its own offset is taken away. For each id of LULC the medians of NDVI, of NDWI
    (B03 and B08), of the built-up index (B11 and B08) and of B03, over all places, from L2A.
    """
    lines = ["place           offset L1C  offset L2A   B10 min   B11 above L1C"]
    spectra: dict[int, list[NDArray[np.float64]]] = {}
    for place in terramesh_places(data):
        first, second = place.offsets
        above = np.median(place.l2a["B11"].astype(float) - place.l1c["B11"]) + second
        lowest = int(place.l1c["B10"].min()) + first
        lines.append(f"{place.name:15} {first:10} {second:11} {lowest:9} {above:15.0f}")
        green, red, nir, swir = (place.l2a[band].astype(float) for band in ("B03", "B04", "B08", "B11"))
        indices = ((nir - red) / (nir + red), (green - nir) / (green + nir), (swir - nir) / (swir + nir))
        for value in np.unique(place.lulc):
            here = place.lulc == value
            spectra.setdefault(int(value), []).append(np.stack([part[here] for part in (*indices, green)]))
    lines.append("LULC id     pixels    NDVI    NDWI    NDBI   B03 DN")
    for value, parts in sorted(spectra.items()):
        together = np.concatenate(parts, 1)
        ndvi, ndwi, ndbi, green_dn = np.median(together, 1)
        lines.append(f"{value:7} {together.shape[1]:10} {ndvi:7.2f} {ndwi:7.2f} {ndbi:7.2f} {green_dn:8.0f}")
    return "\n".join(lines)


def terramesh(data: Path, scorer: Scorer, band_set: str, findings: Findings) -> None:
    """The two levels of five places against each other, and against LULC."""
    same: dict[str, list[NDArray[np.bool_]]] = {"cover": [], "use": []}
    truths: list[NDArray[np.uint8]] = []
    found: dict[str, list[NDArray[np.uint8]]] = {"L1C": [], "L2A": []}
    for place in terramesh_places(data):
        scores = {
            "L1C": scorer(chosen(place.l1c, band_set), "L1C"),
            "L2A": scorer(chosen(place.l2a, band_set), "L2A"),
        }
        covers = {level: classes_of(one.cover)[0] for level, one in scores.items()}
        uses = {level: classes_of(one.landuse)[0] for level, one in scores.items()}
        same["cover"].append(covers["L1C"] == covers["L2A"])
        same["use"].append(uses["L1C"] == uses["L2A"])
        truths.append(place.lulc)
        for level, ids in covers.items():
            found[level].append(ids)
    for what, parts in same.items():
        findings.put(f"TerraMesh: L1C and L2A agree, {what}", share(np.stack(parts)))
    truth = np.stack(truths)
    for value, name in TERRAMESH_LULC.items():
        for level, parts in found.items():
            covers_found = np.stack(parts) == LAND_COVER_NAMES.index(name)
            findings.put(
                f"TerraMesh {level}: IoU with LULC's {name}", iou(covers_found, truth == value, truth > 0)
            )


def mosaics_of(data: Path, scorer: Scorer, band_set: str, findings: Findings) -> None:
    """Mosaics of ``paper-val``: of JPEGs for the visible bands, of the few 13-band patches for each set."""
    root = data / "eurosat"
    names = read_split(root / "splits" / "paper-val.txt")
    if band_set == "rgb":
        some = [names[i] for i in np.random.default_rng(MOSAIC_SEED).permutation(len(names))[:600]]
        jpegs = load_patches(PatchSource(root=root / "EuroSAT_RGB"), some)
        dn = jpegs.dn(slice(None)).numpy().round().astype(np.uint16)
        _mosaic_figures("mosaics (JPEG)", dn, jpegs.labels.numpy(), RGB, scorer, findings)
    parts, labels = [], []
    for folder in ("EuroSAT_MS", "EuroSAT_MS_2"):
        here = [name for name in names if (root / folder / name).with_suffix(".tif").exists()]
        patches = load_patches(PatchSource(root=root / folder, band_order=EUROSAT_TIFF), here, BANDS)
        parts.append(patches.dn(slice(None)).numpy().astype(np.uint16))
        labels.append(patches.labels.numpy())
    title = f"mosaics ({sum(map(len, labels))} patches of 13 bands)"
    _mosaic_figures(title, np.concatenate(parts), np.concatenate(labels), BANDS, scorer, findings, band_set)


def _mosaic_figures(
    title: str,
    patches: NDArray[np.uint16],
    labels: NDArray[np.int64],
    bands: tuple[str, ...],
    scorer: Scorer,
    findings: Findings,
    band_set: str = "rgb",
) -> None:
    made = mosaics(patches, labels.astype(np.uint8), count=MOSAICS, side_px=MOSAIC_PX, seed=MOSAIC_SEED)
    truth = np.stack([one.classes for one in made])
    found, confidence = [], []
    for one in made:
        dn = dict(zip(bands, one.dn, strict=True))
        ids, sure = classes_of(scorer(chosen(dn, band_set), "L1C").landuse)
        found.append(ids)
        confidence.append(sure)
    right = np.stack(found) == truth
    areal = ~np.isin(truth, use_ids(*LINEAR))
    inner = areal & ~np.stack([near_border(one.classes, BORDER_PX) for one in made])
    findings.put(f"{title}: areal, beyond {BORDER_PX} px of a border", share(right[inner]))
    findings.put(f"{title}: areal, all", share(right[areal]))
    for index, kind in enumerate(KINDS):
        own = np.s_[index :: len(KINDS)]
        findings.put(f"{title}: areal, beyond {BORDER_PX} px, {kind}", share(right[own][inner[own]]))
    cover_right = COVER_OF_USE[np.stack(found)] == COVER_OF_USE[truth]
    findings.put(f"{title}: areal, beyond {BORDER_PX} px, by cover", share(cover_right[inner]))
    for index, value in recalls(np.where(inner, truth, NONE_ID), right).items():
        findings.put(f"{title}: {LAND_USE_NAMES[index]}, beyond {BORDER_PX} px", value)
    for index, value in recalls(np.where(areal, NONE_ID, truth), right).items():
        findings.put(f"{title}: share of {LAND_USE_NAMES[index]} regions mapped so", value)
    findings.calibration[title] = judged(np.stack(confidence)[areal], right[areal])


def validation_rows() -> NDArray[np.int64]:
    """Rows of the cover patches that are never trained on: a fixed tenth."""
    return np.random.default_rng(SPLIT_SEED).permutation(COVER_PATCHES)[:VALIDATION_PATCHES]


def decoded(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """DN of the codes that the cover patches are stored as."""
    return (codes * 1.3 / 255) ** 2 * 10_000


def twice_as_fine(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(bands, H, W) at 20 m on pixels of 10 m by cubic convolution, as imagery is read."""
    bands, rows, cols = values.shape
    fine = np.zeros((bands, 2 * rows, 2 * cols), np.float32)
    reproject(
        values, fine, src_transform=Affine(20, 0, 0, 0, -20, 0), dst_transform=Affine(10, 0, 0, 0, -10, 0),
        src_crs="EPSG:32633", dst_crs="EPSG:32633", resampling=Resampling.cubic,
    )  # fmt: skip
    return fine


def cover_patches(data: Path, scorer: Scorer, band_set: str, findings: Findings) -> None:
    """The kept tenth of the cover patches, where the teacher's two labels agree, by its confidence."""
    held = {
        name: np.load(data / "cover" / "l2a_patches" / f"{name}.npz")[name][validation_rows()]
        for name in ("bands_10m", "bands_20m", "label", "label_half_path", "confidence_16")
    }
    names_10m, names_20m = ("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12")
    covers, confidence = [], []
    for fine, coarse in zip(held["bands_10m"], held["bands_20m"], strict=True):
        dn = dict(zip(names_10m, map(_whole, decoded(fine)), strict=True))
        if band_set == "all":
            dn |= zip(names_20m, map(_whole, twice_as_fine(decoded(coarse).astype(np.float32))), strict=True)
        ids, sure = classes_of(scorer(chosen(dn, band_set), "L2A").cover)
        covers.append(ids)
        confidence.append(sure)
    truth = np.where(held["label"] == held["label_half_path"], held["label"], NONE_ID)
    known, right, weight = truth != NONE_ID, np.stack(covers) == truth, held["confidence_16"] / 16
    found = recalls(truth, right, weight)
    findings.put("cover patches: all", share(right[known], weight[known]))
    findings.put("cover patches: mean of recalls", float(np.mean(list(found.values()))))
    for index, value in found.items():
        findings.put(f"cover patches: {LAND_COVER_NAMES[index]}", value)
    findings.calibration["cover patches"] = judged(np.stack(confidence)[known], right[known], weight[known])


def map_references(data: Path) -> list[tuple[str, str, Path, Legend]]:
    """What a finished map can be scored on: title, which of its rasters, reference and legend."""
    points = data / "reference" / "leipzig_de_landcover_points.gpkg"
    water = data / "reference" / "orihuela_es_watermask_hand_utm30n.tif"
    dry = {name: tuple(n for n in names if n not in ("Water", "River", "SeaLake")) for name, names in
           (("landuse.tif", LAND_USE_NAMES), ("cover.tif", LAND_COVER_NAMES))}  # fmt: skip
    listed = []
    for raster, names, groups in (
        ("landuse.tif", LAND_USE_NAMES, LEIPZIG_USES),
        ("cover.tif", LAND_COVER_NAMES, LEIPZIG_COVERS),
    ):
        right = {label: tuple(names[i] for i in ids) for label, ids in groups.items()}
        listed.append(("Leipzig points", raster, points, Legend(right=right, column="land_cover")))
        mask = {"1": right["water"], "0": dry[raster]}
        listed.append(("orihuela water mask", raster, water, Legend(right=mask)))
    same = Legend(right={str(i): (name,) for i, name in enumerate(LAND_COVER_NAMES)})
    for name in ("orihuela_dw.tif", "slovenia_L1C_20150830_13b_utm33n_dw.tif"):
        listed.append((f"Dynamic World's {name}", "cover.tif", data / "cover" / name, same))
    return listed


REFERENCES = {
    "leipzig": leipzig,
    "orihuela": orihuela,
    "slovenia": slovenia,
    "terramesh": terramesh,
    "mosaics": mosaics_of,
    "patches": cover_patches,
}


def measure(data: Path, scorer: Scorer, band_set: str, only: tuple[str, ...] = ()) -> Findings:
    """All figures of a model that is fed one band set.

    Args:
        data: the folder of the test data.
        scorer: the model.
        band_set: a name in ``BAND_SETS``.
        only: names in ``REFERENCES``; empty: all.
    """
    findings = Findings()
    for name, judge in REFERENCES.items():
        if not only or name in only:
            judge(data, scorer, band_set, findings)
    for name, pixels in findings.calibration.items():
        findings.put(f"ECE: {name}", ece(pixels))
    if findings.calibration:
        findings.put("ECE: all, each reference alike", ece(pooled(list(findings.calibration.values()))))
    return findings
