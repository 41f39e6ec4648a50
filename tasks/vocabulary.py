"""From captions to tokens and back, word for word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from os import PathLike
from typing import final

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from multicam.errors import InputError, nearest

PUNCTUATION = r"[^\w' -]"
"""What `Vocabulary.of_words` leaves out of captions."""

AROUND_WORDS = '.,;:!?"()'
"""Punctuation that is no part of a word that it stands beside."""


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        text: as it is spelled.
        places: its tokens, as positions in the text's tokens.
    """

    text: str
    places: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What a captioner can say, as a tokenizer of the library `tokenizers`.

    Args:
        tokenizer: of whole words or of word pieces; that of a Hugging Face tokenizer is
            its attribute `backend_tokenizer`.
        start: the token that a decoder is given first.
        end: the token that ends a caption.
        unknown: the token of words that the tokenizer does not know, where it has one.

    Example:
        >>> vocabulary = Vocabulary.of_words(["<start>", "<end>", "<unk>", "a", "dog"])
        >>> vocabulary.encode("A dog.")
        [3, 4]
    """

    tokenizer: Tokenizer
    start: int
    end: int
    unknown: int | None = None

    @classmethod
    def of_words(
        cls,
        words: Sequence[str],
        *,
        start: str = "<start>",
        end: str = "<end>",
        unknown: str = "<unk>",
    ) -> Vocabulary:
        """A vocabulary of whole lower-case words, as many CNN-LSTM captioners have.

        Args:
            words: in the order of their tokens, special ones among them.
            start: the word that every caption begins with.
            end: the word that every caption ends with.
            unknown: the word that stands for all others.

        Raises:
            InputError: a special word is not among the words, or a word occurs twice.
        """
        index = {word: token for token, word in enumerate(words)}
        if len(index) != len(words):
            raise InputError("a word occurs twice in the list; each token needs one of its own")
        tokenizer = Tokenizer(models.WordLevel(index, unk_token=unknown))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), normalizers.Replace(Regex(PUNCTUATION), "")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return cls._named(tokenizer, start, end, unknown)

    @classmethod
    def from_file(
        cls,
        path: str | PathLike[str],
        *,
        start: str = "<start>",
        end: str = "<end>",
        unknown: str = "<unk>",
    ) -> Vocabulary:
        """A vocabulary from a `tokenizers` file (JSON).

        Raises:
            InputError: the file cannot be read, or a special word is not in it.
        """
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise InputError(f"{path} is not a file of the library tokenizers ({error})") from error
        return cls._named(tokenizer, start, end, unknown)

    @classmethod
    def _named(cls, tokenizer: Tokenizer, start: str, end: str, unknown: str) -> Vocabulary:
        tokens = []
        for name in (start, end, unknown):
            token = tokenizer.token_to_id(name)
            if token is None:
                close = ", ".join(nearest(name, tokenizer.get_vocab())) or "none"
                raise InputError(
                    f"the vocabulary has no word {name!r}; the nearest are: {close}; name its "
                    "special words with start=..., end=... and unknown=..."
                )
            tokens.append(token)
        return cls(tokenizer, *tokens)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without start and end.

        Raises:
            InputError: nothing is left of the text, or a word of it is unknown (the nearest
                words are listed).
        """
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
            if token == self.unknown:
                raise InputError(self._unknown(text[first:last]))
        if not encoding.ids:
            raise InputError(f"the caption {text!r} holds no word")
        return list(encoding.ids)

    def _unknown(self, word: str) -> str:
        close = ", ".join(nearest(word, self.tokenizer.get_vocab())) or "none"
        return (
            f"the word {word!r} is not in the captioner's vocabulary of {len(self)} words; the "
            f"nearest are: {close}"
        )

    def words(self, tokens: Sequence[int]) -> list[Word]:
        """The words that tokens spell, in order, their pieces put together.

        A word ends where the spelled text has white space; the punctuation around it is
        left out.
        """
        text, owners = self._letters(tokens)
        words = []
        for found in re.finditer(r"\S+", text):
            word = found.group().strip(AROUND_WORDS)
            if word:
                first = found.start() + found.group().index(word)
                places = set().union(*owners[first : first + len(word)])
                words.append(Word(word, tuple(sorted(places))))
        return words

    def _letters(self, tokens: Sequence[int]) -> tuple[str, list[set[int]]]:
        """The text of tokens, and which of them made each of its letters.

        A letter may be made of several tokens, each some of its bytes.
        """
        text, owners = "", list[set[int]]()
        for place in range(len(tokens)):
            longer = self.spell(tokens[: place + 1])
            pairs = zip(text, longer, strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            makers = set().union(*owners[same:], {place})
            owners[same:] = [makers] * (len(longer) - same)
            text = longer
        return text, owners

    def spell(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)
