from __future__ import annotations

import networks
import pytest
import torch
from torch import Tensor, nn

from multicam import ClassLogit, Difference, Negative, explain
from multicam.gradients import score_gradients

LAYER = "second"


def model_and_signal(batch: int = 3) -> tuple[networks.ConvNet, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return networks.ConvNet(), torch.randn(batch, 2, 6, 5, generator=generator)


def test_several_targets_together_equal_one_by_one() -> None:
    model, signal = model_and_signal()
    targets = [ClassLogit(index) for index in range(3)]
    together = explain(model, signal, targets, layer=LAYER)
    for index, target in enumerate(targets):
        alone = explain(model, signal, target, layer=LAYER)
        torch.testing.assert_close(together.maps[:, index], alone.maps[:, 0])
        torch.testing.assert_close(together.scores[:, index], alone.scores[:, 0])


def test_a_batch_equals_its_samples_one_by_one() -> None:
    model, signal = model_and_signal()
    together = explain(model, signal, ClassLogit(1), layer=LAYER)
    alone = [explain(model, one[None], ClassLogit(1), layer=LAYER).maps for one in signal]
    torch.testing.assert_close(together.maps, torch.cat(alone))


def test_classes_may_differ_per_sample() -> None:
    model, signal = model_and_signal()
    together = explain(model, signal, ClassLogit([2, 0, 1]), layer=LAYER)
    for sample, index in enumerate([2, 0, 1]):
        alone = explain(model, signal, ClassLogit(index), layer=LAYER)
        torch.testing.assert_close(together.maps[sample], alone.maps[sample])
    assert together.labels == (("class 2",), ("class 0",), ("class 1",))


def test_the_map_of_a_difference_is_the_difference_of_the_maps() -> None:
    model, signal = model_and_signal()
    a, b = ClassLogit(0), ClassLogit(2)
    maps = explain(model, signal, [Difference(a, b), a, b], layer=LAYER).maps
    torch.testing.assert_close(maps[:, 0], maps[:, 1] - maps[:, 2])


def test_the_map_of_a_negative_is_the_negative_map() -> None:
    model, signal = model_and_signal()
    maps = explain(model, signal, [Negative(ClassLogit(1)), ClassLogit(1)], layer=LAYER).maps
    torch.testing.assert_close(maps[:, 0], -maps[:, 1])


def test_the_score_that_does_not_depend_on_a_layer_has_no_gradient() -> None:
    leaf, other = torch.ones(2, 3, requires_grad=True), torch.ones(2, requires_grad=True)
    assert list(score_gradients([torch.ones(2), other * 2], [leaf])) == [(None,), (None,)]


def test_gradients_leave_dot_grad_alone() -> None:
    leaf = torch.ones(2, 3, requires_grad=True)
    ((gradient,),) = score_gradients([leaf.sum(dim=1)], [leaf])
    assert gradient is not None
    assert gradient.eq(1).all()
    assert leaf.grad is None


def pooled(dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A net whose gradients at its 112 x 112 places lie near 1e-9: nothing in half precision."""
    torch.manual_seed(0)
    head = nn.Linear(8, 4)
    nn.init.normal_(head.weight, std=1e-5)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head,
    )
    return model.to(dtype).eval(), networks.images(2, 224).to(dtype)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_gives_the_map_of_full_precision(dtype: torch.dtype) -> None:
    full, half = (
        explain(*pooled(kind), [ClassLogit(0), ClassLogit(1)], layer="0").maps
        for kind in (torch.float32, dtype)
    )
    assert half.dtype == torch.float32
    pairs = torch.stack([full.flatten(2), half.flatten(2)], dim=2).flatten(0, 1)
    assert min(torch.corrcoef(pair)[0, 1] for pair in pairs) > 0.999
    assert half.abs().max() == pytest.approx(full.abs().max().item(), rel=0.05)


def test_half_precision_scores_of_great_gradient_do_not_overflow() -> None:
    leaf = torch.ones(2, 3, dtype=torch.half, requires_grad=True)
    ((gradient,),) = score_gradients([leaf.sum(dim=1) * 500], [leaf])
    assert gradient is not None
    assert gradient.eq(500).all()


def test_maps_are_made_in_full_precision_under_autocast() -> None:
    model, signal = model_and_signal()

    def kept(activations: Tensor, gradients: Tensor) -> Tensor:
        assert activations.dtype == gradients.dtype == torch.float32
        weights = gradients.flatten(2).mean(dim=2, keepdim=True)
        maps = weights.transpose(1, 2) @ activations.flatten(2)
        assert maps.dtype == torch.float32
        return maps.reshape(-1, *activations.shape[2:])

    with torch.autocast("cpu", torch.bfloat16):
        explain(model, signal, layer=LAYER, method=kept)


def test_maps_can_be_differentiated_again() -> None:
    """d map / d weight, against central differences of the map."""
    model, signal = model_and_signal(batch=1)
    weight = model.head.weight

    def total(create_graph: bool = False) -> Tensor:
        found = explain(
            model, signal, ClassLogit(1), layer=LAYER, method=product, create_graph=create_graph
        )
        return found.maps.sum()

    def product(activations: Tensor, gradients: Tensor) -> Tensor:
        return (activations * gradients).sum(dim=1)

    (found,) = torch.autograd.grad(total(create_graph=True), [weight])
    with torch.no_grad():
        weight[1, 0] += 0.1
        above = total()
        weight[1, 0] -= 0.2
        below = total()
    assert found[1, 0].item() == pytest.approx((above - below).item() / 0.2, rel=1e-3)


def test_a_loss_on_the_map_trains_what_lies_before_and_after_the_layer() -> None:
    model, signal = model_and_signal()
    found = explain(model, signal, ClassLogit(0), layer=LAYER, create_graph=True)
    torch.autograd.backward(found.maps.square().sum())
    assert all(
        weight.grad is not None and weight.grad.any()
        for weight in (model.first.weight, model.second.weight, model.head.weight)
    )


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_maps_before_a_recurrent_layer_can_be_differentiated_again(
    cell: type[nn.LSTM | nn.GRU],
) -> None:
    model = networks.ConvRecurrent(cell).eval()
    found = explain(model, networks.images(), ClassLogit(0), layer="deep", create_graph=True)
    torch.autograd.backward(found.maps.square().sum())
    assert all(weight.grad is not None for weight in model.conv.parameters())


def test_maps_of_a_transformer_can_be_differentiated_again() -> None:
    """Fused attention has no second derivative."""
    model = networks.Tokens().eval()
    found = explain(
        model, networks.images(), ClassLogit(0), layer="encoder.layers.0", create_graph=True
    )
    torch.autograd.backward(found.maps.square().sum())
    assert model.patches.weight.grad is not None


def test_without_create_graph_nothing_holds_the_graph() -> None:
    model, signal = model_and_signal()
    found = explain(model, signal, layer=LAYER)
    assert not found.maps.requires_grad
    assert not found.scores.requires_grad
