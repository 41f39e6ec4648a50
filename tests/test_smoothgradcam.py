"""Smooth Grad-CAM++ against its formula in loops, and beside torchcam."""

from __future__ import annotations

import networks
import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, nn

from multicam import METHODS, ClassLogit, InputError, explain, explain_layers
from multicam.smoothgradcam import SmoothGradCAMPlusPlus
from multicam.smoothing import noisy

SETTINGS = SmoothGradCAMPlusPlus(samples=3, std=0.2, seed=5)


def network() -> networks.ConvNet:
    torch.manual_seed(2)
    return networks.ConvNet().double()


def signal(batch: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(batch, 2, 6, 5, dtype=torch.float64, generator=random)


def features(model: networks.ConvNet, image: Tensor) -> Tensor:
    maps: Tensor = model.second(model.first(image).tanh())
    return maps.detach()


def gradients(model: networks.ConvNet, image: Tensor, index: int) -> Tensor:
    activations = features(model, image).requires_grad_()
    score = model.after_second(activations)[:, index].sum()
    return torch.autograd.grad(score, activations)[0]


def looped(activations: oracles.Array, copies: list[oracles.Array]) -> oracles.Array:
    """The formula of the docstring for one sample, place by place."""
    weights = []
    for channel, values in enumerate(activations):
        total = sum(values[place] for place in oracles.places(values))
        weight = 0.0
        for place in oracles.places(values):
            slopes = [copy[channel][place] for copy in copies]
            first, second, third = (np.mean([slope**p for slope in slopes]) for p in (1, 2, 3))
            weight += second / (2 * second + total * third) * max(first, 0.0)
        weights.append(float(weight))
    return oracles.weighted_sum(weights, activations)


def test_it_is_the_formula_in_loops() -> None:
    model, image = network(), signal()
    found = explain(model, image, [ClassLogit(0), ClassLogit(2)], layer="second", method=SETTINGS)
    by_copy = list(noisy(image, 3, 0.2, 5))
    for sample in range(2):
        for target, index in enumerate((0, 2)):
            slopes = [gradients(model, copy, index)[sample].numpy() for copy in by_copy]
            expected = looped(features(model, image)[sample].numpy(), slopes)
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(found.maps[sample, target], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["first", "second"])
def test_without_noise_it_is_grad_cam_plus_plus(layer: str) -> None:
    model, image = network(), signal()
    calm = SmoothGradCAMPlusPlus(samples=2, std=0)
    found = explain(model, image, ClassLogit(1), layer=layer, method=calm)
    expected = explain(model, image, ClassLogit(1), layer=layer, method="gradcam++")
    torch.testing.assert_close(found.maps, expected.maps)
    assert torch.equal(found.scores, expected.scores)
    assert (found.labels, found.notes) == (expected.labels, expected.notes)


def test_several_layers_and_targets_equal_one_by_one() -> None:
    model, image = network(), signal()
    targets = [ClassLogit(0), ClassLogit([1, 2])]
    both = explain_layers(model, image, targets, layers=["first", "second"], method=SETTINGS)
    assert [one.layer for one in both] == ["first", "second"]
    for one in both:
        for target, wanted in enumerate(targets):
            alone = explain(model, image, wanted, layer=one.layer, method=SETTINGS)
            torch.testing.assert_close(one.maps[:, target], alone.maps[:, 0])


def test_one_backward_pass_serves_all_targets_of_a_copy() -> None:
    model, image = networks.ConvRecurrent().eval(), networks.images()
    targets = [ClassLogit(index) for index in range(3)]
    each = explain(model, image, targets, layer="deep", method=SETTINGS)
    at_once = explain(model, image, targets, layer="deep", method=SETTINGS, vectorize=True)
    torch.testing.assert_close(at_once.maps, each.maps)


def test_by_name_it_finds_the_layer_and_the_class_and_repeats_itself() -> None:
    model, image = network(), signal()
    found = explain(model, image, method="smoothgradcam++")
    again = explain(model, image, layer="second", method=METHODS["smoothgradcam++"])
    assert (found.method, found.layer) == ("smoothgradcam++", "second")
    assert torch.equal(found.maps, again.maps)
    assert found.labels == explain(model, image).labels


def test_a_part_that_runs_without_gradients_is_recorded_again() -> None:
    class Interrupted(networks.ConvNet):
        def forward(self, signal: Tensor) -> Tensor:
            with torch.no_grad():
                maps = self.second(self.first(signal).tanh())
            return self.after_second(maps)

    torch.manual_seed(2)
    model = Interrupted().double()
    found = explain(model, signal(), ClassLogit(1), layer="second", method=SETTINGS)
    expected = explain(network(), signal(), ClassLogit(1), layer="second", method=SETTINGS)
    torch.testing.assert_close(found.maps, expected.maps)


def test_its_maps_can_be_trained_with() -> None:
    model = network()
    found = explain(model, signal(), layer="second", method=SETTINGS, create_graph=True)
    torch.autograd.backward(found.maps.square().sum())
    assert all(
        weight.grad is not None and weight.grad.any()
        for weight in (model.first.weight, model.second.weight, model.head.weight)
    )


def test_the_model_stays_as_it_was() -> None:
    model = networks.Inplace().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain(model, networks.images(), layer="conv", method=SETTINGS)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("samples", "std"), [(0, 0.1), (4, -1.0)])
def test_noise_that_makes_no_sense_is_refused(samples: int, std: float) -> None:
    with pytest.raises(InputError, match=r"samples=0|std=-1.0"):
        SmoothGradCAMPlusPlus(samples=samples, std=std)


def test_torchcam_sums_over_products_where_the_paper_has_a_product_of_sums() -> None:
    """With next to no noise its copies are alike, and what is left is the denominator."""
    peer = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    torch.manual_seed(7)
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    linear = nn.Linear(8 * 4, 4)
    with torch.no_grad():
        linear.weight.mul_(300)
    model = nn.Sequential(convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), linear).eval()
    image = networks.images()
    with peer.SmoothGradCAMpp(model, "0", num_samples=2, std=1e-6) as extractor:
        theirs = extractor(1, model(image), normalized=False)[0].detach()
    activations = model[0](image).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(model[1:](activations)[:, 1].sum(), activations)
    products = (slopes**3 * activations).sum(dim=(2, 3), keepdim=True)
    weights = (slopes**2 / (2 * slopes**2 + products) * slopes.relu()).sum(dim=(2, 3))
    expected = torch.einsum("bk,bkhw->bhw", weights, activations).detach()
    assert_same(scaled(theirs.relu()), scaled(expected.relu()))
    ours = explain(model, image, ClassLogit(1), layer="0", method="smoothgradcam++").maps[:, 0]
    assert (scaled(ours.relu()) - scaled(theirs.relu())).abs().max() > 0.01


def scaled(maps: Tensor) -> Tensor:
    """Each map from 0 to 1."""
    lowest, highest = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - lowest) / (highest - lowest)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
