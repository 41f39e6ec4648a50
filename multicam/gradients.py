"""One graph, the gradients of K scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def score_gradients(
    scores: Sequence[Tensor], activations: Sequence[Tensor], *, create_graph: bool = False
) -> Iterator[tuple[Tensor | None, ...]]:
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
        None where the score does not depend on the activation.
    """
    last = len(scores) - 1
    for index, score in enumerate(scores):
        if not score.requires_grad:
            yield (None,) * len(activations)
            continue
        yield torch.autograd.grad(
            score.sum(),
            list(activations),
            retain_graph=create_graph or index < last,
            create_graph=create_graph,
            allow_unused=True,
        )
