"""Many scores of one photo in one pass: a row of the decoder for each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from multicam.errors import InputError, LayerError, UnreachedError
from multicam.explainer import explain
from multicam.explanation import Explanation
from multicam.layers import feature_maps
from multicam.targets import Scored, Target, evaluate
from multicam.tasks.base import Layers
from multicam.weighting import Method


@runtime_checkable
class EncoderDecoder(Protocol):
    """What a captioner has to offer: the photo's features, and the logits of the words.

    The decoder is given a row for each phrase that is explained, so neither method may
    hold on to a batch size.
    """

    def encode(self, images: Tensor, /) -> Any:
        """Features of a batch of photos: a tensor, or a nest of them, batch first."""
        ...

    def decode(self, features: Any, tokens: Tensor, /) -> Tensor:
        """Logits (batch, step, vocabulary) of the token after each of the given ones.

        Args:
            features: what encode gave, with as many rows as the tokens.
            tokens: (batch, step), of which the first is the start.
        """
        ...


class NotCopiedError(InputError):
    """The encoder's features have not as many rows as there are rows of tokens."""


@dataclass(frozen=True)
class Teacher:
    """Encodes a photo, and decodes rows of given tokens on it (teacher forcing)."""

    coder: EncoderDecoder

    def __call__(
        self, images: Float[Tensor, "1 channel height width"], tokens: Int[Tensor, "rows step"]
    ) -> Float[Tensor, "rows step vocabulary"]:
        """The logits of each row.

        Raises:
            NotCopiedError: the features are not batch first, or the layer's copies got
                lost on the way to them.
        """
        features = self.coder.encode(images)
        rows = len(tokens)
        tensors = [leaf for leaf in pytree.tree_leaves(features) if isinstance(leaf, Tensor)]
        if not any(tensor.ndim and len(tensor) == rows for tensor in tensors):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
            raise NotCopiedError(
                f"encode gives features of shape {shapes} for {rows} rows; they need to be batch "
                "first"
            )
        spread = pytree.tree_map(lambda leaf: _spread(leaf, rows), features)
        return self.coder.decode(spread, tokens)


def explain_rows(
    model: nn.Module,
    coder: EncoderDecoder,
    image: Float[Tensor, "1 channel height width"],
    tokens: Int[Tensor, "1 step"],
    targets: Sequence[Target],
    *,
    layer: Layers,
    method: str | Method = "gradcam",
) -> Explanation:
    """Explain scores of one photo's text: a decoder row each, one backward pass for all.

    The layer hands its feature map on in copies, so that each row has a gradient of its
    own. Where the copies do not arrive at the decoder, it runs on one row, with a
    backward pass for each target; the maps are the same.

    Args:
        model: the network that holds the layer.
        coder: its encoder and decoder.
        image: the model's input.
        tokens: the text, from the start token on.
        targets: of the logits (1, step, vocabulary).
        layer: the feature map, or a list to fuse.
        method: as for `multicam.explain`.

    Returns:
        Maps (1, target, height, width).
    """
    rows = len(targets)
    options: dict[str, Any] = {"layer": layer, "method": method, "forward": Teacher(coder)}
    try:
        each = _EachRow(targets)
        copied = explain(model, (image, tokens.expand(rows, -1)), each, copies=rows, **options)
    except (NotCopiedError, RuntimeError):
        return explain(model, (image, tokens), targets, **options)
    return replace(
        copied,
        maps=copied.maps.transpose(0, 1),
        scores=copied.scores.T,
        labels=(tuple(label for (label,) in copied.labels),),
        notes=(tuple(note for (note,) in copied.notes),),
    )


def last_layer(
    model: nn.Module,
    coder: EncoderDecoder,
    image: Float[Tensor, "1 channel height width"],
    tokens: Int[Tensor, "1 step"],
    target: Target,
) -> str:
    """The name of the encoder's last feature map that a score depends on.

    The decoder's own maps, which hold words and no places, are not tried.

    Raises:
        LayerError: there is none.
    """
    maps = [found for found in feature_maps(model, image, coder.encode) if found.candidate]
    for found in reversed(maps):
        options: dict[str, Any] = {"layer": found.name, "forward": Teacher(coder)}
        with suppress(UnreachedError):
            if explain(model, (image, tokens), target, **options).maps.any():
                return found.name
    listed = ", ".join(repr(found.name) for found in maps) or "none"
    raise LayerError(
        f"the caption depends on none of the encoder's feature maps (tried: {listed}); name a "
        "layer of the model with layer=..."
    )


class _EachRow:
    """The first target of the first row, the second of the second, and so on.

    Labels and notes come from the scores' own pass over the rows.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._scored: list[Scored] = []

    def __call__(self, logits: Tensor) -> Tensor:
        pairs = zip(self._targets, logits.unsqueeze(1), strict=True)
        self._scored = [evaluate(target, row, 1) for target, row in pairs]
        return torch.cat([scored.scores for scored in self._scored])

    def labels(self, logits: Tensor) -> list[str]:
        return [scored.labels[0] for scored in self._scored]

    def notes(self, logits: Tensor) -> list[str]:
        return [scored.notes[0] for scored in self._scored]


def _spread(leaf: Any, rows: int) -> Any:
    """A tensor of one row, seen by all rows of the decoder."""
    if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == 1 < rows:
        return leaf.expand(rows, *leaf.shape[1:])
    return leaf
