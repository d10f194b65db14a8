"""Pure: what is clear, and one image out of several dates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landuse.records import PixelBlock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SCL_UNUSABLE = {
    0: "no data",
    1: "saturated or defective",
    3: "cloud shadow",
    8: "cloud, medium probability",
    9: "cloud, high probability",
    10: "thin cirrus",
    11: "snow or ice",
}
"""Scene classification values whose pixels are not mapped (Sentinel-2 L2A product definition)."""


def clear_of_clouds(scl: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Scene classification ``(y, x)`` to a mask ``(y, x)``, True = usable."""
    usable_of_value = np.ones(256, np.bool_)
    usable_of_value[list(SCL_UNUSABLE)] = False
    return usable_of_value[scl]


def composite(layers: Sequence[PixelBlock], method: str) -> PixelBlock:
    """One image out of several of the same grid.

    ``best`` takes each pixel from the first layer in which it is usable, ``median`` the median of
    all layers in which it is. A pixel that is usable nowhere keeps what the first layer that
    observed it saw, and stays marked unusable.

    Args:
        layers: in order of preference, at least one.
        method: ``"best"`` or ``"median"``.
    """
    first = layers[0]
    dn = np.zeros_like(first.dn)
    observed = np.zeros_like(first.observed)
    usable = np.zeros_like(first.usable)
    for layer in layers:
        take = (layer.usable & ~usable) | (layer.observed & ~observed)
        np.copyto(dn, layer.dn, where=take)
        observed |= layer.observed
        usable |= layer.usable
    if method == "median" and len(layers) > 1:
        stack = np.ma.masked_array(
            np.stack([layer.dn for layer in layers]),
            mask=np.stack([np.broadcast_to(~layer.usable, layer.dn.shape) for layer in layers]),
        )
        median = np.ma.median(stack, axis=0).filled(0)  # type: ignore[no-untyped-call]  # numpy.ma has no stub for it
        np.copyto(dn, np.rint(median).astype(np.uint16), where=usable)
    return PixelBlock(dn=dn, observed=observed, usable=usable)
