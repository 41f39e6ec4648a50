"""Changed activations the plain way: hooks, and the whole model once for each change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from multicam.forward import Forward
from multicam.guard import guarded
from multicam.layers import Layer, locate
from multicam.scene import Scene, run
from multicam.targets import Target

Change = Callable[[Tensor], Tensor]


def changed_scores(
    forward: Forward,
    targets: Sequence[Target],
    layer: str | Layer,
    changes: Sequence[Change],
) -> Tensor:
    """Scores (change, target, batch), the layer's output changed in the whole batch."""
    located = locate(forward, layer)
    scores = []
    for change in changes:
        calls: list[int] = []

        def changed(
            _module: nn.Module,
            _args: Any,
            output: Tensor,
            change: Change = change,
            calls: list[int] = calls,
        ) -> Tensor:
            calls.append(1)
            return change(output) if len(calls) - 1 == (located.call or 0) else output

        with guarded(forward.model), torch.no_grad():
            with located.module.register_forward_hook(changed):
                output = forward()
            scores.append(torch.stack([target(output) for target in targets]))
    return torch.stack(scores)


def without(channel: int, dim: int = 1) -> Change:
    """Activations with a channel set to zero."""

    def change(activations: Tensor) -> Tensor:
        kept = activations.clone()
        kept.select(dim, channel).zero_()
        return kept

    return change


def without_in_places(channel: int) -> Change:
    """Tokens with a channel set to zero in all of them but the first, the class token."""

    def change(tokens: Tensor) -> Tensor:
        kept = tokens.clone()
        kept[:, 1:, channel] = 0
        return kept

    return change


def scene_of(forward: Forward, targets: Sequence[Target], layer: str | Layer | None) -> Scene:
    """A recorded pass."""
    with guarded(forward.model), torch.no_grad():
        return run(forward, targets, None if layer is None else locate(forward, layer))


def ablated_scores(scene: Scene, channels: Sequence[int], chunk: int | None = None) -> Tensor:
    """Scores (channel, target, batch) without one channel each, by the library."""
    activations = scene.activations

    def factors(_: int, numbers: Tensor) -> Tensor:
        rows = activations.new_ones(len(numbers), *activations.shape[1:])
        rows[torch.arange(len(numbers)), torch.tensor(channels)[numbers]] = 0
        return rows

    with guarded(scene.forward.model), torch.no_grad():
        return scene.with_activations(chunk, None)(len(channels), factors)
