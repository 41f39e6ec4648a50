"""Gradients by the image: guided backpropagation, the deconvnet, and Guided Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from multicam.errors import InputError, UnreachedError
from multicam.explainer import LayerLike, explain
from multicam.forward import Forward, Inputs
from multicam.gradients import score_gradients
from multicam.methods import Method
from multicam.rectifiers import Rule, RuledActivations, refuse_compiled
from multicam.resizing import resized
from multicam.targets import Target, as_targets, evaluate, settled
from multicam.tracing import traced

_PERCENTILE = 99


@dataclass(frozen=True, eq=False)
class InputGradients:
    """How each value of the image speaks for each score, with its sign.

    Attributes:
        values: float32, (batch, target, channel, *size) of the image among the inputs.
        scores: (batch, target).
        labels: `labels[sample][target]` names the score.
        method: "guidedbackprop", "deconvnet", or "guided" with the method of the map.
        layer: the feature map whose map they were multiplied with; None without one.
    """

    values: Float[Tensor, "batch target channel *size"]
    scores: Float[Tensor, "batch target"]
    labels: tuple[tuple[str, ...], ...]
    method: str
    layer: str | None = None

    def __repr__(self) -> str:
        """One line with the shape and the labels."""
        labels = "; ".join(", ".join(row) for row in self.labels[:4])
        labels += "; ..." if len(self.labels) > 4 else ""
        return (
            f"InputGradients(values={tuple(self.values.shape)}, labels={labels!r}, "
            f"method={self.method!r}, layer={self.layer!r})"
        )

    def image(self, sample: int = 0, target: int = 0) -> UInt8[np.ndarray, "height width 3"]:
        """The values of one score as a picture: grey for zero, as the papers show them.

            128 + 127 clip(values / peak, -1, 1)

        The peak, one for all channels, is the 99th percentile of the magnitudes that
        are not zero, so that a few extreme pixels do not hide the rest.

        Args:
            sample: which one of the batch.
            target: which one of its targets.

        Raises:
            InputError: the image is not (channel, height, width) with 1 or 3 channels.
        """
        values = self.values[sample, target].cpu().numpy()
        if values.ndim != 3 or len(values) not in (1, 3):
            raise InputError(
                f"values of shape {values.shape} are no picture; that takes (channel, height, "
                "width) with 1 or 3 channels; show a part of `values` by other means"
            )
        magnitudes = np.abs(values[values != 0])
        peak = np.percentile(magnitudes, _PERCENTILE) if magnitudes.size else 1.0
        picture = (128 + 127 * (values / peak).clip(-1, 1)).round().astype(np.uint8)
        return picture.transpose(1, 2, 0).repeat(3 // len(values), axis=2)


def guided_backprop(
    model: nn.Module,
    inputs: Inputs,
    target: Target | Sequence[Target] | None = None,
    *,
    forward: Callable[..., Any] | None = None,
) -> InputGradients:
    """Guided backpropagation: the gradient by the image, kept positive at every activation.

    An activation f passes on only the positive part of the gradient R, where f rises:

        R_below = max(f'(x), 0) max(R, 0)
                = (x > 0) (R > 0) R             for ReLU: figure 1c of the paper

    The paper defines it for ReLU. The first line takes its meaning, that no negative
    gradient leaves an activation, to GELU, SiLU and the others in
    `multicam.rectifiers.ACTIVATIONS`.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net",
    arXiv 1412.6806. The picture is sharp, but depends little on the score (Adebayo et
    al., "Sanity Checks for Saliency Maps", arXiv 1810.03292): `guided_grad_cam` keeps
    the part of it that a map points at.

    Args:
        model: any module; it runs once, in the mode it is in, and comes back as it was.
        inputs: a tensor, a tuple (positional arguments) or a mapping (keyword
            arguments). The image is the floating-point tensor of most dimensions.
        target: from the output to scores (batch,), or a list of K of these; None is the
            predicted class.
        forward: what to call in place of the model.

    Returns:
        Signed values in the image's shape, for each target.

    Raises:
        InputError: there is no image, or its activations are out of reach.
        TargetError: the target does not give one score per sample that depends on the image.

    Example:
        >>> from torchvision.models import resnet18
        >>> found = guided_backprop(resnet18().eval(), torch.rand(2, 3, 64, 64))
        >>> found.values.shape, found.image().shape
        (torch.Size([2, 1, 3, 64, 64]), (64, 64, 3))
    """
    return _by_image(Forward(model, inputs, forward), target, _guided, "guidedbackprop")[0]


def deconvnet(
    model: nn.Module,
    inputs: Inputs,
    target: Target | Sequence[Target] | None = None,
    *,
    forward: Callable[..., Any] | None = None,
) -> InputGradients:
    """The deconvnet: the network run backwards, the signal rectified at every activation.

    The positive part of the gradient R passes, whatever the activation's input was:

        R_below = max(R, 0)                     "rectification" in section 2.1

    What max pooling took from a place goes back there (the paper's switches). That is
    all that it knows of the image: networks without max pooling give one pattern for
    all images; use `guided_backprop` for them.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks",
    arXiv 1311.2901.

    Args:
        model: as for `guided_backprop`, like all arguments.
        inputs: see `guided_backprop`.
        target: see `guided_backprop`.
        forward: see `guided_backprop`.

    Returns:
        Signed values in the image's shape, for each target.

    Raises:
        MulticamError: as for `guided_backprop`.
    """
    return _by_image(Forward(model, inputs, forward), target, _deconvolved, "deconvnet")[0]


def guided_grad_cam(
    model: nn.Module,
    inputs: Inputs,
    target: Target | Sequence[Target] | None = None,
    *,
    layer: LayerLike | Sequence[LayerLike] | None = None,
    method: str | Method = "gradcam",
    forward: Callable[..., Any] | None = None,
) -> InputGradients:
    """Guided Grad-CAM: the detail of guided backpropagation, where Grad-CAM points.

        values = guided backpropagation * enlarged(ReLU(map))

    The map is enlarged to the image by (bi)linear interpolation, half-pixel centres.
    Selvaraju et al., "Grad-CAM", arXiv 1610.02391, section 3.2.

    Args:
        model: as for `guided_backprop`; it also runs for the map, as in `explain`.
        inputs: see `guided_backprop`.
        target: see `guided_backprop`.
        layer: of the map, as for `explain`.
        method: of the map, as for `explain`.
        forward: see `guided_backprop`.

    Returns:
        Signed values in the image's shape, for each target.

    Raises:
        MulticamError: as for `guided_backprop` and `explain`.
        InputError: the map has not as many dimensions as the image.
    """
    call = Forward(model, inputs, forward)
    guided, targets = _by_image(call, target, _guided, "guidedbackprop")
    found = explain(model, inputs, targets, layer=layer, method=method, forward=forward)
    heat = _enlarged(found.heatmaps(), guided.values.shape[3:])
    return replace(
        guided,
        values=guided.values * heat.unsqueeze(2),
        method=f"guided{found.method}",
        layer=found.layer,
    )


def _guided(gradient: Tensor, slope: Tensor) -> Tensor:
    return gradient.clamp(min=0) * slope.clamp(min=0)


def _deconvolved(gradient: Tensor, _slope: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def _by_image(
    call: Forward, target: Target | Sequence[Target] | None, rule: Rule, method: str
) -> tuple[InputGradients, list[Target]]:
    """The gradients by the image, and the targets as this forward pass settled them."""
    refuse_compiled(call.model)
    ruled = RuledActivations(rule)
    image, opened = _opened(call, ruled)
    with traced(opened, [], record=True) as (output, _):
        ruled.check()
        targets = [settled(one, output) for one in as_targets(target)]
        scored = [evaluate(one, output, len(image)) for one in targets]
        found = list(score_gradients([one.scores for one in scored], [image]))
    values = [_reached(one, each.labels[0]) for (one,), each in zip(found, scored, strict=True)]
    gradients = InputGradients(
        values=torch.stack(values, dim=1).float(),
        scores=torch.stack([one.scores.detach() for one in scored], dim=1),
        labels=tuple(zip(*(one.labels for one in scored), strict=True)),
        method=method,
    )
    return gradients, targets


def _opened(call: Forward, ruled: RuledActivations) -> tuple[Tensor, Forward]:
    """A leaf with the values of the image, and the call that starts from a copy of it."""
    image = _image(call)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = image.detach().clone().requires_grad_()
        copy = leaf.clone()  # which the model may change in place
    inputs = pytree.tree_map(lambda given: copy if given is image else given, call.arguments)
    return leaf, replace(call, inputs=inputs, function=ruled.around(call.function or call.model))


def _image(call: Forward) -> Tensor:
    for given in pytree.tree_leaves(call.arguments):
        if isinstance(given, Tensor) and given.is_floating_point() and given.shape == call.signal:
            if len(given) == 0:
                raise InputError("the batch is empty: there is nothing to explain")
            return given
    raise InputError(
        "no input is an image to differentiate by; needed is a floating-point tensor of shape "
        f"(batch, channel, *size) [{call.describe()}]"
    )


def _reached(gradient: Tensor | None, label: str) -> Tensor:
    if gradient is None:
        raise UnreachedError(
            f"the score {label!r} does not depend on the image: the model or the target detaches "
            "in between, or the score comes from the other inputs"
        )
    return gradient


def _enlarged(
    heat: Float[Tensor, "batch target *grid"], size: torch.Size
) -> Float[Tensor, "batch target *size"]:
    if heat.ndim - 2 != len(size):
        raise InputError(
            f"a map over {tuple(heat.shape[2:])} places does not lie on an image of {tuple(size)}; "
            "choose a layer whose grid has as many dimensions"
        )
    return resized(heat, size)
