"""What killed runs leave, listed and removed. Oracles: the files themselves before and after, and processes
that really are killed while they write."""

import json
import os
import sqlite3
import subprocess
import sys
import time

import pytest

from landuse.errors import BusyError, UsageError
from landuse.pipeline.cells import Block
from landuse.pipeline.write.block_file import block_name
from landuse.pipeline.write.folder import Store
from landuse.workflows.clean import RECENT_SECONDS, clean

BLOCKS = ".blocks-0123456789abcdef"

KILLED = """
import os, sys
from pathlib import Path
from landuse.pipeline.write.folder import atomic_path, replacing, staged
out = Path(sys.argv[1])
with staged(out, ("landuse.tif", "run.json")) as folder:
    (folder / "landuse.tif").write_bytes(bytes(3000))
    with atomic_path(folder / "image.tif") as partial:
        partial.with_name("pieces.tif").write_bytes(bytes(5000))
        with replacing(out / "item") as fresh:
            (fresh / "B04.tif").write_bytes(bytes(700))
            os._exit(9)
"""


def old(folder):
    """Makes all in a folder as old as what a run left yesterday."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            os.utime(path, times=(time.time() - 86_400,) * 2)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def finished(tmp_path):
    """A finished map's folder, with a ledger and files of its user in it."""
    out = tmp_path / "map"
    out.mkdir()
    (out / "landuse.tif").write_bytes(b"map")
    (out / "run.json").write_text(json.dumps({"landuse": "0.1.0", "plan_sha256": "a"}), "utf-8")
    (out / "notes.part").write_text("mine", "utf-8")
    (out / ".hidden").write_text("mine", "utf-8")
    with sqlite3.connect(out / "ledger.sqlite") as ledger:
        ledger.execute("create table maps (id)")
    ledger.close()
    return out


def add_blocks(out, names=("r000000_c000000.npz", "r000000_c001024.npz")):
    folder = out / BLOCKS
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"blocks": [{}, {}, {}]}), "utf-8")
    for name in names:
        (folder / name).write_bytes(bytes(1000))
    return folder


def test_names_are_those_that_runs_give():
    assert block_name(Block(row_start=0, row_stop=5, col_start=1024, col_stop=1030)) == "r000000_c001024.npz"


def test_what_a_killed_process_left_is_listed_and_then_removed(finished):
    before = contents(finished)
    process = subprocess.run([sys.executable, "-c", KILLED, str(finished)], check=False)
    assert process.returncode == 9
    add_blocks(finished)
    old(finished)
    left = contents(finished)
    report = clean([finished])
    names = sorted(entry.path.name for entry in report.leftovers)
    assert [names[0], names[1], names[2][:9]] == [BLOCKS, ".item.part", ".partial-"]
    sizes = {entry.path.name[:9]: entry.size_bytes for entry in report.leftovers}
    plan = (finished / BLOCKS / "plan.json").stat().st_size
    assert sizes == {".blocks-0": 2000 + plan, ".item.par": 700, ".partial-": 8000}
    assert [entry.kept for entry in report.leftovers] == ["", "", ""]
    (blocks,) = (entry for entry in report.leftovers if entry.path.name == BLOCKS)
    assert "2 of 3 finished blocks" in blocks.told
    assert contents(finished) == left  # only told
    assert clean([finished], remove=True).removed
    assert contents(finished) == before
    assert clean([finished]).leftovers == ()


def test_a_nightly_root_is_looked_into(finished, tmp_path):
    root = tmp_path / "maps"
    (root / "berlin").mkdir(parents=True)
    finished.rename(root / "berlin" / "2024-06-01-0123456789ab")
    add_blocks(root / "berlin" / "2024-06-01-0123456789ab")
    assert [entry.path.name for entry in clean([root]).leftovers] == [BLOCKS]
    # The same folder twice, and one below the other, are no strangers to each other.
    assert len(clean([root, root / "berlin", root]).leftovers) == 1


@pytest.mark.parametrize("place", ["itself", "above", "below"])
def test_a_folder_in_use_is_refused(finished, place):
    add_blocks(finished)
    held = {"itself": finished, "above": finished.parent, "below": finished}[place]
    asked = finished.parent if place == "below" else finished
    with Store.at(held).locked():
        left = contents(finished)
        with pytest.raises(BusyError, match=r"A run is at work in .*, so nothing was removed"):
            clean([asked], remove=True)
        assert contents(finished) == left
    assert clean([asked], remove=True).leftovers


def test_what_may_be_in_use_without_a_lock_is_kept(finished):
    folder = finished / ".partial-abcd_123"
    folder.mkdir()
    (folder / "change.tif").write_bytes(bytes(10))
    (entry,) = clean([finished], remove=True).leftovers
    assert "newer than 10 minutes" in entry.kept
    assert folder.exists()
    old(folder)
    os.utime(folder / "change.tif", times=(time.time() - RECENT_SECONDS + 60,) * 2)
    assert clean([finished], remove=True).removable == ()
    os.utime(folder / "change.tif", times=(time.time() - RECENT_SECONDS - 60,) * 2)
    assert clean([finished], remove=True).removable
    assert not folder.exists()


def test_the_only_copy_of_what_was_to_be_replaced_is_kept(finished):
    set_aside = finished / ".item.old"
    set_aside.mkdir()
    (set_aside / "B04.tif").write_bytes(b"pixels")
    old(set_aside)
    (entry,) = clean([finished], remove=True).leftovers
    assert "the only copy of item" in entry.kept
    assert set_aside.exists()
    (finished / "item").mkdir()
    assert clean([finished], remove=True).removable
    assert not set_aside.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (BLOCKS, "ledger.sqlite"),
        (BLOCKS, "r000000_c000000.npz.bak"),
        (".partial-abcdefgh", "ledger.db"),
        (".partial-abcdefgh", "diary.docx"),
        (".item.part", "maps.sqlite3"),
        (".partial-abcdefgh", "link"),
    ],
)
def test_what_holds_something_of_others_is_kept(finished, name, content):
    folder = finished / name
    folder.mkdir()
    (folder / "landuse.tif" if name != BLOCKS else folder / "plan.json").write_bytes(b"{}")
    if content == "link":
        (folder / content).symlink_to(finished / "landuse.tif")
    else:
        (folder / content).write_bytes(b"mine")
    old(folder)
    (entry,) = clean([finished], remove=True).leftovers
    assert f"it holds {content}, which landuse does not write there" in entry.kept
    assert (folder / content).exists()


@pytest.mark.parametrize(
    "name", [".blocks-xyz", ".blocks-0123", ".partial-ABCDEFGH", "partial-abcdefgh", ".git", ".cache.part"]
)
def test_other_names_are_not_taken_for_leftovers(finished, name):
    (finished / name).write_bytes(b"mine")
    old(finished)
    assert clean([finished], remove=True).leftovers == ()
    assert (finished / name).exists()


def test_links_are_not_followed(finished, tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    add_blocks(target)
    (finished / ".blocks-fedcba9876543210").symlink_to(target / BLOCKS)
    (finished / "deeper").symlink_to(target)
    assert clean([finished], remove=True).leftovers == ()
    assert (target / BLOCKS / "plan.json").exists()
    link = tmp_path / "link"
    link.symlink_to(finished)
    with pytest.raises(UsageError, match="is no folder"):
        clean([link])


def test_a_folder_that_is_not_of_landuse_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"name": "somebody else"}', "utf-8")
    stranger = tmp_path / ".partial-abcdefgh"
    stranger.mkdir()
    (stranger / "data.json").write_text("{}", "utf-8")
    old(tmp_path)
    with pytest.raises(UsageError, match="says that `landuse` wrote it"):
        clean([tmp_path], remove=True)
    assert stranger.exists()
    # A run that was killed before anything was finished shows its hand by what it wrote.
    (stranger / "landuse.tif").write_bytes(b"half")
    old(tmp_path)
    assert clean([tmp_path], remove=True).removable
    assert not stranger.exists()


def test_the_command_tells_and_removes(finished, run):
    add_blocks(finished)
    told = run("clean", finished)
    assert told.code == 0
    assert f"found   {finished}/{BLOCKS}  (2.0 kB)  2 of 3 finished blocks" in told.out
    assert "total   1 leftover, 2.0 kB" in told.out
    assert "--yes removes" in told.out
    assert json.loads(run("clean", finished, "--json").out)["leftovers"][0]["kept_because"] is None
    done = run("clean", finished, "--yes")
    assert f"removed {finished}/{BLOCKS}" in done.out
    assert not (finished / BLOCKS).exists()
    assert "total   0 leftovers, 0 bytes" in run("clean", finished).out
    refused = run("clean", finished / "landuse.tif")
    assert (refused.code, "is no folder" in refused.err) == (2, True)
