from __future__ import annotations

import pytest
import torch
from torch import Tensor

from multicam import DetectionScore, TargetError

BOXES = [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0], [10.0, 10.0, 12.0, 12.0]]


def detections(scores: Tensor) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(BOXES),
        "labels": torch.tensor([7, 3, 7]),
        "scores": scores,
    }


def test_the_score_is_the_largest_product_of_overlap_and_probability() -> None:
    found = detections(torch.tensor([0.8, 0.9, 0.99]))
    score = DetectionScore((0, 0, 4, 2), 7)([found])
    torch.testing.assert_close(score, torch.tensor([0.4]))


def test_its_gradient_is_that_of_the_detection_that_matches() -> None:
    scores = torch.tensor([0.8, 0.9, 0.99], requires_grad=True)
    (gradient,) = torch.autograd.grad(DetectionScore(BOXES[0], 7)([detections(scores)]), scores)
    assert gradient.tolist() == [1.0, 0.0, 0.0]


def test_each_image_may_have_a_box_of_its_own() -> None:
    found = detections(torch.tensor([0.8, 0.9, 0.7]))
    target = DetectionScore([BOXES[0], BOXES[2]], 7, names=["thing"] * 7 + ["dog"])
    torch.testing.assert_close(target([found, found]), torch.tensor([0.8, 0.7]))
    assert target.labels([found, found]) == ["dog", "dog"]
    assert DetectionScore(BOXES[0], 7).labels([found]) == ["class 7"]


def test_a_class_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(TargetError, match=r"nothing of class 5 .* are \[3, 7\]"):
        DetectionScore(BOXES[0], 5)([detections(torch.ones(3))])


@pytest.mark.parametrize("box", [(0, 0, 4), [BOXES[0]], [BOXES[0]] * 3])
def test_boxes_that_do_not_fit_the_images_are_refused(box: list[list[float]]) -> None:
    found = detections(torch.ones(3))
    with pytest.raises(TargetError, match=r"nor one for each of 2"):
        DetectionScore(box, 7)([found, found])


def test_the_output_of_another_model_is_refused() -> None:
    with pytest.raises(TargetError, match=r"boxes, labels, scores .* the output is a Tensor"):
        DetectionScore(BOXES[0], 7)(torch.zeros(2, 10))
