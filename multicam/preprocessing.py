"""Send a photo through a model's preprocessing, and find out where the model will look."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from multicam.errors import InputError
from multicam.geometry import Geometry, Photo
from multicam.images import ImageSource, load

Transform: TypeAlias = Callable[[Image.Image], Tensor]
"""A model's preprocessing: an RGB image to a tensor (channel, height, width)."""

_LEAN = 0.2361  # how much of a ramp's range runs across it; no simple fraction
_FILTER_REACH = 3  # pixels, of the photo or the input, that a Lanczos filter looks to either side
_REPEATS = 8  # of a transform that draws random numbers: does anything come of them?
_CACHE_SIZE = 256
_measured: dict[tuple[tuple[int, int], bytes], Geometry] = {}


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
        fitted = _well_inside(lines, u, extent, lengths)
        lines = _least_squares(u[:, fitted], places[:, fitted])
    single = (lengths == 1) | (extent == 1)  # one pixel has no slope: it is the whole photo
    errors = _predicted(lines, u[:, fitted]) - places[:, fitted]
    _check_fit(lines, errors, extent, lengths, ~single)
    slopes = np.where(single, 1.0, _slopes(lines))
    middles = np.where(single, 0.5, lines[:, :1])
    return middles - slopes * (0.5 + first / extent), slopes / extent


def _least_squares(u: np.ndarray, places: np.ndarray) -> Float[np.ndarray, "2 3"]:
    """For x and y: the place at the centre, its slope along x, its slope along y."""
    design = np.stack([np.ones_like(u[0]), *u])
    solution: np.ndarray = np.linalg.lstsq(design @ design.T, design @ places.T, rcond=None)[0]
    return solution.T


def _predicted(lines: np.ndarray, u: np.ndarray) -> Float[np.ndarray, "2 pixels"]:
    predicted: np.ndarray = lines[:, :1] + lines[:, 1:] @ u
    return predicted


def _slopes(lines: np.ndarray) -> Float[np.ndarray, "2 1"]:
    return lines[:, 1:].diagonal()[:, np.newaxis]


def _well_inside(
    lines: np.ndarray, u: np.ndarray, extent: np.ndarray, lengths: np.ndarray
) -> Bool[np.ndarray, " pixels"]:
    """Out of every filter's reach of the border; all, where too few are."""
    steps = np.abs(_slopes(lines)) / extent
    margin = np.minimum(_FILTER_REACH * np.maximum(steps, 1 / lengths), 0.25)
    inside: np.ndarray = np.all(np.abs(_predicted(lines, u) - 0.5) <= 0.5 - margin, axis=0)
    if inside.any() and ((np.ptp(u[:, inside], axis=1) > 0) | (extent[:, 0] == 1)).all():
        return inside
    return np.ones_like(inside)


def _check_fit(
    lines: np.ndarray,
    errors: np.ndarray,
    extent: np.ndarray,
    lengths: np.ndarray,
    checked: np.ndarray,
) -> None:
    """Allow for sampling whole pixels of the photo, and for rounding to 8 bits twice."""
    drifts = np.abs(lines[[0, 1], [2, 1]])[:, np.newaxis]
    rounding = 0.002 + 0.01 / extent[::-1]
    turned = drifts > 0.005 * np.abs(_slopes(lines)) + 0.5 / lengths + rounding
    bent = np.sqrt((errors**2).mean(axis=1, keepdims=True)) > 0.35 / lengths + 0.0035
    if ((turned | bent) & checked).any():
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
    return Image.new("RGB", (size[1], size[0]), (grey, grey, grey))


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
