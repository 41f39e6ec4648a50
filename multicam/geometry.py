"""Where on the photo the model looked, and how to lay a map back there."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from multicam.errors import InputError
from multicam.images import ImageSource, load

Transform: TypeAlias = Callable[[Image.Image], Tensor]
"""A model's preprocessing: an RGB image to a tensor (channel, height, width)."""

_LEAN = 0.2361  # how much of a ramp's range runs across it; no simple fraction
_FILTER_REACH = 3  # pixels, of the photo or the input, that a Lanczos filter looks to either side
_REPEATS = 8  # of a transform that draws random numbers: does anything come of them?
_CACHE_SIZE = 256
_measured: dict[tuple[tuple[int, int], bytes], Geometry] = {}


@dataclass(frozen=True)
class Geometry:
    """The part of a photo that fills the model's input.

    Attributes:
        size: (height, width) of the photo, in pixels.
        box: left, top, right, bottom of the model's input, in pixels of the photo. It
            reaches beyond the photo where the input is padded; left > right where it is
            mirrored.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if min(self.size) < 1 or left == right or top == bottom:
            raise InputError(f"no area: a photo of {self.size} with the box {self.box}")

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Geometry:
        """The model saw all of the photo, of (height, width) pixels."""
        return cls(size, (0.0, 0.0, float(size[1]), float(size[0])))

    def place(self, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "height width"]:
        """Lay a map over the box: bilinear, half-pixel centres, as cv2.resize does.

        Args:
            values: a map of the model's whole input.

        Returns:
            float32, in the size of the photo; NaN where the model did not look.

        Example:
            >>> left_half = Geometry(size=(1, 4), box=(0, 0, 2, 1))
            >>> left_half.place(np.array([[1.0, 2.0]]))
            array([[ 1.,  2., nan, nan]], dtype=float32)
        """
        left, top, right, bottom = self.box
        low_y, high_y, part_y, seen_y = _bilinear(values.shape[0], self.size[0], top, bottom)
        low_x, high_x, part_x, seen_x = _bilinear(values.shape[1], self.size[1], left, right)
        values = values.astype(np.float32, copy=False)
        wide = values[:, low_x] * (1 - part_x) + values[:, high_x] * part_x
        part_y = part_y[:, np.newaxis]
        placed = np.full(self.size, np.nan, np.float32)
        placed[np.ix_(seen_y, seen_x)] = wide[low_y] * (1 - part_y) + wide[high_y] * part_y
        return placed


@dataclass(frozen=True)
class Photo:
    """An original and where the model looked on it."""

    image: Image.Image
    geometry: Geometry


def prepare(
    source: ImageSource, transform: Transform
) -> tuple[Float[Tensor, "1 channel height width"], Photo]:
    """Load a photo, preprocess it for a model, and keep where the model will look.

    Args:
        source: anything that `multicam.images.load` takes.
        transform: the model's preprocessing, from an RGB image to a tensor
            (channel, height, width).

    Returns:
        A batch of one, and the photo.

    Raises:
        InputError: as `load` and `measure`.
    """
    image = load(source)
    geometry = measure(transform, (image.height, image.width))
    return _apply(transform, image)[None], Photo(image, geometry)


def measure(transform: Transform, size: tuple[int, int]) -> Geometry:
    """Find out what a transform does to the coordinates of a photo, by trying it.

    Black, white and two ramps in the photo's size go through the transform. Where black
    and white come out the same, the input is padded; elsewhere
    (ramp - black) / (white - black) is the place on the photo that a pixel of the input
    came from, and a line is fitted to it on either axis.

    A transform that gave the same ramp before is not measured again.

    Args:
        transform: as in `prepare`; what it is made of does not matter.
        size: (height, width) of the photo, in pixels.

    Raises:
        InputError: the transform is random, rotates or bends, or gives no tensor
            (channel, height, width).
    """
    image = _ramp(size, axis=1)
    ramp, draws = _watched(transform, image)
    key = (size, hashlib.sha256(ramp.tobytes() + str(ramp.shape).encode()).digest())
    known = _measured.get(key)
    if known is not None and not draws:
        return known
    for _ in range(_REPEATS if draws else 1):
        if not np.array_equal(ramp, _values(transform, image), equal_nan=True):
            raise _unmeasurable("it is random: the same photo came out differently")
    geometry = _measure(transform, size, ramp)
    if len(_measured) >= _CACHE_SIZE:
        _measured.clear()
    _measured[key] = geometry
    return geometry


def _measure(transform: Transform, size: tuple[int, int], ramp: np.ndarray) -> Geometry:
    black, white = (_values(transform, _plain(size, grey)) for grey in (0, 255))
    contrast = white - black
    weight = (contrast**2).sum(axis=0)
    seen = weight > weight.max() / 4
    if not seen.any():
        raise _unmeasurable("a black and a white photo come out the same")
    ramps = ramp, _values(transform, _ramp(size, axis=0))
    mixed = [((one - black) * contrast).sum(axis=0)[seen] / weight[seen] for one in ramps]
    places = np.linalg.solve([[1 - _LEAN, _LEAN], [_LEAN, 1 - _LEAN]], np.stack(mixed))
    rows, columns = np.nonzero(seen)
    lengths = np.array([[size[1]], [size[0]]])
    begin, step = _line(places, np.stack([columns, rows]), lengths)
    end = begin + step * np.array([[seen.shape[1]], [seen.shape[0]]])
    left, top, right, bottom = (np.stack([begin, end]) * lengths).flatten().tolist()
    return Geometry(size, (left, top, right, bottom))


def _line(
    places: Float[np.ndarray, "2 pixels"],
    indices: Int[np.ndarray, "2 pixels"],
    lengths: Int[np.ndarray, "2 1"],
) -> tuple[Float[np.ndarray, "2 1"], Float[np.ndarray, "2 1"]]:
    """Fit place = begin + step * index to both axes, x and y.

    To the middle first, then to all that this puts well inside the photo: filters act
    differently at a border, and mirrored padding lies beyond it.

    Args:
        places: where on the photo, 0 to 1, each seen pixel of the input came from.
        indices: column and row of these pixels.
        lengths: of the photo, in pixels.

    Returns:
        The place where the input's first pixel begins, and the step to the next one.
    """
    first = indices.min(axis=1, keepdims=True)
    extent = indices.max(axis=1, keepdims=True) + 1 - first
    u = (indices + 0.5 - first) / extent - 0.5
    fitted = (np.abs(u) <= np.maximum(0.25, 1 / extent)).all(axis=0)
    lines = _least_squares(u[:, fitted], places[:, fitted])
    for _ in range(2):
        slopes = np.abs(lines[:, 1:].diagonal())[:, np.newaxis]
        margin = np.minimum(_FILTER_REACH * np.maximum(slopes / extent, 1 / lengths), 0.25)
        inside = (np.abs(_predicted(lines, u) - 0.5) <= 0.5 - margin).all(axis=0)
        spread = inside.any() and (np.ptp(u[:, inside], axis=1) > 0).all()
        fitted = inside if spread else np.ones_like(inside)
        lines = _least_squares(u[:, fitted], places[:, fitted])
    errors = _predicted(lines, u[:, fitted]) - places[:, fitted]
    slopes, drifts = lines[:, 1:].diagonal()[:, np.newaxis], lines[[0, 1], [2, 1]][:, np.newaxis]
    single = (lengths == 1) | (extent == 1)  # one pixel has no slope: it is the whole photo
    _check_fit(slopes, drifts, errors, lengths, single)
    slopes = np.where(single, 1.0, slopes)
    middles = np.where(single, 0.5, lines[:, :1])
    return middles - slopes * (0.5 + first / extent), slopes / extent


def _least_squares(u: np.ndarray, places: np.ndarray) -> Float[np.ndarray, "2 3"]:
    """For x and y: the place at the centre, its slope along x, its slope along y."""
    design = np.stack([np.ones_like(u[0]), *u])
    return np.asarray(np.linalg.lstsq(design @ design.T, design @ places.T, rcond=None)[0].T)


def _predicted(lines: np.ndarray, u: np.ndarray) -> Float[np.ndarray, "2 pixels"]:
    return lines[:, :1] + lines[:, 1:] @ u


def _check_fit(
    slopes: np.ndarray,
    drifts: np.ndarray,
    errors: np.ndarray,
    lengths: np.ndarray,
    single: np.ndarray,
) -> None:
    """Allow for sampling whole pixels of the photo, and for rounding to 8 bits twice."""
    turned = np.abs(drifts) > 0.005 * np.abs(slopes) + 0.5 / lengths
    bent = np.sqrt((errors**2).mean(axis=1, keepdims=True)) > 0.35 / lengths + 0.0035
    if ((turned | bent) & ~single).any():
        raise _unmeasurable("it turns or bends the photo, or changes its brightness unevenly")


def _unmeasurable(reason: str) -> InputError:
    return InputError(
        f"cannot tell where the model looks: the transform is not a fixed resize, crop, pad or "
        f"flip ({reason}); use the transform for evaluation, or give the place yourself: "
        "Photo(image, Geometry(size, box))"
    )


def _watched(transform: Transform, image: Image.Image) -> tuple[np.ndarray, bool]:
    """The output, and whether random numbers were drawn for it."""
    before = _random_states()
    output = _values(transform, image)
    return output, before != _random_states()


def _random_states() -> list[object]:
    state = np.random.get_state(legacy=False)["state"]
    return [
        random.getstate(),
        (state["pos"], state["key"].tobytes()),
        torch.get_rng_state().numpy().tobytes(),
    ]


def _values(transform: Transform, image: Image.Image) -> np.ndarray:
    return _apply(transform, image).detach().cpu().float().numpy()


def _apply(transform: Transform, image: Image.Image) -> Tensor:
    output = transform(image)
    if not isinstance(output, Tensor) or output.ndim != 3:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"the transform returned {got} instead of a tensor (channel, height, width); wrap a "
            "Hugging Face processor as "
            'lambda image: processor(image, return_tensors="pt")["pixel_values"][0]'
        )
    return output


def _plain(size: tuple[int, int], grey: int) -> Image.Image:
    return Image.new("RGB", size[::-1], (grey, grey, grey))


def _ramp(size: tuple[int, int], axis: int) -> Image.Image:
    """From black to white along an axis and a little across it, in 8 bits.

    So that rounding does not move the fitted line, also on photos much wider than 256
    pixels, the ramp leans, and noise decides where it rounds up. In 1/256 grey.
    """
    shares = (1 - _LEAN, _LEAN) if axis == 0 else (_LEAN, 1 - _LEAN)
    down, right = (
        np.rint(share * 255 * 256 * (np.arange(count) + 0.5) / count).astype(np.uint16)
        for share, count in zip(shares, size, strict=True)
    )
    grey = np.add.outer(down, right)
    grey += np.random.default_rng(axis).integers(256, size=size, dtype=np.uint8)
    return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")


def _bilinear(
    cells: int, pixels: int, start: float, end: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lower cell, upper cell, share of the upper one, for each pixel seen; and which are.

    Args:
        cells: of the map, on one axis.
        pixels: of the photo, on this axis.
        start: where the map begins, in pixels of the photo.
        end: where it ends; less than `start` where it is mirrored.
    """
    position = (np.arange(pixels) + 0.5 - start) / (end - start)
    seen = (position >= 0) & (position <= 1)
    cell = (position[seen] * cells - 0.5).clip(0, cells - 1)
    lower = np.floor(cell).astype(np.intp)
    return lower, np.minimum(lower + 1, cells - 1), (cell - lower).astype(np.float32), seen
