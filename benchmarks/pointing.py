"""Where maps point, beside COCO's boxes: the scores that words and answers share."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from intervals import with_interval
from PIL import Image
from rich.console import Console
from tables import show

from multicam import Explanation
from multicam.metrics import (
    box_ratio,
    centre_point,
    covered_area,
    energy_inside,
    pointing_game,
    uniform_map,
)

SMALL = 0.25
"""Boxes that cover less than this share of the photo: the centre is no safe guess there."""

OTHERS = 10
"""How many maps of other photos stand in for each map in the control."""

WORDS = Path(__file__).with_name("coco_words.json")
Words: TypeAlias = Mapping[str, Sequence[str]]
Box: TypeAlias = tuple[float, float, float, float]
ERRORS = Console(stderr=True)

Lay: TypeAlias = Callable[[Image.Image | None], np.ndarray]
"""A signed map, laid on its own photo or on another in its place."""


@dataclass(frozen=True)
class Photo:
    """A photo with the entries that boxes.json has for it."""

    path: Path
    found: list[dict[str, Any]]

    @cached_property
    def image(self) -> Image.Image:
        return Image.open(self.path).convert("RGB")

    @property
    def size(self) -> tuple[int, int]:
        return self.image.height, self.image.width

    @property
    def categories(self) -> list[str]:
        return list(dict.fromkeys(one["category"] for one in self.found))

    def spot(self, categories: Collection[str]) -> Spot | None:
        """The boxes of some categories, if there are any."""
        height, width = self.size
        fractions = [one["box"] for one in self.found if one["category"] in categories]
        boxes = [(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in fractions]
        return Spot(self, boxes, covered_area(self.size, boxes)) if boxes else None


@dataclass(frozen=True)
class Spot:
    """Boxes in a photo: together the places that a map ought to point at."""

    photo: Photo
    boxes: list[Box]
    area: float


def photos_of(data: Path, limit: int | None) -> list[Photo]:
    folder = data / "coco128"
    boxes = json.loads((folder / "boxes.json").read_text())
    return [Photo(folder / "images" / name, boxes[name]) for name in sorted(boxes)[:limit]]


def laid(made: Iterable[Explanation], label: str, image: Image.Image | None = None) -> np.ndarray:
    """The map of a label on its photo, or on another in its place; the mean of several."""
    placed = [one.placed(image, target=one.labels[0].index(label)) for one in made]
    return np.mean([values / (np.abs(values).max() or 1) for values in placed], axis=0)


@dataclass
class Scores:
    """One entry for each map."""

    photos: list[str] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    pointing: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)

    def add(self, spot: Spot, maps: Sequence[np.ndarray]) -> None:
        """The scores of a map; the mean scores of several."""
        self.photos.append(spot.photo.path.name)
        self.areas.append(spot.area)
        for metric, into in (
            (pointing_game, self.pointing),
            (box_ratio, self.ratio),
            (energy_inside, self.energy),
        ):
            into.append(float(np.mean([metric(values, spot.boxes) for values in maps])))

    def where(self, chosen: Sequence[bool]) -> Scores:
        """Those of the maps that are chosen."""
        kept = [index for index, wanted in enumerate(chosen) if wanted]
        fields = (self.photos, self.areas, self.pointing, self.ratio, self.energy)
        return Scores(*([values[index] for index in kept] for values in fields))

    def below(self, area: float) -> Scores:
        """Those whose boxes cover less than this share of their photo."""
        return self.where([own < area for own in self.areas])

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
        """How much more often these point at the boxes, compared map by map."""
        return with_interval(np.subtract(self.pointing, other.pointing), self.photos)


def score(spots: Sequence[Spot], maps: Sequence[Lay]) -> Scores:
    scores = Scores()
    for spot, lay in zip(spots, maps, strict=True):
        scores.add(spot, [lay(None)])
    return scores


def without_looking(
    spots: Sequence[Spot], guess: Callable[[tuple[int, int]], np.ndarray]
) -> Scores:
    return score(spots, [lambda _, size=spot.photo.size: guess(size) for spot in spots])


def exchanged(spots: Sequence[Spot], maps: Sequence[Lay]) -> Scores:
    """The control: maps of other photos, laid on this photo."""
    scores = Scores()
    for spot, others in zip(spots, drawn([spot.photo.path for spot in spots]), strict=True):
        scores.add(spot, [maps[other](spot.photo.image) for other in others])
    return scores


def drawn(photos: Sequence[Path]) -> Iterator[list[int]]:
    """For each map, by its photo, some that belong to other photos."""
    draw = np.random.default_rng(0)
    for own in photos:
        others = [index for index, photo in enumerate(photos) if photo != own]
        yield [others[index] for index in draw.integers(len(others), size=OTHERS)]


# The table


GUESSES = {"uniform map": uniform_map, "centre point": centre_point}

COLUMNS = [
    "",
    "pointing game",
    "less uniform map",
    "less centre point",
    "box ratio: mean",
    "median",
    "left out",
    "energy inside",
]


def beside_guesses(spots: Sequence[Spot], ways: Mapping[str, Sequence[Lay]]) -> dict[str, Scores]:
    """The scores of guesses, and of maps that were made in some ways with their control."""
    rows = {name: without_looking(spots, guess) for name, guess in GUESSES.items()}
    for name, maps in ways.items():
        rows[name] = score(spots, maps)
        rows[f"{name}: maps of other photos"] = exchanged(spots, maps)
    return rows


def show_scores(title: str, what: str, rows: Mapping[str, Scores], *, markdown: bool) -> None:
    """A table of the rows of `beside_guesses`, all of the same maps."""
    one = rows["uniform map"].photos
    title = f"{title}: {len(one)} {what} of {len(set(one))} photos"
    table = [cells(name, rows) for name in rows] if one else []
    show(title, COLUMNS, table, markdown=markdown)


def cells(name: str, rows: Mapping[str, Scores]) -> list[str]:
    pointing, *rest = rows[name].cells
    ahead = [rows[name].ahead_of(rows[guess]) for guess in GUESSES]
    if name == "centre point":  # zero outside, or zero inside
        rest = ["", "", "", rest[-1]]
    return [name, pointing, *ahead, *rest]
