"""Models of Hugging Face by name, each with its image processor and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from multicam.errors import InputError
from multicam.tasks.vocabulary import Vocabulary


class Pretrained(NamedTuple):
    """What a repository of the Hub or a folder holds.

    Attributes:
        model: on the CPU, in eval mode.
        processor: of its images.
        tokenizer: of its texts.
    """

    model: Any
    processor: Callable[..., Any]
    tokenizer: Any


def pretrained(name: str, classes: Iterable[type[Any]]) -> Pretrained:
    """A model of one of several classes, with what belongs to it.

    Args:
        name: of a repository on the Hub, or a folder.
        classes: of transformers.

    Raises:
        InputError: it cannot be loaded, or is of another class.
    """
    by_name = {one.__name__: one for one in classes}
    try:
        kinds = AutoConfig.from_pretrained(name).architectures or ["unnamed"]
        kind = next((one for one in kinds if one in by_name), None)
        if kind is None:
            known = ", ".join(by_name)
            raise InputError(f"model 'hf:{name}' is a {kinds[0]}; known here are {known}")
        return Pretrained(
            by_name[kind].from_pretrained(name).eval(),
            AutoImageProcessor.from_pretrained(name),
            AutoTokenizer.from_pretrained(name),
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"model 'hf:{name}' cannot be loaded: {reason}") from error


def vocabulary_of(tokenizer: Any, start: int, end: int) -> Vocabulary:
    """The vocabulary of a fast tokenizer.

    Args:
        tokenizer: the tokenizer; it stays as it is.
        start: the token that texts begin with.
        end: the token that ends them.

    Raises:
        InputError: the tokenizer is written in Python, or knows nothing but special tokens,
            as that of a folder without one.
    """
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise InputError(
            f"{type(tokenizer).__name__} does not run on the library tokenizers; save the model "
            "with its fast tokenizer (use_fast=True)"
        )
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise InputError(
            f"{type(tokenizer).__name__} knows no words; save the model's own beside the model"
        )
    whole = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    whole.no_padding()
    whole.no_truncation()
    return Vocabulary(whole, start, end, tokenizer.unk_token_id)
