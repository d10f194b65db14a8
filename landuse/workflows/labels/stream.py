"""Images from files through an ensemble, a few at a time, while the next ones are read."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from landuse.contract import RGB8
from landuse.errors import ModelError, UsageError
from landuse.pipeline.read.images import BrokenImageError, read_picture, resized
from landuse.sentinel2 import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from landuse.contract import ModelContract
    from landuse.model.predict_images import Ensemble
    from landuse.pipeline.read.images import Picture

    _Read: TypeAlias = tuple[str, list[NDArray[np.generic]]] | BrokenImageError
    """An image's name with its values for each model, or why it cannot be read."""

AT_ONCE = 64
"""Images handed to the networks together."""

READERS = 4
"""Images that are read at a time."""

MAX_SIDE_PX = 2048
"""Of an image of reflectance, which enters as it is."""

MIN_SIDE_PX = 16
"""Smaller ones vanish in the networks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Told:
    """What some images were found to show."""

    names: tuple[str, ...]
    """The images that could be read."""
    probabilities: NDArray[np.float64]
    """(N, classes) of those."""
    broken: tuple[BrokenImageError, ...]
    """Why others could not."""


def told_images(
    ensemble: Ensemble,
    images: Sequence[tuple[str, Path]],
    *,
    level: str,
    band_order: tuple[str, ...] | None = None,
    tta: bool = False,
) -> Iterator[Told]:
    """Probabilities of images, in their order, ``AT_ONCE`` at a time.

    Memory holds two such parts and no more, however many images there are.

    Args:
        ensemble: what tells them.
        images: name and file of each.
        level: processing level of reflectance.
        band_order: band names of TIFFs of reflectance in file order; None takes the files' own.
        tta: average over the eight symmetries of the square.

    Raises:
        ModelError: an image is not of the kind that a model reads.
    """
    contracts = [predictor.contract for predictor in ensemble.predictors]
    bands = tuple(dict.fromkeys(b for c in contracts if c.input_kind != RGB8 for b in c.bands))

    def read(image: tuple[str, Path]) -> _Read:
        name, path = image
        try:
            picture = read_picture(path, bands=bands, band_order=band_order)
            return name, [_for_model(path, picture, contract) for contract in contracts]
        except BrokenImageError as error:
            return error

    with ThreadPoolExecutor(READERS) as pool, closing(_ahead(pool, read, images)) as parts:
        for part in parts:
            whole = [one for one in part if not isinstance(one, BrokenImageError)]
            given = [[images[index] for _, images in whole] for index in range(len(contracts))]
            yield Told(
                names=tuple(name for name, _ in whole),
                probabilities=ensemble.probabilities(given, level=level, tta=tta),
                broken=tuple(one for one in part if isinstance(one, BrokenImageError)),
            )


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[tuple[str, Path]], _Read], images: Sequence[tuple[str, Path]]
) -> Generator[list[_Read], None, None]:
    """Parts of the images, each read while the one before it is used."""
    waiting: deque[list[Future[_Read]]] = deque()
    try:
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            waiting.append([pool.submit(read, image) for image in part])
            if len(waiting) > 1:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        for futures in waiting:
            for future in futures:
                future.cancel()


def _for_model(path: Path, picture: Picture, contract: ModelContract) -> NDArray[np.generic]:
    """An image as a model takes it: at its size, but for reflectance, whose pixels have one of their own.

    Raises:
        BrokenImageError: it is too small or too large.
        ModelError: it is reflectance, and the model reads 8-bit images.
    """
    values = picture.values
    if contract.input_kind == RGB8:
        if picture.is_reflectance:
            raise ModelError(
                f"Image {path} is reflectance, and model {contract.name} reads 8-bit RGB images. Choose a "
                "model of reflectance, or give 8-bit images."
            )
        return resized(values, contract.patch_size_px)  # type: ignore[arg-type]  # it is uint8
    if not min(values.shape[1:]) >= MIN_SIDE_PX or max(values.shape[1:]) > MAX_SIDE_PX:
        raise BrokenImageError(
            f"Image {path} is {values.shape[1]} x {values.shape[2]} px; to models of reflectance images "
            f"have sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} px. Cut it, or make a map of it (landuse map)."
        )
    if picture.is_reflectance:
        return values[[picture.bands.index(band) for band in contract.bands]]
    return values


def models_of(text: str) -> tuple[str, ...]:
    """The models that ``--model A,B`` names; a file whose name holds a comma is one.

    Raises:
        UsageError: none is named.
    """
    from pathlib import Path

    if Path(text).is_file():
        return (text,)
    models = tuple(name.strip() for name in text.split(",") if name.strip())
    if not models:
        raise UsageError("--model names no model. See `landuse models`, or give a path.")
    return models


def weights_of(text: str | None) -> tuple[float, ...] | None:
    """The numbers that ``--weights 2,1`` gives.

    Raises:
        UsageError: one is none.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--weights {text!r:.100} are no numbers. Give one for each model: 2,1.") from None


def check_level(ensemble: Ensemble, level: str) -> None:
    """See that each model of reflectance reads a level.

    Raises:
        UsageError: there is no such level.
        ModelError: a model does not read it.
    """
    if level not in LEVELS:
        raise UsageError(f"--level {level!r} is unknown. Use {' or '.join(LEVELS)}.")
    for predictor in ensemble.predictors:
        contract = predictor.contract
        if contract.input_kind != RGB8 and contract.level_input(level) is None:
            read = ", ".join(entry.level for entry in contract.levels)
            raise ModelError(
                f"Model {contract.name} reads {read}; the images are said to be {level}. Choose another "
                "--model, or correct --level."
            )
