"""How well the maps of answers point: what grounding.py prints with --answers.

    python benchmarks/grounding.py --data PATH --answers
    python benchmarks/grounding.py --data PATH --answers --size 224 320 448 --variants

The bundled answerer is asked about each category that has boxes in a photo: questions whose
answer is the category or whose subject it is. They are the templates of
grounding_questions.json, and nobody asked them. All boxes of the category together are the
places that the map of the answer ought to point at. It is the model's own answer, right or
wrong, at the input size that it was trained at; its map is made at --size. An answer that
names the category is right where coco_words.json has it as a name of that category; what the
right colour or place is, nobody knows. Categories by names that the model has never seen are
left out, and counted.

Maps are also held against occlusion maps of the same answers at the same size, by Spearman's
rank correlation over the cells of the feature map (Grad-CAM paper, arXiv 1610.02391).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import with_interval
from occlusion import SIDE, occlusion_maps, rank_correlation
from pointing import (
    COLUMNS,
    ERRORS,
    SMALL,
    WORDS,
    Lay,
    Photo,
    Scores,
    Spot,
    Words,
    beside_guesses,
    cells,
    drawn,
    laid,
    photos_of,
    show_scores,
)
from rich.progress import track
from tables import show
from torch import Tensor
from vqa import trained

from multicam import Explanation
from multicam.tasks import backbone, vqa
from multicam.tasks.vqa import VisualQuestionAnswering
from multicam.weighting import Weighting, grad_cam, hires_cam, layer_cam

TEMPLATES = json.loads(Path(__file__).with_name("grounding_questions.json").read_text("utf-8"))


# What is asked


@dataclass(frozen=True)
class Asked:
    """A question about something with boxes, and what was answered."""

    spot: Spot
    template: str
    question: str
    expected: frozenset[str]
    answer: str = ""

    @property
    def right(self) -> bool:
        return self.answer in self.expected


def about(photo: Photo, table: Words) -> Iterator[Asked]:
    """The questions about the categories of a photo, not answered yet."""
    for template in TEMPLATES["templates"]:
        categories = asked_for(photo.categories, template)
        for category in categories:
            spot = photo.spot([category])
            assert spot is not None
            question = put(template["question"], category)
            expected = expected_of(template, category, table)
            yield Asked(spot, template["question"], question, expected)


def asked_for(categories: Sequence[str], template: Mapping[str, Any]) -> list[str]:
    """Of the categories of a photo those that fit; where one is to be named, no other does."""
    groups = TEMPLATES["groups"]
    wanted = {name for group in template.get("about", ()) for name in groups[group]}
    spared = {name for group in template.get("except", ()) for name in groups[group]}
    fit = [one for one in categories if one not in spared and (one in wanted or not wanted)]
    return [] if template.get("answer") == "category" and len(fit) > 1 else fit


def put(question: str, category: str) -> str:
    """The template with the name of a category.

    Example:
        >>> put("is there a {} in the photo?", "umbrella"), put("where is the {}?", "skis")
        ('is there an umbrella in the photo?', 'where are the skis?')
    """
    name = TEMPLATES["names"].get(category, category)
    if category in TEMPLATES["several"]:
        question = question.replace("is there a ", "are there ").replace("is the ", "are the ")
    elif name[0] in "aeiou":
        question = question.replace(" a {}", " an {}")
    return question.format(name)


def expected_of(template: Mapping[str, Any], category: str, table: Words) -> frozenset[str]:
    """The right answers, as far as they are known."""
    answer = template.get("answer")
    if answer == "category":
        return frozenset([category, *table[category]])
    return frozenset() if answer is None else frozenset([answer])


def ask(task: VisualQuestionAnswering, photos: Sequence[Photo]) -> tuple[list[Asked], list[Asked]]:
    """The questions with the model's answers, and those with words that it has never seen."""
    table = json.loads(WORDS.read_text("utf-8"))
    task = replace(task, map_transform=None)  # no map is looked at here
    answered, strange = [], []
    for photo in track(photos, "answers", console=ERRORS):
        known = []
        for one in about(photo, table):
            unknown = task.reader.read(one.question).unknown
            (strange if unknown else known).append(one)
        if known:
            questions = [one.question for one in known]
            said = task.explain(photo.image, questions, top=1).labels
            answered += [
                replace(one, answer=answer) for one, (answer,) in zip(known, said, strict=True)
            ]
    return answered, strange


# How it is explained


@dataclass(frozen=True)
class Way:
    """A way to make the map of an answer."""

    size: int
    method: Weighting = hires_cam

    def __str__(self) -> str:
        other = "" if self.method is hires_cam else f", {self.method.__name__}"
        return f"input {self.size} x {self.size}{other}"

    def of(self, task: VisualQuestionAnswering) -> VisualQuestionAnswering:
        """The task with inputs of this size."""
        resize = partial(backbone.squeeze, size=self.size)
        return replace(task, transform=resize, map_transform=resize)

    def explain(self, task: VisualQuestionAnswering, one: Asked) -> Explanation:
        image = one.spot.photo.image
        return self.of(task).explain(image, one.question, one.answer, method=self.method)


def made(way: Way, task: VisualQuestionAnswering, asked: Sequence[Asked]) -> list[Explanation]:
    return [way.explain(task, one) for one in track(asked, str(way), console=ERRORS)]


def lays(asked: Sequence[Asked], maps: Sequence[Explanation]) -> list[Lay]:
    return [partial(laid, [own], one.answer) for one, own in zip(asked, maps, strict=True)]


# Occlusion


def occluded(
    task: VisualQuestionAnswering, asked: Sequence[Asked], size: int, grid: tuple[int, int]
) -> np.ndarray:
    """The occlusion maps of the logits of answers about one photo, (answer, rows, columns)."""
    inputs, _ = Way(size).of(task).prepare(asked[0].spot.photo.image)
    known = list(task.answers)
    pairs = [
        (task.reader.padded([task.reader.read(one.question)]), known.index(one.answer))
        for one in asked
    ]

    def scores(images: Tensor) -> Tensor:
        values = task.model.encode(images)
        logits = (
            task.model.answer(values, tokens.expand(len(images), -1))[:, place]
            for tokens, place in pairs
        )
        return torch.stack(list(logits), dim=1)

    return occlusion_maps(scores, inputs, grid)


@dataclass
class Correlations:
    """One entry for each answer."""

    signed: list[float]
    positive: list[float]
    others: list[float]

    def cells(self, photos: Sequence[Path]) -> list[str]:
        found = []
        for values in (self.signed, self.positive, self.others):
            known = np.isfinite(values)
            kept, whose = np.array(values)[known], np.array(photos)[known].tolist()
            found.append(with_interval(kept, whose))
        return [*found, str(int(np.isnan(self.signed).sum()))]


def correlations(
    maps: Sequence[np.ndarray], hidden: Sequence[np.ndarray], photos: Sequence[Path]
) -> Correlations:
    """Of maps with the occlusion maps of their own answers, and of other photos' maps with them."""
    pairs = list(zip(maps, hidden, strict=True))
    others = [
        float(np.mean([rank_correlation(maps[index], own) for index in some]))
        for own, some in zip(hidden, drawn(photos), strict=True)
    ]
    return Correlations(
        [rank_correlation(*pair) for pair in pairs],
        [rank_correlation(np.maximum(values, 0), own) for values, own in pairs],
        others,
    )


# The tables


def ways_of(sizes: Sequence[int], *, variants: bool) -> list[Way]:
    methods = (hires_cam, grad_cam, layer_cam) if variants else (hires_cam,)
    return [Way(size, method) for size, method in product(sizes, methods)]


def show_answers(options: argparse.Namespace) -> None:
    task = vqa.load() if options.weights is None else trained(options.weights)
    photos = photos_of(options.data, options.photos)
    if options.unseen:
        seen = trained_on(options.data)
        photos = [photo for photo in photos if photo.path.name not in seen]
    asked, strange = ask(task, photos)
    describe(asked, strange)
    ways = ways_of(options.size, variants=options.variants)
    maps = {way: made(way, task, asked) for way in ways}
    spots = [one.spot for one in asked]
    rows = beside_guesses(spots, {str(way): lays(asked, own) for way, own in maps.items()})
    for title, chosen in (
        ("All answers", [True] * len(asked)),
        ("Right answers", [one.right for one in asked]),
    ):
        kept = {name: scores.where(chosen) for name, scores in rows.items()}
        show_scores(title, "answers", kept, markdown=options.markdown)
        small = {name: scores.below(SMALL) for name, scores in kept.items()}
        title = f"{title}, boxes cover less than {SMALL:.0%}"
        show_scores(title, "answers", small, markdown=options.markdown)
    show_templates(asked, rows, str(ways[0]), markdown=options.markdown)
    if options.occlusions:
        show_occlusions(task, asked, maps, options.occlusions, markdown=options.markdown)


def trained_on(data: Path) -> set[str]:
    """The photos of VQA v2's training questions."""
    questions = json.loads((data / "coco" / "vqa_train.json").read_text("utf-8"))
    return {f"{question['image_id']:012d}.jpg" for question in questions}


def describe(asked: Sequence[Asked], strange: Sequence[Asked]) -> None:
    known = [one for one in asked if one.expected]
    right = with_interval([one.right for one in known], [one.spot.photo.path for one in known])
    names = sorted({one.question for one in strange})
    listed = f" ({'; '.join(names)})" if names else ""
    print(
        f"{len(asked)} questions about {len({one.spot.photo.path for one in asked})} photos, made "
        f"from {len({one.template for one in asked})} templates; {len(known)} have a known answer, "
        f"and right are {right} of these; {len(strange)} questions are left out for words that the "
        f"model has never seen{listed}\n"
    )


def show_templates(
    asked: Sequence[Asked], rows: Mapping[str, Scores], way: str, *, markdown: bool
) -> None:
    table = []
    for template in dict.fromkeys(one.template for one in asked):
        chosen = [one.template == template for one in asked]
        some = [one for one in asked if one.template == template]
        known = [one.right for one in some if one.expected]
        share = f"{np.mean(known):.2f}" if known else ""
        own = {name: scores.where(chosen) for name, scores in rows.items()}
        table.append([template, str(len(some)), share, *cells(way, own)[1:]])
    columns = ["template", "answers", "right", *COLUMNS[1:]]
    show(f"By template: {way}", columns, table, markdown=markdown)


def show_occlusions(
    task: VisualQuestionAnswering,
    asked: Sequence[Asked],
    maps: Mapping[Way, Sequence[Explanation]],
    count: int,
    *,
    markdown: bool,
) -> None:
    chosen = by_photo(asked, count)
    photos = [path for path, indices in chosen.items() for _ in indices]
    hidden: dict[int, list[np.ndarray]] = {}
    table = []
    for way, own in maps.items():
        if way.size not in hidden:
            hidden[way.size] = [
                values
                for some in track(chosen.values(), f"occlusion, {way}", console=ERRORS)
                for values in occluded(task, [asked[i] for i in some], way.size, grid_of(own[0]))
            ]
        grids = [own[index].maps[0, 0].numpy() for some in chosen.values() for index in some]
        table.append([str(way), *correlations(grids, hidden[way.size], photos).cells(photos)])
    title = (
        f"Rank correlation with an occlusion map of the same answer: {len(photos)} answers about "
        f"{len(chosen)} photos, grey squares of {SIDE:.0%} of the sides"
    )
    columns = ["", "map", "its ReLU", "maps of other photos", "left out"]
    show(title, columns, table, markdown=markdown)


def by_photo(asked: Sequence[Asked], count: int) -> dict[Path, list[int]]:
    """The answers about some photos, drawn by chance."""
    found: dict[Path, list[int]] = defaultdict(list)
    for index, one in enumerate(asked):
        found[one.spot.photo.path].append(index)
    photos = list(found)
    chosen = np.random.default_rng(0).permutation(len(photos))[:count]
    return {photos[place]: found[photos[place]] for place in chosen}


def grid_of(explanation: Explanation) -> tuple[int, int]:
    rows, columns = explanation.maps.shape[2:]
    return rows, columns
