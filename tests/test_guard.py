"""The model comes back as it was found, whatever happens in between."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import networks
import pytest
import torch
from torch import Tensor, nn

from multicam import ClassLogit, TargetError, crosscheck, explain, feature_maps

HOOKS = [name for name in vars(nn.Module()) if "hook" in name]


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model, and the switches of torch, that an explanation might change."""
    modules = {name: (m.training, m.__call__, hooks(m)) for name, m in model.named_modules()}
    parameters = {
        name: (id(p), p.tolist(), p.requires_grad, None if p.grad is None else p.grad.tolist())
        for name, p in model.named_parameters()
    }
    buffers = {name: (id(b), b.tolist(), b._version) for name, b in model.named_buffers()}
    switches = (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.cudnn.enabled,
        torch.backends.mkldnn.enabled,
        torch._C._get_flash_sdp_enabled(),
    )
    return {"modules": modules, "parameters": parameters, "buffers": buffers, "torch": switches}


def hooks(module: nn.Module) -> list[list[Any]]:
    return [list(getattr(module, name) or ()) for name in HOOKS]


@pytest.fixture(params=["eval", "train"])
def model(request: pytest.FixtureRequest) -> networks.ConvRecurrent:
    """With a frozen parameter, a preset gradient, and a user's own hook."""
    made = networks.ConvRecurrent().train(request.param == "train")
    made.conv[0].weight.requires_grad_(False)
    made.head.weight.grad = torch.ones_like(made.head.weight)
    made.deep.register_forward_hook(lambda *_: None)
    return made


@pytest.fixture(params=["success", "target raises", "model raises", "refused target"])
def target(request: pytest.FixtureRequest, model: networks.ConvRecurrent) -> Any:
    def raising(output: Tensor) -> Tensor:
        raise ArithmeticError("the target itself failed")

    model.fails = request.param == "model raises"
    chosen = {"target raises": raising, "refused target": lambda output: output}
    return chosen.get(request.param, ClassLogit(1))


@pytest.mark.parametrize("layer", ["conv.2", "deep", None])
@pytest.mark.parametrize("function", [explain, crosscheck])
def test_the_model_comes_back_as_found(
    model: networks.ConvRecurrent, target: Any, function: Callable[..., Any], layer: str | None
) -> None:
    before = state(model)
    with suppress(ArithmeticError, TargetError):
        function(model, networks.images(), target, layer=layer)
    assert state(model) == before


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_found_from_a_list_of_its_maps(
    model: networks.ConvRecurrent, fails: bool
) -> None:
    model.fails = fails
    before = state(model)
    with suppress(ArithmeticError):
        feature_maps(model, networks.images())
    assert state(model) == before


def test_the_model_comes_back_as_found_from_a_map_to_train_with(
    model: networks.ConvRecurrent,
) -> None:
    before = state(model)
    explain(model, networks.images(), layer=None, create_graph=True)
    assert state(model) == before


def test_an_exception_of_the_model_passes_through(model: networks.ConvRecurrent) -> None:
    model.fails = True
    with pytest.raises(ArithmeticError, match=r"^the model itself failed$"):
        explain(model, networks.images(), layer="deep")


@pytest.mark.parametrize("vectorize", [False, True])
def test_cudnn_and_onednn_are_back_after_the_recurrent_layer_itself_raises(
    model: networks.ConvRecurrent, vectorize: bool
) -> None:
    model.recurrent = nn.LSTM(99, 6, batch_first=True)
    before = state(model)
    with pytest.raises(RuntimeError, match="99"):
        explain(model, networks.images(), layer="deep", vectorize=vectorize)
    assert state(model) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_outer_mode_stays_and_does_not_matter(mode: Callable[[], Any]) -> None:
    model, images = networks.Inplace().eval(), networks.images()
    expected = explain(model, images, layer="conv").maps
    with mode():
        before = state(model)
        found = explain(model, images.clone(), layer="conv")
        assert state(model) == before
    assert torch.equal(found.maps, expected)


def test_the_running_statistics_of_a_graph_in_flight_stay_usable() -> None:
    """A user's backward pass after an explanation in training mode."""
    model, images = networks.Inplace().train(), networks.images()
    loss = model(images).sum()
    explain(model, images, layer="conv")
    loss.backward()
    assert model.stem.weight.grad is not None


def test_a_buffer_that_the_model_replaces_is_put_back() -> None:
    class Counting(networks.Inplace):
        steps: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            self.steps = self.steps + 1
            return super().forward(images)

    model = Counting().train()
    before = state(model)
    explain(model, networks.images())
    assert state(model) == before


@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_inputs_stay_as_they_are(requires_grad: bool) -> None:
    images = networks.images().requires_grad_(requires_grad)
    before = images.detach().clone()
    explain(networks.Inplace().eval(), images, layer="conv")
    crosscheck(networks.Inplace().eval(), images, layer="conv")
    assert images.requires_grad is requires_grad
    assert images.grad is None
    assert torch.equal(images, before)


def test_nothing_of_the_graph_outlives_the_explanation() -> None:
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    model, images = networks.ConvRecurrent().eval(), networks.images()
    explain(model, images)
    before = tensors()
    for _ in range(3):
        explain(model, images)
    assert tensors() == before


@pytest.fixture
def compiled() -> Iterator[nn.Module]:
    """Compiled by a backend that needs no C++ compiler."""
    torch._dynamo.reset()
    yield cast("nn.Module", torch.compile(networks.Inplace().eval(), backend="eager"))
    torch._dynamo.reset()


def test_a_compiled_model_works_and_is_not_compiled_again(compiled: Any) -> None:
    images = networks.images()
    compiled(images)
    expected = explain(compiled._orig_mod, images, layer="conv").maps
    with torch.compiler.set_stance("fail_on_recompile"):
        for layer in ["_orig_mod.conv", compiled.conv, None]:
            found = explain(compiled, images, layer=layer)
            assert found.maps.shape == expected.shape
        assert torch.equal(explain(compiled, images, layer="_orig_mod.conv").maps, expected)
        compiled(images)
