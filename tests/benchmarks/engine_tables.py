"""Rows of ``engine.py`` to a table, and to the targets that they meet or miss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

import rasterio
from rasterio.windows import from_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One process that was timed."""

    name: str
    engine: str
    stride_px: int
    tile_px: int
    round: int
    workers: int
    seconds: float
    cpu_s: float
    patches: int | None
    waited: float | None
    peak_rss_mb: float
    parts: dict[str, float] | None

    @property
    def km2(self) -> float:
        return self.tile_px**2 / 10_000

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        return self.name, self.engine, self.stride_px, self.tile_px, self.workers

    def to_dict(self) -> dict:
        return asdict(self) | {"km2": self.km2}


def table(rows: Iterable[Row]) -> str:
    """Medians over rounds; behind the seconds how far the rounds lie apart."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    lines = [
        f"{'row':14}{'engine':9}{'stride':>6}{'tile px':>9}{'seconds':>10}{'spread':>8}{'patches/s':>11}"
        f"{'km2/s':>9}{'ms/km2':>9}{'CPU s':>9}{'peak RSS':>10}{'waited':>8}"
    ]
    for same in groups.values():
        one = same[0]
        seconds = median(row.seconds for row in same)
        spread = (max(row.seconds for row in same) - min(row.seconds for row in same)) / seconds
        name = one.name + (f" {one.workers}" if one.name == "dask" else "")
        lines.append(
            f"{name:14}{one.engine:9}{one.stride_px:6}{one.tile_px:9}{seconds:10.1f}"
            + (f"{spread:8.0%}" if len(same) > 1 else f"{'':8}")
            + (f"{one.patches / seconds:11.0f}" if one.patches else f"{'':11}")
            + f"{one.km2 / seconds:9.1f}{1000 * seconds / one.km2:9.2f}"
            f"{median(row.cpu_s for row in same):9.1f}{max(row.peak_rss_mb for row in same):7.0f} MB"
            + ("" if one.waited is None else f"{median(row.waited or 0 for row in same):8.1%}")
        )
    return "\n".join(lines)


def checks(rows: list[Row], facts: dict) -> str:
    """What was promised beside what was measured; nothing fails, machines differ."""
    lines = [*_batches(facts), *_floors(rows), *_obvious(rows), *_engines(rows), *_memory(rows)]
    for what, share in facts.get("equal_cells", {}).items():
        # The loop takes a patch's plain mean; a map counts what lies near a cell's middle for more.
        target, met = (">= 97%", share >= 0.97) if "engines" in what else ("none", None)
        lines.append(_line(f"equal cells: {what}", f"{share:.2%}", target, met))
    device = facts.get("accelerator")
    if device is None:
        return "\n".join([*lines, "no accelerator"])
    best = max(device["bare"].values())
    own = max(device["product"].values())
    lines.append(
        f"{device['name']}: bare bf16 loop {best:.0f} patches/s, ours {own:.0f} ({own / best:.0%}), shared "
        f"at stride 8 {device['shared_stride_8']:.0f}; of a patch of {device['patch_bytes']} bytes "
        f"{device['sent_bytes_per_patch']:.0f} cross; a map in {device['map']['seconds']:.1f} s"
    )
    return "\n".join(lines)


def _line(what: str, measured: str, target: str, met: bool | None) -> str:
    return f"{'' if met is None else 'met' if met else 'MISSED':8}{what}: {measured} (target {target})"


def _batches(facts: dict) -> list[str]:
    found = facts["batches"]
    share = median(max(one["product"].values()) / max(one["bare"].values()) for one in found)
    measured = f"{share:.0%} of a bare loop's best, at {facts['best_batch']} a batch"
    return [_line("batches", measured, ">= 90%", share >= 0.9)]


def _paired(rows: list[Row], ours: Callable[[Row], bool], ratio: Callable[[Row, list[Row]], float]) -> float:
    """Median over rounds of a ratio between a row and those of its round."""
    return median(
        ratio(row, [r for r in rows if (r.round, r.stride_px) == (row.round, row.stride_px)])
        for row in rows
        if ours(row)
    )


def _compared(rows: list[Row], name: str) -> list[tuple[int, str]]:
    """(stride, engine) of the rows of that name."""
    return sorted({(row.stride_px, row.engine) for row in rows if row.name == name}, reverse=True)


def _floors(rows: list[Row]) -> list[str]:
    lines = []
    for stride_px, engine in _compared(rows, "end to end"):

        def slower(row: Row, beside: list[Row], engine: str = engine) -> float:
            floors = [
                r.seconds for r in beside if r.name in ("read only", "network only") and r.engine == engine
            ]
            return row.seconds / max(floors)

        ratio = _paired(rows, _is("end to end", stride_px, engine), slower)
        target = "<= 1.15" if stride_px == 64 else "none"
        met = ratio <= 1.15 if stride_px == 64 else None
        lines.append(
            _line(f"{engine} end to end / slower floor, stride {stride_px}", f"{ratio:.2f}", target, met)
        )
    return lines


def _obvious(rows: list[Row]) -> list[str]:
    lines = []
    for stride_px, engine in _compared(rows, "end to end"):

        def gain(row: Row, beside: list[Row]) -> float:
            return next(r.seconds for r in beside if r.name == "obvious loop") / row.seconds

        ratio = _paired(rows, _is("end to end", stride_px, engine), gain)
        lines.append(
            _line(f"obvious loop / {engine}, stride {stride_px}", f"{ratio:.2f} x", ">= 3 x", ratio >= 3)
        )
    return lines


def _engines(rows: list[Row]) -> list[str]:
    """Windows against shared, each on the largest tile that it was run on."""
    lines = []
    for stride_px in sorted({row.stride_px for row in rows}, reverse=True):
        cost = {}
        for engine in ("windows", "shared"):
            same = [r for r in rows if r.name in ("whole tile", "part of it") and r.engine == engine
                    and r.stride_px == stride_px]  # fmt: skip
            if same:
                cost[engine] = same[-1].seconds / same[-1].km2
        if len(cost) == 2:
            ratio = cost["windows"] / cost["shared"]
            target, met = (">= 25 x", ratio >= 25) if stride_px == 8 else ("none", None)
            lines.append(
                _line(f"windows / shared, time per km2, stride {stride_px}", f"{ratio:.1f} x", target, met)
            )
    return lines


def _memory(rows: list[Row]) -> list[str]:
    whole = [row for row in rows if row.name in ("whole tile", "part of it")]
    most = max(whole, key=lambda row: row.peak_rss_mb)
    lines = [_line(f"peak RSS, at most at {most.engine} stride {most.stride_px}, tile {most.tile_px} px",
                   f"{most.peak_rss_mb:.0f} MB", "< 3000 MB", most.peak_rss_mb < 3000)]  # fmt: skip
    for engine, stride_px in sorted({(row.engine, row.stride_px) for row in rows if row.name == "area"}):
        grown = {
            row.tile_px: row.peak_rss_mb
            for row in rows
            if row.name in ("area", "whole tile") and (row.engine, row.stride_px) == (engine, stride_px)
        }
        *_, before, last = (mb for _, mb in sorted(grown.items()))
        measured = ", ".join(f"{mb:.0f} MB at {side} px" for side, mb in sorted(grown.items()))
        lines.append(
            _line(f"{engine}, stride {stride_px}, memory", measured, "flat at the end", last <= 1.1 * before)
        )
    return lines


def _is(name: str, stride_px: int, engine: str) -> Callable[[Row], bool]:
    return lambda row: (row.name, row.stride_px, row.engine) == (name, stride_px, engine)


def equal_cells(ours: Path, other: Path) -> float:
    """Share of cells of one class in both maps, where both have one."""
    with rasterio.open(ours) as first, rasterio.open(other) as second:
        left, bottom, right, top = zip(first.bounds, second.bounds, strict=True)
        common = max(left), max(bottom), min(right), min(top)
        a, b = (file.read(1, window=from_bounds(*common, file.transform).round()) for file in (first, second))
    both = (a != 255) & (b != 255)
    return float((a == b)[both].mean())
