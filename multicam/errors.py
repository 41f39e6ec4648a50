"""The errors of multicam.

    MulticamError
    ├── LayerError         the feature map: unknown, never reached, not spatial
    ├── TargetError        the score: wrong shape, not differentiable
    │   └── UnreachedError the score does not depend on the layer (a LayerError too)
    ├── InputError         images, class names, files
    └── MissingExtraError  an optional dependency is not installed

Exceptions that the explained model raises by itself pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MulticamError(Exception):
    """Root of all errors that multicam raises on purpose."""


class LayerError(MulticamError):
    """The requested feature map cannot be used."""


class TargetError(MulticamError):
    """The target does not give one differentiable score per sample."""


class UnreachedError(LayerError, TargetError):
    """The score does not depend on the layer: it never ran, ran later, or elsewhere."""


class InputError(MulticamError):
    """An image, a name or a file cannot be used as given."""


class MissingExtraError(MulticamError):
    """An optional dependency is missing; the message holds the install command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'multicam-xai[{extra}]'"
        )


def nearest(name: str, names: Iterable[str], count: int = 5) -> list[str]:
    """The names closest in spelling to `name`, best first, whatever their case.

    >>> nearest("layr4", ["conv1", "layer3", "layer4"], count=1)
    ['layer4']
    """
    by_key = {candidate.lower(): candidate for candidate in names}
    found = get_close_matches(name.lower(), by_key, n=count, cutoff=0.4)
    return [by_key[key] for key in found]
