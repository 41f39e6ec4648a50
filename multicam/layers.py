"""Which feature map: by name, by module, or found; tokens laid out as a grid."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from multicam.capture import first_tensor
from multicam.errors import LayerError, nearest
from multicam.forward import Forward, Inputs

Reshape = Callable[[Tensor], Tensor]
"""Lays a layer's output out as (batch, channel, height, width)."""

PREFIXES = (0, 1, 2, 4, 5)
"""Leading non-image tokens in use: none, class, class + distillation, registers, class + 4."""

POOLING = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)


@dataclass(frozen=True)
class Layer:
    """A layer, with what its name alone does not tell.

    Args:
        module: dotted name, or the module itself.
        call: which of its calls, when the model runs it more than once in one
            forward pass: 0 for the first, -1 for the last.
        reshape: lays its output out as (batch, channel, height, width), where
            that does not follow from the shape; see `token_grid`.

    Example:
        >>> Layer("blocks.11.norm1", reshape=token_grid(14, 14, prefix=5)).module
        'blocks.11.norm1'
    """

    module: str | nn.Module
    call: int | None = None
    reshape: Reshape | None = None


@dataclass(frozen=True)
class Located:
    """A `Layer` found in a model: its dotted name beside its module."""

    name: str
    module: nn.Module
    call: int | None
    reshape: Reshape | None


@dataclass(frozen=True)
class FeatureMap:
    """A spatial output that a forward pass met.

    Attributes:
        name: dotted name of the module.
        kind: class of the module.
        shape: of its (last) output, batch first.
        grid: height and width of the map that it gives.
        candidate: whether automatic search may choose it: one call, a bare tensor,
            and not a pooling layer, which would only lower the resolution.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    candidate: bool


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
    if len(shape) == 4 and size is not None:
        first, last = shape[2:], shape[1:3]
        if not _same_proportions(first, size) and _same_proportions(last, size):
            return _spatial(channels_last, last, shape)
    if len(shape) < 3:
        raise LayerError(f"its output {shape} is not spatial; choose an earlier layer")
    return _spatial(channels_first, shape[2:], shape)


def _spatial(reshape: Reshape, grid: tuple[int, ...], shape: tuple[int, ...]) -> Reshape:
    if torch.Size(grid).numel() < 2:
        raise LayerError(f"its output {shape} has a single place; choose an earlier layer")
    return reshape


def _same_proportions(grid: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether `grid` is `size` divided by one stride, up to a cell at the border."""
    (rows, columns), (height, width) = grid, size
    return abs(rows * width - columns * height) <= max(height, width)


def _infer_tokens(shape: tuple[int, ...], size: tuple[int, int] | None) -> Reshape:
    count = shape[1]
    readings = sorted(
        (count - rows * columns, rows, columns)
        for rows, columns in _grids(count, size)
        if count - rows * columns in PREFIXES and rows * columns > 1
    )
    if len(readings) == 1:
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


def locate(forward: Forward, layer: str | nn.Module | Layer) -> Located:
    """Find a layer in the model that `forward` runs.

    Raises:
        LayerError: the name is unknown (the nearest are listed), or the module
            is not a part of the model.
    """
    spec = layer if isinstance(layer, Layer) else Layer(layer)
    modules = dict(forward.model.named_modules())
    if isinstance(spec.module, str):
        if spec.module not in modules:
            raise LayerError(f"no layer is called {spec.module!r}; {advice(forward, spec.module)}")
        return Located(spec.module, modules[spec.module], spec.call, spec.reshape)
    for name, module in modules.items():
        if module is spec.module:
            return Located(name, module, spec.call, spec.reshape)
    raise LayerError(
        f"the given {type(spec.module).__name__} is not a part of the model; pass a module of "
        "the very model that is explained, or its dotted name"
    )


def advice(forward: Forward, name: str) -> str:
    """The feature maps whose names are closest to `name`, with their shapes, for a message."""
    shapes = {found.name: found.shape for found in probe(forward)}
    close = nearest(name, shapes) or list(shapes)[-5:]
    listed = ", ".join(f"{found!r} {shapes[found]}" for found in close)
    return f"feature maps to choose from: {listed or 'none'}"


def feature_maps(
    model: nn.Module, inputs: Inputs, forward: Callable[..., Any] | None = None
) -> list[FeatureMap]:
    """List the spatial feature maps of a model, in the order in which they are ready.

    Runs one forward pass without gradients.

    Args:
        model: any module.
        inputs: tensor, tuple (positional) or mapping (keywords), as for `explain`.
        forward: what to call in place of the model.

    Returns:
        One entry for each module whose output holds a grid of places.
    """
    return probe(Forward(model, inputs, forward))


def probe(forward: Forward) -> list[FeatureMap]:
    """The feature maps met by one forward pass; see `feature_maps`."""
    found: dict[str, FeatureMap] = {}
    pooled: list[Tensor] = []
    owner = threading.get_ident()
    signal = forward.signal

    def record(name: str, module: nn.Module, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None or (grid := grid_of(tensor, signal)) is None:
            return
        if isinstance(module, POOLING):
            pooled.append(tensor)
        candidate = (
            tensor is output
            and name not in found
            and not any(tensor is other for other in pooled)
        )
        found.pop(name, None)
        kind, shape = type(module).__name__, tuple(tensor.shape)
        found[name] = FeatureMap(name, kind, shape, grid, candidate)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in forward.model.named_modules():

            def hook(module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                if threading.get_ident() == owner:
                    record(name, module, output)

            hooks.callback(module.register_forward_hook(hook).remove)
        forward()
    return list(found.values())


def grid_of(tensor: Tensor, signal: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The grid of places in a layer's output, or None where it holds none for certain."""
    try:
        return tuple(infer_reshape(tuple(tensor.shape), signal)(tensor).shape[2:])
    except LayerError:
        return None

