"""The maps of pytorch-grad-cam and torchcam, or the formula in which they differ.

The networks keep the resolution of their images, so that the peers, which resize their maps
to the size of the image, compare place by place. Maps are compared after ReLU and min-max
normalisation, which is what the peers return.
"""

from __future__ import annotations

from typing import Any

import networks
import pytest
import torch
from torch import Tensor, nn

from multicam import ClassLogit, explain
from multicam.weighting import eigen_cam, eigen_grad_cam

CLASS = 1


def network(*, cells: int, scale: float = 1.0) -> nn.Sequential:
    """Features of eight channels, pooled to `cells` x `cells`, and a linear layer.

    Args:
        cells: 1 pools globally, as CAM needs it; 2 gives gradients that vary over places.
        scale: of the gradients.
    """
    torch.manual_seed(7)
    features = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
    )
    linear = nn.Linear(8 * cells**2, 4)
    with torch.no_grad():
        linear.weight.mul_(scale)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(cells), nn.Flatten(), linear).eval()


def ours(model: nn.Module, method: str) -> Tensor:
    """Our signed maps."""
    return explain(model, networks.images(), ClassLogit(CLASS), layer="0", method=method).maps[:, 0]


def activations_and_gradients(model: nn.Sequential) -> tuple[Tensor, Tensor]:
    """A and G of the class, from the network's own parts."""
    activations = model[0](networks.images()).detach().requires_grad_()
    score = model[1:](activations)[:, CLASS].sum()
    return activations.detach(), torch.autograd.grad(score, activations)[0]


def from_pytorch_grad_cam(model: nn.Sequential, name: str) -> Tensor:
    """The maps that a class of pytorch-grad-cam returns."""
    peer = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    images = networks.images()
    with getattr(peer, name)(model, [model[0]]) as extractor:
        maps = extractor(images, [targets.ClassifierOutputTarget(CLASS)] * len(images))
    return torch.from_numpy(maps)


def from_torchcam(model: nn.Sequential, name: str, **options: Any) -> Tensor:
    """The maps that a class of torchcam makes.

    Normalised here: torchcam adds 1e-8 to the maximum, which weak maps do not survive.
    """
    peer = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    with getattr(peer, name)(model, "0", **options) as extractor:
        maps: Tensor = extractor(CLASS, model(networks.images()), normalized=False)[0]
    return scaled(maps.detach())


def scaled(maps: Tensor) -> Tensor:
    """Each map from 0 to 1."""
    lowest, highest = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - lowest) / (highest - lowest)


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """Channels times weights."""
    return torch.einsum("bk,bkhw->bhw", weights, activations)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("gradcam", "GradCAM"),
        ("xgradcam", "XGradCAM"),
        ("hirescam", "HiResCAM"),
        ("elementwise", "GradCAMElementWise"),
        ("layercam", "LayerCAM"),
    ],
)
def test_equal_to_pytorch_grad_cam(method: str, name: str, cells: int) -> None:
    model = network(cells=cells)
    assert_same(scaled(ours(model, method).relu()), from_pytorch_grad_cam(model, name))


@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize(
    ("method", "name"), [("gradcam", "GradCAM"), ("xgradcam", "XGradCAM"), ("layercam", "LayerCAM")]
)
def test_equal_to_torchcam(method: str, name: str, cells: int) -> None:
    model = network(cells=cells)
    assert_same(scaled(ours(model, method).relu()), from_torchcam(model, name))


def test_cam_is_equal_to_torchcam_which_takes_the_weights_from_the_layer() -> None:
    """Its CAM has no ReLU."""
    model = network(cells=1)
    assert_same(scaled(ours(model, "cam")), from_torchcam(model, "CAM", fc_layer="3"))


def test_grad_cam_plus_plus_is_equal_to_pytorch_grad_cam_for_strong_gradients() -> None:
    model = network(cells=2, scale=300)
    peer = from_pytorch_grad_cam(model, "GradCAMPlusPlus")
    assert_same(scaled(ours(model, "gradcam++").relu()), peer)


def test_pytorch_grad_cam_loses_weak_gradients_of_grad_cam_plus_plus_to_its_epsilon() -> None:
    model = network(cells=2, scale=0.01)
    activations, gradients = activations_and_gradients(model)
    sums = activations.sum(dim=(2, 3), keepdim=True)
    alphas = gradients**2 / (2 * gradients**2 + sums * gradients**3 + 1e-6)
    weights = (alphas * gradients.relu()).sum(dim=(2, 3))
    peer = from_pytorch_grad_cam(model, "GradCAMPlusPlus")
    assert_same(scaled(weighted(weights, activations)), peer)
    assert (scaled(ours(model, "gradcam++").relu()) - peer).abs().max() > 0.01


def test_torchcam_leaves_the_division_out_of_grad_cam_plus_plus() -> None:
    """Its alpha is the squared gradient, so its weights are sums of cubes."""
    model = network(cells=2)
    activations, gradients = activations_and_gradients(model)
    weights = gradients.relu().pow(3).sum(dim=(2, 3))
    peer = from_torchcam(model, "GradCAMpp")
    assert_same(scaled(weighted(weights, activations)), peer)
    assert (scaled(ours(model, "gradcam++").relu()) - peer).abs().max() > 0.01


@pytest.mark.parametrize(
    ("method", "name"), [(eigen_cam, "EigenCAM"), (eigen_grad_cam, "EigenGradCAM")]
)
def test_pytorch_grad_cam_centres_the_channels_before_it_takes_a_component(
    method: Any, name: str
) -> None:
    """Centred first, ours is the peer's map, or that with its sign turned round."""
    projection = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations")
    activations, gradients = activations_and_gradients(network(cells=2))
    explained = activations if method is eigen_cam else activations * gradients
    peer = torch.from_numpy(projection.get_2d_projection(explained.numpy()))
    centred = eigen_cam(explained - explained.mean(dim=(2, 3), keepdim=True), gradients)
    signs = (centred * peer).sum(dim=(1, 2), keepdim=True).sign()
    torch.testing.assert_close(centred * signs, peer, rtol=0, atol=1e-4 * peer.abs().max().item())
    assert_same(scaled(peer.relu()), from_pytorch_grad_cam(network(cells=2), name))
