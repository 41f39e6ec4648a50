"""Which places in a photo speak for a class."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import SupportsIndex, TypeAlias, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multicam.errors import InputError
from multicam.explainer import LayerLike, explain
from multicam.explanation import Explanation
from multicam.geometry import Photo
from multicam.methods import Method
from multicam.preprocessing import Transform
from multicam.targets import ClassLogit, Target, TopClass, class_scores
from multicam.tasks import sources
from multicam.tasks.base import Images, Layers, evaluating, prepare_batch
from multicam.tasks.names import class_index, label_list

ClassLike: TypeAlias = str | SupportsIndex | Target
"""A class by name or index, or any target of the model's output."""


def load(name: str | None = None) -> Classification:
    """A classifier ready to explain, with its preprocessing and labels.

    Args:
        name: None for the bundled EfficientNet-Lite0, which needs the extra `models`
            and no network; else one of

            - `torchvision:resnet50`, with torchvision's default weights,
            - `timm:NAME`, also `timm:hf-hub:...` and `timm:local-dir:/path`,
            - `hf:NAME_OR_FOLDER`, a Hugging Face image classifier.

    Returns:
        The classifier on the CPU, in eval mode.

    Raises:
        InputError: no such model (the nearest are listed), or it cannot be loaded.
        MissingExtraError: timm or the bundled weights are not installed.
    """
    found = sources.bundled() if name is None else sources.named(name)
    return Classification(found.model, found.transform, found.labels, layer=found.layer)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """An image classifier with its preprocessing and the names of its classes.

    The model always runs in eval mode here, and comes back in the mode it was in.

    Args:
        model: from a batch (batch, channel, height, width) to logits (batch, classes),
            or to an output with a field `logits`.
        transform: from an RGB photo to (channel, height, width), not random.
        labels: names of the classes in order, or by index; without them classes are
            given, and named, by index.
        layer: the feature map to use where `explain` is given none; see
            `multicam.explain`.
        method: the method to use where `explain` is given none.

    Example:
        >>> from torchvision.models import resnet18
        >>> from torchvision.transforms import Compose, Resize, ToTensor
        >>> from PIL import Image
        >>> from multicam.tasks.classification import Classification
        >>> transform = Compose([Resize((64, 64)), ToTensor()])
        >>> task = Classification(resnet18(num_classes=3), transform, ["cat", "cup", "rocket"])
        >>> task.explain(Image.new("RGB", (90, 60)), ["cat", "rocket"]).labels
        (('cat', 'rocket'),)
    """

    model: nn.Module
    transform: Transform
    labels: Sequence[str] | Mapping[int, str] | None = None
    layer: LayerLike | None = field(default=None, kw_only=True)
    method: str | Method = field(default="gradcam", kw_only=True)

    def __repr__(self) -> str:
        """One line; a model's own repr fills pages."""
        count = f"{len(self.names)} classes" if self.names else "classes without names"
        layer = f", layer={self.layer!r}" if self.layer is not None else ""
        return f"Classification({type(self.model).__name__}, {count}{layer})"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the classes in order; empty where there are no labels."""
        return label_list(self.labels)

    def explain(
        self,
        images: Images,
        /,
        classes: ClassLike | Sequence[ClassLike] | None = None,
        top: int = 3,
        *,
        layer: Layers | None = None,
        method: str | Method | None = None,
    ) -> Explanation:
        """Explain the logits of classes.

        Args:
            images: one photo, or a list of them for one batch: paths, bytes, PIL
                images, arrays or tensors.
            classes: one class or a list of them, the same for every photo: each an
                index, a name or a part of one that fits only one class (see `target`),
                or a target such as `Difference`. None explains the classes that the
                model ranks highest, for each photo its own.
            top: how many of these, at most as many as there are classes.
            layer: the feature map, or a list to fuse; None takes the task's own, or
                else the last one that the scores depend on.
            method: as for `multicam.explain`; None takes the task's own.

        Returns:
            One map for each photo and class, labelled by name, with the photos.

        Raises:
            InputError: an image cannot be read, or a class is unknown or ambiguous.
            TargetError: a class index is out of range.
            LayerError: the layer cannot be used.
        """
        inputs, photos = self.prepare(images)
        targets = self._highest(inputs, top) if classes is None else self._chosen(classes)
        layer = self.layer if layer is None else layer
        method = self.method if method is None else method
        with evaluating(self.model):
            explanation = explain(self.model, inputs, targets, layer=layer, method=method)
        return replace(explanation, photos=photos)

    def target(self, wanted: str | SupportsIndex) -> ClassLogit:
        """The logit of a class, to be used in targets such as `Difference`.

        Args:
            wanted: its index, or its name whatever the case: the whole label, one of the
                comma-separated synonyms in it, or a part that fits only one class.

        Raises:
            InputError: no class fits (the nearest are listed), or several do.
        """
        return ClassLogit(self.index(wanted), self.names)

    def index(self, wanted: str | SupportsIndex) -> int:
        """The index of a class; see `target`."""
        if isinstance(wanted, str):
            return class_index(wanted, self.names)
        return operator.index(wanted)

    def probabilities(self, images: Images, /) -> Float[Tensor, "batch classes"]:
        """Softmax of the model's logits, 0 to 1, for one photo or several."""
        inputs, _ = self.prepare(images)
        return self._logits(inputs).softmax(dim=1)

    def prepare(
        self, images: Images, /
    ) -> tuple[Float[Tensor, "batch channel height width"], tuple[Photo, ...]]:
        """The model's input for photos, and where on them it looks."""
        return prepare_batch(images, self.transform, self.model)

    def _logits(self, inputs: Tensor) -> Tensor:
        with evaluating(self.model), torch.no_grad():
            return class_scores(self.model(inputs), None).float()

    def _chosen(self, classes: ClassLike | Sequence[ClassLike]) -> list[Target]:
        several = isinstance(classes, (list, tuple))
        given = cast("Sequence[ClassLike]", classes if several else [classes])
        return [self.target(one) if isinstance(one, (str, SupportsIndex)) else one for one in given]

    def _highest(self, inputs: Tensor, top: int) -> list[Target]:
        if top < 1:
            raise InputError(f"top={top} asks for no class; give 1 or more")
        count = len(self.names) or self._logits(inputs).shape[1]
        return [TopClass(rank, self.names) for rank in range(min(top, count))]
