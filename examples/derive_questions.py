"""Derive questions from captions, and from what people's questions take for granted.

    python examples/derive_questions.py --data PATH --out FOLDER

writes derived_train.json, derived_dev.json and derived_test.json, in the manner of COCO-QA
(Ren, Kiros and Zemel, "Exploring Models and Data for Image Question Answering", arXiv
1505.02074, section 3.3), with word lists in place of a parser. Every caption of a photo votes:
those of Flickr8k, or what the questions of VQA v2 and DAQUAR (derived_rooms.py) say is there.
Nobody has checked the questions, and each says that it is derived:

    {"set": "flickr8k", "image": "123.jpg", "kind": "color", "question": "what color is the
     dog?", "answer": "brown", "answers": ["brown", "brown", "tan"], "source": "derived"}

The question alone shall not give the answer. Of the answers to one question, none is kept
more often than the third most frequent one is; yes and no are equally frequent for each
thing that is asked for, and half of the photos without it show something of the same sort.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from derived_rooms import room_questions
from derived_words import (
    ACTIVITIES,
    ANIMALS,
    CLOTHES,
    COLORS,
    INDOORS,
    NUMBERS,
    OUTDOORS,
    PEOPLE,
    PLACES,
    PLURALS,
    SPORTS,
    THINGS,
    VEHICLES,
    either,
    is_plural,
    kin,
    plural,
    with_article,
)

QUESTIONS = {
    "animal": (
        "what animal is this?",
        "what kind of animal is this?",
        "what animal is in the photo?",
        "what type of animal is shown?",
    ),
    "who": ("who is in the photo?", "who is this?", "who is in the picture?"),
    "color": ("what color is the {}?", "what is the color of the {}?", "what colour is the {}?"),
    "number": ("how many {} are there?", "how many {} are in the photo?", "how many {}?"),
    "doing": ("what is the {} doing?",),
    "where": ("where is the {}?",),
    "scene": ("where is this?", "where was this photo taken?", "what place is this?"),
    "holding": ("what is the {} holding?", "what is the {} carrying?"),
    "mouth": ("what is in the dog's mouth?", "what does the dog have in its mouth?"),
    "wearing": ("what is the {} wearing?",),
    "riding": ("what is the {} riding?",),
    "sport": ("what sport is this?", "what sport is being played?", "which sport is shown?"),
    "is there": ("is there {} in the photo?", "is there {}?", "is there {} in the picture?"),
    "is outdoors": ("is this outdoors?", "is this outside?", "was this taken outdoors?"),
    "is animal": ("is this {}?", "is that {}?"),
    "is sport": ("is this {}?", "are they playing {}?"),
}
"""How each kind of question is put; for the yes and no of a kind, "is" goes before it."""

SORTS = {"animal": ANIMALS, "person": PEOPLE, "ride": VEHICLES, "thing": THINGS}
BEINGS = PEOPLE | ANIMALS
SINGLE = {form: name for form, name in BEINGS.items() if form not in PLURALS}
SHOWN = BEINGS | CLOTHES | VEHICLES | THINGS
SEEMING = re.compile(
    r"hot dogs?|teddy bears?|"
    r"(?:stuffed|toy|rubber|plastic) (?:animals?|dogs?|horses?|ducks?|bears?)"
)
NO_SPORT = re.compile(
    r"tennis balls?|swimming (?:pool|cap|suit|trunks)|football jersey|climbing wall"
)
SEVERAL = re.compile(rf"\b(?:{either(PLURALS)}|two|three|four|another|other|group|couple)\b")
BEFORE_A_NOUN = re.compile(rf" (?:{either(SHOWN.keys() - {'swing', 'slide', 'drink'})}|player)\b")

SOME = r"(?:(?!(?:and|with|of|in|on|at|\w+ing) )[\w'-]+ )"
ONE, FREE = rf"({either(SINGLE)})", r"\b[\w' -]{0,40}?"
CLOTHED = r"(?: (?:in|wearing|with)(?: [\w'-]+){1,4}?)?"
IS = r"(?: that| who)?(?: is)?(?: [a-z]+ly)?"
PATTERNS: dict[str, tuple[str, Mapping[str, str], Mapping[str, str]]] = {
    "doing": (rf"{ONE}{CLOTHED}{IS} ({either(ACTIVITIES)})", SINGLE, ACTIVITIES),
    "holding": (
        rf"{ONE}{FREE} (?:holding|holds|carrying|carries) {SOME}{{0,4}}?({either(THINGS)})",
        SINGLE,
        THINGS,
    ),
    "riding": (
        rf"{ONE}{FREE} (?:riding|rides) (?:on )?{SOME}{{0,3}}?({either(VEHICLES | ANIMALS)})",
        SINGLE,
        VEHICLES | ANIMALS,
    ),
    "wearing": (
        rf"{ONE} (?:is )?(?:wearing|wears|in|with) {SOME}{{0,3}}?({either(CLOTHES)})",
        SINGLE,
        CLOTHES,
    ),
    "where": (
        rf"{ONE}{FREE} (?:in|on|at|through|across|into|over) {SOME}{{0,3}}?({either(PLACES)})",
        SINGLE,
        PLACES,
    ),
    "scene": (
        rf"(in|on|at|through|across|along|into) {SOME}{{0,3}}?({either(PLACES)})",
        defaultdict(str),
        {form: name for form, name in PLACES.items() if name in OUTDOORS},
    ),
    "color": (rf"({either(COLORS)}) {SOME}?({either(SHOWN)})", COLORS, SHOWN),
    "number": (rf"({either(NUMBERS)}) {SOME}{{0,2}}?({either(PLURALS)})", NUMBERS, PLURALS),
}
"""Expressions that find a subject and an answer, and the names of both by their forms."""

ANSWER_FIRST = {"color", "number"}
"""Kinds whose answer stands before their subject."""


@dataclass(frozen=True)
class Photo:
    """A photo, and what was written about it: lower case, no punctuation."""

    collection: str
    name: str
    texts: tuple[str, ...]

    def naming(self, names: Mapping[str, str]) -> Counter[str]:
        """How many texts name each thing."""
        return Counter(name for text in self.texts for name in sorted(set(heads(text, names))))


@dataclass(frozen=True)
class Fact:
    """What the texts of a photo agree on; the answers of all, the most frequent one first."""

    photo: Photo
    kind: str
    subject: str
    answers: tuple[str, ...]


@cache
def expression(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})(?![\w'-])")


def heads(text: str, names: Mapping[str, str]) -> Iterator[str]:
    """The things that a text names, without the tennis of a tennis ball."""
    for match in expression(either(names)).finditer(text):
        if not BEFORE_A_NOUN.match(text, match.end()):
            yield names[match[0]]


def said(text: str) -> set[tuple[str, str, str]]:
    """Kind, subject and answer of all that a text says."""
    found = set()
    for kind, (pattern, *names) in PATTERNS.items():
        for match in expression(pattern).finditer(text):
            if not BEFORE_A_NOUN.match(text, match.end()) and match[2] in names[1]:
                pair = names[0][match[1]], names[1][match[2]]
                found.add((kind, *(pair[::-1] if kind in ANSWER_FIRST else pair)))
    sports = expression(either(SPORTS)).findall(NO_SPORT.sub("", text))
    found |= {("sport", "", SPORTS[form]) for form in sports}
    if "mouth" in text:
        found |= {("mouth", "dog", thing) for thing in heads(text, THINGS)}
    return found


def alone(photo: Photo) -> Iterator[tuple[tuple[str, str], Counter[str]]]:
    """Who it is, where all texts together say that there is one."""
    animals, people = photo.naming(ANIMALS), photo.naming(PEOPLE)
    if len(animals) == 1 and animals.total() >= min(2, len(photo.texts)):
        yield ("animal", ""), animals
    if SEVERAL.search(" ".join(photo.texts)):
        return
    for name, count in animals.items():
        yield ("number", name), Counter({"1": count})
    del people["person"]
    if people and all(other in kin(people.most_common(1)[0][0]) for other in people):
        yield ("who", ""), people
        yield ("number", "person"), Counter({"1": people.total()})


def facts(photo: Photo) -> Iterator[Fact]:
    """What more texts say than say anything else."""
    votes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for text in photo.texts:
        for kind, subject, answer in sorted(said(text)):
            votes[kind, subject][answer] += 1
    votes |= alone(photo)
    for (kind, subject), counts in votes.items():
        ranked = counts.most_common()
        if len(ranked) == 1 or ranked[0][1] > ranked[1][1]:
            yield Fact(photo, kind, subject, tuple(a for a, n in ranked for _ in range(n)))


def evened(found: Sequence[Fact], least: int, copies: int, chance: random.Random) -> list[Fact]:
    """No answer to a question more often than the third; rare ones up to `copies` times."""
    kept = []
    for answers in by_answer(found).values():
        groups = [group for group in answers.values() if len(group) >= least]
        if len(groups) < 3:
            continue
        most = sorted(map(len, groups))[-3]
        for group in groups:
            chance.shuffle(group)
            kept += (group * copies)[:most]
    return kept


def by_answer(found: Sequence[Fact]) -> dict[tuple[str, str], dict[str, list[Fact]]]:
    """Facts by kind and subject, then by answer."""
    questions: dict[tuple[str, str], dict[str, list[Fact]]] = defaultdict(dict)
    for fact in found:
        questions[fact.kind, fact.subject].setdefault(fact.answers[0], []).append(fact)
    return questions


Claim = tuple[str, str, list[Photo], list[Photo], list[Photo]]
"""Kind, what is asked for, photos where it is so, photos of something close, and others."""


def presence(photos: Sequence[Photo]) -> Iterator[Claim]:
    """Whether something is in the photo: "is there a dog?"."""
    words = [set(" ".join(photo.texts).split()) for photo in photos]
    for sort, names in SORTS.items():
        if photos[0].collection == "coco" and sort not in ("animal", "ride"):
            continue  # what a question about a photo does not name may be there
        counts = [photo.naming(names) for photo in photos]
        for name in dict.fromkeys(names.values()):
            forms = {form for form, thing in names.items() if thing in kin(name)}
            least = 2 if sort in ("person", "thing") else 1
            so = [p for p, c in zip(photos, counts, strict=True) if c[name] >= least]
            less = [
                (photo, bool(count))
                for photo, count, said_words in zip(photos, counts, words, strict=True)
                if not forms & said_words
            ]
            close, far = ([p for p, c in less if c == wanted] for wanted in (True, False))
            yield "is there", with_article(name), so, close, far


def opposed(found: Sequence[Fact]) -> Iterator[Claim]:
    """Whether an answer to an open question is the right one: "is this a cat?"."""
    for (kind, _), answers in by_answer(found).items():
        if f"is {kind}" not in QUESTIONS:
            continue
        for answer, group in answers.items():
            others = [
                f.photo
                for some in answers.values()
                for f in some
                if not kin(answer) & set(f.answers)
            ]
            asked = with_article(answer) if kind == "animal" else answer
            yield f"is {kind}", asked, [fact.photo for fact in group], others, []


def outdoors(photos: Sequence[Photo]) -> Iterator[Claim]:
    inside, outside = (
        [photo.naming(names).total() for photo in photos] for names in (INDOORS, OUTDOORS)
    )
    out = [p for p, i, o in zip(photos, inside, outside, strict=True) if o > 1 and not i]
    indoors = [p for p, i, o in zip(photos, inside, outside, strict=True) if i > 1 and not o]
    yield "is outdoors", "", out, indoors, []


def balanced(claim: Claim, most: int, chance: random.Random) -> Iterator[Fact]:
    """As many photos where it is so as where it is not, half of these close."""
    kind, asked, so, close, far = claim
    count = min(len(so), len(close) + len(far), most)
    near = min(len(close), max(count - count // 2 if far else count, count - len(far)))
    against = chance.sample(close, near) + chance.sample(far, min(count - near, len(far)))
    for answer, photos in (("yes", chance.sample(so, len(against))), ("no", against)):
        for photo in photos:
            yield Fact(photo, kind, asked, (answer,))


def derive(photos: Sequence[Photo], least: int, copies: int, most: int, seed: int) -> list[dict]:
    """All questions about photos of one collection, in random order."""
    if not photos:
        return []
    chance = random.Random(seed)
    found = [fact for photo in photos for fact in facts(photo)]
    chosen = evened(found, least, copies, chance)
    for claim in (*presence(photos), *opposed(found), *outdoors(photos)):
        chosen += balanced(claim, most, chance)
    chance.shuffle(chosen)
    return [entry(fact, chance) for fact in chosen]


def entry(fact: Fact, chance: random.Random) -> dict[str, object]:
    subject = plural(fact.subject) if fact.kind == "number" else fact.subject
    question = chance.choice(QUESTIONS[fact.kind]).format(subject)
    if fact.kind == "color" and is_plural(fact.subject):
        question = question.replace("is the", "are the", 1)
    return {
        "set": fact.photo.collection,
        "image": fact.photo.name,
        "kind": fact.kind,
        "question": question,
        "answer": fact.answers[0],
        "answers": list(fact.answers),
        "source": "derived",
    }


def plain(text: str) -> str:
    """Lower case, without punctuation and what its words only seem to name."""
    letters = re.sub(r"[^a-z' -]", " ", text.lower()).replace("'s", " ")
    return SEEMING.sub(" ", re.sub(r" +", " ", letters)).strip()


def captioned(folder: Path, split: str) -> list[Photo]:
    """The photos of a split of Flickr8k."""
    about = json.loads((folder / "captions.json").read_text("utf-8"))
    captions = about["captions"]
    return [Photo("flickr8k", n, tuple(map(plain, captions[n]))) for n in about["splits"][split]]


TAKEN_FOR_GRANTED = re.compile(r"(?:is|are|does|do|has|can) (?:the|this|these) (?:\w+ )?\w+")
NO_ANIMALS = re.compile(r"hot dogs?|teddy bears?|stuffed \w+|toy \w+")


def questioned(folder: Path) -> list[Photo]:
    """Photos of VQA v2's training questions, less those of its test, and what these assume."""
    train, test = (
        json.loads((folder / f"vqa_{s}.json").read_text("utf-8")) for s in ("train", "test")
    )
    held_out = {question["image_id"] for question in test}
    texts: dict[int, list[str]] = defaultdict(list)
    for question in train:
        if question["image_id"] not in held_out:
            texts[question["image_id"]].append(assumed(question))
    return [
        Photo("coco", f"{image:012d}.jpg", tuple(some)) for image, some in sorted(texts.items())
    ]


def assumed(question: dict[str, str]) -> str:
    """The words of a human question and its answer that are true of the photo."""
    text = plain(question["question"])
    if question["answer_type"] == "yes/no":
        match = TAKEN_FOR_GRANTED.match(text)
        return match[0] if match else ""
    if question["answer"] in ("0", "none"):
        return ""
    return f"{text} {plain(question['answer'])}"


def write_questions(data: Path, out: Path, seed: int = 0) -> None:
    """Derive the questions of all splits, and write a file for each."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        rules = (5, 3, 100) if split == "train" else (2, 1, 8)
        questions = derive(captioned(data / "flickr8k", split), *rules, seed)
        if split == "train":
            questions += derive(questioned(data / "coco"), 2, 3, 40, seed)
            questions += room_questions(data / "daquar", seed)
        path = out / f"derived_{split}.json"
        path.write_text(json.dumps(questions, indent=0), "utf-8")
        print(f"{len(questions)} questions are in {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="holds flickr8k/, coco/ and daquar/"
    )
    parser.add_argument("--out", type=Path, default=Path("vqa-cache"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_questions(options.data, options.out, options.seed)


if __name__ == "__main__":
    main()
