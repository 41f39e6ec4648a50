"""Equality with Captum, on the architectures that people use and on nasty small ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import networks
import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn

from multicam import (
    ClassLogit,
    CrossCheck,
    Difference,
    InputError,
    Layer,
    LayerError,
    crosscheck,
    explain,
    feature_maps,
)
from multicam.crosscheck import COMPARABLE
from multicam.methods import Method
from multicam.smoothing import Smoothed
from multicam.targets import Target
from multicam.weighting import hires_cam

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": zoo.resnet50,
    "vgg16": zoo.vgg16,
    "densenet121": zoo.densenet121,
    "mobilenet_v3": zoo.mobilenet_v3_large,
    "efficientnet_b0": zoo.efficientnet_b0,
    "convnext_t": zoo.convnext_tiny,
    "vit_b_16": lambda: zoo.vit_b_16(image_size=64),
    "swin_t": zoo.swin_t,
}

LAYERS = {
    "resnet50": ["layer1.0.bn1", "layer3.5", "layer4"],
    "vgg16": ["features.0", "features.14", "features.28"],
    "densenet121": ["features.denseblock2.denselayer3.norm1", "features.transition2", "features"],
    "mobilenet_v3": ["features.0.1", "features.10", "features.16"],
    "efficientnet_b0": ["features.2", "features.5.0.block.1", "features.8"],
    "convnext_t": ["features.1", "features.5.2.block.0", "features.7"],
    "vit_b_16": [
        "conv_proj",
        "encoder.layers.encoder_layer_4",
        "encoder.layers.encoder_layer_11.ln_1",
    ],
    "swin_t": ["features.1.1", "features.3.0.norm1", "norm"],
}


@lru_cache(maxsize=1)  # the big ones do not fit side by side
def model_named(name: str) -> nn.Module:
    model = MODELS[name]().eval()
    for module in model.modules():  # torchvision starts some heads at zero
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model


@pytest.mark.parametrize(
    ("name", "layer"), [(name, layer) for name in LAYERS for layer in LAYERS[name]]
)
def test_equal_to_captum_on_a_known_architecture(name: str, layer: str) -> None:
    check = crosscheck(model_named(name), networks.images(size=64), ClassLogit(281), layer=layer)
    assert check.captum.flatten(2).any(dim=2).all()
    assert check.max_rel < 1e-5
    assert check.correlation > 0.99999


@pytest.mark.parametrize("make", [networks.hugging_face_resnet, networks.hugging_face_vit])
def test_equal_to_captum_on_hugging_face_models(make: Callable[[], nn.Module]) -> None:
    model, inputs = make(), {"pixel_values": networks.images(size=64)}
    names = [found.name for found in feature_maps(model, inputs) if found.candidate]
    for name in names[:: len(names) // 6]:
        check = crosscheck(model, inputs, [ClassLogit(1), ClassLogit([0, 2])], layer=name)
        assert check.max_rel < 1e-5, name


def test_equal_to_captum_on_a_layer_that_gives_a_model_output() -> None:
    model, inputs = networks.hugging_face_resnet(), {"pixel_values": networks.images(size=64)}
    check = crosscheck(model, inputs, ClassLogit(1), layer="resnet.encoder")
    assert check.ours.any()
    assert check.max_rel < 1e-5


class TupleLayer(nn.Module):
    def forward(self, maps: Tensor) -> tuple[None, Tensor, Tensor]:
        return None, maps * 2, maps.exp()


class AfterTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pair = TupleLayer()

    def forward(self, images: Tensor) -> Tensor:
        _, doubled, other = self.pair(self.conv(images))
        product: Tensor = (doubled.tanh() * other).mean(dim=(2, 3))
        return product


@pytest.mark.parametrize("method", COMPARABLE)
@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (networks.Inplace(), ["stem", "conv", "norm", "relu"]),
        (networks.ConvRecurrent(), ["conv.0", "conv.1", "conv", "deep"]),
        (networks.ConvRecurrent(nn.GRU), ["conv.0", "conv", "deep"]),
        (networks.Tokens(pooled=True), ["patches", "encoder.layers.0", "encoder"]),
        (networks.Tokens(), ["encoder.layers.0.self_attn", "encoder.layers.1.norm1"]),
        (AfterTuple(), ["conv", "pair"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_equal_to_captum_on_a_nasty_network(
    model: nn.Module, layers: list[str], method: str
) -> None:
    targets: list[Target] = [ClassLogit(0), Difference(ClassLogit([1, 2]), ClassLogit(3))]
    targets = targets[: 1 if isinstance(model, AfterTuple) else 2]
    for layer in layers:
        check = crosscheck(model.eval(), networks.images(), targets, layer=layer, method=method)
        assert check.ours.shape == check.captum.shape
        assert check.max_rel < 1e-5, layer


def test_the_layer_is_found_as_by_explain() -> None:
    check = crosscheck(networks.Inplace().eval(), networks.images())
    assert check.layer == "relu"
    assert check.labels[0][0].startswith("class ")


def test_the_maps_of_a_method_given_as_a_function_are_those_of_its_name() -> None:
    model, images = networks.Inplace().eval(), networks.images()
    check = crosscheck(model, images, ClassLogit(1), layer="conv", method=hires_cam)
    expected = explain(model, images, ClassLogit(1), layer="conv", method="hirescam")
    assert torch.equal(check.ours, expected.maps)
    assert check.max_rel < 1e-5


@pytest.mark.parametrize(
    ("method", "name"), [("layercam", "layercam"), (Smoothed("gradcam"), "Smoothed")]
)
def test_a_method_that_captum_does_not_have_is_refused(method: str | Method, name: str) -> None:
    with pytest.raises(InputError, match=f"no method '{name}' to compare.*gradcam and hirescam"):
        crosscheck(networks.Inplace().eval(), networks.images(), layer="conv", method=method)


def test_a_wrong_layer_is_refused_as_by_explain() -> None:
    with pytest.raises(LayerError, match="no layer is called 'cnov'"):
        crosscheck(networks.Inplace().eval(), networks.images(), layer="cnov")


def test_another_reading_of_the_layer_is_checked_too() -> None:
    def turned(maps: Tensor) -> Tensor:
        return maps.transpose(2, 3)

    model, images = networks.Inplace().eval(), networks.images()
    plain = crosscheck(model, images, ClassLogit(1), layer="conv")
    found = crosscheck(model, images, ClassLogit(1), layer=Layer("conv", reshape=turned))
    torch.testing.assert_close(found.captum, plain.captum.transpose(2, 3))
    assert found.max_rel < 1e-5


def checked(ours: Any, captum: Any) -> CrossCheck:
    shape = (1, -1, 1, 2)
    return CrossCheck(
        torch.tensor(ours).reshape(shape), torch.tensor(captum).reshape(shape), (("",),), "layer"
    )


def test_differences_are_measured_per_map() -> None:
    check = checked([[1.0, 2.0], [0.0, 0.5]], [[1.0, 2.5], [0.0, 1.0]])
    assert check.max_abs == 0.5
    assert check.max_rel == 0.5
    assert check.correlation == pytest.approx(1.0)


def test_a_map_of_zeros_against_zeros_is_equal_and_has_no_correlation() -> None:
    check = checked([[0.0, 0.0]], [[0.0, 0.0]])
    assert check.max_rel == 0
    assert check.correlation != check.correlation


def test_the_lowest_correlation_counts() -> None:
    check = checked([[1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]])
    assert check.correlation == pytest.approx(-1.0)
