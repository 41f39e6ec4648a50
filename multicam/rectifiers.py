"""Activations with another backward pass, for the time of one forward pass.

While the model runs, and in this thread alone, every call of an activation is seen, be it
made by a module, a function or a method, in place or not. Its values stay; what goes on
to its input in the backward pass is up to a rule. The model itself is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from multicam.errors import InputError

Rule: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(gradient R that arrives at an activation f, slope f'(x)) -> what goes on to its input x."""

_STRAIGHT = {"relu", "relu6", "hardtanh", "leaky_relu", "rrelu", "prelu", "threshold"}
_CURVED = {"elu", "celu", "selu", "gelu", "silu", "mish", "softplus", "hardswish"}

ACTIVATIONS = frozenset(_STRAIGHT | _CURVED)
"""The functions of torch that count as activations; hardtanh where its minimum is 0 (ReLU6).

Sigmoid, tanh and softmax, which gate, keep their own gradient. So does an activation that
is written out as arithmetic, such as x * x.sigmoid().
"""

_FUSED = frozenset({"rnn_relu", "rnn_relu_cell"})


class RuledActivations(TorchFunctionMode):
    """Inside this block, in this thread, activations have a backward pass by a rule.

    Args:
        rule: what goes on to the input of an activation.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._rule = rule
        self._met = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, run inside this block."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return run

    def check(self) -> None:
        """Refuse to go on where the rule had nothing to change.

        Raises:
            InputError: no activation ran on what depends on the image.
        """
        if not self._met:
            raise InputError(
                "no activation such as ReLU or GELU runs between the image and the output, so the "
                "result would be the plain gradient; activations that are written out as "
                "arithmetic, compiled, or run in other threads are not seen; use `explain`"
            )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").split(".")[0].strip("_")  # aten: "relu_.default"
        options = dict(kwargs or {})
        if name in _FUSED:
            raise InputError(
                f"{name} runs the ReLUs of a recurrent layer inside one kernel, out of reach; use "
                "`explain`, which needs no change of them"
            )
        if name not in ACTIVATIONS:
            return func(*args, **options)
        signal, *rest = args or (options.pop("input"),)
        lowest = options.get("min_val", rest[0] if rest else -1.0)
        if not signal.requires_grad or (name == "hardtanh" and lowest != 0):
            return func(signal, *rest, **options)
        self._met += 1
        apply = cast("Any", _Activation).apply
        return apply(signal, lambda given: func(given, *rest, **options), self._rule)


class _Activation(torch.autograd.Function):
    """An activation, element by element, whose backward pass is a rule's."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, activation: Callable[..., Tensor], rule: Rule) -> Tensor:
        with torch.enable_grad():
            leaf = signal.detach().requires_grad_()
            given = leaf.clone()
            value = activation(given)
            (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
        ctx.rule = rule
        ctx.save_for_backward(slope)
        if value is not given:
            return value.detach()
        ctx.mark_dirty(signal)  # the activation works in place
        return signal.copy_(value.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.rule(*gradients, *ctx.saved_tensors), None, None


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a model with parts whose activations nothing can reach.

    Raises:
        InputError: a module is compiled by `torch.jit`.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{f'module {name!r}' if name else 'the model'} is compiled by torch.jit, which "
                "hides its activations; pass the model that it was made from, or use `explain`, "
                "which needs no change of them"
            )
