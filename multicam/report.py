"""An explanation as one HTML file, with everything inside."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from multicam.crosscheck import CrossCheck
from multicam.errors import InputError
from multicam.exhibits import exhibits
from multicam.images import ImageSource
from multicam.overlay import colors
from multicam.words import WordContributions

if TYPE_CHECKING:
    from multicam.explanation import Explanation

_SHADES = 20  # steps from the strongest word against a score to the strongest for it


def report(
    explanation: Explanation,
    path: str | PathLike[str],
    image: ImageSource | Sequence[ImageSource] | None = None,
    *,
    words: WordContributions | None = None,
    checks: Sequence[CrossCheck] = (),
) -> None:
    """Write `page` to a file, which is replaced only once all of it is written.

    Args:
        explanation: see `page`, like all arguments but `path`.
        path: of the file, in a folder that exists.
        image: see `page`.
        words: see `page`.
        checks: see `page`.

    Raises:
        InputError: the file cannot be written, or what `page` raises.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} of {path.name} does not exist; make it first")
    html = page(explanation, image, words=words, checks=checks)
    unfinished = path.with_name(f".multicam-{secrets.token_hex(8)}.html")
    try:
        unfinished.write_bytes(encoded(html))
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def encoded(html: str) -> bytes:
    """A page as UTF-8; halves of surrogate pairs, which are no text, as question marks."""
    return html.encode("utf-8", "replace")


def page(
    explanation: Explanation,
    image: ImageSource | Sequence[ImageSource] | None = None,
    *,
    words: WordContributions | None = None,
    checks: Sequence[CrossCheck] = (),
) -> str:
    """An HTML page that needs no other file and no network.

    Pointing at a label, or moving to it by keyboard, shows its map on the photo. What was
    given by users (labels, words, names) is text and never markup; a content security
    policy allows the page's own style and script alone, and pictures inside it.

    Args:
        explanation: what to show, every sample of it.
        image: the photo, for explanations that carry none; a list with one for each
            sample of a batch. Large photos are scaled down, see `multicam.exhibits`.
        words: what the words of a text contributed to the scores.
        checks: comparisons with Captum.

    Raises:
        InputError: there is no photo for a sample, or the maps have not two dimensions.
    """
    pages = _pages()
    style = pages.get_template("report.css.jinja").render(_palette())
    script = pages.get_template("report.js").render()
    photos = [
        explanation.photo(one, sample=sample)
        for sample, one in enumerate(_images(explanation, image))
    ]
    return pages.get_template("report.html.jinja").render(
        style=style,
        style_hash=_policy_hash(style),
        script=script,
        script_hash=_policy_hash(script),
        exhibits=exhibits(explanation, photos),
        words=words,
        lines=[] if words is None else list(_lines(words)),
        checks=[part for check in checks for part in _parts(check)],
        about=_about(explanation),
    )


def _images(
    explanation: Explanation, image: ImageSource | Sequence[ImageSource] | None
) -> list[ImageSource | None]:
    """One for each sample."""
    count = len(explanation.labels)
    if image is None:
        return [None] * count
    listed = image if isinstance(image, (list, tuple)) else [cast("ImageSource", image)]
    images: list[ImageSource | None] = list(listed)
    if len(images) != count:
        raise InputError(
            f"{len(images)} image(s) were given for {count} sample(s); give one for each, in a list"
        )
    return images


def _lines(words: WordContributions) -> Iterator[tuple[str, list[tuple[str, float, int]]]]:
    """For each score its label, and each word with its contribution and its shade."""
    shares = words.normalized().nan_to_num(0, 0, 0)
    shades = ((shares + 1) / 2 * _SHADES).round().int().tolist()
    for label, scores, row in zip(words.labels, words.scores.tolist(), shades, strict=True):
        yield label, list(zip(words.words, scores, row, strict=True))


def _parts(check: CrossCheck) -> Iterator[CrossCheck]:
    """A comparison of several maps as one of each."""
    for sample, labels in enumerate(check.labels):
        for target, label in enumerate(labels):
            one = slice(sample, sample + 1), slice(target, target + 1)
            yield replace(check, ours=check.ours[one], captum=check.captum[one], labels=((label,),))


def _about(explanation: Explanation) -> list[tuple[str, str]]:
    """What the maps were made of and with, for a table."""
    now = datetime.now(UTC)
    rows = [
        ("model", explanation.model),
        ("layer", explanation.layer),
        ("method", explanation.method),
        ("map", " x ".join(map(str, explanation.maps.shape[2:])) + " places"),
        *explanation.versions.items(),
        ("written", f"{now:%Y-%m-%d %H:%M} UTC"),
    ]
    return [(name, value) for name, value in rows if value]


def _palette() -> dict[str, list[tuple[str, str]]]:
    """The colours of the two styles, as (colour, readable ink on it)."""
    return {
        "heat": _inked(colors("jet")[::17]),
        "signed": _inked(colors("diverging")[np.linspace(0, 255, _SHADES + 1).round().astype(int)]),
    }


def _inked(table: np.ndarray) -> list[tuple[str, str]]:
    """With black or white, whichever contrasts more by the formula of WCAG 2."""
    linear = np.where(table > 10, ((table / 255 + 0.055) / 1.055) ** 2.4, table / 255 / 12.92)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    inks = np.where(luminance > 0.179, "#000", "#fff").tolist()
    return [(f"rgb({r} {g} {b})", ink) for (r, g, b), ink in zip(table.tolist(), inks, strict=True)]


@cache
def _pages() -> Environment:
    """The templates; each is compiled once."""
    return Environment(
        loader=PackageLoader("multicam"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _policy_hash(text: str) -> str:
    """How a content security policy names a script or a style."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
