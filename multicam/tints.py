"""A map as small transparent pictures that a browser lays on the photo, and in words."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from multicam.geometry import Geometry
from multicam.overlay import colors

Part = tuple[float, float, float, float]
"""Left, top, width and height, in pixels of the photo."""

_PIXELS = 192  # of the longer side of a tint, at least: a browser smooths what it enlarges
_REGIONS = (
    ("upper left", "top", "upper right"),
    ("left", "centre", "right"),
    ("lower left", "bottom", "lower right"),
)


@dataclass(frozen=True)
class Tint:
    """The colours of one map over the part of a photo that the model saw.

    With the opacity o of the whole picture, they give what `multicam.overlay` paints:

        heat      (1 - o) photo + o jet(ReLU(values) / max)
        signed    (1 - o |s|) photo + o |s| diverging((s + 1) / 2),  s = values / max |values|

    Attributes:
        values: the signed map over that part, a value for each pixel of the tint.
        part: where it lies on the photo.
        size: (height, width) of the photo, in pixels.
    """

    values: Float[np.ndarray, "rows columns"]
    part: Part
    size: tuple[int, int]

    @classmethod
    def of(cls, values: Float[np.ndarray, "rows columns"], geometry: Geometry) -> Tint:
        """Lay a map of the model's whole input on the part of the photo that it fills."""
        left, top, width, height = part = part_seen(geometry)
        scale = max(_PIXELS, *values.shape) / max(width, height)
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        box_left, box_top, box_right, box_bottom = geometry.box
        box = (
            (box_left - left) / width * columns,
            (box_top - top) / height * rows,
            (box_right - left) / width * columns,
            (box_bottom - top) / height * rows,
        )
        return cls(Geometry((rows, columns), box).place(values), part, geometry.size)

    @cached_property
    def heat(self) -> str | None:
        """What speaks for the score, a data URI; None where nothing does."""
        shares = _relative(np.maximum(self.values, 0))
        return None if shares is None else _png(shares, colors("jet"), np.ones(256))

    @cached_property
    def signed(self) -> str | None:
        """What speaks for the score and what against it; None where nothing does."""
        shares = _relative(self.values)
        if shares is None:
            return None
        return _png((shares + 1) / 2, colors("diverging"), np.abs(np.linspace(-1, 1, 256)))

    @property
    def whereabouts(self) -> str:
        """Where on the photo the map speaks for the score, and where against it, in words."""
        if not np.isfinite(self.values).all():
            return ""
        most, least = self.values.max(), self.values.min()
        said = []
        if most > 0:
            near = (self.values > most / 2).mean() * self.part[2] * self.part[3]
            share = max(0.01, near / (self.size[0] * self.size[1]))
            region = self._region(self.values)
            said.append(
                f"Strongest at the {region}; over half of that on {share:.0%} of the photo."
            )
        if -least > max(most, 0) / 10:
            said.append(f"Speaks against it at the {self._region(-self.values)}.")
        return " ".join(said)

    def _region(self, values: Float[np.ndarray, "rows columns"]) -> str:
        """The ninth of the photo with the largest value."""
        row, column = np.unravel_index(values.argmax(), values.shape)
        left, top, width, height = self.part
        down = (top + (row + 0.5) / values.shape[0] * height) / self.size[0]
        across = (left + (column + 0.5) / values.shape[1] * width) / self.size[1]
        return _REGIONS[int(3 * down)][int(3 * across)]


def part_seen(geometry: Geometry) -> Part:
    """The part of the photo that the model saw; all of it where the two lie apart."""
    height, width = geometry.size
    box_left, box_top, box_right, box_bottom = geometry.box
    left, right = (min(max(x, 0.0), float(width)) for x in sorted((box_left, box_right)))
    top, bottom = (min(max(y, 0.0), float(height)) for y in sorted((box_top, box_bottom)))
    if left == right or top == bottom:
        return 0.0, 0.0, float(width), float(height)
    return left, top, right - left, bottom - top


def data_uri(kind: str, data: bytes) -> str:
    """A file of a MIME type as an address that holds it."""
    return f"data:{kind};base64,{b64encode(data).decode()}"


def _relative(values: np.ndarray) -> np.ndarray | None:
    """Divided by the largest magnitude; None where that says nothing."""
    peak = np.abs(values).max()
    return values / peak if 0 < peak < np.inf else None


def _png(
    shares: Float[np.ndarray, "rows columns"],
    table: UInt8[np.ndarray, "256 3"],
    opacity: Float[np.ndarray, " 256"],
) -> str:
    """A picture of 256 colours, each with an opacity of its own; shares and opacity 0 to 1."""
    image = Image.fromarray((shares * 255).round().astype(np.uint8))
    image.putpalette(table.tobytes())
    buffer = BytesIO()
    alpha = (opacity * 255).round().astype(np.uint8).tobytes()
    image.save(buffer, format="PNG", transparency=alpha, optimize=True)
    return data_uri("image/png", buffer.getvalue())
