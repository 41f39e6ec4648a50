"""Photos with their maps, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from multicam.errors import InputError
from multicam.tints import Part, Tint, data_uri, part_seen

if TYPE_CHECKING:
    from multicam.explanation import Explanation
    from multicam.geometry import Photo

LONGEST_SIDE = 1024
"""Pixels: larger photos are scaled down to it."""


@dataclass(frozen=True)
class ShownMap:
    """One map.

    Attributes:
        id: of the element that holds its colours.
        label: names the score.
        facts: how high the score is, and where the map is strongest, in sentences.
        tint: its colours.
    """

    id: str
    label: str
    facts: str
    tint: Tint


@dataclass(frozen=True)
class Exhibit:
    """One photo with its maps.

    Attributes:
        id: of the element that holds the photo.
        name: what sentences call the photo.
        photo: a JPEG file, as a data URI.
        size: (width, height) of the original, in pixels.
        part: what the model saw; None for all of the photo.
        maps: in the order of the targets.
    """

    id: str
    name: str
    photo: str
    size: tuple[int, int]
    part: Part | None
    maps: list[ShownMap]


def exhibits(explanation: Explanation, photos: Sequence[Photo]) -> list[Exhibit]:
    """All samples of an explanation, each on its photo.

    Raises:
        InputError: the maps have not two dimensions.
    """
    if explanation.maps.ndim != 4:
        raise InputError(
            f"a map over {tuple(explanation.maps.shape[2:])} places does not lie on a photo; "
            "that takes (height, width)"
        )
    silent = explanation.silent
    found = []
    for sample, photo in enumerate(photos):
        reasons = [silent.get((sample, target)) for target in range(explanation.maps.shape[1])]
        part = part_seen(photo.geometry)
        found.append(
            Exhibit(
                id=f"photo-{sample}",
                name=f"photo {sample + 1}" if len(photos) > 1 else "the photo",
                photo=_jpeg(photo),
                size=photo.image.size,
                part=None if _is_all(part, *photo.image.size) else part,
                maps=[
                    _shown(explanation, sample, target, photo, reason)
                    for target, reason in enumerate(reasons)
                ],
            )
        )
    return found


def _shown(
    explanation: Explanation, sample: int, target: int, photo: Photo, reason: str | None
) -> ShownMap:
    values = explanation.maps[sample, target].detach().float().cpu().numpy()
    tint = Tint.of(values, photo.geometry)
    silence = f"This map says nothing ({reason})." if reason else ""
    facts = (_score(explanation, sample, target), silence, tint.whereabouts)
    label = explanation.labels[sample][target]
    return ShownMap(f"map-{sample}-{target}", label, " ".join(filter(None, facts)), tint)


def _score(explanation: Explanation, sample: int, target: int) -> str:
    """The score and its note, which may be the score again."""
    score = f"score {explanation.scores[sample, target].item():.3g}"
    note = explanation.notes[sample][target] if explanation.notes else score
    return f"{note if note.startswith('score') else f'{note}, {score}'}."


def _is_all(part: Part, width: int, height: int) -> bool:
    """Within a pixel, which is how well a part is measured."""
    return part[0] < 1 and part[1] < 1 and part[2] > width - 1 and part[3] > height - 1


def _jpeg(photo: Photo) -> str:
    reduced = photo.image.copy()
    reduced.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = BytesIO()
    reduced.save(buffer, format="JPEG", quality=90)
    return data_uri("image/jpeg", buffer.getvalue())
