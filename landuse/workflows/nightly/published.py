"""IO: the published maps as they lie in the folders, beside what the ledger says of them.

A map's item tells the size and the digest of each of its files, and holds the map's record, of which a ledger
that was lost is made again.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from landuse.errors import LedgerError
from landuse.pipeline.stac_json import mapping, sequence, text
from landuse.pipeline.write.stac_item import ITEM_NAME, MODEL_NAME, SHA2_256
from landuse.redact import printable
from landuse.workflows.nightly.report import NotCompared

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from landuse.pipeline.scene import Scene
    from landuse.pipeline.stac_json import Json
    from landuse.pipeline.write.folder import Store
    from landuse.workflows.nightly.ledger.ledger import Ledger
    from landuse.workflows.nightly.ledger.records import MapRow

MAP_FOLDER = re.compile(r"\d{4}-\d\d-\d\d-[0-9a-f]{12}")
"""Names of the maps' folders: the first day of the period, and a digest."""

RUN_NAME = "run.json"
"""The report of a map, written when the map's other files are complete."""

CHANGES = "changes"
"""Folder of an area's change layers."""

REFUSAL_NAME = "not-compared.json"
"""Stands in the place of change layers that cannot be made, and says why."""

PAIR = re.compile(r"\d{4}-\d\d-\d\d_\d{4}-\d\d-\d\d")
"""Names of the change layers' folders: the first days of the two periods."""

RECORD = "landuse:record"
"""Property of a published item: the map's record, as JSON."""

NIGHTS_OF_DIGESTS = 28
"""In so many nights every map's files are read whole once; their sizes are looked at each night."""


def read_json(folder: Store, name: str) -> Json | None:
    """A JSON document; empty if the file holds no JSON, as after a full disk; None if there is no file."""
    content = folder.read(name)
    try:
        return None if content is None else mapping(json.loads(content))
    except ValueError:
        return {}


def is_published(item: Json) -> bool:
    """Whether an item was given its place among the versions of a map."""
    return "version" in mapping(item.get("properties"))


def damage(folder: Store, *, digests: bool) -> str:
    """What is wrong with the files of a map; empty where they are as its item says.

    Args:
        folder: the map's.
        digests: whether to read the files whole.

    Raises:
        OutputError: the folder cannot be looked into.
    """
    sizes = folder.sizes()
    for name in (ITEM_NAME, MODEL_NAME):
        if name not in sizes:
            return f"{name} is missing" if sizes else "it is gone"
    item = read_json(folder, ITEM_NAME) or {}
    assets = [mapping(asset) for asset in mapping(item.get("assets")).values()]
    files = {text(asset.get("href")).removeprefix("./"): asset for asset in assets}
    if not files or not read_json(folder, MODEL_NAME):
        return f"{MODEL_NAME if files else ITEM_NAME} holds no description"
    for name, asset in files.items():
        shown = printable(name)
        if name not in sizes:
            return f"{shown} is missing"
        if sizes[name] != asset.get("file:size"):
            return f"{shown} has {sizes[name]} bytes instead of {asset.get('file:size')}"
        if digests and SHA2_256 + folder.sha256(name) != asset.get("file:checksum"):
            return f"{shown} has another content than when it was made"
    return ""


def damaged_maps(
    ledger: Ledger, folder: Store, area: str, night_utc: datetime | None = None
) -> Iterator[tuple[MapRow, str]]:
    """The current maps of an area whose files are not as they were made, each with what is wrong.

    Args:
        ledger: the record of what is mapped.
        folder: the area's.
        area: its name.
        night_utc: the night, on which some maps' files are read whole; None: only sizes are looked at.

    Raises:
        OutputError: the folder cannot be looked into.
        LedgerError: the ledger cannot be read.
    """
    for row in ledger.latest_maps(area):
        turn = int(row.map_id[-12:], 16) % NIGHTS_OF_DIGESTS
        digests = night_utc is not None and night_utc.toordinal() % NIGHTS_OF_DIGESTS == turn
        if wrong := damage(folder.child(row.map_id), digests=digests):
            yield row, wrong


def replaced_scenes(
    ledger: Ledger, folder: Store, area: str, scenes: Iterable[Scene], since: str
) -> Iterator[tuple[MapRow, str]]:
    """The current maps of an area of which a local file was replaced, each with what was.

    Args:
        ledger: the record of what is mapped.
        folder: the area's.
        area: its name.
        scenes: those mapped that the source lists tonight.
        since: first day of the first period to look at.

    Raises:
        OutputError: the folder cannot be looked into.
        LedgerError: the ledger cannot be read.
    """
    now = {
        (scene.id, asset.band, asset.href): asset.fingerprint
        for scene in scenes
        for asset in scene.assets
        if asset.fingerprint
    }
    if not now:
        return
    for row in ledger.latest_maps(area):
        if row.period < since:
            continue
        report = read_json(folder.child(row.map_id), RUN_NAME) or {}
        for scene_id, band, href, then in _files_read(report):
            if now.get((scene_id, band, href), then) != then:
                yield row, f"{band} of scene {printable(scene_id)} was replaced"
                break


def _files_read(report: Json) -> Iterator[tuple[str, str, str, str]]:
    """Of each local file that a map was made of: its scene, band and path, and which version it was."""
    for scene in map(mapping, sequence(report.get("scenes"))):
        for band, asset in mapping(scene.get("assets")).items():
            if version := text(mapping(asset).get("fingerprint")):
                yield text(scene.get("id")), band, text(mapping(asset).get("href")), version


def unknown_maps(ledger: Ledger, folder: Store, area: str) -> list[str]:
    """Names of an area's published maps that the ledger does not know.

    Raises:
        OutputError: the folder cannot be looked into.
        LedgerError: the ledger cannot be read.
    """
    # The folders first: a map is in the ledger before it is published.
    names = [name for name in folder.names() if MAP_FOLDER.fullmatch(name)]
    known = {row.map_id for row in ledger.all_maps(area)}
    unknown = [name for name in names if name not in known]
    published = [name for name in unknown if is_published(read_json(folder.child(name), ITEM_NAME) or {})]
    if published:
        known = {row.map_id for row in ledger.all_maps(area)}
    return [name for name in published if name not in known]


def check_known(ledger: Ledger, folder: Store, area: str) -> None:
    """See that the ledger knows all published maps of an area.

    Raises:
        LedgerError: it does not.
        OutputError: the folder cannot be looked into.
    """
    if unknown := unknown_maps(ledger, folder, area):
        raise LedgerError(told_unknown(ledger, folder, unknown))


def latest_refusal(folder: Store, area: str) -> NotCompared | None:
    """Why the latest two maps of an area that were to be compared are not; None where they are.

    Args:
        folder: the area's.
        area: its name.

    Raises:
        OutputError: the folder cannot be looked into.
    """
    changes = folder.child(CHANGES)
    latest = max(filter(PAIR.fullmatch, changes.names()), default=None)
    refusal = None if latest is None else read_json(changes.child(latest), REFUSAL_NAME)
    if not refusal:
        return None
    return NotCompared(folder=f"{area}/{CHANGES}/{latest}", reason=text(refusal.get("reason")))


def told_unknown(ledger: Ledger, folder: Store, unknown: list[str]) -> str:
    """What to say of published maps that the ledger does not know, and the mend."""
    maps = "1 published map" if len(unknown) == 1 else f"{len(unknown)} published maps"
    return (
        f"{folder} holds {maps} that ledger {ledger.database.shown} does not know, such as {unknown[0]}: the "
        "ledger is another one, is empty or is older than the maps. With it a night would take them out of "
        "the catalogue and map their scenes again. Name the ledger that belongs to `out`, or restore it from "
        "the maps: landuse nightly rebuild CONFIG."
    )
