"""The pass that a text is explained by: a photo encoded, and given tokens decoded on it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from multicam.errors import LayerError, UnreachedError
from multicam.explainer import explain
from multicam.layers import feature_maps
from multicam.targets import Target


@runtime_checkable
class EncoderDecoder(Protocol):
    """What a captioner has to offer: the photo's features, and the logits of the words."""

    def encode(self, images: Tensor, /) -> Any:
        """Features of a batch of photos: a tensor, or a nest of them, batch first."""
        ...

    def decode(self, features: Any, tokens: Tensor, /) -> Tensor:
        """Logits (batch, step, vocabulary) of the token after each of the given ones.

        Args:
            features: what encode gave.
            tokens: (batch, step), of which the first is the start.
        """
        ...


@dataclass(frozen=True)
class Teacher:
    """Encodes photos, and decodes given tokens on them (teacher forcing)."""

    coder: EncoderDecoder

    def __call__(
        self, images: Float[Tensor, "batch channel height width"], tokens: Int[Tensor, "batch step"]
    ) -> Float[Tensor, "batch step vocabulary"]:
        """The logits at each step."""
        return self.coder.decode(self.coder.encode(images), tokens)


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
