from __future__ import annotations

from typing import Any

import networks
import pytest
import torch
from torch import Tensor, nn

from multicam import (
    ClassLogit,
    Layer,
    LayerError,
    UnreachedError,
    explain,
    explain_layers,
    feature_maps,
    token_grid,
)
from multicam.errors import nearest


def test_a_layer_by_name_module_and_layer_is_the_same() -> None:
    model, images = networks.Inplace().eval(), networks.images()
    found = [
        explain(model, images, layer=layer)
        for layer in ("conv", model.conv, Layer("conv"), Layer(model.conv))
    ]
    assert {each.layer for each in found} == {"conv"}
    assert all(torch.equal(each.maps, found[0].maps) for each in found)


def test_a_list_of_layers_is_fused_in_the_finest_grid() -> None:
    model = networks.ConvRecurrent().eval()
    found = explain(model, networks.images(), layer=["conv", "deep"])
    assert found.layer == "conv + deep"
    assert found.maps.shape == (2, 1, 8, 8)
    assert found.maps.abs().max() <= 1


def test_layers_kept_apart_equal_those_explained_alone() -> None:
    model, images = networks.ConvRecurrent().eval(), networks.images()
    layers = ["deep", "conv.0", "deep"]
    for name, found in zip(
        layers, explain_layers(model, images, ClassLogit(1), layers=layers), strict=True
    ):
        alone = explain(model, images, ClassLogit(1), layer=name)
        assert found.layer == name
        torch.testing.assert_close(found.maps, alone.maps)


def test_an_unknown_name_lists_the_nearest_with_their_shapes() -> None:
    model = networks.ConvRecurrent().eval()
    message = r"no layer is called 'conv\.3'; feature maps .*'conv\.0' \(2, 8, 8, 8\)"
    with pytest.raises(LayerError, match=message):
        explain(model, networks.images(), layer="conv.3")


def test_a_module_of_another_model_is_refused() -> None:
    with pytest.raises(LayerError, match=r"the given Conv2d is not a part of the model"):
        explain(networks.Inplace(), networks.images(), layer=networks.Inplace().conv)


@pytest.mark.parametrize("layer", [[], ()])
def test_an_empty_list_of_layers_is_refused(layer: Any) -> None:
    with pytest.raises(LayerError, match="the list of layers is empty"):
        explain(networks.Inplace().eval(), networks.images(), layer=layer)


def test_a_layer_without_places_names_those_that_have_some() -> None:
    message = r"layer 'head': its output \(2, 5\) is not spatial; .*'relu' \(2, 8, 16, 16\)"
    with pytest.raises(LayerError, match=message):
        explain(networks.Inplace().eval(), networks.images(), layer="head")


def test_a_layer_that_does_not_run_is_refused() -> None:
    model = networks.Inplace().eval()
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(UnreachedError, match="layer 'spare' does not run in this forward pass"):
        explain(model, networks.images(), layer="spare")


class Branches(nn.Module):
    """Two branches from one stem, one output each; the second runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.early = nn.Conv2d(4, 4, 3)
        self.late = nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.stem(images).tanh()
        return self.early(stem).mean(dim=(2, 3)), self.late(stem).mean(dim=(2, 3))


def test_a_layer_after_or_beside_the_score_is_refused() -> None:
    message = (
        r"'class 1' does not depend on layer 'late': the layer runs after it .* choose an earlier"
    )
    with pytest.raises(UnreachedError, match=message):
        explain(Branches(), networks.images(), ClassLogit(1, key=0), layer="late")


def test_the_last_map_that_the_score_depends_on_is_found() -> None:
    images = networks.images()
    assert explain(Branches(), images, ClassLogit(1, key=0)).layer == "early"
    assert explain(Branches(), images, ClassLogit(1, key=1)).layer == "late"
    both = [ClassLogit(1, key=0), ClassLogit(1, key=1)]
    assert explain(Branches(), images, both).layer == "stem"


def test_a_score_that_depends_on_no_map_is_refused() -> None:
    def detached(output: Any) -> Tensor:
        found: Tensor = output[0][:, 0].detach()
        return found

    with pytest.raises(UnreachedError, match="depends on none of the model's feature maps"):
        explain(Branches(), networks.images(), detached)


def test_a_model_without_maps_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    with pytest.raises(LayerError, match=r"no layer gives a feature map; .* from: none"):
        explain(model, networks.images())


def test_pooling_is_never_chosen() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    assert explain(model, networks.images()).layer == "0.1"


def test_maps_are_listed_in_running_order_with_what_may_be_chosen() -> None:
    listed = feature_maps(networks.ConvRecurrent().eval(), networks.images())
    assert [(each.name, each.kind, each.shape, each.candidate) for each in listed] == [
        ("conv.0", "Conv2d", (2, 8, 8, 8), True),
        ("conv.1", "BatchNorm2d", (2, 8, 8, 8), True),
        ("conv.2", "ReLU", (2, 8, 8, 8), True),
        ("conv", "Sequential", (2, 8, 8, 8), True),
        ("deep", "Conv2d", (2, 8, 4, 4), True),
        ("recurrent", "LSTM", (2, 16, 6), False),
    ]
    assert listed[0].grid == (8, 8)


@pytest.mark.parametrize("size", [32, (48, 80)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_places_of_tokens_come_without_class_and_register_tokens(
    prefix: int, size: int | tuple[int, int]
) -> None:
    model = networks.Tokens(prefix=prefix, pooled=True).eval()
    images = networks.images(size=size)
    rows, columns = (side // 8 for side in images.shape[2:])
    given = explain(
        model,
        images,
        ClassLogit(0),
        layer=Layer("encoder.layers.0", reshape=token_grid(rows, columns, prefix)),
    )
    found = explain(model, images, ClassLogit(0), layer="encoder.layers.0")
    assert found.maps.shape == (2, 1, rows, columns)
    assert torch.equal(found.maps, given.maps)


def test_the_class_token_of_a_vision_transformer_leads_to_the_last_layer_norm() -> None:
    """What comes after its attention reads the class token alone, in which no places are left."""
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(model.get_parameter("heads.head.weight"))
    found = explain(model, networks.images(size=32), ClassLogit(0))
    assert found.layer == "encoder.layers.encoder_layer_2.ln_1"
    assert found.maps.shape == (2, 1, 4, 4)
    assert found.maps.flatten(2).any(dim=2).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_hugging_face_vision_transformer_has_the_same_place(attention: str) -> None:
    model = networks.hugging_face_vit(attention)
    found = explain(model, {"pixel_values": networks.images(size=64)}, ClassLogit(0))
    assert found.layer.endswith("2.layernorm_before")


class Heads(networks.Tokens):
    """Splits its tokens into heads of attention, (batch, head, token, channel), as timm does."""

    def __init__(self) -> None:
        super().__init__(prefix=0)
        self.norm = nn.LayerNorm(16)
        self.query_norm = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patches(images).flatten(2).transpose(1, 2))
        queries = self.query_norm(tokens.unflatten(2, (2, 8)).transpose(1, 2))
        logits: Tensor = self.head(queries.transpose(1, 2).flatten(2).tanh().mean(dim=1))
        return logits


def test_heads_of_attention_are_no_maps() -> None:
    assert explain(Heads().eval(), networks.images(size=32)).layer == "norm"


def test_swin_keeps_its_channels_last_in_the_model_and_first_in_the_map() -> None:
    from torchvision.models import SwinTransformer

    model = SwinTransformer([4, 4], 64, [1, 1], [2, 4], [4, 4], num_classes=5).eval()
    images = networks.images(size=(32, 64))
    found = explain(model, images, ClassLogit(0), layer=["norm", "features.1"])
    assert found.maps.shape == (2, 1, 8, 16)
    assert explain(model, images, ClassLogit(0), layer="norm").maps.shape == (2, 1, 4, 8)


def test_tokens_that_leave_their_grid_open_say_how_to_give_it() -> None:
    model = networks.Tokens(patch=16, prefix=0, pooled=True).eval()
    images = networks.images(size=48)
    message = r"'encoder\.layers\.0': .*Layer\(\.\.\., reshape=token_grid\(3, 3, prefix=0\) or "
    with pytest.raises(LayerError, match=message):
        explain(model, images, layer="encoder.layers.0")
    asked = Layer("encoder.layers.0", reshape=token_grid(3, 3))
    assert explain(model, images, layer=asked).maps.shape == (2, 1, 3, 3)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
def test_what_torch_jit_compiled_is_refused_and_the_rest_works() -> None:
    inner = networks.Inplace().eval()
    model = nn.Sequential(nn.Conv2d(3, 3, 1), torch.jit.script(inner))
    with pytest.raises(LayerError, match=r"layer '1\.conv' is compiled by torch\.jit"):
        explain(model, networks.images(), layer="1.conv")
    written = nn.Sequential(model[0], inner)
    expected = explain(written, networks.images(), ClassLogit(0), layer="0").maps
    torch.testing.assert_close(explain(model, networks.images(), ClassLogit(0)).maps, expected)


def test_the_nearest_names_do_not_depend_on_case() -> None:
    assert nearest("LAYR4", ["conv1", "layer3", "Layer4"], count=1) == ["Layer4"]


class Twice(nn.Module):
    """Its norm runs on the map, and then on the pooled vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        places = self.norm(self.conv(images).permute(0, 2, 3, 1)).tanh()
        pooled: Tensor = self.norm(places.mean(dim=(1, 2)))
        return pooled


def test_a_module_that_runs_again_on_something_else_is_no_candidate() -> None:
    maps = {found.name: found for found in feature_maps(Twice(), torch.randn(1, 3, 32, 32))}
    assert maps["norm"].shape == (1, 32, 32, 8)
    assert not maps["norm"].candidate
    assert explain(Twice(), torch.randn(1, 3, 32, 32)).layer == "conv"


def test_a_module_that_is_held_twice_has_two_names() -> None:
    model, images = networks.Inplace().eval(), networks.images()
    model.first = model.conv
    found, expected = (explain(model, images, layer=name) for name in ("first", "conv"))
    assert found.layer == "first"
    assert torch.equal(found.maps, expected.maps)
