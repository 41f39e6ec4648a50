"""Guided backpropagation, the deconvnet and Guided Grad-CAM."""

from __future__ import annotations

import math
import warnings
from collections import UserDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast

import networks
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from multicam import ClassLogit, InputError, LayerError, TargetError, UnreachedError, explain
from multicam.guided import InputGradients, deconvnet, guided_backprop, guided_grad_cam

Function = Callable[..., InputGradients]

TARGETS = [ClassLogit(index) for index in range(3)]
RULES = pytest.mark.parametrize("function", [guided_backprop, deconvnet])
ALL = pytest.mark.parametrize("function", [guided_backprop, deconvnet, guided_grad_cam])
HOOKS = [name for name in vars(nn.Module()) if "hook" in name]


class Plain(nn.Module):
    """Two convolutions, each with an activation behind it, and a classifier of 5."""

    def __init__(self, activation: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 8, 3)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 5)
        self.one = activation or nn.ReLU()
        self.other = activation or nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.other(self.second(self.pool(self.one(self.first(images)))))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


class Residual(nn.Module):
    """A block around which a shortcut leads, with batch norm, and three ReLUs."""

    def __init__(self, relus: list[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relus = nn.ModuleList(relus)
        self.head = nn.Linear(6, 5)
        self.fails = False

    def forward(self, images: Tensor) -> Tensor:
        shortcut = self.relus[0](self.stem(images))
        maps = self.norm(self.conv(self.relus[1](self.norm(self.conv(shortcut)))))
        maps = self.relus[2](maps + shortcut)
        if self.fails:
            raise ArithmeticError("the model itself failed")
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


def residual(inplace: bool = False) -> Residual:
    """With a single ReLU module that runs three times."""
    return Residual([nn.ReLU(inplace)] * 3)


def like(model: nn.Module, other: nn.Module) -> nn.Module:
    """The other network, with the same weights."""
    other.load_state_dict(model.state_dict())
    return other


def total(output: Tensor) -> Tensor:
    return output.flatten(1).sum(dim=1)


def values(function: Function, forward: Callable[[Tensor], Tensor], *signal: float) -> list[float]:
    """Of a function of some numbers."""
    found = function(
        nn.Identity(), torch.tensor([[signal]], dtype=torch.float32), total, forward=forward
    )
    return [float(value) for value in found.values.flatten()]


# The definitions


@pytest.mark.parametrize(
    ("function", "expected"),
    [(guided_backprop, [[0, 5], [0, 0]]), (deconvnet, [[5, 5], [0, 0]])],
)
def test_golden_values_of_one_relu(function: Function, expected: list[list[float]]) -> None:
    """Inputs -1 and 2, both with the weight 5 behind the ReLU, then with -3."""
    targets = [lambda output: 5 * total(output), lambda output: -3 * total(output)]
    found = function(nn.ReLU(), torch.tensor([[[-1.0, 2.0]]]), targets)
    assert found.values[0, :, 0].tolist() == expected
    assert found.scores.tolist() == [[10.0, -6.0]]


def gelu_slope(x: float) -> float:
    """Negative below -0.75."""
    share = (1 + math.erf(x / math.sqrt(2))) / 2
    return share + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


SLOPES: dict[Callable[[Tensor], Tensor], Callable[[float], float]] = {
    F.relu: lambda x: float(x > 0),
    F.relu6: lambda x: float(0 < x < 6),
    F.leaky_relu: lambda x: 1.0 if x > 0 else 0.01,
    F.gelu: gelu_slope,
}


class Layers(nn.Module):
    """Linear, activation, linear, activation, linear."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 9), nn.Linear(9, 7), nn.Linear(7, 3)
        self.activation = activation

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.activation(self.first(images.flatten(1)))
        logits: Tensor = self.third(self.activation(self.second(hidden)))
        return logits

    def back(self, image: Tensor, index: int, slope: Callable[[float], float]) -> list[float]:
        """From one logit down to the image, in plain loops."""
        first = self.first(image.flatten())
        second = self.second(self.activation(first))
        signal = self.third.weight[index].tolist()
        for inputs, layer in ((second, self.second), (first, self.first)):
            passed = [
                max(slope(x), 0.0) * max(above, 0.0)
                for x, above in zip(inputs.tolist(), signal, strict=True)
            ]
            signal = [
                math.fsum(weight * value for weight, value in zip(column, passed, strict=True))
                for column in layer.weight.t().tolist()
            ]
        return signal


@RULES
@pytest.mark.parametrize("activation", SLOPES)
def test_two_layers_agree_with_plain_loops_in_double_precision(
    function: Function, activation: Callable[[Tensor], Tensor]
) -> None:
    """The deconvnet takes no heed of the slope."""
    model = Layers(activation).double()
    images = 5 * torch.randn(2, 3, 2, 2, dtype=torch.float64)
    found = function(model, images, TARGETS)
    slope = SLOPES[activation] if function is guided_backprop else lambda x: 1.0
    for sample, target in np.ndindex(2, 3):
        expected = model.back(images[sample], target, slope)
        ours = found.values[sample, target].flatten().tolist()
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def captum(name: str, *model: nn.Module, images: Tensor, **options: Any) -> Tensor:
    """Captum's values of three targets."""
    import captum.attr

    method = getattr(captum.attr, name)(*model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")
        found = [
            method.attribute(images.clone().requires_grad_(), index, **options)
            for index in range(3)
        ]
    return torch.stack(found, dim=1).detach()


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal, relative to the largest value of each sample and target, which is not 0."""
    peaks = expected.flatten(2).abs().amax(dim=2)
    assert peaks.all()
    assert ((found - expected).flatten(2).abs().amax(dim=2) / peaks).max() < 1e-5


@pytest.mark.parametrize(
    ("function", "name"), [(guided_backprop, "GuidedBackprop"), (deconvnet, "Deconvolution")]
)
def test_equal_to_captum(function: Function, name: str) -> None:
    model, images = Plain(), networks.images(4)
    found = function(model, images, TARGETS)
    assert_same(found.values, captum(name, model, images=images))
    torch.testing.assert_close(found.scores, model(images)[:, :3].detach())
    assert found.labels == (("class 0", "class 1", "class 2"),) * 4


@pytest.mark.parametrize("layer", ["first", "second"])
def test_guided_grad_cam_is_equal_to_captum(layer: str) -> None:
    model, images = Plain(), networks.images(4)
    options: dict[str, Any] = {"images": images, "interpolate_mode": "bilinear"}
    expected = captum("GuidedGradCam", model, model.get_submodule(layer), **options)
    found = guided_grad_cam(model, images, TARGETS, layer=layer)
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-8)
    assert expected.flatten(2).any(dim=2).sum() > 6  # the map of some has no positive value
    assert (found.method, found.layer) == ("guidedgradcam", layer)


def test_guided_grad_cam_takes_any_method_and_several_layers() -> None:
    def energy(activations: Tensor, gradients: Tensor) -> Tensor:
        return activations.square().sum(dim=1)

    model, images = Plain(), networks.images(2)
    options: dict[str, Any] = {"layer": ["first", "second"], "method": energy}
    found = guided_grad_cam(model, images, **options)
    heat = F.interpolate(explain(model, images, **options).maps, (16, 16), mode="bilinear")
    torch.testing.assert_close(
        found.values, guided_backprop(model, images).values * heat.unsqueeze(2)
    )
    assert (found.method, found.layer) == ("guidedenergy", "first + second")


# The spellings of an activation

SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.relu": torch.relu,
    "F.relu": F.relu,
    "F.relu, by keyword": lambda x: F.relu(input=x, inplace=False),
    "Tensor.relu": lambda x: x.relu(),
    "aten": torch.ops.aten.relu.default,
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "clamped from above, far away": lambda x: F.hardtanh(x, min_val=0.0, max_val=99.0),
    "torch.relu_": torch.relu_,
    "Tensor.relu_": lambda x: x.relu_(),
    "F.relu_": F.relu_,
    "F.relu, in place": lambda x: F.relu(x, inplace=True),
    "nn.ReLU, in place": nn.ReLU(inplace=True),
    "in place, part by part": lambda x: torch.cat([x[:, :2].relu_(), x[:, 2:].relu_()], dim=1),
    "in place, the result unused": lambda x: (x.relu_(), x)[1],
    "changed in place afterwards": lambda x: F.relu(x).mul_(2).mul_(0.5),
}


@RULES
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_is_found(spelling: str, function: Function) -> None:
    model, images = Plain(), networks.images(2)
    expected = function(model, images, TARGETS)
    found = function(like(model, Plain(SPELLINGS[spelling])), images, TARGETS)
    assert_same(found.values, expected.values)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize("relu6", [nn.ReLU6(), nn.ReLU6(inplace=True), F.relu6])
def test_relu6_stops_above_its_maximum_and_the_deconvnet_does_not(
    relu6: Callable[[Tensor], Tensor],
) -> None:
    def forward(signal: Tensor) -> Tensor:
        return relu6(signal * 1)

    assert values(guided_backprop, forward, -1, 1, 7) == [0, 1, 0]
    assert values(deconvnet, forward, -1, 1, 7) == [1, 1, 1]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("function", "name"), [(guided_backprop, "GuidedBackprop"), (deconvnet, "Deconvolution")]
)
def test_one_relu_module_that_runs_three_times_in_a_residual_block(
    function: Function, name: str, inplace: bool
) -> None:
    model, images = residual(inplace).eval(), networks.images(2)
    apart = like(model, Residual([nn.ReLU() for _ in range(3)])).eval()
    expected = captum(name, apart, images=images)
    assert_same(function(model, images, TARGETS).values, expected)


@pytest.mark.parametrize("gate", [torch.sigmoid, torch.tanh, F.hardtanh, F.hardsigmoid])
def test_gates_keep_their_own_gradient(gate: Callable[[Tensor], Tensor]) -> None:
    signal = torch.tensor(-0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(gate(signal), signal)
    assert slope > 0
    found = values(guided_backprop, lambda x: x.relu() - gate(x), -0.5)
    assert found == pytest.approx([-slope.item()])


@pytest.mark.parametrize(
    "activation",
    [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.SiLU(True), nn.Hardswish(True), nn.Mish()],
)
def test_nothing_passes_where_a_smooth_activation_falls(activation: nn.Module) -> None:
    found = values(guided_backprop, lambda x: activation(x * 1), -2.5, 3.5)
    assert found == pytest.approx([0, 1], abs=0.1)
    assert found[0] == 0


# What is refused


@pytest.mark.parametrize("model", [nn.Tanh(), nn.Sigmoid(), nn.Hardtanh()])
def test_a_model_without_activations_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="no activation such as ReLU or GELU runs"):
        guided_backprop(model, torch.ones(1, 2, 3), total)


def test_an_activation_beside_the_image_does_not_count() -> None:
    def forward(signal: Tensor) -> Tensor:
        return signal * torch.ones(3).relu()

    with pytest.raises(InputError, match="would be the plain gradient"):
        guided_backprop(nn.Identity(), torch.ones(1, 2, 3), total, forward=forward)


@ALL
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_module_is_refused_by_name(function: Function) -> None:
    model = Plain(torch.jit.script(nn.ReLU()))
    with pytest.raises(InputError, match=r"module 'one' is compiled by torch\.jit, which hides"):
        function(model, networks.images())
    with pytest.raises(InputError, match=r"^the model is compiled by torch\.jit"):
        function(torch.jit.script(nn.ReLU()), networks.images())


def test_a_recurrent_layer_of_relus_is_refused() -> None:
    model = nn.Sequential(nn.ReLU(), nn.RNN(4, 3, nonlinearity="relu", batch_first=True))
    with pytest.raises(InputError, match="rnn_relu runs the ReLUs of a recurrent layer inside"):
        guided_backprop(model, torch.ones(1, 2, 4), lambda output: total(output[0]))


def test_a_checkpoint_raises_rather_than_to_run_its_activations_again_by_another_rule() -> None:
    part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())

    def forward(images: Tensor) -> Any:
        return checkpoint(part, images, use_reentrant=False)

    with pytest.raises(CheckpointError):
        guided_backprop(part, networks.images(), total, forward=forward)


@pytest.mark.parametrize("inputs", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3)])
def test_inputs_without_an_image_are_refused(inputs: Tensor) -> None:
    with pytest.raises(InputError, match=r"no input is an image .*floating-point.*\[Plain, inputs"):
        guided_backprop(Plain(), inputs)


@ALL
def test_an_empty_batch_is_refused(function: Function) -> None:
    with pytest.raises(InputError, match="the batch is empty"):
        function(Plain(), networks.images(0))


@ALL
def test_a_score_that_does_not_depend_on_the_image_is_refused(function: Function) -> None:
    with pytest.raises(UnreachedError, match=r"'your function' does not depend on the image"):
        function(Plain(), networks.images(), lambda output: output.detach().sum(dim=1))


def test_a_target_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(TargetError, match=r"needed is one score per sample, \(2,\)"):
        guided_backprop(Plain(), networks.images(2), lambda output: output)


def test_a_map_that_does_not_lie_on_the_image_is_refused() -> None:
    model = Plain()

    def mean_over_time(video: Tensor) -> Any:
        return model(video.mean(dim=2))

    video = torch.randn(2, 3, 4, 16, 16)
    assert guided_backprop(model, video, forward=mean_over_time).values.shape[2:] == video.shape[1:]
    with pytest.raises(InputError, match=r"a map over \(5, 5\) places does not lie on an image"):
        guided_grad_cam(model, video, layer="second", forward=mean_over_time)


def test_guided_grad_cam_refuses_an_unknown_layer() -> None:
    with pytest.raises(LayerError, match="no layer is called 'third'"):
        guided_grad_cam(Plain(), networks.images(), layer="third")


# What stays as it was


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that might change."""
    modules = {
        name: (module.training, type(module), [list(getattr(module, hook) or ()) for hook in HOOKS])
        for name, module in model.named_modules()
    }
    tensors = {
        name: (id(one), one.tolist(), one._version, one.requires_grad, one.grad is None)
        for name, one in [*model.named_parameters(), *model.named_buffers()]
    }
    switches = (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch._C._len_torch_function_stack(),
    )
    return {"modules": modules, "tensors": tensors, "torch": switches}


def raising(output: Tensor) -> Tensor:
    raise ArithmeticError("the target itself failed")


@ALL
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ending", ["success", "model raises", "target raises", "refused target"])
def test_the_model_comes_back_as_found(function: Function, training: bool, ending: str) -> None:
    model = residual(inplace=True).train(training)
    model.stem.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.relus[0].register_forward_hook(lambda *_: None)
    model.fails = ending == "model raises"
    target = {"target raises": raising, "refused target": lambda output: output}.get(ending)
    before = state(model)
    with suppress(ArithmeticError, TargetError):
        function(model, networks.images(), target)
    assert state(model) == before
    assert model.head.weight.grad.eq(1).all()


@ALL
@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode])
def test_frozen_models_and_outer_modes_make_no_difference(
    function: Function, outer: Callable[[], Any]
) -> None:
    model = residual().eval()
    expected = function(model, networks.images()).values
    model.requires_grad_(False)
    with outer():
        assert torch.equal(function(model, networks.images()).values, expected)


@ALL
def test_an_image_that_is_part_of_a_graph_is_detached(function: Function) -> None:
    images = networks.images().requires_grad_()
    shifted = images + 0
    shifted.retain_grad()
    values = function(Plain(), shifted).values
    assert not values.requires_grad
    assert images.grad is None
    assert shifted.grad is None
    torch.autograd.backward(shifted.sum())  # the graph is still there


def test_an_image_that_the_model_changes_in_place_stays_as_it_is() -> None:
    images = networks.images()
    before = images.clone()
    found = guided_backprop(nn.ReLU(inplace=True), images, total)
    assert torch.equal(found.values[:, 0], (before > 0).float())
    assert torch.equal(images, before)


def test_other_threads_are_not_affected() -> None:
    """In the middle of the forward pass, another thread takes its plain gradient."""
    model, images = Plain(), networks.images()

    def plain_gradient() -> Tensor:
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)[0]

    found: list[Tensor] = []
    expected = plain_gradient()
    with ThreadPoolExecutor() as pool:

        def forward(given: Tensor) -> Any:
            found.append(pool.submit(plain_gradient).result())
            return model(given)

        guided = guided_backprop(model, images, ClassLogit(0), forward=forward)
    assert torch.equal(found[0], expected)
    assert not torch.allclose(guided.values[:, 0], expected)


def test_threads_that_guide_the_same_model_do_not_mix() -> None:
    model, batches = residual().eval(), [networks.images(seed=seed) for seed in range(6)]
    functions = [guided_backprop, deconvnet, guided_grad_cam] * 2

    def run(function: Function, images: Tensor) -> Tensor:
        return function(model, images, TARGETS).values

    expected = list(map(run, functions, batches))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(run, functions, batches))
    assert all(map(torch.equal, found, expected))


# Inputs and targets of all kinds


@RULES
def test_one_forward_pass_serves_all_targets(function: Function) -> None:
    model, passes = Plain(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    found = function(model, networks.images(4), TARGETS)
    assert found.values.shape == (4, 3, 3, 16, 16)
    assert len(passes) == 1


@ALL
def test_no_target_is_the_predicted_class(function: Function) -> None:
    model, images = Plain(), networks.images(3)
    predicted = model(images).argmax(dim=1)
    found, expected = function(model, images), function(model, images, ClassLogit(predicted))
    assert torch.equal(found.values, expected.values)
    assert found.labels == tuple((f"class {index}",) for index in predicted)


def test_the_map_is_of_the_class_that_the_guided_pass_predicted() -> None:
    """The model prefers another class at each pass, as with dropout."""
    model, images, calls = Plain(), networks.images(2), []

    def fickle(given: Tensor) -> Any:
        calls.append(1)
        return model(given) + 100 * F.one_hot(torch.tensor(len(calls)), 5)

    def strength(activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.abs().sum(dim=1)

    options: dict[str, Any] = {"layer": "second", "method": strength}
    found = guided_grad_cam(model, images, forward=fickle, **options)
    expected = guided_grad_cam(model, images, ClassLogit(1), **options)
    assert found.labels == (("class 1",), ("class 1",))
    assert found.values.any()
    torch.testing.assert_close(found.values, expected.values)


@ALL
@pytest.mark.parametrize("kind", [dict, UserDict])
def test_the_image_is_found_among_several_inputs(
    function: Function, kind: Callable[..., Any]
) -> None:
    model, pixels, tokens = networks.Asked(), networks.images(), torch.tensor([[1, 2], [3, 4]])
    found = function(model, kind(pixel_values=pixels, input_ids=tokens), TARGETS)
    assert found.values.shape == (2, 3, 3, 16, 16)
    assert found.values.any()
    assert torch.equal(function(model, (pixels, tokens), TARGETS).values, found.values)


@ALL
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_images_of_any_dimension(function: Function, dims: int) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    model = nn.Sequential(conv(2, 4, 3, stride=2), nn.ReLU(), conv(4, 4, 3))
    signal = torch.randn(2, 2, *[11, 9, 8][:dims])
    found = function(model, signal, lambda output: total(output.square()))
    assert found.values.shape == (2, 1, 2, *signal.shape[2:])
    assert found.values.any()


@RULES
@pytest.mark.parametrize("dtype", [torch.float64, torch.half, torch.bfloat16])
def test_the_values_come_in_single_precision(function: Function, dtype: torch.dtype) -> None:
    model, images = Plain(), networks.images()
    expected = function(model, images).values
    found = function(model.to(dtype), images.to(dtype))
    assert found.values.dtype == torch.float32
    assert found.scores.dtype == dtype
    torch.testing.assert_close(found.values, expected, rtol=0.1, atol=0.1 * expected.max().item())


def test_modules_compiled_by_torch_compile_are_reached() -> None:
    model, images = Plain(), networks.images()
    compiled = cast("nn.Module", torch.compile(model, backend="eager"))
    with torch.no_grad():
        compiled(images)
    found = guided_backprop(compiled, images)
    assert torch.equal(found.values, guided_backprop(model, images).values)


# The picture


def gradients(values: Any) -> InputGradients:
    return InputGradients(
        torch.tensor([[values]], dtype=torch.float32), torch.ones(1, 1), (("cat",),), "deconvnet"
    )


def test_golden_picture_of_three_channels() -> None:
    picture = gradients([[[-2, 0]], [[2, 1]], [[0, -1]]]).image()
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[1, 255, 128], [128, 192, 64]]]


def test_a_picture_of_one_channel_is_grey() -> None:
    assert gradients([[[3, 0, -3]]]).image().tolist() == [[[255] * 3, [128] * 3, [1] * 3]]


def test_a_picture_of_nothing_is_grey() -> None:
    assert gradients([[[0, 0]]]).image().tolist() == [[[128] * 3] * 2]


def test_a_few_extreme_pixels_and_many_zeros_do_not_hide_the_rest_of_a_picture() -> None:
    picture = gradients([[[1000, *[1] * 500, *[0] * 9000]]]).image()
    assert picture[0, [0, 1, -1], 0].tolist() == [255, 255, 128]


def test_a_picture_is_of_the_sample_and_target_that_were_asked_for() -> None:
    found = guided_backprop(Plain(), networks.images(2), TARGETS)
    alone = InputGradients(found.values[1:, 2:], found.scores[1:, 2:], (("x",),), "x")
    assert np.array_equal(found.image(sample=1, target=2), alone.image())
    assert not np.array_equal(found.image(sample=0, target=2), alone.image())


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[[1.0]], [[2.0]]]])
def test_values_that_are_no_picture_are_refused(values: Any) -> None:
    with pytest.raises(InputError, match=r"are no picture; that takes .* 1 or 3 channels"):
        gradients(values).image()


def test_the_text_says_what_it_is() -> None:
    assert repr(gradients([[[1, 2]]])) == (
        "InputGradients(values=(1, 1, 1, 1, 2), labels='cat', method='deconvnet', layer=None)"
    )


# Architectures that people use


class Hooked(nn.Module):
    """An activation, and hooks that leave no negative gradient before or behind it."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, signal: Tensor) -> Tensor:
        before = signal.clone()
        behind = self.activation(before.clone())
        tensors: list[Any] = [before, behind]
        for tensor in tensors:
            tensor.register_hook(lambda gradient: gradient.clamp(min=0))
        return behind


def hooked_gradient(model: nn.Module, images: Tensor, index: int) -> Tensor:
    """With the modules replaced, which ours does without."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.ReLU, nn.GELU)):
                setattr(module, name, Hooked(child))
    if isinstance(model, zoo.DenseNet):  # its last ReLU is a function
        last = [Hooked(F.relu), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        model = nn.Sequential(model.features, *last, model.classifier)
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, index].sum(), leaf)[0]


@pytest.mark.parametrize(
    "make",
    [
        zoo.resnet18,
        lambda: zoo.vgg11(init_weights=False),
        zoo.densenet121,
        lambda: zoo.convnext_tiny(layer_scale=1.0),  # by default its GELUs hardly count
    ],
    ids=["resnet18", "vgg11", "densenet121", "convnext_tiny"],
)
def test_known_architectures_agree_with_hooks_around_their_activations(
    make: Callable[[], nn.Module],
) -> None:
    model, images = make().eval(), networks.images(size=64)
    before = {name: (id(tensor), tensor._version) for name, tensor in model.named_parameters()}
    guided = guided_backprop(model, images, TARGETS)
    both = guided_grad_cam(model, images, TARGETS, method=lambda a, g: g.abs().sum(dim=1))
    assert both.values.shape == (2, 3, 3, 64, 64)
    assert both.values.flatten(2).any(dim=2).all()
    after = {name: (id(tensor), tensor._version) for name, tensor in model.named_parameters()}
    assert after == before
    assert_same(guided.values[:, [1]], hooked_gradient(model, images, 1).unsqueeze(1))
