"""Targets of models that write: words and phrases of a caption or of any generated text.

Their output holds logits of shape (batch, step, vocabulary), made with the text as input
(teacher forcing): those of step i belong to the token after the first i + 1 given ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from multicam.errors import TargetError
from multicam.targets import output_tensor


@dataclass(frozen=True)
class TokenLogit:
    """The logit of a token at a step, before the softmax.

    Args:
        step: 0 for the first token of the text.
        token: its index in the vocabulary.
        key: field or position of the logits in the output; see `output_tensor`.

    Example:
        >>> TokenLogit(step=1, token=0)(torch.tensor([[[0.5, 2.0], [3.0, 4.0]]]))
        tensor([3.])
    """

    step: int
    token: int
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        return _chosen(output, [self.step], [self.token], self.key).squeeze(1)

    def labels(self, output: Any) -> list[str]:
        """Token and step, the same for each sample."""
        return [f"token {self.token} at step {self.step}"] * len(output_tensor(output, self.key))

    def notes(self, output: Any) -> list[str]:
        """The probability of the token, for each sample."""
        return TokenLogProb(self.step, self.token, self.key).notes(output)


@dataclass(frozen=True)
class TokenLogProb:
    """The log-probability of a token at a step, given the text before it, in (-inf, 0].

    Unlike the logit it also says what speaks against all other tokens.

    Args:
        step: 0 for the first token of the text.
        token: its index in the vocabulary.
        key: field or position of the logits in the output.
    """

    step: int
    token: int
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        return _log_probs(output, [self.step], [self.token], self.key).squeeze(1)

    def labels(self, output: Any) -> list[str]:
        """Token and step, the same for each sample."""
        return [f"token {self.token} at step {self.step}"] * len(output_tensor(output, self.key))

    def notes(self, output: Any) -> list[str]:
        """The probability of each sample."""
        return _probabilities(self(output))


@dataclass(frozen=True)
class PhraseLogit:
    """The sum of the logits of several tokens, such as the pieces of a word.

    Args:
        steps: of the tokens.
        tokens: one for each step.
        key: field or position of the logits in the output.
    """

    steps: Sequence[int]
    tokens: Sequence[int]
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        return _chosen(output, self.steps, self.tokens, self.key).sum(dim=1)

    def notes(self, output: Any) -> list[str]:
        """The probability of the phrase, for each sample."""
        return PhraseLogProb(self.steps, self.tokens, self.key).notes(output)


@dataclass(frozen=True)
class PhraseLogProb:
    """The log-probability of several tokens, each given the text before it, in (-inf, 0].

    By the chain rule that of a phrase, given what stands before it, where its steps
    follow each other: the sum of log p(token at step | tokens before).

    Args:
        steps: of the tokens.
        tokens: one for each step.
        key: field or position of the logits in the output.
    """

    steps: Sequence[int]
    tokens: Sequence[int]
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        return _log_probs(output, self.steps, self.tokens, self.key).sum(dim=1)

    def notes(self, output: Any) -> list[str]:
        """The probability of each sample."""
        return _probabilities(self(output))


@dataclass(frozen=True)
class CaptionLogProb:
    """The log-probability of a whole text from its first step on, in (-inf, 0].

    The loss that captioners are trained with, turned round: Selvaraju et al.,
    arXiv 1610.02391, explain captions by it.

    Args:
        tokens: of the text, in order.
        key: field or position of the logits in the output.
    """

    tokens: Sequence[int]
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        return PhraseLogProb(range(len(self.tokens)), self.tokens, self.key)(output)

    def notes(self, output: Any) -> list[str]:
        """The probability of each sample."""
        return _probabilities(self(output))


@dataclass(frozen=True)
class ConceptLogit:
    """Any of several tokens at a step: the log of the sum of their exponentiated logits.

    Args:
        step: 0 for the first token of the text.
        tokens: the alternatives, such as those of man, woman and person.
        key: field or position of the logits in the output.
    """

    step: int
    tokens: Sequence[int]
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        steps = [self.step] * len(self.tokens)
        return _chosen(output, steps, self.tokens, self.key).logsumexp(dim=1)

    def notes(self, output: Any) -> list[str]:
        """The probability of any of the alternatives, for each sample."""
        return ConceptLogProb(self.step, self.tokens, self.key).notes(output)


@dataclass(frozen=True)
class ConceptLogProb:
    """Any of several tokens at a step: the log of the sum of their probabilities.

    The log-probability of "man" also explains "rather than woman", and so points at what
    tells the two apart. That of the concept (man, woman or person) points at the person.

    Args:
        step: 0 for the first token of the text.
        tokens: the alternatives.
        key: field or position of the logits in the output.
    """

    step: int
    tokens: Sequence[int]
    key: str | int | None = None

    def __call__(self, output: Any) -> Tensor:
        """Scores of shape (batch,)."""
        steps = [self.step] * len(self.tokens)
        return _log_probs(output, steps, self.tokens, self.key).logsumexp(dim=1)

    def notes(self, output: Any) -> list[str]:
        """The probability of any of the alternatives, for each sample."""
        return _probabilities(self(output))


def _chosen(
    output: Any, steps: Sequence[int], tokens: Sequence[int], key: str | int | None
) -> Float[Tensor, "batch chosen"]:
    """The logits of these tokens, each at its step."""
    rows, index = _rows(output, steps, tokens, key)
    return rows.gather(2, index).squeeze(2)


def _log_probs(
    output: Any, steps: Sequence[int], tokens: Sequence[int], key: str | int | None
) -> Float[Tensor, "batch chosen"]:
    """The log-probabilities of these tokens, each at its step."""
    rows, index = _rows(output, steps, tokens, key)
    return rows.log_softmax(dim=2).gather(2, index).squeeze(2)


def _rows(
    output: Any, steps: Sequence[int], tokens: Sequence[int], key: str | int | None
) -> tuple[Float[Tensor, "batch chosen vocabulary"], Tensor]:
    logits = output_tensor(output, key)
    if logits.ndim != 3:
        raise TargetError(
            "a token needs an output of shape (batch, step, vocabulary); this one has shape "
            f"{tuple(logits.shape)}"
        )
    if not steps or len(steps) != len(tokens):
        raise TargetError(
            f"{len(steps)} steps and {len(tokens)} tokens were given; each token needs its step, "
            "and at least one of each is needed"
        )
    for what, given, count in (
        ("step", steps, logits.shape[1]),
        ("token", tokens, logits.shape[2]),
    ):
        for one in given:
            if not 0 <= one < count:
                raise TargetError(
                    f"{what} {one} is not among the {count} {what}s of the output "
                    f"{tuple(logits.shape)} (0 to {count - 1})"
                )
    index = torch.tensor(list(tokens), device=logits.device).reshape(1, -1, 1)
    return logits[:, list(steps)], index.expand(len(logits), -1, 1)


def _probabilities(log_probs: Tensor) -> list[str]:
    return [f"p = {p:.2g}" for p in log_probs.exp().tolist()]
