"""The scores of a detector, whose output is a list of boxes for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from multicam.errors import TargetError

Box = Sequence[float]
"""Left, top, right, bottom, in pixels of the image that the model was given."""


@dataclass(frozen=True)
class DetectionScore:
    """How surely a detector sees a class where a box is.

        score = max over detections j of the class of IoU(box, box_j) p_j

    The similarity of D-RISE (Petsiuk et al., arXiv 2006.03204, equation 3) for one class,
    without its third factor, the cosine of class probabilities, which detectors do not
    give away. The overlap counts as a constant: the gradient is that of the probability.

    Args:
        box: (left, top, right, bottom) in pixels, or one for each image.
        label: the class.
        names: names of all classes, for labels.

    Example:
        >>> one = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([7])}
        >>> DetectionScore((0, 0, 4, 2), 7)([one | {"scores": torch.tensor([0.8])}])
        tensor([0.4000])
    """

    box: Box | Sequence[Box]
    label: int
    names: Sequence[str] | None = None

    def __call__(self, output: Any) -> Float[Tensor, " batch"]:
        """Scores of shape (batch,) from the output of a detector of torchvision.

        Raises:
            TargetError: the output is of another kind, or nothing of the class was detected.
        """
        images = _images(output)
        boxes = self._boxes(len(images))
        return torch.stack([self._score(*pair) for pair in zip(images, boxes, strict=True)])

    def labels(self, output: Any) -> list[str]:
        """The class, for each image."""
        known = self.names and self.label < len(self.names)
        name = self.names[self.label] if self.names and known else f"class {self.label}"
        return [name] * len(_images(output))

    def _boxes(self, count: int) -> list[Box]:
        given: Any = self.box
        boxes = [given] * count if isinstance(given[0], (int, float)) else list(given)
        if len(boxes) != count or any(len(box) != 4 for box in boxes):
            raise TargetError(
                f"{self.box!r} is not one box (left, top, right, bottom) for all images, nor one "
                f"for each of {count}"
            )
        return boxes

    def _score(self, found: Mapping[str, Tensor], box: Box) -> Tensor:
        from torchvision.ops import box_iou

        of_class = found["labels"] == self.label
        if not of_class.any():
            raise TargetError(
                f"nothing of class {self.label} was detected; the classes of the detections are "
                f"{sorted(set(found['labels'].tolist()))}. Lower the detector's score threshold, "
                "or choose one of these"
            )
        boxes = found["boxes"][of_class].detach()
        overlap = box_iou(boxes.new_tensor([list(box)]), boxes)[0]
        best: Tensor = (overlap * found["scores"][of_class]).max()
        return best


def _images(output: Any) -> Sequence[Mapping[str, Tensor]]:
    """The detections of each image."""
    wanted = {"boxes", "labels", "scores"}
    if not isinstance(output, (list, tuple)) or not all(
        isinstance(one, Mapping) and wanted <= set(one) for one in output
    ):
        raise TargetError(
            f"a detection needs a list with {', '.join(sorted(wanted))} for each image, as the "
            f"detectors of torchvision give in eval mode; the output is a {type(output).__name__}"
        )
    return output
