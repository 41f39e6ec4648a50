"""Only what comes after a layer runs again, and gives what the whole model gives."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import answerers
import captioners
import networks
import plain
import pytest
import torch
import torch.nn.functional as F
from networks import images
from torch import Tensor, nn
from torchvision.models import DenseNet, ResNet
from torchvision.models.googlenet import Inception
from torchvision.models.resnet import BasicBlock, Bottleneck

from multicam import CaptionLogProb, ClassLogit, Layer, LayerError, UnreachedError, explain
from multicam.forward import Forward
from multicam.grids import token_grid
from multicam.targets import Target
from multicam.tasks import captioning, vqa
from multicam.tasks.teacher import Teacher

TARGETS: list[Target] = [ClassLogit(1), lambda output: output.softmax(dim=1)[:, 2]]


class Branches(nn.Module):
    """Branches that are concatenated, twice, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.first = Inception(8, 2, 2, 4, 2, 2, 2)
        self.second = Inception(10, 2, 2, 4, 2, 2, 2)
        self.head = nn.Linear(10, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(self.stem(images))).mean(dim=(2, 3)))
        return logits


class Repeated(nn.Module):
    """One convolution and one activation, called again and again, by itself and in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.Tanh()
        self.block = nn.Sequential(self.conv, self.act, nn.Conv2d(6, 6, 3), self.act)
        self.last = nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        first = self.act(self.stem(images))
        second = self.block(first)
        third = self.act(self.conv(second)) + second
        logits: Tensor = self.head(self.act(self.last(third)).mean(dim=(2, 3)))
        return logits


class Functional(nn.Module):
    """Operations between the modules, shapes that are read, a shortcut over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(9, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        shortcut = F.avg_pool2d(images, 2)
        maps = F.max_pool2d(F.relu(self.first(images)), 2)
        maps = self.second(maps) * maps.mean(dim=1, keepdim=True)
        maps = self.third(torch.cat([maps, shortcut], dim=1)).tanh()
        pooled = maps.view(batch, 6, height * width // 4).mean(dim=2)
        logits: Tensor = self.head(pooled) + F.linear(pooled, self.head.weight)
        return logits


class InplaceOnOutput(nn.Module):
    """Writes into what a module gave that ran before the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        maps.relu_().mul_(2)
        logits: Tensor = self.head((self.second(maps).tanh() + maps).mean(dim=(2, 3)))
        return logits


def residual(block: type[BasicBlock | Bottleneck] = BasicBlock) -> ResNet:
    return ResNet(block, [1, 1, 2, 2], num_classes=5)


def densenet() -> DenseNet:
    blocks: dict[str, Any] = {"block_config": (2, 3), "num_init_features": 8}
    return DenseNet(growth_rate=4, num_classes=5, **blocks)


@dataclass
class Case:
    """A model, what it is given, and a layer with one that runs long before it."""

    make: Callable[[], nn.Module]
    layer: str | Layer
    early: str | None
    inputs: Any = field(default_factory=images)
    targets: Sequence[Target] = tuple(TARGETS)
    forward: Callable[[nn.Module], Callable[..., Any]] | None = None
    change: Callable[[int], plain.Change] = plain.without

    def call(self) -> Forward:
        torch.manual_seed(3)
        model = self.make().eval()
        return Forward(model, self.inputs, self.forward and self.forward(model))


def logits_of(output: Any) -> Tensor:
    scores: Tensor = output["logits"][:, 1]
    return scores


CAPTION = (images(2, (24, 32)), torch.tensor([[0, 4, 5], [0, 9, 6]]))
QUESTIONS = (images(2, (24, 32)), torch.tensor([[2, 3, 4, 5], [2, 7, 0, 0]]))
CASES = {
    "inside a residual block": Case(residual, "layer3.1.conv1", "layer3.0", images(2, 64)),
    "inside a bottleneck": Case(
        lambda: residual(Bottleneck), "layer4.0.bn2", "layer3", images(2, 64)
    ),
    "the ReLU of a residual block": Case(
        residual, Layer("layer3.0.relu", call=0), "layer2", images(2, 64)
    ),
    "the shortcut of a residual block": Case(
        residual, "layer3.0.downsample.1", "layer2", images(2, 64)
    ),
    "in-place ReLU and sum": Case(networks.Inplace, "conv", "stem"),
    "DenseNet": Case(
        densenet, "features.denseblock2.denselayer2.conv1", "features.denseblock1", images(2, 32)
    ),
    "DenseNet, functional ReLU after it": Case(densenet, "features", None, images(2, 32)),
    "branches": Case(Branches, "second.branch2.0.conv", "first"),
    "the last branch": Case(Branches, "second.branch4.1.conv", "first"),
    "a module that runs twice": Case(Repeated, Layer("conv", call=1), "block"),
    "an activation that runs everywhere": Case(Repeated, Layer("act", call=3), "block"),
    "its last call": Case(Repeated, Layer("act", call=-1), "block"),
    "a call inside a block": Case(Repeated, Layer("act", call=1), "stem"),
    "operations between modules": Case(Functional, "second", "first"),
    "written in place before the layer": Case(InplaceOnOutput, "second", "first"),
    "one dimension": Case(networks.ConvNet, "second", "first", torch.randn(2, 2, 9, 8)),
    "two dimensions": Case(
        lambda: networks.ConvNet(dims=1), "second", "first", torch.randn(2, 2, 9)
    ),
    "three dimensions": Case(
        lambda: networks.ConvNet(dims=3), "second", "first", torch.randn(2, 2, 5, 4, 3)
    ),
    "a recurrent head": Case(networks.ConvRecurrent, "deep", "conv"),
    "class token": Case(
        networks.Tokens,
        "encoder.layers.0",
        "patches",
        images(2, 32),
        change=plain.without_in_places,
    ),
    "inside an encoder layer with a fused path": Case(
        networks.Tokens,
        "encoder.layers.0.norm1",
        "patches",
        images(2, 32),
        change=plain.without_in_places,
    ),
    "a ViT of Hugging Face": Case(
        networks.hugging_face_vit,
        "vit.layers.1.layernorm_before",
        "vit.embeddings",
        images(2, 64),
        [logits_of],
        change=plain.without_in_places,
    ),
    "a ResNet of Hugging Face": Case(
        networks.hugging_face_resnet,
        "resnet.encoder.stages.1",
        "resnet.embedder",
        images(2, 32),
        [logits_of],
    ),
    "a tuple": Case(
        lambda: networks.Wrapped(networks.Inplace(), lambda logits: (logits, "a note", 3)),
        "network.conv",
        "network.stem",
        targets=[lambda output: output[0][:, 1]],
    ),
    "two inputs and a dict": Case(
        networks.Asked,
        "image.2",
        "image.0",
        {"pixel_values": images(), "input_ids": torch.tensor([[1, 2], [3, 4]])},
        [logits_of],
    ),
    "a captioner": Case(
        captioners.Pooled,
        "cnn.3",
        "cnn.0",
        CAPTION,
        [CaptionLogProb([4, 5, 1])],
        lambda model: Teacher(model),  # type: ignore[arg-type]
    ),
    "a captioner with attention": Case(
        captioners.Attentive,
        "cnn.2",
        "cnn.0",
        CAPTION,
        [CaptionLogProb([4, 5, 1])],
        lambda model: Teacher(model),  # type: ignore[arg-type]
    ),
    "an answerer": Case(answerers.Fused, "cnn.3", "cnn.0", QUESTIONS),
    "an answerer with attention": Case(answerers.Stacked, "cnn.2", "cnn.0", QUESTIONS, [logits_of]),
}


def passes_of(model: nn.Module, names: Sequence[str]) -> Counter[str]:
    """Counts the calls of modules from now on."""
    counts: Counter[str] = Counter()
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: counts.update([name]))
    return counts


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_replayed_scores_are_those_of_the_plain_way(case: Case) -> None:
    forward = case.call()
    scene = plain.scene_of(forward, case.targets, case.layer)
    channels = [0, 1, scene.activations.shape[1] - 1]
    if isinstance(case.layer, Layer) and case.layer.call == -1:
        assert scene.site is not None
        case.layer = Layer(case.layer.module, call=scene.site.recording.call)
    changes = [case.change(channel) for channel in channels]
    expected = plain.changed_scores(forward, case.targets, case.layer, changes)
    counts = passes_of(forward.model, [case.early] if case.early else [])
    found = plain.ablated_scores(scene, channels)
    assert not counts
    assert (expected - scene.scores).abs().max() > 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_ablation_cam_of_the_whole_map_is_that_of_one_channel_at_a_time() -> None:
    case = CASES["DenseNet"]
    forward = case.call()
    scene = plain.scene_of(forward, TARGETS, case.layer)
    changes = [plain.without(channel) for channel in range(scene.activations.shape[1])]
    drops = scene.scores - plain.changed_scores(forward, TARGETS, case.layer, changes)
    expected = torch.einsum("ckb,bchw->bkhw", drops, scene.activations)
    found = explain(forward.model, case.inputs, TARGETS, layer=case.layer, method="ablationcam")
    peak = expected.abs().max().item()
    torch.testing.assert_close(found.maps, expected, rtol=1e-3, atol=1e-3 * peak)


def test_inception_of_torchvision() -> None:
    from torchvision.models import inception_v3

    model = inception_v3(num_classes=5, aux_logits=False, init_weights=False)
    forward = Forward(model.eval(), images(1, 75))
    layer = "Mixed_6b.branch7x7dbl_1.conv"
    scene = plain.scene_of(forward, TARGETS, layer)
    counts = passes_of(model, ["Conv2d_1a_3x3", "Mixed_6a", "Mixed_6b.branch1x1"])
    found = plain.ablated_scores(scene, [0, 60, 127])
    assert not counts
    changes = [plain.without(channel) for channel in (0, 60, 127)]
    expected = plain.changed_scores(forward, TARGETS, layer, changes)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_what_runs_after_the_layer_runs_once_for_each_chunk() -> None:
    case = CASES["inside a residual block"]
    forward = case.call()
    counts = passes_of(forward.model, ["conv1", "layer3.0", "layer3.1.conv1", "layer3.1.bn1", "fc"])
    scene = plain.scene_of(forward, TARGETS, case.layer)
    assert counts == {"conv1": 1, "layer3.0": 1, "layer3.1.conv1": 1, "layer3.1.bn1": 1, "fc": 1}
    plain.ablated_scores(scene, range(10), chunk=4)
    trials, chunks, samples = 1, 3, 2
    passes = 1 + samples * (trials + chunks)
    assert counts == {
        "conv1": 1,
        "layer3.0": 1,
        "layer3.1.conv1": 1,
        "layer3.1.bn1": passes,
        "fc": passes,
    }


@pytest.mark.parametrize(
    "wrap",
    [
        lambda maps: (maps, maps),
        lambda maps: {"last": maps, "index": torch.zeros(2, dtype=torch.long)},
    ],
)
def test_a_layer_that_gives_a_tuple_or_a_dict(wrap: Callable[[Tensor], Any]) -> None:
    """All places where the tensor stands are changed."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.layer = networks.Wrapped(nn.Conv2d(4, 6, 3), wrap)
            self.head = nn.Linear(6, 5)

        def forward(self, images: Tensor) -> Tensor:
            gave = self.layer(self.first(images))
            maps = gave[0] * gave[1] if isinstance(gave, tuple) else gave["last"]
            logits: Tensor = self.head(maps.tanh().mean(dim=(2, 3)))
            return logits

    forward = Forward(Network(), images())
    scene = plain.scene_of(forward, TARGETS, "layer")
    counts = passes_of(forward.model, ["first", "layer.network"])
    found = plain.ablated_scores(scene, range(6))
    assert not counts
    changes = [plain.without(channel) for channel in range(6)]
    expected = plain.changed_scores(forward, TARGETS, "layer.network", changes)
    torch.testing.assert_close(found, expected)


def test_tokens_first_are_run_as_a_batch() -> None:
    """(token, batch, channel): rows of one sample cannot be told from its tokens."""

    class TokensFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, 5)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.norm(self.patches(images).flatten(2).permute(2, 0, 1))
            logits: Tensor = self.head(tokens.square().mean(dim=0))
            return logits

    def reshape(tokens: Tensor) -> Tensor:
        return token_grid(4, 4)(tokens.transpose(0, 1))

    forward = Forward(TokensFirst(), images())
    scene = plain.scene_of(forward, TARGETS, Layer("norm", reshape=reshape))
    assert scene.activations.shape == (2, 8, 4, 4)
    counts = passes_of(forward.model, ["patches"])
    found = plain.ablated_scores(scene, range(8))
    assert not counts
    changes = [plain.without(channel, dim=2) for channel in range(8)]
    expected = plain.changed_scores(forward, TARGETS, "norm", changes)
    torch.testing.assert_close(found, expected)


def test_hooks_of_the_user_run_once() -> None:
    """What a hook made of an output is in the recording, and is not made again."""
    case = CASES["inside a residual block"]
    forward = case.call()
    for name in ("layer1", "layer3.0", "layer3.1.conv1", "layer4"):
        forward.model.get_submodule(name).register_forward_hook(lambda *call: 2 * call[2])
    scene = plain.scene_of(forward, TARGETS, case.layer)
    counts = passes_of(forward.model, ["conv1"])
    found = plain.ablated_scores(scene, [0, 5])
    assert not counts
    changes = [plain.without(channel) for channel in (0, 5)]
    expected = plain.changed_scores(forward, TARGETS, case.layer, changes)
    torch.testing.assert_close(found, expected)


def test_calls_of_forward_itself_are_not_mistaken_for_calls_of_the_module() -> None:
    class Direct(Repeated):
        def forward(self, images: Tensor) -> Tensor:
            first = self.act.forward(self.stem(images))
            second = self.conv(first) + self.act(first)
            logits: Tensor = self.head(self.conv(self.act.forward(second)).mean(dim=(2, 3)))
            return logits

    forward = Forward(Direct(), images())
    layer = Layer("conv", call=1)
    scene = plain.scene_of(forward, TARGETS, layer)
    found = plain.ablated_scores(scene, range(6))
    changes = [plain.without(channel) for channel in range(6)]
    expected = plain.changed_scores(forward, TARGETS, layer, changes)
    torch.testing.assert_close(found, expected)


def test_a_compiled_layer() -> None:
    model = networks.ConvNet()
    expected = explain(model, torch.ones(1, 2, 6, 6), layer="second", method="ablationcam")
    model.second.compile(backend="eager")
    found = explain(model, torch.ones(1, 2, 6, 6), layer="second", method="ablationcam")
    assert found.maps.any()
    torch.testing.assert_close(found.maps, expected.maps)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Layer("unused"), "'unused' does not run in this forward pass; feature maps to choose"),
        (Layer("act"), r"runs 5 times .* choose a call with Layer\('act', call=0\) to call=4"),
        (Layer("act", call=5), "layer 'act' runs 5 times, so it has no call 5"),
        (Layer("act", call=-6), "layer 'act' runs 5 times, so it has no call -6"),
        (Layer("index"), "layer 'index' gives no floating-point tensor but Tensor"),
    ],
)
def test_a_layer_that_cannot_be_replaced_is_refused(layer: Layer, message: str) -> None:
    class Odd(Repeated):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Conv2d(3, 6, 3)
            self.index = networks.Wrapped(nn.Identity(), lambda logits: logits.argmax(dim=1))

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            self.index(logits)
            return logits

    with pytest.raises((LayerError, UnreachedError), match=message):
        explain(Odd(), images(), layer=layer, method="ablationcam")


# The model is given back as it was found


def everything(model: nn.Module) -> list[Any]:
    """All that explaining could leave in a model, tensors by their values."""
    hooks = [name for name in vars(nn.Module()) if "hook" in name]
    return [
        (
            sorted(vars(module)),
            vars(module).get("forward"),
            module.training,
            [list(getattr(module, name).values()) for name in hooks if getattr(module, name)],
            {name: tensor.tolist() for name, tensor in module.state_dict().items()},
        )
        for module in model.modules()
    ]


class Failing(networks.Inplace):
    """Fails from a certain call on."""

    calls = 0
    fails_from = 10**9

    def forward(self, images: Tensor) -> Tensor:
        type(self).calls += 1
        logits = super().forward(images)
        if type(self).calls >= type(self).fails_from:
            raise ArithmeticError("the model itself failed")
        return logits


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", ["ablationcam", "reciprocam", "scorecam", "occlusion"])
def test_nothing_of_the_model_changes(method: str, training: bool) -> None:
    model = networks.Inplace().train(training)
    model.conv.register_forward_hook(lambda *_: None)
    before = everything(model)
    explain(model, images(), TARGETS, layer="conv", method=method)
    assert everything(model) == before


@pytest.mark.parametrize("call", [1, 2, 4, 5])
def test_nothing_of_the_model_changes_where_it_fails(call: int) -> None:
    class FailingNow(Failing):
        fails_from = call

    model = FailingNow().eval()
    before = everything(model)
    with pytest.raises(ArithmeticError, match="the model itself failed"):
        explain(model, images(), TARGETS, layer="conv", method="ablationcam")
    assert everything(model) == before


@pytest.mark.parametrize("call", [1, 2, 4, 6])
def test_nothing_of_the_model_changes_where_the_target_fails(call: int) -> None:
    calls: list[int] = []

    def target(output: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) >= call:
            raise ArithmeticError("the target itself failed")
        return output[:, 0]

    model = networks.Inplace().eval()
    before = everything(model)
    with pytest.raises(ArithmeticError, match="the target itself failed"):
        explain(model, images(), target, layer="conv", method="ablationcam")
    assert everything(model) == before


def test_inputs_that_the_model_writes_into_stay_as_they_are() -> None:
    class Normalising(networks.Inplace):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.sub_(0.5).mul_(2))

    model, given = Normalising().eval(), images()
    found = explain(model, given, layer="conv", method="ablationcam")
    torch.testing.assert_close(given, images())
    expected = explain(model, given.clone(), layer="conv", method="ablationcam")
    torch.testing.assert_close(found.maps, expected.maps)


# Threads


def test_other_threads_that_run_the_model_meanwhile_are_not_disturbed() -> None:
    model, others = networks.Inplace().eval(), images(2, 24, seed=5)
    expected, stop, seen = model(others), threading.Event(), list[bool]()

    def run() -> None:
        while not stop.is_set():
            seen.append(torch.allclose(model(others), expected))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for method in ("ablationcam", "reciprocam") * 3:
            explain(model, images(), TARGETS, layer="conv", method=method)
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 3
    assert all(seen)


def test_several_threads_explain_one_model_at_a_time() -> None:
    model = networks.Inplace().eval()
    before = everything(model)
    layers = ["stem", "conv", "norm"] * 4

    def maps(layer: str) -> Tensor:
        return explain(model, images(), TARGETS, layer=layer, method="ablationcam").maps

    expected = [maps(layer) for layer in layers]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(maps, layers), expected, strict=True):
            torch.testing.assert_close(found, alone)
    assert everything(model) == before


# The bundled models


def test_the_bundled_captioner(photos: dict[str, Path]) -> None:
    task = captioning.load()
    counts = passes_of(task.model, ["encoder.conv_stem", "decoder.lstm"])
    found = task.explain(photos["cat"], "a cat on a bed", ["cat", "bed"], method="ablationcam")
    assert found.maps.shape == (1, 2, 14, 14)
    assert found.maps.flatten(2).any(dim=2).all()
    assert counts["encoder.conv_stem"] == 1 < counts["decoder.lstm"]


def test_the_bundled_answerer(photos: dict[str, Path]) -> None:
    task = vqa.load()
    asked = photos["cat"], "what animal is this?", ["cat", "dog"]
    counts = passes_of(task.model, ["encoder.conv_stem", "head.members.0.lstm"])
    found = task.explain(*asked, method="ablationcam")
    assert found.maps.shape == (1, 2, 14, 14)
    assert found.maps.flatten(2).any(dim=2).all()
    assert counts["encoder.conv_stem"] <= 2 < counts["head.members.0.lstm"]
