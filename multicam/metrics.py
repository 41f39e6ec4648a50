"""How well a map points at boxes: scores of one map, what scores by chance, and intervals.

A map here is signed, (height, width) in pixels of the photo, as `Explanation.placed`
gives it. All scores look at its ReLU, what speaks for the target, and leave out the
places that the model did not see (NaN). Boxes are (left, top, right, bottom) in pixels;
together they are the places that ought to be pointed at. A pixel lies inside where its
centre does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from multicam.errors import InputError

ROUNDING = 1e-6
"""Places whose values differ by less than this share of the maximum are as high as it."""


def pointing_game(
    values: Float[np.ndarray, "..."], boxes: Sequence[Sequence[float]], *, tolerance: float = 0.0
) -> float:
    """Whether the highest place of a map lies in the boxes.

        |highest places in the boxes| / |highest places|

    Zhang et al., "Top-down neural attention by excitation backprop", arXiv 1608.00507,
    where a hit may be 15 pixels off. There one place is the highest; where
    several are equally high, this is the share of them that hits, the expected score of
    choosing one by chance. So a uniform map scores the area that the boxes cover, and so
    does a map without a positive value, which points nowhere.

    Args:
        values: signed map, (height, width).
        boxes: in pixels of the map, at least one.
        tolerance: how far from a box a place may lie and still hit, pixels, 0 or more.

    Returns:
        0 (miss) to 1 (hit).

    Raises:
        InputError: the map has another shape, is infinite or NaN throughout, or a box
            has no area or lies beyond it.

    Example:
        >>> pointing_game(np.array([[0.0, 1.0, 2.0]]), [(2, 0, 3, 1)])
        1.0
    """
    heat, within = _compared(values, boxes, tolerance)
    return float(within[heat >= heat.max() * (1 - ROUNDING)].mean())


def box_ratio(values: Float[np.ndarray, "..."], boxes: Sequence[Sequence[float]]) -> float:
    """How much stronger a map is inside the boxes than outside.

        mean of ReLU(map) inside / mean of ReLU(map) outside

    Selvaraju et al., arXiv 1610.02391, "Comparison to dense captioning". A uniform map
    scores 1. The mean of many ratios lies above 1 even by chance (2 and 1/2 average
    1.25), so a median, or the mean of maps that belong to other photos, should be named
    beside it.

    Args:
        values: signed map, (height, width).
        boxes: in pixels of the map, at least one.

    Returns:
        0 or more. Infinite where the map is positive inside alone; NaN where nothing is
        positive, or there is no place to compare: the boxes cover all that the model saw,
        or none of it.

    Raises:
        InputError: as for `pointing_game`.

    Example:
        >>> box_ratio(np.array([[1.0, 1.0, 4.0]]), [(2, 0, 3, 1)])
        4.0
    """
    heat, within = _compared(values, boxes)
    if not heat.any() or within.all() or not within.any():
        return float("nan")
    outside = float(heat[~within].mean())
    return float(heat[within].mean()) / outside if outside else float("inf")


def energy_inside(values: Float[np.ndarray, "..."], boxes: Sequence[Sequence[float]]) -> float:
    """The share of a map's positive values that lies in the boxes.

        sum of ReLU(map) inside / sum of ReLU(map)

    Wang et al., "Score-CAM", arXiv 1910.01279, the energy-based pointing game. A
    uniform map scores the area that the boxes cover.

    Args:
        values: signed map, (height, width).
        boxes: in pixels of the map, at least one.

    Returns:
        0 to 1; NaN where nothing is positive.

    Raises:
        InputError: as for `pointing_game`.

    Example:
        >>> energy_inside(np.array([[1.0, -2.0, 3.0]]), [(2, 0, 3, 1)])
        0.75
    """
    heat, within = _compared(values, boxes)
    return float(heat[within].sum() / heat.sum()) if heat.any() else float("nan")


def covered_area(size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> float:
    """The share of a photo that boxes cover together: what a uniform map scores.

    Args:
        size: (height, width) in pixels.
        boxes: in pixels, at least one.

    Returns:
        0 to 1.

    Raises:
        InputError: the size is below 1, or as for `pointing_game`.

    Example:
        >>> covered_area((10, 10), [(0, 0, 5, 4), (0, 0, 4, 5)])
        0.24
    """
    return float(_near(_checked_size(size), boxes, 0.0).mean())


def uniform_map(size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """A map that says the same everywhere: what blind chance scores.

    Args:
        size: (height, width) in pixels.
    """
    return np.ones(_checked_size(size))


def centre_point(size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """A map that points at the centre, where photographers put what they show.

    For the pointing game, where it is hard to beat. Along an even side the centre lies
    between two pixels, and both are as high.

    Args:
        size: (height, width) in pixels.

    Example:
        >>> centre_point((1, 4))
        array([[0., 1., 1., 0.]])
    """
    height, width = _checked_size(size)
    values = np.zeros((height, width))
    values[(height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1] = 1
    return values


def bootstrap_interval(
    values: Sequence[float] | Float[np.ndarray, " values"],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    draws: int = 2000,
    statistic: Callable[[Float[np.ndarray, " values"]], float] = np.mean,
) -> tuple[float, float]:
    """The 95 % interval of a mean, where values of one photo belong together.

    Words of one photo are no independent measurements, so whole photos are drawn with
    replacement, as many as there are, and all their values are taken: the percentile
    bootstrap over clusters (Davison and Hinkley, "Bootstrap Methods and their
    Application", 1997).

    Args:
        values: one for each word, not NaN.
        groups: the photo of each value.
        seed: of the draws; the same seed gives the same interval.
        draws: how often to draw, 1 or more.
        statistic: what the interval is of; `np.median` as well.

    Returns:
        The 2.5th and the 97.5th percentile of the statistic over the draws.

    Raises:
        InputError: a value is NaN, the lengths differ, there are less than two groups,
            or less than one draw.

    Example:
        >>> bootstrap_interval([0.0, 0.0, 1.0, 1.0], ["a.jpg", "a.jpg", "b.jpg", "b.jpg"])
        (0.0, 1.0)
    """
    parts = _grouped(np.asarray(values, dtype=np.float64), groups)
    if draws < 1:
        raise InputError(f"draws={draws}: give 1 or more; 2000 are usual")
    drawn = np.random.default_rng(seed).integers(len(parts), size=(draws, len(parts)))
    found = [statistic(np.concatenate([parts[i] for i in row])) for row in drawn]
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _grouped(
    values: Float[np.ndarray, "..."], groups: Sequence[Hashable]
) -> list[Float[np.ndarray, "_"]]:
    if values.shape != (len(groups),):
        raise InputError(
            f"values of shape {values.shape} and {len(groups)} groups were given; each value "
            "needs the photo that it belongs to"
        )
    if np.isnan(values).any():
        raise InputError(
            f"{np.isnan(values).sum()} of the {len(values)} values are NaN; leave those words "
            "out, and say how many they are"
        )
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(values.tolist(), groups, strict=True):
        members.setdefault(group, []).append(value)
    if len(members) < 2:
        raise InputError(
            f"{len(values)} values of {len(members)} photos say nothing about other photos; "
            "give values of at least two"
        )
    return [np.array(part) for part in members.values()]


def _compared(
    values: Float[np.ndarray, "..."], boxes: Sequence[Sequence[float]], tolerance: float = 0.0
) -> tuple[Float[np.ndarray, " seen"], Bool[np.ndarray, " seen"]]:
    """What speaks for the target at each place seen, at most 1, and which lie inside."""
    if values.ndim != 2 or np.isinf(values).any() or np.isnan(values).all():
        raise InputError(
            f"a map of shape {values.shape} with {np.isfinite(values).sum()} finite values was "
            "given; needed is (height, width), with NaN alone for places that the model did not "
            "see: Explanation.placed gives such a map"
        )
    if not tolerance >= 0:
        raise InputError(f"tolerance={tolerance}: give a distance in pixels, 0 or more")
    seen = ~np.isnan(values)
    heat = np.maximum(values[seen].astype(np.float64), 0)
    return heat / (heat.max() or 1), _near((values.shape[0], values.shape[1]), boxes, tolerance)[
        seen
    ]


def _near(
    size: tuple[int, int], boxes: Sequence[Sequence[float]], tolerance: float
) -> Bool[np.ndarray, "height width"]:
    """Which pixels have their centre in a box, or at most so far from one."""
    rows, columns = (np.arange(length) + 0.5 for length in size)
    found = np.zeros(size, bool)
    for left, top, right, bottom in _checked_boxes(size, boxes):
        down = np.maximum(np.maximum(top - rows, rows - bottom), 0)
        across = np.maximum(np.maximum(left - columns, columns - right), 0)
        found |= np.hypot(down[:, np.newaxis], across) <= tolerance
    return found


def _checked_boxes(
    size: tuple[int, int], boxes: Sequence[Sequence[float]]
) -> list[tuple[float, float, float, float]]:
    if not len(boxes):
        raise InputError("the list of boxes is empty; give at least one, or leave the map out")
    checked = []
    for box in boxes:
        if len(box) != 4 or not np.isfinite(box).all():
            raise InputError(f"the box {box} is not (left, top, right, bottom) in pixels")
        left, top, right, bottom = map(float, box)
        height, width = size
        if left >= right or top >= bottom:
            raise InputError(
                f"the box {box} has no area; needed is left < right and top < bottom, in the "
                "order (left, top, right, bottom)"
            )
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            raise InputError(
                f"the box {box} lies beyond the map of {height} x {width} pixels (height x "
                "width); boxes are in pixels of the map, (left, top, right, bottom)"
            )
        checked.append((left, top, right, bottom))
    return checked


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 1:
        raise InputError(f"a map of {size} has no pixels; give (height, width), 1 or more each")
    return size
