"""One forward pass, with the graph behind the chosen layers open for gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multicam.capture import Activations, buffers_kept, capture, rnn_backward_allowed
from multicam.errors import LayerError, UnreachedError
from multicam.forward import Forward
from multicam.layers import Located, Reshape, advice, infer_reshape


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
    forward: Forward, layers: Sequence[Located], *, record: bool, keep_buffers: bool = True
) -> Iterator[tuple[Any, list[Spot]]]:
    """Run the model once; inside the block, scores of its output can be differentiated.

    Works in an outer `no_grad` or `inference_mode`, and puts all back at the end.

    Args:
        forward: the model and its inputs.
        layers: where the graph is to be open.
        record: record the whole pass, rather than only what comes after the first layer.
        keep_buffers: undo what layers in training mode do to their running statistics.

    Yields:
        The model's output, and a spot for each layer, in their order.

    Raises:
        UnreachedError: a layer does not run.
        LayerError: a layer gives no grid, or runs more often than was said.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(record))
        stack.enter_context(rnn_backward_allowed(forward.model))
        if keep_buffers:
            stack.enter_context(buffers_kept(forward.model))
        modules = {layer.name: layer.module for layer in layers}
        activations = stack.enter_context(capture(modules))
        output = forward()
        yield output, [_spot(forward, layer, activations) for layer in layers]


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
