"""From a layer's output to a grid of places, channels first; told from its shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from multicam.errors import LayerError

Reshape = Callable[[Tensor], Tensor]
"""Lays a layer's output out as (batch, channel, height, width)."""

PREFIXES = (0, 1, 2, 4, 5)
"""Leading non-image tokens in use: none, class, class + distillation, registers, class + 4."""


def token_grid(height: int, width: int, prefix: int = 0) -> Reshape:
    """Lay out tokens (batch, prefix + height * width, channel) as a channels-first grid.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        prefix: leading tokens that stand for no place (class and register tokens).

    Returns:
        A function from (batch, tokens, channel) to (batch, channel, height, width).
    """

    def reshape(tokens: Tensor) -> Tensor:
        if tokens.ndim != 3 or tokens.shape[1] != prefix + height * width:
            raise LayerError(
                f"token_grid({height}, {width}, prefix={prefix}) needs shape "
                f"(batch, {prefix + height * width}, channel); the layer gives "
                f"{tuple(tokens.shape)}"
            )
        places = tokens[:, prefix:].transpose(1, 2)
        return places.reshape(*places.shape[:2], height, width)

    return reshape


def channels_last(activations: Tensor) -> Tensor:
    """Bring (batch, height, width, channel) to (batch, channel, height, width)."""
    return activations.movedim(-1, 1)


def channels_first(activations: Tensor) -> Tensor:
    """Leave (batch, channel, height, width) as it is."""
    return activations


def infer_reshape(shape: tuple[int, ...], signal: tuple[int, ...] | None) -> Reshape:
    """Tell from a layer's output shape how it becomes a channels-first grid.

    Args:
        shape: of the layer's output.
        signal: of the model's image input, (batch, channel, height, width), if known.

    Raises:
        LayerError: the shape holds no grid, or leaves more than one reading.
    """
    size = None if signal is None or len(signal) != 4 else (signal[2], signal[3])
    if len(shape) == 3 and (signal is None or len(signal) != 3):
        return _infer_tokens(shape, size)
    if len(shape) == 4 and size is not None and _are_channels_last(shape, size):
        return _spatial(channels_last, shape[1:3], shape)
    if len(shape) < 3:
        raise LayerError(f"its output {shape} is not spatial; choose an earlier layer")
    return _spatial(channels_first, shape[2:], shape)


def _spatial(reshape: Reshape, grid: tuple[int, ...], shape: tuple[int, ...]) -> Reshape:
    if torch.Size(grid).numel() < 2:
        raise LayerError(f"its output {shape} has a single place; choose an earlier layer")
    return reshape


def _are_channels_last(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether (batch, height, width, channel) is the only reading in the image's proportions."""
    first, last = shape[2:], shape[1:3]
    if _same_proportions(first, size) or not _same_proportions(last, size):
        return False
    if _same_proportions(first, size, cells=8):
        raise LayerError(
            f"its output {shape} may have its channels first or last; say it with Layer(..., "
            "reshape=multicam.grids.channels_first) or channels_last"
        )
    return True


def _same_proportions(grid: tuple[int, ...], size: tuple[int, int], cells: int = 1) -> bool:
    """Whether `grid` is `size` divided by one stride, up to some cells lost at the border."""
    (rows, columns), (height, width) = grid, size
    return abs(rows * width - columns * height) <= cells * max(height, width)


def _infer_tokens(shape: tuple[int, ...], size: tuple[int, int] | None) -> Reshape:
    count = shape[1]
    readings = sorted(
        (count - rows * columns, rows, columns)
        for rows, columns in _grids(count, size)
        if count - rows * columns in PREFIXES and rows * columns > 1
    )
    if size is not None and len(readings) == 1:
        prefix, rows, columns = readings[0]
        return token_grid(rows, columns, prefix)
    options = " or ".join(f"token_grid({r}, {c}, prefix={p})" for p, r, c in readings)
    raise LayerError(
        f"its output {shape} reads as {count} tokens, and their grid is not certain; say it with "
        f"Layer(..., reshape={options or 'token_grid(height, width, prefix=...)'})"
    )


def _grids(count: int, size: tuple[int, int] | None) -> set[tuple[int, int]]:
    if size is None:
        return {(side, side) for side in range(2, int(count**0.5) + 1)}
    height, width = size
    patches = range(1, min(height, width) + 1)
    floors = {(height // p, width // p) for p in patches}
    return floors | {(-(-height // p), -(-width // p)) for p in patches}


def grid_of(tensor: Tensor, signal: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The grid of places in a layer's output, or None where it holds none for certain."""
    try:
        return tuple(infer_reshape(tuple(tensor.shape), signal)(tensor).shape[2:])
    except LayerError:
        return None
