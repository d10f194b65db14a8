"""Pure: the cells and the image of a map in pieces, which a page unpacks where somebody looks.

A raster of up to ``WHOLE_PX`` a side is one piece. A larger one has pieces of ``PIECE_PX`` a side and an
overview, which is drawn where single cells would be smaller than what a screen shows. All of it together
stays within a number of bytes: where it would not, probabilities are told in coarser steps and the image is
compressed more, and where even that is too much, the rasters are thinned.
"""

from __future__ import annotations

import math
import os
import random
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from numpy.typing import NDArray

    from landuse.pipeline.pages.content import MapView

WHOLE_PX = 1024
PIECE_PX = 512

EXACT_PX = 2**18
"""Images of up to so many pixels are kept exactly, as PNG; larger ones are WebP with losses."""

SAMPLED_PIECES = 8
"""So many pieces are packed to tell how large all of them would be."""

MOST_COUNTED = 2**20
"""Entries of a table are found by counting where there could be at most so many, else by sorting."""

MOST_THREADS = 8
"""Threads that pack pieces; each takes some 20 MB."""

DEFLATE_LEVEL = 7
"""The next takes twice as long for a hundredth less."""

DIGITS = bytes(sorted(set(range(33, 127)) - set(b'<"\\'))).decode()
"""The 91 characters that contents are written with: 13 bits take two of them, base64 would take 8 % more.
They end no element, and each is a byte in UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """How much is kept of what takes most of a page's bytes."""

    share_step: int
    """Probabilities are rounded to multiples of so many ``1 / SHARE_STEPS``, of which it is a divisor."""
    quality: int
    """Of the image, as WebP counts it, 0..100."""


DETAILS = (
    Detail(share_step=1, quality=80),
    Detail(share_step=5, quality=70),
    Detail(share_step=10, quality=60),
    Detail(share_step=10, quality=40),
    Detail(share_step=25, quality=60),
    Detail(share_step=25, quality=40),
)
"""From the finest to the coarsest; the first that fits is taken."""


OVERVIEW_SHARE_STEP = 10
"""The overview's confidences, which are only painted, are rounded to multiples of so many
``1 / SHARE_STEPS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRaster:
    """A raster in pieces. Their contents are text, as ``to_text`` makes it."""

    shape: tuple[int, int]
    """(row, col) of the raster."""
    side: int
    """Rows and columns of a piece; those at the right and the bottom may have fewer."""
    overview: str | None
    """The raster at a size that is drawn whole; None of cells of one piece."""
    overview_factor: int
    """Rows and columns of the raster for each of the overview's."""
    pieces: dict[tuple[int, int], str]
    """By row and column of the piece, counted from the upper left; none of an image that is its overview."""

    @property
    def size_bytes(self) -> int:
        """What it takes in a page."""
        return len(self.overview or "") + sum(map(len, self.pieces.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMap:
    """The cells and the image of a map for a page."""

    view: MapView
    """The map whose rasters were packed: the one given, or the same thinned until it fitted."""
    detail: Detail
    """How much of them was kept."""
    cells: PackedRaster
    """Pieces as ``pack_cells`` makes them; the overview as ``_overview_of_cells`` does."""
    image: PackedRaster
    """Pieces and overview are image files of ``image_type``."""
    image_type: str
    """Such as ``"image/webp"``."""


def pack_map(view: MapView, most_bytes: int) -> PackedMap:
    """The cells and the image of a map, as detailed as they fit into so many bytes of a page.

    Rasters of one piece are packed as they are: at their worst, noise, they take 7 MB.
    """
    while True:
        overview = _overview_of_cells(view)
        for detail in DETAILS:
            if not _is_small(view) and len(overview) + _estimated_bytes(view, detail) > most_bytes:
                continue
            packed = PackedMap(
                view=view,
                detail=detail,
                cells=_packed_cells(view, detail, overview),
                image=_packed_image(view.image, detail),
                image_type=_image_type(view.image),
            )
            if packed.cells.size_bytes + packed.image.size_bytes <= most_bytes or _is_small(view):
                return packed
        view = _thinned(view)


def pack_cells(view: MapView, rows: slice, cols: slice, detail: Detail) -> bytes:
    """A piece of the cells, compressed with zlib.

    Most cells share their values with many others, so they are told by their place in two tables: one of
    class, status, land cover and second class, one of the two probabilities. Little-endian:

    - two uint32: entries of each table;
    - the tables, four and two uint8 an entry, ``NODATA_ID`` where a map has none of it; the most frequent
      entries first;
    - for each table the cells' places in it: a plane of the low bytes and, only where the table has more
      than 256 entries, a plane of the high bytes; rows from the top.
    """
    none = np.full_like(view.classes[rows, cols], NODATA_ID)

    def part(values: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        return none if values is None else values[rows, cols]

    rounded = _rounding(detail.share_step)
    tables, planes = [], []
    for layers in (
        (part(view.classes), part(view.status), part(view.land_cover), part(view.second)),
        (rounded[part(view.confidence)], rounded[part(view.second_share)]),
    ):
        table, shown = _table_and_places(layers)
        tables.append(table)
        planes.append((shown & 255).astype(np.uint8))
        if len(table) > 256:
            planes.append((shown >> 8).astype(np.uint8))
    head = np.array([len(table) for table in tables], "<u4")
    return zlib.compress(b"".join(a.tobytes() for a in (head, *tables, *planes)), DEFLATE_LEVEL)


def _table_and_places(layers: tuple[NDArray[np.uint8], ...]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The entries that cells of two or four layers have, and where each cell's is in that table.

    Returns:
        (entry, layer), the most frequent first, of as many cells in the order of the layers' values, the
        last layer's counting most; (row, col), places in it.
    """
    known = [np.bincount(layer.ravel(), minlength=256).nonzero()[0] for layer in layers]
    sizes = tuple(map(len, known))
    # Numbers of the values that occur, instead of the values: few enough to be counted, which is several
    # times as fast as to sort them.
    keys: NDArray[np.intp] = np.zeros(layers[0].shape, np.intp)
    for layer, values in zip(reversed(layers), reversed(known), strict=True):
        rank = np.zeros(256, np.intp)
        rank[values] = np.arange(len(values))
        keys = keys * len(values) + rank[layer]
    if math.prod(sizes) <= MOST_COUNTED:
        counts = np.bincount(keys.ravel(), minlength=math.prod(sizes))
        found = counts.nonzero()[0]
        counts = counts[found]
        places = np.zeros(math.prod(sizes), np.intp)
        places[found] = np.arange(len(found))
        places = places[keys]
    else:  # noise
        found, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
    by_count = np.argsort(-counts, kind="stable")
    rank = np.empty(len(found), np.intp)
    rank[by_count] = np.arange(len(found))
    numbers = np.unravel_index(found[by_count], sizes[::-1])[::-1]
    table = np.stack([values[number] for values, number in zip(known, numbers, strict=True)], axis=-1)
    return table.astype(np.uint8), rank[places].reshape(layers[0].shape)


def to_text(content: bytes) -> str:
    """Bytes as text of ``DIGITS``.

    What is written is the number of bytes as big-endian uint32, and the bytes: 13 bits at a time, as a
    number of two digits, the higher one first.
    """
    framed = np.frombuffer(len(content).to_bytes(4, "big") + content, np.uint8)
    bits = np.unpackbits(framed)
    groups = np.pad(bits, (0, -len(bits) % 13)).reshape(-1, 13)
    numbers = groups @ (1 << np.arange(12, -1, -1))
    digits = np.stack(np.divmod(numbers, len(DIGITS)), axis=-1).ravel()
    return bytes(np.frombuffer(DIGITS.encode(), np.uint8)[digits]).decode()


def most_frequent(values: NDArray[np.integer], factor: int) -> NDArray[np.integer]:
    """The value that most cells have, of each square of ``factor`` rows and columns.

    Args:
        values: (row, col), of few different values; of as many cells the smallest value is taken.
        factor: side of a square; those at the right and the bottom may be cut off.

    Returns:
        (row, col), with as many rows and columns as there are squares.
    """
    rows, cols = (-(-side // factor) for side in values.shape)
    best = np.zeros((rows, cols), values.dtype)
    most = np.zeros((rows, cols), np.uint32)
    for value in np.unique(values):
        count = _square_sums(values == value, factor)
        ahead = count > most
        best[ahead] = value
        most[ahead] = count[ahead]
    return best


def reduced_classes(view: MapView, factor: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Class and status that most cells have, of each square of ``factor`` rows and columns, (row, col).

    They are chosen as one: a square without a class has a status that says why.
    """
    chosen = most_frequent(view.status * np.uint16(256) + view.classes, factor)
    return (chosen & 255).astype(np.uint8), (chosen >> 8).astype(np.uint8)


def _rounding(step: int) -> NDArray[np.uint8]:
    """What each value of a probability raster is rounded to; nodata stays."""
    table = np.arange(256)
    table[: SHARE_STEPS + 1] = (table[: SHARE_STEPS + 1] + step // 2) // step * step
    return table.astype(np.uint8)


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], slice, slice]]:
    """Row and column of each piece of a raster, and the rows and columns in it."""
    side = _side(shape)
    for row in range(-(-shape[0] // side)):
        for col in range(-(-shape[1] // side)):
            yield (row, col), slice(row * side, (row + 1) * side), slice(col * side, (col + 1) * side)


def _side(shape: tuple[int, ...]) -> int:
    longest = max(shape[:2])
    return longest if longest <= WHOLE_PX else PIECE_PX


def _overview_factor(shape: tuple[int, ...]) -> int:
    return -(-max(shape[:2]) // WHOLE_PX)


def _packed_cells(view: MapView, detail: Detail, overview: str) -> PackedRaster:
    shape = view.classes.shape
    return PackedRaster(
        shape=(shape[0], shape[1]),
        side=_side(shape),
        overview=overview or None,
        overview_factor=_overview_factor(shape),
        pieces=_packed_pieces(shape, lambda rows, cols: to_text(pack_cells(view, rows, cols, detail))),
    )


def _overview_of_cells(view: MapView) -> str:
    """The cells' overview; nothing of cells of one piece, which is drawn whole itself.

    Compressed with zlib: planes of classes, statuses, confidences and, of a map that has them, land covers;
    uint8, rows from the top. A square has the class that most of its cells have, and as confidence the mean
    over its cells, rounded as what is only looked at may be.
    """
    factor = _overview_factor(view.classes.shape)
    if factor == 1:
        return ""
    planes = [
        *reduced_classes(view, factor),
        _rounding(OVERVIEW_SHARE_STEP)[_mean_share(view.confidence, factor)],
    ]
    if view.land_cover is not None:
        planes.append(most_frequent(view.land_cover, factor).astype(np.uint8))
    return to_text(zlib.compress(b"".join(plane.tobytes() for plane in planes), DEFLATE_LEVEL))


def _mean_share(shares: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Mean of each square's cells that have a value, 255 where none has."""
    known = shares != NODATA_ID
    sums, counts = (_square_sums(values, factor) for values in (np.where(known, shares, 0), known))
    return np.where(counts, np.rint(sums / np.maximum(counts, 1)), NODATA_ID).astype(np.uint8)


def _square_sums(values: NDArray[np.generic], factor: int) -> NDArray[np.uint32]:
    """Sum over each square of ``factor`` rows and columns, (row, col)."""
    padded = np.pad(values, [(0, -side % factor) for side in values.shape])
    sums = np.zeros([side // factor for side in padded.shape], np.uint32)
    for row in range(factor):
        for col in range(factor):
            sums += padded[row::factor, col::factor]
    return sums


def _packed_image(image: NDArray[np.uint8], detail: Detail) -> PackedRaster:
    """The image (y, x, 3); one of a single piece is its own overview."""
    factor = _overview_factor(image.shape)
    return PackedRaster(
        shape=(image.shape[0], image.shape[1]),
        side=_side(image.shape),
        overview=_overview_of_image(image, detail),
        overview_factor=factor,
        pieces=_packed_pieces(image.shape, lambda rows, cols: _image_piece(image, rows, cols, detail))
        if factor > 1
        else {},
    )


def _overview_of_image(image: NDArray[np.uint8], detail: Detail) -> str:
    """The image at a size that is drawn whole, with the same outline."""
    factor = _overview_factor(image.shape)
    picture = Image.fromarray(image)
    if factor > 1:
        size = (-(-image.shape[1] // factor), -(-image.shape[0] // factor))
        picture = picture.resize(size, Image.Resampling.BOX)
    return to_text(_encoded(picture, _image_type(image), detail))


def _image_piece(image: NDArray[np.uint8], rows: slice, cols: slice, detail: Detail) -> str:
    return to_text(_encoded(Image.fromarray(image[rows, cols]), _image_type(image), detail))


def _image_type(image: NDArray[np.uint8]) -> str:
    return "image/png" if image.shape[0] * image.shape[1] <= EXACT_PX else "image/webp"


def _encoded(picture: Image.Image, image_type: str, detail: Detail) -> bytes:
    content = BytesIO()
    if image_type == "image/png":
        picture.save(content, "PNG", optimize=True)
    else:
        picture.save(content, "WEBP", quality=detail.quality, method=3)
    return content.getvalue()


def _estimated_bytes(view: MapView, detail: Detail) -> float:
    """About what the pieces and the image's overview take in a page."""

    def cells(rows: slice, cols: slice) -> str:
        return to_text(pack_cells(view, rows, cols, detail))

    def image(rows: slice, cols: slice) -> str:
        return _image_piece(view.image, rows, cols, detail)

    # A pixel of the overview takes about twice what one of the image takes: it is less like its neighbours.
    overview = 2 / _overview_factor(view.image.shape) ** 2
    return _sampled_bytes(view.classes.shape, cells) + _sampled_bytes(view.image.shape, image) * (
        1 + overview
    )


def _sampled_bytes(shape: tuple[int, ...], pack: Callable[[slice, slice], str]) -> float:
    """About what a raster's pieces take together, of some of them."""
    count = len(list(_pieces(shape)))
    # By chance, but always the same: any regular step may run along one edge of the map.
    chosen = set(random.Random(0).sample(range(count), min(SAMPLED_PIECES, count)))
    packed = _packed_pieces(shape, pack, chosen)
    side = _side(shape)
    taken = sum(min(side, shape[0] - row * side) * min(side, shape[1] - col * side) for row, col in packed)
    return sum(map(len, packed.values())) * shape[0] * shape[1] / taken


def _packed_pieces(
    shape: tuple[int, ...], pack: Callable[[slice, slice], str], chosen: Container[int] | None = None
) -> dict[tuple[int, int], str]:
    """A raster's pieces, by row and column; only those of the chosen numbers, where some are chosen.

    They are packed in threads: compressing and sorting hold no lock.
    """
    pieces = [piece for i, piece in enumerate(_pieces(shape)) if chosen is None or i in chosen]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        packed = pool.map(lambda piece: pack(piece[1], piece[2]), pieces)
        return {at: text for (at, _, _), text in zip(pieces, packed, strict=True)}


def _is_small(view: MapView) -> bool:
    return bool(max(*view.classes.shape, *view.image.shape) <= WHOLE_PX)


def _thinned(view: MapView) -> MapView:
    """The view with half as many rows and columns in those rasters that have more than one piece."""
    smaller = view
    if max(view.classes.shape) > WHOLE_PX:
        layers = ("classes", "confidence", "status", "land_cover", "second", "second_share")
        kept = {name: values[::2, ::2] for name in layers if (values := getattr(view, name)) is not None}
        smaller = replace(smaller, thinned=2 * view.thinned, **kept)
    if max(view.image.shape[:2]) > WHOLE_PX:
        half = (-(-view.image.shape[1] // 2), -(-view.image.shape[0] // 2))
        image = Image.fromarray(view.image).resize(half, Image.Resampling.BOX)
        smaller = replace(smaller, image=np.asarray(image))
    return smaller
