"""STAC catalogues of the maps, and the change layers from each map to the next, made from the ledger.

Both are made again where they differ from what the ledger says. So after a crash, or after two runs at the
same time, the next run corrects them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import OutputError, UsageError
from landuse.pipeline.maps.open import check_order, opened_map, overlap_of
from landuse.pipeline.stac_json import mapping, sequence
from landuse.pipeline.write.stac_catalog import CATALOG_NAME
from landuse.pipeline.write.stac_item import ITEM_NAME
from landuse.redact import printable, redact
from landuse.workflows.change import OUTPUTS, ChangeRequest, compare_maps
from landuse.workflows.nightly.published import CHANGES, PAIR, RECORD, REFUSAL_NAME
from landuse.workflows.nightly.report import NotCompared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from landuse.pipeline.stac_json import Json
    from landuse.pipeline.write.folder import Store
    from landuse.workflows.nightly.config import AreaConfig, ChangeConfig
    from landuse.workflows.nightly.ledger.ledger import Ledger
    from landuse.workflows.nightly.ledger.records import MapRecord, MapRow

VERSION_EXTENSION = "https://stac-extensions.github.io/version/v1.2.0/schema.json"

CHANGE_NAME = "change.json"

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
    while records := ledger.records(area):
        _write_area(folder, area, records)
        _write_root(ledger, root)
        if ledger.records(area) == records:  # else another run has settled a map since, and may be done
            break


def _write_area(folder: Store, area: str, records: Sequence[MapRecord]) -> None:
    rows = [record.map for record in records]
    kept = {record.map.map_id: record.to_dict() for record in records}
    links = [_link(rel, f"../{CATALOG_NAME}") for rel in ("root", "parent")]
    before = _read(folder, CATALOG_NAME)
    listed = [mapping(link) for link in sequence(before.get("links"))]
    superseded_by = {row.map_id: row.superseded_by for row in rows}
    for _, group in groupby(sorted(rows, key=_span), key=_span):
        # The map that most others came after is the first. Times do not tell: clocks differ.
        chain = sorted(group, key=lambda row: -len(_successors(row.map_id, superseded_by)))
        for index, row in enumerate(chain):
            versions: dict[str, str] = {"version": str(index + 1)}
            if index:
                versions["predecessor-version"] = chain[index - 1].map_id
            if after := _successors(row.map_id, superseded_by):
                versions |= {"successor-version": after[0], "latest-version": after[-1]}
            link = _link("item", f"./{row.map_id}/{ITEM_NAME}") | {
                "title": f"{area}, {row.period}" + (", superseded" if row.superseded_by else ""),
                # The map's item is made from these: while they stay the same, so does the item.
                "landuse:versions": versions,
                RECORD: hashlib.sha256(_encoded(kept[row.map_id])).hexdigest(),
            }
            if link in listed or _write_item(
                folder.child(row.map_id), row.map_id, versions, kept[row.map_id]
            ):
                links.append(link)
    for row in rows:
        for path in row.change_paths:
            pair = path.rpartition("/")[2]
            title = f"Change from {pair.replace('_', ' to ')}"
            links.append(_link("related", f"./{CHANGES}/{pair}/{CHANGE_NAME}") | {"title": title})
    told = (
        "Maps made with landuse, one of each period of days. Each links to the scenes it "
        "was made of; one that was superseded leads to its successor."
    )
    document = _catalog(f"landuse-{area}", f"Land-use maps of {area}", told, links)
    if document != before:
        folder.write(CATALOG_NAME, _encoded(document))


def _successors(map_id: str, superseded_by: Mapping[str, str | None]) -> list[str]:
    """The maps that came after one, each superseded by the next; the last is current."""
    found: list[str] = []
    following = superseded_by.get(map_id)
    while following is not None and following not in found:  # ends even in a ledger that goes in a circle
        found.append(following)
        following = superseded_by.get(following)
    return found


def _span(row: MapRow) -> tuple[str, int]:
    """The days of a map's period; those of one length supersede each other."""
    return row.period, row.window_days


def _write_item(folder: Store, map_id: str, versions: Mapping[str, str], record: Json) -> bool:
    """Give a map's item its place in the catalogue and among the versions; False where there is no item.

    Its id becomes the map's: maps of settings that differ in nothing but what they leave out, such as
    max_cloud, may be of the same plan.
    """
    item = _read(folder, ITEM_NAME)
    if not item:  # somebody has removed the map
        return False
    links = [_link("root", f"../../{CATALOG_NAME}"), _link("parent", f"../{CATALOG_NAME}")]
    links += [_link(rel, f"../{versions[rel]}/{ITEM_NAME}") for rel in _VERSION_LINKS if rel in versions]
    own = {"root", "parent", "self", *_VERSION_LINKS}
    kept = [link for link in map(mapping, sequence(item.get("links"))) if link.get("rel") not in own]
    extensions = [name for name in sequence(item.get("stac_extensions")) if name != VERSION_EXTENSION]
    made = {
        **item,
        "id": map_id,
        "stac_extensions": [*extensions, VERSION_EXTENSION],
        "properties": {
            **mapping(item.get("properties")),
            "version": versions["version"],
            "deprecated": "successor-version" in versions,
            RECORD: record,
        },
        "links": [*links, *kept],
    }
    if made != item:
        folder.write(ITEM_NAME, _encoded(made))
    return True


def _write_root(ledger: Ledger, root: Store) -> None:
    """List in the catalogue at the root the areas whose catalogues are there.

    Runs over other areas do so at the same time, and no lock holds in an object store. So each lists them
    all, and looks again after it has written: whoever is last to write has seen every area of the others.
    """
    while (before := _read(root, CATALOG_NAME)) != (document := _root_catalog(ledger, root, before)):
        root.write(CATALOG_NAME, _encoded(document))


def _root_catalog(ledger: Ledger, root: Store, before: Json) -> Json:
    listed = {link.get("href"): link for link in map(mapping, sequence(before.get("links")))}
    for area in ledger.mapped_areas():
        href = f"./{area}/{CATALOG_NAME}"
        if href not in listed and _read(root.child(area), CATALOG_NAME):
            listed[href] = _link("child", href) | {"title": area}
    children = sorted((link for link in listed.values() if link.get("rel") == "child"), key=_href)
    told = "Land-use maps made with landuse, night after night, by area."
    return _catalog("landuse-nightly", "Land-use maps", told, [_link("root", f"./{CATALOG_NAME}"), *children])


def _href(link: Json) -> str:
    return str(link.get("href"))


def _link(rel: str, href: str) -> dict[str, object]:
    """A link to a document, whose name tells its media type."""
    kind = "application/geo+json" if href.endswith(ITEM_NAME) else "application/json"
    return {"rel": rel, "href": href, "type": kind}


def _catalog(name: str, title: str, description: str, links: Sequence[Json]) -> Json:
    return {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": name,
        "title": title,
        "description": description,
        "links": list(links),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Two maps in succession, and those that confirm what changed between them."""

    before: MapRow
    after: MapRow
    later: tuple[MapRow, ...]
    threshold: float

    @property
    def name(self) -> str:
        return f"{self.before.period}_{self.after.period}"

    @property
    def origin(self) -> Json:
        """What the layers are made of: where it is the same, so are they."""
        maps = (self.before, self.after, *self.later)
        return {"maps": [row.map_id for row in maps], "threshold": self.threshold}


def update_changes(
    ledger: Ledger, root: Store, area: AreaConfig, tell: Callable[[str], None]
) -> tuple[tuple[str, ...], tuple[NotCompared, ...]]:
    """Bring an area's change layers up to its current maps.

    There is one between each map and the next that has enough valid cells and is of the same model; where
    the two do not suit each other, its folder says why instead. One that a later map confirms, or whose map
    was superseded, is made again; one between maps that are no longer neighbours goes. Where the area wants
    no change layers, none is made and those there stay.

    Returns:
        The folders of the layers that were made, relative to the root; and the maps that cannot be compared.

    Raises:
        ReadError: a map cannot be read.
        OutputError: a layer cannot be written.
        LedgerError: the ledger cannot be read.
    """
    if area.change is None:
        return (), ()
    store = root.child(area.name)
    changes = store.child(CHANGES)
    done: dict[str, NotCompared | None] = {}
    while _due(pairs := _pairs(ledger, area, area.change), changes):
        changes.prepare()
        with ExitStack() as stack:
            try:
                stack.enter_context(changes.locked())
            except OutputError:
                tell("another run is at the change layers; it looks again when it is done")
                return _parted(done)
            for pair in _due(pairs, changes):
                if isinstance(pair, str):
                    changes.child(pair).remove()
                    continue
                path = f"{area.name}/{CHANGES}/{pair.name}"
                reason = _compare(pair, store, changes.child(pair.name))
                refused = done[path] = NotCompared(folder=path, reason=reason) if reason else None
                tell(str(refused or f"change from {pair.before.period} to {pair.after.period}"))
    layers = {
        pair.after.map_id: (f"{area.name}/{CHANGES}/{pair.name}",)
        for pair in pairs
        if _origin(changes.child(pair.name), CHANGE_NAME) == pair.origin
    }
    ledger.note_changes(area.name, layers)
    return _parted(done)


def _parted(done: Mapping[str, NotCompared | None]) -> tuple[tuple[str, ...], tuple[NotCompared, ...]]:
    """Layers that were made, by their folders, and those that cannot be."""
    made = tuple(path for path, refused in done.items() if refused is None)
    return made, tuple(filter(None, done.values()))


def _pairs(ledger: Ledger, area: AreaConfig, change: ChangeConfig) -> list[_Pair]:
    pairs = []
    maps = [row for row in ledger.latest_maps(area.name) if row.valid * 100 >= area.min_valid]
    for index in range(len(maps) - 1):
        before, after, *later = maps[index : index + 2 + change.confirm]
        of_model = [row for row in later if row.model_sha256 == after.model_sha256]
        # A map of many days stays beside those of its days until they show all of it.
        overlap = date.fromisoformat(before.period) + timedelta(before.window_days) > date.fromisoformat(
            after.period
        )
        if before.model_sha256 == after.model_sha256 and not overlap:
            pairs.append(_Pair(before=before, after=after, later=tuple(of_model), threshold=change.threshold))
    return pairs


def _due(pairs: Sequence[_Pair], changes: Store) -> list[_Pair | str]:
    """Pairs whose layers are to be made, and names of those whose are to go."""
    there = [name for name in changes.names() if PAIR.fullmatch(name)]
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


def _compare(pair: _Pair, maps: Store, target: Store) -> str:
    """Make the layers of two maps; where they do not suit each other say why, and leave word of it."""
    target.prepare()
    names = (*OUTPUTS[:-1], REFUSAL_NAME, OUTPUTS[-1])
    with target.replaced(names) as folder, tempfile.TemporaryDirectory(prefix="landuse-") as temporary:

        def told(error: UsageError) -> str:
            return printable(redact(str(error)).replace(f"{temporary}/", "").replace(f"{maps}/", ""))

        rows = [pair.before, pair.after]
        before, after = (_at_hand(maps, row.map_id, Path(temporary)) for row in rows)
        later, warnings = [], []
        try:
            _check_masked(before, after)
            for row in pair.later:
                path = _at_hand(maps, row.map_id, Path(temporary))
                try:
                    _check_suited(before, after, path)
                except UsageError as error:  # made with other settings: it takes nothing from the two before
                    warnings.append(f"The map of {row.period} confirms nothing: {told(error)}")
                else:
                    rows.append(row)
                    later.append(path)
            compare_maps(
                ChangeRequest(
                    before=before, after=after, later=tuple(later), threshold=pair.threshold, out=folder
                )
            )
        except UsageError as error:
            # The two do not suit each other, tonight or ever: other cells, or no land that both see.
            reason = told(error)
            (folder / REFUSAL_NAME).write_bytes(_encoded({"made_of": pair.origin, "reason": reason}))
            return reason
        report = mapping(json.loads((folder / CHANGE_NAME).read_bytes()))
        added = {
            "inputs": [
                {**mapping(entry), "path": f"../../{row.map_id}/landuse.tif"}
                for entry, row in zip(sequence(report["inputs"]), rows, strict=True)
            ],
            "warnings": [*sequence(report["warnings"]), *warnings],
            "made_of": pair.origin,
        }
        (folder / CHANGE_NAME).write_bytes(_encoded({**report, **added}))
    return ""


def _check_masked(*maps: Path) -> None:
    """See that no map is known to lack a cloud mask: a layer of its clouds would be published as change.

    Raises:
        UsageError: one is.
    """
    for path in maps:
        with opened_map(path) as opened:
            if opened.cloud_mask not in ("yes", ""):
                raise UsageError(
                    f"{opened.path.parent} {opened.clouds_unknown}: what differs may be cloud. Give the "
                    "area a source with a cloud mask, or compare the two with `landuse change` and look."
                )


def _check_suited(*maps: Path) -> None:
    """See that maps can be compared.

    Raises:
        UsageError: they cannot.
    """
    with ExitStack() as stack:
        check_order(overlap_of([stack.enter_context(opened_map(path)) for path in maps]).maps)


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


def _encoded(document: Json) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
