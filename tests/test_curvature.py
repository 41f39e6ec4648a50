"""Methods of second order against differences of gradients, and beside pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import networks
import pytest
import torch
from torch import Tensor, nn

from multicam import ClassLogit, ClassLogProb, explain, explain_layers
from multicam.curvature import SecondOrder, ShapleyCAM, change_along
from multicam.weighting import grad_cam

GRIDS = [(6,), (6, 5), (4, 3, 5)]


def network(dims: int = 2) -> networks.ConvNet:
    torch.manual_seed(2)
    return networks.ConvNet(dims).double()


def signal(grid: tuple[int, ...] = (6, 5)) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(2, 2, *grid, dtype=torch.float64, generator=random)


def features(model: networks.ConvNet, image: Tensor) -> Tensor:
    maps: Tensor = model.second(model.first(image).tanh())
    return maps.detach()


def gradient(model: networks.ConvNet, activations: Tensor, index: int) -> Tensor:
    leaf = activations.clone().requires_grad_()
    return torch.autograd.grad(model.after_second(leaf)[:, index].sum(), leaf)[0]


def difference(model: networks.ConvNet, activations: Tensor, index: int) -> Tensor:
    """H A by central differences of the gradient along A."""
    step = 1e-5
    above = gradient(model, activations * (1 + step), index)
    below = gradient(model, activations * (1 - step), index)
    return (above - below) / (2 * step)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_shapley_cam_is_grad_cam_corrected_for_curvature(grid: tuple[int, ...]) -> None:
    model, image = network(len(grid)), signal(grid)
    found = explain(
        model, image, [ClassLogit(0), ClassLogit(2)], layer="second", method="shapleycam"
    )
    activations = features(model, image)
    for target, index in enumerate((0, 2)):
        corrected = gradient(model, activations, index) - difference(model, activations, index) / 2
        weights = corrected.flatten(2).mean(dim=2)
        expected = torch.einsum("bk,bk...->b...", weights, activations).float()
        torch.testing.assert_close(found.maps[:, target], expected, rtol=1e-4, atol=1e-7)
    plain = explain(model, image, [ClassLogit(0), ClassLogit(2)], layer="second")
    assert (found.maps - plain.maps).abs().max() > 0.1 * plain.maps.abs().max()
    assert torch.equal(found.scores, plain.scores)
    assert not found.scores.requires_grad


@pytest.mark.parametrize("vectorize", [False, True])
def test_after_a_linear_head_it_is_grad_cam(vectorize: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    image, targets = networks.images(), [ClassLogit(0), ClassLogit([1, 3])]
    plain = explain(model, image, targets, layer="1")
    found = explain(model, image, targets, layer="1", method="shapleycam", vectorize=vectorize)
    torch.testing.assert_close(found.maps, plain.maps)


def test_where_the_gradient_is_constant_its_change_is_nothing() -> None:
    leaf = torch.ones(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad((2 * leaf).sum(), leaf, create_graph=True)
    assert torch.equal(change_along(gradient, leaf), torch.zeros(2, 3))
    other = torch.ones(2, 3, requires_grad=True)
    assert torch.equal(change_along(other * 2, leaf), torch.zeros(2, 3))


def test_several_layers_equal_one_by_one() -> None:
    model, image = network(), signal()
    layers = ["first", "second"]
    both = explain_layers(model, image, ClassLogit(0), layers=layers, method="shapleycam")
    for one in both:
        alone = explain(model, image, ClassLogit(0), layer=one.layer, method="shapleycam")
        torch.testing.assert_close(one.maps, alone.maps)


def test_a_batch_gives_what_its_images_give_one_by_one() -> None:
    model, image = network(), signal()
    together = explain(model, image, ClassLogit(1), method="shapleycam")
    alone = [explain(model, one[None], ClassLogit(1), method="shapleycam").maps for one in image]
    assert together.layer == "second"
    torch.testing.assert_close(together.maps, torch.cat(alone))


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (networks.Tokens, "encoder.layers.0"),
        (networks.ConvRecurrent, "deep"),
        (partial(networks.ConvRecurrent, nn.GRU), "conv"),
        (networks.hugging_face_vit, "vit.layers.0"),
    ],
    ids=["tokens", "lstm", "gru", "vit"],
)
def test_attention_and_recurrence_are_differentiated_twice(
    build: Callable[[], nn.Module], layer: str
) -> None:
    model = build().double().eval()
    image = networks.images(size=64 if "vit" in layer else 16).double()
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(ShapleyCAM):
        def maps(self, activations: Tensor, gradients: Tensor, curvature: Tensor) -> Tensor:
            seen.append((gradients.detach(), curvature))
            return super().maps(activations, gradients, curvature)

    def pushed(factor: float) -> Tensor:
        """The gradient where the layer's output is multiplied by a factor."""
        module = model.get_submodule(layer)
        handle = module.register_forward_hook(lambda *given: given[2] * factor)
        try:
            explain(model, image, ClassLogit(1), layer=layer, method=Watched())
        finally:
            handle.remove()
        return seen[-1][0]

    explain(model, image, ClassLogit(1), layer=layer, method=Watched())
    curvature = seen[0][1]
    step = 1e-5
    expected = (pushed(1 + step) - pushed(1 - step)) / (2 * step)
    assert curvature.abs().max() > 0
    torch.testing.assert_close(
        curvature, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item()
    )


def test_a_method_of_second_order_may_be_your_own() -> None:
    class Expected(SecondOrder):
        """The products with the gradient half way to no activation at all."""

        def maps(self, activations: Tensor, gradients: Tensor, curvature: Tensor) -> Tensor:
            return ((gradients - curvature / 2) * activations).sum(dim=1)

    found = explain(network(), signal(), ClassLogit(0), layer="second", method=Expected())
    assert found.method == "Expected"
    assert found.maps.abs().max() > 0


def test_its_maps_can_be_trained_with() -> None:
    model = network()
    found = explain(model, signal(), layer="second", method="shapleycam", create_graph=True)
    torch.autograd.backward(found.maps.square().sum())
    assert all(
        weight.grad is not None and weight.grad.any()
        for weight in (model.first.weight, model.second.weight, model.head.weight)
    )


def test_nothing_of_the_graph_is_left() -> None:
    model = networks.Inplace().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = explain(model, networks.images(), layer="conv", method="shapleycam")
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module._forward_hooks for module in model.modules())
    assert not found.maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("ClassifierOutputTarget", ClassLogit(1)),
        ("ClassifierOutputReST", lambda output: ClassLogit(1)(output) + ClassLogProb(1)(output)),
    ],
)
def test_equal_to_pytorch_grad_cam(name: str, target: Any) -> None:
    """The maps of both, from 0 to 1, at a layer whose grid is that of the image."""
    peer = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, image = network().eval(), signal()
    with peer.ShapleyCAM(model, [model.second]) as extractor:
        theirs = torch.from_numpy(extractor(image, [getattr(targets, name)(1)] * 2))
    ours = explain(model, image, target, layer="second", method="shapleycam").maps[:, 0]
    assert theirs.std() > 0.05
    torch.testing.assert_close(scaled(ours), theirs.float(), rtol=0, atol=1e-4)


def scaled(maps: Tensor) -> Tensor:
    """What speaks for the score, each map from 0 to 1."""
    positive = maps.relu()
    lowest = positive.amin(dim=(1, 2), keepdim=True)
    return (positive - lowest) / (positive.amax(dim=(1, 2), keepdim=True) - lowest)


def test_the_weights_are_those_of_grad_cam_for_corrected_gradients() -> None:
    activations, gradients, curvature = torch.randn(3, 2, 4, 5, 6)
    found = ShapleyCAM().maps(activations, gradients, curvature)
    torch.testing.assert_close(found, grad_cam(activations, gradients - 0.5 * curvature))
