from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import networks
import pytest
import torch
from torch import Tensor
from transformers import BatchEncoding
from transformers.modeling_outputs import ImageClassifierOutput

from multicam import ClassLogit, TargetError, crosscheck, explain, feature_maps
from multicam.forward import Forward

Pair = namedtuple("Pair", ["logits", "features"])


@dataclass
class Plain:
    features: Tensor
    logits: Tensor


@dataclass
class Slotted:
    __slots__ = ("features", "logits")
    features: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda x: x, None),
        (lambda x: (x,), None),
        (lambda x: (x, None), None),
        (lambda x: (x.exp(), x), 1),
        (lambda x: [x.exp(), x], 1),
        (lambda x: {"logits": x, "other": x.exp()}, None),
        (lambda x: {"a": x.exp(), "b": x}, "b"),
        (lambda x: OrderedDict(scores=x), None),
        (lambda x: ImageClassifierOutput(logits=x), None),
        (lambda x: ImageClassifierOutput(logits=x, hidden_states=(x.exp(),)), None),
        (lambda x: Plain(x.exp(), x), None),
        (lambda x: Slotted(x.exp(), x), None),
        (lambda x: Pair(x, x.exp()), None),
        (lambda x: Pair(x.exp(), x), "features"),
    ],
)
def test_any_output_that_holds_the_scores(wrap: Any, key: str | int | None) -> None:
    network, images = networks.Inplace().eval(), networks.images()
    expected = explain(network, images, ClassLogit(1), layer="conv").maps
    model = networks.Wrapped(network, wrap)
    found = explain(model, images, ClassLogit(1, key=key), layer="network.conv").maps
    assert torch.equal(found, expected)
    assert crosscheck(model, images, ClassLogit(1, key=key), layer="network.conv").max_rel < 1e-5


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda x: (x, x.exp()),
            r"a tuple, has no field 'logits' but 0 \(2, 5\), 1 \(2, 5\); name one .* key=",
        ),
        (lambda x: Plain, r"a type, has no field 'logits' but no tensors"),
    ],
)
def test_an_output_that_leaves_the_scores_open(wrap: Any, message: str) -> None:
    model = networks.Wrapped(networks.Inplace().eval(), wrap)
    with pytest.raises(TargetError, match=message):
        explain(model, networks.images(), layer="network.conv")


def asked() -> tuple[networks.Asked, Tensor, Tensor]:
    return networks.Asked(), networks.images(), torch.tensor([[1, 2, 3], [4, 5, 0]])


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, BatchEncoding])
@pytest.mark.parametrize("layer", ["image.0", "image.2"])
def test_inputs_by_name_with_token_ids(kind: Any, layer: str) -> None:
    model, pixels, ids = asked()
    expected = explain(model, (pixels, ids), ClassLogit(1), layer=layer).maps
    inputs = kind({"pixel_values": pixels, "input_ids": ids})
    assert torch.equal(explain(model, inputs, ClassLogit(1), layer=layer).maps, expected)
    check = crosscheck(model, inputs, [ClassLogit(1), ClassLogit([0, 2])], layer=layer)
    assert check.max_rel < 1e-5


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_inputs_made_in_inference_mode_by_name(kind: Any) -> None:
    model, pixels, ids = asked()
    expected = explain(model, (pixels, ids), layer="image.2").maps
    with torch.inference_mode():
        inputs = kind(pixel_values=pixels.clone(), input_ids=ids.clone())
        assert torch.equal(explain(model, inputs, layer="image.2").maps, expected)
    assert torch.equal(explain(model, inputs, layer="image.2").maps, expected)


def test_another_function_may_be_called_in_place_of_the_model() -> None:
    model, images = networks.ConvNet(), torch.randn(2, 2, 5, 5)
    found = explain(
        model,
        (images,),
        lambda maps: maps[:, 0].mean(dim=(1, 2)),
        layer="first",
        forward=lambda signal: model.second(model.first(signal)),
    )
    assert found.maps.any()
    listed = feature_maps(model, images, forward=model.first)
    assert [each.name for each in listed] == ["first"]


def test_a_list_is_a_single_argument() -> None:
    model = networks.Wrapped(networks.Inplace().eval(), lambda x: x)
    model.network = torch.nn.Sequential(Stack(), model.network)
    assert explain(model, list(networks.images(2)), layer="network.1.conv").maps.shape[0] == 2


class Stack(torch.nn.Module):
    def forward(self, images: list[Tensor]) -> Tensor:
        return torch.stack(images)


def test_the_image_is_the_tensor_of_most_dimensions() -> None:
    ids, pixels = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, 8, 8)
    model = networks.Asked()
    assert Forward(model, {"ids": ids, "pixels": pixels}).signal == (2, 3, 8, 8)
    assert Forward(model, pixels.byte()).signal == (2, 3, 8, 8)
    assert Forward(model, (ids, torch.zeros(2, 5))).signal is None


def test_errors_name_the_model_and_the_inputs() -> None:
    model, pixels, ids = asked()
    with pytest.raises(TargetError, match=r"\[Asked, inputs \(2, 3, 16, 16\), \(2, 3\)\]$"):
        explain(model, (pixels, ids), ClassLogit(9), layer="image.2")


def test_parameters_made_in_inference_mode_are_a_clear_error() -> None:
    from multicam import InputError

    with torch.inference_mode():
        model = networks.Inplace().eval()
    with pytest.raises(InputError, match=r"parameters were made in torch\.inference_mode\(\)"):
        explain(model, networks.images(), layer="conv")
