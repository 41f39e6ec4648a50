"""Captioners of Hugging Face: vision encoder-decoders, BLIP and GIT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    BlipForConditionalGeneration,
    GitForCausalLM,
    VisionEncoderDecoderModel,
)

from multicam.errors import InputError
from multicam.tasks.captioning import Captioning
from multicam.tasks.huggingface import pretrained, vocabulary_of
from multicam.tasks.sources import processed

Images: TypeAlias = Float[Tensor, "batch 3 height width"]
"""Photos as the model's image processor gives them."""

Features: TypeAlias = Float[Tensor, "row place channel"]
"""What the vision encoder says of each place, its class token among them."""

Tokens: TypeAlias = Int[Tensor, "row step"]
"""Texts, from the start token on."""

Logits: TypeAlias = Float[Tensor, "row step vocabulary"]
"""Those of the token after each of the given ones."""

LONGEST = 50
"""Tokens of the longest caption, where the model has positions for as many."""


@final
@dataclass(frozen=True, eq=False)
class VisionEncoderDecoder:
    """Any vision encoder with any text decoder that attends to it.

    Args:
        model: the network.
    """

    model: VisionEncoderDecoderModel

    @property
    def start(self) -> int:
        """The decoder's start token."""
        settings = self.model.generation_config
        own = settings.decoder_start_token_id
        return _token(settings.bos_token_id if own is None else own, "decoder_start_token_id")

    @property
    def end(self) -> int:
        """The token after which generation stops."""
        return _token(self.model.generation_config.eos_token_id, "eos_token_id")

    @property
    def longest(self) -> int:
        """At most as many tokens as the decoder has positions for."""
        decoder: Any = self.model.decoder
        return min(LONGEST, getattr(decoder.config, "max_position_embeddings", LONGEST))

    @property
    def layer(self) -> str:
        """The encoder, of which the decoder sees the last hidden state."""
        return "encoder"

    def encode(self, images: Images, /) -> Features:
        """The encoder's last hidden state."""
        encoder: Any = self.model.encoder
        features: Tensor = encoder(pixel_values=images)[0]
        return features

    def decode(self, features: Features, tokens: Tokens, /) -> Logits:
        """The decoder's logits, the features projected to its width where that is needed."""
        output = self.model(encoder_outputs=(features,), decoder_input_ids=tokens, use_cache=False)
        logits: Tensor = output.logits
        return logits

    def generate(self, images: Images, beam: int, longest: int, /) -> list[int]:
        """A caption of one photo by the model's own search, without start and end."""
        return _generated(self.model, images, beam, longest, self.end, eos_token_id=self.end)


@final
@dataclass(frozen=True, eq=False)
class Blip:
    """BLIP (Li et al., arXiv 2201.12086) as a captioner, without a prompt.

    Args:
        model: the network.
    """

    model: BlipForConditionalGeneration

    @property
    def start(self) -> int:
        """The token [DEC]."""
        return _token(self._text.bos_token_id, "bos_token_id")

    @property
    def end(self) -> int:
        """The token [SEP]."""
        return _token(self._text.sep_token_id, "sep_token_id")

    @property
    def longest(self) -> int:
        """At most as many tokens as the decoder has positions for."""
        return min(LONGEST, int(self._text.max_position_embeddings))

    @property
    def layer(self) -> str:
        """The vision model, of which the decoder sees the last hidden state."""
        return "vision_model"

    def encode(self, images: Images, /) -> Features:
        """The vision model's last hidden state."""
        features: Tensor = self.model.vision_model(pixel_values=images)[0]
        return features

    def decode(self, features: Features, tokens: Tokens, /) -> Logits:
        """The text decoder's logits."""
        output = self.model.text_decoder(
            input_ids=tokens, encoder_hidden_states=features, use_cache=False
        )
        logits: Tensor = output.logits
        return logits

    def generate(self, images: Images, beam: int, longest: int, /) -> list[int]:
        """A caption of one photo by the model's own search, without start and end."""
        return _generated(self.model, images, beam, longest, self.end)

    @property
    def _text(self) -> Any:
        return self.model.config.text_config


@final
@dataclass(frozen=True, eq=False)
class Git:
    """GIT (Wang et al., arXiv 2205.14100): one transformer reads the photo, then the text.

    Args:
        model: the network.

    Raises:
        InputError: it captions videos.
    """

    model: GitForCausalLM

    def __post_init__(self) -> None:
        frames = self.model.config.num_image_with_embedding
        if frames is not None:
            raise InputError(
                f"this GIT captions videos of {frames} frames; give one for photos, such as "
                "microsoft/git-base-coco"
            )

    @property
    def start(self) -> int:
        """The token [CLS]."""
        return _token(self.model.generation_config.bos_token_id, "bos_token_id")

    @property
    def end(self) -> int:
        """The token [SEP]."""
        return _token(self.model.generation_config.eos_token_id, "eos_token_id")

    @property
    def longest(self) -> int:
        """At most as many tokens as there are positions for."""
        return min(LONGEST, self.model.config.max_position_embeddings)

    @property
    def layer(self) -> str:
        """The photo as the transformer is given it."""
        return "git.visual_projection"

    def encode(self, images: Images, /) -> Features:
        """The photo as the transformer is given it: projected to the width of the text."""
        git = self.model.git
        features: Tensor = git.visual_projection(git.image_encoder(pixel_values=images)[0])
        return features

    def decode(self, features: Features, tokens: Tokens, /) -> Logits:
        """The logits at the text; the model itself gives those at the photo before them.

        The model has no entrance for a photo that is encoded already, so this is its
        forward pass from there on.
        """
        git, places = self.model.git, features.shape[1]
        both = torch.cat([features, git.embeddings(input_ids=tokens)], dim=1)
        hidden = git.encoder(both, attention_mask=_photo_then_text(both, places))[0]
        logits: Tensor = self.model.output(hidden[:, places:])
        return logits

    def generate(self, images: Images, beam: int, longest: int, /) -> list[int]:
        """A caption of one photo by the model's own search, without start and end."""
        return _generated(self.model, images, beam, longest, self.end, eos_token_id=self.end)


HuggingFaceCaptioner: TypeAlias = VisionEncoderDecoder | Blip | Git
"""A model of Hugging Face in two halves, and what else `Captioning` needs to know of it."""

FAMILIES: dict[type[Any], Callable[[Any], HuggingFaceCaptioner]] = {
    VisionEncoderDecoderModel: VisionEncoderDecoder,
    BlipForConditionalGeneration: Blip,
    GitForCausalLM: Git,
}
"""By class of the model: its captioner here."""


def captioner_of(model: nn.Module) -> HuggingFaceCaptioner:
    """The encode, decode and generate of a captioner of Hugging Face.

    Args:
        model: a `VisionEncoderDecoderModel`, `BlipForConditionalGeneration` or
            `GitForCausalLM`.

    Raises:
        InputError: it is of another class.

    Example:
        >>> from transformers import BlipForConditionalGeneration
        >>> model = BlipForConditionalGeneration.from_pretrained(name)    # doctest: +SKIP
        >>> captioner = captioner_of(model)                               # doctest: +SKIP
        >>> logits = captioner.decode(captioner.encode(images), tokens)   # doctest: +SKIP
    """
    for wanted, captioner in FAMILIES.items():
        if isinstance(model, wanted):
            return captioner(model)
    raise InputError(
        f"{type(model).__name__} is no captioner known here, but {_known()} are; wrap it in an "
        "object with encode(images) and decode(features, tokens), and pass that as captioner=..."
    )


def hugging_face(name: str) -> Captioning:
    """A captioner of Hugging Face with its image processor and tokenizer.

    Args:
        name: of a repository on the Hub, or a folder.

    Returns:
        The captioner on the CPU, in eval mode.

    Raises:
        InputError: it cannot be loaded, or is of another kind than `captioner_of` takes.
    """
    model, processor, words = pretrained(name, FAMILIES)
    captioner = captioner_of(model)
    return Captioning(
        model,
        partial(processed, processor),
        vocabulary_of(words, captioner.start, captioner.end),
        captioner=captioner,
        generate=captioner.generate,
        layer=captioner.layer,
        longest=captioner.longest,
    )


def _generated(
    model: Any, images: Tensor, beam: int, longest: int, end: int, **settings: Any
) -> list[int]:
    rows = model.generate(
        pixel_values=images,
        num_beams=beam,
        max_new_tokens=longest,
        do_sample=False,
        return_dict_in_generate=False,
        **settings,
    )
    return list(takewhile(lambda token: token != end, rows[0, 1:].tolist()))


def _photo_then_text(both: Tensor, places: int) -> Float[Tensor, "1 1 all all"]:
    """What may attend to what, as a summand: all to the photo, the text to itself so far."""
    count = both.shape[1]
    allowed = torch.ones(count, count, dtype=torch.bool, device=both.device).tril()
    allowed[:, :places] = True
    lowest = torch.finfo(both.dtype).min
    return torch.zeros_like(allowed, dtype=both.dtype).masked_fill(~allowed, lowest)[None, None]


def _token(value: int | Sequence[int] | None, name: str) -> int:
    """A special token; the first, where there are several."""
    if isinstance(value, int):
        return value
    if not value:
        raise InputError(f"the model names no {name}; set it in model.generation_config")
    return value[0]


def _known() -> str:
    return ", ".join(wanted.__name__ for wanted in FAMILIES)
