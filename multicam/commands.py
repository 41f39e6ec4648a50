"""The work behind the subcommands of `multicam`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image
from rich.table import Table
from torch import Tensor

from multicam.console import layer_tree, progress, show, table, working
from multicam.crosscheck import CrossCheck, crosscheck
from multicam.images import ImageSource, load
from multicam.layers import feature_maps
from multicam.pictures import save_figure, save_pictures
from multicam.tasks.captioning import Captioning
from multicam.tasks.classification import Classification
from multicam.tasks.vqa import UnknownWordWarning, VisualQuestionAnswering

AGREEMENT = 1e-4
"""The largest relative difference from Captum that rounding in float32 explains."""


@dataclass(frozen=True)
class Wanted:
    """What to explain, the same for every photo.

    Attributes:
        classes: names or indices, with commas between; None for the highest.
        top: how many of the highest.
        layer: dotted name, or None.
    """

    classes: str | None = None
    top: int = 3
    layer: str | None = None

    def indices(self, task: Classification, probabilities: Tensor) -> list[int]:
        """The classes to explain in a photo, given the probabilities of all, (classes,)."""
        if self.classes is not None:
            return [task.index(name) for name in self.classes.split(",")]
        count = min(self.top, len(probabilities))
        return [int(index) for index in probabilities.topk(count).indices]


def classify_photos(
    task: Classification,
    photos: Sequence[tuple[str, ImageSource]],
    wanted: Wanted,
    *,
    out: Path,
    style: str,
) -> None:
    """Explain photos one by one, write their pictures, and print a table.

    Args:
        task: the classifier.
        photos: file name and source of each.
        wanted: what to explain.
        out: folder for the pictures.
        style: of the overlays.
    """
    results = table("photo", "class", "prob.", "logit", "picture", numbers=["prob.", "logit"])
    silent: list[str] = []
    try:
        for name, source in progress(photos, "explaining"):
            silent += _classify(task, name, source, wanted, results, out, style)
    finally:
        if results.row_count:
            show(results)
    for line in silent:
        show(line)
    show(f"Pictures are in {out.resolve()}")


def _classify(
    task: Classification,
    name: str,
    source: ImageSource,
    wanted: Wanted,
    results: Table,
    out: Path,
    style: str,
) -> list[str]:
    image = load(source)
    probabilities = task.probabilities(image)[0]
    indices = wanted.indices(task, probabilities)
    explanation = task.explain(image, indices, layer=wanted.layer)
    overlays, figure = save_pictures(explanation, out, Path(name).stem, style)
    labels, scores = explanation.labels[0], explanation.scores[0].tolist()
    for row, label in enumerate(labels):
        results.add_row(
            name if row == 0 else "",
            label,
            f"{probabilities[indices[row]]:.1%}",
            f"{scores[row]:.2f}",
            overlays[row].name,
        )
    results.add_row("", "(side by side)", "", "", figure.name, end_section=True)
    return [
        f"{name}, {labels[target]}: this map says nothing ({reason})"
        for (_, target), reason in explanation.silent.items()
    ]


@dataclass(frozen=True)
class Said:
    """What to explain of captions, the same for every photo.

    Attributes:
        caption: the text; None has the captioner write one.
        words: words and phrases of it, with commas between; None for every word.
        beam: sequences kept while the captioner searches.
        layer: dotted name, or None.
    """

    caption: str | None = None
    words: str | None = None
    beam: int = 5
    layer: str | None = None


def caption_photos(
    task: Captioning,
    photos: Sequence[tuple[str, ImageSource]],
    said: Said,
    *,
    out: Path,
    style: str,
) -> None:
    """Explain the words of photos' captions, write a figure for each, and print a table.

    Args:
        task: the captioner.
        photos: file name and source of each.
        said: what to explain.
        out: folder for the figures.
        style: of the overlays.
    """
    results = table("photo", "caption", "prob.", "picture", numbers=["prob."])
    words = None if said.words is None else [word.strip() for word in said.words.split(",")]
    try:
        for name, source in progress(photos, "captioning"):
            image = load(source)
            caption = task.caption(image, said.beam) if said.caption is None else said.caption
            explanation = task.explain(image, caption, words, layer=said.layer)
            figure = save_figure(explanation, out, f"{Path(name).stem}.caption", style)
            probabilities = [f"{p:.2g}" for p in explanation.scores[0].exp().tolist()]
            whole = probabilities[-1] if words is None else ""
            results.add_row(name, caption, whole, figure.name)
            if words is not None:
                for label, probability in zip(explanation.labels[0], probabilities, strict=True):
                    results.add_row("", f"  {label}", probability, "")
            results.add_section()
    finally:
        if results.row_count:
            show(results)
    show(f"Pictures are in {out.resolve()}")


@dataclass(frozen=True)
class Asked:
    """A question and the answers to explain.

    Attributes:
        question: in words.
        answers: with commas between; None for those of the model.
        top: how many of these.
        contrast: two answers to be held against each other.
        layer: dotted name, or None.
    """

    question: str
    answers: str | None = None
    top: int = 3
    contrast: tuple[str, str] | None = None
    layer: str | None = None


def ask_photos(
    task: VisualQuestionAnswering,
    photos: Sequence[tuple[str, ImageSource, Asked]],
    *,
    out: Path,
    style: str,
) -> None:
    """Explain answers to questions about photos, write a figure for each, and print a table.

    Args:
        task: the model that answers.
        photos: file name and source of each, and what is asked about it.
        out: folder for the figures.
        style: of the overlays.
    """
    results = table("photo", "question", "answer", "prob.", "picture", numbers=["prob."])
    unknown: dict[str, None] = {}
    try:
        for name, source, asked in progress(photos, "asking"):
            unknown |= dict.fromkeys(task.reader.read(asked.question).unknown)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnknownWordWarning)
                _ask(task, name, load(source), asked, results, out, style)
    finally:
        if results.row_count:
            show(results)
    if unknown:
        show(f"The model has never seen these words: {', '.join(unknown)}")
    show(f"Pictures are in {out.resolve()}")


def _ask(
    task: VisualQuestionAnswering,
    name: str,
    image: Image,
    asked: Asked,
    results: Table,
    out: Path,
    style: str,
) -> None:
    answers = None if asked.answers is None else [one.strip() for one in asked.answers.split(",")]
    given = (image, asked.question, answers, asked.top)
    explanation = task.explain(*given, contrast=asked.contrast, layer=asked.layer)
    words = task.words(*given, contrast=asked.contrast)
    figure = save_figure(explanation, out, f"{Path(name).stem}.answer", style, words)
    pairs = zip(explanation.labels[0], explanation.notes[0], strict=True)
    for row, (label, note) in enumerate(pairs):
        first = row == 0
        results.add_row(
            name if first else "",
            asked.question if first else "",
            label,
            "" if note.startswith("score") else note.removeprefix("p = "),
            figure.name if first else "",
        )
    results.add_section()


def check_photos(
    task: Classification, photos: Sequence[tuple[str, ImageSource]], wanted: Wanted
) -> bool:
    """Compare the maps of photos with Captum's, and print a table.

    Returns:
        Whether every map agrees within `AGREEMENT` of its largest value.
    """
    numbers = ["max. abs.", "max. rel.", "correlation"]
    results = table("photo", "class", "layer", *numbers, "", numbers=numbers)
    agree = True
    for name, source in progress(photos, "checking"):
        image = load(source)
        inputs, _ = task.prepare(image)
        layer = task.layer if wanted.layer is None else wanted.layer
        for index in wanted.indices(task, task.probabilities(image)[0]):
            checked = crosscheck(task.model, inputs, task.target(index), layer=layer)
            results.add_row(name, *_differences(checked))
            agree &= checked.max_rel <= AGREEMENT
    show(results)
    return agree


def show_layers(task: Classification, photo: ImageSource) -> None:
    """Print the feature maps that the model makes of a photo as a tree."""
    inputs, _ = task.prepare(photo)
    with working("looking for feature maps"):
        maps = feature_maps(task.model, inputs)
        chosen = task.explain(photo, top=1).layer
    show(layer_tree(type(task.model).__name__, maps, chosen))


def _differences(checked: CrossCheck) -> tuple[str, ...]:
    return (
        checked.labels[0][0],
        checked.layer,
        f"{checked.max_abs:.1e}",
        f"{checked.max_rel:.1e}",
        f"{checked.correlation:.6f}",
        "same" if checked.max_rel <= AGREEMENT else "DIFFERENT",
    )
