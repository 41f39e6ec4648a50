"""Cut the graph at a layer, and leave the model as it was found.

The model runs without recording gradients until the first captured layer has
finished. There a fresh leaf takes the place of the layer's output, and only
what comes after it is recorded. No parameter is touched, so frozen models work
and `.grad` stays as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from multicam.errors import LayerError

Activations = dict[str, list[Tensor]]
"""For each captured layer, by name, its output at every call, in order."""


@contextmanager
def capture(layers: Mapping[str, nn.Module]) -> Iterator[Activations]:
    """Record the outputs of `layers` so that scores can be differentiated by them.

    Run the model inside the block, with gradients switched off before the call
    for the cheapest graph, or on to record everything. Forward passes of other
    threads over the same model are neither recorded nor changed.

    Args:
        layers: the modules to capture, by the name to file them under.

    Yields:
        A dictionary that fills while the model runs. Each tensor is part of the
        graph: a leaf at the first layer reached, a node behind it at later ones.
    """
    activations: Activations = {name: [] for name in layers}
    owner = threading.get_ident()

    def cut(name: str, output: Any) -> Any:
        if first_tensor(output) is None:
            raise LayerError(
                f"layer {name!r} gives no floating-point tensor but {type(output).__name__}; "
                "choose one that gives a feature map (`multicam.feature_maps` lists them)"
            )

        def record(found: Tensor) -> Tensor:
            recorded = _differentiable_copy(found)
            torch.set_grad_enabled(True)
            activations[name].append(recorded)
            return recorded.clone()

        return with_first_tensor(output, record)

    with ExitStack() as hooks:
        for name, module in layers.items():

            def hook(_module: nn.Module, _args: Any, output: Any, name: str = name) -> Any:
                return cut(name, output) if threading.get_ident() == owner else None

            hooks.callback(module.register_forward_hook(hook).remove)
        yield activations


def first_tensor(output: Any) -> Tensor | None:
    """The first floating-point tensor in an output, be it nested or not."""
    tensors = (leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def with_first_tensor(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same output, with its first floating-point tensor changed wherever it stands."""
    found = first_tensor(output)
    if found is None:
        return output
    changed = change(found)
    return pytree.tree_map(lambda leaf: changed if leaf is found else leaf, output)


def _differentiable_copy(tensor: Tensor) -> Tensor:
    """A node where the tensor is part of a graph, else a leaf.

    A copy, since the model may still change its own tensor in place.
    """
    if torch.is_grad_enabled() and tensor.requires_grad:
        return tensor.clone()
    with torch.inference_mode(False), torch.no_grad():
        return tensor.clone().requires_grad_()
