"""One sample of a batch in several variants, a row for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

Mapped: TypeAlias = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
"""From a function of tensors to one of their stacks: `torch.vmap`, or `one_by_one`."""


def copied(tree: Any) -> Any:
    """The same, with copies of its tensors: what is written in place reaches no original."""
    copies: dict[int, Tensor] = {}

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in copies:
            copies[id(leaf)] = leaf.clone()
        return copies[id(leaf)]

    return pytree.tree_map(copy, tree)


def rows_of(tree: Any, batch: int, sample: int, count: int) -> Any:
    """A sample `count` times, without a copy, wherever a tensor holds a batch.

    Args:
        tree: a tensor or a nest of them; those of another first dimension than `batch` are
            copied as they are, and what is no tensor stays.
        batch: number of samples.
        sample: which of them.
        count: rows to give.
    """

    def rows(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not _holds(leaf, batch):
            return leaf.clone()
        return leaf[sample : sample + 1].expand(count, *leaf.shape[1:])

    return pytree.tree_map(rows, tree)


def one_by_one(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of stacks that calls one of tensors for each of their entries, as a loop."""

    def of_stacks(*stacks: Tensor) -> Tensor:
        return torch.stack([function(*entry) for entry in zip(*stacks, strict=True)])

    return of_stacks


def by_variant(
    function: Callable[[Any], Tensor], outputs: Sequence[Any], original: Any, mapped: Mapped
) -> Tensor:
    """A function of the output of a batch, for each variant of its samples.

    Args:
        function: from the output of the batch to a tensor.
        outputs: one for each sample of the batch, with a row for each variant.
        original: of the batch. Where its tensors hold the batch, those of `outputs` hold
            rows; others are taken from the first of them.
        mapped: how variants are gone through.

    Returns:
        What the function gives, stacked over the variants.
    """
    leaves, structure = pytree.tree_flatten(outputs[0])
    columns = zip(*(pytree.tree_leaves(output) for output in outputs), strict=True)
    stacks = {
        index: torch.stack(column, dim=1)
        for index, (column, before) in enumerate(
            zip(columns, pytree.tree_leaves(original), strict=True)
        )
        if _holds(before, len(outputs))
    }

    def of_one(*tensors: Tensor) -> Tensor:
        found = dict(enumerate(leaves)) | dict(zip(stacks, tensors, strict=True))
        return function(pytree.tree_unflatten(list(found.values()), structure))

    return mapped(of_one)(*stacks.values())


def keeps(rows: Any, original: Any, batch: int, sample: int, row: int) -> bool:
    """Whether a row of an output is what a sample has in the output of its batch.

    Args:
        rows: output for rows of one sample.
        original: output of the batch. Tensors of it that do not hold the batch need to be
            the same in `rows`.
        batch: number of samples.
        sample: which of them.
        row: which of the rows.
    """
    pairs = zip(pytree.tree_leaves(rows), pytree.tree_leaves(original), strict=True)
    return all(
        close(found[row], before[sample]) if _holds(before, batch) else close(found, before)
        for found, before in pairs
        if isinstance(before, Tensor) and before.is_floating_point()
    )


def close(
    found: Float[Tensor, "..."], expected: Float[Tensor, "..."], scale: float | None = None
) -> bool:
    """Whether values are the same, up to what another order of sums changes.

    Args:
        found: of any shape.
        expected: of that shape, or the values are not the same.
        scale: of the numbers that were summed up; None takes the largest expected value.
    """
    near = torch.finfo(expected.dtype).eps ** (1 / 3)
    atol = near * (magnitude(expected) if scale is None else scale)
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=near, atol=atol, equal_nan=True
    )


def magnitude(tree: Any) -> float:
    """The largest finite magnitude in the floating-point tensors of a nest; 0 without one."""
    tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    values = [leaf[leaf.isfinite()].abs() for leaf in tensors if leaf.is_floating_point()]
    return max((float(value.max()) for value in values if value.numel()), default=0.0)


def entries(tree: Any) -> int:
    """Entries of the largest tensor in a nest; 0 without one."""
    tensors = (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))
    return max((tensor.numel() for tensor in tensors), default=0)


def _holds(leaf: Any, batch: int) -> bool:
    """Whether a leaf is a tensor with a row for each sample."""
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == batch
