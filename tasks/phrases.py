"""Where in a caption a word or a phrase stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from multicam.errors import InputError
from multicam.tasks.vocabulary import Vocabulary


@dataclass(frozen=True)
class Phrase:
    """Some words of a caption.

    Attributes:
        text: the words.
        steps: positions of their tokens in the caption.
    """

    text: str
    steps: tuple[int, ...]


def phrases_of(
    vocabulary: Vocabulary, said: Sequence[int], words: str | Sequence[str] | None
) -> list[Phrase]:
    """The phrases that are asked for, wherever they stand in a caption.

    Args:
        vocabulary: of the caption.
        said: its tokens.
        words: words or phrases as they stand there, whatever their case; None for each
            word of the caption.

    Raises:
        InputError: no words were asked for, or one is not in the caption.
    """
    spoken = vocabulary.words(said)
    if words is None:
        return [Phrase(word.text, word.places) for word in spoken]
    wanted = [words] if isinstance(words, str) else list(dict.fromkeys(words))
    if not wanted:
        raise InputError("the list of words is empty; leave it out to explain every word")
    texts = [word.text.lower() for word in spoken]
    phrases = []
    for phrase in wanted:
        parts = phrase.lower().split()
        starts = [i for i in range(len(texts)) if parts and texts[i : i + len(parts)] == parts]
        if not starts:
            raise InputError(
                f"{phrase!r} is not in the caption {vocabulary.spell(said)!r}; give words or "
                "phrases of it as they stand there"
            )
        for start in starts:
            held = spoken[start : start + len(parts)]
            phrases.append(Phrase(phrase, tuple(place for word in held for place in word.places)))
    return phrases


def distinct(texts: Sequence[str]) -> tuple[str, ...]:
    """Labels for texts: a number is added to those that stood before."""
    seen = Counter[str]()
    labels = []
    for text in texts:
        seen[text] += 1
        labels.append(text if seen[text] == 1 else f"{text} ({seen[text]})")
    return tuple(labels)
