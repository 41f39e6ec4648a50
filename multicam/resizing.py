"""Values on a grid, at another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resized(
    values: Float[Tensor, "batch channel *grid"], size: Sequence[int]
) -> Float[Tensor, "batch channel *size"]:
    """Images or maps over one, two or three dimensions, linear between half-pixel centres.

    Args:
        values: on a grid.
        size: of the new grid; the values stay as they are where it is their own.
    """
    if tuple(values.shape[2:]) == tuple(size):
        return values
    return torch.nn.functional.interpolate(
        values, size=tuple(size), mode=_MODES[len(size)], align_corners=False
    )
