"""How much each word of a text that a model was given contributed to a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multicam.errors import InputError
from multicam.forward import Forward, Inputs
from multicam.guard import guarded
from multicam.targets import Target, as_targets, evaluate, settled

METHODS = ("gradient x input", "integrated gradients")
"""Ways to share a score among the words."""


@dataclass(frozen=True, eq=False)
class WordContributions:
    """What each word of a text did for each of some scores.

    Attributes:
        words: of the text, in order.
        scores: signed, (target, word): above 0 speaks for the score, below 0 against.
        labels: names the scores.
        method: a name in `METHODS`.
    """

    words: tuple[str, ...]
    scores: Float[Tensor, "target word"]
    labels: tuple[str, ...]
    method: str

    def __repr__(self) -> str:
        """A line for each score, its words by their contributions."""
        lines = []
        for label, row in zip(self.labels, self.scores.tolist(), strict=True):
            shares = ", ".join(f"{w} {s:+.2f}" for w, s in zip(self.words, row, strict=True))
            lines.append(f"{label}: {shares}")
        return "WordContributions(" + "; ".join(lines) + ")"

    def normalized(self) -> Float[Tensor, "target word"]:
        """Each row divided by its largest magnitude: -1 to 1; a row of zeros stays so."""
        peaks = self.scores.abs().amax(dim=1, keepdim=True)
        return self.scores / torch.where(peaks > 0, peaks, 1)


def word_contributions(
    model: nn.Module,
    inputs: Inputs,
    target: Target | Sequence[Target],
    words: Sequence[tuple[str, Sequence[int]]],
    *,
    embedding: nn.Module,
    forward: Callable[..., Any] | None = None,
    method: str = "gradient x input",
) -> WordContributions:
    """Share scores among the words of a text, by the embeddings they go in as.

    By Captum: `InputXGradient`, the gradient of the score by a token's embedding times
    the embedding; or `IntegratedGradients` (Sundararajan et al., arXiv 1703.01365) in 50
    steps, whose shares add up to the score less that of a text of zero embeddings.

    Args:
        model: the network, with one text among its inputs.
        inputs: as for `multicam.explain`.
        target: one score or several.
        words: each word, and the positions of its tokens in the text.
        embedding: the layer that embeds the text, from tokens (1, token) to
            (1, token, channel); see `embedding_of`.
        forward: what to call in place of the model.
        method: a name in `METHODS`.

    Returns:
        Signed contributions; a word's is the sum over its tokens and their channels.

    Raises:
        InputError: the method is unknown, or the embedding does not run, or embeds
            no single text.
    """
    if method not in METHODS:
        raise InputError(f"no method is called {method!r}; there are {', '.join(METHODS)}")
    call = Forward(model, inputs, forward)
    with guarded(model):
        with torch.no_grad():
            embedded, output = _embedded(call, embedding)
            targets = [settled(one, output) for one in as_targets(target)]
            labels = [evaluate(one, output, 1).labels[0] for one in targets]
        tokens = [_by_captum(method, call, embedding, embedded, one) for one in targets]
    shares = [torch.stack([row[list(places)].sum() for _, places in words]) for row in tokens]
    return WordContributions(
        tuple(word for word, _ in words), torch.stack(shares), tuple(labels), method
    )


def embedding_of(
    model: nn.Module,
    inputs: Inputs,
    tokens: Int[Tensor, "1 token"],
    forward: Callable[..., Any] | None = None,
) -> nn.Module:
    """The first layer that embeds a text: an `nn.Embedding` that is given its tokens.

    Raises:
        InputError: there is none.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and torch.equal(args[0], tokens):
            found.append(module)

    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                hooks.callback(module.register_forward_pre_hook(look).remove)
        Forward(model, inputs, forward)()
    if not found:
        raise InputError(
            f"no nn.Embedding of {type(model).__name__} is given the question's tokens; name the "
            "layer that embeds them with embedding=..."
        )
    return found[0]


def _by_captum(
    method: str, call: Forward, embedding: nn.Module, embedded: Tensor, target: Target
) -> Float[Tensor, " token"]:
    from captum.attr import InputXGradient, IntegratedGradients

    def score(vectors: Tensor) -> Tensor:
        with _giving(embedding, vectors):
            return evaluate(target, call(), 1).scores

    vectors = embedded.detach().clone().requires_grad_()
    if method == "gradient x input":
        shares = InputXGradient(score).attribute(vectors)
    else:
        shares = IntegratedGradients(score).attribute(vectors, internal_batch_size=1)
    summed: Tensor = shares.detach().sum(dim=2)[0].float()
    return summed


def _embedded(call: Forward, embedding: nn.Module) -> tuple[Tensor, Any]:
    """What the embedding gives in a plain forward pass, and the model's output.

    Copied, since the model may still change it in place, as BLIP adds positions to it.
    """
    found: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda *given: found.append(given[2].clone()))
    try:
        output = call()
    finally:
        handle.remove()
    if len(found) != 1 or found[0].ndim != 3 or len(found[0]) != 1:
        shapes = ", ".join(str(tuple(one.shape)) for one in found) or "nothing: it does not run"
        raise InputError(
            f"the embedding gives {shapes}; needed is one text, (1, token, channel), from one call"
        )
    return found[0], output


@contextmanager
def _giving(embedding: nn.Module, vectors: Tensor) -> Iterator[None]:
    """Inside the block the embedding gives these vectors."""
    handle = embedding.register_forward_hook(lambda *_: vectors.clone())
    try:
        yield
    finally:
        handle.remove()
