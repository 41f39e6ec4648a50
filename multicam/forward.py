"""How the model is called: any signature behind one call without arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

Inputs = Any
"""A tensor (or any other single argument), a tuple (positional) or a mapping (keywords)."""


@dataclass(frozen=True)
class Forward:
    """A model and its inputs, ready to run.

    Args:
        model: the network that holds the layers.
        inputs: a tuple gives positional arguments, a mapping gives keyword
            arguments, anything else is the single argument.
        function: what to call in place of the model, such as `model.get_image_features`.
    """

    model: nn.Module
    inputs: Inputs
    function: Callable[..., Any] | None = None

    def __call__(self) -> Any:
        """Run the model and give back its output, whatever its type."""
        call = self.function or self.model
        inputs = pytree.tree_map(_usable_in_graph, self.arguments)
        if isinstance(inputs, tuple):
            return call(*inputs)
        if isinstance(inputs, Mapping):
            return call(**inputs)
        return call(inputs)

    @property
    def arguments(self) -> Inputs:
        """The inputs, a mapping of any kind (a `UserDict`) as a dict, which pytree knows."""
        return dict(self.inputs) if isinstance(self.inputs, Mapping) else self.inputs

    @property
    def signal(self) -> tuple[int, ...] | None:
        """The shape of the image among the inputs: the floating tensor of most dimensions.

        Failing that an integer tensor of at least four, such as an image of bytes. None
        where no input has (batch, channel, length) or more dimensions.
        """
        tensors = [leaf for leaf in pytree.tree_leaves(self.arguments) if isinstance(leaf, Tensor)]
        floats = [tuple(t.shape) for t in tensors if t.is_floating_point() and t.ndim >= 3]
        others = [tuple(t.shape) for t in tensors if t.ndim >= 4]
        return max(floats or others, key=len, default=None)

    def describe(self) -> str:
        """The model and the shapes of its inputs, for messages."""
        shapes = ", ".join(
            str(tuple(leaf.shape)) if isinstance(leaf, Tensor) else type(leaf).__name__
            for leaf in pytree.tree_leaves(self.arguments)
        )
        return f"{type(self.model).__name__}, inputs {shapes}"


def _usable_in_graph(leaf: Any) -> Any:
    """Tensors made in inference mode may not enter a graph; their copies may."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf
