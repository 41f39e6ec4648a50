"""Train the bundled answerer on questions of people and on questions derived from captions.

    python examples/train_vqa.py --data PATH
    python examples/train_vqa.py --data PATH --blind --out FOLDER

PATH holds flickr8k/, coco/ and daquar/. The derived questions (derive_questions.py) and the
feature maps of the frozen encoder, of each photo and of its mirror image, are computed once
and kept in --cache (2.5 GB). --blind trains the same network on feature maps of zeros, to be
measured by benchmarks/vqa.py: what it answers, the question gives away.
Training goes on where it was interrupted. With --dev, an eighth of the photos that people
asked about is held out, and everything is measured on them and on Flickr8k's dev split.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from derive_questions import write_questions
from derived_rooms import listed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from training import Checkpoint, feature_maps

from multicam.tasks import backbone
from multicam.tasks.answerer import LONGEST, PAD, UNKNOWN, Answerer, Head

TOGETHER = 8
"""Questions about a photo in one step, at most."""

SETTINGS = ("epochs", "batch", "rate", "answers", "seed", "blind", "dev")
"""Options that the result depends on."""

REPEATS = {"derived": 1, "vqa": 4, "daquar": 4}
"""How often an epoch asks the questions of each kind."""

Photo = tuple[str, str]
"""Collection and file name."""


@dataclass(frozen=True)
class Question:
    """A question, and how many people or captions gave each answer."""

    source: str
    kind: str
    photo: Photo
    text: str
    answers: Counter[str]


def derived(path: Path) -> list[Question]:
    return [
        Question("derived", q["kind"], (q["set"], q["image"]), q["question"], Counter(q["answers"]))
        for q in json.loads(path.read_text("utf-8"))
    ]


def vqa(path: Path) -> list[Question]:
    return [
        Question(
            "vqa",
            q["answer_type"],
            ("coco", f"{q['image_id']:012d}.jpg"),
            q["question"],
            Counter(q["answers"]),
        )
        for q in json.loads(path.read_text("utf-8"))
    ]


def daquar(path: Path) -> list[Question]:
    return [
        Question("daquar", "", ("daquar", q["image"]), q["question"], Counter(listed(q["answer"])))
        for q in json.loads(path.read_text("utf-8"))
    ]


def questions(data: Path, cache: Path, *, dev: bool) -> tuple[list[Question], list[Question]]:
    """Those to train on, and those to measure with, about other photos."""
    if not (cache / "derived_test.json").exists():
        write_questions(data, cache)
    human = [
        daquar(data / "daquar/vqa_train.json"),
        vqa(data / "coco/vqa_train.json"),
    ]
    if dev:
        test = [q for some in human for q in some if held_out(q.photo)]
        test += derived(cache / "derived_dev.json")
    else:
        test = daquar(data / "daquar/vqa_test.json") + vqa(data / "coco/vqa_test.json")
        test += derived(cache / "derived_test.json")
    unseen = {question.photo for question in test} | pointed_at(data)
    train = [*derived(cache / "derived_train.json"), *human[0], *human[1]]
    return [question for question in train if question.photo not in unseen], test


def pointed_at(data: Path) -> set[Photo]:
    """The photos with boxes, on which benchmarks/grounding.py measures where answers point."""
    boxes = data / "coco128" / "boxes.json"
    if not boxes.exists():
        return set()
    return {("coco", name) for name in json.loads(boxes.read_text("utf-8"))}


def held_out(photo: Photo) -> bool:
    return int(re.sub(r"\D", "", photo[1])) % 8 == 3


def build_vocabulary(texts: Sequence[str], least: int = 2) -> Tokenizer:
    """Lower-case words of questions, without punctuation."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace("'s", " 's"),
            normalizers.Replace(Regex(r"[^a-z0-9' ]"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(min_frequency=least, special_tokens=[PAD, UNKNOWN])
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Token rows (question, LONGEST), padded on the right."""
    rows = torch.zeros(len(texts), LONGEST, dtype=torch.long)
    for row, encoding in zip(rows, tokenizer.encode_batch(list(texts)), strict=True):
        tokens = encoding.ids[:LONGEST]
        row[: len(tokens)] = torch.tensor(tokens)
    return rows


def turned(question: str) -> str:
    """The question to ask of a mirrored photo: left for right."""
    sides = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda found: sides[found[0].lower()], question, flags=re.I)


def choose_answers(train: Sequence[Question], count: int) -> list[str]:
    """The answers with the most votes, as often as they are trained."""
    votes: Counter[str] = Counter()
    for question in train:
        for answer, some in question.answers.items():
            votes[answer] += REPEATS[question.source] * some / question.answers.total()
    return [answer for answer, _ in votes.most_common(count)]


def targets(asked: Sequence[Question], answers: Sequence[str]) -> Tensor:
    """How the answers share the votes, (question, answer); zero where none is in the list."""
    index = {answer: i for i, answer in enumerate(answers)}
    rows = torch.zeros(len(asked), len(answers), dtype=torch.float16)
    for row, question in zip(rows, asked, strict=True):
        known = {index[a]: n for a, n in question.answers.items() if a in index}
        for place, count in known.items():
            row[place] = count / sum(known.values())
    return rows


class Maps:
    """Feature maps of the photos of all collections."""

    def __init__(self, data: Path, cache: Path, splits: dict[str, dict[str, list[str]]]) -> None:
        self.arrays: list[list[np.ndarray]] = []
        self.place: dict[Photo, tuple[int, int]] = {}
        for collection, names_of in splits.items():
            for split, names in names_of.items():
                photos = [data / collection / "images" / name for name in names]
                views = ["plain", "mirrored"] if split == "train" else ["plain"]
                self.place |= {(collection, n): (len(self.arrays), i) for i, n in enumerate(names)}
                self.arrays.append(
                    [
                        feature_maps(
                            photos,
                            cache / f"{collection}-{split}-{view}.npy",
                            mirrored=view == "mirrored",
                        )
                        for view in views
                    ]
                )

    def __call__(self, photos: Sequence[Photo], mirrored: Sequence[bool]) -> Tensor:
        """Maps (photo, 1280, 7, 7) of photos, or of their mirror images."""
        found = np.empty((len(photos), 1280, 7, 7), np.float32)
        for i, (photo, flip) in enumerate(zip(photos, mirrored, strict=True)):
            array, row = self.place[photo]
            found[i] = self.arrays[array][int(flip)][row]
        return torch.from_numpy(found)


class Nothing:
    """What a model that may not look sees."""

    def __call__(self, photos: Sequence[Photo], mirrored: Sequence[bool]) -> Tensor:
        return torch.zeros(len(photos), 1280, 1, 1)


Look = Callable[[Sequence[Photo], Sequence[bool]], Tensor]


def splits(data: Path) -> dict[str, dict[str, list[str]]]:
    """The photos of each collection, in the order of their feature maps."""
    flickr = json.loads((data / "flickr8k/captions.json").read_text("utf-8"))["splits"]
    found: dict[str, dict[str, list[str]]] = {"flickr8k": flickr}
    for collection, load in (("coco", vqa), ("daquar", daquar)):
        found[collection] = {}
        for split in ("test", "train"):
            asked = load(data / collection / f"vqa_{split}.json")
            found[collection][split] = sorted({question.photo[1] for question in asked})
    return found


def units(
    train: Sequence[Question], taught: Tensor, generator: torch.Generator
) -> list[tuple[Photo, list[int]]]:
    """An epoch: photos and the questions that are asked about them together, in random order."""
    by_photo: dict[tuple[int, Photo], list[int]] = defaultdict(list)
    for row, question in enumerate(train):
        if taught[row]:
            for turn in range(REPEATS[question.source]):
                by_photo[turn, question.photo].append(row)
    found = []
    for (_, photo), rows in by_photo.items():
        mixed = [rows[int(i)] for i in torch.randperm(len(rows), generator=generator)]
        found += [(photo, mixed[i : i + TOGETHER]) for i in range(0, len(mixed), TOGETHER)]
    return [found[int(i)] for i in torch.randperm(len(found), generator=generator)]


def read(head: Head, tokens: Tensor, together: int = 64) -> Tensor:
    """`Head.read` for questions of similar length together, without most of the padding."""
    lengths = (tokens != 0).sum(dim=1)
    order = lengths.argsort()
    chunks = [head.read(tokens[some, : int(lengths[some].max())]) for some in order.split(together)]
    return torch.cat(chunks, dim=1)[:, order.argsort()]


def loss_of(head: Head, maps: Tensor, photo: Tensor, tokens: Tensor, wanted: Tensor) -> Tensor:
    """The cross-entropies of the members, each by itself, so that they stay different."""
    votes = head.votes(head.look(maps)[photo], read(head, tokens))
    return -(wanted * votes.log_softmax(dim=2)).sum(dim=2).mean(dim=1).sum()


def train(options: argparse.Namespace) -> None:
    asked, test = questions(options.data, options.cache, dev=options.dev)
    tokenizer = build_vocabulary([question.text for question in asked])
    answers = choose_answers(asked, options.answers)
    texts = [question.text for question in asked]
    tokens = encode(tokenizer, [*texts, *map(turned, texts)]).reshape(2, len(texts), LONGEST)
    wanted = targets(asked, answers)
    look: Look = (
        Nothing() if options.blind else Maps(options.data, options.cache, splits(options.data))
    )
    torch.manual_seed(options.seed)
    head = Answerer(backbone.pretrained(), tokenizer.get_vocab_size(), len(answers)).head
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), betas=(0.9, 0.99), weight_decay=options.decay)
    taught = wanted.sum(dim=1) > 0
    steps = -(-len(units(asked, taught, torch.Generator())) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.rate, total_steps=steps * options.epochs, pct_start=0.15
    )
    checkpoint = Checkpoint(options, "vqa", SETTINGS)
    for epoch in range(checkpoint.resume(head, optimizer, schedule), options.epochs):
        torch.manual_seed(options.seed + 1 + epoch)
        generator = torch.Generator().manual_seed(options.seed + 1 + epoch)
        order = units(asked, taught, generator)
        total = 0.0
        about = f"epoch {epoch + 1} of {options.epochs}"
        for first in track(range(0, len(order), options.batch), about):
            batch = order[first : first + options.batch]
            flips = (torch.rand(len(batch), generator=generator) < 0.5).tolist()
            photo = torch.tensor([i for i, (_, rows) in enumerate(batch) for _ in rows])
            rows = torch.tensor([row for _, some in batch for row in some])
            maps = look([photo for photo, _ in batch], flips)
            words = tokens[torch.tensor(flips).long()[photo], rows]
            loss = loss_of(head, maps, photo, words, wanted[rows].float())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: training loss {total / steps:.4f}", flush=True)
        checkpoint.save(epoch + 1, head, optimizer, schedule)
    scores = measure(head, look, tokenizer, answers, test)
    report(scores, options)
    name = "vqa_blind" if options.blind else "vqa"
    save(options.out, name, head, tokenizer, answers)


@torch.inference_mode()
def measure(
    head: Head, look: Look, tokenizer: Tokenizer, answers: Sequence[str], test: Sequence[Question]
) -> dict[str, tuple[float, int]]:
    """Accuracy and number of questions, by source and by kind."""
    head.eval()
    tokens = encode(tokenizer, [question.text for question in test])
    found: dict[str, list[float]] = defaultdict(list)
    for first in range(0, len(test), 200):
        some = test[first : first + 200]
        maps = look([question.photo for question in some], [False] * len(some))
        logits = head.fuse(head.look(maps), read(head, tokens[first : first + 200]))
        for question, best in zip(some, logits.argmax(dim=1).tolist(), strict=True):
            right = accuracy(question, answers[best])
            found[question.source].append(right)
            if question.kind:
                found[f"{question.source}, {question.kind}"].append(right)
    return {name: (100 * sum(some) / len(some), len(some)) for name, some in sorted(found.items())}


def accuracy(question: Question, answer: str) -> float:
    """VQA v2: a third of the people who agree, at most 1; otherwise, whether it is the answer."""
    if question.source == "vqa":
        return min(1.0, question.answers[answer] / 3)
    if question.source == "daquar":
        return float(list(question.answers) == [answer])
    return float(question.answers.most_common(1)[0][0] == answer)


def report(scores: dict[str, tuple[float, int]], options: argparse.Namespace) -> None:
    """Keep the scores, and print them beside those of the other model, if it is trained."""
    kept = options.cache / f"vqa-scores{'-dev' if options.dev else ''}.json"
    both = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    both["without image" if options.blind else "with image"] = scores
    kept.write_text(json.dumps(both, indent=1), "utf-8")
    table = Table("questions", "number", *sorted(both), title="accuracy, %")
    for name, (_, count) in scores.items():
        row = [f"{both[model][name][0]:.1f}" for model in sorted(both)]
        table.add_row(name, str(count), *row)
    Console(width=100).print(table)


def save(folder: Path, name: str, head: Head, tokenizer: Tokenizer, answers: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in head.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors")
    tokenizer.save(str(folder / "vqa.vocabulary.json"))
    (folder / "vqa.answers.json").write_text(json.dumps(list(answers), indent=0), "utf-8")
    print(f"Weights, vocabulary and answers are in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="flickr8k/, coco/ and daquar/")
    parser.add_argument("--out", type=Path, default=Path("tasks/weights"))
    parser.add_argument("--cache", type=Path, default=Path("vqa-cache"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="photos in a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--decay", type=float, default=0.01, help="weight decay")
    parser.add_argument("--answers", type=int, default=600, help="length of the list of answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blind", action="store_true", help="train without the image")
    parser.add_argument("--dev", action="store_true", help="measure on held-out photos")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
