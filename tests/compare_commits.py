"""Compares what two commits write: maps, a change and a night, from the same simulated scenes.

    python tests/compare_commits.py BASE

runs the commands below once with the code of the commit BASE and once with the code of this checkout, in a
folder of the same name, and compares byte by byte every raster, and value by value the plans' digests, the
polygons and the ledger. It is run around a change that must not change results, such as moving modules.
Exit code 0: everything is equal. 1: each difference is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyogrio
import rasterio

ROOT = Path(__file__).parents[1]
MAPS = {
    "pixels-best": ["--cell-m", "20", "--probabilities"],
    "first": ["--cell-m", "20", "--probabilities", "--date", "2024-06-11"],
    "windows-median": [
        "--stride-px",
        "32",
        "--model",
        "balanced-fast-rgb",
        "--composite",
        "median",
        "--cells",
    ],
    "other-model": ["--stride-px", "64", "--model", "balanced-fast-rgb", "--date", "2024-06-11"],
    "again": ["--cell-m", "20", "--probabilities", "--date", "2024-06-16"],
}
VOLATILE = ("at", "utc", "time", "seconds", "host", "pid", "owner", "lease", "run", "token")
"""Ledger columns with one of these words in their name hold moments or names of processes."""


def landuse(code: Path, folder: Path, *arguments: str) -> None:
    """Run the command line of a checkout in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(code)}
    command = [sys.executable, "-m", "landuse", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} of {code} ended with {result.returncode}:\n{result.stderr}")


def make(code: Path, folder: Path) -> None:
    """Everything that is compared, made by one checkout."""
    folder.mkdir()
    landuse(code, folder, "demo", "--out", "demo")
    for name, options in MAPS.items():
        landuse(code, folder, "map", "--source", "demo/catalog", "--out", name, *options)
    landuse(code, folder, "change", "first", "again", "--out", "change", "--threshold", "0.2")
    west, south, east, north = json.loads((folder / "pixels-best" / "item.json").read_text("utf-8"))["bbox"]
    bbox = [west, south, west + (east - west) / 2, north]
    (folder / "night.yaml").write_text(
        f"out: maps\nsource: demo/catalog\ncell_m: 20\nlook_back_days: 3660\n"
        f"areas:\n  - name: west\n    bbox: {bbox}\n",
        "utf-8",
    )
    landuse(code, folder, "nightly", "run", "night.yaml", "--quiet")


def differences(before: Path, after: Path) -> list[str]:
    """What differs between two folders of ``make``, a line each."""
    names = [
        {path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (before, after)
    ]
    found = [f"only one has {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        one, two = before / name, after / name
        if name.suffix in (".tif", ".xml", ".png"):
            if one.read_bytes() != two.read_bytes():
                found.append(f"{name} differs{_in_what(one, two)}")
        elif name.name == "run.json":
            plans = [json.loads(path.read_text("utf-8")).get("plan_sha256") for path in (one, two)]
            if plans[0] != plans[1]:
                found.append(f"{name}: plans {plans[0]} and {plans[1]}")
        elif name.suffix == ".gpkg":
            found += [f"{name}: layer {layer} differs" for layer in _unequal_layers(one, two)]
        elif name.suffix == ".db":
            found += [f"{name}: {line}" for line in _unequal_tables(one, two)]
    return found


def _in_what(one: Path, two: Path) -> str:
    """Of two rasters that differ: whether their pixels do, or only their colours and tags."""
    if one.suffix != ".tif":
        return ""
    with rasterio.open(one) as first, rasterio.open(two) as second:
        same_grid = (first.crs, first.transform, first.shape) == (second.crs, second.transform, second.shape)
        equal = same_grid and np.array_equal(first.read(), second.read())
    return " in colours or tags, not in pixels" if equal else " in pixels"


def _unequal_layers(one: Path, two: Path) -> list[str]:
    layers = [sorted(name for name, _ in pyogrio.list_layers(path)) for path in (one, two)]
    if layers[0] != layers[1]:
        return [f"{layers[0]} and {layers[1]}"]

    def read(path: Path, layer: str) -> pd.DataFrame:
        # QGIS's table of styles holds the moment at which it was written.
        return pyogrio.read_dataframe(path, layer=layer).drop(columns="update_time", errors="ignore")

    return [name for name in layers[0] if not read(one, name).equals(read(two, name))]


def _unequal_tables(one: Path, two: Path) -> list[str]:
    def content(path: Path) -> tuple[list[tuple[str, ...]], dict[str, list[tuple[object, ...]]]]:
        with sqlite3.connect(path) as file:
            schema = file.execute("select name, sql from sqlite_master order by name").fetchall()
            tables = [name for name, sql in schema if (sql or "").startswith("CREATE TABLE")]
            rows = {}
            for table in tables:
                columns = [column[1] for column in file.execute(f"pragma table_info('{table}')")]
                kept = [name for name in columns if not set(name.split("_")) & set(VOLATILE)]
                chosen = ", ".join(f'"{name}"' for name in kept) or "1"
                rows[table] = sorted(file.execute(f'select {chosen} from "{table}"').fetchall(), key=repr)
        return schema, rows

    (schema_one, rows_one), (schema_two, rows_two) = content(one), content(two)
    found = ["the schema differs"] if schema_one != schema_two else []
    return found + [f"rows of {t} differ" for t in rows_one if rows_one[t] != rows_two.get(t)]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base", help="commit to compare this checkout with")
    base = parser.parse_args().base
    scratch = Path(tempfile.mkdtemp(prefix="landuse-compare-"))
    old_code = scratch / "code"
    git = ["git", "-C", str(ROOT)]
    subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(old_code), base], check=True)
    try:
        # One path for both, since a plan's digest holds the paths of its scenes.
        for code, kept in ((old_code, "before"), (ROOT, "after")):
            make(code, scratch / "work")
            (scratch / "work").rename(scratch / kept)
        found = differences(scratch / "before", scratch / "after")
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(old_code)], check=True)
        shutil.rmtree(scratch)
    print("\n".join(found) or f"{base} and this checkout write the same.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
