"""The bundled answerer: EfficientNet-Lite0, LSTMs that read, and attention between them."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multicam.tasks import backbone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer

PAD, UNKNOWN = "<pad>", "<unk>"
"""The words of a vocabulary that are no words: tokens 0 and 1."""

LONGEST = 26
"""Words of a question that are read."""

LAYER = "head.places"
"""The feature map V that a question looks at, 960 channels of 7 x 7."""

METHOD = "hirescam"
"""Attention gives each place a gradient of its own, which Grad-CAM's mean over places loses."""

GLANCES = 2
"""How often a member of the committee looks."""

MEMBERS = 3
"""How many read the question and answer it."""

EMBEDDED, READ, HIDDEN = 192, 256, 320
"""A member's sizes: of a word's embedding, of the LSTM, of a place's vector and its product."""


@final
class Answerer(nn.Module):
    """From a photo and a question to one of a list of answers.

    A committee answers: the mean of its members' logits counts. They share the encoder alone
    (an ensemble with a common trunk: Lee et al., "Why M Heads are Better than One", arXiv
    1511.06314), and each has channels of its own in the places' vectors and in the words'
    embeddings, so that one feature map and one embedding serve them all.

    For a member, photo and question meet in an element-wise product (Antol et al., "VQA",
    arXiv 1505.00468, section 4), after the question has chosen where to look, more than once
    (Yang et al., "Stacked Attention Networks", arXiv 1511.02274, section 3.3, with a scaled
    dot product as the attention and both glances side by side, not stacked):

        V   = ReLU(W_v A)                        one vector for each place
        q   = LSTM(question)                     the state after its last word
        s_g = sum of softmax(V W_g q / sqrt(d)) V        what glance g sees
        l   = MLP(ReLU(W_s [s_1, s_2]) * ReLU(W_q q))    the member's logits

    Args:
        encoder: the EfficientNet-Lite0 of `backbone.pretrained`; it is not trained.
        words: size of the vocabulary of questions.
        answers: size of the list of answers.
        dropout: on embeddings, places, question and product, while training.
    """

    def __init__(self, encoder: nn.Module, words: int, answers: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.head = Head(words, answers, dropout)

    def encode(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch places hidden"]:
        """V, a vector for each place."""
        return self.head.look(backbone.features(self.encoder, images))

    def answer(
        self,
        values: Float[Tensor, "batch places hidden"],
        tokens: Int[Tensor, "batch words"],
    ) -> Float[Tensor, "batch answers"]:
        """Logits of the answers to one question for each photo."""
        return self.head.fuse(values, self.head.read(tokens))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], tokens: Int[Tensor, "batch words"]
    ) -> Float[Tensor, "batch answers"]:
        """Encode, then answer."""
        return self.answer(self.encode(images), tokens)


@final
class Head(nn.Module):
    """The part of an `Answerer` that is trained."""

    def __init__(self, words: int, answers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, MEMBERS * EMBEDDED, padding_idx=0)
        self.places = backbone.Places(MEMBERS * HIDDEN)
        self.members = nn.ModuleList(Member(answers, dropout) for _ in range(MEMBERS))
        self.dropout = nn.Dropout(dropout)

    def look(
        self, features: Float[Tensor, "batch 1280 rows columns"]
    ) -> Float[Tensor, "batch places hidden"]:
        """One vector for each place of the feature map."""
        seen: Tensor = self.dropout(self.places(features).flatten(2).transpose(1, 2))
        return seen

    def read(self, tokens: Int[Tensor, "batch words"]) -> Float[Tensor, "member batch read"]:
        """What each member knows after the last word; padding changes nothing."""
        embedded = self.embedding(tokens).chunk(MEMBERS, dim=2)
        last = (tokens != 0).sum(dim=1).clamp(min=1) - 1
        pairs = zip(cast("Iterable[Member]", self.members), embedded, strict=True)
        return torch.stack([member.read(own, last) for member, own in pairs])

    def votes(
        self,
        values: Float[Tensor, "batch places hidden"],
        questions: Float[Tensor, "member batch read"],
    ) -> Float[Tensor, "member batch answers"]:
        """The logits of each member."""
        seen = values.chunk(MEMBERS, dim=2)
        given = zip(self.members, seen, questions, strict=True)
        return torch.stack([member(own, question) for member, own, question in given])

    def fuse(
        self,
        values: Float[Tensor, "batch places hidden"],
        questions: Float[Tensor, "member batch read"],
    ) -> Float[Tensor, "batch answers"]:
        """The mean of the members' logits."""
        return self.votes(values, questions).mean(dim=0)


@final
class Member(nn.Module):
    """One that reads, looks and answers."""

    def __init__(self, answers: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(EMBEDDED, READ, batch_first=True)
        self.query = nn.Linear(READ, GLANCES * HIDDEN)
        self.seen = nn.Linear(GLANCES * HIDDEN, HIDDEN)
        self.asked = nn.Linear(READ, HIDDEN)
        self.decide = nn.Linear(HIDDEN, HIDDEN)
        self.answers = nn.Linear(HIDDEN, answers)
        self.dropout = nn.Dropout(dropout)

    def read(
        self, embedded: Float[Tensor, "batch words embedded"], last: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch read"]:
        """The LSTM's state after the last word."""
        states, _ = self.lstm(self.dropout(embedded))
        known: Tensor = self.dropout(states[torch.arange(len(last)), last])
        return known

    def forward(
        self,
        values: Float[Tensor, "batch places hidden"],
        question: Float[Tensor, "batch read"],
    ) -> Float[Tensor, "batch answers"]:
        """Look where the question says, multiply, decide."""
        queries = self.query(question).unflatten(1, (GLANCES, -1)) / values.shape[2] ** 0.5
        weights = (values @ queries.transpose(1, 2)).softmax(dim=1)
        seen = self.seen((weights.transpose(1, 2) @ values).flatten(1)).relu()
        fused = self.dropout(seen * self.asked(question).relu())
        logits: Tensor = self.answers(self.dropout(self.decide(fused).relu()))
        return logits


def pretrained() -> tuple[Answerer, Tokenizer, list[str]]:
    """The answerer with its shipped weights, in eval mode, its vocabulary and its answers.

    Raises:
        MissingExtraError: timm or the encoder's weights are not installed.
    """
    from safetensors.torch import load
    from tokenizers import Tokenizer

    folder = files("multicam.tasks") / "weights"
    tokenizer = Tokenizer.from_buffer((folder / "vqa.vocabulary.json").read_bytes())
    answers: list[str] = json.loads((folder / "vqa.answers.json").read_text("utf-8"))
    model = Answerer(backbone.pretrained(), tokenizer.get_vocab_size(), len(answers))
    weights = load((folder / "vqa.safetensors").read_bytes())
    model.head.load_state_dict({name: value.float() for name, value in weights.items()})
    return model.eval(), tokenizer, answers
