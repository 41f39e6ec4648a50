"""Finer-CAM: what tells a target from the alternatives that score most like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multicam.errors import InputError, TargetError
from multicam.explanation import Explanation
from multicam.sequences import (
    CaptionLogProb,
    PhraseLogit,
    PhraseLogProb,
    TokenLogit,
    TokenLogProb,
)
from multicam.targets import (
    ClassLogit,
    ClassLogProb,
    Target,
    TopClass,
    class_scores,
    evaluate,
    output_tensor,
    pick,
    settled,
)
from multicam.wrapping import Case, Explain, Method, Wrapper


@dataclass(frozen=True)
class FinerCAM(Wrapper):
    """Finer-CAM: what tells a score from those that are most like it.

    Any method, of another score:

        score = y - alpha / T sum over t of y_t

    with y_t the T other scores nearest to y: those of the classes, answers or tokens that
    the model takes this one for most easily. What they share with it fades from the map;
    alpha says how much, from 0 (the method by itself) to 1.

    Each token of a phrase is compared with those at its own step, and the scores are added
    up. `Difference(a, b)` compares with a score of your own choice.

    Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual
    Explanation", CVPR 2025, arXiv 2501.11309; its alpha (there gamma) is 0.6, and its T 3.

    Peers: torchcam has the same score. pytorch-grad-cam weights the y_t by their
    probabilities, through which it also differentiates, and has alpha = 1.

    Args:
        method: any method, by name or itself; it explains the score.
        alpha: 0 or more.
        alternatives: T, 1 or more; fewer where there are not as many.

    Raises:
        InputError: alpha is negative, or there is no alternative.
    """

    method: str | Method = "gradcam"
    alpha: float = 0.6
    alternatives: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise InputError(f"alpha={self.alpha}: give 0 (no comparison) or more, such as 0.6")
        if self.alternatives < 1:
            raise InputError(f"alternatives={self.alternatives}: give 1 to compare with, or more")

    def explanations(self, case: Case, explain: Explain) -> tuple[Explanation, ...]:
        """See `Wrapper`."""
        targets = [FinerScore(one, self.alpha, self.alternatives) for one in case.targets]
        found = explain(replace(case, targets=targets), self.method)
        return tuple(replace(one, method=f"finer {one.method}") for one in found)


@dataclass(frozen=True, eq=False)
class FinerScore:
    """A score less a share of the scores nearest to it, as a target; see `FinerCAM`.

    Args:
        target: picks one of a list of scores; see `choice_of`.
        alpha: the share.
        alternatives: how many scores are compared.
        nearest: which these are; None finds them in each output.
    """

    target: Target
    alpha: float = 0.6
    alternatives: int = 3
    nearest: Int[Tensor, "batch pick alternative"] | None = None

    def __call__(self, output: Any) -> Float[Tensor, " batch"]:
        """Scores of shape (batch,)."""
        choice = choice_of(self.target, output)
        others = choice.scores.gather(2, self._nearest(choice)).mean(dim=2)
        return (choice.own.squeeze(2) - self.alpha * others).sum(dim=1)

    def settled(self, output: Any) -> FinerScore:
        """The same score with the alternatives that it has in one output."""
        found = self._nearest(choice_of(self.target, output))
        return replace(self, target=settled(self.target, output), nearest=found)

    def labels(self, output: Any) -> list[str]:
        """The label of each sample, and what it is held against where that has names."""
        choice = choice_of(self.target, output)
        labels = evaluate(self.target, output, len(choice.scores)).labels
        if choice.names is None:
            return [f"{label} rather than others" for label in labels]
        nearest = self._nearest(choice)[:, 0].tolist()
        names = [" or ".join(map(choice.names, row)) for row in nearest]
        return [f"{label} rather than {those}" for label, those in zip(labels, names, strict=True)]

    def _nearest(self, choice: Choice) -> Int[Tensor, "batch pick alternative"]:
        """The options with the scores nearest to that which is picked, the nearest first."""
        if self.nearest is not None:
            return self.nearest
        distances = (choice.scores - choice.own).detach().abs()
        apart = distances.scatter(2, choice.picked.unsqueeze(2), torch.inf)
        count = min(self.alternatives, apart.shape[2] - 1)
        return apart.argsort(dim=2, stable=True)[:, :, :count]


class Choice(NamedTuple):
    """What a target picks, and from what.

    Attributes:
        scores: of all options; a class is one pick, a phrase one for each of its tokens.
        picked: the option of each pick.
        names: the name of an option, where options have names.
    """

    scores: Float[Tensor, "batch pick option"]
    picked: Int[Tensor, "batch pick"]
    names: Callable[[int], str] | None = None

    @property
    def own(self) -> Float[Tensor, "batch pick 1"]:
        """The score of what is picked."""
        return self.scores.gather(2, self.picked.unsqueeze(2))


def choice_of(target: Target, output: Any) -> Choice:
    """What a target picks in an output, and from what.

    Args:
        target: one of a class, an answer or tokens; any other with a method
            `choice(output)` that gives a `Choice`.
        output: of the model.

    Raises:
        TargetError: it is another kind of target, or there is nothing else to pick.
    """
    choice = _choice(target, output)
    if choice is None:
        raise TargetError(
            f"{getattr(target, '__name__', type(target).__name__)} does not pick from a list of "
            "scores, so it has no alternatives. ClassLogit, ClassLogProb, TopClass, TokenLogit, "
            "TokenLogProb, PhraseLogit, PhraseLogProb, CaptionLogProb and the answers to "
            "questions have; Difference(a, b) compares any two scores"
        )
    if choice.scores.shape[2] < 2:
        raise TargetError(
            f"{type(target).__name__} picks from a single score, so it has no alternatives; "
            "compare it with one of your own by Difference(a, b)"
        )
    return choice


def _choice(target: Target, output: Any) -> Choice | None:
    match target:
        case ClassLogit(index, names, key):
            return _of_classes(class_scores(output, key), index, names)
        case ClassLogProb(index, names, key):
            return _of_classes(class_scores(output, key).log_softmax(dim=1), index, names)
        case TopClass():
            return _choice(target.settled(output), output)
        case TokenLogit(step, token, key):
            return _choice(PhraseLogit([step], [token], key), output)
        case TokenLogProb(step, token, key):
            return _choice(PhraseLogProb([step], [token], key), output)
        case CaptionLogProb(tokens, key):
            return _choice(PhraseLogProb(range(len(tokens)), tokens, key), output)
        case PhraseLogit():
            return _of_tokens(_rows(target, output), target.tokens)
        case PhraseLogProb():
            return _of_tokens(_rows(target, output).log_softmax(dim=2), target.tokens)
    own: Callable[[Any], Choice] | None = getattr(target, "choice", None)
    return own(output) if callable(own) else None


def _of_classes(
    scores: Float[Tensor, "batch classes"], index: Any, names: Sequence[str] | None
) -> Choice:
    def name(option: int) -> str:
        return names[option] if names and option < len(names) else f"class {option}"

    options = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    return Choice(scores.unsqueeze(1), pick(options, index).unsqueeze(1), name)


def _of_tokens(rows: Float[Tensor, "batch step vocabulary"], tokens: Sequence[int]) -> Choice:
    picked = torch.tensor(list(tokens), device=rows.device).expand(len(rows), -1)
    return Choice(rows, picked)


def _rows(
    target: PhraseLogit | PhraseLogProb, output: Any
) -> Float[Tensor, "batch step vocabulary"]:
    """The logits at each step of a phrase, which fits the output or says why not."""
    target(output)
    return output_tensor(output, target.key)[:, list(target.steps)]
