"""A ledger that was lost, made again of the published maps: each item holds the record of its map."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from landuse.errors import LanduseError, LedgerError
from landuse.pipeline.stac_json import mapping
from landuse.pipeline.write.folder import Store
from landuse.pipeline.write.stac_item import ITEM_NAME
from landuse.redact import printable
from landuse.workflows.nightly.ledger.ledger import Ledger
from landuse.workflows.nightly.ledger.records import MapRecord
from landuse.workflows.nightly.published import MAP_FOLDER, RECORD, is_published, read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from landuse.pipeline.stac_json import Json
    from landuse.workflows.nightly.config import NightlyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaRebuilt:
    """What of one area was entered again."""

    area: str
    """Its name."""
    maps: int
    """Maps that the ledger did not know."""
    unread: tuple[str, ...]
    """Folders whose items hold no JSON: their scenes are mapped again once the source lists them."""

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


def rebuild_ledger(config: NightlyConfig, only: Sequence[str] = ()) -> tuple[AreaRebuilt, ...]:
    """Enter in the ledger the published maps that it does not know, with their scenes.

    What it knows stays as it is. Scenes that are in no map are found again by the next night.

    Args:
        config: of the nightly runs.
        only: names of areas; empty: all.

    Raises:
        UsageError: the config has no area of such a name.
        LedgerError: an item holds no record of its map, or the ledger cannot be written. Nothing of its
            area is entered.
        OutputError: the maps cannot be looked at.
    """
    names = [config.area(name).name for name in dict.fromkeys(only)] or [area.name for area in config.areas]
    root = Store.at(config.out.get_secret_value())
    root.prepare()
    rebuilt = []
    with Ledger.at(config.ledger.get_secret_value()) as ledger:
        for area in names:
            records, unread = _read_records(root.child(area), area)
            maps = ledger.restore(area, records)
            rebuilt.append(AreaRebuilt(area=area, maps=maps, unread=tuple(unread)))
    return tuple(rebuilt)


def _read_records(folder: Store, area: str) -> tuple[list[MapRecord], list[str]]:
    """The records in an area's published items, and the folders whose items hold no JSON."""
    records, unread = [], []
    for name in folder.names():
        item = read_json(folder.child(name), ITEM_NAME) if MAP_FOLDER.fullmatch(name) else None
        if item == {}:
            unread.append(name)
        elif item is not None and is_published(item):
            records.append(_record(folder, area, name, item))
    return records, unread


def _record(folder: Store, area: str, name: str, item: Json) -> MapRecord:
    try:
        record = MapRecord.from_dict(mapping(item.get("properties")).get(RECORD))
        own = (record.map.map_id, record.map.area, record.map.path)
        if own != (name, area, f"{area}/{name}"):
            raise ValueError(f"it is of map {own[0]!r} of area {own[1]!r}")
    except (ValueError, TypeError, LanduseError) as error:
        reason = printable(" ".join(str(error).split()))[:200]
        raise LedgerError(
            f"{folder}/{name}/{ITEM_NAME} holds no record of its map ({reason}). Move the folder away, then "
            "run `landuse nightly rebuild` again."
        ) from error
    return record
