"""One forward pass, with the graph behind the chosen layers open for gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multicam.capture import Activations, capture
from multicam.errors import InputError, LayerError, UnreachedError
from multicam.forward import Forward
from multicam.grids import Reshape, infer_reshape
from multicam.guard import guarded
from multicam.layers import Located, advice


@dataclass(frozen=True)
class Spot:
    """A feature map in a graph.

    Attributes:
        name: of the layer, with the call where it runs more than once.
        activations: the layer's output, as it came.
        reshape: from that to (batch, channel, height, width).
    """

    name: str
    activations: Tensor
    reshape: Reshape

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.reshape(self.activations).shape[0]

    def grid(self, tensor: Tensor) -> Tensor:
        """Activations or their gradients, channels first, in a precision fit for sums."""
        laid_out = self.reshape(tensor)
        return laid_out.float() if laid_out.dtype in (torch.half, torch.bfloat16) else laid_out


@contextmanager
def traced(
    forward: Forward,
    layers: Sequence[Located],
    *,
    record: bool,
    twice: bool = False,
    vectorize: bool = False,
) -> Iterator[tuple[Any, list[Spot]]]:
    """Run the model once; inside the block, scores of its output can be differentiated.

    Works in an outer `no_grad` or `inference_mode`, and puts all back at the end.

    Args:
        forward: the model and its inputs.
        layers: where the graph is to be open.
        record: record the whole pass, rather than only what comes after the first layer.
        twice: gradients are to be differentiated again.
        vectorize: several gradients are to be taken at once.

    Yields:
        The model's output, and a spot for each layer, in their order.

    Raises:
        UnreachedError: a layer does not run.
        LayerError: a layer gives no grid, or runs more often than was said.
        InputError: the parameters cannot be part of a graph.
    """
    modules = {layer.name: layer.module for layer in layers}
    with (
        guarded(forward.model, twice=twice, vectorize=vectorize),
        torch.set_grad_enabled(record),
        capture(modules) as activations,
    ):
        output = _recorded(forward)
        yield output, [_spot(forward, layer, activations) for layer in layers]


def _recorded(forward: Forward) -> Any:
    try:
        return forward()
    except RuntimeError as error:
        if any(parameter.is_inference() for parameter in forward.model.parameters()):
            raise InputError(
                "the model's parameters were made in torch.inference_mode(), which rules gradients "
                "out; make or load the model outside of it (inputs made inside are fine)"
            ) from error
        raise


def _spot(forward: Forward, layer: Located, activations: Activations) -> Spot:
    tensor = _chosen_call(forward, layer, activations[layer.name])
    try:
        reshape = layer.reshape or infer_reshape(tuple(tensor.shape), forward.signal)
    except LayerError as error:
        message = f"layer {layer.name!r}: {error}; {advice(forward, layer.name)}"
        raise LayerError(message) from None
    name = layer.name if layer.call is None else f"{layer.name} (call {layer.call})"
    return Spot(name, tensor, reshape)


def _chosen_call(forward: Forward, layer: Located, calls: Sequence[Tensor]) -> Tensor:
    count = len(calls)
    if not calls:
        raise UnreachedError(
            f"layer {layer.name!r} does not run in this forward pass; {advice(forward, layer.name)}"
        )
    if layer.call is None and count > 1:
        raise LayerError(
            f"layer {layer.name!r} runs {count} times in one forward pass; choose a call with "
            f"Layer({layer.name!r}, call=0) to call={count - 1}"
        )
    call = layer.call or 0
    if not -count <= call < count:
        raise LayerError(f"layer {layer.name!r} runs {count} times, so it has no call {call}")
    return calls[call]
