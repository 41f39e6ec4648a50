"""Pictures and reports on disk, under names that no file has yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from multicam.crosscheck import CrossCheck
from multicam.explanation import Explanation
from multicam.words import WordContributions


def save_pictures(
    explanation: Explanation, folder: Path, name: str, style: str
) -> tuple[list[Path], Path]:
    """Write the overlay of each target of the first photo, and the figure with all of them.

    They are called `NAME.LABEL.png` and `NAME.figure.png`. No file is overwritten: where
    that name is taken, a number is added to it.

    Args:
        explanation: with its photo.
        folder: where they go; made if it is missing.
        name: of the photo.
        style: of the overlays; see `Explanation.overlay`.

    Returns:
        The paths of the overlays in the order of the targets, and that of the figure.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    overlays = []
    for target, label in enumerate(explanation.labels[0]):
        pixels = explanation.overlay(target=target, style=style)
        with open_new(folder, f"{name}.{file_name(label)}", ".png") as file:
            Image.fromarray(pixels).save(file, format="PNG")
        overlays.append(Path(file.name))
    return overlays, save_figure(explanation, folder, f"{name}.figure", style)


def save_figure(
    explanation: Explanation,
    folder: Path,
    name: str,
    style: str,
    words: WordContributions | None = None,
) -> Path:
    """Write the figure of the first photo as `NAME.png`, or with a number if that is taken.

    Args:
        explanation: with its photo.
        folder: where it goes; made if it is missing.
        name: of the file, without its ending.
        style: of the overlays.
        words: a text to be shown below the maps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = explanation.figure(style=style, words=words)
    with open_new(folder, name, ".png") as file:
        figure.savefig(file, format="png", dpi=150)
    return Path(file.name)


def save_report(
    explanation: Explanation,
    folder: Path,
    name: str,
    words: WordContributions | None = None,
    checks: Sequence[CrossCheck] = (),
) -> Path:
    """Write the report as `NAME.html`, or with a number if that is taken.

    Args:
        explanation: with its photos.
        folder: where it goes; made if it is missing.
        name: of the file, without its ending.
        words: a text to be shown shaded.
        checks: comparisons with Captum to be shown.
    """
    from multicam.report import encoded, page

    html = page(explanation, words=words, checks=checks)
    folder.mkdir(parents=True, exist_ok=True)
    with open_new(folder, name, ".html") as file:
        file.write(encoded(html))
    return Path(file.name)


def open_new(folder: Path, name: str, suffix: str) -> BinaryIO:
    """Open a file that did not exist: `name.png`, or else `name-2.png`, `name-3.png`, ..."""
    path, number = folder / f"{name}{suffix}", 1
    while True:
        try:
            return path.open("xb")
        except FileExistsError:
            number += 1
            path = folder / f"{name}-{number}{suffix}"


def file_name(label: str) -> str:
    """A label as a part of a file name.

    >>> file_name("tabby, tabby cat")
    'tabby_tabby_cat'
    """
    return re.sub(r"\W+", "_", label.lower()).strip("_")[:60] or "class"
