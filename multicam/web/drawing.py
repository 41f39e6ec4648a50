"""What was found, drawn as HTML: no model runs here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from multicam.errors import InputError
from multicam.overlay import STYLES, colors
from multicam.tints import data_uri
from multicam.web.views import Found
from multicam.words import WordContributions

STYLE_ENDS = {
    "heat": ("nothing", "most"),
    "signed": ("against", "for"),
    "spotlight": ("dim: little", "bright: most"),
}
"""What the low and the high end of a style's colours mean."""

AS_STYLE = ""
"""Stands for the colour map that a style has by itself."""

_OWN = {"heat": "jet", "signed": "diverging"}
_QUALITY = 88  # of JPEG
_STOPS = 12
_NUMBERED = re.compile(r" \(\d+\)$")


@dataclass(frozen=True)
class Look:
    """How maps are painted.

    Attributes:
        style: a name in `multicam.overlay.STYLES`.
        colormap: a name in `multicam.overlay.COLORMAPS`, or `AS_STYLE`; not for the spotlight.
        opacity: of the colours, 0 to 1; not for the spotlight.
    """

    style: str
    colormap: str
    opacity: float

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise InputError(f"no style is called {self.style!r}; there are {', '.join(STYLES)}")

    def options(self) -> dict[str, Any]:
        """For `Explanation.overlay`."""
        if self.style == "spotlight":
            return {"style": self.style}
        return {"style": self.style, "colormap": self.colors, "opacity": self.opacity}

    @property
    def colors(self) -> str:
        """The name of the colour map."""
        return self.colormap or _OWN[self.style]

    @property
    def scale(self) -> str:
        """The colours from the low end to the high end, in CSS."""
        if self.style == "spotlight":
            return "linear-gradient(90deg, #3c3c3c, #e6e6e6)"
        table = colors(self.colors)[np.linspace(0, 255, _STOPS).round().astype(int)]
        stops = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in table)
        return f"linear-gradient(90deg, {stops})"


@dataclass(frozen=True)
class Panel:
    """A map on its photo.

    Attributes:
        label: names the score.
        word: the label without what tells it from an equal one.
        note: how high it is.
        picture: as a data URL.
        silent: why the map says nothing, or nothing.
    """

    label: str
    word: str
    note: str
    picture: str
    silent: str


def drawn(found: Found, look: Look) -> str:
    """The HTML of what was found; what a visitor wrote stands in it as text."""
    explanation = found.explanation
    return (
        _templates()
        .get_template(f"{found.kind}.html.jinja")
        .render(
            panels=_panels(found, look),
            lines=_lines(found.words) if found.words else (),
            unknown=found.unknown,
            ends=STYLE_ENDS[look.style],
            scale=look.scale,
            made=f"{explanation.method} on {explanation.layer}",
        )
    )


def hint(kind: str) -> str:
    """What stands in the place of a result until there is one."""
    return _templates().get_template("hint.html.jinja").render(kind=kind)


def _panels(found: Found, look: Look) -> list[Panel]:
    explanation = found.explanation
    silent = explanation.silent
    notes = explanation.notes[0]
    return [
        Panel(
            label,
            _NUMBERED.sub("", label),
            notes[target],
            _jpeg(explanation.overlay(target=target, **look.options())),
            silent.get((0, target), ""),
        )
        for target, label in enumerate(explanation.labels[0])
    ]


def _lines(words: WordContributions) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """For each answer its label, and each word with its colours, behind it and of the ink."""
    table = colors("diverging")
    lines = []
    for label, shares in zip(words.labels, words.normalized().tolist(), strict=True):
        line = []
        for word, share in zip(words.words, shares, strict=True):
            red, green, blue = table[round((share + 1) / 2 * 255)]
            ink = "#fff" if abs(share) > 0.75 else "#111"
            line.append((word, f"rgb({red} {green} {blue})", ink))
        lines.append((label, line))
    return lines


def _jpeg(pixels: np.ndarray) -> str:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=_QUALITY)
    return data_uri("image/jpeg", stream.getvalue())


@cache
def _templates() -> Environment:
    return Environment(
        autoescape=True,
        loader=PackageLoader("multicam.web", "templates"),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
