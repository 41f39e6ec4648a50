"""Derive questions from what DAQUAR's questions and answers say is in its photos."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from derived_words import COLORS, either

OBJECTS = (
    "what is in the room?",
    "which objects are in the photo?",
    "what objects are in this room?",
    "what can be seen in the photo?",
)
"""How it is asked what there is; everything that is named answers it."""

LEAST = 4
"""How many of the answers must name a thing for it to count as one."""

TURNS = 3
"""How often it is asked what there is in a photo."""


def listed(answer: str) -> list[str]:
    """DAQUAR's answers, which commas join, spelled with spaces.

    Example:
        >>> listed("garbage_bin, chair")
        ['garbage bin', 'chair']
    """
    return [part.replace("_", " ").strip() for part in answer.split(",")]


def room_questions(folder: Path, seed: int) -> list[dict[str, object]]:
    """Questions what is in a photo: all things that its questions and their answers name.

    Nothing is asked of things that they do not name, which may be there too.
    """
    asked = json.loads((folder / "vqa_train.json").read_text("utf-8"))
    chance = random.Random(seed)
    return [
        {
            "set": "daquar",
            "image": photo,
            "kind": "objects",
            "question": chance.choice(OBJECTS),
            "answer": things[0],
            "answers": things,
            "source": "derived",
        }
        for photo, things in things_in(asked).items()
        for _ in range(TURNS)
    ]


def things_in(asked: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The things that questions and answers name, by photo."""
    counts = Counter(answer for one in asked for answer in listed(one["answer"]))
    known = {
        name
        for name, count in counts.items()
        if count >= LEAST and not name.isdigit() and not set(name.split()) & COLORS.keys()
    }
    if not known:
        return {}
    named = re.compile(rf"\b({either(known)})s?\b")
    present: dict[str, set[str]] = defaultdict(set)
    for one in asked:
        said = {*named.findall(one["question"].lower().replace("_", " ")), *listed(one["answer"])}
        present[one["image"]] |= said & known
    return {photo: sorted(things) for photo, things in sorted(present.items()) if things}
