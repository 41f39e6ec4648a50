"""Maps painted over photos, in the photo's own size.

A style takes the photo and the signed map of the same size, NaN where the model did not
look, and returns a new picture. What the model did not see stays exactly as it is, and
so does the whole photo where the map has nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from multicam.errors import InputError

Style: TypeAlias = Callable[..., np.ndarray]
"""(image, values, **options) -> picture."""

COLORMAPS = (
    "jet",
    "viridis",
    "turbo",
    "magma",
    "inferno",
    "plasma",
    "cividis",
    "hot",
    "bone",
    "diverging",
)
"""OpenCV's, and "diverging": blue for negative, white for zero, red for positive."""

_DIVERGING = ((33, 72, 172), (88, 158, 213), (247, 247, 247), (244, 133, 94), (178, 16, 35))
_SHARP_FROM, _SHARP_AT = 0.15, 0.5  # spotlight: parts of the maximum
_BLUR_STEPS = 4.0  # standard deviation, in pixels, at which blurring is cheap and smooth


def paint(
    image: UInt8[np.ndarray, "height width 3"],
    values: Float[np.ndarray, "height width"],
    *,
    style: str = "heat",
    **options: Any,
) -> UInt8[np.ndarray, "height width 3"]:
    """Paint a map over a photo in a style chosen by name.

    Args:
        image: RGB.
        values: the signed map; NaN where the model did not look.
        style: a name from `STYLES`.
        options: of the style.

    Raises:
        InputError: the style, or one of its options, does not exist.
    """
    if style not in STYLES:
        raise InputError(f"no style is called {style!r}; there are {', '.join(STYLES)}")
    return STYLES[style](image, values, **options)


def heat(
    image: UInt8[np.ndarray, "height width 3"],
    values: Float[np.ndarray, "height width"],
    *,
    colormap: str = "jet",
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "height width 3"]:
    """What speaks for the score, in colour over the photo.

        (1 - opacity) image + opacity colormap(ReLU(values) / max)

    Args:
        image: RGB.
        values: the signed map; NaN where the model did not look.
        colormap: a name from `COLORMAPS`.
        opacity: of the colour, 0 to 1.

    Raises:
        InputError: the colour map is unknown, or the opacity out of range.

    Example:
        >>> photo = np.zeros((1, 2, 3), np.uint8)
        >>> heat(photo, np.array([[0.0, 2.0]]), opacity=1.0)[0]
        array([[  0,   0, 128],
               [128,   0,   0]], dtype=uint8)
    """
    table = colors(colormap)
    _check_fraction("opacity", opacity)
    relative = _relative(np.maximum(values, 0))
    if relative is None:
        return image.copy()
    tint = _tint(relative, table)
    return _outside_kept(image, values, cv2.addWeighted(image, 1 - opacity, tint, opacity, 0))


def signed(
    image: UInt8[np.ndarray, "height width 3"],
    values: Float[np.ndarray, "height width"],
    *,
    colormap: str = "diverging",
    opacity: float = 0.8,
) -> UInt8[np.ndarray, "height width 3"]:
    """What speaks for the score and what speaks against it, each in its colour.

    With s = values / max |values|, in -1 to 1, and the opacity growing with |s|, so that
    the photo shows where neither does:

        (1 - opacity |s|) image + opacity |s| colormap((s + 1) / 2)

    Args:
        image: RGB.
        values: the signed map; NaN where the model did not look.
        colormap: a name from `COLORMAPS`; its middle stands for zero.
        opacity: of the colour where |s| = 1, 0 to 1.

    Raises:
        InputError: the colour map is unknown, or the opacity out of range.
    """
    table = colors(colormap)
    _check_fraction("opacity", opacity)
    relative = _relative(values)
    if relative is None:
        return image.copy()
    tint = _tint((relative + 1) / 2, table)
    return _outside_kept(image, values, _blend(image, tint, opacity * np.abs(relative)))


def spotlight(
    image: UInt8[np.ndarray, "height width 3"],
    values: Float[np.ndarray, "height width"],
    *,
    brightness: float = 0.45,
    blur: float = 0.02,
) -> UInt8[np.ndarray, "height width 3"]:
    """What speaks for the score stays sharp; the rest is blurred and dimmed.

    Places above half of the maximum are untouched, below 15 % they count as the rest,
    with a smooth passage between.

    Args:
        image: RGB.
        values: the signed map; NaN where the model did not look.
        brightness: of the rest, 0 to 1.
        blur: standard deviation, as a fraction of the shorter side, 0 to 1.

    Raises:
        InputError: the brightness or the blur is out of range.
    """
    _check_fraction("brightness", brightness)
    _check_fraction("blur", blur)
    relative = _relative(np.maximum(values, 0))
    if relative is None:
        return image.copy()
    ramp = ((relative - _SHARP_FROM) / (_SHARP_AT - _SHARP_FROM)).clip(0, 1)
    light = ramp * ramp * (3 - 2 * ramp)
    blurred = _blurred(image, blur * min(image.shape[:2]))
    rest = cv2.convertScaleAbs(blurred, alpha=brightness)
    return _outside_kept(image, values, _blend(rest, image, light))


STYLES: Mapping[str, Style] = {"heat": heat, "signed": signed, "spotlight": spotlight}
"""The styles that can be chosen by name."""


@lru_cache
def colors(colormap: str) -> UInt8[np.ndarray, "256 3"]:
    """The RGB colours of a colour map, from its low end to its high end.

    Raises:
        InputError: no colour map has this name.
    """
    if colormap not in COLORMAPS:
        raise InputError(f"no colormap is called {colormap!r}; there are {', '.join(COLORMAPS)}")
    table = _diverging() if colormap == "diverging" else _opencv(colormap)
    table.flags.writeable = False
    return table


def _opencv(colormap: str) -> np.ndarray:
    code = getattr(cv2, f"COLORMAP_{colormap.upper()}")
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, np.newaxis], code)
    return table[:, 0, ::-1].copy()


def _diverging() -> np.ndarray:
    stops = np.linspace(0, 255, len(_DIVERGING))
    channels = zip(*_DIVERGING, strict=True)
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in channels], axis=1)
    return table.round().astype(np.uint8)


def _relative(values: np.ndarray) -> np.ndarray | None:
    """Divided by the largest magnitude, 0 outside; None where that says nothing."""
    inside = np.where(np.isnan(values), np.float32(0), values)
    peak = np.abs(inside).max()
    return inside / peak if 0 < peak < np.inf else None


def _tint(shares: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.applyColorMap((shares * 255).round().astype(np.uint8), table[:, None])


def _blend(below: np.ndarray, above: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    opacity = opacity.astype(np.float32)
    return cv2.blendLinear(below, above, 1 - opacity, opacity)


def _blurred(image: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian blur, on a smaller copy where it is wide: that costs the same at any width."""
    if deviation == 0:
        return image
    height, width = image.shape[:2]
    scale = max(1.0, deviation / _BLUR_STEPS)
    small_size = max(1, round(width / scale)), max(1, round(height / scale))
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), deviation / scale)
    return cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)


def _outside_kept(image: np.ndarray, values: np.ndarray, picture: np.ndarray) -> np.ndarray:
    outside = np.isnan(values)
    picture[outside] = image[outside]
    return picture


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} {value} is not in 0 to 1")
