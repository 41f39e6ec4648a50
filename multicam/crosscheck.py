"""The same maps from Captum, side by side with ours."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from multicam.capture import capture, with_first_tensor
from multicam.errors import InputError
from multicam.explainer import LayerLike, explain
from multicam.forward import Forward, Inputs
from multicam.grids import Reshape, channels_first
from multicam.guard import guarded
from multicam.layers import Located, locate
from multicam.methods import METHODS, Method, method_named
from multicam.targets import Target, as_targets, evaluate
from multicam.tracing import traced
from multicam.weighting import grad_cam

Scores: TypeAlias = Callable[..., Tensor]
"""From the floating-point tensors among a model's inputs to one score per sample."""

AGREEMENT = 1e-4
"""The largest relative difference from Captum that rounding in float32 explains."""


@dataclass(frozen=True, eq=False)
class CrossCheck:
    """Two computations of the same maps and how far they are apart.

    Attributes:
        ours: signed maps of multicam, (batch, target, height, width).
        captum: signed maps of Captum, of the same shape.
        labels: `labels[sample][target]` names the score.
        layer: name of the feature map.
    """

    ours: Float[Tensor, "batch target *grid"]
    captum: Float[Tensor, "batch target *grid"]
    labels: tuple[tuple[str, ...], ...]
    layer: str

    @property
    def max_abs(self) -> float:
        """The largest absolute difference of any place."""
        return (self.ours - self.captum).abs().max().item()

    @property
    def max_rel(self) -> float:
        """The largest difference of a map, relative to that map's largest magnitude."""
        difference = (self.ours - self.captum).abs().flatten(2).amax(dim=2)
        peak = self.captum.abs().flatten(2).amax(dim=2)
        return torch.where(difference > 0, difference / peak, 0).max().item()

    @property
    def agrees(self) -> bool:
        """Whether no map differs by more than `AGREEMENT` of its largest magnitude."""
        return self.max_rel <= AGREEMENT

    @property
    def correlation(self) -> float:
        """The lowest Pearson correlation of a pair of maps, -1 to 1; NaN if one is constant."""
        pairs = torch.stack([self.ours.flatten(2), self.captum.flatten(2)], dim=2)
        each = [torch.corrcoef(pair.double())[0, 1] for pair in pairs.flatten(0, 1)]
        return torch.stack(each).min().item()


def crosscheck(
    model: nn.Module,
    inputs: Inputs,
    target: Target | Sequence[Target] | None = None,
    *,
    layer: LayerLike | None = None,
    method: str | Method = "gradcam",
    forward: Callable[..., Any] | None = None,
) -> CrossCheck:
    """Compute the same maps with Captum, one target at a time, and compare.

    Grad-CAM is Captum's `LayerGradCam`, which reads every layer's output as (batch,
    channel, *grid). Where the output is laid out otherwise (tokens, channels last), its
    activations and gradients come from Captum's `LayerActivation` and
    `LayerGradientXActivation`, and equations 1 and 2 of the Grad-CAM paper are applied to
    them after the same reshaping. HiResCAM is Captum's `LayerGradientXActivation`, reshaped
    and summed over channels.

    Args:
        model: as for `explain`.
        inputs: as for `explain`; floating-point tensors anywhere in it.
        target: as for `explain`.
        layer: one feature map, as for `explain`.
        method: "gradcam" or "hirescam", which are the methods that Captum has.
        forward: as for `explain`.

    Returns:
        Both maps, and their differences.

    Raises:
        InputError: Captum does not have the method.
        MulticamError: as for `explain`.
    """
    by_captum = _by_captum(method)
    ours = explain(model, inputs, target, layer=layer, method=method, forward=forward)
    call = Forward(model, inputs, forward)
    located = locate(call, ours.layer if layer is None else layer)
    with traced(call, [located], record=False) as (_, (spot,)):
        reshape, batch = spot.reshape, spot.batch
    with guarded(model), _relay(call, located) as relay:
        leaves = pytree.tree_leaves(call.arguments)
        given = tuple(leaf.detach().clone() for leaf in leaves if _is_floating(leaf))
        theirs = [
            by_captum(_scores(call, one, batch), relay, given, reshape)
            for one in as_targets(target)
        ]
    return CrossCheck(ours.maps, torch.stack(theirs, dim=1), ours.labels, ours.layer)


def _scores(call: Forward, target: Target, batch: int) -> Scores:
    """The target as a function of the floating-point tensors among the inputs."""
    leaves, structure = pytree.tree_flatten(call.arguments)

    def scores(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        filled = [next(given) if _is_floating(leaf) else leaf for leaf in leaves]
        output = replace(call, inputs=pytree.tree_unflatten(filled, structure))()
        return evaluate(target, output, batch).scores

    return scores


def _grad_cam_by_captum(
    scores: Scores, relay: nn.Module, given: tuple[Tensor, ...], reshape: Reshape
) -> Tensor:
    from captum.attr import LayerActivation, LayerGradCam, LayerGradientXActivation

    if reshape is channels_first:
        return _plain(LayerGradCam(scores, relay).attribute(given)).squeeze(1)
    activations = LayerActivation(scores, relay).attribute(given)
    gradients = LayerGradientXActivation(scores, relay, multiply_by_inputs=False).attribute(given)
    return grad_cam(reshape(_plain(activations)), reshape(_plain(gradients)))


def _hires_cam_by_captum(
    scores: Scores, relay: nn.Module, given: tuple[Tensor, ...], reshape: Reshape
) -> Tensor:
    from captum.attr import LayerGradientXActivation

    products = LayerGradientXActivation(scores, relay).attribute(given)
    return reshape(_plain(products)).sum(dim=1)


COMPARABLE = {"gradcam": _grad_cam_by_captum, "hirescam": _hires_cam_by_captum}
"""The methods that Captum has, by their names in `METHODS`, and how it computes them."""


def _by_captum(method: str | Method) -> Callable[..., Tensor]:
    name, how = method_named(method)
    for known, compute in COMPARABLE.items():
        if how is METHODS[known]:
            return compute
    raise InputError(
        f"Captum has no method {name!r} to compare with; it has {' and '.join(COMPARABLE)}"
    )


@contextmanager
def _relay(call: Forward, layer: Located) -> Iterator[nn.Module]:
    """A module through which goes the feature map alone, at the call that was asked for.

    Captum knows only layers that give a tensor or a tuple of them, and mixes their calls.
    """
    relay = nn.Identity()
    owner = threading.get_ident()
    with torch.no_grad(), capture({layer.name: layer.module}) as activations:
        call()
    count = len(activations[layer.name])
    turns = itertools.cycle(range(count))
    chosen = (layer.call or 0) % count

    def hand_over(_module: nn.Module, _args: Any, output: Any) -> Any:
        if threading.get_ident() != owner or next(turns) != chosen:
            return None
        torch.set_grad_enabled(True)
        return with_first_tensor(output, relay)

    handle = layer.module.register_forward_hook(hand_over)
    try:
        yield relay
    finally:
        handle.remove()


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _plain(attribution: Any) -> Tensor:
    first: Tensor = attribution[0] if isinstance(attribution, tuple) else attribution
    return first.detach().float()
