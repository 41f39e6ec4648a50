"""Beam search, against every sequence tried."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multicam import InputError
from multicam.tasks.beam import beam_search

START, END, FORBIDDEN = 0, 1, 2


def decoder(words: int, seed: int) -> Tensor:
    """Logits of the next word by the word before: (features, before, next)."""
    return 2 * torch.randn(3, words, words, generator=torch.Generator().manual_seed(seed))


def search(table: Tensor, photos: list[int], **options: float) -> list[list[int]]:
    def decode(features: Tensor, tokens: Tensor) -> Tensor:
        return torch.stack([table[int(f)][row] for f, row in zip(features, tokens, strict=True)])

    features = torch.tensor(photos, dtype=torch.float)
    given: dict[str, float] = {"beam": 5, "longest": 4, "length_power": 0.7} | options
    return beam_search(
        decode,
        features,
        start=START,
        end=END,
        forbidden=(FORBIDDEN,),
        beam=int(given["beam"]),
        longest=int(given["longest"]),
        length_power=given["length_power"],
    )


def best(table: Tensor, photo: int, longest: int, power: float) -> list[int]:
    """The best of all finished sequences, one by one."""
    log_probs = table[photo].log_softmax(dim=1)
    words = range(FORBIDDEN + 1, table.shape[1])
    found = []
    for length in range(longest):
        for said in product(words, repeat=length):
            sequence = [START, *said, END]
            score = sum(log_probs[a, b].item() for a, b in pairwise(sequence))
            found.append((score / (length + 1) ** power, list(said)))
    return max(found)[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.0, 0.7, 1.0]))
def test_a_beam_that_holds_everything_finds_the_best(seed: int, longest: int, power: float) -> None:
    table = decoder(6, seed)
    found = search(table, [0, 1, 2], beam=200, longest=longest, length_power=power)
    assert found == [best(table, photo, longest, power) for photo in range(3)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    table = decoder(6, seed)
    table[:, :, FORBIDDEN] = table[:, :, START] = -torch.inf
    word, said = START, list[int]()
    while len(said) < 4 and (word := int(table[0][word].argmax())) != END:
        said.append(word)
    assert search(table, [0], beam=1) == [said]


def test_photos_of_a_batch_do_not_disturb_each_other() -> None:
    table = decoder(9, 3)
    together = search(table, [0, 1, 2, 1], beam=3)
    assert together == [search(table, [photo], beam=3)[0] for photo in (0, 1, 2, 1)]


def test_a_beam_wider_than_the_vocabulary_is_no_error() -> None:
    assert search(decoder(4, 0), [0], beam=50)


@pytest.mark.parametrize("options", [{"beam": 0}, {"beam": -2}, {"longest": 0}])
def test_a_beam_of_nothing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="both need to be 1 or more"):
        search(decoder(5, 0), [0], **options)
