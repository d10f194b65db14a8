"""Pure: how QGIS draws a layer of a GeoPackage, as a QML document for its table ``layer_styles``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from landuse.classes import LandUseClass

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


_NULL = "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"
"""What QGIS's value map takes for "no value" (QgsValueMapFieldFormatter::NULL_VALUE)."""


def label_form(
    layer: str,
    *,
    column: str,
    note: str,
    fixed: Sequence[str],
    hidden: Sequence[str],
    legend: Sequence[LandUseClass],
) -> LayerStyle:
    """Points as rings, and a form that offers the classes by their titles and stores their names.

    Args:
        layer: the layer's name.
        column: takes the class's name.
        note: takes free text.
        fixed: columns that are shown but not edited.
        hidden: columns that are not shown.
        legend: the classes to choose from.
    """
    root = ElementTree.Element("qgis", version=_VERSION, styleCategories="Symbology|Fields|Forms")
    _rings(root)
    fields = ElementTree.SubElement(root, "fieldConfiguration")
    for name in fixed:
        _widget(fields, name, "TextEdit")
    for name in hidden:
        _widget(fields, name, "Hidden")
    choices = ElementTree.SubElement(_widget(fields, column, "ValueMap"), "Option", name="map", type="List")
    # "" takes a label back.
    for title, value in [("", _NULL), *((printable(entry.title), entry.name) for entry in legend)]:
        choice = ElementTree.SubElement(choices, "Option", type="Map")
        ElementTree.SubElement(choice, "Option", name=title, value=value, type="QString")
    multiline = _widget(fields, note, "TextEdit")
    ElementTree.SubElement(multiline, "Option", name="IsMultiline", value="true", type="bool")
    editable = ElementTree.SubElement(root, "editable")
    for name in (*fixed, *hidden):
        ElementTree.SubElement(editable, "field", name=name, editable="0")
    return LayerStyle(layer=layer, description="points to label", qml=_text(root))


def _widget(fields: ElementTree.Element, name: str, kind: str) -> ElementTree.Element:
    """A field's widget; returns the map of its options."""
    field = ElementTree.SubElement(fields, "field", name=name, configurationFlags="None")
    widget = ElementTree.SubElement(field, "editWidget", type=kind)
    return ElementTree.SubElement(ElementTree.SubElement(widget, "config"), "Option", type="Map")


def _rings(root: ElementTree.Element) -> None:
    """Hollow markers: what is to be judged stays in sight."""
    renderer = ElementTree.SubElement(root, "renderer-v2", type="singleSymbol")
    symbols = ElementTree.SubElement(renderer, "symbols")
    symbol = ElementTree.SubElement(symbols, "symbol", name="0", type="marker", alpha="1")
    layer = ElementTree.SubElement(symbol, "layer", {"class": "SimpleMarker", "enabled": "1", "pass": "0"})
    options = ElementTree.SubElement(layer, "Option", type="Map")
    look = {"name": "circle", "color": "0,0,0,0", "outline_color": "230,30,160,255", "outline_width": "0.6"}
    for key, value in {**look, "size": "3"}.items():
        ElementTree.SubElement(options, "Option", name=key, value=value, type="QString")
