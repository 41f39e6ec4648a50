"""From captions to tokens and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from captioners import WORDS, vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from multicam import InputError
from multicam.tasks.vocabulary import Vocabulary, Word


def pieces() -> Vocabulary:
    """Word pieces, as BERT's: `##gy` goes on with a word."""
    index = {"[UNK]": 0, "a": 1, "dog": 2, "##gy": 3, "run": 4, "##s": 5, ",": 6, "[SEP]": 7}
    tokenizer = Tokenizer(models.WordPiece(index, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return Vocabulary(tokenizer, start=7, end=7, unknown=0)


def byte_pairs() -> Vocabulary:
    """Pairs of bytes, as GPT-2's: a piece may be half a letter."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["a brown dog runs on the grass"], trainer)
    return Vocabulary(tokenizer, start=0, end=0)


def test_case_and_punctuation_do_not_matter_to_whole_words() -> None:
    assert vocabulary.encode("A brown dog RUNS, on grass!") == [3, 4, 5, 6, 7, 8]
    assert vocabulary.spell([3, 5]) == "a dog"


def test_every_token_of_a_plain_caption_is_a_word() -> None:
    assert vocabulary.words([3, 5, 3]) == [Word("a", (0,)), Word("dog", (1,)), Word("a", (2,))]


def test_word_pieces_are_merged_and_punctuation_is_left_out() -> None:
    tokens = pieces().encode("a doggy, runs")
    assert tokens == [1, 2, 3, 6, 4, 5]
    assert pieces().words(tokens) == [
        Word("a", (0,)),
        Word("doggy", (1, 2)),
        Word("runs", (4, 5)),
    ]


def test_the_bytes_of_a_letter_are_of_its_word() -> None:
    pairs = byte_pairs()
    tokens = pairs.encode("a döggy é")
    words = pairs.words(tokens)
    assert [word.text for word in words] == ["a", "döggy", "é"]
    letter = [place for place in range(len(tokens)) if place in words[2].places]
    assert pairs.spell([tokens[place] for place in letter]) == "é"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(WORDS[3:]), min_size=1, max_size=12))
def test_what_was_encoded_is_spelled_again(words: list[str]) -> None:
    caption = " ".join(words)
    pairs = byte_pairs()
    for one in (vocabulary, pairs):
        tokens = one.encode(caption)
        assert one.spell(tokens).strip() == caption
        spoken = one.words(tokens)
        assert [word.text for word in spoken] == words
        places = [place for word in spoken for place in word.places]
        assert sorted(set(places)) == sorted(places)


def test_an_unknown_word_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"the word 'dig' is not in .* 11 words; .* dog"):
        vocabulary.encode("a dig runs")
    with pytest.raises(InputError, match="the word 'zebra' is not in"):
        pieces().encode("a zebra runs")


@pytest.mark.parametrize("caption", ["", "   ", "?!"])
def test_a_caption_without_a_word_is_refused(caption: str) -> None:
    with pytest.raises(InputError, match="holds no word"):
        vocabulary.encode(caption)


def test_the_special_words_must_be_there() -> None:
    with pytest.raises(InputError, match=r"no word '<start>'; the nearest are: <s>"):
        Vocabulary.of_words(["<s>", "</s>", "a"])
    named = Vocabulary.of_words(["<s>", "</s>", "?", "a"], start="<s>", end="</s>", unknown="?")
    assert (named.start, named.end, named.unknown) == (0, 1, 2)


def test_a_word_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(InputError, match="occurs twice"):
        Vocabulary.of_words([*WORDS, "dog"])


def test_a_vocabulary_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    vocabulary.tokenizer.save(str(path))
    assert Vocabulary.from_file(path).encode("a dog") == [3, 5]
    path.write_text("{}")
    with pytest.raises(InputError, match="is not a file of the library tokenizers"):
        Vocabulary.from_file(path)
    with pytest.raises(InputError, match="is not a file of the library tokenizers"):
        Vocabulary.from_file(tmp_path / "missing.json")
