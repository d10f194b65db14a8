"""Pure: how QGIS draws a layer of a GeoPackage, as a QML document for its table ``layer_styles``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERSION = "3.22"
"""Of QGIS, whose long-term release first wrote QML like this; later ones read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleEntry:
    """A value of a column, and how it is drawn."""

    value: int
    """In the column."""
    label: str
    """In the legend."""
    color: tuple[int, int, int]
    """Red, green, blue, 0..255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStyle:
    """How a layer is drawn when it is opened."""

    layer: str
    """The layer's name."""
    description: str
    """What it shows, in a few words."""
    qml: str
    """QGIS's own description of it."""


def categorized(layer: str, column: str, entries: Sequence[StyleEntry], description: str) -> LayerStyle:
    """Polygons filled by the values of a column, with a legend, without outlines.

    Args:
        layer: the layer's name.
        column: of whole numbers.
        entries: the values, in the legend's order.
        description: what it shows.
    """
    root, renderer = _document("categorizedSymbol", attr=column)
    categories = ElementTree.SubElement(renderer, "categories")
    symbols = ElementTree.SubElement(renderer, "symbols")
    for index, entry in enumerate(entries):
        ElementTree.SubElement(
            categories,
            "category",
            symbol=str(index),
            value=str(entry.value),
            label=printable(entry.label),
            type="long",
            render="true",
        )
        fill = ",".join(map(str, (*entry.color, 255)))
        _symbol(symbols, str(index), {"color": fill, "style": "solid", "outline_style": "no"})
    return LayerStyle(layer=layer, description=description, qml=_text(root))


def outlined(layer: str, description: str) -> LayerStyle:
    """Polygons as their outlines alone.

    Args:
        layer: the layer's name.
        description: what it shows.
    """
    root, renderer = _document("singleSymbol")
    line = {"outline_color": "35,35,35,255", "outline_style": "solid", "outline_width": "0.4"}
    _symbol(ElementTree.SubElement(renderer, "symbols"), "0", {"style": "no", **line})
    return LayerStyle(layer=layer, description=description, qml=_text(root))


def _document(renderer: str, **attributes: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = ElementTree.Element("qgis", version=_VERSION, styleCategories="Symbology")
    return root, ElementTree.SubElement(root, "renderer-v2", {"type": renderer, **attributes})


def _symbol(symbols: ElementTree.Element, name: str, options: dict[str, str]) -> None:
    symbol = ElementTree.SubElement(symbols, "symbol", name=name, type="fill", alpha="1")
    layer = ElementTree.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0"})
    held = ElementTree.SubElement(layer, "Option", type="Map")
    for key, value in options.items():
        ElementTree.SubElement(held, "Option", name=key, value=value, type="QString")
        ElementTree.SubElement(layer, "prop", k=key, v=value)  # what QGIS read before 3.20


def _text(root: ElementTree.Element) -> str:
    return "<!DOCTYPE qgis>\n" + ElementTree.tostring(root, encoding="unicode")
