"""IO: STAC catalogues that grow item by item: of maps (``--catalog``) and of own imagery.

A catalogue holds links that are relative to itself; each item stays among its own files. Every catalogue is a
``--source`` for maps.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import OutputError, UsageError
from landuse.pipeline.stac_json import is_land_use_map, mapping, sequence, text
from landuse.pipeline.write.folder import prepare_folder, write_json
from landuse.pipeline.write.stac_collection import COLLECTION_NAME
from landuse.pipeline.write.stac_item import ITEM_NAME, local_href

if TYPE_CHECKING:
    from collections.abc import Iterator

    from landuse.pipeline.stac_json import Json

CATALOG_NAME = "catalog.json"

_LOCK = ".catalog.lock"
"""File that is locked while the catalogue grows: the folder itself may be a map's, locked by its run."""

_JSON = "application/json"

_MEDIA_TYPES = {"item": "application/geo+json", "child": _JSON}
"""Of what a catalogue's links of each relation lead to."""

_ITEM_ID = "landuse:item_id"
"""Field of a link that tells which item is there without reading it."""


def add_to_catalog(catalog_folder: Path, map_folder: Path) -> Path:
    """List a map in ``catalog.json`` of a folder, which is made where there is none; two may do so at once.

    The same map, by its id or its place, is listed once: the later one counts.

    Args:
        catalog_folder: where the catalogue lies; as a rule it holds the maps' folders.
        map_folder: where the map's files are in place.

    Returns:
        Path of ``catalog.json``.

    Raises:
        UsageError: what is there is no catalogue, or the map has no item.
        OutputError: it cannot be written.
    """
    prepare_folder(catalog_folder, "--catalog")
    path, document = catalog_folder / CATALOG_NAME, map_folder / ITEM_NAME
    with _locked(catalog_folder):
        catalog, item = _catalog(path), _item(document)
        title = text(mapping(item.get("properties")).get("title"))
        catalog, item = linked(catalog, path, item, document, {"title": title, _ITEM_ID: item["id"]})
        write_json(document, item)
        write_json(path, catalog)
    return path


def add_collection_to_catalog(catalog_folder: Path, maps_folder: Path) -> Path:
    """List the collection of several zones' maps, and by it each of the maps, as ``add_to_catalog`` a map.

    Args:
        catalog_folder: where the catalogue lies.
        maps_folder: where the collection and the folders of the maps are in place.

    Returns:
        Path of ``catalog.json``.

    Raises:
        UsageError: what is there is no catalogue, or the folder holds no collection of maps.
        OutputError: it cannot be written.
    """
    prepare_folder(catalog_folder, "--catalog")
    path, document = catalog_folder / CATALOG_NAME, maps_folder / COLLECTION_NAME
    with _locked(catalog_folder):
        catalog, collection = _catalog(path), _read(document)
        if collection.get("type") != "Collection" or not text(collection.get("id")):
            raise UsageError(f"{document} is no collection of maps. Name the folder of `--zones each`.")
        about = {"title": text(collection.get("title")), _ITEM_ID: collection["id"]}
        catalog, collection = linked(catalog, path, collection, document, about, "child")
        for link in _links(collection):
            if link.get("rel") == "item":
                of_map = maps_folder / text(link.get("href"))
                write_json(of_map, _with_root(_item(of_map), of_map, path))
        write_json(document, collection)
        write_json(path, catalog)
    return path


def _with_root(item: Json, document: Path, path: Path) -> Json:
    """An item whose topmost catalogue is that at ``path``."""
    root = {"rel": "root", "href": local_href(str(path.absolute()), document.parent), "type": _JSON}
    return {**item, "links": [root, *(entry for entry in _links(item) if entry.get("rel") != "root")]}


def linked(
    catalog: Json, path: Path, item: Json, document: Path, about: Json, relation: str = "item"
) -> tuple[Json, Json]:
    """A catalogue and an item with links to each other. An older link to the same item is dropped.

    Two links lead to the same item where they name the same file, or carry the same ``landuse:item_id``.

    Args:
        catalog: the catalogue.
        path: where it lies.
        item: the item.
        document: where it will lie.
        about: further fields of the catalogue's link to the item.
        relation: of that link; ``"child"`` where the item is a collection.

    Returns:
        The catalogue and the item, ready to be written.
    """
    href = local_href(str(document.absolute()), path.parent)
    link = {"rel": relation, "href": href, "type": _MEDIA_TYPES[relation], **about}
    above = local_href(str(path.absolute()), document.parent)
    upward = [{"rel": rel, "href": above, "type": _JSON} for rel in ("root", "parent")]
    own = [entry for entry in _links(item) if entry.get("rel") not in ("root", "parent", "self")]
    kept = [
        entry
        for entry in _links(catalog)
        if not (
            leads_to(entry, path, document)
            or (entry.get("rel") == relation and _ITEM_ID in about and entry.get(_ITEM_ID) == about[_ITEM_ID])
        )
    ]
    return {**catalog, "links": [*kept, link]}, {**item, "links": [*upward, *own]}


def lists(catalog: Json, path: Path, document: Path) -> bool:
    """Whether the catalogue at ``path`` has a link to the item at ``document``."""
    return any(leads_to(entry, path, document) for entry in _links(catalog))


def leads_to(link: Json, path: Path, document: Path) -> bool:
    """Whether a link of the catalogue at ``path`` is to the item at ``document``."""
    place = os.path.normpath(path.parent.absolute() / text(link.get("href")))
    return link.get("rel") in _MEDIA_TYPES and place == os.path.normpath(document.absolute())


def check_catalog(catalog_folder: Path, map_folder: Path) -> None:
    """See that a map can be listed, before it is made; nothing is written.

    Raises:
        UsageError: what is there is no catalogue, or readers could not follow a link to the map.
        OutputError: it cannot be written.
    """
    for folder in (catalog_folder, map_folder):
        if set("#?") & set(str(folder.absolute())):
            raise UsageError(
                f"{folder} has a # or ? in its path, where readers of STAC links stop. Rename it, or leave "
                "--catalog out."
            )
    there = next(path for path in (catalog_folder, *catalog_folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise OutputError(f"Catalogue folder {catalog_folder} cannot be written. Choose another --catalog.")
    if (catalog_folder / CATALOG_NAME).exists():
        _catalog(catalog_folder / CATALOG_NAME)


def _links(document: Json) -> list[Json]:
    return [mapping(entry) for entry in sequence(document.get("links"))]


def _catalog(path: Path) -> Json:
    return read_catalog(
        path,
        "--catalog",
        identifier="landuse-maps",
        title="Land-use maps",
        description="Maps made with landuse. Each links to the scenes that it was made of.",
    )


def read_catalog(path: Path, option: str, *, identifier: str, **fields: str) -> Json:
    """The catalogue at ``path``, or a new one where there is no file.

    Args:
        path: the catalogue's file.
        option: what named its folder, for messages.
        identifier: id of a new catalogue.
        fields: further fields of a new catalogue.

    Raises:
        UsageError: the file is not a STAC catalogue.
    """
    if not path.exists():
        root = {"rel": "root", "href": f"./{path.name}", "type": _JSON}
        return {"type": "Catalog", "id": identifier, "stac_version": "1.1.0", **fields, "links": [root]}
    catalog = _read(path)
    if catalog.get("type") != "Catalog":
        raise UsageError(f"{path} is not a STAC catalogue. Choose another {option}.")
    return catalog


def _item(path: Path) -> Json:
    item = _read(path)
    if not (is_land_use_map(item) and text(item.get("id"))):
        raise UsageError(f"{path} is no map that landuse made. Name the folder of a map.")
    return item


def _read(path: Path) -> Json:
    try:
        return mapping(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as STAC ({error}). Choose another folder.") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for whoever else adds to the catalogue; a lock ends with its process, however that ends."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(
            f"Catalogue folder {folder} cannot be written ({error.strerror or error}). Choose another."
        ) from error
    try:
        with suppress(OSError):  # a file system that knows no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
