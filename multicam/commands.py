"""The work behind the subcommands of `multicam`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL.Image import Image
from rich.table import Table
from rich.text import Text
from torch import Tensor

from multicam.console import layer_tree, progress, show, table, working
from multicam.crosscheck import COMPARABLE, CrossCheck, crosscheck
from multicam.images import ImageSource, load
from multicam.layers import feature_maps
from multicam.methods import (
    LISTED,
    UNITS,
    Method,
    method_named,
    takes_many_passes,
    with_progress,
)
from multicam.pictures import save_figure, save_pictures, save_report
from multicam.tasks.base import optional
from multicam.tasks.captioning import Captioning
from multicam.tasks.classification import Classification
from multicam.tasks.vqa import UnknownWordWarning, VisualQuestionAnswering

Item = TypeVar("Item")


@dataclass(frozen=True)
class How:
    """How maps are made and where they are shown, the same for every photo.

    Attributes:
        out: folder for the pictures.
        style: of the overlays.
        layer: dotted name, or None.
        method: a name in `METHODS`, or None for the task's own.
        report: whether a report in HTML is written beside each figure.
    """

    out: Path
    style: str = "heat"
    layer: str | None = None
    method: str | None = None
    report: bool = False

    def __post_init__(self) -> None:
        if self.method is not None:
            method_named(self.method)

    def method_for(self, photo: str) -> str | Method | None:
        """The method; where it takes many passes, with a progress bar for the photo."""
        slow = self._method_of_many_passes
        return self.method if slow is None else with_progress(slow, photo)

    def checks(self, check: Callable[[], CrossCheck]) -> list[CrossCheck]:
        """The comparison with Captum for a report, where Captum has the method."""
        return [check()] if self.method is None or self.method in COMPARABLE else []

    def name_for(self, photo: str) -> str:
        """What the photo's pictures are called, with the method that was asked for."""
        stem = Path(photo).stem
        return stem if self.method is None else f"{stem}.{self.method}"

    def each(self, photos: Sequence[Item], what: str) -> Iterable[Item]:
        """Go through photos behind a progress bar, where each does not have its own."""
        return progress(photos, what) if self._method_of_many_passes is None else photos

    @property
    def _method_of_many_passes(self) -> str | None:
        """The method that was asked for, where it takes many; the loaded tasks' own take few."""
        return self.method if self.method and takes_many_passes(self.method) else None


@dataclass(frozen=True)
class Wanted:
    """Which classes to explain, the same for every photo.

    Attributes:
        classes: names or indices, with commas between; None for the highest.
        top: how many of the highest.
    """

    classes: str | None = None
    top: int = 3

    def indices(self, task: Classification, probabilities: Tensor) -> list[int]:
        """The classes to explain in a photo, given the probabilities of all, (classes,)."""
        if self.classes is not None:
            return [task.index(name) for name in self.classes.split(",")]
        count = min(self.top, len(probabilities))
        return [int(index) for index in probabilities.topk(count).indices]


def classify_photos(
    task: Classification, photos: Sequence[tuple[str, ImageSource]], wanted: Wanted, how: How
) -> None:
    """Explain photos one by one, write their pictures, and print a table.

    Args:
        task: the classifier.
        photos: file name and source of each.
        wanted: what to explain.
        how: to explain and to show it.
    """
    results = table("photo", "class", "prob.", "logit", "picture", numbers=["prob.", "logit"])
    silent: list[str] = []
    try:
        for name, source in how.each(photos, "explaining"):
            silent += _classify(task, name, source, wanted, how, results)
    finally:
        if results.row_count:
            show(results)
    for line in silent:
        show(line)
    show(f"Pictures are in {how.out.resolve()}")


def _classify(
    task: Classification,
    name: str,
    source: ImageSource,
    wanted: Wanted,
    how: How,
    results: Table,
) -> list[str]:
    image = load(source)
    probabilities = task.probabilities(image)[0]
    indices = wanted.indices(task, probabilities)
    explanation = task.explain(image, indices, layer=how.layer, method=how.method_for(name))
    overlays, figure = save_pictures(explanation, how.out, how.name_for(name), how.style)
    labels, scores = explanation.labels[0], explanation.scores[0].tolist()
    for row, label in enumerate(labels):
        results.add_row(
            name if row == 0 else "",
            label,
            f"{probabilities[indices[row]]:.1%}",
            f"{scores[row]:.2f}",
            overlays[row].name,
        )
    results.add_row("", "(side by side)", "", "", figure.name)
    if how.report:
        checks = how.checks(lambda: _checked(task, image, indices, how.layer, how.method))
        report = save_report(explanation, how.out, how.name_for(name), checks=checks)
        results.add_row("", "(report)", "", "", report.name)
    results.add_section()
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
    """

    caption: str | None = None
    words: str | None = None
    beam: int = 5


def caption_photos(
    task: Captioning, photos: Sequence[tuple[str, ImageSource]], said: Said, how: How
) -> None:
    """Explain the words of photos' captions, write a figure for each, and print a table.

    Args:
        task: the captioner.
        photos: file name and source of each.
        said: what to explain.
        how: to explain and to show it.
    """
    results = table("photo", "caption", "prob.", "picture", numbers=["prob."])
    try:
        for name, source in how.each(photos, "captioning"):
            _caption(task, name, load(source), said, how, results)
    finally:
        if results.row_count:
            show(results)
    show(f"Pictures are in {how.out.resolve()}")


def _caption(
    task: Captioning, name: str, image: Image, said: Said, how: How, results: Table
) -> None:
    words = None if said.words is None else [word.strip() for word in said.words.split(",")]
    caption = task.caption(image, said.beam) if said.caption is None else said.caption
    method = how.method_for(name)
    explanation = task.explain(image, caption, words, layer=how.layer, method=method)
    figure = save_figure(explanation, how.out, f"{how.name_for(name)}.caption", how.style)
    probabilities = [note.removeprefix("p = ") for note in explanation.notes[0]]
    whole = probabilities[-1] if words is None else ""
    results.add_row(name, caption, whole, figure.name)
    if words is not None:
        for label, probability in zip(explanation.labels[0], probabilities, strict=True):
            results.add_row("", f"  {label}", probability, "")
    if how.report:
        given = (image, caption, words)
        checks = how.checks(lambda: task.crosscheck(*given, layer=how.layer, method=how.method))
        called = f"{how.name_for(name)}.caption"
        report = save_report(explanation, how.out, called, checks=checks)
        results.add_row("", "(report)", "", report.name)
    results.add_section()


@dataclass(frozen=True)
class Asked:
    """A question and the answers to explain.

    Attributes:
        question: in words.
        answers: with commas between; None for those of the model.
        top: how many of these.
        contrast: two answers to be held against each other.
    """

    question: str
    answers: str | None = None
    top: int = 3
    contrast: tuple[str, str] | None = None


def ask_photos(
    task: VisualQuestionAnswering, photos: Sequence[tuple[str, ImageSource, Asked]], how: How
) -> None:
    """Explain answers to questions about photos, write a figure for each, and print a table.

    Args:
        task: the model that answers.
        photos: file name and source of each, and what is asked about it.
        how: to explain and to show it.
    """
    results = table("photo", "question", "answer", "prob.", "picture", numbers=["prob."])
    unknown: dict[str, None] = {}
    try:
        for name, source, asked in how.each(photos, "asking"):
            unknown |= dict.fromkeys(task.reader.read(asked.question).unknown)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnknownWordWarning)
                _ask(task, name, load(source), asked, how, results)
    finally:
        if results.row_count:
            show(results)
    if unknown:
        show(f"The model has never seen these words: {', '.join(unknown)}")
    show(f"Pictures are in {how.out.resolve()}")


def _ask(
    task: VisualQuestionAnswering, name: str, image: Image, asked: Asked, how: How, results: Table
) -> None:
    answers = None if asked.answers is None else [one.strip() for one in asked.answers.split(",")]
    given = (image, asked.question, answers, asked.top)
    method = how.method_for(name)
    explanation = task.explain(*given, contrast=asked.contrast, layer=how.layer, method=method)
    words = task.words(*given, contrast=asked.contrast)
    figure = save_figure(explanation, how.out, f"{how.name_for(name)}.answer", how.style, words)
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
    if how.report:
        checks = how.checks(
            lambda: task.crosscheck(
                *given, contrast=asked.contrast, layer=how.layer, method=how.method
            )
        )
        report = save_report(explanation, how.out, f"{how.name_for(name)}.answer", words, checks)
        results.add_row("", "(report)", "", "", report.name)
    results.add_section()


def check_photos(
    task: Classification,
    photos: Sequence[tuple[str, ImageSource]],
    wanted: Wanted,
    layer: str | None,
    method: str | None,
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
        for index in wanted.indices(task, task.probabilities(image)[0]):
            checked = _checked(task, image, [index], layer, method)
            results.add_row(name, *_differences(checked))
            agree &= checked.agrees
    show(results)
    return agree


def _checked(
    task: Classification,
    image: Image,
    indices: Sequence[int],
    layer: str | None,
    method: str | None,
) -> CrossCheck:
    inputs, _ = task.prepare(image)
    targets = [task.target(index) for index in indices]
    return crosscheck(
        task.model,
        inputs,
        targets,
        layer=task.layer if layer is None else layer,
        method=task.method if method is None else method,
    )


def show_layers(task: Classification, photo: ImageSource) -> None:
    """Print the feature maps that the model makes of a photo as a tree."""
    inputs, _ = task.prepare(photo)
    with working("looking for feature maps"):
        maps = feature_maps(task.model, inputs)
        chosen = task.explain(photo, top=1).layer
    show(layer_tree(type(task.model).__name__, maps, chosen))


def serve_page(host: str, port: int | None) -> None:
    """Serve the web page until Ctrl+C; see `multicam.web.serving.serve`."""
    optional("gradio", package="gradio", extra="demo")
    from multicam.web.serving import serve

    serve(host, port)


def show_methods() -> None:
    """Print the methods that can be chosen by name, with what they cost, as a table."""
    results = table("method", "its map, and its paper", "passes of the model", whole=["method"])
    for name, listed in LISTED.items():
        about = Text.assemble(listed.summary, "\n", (listed.paper, "dim"))
        results.add_row(name, about, listed.cost.replace(", ", "\n"), end_section=True)
    show(results)
    show(UNITS)


def _differences(checked: CrossCheck) -> tuple[str, ...]:
    return (
        checked.labels[0][0],
        checked.layer,
        f"{checked.max_abs:.1e}",
        f"{checked.max_rel:.1e}",
        f"{checked.correlation:.6f}",
        "same" if checked.agrees else "DIFFERENT",
    )
