"""A data set whose folders are its classes, and the views of its photos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from multicam import images
from multicam.errors import InputError, nearest
from multicam.tasks import backbone

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Of the files that count as photos."""

TESTED = 0.2
"""Share of each class that is kept for the test where the folder names none."""

LEAST_CROP = 0.7
"""Shortest side of a random crop, as a share of the photo's."""


@dataclass(frozen=True)
class Part:
    """Photos, and for each the index of its class."""

    photos: tuple[Path, ...]
    answers: tuple[int, ...]


@dataclass(frozen=True)
class Scenes:
    """A data set of photos in classes, in a part to learn from and one to test with."""

    classes: tuple[str, ...]
    train: Part
    test: Part

    @property
    def fingerprint(self) -> str:
        """Changes with the names, the sizes and the order of the photos to learn from."""
        listed = [f"{'/'.join(one.parts[-2:])} {one.stat().st_size}" for one in self.train.photos]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:8]

    def index(self, wanted: str) -> int:
        """The index of a class by its name, whatever the case.

        Raises:
            InputError: there is no such class; the nearest are listed.
        """
        names = [name.casefold() for name in self.classes]
        if wanted.casefold() in names:
            return names.index(wanted.casefold())
        close = nearest(wanted, self.classes) or self.classes
        raise InputError(f"no class is called {wanted!r}; the nearest are {', '.join(close)}")


def read(folder: Path, seed: int) -> Scenes:
    """Find the classes of a folder.

    Args:
        folder: holds `train` and `test` with a folder of photos for each class; or only
            the folders of the classes, as UC Merced's `Images` does, of which a fifth
            is then drawn for the test.
        seed: of that draw.

    Raises:
        InputError: there is no such folder, or not two classes of photos in it.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if not (folder / "train").is_dir():
        return _split(folder, seed)
    if not (folder / "test").is_dir():
        raise InputError(f"{folder} holds a folder `train` and no folder `test`")
    train, test = _photos(folder / "train"), _photos(folder / "test")
    if train.keys() != test.keys():
        odd = ", ".join(sorted(train.keys() ^ test.keys()))
        raise InputError(f"`train` and `test` in {folder} hold different classes: {odd}")
    return Scenes(tuple(train), _part(train), _part(test))


def _split(folder: Path, seed: int) -> Scenes:
    generator = np.random.default_rng(seed)
    train, test = {}, {}
    for name, photos in _photos(folder).items():
        if len(photos) < 2:
            raise InputError(f"class {name!r} in {folder} has one photo; it takes two or more")
        order = [photos[index] for index in generator.permutation(len(photos))]
        kept = max(1, round(TESTED * len(photos)))
        train[name], test[name] = sorted(order[kept:]), sorted(order[:kept])
    return Scenes(tuple(train), _part(train), _part(test))


def _photos(folder: Path) -> dict[str, list[Path]]:
    """The photos of each class, both in the order of their names."""
    found = {}
    for one in sorted(path for path in folder.iterdir() if path.is_dir()):
        photos = sorted(path for path in one.iterdir() if path.suffix.lower() in SUFFIXES)
        if photos:
            found[one.name] = photos
    if len(found) < 2:
        listed = f"only {next(iter(found))!r}" if found else "none"
        raise InputError(
            f"{folder} has to hold a folder of photos for each of two classes or more; "
            f"it holds {listed}"
        )
    return found


def _part(photos: dict[str, list[Path]]) -> Part:
    pairs = [(photo, index) for index, own in enumerate(photos.values()) for photo in own]
    found, answers = zip(*pairs, strict=True)
    return Part(found, answers)


@dataclass(frozen=True)
class View:
    """One way to look at each photo of a data set.

    The first is the whole photo, the second its mirror image, and those after them are
    random crops of it, every other one mirrored.

    Args:
        number: which one, from 0.
        turned: whether the crops are turned by a random number of quarters.
        seed: of the crops and turns.
    """

    number: int
    turned: bool
    seed: int

    def of(self, path: Path, index: int) -> Tensor:
        """The network's input for a photo, (3, 224, 224); `index` says which one it is."""
        image = images.load(path)
        generator = np.random.default_rng((self.seed, self.number, index))
        if self.number % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.number > 1:
            image = image.crop(_crop(image.size, generator))
            quarters = int(generator.integers(4)) if self.turned else 0
            image = image.rotate(90 * quarters, expand=True)
        return backbone.squeeze(image)


def _crop(size: Sequence[int], generator: np.random.Generator) -> tuple[int, int, int, int]:
    share = generator.uniform(LEAST_CROP, 1)
    width, height = (round(share * side) for side in size)
    left = int(generator.integers(size[0] - width + 1))
    top = int(generator.integers(size[1] - height + 1))
    return left, top, left + width, top + height
