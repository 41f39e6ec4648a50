"""Models of Hugging Face that answer questions: ViLT, and BLIP for question answering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BlipForQuestionAnswering, ViltForQuestionAnswering

from multicam.errors import InputError
from multicam.finer import Choice
from multicam.grids import Reshape, token_grid
from multicam.layers import Layer
from multicam.targets import Difference, Target
from multicam.tasks.answers import Answering, AnswerList, Posed
from multicam.tasks.huggingface import pretrained, vocabulary_of
from multicam.tasks.questions import Reader
from multicam.tasks.sources import processed
from multicam.tasks.vqa import VisualQuestionAnswering

Images: TypeAlias = Float[Tensor, "batch 3 height width"]
"""Photos as the model's image processor gives them."""

Tokens: TypeAlias = Int[Tensor, "batch token"]
"""Questions, the shorter ones padded."""

States: TypeAlias = Float[Tensor, "_ channel"]
"""What BLIP makes of each token of a question in the light of its photo."""

Texts: TypeAlias = Sequence[Sequence[Sequence[int]]]
"""The answers to each question, as many to each, in tokens without start and end."""

BEAM = 3
"""At least as many texts are followed in the search for answers."""

LONGEST = 10
"""Tokens of the longest answer that is searched for."""


@final
@dataclass(frozen=True, eq=False)
class Vilt:
    """ViLT (Kim et al., arXiv 2102.03334): one transformer reads question and photo.

    The model itself takes the patches of a photo in an order drawn at random, and no more
    than `max_image_length` where that is set. Here it is given all of them, row by row.

    Args:
        model: the network.
        pad: the token that fills up shorter questions.
    """

    model: ViltForQuestionAnswering
    pad: int

    def logits(self, images: Images, tokens: Tokens, /) -> Float[Tensor, "batch answer"]:
        """Those of the answers."""
        asked = (tokens != self.pad).long()
        patches = self.patches(images)
        output = self.model(
            input_ids=tokens,
            attention_mask=asked,
            image_embeds=patches,
            pixel_mask=asked.new_ones(patches.shape[:2]),
        )
        logits: Tensor = output.logits
        return logits

    def patches(self, images: Images, /) -> Float[Tensor, "batch place channel"]:
        """The class token and the patches, each with its position."""
        embeddings: Any = self.model.vilt.embeddings
        grid: Tensor = embeddings.patch_embeddings(images)
        first, others = embeddings.position_embeddings.tensor_split([1], dim=1)
        side = self._config.image_size // self._config.patch_size
        positions = nn.functional.interpolate(
            others.transpose(1, 2).reshape(1, -1, side, side),
            size=grid.shape[2:],
            mode="bilinear",
            align_corners=True,
        )
        places = (grid + positions).flatten(2).transpose(1, 2)
        start = (embeddings.cls_token + first).expand(len(places), -1, -1)
        embedded: Tensor = embeddings.dropout(torch.cat([start, places], dim=1))
        return embedded

    def layer(self, images: Images, tokens: Tokens, /) -> Layer:
        """What the last attention is given: after it, only the question's first token counts."""
        rows, columns = (side // self._config.patch_size for side in images.shape[2:])
        name = f"vilt.encoder.layer.{self._config.num_hidden_layers - 1}.layernorm_before"
        return Layer(name, reshape=places_last(rows, columns, tokens.shape[1] + 1))

    @property
    def _config(self) -> Any:
        return self.model.config


def places_last(rows: int, columns: int, prefix: int) -> Reshape:
    """Lay out any layer of a model that reads text and photo together.

    Args:
        rows: of the photo's patches.
        columns: of the photo's patches.
        prefix: tokens before the patches: those of the text, and the class token.

    Returns:
        The places alone of (batch, token, channel); (batch, channel, row, column) as it is.
    """
    tokens = token_grid(rows, columns, prefix)
    return lambda output: output if output.ndim == 4 else tokens(output)


@final
@dataclass(frozen=True)
class AnswerLogProb:
    """The log-probability of one of the answers that a model was scored on, in (-inf, 0].

    Args:
        place: among the answers: the column of the output, (batch, answer).
        names: the answer to each question of the batch.
    """

    place: int
    names: tuple[str, ...]

    def __call__(self, output: Float[Tensor, "batch answer"]) -> Float[Tensor, " batch"]:
        """Scores of shape (batch,)."""
        return output[:, self.place]

    def choice(self, output: Float[Tensor, "batch answer"]) -> Choice:
        """The answers that this one was scored beside."""
        picked = torch.full((len(output), 1), self.place, device=output.device)
        return Choice(output.unsqueeze(1), picked)

    def labels(self, output: Float[Tensor, "batch answer"]) -> list[str]:
        """The answer to each question."""
        return list(self.names)

    def notes(self, output: Float[Tensor, "batch answer"]) -> list[str]:
        """The probability of each."""
        return [f"p = {p:.2g}" for p in self(output).exp().tolist()]


@final
@dataclass(frozen=True, eq=False)
class Blip:
    """BLIP (Li et al., arXiv 2201.12086), which answers in words of its own.

    The score of an answer is the log-probability of its text, the end token [SEP] among
    its tokens, after the start token [DEC]:

        s(answer) = sum_i log p(token_i | photo, question, tokens before i)

    It is the loss that the model was trained with, turned round, and what its authors
    rank answers by (`rank_answer` in their code). Without the end, "red" would score as
    high as everything that begins with "red".

    Args:
        model: the network.
        reader: the vocabulary of its questions and answers.
    """

    model: BlipForQuestionAnswering
    reader: Reader

    def pose(
        self,
        images: Images,
        tokens: Tokens,
        answers: Sequence[str] | None,
        top: int,
        contrast: tuple[str, str] | None,
    ) -> Posed:
        """See `multicam.tasks.answers.Answering.pose`.

        Raises:
            InputError: a text has no word, a letter that the model does not know, or more
                tokens than it has positions for.
        """
        given = [*(answers or ()), *(contrast or ())]
        shared = [self.encode(text) for text in given]
        own = self.search(images, tokens, top) if answers is None else [[] for _ in tokens]
        texts = [[*found, *shared] for found in own]
        names = [[*map(self._spelled, found), *given] for found in own]
        targets: list[Target] = [
            AnswerLogProb(place, column) for place, column in enumerate(zip(*names, strict=True))
        ]
        if contrast is not None:
            targets[-2:] = [Difference(*targets[-2:])]
        return Posed((images, tokens), targets, partial(self.log_probs, texts), "vision_model")

    def log_probs(
        self, texts: Texts, images: Images, tokens: Tokens, /
    ) -> Float[Tensor, "batch answer"]:
        """The log-probabilities of the answers to each question."""
        read = self.read(images, tokens)
        return torch.stack([self._scores(*pair) for pair in zip(texts, read, strict=True)])

    def search(self, images: Images, tokens: Tokens, top: int, /) -> list[list[list[int]]]:
        """The most probable answers to each question that a beam search finds, best first."""
        with torch.no_grad():
            return [self._found(states, top) for states in self.read(images, tokens)]

    def read(self, images: Images, tokens: Tokens, /) -> list[States]:
        """What the decoder sees of each question.

        It sees questions one by one: its attention to them takes no mask for padding.
        """
        asked = tokens != self.reader.pad
        output = self.model.text_encoder(
            input_ids=tokens,
            attention_mask=asked,
            encoder_hidden_states=self.model.vision_model(pixel_values=images)[0],
        )
        return [states[known] for states, known in zip(output[0], asked, strict=True)]

    def encode(self, text: str) -> list[int]:
        """The tokens of an answer.

        Raises:
            InputError: see `pose`.
        """
        encoding = self.reader.tokenizer.encode(text, add_special_tokens=False)
        if not encoding.ids:
            raise InputError(f"the answer {text!r} holds no word; give what could be said")
        if self.reader.unknown in encoding.ids:
            first, last = encoding.offsets[encoding.ids.index(self.reader.unknown)]
            raise InputError(
                f"the answer {text!r} holds {text[first:last]!r}, which the model cannot say; "
                "spell it in letters that it knows"
            )
        if len(encoding.ids) > self._longest:
            raise InputError(
                f"the answer {text!r} has {len(encoding.ids)} tokens, and the model has places "
                f"for {self._longest}; give a shorter one"
            )
        return list(encoding.ids)

    def _found(self, states: States, top: int) -> list[list[int]]:
        decoder: Any = self.model.text_decoder
        rows = decoder.generate(
            torch.tensor([[self._start]], device=states.device),
            encoder_hidden_states=states.unsqueeze(0),
            eos_token_id=self._end,
            pad_token_id=self.reader.pad,
            num_beams=max(BEAM, top),
            num_return_sequences=top,
            length_penalty=0.0,
            min_new_tokens=1,
            max_new_tokens=min(LONGEST, self._longest),
            do_sample=False,
            return_dict_in_generate=False,
        )
        texts = [list(takewhile(lambda one: one != self._end, row[1:])) for row in rows.tolist()]
        order = self._scores(texts, states).argsort(descending=True, stable=True)
        return [texts[place] for place in order.tolist()]

    def _scores(self, texts: Sequence[Sequence[int]], states: States) -> Float[Tensor, " answer"]:
        """One row of the decoder for each answer; what fills up shorter ones does not count."""
        rows = [torch.tensor([self._start, *text, self._end]) for text in texts]
        padded = pad_sequence(rows, batch_first=True, padding_value=-1).to(states.device)
        given, wanted = padded[:, :-1].clamp(min=0), padded[:, 1:]
        output = self.model.text_decoder(
            input_ids=given,
            encoder_hidden_states=states.expand(len(rows), -1, -1),
            use_cache=False,
        )
        each = output.logits.log_softmax(dim=2).gather(2, wanted.clamp(min=0).unsqueeze(2))
        scores: Tensor = each.squeeze(2).where(wanted >= 0, 0).sum(dim=1)
        return scores

    def _spelled(self, tokens: Sequence[int]) -> str:
        return self.reader.tokenizer.decode(list(tokens), skip_special_tokens=False)

    @property
    def _start(self) -> int:
        """The token [DEC], as where the model itself answers."""
        return int(self.model.decoder_start_token_id)

    @property
    def _end(self) -> int:
        """The token [SEP]."""
        return int(self._text.sep_token_id)

    @property
    def _longest(self) -> int:
        """Tokens that there are positions for, beside the start token."""
        return int(self._text.max_position_embeddings) - 1

    @property
    def _text(self) -> Any:
        return self.model.config.text_config


Read: TypeAlias = tuple[Reader, Answering, str]
"""What reads the questions, what answers them, and the name of the layer that embeds them."""


def _vilt(model: ViltForQuestionAnswering, tokenizer: Any) -> Read:
    config: Any = model.config
    reader = reader_of(tokenizer, config.max_position_embeddings)
    vilt = Vilt(model, reader.pad)
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    answers = AnswerList(names, vilt.logits, torch.sigmoid, vilt.layer)
    return reader, answers, "vilt.embeddings.text_embeddings.word_embeddings"


def _blip(model: BlipForQuestionAnswering, tokenizer: Any) -> Read:
    config: Any = model.config
    reader = reader_of(tokenizer, config.text_config.max_position_embeddings)
    return reader, Blip(model, reader), "text_encoder.embeddings.word_embeddings"


FAMILIES: dict[type[Any], Callable[[Any, Any], Read]] = {
    ViltForQuestionAnswering: _vilt,
    BlipForQuestionAnswering: _blip,
}
"""By class of the model: how it is asked."""


def task_of(
    model: nn.Module, processor: Callable[..., Any], tokenizer: Any
) -> VisualQuestionAnswering:
    """The task of a model of Hugging Face that is loaded already.

    Args:
        model: a `ViltForQuestionAnswering` or `BlipForQuestionAnswering`.
        processor: its image processor.
        tokenizer: its fast tokenizer; it stays as it is.

    Returns:
        The task, with the model as it is.

    Raises:
        InputError: the model is of another class, or the tokenizer cannot be used; see
            `reader_of`.

    Example:
        >>> from transformers import AutoProcessor, ViltForQuestionAnswering
        >>> name = "dandelin/vilt-b32-finetuned-vqa"
        >>> model = ViltForQuestionAnswering.from_pretrained(name)            # doctest: +SKIP
        >>> both = AutoProcessor.from_pretrained(name)                        # doctest: +SKIP
        >>> task = task_of(model, both.image_processor, both.tokenizer)       # doctest: +SKIP
        >>> task.explain("dog.jpg", "what is the dog holding?").labels        # doctest: +SKIP
        (('frisbee', 'ball', 'stick'),)
    """
    for wanted, read in FAMILIES.items():
        if isinstance(model, wanted):
            reader, answers, embedding = read(model, tokenizer)
            prepare = partial(processed, processor)
            return VisualQuestionAnswering(model, prepare, reader, answers, embedding=embedding)
    raise InputError(
        f"{type(model).__name__} is not known here, but {_known()} are; give any other model to "
        "VisualQuestionAnswering, with its answers"
    )


def hugging_face(name: str) -> VisualQuestionAnswering:
    """A model of Hugging Face that answers questions, with its image processor and tokenizer.

    Args:
        name: of a repository on the Hub, or a folder.

    Returns:
        The model on the CPU, in eval mode.

    Raises:
        InputError: it cannot be loaded, or is of another kind than `task_of` takes.
    """
    return task_of(*pretrained(name, FAMILIES))


def reader_of(tokenizer: Any, longest: int) -> Reader:
    """The vocabulary of questions of a fast tokenizer of Hugging Face.

    Args:
        tokenizer: the tokenizer; it stays as it is.
        longest: how many tokens the model has positions for.

    Raises:
        InputError: the tokenizer has no token for padding, or `vocabulary_of` refuses it.
    """
    whole = vocabulary_of(tokenizer, tokenizer.cls_token_id, tokenizer.sep_token_id)
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{type(tokenizer).__name__} has no token for padding; set its pad_token to the one "
            "that the model was trained with"
        )
    return Reader(
        whole.tokenizer, unknown=whole.unknown, pad=tokenizer.pad_token_id, longest=longest
    )


def _known() -> str:
    return ", ".join(wanted.__name__ for wanted in FAMILIES)
