"""What a score loses when a part of a photo is hidden, and how alike two maps rank places."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

SIDE = 0.25
"""Of the grey square, as a share of height and width."""

GREY = 0.0
"""In the bundled preprocessing: a pixel of 127."""


def occlusion_maps(
    scores: Callable[[Tensor], Tensor], image: Tensor, grid: tuple[int, int], batch: int = 32
) -> np.ndarray:
    """How much some scores fall when a grey square hides each place.

    Zeiler and Fergus, arXiv 1311.2901. Squares are centred on the cells of the grid, and
    overlap; none reaches beyond the photo.

    Args:
        scores: from images (batch, channel, height, width) to scores (batch, score).
        image: (1, channel, height, width).
        grid: (rows, columns) of the maps.
        batch: how many squares are tried at once.

    Returns:
        Signed, (score, rows, columns): above 0 where a score needs what is seen there.
    """
    places, falls = list(product(*map(range, grid))), []
    with torch.inference_mode():
        whole = scores(image)
        for first in range(0, len(places), batch):
            some = places[first : first + batch]
            hidden = image.repeat(len(some), 1, 1, 1)
            for copy, place in zip(hidden, some, strict=True):
                copy[(slice(None), *map(_around, place, grid, image.shape[2:]))] = GREY
            falls.append(whole - scores(hidden))
    return torch.cat(falls).T.reshape(-1, *grid).numpy()


def _around(cell: int, cells: int, length: int) -> slice:
    """The pixels of a square around a cell's centre."""
    centre, half = (cell + 0.5) * length / cells, SIDE * length / 2
    return slice(max(0, round(centre - half)), round(centre + half))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's: 1 where two maps rank all places alike; NaN where one has no ranks.

    Example:
        >>> rank_correlation(np.array([1, 2, 9]), np.array([0.1, 0.2, 0.3]))
        1.0
    """
    ranks = [_ranks(values) for values in (first, second)]
    if any((one == one[0]).all() for one in ranks):
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places by their values; those that are equal share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place.ravel()]
