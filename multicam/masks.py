"""Masks on the grid of an image or a feature map; those of many places are made when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multicam.resizing import resized


def scaled(masks: Float[Tensor, "mask 1 *size"]) -> Float[Tensor, "mask 1 *size"]:
    """Each mask from 0 to 1; zeros where it is constant."""
    flat = masks.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    span = torch.where(high > low, high - low, 1)
    return ((flat - low) / span).reshape(masks.shape)


def windows(side: int, window: int, stride: int) -> Float[Tensor, "window side"]:
    """Along a side: 1 inside of each window, 0 outside; the last one ends where the side does.

    Example:
        >>> windows(side=5, window=2, stride=2)
        tensor([[1., 1., 0., 0., 0.],
                [0., 0., 1., 1., 0.],
                [0., 0., 0., 1., 1.]])
    """
    last = side - window
    starts = torch.tensor(sorted({*range(0, last + 1, stride), last})).unsqueeze(1)
    places = torch.arange(side)
    return ((starts <= places) & (places < starts + window)).float()


def bells(side: int) -> Float[Tensor, "side side"]:
    """Along a side: around each place 1/4, 1/2, 1/4, cut off at the ends, as a 3-tap Gaussian.

    Example:
        >>> bells(3)
        tensor([[0.5000, 0.2500, 0.0000],
                [0.2500, 0.5000, 0.2500],
                [0.0000, 0.2500, 0.5000]])
    """
    places = torch.arange(side)
    distances = (places.unsqueeze(1) - places).abs()
    return (2 - distances).clamp(min=0) / 4


def products(
    tables: Sequence[Float[Tensor, "_ _"]], numbers: Int[Tensor, " mask"]
) -> Float[Tensor, "mask *size"]:
    """Some of the masks that are a product of one row from each table, one table for each axis.

    Args:
        tables: rows along each axis.
        numbers: of the masks, in the order of `itertools.product` over the rows.
    """
    chosen = torch.unravel_index(numbers, [len(table) for table in tables])
    first, *others = (table[rows] for table, rows in zip(tables, chosen, strict=True))
    for rows in others:
        ones = [1] * (first.ndim - 1)
        first = first.unsqueeze(-1) * rows.reshape(len(rows), *ones, rows.shape[1])
    return first


@dataclass(frozen=True, eq=False)
class RandomMasks:
    """Random cells, enlarged smoothly and shifted by a part of a cell (RISE, section 3.2).

    Attributes:
        cells: 1 where a mask keeps a cell, else 0.
        shifts: of each mask, in pixels of each axis.
        size: of the masks.
    """

    cells: Float[Tensor, "mask 1 *cells"]
    shifts: Int[Tensor, "mask axis"]
    size: tuple[int, ...]

    @classmethod
    def drawn(
        cls, count: int, cells: int, keep: float, size: Sequence[int], seed: int
    ) -> RandomMasks:
        """Masks from a seed, the same on all devices.

        Args:
            count: of masks.
            cells: on each side of a mask.
            keep: the probability that a cell is kept.
            size: of the masks, in pixels.
            seed: of the random numbers.
        """
        random = torch.Generator().manual_seed(seed)
        kept = torch.rand(count, 1, *[cells] * len(size), generator=random) < keep
        shifts = [torch.randint(-(-side // cells), (count,), generator=random) for side in size]
        return cls(kept.float(), torch.stack(shifts, dim=1), tuple(size))

    def to(self, device: torch.device) -> RandomMasks:
        """The same masks on a device."""
        return replace(self, cells=self.cells.to(device))

    def __call__(self, numbers: Int[Tensor, " mask"]) -> Float[Tensor, "mask *size"]:
        """Some of the masks, from 0 to 1."""
        cells = self.cells[numbers]
        pairs = zip(cells.shape[2:], self.size, strict=True)
        large = resized(cells, [(count + 1) * -(-side // count) for count, side in pairs])
        return torch.stack(
            [
                whole[self._window(shift)]
                for whole, shift in zip(large[:, 0], self.shifts[numbers].tolist(), strict=True)
            ]
        )

    def _window(self, shift: Sequence[int]) -> tuple[slice, ...]:
        pairs = zip(shift, self.size, strict=True)
        return tuple(slice(start, start + side) for start, side in pairs)
