"""What the ledger says, made visible: STAC catalogues of the maps, and the change from each to the next.

Both follow from the ledger alone and are made anew where they differ from what it says: after a crash, or
after two runs at once, the next look puts right what is not.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import OutputError, UsageError
from landuse.pipeline.fields import mapping, sequence
from landuse.pipeline.stac_catalog import CATALOG_NAME
from landuse.pipeline.stac_map import ITEM_NAME
from landuse.redact import printable, redact
from landuse.workflows.change import compare_maps
from landuse.workflows.change_report import OUTPUTS, ChangeRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from landuse.pipeline.fields import Json
    from landuse.pipeline.ledger import Ledger
    from landuse.pipeline.ledger_records import MapRow
    from landuse.pipeline.store import Store
    from landuse.workflows.nightly_config import AreaConfig

VERSION_EXTENSION = "https://stac-extensions.github.io/version/v1.2.0/schema.json"

CHANGES = "changes"
"""Folder of an area's change layers."""

CHANGE_NAME = "change.json"

REFUSAL_NAME = "not-compared.json"
"""Stands in the place of change layers that cannot be made, and says why."""

_PAIR = re.compile(r"\d{4}-\d\d-\d\d_\d{4}-\d\d-\d\d")
_COMPARED = ("landuse.tif", "probabilities.tif")
"""The files of a map that a comparison reads."""

_VERSION_LINKS = ("predecessor-version", "successor-version", "latest-version")


def publish_area(ledger: Ledger, root: Store, area: str) -> None:
    """Bring the STAC catalogue of an area's maps up to the ledger, and the root's that lists the areas.

    Superseded maps stay in it: their items are deprecated and lead to their successors.

    Raises:
        OutputError: it cannot be written.
        LedgerError: the ledger cannot be read.
    """
    folder = root.child(area)
    while rows := ledger.all_maps(area):
        _write_area(folder, area, rows)
        _write_root(root, area)
        if ledger.all_maps(area) == rows:  # else another run has settled a map since, and may be done
            break


def _write_area(folder: Store, area: str, rows: Sequence[MapRow]) -> None:
    links: list[Json] = [
        {"rel": rel, "href": f"../{CATALOG_NAME}", "type": "application/json"} for rel in ("root", "parent")
    ]
    before = _read(folder, CATALOG_NAME)
    listed = [mapping(link) for link in sequence(before.get("links"))]
    for _, group in groupby(rows, key=lambda row: row.window):
        chain = list(group)
        for index, row in enumerate(chain):
            link = {
                "rel": "item",
                "href": f"./{row.map_id}/{ITEM_NAME}",
                "type": "application/geo+json",
                "title": f"{area}, {row.window}" + (", superseded" if row.superseded_by else ""),
                # Of these the map's item is made: where they are the same, so is it.
                "landuse:versions": [other.map_id for other in chain],
            }
            if link in listed or _write_item(folder.child(row.map_id), chain, index):
                links.append(link)
    for row in rows:
        for path in row.change_paths:
            pair = path.rpartition("/")[2]
            title = f"Change from {pair.replace('_', ' to ')}"
            href = f"./{CHANGES}/{pair}/{CHANGE_NAME}"
            links.append({"rel": "related", "href": href, "type": "application/json", "title": title})
    _write_changed(
        folder,
        before,
        {
            "type": "Catalog",
            "stac_version": "1.1.0",
            "id": f"landuse-{area}",
            "title": f"Land-use maps of {area}",
            "description": "Maps made with landuse, one of each window of days. Each links to the scenes it "
            "was made of; one that was superseded leads to its successor.",
            "links": links,
        },
    )


def _write_item(folder: Store, chain: Sequence[MapRow], index: int) -> bool:
    """Give a map's item its place in the catalogue and among the versions; False where there is no item."""
    item = _read(folder, ITEM_NAME)
    if not item:  # somebody has removed the map
        return False
    links: list[Json] = [
        {"rel": "root", "href": f"../../{CATALOG_NAME}", "type": "application/json"},
        {"rel": "parent", "href": f"../{CATALOG_NAME}", "type": "application/json"},
    ]
    others = (chain[index - 1 : index], chain[index + 1 : index + 2], chain[index + 1 :][-1:])
    for rel, other in zip(_VERSION_LINKS, others, strict=True):
        for row in other:
            href = f"../{row.map_id}/{ITEM_NAME}"
            links.append({"rel": rel, "href": href, "type": "application/geo+json"})
    own = {"root", "parent", "self", *_VERSION_LINKS}
    kept = [link for link in map(mapping, sequence(item.get("links"))) if link.get("rel") not in own]
    extensions = [name for name in sequence(item.get("stac_extensions")) if name != VERSION_EXTENSION]
    made = {
        **item,
        "stac_extensions": [*extensions, VERSION_EXTENSION],
        "properties": {
            **mapping(item.get("properties")),
            "version": str(index + 1),
            "deprecated": index + 1 < len(chain),
        },
        "links": [*links, *kept],
    }
    if made != item:
        folder.write(ITEM_NAME, _encoded(made))
    return True


def _write_root(root: Store, area: str) -> None:
    """List an area in the catalogue at the root."""
    before = _read(root, CATALOG_NAME)
    listed = {link.get("href"): link for link in map(mapping, sequence(before.get("links")))}
    href = f"./{area}/{CATALOG_NAME}"
    listed[href] = {"rel": "child", "href": href, "type": "application/json", "title": area}
    children = sorted((link for link in listed.values() if link.get("rel") == "child"), key=_href)
    own = {"rel": "root", "href": f"./{CATALOG_NAME}", "type": "application/json"}
    _write_changed(
        root,
        before,
        {
            "type": "Catalog",
            "stac_version": "1.1.0",
            "id": "landuse-nightly",
            "title": "Land-use maps",
            "description": "Land-use maps made with landuse, night after night, by area.",
            "links": [own, *children],
        },
    )


def _href(link: Json) -> str:
    return str(link.get("href"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Two maps in succession, and those that confirm what changed between them."""

    before: MapRow
    after: MapRow
    later: tuple[MapRow, ...]
    threshold: float

    @property
    def name(self) -> str:
        return f"{self.before.window}_{self.after.window}"

    @property
    def origin(self) -> Json:
        """What the layers are made of: where it is the same, so are they."""
        maps = (self.before, self.after, *self.later)
        return {"maps": [row.map_id for row in maps], "threshold": self.threshold}


def update_changes(
    ledger: Ledger, root: Store, area: AreaConfig, tell: Callable[[str], None]
) -> tuple[str, ...]:
    """Bring an area's change layers up to its current maps.

    There is one between each map and the next that has enough valid cells and is of the same model. One that
    a later map confirms, or whose map was superseded, is made again; one between maps that are no
    longer neighbours goes.

    Returns:
        The folders that were made, relative to the root.

    Raises:
        ReadError: a map cannot be read.
        OutputError: a layer cannot be written.
        LedgerError: the ledger cannot be read.
    """
    store = root.child(area.name)
    changes = store.child(CHANGES)
    made: list[str] = []
    while _due(pairs := _pairs(ledger, area), changes):
        changes.prepare()
        with ExitStack() as stack:
            try:
                stack.enter_context(changes.locked())
            except OutputError:
                tell("another run is at the change layers; it looks again when it is done")
                return tuple(made)
            for pair in _due(pairs, changes):
                if isinstance(pair, str):
                    changes.child(pair).remove()
                    continue
                _compare(pair, store, changes.child(pair.name))
                made.append(f"{area.name}/{CHANGES}/{pair.name}")
                tell(f"change from {pair.before.window} to {pair.after.window}")
    layers = {
        pair.after.map_id: (f"{area.name}/{CHANGES}/{pair.name}",)
        for pair in pairs
        if _origin(changes.child(pair.name), CHANGE_NAME) == pair.origin
    }
    ledger.note_changes(area.name, layers)
    return tuple(dict.fromkeys(made))


def _pairs(ledger: Ledger, area: AreaConfig) -> list[_Pair]:
    if area.change is None:
        return []
    pairs = []
    maps = [row for row in ledger.latest_maps(area.name) if row.valid * 100 >= area.min_valid]
    for index in range(len(maps) - 1):
        before, after, *later = maps[index : index + 2 + area.change.confirm]
        of_model = [row for row in later if row.model_sha256 == after.model_sha256]
        if before.model_sha256 == after.model_sha256:
            pairs.append(
                _Pair(before=before, after=after, later=tuple(of_model), threshold=area.change.threshold)
            )
    return pairs


def _due(pairs: Sequence[_Pair], changes: Store) -> list[_Pair | str]:
    """Pairs whose layers are to be made, and names of those whose are to go."""
    there = [name for name in changes.names() if _PAIR.fullmatch(name)]
    wanted = {pair.name for pair in pairs}
    due: list[_Pair | str] = [name for name in there if name not in wanted]
    for pair in pairs:
        folder = changes.child(pair.name)
        if pair.name not in there or pair.origin not in (
            _origin(folder, CHANGE_NAME),
            _origin(folder, REFUSAL_NAME),
        ):
            due.append(pair)
    return due


def _origin(folder: Store, name: str) -> Json:
    return mapping(_read(folder, name).get("made_of"))


def _compare(pair: _Pair, maps: Store, target: Store) -> None:
    target.prepare()
    names = (*OUTPUTS[:-1], REFUSAL_NAME, OUTPUTS[-1])
    with target.replaced(names) as folder, tempfile.TemporaryDirectory(prefix="landuse-") as temporary:
        rows = (pair.before, pair.after, *pair.later)
        before, after, *later = (_at_hand(maps, row.map_id, Path(temporary)) for row in rows)
        try:
            compare_maps(
                ChangeRequest(
                    before=before, after=after, later=tuple(later), threshold=pair.threshold, out=folder
                )
            )
        except UsageError as error:
            # The maps do not suit each other, tonight or ever: other cells, or no land that both see.
            reason = printable(redact(str(error)).replace(f"{temporary}/", "").replace(f"{maps}/", ""))
            (folder / REFUSAL_NAME).write_bytes(_encoded({"made_of": pair.origin, "reason": reason}))
            return
        report = mapping(json.loads((folder / CHANGE_NAME).read_bytes()))
        inputs = [
            {**mapping(entry), "path": f"../../{row.map_id}/landuse.tif"}
            for entry, row in zip(sequence(report["inputs"]), rows, strict=True)
        ]
        (folder / CHANGE_NAME).write_bytes(_encoded({**report, "inputs": inputs, "made_of": pair.origin}))


def _at_hand(maps: Store, map_id: str, temporary: Path) -> Path:
    """A map's folder on this machine; of one that lies elsewhere, a copy of what is compared."""
    if maps.path is not None:
        return maps.path / map_id
    (temporary / map_id).mkdir()
    for name in _COMPARED:
        maps.child(map_id).fetch(name, temporary / map_id / name)
    return temporary / map_id


def _read(folder: Store, name: str) -> Json:
    """A JSON document; an empty one where there is none."""
    content = folder.read(name)
    try:
        return mapping(json.loads(content)) if content is not None else {}
    except ValueError as error:
        raise OutputError(
            f"{folder}/{name} holds no JSON ({error}). Move it away, then run again."
        ) from error


def _write_changed(folder: Store, before: Json, document: Json) -> None:
    if document != before:
        folder.write(CATALOG_NAME, _encoded(document))


def _encoded(document: Json) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
