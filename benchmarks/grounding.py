"""How well words of captions and answers to questions point: maps against COCO's boxes.

    python benchmarks/grounding.py --data PATH               # words: maps beside baselines
    python benchmarks/grounding.py --data PATH --variants    # and everything that was tried
    python benchmarks/grounding.py --data PATH --answers     # the same for answers
    python benchmarks/grounding.py --data PATH --markdown    # the same, for docs/grounding.md

PATH holds coco128/images and coco128/boxes.json: for each file name a list of {"category",
"box"}, where box is left, top, right, bottom as fractions of width and height. The bundled
captioner captions each photo (beam 5). A word that names a COCO category, by the table
coco_words.json, is scored where the photo has boxes of that category: all of them together
are the places that its map ought to point at. Every row scores the same words. With --answers
the bundled answerer is asked questions about what has boxes: see grounding_answers.py.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from grounding_answers import show_answers
from PIL import Image, ImageOps
from pointing import (
    ERRORS,
    SMALL,
    WORDS,
    Lay,
    Photo,
    Scores,
    Spot,
    Words,
    beside_guesses,
    laid,
    photos_of,
    score,
    show_scores,
    without_looking,
)
from rich.progress import track
from tables import show
from torch import Tensor

from multicam import Explanation
from multicam.metrics import centre_point
from multicam.sequences import (
    CaptionLogProb,
    ConceptLogit,
    ConceptLogProb,
    PhraseLogit,
    PhraseLogProb,
)
from multicam.targets import Target
from multicam.tasks import captioning
from multicam.tasks.captioner import LAYER
from multicam.tasks.captioning import Captioning, TargetOf
from multicam.tasks.phrases import distinct, phrases_of
from multicam.weighting import Weighting, grad_cam, hires_cam, layer_cam

HALVES = 500
"""How often the photos are split to choose on one half and to score on the other."""


# Which words are scored


@dataclass(frozen=True)
class Mention:
    """A word of a caption that names something with boxes in its photo."""

    word: str
    label: str
    synonyms: tuple[str, ...]
    spot: Spot


@dataclass(frozen=True)
class Captioned:
    """A photo, its caption, and the words to score; `absent` name what has no boxes."""

    photo: Photo
    caption: str
    mentions: list[Mention]
    absent: list[str]

    @property
    def image(self) -> Image.Image:
        return self.photo.image

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


def read(photo: Photo, caption: str, table: Words) -> Captioned:
    """Match the words of a caption to the boxes of a photo."""
    mentions, absent = [], []
    for word, label in named(caption, table):
        categories = [category for category, words in table.items() if word in words]
        spot = photo.spot(categories)
        if spot is None:
            absent.append(word)
            continue
        synonyms = tuple(dict.fromkeys(w for category in categories for w in table[category]))
        mentions.append(Mention(word, label, synonyms, spot))
    return Captioned(photo, caption, mentions, absent)


def captioned(task: Captioning, photos: Sequence[Photo]) -> list[Captioned]:
    table = json.loads(WORDS.read_text())
    return [
        read(photo, task.caption(photo.path, beam=5), table)
        for photo in track(photos, "captions", console=ERRORS)
    ]


# What is explained, and how


def positive_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM from positive gradients alone."""
    return grad_cam(activations, gradients.relu())


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

    target: str = "logit"
    method: Weighting = grad_cam
    sizes: tuple[int, ...] = (448,)
    layers: tuple[str, ...] = (LAYER,)
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
        values, queries = outputs["places"][0], outputs["query"][0]
        attention = (queries @ values.flatten(1) / len(values) ** 0.5).softmax(dim=1)
        phrases = phrases_of(task.vocabulary, said, photo.words)
        maps = torch.stack([attention[list(phrase.steps)].mean(dim=0) for phrase in phrases])
        labels = (distinct([phrase.text for phrase in phrases]),)
        scores = torch.zeros(1, len(phrases))
        maps = maps.reshape(1, len(phrases), *values.shape[1:])
        return [Explanation(maps, scores, labels, "decoder", "attention", {}, photos)]


Way: TypeAlias = Shipped | Variant | Attention


def made(how: Way, task: Captioning, photos: Sequence[Captioned]) -> list[Lay]:
    """A map for each word."""
    maps: list[Lay] = []
    for photo in track(photos, " ".join(how.cells), console=ERRORS):
        explanations = how.explanations(task, photo)
        maps += [partial(laid, explanations, mention.label) for mention in photo.mentions]
    return maps


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
    "Grad-CAM": Variant(),
    "its log-probability": Variant("log-probability", hires_cam),
    "layer encoder.bn2": Variant(method=hires_cam, layers=("encoder.bn2",)),
    "input 320 x 320": Variant(method=hires_cam, sizes=(320,)),
    "input 224 x 224": Variant(method=hires_cam, sizes=(224,)),
}
"""The map that `captioning.load().explain` gives, and what its settings could be."""

SIZES = (224, 320, 448, 512)

LAYERS = [
    ("encoder.bn2",),
    ("encoder.blocks.6",),
    ("encoder.blocks.5",),
    ("encoder.blocks.4",),
    (LAYER, "encoder.blocks.4"),
]

VARIANTS: list[Way] = [
    *(
        Variant(target, method, (size,))
        for size, method, target in product(
            SIZES, (grad_cam, hires_cam, layer_cam), list(TARGETS)[:4]
        )
    ),
    *(Variant("whole caption", sizes=(size,)) for size in SIZES),
    *(Variant(method=positive_grad_cam, sizes=(size,)) for size in SIZES),
    *(Variant(sizes=(size,)) for size in (256, 384)),
    *(Variant(sizes=(size,), layers=layers) for size, layers in product((224, 448), LAYERS)),
    *(
        Variant(method=method, sizes=sizes, mirrored=True)
        for method, sizes in product((grad_cam, hires_cam), ((448,), (320, 448)))
    ),
    *(Attention(size) for size in SIZES),
]


def show_headline(photos: Sequence[Captioned], task: Captioning, *, markdown: bool) -> None:
    ways = {name: made(variant, task, photos) for name, variant in HEADLINE.items()}
    rows = beside_guesses(spots_of(photos), ways)
    for title, area in (("All words", math.inf), (f"Boxes cover less than {SMALL:.0%}", SMALL)):
        kept = {name: scores.below(area) for name, scores in rows.items()}
        show_scores(title, "words", kept, markdown=markdown)


def spots_of(photos: Sequence[Captioned]) -> list[Spot]:
    return [mention.spot for photo in photos for mention in photo.mentions]


def show_variants(photos: Sequence[Captioned], task: Captioning, *, markdown: bool) -> None:
    spots = spots_of(photos)
    centre = without_looking(spots, centre_point)
    tried = [(variant, score(spots, made(variant, task, photos))) for variant in VARIANTS]
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


def show_words(options: argparse.Namespace) -> None:
    task = captioning.load()
    every = captioned(task, photos_of(options.data, options.photos))
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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds coco128")
    parser.add_argument("--variants", action="store_true", help="score everything that was tried")
    parser.add_argument("--photos", type=int, help="only so many, to try the script")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--answers", action="store_true", help="score answers, and no words")
    answers = parser.add_argument_group("with --answers")
    answers.add_argument("--size", type=int, nargs="+", default=[448], help="input of the maps")
    answers.add_argument(
        "--occlusions", type=int, default=50, help="photos whose maps are held against occlusion"
    )
    answers.add_argument(
        "--unseen", action="store_true", help="leave out photos of VQA v2's training questions"
    )
    answers.add_argument("--weights", type=Path, help="folder that a training wrote; else bundled")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    show_answers(options) if options.answers else show_words(options)


if __name__ == "__main__":
    main()
