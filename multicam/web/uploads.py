"""What a visitor sends: photos within limits, and errors that are one sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio
from PIL.Image import Image

from multicam.errors import InputError, MulticamError
from multicam.images import load

P = ParamSpec("P")
R = TypeVar("R")

MAX_BYTES = 20 * 2**20
"""Of an uploaded file."""

MAX_PIXELS = 40_000_000
"""Of a photo; larger ones are refused before they are decoded."""

MAX_TEXT = 1000
"""Characters of a caption, a question or an answer."""


def read_photo(uploaded: Mapping[str, Any] | None) -> Image:
    """Decode an uploaded photo.

    Args:
        uploaded: Gradio's record of the file. Gradio has made sure that `path` is one
            that it wrote itself.

    Raises:
        InputError: nothing was uploaded, or it is no image, damaged or too large.
    """
    if not uploaded or not uploaded.get("path"):
        raise InputError("There is no photo yet; drop one into the box, or click an example")
    name = uploaded.get("orig_name") or "This file"
    try:
        return load(Path(uploaded["path"]).read_bytes(), max_pixels=MAX_PIXELS)
    except InputError as error:
        reason, _, _ = str(error).partition(";")  # what follows is for those who write Python
        raise InputError(f"{name} cannot be used: {reason}") from error


def text(given: object, what: str) -> str:
    """A text from a visitor without the spaces around it.

    Raises:
        InputError: it is too long.
    """
    stripped = str(given or "").strip()
    if len(stripped) > MAX_TEXT:
        raise InputError(f"{what} has {len(stripped):,} characters; at most {MAX_TEXT:,} are read")
    return stripped


def listed(given: object, what: str, most: int) -> list[str]:
    """The parts of a text with commas between, or the entries of a list.

    Raises:
        InputError: there are too many.
    """
    entries = given if isinstance(given, (list, tuple)) else text(given, what).split(",")
    parts = [part for part in (text(entry, what) for entry in entries) if part]
    if len(parts) > most:
        raise InputError(f"{what}: {len(parts)} were given; give up to {most}")
    return parts


def in_sentences(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, whose errors a visitor sees as a sentence and never as a traceback."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except MulticamError as error:
            raise _said(str(error)) from None
        except Exception as error:
            logging.getLogger(__name__).exception("the page failed")
            raise _said("Something went wrong here, and has been written down") from error

    return wrapped


def _said(message: str) -> gradio.Error:
    """Gradio shows messages as HTML, and this one may quote a visitor."""
    sentence = " ".join(message.split())
    shown = escape(sentence[:1].upper() + sentence[1:], quote=False)
    return gradio.Error(shown, print_exception=False)
