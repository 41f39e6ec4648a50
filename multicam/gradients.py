"""One graph, the gradients of K scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

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
    half = any(tensor.dtype == torch.half for tensor in (*scores, *activations))
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
