from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from multicam import InputError
from multicam.tasks.questions import Reader

WORDS = ["<pad>", "<unk>", "what", "is", "this", "dog's", "colour"]
reader = Reader.of_words(WORDS, longest=6)


def test_a_question_is_read_word_for_word_whatever_its_case_and_punctuation() -> None:
    question = reader.read('  What is this, "colour"?! ')
    assert question.tokens == (2, 3, 4, 6)
    assert [word.text for word in question.words] == ["What", "is", "this", "colour"]
    assert [word.places for word in question.words] == [(0,), (1,), (2,), (3,)]
    assert question.unknown == ()


def test_words_that_the_model_has_never_seen_are_named_once() -> None:
    question = reader.read("what zorb is zorb blib")
    assert question.tokens == (2, 1, 3, 1, 1)
    assert question.unknown == ("zorb", "blib")


@pytest.mark.parametrize("text", ["", "   ", "?!", "... ?"])
def test_an_empty_question_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="holds no word; ask something"):
        reader.read(text)


def test_a_question_of_500_words_is_refused() -> None:
    with pytest.raises(InputError, match="has 500 tokens, and the model reads 6; ask in fewer"):
        reader.read(" ".join(["what"] * 500))


def test_without_a_limit_500_words_are_read() -> None:
    assert len(Reader.of_words(WORDS).read(" ".join(["what"] * 500)).tokens) == 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["<pad>", "<unk>", "what", "what"], "a word occurs twice"),
        (["<pad>", "what"], "the list has no word '<unk>'"),
        (["<unk>", "what"], "the list has no word '<pad>'"),
    ],
)
def test_a_list_that_is_no_vocabulary_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reader.of_words(words)


def test_shorter_questions_are_filled_up_on_the_right() -> None:
    padded = reader.padded([reader.read("what"), reader.read("what is this")])
    assert padded.tolist() == [[2, 0, 0], [2, 3, 4]]
    assert padded.dtype == torch.long


def pieces() -> Reader:
    """A tokenizer of word pieces with special tokens around the text, as that of BERT."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "hold", "##ing", "it", "?"]
    index = {piece: token for token, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(index, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Reader(tokenizer, unknown=1)


def test_word_pieces_make_one_word_and_special_tokens_none() -> None:
    question = pieces().read("what is holding it?")
    assert question.tokens == (2, 4, 5, 6, 7, 8, 9, 3)
    assert [word.text for word in question.words] == ["what", "is", "holding", "it"]
    assert [word.places for word in question.words] == [(1,), (2,), (3, 4), (5, 6)]
    assert pieces().read("what xyz").unknown == ("xyz",)


@given(st.lists(st.sampled_from([*WORDS[2:], "zorb", "?", "A-b", "été"]), min_size=1, max_size=6))
def test_each_token_belongs_to_one_word(words: list[str]) -> None:
    try:
        question = reader.read(" ".join(words))
    except InputError:
        assert set(words) == {"?"}
    else:
        places = [place for word in question.words for place in word.places]
        assert places == list(range(len(question.tokens)))
        assert len(question.words) == sum(word != "?" for word in words)
