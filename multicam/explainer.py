"""Explain any scalar of any model: one forward pass, one map per target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from multicam.errors import InputError, LayerError, MulticamError, UnreachedError
from multicam.explanation import Explanation, fuse
from multicam.forward import Forward, Inputs
from multicam.gradients import Gradients, detached, score_gradients, vectorized_gradients
from multicam.layers import Layer, Located, advice, locate, probe
from multicam.targets import Scored, Target, as_targets, evaluate
from multicam.tracing import Spot, traced
from multicam.version import versions
from multicam.weighting import Method, method_named

LayerLike: TypeAlias = str | nn.Module | Layer


def explain(
    model: nn.Module,
    inputs: Inputs,
    target: Target | Sequence[Target] | None = None,
    *,
    layer: LayerLike | Sequence[LayerLike] | None = None,
    method: str | Method = "gradcam",
    forward: Callable[..., Any] | None = None,
    create_graph: bool = False,
    vectorize: bool = False,
) -> Explanation:
    """Explain scores of a model by one of its feature maps.

    The model runs once in the mode it is in, and comes back as it was found. Use
    `model.eval()` for the maps that belong to its predictions.

    Args:
        model: any module.
        inputs: a tensor (or other single argument), a tuple (positional arguments)
            or a mapping (keyword arguments).
        target: from the model's output to one score per sample, (batch,); a list of
            K targets gives K maps. None explains the predicted class.
        layer: the feature map: dotted name, module or `Layer`; a list of these is
            fused (`fuse`). None finds the last one that the score depends on, at the
            price of one more forward pass, and two more for token models.
        method: a name in `METHODS`, or a function of (activations, gradients).
        forward: what to call in place of the model, such as `model.get_image_features`.
        create_graph: keep the graph, so that the maps can be trained with. Running
            statistics move with the model's own forward passes, not with this one.
        vectorize: differentiate all targets in one backward pass (`torch.vmap`), as
            `torch.autograd.functional.jacobian` does. Faster where much comes after the
            layer (the decoder of a caption), for K times the memory there. The targets
            need to be functions of the output alone. Half precision and `create_graph`
            take a pass for each target all the same.

    Returns:
        Signed maps of shape (batch, target, height, width) with scores and labels.

    Raises:
        LayerError: the layer is unknown, not spatial, or not reached.
        TargetError: the target does not give one differentiable score per sample.
        InputError: the method is unknown.

    Example:
        >>> from torchvision.models import resnet18
        >>> from multicam import ClassLogit, explain
        >>> model, images = resnet18().eval(), torch.rand(2, 3, 64, 64)
        >>> explain(model, images, [ClassLogit(281), ClassLogit(243)], layer="layer3").maps.shape
        torch.Size([2, 2, 4, 4])
    """
    options: dict[str, Any] = {
        "method": method,
        "forward": forward,
        "create_graph": create_graph,
        "vectorize": vectorize,
    }
    if isinstance(layer, (list, tuple)):
        return fuse(explain_layers(model, inputs, target, layers=layer, **options))
    layers = None if layer is None else [cast("LayerLike", layer)]
    return explain_layers(model, inputs, target, layers=layers, **options)[0]


def explain_layers(
    model: nn.Module,
    inputs: Inputs,
    target: Target | Sequence[Target] | None = None,
    *,
    layers: Sequence[LayerLike] | None,
    method: str | Method = "gradcam",
    forward: Callable[..., Any] | None = None,
    create_graph: bool = False,
    vectorize: bool = False,
) -> tuple[Explanation, ...]:
    """Explain scores by several feature maps, kept apart, from one forward pass.

    Args:
        model: as for `explain`, like all arguments but `layers`.
        inputs: see `explain`.
        target: see `explain`.
        layers: the feature maps; None finds one.
        method: see `explain`.
        forward: see `explain`.
        create_graph: see `explain`.
        vectorize: see `explain`.

    Returns:
        One explanation per layer, in the order given.
    """
    call = Forward(model, inputs, forward)
    with _context(call):
        task = _Task(call, as_targets(target), *method_named(method), create_graph, vectorize)
        if layers is None:
            return task.explain_last()
        if not layers:
            raise LayerError("the list of layers is empty; pass None to have one found")
        return task.explain([locate(call, layer) for layer in layers])


@dataclass(frozen=True)
class _Task:
    """What stays the same while layers are tried."""

    forward: Forward
    targets: list[Target]
    method_name: str
    method: Method
    create_graph: bool
    vectorize: bool

    def explain(self, layers: Sequence[Located]) -> tuple[Explanation, ...]:
        """Record only what comes after the first layer; everything, where that breaks.

        A model that runs a part of itself under `no_grad` after the cut ends the
        recording there; it is run again with all of it recorded.
        """
        if self.create_graph:
            return self._explain(layers, record=True)
        try:
            return self._explain(layers, record=False)
        except UnreachedError:
            return self._explain(layers, record=True)

    def explain_last(self) -> tuple[Explanation, ...]:
        """Explain by the last feature map that every score depends on.

        Tried first is the last map of all. Token models that read only their class
        token do not depend on the places in it, which the gradients of all maps tell.
        """
        candidates = [
            locate(self.forward, found.name) for found in probe(self.forward) if found.candidate
        ]
        if not candidates:
            raise LayerError(f"no layer gives a feature map; {advice(self.forward, '')}")
        try:
            explanations = self.explain(candidates[-1:])
        except UnreachedError:
            return self.explain([self._last_reached(candidates)])
        if explanations[0].maps.flatten(2).any(dim=2).all():
            return explanations
        return self.explain([self._last_reached(candidates)])

    def _explain(self, layers: Sequence[Located], *, record: bool) -> tuple[Explanation, ...]:
        maps: list[list[Tensor]] = [[] for _ in layers]
        with self._traced(layers, record=record) as (output, spots):
            if spots[0].batch == 0:
                raise InputError("the batch is empty: there is nothing to explain")
            scored, gradients = self._differentiated(output, spots)
            for one, found in zip(scored, gradients, strict=True):
                for spot, gradient, collected in zip(spots, found, maps, strict=True):
                    collected.append(self._map(spot, gradient, one.labels[0]))
        scores = torch.stack([one.scores for one in scored], dim=1)
        return tuple(
            Explanation(
                maps=torch.stack(collected, dim=1).float(),
                scores=scores if self.create_graph else scores.detach(),
                labels=tuple(zip(*(one.labels for one in scored), strict=True)),
                notes=tuple(zip(*(one.notes for one in scored), strict=True)),
                layer=spot.name,
                method=self.method_name,
                versions=versions(),
            )
            for spot, collected in zip(spots, maps, strict=True)
        )

    def _traced(
        self, layers: Sequence[Located], *, record: bool
    ) -> AbstractContextManager[tuple[Any, list[Spot]]]:
        return traced(
            self.forward, layers, record=record, twice=self.create_graph, vectorize=self.vectorize
        )

    def _differentiated(
        self, output: Any, spots: Sequence[Spot]
    ) -> tuple[list[Scored], Iterator[Gradients]]:
        activations = [spot.activations for spot in spots]
        vectorize = self.vectorize and not self.create_graph
        seen = detached(output, activations) if vectorize else output
        scored = [evaluate(target, seen, spots[0].batch) for target in self.targets]
        scores = [one.scores for one in scored]
        if seen is output:
            gradients = score_gradients(scores, activations, create_graph=self.create_graph)
        else:
            gradients = vectorized_gradients(scores, seen, output, activations)
        return scored, gradients

    def _map(self, spot: Spot, gradient: Tensor | None, label: str) -> Tensor:
        if gradient is None:
            raise UnreachedError(
                f"the score {label!r} does not depend on layer {spot.name!r}: the layer runs after "
                "it or in another branch, or the model or the target detaches in between; choose "
                "an earlier layer, or a score that can be differentiated"
            )
        device = spot.activations.device.type
        with torch.set_grad_enabled(self.create_graph), torch.autocast(device, enabled=False):
            activations = spot.grid(spot.activations)
            values = self.method(activations, spot.grid(gradient))
        expected = (activations.shape[0], *activations.shape[2:])
        if values.shape != expected:
            raise InputError(
                f"method {self.method_name!r} gives shape {tuple(values.shape)} for activations "
                f"of shape {tuple(activations.shape)}; needed is {expected}"
            )
        return values

    def _last_reached(self, candidates: Sequence[Located]) -> Located:
        reached = {layer.name for layer in candidates}
        with self._traced(candidates, record=True) as (output, spots):
            scores = [evaluate(target, output, spots[-1].batch).scores for target in self.targets]
            for found in score_gradients(scores, [spot.activations for spot in spots]):
                reached &= {
                    spot.name
                    for spot, gradient in zip(spots, found, strict=True)
                    if gradient is not None and spot.reshape(gradient).any()
                }
        for layer in reversed(candidates):
            if layer.name in reached:
                return layer
        raise UnreachedError(
            "the score depends on none of the model's feature maps: it is constant or saturated, "
            f"or something detaches it; {advice(self.forward, '')}"
        )


@contextmanager
def _context(forward: Forward) -> Iterator[None]:
    try:
        yield
    except MulticamError as error:
        error.args = (f"{error} [{forward.describe()}]",)
        raise
