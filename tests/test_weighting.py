from __future__ import annotations

import networks
import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multicam import METHODS, ClassLogit, InputError, explain, grad_cam

GOLDEN = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, -1.0], [1.0, 2.0]]]])


def test_golden_maps_of_a_two_channel_network() -> None:
    """By hand: channel sums 10 and 2; weights (2, -1), and for the product (2, 10)."""
    maps = explain(
        networks.TwoChannels(), GOLDEN, [ClassLogit(0), ClassLogit(1)], layer="layer"
    ).maps
    expected = [[[2.0, 5.0], [5.0, 6.0]], [[2.0, -6.0], [16.0, 28.0]]]
    assert maps[0].tolist() == expected


def test_golden_scores_of_a_two_channel_network() -> None:
    found = explain(networks.TwoChannels(), GOLDEN, [ClassLogit(0), ClassLogit(1)], layer="layer")
    assert found.scores.tolist() == [[18.0, 20.0]]


@given(
    grid=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    channels=st.integers(1, 6),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_grad_cam_agrees_with_plain_loops(
    grid: list[int], channels: int, batch: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, *grid)
    activations = torch.randn(shape, generator=generator, dtype=torch.float64)
    gradients = torch.randn(shape, generator=generator, dtype=torch.float64)
    maps = grad_cam(activations, gradients)
    for sample in range(batch):
        expected = oracles.grad_cam(activations[sample].numpy(), gradients[sample].numpy())
        np.testing.assert_allclose(maps[sample].numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_explain_agrees_with_finite_differences_through_the_rest_of_the_network(dims: int) -> None:
    model = networks.ConvNet(dims).double()
    signal = torch.randn(1, 2, *[5, 4, 3][:dims], dtype=torch.float64)
    with torch.no_grad():
        activations = model.second(model.first(signal).tanh())

    def score(maps: oracles.Array) -> float:
        with torch.no_grad():
            return model.after_second(torch.from_numpy(maps)[None])[0, 1].item()

    gradients = oracles.central_differences(score, activations[0].numpy())
    expected = oracles.grad_cam(activations[0].numpy(), gradients)
    ours = explain(model, signal, ClassLogit(1), layer="second").maps[0, 0]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-8)


def test_the_channel_weights_come_from_the_gradients_not_the_activations() -> None:
    activations, gradients = torch.ones(1, 2, 3), torch.tensor([[[3.0, 0, 0], [0, 0, 0]]])
    assert grad_cam(activations, gradients).tolist() == [[1.0, 1.0, 1.0]]


def test_a_method_is_any_function_of_activations_and_gradients() -> None:
    def gradient_times_input(activations: Tensor, gradients: Tensor) -> Tensor:
        return (activations * gradients).sum(dim=1)

    found = explain(
        networks.TwoChannels(), GOLDEN, ClassLogit(0), layer="layer", method=gradient_times_input
    )
    assert found.maps[0, 0].tolist() == [[2.0, 5.0], [5.0, 6.0]]
    assert found.method == "gradient_times_input"


def test_an_unknown_method_lists_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no method is called 'grad-cam'; try gradcam"):
        explain(networks.TwoChannels(), GOLDEN, layer="layer", method="grad-cam")


def test_a_method_of_the_wrong_shape_says_what_is_needed() -> None:
    with pytest.raises(InputError, match=r"gives shape \(1, 2\) .* needed is \(1, 2, 2\)"):
        explain(
            networks.TwoChannels(), GOLDEN, layer="layer", method=lambda a, g: a.mean(dim=(2, 3))
        )


def test_grad_cam_can_be_chosen_by_name() -> None:
    assert METHODS["gradcam"] is grad_cam
