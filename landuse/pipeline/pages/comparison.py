"""Pure: two maps beside each other as one HTML page that opens from disk, without a script.

Both maps lie in it as images; the page asks nothing of any network, and its policy lets nothing in it run.
Every text in it is escaped: names and notes come from other people's files.
"""

from __future__ import annotations

import hashlib
import io
from base64 import b64encode
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from landuse.pipeline.write.folder import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from landuse.pipeline.maps.agreement import Agreement

_NOTHING, _SAME, _DIFFERS = (255, 255, 255), (232, 232, 232), (200, 30, 30)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparisonView:
    """What the page shows."""

    title: str
    """Heading."""
    names: tuple[str, ...]
    """Classes by id."""
    colors: tuple[tuple[int, int, int], ...]
    """Red, green, blue of each."""
    of_map: NDArray[np.uint8]
    """(row, col), ids of the map; ids that are no class show nothing."""
    of_reference: NDArray[np.uint8]
    """(row, col), ids of the reference on the same cells."""
    agreement: Agreement
    """The figures."""
    notes: tuple[str, ...]
    """What to know, a sentence each."""


def write_comparison_page(target: Path, view: ComparisonView) -> None:
    """Write the page, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    page = render_comparison(view)
    with atomic_path(target) as partial:
        partial.write_text(page, "utf-8")


def render_comparison(view: ComparisonView) -> str:
    """The page, whole."""
    style = _style(view)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    found = view.agreement
    panels = "".join(
        f'<figure><figcaption>{escape(title)}</figcaption><img alt="{escape(title)}" src="{_png(image)}">'
        "</figure>"
        for title, image in (
            ("The map", _colored(view.of_map, view.colors)),
            ("The reference", _colored(view.of_reference, view.colors)),
            ("Where they differ", _difference(view)),
        )
    )
    legend = "".join(f'<li><i class="c{i}"></i>{escape(view.names[i])}</li>' for i in found.present)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(view.title)}</title><style>{style}</style></head>
<body><h1>{escape(view.title)}</h1>
<p class="sum">They agree on <b>{found.overall:.1%}</b> of {found.total_ha:,.1f} ha.
On {found.quantity:.1%} of the area they differ by how much of each class there is, and on
{found.allocation:.1%} by where it lies.</p>
<main>{panels}</main><ul class="legend">{legend}</ul>
<h2>By class</h2>{_class_table(found)}
<h2>Hectares of the map's classes (rows) and the reference's (columns)</h2>{_matrix(found)}
<h2>Notes</h2><ul>{"".join(f"<li>{escape(note)}</li>" for note in view.notes)}
<li>The reference is another map and not the truth. Labelled points tell which of two maps is better.</li>
</ul></body></html>
"""


def _style(view: ComparisonView) -> str:
    swatches = "".join(f".c{i}{{background:#{bytes(color).hex()}}}" for i, color in enumerate(view.colors))
    return (
        "body{font:16px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:90rem;padding:0 1rem;"
        "color:#1b1b1b}"
        "main{display:grid;grid-template-columns:1fr 1fr;gap:1rem}figure{margin:0}"
        "figcaption{font-weight:600;margin-bottom:.3rem}"
        "img{width:100%;image-rendering:pixelated;border:1px solid #bbb}"
        ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;padding:0}"
        ".legend i{display:inline-block;width:1em;height:1em;margin-right:.4em;vertical-align:-.1em;"
        "border:1px solid #888}"
        "table{border-collapse:collapse;display:block;overflow-x:auto}"
        "td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}"
        "td:first-child,th:first-child{text-align:left}.same{font-weight:600;background:#eef4ee}"
        "@media(max-width:50rem){main{grid-template-columns:1fr}}" + swatches
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _class_table(found: Agreement) -> str:
    head = "".join(
        f"<th>{title}</th>" for title in ("class", "map ha", "reference ha", "user", "producer", "F1", "IoU")
    )
    rows = "".join(
        f"<tr><td>{escape(entry.name)}</td><td>{entry.map_ha:,.1f}</td><td>{entry.reference_ha:,.1f}</td>"
        f"<td>{_share(entry.users)}</td><td>{_share(entry.producers)}</td><td>{_share(entry.f1)}</td>"
        f"<td>{_share(entry.iou)}</td></tr>"
        for entry in found.classes
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _matrix(found: Agreement) -> str:
    present = found.present
    head = "<th></th>" + "".join(f"<th>{escape(found.names[j])}</th>" for j in present)
    rows = "".join(
        f"<tr><th>{escape(found.names[i])}</th>"
        + "".join(f"<td{' class=same' if i == j else ''}>{found.hectares[i, j]:,.1f}</td>" for j in present)
        + "</tr>"
        for i in present
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _colored(ids: NDArray[np.uint8], colors: tuple[tuple[int, int, int], ...]) -> Image.Image:
    """Ids in their colours, as an image of a palette."""
    palette = np.full((256, 3), _NOTHING, np.uint8)
    palette[: len(colors)] = colors
    image = Image.fromarray(np.ascontiguousarray(ids), "P")
    image.putpalette(palette.tobytes())
    return image


def _difference(view: ComparisonView) -> Image.Image:
    size = len(view.names)
    both = (view.of_map < size) & (view.of_reference < size)
    kinds = np.where(both, 1 + (view.of_map != view.of_reference), 0).astype(np.uint8)
    return _colored(kinds, (_NOTHING, _SAME, _DIFFERS))


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
