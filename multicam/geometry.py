"""Where on the photo the model looked, and how to lay a map back there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from multicam.errors import InputError


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
