"""The answers of a model as targets: from a list, or by whatever poses a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, final, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from multicam.errors import InputError, nearest
from multicam.explainer import LayerLike
from multicam.finer import Choice, choice_of
from multicam.forward import Inputs
from multicam.targets import ClassLogit, Difference, Target, TopClass, class_scores


@dataclass(frozen=True)
class Posed:
    """A question as `multicam.explain` takes it.

    Attributes:
        inputs: what the model is given.
        targets: the scores of the answers, and of a contrast last.
        forward: what is called in place of the model.
        layer: the feature map that fits these inputs; None has the task choose.
    """

    inputs: Inputs
    targets: list[Target]
    forward: Callable[..., Any] | None = None
    layer: LayerLike | None = None


@runtime_checkable
class Answering(Protocol):
    """How a model answers: from a list (`AnswerList`), or in words of its own."""

    def pose(
        self,
        images: Float[Tensor, "batch channel height width"],
        tokens: Int[Tensor, "batch token"],
        answers: Sequence[str] | None,
        top: int,
        contrast: tuple[str, str] | None,
    ) -> Posed:
        """Scores for the given answers, or for the model's own.

        Args:
            images: as the model takes them.
            tokens: of the questions, padded.
            answers: the same for each question; None for what the model would say.
            top: how many of these.
            contrast: two answers, for the score of the first less that of the second.
        """
        ...


def softmax(logits: Float[Tensor, "batch answers"]) -> Float[Tensor, "batch answers"]:
    """Probabilities of answers that exclude each other."""
    return logits.softmax(dim=1)


@final
@dataclass(frozen=True)
class AnswerList:
    """Answers of a model with a logit for each answer that it knows.

    Args:
        names: the answers in the order of the logits.
        forward: from images and tokens to logits (batch, answers); None for the model.
        probabilities: from logits to what is noted beside an answer.
        layer: the feature map for given inputs, where it depends on them.
    """

    names: tuple[str, ...]
    forward: Callable[[Tensor, Tensor], Any] | None = None
    probabilities: Callable[[Tensor], Tensor] = softmax
    layer: Callable[[Tensor, Tensor], LayerLike] | None = None

    def pose(
        self,
        images: Tensor,
        tokens: Tensor,
        answers: Sequence[str] | None,
        top: int,
        contrast: tuple[str, str] | None,
    ) -> Posed:
        """See `Answering.pose`; the model's own answers are found in the pass that explains."""
        if answers is None:
            ranks = range(min(top, len(self.names)))
            targets: list[Target] = [self._noted(TopClass(rank, self.names)) for rank in ranks]
        else:
            targets = [self._noted(self._logit(answer)) for answer in answers]
        if contrast is not None:
            first, second = contrast
            targets.append(Difference(self._logit(first), self._logit(second)))
        layer = self.layer and self.layer(images, tokens)
        return Posed((images, tokens), targets, self.forward, layer)

    def index(self, answer: str) -> int:
        """The place of an answer in the list, whatever its case.

        Raises:
            InputError: it is not there; the nearest are listed.
        """
        lowered = [name.lower() for name in self.names]
        if answer.lower().strip() in lowered:
            return lowered.index(answer.lower().strip())
        close = ", ".join(nearest(answer, self.names)) or "none"
        raise InputError(
            f"{answer!r} is not among the {len(self.names)} answers of this model; the nearest "
            f"are: {close}"
        )

    def _logit(self, answer: str) -> ClassLogit:
        return ClassLogit(self.index(answer), self.names)

    def _noted(self, target: ClassLogit | TopClass) -> _Noted:
        return _Noted(target, self.probabilities)


@dataclass(frozen=True)
class _Noted:
    """The logit of an answer, with its probability to be read beside it."""

    logit: ClassLogit | TopClass
    probabilities: Callable[[Tensor], Tensor]
    said: tuple[str, ...] | None = None

    def __call__(self, output: Any) -> Tensor:
        count, known = class_scores(output, None).shape[1], len(self.logit.names or ())
        if count != known:
            raise InputError(
                f"the model gives {count} logits for the list of {known} answers; give one name "
                "for each logit"
            )
        return self.logit(output)

    def settled(self, output: Any) -> _Noted:
        """The answers that are meant in one output, with their probabilities there."""
        found = self.logit if isinstance(self.logit, ClassLogit) else self.logit.settled(output)
        return replace(self, logit=found, said=tuple(self.notes(output)))

    def choice(self, output: Any) -> Choice:
        """The answers that this one is picked from."""
        return choice_of(self.logit, output)

    def labels(self, output: Any) -> list[str]:
        """The answer of each sample."""
        return self.logit.labels(output)

    def notes(self, output: Any) -> list[str]:
        """The probability of each sample's answer."""
        if self.said is not None:
            return list(self.said)
        shares = self.probabilities(class_scores(output, None).detach().float())
        return [f"{share:.0%}" for share in self.logit(shares).tolist()]
