"""From questions to tokens, and which tokens make each of their words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from multicam.errors import InputError
from multicam.tasks.vocabulary import AROUND_WORDS, PUNCTUATION, Word


@dataclass(frozen=True)
class Question:
    """A question as a model reads it.

    Attributes:
        text: as it was asked.
        tokens: those of the model, special ones among them.
        words: the words of the text, each with the positions of its tokens.
        unknown: the words that the model has never seen.
    """

    text: str
    tokens: tuple[int, ...]
    words: tuple[Word, ...]
    unknown: tuple[str, ...]


@final
class Reader:
    """A model's vocabulary of questions.

    Args:
        tokenizer: turns text into tokens.
        unknown: the token that stands for words that are not in the vocabulary; None
            where there are none, as with word pieces.
        pad: the token that shorter questions of a batch are filled up with.
        longest: how many tokens the model reads; None for any number.

    Example:
        >>> reader = Reader.of_words(["<pad>", "<unk>", "what", "is", "this"])
        >>> reader.read("What is that?").tokens, reader.read("What is that?").unknown
        ((2, 3, 1), ('that',))
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        unknown: int | None = None,
        pad: int = 0,
        longest: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.unknown = unknown
        self.pad = pad
        self.longest = longest

    @classmethod
    def of_words(
        cls,
        words: Sequence[str],
        *,
        unknown: str = "<unk>",
        pad: str = "<pad>",
        longest: int | None = None,
    ) -> Reader:
        """A vocabulary of whole words in lower case, without punctuation.

        Args:
            words: in the order of their tokens, the special ones among them.
            unknown: the word that stands for all others.
            pad: the word that fills up shorter questions.
            longest: how many words the model reads.

        Raises:
            InputError: a special word is not among the words, or a word occurs twice.
        """
        index = {word: token for token, word in enumerate(words)}
        if len(index) != len(words):
            raise InputError("a word occurs twice in the list; each token needs one of its own")
        for name in (unknown, pad):
            if name not in index:
                raise InputError(
                    f"the list has no word {name!r}; add it, or name its special words with "
                    "unknown=... and pad=..."
                )
        tokenizer = Tokenizer(models.WordLevel(index, unk_token=unknown))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), normalizers.Replace(Regex(PUNCTUATION), "")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return cls(tokenizer, unknown=index[unknown], pad=index[pad], longest=longest)

    def read(self, text: str) -> Question:
        """The tokens and words of a question.

        Raises:
            InputError: it holds no word, or is longer than the model reads.
        """
        encoding = self.tokenizer.encode(text)
        words = []
        for found in re.finditer(r"\S+", text):
            word = found.group().strip(AROUND_WORDS)
            places = tuple(
                place
                for place, (first, last) in enumerate(encoding.offsets)
                if first < found.end() and last > found.start()
            )
            if word and places:
                words.append(Word(word, places))
        if not words:
            raise InputError(f"the question {text!r} holds no word; ask something")
        if self.longest is not None and len(encoding.ids) > self.longest:
            raise InputError(
                f"the question has {len(encoding.ids)} tokens, and the model reads "
                f"{self.longest}; ask in fewer words"
            )
        unknown = [w.text for w in words if self.unknown in {encoding.ids[p] for p in w.places}]
        return Question(text, tuple(encoding.ids), tuple(words), tuple(dict.fromkeys(unknown)))

    def padded(self, questions: Sequence[Question]) -> Int[Tensor, "batch token"]:
        """The tokens of questions, the shorter ones filled up on the right."""
        length = max(len(question.tokens) for question in questions)
        rows = [[*q.tokens, *[self.pad] * (length - len(q.tokens))] for q in questions]
        return torch.tensor(rows)
