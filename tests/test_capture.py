from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import networks
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from multicam import (
    ClassLogit,
    Layer,
    LayerError,
    UnreachedError,
    crosscheck,
    explain,
    explain_layers,
)
from multicam.capture import capture, first_tensor


def own_gradient(model: nn.Module, images: Tensor, layer: nn.Module, index: int) -> Tensor:
    """The map from torch alone: everything recorded, no cut."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = layer.register_forward_hook(keep)
    score = model(images)[:, index].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    return (gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).detach()


@pytest.mark.parametrize("layer", ["stem", "conv", "norm", "relu"])
def test_layers_before_and_in_what_changes_in_place(layer: str) -> None:
    model, images = networks.Inplace().eval(), networks.images()
    expected = own_gradient(model, images, model.get_submodule(layer), 2)
    found = explain(model, images, ClassLogit(2), layer=layer)
    torch.testing.assert_close(found.maps[:, 0], expected)


def test_activations_are_those_of_the_moment_even_when_changed_later() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            own = images.clone()
            kept = self.same(own)
            own.mul_(100)
            mean: Tensor = (kept + own).mean(dim=(2, 3))
            return mean

    found = explain(
        Doubling(), networks.images(), layer="same", method=lambda activations, _: activations[:, 0]
    )
    assert torch.equal(found.maps[:, 0], networks.images()[:, 0])


def test_nothing_below_the_layer_is_recorded() -> None:
    model = networks.Inplace().eval()
    with torch.no_grad(), capture({"conv": model.conv}) as activations:
        model(networks.images())
    (found,) = activations["conv"]
    assert found.is_leaf
    assert found.requires_grad


def test_later_layers_are_nodes_behind_the_first() -> None:
    model = networks.Inplace().eval()
    with torch.no_grad(), capture({"conv": model.conv, "norm": model.norm}) as activations:
        model(networks.images())
    assert activations["conv"][0].is_leaf
    assert not activations["norm"][0].is_leaf


def test_frozen_parameters_make_no_difference() -> None:
    model, images = networks.Inplace().eval(), networks.images()
    expected = explain(model, images, layer="conv").maps
    assert torch.equal(explain(model.requires_grad_(False), images, layer="conv").maps, expected)
    assert torch.equal(
        explain(model, images, layer="conv", create_graph=True).maps.detach(), expected
    )


class Frozen(networks.Inplace):
    """Runs its convolutions under a mode of its own, as many captioners do their encoder."""

    def __init__(self, mode: Any) -> None:
        super().__init__()
        self.mode = mode
        self.deeper = nn.Conv2d(8, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        with self.mode():
            maps = self.deeper(self.relu(self.conv(self.stem(images))))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize("layer", ["stem", "conv", "deeper"])
def test_a_model_that_switches_gradients_off_by_itself(layer: str) -> None:
    model = Frozen(torch.no_grad)
    free = Frozen(torch.enable_grad)
    free.load_state_dict(model.state_dict())
    images = networks.images()
    expected = explain(free, images, ClassLogit(0), layer=layer).maps
    assert expected.any()
    assert torch.equal(explain(model, images, ClassLogit(0), layer=layer).maps, expected)
    assert crosscheck(model, images, ClassLogit(0), layer=layer).max_rel < 1e-5


def test_a_model_in_inference_mode_by_itself_is_a_clear_error() -> None:
    with pytest.raises(UnreachedError, match="does not depend on layer 'conv'"):
        explain(Frozen(torch.inference_mode), networks.images(), layer="conv")


class Repeating(nn.Module):
    """Runs the same convolution three times."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(3):
            images = self.step(images).tanh()
        return images.square().mean(dim=(2, 3))


@pytest.mark.parametrize("call", [0, 1, 2, -1])
def test_one_call_of_a_layer_that_runs_more_than_once(call: int) -> None:
    check = crosscheck(
        Repeating(), networks.images(), ClassLogit(1), layer=Layer("step", call=call)
    )
    assert check.ours.any()
    assert check.max_rel < 1e-5


def test_the_calls_of_a_layer_differ_and_are_named() -> None:
    layers = [Layer("step", call=call) for call in (0, 1, -1)]
    found = explain_layers(Repeating(), networks.images(), ClassLogit(1), layers=layers)
    assert [each.layer for each in found] == [
        "step (call 0)",
        "step (call 1)",
        "step (call -1)",
    ]
    assert not torch.equal(found[0].maps, found[1].maps)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("step", r"runs 3 times .* Layer\('step', call=0\) to call=2"),
        (Layer("step", call=3), r"runs 3 times, so it has no call 3"),
        (Layer("step", call=-4), r"runs 3 times, so it has no call -4"),
    ],
)
def test_a_call_that_is_open_or_does_not_exist(layer: str | Layer, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        explain(Repeating(), networks.images(), layer=layer)


def test_several_threads_on_one_model() -> None:
    model = networks.ConvRecurrent().eval()
    batches = [networks.images(seed=seed) for seed in range(16)]
    expected = [explain(model, images, layer="conv").maps for images in batches]
    outputs = [model(images) for images in batches]
    barrier = threading.Barrier(4)

    def work(index: int) -> bool:
        if index < 4:
            barrier.wait()
        images, switched = batches[index], torch.is_grad_enabled()
        if index % 2:
            with torch.no_grad():
                alone = model(images)
            return torch.allclose(alone, outputs[index]) and not alone.requires_grad
        found = explain(model, images, layer="conv").maps
        return torch.equal(found, expected[index]) and torch.is_grad_enabled() is switched

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))


def test_a_forward_pass_of_another_thread_is_left_alone() -> None:
    model, images = networks.Inplace().eval(), networks.images()
    seen: list[Tensor] = []

    def meanwhile(output: Tensor) -> Tensor:
        other = threading.Thread(target=lambda: seen.append(model(images)))
        other.start()
        other.join()
        return output[:, 0]

    with torch.no_grad(), capture({"conv": model.conv}) as activations:
        meanwhile(model(images))
    assert len(activations["conv"]) == 1
    assert torch.equal(seen[0], model(images))


def test_checkpointed_segments_are_run_again_untouched() -> None:
    class Checkpointed(networks.Inplace):
        def forward(self, images: Tensor) -> Tensor:
            stem = self.stem(images)
            maps: Any = checkpoint(lambda x: self.norm(self.conv(x)), stem, use_reentrant=False)
            logits: Tensor = self.head(maps.tanh().mean(dim=(2, 3)))
            return logits

    model = Checkpointed().eval()
    for layer in ("stem", "conv", "norm"):
        expected = own_gradient(model, networks.images(), model.get_submodule(layer), 1)
        found = explain(model, networks.images(), ClassLogit(1), layer=layer).maps[:, 0]
        torch.testing.assert_close(found, expected)


def test_the_first_floating_point_tensor_counts() -> None:
    maps = torch.ones(2)
    assert first_tensor({"ids": torch.arange(3), "maps": (maps, torch.zeros(1))}) is maps
    assert first_tensor([torch.arange(3), "text", None]) is None


def test_a_layer_without_floating_point_output_is_refused() -> None:
    class Ranking(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps.argmax(dim=1)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Ranking())
    with pytest.raises(LayerError, match=r"layer '1' gives no floating-point tensor but Tensor"):
        explain(model, networks.images(), layer="1")
