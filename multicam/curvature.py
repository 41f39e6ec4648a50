"""Methods that ask how gradients change, beside what they are."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from multicam.weighting import FeatureMaps, Maps, grad_cam


class SecondOrder(ABC):
    """A weighting that also takes how the gradients change along the activations."""

    @abstractmethod
    def maps(
        self, activations: FeatureMaps, gradients: FeatureMaps, curvature: FeatureMaps
    ) -> Maps:
        """Signed maps of one target.

        Args:
            activations: the feature map A.
            gradients: G = d score / d A.
            curvature: H A, with H = d² score / d A² of each sample.
        """


class ShapleyCAM(SecondOrder):
    """ShapleyCAM: Grad-CAM with gradients corrected for the curvature of the score.

        weight_k = mean over places of (G - 1/2 H A)_k
        map      = sum over channels of weight_k A_k      (before its ReLU)

    (G - 1/2 H A) A is the Shapley value of each activation, 0 without it, in the second-order
    expansion of the score around A. H is 0, and the map that of Grad-CAM, wherever the score
    is linear in the activations, as after the last block of a ResNet.

    The paper explains the sum of a class's logit and its log-probability, which it calls
    ReST: `lambda output: ClassLogit(c)(output) + ClassLogProb(c)(output)`. Here, as in
    pytorch-grad-cam, the score is what the target says. torchcam does not have it.

    Cai, "CAMs as Shapley Value-based Explainers", arXiv 2501.06261.
    """

    def maps(
        self, activations: FeatureMaps, gradients: FeatureMaps, curvature: FeatureMaps
    ) -> Maps:
        """See `SecondOrder`."""
        return grad_cam(activations, gradients - curvature / 2)


def change_along(gradient: Tensor, activations: Tensor, *, create_graph: bool = False) -> Tensor:
    """How a gradient changes along the activations that it was taken by: H A.

    One more backward pass, without H itself: H is symmetric, so H A is the gradient of
    the product of the gradient with a constant A.

    Args:
        gradient: d score / d A, with its graph, of any shape.
        activations: A, of the same shape.
        create_graph: whether the product can be differentiated again.

    Returns:
        H A; zeros where the gradient does not depend on A.
    """
    if not gradient.requires_grad:
        return torch.zeros_like(gradient)
    (product,) = torch.autograd.grad(
        gradient,
        activations,
        activations.to(gradient.dtype),
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
    )
    return torch.zeros_like(gradient) if product is None else product
