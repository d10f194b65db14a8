"""What pixels say against what is stated of them: the units of their values and the order of their bands.

Each rule holds whatever the land is: the atmosphere scatters blue more than red, soil and roofs vary more in
red than in blue, leaves are dark in red and bright in infrared, air holds water. Each leaves room: none of
4,460 real patches of 640 m is refused, nor any of the scenes of forest, fields, desert, snow, sea, haze and
cloud that it was measured on. Where pixels are few or show nothing of the kind, it says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from landuse.sentinel2 import B8A_LAST, BANDS, DN_PER_REFLECTANCE, LEVELS, STORED_OFFSET_DN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Pixels: TypeAlias = Mapping[str, NDArray[np.floating]]
    """Of each band the values (n,) of the same pixels, which are data in every band."""

FEWEST_PIXELS = 1000
"""Fewer prove nothing."""

MAX_CIRRUS_DN = 100
"""What B10, which sees no ground, has on average over clear patches of L1C at most (EuroSAT: 12)."""

VISIBLE = ("B02", "B03", "B04")
INFRARED = ("B06", "B07", "B08", "B8A", "B11", "B12")
ESA_OFFSET = -STORED_OFFSET_DN / DN_PER_REFLECTANCE

UNITS = (
    (1 / DN_PER_REFLECTANCE, 0.0),
    (1 / DN_PER_REFLECTANCE, ESA_OFFSET),
    (1.0, 0.0),
    (0.001, 0.0),
    (0.01, 0.0),
)
"""Scale and offset of what is met: DN without and with ESA's 1000, reflectance 0..1, x 1000, in percent."""


PAIRS = (
    ("B02", "B03", 1.5, True, ("L2A",)),
    ("B04", "B03", 1.25, True, LEVELS),
    ("B04", "B05", 1.1, True, LEVELS),
    ("B05", "B06", 1.1, True, LEVELS),
    ("B06", "B07", 1.05, True, LEVELS),
    ("B8A", "B08", 1.45, False, LEVELS),
    ("B08", "B8A", 1.45, False, LEVELS),
    ("B09", "B8A", 0.9, False, ("L1C",)),
    ("B12", "B11", 1.25, False, LEVELS),
)
"""The first band is at most so many times the second: the median over leaves or all land, at these levels."""


def unit_fault(reflectance: Pixels, level: str) -> str | None:
    """Why values cannot be the reflectance that they are said to be, such as "too dark"; None where they can.

    Args:
        reflectance: what the values mean, as stated; 1 is white.
        level: ``"L1C"`` or ``"L2A"``.
    """
    if _count(reflectance) < FEWEST_PIXELS:
        return None
    names = list(reflectance)
    low, middle, high, top = np.percentile(
        np.stack([reflectance[band] for band in names]), (5, 50, 95, 99), 1
    )
    darkest, brightest = names[int(low.argmin())], names[int(high.argmax())]
    if middle.max() > 1.4 or top.max() > 2:
        return f"too bright ({brightest} exceeds {high.max():.3g} in 5 % of pixels; clouds end at 1.5)"
    if low.min() < -0.03:
        return f"below zero ({darkest} is below {low.min():.3g} in 5 % of pixels)"
    blue = float(middle[names.index("B02")]) if "B02" in names else None
    if level == "L1C" and blue is not None and blue < 0.045:
        return f"too dark (half of B02 is below {blue:.3g}, and the air of L1C alone has 0.05)"
    if not set(VISIBLE) <= set(names):
        return _carried_offset(reflectance, level)
    visible = [high[names.index(band)] for band in VISIBLE]
    infrared = [high[names.index(band)] for band in INFRARED if band in names]
    # Water may be as dark, but not darker in the visible than in the infrared.
    is_land = max(infrared, default=0.0) > 1.3 * max(visible)
    if high.max() < (0.055 if is_land else 0.02):
        return f"too dark ({brightest} is below {high.max():.3g} in 95 % of pixels)"
    return _carried_offset(reflectance, level)


def _carried_offset(reflectance: Pixels, level: str) -> str | None:
    """Whether all bands, dark ones of the visible and of the short-wave infrared among them, start at 0.1."""
    if level == "L1C" and "B10" not in reflectance:
        return None  # the air may be as bright in the other bands
    least = {band: float(np.percentile(values, 1)) for band, values in reflectance.items()}
    visible = [least[band] for band in VISIBLE if band in least]
    short_wave = [least[band] for band in ("B11", "B12") if band in least]
    if not (visible and short_wave) or min(least.values()) < -ESA_OFFSET * 0.95:
        return None
    if min(visible) > 0.16 or min(short_wave) > 0.2:
        return None  # sand, snow or cloud may be as bright
    return (
        f"above {min(least.values()):.3g} in 99 % of each of {len(least)} bands, dark ones included, as "
        f"values are that carry ESA's +{STORED_OFFSET_DN}"
    )


def offset_doubt(reflectance: Pixels, level: str) -> str | None:
    """Why it seems that ESA's 1000 was not taken off, by visible bands and leaves; haze can look the same.

    Args:
        reflectance: as of ``unit_fault``, which has found nothing.
        level: ``"L1C"`` or ``"L2A"``; the air of L1C may be as bright in the visible.
    """
    if _count(reflectance) < FEWEST_PIXELS:
        return None
    if level == "L2A" and set(VISIBLE) <= set(reflectance):
        low = min(float(np.percentile(values, 1)) for values in reflectance.values())
        middle = max(float(np.median(reflectance[band])) for band in VISIBLE)
        if low > -ESA_OFFSET * 0.95 and middle < 0.35:  # snow and cloud are brighter
            return (
                f"every band is above {low:.3g} in 99 % of pixels, where B02, B03 and B04 of clear land "
                f"begin at 0 to 0.07: values may carry ESA's +{STORED_OFFSET_DN}"
            )
    if not {"B04", "B08"} <= set(reflectance):
        return None
    leaves = reflectance["B08"] - reflectance["B04"] > 0.2
    if leaves.mean() < 0.05:
        return None
    red = float(np.percentile(reflectance["B04"][leaves], 5))
    if red < 0.11:
        return None
    return (
        f"B04 of leaves is above {red:.3g}, where 0.02 to 0.07 is usual: values may carry ESA's "
        f"+{STORED_OFFSET_DN}"
    )


def likely_units(stored: Pixels, level: str) -> tuple[float, float] | None:
    """Scale and offset of ``UNITS`` with which the values as stored are plausible; None where none is."""
    for scale, offset in UNITS:
        if unit_fault({band: scale * values + offset for band, values in stored.items()}, level) is None:
            return scale, offset
    return None


def order_fault(reflectance: Pixels, level: str) -> str | None:
    """Why the bands cannot be those that they are called; None where they can.

    Args:
        reflectance: as of ``unit_fault``, which has found nothing.
        level: ``"L1C"`` or ``"L2A"``.
    """
    if _count(reflectance) < FEWEST_PIXELS:
        return None
    medians = {band: DN_PER_REFLECTANCE * float(np.median(values)) for band, values in reflectance.items()}
    fault = _of_the_air(reflectance, level) or cirrus_fault(medians)
    return fault or _of_the_visible(reflectance) or _of_pairs(reflectance, level)


def cirrus_fault(dn: Mapping[str, float], *, clear: bool = False) -> str | None:
    """Why what is called B10, which sees no ground, cannot be it; None where it can, or is not there.

    Args:
        dn: mean or median of each band of L1C, reflectance x 10000.
        clear: whether there is no cloud, so that B10 is nearly black.
    """
    others = {band: value for band, value in dn.items() if band != "B10"}
    if "B10" not in dn or not others:
        return None
    darkest = min(others, key=lambda band: others[band])
    if dn["B10"] <= 1.5 * others[darkest] and not (clear and dn["B10"] > MAX_CIRRUS_DN):
        return None
    return (
        f"what should be B10 (cirrus, nearly black in L1C) has a mean of {dn['B10']:.0f} DN, and the darkest "
        f"is {darkest} with {others[darkest]:.0f}"
    )


def likely_order(reflectance: Pixels, level: str) -> tuple[str, ...] | None:
    """Names for the bands, in their order, that the pixels do not contradict; None where none is known."""
    names = tuple(reflectance)
    exchanged = {"B02": "B04", "B04": "B02"}
    for order in (
        tuple(band for band in BANDS if band in names),
        tuple(band for band in B8A_LAST if band in names),
        tuple(exchanged.get(band, band) for band in names),
    ):
        if order_fault(dict(zip(order, reflectance.values(), strict=True)), level) is None:
            return order
    return None


def _count(pixels: Pixels) -> int:
    return min((len(values) for values in pixels.values()), default=0)


def _of_the_air(reflectance: Pixels, level: str) -> str | None:
    """In L1C the air alone is brighter than this, least at the longest of the wavelengths."""
    for band, least in (("B01", 0.05), ("B02", 0.04)) if level == "L1C" else ():
        dark = float(np.percentile(reflectance[band], 1)) if band in reflectance else least
        if dark < least:
            return (
                f"1 % of {band} is below {dark:.3g}, and the air of L1C alone has {least}: it is another "
                "band, or the level is L2A"
            )
    return None


def _of_the_visible(reflectance: Pixels) -> str | None:
    if not set(VISIBLE) <= set(reflectance):
        return None
    blue, green, red = (reflectance[band] for band in VISIBLE)
    near = reflectance.get("B08")
    second, first = np.sort(np.stack([blue, green, red]), 0)[1:]
    alone = (first > 0.15) & (second < 0.4 * first)
    if near is not None:
        alone &= near < 0.6 * first
    if alone.mean() > 0.1:
        return (
            f"in {alone.mean():.0%} of pixels one of B02, B03 and B04 is bright and all else dark, as near "
            "infrared is over leaves"
        )
    ground = (np.maximum(red, blue) < 0.35) if near is None else (red < 0.35) & (near - red > 0.05)
    if ground.sum() >= FEWEST_PIXELS:
        together = np.corrcoef(red[ground], blue[ground])[0, 1]
        ratio = red[ground].std() / max(blue[ground].std(), 1e-9)
        if together > 0.5 and ratio < 0.8:
            return (
                f"over land B04 varies {ratio:.2f} times as much as B02, and red varies more than blue: they "
                "are exchanged"
            )
    return None


def _of_pairs(reflectance: Pixels, level: str) -> str | None:
    leaves = np.zeros(_count(reflectance), np.bool_)
    if {"B04", "B08"} <= set(reflectance):
        leaves = reflectance["B08"] - reflectance["B04"] > 0.2
    for first, second, most, over_leaves, only in PAIRS:
        if not {first, second} <= set(reflectance) or level not in only:
            continue
        where = leaves if over_leaves else reflectance[second] > 0.05
        if where.sum() < FEWEST_PIXELS:
            continue
        ratio = float(np.median(reflectance[first][where] / np.maximum(reflectance[second][where], 1e-4)))
        if ratio > most:
            what = "leaves" if over_leaves else "land"
            return f"{first} is {ratio:.2f} times {second} over {what}, where it is at most {most:g} times"
    return None
