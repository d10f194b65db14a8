"""Images as files: JPEG, PNG and GeoTIFF, of 8-bit RGB or of Sentinel-2's reflectance, one at a time.

What a file holds is told by its values: ``uint8`` in three bands is an RGB image, ``uint16`` in TIFF is
reflectance as DN (x 10000, without offset). Files are hostile until read: their size is checked before
pixels are decoded, and only the formats named here are opened.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from landuse.errors import UsageError
from landuse.sentinel2 import B8A_LAST, BANDS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PICTURES = (".jpg", ".jpeg", ".png")
"""Suffixes of 8-bit images without georeference."""
TIFFS = (".tif", ".tiff")
"""Suffixes of GeoTIFFs, of either kind."""

MAX_PIXELS = 64_000_000
"""Of an image; one that states more is refused before it is decoded."""

MAX_BANDS = 64
"""Of a TIFF; Sentinel-2 has 13."""

MAX_DN = 32_767
"""Larger DN are cut: every network saturates far below, and they fit into int16."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """The values of one image."""

    values: NDArray[np.uint8] | NDArray[np.int16]
    """(bands, y, x): uint8 of an 8-bit image (red, green, blue), int16 DN of reflectance (``bands``)."""
    bands: tuple[str, ...]
    """Names of the bands of reflectance, in order; empty of an 8-bit image."""

    @property
    def is_reflectance(self) -> bool:
        """Whether the values are DN."""
        return bool(self.bands)


class BrokenImageError(UsageError):
    """An image cannot be read, or holds something else than others do."""


def read_picture(
    path: Path, *, bands: tuple[str, ...] = (), band_order: tuple[str, ...] | None = None
) -> Picture:
    """Read an image.

    Args:
        path: a JPEG, PNG or TIFF.
        bands: of reflectance the bands to take, by name; empty takes all.
        band_order: names of a TIFF's bands in file order; None takes the file's own descriptions, else
            EuroSAT's order where there are 13.

    Raises:
        BrokenImageError: there is no such file, it is damaged, too large, neither 8-bit RGB nor
            reflectance, or lacks a band.

    Example:
        >>> read_picture(Path("airplane07.jpg")).values.shape  # doctest: +SKIP
        (3, 256, 256)
    """
    suffix = path.suffix.lower()
    if suffix in TIFFS:
        return _read_tiff(path, bands, band_order)
    if suffix not in PICTURES:
        raise BrokenImageError(
            f"Image {path} ends in {suffix or 'nothing'}; images end in {', '.join((*PICTURES, *TIFFS))}. "
            "Convert it."
        )
    return Picture(values=_read_pillow(path), bands=())


def resized(values: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """An 8-bit image ``(3, y, x)`` as ``(3, size_px, size_px)``; its sides' ratio is not kept.

    Bilinear; where the image is larger, over all the pixels that a new one covers.
    """
    from PIL import Image

    if values.shape[1:] == (size_px, size_px):
        return values
    image = Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))
    small = image.resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))  # (3, size_px, size_px)


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImageError(
            f"Image {path} has {width} x {height} px; at most {MAX_PIXELS} pixels are read. Cut or shrink it."
        )


def _read_pillow(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    # What Pillow raises on damaged and on enormous images.
    damage = (
        OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning,
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                _check_size(path, *image.size)
                if image.mode != "RGB":
                    raise BrokenImageError(
                        f"Image {path} is of mode {image.mode}, not 8-bit RGB. Convert it."
                    )
                pixels = np.asarray(image)
    except damage as error:
        raise BrokenImageError(
            f"Image {path} cannot be read ({' '.join(str(error).split())[:200]}). Replace it or take it out."
        ) from error
    return pixels.transpose(2, 0, 1)  # (3, y, x)


def _read_tiff(path: Path, bands: tuple[str, ...], band_order: tuple[str, ...] | None) -> Picture:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        # The driver is named: a .tif that is another format's file would be opened by that, and a VRT
        # leads anywhere. The folder is not listed: sidecars are not wanted, and folders are large.
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            rasterio.open(path, driver="GTiff") as file,
        ):
            _check_size(path, file.width, file.height)
            kinds = set(file.dtypes)
            if kinds == {"uint8"} and file.count == 3:
                return Picture(values=file.read(), bands=())
            if kinds != {"uint16"} or file.count > MAX_BANDS:
                raise BrokenImageError(
                    f"Image {path} has {file.count} bands of {', '.join(sorted(kinds))}; 8-bit RGB has 3 of "
                    "uint8, and reflectance is uint16 DN (x 10000, no offset). Convert it."
                )
            order = _order(path, file.count, tuple(text or "" for text in file.descriptions), band_order)
            missing = [band for band in bands if band not in order]
            if missing:
                raise BrokenImageError(
                    f"Image {path} holds {', '.join(order)}; {', '.join(missing)} is wanted too. Name its "
                    "bands with --band-order, or choose other --bands or another model."
                )
            wanted = bands or order
            values = file.read([order.index(band) + 1 for band in wanted])
    except (RasterioError, OSError, UnicodeDecodeError) as error:
        raise BrokenImageError(
            f"Image {path} cannot be read ({' '.join(str(error).split())[:200]}). Replace it or take it out."
        ) from error
    return Picture(values=np.minimum(values, MAX_DN).astype(np.int16), bands=wanted)


def _order(
    path: Path, count: int, described: tuple[str, ...], stated: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Band names in file order: as the user says, else as the file says, else EuroSAT's."""
    own = described if all(text in BANDS for text in described) else None
    order = stated or own or (B8A_LAST if count == len(B8A_LAST) else None)
    if order is None:
        raise BrokenImageError(
            f"Image {path} has {count} bands without names of Sentinel-2's. Name them with --band-order "
            "B02,B03,..."
        )
    if len(order) != count or len(set(order)) != count:
        raise BrokenImageError(
            f"Image {path} has {count} bands; {','.join(order)} is stated of them. Name each band of the "
            "files once, in their order (--band-order)."
        )
    if own is not None and own != order:
        raise BrokenImageError(
            f"Image {path} says its bands are {','.join(own)}; --band-order says {','.join(order)}. Leave "
            "--band-order out, or correct the file."
        )
    return order
