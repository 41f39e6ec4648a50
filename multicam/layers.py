"""Which feature map: by name, by module, or found."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from multicam.capture import first_tensor
from multicam.errors import LayerError, nearest
from multicam.forward import Forward, Inputs
from multicam.grids import Reshape, grid_of
from multicam.guard import guarded

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


PARTS = (nn.Linear, nn.Embedding)
"""Parts of a token layer: their output is a step on the way, such as queries and keys."""


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
        >>> from multicam import Layer, token_grid
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
            as many samples as the image, and neither a pooling layer, which would only
            lower the resolution, nor a step within a token layer.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    candidate: bool


def locate(forward: Forward, layer: str | nn.Module | Layer) -> Located:
    """Find a layer in the model that `forward` runs.

    Raises:
        LayerError: the name is unknown (the nearest are listed), or the module
            is not a part of the model, or compiled by `torch.jit`.
    """
    spec = layer if isinstance(layer, Layer) else Layer(layer)
    if isinstance(spec.module, str):
        try:
            return _located(spec.module, forward.model.get_submodule(spec.module), spec)
        except AttributeError:
            known = advice(forward, spec.module)
            raise LayerError(f"no layer is called {spec.module!r}; {known}") from None
    for name, module in forward.model.named_modules():
        if module is spec.module:
            return _located(name, module, spec)
    raise LayerError(
        f"the given {type(spec.module).__name__} is not a part of the model; pass a module of "
        "the very model that is explained, or its dotted name"
    )


def _located(name: str, module: nn.Module, spec: Layer) -> Located:
    if isinstance(module, torch.jit.ScriptModule):
        raise LayerError(
            f"layer {name!r} is compiled by torch.jit, which hides its output; explain the model "
            "that it was scripted from, or choose a layer outside of it"
        )
    return Located(name, module, spec.call, spec.reshape)


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
    maps = _Maps(forward.signal)
    owner = threading.get_ident()
    with guarded(forward.model), torch.no_grad(), ExitStack() as hooks:
        for name, module in forward.model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue

            def hook(module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                if threading.get_ident() == owner:
                    maps.record(name, module, output)

            hooks.callback(module.register_forward_hook(hook).remove)
        forward()
    return maps.listed()


class _Maps:
    """The feature maps of a forward pass, told from what else goes through its modules."""

    def __init__(self, signal: tuple[int, ...] | None) -> None:
        self._signal = signal
        self._found: dict[str, FeatureMap] = {}
        self._calls = Counter[str]()
        self._pooled: list[Tensor] = []
        self._sequences: set[int] = set()

    def record(self, name: str, module: nn.Module, output: Any) -> None:
        self._calls[name] += 1
        tensor = first_tensor(output)
        if tensor is None:
            return
        if tensor.ndim == 3:
            self._sequences.add(tensor.shape[1])
        grid = grid_of(tensor, self._signal)
        if grid is None:
            return
        if isinstance(module, POOLING):
            self._pooled.append(tensor)
        candidate = (
            tensor is output
            and not isinstance(module, PARTS)
            and not any(tensor is pooled for pooled in self._pooled)
            and self._is_of_the_image(tensor)
        )
        self._found.pop(name, None)
        kind, shape = type(module).__name__, tuple(tensor.shape)
        self._found[name] = FeatureMap(name, kind, shape, grid, candidate)

    def listed(self) -> list[FeatureMap]:
        """All maps; no candidate has several calls, or the shape of attention over tokens."""
        return [
            replace(found, candidate=False)
            if self._calls[found.name] > 1 or self._is_of_tokens(found.shape)
            else found
            for found in self._found.values()
        ]

    def _is_of_tokens(self, shape: tuple[int, ...]) -> bool:
        """Whether it has as many rows as there are tokens: (batch, head, token, ...)."""
        return len(shape) == 4 and shape[2] in self._sequences

    def _is_of_the_image(self, tensor: Tensor) -> bool:
        """Whether it has one map per image: windows of attention are more."""
        signal = self._signal
        return signal is None or len(signal) < 4 or tensor.shape[0] == signal[0]
