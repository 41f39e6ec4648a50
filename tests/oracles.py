"""The formulas of the papers again, as plain loops in float64, to hold the library against."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def grad_cam(activations: Array, gradients: Array) -> Array:
    """Equations 1 and 2 of arXiv 1610.02391 for one sample, before the ReLU.

    Both arguments have shape (channel, *grid), the result has (*grid).
    """
    places = list(product(*map(range, activations.shape[1:])))
    result = np.zeros(activations.shape[1:])
    for channel in range(activations.shape[0]):
        weight = 0.0
        for place in places:
            weight += gradients[channel][place] / len(places)
        for place in places:
            result[place] += weight * activations[channel][place]
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
