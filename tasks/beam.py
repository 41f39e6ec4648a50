"""Beam search for any decoder that gives logits for the words so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from multicam.errors import InputError


def beam_search(
    decode: Callable[[Any, Tensor], Tensor],
    features: Any,
    *,
    start: int,
    end: int,
    forbidden: tuple[int, ...] = (),
    beam: int = 5,
    longest: int = 20,
    length_power: float = 0.7,
) -> list[list[int]]:
    """The most probable word sequences that a beam finds.

    At each step the best continuations of the kept sequences are kept; those that end
    are set aside, until there are as many of them as the beam is wide. They compete by
    log-probability / length ** length_power (Wu et al., arXiv 1609.08144, section 7,
    without the constant), so that short ones do not win by being short. A beam of 1 is
    greedy search.

    Args:
        decode: from features and tokens (batch, step) to logits (batch, step, word).
        features: of one photo or several: a tensor or a nest of them, batch first.
        start: token that every sequence begins with.
        end: token that ends one.
        forbidden: tokens that are never said.
        beam: sequences kept at each step, 1 or more.
        longest: tokens after which a sequence counts as finished.
        length_power: 0 for plain log-probability.

    Returns:
        The tokens for each photo, without start and end.

    Raises:
        InputError: the beam or the length is below 1.
    """
    if beam < 1 or longest < 1:
        raise InputError(f"beam={beam}, longest={longest}: both need to be 1 or more")
    tensors = [leaf for leaf in pytree.tree_leaves(features) if isinstance(leaf, Tensor)]
    batch, device = len(tensors[0]), tensors[0].device
    features = pytree.tree_map_only(
        Tensor, lambda tensor: tensor.repeat_interleave(beam, dim=0), features
    )
    tokens = torch.full((batch * beam, 1), start, device=device)
    offsets = beam * torch.arange(batch, device=device).unsqueeze(1)
    scores = torch.full((batch, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]
    for step in range(1, longest + 1):
        log_probs = decode(features, tokens)[:, -1].log_softmax(dim=1)
        log_probs[:, [start, *forbidden]] = -torch.inf
        words = log_probs.shape[1]
        total = scores.unsqueeze(2) + log_probs.reshape(batch, beam, words)
        scores, where = total.flatten(1).topk(2 * beam, dim=1)
        rows, said = where // words + offsets, where % words
        ended = said == end
        for photo, rank in ended[:, :beam].nonzero().tolist():
            score = scores[photo, rank].item()
            if len(finished[photo]) < beam and score > -torch.inf:
                sequence = tokens[rows[photo, rank], 1:].tolist()
                finished[photo].append((score / step**length_power, sequence))
        if all(len(found) == beam for found in finished):
            break
        going_on = ended.int().argsort(dim=1, stable=True)[:, :beam]
        scores, rows, said = (one.gather(1, going_on) for one in (scores, rows, said))
        tokens = torch.cat([tokens[rows.flatten()], said.reshape(-1, 1)], dim=1)
    longest_so_far = tokens.reshape(batch, beam, -1)[:, 0, 1:].tolist()
    return [
        max(found)[1] if found else rest
        for found, rest in zip(finished, longest_so_far, strict=True)
    ]
