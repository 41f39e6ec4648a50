from __future__ import annotations

from typing import Any

import jaxtyping
import networks
import pytest
import torch
from torch import Tensor, nn

from multicam import (
    ClassLogit,
    ClassLogProb,
    Difference,
    EmbeddingSimilarity,
    Negative,
    PerSample,
    RegionMean,
    TargetError,
    TopClass,
    explain,
)
from multicam.targets import Target

LOGITS = torch.tensor([[0.5, 2.0, -1.0], [3.0, 4.0, 5.0]])
NAMES = ["cat", "dog", "cow"]


@pytest.mark.parametrize(
    ("target", "scores", "labels"),
    [
        (ClassLogit(1), [2, 4], ["class 1", "class 1"]),
        (ClassLogit([2, 0], NAMES), [-1, 3], ["cow", "cat"]),
        (ClassLogit(torch.tensor([0, 1]), ["cat"]), [0.5, 4], ["cat", "class 1"]),
        (ClassLogit(torch.tensor(2), NAMES), [-1, 5], ["cow", "cow"]),
        (TopClass(names=NAMES), [2, 5], ["dog", "cow"]),
        (TopClass(2), [-1, 3], ["class 2", "class 0"]),
        (Negative(ClassLogit(0, NAMES)), [-0.5, -3], ["not cat", "not cat"]),
        (
            Difference(ClassLogit(0, NAMES), TopClass(names=NAMES)),
            [-1.5, -2],
            ["cat rather than dog", "cat rather than cow"],
        ),
    ],
)
def test_scores_and_labels(target: Any, scores: list[float], labels: list[str]) -> None:
    assert target(LOGITS).tolist() == scores
    assert target.labels(LOGITS) == labels


def test_the_log_probability_of_a_class() -> None:
    expected = LOGITS.softmax(dim=1)[:, 1].log()
    torch.testing.assert_close(ClassLogProb([1, 1])(LOGITS), expected)
    assert ClassLogProb(1, NAMES).labels(LOGITS) == ["log p(dog)", "log p(dog)"]


def test_no_target_means_the_predicted_class_of_each_sample() -> None:
    model, images = networks.Inplace().eval(), networks.images(8)
    found = explain(model, images, layer="conv")
    predicted = model(images).max(dim=1)
    torch.testing.assert_close(found.scores[:, 0], predicted.values)
    assert [row[0] for row in found.labels] == [f"class {i}" for i in predicted.indices.tolist()]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (ClassLogit(5), r"class 5 is not in a model of 5 classes \(0 to 4\)"),
        (ClassLogit(-1), r"class -1 is not in a model of 5 classes \(0 to 4\)"),
        (ClassLogit([0, 1, 2]), r"3 classes were given for a batch of 4; give one class for all"),
        (TopClass(5), "rank 5 is not in a ranking of 5 classes"),
        (lambda x: x, r"your function gives shape \(4, 5\); needed is one score .* \(4,\)"),
        (lambda x: x.sum(), r"your function gives shape \(\); needed is one score .* \(4,\)"),
        (lambda x: x[:, 0].sum().item(), r"gives float; return the tensor itself \(no `\.item"),
        (lambda x: x.argmax(dim=1), r"gives torch\.int64 scores, which cannot be differentiated"),
        (lambda x: x[:, 0].log() * 0, r"is not finite \(NaN or infinite\) for sample \["),
        ([], "the list of targets is empty; leave it out for the predicted class"),
        (RegionMean(0), r"channel 0 of a \(batch, channel, height, width\) .* shape \(4, 5\)"),
        (EmbeddingSimilarity(torch.ones(7)), r"reference of shape \(7,\) .* output has \(4, 5\)"),
        (PerSample(lambda x: x[:2]), r"gives shape \(2,\) for one sample instead of one number"),
    ],
)
def test_a_target_that_cannot_be_explained_says_why(target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        explain(networks.Inplace().eval(), networks.images(4), target, layer="conv")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (281, r"281 is not a target; pass ClassLogit\(\.\.\.\)"),
        ([ClassLogit(0), "dog"], r"'dog' is not a target"),
    ],
)
def test_what_is_no_target_is_refused_where_types_are_not_checked(
    target: Any, message: str
) -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(TargetError, match=message):
            explain(networks.Inplace().eval(), networks.images(4), target, layer="conv")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_a_target_that_raises_is_heard() -> None:
    def broken(output: Tensor) -> Tensor:
        raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake"):
        explain(networks.Inplace().eval(), networks.images(), broken, layer="conv")


def test_one_number_is_enough_for_one_sample() -> None:
    model, images = networks.Inplace().eval(), networks.images(1)
    expected = explain(model, images, ClassLogit(3), layer="conv").maps
    assert torch.equal(explain(model, images, lambda x: x[0, 3], layer="conv").maps, expected)


def test_functions_can_be_set_against_each_other() -> None:
    def first(output: Tensor) -> Tensor:
        return output[0, 0]

    target = Difference(first, Negative(lambda output: output[:, 1]))
    found = explain(networks.Inplace().eval(), networks.images(1), target, layer="conv")
    assert found.labels == (("first rather than not your function",),)


@pytest.mark.parametrize("made_in", [torch.no_grad, torch.inference_mode])
def test_a_reference_and_a_mask_may_come_from_any_mode(made_in: Any) -> None:
    model, images = networks.Inplace().eval(), networks.images()
    with made_in():
        reference, mask = model(images), torch.rand(16, 16)
    found = explain(model, images, EmbeddingSimilarity(reference), layer="conv")
    torch.testing.assert_close(found.scores, torch.ones(2, 1))
    assert found.labels == (("similarity",), ("similarity",))
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    assert explain(dense, images, RegionMean(1, mask), layer="0").maps.any()


def test_one_reference_serves_all_samples() -> None:
    embedding = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    scores = EmbeddingSimilarity(torch.tensor([2.0, 0.0]))(embedding)
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.5**0.5]))


def test_the_mean_of_a_region_counts_its_places_by_weight() -> None:
    dense = torch.arange(8.0).reshape(1, 2, 2, 2)
    mask = torch.tensor([[True, False], [False, True]])
    assert RegionMean(1, mask)(dense).tolist() == [5.5]
    assert RegionMean(1, torch.tensor([[0.0, 1], [0, 3]]))(dense).tolist() == [6.5]
    assert RegionMean(1)(dense).tolist() == [5.5]
    assert RegionMean(1).labels(dense) == ["channel 1"]


@pytest.mark.parametrize("mask", [torch.zeros(2, 2), torch.ones(3, 2)])
def test_a_mask_that_does_not_fit_says_so(mask: Tensor) -> None:
    with pytest.raises(TargetError, match=r"the mask needs shape \(2, 2\) and a place"):
        RegionMean(1, mask)(torch.zeros(1, 2, 2, 2))


@pytest.fixture
def foreign() -> Any:
    return pytest.importorskip(
        "pytorch_grad_cam.utils.model_targets", reason="pytorch-grad-cam is not installed"
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_classifier_targets_of_pytorch_grad_cam_work_unchanged(foreign: Any, batch: int) -> None:
    model, images = networks.Inplace().eval(), networks.images(batch)
    ours: list[Target] = [ClassLogit(2), lambda output: output.softmax(dim=1)[:, 2]]
    theirs = [foreign.ClassifierOutputTarget(2), foreign.ClassifierOutputSoftmaxTarget(2)]
    expected = explain(model, images, ours, layer="conv").maps
    found = explain(model, images, theirs, layer="conv")
    torch.testing.assert_close(found.maps, expected)
    assert found.labels[0][0] == "ClassifierOutputTarget"


@pytest.mark.parametrize("batch", [1, 3])
def test_other_targets_of_pytorch_grad_cam_work_unchanged(foreign: Any, batch: int) -> None:
    images = networks.images(batch)
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)).eval()
    mask = (torch.arange(256).reshape(16, 16) % 3 == 0).float()
    theirs = foreign.SemanticSegmentationTarget(1, mask.numpy())
    expected = explain(dense, images, RegionMean(1, mask), layer="0").maps * mask.sum()
    torch.testing.assert_close(explain(dense, images, theirs, layer="0").maps, expected)
    against = explain(dense, images, Difference(Negative(theirs), theirs), layer="0").maps
    torch.testing.assert_close(against, -2 * expected)

    binary = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    binary.append(nn.Linear(4, 1))
    found = explain(binary, images, foreign.BinaryClassifierOutputTarget(0), layer="0").maps
    expected = explain(binary, images, Negative(ClassLogit(0)), layer="0").maps
    torch.testing.assert_close(found, expected)
