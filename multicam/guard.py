"""What holds while a model runs to be explained, and is put back afterwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn


@contextmanager
def guarded(model: nn.Module, *, twice: bool = False, vectorize: bool = False) -> Iterator[None]:
    """Run `model` so that any gradient is allowed and nothing of it changes.

    An outer `inference_mode` is suspended, modules compiled by `torch.compile` run
    as they were written, recurrent layers run without cuDNN, and the buffers of
    layers in training mode stay as they are.

    Args:
        model: the network.
        twice: gradients are to be differentiated again, which no fused attention allows.
        vectorize: several gradients are to be taken at once, which oneDNN does for a
            recurrent layer only one by one.
    """
    modules = list(model.modules())
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_compiler_off.held())
        stack.enter_context(_rnn_backward_allowed(modules, vectorize))
        if twice:
            stack.enter_context(_plain_attention.held())
        stack.enter_context(_buffers_kept(modules))
        yield


class _Shared:
    """A setting of the whole process: made by the first thread that needs it, put back by the last.

    Args:
        setting: makes the setting on entry and puts it back on exit.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting = setting
        self._lock = threading.Lock()
        self._holders = 0
        self._made = ExitStack()

    def hold(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._made.enter_context(self._setting())
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._made.close()

    @contextmanager
    def held(self) -> Iterator[None]:
        self.hold()
        try:
            yield
        finally:
            self.release()


@contextmanager
def _without(library: Any) -> Iterator[None]:
    before = library.enabled
    library.enabled = False
    try:
        yield
    finally:
        library.enabled = before


@contextmanager
def _no_compiler() -> Iterator[None]:
    """Hooks would have `torch.compile` compile anew at each call, up to its limit."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _no_fused_attention() -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


_cudnn_off = _Shared(partial(_without, torch.backends.cudnn))
_onednn_off = _Shared(partial(_without, torch.backends.mkldnn))
_compiler_off = _Shared(_no_compiler)
_plain_attention = _Shared(_no_fused_attention)


@contextmanager
def _rnn_backward_allowed(modules: Sequence[nn.Module], vectorize: bool) -> Iterator[None]:
    """Let gradients pass the recurrent ones of `modules` on CUDA, in any mode, or several at once.

    cuDNN refuses the backward pass of an RNN that ran in eval mode, and a double
    backward in every mode. Inside this block RNNs alone run without cuDNN, and without
    oneDNN to `vectorize`; their mode, and both for all other layers, stay as they are.
    """
    switched_off = [_cudnn_off, _onednn_off] if vectorize else [_cudnn_off]
    recurrent = [module for module in modules if isinstance(module, nn.RNNBase)]
    owner = threading.get_ident()
    running: list[nn.Module] = []

    def before(module: nn.Module, _args: Any) -> None:
        if threading.get_ident() == owner:
            for library in switched_off:
                library.hold()
            running.append(module)

    def after(module: nn.Module, *_: Any) -> None:
        if threading.get_ident() == owner and module in running:
            running.remove(module)
            for library in switched_off:
                library.release()

    with ExitStack() as hooks:
        for module in recurrent:
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after, always_call=True).remove)
        yield


@contextmanager
def _buffers_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Run on copies of the buffers that a forward pass in training mode may update.

    A batch norm in training mode moves its running statistics at every forward
    pass; explaining a model must not. The originals are not written to either, since
    a graph of the user's may hold them.
    """
    kept = [
        (module, name, buffer)
        for module in modules
        if module.training
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        for module, name, buffer in kept:
            setattr(module, name, buffer.detach().clone())
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
