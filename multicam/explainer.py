"""Explain any scalar of any model: one forward pass, one map per target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from multicam.curvature import SecondOrder, change_along
from multicam.derivatives import differentiated, reached
from multicam.errors import InputError, LayerError, MulticamError, UnreachedError
from multicam.explanation import Explanation, explanation_of, fuse
from multicam.forward import Forward, Inputs
from multicam.gradients import score_gradients
from multicam.guard import guarded
from multicam.layers import Layer, Located, advice, locate, probe
from multicam.methods import Method, method_named
from multicam.perturbation import Perturbation
from multicam.scene import run
from multicam.targets import Target, as_targets, evaluate
from multicam.tracing import Spot, traced
from multicam.weighting import Weighting, grad_cam
from multicam.wrapping import Case, Wrapper

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
    fusion: str = "mean",
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
        method: a name in `METHODS`, a function of (activations, gradients), or an object
            such as `Smoothed("layercam", samples=16)`.
        forward: what to call in place of the model, such as `model.get_image_features`.
        create_graph: keep the graph, so that the maps can be trained with. Running
            statistics move with the model's own forward passes, not with this one.
        vectorize: differentiate all targets in one backward pass (`torch.vmap`), as
            `torch.autograd.functional.jacobian` does. Faster where much comes after the
            layer (the decoder of a caption), for K times the memory there. The targets
            need to be functions of the output alone. Half precision and `create_graph`
            take a pass for each target all the same.
        fusion: how a list of layers is fused: "mean", "maximum" or "product"; see `fuse`.

    Returns:
        Signed maps of shape (batch, target, height, width) with scores and labels.

    Raises:
        LayerError: the layer is unknown, not spatial, or not reached.
        TargetError: the target does not give one differentiable score per sample.
        InputError: the method or the fusion is unknown.

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
        return fuse(explain_layers(model, inputs, target, layers=layer, **options), fusion)
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
    case = Case(call, as_targets(target), layers, create_graph, vectorize)
    with _context(call):
        if layers is not None and not layers:
            raise LayerError("the list of layers is empty; pass None to have one found")
        found = _explained(case, method)
    return tuple(replace(one, model=type(model).__name__) for one in found)


def _explained(case: Case, method: str | Method) -> tuple[Explanation, ...]:
    """Explain by any method; wrappers come back here with the cases that they make."""
    name, how = method_named(method)
    if isinstance(how, Wrapper):
        found = how.explanations(case, _explained)
        named = isinstance(method, str)
        return tuple(replace(one, method=name) for one in found) if named else found
    if isinstance(how, Perturbation):
        return _perturbed(case, name, how)
    task = _Task(case.forward, case.targets, name, how, case.create_graph, case.vectorize)
    if case.layers is None:
        return task.explain_last()
    return task.explain([locate(case.forward, layer) for layer in case.layers])


@dataclass(frozen=True)
class _Task:
    """What stays the same while layers are tried."""

    forward: Forward
    targets: Sequence[Target]
    method_name: str
    method: Weighting | SecondOrder
    create_graph: bool = False
    vectorize: bool = False

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
        with differentiated(
            self.forward,
            self.targets,
            layers,
            record=record,
            twice=self.create_graph or isinstance(self.method, SecondOrder),
            vectorize=self.vectorize,
        ) as (_, spots, scored, gradients):
            for one, found in zip(scored, gradients, strict=True):
                for spot, gradient, collected in zip(spots, found, maps, strict=True):
                    collected.append(self._map(spot, reached(spot, gradient, one.labels[0])))
        return tuple(
            explanation_of(
                torch.stack(collected, dim=1), scored, layer=spot.name, method=self.method_name
            )
            for spot, collected in zip(spots, maps, strict=True)
        )

    def _map(self, spot: Spot, gradient: Tensor) -> Tensor:
        device = spot.activations.device.type
        with torch.set_grad_enabled(self.create_graph), torch.autocast(device, enabled=False):
            activations, gradients = spot.grid(spot.activations), spot.grid(gradient)
            if isinstance(self.method, SecondOrder):
                change = change_along(gradient, spot.activations, create_graph=self.create_graph)
                values = self.method.maps(activations, gradients, spot.grid(change))
            else:
                values = self.method(activations, gradients)
        expected = (activations.shape[0], *activations.shape[2:])
        if values.shape != expected:
            raise InputError(
                f"method {self.method_name!r} gives shape {tuple(values.shape)} for activations "
                f"of shape {tuple(activations.shape)}; needed is {expected}"
            )
        return values

    def _last_reached(self, candidates: Sequence[Located]) -> Located:
        reached = {layer.name for layer in candidates}
        with traced(self.forward, candidates, record=True) as (output, spots):
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


def _perturbed(case: Case, name: str, method: Perturbation) -> tuple[Explanation, ...]:
    """Explain by a method that changes something and runs the model again."""
    if case.create_graph:
        raise InputError(
            f"method {name!r} takes no gradients, so its maps cannot be trained with; leave "
            "create_graph out, or choose a method of activations and gradients, such as 'gradcam'"
        )
    if not method.needs_layer:
        return (_by_perturbing(case, name, method, None),)
    layers = case.layers
    if layers is None:
        found = _Task(case.forward, case.targets, "gradcam", grad_cam).explain_last()
        layers = [found[0].layer]
    located = [locate(case.forward, layer) for layer in layers]
    return tuple(_by_perturbing(case, name, method, layer) for layer in located)


def _by_perturbing(
    case: Case, name: str, method: Perturbation, layer: Located | None
) -> Explanation:
    with guarded(case.forward.model), torch.no_grad():
        scene = run(case.forward, case.targets, layer)
        maps = method.maps(scene)
    where = "the image" if layer is None else layer.name
    if layer is not None and layer.call is not None:
        where = f"{layer.name} (call {layer.call})"
    return explanation_of(maps, scene.scored, layer=where, method=name)


@contextmanager
def _context(forward: Forward) -> Iterator[None]:
    try:
        yield
    except MulticamError as error:
        error.args = (f"{error} [{forward.describe()}]",)
        raise
