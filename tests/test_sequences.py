"""Targets of words and phrases."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multicam import (
    CaptionLogProb,
    ConceptLogit,
    ConceptLogProb,
    PhraseLogit,
    PhraseLogProb,
    TargetError,
    TokenLogit,
    TokenLogProb,
)

# Two samples, two steps, three words; exp of the rows: (1, 2, 1), (4, 1, 3), (1, 1, 2), (5, 3, 2).
LOGITS = torch.tensor([[[1.0, 2, 1], [4, 1, 3]], [[1, 1, 2], [5, 3, 2]]]).log()


def test_a_token_is_scored_at_its_step() -> None:
    assert TokenLogit(1, 2)(LOGITS).exp().tolist() == pytest.approx([3, 2])
    assert TokenLogProb(1, 2)(LOGITS).exp().tolist() == pytest.approx([3 / 8, 2 / 10])


def test_a_phrase_multiplies_the_probabilities_of_its_tokens() -> None:
    steps, tokens = (0, 1), (1, 0)
    assert PhraseLogit(steps, tokens)(LOGITS).exp().tolist() == pytest.approx([2 * 4, 1 * 5])
    expected = [2 / 4 * 4 / 8, 1 / 4 * 5 / 10]
    assert PhraseLogProb(steps, tokens)(LOGITS).exp().tolist() == pytest.approx(expected)


def test_a_caption_is_the_phrase_of_all_steps() -> None:
    caption = CaptionLogProb([1, 0])(LOGITS)
    assert torch.equal(caption, PhraseLogProb((0, 1), (1, 0))(LOGITS))


def test_a_concept_adds_the_probabilities_of_its_words() -> None:
    concept = ConceptLogProb(1, [0, 2])
    assert concept(LOGITS).exp().tolist() == pytest.approx([7 / 8, 7 / 10])
    assert ConceptLogit(1, [0, 2])(LOGITS).exp().tolist() == pytest.approx([7, 7])
    assert concept.notes(LOGITS) == ["p = 0.88", "p = 0.7"]


def test_the_map_of_a_concept_is_free_of_what_tells_its_words_apart() -> None:
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ConceptLogProb(0, [0, 1, 2])(logits).sum(), logits)
    assert gradient.abs().max() < 1e-6


def test_the_logits_are_found_in_the_output_of_a_model() -> None:
    output = SimpleNamespace(logits=LOGITS, past=LOGITS + 1)
    assert torch.equal(TokenLogit(0, 1)(output), TokenLogit(0, 1)(LOGITS))
    assert torch.equal(TokenLogit(0, 1, key="past")(output), TokenLogit(0, 1)(LOGITS + 1))
    assert TokenLogProb(0, 1).labels(output) == ["token 1 at step 0"] * 2


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 7), st.data())
def test_log_probabilities_follow_the_chain_rule(
    batch: int, steps: int, words: int, data: st.DataObject
) -> None:
    logits = torch.randn(batch, steps, words, dtype=torch.double)
    tokens = data.draw(st.lists(st.integers(0, words - 1), min_size=1, max_size=steps))
    each = [TokenLogProb(step, token)(logits) for step, token in enumerate(tokens)]
    whole = CaptionLogProb(tokens)(logits)
    assert torch.allclose(whole, torch.stack(each).sum(dim=0))
    assert (whole <= 1e-12).all()
    slow = [
        sum(
            logits[i, s, t].item() - math.log(logits[i, s].exp().sum().item())
            for s, t in enumerate(tokens)
        )
        for i in range(batch)
    ]
    assert whole.tolist() == pytest.approx(slow)


@pytest.mark.parametrize(
    ("target", "logits", "message"),
    [
        (TokenLogit(2, 0), LOGITS, r"step 2 is not among the 2 steps .* \(0 to 1\)"),
        (TokenLogit(-1, 0), LOGITS, "step -1 is not among the 2 steps"),
        (TokenLogProb(0, 3), LOGITS, r"token 3 is not among the 3 tokens .* \(0 to 2\)"),
        (PhraseLogProb((0, 1), (1,)), LOGITS, "2 steps and 1 tokens were given"),
        (CaptionLogProb([]), LOGITS, "at least one of each is needed"),
        (TokenLogit(0, 0), LOGITS[0], r"an output of shape \(batch, step, vocabulary\)"),
    ],
)
def test_a_token_that_does_not_fit_is_refused(
    target: TokenLogit, logits: Tensor, message: str
) -> None:
    with pytest.raises(TargetError, match=message):
        target(logits)
