"""One pass of the model, the scores that targets give it, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from multicam.errors import InputError, UnreachedError
from multicam.forward import Forward
from multicam.gradients import Gradients, detached, score_gradients, vectorized_gradients
from multicam.layers import Located
from multicam.targets import Scored, Target, evaluate
from multicam.tracing import Spot, traced


class Derivatives(NamedTuple):
    """What a pass gives.

    Attributes:
        output: of the model.
        spots: the feature maps.
        scored: by target.
        gradients: by target, of each feature map; made one by one.
    """

    output: Any
    spots: list[Spot]
    scored: list[Scored]
    gradients: Iterator[Gradients]


@contextmanager
def differentiated(
    forward: Forward,
    targets: Sequence[Target],
    layers: Sequence[Located],
    *,
    record: bool,
    twice: bool = False,
    vectorize: bool = False,
) -> Iterator[Derivatives]:
    """Run the model once; gradients can be taken inside the block.

    Args:
        forward: the model and its inputs.
        targets: of its output.
        layers: of the feature maps.
        record: see `traced`.
        twice: gradients keep their graph.
        vectorize: take all gradients in one backward pass, where they need no graph.

    Raises:
        What `traced` and `evaluate` raise, and
        InputError: there is no sample in the batch.
    """
    with traced(forward, layers, record=record, twice=twice, vectorize=vectorize) as (
        output,
        spots,
    ):
        batch = spots[0].batch
        if batch == 0:
            raise InputError("the batch is empty: there is nothing to explain")
        activations = [spot.activations for spot in spots]
        seen = detached(output, activations) if vectorize and not twice else output
        scored = [evaluate(target, seen, batch) for target in targets]
        scores = [one.scores for one in scored]
        if seen is output:
            gradients = score_gradients(scores, activations, create_graph=twice)
        else:
            gradients = vectorized_gradients(scores, seen, output, activations)
        yield Derivatives(output, spots, scored, gradients)


def reached(spot: Spot, gradient: Tensor | None, label: str) -> Tensor:
    """The gradient of a score by a feature map.

    Raises:
        UnreachedError: there is none.
    """
    if gradient is None:
        raise UnreachedError(
            f"the score {label!r} does not depend on layer {spot.name!r}: the layer runs after "
            "it or in another branch, or the model or the target detaches in between; choose "
            "an earlier layer, or a score that can be differentiated"
        )
    return gradient
