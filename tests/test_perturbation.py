"""Each method without gradients against plain loops, its settings and its errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import networks
import numpy as np
import pytest
import torch
from networks import images
from numpy.typing import NDArray
from torch import Tensor, nn

from multicam import METHODS, ClassLogit, InputError, Layer, explain, explain_layers
from multicam.masks import RandomMasks, bells, products, scaled, windows
from multicam.perturbation import (
    ISCAM,
    RISE,
    SSCAM,
    AblationCAM,
    Occlusion,
    Perturbation,
    ReciproCAM,
    ScoreCAM,
)

Array = NDArray[np.float64]
Score = Callable[[Array], float]

TARGETS = [ClassLogit(0), ClassLogit(2)]
METHODS_HERE: list[Perturbation] = [
    AblationCAM(),
    ReciproCAM(),
    ScoreCAM(),
    SSCAM(samples=2, std=0.5),
    ISCAM(steps=2),
    Occlusion(window=2),
    RISE(masks=8, cells=2),
]
EACH = pytest.mark.parametrize("method", METHODS_HERE, ids=lambda method: type(method).__name__)


class Pyramid(nn.Module):
    """Two convolutions, the second one at half the size of the image; smooth."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.first = conv(2, 4, 3, padding=1)
        self.second = conv(4, 4, 3, padding=1, stride=2)
        self.head = nn.Linear(4, 3)

    def maps(self, signal: Tensor) -> Tensor:
        maps: Tensor = self.second(self.first(signal).tanh())
        return maps

    def after_maps(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.head(maps.tanh().flatten(2).square().mean(dim=2))
        return logits * 3

    def forward(self, signal: Tensor) -> Tensor:
        return self.after_maps(self.maps(signal))


def model_and_signal(size: tuple[int, ...] = (6, 5)) -> tuple[Pyramid, Tensor]:
    torch.manual_seed(1)
    return Pyramid(len(size)).double(), torch.randn(2, 2, *size, dtype=torch.float64)


# Plain loops, for one sample and one score


def places(array: Array) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, array.shape)))


def weighted_sum(weights: list[float], activations: Array) -> Array:
    total: Array = np.zeros(activations.shape[1:])
    for weight, channel in zip(weights, activations, strict=True):
        total += weight * channel
    return total


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(values)) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def linear(small: int, large: int) -> Array:
    """The share of each of `small` places in each of `large`, between half-pixel centres."""
    shares = np.zeros((large, small))
    for place in range(large):
        at = max((place + 0.5) * small / large - 0.5, 0)
        low = int(at)
        shares[place, low] += 1 - (at - low)
        shares[place, min(low + 1, small - 1)] += at - low
    return shares


def enlarged(values: Array, size: tuple[int, ...]) -> Array:
    axes = [linear(small, large) for small, large in zip(values.shape, size, strict=True)]
    result = np.zeros(size)
    for place in places(result):
        for origin in places(values):
            shares = [axis[to, of] for axis, to, of in zip(axes, place, origin, strict=True)]
            result[place] += math.prod(shares) * values[origin]
    return result


def mask_of(channel: Array, size: tuple[int, ...]) -> Array:
    large = enlarged(channel, size)
    scaled_mask: Array = (large - large.min()) / (large.max() - large.min())
    return scaled_mask


def ablation_cam(activations: Array, image: Array, of_maps: Score, of_image: Score) -> Array:
    weights = []
    for k in range(len(activations)):
        ablated = activations.copy()
        ablated[k] = 0
        weights.append(of_maps(activations) - of_maps(ablated))
    return weighted_sum(weights, activations)


def recipro_cam(activations: Array, image: Array, of_maps: Score, of_image: Score) -> Array:
    result = np.zeros(activations.shape[1:])
    for place in places(result):
        alone = np.zeros_like(activations)
        for other in places(result):
            distances = [abs(a - b) for a, b in zip(place, other, strict=True)]
            if max(distances) <= 1:
                share = math.prod(0.5 if distance == 0 else 0.25 for distance in distances)
                for k in range(len(activations)):
                    alone[k][other] = share * activations[k][other]
        result[place] = of_maps(alone) - of_maps(np.zeros_like(activations))
    return result


def score_cam(activations: Array, image: Array, of_maps: Score, of_image: Score) -> Array:
    masks = [mask_of(channel, image.shape[1:]) for channel in activations]
    return weighted_sum(softmax([of_image(image * mask) for mask in masks]), activations)


def ss_cam(activations: Array, image: Array, of_maps: Score, of_image: Score) -> Array:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, *image.shape[1:], generator=random).double().numpy()
    scores = []
    for channel in activations:
        mask = mask_of(channel, image.shape[1:])
        scores.append(sum(of_image(image * (mask + 0.5 * one)) for one in noise) / 2)
    return weighted_sum(softmax(scores), activations)


def is_cam(activations: Array, image: Array, of_maps: Score, of_image: Score) -> Array:
    scores = []
    for channel in activations:
        mask = mask_of(channel, image.shape[1:])
        scores.append(sum(of_image(image * mask * strength) for strength in (0.5, 1.0)) / 2)
    return weighted_sum(softmax(scores), activations)


def occlusion(activations: Array, image: Array, of_maps: Score, of_image: Score) -> Array:
    """Squares of 2 at every place."""
    size = image.shape[1:]
    drops, covers = np.zeros(size), np.zeros(size)
    for corner in itertools.product(*(range(side - 1) for side in size)):
        square = tuple(slice(start, start + 2) for start in corner)
        hidden = image.copy()
        hidden[(slice(None), *square)] = 0
        drops[square] += of_image(image) - of_image(hidden)
        covers[square] += 1
    return drops / covers


def rise(activations: Array, image: Array, of_maps: Score, of_image: Score) -> Array:
    masks = [mask.double().numpy() for mask in drawn(image.shape[1:])(torch.arange(8))]
    scores = [of_image(image * mask) for mask in masks]
    raised = [(score - sum(scores) / 8) for score in scores]
    return weighted_sum([value / (8 * 0.5) for value in raised], np.stack(masks))


ORACLES: dict[type[Perturbation], Callable[[Array, Array, Score, Score], Array]] = {
    AblationCAM: ablation_cam,
    ReciproCAM: recipro_cam,
    ScoreCAM: score_cam,
    SSCAM: ss_cam,
    ISCAM: is_cam,
    Occlusion: occlusion,
    RISE: rise,
}


def drawn(size: tuple[int, ...]) -> RandomMasks:
    return RandomMasks.drawn(8, 2, 0.5, size, seed=0)


@pytest.mark.parametrize("size", [(9,), (6, 5), (4, 5, 3)])
@EACH
def test_maps_agree_with_plain_loops(method: Perturbation, size: tuple[int, ...]) -> None:
    model, signal = model_and_signal(size)
    found = explain(model, signal, TARGETS, layer="second", method=method)
    for sample, target in np.ndindex(2, 2):
        index = TARGETS[target].index

        def of_maps(maps: Array, index: Any = index) -> float:
            return float(model.after_maps(torch.from_numpy(maps)[None])[0, index].item())

        def of_image(image: Array, index: Any = index) -> float:
            return float(model(torch.from_numpy(image)[None])[0, index].item())

        image = signal[sample].numpy()
        activations = model.maps(signal)[sample].detach().numpy()
        expected = ORACLES[type(method)](activations, image, of_maps, of_image)
        ours = found.maps[sample, target].numpy()
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@EACH
def test_a_batch_gives_what_its_samples_give_one_by_one(method: Perturbation) -> None:
    model, signal = model_and_signal()
    together = explain(model, signal, TARGETS, layer="second", method=method).maps
    for sample in range(2):
        alone = explain(
            model, signal[sample : sample + 1], TARGETS, layer="second", method=method
        ).maps
        torch.testing.assert_close(together[sample : sample + 1], alone)


# Masks


def test_random_masks_agree_with_plain_loops() -> None:
    size = (9, 5)
    masks = drawn(size)
    assert set(masks.cells.flatten().tolist()) == {0, 1}
    for number, mask in enumerate(masks(torch.arange(8))):
        cells = masks.cells[number, 0].double().numpy()
        large = enlarged(cells, (3 * 5, 3 * 3))
        top, left = masks.shifts[number].tolist()
        assert 0 <= top < 5
        assert 0 <= left < 3
        np.testing.assert_allclose(mask, large[top : top + 9, left : left + 5], atol=1e-6)


def test_random_masks_keep_the_share_of_cells_that_was_asked_for() -> None:
    masks = RandomMasks.drawn(400, 7, 0.3, (28, 28), seed=3)
    assert masks.cells.mean().item() == pytest.approx(0.3, abs=0.01)
    assert masks(torch.arange(400)).mean().item() == pytest.approx(0.3, abs=0.02)


def test_some_of_the_random_masks_are_those_of_all() -> None:
    masks = drawn((9, 5))
    assert torch.equal(masks(torch.tensor([5, 2])), masks(torch.arange(8))[[5, 2]])


def test_masks_that_are_products() -> None:
    rows, columns = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0, 7.0]])
    found = products([rows, columns], torch.tensor([1, 0]))
    assert torch.equal(found[0], torch.outer(rows[1], columns[0]))
    assert torch.equal(found[1], torch.outer(rows[0], columns[0]))
    assert products([rows], torch.tensor([1])).tolist() == [[3.0, 4.0]]
    assert products([bells(3), bells(2), bells(4)], torch.tensor([23]))[0, 2, 1, 3] == 0.125


def test_a_side_of_one_place() -> None:
    assert bells(1).tolist() == [[0.5]]
    assert windows(side=1, window=1, stride=1).tolist() == [[1.0]]


def test_scaling_leaves_a_constant_mask_without_a_value() -> None:
    masks = torch.tensor([[[1.0, 3.0, 2.0]], [[5.0, 5.0, 5.0]]])
    assert scaled(masks).tolist() == [[[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]


# What is explained


def test_occlusion_finds_the_only_place_that_counts() -> None:
    class Corner(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, :2, 3:5].sum(dim=(2, 3))

    image = torch.ones(1, 3, 8, 8)
    maps = explain(Corner(), image, ClassLogit(1), method=Occlusion(window=2, stride=2)).maps
    expected = torch.zeros(8, 8)
    expected[:2, 2:6] = 2.0
    assert torch.equal(maps[0, 0], expected)


def test_what_a_square_holds_can_be_chosen() -> None:
    class Total(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.sum(dim=(2, 3))

    image = torch.ones(1, 2, 4, 4)
    for fill, drop in ((0.0, 4.0), (1.0, 0.0), (2.0, -4.0)):
        method = Occlusion(window=2, stride=2, fill=fill)
        maps = explain(Total(), image, ClassLogit(0), method=method).maps
        assert torch.equal(maps, torch.full((1, 1, 4, 4), drop))


def test_occlusion_covers_all_of_an_image_that_the_stride_does_not_divide() -> None:
    model, image = Pyramid(), torch.randn(1, 2, 11, 7)
    maps = explain(model, image, ClassLogit(0), method=Occlusion(window=4, stride=3)).maps
    assert maps.shape == (1, 1, 11, 7)
    assert maps.isfinite().all()
    assert (maps != 0).all()


def test_the_default_square_is_an_eighth_of_the_shorter_side_and_moves_by_half() -> None:
    model, image = Pyramid(), torch.randn(1, 2, 32, 40)
    default = explain(model, image, ClassLogit(0), method="occlusion").maps
    said = explain(model, image, ClassLogit(0), method=Occlusion(window=4, stride=2)).maps
    assert torch.equal(default, said)


def test_rise_points_at_what_raises_the_score() -> None:
    class Corner(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, :4, :4].mean(dim=(2, 3))

    maps = explain(Corner(), torch.ones(1, 2, 16, 16), ClassLogit(0), method=RISE(masks=300)).maps
    inside, outside = maps[0, 0, :4, :4], maps[0, 0, 8:, 8:]
    assert inside.min() > 3 * outside.abs().max()


@pytest.mark.parametrize("method", ["occlusion", RISE(masks=4)])
def test_methods_of_the_image_ignore_the_layer(method: str | Perturbation) -> None:
    model, signal = model_and_signal((8, 8))
    found = [
        explain_layers(model, signal, TARGETS, layers=layers, method=method)
        for layers in (None, ["second"], ["no such layer", "first"])
    ]
    assert [[one.layer for one in each] for each in found] == [["the image"]] * 3
    assert torch.equal(found[0][0].maps, found[2][0].maps)
    assert found[0][0].maps.shape == (2, 2, 8, 8)


def test_a_layer_is_found_where_none_is_named() -> None:
    model, signal = model_and_signal()
    found = explain(model, signal, TARGETS, method="ablationcam")
    assert found.layer == "second"
    assert found.maps.shape == (2, 2, 3, 3)


def test_several_layers() -> None:
    model, signal = model_and_signal()
    found = explain_layers(model, signal, TARGETS, layers=["second", "first"], method="reciprocam")
    assert [one.layer for one in found] == ["second", "first"]
    assert [one.maps.shape[2:] for one in found] == [(3, 3), (6, 5)]


def test_the_call_of_a_layer_is_named() -> None:
    model, signal = model_and_signal()
    found = explain(model, signal, TARGETS, layer=Layer("second", call=-1), method="ablationcam")
    assert found.layer == "second (call -1)"


def test_scores_labels_and_notes_are_those_of_grad_cam() -> None:
    model, signal = model_and_signal()
    expected = explain(model, signal, TARGETS, layer="second")
    for method in METHODS_HERE:
        found = explain(model, signal, TARGETS, layer="second", method=method)
        torch.testing.assert_close(found.scores, expected.scores)
        assert not found.scores.requires_grad
        assert (found.labels, found.notes) == (expected.labels, expected.notes)


@pytest.mark.parametrize("method", [AblationCAM(), ReciproCAM(), ScoreCAM()])
def test_tokens(method: Perturbation) -> None:
    """The class token stands for no place, and keeps its activations."""
    model = networks.Tokens().eval()
    found = explain(model, images(2, 32), TARGETS, layer="encoder.layers.0", method=method)
    assert found.maps.shape == (2, 2, 4, 4)
    assert found.maps.flatten(2).any(dim=2).all()


def test_no_place_alone_is_measured_against_none() -> None:
    """Where the score is the sum of the activations, a place reaches what its bell lets in."""
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 1, 1] = 16.0
    found = explain(
        networks.TwoChannels(), maps, ClassLogit(0), layer="layer", method="reciprocam"
    ).maps[0, 0]
    expected = torch.zeros(4, 4)
    expected[:3, :3] = 2 * torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(found, expected)


# Randomness


@pytest.mark.parametrize("method", [SSCAM, RISE])
def test_random_methods_repeat_themselves_and_leave_the_global_generator_alone(
    method: Callable[..., Perturbation],
) -> None:
    model, signal = model_and_signal()
    count = {"samples": 3} if method is SSCAM else {"masks": 10}
    state = torch.get_rng_state()
    first, second, other = (
        explain(model, signal, TARGETS, layer="second", method=method(seed=seed, **count)).maps
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)


def test_no_noise_is_score_cam() -> None:
    model, signal = model_and_signal()
    smooth, integrated, plain = (
        explain(model, signal, TARGETS, layer="second", method=method).maps
        for method in (SSCAM(samples=2, std=0.0), ISCAM(steps=1), ScoreCAM())
    )
    torch.testing.assert_close(smooth, plain)
    torch.testing.assert_close(integrated, plain)


# Precision and device


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.half])
@EACH
def test_the_model_gets_what_it_computes_in(method: Perturbation, dtype: torch.dtype) -> None:
    model, signal = model_and_signal()
    expected = explain(model, signal, TARGETS, layer="second", method=method).maps
    model, seen = model.to(dtype), set[torch.dtype]()
    for module in (model.first, model.second, model.head):
        module.register_forward_pre_hook(lambda _, args: seen.add(args[0].dtype))
    found = explain(model, signal.to(dtype), TARGETS, layer="second", method=method)
    assert seen == {dtype}
    assert found.maps.dtype == torch.float32
    near = 1e-6 if dtype == torch.float64 else 0.1
    rounding = 4 * torch.finfo(dtype).eps * found.scores.abs().max().item()
    atol = near * expected.abs().max().item() + rounding
    torch.testing.assert_close(found.maps, expected, rtol=near, atol=atol)


@EACH
def test_sums_are_not_taken_in_the_precision_of_autocast(method: Perturbation) -> None:
    """The network itself has nothing that autocast changes."""
    model, maps = networks.TwoChannels(), torch.randn(2, 2, 6, 5)
    expected = explain(model, maps, ClassLogit(0), layer="layer", method=method).maps
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(model, maps, ClassLogit(0), layer="layer", method=method).maps
    torch.testing.assert_close(found, expected)


def test_a_model_may_run_under_autocast() -> None:
    model, signal = model_and_signal()
    model, signal = model.float(), signal.float()
    expected = explain(model, signal, TARGETS, layer="second", method="ablationcam").maps
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(model, signal, TARGETS, layer="second", method="ablationcam").maps
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EACH
def test_maps_stay_on_the_device_of_the_model(method: Perturbation) -> None:
    model, signal = model_and_signal()
    expected = explain(model, signal, TARGETS, layer="second", method=method).maps
    found = explain(model.cuda(), signal.cuda(), TARGETS, layer="second", method=method).maps
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6)


@EACH
def test_an_outer_inference_mode_changes_nothing(method: Perturbation) -> None:
    model, signal = model_and_signal()
    expected = explain(model, signal, TARGETS, layer="second", method=method).maps
    with torch.inference_mode():
        made_inside = signal.clone()
        found = explain(model, made_inside, TARGETS, layer="second", method=method).maps
    torch.testing.assert_close(found.clone(), expected)


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AblationCAM(chunk=0), "chunk=0: give 1 or more"),
        (lambda: Occlusion(chunk=-3), "chunk=-3: give 1 or more"),
        (lambda: SSCAM(samples=0), "samples=0: give 1 or more"),
        (lambda: SSCAM(std=-1.0), "std=-1.0: give 0 or more, in units of a mask"),
        (lambda: SSCAM(std=float("nan")), "std=nan: give 0 or more"),
        (lambda: ISCAM(steps=0), "steps=0: give 1 or more"),
        (lambda: RISE(masks=1), "masks=1: give 2 or more; 1000 is common"),
        (lambda: RISE(cells=0), "cells=0: give 1 or more"),
        (lambda: RISE(keep=0.0), "keep=0.0: give a probability between 0 and 1, such as 0.5"),
        (lambda: RISE(keep=1.0), "keep=1.0: give a probability between 0 and 1"),
        (lambda: RISE(chunk=0), "chunk=0: give 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 7}, r"a window of 7 does not fit an image of \(6, 8\) pixels; choose 1 to 6"),
        ({"window": 0}, "a window of 0 does not fit an image"),
        ({"window": 3, "stride": 4}, "stride of 4, windows of 3 leave gaps; choose 1 to 3"),
        ({"window": 3, "stride": 0}, "stride of 0, windows of 3 leave gaps; choose 1 to 3"),
    ],
)
def test_squares_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    model, signal = model_and_signal((6, 8))
    with pytest.raises(InputError, match=message):
        explain(model, signal, TARGETS, method=Occlusion(**settings))


@pytest.mark.parametrize("method", METHODS_HERE, ids=lambda method: type(method).__name__)
def test_an_empty_batch_is_refused(method: Perturbation) -> None:
    model, signal = model_and_signal()
    with pytest.raises(InputError, match="the batch is empty: there is nothing to explain"):
        explain(model, signal[:0], TARGETS, layer="second", method=method)


@EACH
def test_maps_cannot_be_trained_with(method: Perturbation) -> None:
    model, signal = model_and_signal()
    name = type(method).__name__
    with pytest.raises(
        InputError, match=f"method '{name}' takes no gradients, .* such as 'gradcam'"
    ):
        explain(model, signal, TARGETS, layer="second", method=method, create_graph=True)


@pytest.mark.parametrize("method", ["scorecam", "occlusion", "rise"])
def test_inputs_without_an_image_are_refused(method: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 2, 2)), nn.Flatten())
    with pytest.raises(InputError, match="no image is among the inputs, and this method changes"):
        explain(model, torch.randn(2, 4), ClassLogit(0), layer="1", method=method)


@pytest.mark.parametrize("method", ["scorecam", "occlusion", "rise"])
def test_an_image_of_bytes_is_refused(method: str) -> None:
    class Bytes(networks.ConvNet):
        def forward(self, signal: Tensor) -> Tensor:
            return super().forward(signal.float())

    signal = torch.ones(2, 2, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"the image is of torch.uint8, .* convert it before"):
        explain(Bytes(), signal, ClassLogit(0), layer="second", method=method)


def test_a_feature_map_of_other_dimensions_does_not_lie_on_the_image() -> None:
    class OverTime(nn.Module):
        """A picture of sound whose places are moments."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(6, 4, 3)
            self.head = nn.Linear(4, 3)

        def forward(self, pictures: Tensor) -> Tensor:
            logits: Tensor = self.head(self.conv(pictures.flatten(1, 2)).tanh().mean(dim=2))
            return logits

    layer = Layer("conv", reshape=lambda maps: maps)
    model, pictures = OverTime(), torch.randn(2, 2, 3, 9)
    with pytest.raises(InputError, match=r"feature map \(2, 4, 7\) does not lie on the image"):
        explain(model, pictures, TARGETS, layer=layer, method="scorecam")
    assert explain(model, pictures, TARGETS, layer=layer, method="ablationcam").maps.any()


def test_a_method_that_asks_for_a_map_needs_to_say_so() -> None:
    class Forgetful(AblationCAM):
        needs_layer = False

    model, signal = model_and_signal()
    with pytest.raises(InputError, match="asks for a feature map; set needs_layer = True"):
        explain(model, signal, TARGETS, layer="second", method=Forgetful())


def test_all_methods_are_known_by_name() -> None:
    kinds = {type(method) for method in METHODS.values() if isinstance(method, Perturbation)}
    assert kinds == {type(method) for method in METHODS_HERE}


def test_progress_is_shown_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    model, signal = model_and_signal()
    shown = explain(model, signal, TARGETS, layer="second", method=AblationCAM(progress="cat.jpg"))
    silent = explain(model, signal, TARGETS, layer="second", method=AblationCAM())
    assert torch.equal(shown.maps, silent.maps)
    assert capsys.readouterr() == ("", "")
