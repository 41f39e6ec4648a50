"""Where on the photo the model looked, and how to lay a map back there."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from multicam.errors import InputError
from multicam.images import ImageSource, load

Transform: TypeAlias = Callable[[Image.Image], Tensor]
"""A model's preprocessing: an RGB image to a tensor (channel, height, width)."""

_LEAN = 0.2361  # how much of a ramp's range runs across it; no simple fraction
_DITHER = (0.5698402910, 0.7548776662)  # the R2 sequence: spreads evenly over a plane
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
    x, y = np.linalg.solve([[1 - _LEAN, _LEAN], [_LEAN, 1 - _LEAN]], np.stack(mixed))
    rows, columns = np.nonzero(seen)
    left, right = _ends(x, columns, rows, seen.shape[1], size[1])
    top, bottom = _ends(y, rows, columns, seen.shape[0], size[0])
    return Geometry(size, (left, top, right, bottom))


def _ends(
    place: np.ndarray, along: np.ndarray, across: np.ndarray, count: int, length: int
) -> tuple[float, float]:
    """Where the two ends of one axis of the input lie on the photo, in its pixels.

    The line is fitted to the middle first, then to all that it puts well inside the
    photo: filters behave differently at a border, and mirrored padding lies beyond it.

    Args:
        place: where on this axis of the photo, 0 to 1, each seen pixel came from.
        along: the index of each seen pixel on this axis of the input.
        across: its index on the other axis.
        count: pixels of the input on this axis.
        length: pixels of the photo on this axis.
    """
    first, last = along.min(), along.max() + 1
    middle, extent = (first + last) / 2, last - first
    if length == 1 or extent == 1:  # one pixel has no slope: it holds the whole photo
        return float(-first * length / extent), float((count - first) * length / extent)
    u = (along + 0.5 - middle) / extent
    design = np.stack([np.ones_like(u), u, (across - across.mean()) / (np.ptp(across) or 1)], 1)
    fitted = np.abs(u) <= max(0.25, 1 / extent)
    for _ in range(3):
        solution = _least_squares(design[fitted], place[fitted])
        predicted = design @ solution
        margin = min(0.25, max(3 * abs(solution[1]) / extent, 1.5 / length))
        inside = np.abs(predicted - 0.5) <= 0.5 - margin
        line = inside.any() and np.ptp(u[inside]) > 0
        fitted = inside if line else np.ones_like(inside)
    _check_fit(solution, (predicted - place)[fitted], length)
    start, step, _ = solution
    low, high = (start + step * (end - middle) / extent for end in (0, count))
    return float(low * length), float(high * length)


def _least_squares(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(design.T @ design, design.T @ values, rcond=None)[0]


def _check_fit(solution: np.ndarray, errors: np.ndarray, length: int) -> None:
    """Allow for sampling whole pixels of the photo, and for rounding to 8 bits twice."""
    _, step, drift = np.abs(solution)
    spread = np.sqrt((errors**2).mean())
    if drift > 0.005 * step + 0.5 / length or spread > 0.35 / length + 0.0035:
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


def _random_states() -> tuple[object, ...]:
    _, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), keys.tobytes(), *rest, torch.get_rng_state().numpy().tobytes()


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
    pixels, the ramp leans and is dithered. Computed in 1/256 grey; the dithers of row
    and column add up modulo one grey.
    """
    shares = (1 - _LEAN, _LEAN) if axis == 0 else (_LEAN, 1 - _LEAN)
    indices = [np.arange(count) for count in size]
    tops = [share * 255 * 256 / count for share, count in zip(shares, size, strict=True)]
    grey = np.add.outer(*(np.rint((i + 0.5) * t).astype(np.uint16) for i, t in zip(indices, tops)))
    dither = np.add.outer(*((i * s % 1 * 256).astype(np.uint8) for i, s in zip(indices, _DITHER)))
    return Image.fromarray(((grey + dither) >> 8).astype(np.uint8)).convert("RGB")


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
