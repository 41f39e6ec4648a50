"""The formulas of the papers again, as plain loops in float64, to hold the library against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def grad_cam(activations: Array, gradients: Array) -> Array:
    """Equations 1 and 2 of arXiv 1610.02391 for one sample, before the ReLU.

    Both arguments have shape (channel, *grid), the result has (*grid), here and below.
    """
    weights = [
        sum(channel[place] / channel.size for place in places(channel)) for channel in gradients
    ]
    return weighted_sum(weights, activations)


def grad_cam_plus_plus(activations: Array, gradients: Array) -> Array:
    """Equation 19 of arXiv 1710.11063 as it stands, a place with no gradient left out."""
    weights = []
    for channel, gradient in zip(activations, gradients, strict=True):
        total, weight = 0.0, 0.0
        for place in places(channel):
            total += channel[place]
        for place in places(channel):
            slope = gradient[place]
            if slope != 0:
                alpha = slope**2 / (2 * slope**2 + total * slope**3)
                weight += alpha * max(slope, 0.0)
        weights.append(weight)
    return weighted_sum(weights, activations)


def x_grad_cam(activations: Array, gradients: Array) -> Array:
    """The weights of arXiv 2008.02312: the mean gradient, weighted by activation."""
    weights = []
    for channel, gradient in zip(activations, gradients, strict=True):
        total = sum(channel[place] for place in places(channel))
        shares = [gradient[place] * channel[place] / total for place in places(channel)]
        weights.append(sum(shares))
    return weighted_sum(weights, activations)


def hires_cam(activations: Array, gradients: Array) -> Array:
    """The products of arXiv 2011.08891."""
    return place_by_place(activations, gradients, lambda a, g: g * a)


def element_wise(activations: Array, gradients: Array) -> Array:
    """The positive products alone."""
    return place_by_place(activations, gradients, lambda a, g: max(g * a, 0.0))


def layer_cam(activations: Array, gradients: Array) -> Array:
    """The positive gradients of LayerCAM as weights."""
    return place_by_place(activations, gradients, lambda a, g: max(g, 0.0) * a)


def eigen_cam(activations: Array, gradients: Array) -> Array:
    """A v_1 of arXiv 2008.00299, from the whole decomposition.

    Its sign is that of more activation; where this does not tell, of the greatest value.
    """
    matrix = activations.reshape(len(activations), -1).T
    component = np.linalg.svd(matrix)[2][0]
    projected = matrix @ component
    towards = sum(component)
    if abs(towards) <= 1e-3:
        towards = max(projected, key=abs)
    return np.asarray(projected * np.sign(towards)).reshape(activations.shape[1:])


def eigen_grad_cam(activations: Array, gradients: Array) -> Array:
    """The same of the products of activations and gradients."""
    return eigen_cam(activations * gradients, gradients)


def places(channel: Array) -> list[tuple[int, ...]]:
    """All indices of a grid."""
    return list(product(*map(range, channel.shape)))


def weighted_sum(weights: Sequence[float], activations: Array) -> Array:
    """The sum of channels times weights, place by place."""
    result = np.zeros(activations.shape[1:])
    for weight, channel in zip(weights, activations, strict=True):
        for place in places(channel):
            result[place] += weight * channel[place]
    return result


def place_by_place(
    activations: Array, gradients: Array, term: Callable[[float, float], float]
) -> Array:
    """The sum over channels of a term of activation and gradient."""
    result = np.zeros(activations.shape[1:])
    for channel, gradient in zip(activations, gradients, strict=True):
        for place in places(channel):
            result[place] += term(channel[place], gradient[place])
    return result


def central_differences(score: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """The gradient of a scalar function, one entry at a time."""
    gradient = np.zeros_like(at)
    for place in product(*map(range, at.shape)):
        above, below = at.copy(), at.copy()
        above[place] += step
        below[place] -= step
        gradient[place] = (score(above) - score(below)) / (2 * step)
    return gradient
