"""The training scripts, on a few photos."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

from multicam.tasks.answerer import Head
from multicam.tasks.captioner import Decoder
from multicam.tasks.vocabulary import Vocabulary

pytestmark = pytest.mark.usefixtures("importable")

ROOT = Path(__file__).parents[1]
CAPTIONS = {
    "cat.jpg": ["A cat looks up .", "A striped cat ."],
    "coffee.jpg": ["A cup of coffee .", "A cup on a table ."],
    "rocket.jpg": ["A rocket on a stage .", "A white rocket ."],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = tmp_path / "data" / "flickr8k" / "images"
    images.mkdir(parents=True)
    for name in CAPTIONS:
        with Image.open(str(files("multicam") / "photos" / name)) as photo:
            photo.resize((224, 224)).save(images / name)
    about = {"captions": CAPTIONS, "splits": {"train": list(CAPTIONS), "dev": [], "test": []}}
    (images.parent / "captions.json").write_text(json.dumps(about))
    return tmp_path / "data"


def command(script: str, settings: str, data: Path, out: Path, cache: Path) -> list[str]:
    path = str(ROOT / "examples" / script)
    paths = ["--data", str(data), "--out", str(out), "--cache", str(cache)]
    return [sys.executable, path, *paths, *settings.split()]


def interrupted(started: list[str], checkpoint: Path, epochs: int) -> None:
    """Start a run, kill it at its first checkpoint, and have it go on."""
    running = subprocess.Popen(started, stdout=subprocess.DEVNULL)
    while not checkpoint.exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert torch.load(checkpoint, weights_only=True)["epochs"] < epochs
    again = subprocess.run(started, capture_output=True, text=True)
    assert "Going on after epoch" in again.stdout, again.stderr


def losses(printed: str) -> list[float]:
    return [float(line.split()[-1]) for line in printed.splitlines() if "training loss" in line]


def same(one: Path, other: Path) -> bool:
    weights, expected = load_file(one), load_file(other)
    return all(torch.equal(value, weights[name]) for name, value in expected.items())


def test_a_captioner_is_trained_and_an_interrupted_run_ends_the_same(
    data: Path, tmp_path: Path
) -> None:
    cache, straight, resumed = (tmp_path / name for name in ("cache", "straight", "resumed"))
    settings = "--epochs 8 --batch 3 --least 1 --threads 1 --critical-batch 2"
    given = ("train_captioner.py", settings, data)
    done = subprocess.run(command(*given, straight, cache), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses(done.stdout)[-1] < losses(done.stdout)[0]
    assert "self-critical epoch 1" in done.stdout
    checkpoint, later = sorted(cache.glob("*.checkpoint.pt"), key=lambda path: len(path.name))
    checkpoint.unlink()
    later.unlink()

    interrupted(command(*given, resumed, cache), checkpoint, epochs=8)
    assert same(resumed / "captioner.safetensors", straight / "captioner.safetensors")
    vocabulary = Vocabulary.from_file(straight / "captioner.vocabulary.json")
    assert vocabulary.spell(vocabulary.encode("A striped cat.")) == "a striped cat"
    weights = load_file(straight / "captioner.safetensors")
    Decoder(len(vocabulary), 512, 0.5).load_state_dict(weights)


ASKED = {
    "train": [("cat", "What animal is this?", "cat"), ("coffee", "What is in the cup?", "coffee")],
    "test": [("rocket", "What is this?", "rocket"), ("rocket", "Is it white?", "yes")],
}


def ask_people(data: Path) -> None:
    """Questions of people in the formats of VQA v2 and DAQUAR."""
    photos = data / "flickr8k" / "images"
    numbers = {"cat": 1, "coffee": 2, "rocket": 4}
    for folder in ("coco", "daquar"):
        (data / folder / "images").mkdir(parents=True)
        for name, number in numbers.items():
            target = f"{number:012d}.jpg" if folder == "coco" else f"image{number}.jpg"
            shutil.copy(photos / f"{name}.jpg", data / folder / "images" / target)
    for split, asked in ASKED.items():
        human = [
            {
                "image_id": numbers[photo],
                "question": question,
                "answer": answer,
                "answers": [answer] * 10,
                "answer_type": "other",
            }
            for photo, question, answer in asked
        ]
        indoors = [
            {"image": f"image{numbers[photo]}.jpg", "question": question, "answer": answer}
            for photo, question, answer in asked
        ]
        (data / "coco" / f"vqa_{split}.json").write_text(json.dumps(human))
        (data / "daquar" / f"vqa_{split}.json").write_text(json.dumps(indoors))


def test_an_answerer_is_trained_and_an_interrupted_run_ends_the_same(
    data: Path, tmp_path: Path
) -> None:
    ask_people(data)
    cache, straight, resumed = (tmp_path / name for name in ("cache", "straight", "resumed"))
    settings = "--epochs 6 --batch 2 --answers 8 --threads 1"
    given = ("train_vqa.py", settings, data)
    done = subprocess.run(command(*given, straight, cache), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses(done.stdout)[-1] < losses(done.stdout)[0]
    assert "daquar" in done.stdout
    (checkpoint,) = cache.glob("*.checkpoint.pt")
    checkpoint.unlink()

    interrupted(command(*given, resumed, cache), checkpoint, epochs=6)
    assert same(resumed / "vqa.safetensors", straight / "vqa.safetensors")
    answers = json.loads((straight / "vqa.answers.json").read_text())
    assert {"cat", "coffee"} <= set(answers)
    words = Tokenizer.from_file(str(straight / "vqa.vocabulary.json")).get_vocab_size()
    weights = load_file(straight / "vqa.safetensors")
    Head(words, len(answers), 0.5).load_state_dict(weights)


def test_questions_derived_from_captions_do_not_give_their_answers_away(tmp_path: Path) -> None:
    captions = {
        f"{color}_{animal}{number}.jpg": [f"A {color} {animal} runs .", f"The {color} {animal} ."]
        for color in ("brown", "black", "white")
        for animal in ("dog", "cat", "horse")
        for number in range(6)
    }
    folder = tmp_path / "data" / "flickr8k"
    folder.mkdir(parents=True)
    splits = {"train": list(captions), "dev": [], "test": []}
    about = {"captions": captions, "splits": splits}
    (folder / "captions.json").write_text(json.dumps(about))
    (tmp_path / "data" / "coco").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / "coco" / f"vqa_{split}.json").write_text("[]")
    (tmp_path / "data" / "daquar").mkdir()
    (tmp_path / "data" / "daquar" / "vqa_train.json").write_text(json.dumps(ROOMS))
    script = str(ROOT / "examples" / "derive_questions.py")
    paths = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, script, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    derived = json.loads((tmp_path / "out" / "derived_train.json").read_text())
    colors = Counter(q["answer"] for q in derived if q["kind"] == "color")
    assert set(colors) == {"brown", "black", "white"}
    assert len(set(colors.values())) == 1
    yes_or_no = Counter(
        (q["question"].split()[-1], q["answer"]) for q in derived if q["kind"] == "is animal"
    )
    for animal in ("dog?", "cat?", "horse?"):
        assert yes_or_no[animal, "yes"] == yes_or_no[animal, "no"] > 0
    assert all(q["source"] == "derived" for q in derived)
    assert all(q["answer"] in q["image"] for q in derived if q["kind"] == "color")


ROOMS = [
    {"image": f"image{number}.jpg", "question": question, "answer": answer}
    for number in range(8)
    for question, answer in [
        ("what is on the desk?", "dog_bed, lamp" if number < 4 else "bed"),
        ("how many lamps are on the ovens?" if number == 7 else "how many desks?", "2"),
        ("what color is the lamp?" if number < 4 else "what color is it?", "red"),
    ]
]


def test_questions_derived_from_rooms_ask_for_all_that_is_named_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    rooms = import_module("derived_rooms")
    (tmp_path / "vqa_train.json").write_text(json.dumps(ROOMS))
    derived = rooms.room_questions(tmp_path, seed=0)

    objects = {q["image"]: q["answers"] for q in derived}
    assert objects["image0.jpg"] == ["dog bed", "lamp"]
    assert objects["image5.jpg"] == ["bed"]
    assert objects["image7.jpg"] == ["bed", "lamp"]
    assert {q["kind"] for q in derived} == {"objects"}
