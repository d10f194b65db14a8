"""Pure: one image out of several dates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landuse.sentinel2 import MAX_DN

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

_STRIP_PIXELS = 2**18
"""Pixels whose dates are compared at a time: all of a block would be several GB."""


def composite(
    layers: Sequence[xr.Dataset], method: str, groups: Sequence[Hashable] | None = None
) -> xr.Dataset:
    """One image out of several of the same grid.

    ``best`` takes each pixel from the first layer in which it is usable, so seams lie only where
    clouds force them. ``median`` takes the median of all days on which it is usable: neighbouring
    tiles of one overpass overlap by 10 km, and what both show counts once. ``medoid`` takes each pixel
    whole from the day whose spectrum is nearest to that median, by the sum of squared differences over the
    bands, and of days that are equally near the first: the bands of a pixel stay those of one moment. A
    pixel that is usable nowhere keeps what the first layer that observed it saw, and stays marked unusable.

    Args:
        layers: ``pixel_block`` of one grid and bands, in order of preference, at least one: the clearest
            over the whole area first.
        method: ``"best"``, ``"median"`` or ``"medoid"``.
        groups: solar day of each layer, for median and medoid; None where every layer is a day of its own.

    Raises:
        ValueError: there is not one group for each layer.
    """
    days = range(len(layers)) if groups is None else groups
    if len(days) != len(layers):
        raise ValueError(f"{len(layers)} layers, but {len(days)} groups")
    dn = np.zeros_like(layers[0].dn.values)
    observed = np.zeros_like(layers[0].observed.values)
    usable = np.zeros_like(layers[0].usable.values)
    for layer in layers:
        take = (layer.usable.values & ~usable) | (layer.observed.values & ~observed)
        np.copyto(dn, layer.dn.values, where=take)
        observed |= layer.observed.values
        usable |= layer.usable.values
    if method != "best" and len(set(days)) > 1:
        rows = max(_STRIP_PIXELS // max(usable.shape[1], 1), 1)
        for top in range(0, len(usable), rows):
            strip = np.s_[top : top + rows]
            made = _of_days([layer.isel(y=strip) for layer in layers], days, whole=method == "medoid")
            np.copyto(dn[:, strip], made, where=usable[strip])
    return layers[0].copy(data={"dn": dn, "observed": observed, "usable": usable})


def _of_days(layers: Sequence[xr.Dataset], days: Sequence[Hashable], *, whole: bool) -> NDArray[np.uint16]:
    """Median over days ``(band, y, x)``, or whole pixels of the nearest; arbitrary where none is usable."""
    slot_of_day = {day: slot for slot, day in enumerate(dict.fromkeys(days))}
    taken = np.zeros((len(slot_of_day), *layers[0].usable.shape), np.bool_)  # (day, y, x)
    takes = []
    for layer, day in zip(layers, days, strict=True):
        slot = slot_of_day[day]
        take = layer.usable.values & ~taken[slot]
        taken[slot] |= take
        takes.append((slot, layer.dn.values, take))
    count = taken.sum(axis=0)
    low, high = (count - 1).clip(0) // 2, count // 2
    made: NDArray[np.uint16] = np.empty_like(layers[0].dn.values)
    values = np.empty(taken.shape, np.uint16)
    away = np.zeros(taken.shape if whole else 0, np.int64)
    for band, out in enumerate(made):  # one band at a time, for memory
        values.fill(MAX_DN)  # sorts last, or beside its like
        for slot, dn, take in takes:
            np.copyto(values[slot], dn[band], where=take)
        ordered = np.sort(values, axis=0)
        ends = [np.take_along_axis(ordered, index[None], axis=0)[0] for index in (low, high)]
        if whole:  # from twice the median, which is a whole number
            twice = ends[0].astype(np.int64) + ends[1]
            away += np.square(2 * values.astype(np.int64) - twice)
        else:
            out[:] = np.rint(np.mean(ends, axis=0))
    if whole:
        away[~taken] = np.iinfo(np.int64).max
        nearest = away.argmin(axis=0)  # the first of equals
        for slot, dn, take in takes:
            np.copyto(made, dn, where=take & (nearest == slot))
    return made
