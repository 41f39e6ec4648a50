"""Cut the graph at a layer, and leave the model as it was found.

The model runs without recording gradients until the first captured layer has
finished. There a fresh leaf takes the place of the layer's output, and only
what comes after it is recorded. No parameter is touched, so frozen models work
and `.grad` stays as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
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
        found = first_tensor(output)
        if found is None:
            raise LayerError(
                f"layer {name!r} gives no floating-point tensor but {type(output).__name__}; "
                "choose one that gives a feature map (`multicam.feature_maps` lists them)"
            )
        recorded = found
        if not (torch.is_grad_enabled() and found.requires_grad):
            with torch.inference_mode(False):
                copied = found.clone() if found.is_inference() else found.detach()
                recorded = copied.requires_grad_()
        torch.set_grad_enabled(True)
        activations[name].append(recorded)
        handed_on = recorded.clone()
        return pytree.tree_map(lambda leaf: handed_on if leaf is found else leaf, output)

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


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put back the buffers that a forward pass in training mode would update.

    A batch norm in training mode moves its running statistics at every forward
    pass; explaining a model must not.
    """
    training = (module for module in model.modules() if module.training)
    kept = [
        (buffer, buffer.clone())
        for module in training
        for buffer in module.buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


class _CudnnSwitch:
    """Switches cuDNN off while at least one thread asks for it, then puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._before = True

    def off(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._before = torch.backends.cudnn.enabled
                torch.backends.cudnn.enabled = False
            self._holders += 1

    def back(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                torch.backends.cudnn.enabled = self._before


_cudnn = _CudnnSwitch()


@contextmanager
def rnn_backward_allowed(model: nn.Module) -> Iterator[None]:
    """Let gradients pass recurrent layers of `model` on CUDA, in any mode.

    cuDNN refuses the backward pass of an RNN that ran in eval mode, and a double
    backward in every mode. Inside this block RNNs alone run without cuDNN; their
    mode, and cuDNN for all other layers, stay as they are.
    """
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    owner = threading.get_ident()
    running: list[nn.Module] = []

    def before(module: nn.Module, _args: Any) -> None:
        if threading.get_ident() == owner:
            _cudnn.off()
            running.append(module)

    def after(module: nn.Module, *_: Any) -> None:
        if threading.get_ident() == owner and module in running:
            running.remove(module)
            _cudnn.back()

    with ExitStack() as hooks:
        for module in recurrent:
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after, always_call=True).remove)
        yield

