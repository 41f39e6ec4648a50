"""A text whose words are shaded by how much they contributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath

from multicam.overlay import colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from multicam.words import WordContributions

_PAD = 0.06  # inches around a word
_SPACE = 0.06  # inches between words
_INCH = 72  # points


@dataclass(frozen=True)
class Shaded:
    """A word in its place.

    Attributes:
        text: the word.
        left: inches from the left edge.
        width: inches.
        share: -1 (against the score) to 1 (for it); None where nothing is shaded.
    """

    text: str
    left: float
    width: float
    share: float | None


def shaded_lines(contributions: WordContributions, width: float, font: float) -> list[list[Shaded]]:
    """Lines for a text: for each score its label, then the words; long ones go on below.

    Args:
        contributions: the words and their shares.
        width: of the lines, inches.
        font: size of the letters, points.
    """
    lines = []
    for label, row in zip(contributions.labels, contributions.normalized().tolist(), strict=True):
        words = [(f"{label}:", None), *zip(contributions.words, row, strict=True)]
        lines += _wrapped(words, width, font)
    return lines


def _wrapped(
    words: Sequence[tuple[str, float | None]], width: float, font: float
) -> list[list[Shaded]]:
    lines: list[list[Shaded]] = [[]]
    left = 0.0
    for text, share in words:
        length = _length(text, font) + 2 * _PAD
        if lines[-1] and left + length > width:
            lines.append([])
            left = 2 * _length("m", font)
        lines[-1].append(Shaded(text, left, length, share))
        left += length + _SPACE
    return lines


def _length(text: str, font: float) -> float:
    path = TextPath((0, 0), text, size=font, prop=FontProperties(), usetex=False)
    return float(path.get_extents().width) / _INCH if text.strip() else 0.0


def draw_lines(panel: Axes, lines: Sequence[Sequence[Shaded]], step: float, font: float) -> None:
    """Write shaded lines from the top of a panel whose unit is an inch.

    Args:
        panel: with limits of its width and height in inches.
        lines: from `shaded_lines`.
        step: from line to line, inches.
        font: size of the letters, points.
    """
    table = colors("diverging") / 255
    top = panel.get_ylim()[1]
    for number, line in enumerate(lines):
        middle = top - (number + 0.5) * step
        for word in line:
            if word.share is not None:
                shade = table[round((word.share + 1) / 2 * 255)]
                box = (word.left, middle - 0.42 * step), word.width, 0.84 * step
                panel.add_patch(
                    FancyBboxPatch(*box, "round,pad=0,rounding_size=0.04", fc=shade, ec="none")
                )
            panel.text(
                word.left + _PAD,
                middle,
                word.text,
                fontsize=font,
                va="center_baseline",
                color=_ink(word.share),
                parse_math=False,
            )


def _ink(share: float | None) -> str:
    """White on the dark ends of the colours."""
    return "white" if share is not None and abs(share) > 0.75 else "black"
