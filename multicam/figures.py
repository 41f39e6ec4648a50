"""The photo and its maps side by side, with labels, scores and one legend."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from multicam.errors import InputError
from multicam.images import ImageSource, load
from multicam.overlay import colors, paint
from multicam.shading import draw_lines, shaded_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

    from multicam.explanation import Explanation
    from multicam.words import WordContributions

_DPI = 150
_FONT = 13  # points
_LINE = 0.24  # inches, a line of text
_LETTER = 0.115  # inches, a generous mean of a letter's width
_PANEL = 3.2  # inches, the longer side of a photo
_SMALL_PANEL = 2.3  # the same where there are many
_MANY = 10  # panels
_LEAST_WIDTH = 2.4  # inches: room for a label
_GAP = 0.15  # inches
_BAR = 0.16  # inches, the thickness of the colour bar
_LEGEND = _BAR + 2.4 * _LINE
_STEP = 0.3  # inches, a line of shaded words
_MARGIN = 0.3  # inches beside them
_DASHED = "(dashed: what the model saw)"
_WORDS = "words: red speaks for the answer, blue against it (each line on its own scale)"

_GREYS = np.linspace(60, 230, 256)[:, np.newaxis].repeat(3, axis=1)
_LEGENDS = {
    "heat": (colors("jet"), ("nothing", "half", "most")),
    "signed": (colors("diverging"), ("against", "neither", "for")),
    "spotlight": (_GREYS, ("dim: little", "", "bright: most")),
}
"""Style: its colours, and the words at its low end, middle and high end."""


def figure(
    explanation: Explanation,
    image: ImageSource | None = None,
    *,
    sample: int = 0,
    style: str = "heat",
    words: WordContributions | None = None,
) -> Figure:
    """Show the photo, then each target's map on it with label and score.

    Where the model saw a part of the photo, a dashed line encloses it. A map that says
    nothing says so in words.

    Args:
        explanation: what to show.
        image: the photo, for explanations that carry none.
        sample: which one of the batch.
        style: a name from `multicam.overlay.STYLES`.
        words: what the words of a text contributed to the scores, to be shown below the
            maps: red speaks for the score, blue against it.

    Returns:
        A figure that belongs to no window; its `savefig(path)` writes it.

    Raises:
        InputError: there is no photo, or the style does not exist.
    """
    if style not in _LEGENDS:
        raise InputError(f"no style is called {style!r}; there are {', '.join(_LEGENDS)}")
    photo = _photo(explanation, image, sample)
    longer_side = _SMALL_PANEL if len(explanation.labels[sample]) >= _MANY else _PANEL
    width, height = _panel_size(photo, longer_side)
    maps = [
        explanation.placed(None if image is None else photo, sample=sample, target=target)
        for target in range(len(explanation.labels[sample]))
    ]
    pixels = np.asarray(photo)
    part = _part_seen(maps)
    letters = int(width / _LETTER)
    titles = ["photo" if part is None else f"photo\n{fill(_DASHED, letters + 4)}"]  # it is narrow
    titles += _titles(explanation, sample, letters)
    columns = _columns(len(titles))
    across = columns * (width + _GAP) + _GAP
    lines = shaded_lines(words, across - 2 * _MARGIN, _FONT) if words else []
    below = (len(lines) + 1) * _STEP + _GAP if lines else 0.0
    drawn, panels = _grid(titles, columns, width, height, below)
    _show(panels[0], pixels)
    for panel, values in zip(panels[1:], maps, strict=True):
        _show(panel, paint(pixels, values, style=style))
    if part is not None:
        _outline(panels[0], part)
    if lines:
        panel = _text_panel(drawn, below)
        draw_lines(panel, lines, _STEP, _FONT)
        panel.text(0, 0.6 * _STEP, _WORDS, fontsize=_FONT - 2, color="dimgrey")
    _add_legend(drawn, style)
    return drawn


def _photo(explanation: Explanation, image: ImageSource | None, sample: int) -> Image:
    if image is not None:
        return load(image)
    if not explanation.photos:
        raise InputError("this explanation was made from tensors; pass the image to show it on")
    return explanation.photos[sample].image


def _panel_size(photo: Image, longer_side: float) -> tuple[float, float]:
    """Width and height in inches."""
    scale = longer_side / max(photo.size)
    return max(photo.width * scale, _LEAST_WIDTH), photo.height * scale


def _titles(explanation: Explanation, sample: int, letters: int) -> list[str]:
    titles = []
    scores = [f"score {score:.3g}" for score in explanation.scores[sample].tolist()]
    notes = explanation.notes[sample] if explanation.notes else scores
    silent = explanation.silent
    for target, label in enumerate(explanation.labels[sample]):
        parts = [label, notes[target]]
        if reason := silent.get((sample, target)):
            parts.append(f"({reason})")
        titles.append("\n".join(fill(part, letters, max_lines=6) for part in parts))
    return titles


def _columns(count: int) -> int:
    """Panels in a row, up to 6: as few empty places as possible."""
    choices = (6, 5, 4) if count > _MANY else (4, 5, 3)
    return count if count < 5 else min(choices, key=lambda number: -count % number)


def _grid(
    titles: list[str], columns: int, width: float, height: float, below: float
) -> tuple[Figure, list[Axes]]:
    """A titled panel each, and room below them.

    Laid out in inches, so that no title is cut off however long it is.
    """
    rows = [titles[start : start + columns] for start in range(0, len(titles), columns)]
    text = [(1 + max(title.count("\n") for title in row)) * _LINE + _GAP for row in rows]
    across = columns * (width + _GAP) + _GAP
    down = sum(text) + len(rows) * height + _GAP + below + _LEGEND
    drawn = Figure(figsize=(across, down), dpi=_DPI)
    panels, bottom = [], down
    for row, above in zip(rows, text, strict=True):
        bottom -= above + height
        for column, title in enumerate(row):
            left = _GAP + column * (width + _GAP)
            panel = drawn.add_axes((left / across, bottom / down, width / across, height / down))
            panel.set_axis_off()
            panel.set_title(title, fontsize=_FONT, parse_math=False)  # labels may hold a $
            panels.append(panel)
    return drawn, panels


def _show(panel: Axes, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    """Shrunk to about the figure's resolution first: Matplotlib is slow at that."""
    height, width = picture.shape[:2]
    scale = 2 * _DPI * _PANEL / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    panel.imshow(picture)


def _part_seen(
    maps: list[Float[np.ndarray, "height width"]],
) -> tuple[float, float, float, float] | None:
    """Left, bottom, width and height of what the model saw, in shares of the photo.

    None where it saw all of the photo, or no map tells.
    """
    seen = np.any([np.isfinite(values) for values in maps], axis=0)
    if seen.all() or not seen.any():
        return None
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    height, width = seen.shape
    bottom = height - 1 - rows[-1]
    return columns[0] / width, bottom / height, len(columns) / width, len(rows) / height


def _outline(panel: Axes, part: tuple[float, float, float, float]) -> None:
    left, bottom, width, height = part
    for color, line in (("black", "-"), ("white", "--")):
        panel.add_patch(
            Rectangle(
                (left, bottom),
                width,
                height,
                transform=panel.transAxes,
                fill=False,
                linewidth=1.6,
                edgecolor=color,
                linestyle=line,
            )
        )


def _text_panel(drawn: Figure, height: float) -> Axes:
    """A panel above the legend whose unit is an inch."""
    across, down = drawn.get_size_inches()
    width = across - 2 * _MARGIN
    place = (_MARGIN / across, _LEGEND / down, width / across, height / down)
    panel = drawn.add_axes(place)
    panel.set_axis_off()
    panel.set_xlim(0, width)
    panel.set_ylim(0, height)
    return panel


def _add_legend(drawn: Figure, style: str) -> None:
    table, ends = _LEGENDS[style]
    mapping = ScalarMappable(cmap=ListedColormap(table / 255))
    mapping.set_clim(0, 1)
    down = drawn.get_figheight()
    place = drawn.add_axes((0.2, (_LEGEND - _BAR) / down, 0.6, _BAR / down))
    bar = drawn.colorbar(mapping, cax=place, orientation="horizontal")
    bar.set_ticks([0, 0.5, 1], labels=list(ends), fontsize=_FONT - 1)
    bar.set_label("speaks for the label (each panel on its own scale)", fontsize=_FONT - 1)
    bar.outline.set_visible(False)
