"""What is explained: plain callables from the model's output to one score per sample.

A target takes the output of the model, whatever its type, and returns a tensor of
shape (batch,) that can be differentiated. A function of your own is as good as the
classes here. A target may also have a method `labels(output) -> list[str]`, which
names its score for each sample; else its name does. And it may have
`notes(output) -> list[str]`: what figures say of a sample's score, such as a probability.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex, TypeAlias, cast

import torch
from torch import Tensor

from multicam.errors import TargetError

Target: TypeAlias = Callable[[Any], Tensor]
"""(model output) -> scores of shape (batch,)."""

Classes: TypeAlias = SupportsIndex | Sequence[int]
"""One class for all samples, or one for each; tensors of integers work as either."""


def output_tensor(output: Any, key: str | int | None = None) -> Tensor:
    """The tensor of scores in a model's output.

    Args:
        output: a tensor, tuple, mapping, or an object with fields such as `ModelOutput`.
        key: the field or position; needed where it is not plain. Without it, a
            tensor is taken as it is, then the field `logits`, then the only tensor.

    Raises:
        TargetError: there is no such field, or more than one to choose from.
    """
    if key is None and isinstance(output, Tensor):
        return output
    fields = _fields(output)
    if key is None and len(fields) == 1:
        return next(iter(fields.values()))
    wanted = "logits" if key is None else key
    if wanted in fields:
        return fields[wanted]
    shapes = ", ".join(f"{name!r} {tuple(t.shape)}" for name, t in fields.items()) or "no tensors"
    raise TargetError(
        f"the output, a {type(output).__name__}, has no field {wanted!r} but {shapes}; "
        "name one of them with key=..., or pass a function that picks the score"
    )


def _fields(output: Any) -> dict[str | int, Tensor]:
    if isinstance(output, Mapping):
        pairs: Any = output.items()
    elif isinstance(output, (tuple, list)):
        pairs = zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    else:
        names = [*getattr(output, "__slots__", ()), *getattr(output, "__dict__", ())]
        pairs = ((name, getattr(output, name)) for name in names)
    return {key: value for key, value in pairs if isinstance(value, Tensor)}


@dataclass(frozen=True)
class ClassLogit:
    """The logit of a class, before any softmax: y^c in the Grad-CAM paper.

    Args:
        index: the class, 0 to classes - 1, or one for each sample.
        names: names of all classes, for labels.
        key: field or position of the logits in the output; see `output_tensor`.

    Example:
        >>> ClassLogit([1, 0])(torch.tensor([[0.5, 2.0], [3.0, 4.0]]))
        tensor([2., 3.])
    """

    index: Classes
    names: Sequence[str] | None = field(default=None, repr=False)
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,) from logits of shape (batch, classes)."""
        return pick(class_scores(output, self.key), self.index)

    def labels(self, output: Any) -> list[str]:
        """The class of each sample by name."""
        return class_labels(self.index, self.names, output, self.key)


@dataclass(frozen=True)
class ClassLogProb:
    """The log-probability of a class: log softmax(logits)[c], in (-inf, 0].

    Unlike the logit it also says what speaks against all other classes.

    Args:
        index: the class, or one for each sample.
        names: names of all classes, for labels.
        key: field or position of the logits in the output.
    """

    index: Classes
    names: Sequence[str] | None = field(default=None, repr=False)
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,) from logits of shape (batch, classes)."""
        return pick(class_scores(output, self.key).log_softmax(dim=1), self.index)

    def labels(self, output: Any) -> list[str]:
        """The class of each sample by name."""
        return [
            f"log p({label})" for label in class_labels(self.index, self.names, output, self.key)
        ]


@dataclass(frozen=True)
class TopClass:
    """The logit of the class that the model ranks at a place; the predicted class at 0.

    Args:
        rank: 0 for the highest logit of each sample, 1 for the next, and so on.
        names: names of all classes, for labels.
        key: field or position of the logits in the output.
    """

    rank: int = 0
    names: Sequence[str] | None = field(default=None, repr=False)
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,) from logits of shape (batch, classes)."""
        return pick(class_scores(output, self.key), self.classes(output))

    def classes(self, output: Any) -> list[int]:
        """The class at this rank for each sample."""
        logits = class_scores(output, self.key).detach()
        if not 0 <= self.rank < logits.shape[1]:
            raise TargetError(f"rank {self.rank} is not in a ranking of {logits.shape[1]} classes")
        ranking = logits.argsort(dim=1, descending=True, stable=True)
        return [int(index) for index in ranking[:, self.rank]]

    def settled(self, output: Any) -> ClassLogit:
        """The logit of the classes that are at this rank in one output."""
        return ClassLogit(self.classes(output), self.names, self.key)

    def labels(self, output: Any) -> list[str]:
        """The class of each sample by name."""
        return class_labels(self.classes(output), self.names, output, self.key)


@dataclass(frozen=True)
class Difference:
    """What speaks for one target rather than for another: a(output) - b(output).

    Args:
        a: the target to explain.
        b: the target that it is held against.
    """

    a: Target
    b: Target

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        return _wrapped(self.a)(output) - _wrapped(self.b)(output)

    def labels(self, output: Any) -> list[str]:
        """Both labels of each sample."""
        pairs = zip(_names(self.a, output), _names(self.b, output), strict=True)
        return [f"{a} rather than {b}" for a, b in pairs]


@dataclass(frozen=True)
class Negative:
    """What speaks against a target: the counterfactual explanation, -y^c.

    Selvaraju et al., arXiv 1610.02391, section 3.3: the gradient is negated.

    Args:
        target: the target to turn round.
    """

    target: Target

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        return -_wrapped(self.target)(output)

    def labels(self, output: Any) -> list[str]:
        """The label of each sample, turned round."""
        return [f"not {label}" for label in _names(self.target, output)]


@dataclass(frozen=True, eq=False)
class EmbeddingSimilarity:
    """Cosine similarity of the output with a reference embedding, -1 to 1.

    Args:
        reference: (dimension,) or one for each sample, (batch, dimension).
        key: field or position of the embedding in the output.
    """

    reference: Tensor
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,) from embeddings of shape (batch, dimension)."""
        embedding = output_tensor(output, self.key)
        if embedding.ndim != 2 or embedding.shape[-1] != self.reference.shape[-1]:
            raise TargetError(
                f"a reference of shape {tuple(self.reference.shape)} needs embeddings of shape "
                f"(batch, {self.reference.shape[-1]}); the output has {tuple(embedding.shape)}"
            )
        reference = _constant(self.reference, embedding)
        return torch.cosine_similarity(embedding, reference.expand_as(embedding), dim=1)

    def labels(self, output: Any) -> list[str]:
        """The same for every sample."""
        return ["similarity"] * len(output_tensor(output, self.key))


@dataclass(frozen=True, eq=False)
class RegionMean:
    """The mean of one channel of a dense output over a region, as in segmentation.

    Args:
        channel: the class or channel, 0 to channels - 1.
        mask: the region, (height, width) of the output, boolean or weights >= 0;
            None for all places.
        key: field or position of the dense output, such as "out".
    """

    channel: int
    mask: Tensor | None = None
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,) from an output of shape (batch, channel, height, width)."""
        dense = output_tensor(output, self.key)
        if dense.ndim != 4 or not -dense.shape[1] <= self.channel < dense.shape[1]:
            raise TargetError(
                f"channel {self.channel} of a (batch, channel, height, width) output was asked "
                f"for; the output has shape {tuple(dense.shape)}"
            )
        plane = dense[:, self.channel]
        if self.mask is None:
            return plane.mean(dim=(1, 2))
        if self.mask.shape != plane.shape[1:] or not self.mask.any():
            raise TargetError(
                f"the mask needs shape {tuple(plane.shape[1:])} and a place that is not 0; "
                f"it has shape {tuple(self.mask.shape)} and the sum {self.mask.sum().item():g}"
            )
        mask = _constant(self.mask, plane)
        return (plane * mask).sum(dim=(1, 2)) / mask.sum()

    def labels(self, output: Any) -> list[str]:
        """The same for every sample."""
        return [f"channel {self.channel}"] * len(output_tensor(output, self.key))


@dataclass(frozen=True)
class PerSample:
    """A target that takes the output of one sample and returns one number.

    Targets of pytorch-grad-cam are of this kind, and are wrapped on sight.

    Args:
        target: from the output tensor of one sample, without the batch dimension,
            to a tensor with one element.
    """

    target: Callable[[Tensor], Tensor]

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        scores = [torch.as_tensor(self.target(sample)) for sample in output_tensor(output)]
        for score in scores:
            if score.numel() != 1:
                raise TargetError(
                    f"{_name(self.target)} gives shape {tuple(score.shape)} for one sample "
                    "instead of one number"
                )
        return torch.stack([score.reshape(()) for score in scores])

    def labels(self, output: Any) -> list[str]:
        """The same for every sample."""
        return [_name(self.target)] * len(output_tensor(output))


def class_scores(output: Any, key: str | int | None) -> Tensor:
    """The (batch, classes) scores in a model's output.

    Raises:
        TargetError: the output has another number of dimensions.
    """
    scores = output_tensor(output, key)
    if scores.ndim != 2:
        raise TargetError(
            f"a class needs an output of shape (batch, classes); this one has shape "
            f"{tuple(scores.shape)}; pass a function that picks the score"
        )
    return scores


def pick(scores: Tensor, index: Classes) -> Tensor:
    """One class of each sample: (batch, classes) to (batch,).

    Raises:
        TargetError: an index is out of range, or their number is not the batch.
    """
    batch, classes = scores.shape
    chosen = _per_sample(index, batch)
    for one in chosen:
        if not 0 <= one < classes:
            raise TargetError(
                f"class {one} is not in a model of {classes} classes (0 to {classes - 1})"
            )
    at = torch.tensor(chosen, device=scores.device).unsqueeze(1)
    return scores.gather(1, at).squeeze(1)


def class_labels(
    index: Classes, names: Sequence[str] | None, output: Any, key: str | int | None
) -> list[str]:
    """The name of the class of each sample, `class 3` where names are unknown."""
    chosen = _per_sample(index, len(output_tensor(output, key)))
    return [names[i] if names and i < len(names) else f"class {i}" for i in chosen]


def _per_sample(index: Classes, batch: int) -> list[int]:
    if hasattr(index, "__index__") and getattr(index, "ndim", 0) == 0:
        return [operator.index(cast("SupportsIndex", index))] * batch
    chosen = [operator.index(one) for one in cast("Sequence[int]", index)]
    if len(chosen) != batch:
        raise TargetError(
            f"{len(chosen)} classes were given for a batch of {batch}; give one class for all "
            "samples, or one for each"
        )
    return chosen


def as_targets(target: Target | Sequence[Target] | None) -> list[Target]:
    """A list of targets from what `explain` accepts.

    Raises:
        TargetError: the list is empty, or something in it cannot be called.
    """
    if target is None:
        return [TopClass()]
    given: list[Any] = list(target) if isinstance(target, (list, tuple)) else [target]
    if not given:
        raise TargetError("the list of targets is empty; leave it out for the predicted class")
    for one in given:
        if not callable(one):
            raise TargetError(
                f"{one!r} is not a target; pass ClassLogit(...), another target, or a function "
                "from the model's output to scores of shape (batch,)"
            )
    return [_wrapped(one) for one in given]


def _wrapped(target: Target) -> Target:
    foreign = type(target).__module__.startswith("pytorch_grad_cam")
    return PerSample(target) if foreign else target


def settled(target: Target, output: Any) -> Target:
    """The target that means in every output what it means in this one, as a rank does not."""
    settle: Callable[[Any], Target] | None = getattr(target, "settled", None)
    return settle(output) if callable(settle) else target


class Scored(NamedTuple):
    """What a target makes of an output.

    Attributes:
        scores: (batch,), with their graph.
        labels: the name of each sample's score.
        notes: what to say of each score in a figure.
    """

    scores: Tensor
    labels: list[str]
    notes: list[str]


def evaluate(target: Target, output: Any, batch: int) -> Scored:
    """The scores of a target, checked, with their labels and notes.

    Args:
        target: the target.
        output: of the model.
        batch: number of samples in the feature map.

    Raises:
        TargetError: not one finite floating-point score per sample.
    """
    score = target(output)
    name = _name(target)
    if not isinstance(score, Tensor):
        raise TargetError(
            f"{name} gives {type(score).__name__}; return the tensor itself (no `.item()`)"
        )
    if not score.is_floating_point():
        raise TargetError(
            f"{name} gives {score.dtype} scores, which cannot be differentiated; return the score "
            "itself rather than an index or a decision"
        )
    if score.ndim == 0 and batch == 1:
        score = score.reshape(1)
    if score.shape != (batch,):
        raise TargetError(
            f"{name} gives shape {tuple(score.shape)}; needed is one score per sample, ({batch},)"
        )
    values: list[float] = score.tolist()
    bad = [sample for sample, value in enumerate(values) if not math.isfinite(value)]
    if bad:
        raise TargetError(f"{name} is not finite (NaN or infinite) for sample {bad}")
    return Scored(score, _names(target, output, batch), _notes(target, output, values))


def _notes(target: Target, output: Any, scores: Sequence[float]) -> list[str]:
    notes: Callable[[Any], list[str]] | None = getattr(target, "notes", None)
    if callable(notes):
        with torch.no_grad():
            return list(notes(output))
    return [f"score {score:.3g}" for score in scores]


def _constant(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor beside `like`; a copy of one made in inference mode, which no graph takes."""
    moved = tensor.detach().to(like)
    return moved.clone() if moved.is_inference() else moved


def _names(target: Target, output: Any, batch: int | None = None) -> list[str]:
    labels: Callable[[Any], list[str]] | None = getattr(_wrapped(target), "labels", None)
    if callable(labels):
        return list(labels(output))
    size = batch if batch is not None else target(output).numel()
    return [_name(target)] * size


def _name(target: Callable[..., Any]) -> str:
    name = getattr(target, "__name__", type(target).__name__)
    return "your function" if name == "<lambda>" else str(name)
