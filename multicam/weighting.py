"""The Grad-CAM family: pure functions of activations and gradients.

A method takes the activations A and the gradients G of one target, both of shape
(batch, channel, *grid), and returns signed maps of shape (batch, *grid). ReLU and
normalisation are views of `Explanation`, not part of a method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from multicam.errors import InputError, nearest

Method: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(activations, gradients) -> maps: (batch, channel, *grid) twice to (batch, *grid)."""


def grad_cam(
    activations: Float[Tensor, "batch channel *grid"],
    gradients: Float[Tensor, "batch channel *grid"],
) -> Float[Tensor, "batch *grid"]:
    """Grad-CAM: channels weighted by their mean gradient.

        weight_k = mean over places of G_k            (equation 1)
        map      = sum over channels of weight_k A_k  (equation 2, before its ReLU)

    Selvaraju et al., "Grad-CAM", arXiv 1610.02391.

    Args:
        activations: the feature map A.
        gradients: d score / d A.

    Returns:
        Signed maps; positive where the place speaks for the score.
    """
    weights = gradients.flatten(2).mean(dim=2)
    return (weights.unsqueeze(1) @ activations.flatten(2)).reshape(
        activations.shape[0], *activations.shape[2:]
    )


METHODS: dict[str, Method] = {"gradcam": grad_cam}
"""The methods that can be chosen by name."""


def method_named(method: str | Method) -> tuple[str, Method]:
    """The name and the function of a method given as either.

    Raises:
        InputError: no method has this name.
    """
    if not isinstance(method, str):
        return getattr(method, "__name__", type(method).__name__), method
    if method not in METHODS:
        close = ", ".join(nearest(method, METHODS) or METHODS)
        raise InputError(
            f"no method is called {method!r}; try {close}, or pass a function of (A, G)"
        )
    return method, METHODS[method]
