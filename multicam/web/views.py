"""What each tab computes, as functions without a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from PIL.Image import Image, Resampling

from multicam.errors import InputError
from multicam.explanation import Explanation
from multicam.geometry import Geometry, Photo
from multicam.web import models
from multicam.web.uploads import listed, text
from multicam.words import WordContributions

SHOWN = 720
"""Pixels on the longer side of a photo on the page; the models see it as it was sent."""

MOST = 8
"""Classes or answers at once."""

Kind = Literal["classes", "caption", "answers"]


@dataclass(frozen=True)
class Found:
    """What a visitor's page keeps, so that it can be drawn anew without the model.

    Attributes:
        kind: of what was explained.
        explanation: with its photo in the size of the screen.
        words: what each word of a question contributed.
        unknown: words that the model has never seen.
    """

    kind: Kind
    explanation: Explanation
    words: WordContributions | None = None
    unknown: tuple[str, ...] = ()


def classify(image: Image, classes: object, top: object, *, method: str, layer: str) -> Found:
    """Explain classes of a photo.

    Args:
        image: the photo.
        classes: names or parts of names, up to `MOST`; nothing for the highest.
        top: how many of these.
        method: a name in `multicam.METHODS`, or nothing for the task's own.
        layer: dotted name, or nothing for the task's own.

    Raises:
        MulticamError: a class, the method or the layer does not exist.
    """
    task = models.classifier()
    named = listed(classes, "Classes", MOST)
    found = task.explain(
        image, named or None, _count(top), layer=layer or None, method=method or None
    )
    shares = task.probabilities(image)[0]
    notes = tuple(f"{shares[task.index(label)]:.1%}" for label in found.labels[0])
    return Found("classes", _for_the_screen(replace(found, notes=(notes,))))


def caption(image: Image, caption: object, *, method: str, layer: str) -> Found:
    """Explain every word of a caption.

    Args:
        image: the photo.
        caption: the text; nothing has the captioner write one.
        method: a name in `multicam.METHODS`, or nothing for the task's own.
        layer: dotted name, or nothing for the task's own.

    Raises:
        MulticamError: a word, the method or the layer does not exist.
    """
    task = models.captioner()
    said = text(caption, "The caption") or None
    found = task.explain(image, said, layer=layer or None, method=method or None)
    return Found("caption", _for_the_screen(found))


def ask(
    image: Image,
    question: object,
    answers: object,
    this: object,
    rather_than: object,
    *,
    method: str,
    layer: str,
) -> Found:
    """Explain answers to a question.

    Args:
        image: the photo.
        question: in words.
        answers: with commas between; nothing for those of the model.
        this: an answer to hold against another, or nothing.
        rather_than: the other.
        method: a name in `multicam.METHODS`, or nothing for the task's own.
        layer: dotted name, or nothing for the task's own.

    Raises:
        MulticamError: there is no question, one answer of two is missing, or an answer,
            the method or the layer does not exist.
    """
    task = models.answerer()
    asked = text(question, "The question")
    if not asked:
        raise InputError("There is no question yet; write one, or click an example")
    named = listed(answers, "Answers", MOST) or None
    contrast = _pair(text(this, "An answer"), text(rather_than, "An answer"))
    found = task.explain(
        image, asked, named, contrast=contrast, layer=layer or None, method=method or None
    )
    words = task.words(image, asked, named, contrast=contrast)
    unknown = tuple(task.reader.read(asked).unknown)
    return Found("answers", _for_the_screen(found), words, unknown)


def _count(top: object) -> int:
    if isinstance(top, (int, float)) and 1 <= top <= MOST:
        return int(top)
    raise InputError(f"{top!r} classes cannot be shown; choose 1 to {MOST}")


def _pair(this: str, other: str) -> tuple[str, str] | None:
    if bool(this) != bool(other):
        raise InputError("One answer is there to be compared; give the other one, or neither")
    return (this, other) if this else None


def _for_the_screen(explanation: Explanation) -> Explanation:
    """With photos of the size that is shown, and the maps still where they were on them."""
    return replace(explanation, photos=tuple(_smaller(photo) for photo in explanation.photos))


def _smaller(photo: Photo) -> Photo:
    width, height = photo.image.size
    scale = min(1.0, SHOWN / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    left, top, right, bottom = photo.geometry.box
    across, down = size[0] / width, size[1] / height
    box = (left * across, top * down, right * across, bottom * down)
    image = photo.image.resize(size, Resampling.LANCZOS)
    return Photo(image, Geometry((size[1], size[0]), box))
