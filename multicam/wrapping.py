"""Methods that explain by another method: of other images, or of other scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from multicam.curvature import SecondOrder
from multicam.explanation import Explanation
from multicam.forward import Forward
from multicam.guard import guarded
from multicam.layers import Layer
from multicam.perturbation import Perturbation
from multicam.scene import Scene, run
from multicam.sites import image_of
from multicam.targets import Target
from multicam.weighting import Weighting


@dataclass(frozen=True, eq=False)
class Case:
    """What is to be explained, whatever the method; see `multicam.explain`.

    Attributes:
        forward: the model and its inputs.
        targets: the scores.
        layers: the feature maps, by name, module or `Layer`; None has one found.
        create_graph: whether the maps are to be trained with.
        vectorize: whether all targets share a backward pass.
    """

    forward: Forward
    targets: Sequence[Target]
    layers: Sequence[str | nn.Module | Layer] | None = None
    create_graph: bool = False
    vectorize: bool = False


Explain: TypeAlias = Callable[[Case, "str | Method"], tuple[Explanation, ...]]
"""Explains a case by a method: one explanation for each layer."""


class Wrapper(ABC):
    """A method that explains by another one, as often as it needs."""

    @abstractmethod
    def explanations(self, case: Case, explain: Explain) -> tuple[Explanation, ...]:
        """One explanation for each layer.

        Args:
            case: what is to be explained.
            explain: explains any case by any other method.
        """


Method: TypeAlias = Weighting | SecondOrder | Perturbation | Wrapper
"""A function of (activations, gradients), or an object that says what else it needs."""


def of_each(
    case: Case, forwards: Iterable[Forward], method: str | Method, explain: Explain
) -> Iterator[tuple[Explanation, ...]]:
    """The explanations of several calls, all by the layers that serve the first."""
    for forward in forwards:
        found = explain(replace(case, forward=forward), method)
        if case.layers is None:
            case = replace(case, layers=[one.layer for one in found])
        yield found


def unchanged(case: Case) -> Scene:
    """A pass of the image as it is: its scores, and the targets settled on its output."""
    graph = case.create_graph
    with guarded(case.forward.model, twice=graph), torch.set_grad_enabled(graph):
        return run(case.forward, case.targets, None)


def with_image(forward: Forward, image: Tensor) -> Forward:
    """The same call with another image."""
    before = image_of(forward)
    inputs = pytree.tree_map(lambda leaf: image if leaf is before else leaf, forward.arguments)
    return replace(forward, inputs=inputs)
