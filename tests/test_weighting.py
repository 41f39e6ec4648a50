from __future__ import annotations

from collections.abc import Callable

import networks
import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multicam import METHODS, ClassLogit, InputError, explain, grad_cam
from multicam.weighting import (
    Weighting,
    cam,
    eigen_cam,
    eigen_grad_cam,
    element_wise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    x_grad_cam,
)

WEIGHTINGS: dict[str, Weighting] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "xgradcam": x_grad_cam,
    "hirescam": hires_cam,
    "elementwise": element_wise,
    "layercam": layer_cam,
    "eigencam": eigen_cam,
    "eigengradcam": eigen_grad_cam,
    "cam": cam,
}

GOLDEN = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, -1.0], [1.0, 2.0]]]])
TWO_PLACES = torch.tensor([[[1.0, 3.0], [2.0, -1.0]]])

ORACLES: dict[str, Callable[[oracles.Array, oracles.Array], oracles.Array]] = {
    "gradcam": oracles.grad_cam,
    "gradcam++": oracles.grad_cam_plus_plus,
    "xgradcam": oracles.x_grad_cam,
    "hirescam": oracles.hires_cam,
    "elementwise": oracles.element_wise,
    "layercam": oracles.layer_cam,
    "eigencam": oracles.eigen_cam,
    "eigengradcam": oracles.eigen_grad_cam,
}
"""All methods but CAM, which wants gradients that are the same at all places."""


def random_pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations and gradients in float64."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return both[0], both[1]


def pooled_network(channels: int = 8) -> nn.Sequential:
    """A network that ends in global average pooling and one linear layer."""
    torch.manual_seed(3)
    features = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU())
    return nn.Sequential(
        features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)
    ).eval()


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


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (grad_cam, [1.5 + 3, 4.5 - 1.5]),
        (grad_cam_plus_plus, [11 / 30 + 4 / 3, 33 / 30 - 2 / 3]),
        (x_grad_cam, [1.25 - 12, 3.75 + 6]),
        (hires_cam, [2 - 2, 3 - 4]),
        (element_wise, [2, 3]),
        (layer_cam, [2, 3 - 4]),
    ],
)
def test_golden_maps_of_two_places(
    method: Callable[[Tensor, Tensor], Tensor], expected: list[float]
) -> None:
    """By hand: sums of A are 4 and 1, means of G 1.5 and 1.5, G A is (2, 3) and (-2, -4).

    The weights of Grad-CAM++ are 2 / (2 + 8) + 1 / (2 + 4) = 11 / 30 and 4 / (2 + 4) = 2 / 3.
    """
    maps = method(TWO_PLACES, torch.tensor([[[2.0, 1.0], [-1.0, 4.0]]]))
    assert maps[0].tolist() == pytest.approx(expected)


def test_golden_maps_of_a_first_component() -> None:
    """By hand: channels (3, 0) and (4, 0) have v_1 = (3, 4) / 5, and it speaks against -A."""
    activations = torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
    gradients = -torch.ones_like(activations)
    assert eigen_cam(activations, gradients)[0].tolist() == pytest.approx([5, 0], abs=1e-6)
    assert eigen_grad_cam(activations, gradients)[0].tolist() == pytest.approx([-5, 0], abs=1e-6)


def test_golden_map_of_cam() -> None:
    """By hand: two places with gradients 2 and -1 come from weights 4 and -2."""
    gradients = torch.tensor([[[2.0, 2.0], [-1.0, -1.0]]])
    assert cam(TWO_PLACES, gradients).tolist() == [[4 - 4, 12 + 2]]


@pytest.mark.parametrize("name", ORACLES)
@given(
    grid=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    channels=st.integers(1, 6),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=20)
def test_a_method_agrees_with_plain_loops(
    name: str, grid: list[int], channels: int, batch: int, seed: int
) -> None:
    activations, gradients = random_pair(batch, channels, *grid, seed=seed)
    maps = WEIGHTINGS[name](activations, gradients)
    for sample in range(batch):
        expected = ORACLES[name](activations[sample].numpy(), gradients[sample].numpy())
        np.testing.assert_allclose(maps[sample].numpy(), expected, rtol=1e-7, atol=1e-9)


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


@pytest.mark.parametrize("name", ORACLES)
def test_a_batch_gives_what_its_samples_give_alone(name: str) -> None:
    activations, gradients = random_pair(3, 6, 4, 5)
    pairs = zip(activations[:, None], gradients[:, None], strict=True)
    alone = torch.cat([WEIGHTINGS[name](*pair) for pair in pairs])
    torch.testing.assert_close(WEIGHTINGS[name](activations, gradients), alone)


@pytest.mark.parametrize("name", ORACLES)
def test_maps_can_be_differentiated(name: str) -> None:
    pair = [one.requires_grad_() for one in random_pair(1, 4, 3)]
    assert torch.autograd.gradcheck(WEIGHTINGS[name], pair)


@pytest.mark.parametrize("name", [*(name for name in ORACLES if name != "eigencam"), "cam"])
def test_a_score_that_does_not_react_has_a_map_of_zeros(name: str) -> None:
    activations, _ = random_pair(2, 3, 4)
    assert WEIGHTINGS[name](activations, torch.zeros_like(activations)).eq(0).all()


@pytest.mark.parametrize("channels", [2, 30])
@pytest.mark.parametrize("name", [*ORACLES, "cam"])
def test_a_layer_that_is_silent_has_a_map_of_zeros(name: str, channels: int) -> None:
    nothing = torch.zeros(2, channels, 3, 4)
    assert WEIGHTINGS[name](nothing, torch.ones_like(nothing)).eq(0).all()


@pytest.mark.parametrize("name", [*ORACLES, "cam"])
def test_a_constant_layer_with_constant_gradients_has_a_constant_map(name: str) -> None:
    constant = torch.full((1, 3, 4), 2.0)
    maps = WEIGHTINGS[name](constant, constant)
    assert maps[0, 0] > 0
    torch.testing.assert_close(maps, maps[:, :1].expand_as(maps))


@pytest.mark.parametrize("name", [*ORACLES, "cam"])
def test_a_network_in_bfloat16_gives_nearly_the_map_of_float32(name: str) -> None:
    model, images = pooled_network(), networks.images()
    full = explain(model, images, ClassLogit(1), layer="0", method=name).maps
    half = explain(model.bfloat16(), images.bfloat16(), ClassLogit(1), layer="0", method=name).maps
    assert half.dtype == torch.float32
    assert (half - full).abs().max() < 0.05 * full.abs().max()


def test_the_channel_weights_come_from_the_gradients_not_the_activations() -> None:
    activations, gradients = torch.ones(1, 2, 3), torch.tensor([[[3.0, 0, 0], [0, 0, 0]]])
    assert grad_cam(activations, gradients).tolist() == [[1.0, 1.0, 1.0]]


def test_grad_cam_plus_plus_gives_small_gradients_half_their_sum() -> None:
    """Alpha goes to 1 / 2, where squares of gradients are below what float32 can hold."""
    activations = torch.ones(1, 1, 2)
    maps = grad_cam_plus_plus(activations, torch.tensor([[[1e-30, 3e-30]]]))
    assert (maps * 1e30).tolist() == [pytest.approx([2.0, 2.0])]


def test_grad_cam_plus_plus_leaves_out_a_place_whose_denominator_is_zero() -> None:
    """By hand: 2 + -1 x 2 = 0 at the first place, 1 / (2 + -1 x 1) = 1 at the second."""
    activations = torch.tensor([[[-2.0, 1.0]]])
    assert grad_cam_plus_plus(activations, torch.tensor([[[2.0, 1.0]]])).tolist() == [[-2.0, 1.0]]


def test_xgrad_cam_leaves_out_a_channel_that_sums_to_zero() -> None:
    activations = torch.tensor([[[1.0, -1.0], [0.0, 0.0], [1.0, 3.0]]])
    maps = x_grad_cam(activations, torch.ones_like(activations))
    assert maps.tolist() == [[1.0, 3.0]]


@pytest.mark.parametrize("method", [x_grad_cam, hires_cam])
def test_maps_sum_to_the_sum_of_gradient_times_activation(
    method: Callable[[Tensor, Tensor], Tensor],
) -> None:
    activations, gradients = random_pair(2, 5, 3, 4)
    torch.testing.assert_close(
        method(activations, gradients).sum(dim=(1, 2)), (activations * gradients).sum(dim=(1, 2, 3))
    )


def test_eigen_cam_says_the_same_of_every_score() -> None:
    found = explain(
        networks.ConvNet(),
        torch.randn(1, 2, 6, 5),
        [ClassLogit(0), ClassLogit(1)],
        layer="second",
        method="eigencam",
    ).maps
    assert found[:, 0].equal(found[:, 1])


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 40, 3, 3)])
def test_eigen_cam_is_nowhere_negative_after_a_relu(shape: tuple[int, ...]) -> None:
    activations = random_pair(*shape)[0].relu()
    assert eigen_cam(activations, activations).min() > -1e-12


@pytest.mark.parametrize("method", [eigen_cam, eigen_grad_cam])
def test_a_first_component_correlates_with_the_sum_of_what_it_explains(
    method: Callable[[Tensor, Tensor], Tensor],
) -> None:
    activations, gradients = random_pair(20, 4, 5, 6)
    explained = activations if method is eigen_cam else activations * gradients
    maps = method(activations, gradients)
    assert ((maps * explained.sum(dim=1)).sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("noise", [0, 1e-9, -1e-9])
def test_eigen_cam_has_one_sign_where_channels_cancel_at_every_place(noise: float) -> None:
    one = torch.tensor([[1.0, -2.0, -5.0]], dtype=torch.float64)
    activations = torch.stack([one, -one], dim=1) + noise
    expected = [2**0.5 * value for value in (-1, 2, 5)]
    assert eigen_cam(activations, activations)[0].tolist() == pytest.approx(expected)


def test_eigen_cam_takes_values_whose_squares_float32_cannot_hold() -> None:
    activations = torch.rand(1, 4, 5)
    expected = eigen_cam(activations, activations)
    for scale in (1e-30, 1e30):
        scaled = activations * scale
        torch.testing.assert_close(eigen_cam(scaled, scaled) / scale, expected)


def test_eigen_cam_computes_half_precision_in_float32() -> None:
    activations = torch.rand(1, 4, 5).half()
    found = eigen_cam(activations, activations)
    torch.testing.assert_close(found, eigen_cam(activations.float(), activations.float()))


@pytest.mark.parametrize("channels", [3, 30])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_its_own_sample_alone(channels: int, value: float) -> None:
    activations, _ = random_pair(2, channels, 3, 4)
    expected = eigen_cam(activations, activations)
    activations[0, 1, 1, 2] = value
    found = eigen_cam(activations, activations)
    assert not found[0, 1, 2].isfinite()
    torch.testing.assert_close(found[1], expected[1])


def test_cam_finds_the_weights_of_the_linear_layer() -> None:
    model, images = pooled_network(), networks.images()
    with torch.no_grad():
        activations = model[0](images)
    weights = model.get_parameter("3.weight")[2].detach()
    expected = torch.einsum("k,bkhw->bhw", weights, activations)
    found = explain(model, images, ClassLogit(2), layer="0", method="cam").maps[:, 0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_cam_is_grad_cam_times_the_number_of_places(method: str) -> None:
    """The proof in section 3.1 of the Grad-CAM paper: w_k is the sum of the gradients."""
    model, images = pooled_network(), networks.images(size=16)
    found = explain(model, images, ClassLogit(2), layer="0", method="cam").maps
    other = explain(model, images, ClassLogit(2), layer="0", method=method).maps
    torch.testing.assert_close(found, other * 14 * 14)


def test_cam_is_refused_where_the_layer_is_not_pooled() -> None:
    with pytest.raises(InputError, match=r"end in global average pooling .* method='gradcam'"):
        explain(pooled_network(), networks.images(), ClassLogit(0), layer="0.0", method="cam")


def test_cam_lets_gradients_vary_by_rounding() -> None:
    activations, rounding = random_pair(2, 3, 4)
    assert cam(activations.float(), (1 + 1e-6 * rounding).float()).isfinite().all()


def test_cam_says_how_far_gradients_vary_of_any_sample() -> None:
    gradients = torch.ones(2, 1, 2, 2)
    gradients[1] = torch.tensor([[1e-6, 1e-6], [1e-6, 5e-7]])
    with pytest.raises(InputError, match="vary by up to 50% of the largest"):
        cam(torch.ones_like(gradients), gradients)


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


def test_methods_can_be_chosen_by_name() -> None:
    assert WEIGHTINGS.items() <= METHODS.items()
