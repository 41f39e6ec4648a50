"""How well the words of captions point at what they name: multicam's maps against COCO's boxes.

    python benchmarks/grounding.py --data PATH               # maps beside baselines
    python benchmarks/grounding.py --data PATH --variants    # and everything that was tried
    python benchmarks/grounding.py --data PATH --markdown    # the same, for docs/grounding.md

PATH holds coco128/images and coco128/boxes.json: for each file name a list of {"category",
"box"}, where box is left, top, right, bottom as fractions of width and height. The bundled
captioner captions each photo (beam 5). A word that names a COCO category, by the table
coco_words.json, is scored where the photo has boxes of that category: all of them together
are the places that its map ought to point at. Every row scores the same words.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from tables import show
from torch import Tensor

from multicam import Explanation
from multicam.metrics import (
    bootstrap_interval,
    box_ratio,
    centre_point,
    covered_area,
    energy_inside,
    pointing_game,
    uniform_map,
)
from multicam.sequences import (
    CaptionLogProb,
    ConceptLogit,
    ConceptLogProb,
    PhraseLogit,
    PhraseLogProb,
)
from multicam.targets import Target
from multicam.tasks import captioning
from multicam.tasks.captioning import Captioning, TargetOf
from multicam.tasks.phrases import distinct, phrases_of
from multicam.weighting import Method, grad_cam

SMALL = 0.25
"""Boxes that cover less than this share of the photo: the centre is no safe guess there."""

OTHERS = 10
"""How many maps of other photos stand in for each map in the control."""

HALVES = 500
"""How often the photos are split to choose on one half and to score on the other."""

WORDS = Path(__file__).with_name("coco_words.json")
Words: TypeAlias = Mapping[str, Sequence[str]]
Box: TypeAlias = tuple[float, float, float, float]
ERRORS = Console(stderr=True)


# Which words are scored


@dataclass(frozen=True)
class Mention:
    """A word of a caption that names something with boxes in its photo."""

    word: str
    label: str
    synonyms: tuple[str, ...]
    boxes: list[Box]
    area: float


@dataclass(frozen=True)
class Captioned:
    """A photo, its caption, and the words to score; `absent` name what has no boxes."""

    path: Path
    caption: str
    mentions: list[Mention]
    absent: list[str]

    @cached_property
    def image(self) -> Image.Image:
        return Image.open(self.path).convert("RGB")

    @property
    def words(self) -> list[str]:
        return list(dict.fromkeys(mention.word for mention in self.mentions))


def named(caption: str, table: Words) -> Iterator[tuple[str, str]]:
    """The words in the table, names of two words first, each with its label in an explanation."""
    known = {word for words in table.values() for word in words}
    words, place = caption.lower().split(), 0
    while place < len(words):
        pairs = ((n, " ".join(words[place : place + n])) for n in (2, 1))
        length, word = next(((n, name) for n, name in pairs if name in known), (1, None))
        if word is not None:
            starts = range(place + 1)
            count = sum(" ".join(words[i : i + len(word.split())]) == word for i in starts)
            yield word, word if count == 1 else f"{word} ({count})"
        place += length


def read(path: Path, caption: str, table: Words, found: list[dict[str, Any]]) -> Captioned:
    """Match the words of a caption to the boxes of a photo."""
    with Image.open(path) as image:
        width, height = image.size
    mentions, absent = [], []
    for word, label in named(caption, table):
        categories = [category for category, words in table.items() if word in words]
        fractions = [one["box"] for one in found if one["category"] in categories]
        boxes = [(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in fractions]
        if not boxes:
            absent.append(word)
            continue
        synonyms = tuple(dict.fromkeys(w for category in categories for w in table[category]))
        area = covered_area((height, width), boxes)
        mentions.append(Mention(word, label, synonyms, boxes, area))
    return Captioned(path, caption, mentions, absent)


def captioned(task: Captioning, data: Path, limit: int | None) -> list[Captioned]:
    table = json.loads(WORDS.read_text())
    boxes = json.loads((data / "coco128" / "boxes.json").read_text())
    photos = []
    for name in track(sorted(boxes)[:limit], "captions", console=ERRORS):
        path = data / "coco128" / "images" / name
        photos.append(read(path, task.caption(path, beam=5), table, boxes[name]))
    return photos


# What is explained, and how


def concepts(task: Captioning, photo: Captioned, of: Callable[..., Target]) -> TargetOf:
    """The word or any other name of its category that the captioner knows."""
    known = task.vocabulary.tokenizer.token_to_id
    targets = {
        tuple(task.vocabulary.encode(mention.word)): task.concept(
            *(word for word in mention.synonyms if known(word) is not None), of=of
        )
        for mention in photo.mentions
    }
    return lambda steps, tokens: targets[tuple(tokens)](steps, tokens)


TARGETS: dict[str, Callable[[Captioning, Captioned], TargetOf]] = {
    "log-probability": lambda task, photo: PhraseLogProb,
    "logit": lambda task, photo: PhraseLogit,
    "concept log-probability": lambda task, photo: concepts(task, photo, ConceptLogProb),
    "concept logit": lambda task, photo: concepts(task, photo, ConceptLogit),
    "whole caption": lambda task, photo: (
        lambda steps, tokens: CaptionLogProb(task.vocabulary.encode(photo.caption))
    ),
}


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Gradients are not averaged over places: Draelos and Carin, arXiv 2011.08891."""
    return (activations * gradients).sum(dim=1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Only positive gradients, not averaged: Jiang et al., IEEE TIP 2021."""
    return (activations * gradients.relu()).sum(dim=1)


def positive_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM from positive gradients alone."""
    return grad_cam(activations, gradients.relu())


@dataclass(frozen=True)
class Squeeze:
    """The captioner's own preprocessing at another size, or mirrored."""

    size: int
    mirrored: bool = False

    def __call__(self, image: Image.Image) -> Tensor:
        image = ImageOps.mirror(image) if self.mirrored else image
        small = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return (torch.from_numpy(np.asarray(small, np.float32)).permute(2, 0, 1) - 127) / 128


@dataclass(frozen=True)
class Shipped:
    """The map that a user gets who asks for nothing special."""

    cells = ("the default",)

    def explanations(self, task: Captioning, photo: Captioned) -> list[Explanation]:
        return [task.explain(photo.image, photo.caption, photo.words)]


@dataclass(frozen=True)
class Variant:
    """A way to make a map; the maps of several sizes, and of the mirrored photo, are averaged."""

    target: str = "log-probability"
    method: Method = grad_cam
    sizes: tuple[int, ...] = (224,)
    layers: tuple[str, ...] = ("encoder.bn2",)
    mirrored: bool = False

    @property
    def cells(self) -> list[str]:
        sizes = " + ".join(map(str, self.sizes)) + (", mirrored too" if self.mirrored else "")
        return [self.target, self.method.__name__, " + ".join(self.layers), sizes]

    def explanations(self, task: Captioning, photo: Captioned) -> list[Explanation]:
        """One for each size, and for the mirrored photo."""
        return [
            Captioning(task.model, Squeeze(size, mirrored), task.vocabulary).explain(
                photo.image,
                photo.caption,
                photo.words,
                target=TARGETS[self.target](task, photo),
                layer=list(self.layers) if len(self.layers) > 1 else self.layers[0],
                method=self.method,
            )
            for size in self.sizes
            for mirrored in ((False, True) if self.mirrored else (False,))
        ]


@dataclass(frozen=True)
class Attention:
    """Where the bundled decoder attends as it says a word: no gradient, and no target."""

    size: int

    @property
    def cells(self) -> list[str]:
        return ["", "attention weights", "decoder", str(self.size)]

    def explanations(self, task: Captioning, photo: Captioned) -> list[Explanation]:
        inputs, photos = Captioning(task.model, Squeeze(self.size), task.vocabulary).prepare(
            photo.image
        )
        said = task.vocabulary.encode(photo.caption)
        outputs: dict[str, Tensor] = {}
        hooks = [
            task.model.get_submodule(f"decoder.{name}").register_forward_hook(
                lambda module, given, output, name=name: outputs.update({name: output})
            )
            for name in ("places", "query")
        ]
        with torch.no_grad():
            task.model(inputs, torch.tensor([[task.vocabulary.start, *said[:-1]]]))
        for hook in hooks:
            hook.remove()
        values, queries = outputs["places"][0].relu(), outputs["query"][0]
        attention = (queries @ values.T / values.shape[1] ** 0.5).softmax(dim=1)
        phrases = phrases_of(task.vocabulary, said, photo.words)
        maps = torch.stack([attention[list(phrase.steps)].mean(dim=0) for phrase in phrases])
        side = math.isqrt(maps.shape[1])
        labels = (distinct([phrase.text for phrase in phrases]),)
        scores = torch.zeros(1, len(phrases))
        maps = maps.reshape(1, len(phrases), side, side)
        return [Explanation(maps, scores, labels, "decoder", "attention", {}, photos)]


Way: TypeAlias = Shipped | Variant | Attention

Made: TypeAlias = list[list[Explanation]]
"""For each photo the explanations whose maps are averaged."""


def make(how: Way, task: Captioning, photos: Sequence[Captioned]) -> Made:
    name = " ".join(how.cells)
    return [how.explanations(task, photo) for photo in track(photos, name, console=ERRORS)]


def laid(made: Iterable[Explanation], label: str, image: Image.Image | None = None) -> np.ndarray:
    """The map of a word on its photo, or on another in its place; the mean of several."""
    placed = [one.placed(image, target=one.labels[0].index(label)) for one in made]
    return np.mean([values / (np.abs(values).max() or 1) for values in placed], axis=0)


# Scores


@dataclass
class Scores:
    """One entry for each word."""

    photos: list[str] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    pointing: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)

    def add(self, photo: Captioned, mention: Mention, maps: Sequence[np.ndarray]) -> None:
        """The scores of a map; the mean scores of several."""
        self.photos.append(photo.path.name)
        self.areas.append(mention.area)
        for metric, into in (
            (pointing_game, self.pointing),
            (box_ratio, self.ratio),
            (energy_inside, self.energy),
        ):
            into.append(float(np.mean([metric(values, mention.boxes) for values in maps])))

    def below(self, area: float) -> Scores:
        """Those of words whose boxes cover less than this share of their photo."""
        kept = [index for index, own in enumerate(self.areas) if own < area]
        fields = (self.photos, self.areas, self.pointing, self.ratio, self.energy)
        return Scores(*([values[index] for index in kept] for values in fields))

    @property
    def cells(self) -> list[str]:
        """Pointing game; box ratio: mean, median, how many are infinite or NaN; energy."""
        ratios, energy = np.array(self.ratio), np.array(self.energy)
        finite = np.isfinite(ratios)
        pointing = with_interval(self.pointing, self.photos)
        mean = with_interval(ratios[finite], np.array(self.photos)[finite].tolist())
        median = f"{np.nanmedian(ratios):.2f}"
        return [pointing, mean, median, str((~finite).sum()), f"{np.nanmean(energy):.2f}"]

    def ahead_of(self, other: Scores) -> str:
        """How much more often these point at the boxes, compared word by word."""
        return with_interval(np.subtract(self.pointing, other.pointing), self.photos)


def with_interval(values: Sequence[float] | np.ndarray, photos: Sequence[str]) -> str:
    if len(set(photos)) < 2:
        return "too few photos"
    low, high = bootstrap_interval(values, photos)
    return f"{np.mean(values):.2f} ({low:.2f} to {high:.2f})"


def score(photos: Sequence[Captioned], made: Made) -> Scores:
    scores = Scores()
    for photo, explanations in zip(photos, made, strict=True):
        for mention in photo.mentions:
            scores.add(photo, mention, [laid(explanations, mention.label)])
    return scores


def without_looking(
    photos: Sequence[Captioned], guess: Callable[[tuple[int, int]], np.ndarray]
) -> Scores:
    scores = Scores()
    for photo in photos:
        for mention in photo.mentions:
            scores.add(photo, mention, [guess((photo.image.height, photo.image.width))])
    return scores


def exchanged(photos: Sequence[Captioned], made: Made) -> Scores:
    """The control: maps of other photos' words, laid on this photo."""
    scores, draw = Scores(), np.random.default_rng(0)
    every = [(i, mention.label) for i, photo in enumerate(photos) for mention in photo.mentions]
    for index, photo in enumerate(photos):
        others = [pair for pair in every if pair[0] != index]
        for mention in photo.mentions:
            drawn = [others[i] for i in draw.integers(len(others), size=OTHERS)]
            maps = [laid(made[other], label, photo.image) for other, label in drawn]
            scores.add(photo, mention, maps)
    return scores


def chosen_on_the_other_half(tried: Sequence[Scores], centre: Scores) -> str:
    """What the best of many scores on photos that had no say in which is the best."""
    pointing = np.array([scores.pointing for scores in [*tried, centre]])
    names, photo = np.unique(centre.photos, return_inverse=True)
    draw, found = np.random.default_rng(0), []
    for _ in range(HALVES):
        half = draw.permutation(len(names)) < len(names) / 2
        best = pointing[:-1, half[photo]].mean(axis=1).argmax()
        found.append(pointing[[best, -1]][:, ~half[photo]].mean(axis=1))
    ours, centres = np.mean(found, axis=0)
    return f"{ours:.2f}, the centre point {centres:.2f}"


# The tables


HEADLINE = {
    "the word's map": Shipped(),
    "input 224 x 224": Variant(sizes=(224,)),
    "input 448 x 448": Variant(sizes=(448,)),
    "input 448 x 448, HiResCAM": Variant(method=hirescam, sizes=(448,)),
}
"""The map that `captioning.load().explain` gives, and what its settings could be."""

SIZES = (224, 320, 448)

LAYERS = [
    ("encoder.blocks.6",),
    ("encoder.blocks.5",),
    ("encoder.blocks.4",),
    ("encoder.bn2", "encoder.blocks.4"),
]

VARIANTS: list[Way] = [
    *(
        Variant(target, method, (size,))
        for size, method, target in product(
            SIZES, (grad_cam, hirescam, layercam), list(TARGETS)[:4]
        )
    ),
    *(Variant("whole caption", sizes=(size,)) for size in SIZES),
    *(Variant(method=positive_grad_cam, sizes=(size,)) for size in SIZES),
    *(Variant(sizes=(size,)) for size in (256, 384, 512)),
    *(Variant(sizes=(size,), layers=layers) for size, layers in product(SIZES, LAYERS)),
    *(Variant(sizes=sizes, mirrored=True) for sizes in ((224,), (320,), (448,), (320, 448))),
    *(Variant(method=hirescam, sizes=sizes, mirrored=True) for sizes in ((448,), (320, 448))),
    Variant("logit", hirescam, (320, 448), mirrored=True),
    *(Attention(size) for size in SIZES),
]


def show_headline(photos: Sequence[Captioned], task: Captioning, *, markdown: bool) -> None:
    guesses = {"uniform map": uniform_map, "centre point": centre_point}
    rows = {name: without_looking(photos, guess) for name, guess in guesses.items()}
    for name, variant in HEADLINE.items():
        made = make(variant, task, photos)
        rows[name] = score(photos, made)
        rows[f"{name}: maps of other photos"] = exchanged(photos, made)
    columns = ["", "pointing game", "less uniform map", "less centre point"]
    columns += ["box ratio: mean", "median", "left out", "energy inside"]
    for title, area in (("All words", math.inf), (f"Boxes cover less than {SMALL:.0%}", SMALL)):
        kept = {name: scores.below(area) for name, scores in rows.items()}
        table = []
        for name, scores in kept.items():
            pointing, *rest = scores.cells
            ahead = [scores.ahead_of(kept[guess]) for guess in guesses]
            if name == "centre point":  # zero outside, or zero inside
                rest = ["", "", "", rest[-1]]
            table.append([name, pointing, *ahead, *rest])
        one = kept["uniform map"].photos
        title = f"{title}: {len(one)} words of {len(set(one))} photos"
        show(title, columns, table, markdown=markdown)


def show_variants(photos: Sequence[Captioned], task: Captioning, *, markdown: bool) -> None:
    centre = without_looking(photos, centre_point)
    tried = [(variant, score(photos, make(variant, task, photos))) for variant in VARIANTS]
    table = []
    for variant, scores in tried:
        small = scores.below(SMALL)
        table.append(
            [
                *variant.cells,
                scores.cells[0].split()[0],
                scores.ahead_of(centre),
                small.cells[0].split()[0],
                small.ahead_of(centre.below(SMALL)),
                *scores.cells[1:],
                small.cells[2],
            ]
        )
    columns = ["target", "method", "layer", "input", "pointing game", "less centre point"]
    columns += ["small: pointing game", "less centre point", "box ratio: mean", "median"]
    columns += ["left out", "energy inside", "small: median box ratio"]
    show("What was tried", columns, table, markdown=markdown)
    maps = [scores for variant, scores in tried if isinstance(variant, Variant)]
    for name, area in (("all words", math.inf), ("small boxes", SMALL)):
        kept = [scores.below(area) for scores in maps]
        found = chosen_on_the_other_half(kept, centre.below(area))
        print(f"chosen on one half of the photos, on the other half, {name}: {found}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds coco128")
    parser.add_argument("--variants", action="store_true", help="score everything that was tried")
    parser.add_argument("--photos", type=int, help="only so many, to try the script")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    task = captioning.load()
    every = captioned(task, options.data, options.photos)
    photos = [photo for photo in every if photo.mentions]
    mentions = [mention for photo in photos for mention in photo.mentions]
    people = sum("person" in mention.synonyms for mention in mentions)
    absent = sum(len(photo.absent) for photo in every)
    print(
        f"{len(every)} photos, {len(photos)} of them with a word to score; {len(mentions)} words "
        f"to score ({people} name people), {absent} that name what has no boxes in their photo\n"
    )
    show_headline(photos, task, markdown=options.markdown)
    if options.variants:
        show_variants(photos, task, markdown=options.markdown)


if __name__ == "__main__":
    main()
