"""Classes by name: the whole label, a synonym in it, or a fragment that fits only one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multicam.errors import InputError, nearest


def label_list(labels: Sequence[str] | Mapping[Any, str] | None) -> tuple[str, ...]:
    """The labels in the order of their classes; a class without one is called `class 7`.

    Args:
        labels: names in order, a mapping from index to name, or None for no names.

    Raises:
        InputError: a key of the mapping is not an index.
    """
    if not labels:
        return ()
    if not isinstance(labels, Mapping):
        return tuple(labels)
    wrong = [key for key in labels if not isinstance(key, int) or key < 0]
    if wrong:
        raise InputError(f"labels go from class index to name; {wrong[0]!r} is not an index")
    return tuple(labels.get(index, f"class {index}") for index in range(max(labels) + 1))


def class_index(name: str, labels: Sequence[str]) -> int:
    """Find a class by a name or a part of it, whatever its case.

    Tried in this order, and the first that fits decides: the very label (a Cardigan is a
    dog, a cardigan is knitted); the label in any case; one of the synonyms in it, which
    WordNet parts by commas; whole words of it; the beginnings of words. A number that
    is no label is taken as the index.

    Args:
        name: what to look for.
        labels: of all classes, in order.

    Raises:
        InputError: nothing fits (the nearest labels are listed), or several do
            (they are listed).

    Example:
        >>> labels = ["tabby, tabby cat", "tiger cat", "Egyptian cat", "catamaran"]
        >>> [class_index(name, labels) for name in ["Tabby Cat", "egypt", "tiger", "catam"]]
        [0, 2, 1, 3]
        >>> class_index("cat", labels)
        Traceback (most recent call last):
        multicam.errors.InputError: 'cat' fits 3 classes: 'tabby, tabby cat' (0), ...
    """
    if name in labels:
        return labels.index(name)
    wanted = " ".join(name.lower().split())
    for fits in _RULES if wanted else ():
        found = [index for index, label in enumerate(labels) if fits(wanted, label.lower())]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(_several(name, found, labels))
    if wanted.isdecimal():
        return int(wanted)
    raise InputError(_none(name, labels))


def _is_synonym(wanted: str, label: str) -> bool:
    return wanted in [synonym.strip() for synonym in label.split(",")]


def _has_words(wanted: str, label: str) -> bool:
    return re.search(rf"\b{re.escape(wanted)}\b", label) is not None


def _has_beginning(wanted: str, label: str) -> bool:
    return re.search(rf"\b{re.escape(wanted)}", label) is not None


_RULES: tuple[Callable[[str, str], bool], ...] = (
    str.__eq__,
    _is_synonym,
    _has_words,
    _has_beginning,
)


def _several(name: str, found: Sequence[int], labels: Sequence[str], most: int = 12) -> str:
    listed = ", ".join(f"{labels[index]!r} ({index})" for index in found[:most])
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"{name!r} fits {len(found)} classes: {listed}{more}; give one of these, or its index"


def _none(name: str, labels: Sequence[str]) -> str:
    if not labels:
        return f"class {name!r} was asked for by name, but no labels are known; give its index"
    close = ", ".join(map(repr, nearest(name, labels) or labels[:5]))
    return f"no class of {len(labels)} is called {name!r}; the nearest are {close}"
