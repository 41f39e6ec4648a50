"""A mean, and how far it may be off on other photos."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from multicam.metrics import bootstrap_interval


def with_interval(
    values: Sequence[float] | np.ndarray, photos: Sequence[Hashable], digits: int = 2
) -> str:
    """The mean, and its 95 % interval over draws of whole photos."""
    if len(set(photos)) < 2:
        return "too few photos"
    found = float(np.mean(values)), *bootstrap_interval(values, photos)
    mean, low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in found)  # no -0.0
    return f"{mean} ({low} to {high})"
