"""One graph, the gradients of K scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Gradients: TypeAlias = tuple[Tensor | None, ...]
"""By each activation; None where the score does not depend on it."""


def score_gradients(
    scores: Sequence[Tensor], activations: Sequence[Tensor], *, create_graph: bool = False
) -> Iterator[Gradients]:
    """Differentiate each score by each activation, one score at a time.

    The scores of one batch are summed before the backward pass; sample i gets
    d score_i / d A_i, since the score of one sample does not depend on the others.
    One vector-Jacobian product per score keeps memory at that of a single one.
    `torch.autograd.grad` is used, so no `.grad` changes.

    Args:
        scores: K tensors of shape (batch,).
        activations: tensors of the graph, of any shape.
        create_graph: whether the gradients can be differentiated again.

    Yields:
        For each score, its gradients in the order and shapes of `activations`;
        None where the score does not depend on the activation. Those of half
        precision come in float32.
    """
    last = len(scores) - 1
    half = _any_half([*scores, *activations])
    for index, score in enumerate(scores):
        if not score.requires_grad:
            yield (None,) * len(activations)
            continue
        product = partial(
            torch.autograd.grad,
            score.sum(),
            list(activations),
            retain_graph=create_graph or half or index < last,
            create_graph=create_graph,
            allow_unused=True,
        )
        yield _scaled(product, score) if half else product()


def detached(output: Any, activations: Sequence[Tensor]) -> Any:
    """An output for the scores of `vectorized_gradients`: leaves in the place of its tensors.

    Args:
        output: of the model, a tensor or a nest of them.
        activations: what the scores are to be differentiated by.

    Returns:
        The same output, where no tensor of it has a graph, or one is of half precision.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(output) if _differentiable(leaf)]
    if not tensors or _any_half([*tensors, *activations]):
        return output
    return pytree.tree_map(
        lambda leaf: leaf.detach().requires_grad_() if _differentiable(leaf) else leaf, output
    )


def vectorized_gradients(
    scores: Sequence[Tensor], seen: Any, output: Any, activations: Sequence[Tensor]
) -> Iterator[Gradients]:
    """Differentiate all scores by each activation in one backward pass of the model.

    By the chain rule: each score by the output, then all of these vectors at once
    through the model. Where an operation cannot be batched, or memory does not
    suffice, they take a pass each.

    Args:
        scores: K tensors of shape (batch,), of `seen`.
        seen: what `detached` made of the output.
        output: of the model.
        activations: tensors of its graph.

    Yields:
        As `score_gradients`, but zeros where a score depends on a part of the output
        that does not depend on the activation.
    """
    pairs = zip(pytree.tree_leaves(seen), pytree.tree_leaves(output), strict=True)
    leaves, outputs = zip(*(pair for pair in pairs if pair[0] is not pair[1]), strict=True)
    by_score = list(score_gradients(scores, leaves))
    by_leaf = zip(leaves, zip(*by_score, strict=True), strict=True)
    vectors = [_stacked(column, leaf) for leaf, column in by_leaf]
    product = partial(
        torch.autograd.grad, outputs, list(activations), retain_graph=True, allow_unused=True
    )
    found: Iterable[Gradients]
    try:
        batched = product(vectors, is_grads_batched=True)
        found = zip(*(_split(one, len(scores)) for one in batched), strict=True)
    except RuntimeError:
        found = (product(vector) for vector in zip(*vectors, strict=True))
    nothing = (None,) * len(activations)
    for score, gradients in zip(scores, found, strict=True):
        yield gradients if score.requires_grad else nothing


def _split(batched: Tensor | None, count: int) -> Sequence[Tensor | None]:
    return [None] * count if batched is None else batched.unbind()


def _stacked(vectors: Sequence[Tensor | None], like: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(like) if one is None else one for one in vectors])


def _differentiable(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _any_half(tensors: Sequence[Tensor]) -> bool:
    return any(tensor.dtype == torch.half for tensor in tensors)


def _scaled(product: Callable[..., Gradients], score: Tensor) -> Gradients:
    """The gradients in float32, of a score scaled up so far that none overflows.

    Half precision knows nothing below 6e-8, and a score that averages over many
    places has gradients smaller than that.
    """
    for scale in (2.0**15, 2.0**10, 2.0**5, 1.0):
        scaled = product(grad_outputs=score.new_tensor(scale))
        found = tuple(None if one is None else one.float() / scale for one in scaled)
        if all(one is None or one.isfinite().all() for one in found):
            break
    return found
