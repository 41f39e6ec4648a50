"""How often the bundled answerer is right: its answers beside those of people.

    pip install -e '.[bench]'
    python benchmarks/vqa.py --data PATH                        # the three test sets
    python benchmarks/vqa.py --data PATH --blind FOLDER         # and the model without the image
    python benchmarks/vqa.py --data PATH --blind FOLDER --markdown    # the same, for the docs

PATH holds coco/, daquar/ and flickr8k/: photos, with vqa_train.json and vqa_test.json of VQA v2
and of DAQUAR, and the captions that examples/derive_questions.py derives questions from. FOLDER
is what examples/train_vqa.py --blind wrote: vqa_blind.safetensors, vocabulary and answers.

VQA v2 is scored by min(1, n / 3) where n of ten people gave the answer (Antol et al., arXiv
1505.00468, section 3), the others by whether all of the answer is the same; DAQUAR's
underscores are read as spaces. "Most frequent answer" is that of the training questions of the
same type: the question_type of VQA v2, the first three words in DAQUAR, the kind of a
derived question. Accuracy is in %, in parentheses its 95 % interval from draws of photos.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch
from intervals import with_interval
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from tables import show
from tokenizers import Tokenizer
from torch import Tensor

from multicam.tasks import backbone, vqa
from multicam.tasks.answerer import LAYER, LONGEST, Answerer
from multicam.tasks.base import prepare_batch
from multicam.tasks.questions import Reader
from multicam.tasks.vqa import VisualQuestionAnswering

EXAMPLES = Path(__file__).parents[1] / "examples"

SEEING, BLIND, FREQUENT = "with the image", "without the image", "most frequent answer"
COLUMNS = ["answer", "questions", SEEING, BLIND, "gained by the image", FREQUENT]


# Questions


@dataclass(frozen=True)
class Question:
    """A question with its answer, or with all answers that people gave.

    Attributes:
        photo: where it is.
        text: the question.
        answer: the right one.
        kind: of the answer, for a row of the table.
        asks: the type of question that the most frequent answer is counted for.
        people: what each person answered, where that is known.
    """

    photo: Path
    text: str
    answer: str
    kind: str
    asks: str
    people: tuple[str, ...] = ()

    def right(self, answer: str) -> float:
        """From 0 to 1."""
        if self.people:
            return min(1.0, self.people.count(answer) / 3)
        return float(answer == self.answer)


def vqa_v2(data: Path, split: str) -> list[Question]:
    return [
        Question(
            data / "coco" / "images" / f"{one['image_id']:012d}.jpg",
            one["question"],
            one["answer"],
            one["answer_type"],
            one["question_type"],
            tuple(one["answers"]),
        )
        for one in json.loads((data / "coco" / f"vqa_{split}.json").read_text("utf-8"))
    ]


def daquar(data: Path, split: str) -> list[Question]:
    found = []
    for one in json.loads((data / "daquar" / f"vqa_{split}.json").read_text("utf-8")):
        answer, asks = one["answer"].replace("_", " "), " ".join(one["question"].split()[:3])
        photo = data / "daquar" / "images" / one["image"]
        found.append(Question(photo, one["question"], answer, kind_of(answer), asks))
    return found


def kind_of(answer: str) -> str:
    """Of one of DAQUAR's answers, which commas join where there are several."""
    words = [part.split()[-1] for part in answer.split(", ")]
    if all(word.isdigit() for word in words):
        return "number"
    return "colour" if set(words) <= set(example("derived_words").COLORS) else "object"


def derived(data: Path, split: str) -> list[Question]:
    return [
        Question(
            data / one["set"] / "images" / one["image"],
            one["question"],
            one["answer"],
            one["kind"],
            one["kind"],
        )
        for one in all_derived(data)[split]
    ]


@cache
def all_derived(data: Path) -> dict[str, list[dict[str, str]]]:
    """What examples/derive_questions.py derives, by split."""
    with TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        example("derive_questions").write_questions(data, Path(folder))
        return {
            split: json.loads((Path(folder) / f"derived_{split}.json").read_text("utf-8"))
            for split in ("train", "test")
        }


def example(name: str) -> ModuleType:
    """A script in examples/."""
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    return import_module(name)


SETS: dict[str, Callable[[Path, str], list[Question]]] = {
    "VQA v2, test": vqa_v2,
    "DAQUAR, test": daquar,
    "Questions derived from the captions of Flickr8k's test split": derived,
}


# Answers


def trained(folder: Path, weights: str = "vqa.safetensors") -> VisualQuestionAnswering:
    """The answerer that a run of examples/train_vqa.py wrote."""
    tokenizer = Tokenizer.from_file(str(folder / "vqa.vocabulary.json"))
    answers = json.loads((folder / "vqa.answers.json").read_text("utf-8"))
    model = Answerer(backbone.pretrained(), tokenizer.get_vocab_size(), len(answers)).eval()
    values = load_file(folder / weights)
    model.head.load_state_dict({name: value.float() for name, value in values.items()})
    reader = Reader(tokenizer, unknown=1, longest=LONGEST)
    return VisualQuestionAnswering(model, backbone.squeeze, reader, answers, layer=LAYER)


def answerers(weights: Path | None, blind: Path | None) -> dict[str, VisualQuestionAnswering]:
    """The model that is measured, and the one without the image where there is one."""
    found = {SEEING: vqa.load() if weights is None else trained(weights)}
    if blind is not None and (blind / "vqa_blind.safetensors").exists():
        found[BLIND] = trained(blind, "vqa_blind.safetensors")
    return found


@torch.inference_mode()
def answer(
    tasks: Mapping[str, VisualQuestionAnswering], asked: Sequence[Question], batch: int, about: str
) -> dict[str, list[str]]:
    """What each model answers; a photo's feature map is computed once for all its questions."""
    by_photo: dict[Path, list[int]] = defaultdict(list)
    for index, question in enumerate(asked):
        by_photo[question.photo].append(index)
    photos = list(by_photo)
    said: dict[str, dict[int, str]] = {name: {} for name in tasks}
    for first in track(range(0, len(photos), batch), about, console=Console(stderr=True)):
        some = photos[first : first + batch]
        images, _ = prepare_batch(some, tasks[SEEING].transform, tasks[SEEING].model)
        maps = backbone.features(tasks[SEEING].model.encoder, images)
        rows = [(place, index) for place, photo in enumerate(some) for index in by_photo[photo]]
        texts = [asked[index].text for _, index in rows]
        for name, task in tasks.items():
            seen = maps if name == SEEING else torch.zeros_like(maps[:, :, :1, :1])
            values = task.model.head.look(seen)[[place for place, _ in rows]]
            logits = task.model.answer(values, tokens_of(task, texts))
            best = (task.answers[index] for index in logits.argmax(dim=1).tolist())
            said[name].update(zip((index for _, index in rows), best, strict=True))
    return {name: [answers[i] for i in range(len(asked))] for name, answers in said.items()}


def tokens_of(task: VisualQuestionAnswering, texts: Sequence[str]) -> Tensor:
    """Questions that are too long are cut off, as in training."""
    reader = Reader(task.reader.tokenizer)
    return reader.padded([reader.read(text) for text in texts])[:, :LONGEST]


def most_frequent(train: Sequence[Question], asked: Sequence[Question]) -> list[str]:
    """Of the training questions of the same type; of all, where there are none."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        counts[question.asks][question.answer] += 1
        counts[""][question.answer] += 1
    return [counts.get(q.asks, counts[""]).most_common(1)[0][0] for q in asked]


# The tables


def rows(asked: Sequence[Question], said: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Of all questions, and of those with each kind of answer."""
    right = {
        name: 100 * np.array([q.right(a) for q, a in zip(asked, answers, strict=True)])
        for name, answers in said.items()
    }
    photos = np.array([question.photo.name for question in asked])
    kinds = np.array([question.kind for question in asked])
    table = [["all", *cells(right, photos)]]
    for kind, _ in Counter(kinds.tolist()).most_common():
        chosen = kinds == kind
        some = {name: values[chosen] for name, values in right.items()}
        table.append([kind, *cells(some, photos[chosen])])
    return table


def cells(right: Mapping[str, np.ndarray], photos: np.ndarray) -> list[str]:
    """Those of COLUMNS[1:], less those of a model that is not there."""
    values = [right[SEEING]]
    if BLIND in right:
        values += [right[BLIND], right[SEEING] - right[BLIND]]
    values.append(right[FREQUENT])
    return [str(len(photos)), *(with_interval(one, photos.tolist(), digits=1) for one in values)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="coco/, daquar/ and flickr8k/")
    parser.add_argument("--weights", type=Path, help="folder that a training wrote; else bundled")
    parser.add_argument("--blind", type=Path, help="folder that a training with --blind wrote")
    parser.add_argument("--batch", type=int, default=32, help="photos at a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    tasks = answerers(options.weights, options.blind)
    columns = COLUMNS if BLIND in tasks else [*COLUMNS[:3], COLUMNS[-1]]
    for name, read in SETS.items():
        asked = read(options.data, "test")
        said = answer(tasks, asked, options.batch, name)
        said[FREQUENT] = most_frequent(read(options.data, "train"), asked)
        photos = len({question.photo for question in asked})
        title = f"{name}: {len(asked)} questions about {photos} photos"
        show(title, columns, rows(asked, said), markdown=options.markdown)
    if BLIND not in tasks:
        print("The model without the image is not shown: --blind names no vqa_blind.safetensors")


if __name__ == "__main__":
    main()
