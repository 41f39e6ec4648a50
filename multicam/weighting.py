"""The Grad-CAM family: pure functions of activations and gradients.

A method takes the activations A, a feature map, and the gradients G = d score / d A of one
target, both of shape (batch, channel, *grid), and returns signed maps of shape
(batch, *grid), positive where a place speaks for the score. ReLU and normalisation are
views of `Explanation`, not part of a method; a ReLU stays where a paper has it on the
gradients or the products. The index k is of channels, Z is the number of places. "Peers"
are pytorch-grad-cam 1.5.7 and torchcam 0.5.0; where nothing is said of one that has the
method, it computes the same map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from multicam.errors import InputError
from multicam.principal import first_principal_map

FeatureMaps: TypeAlias = Float[Tensor, "batch channel *grid"]
Maps: TypeAlias = Float[Tensor, "batch *grid"]

Weighting: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(activations, gradients) -> maps: (batch, channel, *grid) twice to (batch, *grid)."""


def grad_cam(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """Grad-CAM: channels weighted by their mean gradient.

        weight_k = mean over places of G_k            (equation 1)
        map      = sum over channels of weight_k A_k  (equation 2, before its ReLU)

    Selvaraju et al., "Grad-CAM", arXiv 1610.02391.

    Args:
        activations: the feature map A.
        gradients: d score / d A.

    Returns:
        Signed maps; positive where the place speaks for the score.
    """
    return _weighted_sum(gradients.flatten(2).mean(dim=2), activations)


def grad_cam_plus_plus(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """Grad-CAM++: channels weighted by their positive gradients, each with a factor alpha.

        alpha    = G² / (2 G² + S_k G³), 0 where G = 0        (equation 19)
        weight_k = sum over places of alpha ReLU(G_k)
        map      = sum over channels of weight_k A_k

    S_k is the sum of A_k over all places, by indices of its own (a, b in the paper), not
    those of G. alpha ReLU(G) is computed as ReLU(G) / (2 + S_k ReLU(G)), the same without
    underflow. The paper has exp(score) for the network's output; the factor exp(score) of
    its gradient is the same at all places and left out. Where activations are negative the
    denominator may be 0; such a place counts nothing.

    Chattopadhay et al., "Grad-CAM++", arXiv 1710.11063.

    Peers: pytorch-grad-cam adds 1e-6 to the denominator, which outweighs 2 G² where |G| is
    below 7e-4, as is common after global pooling. torchcam means to take the sum of A_k G³
    for S_k G³, but its division is lost: its alpha is G².

    Args:
        activations: the feature map A; the paper has it after a ReLU.
        gradients: d score / d A, the score before any softmax.

    Returns:
        Signed maps; nowhere negative where no activation is.
    """
    sums = activations.flatten(2).sum(dim=2, keepdim=True)
    positive = gradients.flatten(2).relu()
    weights = (positive / _infinite_at_zero(2 + sums * positive)).sum(dim=2)
    return _weighted_sum(weights, activations)


def x_grad_cam(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """XGrad-CAM: channels weighted by the mean of their gradients, weighted by activation.

        weight_k = sum over places of G_k A_k / sum over places of A_k
        map      = sum over channels of weight_k A_k

    The map sums to the sum of G A: the paper's axiom of conservation. A channel that sums to
    0 has weight 0. The paper has A after a ReLU; where a channel's negative and positive
    activations nearly cancel, its weight grows without bound.

    Fu et al., "Axiom-based Grad-CAM", arXiv 2008.02312.

    Peers: both add a small number to the denominator, 1e-7 and 1e-8.
    """
    sums = activations.flatten(2).sum(dim=2)
    products = (gradients * activations).flatten(2).sum(dim=2)
    return _weighted_sum(products / _infinite_at_zero(sums), activations)


def hires_cam(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """HiResCAM: every activation weighted by its own gradient, map = sum of G_k A_k.

    Before global average pooling and a linear layer this is Grad-CAM. Draelos and Carin,
    "Use HiResCAM instead of Grad-CAM", arXiv 2011.08891. torchcam does not have it.
    """
    return (gradients * activations).sum(dim=1)


def element_wise(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """Element-wise Grad-CAM: only what speaks for the score, map = sum of ReLU(G_k A_k).

    HiResCAM without the channels that speak against the score at a place. Pillai and
    Pirsiavash, "Explainable Models with Consistent Interpretations", AAAI 2021;
    `GradCAMElementWise` of pytorch-grad-cam. torchcam does not have it.

    Returns:
        Maps that are nowhere negative.
    """
    return (gradients * activations).relu().sum(dim=1)


def layer_cam(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """LayerCAM: every activation weighted by its own positive gradient.

        map = sum over channels of ReLU(G_k) A_k

    Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
    IEEE Transactions on Image Processing 30, 2021. Fine-grained in early layers.

    Returns:
        Signed maps; negative only where activations are.
    """
    return (gradients.relu() * activations).sum(dim=1)


def eigen_cam(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """Eigen-CAM: the activations projected on their first principal component.

        A = U S Vᵀ, one row per place, one column per channel;  map = A v_1

    Says what the layer responds to most, whatever the score. As in the paper, A is not
    centred: a constant A gives a constant map. The paper leaves the sign of v_1 open; here
    the map correlates with the sum of A over channels (see `first_principal_map`), and after
    a ReLU layer it is nowhere negative.

    Muhammad and Yeasin, "Eigen-CAM", arXiv 2008.00299.

    Peers: pytorch-grad-cam centres every channel over places and leaves the sign to its
    SVD, so that its map may be inverted. torchcam does not have it.

    Args:
        activations: the feature map A.
        gradients: not used.

    Returns:
        Signed maps, computed in float32 at least.
    """
    return first_principal_map(activations)


def eigen_grad_cam(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """Eigen-Grad-CAM: `eigen_cam` of the products G A, so that it depends on the score.

    Its sign is that in which it correlates with `hires_cam`, the sum of these products.
    Without a paper: from pytorch-grad-cam, which again centres and leaves the sign open.
    torchcam does not have it.
    """
    return first_principal_map(gradients * activations)


def cam(activations: FeatureMaps, gradients: FeatureMaps) -> Maps:
    """CAM: channels weighted by the weights of the linear layer after global average pooling.

        map = sum over channels of w_k A_k  (equation 2)

    There G_k is w_k / Z at every place, so its sum over places gives w_k back, and Grad-CAM
    is this map divided by Z (arXiv 1610.02391, section 3.1). Gradients tell only that places
    are pooled: of several layers after that, w_k is what they amount to at this input.

    Zhou et al., "Learning Deep Features for Discriminative Localization", arXiv 1512.04150.

    Args:
        activations: the feature map A that is pooled.
        gradients: d score / d A, the score before any softmax.

    Returns:
        Signed maps.

    Raises:
        InputError: gradients vary over places by more than rounding.
    """
    _check_pooled(gradients)
    return _weighted_sum(gradients.flatten(2).sum(dim=2), activations)


def _weighted_sum(weights: Float[Tensor, "batch channel"], activations: FeatureMaps) -> Maps:
    return (weights.unsqueeze(1) @ activations.flatten(2)).reshape(
        activations.shape[0], *activations.shape[2:]
    )


def _infinite_at_zero(denominators: Tensor) -> Tensor:
    """Denominators by which a quotient is 0, and has gradient 0, where they were 0."""
    return denominators.masked_fill(denominators == 0, torch.inf)


def _check_pooled(gradients: FeatureMaps) -> None:
    flat = gradients.detach().flatten(2)
    high, low = flat.amax(dim=2), flat.amin(dim=2)
    spread = (high - low).amax(dim=1)
    peak = torch.maximum(high, -low).amax(dim=1)
    if (spread > torch.finfo(flat.dtype).eps ** 0.5 * peak).any():
        raise InputError(
            "CAM is defined for networks that end in global average pooling and one linear "
            "layer, where the gradients of a channel are the same at all places; here they "
            f"vary by up to {(spread / peak).nan_to_num(0).max():.0%} of the largest. Choose the "
            "layer that is pooled, or method='gradcam', which needs no such network"
        )
